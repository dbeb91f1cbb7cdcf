"""A network of Simplex machines under a seed: loss, copies, delay, partitions, crashes, lying witnesses.

    python -m tests.simulation.ledger.simplex_simulation --seeds 2000

Until GST the network is broken in every way; after it, messages arrive. Checked: all honest witnesses finalise one
chain (always), and everything submitted gets final (after GST). The audit that replays the chain at the end shares no
state code with the machines. Two controls must fail: votes that are not persisted, and more liars than n tolerates.
"""

from __future__ import annotations

import argparse
import heapq
import random
import sys
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

from ledger.core import keys as keys_module
from ledger.core.audit import audit
from ledger.core.block import Block, FinalBlock, Proposal, sign_proposal
from ledger.core.chain import Chain
from ledger.core.consensus import Ask, decode_message, encode_message
from ledger.core.encoding import Kind
from ledger.core.entries import Entry, Transfer, sign_entry
from ledger.core.events import (
    Broadcast,
    CatchUp,
    CaughtUp,
    Event,
    Finalised,
    Now,
    PersistVote,
    Received,
    Saved,
    Send,
    Submitted,
    Tick,
    WakeAt,
)
from ledger.core.genesis import Genesis
from ledger.core.keys import AccountId, SigningKey
from ledger.core.lineage import agreed_parent
from ledger.core.simplex import Simplex
from ledger.core.votes import NO_BLOCK, Certificate, Vote, sign_vote

if TYPE_CHECKING:
    from collections.abc import Callable

WALL_MS = 1_700_000_000_000
GST_S = 15.0
LIVENESS_S = 200.0
ENTRIES_AFTER_GST = 4
PAYER, PAYEE = SigningKey(b"p" * 32), SigningKey(b"q" * 32)


@dataclass
class Plan:
    """One run: its size, its liars, and whether crashes keep votes."""

    n: int
    seed: int
    liars: int = 0
    silent: bool = False
    persist_votes: bool = True


class ForkError(AssertionError):
    """Two honest witnesses finalised different blocks."""


class StallError(AssertionError):
    """The network is whole again, and something that waits is not final."""


@dataclass
class Disk:
    """What survives a crash."""

    votes: dict[tuple[Kind, int], Vote] = field(default_factory=dict)
    proposals: dict[int, Proposal] = field(default_factory=dict)
    certificates: list[Certificate] = field(default_factory=list)
    blocks: list[FinalBlock] = field(default_factory=list)


def memoise_signatures() -> None:
    """Each signature of a run is checked once, not once per witness: n machines share this process."""
    if not hasattr(keys_module.verify_bytes, "cache_info"):
        keys_module.verify_bytes = lru_cache(maxsize=1 << 16)(keys_module.verify_bytes)


