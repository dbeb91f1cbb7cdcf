"""What the ledger takes on disk and in memory, and how long it takes to open.

`python -m benchmarks.ledger_storage [--entries N] [--accounts N] [--per-block N]` from the repository root. Entries are
TRANSFERs of 193 bytes with made-up signatures: the store does not look at them, and signing is not measured here.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import resource
import tempfile
import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ledger.archive import Archive
from ledger.core.encoding import Kind
from ledger.core.entries import Entry, Transfer
from ledger.core.genesis import Genesis
from ledger.core.keys import AccountId, SigningKey
from ledger.core.votes import Certificate, sign_vote
from ledger.store import Batch, open_store

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.block import FinalBlock

PAYERS = 100
TIME_MS = 10
LOOK_UPS = 2_000


@cache
def account(number: int) -> AccountId:
    """An account that nobody has the key of."""
    return AccountId(random.Random(number).randbytes(32))


WITNESS = SigningKey(bytes(31) + b"\1")
GENESIS = Genesis(
    "storage", 0, (WITNESS.account,), tuple((account(number), 10**12) for number in range(PAYERS))
)


def write(path: Path, count: int, accounts: int, per_block: int) -> None:
    """A ledger of `count` entries, as a node writes it: block by block, snapshots and all."""
    chance = random.Random(2)
    with open_store(path, GENESIS) as store:
        archive = Archive(store, in_thread=False)
        chain = archive.chain
        for start in range(0, count, per_block):
            part = entries(start, min(per_block, count - start), accounts, chance)
            waiting = [(b"", entry) for entry in part]
            candidate = chain.build(chain.tip.block_hash, chain.tip.slot + 1, TIME_MS, waiting)
            if candidate.block.header.count != len(part):
                raise RuntimeError("an entry was refused")
            chain.add(candidate)
            vote = sign_vote(
                WITNESS,
                chain.committee,
                Kind.FINAL,
                slot=candidate.tip.slot,
                block_hash=candidate.tip.block_hash,
            )
            candidate.certificate = Certificate.from_votes((vote,), chain.committee)
            keep(archive, tuple(chain.finalise(candidate.tip.block_hash)))


def keep(archive: Archive, blocks: tuple[FinalBlock, ...]) -> None:
    """`Archive.write` for a program without an event loop."""
    coroutine = archive.write(Batch(blocks=blocks))
    try:
        coroutine.send(None)
    except StopIteration:
        return
    raise RuntimeError("the disk refused")


def entries(start: int, count: int, accounts: int, chance: random.Random) -> list[Entry]:
    """The entries `start` to `start` + `count` of the ledger."""
    return [
        Entry(
            account(number % PAYERS),
            1 + number // PAYERS,
            TIME_MS,
            0,
            Transfer(account(PAYERS + number % accounts), 5, chance.randbytes(32)),
            chance.randbytes(64),
        )
        for number in range(start, start + count)
    ]


def drop_snapshots(path: Path) -> None:
    """As if none had ever been written."""
    with open_store(path, GENESIS) as store:
        for found in store.snapshots():
            store.drop_snapshot(found)


def measure_opening(path: Path) -> None:
    """Seconds to open, and the memory of a process that then holds the ledger."""
    before = rss_bytes()
    began = time.perf_counter()
    with open_store(path, GENESIS) as store:
        archive = Archive(store, in_thread=False)
        took = time.perf_counter() - began
        memory = rss_bytes()
        print(
            f"  open: {took:.2f} s from {[found.height for found in store.snapshots()]}, at height {store.height()}"
        )
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(
            f"  memory: {memory / 1e6:.0f} MB, of it the ledger {(memory - before) / 1e6:.0f}; peak {peak / 1e6:.0f}"
        )
        chance = random.Random(3)
        ids = []
        for _ in range(LOOK_UPS):
            _, entry = store.entry(chance.randrange(store.tree_size))
            ids.append(entry.entry_id(GENESIS.network_id))
        look_up("look up an id", [lambda each=each: store.place(each) for each in ids])
        look_up("look up an id that is not there", [lambda: store.place(chance.randbytes(32)) for _ in ids])
        look_up("make a receipt", [lambda each=each: archive.receipt(each) for each in ids[:200]])
        print(f"  memory after: {rss_bytes() / 1e6:.0f} MB")


def look_up(what: str, steps: list[Callable[[], object]]) -> None:
    """Print the median and the 99th percentile of `steps`."""
    times = []
    for step in steps:
        began = time.perf_counter()
        step()
        times.append((time.perf_counter() - began) * 1e3)
    times.sort()
    print(f"  {what}: {times[len(times) // 2]:.2f} ms, 99 % below {times[len(times) * 99 // 100]:.2f} ms")


def rss_bytes() -> int:
    """This process's resident memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def apart(step: Callable[..., None], *arguments: object) -> None:
    """Run `step` in a fresh process, so that memory is its own."""
    process = multiprocessing.get_context("spawn").Process(target=step, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{step.__name__} failed")


def main() -> None:
    """Write a ledger, weigh it, open it with its snapshots and without."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--accounts", type=int, default=100_000)
    parser.add_argument("--per-block", type=int, default=1_000)
    parser.add_argument("--folder", type=Path, default=None)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        path = Path(folder) / "ledger.db"
        print(
            f"{options.entries} entries of 193 bytes, {options.per_block} in a block, {options.accounts} accounts"
        )
        began = time.perf_counter()
        apart(write, path, options.entries, options.accounts, options.per_block)
        print(f"  written in {time.perf_counter() - began:.0f} s")
        with open_store(path, GENESIS) as store:
            snapshots = sum(found.size for found in store.snapshots())
        size = sum(each.stat().st_size for each in Path(folder).iterdir())
        print(f"  on disk: {size / options.entries:.1f} bytes per entry, snapshots of the state included")
        print(
            f"           {(size - snapshots) / options.entries:.1f} without them ({snapshots / 1e6:.1f} MB)"
        )
        apart(measure_opening, path)
        print("  without its snapshots:")
        apart(drop_snapshots, path)
        apart(measure_opening, path)


if __name__ == "__main__":
    main()
