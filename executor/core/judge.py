"""The exact judge: replicas of a deterministic unit agree byte for byte, or someone is wrong (SPEC.md §14).

Pure: reveals in, a decision out. Workers commit before anyone reveals, so that none can copy another's answer.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from executor.core.wire import DOMAIN, WireError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "REPLICAS_MAX",
    "SALT_BYTES",
    "Decision",
    "Verdict",
    "check_reveal",
    "commitment",
    "judge",
    "settle",
]

SALT_BYTES: Final = 32
REPLICAS_MAX: Final = 16
_HASH_BYTES: Final = 32


def commitment(unit: bytes, peer: bytes, salt: bytes, outcome_digest: bytes) -> bytes:
    """SHA-256(domain ‖ unit digest ‖ peer account ‖ salt ‖ outcome digest): each part 32 bytes.

    The peer's account is in it, so a copied commitment opens for nobody else.
    """
    for name, part in (("unit", unit), ("peer", peer), ("salt", salt), ("outcome", outcome_digest)):
        if len(part) != _HASH_BYTES:
            raise WireError(f"commitment: {name} has {len(part)} bytes, not {_HASH_BYTES}")
    return hashlib.sha256(DOMAIN + b"commit\0" + unit + peer + salt + outcome_digest).digest()


def check_reveal(committed: bytes, unit: bytes, peer: bytes, salt: bytes, outcome_digest: bytes) -> bool:
    """Whether a reveal opens `committed`; never raises, whatever the bytes are."""
    try:
        return hmac.compare_digest(committed, commitment(unit, peer, salt, outcome_digest))
    except WireError:
        return False


class Verdict(Enum):
    """What to do with a unit now."""

    WAIT = "wait"
    """Replicas that were ordered have not revealed yet."""
    ACCEPT = "accept"
    """All revealed replicas agree, and there are enough of them."""
    REPLICATE = "replicate"
    """Not enough comparable replicas: order `missing` more, from other owners."""
    ARBITRATE = "arbitrate"
    """Replicas disagree: whoever asked runs the unit itself and calls `settle`."""


@dataclass(frozen=True, slots=True)
class Decision:
    """A verdict, the digest it is about, and who is right, wrong or without an answer."""

    verdict: Verdict
    digest: bytes | None = None
    right: frozenset[bytes] = frozenset()
    wrong: frozenset[bytes] = frozenset()
    missing: int = 0


def judge(reveals: Mapping[bytes, bytes | None], ordered: int, needed: int) -> Decision:
    """Decide a unit from `reveals`: peer account → outcome digest, None where a worker timed out or crashed.

    `ordered` replicas were given out, `needed` equal ones accept the unit. Any disagreement goes to the arbiter: a
    majority proves nothing against peers that act together.
    """
    if not 1 <= needed <= ordered <= REPLICAS_MAX or len(reveals) > ordered:
        raise WireError(f"{len(reveals)} reveals of {ordered} replicas, {needed} needed: not a possible unit")
    answers = {peer: digest for peer, digest in reveals.items() if digest is not None}
    digests = set(answers.values())
    if len(digests) > 1:
        return Decision(Verdict.ARBITRATE)
    if len(reveals) < ordered:
        return Decision(Verdict.WAIT)
    if len(answers) < needed:
        return Decision(Verdict.REPLICATE, missing=needed - len(answers))
    return Decision(Verdict.ACCEPT, digests.pop(), right=frozenset(answers))


def settle(reveals: Mapping[bytes, bytes | None], arbiter_digest: bytes) -> Decision:
    """The decision once the arbiter's own run gave `arbiter_digest`: equal answers are right, all others wrong.

    A worker without an answer (None) is neither: it is not paid, and not accused.
    """
    if len(arbiter_digest) != _HASH_BYTES:
        raise WireError("an outcome digest has 32 bytes")
    right = frozenset(peer for peer, digest in reveals.items() if digest == arbiter_digest)
    wrong = frozenset(peer for peer, digest in reveals.items() if digest is not None and peer not in right)
    return Decision(Verdict.ACCEPT, arbiter_digest, right, wrong)
