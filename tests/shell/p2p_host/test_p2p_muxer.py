"""The muxer over a connection in memory: windows, caps, silence and cancellation, in virtual time."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, cast

import pytest
import trio
import trio.testing
from libp2p.peer.id import ID
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p.core import yamux
from p2p.core.yamux import WINDOW_BYTES, encode_header
from p2p.muxer import (
    EXACT_READ_BYTES_MAX,
    SILENCE_MAX_S,
    STREAMS_INBOUND_MAX,
    STREAMS_OUTBOUND_MAX,
    MuxedSession,
    MuxedStream,
)
from p2p.outgoing import WRITE_TIMEOUT_S

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from libp2p.abc import ISecureConn

    Ends = trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]


class Wire:
    """One end of a connection in memory; `jammed` stands for a peer that does not read."""

    def __init__(self, stream: Ends, *, dialled: bool) -> None:
        self.stream = stream
        self.is_initiator = dialled
        self.jammed = False

    async def read(self, n: int | None = None) -> bytes:
        return bytes(await self.stream.receive_some(n))

    async def write(self, data: bytes) -> None:
        if self.jammed:
            await trio.sleep_forever()
        await self.stream.send_all(data)

    async def close(self) -> None:
        await self.stream.aclose()


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[MuxedSession, MuxedSession]]:
    one, two = trio.testing.memory_stream_pair()
    sessions = [
        MuxedSession(cast("ISecureConn", Wire(end, dialled=dialled)), ID(b"peer"))
        for end, dialled in ((one, True), (two, False))
    ]
    async with trio.open_nursery() as nursery:
        for session in sessions:
            nursery.start_soon(session.start)
            await session.event_started.wait()
        yield sessions[0], sessions[1]
        for session in sessions:
            await session.close()


@asynccontextmanager
async def bare() -> AsyncIterator[tuple[MuxedSession, Wire]]:
    """A session, and the raw other end of its connection."""
    one, two = trio.testing.memory_stream_pair()
    session = MuxedSession(cast("ISecureConn", Wire(one, dialled=True)), ID(b"peer"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(session.start)
        await session.event_started.wait()
        yield session, Wire(two, dialled=False)
        await session.close()
        nursery.cancel_scope.cancel()


async def streams(a: MuxedSession, b: MuxedSession) -> tuple[MuxedStream, MuxedStream]:
    return await a.open_stream(), await b.accept_stream()


async def read_all(stream: MuxedStream) -> bytes:
    data = bytearray()
    while True:
        try:
            data += await stream.read()
        except MuxedStreamError:
            return bytes(data)


async def test_bytes_arrive_in_order_far_over_the_window(autojump_clock: trio.testing.MockClock) -> None:
    payload = bytes(range(256)) * 12_000
    async with pair() as (a, b):
        out, into = await streams(a, b)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for at in range(0, len(payload), 100_000):
                    await out.write(payload[at : at + 100_000])
                await out.close()

            nursery.start_soon(send)
            assert await read_all(into) == payload
        await into.close()
        await trio.testing.wait_all_tasks_blocked()
        assert (a.stream_count, b.stream_count) == (0, 0)


async def test_what_is_written_first_comes_after_the_opening(autojump_clock: trio.testing.MockClock) -> None:
    """Data once overtook the frame that opens its stream, and was lost."""
    async with pair() as (a, b):
        for i in range(200):
            out = await a.open_stream()
            await out.write(b"%d" % i)
            assert await (await b.accept_stream()).read() == b"%d" % i
            out.abort()
            await trio.testing.wait_all_tasks_blocked()


async def test_a_writer_waits_for_a_slow_reader_as_long_as_it_likes(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """The bare library gives up after 5 s."""
    async with pair() as (a, b):
        out, into = await streams(a, b)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(out.write, bytes(2 * WINDOW_BYTES))
            await trio.sleep(40)
            assert out.written_bytes == WINDOW_BYTES
            received = 0
            while received < 2 * WINDOW_BYTES:
                received += len(await into.read())


@pytest.mark.parametrize("n", [1, 7, 1000, EXACT_READ_BYTES_MAX])
async def test_a_read_of_n_bytes_gives_n_bytes(autojump_clock: trio.testing.MockClock, n: int) -> None:
    async with pair() as (a, b):
        out, into = await streams(a, b)
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                for _ in range(5):
                    await out.write(bytes(n))
                await out.close()

            nursery.start_soon(trickle)
            for _ in range(5):
                assert len(await into.read(n)) == n


async def test_a_cancelled_write_leaves_the_connection_whole(autojump_clock: trio.testing.MockClock) -> None:
    """On the bare library 15 of 20 such cancellations corrupted the connection."""
    async with pair() as (a, b):
        for _ in range(20):
            out, into = await streams(a, b)
            with trio.move_on_after(0.5):
                await out.write(bytes(3 * WINDOW_BYTES))
            assert 0 < out.written_bytes <= WINDOW_BYTES
            out.abort()
            into.abort()
            fresh_out, fresh_in = await streams(a, b)
            await fresh_out.write(b"still whole")
            assert await fresh_in.read() == b"still whole"
            fresh_out.abort()
            await trio.testing.wait_all_tasks_blocked()


async def test_a_cancelled_read_loses_nothing(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (a, b):
        out, into = await streams(a, b)
        for _ in range(20):
            with trio.move_on_after(0.1):
                await into.read(21)
            await out.write(b"1")
        assert await into.read(20) == b"1" * 20


async def test_ignoring_the_window_ends_the_connection(autojump_clock: trio.testing.MockClock) -> None:
    """The bare library logs it and buffers: 480 MB were seen."""
    async with bare() as (session, wire):
        await wire.write(encode_header(yamux.WINDOW_UPDATE, yamux.SYN, 2, 0))
        stream = await session.accept_stream()
        for _ in range(9):
            await wire.write(encode_header(yamux.DATA, 0, 2, 30_000) + bytes(30_000))
        await trio.testing.wait_all_tasks_blocked()
        assert not session.is_established
        assert len(await read_all(stream)) <= WINDOW_BYTES


@pytest.mark.parametrize(
    "frame",
    [
        b"\xff" * 12,
        encode_header(yamux.DATA, yamux.SYN, 2, 0xFFFFFFFF),
        encode_header(yamux.WINDOW_UPDATE, yamux.SYN, 0, 0),
        encode_header(yamux.WINDOW_UPDATE, yamux.SYN, 1, 0),
        encode_header(yamux.WINDOW_UPDATE, yamux.SYN, 2, 0xFFFFFFFF),
        encode_header(yamux.GO_AWAY, 0, 0, 0),
    ],
)
async def test_a_frame_against_the_rules_ends_the_connection(
    autojump_clock: trio.testing.MockClock, frame: bytes
) -> None:
    async with bare() as (session, wire):
        await wire.write(frame)
        await trio.testing.wait_all_tasks_blocked()
        assert not session.is_established
        with pytest.raises(MuxedStreamError):
            await session.open_stream()


async def test_frames_of_streams_that_are_over_are_ignored(autojump_clock: trio.testing.MockClock) -> None:
    async with bare() as (session, wire):
        await wire.write(
            encode_header(yamux.DATA, 0, 8, 3) + b"abc" + encode_header(yamux.WINDOW_UPDATE, 0, 9, 5)
        )
        await trio.testing.wait_all_tasks_blocked()
        assert session.is_established


async def test_a_peer_holds_so_many_streams_and_no_more(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (a, b):
        opened = [await a.open_stream() for _ in range(STREAMS_INBOUND_MAX + 10)]
        await trio.testing.wait_all_tasks_blocked()
        assert b.stream_count == STREAMS_INBOUND_MAX
        assert sum(stream.was_reset for stream in opened) == 10
        for _ in range(STREAMS_INBOUND_MAX):
            await b.accept_stream()
        opened[0].abort()
        await trio.testing.wait_all_tasks_blocked()
        again = await a.open_stream()
        await trio.testing.wait_all_tasks_blocked()
        assert not again.was_reset


async def test_we_open_so_many_streams_and_then_fail_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """The bare library waits for ever at 256 streams that were not closed."""
    async with bare() as (session, wire):
        for _ in range(STREAMS_OUTBOUND_MAX):
            await session.open_stream()
            await trio.testing.wait_all_tasks_blocked() if session.stream_count % 64 == 0 else None
        with pytest.raises(MuxedStreamError, match="256 streams"):
            await session.open_stream()
        assert wire.is_initiator is False


async def test_a_stream_the_peer_never_closes_is_forgotten(autojump_clock: trio.testing.MockClock) -> None:
    async with pair() as (a, b):
        out, _ = await streams(a, b)
        await out.close()
        assert a.stream_count == 1
        await trio.sleep(80)
        assert a.stream_count == 0


async def test_a_session_that_ends_by_itself_closes_its_connection() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    session = MuxedSession(cast("ISecureConn", Wire(ours, dialled=True)), ID(b"peer"))
    await theirs.send_all(
        b"\xff" * yamux.HEADER_BYTES
    )  # of no version: the session ends, and nobody calls close
    await session.start()
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"anything")


async def test_a_silent_peer_is_dropped_and_a_quiet_one_is_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with bare() as (session, _wire):
        await trio.sleep(SILENCE_MAX_S + 20)
        assert not session.is_established
    async with pair() as (a, b):
        await trio.sleep(10 * SILENCE_MAX_S)
        assert a.is_established
        assert b.is_established


async def test_a_peer_that_does_not_read_is_dropped(autojump_clock: trio.testing.MockClock) -> None:
    async with bare() as (session, wire):
        stream = await session.open_stream()
        cast("Wire", session._conn).jammed = True
        started_s = trio.current_time()
        with pytest.raises(MuxedStreamError):
            await stream.write(b"x")
        assert trio.current_time() - started_s <= WRITE_TIMEOUT_S + 1
        assert not session.is_established
        assert wire.jammed is False


async def test_a_ping_flood_from_a_peer_that_does_not_read_ends_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with bare() as (session, wire):
        cast("Wire", session._conn).jammed = True
        await wire.write(encode_header(yamux.PING, yamux.SYN, 0, 1) * 2000)
        await trio.testing.wait_all_tasks_blocked()
        assert not session.is_established
