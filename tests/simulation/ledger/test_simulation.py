"""A few hundred seeds of all campaigns; `make simulate SEEDS=2000` runs many, and every control to its end.

A failure names the command that replays its seed step by step.
"""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import TYPE_CHECKING

import pytest

from tests.simulation.ledger.campaigns import CAMPAIGNS, CONTROLS, plan_of, play, shrink
from tests.simulation.ledger.simulate import command, run_control, run_seeds, shares

if TYPE_CHECKING:
    from collections.abc import Iterator

SEEDS = 150
QUICK_CONTROLS = [name for name, control in CONTROLS.items() if control.seeds_max <= 20]
"""Those that are caught within a few seeds; `make simulate` runs all."""


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(os.cpu_count() or 1, mp_context=get_context("spawn")) as workers:
        yield workers


def test_no_credit_is_lost_and_everything_gets_settled(pool: ProcessPoolExecutor) -> None:
    """All campaigns at once, over all cores."""
    parts = [
        (name, list(range(first, min(count, first + 4))))
        for name, count in shares(SEEDS).items()
        for first in range(0, count, 4)
    ]
    jobs = [pool.submit(run_seeds, name, seeds, brief=True) for name, seeds in parts]
    outcomes = [outcome for job in jobs for outcome in job.result()]
    assert {outcome.campaign for outcome in outcomes} == set(CAMPAIGNS)
    bad = [
        f"{outcome.detail}; {command(outcome, brief=True)}" for outcome in outcomes if outcome.check != "ok"
    ]
    assert not bad, "\n".join(bad)


def test_controls_are_caught_each_by_its_check(pool: ProcessPoolExecutor) -> None:
    for outcome in pool.map(run_control, QUICK_CONTROLS):
        assert outcome.check in CONTROLS[outcome.campaign].checks, (outcome.campaign, outcome.detail)


def test_a_seed_is_the_same_run_in_every_process() -> None:
    """The order of hashed bytes differs between these processes; the run may not."""
    name, seed = "n=7, two liars", 1
    script = (
        "from tests.simulation.ledger.campaigns import plan_of, play;"
        f"print(play({name!r}, plan_of({name!r}, {seed}), {seed}).trace)"
    )
    traces = {
        subprocess.run(
            [sys.executable, "-c", script],
            capture_output=True,
            text=True,
            check=True,
            env={
                **os.environ,
                "PYTHONHASHSEED": hash_seed,
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
        ).stdout.strip()
        for hash_seed in ("1", "2")
    }
    here = play(name, plan_of(name, seed), seed).trace
    assert traces == {here}
    assert play(name, plan_of(name, seed + 1), seed + 1).trace != here


def test_a_failing_plan_is_made_smaller() -> None:
    name = "FINAL after SKIP"
    outcome = run_control(name)
    assert outcome.check == "vote"
    plan = plan_of(name, outcome.seed)
    smaller = shrink(name, plan, "vote")
    assert len(smaller.faults) < len(plan.faults)
    assert play(name, smaller, outcome.seed).check == "vote"
