"""A whole ledger, every type of entry and several epochs, judged by the verifier in JavaScript and by our own audit.

The entries are random (`tests/property/ledger/traffic.py`); those that our books refuse are certified all the same, as
lying quorums would, and both auditors must name the same rule.
"""

from __future__ import annotations

import json
from collections import Counter
from random import Random
from typing import TYPE_CHECKING, Any

from bootstrap.genesis import NetworkFile, save_network
from ledger.core.audit import audit
from ledger.core.block import NO_BLOCK, NO_ROOT, STATE_ROOT_INTERVAL, FinalBlock, Header
from ledger.core.book_snapshot import state_root
from ledger.core.encoding import Kind
from ledger.core.entries import Entry, EntryType
from ledger.core.violations import AuditRule, BrokenRuleError
from tests.core.ledger.audit_forge import AuditForge
from tests.e2e.foreign import NEEDS_NODE, ask
from tests.property.ledger.traffic import CREATED_MS, KEYS, Traffic, network

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.genesis import Genesis

pytestmark = NEEDS_NODE

BUSY_BLOCKS = 70
SEEDS = range(12)


_OF_BLOCKS = (
    "encoding version chain time certificate quorum closing finality log state_root conservation base"
)
OF_ENTRIES = {rule for rule in AuditRule if rule.value not in _OF_BLOCKS.split()}


class RandomLedger(AuditForge):
    """Blocks of random entries, and beside each what a lying quorum might have certified instead."""

    def __init__(self, seed: int) -> None:
        super().__init__(network(fee_min=seed % 2, dispute_fee=3 * (seed % 3 == 0)))
        self.random = Random(seed)
        self.traffic = Traffic(self.random, self.books)
        self.time_ms = CREATED_MS
        self.lies: list[tuple[int, FinalBlock, str]] = []
        self.applied: Counter[str] = Counter()

    def grow(self, entries: int, *, patient: bool = False) -> None:
        """One block, with up to so many entries; `patient`: a state root is due, nobody hurries."""
        random, last = self.random, self.last
        self.time_ms = self.time_ms if patient else self.traffic.next_time(self.time_ms)
        height = len(self.blocks) + 1
        slot = (last.slot if last else 0) + random.choice((1, 1, 2))
        epoch, peaks = self.books.epoch, self.peaks
        self.books.open_page(height, self.time_ms, epoch, slot)
        chosen: list[Entry] = []
        for _ in range(entries):
            entry = self.traffic.entry()
            try:
                self.books.entry(entry)
            except BrokenRuleError as broken:
                lie = self.made([*chosen, entry], slot, peaks, epoch, NO_ROOT)
                self.lies.append((height, lie, broken.rule.value))
                continue
            chosen.append(entry)
            self.applied[entry.action.TYPE.name] += 1
            self.traffic.note(entry)
        self.books.close_page()
        root = NO_ROOT if height % STATE_ROOT_INTERVAL else state_root(self.books)
        block = self.made(chosen, slot, peaks, epoch, root)
        self.peaks = peaks.extend(entry.encode() for entry in chosen)
        self.blocks.append(block)
        self.witnesses = [KEYS[account] for account in self.books.witnesses]

    def made(self, entries: list[Entry], slot: int, peaks: Any, epoch: int, root: bytes) -> FinalBlock:
        last = self.last
        after = peaks.extend(entry.encode() for entry in entries)
        header = Header(
            epoch,
            slot,
            len(self.blocks) + 1,
            last.slot if last else 0,
            last.hash(self.genesis.network_id) if last else NO_BLOCK,
            self.time_ms,
            after.size,
            after.root(),
            root,
            len(entries),
        )
        ends = bool(entries) and entries[-1].action.TYPE is EntryType.ROTATE
        kind = Kind.NOTAR if self.random.random() < 0.3 else Kind.FINAL
        closing = self.closing(header, self.witnesses) if ends and kind is Kind.NOTAR else None
        return FinalBlock(header, tuple(entries), self.certify(header, kind, self.witnesses), closing)


def grown(seed: int) -> RandomLedger:
    ledger = RandomLedger(seed)
    for _ in range(BUSY_BLOCKS):
        ledger.grow(ledger.random.randrange(6))
    ledger.blocks.append(finished(ledger))
    return ledger


def finished(ledger: RandomLedger) -> FinalBlock:
    """A last block without entries that is final."""
    last = ledger.last
    assert last is not None
    height = last.height + 1
    ledger.books.open_page(height, ledger.time_ms, ledger.books.epoch, last.slot + 1)
    ledger.books.close_page()
    root = NO_ROOT if height % STATE_ROOT_INTERVAL else state_root(ledger.books)
    block = ledger.made([], last.slot + 1, ledger.peaks, ledger.books.epoch, root)
    return FinalBlock(block.header, (), ledger.certify(block.header, Kind.FINAL, ledger.witnesses))


def network_file(tmp_path: Path, genesis: Genesis) -> str:
    path = tmp_path / f"{genesis.network_id.hex()[:8]}.toml"
    save_network(path, NetworkFile(genesis, ()))
    return str(path)


def written(tmp_path: Path, name: str, value: Any) -> str:
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(value))
    return str(path)


def test_random_ledgers_of_every_type_and_what_liars_would_certify(tmp_path: Path) -> None:
    ledgers = [grown(seed) for seed in SEEDS]
    questions = []
    for seed, ledger in enumerate(ledgers):
        probes = [(height, block.encode().hex()) for height, block, _ in ledger.lies]
        asked = {"blocks": [block.encode().hex() for block in ledger.blocks], "probes": probes}
        questions.append(
            ["probes", network_file(tmp_path, ledger.genesis), written(tmp_path, f"l{seed}", asked)]
        )
    applied: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    for ledger, answer in zip(ledgers, ask(tmp_path, questions), strict=True):
        assert answer["ok"], answer
        assert answer["state_root"] == state_root(ledger.books).hex()
        assert answer["log_root"] == ledger.peaks.root().hex()
        assert answer["epoch"] == ledger.books.epoch
        applied += ledger.applied
        assert audit(ledger.genesis, ledger.blocks).ok
        for (_, block, rule), found in zip(ledger.lies, answer["found"], strict=True):
            assert (found and found["rule"]) == rule, (block.entries[-1], found)
            rules[rule] += 1
    assert all(applied[kind.name] for kind in EntryType), applied
    assert rules.keys() == OF_ENTRIES
