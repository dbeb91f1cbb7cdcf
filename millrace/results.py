"""What a job gives back: `Job` for one unit, `Results` for many, `Completed` for what a unit produced.

Both are filled by one reader thread per job and may be used from any thread.
"""

from __future__ import annotations

import threading
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Generic, Self, TypeVar, cast

from millrace.errors import BY_CODE, JobCancelled, JobTimeout, MillraceError, NetworkTrouble, TaskError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from millrace.endpoint import Stream

__all__ = ["Completed", "Job", "Report", "Results"]

T = TypeVar("T")
"""`Completed`; with `return_exceptions`, `Completed | MillraceError`."""
OK_STATUS: Final = "ok"
LEDGER_STEP: Final = "see `millrace status` and `millrace ledger head`; run it again when witnesses answer"


@dataclass(frozen=True, slots=True)
class Completed:
    """What one unit produced: `stdout` bytes, `exit_code`, and the fuel that was agreed on and paid.

    `stderr` is a diagnostic of one worker and no part of what was verified; `how` says what made the result
    trusted, `workers` (peer ids) who is paid for it.
    """

    unit: int
    status: str
    exit_code: int
    stdout: bytes
    stderr: bytes
    fuel: int
    how: str
    workers: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Report:
    """How a job ended. Amounts are micro-credits; `workers` and `receipts` as in SPEC.md §16."""

    job_id: str
    cost: int
    locked: int
    accepted: int
    failed: int
    workers: tuple[dict[str, Any], ...]

    @property
    def receipts(self) -> tuple[bytes, ...]:
        """The ledger receipts of this job's LOCKs and CLAIMs, each verifiable offline."""
        return tuple(
            receipt
            for worker in self.workers
            for receipt in (worker.get("lock_receipt"), worker.get("claim_receipt"))
            if isinstance(receipt, bytes) and receipt
        )


class Results(Generic[T]):
    """The results of many units: iterate to receive them, in order or as they come. `len` is known at once.

    A unit that failed raises `TaskError` where its result would stand, or is returned as one when the job was
    started with `return_exceptions`. Leaving early does not cancel: call `cancel`, or use `with`.
    """

    def __init__(
        self,
        units: int,
        *,
        ordered: bool,
        return_exceptions: bool,
        on_event: Callable[[dict[str, Any]], None] | None,
    ) -> None:
        """Made by `Client.wasm_map`."""
        self._units = units
        self._ordered = ordered
        self._return_exceptions = return_exceptions
        self.on_event = on_event
        """Called in the reader thread for every event of the job."""
        self.on_paid: Callable[[int], None] | None = None
        """Told what the job costs, once no more of it can be paid: before its last result is handed out."""
        self._last: int | None = None
        """The last unit's result is here, and waits for the job's cost, which comes directly behind it."""
        self._changed = threading.Condition()
        self._arrived: dict[int, Completed | MillraceError] = {}
        self._order: list[int] = []
        self._error: MillraceError | None = None
        self._report: Report | None = None
        self._over = False
        self._stream: Stream | None = None
        self._job_id = ""

    def __len__(self) -> int:
        return self._units

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.cancel()

    def __iter__(self) -> Iterator[T]:
        for position in range(self._units):
            result = self._wait_for(position)
            if isinstance(result, MillraceError) and not self._return_exceptions:
                raise result
            yield cast("T", result)

    def __repr__(self) -> str:
        state = "over" if self._over else "running"
        return f"<Results of job {self.id or '?'}: {len(self._arrived)} of {self._units} units, {state}>"

    @property
    def id(self) -> str:
        """The job's id, as `millrace jobs show` takes it; empty until the job has begun."""
        return self._job_id

    @property
    def done(self) -> bool:
        """Whether the job is over, well or not."""
        return self._over

    @property
    def cost(self) -> int:
        """What the whole job cost, in micro-credits. Waits for the end."""
        return self.report().cost

    def report(self, timeout: float | None = None) -> Report:
        """How the job ended, waiting at most `timeout` seconds; raises what ended it early."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._over, timeout):
                raise JobTimeout(
                    "the job is not over yet",
                    f"{timeout} s have passed, {len(self._arrived)} of {self._units} units are done",
                    "wait longer, or call cancel()",
                )
            if self._report is None:
                raise self._error or JobCancelled("the job was cancelled")
            return self._report

    def cancel(self) -> None:
        """Hang up. The node ends the job; units that are verified already stay paid. A job that is over stays so."""
        with self._changed:
            if self._over:
                return
            self._error = self._error or JobCancelled("the job was cancelled", "cancel() was called")
            stream = self._stream
        if stream is not None:
            stream.shutdown()

    def run(self, stream: Stream) -> None:
        """Read the job's stream to its end; called once, in a thread of its own, by the client."""
        with self._changed:
            self._stream = stream
            cancelled = self._error is not None
        if cancelled:
            stream.shutdown()
        error: MillraceError | None = None
        report: Report | None = None
        try:
            with stream:
                for event in stream:
                    self._take(event)
                report = read_report(stream.result)
        except MillraceError as failed:
            error = failed
        finally:
            with self._changed:
                self._error = self._error or error
                self._report = report
                self._over = True
                self._hand_out_last()

    def _take(self, event: dict[str, Any]) -> None:
        name = event.get("event")
        if name == "job_started":
            self._job_id = str(event.get("job_id", ""))
        elif name == "job_ended":
            if self.on_paid is not None:
                self.on_paid(int(event.get("paid", 0)))
            with self._changed:
                self._hand_out_last()
        elif name in ("result", "no_result"):
            unit = int(event.get("unit", -1))
            with self._changed:
                if 0 <= unit < self._units and unit not in self._arrived:
                    self._arrived[unit] = read_result(event)
                    if len(self._arrived) < self._units:
                        self._order.append(unit)
                        self._changed.notify_all()
                    else:
                        self._last = unit
        if self.on_event is not None:
            self.on_event(event)

    def _hand_out_last(self) -> None:
        """So that whoever has all results of a job can spend what is left of its budget on the next."""
        if self._last is not None:
            self._order.append(self._last)
            self._last = None
        self._changed.notify_all()

    def _wait_for(self, position: int) -> Completed | MillraceError:
        def there() -> bool:
            if self._ordered:
                return self._over or (position in self._arrived and position != self._last)
            return self._over or position < len(self._order)

        with self._changed:
            self._changed.wait_for(there)
            unit = (
                position if self._ordered else (self._order[position] if position < len(self._order) else -1)
            )
            if unit in self._arrived:
                return self._arrived[unit]
            raise self._error or JobCancelled("the job ended before all its results had come")


