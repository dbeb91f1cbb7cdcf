"""The audit (SPEC.md §7): a clean ledger passes, and each broken rule is found, named and placed.

Every broken ledger here has certificates by a real quorum, unless the certificate is what is broken: this
is what more than f lying witnesses could produce, and what any member must still notice.
"""

import ast
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import ledger.core
from ledger.core import state
from ledger.core.audit import AuditReport, Violation, audit
from ledger.core.block import STATE_ROOT_INTERVAL, FinalBlock
from ledger.core.books import Books
from ledger.core.encoding import Kind, WireError
from ledger.core.entries import Claim, Entry, Expire, Lock, Transfer
from ledger.core.violations import AuditRule, BrokenRuleError
from tests.core.ledger.ledger_forge import (
    ALICE,
    BOB,
    CAROL,
    CREATED_MS,
    DAVE,
    LIMIT,
    WITNESSES,
    Forge,
    genesis,
)


def honest(n: int = 4) -> Forge:
    """Six entries in four blocks: payments, a lock claimed in part, a lock that ran out; slot 3 was skipped."""
    forge = Forge(genesis(n, fee_min=1))
    claimed = forge.sign(ALICE, forge.lock(CAROL, 500), fee=2)
    expired = forge.sign(BOB, forge.lock(CAROL, 900, forge.time_ms + 2500), fee=1)
    forge.block([claimed, expired])
    forge.block([forge.sign(ALICE, Transfer(DAVE.account, 40), fee=3)])
    forge.block(
        [
            forge.sign(CAROL, forge.claim(ALICE, forge.entry_id(claimed), 300), fee=5),
            forge.sign(DAVE, Expire(forge.entry_id(expired)), fee=1),
        ],
        slot=4,
    )
    forge.block([forge.sign(DAVE, Transfer(BOB.account, 10), fee=1)])
    return forge


def broken(forge: Forge) -> Violation:
    violation = audit(forge.genesis, forge.blocks).violation
    assert violation is not None
    return violation


@pytest.mark.parametrize("n", [1, 4, 7])
def test_an_honest_ledger_passes(n: int) -> None:
    forge = honest(n)
    seen: list[tuple[int, int]] = []
    report = audit(forge.genesis, iter(forge.blocks), lambda *at: seen.append(at))
    assert report.ok
    assert report.violation is None
    assert seen == [(1, 2), (2, 3), (3, 5), (4, 6)]
    assert (report.blocks, report.entries, report.tree_size) == (4, 6, 6)
    assert report.kinds == {"LOCK": 2, "TRANSFER": 2, "CLAIM": 1, "EXPIRE": 1}
    assert (report.paid, report.refunded, report.fees) == (300, 200 + 900, 13)
    assert (report.locks_open, report.locked) == (0, 0)
    assert sum(report.balances.values()) == 0
    assert report.balances[CAROL.account] == 300 - 5
    assert report.balances[DAVE.account] == 40 - 1 - 10 - 1
    assert report.log_root == forge.log.root()
    assert report.head_hash == forge.blocks[-1].header.hash(forge.genesis.network_id)
    agrees_with_the_state(forge, report)


def agrees_with_the_state(forge: Forge, report: AuditReport) -> None:
    balances = {who: account.balance for who, account in forge.state.accounts()}
    assert {who: balance for who, balance in report.balances.items() if balance} == {
        who: balance for who, balance in balances.items() if balance
    }
    totals = forge.state.totals()
    assert (report.locks_open, report.locked) == (totals.locks_open, totals.locked)


def test_the_fee_goes_to_the_leader_of_the_slot() -> None:
    forge = honest()
    report = audit(forge.genesis, forge.blocks)
    # Slots 1, 2, 4 and 5 earned 3, 3, 6 and 1, for witness slot mod 4; nobody led a block in slot 3.
    earned = [report.balances.get(witness, 0) for witness in forge.genesis.witnesses]
    assert earned == [6, 3 + 1, 3, 0]


def test_an_empty_ledger_passes() -> None:
    report = audit(genesis(), [])
    assert report.ok
    assert report.balances == {ALICE.account: 0, BOB.account: 0}


def test_open_locks_count_as_held() -> None:
    forge = Forge()
    forge.block([forge.sign(ALICE, forge.lock(CAROL, 500))])
    report = audit(forge.genesis, forge.blocks)
    assert (report.ok, report.locks_open, report.locked) == (True, 1, 500)
    assert sum(report.balances.values()) + report.locked == 0


# --- a changed copy of an honest ledger: what a liar without a quorum can hand out ---


