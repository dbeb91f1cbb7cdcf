"""The host: one libp2p node of one network, as the rest of p2p sees it (SPEC.md §9).

TCP, noise and yamux only; the identity is the account's key; one connection per peer. Nothing a peer does
raises here other than the errors of `p2p.core.errors`, and nothing of libp2p is visible outside.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.abc import INotifee
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.host.ping import ID as PING_ID
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY_ID
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service import background_trio_service
from multiaddr import Multiaddr

from ledger.core.encoding import WireError
from ledger.core.keys import AccountId, account_from_peer_id, peer_id
from p2p.core.errors import ChannelClosed, DialError, ListenError, LocalProtocolError, P2pError
from p2p.core.framing import FRAME_BYTES_MAX
from p2p.core.protocols import protocol_id
from p2p.hardening import (
    AdmissionLimits,
    GuardedHost,
    GuardedSwarm,
    GuardedTcp,
    GuardedUpgrader,
    patch_process,
)
from p2p.interfaces import concrete_addresses
from p2p.lan import LanDiscovery
from p2p.pubsub import Gossip
from p2p.routing import Routing
from p2p.streams import Channel

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from libp2p.abc import INetConn, INetStream, INetwork
    from libp2p.custom_types import TProtocol

    from ledger.core.encoding import NetworkId
    from ledger.core.keys import SigningKey
    from p2p.lan import Found
    from p2p.muxer import MuxedStream
    from p2p.pubsub import TopicChannel, Validator

__all__ = ["Host", "HostConfig", "Link", "LinkEvent", "LinkState", "open_host"]

_log = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 10.0
DIAL_TIMEOUT_S: Final = 10.0
CLOSE_TIMEOUT_S: Final = 2.0
LINK_EVENTS_MAX: Final = 256
KNOWN_PEERS_MAX: Final = 4096
ADDRESSES_PER_PEER_MAX: Final = 8
ADDRESS_CHARS_MAX: Final = 256
STREAMS_PER_PEER_MAX: Final = 16
ADDRESS_TTL_S: Final = 3600


class LinkState(Enum):
    """Whether a peer has just become reachable or unreachable over a connection."""

    UP = "up"
    DOWN = "down"


@dataclass(frozen=True, slots=True)
class Link:
    """The connection with one peer."""

    account: AccountId
    address: str
    """Where the peer is, as a multiaddr: for inbound ones its outgoing port, not one it listens on."""
    inbound: bool


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """A link that came up or went down."""

    state: LinkState
    link: Link


@dataclass(frozen=True, slots=True)
class HostConfig:
    """Where to listen, and what peers may take."""

    listen: tuple[str, ...] = ("/ip4/127.0.0.1/tcp/0",)
    """Multiaddrs; none means dial only. Port 0 lets the system choose."""
    connections_max: int = 300
    dht_server: bool = True
    """Whether others may use us to look things up; a node behind a NAT should not offer that."""
    admission: AdmissionLimits = field(default_factory=AdmissionLimits)


class _ByteStream:
    """A negotiated libp2p stream as `p2p.streams.Stream`: its errors become ours here, once."""

    def __init__(self, stream: INetStream) -> None:
        self._net_stream = stream
        self._stream = cast("MuxedStream", stream.muxed_stream)  # type: ignore[attr-defined]

    @property
    def written_bytes(self) -> int:
        return self._stream.written_bytes

    async def receive_some(self) -> bytes:
        try:
            return await self._stream.read()
        except MuxedStreamEOF:
            return b""
        except MuxedStreamError as error:
            raise ChannelClosed(str(error)) from error

    async def send_all(self, data: bytes) -> None:
        try:
            await self._stream.write(data)
        except MuxedStreamError as error:
            raise ChannelClosed(str(error)) from error

    async def aclose(self) -> None:
        with trio.CancelScope(shield=True):  # short: the muxer queues the frame, nothing waits for the peer
            await self._net_stream.close()

    def abort(self) -> None:
        self._stream.abort()


class _LinkWatch(INotifee):
    """Turns the library's connection notices into a look at what is connected now."""

    def __init__(self, look: Callable[[ID], None]) -> None:
        self._look = look

    async def connected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002 - the library's interface
        self._look(conn.muxed_conn.peer_id)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002 - as above
        self._look(conn.muxed_conn.peer_id)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not of interest."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not of interest."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not of interest."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not of interest."""


