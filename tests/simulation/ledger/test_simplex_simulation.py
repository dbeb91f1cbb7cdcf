"""A few seeds of every campaign; `python -m tests.simulation.ledger.simplex_simulation --seeds 2000` runs many.

The second control, votes that a crash forgets, forks one seed in some hundred: here it stands as a scripted case, in
`tests/core/ledger_ordering/test_forgotten_votes.py`.
"""

from __future__ import annotations

from typing import Any

import pytest

from tests.simulation.ledger.simplex_simulation import CAMPAIGNS, Plan, outcome

SEEDS = 10
SAFE = {name: plan for name, (plan, is_safe) in CAMPAIGNS.items() if is_safe}


@pytest.mark.parametrize("name", SAFE)
def test_one_chain_and_everything_gets_final(name: str) -> None:
    fields: dict[str, Any] = SAFE[name]
    seeds = SEEDS if fields["n"] < 7 else SEEDS // 2
    assert [outcome(Plan(seed=seed, **fields)) for seed in range(seeds)] == ["ok"] * seeds


def test_more_liars_than_tolerated_fork_the_chain_and_the_check_sees_it() -> None:
    assert "fork" in [outcome(Plan(n=4, liars=2, seed=seed)) for seed in range(SEEDS)]
