"""Final blocks on disk, and each entry in them by its place in the log or by its id (SPEC.md §15.3).

A block is one row; entries are not stored a second time. The index of ids leads to a leaf, an index over the blocks'
tree sizes leads from the leaf to its block, and in it an entry is found by the lengths of those before it.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, Final

from ledger.core.block import FinalBlock, entry_offsets
from ledger.core.encoding import Kind, NetworkId, WireError, digest, signing_bytes
from ledger.core.entries import Entry, EntryType, Rekey, Rotate, decode_entry
from ledger.core.keys import SIGNATURE_BYTES
from ledger.core.merkle import TILE_LEAVES, leaf_hash
from ledger.database import Damage, check, checksum
from ledger.places import SCHEMA as PLACES_SCHEMA
from ledger.places import Places

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.core.keys import AccountId
    from ledger.database import Connection, Database

__all__ = ["SCHEMA", "Blocks", "Head", "Place"]

SCHEMA: Final = f"""
CREATE TABLE blocks (height INTEGER PRIMARY KEY, tree_size INTEGER NOT NULL, data BLOB NOT NULL,
    checksum BLOB NOT NULL) STRICT;
CREATE TABLE tiles (tile INTEGER PRIMARY KEY, root BLOB NOT NULL, checksum BLOB NOT NULL) STRICT;
CREATE INDEX leaves ON blocks (tree_size);
CREATE TABLE landmarks (type INTEGER NOT NULL, subject BLOB NOT NULL, leaf INTEGER NOT NULL,
    PRIMARY KEY (type, subject, leaf)) STRICT, WITHOUT ROWID;
{PLACES_SCHEMA}
"""
_INDEX = struct.Struct(">QI")  # the leaf where segment 0 of the index began, the lowest segment kept
_HEAD = struct.Struct(">32s16sQQQQQI")
_LANDMARKS: Final = frozenset((Rekey, Rotate))


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry is: the height of its block, and its leaf in the log."""

    height: int
    leaf: int


@dataclass(frozen=True, slots=True)
class Head:
    """What there is: everything else in the file is held against it."""

    network_id: bytes
    store_id: bytes
    number: int = 0
    """Of the last transaction."""
    base_height: int = 0
    """The block that the store began with, its state coming from a snapshot; 0 if it began at genesis."""
    base_size: int = 0
    """The log's size after that block: its entries and those before are not in the index."""
    height: int = 0
    tree_size: int = 0
    segments: int = 0
    """Of the index of entries."""

    BYTES: ClassVar[int] = _HEAD.size

    @staticmethod
    def decode(data: bytes) -> Head:
        """The head at the beginning of `data`."""
        return Head(*_HEAD.unpack_from(data))

    def encode(self) -> bytes:
        """Fixed layout, BYTES long."""
        return _HEAD.pack(
            self.network_id,
            self.store_id,
            self.number,
            self.base_height,
            self.base_size,
            self.height,
            self.tree_size,
            self.segments,
        )


