"""Records of the executor have one layout, and only one (SPEC.md §13): big-endian, fixed order, no spare bytes."""

from __future__ import annotations

from typing import Final

__all__ = ["DOMAIN", "Reader", "WireError", "sized"]

DOMAIN: Final = b"millrace/1\0"
"""Stands before every hashed record, so that no digest of ours is a digest of something else."""


class WireError(ValueError):
    """Bytes from outside do not form a valid record; the text says which rule they break."""


class Reader:
    """Reads fields of `data`, front to back; whatever does not fit is a `WireError`."""

    __slots__ = ("_at", "_data", "_what")

    def __init__(self, data: bytes, what: str) -> None:
        self._data = data
        self._what = what
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next `count` bytes."""
        left = len(self._data) - self._at
        if not 0 <= count <= left:
            raise WireError(f"{self._what}: {count} more bytes expected, {left} left")
        start, self._at = self._at, self._at + count
        return self._data[start : self._at]

    def uint(self, width: int) -> int:
        """The next `width` bytes as an unsigned integer."""
        return int.from_bytes(self.take(width), "big")

    def blob(self, width: int, bytes_max: int) -> bytes:
        """Bytes behind a length of `width` bytes, at most `bytes_max` of them."""
        size = self.uint(width)
        if size > bytes_max:
            raise WireError(f"{self._what}: a field of {size} bytes, at most {bytes_max} allowed")
        return self.take(size)

    def text(self, width: int, bytes_max: int) -> str:
        """UTF-8 text behind a length of `width` bytes, without NUL."""
        try:
            text = self.blob(width, bytes_max).decode()
        except UnicodeDecodeError as error:
            raise WireError(f"{self._what}: text is not UTF-8") from error
        if "\0" in text:
            raise WireError(f"{self._what}: text holds a NUL byte")
        return text

    def end(self) -> None:
        """Refuse whatever is left over."""
        left = len(self._data) - self._at
        if left:
            raise WireError(f"{self._what}: {left} bytes too many")


def sized(data: bytes, width: int) -> bytes:
    """`data` behind its length in `width` bytes."""
    return len(data).to_bytes(width, "big") + data