class Host:
    """One node. Made by `open_host`; every task it starts lives in `nursery`."""

    def __init__(
        self,
        *,
        basic: GuardedHost,
        swarm: GuardedSwarm,
        account: AccountId,
        network_id: NetworkId,
        nursery: trio.Nursery,
        gossip: Gossip,
        routing: Routing,
    ) -> None:
        self.account = account
        self.network_id = network_id
        self.nursery = nursery
        self._basic = basic
        self._swarm = swarm
        self._gossip = gossip
        self._routing = routing
        self._lan: LanDiscovery | None = None
        self._known: OrderedDict[AccountId, tuple[str, ...]] = OrderedDict()
        self._links: dict[AccountId, Link] = {}
        self._watchers: list[trio.MemorySendChannel[LinkEvent]] = []
        self._serving: set[str] = set()
        swarm.register_notifee(_LinkWatch(self._look))

    @property
    def peer_id(self) -> str:
        """Our account as text."""
        return peer_id(self.account)

    @property
    def addresses(self) -> tuple[str, ...]:
        """Where we listen, wildcards resolved, each ending in /p2p/ and our peer id."""
        bound = [str(address) for address in self._basic.get_transport_addrs()]
        return tuple(f"{address}/p2p/{self.peer_id}" for address in concrete_addresses(bound))

    def links(self) -> tuple[Link, ...]:
        """The peers we are connected with."""
        return tuple(self._links.values())

    def is_linked(self, account: AccountId) -> bool:
        """Whether we are connected with `account`."""
        return account in self._links

    def link_events(self) -> trio.MemoryReceiveChannel[LinkEvent]:
        """Links going up and down from now on; a reader more than LINK_EVENTS_MAX behind misses the newest."""
        send, receive = trio.open_memory_channel[LinkEvent](LINK_EVENTS_MAX)
        self._watchers.append(send)
        return receive

    def add_addresses(self, account: AccountId, addresses: Iterable[str]) -> None:
        """Remember where `account` may be reached; addresses that cannot be one are left out."""
        known = self._known.pop(account, ())
        fresh = [text for text in map(_bare, addresses) if text is not None]
        merged = tuple(dict.fromkeys((*fresh, *known)))[:ADDRESSES_PER_PEER_MAX]
        if not merged or account == self.account:
            return
        self._known[account] = merged
        while len(self._known) > KNOWN_PEERS_MAX:
            self._known.popitem(last=False)
        peer = _library_id(account)
        self._basic.get_peerstore().add_addrs(peer, [Multiaddr(text) for text in merged], ADDRESS_TTL_S)

    async def dial(self, address: str, timeout_s: float = DIAL_TIMEOUT_S) -> AccountId:
        """Connect to `/ip4/…/tcp/…/p2p/12D3…`, unless we are connected; who that is. `DialError` if not."""
        bare, _, name = address.rpartition("/p2p/")
        try:
            account = account_from_peer_id(name)
            target = Multiaddr(bare) if len(bare) <= ADDRESS_CHARS_MAX else None
        except WireError as error:
            raise DialError(f"{address[:ADDRESS_CHARS_MAX]!r} names no peer: {error}") from error
        except Exception as error:  # the parser raises whatever its parts raise
            raise DialError(f"{bare[:ADDRESS_CHARS_MAX]!r} is not an address: {error}") from error
        if target is None:
            raise DialError(f"an address of {len(bare)} characters, at most {ADDRESS_CHARS_MAX}")
        await self._connect(account, [target], timeout_s)
        self.add_addresses(account, [bare])
        return account

    async def disconnect(self, account: AccountId) -> None:
        """Close the connection with `account`, if there is one."""
        with trio.move_on_after(CLOSE_TIMEOUT_S):
            await self._swarm.close_peer(_library_id(account))

    async def open(
        self,
        account: AccountId,
        name: str,
        *,
        timeout_s: float = OPEN_TIMEOUT_S,
        frame_bytes_max: int = FRAME_BYTES_MAX,
    ) -> Channel:
        """A channel to `account` for `name`, connecting to a known address first if need be.

        `DialError` when the peer cannot be reached, `ChannelClosed` when it does not serve `name`.
        """
        protocol = cast("TProtocol", protocol_id(self.network_id, name))
        try:
            with trio.fail_after(timeout_s):
                if account not in self._links:
                    await self._connect(
                        account, [Multiaddr(a) for a in self._known.get(account, ())], timeout_s
                    )
                stream = await self._basic.new_stream(_library_id(account), [protocol])
        except trio.TooSlowError as error:
            raise DialError(f"{peer_id(account)} did not answer within {timeout_s:g} s") from error
        except P2pError:
            raise
        except Exception as error:  # the one border where the library's many errors become ours
            raise ChannelClosed(f"{peer_id(account)} does not answer {name}: {error}") from error
        return Channel(account, name, _ByteStream(stream), frame_bytes_max=frame_bytes_max)

    def serve(
        self,
        name: str,
        handler: Callable[[Channel], Awaitable[None]],
        *,
        frame_bytes_max: int = FRAME_BYTES_MAX,
        streams_per_peer_max: int = STREAMS_PER_PEER_MAX,
    ) -> None:
        """Run `handler` for every channel a peer opens for `name`; its end closes the channel.

        A peer's streams over the limit are reset. Whatever the handler raises ends that channel only.
        """
        if name in self._serving:
            raise LocalProtocolError(f"{name} is served already")
        self._serving.add(name)
        open_streams: Counter[AccountId] = Counter()

        async def on_stream(stream: INetStream) -> None:
            account = _account(stream.muxed_conn.peer_id)
            if account is None or open_streams[account] >= streams_per_peer_max:
                await stream.reset()
                return
            open_streams[account] += 1
            channel = Channel(account, name, _ByteStream(stream), frame_bytes_max=frame_bytes_max)
            try:
                await handler(channel)
                await channel.aclose()
            except Exception as error:  # noqa: BLE001 - outermost frame of a channel's task
                _report(name, error)
            finally:
                channel.abort()
                open_streams[account] -= 1
                if not open_streams[account]:
                    del open_streams[account]

        self._basic.set_stream_handler(cast("TProtocol", protocol_id(self.network_id, name)), on_stream)

    def join_topic(self, name: str, validate: Validator) -> TopicChannel:
        """Take part in a gossip topic: see `p2p.pubsub.Gossip.join`."""
        return self._gossip.join(name, validate)

    async def publish(self, name: str, data: bytes) -> None:
        """Send `data` to everybody in a topic: see `p2p.pubsub.Gossip.publish`."""
        await self._gossip.publish(name, data)

    async def dht_provide(self, key: bytes) -> bool:
        """Say in the routing table that we have `key`: see `p2p.routing.Routing.provide`."""
        return await self._routing.provide(key)

    async def dht_find(self, key: bytes, count: int = 20) -> list[tuple[AccountId, tuple[str, ...]]]:
        """Who has said so: see `p2p.routing.Routing.find`."""
        return await self._routing.find(key, count)

    async def dht_add_peer(self, account: AccountId) -> bool:
        """Put a connected peer into the routing table; connecting alone does not."""
        return await self._routing.add_peer(account)

    async def dht_refresh(self) -> None:
        """Look for more peers for the routing table; at joining, and now and then."""
        await self._routing.refresh()

    def start_mdns(self, service: str) -> trio.MemoryReceiveChannel[Found]:
        """Announce us on the local network and hear of others: see `p2p.lan.LanDiscovery`."""
        if self._lan is not None:
            raise LocalProtocolError("mDNS is running already")
        self._lan = LanDiscovery(service, self.account, self.addresses)
        self.nursery.start_soon(self._lan.run)
        return self._lan.found

    async def _connect(self, account: AccountId, addresses: list[Multiaddr], timeout_s: float) -> None:
        if account == self.account:
            raise DialError("that is ourselves")
        if account in self._links:
            return
        peer = _library_id(account)
        try:
            with trio.fail_after(timeout_s):
                await self._swarm.dial_addresses(peer, addresses)
        except trio.TooSlowError as error:
            raise DialError(f"cannot reach {peer_id(account)}: no answer within {timeout_s:g} s") from error
        except Exception as error:  # the one border where the library's many errors become ours
            raise DialError(f"cannot reach {peer_id(account)}: {error}") from error
        self._look(peer)

    def _look(self, peer: ID) -> None:
        """Compare what is connected with what we told, and tell the difference."""
        account = _account(peer)
        if account is None:
            return
        conns = [conn for conn in self._swarm.get_connections(peer) if not conn.is_closed]
        before = self._links.get(account)
        if conns:
            link = _link(account, conns[-1])
            self._links[account] = link
            if before is None:
                self._tell(LinkEvent(LinkState.UP, link))
        elif before is not None:
            del self._links[account]
            self._tell(LinkEvent(LinkState.DOWN, before))

    def _tell(self, event: LinkEvent) -> None:
        for watcher in list(self._watchers):
            try:
                watcher.send_nowait(event)
            except trio.WouldBlock:
                _log.warning("a reader of link events is %d behind", LINK_EVENTS_MAX)
            except trio.BrokenResourceError:
                self._watchers.remove(watcher)


