"""The state's rules (SPEC.md §4): every refusal leaves nothing moved, every effect sums to zero."""

from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.core import holdings as holdings_module
from ledger.core.amounts import AMOUNT_MAX, LIMIT_SUM_MAX
from ledger.core.entries import Claim, Entry, EntryType, Expire, Lock, Transfer
from ledger.core.holdings import Account, Holdings
from ledger.core.state import (
    LOCK_SPAN_MS_MAX,
    TRANSITIONS,
    Effect,
    InvariantError,
    LedgerState,
    LockStatus,
    Reason,
)
from tests.core.ledger.ledger_forge import (
    ALICE,
    BOB,
    CAROL,
    DAVE,
    LIMIT,
    WITNESSES,
    genesis,
)
from tests.core.ledger.state_ledger import EXPIRY_MS, LEADER, NOW_MS, Ledger, at


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


def test_genesis_gives_limits_and_no_credit(ledger: Ledger) -> None:
    assert ledger.state.account(ALICE.account) == Account(limit=LIMIT)
    assert ledger.state.account(CAROL.account) == Account()
    assert ledger.state.totals().accounts == 2


def test_transfer_moves_and_the_leader_earns_the_fee(ledger: Ledger) -> None:
    entry = ledger.sign(ALICE, Transfer(BOB.account, 70), fee=4)
    effect = ledger.do(entry)
    assert effect.moves == ((ALICE.account, -74), (BOB.account, 70), (LEADER, 4))
    assert effect.entry_id == ledger.entry_id(entry)
    assert (ledger.balance(ALICE), ledger.balance(BOB)) == (-74, 70)
    assert ledger.state.account(LEADER).balance == 4
    assert ledger.state.account(ALICE.account).seq == 1


def test_the_whole_limit_can_be_spent_and_not_one_more(ledger: Ledger) -> None:
    ledger.refused(ledger.sign(ALICE, Transfer(BOB.account, LIMIT + 1), seq=1), Reason.INSUFFICIENT)
    ledger.refused(ledger.sign(ALICE, Transfer(BOB.account, LIMIT), seq=1, fee=1), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(ALICE, Transfer(BOB.account, LIMIT)))
    ledger.refused(ledger.sign(ALICE, Transfer(BOB.account, 1)), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(BOB, Transfer(CAROL.account, 2 * LIMIT)))


def test_an_account_without_credit_can_do_nothing(ledger: Ledger) -> None:
    ledger.refused(ledger.sign(CAROL, Transfer(BOB.account, 1)), Reason.INSUFFICIENT)


def test_a_leader_cannot_pay_with_the_fee_it_is_about_to_earn(ledger: Ledger) -> None:
    ledger.do(ledger.sign(ALICE, Transfer(LEADER, 5)))
    ledger.refused(ledger.sign(WITNESSES[1], Transfer(BOB.account, 5), fee=1), Reason.INSUFFICIENT)


def test_sequence(ledger: Ledger) -> None:
    first = ledger.sign(ALICE, Transfer(BOB.account, 1))
    second = ledger.sign(ALICE, Transfer(BOB.account, 2))
    ledger.refused(second, Reason.SEQUENCE_GAP)
    ledger.do(first)
    ledger.refused(first, Reason.REPEAT)
    ledger.refused(ledger.sign(ALICE, Transfer(CAROL.account, 1), seq=1), Reason.CONFLICT)
    ledger.do(second)
    ledger.refused(second, Reason.REPEAT)
    ledger.refused(first, Reason.SEQUENCE_USED)


def test_a_repeat_is_a_repeat_with_any_signature_and_at_any_time(ledger: Ledger) -> None:
    entry = ledger.sign(ALICE, Transfer(BOB.account, 1), not_after_ms=NOW_MS)
    ledger.do(entry)
    ledger.refused(replace(entry, signature=b"s" * 64), Reason.REPEAT, NOW_MS + 1)


def test_not_after(ledger: Ledger) -> None:
    entry = ledger.sign(ALICE, Transfer(BOB.account, 1), not_after_ms=NOW_MS)
    ledger.refused(entry, Reason.TOO_LATE, NOW_MS + 1)
    ledger.do(entry, NOW_MS)


