"""Which block may stand on which, what proves it, and what a witness lacks to see it (SPEC.md §6)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.core.encoding import Kind
from ledger.core.votes import NO_BLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from ledger.core.ballots import Ballots
    from ledger.core.block import Header, Proposal
    from ledger.core.chain import Chain, Tip
    from ledger.core.proposals import Proposals
    from ledger.core.votes import Certificate

__all__ = [
    "SLOTS_PER_ANSWER_MAX",
    "agreed_parent",
    "certificates_from",
    "first_unproven",
    "missing_block",
    "stands_on_agreed",
]

SLOTS_PER_ANSWER_MAX: Final = 32


def stands_on_agreed(header: Header, tip: Tip, ballots: Ballots) -> bool:
    """Whether the parent is final or notarised, and every slot between is skipped (R6.4)."""
    if header.parent_hash not in {tip.block_hash, ballots.notarised(header.parent_slot)}:
        return False
    return all(ballots.skipped(slot) for slot in range(header.parent_slot + 1, header.slot))


def agreed_parent(slot: int, chain: Chain, ballots: Ballots) -> bytes | None:
    """The highest block that a block of `slot` may build on; None while it is not here."""
    for past in range(slot - 1, chain.tip.slot, -1):
        agreed = ballots.notarised(past)
        if agreed is not None and chain.holds(agreed):
            return agreed
        if not ballots.skipped(past):
            return None
    return chain.tip.block_hash


def first_unproven(slot: int, tip: Tip, ballots: Ballots, proposals: Iterable[Proposal]) -> int:
    """The first slot whose certificate is needed: `slot`, unless its `proposals` stand on earlier ones.

    Two witnesses can enter a slot with different certificates: one saw an earlier slot notarised, the other saw it
    skipped. Each refuses the other's proposals until it learns the certificate that these stand on.
    """
    for proposal in proposals:
        header = proposal.header
        if header.parent_hash not in {tip.block_hash, ballots.notarised(header.parent_slot)}:
            return max(header.parent_slot, tip.slot + 1)
        for gap in range(header.parent_slot + 1, header.slot):
            if not ballots.skipped(gap):
                return gap
    return slot


def missing_block(slot: int, tip: Tip, ballots: Ballots, proposals: Proposals) -> bytes:
    """The first agreed block before `slot` that is not here, or NO_BLOCK."""
    for past in range(tip.slot + 1, slot):
        agreed = ballots.notarised(past)
        if agreed is not None and agreed not in proposals.of(past):
            return agreed
    return NO_BLOCK


def certificates_from(first: int, slot: int, ballots: Ballots) -> Iterator[Certificate]:
    """What is known of the slots from `first` to before `slot`, at most SLOTS_PER_ANSWER_MAX of them."""
    for at in range(first, min(slot, first + SLOTS_PER_ANSWER_MAX)):
        for kind in (Kind.NOTAR, Kind.SKIP):
            certificate = ballots.certificate(kind, at)
            if certificate is not None:
                yield certificate
