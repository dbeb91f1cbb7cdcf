"""Headers, blocks, proposals, votes and certificates (SPEC.md §6): layout, bounds, signatures."""

import struct
from dataclasses import replace
from typing import Any

import pytest

from ledger.core.block import (
    BLOCK_BYTES_MAX,
    BLOCK_ENTRIES_MAX,
    FINAL_BLOCK_BYTES_MAX,
    HEADER_BYTES,
    NO_BLOCK,
    NO_ROOT,
    STATE_ROOT_INTERVAL,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Proposal,
    Vote,
    sign_proposal,
    sign_vote,
)
from ledger.core.encoding import Kind, WireError, digest, signing_bytes
from ledger.core.entries import Expire, Transfer
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.votes import CERTIFICATE_BYTES_MAX, EPOCH_MAX, SLOT_MAX, VOTE_BYTES
from tests.core.ledger.ledger_forge import ALICE, BOB, WITNESSES, Forge, genesis

FORGE = Forge()
FINAL = FORGE.block([FORGE.sign(ALICE, Transfer(BOB.account, 5)), FORGE.sign(BOB, Expire(b"x" * 32))])
HEADER = FINAL.header
GENESIS = FORGE.genesis
COMMITTEE = GENESIS.committee
HASH = HEADER.hash(GENESIS.network_id)
LATER = replace(HEADER, slot=9, height=7, parent_slot=8, parent_hash=b"p" * 32)


def test_header_layout() -> None:
    encoded = HEADER.encode()
    assert len(encoded) == HEADER_BYTES == 145
    assert encoded == (
        struct.pack(">BIQQQ", 1, 0, 1, 1, 0)
        + HEADER.parent_hash
        + struct.pack(">QQ", HEADER.time_ms, 2)
        + HEADER.log_root
        + HEADER.state_root
        + struct.pack(">I", 2)
    )
    assert Header.decode(encoded) == HEADER
    assert digest(signing_bytes(Kind.PROPOSAL, GENESIS.network_id, encoded)) == HASH


def test_the_hash_differs_on_another_network() -> None:
    assert HEADER.hash(genesis(name="another").network_id) != HASH


