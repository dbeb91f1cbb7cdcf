"""Streams over one connection: our own yamux session in place of libp2p 0.8.1's (SPEC.md §9).

Six defects of the library's session are mended by this one replacement, each shown by a test in
`tests/shell/p2p_host/test_p2p_muxer.py`: a task cancelled inside a write corrupted the whole connection; a
writer without window for 5 s failed; a peer that ignored its window was only logged; streams had no cap per
peer; a stream never closed kept its slot for ever; a header arriving in more than 100 pieces ended the
connection. The wire format is unchanged, so every yamux peer can talk to us. It can go when the library's
session passes those tests.

A connection has three tasks. The reader never writes: what it has to answer goes to a bounded outbox, so two
peers that both wait for the other to read cannot lock up; a peer that fills the outbox is not reading, and
is dropped.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Self

import trio
from libp2p.abc import IMuxedConn, IMuxedStream
from libp2p.connection_types import ConnectionType
from libp2p.stream_muxer.exceptions import (
    MuxedConnUnavailable,
    MuxedStreamClosed,
    MuxedStreamEOF,
    MuxedStreamError,
    MuxedStreamReset,
)

from ledger.core.encoding import WireError
from p2p.core import yamux
from p2p.core.yamux import WINDOW_BYTES, Frame, FrameDecoder, encode_header
from p2p.outgoing import MESSAGE_BYTES_MAX, Outgoing

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from libp2p.abc import ISecureConn
    from libp2p.peer.id import ID
    from multiaddr import Multiaddr

__all__ = ["STREAMS_INBOUND_MAX", "STREAMS_OUTBOUND_MAX", "MuxedSession", "MuxedStream"]

_log = logging.getLogger(__name__)

STREAMS_INBOUND_MAX: Final = 64
"""Streams a peer may hold open towards us; the next one is reset."""
STREAMS_OUTBOUND_MAX: Final = 256
"""Streams we hold open towards one peer; opening one more fails at once instead of waiting for ever."""
CHUNK_BYTES_MAX: Final = MESSAGE_BYTES_MAX - yamux.HEADER_BYTES
"""Body bytes of one DATA frame: with its header exactly one noise message."""
EXACT_READ_BYTES_MAX: Final = WINDOW_BYTES // 2
"""`read(n)` waits for n bytes up to here; beyond, the window could not hold them all."""
SEND_CREDIT_MAX: Final = 1 << 31
GOODBYE_TIMEOUT_S: Final = 0.5
KEEPALIVE_S: Final = 15.0
SILENCE_MAX_S: Final = 45.0
HALF_CLOSED_MAX_S: Final = 60.0
"""How long a stream that we closed waits for the peer's own close before it is forgotten."""


