"""Who orders entries in an epoch, and that a signature of one epoch says nothing in another."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.core.block import FinalBlock, sign_proposal
from ledger.core.committee import WITNESSES_MAX, Committee
from ledger.core.encoding import Kind, WireError
from ledger.core.votes import Certificate, sign_vote
from tests.core.ledger.ledger_forge import ALICE, WITNESSES, Forge, key

FORGE = Forge()
BLOCK = FORGE.block()
FIRST = FORGE.genesis.committee
NEXT = replace(FIRST, epoch=1)


@pytest.mark.parametrize(
    ("n", "faults", "quorum"), [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 3), (7, 2, 5), (64, 21, 43)]
)
def test_numbers(n: int, faults: int, quorum: int) -> None:
    committee = Committee(FIRST.network_id, 3, tuple(key(number).account for number in range(1, n + 1)))
    assert (committee.n, committee.faults, committee.quorum) == (n, faults, quorum)
    assert [committee.leader(slot) for slot in (0, 1, n)] == [
        committee.witnesses[slot % n] for slot in (0, 1, n)
    ]
    assert key(1).account in committee
    assert ALICE.account not in committee


@pytest.mark.parametrize("numbers", [(), (1, 1), tuple(range(1, WITNESSES_MAX + 2))])
def test_what_is_no_committee(numbers: tuple[int, ...]) -> None:
    with pytest.raises(WireError):
        Committee(FIRST.network_id, 0, tuple(key(number).account for number in numbers))


def test_every_signature_is_of_one_epoch() -> None:
    block_hash = BLOCK.header.hash(FIRST.network_id)
    vote = sign_vote(WITNESSES[0], NEXT, Kind.FINAL, slot=1, block_hash=block_hash)
    assert vote.epoch == 1
    assert vote.verify(NEXT)
    assert not vote.verify(FIRST)
    votes = [sign_vote(w, FIRST, Kind.FINAL, slot=1, block_hash=block_hash) for w in WITNESSES[:3]]
    certificate = Certificate.from_votes(votes, FIRST)
    assert certificate.verify(FIRST)
    assert not certificate.verify(NEXT)
    assert not replace(certificate, epoch=1).verify(NEXT), "the epoch is signed"
    proposal = sign_proposal(WITNESSES[1], FIRST, BLOCK.block)
    assert proposal.verify(FIRST)
    assert not proposal.verify(NEXT)
    final = FinalBlock(BLOCK.header, BLOCK.entries, certificate)
    assert final.verify(FIRST)
    assert not final.verify(NEXT)
