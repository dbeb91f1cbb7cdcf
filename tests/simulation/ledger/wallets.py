"""A client's way to the ledger, as in `ledger/wallet.py`: sign, keep, send the same bytes until their fate is known.

One entry at a time. A crash forgets all but what was kept: the signed entries whose fate is open.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Protocol

from ledger.core.actions import Action, Rekey
from ledger.core.entries import Entry, sign_entry
from ledger.core.state import Reason
from tests.simulation.ledger.world import Clock

if TYPE_CHECKING:
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.state import Refusal
    from tests.simulation.ledger.readers import Reader
    from tests.simulation.ledger.simulation import Simulation

__all__ = ["OPEN", "Part", "Wallet"]

EXPIRY_MARGIN_MS = 10_000
DEFER = frozenset((Reason.BUSY, Reason.REPEAT, Reason.SEQUENCE_GAP, Reason.EPOCH_OVER))
NEVER = frozenset(
    (
        Reason.CONFLICT,
        Reason.SEQUENCE_USED,
        Reason.TOO_LATE,
        Reason.SELF_PAYMENT,
        Reason.EXPIRY_PASSED,
        Reason.LOCK_CLOSED,
        Reason.LOCK_EXPIRED,
        Reason.NOT_PAYEE,
        Reason.OVER_AMOUNT,
        Reason.BAD_VOUCHER,
        Reason.NOT_PAYER,
        Reason.NOT_DISPUTABLE,
        Reason.WRONG_ARBITERS,
        Reason.DECREE_USED,
    )
)
"""Refusals after which the very same bytes can never be applied (SPEC.md §4.4)."""
OPEN = "open"
"""The fate of an entry that no clock but the ledger's own can tell: another takes its place."""
CRASH_SHARE = 0.02
FEE_EXTRA_MAX = 3
VALID_MS = (-1_000, *(4_000, 15_000, 120_000) * 6)
"""How long an entry may wait for its block; a few are too late from the start."""


class Part(Protocol):
    """What a client wants of the ledger."""

    def wish(self, now_ms: int) -> Action | None:
        """The next thing to sign, or nothing now."""

    def settled(self, entry: Entry, outcome: str) -> None:
        """The entry's fate: `final`, why it was refused, or OPEN."""

    def is_done(self) -> bool:
        """Whether it has nothing more to ask for."""


