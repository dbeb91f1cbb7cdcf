"""libp2p 0.8.1 made safe on a hostile network: what we replace of it, and why.

Most defects are mended by a subclass that is used instead of the library's class; three need a change of a
name inside the library and are applied by `patch_process`, once. Every class and function names the defect,
where it was seen, and when it can go. The version is pinned. `tests/shell/p2p_host/test_p2p_bare_library.py`
reproduces the worst of them on the library as it comes, `test_p2p_attacks.py` shows them failing here. The
muxer (`p2p.muxer`), gossip (`p2p.pubsub`) and the routing table (`p2p.routing`) are mended in their modules.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from functools import partial
from typing import TYPE_CHECKING, Any, Final, cast

import libp2p.network.connection.swarm_connection as swarm_connection_module
import libp2p.pubsub.gossipsub as gossipsub_module
import libp2p.pubsub.pubsub as pubsub_module
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.host.basic_host import BasicHost
from libp2p.host.ping import ID as PING_ID
from libp2p.host.ping import PingService
from libp2p.identity.identify.identify import ID as IDENTIFY_ID
from libp2p.identity.identify.identify import identify_handler_for
from libp2p.network.auto_connector import AutoConnector
from libp2p.network.config import ConnectionConfig, RetryConfig
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.peer.id import ID
from libp2p.peer.peerstore import PeerStore
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.exceptions import MuxerUpgradeFailure, OpenConnectionError
from libp2p.transport.upgrader import TransportUpgrader

from ledger.core.keys import peer_id as peer_id_of
from p2p.core.errors import ListenError, LocalProtocolError
from p2p.muxer import MuxedSession
from p2p.transport import GuardedTcp, parse_multiaddr

if TYPE_CHECKING:
    from collections.abc import Sequence

    from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection, ISecureConn
    from libp2p.custom_types import TProtocol
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.network.connection.swarm_connection import SwarmConn
    from multiaddr import Multiaddr

    from ledger.core.keys import SigningKey
    from p2p.transport import AdmissionLimits, GuardedListener

__all__ = ["GuardedHost", "GuardedSwarm", "GuardedUpgrader", "build_node", "close", "listen", "patch_process"]

_log = logging.getLogger(__name__)

DIAL_TIMEOUT_S: Final = 5.0
DIAL_ADDRESSES_MAX: Final = 8
CLOSE_TIMEOUT_S: Final = 2.0
BANNED_MAX: Final = 1024
_ED25519_PEER_PREFIX: Final = "12D3Koo"


def patch_process() -> None:
    """Apply the changes inside the library that no subclass can make; a second call changes nothing."""
    _quiet_loggers()
    _drop_signed_records()
    _flatten_task_parents()


def _quiet_loggers() -> None:
    """What strangers do wrong is logged as warnings and errors of ours; there is no end of it.

    Silent unless LIBP2P_DEBUG asked for more (the library then installs a handler). One module logs through the
    root logger, which installs a handler on stderr for the whole process. Goes when peers' faults are debug
    lines and that module has a logger of its own.
    """
    library = logging.getLogger("libp2p")
    if not library.handlers:
        library.setLevel(logging.CRITICAL)
    cast("Any", swarm_connection_module).logging = logging.getLogger("libp2p.network.connection")


def _drop_signed_records() -> None:
    """Every gossip RPC carried a freshly signed peer record (6.2 -> 4.2 ms CPU per delivery without it).

    Goes when `Pubsub` has an option for it.
    """
    for module in (gossipsub_module, pubsub_module):
        cast("Any", module).env_to_send_in_RPC = lambda _host: (b"", False)


def _flatten_task_parents() -> None:
    """Starting a task searched all tasks for its parent: one RPC with 8,000 messages froze the loop 31 s.

    The parent is used for the order of cancellation only. Goes when the search is a table look-up.
    """
    cast("Any", TrioManager)._find_parent_task = lambda _self, _task: None  # noqa: SLF001


class GuardedUpgrader(TransportUpgrader):
    """Always our muxer: the library's selector builds its own yamux whatever class it was given."""

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree on yamux with the peer and run our session over the connection."""
        try:
            await self.muxer_multistream.select_transport(cast("IRawConnection", conn))
        except Exception as error:  # the negotiation also raises UnicodeDecodeError, AssertionError …
            raise MuxerUpgradeFailure("the peer does not offer yamux") from error
        return MuxedSession(conn, peer_id)


class _NoAutoConnector(AutoConnector):
    """It dialled addresses that strangers had put into the address store, even with all its minima at 0.

    Seen as "below target (150, low_water=0)"; whom to dial is for our own discovery. Goes when 0 means none.
    """

    async def run_background_task(self, nursery: trio.Nursery) -> None:
        """Start nothing."""

    async def maybe_connect(self) -> None:
        """Dial nobody."""


class GuardedSwarm(Swarm):
    """The library's connection table with its inbound path, dialling and duplicates mended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the library's long signature
        super().__init__(*args, **kwargs)
        self._dial_locks: dict[ID, trio.Lock] = {}
        self._banned: OrderedDict[ID, float] = OrderedDict()
        self.auto_connector = _NoAutoConnector(self)

    def connections_from(self, address: str) -> int:
        """Established connections with peers at this IP address."""
        remotes = (_session(conn).get_remote_address() for conn in self.get_connections())
        return sum(1 for remote in remotes if remote is not None and remote[0] == address)

    def ban(self, peer_id: ID, seconds: float) -> None:
        """Refuse connections with a peer for a while; of more than BANNED_MAX the oldest is let go."""
        self._banned.pop(peer_id, None)
        self._banned[peer_id] = trio.current_time() + seconds
        while len(self._banned) > BANNED_MAX:
            self._banned.popitem(last=False)

    async def add_conn(self, muxed_conn: IMuxedConn, direction: str = "unknown") -> SwarmConn:
        """Only Ed25519 identities (an RSA key of 16,384 bits is a known attack), and none that is banned."""
        peer = muxed_conn.peer_id
        until_s = self._banned.get(peer, 0.0)
        if until_s > trio.current_time() or not str(peer).startswith(_ED25519_PEER_PREFIX):
            await muxed_conn.close()
            raise SwarmException(f"{peer} is not welcome here")
        return await super().add_conn(muxed_conn, direction)

    async def upgrade_outbound_raw_conn(
        self, raw_conn: IRawConnection, peer_id: ID, pre_scope: object = None
    ) -> SwarmConn:
        """A dial that is cut off before its session runs closes its socket, wherever it was.

        A guard, by reading: the library closes nothing between agreeing on a muxer and starting the session.
        150 dials cancelled at as many places did not show it. Goes when one `finally` there covers all of it.
        """
        try:
            return await super().upgrade_outbound_raw_conn(raw_conn, peer_id, pre_scope)
        except BaseException:
            with trio.CancelScope(shield=True), trio.move_on_after(CLOSE_TIMEOUT_S):
                await raw_conn.close()
            raise

    async def accept(self, stream: ReadWriteCloser, maddr: Multiaddr) -> None:
        """A socket that a listener let in; returns once the connection stands or has failed."""
        await self._handle_inbound_connection(stream, maddr)

    async def _handle_inbound_connection(self, read_write_closer: ReadWriteCloser, maddr: Multiaddr) -> None:
        """Inbound slots were freed at shutdown only: after 250 connections in a lifetime none was let in.

        Our listener counts what is pending; this returns once the connection stands or has failed.
        """
        raw = RawConnection(read_write_closer, False)
        try:
            await self.upgrade_inbound_raw_conn(raw, maddr)
        except Exception as error:  # noqa: BLE001 - outermost: strangers make the handshake raise anything
            _log.debug("inbound connection failed: %r", error)
            await raw.close()

    async def dial_peer(self, peer_id: ID) -> list[INetConn]:
        """One address per transport was tried, then the peer was refused for 60 s, and success cost 250 ms.

        Here every known address is tried in turn. Goes when `dial_peer` does.
        """
        return [await self.dial_addresses(peer_id, self.peerstore.addrs(peer_id))]

    async def dial_addresses(self, peer_id: ID, addresses: Sequence[Multiaddr]) -> INetConn:
        """The connection there is, or a new one to the first address that answers; `SwarmException` if none."""
        lock = self._dial_locks.setdefault(peer_id, trio.Lock())
        try:
            async with lock:
                reasons: list[str] = []
                for address in addresses[:DIAL_ADDRESSES_MAX]:
                    if known := self._usable(peer_id):
                        return known
                    try:
                        with trio.fail_after(DIAL_TIMEOUT_S):
                            return await self.dial_addr(address, peer_id)
                    except trio.TooSlowError:
                        reasons.append(f"{address}: no handshake within {DIAL_TIMEOUT_S:.0f} s")
                    except Exception as error:  # noqa: BLE001 - strangers make the handshake raise anything
                        reasons.append(f"{address}: {_reason(error)}")
                if known := self._usable(peer_id):
                    return known
                raise SwarmException("; ".join(reasons) or "no known addresses")
        finally:
            if not lock.locked():
                self._dial_locks.pop(peer_id, None)

    def _usable(self, peer_id: ID) -> INetConn | None:
        return next((conn for conn in self.get_connections(peer_id) if not conn.is_closed), None)

    def _trim_connections(self, peer_id: ID) -> None:
        """Two peers that dialled each other each closed the other's choice, or kept both for 20 s.

        Both now keep the same one: of two directions the one dialled by the smaller peer id, of one direction
        the newer (the older is what a crashed peer left behind). Goes when the library breaks the tie alike.
        """
        keep = self.connections[peer_id][-1]
        for other in self.connections[peer_id][:-1]:
            ours, theirs = _session(keep).is_initiator, _session(other).is_initiator
            if ours != theirs:
                we_dial = self.self_id.to_bytes() < peer_id.to_bytes()
                keep = keep if ours == we_dial else other
        for conn in self.connections[peer_id]:
            if conn is not keep:
                self.manager.run_task(self._close_connection_async, conn)
        self.connections[peer_id] = [keep]


