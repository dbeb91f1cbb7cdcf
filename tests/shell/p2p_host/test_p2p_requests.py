"""Requests: pipelined over one stream, in any order, through failures."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
import trio
import trio.testing
from libp2p.stream_muxer.exceptions import MuxedStreamError

from p2p.core.errors import ChannelClosed, DialError, LocalProtocolError, RequestRefused, RequestTimeout
from p2p.core.protocols import protocol_id
from p2p.requests import UNSENT_BYTES_MAX, Requests
from tests.shell.p2p_host.attacker import session, speaking
from tests.shell.p2p_host.support import NETWORK, Factory, eventually, new_key

if TYPE_CHECKING:
    from ledger.core.keys import AccountId
    from p2p.host import Host


async def reverse(_peer: AccountId, body: bytes) -> bytes:
    return body[::-1]


@pytest.fixture
async def linked(make_host: Factory) -> tuple[Host, Requests, Host, Requests]:
    """A server of `reverse` and a client, connected."""
    server, client = await make_host(), await make_host()
    await client.dial(server.addresses[0])
    ours, theirs = Requests(server), Requests(client)
    ours.serve("reverse", reverse, body_bytes_max=100_000)
    return server, ours, client, theirs


async def test_many_at_once_over_one_stream(linked: tuple[Host, Requests, Host, Requests]) -> None:
    server, _, _, requests = linked
    answers: dict[int, bytes] = {}

    async def ask(i: int) -> None:
        answers[i] = await requests.request(server.account, "reverse", b"%05d" % i, 10)

    async with trio.open_nursery() as nursery:
        for i in range(300):
            nursery.start_soon(ask, i)
    assert answers == {i: (b"%05d" % i)[::-1] for i in range(300)}
    assert len(requests._lines) == 1
    assert not next(iter(requests._lines.values())).waiting


async def test_the_answerer_knows_who_asks_and_the_empty_body_is_one(
    linked: tuple[Host, Requests, Host, Requests],
) -> None:
    server, ours, client, requests = linked

    async def who(peer: AccountId, body: bytes) -> bytes:
        return peer + body

    ours.serve("who", who)
    assert await requests.request(server.account, "who", b"", 2) == client.account


async def test_a_slow_answer_does_not_hold_up_a_quick_one(
    linked: tuple[Host, Requests, Host, Requests],
) -> None:
    server, ours, _, requests = linked
    release = trio.Event()

    async def answer(_peer: AccountId, body: bytes) -> bytes:
        if body == b"slow":
            await release.wait()
        return body

    ours.serve("mixed", answer)
    order: list[bytes] = []

    async def ask(body: bytes) -> None:
        order.append(await requests.request(server.account, "mixed", body, 5))
        release.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, b"slow")
        await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.start_soon(ask, b"quick")
    assert order == [b"quick", b"slow"]


async def test_no_answer_in_time(linked: tuple[Host, Requests, Host, Requests]) -> None:
    server, ours, _, requests = linked

    async def never(_peer: AccountId, _body: bytes) -> bytes:
        await trio.sleep_forever()
        return b""

    ours.serve("never", never)
    with pytest.raises(RequestTimeout, match=r"0\.1 s") as caught:
        await requests.request(server.account, "never", b"x", 0.1)
    assert isinstance(caught.value, TimeoutError)
    assert await requests.request(server.account, "reverse", b"ab", 2) == b"ba"


async def test_a_failing_answer_is_a_refusal_without_details(
    linked: tuple[Host, Requests, Host, Requests],
) -> None:
    server, ours, _, requests = linked

    async def fail(_peer: AccountId, body: bytes) -> bytes:
        raise ValueError("secret details") if body == b"bug" else KeyError(body)

    async def too_long(_peer: AccountId, _body: bytes) -> bytes:
        return bytes(2000)

    ours.serve("fail", fail)
    ours.serve("too-long", too_long, body_bytes_max=1000)
    for name, body in (("fail", b"bug"), ("fail", b"other"), ("too-long", b"x")):
        with pytest.raises(RequestRefused) as caught:
            await requests.request(server.account, name, body, 2)
        assert isinstance(caught.value, ConnectionError)
        assert "secret" not in str(caught.value)
    assert await requests.request(server.account, "reverse", b"ab", 2) == b"ba"


async def test_a_body_over_the_limit_is_our_fault(linked: tuple[Host, Requests, Host, Requests]) -> None:
    server, _, _, requests = linked
    with pytest.raises(LocalProtocolError, match="at most 10"):
        await requests.request(server.account, "reverse", b"x" * 11, 2, body_bytes_max=10)


async def test_one_over_the_servers_limit_breaks_the_line_and_the_next_mends_it(
    linked: tuple[Host, Requests, Host, Requests],
) -> None:
    server, _, _, requests = linked
    with pytest.raises(ChannelClosed):
        await requests.request(server.account, "reverse", b"x" * 200_000, 2)
    assert await requests.request(server.account, "reverse", b"ab", 2) == b"ba"


async def test_it_reconnects_after_a_break(linked: tuple[Host, Requests, Host, Requests]) -> None:
    server, _, client, requests = linked
    for _ in range(3):
        assert await requests.request(server.account, "reverse", b"ab", 2) == b"ba"
        await client.disconnect(server.account)
        await eventually(lambda: not server.links())


async def test_waiting_requests_fail_when_the_peer_goes(
    linked: tuple[Host, Requests, Host, Requests],
) -> None:
    server, ours, client, requests = linked

    async def never(_peer: AccountId, _body: bytes) -> bytes:
        await server.disconnect(client.account)
        await trio.sleep_forever()
        return b""

    ours.serve("never", never)
    with pytest.raises(ChannelClosed), trio.fail_after(3):
        await requests.request(server.account, "never", b"x", 10)


async def test_nobody_there(linked: tuple[Host, Requests, Host, Requests]) -> None:
    server, _, _, requests = linked
    with pytest.raises(DialError):
        await requests.request(new_key().account, "reverse", b"x", 2)
    with pytest.raises(ChannelClosed):
        await requests.request(server.account, "not-served", b"x", 2)


async def test_a_peer_that_sends_half_a_request_id(linked: tuple[Host, Requests, Host, Requests]) -> None:
    server, _, _, requests = linked
    async with session(server.addresses[0]) as muxed:
        stream = await speaking(muxed, protocol_id(NETWORK, "reverse"))
        await stream.write(b"\x00\x00\x00\x02ab")
        with pytest.raises(Exception, match=r"reset|closed"), trio.fail_after(3):
            await stream.read(1)
    assert await requests.request(server.account, "reverse", b"ab", 2) == b"ba"


async def test_the_bytes_of_the_spec(linked: tuple[Host, Requests, Host, Requests]) -> None:
    server, *_ = linked
    async with session(server.addresses[0]) as muxed:
        stream = await speaking(muxed, protocol_id(NETWORK, "reverse"))
        await stream.write(bytes.fromhex("0000000700000001616263"))
        with trio.fail_after(3):
            assert await stream.read(12) == bytes.fromhex("000000080000000100636261")


async def test_askers_that_do_not_read_are_hung_up_on(make_host: Factory) -> None:
    """Twenty free keys that read nothing made a witness hold 220 MB of answers."""
    host = await make_host()
    held = 0

    async def answer(_peer: AccountId, body: bytes) -> bytes:
        return body * (1 << 20)

    requests = Requests(host)
    requests.serve("big", answer, body_bytes_max=1 << 20, question_bytes_max=16)
    question = (5).to_bytes(4, "big") + (1).to_bytes(4, "big") + b"x"
    async with trio.open_nursery() as nursery:

        async def ask_and_not_read() -> None:
            nonlocal held
            with contextlib.suppress(MuxedStreamError):
                async with session(host.addresses[0]) as muxed:
                    stream = await speaking(muxed, protocol_id(NETWORK, "big"))
                    held += 1
                    await stream.write(question * 20)
                    while not stream.was_reset:  # noqa: ASYNC110 - it has no event for us
                        await trio.sleep(0.01)
                held -= 1

        for _ in range(3):
            nursery.start_soon(ask_and_not_read)
        await eventually(lambda: held == 3)
        await eventually(lambda: held < 3)
        assert requests._unsent._bytes.total() <= UNSENT_BYTES_MAX
        friend = await make_host()
        await friend.dial(host.addresses[0])
        assert await Requests(friend).request(host.account, "big", b"y", 5) == b"y" * (1 << 20)
        nursery.cancel_scope.cancel()
