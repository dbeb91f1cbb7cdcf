"""Which evidence is kept: one record of a place, and no more of one liar than are worth the room (SPEC.md §7.4)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from ledger.core.evidence import Fork

if TYPE_CHECKING:
    from ledger.core.committee import Committee
    from ledger.core.evidence import Evidence, Place
    from ledger.core.keys import AccountId

__all__ = ["EVIDENCE_MAX", "FORKS_MAX", "RECORDS_PER_WITNESS_MAX", "Docket"]

EVIDENCE_MAX: Final = 4_096
RECORDS_PER_WITNESS_MAX: Final = 60
"""A witness can sign as many contradictions as it likes: 64 of them may not push each other out."""
FORKS_MAX: Final = 64
_FORK: Final = b""


class Docket:
    """What is kept already. It is given verified records only."""

    __slots__ = ("_counts", "_places")

    def __init__(self) -> None:
        self._places: set[Place] = set()
        self._counts: Counter[bytes] = Counter()

    def __len__(self) -> int:
        return len(self._places)

    def add(self, evidence: Evidence, committee: Committee) -> bool:
        """Whether to keep this record too; `committee` is that of its epoch, under which it holds."""
        who = self._charged(evidence, committee)
        most = FORKS_MAX if who == _FORK else RECORDS_PER_WITNESS_MAX
        full = len(self._places) >= EVIDENCE_MAX or self._counts[who] >= most
        if full or evidence.place in self._places:
            return False
        self._places.add(evidence.place)
        self._counts[who] += 1
        return True

    @staticmethod
    def _charged(evidence: Evidence, committee: Committee) -> AccountId | bytes:
        return _FORK if isinstance(evidence, Fork) else evidence.culprits(committee)[0]
