"""Channels between real hosts: limits, ends, cancellation."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from p2p.core.errors import ChannelClosed, LocalProtocolError, RemoteProtocolError
from p2p.core.protocols import protocol_id
from tests.shell.p2p_host.attacker import session, speaking
from tests.shell.p2p_host.support import NETWORK, Factory, assert_serves, echo, eventually

if TYPE_CHECKING:
    from p2p.host import Host
    from p2p.streams import Channel


@pytest.fixture
async def linked(make_host: Factory) -> tuple[Host, Host]:
    """A server of `echo` and a client, connected."""
    server, client = await make_host(), await make_host()
    server.serve("echo", echo)
    await client.dial(server.addresses[0])
    return server, client


async def test_messages_of_all_sizes_come_back(linked: tuple[Host, Host]) -> None:
    server, client = linked
    async with await client.open(server.account, "echo") as channel:
        assert channel.peer == server.account
        for size in (1, 2, 65_507, 65_508, 262_144, 1 << 20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(channel.send, b"m" * size)
                assert len(await channel.receive()) == size


async def test_a_name_nobody_serves(linked: tuple[Host, Host]) -> None:
    server, client = linked
    with pytest.raises(ChannelClosed, match="does not answer nothing"):
        await client.open(server.account, "nothing")


async def test_a_name_is_served_once(linked: tuple[Host, Host]) -> None:
    with pytest.raises(LocalProtocolError, match="served already"):
        linked[0].serve("echo", echo)


async def test_our_message_over_the_limit_is_our_fault(linked: tuple[Host, Host]) -> None:
    server, client = linked
    async with await client.open(server.account, "echo", frame_bytes_max=100) as channel:
        for message in (b"", b"x" * 101):
            with pytest.raises(LocalProtocolError, match="1 to 100"):
                await channel.send(message)
        await channel.send(b"x" * 100)
        assert await channel.receive() == b"x" * 100


async def test_the_peers_message_over_the_limit_is_the_peers_fault(linked: tuple[Host, Host]) -> None:
    server, client = linked
    channel = await client.open(server.account, "echo")
    channel._decoder._frame_bytes_max = 100
    await channel.send(b"x" * 101)
    with pytest.raises(RemoteProtocolError, match="allowed are 1 to 100"):
        await channel.receive()
    with pytest.raises(ChannelClosed):
        await channel.receive()


async def test_a_closed_channel_says_so_at_both_ends(linked: tuple[Host, Host]) -> None:
    server, client = linked
    received: list[bytes] = []
    ended = trio.Event()

    async def collect(channel: Channel) -> None:
        async for message in channel:
            received.append(message)  # noqa: PERF401 - what came before an error must be seen
        ended.set()

    server.serve("collect", collect)
    channel = await client.open(server.account, "collect")
    await channel.send(b"last words")
    await channel.aclose()
    await channel.aclose()
    with trio.fail_after(2):
        await ended.wait()
    assert received == [b"last words"]
    with pytest.raises(ChannelClosed):
        await channel.send(b"x")


async def test_a_lost_connection_ends_channels(linked: tuple[Host, Host]) -> None:
    server, client = linked
    channel = await client.open(server.account, "echo")
    async with trio.open_nursery() as nursery:

        async def wait_for_the_end() -> None:
            with pytest.raises(ChannelClosed):
                await channel.receive()

        nursery.start_soon(wait_for_the_end)
        await server.disconnect(client.account)
    with pytest.raises(ChannelClosed):
        await channel.send(b"x")


@pytest.mark.parametrize("failure", [ValueError("a bug"), RemoteProtocolError("broken rule"), KeyError("x")])
async def test_a_raising_handler_ends_its_channel_only(
    linked: tuple[Host, Host], make_host: Factory, failure: Exception
) -> None:
    server, client = linked

    async def fail(channel: Channel) -> None:
        await channel.receive()
        raise failure

    server.serve("fail", fail)
    other = await client.open(server.account, "echo")
    channel = await client.open(server.account, "fail")
    await channel.send(b"x")
    with pytest.raises(ChannelClosed):
        await channel.receive()
    await other.send(b"y")
    assert await other.receive() == b"y"
    await assert_serves(server, await make_host())


async def test_streams_per_peer_are_limited_per_name(linked: tuple[Host, Host], make_host: Factory) -> None:
    server, client = linked
    server.serve("few", echo, streams_per_peer_max=2)
    channels = [await client.open(server.account, "few") for _ in range(2)]
    for channel in channels:
        await channel.send(b"x")
        await channel.receive()
    with pytest.raises(ChannelClosed):
        await (await client.open(server.account, "few")).receive()
    other = await make_host()
    await other.dial(server.addresses[0])
    third = await other.open(server.account, "few")
    await third.send(b"x")
    assert await third.receive() == b"x"


async def test_cancelled_sends_leave_the_connection_usable(linked: tuple[Host, Host]) -> None:
    """On the bare library 15 of 20 such cancellations corrupted the whole connection."""
    server, client = linked

    async def never_read(channel: Channel) -> None:
        await trio.sleep_forever()

    server.serve("never-read", never_read, streams_per_peer_max=64)
    steady = await client.open(server.account, "echo")
    for _ in range(20):
        channel = await client.open(server.account, "never-read")
        with trio.move_on_after(0.02):
            await channel.send(bytes(1 << 20))
        with pytest.raises(ChannelClosed):
            await channel.send(b"half a message was sent: nothing more can be")
        await steady.send(b"whole")
        assert await steady.receive() == b"whole"
    assert client.is_linked(server.account)


async def test_a_send_cancelled_before_it_began_leaves_the_channel_usable(linked: tuple[Host, Host]) -> None:
    server, client = linked
    channel = await client.open(server.account, "echo")
    for _ in range(20):
        with trio.CancelScope() as scope:
            scope.cancel()
            await channel.send(b"never sent")
    await channel.send(b"sent")
    assert await channel.receive() == b"sent"


async def test_cancelled_receives_lose_nothing(linked: tuple[Host, Host]) -> None:
    server, client = linked
    channel = await client.open(server.account, "echo")
    got: list[bytes] = []
    for i in range(50):
        await channel.send(b"%d" % i)
        with trio.move_on_after(0.0005):
            got.append(await channel.receive())
    while len(got) < 50:
        got.append(await channel.receive())
    assert got == [b"%d" % i for i in range(50)]


async def test_a_peer_that_does_not_read_costs_the_time_given(linked: tuple[Host, Host]) -> None:
    server, client = linked

    async def never_read(channel: Channel) -> None:
        await trio.sleep_forever()

    server.serve("never-read", never_read)
    channel = await client.open(server.account, "never-read")
    with pytest.raises(ChannelClosed, match=r"did not read for 0\.1 s"):
        await channel.send(bytes(1 << 20), timeout_s=0.1)


@pytest.mark.parametrize("step", [1, 3, 1000])
async def test_frames_cut_anywhere_are_understood(linked: tuple[Host, Host], step: int) -> None:
    server, client = linked
    async with session(server.addresses[0]) as muxed:
        stream = await speaking(muxed, protocol_id(NETWORK, "echo"))
        data = b"".join(len(m).to_bytes(4, "big") + m for m in (b"one", b"three" * 30, b"x"))
        for at in range(0, len(data), step):
            await stream.write(data[at : at + step])
        with trio.fail_after(5):
            assert await stream.read(len(data)) == data
    await eventually(lambda: len(server.links()) == 1)
    assert client.is_linked(server.account)
