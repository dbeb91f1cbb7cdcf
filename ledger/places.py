"""Where each entry is, by its id: six bytes per entry on disk (SPEC.md §15.3).

An id is cut to a prefix of four bytes, keyed with the store's own random id so that nobody can make entries that share
one. Every SEGMENT_ENTRIES entries their prefixes are sorted, each with its place among them (two bytes), and written
once as pages that fill SQLite's; a look-up reads one page per segment, found by the pages' first prefixes, which
stay in memory. The prefixes since the last segment are kept in the order of the log, in memory and on disk. What is
found is a candidate: the caller reads the entry there and compares its id.
"""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_left, bisect_right
from hashlib import blake2b
from typing import TYPE_CHECKING, Final

from ledger.database import Damage, check, checksum

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ledger.database import Connection, Database

__all__ = ["SCHEMA", "SEGMENT_ENTRIES", "Places"]

SCHEMA: Final = """
CREATE TABLE fresh (first_leaf INTEGER PRIMARY KEY, prefixes BLOB NOT NULL, checksum BLOB NOT NULL) STRICT;
CREATE TABLE segments (segment INTEGER PRIMARY KEY, fences BLOB NOT NULL, checksum BLOB NOT NULL) STRICT;
CREATE TABLE places (page INTEGER PRIMARY KEY, records BLOB NOT NULL, checksum BLOB NOT NULL) STRICT;
"""
SEGMENT_ENTRIES: Final = 1 << 16
"""As many as two bytes can number. Sorting them takes some 50 ms of the thread that writes."""
PREFIX_BYTES: Final = 4
RECORD_BYTES: Final = PREFIX_BYTES + 2
PAGE_RECORDS: Final = 669
"""As many as fit a page of 4,096 bytes, such that a segment's last page is full, too."""
SEGMENT_PAGES: Final = -(-SEGMENT_ENTRIES // PAGE_RECORDS)
_PREFIX = struct.Struct(f"{PREFIX_BYTES}s")
_FENCE = struct.Struct(f">{SEGMENT_PAGES}I")


class Places:
    """The index over leaves `origin` to `end`. Changes are made in a transaction, and kept when it is durable.

    The segments below `first` were dropped, with the entries in them; the numbers of the others stay.
    """

    def __init__(self, database: Database, key: bytes) -> None:
        self._database = database
        # Keyed once: a copy costs a third less than a hash that takes its key in again.
        self._keyed = blake2b(digest_size=PREFIX_BYTES, key=key)
        self.origin = 0
        """The leaf with which segment 0 begins, or began."""
        self.first = 0
        """The lowest segment that is here; those below were dropped."""
        self._fences: list[array[int]] = []
        self._tail = bytearray()
        self._leaves: dict[bytes, int] = {}
        self._clashes: dict[bytes, list[int]] = {}
        self._staged = bytearray()
        self._closed: list[array[int]] = []

    @property
    def segments(self) -> int:
        """How many segments there are; inside a transaction, with its own."""
        return self.first + len(self._fences) + len(self._closed)

    def load(self, origin: int, first_segment: int, segments: int, end: int) -> None:
        """Read what stays in memory of an index over leaves `origin` to `end`; `Damage` if it is not all there."""
        fences: list[array[int]] = []
        query = "SELECT * FROM segments WHERE segment >= ? ORDER BY segment"
        for number, data, found in self._database.read(query, first_segment):
            expected = first_segment + len(fences)
            check(f"segment {number} of the index of entries", found, b"segment", _key(expected), data)
            fences.append(array("I", _FENCE.unpack(data)))
        if len(fences) != segments - first_segment:
            raise Damage(
                f"{len(fences)} segments in the index of entries, there were {segments - first_segment}"
            )
        first = origin + segments * SEGMENT_ENTRIES
        tail = bytearray()
        for leaf, prefixes, found in self._database.read("SELECT * FROM fresh ORDER BY first_leaf"):
            check(f"the index of the entries from leaf {leaf} on", found, b"fresh", _key(leaf), prefixes)
            if leaf > first + len(tail) // PREFIX_BYTES:
                raise Damage(f"the index of the entries before leaf {leaf} is missing")
            # The first row may begin in the last segment.
            tail += prefixes[max(0, first - leaf) * PREFIX_BYTES :]
        if len(tail) != (end - first) * PREFIX_BYTES:
            raise Damage("the index of the newest entries")
        self.origin, self.first, self._fences = origin, first_segment, fences
        self._set_tail(tail)

    # Changes, inside a transaction.

    def begin(self, origin: int) -> None:
        """An empty index whose first leaf will be `origin`."""
        self.origin = origin

    def first_from(self, leaf: int) -> int:
        """The lowest segment that an index needs whose entries before `leaf` are not asked for any more."""
        return max(self.first, min(len(self._fences) + self.first, (leaf - self.origin) // SEGMENT_ENTRIES))

    def drop(self, first: int) -> None:
        """Forget the segments below `first`, whose rows `discard` takes away: they are not asked for any more."""
        del self._fences[: first - self.first]
        self.first = first

    def discard(self, connection: Connection) -> None:
        """Delete the rows of one segment that was dropped."""
        connection.execute("DELETE FROM segments WHERE segment < ?", (self.first,))
        (page,) = connection.execute("SELECT min(page) FROM places").fetchone()
        if page is not None and page < self.first * SEGMENT_PAGES:
            end = (page // SEGMENT_PAGES + 1) * SEGMENT_PAGES
            connection.execute("DELETE FROM places WHERE page < ?", (end,))

    def has_leftovers(self) -> bool:
        """Whether rows of dropped segments are still there."""
        row = self._database.read_one("SELECT min(page) FROM places")
        return row is not None and row[0] is not None and row[0] < self.first * SEGMENT_PAGES

    def add(self, connection: Connection, first_leaf: int, ids: Sequence[bytes]) -> None:
        """The entries from `first_leaf` on, the index's end, have these ids."""
        if not ids:
            return
        prefixes = b"".join(map(self._prefix, ids))
        made = checksum(b"fresh", _key(first_leaf), prefixes)
        connection.execute("INSERT INTO fresh VALUES (?, ?, ?)", (first_leaf, prefixes, made))
        self._staged += prefixes
        tail = self._open_tail()
        if len(tail) >= SEGMENT_ENTRIES * PREFIX_BYTES:
            self._close_segment(connection, tail)

    def commit(self) -> None:
        """The transaction is durable: keep its changes."""
        if self._closed:
            tail = self._open_tail()
            self._fences += self._closed
            self._closed = []
            self._set_tail(tail)
        else:
            self._note(len(self._tail) // PREFIX_BYTES, bytes(self._staged))
            self._tail += self._staged
        self._staged = bytearray()

    def roll_back(self) -> None:
        """The transaction came to nothing."""
        self._staged = bytearray()
        self._closed = []

    # Look-ups.

    def candidates(self, entry_id: bytes) -> Iterator[int]:
        """The leaves that may hold `entry_id`, the newest segment's first: nearly always its own or none."""
        prefix = self._prefix(entry_id)
        leaf = self._leaves.get(prefix)
        if leaf is not None:
            yield leaf
            yield from self._clashes.get(prefix, ())
        number = int.from_bytes(prefix, "big")
        for segment in range(self.first + len(self._fences) - 1, self.first - 1, -1):
            fences = self._fences[segment - self.first]
            first = self.origin + segment * SEGMENT_ENTRIES
            for page in range(max(0, bisect_left(fences, number) - 1), bisect_right(fences, number)):
                yield from (first + place for place in self._on_page(segment, page, prefix))

    def _on_page(self, segment: int, page: int, prefix: bytes) -> Iterator[int]:
        records = self._page(segment * SEGMENT_PAGES + page)
        at = records.find(prefix)
        while at >= 0:
            if not at % RECORD_BYTES:
                yield int.from_bytes(records[at + PREFIX_BYTES : at + RECORD_BYTES], "big")
            at = records.find(prefix, at + 1)

    def _page(self, number: int) -> bytes:
        row = self._database.read_one("SELECT records, checksum FROM places WHERE page = ?", number)
        with self._database.translated():
            if row is None:
                raise Damage(f"page {number} of the index of entries is missing")
            check(f"page {number} of the index of entries", row[1], b"places", _key(number), row[0])
        return bytes(row[0])

    def check_segment(self, segment: int) -> None:
        """Read every page of a segment; `StoreCorruptError` if one is damaged."""
        for page in range(SEGMENT_PAGES):
            self._page(segment * SEGMENT_PAGES + page)

    # Leaves.

    def _prefix(self, entry_id: bytes) -> bytes:
        keyed = self._keyed.copy()
        keyed.update(entry_id)
        return keyed.digest()

    def _open_tail(self) -> bytearray:
        """The prefixes behind the last segment, open changes included."""
        return (self._tail + self._staged)[len(self._closed) * SEGMENT_ENTRIES * PREFIX_BYTES :]

    def _close_segment(self, connection: Connection, tail: bytearray) -> None:
        number = self.segments
        records = [
            bytes(tail[at * PREFIX_BYTES : (at + 1) * PREFIX_BYTES]) + at.to_bytes(2, "big")
            for at in range(SEGMENT_ENTRIES)
        ]
        records.sort()
        pages = [b"".join(records[at : at + PAGE_RECORDS]) for at in range(0, SEGMENT_ENTRIES, PAGE_RECORDS)]
        first_page = number * SEGMENT_PAGES
        connection.executemany(
            "INSERT INTO places VALUES (?, ?, ?)",
            [
                (page, data, checksum(b"places", _key(page), data))
                for page, data in enumerate(pages, first_page)
            ],
        )
        fences = [int.from_bytes(page[:PREFIX_BYTES], "big") for page in pages]
        data = _FENCE.pack(*fences)
        connection.execute(
            "INSERT INTO segments VALUES (?, ?, ?)", (number, data, checksum(b"segment", _key(number), data))
        )
        end = self.origin + (number + 1) * SEGMENT_ENTRIES
        connection.execute(
            "DELETE FROM fresh WHERE first_leaf + length(prefixes) / ? <= ?", (PREFIX_BYTES, end)
        )
        self._closed.append(array("I", fences))

    def _set_tail(self, tail: bytearray) -> None:
        self._tail, self._leaves, self._clashes = tail, {}, {}
        self._note(0, bytes(tail))

    def _note(self, position: int, prefixes: bytes) -> None:
        first = self.origin + (self.first + len(self._fences)) * SEGMENT_ENTRIES + position
        apart = [prefix for (prefix,) in _PREFIX.iter_unpack(prefixes)]
        fresh = dict(zip(apart, range(first, first + len(apart)), strict=True))
        if len(fresh) == len(apart) and self._leaves.keys().isdisjoint(fresh):
            self._leaves.update(fresh)  # nearly always: no two share a prefix
            return
        for leaf, prefix in enumerate(apart, first):
            if self._leaves.setdefault(prefix, leaf) != leaf:
                self._clashes.setdefault(prefix, []).append(leaf)


def _key(number: int) -> bytes:
    return number.to_bytes(8, "big", signed=True)
