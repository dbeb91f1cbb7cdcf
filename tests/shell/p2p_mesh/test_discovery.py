"""Dialling without a network: back-off, whom not to dial, what a neighbour may make us believe (SPEC.md §11)."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ledger.core.encoding import NetworkId
from ledger.core.keys import AccountId, SigningKey, peer_id
from p2p.core.addresses import parse_address
from p2p.core.conduct import INVALID_POINTS, Conduct
from p2p.core.errors import DialError
from p2p.core.messages import Denied, PeersAnswer, PeersQuestion, SummaryQuestion, decode_answer
from p2p.core.peers import PeerBook, Trust
from p2p.discovery import (
    BOOTSTRAP_RETRY_MAX_MS,
    DIALS_PER_HOST_BURST,
    QUESTION_BURST,
    Discovery,
    DiscoveryTiming,
    dht_key,
)
from p2p.host import Link
from p2p.lan import Found

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

ME = SigningKey(bytes(32)).account
NETWORK = NetworkId(bytes(range(32)))


def account(number: int) -> AccountId:
    return AccountId((number + 2).to_bytes(32, "little"))


def at(number: int, host: str = "127.0.0.1") -> str:
    return f"/ip4/{host}/tcp/{4000 + number}/p2p/{peer_id(account(number))}"


class Town:
    """Stands in for the host and its requests: who listens where, and what was tried when."""

    def __init__(self, listen: str = "/ip4/127.0.0.1/tcp/4000") -> None:
        self.account = ME
        self.network_id = NETWORK
        self.addresses = (f"{listen}/p2p/{peer_id(ME)}",)
        self.open: set[str] = set()
        self.up: dict[AccountId, Link] = {}
        self.tried: list[tuple[float, str]] = []
        self.answers: dict[AccountId, bytes] = {}
        self.asked: list[bytes] = []
        self.announce, self.near = trio.open_memory_channel[Found](8)
        self.mdns_service = ""
        self.dht_calls: list[str] = []
        self.dht_finds: list[tuple[AccountId, tuple[str, ...]]] = []
        self.served: dict[str, Callable[[AccountId, bytes], Awaitable[bytes]]] = {}

    def links(self) -> tuple[Link, ...]:
        return tuple(self.up.values())

    def is_linked(self, account: AccountId) -> bool:
        return account in self.up

    def link_from(self, account: AccountId, host: str) -> None:
        self.up[account] = Link(account, f"/ip4/{host}/tcp/55555", inbound=True)

    async def dial(self, address: str) -> AccountId:
        self.tried.append((trio.current_time(), address))
        await trio.lowlevel.checkpoint()
        if address not in self.open:
            raise DialError("nobody there")
        found = parse_address(address).account
        assert found is not None
        self.up[found] = Link(found, address.partition("/p2p/")[0], inbound=False)
        return found

    def serve(self, name: str, answer: Any, **limits: int) -> None:
        self.served[name] = answer

    def start_mdns(self, service: str) -> trio.MemoryReceiveChannel[Found]:
        self.mdns_service = service
        return self.near

    async def dht_refresh(self) -> None:
        self.dht_calls.append("refresh")
        await trio.lowlevel.checkpoint()

    async def dht_provide(self, key: bytes) -> bool:
        self.dht_calls.append(key.hex())
        await trio.lowlevel.checkpoint()
        return True

    async def dht_find(self, key: bytes, count: int) -> list[tuple[AccountId, tuple[str, ...]]]:
        self.dht_calls.append("find")
        await trio.lowlevel.checkpoint()
        return self.dht_finds

    async def request(
        self, account: AccountId, name: str, body: bytes, timeout_s: float, **limits: int
    ) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(body)
        return self.answers[account]


class Setting:
    """A discovery on a town, with the mock clock as its wall clock."""

    def __init__(self, town: Town) -> None:
        self.town = town
        self.book = PeerBook(ME)
        self.conduct = Conduct()
        self.invalid: list[AccountId] = []
        self.discovery = Discovery(
            town,  # type: ignore[arg-type]
            town,  # type: ignore[arg-type]
            self.book,
            self.conduct,
            clock_ms=self.now_ms,
            rng=random.Random(7),
            on_invalid=lambda peer, points, why: self.invalid.append(peer),
            timing=DiscoveryTiming(yield_s=0.0),
        )
        self.discovery.join()

    @staticmethod
    def now_ms() -> int:
        return 1_700_000_000_000 + int(trio.current_time() * 1000)

    async def ask(self, peer: AccountId, body: bytes) -> object:
        return decode_answer(await self.town.served["peers"](peer, body))


@pytest.fixture
def setting() -> Setting:
    return Setting(Town())


async def run_for(seconds: float, loop: Callable[[], Awaitable[None]]) -> None:
    with trio.move_on_after(seconds):
        await loop()


async def test_a_dead_bootstrap_is_dialled_ever_more_rarely(
    setting: Setting, autojump_clock: MockClock
) -> None:
    address = parse_address(at(1))
    await run_for(600, lambda: setting.discovery.run_bootstrap(address))
    times = [moment for moment, _ in setting.town.tried]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert all(0.5 <= gap <= 1.0 for gap in gaps[:1])
    assert all(15.0 <= gap <= BOOTSTRAP_RETRY_MAX_MS / 1000 for gap in gaps[6:])
    assert len(set(gaps[6:])) > 1, "jitter"


async def test_a_bootstrap_that_comes_back_is_found_and_kept(
    setting: Setting, autojump_clock: MockClock
) -> None:
    address = parse_address(at(1))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(setting.discovery.run_bootstrap, address)
        await trio.sleep(100)
        setting.town.open.add(at(1))
        await trio.sleep(31)
        assert setting.town.is_linked(account(1))
        tried = len(setting.town.tried)
        await trio.sleep(100)
        assert len(setting.town.tried) == tried, "a standing link is left alone"
        del setting.town.up[account(1)]
        await trio.sleep(3)
        assert setting.town.is_linked(account(1))
        nursery.cancel_scope.cancel()
    assert len(setting.book) == 0, "an answer at the door is not yet a peer of this network"
    setting.discovery.noted(setting.town.up[account(1)])
    (peer,) = setting.book.peers()
    assert [(address.text, address.trust) for address in peer.addresses] == [(at(1), Trust.PROVEN)]
    assert peer.reached


async def test_the_book_is_dialled_until_there_are_links_enough(
    setting: Setting, autojump_clock: MockClock
) -> None:
    for number in range(1, 21):
        setting.book.learn(account(number), [at(number)], Trust.HEARSAY, setting.now_ms())
        setting.town.open.add(at(number))
    await run_for(60, setting.discovery.run_dialling)
    assert len(setting.town.up) == 8


async def test_barred_peers_and_ourselves_are_not_dialled(
    setting: Setting, autojump_clock: MockClock
) -> None:
    setting.book.learn(account(1), [at(1)], Trust.OWN_WORD, setting.now_ms())
    setting.book.learn(account(2), [f"/ip4/127.0.0.1/tcp/4000/p2p/{peer_id(account(2))}"], Trust.OWN_WORD, 1)
    while not setting.conduct.charge(account(1), INVALID_POINTS, setting.now_ms()):
        pass
    await run_for(30, setting.discovery.run_dialling)
    assert setting.town.tried == []


async def test_nobody_can_aim_us_at_a_third_party(autojump_clock: MockClock) -> None:
    setting = Setting(Town("/ip4/1.1.1.1/tcp/4000"))
    for number in range(1, 31):
        text = at(number, "9.9.9.9")
        setting.book.learn(account(number), [text], Trust.HEARSAY, setting.now_ms(), told_by=account(99))
    await run_for(60, setting.discovery.run_dialling)
    assert 0 < len(setting.town.tried) <= 2 * DIALS_PER_HOST_BURST


async def test_a_public_node_does_not_probe_its_own_network(autojump_clock: MockClock) -> None:
    setting = Setting(Town("/ip4/1.1.1.1/tcp/4000"))
    for number, host in enumerate(("127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254"), start=1):
        setting.book.learn(account(number), [at(number, host)], Trust.OWN_WORD, setting.now_ms())
    await run_for(60, setting.discovery.run_dialling)
    assert setting.town.tried == []
    assert setting.discovery.dialable([at(1), at(2, "10.0.0.1"), at(3, "8.8.8.8"), "junk"]) == [
        at(3, "8.8.8.8")
    ]


async def test_the_larger_key_waits_for_the_smaller_to_dial(autojump_clock: MockClock) -> None:
    setting = Setting(Town())
    setting.discovery._timing = DiscoveryTiming(yield_s=10.0)
    small, large = AccountId(b"\x01" + bytes(30) + b"\x05"), AccountId(b"\xfe" + bytes(30) + b"\x05")
    texts = {who: f"/ip4/127.0.0.1/tcp/{5000 + who[0]}/p2p/{peer_id(who)}" for who in (small, large)}
    for who, text in texts.items():
        setting.book.learn(who, [text], Trust.OWN_WORD, setting.now_ms())
    await run_for(5, setting.discovery.run_dialling)
    assert {text for _, text in setting.town.tried} == {texts[large]}
    await run_for(20, setting.discovery.run_dialling)
    assert {text for _, text in setting.town.tried} == set(texts.values())


async def test_peers_are_exchanged_and_the_tellers_word_is_hearsay(setting: Setting) -> None:
    told = PeersAnswer(((account(2), (at(2),)), (ME, (at(0),)), (account(3), (at(2),))))
    setting.town.answers[account(1)] = told.encode()
    assert await setting.discovery.ask_for_peers(account(1)) == 1
    (peer,) = setting.book.peers()
    assert (peer.account, peer.told_by) == (account(2), account(1))
    assert setting.town.asked == [PeersQuestion(32, setting.town.addresses).encode()]


@pytest.mark.parametrize("answer", [b"", b"garbage", SummaryQuestion().encode(), b"\x83\x00"])
async def test_a_bad_answer_is_held_against_the_neighbour(setting: Setting, answer: bytes) -> None:
    setting.town.answers[account(1)] = answer
    assert await setting.discovery.ask_for_peers(account(1)) == 0
    assert setting.invalid == [account(1)]
    assert len(setting.book) == 0


async def test_only_addresses_on_the_askers_own_host_are_passed_on(setting: Setting) -> None:
    setting.town.link_from(account(1), "127.0.0.1")
    honest = PeersQuestion(8, (at(1), at(1, "9.9.9.9")))
    assert await setting.ask(account(1), honest.encode()) == PeersAnswer(())
    trusts = {a.text: a.trust for a in setting.book.peers()[0].addresses}
    assert trusts == {at(1): Trust.SEEN, at(1, "9.9.9.9"): Trust.OWN_WORD}
    assert await setting.ask(account(2), PeersQuestion(8, ()).encode()) == PeersAnswer(
        ((account(1), (at(1),)),)
    )


async def test_a_neighbour_on_this_machine_may_name_the_machines_addresses() -> None:
    setting = Setting(Town("/ip4/192.168.1.5/tcp/4000"))
    setting.town.link_from(account(1), "127.0.0.1")
    await setting.ask(account(1), PeersQuestion(8, (at(1, "192.168.1.5"), at(1, "192.168.1.6"))).encode())
    trusts = {a.text: a.trust for a in setting.book.peers()[0].addresses}
    assert trusts == {at(1, "192.168.1.5"): Trust.SEEN, at(1, "192.168.1.6"): Trust.OWN_WORD}


async def test_nobody_speaks_for_another_peer(setting: Setting) -> None:
    setting.town.link_from(account(1), "127.0.0.1")
    await setting.ask(account(1), PeersQuestion(8, (at(2),)).encode())
    assert len(setting.book) == 0


async def test_garbage_questions_and_too_many_are_denied(setting: Setting) -> None:
    assert isinstance(await setting.ask(account(1), b"garbage"), Denied)
    assert setting.invalid == [account(1)]
    assert isinstance(await setting.ask(account(1), SummaryQuestion().encode()), Denied)
    answers = [
        await setting.ask(account(2), PeersQuestion(1, ()).encode()) for _ in range(QUESTION_BURST + 5)
    ]
    assert sum(isinstance(answer, Denied) for answer in answers) == 5
    assert setting.invalid == [account(1)]


async def test_the_local_network_may_name_private_addresses_but_not_this_machine() -> None:
    setting = Setting(Town("/ip4/1.1.1.1/tcp/4000"))
    near = "/ip4/192.168.1.9/tcp/4001"
    setting.town.open.add(f"{near}/p2p/{peer_id(account(1))}")
    setting.town.announce.send_nowait(
        Found(account(1), ("/ip4/127.0.0.1/tcp/4001", "/ip4/1.1.1.1/tcp/4000", near))
    )
    setting.town.announce.send_nowait(Found(account(2), ("/dns/router.lan/tcp/80", "junk")))
    setting.town.announce.close()
    await setting.discovery.run_mdns()
    assert setting.town.mdns_service == "_mr-00010203._udp.local."
    assert [text for _, text in setting.town.tried] == [f"{near}/p2p/{peer_id(account(1))}"]
    assert setting.town.is_linked(account(1))


async def test_the_dht_is_asked_often_only_while_links_are_missing(autojump_clock: MockClock) -> None:
    setting = Setting(Town())
    setting.town.dht_finds = [(account(9), ("/ip4/127.0.0.1/tcp/4009",))]
    await run_for(100, setting.discovery.run_dht)
    assert setting.town.dht_calls == [], "not without a neighbour"
    setting.town.link_from(account(1), "127.0.0.1")
    await run_for(100, setting.discovery.run_dht)
    assert setting.town.dht_calls[:3] == ["refresh", DHT_KEY, "find"]
    assert len(setting.town.dht_calls) >= 9
    assert [(peer.account, peer.addresses[0].trust) for peer in setting.book.peers()] == [
        (account(9), Trust.HEARSAY)
    ]
    for number in (2, 3, 4):
        setting.town.link_from(account(number), "127.0.0.1")
    setting.town.dht_calls.clear()
    await run_for(290, setting.discovery.run_dht)
    assert len(setting.town.dht_calls) == 3


def test_the_dht_key_is_pinned() -> None:
    assert dht_key(NETWORK).hex() == DHT_KEY
    assert dht_key(bytes(32)) != dht_key(NETWORK)


DHT_KEY = "bae561d37c8228f6ef7e1d135acbbe531870585e4f5579f40878ff3eff283e3d"
