"""Witnesses that lie. Each runs the machine too, as its shadow, to know where the others are.

What a kind of liar does is a filter on what its shadow would say, and something of its own besides.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ledger.core.block import FinalBlock, Proposal, sign_proposal
from ledger.core.chain import Chain
from ledger.core.consensus import Ask, Message, Recalled, decode_message, encode_message
from ledger.core.encoding import Kind, WireError
from ledger.core.events import (
    Action,
    Broadcast,
    CatchUp,
    CaughtUp,
    Event,
    Received,
    Send,
    Submitted,
    Tick,
    WakeAt,
)
from ledger.core.lineage import agreed_parent
from ledger.core.simplex import Simplex
from ledger.core.votes import NO_BLOCK, Vote, sign_vote
from tests.simulation.ledger.world import Clock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ledger.core.block import Block
    from ledger.core.committee import Committee
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.state import Refusal
    from tests.simulation.ledger.simulation import Simulation

__all__ = ["Equivocator", "Liar", "Noisy", "Silent", "Stale", "Withholder", "decoded"]

SAID_MAX = 60
LOOK_S = 2.0


class Liar:
    """The base of all liars: as it stands, it behaves well, but keeps nothing."""

    def __init__(self, simulation: Simulation, key: SigningKey, number: int) -> None:
        self.simulation = simulation
        self.key = key
        self.account = key.account
        self.number = number
        self.name = f"x{number}"
        self.clock = Clock(simulation.world, self.name)
        self.random = simulation.world.chance(self.name)
        self.shadow = Simplex(key, Chain(simulation.genesis), self.clock.now())
        self.final: list[FinalBlock] = []
        self.is_quiet = False
        self._wake_at_s: float | None = None

    def start(self) -> None:
        """Begin, and look now and then where the others are."""
        self.hear(Tick())
        source = self.random.choice(self.simulation.honest)
        self.simulation.pull(self.number, source.account, self.shadow.chain.tip.height + 1, self._take)
        self.simulation.world.at(LOOK_S, self.start)

    def submit(self, entry: Entry, tell: Callable[[Refusal | None], None]) -> None:
        """A liar takes every entry; what it says of it is worth nothing."""
        self.hear(Submitted(entry))

    def hear(self, event: Event) -> None:
        """Let the shadow hear it, lie about what it would say, and then of one's own accord."""
        if self.is_quiet:
            return
        for action in self.shadow.feed(event, now=self.clock.now()):
            match action:
                case WakeAt(at_s):
                    self._wake(at_s)
                case CatchUp(source):
                    height = self.shadow.chain.tip.height + 1
                    self.simulation.pull(self.number, source, height, self._take)
                case _:
                    self.act(action)
        if self.shadow.is_over and self.account in self.shadow.chain.committee:
            self.shadow = Simplex(self.key, self.shadow.chain, self.clock.now(), pool=self.shadow.pool)
        self.lie(event)

    def act(self, action: Action) -> None:
        """What the shadow wants to be said."""
        if isinstance(action, Broadcast):
            self.tell(self.others(), action.message)
        elif isinstance(action, Send):
            self.tell([action.to], action.message)

    def lie(self, event: Event) -> None:
        """What it says besides."""

    def blocks(self, height: int, asker: int) -> tuple[FinalBlock, ...]:
        """What it answers to whoever asks for final blocks."""
        source = self.simulation.honest[0]
        return source.blocks(height, asker)

    @property
    def committee(self) -> Committee:
        """Whom its shadow believes to be the witnesses."""
        return self.shadow.committee

    def others(self) -> list[AccountId]:
        return [account for account in self.simulation.members if account != self.account]

    def tell(self, whom: Iterable[AccountId], message: bytes) -> None:
        heard = Received(self.account, message)
        for account in whom:
            other = self.simulation.members[account]
            hear = other.hear
            self.simulation.network.carry(self.number, other.number, message, lambda hear=hear: hear(heard))

    def sign(self, kind: Kind, slot: int, block_hash: bytes = NO_BLOCK) -> bytes:
        vote = sign_vote(self.key, self.committee, kind, slot=slot, block_hash=block_hash)
        return encode_message(vote)

    def may_lead(self) -> bytes | None:
        """The parent to build on, if the shadow is in a slot of ours and something waits."""
        slot = self.shadow.slot
        if self.committee.leader(slot) != self.account or not len(self.shadow.pool):
            return None
        return agreed_parent(slot, self.shadow.chain, self.shadow._ballots)

    def build(self, parent_hash: bytes, wall_ms: int) -> Block:
        slot = self.shadow.slot
        return self.shadow.chain.build(parent_hash, slot, wall_ms, self.shadow.pool.in_order()).block

    def _take(self, blocks: tuple[FinalBlock, ...]) -> None:
        if blocks and not self.is_quiet:
            self.shadow.feed(CaughtUp(blocks), now=self.clock.now())

    def _wake(self, at_s: float) -> None:
        if at_s == self._wake_at_s:
            return
        self._wake_at_s = at_s

        def due() -> None:
            if at_s == self._wake_at_s:
                self._wake_at_s = None
                self.hear(Tick())

        self.simulation.world.at(self.clock.delay_s(at_s), due)


class Silent(Liar):
    """Says nothing, answers nothing."""

    def hear(self, event: Event) -> None:
        pass

    def blocks(self, height: int, asker: int) -> tuple[FinalBlock, ...]:
        return ()


