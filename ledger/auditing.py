"""A whole ledger file audited on all cores, in a process of its own (SPEC.md §7.2).

The replay itself (`core/audit.py`) is one process's work: each entry depends on those before it. But nine tenths of an
audit are signatures, and whether one holds depends on nothing: those go to a crew (`signatures.py`), while the replay
goes on as if each held. If one does not, the place is found by replaying once more with that very one refused, and so
the report is the serial audit's, whichever process was quicker.

`python -m ledger.auditing FILE` with a genesis record on its standard input prints progress and report as lines of
JSON: the node runs its audits so, and its event loop never waits for one.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ledger.core.audit import AuditReport, audit
from ledger.core.encoding import WireError
from ledger.core.genesis import GENESIS_BYTES_MAX, Genesis
from ledger.core.keys import peer_id
from ledger.database import StoreError
from ledger.reading import LedgerFile
from ledger.signatures import SignatureCrew

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.audit import Base
    from ledger.core.block import FinalBlock

__all__ = ["Progress", "audit_file", "audit_on_all_cores", "cores_here", "report_fields"]

Progress: TypeAlias = Callable[[int, int, int, int], None]
"""(blocks done, blocks in all, entries done, cores in use), after every block."""

PROGRESS_ENTRIES: Final = 2_000
PROGRESS_BLOCKS: Final = 200
"""So many entries or blocks stand between two lines of progress, or a little more."""
BALANCES_SHOWN_MAX: Final = 1_000
_NICE: Final = 10
"""How far an audit stands back behind the node that asked for it."""


def cores_here() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def audit_on_all_cores(
    genesis: Genesis,
    blocks: Callable[[], Iterable[FinalBlock | bytes]],
    progress: Callable[[int, int], None] | None = None,
    *,
    cores: int | None = None,
    base: Base | None = None,
) -> AuditReport:
    """`audit` of the ledger that `blocks()` reads from its beginning, on so many `cores`: the same report.

    `blocks` is called a second time only if a signature is wrong.
    """
    with SignatureCrew((cores or cores_here()) - 1) as crew:
        report = audit(genesis, blocks(), progress, check=crew.check, base=base)
        wrong = crew.first_wrong()
    if wrong is None:
        return report
    numbers = itertools.count()
    return audit(genesis, blocks(), check=lambda *_: next(numbers) != wrong, base=base)


def audit_file(
    path: Path, genesis: Genesis, progress: Progress | None = None, *, cores: int | None = None
) -> AuditReport:
    """Audit the ledger file at `path`, which is only read, and may be in use by a node meanwhile.

    What is final when the audit begins is audited. `StoreError` if the file cannot be read.
    """
    used = cores or cores_here()
    with LedgerFile(path, genesis) as file:

        def told(done: int, entries: int) -> None:
            if progress is not None:
                progress(done, file.height - file.first_height + 1, entries, used)

        return audit_on_all_cores(genesis, file.blocks, told, cores=used, base=file.base)


def report_fields(report: AuditReport) -> dict[str, Any]:
    """A report as the local API and the command line say it (SPEC.md §16): peer ids, hex, micro-credits."""
    violation = report.violation
    return {
        "ok": report.ok,
        "violation": None
        if violation is None
        else {
            "rule": violation.rule.value,
            "detail": violation.detail,
            "height": violation.height,
            "slot": violation.slot,
            "entry": violation.entry,
            "log_index": violation.log_index,
        },
        "base_height": report.base_height,
        "base_proven": report.base_proven,
        "height": report.height,
        "blocks": report.blocks,
        "entries": report.entries,
        "kinds": dict(report.kinds),
        "accounts": len(report.balances),
        "balances_sum": sum(report.balances.values()),
        "limits": report.limits,
        "locks_open": report.locks_open,
        "locked": report.locked,
        "paid": report.paid,
        "refunded": report.refunded,
        "fees": report.fees,
        "epoch": report.epoch,
        "decrees": report.decrees,
        "tree_size": report.tree_size,
        "log_root": report.log_root.hex(),
        "head_hash": report.head_hash.hex(),
        "head_time_ms": report.head_time_ms,
        "balances": [
            {"account": peer_id(account), "balance": balance}
            for account, balance in sorted(report.balances.items())[:BALANCES_SHOWN_MAX]
        ],
    }


def _main(path: Path) -> int:
    """Audit `path` against the genesis record on standard input; lines of JSON say how it goes and what is found."""
    os.nice(_NICE)
    told = [0, 0]

    def progress(done: int, total: int, entries: int, cores: int) -> None:
        if done < total and entries - told[1] < PROGRESS_ENTRIES and done - told[0] < PROGRESS_BLOCKS:
            return
        told[:] = done, entries
        _say({"event": "progress", "done": done, "total": total, "entries": entries, "cores": cores})

    try:
        genesis = Genesis.decode(sys.stdin.buffer.read(GENESIS_BYTES_MAX + 1))
        report = audit_file(path, genesis, progress)
    except (WireError, StoreError) as error:
        _say({"event": "error", "why": str(error)})
        return 1
    _say({"event": "report", **report_fields(report)})
    return 0


def _say(event: dict[str, Any]) -> None:
    print(json.dumps(event), flush=True)


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1])))
