"""The yamux frame format, whole and byte by byte."""

from __future__ import annotations

import pytest

from ledger.core.encoding import WireError
from p2p.core import yamux
from p2p.core.yamux import Frame, FrameDecoder, encode_header

SYN = bytes.fromhex("000100010000000100000000")
HELLO = bytes.fromhex("00000000000000010000000568656c6c6f")


def test_the_examples_of_the_spec() -> None:
    assert encode_header(yamux.WINDOW_UPDATE, yamux.SYN, 1, 0) == SYN
    assert encode_header(yamux.DATA, 0, 1, 5) + b"hello" == HELLO


@pytest.mark.parametrize("step", [1, 2, 7, 12, 13, 1000])
def test_any_cutting_gives_the_same_frames(step: int) -> None:
    data = SYN + HELLO + encode_header(yamux.PING, yamux.ACK, 0, 9)
    decoder = FrameDecoder()
    frames = [f for at in range(0, len(data), step) for f in decoder.feed(data[at : at + step])]
    assert frames == [
        Frame(yamux.WINDOW_UPDATE, yamux.SYN, 1, 0),
        Frame(yamux.DATA, 0, 1, 5, b"hello"),
        Frame(yamux.PING, yamux.ACK, 0, 9),
    ]


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        (b"\x01" + SYN[1:], "not a yamux frame"),
        (b"\x00\x04" + SYN[2:], "not a yamux frame"),
        (encode_header(yamux.DATA, 0, 1, yamux.WINDOW_BYTES + 1), "credit"),
        (encode_header(yamux.DATA, 0, 1, 0xFFFFFFFF), "credit"),
    ],
)
def test_a_bad_header_is_refused_before_its_body_comes(header: bytes, reason: str) -> None:
    with pytest.raises(WireError, match=reason):
        FrameDecoder().feed(header)
