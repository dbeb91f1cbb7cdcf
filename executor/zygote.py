"""The node's side of its sandboxed children: one conversation each, over two pipes (SPEC.md §13.6).

A child is distrusted like a peer: what it says is bounded, decoded strictly, and a violation ends it.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import trio

from executor.core.frames import CANCEL, RUN, Frames, frame
from executor.core.outcome import OUTCOME_BYTES_MAX, Outcome, Status
from executor.core.wire import WireError

if TYPE_CHECKING:
    from executor.core.task import WasmTask
    from executor.sandbox import Process

__all__ = ["REPORT_BYTES_MAX", "Child", "ChildError", "Zygote"]

REPORT_BYTES_MAX: Final = 4 + OUTCOME_BYTES_MAX
"""The longest frame from a unit's parent: the unit's number and its outcome."""
GRACE_S: Final = 5.0
"""How much later than the sandbox itself the node ends a unit whose wall time is over."""
END_POLITE_S: Final = 0.5
END_KILLED_S: Final = 3.0
START_S: Final = 30.0
_READ_BYTES: Final = 1 << 18


class ChildError(Exception):
    """A sandboxed child did not start, ended early, or broke the protocol."""


class Child:
    """Frames to and from one sandboxed process, and its end."""

    def __init__(self, process: Process, answer_bytes_max: int) -> None:
        """`answer_bytes_max` bounds each frame from the child."""
        self._process = process
        self._sending = trio.Lock()
        self._frames = Frames(answer_bytes_max)
        self._complete: deque[bytes] = deque()

    async def send(self, body: bytes) -> None:
        """Write one frame. Cut short by cancellation, it ends the child: the rest of the stream is lost."""
        view = memoryview(frame(body))
        async with self._sending:
            try:
                while view:
                    if self._process.stdin < 0:
                        raise ChildError("the sandbox has ended")
                    try:
                        view = view[os.write(self._process.stdin, view) :]
                    except BlockingIOError:
                        await trio.lowlevel.wait_writable(self._process.stdin)
            except (BrokenPipeError, trio.ClosedResourceError) as error:
                raise ChildError("the sandbox has ended") from error
            except trio.Cancelled:
                self._process.kill()
                raise

    def send_now(self, body: bytes) -> None:
        """Write one short frame without waiting; a child that is too busy for that is ended."""
        data = frame(body)
        try:
            if self._sending.locked() or os.write(self._process.stdin, data) != len(data):
                self._process.kill()
        except OSError:
            self._process.kill()

    async def receive(self) -> bytes:
        """The next frame; `ChildError` when the child has ended, or sent a longer one than it may."""
        while not self._complete:
            data = await self._read()
            if not data:
                raise ChildError(self.why_it_ended())
            try:
                self._complete.extend(self._frames.feed(data))
            except WireError as error:
                raise ChildError(f"the sandbox sent {error}") from error
        return self._complete.popleft()

    async def _read(self) -> bytes:
        while True:
            await (
                trio.lowlevel.checkpoint()
            )  # a child that always has more to say must not keep the event loop
            try:
                return os.read(self._process.stdout, _READ_BYTES)
            except BlockingIOError:
                await trio.lowlevel.wait_readable(self._process.stdout)

    def kill(self) -> None:
        """End the process at once; `end` must still be called."""
        self._process.kill()

    def why_it_ended(self) -> str:
        """What it said on stderr, or its exit status."""
        said = self._process.diagnostics()
        return said or f"the sandbox ended with status {self._process.poll()}"

    async def end(self) -> None:
        """Make it end, politely first, and leave nothing behind: process, group, descriptors; even if cancelled."""
        with trio.CancelScope(shield=True):
            trio.lowlevel.notify_closing(self._process.stdin)
            self._process.close_stdin()
            if not await self._ended_within(END_POLITE_S):
                self._process.kill()
                if not await self._ended_within(END_KILLED_S):
                    self._process.kill_hard()
                    await self._ended_within(END_KILLED_S)
            self._process.poll()
            self._process.release()
            group = self._process.group
            for _ in range(100):
                if group is None or group.remove():
                    break
                await trio.sleep(
                    0.01
                )  # the kernel takes the last process out of its group a moment after its end

    async def _ended_within(self, timeout_s: float) -> bool:
        with trio.move_on_after(timeout_s):
            await trio.lowlevel.wait_readable(self._process.exit_fd)
        return self._process.poll() is not None


@dataclass(slots=True)
class _Waiting:
    outcome: Outcome | None = None
    event: trio.Event = field(default_factory=trio.Event)


class Zygote:
    """One loaded module: runs units of it, each in a process of its own, until it is told to stop."""

    def __init__(self, child: Child, scope: trio.CancelScope, compiled: bytes) -> None:
        """`compiled` is the module in the form that the child loads; kept until it was sent."""
        self._child = child
        self._compiled = compiled
        self._scope = scope
        self._numbers = itertools.count(1)
        self._waiting: dict[int, _Waiting] = {}
        self._strays = 0
        """Reports that may still come for units which were cancelled meanwhile."""
        self._ready = trio.Event()
        self._failure: str | None = None
        self.leases = 0
        """Callers that hold this zygote now: it is not replaced before they are done."""
        self.used_at_s = trio.current_time()

    @property
    def alive(self) -> bool:
        """Whether units can still be given to it."""
        return self._failure is None and not self._scope.cancel_called

    async def serve(self) -> None:
        """Load the module, then hand reports to whoever waits for them. The child is gone when this returns."""
        with self._scope:
            try:
                await self._talk()
            except ChildError as error:
                self._failure = str(error)
            finally:
                self._fail_all(self._failure or "the sandbox was stopped")
                await self._child.end()

    async def _talk(self) -> None:
        with trio.move_on_after(START_S) as starting:
            await self._child.send(self._compiled)
            self._compiled = b""
            first = await self._child.receive()
            if first != b"ready":
                raise ChildError(first[:300].decode(errors="replace"))
            self._ready.set()
        if starting.cancelled_caught:
            raise ChildError(f"the sandbox was not ready within {START_S:g} s")
        while True:
            body = await self._child.receive()
            waiting = self._waiting.pop(int.from_bytes(body[:4], "big"), None)
            if waiting is None:
                self._strays -= 1
                if self._strays < 0:
                    raise ChildError("the sandbox reported a unit that it was not given")
                continue
            try:
                waiting.outcome = Outcome.decode(body[4:])
            except WireError as error:
                raise ChildError(f"the sandbox sent {error}") from error
            finally:
                waiting.event.set()

    def _fail_all(self, reason: str) -> None:
        self._failure = reason
        self._ready.set()
        for waiting in self._waiting.values():
            waiting.event.set()

    async def wait_ready(self) -> str | None:
        """Wait until the module is loaded: None, or why it never will be."""
        await self._ready.wait()
        return self._failure

    async def run(self, task: WasmTask) -> Outcome:
        """Run one unit. A sandbox that dies under it gives CRASHED; cancellation ends the unit's process."""
        if not self.alive:
            return Outcome(Status.CRASHED, stderr=b"the sandbox has ended")
        number = next(self._numbers)
        waiting = self._waiting[number] = _Waiting()
        self.used_at_s = trio.current_time()
        try:
            with trio.move_on_after(task.limits.wall_s + GRACE_S) as patience:
                await self._child.send(bytes((RUN,)) + number.to_bytes(4, "big") + task.encode())
                await waiting.event.wait()
            if patience.cancelled_caught:
                self._child.kill()
                return Outcome(Status.TIMEOUT, stderr=b"the sandbox did not end the unit in time")
            return waiting.outcome or Outcome(Status.CRASHED, stderr=(self._failure or "").encode()[:1000])
        except ChildError as error:
            return Outcome(Status.CRASHED, stderr=str(error).encode()[:1000])
        finally:
            self.used_at_s = trio.current_time()
            if self._waiting.pop(number, None) is not None and self.alive:
                self._strays += 1
                self._child.send_now(bytes((CANCEL,)) + number.to_bytes(4, "big"))

    def stop(self) -> None:
        """End the process and every unit in it; `serve` returns when that is done."""
        self._scope.cancel()
