"""What a witness keeps is bounded: waiting entries, votes, candidates; and how its chain judges foreign blocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from ledger.core import mempool
from ledger.core.ballots import SLOTS_AHEAD_MAX, Ballots
from ledger.core.block import FinalBlock
from ledger.core.chain import BadBlock, Chain, ForkError
from ledger.core.encoding import Kind
from ledger.core.entries import Transfer, sign_entry
from ledger.core.evidence import vote_pair
from ledger.core.mempool import Mempool
from ledger.core.state import LedgerState, Moment, Reason
from ledger.core.timers import REPEAT_S, Timers
from ledger.core.votes import sign_vote
from tests.core.ledger_ordering.machines import KEYS, PAYEE, PAYER, WALL_MS, Machine, entry, genesis, vote

FOUR = genesis(4)
AT = Moment(1, WALL_MS, FOUR.witnesses[1])


def test_a_pool_takes_no_more_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mempool, "ENTRIES_PER_ACCOUNT_MAX", 3)
    state = LedgerState(FOUR)
    pool = Mempool(FOUR.network_id)
    for seq in (1, 2, 3):
        assert pool.offer(entry(FOUR, seq=seq), state, AT)[1] is None
    refusal = pool.offer(entry(FOUR, seq=4), state, AT)[1]
    assert refusal is not None
    assert refusal.reason is Reason.BUSY
    full = Mempool(FOUR.network_id, entries_max=1)
    full.offer(entry(FOUR), state, AT)
    refusal = full.offer(entry(FOUR, seq=2), state, AT)[1]
    assert refusal is not None
    assert (refusal.reason, len(full)) == (Reason.BUSY, 1)


def test_an_account_without_credit_cannot_fill_the_pool() -> None:
    pool = Mempool(FOUR.network_id)
    poor = sign_entry(
        PAYEE,
        FOUR.network_id,
        seq=1,
        not_after_ms=WALL_MS + 3_600_000,
        fee=0,
        action=Transfer(PAYER.account, 1),
    )
    refusal = pool.offer(poor, LedgerState(FOUR), AT)[1]
    assert refusal is not None
    assert (refusal.reason, len(pool)) == (Reason.INSUFFICIENT, 0)


def test_a_sweep_drops_what_expired_and_what_waited_behind_it() -> None:
    state, pool = LedgerState(FOUR), Mempool(FOUR.network_id)
    short = sign_entry(
        PAYER,
        FOUR.network_id,
        seq=1,
        not_after_ms=WALL_MS + 10,
        fee=0,
        action=Transfer(PAYEE.account, 1),
    )
    pool.offer(short, state, AT)
    pool.offer(entry(FOUR, seq=2), state, AT)
    assert pool.sweep(state, AT) == []
    dropped = pool.sweep(state, replace(AT, time_ms=WALL_MS + 11))
    assert [item.refusal.reason for item in dropped] == [Reason.TOO_LATE, Reason.SEQUENCE_GAP]
    assert not len(pool)


def test_votes_outside_the_window_are_not_kept() -> None:
    ballots = Ballots(FOUR.committee, final_slot=10)
    for slot in (10, 11 + SLOTS_AHEAD_MAX):
        ballots.add(vote(FOUR, 0, Kind.SKIP, slot))
    assert ballots.is_empty()
    for number in (0, 1, 2):
        ballots.add(vote(FOUR, number, Kind.SKIP, 11))
    assert ballots.skipped(11)
    ballots.forget(11)
    assert ballots.is_empty()


@pytest.mark.parametrize(
    ("first", "second", "is_lie"),
    [
        ((Kind.NOTAR, b"a"), (Kind.NOTAR, b"b"), True),
        ((Kind.FINAL, b"a"), (Kind.FINAL, b"b"), True),
        ((Kind.SKIP, b""), (Kind.FINAL, b"a"), True),
        ((Kind.FINAL, b"a"), (Kind.SKIP, b""), True),
        ((Kind.NOTAR, b"a"), (Kind.SKIP, b""), False),
        ((Kind.SKIP, b""), (Kind.NOTAR, b"a"), False),
        ((Kind.NOTAR, b"a"), (Kind.FINAL, b"a"), False),
        ((Kind.NOTAR, b"a"), (Kind.NOTAR, b"a"), False),
    ],
)
def test_contradictions_are_evidence(
    first: tuple[Kind, bytes], second: tuple[Kind, bytes], is_lie: bool
) -> None:
    ballots = Ballots(FOUR.committee, final_slot=0)
    votes = [vote(FOUR, 1, kind, 1, (mark or b"\0") * 32) for kind, mark in (first, second)]
    assert ballots.add(votes[0]) is None
    evidence = ballots.add(votes[1])
    assert (evidence is not None) is is_lie
    if evidence is not None:
        assert evidence == vote_pair(*votes)
        assert evidence.verify(FOUR.committee)
        assert ballots.add(votes[1]) is None, "once"


def test_a_second_vote_of_a_liar_does_not_count() -> None:
    ballots = Ballots(FOUR.committee, final_slot=0)
    for number, mark in ((0, b"a"), (1, b"a"), (3, b"b"), (3, b"a")):
        ballots.add(vote(FOUR, number, Kind.NOTAR, 1, mark * 32))
    assert ballots.notarised(1) is None


def test_a_reader_refuses_blocks_that_break_a_rule_and_keeps_its_place() -> None:
    one = genesis(1)
    machine = Machine(one, 0)
    for seq in (1, 2, 3):
        machine.submit(entry(one, seq=seq))
    chain = Chain(one)
    assert len(chain.accept(machine.final[0])) == 1
    with pytest.raises(BadBlock, match="does not follow"):
        chain.accept(machine.final[2])
    second = machine.final[1]
    with pytest.raises(BadBlock, match="certificate"):
        chain.accept(replace(second, header=replace(second.header, time_ms=second.header.time_ms + 1)))
    forged = replace(second.entries[0], signature=b"\1" * 64)
    with pytest.raises(BadBlock, match="wrong signature"):
        chain.accept(FinalBlock(second.header, (forged,), second.certificate))
    assert (chain.tip.height, chain.log.size) == (1, 1)
    assert chain.accept(machine.final[0]) == [], "a repeat changes nothing"
    assert len(chain.accept(second)) == 1


def test_a_fork_is_told_from_a_lying_source() -> None:
    """The lone witness signs two chains: the second one's certified block proves it."""
    one = genesis(1)
    honest, forked = Machine(one, 0), Machine(one, 0)
    honest.submit(entry(one))
    forked.submit(entry(one, amount=6))
    forked.submit(entry(one, seq=2))
    chain = Chain(one)
    chain.accept(honest.final[0])
    with pytest.raises(ForkError) as caught:
        chain.accept(forked.final[1])
    assert caught.value.other == forked.final[1]
    bare = replace(forked.final[1].certificate, signatures=(b"\1" * 64,))
    with pytest.raises(BadBlock) as plain:
        chain.accept(replace(forked.final[1], certificate=bare))
    assert not isinstance(plain.value, ForkError)
    assert chain.tip.block_hash == honest.final[0].certificate.block_hash


