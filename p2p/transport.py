"""TCP for libp2p, with limits that apply before the library sees a socket (SPEC.md §9).

Replaces the library's transport, whose defects each class names, with the tests in
`tests/shell/p2p_host/test_p2p_attacks.py`.
"""

from __future__ import annotations

import logging
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio
from libp2p.abc import IListener
from libp2p.io.exceptions import ConnectionClosedError
from libp2p.io.trio import TrioTCPStream
from libp2p.network.connection.raw_connection import RawConnection
from libp2p.transport.exceptions import OpenConnectionError
from libp2p.transport.tcp.tcp import TCP
from multiaddr import Multiaddr

from p2p.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from libp2p.abc import IRawConnection
    from libp2p.custom_types import THandler

__all__ = [
    "ADDRESS_CHARS_MAX",
    "AdmissionLimits",
    "BufferedTcpStream",
    "GuardedListener",
    "GuardedTcp",
    "endpoint",
    "parse_multiaddr",
]

_log = logging.getLogger(__name__)

ADDRESS_CHARS_MAX: Final = 256
READ_BYTES: Final = 128 << 10
BACKLOG: Final = 256
ACCEPT_PAUSE_S: Final = 0.1


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
        self._read_turns, self._write_turns = Turns(), Turns()
        self._remote = endpoint(stream)

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes; without `n`, whatever is there. `ConnectionClosedError` at the end."""
        if n == 0:
            return b""
        needed = 1 if n is None else n
        async with self._read_turns:
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

    async def write(self, data: bytes) -> None:
        """Send all of `data`; `ConnectionClosedError` if the peer is gone, nothing at all if we have closed."""
        async with self._write_turns:
            try:
                await self.stream.send_all(data)
            except trio.BrokenResourceError as error:
                raise ConnectionClosedError(str(error), transport="tcp") from error
            except trio.ClosedResourceError:
                return

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
            except trio.Cancelled:
                stream.socket.close()  # time is up, a newer one pushed it out, or the host closes
                raise
            finally:
                del self._pending[scope]
                self._per_address[address] -= 1
                if not self._per_address[address]:
                    del self._per_address[address]

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
        return GuardedListener(handler_function, self._limits, self._established)


def parse_multiaddr(text: str) -> Multiaddr:
    """`/ip4|ip6|dns…/HOST/tcp/PORT` and nothing after it; `ValueError` for anything else."""
    if len(text) > ADDRESS_CHARS_MAX:
        raise ValueError(f"an address of {len(text)} characters, at most {ADDRESS_CHARS_MAX}")
    try:
        maddr = Multiaddr(text)
    except Exception as error:  # the parser raises whatever its parts raise
        raise ValueError(f"{text!r} is not a multiaddr: {error}") from error
    _host_and_port(maddr)
    return maddr


def _host_and_port(maddr: Multiaddr) -> tuple[str, int]:
    """Host and port of `/ip4/127.0.0.1/tcp/4001`; `ValueError` for anything but TCP."""
    parts = str(maddr).split("/")
    if len(parts) not in {5, 7} or parts[1] not in {"ip4", "ip6", "dns", "dns4", "dns6"} or parts[3] != "tcp":
        raise ValueError(f"{maddr}: only /ip4, /ip6 or /dns with /tcp is spoken here")
    return parts[2], int(parts[4])


def _socket_multiaddr(listener: trio.SocketListener) -> Multiaddr:
    host, port = listener.socket.getsockname()[:2]
    return Multiaddr(f"/ip{6 if ':' in host else 4}/{host}/tcp/{port}")


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
