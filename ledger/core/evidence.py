"""Proof, for anybody who knows the committee, that a witness lied (SPEC.md §7.4).

A record proves what it proves by itself: two signed statements that no honest witness makes together, or two
final blocks that no honest committee makes final together. It is verified before it is kept or passed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from ledger.core.block import HEADER_BYTES, Header
from ledger.core.encoding import Kind, Reader, WireError
from ledger.core.heads import CERTIFIED_HEADER_BYTES_MAX, CertifiedHeader, take_certified_header
from ledger.core.keys import SIGNATURE_BYTES, AccountId, verify
from ledger.core.votes import VOTE_BYTES, Vote

if TYPE_CHECKING:
    from ledger.core.block import Proposal
    from ledger.core.committee import Committee
    from ledger.core.encoding import NetworkId

__all__ = [
    "EVIDENCE_BYTES_MAX",
    "Evidence",
    "Fork",
    "Place",
    "ProposalPair",
    "SignedHeader",
    "VotePair",
    "decode_evidence",
    "find_fork",
    "proposal_pair",
    "vote_pair",
]

EVIDENCE_BYTES_MAX: Final = 1 + 2 * CERTIFIED_HEADER_BYTES_MAX
_VOTES, _PROPOSALS, _FORK = 1, 2, 3
_CONTRADICTIONS: Final = frozenset(
    (
        (Kind.NOTAR, Kind.NOTAR),
        (Kind.NOTAR, Kind.FINAL),  # who votes FINAL for a block voted NOTAR for the very same
        (Kind.SKIP, Kind.FINAL),
        (Kind.FINAL, Kind.FINAL),
    )
)


class Place(NamedTuple):
    """What a record is about: of several records of one place, one is enough."""

    kind: int
    epoch: int
    slot: int
    upper_slot: int
    """The other slot of a fork, if that is of two."""
    witness: bytes
    """Empty where the record alone does not name one: the committee does."""


@dataclass(frozen=True, slots=True)
class VotePair:
    """Two votes of one witness in one slot: NOTAR or FINAL for different blocks, or SKIP and FINAL."""

    first: Vote
    second: Vote

    def __post_init__(self) -> None:
        first, second = self.first, self.second
        if (first.witness, first.epoch, first.slot) != (second.witness, second.epoch, second.slot):
            raise WireError("evidence: the votes are of two witnesses or of two slots")
        if (first.kind, second.kind) not in _CONTRADICTIONS or first.block_hash == second.block_hash:
            raise WireError("evidence: an honest witness may cast both votes")
        if first.encode() > second.encode():
            raise WireError("evidence: the votes do not stand in the order of their bytes")

    @property
    def epoch(self) -> int:
        """The epoch of both."""
        return self.first.epoch

    @property
    def place(self) -> Place:
        """What this is about."""
        return Place(_VOTES, self.epoch, self.first.slot, self.first.slot, self.first.witness)

    def verify(self, committee: Committee) -> bool:
        """Whether a witness of `committee`, that of this epoch, signed both."""
        return self.first.verify(committee) and self.second.verify(committee)

    def culprits(self, committee: Committee) -> tuple[AccountId, ...]:
        """Who is proved to have lied; the record was verified."""
        return (self.first.witness,) if self.first.witness in committee else ()

    def suspects(self, _committee: Committee) -> tuple[AccountId, ...]:
        """Of whom only some lied: nobody, the proof names its one culprit."""
        return ()

    def encode(self) -> bytes:
        """Type, then the two votes: 283 bytes."""
        return bytes((_VOTES,)) + self.first.encode() + self.second.encode()


@dataclass(frozen=True, slots=True)
class SignedHeader:
    """A header with the signature of the leader that proposed it."""

    header: Header
    signature: bytes

    def __post_init__(self) -> None:
        if len(self.signature) != SIGNATURE_BYTES:
            raise WireError(f"signed header: a signature has {SIGNATURE_BYTES} bytes")

    def encode(self) -> bytes:
        """209 bytes: header, signature."""
        return self.header.encode() + self.signature


@dataclass(frozen=True, slots=True)
class ProposalPair:
    """Two different blocks that one leader proposed in one slot."""

    first: SignedHeader
    second: SignedHeader

    def __post_init__(self) -> None:
        first, second = self.first.header, self.second.header
        if (first.epoch, first.slot) != (second.epoch, second.slot):
            raise WireError("evidence: the proposals are of two slots")
        if first.encode() >= second.encode():
            raise WireError("evidence: the headers are equal, or not in the order of their bytes")

    @property
    def epoch(self) -> int:
        """The epoch of both."""
        return self.first.header.epoch

    @property
    def place(self) -> Place:
        """What this is about."""
        return Place(_PROPOSALS, self.epoch, self.first.header.slot, self.first.header.slot, b"")

    def verify(self, committee: Committee) -> bool:
        """Whether the slot's leader in `committee`, that of this epoch, signed both."""
        leader, network_id = committee.leader(self.first.header.slot), committee.network_id
        return committee.epoch == self.epoch and all(
            verify(leader, signed.signature, Kind.PROPOSAL, network_id, signed.header.encode())
            for signed in (self.first, self.second)
        )

    def culprits(self, committee: Committee) -> tuple[AccountId, ...]:
        """Who is proved to have lied; the record was verified."""
        return (committee.leader(self.first.header.slot),)

    def suspects(self, _committee: Committee) -> tuple[AccountId, ...]:
        """Of whom only some lied: nobody, the proof names its one culprit."""
        return ()

    def encode(self) -> bytes:
        """Type, then the two signed headers: 419 bytes."""
        return bytes((_PROPOSALS,)) + self.first.encode() + self.second.encode()


