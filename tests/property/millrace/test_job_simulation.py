"""A job under every kind of worker, from seeds: it ends, accepts each unit once, and believes no liar (SPEC.md §12)."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from typing import Any

import pytest

from executor.core.outcome import Outcome, Status
from ledger.core.keys import AccountId
from millrace.core import job_events as said
from millrace.core.cost import unit_cost
from millrace.core.job import Job
from millrace.core.job_units import UNIT_TRANSITIONS, UnitState
from millrace.core.lease import LocalProtocolError, Wake
from millrace.core.messages import VerdictCode

FUEL_MAX = 1_000_000
PRICE = 1_000_000


def truth(unit: int) -> Outcome:
    return Outcome(Status.OK, output=b"%d" % unit, fuel=1000 + unit)


class World:
    """Workers that answer after random delays: honest, lying (each in its own way), flaky, slow, or dying."""

    def __init__(
        self, seed: int, *, characters: str, units: int, replicas: int, window: int, amount: int
    ) -> None:
        self.rng = random.Random(seed)
        self.job = Job(units, replicas, random.Random(seed))
        self.units = units
        self.window = window
        self.amount = amount
        self.now_s = 0.0
        self.queue: list[tuple[float, int, Any]] = []
        self.count = 0
        self.characters = {AccountId(bytes([n + 1]) * 32): kind for n, kind in enumerate(characters)}
        self.live: set[AccountId] = set()
        self.out: Counter[tuple[AccountId, int]] = Counter()
        self.answers: dict[tuple[AccountId, int], Outcome] = {}
        self.paid: Counter[AccountId] = Counter()
        self.accepted: dict[int, Outcome] = {}
        self.failed: dict[int, str] = {}
        self.cut: set[AccountId] = set()
        self.finished = False

    def later(self, delay_s: float, event: Any) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now_s + delay_s, self.count, event))

    def run(self) -> None:
        self.begin()
        self.go_on()

    def begin(self) -> None:
        waiting = len(self.characters)
        self.feed(said.Expecting(waiting))
        for n, worker in enumerate(self.characters):
            self.later(
                self.rng.random(), said.WorkerJoined(worker, worker, self.window, self.amount, 1, PRICE)
            )
            self.later(1.0 + n / 100, said.Expecting(waiting - n - 1))
            if self.characters[worker] == "d":
                self.later(2 + 5 * self.rng.random(), said.WorkerGone(worker, "killed"))

    def go_on(self) -> None:
        steps = 0
        while self.queue and not self.finished:
            steps += 1
            assert steps < 100_000, "the job does not end"
            self.now_s, _, event = heapq.heappop(self.queue)
            if isinstance(event, said.Committed | said.Delivered) and event.worker not in self.live:
                continue
            if isinstance(event, said.WorkerJoined):
                self.live.add(event.worker)
            if isinstance(event, said.WorkerGone):
                self.live.discard(event.worker)
            self.feed(event)

    def feed(self, event: Any) -> None:
        for action in self.job.feed(event, self.now_s):
            self.act(action)
        for worker in self.live:
            assert sum(self.out[worker, unit] for unit in range(self.units)) <= self.window

    def act(self, action: said.JobAction) -> None:
        match action:
            case said.SendUnits(worker, units):
                for unit in units:
                    self.out[worker, unit] += 1
                    assert self.out[worker, unit] == 1, "a unit twice at one worker"
                    self.answers[worker, unit] = self.answer(worker, unit)
                    self.later(self.delay(worker), said.Committed(worker, (unit,)))
            case said.AskUnits(worker, units):
                for unit in units:
                    self.later(
                        self.rng.random() / 10, said.Delivered(worker, unit, self.answers[worker, unit])
                    )
            case said.JudgeUnits(worker, judgements):
                for item in judgements:
                    self.out[worker, item.unit] -= 1
                    if item.code is VerdictCode.PAID:
                        self.paid[worker] += unit_cost(item.fuel, PRICE)
                        assert self.answers[worker, item.unit].fuel == item.fuel
                assert self.paid[worker] <= self.amount
            case said.EndLease(worker, _, cut):
                self.live.discard(worker)
                self.later(0.01, said.WorkerGone(worker, "ended"))
                if cut:
                    self.cut.add(worker)
            case said.Arbitrate(unit):
                self.later(0.5, said.Arbitrated(unit, truth(unit)))
            case said.Accepted(event, outcome):
                assert event.unit not in self.accepted
                assert event.unit not in self.failed
                self.accepted[event.unit] = outcome
            case said.Failed(event):
                assert event.unit not in self.accepted
                assert event.unit not in self.failed
                self.failed[event.unit] = event.reason
            case Wake(at_s):
                assert at_s > self.now_s
                self.later(at_s - self.now_s, said.Tick())
            case said.JobDone():
                self.finished = True
            case _:
                pass

    def answer(self, worker: AccountId, unit: int) -> Outcome:
        kind = self.characters[worker]
        if kind == "l" and self.rng.random() < 0.3:
            return Outcome(Status.OK, output=worker, fuel=1000 + unit)
        if kind == "f" and self.rng.random() < 0.3:
            return Outcome(Status.CRASHED)
        return truth(unit)

    def delay(self, worker: AccountId) -> float:
        return self.rng.random() * (200.0 if self.characters[worker] == "s" else 1.0)


CASES = ["hhh", "hhl", "hdl", "hhf", "hhs", "hld", "hhhhllddff", "hsss", "hhll", "hh", "h", "hfd", "hhhsslfd"]


@pytest.mark.parametrize("characters", CASES)
@pytest.mark.parametrize("replicas", [2, 3])
def test_jobs_end_and_believe_no_liar(characters: str, replicas: int) -> None:
    for seed in range(12):
        world = World(seed, characters=characters, units=25, replicas=replicas, window=6, amount=10**6)
        world.run()
        assert world.finished, (seed, world.job.left)
        assert not world.failed, (seed, world.failed)
        assert world.accepted == {unit: truth(unit) for unit in range(25)}
        assert {world.characters[worker] for worker in world.cut} <= {"l"}


def test_honest_workers_are_paid_for_everything_they_showed() -> None:
    for seed in range(12):
        world = World(seed, characters="hhhl", units=30, replicas=2, window=4, amount=10**6)
        world.run()
        assert not any(world.characters[worker] != "l" for worker in world.cut)
        assert sum(world.paid.values()) >= 30


@pytest.mark.parametrize("characters", ["d", "dd", "ddd"])
def test_when_all_are_gone_the_rest_fails_once(characters: str) -> None:
    for seed in range(12):
        world = World(seed, characters=characters, units=200, replicas=2, window=4, amount=10**6)
        world.run()
        assert world.finished
        assert len(world.accepted) + len(world.failed) == 200
        assert all(world.accepted[unit] == truth(unit) for unit in world.accepted)


@pytest.mark.parametrize("characters", ["hhh", "hhl", "hhhhllddff"])
def test_a_held_job_begins_nothing_and_ends_when_let_go(characters: str) -> None:
    for seed in range(12):
        world = World(seed, characters=characters, units=200, replicas=2, window=6, amount=10**6)
        world.later(1.5, said.Hold(True))
        world.run()
        begun = {unit for _, unit in world.out}
        assert not world.finished
        assert 0 < len(world.accepted) <= len(begun) < 200
        if set(characters) == {"h"}:
            assert set(world.accepted) == begun, "what is out is completed"
        world.feed(said.Hold(False))
        world.go_on()
        assert world.finished
        assert world.accepted == {unit: truth(unit) for unit in range(200)}


def test_small_locks_end_leases_and_never_overpay() -> None:
    for seed in range(12):
        world = World(seed, characters="hhhh", units=30, replicas=2, window=4, amount=10)
        world.run()
        assert world.finished
        assert len(world.accepted) + len(world.failed) == 30
        assert max(world.paid.values()) <= 10


def test_the_same_seed_gives_the_same_story() -> None:
    def story(seed: int) -> tuple[object, ...]:
        world = World(seed, characters="hhlsd", units=20, replicas=2, window=4, amount=10**6)
        world.run()
        return world.now_s, dict(world.paid), sorted(world.cut)

    assert story(7) == story(7)


def test_unit_table_has_no_way_out_of_an_end() -> None:
    for (state, _), after in UNIT_TRANSITIONS.items():
        assert state not in (UnitState.ACCEPTED, UnitState.FAILED)
        assert after is not state
    with pytest.raises(LocalProtocolError):
        Job(0, 1, random.Random(0))
    with pytest.raises(LocalProtocolError):
        Job(1, 4, random.Random(0))
