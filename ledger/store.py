"""The ledger on disk: final blocks, own votes, signed entries and more, in one SQLite file (SPEC.md §6.2, §15.3).

One batch is one transaction: when `write` returns it survives a power cut, and a crash leaves all of it or none.
Everything that is read is held against its checksum, and the head, a row that each transaction rewrites, says how much
there must be of what. All methods are synchronous; a shell calls those that wait for the disk in a thread. Reads
never wait for a write.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Self

from ledger.blocks import SCHEMA as BLOCKS_SCHEMA
from ledger.blocks import Blocks, Head, Place
from ledger.core.merkle import NODE_BYTES, Peaks
from ledger.database import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    CommitMark,
    Damage,
    Database,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    WrongNetworkError,
    check,
    checksum,
)
from ledger.drawers import BASE_NOTE, INDEX_NOTE, Drawer, Drawers
from ledger.drawers import SCHEMA as DRAWERS_SCHEMA
from ledger.own_votes import OwnVotes
from ledger.rows import Draft, SmallRows
from ledger.signed import SignedEntries, SignedEntry
from ledger.snapshots import SCHEMA as SNAPSHOTS_SCHEMA
from ledger.snapshots import SnapshotInfo, Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ledger.core.block import FinalBlock
    from ledger.core.committee import Committee
    from ledger.core.entries import Entry
    from ledger.core.events import PersistVote, Saved
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId
    from ledger.database import Connection

__all__ = [
    "Batch",
    "Place",
    "SignedEntry",
    "Store",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "WrongNetworkError",
    "open_store",
]

HEADER_BYTES: Final = 512
"""A database has at least one page, and a page at least this."""
DISCARDED_BLOCKS_MAX: Final = 256
DISCARDED_BYTES_MAX: Final = 1 << 20
"""What one transaction of `discard` deletes, about: some 10 ms."""

_SCHEMA: Final = f"""
CREATE TABLE head (one INTEGER PRIMARY KEY CHECK (one = 1), data BLOB NOT NULL, checksum BLOB NOT NULL) STRICT;
{BLOCKS_SCHEMA}
{DRAWERS_SCHEMA}
{SNAPSHOTS_SCHEMA}
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction makes durable. `evidence` are encoded records, verified by whoever found them."""

    votes: tuple[PersistVote, ...] = ()
    blocks: tuple[FinalBlock, ...] = ()
    evidence: tuple[bytes, ...] = ()
    tiles: tuple[tuple[int, bytes], ...] = ()
    """Roots of the log's tiles that the blocks complete, by their number."""

    def __bool__(self) -> bool:
        return bool(self.votes or self.blocks or self.evidence)


def open_store(path: Path, genesis: Genesis) -> Store:
    """The database at `path`, created if it is not there; `StoreError` if it cannot be used for this network."""
    is_new = not path.exists()
    try:
        store = Store(path, genesis)
        try:
            store.prepare()
        except BaseException:
            store.close()
            raise
    except StoreError as error:
        if is_new:
            _discard(path)
            if isinstance(error, StoreCorruptError):
                raise StoreFullError(
                    f"{path} cannot be created, the disk is full or fails: free some space, or see the system's log"
                ) from error
        raise
    return store


def _discard(path: Path) -> None:
    """Remove what a disk that failed left of a file that was being made: the next try begins anew."""
    for part in ("", "-journal", "-wal", "-shm"):
        path.with_name(path.name + part).unlink(missing_ok=True)


