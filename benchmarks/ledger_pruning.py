"""What a node that keeps the recent past alone has on disk, beside one that keeps all.

`python -m benchmarks.ledger_pruning [--entries N] [--accounts N] [--per-block N]` from the repository root. Two files
take the same blocks; one lets its ledger begin later at each state root that leaves two above it, whatever their age.
"""

from __future__ import annotations

import argparse
import random
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.ledger_storage import GENESIS, TIME_MS, WITNESS, entries, keep
from ledger.archive import Archive
from ledger.core.block import STATE_ROOT_INTERVAL
from ledger.core.encoding import Kind
from ledger.core.votes import Certificate, sign_vote
from ledger.pruning import Pruner, Retention
from ledger.store import Store, open_store

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock
    from ledger.core.receipt import Receipt


async def nobody(_entry_id: bytes) -> Receipt | None:
    """No entry was signed here."""
    return None


def next_block(archive: Archive, start: int, count: int, accounts: int, chance: random.Random) -> FinalBlock:
    """A final block of the next entries."""
    chain = archive.chain
    waiting = [(b"", entry) for entry in entries(start, count, accounts, chance)]
    made = chain.build(chain.tip.block_hash, chain.tip.slot + 1, TIME_MS, waiting)
    chain.add(made)
    vote = sign_vote(WITNESS, chain.committee, Kind.FINAL, slot=made.tip.slot, block_hash=made.tip.block_hash)
    made.certificate = Certificate.from_votes((vote,), chain.committee)
    return chain.finalise(made.tip.block_hash)[0]


def used_bytes(store: Store) -> int:
    """Pages that hold something."""
    page, pages, free = (
        int(store.database.read(f"PRAGMA {name}")[0][0])
        for name in ("page_size", "page_count", "freelist_count")
    )
    return page * (pages - free)


def measure(folder: Path, count: int, accounts: int, per_block: int) -> None:
    """Print both files' sizes as they grow."""
    chance = random.Random(2)
    moved_s: list[float] = []
    steps_s: list[float] = []
    with open_store(folder / "full.db", GENESIS) as full, open_store(folder / "recent.db", GENESIS) as recent:
        first, second = (Archive(store, in_thread=False) for store in (full, recent))
        pruner = Pruner(second, nobody, Retention(history_ms=0))
        for start in range(0, count, per_block):
            block = next_block(first, start, min(per_block, count - start), accounts, chance)
            keep(first, (block,))
            second.chain.accept(block, is_verified=lambda _entry, _key: True)
            keep(second, (block,))
            height = block.header.height
            if height % STATE_ROOT_INTERVAL:
                continue
            base = pruner.due()
            if base is not None:
                began = time.perf_counter()
                pruner.move(base)
                moved_s.append(time.perf_counter() - began)
            is_left = True
            while is_left:
                began = time.perf_counter()
                is_left = recent.discard()
                steps_s.append(time.perf_counter() - began)
            sizes = [path.stat().st_size / 1e6 for path in (full.path, recent.path)]
            print(
                f"  {start + per_block:>9,} entries: full {sizes[0]:7.1f} MB, recent {sizes[1]:6.1f} MB, of it used "
                f"{used_bytes(recent) / 1e6:6.1f}; it begins at {recent.first_height:,}"
            )
    print(
        f"  a move of the base: at most {max(moved_s) * 1e3:.0f} ms; a deletion: at most {max(steps_s) * 1e3:.0f} ms"
    )


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, default=100_000)
    parser.add_argument("--accounts", type=int, default=2_000)
    parser.add_argument("--per-block", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), arguments.entries, arguments.accounts, arguments.per_block)


if __name__ == "__main__":
    main()
