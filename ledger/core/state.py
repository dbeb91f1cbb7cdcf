"""Who holds what: balances, credit lines and locks, changed by one entry at a time (SPEC.md §4).

`apply` checks everything and then changes everything: a refusal leaves the state as it was, and after
every entry the invariants are checked, in production too. Signatures of entries are `verify_entry`'s; a
claim's voucher is checked here, because only the state knows its payer.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ledger.core.entries import Claim, Entry, EntryType, Expire, Lock, Transfer, Voucher, verify_voucher
from ledger.core.holdings import (
    CLOSED_LOCKS_KEPT,
    TRANSITIONS,
    Account,
    Holdings,
    InvariantError,
    Layer,
    LockState,
    LockStatus,
    Totals,
)
from ledger.core.snapshot import encode_snapshot, state_root

if TYPE_CHECKING:
    from ledger.core.committee import Committee
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId
    from ledger.core.params import Params

__all__ = [
    "CLOSED_LOCKS_KEPT",
    "LOCK_SPAN_MS_MAX",
    "TRANSITIONS",
    "Account",
    "Effect",
    "InvariantError",
    "LedgerState",
    "LockState",
    "LockStatus",
    "Moment",
    "Reason",
    "Refusal",
    "Totals",
]

LOCK_SPAN_MS_MAX: Final = 366 * 24 * 3600 * 1000
"""How far after its block's time a lock may expire."""


class Reason(StrEnum):
    """Why an entry is refused: the text goes to the sender (SPEC.md §18)."""

    REPEAT = "repeat"
    CONFLICT = "conflict"
    SEQUENCE_USED = "sequence_used"
    SEQUENCE_GAP = "sequence_gap"
    TOO_LATE = "too_late"
    FEE_TOO_LOW = "fee_too_low"
    INSUFFICIENT = "insufficient"
    SELF_PAYMENT = "self_payment"
    EXPIRY_PASSED = "expiry_passed"
    EXPIRY_TOO_FAR = "expiry_too_far"
    LOCK_UNKNOWN = "lock_unknown"
    LOCK_CLOSED = "lock_closed"
    LOCK_EXPIRED = "lock_expired"
    LOCK_NOT_EXPIRED = "lock_not_expired"
    NOT_PAYEE = "not_payee"
    OVER_AMOUNT = "over_amount"
    BAD_VOUCHER = "bad_voucher"
    BAD_SIGNATURE = "bad_signature"
    """For callers of `verify_entry`: the state itself does not check the signatures of entries."""
    NOT_IN_USE = "not_in_use"
    BUSY = "busy"
    """For queues in front of the state: nothing is wrong with the entry, there is no room now."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The block that an entry is part of, or would be: its height, its time and epoch, and who leads its slot."""

    height: int
    time_ms: int
    leader: AccountId
    epoch: int = 0


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an entry was not applied; nothing moved. REPEAT means that this very entry already is."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Effect:
    """What an applied entry changed: (account, micro-credits) for each account touched, and its lock if any."""

    entry_id: bytes
    moves: tuple[tuple[AccountId, int], ...]
    lock: LockState | None


@dataclass(frozen=True, slots=True)
class _Plan:
    """An entry that may be applied. `own` is what its account gains or loses, its fee included."""

    account: Account
    entry_id: bytes
    own: int
    other: tuple[AccountId, int] | None
    lock: LockState | None


