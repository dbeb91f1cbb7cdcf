"""Messages on a byte stream: four bytes of length, big-endian, then the message (SPEC.md §9).

The length is checked before a single byte of the message is kept, so a peer can make us hold one frame and
no more. An empty frame is refused: it would let a peer produce 16,000 messages from 64 KiB.
"""

from __future__ import annotations

from typing import Final

from ledger.core.encoding import WireError

__all__ = ["FRAME_BYTES_MAX", "LENGTH_BYTES", "Decoder", "encode_frame"]

LENGTH_BYTES: Final = 4
FRAME_BYTES_MAX: Final = 4 << 20
"""The largest message of any protocol; each protocol sets its own limit at or below it."""


def encode_frame(message: bytes, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> bytes:
    """`message` behind its length; `ValueError` when empty or longer than `frame_bytes_max`."""
    if not 1 <= len(message) <= frame_bytes_max:
        raise ValueError(f"a frame has 1 to {frame_bytes_max} bytes, not {len(message)}")
    return len(message).to_bytes(LENGTH_BYTES, "big") + message


class Decoder:
    """Cuts a byte stream into messages, however the bytes arrive.

    Feed it whatever was read; it answers the messages that are now complete. After a `WireError` the stream
    has no defined meaning any more: drop it.
    """

    __slots__ = ("_buffer", "_frame_bytes_max")

    def __init__(self, *, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        """`frame_bytes_max`: the longest message accepted, in bytes."""
        if not 1 <= frame_bytes_max <= FRAME_BYTES_MAX:
            raise ValueError(f"frame_bytes_max is 1 to {FRAME_BYTES_MAX}, not {frame_bytes_max}")
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()

    def allow(self, frame_bytes_max: int) -> None:
        """From the next frame on, take messages of up to so many bytes."""
        if not 1 <= frame_bytes_max <= FRAME_BYTES_MAX:
            raise ValueError(f"frame_bytes_max is 1 to {FRAME_BYTES_MAX}, not {frame_bytes_max}")
        self._frame_bytes_max = frame_bytes_max

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages completed by `data`, in order; `WireError` on a length out of range."""
        buffer = self._buffer
        buffer += data
        messages: list[bytes] = []
        at = 0
        while len(buffer) - at >= LENGTH_BYTES:
            size = int.from_bytes(buffer[at : at + LENGTH_BYTES], "big")
            if not 1 <= size <= self._frame_bytes_max:
                buffer.clear()
                raise WireError(f"a frame of {size} bytes, allowed are 1 to {self._frame_bytes_max}")
            end = at + LENGTH_BYTES + size
            if end > len(buffer):
                break
            messages.append(bytes(buffer[at + LENGTH_BYTES : end]))
            at = end
        if at:
            del buffer[:at]
        return messages

    def end(self) -> None:
        """Call at the end of the stream: `WireError` if it ended inside a frame."""
        if self._buffer:
            raise WireError(f"the stream ended inside a frame, {len(self._buffer)} bytes into it")
