"""Every row of a ledger file read once, a little at a time: rot is found before the row is needed (SPEC.md §15.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.core.snapshot import CHUNK_BYTES
from ledger.database import StoreCorruptError
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
    yield from _snapshots(store)
    yield from _segments(store)
    yield from _blocks(store)


def _snapshots(store: Store) -> Iterator[None]:
    for found in store.snapshots():
        for chunk in range(found.chunks):
            try:
                store.snapshot_chunk(found.height, chunk)
            except IndexError:
                break  # a newer one has taken its place
            if not chunk % (STEP_BYTES // CHUNK_BYTES):
                yield


def _segments(store: Store) -> Iterator[None]:
    for segment in range(store.segments):
        try:
            store.check_segment(segment)
        except StoreCorruptError:
            if segment >= store.first_segment:
                raise  # else it was pruned meanwhile
        yield


def _blocks(store: Store) -> Iterator[None]:
    height = 0
    while height <= store.height():
        height = max(height, store.first_height)
        try:
            height += len(store.blocks(height, STEP_BLOCKS, STEP_BYTES))
        except StoreCorruptError:
            if height >= store.first_height:
                raise  # else it was pruned meanwhile
        yield
