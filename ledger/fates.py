"""What a wallet tells whoever had something ordered, where that has no receipt (SPEC.md §15.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.core.keys import peer_id
from ledger.core.state import Reason

if TYPE_CHECKING:
    from ledger.core.keys import AccountId

__all__ = ["CutOff", "EntryExpired", "EntryPending", "EntryRefused", "KeyReplaced", "WalletBehind"]


class EntryRefused(Exception):
    """The ledger does not take the entry; `reason` is the rule that it breaks, and nothing moved.

    Without `is_certain` a block may hold it all the same, and show so later: it stays on record as overdue.
    """

    def __init__(self, reason: Reason, detail: str, *, is_certain: bool = True) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail
        self.is_certain = is_certain

    @property
    def fate(self) -> str:
        """What is recorded of the entry (`SignedEntry.status`)."""
        return "refused" if self.is_certain else "overdue"


class EntryExpired(EntryRefused):
    """No block took the entry before its `not_after`: by the ledger's time if `is_certain`, else by our clock's."""

    def __init__(self, detail: str, *, is_certain: bool = True) -> None:
        super().__init__(Reason.TOO_LATE, detail, is_certain=is_certain)

    @property
    def fate(self) -> str:
        """What is recorded of the entry (`SignedEntry.status`)."""
        return "expired" if self.is_certain else "overdue"


class CutOff(Exception):
    """No witness has answered for long."""


class EntryPending(TimeoutError):
    """The time is over and the entry's fate is open: it is kept, and goes on being sent by `run` and by `submit`."""

    def __init__(self, entry_id: bytes) -> None:
        super().__init__(f"entry {entry_id.hex()} is not final yet; it stays pending")
        self.entry_id = entry_id


class KeyReplaced(Exception):
    """The ledger names a key for this account that the wallet does not hold: it cannot sign."""

    def __init__(self, key: AccountId) -> None:
        super().__init__(f"the account's key is {peer_id(key)}, which this node does not hold")
        self.key = key


class WalletBehind(Exception):
    """What the ledger holds of this account is not known well enough to sign: a signature could contradict it."""