class GuardedHost(BasicHost):
    """The library's protocol negotiation, with a floor under it."""

    async def _swarm_stream_handler(self, net_stream: INetStream) -> None:
        """Whatever happens on one stream ends that stream, not the node.

        Non-UTF-8 bytes in a negotiation, and any exception of a handler, reached the nursery of the whole
        node. Goes when `BasicHost` catches them.
        """
        try:
            await super()._swarm_stream_handler(net_stream)
        except Exception as error:  # noqa: BLE001 - outermost frame of a stream's task
            _log.debug("stream from %s ended: %r", net_stream.muxed_conn.peer_id, error)
            await net_stream.reset()

    def _schedule_identify(self, peer_id: ID, *, reason: str) -> None:
        """We do not ask peers who they are: the handshake proved it, and adverts carry the rest.

        The library asked in system tasks, which outlive the host and whose failure ends the process.
        """

    async def _push_identify_to_all_peers(self) -> None:
        """See `_schedule_identify`."""


def build_node(
    key: SigningKey, admission: AdmissionLimits, connections_max: int
) -> tuple[GuardedHost, GuardedSwarm, GuardedTcp]:
    """The parts of a node, put together and not running."""
    pair = create_new_key_pair(key.seed)
    peer = ID.from_pubkey(pair.public_key)
    if str(peer) != peer_id_of(key.account):
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
        max_connections=connections_max,
        min_connections=0,
        low_watermark=0,
        high_watermark=connections_max,
        max_connections_per_peer=1,
        inbound_upgrade_timeout=admission.handshake_timeout_s,
    )
    swarm = GuardedSwarm(
        peer, store, upgrader, [], retry_config=RetryConfig(max_retries=0), connection_config=limits
    )
    transport = GuardedTcp(admission, swarm.connections_from)
    swarm.transport_manager.add_transport(transport)
    basic = GuardedHost(swarm, disable_identify_address_discovery=True)
    # Identify push would let any peer write into our address store; we serve what other libp2p nodes ask for.
    basic.multiselect.handlers.clear()
    basic.set_stream_handler(IDENTIFY_ID, identify_handler_for(basic, use_varint_format=True))
    basic.set_stream_handler(PING_ID, PingService(basic).handle_ping)
    return basic, swarm, transport


