"""What this node must not forget about jobs, leases and money, in SQLite (SPEC.md §12).

Calls are synchronous: a write is one short transaction (a few ms with synchronous=FULL), and "written, then sent"
is then plain to read at each call site. Writes that come often, which are vouchers, go through `wait_for`, so that
the event loop does not wait for the disk. Timeline events are not money: they wait for the next write, or for
EVENTS_PENDING_MAX of them.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.core.entries import Voucher, decode_voucher
from ledger.core.keys import AccountId
from millrace.core.progress import progress_fields
from millrace.core.terms import Terms, decode_terms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from millrace.core.progress import Progress

__all__ = [
    "JobRecord",
    "Journal",
    "JournalError",
    "LeaseRecord",
    "LeaseStanding",
    "Role",
    "journal_in",
    "open_journal",
]

TIMELINE_EVENTS_MAX: Final = 100_000
"""Events kept per job; later ones are dropped."""
EVENTS_PENDING_MAX: Final = 256
SCHEMA_VERSION: Final = 2
_SCHEMA: Final = """
CREATE TABLE jobs (
    job_id BLOB PRIMARY KEY, created_ms INTEGER NOT NULL, module_sha256 BLOB NOT NULL, units INTEGER NOT NULL,
    replicas INTEGER NOT NULL, cap INTEGER NOT NULL, paid INTEGER NOT NULL DEFAULT 0,
    accepted INTEGER NOT NULL DEFAULT 0, failed INTEGER NOT NULL DEFAULT 0, state TEXT NOT NULL,
    name TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE TABLE events (
    job_id BLOB NOT NULL, number INTEGER NOT NULL, at_ms INTEGER NOT NULL, fields TEXT NOT NULL,
    PRIMARY KEY (job_id, number)
) STRICT, WITHOUT ROWID;
CREATE TABLE leases (
    lease_id BLOB PRIMARY KEY, role TEXT NOT NULL, job_id BLOB NOT NULL, agreed_ms INTEGER NOT NULL,
    expiry_ms INTEGER NOT NULL, terms BLOB NOT NULL, standing TEXT NOT NULL, lock_id BLOB,
    lock_receipt BLOB, voucher BLOB, settled INTEGER, settle_receipt BLOB, reason TEXT NOT NULL DEFAULT '',
    cut INTEGER NOT NULL DEFAULT 0
) STRICT;
CREATE INDEX leases_open ON leases (standing, expiry_ms);
CREATE TABLE traffic (
    job_id BLOB NOT NULL, peer BLOB NOT NULL, sent_bytes INTEGER NOT NULL, received_bytes INTEGER NOT NULL,
    PRIMARY KEY (job_id, peer)
) STRICT, WITHOUT ROWID;
"""
_UPGRADES: Final = {1: "ALTER TABLE jobs ADD COLUMN name TEXT NOT NULL DEFAULT '';"}
"""Version → what makes it the next one."""


class JournalError(RuntimeError):
    """The journal cannot be read or written (full disk, damage, another version): stop relying on it."""


class Role(StrEnum):
    """Which side of the lease this node is."""

    BUYER = "buyer"
    WORKER = "worker"


class LeaseStanding(StrEnum):
    """What is left to do about a lease's money: AGREED → LOCKED → SETTLED, or AGREED → VOID."""

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
    cut: bool
    lock_receipt: bytes | None
    settle_receipt: bytes | None


@dataclass(frozen=True, slots=True)
class JobRecord:
    """One job that this node bought; `state` is running, done, failed, cancelled or interrupted (by a crash)."""

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
    name: str = ""
    """As its caller named it."""


_LEASES: Final = (
    "SELECT lease_id, role, terms, standing, lock_id, voucher, settled, reason, cut, lock_receipt, settle_receipt"
    " FROM leases "
)
_JOBS: Final = (
    "SELECT job_id, created_ms, module_sha256, units, replicas, cap, paid, accepted, failed, state, name"
    " FROM jobs "
)


class Journal:
    """One connection; from any thread, one call at a time. Every write is durable when it returns, except `note`."""

    def __init__(self, connection: sqlite3.Connection, *, on_disk: bool) -> None:
        """Use `open_journal`."""
        self._db = connection
        self._on_disk = on_disk
        self._turn = trio.CapacityLimiter(1)
        self._lock = threading.RLock()
        self._pending: deque[tuple[bytes, int, int, str]] = deque()
        self._numbers: dict[bytes, int] = {}

    async def wait_for(self, write: Callable[[], None]) -> None:
        """Do one write in a thread, after those that were asked for before it. Once asked for it is done, cancelled
        or not. A database in memory has no disk to wait for: there it is done at once.
        """
        if self._on_disk:
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(write, limiter=self._turn)
        else:
            write()

    # -- jobs

    def job_started(self, record: JobRecord) -> None:
        """A job begins; a job of the same id is already known if this runs twice, and stays."""
        values = (record.job_id, record.created_ms, record.module_sha256, record.units, record.replicas)
        self._write(
            "INSERT OR IGNORE INTO jobs (job_id, created_ms, module_sha256, units, replicas, cap, state, name)"
            " VALUES (?, ?, ?, ?, ?, ?, 'running', ?)",
            (*values, record.cap, record.name),
        )

    def job_ended(self, job_id: bytes, *, accepted: int, failed: int, cancelled: bool = False) -> None:
        """A job is over; `cancelled` if units were left that nobody wanted any more."""
        state = "cancelled" if cancelled else "failed" if failed else "done"
        self._write(
            "UPDATE jobs SET state = ?, accepted = ?, failed = ? WHERE job_id = ?",
            (state, accepted, failed, job_id),
        )
        self._numbers.pop(job_id, None)

    def interrupt_jobs(self) -> None:
        """On start: jobs that a crash ended. Their leases are settled by the normal path; units are not rerun."""
        self._write("UPDATE jobs SET state = 'interrupted' WHERE state = 'running'", ())

    def jobs(self, count: int = 100) -> list[JobRecord]:
        """The newest `count` jobs, newest first."""
        rows = self._read(_JOBS + "ORDER BY created_ms DESC LIMIT ?", (count,))
        return [JobRecord(*row) for row in rows]

    def job(self, job_id: bytes) -> JobRecord | None:
        """One job."""
        rows = self._read(_JOBS + "WHERE job_id = ?", (job_id,))
        return JobRecord(*rows[0]) if rows else None

    def note(self, job_id: bytes, at_ms: int, event: Progress) -> None:
        """Add to a job's timeline; durable with the next write."""
        number = self._numbers.get(job_id, 0)
        if number >= TIMELINE_EVENTS_MAX:
            return
        self._numbers[job_id] = number + 1
        self._pending.append((job_id, number, at_ms, json.dumps(progress_fields(event))))
        if len(self._pending) >= EVENTS_PENDING_MAX:
            self.flush()

    def flush(self) -> None:
        """Write the timeline events that wait."""
        if self._pending:
            self._write("SELECT 1", ())

    def timeline(self, job_id: bytes) -> list[dict[str, object]]:
        """A job's events, oldest first, each with `at_ms` and the fields of `progress_fields`."""
        self.flush()
        rows = self._read("SELECT at_ms, fields FROM events WHERE job_id = ? ORDER BY number", (job_id,))
        return [{"at_ms": at_ms, **json.loads(fields)} for at_ms, fields in rows]

    # -- leases

    def agreed(self, lease_id: bytes, role: Role, terms: Terms, at_ms: int) -> None:
        """Both sides have signed; repeating it changes nothing."""
        values = (lease_id, role.value, terms.job_id, at_ms, terms.expiry_ms, terms.encode())
        self._write(
            "INSERT OR IGNORE INTO leases (lease_id, role, job_id, agreed_ms, expiry_ms, terms, standing)"
            " VALUES (?, ?, ?, ?, ?, ?, 'agreed')",
            values,
        )

    def locked(self, lease_id: bytes, lock_id: bytes, receipt: bytes | None) -> None:
        """The LOCK is final; `receipt` proves it (None when found in the ledger after a restart)."""
        self._write(
            "UPDATE leases SET standing = 'locked', lock_id = ?, lock_receipt = coalesce(?, lock_receipt)"
            " WHERE lease_id = ? AND standing = 'agreed'",
            (lock_id, receipt, lease_id),
        )

    def keep_voucher(self, lease_id: bytes, voucher: Voucher) -> None:
        """Remember the best voucher of a lease: one that is worth less than the kept one changes nothing."""
        with self._lock:
            rows = self._read("SELECT voucher, job_id FROM leases WHERE lease_id = ?", (lease_id,))
            if not rows:
                raise JournalError("a voucher of a lease that the journal does not know")
            ((kept, job_id),) = rows
            more = voucher.cumulative - (decode_voucher(kept).cumulative if kept else 0)
            if more > 0:
                # A job of ours costs what our vouchers promise; for leases we serve there is no such job here.
                self._write(
                    "UPDATE jobs SET paid = paid + ? WHERE job_id = ?",
                    (more, job_id),
                    ("UPDATE leases SET voucher = ? WHERE lease_id = ?", (voucher.encode(), lease_id)),
                )

    def ended(
        self, lease_id: bytes, reason: str, *, cut: bool = False, sent_bytes: int = 0, received_bytes: int = 0
    ) -> None:
        """The conversation is over, and this much was said; the money's standing is another matter."""
        record = self.lease(lease_id)
        if record is None:
            return
        terms = record.terms
        peer = terms.worker if record.role is Role.BUYER else terms.buyer
        self._write(
            "UPDATE leases SET reason = ?, cut = ? WHERE lease_id = ?",
            (reason, int(cut), lease_id),
            (
                (
                    "INSERT INTO traffic VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
                    " sent_bytes = sent_bytes + excluded.sent_bytes,"
                    " received_bytes = received_bytes + excluded.received_bytes"
                ),
                (terms.job_id, peer, sent_bytes, received_bytes),
            ),
        )

    def voided(self, lease_id: bytes, reason: str) -> None:
        """No LOCK was made and none can come any more."""
        self._write(
            "UPDATE leases SET standing = 'void', reason = CASE reason WHEN '' THEN ? ELSE reason END"
            " WHERE lease_id = ? AND standing = 'agreed'",
            (reason, lease_id),
        )

    def settled(self, lease_id: bytes, paid: int, receipt: bytes | None) -> None:
        """The lock is closed; `paid` went to the worker. `receipt` is ours if we closed it."""
        self._write(
            "UPDATE leases SET standing = 'settled', settled = ?, settle_receipt = ?"
            " WHERE lease_id = ? AND standing = 'locked'",
            (paid, receipt, lease_id),
        )

    def lease(self, lease_id: bytes) -> LeaseRecord | None:
        """One lease."""
        rows = self._read(_LEASES + "WHERE lease_id = ?", (lease_id,))
        return _lease(rows[0]) if rows else None

    def unsettled(self) -> list[LeaseRecord]:
        """Leases with money still to be decided, oldest expiry first."""
        rows = self._read(
            _LEASES + "WHERE standing IN ('agreed', 'locked') ORDER BY expiry_ms",
            (),
        )
        return [_lease(row) for row in rows]

    def leases(self, *, job_id: bytes | None = None, count: int = 100) -> list[LeaseRecord]:
        """The newest `count` leases, newest first, of one job or of all."""
        where, values = ("WHERE job_id = ?", (job_id, count)) if job_id else ("", (count,))
        rows = self._read(_LEASES + where + " ORDER BY agreed_ms DESC, lease_id LIMIT ?", values)
        return [_lease(row) for row in rows]

    def liars(self) -> set[AccountId]:
        """Workers whose results re-execution disproved."""
        rows = self._read("SELECT terms FROM leases WHERE role = 'buyer' AND cut = 1", ())
        return {decode_terms(row[0]).worker for row in rows}

    # -- traffic

    def traffic(self, job_id: bytes) -> list[tuple[AccountId, int, int]]:
        """What went to whom for a job: (peer, sent bytes, received bytes)."""
        rows = self._read(
            "SELECT peer, sent_bytes, received_bytes FROM traffic WHERE job_id = ? ORDER BY peer", (job_id,)
        )
        return [(AccountId(peer), sent, received) for peer, sent, received in rows]

    def close(self) -> None:
        """Write what waits and close the database."""
        with self._lock:
            try:
                self.flush()
            finally:
                self._db.close()

    def _write(
        self, statement: str, values: tuple[object, ...], *more: tuple[str, tuple[object, ...]]
    ) -> None:
        """One transaction: the waiting events and these statements, or nothing."""
        with self._lock:
            # `note` may add to the end meanwhile, in another thread: only what is taken here is written.
            events = [self._pending.popleft() for _ in range(len(self._pending))]
            try:
                with self._db:
                    self._db.execute("BEGIN IMMEDIATE")
                    self._db.executemany("INSERT OR REPLACE INTO events VALUES (?, ?, ?, ?)", events)
                    for text, fields in ((statement, values), *more):
                        self._db.execute(text, fields)
            except sqlite3.Error as error:
                self._pending.extendleft(reversed(events))
                raise JournalError(f"the journal cannot be written: {error}") from error

    def _read(self, statement: str, values: tuple[object, ...]) -> list[Any]:
        try:
            with self._lock:
                return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise JournalError(f"the journal cannot be read: {error}") from error


@contextmanager
def open_journal(path: Path) -> Iterator[Journal]:
    """The journal at `path`, created with mode 0600 if absent; `JournalError` if it is not one of ours."""
    try:
        path.touch(mode=0o600)
        db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    except (OSError, sqlite3.Error) as error:
        raise JournalError(f"the journal {path} cannot be opened: {error}") from error
    try:
        journal = journal_in(db, on_disk=True)
        journal.interrupt_jobs()
    except JournalError:
        db.close()
        raise
    try:
        yield journal
    finally:
        journal.close()


def journal_in(db: sqlite3.Connection, *, on_disk: bool = False) -> Journal:
    """The journal in an open database (autocommit), whose schema is made if it is empty.

    One `on_disk` is written to from threads: it was opened with `check_same_thread=False`.
    """
    try:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = FULL")
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version == 0:
            db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
        elif version in _UPGRADES:
            db.executescript(f"BEGIN; {_UPGRADES[version]} PRAGMA user_version = {version + 1}; COMMIT;")
        elif version != SCHEMA_VERSION:
            raise JournalError(f"the journal has version {version}, this program knows {SCHEMA_VERSION}")
    except sqlite3.Error as error:
        raise JournalError(f"the journal cannot be used: {error}") from error
    return Journal(db, on_disk=on_disk)


def _lease(row: tuple[Any, ...]) -> LeaseRecord:
    lease_id, role, terms, standing, lock_id, voucher, settled, reason, cut, lock_receipt, settle_receipt = (
        row
    )
    return LeaseRecord(
        lease_id,
        Role(role),
        decode_terms(terms),
        LeaseStanding(standing),
        lock_id,
        decode_voucher(voucher) if voucher else None,
        settled,
        reason,
        bool(cut),
        lock_receipt,
        settle_receipt,
    )
