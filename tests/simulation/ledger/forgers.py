"""Liars that forge: blocks that break a rule, certificates that nobody signed, answers that are not so."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ledger.core.block import FinalBlock, Proposal, sign_proposal
from ledger.core.consensus import Ask, Recalled, decode_message, encode_message
from ledger.core.encoding import Kind, WireError
from ledger.core.events import Action, Broadcast, Event, Received, Send
from ledger.core.votes import NO_BLOCK, Certificate, Vote, sign_vote
from tests.simulation.ledger.liars import Equivocator, Liar, Noisy, Silent, Stale, Withholder, decoded

if TYPE_CHECKING:
    from ledger.core.block import Block, Header
    from ledger.core.entries import Entry
    from ledger.core.keys import SigningKey
    from tests.simulation.ledger.simulation import Simulation

__all__ = ["Backdater", "Deceiver", "Forger", "make_liar"]


class Forger(Liar):
    """Votes for whatever is proposed, and as leader proposes what breaks a rule: parents, times, roots, entries."""

    def __init__(self, simulation: Simulation, key: SigningKey, number: int) -> None:
        super().__init__(simulation, key, number)
        self._led: set[int] = set()
        self._known: list[tuple[int, bytes]] = [(0, NO_BLOCK)]

    def act(self, action: Action) -> None:
        message = decode_message(action.message) if isinstance(action, Broadcast | Send) else None
        if not (isinstance(message, Proposal) and message.header.slot in self._led):
            super().act(action)

    def lie(self, event: Event) -> None:
        message = decoded(event.message) if isinstance(event, Received) else None
        if isinstance(message, Proposal):
            slot, name = message.header.slot, message.header.hash(self.simulation.genesis.network_id)
            self._known = [*self._known[-20:], (slot, name)]
            for kind in (Kind.NOTAR, Kind.FINAL):
                self.tell(self.others(), self.sign(kind, slot, name))
        parent_hash = self.may_lead()
        if parent_hash is not None and self.shadow.slot not in self._led:
            self._led.add(self.shadow.slot)
            candidates = self.shadow.chain._candidates.items()
            others = [parent_hash, *(name for name, item in candidates if item.tip.slot < self.shadow.slot)]
            if self.random.random() < 0.3:  # a good block, but for what it stands on
                parent_hash = self.random.choice(others)
                self._say(self.build(parent_hash, self.clock.now().wall_ms))
            else:
                self._propose(self.build(parent_hash, self.clock.now().wall_ms))

    def _propose(self, block: Block) -> None:
        header, entries = self._spoil(block.header, block.entries)
        try:
            forged = replace(header, count=len(entries), tree_size=max(len(entries), header.tree_size))
            self._say(type(block)(forged, entries))
        except WireError:
            return

    def _say(self, block: Block) -> None:
        proposal = sign_proposal(self.key, self.committee, block)
        name = block.header.hash(self.simulation.genesis.network_id)
        self.tell(self.others(), encode_message(proposal))
        for kind in (Kind.NOTAR, Kind.FINAL):
            self.tell(self.others(), self.sign(kind, block.header.slot, name))

    def _spoil(self, header: Header, entries: tuple[Entry, ...]) -> tuple[Header, tuple[Entry, ...]]:
        chance = self.random
        way = chance.randrange(9)
        if way == 0:  # another parent, perhaps one that was skipped, or settled long ago
            slot, name = chance.choice(self._known)
            return replace_header(header, parent_slot=slot, parent_hash=name), entries
        if way == 1:
            return replace_header(header, time_ms=header.time_ms - chance.randint(1, 10_000)), entries
        if way == 2:
            return replace_header(header, time_ms=header.time_ms + chance.randint(6_000, 90_000)), entries
        if way == 3:
            return replace_header(header, log_root=bytes(32)), entries
        if way == 4:
            return replace_header(header, height=header.height + chance.choice((-1, 1))), entries
        if way == 5 and entries:  # the same entry twice
            return self._over(header, (*entries, entries[0]))
        if way == 6 and entries:  # a signature with one bit wrong: the id stays
            first = entries[0]
            bad = replace(first, signature=bytes((first.signature[0] ^ 1,)) + first.signature[1:])
            return self._over(header, (bad, *entries[1:]))
        if way == 7 and len(entries) > 1:
            return self._over(header, entries[::-1])
        repeated = [entry for block in self.simulation.referee.chain[-3:] for entry in block.entries]
        if repeated:  # what is final already
            return self._over(header, (chance.choice(repeated), *entries))
        return replace_header(header, epoch=header.epoch + 1), entries

    def _over(self, header: Header, entries: tuple[Entry, ...]) -> tuple[Header, tuple[Entry, ...]]:
        """The header of a log that really holds these entries."""
        chain = self.shadow.chain
        if not chain.holds(header.parent_hash):
            return header, entries
        _, peaks, _ = chain._parent(header.parent_hash)
        peaks = peaks.extend(entry.encode() for entry in entries)
        return replace(header, count=len(entries), tree_size=peaks.size, log_root=peaks.root()), entries


class Backdater(Forger):
    """Takes part, and as leader proposes a good block that bears its parent's time, however long ago that was."""

    def act(self, action: Action) -> None:
        message = decode_message(action.message) if isinstance(action, Broadcast | Send) else None
        if isinstance(message, Proposal | Vote) and not _is_skip(message):
            slot = message.slot if isinstance(message, Vote) else message.header.slot
            if self.committee.leader(slot) == self.account:
                return  # of the slots that it leads it says nothing else
        Liar.act(self, action)

    def lie(self, event: Event) -> None:
        parent_hash = self.may_lead()
        if parent_hash is not None and self.shadow.slot not in self._led:
            self._led.add(self.shadow.slot)
            self._say(self.build(parent_hash, 0))


