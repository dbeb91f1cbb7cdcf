"""What the ledger holds: accounts, keys, delegations and locks, in layers that blocks are tried on (SPEC.md §4).

This module keeps; `state` decides. Every write here checks the invariants it can see, and raises
`InvariantError` rather than store a contradiction.
"""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, Final, NamedTuple, TypeVar

from ledger.core.actions import NO_HASH, NO_KEY, EntryType
from ledger.core.amounts import LIMIT_SUM_MAX

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.committee import Committee
    from ledger.core.keys import AccountId
    from ledger.core.params import Params

__all__ = [
    "ACTIVE_SPAN_MS",
    "CLOSED_LOCKS_KEPT",
    "TRANSITIONS",
    "Account",
    "Charter",
    "Holdings",
    "InvariantError",
    "KeyLine",
    "Layer",
    "LockState",
    "LockStatus",
    "Pending",
    "Totals",
]

CLOSED_LOCKS_KEPT: Final = 65_536
"""Closed locks that are remembered, so that a late claim hears 'closed' and not 'unknown'. Both refuse it."""
ACTIVE_SPAN_MS: Final = 31 * 24 * 3600 * 1000
"""How long an empty account is remembered after its last entry: longer than any entry is valid."""

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class InvariantError(RuntimeError):
    """The state contradicts itself: a defect in this program. Stop; nothing after it can be trusted."""


class LockStatus(Enum):
    """A lock opens once, may be disputed once, and closes once."""

    OPEN = "open"
    DISPUTED = "disputed"
    CLOSED = "closed"


TRANSITIONS: Final = {
    (None, EntryType.LOCK): LockStatus.OPEN,
    (LockStatus.OPEN, EntryType.CLAIM): LockStatus.CLOSED,
    (LockStatus.OPEN, EntryType.RELEASE): LockStatus.CLOSED,
    (LockStatus.OPEN, EntryType.EXPIRE): LockStatus.CLOSED,
    (LockStatus.OPEN, EntryType.DISPUTE): LockStatus.DISPUTED,
    (LockStatus.DISPUTED, EntryType.CLAIM): LockStatus.CLOSED,
    (LockStatus.DISPUTED, EntryType.RELEASE): LockStatus.CLOSED,
    (LockStatus.DISPUTED, EntryType.VERDICT): LockStatus.CLOSED,
    (LockStatus.DISPUTED, EntryType.EXPIRE): LockStatus.CLOSED,
}
"""Every step a lock can take; a pair that is not here is a refusal."""
_STEPS: Final = frozenset((before, after) for (before, _), after in TRANSITIONS.items())


# A named tuple, not a frozen dataclass: three are made for every entry of every block, at half the cost.
class Account(NamedTuple):
    """One account's line: micro-credits, the last sequence number used, the id of the entry that used it, and when.

    `active_ms` is the time of the last block with an entry of this account.
    """

    balance: int = 0
    limit: int = 0
    seq: int = 0
    last_id: bytes = NO_HASH
    active_ms: int = 0


@dataclass(frozen=True, slots=True)
class KeyLine:
    """The keys of an account that ever did a REKEY: who signs for it, who may change that, and the lane of REKEYs."""

    key: AccountId
    recovery: AccountId = NO_KEY
    rekeys: int = 0
    last_id: bytes = NO_HASH
    rekeyed_ms: int = 0


@dataclass(frozen=True, slots=True)
class LockState:
    """One lock. `paid` is what the payee got when it closed; the payer got the rest.

    `payer_key` was the payer's key when it opened: its vouchers verify under this key for ever.
    """

    lock_id: bytes
    payer: AccountId
    payee: AccountId
    amount: int
    expiry_ms: int
    terms_hash: bytes
    payer_key: AccountId
    dispute_ms: int = 0
    arbiters_hash: bytes = NO_HASH
    arbiters_needed: int = 0
    default_bps: int = 0
    status: LockStatus = LockStatus.OPEN
    paid: int = 0

    @property
    def deadline_ms(self) -> int:
        """Until before this block time the lock can be claimed; from it on, expired."""
        return self.expiry_ms + (self.dispute_ms if self.status is LockStatus.DISPUTED else 0)


@dataclass(frozen=True, slots=True)
class Pending:
    """Parameters that are decreed and wait for their height."""

    from_height: int
    params: Params