class Store(SmallRows):
    """One node's ledger file. Get it from `open_store`; `close` it, or use it in a `with`."""

    def __init__(self, path: Path, genesis: Genesis) -> None:
        self.path = path
        self.genesis = genesis
        size = path.stat().st_size if path.exists() else None
        self.database = Database(path)
        self.drawers = Drawers(self.database)
        self._signed = SignedEntries(self.drawers, genesis.network_id)
        self._own_votes = OwnVotes(self.database, self.drawers)
        self._snapshots = Snapshots(self.database, self.drawers)
        head = Head(genesis.network_id, os.urandom(16))
        self._blocks = Blocks(self.database, head)
        self._mark = CommitMark(path, head.store_id)
        # SQLite takes a file too short for a header for a new one.
        if size is not None and size < HEADER_BYTES and (size or self._mark.is_there()):
            self.close()
            raise self.database.corrupt("it is empty, and was not")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; what was written stays."""
        self._mark.close()
        self.database.close()

    def prepare(self) -> None:
        """Create the tables, or check that they are ours, this network's, and all there."""
        with self.database.transaction() as connection:
            application_id = _single(connection, "PRAGMA application_id")
            tables = _single(connection, "SELECT count(*) FROM sqlite_master")
            version = _single(connection, "PRAGMA user_version")
            if not application_id and not tables:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                self._write_head(connection, self._blocks.head)
                return
        if application_id != APPLICATION_ID:
            raise StoreCorruptError(
                f"{self.path} is not a ledger database of this program; name another file"
            )
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{self.path} has format {version}, this program reads format {SCHEMA_VERSION}: use the program "
                "version that wrote it, or move the file away, and the ledger is fetched again"
            )
        with self.database.translated():
            self._load()

    def _load(self) -> None:
        row = self.database.read_one("SELECT data, checksum FROM head")
        if row is None:
            raise Damage("its head is missing")
        data, found = row
        check("its head", found, b"head", data)
        head = Head.decode(data)
        if head.network_id != self.genesis.network_id:
            raise WrongNetworkError(
                f"{self.path} belongs to network {head.network_id.hex()[:16]}, "
                f"not {self.genesis.network_id.hex()[:16]}: use that network's folder, or move the file away"
            )
        self._mark = CommitMark(self.path, head.store_id)
        noted = self._mark.read()
        if noted > head.number:
            raise Damage(
                f"its last {noted - head.number} transactions are gone, although they were acknowledged (its -wal file "
                "was cut short, damaged, lost, or replaced by an older copy)"
            )
        self.drawers.load(data[Head.BYTES :])
        self._blocks = Blocks(self.database, head)
        self._blocks.load(self.drawers.get(Drawer.NOTES, INDEX_NOTE))

    # What there is.

    @property
    def first_height(self) -> int:
        """The lowest height whose block is here, once one is: 1, unless the store began at a snapshot."""
        return self._blocks.first_height

    @property
    def first_leaf(self) -> int:
        """The lowest leaf whose entry can be looked up and proved here: 0, unless the store began at a snapshot."""
        return self._blocks.head.base_size

    @property
    def tree_size(self) -> int:
        """How many entries the log has up to the last block on disk."""
        return self._blocks.head.tree_size

    @property
    def tiles(self) -> int:
        """How many of the log's tiles are complete, and have their roots on disk or before the base."""
        return self._blocks.tiles

    def height(self) -> int:
        """The height of the last block on disk; 0 if there is none."""
        return self._blocks.head.height

    # Writing.

    def write(self, batch: Batch) -> None:
        """Make all of `batch` durable, or nothing: `StoreFullError` if the disk takes no more.

        Blocks come in order of height; those that are here already are left out.
        """
        with self._changes() as draft:
            for item in batch.votes:
                self._own_votes.put(draft.connection, item)
            for record in batch.evidence:
                self._put_evidence(draft.connection, record)
            for block in batch.blocks:
                draft.head = self._blocks.put(draft.connection, draft.head, block)
            for tile, root in batch.tiles:
                self._blocks.put_tile(draft.connection, tile, root)
            if batch.blocks:
                self._own_votes.forget(draft.connection, batch.blocks[-1])

    @contextmanager
    def _changes(self) -> Iterator[Draft]:
        """A transaction that ends with the new head. What memory holds of the file changes with it, or not at all."""
        with self.database.write_lock:
            try:
                with self.database.transaction() as connection:
                    head = self._blocks.head
                    draft = Draft(connection, replace(head, number=head.number + 1))
                    yield draft
                    self._write_head(connection, draft.head)
            except BaseException:
                self.drawers.roll_back()
                self._blocks.roll_back()
                raise
            self.drawers.commit()
            self._blocks.commit(draft.head)
            self._mark.write(draft.head.number)

    def _write_head(self, connection: Connection, head: Head) -> None:
        data = head.encode() + self.drawers.seals()
        connection.execute("INSERT OR REPLACE INTO head VALUES (1, ?, ?)", (data, checksum(b"head", data)))

    # Blocks and entries.

    def blocks(self, from_height: int, count_max: int, bytes_max: int) -> list[bytes]:
        """Encoded final blocks from a height on: at most `count_max` and `bytes_max`, but one if there is one.

        Nothing for a height below `first_height`: ask another node.
        """
        return self._blocks.encoded(from_height, count_max, bytes_max)

    def block(self, height: int) -> FinalBlock | None:
        """The final block at `height`; None above the last one, and below the first."""
        return self._blocks.block(height)

    def all_blocks(self, from_height: int = 1) -> Iterator[FinalBlock]:
        """Every final block from a height on, one by one."""
        return self._blocks.all(from_height)

    def place(self, entry_id: bytes) -> Place | None:
        """Where a final entry is; None if it is not final, or from before `first_leaf`."""
        return self._blocks.place(entry_id)

    def entry(self, leaf: int) -> tuple[Place, Entry]:
        """The entry that is this leaf of the log, and its place; `IndexError` if it is not here."""
        return self._blocks.entry(leaf)

    def leaf_hashes(self, low: int, high: int) -> list[bytes]:
        """The Merkle leaf hashes of leaves `low` to `high` - 1; `IndexError` if one is not here."""
        return self._blocks.leaf_hashes(low, high)

    def tile_roots(self, end: int) -> list[bytes]:
        """The stored roots of the log's tiles before tile `end`, from the one on that holds the base's end."""
        return self._blocks.tile_roots(end)

    @property
    def segments(self) -> int:
        """How many sorted segments the index of entries has, those that were dropped included."""
        return self._blocks.head.segments

    @property
    def first_segment(self) -> int:
        """The lowest of them that is here."""
        return self._blocks.first_segment

    def check_segment(self, segment: int) -> None:
        """Read a segment of the index; `StoreCorruptError` if it is not what was written."""
        self._blocks.check_segment(segment)

    def rekeys(self, account: AccountId) -> list[Place]:
        """Where this account's REKEY entries are, oldest first."""
        return self._blocks.rekeys(account)

    def rotation(self, epoch: int) -> Place | None:
        """Where the ROTATE entry is that ended `epoch`; None if that epoch goes on."""
        return self._blocks.rotation(epoch)

    # Snapshots.

    def begin(self, block: FinalBlock, snapshot: bytes, peaks: Peaks) -> None:
        """Let this empty store begin with `block`: `snapshot` is the state after it.

        `peaks` are the log's before it or after: with those before, the entries of the block can be proved here, and
        the snapshot be offered to others.

        Its header names both; the caller has checked that, and that the block is final. `ValueError` if the store is
        not empty, or the log is another one.
        """
        header = block.header
        whole = peaks
        if peaks.size != header.tree_size:
            whole = peaks.extend([entry.encode() for entry in block.entries])
        if (whole.size, whole.root()) != (header.tree_size, header.log_root):
            raise ValueError("the header names another log than these peaks")
        with self._changes() as draft:
            draft.head = self._blocks.begin(draft.connection, draft.head, block, peaks.size)
            self._snapshots.put(draft.connection, header.height, snapshot, certified=True)
            self.drawers.put(draft.connection, Drawer.NOTES, BASE_NOTE, _encode_peaks(peaks))

    def move_base(self, height: int, peaks: Peaks, notes: Sequence[tuple[bytes, bytes]]) -> None:
        """Let this ledger begin with the block of `height` from now on; `peaks` are the log's before that block.

        `notes` are kept with it: what is needed of the blocks before. Those are nobody's from here on, and deleted by
        `discard`. `ValueError` if the block is not here or there is no snapshot to open from.
        """
        block = self.block(height)
        if (
            block is None
            or height <= self.first_height
            or peaks.size != block.header.tree_size - block.header.count
        ):
            raise ValueError(f"this ledger cannot begin with block {height}")
        kept = [found for found in self.snapshots() if found.height >= height]
        if not any(found.certified for found in kept):
            raise ValueError(f"there is no certified state from block {height} on")
        with self._changes() as draft:
            draft.head, index = self._blocks.move_base(draft.head, height, peaks.size)
            base = ((BASE_NOTE, _encode_peaks(peaks)), (INDEX_NOTE, index))
            for name, data in (*base, *notes):
                self.drawers.put(draft.connection, Drawer.NOTES, name, data)
            for found in self.snapshots():
                if found not in kept:
                    self._snapshots.drop(draft.connection, found)

    def discard(self) -> bool:
        """Delete a little of what is before the base, in one transaction; False if nothing was left."""
        if not self._blocks.has_leftovers():
            return False
        with self._changes() as draft:
            self._blocks.discard(draft.connection, DISCARDED_BLOCKS_MAX, DISCARDED_BYTES_MAX)
        return True

    def is_final(self, entry_id: bytes) -> bool:
        """Whether the entry is in a block that is here, or one signed here in a block that was."""
        return self.drawers.has(Drawer.RECEIPTS, entry_id) or self.place(entry_id) is not None

    def base_peaks(self) -> Peaks:
        """The log's peaks at `first_leaf`: where the log of a store that began at a snapshot is known from."""
        data = self.drawers.get(Drawer.NOTES, BASE_NOTE)
        if data is None:
            return Peaks()
        nodes = tuple(data[at : at + NODE_BYTES] for at in range(8, len(data), NODE_BYTES))
        return Peaks(int.from_bytes(data[:8], "big"), nodes)

    def save_snapshot(self, height: int, data: bytes, *, certified: bool) -> None:
        """Make the state after the block of `height` durable; the newest few are kept."""
        with self._changes() as draft:
            self._snapshots.put(draft.connection, height, data, certified)

    def drop_snapshot(self, found: SnapshotInfo) -> None:
        """Remove a snapshot that proved damaged; a new one comes in time."""
        with self._changes() as draft:
            self._snapshots.drop(draft.connection, found)

    def drop_tiles(self) -> None:
        """Remove the stored tree of the log, which proved damaged; it is written again with the next block."""
        with self._changes() as draft:
            self._blocks.drop_tiles(draft.connection)

    def snapshots(self) -> list[SnapshotInfo]:
        """Every snapshot that is here, the newest first."""
        return self._snapshots.all()

    def snapshot(self, found: SnapshotInfo) -> bytes:
        """A whole snapshot; `StoreCorruptError` if it is not what was written."""
        return self._snapshots.read(found)

    def snapshot_chunk(self, height: int, chunk: int) -> bytes:
        """One chunk of the snapshot of `height`; `IndexError` if there is none."""
        return self._snapshots.chunk(height, chunk)

    # Votes.

    def load_saved(self, committee: Committee) -> Saved:
        """The votes of this witness above its last final block, and the blocks they notarise; `committee` is theirs."""
        last = self.block(self.height())
        return self._own_votes.load(committee, None if last is None else last.finality)


def _encode_peaks(peaks: Peaks) -> bytes:
    return peaks.size.to_bytes(8, "big") + b"".join(peaks.nodes)


def _single(connection: Connection, query: str) -> Any:  # noqa: ANN401 - SQLite's own value types
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]
