"""What a job asks for, and what can be wrong with it before anything is sent (SPEC.md §12)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from executor.core.limits import Limits
from millrace.core.cost import PRICE_MAX
from millrace.core.job import UNITS_MAX
from millrace.core.market import choose
from millrace.core.terms import MODULE_BYTES_MAX, REPLICAS_MAX

if TYPE_CHECKING:
    from executor.core.task import WasmTask
    from ledger.core.keys import AccountId
    from millrace.core.market import Offer

__all__ = ["JobOrder", "OrderRefused", "OverBudget", "check_order", "usable", "widest_limits"]


class OverBudget(Exception):
    """The cap does not pay for one unit on each replica at its fuel limit; nothing was sent."""


class OrderRefused(Exception):
    """The order itself is wrong (no offers, no units, tasks of another module); nothing was sent."""


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
    lock_span_s: float = 1800.0
    """From now to the locks' expiry: a lost worker's lock comes back after this long."""
    name: str = ""
    """For its caller's own order."""


def usable(offers: tuple[Offer, ...], buyer: AccountId) -> tuple[Offer, ...]:
    """One offer per owner, none of our own, none whose price no terms could carry; `OrderRefused` if none is left."""
    fit = [item for item in offers if item.worker != buyer and item.price_per_tfuel <= PRICE_MAX]
    if not fit:
        raise OrderRefused("there are no offers")
    return tuple(choose(fit, len(fit)))


def check_order(order: JobOrder, sha256: bytes) -> None:
    """`OrderRefused` for what no worker could run; `sha256` is the module's."""
    if not 1 <= len(order.tasks) <= UNITS_MAX:
        raise OrderRefused(f"a job has 1 to {UNITS_MAX} units, not {len(order.tasks)}")
    if not 1 <= len(order.module) <= MODULE_BYTES_MAX:
        raise OrderRefused(f"a module has at most {MODULE_BYTES_MAX} bytes")
    if not 1 <= order.replicas <= REPLICAS_MAX:
        raise OrderRefused(f"1 to {REPLICAS_MAX} replicas, not {order.replicas}")
    if any(task.module_sha256 != sha256 for task in order.tasks):
        raise OrderRefused("a task names another module")


def widest_limits(tasks: tuple[WasmTask, ...]) -> Limits:
    """Limits that hold for every task of the job."""
    return Limits(
        fuel=max(task.limits.fuel for task in tasks),
        memory_bytes=max(task.limits.memory_bytes for task in tasks),
        wall_s=max(task.limits.wall_s for task in tasks),
        output_bytes=max(task.limits.output_bytes for task in tasks),
    )