def alter_amount(blocks: list[FinalBlock]) -> None:
    entry = blocks[1].entries[0]
    assert isinstance(entry.action, Transfer)
    blocks[1] = replace(blocks[1], entries=(replace(entry, action=replace(entry.action, amount=41)),))


def alter_signature(blocks: list[FinalBlock]) -> None:
    blocks[1] = replace(blocks[1], entries=(replace(blocks[1].entries[0], signature=bytes(64)),))


def reorder_entries(blocks: list[FinalBlock]) -> None:
    blocks[2] = replace(blocks[2], entries=blocks[2].entries[::-1])


def drop_entry(blocks: list[FinalBlock]) -> None:
    header = replace(blocks[2].header, count=1, tree_size=4)
    blocks[2] = replace(blocks[2], header=header, entries=blocks[2].entries[:1])


def drop_block(blocks: list[FinalBlock]) -> None:
    del blocks[1]


def drop_first_block(blocks: list[FinalBlock]) -> None:
    del blocks[0]


def swap_blocks(blocks: list[FinalBlock]) -> None:
    blocks[1], blocks[2] = blocks[2], blocks[1]


def repeat_block(blocks: list[FinalBlock]) -> None:
    blocks.insert(1, blocks[0])


def alter_header(blocks: list[FinalBlock]) -> None:
    blocks[1] = replace(blocks[1], header=replace(blocks[1].header, time_ms=CREATED_MS + 2001))


def forge_signature(blocks: list[FinalBlock]) -> None:
    good = blocks[1].certificate
    signatures = (good.signatures[0], good.signatures[0], *good.signatures[2:])
    blocks[1] = replace(blocks[1], certificate=replace(good, signatures=signatures))


def too_few_signers(blocks: list[FinalBlock]) -> None:
    good = blocks[1].certificate
    few = replace(good, signers=0b11, signatures=good.signatures[:2])
    blocks[1] = replace(blocks[1], certificate=few)


def unknown_signer(blocks: list[FinalBlock]) -> None:
    good = blocks[1].certificate
    blocks[1] = replace(blocks[1], certificate=replace(good, signers=0b10000011))


def other_certificate(blocks: list[FinalBlock]) -> None:
    moved = replace(blocks[0].certificate, slot=blocks[1].header.slot)
    blocks[1] = replace(blocks[1], certificate=moved)


def only_notarised_at_the_end(blocks: list[FinalBlock]) -> None:
    forge = honest()
    blocks[3] = replace(blocks[3], certificate=forge.certify(blocks[3].header, Kind.NOTAR))


@pytest.mark.parametrize(
    ("change", "rule", "height", "entry"),
    [
        (alter_amount, AuditRule.LOG, 2, None),
        (alter_signature, AuditRule.LOG, 2, None),
        (reorder_entries, AuditRule.LOG, 3, None),
        (drop_entry, AuditRule.CERTIFICATE, 3, None),
        (drop_block, AuditRule.CHAIN, 3, None),
        (drop_first_block, AuditRule.CHAIN, 2, None),
        (swap_blocks, AuditRule.CHAIN, 3, None),
        (repeat_block, AuditRule.CHAIN, 1, None),
        (alter_header, AuditRule.CERTIFICATE, 2, None),
        (forge_signature, AuditRule.CERTIFICATE, 2, None),
        (too_few_signers, AuditRule.QUORUM, 2, None),
        (unknown_signer, AuditRule.CERTIFICATE, 2, None),
        (other_certificate, AuditRule.CERTIFICATE, 2, None),
        (only_notarised_at_the_end, AuditRule.FINALITY, 4, None),
    ],
    ids=lambda value: value.__name__ if callable(value) else None,
)
def test_a_changed_copy_is_found(
    change: Callable[[list[FinalBlock]], None], rule: AuditRule, height: int, entry: int | None
) -> None:
    forge = honest()
    change(forge.blocks)
    violation = broken(forge)
    assert (violation.rule, violation.height, violation.entry) == (rule, height, entry)
    assert violation.detail


def test_bytes_that_do_not_decode_are_a_violation() -> None:
    forge = honest()

    def stored() -> Iterator[FinalBlock]:
        yield from forge.blocks[:2]
        yield FinalBlock.decode(forge.blocks[2].encode()[:-1])

    violation = audit(forge.genesis, stored()).violation
    assert violation is not None
    assert violation.rule is AuditRule.ENCODING


def test_the_ledger_of_another_network_is_refused() -> None:
    forge = honest()
    violation = audit(genesis(4, name="another", fee_min=1), forge.blocks).violation
    assert violation is not None
    assert violation.rule is AuditRule.CERTIFICATE


