"""What happens to a job, as values: for the live display, the job's timeline and `millrace jobs show`.

Events say what went to whom. They carry facts, no texts for people: the command line words them.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import Enum
from typing import TypeAlias

from ledger.core.keys import AccountId, peer_id

__all__ = [
    "Arbitrated",
    "JobEnded",
    "JobStarted",
    "LeaseEnded",
    "LeaseOpened",
    "LeaseRefused",
    "LedgerWaits",
    "LiarCaught",
    "ModuleSent",
    "Paid",
    "Progress",
    "UnitAccepted",
    "UnitCommitted",
    "UnitFailed",
    "UnitMoved",
    "UnitRefused",
    "UnitStarted",
    "progress_fields",
]


@dataclass(frozen=True, slots=True)
class JobStarted:
    """A job's worst case fits its cap and its first leases are being asked for."""

    job_id: bytes
    units: int
    replicas: int
    cap: int


@dataclass(frozen=True, slots=True)
class LeaseOpened:
    """`worker` holds signed terms and a final lock of `amount`, and is ready for units."""

    worker: AccountId
    lease_id: bytes
    lock_id: bytes
    amount: int
    price_per_tfuel: int


@dataclass(frozen=True, slots=True)
class LeaseRefused:
    """`worker` was asked and there is no lease: nothing was locked, or the lock waits for its expiry."""

    worker: AccountId
    reason: str


@dataclass(frozen=True, slots=True)
class LedgerWaits:
    """A LOCK of the job is not final yet; `why` says which entry waits, and how many witnesses answer."""

    why: str


@dataclass(frozen=True, slots=True)
class ModuleSent:
    """The job's code went to `worker`: `size_bytes` of it (0 if it had it already is never reported)."""

    worker: AccountId
    size_bytes: int


@dataclass(frozen=True, slots=True)
class UnitStarted:
    """`unit` was sent to `worker`."""

    unit: int
    worker: AccountId


@dataclass(frozen=True, slots=True)
class UnitCommitted:
    """`worker` bound itself to a result of `unit` that nobody has seen yet."""

    unit: int
    worker: AccountId


@dataclass(frozen=True, slots=True)
class Arbitrated:
    """This peer ran `unit` itself, because replicas disagreed or there were too few of them."""

    unit: int
    conclusive: bool


@dataclass(frozen=True, slots=True)
class UnitAccepted:
    """`unit` has its one result: `status` is the outcome's name, `how` says what made it trusted."""

    unit: int
    status: str
    how: str
    workers: tuple[AccountId, ...]


@dataclass(frozen=True, slots=True)
class UnitFailed:
    """`unit` ends without a result."""

    unit: int
    reason: str


@dataclass(frozen=True, slots=True)
class UnitRefused:
    """`worker` is not paid for `unit`."""

    unit: int
    worker: AccountId
    reason: str


@dataclass(frozen=True, slots=True)
class UnitMoved:
    """`unit` was taken from `worker` and goes to somebody else."""

    unit: int
    worker: AccountId
    reason: str


@dataclass(frozen=True, slots=True)
class LiarCaught:
    """`worker` returned a result for `unit` that re-execution disproves: lease cut, unpaid."""

    unit: int
    worker: AccountId


@dataclass(frozen=True, slots=True)
class Paid:
    """A voucher went to `worker`: `amount` more, `cumulative` in all, for `units` verified units."""

    worker: AccountId
    amount: int
    cumulative: int
    units: int


@dataclass(frozen=True, slots=True)
class LeaseEnded:
    """The lease with `worker` is over; `paid` is what its vouchers are worth."""

    worker: AccountId
    lease_id: bytes
    reason: str
    paid: int
    sent_bytes: int
    received_bytes: int


@dataclass(frozen=True, slots=True)
class JobEnded:
    """Every unit is accepted or failed."""

    job_id: bytes
    accepted: int
    failed: int
    paid: int


Progress: TypeAlias = (
    JobStarted
    | LeaseOpened
    | LeaseRefused
    | LedgerWaits
    | ModuleSent
    | UnitStarted
    | UnitCommitted
    | Arbitrated
    | UnitAccepted
    | UnitFailed
    | UnitRefused
    | UnitMoved
    | LiarCaught
    | Paid
    | LeaseEnded
    | JobEnded
)


def progress_fields(event: Progress) -> dict[str, object]:
    """An event as plain JSON values: `event` is its name, accounts are peer ids, ids are hex."""
    out: dict[str, object] = {"event": _snake(type(event).__name__)}
    for field in fields(event):
        out[field.name] = _plain(field.name, getattr(event, field.name))
    return out


def _plain(name: str, value: object) -> object:
    if isinstance(value, bytes):
        return peer_id(value) if name == "worker" else value.hex()
    if isinstance(value, tuple):
        return [peer_id(item) for item in value]
    if isinstance(value, Enum):
        return value.name.lower()
    return value


def _snake(name: str) -> str:
    return "".join("_" + letter.lower() if letter.isupper() else letter for letter in name).lstrip("_")