@dataclass(frozen=True, slots=True)
class Fork:
    """Two final blocks of one epoch that are not of one chain: more than f of its witnesses lied."""

    first: CertifiedHeader
    second: CertifiedHeader

    def __post_init__(self) -> None:
        if self.first.header.epoch != self.second.header.epoch:
            raise WireError("evidence: the two final blocks are of two epochs")
        if self.first.encode() >= self.second.encode():
            raise WireError("evidence: the final blocks are equal, or not in the order of their bytes")

    @property
    def epoch(self) -> int:
        """The epoch of both."""
        return self.first.header.epoch

    @property
    def place(self) -> Place:
        """What this is about: the slots of both certificates."""
        lower, upper = sorted((self.first.last.slot, self.second.last.slot))
        return Place(_FORK, self.epoch, lower, upper, b"")

    def verify(self, committee: Committee) -> bool:
        """Whether `committee`, that of this epoch, made both final, and they name two blocks of one height."""
        if _parting(self.first, self.second, committee.network_id) is None:
            return False
        return self.first.verify(committee) and self.second.verify(committee)

    def culprits(self, committee: Committee) -> tuple[AccountId, ...]:
        """Who is proved to have lied: whoever signed both certificates, if these are of one slot; else nobody.

        An honest witness may have voted FINAL in a slot that the others skipped, and gone on with them. So of two
        slots the signatures alone name only `suspects`.
        """
        first, second = self.first.certificate, self.second.certificate
        if first.slot != second.slot:
            return ()
        both = first.signers & second.signers
        return tuple(witness for i, witness in enumerate(committee.witnesses) if both >> i & 1)

    def suspects(self, committee: Committee) -> tuple[AccountId, ...]:
        """Those of whom more than f lied: the signers of the certificate of the lower slot.

        The higher block stands above that slot without descending from the lower one, so a quorum skipped the slot, or
        notarised another block in it; with at most f liars among these signers, the others were too few for that.
        Nobody, if both are of one slot: then `culprits` names them.
        """
        first, second = self.first.certificate, self.second.certificate
        if first.slot == second.slot:
            return ()
        lower = min(first, second, key=lambda found: found.slot)
        return tuple(witness for i, witness in enumerate(committee.witnesses) if lower.signers >> i & 1)

    def encode(self) -> bytes:
        """Type, then the two certified headers."""
        return bytes((_FORK,)) + self.first.encode() + self.second.encode()


Evidence: TypeAlias = VotePair | ProposalPair | Fork


def decode_evidence(data: bytes) -> Evidence:
    """The record in `data`; any other bytes are a `WireError`."""
    reader = Reader(data, "evidence")
    kind = reader.uint(1)
    found: Evidence
    if kind == _VOTES:
        found = VotePair(Vote.decode(reader.take(VOTE_BYTES)), Vote.decode(reader.take(VOTE_BYTES)))
    elif kind == _PROPOSALS:
        found = ProposalPair(_take_signed_header(reader), _take_signed_header(reader))
    elif kind == _FORK:
        found = Fork(take_certified_header(reader), take_certified_header(reader))
    else:
        raise WireError(f"evidence: {kind} is not a type of evidence")
    reader.end()
    return found


def vote_pair(one: Vote, other: Vote) -> VotePair | None:
    """The evidence that two verified votes make; None if an honest witness may cast both."""
    first, second = sorted((one, other), key=Vote.encode)
    try:
        return VotePair(first, second)
    except WireError:
        return None


def proposal_pair(one: Proposal, other: Proposal) -> ProposalPair | None:
    """The evidence that two verified proposals make; None if they are of two slots, or of one block."""
    signed = [SignedHeader(proposal.header, proposal.signature) for proposal in (one, other)]
    first, second = sorted(signed, key=SignedHeader.encode)
    try:
        return ProposalPair(first, second)
    except WireError:
        return None


def find_fork(one: CertifiedHeader, other: CertifiedHeader, network_id: NetworkId) -> Fork | None:
    """The evidence that two verified final headers make; None if both may be of one chain, or of two epochs."""
    if one.header.epoch != other.header.epoch or _parting(one, other, network_id) is None:
        return None
    first, second = sorted((one, other), key=CertifiedHeader.encode)
    return Fork(first, second)


def _parting(one: CertifiedHeader, other: CertifiedHeader, network_id: NetworkId) -> int | None:
    """A height at which the two name different blocks."""
    mine, theirs = one.names(network_id), other.names(network_id)
    return next((height for height in mine if theirs.get(height, mine[height]) != mine[height]), None)


def _take_signed_header(reader: Reader) -> SignedHeader:
    return SignedHeader(Header.decode(reader.take(HEADER_BYTES)), reader.take(SIGNATURE_BYTES))
