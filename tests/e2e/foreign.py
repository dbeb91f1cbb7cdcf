"""Asking the verifier that somebody wrote from SPEC.md alone, in JavaScript (`tests/vectors/foreign`)."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from ledger.core.audit import AuditRule, audit
from ledger.core.block import FinalBlock
from ledger.core.encoding import WireError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.genesis import Genesis

NEEDS_NODE = [
    pytest.mark.e2e,
    pytest.mark.skipif(shutil.which("node") is None, reason="no `node` on PATH to run the foreign verifier"),
]

REPOSITORY = Path(__file__).parents[2]
VECTORS = REPOSITORY / "tests" / "vectors"
NODE_WAIT_S = 60


def ask(tmp_path: Path, questions: Iterable[list[str]]) -> list[dict[str, Any]]:
    """The verifier's answers to many questions, of one process."""
    batch = tmp_path / "batch.json"
    batch.write_text(json.dumps(list(questions)))
    done = subprocess.run(
        ["node", str(VECTORS / "foreign" / "verify.mjs"), "batch", str(batch)],
        capture_output=True,
        timeout=NODE_WAIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    answers: list[dict[str, Any]] = json.loads(done.stdout)["answers"]
    return answers


def given(record: bytes) -> str:
    return f"hex:{record.hex()}"


def flipped(record: bytes, at: int) -> bytes:
    return record[:at] + bytes([record[at] ^ 1 << at % 8]) + record[at + 1 :]


def framed(records: Iterable[bytes]) -> bytes:
    return b"".join(struct.pack(">I", len(record)) + record for record in records)


def our_audit(genesis: Genesis, blocks: Iterable[bytes]) -> tuple[str | None, int]:
    """The rule that our own audit finds broken, and the height; (None, blocks) for a sound ledger."""
    decoded: list[FinalBlock] = []
    broken = False
    for data in blocks:
        try:
            decoded.append(FinalBlock.decode(data))
        except WireError:
            broken = True
            break
    report = audit(genesis, decoded)
    found = report.violation
    if found is not None and not (broken and found.rule is AuditRule.FINALITY):
        return found.rule.value, found.height
    return ("encoding", len(decoded) + 1) if broken else (None, report.blocks)
