"""Credit lines, keys, committees and parameters: who may change what (SPEC.md §4.3)."""

from dataclasses import replace

import pytest

from ledger.core import authority
from ledger.core.amounts import LIMIT_SUM_MAX
from ledger.core.entries import (
    NO_APPROVALS,
    NO_KEY,
    Claim,
    Limit,
    Lock,
    Param,
    Rotate,
    Transfer,
    sign_decree,
    verify_entry,
)
from ledger.core.params import Params
from ledger.core.state import PARAM_HEIGHTS_MAX, REKEY_PAUSE_MS, VALID_SPAN_MS_MAX, Reason
from tests.core.ledger.ledger_forge import ALICE, BOB, CAROL, DAVE, LIMIT, WITNESSES, genesis, key
from tests.core.ledger.state_ledger import EXPIRY_MS, GOVERNED, GOVERNORS, NOW_MS, Ledger, at

NEW, OTHER, RECOVERY = key(401), key(402), key(403)


@pytest.fixture
def ledger() -> Ledger:
    return Ledger(genesis(**GOVERNED))


def test_an_entry_is_valid_for_thirty_days_at_most(ledger: Ledger) -> None:
    latest = NOW_MS + VALID_SPAN_MS_MAX
    pay = Transfer(BOB.account, 1)
    ledger.refused(ledger.sign(ALICE, pay, seq=1, not_after_ms=latest + 1), Reason.VALID_TOO_LONG)
    ledger.do(ledger.sign(ALICE, pay, not_after_ms=latest))


def test_a_sponsor_delegates_and_takes_back(ledger: Ledger) -> None:
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, 600), fee=1))
    assert (ledger.limit(ALICE), ledger.limit(CAROL), ledger.balance(ALICE)) == (LIMIT - 600, 600, -1)
    assert ledger.state.delegated(ALICE.account, CAROL.account) == 600
    ledger.do(ledger.sign(CAROL, Transfer(BOB.account, 200)))
    ledger.refused(ledger.sign(ALICE, Limit(CAROL.account, -401), seq=2), Reason.LIMIT_IN_USE)
    ledger.refused(ledger.sign(ALICE, Limit(CAROL.account, -601), seq=2), Reason.NOT_DELEGATED)
    ledger.refused(ledger.sign(BOB, Limit(CAROL.account, -1), seq=1), Reason.NOT_DELEGATED)
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, -400)))
    assert (ledger.limit(ALICE), ledger.limit(CAROL)) == (LIMIT - 200, 200)
    ledger.do(ledger.sign(BOB, Transfer(CAROL.account, 200)))
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, -200)))
    assert ledger.state.holdings.delegations() == []
    assert ledger.state.totals().limits == 2 * LIMIT


def test_a_sponsor_has_so_many_beneficiaries(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authority, "DELEGATIONS_PER_SPONSOR_MAX", 2)
    ledger.do(ledger.sign(ALICE, Limit(BOB.account, 5)))
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, 5)))
    ledger.refused(ledger.sign(ALICE, Limit(DAVE.account, 5), seq=3), Reason.TOO_MANY_DELEGATIONS)
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, 1)))  # more to one who has some already
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, -5)))
    ledger.refused(ledger.sign(ALICE, Limit(DAVE.account, 5), seq=5), Reason.TOO_MANY_DELEGATIONS)
    branch = ledger.state.branch()
    assert branch.holdings.delegations_of(ALICE.account) == 2
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, -1)))  # all of it is back
    ledger.do(ledger.sign(ALICE, Limit(DAVE.account, 5)))
    assert ledger.state.holdings.delegations_of(ALICE.account) == 2
    ledger.state.assert_invariants()


