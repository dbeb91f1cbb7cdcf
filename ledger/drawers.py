"""The store's small tables: votes, evidence, signed entries. Each row checks itself, each drawer counts its rows.

A checksum finds a row that changed; a row that vanished leaves none. So the store's head, one row that each transaction
rewrites, holds for every drawer how many rows it has and the sum of their checksums, and what is read is held
against it. Drawers are small (the limits are the writers'); the checksums of all rows stay in memory.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from ledger.database import CHECKSUM_BYTES, Damage, check, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.database import Connection, Database

__all__ = ["SCHEMA", "Drawer", "Drawers"]

SCHEMA: Final = """
CREATE TABLE drawers (drawer INTEGER NOT NULL, key BLOB NOT NULL, value BLOB NOT NULL, checksum BLOB NOT NULL,
    PRIMARY KEY (drawer, key)) STRICT, WITHOUT ROWID;
"""


KEY_BYTES_MAX: Final = 255


BASE_NOTE: Final = b"base"
"""The note that holds the log's peaks where a store that began at a snapshot begins: size (8 bytes), then the nodes."""
INDEX_NOTE: Final = b"index"
"""The note that says, once the base was moved, where the index of entries began and what of it is left."""


class Drawer(IntEnum):
    """What lies in which drawer, and its key."""

    VOTES = 1
    """Own votes above the last final slot; epoch, slot, kind."""
    CERTIFICATES = 2
    """Certificates that own votes rest on; epoch, slot, kind."""
    PROPOSALS = 3
    """Blocks that own votes notarise; epoch, slot."""
    EVIDENCE = 4
    """Contradictions, in the order they came; a number."""
    PENDING = 5
    """Entries signed here whose fate is open; account, sequence number, id."""
    SETTLED = 6
    """Entries signed here whose fate is known; account, sequence number, id."""
    NOTES = 7
    """Single facts, such as what the light client keeps; a name."""
    SNAPSHOTS = 8
    """Which snapshots there are; height, size, whether a header certifies it."""
    RECEIPTS = 9
    """Receipts of entries signed here whose blocks were pruned; the entry's id."""


_ROW: Final = "SELECT value, checksum FROM drawers WHERE drawer = ? AND key = ?"
_SEAL = struct.Struct(f">I{CHECKSUM_BYTES}s")
_SUM_MODULUS: Final = 1 << 8 * CHECKSUM_BYTES


class Drawers:
    """All drawers of one store. Changes are made in a transaction, and kept in memory when it is durable."""

    SEALS_BYTES: Final = _SEAL.size * len(Drawer)

    def __init__(self, database: Database) -> None:
        self._database = database
        self._kept: dict[Drawer, dict[bytes, bytes]] = {drawer: {} for drawer in Drawer}
        self._seals = {drawer: _seal({}) for drawer in Drawer}
        self._changed: dict[Drawer, dict[bytes, bytes]] = {}

    def load(self, seals: bytes) -> None:
        """Read every row once and hold the drawers against the head's `seals`; `Damage` names the drawer."""
        if len(seals) != self.SEALS_BYTES:
            raise Damage("its head has another length")
        kept: dict[Drawer, dict[bytes, bytes]] = {drawer: {} for drawer in Drawer}
        # Not a scan, which sees another moment than the transaction in which the seals may have been read.
        for number, key, value, found in self._database.read("SELECT * FROM drawers"):
            if number not in iter(Drawer):
                raise Damage(f"there is no drawer {number!r}")
            _check(number, key, value, found)
            kept[Drawer(number)][key] = found
        sealed = {drawer: _seal(kept[drawer]) for drawer in Drawer}
        for drawer, seal in zip(Drawer, _SEAL.iter_unpack(seals), strict=True):
            if sealed[drawer] != _SEAL.pack(*seal):
                raise Damage(f"rows of {drawer.name} are missing")
        self._kept, self._seals = kept, sealed

    def seals(self) -> bytes:
        """What the head says of all drawers, open changes included."""
        fresh = {drawer: _seal(rows) for drawer, rows in self._changed.items()}
        return b"".join((self._seals | fresh)[drawer] for drawer in Drawer)

    # Changes, inside a transaction.

    def put(self, connection: Connection, drawer: Drawer, key: bytes, value: bytes) -> None:
        """Write a row, in place of one with the same key."""
        made = checksum(*_parts(drawer, key), value)
        connection.execute("INSERT OR REPLACE INTO drawers VALUES (?, ?, ?, ?)", (drawer, key, value, made))
        self._change(drawer)[key] = made

    def delete(self, connection: Connection, drawer: Drawer, key: bytes) -> None:
        """Remove a row, if it is there."""
        if self._change(drawer).pop(key, None) is not None:
            connection.execute("DELETE FROM drawers WHERE drawer = ? AND key = ?", (drawer, key))

    def commit(self) -> None:
        """The transaction is durable: keep its changes."""
        self._seals |= {drawer: _seal(rows) for drawer, rows in self._changed.items()}
        self._kept |= self._changed
        self._changed = {}

    def roll_back(self) -> None:
        """The transaction came to nothing."""
        self._changed = {}

    # Reading what is durable.

    def keys(self, drawer: Drawer) -> list[bytes]:
        """The keys in a drawer, in order; inside a transaction, with its changes."""
        return sorted(self._changed.get(drawer, self._kept[drawer]))

    def has(self, drawer: Drawer, key: bytes) -> bool:
        """Whether there is such a row; inside a transaction, with its changes."""
        return key in self._changed.get(drawer, self._kept[drawer])

    def rows(self, drawer: Drawer, prefix: bytes = b"") -> Iterator[tuple[bytes, bytes]]:
        """(key, value) in order of the keys that begin with `prefix`; `StoreCorruptError` if one is not as written."""
        for key in sorted(key for key in self._kept[drawer] if key.startswith(prefix)):
            value = self.get(drawer, key)
            if value is not None:
                yield key, value

    def get(self, drawer: Drawer, key: bytes) -> bytes | None:
        """The value under `key`, or None."""
        expected = self._kept[drawer].get(key)
        if expected is None:
            return None
        row = self._database.read_one(_ROW, drawer, key)
        if row is None:
            # Another thread may be just done with removing it; else the file lost it.
            with self._database.write_lock:
                row = self._database.read_one(_ROW, drawer, key)
                if key not in self._kept[drawer]:
                    return None
        if row is None:
            raise self._database.corrupt(f"a row of {drawer.name} is missing")
        with self._database.translated():
            _check(drawer, key, *row)
        return bytes(row[0])

    def _change(self, drawer: Drawer) -> dict[bytes, bytes]:
        return self._changed.setdefault(drawer, dict(self._kept[drawer]))


def _parts(drawer: int, key: bytes) -> tuple[bytes, ...]:
    return b"drawer", bytes((drawer, len(key))), key


def _check(drawer: int, key: object, value: object, found: object) -> None:
    what = f"a row of {Drawer(drawer).name}"
    if not isinstance(key, bytes) or len(key) > KEY_BYTES_MAX:
        raise Damage(f"{what} has no key")
    check(what, found, *_parts(drawer, key), value)


def _seal(rows: dict[bytes, bytes]) -> bytes:
    total = sum(int.from_bytes(check, "big") for check in rows.values()) % _SUM_MODULUS
    return _SEAL.pack(len(rows), total.to_bytes(CHECKSUM_BYTES, "big"))