# --- a real quorum that certifies what the rules forbid: what f+1 liars could order ---


def first_lock(forge: Forge) -> bytes:
    return forge.entry_id(forge.blocks[0].entries[0])


def unsigned(forge: Forge) -> Entry:
    return replace(forge.sign(ALICE, Transfer(BOB.account, 1), fee=1), signature=b"s" * 64)


def signed_by_another(forge: Forge) -> Entry:
    mine = forge.sign(BOB, Transfer(CAROL.account, 1), fee=1)
    return replace(mine, account=ALICE.account, seq=3)


def of_another_network(forge: Forge) -> Entry:
    other = Forge(genesis(name="another"))
    return other.sign(ALICE, Transfer(BOB.account, 1), seq=3, fee=1)


INVALID: dict[str, tuple[AuditRule, Callable[[Forge], Entry]]] = {
    "unsigned": (AuditRule.SIGNATURE, unsigned),
    "signed by another": (AuditRule.SIGNATURE, signed_by_another),
    "of another network": (AuditRule.SIGNATURE, of_another_network),
    "repeated": (AuditRule.SEQUENCE, lambda f: f.blocks[1].entries[0]),
    "used sequence": (AuditRule.SEQUENCE, lambda f: f.sign(ALICE, Transfer(BOB.account, 2), seq=2, fee=1)),
    "sequence gap": (AuditRule.SEQUENCE, lambda f: f.sign(ALICE, Transfer(BOB.account, 2), seq=4, fee=1)),
    "too late": (
        AuditRule.NOT_AFTER,
        lambda f: f.sign(ALICE, Transfer(BOB.account, 2), fee=1, not_after_ms=f.time_ms),
    ),
    "no fee": (AuditRule.FEE, lambda f: f.sign(ALICE, Transfer(BOB.account, 2))),
    "overdraft": (AuditRule.BALANCE, lambda f: f.sign(ALICE, Transfer(BOB.account, LIMIT), fee=1)),
    "overdraft by the fee": (
        AuditRule.BALANCE,
        lambda f: f.sign(ALICE, Transfer(BOB.account, LIMIT - 345), fee=1),
    ),
    "no credit at all": (AuditRule.BALANCE, lambda f: f.sign(WITNESSES[3], Transfer(BOB.account, 1), fee=1)),
    "fee from its own income": (
        AuditRule.BALANCE,
        lambda f: f.sign(WITNESSES[2], Transfer(BOB.account, 3), fee=1),
    ),
    "pays itself": (AuditRule.PAYMENT, lambda f: f.sign(ALICE, Transfer(ALICE.account, 1), fee=1)),
    "locks for itself": (AuditRule.PAYMENT, lambda f: f.sign(ALICE, f.lock(ALICE, 1), fee=1)),
    "lock over the limit": (AuditRule.BALANCE, lambda f: f.sign(ALICE, f.lock(BOB, LIMIT), fee=1)),
    "lock in the past": (
        AuditRule.LOCK,
        lambda f: f.sign(ALICE, Lock(BOB.account, 1, f.time_ms + 1000), fee=1),
    ),
    "lock for ever": (AuditRule.LOCK, lambda f: f.sign(ALICE, Lock(BOB.account, 1, 1 << 60), fee=1)),
    "closed lock claimed": (
        AuditRule.LOCK,
        lambda f: f.sign(CAROL, f.claim(ALICE, first_lock(f), 300), fee=1),
    ),
    "closed lock expired": (AuditRule.LOCK, lambda f: f.sign(BOB, Expire(first_lock(f)), fee=1)),
    "unknown lock": (AuditRule.LOCK, lambda f: f.sign(CAROL, Claim(b"x" * 32, 0), fee=1)),
}


@pytest.mark.parametrize("name", INVALID)
def test_a_certified_invalid_entry_is_found_where_it_stands(name: str) -> None:
    rule, entry = INVALID[name]
    forge = honest()
    forge.block([entry(forge)], slot=6)
    violation = broken(forge)
    assert (violation.rule, violation.height, violation.slot) == (rule, 5, 6)
    assert (violation.entry, violation.log_index) == (0, 6)


def test_the_place_is_that_of_the_entry_and_what_stood_before_is_reported() -> None:
    forge = honest()
    good, bad = (forge.sign(ALICE, Transfer(BOB.account, amount), fee=1) for amount in (1, LIMIT))
    forge.block([good, bad])
    report = audit(forge.genesis, forge.blocks)
    assert report.violation is not None
    assert (report.violation.entry, report.violation.log_index) == (1, 7)
    assert (report.blocks, report.entries, report.tree_size) == (4, 7, 6)


