"""A ledger file that is only read: by an audit, beside the node that writes it or where no node is (SPEC.md §7.2).

Nothing is loaded but the head, which says how far the file goes: of a long ledger, as of a short one, no more than a
page of blocks is in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from ledger.blocks import Blocks, Head
from ledger.database import (
    APPLICATION_ID,
    SCHEMA_VERSION,
    CommitMark,
    Damage,
    Database,
    StoreCorruptError,
    StoreError,
    WrongNetworkError,
    check,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.core.genesis import Genesis

__all__ = ["LedgerFile"]

BLOCKS_PER_READ: Final = 64
READ_BYTES_MAX: Final = 1 << 20


class LedgerFile:
    """The blocks of one ledger file as they were when it was opened. `close` it, or use it in a `with`."""

    def __init__(self, path: Path, genesis: Genesis) -> None:
        """Open `path`, which must be a ledger of this network; `StoreError` if it is not, or cannot be read."""
        if not path.is_file():
            raise StoreError(f"there is no ledger file {path}: name one, or start the node that keeps it")
        self.genesis = genesis
        self._database = Database(path, read_only=True)
        try:
            with self._database.translated():
                self._blocks = Blocks(self._database, self._head())
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._database.close()

    @property
    def first_height(self) -> int:
        """The lowest height whose block is here."""
        return self._blocks.first_height

    @property
    def height(self) -> int:
        """The height of the last block when the file was opened; 0 if there was none."""
        return self._blocks.head.height

    def blocks(self, from_height: int = 1) -> Iterator[bytes]:
        """Encoded final blocks, from a height up to `height`."""
        at = from_height
        while page := self._blocks.encoded(at, BLOCKS_PER_READ, READ_BYTES_MAX):
            yield from page
            at += len(page)

    def _head(self) -> Head:
        path, database = self._database.path, self._database
        if database.read_one("PRAGMA application_id") != (APPLICATION_ID,):
            raise StoreCorruptError(f"{path} is not a ledger database of this program; name another file")
        if (version := database.read_one("PRAGMA user_version")) != (SCHEMA_VERSION,):
            found = version[0] if version else None
            raise StoreError(
                f"{path} has format {found}, this program reads format {SCHEMA_VERSION}: use the program version that "
                "wrote it"
            )
        row = database.read_one("SELECT data, checksum FROM head")
        if row is None:
            raise Damage("its head is missing")
        data, found = row
        check("its head", found, b"head", data)
        head = Head.decode(data)
        if head.network_id != self.genesis.network_id:
            raise WrongNetworkError(
                f"{path} belongs to network {head.network_id.hex()[:16]}, not {self.genesis.network_id.hex()[:16]}: "
                "name that network's file with --network"
            )
        # A node may have committed since: its mark is then ahead of this head, but not of the next look at it.
        noted = CommitMark(path, head.store_id).read()
        if noted > head.number and database.read_one("SELECT data FROM head") == (data,):
            raise Damage(
                f"its last {noted - head.number} transactions are gone, although they were acknowledged"
            )
        return head
