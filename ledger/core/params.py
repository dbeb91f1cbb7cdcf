"""The rules that a network may change on its way: fees, time, and their own version (SPEC.md §4.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.core.amounts import AMOUNT_MAX
from ledger.core.encoding import WireError

__all__ = ["PROTOCOL_VERSION", "SLOT_TIMEOUT_MS_MAX", "VERSION_MAX", "Params"]

PROTOCOL_VERSION: Final = 1
"""The rules that this software knows. A block under a higher `Params.version` is not its to judge."""
VERSION_MAX: Final = (1 << 16) - 1
SLOT_TIMEOUT_MS_MAX: Final = 600_000


@dataclass(frozen=True, slots=True)
class Params:
    """What every entry and every slot is measured by; `WireError` if a field is out of range.

    `fee_min` and `dispute_fee` in micro-credits: the least fee of any entry, and of a DISPUTE.
    """

    version: int = PROTOCOL_VERSION
    fee_min: int = 0
    dispute_fee: int = 0
    slot_timeout_ms: int = 1000

    def __post_init__(self) -> None:
        _check_range(self.version, 1, VERSION_MAX, "version")
        _check_range(self.fee_min, 0, AMOUNT_MAX, "fee_min")
        _check_range(self.dispute_fee, 0, AMOUNT_MAX, "dispute_fee")
        _check_range(self.slot_timeout_ms, 1, SLOT_TIMEOUT_MS_MAX, "slot_timeout_ms")


def _check_range(value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise WireError(f"parameters: {what} is {value}, allowed are {least} to {most}")
