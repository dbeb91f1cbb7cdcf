"""Raw gossip, the routing table and mDNS between real hosts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing

from ledger.core.encoding import NetworkId
from p2p.core.errors import LocalProtocolError
from p2p.core.protocols import mdns_service, topic_id
from p2p.core.verdict import Verdict
from p2p.host import HostConfig, open_host
from p2p.pubsub import MESSAGE_BYTES_MAX
from tests.shell.p2p_host.support import NETWORK, Factory, eventually, new_key

if TYPE_CHECKING:
    from ledger.core.keys import AccountId
    from p2p.host import Host

TOPIC = topic_id(NETWORK, "t")


def accept(_author: AccountId, _data: bytes) -> bool:
    return True


async def meshed(*hosts: Host) -> None:
    await eventually(lambda: all(host._gossip._router.mesh.get(TOPIC) for host in hosts))


async def test_a_message_reaches_everybody_once_with_its_author(make_host: Factory) -> None:
    a, b, c = [await make_host() for _ in range(3)]
    topics = [host.join_topic("t", accept) for host in (a, b, c)]
    await b.dial(a.addresses[0])
    await c.dial(b.addresses[0])
    await meshed(a, b, c)
    for i in range(20):
        await a.publish("t", b"%d" % i)
    for topic in topics[1:]:
        with trio.fail_after(5):
            assert [await topic.receive() for _ in range(20)] == [(a.account, b"%d" % i) for i in range(20)]
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert all(topic._receive.statistics().current_buffer_used == 0 for topic in topics)


@pytest.mark.parametrize("verdict", [False, Verdict.REJECT, Verdict.IGNORE])
async def test_what_is_not_accepted_goes_no_further(make_host: Factory, verdict: Verdict | bool) -> None:
    a, b, c = [await make_host() for _ in range(3)]
    seen: list[tuple[AccountId, bytes]] = []

    def judge(author: AccountId, data: bytes) -> Verdict | bool:
        seen.append((author, data))
        return verdict if data == b"bad" else Verdict.ACCEPT

    a.join_topic("t", accept)
    middle = b.join_topic("t", judge)
    end = c.join_topic("t", accept)
    await b.dial(a.addresses[0])
    await c.dial(b.addresses[0])
    await meshed(a, b, c)
    await a.publish("t", b"bad")
    await a.publish("t", b"good")
    with trio.fail_after(5):
        assert await middle.receive() == (a.account, b"good")
        assert await end.receive() == (a.account, b"good")
    assert sorted(seen) == [(a.account, b"bad"), (a.account, b"good")]


async def test_a_restarted_node_is_heard_at_once(make_host: Factory) -> None:
    """Message numbers of the bare library start at the second: 55 of 60 messages were taken for old ones."""
    a, key = await make_host(), new_key()
    topic = a.join_topic("t", accept)
    for i in range(3):
        async with open_host(HostConfig(listen=()), key, NETWORK) as b:
            b.join_topic("t", accept)
            await b.dial(a.addresses[0])
            await meshed(b)
            for j in range(5):
                await b.publish("t", b"%d %d" % (i, j))
            with trio.fail_after(5):
                assert [(await topic.receive())[1] for _ in range(5)] == [b"%d %d" % (i, j) for j in range(5)]
        await eventually(lambda: not a.links())


async def test_peers_that_dial_each_other_hear_each_other(make_host: Factory) -> None:
    """The subscription was forgotten with the connection that both gave up, and never told again."""
    for _ in range(3):
        a, b = await make_host(), await make_host()
        at_a, at_b = a.join_topic("t", accept), b.join_topic("t", accept)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.dial, b.addresses[0])
            nursery.start_soon(b.dial, a.addresses[0])
        await eventually(
            lambda a=a, b=b: len(a._swarm.get_connections()) == 1 == len(b._swarm.get_connections())
        )
        await trio.testing.wait_all_tasks_blocked(0.02)
        engines = (a._gossip._engine, b._gossip._engine)
        await eventually(lambda engines=engines: all(engine.peers for engine in engines))
        await meshed(a, b)
        await a.publish("t", b"from a")
        await b.publish("t", b"from b")
        with trio.fail_after(5):
            assert await at_a.receive() == (b.account, b"from b")
            assert await at_b.receive() == (a.account, b"from a")


async def test_a_failing_heartbeat_ends_nothing(make_host: Factory, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the bare library any exception in the mesh's upkeep ends the service, and with it the node."""
    a, b = await make_host(), await make_host()
    router = a._gossip._router
    healthy, failed = router.mesh_heartbeat, trio.Event()

    def fail_once() -> object:
        monkeypatch.setattr(router, "mesh_heartbeat", healthy)
        failed.set()
        raise KeyError("a bug in the mesh")

    monkeypatch.setattr(router, "mesh_heartbeat", fail_once)
    with trio.fail_after(5):
        await failed.wait()
    topic = b.join_topic("t", accept)
    a.join_topic("t", accept)
    await b.dial(a.addresses[0])
    await meshed(a, b)
    await a.publish("t", b"x")
    with trio.fail_after(5):
        assert await topic.receive() == (a.account, b"x")


