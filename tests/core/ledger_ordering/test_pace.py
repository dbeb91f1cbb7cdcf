"""A busy network gathers entries for a moment; a quiet one makes nobody wait (SPEC.md §6, R6.2)."""

from __future__ import annotations

from ledger.core.timers import PACE_S, PACE_SHARE_MAX, PACED_ENTRIES_MIN, Pace


def test_a_quiet_network_waits_for_nothing() -> None:
    pace = Pace()
    pace.begin(10.0, 1.0, PACED_ENTRIES_MIN - 1)
    assert pace.wakes_at_s(10.0) is None


def test_a_busy_one_gathers_for_a_moment_and_no_longer() -> None:
    pace = Pace()
    pace.begin(10.0, 1.0, PACED_ENTRIES_MIN)
    assert pace.wakes_at_s(10.0) == 10.0 + PACE_S
    assert pace.wakes_at_s(10.0 + PACE_S) is None


def test_a_short_slot_is_not_spent_on_waiting() -> None:
    pace = Pace()
    pace.begin(10.0, 0.16, 1000)
    assert pace.wakes_at_s(10.0) == 10.0 + 0.16 * PACE_SHARE_MAX