@asynccontextmanager
async def open_host(config: HostConfig, key: SigningKey, network_id: NetworkId) -> AsyncIterator[Host]:
    """A running host; `ListenError` when it cannot listen. At the end every socket and task is gone."""
    patch_process()
    basic, swarm, transport = _build(config, key)
    gossip = Gossip(basic, network_id)
    routing = Routing(basic, network_id, server=config.dht_server)
    async with background_trio_service(swarm), trio.open_nursery() as nursery:
        host = Host(
            basic=basic,
            swarm=swarm,
            account=key.account,
            network_id=network_id,
            nursery=nursery,
            gossip=gossip,
            routing=routing,
        )
        try:
            await _listen(config, swarm, nursery, transport)
            async with gossip.running(nursery), routing.running():
                try:
                    yield host
                finally:
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True):
                        await _close(basic, swarm)
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await _close(basic, swarm)


def _build(config: HostConfig, key: SigningKey) -> tuple[GuardedHost, GuardedSwarm, GuardedTcp]:
    pair = create_new_key_pair(key.seed)
    peer = ID.from_pubkey(pair.public_key)
    if str(peer) != peer_id(key.account):
        raise LocalProtocolError("libp2p derives another peer id from our key than we do")
    store = PeerStore()
    store.add_key_pair(peer, pair)
    # Noise only: the library's default also offers plaintext, where anybody can claim any peer id.
    noise = Noise(pair, noise_privkey=create_noise_key().private_key)
    upgrader = GuardedUpgrader(
        {NOISE_ID: noise},
        {cast("TProtocol", YAMUX_ID): Yamux},  # GuardedUpgrader runs MuxedSession instead
    )
    limits = ConnectionConfig(
        max_connections=config.connections_max,
        min_connections=0,  # anything else makes the library dial peers of its own choice
        low_watermark=0,
        high_watermark=config.connections_max,
        max_connections_per_peer=1,
        inbound_upgrade_timeout=config.admission.handshake_timeout_s,
    )
    swarm = GuardedSwarm(
        peer, store, upgrader, [], retry_config=RetryConfig(max_retries=0), connection_config=limits
    )
    transport = GuardedTcp(config.admission, swarm.connections_from)
    swarm.transport_manager.add_transport(transport)
    basic = GuardedHost(swarm, disable_identify_address_discovery=True)
    # Identify push would let any peer write into our address store; we serve what other libp2p nodes ask for.
    basic.multiselect.handlers.clear()
    basic.set_stream_handler(IDENTIFY_ID, identify_handler_for(basic, use_varint_format=True))
    basic.set_stream_handler(PING_ID, PingService(basic).handle_ping)
    return basic, swarm, transport


