"""What a witness says again, and what it answers to one that lacks something (SPEC.md §6): messages may be lost."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING, Final

from ledger.core.consensus import RECALLED_VOTES_MAX, RELAYED_ENTRIES_MAX, Ask, Recalled, Relay
from ledger.core.encoding import Kind
from ledger.core.events import PersistVote
from ledger.core.lineage import certificates_from, first_unproven, missing_block

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ledger.core.ballots import Ballots
    from ledger.core.chain import Tip
    from ledger.core.consensus import Message, Recall
    from ledger.core.entries import Entry
    from ledger.core.events import Action
    from ledger.core.keys import AccountId
    from ledger.core.mempool import Mempool
    from ledger.core.own_votes import OwnVotes
    from ledger.core.proposals import Proposals

__all__ = ["ANSWER_GAP_S", "RELAY_GAP_S", "FirstRelays", "Patience", "recalled", "repeats", "supplies"]

ANSWER_GAP_S: Final = 0.05
"""At most one ask of a peer, and one recall, is answered in this time."""
FINAL_VOTES_REPEATED_MAX: Final = 8
RELAY_GAP_S: Final = 0.02
"""Between one relay of clients' entries and the next: what comes meanwhile goes together."""


class Patience:
    """How often one witness is answered: a question that comes again at once may have crossed the answer."""

    __slots__ = ("_answered_s",)

    def __init__(self) -> None:
        self._answered_s: dict[tuple[AccountId, type], float] = {}

    def may_answer(self, peer: AccountId, what: type, now_s: float) -> bool:
        """Whether to answer such a question of `peer` now; asking this counts as answering."""
        if now_s - self._answered_s.get((peer, what), -ANSWER_GAP_S) < ANSWER_GAP_S:
            return False
        self._answered_s[peer, what] = now_s
        return True


def repeats(
    slot: int, tip: Tip, *, ballots: Ballots, proposals: Proposals, own: OwnVotes, pool: Mempool, leads: bool
) -> Iterator[Message]:
    """What a witness in `slot` says again: an ask, its proposal if it leads, its votes, entries that wait."""
    unproven = first_unproven(slot, tip, ballots, proposals.of(slot).values())
    yield Ask(unproven, tip.slot, missing_block(slot, tip, ballots, proposals))
    notar = own.get(Kind.NOTAR, slot)
    mine = None if notar is None else proposals.of(slot).get(notar.block_hash)
    if leads and mine is not None:
        yield mine
    yield from own.of_slot(slot)
    yield from own.of_kind(Kind.FINAL)[-FINAL_VOTES_REPEATED_MAX:]
    waiting = tuple(entry for _, entry in islice(pool.in_order(), RELAYED_ENTRIES_MAX))
    if waiting:
        yield Relay(waiting)


class FirstRelays:
    """Entries that clients handed to this witness alone, perhaps, on their way to the others, who lead the next slots.

    The first leaves at once, those of the next RELAY_GAP_S together. What everybody has been sent meanwhile, in a
    block or by another witness, needs no relay: should that one have lied, `repeats` make up for it.
    """

    __slots__ = ("_due_s", "_fresh")

    def __init__(self) -> None:
        self._fresh: dict[bytes, Entry] = {}
        self._due_s = 0.0

    def take(self, entry: Entry) -> None:
        """An entry that waits here from now on, and came from a client."""
        self._fresh[entry.encoded] = entry

    def drop(self, entries: Iterable[Entry]) -> None:
        """Everybody was sent these."""
        if self._fresh:
            for entry in entries:
                self._fresh.pop(entry.encoded, None)

    def due(self, now_s: float, actions: Iterable[Action], waiting: Mapping[bytes, Entry]) -> Iterator[Relay]:
        """What to relay now: of those that still wait, what no block that is voted for by `actions` takes along."""
        for action in actions if self._fresh else ():
            if isinstance(action, PersistVote) and action.proposal is not None:
                self.drop(action.proposal.entries)
        if not self._fresh or now_s < self._due_s:
            return
        left = [entry for data, entry in self._fresh.items() if data in waiting]
        self._fresh, self._due_s = {}, now_s + RELAY_GAP_S
        for start in range(0, len(left), RELAYED_ENTRIES_MAX):
            yield Relay(tuple(left[start : start + RELAYED_ENTRIES_MAX]))

    @property
    def wakes_at_s(self) -> float | None:
        """When to relay next; None while nothing is to be."""
        return self._due_s if self._fresh else None


def supplies(
    ask: Ask, slot: int, final_slot: int, *, ballots: Ballots, proposals: Proposals
) -> Iterator[Message]:
    """What `ask` lacks and a witness in `slot` has: certificates, and the block."""
    yield from certificates_from(max(ask.slot, final_slot + 1), slot, ballots)
    wanted = proposals.find(ask.block_hash)
    if wanted is not None:
        yield wanted


def recalled(peer: AccountId, recall: Recall, slot: int, final_slot: int, ballots: Ballots) -> Recalled:
    """All that is remembered here of the votes of `peer`; the newest of them if they are many."""
    votes = sorted(ballots.votes_of(peer, recall.final_slot), key=lambda vote: vote.slot, reverse=True)
    return Recalled(recall.epoch, final_slot, slot, tuple(votes[:RECALLED_VOTES_MAX]))
