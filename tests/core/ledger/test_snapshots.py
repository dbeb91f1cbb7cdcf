"""The state as bytes and back, its root, and accounts that are forgotten (SPEC.md §4.3 R4.32, §4.6)."""

import struct

import pytest

from ledger.core.encoding import WireError, digest
from ledger.core.entries import Claim, Dispute, Limit, Lock, Transfer
from ledger.core.holdings import ACTIVE_SPAN_MS
from ledger.core.merkle import leaf_hash
from ledger.core.params import Params
from ledger.core.snapshot import CHUNK_BYTES, snapshot_chunks, state_root
from ledger.core.state import PRUNE_INTERVAL, InvariantError, LedgerState, Reason
from tests.core.ledger.ledger_forge import ALICE, BOB, CAROL, DAVE, WITNESSES, genesis, key
from tests.core.ledger.state_ledger import EXPIRY_MS, GOVERNED, NOW_MS, Ledger, at

NEW, RECOVERY = key(401), key(402)
LATER_MS = NOW_MS + ACTIVE_SPAN_MS


def full_ledger() -> Ledger:
    """Something in every table."""
    ledger = Ledger(genesis(**GOVERNED))
    ledger.do(ledger.sign(ALICE, Transfer(CAROL.account, 50)))
    ledger.do(ledger.rekey(CAROL, NEW, RECOVERY.account))
    ledger.do(ledger.sign(ALICE, Limit(DAVE.account, 60)))
    ledger.do(ledger.sign(BOB, ledger.param(77, Params(1, 2, 3, 4))))
    ledger.open_lock(5)
    ledger.do(ledger.sign(CAROL, Dispute(ledger.open_lock(6, needed=1, bps=7))))
    return ledger


def test_a_snapshot_gives_the_same_state_and_the_same_future() -> None:
    ledger = full_ledger()
    snapshot = ledger.state.snapshot()
    again = LedgerState.from_snapshot(ledger.genesis, snapshot)
    assert again.snapshot() == snapshot
    assert again.root() == ledger.state.root()
    assert again.totals() == ledger.state.totals()
    entries = [
        ledger.sign(ALICE, Limit(DAVE.account, -60)),
        ledger.sign(BOB, ledger.rotate(WITNESSES[:2])),
    ]
    for entry in entries:
        assert again.apply(entry, at()) == ledger.state.apply(entry, at())
    for state in (again, ledger.state):
        state.close_block(at(height=76))
    assert again.params == Params(1, 2, 3, 4)
    assert again.snapshot() == ledger.state.snapshot()


def test_every_cut_is_refused_and_every_flip_is_refused_or_another_root() -> None:
    ledger = full_ledger()
    snapshot, root = ledger.state.snapshot(), ledger.state.root()
    for size in range(0, len(snapshot), 7):
        with pytest.raises(WireError):
            LedgerState.from_snapshot(ledger.genesis, snapshot[:size])
    with pytest.raises(WireError):
        LedgerState.from_snapshot(ledger.genesis, snapshot + b"\0")
    for place in range(0, len(snapshot), 3):
        wrong = bytearray(snapshot)
        wrong[place] ^= 1 << place % 8
        try:
            state = LedgerState.from_snapshot(ledger.genesis, bytes(wrong))
        except (WireError, InvariantError):
            continue
        assert state.snapshot() == wrong
        assert state.root() != root


def test_lies_in_a_snapshot_are_refused() -> None:
    ledger = Ledger()
    snapshot = ledger.state.snapshot()
    head = 1 + 8 + 22 + 1 + 4 + 1
    accounts = head + 4 * 32
    assert snapshot[accounts : accounts + 8] == struct.pack(">Q", 2)
    line = 32 + 8 + 8 + 8 + 32 + 8
    first, second = (snapshot[accounts + 8 + n * line :][:line] for n in range(2))
    rest = struct.pack(">QQQ", 0, 0, 0)

    def refused(error: type[Exception], text: str, *lines: bytes, front: bytes = snapshot[:accounts]) -> None:
        made = b"".join((front, len(lines).to_bytes(8, "big"), *lines, rest))
        with pytest.raises(error, match=text):
            LedgerState.from_snapshot(ledger.genesis, made)

    refused(WireError, "sorted", second, first)
    refused(WireError, "twice", first, first)
    refused(WireError, "nothing is known", first[:32] + bytes(line - 32))
    refused(WireError, "strict", b"\1" + bytes(31) + first[32:], second)
    refused(WireError, "had none", first[:56] + b"x" * 32 + bytes(8), second)
    refused(WireError, "range", first[:40] + b"\xff" * 8 + first[48:])
    refused(InvariantError, "sum", first[:32] + struct.pack(">q", 5) + first[40:], second)
    refused(WireError, "version 3", first, second, front=b"\3" + snapshot[1:accounts])
    refused(WireError, "pending", first, front=snapshot[:31] + b"\2" + snapshot[32:accounts])
    refused(WireError, "epoch", first, front=snapshot[: head - 2] + b"\1" + snapshot[head - 1 : accounts])
    swapped = snapshot[:head] + snapshot[head + 32 : head + 64] + snapshot[head : head + 32]
    refused(WireError, "genesis", first, second, front=swapped + snapshot[head + 64 : accounts])


