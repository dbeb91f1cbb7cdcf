"""One lease stream: joins a pure lease machine to a channel, in either role (SPEC.md §12).

The machine's actions are first shown to `notice`, at once and in order: it persists, and tells whoever must
know. Then they queue for `perform`, which may wait. So what must be durable is durable before the message
that depends on it is even queued, or before it leaves the queue; and before `after_message` returns, no
further message is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

import trio

from ledger.core.encoding import WireError
from millrace.alarm import Alarm
from millrace.core import messages
from millrace.core.lease import Action, Ended, Fault, Input, Lost, Send, Tick, Wake

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ledger.core.keys import AccountId

__all__ = ["LEASE_PROTOCOL", "Channel", "Conversation", "Machine"]

LEASE_PROTOCOL: Final = "lease"
"""The name to serve and open: `/millrace/<network>/lease/1`."""
ACTIONS_QUEUED_MAX: Final = 4096
"""A window of units makes at most a handful of actions each; more is a defect of ours."""
CLOSE_S: Final = 5.0
"""How long the last messages may take once a lease has ended."""


class Channel(Protocol):
    """One framed, ordered, bounded stream to a peer (`p2p.host.Channel`); its errors are `OSError`s."""

    @property
    def peer(self) -> AccountId: ...
    async def send(self, message: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    async def aclose(self) -> None: ...


class Machine(Protocol):
    """`BuyerLease` or `WorkerLease`."""

    def feed(self, event: Input, now_s: float) -> list[Action]: ...


class Conversation:
    """Runs until the machine says `Ended`. `sent_bytes` and `received_bytes` count frames' contents."""

    def __init__(
        self,
        machine: Machine,
        channel: Channel,
        *,
        notice: Callable[[Action], None],
        perform: Callable[[Action], Awaitable[None]],
        after_message: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.ended: Ended | None = None
        self.sent_bytes = 0
        self.received_bytes = 0
        self._machine = machine
        self._channel = channel
        self._notice = notice
        self._perform = perform
        self._after_message = after_message
        self._alarm = Alarm()
        self._scope = trio.CancelScope()
        self._queue, self._actions = trio.open_memory_channel[Action](ACTIONS_QUEUED_MAX)

    def feed(self, event: Input) -> None:
        """Give the machine an input; what it wants done is noticed now and performed in turn."""
        for action in self._machine.feed(event, trio.current_time()):
            if isinstance(action, Wake):
                self._alarm.set(action.at_s)
                continue
            self._notice(action)
            self._queue.send_nowait(action)
            if isinstance(action, Ended):
                self.ended = action
                self._scope.deadline = trio.current_time() + CLOSE_S

    async def run(self) -> Ended:
        """Serve the stream to its end, and close it."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._alarm.run, lambda: self.feed(Tick()))
                nursery.start_soon(self._read)
                with self._scope:
                    await self._work()
                nursery.cancel_scope.cancel()
        finally:
            with trio.move_on_after(CLOSE_S) as closing:
                closing.shield = True
                await self._channel.aclose()
        return self.ended or Ended("the stream was closed", fault=False)

    async def _read(self) -> None:
        while self.ended is None:
            try:
                frame = await self._channel.receive()
            except OSError as error:
                self.feed(Lost(f"stream lost: {str(error) or type(error).__name__}"))
                return
            self.received_bytes += len(frame)
            try:
                message = messages.decode(frame)
            except WireError as error:
                self.feed(Fault(str(error)))
                return
            self.feed(message)
            if self._after_message is not None:
                await self._after_message()

    async def _work(self) -> None:
        broken = False
        async for action in self._actions:
            if isinstance(action, Ended):
                return
            if isinstance(action, Send):
                if not broken:
                    broken = not await self.send(action.message)
            else:
                await self._perform(action)

    async def send(self, message: messages.Message) -> bool:
        """Send one message; False, and the lease is lost, if the stream is gone."""
        frame = messages.encode(message)
        try:
            await self._channel.send(frame)
        except OSError as error:
            self.feed(Lost(f"stream lost: {str(error) or type(error).__name__}"))
            return False
        self.sent_bytes += len(frame)
        return True