class Withholder(Liar):
    """Takes part, but keeps its FINAL votes to itself, or tells one witness only."""

    def act(self, action: Action) -> None:
        message = decode_message(action.message) if isinstance(action, Broadcast | Send) else None
        if isinstance(message, Vote) and message.kind is Kind.FINAL and message.witness == self.account:
            if self.random.random() < 0.5:
                self.tell([self.random.choice(self.others())], encode_message(message))
            return
        super().act(action)


class Equivocator(Liar):
    """Votes for everything, skips everything, and as leader tells each half of the network another block."""

    def __init__(self, simulation: Simulation, key: SigningKey, number: int) -> None:
        super().__init__(simulation, key, number)
        self._told: set[tuple[Kind, int, bytes]] = set()
        self._led: set[int] = set()
        self._said: list[tuple[int, list[AccountId], bytes]] = []

    def act(self, action: Action) -> None:
        # Its shadow is not heard, but where it tells a witness that starts what it voted: without that none votes.
        if isinstance(action, Send) and isinstance(decode_message(action.message), Recalled):
            super().act(action)

    def lie(self, event: Event) -> None:
        if isinstance(event, Received):
            message = decoded(event.message)
            if isinstance(message, Proposal):
                self._vote_for(message.header.slot, message.header.hash(self.simulation.genesis.network_id))
            elif isinstance(message, Vote) and message.kind is not Kind.SKIP:
                self._vote_for(message.slot, message.block_hash)
            elif isinstance(message, Ask):
                self._repeat(event.peer, message.slot)
        parent_hash = self.may_lead()
        if parent_hash is not None and self.shadow.slot not in self._led:
            self._lead(parent_hash)

    def _vote_for(self, slot: int, block_hash: bytes) -> None:
        for kind, name in ((Kind.NOTAR, block_hash), (Kind.FINAL, block_hash), (Kind.SKIP, NO_BLOCK)):
            if (kind, slot, name) not in self._told:
                self._told.add((kind, slot, name))
                # All liars keep the halves apart: they vote for a leader's block to those who were told of it only.
                whom = self.simulation.halves.get(block_hash, self.others())
                self._say(slot, whom, self.sign(kind, slot, name))

    def _lead(self, parent_hash: bytes) -> None:
        slot = self.shadow.slot
        self._led.add(slot)
        members = [member.account for member in self.simulation.honest]
        self.random.shuffle(members)
        liars = [account for account in self.others() if account not in members]
        for number, half in enumerate((members[: len(members) // 2], members[len(members) // 2 :])):
            block = self.build(parent_hash, self.clock.now().wall_ms + number)
            proposal = sign_proposal(self.key, self.committee, block)
            block_hash = block.header.hash(self.simulation.genesis.network_id)
            self.simulation.halves[block_hash] = [*half, *liars]
            self._say(slot, [*half, *liars], encode_message(proposal))
            self._vote_for(slot, block_hash)

    def _say(self, slot: int, whom: list[AccountId], message: bytes) -> None:
        whom = [account for account in whom if account != self.account]
        self._said = [*self._said[-SAID_MAX:], (slot, whom, message)]
        self.tell(whom, message)

    def _repeat(self, to: AccountId, slot: int) -> None:
        """A lie that got lost is told again to whoever asks."""
        for at, whom, message in self._said:
            if at >= slot and to in whom:
                self.tell([to], message)


class Stale(Liar):
    """Takes part, and says again what it once heard, votes under other epochs and far slots, and skips as well."""

    def __init__(self, simulation: Simulation, key: SigningKey, number: int) -> None:
        super().__init__(simulation, key, number)
        self._heard: list[bytes] = []

    def lie(self, event: Event) -> None:
        chance = self.random
        if isinstance(event, Received) and chance.random() < 0.3:
            self._heard = [*self._heard[-200:], event.message]
        if not self._heard or chance.random() > 0.15:
            return
        self.tell([chance.choice(self.others())], chance.choice(self._heard))
        message = decoded(chance.choice(self._heard))
        if isinstance(message, Vote):
            epoch = message.epoch + chance.choice((-1, 1))
            slot = chance.choice((message.slot, message.slot + 400, self.shadow.slot))
            other = replace(self.committee, epoch=max(0, epoch))
            vote = sign_vote(self.key, other, message.kind, slot=slot, block_hash=message.block_hash)
            self.tell(self.others(), encode_message(vote))


class Noisy(Liar):
    """Takes part, and sends rubbish: any bytes, and messages with a few bytes changed."""

    def lie(self, event: Event) -> None:
        chance = self.random
        if chance.random() < 0.9:
            return
        if isinstance(event, Received) and chance.random() < 0.8:
            message = bytearray(event.message)
            for _ in range(chance.randint(1, 4)):
                message[chance.randrange(len(message))] ^= 1 << chance.randrange(8)
            noise = bytes(message[: chance.randint(0, len(message))] if chance.random() < 0.2 else message)
        else:
            noise = chance.randbytes(chance.randint(0, 300))
        self.tell([chance.choice(self.others())], noise)


def decoded(message: bytes) -> Message | None:
    """The message, or nothing if it is rubbish."""
    try:
        return decode_message(message)
    except WireError:
        return None
