"""What is refused before any compiler sees it (SPEC.md §13.2)."""

from __future__ import annotations

import pytest

from executor.core.frames import Frames, frame
from executor.core.module import (
    BODY_BYTES_MAX,
    EXPORTS_MAX,
    EXPORTS_READ_MAX,
    FUNCTIONS_MAX,
    MODULE_BYTES_MAX,
    check_module,
    exported_functions,
)
from executor.core.runtime import cache_key
from executor.core.wire import WireError

HEADER = b"\0asm\1\0\0\0"


def leb(value: int) -> bytes:
    out = bytearray()
    while True:
        value, low = value >> 7, value & 0x7F
        out.append(low | (0x80 if value else 0))
        if not value:
            return bytes(out)


def section(kind: int, body: bytes) -> bytes:
    return bytes((kind,)) + leb(len(body)) + body


def code(*sizes: int) -> bytes:
    return section(10, leb(len(sizes)) + b"".join(leb(size) + bytes(size) for size in sizes))


def exports(*items: tuple[bytes, int]) -> bytes:
    return section(7, leb(len(items)) + b"".join(leb(len(n)) + n + bytes((kind, 0)) for n, kind in items))


def test_modules_within_the_limits_pass() -> None:
    check_module(HEADER + b"\0\0" * 256)
    check_module(HEADER)
    check_module(HEADER + section(1, b"\0") + code(3, BODY_BYTES_MAX, 0))
    check_module(HEADER + section(0, bytes(MODULE_BYTES_MAX - 100)))


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (b"", "not a WebAssembly"),
        (b"\0asm\x0d\0\1\0", "not a WebAssembly"),
        (HEADER + bytes(MODULE_BYTES_MAX), "are compiled"),
        (HEADER + code(BODY_BYTES_MAX + 1), "a function of"),
        (HEADER + section(10, leb(FUNCTIONS_MAX + 1)), "functions"),
        (HEADER + section(10, leb(1) + leb(50)), "cut off"),
        (HEADER + b"\x01\x05\0", "cut off"),
        (HEADER + b"\x01\xff\xff\xff\xff\xff", "cut off or too large"),
        (HEADER + b"\x01\xff\xff\xff\xff\x7f", "cut off or too large"),
        (HEADER + b"\x01", "cut off or too large"),
        (HEADER + b"\0\0" * 257, "sections"),
    ],
)
def test_modules_over_a_limit_are_refused(module: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        check_module(module)


def test_exported_functions_are_read_from_the_bytes() -> None:
    assert exported_functions(HEADER) == ()
    listed = exports((b"memory", 2), (b"_start", 0), ("größe".encode(), 0), (b"", 0), (b"g", 3))
    assert exported_functions(HEADER + section(1, b"\0") + listed + code(3)) == ("_start", "größe", "")


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (b"#!/bin/sh", "not a WebAssembly"),
        (HEADER + exports(*[(b"f", 0)] * (EXPORTS_MAX + 1)), f"exports {EXPORTS_MAX + 1} functions"),
        (HEADER + exports((b"f" * 70_000, 0)), "characters in their names"),
        (HEADER + exports(*[(b"", 2)] * (EXPORTS_READ_MAX + 1)), "more than"),
        (HEADER + section(7, leb(0xFFFFFFFF)), "more than"),
        (HEADER + section(7, leb(2) + b"\1f\0\0"), "cut off"),
        (HEADER + section(7, leb(1) + leb(50) + b"f"), "cut off"),
        (HEADER + section(7, leb(1) + b"\1f"), "cut off"),
        (HEADER + exports((b"\xff", 0)), "UTF-8"),
    ],
)
def test_a_damaged_list_of_exports_is_refused(module: bytes, says: str) -> None:
    with pytest.raises(WireError, match=says):
        exported_functions(module)


def test_frames_come_out_whole_however_they_arrive() -> None:
    bodies = [b"", b"a", bytes(300)]
    stream = b"".join(frame(body) for body in bodies)
    assert Frames(300).feed(stream) == bodies
    one_by_one = Frames(300)
    assert [body for byte in stream for body in one_by_one.feed(bytes((byte,)))] == bodies
    with pytest.raises(WireError):
        Frames(299).feed(stream)


def test_the_cache_key_changes_with_what_compiled() -> None:
    assert (
        len({cache_key("50.0.0", "x86_64"), cache_key("50.0.1", "x86_64"), cache_key("50.0.0", "aarch64")})
        == 3
    )