@pytest.mark.parametrize(
    "change",
    [
        {"epoch": -1},
        {"epoch": 1 << 32},
        {"slot": 8},
        {"slot": SLOT_MAX + 1},
        {"height": 0},
        {"height": 10},
        {"height": 1},
        {"parent_slot": -1},
        {"parent_slot": 0},
        {"parent_hash": NO_BLOCK},
        {"parent_hash": b"short"},
        {"time_ms": -1},
        {"time_ms": TIME_MS_MAX + 1},
        {"tree_size": 1},
        {"tree_size": TIME_MS_MAX + 1},
        {"log_root": b"short"},
        {"state_root": b"short"},
        {"state_root": b"r" * 32},
        {"count": -1},
        {"count": BLOCK_ENTRIES_MAX + 1, "tree_size": BLOCK_ENTRIES_MAX + 1},
    ],
    ids=lambda change: "-".join(f"{name}" for name in change),
)
def test_header_bounds(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        replace(LATER, **change)


def test_header_bytes() -> None:
    encoded = HEADER.encode()
    for broken in (b"", encoded[:-1], encoded + b"\0", b"\0" + encoded[1:], b"\2" + encoded[1:]):
        with pytest.raises(WireError):
            Header.decode(broken)


def test_the_first_block_and_only_it_has_no_parent() -> None:
    for change in ({"parent_hash": b"p" * 32}, {"slot": 3, "parent_slot": 2}):
        with pytest.raises(WireError, match="first block"):
            replace(HEADER, **change)
    assert replace(HEADER, slot=3).height == 1


def test_a_state_root_stands_where_the_interval_says() -> None:
    height = STATE_ROOT_INTERVAL
    at = replace(LATER, slot=height + 1, height=height, parent_slot=height, state_root=b"r" * 32)
    assert Header.decode(at.encode()) == at
    with pytest.raises(WireError, match="state root"):
        replace(at, height=height - 1)
    assert HEADER.state_root == NO_ROOT


def test_block_and_proposal_round_trip() -> None:
    block = FINAL.block
    assert Block.decode(block.encode()) == block
    proposal = sign_proposal(WITNESSES[1], COMMITTEE, block)
    assert Proposal.decode(proposal.encode()) == proposal
    assert proposal.block == block
    assert proposal.verify(COMMITTEE)
    assert not proposal.verify(genesis(4, name="another").committee)
    assert not sign_proposal(WITNESSES[2], COMMITTEE, block).verify(COMMITTEE), "not the leader of slot 1"
    for decode, encoded in ((Block.decode, block.encode()), (Proposal.decode, proposal.encode())):
        for broken in (b"", encoded[:-1], encoded + b"\0", encoded[:200]):
            with pytest.raises(WireError):
                decode(broken)


def test_a_block_holds_as_many_entries_as_its_header_counts() -> None:
    with pytest.raises(WireError):
        Block(HEADER, FINAL.entries[:1])
    with pytest.raises(WireError):
        Proposal(HEADER, FINAL.entries[:1], bytes(64))
    with pytest.raises(WireError):
        Proposal(HEADER, FINAL.entries, bytes(63))
    with pytest.raises(WireError):
        FinalBlock(HEADER, FINAL.entries[:1], FINAL.certificate)


@pytest.mark.parametrize("kind", [Kind.NOTAR, Kind.SKIP, Kind.FINAL])
def test_votes(kind: Kind) -> None:
    block_hash = NO_BLOCK if kind is Kind.SKIP else HASH
    vote = sign_vote(WITNESSES[0], COMMITTEE, kind, slot=4, block_hash=block_hash)
    encoded = vote.encode()
    assert len(encoded) == VOTE_BYTES == 141
    assert encoded[:45] == struct.pack(">BIQ", kind, 0, 4) + block_hash
    assert Vote.decode(encoded) == vote
    assert vote.verify(COMMITTEE)
    assert not vote.verify(genesis(4, name="another").committee)
    assert not replace(vote, slot=5).verify(COMMITTEE)
    assert not replace(vote, epoch=1).verify(COMMITTEE)
    assert not replace(vote, witness=WITNESSES[1].account).verify(COMMITTEE)
    stranger = sign_vote(ALICE, COMMITTEE, kind, slot=4, block_hash=block_hash)
    assert not stranger.verify(COMMITTEE)
    for broken in (b"", encoded[:-1], encoded + b"\0", b"\1" + encoded[1:]):
        with pytest.raises(WireError):
            Vote.decode(broken)


def test_a_vote_of_one_kind_is_no_vote_of_another() -> None:
    notar = sign_vote(WITNESSES[0], COMMITTEE, Kind.NOTAR, slot=4, block_hash=HASH)
    assert not replace(notar, kind=Kind.FINAL).verify(COMMITTEE)


@pytest.mark.parametrize(
    "change",
    [
        {"kind": Kind.ENTRY},
        {"kind": Kind.SKIP},
        {"slot": 0},
        {"slot": SLOT_MAX + 1},
        {"epoch": -1},
        {"block_hash": NO_BLOCK},
        {"block_hash": b"short"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_subject_bounds(change: dict[str, Any]) -> None:
    vote = sign_vote(WITNESSES[0], COMMITTEE, Kind.NOTAR, slot=4, block_hash=HASH)
    with pytest.raises(WireError):
        replace(vote, **change)
    with pytest.raises(WireError):
        replace(FINAL.certificate, **change)
    subject: dict[str, Any] = {"kind": Kind.NOTAR, "slot": 4, "block_hash": HASH}
    subject |= change
    committee = replace(COMMITTEE, epoch=subject.pop("epoch", 0))
    with pytest.raises(WireError):
        sign_vote(WITNESSES[0], committee, **subject)


def test_vote_lengths() -> None:
    vote = sign_vote(WITNESSES[0], COMMITTEE, Kind.NOTAR, slot=4, block_hash=HASH)
    for change in ({"witness": b"short"}, {"signature": b"short"}):
        with pytest.raises(WireError):
            replace(vote, **change)


def final_votes(*witnesses: int) -> list[Vote]:
    return [sign_vote(WITNESSES[w], COMMITTEE, Kind.FINAL, slot=1, block_hash=HASH) for w in witnesses]


def test_certificate_from_votes_in_any_order() -> None:
    certificate = Certificate.from_votes(final_votes(3, 0, 2, 0), COMMITTEE)
    assert certificate.signers == 0b1101
    assert certificate.verify(COMMITTEE)
    assert certificate == Certificate.from_votes(final_votes(0, 2, 3), COMMITTEE)
    assert list(certificate.votes(COMMITTEE)) == final_votes(0, 2, 3)
    encoded = certificate.encode()
    assert len(encoded) == 1 + 4 + 8 + 32 + 8 + 3 * 64
    assert Certificate.decode(encoded) == certificate
    for broken in (b"", encoded[:-1], encoded + b"\0"):
        with pytest.raises(WireError):
            Certificate.decode(broken)


def test_what_makes_no_certificate() -> None:
    stranger = sign_vote(ALICE, COMMITTEE, Kind.FINAL, slot=1, block_hash=HASH)
    other = sign_vote(WITNESSES[3], COMMITTEE, Kind.NOTAR, slot=1, block_hash=HASH)
    for votes in (
        [],
        final_votes(0, 1),
        [*final_votes(0, 1), stranger],
        [*final_votes(0, 1, 2), stranger],
        [*final_votes(0, 1, 2), other],
    ):
        with pytest.raises(ValueError, match="certificate"):
            Certificate.from_votes(votes, COMMITTEE)


def test_a_certificate_needs_a_quorum_of_right_signatures() -> None:
    good = Certificate.from_votes(final_votes(0, 1, 2), COMMITTEE)
    assert good.verify(COMMITTEE)
    assert not good.verify(genesis(4, name="another").committee)
    assert not replace(good, signers=0b1011).verify(COMMITTEE), "signatures of other witnesses"
    assert not replace(good, signers=0b11, signatures=good.signatures[:2]).verify(COMMITTEE)
    assert not replace(good, signatures=(*good.signatures[:2], bytes(64))).verify(COMMITTEE)
    assert not replace(good, signatures=(good.signatures[0],) * 3).verify(COMMITTEE)
    beyond = replace(good, signers=0b10011)
    assert not beyond.verify(COMMITTEE)
    with pytest.raises(ValueError, match="beyond"):
        beyond.votes(COMMITTEE)
    everyone = Certificate.from_votes(final_votes(0, 1, 2, 3), COMMITTEE)
    assert everyone.verify(COMMITTEE)


def test_the_largest_records_are_as_large_as_their_limits_say() -> None:
    everyone = Certificate(Kind.FINAL, EPOCH_MAX, SLOT_MAX, HASH, (1 << 64) - 1, (bytes(64),) * 64)
    assert len(everyone.encode()) == CERTIFICATE_BYTES_MAX == 4149
    assert Certificate.decode(everyone.encode()) == everyone
    assert BLOCK_BYTES_MAX == 145 + 1000 * 244
    assert FINAL_BLOCK_BYTES_MAX == BLOCK_BYTES_MAX + 2 * CERTIFICATE_BYTES_MAX + 2 + 512 * HEADER_BYTES
    last = replace(
        LATER, epoch=EPOCH_MAX, slot=SLOT_MAX, time_ms=TIME_MS_MAX, tree_size=TIME_MS_MAX, count=1000
    )
    assert Header.decode(last.encode()) == last
    full = replace(HEADER, slot=1, height=1, count=1000, tree_size=1000)
    assert Header.decode(full.encode()) == full


def test_certificate_bounds() -> None:
    good = FINAL.certificate
    for change in (
        {"signers": 0, "signatures": ()},
        {"signers": 1},
        {"signers": 1 << 64, "signatures": good.signatures[:1]},
        {"signatures": (*good.signatures[:2], b"short")},
    ):
        with pytest.raises(WireError):
            replace(good, **change)


def test_final_block() -> None:
    assert FinalBlock.decode(FINAL.encode()) == FINAL
    assert FINAL.is_final
    assert FINAL.verify(COMMITTEE)
    assert not FINAL.verify(genesis(4, name="another").committee)
    encoded = FINAL.encode()
    for broken in (b"", encoded[:-1], encoded + b"\0"):
        with pytest.raises(WireError):
            FinalBlock.decode(broken)
    notarised = FORGE.certify(HEADER, Kind.NOTAR)
    assert not replace(FINAL, certificate=notarised).is_final
    assert replace(FINAL, certificate=notarised).verify(COMMITTEE)
    other = FORGE.certify(replace(HEADER, time_ms=HEADER.time_ms + 1))
    assert not replace(FINAL, certificate=other).verify(COMMITTEE), "a certificate for another header"


def test_a_final_block_does_not_carry_a_foreign_certificate() -> None:
    skip = [sign_vote(w, COMMITTEE, Kind.SKIP, slot=1) for w in WITNESSES[:3]]
    for certificate in (
        Certificate.from_votes(skip, COMMITTEE),
        replace(FINAL.certificate, slot=2),
        replace(FINAL.certificate, epoch=1),
    ):
        with pytest.raises(WireError):
            replace(FINAL, certificate=certificate)
