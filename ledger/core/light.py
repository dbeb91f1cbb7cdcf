"""A reader without the ledger: it follows the committees from genesis and the newest final header (SPEC.md §7.3).

It holds one committee and one header. Whatever it is shown next must be made final by that committee, stand above
that header, and extend that header's log; so its worst source can keep news from it and nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ledger.core.committee import WITNESSES_MAX, Committee
from ledger.core.encoding import Reader, WireError
from ledger.core.evidence import find_fork
from ledger.core.handover import BadHandover
from ledger.core.heads import CertifiedHeader, take_certified_header
from ledger.core.keys import ACCOUNT_BYTES, AccountId
from ledger.core.merkle import verify_consistency

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.core.encoding import NetworkId
    from ledger.core.evidence import Fork
    from ledger.core.genesis import Genesis
    from ledger.core.handover import Handover

__all__ = ["LightClient", "LightFault", "LightRefusal", "SplitView", "compare"]

SAVED_VERSION: Final = 1


class LightFault(StrEnum):
    """Why something is not taken."""

    EPOCH = "epoch"
    """Of another epoch: ask for the handovers up to it."""
    CERTIFICATE = "certificate"
    STALE = "stale"
    """Below what is held already. An honest source that is behind says so too."""
    CONSISTENCY = "consistency"
    """No proof that the log goes on from the one that is held."""
    HANDOVER = "handover"
    SPLIT = "split"
    """It is final, and of another chain than what is held."""


@dataclass(frozen=True, slots=True)
class SplitView:
    """Two final headers that are not of one chain. `fork` is the proof that names liars, where the two suffice."""

    first: CertifiedHeader
    second: CertifiedHeader
    fork: Fork | None


@dataclass(frozen=True, slots=True)
class LightRefusal:
    """Why nothing was taken; nothing changed."""

    fault: LightFault
    detail: str
    split: SplitView | None = None


class LightClient:
    """Follows one network. `saved` is what `save` gave before; `WireError` if it is not, or not of this network."""

    def __init__(self, genesis: Genesis, saved: bytes = b"") -> None:
        self.committee: Committee = genesis.committee
        self.head: CertifiedHeader | None = None
        self._network_id = genesis.network_id
        if saved:
            self._restore(saved)

    @property
    def height(self) -> int:
        """The height of the newest final header known here; 0 before the first."""
        return 0 if self.head is None else self.head.header.height

    def hand_over(self, handover: Handover, consistency: Sequence[bytes] = ()) -> LightRefusal | None:
        """Go on to the next epoch; `consistency` leads from the held header's log to that of the ROTATE's block.

        Until the first `advance` no header is held, and none is after it: the committees alone are followed.
        """
        try:
            successor = handover.successor(self.committee)
        except (BadHandover, WireError) as error:
            fault = LightFault.EPOCH if handover.epoch != self.committee.epoch else LightFault.HANDOVER
            return LightRefusal(fault, str(error))
        refusal = self._judge(handover.head, consistency, is_last=True)
        if refusal is None:
            self.committee = successor
            self.head = None if self.head is None else handover.head
        return refusal

    def advance(self, head: CertifiedHeader, consistency: Sequence[bytes] = ()) -> LightRefusal | None:
        """Take a newer final header of this epoch, with the proof that its log goes on from the held one's."""
        if head.header.epoch != self.committee.epoch:
            detail = f"the header is of epoch {head.header.epoch}, known is {self.committee.epoch}"
            return LightRefusal(LightFault.EPOCH, detail)
        if not head.verify(self.committee):
            detail = (
                f"{self.committee.quorum} witnesses of epoch {self.committee.epoch} did not make it final"
            )
            return LightRefusal(LightFault.CERTIFICATE, detail)
        refusal = self._judge(head, consistency, is_last=False)
        if refusal is None:
            self.head = head
        return refusal

    def save(self) -> bytes:
        """What must survive a restart, so that this reader never goes back."""
        committee = self.committee
        head = b"" if self.head is None else self.head.encode()
        return b"".join(
            (
                bytes((SAVED_VERSION,)),
                self._network_id,
                committee.epoch.to_bytes(4, "big"),
                bytes((committee.n,)),
                *committee.witnesses,
                head,
            )
        )

    def _judge(
        self, head: CertifiedHeader, consistency: Sequence[bytes], *, is_last: bool
    ) -> LightRefusal | None:
        """Whether `head`, made final by this epoch's committee, goes on from the one that is held."""
        held = self.head
        if held is None or held == head:
            return None
        mine, new = held.header, head.header
        split = compare(held, head, self._network_id)
        if split is None and mine.epoch < new.epoch and new.height <= mine.height:
            split = SplitView(held, head, None)  # held is the block that ended the epoch before
        if split is not None:
            return LightRefusal(LightFault.SPLIT, f"at height {new.height} it is of another chain", split)
        if mine.epoch == new.epoch and new.height < mine.height:
            if not is_last:
                return LightRefusal(LightFault.STALE, f"height {new.height}, known is {mine.height}")
            # Above an epoch's last block stand only void ones, which make it final and change nothing (SPEC.md §6).
            if (mine.tree_size, mine.log_root) != (new.tree_size, new.log_root):
                detail = f"the epoch ended at height {new.height}, and went on to {mine.height}"
                return LightRefusal(LightFault.SPLIT, detail, SplitView(held, head, None))
            return None
        if not verify_consistency(mine.tree_size, new.tree_size, consistency, mine.log_root, new.log_root):
            detail = f"no proof that its log of {new.tree_size} goes on from {mine.tree_size}"
            return LightRefusal(LightFault.CONSISTENCY, detail)
        return None

    def _restore(self, saved: bytes) -> None:
        reader = Reader(saved, "light client")
        if reader.uint(1) != SAVED_VERSION or reader.take(len(self._network_id)) != self._network_id:
            raise WireError("light client: saved by another version, or for another network")
        epoch, count = reader.uint(4), reader.uint(1)
        if count > WITNESSES_MAX:
            raise WireError("light client: more witnesses than any committee has")
        witnesses = tuple(AccountId(reader.take(ACCOUNT_BYTES)) for _ in range(count))
        self.committee = Committee(self._network_id, epoch, witnesses)
        self.head = take_certified_header(reader) if reader.remaining else None
        reader.end()


def compare(first: CertifiedHeader, second: CertifiedHeader, network_id: NetworkId) -> SplitView | None:
    """Whether two final headers, verified by the caller, cannot be of one chain: the split, or None.

    None does not prove that they are of one chain; a consistency proof between their logs does.
    """
    fork = find_fork(first, second, network_id)
    low, high = sorted((first.header, second.header), key=lambda header: (header.epoch, header.slot))
    is_ordered = low.tree_size <= high.tree_size
    if low.tree_size == high.tree_size:
        is_ordered = is_ordered and low.log_root == high.log_root
    if low.epoch == high.epoch and low.slot < high.slot:
        is_ordered = is_ordered and low.height < high.height and low.time_ms <= high.time_ms
    return None if fork is None and is_ordered else SplitView(first, second, fork)
