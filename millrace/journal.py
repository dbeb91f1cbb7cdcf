"""What this node must not forget about jobs, leases and money, in SQLite (SPEC.md §12).

Calls are synchronous and made from the event-loop thread: a write is one short transaction (a few ms with
synchronous=FULL), and the order "written, then sent" is then plain to read at each call site.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.core.entries import Voucher
    from ledger.core.keys import AccountId
    from millrace.core.progress import Progress
    from millrace.core.terms import Terms

__all__ = ["JobRecord", "Journal", "LeaseRecord", "LeaseStanding", "Role", "open_journal"]

TIMELINE_EVENTS_MAX: Final = 20_000
"""Events kept per job; later ones are counted, not kept."""


class Role(StrEnum):
    """Which side of the lease this node is."""

    BUYER = "buyer"
    WORKER = "worker"


class LeaseStanding(StrEnum):
    """What is left to do about a lease's money."""

    AGREED = "agreed"  # terms signed; a LOCK may or may not be on its way
    LOCKED = "locked"  # the LOCK is final: the lock is open until it is settled
    SETTLED = "settled"  # claimed, cancelled or expired: nothing left to do
    VOID = "void"  # no LOCK was ever made


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """One lease as the journal knows it; `voucher` is the best one, `settled` what the ledger paid."""

    lease_id: bytes
    role: Role
    terms: Terms
    standing: LeaseStanding
    lock_id: bytes | None
    voucher: Voucher | None
    settled: int | None
    reason: str


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job that this node bought."""

    job_id: bytes
    created_ms: int
    module_sha256: bytes
    units: int
    replicas: int
    cap: int
    paid: int
    accepted: int
    failed: int
    state: str


class Journal:
    """See the module's first lines. One connection, used from one thread."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Use `open_journal`."""
        self._db = connection

    def jobs(self, count: int = 100) -> list[JobRecord]:
        """The newest `count` jobs, newest first."""
        raise NotImplementedError

    def job(self, job_id: bytes) -> JobRecord | None:
        """One job."""
        raise NotImplementedError

    def timeline(self, job_id: bytes) -> list[dict[str, object]]:
        """A job's events, oldest first, each with `at_ms` and the fields of `progress_fields`."""
        raise NotImplementedError

    def note(self, job_id: bytes, at_ms: int, event: Progress) -> None:
        """Add to a job's timeline."""
        raise NotImplementedError

    def lease(self, lease_id: bytes) -> LeaseRecord | None:
        """One lease."""
        raise NotImplementedError

    def unsettled(self) -> list[LeaseRecord]:
        """Leases with money still to be decided, oldest expiry first."""
        raise NotImplementedError

    def traffic(self, job_id: bytes) -> list[tuple[AccountId, int, int]]:
        """What went to whom for a job: (peer, sent bytes, received bytes)."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def open_journal(path: Path) -> Iterator[Journal]:
    """A context manager: the journal at `path` (created with mode 0600 if absent)."""
    raise NotImplementedError
