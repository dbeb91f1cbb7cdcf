"""Many small messages leave as few large ones, in order, and a cancelled one takes nobody else's along."""

from __future__ import annotations

from typing import Any, cast

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedStreamReset

from ledger.core.keys import AccountId
from p2p.core import yamux
from p2p.core.errors import ChannelClosed
from p2p.core.framing import Decoder
from p2p.core.yamux import encode_header
from p2p.outgoing import MESSAGE_BYTES_MAX, POSTED_FRAMES_MAX, Outgoing
from p2p.streams import PIECE_BYTES_MAX, Channel


class Wire:
    """What a connection, or a stream, is asked to write; it waits while `open` is not set."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.open = trio.Event()
        self.written_bytes = 0

    async def write(self, data: bytes) -> None:
        await self.open.wait()
        self.written.append(data)

    async def send_all(self, data: bytes) -> None:
        await self.write(data)
        self.written_bytes += len(data)

    def abort(self) -> None:
        self.open.set()


def outgoing(wire: Wire) -> tuple[Outgoing, list[str]]:
    ended: list[str] = []
    return Outgoing(cast("Any", wire), ended.append), ended


async def test_frames_that_wait_share_a_message() -> None:
    wire = Wire()
    line, _ = outgoing(wire)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send, b"first")
        await trio.testing.wait_all_tasks_blocked()
        for number in range(50):
            nursery.start_soon(line.send, bytes((number,)) * 100)
            await trio.testing.wait_all_tasks_blocked()
        line.post(encode_header(yamux.PING, 0, 0, 1))
        wire.open.set()
    assert wire.written[0] == b"first"
    together = b"".join(bytes((number,)) * 100 for number in range(50))
    assert wire.written[1:] == [together + encode_header(yamux.PING, 0, 0, 1)]


async def test_a_message_holds_no_more_than_its_limit() -> None:
    wire = Wire()
    line, _ = outgoing(wire)
    async with trio.open_nursery() as nursery:
        for _ in range(5):
            nursery.start_soon(line.send, bytes(MESSAGE_BYTES_MAX // 2))
        await trio.testing.wait_all_tasks_blocked()
        wire.open.set()
    assert max(map(len, wire.written)) <= MESSAGE_BYTES_MAX
    assert sum(map(len, wire.written)) == 5 * (MESSAGE_BYTES_MAX // 2)


async def test_a_cancelled_frame_leaves_nothing_or_all_of_it() -> None:
    wire = Wire()
    line, _ = outgoing(wire)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(line.send, b"first")
        await trio.testing.wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            scope.cancel()
            await line.send(b"cancelled")
        assert scope.cancelled_caught
        nursery.start_soon(line.send, b"last")
        await trio.testing.wait_all_tasks_blocked()
        wire.open.set()
    assert wire.written == [b"first", b"last"]


async def test_the_end_reaches_whoever_waits() -> None:
    wire = Wire()
    line, ended = outgoing(wire)
    heard = []

    async def send(frame: bytes) -> None:
        with pytest.raises(MuxedStreamReset):
            await line.send(frame)
        heard.append(frame)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send, b"one")
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(send, b"two")
        await trio.testing.wait_all_tasks_blocked()
        line.close()
        wire.open.set()
    assert sorted(heard) == [b"one", b"two"]
    with pytest.raises(MuxedStreamReset):
        await line.send(b"three")
    assert not ended


async def test_frames_that_nobody_waits_for_are_bounded() -> None:
    line, ended = outgoing(Wire())
    for number in range(POSTED_FRAMES_MAX):
        line.post(encode_header(yamux.PING, 0, 0, number))
    assert not ended
    line.post(encode_header(yamux.PING, 0, 0, 0))
    assert ended == ["its outbox is full"]


def channel_over(wire: Wire) -> Channel:
    return Channel(AccountId(bytes(32)), "test", cast("Any", wire), frame_bytes_max=PIECE_BYTES_MAX)


async def test_messages_of_many_tasks_leave_as_one_piece() -> None:
    wire = Wire()
    channel = channel_over(wire)
    messages = [b"%03d" % number for number in range(40)]
    async with trio.open_nursery() as nursery:
        for message in messages:
            nursery.start_soon(channel.send, message)
            await trio.testing.wait_all_tasks_blocked()
        wire.open.set()
    assert len(wire.written) == 2
    decoder = Decoder()
    assert [each for piece in wire.written for each in decoder.feed(piece)] == messages


async def test_a_cancelled_message_is_left_out_alone() -> None:
    wire = Wire()
    channel = channel_over(wire)
    async with trio.open_nursery() as nursery:
        cancelled = trio.CancelScope()

        async def first() -> None:
            with cancelled:
                await channel.send(b"first")

        nursery.start_soon(first)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(channel.send, b"second")
        await trio.testing.wait_all_tasks_blocked()
        cancelled.cancel()
        await trio.testing.wait_all_tasks_blocked()
        wire.open.set()
    assert wire.written == [b"\0\0\0\6second"]
    assert not channel.is_closed


async def test_a_piece_that_breaks_fails_every_message_in_it(autojump_clock: trio.testing.MockClock) -> None:
    wire = Wire()
    channel = channel_over(wire)
    failed = []

    async def send(message: bytes) -> None:
        with pytest.raises(ChannelClosed):
            await channel.send(message, timeout_s=1)
        failed.append(message)

    async with trio.open_nursery() as nursery:
        for message in (b"one", b"two", b"three"):
            nursery.start_soon(send, message)
    assert sorted(failed) == [b"one", b"three", b"two"]
    assert channel.is_closed
