"""Units and workers of one job as records, and the table of what may happen to a unit (SPEC.md §12)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum, auto
from typing import TYPE_CHECKING, Final

from millrace.core.lease import LocalProtocolError, Phase

if TYPE_CHECKING:
    from collections.abc import Mapping

    from executor.core.outcome import Outcome
    from ledger.core.keys import AccountId
    from millrace.core.job_events import WorkerJoined

__all__ = ["UNIT_TRANSITIONS", "Pace", "Replica", "UnitEvent", "UnitRecord", "UnitState", "WorkerRecord"]

OVERDUE_MIN_S: Final = 3.0
OVERDUE_FACTOR: Final = 4.0
"""A unit is overdue after this many times the usual time from sending to commitment."""


class UnitState(Enum):
    """Where one unit of the job stands."""

    QUEUED = auto()  # with nobody
    OPEN = auto()  # with workers, waiting for commitments
    REVEALING = auto()  # enough committed, results asked for
    ARBITRATING = auto()  # runs here
    ACCEPTED = auto()
    FAILED = auto()


class UnitEvent(Enum):
    """What moves a unit."""

    START = auto()
    ASK = auto()
    REOPEN = auto()
    REQUEUE = auto()
    DISPUTE = auto()
    ACCEPT = auto()
    FAIL = auto()


_S, _E = UnitState, UnitEvent
UNIT_TRANSITIONS: Final[Mapping[tuple[UnitState, UnitEvent], UnitState]] = {
    (_S.QUEUED, _E.START): _S.OPEN,
    (_S.OPEN, _E.ASK): _S.REVEALING,
    (_S.OPEN, _E.REQUEUE): _S.QUEUED,
    (_S.REVEALING, _E.REOPEN): _S.OPEN,
    (_S.REVEALING, _E.DISPUTE): _S.ARBITRATING,
    (_S.REVEALING, _E.ACCEPT): _S.ACCEPTED,
    (_S.ARBITRATING, _E.ACCEPT): _S.ACCEPTED,
    (_S.ARBITRATING, _E.REOPEN): _S.OPEN,
    (_S.QUEUED, _E.FAIL): _S.FAILED,
    (_S.OPEN, _E.FAIL): _S.FAILED,
    (_S.REVEALING, _E.FAIL): _S.FAILED,
    (_S.ARBITRATING, _E.FAIL): _S.FAILED,
}


@dataclass(slots=True)
class Replica:
    """One worker's part in one unit."""

    phase: Phase
    since_s: float
    outcome: Outcome | None = None


@dataclass(slots=True)
class UnitRecord:
    """One unit of the job. Only `move` assigns `state`."""

    number: int
    state: UnitState = UnitState.QUEUED
    replicas: dict[AccountId, Replica] = field(default_factory=dict)
    tried: set[AccountId] = field(default_factory=set)
    """Owners that timed out or crashed on it."""
    attempts: int = 0
    alone: bool = False
    """No further replica will come: our own run takes its place."""

    def move(self, event: UnitEvent) -> None:
        """Take the step the table names; a step it does not name is our defect."""
        after = UNIT_TRANSITIONS.get((self.state, event))
        if after is None:
            raise LocalProtocolError(f"unit {self.number}: {event.name} in {self.state.name}")
        self.state = after

    @property
    def panel(self) -> int:
        """Replicas that were asked to reveal, and are still there."""
        return sum(item.phase in (Phase.ASKED, Phase.DELIVERED) for item in self.replicas.values())

    @property
    def is_awaited(self) -> bool:
        """Whether some worker or our own runner still owes an answer."""
        if self.state is UnitState.ARBITRATING:
            return True
        return any(item.phase in (Phase.ASSIGNED, Phase.ASKED) for item in self.replicas.values())

    def reveals(self) -> dict[bytes, bytes | None]:
        """Outcome digests by worker, of the replicas that were revealed."""
        return {
            name: item.outcome.digest() for name, item in self.replicas.items() if item.outcome is not None
        }

    def first_outcome(self) -> Outcome:
        """Any revealed outcome, for units whose replicas agree."""
        return next(item.outcome for item in self.replicas.values() if item.outcome is not None)


@dataclass(slots=True)
class WorkerRecord:
    """One lease that takes part; `paid` is in micro-credits, `faults` counts timeouts and crashes in a row."""

    lease: WorkerJoined
    paid: int = 0
    faults: int = 0
    out: set[int] = field(default_factory=set)

    def pays_for_one_more(self) -> bool:
        """Whether the lock covers one more unit at its worst cost."""
        worst = self.paid + (len(self.out) + 1) * self.lease.unit_cost_max
        return worst <= self.lease.amount


@dataclass(slots=True)
class Pace:
    """How long units take from sending to commitment, as a running average."""

    usual_s: float | None = None

    def learn(self, took_s: float) -> None:
        """One more unit took this long."""
        self.usual_s = took_s if self.usual_s is None else 0.8 * self.usual_s + 0.2 * took_s

    @property
    def overdue_s(self) -> float:
        """A unit out for longer than this is worth repeating elsewhere."""
        return max(OVERDUE_MIN_S, OVERDUE_FACTOR * (self.usual_s or 0.0))
