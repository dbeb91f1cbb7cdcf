"""A ledger file that is only read: by an audit, beside the node that writes it or where no node is (SPEC.md §7.2).

Nothing is loaded but the head, which says how far the file goes, and the snapshot where a ledger begins with one: of a
long ledger, as of a short one, no more than a page of blocks is in memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Self

from ledger.blocks import Blocks, Head
from ledger.core.actions import Rotate
from ledger.core.audit import Base
from ledger.core.block import ends_epoch
from ledger.core.committee import Committee
from ledger.core.encoding import WireError
from ledger.core.handover import BadHandover, Handover
from ledger.core.merkle import NODE_BYTES, Peaks
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
from ledger.drawers import BASE_NOTE, Drawer, Drawers
from ledger.proofs import handover_note
from ledger.snapshots import Snapshots

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.core.block import FinalBlock
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
                self._check_head()
                self._database.read("BEGIN")  # one moment of a file that a node may be writing
                head, seals = self._read_head()
                self._blocks = Blocks(self._database, head)
                self.base: Final = self._read_base(seals) if head.base_height else None
                """The certified snapshot that this ledger begins with, if it was pruned; else it begins at genesis."""
                self._database.read(
                    "COMMIT"
                )  # held on, it would keep the node's write-ahead file from shrinking
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
        """The lowest height that can be replayed: that of the first block, or the next after the base."""
        return 1 if self.base is None else self.base.block.header.height + 1

    @property
    def height(self) -> int:
        """The height of the last block when the file was opened; 0 if there was none."""
        return self._blocks.head.height

    def blocks(self) -> Iterator[bytes]:
        """Encoded final blocks from `first_height` to `height`."""
        at = self.first_height
        while page := self._page(at):
            yield from page
            at += len(page)

    def _page(self, height: int) -> list[bytes]:
        try:
            return self._blocks.encoded(height, BLOCKS_PER_READ, READ_BYTES_MAX)
        except StoreCorruptError as error:
            with self._database.translated():
                head, _ = self._read_head()
            if height < head.base_height:
                raise StoreError(
                    f"the node that writes {self._database.path} has just pruned block {height}: ask again"
                ) from error
            raise

    def _read_base(self, seals: bytes) -> Base:
        """The oldest certified snapshot that is kept, with the peaks there: the first ones and the blocks since."""
        drawers = Drawers(self._database)
        drawers.load(seals)
        snapshots = Snapshots(self._database, drawers)
        notes = drawers.get(Drawer.NOTES, BASE_NOTE)
        found = min(
            (one for one in snapshots.all() if one.certified), key=lambda one: one.height, default=None
        )
        if found is None or notes is None:
            raise Damage("it does not begin at height 1, and the snapshot that it begins with is missing")
        nodes = tuple(notes[at : at + NODE_BYTES] for at in range(8, len(notes), NODE_BYTES))
        peaks = Peaks(int.from_bytes(notes[:8], "big"), nodes)
        first = self._blocks.block(self._blocks.first_height)
        committee = certifier = None if first is None else self._committee(drawers, first.header.epoch)
        for block in self._blocks.all(self._blocks.first_height):
            if block.header.height > found.height:
                break
            if peaks.size < block.header.tree_size:
                peaks = peaks.extend(entry.encode() for entry in block.entries)
            first, certifier = block, committee
            if ends_epoch(block.entries):
                committee = _successor(committee, block, peaks)
        if first is None or first.header.height != found.height:
            raise Damage(f"the block of its snapshot, {found.height}, is missing")
        return Base(first, snapshots.read(found), peaks, None if certifier is None else certifier.witnesses)

    def _committee(self, drawers: Drawers, epoch: int) -> Committee | None:
        """The committee of the first block's epoch, by the handovers kept from genesis on; None if one lacks."""
        committee = self.genesis.committee
        try:
            for number in range(epoch):
                note = drawers.get(Drawer.NOTES, handover_note(number))
                if note is None:
                    return None
                committee = Handover.decode(note).successor(committee)
        except (WireError, BadHandover) as error:
            raise Damage(f"a handover that it keeps: {error}") from error
        return committee

    def _check_head(self) -> None:
        path, database = self._database.path, self._database
        if database.read_one("PRAGMA application_id") != (APPLICATION_ID,):
            raise StoreCorruptError(f"{path} is not a ledger database of this program; name another file")
        (version,) = database.read_one("PRAGMA user_version") or (None,)
        if version != SCHEMA_VERSION:
            raise StoreError(
                f"{path} has format {version}, this program reads format {SCHEMA_VERSION}: use the program version "
                "that wrote it"
            )
        head, _ = self._read_head()
        if head.network_id != self.genesis.network_id:
            raise WrongNetworkError(
                f"{path} belongs to network {head.network_id.hex()[:16]}, not {self.genesis.network_id.hex()[:16]}: "
                "name that network's file with --network"
            )
        # A node may have committed since: its mark is then ahead of this head, but not of the next look at it.
        noted = CommitMark(path, head.store_id).read()
        if noted > head.number and self._read_head()[0].number == head.number:
            raise Damage(
                f"its last {noted - head.number} transactions are gone, although they were acknowledged"
            )

    def _read_head(self) -> tuple[Head, bytes]:
        """The head, and what it says of all drawers."""
        row = self._database.read_one("SELECT data, checksum FROM head")
        if row is None:
            raise Damage("its head is missing")
        data, found = row
        check("its head", found, b"head", data)
        return Head.decode(data), data[Head.BYTES :]


def _successor(committee: Committee | None, block: FinalBlock, peaks: Peaks) -> Committee | None:
    """The committee after an epoch's last block that this one certified; `peaks` are the log's behind it."""
    action = block.entries[-1].action
    if committee is None or not isinstance(action, Rotate) or not block.verify(committee):
        return None
    if (peaks.size, peaks.root()) != (block.header.tree_size, block.header.log_root):
        return None
    return Committee(committee.network_id, committee.epoch + 1, action.witnesses)
