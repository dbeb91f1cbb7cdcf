"""The journal survives, and settling does the same after a crash as after an ordinary end (SPEC.md §12)."""

from __future__ import annotations

import sqlite3
import stat
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from ledger.core.entries import Claim, Expire, Lock, sign_voucher
from ledger.core.state import Reason
from ledger.wallet import EntryPending, EntryRefused
from millrace.core import progress
from millrace.core.terms import Terms
from millrace.journal import JobRecord, Journal, JournalError, LeaseStanding, Role, open_journal
from millrace.settle import EXPIRE_SLACK_MS, VOID_AFTER_MS, Settler
from tests.core.ledger.ledger_forge import key
from tests.shell.leases.lease_mill import BUYER, Town, TownWallet, memory_journal

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from trio.testing import MockClock

    from ledger.core.entries import Voucher

WORKER = key(301)
JOB = b"j" * 32


class Scene:
    """One lease between BUYER and WORKER on a town's ledger, and both sides' journals in files."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.town = Town()
        self.network_id = self.town.forge.genesis.network_id
        self.terms = Terms(
            buyer=BUYER.account,
            worker=WORKER.account,
            job_id=JOB,
            nonce=b"n" * 16,
            module_sha256=b"m" * 32,
            module_bytes=1,
            price_per_tfuel=1,
            amount=1000,
            expiry_ms=self.town.clock_ms() + 300_000,
            fuel_max=1,
            memory_bytes_max=1,
            wall_ms_max=1,
            output_bytes_max=1,
            window_units=1,
            replicas=1,
        )
        self.lease_id = self.terms.terms_hash(self.network_id)

    def lock(self) -> bytes:
        action = Lock(WORKER.account, self.terms.amount, self.terms.expiry_ms, self.lease_id)
        return self.town.order(BUYER, action).entry.entry_id(self.network_id)

    def voucher(self, lock_id: bytes, cumulative: int) -> Voucher:
        return sign_voucher(BUYER, self.network_id, lock_id, cumulative)

    @contextmanager
    def side(self, role: Role) -> Iterator[tuple[Journal, Settler, TownWallet]]:
        """This side as it is after a start: everything it knows comes from its file."""
        signer = BUYER if role is Role.BUYER else WORKER
        with open_journal(self.folder / f"{role}.db") as journal:
            wallet = TownWallet(self.town, signer, delay_s=0.0)
            yield journal, Settler(journal, wallet, lambda: self.town.forge.state, self.town.clock_ms), wallet

    def standing(self, role: Role) -> LeaseStanding:
        with self.side(role) as (journal, _, _):
            record = journal.lease(self.lease_id)
            assert record is not None
            return record.standing


@pytest.fixture
async def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


async def test_a_worker_claims_its_best_voucher_after_a_restart(
    autojump_clock: MockClock, scene: Scene
) -> None:
    lock_id = scene.lock()
    with scene.side(Role.WORKER) as (journal, _, _):
        journal.agreed(scene.lease_id, Role.WORKER, scene.terms, 1)
        journal.locked(scene.lease_id, lock_id, b"receipt")
        for cumulative in (10, 25, 20):  # one that is worth less changes nothing
            voucher = sign_voucher(BUYER, scene.network_id, lock_id, cumulative)
            journal.keep_voucher(scene.lease_id, voucher)
    with scene.side(Role.WORKER) as (journal, settler, wallet):
        await settler.settle_due()
        await settler.settle_due()
        assert [type(action) for action in wallet.submitted] == [Claim]
        record = journal.lease(scene.lease_id)
        assert record is not None
        assert (record.standing, record.settled) == (LeaseStanding.SETTLED, 25)
        assert record.lock_receipt == b"receipt"
        assert record.settle_receipt is not None
    assert scene.town.balance(WORKER.account) == 25
    with scene.side(Role.BUYER) as (journal, settler, wallet):
        journal.agreed(scene.lease_id, Role.BUYER, scene.terms, 1)
        journal.locked(scene.lease_id, lock_id, None)
        await settler.settle_due()
        assert not wallet.submitted
    assert scene.standing(Role.BUYER) is LeaseStanding.SETTLED


async def test_a_crash_between_claim_and_journal_claims_nothing_twice(
    autojump_clock: MockClock, scene: Scene
) -> None:
    lock_id = scene.lock()
    voucher = sign_voucher(BUYER, scene.network_id, lock_id, 7)
    with scene.side(Role.WORKER) as (journal, _, _):
        journal.agreed(scene.lease_id, Role.WORKER, scene.terms, 1)
        journal.locked(scene.lease_id, lock_id, b"")
        journal.keep_voucher(scene.lease_id, voucher)
    scene.town.order(WORKER, Claim(lock_id, 7, voucher.signature))
    with scene.side(Role.WORKER) as (_, settler, wallet):
        await settler.settle_due()
        assert not wallet.submitted
    assert scene.standing(Role.WORKER) is LeaseStanding.SETTLED
    assert scene.town.balance(WORKER.account) == 7


async def test_a_lock_nobody_claims_is_expired_by_the_buyer(autojump_clock: MockClock, scene: Scene) -> None:
    lock_id = scene.lock()
    with scene.side(Role.BUYER) as (journal, settler, wallet):
        journal.agreed(scene.lease_id, Role.BUYER, scene.terms, 1)
        journal.locked(scene.lease_id, lock_id, b"")
        await settler.settle_due()
        assert not wallet.submitted
        async with trio.open_nursery() as nursery:
            nursery.start_soon(settler.run)
            await trio.sleep(300 + EXPIRE_SLACK_MS / 1000 + 6)
            nursery.cancel_scope.cancel()
        assert wallet.submitted == [Expire(lock_id)]
    assert scene.standing(Role.BUYER) is LeaseStanding.SETTLED
    assert scene.town.balance(BUYER.account) == 0


async def test_a_buyer_that_crashed_while_locking_finds_its_lock(
    autojump_clock: MockClock, scene: Scene
) -> None:
    """The terms were kept, the wallet's entry became final, and then nothing more was written."""
    with scene.side(Role.BUYER) as (journal, _, _):
        journal.agreed(scene.lease_id, Role.BUYER, scene.terms, 1)
    lock_id = scene.lock()
    with scene.side(Role.BUYER) as (journal, settler, _):
        await settler.settle_due()
        record = journal.lease(scene.lease_id)
        assert record is not None
        assert (record.standing, record.lock_id) == (LeaseStanding.LOCKED, lock_id)


