"""Forgetting old blocks while a node runs: its ledger begins later from time to time (SPEC.md §15.4).

Order: 1 receipts of entries that were signed here, one by one; 2 in one transaction the new base, with the log's peaks
there and the handovers from before; 3 the rows below it, a little at a time. A crash before 2 leaves receipts that are
of no use yet; after 2, rows that nobody asks for and the next run deletes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.block import STATE_ROOT_INTERVAL
from ledger.proofs import handover_note, handover_of
from ledger.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ledger.archive import Archive
    from ledger.core.receipt import Receipt

__all__ = ["HISTORY_KEPT_MS", "STATE_ROOTS_KEPT", "Pruner", "Retention"]

HISTORY_KEPT_MS: Final = 61 * 86_400_000
"""Blocks younger than this are kept: an entry is valid for 30 days, a dispute over before the 60th, and a day more."""
STATE_ROOTS_KEPT: Final = 2
"""And at least as many heights that name a state root lie between the base and the newest block."""
LOOK_S: Final = 60.0
"""How often a running node looks whether its ledger may begin later."""
DISCARD_PAUSE_S: Final = 0.25
"""Between two deletions: a few megabytes a second, beside all that a node does."""
RECEIPTS_PER_STEP: Final = 8
"""Made at once, some milliseconds, before others go on."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of the past a node keeps."""

    history_ms: int = HISTORY_KEPT_MS
    state_roots: int = STATE_ROOTS_KEPT


class Pruner:
    """Moves the base of one archive forward. Nobody may write blocks while `move` runs."""

    def __init__(
        self,
        archive: Archive,
        fetch_receipt: Callable[[bytes], Awaitable[Receipt | None]],
        retention: Retention | None = None,
    ) -> None:
        """`fetch_receipt` asks others for a receipt that cannot be made here."""
        self._archive = archive
        self._fetch_receipt = fetch_receipt
        self._retention = retention or Retention()

    def due(self) -> int | None:
        """The height with which the ledger may begin from now on, if that is later than it does."""
        store, tip = self._archive.store, self._archive.chain.tip
        certified = [found.height for found in store.snapshots() if found.certified]
        last = min(
            min(certified, default=0),
            (tip.height // STATE_ROOT_INTERVAL - self._retention.state_roots) * STATE_ROOT_INTERVAL,
        )
        # Times only grow with the heights: the newest of those old enough, by halves.
        low, high = store.first_height // STATE_ROOT_INTERVAL, last // STATE_ROOT_INTERVAL
        while low < high:
            middle = (low + high + 1) // 2
            block = store.block(middle * STATE_ROOT_INTERVAL)
            if block is not None and block.header.time_ms + self._retention.history_ms <= tip.time_ms:
                low = middle
            else:
                high = middle - 1
        height = low * STATE_ROOT_INTERVAL
        return height if height > store.first_height else None

    async def save_receipts(self, height: int) -> bool:
        """Keep the receipts of entries signed here that are in blocks below `height`; False if one cannot be had."""
        store = self._archive.store
        for count, entry_id in enumerate(store.unkept()):
            if not count % RECEIPTS_PER_STEP:
                await trio.lowlevel.checkpoint()
            place = store.place(entry_id)
            if place is None or place.height >= height:
                continue
            receipt = self._archive.receipt(entry_id) or await self._fetch_receipt(entry_id)
            if receipt is None:
                _log.warning("ledger: nothing is pruned: entry %s has no receipt yet", entry_id.hex()[:16])
                return False
            store.save_receipt(entry_id, receipt.encode())
        return True

    def move(self, height: int) -> None:
        """Begin with the block of `height` from now on; what is in memory, too."""
        archive, store = self._archive, self._archive.store
        block = store.block(height)
        if block is None:
            raise ValueError(f"block {height} is not here")
        header = block.header
        notes = []
        for epoch in range(header.epoch + 1):
            place = store.rotation(epoch)
            handover = None if place is None or place.height >= height else handover_of(archive, epoch)
            if handover is not None:
                notes.append((handover_note(epoch), handover.encode()))
        store.move_base(height, archive.chain.log.peaks(header.tree_size - header.count), notes)
        archive.reload_log()
        _log.info("ledger: it begins at height %d now", height)

    async def discard(self) -> None:
        """Delete what is below the base, a little at a time."""
        is_done = False
        while not is_done:
            is_done = not await self._archive.aside(self._archive.store.discard)
            await trio.sleep(0 if is_done else DISCARD_PAUSE_S)

    async def run(self, turn: trio.Lock) -> None:
        """Keep the past short, until cancelled; whoever holds `turn` writes no blocks meanwhile."""
        while True:
            try:
                await self.discard()
                height = self.due()
                if height is not None and await self.save_receipts(height):
                    async with turn:
                        self.move(height)
                    continue
            except StoreError as error:
                _log.warning("ledger: nothing is pruned: %s", error)
            await trio.sleep(LOOK_S)
