"""Questions and answers between peers, pipelined over one lasting channel per peer and name (SPEC.md §9)."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from p2p.core.errors import (
    ChannelClosed,
    LocalProtocolError,
    P2pError,
    RemoteProtocolError,
    RequestRefused,
    RequestTimeout,
)
from p2p.core.framing import FRAME_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from ledger.core.keys import AccountId
    from p2p.streams import Channel, Connector

__all__ = ["ANSWERED", "FAILED", "UNSENT_BYTES_MAX", "Requests"]

_log = logging.getLogger(__name__)

OPEN_TIMEOUT_S: Final = 10.0
IN_FLIGHT_MAX: Final = 64
"""Requests that wait for an answer on one channel, at either end."""
IN_FLIGHT_TOTAL_MAX: Final = 1024
"""Requests of one name that are being answered, of all peers; each name has its own, so none starves another."""
UNSENT_BYTES_MAX: Final = 8 << 20
"""Answers that wait for their askers to read: over this, whoever has most waiting is hung up on."""
UNSENT_FRAMES_MAX: Final = 4
"""The same for one channel, in answers of the greatest length."""
REQUEST_ID_BYTES: Final = 4
ANSWERED: Final = 0
FAILED: Final = 1
_HEAD_BYTES: Final = REQUEST_ID_BYTES + 1
_ID_END: Final = 1 << (8 * REQUEST_ID_BYTES)


class _Line:
    """Our lasting channel to one peer for one name, and who waits for an answer on it."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.waiting: dict[int, trio.MemorySendChannel[tuple[int, bytes]]] = {}
        self.slots = trio.CapacityLimiter(IN_FLIGHT_MAX)
        self.broken = False
        self._next_id = 0

    def next_id(self) -> int:
        self._next_id = (self._next_id + 1) % _ID_END
        return self._next_id

    async def read_answers(self) -> None:
        """Hand answers to those who wait, until the channel ends; then fail them all."""
        try:
            async for frame in self.channel:
                if len(frame) < _HEAD_BYTES or frame[REQUEST_ID_BYTES] not in {ANSWERED, FAILED}:
                    raise RemoteProtocolError(f"{self.channel.name}: not an answer")
                waiter = self.waiting.pop(int.from_bytes(frame[:REQUEST_ID_BYTES], "big"), None)
                if waiter is not None:  # else its request has timed out
                    waiter.send_nowait((frame[REQUEST_ID_BYTES], frame[_HEAD_BYTES:]))
        except P2pError as error:
            _log.debug("%s: %s", self.channel.name, error)
        finally:
            self.broken = True
            self.channel.abort()
            for waiter in self.waiting.values():
                waiter.close()
            self.waiting.clear()


class _Unsent:
    """Answers on their way out, by channel: their askers may not read them at all."""

    def __init__(self) -> None:
        self._bytes: Counter[Channel] = Counter()

    @contextmanager
    def counted(self, channel: Channel, size_bytes: int) -> Iterator[None]:
        """Count an answer while the block sends it; over the limit, hang up on whoever leaves most unread."""
        self._bytes[channel] += size_bytes
        try:
            if self._bytes[channel] > UNSENT_FRAMES_MAX * channel.frame_bytes_max:
                channel.abort()
            elif self._bytes.total() > UNSENT_BYTES_MAX:
                slowest, _ = self._bytes.most_common(1)[0]
                slowest.abort()
            yield
        finally:
            self._bytes[channel] -= size_bytes
            if not self._bytes[channel]:
                del self._bytes[channel]


