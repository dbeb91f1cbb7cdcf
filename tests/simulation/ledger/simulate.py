"""Run the campaigns over many seeds, on every core.

    python -m tests.simulation.ledger.simulate --seeds 2000
    python -m tests.simulation.ledger.simulate --campaign "n=4, one liar" --seed 17 --verbose

The first runs all campaigns and controls; the second replays one run and prints every step.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TYPE_CHECKING

from tests.simulation.ledger.campaigns import CAMPAIGNS, CONTROLS, Outcome, plan_of, play, shrink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.simulation.ledger.plan import Plan

__all__ = ["main", "run_all", "run_control", "run_seeds", "shares"]

SEEDS_PER_JOB = 5
FAILURES_SHOWN_MAX = 10


def run_seeds(campaign: str, seeds: list[int], *, brief: bool = False) -> list[Outcome]:
    """One job of a campaign."""
    return [play(campaign, plan_of(campaign, seed, brief=brief), seed) for seed in seeds]


def run_control(control: str) -> Outcome:
    """Seeds of a control until the right check catches it; the last outcome if none does."""
    outcome = Outcome(control, -1, "ok", "no seed was run")
    for seed in range(CONTROLS[control].seeds_max):
        outcome = play(control, plan_of(control, seed), seed)
        if outcome.check in CONTROLS[control].checks:
            break
    return outcome


def shares(seeds: int) -> dict[str, int]:
    """How many of all the seeds each campaign gets."""
    whole = sum(share for _, share in CAMPAIGNS.values())
    return {name: max(1, round(seeds * share / whole)) for name, (_, share) in CAMPAIGNS.items()}


def run_all(seeds: int, workers: int) -> Iterator[list[Outcome]]:
    """The outcomes of all campaigns and controls, as they come."""
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs: list[Future[Outcome] | Future[list[Outcome]]] = [
            pool.submit(run_control, name) for name in CONTROLS
        ]
        for name, count in shares(seeds).items():
            for first in range(0, count, SEEDS_PER_JOB):
                numbers = list(range(first, min(count, first + SEEDS_PER_JOB)))
                jobs.append(pool.submit(run_seeds, name, numbers))
        for job in as_completed(jobs):
            done = job.result()
            yield done if isinstance(done, list) else [done]


def main() -> int:
    """0 if every run ended well and every control was caught."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=2000, help="how many runs, over all campaigns")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--campaign", choices=[*CAMPAIGNS, *CONTROLS], help="whose seed to replay")
    parser.add_argument("--seed", type=int, help="replay this seed of the campaign, and no other")
    parser.add_argument("--verbose", action="store_true", help="print every step of the replay")
    parser.add_argument("--brief", action="store_true", help="the replay is of a brief plan, as in the tests")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller plan that fails as well")
    arguments = parser.parse_args()
    if (arguments.campaign is None) != (arguments.seed is None):
        parser.error("--campaign and --seed go together")
    if arguments.campaign is not None:
        plan = plan_of(arguments.campaign, arguments.seed, brief=arguments.brief)
        return replay(arguments.campaign, plan, arguments.seed, arguments)
    began_s = time.monotonic()
    outcomes: dict[str, list[Outcome]] = {name: [] for name in [*CAMPAIGNS, *CONTROLS]}
    total, failures = sum(shares(arguments.seeds).values()) + len(CONTROLS), 0
    for batch in run_all(arguments.seeds, max(1, arguments.workers)):
        for outcome in batch:
            outcomes[outcome.campaign].append(outcome)
            if outcome.campaign in CAMPAIGNS and outcome.check != "ok":
                failures += 1
                if failures <= FAILURES_SHOWN_MAX:
                    tell(f"\nFAIL {outcome.detail}\n     {command(outcome)}")
        done = sum(len(found) for found in outcomes.values())
        tell(f"\r{done} of {total} runs, {failures} failed, {time.monotonic() - began_s:.0f} s", end="")
    tell("")
    is_good = table(outcomes)
    tell(f"{total} runs in {time.monotonic() - began_s:.0f} s on {arguments.workers} cores")
    return 0 if is_good else 1


def table(outcomes: dict[str, list[Outcome]]) -> bool:
    """The final table; whether everything is as it must be."""
    is_good = True
    for name in CAMPAIGNS:
        bad = [outcome for outcome in outcomes[name] if outcome.check != "ok"]
        is_good &= not bad
        checks = ", ".join(sorted({outcome.check for outcome in bad}))
        tell(f"{'FAIL' if bad else 'ok  '} {name}: {len(outcomes[name])} runs, {len(bad)} failed {checks}")
    for name, control in CONTROLS.items():
        found = outcomes[name][-1]
        is_caught = found.check in control.checks
        is_good &= is_caught
        how = f"caught by '{found.check}' at seed {found.seed}" if is_caught else "NOT CAUGHT"
        tell(f"{'ok  ' if is_caught else 'FAIL'} control: {name}: {how} (of at most {control.seeds_max})")
    return is_good


def replay(campaign: str, plan: Plan, seed: int, arguments: argparse.Namespace) -> int:
    """One run again, and how it ends."""
    outcome = play(campaign, plan, seed, tell if arguments.verbose else None)
    tell(f"{outcome.check} {outcome.detail}\ntrace {outcome.trace}")
    if arguments.shrink and outcome.check != "ok":
        tell(f"smaller: {shrink(campaign, plan, outcome.check)}")
    return 0 if outcome.check == "ok" else 1


def command(outcome: Outcome, *, brief: bool = False) -> str:
    """What replays this run."""
    place = f'--campaign "{outcome.campaign}" --seed {outcome.seed}{" --brief" if brief else ""}'
    return f"python -m tests.simulation.ledger.simulate {place} --verbose"


def tell(text: str, end: str = "\n") -> None:
    sys.stdout.write(text + end)
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
