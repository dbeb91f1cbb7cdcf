"""Whole committees joined by hand, epoch after epoch: disks that remember, links and clocks that the test owns."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

from ledger.core.approvals import Approvals
from ledger.core.chain import Chain
from ledger.core.consensus import Message, decode_message, encode_message
from ledger.core.entries import Rotate, sign_decree, sign_entry
from ledger.core.events import (
    Action,
    Broadcast,
    CatchUp,
    CaughtUp,
    EpochOver,
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
from ledger.core.simplex import Simplex
from tests.core.ledger_ordering.machines import PAYER, WALL_MS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ledger.core.block import FinalBlock
    from ledger.core.entries import Entry

GOVERNOR = SigningKey(b"g" * 32)
KEYS = tuple(SigningKey(bytes((number + 1,)) * 32) for number in range(12))
NUMBERS = {key.account: number for number, key in enumerate(KEYS)}
Gate: TypeAlias = "Callable[[int, int, Message], bool]"


def governed(n: int) -> Genesis:
    """A network of `n` witnesses whose committee one governor may change."""
    witnesses = tuple(key.account for key in KEYS[:n])
    limits = ((PAYER.account, 10**9),)
    governors = (GOVERNOR.account,)
    return Genesis("epochs", WALL_MS - 60_000, witnesses, limits, governors=governors, governors_needed=1)


def rotation(network: Genesis, numbers: Iterable[int], *, decree: int = 1, seq: int = 1) -> Entry:
    """The entry that makes the keys of these numbers the next committee."""
    wanted = Rotate(decree, tuple(KEYS[number].account for number in numbers), Approvals())
    signed = Approvals(1, (sign_decree(GOVERNOR, network.network_id, wanted),))
    return sign_entry(
        PAYER,
        network.network_id,
        seq=seq,
        not_after_ms=WALL_MS + 10**8,
        fee=0,
        action=replace(wanted, approvals=signed),
    )


class Peer:
    """One key with its disk: a witness while a committee names it, else only a copy of the chain."""

    def __init__(self, network: Genesis, number: int, *, asks: bool) -> None:
        self.network = network
        self.key = KEYS[number]
        self.number = number
        self.asks = asks
        self.final: list[FinalBlock] = []
        self.disk: list[PersistVote] = []
        self.signed: list[PersistVote] = []
        self.epochs_over: list[int] = []
        self.wake_at_s: float | None = None
        self.simplex: Simplex | None = None
        self.chain = Chain(network)

    def start(self, now: Now) -> None:
        """Begin, or begin again after a crash: from what is on the disk, and nothing else."""
        self.chain = Chain(self.network)
        for block in self.final:
            self.chain.accept(block)
        self.join(now)

    def join(self, now: Now) -> None:
        """Be a witness of the present epoch, if its committee names us; the pool goes with it."""
        pool = None if self.simplex is None else self.simplex.pool
        epoch = self.chain.committee.epoch
        kept = [item for item in self.disk if item.vote.epoch == epoch]
        saved = Saved(
            tuple(item.vote for item in kept),
            tuple(item.proposal for item in kept if item.proposal is not None),
            tuple(found for item in kept for found in item.certificates),
            self.final[-1].finality if self.final else None,
        )
        self.simplex, self.wake_at_s = None, None
        if self.key.account in self.chain.committee:
            self.simplex = Simplex(self.key, self.chain, now, saved, pool=pool, asks=self.asks)
            self.wake_at_s = now.s


class Cluster:
    """Peers, their messages in flight, and one clock. `gate(sender, receiver, message)` False loses a message."""

    def __init__(self, network: Genesis, count: int, *, asks: bool = False) -> None:
        self.network = network
        self.s = 0.0
        self.peers = [Peer(network, number, asks=asks) for number in range(count)]
        self.gate: Gate = lambda _sender, _receiver, _message: True
        self.serves: Callable[[int, int], bool] = lambda _source, _asker: True
        self.down: set[int] = set()
        self._flight: list[tuple[int, int, bytes]] = []
        for peer in self.peers:
            peer.start(self.now())

    def now(self) -> Now:
        return Now(self.s, WALL_MS + int(self.s * 1000))

    def crash(self, number: int) -> None:
        """Kill a peer; what it had made durable stays."""
        self.down.add(number)
        self.peers[number].simplex = None

    def restart(self, number: int) -> None:
        self.down.discard(number)
        self.peers[number].start(self.now())

    def submit(self, entry: Entry, *numbers: int) -> None:
        for number in numbers or range(len(self.peers)):
            self.feed(number, Submitted(entry))

    def run(self, seconds: float) -> None:
        """Deliver and wake until that much time has passed."""
        end_s = self.s + seconds
        self._deliver()
        while True:
            awake = [peer for peer in self.peers if peer.simplex is not None and peer.wake_at_s is not None]
            at_s = min((peer.wake_at_s for peer in awake if peer.wake_at_s is not None), default=end_s)
            if at_s >= end_s:
                break
            self.s = max(self.s, at_s)
            for peer in awake:
                if peer.wake_at_s is not None and peer.wake_at_s <= self.s:
                    peer.wake_at_s = None
                    self.feed(peer.number, Tick())
            self._deliver()
            self.s += 0.001
        self.s = end_s

    def pull(self, asker: int, source: int) -> None:
        """What the ledger service does: final blocks, whatever epoch either is in."""
        if {asker, source} & self.down or not self.serves(source, asker):
            return
        peer = self.peers[asker]
        height = peer.chain.tip.height
        blocks = tuple(block for block in self.peers[source].final if block.header.height > height)
        if not blocks:
            return
        if peer.simplex is not None:
            self.feed(asker, CaughtUp(blocks))
        else:
            for block in blocks:
                peer.final += peer.chain.accept(block)
            peer.join(self.now())

    def feed(self, number: int, *events: Event) -> list[Action]:
        peer = self.peers[number]
        if number in self.down or peer.simplex is None:
            return []
        actions = peer.simplex.feed(*events, now=self.now())
        pulls: list[AccountId] = []
        is_over = False
        for action in actions:
            match action:
                case PersistVote():
                    assert not is_over, "a vote after the epoch's last block was final"
                    peer.disk.append(action)
                    peer.signed.append(action)
                case Broadcast(message):
                    for other in peer.simplex.committee.witnesses:
                        if other != peer.key.account:
                            self._flight.append((number, NUMBERS[other], message))
                case Send(to, message):
                    self._flight.append((number, NUMBERS[to], message))
                case Finalised(block):
                    peer.final.append(block)
                case CatchUp(source):
                    pulls.append(source)
                case EpochOver(epoch):
                    peer.epochs_over.append(epoch)
                    is_over = True
                case WakeAt(at_s):
                    peer.wake_at_s = at_s
                case _:
                    pass
        if is_over:
            peer.join(self.now())
        for source in pulls:
            self.pull(number, NUMBERS[source])
        return actions

    def inject(self, sender: int, receiver: int, message: Message) -> None:
        """A message that a liar made up."""
        self._flight.append((sender, receiver, encode_message(message)))

    def _deliver(self) -> None:
        while self._flight:
            sender, receiver, data = self._flight.pop(0)
            passes = receiver < len(self.peers) and not {sender, receiver} & self.down
            if passes and self.gate(sender, receiver, decode_message(data)):
                witness = self.peers[receiver].simplex
                if witness is not None and KEYS[sender].account in witness.committee:
                    self.feed(receiver, Received(KEYS[sender].account, data))

    def check(self) -> None:
        """No two final blocks of one height, no witness that contradicts itself, certificates that verify."""
        for height in range(1, 1 + max(len(peer.final) for peer in self.peers)):
            at = {peer.final[height - 1].header for peer in self.peers if len(peer.final) >= height}
            assert len(at) == 1, f"two blocks of height {height}"
        for peer in self.peers:
            chain = Chain(self.network)
            for block in peer.final:
                chain.accept(block)
            assert chain.tip.height == len(peer.final)
            cast = {(v.vote.epoch, v.vote.kind, v.vote.slot): v.vote.block_hash for v in peer.signed}
            assert len(cast) == len(
                {(v.vote.epoch, v.vote.kind, v.vote.slot, v.vote.block_hash) for v in peer.signed}
            )
