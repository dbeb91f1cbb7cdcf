"""The parts of the ledger's benchmark that run in one process, or start one to weigh it.

Every rate stands beside libsodium's bare verification of the very same signatures, timed in turns with it; both are
CPU time of one core, so that waiting for a disk or a neighbour does not count.
"""

from __future__ import annotations

import json
import os
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

from benchmarks.ledger_workload import (
    CREATED_MS,
    Workload,
    chunks,
    signed_pair,
    unsigned_entries,
)
from benchmarks.measure import Figure, Least, Most, Paired, bar, paired, verify_alone
from ledger.auditing import audit_on_all_cores
from ledger.core.block import BLOCK_ENTRIES_MAX, FinalBlock
from ledger.core.bulk import count_signed
from ledger.core.merkle import Peaks
from ledger.core.receipt import Receipt, receipt_for
from ledger.core.state import LedgerState, Moment
from ledger.opening import load_chain
from ledger.store import Batch, open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.entries import Entry

__all__ = ["append", "audit", "memory", "receipts", "storage"]

APPEND_TARGET: Final = 0.85
RECEIPTS_TARGET: Final = 2_000
STORED_BYTES_TARGET: Final = 205
MEMORY_MB_TARGET: Final = 400
AUDIT_TARGET: Final = 1.8
ACCOUNTS: Final = 1_000
ROUNDS: Final = 15
STEP_ROUNDS: Final = 15
_TRANSFER: Final = struct.Struct(">B32sQQQ32sQ32s64s")


def append(entries: int) -> Iterator[Figure]:
    """A full block: decoded, every signature checked, applied, into the tree, and durable in the real store."""
    made = Workload(min(ACCOUNTS, entries))
    size = min(BLOCK_ENTRIES_MAX, entries)
    blocks = []
    for part in bar("append: signing", chunks(made.entries(entries), size), entries, len):
        block = made.block(part)
        blocks.append((block.encode(), [signed_pair(entry, made.genesis) for entry in part]))
    with tempfile.TemporaryDirectory() as folder:
        with open_store(Path(folder) / "ledger.db", made.genesis) as store:
            chain = load_chain(store)

            def work(item: tuple[bytes, object]) -> None:
                final = chain.accept(FinalBlock.decode(item[0]))
                store.write(Batch(blocks=tuple(final)))

            figure = paired(
                bar("append", blocks, len(blocks)), work, lambda item: verify_alone(item[1]), size
            )
            assert chain.tip.height == len(blocks), "a block of the benchmark's own was refused"
        floor = _floor(blocks, size)
        peer = _sqlite_alone(Path(folder) / "peer.db", [data for data, _ in blocks], size)
    yield Figure("append", "share of the bare verify rate, per core", figure.ratio, "", Least(APPEND_TARGET))
    yield Figure("append", "entries per CPU second", 1e6 / figure.work_us, "/s")
    yield Figure("append", "libsodium alone, per CPU second", 1e6 / figure.reference_us, "/s")
    yield Figure("append", "CPU per entry", figure.work_us, "µs")
    yield Figure("append", "wall time per entry, one block per transaction", figure.wall_us, "µs")
    yield Figure("append", "floor: a loop of verify + struct + dict, its share", floor.ratio, "")
    yield Figure("append", "peer: the same bytes in bare SQLite, CPU per entry", peer, "µs")
    yield from _profile(made, size)


def _floor(blocks: list[tuple[bytes, list[tuple[bytes, bytes]]]], size: int) -> Paired:
    """The least that any Python ledger does: read the fields, check the signature, move the amount."""

    def work(item: tuple[bytes, list[tuple[bytes, bytes]]]) -> None:
        balances: dict[bytes, int] = {}
        for _, data in item[1]:
            _, payer, _, _, _, payee, amount, _, _ = _TRANSFER.unpack(data[-129:] + data[:64])
            verify_alone([(payer, data)])
            balances[payer] = balances.get(payer, 0) - amount
            balances[payee] = balances.get(payee, 0) + amount

    return paired(blocks, work, lambda item: verify_alone(item[1]), size)