class Blocks:
    """The blocks and their index, as far as `head` says. Changes are made in a transaction."""

    def __init__(self, database: Database, head: Head) -> None:
        self.database = database
        self.head = head
        self._network_id = NetworkId(head.network_id)
        self._places = Places(database, head.store_id)
        self.tiles = 0
        """How many tiles of the log are complete and stored, those before the base included."""
        self._fresh_tiles = 0
        self._index_moved: int | None = None

    def load(self, index: bytes | None) -> None:
        """Read what of the index stays in memory; `Damage` if it is not all there.

        `index` is what `index_note` said when the base was moved last; None if it never was.
        """
        origin, first = (self.head.base_size, 0) if index is None else _INDEX.unpack(index)
        self._places.load(origin, first, self.head.segments, self.head.tree_size)
        row = self.database.read_one("SELECT max(tile) FROM tiles")
        newest = row[0] if row is not None else None
        self.tiles = self.head.base_size // TILE_LEAVES if newest is None else newest + 1

    # Changes, inside a transaction. Each takes the head as it is so far, and returns it as it will be.

    def begin(self, connection: Connection, head: Head, block: FinalBlock, size: int) -> Head:
        """Let an empty store begin with `block`, whose state a snapshot gives; `ValueError` if it is not empty.

        The log is known from `size` leaves on: those before the block, or those up to its end.
        """
        if head.height:
            raise ValueError("only an empty store can begin at a snapshot")
        header = block.header
        self._places.begin(size)
        self.tiles = size // TILE_LEAVES
        empty = replace(
            head,
            base_height=header.height,
            base_size=size,
            height=header.height - 1,
            tree_size=header.tree_size - header.count,
        )
        return self.put(connection, empty, block)

    def put(self, connection: Connection, head: Head, block: FinalBlock) -> Head:
        """Write the block above `head`; nothing happens for one that is here, `ValueError` for one too far."""
        header = block.header
        if header.height <= head.height:
            return head
        first = header.tree_size - header.count
        if (header.height, first) != (head.height + 1, head.tree_size):
            raise ValueError(f"block {header.height} does not follow block {head.height}")
        data = block.encode()
        made = checksum(*_block_parts(header.height, header.tree_size), data)
        connection.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?)", (header.height, header.tree_size, data, made)
        )
        if first >= head.base_size:
            ids = [entry.entry_id(self._network_id) for entry in block.entries]
            self._places.add(connection, first, ids)
        for leaf, entry in enumerate(block.entries, first):
            if type(entry.action) in _LANDMARKS:
                subject = _landmark(entry, header.epoch)
                connection.execute(
                    "INSERT INTO landmarks VALUES (?, ?, ?)", (entry.action.TYPE, subject, leaf)
                )
        return replace(head, height=header.height, tree_size=header.tree_size, segments=self._places.segments)

    def move_base(self, head: Head, height: int, size: int) -> tuple[Head, bytes]:
        """The head whose ledger begins with the block of `height`, before which the log had `size` leaves.

        And what to tell `load` of the index from then on. Nothing is deleted yet: that is `discard`'s.
        """
        self._index_moved = self._places.first_from(size)
        moved = replace(head, base_height=height, base_size=size)
        return moved, _INDEX.pack(self._places.origin, self._index_moved)

    def discard(self, connection: Connection, count_max: int, bytes_max: int) -> None:
        """Delete rows from below the base: at most `count_max` blocks and about `bytes_max`, then what led to them."""
        head, last, size = self.head, None, 0
        query = "SELECT height, length(data) FROM blocks WHERE height < ? ORDER BY height LIMIT ?"
        for height, length in connection.execute(query, (head.base_height, count_max)):
            last, size = height, size + length
            if size >= bytes_max:
                break
        if last is not None:
            connection.execute("DELETE FROM blocks WHERE height <= ?", (last,))
            return
        self._places.discard(connection)
        connection.execute("DELETE FROM tiles WHERE tile < ?", (head.base_size // TILE_LEAVES,))
        connection.execute("DELETE FROM landmarks WHERE leaf < ?", (head.base_size,))

    def has_leftovers(self) -> bool:
        """Whether `discard` has something to do."""
        for table, column, end in (
            ("blocks", "height", self.head.base_height),
            ("tiles", "tile", self.head.base_size // TILE_LEAVES),
        ):
            row = self.database.read_one(f"SELECT min({column}) FROM {table}")  # noqa: S608 - two names, from above
            if row is not None and row[0] is not None and row[0] < end:
                return True
        return self._places.has_leftovers()

    def put_tile(self, connection: Connection, tile: int, root: bytes) -> None:
        """Write the root of a complete tile of the log, the next one; nothing happens for one that is here."""
        if tile == self.tiles + self._fresh_tiles:
            made = checksum(b"tile", tile.to_bytes(8, "big"), root)
            connection.execute("INSERT INTO tiles VALUES (?, ?, ?)", (tile, root, made))
            self._fresh_tiles += 1

    def drop_tiles(self, connection: Connection) -> None:
        """Forget the stored tree of the log: whoever has the log writes it again."""
        connection.execute("DELETE FROM tiles")
        self._fresh_tiles = self.head.base_size // TILE_LEAVES - self.tiles

    def commit(self, head: Head) -> None:
        """The transaction is durable, and `head` with it."""
        self.head = head
        self._places.commit()
        if self._index_moved is not None:
            self._places.drop(self._index_moved)
            self._index_moved = None
        self.tiles += self._fresh_tiles
        self._fresh_tiles = 0

    def roll_back(self) -> None:
        """The transaction came to nothing."""
        self._index_moved = None
        self._places.roll_back()
        self._fresh_tiles = 0

    # Reading what is durable.

    @property
    def first_height(self) -> int:
        """The lowest height whose block is here, once one is."""
        return self.head.base_height or 1

    def encoded(self, from_height: int, count_max: int, bytes_max: int) -> list[bytes]:
        """Encoded final blocks from a height on: at most `count_max` and `bytes_max`, but one if there is one.

        Nothing for a height below `first_height`: ask another node.
        """
        taken: list[bytes] = []
        size = 0
        if self.first_height <= from_height <= self.head.height:
            for _, _, data in self._scan(from_height, min(self.head.height, from_height + count_max - 1)):
                size += len(data)
                if taken and size > bytes_max:
                    break
                taken.append(data)
        return taken

    def block(self, height: int) -> FinalBlock | None:
        """The final block at `height`; None above the last one, and below the first."""
        if not self.first_height <= height <= self.head.height:
            return None
        return self._decoded(*next(self._scan(height, height)))

    def all(self, from_height: int) -> Iterator[FinalBlock]:
        """Every final block from a height on, one by one."""
        for row in self._scan(max(from_height, self.first_height), self.head.height):
            yield self._decoded(*row)

    def place(self, entry_id: bytes) -> Place | None:
        """Where a final entry is; None if it is not final, or from before the base."""
        for leaf in self._places.candidates(entry_id):
            if leaf < self.head.base_size:
                continue
            height, data, at, end = self._find(leaf)
            body = data[at : end - SIGNATURE_BYTES]
            if digest(signing_bytes(Kind.ENTRY, self._network_id, body)) == entry_id:
                return Place(height, leaf)
        return None

    def entry(self, leaf: int) -> tuple[Place, Entry]:
        """The entry that is this leaf of the log, and its place; `IndexError` if it is not here."""
        height, data, at, end = self._find(leaf)
        with self._rows_decoded(height):
            return Place(height, leaf), decode_entry(data[at:end])

    def leaf_hashes(self, low: int, high: int) -> list[bytes]:
        """The Merkle leaf hashes of leaves `low` to `high` - 1; `IndexError` if one is not here."""
        if not self.head.base_size <= low < high <= self.head.tree_size:
            raise IndexError(f"leaves {low} to {high} are not all here")
        hashes: list[bytes] = []
        for height, tree_size, data in self._scan(self._height_of(low), self.head.height):
            with self._rows_decoded(height):
                offsets = entry_offsets(data)
            first = tree_size - len(offsets) + 1
            wanted = range(max(low, first) - first, min(high, tree_size) - first)
            hashes += [leaf_hash(data[offsets[at] : offsets[at + 1]]) for at in wanted]
            if tree_size >= high:
                break
        if len(hashes) != high - low:
            raise self.database.corrupt(f"the index of blocks is wrong about leaf {low}")
        return hashes

    def tile_roots(self, end: int) -> list[bytes]:
        """The stored roots of tiles before tile `end`, from the one on that holds the base's end."""
        first = self.head.base_size // TILE_LEAVES
        rows = self.database.read(
            "SELECT * FROM tiles WHERE tile BETWEEN ? AND ? ORDER BY tile", first, end - 1
        )
        roots: list[bytes] = []
        for tile, root, found in rows:
            with self.database.translated():
                if tile != first + len(roots):
                    raise Damage(f"tile {first + len(roots)} of the log is missing")
                check(f"tile {tile} of the log", found, b"tile", tile.to_bytes(8, "big"), root)
            roots.append(root)
        return roots

    def check_segment(self, segment: int) -> None:
        """Read a segment of the index; `StoreCorruptError` if it is not what was written."""
        self._places.check_segment(segment)

    @property
    def first_segment(self) -> int:
        """The lowest segment of the index that is here."""
        return self._places.first

    def rekeys(self, account: AccountId) -> list[Place]:
        """Where this account's REKEY entries are, oldest first."""
        return self._landmarks(EntryType.REKEY, account)

    def rotation(self, epoch: int) -> Place | None:
        """Where the ROTATE entry is that ended `epoch`; None if that epoch goes on."""
        found = self._landmarks(EntryType.ROTATE, epoch.to_bytes(4, "big"))
        return found[0] if found else None

    def _landmarks(self, kind: EntryType, subject: bytes) -> list[Place]:
        query = "SELECT leaf FROM landmarks WHERE type = ? AND subject = ? AND leaf >= ? ORDER BY leaf"
        places = []
        for (leaf,) in self.database.read(query, kind, subject, self.head.base_size):
            place, entry = self.entry(leaf)
            if kind != entry.action.TYPE or (kind is EntryType.REKEY and entry.account != subject):
                raise self.database.corrupt(f"leaf {leaf} is not the {kind.name} that its index says")
            places.append(place)
        return places

    def _find(self, leaf: int) -> tuple[int, bytes, int, int]:
        """The block of a leaf, and where in it the leaf's entry begins and ends."""
        height = self._height_of(leaf)
        _, tree_size, data = next(self._scan(height, height))
        with self._rows_decoded(height):
            offsets = entry_offsets(data)
        position = leaf - (tree_size - len(offsets) + 1)
        if not 0 <= position < len(offsets) - 1:
            raise self.database.corrupt(f"leaf {leaf} is not in block {height}")
        return height, data, offsets[position], offsets[position + 1]

    def _height_of(self, leaf: int) -> int:
        if not self.head.base_size <= leaf < self.head.tree_size:
            raise IndexError(f"leaf {leaf} is not here")
        row = self.database.read_one(
            "SELECT height FROM blocks WHERE tree_size > ? ORDER BY tree_size, height LIMIT 1", leaf
        )
        if row is None:
            raise self.database.corrupt(f"the index of blocks lacks leaf {leaf}")
        return int(row[0])

    def _scan(self, first: int, last: int) -> Iterator[tuple[int, int, bytes]]:
        """(height, tree_size, data) of the blocks `first` to `last`, each held against its checksum; all are there."""
        expected = first
        query = "SELECT * FROM blocks WHERE height BETWEEN ? AND ? ORDER BY height"
        for height, tree_size, data, found in self.database.scan(query, first, last):
            with self.database.translated():
                if height != expected:
                    raise Damage(f"block {expected} is missing")
                check(f"block {height}", found, *_block_parts(height, tree_size), data)
            expected += 1
            yield height, tree_size, data
        if expected != last + 1:
            raise self.database.corrupt(f"block {expected} is missing")

    def _decoded(self, height: int, _tree_size: int, data: bytes) -> FinalBlock:
        with self._rows_decoded(height):
            return FinalBlock.decode(data)

    @contextmanager
    def _rows_decoded(self, height: int) -> Iterator[None]:
        try:
            yield
        except WireError as error:
            raise self.database.corrupt(f"block {height}: {error}") from error


def _landmark(entry: Entry, epoch: int) -> bytes:
    return entry.account if entry.action.TYPE is EntryType.REKEY else epoch.to_bytes(4, "big")


def _block_parts(height: int, tree_size: int) -> tuple[bytes, bytes]:
    return b"block", struct.pack(">qq", height, tree_size)
