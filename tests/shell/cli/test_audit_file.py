"""`millrace ledger audit --file`: a ledger is audited where no node runs."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from bootstrap.genesis import NetworkFile, save_network
from ledger.core.actions import Transfer
from ledger.store import Batch, open_store
from millrace.cli.main import main
from tests.core.ledger.audit_forge import ALICE, BOB, AuditForge

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[AuditForge, Path, Path]:
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    forge = AuditForge()
    for amount in (1, 2, 3):
        forge.block([forge.sign(ALICE, Transfer(BOB.account, amount))])
    network = tmp_path / "network.toml"
    save_network(network, NetworkFile(forge.genesis, ()))
    return forge, tmp_path / "ledger.db", network


def store(forge: AuditForge, path: Path) -> None:
    with open_store(path, forge.genesis) as file:
        file.write(Batch(blocks=tuple(forge.blocks)))


def test_a_good_file(files: tuple[AuditForge, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    forge, path, network = files
    store(forge, path)
    command = ["ledger", "audit", "--file", str(path), "--network", str(network), "--cores", "1"]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "good" in out
    assert main([*command, "--json", "--quiet"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-2]["event"] == "progress"
    assert (lines[-2]["done"], lines[-2]["total"], lines[-2]["entries"], lines[-2]["cores"]) == (3, 3, 3, 1)
    assert (lines[-1]["event"], lines[-1]["ok"], lines[-1]["entries"]) == ("report", True, 3)


def test_a_bad_file(files: tuple[AuditForge, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    forge, path, network = files
    entry = replace(forge.sign(ALICE, Transfer(BOB.account, 4)), signature=b"s" * 64)
    forge.block([entry])
    store(forge, path)
    assert main(["ledger", "audit", "--file", str(path), "--network", str(network)]) == 1
    caught = capsys.readouterr()
    assert "FAILED" in caught.out
    assert "block 4, entry 0 breaks signature" in caught.err


def test_no_file(files: tuple[AuditForge, Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    _, path, network = files
    assert main(["ledger", "audit", "--file", str(path), "--network", str(network)]) != 0
    assert "there is no ledger file" in capsys.readouterr().err
    path.write_bytes(b"garbage" * 1000)
    assert main(["ledger", "audit", "--file", str(path), "--network", str(network)]) != 0
    assert "was not audited" in capsys.readouterr().err


def test_options_of_a_file_without_one(files: tuple[AuditForge, Path, Path]) -> None:
    assert main(["ledger", "audit", "--cores", "2"]) == 2
