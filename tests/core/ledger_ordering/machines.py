"""A few machines joined by hand: the test decides which message arrives where, and when time passes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.core.block import Proposal
from ledger.core.chain import Chain
from ledger.core.consensus import Message, decode_message, encode_message
from ledger.core.entries import Entry, Transfer, sign_entry
from ledger.core.events import (
    Action,
    Broadcast,
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
from ledger.core.keys import SigningKey
from ledger.core.simplex import Simplex
from ledger.core.votes import NO_BLOCK, Vote, sign_vote

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock
    from ledger.core.encoding import Kind

WALL_MS = 1_700_000_000_000
PAYER, PAYEE = SigningKey(b"p" * 32), SigningKey(b"q" * 32)
KEYS = tuple(SigningKey(bytes((number + 1,)) * 32) for number in range(10))


def genesis(n: int) -> Genesis:
    return Genesis(
        "ordering", WALL_MS - 60_000, tuple(k.account for k in KEYS[:n]), ((PAYER.account, 10**9),)
    )


def entry(network: Genesis, seq: int = 1, amount: int = 5) -> Entry:
    return sign_entry(
        PAYER,
        network.network_id,
        seq=seq,
        not_after_ms=WALL_MS + 3_600_000,
        fee=0,
        action=Transfer(PAYEE.account, amount),
    )


class Machine:
    """One `Simplex` with everything it said. Its lists are checked: a vote is persisted before it is sent."""

    def __init__(self, network: Genesis, number: int, saved: Saved | None = None) -> None:
        self.network = network
        self.key = KEYS[number]
        self.s = 0.0
        self.skew_ms = 0
        self.simplex = Simplex(self.key, Chain(network), self.now(), saved or Saved())
        self.durable = list((saved or Saved()).votes)
        self.persisted: list[PersistVote] = []
        self.sent: list[Message] = []
        self.final: list[FinalBlock] = []
        self.actions: list[Action] = []
        self.wake_at_s: float | None = None

    def now(self) -> Now:
        return Now(self.s, WALL_MS + int(self.s * 1000) + self.skew_ms)

    def feed(self, event: Event) -> list[Action]:
        self.actions = self.simplex.feed(event, now=self.now())
        for action in self.actions:
            if isinstance(action, PersistVote):
                self.persisted.append(action)
                self.durable.append(action.vote)
            elif isinstance(action, Broadcast | Send):
                message = decode_message(action.message)
                if isinstance(message, Vote) and message.witness == self.key.account:
                    assert message in self.durable, "sent before it was persisted"
                self.sent.append(message)
            elif isinstance(action, Finalised):
                self.final.append(action.block)
            elif isinstance(action, WakeAt):
                self.wake_at_s = action.at_s
        return self.actions

    def submit(self, *entries: Entry) -> None:
        for item in entries:
            self.feed(Submitted(item))

    def hear(self, *messages: Message, sender: int = 0) -> None:
        for message in messages:
            self.feed(Received(KEYS[sender].account, encode_message(message)))

    def wait(self, seconds: float) -> None:
        """Let time pass, waking the machine whenever it asked to be."""
        end_s = self.s + seconds
        while self.wake_at_s is not None and self.wake_at_s <= end_s:
            self.s, self.wake_at_s = max(self.s, self.wake_at_s), None
            self.feed(Tick())
        self.s = end_s

    def votes(self, kind: Kind, slot: int | None = None) -> list[Vote]:
        """Its own votes of a kind, each once."""
        found = [item.vote for item in self.persisted if item.vote.kind is kind]
        return [vote for vote in found if slot is None or vote.slot == slot]

    def proposals(self) -> list[Proposal]:
        return [message for message in self.sent if isinstance(message, Proposal)]

    def saved(self) -> Saved:
        """What a disk that kept everything would give back."""
        return Saved(
            tuple(item.vote for item in self.persisted),
            tuple(item.proposal for item in self.persisted if item.proposal is not None),
            tuple(certificate for item in self.persisted for certificate in item.certificates),
        )


def vote(network: Genesis, number: int, kind: Kind, slot: int, block_hash: bytes = NO_BLOCK) -> Vote:
    return sign_vote(KEYS[number], network.committee, kind, slot=slot, block_hash=block_hash)
