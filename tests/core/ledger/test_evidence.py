"""Evidence (SPEC.md §6.6) proves by itself who lied and names nobody else; any other bytes are refused."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import product

import pytest

from ledger.core.block import Block, Proposal, sign_proposal
from ledger.core.encoding import Kind, WireError
from ledger.core.evidence import (
    EVIDENCE_BYTES_MAX,
    Evidence,
    Fork,
    ProposalPair,
    SignedHeader,
    decode_evidence,
    find_fork,
    proposal_pair,
    vote_pair,
)
from ledger.core.heads import DESCENDANTS_MAX, CertifiedHeader, certify
from ledger.core.votes import NO_BLOCK, Vote, sign_vote
from tests.core.ledger.ledger_forge import WITNESSES, Forge, genesis

NETWORK = genesis()
COMMITTEE = NETWORK.committee
LIAR = WITNESSES[2]
ONE, OTHER = b"\1" * 32, b"\2" * 32


def vote(kind: Kind, block_hash: bytes = NO_BLOCK, *, slot: int = 7, signer: int = 2) -> Vote:
    return sign_vote(WITNESSES[signer], COMMITTEE, kind, slot=slot, block_hash=block_hash)


def proposal(time_ms: int, *, signer: int = 1) -> Proposal:
    forge = Forge(NETWORK)
    return sign_proposal(WITNESSES[signer], COMMITTEE, Block(forge.block(time_ms=time_ms).header, ()))


def head(*, time_ms: int = 2_000_000, slot: int = 1, signers: tuple[int, ...] = (0, 1, 2)) -> CertifiedHeader:
    forge = Forge(NETWORK)
    found = certify([forge.block(time_ms=time_ms, slot=slot, signers=[WITNESSES[i] for i in signers])])
    assert found is not None
    return found


def fork(one: CertifiedHeader, other: CertifiedHeader) -> Fork:
    found = find_fork(one, other, NETWORK.network_id)
    assert found is not None
    return found


def examples() -> list[Evidence]:
    votes = vote_pair(vote(Kind.SKIP), vote(Kind.FINAL, ONE))
    proposals = proposal_pair(proposal(2_000_000), proposal(2_000_001))
    assert votes is not None
    assert proposals is not None
    return [votes, proposals, fork(head(), head(time_ms=2_000_001, signers=(1, 2, 3)))]


NOTAR_1, NOTAR_2, SKIP = (Kind.NOTAR, ONE), (Kind.NOTAR, OTHER), (Kind.SKIP, NO_BLOCK)
FINAL_1, FINAL_2 = (Kind.FINAL, ONE), (Kind.FINAL, OTHER)
LIES = {
    frozenset(pair)
    for pair in (
        (NOTAR_1, NOTAR_2),
        (FINAL_1, FINAL_2),
        (SKIP, FINAL_1),
        (SKIP, FINAL_2),
        (NOTAR_1, FINAL_2),
        (NOTAR_2, FINAL_1),
    )
}


@pytest.mark.parametrize("said", [*product((NOTAR_1, NOTAR_2, SKIP, FINAL_1, FINAL_2), repeat=2)])
def test_every_pair_of_votes_is_a_lie_or_may_be_honest(said: tuple[tuple[Kind, bytes], ...]) -> None:
    first, second = (vote(kind, block_hash) for kind, block_hash in said)
    pair = vote_pair(first, second)
    assert (pair is not None) == (frozenset(said) in LIES)
    assert pair == vote_pair(second, first), "one record, whoever found it"
    if pair is not None:
        assert pair.verify(COMMITTEE)
        assert pair.culprits(COMMITTEE) == (LIAR.account,)


def test_votes_of_two_slots_witnesses_or_epochs_prove_nothing() -> None:
    final = vote(Kind.FINAL, ONE)
    assert vote_pair(final, vote(Kind.FINAL, OTHER, slot=8)) is None
    assert vote_pair(final, vote(Kind.FINAL, OTHER, signer=1)) is None
    later = replace(COMMITTEE, epoch=1)
    assert vote_pair(final, sign_vote(LIAR, later, Kind.FINAL, slot=7, block_hash=OTHER)) is None


@pytest.mark.parametrize("evidence", examples())
def test_it_is_worth_nothing_elsewhere(evidence: Evidence) -> None:
    assert evidence.verify(COMMITTEE)
    assert decode_evidence(evidence.encode()) == evidence
    assert len(evidence.encode()) <= EVIDENCE_BYTES_MAX
    assert not evidence.verify(genesis(name="another").committee)
    assert not evidence.verify(replace(COMMITTEE, epoch=1))
    assert not evidence.verify(replace(COMMITTEE, witnesses=tuple(w.account for w in WITNESSES[3:7])))


@pytest.mark.parametrize("evidence", examples())
def test_no_changed_byte_accuses(evidence: Evidence) -> None:
    encoded = evidence.encode()
    for place in range(len(encoded)):
        mutated = bytearray(encoded)
        mutated[place] ^= 1 << place % 8
        try:
            found = decode_evidence(bytes(mutated))
        except WireError:
            continue
        assert not found.verify(COMMITTEE), place


@pytest.mark.parametrize("evidence", examples())
def test_cut_longer_and_swapped_bytes_are_refused(evidence: Evidence) -> None:
    encoded, half = evidence.encode(), len(evidence.encode()) // 2
    swapped = encoded[:1] + encoded[1 + half :] + encoded[1 : 1 + half]
    for broken in (
        *(encoded[:size] for size in range(len(encoded))),
        encoded + b"\0",
        swapped,
        b"\4" + encoded[1:],
    ):
        with pytest.raises(WireError):
            decode_evidence(broken)


def test_random_bytes_never_raise_anything_else() -> None:
    dice = random.Random(3)
    for _ in range(300):
        kind = bytes((dice.choice((1, 2, 3)),))
        with pytest.raises(WireError):
            decode_evidence(kind + dice.randbytes(dice.randrange(600)))


def test_two_proposals_name_the_leader_of_the_slot() -> None:
    pair = proposal_pair(proposal(2_000_000), proposal(2_000_001))
    assert isinstance(pair, ProposalPair)
    assert pair.culprits(COMMITTEE) == (COMMITTEE.leader(1),)
    same = proposal(2_000_000)
    assert proposal_pair(same, same) is None
    framed = proposal_pair(proposal(2_000_000), proposal(2_000_001, signer=0))
    assert framed is not None
    assert not framed.verify(COMMITTEE), "a header that somebody else signed accuses nobody"
    with pytest.raises(WireError, match="64"):
        SignedHeader(same.header, b"short")


def test_a_fork_in_one_slot_names_whoever_signed_both() -> None:
    found = fork(head(), head(time_ms=2_000_001, signers=(1, 2, 3)))
    assert found.verify(COMMITTEE)
    assert found.culprits(COMMITTEE) == tuple(w.account for w in WITNESSES[1:3])
    assert found.suspects(COMMITTEE) == (), "they are named; no honest signer of one of the two is suspected"


def test_a_fork_of_two_slots_accuses_no_honest_witness() -> None:
    """A witness may vote FINAL in a slot that the others skip, and go on with them: it did nothing wrong."""
    found = fork(head(signers=(0, 1, 2)), head(slot=2, time_ms=2_000_001, signers=(1, 2, 3)))
    assert found.verify(COMMITTEE)
    assert found.culprits(COMMITTEE) == ()
    assert found.suspects(COMMITTEE) == tuple(w.account for w in WITNESSES[:3])
    assert found.place.slot == 1


def test_a_block_on_another_parent_is_a_fork() -> None:
    """A reader that holds height 1 need not hold the other chain's height 1."""
    ours, theirs = Forge(NETWORK), Forge(NETWORK)
    mine = certify([ours.block(time_ms=2_000_000)])
    theirs.block(time_ms=2_000_001)
    other = certify([theirs.block()])
    assert mine is not None
    assert other is not None
    assert other.header.height == 2
    assert fork(mine, other).verify(COMMITTEE)


