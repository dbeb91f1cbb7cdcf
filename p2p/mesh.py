"""The mesh: one node's place in its network, with everything that keeps it there (SPEC.md §9-§11).

`open_mesh` owns the host and one nursery with every loop. A peer's fault ends at most its link; a loop that
fails by a fault of ours is reported and started again, since a node without discovery is a dead one.
"""

from __future__ import annotations

import logging
import random
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.keys import AccountId, peer_id
from p2p.core.advertbook import Accepted, AdvertBook
from p2p.core.conduct import BAR_MS, Conduct
from p2p.core.envelope import EnvelopeKind, seal
from p2p.core.errors import LocalProtocolError, P2pError
from p2p.core.peers import Trust
from p2p.discovery import Discovery, DiscoveryTiming, bootstrap_addresses
from p2p.gossip import AdvertGossip
from p2p.host import HostConfig, LinkState, open_host
from p2p.peerfile import load_peers, save_peers
from p2p.requests import Requests

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from ledger.core.encoding import NetworkId
    from ledger.core.keys import SigningKey
    from p2p.core.addresses import Address
    from p2p.core.advertbook import Offer
    from p2p.core.adverts import Advert
    from p2p.core.envelope import Envelope
    from p2p.core.peers import PeerBook
    from p2p.host import Host, Link, LinkEvent

__all__ = ["Mesh", "MeshConfig", "MeshStatus", "MeshTiming", "open_mesh"]

_log = logging.getLogger(__name__)

ADVERT_TTL_S: Final = 60.0
WITHDRAWAL_TTL_S: Final = 120.0
GREETINGS_AT_ONCE_MAX: Final = 8
GREETING_TRIES_MAX: Final = 3
GREETING_PAUSE_S: Final = 0.5
CUTS_MAX: Final = 64
RESTART_WAIT_S: Final = 5.0
CLOSE_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True, slots=True)
class MeshTiming:
    """How often the loops turn; tests shorten these."""

    reconcile_interval_s: float = 4.0
    reconcile_again_s: float = 0.3
    """After a round that brought something: news comes in crowds."""
    second_look_s: float = 1.5
    """How long after a new link its adverts are asked for again: gossip is set up within a heartbeat of 1 s."""
    expire_interval_s: float = 1.0
    save_interval_s: float = 5.0
    discovery: DiscoveryTiming = field(default_factory=DiscoveryTiming)


@dataclass(frozen=True, slots=True)
class MeshConfig:
    """Where to listen, whom to know, where to keep the peer book."""

    data_dir: Path
    listen: tuple[str, ...] = ("/ip4/0.0.0.0/tcp/0",)
    bootstrap: tuple[str, ...] = ()
    mdns: bool = True
    dht_server: bool = False
    timing: MeshTiming = field(default_factory=MeshTiming)


@dataclass(frozen=True, slots=True)
class MeshStatus:
    """Counters for people and tests; `refused` is by reason."""

    links: int
    outbound: int
    peers_known: int
    adverts: int
    adverts_accepted: int
    adverts_pulled: int
    refused: dict[str, int]
    peers_cut: int
    dials_made: int
    dials_failed: int


