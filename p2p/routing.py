"""The distributed routing table: who has said that they have a key (SPEC.md §11).

libp2p 0.8.1's Kademlia with three defects mended. Its protocol id is fixed, so that a node merges with the
public IPFS network: here every id it uses is rewritten to one of our network. Twelve idle streams stopped
it: here a stream has a deadline and a peer two. It refuses keys over 50 bytes: here keys are hashed. It goes
when the library takes a prefix for all its ids and bounds its streams.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import trio
from libp2p.kad_dht.common import PROTOCOL_ID as LIBRARY_PROTOCOL_ID
from libp2p.kad_dht.kad_dht import DHTMode, KadDHT
from libp2p.kad_dht.provider_store import ProviderStore
from libp2p.kad_dht.value_store import ValueStore
from libp2p.peer.id import ID
from libp2p.tools.anyio_service import background_trio_service

from ledger.core.encoding import WireError, digest
from ledger.core.keys import AccountId, account_from_peer_id, peer_id
from p2p.core.protocols import protocol_id

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from libp2p.abc import INetStream
    from libp2p.custom_types import StreamHandlerFn, TProtocol
    from libp2p.kad_dht.pb.kademlia_pb2 import Record
    from libp2p.peer.peerinfo import PeerInfo

    from ledger.core.encoding import NetworkId
    from p2p.hardening import GuardedHost

__all__ = ["Routing"]

_log = logging.getLogger(__name__)

QUERY_TIMEOUT_S: Final = 15.0
STREAM_TIMEOUT_S: Final = 10.0
STREAMS_PER_PEER_MAX: Final = 2
STREAMS_MAX: Final = 64
FOUND_MAX: Final = 64
KEYS_MAX: Final = 4096
_MULTIHASH_SHA256: Final = bytes((0x12, 0x20))


class Routing:
    """The routing table of one host."""

    def __init__(self, host: GuardedHost, network_id: NetworkId, *, server: bool) -> None:
        """Starts nothing: `running` does. A client asks, but keeps nothing for others."""
        mode = DHTMode.SERVER if server else DHTMode.CLIENT
        self._table = _Table(cast("Any", _Renamed(host, protocol_id(network_id, "kad"))), mode)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Answer and refresh while the block runs."""
        async with background_trio_service(self._table):
            yield

    async def provide(self, key: bytes) -> bool:
        """Tell the peers closest to `key` that we have it; whether at least one took the record."""
        try:
            with trio.move_on_after(QUERY_TIMEOUT_S):
                return bool(await self._table.provider_store.provide(_hashed(key)))
        except Exception as error:  # noqa: BLE001 - the library's lookups raise whatever peers make them raise
            _log.debug("providing failed: %r", error)
        return False

    async def find(self, key: bytes, count: int = 20) -> list[tuple[AccountId, tuple[str, ...]]]:
        """Up to `count` accounts that said they have `key`, with addresses: claims of strangers, unproved."""
        try:
            with trio.move_on_after(QUERY_TIMEOUT_S):
                found = await self._table.provider_store.find_providers(_hashed(key), min(count, FOUND_MAX))
                return [
                    (account, tuple(str(address) for address in info.addrs))
                    for info in found
                    if (account := _account(info.peer_id)) is not None
                ]
        except Exception as error:  # noqa: BLE001 - the library's lookups raise whatever peers make them raise
            _log.debug("looking up failed: %r", error)
        return []

    async def add_peer(self, account: AccountId) -> bool:
        """Put a peer whose addresses are known into the table; whether it is in it now."""
        return bool(await self._table.add_peer(ID.from_string(peer_id(account)), skip_server_mode_check=True))

    async def refresh(self) -> None:
        """Ask the peers in the table for more; the library does it every 600 s, too late for a new node."""
        try:
            with trio.move_on_after(QUERY_TIMEOUT_S):
                await self._table.refresh_routing_table()
        except Exception as error:  # noqa: BLE001 - the library's lookups raise whatever peers make them raise
            _log.debug("refreshing failed: %r", error)


class _Table(KadDHT):
    """The library's table with bounded inbound streams."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the library's long signature
        super().__init__(*args, **kwargs)
        self._inbound_limiter = trio.CapacityLimiter(STREAMS_MAX)
        self.provider_store = _Providers(self.host, self.peer_routing)
        self.value_store = _NoValues(self.host, self.local_peer_id)
        self._streams: Counter[ID] = Counter()

    async def handle_stream(self, stream: INetStream) -> None:
        """Answer one stream, within STREAM_TIMEOUT_S and STREAMS_PER_PEER_MAX."""
        peer = stream.muxed_conn.peer_id
        if self._streams[peer] >= STREAMS_PER_PEER_MAX:
            await stream.reset()
            return
        self._streams[peer] += 1
        try:
            with trio.move_on_after(STREAM_TIMEOUT_S) as scope:
                await super().handle_stream(stream)
            if scope.cancelled_caught:
                await stream.reset()
        finally:
            self._streams[peer] -= 1
            if not self._streams[peer]:
                del self._streams[peer]


class _Providers(ProviderStore):
    """The library's records with a limit on the keys that strangers can fill."""

    def add_provider(self, key: bytes, provider: PeerInfo) -> None:
        """Keep a record, unless KEYS_MAX other keys are kept already."""
        if key in self.providers or len(self.providers) < KEYS_MAX:
            super().add_provider(key, provider)


class _NoValues(ValueStore):
    """We keep providers only: a store of strangers' values is one more thing to fill."""

    def put_record(self, key: bytes, record: Record) -> None:
        """Forget it at once."""


class _Renamed:
    """A host that speaks our protocol id wherever the library says its fixed one."""

    def __init__(self, host: GuardedHost, name: str) -> None:
        self._host = host
        self._name = cast("TProtocol", name)

    def __getattr__(self, attribute: str) -> Any:  # noqa: ANN401 - all the rest is the host itself
        return getattr(self._host, attribute)

    async def new_stream(self, peer: ID, protocol_ids: Sequence[TProtocol]) -> INetStream:
        return await self._host.new_stream(peer, [self._rename(name) for name in protocol_ids])

    def set_stream_handler(self, protocol: TProtocol, stream_handler: StreamHandlerFn) -> None:
        self._host.set_stream_handler(self._rename(protocol), stream_handler)

    def remove_stream_handler(self, protocol: TProtocol) -> None:
        self._host.remove_stream_handler(self._rename(protocol))

    def _rename(self, protocol: TProtocol) -> TProtocol:
        return self._name if protocol == LIBRARY_PROTOCOL_ID else protocol


def _hashed(key: bytes) -> bytes:
    return _MULTIHASH_SHA256 + digest(key)


def _account(peer: ID) -> AccountId | None:
    try:
        return account_from_peer_id(str(peer))
    except WireError:
        return None
