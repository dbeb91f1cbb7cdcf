"""Consensus messages between witnesses: bounded, oldest dropped, reconnected, and nobody else admitted."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import pytest
import trio
import trio.testing

from bootstrap import consensus
from bootstrap.consensus import CONSENSUS, QUEUE_MESSAGES_MAX, ConsensusLinks
from ledger.core.consensus import MESSAGE_BYTES_MAX
from ledger.core.keys import AccountId, SigningKey
from p2p.core.errors import ChannelClosed, DialError, P2pError
from p2p.streams import PIECE_BYTES_MAX, Channel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

A, B, C, STRANGER = (SigningKey(bytes((number,)) * 31 + b"\0").account for number in range(1, 5))


Pair: TypeAlias = "trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]"


class MemoryStream:
    """`p2p.streams.Stream` over trio's memory streams."""

    def __init__(
        self, stream: trio.StapledStream[trio.testing.MemorySendStream, trio.testing.MemoryReceiveStream]
    ) -> None:
        self._stream = stream
        self.written_bytes = 0

    async def receive_some(self) -> bytes:
        try:
            return bytes(await self._stream.receive_some())
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise ChannelClosed("gone") from error

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except (trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise ChannelClosed("gone") from error
        self.written_bytes += len(data)

    async def aclose(self) -> None:
        self.abort()

    def abort(self) -> None:
        self._stream.send_stream.close()
        self._stream.receive_stream.close()


class World:
    """Hosts that reach each other in memory; those in `down` cannot be reached."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery
        self.hosts: dict[AccountId, MemoryHost] = {}
        self.down: set[AccountId] = set()
        self.opened: list[tuple[AccountId, AccountId]] = []


class MemoryHost:
    """The part of a host that consensus needs (`p2p.streams.Connector`)."""

    def __init__(self, world: World, account: AccountId) -> None:
        self.world = world
        self.account = account
        self.nursery = world.nursery
        self.handlers: dict[str, Callable[[Channel], Awaitable[None]]] = {}
        self.inbound: list[Channel] = []
        world.hosts[account] = self

    def serve(
        self,
        name: str,
        handler: Callable[[Channel], Awaitable[None]],
        *,
        frame_bytes_max: int = 1,
        receive_bytes_max: int | None = None,
        streams_per_peer_max: int = 1,
    ) -> None:
        assert frame_bytes_max == MESSAGE_BYTES_MAX
        self.handlers[name] = handler

    async def open(
        self, account: AccountId, name: str, *, timeout_s: float = 1, frame_bytes_max: int = 1
    ) -> Channel:
        await trio.lowlevel.checkpoint()
        other = self.world.hosts.get(account)
        if other is None or account in self.world.down or name not in other.handlers:
            raise DialError("nobody answers")
        self.world.opened.append((self.account, account))
        ours, theirs = trio.testing.memory_stream_pair()
        inbound = Channel(self.account, name, MemoryStream(theirs), frame_bytes_max=frame_bytes_max)
        other.inbound.append(inbound)
        self.world.nursery.start_soon(other.handle, name, inbound)
        return Channel(account, name, MemoryStream(ours), frame_bytes_max=frame_bytes_max)

    async def handle(self, name: str, channel: Channel) -> None:
        try:
            await self.handlers[name](channel)
        except P2pError:
            pass
        finally:
            channel.abort()


class Node:
    """One witness's links and what they delivered."""

    def __init__(self, world: World, account: AccountId) -> None:
        self.host = MemoryHost(world, account)
        self.links = ConsensusLinks(self.host, account, (A, B, C))
        self.heard: list[tuple[AccountId, bytes]] = []

    async def run(self) -> None:
        await self.links.run(lambda sender, message: self.heard.append((sender, message)))


async def test_messages_reach_the_witness_they_are_for_in_order(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        nodes = {account: Node(world, account) for account in (A, B, C)}
        for node in nodes.values():
            nursery.start_soon(node.run)
        for number in range(50):
            await nodes[A].links.send(B, b"%d" % number)
        await nodes[C].links.send(A, b"to a")
        await trio.sleep(1)
        assert nodes[B].heard == [(A, b"%d" % number) for number in range(50)]
        assert nodes[A].heard == [(C, b"to a")]
        assert nodes[C].heard == []
        assert nodes[A].links.connected == (B,)
        assert world.opened.count((A, B)) == 1
        nursery.cancel_scope.cancel()


async def test_a_witness_that_is_away_hears_the_newest(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        a, b = Node(world, A), Node(world, B)
        nursery.start_soon(a.run)
        nursery.start_soon(b.run)
        world.down.add(B)
        for number in range(QUEUE_MESSAGES_MAX + 10):
            await a.links.send(B, b"%d" % number)
        await trio.sleep(60)
        assert not world.opened
        world.down.clear()
        await trio.sleep(consensus.BACKOFF_S_MAX + 1)
        assert b.heard[0] == (A, b"10")
        assert b.heard[-1] == (A, b"%d" % (QUEUE_MESSAGES_MAX + 9))
        nursery.cancel_scope.cancel()


async def test_a_queue_is_bounded_in_bytes_too() -> None:
    outbox = consensus._Outbox(B)
    size = consensus.QUEUE_BYTES_MAX // 4
    for number in range(6):
        outbox.put(bytes((number,)) * size)
    assert [(await outbox.take())[0][0] for _ in range(4)] == [2, 3, 4, 5]


async def test_small_messages_leave_together_and_in_order() -> None:
    outbox = consensus._Outbox(B)
    messages = [bytes((number,)) * 1000 for number in range(100)]
    for message in messages:
        outbox.put(message)
    first, second = await outbox.take(), await outbox.take()
    assert first + second == messages
    assert sum(map(len, first)) <= PIECE_BYTES_MAX < sum(map(len, first)) + 1000


async def test_a_lost_channel_is_opened_again(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        a, b = Node(world, A), Node(world, B)
        nursery.start_soon(a.run)
        nursery.start_soon(b.run)
        await a.links.send(B, b"one")
        await trio.sleep(1)
        b.host.inbound[0].abort()
        await trio.sleep(1)
        assert a.links.connected == ()  # noticed without sending
        await a.links.send(B, b"two")
        await trio.sleep(1)
        assert b.heard == [(A, b"one"), (A, b"two")]
        assert world.opened == [(A, B), (A, B)]
        nursery.cancel_scope.cancel()


async def test_strangers_and_wrong_sizes_change_nothing(
    autojump_clock: trio.testing.MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        a, stranger = Node(world, A), MemoryHost(world, STRANGER)
        nursery.start_soon(a.run)
        await trio.sleep(0.1)
        channel = await stranger.open(A, CONSENSUS, frame_bytes_max=MESSAGE_BYTES_MAX)
        with pytest.raises(ChannelClosed):
            while True:
                await channel.send(b"let me in")
                await trio.sleep(0.1)
        assert "no witness of this network" in caplog.text
        await a.links.send(STRANGER, b"x")
        await a.links.send(A, b"x")
        await a.links.send(B, bytes(MESSAGE_BYTES_MAX + 1))
        await trio.sleep(1)
        assert a.heard == []
        assert world.opened == [(STRANGER, A)]
        nursery.cancel_scope.cancel()


async def test_the_only_witness_has_nobody_to_talk_to(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        links = ConsensusLinks(MemoryHost(world, A), A, (A,))
        nursery.start_soon(links.run, lambda _sender, _message: None)
        await trio.sleep(10)
        assert links.connected == ()
        nursery.cancel_scope.cancel()


async def test_links_follow_the_committee(autojump_clock: trio.testing.MockClock) -> None:
    async with trio.open_nursery() as nursery:
        world = World(nursery)
        nodes = {account: Node(world, account) for account in (A, B, C)}
        for node in nodes.values():
            nursery.start_soon(node.run)
        await nodes[A].links.send(B, b"one")
        await trio.sleep(1)
        for node in nodes.values():
            node.links.change((A, C))
        await nodes[A].links.send(B, b"not any more")
        await nodes[B].links.send(A, b"nor back")
        await nodes[A].links.send(C, b"two")
        await trio.sleep(1)
        assert nodes[B].heard == [(A, b"one")]
        assert nodes[C].heard == [(A, b"two")]
        assert (nodes[A].links.connected, nodes[B].links.connected) == ((C,), ())
        for node in nodes.values():
            node.links.change(())
            node.links.change((A, B, C))
        await trio.sleep(1)
        await nodes[A].links.send(B, b"three")
        await nodes[B].links.send(A, b"four")
        await trio.sleep(1)
        assert nodes[B].heard == [(A, b"one"), (A, b"three")]
        assert nodes[A].heard == [(B, b"four")]
        nursery.cancel_scope.cancel()