async def listen(
    addresses: Sequence[str], swarm: GuardedSwarm, transport: GuardedTcp
) -> list[GuardedListener]:
    """Open all sockets or none; the library would report a failure nowhere."""
    opened: list[GuardedListener] = []
    try:
        for text in addresses:
            address = parse_multiaddr(text)
            listener = transport.create_listener(partial(swarm.accept, maddr=address))
            await listener.listen(address)
            opened.append(listener)
            swarm.listeners[text] = listener
    except (ValueError, OpenConnectionError) as error:
        for listener in opened:
            await listener.close()
        raise ListenError(f"cannot listen: {error}; is the port taken, or the address not ours?") from error
    return opened


async def close(basic: GuardedHost, swarm: GuardedSwarm) -> None:
    """Close all connections at once, then the rest: one after the other took 12 s for 40 connections."""
    with trio.move_on_after(CLOSE_TIMEOUT_S):
        async with trio.open_nursery() as nursery:
            for conn in swarm.get_connections():
                nursery.start_soon(conn.close)
    with trio.move_on_after(CLOSE_TIMEOUT_S):
        await basic.close()


def _session(conn: INetConn) -> MuxedSession:
    return cast("MuxedSession", conn.muxed_conn)


def _reason(error: BaseException) -> str:
    """The innermost message: the library wraps the useful one several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__