def test_fee_minimum() -> None:
    ledger = Ledger(genesis(fee_min=10))
    ledger.refused(ledger.sign(ALICE, Transfer(BOB.account, 1), seq=1, fee=9), Reason.FEE_TOO_LOW)
    ledger.do(ledger.sign(ALICE, Transfer(BOB.account, 1), fee=10))


def test_nobody_pays_itself(ledger: Ledger) -> None:
    ledger.refused(ledger.sign(ALICE, Transfer(ALICE.account, 1), seq=1), Reason.SELF_PAYMENT)
    ledger.refused(ledger.sign(ALICE, Lock(ALICE.account, 1, EXPIRY_MS), seq=1), Reason.SELF_PAYMENT)


def test_lock_sets_aside_and_claim_pays_and_refunds(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(500)
    assert ledger.balance(ALICE) == -500
    assert ledger.state.totals().locked == 500
    effect = ledger.do(ledger.sign(CAROL, ledger.claim(ALICE, lock_id, 300), fee=20))
    assert effect.moves == ((CAROL.account, 280), (ALICE.account, 200), (LEADER, 20))
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (-300, 280)
    lock = ledger.state.lock(lock_id)
    assert lock is not None
    assert (lock.status, lock.paid) == (LockStatus.CLOSED, 300)
    assert ledger.state.open_locks() == []


def test_a_claim_of_everything_and_of_nothing(ledger: Ledger) -> None:
    everything, nothing = ledger.open_lock(500), ledger.open_lock(600)
    ledger.do(ledger.sign(CAROL, ledger.claim(ALICE, everything, 500)))
    ledger.do(ledger.sign(CAROL, Claim(nothing, 0)))
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (-500, 500)


def test_claim_and_expire_never_overlap_in_time(ledger: Ledger) -> None:
    lock_id = ledger.open_lock()
    claim = ledger.sign(CAROL, ledger.claim(ALICE, lock_id, 1))
    expire = ledger.sign(BOB, Expire(lock_id))
    ledger.refused(expire, Reason.LOCK_NOT_EXPIRED, EXPIRY_MS - 1)
    assert ledger.state.check(claim, at(EXPIRY_MS - 1)) is None
    ledger.refused(claim, Reason.LOCK_EXPIRED, EXPIRY_MS)
    ledger.do(expire, EXPIRY_MS)
    assert ledger.balance(ALICE) == 0


def test_the_payer_can_expire_its_own_lock_and_pay_the_fee_from_the_refund(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(LIMIT)
    ledger.do(ledger.sign(ALICE, Expire(lock_id), fee=LIMIT), EXPIRY_MS)
    assert ledger.balance(ALICE) == -LIMIT


def test_expiring_another_ones_lock_costs_only_the_fee(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(500)
    ledger.do(ledger.sign(BOB, Expire(lock_id), fee=2), EXPIRY_MS)
    assert (ledger.balance(ALICE), ledger.balance(BOB)) == (0, -2)


def test_lock_expiry_bounds(ledger: Ledger) -> None:
    span = NOW_MS + LOCK_SPAN_MS_MAX
    ledger.refused(ledger.sign(ALICE, Lock(BOB.account, 1, NOW_MS), seq=1), Reason.EXPIRY_PASSED)
    ledger.refused(ledger.sign(ALICE, Lock(BOB.account, 1, span + 1), seq=1), Reason.EXPIRY_TOO_FAR)
    ledger.refused(ledger.sign(ALICE, Lock(BOB.account, LIMIT + 1, span), seq=1), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(ALICE, Lock(BOB.account, 1, span)))


def test_claim_refusals(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(500)
    good = ledger.claim(ALICE, lock_id, 400)
    other = ledger.claim(ALICE, b"o" * 32, 400).voucher_signature
    ledger.refused(ledger.sign(CAROL, Claim(b"x" * 32, 0), seq=1), Reason.LOCK_UNKNOWN)
    ledger.refused(ledger.sign(BOB, good, seq=1), Reason.NOT_PAYEE)
    ledger.refused(ledger.sign(ALICE, good, seq=2), Reason.NOT_PAYEE)
    ledger.refused(ledger.sign(CAROL, ledger.claim(ALICE, lock_id, 501), seq=1), Reason.OVER_AMOUNT)
    ledger.refused(ledger.sign(CAROL, ledger.claim(BOB, lock_id, 400), seq=1), Reason.BAD_VOUCHER)
    ledger.refused(ledger.sign(CAROL, replace(good, cumulative=401), seq=1), Reason.BAD_VOUCHER)
    ledger.refused(ledger.sign(CAROL, Claim(lock_id, 400, other), seq=1), Reason.BAD_VOUCHER)
    ledger.refused(ledger.sign(CAROL, good, seq=1, fee=401), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(CAROL, good, fee=400))


@pytest.mark.parametrize("close", ["claim", "cancel", "expire"])
def test_a_lock_closes_once(ledger: Ledger, close: str) -> None:
    lock_id = ledger.open_lock(500)
    if close == "expire":
        ledger.do(ledger.sign(DAVE, Expire(lock_id)), EXPIRY_MS)
    else:
        cumulative = 500 if close == "claim" else 0
        action = ledger.claim(ALICE, lock_id, cumulative) if cumulative else Claim(lock_id, 0)
        ledger.do(ledger.sign(CAROL, action))
    ledger.refused(ledger.sign(CAROL, ledger.claim(ALICE, lock_id, 500)), Reason.LOCK_CLOSED)
    ledger.refused(ledger.sign(BOB, Expire(lock_id)), Reason.LOCK_CLOSED, EXPIRY_MS)


def test_every_state_and_step_of_a_lock_is_in_the_table_or_refused() -> None:
    steps = {(before, step) for before in (None, *LockStatus) for step in EntryType}
    assert steps >= set(TRANSITIONS)
    assert {after for (before, _), after in TRANSITIONS.items() if before is None} == {LockStatus.OPEN}
    assert all(before is not LockStatus.CLOSED for before, _ in TRANSITIONS)


def test_closed_locks_are_forgotten_in_the_end(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(holdings_module, "CLOSED_LOCKS_KEPT", 2)
    ids = [ledger.open_lock() for _ in range(3)]
    for lock_id in ids:
        ledger.do(ledger.sign(CAROL, Claim(lock_id, 0)))
    ledger.refused(ledger.sign(CAROL, Claim(ids[0], 0), seq=4), Reason.LOCK_UNKNOWN)
    ledger.refused(ledger.sign(CAROL, Claim(ids[2], 0), seq=4), Reason.LOCK_CLOSED)


def test_a_branch_changes_nothing_until_it_is_adopted(ledger: Ledger) -> None:
    lock_id = ledger.open_lock(500)
    before = ledger.state.snapshot()
    branch = ledger.state.branch()
    assert isinstance(branch.apply(ledger.sign(ALICE, Transfer(BOB.account, 9)), at(NOW_MS)), Effect)
    above = branch.branch()
    claim = ledger.sign(CAROL, ledger.claim(ALICE, lock_id, 5), fee=1)
    assert isinstance(above.apply(claim, at(NOW_MS)), Effect)
    after = above.snapshot()
    assert ledger.state.snapshot() == before
    for state in (ledger.state, branch, above):
        state.assert_invariants()
    ledger.state.adopt(branch)
    assert above.snapshot() == after
    assert ledger.state.snapshot() == branch.snapshot() != after
    deeper = above.branch()
    ledger.state.adopt(above)
    ledger.state.adopt(deeper)
    assert ledger.state.snapshot() == after == ledger.state.branch().snapshot()
    ledger.refused(ledger.sign(CAROL, Claim(lock_id, 0)), Reason.LOCK_CLOSED)
    assert len(above.branch().holdings.layers) == 2


def test_only_a_branch_of_this_state_is_adopted_and_once(ledger: Ledger) -> None:
    branch = ledger.state.branch()
    for foreign in (ledger.state, LedgerState(ledger.genesis).branch(), branch.branch()):
        with pytest.raises(ValueError, match="branch"):
            ledger.state.adopt(foreign)
    ledger.state.adopt(branch)
    with pytest.raises(ValueError, match="once"):
        ledger.state.adopt(branch)


def test_a_branch_remembers_a_closed_lock_that_lies_open_below(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdings_module, "CLOSED_LOCKS_KEPT", 0)
    lock_id = ledger.open_lock()
    branch = ledger.state.branch()
    assert isinstance(branch.apply(ledger.sign(CAROL, Claim(lock_id, 0)), at(NOW_MS)), Effect)
    again = ledger.sign(CAROL, Claim(lock_id, 0))
    refusal = branch.check(again, at(NOW_MS))
    assert refusal is not None
    assert refusal.reason is Reason.LOCK_CLOSED
    ledger.state.adopt(branch)
    ledger.refused(again, Reason.LOCK_UNKNOWN)


def broken_sum(holdings: Holdings) -> None:
    holdings.credit(ALICE.account, 1)
    holdings.check_sums()


def below_limit(holdings: Holdings) -> None:
    holdings.put_account(CAROL.account, Account(), Account(balance=-1))


def skipped_sequence(holdings: Holdings) -> None:
    holdings.put_account(CAROL.account, Account(), Account(seq=2))


def wrong_running_sum(holdings: Holdings) -> None:
    holdings.layers[-1].accounts[ALICE.account] = Account(balance=5, limit=LIMIT)
    holdings.recount()


def hidden_debt(holdings: Holdings) -> None:
    holdings.layers[-1].accounts[CAROL.account] = Account(balance=-5)
    holdings.recount()


def reopened_lock(holdings: Holdings) -> None:
    lock = holdings.open_locks()[0]
    holdings.put_lock(lock)


@pytest.mark.parametrize(
    "contradict",
    [broken_sum, below_limit, skipped_sequence, wrong_running_sum, hidden_debt, reopened_lock],
)
def test_a_contradiction_stops_the_program(ledger: Ledger, contradict: Callable[[Holdings], None]) -> None:
    ledger.open_lock()
    with pytest.raises(InvariantError):
        contradict(ledger.state.holdings)


def test_the_root_names_network_accounts_and_open_locks(ledger: Ledger) -> None:
    roots = {ledger.state.root(), LedgerState(genesis(name="another")).root()}
    ledger.open_lock()
    roots.add(ledger.state.root())
    ledger.do(ledger.sign(BOB, Transfer(ALICE.account, 1)))
    roots.add(ledger.state.root())
    assert len(roots) == 4


def test_the_largest_sums_stay_exact_and_fit_64_bits() -> None:
    """All credit of the largest network in one purse: i64 in the snapshot, no rounding, no overflow."""
    ledger = Ledger(genesis(limits=((ALICE.account, LIMIT_SUM_MAX),)))
    holdings = ledger.state.holdings
    old = holdings.account(ALICE.account)
    holdings.put_account(ALICE.account, old, old._replace(balance=-LIMIT_SUM_MAX + AMOUNT_MAX))
    holdings.credit(CAROL.account, LIMIT_SUM_MAX - AMOUNT_MAX)
    ledger.do(ledger.sign(ALICE, Transfer(CAROL.account, AMOUNT_MAX)))
    assert (ledger.balance(ALICE), ledger.balance(CAROL)) == (-LIMIT_SUM_MAX, LIMIT_SUM_MAX)
    assert (LIMIT_SUM_MAX).to_bytes(8, "big", signed=True) in ledger.state.snapshot()
    ledger.refused(ledger.sign(ALICE, Transfer(CAROL.account, 1)), Reason.INSUFFICIENT)


def test_two_wallets_with_one_key_spend_once(ledger: Ledger) -> None:
    """A cloned wallet, or a restored backup: of two entries with one seq, the second never counts."""
    one = ledger.sign(ALICE, Transfer(BOB.account, LIMIT), seq=1)
    other = ledger.sign(ALICE, Transfer(CAROL.account, LIMIT), seq=1)
    ledger.do(one)
    ledger.refused(other, Reason.CONFLICT)
    assert (ledger.balance(BOB), ledger.balance(CAROL)) == (LIMIT, 0)


def test_refusals_say_what_would_be_right(ledger: Ledger) -> None:
    def detail(entry: Entry) -> str:
        refusal = ledger.state.check(entry, at(NOW_MS))
        assert refusal is not None
        return refusal.detail

    ledger.do(ledger.sign(ALICE, Transfer(BOB.account, 10)))
    ledger.do(ledger.sign(ALICE, Transfer(BOB.account, 10)))
    assert "the next is 3" in detail(ledger.sign(ALICE, Transfer(BOB.account, 1), seq=4))
    assert "the next is 3" in detail(ledger.sign(ALICE, Transfer(BOB.account, 1), seq=1))
    poor = detail(ledger.sign(ALICE, Transfer(BOB.account, LIMIT), fee=1))
    assert poor == f"{LIMIT + 1} needed, {LIMIT - 20} available with the credit line"
