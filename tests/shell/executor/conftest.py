"""One runner with the real sandbox for all tests that only run units; those that break things open their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from executor.runner import RunnerConfig, open_runner

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from executor.runner import Runner


@pytest.fixture(scope="session")
def cache_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shared, so that each test module compiles its modules once."""
    return tmp_path_factory.mktemp("executor") / "cache"


@pytest.fixture
async def runner(cache_dir: Path) -> AsyncIterator[Runner]:
    async with open_runner(RunnerConfig(cache_dir=cache_dir)) as opened:
        yield opened
