"""A worker that lies: it spoils one bit of a share of its results, and bills them as if they were right.

For the demo and for tests. Nothing of it is in the node: `run_node` takes a wrapper around its runner, and a
dishonest operator needs no more than that.
"""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from millrace.node import main as run_peer

if TYPE_CHECKING:
    from executor.core.outcome import Outcome
    from executor.core.task import WasmTask
    from executor.runner import Runner

__all__ = ["LIES_IN_256", "LyingRunner"]

LIES_IN_256: Final = 64
"""Of 256 units, how many it spoils: a quarter. Often enough to meet in a short demo, rare enough to look good."""


class LyingRunner:
    """A runner whose `run` is not to be trusted; everything else is the honest one's."""

    def __init__(self, honest: Runner) -> None:
        self._honest = honest

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the honest runner has
        return getattr(self._honest, name)

    async def run(self, task: WasmTask) -> Outcome:
        """The honest outcome, or one with its last bit turned, as the task's digest has it."""
        outcome = await self._honest.run(task)
        if task.digest()[0] >= LIES_IN_256 or not outcome.output:
            return outcome
        return replace(outcome, output=outcome.output[:-1] + bytes((outcome.output[-1] ^ 1,)))


if __name__ == "__main__":
    sys.exit(run_peer(runner_wrap=LyingRunner))
