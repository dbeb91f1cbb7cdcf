"""Frames between the node and its sandboxed children: a length of four bytes, then that many bytes."""

from __future__ import annotations

from typing import Final

from executor.core.wire import WireError

__all__ = ["CANCEL", "FRAME_BYTES_MAX", "HEADER_BYTES", "RUN", "Frames", "frame"]

RUN: Final = 1
"""First byte of a request to a unit's parent: run a unit; then its number (u32) and the task."""
CANCEL: Final = 2
"""First byte of a request: end a unit without a report; then its number (u32)."""
HEADER_BYTES: Final = 4
FRAME_BYTES_MAX: Final = 128 << 20
"""The largest frame: a compiled module on its way into its sandbox."""


def frame(body: bytes) -> bytes:
    """`body` behind its length."""
    if len(body) > FRAME_BYTES_MAX:
        raise WireError(f"a frame of {len(body)} bytes, at most {FRAME_BYTES_MAX} allowed")
    return len(body).to_bytes(HEADER_BYTES, "big") + body


class Frames:
    """Cuts a stream of bytes into frames; never holds more than one frame above what was fed last."""

    __slots__ = ("_buffer", "_bytes_max")

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes; `WireError` when one is longer than allowed."""
        self._buffer += data
        frames: list[bytes] = []
        at = 0
        while len(self._buffer) - at >= HEADER_BYTES:
            size = int.from_bytes(self._buffer[at : at + HEADER_BYTES], "big")
            if size > self._bytes_max:
                raise WireError(f"a frame of {size} bytes, at most {self._bytes_max} allowed")
            if len(self._buffer) - at - HEADER_BYTES < size:
                break
            frames.append(bytes(self._buffer[at + HEADER_BYTES : at + HEADER_BYTES + size]))
            at += HEADER_BYTES + size
        del self._buffer[:at]
        return frames
