"""What the ledger holds: accounts, locks and their running sums, in layers that blocks are tried on (SPEC.md §4).

This module keeps; `state` decides. Every write here checks the invariants it can see, and raises
`InvariantError` rather than store a contradiction.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final

from ledger.core.entries import EntryType

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.keys import AccountId

__all__ = [
    "CLOSED_LOCKS_KEPT",
    "TRANSITIONS",
    "Account",
    "Holdings",
    "InvariantError",
    "LockState",
    "LockStatus",
    "Totals",
]

CLOSED_LOCKS_KEPT: Final = 65_536
"""Closed locks that are remembered, so that a late claim hears 'closed' and not 'unknown'. Both refuse it."""


class InvariantError(RuntimeError):
    """The state contradicts itself: a defect in this program. Stop; nothing after it can be trusted."""


class LockStatus(Enum):
    """A lock opens once and closes once."""

    OPEN = "open"
    CLOSED = "closed"


TRANSITIONS: Final = {
    (None, EntryType.LOCK): LockStatus.OPEN,
    (LockStatus.OPEN, EntryType.CLAIM): LockStatus.CLOSED,
    (LockStatus.OPEN, EntryType.EXPIRE): LockStatus.CLOSED,
}
"""Every step a lock can take; a pair that is not here is a refusal."""
_STEPS: Final = frozenset((before, after) for (before, _), after in TRANSITIONS.items())


@dataclass(frozen=True, slots=True)
class Account:
    """One account's line: micro-credits, the last sequence number used, and the id of the entry that used it."""

    balance: int = 0
    limit: int = 0
    seq: int = 0
    last_id: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class LockState:
    """One lock. `paid` is what the payee got when it closed; the payer got the rest."""

    lock_id: bytes
    payer: AccountId
    payee: AccountId
    amount: int
    expiry_ms: int
    terms_hash: bytes
    status: LockStatus = LockStatus.OPEN
    paid: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the whole state: `balance` + `locked` is always 0."""

    balance: int
    locked: int
    accounts: int
    locks_open: int


@dataclass(slots=True, eq=False)
class Layer:
    """What was written since the layer below; `balance` and `locked` are sums over all layers up to this one."""

    balance: int = 0
    locked: int = 0
    accounts: dict[AccountId, Account] = field(default_factory=dict)
    locks: dict[bytes, LockState] = field(default_factory=dict)
    closed: deque[bytes] = field(default_factory=deque)
    """Ids of closed locks in `locks`, oldest first."""
    adopted: bool = False


_NOBODY: Final = Account()


class Holdings:
    """Accounts and locks. Reads look from the top layer down; writes go to the top layer."""

    __slots__ = ("_top", "layers")

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = tuple(layers)
        self._top = self.layers[-1]

    def account(self, account_id: AccountId) -> Account:
        """The account's line; an account that never appeared has zeros."""
        found = self._top.accounts.get(account_id)
        if found is not None or len(self.layers) == 1:
            return found or _NOBODY
        for layer in reversed(self.layers[:-1]):
            found = layer.accounts.get(account_id)
            if found is not None:
                return found
        return _NOBODY

    def lock(self, lock_id: bytes) -> LockState | None:
        """The lock, open or among the last CLOSED_LOCKS_KEPT closed ones; None otherwise."""
        for layer in reversed(self.layers):
            found = layer.locks.get(lock_id)
            if found is not None:
                return found
        return None

    def accounts(self) -> list[tuple[AccountId, Account]]:
        """Every account that has a balance, a limit or an entry, in the order of its bytes."""
        merged: dict[AccountId, Account] = {}
        for layer in self.layers:
            merged.update(layer.accounts)
        return sorted((key, a) for key, a in merged.items() if a.balance or a.limit or a.seq)

    def open_locks(self) -> list[LockState]:
        """Every open lock, in the order of its id."""
        merged: dict[bytes, LockState] = {}
        for layer in self.layers:
            merged.update(layer.locks)
        return [merged[key] for key in sorted(merged) if merged[key].status is LockStatus.OPEN]

    def put_account(self, account_id: AccountId, old: Account, new: Account) -> None:
        """Replace `old`, as `account` returned it, by `new`."""
        if new.balance < -new.limit or not old.seq <= new.seq <= old.seq + 1:
            raise InvariantError(f"account {account_id.hex()} would go from {old} to {new}")
        top = self._top
        top.accounts[account_id] = new
        top.balance += new.balance - old.balance

    def credit(self, account_id: AccountId, amount: int) -> None:
        """Add `amount` (≥ 0) to the account."""
        old = self.account(account_id)
        new = Account(old.balance + amount, old.limit, old.seq, old.last_id)
        self.put_account(account_id, old, new)

    def put_lock(self, lock: LockState) -> None:
        """Open or close a lock; any other step is an `InvariantError`."""
        before = self.lock(lock.lock_id)
        status = before.status if before is not None else None
        if (status, lock.status) not in _STEPS or not 0 <= lock.paid <= lock.amount:
            raise InvariantError(f"lock {lock.lock_id.hex()} would go from {before} to {lock}")
        if before is None:
            self._top.locked += lock.amount
        else:
            self._top.locked -= before.amount
            self._top.closed.append(lock.lock_id)
        self._top.locks[lock.lock_id] = lock
        self._forget_closed()

    def check_sums(self) -> None:
        """Σ balances + Σ open locks = 0, from the running sums: O(1), after every entry."""
        if self._top.balance + self._top.locked:
            raise InvariantError(
                f"balances {self._top.balance} and open locks {self._top.locked} do not sum to 0"
            )

    def recount(self) -> None:
        """Count everything again and compare with the running sums and the limits: O(accounts + locks)."""
        balance = locked = 0
        for account_id, account in self.accounts():
            balance += account.balance
            if account.balance < -account.limit:
                raise InvariantError(f"account {account_id.hex()} is below its limit")
        for lock in self.open_locks():
            locked += lock.amount
        if (balance, locked) != (self._top.balance, self._top.locked):
            raise InvariantError(
                f"counted {balance} and {locked}, kept {self._top.balance} and {self._top.locked}"
            )
        self.check_sums()

    def totals(self) -> Totals:
        """The running sums, and the counts (which are counted)."""
        return Totals(self._top.balance, self._top.locked, len(self.accounts()), len(self.open_locks()))

    def branch(self) -> Holdings:
        """Holdings that start as these and change without them."""
        live = [layer for layer in self.layers if not layer.adopted]
        return Holdings((*live, Layer(self._top.balance, self._top.locked)))

    def adopt(self, branch: Holdings) -> None:
        """Take over what `branch`, a branch of these very holdings, wrote."""
        live = [layer for layer in branch.layers if not layer.adopted]
        if tuple(live[:-1]) != self.layers or branch.layers[-1].adopted:
            raise ValueError("only a branch of this very state can be adopted, and only once")
        layer = live[-1]
        self._top.accounts.update(layer.accounts)
        self._top.locks.update(layer.locks)
        self._top.closed.extend(layer.closed)
        self._top.balance, self._top.locked = layer.balance, layer.locked
        # The layer stays below branches of the branch, empty: they now see its changes one layer down.
        layer.adopted = True
        layer.accounts, layer.locks, layer.closed = {}, {}, deque()
        self._forget_closed()

    def _forget_closed(self) -> None:
        # Only at the bottom: a higher layer must go on covering the open lock below it.
        if len(self.layers) == 1:
            while len(self._top.closed) > CLOSED_LOCKS_KEPT:
                del self._top.locks[self._top.closed.popleft()]