class Mesh:
    """A running node of one network. Made by `open_mesh`."""

    def __init__(
        self,
        config: MeshConfig,
        host: Host,
        key: SigningKey,
        network_id: NetworkId,
        peers: PeerBook,
        *,
        clock_ms: Callable[[], int],
        rng: random.Random,
    ) -> None:
        self.host = host
        self.requests = Requests(host)
        self.adverts = AdvertBook(network_id, me=host.account)
        self.peers = peers
        self._config = config
        self._key = key
        self._network_id = network_id
        self._clock_ms = clock_ms
        self._rng = rng
        self._conduct = Conduct()
        self._sequence = 0
        self._publishing = trio.Lock()
        self._saved_version = peers.version
        self._cuts = 0
        self._cut_send, self._cut_receive = trio.open_memory_channel[AccountId](CUTS_MAX)
        self._greeting = trio.CapacityLimiter(GREETINGS_AT_ONCE_MAX)
        self._gossip = AdvertGossip(
            host,
            self.requests,
            self.adverts,
            self._conduct,
            clock_ms=clock_ms,
            on_cut=self._cut,
            on_offer=self._heard,
        )
        self._discovery = Discovery(
            host,
            self.requests,
            peers,
            self._conduct,
            clock_ms=clock_ms,
            rng=rng,
            on_invalid=self._gossip.charge,
            timing=config.timing.discovery,
        )

    @property
    def account(self) -> AccountId:
        """Who we are."""
        return self.host.account

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where others can reach us, for adverts and for people to copy."""
        return self._discovery.shareable_addresses()

    async def publish_advert(self, advert: Advert, ttl_s: float = ADVERT_TTL_S) -> Envelope:
        """Sign `advert`, put it into our book and gossip it; it replaces our earlier one.

        Addresses are filled in when there are none. Waits when we advertise faster than others would take.
        Publish again before `ttl_s` has passed, and when something changes.
        """
        if not advert.addresses:
            advert = replace(advert, addresses=self.addresses)
        return await self._say(EnvelopeKind.ADVERT, advert.encode(), ttl_s)

    async def withdraw_advert(self, ttl_s: float = WITHDRAWAL_TTL_S) -> None:
        """Take our advert back. `ttl_s` should outlive the advert's own."""
        if self.adverts.get(self.account, self._clock_ms()) is not None:
            await self._say(EnvelopeKind.WITHDRAWAL, b"", ttl_s)

    def status(self) -> MeshStatus:
        """The counters now."""
        links = self.host.links()
        return MeshStatus(
            links=len(links),
            outbound=sum(1 for link in links if not link.inbound),
            peers_known=len(self.peers),
            adverts=len(self.adverts.items(self._clock_ms())),
            adverts_accepted=self._gossip.accepted,
            adverts_pulled=self._gossip.pulled,
            refused={
                reason.value: count
                for reason, count in sorted(self._gossip.refused.items(), key=lambda item: item[0].value)
            },
            peers_cut=self._cuts,
            dials_made=self._discovery.dials_made,
            dials_failed=self._discovery.dials_failed,
        )

    async def run(self, bootstrap: tuple[Address, ...], started: Callable[[], None]) -> None:
        """Every loop of the mesh, until cancelled; called by `open_mesh`, which owns the nursery around it."""
        events = self.host.link_events()
        self._gossip.join()
        self._discovery.join()
        loops: dict[str, Callable[[], Awaitable[None]]] = {
            "adverts": self._gossip.run_topic,
            "reconcile": self._run_reconcile,
            "expire": self._run_expire,
            "save": self._run_save,
            "cut": self._run_cuts,
            "dialling": self._discovery.run_dialling,
            "exchange": self._discovery.run_exchange,
            "dht": self._discovery.run_dht,
        }
        if self._config.mdns:
            loops["mdns"] = self._discovery.run_mdns
        async with trio.open_nursery() as nursery:
            for name, loop in loops.items():
                nursery.start_soon(_keep_running, name, loop)
            for address in bootstrap:
                dial = partial(self._discovery.run_bootstrap, address)
                nursery.start_soon(_keep_running, f"bootstrap {address.host}", dial)
            started()
            async for event in events:
                self._on_link(event, nursery)

    async def save(self) -> None:
        """Write the peer book if it has changed; a disk that refuses is a warning, the old book stands."""
        version = self.peers.version
        if version == self._saved_version:
            return
        data = self.peers.to_bytes(self._network_id)
        try:
            await trio.to_thread.run_sync(save_peers, self._config.data_dir, data)
        except OSError as error:
            _log.warning("the peer book could not be saved: %s", error)
        else:
            self._saved_version = version

    # --- inside ---

    async def _say(self, kind: EnvelopeKind, body: bytes, ttl_s: float) -> Envelope:
        async with self._publishing:
            wait_ms = self.adverts.wait_ms(self.account, self._clock_ms())
            if wait_ms:
                await trio.sleep(wait_ms / 1000)
            now_ms = self._clock_ms()
            # The wall clock keeps sequences rising across restarts without a file. If it was set back, the
            # neighbours still hold what we said last, our book has pulled that, and we go on above it.
            self._sequence = max(now_ms, self._sequence + 1, self.adverts.highest_sequence(self.account) + 1)
            envelope = seal(
                self._key,
                self._network_id,
                kind=kind,
                sequence=self._sequence,
                now_ms=now_ms,
                lifetime_ms=int(ttl_s * 1000),
                body=body,
            )
            outcome = self.adverts.offer(envelope, now_ms)
            if not isinstance(outcome, Accepted):
                raise LocalProtocolError(
                    f"our own advert was refused: {outcome.reason.value}, {outcome.detail}"
                )
            await self._gossip.publish(envelope)
            return envelope

    def _heard(self, offer: Offer) -> None:
        """An advert says where its author listens, in its own signed words."""
        now_ms = self._clock_ms()
        self.peers.learn(offer.author, offer.advert.addresses, Trust.OWN_WORD, now_ms)
        self.host.add_addresses(offer.author, self._discovery.dialable(offer.advert.addresses))

    def _cut(self, account: AccountId) -> None:
        self._cuts += 1
        try:
            self._cut_send.send_nowait(account)
        except trio.WouldBlock:
            _log.warning("more than %d links to cut at once", CUTS_MAX)

    def _on_link(self, event: LinkEvent, nursery: trio.Nursery) -> None:
        if event.state is LinkState.DOWN:
            return
        if self._conduct.barred(event.link.account, self._clock_ms()):
            self._cut(event.link.account)
            return
        nursery.start_soon(self._greet, event.link)

    async def _greet(self, link: Link) -> None:
        """Ask a new neighbour for its adverts, then for peers; and once more for its adverts a little later.

        Later, because what it says before gossip is set up between us reaches us by no other way.
        """
        try:
            if not await self._try_to_greet(link):
                return
            self._discovery.noted(link)
            await trio.sleep(self._config.timing.second_look_s)
            async with self._greeting:
                if self.host.is_linked(link.account):
                    await self._gossip.reconcile(link.account)
        except (P2pError, ConnectionError, TimeoutError) as error:
            _log.debug("a new neighbour did not answer: %s", error)
        except Exception:  # noqa: BLE001 - outermost frame of this task: a fault of ours must not end the node
            _log.exception("greeting %s failed", peer_id(link.account))

    async def _try_to_greet(self, link: Link) -> bool:
        """Whether a neighbour answered; several tries, since it may not be ready yet.

        One that we dialled and that refuses every time is of another network, or none: hang up, since it
        would take the place of a link that we chose ourselves. A slow one may stay.
        """
        refused = 0
        for _ in range(GREETING_TRIES_MAX):
            async with self._greeting:
                try:
                    await self._gossip.reconcile(link.account)
                    await self._discovery.greet(link.account)
                    return True
                except TimeoutError as error:
                    _log.debug("a new neighbour is slow: %s", error)
                except (P2pError, ConnectionError) as error:
                    _log.debug("a new neighbour did not answer: %s", error)
                    refused += 1
            await trio.sleep(GREETING_PAUSE_S)
            if not self.host.is_linked(link.account):
                return False
        if refused == GREETING_TRIES_MAX and not link.inbound:
            self._discovery.not_of_ours(link)
            await self.host.disconnect(link.account)
        return False

    async def _run_reconcile(self) -> None:
        wait_s = self._config.timing.reconcile_interval_s
        while True:
            await trio.sleep(wait_s * (0.5 + self._rng.random()))
            wait_s = self._config.timing.reconcile_interval_s
            links = self.host.links()
            if not links:
                continue
            try:
                if await self._gossip.reconcile(self._rng.choice(links).account):
                    wait_s = self._config.timing.reconcile_again_s
            except (P2pError, ConnectionError, TimeoutError) as error:
                _log.debug("a neighbour did not reconcile: %s", error)

    async def _run_expire(self) -> None:
        while True:
            await trio.sleep(self._config.timing.expire_interval_s)
            self.adverts.expire(self._clock_ms())

    async def _run_save(self) -> None:
        while True:
            await trio.sleep(self._config.timing.save_interval_s)
            await self.save()

    async def _run_cuts(self) -> None:
        async for account in self._cut_receive.clone():
            await self.host.ban(account, BAR_MS / 1000)


