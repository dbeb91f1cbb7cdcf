"""The ledger on disk: final blocks, own votes and signed entries, in one SQLite file (SPEC.md §6, §15).

WAL with synchronous=FULL: when `write` returns, its batch survives a power cut. One batch is one transaction, so
a crash leaves all of it or none. State is never stored: `load_chain` replays the blocks through the same rules that
accepted them, which also finds any flipped bit. All methods are synchronous; a shell calls those that wait for the
disk in a thread. Reads have their own connection and never wait for a write.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing, contextmanager
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final, Self

from ledger.core.block import FinalBlock, Proposal
from ledger.core.chain import BadBlock, Chain
from ledger.core.encoding import WireError
from ledger.core.entries import Entry, decode_entry
from ledger.core.events import Saved
from ledger.core.votes import Certificate, Vote

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ledger.core.ballots import Evidence
    from ledger.core.committee import Committee
    from ledger.core.events import PersistVote
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId

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

APPLICATION_ID: Final = 0x4D696C31
"""'Mil1': tells `file` and us that this database is ours."""
SCHEMA_VERSION: Final = 1
BUSY_TIMEOUT_MS: Final = 5_000
_FULL_CODES: Final = frozenset((sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY))

_SCHEMA: Final = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value BLOB NOT NULL) STRICT;
CREATE TABLE blocks (height INTEGER PRIMARY KEY, data BLOB NOT NULL, sha256 BLOB NOT NULL) STRICT;
CREATE TABLE entries (entry_id BLOB PRIMARY KEY, height INTEGER NOT NULL, leaf INTEGER NOT NULL)
    STRICT, WITHOUT ROWID;
CREATE TABLE votes (kind INTEGER NOT NULL, slot INTEGER NOT NULL, data BLOB NOT NULL, PRIMARY KEY (kind, slot))
    STRICT, WITHOUT ROWID;
CREATE TABLE certificates (kind INTEGER NOT NULL, slot INTEGER NOT NULL, data BLOB NOT NULL,
    PRIMARY KEY (kind, slot)) STRICT, WITHOUT ROWID;
CREATE TABLE proposals (slot INTEGER PRIMARY KEY, data BLOB NOT NULL) STRICT;
CREATE TABLE evidence (witness BLOB NOT NULL, slot INTEGER NOT NULL, first BLOB NOT NULL, second BLOB NOT NULL,
    PRIMARY KEY (witness, slot)) STRICT, WITHOUT ROWID;
CREATE TABLE signed (account BLOB NOT NULL, entry_id BLOB NOT NULL, seq INTEGER NOT NULL, data BLOB NOT NULL,
    status TEXT NOT NULL, detail TEXT NOT NULL, PRIMARY KEY (account, entry_id)) STRICT, WITHOUT ROWID;
CREATE INDEX pending ON signed (account, seq) WHERE status = 'pending';
"""


class StoreError(Exception):
    """The database cannot be used; the text says what, why and what to do."""


class StoreFullError(StoreError):
    """The disk takes no more, or fails: nothing of the batch was written. Trying again later may work."""


class StoreCorruptError(StoreError):
    """The file holds something that this program did not write."""