class Requests:
    """Questions and answers: one lasting stream per peer and name, many requests in flight on it."""

    def __init__(self, host: Connector) -> None:
        """Starts nothing; the tasks of open lines run in the host's nursery."""
        self._host = host
        self._lines: dict[tuple[AccountId, str], _Line] = {}
        self._opening: dict[tuple[AccountId, str], trio.Lock] = {}
        self._unsent = _Unsent()

    def serve(
        self,
        name: str,
        answer: Callable[[AccountId, bytes], Awaitable[bytes]],
        *,
        body_bytes_max: int = 1 << 20,
        question_bytes_max: int | None = None,
        in_flight_max: int = IN_FLIGHT_MAX,
    ) -> None:
        """Answer requests of `name`; `answer(peer, body)` runs up to `in_flight_max` times per peer at once.

        Bodies have at most `body_bytes_max`, those of requests `question_bytes_max` if that is given. Whatever
        `answer` raises reaches the peer as a refusal without details, and our log with them.
        """
        serving = trio.CapacityLimiter(IN_FLIGHT_TOTAL_MAX)

        async def answered(peer: AccountId, body: bytes) -> bytes:
            async with serving:
                return await answer(peer, body)

        async def serve_line(channel: Channel) -> None:
            slots = trio.Semaphore(in_flight_max)
            async with trio.open_nursery() as nursery:
                async for frame in channel:
                    if len(frame) < REQUEST_ID_BYTES:
                        raise RemoteProtocolError(f"{name}: not a request")
                    await slots.acquire()  # the peer's window is its back-pressure
                    nursery.start_soon(self._answer, channel, frame, answered, slots)

        self._host.serve(
            name,
            serve_line,
            frame_bytes_max=body_bytes_max + _HEAD_BYTES,
            receive_bytes_max=(question_bytes_max or body_bytes_max) + _HEAD_BYTES,
            streams_per_peer_max=2,
        )

    async def _answer(
        self,
        channel: Channel,
        frame: bytes,
        answer: Callable[[AccountId, bytes], Awaitable[bytes]],
        slots: trio.Semaphore,
    ) -> None:
        request_id = frame[:REQUEST_ID_BYTES]
        try:
            if channel.is_closed:  # its asker did not read earlier answers
                return
            # one copy: it may have to wait a while for the peer to read
            body = request_id + bytes((ANSWERED,)) + await answer(channel.peer, frame[REQUEST_ID_BYTES:])
            with self._unsent.counted(channel, len(body)):
                await channel.send(body)
        except P2pError as error:
            _log.debug("%s: no answer: %s", channel.name, error)
            await self._refuse(channel, request_id)
        except Exception:  # noqa: BLE001 - outermost frame of the answering task: one bad request must not end the line
            _log.exception("%s: answering failed", channel.name)
            await self._refuse(channel, request_id)
        finally:
            slots.release()

    async def _refuse(self, channel: Channel, request_id: bytes) -> None:
        try:
            await channel.send(request_id + bytes((FAILED,)))
        except P2pError as error:
            _log.debug("%s: no refusal either: %s", channel.name, error)

    async def request(
        self,
        account: AccountId,
        name: str,
        body: bytes,
        timeout_s: float,
        *,
        body_bytes_max: int = 1 << 20,
    ) -> bytes:
        """The peer's answer to `body`.

        `RequestTimeout` after `timeout_s`; `ConnectionError`s: `DialError` (not reachable), `ChannelClosed`
        (gone before it answered), `RequestRefused`. After a timeout or `ChannelClosed` the peer may or may
        not have carried it out: repeat only what may be repeated.
        """
        try:
            with trio.fail_after(timeout_s):
                return await self._ask(account, name, body, body_bytes_max)
        except trio.TooSlowError as error:
            raise RequestTimeout(f"{name}: no answer within {timeout_s:g} s") from error

    async def _ask(self, account: AccountId, name: str, body: bytes, body_bytes_max: int) -> bytes:
        if len(body) > body_bytes_max:
            raise LocalProtocolError(f"{name}: a body of {len(body)} bytes, at most {body_bytes_max}")
        line = await self._line(account, name, body_bytes_max)
        async with line.slots:
            if line.broken:  # it broke while we waited for a slot: nothing of ours was sent on it
                line = await self._line(account, name, body_bytes_max)
            request_id = line.next_id()
            send, receive = trio.open_memory_channel[tuple[int, bytes]](1)
            line.waiting[request_id] = send
            try:
                await line.channel.send(request_id.to_bytes(REQUEST_ID_BYTES, "big") + body)
                status, answer = await receive.receive()
            except trio.EndOfChannel as error:
                raise ChannelClosed(f"{name}: the peer went before it answered") from error
            finally:
                line.waiting.pop(request_id, None)
        if status == FAILED:
            raise RequestRefused(f"{name}: the peer could not answer")
        return answer

    async def _line(self, account: AccountId, name: str, body_bytes_max: int) -> _Line:
        key = (account, name)
        lock = self._opening.setdefault(key, trio.Lock())
        try:
            async with lock:
                line = self._lines.get(key)
                if line is None or line.broken:
                    size = min(body_bytes_max + _HEAD_BYTES, FRAME_BYTES_MAX)
                    channel = await self._host.open(
                        account, name, timeout_s=OPEN_TIMEOUT_S, frame_bytes_max=size
                    )
                    line = self._lines[key] = _Line(channel)
                    self._host.nursery.start_soon(self._run_line, key, line)
                return line
        finally:
            if not lock.locked():
                self._opening.pop(key, None)

    async def _run_line(self, key: tuple[AccountId, str], line: _Line) -> None:
        try:
            await line.read_answers()
        finally:
            if self._lines.get(key) is line:
                del self._lines[key]
