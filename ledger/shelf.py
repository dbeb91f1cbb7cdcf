"""The snapshot that a node offers to nodes that begin, chunk by chunk, each with its proof (SPEC.md §15.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.core.merkle import MerkleLog
from ledger.proofs import certified_header

if TYPE_CHECKING:
    from ledger.archive import Archive
    from ledger.snapshots import SnapshotInfo

__all__ = ["Shelf"]

HASHED_INLINE_BYTES_MAX: Final = 4 << 20
"""A larger snapshot's tree, more than about 10 ms of hashing, is made in a thread."""
NOTHING: Final[dict[str, Any]] = {"found": False}


class Shelf:
    """The newest snapshot that a header certifies; its tree is made when it is first asked for."""

    def __init__(self, archive: Archive) -> None:
        self._archive = archive
        self._tree: tuple[SnapshotInfo, MerkleLog] | None = None
        self._turn = trio.Lock()

    async def offer(self) -> dict[str, Any]:
        """What there is, and what proves it."""
        found = await self._newest()
        if found is None:
            return NOTHING
        info, tree = found
        head = certified_header(self._archive, info.height)
        if head is None:
            return NOTHING
        try:
            peaks = self._archive.chain.log.peaks(head.header.tree_size - head.header.count)
        except IndexError:
            return NOTHING  # where the ledger began itself: the log before that block is not known here
        return {
            "found": True,
            "head": head.encode(),
            "peaks": list(peaks.nodes),
            "size": info.size,
            "chunks_root": tree.root(),
        }

    async def chunk(self, height: int, index: int) -> dict[str, Any]:
        """One chunk of the snapshot that is offered."""
        found = await self._newest()
        if found is None or found[0].height != height or index >= found[0].chunks:
            return NOTHING
        data = self._archive.store.snapshot_chunk(height, index)
        return {"found": True, "data": data, "path": list(found[1].inclusion_proof(index))}

    async def _newest(self) -> tuple[SnapshotInfo, MerkleLog] | None:
        infos = [info for info in self._archive.store.snapshots() if info.certified]
        if not infos:
            return None
        async with self._turn:  # one tree is made at a time, however many ask
            if self._tree is None or self._tree[0] != infos[0]:
                if infos[0].size > HASHED_INLINE_BYTES_MAX:
                    tree = await trio.to_thread.run_sync(self._make_tree, infos[0])
                else:
                    tree = self._make_tree(infos[0])
                self._tree = infos[0], tree
            return self._tree

    def _make_tree(self, info: SnapshotInfo) -> MerkleLog:
        store = self._archive.store
        return MerkleLog(store.snapshot_chunk(info.height, index) for index in range(info.chunks))