class WrongNetworkError(StoreError):
    """The file belongs to another network."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one transaction makes durable."""

    votes: tuple[PersistVote, ...] = ()
    blocks: tuple[FinalBlock, ...] = ()
    evidence: tuple[Evidence, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.votes or self.blocks or self.evidence)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an entry is: the height of its block, and its leaf in the log."""

    height: int
    leaf: int


@dataclass(frozen=True, slots=True)
class SignedEntry:
    """An entry that a wallet signed, and what became of it: `pending`, `final`, `refused` or `expired`."""

    entry: Entry
    entry_id: bytes
    status: str
    detail: str


def open_store(path: Path, genesis: Genesis) -> Store:
    """The database at `path`, created if it is not there; `StoreError` if it cannot be used for this network."""
    store = Store(path, genesis)
    try:
        store.prepare()
    except BaseException:
        store.close()
        raise
    return store


class Store:
    """One node's ledger file. Get it from `open_store`; `close` it, or use it in a `with`."""

    def __init__(self, path: Path, genesis: Genesis) -> None:
        self.path = path
        self.genesis = genesis
        with _translated(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._writer = self._connect()
            self._reader = self._connect()
        self._write_lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close both connections; what was written stays."""
        self._reader.close()
        self._writer.close()

    def prepare(self) -> None:
        """Create the tables, or check that they are ours and this network's."""
        with _translated(self.path), self._transaction() as connection:
            application_id = _single(connection, "PRAGMA application_id")
            tables = _single(connection, "SELECT count(*) FROM sqlite_master")
            if not application_id and not tables:
                for statement in filter(str.strip, _SCHEMA.split(";")):
                    connection.execute(statement)
                connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
                connection.execute("INSERT INTO meta VALUES ('network_id', ?)", (self.genesis.network_id,))
                return
            if application_id != APPLICATION_ID:
                raise StoreCorruptError(
                    f"{self.path} is not a ledger database of this program; name another file"
                )
            version = _single(connection, "PRAGMA user_version")
            if version != SCHEMA_VERSION:
                raise StoreError(
                    f"{self.path} has format {version}, this program reads format {SCHEMA_VERSION}: "
                    "use the program version that wrote it, or move the file away to fetch the ledger again"
                )
            network_id = _single(connection, "SELECT value FROM meta WHERE key = 'network_id'")
        if network_id != self.genesis.network_id:
            raise WrongNetworkError(
                f"{self.path} belongs to network {bytes(network_id or b'').hex()[:16]}, "
                f"not {self.genesis.network_id.hex()[:16]}: use that network's folder, or move the file away"
            )

    # Blocks and votes.

    def write(self, batch: Batch) -> None:
        """Make all of `batch` durable, or nothing: `StoreFullError` if the disk takes no more."""
        with _translated(self.path), self._transaction() as connection:
            connection.executemany(
                "INSERT OR REPLACE INTO votes VALUES (?, ?, ?)",
                [(item.vote.kind, item.vote.slot, item.vote.encode()) for item in batch.votes],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO certificates VALUES (?, ?, ?)",
                [(c.kind, c.slot, c.encode()) for item in batch.votes for c in item.certificates],
            )
            connection.executemany(
                "INSERT OR REPLACE INTO proposals VALUES (?, ?)",
                [
                    (v.proposal.header.slot, v.proposal.encode())
                    for v in batch.votes
                    if v.proposal is not None
                ],
            )
            connection.executemany(
                "INSERT OR IGNORE INTO evidence VALUES (?, ?, ?, ?)",
                [(found.witness, found.slot, found.first, found.second) for found in batch.evidence],
            )
            for block in batch.blocks:
                self._insert_block(connection, block)
            if batch.blocks:
                # Slots up to the final one are settled for ever: no vote in them is asked for again.
                slot = (batch.blocks[-1].header.slot,)
                connection.execute("DELETE FROM votes WHERE slot <= ?", slot)
                connection.execute("DELETE FROM certificates WHERE slot <= ?", slot)
                connection.execute("DELETE FROM proposals WHERE slot <= ?", slot)

    def load_chain(self) -> Chain:
        """The chain on disk, every block judged again by every rule but its entries' signatures.

        Those are covered: a header names the log root, the log covers signatures, and the header's certificate is
        checked. `StoreCorruptError` names the file and the first wrong block.
        """
        chain = Chain(self.genesis)
        with _translated(self.path):
            rows = self._reader.execute("SELECT height, data, sha256 FROM blocks ORDER BY height")
            for height, data, checksum in rows:
                try:
                    if sha256(data).digest() != checksum:
                        raise WireError("its checksum is wrong")
                    block = FinalBlock.decode(data)
                    if block.header.height != height:
                        raise WireError(f"it says its height is {block.header.height}")
                    chain.accept(block, is_verified=_always)
                except (WireError, BadBlock) as error:
                    raise self._corrupt(f"block {height}: {error}") from error
            if chain.tip.height != self.height():
                raise self._corrupt(f"the blocks after {chain.tip.height} have no final certificate")
        return chain

    def load_saved(self, committee: Committee) -> Saved:
        """The votes of this witness above its last final block, and the blocks they notarise; `committee` is theirs."""
        with _translated(self.path):
            votes = self._reader.execute("SELECT data FROM votes ORDER BY slot, kind").fetchall()
            certificates = self._reader.execute("SELECT data FROM certificates ORDER BY slot").fetchall()
            proposals = self._reader.execute("SELECT data FROM proposals ORDER BY slot").fetchall()
        try:
            last = self.block(self.height())
            saved = Saved(
                tuple(Vote.decode(data) for (data,) in votes),
                tuple(Proposal.decode(data) for (data,) in proposals),
                tuple(Certificate.decode(data) for (data,) in certificates),
                None if last is None else last.certificate,
            )
        except WireError as error:
            raise self._corrupt(f"a saved vote: {error}") from error
        votes_hold = all(vote.verify(committee) for vote in saved.votes)
        if not votes_hold or not all(certificate.verify(committee) for certificate in saved.certificates):
            raise self._corrupt("a saved vote or certificate has a wrong signature")
        return saved

    def height(self) -> int:
        """The height of the last block on disk; 0 if there is none."""
        with _translated(self.path):
            return int(_single(self._reader, "SELECT coalesce(max(height), 0) FROM blocks"))

    def blocks(self, from_height: int, count_max: int, bytes_max: int) -> list[bytes]:
        """Encoded final blocks from a height on: at most `count_max` and `bytes_max`, but one if there is one."""
        taken: list[bytes] = []
        size = 0
        with _translated(self.path):
            query = "SELECT data FROM blocks WHERE height >= ? ORDER BY height LIMIT ?"
            with closing(self._reader.execute(query, (from_height, count_max))) as rows:
                for (data,) in rows:
                    size += len(data)
                    if taken and size > bytes_max:
                        break
                    taken.append(data)
        return taken

    def block(self, height: int) -> FinalBlock | None:
        """The final block at `height`; None above the last one."""
        found = self.blocks(height, 1, 0)
        try:
            block = FinalBlock.decode(found[0]) if found else None
        except WireError as error:
            raise self._corrupt(f"block {height}: {error}") from error
        return block if block is not None and block.header.height == height else None

    def place(self, entry_id: bytes) -> Place | None:
        """Where a final entry is; None if it is not final."""
        with _translated(self.path):
            row = self._reader.execute(
                "SELECT height, leaf FROM entries WHERE entry_id = ?", (entry_id,)
            ).fetchone()
        return None if row is None else Place(*row)

    def evidence(self) -> list[tuple[bytes, int, bytes, bytes]]:
        """Every recorded contradiction as (witness, slot, first statement, second statement)."""
        with _translated(self.path):
            return self._reader.execute("SELECT witness, slot, first, second FROM evidence").fetchall()

    # The wallet.

    def save_signed(self, entry: Entry, settled: Sequence[Entry] = ()) -> None:
        """Make a signed entry durable before it is sent, and note in passing that `settled` ones are final."""
        with _translated(self.path), self._transaction() as connection:
            connection.executemany(
                "UPDATE signed SET status = 'final' WHERE account = ? AND entry_id = ?",
                [(done.account, done.entry_id(self.genesis.network_id)) for done in settled],
            )
            connection.execute(
                "INSERT OR REPLACE INTO signed VALUES (?, ?, ?, ?, 'pending', '')",
                (entry.account, entry.entry_id(self.genesis.network_id), entry.seq, entry.encode()),
            )

    def mark_signed(self, entry: Entry, status: str, detail: str = "") -> None:
        """Record what became of a signed entry."""
        with _translated(self.path), self._transaction() as connection:
            connection.execute(
                "UPDATE signed SET status = ?, detail = ? WHERE account = ? AND entry_id = ?",
                (status, detail, entry.account, entry.entry_id(self.genesis.network_id)),
            )

    def signed(self, account: AccountId, *, pending_only: bool = False) -> list[SignedEntry]:
        """Every entry that this account signed here, or those of unknown fate, in order of sequence."""
        which = "AND status = 'pending'" if pending_only else ""
        query = f"SELECT data, entry_id, status, detail FROM signed WHERE account = ? {which} ORDER BY seq"  # noqa: S608
        with _translated(self.path):
            rows = self._reader.execute(query, (account,)).fetchall()
        try:
            return [SignedEntry(decode_entry(data), *rest) for data, *rest in rows]
        except WireError as error:
            raise self._corrupt(f"a signed entry: {error}") from error

    # Leaves.

    def _insert_block(self, connection: sqlite3.Connection, block: FinalBlock) -> None:
        header, data = block.header, block.encode()
        connection.execute(
            "INSERT OR IGNORE INTO blocks VALUES (?, ?, ?)", (header.height, data, sha256(data).digest())
        )
        first = header.tree_size - header.count
        network_id = self.genesis.network_id
        connection.executemany(
            "INSERT OR IGNORE INTO entries VALUES (?, ?, ?)",
            [
                (entry.entry_id(network_id), header.height, first + position)
                for position, entry in enumerate(block.entries)
            ],
        )

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self.path, isolation_level=None, check_same_thread=False, timeout=BUSY_TIMEOUT_MS / 1000
        )
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA trusted_schema = OFF")
        return connection

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._write_lock:
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                yield self._writer
                self._writer.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already; then there is nothing to roll back.
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    def _corrupt(self, what: str) -> StoreCorruptError:
        return StoreCorruptError(
            f"{self.path} is damaged: {what}. Stop the node and move the file away; the node then fetches the ledger "
            "from the witnesses again. Unsent entries in it are lost unless a backup has them."
        )


def _always(_entry: Entry) -> bool:
    return True


def _single(connection: sqlite3.Connection, query: str) -> Any:  # noqa: ANN401 - SQLite's own value types
    row = connection.execute(query).fetchone()
    return None if row is None else row[0]


@contextmanager
def _translated(path: Path) -> Iterator[None]:
    """SQLite's and the file system's errors as ours."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in _FULL_CODES:
            raise StoreFullError(
                f"{path} cannot be written ({error}): free some space on its disk"
            ) from error
        if code in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}:
            raise StoreCorruptError(
                f"{path} is damaged or no database ({error}). Stop the node and move the file away; "
                "the node then fetches the ledger from the witnesses again"
            ) from error
        raise StoreError(f"{path} cannot be used: {error}") from error
    except OSError as error:
        raise StoreError(f"{path} cannot be opened: {error}") from error