def test_the_root_is_over_chunks_that_can_be_checked_alone() -> None:
    network_id = genesis().network_id
    snapshot = bytes(range(256)) * 700
    chunks = snapshot_chunks(snapshot)
    assert [len(chunk) for chunk in chunks] == [CHUNK_BYTES, CHUNK_BYTES, 256 * 700 - 2 * CHUNK_BYTES]
    leaves = [leaf_hash(chunk) for chunk in chunks]
    top = digest(b"\1", digest(b"\1", *leaves[:2]), leaves[2])
    size = len(snapshot).to_bytes(8, "big")
    assert state_root(network_id, snapshot) == digest(b"millrace/1 state\0", network_id, size, top)


def test_idle_accounts_are_forgotten_and_their_old_entries_stay_dead() -> None:
    ledger = Ledger(genesis(**GOVERNED))
    ledger.do(ledger.sign(ALICE, Transfer(DAVE.account, 5)))
    spend = ledger.sign(DAVE, Transfer(BOB.account, 5))
    ledger.do(spend)
    ledger.state.close_block(at(LATER_MS + 1, height=PRUNE_INTERVAL - 1))
    ledger.state.close_block(at(LATER_MS, height=PRUNE_INTERVAL))
    assert ledger.state.account(DAVE.account).seq == 1
    branch = ledger.state.branch()
    branch.close_block(at(LATER_MS + 1, height=PRUNE_INTERVAL))
    assert branch.account(DAVE.account).seq == 0
    assert ledger.state.account(DAVE.account).seq == 1
    ledger.state.adopt(branch)
    assert DAVE.account not in ledger.state.holdings.layers[0].accounts
    ledger.refused(spend, Reason.TOO_LATE, LATER_MS + 1)
    pay = ledger.sign(ALICE, Transfer(DAVE.account, 5), not_after_ms=LATER_MS + 1)
    ledger.do(pay, LATER_MS + 1)
    ledger.refused(spend, Reason.TOO_LATE, LATER_MS + 1)
    ledger.do(ledger.sign(DAVE, Transfer(BOB.account, 5), seq=1, not_after_ms=LATER_MS + 1), LATER_MS + 1)


def test_whoever_holds_owes_or_is_bound_is_not_forgotten() -> None:
    ledger = full_ledger()
    ledger.do(ledger.sign(ALICE, Transfer(WITNESSES[0].account, 5)))
    ledger.do(ledger.sign(WITNESSES[0], Lock(BOB.account, 5, EXPIRY_MS)))
    ledger.do(ledger.sign(WITNESSES[1], ledger.decreed_limit(WITNESSES[2], 5)))
    pruned = {account for account, _ in ledger.state.accounts()}
    ledger.state.close_block(at(LATER_MS + 1, height=PRUNE_INTERVAL))
    left = {account for account, _ in ledger.state.accounts()}
    # Only the carrier of the decree has nothing, owes nothing and is bound by nothing.
    assert pruned - left == {WITNESSES[1].account}


def test_an_account_paid_above_the_block_that_forgot_it_keeps_its_credit() -> None:
    ledger = Ledger()
    ledger.do(ledger.sign(ALICE, Transfer(DAVE.account, 5)))
    ledger.do(ledger.sign(DAVE, Transfer(BOB.account, 5)))
    forgetting = ledger.state.branch()
    forgetting.close_block(at(LATER_MS + 1, height=PRUNE_INTERVAL))
    paying = forgetting.branch()
    pay = ledger.sign(ALICE, Transfer(DAVE.account, 7), not_after_ms=LATER_MS + 1)
    paying.apply(pay, at(LATER_MS + 1))
    ledger.state.adopt(forgetting)
    ledger.state.adopt(paying)
    assert ledger.state.account(DAVE.account).balance == 7
    ledger.state.assert_invariants()


def test_a_sponsor_of_nobody_can_be_forgotten_later() -> None:
    ledger = Ledger()
    ledger.do(ledger.sign(ALICE, Limit(DAVE.account, 5)))
    ledger.do(ledger.sign(DAVE, Limit(CAROL.account, 5)))
    ledger.do(ledger.sign(DAVE, Limit(CAROL.account, -5)))
    ledger.do(ledger.sign(ALICE, Limit(DAVE.account, -5)))
    ledger.state.close_block(at(LATER_MS + 1, height=PRUNE_INTERVAL))
    assert ledger.state.account(DAVE.account).seq == 0


def test_a_payee_may_be_forgotten_and_still_claim() -> None:
    ledger = Ledger()
    ledger.do(ledger.sign(ALICE, Transfer(CAROL.account, 5)))
    ledger.do(ledger.sign(CAROL, Transfer(BOB.account, 5)))
    lock_id = ledger.open_lock(9, LATER_MS + 50)
    ledger.state.close_block(at(LATER_MS + 1, height=PRUNE_INTERVAL))
    assert ledger.state.account(CAROL.account).seq == 0
    voucher = ledger.claim(ALICE, lock_id, 4)
    claim = ledger.sign(CAROL, Claim(lock_id, 4, voucher.voucher_signature), seq=1, not_after_ms=LATER_MS + 9)
    ledger.do(claim, LATER_MS + 2)
    assert ledger.balance(CAROL) == 4
