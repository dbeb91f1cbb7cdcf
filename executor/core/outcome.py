"""What came of one unit, and the digest over which replicas must agree (SPEC.md §13.5)."""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from executor.core.limits import FUEL_MAX, OUTPUT_BYTES_MAX
from executor.core.wire import DOMAIN, Reader, WireError, sized

__all__ = ["OUTCOME_BYTES_MAX", "STDERR_BYTES_MAX", "Outcome", "Status"]

STDERR_BYTES_MAX: Final = 16 << 10
_VERSION: Final = 1
_HEAD: Final = struct.Struct(">BBIQQQQ")
_JUDGED: Final = struct.Struct(">BIQ")
_U32: Final = 1 << 32
_U64: Final = 1 << 64
OUTCOME_BYTES_MAX: Final = _HEAD.size + 8 + OUTPUT_BYTES_MAX + STDERR_BYTES_MAX


class Status(IntEnum):
    """How a unit ended."""

    OK = 0
    """It returned, or left with exit code 0."""
    EXIT = 1
    """It left with another exit code."""
    TRAP = 2
    """It did something WebAssembly forbids."""
    OUT_OF_FUEL = 3
    OUT_OF_MEMORY = 4
    """It asks for more memory or table space at its start than its limit."""
    OUTPUT_LIMIT = 5
    """It wrote more to stdout than its limit."""
    TIMEOUT = 6
    """Real time ran out: says something about this worker, not about the task."""
    CRASHED = 7
    """Its process ended without a report, or it overflowed the machine stack."""
    REFUSED = 8
    """It did not run; `stderr` says why."""


_MACHINE_DEPENDENT: Final = frozenset((Status.TIMEOUT, Status.CRASHED, Status.REFUSED))


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of one unit. `status`, `exit_code`, `output` and `fuel` are judged; the rest is this worker's word.

    `exit_code` is an unsigned 32-bit number, `cpu_s` and `wall_s` are kept in whole microseconds, `stderr` is a
    diagnostic of at most STDERR_BYTES_MAX bytes. `WireError` when a field is out of range.
    """

    status: Status
    exit_code: int = 0
    output: bytes = b""
    fuel: int = 0
    stderr: bytes = b""
    cpu_s: float = 0.0
    wall_s: float = 0.0
    memory_peak_bytes: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.exit_code < _U32 or not 0 <= self.memory_peak_bytes < _U64:
            raise WireError("outcome: a number is out of range")
        if not 0 <= self.fuel <= FUEL_MAX:
            raise WireError(f"outcome: fuel {self.fuel}, allowed are 0 to {FUEL_MAX}")
        if len(self.output) > OUTPUT_BYTES_MAX or len(self.stderr) > STDERR_BYTES_MAX:
            raise WireError("outcome: output or stderr is over its limit")
        if not (0 <= self.cpu_s < 1e9 and 0 <= self.wall_s < 1e9):
            raise WireError("outcome: a duration is out of range")
        object.__setattr__(self, "cpu_s", round(self.cpu_s * 1e6) / 1e6)
        object.__setattr__(self, "wall_s", round(self.wall_s * 1e6) / 1e6)

    @property
    def deterministic(self) -> bool:
        """Whether every honest worker must report the same digest for the same task."""
        return self.status not in _MACHINE_DEPENDENT

    def digest(self) -> bytes:
        """SHA-256 over status, exit code, fuel and output: what replicas commit to and are compared by."""
        judged = _JUDGED.pack(self.status, self.exit_code, self.fuel)
        return hashlib.sha256(DOMAIN + b"outcome\0" + judged + self.output).digest()

    def encode(self) -> bytes:
        """The canonical bytes."""
        head = _HEAD.pack(
            _VERSION,
            self.status,
            self.exit_code,
            self.fuel,
            round(self.cpu_s * 1e6),
            round(self.wall_s * 1e6),
            self.memory_peak_bytes,
        )
        return head + sized(self.output, 4) + sized(self.stderr, 4)

    @staticmethod
    def decode(data: bytes) -> Outcome:
        """The outcome in `data`; anything but canonical bytes is a `WireError`."""
        reader = Reader(data, "outcome")
        version, status, exit_code, fuel, cpu_us, wall_us, peak = _HEAD.unpack(reader.take(_HEAD.size))
        if version != _VERSION:
            raise WireError(f"outcome: version {version}; known is {_VERSION}")
        if status not in Status.__members__.values():
            raise WireError(f"outcome: status {status} is not known")
        output = reader.blob(4, OUTPUT_BYTES_MAX)
        stderr = reader.blob(4, STDERR_BYTES_MAX)
        reader.end()
        if cpu_us >= 10**15 or wall_us >= 10**15:
            raise WireError("outcome: a duration is out of range")
        return Outcome(Status(status), exit_code, output, fuel, stderr, cpu_us / 1e6, wall_us / 1e6, peak)