def test_one_chain_is_no_fork() -> None:
    forge = Forge(NETWORK)
    blocks = [forge.block(kind=Kind.NOTAR if i % 2 else Kind.FINAL) for i in range(6)]
    heads = [found for i in range(6) if (found := certify(blocks[i:])) is not None]
    assert [len(found.descendants) for found in heads] == [0, 1, 0, 1, 0]
    for one, other in product(heads, heads):
        assert find_fork(one, other, NETWORK.network_id) is None
        if one != other:
            first, second = sorted((one, other), key=CertifiedHeader.encode)
            assert not Fork(first, second).verify(COMMITTEE)


def test_a_certified_header_stands_on_what_it_names() -> None:
    forge = Forge(NETWORK)
    blocks = [forge.block(kind=kind) for kind in (Kind.NOTAR, Kind.NOTAR, Kind.FINAL)]
    good = certify(blocks)
    assert good is not None
    assert good.verify(COMMITTEE)
    assert CertifiedHeader.decode(good.encode()) == good
    assert not replace(good, descendants=good.descendants[1:]).verify(COMMITTEE), "a link is missing"
    assert not replace(good, header=replace(good.header, time_ms=1)).verify(COMMITTEE)
    for broken in (
        lambda: replace(good, certificate=forge.certify(good.last, Kind.NOTAR)),
        lambda: replace(good, certificate=forge.certify(good.header)),
        lambda: replace(good, descendants=good.descendants * 300),
        lambda: CertifiedHeader.decode(good.encode() + b"\0"),
    ):
        with pytest.raises(WireError):
            broken()
    assert certify(blocks[:2]) is None
    assert certify(blocks[:1] * (DESCENDANTS_MAX + 5) + blocks[2:]) is None