def test_the_last_epoch_has_no_successor(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    assert authority.EPOCH_MAX == 2**32 - 1
    monkeypatch.setattr(authority, "EPOCH_MAX", 0)
    ledger.refused(ledger.sign(ALICE, ledger.rotate(WITNESSES[:1])), Reason.LAST_EPOCH)


def test_nobody_delegates_what_it_has_not(ledger: Ledger) -> None:
    ledger.refused(ledger.sign(ALICE, Limit(ALICE.account, 1), seq=1), Reason.SELF_PAYMENT)
    ledger.refused(ledger.sign(ALICE, Limit(CAROL.account, LIMIT + 1), seq=1), Reason.LIMIT_NEGATIVE)
    ledger.refused(ledger.sign(ALICE, Limit(CAROL.account, LIMIT_SUM_MAX), seq=1), Reason.LIMIT_NEGATIVE)
    ledger.do(ledger.sign(ALICE, Transfer(CAROL.account, 50)))
    # A balance above zero is no credit line: it would leave a limit below zero behind.
    ledger.refused(ledger.sign(CAROL, Limit(DAVE.account, 50), seq=1), Reason.LIMIT_NEGATIVE)
    ledger.refused(ledger.sign(ALICE, Limit(CAROL.account, LIMIT - 49), seq=2), Reason.INSUFFICIENT)
    ledger.refused(ledger.sign(ALICE, Limit(CAROL.account, LIMIT - 50), seq=2, fee=1), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(ALICE, Limit(CAROL.account, LIMIT - 50)))


def test_a_circle_of_delegations_makes_no_credit(ledger: Ledger) -> None:
    """A→B→A, and each wants it back in either order."""
    ledger.do(ledger.sign(ALICE, Limit(BOB.account, LIMIT)))
    ledger.do(ledger.sign(BOB, Limit(ALICE.account, 2 * LIMIT)))
    assert (ledger.limit(ALICE), ledger.limit(BOB)) == (2 * LIMIT, 0)
    ledger.refused(ledger.sign(ALICE, Limit(BOB.account, -1), seq=2), Reason.LIMIT_IN_USE)
    ledger.do(ledger.sign(ALICE, Transfer(CAROL.account, LIMIT + 1)))
    ledger.refused(ledger.sign(BOB, Limit(ALICE.account, -LIMIT), seq=2), Reason.LIMIT_IN_USE)
    ledger.do(ledger.sign(BOB, Limit(ALICE.account, 1 - LIMIT)))
    ledger.do(ledger.sign(ALICE, Limit(BOB.account, 1 - LIMIT)))
    assert ledger.limit(ALICE) + ledger.limit(BOB) == 2 * LIMIT


def test_governors_give_and_take_limits(ledger: Ledger) -> None:
    ledger.do(ledger.sign(DAVE, ledger.decreed_limit(CAROL, 70)))
    assert (ledger.limit(CAROL), ledger.state.decrees) == (70, 1)
    ledger.do(ledger.sign(CAROL, Transfer(BOB.account, 60)))
    ledger.refused(ledger.sign(DAVE, ledger.decreed_limit(CAROL, -71), seq=2), Reason.LIMIT_NEGATIVE)
    ledger.refused(ledger.sign(DAVE, ledger.decreed_limit(CAROL, -11), seq=2), Reason.LIMIT_IN_USE)
    ledger.do(ledger.sign(DAVE, ledger.decreed_limit(CAROL, -10)))
    ledger.refused(ledger.sign(DAVE, ledger.decreed_limit(CAROL, LIMIT_SUM_MAX), seq=3), Reason.LIMIT_SUM)
    room = LIMIT_SUM_MAX - 2 * LIMIT - 60
    ledger.refused(ledger.sign(DAVE, ledger.decreed_limit(CAROL, room + 1), seq=3), Reason.LIMIT_SUM)
    ledger.do(ledger.sign(DAVE, ledger.decreed_limit(CAROL, room)))
    assert ledger.state.totals().limits == LIMIT_SUM_MAX
    ledger.refused(ledger.sign(DAVE, ledger.decreed_limit(CAROL, 1), seq=4), Reason.LIMIT_SUM)


def test_who_carries_a_decree_about_itself_pays_its_fee_under_the_new_limit(ledger: Ledger) -> None:
    ledger.refused(ledger.sign(DAVE, ledger.decreed_limit(DAVE, 5), seq=1, fee=6), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(DAVE, ledger.decreed_limit(DAVE, 5), fee=5))
    assert (ledger.balance(DAVE), ledger.limit(DAVE)) == (-5, 5)
    ledger.do(ledger.sign(ALICE, Transfer(DAVE.account, 5)))
    lower = ledger.decreed_limit(DAVE, -5)
    ledger.refused(ledger.sign(DAVE, lower, seq=2, fee=1), Reason.INSUFFICIENT)
    ledger.do(ledger.sign(DAVE, lower))


def test_a_decree_counts_once_and_needs_its_governors(ledger: Ledger) -> None:
    first = ledger.decreed_limit(CAROL, 1)
    bare = replace(first, approvals=NO_APPROVALS)

    def no(decree: Limit, reason: Reason) -> None:
        ledger.refused(ledger.sign(DAVE, decree, seq=1), reason)

    no(bare, Reason.NOT_APPROVED)
    no(ledger.approved(first, GOVERNORS[:1]), Reason.NOT_APPROVED)
    no(replace(first, delta=2), Reason.NOT_APPROVED)
    no(replace(first, beneficiary=DAVE.account), Reason.NOT_APPROVED)
    no(replace(first, decree=2), Reason.DECREE_GAP)
    stranger = replace(first.approvals, signers=0b11000)
    no(replace(first, approvals=stranger), Reason.NOT_APPROVED)
    third = sign_decree(DAVE, ledger.genesis.network_id, first)
    three = replace(first.approvals, signers=0b111, signatures=(*first.approvals.signatures, third))
    no(replace(first, approvals=three), Reason.NOT_APPROVED)
    ledger.do(ledger.sign(DAVE, ledger.approved(first, GOVERNORS)))
    ledger.refused(ledger.sign(DAVE, first), Reason.DECREE_USED)
    ledger.refused(ledger.sign(BOB, first), Reason.DECREE_USED)
    assert ledger.limit(CAROL) == 1


def test_approvals_of_another_network_or_kind_are_none(ledger: Ledger) -> None:
    foreign = Ledger(genesis(name="another", **GOVERNED))
    ledger.refused(ledger.sign(DAVE, foreign.decreed_limit(CAROL, 1), seq=1), Reason.NOT_APPROVED)
    limit = ledger.decreed_limit(CAROL, 1)
    rotate = Rotate(1, (CAROL.account,), limit.approvals)
    ledger.refused(ledger.sign(DAVE, rotate, seq=1), Reason.NOT_APPROVED)


def test_a_network_without_governors_decrees_nothing() -> None:
    ledger = Ledger()
    for decree in (
        Limit(CAROL.account, 1, 1),
        Rotate(1, (CAROL.account,), NO_APPROVALS),
        Param(1, 5, Params(), NO_APPROVALS),
    ):
        ledger.refused(ledger.sign(DAVE, decree, seq=1), Reason.NO_GOVERNANCE)


def test_a_robbed_governor_gets_its_approvals_back_with_its_key(ledger: Ledger) -> None:
    first = GOVERNORS[0]
    ledger.do(ledger.sign(ALICE, Transfer(first.account, 1)))
    ledger.do(ledger.rekey(first, NEW))
    stolen = ledger.decreed_limit(DAVE, 1)
    ledger.refused(ledger.sign(DAVE, stolen, seq=1), Reason.NOT_APPROVED)
    network_id = ledger.genesis.network_id
    good = (sign_decree(NEW, network_id, stolen), stolen.approvals.signatures[1])
    ledger.do(ledger.sign(DAVE, replace(stolen, approvals=replace(stolen.approvals, signatures=good))))


def test_rekey_changes_who_must_sign(ledger: Ledger) -> None:
    pay = ledger.sign(ALICE, Transfer(BOB.account, 1))
    assert ledger.state.signer(pay) == ALICE.account
    first = ledger.rekey(ALICE, NEW, RECOVERY.account, fee=2)
    assert ledger.state.signer(first) == ALICE.account
    ledger.do(first)
    assert ledger.state.signer(pay) == ledger.state.key_of(ALICE.account) == NEW.account
    assert not verify_entry(pay, ledger.genesis.network_id, ledger.state.signer(pay))
    second = ledger.rekey(ALICE, OTHER, NO_KEY, seq=2)
    assert ledger.state.signer(second) == RECOVERY.account
    ledger.do(second, NOW_MS + REKEY_PAUSE_MS)
    third = ledger.rekey(ALICE, ALICE, NO_KEY, seq=3)
    assert ledger.state.signer(third) == OTHER.account
    ledger.do(third, NOW_MS + REKEY_PAUSE_MS)
    line = ledger.state.key_line(ALICE.account)
    assert line is not None
    assert (line.key, line.recovery, line.rekeys) == (ALICE.account, NO_KEY, 3)
    assert ledger.state.account(ALICE.account).seq == 0


def test_a_thief_cannot_keep_the_owner_out(ledger: Ledger) -> None:
    """The thief empties the account and uses up sequence numbers; the recovery key needs neither credit nor one."""
    ledger = Ledger(genesis(fee_min=3, **GOVERNED))
    ledger.do(ledger.rekey(ALICE, ALICE, RECOVERY.account, fee=3))
    for _ in range(4):
        ledger.do(ledger.sign(ALICE, Transfer(DAVE.account, 10), fee=3))
    ledger.do(ledger.sign(ALICE, Transfer(DAVE.account, LIMIT - 58), fee=3))
    ledger.refused(ledger.sign(ALICE, Transfer(DAVE.account, 1), fee=3), Reason.INSUFFICIENT)
    back = ledger.rekey(ALICE, NEW, RECOVERY.account, seq=2)
    ledger.refused(back, Reason.TOO_SOON, NOW_MS + REKEY_PAUSE_MS - 1)
    ledger.do(back, NOW_MS + REKEY_PAUSE_MS)
    assert ledger.state.key_of(ALICE.account) == NEW.account
    ledger.refused(back, Reason.REPEAT, NOW_MS + REKEY_PAUSE_MS)


def test_rekeys_have_a_sequence_of_their_own(ledger: Ledger) -> None:
    ledger.refused(ledger.rekey(ALICE, NEW, seq=2), Reason.SEQUENCE_GAP)
    first = ledger.rekey(ALICE, NEW)
    ledger.do(first)
    ledger.refused(first, Reason.REPEAT)
    ledger.refused(ledger.rekey(ALICE, OTHER), Reason.CONFLICT)
    ledger.do(ledger.rekey(ALICE, OTHER, seq=2))
    ledger.refused(first, Reason.SEQUENCE_USED)
    ledger.do(ledger.sign(ALICE, Transfer(BOB.account, 1)))


def test_rekey_refusals(ledger: Ledger) -> None:
    ledger.refused(ledger.rekey(DAVE, NEW), Reason.ACCOUNT_UNKNOWN)
    ledger.refused(ledger.rekey(ALICE, NEW, proof=OTHER), Reason.BAD_PROOF)
    stolen = ledger.rekey(ALICE, NEW)
    assert stolen.action.TYPE.name == "REKEY"
    moved = replace(stolen.action, recovery=RECOVERY.account)  # type: ignore[type-var]
    ledger.refused(ledger.sign(ALICE, moved, seq=1), Reason.BAD_PROOF)
    ledger.refused(ledger.sign(BOB, stolen.action, seq=1), Reason.BAD_PROOF)
    poor = Ledger(genesis(fee_min=2))
    poor.refused(poor.rekey(ALICE, NEW, fee=1), Reason.FEE_TOO_LOW)
    poor.refused(poor.rekey(ALICE, NEW, fee=LIMIT + 1), Reason.INSUFFICIENT)


def test_vouchers_of_a_lock_outlive_a_rekey_of_its_payer(ledger: Ledger) -> None:
    old = ledger.open_lock(500)
    ledger.do(ledger.rekey(ALICE, NEW))
    young = ledger.open_lock(500)
    ledger.refused(ledger.sign(CAROL, ledger.claim(NEW, old, 5), seq=1), Reason.BAD_VOUCHER)
    ledger.refused(ledger.sign(CAROL, ledger.claim(ALICE, young, 5), seq=1), Reason.BAD_VOUCHER)
    ledger.do(ledger.sign(CAROL, ledger.claim(ALICE, old, 5)))
    ledger.do(ledger.sign(CAROL, ledger.claim(NEW, young, 6)))
    assert ledger.balance(CAROL) == 11


def test_rotate_ends_the_epoch(ledger: Ledger) -> None:
    ledger.do(ledger.sign(DAVE, ledger.rotate(WITNESSES[2:5])))
    committee = ledger.state.committee
    assert (committee.epoch, committee.witnesses) == (1, tuple(w.account for w in WITNESSES[2:5]))
    pay = ledger.sign(ALICE, Transfer(BOB.account, 1))
    ledger.refused(pay, Reason.EPOCH_OVER)
    ledger.refused(ledger.sign(DAVE, ledger.rotate(WITNESSES[:1])), Reason.EPOCH_OVER)
    ledger.do(pay, at(epoch=1))
    ledger.refused(ledger.sign(ALICE, Transfer(BOB.account, 1)), Reason.EPOCH_OVER, at(epoch=2))


def test_param_waits_for_its_height(ledger: Ledger) -> None:
    ledger.do(ledger.sign(ALICE, ledger.param(8, Params(1, 5, 6, 700))), at(height=5))
    cheap = ledger.sign(ALICE, Transfer(BOB.account, 1))
    ledger.do(cheap, at(height=5))
    for height in (5, 6):
        ledger.state.close_block(at(height=height))
        assert ledger.state.params == ledger.genesis.params
    ledger.state.close_block(at(height=7))
    assert ledger.state.params == Params(1, 5, 6, 700)
    ledger.refused(ledger.sign(ALICE, Transfer(BOB.account, 1), seq=3), Reason.FEE_TOO_LOW, at(height=8))
    ledger.do(ledger.sign(ALICE, Transfer(BOB.account, 1), fee=5), at(height=8))


def test_param_for_the_next_block(ledger: Ledger) -> None:
    ledger.do(ledger.sign(DAVE, ledger.param(2, Params(fee_min=9))), at(height=1))
    ledger.state.close_block(at(height=1))
    assert ledger.state.params.fee_min == 9


def test_a_later_param_takes_the_place_of_one_that_waits(ledger: Ledger) -> None:
    ledger.do(ledger.sign(DAVE, ledger.param(5, Params(version=2))))
    ledger.do(ledger.sign(DAVE, ledger.param(9, Params(fee_min=1))))
    for height in range(1, 9):
        ledger.state.close_block(at(height=height))
    assert ledger.state.params == Params(fee_min=1)


def test_param_refusals(ledger: Ledger) -> None:
    def no(from_height: int, reason: Reason, version: int = 1) -> None:
        entry = ledger.sign(DAVE, ledger.param(from_height, Params(version=version)), seq=1)
        ledger.refused(entry, reason, at(height=7))

    no(7, Reason.HEIGHT_PASSED)
    no(8 + PARAM_HEIGHTS_MAX, Reason.HEIGHT_TOO_FAR)
    ledger.do(ledger.sign(DAVE, ledger.param(7 + PARAM_HEIGHTS_MAX, Params())), at(height=7))
    ledger.do(ledger.sign(DAVE, ledger.param(8, Params(version=3))), at(height=7))
    ledger.state.close_block(at(height=7))
    lower = ledger.sign(DAVE, ledger.param(12, Params(version=2)))
    ledger.refused(lower, Reason.VERSION_LOWER, at(height=8))


def test_rare_changes_live_in_branches_too(ledger: Ledger) -> None:
    lock_id = ledger.open_lock()
    before = ledger.state.snapshot()
    branch = ledger.state.branch()
    twin = Ledger(ledger.genesis)
    twin.state = branch
    twin.do(ledger.sign(ALICE, Limit(CAROL.account, 600)))
    twin.do(ledger.rekey(ALICE, NEW, RECOVERY.account))
    twin.do(ledger.sign(DAVE, twin.decreed_limit(DAVE, 9)))
    twin.do(ledger.sign(CAROL, Claim(lock_id, 0)))
    assert ledger.state.snapshot() == before
    above = branch.branch()
    twin.state = above
    twin.do(ledger.sign(ALICE, Limit(CAROL.account, -600)))
    twin.do(ledger.sign(DAVE, twin.rotate(WITNESSES[:1])))
    after = above.snapshot()
    ledger.state.adopt(branch)
    assert above.snapshot() == after
    ledger.state.adopt(above)
    assert ledger.state.snapshot() == after
    ledger.state.assert_invariants()
    bottom = ledger.state.holdings.layers[0]
    assert (bottom.delegations, bottom.payers) == ({}, {})
    assert ledger.state.key_of(ALICE.account) == NEW.account
    assert ledger.state.committee.epoch == 1
    lock = Lock(CAROL.account, 1, EXPIRY_MS)
    ledger.do(ledger.sign(ALICE, lock), at(epoch=1))
