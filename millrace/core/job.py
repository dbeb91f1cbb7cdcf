"""One job as a machine: which unit goes to whom, which result is believed, who is paid (SPEC.md §12, §14).

Events in, actions out; time and the random order of workers are arguments. The rules:

- a unit goes to `replicas` workers of distinct owners; results are asked for only after that many committed;
- equal results are accepted and paid. Any disagreement is settled by running the unit here: whoever differs
  from that is cut. A majority proves nothing against peers that act together;
- when no worker is left that could be the next replica, running it here takes that replica's place;
- a timeout or crash accuses nobody: the unit goes elsewhere, ATTEMPTS_MAX times;
- each unit is accepted or failed exactly once.
"""

from __future__ import annotations

from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar, Final

from executor.core.judge import Verdict, judge, settle
from ledger.core.keys import AccountId
from millrace.core import job_events, progress
from millrace.core.cost import unit_cost
from millrace.core.job_units import Pace, Replica, UnitEvent, UnitRecord, UnitState, WorkerRecord
from millrace.core.lease import Judgement, LocalProtocolError, Phase, Wake
from millrace.core.messages import VerdictCode
from millrace.core.terms import REPLICAS_MAX

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping

    from executor.core.outcome import Outcome
    from millrace.core.progress import Progress

__all__ = ["ATTEMPTS_MAX", "NO_WORKER", "UNITS_MAX", "WORKER_FAULTS_MAX", "Job"]

UNITS_MAX: Final = 65_536
ATTEMPTS_MAX: Final = 4
"""Timeouts and crashes that one unit may collect before it fails."""
WORKER_FAULTS_MAX: Final = 4
"""Timeouts and crashes in a row before a lease is ended: nobody lied, but nothing comes of it."""
NO_WORKER: Final = "no worker is left"
QUEUE_SCAN_MAX: Final = 64
"""How far into the queue a worker looks for a unit it has not tried yet."""


