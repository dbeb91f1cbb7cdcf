"""Signed entries that were given up, and that may become final all the same (SPEC.md §15.2).

No clock tells that an entry will never be final: a block that holds it may have been notarised in time, and get final
when a partition heals. Only a final block of a later time does, and in an idle network none comes by itself. So whoever
waits is told that the fate is open, the next intent takes the same sequence number, and the entry stays on record.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.core.actions import Rekey
from ledger.core.state import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.entries import Action, Entry
    from ledger.core.keys import AccountId
    from ledger.core.receipt import Receipt
    from ledger.core.state import Refusal
    from ledger.store import SignedEntry, Store
    from ledger.sync import Follower

__all__ = ["OVERDUE_MAX", "REPEATED_WITHIN_MS", "Overdue", "certain_refusal"]

OVERDUE_MAX: Final = 64
"""Entries of one account whose fate is open after they were given up: with more, nothing more is signed."""
REPEATED_WITHIN_MS: Final = 3_600_000
"""How long after its end an entry that got final after all answers for the same intent, asked for again."""
_FOR_EVER: Final = frozenset(
    (
        Reason.CONFLICT,
        Reason.SEQUENCE_USED,
        Reason.TOO_LATE,
        Reason.SELF_PAYMENT,
        Reason.EXPIRY_PASSED,
        Reason.LOCK_CLOSED,
        Reason.LOCK_EXPIRED,
        Reason.NOT_PAYEE,
        Reason.NOT_PAYER,
        Reason.OVER_AMOUNT,
        Reason.BAD_VOUCHER,
        Reason.NOT_DISPUTABLE,
        Reason.WRONG_ARBITERS,
        Reason.DECREE_USED,
    )
)
"""Refusals that no later block takes back, given that the ledger's time and its sequence numbers only rise (§4.4)."""


def certain_refusal(entry: Entry, follower: Follower) -> Refusal | None:
    """Why no block will ever hold `entry`, which is not final; None while one may.

    Asked at the ledger's own time, the last final block's, and of what is durable here.
    """
    if follower.archive.height < follower.head.height:
        return None
    refusal = follower.state.check(entry, follower.next_moment(0))
    return refusal if refusal is not None and refusal.reason in _FOR_EVER else None


class Overdue:
    """One account's entries that were given up without certainty. The record is the store's: it survives a crash."""

    def __init__(
        self, account: AccountId, store: Store, follower: Follower, clock_ms: Callable[[], int]
    ) -> None:
        self._account = account
        self._store = store
        self._follower = follower
        self._clock_ms = clock_ms

    def entries(self) -> tuple[Entry, ...]:
        """Those whose fate is still open."""
        return tuple(item.entry for item in self._items() if self._follower.receipt(item.entry_id) is None)

    def review(self) -> None:
        """Record what has become certain meanwhile.

        One that got final stays, for REPEATED_WITHIN_MS after its end: whoever was told that its fate is open may ask
        for the same again, and must not pay twice.
        """
        for item in self._items():
            if self._follower.receipt(item.entry_id) is not None:
                if self._clock_ms() > item.entry.not_after_ms + REPEATED_WITHIN_MS:
                    self._store.mark_signed(item.entry, "final")
                continue
            refusal = certain_refusal(item.entry, self._follower)
            if refusal is not None:
                status = "expired" if refusal.reason is Reason.TOO_LATE else "refused"
                self._store.mark_signed(item.entry, status, f"{refusal.reason.value}: {refusal.detail}")

    def answer(self, action: Action) -> Receipt | None:
        """The receipt of one that got final after all and is this very action: it answers once."""
        for item in self._items():
            receipt = self._follower.receipt(item.entry_id) if item.entry.action == action else None
            if receipt is not None:
                self._store.mark_signed(item.entry, "final")
                return receipt
        return None

    def winner(self, entry: Entry, reason: Reason) -> Receipt | None:
        """The receipt of the one that got final with the sequence number of `entry`, if that is why it was refused.

        A REKEY is not signed again: whoever asks for one brings it signed.
        """
        if reason not in {Reason.CONFLICT, Reason.SEQUENCE_USED} or isinstance(entry.action, Rekey):
            return None
        for item in self._items():
            if (item.entry.lane, item.entry.seq) == (entry.lane, entry.seq):
                receipt = self._follower.receipt(item.entry_id)
                if receipt is not None:
                    return receipt
        return None

    def _items(self) -> list[SignedEntry]:
        items = self._store.signed(self._account, pending_only=True)
        return [item for item in items if item.status == "overdue"]
