"""Bytes that are signed or hashed have one layout, and only one (SPEC.md §1, §2).

Fixed-width big-endian fields, read by `Reader` and written with `struct`. msgpack
is a transport envelope only (`pack`, `unpack`): it has many encodings of one value,
so nothing that is signed or hashed is ever msgpack re-encoded.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum
from typing import Any, Final, NewType

import msgpack

__all__ = [
    "NETWORK_ID_BYTES",
    "Kind",
    "NetworkId",
    "Reader",
    "WireError",
    "digest",
    "pack",
    "signing_bytes",
    "unpack",
]

NetworkId = NewType("NetworkId", bytes)
"""SHA-256 of the genesis record (SPEC.md §8): 32 bytes, part of every signature, never on the wire."""

NETWORK_ID_BYTES: Final = 32
UNPACK_BYTES_MAX: Final = 8 << 20
UNPACK_ITEMS_MAX: Final = 1 << 16
"""Of all lists and maps of a message together, unless its reader allows another number."""
UNPACK_DEPTH_MAX: Final = 16
_DOMAIN: Final = b"millrace/1\0"


class WireError(ValueError):
    """Bytes from outside do not form a valid message; the text says which rule they break."""


class Kind(IntEnum):
    """What a signature is about: one number per record, so that none can pass for another (SPEC.md §2)."""

    ENTRY = 1
    PROPOSAL = 2
    NOTAR = 3
    SKIP = 4
    FINAL = 5
    VOUCHER = 6
    ENVELOPE = 7
    TERMS = 8
    RECEIPT = 9
    HELLO = 10
    DECREE = 11
    VERDICT = 12
    REKEY = 13


_PREFIXES: Final = {kind: _DOMAIN + bytes((kind,)) for kind in Kind}


def signing_bytes(kind: Kind, network_id: NetworkId, body: bytes, *, behind: bytes = b"") -> bytes:
    """The bytes that are signed for `body`: domain, kind, network, body (SPEC.md §2); `behind` stands before them."""
    if len(network_id) != NETWORK_ID_BYTES:
        raise ValueError(f"a network id has {NETWORK_ID_BYTES} bytes, not {len(network_id)}")
    return b"".join((behind, _PREFIXES[kind], network_id, body))


def digest(*parts: bytes) -> bytes:
    """SHA-256 over the concatenation of `parts`: 32 bytes."""
    return hashlib.sha256(b"".join(parts)).digest()


class Reader:
    """Reads fixed-width fields from `data`, front to back; whatever does not fit is a `WireError`."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        if count < 0 or count > self.remaining:
            raise WireError(f"{self._what}: {count} more bytes expected, {self.remaining} left")
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def uint(self, width: int) -> int:
        """The next `width` bytes as a big-endian unsigned integer."""
        return int.from_bytes(self.take(width), "big")

    def text(self, width: int, bytes_max: int) -> str:
        """UTF-8 text behind a length of `width` bytes, at most `bytes_max` bytes long."""
        size = self.uint(width)
        if size > bytes_max:
            raise WireError(f"{self._what}: text of {size} bytes, at most {bytes_max} allowed")
        try:
            return self.take(size).decode()
        except UnicodeDecodeError as error:
            raise WireError(f"{self._what}: text is not UTF-8") from error

    def end(self) -> None:
        """Refuse whatever is left over."""
        if self.remaining:
            raise WireError(f"{self._what}: {self.remaining} bytes too many")


def pack(value: object) -> bytes:
    """`value` as msgpack: transport only, never signed."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def unpack(data: bytes, *, bytes_max: int = UNPACK_BYTES_MAX, items_max: int = UNPACK_ITEMS_MAX) -> Any:  # noqa: ANN401 - the caller checks the shape
    """One msgpack value from `data`; any other bytes, and any over the limits, are a `WireError`.

    Maps have text keys without repeats; all lists and maps together have at most `items_max` items, nested
    UNPACK_DEPTH_MAX deep; no extension types.
    """
    if len(data) > bytes_max:
        raise WireError(f"message of {len(data)} bytes, at most {bytes_max} allowed")
    _check_shape(data, items_max)
    try:
        return msgpack.unpackb(data, raw=False, strict_map_key=True, object_pairs_hook=_unique)
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(f"not a msgpack message: {error}") from error


def _check_shape(data: bytes, items_max: int) -> None:
    """Refuse what is cut short, nested over the limit, of an extension type, or of too many items in all.

    Before anything is built: a list of a million empty maps is one megabyte on the wire and a hundred in
    memory, and the lengths that a kilobyte of list headers promises are set aside before they turn out false.
    """
    left = [1]  # of each list or map that is open, outermost first: how many values are still to come
    at = items = 0
    while left:
        if not left[-1]:
            left.pop()
            continue
        left[-1] -= 1
        if at >= len(data):
            raise WireError("not a msgpack message: it is cut short")
        kind, size, width = _HEADS[data[at]]
        at += 1
        if width:
            size = int.from_bytes(data[at : at + width], "big")
            at += width
        if kind == _PLAIN:
            at += size
        elif kind == _NEVER:
            raise WireError("not a msgpack message: an extension type, or a byte that begins no value")
        else:
            items += size
            left += [size * kind] if size else []
            if items > items_max or len(left) > UNPACK_DEPTH_MAX:
                raise WireError(
                    f"message of more than {items_max} items, or nested deeper than {UNPACK_DEPTH_MAX}"
                )
    if at > len(data):
        raise WireError("not a msgpack message: it is cut short")


_PLAIN, _LIST, _MAP, _NEVER = 0, 1, 2, 3
"""What a msgpack value is; of a list or map, how many values stand for one item."""


def _head(code: int) -> tuple[int, int, int]:
    """What begins with this byte: its kind, its size (bytes or items), and in how many bytes that follows instead."""
    if code < 0x80 or code >= 0xE0 or code in {0xC0, 0xC2, 0xC3}:
        return _PLAIN, 0, 0
    if code < 0x90:
        return _MAP, code & 0x0F, 0
    if code < 0xA0:
        return _LIST, code & 0x0F, 0
    if code < 0xC0:
        return _PLAIN, code & 0x1F, 0
    if code in _NUMBER_BYTES:
        return _PLAIN, _NUMBER_BYTES[code], 0
    return _LENGTHS.get(code, (_NEVER, 0, 0))


_NUMBER_BYTES: Final = {0xCA: 4, 0xCB: 8} | {first + n: 1 << n for first in (0xCC, 0xD0) for n in range(4)}
_LENGTHS: Final = {
    **{first + n: (_PLAIN, 0, 1 << n) for first in (0xC4, 0xD9) for n in range(3)},
    **{0xDC + n: (_LIST, 0, 2 << n) for n in range(2)},
    **{0xDE + n: (_MAP, 0, 2 << n) for n in range(2)},
}
_HEADS: Final = tuple(_head(code) for code in range(256))


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise WireError("a map repeats a key")
    if not all(isinstance(key, str) for key in table):
        raise WireError("a map has a key that is not text")
    return table
