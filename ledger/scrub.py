"""Every row of a ledger file read once, a little at a time: rot is found before the row is needed (SPEC.md §15.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.core.snapshot import CHUNK_BYTES
from ledger.drawers import Drawer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.store import Store

__all__ = ["STEP_BYTES", "scrub"]

STEP_BYTES: Final = 1 << 20
"""What one step reads, about: some 10 ms."""
STEP_BLOCKS: Final = 1_024


def scrub(store: Store) -> Iterator[None]:
    """Each step reads about STEP_BYTES and compares their checksums; `StoreCorruptError` at the first wrong row.

    What is written meanwhile may be missed: it was right a moment ago.
    """
    for drawer in Drawer:
        for _ in store.drawers.rows(drawer):
            pass
        yield
    store.tile_roots(store.tiles)
    yield
    for found in store.snapshots():
        for chunk in range(found.chunks):
            try:
                store.snapshot_chunk(found.height, chunk)
            except IndexError:
                break  # a newer one has taken its place
            if not chunk % (STEP_BYTES // CHUNK_BYTES):
                yield
    for segment in range(store.segments):
        store.check_segment(segment)
        yield
    height = store.first_height
    while height <= store.height():
        height += len(store.blocks(height, STEP_BLOCKS, STEP_BYTES))
        yield
