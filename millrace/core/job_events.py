"""What happens to a job, and what its machine wants done about it: the values `core/job.py` speaks in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from millrace.core.lease import Wake

if TYPE_CHECKING:
    from executor.core.outcome import Outcome
    from ledger.core.keys import AccountId
    from millrace.core.lease import Judgement
    from millrace.core.progress import Progress, UnitAccepted, UnitFailed

__all__ = [
    "Accepted",
    "Arbitrate",
    "Arbitrated",
    "AskUnits",
    "Committed",
    "Delivered",
    "EndLease",
    "Expecting",
    "Failed",
    "Hold",
    "JobAction",
    "JobDone",
    "JobInput",
    "JudgeUnits",
    "Note",
    "SendUnits",
    "Tick",
    "WorkerGone",
    "WorkerJoined",
]

# -- inputs


@dataclass(frozen=True, slots=True)
class Expecting:
    """How many more leases are being opened: while there are any, the job waits for them."""

    count: int


@dataclass(frozen=True, slots=True)
class WorkerJoined:
    """A lease is ready. `window` bounds units out at once, `amount` is locked, `owner` answers for the worker."""

    worker: AccountId
    owner: AccountId
    window: int
    amount: int
    unit_cost_max: int
    price_per_tfuel: int


@dataclass(frozen=True, slots=True)
class WorkerGone:
    """A lease has ended; whatever it had not delivered moves."""

    worker: AccountId
    reason: str


@dataclass(frozen=True, slots=True)
class Committed:
    """The worker is bound to results of these units."""

    worker: AccountId
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """The worker's outcome of a unit, checked against its commitment."""

    worker: AccountId
    unit: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Arbitrated:
    """Our own run of a unit."""

    unit: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Hold:
    """While `on`, no unit is begun: what is out is completed, verified and paid as always."""

    on: bool


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


JobInput: TypeAlias = Expecting | WorkerJoined | WorkerGone | Committed | Delivered | Arbitrated | Hold | Tick


# -- actions


@dataclass(frozen=True, slots=True)
class SendUnits:
    """Send these units to the worker."""

    worker: AccountId
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class AskUnits:
    """Ask the worker to reveal these."""

    worker: AccountId
    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class JudgeUnits:
    """Tell the worker these verdicts, with a voucher for what they pay."""

    worker: AccountId
    judgements: tuple[Judgement, ...]


@dataclass(frozen=True, slots=True)
class EndLease:
    """End the lease; `cut` says the worker lied. The machine has forgotten the worker already."""

    worker: AccountId
    reason: str
    cut: bool


@dataclass(frozen=True, slots=True)
class Arbitrate:
    """Run this unit here and feed Arbitrated."""

    unit: int


@dataclass(frozen=True, slots=True)
class Accepted:
    """The unit's one result; the machine has forgotten it already."""

    event: UnitAccepted
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Failed:
    """The unit ends without a result."""

    event: UnitFailed


@dataclass(frozen=True, slots=True)
class Note:
    """For the display and the timeline."""

    event: Progress


@dataclass(frozen=True, slots=True)
class JobDone:
    """Every unit is accepted or failed; all leases are being ended."""


JobAction: TypeAlias = (
    SendUnits | AskUnits | JudgeUnits | EndLease | Arbitrate | Accepted | Failed | Note | Wake | JobDone
)