class Job:
    """Feed it what happens, perform the actions it returns, in order."""

    def __init__(self, units: int, replicas: int, rng: random.Random) -> None:
        """`units` are numbered from 0; `rng` shuffles who is asked first, so that no worker picks its partner."""
        if not 1 <= units <= UNITS_MAX or not 1 <= replicas <= REPLICAS_MAX:
            raise LocalProtocolError(f"{units} units with {replicas} replicas")
        self.replicas = replicas
        self.left = units
        self.done = False
        self._rng = rng
        self._units = [UnitRecord(number) for number in range(units)]
        self._queue = deque(range(units))
        self._open: dict[int, UnitRecord] = {}
        self._workers: dict[AccountId, WorkerRecord] = {}
        self._expecting = 0
        self._held = False
        self._pace = Pace()
        self._now_s = 0.0
        self._acts: list[job_events.JobAction] = []
        self._judged: dict[AccountId, list[Judgement]] = {}
        self._sends: dict[AccountId, list[int]] = {}
        self._asks: dict[AccountId, list[int]] = {}
        self._ends: list[job_events.EndLease] = []

    @property
    def workers(self) -> int:
        """Leases that take part now."""
        return len(self._workers)

    def state(self, unit: int) -> UnitState:
        """Where a unit stands."""
        return self._units[unit].state

    def feed(self, event: job_events.JobInput, now_s: float) -> list[job_events.JobAction]:
        """What to do about `event`. After the job is done nothing matters any more."""
        if self.done:
            return []
        self._now_s = now_s
        self._HANDLERS[type(event)](self, event)
        self._schedule()
        return self._flush()

    # -- what happened

    def _on_expecting(self, event: job_events.Expecting) -> None:
        self._expecting = event.count

    def _on_joined(self, event: job_events.WorkerJoined) -> None:
        if event.worker in self._workers:
            raise LocalProtocolError("a worker has two leases of one job")
        self._workers[event.worker] = WorkerRecord(event)
        for unit in self._open.values():
            if unit.state is UnitState.OPEN:
                unit.alone = False

    def _on_gone(self, event: job_events.WorkerGone) -> None:
        if event.worker in self._workers:
            self._drop_worker(event.worker, event.reason)

    def _on_committed(self, event: job_events.Committed) -> None:
        for number in event.units:
            unit = self._units[number]
            replica = unit.replicas.get(event.worker)
            if replica is None or replica.phase is not Phase.ASSIGNED:
                continue
            self._pace.learn(self._now_s - replica.since_s)
            replica.phase = Phase.COMMITTED
            self._note(progress.UnitCommitted(number, event.worker))
            self._advance(unit)

    def _on_delivered(self, event: job_events.Delivered) -> None:
        unit = self._units[event.unit]
        replica = unit.replicas.get(event.worker)
        worker = self._workers.get(event.worker)
        if replica is None or worker is None or replica.phase is not Phase.ASKED:
            return
        if event.outcome.deterministic:
            replica.phase, replica.outcome = Phase.DELIVERED, event.outcome
            worker.faults = 0
        else:
            self._release(unit, event.worker, VerdictCode.INCONCLUSIVE, event.outcome.status.name.lower())
            unit.tried.add(worker.lease.owner)
            unit.attempts += 1
            worker.faults += 1
            if worker.faults >= WORKER_FAULTS_MAX:
                self._end(event.worker, "its units keep timing out or crashing", cut=False)
        self._advance(unit)

    def _on_arbitrated(self, event: job_events.Arbitrated) -> None:
        unit = self._units[event.unit]
        if unit.state is not UnitState.ARBITRATING:
            return
        truth = event.outcome
        self._note(progress.Arbitrated(unit.number, truth.deterministic))
        if not truth.deterministic:
            self._retry_unjudged(unit)
            return
        decision = settle(unit.reveals(), truth.digest())
        for worker in decision.wrong:
            self._judge(unit, worker, VerdictCode.LIE)
            self._note(progress.LiarCaught(unit.number, AccountId(worker)))
        self._accept(unit, truth, "arbiter", decision.right)
        for worker in decision.wrong:
            self._end(worker, f"its result of unit {unit.number} is wrong", cut=True)

    def _on_hold(self, event: job_events.Hold) -> None:
        self._held = event.on

    def _on_tick(self, _: job_events.Tick) -> None:
        """Scheduling, which follows every event, is what time changes."""

    # -- one unit

    def _advance(self, unit: UnitRecord) -> None:
        """Move a unit as far as what is known allows."""
        if unit.state is UnitState.REVEALING and unit.panel < (1 if unit.alone else self.replicas):
            unit.move(UnitEvent.REOPEN)
        if unit.state is UnitState.OPEN:
            if unit.attempts >= ATTEMPTS_MAX:
                self._fail(unit, f"{unit.attempts} workers timed out or crashed on it")
                return
            if not unit.replicas:
                unit.move(UnitEvent.REQUEUE)
                self._open.pop(unit.number)
                self._queue.appendleft(unit.number)
                unit.alone = False
                return
            self._ask_if_enough(unit)
        if unit.state is UnitState.REVEALING:
            self._decide(unit)

    def _ask_if_enough(self, unit: UnitRecord) -> None:
        bound = [name for name, item in unit.replicas.items() if item.phase is not Phase.ASSIGNED]
        needed = len(unit.replicas) if unit.alone else self.replicas
        if len(bound) < needed:
            return
        for name in bound:
            replica = unit.replicas[name]
            if replica.phase is Phase.COMMITTED:
                replica.phase = Phase.ASKED
                self._asks.setdefault(name, []).append(unit.number)
        unit.move(UnitEvent.ASK)

    def _decide(self, unit: UnitRecord) -> None:
        panel = [item for item in unit.replicas.values() if item.phase in (Phase.ASKED, Phase.DELIVERED)]
        if any(item.phase is Phase.ASKED for item in panel):
            return
        reveals = unit.reveals()
        if len(reveals) >= self.replicas:
            decision = judge(reveals, len(reveals), self.replicas)
            if decision.verdict is Verdict.ACCEPT:
                self._accept(unit, unit.first_outcome(), "agreement", decision.right)
                return
        unit.move(UnitEvent.DISPUTE)
        self._acts.append(job_events.Arbitrate(unit.number))

    def _retry_unjudged(self, unit: UnitRecord) -> None:
        """Our own run was inconclusive: nobody is right or wrong, and other workers are asked."""
        unit.attempts += 1
        unit.alone = False
        for worker in list(unit.replicas):
            unit.tried.add(self._workers[worker].lease.owner)
            self._release(unit, worker, VerdictCode.INCONCLUSIVE, "it could not be checked")
        unit.move(UnitEvent.REOPEN)
        self._advance(unit)

    def _accept(self, unit: UnitRecord, outcome: Outcome, how: str, right: frozenset[bytes]) -> None:
        unit.move(UnitEvent.ACCEPT)
        self._open.pop(unit.number)
        paid = tuple(worker for worker in unit.replicas if worker in right)
        for worker in list(unit.replicas):
            code = VerdictCode.PAID if worker in right else VerdictCode.SUPERSEDED
            self._judge(unit, worker, code, outcome.fuel)
        self.left -= 1
        accepted = progress.UnitAccepted(unit.number, outcome.status.name.lower(), how, paid)
        self._acts.append(job_events.Accepted(accepted, outcome))

    def _fail(self, unit: UnitRecord, reason: str) -> None:
        for worker in list(unit.replicas):
            self._release(unit, worker, VerdictCode.SUPERSEDED, reason)
        unit.move(UnitEvent.FAIL)
        self._open.pop(unit.number, None)
        self.left -= 1
        self._acts.append(job_events.Failed(progress.UnitFailed(unit.number, reason)))

    # -- one worker

    def _judge(self, unit: UnitRecord, name: bytes, code: VerdictCode, fuel: int = 0) -> None:
        """Take the unit off a worker with a verdict."""
        account = AccountId(name)
        del unit.replicas[account]
        worker = self._workers[account]
        worker.out.discard(unit.number)
        if code is VerdictCode.PAID:
            worker.paid += unit_cost(fuel, worker.lease.price_per_tfuel)
        else:
            self._note(progress.UnitRefused(unit.number, account, code.value))
        self._judged.setdefault(account, []).append(Judgement(unit.number, code, fuel))

    def _release(self, unit: UnitRecord, worker: AccountId, code: VerdictCode, reason: str) -> None:
        self._judge(unit, worker, code)
        self._note(progress.UnitMoved(unit.number, worker, reason))

    def _end(self, name: bytes, reason: str, *, cut: bool) -> None:
        account = AccountId(name)
        self._drop_worker(account, reason)
        self._ends.append(job_events.EndLease(account, reason, cut))

    def _drop_worker(self, account: AccountId, reason: str) -> None:
        """Forget a worker; its units are advanced without it."""
        worker = self._workers.pop(account)
        self._sends.pop(account, None)
        self._asks.pop(account, None)
        for number in sorted(worker.out):
            unit = self._units[number]
            unit.replicas.pop(account, None)
            self._note(progress.UnitMoved(number, account, reason))
            self._advance(unit)

    # -- who does what next

    def _schedule(self) -> None:
        while not self.done:
            self._hand_out()
            if not self._unstick():
                break
        if self.left == 0 and not self.done:
            self.done = True
            for account in list(self._workers):
                self._end(account, "the job is done", cut=False)
            return
        for account, worker in list(self._workers.items()):
            if not worker.out and not worker.pays_for_one_more():
                self._end(account, "its lock is used up", cut=False)
        self._arm()

    def _hand_out(self) -> None:
        """One unit per worker and round, so that few units spread over many workers."""
        order = list(self._workers)
        self._rng.shuffle(order)
        short = [unit for unit in self._open.values() if self._short(unit)]
        handed = True
        while handed:
            handed = False
            for account in order:
                unit = self._pick(self._workers[account], short)
                if unit is not None:
                    if unit.state is UnitState.QUEUED:
                        short.append(unit)
                    self._start(unit, account)
                    handed = True

    def _pick(self, worker: WorkerRecord, short: list[UnitRecord]) -> UnitRecord | None:
        """Units that lack a replica come first: they may use the whole window, new units half of it."""
        out, window = len(worker.out), worker.lease.window
        if out >= window or not worker.pays_for_one_more():
            return None
        for unit in short:
            if self._short(unit) and self._may_take(unit, worker):
                return unit
        if self._queue:
            return self._fresh_for(worker) if out < max(1, window // 2) and not self._held else None
        return None if self._owes(worker) else self._overdue_for(worker)

    def _fresh_for(self, worker: WorkerRecord) -> UnitRecord | None:
        for number in islice(self._queue, QUEUE_SCAN_MAX):
            if self._may_take(self._units[number], worker):
                return self._units[number]
        return None

    def _owes(self, worker: WorkerRecord) -> bool:
        """Whether the worker still has something to run."""
        name = worker.lease.worker
        return any(self._units[number].replicas[name].phase is Phase.ASSIGNED for number in worker.out)

    def _overdue_for(self, worker: WorkerRecord) -> UnitRecord | None:
        """Near the end an idle worker repeats what somebody is slow with: at most one extra replica per unit."""
        for unit in self._open.values():
            if unit.state is UnitState.OPEN and not unit.alone and len(unit.replicas) <= self.replicas:
                late = any(
                    item.phase is Phase.ASSIGNED and self._now_s >= item.since_s + self._pace.overdue_s
                    for item in unit.replicas.values()
                )
                if late and self._may_take(unit, worker):
                    return unit
        return None

    def _short(self, unit: UnitRecord) -> bool:
        return unit.state is UnitState.OPEN and not unit.alone and len(unit.replicas) < self.replicas

    def _may_take(self, unit: UnitRecord, worker: WorkerRecord) -> bool:
        owner = worker.lease.owner
        if owner in unit.tried:
            return False
        return all(self._workers[other].lease.owner != owner for other in unit.replicas)

    def _start(self, unit: UnitRecord, account: AccountId) -> None:
        if unit.state is UnitState.QUEUED:
            self._queue.remove(unit.number)
            unit.move(UnitEvent.START)
            self._open[unit.number] = unit
        unit.replicas[account] = Replica(Phase.ASSIGNED, self._now_s)
        self._workers[account].out.add(unit.number)
        self._sends.setdefault(account, []).append(unit.number)
        self._note(progress.UnitStarted(unit.number, account))

    def _unstick(self) -> bool:
        """Where nothing more can come by itself, change what is waited for; True if handing out may now help."""
        if self._expecting:
            return False
        if not self._workers:
            self._give_up()
            return False
        moved = False
        for unit in list(self._open.values()):
            if self._short(unit) and not any(self._may_take(unit, item) for item in self._workers.values()):
                moved |= self._stand_in(unit)
        return moved or (not self._waiting() and self._force())

    def _give_up(self) -> None:
        """No worker is left and none is coming. What already runs here may still end well."""
        for unit in self._units:
            if unit.state in (UnitState.QUEUED, UnitState.OPEN, UnitState.REVEALING):
                self._fail(unit, NO_WORKER)
        self._queue.clear()

    def _force(self) -> bool:
        """All windows are full of units that wait for each other, or everybody has tried what is queued."""
        for unit in self._open.values():
            if self._short(unit):
                return self._stand_in(unit)
        for number in () if self._held else self._queue:
            if self._units[number].tried:
                self._units[number].tried.clear()
                return True
        return False

    def _stand_in(self, unit: UnitRecord) -> bool:
        unit.alone = True
        before = unit.state
        self._advance(unit)
        return unit.state is not before

    def _waiting(self) -> bool:
        """Whether some worker or our own runner still owes an answer."""
        return any(unit.is_awaited for unit in self._open.values())

    def _arm(self) -> None:
        if self._queue:
            return
        times = [
            item.since_s + self._pace.overdue_s
            for unit in self._open.values()
            if unit.state is UnitState.OPEN
            for item in unit.replicas.values()
            if item.phase is Phase.ASSIGNED
        ]
        later = [at_s for at_s in times if at_s > self._now_s]
        if later:
            self._acts.append(Wake(min(later)))

    def _note(self, event: Progress) -> None:
        self._acts.append(job_events.Note(event))

    def _flush(self) -> list[job_events.JobAction]:
        """Verdicts before ends, ends before new work: a worker hears why before it hears that."""
        acts = self._acts
        acts += [job_events.JudgeUnits(name, tuple(items)) for name, items in self._judged.items()]
        acts += self._ends
        acts += [job_events.AskUnits(name, tuple(items)) for name, items in self._asks.items()]
        acts += [job_events.SendUnits(name, tuple(items)) for name, items in self._sends.items()]
        if self.done:
            acts.append(job_events.JobDone())
        self._acts, self._ends = [], []
        self._judged, self._asks, self._sends = {}, {}, {}
        return acts

    _HANDLERS: ClassVar[Mapping[type[job_events.JobInput], Callable[[Job, Any], None]]] = {
        job_events.Expecting: _on_expecting,
        job_events.WorkerJoined: _on_joined,
        job_events.WorkerGone: _on_gone,
        job_events.Committed: _on_committed,
        job_events.Delivered: _on_delivered,
        job_events.Arbitrated: _on_arbitrated,
        job_events.Hold: _on_hold,
        job_events.Tick: _on_tick,
    }
