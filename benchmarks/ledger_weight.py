"""How much memory an opened ledger takes: `python -m benchmarks.ledger_weight FOLDER`, one JSON line.

A process of its own, with everything loaded that a witness loads, so that nothing else is weighed.
"""

from __future__ import annotations

import gc
import json
import os
import resource
import sys
import time
from pathlib import Path

import bootstrap.node
from ledger.archive import Archive
from ledger.core.genesis import Genesis
from ledger.store import open_store

__all__ = ["main"]


def main() -> None:
    """Open the ledger in the folder and print what that took."""
    folder = Path(sys.argv[1])
    genesis = Genesis.decode((folder / "genesis").read_bytes())
    assert bootstrap.node.LEDGER
    gc.collect()
    empty_mb, started_s = _resident_mb(), time.perf_counter()
    with open_store(folder / "ledger.db", genesis) as store:
        archive = Archive(store)
        open_s = time.perf_counter() - started_s
        gc.collect()
        print(
            json.dumps(
                {
                    "entries": archive.chain.log.size,
                    "accounts": len(archive.chain.state.accounts()),
                    "empty_mb": empty_mb,
                    "rss_mb": _resident_mb(),
                    "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                    "open_s": open_s,
                }
            )
        )


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


if __name__ == "__main__":
    main()
