"""What this machine offers, and for how much: the arithmetic behind its advert (SPEC.md §10).

The machine is measured by one shell function; everything else is plain arithmetic over values.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from p2p.core.adverts import Advert

if TYPE_CHECKING:
    from ledger.core.keys import AccountId
    from millrace.config import NodeConfig

__all__ = ["Capacity", "Machine", "compose_advert", "fuel_price", "measure_machine", "offered"]

SECONDS_PER_HOUR: Final = 3_600
TERA: Final = 10**12
ADVERT_ADDRESSES_MAX: Final = 8
SLOTS_MAX: Final = 64
"""What one runner runs at once; a larger machine runs a second node (another profile)."""
_CGROUP_MEMORY: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What this process may use at all: cores and bytes of memory."""

    cores: int
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Capacity:
    """What the owner lends of it: `slots` units at a time, and how fast one of them runs (fuel per second)."""

    slots: int
    memory_bytes: int
    fuel_per_s: int = 0


def measure_machine() -> Machine:
    """The cores this process may run on and the memory it may use, container limits included."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    for path in _CGROUP_MEMORY:
        try:
            text = path.read_text().strip()
        except OSError:
            continue
        if text.isdigit():
            memory = min(memory, int(text))
    return Machine(cores, memory)


def offered(machine: Machine, cpu_percent: int, memory_percent: int) -> Capacity:
    """The owner's share of `machine`: whole cores, at least one as long as anything is lent, at most SLOTS_MAX."""
    slots = min(SLOTS_MAX, max(1, machine.cores * cpu_percent // 100)) if cpu_percent else 0
    return Capacity(slots, machine.memory_bytes * memory_percent // 100)


def fuel_price(core_hour: int, minimum: int, fuel_per_s: int) -> int:
    """Micro-credits for 10^12 units of fuel, from the price of a core-hour and the measured speed.

    Rounded up, so that an owner never lends below the price that the configuration names.
    """
    if fuel_per_s < 1:
        raise ValueError(f"{fuel_per_s} fuel per second is no speed")
    return -(-max(core_hour, minimum) * TERA // (fuel_per_s * SECONDS_PER_HOUR))


def compose_advert(
    config: NodeConfig, me: AccountId, capacity: Capacity, *, slots_free: int, addresses: tuple[str, ...]
) -> Advert:
    """This node's advert. It names no host, no path and no user: only what the owner chose to publish."""
    return Advert(
        kinds=config.share.kinds,
        owner=me,
        slots_free=slots_free,
        runtimes={"wasm": f"wasmtime {metadata.version('wasmtime').split('.')[0]}"},
        cores=capacity.slots,
        memory_bytes=capacity.memory_bytes,
        rates={"wasm": capacity.fuel_per_s},
        price_per_tfuel=fuel_price(config.price.core_hour, config.price.minimum, capacity.fuel_per_s),
        price_core_hour=max(config.price.core_hour, config.price.minimum),
        name=config.node.name,
        watts=config.energy.watts_full,
        addresses=addresses[:ADVERT_ADDRESSES_MAX],
    )
