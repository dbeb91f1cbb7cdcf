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


_PREFIXES: Final = {kind: _DOMAIN + bytes((kind,)) for kind in Kind}


def signing_bytes(kind: Kind, network_id: NetworkId, body: bytes) -> bytes:
    """The bytes that are signed for `body`: domain, kind, network, body (SPEC.md §2)."""
    if len(network_id) != NETWORK_ID_BYTES:
        raise ValueError(f"a network id has {NETWORK_ID_BYTES} bytes, not {len(network_id)}")
    return b"".join((_PREFIXES[kind], network_id, body))


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


def unpack(data: bytes, *, bytes_max: int = UNPACK_BYTES_MAX) -> Any:  # noqa: ANN401 - the caller checks the shape
    """One msgpack value from `data`; any other bytes, and any over the limits, are a `WireError`.

    Maps have text keys without repeats; at most UNPACK_ITEMS_MAX items each, nested UNPACK_DEPTH_MAX deep;
    no extension types.
    """
    if len(data) > bytes_max:
        raise WireError(f"message of {len(data)} bytes, at most {bytes_max} allowed")
    try:
        value = msgpack.unpackb(
            data,
            raw=False,
            strict_map_key=True,
            object_pairs_hook=_unique,
            ext_hook=_no_extension,
            max_bin_len=bytes_max,
            max_str_len=bytes_max,
            max_array_len=UNPACK_ITEMS_MAX,
            max_map_len=UNPACK_ITEMS_MAX,
        )
    except (ValueError, TypeError, msgpack.UnpackException, RecursionError) as error:
        raise WireError(f"not a msgpack message: {error}") from error
    _check_shape(value)
    return value


def _check_shape(value: object) -> None:
    """Refuse nesting over the limit, without recursion of our own, and timestamps, which pass by `ext_hook`."""
    level: list[object] = [value]
    for _ in range(UNPACK_DEPTH_MAX):
        inner: list[object] = []
        for item in level:
            if isinstance(item, dict):
                inner.extend(item.values())
            elif isinstance(item, list):
                inner.extend(item)
            elif isinstance(item, msgpack.Timestamp):
                raise WireError("msgpack extension type -1 is not allowed")
        if not inner:
            return
        level = inner
    raise WireError(f"message nested deeper than {UNPACK_DEPTH_MAX}")


def _unique(pairs: list[tuple[object, object]]) -> dict[object, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise WireError("a map repeats a key")
    if not all(isinstance(key, str) for key in table):
        raise WireError("a map has a key that is not text")
    return table


def _no_extension(code: int, _data: bytes) -> object:
    raise WireError(f"msgpack extension type {code} is not allowed")
