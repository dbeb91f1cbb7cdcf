"""What one witness knows of the slots that are not settled: it takes in what others say, and checks it first.

Votes are counted into certificates, proposals kept, own votes remembered, contradictions charged (SPEC.md §6). What
follows from it is the machine's to decide (`simplex.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.core.ballots import Ballots
from ledger.core.consensus import encode_message
from ledger.core.events import Accuse, Broadcast, PersistVote
from ledger.core.proposals import PROPOSAL_SLOTS_AHEAD_MAX, PROPOSALS_PER_SLOT_MAX, Proposals

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.block import Proposal
    from ledger.core.committee import Committee
    from ledger.core.consensus import Recalled
    from ledger.core.events import Action, Saved
    from ledger.core.evidence import Evidence
    from ledger.core.keys import AccountId
    from ledger.core.own_votes import OwnVotes
    from ledger.core.votes import Certificate, Vote

__all__ = ["Register"]


class Register:
    """The votes, certificates and proposals of one epoch's open slots, as one witness knows them."""

    def __init__(
        self,
        committee: Committee,
        me: AccountId,
        final_slot: int,
        own: OwnVotes,
        act: Callable[[Action], None],
    ) -> None:
        """`act` is given what must be made durable or said because of what came in."""
        self.ballots = Ballots(committee, final_slot)
        self.proposals = Proposals(committee.network_id)
        self.own = own
        self._committee = committee
        self._me = me
        self._act = act

    def restore(self, saved: Saved) -> None:
        """Take in what this witness had made durable."""
        for vote in saved.votes:
            if self.ballots.covers(vote.slot):
                self.own.keep(vote)
                self.ballots.add(vote)
        for certificate in saved.certificates:
            self._add(certificate)
        for proposal in saved.proposals:
            if self.ballots.covers(proposal.header.slot):
                self.proposals.keep(proposal)

    def vote(self, vote: Vote) -> None:
        """Count a vote, if it is of an open slot, new, and its witness signed it."""
        if self.ballots.covers(vote.slot) and not self.ballots.knows(vote) and vote.verify(self._committee):
            self.count(vote)

    def count(self, vote: Vote) -> None:
        """Count a verified vote; one of our own that was forgotten is ours again, and made durable."""
        if not self.ballots.covers(vote.slot):
            return
        if vote.witness == self._me and self.own.remember(vote):
            self._act(PersistVote(vote, None))
        self.charge(self.ballots.add(vote))

    def certificate(self, certificate: Certificate, tip_slot: int) -> bool:
        """Take in a certificate, and the votes in it; whether it holds and may be about an open slot."""
        if not self.ballots.covers(certificate.slot) and certificate.slot <= tip_slot:
            return False
        if self.ballots.certificate(certificate.kind, certificate.slot) is None:
            if not certificate.verify(self._committee):
                return False
            self._add(certificate)
        return True

    def recalled(self, peer: AccountId, answer: Recalled) -> None:
        """What `peer` remembers of our votes. Nobody can invent one: a false answer is one that lacks some."""
        if all(vote.witness == self._me and vote.verify(self._committee) for vote in answer.votes):
            for vote in answer.votes:
                self.count(vote)
            self.own.hear(peer, answer.final_slot, answer.slot)

    def proposal(self, proposal: Proposal, present_slot: int) -> None:
        """Keep a proposal of the slot's leader, if it is one of the first, or the one that a quorum notarised."""
        slot = proposal.header.slot
        if not self.ballots.covers(slot) or slot > present_slot + PROPOSAL_SLOTS_AHEAD_MAX:
            return
        block_hash = proposal.header.hash(self._committee.network_id)
        kept = self.proposals.of(slot)
        wanted = self.ballots.notarised(slot) == block_hash
        if block_hash in kept or block_hash in self.proposals.rejected:
            return
        if not wanted and (len(kept) >= PROPOSALS_PER_SLOT_MAX or slot < present_slot):
            return
        if not proposal.verify(self._committee):
            return
        for other in kept.values():
            self.charge(self.ballots.contradict(other, proposal))
        self.proposals.keep(proposal)

    def evidence(self, evidence: Evidence) -> None:
        """Take in proof that another witness found."""
        if evidence.verify(self._committee):
            self.charge(self.ballots.charge(evidence))

    def charge(self, evidence: Evidence | None) -> None:
        """New evidence is kept and passed on, once."""
        if evidence is not None:
            self._act(Accuse(evidence))
            self._act(Broadcast(encode_message(evidence)))

    def settle(self, final_slot: int) -> None:
        """Slots up to `final_slot` are settled: nothing about them is needed any more."""
        self.ballots.forget(final_slot)
        self.own.settle(final_slot)
        self.proposals.settle(final_slot)

    def _add(self, certificate: Certificate) -> None:
        for vote in certificate.votes(self._committee):
            self.count(vote)
        self.ballots.add_certificate(certificate)
