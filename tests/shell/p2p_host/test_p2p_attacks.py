"""What ended a whole node of the bare library, and what starved it: here the node serves on.

Each attack is sent by a peer that has proved a key of its own and then breaks the rules.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio
import trio.lowlevel
import trio.testing
from libp2p.pubsub.pb import rpc_pb2
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p.core import yamux
from p2p.core.protocols import protocol_id, topic_id
from p2p.core.yamux import encode_header
from p2p.host import AdmissionLimits
from p2p.muxer import STREAMS_INBOUND_MAX
from tests.shell.p2p_host.attacker import delimited, secured, session, speaking
from tests.shell.p2p_host.support import NETWORK, Factory, assert_serves, echo, eventually, new_key

if TYPE_CHECKING:
    from ledger.core.keys import SigningKey
    from p2p.host import Host

MESHSUB = "/meshsub/1.1.0"
ADVERTS = topic_id(NETWORK, "adverts")


@pytest.fixture
async def victim(make_host: Factory) -> Host:
    """A node that serves `echo` and takes part in a topic."""
    host = await make_host()
    host.serve("echo", echo)
    host.join_topic("adverts", lambda _author, data: data != b"invalid")
    return host


async def is_refused(host: Host, key: SigningKey) -> bool:
    """Whether a peer cannot get a stream; at which of the many steps is not the point."""
    try:
        with trio.fail_after(3):
            async with session(host.addresses[0], key) as muxed:
                await speaking(muxed, MESHSUB)
    except Exception:  # noqa: BLE001 - see above
        return True
    return False


def varint(size: int) -> bytes:
    out = bytearray()
    while size >= 0x80:
        out.append(size & 0x7F | 0x80)
        size >>= 7
    return bytes((*out, size))


def framed(rpc: rpc_pb2.RPC) -> bytes:
    data = rpc.SerializeToString()
    return varint(len(data)) + data


@pytest.mark.parametrize(
    "bytes_sent",
    [
        b"\xff\xfe\xfd\xfc" * 10,
        delimited(b"/multistream/1.0.0") + b"\x05\xff\xff\xff\xff\n",
        b"\xff" * 100,
        delimited(b"/multistream/1.0.0") + b"\x00" * 50,
        delimited(b"/multistream/1.0.0") + delimited(b"na") * 30,
        delimited(b"/plaintext/2.0.0"),
        b"GET / HTTP/1.1\r\n\r\n",
        varint(1 << 30),
    ],
    ids=range(8),
)
@pytest.mark.parametrize("where", ["socket", "stream"])
async def test_garbage_in_a_negotiation(
    victim: Host, make_host: Factory, where: str, bytes_sent: bytes
) -> None:
    """Bytes that are not UTF-8 on any stream ended the node."""
    if where == "socket":
        _, _, host, _, port, *_ = victim.addresses[0].split("/")
        async with await trio.open_tcp_stream(host, int(port)) as stream:
            await stream.send_all(bytes_sent)
            await trio.testing.wait_all_tasks_blocked(0.005)
    else:
        async with session(victim.addresses[0]) as muxed:
            stream = await muxed.open_stream()
            await stream.write(bytes_sent)
            await trio.testing.wait_all_tasks_blocked(0.005)
    await assert_serves(victim, await make_host())


async def test_garbage_after_the_handshake(victim: Host, make_host: Factory) -> None:
    conn, _ = await secured(victim.addresses[0])
    await conn.write(b"\xff" * 65_000)
    await assert_serves(victim, await make_host())
    await conn.close()


def rpcs() -> dict[str, bytes]:
    """Pubsub RPCs against the rules."""
    bad_key = rpc_pb2.RPC()
    bad_key.publish.add(
        data=b"x",
        topicIDs=[ADVERTS],
        from_id=b"\x12\x20" + bytes(32),
        seqno=bytes(8),
        key=b"\xff" * 9,
        signature=b"s",
    )
    many = rpc_pb2.RPC()
    for i in range(8000):
        many.publish.add(data=b"x", topicIDs=[ADVERTS], seqno=i.to_bytes(8, "big"))
    topics = rpc_pb2.RPC()
    topics.subscriptions.extend(rpc_pb2.RPC.SubOpts(subscribe=True, topicid=f"t{i}") for i in range(10_000))
    return {
        "garbage": varint(60) + b"\xff" * 60,
        "not-a-varint": b"\xff" * 20,
        "too-long": varint(1 << 24),
        "unparsable-key": framed(bad_key),
        "8000-messages": framed(many)[:131_072],
        "10000-topics": framed(topics)[:131_072],
        "empty": b"\x00" * 100,
    }


@pytest.mark.parametrize("name", rpcs())
async def test_pubsub_rpcs_against_the_rules(victim: Host, make_host: Factory, name: str) -> None:
    """A garbage RPC, or a key that does not parse, ended the node; 8,000 messages froze it for 31 s."""
    async with session(victim.addresses[0]) as muxed:
        stream = await speaking(muxed, MESHSUB)
        with contextlib.suppress(MuxedStreamError), trio.move_on_after(2):
            await stream.write(rpcs()[name])
            await trio.testing.wait_all_tasks_blocked(0.005)
        started_s = trio.current_time()
        await assert_serves(victim, await make_host())
        assert trio.current_time() - started_s < 2


async def test_forged_messages_get_their_sender_cut_and_banned(victim: Host, make_host: Factory) -> None:
    """RELIABILITY N9: none delivered, the sender cut."""
    key = new_key()
    forged = rpc_pb2.RPC()
    author = b"\x00\x24\x08\x01\x12\x20" + new_key().account
    for i in range(30):
        forged.publish.add(
            data=b"x", topicIDs=[ADVERTS], from_id=author, seqno=i.to_bytes(8, "big"), signature=bytes(64)
        )
    async with session(victim.addresses[0], key) as muxed:
        stream = await speaking(muxed, MESHSUB)
        with contextlib.suppress(MuxedStreamError):
            await stream.write(framed(forged))
        await eventually(lambda: not victim.is_linked(key.account) and not muxed.is_established)
    assert await is_refused(victim, key)
    assert not victim.is_linked(key.account)
    await assert_serves(victim, await make_host())


async def test_control_messages_for_unknown_topics_leave_nothing_behind(
    victim: Host, make_host: Factory
) -> None:
    """They grew memory without end (RELIABILITY N6)."""
    router = victim._gossip._router
    async with session(victim.addresses[0]) as muxed:
        stream = await speaking(muxed, MESHSUB)
        for round_ in range(40):
            rpc = rpc_pb2.RPC()
            for i in range(50):
                topic = f"{round_}-{i}"
                rpc.control.graft.add(topicID=topic)
                rpc.control.prune.add(topicID=topic, backoff=1 << 40)
                rpc.control.ihave.add(topicID=topic, messageIDs=[b"00" * 40] * 20)
                rpc.control.idontwant.add(messageIDs=[bytes(40)])
                rpc.subscriptions.add(subscribe=True, topicid=topic) if i < 16 else None
            await stream.write(framed(rpc))
        await trio.testing.wait_all_tasks_blocked(0.01)
        tables = (router.back_off, router.mesh, router.graft_flood_tracking, router.ihave_message_limits)
        assert sum(len(str(dict(table))) for table in tables) < 5000
        assert len(victim._gossip._engine.peer_topics) <= 1
    await assert_serves(victim, await make_host())


async def test_a_flood_of_streams_stops_nobody_else(victim: Host, make_host: Factory) -> None:
    """10,000 held streams of one peer stopped streams for everybody (RELIABILITY N7)."""
    friend = await make_host()
    async with session(victim.addresses[0]) as muxed:
        with contextlib.suppress(MuxedStreamError):
            for stream_id in range(101, 101 + 2 * 5000, 2):
                muxed.post(encode_header(yamux.WINDOW_UPDATE, yamux.SYN, stream_id, 0))
                if stream_id % 200 == 1:
                    await trio.lowlevel.checkpoint()
        await trio.testing.wait_all_tasks_blocked(0.005)
        for conn in victim._swarm.get_connections():
            assert conn.muxed_conn.stream_count <= STREAMS_INBOUND_MAX + 8
        await assert_serves(victim, friend)


async def test_silent_sockets_do_not_keep_friends_out(make_host: Factory) -> None:
    """250 silent sockets kept everybody out for 10 s (RELIABILITY N3)."""
    host = await make_host(
        admission=AdmissionLimits(pending_per_address_max=4, loopback_factor=2, pending_max=32)
    )
    host.serve("echo", echo)
    _, _, name, _, port, *_ = host.addresses[0].split("/")
    silent = [await trio.open_tcp_stream(name, int(port)) for _ in range(200)]
    await assert_serves(host, await make_host())
    listener = next(iter(host._swarm.listeners.values()))
    assert listener.pending_count <= 8
    for stream in silent:
        await stream.aclose()


async def test_a_silent_socket_is_closed_when_its_time_is_up(make_host: Factory) -> None:
    host = await make_host(admission=AdmissionLimits(handshake_timeout_s=0.2))
    _, _, name, _, port, *_ = host.addresses[0].split("/")
    async with await trio.open_tcp_stream(name, int(port)) as stream:
        with trio.fail_after(2):
            while await stream.receive_some():
                pass


async def test_one_address_holds_so_many_connections(make_host: Factory) -> None:
    limits = AdmissionLimits(connections_per_address_max=3, loopback_factor=1, pending_per_address_max=3)
    host = await make_host(admission=limits)
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(3):
            await stack.enter_async_context(session(host.addresses[0]))
        await eventually(lambda: len(host.links()) == 3)
        assert await is_refused(host, new_key())
        assert len(host.links()) == 3


async def test_a_raising_validator_ends_nothing(make_host: Factory) -> None:
    a, b = await make_host(), await make_host()
    a.serve("echo", echo)

    def fail(_author: bytes, _data: bytes) -> bool:
        raise ValueError("a bug in the validator")

    a.join_topic("adverts", fail)
    b.join_topic("adverts", lambda _author, _data: True)
    await b.dial(a.addresses[0])
    await eventually(lambda: bool(b._gossip._router.mesh.get(ADVERTS)))
    await b.publish("adverts", b"x")
    await trio.testing.wait_all_tasks_blocked(0.01)
    await assert_serves(a, await make_host())


async def test_idle_dht_streams_do_not_starve_the_dht(victim: Host, make_host: Factory) -> None:
    """Twelve idle streams stopped it."""
    friend = await make_host()
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(8):
            muxed = await stack.enter_async_context(session(victim.addresses[0]))
            for _ in range(3):
                await speaking(muxed, protocol_id(NETWORK, "kad"))
        await friend.dial(victim.addresses[0])
        await friend.dht_add_peer(victim.account)
        with trio.fail_after(5):
            assert await friend.dht_provide(b"some key")
    assert [account for account, _ in await victim.dht_find(b"some key")] == [friend.account]
