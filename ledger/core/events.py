"""What a witness's ordering machine is told, and what it asks its shell to do (SPEC.md §6)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock, Proposal
    from ledger.core.entries import Entry
    from ledger.core.evidence import Evidence
    from ledger.core.keys import AccountId
    from ledger.core.state import Refusal
    from ledger.core.votes import Certificate, Vote

__all__ = [
    "Accuse",
    "Action",
    "Broadcast",
    "CatchUp",
    "CaughtUp",
    "EpochOver",
    "Event",
    "Finalised",
    "Judged",
    "Now",
    "PersistVote",
    "Received",
    "Saved",
    "Send",
    "Submitted",
    "Tick",
    "WakeAt",
]


@dataclass(frozen=True, slots=True)
class Now:
    """Two clocks, read by the caller: seconds that only rise, for timers, and Unix milliseconds, for blocks."""

    s: float
    wall_ms: int


@dataclass(frozen=True, slots=True)
class Received:
    """`message` came from `peer` (authenticated by the transport; its content may still be anything)."""

    peer: AccountId
    message: bytes


@dataclass(frozen=True, slots=True)
class Submitted:
    """An entry asks to be ordered; `Judged` answers."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Tick:
    """The time of the last `WakeAt` has come."""


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Blocks that others finalised, in order of height."""

    blocks: tuple[FinalBlock, ...]


Event: TypeAlias = Received | Submitted | Tick | CaughtUp


@dataclass(frozen=True, slots=True)
class PersistVote:
    """Make these durable before any later action of the list is carried out.

    The vote, the block that it notarises, and the certificates learned since the last vote: it rests on them, and
    if every witness forgot one in a crash, liars could withhold the votes to make it again.
    """

    vote: Vote
    proposal: Proposal | None
    certificates: tuple[Certificate, ...] = ()


@dataclass(frozen=True, slots=True)
class Broadcast:
    """Send `message` to every other witness."""

    message: bytes


@dataclass(frozen=True, slots=True)
class Send:
    """Send `message` to one witness."""

    to: AccountId
    message: bytes


@dataclass(frozen=True, slots=True)
class Finalised:
    """The next block of the agreed chain. The last one of a list has a FINAL certificate."""

    block: FinalBlock


@dataclass(frozen=True, slots=True)
class Judged:
    """An entry waits for a block (`refusal` None), or will not get into one, and why."""

    entry_id: bytes
    refusal: Refusal | None


@dataclass(frozen=True, slots=True)
class CatchUp:
    """`source` shows a final block that cannot be reached from here: pull the blocks and feed them as `CaughtUp`."""

    source: AccountId


@dataclass(frozen=True, slots=True)
class Accuse:
    """A witness signed two things that no honest witness signs together."""

    evidence: Evidence


@dataclass(frozen=True, slots=True)
class EpochOver:
    """The last block of `epoch` is final: carry out the rest of the list, then replace this machine.

    The next one is made from the same chain by whoever is in its committee, with this one's waiting entries.
    """

    epoch: int


@dataclass(frozen=True, slots=True)
class WakeAt:
    """Feed a `Tick` at this time (the `Now.s` clock). Only the latest one counts."""

    at_s: float


Action: TypeAlias = (
    PersistVote | Broadcast | Send | Finalised | Judged | CatchUp | Accuse | EpochOver | WakeAt
)


@dataclass(frozen=True, slots=True)
class Saved:
    """What a witness had made durable about slots above its last final block."""

    votes: tuple[Vote, ...] = ()
    proposals: tuple[Proposal, ...] = ()
    certificates: tuple[Certificate, ...] = ()
    final_certificate: Certificate | None = None
    """The last final block's, for witnesses that are behind."""
