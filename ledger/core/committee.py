"""Who orders entries: the witnesses of one epoch, and how many of them make a quorum (SPEC.md §6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import NetworkId, WireError

if TYPE_CHECKING:
    from ledger.core.keys import AccountId

__all__ = ["WITNESSES_MAX", "Committee"]

WITNESSES_MAX: Final = 64
"""A certificate names its signers in a bitmap of 64 bits."""


@dataclass(frozen=True, slots=True)
class Committee:
    """The witnesses of `epoch` in leader order; `WireError` for none, too many, or one that stands twice.

    Genesis names those of epoch 0; each ROTATE that becomes final names those of the next epoch.
    """

    network_id: NetworkId
    epoch: int
    witnesses: tuple[AccountId, ...]

    def __post_init__(self) -> None:
        if not 1 <= len(self.witnesses) <= WITNESSES_MAX:
            raise WireError(f"committee: {len(self.witnesses)} witnesses, allowed are 1 to {WITNESSES_MAX}")
        if len(set(self.witnesses)) != len(self.witnesses):
            raise WireError("committee: a witness stands twice")

    @property
    def n(self) -> int:
        """How many witnesses there are."""
        return len(self.witnesses)

    @property
    def faults(self) -> int:
        """How many witnesses may lie or fail without harm: f = ⌊(n-1)/3⌋; 0 for n < 4, which only detects."""
        return (self.n - 1) // 3

    @property
    def quorum(self) -> int:
        """How many signatures make a certificate: q = ⌊2n/3⌋ + 1."""
        return 2 * self.n // 3 + 1

    def leader(self, slot: int) -> AccountId:
        """The witness that may propose in `slot`, and that earns its block's fees."""
        return self.witnesses[slot % self.n]

    def __contains__(self, account: object) -> bool:
        return account in self.witnesses