async def test_terms_without_a_lock_are_voided(autojump_clock: MockClock, scene: Scene) -> None:
    for role in Role:
        with scene.side(role) as (journal, settler, _):
            journal.agreed(scene.lease_id, role, scene.terms, 1)
            await settler.settle_due()
    assert scene.standing(Role.WORKER) is LeaseStanding.VOID
    assert scene.standing(Role.BUYER) is LeaseStanding.AGREED  # its LOCK may still come
    await trio.sleep(300 + VOID_AFTER_MS / 1000 + 1)
    with scene.side(Role.BUYER) as (_, settler, _):
        await settler.settle_due()
    assert scene.standing(Role.BUYER) is LeaseStanding.VOID


async def test_a_held_lease_is_left_alone(autojump_clock: MockClock, scene: Scene) -> None:
    lock_id = scene.lock()
    with scene.side(Role.WORKER) as (journal, settler, wallet):
        settler.hold(scene.lease_id)
        journal.agreed(scene.lease_id, Role.WORKER, scene.terms, 1)
        journal.locked(scene.lease_id, lock_id, b"")
        await settler.settle_due()
        assert not wallet.submitted
        assert await settler.settle_all(3) == 1
        settler.release(scene.lease_id)
        assert await settler.settle_all(3) == 0
        assert wallet.submitted == [Claim(lock_id, 0)]


@pytest.mark.parametrize(
    "failure", [EntryRefused(Reason.BUSY, "full"), EntryPending(b"e"), ConnectionError("down")]
)
async def test_a_failed_claim_is_tried_again(
    autojump_clock: MockClock, scene: Scene, failure: Exception
) -> None:
    lock_id = scene.lock()
    with scene.side(Role.WORKER) as (journal, settler, wallet):
        journal.agreed(scene.lease_id, Role.WORKER, scene.terms, 1)
        journal.locked(scene.lease_id, lock_id, b"")
        submit, failures = wallet.submit, [failure]

        async def flaky(action: Claim, *, timeout_s: float) -> object:
            if failures:
                raise failures.pop()
            return await submit(action, timeout_s=timeout_s)

        wallet.submit = flaky  # type: ignore[method-assign, assignment]
        await settler.settle_due()
        assert journal.unsettled()
        assert await settler.settle_all(10) == 0
        assert not journal.unsettled()


