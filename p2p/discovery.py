"""How a node finds others: bootstrap addresses, its peer book, neighbours, the local network, the DHT (SPEC.md §11).

Each way feeds the peer book; one loop dials from it until enough links of our own choice stand. No way is
needed by the others: with every bootstrap node gone, the book brings restarted peers together again.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.encoding import WireError, digest
from ledger.core.keys import AccountId, peer_id
from p2p.core.addresses import Address, Scope, is_own, may_dial, parse_address
from p2p.core.conduct import INVALID_POINTS, RateLimit
from p2p.core.errors import DialError, LocalProtocolError, P2pError
from p2p.core.messages import (
    ANSWER_BYTES_MAX,
    PEERS_ANSWER_MAX,
    QUESTION_BYTES_MAX,
    Denied,
    PeersAnswer,
    PeersQuestion,
    decode_answer,
    decode_question,
)
from p2p.core.peers import PEERS_MAX, PeerBook, Trust, retry_delay_ms
from p2p.core.protocols import mdns_service

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable

    from p2p.core.conduct import Conduct
    from p2p.core.peers import Peer
    from p2p.host import Host, Link
    from p2p.requests import Requests

__all__ = ["BOOTSTRAP_MAX", "OUTBOUND_TARGET", "PEERS", "Discovery", "DiscoveryTiming", "bootstrap_addresses"]

_log = logging.getLogger(__name__)

PEERS: Final = "peers"
"""Name of the request by which neighbours recommend peers."""
OUTBOUND_TARGET: Final = 8
"""Links that we chose ourselves; inbound ones do not count, since an attacker can fill those."""
LINKS_CALM: Final = 4
DIALS_AT_ONCE_MAX: Final = 3
BOOTSTRAP_MAX: Final = 32
BOOTSTRAP_RETRY_MAX_MS: Final = 30_000
BOOTSTRAP_STEADY_CHECKS: Final = 3
REQUEST_TIMEOUT_S: Final = 10.0
DIALS_PER_HOST_BURST: Final = 5
DIALS_PER_HOST_INTERVAL_MS: Final = 12_000
"""At most five dials a minute to one global IP address: strangers cannot aim us at a third party."""
QUESTION_BURST: Final = 10
QUESTION_INTERVAL_MS: Final = 2_000
DHT_FIND_MAX: Final = 20
DHT_LINKS_ENOUGH: Final = 4
_DHT_DOMAIN: Final = b"millrace/1\0dht peers\0"


@dataclass(frozen=True, slots=True)
class DiscoveryTiming:
    """How often each way is tried; tests shorten these."""

    dial_interval_s: float = 1.0
    dial_calm_s: float = 3.0
    """Instead of the above once LINKS_CALM links stand."""
    yield_s: float = 3.0
    """How long the larger key leaves it to the smaller one to dial."""
    exchange_interval_s: float = 30.0
    exchange_hungry_s: float = 5.0
    """Instead of the above while links are missing."""
    bootstrap_check_s: float = 2.0
    dht_first_s: float = 5.0
    dht_hungry_s: float = 20.0
    dht_interval_s: float = 600.0


def bootstrap_addresses(texts: Iterable[str]) -> tuple[Address, ...]:
    """The operator's entry points; `LocalProtocolError` names the first one that cannot be used."""
    addresses = []
    for text in texts:
        try:
            address = parse_address(text)
        except WireError as error:
            raise LocalProtocolError(f"bootstrap address: {error}") from error
        if address.account is None or address.relay is not None:
            raise LocalProtocolError(f"bootstrap address {text!r} must end in /p2p/ and the node's peer id")
        addresses.append(address)
    if len(addresses) > BOOTSTRAP_MAX:
        raise LocalProtocolError(f"{len(addresses)} bootstrap addresses, at most {BOOTSTRAP_MAX} allowed")
    return tuple(addresses)


