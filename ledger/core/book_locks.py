"""The audit's reading of locks: opened once, closed once, disputed at most once (SPEC.md §4).

Each function says what an entry would do, or raises `BrokenRuleError`; nothing is changed here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.core.actions import Claim, Dispute, Expire, Lock, Release, Verdict
from ledger.core.book_pages import Deed, OpenLock, lock_purse
from ledger.core.encoding import Kind, digest
from ledger.core.violations import AuditRule, BrokenRuleError

if TYPE_CHECKING:
    from ledger.core.books import Books
    from ledger.core.keys import AccountId

__all__ = ["LOCKS_PER_PAYER_MAX", "Closing", "closed", "disputed", "opened"]

_LOCK_SPAN_MS: Final = 31_622_400_000  # 366 days
LOCKS_PER_PAYER_MAX: Final = 1_024
_WHOLE_BPS: Final = 10_000

Closing = Claim | Expire | Release | Verdict


def opened(books: Books, who: AccountId, lock_id: bytes, action: Lock) -> Deed:
    """A LOCK: the amount moves from the payer's purse into the lock's own."""
    now = books.page.time_ms
    if action.payee == who:
        raise BrokenRuleError(AuditRule.PAYMENT, "an account locks credit for itself")
    if not now < action.expiry_ms <= now + _LOCK_SPAN_MS:
        raise BrokenRuleError(AuditRule.LOCK, f"expiry {action.expiry_ms} for a block of {now}")
    if books.line(who).open_locks >= LOCKS_PER_PAYER_MAX:
        raise BrokenRuleError(AuditRule.LOCK, f"its payer has {LOCKS_PER_PAYER_MAX} open locks already")
    lock = OpenLock(
        payer=who,
        payee=action.payee,
        payer_key=books.key_of(who),
        amount=action.amount,
        expiry_ms=action.expiry_ms,
        dispute_ms=action.dispute_ms,
        arbiters_hash=action.arbiters_hash,
        arbiters_needed=action.arbiters_needed,
        default_bps=action.default_bps,
        terms_hash=action.terms_hash,
    )

    def then() -> None:
        books.locks[lock_id] = lock
        books.own_line(who).open_locks += 1
        books.opened += lock.amount

    return Deed([(who, lock_purse(lock_id), action.amount)], then=then)


def closed(books: Books, who: AccountId, action: Closing) -> Deed:
    """A CLAIM, RELEASE, VERDICT or EXPIRE: the lock's purse is emptied, so much to the payee, the rest back."""
    lock = _open_lock(books, action.lock_id)
    now = books.page.time_ms
    if isinstance(action, Expire):
        if now < lock.deadline_ms:
            raise BrokenRuleError(AuditRule.LOCK, f"expired at {now}, allowed from {lock.deadline_ms}")
        paid = lock.amount * lock.default_bps // _WHOLE_BPS if lock.disputed else 0
    else:
        if now >= lock.deadline_ms:
            raise BrokenRuleError(AuditRule.LOCK, f"closed at {now}, expired at {lock.deadline_ms}")
        if isinstance(action, Claim):
            paid = _claimed(books, who, action, lock)
        elif isinstance(action, Release):
            if who != lock.payer:
                raise BrokenRuleError(AuditRule.LOCK, "released by another than the payer")
            paid = lock.amount
        else:
            paid = _judged(books, action, lock)
    purse = lock_purse(action.lock_id)

    def then() -> None:
        del books.locks[action.lock_id]
        if books.purses.pop(purse):
            raise BrokenRuleError(AuditRule.CONSERVATION, f"lock {action.lock_id.hex()} closed with a rest")
        books.own_line(lock.payer).open_locks -= 1
        books.paid += paid
        books.refunded += lock.amount - paid

    return Deed([(purse, lock.payee, paid), (purse, lock.payer, lock.amount - paid)], then=then)


def disputed(books: Books, who: AccountId, fee: int, action: Dispute) -> Deed:
    """A DISPUTE: the payee calls the arbiters, and the lock's deadline moves."""
    due = max(books.terms.fee_min, books.terms.dispute_fee)
    if fee < due:
        raise BrokenRuleError(AuditRule.FEE, f"a fee of {fee}, for a dispute {due} are due")
    lock = _open_lock(books, action.lock_id)
    now = books.page.time_ms
    if who != lock.payee:
        raise BrokenRuleError(AuditRule.DISPUTE, "disputed by another than the payee")
    if lock.disputed:
        raise BrokenRuleError(AuditRule.DISPUTE, "disputed twice")
    if not lock.dispute_ms:
        raise BrokenRuleError(AuditRule.DISPUTE, "the lock was agreed without disputes")
    if now >= lock.expiry_ms:
        raise BrokenRuleError(AuditRule.DISPUTE, f"disputed at {now}, expired at {lock.expiry_ms}")

    def then() -> None:
        lock.disputed = True

    return Deed(then=then)


def _open_lock(books: Books, lock_id: bytes) -> OpenLock:
    lock = books.locks.get(lock_id)
    if lock is None:
        raise BrokenRuleError(AuditRule.LOCK, f"no open lock {lock_id.hex()}")
    return lock


def _claimed(books: Books, who: AccountId, claim: Claim, lock: OpenLock) -> int:
    if who != lock.payee:
        raise BrokenRuleError(AuditRule.LOCK, "claimed by another than the payee")
    if claim.cumulative > lock.amount:
        raise BrokenRuleError(AuditRule.LOCK, f"{claim.cumulative} claimed of {lock.amount}")
    if claim.cumulative:
        promise = claim.lock_id + claim.cumulative.to_bytes(8, "big")
        if not books.signed(lock.payer_key, claim.voucher_signature, Kind.VOUCHER, promise):
            raise BrokenRuleError(AuditRule.VOUCHER, "the payer did not sign the claimed voucher")
    return claim.cumulative


def _judged(books: Books, verdict: Verdict, lock: OpenLock) -> int:
    if not lock.disputed:
        raise BrokenRuleError(AuditRule.VERDICT, "a verdict on a lock that nobody disputed")
    named = digest(b"millrace/1 arbiters\0", bytes((len(verdict.arbiters),)), *verdict.arbiters)
    if named != lock.arbiters_hash:
        raise BrokenRuleError(AuditRule.VERDICT, "the arbiters are not those that the lock names")
    if verdict.payee_amount > lock.amount:
        raise BrokenRuleError(AuditRule.VERDICT, f"{verdict.payee_amount} awarded of {lock.amount}")
    decision = verdict.lock_id + verdict.payee_amount.to_bytes(8, "big")
    books.check_approved(verdict.approvals, verdict.arbiters, lock.arbiters_needed, Kind.VERDICT, decision)
    return verdict.payee_amount
