"""A ledger file audited on several cores: the serial report, whatever is wrong and wherever; and read-only."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest

from ledger import auditing, signatures
from ledger.auditing import audit_file, audit_on_all_cores, report_fields
from ledger.core.actions import Dispute, Transfer
from ledger.core.audit import audit
from ledger.core.book_snapshot import snapshot
from ledger.core.handover import Handover
from ledger.core.heads import CertifiedHeader
from ledger.core.violations import AuditRule
from ledger.database import StoreCorruptError, StoreError, WrongNetworkError
from ledger.proofs import handover_note
from ledger.store import Batch, open_store
from tests.core.ledger.audit_forge import ALICE, BOB, CAROL, EVE, NEW, SECOND, AuditForge, genesis
from tests.core.ledger.test_audit_rules import Scene, long_chain

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.audit import AuditReport
    from ledger.core.block import FinalBlock


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signatures, "BATCH_BYTES", 1_000)


def long_scene() -> Scene:
    scene = Scene()
    for number in range(30):
        payer = (ALICE, BOB, CAROL)[number % 3]
        scene.block([scene.sign(payer, Transfer(NEW.account, 1))])
    scene.block([scene.sign(BOB, Dispute(scene.open), fee=5)])
    return scene


def spoilt_entry(block: FinalBlock) -> FinalBlock:
    return replace(block, entries=(replace(block.entries[0], signature=b"s" * 64), *block.entries[1:]))


def forged(wrong: set[int], *, overdraft_at: int | None = None) -> AuditForge:
    """Forty blocks of one entry; those numbered in `wrong` are not signed by their account."""
    forge = AuditForge()
    for number in range(40):
        amount = 10**9 if number == overdraft_at else 1
        entry = forge.sign(ALICE, Transfer(BOB.account, amount), seq=number + 1)
        forge.block([replace(entry, signature=b"s" * 64) if number in wrong else entry])
    return forge


def both(forge: AuditForge, cores: int) -> tuple[AuditReport, AuditReport]:
    blocks = [block.encode() for block in forge.blocks]
    return audit(forge.genesis, blocks), audit_on_all_cores(forge.genesis, lambda: blocks, cores=cores)


@pytest.mark.parametrize("cores", [1, 2, 4])
def test_the_report_is_the_serial_one(cores: int) -> None:
    scene = long_scene()
    alone, together = both(scene, cores)
    assert alone.ok, alone.violation
    assert together == alone


@pytest.mark.parametrize("cores", [1, 3])
@pytest.mark.parametrize(
    ("wrong", "overdraft_at", "rule", "height"),
    [
        ({5, 6, 30}, None, AuditRule.SIGNATURE, 6),
        ({39}, None, AuditRule.SIGNATURE, 40),
        ({31}, 30, AuditRule.BALANCE, 31),  # a rule is broken before a signature
        ({30}, 30, AuditRule.SIGNATURE, 31),
        ({3, 29}, 30, AuditRule.SIGNATURE, 4),
    ],
    ids=str,
)
def test_the_first_violation_is_the_serial_one(
    cores: int, wrong: set[int], overdraft_at: int | None, rule: AuditRule, height: int
) -> None:
    alone, together = both(forged(wrong, overdraft_at=overdraft_at), cores)
    assert together == alone
    assert alone.violation is not None
    assert (alone.violation.rule, alone.violation.height) == (rule, height)


def test_a_wrong_certificate_and_a_wrong_voucher_are_found_by_others_too() -> None:
    scene = long_scene()
    good = scene.blocks[20].certificate
    scene.blocks[20] = replace(
        scene.blocks[20], certificate=replace(good, signatures=(bytes(64), *good.signatures[1:]))
    )
    alone, together = both(scene, 3)
    assert together == alone
    assert alone.violation is not None
    assert (alone.violation.rule, alone.violation.height) == (AuditRule.CERTIFICATE, 21)
    scene = long_scene()
    scene.block([scene.sign(BOB, scene.claim(scene.plain, 5, BOB))])
    scene.block([])
    alone, together = both(scene, 3)
    assert together == alone
    assert alone.violation is not None
    assert alone.violation.rule is AuditRule.VOUCHER


def stored(folder: Path, forge: AuditForge) -> Path:
    path = folder / "ledger.db"
    with open_store(path, forge.genesis) as store:
        store.write(Batch(blocks=tuple(forge.blocks)))
    return path


def test_a_file_is_audited_and_left_as_it_was(tmp_path: Path) -> None:
    scene = long_scene()
    path = stored(tmp_path, scene)
    before = {file.name: sha256(file.read_bytes()).digest() for file in tmp_path.iterdir()}
    seen: list[tuple[int, int, int, int]] = []
    report = audit_file(path, scene.genesis, lambda *at: seen.append(at), cores=2)
    assert report == audit(scene.genesis, scene.blocks)
    assert seen[-1] == (34, 34, report.entries, 2)
    assert {file.name: sha256(file.read_bytes()).digest() for file in tmp_path.iterdir()} == before


def test_a_file_is_audited_while_a_node_writes_it(tmp_path: Path) -> None:
    scene = long_scene()
    path = tmp_path / "ledger.db"
    with open_store(path, scene.genesis) as store:
        store.write(Batch(blocks=tuple(scene.blocks[:10])))

        def write_on(done: int, *_: int) -> None:
            if done == 1:
                store.write(Batch(blocks=tuple(scene.blocks[10:])))

        assert audit_file(path, scene.genesis, write_on, cores=1).blocks == 10
        assert audit_file(path, scene.genesis, cores=1).blocks == 34


def test_a_pruned_file_is_audited_from_its_base(tmp_path: Path) -> None:
    forge = AuditForge()
    base = long_chain(forge)
    forge.block([forge.sign(EVE, Transfer(BOB.account, 3))])
    path = tmp_path / "ledger.db"
    with open_store(path, forge.genesis) as store:
        store.begin(base.block, base.snapshot, base.peaks)
        store.write(Batch(blocks=tuple(forge.blocks[1_000:])))
    seen: list[tuple[int, int, int, int]] = []
    report = audit_file(path, forge.genesis, lambda *at: seen.append(at), cores=2)
    assert report == audit(forge.genesis, forge.blocks[1_000:], base=base)
    assert report.ok, report.violation
    assert (report.base_height, report.blocks, seen[-1][:2]) == (1_000, 1, (1, 1))
    # A newer snapshot takes the place of the first: the audit begins there, and the log's peaks follow the blocks.
    while len(forge.blocks) < 2_000:
        forge.block([])
    newer = snapshot(forge.books)
    forge.block([forge.sign(ALICE, Transfer(EVE.account, 3))])
    with open_store(path, forge.genesis) as store:
        store.write(Batch(blocks=tuple(forge.blocks[1_001:])))
        store.save_snapshot(2_000, newer, certified=True)
        for found in store.snapshots():
            if found.height == 1_000:
                store.drop_snapshot(found)
    report = audit_file(path, forge.genesis, cores=1)
    assert report.ok, report.violation
    assert (report.base_height, report.entries, report.tree_size) == (2_000, 1, 4)


@pytest.mark.parametrize("kept", [True, False])
def test_handovers_that_a_pruned_file_keeps_prove_its_committee(tmp_path: Path, kept: bool) -> None:
    forge = AuditForge()
    rotation = forge.sign(BOB, forge.rotate(SECOND))
    block = forge.block([rotation])
    handover = Handover(rotation, (), CertifiedHeader(block.header, block.certificate))
    base = long_chain(forge)
    path = tmp_path / "ledger.db"
    with open_store(path, forge.genesis) as store:
        if kept:
            store.save_note(handover_note(0), handover.encode())
        store.begin(base.block, base.snapshot, base.peaks)
    report = audit_file(path, forge.genesis, cores=1)
    assert report.ok, report.violation
    assert (report.base_height, report.base_proven, report.epoch) == (1_000, kept, 1)


def test_a_base_that_ends_an_epoch_was_certified_by_the_committee_before(tmp_path: Path) -> None:
    forge = AuditForge()
    while len(forge.blocks) < 999:
        forge.block([])
    block = forge.block([forge.sign(BOB, forge.rotate(SECOND))])
    first = snapshot(forge.books), forge.peaks
    forge.block([forge.sign(ALICE, Transfer(EVE.account, 3))])
    path = tmp_path / "ledger.db"
    with open_store(path, forge.genesis) as store:
        store.begin(block, *first)
        store.write(Batch(blocks=tuple(forge.blocks[1_000:])))
    report = audit_file(path, forge.genesis, cores=1)
    assert report.ok, report.violation
    assert (report.base_proven, report.epoch, report.entries) == (True, 1, 1)
    while len(forge.blocks) < 2_000:
        forge.block([])
    with open_store(path, forge.genesis) as store:
        store.write(Batch(blocks=tuple(forge.blocks[1_001:])))
        store.save_snapshot(2_000, snapshot(forge.books), certified=True)
        for found in store.snapshots():
            if found.height == 1_000:
                store.drop_snapshot(found)
    report = audit_file(path, forge.genesis, cores=1)
    assert report.ok, report.violation
    assert (report.base_height, report.base_proven) == (2_000, True)


def test_what_is_no_ledger_of_this_network_is_refused(tmp_path: Path) -> None:
    path = stored(tmp_path, Scene())
    with pytest.raises(WrongNetworkError, match="--network"):
        audit_file(path, genesis(name="another"))
    with pytest.raises(StoreError, match="there is no ledger file"):
        audit_file(tmp_path / "none.db", genesis())
    assert not (tmp_path / "none.db").exists()
    (tmp_path / "text").write_text("no database" * 100)
    with pytest.raises(StoreCorruptError):
        audit_file(tmp_path / "text", genesis())


def run(path: Path, record: bytes) -> list[dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "ledger.auditing", str(path)], input=record, capture_output=True, check=False
    )
    assert not done.stderr, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_the_process_says_progress_and_report_in_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = long_scene()
    lines = run(stored(tmp_path, scene), scene.genesis.encode())
    assert lines[-2] == {
        "event": "progress",
        "done": 34,
        "total": 34,
        "entries": 40,
        "cores": auditing.cores_here(),
    }
    assert lines[-1] == {"event": "report", **report_fields(audit(scene.genesis, scene.blocks))}


@pytest.mark.parametrize("record", [b"", b"x" * 200, genesis(name="another").encode()])
def test_the_process_says_why_there_is_no_report(tmp_path: Path, record: bytes) -> None:
    (line,) = run(stored(tmp_path, Scene()), record)
    assert line["event"] == "error"
    assert line["why"]
