"""What is run: campaigns in which every seed must end well, and controls that must be caught, each by a named check."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ledger.core.holdings import InvariantError
from tests.simulation.ledger.mutants import MUTANTS, applied
from tests.simulation.ledger.plan import Broken, Plan
from tests.simulation.ledger.simulation import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["CAMPAIGNS", "CONTROLS", "Control", "Outcome", "plan_of", "play", "shrink"]

DEFECTS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
    InvariantError,
)
"""What broken code raises: a witness that dies of it has a defect, whatever it was sent."""
WRITES_PER_RUN = 60
"""About as many as the small network of `death at each write` makes: the seed walks through them, before and after."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one run ended: `ok`, or the check that it failed; and the hash of all that happened in it."""

    campaign: str
    seed: int
    check: str
    detail: str = ""
    trace: str = ""


@dataclass(frozen=True, slots=True)
class Control:
    """A plan that breaks the assumptions, or a fault put into the product: a check must see it within some seeds."""

    plan: Plan
    checks: tuple[str, ...]
    seeds_max: int


ONE, FOUR, SEVEN = Plan(n=1, seed=0), Plan(n=4, seed=0), Plan(n=7, seed=0)
LIAR, LIARS = replace(FOUR, liars=("any",)), replace(SEVEN, liars=("any", "any"))
CALM = replace(FOUR, faults=("delay",), gst_s=3.0)

CAMPAIGNS: dict[str, tuple[Plan, int]] = {
    "n=1": (ONE, 3),
    "n=4": (FOUR, 4),
    "n=4, one liar": (LIAR, 5),
    "n=4, one liar, quiet links": (replace(LIAR, faults=("delay", "clock")), 2),
    "n=4, a liar of old blocks": (replace(LIAR, liars=("backdater",)), 1),
    "n=7, two liars": (LIARS, 2),
    "n=4, death at each write": (replace(FOUR, actors=6, wishes=1, faults=("delay",), gst_s=2.0, write=0), 3),
    "n=1, death at each write": (replace(ONE, actors=6, wishes=1, faults=("delay",), gst_s=2.0, write=0), 1),
    "n=4, an old backup": (replace(FOUR, restores=True), 2),
    "n=4, committees change": (replace(FOUR, rotations=3, spares=3), 3),
    "n=4, committees change, one liar": (replace(LIAR, rotations=3, spares=3), 3),
    "n=7, committees change, two liars": (replace(LIARS, rotations=2, spares=2), 1),
    "n=1, committees change": (replace(ONE, rotations=3, spares=3), 1),
    "n=4, a month asleep": (replace(FOUR, leaps=True), 2),
    "n=7, a liar and an old backup": (replace(SEVEN, liars=("any",), restores=True), 1),
}
"""Name, plan, and its share of the seeds."""

CONTROLS: dict[str, Control] = {
    "two of four lie": Control(replace(FOUR, liveness_s=20.0, liars=("equivocator",) * 2), ("fork",), 60),
    "three of seven lie": Control(replace(SEVEN, liveness_s=20.0, liars=("equivocator",) * 3), ("fork",), 60),
    "votes are not persisted": Control(replace(LIAR, liveness_s=20.0, keeps_votes=False), ("vote",), 20),
}
CONTROLS |= {
    name: Control(replace(mutant.plan, mutant=name), mutant.checks, mutant.seeds_max)
    for name, mutant in MUTANTS.items()
}


def plan_of(campaign: str, seed: int, *, brief: bool = False) -> Plan:
    """The plan of one seed of a campaign or control; a brief one has half the time and the clients."""
    plan = CAMPAIGNS[campaign][0] if campaign in CAMPAIGNS else CONTROLS[campaign].plan
    if brief and plan.write is None:
        plan = replace(plan, gst_s=plan.gst_s / 2, actors=plan.actors // 2, wishes=2)
    if plan.write is None:
        return replace(plan, seed=seed)
    return replace(plan, seed=seed // (2 * WRITES_PER_RUN), write=seed % (2 * WRITES_PER_RUN))


def play(campaign: str, plan: Plan, seed: int, log: Callable[[str], None] | None = None) -> Outcome:
    """Run it, and say how it ended."""
    simulation: Simulation | None = None
    try:
        with applied(plan.mutant):
            simulation = Simulation(plan, log=log)
            simulation.run()
    except Broken as broken:
        return Outcome(campaign, seed, broken.check, str(broken), _trace(simulation))
    except DEFECTS as error:
        if log is not None:
            raise
        where = error.__traceback__
        while where is not None and where.tb_next is not None:
            where = where.tb_next
        place = f"{where.tb_frame.f_code.co_name}:{where.tb_lineno}" if where is not None else "?"
        detail = f"{type(error).__name__} in {place}: {error}"
        check = "invariant" if isinstance(error, InvariantError) else "crash"
        return Outcome(campaign, seed, check, detail, _trace(simulation))
    return Outcome(campaign, seed, "ok", "", _trace(simulation))


def _trace(simulation: Simulation | None) -> str:
    return "" if simulation is None else simulation.world.trace_hash()


def shrink(campaign: str, plan: Plan, check: str) -> Plan:
    """A smaller plan that still fails the same check: fewer faults, fewer clients, a shorter time."""
    found = True
    while found:
        found = False
        for smaller in _smaller(plan):
            if play(campaign, smaller, smaller.seed).check == check:
                plan, found = smaller, True
                break
    return plan


def _smaller(plan: Plan) -> Iterator[Plan]:
    for fault in plan.faults:
        yield replace(plan, faults=tuple(other for other in plan.faults if other != fault))
    if plan.liars:
        yield (
            replace(plan, liars=(*plan.liars[:-1], "silent"))
            if plan.liars[-1] != "silent"
            else replace(plan, liars=plan.liars[:-1])
        )
    if plan.actors > 6:
        yield replace(plan, actors=plan.actors // 2)
    if plan.wishes > 1:
        yield replace(plan, wishes=plan.wishes - 1)
    if plan.gst_s > 2.0:
        yield replace(plan, gst_s=plan.gst_s / 2)
