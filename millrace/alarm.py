"""One wake-up time that many may move forward: how a shell serves the `Wake` actions of its machines."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Alarm"]


class Alarm:
    """Rings at the earliest time set since it last rang; whoever hears it sets it anew."""

    def __init__(self) -> None:
        self._at_s = math.inf
        self._changed = trio.Event()

    def set(self, at_s: float) -> None:
        """Ring at `at_s` (trio time) or before."""
        if at_s < self._at_s:
            self._at_s = at_s
            self._changed.set()

    async def run(self, ring: Callable[[], None]) -> None:
        """Call `ring` each time, for ever."""
        while True:
            self._changed = trio.Event()
            with trio.move_on_at(self._at_s) as scope:
                await self._changed.wait()
            if scope.cancelled_caught:
                self._at_s = math.inf
                ring()
