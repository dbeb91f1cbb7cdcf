"""The proposals of slots that are not settled: few per slot, each once, judged once (SPEC.md §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from ledger.core.block import Proposal
    from ledger.core.encoding import NetworkId

__all__ = ["PROPOSALS_PER_SLOT_MAX", "PROPOSAL_SLOTS_AHEAD_MAX", "Proposals"]

PROPOSAL_SLOTS_AHEAD_MAX: Final = 8
PROPOSALS_PER_SLOT_MAX: Final = 2
"""An honest leader signs one; a second is kept because the quorum may have notarised that one."""


class Proposals:
    """Signed blocks by slot and hash, and which of them break a rule. The caller has checked their signatures."""

    __slots__ = ("_network_id", "_slots", "rejected")

    def __init__(self, network_id: NetworkId) -> None:
        self._network_id = network_id
        self._slots: dict[int, dict[bytes, Proposal]] = {}
        self.rejected: dict[bytes, str] = {}
        """Proposals that break a rule, and which one."""

    def slots(self) -> list[int]:
        """The slots of which proposals are kept, in order."""
        return sorted(self._slots)

    def of(self, slot: int) -> Mapping[bytes, Proposal]:
        """The proposals of one slot by the hashes of their blocks."""
        return self._slots.get(slot, {})

    def find(self, block_hash: bytes) -> Proposal | None:
        """The proposal of that block, of whichever slot."""
        for kept in self._slots.values():
            if block_hash in kept:
                return kept[block_hash]
        return None

    def keep(self, proposal: Proposal) -> None:
        """Keep one more."""
        block_hash = proposal.header.hash(self._network_id)
        self._slots.setdefault(proposal.header.slot, {})[block_hash] = proposal

    def keep_only(self, slot: int, wanted: Collection[bytes | None]) -> None:
        """Of a passed slot, keep those that somebody stands for."""
        kept = self._slots.get(slot, {})
        self._slots[slot] = {name: proposal for name, proposal in kept.items() if name in wanted}

    def settle(self, final_slot: int) -> None:
        """Slots up to `final_slot` are settled: forget what was proposed in them."""
        self._slots = {slot: kept for slot, kept in self._slots.items() if slot > final_slot}
        self.rejected.clear()
