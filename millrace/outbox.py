"""What a job has to say to its client, between the job, which never waits, and the socket, which may (SPEC.md §16).

Results are never dropped. What bounds them is that the job begins no further unit while too many of them wait; what
is out by then is still verified and paid, so a client that does not read costs no worker its money.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.core.keys import peer_id
from millrace.core.progress import UnitAccepted, UnitFailed, progress_fields
from millrace.errors import BudgetExceeded, JobTimeout, NetworkTrouble, TaskError
from millrace.leases import CAP_USED_UP, LEDGER_AWAY, TIME_OVER

if TYPE_CHECKING:
    from collections.abc import Callable

    from executor.core.outcome import Outcome
    from millrace.api import Emit
    from millrace.core.progress import Progress
    from millrace.core.tally import JobTally

__all__ = ["EVENTS_MAX", "RESULTS_WAITING_BYTES_MAX", "Outbox"]

EVENTS_MAX: Final = 4_096
"""Events of one job that wait for its client; a client further behind misses some, and is told how many."""
RESULTS_WAITING_BYTES_MAX: Final = 16 << 20
"""Results that wait for the client before the job pauses; it goes on when half of them are taken."""
RESULT_BYTES: Final = 512
"""What a result weighs beside its output."""
_CODES: Final = {
    TIME_OVER: JobTimeout.code,
    CAP_USED_UP: BudgetExceeded.code,
    LEDGER_AWAY: NetworkTrouble.code,
}
"""How a reason begins → its code; any other is the task's own."""


class Outbox:
    """The audience of one job (`leases.Audience`); `empty` is its way to the client, until `close`."""

    def __init__(self, tally: JobTally) -> None:
        """`tally` counts what is heard."""
        self._tally = tally
        self._waiting: deque[tuple[dict[str, Any], int]] = deque()
        self._held_bytes = 0
        self._missed = 0
        self._hold: Callable[[bool], None] | None = None
        self._behind = False
        self._closed = False
        self._changed = trio.Event()

    @property
    def results_waiting(self) -> int:
        """Results that are not with the client yet."""
        return sum(size > 0 for _, size in self._waiting)

    def when_behind(self, hold: Callable[[bool], None]) -> None:
        """Call `hold` when the client falls behind, and when it has caught up."""
        self._hold = hold

    def hear(self, event: Progress, outcome: Outcome | None) -> None:
        """Queue the event, and directly behind it the result that it is about."""
        self._tally.feed(event)
        if len(self._waiting) < EVENTS_MAX:
            self._waiting.append((progress_fields(event), 0))
        else:
            self._missed += 1
        match event:
            case UnitAccepted() if outcome is not None:
                size = RESULT_BYTES + len(outcome.output) + len(outcome.stderr)
                self._put_result(_result(event, outcome), size)
            case UnitFailed():
                self._put_result(_no_result(event), RESULT_BYTES)
            case _:
                pass
        self._changed.set()

    def close(self) -> None:
        """Nothing more will be heard."""
        self._closed = True
        self._changed.set()

    async def empty(self, emit: Emit) -> None:
        """Send what is heard, in order, until all of it is sent and the box is closed."""
        while self._waiting or not self._closed:
            if not self._waiting:
                self._changed = trio.Event()
                await self._changed.wait()
                continue
            fields, size = self._waiting.popleft()
            await emit(fields)
            self._held_bytes -= size
            if self._behind and self._held_bytes <= RESULTS_WAITING_BYTES_MAX // 2:
                self._turn(behind=False)
        if self._missed:
            await emit({"event": "events_missed", "count": self._missed})

    def _put_result(self, fields: dict[str, Any], size: int) -> None:
        self._waiting.append((fields, size))
        self._held_bytes += size
        if not self._behind and self._held_bytes > RESULTS_WAITING_BYTES_MAX:
            self._turn(behind=True)

    def _turn(self, *, behind: bool) -> None:
        self._behind = behind
        if self._hold is not None:
            self._hold(behind)


def _result(event: UnitAccepted, outcome: Outcome) -> dict[str, Any]:
    return {
        "event": "result",
        "unit": event.unit,
        "status": event.status,
        "exit_code": outcome.exit_code,
        "output": outcome.output,
        "stderr": outcome.stderr,
        "fuel": outcome.fuel,
        "how": event.how,
        "workers": [peer_id(worker) for worker in event.workers],
    }


def _no_result(event: UnitFailed) -> dict[str, Any]:
    code = next((code for text, code in _CODES.items() if event.reason.startswith(text)), TaskError.code)
    return {"event": "no_result", "unit": event.unit, "code": code, "reason": event.reason}