class Simulation:
    """Events in order of time; the seed decides everything else."""

    def __init__(self, plan: Plan) -> None:
        memoise_signatures()
        self.plan = plan
        self.random = random.Random(plan.seed)
        self.now_s = 0.0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.counter = 0
        witness_keys = [SigningKey(bytes((number + 1,)) * 32) for number in range(plan.n)]
        self.genesis = Genesis(
            name="simulation",
            created_ms=WALL_MS - 60_000,
            witnesses=tuple(k.account for k in witness_keys),
            limits=((PAYER.account, 10**9),),
            slot_timeout_ms=300,
        )
        self.members: dict[AccountId, Honest | Liar] = {}
        for number, k in enumerate(witness_keys):
            lies = number >= plan.n - plan.liars
            self.members[k.account] = Liar(self, k, plan.silent) if lies else Honest(self, k)
        self.honest = [member for member in self.members.values() if isinstance(member, Honest)]
        self.chain: dict[int, FinalBlock] = {}
        self.loss = self.random.uniform(0.0, 0.15)
        self.delay_s = self.random.uniform(0.01, 0.15)
        self.crash_share = self.random.uniform(0.1, 0.6)
        self.calm_s = self.random.uniform(0.4, 3.0)
        self.isolates = len(self.honest) > 1 and self.random.random() < 0.5
        self.parted: set[AccountId] = set()
        self.halves: dict[bytes, list[AccountId]] = {}
        """Which witnesses the liars told of an equivocating leader's block: they vote for it to those only."""
        self.messages = 0

    def at(self, delay_s: float, call: Callable[[], None]) -> None:
        self.counter += 1
        heapq.heappush(self.queue, (self.now_s + delay_s, self.counter, call))

    def send(self, sender: AccountId, to: AccountId, message: bytes) -> None:
        """Lose, copy, delay; after GST only delay."""
        self.messages += 1
        copies = 1
        if self.now_s < GST_S:
            if self.random.random() < self.loss or (sender in self.parted) != (to in self.parted):
                return
            copies = 2 if self.random.random() < 0.1 else 1
        for _ in range(copies):
            delay_s = (
                self.random.expovariate(1 / self.delay_s)
                if self.now_s < GST_S
                else self.random.uniform(0.02, 0.1)
            )
            self.at(delay_s, lambda: self.members[to].hear(Received(sender, message)))

    def pull(self, member: Honest, source: AccountId) -> None:
        """A witness asks `source` for final blocks: the answer takes the same roads."""
        other = self.members[source]
        if not isinstance(other, Honest) or other.machine is None or member.machine is None:
            return
        if self.now_s < GST_S and (source in self.parted) != (member.account in self.parted):
            return
        height = member.machine.chain.tip.height
        blocks = tuple(other.disk.blocks[height : height + 64])
        if blocks:
            self.at(0.1, lambda: member.hear(CaughtUp(blocks)))

    def chaos(self) -> None:
        if self.now_s >= GST_S:
            self.parted = set()
            return
        if self.isolates:
            # Cut off one honest witness and crash another: forgotten votes hurt most when a quorum shifts.
            cut, fell = self.random.sample(self.honest, 2)
            self.parted = {cut.account}
            if self.random.random() < self.crash_share:
                fell.crash()
        else:
            accounts = list(self.members)
            some = self.random.randrange(len(accounts))
            self.parted = set(self.random.sample(accounts, some)) if self.random.random() < 0.6 else set()
            if self.random.random() < self.crash_share:
                self.random.choice(self.honest).crash()
        self.at(self.random.uniform(0.2, self.calm_s), self.chaos)

    def pay(self) -> None:
        """A payer submits its next entry to some witnesses, and again until it is final."""
        seq = (
            max(self.chain.get(height).header.tree_size for height in (max(self.chain),)) + 1
            if self.chain
            else 1
        )
        entry = sign_entry(
            PAYER,
            self.genesis.network_id,
            seq=seq,
            not_after_ms=WALL_MS + 3_600_000,
            fee=seq % 3,
            action=Transfer(PAYEE.account, seq),
        )
        for member in self.members.values():
            if self.random.random() < 0.7:
                self.hand_over(member, entry)
        self.at(self.random.uniform(0.2, 0.8), self.pay)

    def hand_over(self, member: Honest | Liar, entry: Entry) -> None:
        self.at(self.random.uniform(0.0, 0.2), lambda: member.hear(Submitted(entry)))

    def finalise(self, block: FinalBlock) -> None:
        height = block.header.height
        known = self.chain.setdefault(height, block)
        if known.header != block.header:
            raise ForkError(f"height {height}: slots {known.header.slot} and {block.header.slot}")

    def run(self) -> Simulation:
        self.at(0.1, self.chaos)
        self.at(0.1, self.pay)
        target: int | None = None
        while self.queue:
            self.now_s, _, call = heapq.heappop(self.queue)
            call()
            if self.now_s < GST_S:
                continue
            if target is None:
                target = self.entries() + ENTRIES_AFTER_GST
            if min(member.entries() for member in self.honest) >= target:
                break
            if self.now_s > GST_S + LIVENESS_S:
                raise StallError(f"{self.entries()} entries final, {target} expected")
        self.judge()
        return self

    def entries(self) -> int:
        return self.chain[max(self.chain)].header.tree_size if self.chain else 0

    def judge(self) -> None:
        """An independent reader replays the chain; every honest witness holds a prefix of it."""
        blocks = [self.chain[height] for height in sorted(self.chain)]
        while blocks and not blocks[-1].is_final:
            blocks.pop()
        audit(self.genesis, blocks)
        for member in self.honest:
            for height, block in enumerate(member.disk.blocks, 1):
                if self.chain[height].header != block.header:
                    raise ForkError(f"disk of a witness differs at {height}")


