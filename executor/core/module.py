"""A look at a module's bytes before any compiler sees them (SPEC.md §13.2).

Compile time grows faster than the size of a function body: a module of 1 MB with one body was seen to take more than
90 CPU seconds. The limits here are about bytes only, so that every worker refuses the same modules.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from executor.core.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BODY_BYTES_MAX",
    "EXPORTS_CHARACTERS_MAX",
    "EXPORTS_MAX",
    "FUNCTIONS_MAX",
    "MODULE_BYTES_MAX",
    "check_module",
    "exported_functions",
]

MODULE_BYTES_MAX: Final = 4 << 20
BODY_BYTES_MAX: Final = 128 << 10
FUNCTIONS_MAX: Final = 20_000
EXPORTS_MAX: Final = 4096
"""Exported functions of one module."""
EXPORTS_CHARACTERS_MAX: Final = 1 << 16
"""What the names of all exported functions may come to."""
EXPORTS_READ_MAX: Final = 1 << 16
"""Exports of every kind that are looked at; a list of 4 MiB of empty names would hold the reader up."""
_HEADER: Final = b"\0asm\1\0\0\0"
_EXPORT_SECTION: Final = 7
_CODE_SECTION: Final = 10
_FUNCTION_EXPORT: Final = 0
_SECTIONS_MAX: Final = 256


def check_module(module: bytes) -> None:
    """`WireError` when `module` is not a core WebAssembly module, or is larger than a worker compiles."""
    for kind, start, end in _sections(module):
        if kind == _CODE_SECTION:
            _check_bodies(module, start, end)


def exported_functions(module: bytes) -> tuple[str, ...]:
    """The functions that a task can name as its entry, as the module's export section lists them.

    No compiler is asked, so a module that lists them may still be refused by one. `WireError` for a list that is
    damaged or over a limit, and for what `check_module` refuses.
    """
    names: list[str] = []
    read = 0
    for kind, start, end in _sections(module):
        if kind != _EXPORT_SECTION:
            continue
        count, at = _leb128(module, start)
        read += count
        if read > EXPORTS_READ_MAX:
            raise WireError(f"a module with more than {EXPORTS_READ_MAX} exports")
        for _ in range(count):
            size, at = _leb128(module, at)
            name, at = module[at : at + size], at + size
            if at >= end:
                raise WireError("an export of the module is cut off")
            if module[at] == _FUNCTION_EXPORT:
                names.append(_name(name))
            _, at = _leb128(module, at + 1)
    if len(names) > EXPORTS_MAX or sum(map(len, names)) > EXPORTS_CHARACTERS_MAX:
        raise WireError(
            f"the module exports {len(names)} functions; allowed are {EXPORTS_MAX}, "
            f"with {EXPORTS_CHARACTERS_MAX} characters in their names"
        )
    return tuple(names)


def _sections(module: bytes) -> Iterator[tuple[int, int, int]]:
    """Each section's kind, start and end."""
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
        yield kind, start, at
    if at != len(module):
        raise WireError(f"a module with more than {_SECTIONS_MAX} sections")


def _name(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise WireError("the name of an export is not UTF-8") from error


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
