"""What a ledger file holds besides the chain: evidence, signed entries and their receipts, notes (SPEC.md §15.3)."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Final, Protocol

from ledger.drawers import Drawer, Drawers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager

    from ledger.blocks import Head
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from ledger.database import Connection, Database
    from ledger.signed import SignedEntries, SignedEntry

__all__ = ["EVIDENCE_MAX", "Draft", "SmallRows"]

EVIDENCE_MAX: Final = 4_096
"""Records of proved lies; those that come after are not kept."""


@dataclass(slots=True)
class Draft:
    """A transaction that is open, and the head as it will be."""

    connection: Connection
    head: Head


class SmallRows(Protocol):
    """The part of a `Store` that its drawers hold alone."""

    database: Database
    drawers: Drawers
    _signed: SignedEntries

    def _changes(self) -> AbstractContextManager[Draft]: ...

    # Evidence.

    def evidence(self, after: int = 0, count_max: int = EVIDENCE_MAX) -> list[tuple[int, bytes]]:
        """Encoded evidence in the order it came, each with its number, from behind number `after` on."""
        keys = [key for key in self.drawers.keys(Drawer.EVIDENCE) if _number(key) > after]
        rows = [(_number(key), self.drawers.get(Drawer.EVIDENCE, key)) for key in keys[:count_max]]
        return [(number, record) for number, record in rows if record is not None]

    @property
    def evidence_count(self) -> int:
        """How many records of evidence there are."""
        return len(self.drawers.keys(Drawer.EVIDENCE))

    def _put_evidence(self, connection: Connection, record: bytes) -> None:
        keys = self.drawers.keys(Drawer.EVIDENCE)
        identity = sha256(record).digest()
        if len(keys) < EVIDENCE_MAX and not any(key.endswith(identity) for key in keys):
            number = 1 + (_number(keys[-1]) if keys else 0)
            self.drawers.put(connection, Drawer.EVIDENCE, number.to_bytes(4, "big") + identity, record)

    # The wallet, and what the light client keeps.

    def save_signed(self, entry: Entry, settled: Sequence[Entry] = (), replaced: Entry | None = None) -> None:
        """Make a signed entry durable before it is sent, and note that `settled` ones are final, `replaced` never."""
        with self._changes() as draft:
            for done in settled:
                self._signed.mark(draft.connection, done, "final", "")
            if replaced is not None:
                self._signed.mark(draft.connection, replaced, "refused", "another entry has its number")
            self._signed.put(draft.connection, entry)

    def mark_signed(self, entry: Entry, status: str, detail: str = "") -> None:
        """Record what became of a signed entry."""
        with self._changes() as draft:
            self._signed.mark(draft.connection, entry, status, detail)

    def signed(self, account: AccountId, *, pending_only: bool = False) -> list[SignedEntry]:
        """The entries that this account signed here, or those of unknown fate, in order of sequence."""
        with self.database.translated():
            return self._signed.of(account, pending_only)

    def note(self, name: bytes) -> bytes | None:
        """What was saved under `name`, or None."""
        return self.drawers.get(Drawer.NOTES, name)

    def save_note(self, name: bytes, data: bytes) -> None:
        """Make `data` durable under `name`, in place of what was there."""
        with self._changes() as draft:
            self.drawers.put(draft.connection, Drawer.NOTES, name, data)

    def save_receipt(self, entry_id: bytes, receipt: bytes) -> None:
        """Keep the receipt of an entry that was signed here, for when its block is gone."""
        with self._changes() as draft:
            self.drawers.put(draft.connection, Drawer.RECEIPTS, entry_id, receipt)

    def kept_receipt(self, entry_id: bytes) -> bytes | None:
        """A receipt that `save_receipt` kept, or None."""
        return self.drawers.get(Drawer.RECEIPTS, entry_id)

    def unkept(self) -> list[bytes]:
        """The ids of all entries signed here of which no receipt is kept."""
        return [each for each in self._signed.ids() if not self.drawers.has(Drawer.RECEIPTS, each)]


def _number(key: bytes) -> int:
    """The number in the key of a piece of evidence; the record's SHA-256 follows."""
    return int.from_bytes(key[:4], "big")