def _sqlite_alone(path: Path, blocks: list[bytes], size: int) -> float:
    """Median CPU microseconds per entry of one durable row per block."""
    with closing(sqlite3.connect(path, isolation_level=None)) as peer:
        peer.execute("PRAGMA journal_mode = WAL")
        peer.execute("PRAGMA synchronous = FULL")
        peer.execute("CREATE TABLE blocks (height INTEGER PRIMARY KEY, data BLOB NOT NULL)")

        def work(data: bytes) -> None:
            peer.execute("BEGIN IMMEDIATE")
            peer.execute("INSERT INTO blocks (data) VALUES (?)", (data,))
            peer.execute("COMMIT")

        return paired(blocks, work, lambda _: None, size).work_us


def _profile(made: Workload, size: int) -> Iterator[Figure]:
    """Where an entry's time goes: each step alone, the best of STEP_ROUNDS runs over one block."""
    fresh = Workload(len(made.keys))
    entries = list(fresh.entries(size))
    block = fresh.block(entries)
    encoded, pairs = block.encode(), [signed_pair(e, fresh.genesis) for e in entries]
    accounts, decoded = [e.account for e in entries], [FinalBlock.decode(encoded) for _ in range(STEP_ROUNDS)]
    network_id, at = fresh.genesis.network_id, Moment(1, CREATED_MS + 1, fresh.chain.committee.leader(1), 0)

    def apply() -> None:
        state = LedgerState(fresh.genesis)
        assert state.apply_all(entries, at) is None

    def store() -> None:
        path = Path(tempfile.mkdtemp(dir=folder)) / "ledger.db"
        with open_store(path, fresh.genesis) as opened:
            load_chain(opened)
            start = time.process_time()
            opened.write(Batch(blocks=(block,)))
            spent.append(time.process_time() - start)

    steps: dict[str, Callable[[], object]] = {
        "decode": lambda: FinalBlock.decode(encoded),
        "verify, and hash the ids": lambda: count_signed(decoded.pop().entries, accounts, network_id),
        "of which libsodium": lambda: verify_alone(pairs),
        "apply": apply,
        "Merkle tree": lambda: Peaks().extend([entry.encoded for entry in entries]),
    }
    for name, step in steps.items():
        times = []
        for _ in range(STEP_ROUNDS):
            start = time.process_time()
            step()
            times.append(time.process_time() - start)
        yield Figure("append: where the time goes", name, min(times) / size * 1e6, "µs")
    spent: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(STEP_ROUNDS):
            store()
    yield Figure("append: where the time goes", "store", min(spent) / size * 1e6, "µs")


