"""Taking in the state after a block from anybody: each part is checked against the certified header (SPEC.md §15.4).

Nothing of a snapshot is believed: its header is final by the committee that the light client follows, its state root
fixes every chunk, and its log root fixes the block's entries and the peaks of the log before them. A part that does
not fit is refused alone, and asked of another source; what fitted is kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.block import STATE_ROOT_INTERVAL
from ledger.core.encoding import WireError
from ledger.core.merkle import NODE_BYTES, PROOF_NODES_MAX, Peaks, leaf_hash, verify_inclusion
from ledger.core.snapshot import CHUNK_BYTES, state_root_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Entry
    from ledger.core.heads import CertifiedHeader

__all__ = ["SNAPSHOT_BYTES_MAX", "Intake", "Manifest"]

SNAPSHOT_BYTES_MAX: Final = 1 << 30
"""About eight million accounts. More than that is joined from genesis."""


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a source says of the state that it offers; `WireError` if that cannot be.

    `peaks` are those of the log before the header's block, whose entries then prove them.
    """

    head: CertifiedHeader
    peaks: tuple[bytes, ...]
    size: int
    chunks_root: bytes

    def __post_init__(self) -> None:
        if not 1 <= self.size <= SNAPSHOT_BYTES_MAX:
            raise WireError(f"snapshot of {self.size} bytes, at most {SNAPSHOT_BYTES_MAX} are taken")
        if len(self.peaks) > PROOF_NODES_MAX or any(
            len(node) != NODE_BYTES for node in (*self.peaks, self.chunks_root)
        ):
            raise WireError(
                f"snapshot: a node has {NODE_BYTES} bytes, and a log at most {PROOF_NODES_MAX} peaks"
            )

    @property
    def chunks(self) -> int:
        """How many chunks there are."""
        return -(-self.size // CHUNK_BYTES)

    def log_after(self, entries: Iterable[Entry]) -> Peaks | None:
        """The log up to the block, to go on from, if these are the block's entries and the peaks those before it."""
        header = self.head.header
        log = Peaks(header.tree_size - header.count, self.peaks).extend(entry.encode() for entry in entries)
        return log if (log.size, log.root()) == (header.tree_size, header.log_root) else None

    def fault(self, network_id: NetworkId) -> str:
        """Why this does not belong to its header, whose finality the caller has checked; empty if it does."""
        header = self.head.header
        if header.height % STATE_ROOT_INTERVAL:
            return f"the header of height {header.height} names no state"
        if (header.tree_size - header.count).bit_count() != len(self.peaks):
            return "the peaks are not those of a log of this size"
        if state_root_of(network_id, self.size, self.chunks_root) != header.state_root:
            return "the size and the root of the chunks are not those of the header's state"
        return ""


class Intake:
    """The chunks of one verified manifest as they come, one after the other, from whomever."""

    def __init__(self, manifest: Manifest) -> None:
        self.manifest = manifest
        self._chunks: list[bytes] = []

    @property
    def next_index(self) -> int:
        """The chunk to ask for; `manifest.chunks` when all are here."""
        return len(self._chunks)

    @property
    def is_whole(self) -> bool:
        """Whether all are here."""
        return self.next_index == self.manifest.chunks

    def take(self, data: bytes, path: Sequence[bytes]) -> bool:
        """Keep the next chunk if `data` is the one that the state root fixes."""
        manifest, index = self.manifest, self.next_index
        size = min(manifest.size, (index + 1) * CHUNK_BYTES) - index * CHUNK_BYTES
        if index >= manifest.chunks or len(data) != size:
            return False
        if not verify_inclusion(index, manifest.chunks, leaf_hash(data), path, manifest.chunks_root):
            return False
        self._chunks.append(data)
        return True

    def snapshot(self) -> bytes:
        """The state as bytes; `ValueError` while a chunk is missing."""
        if not self.is_whole:
            raise ValueError(f"chunk {self.next_index} is not here yet")
        return b"".join(self._chunks)