class Discovery:
    """The ways to other peers. Starts nothing: `mesh` runs its loops."""

    def __init__(
        self,
        host: Host,
        requests: Requests,
        book: PeerBook,
        conduct: Conduct,
        *,
        clock_ms: Callable[[], int],
        rng: random.Random,
        on_invalid: Callable[[AccountId, int, str], None],
        timing: DiscoveryTiming,
    ) -> None:
        """`on_invalid(peer, points, why)` is told when a neighbour breaks a rule."""
        self._host = host
        self._requests = requests
        self._book = book
        self._conduct = conduct
        self._clock_ms = clock_ms
        self._rng = rng
        self._on_invalid = on_invalid
        self._timing = timing
        self._dialling: set[AccountId] = set()
        self._dialled: dict[AccountId, str] = {}
        self._met_ms: dict[AccountId, int] = {}
        self._per_host = RateLimit(burst=DIALS_PER_HOST_BURST, interval_ms=DIALS_PER_HOST_INTERVAL_MS)
        self._questions = RateLimit(burst=QUESTION_BURST, interval_ms=QUESTION_INTERVAL_MS)
        self.dials_made = 0
        self.dials_failed = 0

    def own_addresses(self) -> tuple[Address, ...]:
        """Where this host listens."""
        return tuple(parse_address(text) for text in self._host.addresses)

    def shareable_addresses(self) -> tuple[str, ...]:
        """Our addresses that mean something to others: loopback ones only if there is nothing else."""
        ours = self.own_addresses()
        beyond = [address.text for address in ours if address.scope is not Scope.LOOPBACK]
        return tuple(beyond or [address.text for address in ours])[:8]

    def dialable(self, texts: Iterable[str]) -> list[str]:
        """Those of a stranger's addresses that may be dialled from here (R11.3), relayed ones left out."""
        ours = self.own_addresses()
        parsed = [address for text in texts if (address := _parsed(text)) is not None]
        return [address.text for address in parsed if address.relay is None and may_dial(address, ours)]

    def join(self) -> None:
        """Recommend peers to those who ask."""
        self._requests.serve(
            PEERS,
            self._answer,
            body_bytes_max=ANSWER_BYTES_MAX,
            question_bytes_max=QUESTION_BYTES_MAX,
            in_flight_max=2,
        )

    # --- links ---

    def noted(self, link: Link) -> None:
        """A link is up and its peer speaks our protocols: if we dialled it, that proves the address."""
        if not link.inbound:
            text = self._dialled.get(link.account) or _with_peer(link.address, link.account)
            self._book.succeeded(link.account, text, self._clock_ms())

    def not_of_ours(self, link: Link) -> None:
        """A peer that we dialled does not speak the protocols of this network."""
        _log.warning(
            "%s at %s does not speak this network's protocols: is it of another network?",
            peer_id(link.account),
            link.address,
        )
        self._book.failed(link.account, self._clock_ms(), self._rng.random())

    async def greet(self, account: AccountId) -> None:
        """Put a new neighbour into the routing table and ask it for peers, telling it where we listen.

        `ConnectionError`, `TimeoutError` when it does not answer.
        """
        known = self._book.get(account)
        if known is not None:
            self._host.add_addresses(account, [address.text for address in known.addresses])
        await self.ask_for_peers(account)
        await self._host.dht_add_peer(account)

    async def ask_for_peers(self, account: AccountId) -> int:
        """Learn from a neighbour whom it recommends; how many of those were news."""
        question = PeersQuestion(PEERS_ANSWER_MAX, self.shareable_addresses())
        body = await self._requests.request(
            account, PEERS, question.encode(), REQUEST_TIMEOUT_S, body_bytes_max=ANSWER_BYTES_MAX
        )
        try:
            answer = decode_answer(body)
            if isinstance(answer, Denied):
                return 0
            if not isinstance(answer, PeersAnswer):
                raise WireError("a question for peers was answered with something else")
        except WireError as error:
            self._on_invalid(account, INVALID_POINTS, str(error))
            return 0
        now_ms = self._clock_ms()
        return sum(
            self._book.learn(peer, addresses, Trust.HEARSAY, now_ms, told_by=account)
            for peer, addresses in answer.peers
        )

    async def _answer(self, peer: AccountId, body: bytes) -> bytes:
        now_ms = self._clock_ms()
        if not self._questions.take(peer, now_ms):
            return Denied("asked too often; wait two seconds").encode()
        try:
            question = decode_question(body)
        except WireError as error:
            self._on_invalid(peer, INVALID_POINTS, str(error))
            return Denied(str(error)).encode()
        if not isinstance(question, PeersQuestion):
            return Denied("this question belongs to another request").encode()
        await trio.lowlevel.checkpoint()
        self._learn_from_itself(peer, question.addresses, now_ms)
        count = min(question.count, PEERS_ANSWER_MAX)
        return PeersAnswer(self._book.recommend(count, (peer,), self._rng.randrange)).encode()

    def _learn_from_itself(self, peer: AccountId, addresses: Iterable[str], now_ms: int) -> None:
        """An address on the host that the link comes from names no third party: it may be recommended."""
        came_from = {_host_of(link.address) for link in self._host.links() if link.account == peer}
        ours = self.own_addresses()
        if any(_is_loopback(host) for host in came_from):
            came_from |= {own.host for own in ours}  # it runs on this machine, whose addresses it may name
        for text in addresses:
            seen = parse_address(text).host in came_from
            self._book.learn(peer, (text,), Trust.SEEN if seen else Trust.OWN_WORD, now_ms)

    # --- loops ---

    async def run_bootstrap(self, address: Address) -> None:
        """Keep a link with one bootstrap node: dial it with back-off for as long as it is not there."""
        account = address.account
        if account is None or account == self._host.account:
            return
        failures = steady = 0
        while True:
            if self._host.is_linked(account):
                steady += 1
                if steady >= BOOTSTRAP_STEADY_CHECKS:
                    failures = 0  # not sooner: one of another network answers too, and is hung up on
                await trio.sleep(self._timing.bootstrap_check_s)
                continue
            steady = 0
            if not self._conduct.barred(account, self._clock_ms()):
                await self._dial(account, (address.text,))
            failures += 1
            wait_ms = retry_delay_ms(failures, self._rng.random(), BOOTSTRAP_RETRY_MAX_MS)
            await trio.sleep(wait_ms / 1000)

    async def run_dialling(self) -> None:
        """Dial from the peer book until OUTBOUND_TARGET links of our own choice stand.

        The first links are urgent, the rest can wait: a crowd that starts together would otherwise spend its
        first half minute on handshakes, which cost 30 ms of CPU each.
        """
        while True:
            links = self._host.links()
            missing = OUTBOUND_TARGET - sum(1 for link in links if not link.inbound)
            calm = len(links) >= LINKS_CALM
            if missing > 0:
                at_once = 1 if calm else DIALS_AT_ONCE_MAX
                await self._dial_some(min(missing, at_once), {link.account for link in links})
            interval_s = self._timing.dial_calm_s if calm else self._timing.dial_interval_s
            await trio.sleep(interval_s * (0.5 + self._rng.random()))

    async def run_exchange(self) -> None:
        """Ask a random neighbour for peers now and then, more often while links are missing."""
        while True:
            links = self._host.links()
            hungry = len(links) < OUTBOUND_TARGET
            interval_s = self._timing.exchange_hungry_s if hungry else self._timing.exchange_interval_s
            await trio.sleep(interval_s * (0.5 + self._rng.random()))
            if not links:
                continue
            try:
                await self.ask_for_peers(self._rng.choice(links).account)
            except (ConnectionError, TimeoutError, P2pError) as error:
                _log.debug("no peers from a neighbour: %s", error)

    async def run_mdns(self) -> None:
        """Dial whoever announces itself on the local network, whose word is enough for private addresses."""
        found = self._host.start_mdns(mdns_service(self._host.network_id))
        async for peer in found:
            if self._host.is_linked(peer.account) or self._conduct.barred(peer.account, self._clock_ms()):
                continue
            near = self._near([_with_peer(text, peer.account) for text in peer.addresses])
            if near:
                await self._dial(peer.account, near)

    def _near(self, texts: Iterable[str]) -> list[str]:
        """Addresses that a neighbour on the local network may name: private ones too, ours never."""
        ours = self.own_addresses()
        scopes = {Scope.GLOBAL, Scope.PRIVATE}
        if all(own.scope is Scope.LOOPBACK for own in ours):
            scopes.add(Scope.LOOPBACK)
        parsed = [address for text in texts if (address := _parsed(text)) is not None]
        return [a.text for a in parsed if a.scope in scopes and a.relay is None and not is_own(a, ours)]

    async def run_dht(self) -> None:
        """Fill the routing table, say that we are of this network, and look for others who said so.

        Once at joining; again soon while links are missing, since it takes up to three rounds until a table
        is full; else rarely, since a round asks every peer in the table several times.
        """
        key = dht_key(self._host.network_id)
        interval_s = self._timing.dht_first_s
        while True:
            await trio.sleep(interval_s * (0.5 + self._rng.random()))
            if not self._host.links():
                continue
            await self._host.dht_refresh()
            await self._host.dht_provide(key)
            now_ms = self._clock_ms()
            for account, addresses in await self._host.dht_find(key, DHT_FIND_MAX):
                texts = [_with_peer(text, account) for text in addresses]
                self._book.learn(account, texts, Trust.HEARSAY, now_ms)
            hungry = len(self._host.links()) < DHT_LINKS_ENOUGH
            interval_s = self._timing.dht_hungry_s if hungry else self._timing.dht_interval_s

    # --- dialling ---

    def _yields(self, account: AccountId, now_ms: int) -> bool:
        """Whether to leave the first dial to `account`: of two that hear of each other at once one must wait.

        Else both dial, and one of the two connections has to be closed again with the streams on it.
        """
        if account > self._host.account:
            return False
        if len(self._met_ms) > PEERS_MAX:
            self._met_ms.clear()
        return now_ms < self._met_ms.setdefault(account, now_ms) + int(self._timing.yield_s * 1000)

    async def _dial_some(self, count: int, linked: set[AccountId]) -> None:
        now_ms = self._clock_ms()
        left_alone = {
            peer.account
            for peer in self._book.peers()
            if self._conduct.barred(peer.account, now_ms) or self._yields(peer.account, now_ms)
        }
        exclude = linked | self._dialling | left_alone
        chosen = self._book.candidates(now_ms, exclude, self.own_addresses(), count, self._rng.randrange)
        async with trio.open_nursery() as nursery:
            for peer in chosen:
                nursery.start_soon(self._dial_peer, peer)

    async def _dial_peer(self, peer: Peer) -> None:
        if not await self._dial(peer.account, [address.text for address in peer.addresses]):
            self._book.failed(peer.account, self._clock_ms(), self._rng.random())

    async def _dial(self, account: AccountId, texts: Iterable[str]) -> bool:
        """Try the addresses of `account` one after the other; whether one answered with its key."""
        if account in self._dialling:
            return True
        self._dialling.add(account)
        try:
            for text in texts:
                address = parse_address(text)
                if address.scope is Scope.GLOBAL and not self._per_host.take(address.host, self._clock_ms()):
                    continue
                self.dials_made += 1
                try:
                    await self._host.dial(text)
                except DialError as error:
                    self.dials_failed += 1
                    _log.debug("%s: %s", peer_id(account), error)
                    continue
                self._remember_dialled(account, text)
                return True
            return False
        finally:
            self._dialling.discard(account)

    def _remember_dialled(self, account: AccountId, text: str) -> None:
        self._dialled.pop(account, None)
        self._dialled[account] = text
        if len(self._dialled) > PEERS_MAX:
            del self._dialled[next(iter(self._dialled))]


def dht_key(network_id: bytes) -> bytes:
    """The DHT key under which the members of a network find each other: not the network id itself."""
    return digest(_DHT_DOMAIN, network_id)


def _host_of(address: str) -> str:
    parts = address.split("/")
    return parts[2] if len(parts) > 2 else ""


def _is_loopback(host: str) -> bool:
    return host == "::1" or host.startswith("127.")


def _with_peer(text: str, account: AccountId) -> str:
    return text if "/p2p/" in text else f"{text}/p2p/{peer_id(account)}"


def _parsed(text: str) -> Address | None:
    try:
        return parse_address(text)
    except WireError:
        return None