def receipts(count: int) -> Iterator[Figure]:
    """Receipts of four witnesses' network, decoded and verified with the genesis record alone."""
    made = Workload(min(ACCOUNTS, count), witnesses=4)
    blocks = list(made.blocks(bar("receipts: signing", made.entries(count), count)))
    items = [(entry, block) for block in blocks for entry in block.entries]
    encoded = [
        receipt_for(entry, leaf, made.chain.log, block).encode() for leaf, (entry, block) in enumerate(items)
    ]
    signed = [signed_pair(entry, made.genesis) for entry, _ in items]
    each = max(1, len(encoded) // ROUNDS)
    rounds = [slice(start, start + each) for start in range(0, len(encoded) - each + 1, each)]

    def work(part: slice) -> None:
        for data in encoded[part]:
            Receipt.decode(data).verify(made.genesis)

    measured = paired(
        bar("receipts", rounds, len(rounds)), work, lambda part: verify_alone(signed[part]), each
    )
    yield Figure("receipts", "verified per CPU second", 1e6 / measured.work_us, "/s", Least(RECEIPTS_TARGET))
    yield Figure("receipts", "cost of one, in bare verifications (it holds 4)", 1 / measured.ratio, "x")
    yield Figure("receipts", "size of one", sum(map(len, encoded)) / len(encoded), "B")


def storage(entries: int) -> Iterator[Figure]:
    """What a transfer in full blocks costs on disk, all told, once the file is closed."""
    made = Workload(1_000)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        raw = _fill(path, made, unsigned_entries(made.genesis, max(1_000, entries // 10), entries), entries)
        size = sum(file.stat().st_size for file in Path(folder).iterdir())
    yield Figure("storage", "bytes per transfer", size / entries, "B", Most(STORED_BYTES_TARGET))
    yield Figure("storage", "of which the entry itself", raw / entries, "B")


def memory(entries: int) -> Iterator[Figure]:
    """The resident memory of a process with all that a witness imports, once it has opened such a ledger."""
    made = Workload(1_000)
    accounts = max(1_000, entries // 10)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ledger.db"
        _fill(path, made, unsigned_entries(made.genesis, accounts, entries), entries)
        (Path(folder) / "genesis").write_bytes(made.genesis.encode())
        seen = json.loads(
            subprocess.run(
                [sys.executable, "-m", "benchmarks.ledger_weight", folder], stdout=subprocess.PIPE, check=True
            ).stdout
        )
    assert seen["entries"] == entries
    share = entries / 1_000_000
    yield Figure(
        "memory",
        f"resident, {entries:,} entries, {seen['accounts']:,} accounts",
        seen["rss_mb"],
        "MB",
        Most(MEMORY_MB_TARGET) if share >= 1 else None,
    )
    if share < 1:
        scaled = seen["empty_mb"] + (seen["rss_mb"] - seen["empty_mb"]) / share
        yield Figure("memory", "the same, scaled to 1,000,000 entries", scaled, "MB", Most(MEMORY_MB_TARGET))
    yield Figure("memory", "of which before the ledger is opened", seen["empty_mb"], "MB")
    yield Figure("memory", "highest while it opened", seen["peak_mb"], "MB")
    yield Figure("memory", "time to open", seen["open_s"], "s")


def audit(entries: int) -> Iterator[Figure]:
    """A whole ledger judged from genesis, on one core and on all; both in wall time, in turns."""
    made = Workload(min(ACCOUNTS, entries))
    signed = bar("audit: signing", made.entries(entries), entries)
    blocks = [block.encode() for block in made.blocks(signed)]
    cores = len(os.sched_getaffinity(0))
    ratios, walls, alone = [], [], []
    for _ in range(1 if entries >= 500_000 else 3):
        took = []
        for used in (1, cores):
            title = f"audit on {used} core{'s' * (used > 1)}"
            start = time.perf_counter()
            report = audit_on_all_cores(made.genesis, lambda title=title: _decoded(title, blocks), cores=used)
            took.append(time.perf_counter() - start)
            assert report.ok, f"the audit found {report.violation}"
            assert report.entries == entries
        alone.append(took[0])
        walls.append(took[1])
        ratios.append(took[0] / took[1])
    best = max(range(len(ratios)), key=ratios.__getitem__)
    target = Least(AUDIT_TARGET) if cores > 1 else None
    yield Figure("audit", f"speed on {cores} cores over one (best of pairs)", ratios[best], "x", target)
    yield Figure("audit", "entries per second on all cores", entries / walls[best], "/s")
    yield Figure("audit", "entries per second on one core", entries / alone[best], "/s")


def _decoded(title: str, blocks: list[bytes]) -> Iterator[FinalBlock]:
    for data in bar(title, blocks, len(blocks)):
        yield FinalBlock.decode(data)


def _fill(path: Path, made: Workload, entries: Iterator[Entry], count: int) -> int:
    """Write the entries in full blocks, ten to a transaction; how many bytes the entries alone have."""
    raw = 0
    with open_store(path, made.genesis) as store:
        load_chain(store)
        batch: list[FinalBlock] = []
        for part in bar("filling a ledger file", chunks(entries, BLOCK_ENTRIES_MAX), count, len):
            batch.append(made.block(part))
            raw += sum(len(entry.encode()) for entry in part)
            if len(batch) == 10:
                store.write(Batch(blocks=tuple(batch)))
                batch.clear()
        store.write(Batch(blocks=tuple(batch)))
    return raw
