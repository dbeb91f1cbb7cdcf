"""The parts that clients play: payers, buyers and sellers, clones, and those who send rubbish."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from ledger.core.actions import Action, Claim, Dispute, Expire, Lock, Release, Transfer
from ledger.core.entries import Entry, sign_entry
from ledger.core.state import LockStatus
from ledger.core.vouchers import Voucher, sign_voucher
from tests.core.ledger_ordering.machines import WALL_MS
from tests.simulation.ledger.parties import ARBITERS_HASH, ARBITERS_NEEDED
from tests.simulation.ledger.plan import Broken
from tests.simulation.ledger.wallets import OPEN

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.keys import AccountId, SigningKey
    from tests.simulation.ledger.readers import Reader
    from tests.simulation.ledger.simulation import Simulation
    from tests.simulation.ledger.wallets import Wallet

__all__ = ["Buyer", "Payer", "Seller", "Spammer"]

CLAIM_MARGIN_MS = 5_000
SPAM_GAP_S = 0.7
GRAIN_MS = 500


def intent_of(who: str, number: int) -> bytes:
    """What an honest client writes into an entry, so that a second one for the same wish is seen."""
    return sha256(f"{who}/{number}".encode()).digest()


class Payer:
    """Pays others, now and then more than it has; a wish whose entry is not known to be final is asked for again."""

    def __init__(self, wallet: Wallet, others: list[AccountId], wishes: int) -> None:
        self._wallet = wallet
        self._others = [account for account in others if account != wallet.account]
        self._open = list(range(wishes))
        self._action: Transfer | None = None

    def wish(self, now_ms: int) -> Action | None:
        chance = self._wallet.random
        if not self._open or chance.random() < 0.4:
            return None
        if self._action is None:
            memo = intent_of(self._wallet.name, self._open[0])
            amount = 10**9 if chance.random() < 0.05 else chance.randint(1, 60)
            self._action = Transfer(chance.choice(self._others), amount, memo)
        return self._action

    def settled(self, entry: Entry, outcome: str) -> None:
        if entry.action == self._action and outcome not in {OPEN, "too_late", "conflict", "sequence_used"}:
            self._open.pop(0)
            self._action = None

    def is_done(self) -> bool:
        return not self._open


class Buyer:
    """Locks credit for a seller, sends it vouchers that rise, and takes back what was not claimed in time."""

    def __init__(self, wallet: Wallet, seller: Seller, wishes: int) -> None:
        self._wallet = wallet
        self._seller = seller
        self._open = wishes
        self._count = 0
        self._locks: dict[bytes, tuple[Lock, int]] = {}
        self._unknown: dict[bytes, Lock] = {}
        """Locks of which it is not certain that they will never be."""

    def wish(self, now_ms: int) -> Action | None:
        chance = self._wallet.random
        for lock_id in [lock_id for lock_id in self._unknown if lock_id in self._wallet.reader.final]:
            self._locks[lock_id] = self._unknown.pop(lock_id), 0
        for lock_id in list(self._locks):
            self._pay_on(lock_id)
        for lock_id, (lock, _) in list(self._locks.items()):
            if self._state_of(lock_id) is LockStatus.CLOSED:
                del self._locks[lock_id]
            elif now_ms >= self._deadline_ms(lock_id, lock) or chance.random() < 0.02:
                return Expire(lock_id)
            elif chance.random() < 0.03:
                return Release(lock_id)
        if self._open and len(self._locks) < 2:
            self._count += 1
            expiry_ms = now_ms + chance.randint(1_500, 25_000)
            return Lock(
                self._seller.account,
                chance.randint(10, 90),
                expiry_ms - expiry_ms % GRAIN_MS,
                intent_of(self._wallet.name, self._count),
                *(self._terms() if chance.random() < 0.5 else ()),
            )
        return None

    def _terms(self) -> tuple[int, bytes, int, int]:
        """What happens in a dispute."""
        chance = self._wallet.random
        return (
            chance.randint(1, 8) * GRAIN_MS,
            ARBITERS_HASH,
            ARBITERS_NEEDED,
            chance.choice((0, 5_000, 10_000)),
        )

    def _deadline_ms(self, lock_id: bytes, lock: Lock) -> int:
        known = self._wallet.reader.chain.state.lock(lock_id)
        return lock.expiry_ms if known is None else known.deadline_ms

    def _state_of(self, lock_id: bytes) -> LockStatus:
        lock = self._wallet.reader.chain.state.lock(lock_id)
        return LockStatus.CLOSED if lock is None else lock.status

    def settled(self, entry: Entry, outcome: str) -> None:
        if isinstance(entry.action, Lock):
            self._open -= 1
            lock_id = entry.entry_id(self._wallet.simulation.genesis.network_id)
            if outcome == OPEN:
                self._unknown[lock_id] = entry.action
            elif outcome == "final":
                self._locks[lock_id] = entry.action, 0
                self._pay_on(lock_id)

    def is_done(self) -> bool:
        return not self._open and not self._locks

    def _pay_on(self, lock_id: bytes) -> None:
        """Promise more, and tell the seller: it is kept before it leaves."""
        lock, promised = self._locks[lock_id]
        promised = min(lock.amount, promised + self._wallet.random.randint(0, lock.amount // 3))
        if not promised:
            return
        simulation = self._wallet.simulation
        self._locks[lock_id] = lock, promised
        simulation.referee.promised_payee(lock_id, promised)
        voucher = sign_voucher(self._wallet.key, simulation.genesis.network_id, lock_id, promised)
        seller = self._seller
        simulation.network.carry(
            self._wallet.number, seller.number, voucher.encode(), lambda: seller.hear(lock, voucher)
        )


class Seller:
    """Claims the best voucher before the lock expires; a greedy one tries to claim more."""

    def __init__(self, wallet: Wallet, *, is_greedy: bool) -> None:
        self._wallet = wallet
        self.account = wallet.account
        self.number = wallet.number
        self._is_greedy = is_greedy
        self._best: dict[bytes, tuple[Lock, Voucher]] = {}
        self._in_time: dict[bytes, int] = {}
        self.claimed = 0

    def hear(self, lock: Lock, voucher: Voucher) -> None:
        """A voucher arrives; only a higher one matters."""
        known = self._best.get(voucher.lock_id)
        state = self._wallet.reader.chain.state.lock(voucher.lock_id)
        if state is not None and state.status is LockStatus.CLOSED:
            return
        if known is None or known[1].cumulative < voucher.cumulative:
            self._best[voucher.lock_id] = lock, voucher

    def wish(self, now_ms: int) -> Action | None:
        chance = self._wallet.random
        for lock_id, (lock, voucher) in list(self._best.items()):
            known = self._wallet.reader.chain.state.lock(lock_id)
            deadline_ms = lock.expiry_ms if known is None else known.deadline_ms
            if now_ms >= deadline_ms and chance.random() < 0.8:
                del self._best[lock_id]  # too late; now and then it tries nevertheless
                continue
            if known is None or (now_ms < lock.expiry_ms - 8_000 and chance.random() < 0.7):
                continue
            if self._is_greedy and chance.random() < 0.5:
                return Claim(lock_id, min(lock.amount, voucher.cumulative + 1), voucher.signature)
            if chance.random() < 0.1:
                return Claim(lock_id, 0)
            if lock.dispute_ms and chance.random() < 0.4:
                return Dispute(lock_id, bytes(32))  # with or without a reason
            self._note_margin(lock, voucher, now_ms)
            return Claim(lock_id, voucher.cumulative, voucher.signature)
        return None

    def _note_margin(self, lock: Lock, voucher: Voucher, now_ms: int) -> None:
        """Remember a claim that is sent as early as SPEC.md §4 asks for, in a network that works: it must be paid."""
        simulation = self._wallet.simulation
        margin_ms = (
            CLAIM_MARGIN_MS
            + (self._wallet.reader.chain.committee.faults + 2)
            * self._wallet.reader.chain.state.params.slot_timeout_ms
        )
        is_calm = simulation.world.now_s > simulation.plan.gst_s + 5.0 and not simulation.plan.leaps
        if is_calm and not lock.dispute_ms and now_ms + margin_ms < lock.expiry_ms:
            self._in_time[voucher.lock_id] = voucher.cumulative

    def settled(self, entry: Entry, outcome: str) -> None:
        action = entry.action
        if not isinstance(action, Claim):
            return
        due = self._in_time.pop(action.lock_id, 0)
        if outcome == "final":
            self._best.pop(action.lock_id, None)
            self.claimed += action.cumulative
        elif outcome in {"lock_closed", "lock_unknown", "lock_expired", "not_payee"}:
            self._best.pop(action.lock_id, None)
            lock = self._wallet.reader.chain.state.lock(action.lock_id)
            if due and action.cumulative == due and (lock is None or lock.paid < due):
                raise Broken("voucher", f"{self._wallet.name} claimed {due} in time, and hears {outcome}")

    def is_done(self) -> bool:
        return not self._best


class Spammer:
    """Sends what must never be taken: broken signatures, entries without credit, what others sent long ago."""

    def __init__(
        self, simulation: Simulation, number: int, reader: Reader, strangers: list[SigningKey]
    ) -> None:
        self._simulation = simulation
        self._number = number
        self._reader = reader
        self._strangers = strangers
        self._random = simulation.world.chance(f"spammer {number}")

    def start(self) -> None:
        """Until GST, and a while longer."""
        if self._simulation.world.now_s > self._simulation.plan.gst_s + 6.0:
            return
        ways: list[Callable[[], Entry | None]] = [self._repeat, self._tamper, self._poor]
        entry = self._random.choice(ways)()
        if entry is not None:
            for account in self._simulation.members:
                self._simulation.submit(self._number, account, entry, lambda *_: None)
        self._simulation.world.at(self._random.uniform(0.2, 2.0) * SPAM_GAP_S, self.start)

    def _repeat(self) -> Entry | None:
        known = list(self._reader.entries.values())
        return self._random.choice(known) if known else None

    def _tamper(self) -> Entry | None:
        entry = self._repeat()
        if entry is None:
            return None
        # The same body under a signature with one bit wrong has the same id, and is not the same entry.
        next_seq = self._reader.chain.state.account(entry.account).seq + 1
        if self._random.random() < 0.5:
            return replace(entry, signature=bytes((entry.signature[0] ^ 1,)) + entry.signature[1:])
        return replace(entry, seq=next_seq)

    def _poor(self) -> Entry:
        key = self._random.choice(self._strangers)
        return sign_entry(
            key,
            self._simulation.genesis.network_id,
            seq=1,
            not_after_ms=WALL_MS * 2,
            fee=0,
            action=Transfer(self._strangers[0].account, 5)
            if key is not self._strangers[0]
            else Expire(bytes(32)),
        )
