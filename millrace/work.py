"""The worker's shell: serve leases, run units, and see to it that the work is paid (SPEC.md §12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from executor.core.limits import Limits
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId, SigningKey
    from millrace.journal import Journal
    from millrace.leases import Channel, Runner, Wallet
    from millrace.settle import Settler

__all__ = ["LeaseServer", "WorkPolicy", "Worker"]


@dataclass(frozen=True, slots=True)
class WorkPolicy:
    """On which terms this node works."""

    price_per_tfuel: int
    ceilings: Limits
    slots: int
    leases_max: int = 16
    window_units_max: int = 64
    expiry_margin_ms: int = 60_000


@dataclass(frozen=True, slots=True)
class Worker:
    """This node, as far as working needs it."""

    key: SigningKey
    genesis: Genesis
    wallet: Wallet
    runner: Runner
    journal: Journal
    settler: Settler
    clock_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]


class LeaseServer:
    """Serves the `lease` protocol: pass `handle` to `Host.serve("lease", …)`."""

    def __init__(self, worker: Worker, policy: WorkPolicy) -> None:
        """Starts nothing."""
        self._worker = worker
        self.policy = policy

    @property
    def active(self) -> int:
        """Leases being served now."""
        raise NotImplementedError

    @property
    def slots_free(self) -> int:
        """Units that could start at once."""
        raise NotImplementedError

    def drain(self) -> None:
        """Take no new lease from now on; leases in hand go on."""
        raise NotImplementedError

    async def handle(self, peer: AccountId, channel: Channel) -> None:
        """Serve one stream until its lease has ended; never raises on what the peer sends."""
        raise NotImplementedError
