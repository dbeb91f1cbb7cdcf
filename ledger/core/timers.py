"""When a witness gives up on a slot, and when it says things again (SPEC.md §6). Seconds of a clock that only rises."""

from __future__ import annotations

from typing import Final

__all__ = [
    "CLOCK_AHEAD_MS_MAX",
    "CLOCK_BEHIND_MS_MAX",
    "PACED_ENTRIES_MIN",
    "PACE_S",
    "REPEAT_S",
    "REPEAT_S_MAX",
    "SILENT_TIMEOUT_SHARE",
    "TIMEOUT_GROWTH",
    "Pace",
    "Timers",
    "grown",
    "is_timely",
]

CLOCK_AHEAD_MS_MAX: Final = 5_000
"""How far a block's time may be ahead of a voter's clock; a block further ahead has to wait."""
CLOCK_BEHIND_MS_MAX: Final = 60_000
"""How far a block's time may be behind a voter's clock, or by the slot's timer where that is longer: nobody can order
an entry long after its end, or claim a lock long after its deadline, by a block that bears an old time."""

TIMEOUT_GROWTH: Final = 1.2
TIMEOUT_GROWTH_SLOTS_MAX: Final = 16
"""The slot timer grows with each slot since the last final one, to 18 times its start: whatever the network's delay
is, some slot is long enough for a block."""
SILENT_TIMEOUT_SHARE: Final = 0.125
"""A leader whose last slot was skipped, and who was not heard since, gets this share of the slot timer."""
PACE_S: Final = 0.05
"""How long entries gather in a busy network, from the begin of a slot on: at 750 entries a second a block cost the
witnesses more than its entries did, while one followed the other at once."""
PACE_SHARE_MAX: Final = 1 / 16
"""No more of the slot timer than this: half of what a leader gets that is thought to be silent."""
PACED_ENTRIES_MIN: Final = 8
"""A network whose last block held fewer is not busy: who waits for a single entry is not made to wait longer."""
REPEAT_S: Final = 0.25
REPEAT_S_MAX: Final = 4.0


def grown(slot_timeout: float, slots_open: int) -> float:
    """The timer of a slot, in the unit of `slot_timeout`, so many slots after the last final one."""
    return slot_timeout * TIMEOUT_GROWTH ** min(TIMEOUT_GROWTH_SLOTS_MAX, slots_open)


def is_timely(time_ms: int, now_ms: int, slot_ms: float, *, is_agreed: bool) -> bool:
    """Whether a voter whose clock shows `now_ms` may notarise a block of that time, whose slot takes `slot_ms` (R6.4).

    What a quorum has notarised is old because of the network, not of its leader: it needs no lower bound.
    """
    behind_ms = max(CLOCK_BEHIND_MS_MAX, slot_ms)
    return time_ms <= now_ms + CLOCK_AHEAD_MS_MAX and (is_agreed or time_ms >= now_ms - behind_ms)


class Pace:
    """When the leader of a busy network proposes: entries gather for a moment, and share what a block costs (R6.2)."""

    __slots__ = ("_until_s",)

    def __init__(self) -> None:
        self._until_s = 0.0

    def begin(self, now_s: float, slot_timeout_s: float, entries_before: int) -> None:
        """A slot begins; the block before it held so many entries."""
        is_busy = entries_before >= PACED_ENTRIES_MIN
        self._until_s = now_s + min(PACE_S, slot_timeout_s * PACE_SHARE_MAX) if is_busy else now_s

    def wakes_at_s(self, now_s: float) -> float | None:
        """When the gathering ends; None if it has."""
        return self._until_s if now_s < self._until_s else None


class Timers:
    """The slot timer and the repeat timer of one witness; `arm` after every event."""

    __slots__ = ("_half_s", "_over_s", "_repeat_at_s", "_repeat_s")

    def __init__(self) -> None:
        self._over_s: float | None = None
        self._half_s = 0.0
        self._repeat_at_s: float | None = None
        self._repeat_s = REPEAT_S

    def restart(self, *, is_new_slot: bool) -> None:
        """There was progress: repeats start over, and so does the slot timer in a new slot."""
        self._repeat_s, self._repeat_at_s = REPEAT_S, None
        if is_new_slot:
            self._over_s = None

    def slot_is_over(self, now_s: float) -> bool:
        """Whether the slot timer ran out; it answers yes once."""
        if self._over_s is None or now_s < self._over_s:
            return False
        self._over_s = None
        return True

    def is_half_over(self, now_s: float) -> bool:
        """Whether half of the slot's time is gone: late enough for an empty block, early enough to get it notarised."""
        return self._over_s is not None and now_s >= self._half_s

    def repeat_is_due(self, now_s: float) -> bool:
        """Whether to repeat now; each time the next one is twice as far, up to REPEAT_S_MAX."""
        if self._repeat_at_s is None or now_s < self._repeat_at_s:
            return False
        self._repeat_s = min(REPEAT_S_MAX, self._repeat_s * 2)
        self._repeat_at_s = now_s + self._repeat_s
        return True

    def arm(
        self,
        now_s: float,
        *,
        slot_timeout_s: float,
        runs: bool,
        repeats: bool,
        slots_open: int,
        is_leader_silent: bool,
    ) -> float | None:
        """Start what should run and is not, stop what should not; when to wake, if ever.

        `slot_timeout_s` counts for a slot that begins now; `slots_open` is how many slots have passed since the last
        final one.
        """
        if not runs:
            self._over_s = None
        elif self._over_s is None:
            share = SILENT_TIMEOUT_SHARE if is_leader_silent else 1.0
            timeout_s = grown(slot_timeout_s, slots_open) * share
            self._over_s, self._half_s = now_s + timeout_s, now_s + timeout_s / 2
        if not repeats:
            self._repeat_at_s = None
        elif self._repeat_at_s is None:
            self._repeat_at_s = now_s + self._repeat_s
        times = [at_s for at_s in (self._over_s, self._repeat_at_s) if at_s is not None]
        if self._over_s is not None and self._half_s > now_s:
            times.append(self._half_s)
        return min(times, default=None)
