"""Who we are connected with, and who has come and gone (SPEC.md §9)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

import trio
from libp2p.abc import INotifee
from libp2p.peer.id import ID

from ledger.core.encoding import WireError
from ledger.core.keys import AccountId, account_from_peer_id, peer_id

if TYPE_CHECKING:
    from libp2p.abc import INetConn, INetStream, INetwork
    from multiaddr import Multiaddr

    from p2p.hardening import GuardedSwarm

__all__ = ["LINK_EVENTS_MAX", "Link", "LinkEvent", "LinkState", "LinkTable", "library_id", "strict_account"]

_log = logging.getLogger(__name__)

LINK_EVENTS_MAX: Final = 256


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


class LinkTable(INotifee):
    """One link per peer, kept by looking at what is connected whenever the library says that it changed."""

    def __init__(self, swarm: GuardedSwarm) -> None:
        self._swarm = swarm
        self._links: dict[AccountId, Link] = {}
        self._watchers: list[trio.MemorySendChannel[LinkEvent]] = []
        swarm.register_notifee(self)

    def __contains__(self, account: AccountId) -> bool:
        return account in self._links

    def all(self) -> tuple[Link, ...]:
        """Every link there is."""
        return tuple(self._links.values())

    def watch(self) -> trio.MemoryReceiveChannel[LinkEvent]:
        """Changes from now on; a reader more than LINK_EVENTS_MAX behind misses the newest."""
        send, receive = trio.open_memory_channel[LinkEvent](LINK_EVENTS_MAX)
        self._watchers.append(send)
        return receive

    def refresh(self, peer: ID) -> None:
        """Compare what is connected with what we told, and tell the difference."""
        account = strict_account(peer)
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
                _log.debug("a reader of link events is %d behind", LINK_EVENTS_MAX)
            except trio.BrokenResourceError:
                self._watchers.remove(watcher)

    async def connected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002 - the library's interface
        """Called by the library."""
        self.refresh(conn.muxed_conn.peer_id)

    async def disconnected(self, network: INetwork, conn: INetConn) -> None:  # noqa: ARG002 - as above
        """Called by the library."""
        self.refresh(conn.muxed_conn.peer_id)

    async def opened_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not of interest."""

    async def closed_stream(self, network: INetwork, stream: INetStream) -> None:
        """Not of interest."""

    async def listen(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not of interest."""

    async def listen_close(self, network: INetwork, multiaddr: Multiaddr) -> None:
        """Not of interest."""


def library_id(account: AccountId) -> ID:
    """libp2p's form of an account."""
    return ID.from_string(peer_id(account))


def strict_account(peer: ID) -> AccountId | None:
    """The account of a libp2p peer id; None for keys other than strict Ed25519, with which we do not talk."""
    try:
        return account_from_peer_id(str(peer))
    except WireError:
        return None


def _link(account: AccountId, conn: INetConn) -> Link:
    addresses = conn.get_transport_addresses()
    inbound = not conn.muxed_conn.is_initiator
    return Link(account, str(addresses[0]) if addresses else "", inbound)
