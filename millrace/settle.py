"""Settling what leases left open: CLAIM for work done, EXPIRE for locks nobody claimed (SPEC.md §12).

The same loop serves the normal end of a lease and the restart after a crash: it reads the journal, looks
at the ledger, and does what is left to do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.state import LockState
    from millrace.journal import Journal
    from millrace.leases import Wallet

__all__ = ["Settler"]


class Settler:
    """Runs beside the node: `async with` a nursery, `nursery.start_soon(settler.run)`."""

    def __init__(
        self,
        journal: Journal,
        wallet: Wallet,
        lock: Callable[[bytes], LockState | None],
        clock_ms: Callable[[], int],
    ) -> None:
        """`lock` reads a lock from the verified local ledger state (`follower.state.lock`)."""

    def poke(self) -> None:
        """Something may be due: look now."""
        raise NotImplementedError

    async def run(self) -> None:
        """Settle what is due, sleep until the next deadline or `poke`, for ever."""
        raise NotImplementedError

    async def settle_all(self, timeout_s: float) -> int:
        """Wait until nothing is due any more or the time is over; how many leases are still open."""
        raise NotImplementedError
