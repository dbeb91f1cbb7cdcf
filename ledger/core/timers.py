"""When a witness gives up on a slot, and when it says things again (SPEC.md §6). Seconds of a clock that only rises."""

from __future__ import annotations

from typing import Final

__all__ = ["REPEAT_S", "REPEAT_S_MAX", "SILENT_TIMEOUT_SHARE", "TIMEOUT_GROWTH", "Timers"]

TIMEOUT_GROWTH: Final = 1.2
TIMEOUT_GROWTH_SLOTS_MAX: Final = 16
"""The slot timer grows with each slot since the last final one, to 18 times its start: whatever the network's delay
is, some slot is long enough for a block."""
SILENT_TIMEOUT_SHARE: Final = 0.125
"""A leader whose last slot was skipped, and who was not heard since, gets this share of the slot timer."""
REPEAT_S: Final = 0.25
REPEAT_S_MAX: Final = 4.0


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
            growth = TIMEOUT_GROWTH ** min(TIMEOUT_GROWTH_SLOTS_MAX, slots_open)
            share = SILENT_TIMEOUT_SHARE if is_leader_silent else 1.0
            timeout_s = slot_timeout_s * growth * share
            self._over_s, self._half_s = now_s + timeout_s, now_s + timeout_s / 2
        if not repeats:
            self._repeat_at_s = None
        elif self._repeat_at_s is None:
            self._repeat_at_s = now_s + self._repeat_s
        times = [at_s for at_s in (self._over_s, self._repeat_at_s) if at_s is not None]
        if self._over_s is not None and self._half_s > now_s:
            times.append(self._half_s)
        return min(times, default=None)
