"""Simplex BFT: how n witnesses agree on one chain, as a machine without clock, socket or disk (SPEC.md §6).

After Chan and Pass, "Simplex Consensus: A Simple and Fast Consensus Protocol" (TCC 2023). In each slot a leader
proposes a block; witnesses notarise it or, when their timer runs out, skip the slot; a quorum of either opens the next
slot. Whoever sees a block notarised and did not skip its slot votes it final. A slot in which a quorum voted FINAL can
have no SKIP certificate, so every later block descends from it.
"""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from ledger.core.ballots import Ballots
from ledger.core.block import FinalBlock, Proposal, sign_proposal
from ledger.core.chain import BadBlock, Chain
from ledger.core.consensus import RELAYED_ENTRIES_MAX, Ask, Message, Relay, decode_message, encode_message
from ledger.core.encoding import Kind, WireError
from ledger.core.events import (
    Accuse,
    Action,
    Broadcast,
    CatchUp,
    CaughtUp,
    Event,
    Finalised,
    Judged,
    Now,
    PersistVote,
    Received,
    Saved,
    Send,
    Submitted,
    Tick,
    WakeAt,
)
from ledger.core.lineage import (
    agreed_parent,
    certificates_from,
    first_unproven,
    missing_block,
    stands_on_agreed,
)
from ledger.core.mempool import Mempool
from ledger.core.proposals import PROPOSAL_SLOTS_AHEAD_MAX, PROPOSALS_PER_SLOT_MAX, Proposals
from ledger.core.timers import Timers
from ledger.core.votes import NO_BLOCK, Certificate, Vote, sign_vote

if TYPE_CHECKING:
    from ledger.core.ballots import Evidence
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId, SigningKey

__all__ = ["CLOCK_AHEAD_MS_MAX", "Simplex"]

CLOCK_AHEAD_MS_MAX: Final = 5_000
"""How far a block's time may be ahead of a voter's clock; a block further ahead has to wait."""
ANSWER_GAP_S: Final = 0.05
FINAL_VOTES_REPEATED_MAX: Final = 8


