"""Simplex BFT: how n witnesses agree on one chain, as a machine without clock, socket or disk (SPEC.md §6).

After Chan and Pass, "Simplex Consensus: A Simple and Fast Consensus Protocol" (TCC 2023). In each slot a leader
proposes a block; witnesses notarise it or, when their timer runs out, skip the slot; a quorum of either opens the next
slot. Whoever sees a block notarised and did not skip its slot votes it final. A slot in which a quorum voted FINAL can
have no SKIP certificate, so every later block descends from it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.core.block import BLOCK_ENTRIES_MAX, FinalBlock, Proposal, sign_proposal
from ledger.core.chain import BadBlock, Chain
from ledger.core.consensus import (
    Ask,
    Message,
    Recall,
    Recalled,
    Relay,
    decode_message,
    encode_message,
    epoch_of,
)
from ledger.core.encoding import Kind, WireError
from ledger.core.events import (
    Action,
    Broadcast,
    CatchUp,
    CaughtUp,
    EpochOver,
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
from ledger.core.lineage import agreed_parent, stands_on_agreed
from ledger.core.mempool import Mempool
from ledger.core.own_votes import OwnVotes
from ledger.core.register import Register
from ledger.core.repair import FirstRelays, Patience, recalled, repeats, supplies
from ledger.core.timers import Pace, Timers, grown, is_timely
from ledger.core.votes import NO_BLOCK, Certificate, Vote, sign_vote

if TYPE_CHECKING:
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.state import Moment

__all__ = ["Simplex"]


class Simplex:
    """One witness in one epoch. `feed` it every event with the time; carry out the actions it answers in their order.

    A `PersistVote` must be durable before any later action of the same list is carried out; if it cannot be made
    durable, carry out nothing more of the list until it is (SPEC.md §6, R6.9). After `EpochOver` it votes no more.
    """

    def __init__(
        self,
        key: SigningKey,
        chain: Chain,
        now: Now,
        saved: Saved = Saved(),  # noqa: B008 - frozen
        *,
        pool: Mempool | None = None,
        asks: bool = False,
    ) -> None:
        """A witness of `chain.committee`; `pool` is the last epoch's, `asks` for what others remember of its votes.

        Whoever may start from a database that is an old copy must ask (R6.11): every real witness.
        """
        self.chain = chain
        self.genesis = chain.genesis
        self.committee = chain.committee
        self.pool = Mempool(self.genesis.network_id) if pool is None else pool
        self.slot, self.is_over = chain.tip.slot + 1, False
        self._key, self._me = key, key.account
        self._now = now
        self._moment: Moment | None = None  # of the entries that come in one round
        self._actions: list[Action] = []
        self._own = OwnVotes(self.committee, now.s, asks=asks)
        self._register = Register(self.committee, key.account, chain.tip.slot, self._own, self._act)
        self._ballots = self._register.ballots
        self.proposals = self._register.proposals
        self._final_certificate = saved.final_certificate
        self._silent: set[AccountId] = set()
        self._timers, self._pace, self._patience, self._fresh = Timers(), Pace(), Patience(), FirstRelays()
        self._may_build, self._asked = True, not asks
        self._register.restore(saved)

    @property
    def faults_tolerated(self) -> int:
        """How many witnesses may lie; 0 with fewer than four, where this only detects."""
        return self.committee.faults

    @property
    def remembers_all_votes(self) -> bool:
        """False once a vote of our own came back that was not saved: the database is an old copy."""
        return not self._own.has_forgotten

    @property
    def may_vote(self) -> bool:
        """Whether enough of the others said what they remember of our votes: nothing is signed before."""
        return self._own.knows_all

    def feed(self, *events: Event, now: Now) -> list[Action]:
        """What to do now that `events` happened. Entries submitted together share a block."""
        self._now, self._actions, self._moment = now, [], None
        for event in events:
            match event:
                case Received(peer, message):
                    self._receive(peer, message)
                case Submitted(entry):
                    if self._submit(entry):
                        self._fresh.take(entry)
                case CaughtUp(blocks):
                    self._catch_up(blocks)
                case Tick():
                    self._tick()
        self._conclude()
        for relay in self._fresh.due(now.s, self._actions, self.pool.wires):
            self._broadcast(relay)
        self._arm()
        return self._actions

    # What happened.

    def _receive(self, peer: AccountId, data: bytes) -> None:
        try:
            message: Message = decode_message(data, self.pool.wires)
        except WireError:
            return
        self._silent.discard(peer)
        if not self.is_over and not self._is_of_other_epoch(peer, message):
            self._hear(peer, message)

    def _hear(self, peer: AccountId, message: Message) -> None:
        match message:
            case Vote():
                self._register.vote(message)
            case Certificate():
                self._receive_certificate(peer, message)
            case Proposal():
                self._register.proposal(message, self.slot)
            case Ask() | Recall():
                self._answer(peer, message)
            case Relay(entries):
                self._fresh.drop(entries)
                for entry in entries:
                    self._submit(entry)
            case Recalled():
                if message.final_slot > self.chain.tip.slot:
                    self._act(CatchUp(peer))
                self._register.recalled(peer, message)
            case _:
                self._register.evidence(message)

    def _receive_certificate(self, peer: AccountId, certificate: Certificate) -> None:
        holds = self._register.certificate(certificate, self.chain.tip.slot)
        if holds and certificate.kind is Kind.FINAL:
            self._conclude()
            if certificate.slot > self.chain.tip.slot:
                self._act(CatchUp(peer))

    def _is_of_other_epoch(self, peer: AccountId, message: Message) -> bool:
        """Whether `message` is of another epoch. Who is ahead has blocks that we lack; who is behind asks for ours."""
        epoch = epoch_of(message)
        if epoch is None or epoch == self.committee.epoch:
            return False
        if epoch > self.committee.epoch:
            self._act(CatchUp(peer))
        elif isinstance(message, Recall):
            self._show_final(peer)
        return True

    def _submit(self, entry: Entry) -> bool:
        """Judge an entry; whether it waits here from now on."""
        before = len(self.pool)
        if self._moment is None:
            self._moment = self.chain.next_moment(self._now.wall_ms)
        entry_id, refusal = self.pool.offer(entry, self.chain.state, self._moment)
        self._act(Judged(entry_id, refusal))
        self._may_build = self._may_build or refusal is None
        return len(self.pool) > before

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
        judge = (self._learn_own_votes, self._finalise, self._execute, self._notarise)
        go_on = (self._vote_final, self._advance, self._propose)
        while not self.is_over and not self.chain.outdated and any(rule() for rule in judge + go_on):
            pass

    def _learn_own_votes(self) -> bool:
        """Vote from when enough of the others have said what they remember of us."""
        return self._own.conclude(self.chain.tip.slot, self._now.s)

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
        self._moment = None
        for block in blocks:
            self._act(Finalised(block))
            self.pool.settle(block.entries)
        slot = self.chain.tip.slot
        self._final_certificate = blocks[-1].finality
        if self.chain.committee.epoch != self.committee.epoch and not self.is_over:
            self.is_over = True
            self._broadcast(self._final_certificate)  # whoever goes must not leave the others behind
            self._act(EpochOver(self.committee.epoch))
        self._register.settle(slot)
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
            if not self._own.may_cast(Kind.NOTAR, slot) or self._ballots.skipped(slot):
                continue
            agreed = self._ballots.notarised(slot)
            for block_hash in self.proposals.of(slot):
                if agreed in {None, block_hash} and self._is_acceptable(block_hash, agreed is not None):
                    self._cast(Kind.NOTAR, slot, block_hash)
                    return True
        return False

    def _is_acceptable(self, block_hash: bytes, is_agreed: bool) -> bool:
        candidate, tip = self.chain.candidate(block_hash), self.chain.tip
        if candidate is None:
            return False
        header = candidate.block.header
        slot_ms = grown(self.chain.state.params.slot_timeout_ms, header.slot - tip.slot - 1)
        timely = is_timely(header.time_ms, self._now.wall_ms, slot_ms, is_agreed=is_agreed)
        return timely and stands_on_agreed(header, tip, self._ballots)

    def _vote_final(self) -> bool:
        """Vote FINAL where our own NOTAR became a certificate and we did not skip (R6.5)."""
        for vote in self._own.of_kind(Kind.NOTAR):
            if (Kind.SKIP, vote.slot) in self._own or not self._own.may_cast(Kind.FINAL, vote.slot):
                continue
            if self._ballots.notarised(vote.slot) == vote.block_hash:
                self._cast(Kind.FINAL, vote.slot, vote.block_hash)
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
        before = self.chain.candidate(self._ballots.notarised(slot - 1) or NO_BLOCK)
        timeout_s = self.chain.state.params.slot_timeout_ms / 1000
        self._pace.begin(self._now.s, timeout_s, before.block.header.count if before else 0)
        self.slot, self._may_build = slot, True
        own = {vote.block_hash for vote in self._own.of_kind(Kind.NOTAR)}
        for past in [past for past in self.proposals.slots() if past < slot]:
            self.proposals.keep_only(past, own | {self._ballots.notarised(past)})

    def _propose(self) -> bool:
        """As leader of the slot, propose once: what waits, or nothing at all if only that can make the rest final."""
        slot = self.slot
        if not self._may_build or self.committee.leader(slot) != self._me or (Kind.SKIP, slot) in self._own:
            return False
        parent_hash = agreed_parent(slot, self.chain, self._ballots)
        if parent_hash is None or not self._own.may_cast(Kind.NOTAR, slot):
            return False
        if self._pace.wakes_at_s(self._now.s) and len(self.pool) < BLOCK_ENTRIES_MAX:
            return False
        self._may_build = False
        candidate = self.chain.build(
            parent_hash, slot, self._now.wall_ms, self.pool.in_order(), is_verified=self.pool.vouches
        )
        pushes = parent_hash != self.chain.tip.block_hash and self._timers.is_half_over(self._now.s)
        if not candidate.block.entries and not pushes:
            return False
        proposal = sign_proposal(self._key, self.committee, candidate.block)
        self.chain.add(candidate)
        self.proposals.keep(proposal)
        self._cast(Kind.NOTAR, slot, candidate.tip.block_hash)
        return True

    def _cast(self, kind: Kind, slot: int, block_hash: bytes = NO_BLOCK) -> None:
        """Sign and send a vote. Order: 1 the vote is durable (with its block), 2 it leaves (R6.9)."""
        vote = sign_vote(self._key, self.committee, kind, slot=slot, block_hash=block_hash)
        proposal = self.proposals.of(slot)[block_hash] if kind is Kind.NOTAR else None
        self._own.keep(vote)
        self._act(PersistVote(vote, proposal, self._ballots.take_fresh()))
        if proposal is not None and self.committee.leader(slot) == self._me:
            self._broadcast(proposal)
        self._broadcast(vote)
        self._register.charge(self._ballots.add(vote))

    # Time.

    def _tick(self) -> None:
        self._may_build = True
        if self._timers.slot_is_over(self._now.s):
            for dropped in self.pool.sweep(self.chain.state, self.chain.next_moment(self._now.wall_ms)):
                self._act(Judged(dropped.entry_id, dropped.refusal))
            voted_final = (Kind.FINAL, self.slot) in self._own
            if self.is_waiting and not voted_final and self._own.may_cast(Kind.SKIP, self.slot):
                self._cast(Kind.SKIP, self.slot)
        if self._timers.repeat_is_due(self._now.s):
            self._repeat()

    def _arm(self) -> None:
        """Ask to be woken for the slot timer, which runs only while something waits, and for repeats."""
        if self.is_over or self.chain.outdated:
            return
        if not self._asked:
            self._asked = True
            self._broadcast(Recall(self.committee.epoch, self.chain.tip.slot))
        is_waiting = self.is_waiting
        slots_open = self.slot - self.chain.tip.slot - 1
        wake_at_s = self._timers.arm(
            self._now.s,
            slot_timeout_s=self.chain.state.params.slot_timeout_ms / 1000,
            runs=is_waiting and (Kind.SKIP, self.slot) not in self._own,
            repeats=not self._own.knows_all or is_waiting or slots_open > 0 or not self._ballots.is_empty(),
            slots_open=slots_open,
            is_leader_silent=self.committee.leader(self.slot) in self._silent,
        )
        waits = (each.wakes_at_s(self._now.s) for each in (self._own, self._pace))
        if wakes := [at_s for at_s in (wake_at_s, self._fresh.wakes_at_s, *waits) if at_s is not None]:
            self._act(WakeAt(min(wakes)))

    @property
    def is_waiting(self) -> bool:
        """Whether somebody waits for a block: an entry, a block that is not final, or witnesses who skip the slot."""
        if len(self.pool) or self.proposals.of(self.slot):
            return True
        if len(self._ballots.voters(Kind.SKIP, self.slot)) > self.committee.faults:
            return True
        return any(self._ballots.notarised(slot) for slot in range(self.chain.tip.slot + 1, self.slot))

    # Loss.

    def _repeat(self) -> None:
        """Say again what may have been lost, and ask for what is missing here."""
        self._asked = self._own.knows_all
        for message in repeats(
            self.slot,
            self.chain.tip,
            ballots=self._ballots,
            proposals=self.proposals,
            own=self._own,
            pool=self.pool,
            leads=self.committee.leader(self.slot) == self._me,
        ):
            self._broadcast(message)

    def _answer(self, peer: AccountId, question: Ask | Recall) -> None:
        """Send what the asker lacks; if it is ahead of us, catch up with it."""
        tip = self.chain.tip
        if question.final_slot > tip.slot:
            self._act(CatchUp(peer))
        if not self._patience.may_answer(peer, type(question), self._now.s):
            return
        if question.final_slot < tip.slot:
            self._show_final(peer)
        if isinstance(question, Recall):
            self._send(peer, recalled(peer, question, self.slot, tip.slot, self._ballots))
            if self._own.lacks(peer):  # it began after we had asked
                self._send(peer, Recall(self.committee.epoch, tip.slot))
            return
        slots = self.slot, tip.slot
        for message in supplies(question, *slots, ballots=self._ballots, proposals=self.proposals):
            self._send(peer, message)

    def _show_final(self, peer: AccountId) -> None:
        if self._final_certificate is not None:
            self._send(peer, self._final_certificate)

    # Leaves.

    def _act(self, action: Action) -> None:
        self._actions.append(action)

    def _broadcast(self, message: Message) -> None:
        if self.committee.n > 1:
            self._act(Broadcast(encode_message(message)))

    def _send(self, to: AccountId, message: Message) -> None:
        self._act(Send(to, encode_message(message)))
