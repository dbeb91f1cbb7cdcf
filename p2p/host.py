"""The host: one libp2p node of one network, as the rest of p2p sees it (SPEC.md §9).

TCP, noise and yamux only; the identity is the account's key; one connection per peer. Nothing a peer does
raises here other than the errors of `p2p.core.errors`, and nothing of libp2p is visible outside.
"""

from __future__ import annotations

import logging
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, cast

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamEOF, MuxedStreamError
from libp2p.tools.anyio_service import background_trio_service

from ledger.core.keys import AccountId, account_from_peer_id, peer_id
from p2p.core.errors import ChannelClosed, DialError, LocalProtocolError, P2pError
from p2p.core.framing import FRAME_BYTES_MAX
from p2p.core.protocols import protocol_id
from p2p.hardening import build_node, close, listen, patch_process
from p2p.interfaces import concrete_addresses
from p2p.lan import LanDiscovery
from p2p.links import Link, LinkEvent, LinkState, LinkTable, library_id, strict_account
from p2p.pubsub import Gossip
from p2p.routing import Routing
from p2p.streams import Channel
from p2p.transport import ADDRESS_CHARS_MAX, AdmissionLimits, parse_multiaddr

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterable

    from libp2p.abc import INetStream
    from libp2p.custom_types import TProtocol
    from multiaddr import Multiaddr

    from ledger.core.encoding import NetworkId
    from ledger.core.keys import SigningKey
    from p2p.hardening import GuardedHost, GuardedSwarm
    from p2p.lan import Found
    from p2p.muxer import MuxedStream
    from p2p.pubsub import TopicChannel, Validator

__all__ = ["AdmissionLimits", "Host", "HostConfig", "Link", "LinkEvent", "LinkState", "open_host"]

_log = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 10.0
OPEN_ATTEMPTS: Final = 3
DIAL_TIMEOUT_S: Final = 10.0
DISCONNECT_TIMEOUT_S: Final = 2.0
KNOWN_PEERS_MAX: Final = 4096
ADDRESSES_PER_PEER_MAX: Final = 8
STREAMS_PER_PEER_MAX: Final = 16
ADDRESS_TTL_S: Final = 3600


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
        self._links = LinkTable(swarm)
        self._serving: set[str] = set()

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
        return self._links.all()

    def is_linked(self, account: AccountId) -> bool:
        """Whether we are connected with `account`."""
        return account in self._links

    def link_events(self) -> trio.MemoryReceiveChannel[LinkEvent]:
        """Links going up and down from now on; a reader LINK_EVENTS_MAX behind misses the newest."""
        return self._links.watch()

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
        peer = library_id(account)
        self._basic.get_peerstore().add_addrs(peer, self._reachable(account), ADDRESS_TTL_S)

    async def dial(self, address: str, timeout_s: float = DIAL_TIMEOUT_S) -> AccountId:
        """Connect to `/ip4/…/tcp/…/p2p/12D3…`, unless we are connected; who that is. `DialError` if not."""
        bare, _, name = address.rpartition("/p2p/")
        try:
            account = account_from_peer_id(name)
            target = parse_multiaddr(bare)
        except ValueError as error:  # WireError is one
            raise DialError(f"{address[:ADDRESS_CHARS_MAX]!r} cannot be dialled: {error}") from error
        await self._connect(account, [target], timeout_s)
        self.add_addresses(account, [bare])
        return account

    async def disconnect(self, account: AccountId) -> None:
        """Close the connection with `account`, if there is one."""
        peer = library_id(account)
        with trio.move_on_after(DISCONNECT_TIMEOUT_S):
            await self._swarm.close_peer(peer)
        self._links.refresh(peer)

    async def ban(self, account: AccountId, seconds: float) -> None:
        """Close the connection with `account` and let none be made with it for a while."""
        self._swarm.ban(library_id(account), seconds)
        await self.disconnect(account)

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
                stream = await self._negotiate(account, protocol, timeout_s)
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
        receive_bytes_max: int | None = None,
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
            account = strict_account(stream.muxed_conn.peer_id)
            if account is None or open_streams[account] >= streams_per_peer_max:
                await stream.reset()
                return
            open_streams[account] += 1
            channel = Channel(
                account,
                name,
                _ByteStream(stream),
                frame_bytes_max=frame_bytes_max,
                receive_bytes_max=receive_bytes_max,
            )
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

    async def _negotiate(self, account: AccountId, protocol: TProtocol, timeout_s: float) -> INetStream:
        """A stream on which `protocol` is agreed; once more when the connection ended meanwhile.

        It does when both peers have dialled each other: one of the two connections is then closed.
        """
        peer = library_id(account)
        for _ in range(OPEN_ATTEMPTS - 1):
            if account not in self._links:
                await self._connect(account, self._reachable(account), timeout_s)
            before = self._swarm.get_connections(peer)
            try:
                return await self._basic.new_stream(peer, [protocol])
            except Exception:  # whatever it was: the question is whether the connection survived it
                if any(not conn.is_closed for conn in before) and self._swarm.get_connections(peer) == before:
                    raise
        return await self._basic.new_stream(peer, [protocol])

    def _reachable(self, account: AccountId) -> list[Multiaddr]:
        return [parse_multiaddr(text) for text in self._known.get(account, ())]

    async def _connect(self, account: AccountId, addresses: list[Multiaddr], timeout_s: float) -> None:
        if account == self.account:
            raise DialError("that is ourselves")
        if account in self._links:
            return
        peer = library_id(account)
        try:
            with trio.fail_after(timeout_s):
                await self._swarm.dial_addresses(peer, addresses)
        except trio.TooSlowError as error:
            raise DialError(f"cannot reach {peer_id(account)}: no answer within {timeout_s:g} s") from error
        except Exception as error:  # the one border where the library's many errors become ours
            raise DialError(f"cannot reach {peer_id(account)}: {error}") from error
        self._links.refresh(peer)


@asynccontextmanager
async def open_host(config: HostConfig, key: SigningKey, network_id: NetworkId) -> AsyncIterator[Host]:
    """A running host; `ListenError` when it cannot listen. At the end every socket and task is gone."""
    patch_process()
    basic, swarm, transport = build_node(key, config.admission, config.connections_max)
    listeners = await listen(config.listen, swarm, transport)
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
            for listener in listeners:
                nursery.start_soon(listener.serve)
            async with gossip.running(nursery), routing.running():
                try:
                    yield host
                finally:
                    nursery.cancel_scope.cancel()
                    with trio.CancelScope(shield=True):
                        await close(basic, swarm)
        finally:
            nursery.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await close(basic, swarm)


def _bare(address: str) -> str | None:
    """An address without its peer id, or None when it is not a TCP address."""
    try:
        return str(parse_multiaddr(address.partition("/p2p/")[0]))
    except ValueError:
        return None


def _report(name: str, error: Exception) -> None:
    """A peer's fault is a line for debugging, our own a full report."""
    ours = error.split(P2pError)[1] if isinstance(error, ExceptionGroup) else error
    if ours is None or isinstance(ours, P2pError):
        _log.debug("%s: channel ended: %s", name, error)
    else:
        _log.error("%s: the handler failed", name, exc_info=ours)