class Honest:
    """A witness that runs the machine; a crash loses all but its disk."""

    def __init__(self, simulation: Simulation, key: SigningKey) -> None:
        self.simulation = simulation
        self.key = key
        self.account = key.account
        self.disk = Disk()
        self.machine: Simplex | None = None
        self.life = self.wake_life = 0
        self.wake_at_s = -1.0
        self.start()

    def entries(self) -> int:
        return self.disk.blocks[-1].header.tree_size if self.disk.blocks else 0

    def start(self) -> None:
        self.life += 1
        chain = Chain(self.simulation.genesis)
        for block in self.disk.blocks:
            chain.accept(block, is_verified=lambda _, __: True)
        last = self.disk.blocks[-1].certificate if self.disk.blocks else None
        saved = Saved(
            tuple(self.disk.votes.values()),
            tuple(self.disk.proposals.values()),
            tuple(self.disk.certificates),
            last,
        )
        self.machine = Simplex(self.key, chain, self.now(), saved)
        self.carry_out(WakeAt(self.simulation.now_s))

    def crash(self) -> None:
        if self.machine is None:
            return
        self.machine = None
        if not self.simulation.plan.persist_votes:
            self.disk = Disk()
        self.simulation.at(self.simulation.random.uniform(0.1, 2.0), self.start)

    def now(self) -> Now:
        return Now(self.simulation.now_s, WALL_MS + int(self.simulation.now_s * 1000))

    def wake(self, life: int, at_s: float) -> None:
        if life == self.life and at_s == self.wake_at_s:
            self.wake_at_s = -1.0
            self.hear(Tick())

    def hear(self, event: Event) -> None:
        if self.machine is None:
            return
        actions = self.machine.feed(event, now=self.now())
        doom = None
        risk = 0.003 if self.simulation.plan.persist_votes else 0.03
        if self.simulation.now_s < GST_S and self.simulation.random.random() < risk:
            doom = self.simulation.random.randrange(
                len(actions) + 1
            )  # die between two of its writes and sends
        for number, action in enumerate(actions):
            if number == doom:
                self.crash()
                return
            self.carry_out(action)

    def carry_out(self, action: object) -> None:
        network = self.simulation
        match action:
            case PersistVote(vote, proposal, certificates):
                self.disk.certificates += certificates
                self.disk.votes[vote.kind, vote.slot] = vote
                if proposal is not None:
                    self.disk.proposals[vote.slot] = proposal
            case Broadcast(message):
                for other in network.members:
                    if other != self.account:
                        network.send(self.account, other, message)
            case Send(to, message):
                network.send(self.account, to, message)
            case Finalised(block):
                if block.header.height == len(self.disk.blocks) + 1:
                    self.disk.blocks.append(block)
                network.finalise(block)
            case CatchUp(source):
                network.at(0.1, lambda: network.pull(self, source))
            case WakeAt(at_s) if at_s != self.wake_at_s or self.wake_life != self.life:
                self.wake_at_s, self.wake_life = at_s, self.life
                life = self.life
                network.at(max(0.0, at_s - network.now_s), lambda: self.wake(life, at_s))
            case _:
                pass


