"""Snapshots of the state on disk: to open quickly, and to serve to nodes that begin (SPEC.md §15.3).

A snapshot stands in chunks, each under its own checksum, so that one can be served without reading the rest. Which
ones there are stands in a drawer, so that none vanishes unnoticed.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.snapshot import CHUNK_BYTES, snapshot_chunks
from ledger.database import Damage, check, checksum
from ledger.drawers import Drawer, Drawers

if TYPE_CHECKING:
    from ledger.database import Connection, Database

__all__ = ["KEPT", "SCHEMA", "SnapshotInfo", "Snapshots"]

SCHEMA: Final = """
CREATE TABLE chunks (height INTEGER NOT NULL, chunk INTEGER NOT NULL, data BLOB NOT NULL, checksum BLOB NOT NULL,
    PRIMARY KEY (height, chunk)) STRICT, WITHOUT ROWID;
"""
KEPT: Final = 2
"""The newest of all, and the newest of those that a header certifies: should one be damaged, the other serves."""
_INFO = struct.Struct(">QQ?")  # height, size, whether a header certifies it


@dataclass(frozen=True, slots=True)
class SnapshotInfo:
    """A snapshot that is here: the state after the block of `height`, encoded in `size` bytes.

    `certified` means that this block's header names the state's root: then the snapshot can be served.
    """

    height: int
    size: int
    certified: bool

    @property
    def chunks(self) -> int:
        """How many chunks it has: the last may be shorter than CHUNK_BYTES."""
        return -(-self.size // CHUNK_BYTES)


class Snapshots:
    """The drawer SNAPSHOTS and the chunks. `put` and `drop` are called inside a transaction."""

    def __init__(self, database: Database, drawers: Drawers) -> None:
        self._database = database
        self._drawers = drawers

    def put(self, connection: Connection, height: int, data: bytes, certified: bool) -> None:
        """Write the snapshot after the block of `height`, and remove what is no longer among the newest KEPT."""
        info = SnapshotInfo(height, len(data), certified)
        listed = sorted((info, *self.all()), key=lambda found: found.height, reverse=True)
        kept = [*listed[:KEPT], *[found for found in listed if found.certified][:KEPT]]
        # First, so that their pages are used again: what is here is never more than KEPT of each.
        for found in listed:
            if found is not info and (found not in kept or found.height == height):
                self.drop(connection, found)
        connection.executemany(
            "INSERT INTO chunks VALUES (?, ?, ?, ?)",
            [
                (height, chunk, part, checksum(*_parts(height, chunk), part))
                for chunk, part in enumerate(snapshot_chunks(data))
            ],
        )
        self._drawers.put(connection, Drawer.SNAPSHOTS, _INFO.pack(height, len(data), certified), b"")

    def drop(self, connection: Connection, found: SnapshotInfo) -> None:
        """Remove a snapshot."""
        key = _INFO.pack(found.height, found.size, found.certified)
        self._drawers.delete(connection, Drawer.SNAPSHOTS, key)
        connection.execute("DELETE FROM chunks WHERE height = ?", (found.height,))

    def all(self) -> list[SnapshotInfo]:
        """Every snapshot, the newest first; inside a transaction, with its changes."""
        keys = reversed(self._drawers.keys(Drawer.SNAPSHOTS))
        return [SnapshotInfo(*_INFO.unpack(key)) for key in keys]

    def chunk(self, height: int, chunk: int) -> bytes:
        """One chunk; `IndexError` if there is none, `StoreCorruptError` if it is not what was written."""
        found = next((each for each in self.all() if each.height == height), None)
        if found is None or not 0 <= chunk < found.chunks:
            raise IndexError(f"there is no chunk {chunk} of a snapshot of height {height}")
        row = self._database.read_one(
            "SELECT data, checksum FROM chunks WHERE height = ? AND chunk = ?", height, chunk
        )
        what = f"chunk {chunk} of the snapshot of height {height}"
        with self._database.translated():
            if row is None:
                raise Damage(f"{what} is missing")
            check(what, row[1], *_parts(height, chunk), row[0])
        return bytes(row[0])

    def read(self, found: SnapshotInfo) -> bytes:
        """The whole snapshot; `StoreCorruptError` if it is not what was written."""
        data = b"".join(self.chunk(found.height, chunk) for chunk in range(found.chunks))
        if len(data) != found.size:
            raise self._database.corrupt(f"the snapshot of height {found.height} has another length")
        return data


def _parts(height: int, chunk: int) -> tuple[bytes, bytes]:
    return b"chunk", struct.pack(">qq", height, chunk)