OPEN_LOCK: dict[str, tuple[AuditRule, Callable[[Forge, bytes], Entry], int]] = {
    "claim at the expiry": (AuditRule.LOCK, lambda f, at: f.sign(CAROL, f.claim(ALICE, at, 9)), 5000),
    "expire before it": (AuditRule.LOCK, lambda f, at: f.sign(BOB, Expire(at)), 4999),
    "claim by another": (AuditRule.LOCK, lambda f, at: f.sign(BOB, f.claim(ALICE, at, 9)), 10),
    "claim of more": (AuditRule.LOCK, lambda f, at: f.sign(CAROL, f.claim(ALICE, at, 501)), 10),
    "voucher by another": (AuditRule.VOUCHER, lambda f, at: f.sign(CAROL, f.claim(BOB, at, 9)), 10),
    "voucher for less": (
        AuditRule.VOUCHER,
        lambda f, at: f.sign(CAROL, replace(f.claim(ALICE, at, 9), cumulative=10)),
        10,
    ),
    "fee above the proceeds": (
        AuditRule.BALANCE,
        lambda f, at: f.sign(CAROL, f.claim(ALICE, at, 9), fee=10),
        10,
    ),
}


@pytest.mark.parametrize("name", OPEN_LOCK)
def test_a_certified_misuse_of_a_lock_is_found(name: str) -> None:
    rule, build, at_ms = OPEN_LOCK[name]
    forge = Forge()
    lock = forge.sign(ALICE, Lock(CAROL.account, 500, CREATED_MS + 5000))
    forge.block([lock], time_ms=CREATED_MS)
    forge.block([build(forge, forge.entry_id(lock))], time_ms=CREATED_MS + at_ms)
    violation = broken(forge)
    assert (violation.rule, violation.height, violation.entry) == (rule, 2, 0)
    # The state refuses the same entry: two readings of one rule.
    assert forge.state.lock(forge.entry_id(lock)) in forge.state.open_locks()


def test_what_is_just_allowed_passes() -> None:
    """The last valid value on each side of a bound: an audit that is too strict would be no use either."""
    forge = Forge(genesis(fee_min=1))
    at = CREATED_MS + 1000
    longest = forge.sign(ALICE, Lock(CAROL.account, 500, at + state.LOCK_SPAN_MS_MAX), fee=1)
    shortest = forge.sign(ALICE, Lock(CAROL.account, 400, at + 1), fee=1)
    everything = forge.sign(BOB, Transfer(CAROL.account, LIMIT - 1), fee=1, not_after_ms=at)
    forge.block([longest, shortest, everything], time_ms=at)
    whole = forge.claim(ALICE, forge.entry_id(longest), 500)
    forge.block([forge.sign(CAROL, whole, fee=1)], time_ms=at)
    forge.block([forge.sign(CAROL, Expire(forge.entry_id(shortest)), fee=1)], time_ms=at + 1)
    report = audit(forge.genesis, forge.blocks)
    assert report.ok, report.violation
    assert report.balances[BOB.account] == -LIMIT
    agrees_with_the_state(forge, report)


@pytest.mark.parametrize(
    ("header", "rule"),
    [
        ({"epoch": 1}, AuditRule.CHAIN),
        ({"height": 6, "slot": 6}, AuditRule.CHAIN),
        ({"parent_slot": 4, "slot": 6}, AuditRule.CHAIN),
        ({"parent_hash": b"p" * 32}, AuditRule.CHAIN),
        ({"time_ms": CREATED_MS + 3999}, AuditRule.TIME),
        ({"tree_size": 8}, AuditRule.LOG),
        ({"log_root": b"r" * 32}, AuditRule.LOG),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else None,
)
def test_a_certified_wrong_header_is_found(header: dict[str, Any], rule: AuditRule) -> None:
    forge = honest()
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 1), fee=1)], **header)
    assert broken(forge).rule is rule


def test_a_first_block_before_genesis_is_found() -> None:
    forge = Forge()
    forge.block([], time_ms=CREATED_MS - 1)
    assert broken(forge).rule is AuditRule.TIME


def test_too_few_signers_are_no_quorum_even_if_each_is_right() -> None:
    forge = honest()
    forge.block([], signers=WITNESSES[:2])
    assert broken(forge).rule is AuditRule.QUORUM


def test_a_notarised_block_below_a_final_one_is_final() -> None:
    forge = honest()
    forge.block([], kind=Kind.NOTAR)
    assert broken(forge).rule is AuditRule.FINALITY
    forge.block([])
    assert audit(forge.genesis, forge.blocks).ok


