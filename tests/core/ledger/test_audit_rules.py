"""Every rule of SPEC.md §4 broken once, in a ledger that a lying quorum certified: found, named and placed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from ledger.core.actions import Claim, Dispute, Expire, Limit, Release, Transfer
from ledger.core.approvals import NO_APPROVALS, Approvals
from ledger.core.audit import AuditReport, Base, Violation, audit
from ledger.core.block import STATE_ROOT_INTERVAL
from ledger.core.book_charter import _FROM_HEIGHT_SPAN, _LIMITS_SUM_MAX, BENEFICIARIES_MAX
from ledger.core.book_locks import _LOCK_SPAN_MS, LOCKS_PER_PAYER_MAX
from ledger.core.book_snapshot import snapshot, state_root
from ledger.core.books import Books
from ledger.core.encoding import Kind
from ledger.core.entries import Entry
from ledger.core.keys import SigningKey
from ledger.core.merkle import Peaks
from ledger.core.params import Params
from ledger.core.violations import AuditRule, BrokenRuleError
from ledger.core.vouchers import sign_voucher
from tests.core.ledger.audit_forge import (
    ALICE,
    ARBITERS,
    BOB,
    CAROL,
    DAVE,
    EVE,
    GOVERNORS,
    HOUR_MS,
    LIMIT,
    NEW,
    OTHER,
    RECOVERY,
    SECOND,
    WITNESSES,
    AuditForge,
    genesis,
)

DAY_MS = 24 * HOUR_MS


class Scene(AuditForge):
    """Three blocks: locks plain, disputable and disputed; a delegation; an account with a recovery key; decree 1."""

    def __init__(self) -> None:
        super().__init__()
        entries = [
            self.sign(ALICE, self.lock(BOB, 500), seq=1),
            self.sign(ALICE, self.lock(BOB, 601, disputes=True), seq=2),
            self.sign(ALICE, self.lock(BOB, 701, disputes=True), seq=3),
            self.sign(ALICE, Limit(CAROL.account, 1_000), seq=4),
            self.sign(DAVE, self.rekey(DAVE, NEW, RECOVERY.account)),
        ]
        self.block(entries)
        self.plain, self.open, self.disputed = (self.entry_id(entry) for entry in entries[:3])
        self.block(
            [
                self.sign(BOB, Dispute(self.disputed), fee=5),
                self.sign(CAROL, Transfer(EVE.account, 300)),
                self.sign(EVE, self.limit(EVE, 50), fee=1),
            ]
        )
        self.block([self.sign(DAVE, Transfer(EVE.account, 10), signer=NEW)])

    def claim(self, lock_id: bytes, amount: int, payer: SigningKey = ALICE) -> Claim:
        voucher = sign_voucher(payer, self.genesis.network_id, lock_id, amount)
        return Claim(lock_id, amount, voucher.signature)


def report(forge: AuditForge) -> AuditReport:
    return audit(forge.genesis, (block.encode() for block in forge.blocks))


def broken(forge: AuditForge) -> Violation:
    violation = report(forge).violation
    assert violation is not None
    return violation


def test_the_scene_is_good() -> None:
    scene = Scene()
    found = report(scene)
    assert found.ok, found.violation
    assert (found.locks_open, found.locked, found.decrees) == (3, 1_802, 1)
    assert found.limits == 3 * LIMIT + 50
    assert sum(found.balances.values()) + found.locked == 0


Case = tuple[AuditRule, Callable[[Scene], Entry]]

CASES: dict[str, Case] = {
    # Header of an entry.
    "not signed": (
        AuditRule.SIGNATURE,
        lambda s: replace(s.sign(ALICE, Transfer(BOB.account, 1)), signature=bytes(64)),
    ),
    "signed by the key that was replaced": (
        AuditRule.SIGNATURE,
        lambda s: s.sign(DAVE, Transfer(BOB.account, 1)),
    ),
    "signed by the recovery key": (
        AuditRule.SIGNATURE,
        lambda s: s.sign(DAVE, Transfer(BOB.account, 1), signer=RECOVERY),
    ),
    "sequence gap": (AuditRule.SEQUENCE, lambda s: s.sign(ALICE, Transfer(BOB.account, 1), seq=6)),
    "sequence used": (AuditRule.SEQUENCE, lambda s: s.sign(ALICE, Transfer(BOB.account, 1), seq=4)),
    "too late": (
        AuditRule.NOT_AFTER,
        lambda s: s.sign(ALICE, Transfer(BOB.account, 1), not_after_ms=s.time_ms + 999),
    ),
    "valid too long": (
        AuditRule.NOT_AFTER,
        lambda s: s.sign(ALICE, Transfer(BOB.account, 1), not_after_ms=s.time_ms + 1001 + 30 * DAY_MS),
    ),
    "fee too low": (AuditRule.FEE, lambda s: s.sign(ALICE, Transfer(BOB.account, 1), fee=0)),
    "overdraft": (AuditRule.BALANCE, lambda s: s.sign(BOB, Transfer(ALICE.account, LIMIT - 4))),
    # Locks.
    "pays itself": (AuditRule.PAYMENT, lambda s: s.sign(ALICE, Transfer(ALICE.account, 1))),
    "locks for itself": (AuditRule.PAYMENT, lambda s: s.sign(ALICE, s.lock(ALICE, 1))),
    "expiry passed": (AuditRule.LOCK, lambda s: s.sign(ALICE, s.lock(BOB, 1, span_ms=1000))),
    "expiry too far": (AuditRule.LOCK, lambda s: s.sign(ALICE, s.lock(BOB, 1, span_ms=1001 + _LOCK_SPAN_MS))),
    "unknown lock": (AuditRule.LOCK, lambda s: s.sign(ALICE, Release(b"x" * 32))),
    "claimed by the payer": (AuditRule.LOCK, lambda s: s.sign(ALICE, s.claim(s.plain, 5))),
    "claimed over the amount": (AuditRule.LOCK, lambda s: s.sign(BOB, s.claim(s.plain, 501))),
    "a voucher of another": (AuditRule.VOUCHER, lambda s: s.sign(BOB, s.claim(s.plain, 5, BOB))),
    "released by the payee": (AuditRule.LOCK, lambda s: s.sign(BOB, Release(s.plain))),
    "released by a stranger": (AuditRule.LOCK, lambda s: s.sign(EVE, Release(s.plain))),
    "expired too early": (AuditRule.LOCK, lambda s: s.sign(ALICE, Expire(s.plain))),
    "a disputed lock expired too early": (AuditRule.LOCK, lambda s: s.sign(ALICE, Expire(s.disputed))),
    # Disputes.
    "disputed by the payer": (AuditRule.DISPUTE, lambda s: s.sign(ALICE, Dispute(s.open), fee=5)),
    "disputed without a clause": (AuditRule.DISPUTE, lambda s: s.sign(BOB, Dispute(s.plain), fee=5)),
    "disputed twice": (AuditRule.DISPUTE, lambda s: s.sign(BOB, Dispute(s.disputed), fee=5)),
    "disputed too cheaply": (AuditRule.FEE, lambda s: s.sign(BOB, Dispute(s.open), fee=4)),
    "disputed too cheaply, and by the payer": (
        AuditRule.FEE,
        lambda s: s.sign(ALICE, Dispute(s.open), fee=4),
    ),
    "judged undisputed": (AuditRule.VERDICT, lambda s: s.sign(EVE, s.verdict(s.open, 1))),
    "judged by other arbiters": (
        AuditRule.VERDICT,
        lambda s: s.sign(EVE, s.verdict(s.disputed, 1, (0, 1), listed=ARBITERS[:2])),
    ),
    "judged over the amount": (AuditRule.VERDICT, lambda s: s.sign(EVE, s.verdict(s.disputed, 702))),
    "judged by too few": (AuditRule.APPROVAL, lambda s: s.sign(EVE, s.verdict(s.disputed, 1, (1,)))),
    "judged otherwise": (
        AuditRule.APPROVAL,
        lambda s: s.sign(EVE, s.verdict(s.disputed, 700, (0, 1, 2), signed_amount=1)),
    ),
    # Credit lines.
    "delegated to itself": (AuditRule.LIMIT, lambda s: s.sign(ALICE, Limit(ALICE.account, 1))),
    "delegated what is in use": (
        AuditRule.BALANCE,
        lambda s: s.sign(ALICE, Limit(BOB.account, LIMIT - 1_000 - 1_802 - 4)),
    ),
    "delegated over the line": (AuditRule.BALANCE, lambda s: s.sign(EVE, Limit(BOB.account, 51))),
    "taken back what another delegated": (
        AuditRule.DELEGATION,
        lambda s: s.sign(BOB, Limit(CAROL.account, -1)),
    ),
    "taken back more than delegated": (
        AuditRule.DELEGATION,
        lambda s: s.sign(ALICE, Limit(CAROL.account, -1_001)),
    ),
    "taken back what is in use": (AuditRule.LIMIT, lambda s: s.sign(ALICE, Limit(CAROL.account, -700))),
    "a line below zero": (AuditRule.LIMIT, lambda s: s.sign(EVE, s.limit(EVE, -51))),
    "a line below its use": (AuditRule.LIMIT, lambda s: s.sign(EVE, s.limit(CAROL, -700))),
    "more lines than there may be": (
        AuditRule.LIMIT,
        lambda s: s.sign(EVE, s.limit(EVE, _LIMITS_SUM_MAX - 3 * LIMIT - 49)),
    ),
    # Decrees.
    "a decree repeated": (AuditRule.DECREE, lambda s: s.sign(EVE, s.limit(EVE, 1, decree=1))),
    "a decree left out": (AuditRule.DECREE, lambda s: s.sign(EVE, s.limit(EVE, 1, decree=3))),
    "a decree of one": (AuditRule.APPROVAL, lambda s: s.sign(EVE, s.limit(EVE, 1, by=(1,)))),
    "a decree of nobody": (
        AuditRule.APPROVAL,
        lambda s: s.sign(EVE, Limit(EVE.account, 1, 2, NO_APPROVALS)),
    ),
    "a decree for another": (
        AuditRule.APPROVAL,
        lambda s: s.sign(EVE, replace(s.limit(EVE, 1), beneficiary=BOB.account)),
    ),
    "a rotation that nobody decreed": (AuditRule.APPROVAL, lambda s: s.sign(EVE, s.rotate(SECOND, by=(2,)))),
    "a rotation to others than decreed": (
        AuditRule.APPROVAL,
        lambda s: s.sign(EVE, replace(s.rotate(SECOND), witnesses=(EVE.account,))),
    ),
    "parameters for this very block": (AuditRule.PARAM, lambda s: s.sign(EVE, s.param(4, Params()))),
    "parameters for far too late": (
        AuditRule.PARAM,
        lambda s: s.sign(EVE, s.param(5 + _FROM_HEIGHT_SPAN, Params())),
    ),
    # Keys.
    "rekeyed by the thief": (
        AuditRule.SIGNATURE,
        lambda s: s.sign(DAVE, s.rekey(DAVE, OTHER, seq=2), signer=NEW),
    ),
    "rekeyed without a proof": (
        AuditRule.REKEY,
        lambda s: s.sign(EVE, s.rekey(EVE, OTHER, prover=EVE)),
    ),
    "rekeyed too soon": (
        AuditRule.REKEY,
        lambda s: s.sign(DAVE, s.rekey(DAVE, OTHER, seq=2), signer=RECOVERY),
    ),
    "rekeyed with the account's sequence": (
        AuditRule.SEQUENCE,
        lambda s: s.sign(DAVE, s.rekey(DAVE, OTHER, seq=3), signer=RECOVERY, seq=3),
    ),
    "a first rekey without a fee": (AuditRule.FEE, lambda s: s.sign(EVE, s.rekey(EVE, OTHER), fee=0)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_certified_breach_is_found_where_it_stands(name: str) -> None:
    rule, build = CASES[name]
    scene = Scene()
    good = scene.sign(CAROL, Transfer(BOB.account, 1))
    scene.block([good, build(scene)], skipped=2)
    violation = broken(scene)
    assert (violation.rule, violation.height, violation.slot) == (rule, 4, 6), violation
    assert (violation.entry, violation.log_index) == (1, 10)


AFTER: dict[str, tuple[AuditRule, Callable[[Scene], Entry], int]] = {
    "claimed at the expiry": (AuditRule.LOCK, lambda s: s.sign(BOB, s.claim(s.plain, 5)), HOUR_MS - 3000),
    "released at the expiry": (AuditRule.LOCK, lambda s: s.sign(ALICE, Release(s.plain)), HOUR_MS - 3000),
    "disputed at the expiry": (
        AuditRule.DISPUTE,
        lambda s: s.sign(BOB, Dispute(s.open), fee=5),
        HOUR_MS - 3000,
    ),
    "claimed at the deadline": (
        AuditRule.LOCK,
        lambda s: s.sign(BOB, s.claim(s.disputed, 5)),
        2 * HOUR_MS - 3000,
    ),
    "judged at the deadline": (
        AuditRule.LOCK,
        lambda s: s.sign(EVE, s.verdict(s.disputed, 1)),
        2 * HOUR_MS - 3000,
    ),
}


@pytest.mark.parametrize("name", AFTER)
def test_deadlines_hold_to_the_millisecond(name: str) -> None:
    rule, build, wait_ms = AFTER[name]
    scene = Scene()
    entry = build(scene)
    scene.block([replace_not_after(scene, entry, wait_ms)], wait_ms=wait_ms)
    assert broken(scene).rule is rule
    scene = Scene()
    entry = build(scene)
    scene.block([replace_not_after(scene, entry, wait_ms)], wait_ms=wait_ms - 1)
    found = report(scene)
    assert found.ok, found.violation


def replace_not_after(scene: Scene, entry: Entry, wait_ms: int) -> Entry:
    who = next(one for one in (ALICE, BOB, EVE) if one.account == entry.account)
    until_ms = scene.time_ms + wait_ms + 1
    return scene.sign(who, entry.action, seq=entry.seq, fee=entry.fee, not_after_ms=until_ms)


def test_a_disputed_lock_that_expires_pays_its_default_rounded_down() -> None:
    scene = Scene()
    wait_ms = 2 * HOUR_MS - 3000
    scene.block(
        [scene.sign(EVE, Expire(scene.disputed), not_after_ms=scene.time_ms + wait_ms)], wait_ms=wait_ms
    )
    found = report(scene)
    assert found.ok, found.violation
    assert (found.paid, found.refunded) == (233, 468)  # 701 · 3333 / 10000 = 233.6…


def test_what_is_just_allowed_passes() -> None:
    scene = Scene()
    scene.block(
        [
            scene.sign(BOB, scene.claim(scene.plain, 500)),
            scene.sign(EVE, scene.verdict(scene.disputed, 701, (0, 1, 2))),
            scene.sign(ALICE, Release(scene.open)),
            scene.sign(ALICE, Limit(CAROL.account, -698), seq=6),
            scene.sign(CAROL, scene.rekey(CAROL, CAROL), seq=1),
        ]
    )
    scene.block(
        [scene.sign(EVE, scene.limit(EVE, _LIMITS_SUM_MAX - 3 * LIMIT - 50))],
        wait_ms=HOUR_MS - 3000,
    )
    scene.block([scene.sign(DAVE, scene.rekey(DAVE, OTHER, seq=2), signer=RECOVERY, fee=0)], wait_ms=1)
    scene.block([scene.sign(DAVE, Transfer(EVE.account, 1), signer=OTHER)])
    found = report(scene)
    assert found.ok, found.violation
    assert found.limits == _LIMITS_SUM_MAX
    assert found.paid == 500 + 701 + 601


def test_every_approval_must_hold() -> None:
    """As in a certificate: enough right ones do not make up for a wrong one, or for one beyond the list."""
    for spoil in (
        lambda one: Approvals(one.signers, (one.signatures[0], bytes(64), one.signatures[2])),
        lambda one: Approvals(one.signers | 1 << 3, (*one.signatures, bytes(64))),
    ):
        scene = Scene()
        good = scene.limit(EVE, 1, by=(0, 1, 2))
        scene.block([scene.sign(EVE, replace(good, approvals=spoil(good.approvals)))])
        assert broken(scene).rule is AuditRule.APPROVAL


def test_governors_approve_with_the_key_they_have_now() -> None:
    forge = AuditForge(genesis(limits=((GOVERNORS[0].account, LIMIT), (ALICE.account, LIMIT))))
    forge.block([forge.sign(GOVERNORS[0], forge.rekey(GOVERNORS[0], NEW))])
    forge.block([forge.sign(ALICE, forge.limit(ALICE, 1))])
    assert broken(forge).rule is AuditRule.APPROVAL


def test_too_many_locks_of_one_payer() -> None:
    forge = AuditForge()
    for start in range(0, LOCKS_PER_PAYER_MAX, 512):
        seqs = range(start + 1, start + 513)
        forge.block([forge.sign(ALICE, forge.lock(BOB, 1, span_ms=DAY_MS), seq=seq) for seq in seqs])
    assert report(forge).ok
    forge.block([forge.sign(ALICE, forge.lock(BOB, 1))])
    assert broken(forge).rule is AuditRule.LOCK
    forge.blocks.pop()


def test_too_many_beneficiaries_of_one_sponsor() -> None:
    forge = AuditForge()
    named = [
        SigningKey(b"many" + number.to_bytes(28, "big")).account for number in range(BENEFICIARIES_MAX + 1)
    ]
    for start in range(0, BENEFICIARIES_MAX, 512):
        actions = enumerate(named[start : start + 512], start + 1)
        forge.block([forge.sign(ALICE, Limit(who, 1), seq=seq) for seq, who in actions])
    assert report(forge).ok
    forge.block([forge.sign(ALICE, Limit(named[0], 1))])  # more to one who has some already
    assert report(forge).ok
    forge.block([forge.sign(ALICE, Limit(named[-1], 1))])
    assert broken(forge).rule is AuditRule.DELEGATION
    forge.blocks.pop()


def test_a_rotate_in_the_last_epoch() -> None:
    books = Books(genesis())
    books.epoch = 2**32 - 1
    books.witnesses = (BOB.account,)
    books.open_page(1, books.genesis.created_ms, books.epoch, 1)
    forge = AuditForge()
    with pytest.raises(BrokenRuleError) as caught:
        books.entry(forge.sign(BOB, forge.rotate(SECOND)))
    assert caught.value.rule is AuditRule.EPOCH


def test_without_governors_nothing_can_be_decreed() -> None:
    forge = AuditForge(genesis(governors=(), governors_needed=0))
    forge.block([forge.sign(ALICE, Limit(ALICE.account, 1, 1, NO_APPROVALS))])
    assert broken(forge).rule is AuditRule.APPROVAL


# --- epochs, parameters, versions ---


def rotated() -> AuditForge:
    forge = AuditForge()
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 5)), forge.sign(BOB, forge.rotate(SECOND))])
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 6))], skipped=1)
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 7))])
    return forge


def test_a_new_committee_takes_over() -> None:
    forge = rotated()
    found = report(forge)
    assert found.ok, found.violation
    assert found.epoch == 1
    # Slots 3 and 4 of seven witnesses: the fees are theirs, by their own order.
    assert found.balances[SECOND[3].account] == found.balances[SECOND[4].account] == 1
    assert found.balances[WITNESSES[1].account] == 2


def test_an_entry_behind_a_rotation_in_its_block_is_found() -> None:
    forge = AuditForge()
    rotation = forge.sign(BOB, forge.rotate(SECOND))
    forge.block([rotation, forge.sign(ALICE, Transfer(BOB.account, 5))])
    violation = broken(forge)
    assert (violation.rule, violation.entry) == (AuditRule.EPOCH, 1)


def test_the_old_committee_cannot_go_on() -> None:
    forge = rotated()
    forge.witnesses = WITNESSES
    forge.block([], epoch=0)
    violation = broken(forge)
    assert (violation.rule, violation.height) == (AuditRule.CHAIN, 4)


def test_the_old_committee_cannot_sign_for_the_new_epoch() -> None:
    forge = rotated()
    forge.witnesses = WITNESSES
    forge.block([])
    violation = broken(forge)
    assert (violation.rule, violation.height) == (AuditRule.QUORUM, 4)
    forge = rotated()
    forge.block([], signers=[*SECOND[:4], WITNESSES[0]])
    assert broken(forge).rule is AuditRule.QUORUM


def test_an_epoch_that_nobody_decreed_is_found() -> None:
    forge = AuditForge()
    forge.block([], epoch=1)
    assert broken(forge).rule is AuditRule.CHAIN


def closed() -> AuditForge:
    """A rotation that its own certificate does not make final, two void blocks that do, and the next epoch."""
    forge = AuditForge()
    forge.block([forge.sign(BOB, forge.rotate(SECOND))], kind=Kind.NOTAR)
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 6))])
    return forge


def test_void_blocks_make_the_last_block_of_an_epoch_final() -> None:
    forge = closed()
    found = report(forge)
    assert found.ok, found.violation
    del forge.blocks[1]
    assert report(forge).ok  # final by what it carries, with nothing above it


@pytest.mark.parametrize(
    "changes",
    [
        {"height": 3, "slot": 4},
        {"epoch": 1},
        {"parent_hash": b"p" * 32},
        {"parent_slot": 0, "parent_hash": bytes(32), "height": 1},
        {"tree_size": 2},
        {"log_root": b"r" * 32},
        {"time_ms": 1},
    ],
    ids=str,
)
def test_a_closing_that_does_not_lead_to_the_block_is_found(changes: dict[str, Any]) -> None:
    forge = closed()
    header = forge.blocks[0].header
    wrong = replace(forge.blocks[0], closing=forge.closing(header, WITNESSES, **changes))
    forge.blocks[0] = wrong
    violation = broken(forge)
    assert (violation.rule, violation.height) == (AuditRule.CLOSING, 1)


def test_a_closing_without_a_quorum_is_found() -> None:
    forge = closed()
    good = forge.blocks[0].closing
    assert good is not None
    few = replace(good.certificate, signers=0b11, signatures=good.certificate.signatures[:2])
    other = replace(good.certificate, block_hash=b"o" * 32)
    wrong = replace(good.certificate, signatures=good.certificate.signatures[::-1])
    for certificate, rule in (
        (few, AuditRule.QUORUM),
        (other, AuditRule.CERTIFICATE),
        (wrong, AuditRule.CERTIFICATE),
    ):
        forge.blocks[0] = replace(forge.blocks[0], closing=replace(good, certificate=certificate))
        assert broken(forge).rule is rule


def test_parameters_hold_from_their_height_on() -> None:
    forge = AuditForge()
    forge.block([forge.sign(ALICE, forge.param(3, Params(1, 7, 9)))])
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 1), fee=1)])
    assert report(forge).ok
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 1), fee=6)])
    violation = broken(forge)
    assert (violation.rule, violation.height) == (AuditRule.FEE, 3)


def test_a_later_decree_replaces_what_is_pending() -> None:
    forge = AuditForge()
    forge.block([forge.sign(ALICE, forge.param(3, Params(1, 7)))])
    forge.block([forge.sign(ALICE, forge.param(4, Params(1, 2)))])
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 1), fee=1)])
    assert report(forge).ok
    forge.block([forge.sign(ALICE, Transfer(BOB.account, 1), fee=1)])
    assert broken(forge).height == 4


def test_rules_of_a_later_version_are_not_judged() -> None:
    forge = AuditForge()
    forge.block([forge.sign(ALICE, forge.param(2, Params(2)))])
    assert report(forge).ok
    forge.block([])
    violation = broken(forge)
    assert (violation.rule, violation.height) == (AuditRule.VERSION, 2)
    assert "update" in violation.detail


# --- pruning ---


def idle() -> AuditForge:
    """Eve got 3 and paid 3 on: nothing is left of her but her sequence number."""
    forge = AuditForge()
    forge.block([forge.sign(ALICE, Transfer(EVE.account, 4))])
    forge.block([forge.sign(EVE, Transfer(BOB.account, 3))])
    while len(forge.blocks) < STATE_ROOT_INTERVAL - 1:
        forge.block([])
    return forge


def test_an_idle_account_is_forgotten_after_31_days() -> None:
    for wait_ms, known in ((31 * DAY_MS - 997_000, True), (31 * DAY_MS - 997_000 + 1, False)):
        forge = idle()
        forge.block([], wait_ms=wait_ms)
        assert (EVE.account in forge.books.lines) is known
        found = report(forge)
        assert found.ok, found.violation
        assert (EVE.account in found.balances) is known


def test_a_state_root_that_still_knows_an_idle_account_is_wrong() -> None:
    forge = idle()
    forge.books.close_page = lambda: None  # type: ignore[method-assign] # a witness that does not prune
    forge.block([], wait_ms=32 * DAY_MS)
    violation = broken(forge)
    assert (violation.rule, violation.height) == (AuditRule.STATE_ROOT, STATE_ROOT_INTERVAL)


# --- from a certified snapshot ---


def long_chain(forge: AuditForge, *, root: bytes | None = None) -> Base:
    """Blocks up to height 1,000, which names the state; what an audit can begin with."""
    forge.block([forge.sign(ALICE, Transfer(EVE.account, 4)), forge.sign(ALICE, forge.lock(BOB, 77), seq=2)])
    while len(forge.blocks) < STATE_ROOT_INTERVAL - 1:
        forge.block([])
    block = forge.block([], **({} if root is None else {"state_root": root}))
    return Base(block, snapshot(forge.books), forge.peaks)


def after(forge: AuditForge, base: Base) -> AuditReport:
    return audit(forge.genesis, (block.encode() for block in forge.blocks[STATE_ROOT_INTERVAL:]), base=base)


def test_an_audit_begins_at_a_certified_snapshot_and_says_so() -> None:
    forge = AuditForge()
    base = long_chain(forge)
    forge.block([forge.sign(EVE, Transfer(BOB.account, 3))])
    found, whole = after(forge, base), report(forge)
    assert found.ok, found.violation
    assert (found.base_height, found.base_proven, found.blocks, found.entries) == (1_000, True, 1, 1)
    assert (whole.base_height, whole.blocks) == (0, 1_001)
    for name in ("balances", "locked", "limits", "height", "tree_size", "log_root", "head_hash"):
        assert getattr(found, name) == getattr(whole, name)
    forge.block([forge.sign(EVE, Transfer(BOB.account, 3))])
    violation = after(forge, base).violation
    assert violation is not None
    assert (violation.rule, violation.height, violation.log_index) == (AuditRule.BALANCE, 1_002, 3)


def test_an_audit_with_nothing_after_its_base() -> None:
    forge = AuditForge()
    base = long_chain(forge)
    assert after(forge, base).ok
    notarised = replace(
        base, block=replace(base.block, certificate=forge.certify(base.block.header, Kind.NOTAR, WITNESSES))
    )
    violation = after(forge, notarised).violation
    assert violation is not None
    assert violation.rule is AuditRule.FINALITY
    forge.block([])
    assert after(forge, notarised).ok


@pytest.mark.parametrize(
    ("spoil", "rule"),
    [
        (lambda base: replace(base, snapshot=base.snapshot[:-1] + b"x"), AuditRule.BASE),
        (lambda base: replace(base, snapshot=b""), AuditRule.BASE),
        (lambda base: replace(base, peaks=Peaks()), AuditRule.BASE),
        (
            lambda base: replace(
                base,
                block=replace(base.block, certificate=replace(base.block.certificate, block_hash=b"o" * 32)),
            ),
            AuditRule.CERTIFICATE,
        ),
    ],
    ids=["another snapshot", "no snapshot", "other peaks", "another certificate"],
)
def test_a_base_that_nobody_certified_is_found(spoil: Callable[[Base], Base], rule: AuditRule) -> None:
    forge = AuditForge()
    violation = after(forge, spoil(long_chain(forge))).violation
    assert violation is not None
    assert (violation.rule, violation.height) == (rule, 1_000)


def test_a_certified_snapshot_that_makes_credit_of_nothing_is_found() -> None:
    forge = AuditForge()
    rich = Books(forge.genesis)
    rich.purses[EVE.account] = 1_000
    base = replace(long_chain(forge, root=state_root(rich)), snapshot=snapshot(rich))
    violation = after(forge, base).violation
    assert violation is not None
    assert violation.rule is AuditRule.BASE
    assert "sum to 1000" in violation.detail


def test_a_committee_without_handovers_is_taken_at_its_word_and_the_report_says_so() -> None:
    forge = AuditForge()
    forge.block([forge.sign(BOB, forge.rotate(SECOND))])
    base = long_chain(forge)
    forge.block([])
    found = after(forge, base)
    assert found.ok, found.violation
    assert not found.base_proven
    proven = replace(base, witnesses=tuple(one.account for one in SECOND))
    assert after(forge, proven).base_proven
    wrong = replace(base, witnesses=tuple(one.account for one in WITNESSES))
    violation = after(forge, wrong).violation
    assert violation is not None
    assert violation.rule is AuditRule.CERTIFICATE


def test_a_version_is_never_lowered() -> None:
    forge = AuditForge()
    forge.books.terms = forge.books.terms._replace(version=2)
    with pytest.raises(BrokenRuleError, match="version 1 after 2"):
        forge.books.entry(forge.sign(ALICE, forge.param(9, Params(1))))
