"""A verified chain together with its disk: what witness, follower and service share.

The chain in memory runs ahead of the disk by the batch that is being written; everything that is told to
others (`height`, `wait_beyond`, blocks, receipts) speaks of what is durable.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.block import FinalBlock
from ledger.core.merkle import TILE_LEAVES
from ledger.proofs import receipt_of
from ledger.store import Batch, Store, StoreError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.core.chain import Chain
    from ledger.core.genesis import Genesis
    from ledger.core.receipt import Receipt

__all__ = ["RETRY_S", "Archive"]

RETRY_S: Final = 2.0
"""How long a disk that refuses is left alone before the same batch is tried again."""
BLOCKS_PER_READ: Final = 64
READ_BYTES_MAX: Final = 1 << 20


class Archive:
    """One chain and its store. Opening replays the disk; `StoreError` if that fails."""

    def __init__(self, store: Store, *, in_thread: bool = True) -> None:
        """`in_thread` False writes in the caller's task: for tests on a mock clock, which cannot see threads."""
        self.store = store
        self.genesis: Genesis = store.genesis
        self.chain: Chain = store.load_chain()
        self.chain.log.forget_leaves(store.tree_size, store.leaf_hashes)
        self.height = self.chain.tip.height
        self.trouble = ""
        """Why nothing can be written at present; empty when all is well."""
        self._grown = trio.Event()
        self._in_thread = in_thread
        self._turn = trio.CapacityLimiter(1)

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
                self.trouble = str(error)
                await trio.sleep(RETRY_S)
                continue
            self.trouble = ""
            break
        if batch.blocks:
            self.height = batch.blocks[-1].header.height
            self.chain.log.forget_leaves(self.store.tree_size, self.store.leaf_hashes)
            self._grown.set()
            self._grown = trio.Event()

    def _new_tiles(self, batch: Batch) -> tuple[tuple[int, bytes], ...]:
        """The roots of the log's tiles that `batch` completes, and of those that an earlier one left out."""
        if not batch.blocks:
            return ()
        complete = batch.blocks[-1].header.tree_size // TILE_LEAVES
        log = self.chain.log
        return tuple((tile, log.tile_root(tile)) for tile in range(self.store.tiles, complete))

    async def wait_beyond(self, height: int) -> None:
        """Wait until the disk holds a block above `height`."""
        while self.height <= height:
            await self._grown.wait()

    def receipt(self, entry_id: bytes) -> Receipt | None:
        """The receipt of a final entry; None while it is not final."""
        return receipt_of(self, entry_id)

    def blocks(self, from_height: int = 1, count: int | None = None) -> Iterator[FinalBlock]:
        """Final blocks from a height on, `count` of them or all, read as they are asked for."""
        at, left = from_height, self.height - from_height + 1 if count is None else count
        while left > 0:
            page = self.store.blocks(at, min(left, BLOCKS_PER_READ), READ_BYTES_MAX)
            if not page:
                return
            for data in page:
                yield FinalBlock.decode(data)
            at, left = at + len(page), left - len(page)
