"""A look at a module's bytes before any compiler sees them (SPEC.md §13.2).

Compile time grows faster than the size of a function body: a module of 1 MB with one body was seen to take more than
90 CPU seconds. The limits here are about bytes only, so that every worker refuses the same modules.
"""

from __future__ import annotations

from typing import Final

from executor.core.wire import WireError

__all__ = ["BODY_BYTES_MAX", "FUNCTIONS_MAX", "MODULE_BYTES_MAX", "check_module"]

MODULE_BYTES_MAX: Final = 4 << 20
BODY_BYTES_MAX: Final = 128 << 10
FUNCTIONS_MAX: Final = 20_000
_HEADER: Final = b"\0asm\1\0\0\0"
_CODE_SECTION: Final = 10
_SECTIONS_MAX: Final = 256


def check_module(module: bytes) -> None:
    """`WireError` when `module` is not a core WebAssembly module, or is larger than a worker compiles."""
    if len(module) > MODULE_BYTES_MAX:
        raise WireError(f"a module of {len(module)} bytes, at most {MODULE_BYTES_MAX} are compiled")
    if not module.startswith(_HEADER):
        raise WireError("not a WebAssembly core module, version 1")
    at = len(_HEADER)
    for _ in range(_SECTIONS_MAX):
        if at == len(module):
            return
        kind = module[at]
        size, start = _leb128(module, at + 1)
        at = start + size
        if at > len(module):
            raise WireError("a section of the module is cut off")
        if kind == _CODE_SECTION:
            _check_bodies(module, start, at)
    raise WireError(f"a module with more than {_SECTIONS_MAX} sections")


def _check_bodies(module: bytes, at: int, end: int) -> None:
    count, at = _leb128(module, at)
    if count > FUNCTIONS_MAX:
        raise WireError(f"a module with {count} functions, at most {FUNCTIONS_MAX} are compiled")
    for _ in range(count):
        size, at = _leb128(module, at)
        if size > BODY_BYTES_MAX:
            raise WireError(f"a function of {size} bytes, at most {BODY_BYTES_MAX} are compiled")
        at += size
        if at > end:
            raise WireError("a function of the module is cut off")


def _leb128(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned 32-bit LEB128 number at `at`, and the position behind it."""
    value = 0
    for shift in range(0, 35, 7):
        if at >= len(data):
            break
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value > 0xFFFFFFFF:
                break
            return value, at
    raise WireError("a length in the module is cut off or too large")
