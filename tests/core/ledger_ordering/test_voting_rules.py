"""Each voting rule of SPEC.md §6, one witness at a time; its neighbours' votes are made by the test."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ledger.core.block import Block, Header, Proposal, sign_proposal
from ledger.core.chain import Chain
from ledger.core.consensus import Ask
from ledger.core.encoding import Kind
from ledger.core.events import Accuse, CatchUp, Judged, Received, Saved, WakeAt
from ledger.core.evidence import proposal_pair
from ledger.core.state import Reason
from ledger.core.votes import Certificate
from tests.core.ledger_ordering.machines import KEYS, WALL_MS, Machine, entry, genesis, vote

if TYPE_CHECKING:
    from ledger.core.genesis import Genesis

FOUR = genesis(4)


def proposed(network: Genesis, slot: int, amount: int = 5, wall_ms: int = WALL_MS) -> Proposal:
    """A valid block on genesis, signed by the leader of `slot`."""
    item = entry(network, amount=amount)
    block = Chain(network).build(bytes(32), slot, wall_ms, [(b"", item)]).block
    return sign_proposal(KEYS[slot % network.committee.n], network.committee, block)


def name(proposal: Proposal) -> bytes:
    return proposal.header.hash(FOUR.network_id)


def test_alone_it_finalises_at_once() -> None:
    one = Machine(genesis(1), 0)
    one.submit(entry(one.network))
    assert [block.header.height for block in one.final] == [1]
    assert one.final[0].verify(one.network.committee)
    assert one.simplex.faults_tolerated == 0


def test_leader_proposes_what_waits_and_votes_for_it() -> None:
    leader = Machine(FOUR, 1)
    leader.submit(entry(FOUR))
    assert len(leader.proposals()) == 1
    assert [item.vote.kind for item in leader.persisted] == [Kind.NOTAR]
    assert leader.persisted[0].proposal == leader.proposals()[0]
    leader.submit(entry(FOUR, seq=2))
    assert len(leader.proposals()) == 1, "one proposal per slot"


def test_without_entries_nobody_does_anything() -> None:
    idle = Machine(FOUR, 1)
    idle.wait(60)
    assert (idle.sent, idle.persisted, idle.wake_at_s) == ([], [], None)


def test_notarises_one_block_per_slot_and_accuses_a_leader_who_signs_two() -> None:
    witness = Machine(FOUR, 0)
    first, second = proposed(FOUR, 1), proposed(FOUR, 1, amount=6)
    witness.hear(first, sender=1)
    witness.hear(second, sender=1)
    assert [v.block_hash for v in witness.votes(Kind.NOTAR)] == [name(first)]
    accused = [action.evidence for action in witness.actions if isinstance(action, Accuse)]
    assert accused == [proposal_pair(first, second)]
    assert accused[0] in witness.sent, "the others hear of it"
    witness.hear(accused[0], sender=2)
    assert not [a for a in witness.actions if isinstance(a, Accuse)], "once"
    other = Machine(FOUR, 2)
    other.hear(
        replace(accused[0], first=replace(accused[0].first, signature=bytes(64))), accused[0], sender=0
    )
    assert [a.evidence for a in other.actions if isinstance(a, Accuse)] == accused


def test_votes_final_after_its_own_notar_and_a_certificate() -> None:
    witness = Machine(FOUR, 0)
    block = proposed(FOUR, 1)
    witness.hear(block, sender=1)
    witness.hear(vote(FOUR, 1, Kind.NOTAR, 1, name(block)), sender=1)
    assert not witness.votes(Kind.FINAL)
    witness.hear(vote(FOUR, 2, Kind.NOTAR, 1, name(block)), sender=2)
    assert [v.block_hash for v in witness.votes(Kind.FINAL)] == [name(block)]
    for number in (1, 2):
        witness.hear(vote(FOUR, number, Kind.FINAL, 1, name(block)), sender=number)
    assert [b.header for b in witness.final] == [block.header]


def test_never_final_after_skip() -> None:
    witness = Machine(FOUR, 0)
    witness.submit(entry(FOUR))
    witness.wait(1.1)
    assert len(witness.votes(Kind.SKIP, 1)) == 1
    block = proposed(FOUR, 1)
    witness.hear(block, sender=1)
    for number in (1, 2, 3):
        witness.hear(vote(FOUR, number, Kind.NOTAR, 1, name(block)), sender=number)
    assert witness.votes(Kind.NOTAR, 1)
    assert not witness.votes(Kind.FINAL, 1)


def test_never_skip_after_final() -> None:
    witness = Machine(FOUR, 0)
    block = proposed(FOUR, 1)
    witness.hear(block, sender=1)
    for number in (1, 2):
        witness.hear(vote(FOUR, number, Kind.NOTAR, 1, name(block)), sender=number)
    assert witness.votes(Kind.FINAL, 1)
    witness.wait(120)
    assert not witness.votes(Kind.SKIP, 1)


def test_waits_for_the_certificate_of_a_skipped_gap() -> None:
    witness = Machine(FOUR, 0)
    later = proposed(FOUR, 2)
    witness.hear(later, sender=2)
    assert not witness.votes(Kind.NOTAR)
    for number in (1, 2, 3):
        assert not witness.votes(Kind.NOTAR)
        witness.hear(vote(FOUR, number, Kind.SKIP, 1), sender=number)
    assert [v.slot for v in witness.votes(Kind.NOTAR)] == [2]


def test_waits_for_the_certificate_of_the_parent() -> None:
    chain = Chain(FOUR)
    parent = proposed(FOUR, 1)
    assert chain.execute(parent.block) is None
    child_block = chain.build(name(parent), 2, WALL_MS, [(b"", entry(FOUR, seq=2))]).block
    child = sign_proposal(KEYS[2], FOUR.committee, child_block)
    witness = Machine(FOUR, 3)
    witness.hear(child, parent, sender=2)
    assert [v.slot for v in witness.votes(Kind.NOTAR)] == [1]
    for number in (1, 2):
        witness.hear(vote(FOUR, number, Kind.NOTAR, 1, name(parent)), sender=number)
    assert [v.slot for v in witness.votes(Kind.NOTAR)] == [1, 2]


def _changed(**fields: object) -> Proposal:
    good = proposed(FOUR, 1)
    header: Header = replace(good.header, **fields)  # type: ignore[arg-type]
    return sign_proposal(KEYS[1], FOUR.committee, Block(header, good.entries))


def _with_entry(item: object) -> Proposal:
    good = proposed(FOUR, 1)
    peaks = Chain(FOUR).log.peaks().extend([item.encode()])  # type: ignore[attr-defined]
    header = replace(good.header, log_root=peaks.root())
    return sign_proposal(KEYS[1], FOUR.committee, Block(header, (item,)))  # type: ignore[arg-type]


def _foreign() -> Proposal:
    return _with_entry(entry(genesis(7)))


def _overdrawn() -> Proposal:
    return _with_entry(entry(FOUR, amount=10**9 + 1))


BROKEN = {
    "log root": lambda: _changed(log_root=b"x" * 32),
    "tree size": lambda: _changed(tree_size=2),
    "epoch": lambda: _changed(epoch=1),
    "time before the parent's": lambda: _changed(time_ms=FOUR.created_ms - 1),
    "time too far ahead": lambda: proposed(FOUR, 1, wall_ms=WALL_MS + 5_001),
    "not the leader's signature": lambda: replace(proposed(FOUR, 1), signature=proposed(FOUR, 2).signature),
    "an entry that another network signed": _foreign,
    "an entry above the payer's credit": _overdrawn,
}


@pytest.mark.parametrize("what", BROKEN)
def test_does_not_vote_for_a_block_that_breaks_a_rule(what: str) -> None:
    witness = Machine(FOUR, 0)
    witness.hear(BROKEN[what](), sender=1)
    assert not witness.persisted


def test_a_block_from_the_near_future_gets_its_vote_when_the_clock_is_there() -> None:
    witness = Machine(FOUR, 0)
    witness.hear(proposed(FOUR, 1, wall_ms=WALL_MS + 5_200), sender=1)
    assert not witness.persisted
    witness.wait(0.3)
    assert witness.votes(Kind.NOTAR)


def test_a_block_of_long_ago_gets_no_vote_and_its_slot_is_skipped() -> None:
    """A leader that bears an old time would order entries after their end, and claims after their deadline."""
    for late_s, is_voted in ((60.0, True), (60.001, False)):
        witness = Machine(FOUR, 0)
        block = proposed(FOUR, 1)
        witness.s = late_s
        witness.hear(block, sender=1)
        assert bool(witness.votes(Kind.NOTAR)) is is_voted
        witness.wait(5.0)
        assert [v.slot for v in witness.votes(Kind.SKIP)] == [1]


def test_a_block_of_long_ago_that_a_quorum_notarised_is_helped_to_become_final() -> None:
    witness = Machine(FOUR, 0)
    block = proposed(FOUR, 1)
    witness.s = 3_600.0
    witness.hear(block, sender=1)
    assert not witness.persisted
    for number in (1, 2, 3):
        witness.hear(vote(FOUR, number, Kind.NOTAR, 1, name(block)), sender=number)
    assert witness.votes(Kind.NOTAR, 1)
    assert witness.votes(Kind.FINAL, 1)


def test_the_grown_timer_of_a_troubled_network_bounds_the_time_where_it_is_longer() -> None:
    """However long messages take, some slot is long enough for its block: its time must not be too old then."""
    slow = replace(FOUR, slot_timeout_ms=60_000)
    slow_block = sign_proposal(
        KEYS[2], slow.committee, Chain(slow).build(bytes(32), 2, WALL_MS, [(b"", entry(slow))]).block
    )
    for late_s, is_voted in ((72.0, True), (72.001, False)):
        witness = Machine(slow, 0)
        for number in (1, 2, 3):
            witness.hear(vote(slow, number, Kind.SKIP, 1), sender=number)
        witness.s = late_s
        witness.hear(slow_block, sender=2)
        assert bool(witness.votes(Kind.NOTAR, 2)) is is_voted


def test_an_entry_with_a_known_id_and_a_wrong_signature_is_not_taken_on_trust() -> None:
    witness = Machine(FOUR, 0)
    witness.submit(entry(FOUR))
    forged = replace(entry(FOUR), signature=b"\1" * 64)
    witness.hear(_with_entry(forged), sender=1)
    assert not witness.votes(Kind.NOTAR)


def test_a_silent_leader_is_skipped_quickly_the_next_time() -> None:
    witness = Machine(FOUR, 0)
    witness.submit(entry(FOUR))
    witness.wait(1.0)
    assert witness.votes(Kind.SKIP, 1)
    for slot in (1, 2, 3, 4):
        for number in (2, 3):
            witness.hear(vote(FOUR, number, Kind.SKIP, slot), sender=number)
        witness.wait(2.2 if slot < 4 else 0)
    began_s = witness.s
    assert witness.simplex.slot == 5
    witness.wait(0.4)
    assert witness.votes(Kind.SKIP, 5), f"{witness.s - began_s} s"


def test_a_restarted_witness_repeats_its_vote_and_never_contradicts_it() -> None:
    before = Machine(FOUR, 0)
    first, second = proposed(FOUR, 1), proposed(FOUR, 1, amount=6)
    before.hear(first, sender=1)
    after = Machine(FOUR, 0, before.saved())
    after.hear(second, sender=1)
    after.wait(0.3)
    assert not after.persisted
    assert before.votes(Kind.NOTAR)[0] in after.sent


def test_a_leader_that_crashed_after_persisting_sends_the_same_block() -> None:
    before = Machine(FOUR, 1)
    before.submit(entry(FOUR))
    after = Machine(FOUR, 1, before.saved())
    after.submit(entry(FOUR, seq=1, amount=9))
    after.wait(0.3)
    assert after.proposals() == before.proposals()


def test_its_own_forgotten_vote_makes_it_abstain() -> None:
    witness = Machine(FOUR, 0, Saved())
    old = vote(FOUR, 0, Kind.NOTAR, 1, b"\7" * 32)
    witness.hear(old, sender=2)
    assert not witness.simplex.remembers_all_votes
    witness.hear(proposed(FOUR, 1), sender=1)
    witness.submit(entry(FOUR))
    witness.wait(5)
    assert [item.vote for item in witness.persisted] == [old]


def test_far_slots_and_garbage_leave_nothing_behind() -> None:
    witness = Machine(FOUR, 0)
    witness.hear(vote(FOUR, 1, Kind.SKIP, 10_000), proposed(FOUR, 9_997), sender=1)
    for data in (b"", b"\0", b"\2" + b"x" * 141, b"\1" * 400, b"\xff" * 3):
        assert witness.feed(Received(KEYS[1].account, data)) == []
    witness.hear(replace(vote(FOUR, 1, Kind.SKIP, 1), signature=b"\1" * 64), sender=1)
    assert (witness.sent, witness.persisted, witness.wake_at_s) == ([], [], None)


def test_an_ask_is_answered_with_what_the_asker_lacks() -> None:
    witness = Machine(FOUR, 0)
    block = proposed(FOUR, 1)
    witness.hear(block, sender=1)
    for number in (1, 2):
        witness.hear(vote(FOUR, number, Kind.NOTAR, 1, name(block)), sender=number)
    witness.sent.clear()
    witness.hear(Ask(1, 0, name(block)), sender=3)
    assert {type(message) for message in witness.sent} == {Certificate, Proposal}
    for number in (1, 2):
        witness.hear(vote(FOUR, number, Kind.FINAL, 1, name(block)), sender=number)
    witness.sent.clear()
    witness.s += 1
    witness.hear(Ask(1, 0), sender=3)
    assert [m.kind for m in witness.sent if isinstance(m, Certificate)] == [Kind.FINAL]


def test_a_final_certificate_out_of_reach_asks_for_a_catch_up() -> None:
    ahead = Machine(FOUR, 0)
    block = proposed(FOUR, 1)
    ahead.hear(block, sender=1)
    for kind in (Kind.NOTAR, Kind.FINAL):
        for number in (1, 2):
            ahead.hear(vote(FOUR, number, kind, 1, name(block)), sender=number)
    behind = Machine(FOUR, 3)
    behind.hear(ahead.final[0].certificate, sender=2)
    assert CatchUp(KEYS[2].account) in behind.actions


def test_submitted_entries_are_judged() -> None:
    witness = Machine(FOUR, 0)
    good = entry(FOUR)
    witness.submit(good)
    witness.submit(good)
    assert [a.refusal for a in witness.actions if isinstance(a, Judged)] == [None]
    for item, reason in (
        (replace(entry(FOUR, seq=2), signature=b"\1" * 64), Reason.BAD_SIGNATURE),
        (entry(FOUR, amount=6), Reason.CONFLICT),
        (entry(FOUR, seq=3), Reason.SEQUENCE_GAP),
    ):
        witness.submit(item)
        found = [a.refusal for a in witness.actions if isinstance(a, Judged)]
        assert [refusal.reason for refusal in found if refusal] == [reason]


def test_a_block_that_is_notarised_but_not_final_is_pushed_by_an_empty_one() -> None:
    leader = Machine(FOUR, 2)
    block = proposed(FOUR, 1)
    leader.hear(block, sender=1)
    for number in (0, 1):
        leader.hear(vote(FOUR, number, Kind.NOTAR, 1, name(block)), sender=number)
    assert leader.simplex.slot == 2
    assert not leader.proposals()
    leader.wait(0.7)
    assert [(p.header.slot, p.header.count) for p in leader.proposals()] == [(2, 0)]


def test_wakes_are_asked_for_only_while_something_waits() -> None:
    witness = Machine(FOUR, 0)
    witness.submit(entry(FOUR))
    assert any(isinstance(action, WakeAt) for action in witness.actions)
    block = proposed(FOUR, 1)
    witness.hear(block, sender=1)
    for kind in (Kind.NOTAR, Kind.FINAL):
        for number in (1, 2):
            witness.hear(vote(FOUR, number, kind, 1, name(block)), sender=number)
    assert not [action for action in witness.actions if isinstance(action, WakeAt)]
    assert not len(witness.simplex.pool)
