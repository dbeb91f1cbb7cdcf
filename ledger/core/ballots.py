"""Votes of a bounded window of slots, counted into certificates; contradictions are kept as evidence (SPEC.md §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ledger.core.docket import Docket
from ledger.core.encoding import Kind
from ledger.core.evidence import proposal_pair, vote_pair
from ledger.core.votes import VOTE_KINDS, Certificate, Vote

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.core.block import Proposal
    from ledger.core.committee import Committee
    from ledger.core.evidence import Evidence
    from ledger.core.keys import AccountId

__all__ = ["SLOTS_AHEAD_MAX", "Ballots"]

SLOTS_AHEAD_MAX: Final = 512
"""How far above the last final slot votes are kept. At three votes per witness this bounds memory;
with the slot timer's growth (SPEC.md §6) it takes hours of a broken network to get that far."""

_Key: TypeAlias = tuple[Kind, int]


class Ballots:
    """The votes and certificates of slots above the last final one. It is given verified votes only."""

    __slots__ = ("_certificates", "_committee", "_docket", "_floor", "_fresh", "_votes")

    def __init__(self, committee: Committee, final_slot: int) -> None:
        self._committee = committee
        self._floor = final_slot
        self._votes: dict[_Key, dict[AccountId, Vote]] = {}
        self._certificates: dict[_Key, Certificate] = {}
        self._fresh: list[Certificate] = []
        self._docket = Docket()

    def covers(self, slot: int) -> bool:
        """Whether votes for `slot` are kept: it is above the last final slot, and not too far."""
        return self._floor < slot <= self._floor + SLOTS_AHEAD_MAX

    def knows(self, vote: Vote) -> bool:
        """Whether this very vote is counted already (so its signature need not be checked again)."""
        return self._votes.get((vote.kind, vote.slot), {}).get(vote.witness) == vote

    def add(self, vote: Vote) -> Evidence | None:
        """Count a verified `vote`. Only a witness's first vote of a kind counts in a slot."""
        if not self.covers(vote.slot):
            return None
        found = self._contradiction(vote)
        votes = self._votes.setdefault((vote.kind, vote.slot), {})
        votes.setdefault(vote.witness, vote)
        self._certify(vote.kind, vote.slot, vote.block_hash)
        return found

    def contradict(self, first: Proposal, second: Proposal) -> Evidence | None:
        """Two different blocks that one leader signed for one slot."""
        return self.charge(proposal_pair(first, second))

    def charge(self, evidence: Evidence | None) -> Evidence | None:
        """Verified evidence of this epoch, if it is worth keeping: new, and not the hundredth of one liar."""
        if evidence is None or not self._docket.add(evidence, self._committee):
            return None
        return evidence

    def is_empty(self) -> bool:
        """Whether nothing is known about any slot above the last final one."""
        return not self._votes and not self._certificates

    def add_certificate(self, certificate: Certificate) -> None:
        """Take in a verified certificate of a covered slot; its votes count one by one, through `add`."""
        key = (certificate.kind, certificate.slot)
        if self.covers(certificate.slot) and key not in self._certificates:
            self._certificates[key] = certificate
            self._fresh.append(certificate)

    def take_fresh(self) -> tuple[Certificate, ...]:
        """The certificates that are new since the last call."""
        fresh, self._fresh = tuple(self._fresh), []
        return fresh

    def certificate(self, kind: Kind, slot: int) -> Certificate | None:
        """The certificate of `kind` for `slot`, if a quorum is known to have voted so."""
        return self._certificates.get((kind, slot))

    def notarised(self, slot: int) -> bytes | None:
        """The block a quorum notarised in `slot`. A FINAL certificate counts too: each of its signers notarised."""
        for kind in (Kind.FINAL, Kind.NOTAR):
            certificate = self._certificates.get((kind, slot))
            if certificate is not None:
                return certificate.block_hash
        return None

    def best(self, slot: int, block_hash: bytes) -> Certificate | None:
        """The certificate of that very block: FINAL if there is one, else NOTAR."""
        for kind in (Kind.FINAL, Kind.NOTAR):
            certificate = self._certificates.get((kind, slot))
            if certificate is not None and certificate.block_hash == block_hash:
                return certificate
        return None

    def skipped(self, slot: int) -> bool:
        """Whether a quorum skipped `slot`."""
        return (Kind.SKIP, slot) in self._certificates

    def finals(self) -> Iterator[Certificate]:
        """Every FINAL certificate above the last final slot."""
        yield from [c for (kind, _), c in self._certificates.items() if kind is Kind.FINAL]

    def voters(self, kind: Kind, slot: int) -> frozenset[AccountId]:
        """Who is known to have voted so in `slot`."""
        return frozenset(self._votes.get((kind, slot), ()))

    def votes_of(self, witness: AccountId, above_slot: int) -> list[Vote]:
        """Every vote of one witness in slots above `above_slot`."""
        found = [votes.get(witness) for (_, slot), votes in self._votes.items() if slot > above_slot]
        return [vote for vote in found if vote is not None]

    def forget(self, final_slot: int) -> None:
        """Slots up to `final_slot` are settled: nothing about them is needed any more."""
        self._floor = max(self._floor, final_slot)
        self._votes = {key: votes for key, votes in self._votes.items() if key[1] > self._floor}
        self._certificates = {key: found for key, found in self._certificates.items() if key[1] > self._floor}
        self._fresh = [certificate for certificate in self._fresh if certificate.slot > self._floor]

    def _certify(self, kind: Kind, slot: int, block_hash: bytes) -> None:
        if (kind, slot) in self._certificates:
            return
        votes = [vote for vote in self._votes[kind, slot].values() if vote.block_hash == block_hash]
        if len(votes) >= self._committee.quorum:
            self.add_certificate(Certificate.from_votes(votes, self._committee))

    def _contradiction(self, vote: Vote) -> Evidence | None:
        for kind in VOTE_KINDS:
            other = self._votes.get((kind, vote.slot), {}).get(vote.witness)
            if other is not None and (found := vote_pair(other, vote)) is not None:
                return self.charge(found)
        return None
