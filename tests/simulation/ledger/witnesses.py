"""An honest witness: the product's machine in a shell as thin as `ledger/witness.py` is, with a disk that can be hurt.

One round: 1 the machine is fed what came in; 2 votes, blocks and evidence become durable in one transaction; 3 messages
leave; 4 whoever waits is told. The witness can die before 2, after 2, and between any two messages of 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from ledger.core.chain import Chain
from ledger.core.events import (
    Accuse,
    Action,
    Broadcast,
    CatchUp,
    CaughtUp,
    Event,
    Finalised,
    Judged,
    PersistVote,
    Received,
    Saved,
    Send,
    Submitted,
    Tick,
    WakeAt,
)
from ledger.core.simplex import Simplex
from ledger.core.state import Reason, Refusal
from tests.simulation.ledger.readers import accept_all
from tests.simulation.ledger.world import Clock

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.block import FinalBlock, Proposal
    from ledger.core.encoding import Kind
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.mempool import Mempool
    from ledger.core.votes import Certificate, Vote
    from tests.simulation.ledger.simulation import Simulation

__all__ = ["BLOCKS_PER_PULL", "Disk", "Honest"]

BLOCKS_PER_PULL = 64
LOOK_IDLE_S = 5.0
LOOK_BUSY_S = 1.0
UNASKED = ("nobody is asked about an old backup", "votes leave before they are durable")
"""Controls in which the others are not asked either: their memory makes up for much."""
DEATH_SHARE = 0.02
"""Of a witness's transactions, how many end in its death, half before and half after they are durable."""
DEATH_SHARE_WHEN_FORGETFUL = 0.06


@dataclass
class Disk:
    """What survives a crash. `write` is one transaction: all of it or nothing."""

    votes: dict[tuple[int, Kind, int], Vote] = field(default_factory=dict)
    proposals: dict[int, Proposal] = field(default_factory=dict)
    certificates: dict[tuple[int, Kind, int], Certificate] = field(default_factory=dict)
    blocks: list[FinalBlock] = field(default_factory=list)

    def write(self, actions: list[Action]) -> None:
        """Make durable what the actions ask for, as `Store.write` does."""
        for action in actions:
            if isinstance(action, PersistVote):
                vote = action.vote
                self.votes[vote.epoch, vote.kind, vote.slot] = vote
                for found in action.certificates:
                    self.certificates.setdefault((found.epoch, found.kind, found.slot), found)
                if action.proposal is not None:
                    self.proposals[action.proposal.header.slot] = action.proposal
        for action in actions:
            if isinstance(action, Finalised) and action.block.header.height == len(self.blocks) + 1:
                self.blocks.append(action.block)
        if self.blocks:
            slot = self.blocks[-1].header.slot
            self.votes = {key: vote for key, vote in self.votes.items() if key[2] > slot}
            self.certificates = {key: found for key, found in self.certificates.items() if key[2] > slot}
            self.proposals = {at: proposal for at, proposal in self.proposals.items() if at > slot}

    def copy(self) -> Disk:
        """A backup of it."""
        return Disk(dict(self.votes), dict(self.proposals), dict(self.certificates), list(self.blocks))

    def saved(self, epoch: int) -> Saved:
        """What a machine of that epoch starts with."""
        return Saved(
            tuple(vote for vote in self.votes.values() if vote.epoch == epoch),
            tuple(proposal for proposal in self.proposals.values() if proposal.header.epoch == epoch),
            tuple(found for found in self.certificates.values() if found.epoch == epoch),
            self.blocks[-1].finality if self.blocks else None,
        )


