"""libp2p 0.8.1 made safe on a hostile network: what we replace of it, and why.

Most defects are mended by a subclass that is used instead of the library's class; three need a change of a
name inside the library and are applied by `patch_process`, once. Every class and function names the defect,
where it was seen, and when it can go. The version is pinned; `tests/shell/p2p_host` shows each attack. The
muxer (`p2p.muxer`), gossip (`p2p.pubsub`) and the routing table (`p2p.routing`) are mended in their modules.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import libp2p.network.connection.swarm_connection as swarm_connection_module
import libp2p.pubsub.gossipsub as gossipsub_module
import libp2p.pubsub.pubsub as pubsub_module
import trio
from libp2p.abc import IListener
from libp2p.host.basic_host import BasicHost
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.network.exceptions import SwarmException
from libp2p.network.swarm import Swarm
from libp2p.tools.anyio_service.trio_manager import TrioManager
from libp2p.transport.exceptions import MuxerUpgradeFailure, OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from libp2p.transport.upgrader import TransportUpgrader
from multiaddr import Multiaddr

from p2p.muxer import MuxedSession

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from libp2p.abc import IMuxedConn, INetConn, INetStream, IRawConnection, ISecureConn
    from libp2p.custom_types import THandler
    from libp2p.io.abc import ReadWriteCloser
    from libp2p.peer.id import ID

__all__ = [
    "AdmissionLimits",
    "GuardedHost",
    "GuardedListener",
    "GuardedSwarm",
    "GuardedTcp",
    "GuardedUpgrader",
    "endpoint",
    "patch_process",
]

_log = logging.getLogger(__name__)

READ_BYTES: Final = 128 << 10
DIAL_TIMEOUT_S: Final = 5.0
DIAL_ADDRESSES_MAX: Final = 8
BACKLOG: Final = 256
ACCEPT_PAUSE_S: Final = 0.1
NEGOTIATE_TIMEOUT_S: Final = 5


def patch_process() -> None:
    """Apply the changes inside the library that no subclass can make; a second call changes nothing."""
    _quiet_loggers()
    _drop_signed_records()
    _flatten_task_parents()


def _quiet_loggers() -> None:
    """What strangers do wrong is logged as warnings and errors of ours; there is no end of it.

    Silent unless the embedding program has set a level for `libp2p` itself. One module logs through the root
    logger, which installs a handler on stderr for the whole process. Goes when peers' faults are debug lines
    and that module has a logger of its own.
    """
    library = logging.getLogger("libp2p")
    if library.level == logging.NOTSET:
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


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """What strangers may take before they have proved a key."""

    pending_max: int = 128
    pending_per_address_max: int = 8
    connections_per_address_max: int = 32
    handshake_timeout_s: float = 3.0
    loopback_factor: int = 16
    """Peers on this machine share one address: their limits are this many times higher."""


class BufferedTcpStream(TrioTCPStream):
    """A socket with a read buffer and honest reads.

    `read(n)` returns n bytes or raises: the library's `read_exactly` gives up after 100 fragments with a
    false "connection closed", and cost one system call per two-byte length. The remote address of an IPv6
    peer was None, so that address limits did not hold for it. Goes when both are mended in `libp2p.io`.
    """

    def __init__(self, stream: trio.SocketStream) -> None:
        super().__init__(stream)
        self._buffer = bytearray()
        self._remote = endpoint(stream)

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes; without `n`, whatever is there. `ConnectionClosedError` at the end."""
        if n == 0:
            return b""
        needed = 1 if n is None else n
        async with self.read_lock:
            while len(self._buffer) < needed:
                try:
                    data = await self.stream.receive_some(READ_BYTES)
                except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
                    raise ConnectionClosedError(str(error), transport="tcp") from error
                if not data:
                    raise ConnectionClosedError("the peer closed the connection", transport="tcp")
                self._buffer += data
            taken = len(self._buffer) if n is None else n
            result = bytes(self._buffer[:taken])
            del self._buffer[:taken]
            return result

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's address and port, as of when the connection was made."""
        return self._remote


def endpoint(stream: trio.SocketStream) -> tuple[str, int] | None:
    """The remote IP address and port of a socket, IPv4 or IPv6; None if it is gone already."""
    try:
        name = stream.socket.getpeername()
    except OSError:
        return None
    return str(name[0]), int(name[1])