class MuxedStream(IMuxedStream):
    """One stream of a session. `read` and `write` are each used by one task at a time."""

    def __init__(self, session: MuxedSession, stream_id: int, *, inbound: bool) -> None:
        self.muxed_conn = self._session = session
        self.stream_id = stream_id
        self.inbound = inbound
        self.written_bytes = 0
        """Body bytes handed to the connection: what a cancelled `write` got out."""
        self.closed_at_s: float | None = None
        self.receive_credit_bytes = WINDOW_BYTES
        self.send_credit_bytes = WINDOW_BYTES
        self.buffer = bytearray()
        self.send_closed = False
        self.receive_closed = False
        self.was_reset = False
        self._owed_bytes = 0
        self._changed = trio.Event()

    def wake(self) -> None:
        """Tell the waiting reader and writer that something has changed."""
        self._changed.set()
        self._changed = trio.Event()

    async def read(self, n: int | None = None) -> bytes:
        """Exactly `n` bytes (up to EXACT_READ_BYTES_MAX), fewer only at the end; without `n`, what is there.

        Nothing is lost when the task is cancelled: bytes leave the buffer after the last await.
        """
        if n == 0:
            return b""
        await trio.lowlevel.checkpoint_if_cancelled()
        needed = 1 if n is None or n < 0 else min(n, EXACT_READ_BYTES_MAX)
        while len(self.buffer) < needed and not self.receive_closed and not self.was_reset:
            await self._changed.wait()
        if not self.buffer:
            if self.was_reset:
                raise MuxedStreamReset("the peer reset the stream")
            raise MuxedStreamEOF("the peer closed the stream")
        taken = len(self.buffer) if n is None or n < 0 else min(n, len(self.buffer))
        data = bytes(self.buffer[:taken])
        del self.buffer[:taken]
        self._owed_bytes += taken
        if self._owed_bytes >= WINDOW_BYTES // 2 and not self.receive_closed and not self.was_reset:
            owed, self._owed_bytes = self._owed_bytes, 0
            self.receive_credit_bytes += owed
            self._session.post(encode_header(yamux.WINDOW_UPDATE, 0, self.stream_id, owed))
        return data

    async def write(self, data: bytes) -> None:
        """Send all of `data`, waiting for the peer's window as long as the caller does.

        Cancelled, it stops between two frames: the connection stays whole, `written_bytes` tells how far it came.
        """
        view = memoryview(data)
        while view:
            while self.send_credit_bytes == 0 and not self._is_send_over():
                await self._changed.wait()
            if self.was_reset:
                raise MuxedStreamReset("the peer reset the stream")
            if self.send_closed:
                raise MuxedStreamClosed("the stream is closed for sending")
            size = min(len(view), self.send_credit_bytes, CHUNK_BYTES_MAX)
            self.send_credit_bytes -= size
            self.written_bytes += size
            header = encode_header(yamux.DATA, 0, self.stream_id, size)
            try:
                await self._session.outgoing.send(header + bytes(view[:size]))
            except trio.Cancelled:
                self.send_credit_bytes += size
                self.written_bytes -= size
                raise
            view = view[size:]

    def _is_send_over(self) -> bool:
        return self.send_closed or self.was_reset

    async def close(self) -> None:
        """End our direction; the other stays readable until the peer ends it, or HALF_CLOSED_MAX_S."""
        if not self._is_send_over():
            self.send_closed = True
            self.closed_at_s = trio.current_time()
            self._session.post(encode_header(yamux.WINDOW_UPDATE, yamux.FIN, self.stream_id, 0))
            self._session.forget_if_done(self)
            self.wake()
        await trio.lowlevel.checkpoint()

    async def reset(self) -> None:
        """End both directions at once, and say so."""
        self.abort()
        await trio.lowlevel.checkpoint()

    def abort(self) -> None:
        """`reset` without a checkpoint, for clean-up under cancellation."""
        if not self.was_reset and not (self.send_closed and self.receive_closed):
            self._session.post(encode_header(yamux.WINDOW_UPDATE, yamux.RST, self.stream_id, 0))
        self.end(reset=True)
        self.buffer.clear()

    def end(self, *, reset: bool) -> None:
        """Both directions are over: tell the tasks, forget the stream. Bytes received stay readable."""
        self.was_reset = self.was_reset or reset
        self.send_closed = True
        self.receive_closed = True
        self._session.forget_if_done(self)
        self.wake()

    def set_deadline(self, ttl: int) -> None:
        """Not offered: deadlines belong to the caller's cancel scope."""
        raise NotImplementedError("use trio.fail_after around the call")

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's address and port."""
        return self._session.get_remote_address()

    async def __aenter__(self) -> Self:
        return self


