"""Every part of the ledger's benchmark runs, on next to nothing, and its figures are ones that a program can read."""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from benchmarks import ledger
from benchmarks.measure import Figure, Least, Most, table

COMMITTEE = "committee"


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    assert ledger.main([*argv, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema"] == 1
    figures: list[dict[str, Any]] = document["figures"]
    for figure in figures:
        assert set(figure) == {"part", "name", "value", "unit", "target", "bound", "ratio", "ok"}
        assert figure["value"] >= 0, figure
    return figures


@pytest.mark.parametrize("part", [part for part in ledger.PARTS if part != COMMITTEE])
def test_part(part: str, capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(capsys, part, "--scale", "0.001")
    assert any(figure["target"] is not None for figure in figures)


@pytest.mark.e2e
def test_committee_leaves_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    figures = run(capsys, COMMITTEE, "--scale", "0.1")
    values = {figure["name"]: figure["value"] for figure in figures}
    assert values["finality unloaded, p50"] > 0
    assert values["full load: refused or lost"] == 0
    assert not list(Path(tempfile.gettempdir()).glob(f"millrace-committee-{os.getpid()}-*"))


def test_verdicts() -> None:
    reached, missed, plain = (
        Figure("part", "rate", 200.0, "/s", Least(100)),
        Figure("part", "size", 410.0, "MB", Most(400)),
        Figure("part", "other", 1.0, "ms"),
    )
    assert (reached.ok, missed.ok, plain.ok) == (True, False, None)
    assert reached.ratio == 2.0
    lines = "\n".join(table([reached, missed, plain]))
    assert "ok" in lines
    assert "MISSED" in lines
