"""How the chain of committees is followed without the ledger: one proof for each epoch's last block (SPEC.md §7.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.committee import Committee
from ledger.core.encoding import Reader, WireError
from ledger.core.entries import ENTRY_BYTES_MAX, Entry, Rotate, take_entry
from ledger.core.heads import CERTIFIED_HEADER_BYTES_MAX, CertifiedHeader, take_certified_header
from ledger.core.merkle import NODE_BYTES, PROOF_NODES_MAX, leaf_hash, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["HANDOVER_BYTES_MAX", "BadHandover", "Handover", "follow", "take_handover"]

HANDOVER_BYTES_MAX: Final = ENTRY_BYTES_MAX + 1 + PROOF_NODES_MAX * NODE_BYTES + CERTIFIED_HEADER_BYTES_MAX


class BadHandover(ValueError):
    """A handover that does not follow from the committee before it; the text says why."""


@dataclass(frozen=True, slots=True)
class Handover:
    """`entry`, a ROTATE, is the last leaf of the log under `head`, the last block of its epoch."""

    entry: Entry
    path: tuple[bytes, ...]
    head: CertifiedHeader

    def __post_init__(self) -> None:
        _ = self.rotate
        if not self.head.header.count:
            # Otherwise a later block without entries would prove the same ROTATE a second time.
            raise WireError("handover: the block has no entries")
        if len(self.path) > PROOF_NODES_MAX or any(len(node) != NODE_BYTES for node in self.path):
            raise WireError("handover: the path is longer than any log's, or a node has not 32 bytes")

    @property
    def rotate(self) -> Rotate:
        """What the entry says."""
        if not isinstance(self.entry.action, Rotate):
            raise WireError("handover: the entry is no ROTATE")
        return self.entry.action

    @property
    def epoch(self) -> int:
        """The epoch that this ends."""
        return self.head.header.epoch

    def successor(self, committee: Committee) -> Committee:
        """The next epoch's committee, if `committee`, this one's, made the ROTATE final; else `BadHandover`.

        That the ROTATE itself was allowed is not asked here: a committee that orders a false one has more than f liars,
        and every auditor finds it.
        """
        header = self.head.header
        if header.epoch != committee.epoch:
            raise BadHandover(f"it ends epoch {header.epoch}, not {committee.epoch}")
        leaf = leaf_hash(self.entry.encode())
        if not verify_inclusion(header.tree_size - 1, header.tree_size, leaf, self.path, header.log_root):
            raise BadHandover("the ROTATE is not the last entry of the header's log")
        if not self.head.verify(committee):
            raise BadHandover(
                f"{committee.quorum} witnesses of epoch {committee.epoch} did not make it final"
            )
        return Committee(committee.network_id, committee.epoch + 1, self.rotate.witnesses)

    def encode(self) -> bytes:
        """Entry, length of the path (1 byte), path, certified header."""
        return b"".join((self.entry.encode(), bytes((len(self.path),)), *self.path, self.head.encode()))

    @staticmethod
    def decode(data: bytes) -> Handover:
        """The handover in `data`; any other bytes are a `WireError`."""
        handover, end = take_handover(data, 0)
        if end != len(data):
            raise WireError(f"handover: {len(data) - end} bytes too many")
        return handover


def take_handover(data: bytes, at: int) -> tuple[Handover, int]:
    """The handover that begins at byte `at`, and where it ends."""
    entry, at = take_entry(data, at)
    reader = Reader(data[at : at + HANDOVER_BYTES_MAX], "handover")
    size = reader.remaining
    path = tuple(reader.take(NODE_BYTES) for _ in range(reader.uint(1)))
    handover = Handover(entry, path, take_certified_header(reader))
    return handover, at + size - reader.remaining


def follow(committee: Committee, handovers: Iterable[Handover]) -> Committee:
    """The committee after `handovers`, each of which must follow from the one before; `BadHandover` else."""
    for handover in handovers:
        committee = handover.successor(committee)
    return committee
