"""What a chain on disk can prove to others: final headers, handovers, receipts (SPEC.md §7)."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from ledger.core.committee import Committee
from ledger.core.handover import Handover
from ledger.core.heads import DESCENDANTS_MAX, CertifiedHeader, certify
from ledger.core.receipt import RECEIPT_BYTES_MAX, REKEYS_MAX, Leaf, Receipt, ReceiptError

if TYPE_CHECKING:
    from ledger.archive import Archive
    from ledger.core.block import FinalBlock
    from ledger.store import Place

__all__ = [
    "certified_header",
    "committee_of",
    "consistency_path",
    "handover_note",
    "handover_of",
    "receipt_of",
]

HANDOVER_NOTE: Final = b"handover"


def handover_note(epoch: int) -> bytes:
    """Under which name a store that began at a snapshot keeps the handover that ended `epoch` before it."""
    return HANDOVER_NOTE + epoch.to_bytes(4, "big")


def certified_header(archive: Archive, height: int) -> CertifiedHeader | None:
    """The header at `height` and what makes it final; None if it is not held, or not yet durably final."""
    store = archive.store
    if not store.first_height <= height <= archive.height:
        return None
    return certify(islice(store.all_blocks(height), DESCENDANTS_MAX + 1))


def handover_of(archive: Archive, epoch: int) -> Handover | None:
    """How `epoch` ended; None if it goes on, or if that was never heard here."""
    place = archive.store.rotation(epoch)
    if place is None:
        kept = archive.store.note(handover_note(epoch))
        return None if kept is None else Handover.decode(kept)
    head = certified_header(archive, place.height)
    if head is None:
        return None
    _, entry = archive.store.entry(place.leaf)
    return Handover(entry, archive.chain.log.inclusion_proof(place.leaf, place.leaf + 1), head)


def committee_of(archive: Archive, epoch: int) -> Committee | None:
    """The witnesses of an epoch, as far as they are known here."""
    present = archive.chain.committee
    if epoch in {0, present.epoch}:
        return archive.genesis.committee if epoch == 0 else present
    before = handover_of(archive, epoch - 1) if epoch < present.epoch else None
    return None if before is None else Committee(present.network_id, epoch, before.rotate.witnesses)


def consistency_path(archive: Archive, old_size: int, size: int) -> tuple[bytes, ...] | None:
    """The proof that the log of `size` goes on from that of `old_size`; None if it is not held here."""
    if size > archive.store.tree_size:
        return None  # perhaps in memory, but not durable
    try:
        return archive.chain.log.consistency_proof(old_size, size)
    except IndexError:
        return None


def receipt_of(archive: Archive, entry_id: bytes) -> Receipt | None:
    """The receipt of a final entry; None while it is not final, or if what proves it is not held here.

    The handovers are left out where the receipt would be longer than any may be: whoever follows the committees can
    read it still.
    """
    place = archive.store.place(entry_id)
    final = None if place is None else _first_final(archive, place.height)
    head = None if final is None else certify([final])
    if place is None or head is None:
        return None
    _, entry = archive.store.entry(place.leaf)
    rekeys = [rekey for rekey in archive.store.rekeys(entry.account) if rekey.leaf < place.leaf]
    if len(rekeys) > REKEYS_MAX:
        return None
    size = head.header.tree_size
    leaves = [_leaf(archive, at, size) for at in (place, *rekeys)]
    handovers = [handover_of(archive, epoch) for epoch in range(head.header.epoch)]
    known = tuple(handover for handover in handovers if handover is not None)
    receipt = Receipt(leaves[0], head, known, tuple(leaves[1:]))
    if len(receipt.encode()) > RECEIPT_BYTES_MAX:
        receipt = Receipt(leaves[0], head, (), tuple(leaves[1:]))
    return receipt if archive.store.first_leaf == 0 or _holds(archive, receipt) else None


def _holds(archive: Archive, receipt: Receipt) -> bool:
    """Whether it proves what it should: where the ledger began at a snapshot, REKEYs from before may lack."""
    try:
        receipt.verify(archive.genesis, archive.chain.committee)
    except ReceiptError:
        return False
    return True


def _first_final(archive: Archive, height: int) -> FinalBlock | None:
    """The first block from `height` on that is final by what it carries."""
    blocks = islice(archive.store.all_blocks(height), DESCENDANTS_MAX + 1)
    return next((block for block in blocks if block.is_final), None)


def _leaf(archive: Archive, place: Place, size: int) -> Leaf:
    _, entry = archive.store.entry(place.leaf)
    return Leaf(entry, place.leaf, archive.chain.log.inclusion_proof(place.leaf, size))