def test_slot_timers_grow_run_once_and_only_while_asked_to() -> None:
    timers = Timers()
    idle: dict[str, Any] = {"slot_timeout_s": 1.0, "slots_open": 0, "is_leader_silent": False}
    assert timers.arm(0.0, runs=False, repeats=False, **idle) is None
    assert timers.arm(0.0, runs=True, repeats=True, **idle) == REPEAT_S
    assert not timers.slot_is_over(0.9)
    assert timers.is_half_over(0.6)
    assert timers.slot_is_over(1.0)
    assert not timers.slot_is_over(1.0)
    timers.restart(is_new_slot=True)
    timers.arm(2.0, slot_timeout_s=1.0, runs=True, repeats=False, slots_open=2, is_leader_silent=True)
    assert not timers.slot_is_over(2.0 + 1.44 / 8 - 0.001)
    assert timers.slot_is_over(2.0 + 1.44 / 8 + 0.001)


def test_votes_of_another_epoch_are_not_counted_with_those_of_this_one() -> None:
    """Found by the simulator: a vote of another epoch beside two of this one ended the witness that counted them."""
    leader = Machine(FOUR, 1)
    leader.submit(entry(FOUR))
    block = leader.proposals()[0]
    name = block.header.hash(FOUR.network_id)
    witness = Machine(FOUR, 0)
    other = sign_vote(KEYS[3], replace(FOUR.committee, epoch=1), Kind.NOTAR, slot=1, block_hash=name)
    witness.hear(block, other, vote(FOUR, 1, Kind.NOTAR, 1, name), sender=1)
    assert witness.votes(Kind.NOTAR, 1)
    assert not witness.votes(Kind.FINAL, 1), "two votes of this epoch are no quorum of four"
    witness.hear(vote(FOUR, 2, Kind.NOTAR, 1, name), sender=2)
    assert witness.votes(Kind.FINAL, 1)
