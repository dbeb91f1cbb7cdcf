"""How fast the ledger is: `python -m benchmarks.ledger [part …] [--json] [--entries N] [--short]`.

Each figure stands beside its target. Rates are compared with libsodium's bare Ed25519 verification, measured in the
same run and in turns with the work, because absolute figures differ between machines and hours and ratios do not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import time
from typing import TYPE_CHECKING, Final

from benchmarks.ledger_committee import finality
from benchmarks.ledger_parts import append, audit, memory, receipts, storage
from benchmarks.measure import table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from benchmarks.measure import Figure

__all__ = ["PARTS", "main"]

AUDIT_ENTRIES: Final = 100_000
LONG_ENTRIES: Final = 1_000_000
SECONDS: Final = 10.0
SHORT_FACTOR: Final = 10
"""A short run does a tenth: enough to see a loss of speed, not to quote."""


def _parts(entries: int, scale: float) -> dict[str, Callable[[], Iterator[Figure]]]:
    def of(count: int) -> int:
        return max(10, int(count * scale))

    return {
        "append": lambda: append(of(40_000)),
        "receipts": lambda: receipts(of(6_000)),
        "storage": lambda: storage(of(100_000)),
        "memory": lambda: memory(of(LONG_ENTRIES)),
        "audit": lambda: audit(of(entries)),
        "committee": lambda: finality(max(1.0, SECONDS * scale)),
    }


PARTS: Final = tuple(_parts(1, 1.0))


def main(argv: list[str] | None = None) -> int:
    """Run the parts and print their figures; the exit code is 0 whether targets are reached or not."""
    parser = argparse.ArgumentParser(prog="benchmarks.ledger", description=__doc__.splitlines()[0])
    parser.add_argument(
        "part", nargs="*", choices=[*PARTS, []], help=f"of {', '.join(PARTS)}; all unless told"
    )
    parser.add_argument("--json", action="store_true", help="one JSON document instead of the table")
    parser.add_argument("--entries", type=int, default=AUDIT_ENTRIES, help="of the audited ledger")
    parser.add_argument("--short", action="store_true", help=f"a {SHORT_FACTOR}th of the work")
    parser.add_argument("--scale", type=float, default=None, help="this share of the work")
    asked = parser.parse_args(argv)
    scale = asked.scale if asked.scale is not None else 1 / SHORT_FACTOR if asked.short else 1.0
    parts = _parts(asked.entries, scale)
    figures: list[Figure] = []
    started_s = time.monotonic()
    for name in asked.part or PARTS:
        new = list(parts[name]())
        figures += new
        if not asked.json:
            print("\n".join(table(new)), flush=True)
    machine = {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "seconds": time.monotonic() - started_s,
    }
    if asked.json:
        document = {"schema": 1, "machine": machine, "figures": [figure.document() for figure in figures]}
        print(json.dumps(document, indent=1))
    else:
        print(f"\n{machine['cores']} cores, Python {machine['python']}, {machine['seconds']:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