@dataclass(frozen=True, slots=True)
class Charter:
    """What governors may change: how many decrees there were, the parameters, the committee."""

    decrees: int
    params: Params
    committee: Committee
    pending: Pending | None = None


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums over the whole state: `balance` + `locked` is always 0. `locks_open` counts the disputed ones, too."""

    balance: int
    locked: int
    accounts: int
    locks_open: int
    limits: int = 0


@dataclass(slots=True, eq=False)
class Layer:
    """What was written since the layer below; the sums and the charter are those of all layers up to this one."""

    charter: Charter
    balance: int = 0
    locked: int = 0
    limits: int = 0
    accounts: dict[AccountId, Account] = field(default_factory=dict)
    keys: dict[AccountId, KeyLine] = field(default_factory=dict)
    delegations: dict[tuple[AccountId, AccountId], int] = field(default_factory=dict)
    """By sponsor and beneficiary; 0 above the lowest layer covers what stands below."""
    sponsors: dict[AccountId, int] = field(default_factory=dict)
    """How many accounts a sponsor delegates to; 0 above the lowest layer covers what stands below."""
    locks: dict[bytes, LockState] = field(default_factory=dict)
    payers: dict[AccountId, int] = field(default_factory=dict)
    """How many open locks an account pays for; 0 above the lowest layer covers what stands below."""
    closed: deque[bytes] = field(default_factory=deque)
    """Ids of closed locks in `locks`, oldest first."""
    forgotten: list[AccountId] = field(default_factory=list)
    adopted: bool = False


_NOBODY: Final = Account()


class Holdings:
    """Accounts, keys, delegations and locks. Reads look from the top layer down; writes go to the top layer."""

    __slots__ = ("_accounts", "layers", "top")

    def __init__(self, layers: Iterable[Layer]) -> None:
        self.layers = tuple(layers)
        self.top = self.layers[-1]
        """Where everything is written."""
        # The tables alone, top first: what every entry asks several times. `adopt` empties tables, never replaces them.
        self._accounts = tuple(layer.accounts for layer in reversed(self.layers))

    @property
    def charter(self) -> Charter:
        """What governors may change, as it stands."""
        return self.top.charter

    def account(self, account_id: AccountId) -> Account:
        """The account's line; an account that never appeared has zeros."""
        for table in self._accounts:
            found = table.get(account_id)
            if found is not None:
                return found
        return _NOBODY

    def lock(self, lock_id: bytes) -> LockState | None:
        """The lock, open or among the last CLOSED_LOCKS_KEPT closed ones; None otherwise."""
        return next((layer.locks[lock_id] for layer in reversed(self.layers) if lock_id in layer.locks), None)

    @property
    def has_keys(self) -> bool:
        """Whether any account ever did a REKEY."""
        return any(layer.keys for layer in self.layers)

    def key_line(self, account_id: AccountId) -> KeyLine | None:
        """The account's keys, if it ever did a REKEY."""
        for layer in reversed(self.layers):
            found = layer.keys.get(account_id)
            if found is not None:
                return found
        return None

    def delegated(self, sponsor: AccountId, beneficiary: AccountId) -> int:
        """How much of its credit line `sponsor` has delegated to `beneficiary`."""
        return _count((layer.delegations for layer in reversed(self.layers)), (sponsor, beneficiary))

    def delegations_of(self, sponsor: AccountId) -> int:
        """To how many accounts `sponsor` delegates."""
        return _count((layer.sponsors for layer in reversed(self.layers)), sponsor)

    def locks_of(self, payer: AccountId) -> int:
        """How many open locks `payer` pays for."""
        return _count((layer.payers for layer in reversed(self.layers)), payer)

    def limit_sum(self) -> int:
        """Σ limits."""
        return self.top.limits

    def accounts(self) -> list[tuple[AccountId, Account]]:
        """Every account of which anything but zeros is known, in the order of its bytes."""
        merged = self._known()
        return [(key, merged[key]) for key in sorted(merged)]

    def key_lines(self) -> list[tuple[AccountId, KeyLine]]:
        """Every account that ever did a REKEY, in the order of its bytes."""
        merged = _merged([layer.keys for layer in self.layers])
        return [(key, merged[key]) for key in sorted(merged)]

    def delegations(self) -> list[tuple[AccountId, AccountId, int]]:
        """Every sponsor, beneficiary and delegated amount, in the order of their bytes."""
        merged = _merged([layer.delegations for layer in self.layers])
        return [(*pair, merged[pair]) for pair in sorted(merged) if merged[pair]]

    def open_locks(self) -> list[LockState]:
        """Every lock that is open or disputed, in the order of its id."""
        merged = _merged([layer.locks for layer in self.layers])
        return [merged[key] for key in sorted(merged) if merged[key].status is not LockStatus.CLOSED]

    def put_account(self, account_id: AccountId, old: Account, new: Account) -> None:
        """Replace `old`, as `account` returned it, by `new`."""
        limit = new.limit
        if new.balance < -limit or not old.seq <= new.seq <= old.seq + 1:
            raise InvariantError(f"account {account_id.hex()} would go from {old} to {new}")
        top = self.top
        top.accounts[account_id] = new
        top.balance += new.balance - old.balance
        if limit != old.limit:
            top.limits += limit - old.limit
            if limit < 0 or top.limits > LIMIT_SUM_MAX:
                raise InvariantError(f"account {account_id.hex()}: limit {limit}, in all {top.limits}")

    def credit(self, account_id: AccountId, amount: int) -> None:
        """Add `amount` (≥ 0) to the account."""
        old = self.account(account_id)
        balance, limit, seq, last_id, active_ms = old
        self.put_account(account_id, old, Account(balance + amount, limit, seq, last_id, active_ms))

    def put_keys(self, account_id: AccountId, line: KeyLine) -> None:
        """Replace the account's keys."""
        before = self.key_line(account_id)
        if line.rekeys != (before.rekeys if before is not None else 0) + 1:
            raise InvariantError(f"account {account_id.hex()} would go from {before} to {line}")
        self.top.keys[account_id] = line

    def put_delegation(self, sponsor: AccountId, beneficiary: AccountId, amount: int) -> None:
        """What `sponsor` has delegated to `beneficiary` from now on."""
        if not 0 <= amount <= LIMIT_SUM_MAX:
            raise InvariantError(f"{sponsor.hex()} would have delegated {amount} to {beneficiary.hex()}")
        step = (amount > 0) - (self.delegated(sponsor, beneficiary) > 0)
        if step:
            self._keep(self.top.sponsors, sponsor, self.delegations_of(sponsor) + step)
        self._keep(self.top.delegations, (sponsor, beneficiary), amount)

    def put_charter(self, charter: Charter) -> None:
        """Replace what governors may change."""
        self.top.charter = charter

    def put_lock(self, lock: LockState) -> None:
        """Open, dispute or close a lock; any other step is an `InvariantError`."""
        before = self.lock(lock.lock_id)
        status = before.status if before is not None else None
        if (status, lock.status) not in _STEPS or not 0 <= lock.paid <= lock.amount:
            raise InvariantError(f"lock {lock.lock_id.hex()} would go from {before} to {lock}")
        top = self.top
        if before is None:
            top.locked += lock.amount
            top.payers[lock.payer] = self.locks_of(lock.payer) + 1
        elif lock.status is LockStatus.CLOSED:
            top.locked -= before.amount
            top.closed.append(lock.lock_id)
            self._keep(top.payers, lock.payer, self.locks_of(lock.payer) - 1)
        top.locks[lock.lock_id] = lock
        self._forget_closed()

    def prune(self, time_ms: int) -> int:
        """Forget accounts that hold, owe and may owe nothing and were idle for ACTIVE_SPAN_MS; how many."""
        bound = {account_id for account_id, _ in self.key_lines()}
        bound.update(lock.payer for lock in self.open_locks())
        for sponsor, beneficiary, _ in self.delegations():
            bound |= {sponsor, beneficiary}
        idle = [
            account_id
            for account_id, a in self._known().items()
            if not a.balance and not a.limit and a.active_ms + ACTIVE_SPAN_MS < time_ms
        ]
        gone = sorted(account_id for account_id in idle if account_id not in bound)
        for account_id in gone:
            self.top.accounts[account_id] = _NOBODY
        self.top.forgotten += gone
        self._forget_idle()
        return len(gone)

    def check_sums(self) -> None:
        """Σ balances + Σ open locks = 0, from the running sums: O(1), after every entry."""
        top = self.top
        if top.balance + top.locked:
            raise InvariantError(f"balances {top.balance} and open locks {top.locked} do not sum to 0")

    def recount(self) -> None:
        """Count everything again and compare with the running sums and the limits: O(accounts + locks)."""
        balance = limits = 0
        for account_id, account in self.accounts():
            balance += account.balance
            limits += account.limit
            if account.limit < 0 or account.balance < -account.limit:
                raise InvariantError(f"account {account_id.hex()} is below its limit")
        locks = self.open_locks()
        locked = sum(lock.amount for lock in locks)
        top = self.top
        if (balance, locked, limits) != (top.balance, top.locked, top.limits):
            kept = f"{top.balance}, {top.locked} and {top.limits}"
            raise InvariantError(f"counted {balance}, {locked} and {limits}, kept {kept}")
        payers = _merged([layer.payers for layer in self.layers])
        if Counter(lock.payer for lock in locks) != Counter(payers):
            raise InvariantError("the open locks are not those that were counted for their payers")
        sponsors = _merged([layer.sponsors for layer in self.layers])
        if Counter(sponsor for sponsor, _, _ in self.delegations()) != Counter(sponsors):
            raise InvariantError("the delegations are not those that were counted for their sponsors")
        if limits > LIMIT_SUM_MAX:
            raise InvariantError(f"the limits sum to {limits}")
        self.check_sums()

    def totals(self) -> Totals:
        """The running sums, and the counts (which are counted)."""
        top, locks = self.top, len(self.open_locks())
        return Totals(top.balance, top.locked, len(self.accounts()), locks, top.limits)

    def branch(self) -> Holdings:
        """Holdings that start as these and change without them."""
        live, top = [layer for layer in self.layers if not layer.adopted], self.top
        return Holdings((*live, Layer(top.charter, top.balance, top.locked, top.limits)))

    def adopt(self, branch: Holdings) -> None:
        """Take over what `branch`, a branch of these very holdings, wrote."""
        live = [layer for layer in branch.layers if not layer.adopted]
        if tuple(live[:-1]) != self.layers or branch.layers[-1].adopted:
            raise ValueError("only a branch of this very state can be adopted, and only once")
        layer, top = live[-1], self.top
        top.accounts.update(layer.accounts)
        top.keys.update(layer.keys)
        top.locks.update(layer.locks)
        top.closed.extend(layer.closed)
        top.forgotten.extend(layer.forgotten)
        for pair, amount in layer.delegations.items():
            self._keep(top.delegations, pair, amount)
        for sponsor, count in layer.sponsors.items():
            self._keep(top.sponsors, sponsor, count)
        for payer, count in layer.payers.items():
            self._keep(top.payers, payer, count)
        top.charter, top.limits = layer.charter, layer.limits
        top.balance, top.locked = layer.balance, layer.locked
        # The layer stays below branches of the branch, empty: they now see its changes one layer down.
        layer.adopted = True
        tables = (layer.accounts, layer.keys, layer.delegations, layer.sponsors, layer.locks, layer.payers)
        for table in tables:
            table.clear()
        layer.closed.clear()
        layer.forgotten.clear()
        self._forget_closed()
        self._forget_idle()

    def _known(self) -> dict[AccountId, Account]:
        merged = _merged([layer.accounts for layer in self.layers])
        return {key: a for key, a in merged.items() if a.balance or a.limit or a.seq or a.active_ms}

    def _keep(self, table: dict[_Key, int], key: _Key, value: int) -> None:
        # A zero is dropped at the bottom only: a higher layer must go on covering what stands below it.
        if value or len(self.layers) > 1:
            table[key] = value
        else:
            table.pop(key, None)

    def _forget_closed(self) -> None:
        # Only at the bottom: a higher layer must go on covering the open lock below it.
        if len(self.layers) == 1:
            while len(self.top.closed) > CLOSED_LOCKS_KEPT:
                del self.top.locks[self.top.closed.popleft()]

    def _forget_idle(self) -> None:
        top = self.top
        if len(self.layers) == 1 and top.forgotten:
            for account_id in top.forgotten:
                # It may have been paid again since, in a block above the one that forgot it.
                if top.accounts.get(account_id) == _NOBODY:
                    del top.accounts[account_id]
            top.forgotten.clear()


def _count(tables: Iterable[dict[_Key, int]], key: _Key) -> int:
    """What the first of `tables` that knows `key` says of it; 0 if none does."""
    return next((table[key] for table in tables if key in table), 0)


def _merged(tables: Iterable[dict[_Key, _Value]]) -> dict[_Key, _Value]:
    merged: dict[_Key, _Value] = {}
    for table in tables:
        merged.update(table)
    return merged
