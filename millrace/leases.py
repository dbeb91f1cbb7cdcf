"""The buyer's shell: run one job over many leases (SPEC.md §12).

`core/job.py` and `core/buyer_lease.py` decide; this module opens streams, moves money and reads the clock.
One `_Run` owns a job: each lease has a task of its own, and what their machines say is fed to the job's machine
at once, so that the job never acts on a lease that has already ended.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import trio

from executor.core.outcome import Outcome, Status
from executor.runner import ModuleRefused
from executor.zygote import ChildError
from millrace.alarm import Alarm
from millrace.conversation import LEASE_PROTOCOL, Channel
from millrace.core import job_events, lease, messages, progress
from millrace.core.cost import Budget, lock_amount, unit_cost
from millrace.core.job import NO_WORKER, Job
from millrace.core.terms import Terms, job_digest
from millrace.journal import JobRecord
from millrace.order import JobOrder, OrderRefused, OverBudget, check_order, usable, widest_limits
from millrace.rental import Buyer, Rental, Runner, Wallet

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.keys import AccountId
    from millrace.core.market import Offer
    from millrace.core.progress import Progress

__all__ = [
    "CAP_USED_UP",
    "LEASE_PROTOCOL",
    "LEDGER_AWAY",
    "TIME_OVER",
    "Audience",
    "Buyer",
    "Channel",
    "JobOrder",
    "JobReport",
    "OrderRefused",
    "OverBudget",
    "Runner",
    "Wallet",
    "run_job",
]

NONCE_BYTES: Final = 16
WORKERS_MAX: Final = 64
WINDOW_PER_SLOT: Final = 4
WINDOW_MIN: Final = 4
WINDOW_MAX: Final = 32
"""Units out at one worker: enough to hide a round trip, few enough to lose."""
SPARE_LEASES: Final = 1
"""Part of the budget is kept for this many replacements."""
ARBITERS: Final = 2
"""Units that this node re-executes at once; its runner has the last word on slots."""
ARBITRATIONS_QUEUED_MAX: Final = WORKERS_MAX * WINDOW_MAX
GOODBYE_S: Final = 2.0
"""How long the leases of a cancelled job may take to pay what is verified and to close."""
TIME_OVER: Final = "the job's time is over"
CAP_USED_UP: Final = "the cap is used up"
LEDGER_AWAY: Final = "the ledger could not be reached"
"""How the reason of a unit begins that found no worker because no LOCK could be made final."""


class Audience(Protocol):
    """Whom a job works for. Both are called from the event loop, and must neither block nor raise."""

    def hear(self, event: Progress, outcome: Outcome | None) -> None:
        """One event, in order. `UnitAccepted` brings the unit's outcome, which the job does not keep."""

    def when_behind(self, hold: Callable[[bool], None]) -> None:
        """Keep `hold` for later: `hold(True)` makes the job begin no further unit, `hold(False)` lets it."""


@dataclass(frozen=True, slots=True)
class JobReport:
    """How a job ended: every one of its `units` is accepted or failed, and was handed on."""

    job_id: bytes
    units: int
    accepted: int
    paid: int
    locked: int
    liars: tuple[AccountId, ...]

    @property
    def failed(self) -> int:
        """Units without a result."""
        return self.units - self.accepted


async def run_job(order: JobOrder, buyer: Buyer, audience: Audience) -> JobReport:
    """Run every task of `order` on rented peers, verify the results, and hand each on as soon as it is accepted.

    `OrderRefused` or `OverBudget` come before anything is sent. Cancelling ends the leases: verified units stay
    paid, and what was locked comes back when the workers claim or the locks expire (the settler's work).
    """
    run = _Run(order, buyer, audience)
    audience.when_behind(run.hold)
    return await run.to_the_end()


