"""The yamux frame format (https://github.com/hashicorp/yamux/blob/master/spec.md), version 0.

Twelve bytes of header: version u8, type u8, flags u16, stream id u32, length u32, all big-endian; a DATA
frame is followed by `length` bytes. For the other types the length field is a value, not a size.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from ledger.core.encoding import WireError

__all__ = [
    "ACK",
    "DATA",
    "FIN",
    "GO_AWAY",
    "HEADER_BYTES",
    "PING",
    "RST",
    "SYN",
    "WINDOW_BYTES",
    "WINDOW_UPDATE",
    "Frame",
    "FrameDecoder",
    "encode_header",
]

DATA: Final = 0
WINDOW_UPDATE: Final = 1
PING: Final = 2
GO_AWAY: Final = 3

SYN: Final = 1
ACK: Final = 2
FIN: Final = 4
RST: Final = 8

HEADER_BYTES: Final = 12
WINDOW_BYTES: Final = 256 << 10
"""The credit both sides start a stream with; no frame can carry more, so it also bounds one frame."""

_HEADER: Final = struct.Struct("!BBHII")


@dataclass(frozen=True, slots=True)
class Frame:
    """One frame; `value` is the length field of every type but DATA, whose bytes are `body`."""

    kind: int
    flags: int
    stream_id: int
    value: int
    body: bytes = b""


def encode_header(kind: int, flags: int, stream_id: int, value: int) -> bytes:
    """The twelve header bytes of a frame."""
    return _HEADER.pack(0, kind, flags, stream_id, value)


class FrameDecoder:
    """Cuts the bytes of one connection into frames, however they arrive; `WireError` ends the connection."""

    __slots__ = ("_buffer",)

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Frame]:
        """The frames completed by `data`, in order."""
        buffer = self._buffer
        buffer += data
        frames: list[Frame] = []
        at = 0
        while len(buffer) - at >= HEADER_BYTES:
            version, kind, flags, stream_id, value = _HEADER.unpack_from(buffer, at)
            if version != 0 or kind > GO_AWAY:
                raise WireError(f"not a yamux frame: version {version}, type {kind}")
            end = at + HEADER_BYTES
            if kind == DATA:
                if value > WINDOW_BYTES:
                    raise WireError(f"a yamux frame of {value} bytes, at most {WINDOW_BYTES} can have credit")
                end += value
                if end > len(buffer):
                    break
            body = bytes(buffer[at + HEADER_BYTES : end])
            frames.append(Frame(kind, flags, stream_id, value, body))
            at = end
        if at:
            del buffer[:at]
        return frames
