"""The buyer's shell: run one job over many leases (SPEC.md §12).

`core/job.py` and `core/lease.py` decide; this module opens streams, moves money and reads the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from executor.core.outcome import Outcome
    from executor.core.task import WasmTask
    from ledger.core.entries import Action
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.receipt import Receipt
    from millrace.core.market import Offer
    from millrace.core.progress import Progress
    from millrace.journal import Journal

__all__ = ["Buyer", "Channel", "JobOrder", "JobReport", "Runner", "Wallet", "run_job"]

LEASE_PROTOCOL: Final = "lease"


class Channel(Protocol):
    """One framed, ordered, bounded stream to a peer (`p2p.host.Channel`)."""

    async def send(self, message: bytes) -> None: ...
    async def receive(self) -> bytes: ...
    async def aclose(self) -> None: ...


class Wallet(Protocol):
    """What the shell needs of `ledger.wallet.Wallet`: an action in, a final receipt out."""

    async def submit(self, action: Action) -> Receipt: ...


class Runner(Protocol):
    """What the shell needs of `executor.runner.Runner`."""

    async def prepare(self, module: bytes) -> object: ...
    async def run(self, task: WasmTask) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Buyer:
    """This node, as far as buying needs it."""

    key: SigningKey
    genesis: Genesis
    open_lease: Callable[[AccountId], Awaitable[Channel]]
    """Opens the `lease` stream to a worker; OSError or TimeoutError if it cannot be reached."""
    wallet: Wallet
    arbiter: Runner
    """Re-executes a unit whose replicas disagree."""
    journal: Journal
    clock_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]


@dataclass(frozen=True, slots=True)
class JobOrder:
    """What to run, how sure to be, and what it may cost at most."""

    module: bytes
    tasks: tuple[WasmTask, ...]
    offers: tuple[Offer, ...]
    """Candidate workers, best first (`core.market.rank`)."""
    cap: int
    """Micro-credits that may ever be locked for this job."""
    replicas: int = 2
    workers_max: int = 8
    timeout_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class JobReport:
    """How a job ended: one outcome per task, None where `failures` says why there is none."""

    job_id: bytes
    outcomes: tuple[Outcome | None, ...]
    failures: dict[int, str]
    paid: int
    locked: int
    liars: tuple[AccountId, ...]


async def run_job(order: JobOrder, buyer: Buyer, notify: Callable[[Progress], None]) -> JobReport:
    """Run every task of `order` on rented peers and verify the results.

    `notify` is called for each event, in order, from this task's thread; it must not block. Raises
    `OverBudget` before anything is sent if the cap does not pay for one unit on each replica.
    """
    raise NotImplementedError
