"""What the audit's books are made of: the lines of accounts, keys and locks, the page of a block, and a deed.

A second, independent reading of SPEC.md §4: nothing here comes from `state`, which witnesses and followers run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.keys import AccountId

__all__ = ["FEE_PURSE", "NO_ID", "Deed", "KeyLine", "Line", "OpenLock", "Page", "Terms", "lock_purse"]

FEE_PURSE: Final = b"fee"
"""Where a fee lies between the account that pays it and the leader that earns it."""
NO_ID: Final = bytes(32)


class Page(NamedTuple):
    """The block whose entries are being booked."""

    height: int
    time_ms: int
    leader: AccountId
    epoch: int


class Terms(NamedTuple):
    """The parameters in force."""

    version: int
    fee_min: int
    dispute_fee: int
    slot_timeout_ms: int


@dataclass(slots=True)
class Line:
    """What an account may and did do; its credit is in its purse."""

    limit: int = 0
    used: int = 0
    """The sequence number of its last entry, its REKEYs aside."""
    last_id: bytes = NO_ID
    active_ms: int = 0
    open_locks: int = 0
    """How many open locks it is the payer of."""


@dataclass(frozen=True, slots=True)
class KeyLine:
    """Who signs for an account that did a REKEY."""

    key: AccountId
    recovery: bytes
    """Who signs its next REKEY; 32 zero bytes: the key itself."""
    rekeys: int
    last_id: bytes
    changed_ms: int


@dataclass(slots=True)
class OpenLock:
    payer: AccountId
    payee: AccountId
    payer_key: AccountId
    """Whose vouchers this lock honours: the payer's key when it was opened."""
    amount: int
    expiry_ms: int
    dispute_ms: int
    arbiters_hash: bytes
    arbiters_needed: int
    default_bps: int
    terms_hash: bytes
    disputed: bool = False

    @property
    def deadline_ms(self) -> int:
        """From when on nothing but EXPIRE can close it."""
        return self.expiry_ms + self.dispute_ms if self.disputed else self.expiry_ms


@dataclass(slots=True)
class Deed:
    """What an entry that its type's rule allows will do, once its account is found able to pay for it."""

    moves: list[tuple[bytes, bytes, int]] = field(default_factory=list)
    """(from purse, to purse, micro-credits), in this order."""
    limits: dict[AccountId, int] = field(default_factory=dict)
    """Credit lines as they will be."""
    then: Callable[[], None] | None = None
    """What else changes, once everything is found in order; it cannot fail."""


def lock_purse(lock_id: bytes) -> bytes:
    """The purse that holds a lock's credit: no account has a name of this length."""
    return b"L" + lock_id