class MuxedSession(IMuxedConn):
    """All streams of one secured connection."""

    def __init__(self, conn: ISecureConn, peer_id: ID) -> None:
        """Starts nothing: the swarm runs `start` in its own task."""
        self.peer_id = peer_id
        self.event_started = trio.Event()
        self.event_closed = trio.Event()
        self.on_close: Callable[[], Awaitable[None]] | None = None
        self._conn = conn
        self._streams: dict[int, MuxedStream] = {}
        self._inbound_count = 0
        self._next_id = 1 if conn.is_initiator else 2
        self._broken = False
        self._scope = trio.CancelScope()
        self._heard_at_s = 0.0
        self._accepted_send, self._accepted = trio.open_memory_channel[MuxedStream](STREAMS_INBOUND_MAX)
        self.outgoing = Outgoing(conn, self._break)

    @property
    def is_initiator(self) -> bool:
        """Whether we dialled."""
        return bool(self._conn.is_initiator)

    @property
    def is_established(self) -> bool:
        """Whether streams can be opened."""
        return self.event_started.is_set() and not self._broken

    @property
    def is_closed(self) -> bool:
        """Whether the connection below is closed."""
        return self.event_closed.is_set()

    @property
    def stream_count(self) -> int:
        """Streams not forgotten yet, of both directions."""
        return len(self._streams)

    async def start(self) -> None:
        """Run the connection until it ends; whatever the peer does, this does not raise."""
        self._heard_at_s = trio.current_time()
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read_frames)
                    nursery.start_soon(self.outgoing.run)
                    nursery.start_soon(self._keep_alive)
                    self.event_started.set()
        finally:
            self.event_started.set()
            self._end_streams()
            # Here too, not only in `close`: a connection that ends while the swarm is still registering it is
            # closed by nobody else. Closing twice does nothing.
            with trio.CancelScope(shield=True):
                await self._close_below()

    async def close(self) -> None:
        """Say goodbye if the peer is reading, close the connection, tell the swarm. Repeats do nothing."""
        if self.event_closed.is_set():
            return
        self.event_closed.set()
        with trio.CancelScope(shield=True):
            if not self._broken:
                await self._say_goodbye()
            self._end_streams()
            self._scope.cancel()
            await self._close_below()
        if self.on_close is not None:
            await self.on_close()

    async def open_stream(self) -> MuxedStream:
        """A new stream to the peer; `MuxedStreamError` when the connection ends or the cap is reached."""
        await trio.lowlevel.checkpoint()
        if self._broken or self.event_closed.is_set():
            raise MuxedStreamError("the connection is closed")
        if len(self._streams) - self._inbound_count >= STREAMS_OUTBOUND_MAX:
            raise MuxedStreamError(f"{STREAMS_OUTBOUND_MAX} streams to this peer are open already")
        stream = MuxedStream(self, self._next_id, inbound=False)
        self._next_id += 2
        self._streams[stream.stream_id] = stream
        self.post(encode_header(yamux.WINDOW_UPDATE, yamux.SYN, stream.stream_id, 0))
        return stream

    async def accept_stream(self) -> MuxedStream:
        """The next stream the peer opened; `MuxedConnUnavailable` at the end of the connection."""
        try:
            return await self._accepted.receive()
        except (trio.EndOfChannel, trio.ClosedResourceError) as error:
            raise MuxedConnUnavailable("the connection is closed") from error

    def get_transport_addresses(self) -> list[Multiaddr]:
        """Where the peer is, as multiaddrs."""
        return list(self._conn.get_transport_addresses())

    def get_connection_type(self) -> ConnectionType:
        """Always direct: we use no relays."""
        return ConnectionType.DIRECT

    def get_remote_address(self) -> tuple[str, int] | None:
        """The peer's address and port."""
        return self._conn.get_remote_address()

    def post(self, header: bytes) -> None:
        """Queue a frame without body; a full queue means the peer does not read, and ends the connection."""
        self.outgoing.post(header)

    def forget_if_done(self, stream: MuxedStream) -> None:
        """Drop a stream from the table once both directions are over."""
        if stream.send_closed and stream.receive_closed:
            self._forget(stream)

    def _forget(self, stream: MuxedStream) -> None:
        if self._streams.pop(stream.stream_id, None) is not None and stream.inbound:
            self._inbound_count -= 1

    def _break(self, reason: str) -> None:
        if not self._broken:
            _log.debug("connection to %s ends: %s", self.peer_id, reason)
        self._broken = True
        self.outgoing.close()
        self._scope.cancel()

    def _end_streams(self) -> None:
        self._broken = True
        self.outgoing.close()
        self._accepted_send.close()
        for stream in list(self._streams.values()):
            stream.end(reset=not stream.receive_closed)

    async def _say_goodbye(self) -> None:
        with trio.move_on_after(GOODBYE_TIMEOUT_S):
            try:
                await self.outgoing.send(encode_header(yamux.GO_AWAY, 0, 0, 0))
            except MuxedStreamError:
                return  # it broke meanwhile: no goodbye then

    async def _close_below(self) -> None:
        try:
            await self._conn.close()
        except Exception as error:  # noqa: BLE001 - the socket is gone either way
            _log.debug("closing the connection to %s: %r", self.peer_id, error)

    async def _read_frames(self) -> None:
        decoder = FrameDecoder()
        try:
            while True:
                data = await self._conn.read()
                if not data:
                    break
                self._heard_at_s = trio.current_time()
                for frame in decoder.feed(data):
                    self._take(frame)
        except Exception as error:  # noqa: BLE001 - outermost frame: bad crypto, bad frames, dead sockets end here
            self._break(f"read failed: {error!r}")
        self._break("the peer closed it")

    async def _keep_alive(self) -> None:
        while True:
            await trio.sleep(KEEPALIVE_S)
            now_s = trio.current_time()
            silent_s = now_s - self._heard_at_s
            if silent_s > SILENCE_MAX_S:
                self._break(f"silent for {silent_s:.0f} s")
            elif silent_s >= KEEPALIVE_S:
                self.post(encode_header(yamux.PING, yamux.SYN, 0, 1))
            for stream in list(self._streams.values()):
                if stream.closed_at_s is not None and now_s - stream.closed_at_s > HALF_CLOSED_MAX_S:
                    stream.abort()

    def _take(self, frame: Frame) -> None:
        if frame.kind == yamux.PING:
            if frame.flags & yamux.SYN:
                self.post(encode_header(yamux.PING, yamux.ACK, 0, frame.value))
        elif frame.kind == yamux.GO_AWAY:
            self._break("the peer said goodbye")
        else:
            self._take_stream_frame(frame)

    def _take_stream_frame(self, frame: Frame) -> None:
        stream = self._streams.get(frame.stream_id)
        if stream is None:
            if not frame.flags & yamux.SYN:
                return  # late frames of a stream that is over
            stream = self._accept(frame.stream_id)
            if stream is None:
                return
        if frame.kind == yamux.DATA:
            stream.receive_credit_bytes -= len(frame.body)
            if stream.receive_credit_bytes < 0:
                raise WireError("the peer sent more than its window")
            if not stream.receive_closed:
                stream.buffer += frame.body
        else:
            stream.send_credit_bytes += frame.value
            if stream.send_credit_bytes > SEND_CREDIT_MAX:
                raise WireError("the peer gave more credit than a window can be")
        if frame.flags & yamux.RST:
            stream.end(reset=True)
        elif frame.flags & yamux.FIN:
            stream.receive_closed = True
            self.forget_if_done(stream)
        stream.wake()

    def _accept(self, stream_id: int) -> MuxedStream | None:
        if stream_id == 0 or stream_id % 2 == self._next_id % 2:
            raise WireError(f"the peer opened stream {stream_id}, a number of ours")
        refused = self._inbound_count >= STREAMS_INBOUND_MAX
        if not refused:
            stream = MuxedStream(self, stream_id, inbound=True)
            try:
                self._accepted_send.send_nowait(stream)
            except (trio.WouldBlock, trio.ClosedResourceError, trio.BrokenResourceError):
                refused = True
            else:
                self._streams[stream_id] = stream
                self._inbound_count += 1
                self.post(encode_header(yamux.WINDOW_UPDATE, yamux.ACK, stream_id, 0))
                return stream
        self.post(encode_header(yamux.WINDOW_UPDATE, yamux.RST, stream_id, 0))
        return None
