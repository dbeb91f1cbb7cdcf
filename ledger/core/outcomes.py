"""What is asked of the state and what it answers: a moment, an effect, or a refusal with its reason (SPEC.md §4.4)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from ledger.core.holdings import Charter, KeyLine, LockState
    from ledger.core.keys import AccountId

__all__ = ["VALID_SPAN_MS_MAX", "Change", "Effect", "Moment", "Plan", "Reason", "Refusal"]

VALID_SPAN_MS_MAX: Final = 30 * 24 * 3600 * 1000
"""How far after its block's time an entry may say that it is valid: idle accounts are remembered for longer."""


class Reason(StrEnum):
    """Why an entry is refused: the text goes to the sender (SPEC.md §4.4, §18)."""

    EPOCH_OVER = "epoch_over"
    REPEAT = "repeat"
    CONFLICT = "conflict"
    SEQUENCE_USED = "sequence_used"
    SEQUENCE_GAP = "sequence_gap"
    TOO_LATE = "too_late"
    VALID_TOO_LONG = "valid_too_long"
    FEE_TOO_LOW = "fee_too_low"
    INSUFFICIENT = "insufficient"
    SELF_PAYMENT = "self_payment"
    EXPIRY_PASSED = "expiry_passed"
    EXPIRY_TOO_FAR = "expiry_too_far"
    TOO_MANY_LOCKS = "too_many_locks"
    LOCK_UNKNOWN = "lock_unknown"
    LOCK_CLOSED = "lock_closed"
    LOCK_EXPIRED = "lock_expired"
    LOCK_NOT_EXPIRED = "lock_not_expired"
    NOT_PAYEE = "not_payee"
    NOT_PAYER = "not_payer"
    OVER_AMOUNT = "over_amount"
    BAD_VOUCHER = "bad_voucher"
    NOT_DISPUTABLE = "not_disputable"
    LOCK_DISPUTED = "lock_disputed"
    NOT_DISPUTED = "not_disputed"
    WRONG_ARBITERS = "wrong_arbiters"
    NOT_APPROVED = "not_approved"
    NOT_DELEGATED = "not_delegated"
    TOO_MANY_DELEGATIONS = "too_many_delegations"
    LIMIT_IN_USE = "limit_in_use"
    LIMIT_NEGATIVE = "limit_negative"
    LIMIT_SUM = "limit_sum"
    NO_GOVERNANCE = "no_governance"
    DECREE_USED = "decree_used"
    DECREE_GAP = "decree_gap"
    LAST_EPOCH = "last_epoch"
    ACCOUNT_UNKNOWN = "account_unknown"
    BAD_PROOF = "bad_proof"
    TOO_SOON = "too_soon"
    HEIGHT_PASSED = "height_passed"
    HEIGHT_TOO_FAR = "height_too_far"
    VERSION_LOWER = "version_lower"
    BAD_SIGNATURE = "bad_signature"
    """For callers of `verify_entry`: the state itself does not check the signatures of entries."""
    BUSY = "busy"
    """For queues in front of the state: nothing is wrong with the entry, there is no room now."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why an entry was not applied; nothing moved. REPEAT means that this very entry already is."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Moment:
    """The block that an entry is part of, or would be: its height, its time and epoch, and who leads its slot."""

    height: int
    time_ms: int
    leader: AccountId
    epoch: int = 0


# Named tuples, not frozen dataclasses: one of each is made for every entry of every block, at half the cost.
class Effect(NamedTuple):
    """What an applied entry changed: (account, micro-credits) for each account touched, and its lock if any."""

    entry_id: bytes
    moves: tuple[tuple[AccountId, int], ...]
    lock: LockState | None


class Plan(NamedTuple):
    """An entry that may be applied. `own` is what its account gains or loses, its fee included."""

    own: int
    others: tuple[tuple[AccountId, int], ...] = ()
    """What other accounts gain: never negative."""
    lock: LockState | None = None
    change: Change | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What the rare entries change beside balances and locks."""

    limits: tuple[tuple[AccountId, int], ...] = ()
    """Account and the change of its credit line."""
    delegation: tuple[AccountId, AccountId, int] | None = None
    """Sponsor, beneficiary, and what is delegated between them from now on."""
    keys: KeyLine | None = None
    """The sender's new line of keys."""
    charter: Charter | None = None
