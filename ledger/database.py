"""The one door to SQLite: connections, transactions, checksums, and errors that say what to do (SPEC.md §15.3).

WAL with synchronous=FULL: when a transaction returns, it survives a power cut, and a crash leaves all of it or none.
SQLite finds damage to its own structure, not to what is stored: so every row carries `checksum`, and each
transaction has a number, which is noted in a small file beside the database (`CommitMark`) once it is durable.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import threading
from contextlib import closing, contextmanager
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "APPLICATION_ID",
    "CHECKSUM_BYTES",
    "SCHEMA_VERSION",
    "CommitMark",
    "Connection",
    "Damage",
    "Database",
    "StoreCorruptError",
    "StoreError",
    "StoreFullError",
    "WrongNetworkError",
    "check",
    "checksum",
]

APPLICATION_ID: Final = 0x4D696C31
"""'Mil1': tells `file` and us that this database is ours."""
SCHEMA_VERSION: Final = 2
BUSY_TIMEOUT_MS: Final = 5_000
WAL_KEPT_BYTES_MAX: Final = 16 << 20
"""What a large transaction leaves behind of its write-ahead file, at most."""
CHECKSUM_BYTES: Final = 8
"""Of SHA-256. Bits rot, they do not conspire: one damaged row in 2^64 passes."""

Connection = sqlite3.Connection

_FULL: Final = frozenset((sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY))
# Errors of a file that was sound when it was opened: what it says of its own tables, or of a row's form, is wrong.
_DAMAGED: Final = frozenset(
    (
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_CONSTRAINT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_TOOBIG,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_INTERNAL,
    )
)
_MARK = struct.Struct(">16sQ")


class StoreError(Exception):
    """The database cannot be used; the text says what, why and what to do."""


class StoreFullError(StoreError):
    """The disk takes no more, or fails: nothing of the transaction was written. Trying again later may work."""


class StoreCorruptError(StoreError):
    """The file holds something that this program did not write, or lacks what it wrote: `what`, in a few words."""

    def __init__(self, text: str, what: str = "") -> None:
        super().__init__(text)
        self.what = what or text


class WrongNetworkError(StoreError):
    """The file belongs to another network."""


class Damage(ValueError):
    """A row is not what was written; the text says which. `Database` makes a `StoreCorruptError` of it."""


def checksum(*parts: bytes) -> bytes:
    """The first CHECKSUM_BYTES of SHA-256 over `parts`, which name the row's table and key before its value.

    So a row that shows up in another's place is found, too.
    """
    digest = sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()[:CHECKSUM_BYTES]


def check(what: str, found: object, *parts: object) -> None:
    """Raise `Damage`, naming `what`, unless `found` is the checksum of `parts`; rotten rows may hold any type."""
    if not all(isinstance(part, bytes) for part in parts) or checksum(*parts) != found:  # type: ignore[arg-type]
        raise Damage(f"{what} does not have the checksum that it was written with")


class Database:
    """One SQLite file: a connection that writes, under a lock, and one that reads and never waits for it."""

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Open `path`, created if it is not there; `StoreError` if that fails.

        With `read_only` it must be there, may be in use, and neither it nor its folder is changed.
        """
        self.path = path
        self._read_only = read_only
        self.write_lock = threading.RLock()
        """Held over a transaction, and over what must be seen to change with it."""
        self._read_lock = threading.Lock()
        """One read at a time: one that begins while another runs on the same connection sees the database as that one
        does, without what was committed meanwhile, and would take a new row for a lost one."""
        with self.translated():
            if not read_only:
                path.parent.mkdir(parents=True, exist_ok=True)
            self.writer = self._connect()
            try:
                self._reader = self._connect()
            except BaseException:
                self.writer.close()
                raise

    def close(self) -> None:
        """Close both connections; what was written stays."""
        self._reader.close()
        self.writer.close()

    def read(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        """Every row of `query`, of what is durable."""
        with self.translated(), self._read_lock:
            return self._reader.execute(query, values).fetchall()

    def read_one(self, query: str, *values: object) -> tuple[Any, ...] | None:
        """The first row of `query`, or None."""
        with self.translated(), self._read_lock, closing(self._reader.execute(query, values)) as cursor:
            row: tuple[Any, ...] | None = cursor.fetchone()
            return row

    def scan(self, query: str, *values: object) -> Iterator[tuple[Any, ...]]:
        """The rows of `query` one by one, for a caller that cannot hold them all; on a connection of their own."""
        with self.translated():
            connection = self._connect()
        with closing(connection):
            with self.translated():
                cursor = connection.execute(query, values)
            while True:
                with self.translated():
                    row = cursor.fetchone()
                if row is None:
                    return
                yield row

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """All that the block writes, or nothing; durable when it ends."""
        with self.write_lock, self.translated():
            self.writer.execute("BEGIN IMMEDIATE")
            try:
                yield self.writer
                self.writer.execute("COMMIT")
            except BaseException:
                # A full disk may have ended the transaction already; then there is nothing to roll back.
                if self.writer.in_transaction:
                    self.writer.execute("ROLLBACK")
                raise

    @contextmanager
    def translated(self) -> Iterator[None]:
        """SQLite's and the file system's errors, and our `Damage`, as `StoreError`."""
        try:
            yield
        except Damage as error:
            raise self.corrupt(str(error)) from error
        except sqlite3.Error as error:
            raise self._translate(error) from error
        except UnicodeDecodeError as error:  # SQLite's words on a table whose name rotted
            raise self.corrupt("the description of its tables") from error
        except OSError as error:
            raise StoreError(f"{self.path} cannot be opened: {error}") from error

    def corrupt(self, what: str) -> StoreCorruptError:
        """The error that names the file, what is wrong with it, and the way out."""
        return StoreCorruptError(
            f"{self.path} is damaged: {what}. Stop the node and move the file away, with those beside it that begin "
            "with its name; the node then fetches the ledger from the witnesses again. Entries in it that were signed "
            "and not sent are lost unless a backup has them; a witness starts again under a new key",
            what,
        )

    def _translate(self, error: sqlite3.Error) -> StoreError:
        extended = getattr(error, "sqlite_errorcode", None)
        code = None if extended is None else extended & 0xFF
        if extended == sqlite3.SQLITE_IOERR_SHORT_READ:
            return self.corrupt(f"it is shorter than it says ({error})")
        if code in _FULL:
            return StoreFullError(f"{self.path} cannot be written ({error}): free some space on its disk")
        if code == sqlite3.SQLITE_IOERR:
            return StoreFullError(
                f"{self.path}: the disk fails ({error}). If it is full, free some space; if not, see the system's log, "
                "and copy the file to another disk while it can be read"
            )
        if code in _DAMAGED or code is None:
            return self.corrupt(str(error))
        return StoreError(f"{self.path} cannot be used: {error}")

    def _connect(self) -> Connection:
        connection = sqlite3.connect(
            self._read_only_uri() if self._read_only else self.path,
            uri=self._read_only,
            isolation_level=None,
            check_same_thread=False,
            timeout=BUSY_TIMEOUT_MS / 1000,
        )
        try:
            if not self._read_only:
                (mode,) = connection.execute("PRAGMA journal_mode = WAL").fetchone()
                if mode != "wal":
                    raise StoreFullError(
                        f"{self.path}: the disk refused a write-ahead file: free some space on it"
                    )
                connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA trusted_schema = OFF")
            connection.execute("PRAGMA cell_size_check = ON")
            connection.execute(f"PRAGMA journal_size_limit = {WAL_KEPT_BYTES_MAX}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _read_only_uri(self) -> str:
        """Without a write-ahead file nobody has the database open: then SQLite need not make one beside it."""
        in_use = self.path.with_name(self.path.name + "-wal").exists()
        return f"{self.path.absolute().as_uri()}?mode=ro{'' if in_use else '&immutable=1'}"


class CommitMark:
    """The number of the last transaction that was acknowledged, in a file beside the database.

    SQLite takes a write-ahead file that is cut short, or damaged in the middle, for one that ends there: it forgets
    the transactions behind the damage and says nothing. The mark does. It is written after each commit and left to
    the system to flush: behind a power cut it may lag, and never runs ahead of what was durable.
    """

    def __init__(self, path: Path, store_id: bytes) -> None:
        self.path = path.with_name(path.name + "-mark")
        self._store_id = store_id
        self._file: int | None = None

    def read(self) -> int:
        """The number noted, or 0 if there is none, it is another store's, or it is damaged itself."""
        store_id, number = self._noted()
        return number if store_id == self._store_id else 0

    def is_there(self) -> bool:
        """Whether any store noted a number here."""
        return self._noted()[1] > 0

    def _noted(self) -> tuple[bytes, int]:
        try:
            data = self.path.read_bytes()
        except OSError:
            return b"", 0
        record = data[: _MARK.size]
        if len(data) != _MARK.size + CHECKSUM_BYTES or data[_MARK.size :] != checksum(b"mark", record):
            return b"", 0
        store_id, number = _MARK.unpack(record)
        return store_id, number

    def write(self, number: int) -> None:
        """Note that `number` is durable. A disk that refuses is no error: the mark only lags."""
        record = _MARK.pack(self._store_id, number)
        try:
            if self._file is None:
                self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
            os.pwrite(self._file, record + checksum(b"mark", record), 0)
        except OSError:
            self.close()

    def close(self) -> None:
        """Close the file; it stays."""
        if self._file is not None:
            os.close(self._file)
            self._file = None
