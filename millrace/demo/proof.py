"""Proofs that ask no node: results are computed again in a sandbox of our own, the ledger is replayed from each
node's disk by the auditor, and receipts are verified with the genesis record alone.
"""

from __future__ import annotations

import hashlib
import os
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from executor.core.outcome import Status
from executor.core.task import WasmTask
from executor.runner import RunnerConfig, open_runner
from ledger.core.audit import AuditReport, audit
from ledger.core.entries import Claim, Lock
from ledger.core.receipt import Receipt
from ledger.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from executor.core.limits import Limits
    from executor.runner import Layer
    from ledger.core.block import FinalBlock
    from ledger.core.genesis import Genesis
    from ledger.store import Store
    from millrace.client import Unit

__all__ = ["Ledgers", "LocalRun", "agree", "audit_disks", "check_receipts", "run_locally"]

SLOTS: Final = min(4, os.cpu_count() or 1)


@dataclass(frozen=True, slots=True)
class LocalRun:
    """The same units, run here and now: their outputs, and the sandbox walls that stood around them."""

    outputs: tuple[bytes, ...]
    layers: tuple[Layer, ...]


async def run_locally(
    module: bytes,
    units: Sequence[Unit],
    limits: Limits,
    cache_dir: Path,
    progress: Callable[[int], None],
) -> LocalRun:
    """Run `module` on `units` in this machine's own sandbox, without any network; `progress` gets the units done."""
    sha256 = hashlib.sha256(module).digest()
    outputs: dict[int, bytes] = {}
    async with open_runner(RunnerConfig(cache_dir=cache_dir, slots=SLOTS)) as runner:
        await runner.prepare(module)

        async def run(number: int, unit: Unit) -> None:
            outcome = await runner.run(WasmTask(sha256, args=unit.args, stdin=unit.stdin, limits=limits))
            if outcome.status is not Status.OK:
                raise RuntimeError(f"the local run ended with {outcome.status.name}: {outcome.stderr!r}")
            outputs[number] = outcome.output
            progress(len(outputs))

        async with trio.open_nursery() as nursery:
            for number, unit in enumerate(units):
                nursery.start_soon(run, number, unit)
        return LocalRun(tuple(outputs[number] for number in range(len(units))), runner.layers)


@dataclass(frozen=True, slots=True)
class Ledgers:
    """The audits of every node's copy of the ledger, by the node's name."""

    reports: dict[str, AuditReport]

    @property
    def longest(self) -> AuditReport:
        """The copy with the most blocks."""
        return max(self.reports.values(), key=lambda report: report.blocks)

    def sums_to_zero(self) -> bool:
        """Whether balances and open locks cancel out in every copy."""
        return all(sum(each.balances.values()) + each.locked == 0 for each in self.reports.values())


def audit_disks(genesis: Genesis, ledgers: dict[str, Path], progress: Callable[[int, int], None]) -> Ledgers:
    """Replay every copy from genesis; `progress` gets blocks done and blocks in all."""
    stores = {name: open_store(path, genesis) for name, path in ledgers.items()}
    try:
        total = sum(store.height() for store in stores.values())
        reports: dict[str, AuditReport] = {}
        before = 0
        for name, store in stores.items():
            reports[name] = audit(genesis, _blocks(store), _shifted(progress, before, total))
            before += reports[name].blocks
        return Ledgers(reports)
    finally:
        for store in stores.values():
            store.close()


def agree(genesis: Genesis, ledgers: dict[str, Path], longest: str) -> bool:
    """Whether every copy is a prefix of `longest`: the same block, byte for byte, at each height."""
    with closing(open_store(ledgers[longest], genesis)) as reference:
        for name, path in ledgers.items():
            if name == longest:
                continue
            with closing(open_store(path, genesis)) as store:
                for height in range(1, store.height() + 1):
                    mine, theirs = store.block(height), reference.block(height)
                    # certificates may carry other signers, the ordered log may not differ
                    if mine is None or theirs is None or mine.header != theirs.header:
                        return False
    return True


def check_receipts(genesis: Genesis, encoded: Sequence[bytes]) -> tuple[int, int]:
    """Verify LOCK and CLAIM receipts with nothing but the genesis record; how many there are of each.

    Raises `ReceiptError` or `WireError` at the first one that proves nothing.
    """
    locks = claims = 0
    for data in encoded:
        receipt = Receipt.decode(data)
        receipt.verify(genesis)
        locks += isinstance(receipt.entry.action, Lock)
        claims += isinstance(receipt.entry.action, Claim)
    return locks, claims


def _shifted(progress: Callable[[int, int], None], before: int, total: int) -> Callable[[int, int], None]:
    def shifted(blocks: int, _entries: int) -> None:
        progress(before + blocks, total)

    return shifted


def _blocks(store: Store) -> Iterator[FinalBlock]:
    for height in range(1, store.height() + 1):
        block = store.block(height)
        if block is None:
            raise RuntimeError(f"{store.path}: block {height} is missing")
        yield block