class Job(Future[Completed]):
    """One unit of work, as a `concurrent.futures.Future` of `Completed`; `cancel` also reaches the node."""

    def __init__(self, results: Results[Completed | MillraceError]) -> None:
        """Made by `Client.wasm`."""
        super().__init__()
        self._results = results
        self._heard: Completed | MillraceError | None = None
        self.set_running_or_notify_cancel()

    @property
    def id(self) -> str:
        """The job's id, as `millrace jobs show` takes it; empty until the job has begun."""
        return self._results.id

    @property
    def cost(self) -> int:
        """What the job cost, in micro-credits. Waits for the end."""
        return self._results.cost

    @property
    def receipts(self) -> tuple[bytes, ...]:
        """The ledger receipts of the job's LOCKs and CLAIMs. Waits for the end."""
        return self._results.report().receipts

    def report(self, timeout: float | None = None) -> Report:
        """How the job ended."""
        return self._results.report(timeout)

    def cancel(self) -> bool:
        """End the job; whether there was still something to end. `result` then raises `JobCancelled`."""
        if self.done():
            return False
        self._results.cancel()
        return True

    def hear(self, event: dict[str, Any]) -> None:
        """Take the result as soon as the cost is known too; called in the reader thread for every event of the job."""
        if event.get("event") in ("result", "no_result"):
            self._heard = read_result(event)
        elif event.get("event") == "job_ended" and self._heard is not None and not self.done():
            self._take(self._heard)

    def finish(self) -> None:
        """The job is over: without a result, what ended it is the outcome. Called by the reader thread."""
        if self.done():
            return
        try:
            for result in self._results:
                self._take(result)
        except MillraceError as error:
            self.set_exception(error)

    def _take(self, result: Completed | MillraceError) -> None:
        if isinstance(result, Completed):
            self.set_result(result)
        else:
            self.set_exception(result)


def read_result(event: dict[str, Any]) -> Completed | MillraceError:
    """A unit's result from its event (SPEC.md §16)."""
    unit = int(event.get("unit", -1))
    if event.get("event") == "no_result":
        kind = BY_CODE.get(str(event.get("code")), TaskError)
        next_step = LEDGER_STEP if kind is NetworkTrouble else "see the job's timeline: millrace jobs show"
        return kind(f"unit {unit} has no result", str(event.get("reason", "")), next_step)
    completed = Completed(
        unit,
        str(event.get("status", "")),
        int(event.get("exit_code", 0)),
        bytes(event.get("output", b"")),
        bytes(event.get("stderr", b"")),
        int(event.get("fuel", 0)),
        str(event.get("how", "")),
        tuple(str(worker) for worker in event.get("workers", ())),
    )
    if completed.status == OK_STATUS:
        return completed
    note = completed.stderr[-500:].decode("utf-8", "replace")
    return TaskError(
        f"unit {unit} ended with {completed.status}, exit code {completed.exit_code}",
        note or "every replica ended the same way",
        "run the module locally with the same input to see why",
    )


def read_report(answer: Any) -> Report:  # noqa: ANN401 - whatever the node answered
    """The final answer of `job.run` (SPEC.md §16)."""
    fields = answer if isinstance(answer, dict) else {}
    return Report(
        str(fields.get("job_id", "")),
        int(fields.get("cost", 0)),
        int(fields.get("locked", 0)),
        int(fields.get("accepted", 0)),
        int(fields.get("failed", 0)),
        tuple(worker for worker in fields.get("workers", ()) if isinstance(worker, dict)),
    )