def long_chain(root: Callable[[Forge], bytes]) -> Forge:
    forge = Forge(genesis(1))
    forge.block(
        [forge.sign(ALICE, Transfer(BOB.account, 7), fee=5), forge.sign(BOB, forge.lock(CAROL, 9, 10**7))]
    )
    while len(forge.blocks) < STATE_ROOT_INTERVAL - 1:
        forge.block([])
    forge.block([], state_root=root(forge))
    return forge


def fee_to_the_wrong_account(forge: Forge) -> bytes:
    wrong = state.LedgerState(forge.genesis)
    for entry in forge.blocks[0].entries:
        wrong.apply(entry, state.Moment(1, forge.blocks[0].header.time_ms, CAROL.account))
    return wrong.root()


def test_state_roots_are_recomputed() -> None:
    right = long_chain(lambda forge: forge.state.root())
    report = audit(right.genesis, right.blocks)
    assert report.ok
    assert report.blocks == STATE_ROOT_INTERVAL
    wrong = right.blocks[-1].header
    for root in (fee_to_the_wrong_account(right), bytes(32)):
        header = replace(wrong, state_root=root)
        right.blocks[-1] = FinalBlock(header, (), right.certify(header))
        violation = broken(right)
        assert (violation.rule, violation.height) == (AuditRule.STATE_ROOT, STATE_ROOT_INTERVAL)


def test_without_signatures_everything_else_is_still_checked() -> None:
    forge = honest()
    forge.block([unsigned(forge)])
    assert audit(forge.genesis, forge.blocks, signatures=False).ok
    forge.block([forge.sign(ALICE, Transfer(BOB.account, LIMIT), fee=1)])
    violation = audit(forge.genesis, forge.blocks, signatures=False).violation
    assert violation is not None
    assert violation.rule is AuditRule.BALANCE


def test_money_out_of_nowhere_in_the_books_is_found() -> None:
    forge = Forge()
    own = Books(forge.genesis)
    own.open_page(1, CREATED_MS, 0, 1)
    lock = forge.sign(ALICE, Lock(BOB.account, 5, CREATED_MS + 9))
    own.entry(lock)
    own.check_conservation()
    purse, at = b"L" + forge.entry_id(lock), forge.entry_id(lock)
    spoils: list[tuple[str, Callable[[], object]]] = [
        ("purses sum to 1", lambda: own.purses.update({BOB.account: 1})),
        ("does not hold", lambda: own.purses.update({BOB.account: 1, purse: 4})),
        ("of what was locked", lambda: setattr(own, "paid", 1)),
        ("lines sum to", lambda: setattr(own.lines[BOB.account], "limit", LIMIT + 1)),
        ("overdrawn", lambda: own.purses.update({BOB.account: -LIMIT - 1, ALICE.account: LIMIT - 4})),
        ("miscounted", lambda: setattr(own.lines[ALICE.account], "open_locks", 2)),
        ("rest", lambda: own.locks[at].__setattr__("amount", 4)),
    ]
    for text, spoil in spoils[:-1]:
        kept = dict(own.purses), own.paid, own.lines[BOB.account].limit, own.lines[ALICE.account].open_locks
        spoil()
        with pytest.raises(BrokenRuleError, match=text) as broken_rule:
            own.check_conservation()
        assert broken_rule.value.rule is AuditRule.CONSERVATION
        own.purses, own.paid = kept[0], kept[1]
        own.lines[BOB.account].limit, own.lines[ALICE.account].open_locks = kept[2:]
        own.check_conservation()
    spoils[-1][1]()
    own.open_page(2, CREATED_MS + 9, 0, 2)
    with pytest.raises(BrokenRuleError, match="rest"):
        own.entry(forge.sign(BOB, Expire(at)))


SHARED = "actions approvals block encoding entries genesis keys merkle violations votes"
BOOKS = "books book_charter book_locks book_pages book_snapshot"


def test_audit_and_books_share_no_code_with_the_state() -> None:
    """Decoders, keys and the tree may be shared; what reads SPEC.md §4 may not."""
    folder = Path(ledger.core.__path__[0])
    for name in ("audit", "violations", *BOOKS.split()):
        tree = ast.parse((folder / f"{name}.py").read_text())
        imported = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        own = {module for module in imported if module and module.startswith("ledger")}
        assert own <= {f"ledger.core.{module}" for module in f"{SHARED} {BOOKS}".split()}, own


def test_wire_errors_of_a_block_do_not_escape() -> None:
    with pytest.raises(WireError):
        FinalBlock.decode(b"")
