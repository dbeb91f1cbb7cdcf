"""Connections: who is let in, who is not, how they end."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from ledger.core.keys import account_from_peer_id, peer_id
from p2p.core.errors import DialError, ListenError
from p2p.host import HostConfig, LinkState, open_host
from tests.shell.p2p_host.support import NETWORK, Factory, assert_serves, echo, eventually, new_key


async def test_a_dial_makes_one_link_at_both_ends(make_host: Factory) -> None:
    a, b = await make_host(), await make_host()
    events = a.link_events()
    assert await b.dial(a.addresses[0]) == a.account
    assert await b.dial(a.addresses[0]) == a.account  # again: nothing happens
    await eventually(lambda: a.is_linked(b.account))
    assert [(link.account, link.inbound) for link in a.links()] == [(b.account, True)]
    assert [(link.account, link.inbound) for link in b.links()] == [(a.account, False)]
    await b.disconnect(a.account)
    assert b.links() == ()
    await eventually(lambda: not a.links())
    assert [(e.state, e.link.account) for e in (await events.receive(), await events.receive())] == [
        (LinkState.UP, b.account),
        (LinkState.DOWN, b.account),
    ]


async def test_the_address_names_the_account(make_host: Factory) -> None:
    key = new_key()
    host = await make_host(key)
    assert account_from_peer_id(host.addresses[0].rpartition("/")[2]) == key.account
    assert host.peer_id == peer_id(key.account)


async def test_a_wildcard_is_not_advertised(make_host: Factory) -> None:
    host = await make_host(listen=("/ip4/0.0.0.0/tcp/0",))
    assert host.addresses
    assert not any("/0.0.0.0/" in address for address in host.addresses)
    friend = await make_host()
    await friend.dial(host.addresses[-1])


async def test_another_key_than_the_address_says_is_not_accepted(make_host: Factory) -> None:
    a, b = await make_host(), await make_host()
    liar = a.addresses[0].rpartition("/")[0] + "/" + peer_id(new_key().account)
    with pytest.raises(DialError):
        await b.dial(liar)
    assert b.links() == ()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "/ip4/127.0.0.1/tcp/4001",
        "/ip4/127.0.0.1/tcp/4001/p2p/Qmnonsense",
        "/ip4/127.0.0.1/udp/4001/quic-v1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        "/ip4/999.0.0.1/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        "/ip4/127.0.0.1/tcp/99999/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        "/ip4/127.0.0.1/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
        "/dns4/" + "x" * 500 + "/tcp/1/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    ],
)
async def test_an_address_that_leads_nowhere_is_a_dial_error(make_host: Factory, address: str) -> None:
    host = await make_host()
    with pytest.raises(DialError), trio.fail_after(5):
        await host.dial(address)


async def test_we_do_not_dial_ourselves(make_host: Factory) -> None:
    host = await make_host()
    with pytest.raises(DialError, match="ourselves"):
        await host.dial(host.addresses[0])


async def test_a_peer_that_never_answers_costs_the_time_given(make_host: Factory) -> None:
    host = await make_host()
    silent = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = silent[0].socket.getsockname()[1]
    with pytest.raises(DialError, match=r"0\.2 s"):
        await host.dial(f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(new_key().account)}", timeout_s=0.2)
    await silent[0].aclose()


async def test_a_dial_given_up_in_the_handshake_closes_its_socket(make_host: Factory) -> None:
    host = await make_host()
    silent = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = silent.socket.getsockname()[1]
    address = f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(new_key().account)}"
    async with trio.open_nursery() as nursery, silent:
        dialling = trio.CancelScope()

        async def dial() -> None:
            with dialling:
                await host.dial(address)

        nursery.start_soon(dial)
        stream = await silent.accept()
        assert await stream.receive_some(1)  # the handshake has begun, and gets no answer
        dialling.cancel()
        with trio.fail_after(5):
            while await stream.receive_some(1024):
                pass
        await stream.aclose()


async def test_peers_that_dial_each_other_keep_one_connection(make_host: Factory) -> None:
    for _ in range(3):
        a, b = await make_host(), await make_host()
        a.serve("echo", echo)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.dial, b.addresses[0])
            nursery.start_soon(b.dial, a.addresses[0])
        await eventually(lambda a=a, b=b: len(a.links()) == 1 == len(b.links()))
        await eventually(lambda a=a, b=b: a.links()[0].inbound != b.links()[0].inbound)
        channel = await b.open(a.account, "echo")
        await channel.send(b"x")
        assert await channel.receive() == b"x"


async def test_a_peer_that_comes_back_replaces_its_old_self(make_host: Factory) -> None:
    host = await make_host()
    host.serve("echo", echo)
    key = new_key()
    async with open_host(HostConfig(listen=()), key, NETWORK) as first:
        await first.dial(host.addresses[0])
        async with open_host(HostConfig(listen=()), key, NETWORK) as second:
            await second.dial(host.addresses[0])
            await eventually(lambda: not first.links())
            channel = await second.open(host.account, "echo")
            await channel.send(b"x")
            assert await channel.receive() == b"x"


@pytest.mark.parametrize(
    "listen", ["/ip4/127.0.0.1/tcp/PORT", "/ip4/192.0.2.1/tcp/0", "garbage", "/ip4/127.0.0.1/udp/1"]
)
async def test_not_listening_is_an_error(make_host: Factory, listen: str) -> None:
    taken = (await make_host()).addresses[0].split("/")[4]
    with pytest.raises(ListenError, match="cannot listen"):
        await make_host(listen=("/ip4/127.0.0.1/tcp/0", listen.replace("PORT", taken)))


async def test_known_addresses_are_dialled_on_demand(make_host: Factory) -> None:
    a, b = await make_host(), await make_host()
    a.serve("echo", echo)
    b.add_addresses(a.account, ["/ip4/127.0.0.1/tcp/1", "garbage", a.addresses[0]])
    channel = await b.open(a.account, "echo")
    await channel.send(b"x")
    assert await channel.receive() == b"x"
    with pytest.raises(DialError, match="no known addresses"):
        await b.open(new_key().account, "echo")


async def test_the_banned_stay_out(make_host: Factory) -> None:
    a, b, c = [await make_host() for _ in range(3)]
    a.serve("echo", echo)
    await b.dial(a.addresses[0])
    await eventually(lambda: a.is_linked(b.account))
    await a.ban(b.account, 60)
    await eventually(lambda: not b.links())
    for host, address in ((b, a.addresses[0]), (a, b.addresses[0])):
        try:
            await host.dial(address)
        except DialError:
            continue
        await eventually(lambda host=host: not host.links())
    assert not a.is_linked(b.account)
    await assert_serves(a, c)


async def test_three_hundred_reconnects(make_host: Factory) -> None:
    """The bare library lets nobody in after 250 connections in its lifetime."""
    a, b = await make_host(), await make_host(listen=())
    a.serve("echo", echo)
    async with trio.open_nursery() as nursery:

        async def come_and_go(count: int) -> None:
            async with open_host(HostConfig(listen=(), dht_server=False), new_key(), NETWORK) as host:
                for _ in range(count):
                    await host.dial(a.addresses[0])
                    await host.disconnect(a.account)

        for _ in range(10):
            nursery.start_soon(come_and_go, 30)
    await eventually(lambda: not a.links())
    await assert_serves(a, b)


async def test_a_closed_host_leaves_no_task(make_host: Factory) -> None:
    await trio.testing.wait_all_tasks_blocked()
    before = trio.lowlevel.current_statistics().tasks_living
    async with (
        open_host(HostConfig(), new_key(), NETWORK) as a,
        open_host(HostConfig(), new_key(), NETWORK) as b,
    ):
        a.serve("echo", echo)
        a.join_topic("t", lambda _author, _data: True)
        await b.dial(a.addresses[0])
        await (await b.open(a.account, "echo")).send(b"x")
    await trio.testing.wait_all_tasks_blocked()
    assert trio.lowlevel.current_statistics().tasks_living <= before


async def test_closing_a_hub_is_quick(make_host: Factory) -> None:
    """The bare library closed 40 connections one after the other: 12 s."""
    spokes = [await make_host(listen=(), dht_server=False) for _ in range(8)]
    async with open_host(HostConfig(), new_key(), NETWORK) as hub:
        for spoke in spokes:
            await spoke.dial(hub.addresses[0])
        started_s = trio.current_time()
    assert trio.current_time() - started_s < 2
    await eventually(lambda: not any(spoke.links() for spoke in spokes))