class LedgerState:
    """The state after some entries, from genesis on.

    `branch` gives a state to try blocks on; `adopt` moves a branch's changes into its base. A state with live
    branches changes only by `adopt`, and adopting one branch makes its siblings worthless.
    """

    __slots__ = ("_holdings", "genesis")

    def __init__(self, genesis: Genesis, holdings: Holdings | None = None) -> None:
        self.genesis = genesis
        accounts = {account: Account(limit=limit) for account, limit in genesis.limits}
        self._holdings = Holdings((Layer(accounts=accounts),)) if holdings is None else holdings

    @property
    def committee(self) -> Committee:
        """Who orders the next block."""
        return self.genesis.committee

    def check(self, entry: Entry, at: Moment) -> Refusal | None:
        """Why `entry` cannot be applied in a block of this moment; None if it can. Changes nothing."""
        plan = self._plan(entry, at.time_ms)
        return plan if isinstance(plan, Refusal) else None

    def apply(self, entry: Entry, at: Moment) -> Effect | Refusal:
        """Apply `entry` as part of a block of this moment, whose leader earns its fee; or refuse and move nothing.

        The caller has checked that `signer(entry)` signed the entry (`verify_entry`).
        """
        plan = self._plan(entry, at.time_ms)
        if isinstance(plan, Refusal):
            return plan
        # From here on nothing may fail: every check is behind us.
        holdings = self._holdings
        old = plan.account
        new = Account(old.balance + plan.own, old.limit, entry.seq, plan.entry_id)
        holdings.put_account(entry.account, old, new)
        moves = [(entry.account, plan.own)]
        if plan.other is not None:
            holdings.credit(*plan.other)
            moves.append(plan.other)
        if entry.fee:
            holdings.credit(at.leader, entry.fee)
            moves.append((at.leader, entry.fee))
        if plan.lock is not None:
            holdings.put_lock(plan.lock)
        holdings.check_sums()
        return Effect(plan.entry_id, tuple(moves), plan.lock)

    def signer(self, entry: Entry) -> AccountId:
        """The key that must have signed `entry`, as things stand."""
        return self.key_of(entry.account)

    def key_of(self, account_id: AccountId) -> AccountId:
        """The account's current key: its first one, which is its name, until a REKEY."""
        return account_id

    @property
    def params(self) -> Params:
        """The parameters as they stand."""
        return self.genesis.params

    def account(self, account_id: AccountId) -> Account:
        """The account's line; an account that never appeared has zeros."""
        return self._holdings.account(account_id)

    def lock(self, lock_id: bytes) -> LockState | None:
        """The lock, open or among the last CLOSED_LOCKS_KEPT closed ones; None otherwise."""
        return self._holdings.lock(lock_id)

    def accounts(self) -> list[tuple[AccountId, Account]]:
        """Every account that has a balance, a limit or an entry, in the order of its bytes."""
        return self._holdings.accounts()

    def open_locks(self) -> list[LockState]:
        """Every open lock, in the order of its id."""
        return self._holdings.open_locks()

    def totals(self) -> Totals:
        """Sums kept entry by entry; the two counts are counted: O(accounts + locks)."""
        return self._holdings.totals()

    def assert_invariants(self) -> None:
        """Recount everything; `InvariantError` if it differs from the running sums or breaks a limit."""
        self._holdings.recount()

    def snapshot(self) -> bytes:
        """The whole state as canonical bytes (SPEC.md §4); their hash is `root`."""
        return encode_snapshot(self.accounts(), self.open_locks())

    def root(self) -> bytes:
        """The state root that every STATE_ROOT_INTERVALth header names."""
        return state_root(self.genesis.network_id, self.snapshot())

    def branch(self) -> LedgerState:
        """A state that starts as this one and changes without it."""
        return LedgerState(self.genesis, self._holdings.branch())

    def adopt(self, branch: LedgerState) -> None:
        """Take over the changes of `branch`, made by `self.branch()` or from a branch adopted since.

        Branches of `branch` stay valid: they now see its changes here. Anything else is a `ValueError`.
        """
        self._holdings.adopt(branch.holdings)

    @property
    def holdings(self) -> Holdings:
        """The tables themselves, for `adopt`."""
        return self._holdings

    def _plan(self, entry: Entry, time_ms: int) -> _Plan | Refusal:
        account = self.account(entry.account)
        entry_id = entry.entry_id(self.genesis.network_id)
        if entry.seq != account.seq + 1:
            return _refuse_sequence(entry, entry_id, account)
        if time_ms > entry.not_after_ms:
            return Refusal(Reason.TOO_LATE, f"valid until {entry.not_after_ms}, the block is of {time_ms}")
        if entry.fee < self.genesis.fee_min:
            return Refusal(Reason.FEE_TOO_LOW, f"the fee is {entry.fee}, the least is {self.genesis.fee_min}")
        action = entry.action
        if isinstance(action, Transfer):
            plan = _plan_transfer(entry, account, entry_id, action)
        elif isinstance(action, Lock):
            plan = _plan_lock(entry, account, entry_id, action, time_ms)
        elif isinstance(action, Claim):
            plan = self._plan_claim(entry, account, entry_id, action, time_ms)
        elif isinstance(action, Expire):
            plan = self._plan_expire(entry, account, entry_id, action, time_ms)
        else:
            return Refusal(Reason.NOT_IN_USE, f"{action.TYPE.name} entries are not in use yet")
        if isinstance(plan, _Plan) and account.balance + plan.own < -account.limit:
            return Refusal(
                Reason.INSUFFICIENT,
                f"{-plan.own} needed, {account.balance + account.limit} available with the credit line",
            )
        return plan

    def _plan_claim(
        self, entry: Entry, account: Account, entry_id: bytes, claim: Claim, time_ms: int
    ) -> _Plan | Refusal:
        lock = self._open_lock(claim.lock_id, EntryType.CLAIM)
        if isinstance(lock, Refusal):
            return lock
        if entry.account != lock.payee:
            return Refusal(Reason.NOT_PAYEE, "only the lock's payee may claim it")
        if time_ms >= lock.expiry_ms:
            return Refusal(
                Reason.LOCK_EXPIRED, f"the lock expired at {lock.expiry_ms}, the block is of {time_ms}"
            )
        if claim.cumulative > lock.amount:
            return Refusal(Reason.OVER_AMOUNT, f"{claim.cumulative} claimed of a lock of {lock.amount}")
        if claim.cumulative:
            voucher = Voucher(claim.lock_id, claim.cumulative, claim.voucher_signature)
            if not verify_voucher(voucher, lock.payer, self.genesis.network_id):
                return Refusal(Reason.BAD_VOUCHER, "the lock's payer did not sign a voucher for this sum")
        closed = replace(lock, status=LockStatus.CLOSED, paid=claim.cumulative)
        refund = (lock.payer, lock.amount - claim.cumulative)
        return _Plan(account, entry_id, claim.cumulative - entry.fee, refund, closed)

    def _plan_expire(
        self, entry: Entry, account: Account, entry_id: bytes, expire: Expire, time_ms: int
    ) -> _Plan | Refusal:
        lock = self._open_lock(expire.lock_id, EntryType.EXPIRE)
        if isinstance(lock, Refusal):
            return lock
        if time_ms < lock.expiry_ms:
            return Refusal(
                Reason.LOCK_NOT_EXPIRED, f"the lock expires at {lock.expiry_ms}, the block is of {time_ms}"
            )
        closed = replace(lock, status=LockStatus.CLOSED)
        if entry.account == lock.payer:
            return _Plan(account, entry_id, lock.amount - entry.fee, None, closed)
        return _Plan(account, entry_id, -entry.fee, (lock.payer, lock.amount), closed)

    def _open_lock(self, lock_id: bytes, step: EntryType) -> LockState | Refusal:
        lock = self.lock(lock_id)
        if lock is None:
            return Refusal(Reason.LOCK_UNKNOWN, f"there is no lock {lock_id.hex()}, or it closed long ago")
        if (lock.status, step) not in TRANSITIONS:
            return Refusal(Reason.LOCK_CLOSED, f"lock {lock_id.hex()} is closed; {lock.paid} was paid")
        return lock


