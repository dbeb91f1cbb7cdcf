"""What becomes of a gossip message (SPEC.md §10)."""

from __future__ import annotations

from enum import Enum

__all__ = ["Verdict"]


class Verdict(Enum):
    """Deliver and pass on; drop and blame the peer that sent it; drop without blame."""

    ACCEPT = "accept"
    REJECT = "reject"
    IGNORE = "ignore"
