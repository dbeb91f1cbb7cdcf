"""What this witness signed in slots that are not settled, and whether it can know that this is all (SPEC.md §6).

A witness must never contradict a vote of its own. Its disk remembers them; but a database restored from an old copy
does not know what it has forgotten. So after every start the other witnesses are asked first, and what was signed is
what either side remembers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.core.committee import Committee
    from ledger.core.encoding import Kind
    from ledger.core.keys import AccountId
    from ledger.core.votes import Vote

__all__ = ["RECALL_S", "OwnVotes"]

RECALL_S: Final = 1.0
"""How long after its start a witness waits for the memory of all others; then as many as make a quorum with it do."""


@dataclass(frozen=True, slots=True)
class _Memory:
    """What one other witness answered: its last final slot, and the slot that it is in."""

    final_slot: int
    slot: int


class OwnVotes:
    """The votes of one witness in one epoch above the last final slot, by kind and slot."""

    __slots__ = ("_abstain_until_slot", "_committee", "_memories", "_recall_until_s", "_votes", "knows_all")

    def __init__(self, committee: Committee, now_s: float, *, asks: bool) -> None:
        """With `asks`, nothing may be signed until enough of the other witnesses said what they remember."""
        self._committee = committee
        self._votes: dict[tuple[Kind, int], Vote] = {}
        self._abstain_until_slot = 0
        self._memories: dict[AccountId, _Memory] = {}
        self._recall_until_s = now_s + RECALL_S
        self.knows_all = not asks or committee.n == 1
        """Whether the others were asked, and enough of them answered. A witness alone has nobody to ask."""

    @property
    def has_forgotten(self) -> bool:
        """Whether a vote came back that was not on disk: the database is an old copy."""
        return self._abstain_until_slot > 0

    def __contains__(self, place: tuple[Kind, int]) -> bool:
        return place in self._votes

    def get(self, kind: Kind, slot: int) -> Vote | None:
        """The own vote of that kind in `slot`."""
        return self._votes.get((kind, slot))

    def of_kind(self, kind: Kind) -> list[Vote]:
        """Every own vote of that kind, in the order in which they were cast."""
        return [vote for (kind_, _), vote in self._votes.items() if kind_ is kind]

    def of_slot(self, slot: int) -> Iterator[Vote]:
        """Every own vote in `slot`."""
        yield from [vote for (_, at), vote in self._votes.items() if at == slot]

    def may_cast(self, kind: Kind, slot: int) -> bool:
        """Whether a vote of that kind in `slot` is certain to contradict none that was cast before."""
        return self.knows_all and (kind, slot) not in self._votes and slot >= self._abstain_until_slot

    def keep(self, vote: Vote) -> None:
        """Remember a vote that is being cast, or that the disk held."""
        self._votes[vote.kind, vote.slot] = vote

    def remember(self, vote: Vote) -> bool:
        """Take back a vote with our own valid signature; True if it was forgotten here.

        Then there may be more of that kind: nothing is signed in slots up to this one.
        """
        if (vote.kind, vote.slot) in self._votes:
            return False
        self._votes[vote.kind, vote.slot] = vote
        self._abstain_until_slot = max(self._abstain_until_slot, vote.slot + 1)
        return True

    def hear(self, peer: AccountId, final_slot: int, slot: int) -> None:
        """Another witness of this epoch said all that it remembers of us; the votes themselves were given before."""
        if peer in self._committee:
            self._memories[peer] = _Memory(final_slot, slot)

    def lacks(self, peer: AccountId) -> bool:
        """Whether what `peer` remembers is still waited for."""
        return not self.knows_all and peer in self._committee and peer not in self._memories

    def wakes_at_s(self, now_s: float) -> float | None:
        """When fewer answers than all will do; None once that is past, or does not matter any more."""
        return None if self.knows_all or now_s >= self._recall_until_s else self._recall_until_s

    def conclude(self, final_slot: int, now_s: float) -> bool:
        """Whether by this call enough memories have come together. A memory counts once we are as far as its owner.

        What is settled there cannot be remembered there; here nothing is signed in settled slots either.
        """
        if self.knows_all:
            return False
        counted = [memory for memory in self._memories.values() if memory.final_slot <= final_slot]
        others = self._committee.n - 1
        needed = others if now_s < self._recall_until_s else self._committee.quorum - 1
        if len(counted) < needed:
            return False
        self.knows_all = True
        if self.has_forgotten:
            # Votes that reached none of those who answered were cast in slots that the network had opened. More
            # than f name a slot at least as high as this one, so it is no liar's.
            slots = sorted((memory.slot for memory in counted), reverse=True)
            reached = slots[min(self._committee.faults, len(slots) - 1)]
            self._abstain_until_slot = max(self._abstain_until_slot, reached + 1)
        return True

    def settle(self, final_slot: int) -> None:
        """Slots up to `final_slot` are settled."""
        self._votes = {place: vote for place, vote in self._votes.items() if place[1] > final_slot}