class Wallet:
    """One account's signer. Two of them with one key are a clone, and a thief has one as well."""

    def __init__(
        self, simulation: Simulation, name: str, number: int, *, key: SigningKey, reader: Reader
    ) -> None:
        self.simulation = simulation
        self.name = name
        self.number = number
        self.key = key
        self.account = key.account
        """Named by its first key; a REKEY changes `key`, and not the account."""
        self.is_thief = False
        self.reader = reader
        self.part: Part | None = None
        self.clock = Clock(simulation.world, name, skew_ms_max=2_000)
        self.random = simulation.world.chance(name)
        self.pending: Entry | None = None
        self.overdue: list[Entry] = []
        """Given up, and perhaps final all the same: the next has the same number, and the same is not paid twice."""
        self.extra_seq = 0
        """For a control only: how many sequence numbers are left out."""
        self.outcomes: Counter[str] = Counter()
        self._refusals: dict[AccountId, Reason] = {}

    def start(self) -> None:
        """Look at the world, act, and look again later."""
        self._step()
        self.simulation.world.at(self.random.uniform(0.3, 0.9), self.start)

    def is_done(self) -> bool:
        """Whether nothing that it signed is open, and it wants nothing more."""
        return self.pending is None and (self.part is None or self.part.is_done())

    def now_ms(self) -> int:
        """Its own clock's time."""
        return self.clock.now().wall_ms

    def _step(self) -> None:
        if self.simulation.world.suffers("crash") and self.random.random() < CRASH_SHARE:
            self._refusals.clear()  # it starts again; the pending entry was kept
            return
        self._review()
        if self.pending is not None:
            self._judge(self.pending)
        if self.pending is None and self.part is not None:
            action = self.part.wish(self.now_ms())
            twin = None if action is None else self._final_twin(action)
            if twin is not None:
                self._answer_with(twin)
            elif action is not None:
                self._sign(action)
        if self.pending is not None and (self.random.random() < 0.6 or not self.simulation.world.is_broken):
            self._send(self.pending)

    def _sign(self, action: Action, instead_of: Entry | None = None) -> None:
        """Sign it, with the next number; `instead_of` an entry that lost its number, with the same end."""
        state = self.reader.chain.state
        end_ms = self.now_ms() + self.random.choice(VALID_MS)
        entry = sign_entry(
            self.key,
            self.simulation.genesis.network_id,
            seq=self._next_seq(action) + self.extra_seq,
            not_after_ms=end_ms if instead_of is None else instead_of.not_after_ms,
            fee=state.params.fee_min + self.random.randint(0, FEE_EXTRA_MAX),
            action=action,
            account=self.account,
        )
        if self.is_thief:
            self.simulation.referee.thefts.add(entry.entry_id(self.simulation.genesis.network_id))
        refusal = state.check(entry, self.reader.chain.next_moment(self.now_ms()))
        if refusal is None or self.random.random() < 0.25:  # some send what they could know to be refused
            self.simulation.world.note(
                self.name, f"signs {entry.action.TYPE.name} {entry.seq}", entry.encode()
            )
            self.pending = entry  # durable before anyone sees it
            self._refusals.clear()
        else:
            self._settle(entry, refusal.reason.value)

    def _next_seq(self, action: Action) -> int:
        state = self.reader.chain.state
        if not isinstance(action, Rekey):
            return state.account(self.account).seq + 1
        line = state.key_line(self.account)
        return 1 if line is None else line.rekeys + 1

    def _send(self, entry: Entry) -> None:
        for account in self.reader.chain.committee.witnesses:
            self.simulation.submit(self.number, account, entry, self._hear)

    def _hear(self, witness: AccountId, entry: Entry, refusal: Refusal | None) -> None:
        if entry == self.pending and refusal is not None:
            self._refusals[witness] = refusal.reason

    def _judge(self, entry: Entry) -> None:
        """As `Wallet._judge`: final, or given up only where that is certain."""
        entry_id = entry.entry_id(self.simulation.genesis.network_id)
        height = self.reader.final.get(entry_id)
        if height is not None:
            self.simulation.referee.promised[entry_id] = height
            self._settle(entry, "final")
            return
        now_ms, chain = self.now_ms(), self.reader.chain
        # What the ledger itself, at its own time, refuses for ever is certain. No other clock is: a block of an
        # earlier time may still be on its way to finality.
        own = chain.state.check(entry, chain.next_moment(0))
        counts = Counter(self._refusals.values())
        is_refused = any(
            reason not in DEFER and count > chain.committee.faults for reason, count in counts.items()
        )
        winner = self._winner(entry)
        if winner is not None:
            self._tell_lost(entry, entry_id, Reason.CONFLICT)
            if winner.action == entry.action:
                self._answer_with(winner)
            else:
                self.pending = None
                self._sign(entry.action, entry)
        elif own is not None and own.reason in NEVER:
            self._give_up(entry, entry_id, own.reason)
        elif is_refused or now_ms > entry.not_after_ms + EXPIRY_MARGIN_MS:
            self._keep_overdue(entry)
            self._settle(entry, OPEN)  # the next has the same sequence number: at most one of them gets final

    def _keep_overdue(self, entry: Entry) -> None:
        self.overdue.append(entry)

    def _review(self) -> None:
        """Forget overdue entries of which the ledger has said that they will never be."""
        chain = self.reader.chain
        for entry in list(self.overdue):
            refusal = chain.state.check(entry, chain.next_moment(0))
            if self._height_of(entry) is None and refusal is not None and refusal.reason in NEVER:
                self.overdue.remove(entry)
                self._tell_lost(entry, self._id_of(entry), refusal.reason)

    def _final_twin(self, action: Action) -> Entry | None:
        """An overdue entry that got final after all, and is this very action."""
        twins = (entry for entry in self.overdue if entry.action == action)
        return next((entry for entry in twins if self._height_of(entry) is not None), None)

    def _winner(self, entry: Entry) -> Entry | None:
        """The overdue entry that got final with this one's number."""
        rivals = (other for other in self.overdue if (other.lane, other.seq) == (entry.lane, entry.seq))
        return next((other for other in rivals if self._height_of(other) is not None), None)

    def _answer_with(self, overdue: Entry) -> None:
        """Whoever asked for the same gets the receipt of the overdue one: once."""
        self.overdue.remove(overdue)
        height = self._height_of(overdue)
        if height is not None:
            self.simulation.referee.promised[self._id_of(overdue)] = height
        self.simulation.world.note(self.name, "answers with what was overdue")
        self._settle(overdue, "final")

    def _id_of(self, entry: Entry) -> bytes:
        return entry.entry_id(self.simulation.genesis.network_id)

    def _height_of(self, entry: Entry) -> int | None:
        return self.reader.final.get(self._id_of(entry))

    def _give_up(self, entry: Entry, entry_id: bytes, reason: Reason) -> None:
        self._tell_lost(entry, entry_id, reason)
        self._settle(entry, reason.value)

    def _tell_lost(self, entry: Entry, entry_id: bytes, reason: Reason) -> None:
        self.simulation.world.note(self.name, f"gives up {entry.seq}: {reason.value}")
        self.simulation.referee.refused_for_good(entry_id, f"{self.name}: {reason.value}")

    def _settle(self, entry: Entry, outcome: str) -> None:
        self.pending = None
        self.outcomes[outcome] += 1
        if self.part is not None:
            self.part.settled(entry, outcome)
