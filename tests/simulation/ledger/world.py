"""Time, chance and the network of one run: a queue of events, clocks that go wrong, links that lose and delay."""

from __future__ import annotations

import heapq
import struct
from hashlib import sha256
from random import Random
from typing import TYPE_CHECKING

from ledger.core.events import Now
from tests.core.ledger_ordering.machines import WALL_MS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.simulation.ledger.plan import Plan

__all__ = ["Clock", "Network", "World"]

CLOCK_SKEW_MS_MAX = 4_000
CLOCK_SKEW_AFTER_GST_MS_MAX = 400
CLOCK_GRAINS_MS = (1, 1, 100, 500)
"""A coarse clock makes times meet exactly: a block of the very millisecond in which a lock expires."""
ROUNDING_S = 1e-6
_EVENT = struct.Struct(">dHHI")


class World:
    """Events in order of time. Every source of chance has its own stream, so that taking one away leaves the others."""

    def __init__(self, plan: Plan, *, log: Callable[[str], None] | None = None) -> None:
        self.plan = plan
        self.now_s = 0.0
        self.leap_ms = 0
        """What all clocks have leapt forward together: a network that slept for a month."""
        self.events = 0
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0
        self._trace = sha256(repr(plan).encode())
        self._log = log

    def chance(self, name: str) -> Random:
        """A stream of random numbers of its own."""
        return Random(f"{self.plan.seed}/{name}")

    @property
    def is_broken(self) -> bool:
        """Whether faults still happen."""
        return self.now_s < self.plan.gst_s

    def suffers(self, fault: str) -> bool:
        """Whether `fault` may happen now."""
        return self.is_broken and fault in self.plan.faults

    def at(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call it after a delay."""
        self._counter += 1
        heapq.heappush(self._queue, (self.now_s + delay_s, self._counter, call))

    def run_until(self, is_over: Callable[[], bool], end_s: float) -> bool:
        """Let time pass until `is_over` (asked after every event) or `end_s`; whether it is over."""
        while self._queue and self._queue[0][0] <= end_s:
            self.now_s, _, call = heapq.heappop(self._queue)
            self.events += 1
            call()
            if is_over():
                return True
        self.now_s = max(self.now_s, end_s)
        return False

    def note(self, who: str, what: str, data: bytes = b"") -> None:
        """Add a step to the trace, whose hash names the run."""
        self._trace.update(f"{self.now_s!r} {who} {what}".encode() + data)
        if self._log is not None:
            self._log(f"{self.now_s:9.4f} {who:10} {what} {sha256(data).hexdigest()[:8] if data else ''}")

    def note_message(self, sender: int, to: int, message: bytes) -> None:
        """Add a message that arrives: there are many, so they are hashed in binary."""
        self._trace.update(_EVENT.pack(self.now_s, sender, to, len(message)) + message)
        if self._log is not None:
            self._log(
                f"{self.now_s:9.4f} {sender:3}->{to:3} message {message[:1].hex()} {sha256(message).hexdigest()[:8]}"
            )

    def trace_hash(self) -> str:
        """What two runs share only if they did the same at the same times."""
        return self._trace.hexdigest()


class Clock:
    """One node's two clocks. Until GST they are off, drift, and the wall clock may jump; after it they are near."""

    def __init__(self, world: World, name: str, skew_ms_max: int = CLOCK_SKEW_MS_MAX) -> None:
        self._world = world
        self._random = world.chance(f"clock {name}")
        self._is_wrong = "clock" in world.plan.faults
        self._skew_ms_max = skew_ms_max
        self._rate = self._random.uniform(0.97, 1.03) if self._is_wrong else 1.0
        self._grain_ms = self._random.choice(CLOCK_GRAINS_MS)
        self._skew_ms = self._after_ms = 0
        if self._is_wrong:
            self._after_ms = self._random.randint(-CLOCK_SKEW_AFTER_GST_MS_MAX, CLOCK_SKEW_AFTER_GST_MS_MAX)
            self._jump()

    def now(self) -> Now:
        """What both show at this moment."""
        world = self._world
        skew_ms = self._skew_ms if world.is_broken else self._after_ms
        wall_ms = WALL_MS + world.leap_ms + int(world.now_s * 1000) + skew_ms
        return Now(world.now_s * self._rate, wall_ms - wall_ms % self._grain_ms)

    def delay_s(self, at_s: float) -> float:
        """How long it really takes until the rising clock shows `at_s`."""
        return max(0.0, at_s / self._rate - self._world.now_s) + ROUNDING_S

    def _jump(self) -> None:
        self._skew_ms = self._random.randint(-self._skew_ms_max, self._skew_ms_max)
        if self._random.random() < 0.5:
            self._world.at(self._random.uniform(0.5, 4.0), self._jump)


class Network:
    """The links between all nodes. After GST a message arrives once, within 100 ms."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._random = world.chance("network")
        self.loss = self._random.uniform(0.0, 0.15)
        self.delay_s = self._random.uniform(0.01, 0.15)
        self.cut: set[int] = set()
        self.is_one_way = False
        self.messages = 0

    def carry(self, sender: int, to: int, message: bytes, hear: Callable[[], None]) -> None:
        """Take a message from node to node, or lose it."""
        world, chance = self._world, self._random
        self.messages += 1
        if not self.connects(sender, to) or (world.suffers("loss") and chance.random() < self.loss):
            return

        def arrive() -> None:
            world.note_message(sender, to, message)
            hear()

        for _ in range(2 if world.suffers("copies") and chance.random() < 0.1 else 1):
            is_late = world.suffers("delay")
            delay_s = chance.expovariate(1 / self.delay_s) if is_late else chance.uniform(0.02, 0.1)
            world.at(delay_s, arrive)

    def connects(self, sender: int, to: int) -> bool:
        """Whether a message from one to the other can arrive now."""
        if not self._world.is_broken or (sender in self.cut) == (to in self.cut):
            return True
        return self.is_one_way and sender in self.cut

    def part(self, nodes: set[int]) -> None:
        """Cut `nodes` off from the rest, now and then in one direction only."""
        self.cut = nodes
        self.is_one_way = self._random.random() < 0.15