async def test_limits_and_mistakes(make_host: Factory) -> None:
    a = await make_host()
    a.join_topic("t", accept)
    with pytest.raises(LocalProtocolError, match="joined already"):
        a.join_topic("t", accept)
    with pytest.raises(LocalProtocolError, match="at most"):
        await a.publish("t", bytes(MESSAGE_BYTES_MAX + 1))


async def test_a_slow_reader_misses_the_newest_and_costs_no_memory(make_host: Factory) -> None:
    a = await make_host()
    topic = a.join_topic("t", accept)
    for i in range(2000):
        topic.deliver(a.account, b"%d" % i)
    assert topic.dropped == 2000 - 1024
    assert await topic.receive() == (a.account, b"0")


async def test_two_networks_do_not_mix(make_host: Factory) -> None:
    other = NetworkId(bytes(32))
    a = await make_host()
    topic = a.join_topic("t", accept)
    async with open_host(HostConfig(), new_key(), other) as b:
        b.join_topic("t", accept)
        await b.dial(a.addresses[0])
        await trio.testing.wait_all_tasks_blocked(0.02)
        assert not b._gossip._router.mesh[topic_id(other, "t")]
        await b.publish("t", b"x")
        await b.dht_add_peer(a.account)
        assert not await b.dht_provide(b"key")
        assert topic._receive.statistics().current_buffer_used == 0


async def test_the_routing_table_finds_who_has_a_key(make_host: Factory) -> None:
    hub, b, c = [await make_host() for _ in range(3)]
    for host in (b, c):
        await host.dial(hub.addresses[0])
        assert await host.dht_add_peer(hub.account)
        await host.dht_refresh()
    assert await b.dht_provide(b"a key longer than the fifty bytes that the library would refuse")
    found = await c.dht_find(b"a key longer than the fifty bytes that the library would refuse")
    assert [account for account, _ in found] == [b.account]
    assert await c.dht_find(b"another key") == []
    c.add_addresses(*found[0])
    await c.open(b.account, "x") if False else None
    assert c._reachable(b.account)


async def test_neighbours_find_each_other_by_mdns(make_host: Factory) -> None:
    """Skipped where the machine has no multicast."""
    a, b = await make_host(), await make_host()
    service = mdns_service(NETWORK)
    at_a, at_b = a.start_mdns(service), b.start_mdns(service)
    with trio.move_on_after(6):
        found = await at_a.receive()
        assert found.account == b.account
        assert found.addresses == (b.addresses[0].partition("/p2p/")[0],)
        assert (await at_b.receive()).account == a.account
        return
    pytest.skip("no multicast here")