class Liar:
    """Votes for everything, skips everything, and as leader tells each half of the network another block.

    It runs the machine too, unheard, to know where the others are. A silent one says nothing at all.
    """

    def __init__(self, simulation: Simulation, key: SigningKey, silent: bool) -> None:
        self.simulation = simulation
        self.key = key
        self.account = key.account
        self.silent = silent
        self.shadow = Simplex(key, Chain(simulation.genesis), Now(0.0, WALL_MS))
        self.told: set[tuple[Kind, int, bytes]] = set()
        self.led: set[int] = set()
        self.said: list[tuple[int, frozenset[AccountId], bytes]] = []

    def hear(self, event: Event) -> None:
        if self.silent:
            return
        now = Now(self.simulation.now_s, WALL_MS + int(self.simulation.now_s * 1000))
        for action in self.shadow.feed(event, now=now):
            if isinstance(action, CatchUp):
                source = self.simulation.members[action.source]
                if isinstance(source, Honest):
                    height = self.shadow.chain.tip.height
                    self.shadow.feed(CaughtUp(tuple(source.disk.blocks[height : height + 64])), now=now)
        if isinstance(event, Received):
            message = decode_message(event.message)
            if isinstance(message, Proposal):
                self.vote_for(message.header.slot, message.header.hash(self.simulation.genesis.network_id))
            elif isinstance(message, Vote) and message.kind is not Kind.SKIP:
                self.vote_for(message.slot, message.block_hash)
            elif isinstance(message, Ask):
                self.repeat(event.peer, message.slot)
        if (
            self.simulation.genesis.committee.leader(self.shadow.slot) == self.account
            and self.shadow.slot not in self.led
        ):
            self.lead(self.shadow.slot, now)

    def vote_for(self, slot: int, block_hash: bytes) -> None:
        for kind, name in ((Kind.NOTAR, block_hash), (Kind.FINAL, block_hash), (Kind.SKIP, NO_BLOCK)):
            if (kind, slot, name) not in self.told:
                self.told.add((kind, slot, name))
                vote = sign_vote(
                    self.key, self.simulation.genesis.committee, kind, slot=slot, block_hash=name
                )
                whom = self.simulation.halves.get(block_hash, list(self.simulation.members))
                self.tell(slot, whom, encode_message(vote))

    def lead(self, slot: int, now: Now) -> None:
        parent_hash = agreed_parent(slot, self.shadow.chain, self.shadow._ballots)
        if parent_hash is None or not len(self.shadow.pool):
            return
        self.led.add(slot)
        members = [member.account for member in self.simulation.honest]
        self.simulation.random.shuffle(members)
        halves = members[: len(members) // 2], members[len(members) // 2 :]
        for number, half in enumerate(halves):
            waiting = self.shadow.pool.in_order()
            block: Block = self.shadow.chain.build(parent_hash, slot, now.wall_ms + number, waiting).block
            proposal = sign_proposal(self.key, self.simulation.genesis.committee, block)
            block_hash = block.header.hash(self.simulation.genesis.network_id)
            liars = [a for a, member in self.simulation.members.items() if isinstance(member, Liar)]
            self.simulation.halves[block_hash] = [*half, *liars]
            self.tell(slot, [*half, *liars], encode_message(proposal))
            self.vote_for(slot, block_hash)

    def tell(self, slot: int, whom: list[AccountId], message: bytes) -> None:
        self.said.append((slot, frozenset(whom), message))
        for other in whom:
            if other != self.account:
                self.simulation.send(self.account, other, message)

    def repeat(self, to: AccountId, slot: int) -> None:
        """A lie that got lost is told again to whoever asks."""
        for at, whom, message in self.said[-60:]:
            if at >= slot and to in whom:
                self.simulation.send(self.account, to, message)


def outcome(plan: Plan) -> str:
    """`ok`, `fork` or `stall`."""
    try:
        Simulation(plan).run()
    except ForkError:
        return "fork"
    except StallError:
        return "stall"
    return "ok"


CAMPAIGNS: dict[str, tuple[dict[str, object], bool]] = {
    "n=1": ({"n": 1}, True),
    "n=4": ({"n": 4}, True),
    "n=4, one liar": ({"n": 4, "liars": 1}, True),
    "n=4, one silent": ({"n": 4, "liars": 1, "silent": True}, True),
    "n=7, two liars": ({"n": 7, "liars": 2}, True),
    "control: n=4, two liars": ({"n": 4, "liars": 2}, False),
    "control: n=4, one liar, votes not persisted": ({"n": 4, "liars": 1, "persist_votes": False}, False),
}
"""Name, plan, and whether every seed must end well; a control must show at least one fork."""


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=200)
    seeds = parser.parse_args().seeds
    failed = False
    for name, (fields, is_safe) in CAMPAIGNS.items():
        results = [outcome(Plan(seed=seed, **fields)) for seed in range(seeds)]
        counts = {word: results.count(word) for word in ("ok", "fork", "stall")}
        good = counts["ok"] == seeds if is_safe else counts["fork"] > 0
        failed |= not good
        worst = next((seed for seed, word in enumerate(results) if word != "ok"), None)
        print(f"{'ok  ' if good else 'FAIL'} {name}: {counts}, first seed not ok: {worst}", flush=True)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