async def _listen(
    config: HostConfig, swarm: GuardedSwarm, nursery: trio.Nursery, transport: GuardedTcp
) -> None:
    for text in config.listen:
        try:
            address = Multiaddr(text)
        except Exception as error:  # the parser raises whatever its parts raise
            raise ListenError(f"cannot listen on {text!r}: not a multiaddr ({error})") from error
        if not await swarm.listen(address):
            raise ListenError(f"cannot listen on {text}: is the port taken, or the address not ours?")
    for listener in transport.guarded_listeners:
        nursery.start_soon(listener.serve)


async def _close(basic: GuardedHost, swarm: GuardedSwarm) -> None:
    """Close all connections at once, then the rest: one after the other took 12 s for 40 connections."""
    with trio.move_on_after(CLOSE_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for conn in swarm.get_connections():
                nursery.start_soon(conn.close)
    with trio.move_on_after(CLOSE_TIMEOUT_S):
        await basic.close()


def _link(account: AccountId, conn: INetConn) -> Link:
    addresses = conn.get_transport_addresses()
    inbound = not conn.muxed_conn.is_initiator
    return Link(account, str(addresses[0]) if addresses else "", inbound)


def _library_id(account: AccountId) -> ID:
    return ID.from_string(peer_id(account))


def _account(peer: ID) -> AccountId | None:
    """The account of a libp2p peer id; None for keys other than strict Ed25519, with which we do not talk."""
    try:
        return account_from_peer_id(str(peer))
    except WireError:
        return None


def _bare(address: str) -> str | None:
    """An address without its peer id, or None when it is not a TCP address."""
    text = address.partition("/p2p/")[0]
    parts = text.split("/")
    if len(text) > ADDRESS_CHARS_MAX or len(parts) != 5 or parts[3] != "tcp":
        return None
    try:
        return str(Multiaddr(text))
    except Exception:  # noqa: BLE001 - the parser raises whatever its parts raise
        return None


def _report(name: str, error: Exception) -> None:
    """A peer's fault is a line for debugging, our own a full report."""
    ours = error.split(P2pError)[1] if isinstance(error, ExceptionGroup) else error
    if ours is None or isinstance(ours, P2pError):
        _log.debug("%s: channel ended: %s", name, error)
    else:
        _log.error("%s: the handler failed", name, exc_info=ours)