async def _keep_running(name: str, loop: Callable[[], Awaitable[None]]) -> None:
    while True:
        try:
            await loop()
        except Exception:  # noqa: BLE001 - outermost frame of this loop's task: the node goes on without it for a moment
            _log.exception("the %s loop failed and starts again in %g s", name, RESTART_WAIT_S)
        else:
            return
        await trio.sleep(RESTART_WAIT_S)


@asynccontextmanager
async def open_mesh(
    config: MeshConfig,
    key: SigningKey,
    network_id: NetworkId,
    *,
    clock_ms: Callable[[], int],
    rng: random.Random | None = None,
) -> AsyncIterator[Mesh]:
    """A running mesh; at the end its peer book is saved and every task and socket is gone.

    `ListenError` when it cannot listen, `LocalProtocolError` for an unusable bootstrap address.
    """
    bootstrap = bootstrap_addresses(config.bootstrap)
    peers = await trio.to_thread.run_sync(load_peers, config.data_dir, key.account, network_id)
    host_config = HostConfig(listen=config.listen, dht_server=config.dht_server)
    async with open_host(host_config, key, network_id) as host:
        mesh = Mesh(
            config,
            host,
            key,
            network_id,
            peers,
            clock_ms=clock_ms,
            rng=rng or random.SystemRandom(),
        )
        async with trio.open_nursery() as nursery:
            running = trio.Event()
            nursery.start_soon(mesh.run, bootstrap, running.set)
            await running.wait()
            try:
                yield mesh
            finally:
                nursery.cancel_scope.cancel()
                with trio.CancelScope(shield=True, deadline=trio.current_time() + CLOSE_TIMEOUT_S):
                    await mesh.save()
