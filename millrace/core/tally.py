"""What a job has come to so far, worker by worker, counted from its events alone."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ledger.core.keys import AccountId, peer_id
from millrace.core.progress import (
    JobStarted,
    LeaseEnded,
    LeaseOpened,
    LeaseRefused,
    LiarCaught,
    Paid,
    UnitAccepted,
    UnitFailed,
    UnitMoved,
    UnitRefused,
)

if TYPE_CHECKING:
    from millrace.core.progress import Progress

__all__ = ["JobTally", "WorkerTally"]


@dataclass(slots=True)
class WorkerTally:
    """One lease of the job, from the buyer's side. Amounts are micro-credits."""

    worker: AccountId
    lease_id: bytes
    lock_id: bytes
    locked: int
    price_per_tfuel: int
    paid: int = 0
    units_paid: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    moved: int = 0
    liar: bool = False
    ended: str = ""
    sent_bytes: int = 0
    received_bytes: int = 0

    def fields(self) -> dict[str, Any]:
        """As the local API says it (SPEC.md §16)."""
        return {
            "peer": peer_id(self.worker),
            "lease_id": self.lease_id.hex(),
            "lock_id": self.lock_id.hex(),
            "locked": self.locked,
            "price_per_tfuel": self.price_per_tfuel,
            "paid": self.paid,
            "units_paid": self.units_paid,
            "refused": [{"unit": unit, "reason": reason} for unit, reason in self.refused],
            "units_moved": self.moved,
            "liar": self.liar,
            "ended": self.ended,
            "sent_bytes": self.sent_bytes,
            "received_bytes": self.received_bytes,
        }


@dataclass(slots=True)
class JobTally:
    """Feed it every event of one job, in order."""

    job_id: bytes = b""
    leases: list[WorkerTally] = field(default_factory=list)
    unleased: list[tuple[AccountId, str]] = field(default_factory=list)
    accepted: int = 0
    """Units that have a result."""
    failed: int = 0

    def feed(self, event: Progress) -> None:
        """Count one event."""
        match event:
            case JobStarted():
                self.job_id = event.job_id
            case LeaseOpened():
                self.leases.append(
                    WorkerTally(
                        event.worker, event.lease_id, event.lock_id, event.amount, event.price_per_tfuel
                    )
                )
            case LeaseRefused():
                self.unleased.append((event.worker, event.reason))
            case UnitAccepted():
                self.accepted += 1
            case UnitFailed():
                self.failed += 1
            case LeaseEnded():
                for lease in self.leases:
                    if lease.lease_id == event.lease_id:
                        lease.paid, lease.ended = event.paid, event.reason
                        lease.sent_bytes, lease.received_bytes = event.sent_bytes, event.received_bytes
            case UnitRefused() | UnitMoved() | LiarCaught() | Paid():
                self._count(event)
            case _:
                pass

    def _count(self, event: UnitRefused | UnitMoved | LiarCaught | Paid) -> None:
        # A worker has one open lease per job; a later one takes over the counting.
        lease = next((lease for lease in reversed(self.leases) if lease.worker == event.worker), None)
        if lease is None:
            return
        match event:
            case UnitRefused():
                lease.refused.append((event.unit, event.reason))
            case UnitMoved():
                lease.moved += 1
            case LiarCaught():
                lease.liar = True
            case Paid():
                lease.paid = event.cumulative
                lease.units_paid += event.units