class Honest:
    """A witness that runs the machine while it is in the committee, and follows while it is not."""

    def __init__(self, simulation: Simulation, key: SigningKey, number: int) -> None:
        self.simulation = simulation
        self.key = key
        self.account = key.account
        self.number = number
        self.name = f"w{number}"
        self.clock = Clock(simulation.world, self.name)
        self.disk = Disk()
        self.backup: Disk | None = None
        self.chain: Chain | None = None
        self.machine: Simplex | None = None
        self._random = simulation.world.chance(self.name)
        self._inbox: list[Event] = []
        self._told: dict[bytes, list[Callable[[Refusal | None], None]]] = {}
        self._life = 0
        self._is_busy = False
        self._wake_at_s: float | None = None
        self._turn = number

    # Life and death.

    def start(self) -> None:
        """Open the disk, replay it, and take part or follow."""
        self._life += 1
        self.chain = Chain(self.simulation.genesis)
        for block in self.disk.blocks:
            self.chain.accept(block, is_verified=lambda *_: True)
        self.simulation.world.note(self.name, f"starts at height {self.chain.tip.height}")
        self._inbox, self._told, self._is_busy = [], {}, False
        self._take_up(None)
        for account in self._others():
            self._pull(account)
        self._look(self._life)

    def crash(self) -> None:
        """Die now, and come back later."""
        if self.chain is None:
            return
        self.simulation.world.note(self.name, "dies")
        self.simulation.referee.died(self.account)
        self.machine = self.chain = None
        self._life += 1
        if not self.simulation.plan.keeps_votes:
            self.disk.votes, self.disk.proposals, self.disk.certificates = {}, {}, {}
        self.simulation.world.at(self._random.uniform(0.1, 2.0), self.start)

    def restore(self) -> None:
        """Die, and come back with the disk of some time ago."""
        if self.backup is not None:
            self.simulation.world.note(self.name, f"is restored from height {len(self.backup.blocks)}")
            self.crash()
            self.disk, self.backup = self.backup, None
            self.simulation.referee.restored()

    def _take_up(self, pool: Mempool | None) -> None:
        """Be a witness of the present epoch, with what waited in the last one; or follow."""
        if self.chain is None:
            return
        committee = self.chain.committee
        self.machine, self._wake_at_s = None, None
        if self.account in committee:
            saved = self.disk.saved(committee.epoch)
            plan = self.simulation.plan
            asks = plan.keeps_votes and plan.mutant not in UNASKED
            self.machine = Simplex(self.key, self.chain, self.clock.now(), saved, pool=pool, asks=asks)
            self.simulation.world.note(self.name, f"serves in epoch {committee.epoch}")
            self.hear(Tick())

    def _others(self) -> list[AccountId]:
        """The other witnesses of the present epoch."""
        witnesses = () if self.chain is None else self.chain.committee.witnesses
        return [account for account in witnesses if account != self.account]

    # Rounds.

    def submit(self, entry: Entry, tell: Callable[[Refusal | None], None]) -> None:
        """A client hands in an entry; `tell` hears the machine's judgement."""
        if self.machine is not None:
            self._told.setdefault(entry.entry_id(self.simulation.genesis.network_id), []).append(tell)
            self.hear(Submitted(entry))

    def hear(self, event: Event) -> None:
        """Something happens; a busy witness takes it up in its next round."""
        if self.chain is not None:
            if isinstance(event, Received):
                self.simulation.referee.heard(self.account, event.peer, event.message)
            self._inbox.append(event)
            self._round()

    def _round(self) -> None:
        if self.chain is None or self._is_busy or not self._inbox:
            return
        events, self._inbox = self._inbox, []
        machine = self.machine
        actions = machine.feed(*events, now=self.clock.now()) if machine else self._follow(events)
        if not any(isinstance(action, PersistVote | Finalised | Accuse) for action in actions):
            self._carry_out(actions)
            return
        self._is_busy = True
        is_slow = self.simulation.world.suffers("disk") and self._random.random() < 0.03
        disk_s = self._random.uniform(0.2, 1.5) if is_slow else self._random.uniform(0.001, 0.01)
        life = self._life
        self.simulation.world.at(disk_s, lambda: self._commit(life, actions))

    def _follow(self, events: list[Event]) -> list[Action]:
        """What a node does that is no witness now: take in final blocks, and nothing else."""
        final: list[FinalBlock] = []
        for event in events:
            if isinstance(event, CaughtUp) and self.chain is not None:
                final += accept_all(self.chain, event.blocks)
        return [Finalised(block) for block in final]

    def _commit(self, life: int, actions: list[Action]) -> None:
        """The transaction is done, or the power fails around it."""
        if life != self._life:
            return
        dies = self._fate()
        if dies != "before":
            self.disk.write(actions)
            self.simulation.world.note(self.name, f"wrote, {len(self.disk.votes)} votes")
            blocks = [action.block for action in actions if isinstance(action, Finalised)]
            if blocks and self.chain is not None:
                self.simulation.referee.finalised(self.name, blocks, self.chain)
        if dies in {"before", "after"}:
            self.crash()
            return
        self._is_busy = False
        self._carry_out(actions)
        if life == self._life:
            self._change_epoch()
            self._round()

    def _change_epoch(self) -> None:
        """The last block of the epoch is durable here: go on in the next one."""
        if self.chain is None:
            return
        if self.machine is not None and self.machine.is_over:
            for tells in self._told.values():
                for tell in tells:
                    tell(Refusal(Reason.BUSY, "the committee changes"))
            self._told = {}
            self._take_up(self.machine.pool)
        elif self.machine is None and self.account in self.chain.committee:
            self._take_up(None)

    def _fate(self) -> str:
        simulation = self.simulation
        number = simulation.writes
        simulation.writes += 1
        if simulation.plan.write is not None:
            fatal, is_after = divmod(simulation.plan.write, 2)
            return ("after" if is_after else "before") if number == fatal else ""
        share = DEATH_SHARE if simulation.plan.keeps_votes else DEATH_SHARE_WHEN_FORGETFUL
        if simulation.world.suffers("crash") and self._random.random() < share:
            return self._random.choice(("before", "after"))
        return ""

    def _carry_out(self, actions: list[Action]) -> None:
        doom = None
        if self.simulation.world.suffers("crash") and self._random.random() < 0.002:
            doom = self._random.randrange(len(actions) + 1)  # between two of its messages
        for number, action in enumerate(actions):
            if number == doom:
                self.crash()
                return
            self._act(action)

    def _act(self, action: Action) -> None:
        simulation = self.simulation
        match action:
            case Broadcast(message):
                for account in self._others():
                    self._send(account, message)
            case Send(to, message):
                self._send(to, message)
            case Judged(entry_id, refusal):
                for tell in self._told.pop(entry_id, ()):
                    tell(refusal)
            case CatchUp(source):
                self._pull(source)
            case Accuse(evidence):
                simulation.referee.accused(evidence)
            case WakeAt(at_s):
                self._wake(at_s)
            case _:
                pass

    def _send(self, to: AccountId, message: bytes) -> None:
        self.simulation.referee.sent(self, message)
        other = self.simulation.members[to]
        heard = Received(self.account, message)
        self.simulation.network.carry(self.number, other.number, message, lambda: other.hear(heard))

    def _wake(self, at_s: float) -> None:
        if at_s == self._wake_at_s:
            return
        self._wake_at_s = at_s
        life = self._life

        def due() -> None:
            if life == self._life and at_s == self._wake_at_s:
                self._wake_at_s = None
                self.hear(Tick())

        self.simulation.world.at(self.clock.delay_s(at_s), due)

    # Catching up.

    def _look(self, life: int) -> None:
        """Compare its head with another one's, now and then."""
        if life != self._life:
            return
        others = self._others()
        if others:
            self._turn += 1
            self._pull(others[self._turn % len(others)])
        is_idle = self.machine is not None and not self.machine.is_waiting
        self.simulation.world.at(LOOK_IDLE_S if is_idle else LOOK_BUSY_S, lambda: self._look(life))

    def _pull(self, source: AccountId) -> None:
        if self.chain is None:
            return
        life, height = self._life, self.chain.tip.height + 1

        def take(blocks: tuple[FinalBlock, ...]) -> None:
            if blocks and life == self._life:
                self.hear(CaughtUp(blocks))

        self.simulation.pull(self.number, source, height, take)

    def blocks(self, height: int, _asker: int) -> tuple[FinalBlock, ...]:
        """What it answers to whoever asks for final blocks: what is durable."""
        if self.chain is None:
            return ()
        return tuple(self.disk.blocks[height - 1 : height - 1 + BLOCKS_PER_PULL])