def test_jobs_events_and_traffic_survive(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    record = JobRecord(JOB, 5, b"m" * 32, 10, 2, 1000, 0, 0, 0, "running")
    with open_journal(path) as journal:
        journal.job_started(record)
        journal.job_started(record)
        for unit in range(300):
            journal.note(JOB, unit, progress.UnitFailed(unit, "why"))
    with open_journal(path) as journal:
        (found,) = journal.jobs()
        assert found.state == "interrupted"
        timeline = journal.timeline(JOB)
        assert [event["unit"] for event in timeline] == list(range(300))
        assert timeline[7] == {"at_ms": 7, "event": "unit_failed", "unit": 7, "reason": "why"}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("failed", "cancelled", "state"),
    [(0, False, "done"), (2, False, "failed"), (0, True, "cancelled"), (2, True, "cancelled")],
)
def test_how_a_job_ended_and_what_it_is_called(
    tmp_path: Path, failed: int, cancelled: bool, state: str
) -> None:
    path = tmp_path / "journal.db"
    with open_journal(path) as journal:
        journal.job_started(JobRecord(JOB, 5, b"m" * 32, 10, 2, 1000, 0, 0, 0, "running", "mill"))
        journal.job_ended(JOB, accepted=4, failed=failed, cancelled=cancelled)
    with open_journal(path) as journal:
        assert journal.job(JOB) == JobRecord(JOB, 5, b"m" * 32, 10, 2, 1000, 0, 4, failed, state, "mill")


def test_a_journal_of_the_first_version_is_brought_up_to_date(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    record = JobRecord(JOB, 5, b"m" * 32, 10, 2, 1000, 0, 0, 0, "running")
    with open_journal(path) as journal:
        journal.job_started(record)
        journal.job_ended(JOB, accepted=10, failed=0)
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript("ALTER TABLE jobs DROP COLUMN name; PRAGMA user_version = 1;")
    for _ in range(2):
        with open_journal(path) as journal:
            assert journal.jobs() == [replace(record, accepted=10, state="done")]


def test_a_write_that_fails_is_said_and_leaves_nothing_half(tmp_path: Path) -> None:
    journal = memory_journal()
    journal.note(JOB, 1, progress.UnitFailed(1, "why"))
    journal._db.execute("PRAGMA query_only = ON")
    with pytest.raises(JournalError):
        journal.job_started(JobRecord(JOB, 5, b"m" * 32, 10, 2, 1000, 0, 0, 0, "running"))
    journal._db.execute("PRAGMA query_only = OFF")
    assert journal.job(JOB) is None
    assert len(journal.timeline(JOB)) == 1
    journal.close()
    with pytest.raises(JournalError):
        journal.jobs()


async def test_writes_that_are_waited_for_are_done_in_order_and_in_spite_of_a_cancellation(
    scene: Scene,
) -> None:
    lock_id, done = scene.lock(), list[int]()
    with scene.side(Role.WORKER) as (journal, _, _):
        journal.agreed(scene.lease_id, Role.WORKER, scene.terms, 1)
        journal.locked(scene.lease_id, lock_id, b"receipt")

        def keep(cumulative: int) -> None:
            journal.keep_voucher(scene.lease_id, scene.voucher(lock_id, cumulative))
            done.append(cumulative)

        async with trio.open_nursery() as nursery:
            for cumulative in range(1, 21):
                nursery.start_soon(journal.wait_for, partial(keep, cumulative))
                await trio.lowlevel.checkpoint()
                journal.note(JOB, cumulative, progress.UnitFailed(cumulative, "why"))
            nursery.cancel_scope.cancel()
        assert done[0] == 1
        assert done == sorted(done)
        with trio.CancelScope() as scope:
            scope.cancel()
            await journal.wait_for(partial(keep, 100))
        assert done[-1] == 100
        with pytest.raises(JournalError):
            await journal.wait_for(partial(journal.keep_voucher, b"x" * 32, scene.voucher(lock_id, 1)))
    with scene.side(Role.WORKER) as (journal, _, _):
        record = journal.lease(scene.lease_id)
        assert record is not None
        assert record.voucher == scene.voucher(lock_id, 100)
        assert [event["unit"] for event in journal.timeline(JOB)] == list(range(1, 21))


def test_what_is_not_our_journal_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    path.write_bytes(b"this is no database at all" * 100)
    with pytest.raises(JournalError), open_journal(path):
        pass
    other = tmp_path / "later.db"
    db = sqlite3.connect(other)
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(JournalError, match="version 9"), open_journal(other):
        pass
    with pytest.raises(JournalError), open_journal(tmp_path / "no" / "folder.db"):
        pass
