"""The audit's reading of what rules the rest: credit lines, keys, the committee, the parameters (SPEC.md §4).

Each function says what an entry would do, or raises `BrokenRuleError`; nothing is changed here.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ledger.core.book_pages import NO_ID, Deed, KeyLine, Terms
from ledger.core.encoding import Kind
from ledger.core.violations import AuditRule, BrokenRuleError

if TYPE_CHECKING:
    from ledger.core.actions import Limit, Param, Rekey, Rotate
    from ledger.core.approvals import Approvals
    from ledger.core.books import Books
    from ledger.core.keys import AccountId

__all__ = ["BENEFICIARIES_MAX", "limited", "parametrised", "rekeyed", "rotated"]

_LIMITS_SUM_MAX: Final = 1 << 62
_RECOVERY_PAUSE_MS: Final = 3_600_000
BENEFICIARIES_MAX: Final = 1_024
_FROM_HEIGHT_SPAN: Final = 1_000_000


def limited(books: Books, who: AccountId, action: Limit) -> Deed:
    """A LIMIT, of either form."""
    if action.decree:
        return _granted(books, action)
    if action.beneficiary == who:
        raise BrokenRuleError(AuditRule.LIMIT, "an account delegates to itself")
    return _delegated(books, who, action.beneficiary, action.delta)


def _delegated(books: Books, sponsor: AccountId, beneficiary: AccountId, delta: int) -> Deed:
    """So much of the sponsor's line becomes the beneficiary's, or comes back; their sum stays."""
    pair = (sponsor, beneficiary)
    lent = books.delegations.get(pair, 0) + delta
    own, other = books.line(sponsor).limit - delta, books.line(beneficiary).limit + delta
    if lent < 0:
        raise BrokenRuleError(AuditRule.DELEGATION, f"{-delta} taken back, {lent - delta} were delegated")
    if own < 0:
        raise BrokenRuleError(AuditRule.BALANCE, f"{delta} delegated of a line of {own + delta}")
    if pair not in books.delegations and len(books.sponsored.get(sponsor, ())) >= BENEFICIARIES_MAX:
        raise BrokenRuleError(AuditRule.DELEGATION, f"to more than {BENEFICIARIES_MAX} accounts")
    if other < 0 or (delta < 0 and books.purses.get(beneficiary, 0) < -other):
        raise BrokenRuleError(AuditRule.LIMIT, f"{-delta} taken back, of which the beneficiary uses a part")

    def then() -> None:
        if lent:
            books.delegate(pair, lent)
        else:
            books.end_delegation(pair)

    return Deed(limits={sponsor: own, beneficiary: other}, then=then)


def _granted(books: Books, action: Limit) -> Deed:
    """The governors make a line longer or shorter: the only way in which the sum of lines changes."""
    payload = action.beneficiary + action.delta.to_bytes(8, "big", signed=True)
    _check_decree(books, action.TYPE, action.decree, payload, action.approvals)
    line = books.line(action.beneficiary).limit + action.delta
    if line < 0:
        raise BrokenRuleError(AuditRule.LIMIT, f"a line of {line}")
    if books.limits_sum + action.delta > _LIMITS_SUM_MAX:
        raise BrokenRuleError(AuditRule.LIMIT, f"the lines sum to more than {_LIMITS_SUM_MAX}")
    if books.purses.get(action.beneficiary, 0) < -line:
        raise BrokenRuleError(AuditRule.LIMIT, f"a line of {line}, of which more is in use")

    def then() -> None:
        books.limits_sum += action.delta
        books.decrees += 1

    return Deed(limits={action.beneficiary: line}, then=then)


def rotated(books: Books, action: Rotate) -> Deed:
    """A ROTATE: other witnesses, and with them another epoch, from the next block on."""
    payload = b"".join((bytes((len(action.witnesses),)), *action.witnesses))
    _check_decree(books, action.TYPE, action.decree, payload, action.approvals)
    if books.epoch + 1 >= 1 << 32:
        raise BrokenRuleError(AuditRule.EPOCH, f"a ROTATE in epoch {books.epoch}, the last that has a number")

    def then() -> None:
        books.epoch += 1
        books.witnesses = action.witnesses
        books.decrees += 1

    return Deed(then=then)


def parametrised(books: Books, action: Param) -> Deed:
    """A PARAM: other terms from a later height on; one that waits already is replaced."""
    new = action.params
    terms = Terms(new.version, new.fee_min, new.dispute_fee, new.slot_timeout_ms)
    payload = struct.pack(">QHQQI", action.from_height, *terms)
    _check_decree(books, action.TYPE, action.decree, payload, action.approvals)
    if terms.version < books.terms.version:
        raise BrokenRuleError(AuditRule.PARAM, f"version {terms.version} after {books.terms.version}")
    height = books.page.height
    if not height < action.from_height <= height + _FROM_HEIGHT_SPAN:
        raise BrokenRuleError(AuditRule.PARAM, f"from height {action.from_height}, decreed at {height}")

    def then() -> None:
        books.pending = (action.from_height, terms)
        books.decrees += 1

    return Deed(then=then)


def rekeyed(books: Books, who: AccountId, seq: int, entry_id: bytes, action: Rekey) -> Deed:
    """A REKEY, whose signature is checked already: another key signs, and perhaps another recovers."""
    line, known = books.keys.get(who), books.line(who)
    if line is None and not (books.purses.get(who) or known.limit or known.used):
        raise BrokenRuleError(AuditRule.REKEY, "of an account of which nothing is known")
    if line is not None and line.recovery != NO_ID:
        _check_pace(books, line)
    agreed = who + seq.to_bytes(8, "big") + action.new_key + action.recovery
    if not books.signed(action.new_key, action.proof, Kind.REKEY, agreed):
        raise BrokenRuleError(AuditRule.REKEY, "the new key did not sign for the account")
    now = books.page.time_ms

    def then() -> None:
        books.keys[who] = KeyLine(action.new_key, action.recovery, seq, entry_id, now)

    return Deed(then=then)


def _check_pace(books: Books, line: KeyLine) -> None:
    """A recovery key may act once per hour of block time: a stolen one can be answered, a loop of them cannot run."""
    if books.page.time_ms < line.changed_ms + _RECOVERY_PAUSE_MS:
        raise BrokenRuleError(AuditRule.REKEY, f"again at {books.page.time_ms} after {line.changed_ms}")


def _check_decree(books: Books, kind: int, number: int, payload: bytes, approvals: Approvals) -> None:
    """Decrees have one sequence of their own, and enough governors under each."""
    genesis = books.genesis
    if not genesis.governors_needed:
        raise BrokenRuleError(AuditRule.APPROVAL, "a decree in a network without governors")
    if number != books.decrees + 1:
        raise BrokenRuleError(AuditRule.DECREE, f"decree {number} after {books.decrees}")
    decision = struct.pack(">BQ", kind, number) + payload
    books.check_approved(approvals, genesis.governors, genesis.governors_needed, Kind.DECREE, decision)
