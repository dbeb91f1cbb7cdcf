"""What work costs: integers only, and the same result for buyer, worker and auditor (SPEC.md §12).

Fuel is metered deterministically and agreed on by replication, so fuel, not time, is what is paid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.core.amounts import AMOUNT_MAX

__all__ = ["FUEL_PER_PRICE", "PRICE_MAX", "Budget", "lock_amount", "unit_cost", "worst_case"]

FUEL_PER_PRICE: Final = 10**12
"""Prices are in micro-credits for this much fuel (one tera-fuel)."""
PRICE_MAX: Final = 1 << 40
LOCK_HEADROOM: Final = 2
"""A lock holds this many times a worker's fair share of the job, so that it can take over lost units."""


def unit_cost(fuel: int, price_per_tfuel: int) -> int:
    """Micro-credits for one unit that burnt `fuel`: rounded up, and never below 1 (R12.6)."""
    if fuel < 0 or not 0 <= price_per_tfuel <= PRICE_MAX:
        raise ValueError(f"fuel {fuel} or price {price_per_tfuel} is out of range")
    return max(1, -(-fuel * price_per_tfuel // FUEL_PER_PRICE))


def worst_case(units: int, replicas: int, fuel_max: int, price_per_tfuel: int) -> int:
    """Micro-credits if every replica of every unit burns its whole fuel limit."""
    return units * replicas * unit_cost(fuel_max, price_per_tfuel)


@dataclass(slots=True)
class Budget:
    """A job's hard cap: the sum of everything ever locked for the job stays at or under it.

    Locks are not given back while the job runs, even when a lease ends unpaid: a lost worker may hold
    vouchers that it has not claimed yet, and a cap that is only probably kept is no cap.
    """

    cap: int
    locked: int = 0

    @property
    def left(self) -> int:
        """Micro-credits that may still be locked."""
        return self.cap - self.locked

    def reserve(self, amount: int) -> bool:
        """Count `amount` as locked if it fits; otherwise change nothing and say False."""
        if amount < 1 or amount > self.left:
            return False
        self.locked += amount
        return True

    def cancel(self, amount: int) -> None:
        """Take back a reservation whose LOCK was never signed."""
        if not 0 <= amount <= self.locked:
            raise ValueError(f"{amount} was not reserved")
        self.locked -= amount


def lock_amount(left: int, *, leases_left: int, executions: int, workers: int, unit_max: int) -> int:
    """Micro-credits to lock for the next of `leases_left` leases, or 0 if not even one unit fits in `left`.

    A lease gets LOCK_HEADROOM times its fair share of the worst case, but leaves an equal part of the
    budget for each lease that may follow. `executions` is units times replicas still to be done, by `workers`
    workers; `unit_max` is one unit's worst cost.
    """
    share = -(-executions // max(1, workers)) * unit_max * LOCK_HEADROOM
    amount = min(share, max(left // max(1, leases_left), unit_max), left, AMOUNT_MAX)
    return amount if amount >= unit_max else 0
