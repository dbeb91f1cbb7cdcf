"""Why a vote is durable before it leaves: four witnesses, once with a disk that keeps, once with one that forgets."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ledger.core.encoding import Kind
from ledger.core.events import Saved, Tick
from ledger.core.votes import Vote
from tests.core.ledger_ordering.machines import Machine, entry, genesis, vote

if TYPE_CHECKING:
    from ledger.core.consensus import Message

FOUR = genesis(4)


def votes_of(machine: Machine) -> list[Message]:
    return [message for message in machine.sent if isinstance(message, Vote)]


def test_what_a_vote_rests_on_survives_with_it() -> None:
    """All witnesses that know the certificate of slot 1 crash; the vote on it brings it back, without the liar's."""
    witness = Machine(FOUR, 0)
    leader = Machine(FOUR, 1)
    leader.submit(entry(FOUR))
    block = leader.proposals()[0]
    name = block.header.hash(FOUR.network_id)
    witness.hear(block, *votes_of(leader), vote(FOUR, 3, Kind.NOTAR, 1, name), sender=1)
    assert witness.votes(Kind.FINAL, 1)
    after = Machine(FOUR, 0, witness.saved())
    after.wait(0.1)
    after.feed(Tick())
    assert after.simplex.slot == 2, "it still knows slot 1 notarised"


@pytest.mark.parametrize("keeps", [True, False])
def test_a_forgotten_vote_forks_the_chain_and_a_kept_one_does_not(keeps: bool) -> None:
    """Witness 3 lies and helps both sides. 0 and 1 finalise a block that 2 never hears of; 0 crashes; 1 is cut off."""
    zero, one, two = (Machine(FOUR, number) for number in (0, 1, 2))
    one.submit(entry(FOUR))  # the leader of slot 1
    block = one.proposals()[0]
    name = block.header.hash(FOUR.network_id)
    zero.hear(block, *votes_of(one), vote(FOUR, 3, Kind.NOTAR, 1, name), sender=1)
    one.hear(
        *votes_of(zero), vote(FOUR, 3, Kind.NOTAR, 1, name), vote(FOUR, 3, Kind.FINAL, 1, name), sender=0
    )
    assert [b.header for b in one.final] == [block.header]

    zero = Machine(FOUR, 0, zero.saved() if keeps else Saved())
    for witness in (zero, two):
        witness.submit(entry(FOUR, amount=6))
        witness.wait(1.2)
    zero.hear(vote(FOUR, 3, Kind.SKIP, 1), *votes_of(two), sender=2)
    two.hear(vote(FOUR, 3, Kind.SKIP, 1), *votes_of(zero), sender=0)
    if two.proposals():  # the leader of slot 2, entered because slot 1 was skipped
        other = two.proposals()[0]
        other_name = other.header.hash(FOUR.network_id)
        zero.hear(other, *votes_of(two), vote(FOUR, 3, Kind.NOTAR, 2, other_name), sender=2)
        two.hear(vote(FOUR, 3, Kind.NOTAR, 2, other_name), vote(FOUR, 3, Kind.FINAL, 2, other_name), sender=3)
        two.hear(*votes_of(zero), sender=0)
    forked = bool(two.final) and two.final[0].header != one.final[0].header
    assert forked is not keeps
