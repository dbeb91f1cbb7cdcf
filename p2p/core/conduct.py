"""How long a node puts up with a peer: points for bad messages that fade with time (SPEC.md §10.6).

Honest peers are late now and then: an old sequence costs a point. What no honest node ever passes on, since
it validates before it forwards, costs ten. At POINTS_MAX the link is cut and the peer barred for a while.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from p2p.core.advertbook import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ledger.core.keys import AccountId

__all__ = [
    "BAR_MS",
    "INVALID_MAX",
    "INVALID_POINTS",
    "PEERS_MAX",
    "POINTS_MAX",
    "REASON_POINTS",
    "STALE_POINTS",
    "Conduct",
    "RateLimit",
]

INVALID_POINTS: Final = 10
STALE_POINTS: Final = 1
INVALID_MAX: Final = 20
"""Invalid messages in quick succession that end a link."""
POINTS_MAX: Final = INVALID_MAX * INVALID_POINTS
POINT_FADES_MS: Final = 1_000
BAR_MS: Final = 600_000
PEERS_MAX: Final = 4096

REASON_POINTS: Final[Mapping[Reason, int]] = MappingProxyType(
    {
        Reason.MALFORMED: INVALID_POINTS,
        Reason.WRONG_KIND: STALE_POINTS,  # a later version may speak of things that this one does not know
        Reason.EXPIRED: STALE_POINTS,
        Reason.FUTURE: STALE_POINTS,
        Reason.REPEAT: 0,  # gossip and reconciliation overlap by design
        Reason.OLD_SEQUENCE: STALE_POINTS,
        Reason.RATE: STALE_POINTS,
        Reason.FULL: 0,
        Reason.FORGED: INVALID_POINTS,
        Reason.BAD_BODY: INVALID_POINTS,
    }
)


@dataclass(slots=True)
class _Record:
    points: int
    at_ms: int
    barred_until_ms: int = 0


class Conduct:
    """Points per peer. A bounded table: the record with the fewest points is forgotten first."""

    def __init__(self, peers_max: int = PEERS_MAX) -> None:
        self._records: dict[AccountId, _Record] = {}
        self._peers_max = peers_max

    def charge(self, peer: AccountId, points: int, now_ms: int) -> bool:
        """Add `points` against `peer`; True when this cuts it off (from then until the bar ends)."""
        if points <= 0:
            return False
        record = self._records.get(peer)
        if record is None:
            if len(self._records) >= self._peers_max:
                self._forget(now_ms)
            record = self._records[peer] = _Record(0, now_ms)
        record.points = _faded(record, now_ms) + points
        record.at_ms = now_ms
        if record.points < POINTS_MAX:
            return False
        record.points = 0
        record.barred_until_ms = now_ms + BAR_MS
        return True

    def barred(self, peer: AccountId, now_ms: int) -> bool:
        """Whether links with `peer` are refused now."""
        record = self._records.get(peer)
        return record is not None and record.barred_until_ms > now_ms

    def points(self, peer: AccountId, now_ms: int) -> int:
        """What is held against `peer` now."""
        record = self._records.get(peer)
        return 0 if record is None else _faded(record, now_ms)

    def _forget(self, now_ms: int) -> None:
        least = min(
            self._records,
            key=lambda peer: (
                self._records[peer].barred_until_ms > now_ms,
                _faded(self._records[peer], now_ms),
            ),
        )
        del self._records[least]


class RateLimit:
    """`burst` at once and one more every `interval_ms`, for each key; a bounded table."""

    def __init__(self, *, burst: int, interval_ms: int, keys_max: int = PEERS_MAX) -> None:
        self._allowance_ms = (burst - 1) * interval_ms
        self._interval_ms = interval_ms
        self._keys_max = keys_max
        self._next_ms: dict[bytes | str, int] = {}

    def take(self, key: bytes | str, now_ms: int) -> bool:
        """Whether `key` may act now; a refusal costs it nothing."""
        next_ms = self._next_ms.pop(key, now_ms)
        if next_ms - now_ms > self._allowance_ms + self._interval_ms:
            next_ms = now_ms  # no number of calls leads there: the clock was set back
        if next_ms - now_ms > self._allowance_ms:
            self._next_ms[key] = next_ms
            return False
        if len(self._next_ms) >= self._keys_max:
            # The table is in order of last use: who was quiet the longest has the least to be reminded of.
            del self._next_ms[next(iter(self._next_ms))]
        self._next_ms[key] = max(next_ms, now_ms) + self._interval_ms
        return True


def _faded(record: _Record, now_ms: int) -> int:
    passed = max(0, now_ms - record.at_ms) // POINT_FADES_MS
    return max(0, record.points - passed)
