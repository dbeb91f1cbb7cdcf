"""Frames of any content, cut anywhere; any bytes at all into the decoders."""

from __future__ import annotations

import contextlib
import itertools

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.encoding import WireError
from p2p.core import yamux
from p2p.core.framing import LENGTH_BYTES, Decoder, encode_frame
from p2p.core.yamux import FrameDecoder

LIMIT = 1000


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


@given(st.lists(st.binary(min_size=1, max_size=200), max_size=8), st.lists(st.integers(0, 5000), max_size=12))
def test_decode_gives_back_what_was_encoded(messages: list[bytes], cuts: list[int]) -> None:
    decoder = Decoder(frame_bytes_max=LIMIT)
    data = b"".join(map(encode_frame, messages))
    assert [m for piece in pieces(data, cuts) for m in decoder.feed(piece)] == messages
    decoder.end()


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_give_messages_or_a_wire_error_and_hold_one_frame(chunks: list[bytes]) -> None:
    decoder = Decoder(frame_bytes_max=LIMIT)
    with contextlib.suppress(WireError):
        for chunk in chunks:
            for message in decoder.feed(chunk):
                assert 1 <= len(message) <= LIMIT
            assert decoder.pending_bytes < LIMIT + LENGTH_BYTES


@settings(max_examples=300)
@given(st.lists(st.binary(max_size=300), max_size=10))
def test_any_bytes_give_yamux_frames_or_a_wire_error(chunks: list[bytes]) -> None:
    decoder = FrameDecoder()
    with contextlib.suppress(WireError):
        for chunk in chunks:
            for frame in decoder.feed(chunk):
                assert frame.kind <= yamux.GO_AWAY
                assert len(frame.body) == (frame.value if frame.kind == yamux.DATA else 0)
