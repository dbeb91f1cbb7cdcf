"""Frames, whole and byte by byte; the bytes of SPEC.md §9 are pinned here."""

from __future__ import annotations

import pytest

from ledger.core.encoding import WireError
from p2p.core.framing import FRAME_BYTES_MAX, Decoder, encode_frame

EXAMPLE = bytes.fromhex("000000056d696c6c73")


def test_the_example_of_the_spec() -> None:
    assert encode_frame(b"mills") == EXAMPLE
    assert Decoder().feed(EXAMPLE) == [b"mills"]


@pytest.mark.parametrize("messages", [[b"a"], [b"a", b"bc", b"d" * 300], [b"x" * 70_000]])
@pytest.mark.parametrize("step", [1, 2, 3, 5, 1 << 20])
def test_any_cutting_gives_the_same_messages(messages: list[bytes], step: int) -> None:
    data = b"".join(encode_frame(message) for message in messages)
    decoder = Decoder()
    got = [m for at in range(0, len(data), step) for m in decoder.feed(data[at : at + step])]
    assert got == messages
    assert decoder.pending_bytes == 0
    decoder.end()


@pytest.mark.parametrize("length", [0, 101, FRAME_BYTES_MAX + 1, 0xFFFFFFFF])
def test_a_length_out_of_range_is_refused_before_the_message_comes(length: int) -> None:
    decoder = Decoder(frame_bytes_max=100)
    with pytest.raises(WireError, match="allowed are 1 to 100"):
        decoder.feed(length.to_bytes(4, "big"))
    assert decoder.pending_bytes == 0


def test_the_limit_itself_is_allowed() -> None:
    assert Decoder(frame_bytes_max=100).feed(encode_frame(b"x" * 100)) == [b"x" * 100]


@pytest.mark.parametrize("cut", [1, 3, 4, 8])
def test_an_end_inside_a_frame_is_an_error(cut: int) -> None:
    decoder = Decoder()
    assert decoder.feed(EXAMPLE[:cut]) == []
    with pytest.raises(WireError, match="inside a frame"):
        decoder.end()


@pytest.mark.parametrize("message", [b"", b"x" * 101])
def test_we_do_not_send_what_we_would_refuse(message: bytes) -> None:
    with pytest.raises(ValueError, match="1 to 100"):
        encode_frame(message, frame_bytes_max=100)


@pytest.mark.parametrize("limit", [0, -1, FRAME_BYTES_MAX + 1])
def test_a_limit_has_limits(limit: int) -> None:
    with pytest.raises(ValueError, match="frame_bytes_max"):
        Decoder(frame_bytes_max=limit)