class Deceiver(Liar):
    """Votes well, and lies to whoever asks: blocks that nobody certified, other entries, a head that is not there.

    Of the votes of a witness that starts, it says that it remembers none.
    """

    def act(self, action: Action) -> None:
        message = decode_message(action.message) if isinstance(action, Send) else None
        if isinstance(action, Send) and isinstance(message, Recalled):
            action = Send(action.to, encode_message(replace(message, votes=())))
        super().act(action)

    def lie(self, event: Event) -> None:
        if self.random.random() < 0.01:
            far = self.shadow.chain.tip.slot + self.random.randint(1, 1000)
            self.tell([self.random.choice(self.others())], encode_message(Ask(far + 1, far)))

    def blocks(self, height: int, asker: int) -> tuple[FinalBlock, ...]:
        true = list(super().blocks(height, asker))
        chance = self.random
        if not true or chance.random() < 0.2:
            return ()
        at = chance.randrange(len(true))
        try:
            forged = self._forge(true[at], height)
        except WireError:
            return ()
        return (*true[:at], *forged, *true[at + 1 :])

    def _forge(self, block: FinalBlock, height: int) -> list[FinalBlock]:
        way = self.random.randrange(5)
        if way == 0:
            return [FinalBlock(block.header, block.entries, self._pretend(block))]
        if way == 1 and block.entries:
            return [replace(block, entries=self._other_entries(block.entries))]
        if way == 2:
            return []
        if way == 3:
            return [replace(block, header=replace_header(block.header, time_ms=block.header.time_ms + 1))]
        return self._own_chain(height)

    def _pretend(self, block: FinalBlock) -> Certificate:
        """A certificate with its own signature in every place."""
        committee = self.simulation.referee.committees[block.header.epoch]
        name = block.certificate.block_hash
        vote = sign_vote(self.key, committee, Kind.FINAL, slot=block.header.slot, block_hash=name)
        signers = (1 << committee.quorum) - 1
        return Certificate(
            vote.kind, vote.epoch, vote.slot, vote.block_hash, signers, (vote.signature,) * committee.quorum
        )

    def _other_entries(self, entries: tuple[Entry, ...]) -> tuple[Entry, ...]:
        first = entries[0]
        return (
            replace(first, signature=first.signature[:-1] + bytes((first.signature[-1] ^ 1,))),
            *entries[1:],
        )

    def _own_chain(self, height: int) -> list[FinalBlock]:
        """A block of its own on the true head, certified by nobody else."""
        chain = self.shadow.chain
        if chain.tip.height + 1 != height:
            return []
        candidate = chain.build(chain.tip.block_hash, chain.tip.slot + 1, chain.tip.time_ms + 1, ())
        name = candidate.tip.block_hash
        slot = candidate.tip.slot
        vote = sign_vote(self.key, self.committee, Kind.FINAL, slot=slot, block_hash=name)
        bit = 1 << self.committee.witnesses.index(self.account)
        certificate = Certificate(vote.kind, vote.epoch, slot, name, bit, (vote.signature,))
        return [FinalBlock(candidate.block.header, (), certificate)]


KINDS: dict[str, type[Liar]] = {
    "equivocator": Equivocator,
    "silent": Silent,
    "withholder": Withholder,
    "forger": Forger,
    "backdater": Backdater,
    "stale": Stale,
    "deceiver": Deceiver,
    "noisy": Noisy,
}


def make_liar(simulation: Simulation, key: SigningKey, number: int, kind: str) -> Liar:
    """A liar of that kind; `any` lets the seed choose."""
    if kind == "any":
        kind = simulation.world.chance(f"kind of {number}").choice(list(KINDS))
    simulation.world.note(f"x{number}", kind)
    return KINDS[kind](simulation, key, number)


def _is_skip(message: Proposal | Vote) -> bool:
    return isinstance(message, Vote) and message.kind is Kind.SKIP


def replace_header(header: Header, **fields: object) -> Header:
    """The header with other fields; the true one where the forged one could not even be written."""
    try:
        return replace(header, **fields)  # type: ignore[arg-type]
    except WireError:
        return header
