"""Entries that wallets signed on this node, and what became of them (SPEC.md §15.2).

Those of unknown fate lie apart from the settled ones: they are few, they are looked through before every signature,
and none may ever be missing unnoticed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import WireError
from ledger.core.entries import Entry, decode_entry
from ledger.database import Damage
from ledger.drawers import Drawer, Drawers

if TYPE_CHECKING:
    from ledger.core.encoding import NetworkId
    from ledger.core.keys import AccountId
    from ledger.database import Connection

__all__ = ["DETAIL_BYTES_MAX", "SETTLED_MAX", "SignedEntries", "SignedEntry"]

SETTLED_MAX: Final = 4_096
"""Settled entries that are kept to look back on, of all accounts; over it, the lowest sequence numbers go first."""
DETAIL_BYTES_MAX: Final = 1_000
_STATUSES: Final = ("pending", "final", "refused", "expired", "overdue")
_OPEN: Final = ("pending", "overdue")
_KEY = struct.Struct(">32sQ32s")  # account, seq, id
_HEAD = struct.Struct(">BH")  # status, length of the detail


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """An entry that a wallet signed, and what became of it: `pending`, `final`, `refused` or `expired`.

    `overdue` is one that was given up, and that may be final all the same: its fate is open, and nobody sends it.
    """

    entry: Entry
    entry_id: bytes
    status: str
    detail: str


class SignedEntries:
    """The drawers PENDING and SETTLED. `put` and `mark` are called inside a transaction."""

    def __init__(self, drawers: Drawers, network_id: NetworkId) -> None:
        self._drawers = drawers
        self._network_id = network_id

    def put(self, connection: Connection, entry: Entry) -> None:
        """A new entry of unknown fate."""
        self._write(connection, entry, "pending", "")

    def mark(self, connection: Connection, entry: Entry, status: str, detail: str) -> None:
        """What became of an entry that was put; one that was not stays unknown."""
        key = self._key(entry)
        if any(self._drawers.has(drawer, key) for drawer in (Drawer.PENDING, Drawer.SETTLED)):
            self._write(connection, entry, status, detail)

    def of(self, account: AccountId, pending_only: bool) -> list[SignedEntry]:
        """The account's entries in order of sequence; `Damage` if one is not what was written."""
        drawers = (Drawer.PENDING,) if pending_only else (Drawer.PENDING, Drawer.SETTLED)
        rows = [row for drawer in drawers for row in self._drawers.rows(drawer, account)]
        return [_decoded(key, value) for key, value in sorted(rows)]

    def ids(self) -> list[bytes]:
        """The ids of all entries that are here, whosever they are."""
        keys = [key for drawer in (Drawer.PENDING, Drawer.SETTLED) for key in self._drawers.keys(drawer)]
        return [key[-32:] for key in keys]

    def _write(self, connection: Connection, entry: Entry, status: str, detail: str) -> None:
        to, off = Drawer.SETTLED, Drawer.PENDING
        if status in _OPEN:
            to, off = off, to
        key, told = self._key(entry), detail.encode()[:DETAIL_BYTES_MAX]
        head = _HEAD.pack(_STATUSES.index(status), len(told))
        self._drawers.delete(connection, off, key)
        self._drawers.put(connection, to, key, head + told + entry.encode())
        for old in self._drawers.keys(Drawer.SETTLED)[:-SETTLED_MAX]:
            self._drawers.delete(connection, Drawer.SETTLED, old)
            self._drawers.delete(connection, Drawer.RECEIPTS, old[-32:])

    def _key(self, entry: Entry) -> bytes:
        return _KEY.pack(entry.account, entry.seq, entry.entry_id(self._network_id))


def _decoded(key: bytes, value: bytes) -> SignedEntry:
    _, _, entry_id = _KEY.unpack(key)
    status, size = _HEAD.unpack_from(value)
    detail = value[_HEAD.size : _HEAD.size + size].decode(errors="replace")
    try:
        entry = decode_entry(value[_HEAD.size + size :])
    except WireError as error:
        raise Damage(f"a signed entry: {error}") from error
    return SignedEntry(entry, entry_id, _STATUSES[status], detail)
