"""RELEASE, DISPUTE, VERDICT and what becomes of a lock in every order of them (SPEC.md §4.2)."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.core import settlement
from ledger.core.entries import (
    NO_KEY,
    Action,
    Claim,
    Dispute,
    EntryType,
    Expire,
    Lock,
    Release,
    Transfer,
)
from ledger.core.state import TRANSITIONS, LockStatus, Reason
from tests.core.ledger.ledger_forge import ALICE, BOB, CAROL, DAVE, LIMIT, genesis, key
from tests.core.ledger.state_ledger import ARBITERS, DISPUTE_MS, EXPIRY_MS, LEADER, NOW_MS, Ledger

DEADLINE_MS = EXPIRY_MS + DISPUTE_MS


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def disputed(ledger: Ledger, amount: int = 500, **fields: int) -> bytes:
    lock_id = ledger.open_lock(amount, needed=fields.get("needed", 2), bps=fields.get("bps", 0))
    ledger.do(ledger.sign(CAROL, Dispute(lock_id)))
    return lock_id


def test_release_gives_all_to_the_payee(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(500)
    effect = ledger.do(ledger.sign(ALICE, Release(lock_id), fee=3), EXPIRY_MS - 1)
    assert effect.moves == ((ALICE.account, -3), (CAROL.account, 500), (LEADER, 3))
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (-503, 500)


def test_release_refusals(ledger: Ledger) -> None:
    lock_id = ledger.open_lock()
    ledger.refused(ledger.sign(CAROL, Release(lock_id), seq=1), Reason.NOT_PAYER)
    ledger.refused(ledger.sign(ALICE, Release(lock_id), seq=2), Reason.LOCK_EXPIRED, EXPIRY_MS)
    ledger.refused(ledger.sign(ALICE, Release(b"x" * 32), seq=2), Reason.LOCK_UNKNOWN)


def test_dispute_gives_time_until_the_deadline(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(500, needed=2)
    effect = ledger.do(ledger.sign(CAROL, Dispute(lock_id)), EXPIRY_MS - 1)
    assert effect.moves == ((CAROL.account, 0),)
    lock = ledger.state.lock(lock_id)
    assert lock is not None
    assert (lock.status, lock.deadline_ms) == (LockStatus.DISPUTED, DEADLINE_MS)
    assert ledger.state.totals().locked == 500
    ledger.refused(ledger.sign(BOB, Expire(lock_id), seq=1), Reason.LOCK_NOT_EXPIRED, DEADLINE_MS - 1)
    ledger.do(ledger.sign(CAROL, ledger.claim(ALICE, lock_id, 200)), DEADLINE_MS - 1)
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (-200, 200)


def test_dispute_refusals(ledger: Ledger) -> None:
    plain, lock_id = ledger.open_lock(), ledger.open_lock(needed=1)
    ledger.refused(ledger.sign(CAROL, Dispute(plain), seq=1), Reason.NOT_DISPUTABLE)
    ledger.refused(ledger.sign(ALICE, Dispute(lock_id), seq=3), Reason.NOT_PAYEE)
    ledger.refused(ledger.sign(CAROL, Dispute(lock_id), seq=1), Reason.LOCK_EXPIRED, EXPIRY_MS)
    ledger.refused(ledger.sign(CAROL, Dispute(b"x" * 32), seq=1), Reason.LOCK_UNKNOWN)
    ledger.do(ledger.sign(CAROL, Dispute(lock_id)))
    ledger.refused(ledger.sign(CAROL, Dispute(lock_id)), Reason.LOCK_DISPUTED)


def test_a_frivolous_dispute_costs_its_fee_and_ends_when_the_payer_or_the_arbiters_want() -> None:
    ledger = Ledger(genesis(fee_min=2, dispute_fee=50))
    ledger.do(ledger.sign(ALICE, Transfer(CAROL.account, 60), fee=2))
    lock = ledger.sign(
        ALICE,
        replace(ledger.lock(CAROL, 500, EXPIRY_MS), dispute_ms=9, arbiters_hash=b"a" * 32, arbiters_needed=1),
        fee=2,
    )
    ledger.do(lock)
    dispute = Dispute(ledger.entry_id(lock))
    ledger.refused(ledger.sign(CAROL, dispute, seq=1, fee=49), Reason.FEE_TOO_LOW)
    ledger.refused(ledger.sign(CAROL, dispute, seq=1, fee=61), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(CAROL, dispute, fee=50))
    assert ledger.balance(CAROL) == 10
    ledger.do(ledger.sign(ALICE, Release(dispute.lock_id), fee=2))


def test_a_dispute_fee_below_the_least_fee_does_not_lower_it() -> None:
    ledger = Ledger(genesis(fee_min=5, dispute_fee=1))
    ledger.refused(ledger.sign(CAROL, Dispute(b"l" * 32), fee=4), Reason.FEE_TOO_LOW)


@pytest.mark.parametrize(("awarded", "sender"), [(0, DAVE), (500, CAROL), (123, ALICE), (1, DAVE)])
def test_a_verdict_splits_the_lock_whoever_brings_it(ledger: Ledger, awarded: int, sender: object) -> None:
    lock_id = disputed(ledger)
    who = next(k for k in (ALICE, CAROL, DAVE) if k is sender)
    ledger.do(ledger.sign(who, ledger.verdict(lock_id, awarded)), DEADLINE_MS - 1)
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (-awarded, awarded)
    lock = ledger.state.lock(lock_id)
    assert lock is not None
    assert (lock.status, lock.paid) == (LockStatus.CLOSED, awarded)


def test_who_brings_a_verdict_pays_the_fee_out_of_its_share(ledger: Ledger) -> None:
    lock_id = disputed(ledger)
    ledger.refused(ledger.sign(DAVE, ledger.verdict(lock_id, 100), seq=1, fee=1), Reason.INSUFFICIENT)
    ledger.refused(ledger.sign(CAROL, ledger.verdict(lock_id, 100), seq=2, fee=101), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(CAROL, ledger.verdict(lock_id, 100), fee=100))


def test_verdict_refusals(ledger: Ledger) -> None:
    calm = ledger.open_lock(needed=2)
    lock_id = disputed(ledger)

    def no(action: Action, reason: Reason, when: int = NOW_MS) -> None:
        ledger.refused(ledger.sign(DAVE, action, seq=1), reason, when)

    no(ledger.verdict(calm, 1), Reason.NOT_DISPUTED)
    no(ledger.verdict(b"x" * 32, 1), Reason.LOCK_UNKNOWN)
    no(ledger.verdict(lock_id, 1), Reason.LOCK_EXPIRED, DEADLINE_MS)
    no(ledger.verdict(lock_id, 501), Reason.OVER_AMOUNT)
    no(ledger.verdict(lock_id, 1, ARBITERS[:2], ARBITERS[:2]), Reason.WRONG_ARBITERS)
    no(ledger.verdict(lock_id, 1, ARBITERS[:1]), Reason.NOT_APPROVED)
    no(ledger.verdict(lock_id, 1, ()), Reason.NOT_APPROVED)
    no(ledger.verdict(lock_id, 1, ARBITERS, k2=DAVE), Reason.NOT_APPROVED)
    no(replace(ledger.verdict(lock_id, 1), payee_amount=2), Reason.NOT_APPROVED)
    no(replace(ledger.verdict(calm, 1), lock_id=lock_id), Reason.NOT_APPROVED)
    ledger.do(ledger.sign(DAVE, ledger.verdict(lock_id, 1, ARBITERS)))


def test_an_arbiter_signs_with_its_current_key(ledger: Ledger) -> None:
    first, new = ARBITERS[0], key(999)
    ledger.do(ledger.sign(ALICE, Transfer(first.account, 1)))
    lock_id = disputed(ledger)
    ledger.do(ledger.rekey(first, new, NO_KEY))
    ledger.refused(ledger.sign(DAVE, ledger.verdict(lock_id, 7), seq=1), Reason.NOT_APPROVED)
    ledger.do(ledger.sign(DAVE, ledger.verdict(lock_id, 7, k0=new)))


@pytest.mark.parametrize(("bps", "paid"), [(0, 0), (1, 0), (19, 0), (20, 1), (2_500, 125), (10_000, 500)])
def test_silent_arbiters_leave_the_default_rounded_down(ledger: Ledger, bps: int, paid: int) -> None:
    lock_id = disputed(ledger, bps=bps)
    ledger.do(ledger.sign(DAVE, Expire(lock_id)), DEADLINE_MS)
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (-paid, paid)


def test_a_default_says_nothing_about_a_lock_that_nobody_disputed(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(500, bps=10_000)
    ledger.do(ledger.sign(CAROL, Expire(lock_id)), EXPIRY_MS)
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (0, 0)


STEPS: dict[EntryType, Callable[[Ledger, bytes], tuple[object, Action]]] = {
    EntryType.CLAIM: lambda _, lock_id: (CAROL, Claim(lock_id, 0)),
    EntryType.RELEASE: lambda _, lock_id: (ALICE, Release(lock_id)),
    EntryType.DISPUTE: lambda _, lock_id: (CAROL, Dispute(lock_id)),
    EntryType.VERDICT: lambda ledger, lock_id: (DAVE, ledger.verdict(lock_id, 9)),
    EntryType.EXPIRE: lambda _, lock_id: (BOB, Expire(lock_id)),
}
REFUSED = {
    (LockStatus.OPEN, EntryType.VERDICT): Reason.NOT_DISPUTED,
    (LockStatus.DISPUTED, EntryType.DISPUTE): Reason.LOCK_DISPUTED,
}


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("status", [None, *LockStatus])
def test_every_state_and_every_step(ledger: Ledger, status: LockStatus | None, step: EntryType) -> None:
    lock_id = b"n" * 32 if status is None else ledger.open_lock(needed=2)
    when = NOW_MS
    if status is LockStatus.DISPUTED:
        ledger.do(ledger.sign(CAROL, Dispute(lock_id)))
    if status is LockStatus.CLOSED:
        ledger.do(ledger.sign(ALICE, Release(lock_id)))
    if step is EntryType.EXPIRE:
        when = DEADLINE_MS
    who, action = STEPS[step](ledger, lock_id)
    entry = ledger.sign(next(k for k in (ALICE, BOB, CAROL, DAVE) if k is who), action)
    after = TRANSITIONS.get((status, step))
    if after is None:
        otherwise = Reason.LOCK_UNKNOWN if status is None else Reason.LOCK_CLOSED
        ledger.refused(entry, REFUSED.get((status, step), otherwise), when)  # type: ignore[arg-type]
    else:
        ledger.do(entry, when)
        lock = ledger.state.lock(lock_id)
        assert lock is not None
        assert lock.status is after


def test_locks_per_payer_are_bounded(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settlement, "LOCKS_PER_PAYER_MAX", 2)
    first, _ = ledger.open_lock(1), ledger.open_lock(1)
    third = ledger.sign(ALICE, Lock(CAROL.account, 1, EXPIRY_MS))
    ledger.refused(third, Reason.TOO_MANY_LOCKS)
    ledger.do(ledger.sign(BOB, Lock(CAROL.account, 1, EXPIRY_MS)))
    branch = ledger.state.branch()
    assert branch.holdings.locks_of(ALICE.account) == 2
    ledger.do(ledger.sign(CAROL, Claim(first, 0)))
    ledger.do(third)
    assert ledger.state.holdings.locks_of(ALICE.account) == 2


def test_a_whole_limit_can_be_locked_disputed_and_given_back(ledger: Ledger) -> None:
    lock_id = disputed(ledger, LIMIT)
    ledger.refused(ledger.sign(ALICE, Transfer(BOB.account, 1)), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(DAVE, ledger.verdict(lock_id, 0)))
    assert ledger.balance(ALICE) == 0
