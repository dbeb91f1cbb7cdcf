"""The rules of payments and locks: what moves, or why nothing does (SPEC.md §4.2).

Each rule looks and plans; `state` changes. The order of its checks is part of the protocol.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ledger.core.actions import (
    BASIS_POINTS,
    Claim,
    Dispute,
    EntryType,
    Expire,
    Lock,
    Release,
    Transfer,
    Verdict,
)
from ledger.core.approvals import arbiters_hash, verdict_body
from ledger.core.authority import approvals_hold
from ledger.core.encoding import Kind
from ledger.core.holdings import TRANSITIONS, LockState, LockStatus
from ledger.core.outcomes import Moment, Plan, Reason, Refusal
from ledger.core.vouchers import Voucher, verify_voucher

if TYPE_CHECKING:
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from ledger.core.state import LedgerState

__all__ = [
    "LOCKS_PER_PAYER_MAX",
    "LOCK_SPAN_MS_MAX",
    "plan_claim",
    "plan_dispute",
    "plan_expire",
    "plan_lock",
    "plan_release",
    "plan_transfer",
    "plan_verdict",
]

LOCK_SPAN_MS_MAX: Final = 366 * 24 * 3600 * 1000
"""How far after its block's time a lock may expire."""
LOCKS_PER_PAYER_MAX: Final = 1024
"""Open locks that one account may pay for."""


def plan_transfer(
    _state: LedgerState, entry: Entry, _entry_id: bytes, action: Transfer, _at: Moment
) -> Plan | Refusal:
    """TRANSFER: amount from the sender to another account."""
    amount, to = action.amount, action.to
    if to == entry.account:
        return Refusal(Reason.SELF_PAYMENT, "an account cannot pay itself")
    return Plan(-amount - entry.fee, ((to, amount),))


def plan_lock(state: LedgerState, entry: Entry, entry_id: bytes, action: Lock, at: Moment) -> Plan | Refusal:
    """LOCK: amount from the sender into a lock."""
    if action.payee == entry.account:
        return Refusal(Reason.SELF_PAYMENT, "an account cannot lock credit for itself")
    if action.expiry_ms <= at.time_ms:
        return Refusal(
            Reason.EXPIRY_PASSED, f"the lock would expire at {action.expiry_ms}, the block is of {at.time_ms}"
        )
    if action.expiry_ms > at.time_ms + LOCK_SPAN_MS_MAX:
        return Refusal(
            Reason.EXPIRY_TOO_FAR, f"a lock lasts at most {LOCK_SPAN_MS_MAX} ms from its block's time"
        )
    if state.holdings.locks_of(entry.account) >= LOCKS_PER_PAYER_MAX:
        return Refusal(Reason.TOO_MANY_LOCKS, f"{LOCKS_PER_PAYER_MAX} locks of this account are open already")
    opened = LockState(
        entry_id,
        entry.account,
        action.payee,
        action.amount,
        action.expiry_ms,
        action.terms_hash,
        state.key_of(entry.account),
        action.dispute_ms,
        action.arbiters_hash,
        action.arbiters_needed,
        action.default_bps,
    )
    return Plan(-action.amount - entry.fee, (), opened)


def plan_claim(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Claim, at: Moment
) -> Plan | Refusal:
    """CLAIM: the payee takes what a voucher says, the payer gets the rest."""
    lock = _lock_for(state, action.lock_id, EntryType.CLAIM)
    if isinstance(lock, Refusal):
        return lock
    if entry.account != lock.payee:
        return Refusal(Reason.NOT_PAYEE, "only the lock's payee may claim it")
    if at.time_ms >= lock.deadline_ms:
        return _expired(lock, at)
    if action.cumulative > lock.amount:
        return Refusal(Reason.OVER_AMOUNT, f"{action.cumulative} claimed of a lock of {lock.amount}")
    if action.cumulative:
        voucher = Voucher(action.lock_id, action.cumulative, action.voucher_signature)
        if not verify_voucher(voucher, lock.payer_key, state.genesis.network_id):
            return Refusal(Reason.BAD_VOUCHER, "the lock's payer did not sign a voucher for this sum")
    return _close(entry, lock, action.cumulative)


