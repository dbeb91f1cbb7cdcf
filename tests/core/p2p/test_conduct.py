"""Patience with a peer is a number that runs out (SPEC.md §10.6)."""

from __future__ import annotations

from ledger.core.keys import AccountId
from p2p.core.advertbook import Reason
from p2p.core.conduct import (
    BAR_MS,
    INVALID_MAX,
    INVALID_POINTS,
    POINTS_MAX,
    REASON_POINTS,
    Conduct,
    RateLimit,
)

ONE, TWO, THREE = (AccountId(bytes((number,)) * 32) for number in (1, 2, 3))


def test_every_reason_has_its_points() -> None:
    assert set(REASON_POINTS) == set(Reason)
    assert all(REASON_POINTS[reason] == 0 for reason in (Reason.REPEAT, Reason.FULL))


def test_so_many_invalid_messages_end_the_link_and_bar_the_peer() -> None:
    conduct = Conduct()
    cuts = [conduct.charge(ONE, INVALID_POINTS, 0) for _ in range(INVALID_MAX)]
    assert cuts == [False] * (INVALID_MAX - 1) + [True]
    assert conduct.barred(ONE, BAR_MS - 1)
    assert not conduct.barred(ONE, BAR_MS)
    assert not conduct.barred(TWO, 0)


def test_points_fade() -> None:
    conduct = Conduct()
    conduct.charge(ONE, INVALID_POINTS, 0)
    assert conduct.points(ONE, 4_000) == INVALID_POINTS - 4
    assert conduct.points(ONE, 60_000) == 0
    assert conduct.points(TWO, 0) == 0
    for second in range(1_000):
        assert not conduct.charge(ONE, 1, second * 1_000)


def test_a_clock_that_steps_back_forgives_nothing() -> None:
    conduct = Conduct()
    conduct.charge(ONE, POINTS_MAX - 1, 10_000)
    assert conduct.points(ONE, 0) == POINTS_MAX - 1
    assert conduct.charge(ONE, 1, 0)


def test_no_points_no_record() -> None:
    conduct = Conduct(peers_max=1)
    assert not conduct.charge(ONE, 0, 0)
    conduct.charge(TWO, 5, 0)
    conduct.charge(ONE, 0, 0)
    assert conduct.points(TWO, 0) == 5


def test_a_full_table_forgets_the_least_and_keeps_the_barred() -> None:
    conduct = Conduct(peers_max=2)
    conduct.charge(ONE, POINTS_MAX, 0)
    conduct.charge(TWO, 50, 0)
    conduct.charge(THREE, 5, 0)
    assert conduct.barred(ONE, 0)
    assert conduct.points(TWO, 0) == 0
    assert conduct.points(THREE, 0) == 5


def test_rate_limit_lets_a_burst_through_and_then_one_at_a_time() -> None:
    limit = RateLimit(burst=3, interval_ms=1_000)
    assert [limit.take(ONE, 0) for _ in range(5)] == [True, True, True, False, False]
    assert [limit.take(ONE, 1_000) for _ in range(2)] == [True, False]
    assert limit.take(TWO, 0)
    assert [limit.take(ONE, 60_000) for _ in range(4)] == [True, True, True, False]


def test_rate_limit_survives_a_clock_that_was_set_back() -> None:
    limit = RateLimit(burst=2, interval_ms=1_000)
    assert limit.take(ONE, 3_600_000)
    assert [limit.take(ONE, 0) for _ in range(3)] == [True, True, False]


def test_rate_limit_forgets_whoever_was_quiet_the_longest() -> None:
    limit = RateLimit(burst=1, interval_ms=1_000, keys_max=2)
    assert limit.take(ONE, 0)
    assert limit.take(TWO, 0)
    assert not limit.take(ONE, 0)
    assert limit.take(THREE, 0)
    assert not limit.take(ONE, 0)
    assert limit.take(TWO, 0)
