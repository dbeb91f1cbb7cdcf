"""A verified chain together with its disk: what witness, follower and service share.

The chain in memory runs ahead of the disk by the batch that is being written; everything that is told to
others (`tip`, `committee`, `wait_beyond`, blocks, receipts) speaks of what is durable.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Final, TypeVar

import trio

from ledger.core.block import FinalBlock
from ledger.core.chain import Tip
from ledger.core.merkle import TILE_LEAVES
from ledger.core.receipt import Receipt
from ledger.opening import load_chain, load_log
from ledger.proofs import receipt_of
from ledger.scrub import scrub
from ledger.store import Batch, Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.chain import Chain
    from ledger.core.genesis import Genesis
    from ledger.core.merkle import Peaks

__all__ = ["RETRY_S", "Archive"]

RETRY_S: Final = 2.0
"""How long a disk that refuses is left alone before the same batch is tried again."""
SNAPSHOT_WEIGHT_BYTES_MIN: Final = 4 << 20
"""A snapshot is written when the blocks since the last one weigh this much, and as much as it does: so what is written
at most doubles, and a start judges no more blocks again than weigh as much as the state. For one that others can
begin at, of every 1,000th height, the second is enough."""
BLOCK_BYTES: Final = 500
"""What a block weighs on disk besides its entries: header, certificate, a row and its index."""
BLOCKS_PER_READ: Final = 64
READ_BYTES_MAX: Final = 1 << 20


SCRUB_PAUSE_S: Final = 0.25
"""Between steps of 1 MiB: a few megabytes a second, beside all that a node does."""
_END: Final = object()
T = TypeVar("T")

_log = logging.getLogger(__name__)


class Archive:
    """One chain and its store. Opening replays the disk; `StoreError` if that fails."""

    def __init__(self, store: Store, *, in_thread: bool = True) -> None:
        """`in_thread` False writes in the caller's task: for tests on a mock clock, which cannot see threads."""
        self.store = store
        self.genesis: Genesis = store.genesis
        self.chain: Chain = self._load()
        self.tip = self.chain.tip
        """The last block that is durable here."""
        self.committee = self.chain.committee
        """The witnesses of the block after that one."""
        self._disk_trouble = ""
        self.damage = ""
        """What the scrub found wrong on disk; empty when it found nothing, or is not through."""
        self._grown = trio.Event()
        self._in_thread = in_thread
        self._weight = self._certified_weight = 0
        self._turn = trio.CapacityLimiter(1)

    @property
    def trouble(self) -> str:
        """Why nothing can be written, or no block be judged, at present; empty when all is well."""
        return self._disk_trouble or self.chain.outdated

    @property
    def height(self) -> int:
        """The height of the last block that is durable here."""
        return self.tip.height

    def _load(self) -> Chain:
        chain = load_chain(self.store)
        chain.keeps_snapshots = True
        chain.log.forget_leaves(self.store.tree_size, self.store.leaf_hashes)
        return chain

    async def write(self, batch: Batch) -> None:
        """Make `batch` durable, however long that takes: a disk that refuses is tried again every RETRY_S.

        Until then the caller waits, so nothing that depends on the batch leaves this node (SPEC.md §6), `trouble` says
        why, and reads go on.
        """
        batch = replace(batch, tiles=self._new_tiles(batch))
        while True:
            try:
                # Once begun, a write is awaited to its end even if this task is cancelled: half known is worse.
                if self._in_thread:
                    await trio.to_thread.run_sync(self.store.write, batch, limiter=self._turn)
                else:
                    self.store.write(batch)
            except StoreError as error:
                self._disk_trouble = str(error)
                await trio.sleep(RETRY_S)
                continue
            self._disk_trouble = ""
            break
        if batch.blocks:
            weight = sum(map(_weight, batch.blocks))
            self._weight += weight
            self._certified_weight += weight
            self._take_note(batch.blocks[-1])
            self.chain.log.forget_leaves(self.store.tree_size, self.store.leaf_hashes)
            self._grown.set()
            self._grown = trio.Event()
            await self._keep_snapshot()

    def _take_note(self, block: FinalBlock) -> None:
        header = block.header
        self.tip = Tip(header.slot, header.height, block.certificate.block_hash, header.time_ms)
        if self.chain.tip.height == header.height:
            self.committee = self.chain.committee

    async def _keep_snapshot(self) -> None:
        """Write the state for the next start, and for others to begin at, if that is due.

        Whoever feeds the chain awaits this, so the state stands still while a thread encodes it.
        """
        certified, self.chain.certified = self.chain.certified, None
        snapshots = self.store.snapshots()
        newest = max((found.size for found in snapshots[:1]), default=0)
        has_certified = any(found.certified for found in snapshots)
        if certified is not None and (not has_certified or self._certified_weight >= len(certified[1])):
            self._certified_weight = self._weight = 0
        elif self._weight >= max(SNAPSHOT_WEIGHT_BYTES_MIN, newest):
            certified, self._weight = None, 0
        else:
            return
        try:
            if self._in_thread:
                await trio.to_thread.run_sync(self._write_snapshot, certified, limiter=self._turn)
            else:
                self._write_snapshot(certified)
        except StoreError as error:
            _log.warning("ledger: no snapshot was written, the next start will take longer: %s", error)

    def _write_snapshot(self, certified: tuple[int, bytes] | None) -> None:
        height, data = certified or (self.chain.tip.height, self.chain.state.snapshot())
        self.store.save_snapshot(height, data, certified=certified is not None)

    def _new_tiles(self, batch: Batch) -> tuple[tuple[int, bytes], ...]:
        """The roots of the log's tiles that `batch` completes, and of those that an earlier one left out."""
        if not batch.blocks:
            return ()
        complete = batch.blocks[-1].header.tree_size // TILE_LEAVES
        log = self.chain.log
        return tuple((tile, log.tile_root(tile)) for tile in range(self.store.tiles, complete))

    def begin(self, block: FinalBlock, snapshot: bytes, peaks: Peaks) -> None:
        """Let this empty ledger begin with `block`, after which the state is `snapshot`; before it the log has `peaks`.

        The caller has checked all three against each other and the committee. `ValueError` if a block is here already.
        """
        self.store.begin(block, snapshot, peaks)
        self.chain = self._load()
        self.tip, self.committee = self.chain.tip, self.chain.committee
        self._grown.set()
        self._grown = trio.Event()

    def reload_log(self) -> None:
        """Read the log's tree from disk again: the store begins later than it did. No block is being written."""
        block = self.store.block(self.height)
        if block is not None:
            self.chain.log = load_log(self.store, block.header)
            self.chain.log.forget_leaves(self.store.tree_size, self.store.leaf_hashes)

    async def aside(self, step: Callable[[], T]) -> T:
        """Run `step`, which waits for the disk, in a thread, in turn with the writes."""
        if not self._in_thread:
            return step()
        return await trio.to_thread.run_sync(step, limiter=self._turn)

    async def scrub(self) -> None:
        """Read all that is on disk once, slowly, and return: `damage` says what is wrong, if anything is."""
        steps = scrub(self.store)
        while True:
            try:
                if self._in_thread:
                    done = await trio.to_thread.run_sync(next, steps, _END)
                else:
                    done = next(steps, _END)
            except StoreError as error:
                self.damage = str(error)
                _log.critical("ledger: %s", error)
                return
            if done is _END:
                return
            await trio.sleep(SCRUB_PAUSE_S)

    async def wait_beyond(self, height: int) -> None:
        """Wait until the disk holds a block above `height`."""
        while self.height <= height:
            await self._grown.wait()

    def receipt(self, entry_id: bytes) -> Receipt | None:
        """The receipt of a final entry; None while it is not final, or if what proves it is not here."""
        kept = self.store.kept_receipt(entry_id)
        return receipt_of(self, entry_id) if kept is None else Receipt.decode(kept)

    def blocks(self, from_height: int = 1, count: int | None = None) -> Iterator[FinalBlock]:
        """Final blocks from a height on, `count` of them or all, read as they are asked for."""
        from_height = max(from_height, self.store.first_height)
        at, left = from_height, self.height - from_height + 1 if count is None else count
        while left > 0:
            page = self.store.blocks(at, min(left, BLOCKS_PER_READ), READ_BYTES_MAX)
            if not page:
                return
            for data in page:
                yield FinalBlock.decode(data)
            at, left = at + len(page), left - len(page)


def _weight(block: FinalBlock) -> int:
    """About what the block weighs on disk, without encoding it again."""
    return BLOCK_BYTES + sum([len(entry.encoded) for entry in block.entries])
