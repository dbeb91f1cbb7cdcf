"""What one unit may use at most (SPEC.md §13.2): every unit has all four limits, none is optional."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

from executor.core.wire import Reader, WireError

__all__ = [
    "CEILINGS",
    "FUEL_MAX",
    "LIMITS_BYTES",
    "MEMORY_BYTES_MAX",
    "OUTPUT_BYTES_MAX",
    "WALL_S_MAX",
    "Limits",
]

FUEL_MAX: Final = 10**14
MEMORY_BYTES_MAX: Final = 2 << 30
WALL_S_MAX: Final = 3600
OUTPUT_BYTES_MAX: Final = 2 << 20
_LAYOUT: Final = struct.Struct(">QQII")
LIMITS_BYTES: Final = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds for one unit; `WireError` when one is zero or above what the protocol allows.

    `fuel` counts WebAssembly operations as wasmtime does, plus the price of host calls; `memory_bytes` bounds the
    linear memory; `wall_s` (kept in whole milliseconds) is real time on the worker; `output_bytes` bounds stdout.
    """

    fuel: int = 20_000_000_000
    memory_bytes: int = 256 << 20
    wall_s: float = 60.0
    output_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        for name, value, most in (
            ("fuel", self.fuel, FUEL_MAX),
            ("memory_bytes", self.memory_bytes, MEMORY_BYTES_MAX),
            ("output_bytes", self.output_bytes, OUTPUT_BYTES_MAX),
        ):
            if not 1 <= value <= most:
                raise WireError(f"limit {name} is {value}, allowed are 1 to {most}")
        if not 0.001 <= self.wall_s <= WALL_S_MAX:
            raise WireError(f"limit wall_s is {self.wall_s}, allowed are 0.001 to {WALL_S_MAX} seconds")
        object.__setattr__(self, "wall_s", round(self.wall_s * 1000) / 1000)

    def encode(self) -> bytes:
        """24 bytes: fuel u64, memory u64, wall in milliseconds u32, output u32."""
        return _LAYOUT.pack(self.fuel, self.memory_bytes, round(self.wall_s * 1000), self.output_bytes)

    @staticmethod
    def read(reader: Reader) -> Limits:
        """The next 24 bytes of `reader`; `WireError` when a limit is out of range."""
        fuel, memory_bytes, wall_ms, output_bytes = _LAYOUT.unpack(reader.take(LIMITS_BYTES))
        return Limits(fuel, memory_bytes, wall_ms / 1000, output_bytes)

    def exceeds(self, ceilings: Limits) -> str | None:
        """The name of the first limit that is above `ceilings`, or None."""
        for name in ("fuel", "memory_bytes", "wall_s", "output_bytes"):
            if getattr(self, name) > getattr(ceilings, name):
                return name
        return None


CEILINGS: Final = Limits(fuel=10**13, memory_bytes=1 << 30, wall_s=WALL_S_MAX, output_bytes=OUTPUT_BYTES_MAX)
"""What a worker grants at most unless its owner says otherwise."""