class GuardedListener(IListener):
    """Accepts connections, with limits that apply before the library sees the socket.

    On the bare library 145 silent sockets a second left 1 of 20 honest dials alive: 250 pending slots, 10 s
    each, none per address. Here a new socket from a crowded address pushes out the oldest pending one of
    that address, and a handshake has 3 s. The library also listened with SO_REUSEPORT (two nodes could share
    a port without knowing) and reported a failure to listen nowhere. Goes when `TCPListener` has such limits.
    """

    def __init__(self, handler: THandler, limits: AdmissionLimits, established: Callable[[str], int]) -> None:
        """`established` counts the connections there are with an address."""
        self._handler = handler
        self._limits = limits
        self._established = established
        self._sockets: list[trio.SocketListener] = []
        self._pending: dict[trio.CancelScope, str] = {}
        self._per_address: Counter[str] = Counter()

    @property
    def pending_count(self) -> int:
        """Sockets that have not proved a key yet."""
        return len(self._pending)

    async def listen(self, maddr: Multiaddr) -> None:
        """Open the sockets of `maddr`; `OpenConnectionError` when that fails. `serve` accepts."""
        try:
            host, port = _host_and_port(maddr)
            self._sockets += await trio.open_tcp_listeners(port, host=host, backlog=BACKLOG)
        except (OSError, ValueError) as error:
            raise OpenConnectionError(f"cannot listen on {maddr}: {error}") from error

    def get_addrs(self) -> tuple[Multiaddr, ...]:
        """Where it listens, with the port the system chose."""
        return tuple(_socket_multiaddr(listener) for listener in self._sockets)

    async def serve(self) -> None:
        """Accept connections until cancelled or closed; the host runs this in its nursery."""
        async with trio.open_nursery() as nursery:
            for listener in self._sockets:
                nursery.start_soon(self._accept, listener, nursery)

    async def close(self) -> None:
        """Close the sockets; connections already made live on."""
        for listener in self._sockets:
            await listener.aclose()

    async def _accept(self, listener: trio.SocketListener, nursery: trio.Nursery) -> None:
        while True:
            try:
                stream = await listener.accept()
            except trio.ClosedResourceError:
                return
            except OSError as error:  # out of descriptors, usually: wait for some to be freed
                _log.warning("cannot accept a connection: %s", error)
                await trio.sleep(ACCEPT_PAUSE_S)
                continue
            nursery.start_soon(self._admit, stream)

    async def _admit(self, stream: trio.SocketStream) -> None:
        remote = endpoint(stream)
        if remote is None or not self._make_room(remote[0]):
            await trio.aclose_forcefully(stream)
            return
        address = remote[0]
        with trio.CancelScope() as scope:
            scope.deadline = trio.current_time() + self._limits.handshake_timeout_s
            self._pending[scope] = address
            self._per_address[address] += 1
            try:
                await self._handler(BufferedTcpStream(stream))
            finally:
                del self._pending[scope]
                self._per_address[address] -= 1
                if not self._per_address[address]:
                    del self._per_address[address]
        if scope.cancelled_caught:
            stream.socket.close()

    def _make_room(self, address: str) -> bool:
        """Push out a pending socket where a limit is reached; False if this address holds enough already."""
        factor = self._limits.loopback_factor if _is_loopback(address) else 1
        if self._established(address) >= self._limits.connections_per_address_max * factor:
            return False
        if self._per_address[address] >= self._limits.pending_per_address_max * factor:
            self._push_out(address)
        elif len(self._pending) >= self._limits.pending_max:
            self._push_out(self._per_address.most_common(1)[0][0])
        return True

    def _push_out(self, address: str) -> None:
        for scope, holder in self._pending.items():  # oldest first: dicts keep their order
            if holder == address and not scope.cancel_called:
                scope.cancel()
                return


class GuardedTcp(TCP):
    """The TCP transport with our sockets on both ends. Goes with `GuardedListener`."""

    def __init__(self, limits: AdmissionLimits, established: Callable[[str], int]) -> None:
        super().__init__()
        self._limits = limits
        self._established = established
        self.guarded_listeners: list[GuardedListener] = []

    async def dial(self, maddr: Multiaddr) -> IRawConnection:
        """Connect to `/ip4|ip6|dns…/tcp/…`; `OpenConnectionError` when nobody answers."""
        try:
            host, port = _host_and_port(maddr)
            stream = await trio.open_tcp_stream(host, port)
        except (OSError, ValueError) as error:
            raise OpenConnectionError(f"cannot connect to {maddr}: {error}") from error
        return RawConnection(BufferedTcpStream(stream), True)

    def create_listener(self, handler_function: THandler) -> GuardedListener:  # type: ignore[override]
        """A listener of ours; its `serve` is run by the host."""
        listener = GuardedListener(handler_function, self._limits, self._established)
        self.guarded_listeners.append(listener)
        return listener


class GuardedUpgrader(TransportUpgrader):
    """Always our muxer: the library's selector builds its own yamux whatever class it was given."""

    async def upgrade_connection(self, conn: ISecureConn, peer_id: ID) -> IMuxedConn:
        """Agree on yamux with the peer and run our session over the connection."""
        try:
            await self.muxer_multistream.select_transport(cast("IRawConnection", conn))
        except Exception as error:  # the negotiation also raises UnicodeDecodeError, AssertionError …
            raise MuxerUpgradeFailure("the peer does not offer yamux") from error
        return MuxedSession(conn, peer_id)


class GuardedSwarm(Swarm):
    """The library's connection table with its inbound path, dialling and duplicates mended."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:  # noqa: ANN401 - the library's long signature
        super().__init__(*args, **kwargs)
        self._dial_locks: dict[ID, trio.Lock] = {}

    def connections_from(self, address: str) -> int:
        """Established connections with peers at this IP address."""
        remotes = (_session(conn).get_remote_address() for conn in self.get_connections())
        return sum(1 for remote in remotes if remote is not None and remote[0] == address)

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

    on_stream_failed: Callable[[ID], None] | None = None

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


def _session(conn: INetConn) -> MuxedSession:
    return cast("MuxedSession", conn.muxed_conn)


def _reason(error: BaseException) -> str:
    """The innermost message: the library wraps the useful one several times."""
    while error.__cause__ is not None:
        error = error.__cause__
    return str(error) or type(error).__name__


def _host_and_port(maddr: Multiaddr) -> tuple[str, int]:
    """Host and port of `/ip4/127.0.0.1/tcp/4001`; `ValueError` for anything but TCP."""
    parts = str(maddr).split("/")
    if len(parts) < 5 or parts[1] not in {"ip4", "ip6", "dns", "dns4", "dns6"} or parts[3] != "tcp":
        raise ValueError("only /ip4, /ip6 or /dns with /tcp is spoken here")
    return parts[2], int(parts[4])


def _socket_multiaddr(listener: trio.SocketListener) -> Multiaddr:
    host, port = listener.socket.getsockname()[:2]
    return Multiaddr(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}")


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