class Simplex:
    """One witness. `feed` it every event with the time; carry out the actions it answers in their order.

    A `PersistVote` must be durable before any later action of the same list is carried out; if it cannot be made
    durable, carry out nothing more of the list until it is (SPEC.md §6, R6.9).
    """

    def __init__(self, key: SigningKey, chain: Chain, now: Now, saved: Saved = Saved()) -> None:  # noqa: B008 - frozen
        self.chain = chain
        self.genesis = chain.genesis
        self.committee = chain.committee
        self.pool = Mempool(self.genesis.network_id)
        self.slot = chain.tip.slot + 1
        self._key = key
        self._me = key.account
        self._now = now
        self._actions: list[Action] = []
        self._ballots = Ballots(self.committee, chain.tip.slot)
        self._own: dict[tuple[Kind, int], Vote] = {}
        self.proposals = Proposals(self.genesis.network_id)
        self._final_certificate = saved.final_certificate
        self._silent: set[AccountId] = set()
        self._abstain_until_slot = 0
        self._timers = Timers(self.genesis.slot_timeout_ms / 1000)
        self._may_build = True
        self._answered_s: dict[AccountId, float] = {}
        self._restore(saved)

    @property
    def faults_tolerated(self) -> int:
        """How many witnesses may lie; 0 with fewer than four, where this only detects."""
        return self.committee.faults

    @property
    def remembers_all_votes(self) -> bool:
        """False once a vote of our own came back that was not saved: the database is an old copy."""
        return not self._abstain_until_slot

    def feed(self, *events: Event, now: Now) -> list[Action]:
        """What to do now that `events` happened. Entries submitted together share a block."""
        self._now, self._actions = now, []
        for event in events:
            match event:
                case Received(peer, message):
                    self._receive(peer, message)
                case Submitted(entry):
                    self._submit(entry)
                case CaughtUp(blocks):
                    self._catch_up(blocks)
                case Tick():
                    self._tick()
        self._conclude()
        self._arm()
        return self._actions

    # What happened.

    def _restore(self, saved: Saved) -> None:
        for vote in saved.votes:
            if self._ballots.covers(vote.slot):
                self._own[vote.kind, vote.slot] = vote
                self._ballots.add(vote)
        for certificate in saved.certificates:
            self._ballots.add_certificate(certificate)
        for proposal in saved.proposals:
            if self._ballots.covers(proposal.header.slot):
                self.proposals.keep(proposal)

    def _receive(self, peer: AccountId, data: bytes) -> None:
        try:
            message: Message = decode_message(data)
        except WireError:
            return
        self._silent.discard(peer)
        match message:
            case Vote():
                self._receive_vote(message)
            case Certificate():
                self._receive_certificate(peer, message)
            case Proposal():
                self._receive_proposal(message)
            case Ask():
                self._answer(peer, message)
            case Relay(entries):
                for entry in entries:
                    self._submit(entry)

    def _receive_vote(self, vote: Vote) -> None:
        if (
            not self._ballots.covers(vote.slot)
            or self._ballots.knows(vote)
            or not vote.verify(self.committee)
        ):
            return
        self._count(vote)

    def _count(self, vote: Vote) -> None:
        if vote.witness == self._me and (vote.kind, vote.slot) not in self._own:
            # Our own signature on something we do not remember: this database is an old copy. Take the vote as ours
            # again, and sign nothing in slots that may hold more of them.
            self._own[vote.kind, vote.slot] = vote
            self._abstain_until_slot = max(self._abstain_until_slot, vote.slot + 1)
            self._actions.append(PersistVote(vote, None))
        self._accuse(self._ballots.add(vote))

    def _receive_certificate(self, peer: AccountId, certificate: Certificate) -> None:
        if not self._ballots.covers(certificate.slot) and certificate.slot <= self.chain.tip.slot:
            return
        if self._ballots.certificate(certificate.kind, certificate.slot) is None:
            if not certificate.verify(self.committee):
                return
            for vote in certificate.votes(self.committee):
                self._count(vote)
            self._ballots.add_certificate(certificate)
        if certificate.kind is Kind.FINAL:
            self._conclude()
            if certificate.slot > self.chain.tip.slot:
                self._actions.append(CatchUp(peer))

    def _receive_proposal(self, proposal: Proposal) -> None:
        slot = proposal.header.slot
        if not self._ballots.covers(slot) or slot > self.slot + PROPOSAL_SLOTS_AHEAD_MAX:
            return
        block_hash = proposal.header.hash(self.genesis.network_id)
        kept = self.proposals.of(slot)
        wanted = self._ballots.notarised(slot) == block_hash
        if block_hash in kept or block_hash in self.proposals.rejected:
            return
        if not wanted and (len(kept) >= PROPOSALS_PER_SLOT_MAX or slot < self.slot):
            return
        if not proposal.verify(self.committee):
            return
        for other in kept.values():
            self._accuse(self._ballots.contradict(other, proposal))
        self.proposals.keep(proposal)

    def _submit(self, entry: Entry) -> None:
        at = self.chain.next_moment(self._now.wall_ms)
        self._actions.append(judged := Judged(*self.pool.offer(entry, self.chain.state, at)))
        self._may_build = self._may_build or judged.refusal is None

    def _catch_up(self, blocks: tuple[FinalBlock, ...]) -> None:
        for block in blocks:
            try:
                final = self.chain.accept(block, is_verified=self.pool.vouches)
            except BadBlock:
                return
            self._settle(final)

    # What follows from it.

    def _conclude(self) -> None:
        """Draw every consequence of what is known; each may make others possible."""
        rules = (
            self._finalise,
            self._execute,
            self._notarise,
            self._vote_final,
            self._advance,
            self._propose,
        )
        while any(rule() for rule in rules):
            pass

    def _finalise(self) -> bool:
        """Make final what a FINAL certificate covers and every link of which is here."""
        for final in sorted(self._ballots.finals(), key=lambda certificate: certificate.slot, reverse=True):
            for candidate in self.chain.path_to(final.block_hash) or ():
                best = self._ballots.best(candidate.tip.slot, candidate.tip.block_hash)
                candidate.certificate = best or candidate.certificate
            blocks = self.chain.finalise(final.block_hash)
            if blocks:
                self._settle(blocks)
                return True
        return False

    def _settle(self, blocks: list[FinalBlock]) -> None:
        """These blocks are final: hand them out, and forget what was only about their slots."""
        if not blocks:
            return
        for block in blocks:
            self._actions.append(Finalised(block))
            self.pool.settle(block.entries)
        slot = self.chain.tip.slot
        self._final_certificate = blocks[-1].certificate
        self._ballots.forget(slot)
        self._own = {key: vote for key, vote in self._own.items() if key[1] > slot}
        self.proposals.settle(slot)
        self._enter(max(self.slot, slot + 1))

    def _execute(self) -> bool:
        """Judge a proposal whose parent is known; blocks of slots still to come can wait."""
        for slot in [slot for slot in self.proposals.slots() if slot <= self.slot]:
            for block_hash, proposal in self.proposals.of(slot).items():
                known = block_hash in self.proposals.rejected or self.chain.candidate(block_hash) is not None
                if known or not self.chain.holds(proposal.header.parent_hash):
                    continue
                fault = self.chain.execute(proposal.block, is_verified=self.pool.vouches)
                if fault is not None:
                    self.proposals.rejected[block_hash] = fault
                return True
        return False

    def _notarise(self) -> bool:
        """Vote for a valid block on an agreed parent: once per slot, whatever else happens (R6.3)."""
        for slot in self.proposals.slots():
            if not self._may_vote(Kind.NOTAR, slot) or self._ballots.skipped(slot):
                continue
            agreed = self._ballots.notarised(slot)
            for block_hash in self.proposals.of(slot):
                if agreed in {None, block_hash} and self._is_acceptable(block_hash):
                    self._cast(Kind.NOTAR, slot, block_hash)
                    return True
        return False

    def _is_acceptable(self, block_hash: bytes) -> bool:
        candidate = self.chain.candidate(block_hash)
        if candidate is None or candidate.tip.time_ms > self._now.wall_ms + CLOCK_AHEAD_MS_MAX:
            return False
        return stands_on_agreed(candidate.block.header, self.chain.tip, self._ballots)

    def _vote_final(self) -> bool:
        """Vote FINAL where our own NOTAR became a certificate and we did not skip (R6.5)."""
        for (kind, slot), vote in self._own.items():
            if (
                kind is not Kind.NOTAR
                or (Kind.SKIP, slot) in self._own
                or not self._may_vote(Kind.FINAL, slot)
            ):
                continue
            if self._ballots.notarised(slot) == vote.block_hash:
                self._cast(Kind.FINAL, slot, vote.block_hash)
                return True
        return False

    def _advance(self) -> bool:
        """Enter the first slot that is neither notarised nor skipped."""
        slot = self.slot
        while (agreed := self._ballots.notarised(slot)) is not None or self._ballots.skipped(slot):
            leader = self.committee.leader(slot)
            if agreed is None and leader != self._me:
                self._silent.add(leader)
            elif agreed is not None:
                self._silent.discard(leader)
            slot += 1
        if slot == self.slot:
            return False
        self._enter(slot)
        return True

    def _enter(self, slot: int) -> None:
        """Be in `slot`, with new timers; proposals of passed slots that nobody stands for are dropped."""
        self._timers.restart(is_new_slot=slot != self.slot)
        self.slot, self._may_build = slot, True
        for past in [past for past in self.proposals.slots() if past < slot]:
            own = self._own.get((Kind.NOTAR, past))
            self.proposals.keep_only(
                past, {self._ballots.notarised(past), own.block_hash if own is not None else None}
            )

    def _propose(self) -> bool:
        """As leader of the slot, propose once: what waits, or nothing at all if only that can make the rest final."""
        slot = self.slot
        if not self._may_build or self.committee.leader(slot) != self._me or (Kind.SKIP, slot) in self._own:
            return False
        parent_hash = agreed_parent(slot, self.chain, self._ballots)
        if parent_hash is None or not self._may_vote(Kind.NOTAR, slot):
            return False
        self._may_build = False
        candidate = self.chain.build(parent_hash, slot, self._now.wall_ms, self.pool.in_order())
        pushes = parent_hash != self.chain.tip.block_hash and self._timers.is_half_over(self._now.s)
        if not candidate.block.entries and not pushes:
            return False
        proposal = sign_proposal(self._key, self.committee, candidate.block)
        self.chain.add(candidate)
        self.proposals.keep(proposal)
        self._cast(Kind.NOTAR, slot, candidate.tip.block_hash)
        return True

    def _may_vote(self, kind: Kind, slot: int) -> bool:
        return (kind, slot) not in self._own and slot >= self._abstain_until_slot

    def _cast(self, kind: Kind, slot: int, block_hash: bytes = NO_BLOCK) -> None:
        """Sign and send a vote. Order: 1 the vote is durable (with its block), 2 it leaves.

        A crash after 1 and before 2 leaves a vote that `_repeat` sends after the restart; without 1 a restarted
        witness could sign the opposite, which forked 12 of 60 simulated networks.
        """
        vote = sign_vote(self._key, self.committee, kind, slot=slot, block_hash=block_hash)
        proposal = self.proposals.of(slot)[block_hash] if kind is Kind.NOTAR else None
        self._own[kind, slot] = vote
        self._actions.append(PersistVote(vote, proposal, self._ballots.take_fresh()))
        if proposal is not None and self.committee.leader(slot) == self._me:
            self._broadcast(proposal)
        self._broadcast(vote)
        self._accuse(self._ballots.add(vote))

    # Time.

    def _tick(self) -> None:
        self._may_build = True
        if self._timers.slot_is_over(self._now.s):
            for dropped in self.pool.sweep(self.chain.state, self.chain.next_moment(self._now.wall_ms)):
                self._actions.append(Judged(dropped.entry_id, dropped.refusal))
            voted_final = (Kind.FINAL, self.slot) in self._own
            if self._is_waiting() and not voted_final and self._may_vote(Kind.SKIP, self.slot):
                self._cast(Kind.SKIP, self.slot)
        if self._timers.repeat_is_due(self._now.s):
            self._repeat()

    def _arm(self) -> None:
        """Ask to be woken for the slot timer, which runs only while something waits, and for repeats."""
        is_waiting = self._is_waiting()
        slots_open = self.slot - self.chain.tip.slot - 1
        wake_at_s = self._timers.arm(
            self._now.s,
            runs=is_waiting and (Kind.SKIP, self.slot) not in self._own,
            repeats=is_waiting or slots_open > 0 or not self._ballots.is_empty(),
            slots_open=slots_open,
            is_leader_silent=self.committee.leader(self.slot) in self._silent,
        )
        if wake_at_s is not None:
            self._actions.append(WakeAt(wake_at_s))

    def _is_waiting(self) -> bool:
        """Whether somebody waits for a block: an entry, a block that is not final, or witnesses who skip the slot."""
        if len(self.pool) or self.proposals.of(self.slot):
            return True
        if len(self._ballots.voters(Kind.SKIP, self.slot)) > self.committee.faults:
            return True
        return any(self._ballots.notarised(slot) for slot in range(self.chain.tip.slot + 1, self.slot))

    # Loss.

    def _repeat(self) -> None:
        """Say again what may have been lost, and ask for what is missing here."""
        slot = self.slot
        tip = self.chain.tip
        unproven = first_unproven(slot, tip, self._ballots, self.proposals.of(slot).values())
        self._broadcast(Ask(unproven, tip.slot, missing_block(slot, tip, self._ballots, self.proposals)))
        own = self._own.get((Kind.NOTAR, slot))
        if own is not None and self.committee.leader(slot) == self._me:
            self._broadcast(self.proposals.of(slot)[own.block_hash])
        finals = [vote for (kind, _), vote in self._own.items() if kind is Kind.FINAL]
        here = [vote for (_, at), vote in self._own.items() if at == slot]
        for vote in here + finals[-FINAL_VOTES_REPEATED_MAX:]:
            self._broadcast(vote)
        waiting = tuple(entry for _, entry in islice(self.pool.in_order(), RELAYED_ENTRIES_MAX))
        if waiting:
            self._broadcast(Relay(waiting))

    def _answer(self, peer: AccountId, ask: Ask) -> None:
        """Send what the asker lacks, at most once per ANSWER_GAP_S; if it is ahead of us, catch up with it."""
        if self._now.s - self._answered_s.get(peer, -ANSWER_GAP_S) < ANSWER_GAP_S:
            return
        self._answered_s[peer] = self._now.s
        final_slot = self.chain.tip.slot
        if ask.final_slot > final_slot:
            self._actions.append(CatchUp(peer))
        elif ask.final_slot < final_slot and self._final_certificate is not None:
            self._send(peer, self._final_certificate)
        for certificate in certificates_from(max(ask.slot, final_slot + 1), self.slot, self._ballots):
            self._send(peer, certificate)
        wanted = self.proposals.find(ask.block_hash)
        if wanted is not None:
            self._send(peer, wanted)

    # Leaves.

    def _broadcast(self, message: Message) -> None:
        if self.committee.n > 1:
            self._actions.append(Broadcast(encode_message(message)))

    def _send(self, to: AccountId, message: Message) -> None:
        self._actions.append(Send(to, encode_message(message)))

    def _accuse(self, evidence: Evidence | None) -> None:
        if evidence is not None:
            self._actions.append(Accuse(evidence))
