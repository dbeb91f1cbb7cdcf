"""Messages between two peers, whole and in order, over one stream (SPEC.md §9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol, Self

import trio

from ledger.core.encoding import WireError
from p2p.core.errors import ChannelClosed, LocalProtocolError, P2pError, RemoteProtocolError
from p2p.core.framing import Decoder, encode_frame
from p2p.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ledger.core.keys import AccountId

__all__ = ["PIECE_BYTES_MAX", "Channel", "Connector", "Stream"]

SEND_TIMEOUT_S: Final = 30.0
"""How long a peer may leave a message of ours unread before the channel is given up."""
PIECE_BYTES_MAX: Final = 64 << 10
"""Messages of several tasks leave together up to here: one noise message, one system call."""


class Stream(Protocol):
    """A byte stream to one peer; its errors are `ChannelClosed` and `RemoteProtocolError`."""

    @property
    def written_bytes(self) -> int:
        """Bytes that have left, also when a send was cancelled."""
        ...

    async def receive_some(self) -> bytes:
        """Bytes that are there; b"" at the end. Loses nothing when cancelled."""
        ...

    async def send_all(self, data: bytes) -> None:
        """All of `data`, with the peer's window as back-pressure."""
        ...

    async def aclose(self) -> None:
        """End the stream, letting what was sent arrive."""
        ...

    def abort(self) -> None:
        """End the stream at once, without waiting."""
        ...


class Channel:
    """Whole messages to and from one peer, in order.

    One task may send while another receives; more than one of either wait for each other, and what several
    send meanwhile leaves as one piece. Cancelling is safe: a cancelled `receive` loses nothing; a cancelled `send`
    has sent nothing or the whole message, or the channel is closed.
    """

    def __init__(
        self,
        peer: AccountId,
        name: str,
        stream: Stream,
        *,
        frame_bytes_max: int,
        receive_bytes_max: int | None = None,
    ) -> None:
        """`receive_bytes_max`: when what the peer may say is shorter than what we may."""
        self.peer = peer
        self.name = name
        self._stream = stream
        self.frame_bytes_max = frame_bytes_max
        self._decoder = Decoder(frame_bytes_max=receive_bytes_max or frame_bytes_max)
        self._messages: list[bytes] = []
        self._unsent: dict[int, bytes] = {}  # frames on their way, by the number of their turn
        self._last_turn = 0
        self._broke = False
        self._send_turns = Turns()
        self._receive_turns = Turns()
        self._closed = False

    async def send(self, message: bytes, *, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """Send one message of 1 to `frame_bytes_max` bytes.

        `ChannelClosed` when the peer is gone or does not read for `timeout_s`; `LocalProtocolError` when the
        message is over the limit.
        """
        await self.send_all((message,), timeout_s=timeout_s)

    async def send_all(self, messages: Sequence[bytes], *, timeout_s: float = SEND_TIMEOUT_S) -> None:
        """Send messages one behind the other, as one piece: cheaper than each by itself. Else as `send`."""
        for message in messages:
            if not 1 <= len(message) <= self.frame_bytes_max:
                raise LocalProtocolError(
                    f"{self.name}: a message of {len(message)} bytes, allowed are 1 to {self.frame_bytes_max}"
                )
        await trio.lowlevel.checkpoint_if_cancelled()
        turn = self._last_turn = self._last_turn + 1
        frames = (encode_frame(each, frame_bytes_max=self.frame_bytes_max) for each in messages)
        self._unsent[turn] = b"".join(frames)
        try:
            async with self._send_turns:
                while turn in self._unsent:
                    await self._send_waiting(timeout_s)
        finally:
            self._unsent.pop(turn, None)  # cancelled while it waited
        if self._broke:
            raise ChannelClosed(f"{self.name}: the channel broke")

    async def _send_waiting(self, timeout_s: float) -> None:
        """Send what tasks have left here while the last piece was on its way; the caller holds the lock."""
        if self._closed:
            raise ChannelClosed(f"{self.name}: the channel is closed")
        taken: dict[int, bytes] = {}
        for turn, frames in list(self._unsent.items()):
            if taken and sum(map(len, taken.values())) + len(frames) > PIECE_BYTES_MAX:
                break
            taken[turn] = self._unsent.pop(turn)
        before = self._stream.written_bytes
        try:
            with trio.fail_after(timeout_s):
                await self._stream.send_all(b"".join(taken.values()))
        except trio.TooSlowError as error:
            self._break()
            raise ChannelClosed(f"{self.name}: the peer did not read for {timeout_s:g} s") from error
        except trio.Cancelled:
            if self._stream.written_bytes != before:
                self._break()  # part of it is out: nothing after it could be understood
            self._unsent = taken | self._unsent  # else the others send theirs themselves
            raise
        except P2pError:
            self._break()
            raise

    def _break(self) -> None:
        self._broke = True
        self.abort()

    async def receive(self) -> bytes:
        """The next message. `ChannelClosed` at the end; `RemoteProtocolError` when it is not a message."""
        await trio.lowlevel.checkpoint_if_cancelled()
        async with self._receive_turns:
            while not self._messages:
                if self._closed:
                    raise ChannelClosed(f"{self.name}: the channel is closed")
                data = await self._stream.receive_some()
                try:
                    if not data:
                        self._decoder.end()
                        raise ChannelClosed(f"{self.name}: the peer closed the channel")
                    self._messages = self._decoder.feed(data)[::-1]
                except WireError as error:
                    self.abort()
                    raise RemoteProtocolError(f"{self.name}: {error}") from error
            return self._messages.pop()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        try:
            return await self.receive()
        except ChannelClosed:
            raise StopAsyncIteration from None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_error: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """End the channel; messages sent still arrive. Repeats do nothing."""
        if not self._closed:
            self._closed = True
            await self._stream.aclose()

    def allow(self, receive_bytes_max: int) -> None:
        """Take longer messages than before: the peer has earned it."""
        self._decoder.allow(receive_bytes_max)

    @property
    def is_closed(self) -> bool:
        """Whether we have ended it; the peer may have, too, without our knowing yet."""
        return self._closed

    def abort(self) -> None:
        """End the channel at once: what was sent may not arrive."""
        self._closed = True
        self._stream.abort()


class Connector(Protocol):
    """What requests need of a host (the simulator has another one)."""

    @property
    def nursery(self) -> trio.Nursery:
        """Where tasks run that live as long as the host."""
        ...

    async def open(
        self, account: AccountId, name: str, *, timeout_s: float = ..., frame_bytes_max: int = ...
    ) -> Channel:
        """A new channel to a peer."""
        ...

    def serve(
        self,
        name: str,
        handler: Callable[[Channel], Awaitable[None]],
        *,
        frame_bytes_max: int = ...,
        receive_bytes_max: int | None = ...,
        streams_per_peer_max: int = ...,
    ) -> None:
        """Answer channels of a name."""
        ...
