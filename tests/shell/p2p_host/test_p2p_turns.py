"""Turns: a lock that a task takes at once when it is free, and in line when it is not."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from p2p.turns import Turns


async def test_a_free_turn_lets_nobody_in() -> None:
    turns, seen = Turns(), list[str]()

    async def other() -> None:
        seen.append("other")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        async with turns:
            seen.append("holder")
        seen.append("done")
    assert seen == ["holder", "done", "other"]


async def test_whoever_waits_gets_it_in_turn() -> None:
    turns, seen = Turns(), list[int]()

    async def take(number: int) -> None:
        async with turns:
            seen.append(number)

    async with trio.open_nursery() as nursery:
        async with turns:
            for number in range(4):
                nursery.start_soon(take, number)
                await trio.testing.wait_all_tasks_blocked()
            assert not seen
        async with turns:  # behind those who were waiting when it came free
            assert seen == [0, 1, 2, 3]


async def test_a_cancelled_wait_leaves_the_turn_to_others() -> None:
    turns = Turns()

    async def wait() -> None:
        async with turns:
            pytest.fail("two hold it")

    async with turns, trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with turns:
        pass