def _refuse_sequence(entry: Entry, entry_id: bytes, account: Account) -> Refusal:
    if entry.seq > account.seq + 1:
        return Refusal(Reason.SEQUENCE_GAP, f"sequence {entry.seq}, the next is {account.seq + 1}")
    if entry.seq < account.seq:
        return Refusal(Reason.SEQUENCE_USED, f"sequence {entry.seq} is used, the next is {account.seq + 1}")
    if entry_id == account.last_id:
        return Refusal(Reason.REPEAT, "this entry is applied already")
    return Refusal(
        Reason.CONFLICT, f"sequence {entry.seq} was used by another entry, {account.last_id.hex()}"
    )


def _plan_transfer(entry: Entry, account: Account, entry_id: bytes, transfer: Transfer) -> _Plan | Refusal:
    if transfer.to == entry.account:
        return Refusal(Reason.SELF_PAYMENT, "an account cannot pay itself")
    return _Plan(account, entry_id, -transfer.amount - entry.fee, (transfer.to, transfer.amount), None)


def _plan_lock(entry: Entry, account: Account, entry_id: bytes, lock: Lock, time_ms: int) -> _Plan | Refusal:
    if lock.payee == entry.account:
        return Refusal(Reason.SELF_PAYMENT, "an account cannot lock credit for itself")
    if lock.expiry_ms <= time_ms:
        return Refusal(
            Reason.EXPIRY_PASSED, f"the lock would expire at {lock.expiry_ms}, the block is of {time_ms}"
        )
    if lock.expiry_ms > time_ms + LOCK_SPAN_MS_MAX:
        return Refusal(
            Reason.EXPIRY_TOO_FAR, f"a lock lasts at most {LOCK_SPAN_MS_MAX} ms from its block's time"
        )
    opened = LockState(entry_id, entry.account, lock.payee, lock.amount, lock.expiry_ms, lock.terms_hash)
    return _Plan(account, entry_id, -lock.amount - entry.fee, None, opened)