class _Run:
    def __init__(self, order: JobOrder, buyer: Buyer, audience: Audience) -> None:
        self._sha256 = hashlib.sha256(order.module).digest()
        check_order(order, self._sha256)
        self.module = order.module
        self._order = order
        self._buyer = buyer
        self._audience = audience
        self._tasks = [task.encode() for task in order.tasks]
        self._limits = widest_limits(order.tasks)
        digests = (task.digest() for task in order.tasks)
        self.job_id = job_digest(buyer.key.account, buyer.random_bytes(NONCE_BYTES), self._sha256, digests)
        self._job = Job(len(order.tasks), order.replicas, random.Random(buyer.random_bytes(8)))  # noqa: S311
        self._budget = Budget(order.cap)
        self._offers = usable(order.offers, buyer.key.account)
        self._candidates = deque(self._offers)
        self._rentals: dict[AccountId, Rental] = {}
        self._opening = 0
        self._ledger_trouble = ""
        self._ledger_waits = ""
        self._left = set(range(len(order.tasks)))
        """Units neither accepted nor failed."""
        self._accepted = 0
        self._paid = 0
        self._overtime = False
        self._told_end = False
        self._cancelled = False
        self._shelter = trio.CancelScope(shield=True)
        self._liars: list[AccountId] = []
        self._alarm = Alarm()
        self._inbox: deque[job_events.JobInput] = deque()
        self._feeding = False
        self._done = trio.Event()
        self._to_judge, self._judging = trio.open_memory_channel[int](ARBITRATIONS_QUEUED_MAX)
        self._prepared = False
        self._preparing = trio.Lock()
        self._nursery: trio.Nursery

    async def to_the_end(self) -> JobReport:
        order, journal = self._order, self._buyer.journal
        self._check_cap()
        units = len(order.tasks)
        started = self._buyer.clock_ms()
        fixed = (self.job_id, started, self._sha256, units, order.replicas, order.cap)
        # 1. job_started: after a crash from here on the job shows as interrupted, its leases are settled from
        #    their own records.
        journal.job_started(JobRecord(*fixed, 0, 0, 0, "running", order.name))
        self.tell(progress.JobStarted(self.job_id, units, order.replicas, order.cap))
        async with trio.open_nursery() as desk:
            desk.start_soon(self._alarm.run, lambda: self._feed(job_events.Tick()))
            for _ in range(ARBITERS):
                desk.start_soon(self._arbitrate)
            async with trio.open_nursery() as landlord:
                landlord.start_soon(self._rent)
                try:
                    with trio.move_on_after(order.timeout_s) as patience:
                        await self._done.wait()
                    self._overtime = patience.cancelled_caught
                finally:
                    # Also when cancelled: what is verified by now is paid before the streams close.
                    self._goodbye()
            desk.cancel_scope.cancel()
        return self._report()

    async def _rent(self) -> None:
        """Home of the rentals: a cancelled job ends them in order, and cuts them off GOODBYE_S later."""
        with self._shelter:
            async with trio.open_nursery() as self._nursery:
                self._open_more()
                self._feed(job_events.Expecting(self._opening))
                await self._done.wait()

    def _goodbye(self) -> None:
        if not self._done.is_set() and not self._overtime:
            self._cancelled = True
            self._shelter.deadline = trio.current_time() + GOODBYE_S
        self._done.set()
        for rental in list(self._rentals.values()):
            rental.stop("the job is over")

    def _check_cap(self) -> None:
        """Before anything is sent: one unit on each replica, at its fuel limit, must fit the cap."""
        asked = self._offers[: self._order.replicas]
        least = sum(unit_cost(self._limits.fuel, offer.price_per_tfuel) for offer in asked)
        if least > self._order.cap:
            raise OverBudget(
                f"one unit may cost {least} micro-credits at its fuel limit, the cap is {self._order.cap}"
            )

    def _report(self) -> JobReport:
        for unit in sorted(self._left):
            self._conclude(job_events.Failed(progress.UnitFailed(unit, TIME_OVER)))
        self._tell_end()
        units, accepted = len(self._order.tasks), self._accepted
        self._buyer.journal.job_ended(self.job_id, accepted=accepted, failed=units - accepted)
        return JobReport(self.job_id, units, accepted, self._paid, self._budget.locked, tuple(self._liars))

    def _tell_end(self) -> None:
        """Once, as soon as nothing more can be accepted or paid: what the job cost is known before leases close."""
        if not self._told_end:
            self._told_end = True
            failed = len(self._order.tasks) - self._accepted
            self.tell(progress.JobEnded(self.job_id, self._accepted, failed, self._paid))

    def hold(self, on: bool) -> None:
        """Begin no further unit while `on`."""
        if not self._done.is_set():
            self._feed(job_events.Hold(on))

    # -- the job's machine

    def _feed(self, event: job_events.JobInput) -> None:
        """Feed the job; what it does may cause further events, which wait for their turn."""
        self._inbox.append(event)
        if self._feeding or self._cancelled:
            return
        self._feeding = True
        try:
            while self._inbox:
                for action in self._job.feed(self._inbox.popleft(), trio.current_time()):
                    self._act(action)
        finally:
            self._feeding = False

    def _act(self, action: job_events.JobAction) -> None:
        match action:
            case job_events.SendUnits(worker, units):
                items = tuple(messages.Unit(unit, self._tasks[unit]) for unit in units)
                self._order_rental(worker, lease.Assign(items))
            case job_events.AskUnits(worker, units):
                self._order_rental(worker, lease.Ask(units))
            case job_events.JudgeUnits(worker, judgements):
                self._order_rental(worker, lease.Judge(judgements))
            case job_events.EndLease(worker, reason, cut):
                if worker in self._rentals:
                    self._rentals[worker].cut = cut
                    self._order_rental(worker, lease.Finish(reason))
            case job_events.Arbitrate(unit):
                self._to_judge.send_nowait(unit)
            case job_events.Note(event):
                if isinstance(event, progress.LiarCaught):
                    self._liars.append(event.worker)
                self.tell(event)
            case lease.Wake(at_s):
                self._alarm.set(at_s)
            case _:
                self._conclude(action)

    def _conclude(self, action: job_events.JobAction) -> None:
        match action:
            case job_events.Accepted(event, outcome):
                self._left.discard(event.unit)
                self._accepted += 1
                self.tell(event, outcome)
            case job_events.Failed(event):
                self._left.discard(event.unit)
                self.tell(progress.UnitFailed(event.unit, self._why_failed(event.reason)))
            case job_events.JobDone():
                self._tell_end()
                self._done.set()
            case _:
                pass

    def _why_failed(self, reason: str) -> str:
        if self._overtime:
            return TIME_OVER
        if reason == NO_WORKER and self._ledger_trouble:
            return f"{LEDGER_AWAY}: {self._ledger_trouble}"
        least = min(unit_cost(self._limits.fuel, offer.price_per_tfuel) for offer in self._offers)
        return CAP_USED_UP if self._budget.left < least else reason

    def _order_rental(self, worker: AccountId, event: lease.Input) -> None:
        if worker in self._rentals:
            self._rentals[worker].feed(event)

    # -- opening leases

    def _open_more(self) -> None:
        """Open leases until as many as wanted run or are being opened, or candidates or budget are used up."""
        wanted = min(self._order.workers_max, WORKERS_MAX, self._job.left * self._order.replicas)
        while self._candidates and not self._done.is_set() and len(self._rentals) < wanted:
            offer = self._candidates.popleft()
            unit_max = unit_cost(self._limits.fuel, offer.price_per_tfuel)
            amount = lock_amount(
                self._budget.left,
                leases_left=wanted - len(self._rentals) + SPARE_LEASES,
                executions=self._job.left * self._order.replicas,
                workers=wanted,
                unit_max=unit_max,
            )
            # The cap is held here, before the worker hears a word.
            if offer.worker in self._rentals or not amount or not self._budget.reserve(amount):
                continue
            rental = Rental(offer, self._terms(offer, amount), self._buyer, self)
            self._rentals[offer.worker] = rental
            self._opening += 1
            self._nursery.start_soon(rental.serve)

    def _terms(self, offer: Offer, amount: int) -> Terms:
        limits, order, buyer = self._limits, self._order, self._buyer
        return Terms(
            buyer=buyer.key.account,
            worker=offer.worker,
            job_id=self.job_id,
            nonce=buyer.random_bytes(NONCE_BYTES),
            module_sha256=self._sha256,
            module_bytes=len(order.module),
            price_per_tfuel=offer.price_per_tfuel,
            amount=amount,
            expiry_ms=buyer.clock_ms() + round(order.lock_span_s * 1000),
            fuel_max=limits.fuel,
            memory_bytes_max=limits.memory_bytes,
            wall_ms_max=round(limits.wall_s * 1000),
            output_bytes_max=limits.output_bytes,
            window_units=min(max(WINDOW_PER_SLOT * offer.slots, WINDOW_MIN), WINDOW_MAX),
            replicas=order.replicas,
        )

    # -- what the rentals say (`rental.Desk`)

    def tell(self, event: Progress, outcome: Outcome | None = None) -> None:
        self._buyer.journal.note(self.job_id, self._buyer.clock_ms(), event)
        self._audience.hear(event, outcome)

    def ledger_waits(self, why: str) -> None:
        """Its leases wait for one wallet: what they wait for is told once."""
        if why != self._ledger_waits:
            self._ledger_waits = why
            self.tell(progress.LedgerWaits(why))

    def opened(self, rental: Rental) -> None:
        terms, price = rental.terms, rental.terms.price_per_tfuel
        self._opening -= 1
        self._ledger_trouble = ""
        self.tell(progress.LeaseOpened(rental.worker, rental.lease_id, rental.lock_id, terms.amount, price))
        joined = job_events.WorkerJoined(
            worker=rental.worker,
            owner=rental.offer.owner,
            window=terms.window_units,
            amount=terms.amount,
            unit_cost_max=terms.unit_cost_max,
            price_per_tfuel=price,
        )
        self._feed(joined)
        self._feed(job_events.Expecting(self._opening))

    def committed(self, rental: Rental, units: tuple[int, ...]) -> None:
        self._feed(job_events.Committed(rental.worker, units))

    def delivered(self, rental: Rental, unit: int, outcome: Outcome) -> None:
        self._feed(job_events.Delivered(rental.worker, unit, outcome))

    def paid(self, _: Rental, amount: int) -> None:
        self._paid += amount

    def departed(self, rental: Rental, reason: str) -> None:
        """Look for a replacement first, so that the job knows of it when it hears of the loss."""
        if self._rentals.get(rental.worker) is not rental:
            return
        del self._rentals[rental.worker]
        if not rental.may_be_locked:
            self._budget.cancel(rental.terms.amount)
        if not rental.joined:
            self._opening -= 1
        elif not rental.cut and rental.is_used_up:
            self._candidates.append(rental.offer)
        if rental.ledger_trouble:
            self._ledger_trouble = rental.ledger_trouble
            if not any(other.joined for other in self._rentals.values()):
                self._candidates.clear()  # a lock with somebody else would wait for the same ledger
        self._open_more()
        self._feed(job_events.Expecting(self._opening))
        self._feed(job_events.WorkerGone(rental.worker, reason))

    # -- our own runs

    async def _arbitrate(self) -> None:
        async for unit in self._judging:
            self._feed(job_events.Arbitrated(unit, await self._run_here(unit)))

    async def _run_here(self, unit: int) -> Outcome:
        try:
            async with self._preparing:
                if not self._prepared:
                    await self._buyer.arbiter.prepare(self._order.module)
                    self._prepared = True
            return await self._buyer.arbiter.run(self._order.tasks[unit])
        except (ModuleRefused, ChildError, OSError) as error:
            # Inconclusive: nobody is accused because this machine cannot run the unit.
            return Outcome(Status.REFUSED, stderr=str(error).encode()[:1000])