def plan_release(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Release, at: Moment
) -> Plan | Refusal:
    """RELEASE: the payer gives all of it to the payee."""
    lock = _lock_for(state, action.lock_id, EntryType.RELEASE)
    if isinstance(lock, Refusal):
        return lock
    if entry.account != lock.payer:
        return Refusal(Reason.NOT_PAYER, "only the lock's payer may release it")
    if at.time_ms >= lock.deadline_ms:
        return _expired(lock, at)
    return _close(entry, lock, lock.amount)


def plan_dispute(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Dispute, at: Moment
) -> Plan | Refusal:
    """DISPUTE: the payee gives the arbiters time."""
    lock = _lock_for(state, action.lock_id, EntryType.DISPUTE)
    if isinstance(lock, Refusal):
        return lock
    if entry.account != lock.payee:
        return Refusal(Reason.NOT_PAYEE, "only the lock's payee may dispute it")
    if not lock.dispute_ms:
        return Refusal(Reason.NOT_DISPUTABLE, "the lock names no arbiters")
    if at.time_ms >= lock.expiry_ms:
        return _expired(lock, at)
    return Plan(-entry.fee, (), replace(lock, status=LockStatus.DISPUTED))


def plan_verdict(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Verdict, at: Moment
) -> Plan | Refusal:
    """VERDICT: enough of the lock's arbiters decided how it is split."""
    lock = _lock_for(state, action.lock_id, EntryType.VERDICT)
    if isinstance(lock, Refusal):
        return lock
    if at.time_ms >= lock.deadline_ms:
        return _expired(lock, at)
    if action.payee_amount > lock.amount:
        return Refusal(Reason.OVER_AMOUNT, f"{action.payee_amount} awarded of a lock of {lock.amount}")
    if arbiters_hash(action.arbiters) != lock.arbiters_hash:
        return Refusal(Reason.WRONG_ARBITERS, "the lock names other arbiters")
    body = verdict_body(action.lock_id, action.payee_amount)
    signed = action.approvals.signed_by(action.arbiters)
    if not approvals_hold(state, signed, lock.arbiters_needed, Kind.VERDICT, body):
        return Refusal(
            Reason.NOT_APPROVED, f"{lock.arbiters_needed} arbiters must sign this verdict, each correctly"
        )
    return _close(entry, lock, action.payee_amount)


def plan_expire(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Expire, at: Moment
) -> Plan | Refusal:
    """EXPIRE: after the deadline all returns to the payer, but for the default of a dispute."""
    lock = _lock_for(state, action.lock_id, EntryType.EXPIRE)
    if isinstance(lock, Refusal):
        return lock
    if at.time_ms < lock.deadline_ms:
        return Refusal(
            Reason.LOCK_NOT_EXPIRED, f"the lock expires at {lock.deadline_ms}, the block is of {at.time_ms}"
        )
    is_disputed = lock.status is LockStatus.DISPUTED
    return _close(entry, lock, lock.amount * lock.default_bps // BASIS_POINTS if is_disputed else 0)


def _lock_for(state: LedgerState, lock_id: bytes, step: EntryType) -> LockState | Refusal:
    """The lock, if it may take this step as it stands."""
    lock = state.holdings.lock(lock_id)
    if lock is None:
        return Refusal(Reason.LOCK_UNKNOWN, f"there is no lock {lock_id.hex()}, or it closed long ago")
    if (lock.status, step) in TRANSITIONS:
        return lock
    if lock.status is LockStatus.CLOSED:
        return Refusal(Reason.LOCK_CLOSED, f"lock {lock_id.hex()} is closed; {lock.paid} was paid")
    if lock.status is LockStatus.DISPUTED:
        return Refusal(Reason.LOCK_DISPUTED, f"lock {lock_id.hex()} is disputed already")
    return Refusal(Reason.NOT_DISPUTED, f"nobody disputed lock {lock_id.hex()}")


def _expired(lock: LockState, at: Moment) -> Refusal:
    return Refusal(
        Reason.LOCK_EXPIRED, f"the lock expired at {lock.deadline_ms}, the block is of {at.time_ms}"
    )


def _close(entry: Entry, lock: LockState, paid: int) -> Plan:
    """`paid` to the payee, the rest to the payer; whoever of them asked pays the fee out of it."""
    own = -entry.fee
    others: list[tuple[AccountId, int]] = []
    for account_id, share in ((lock.payee, paid), (lock.payer, lock.amount - paid)):
        if account_id == entry.account:
            own += share
        elif share:
            others.append((account_id, share))
    return Plan(own, tuple(others), replace(lock, status=LockStatus.CLOSED, paid=paid))
