"""A whole ledger, every type of entry and several epochs, judged by the verifier in JavaScript and by our own audit.

The entries are random (`tests/property/ledger/traffic.py`); those that our books refuse are certified all the same, as
lying quorums would, and both auditors must name the same rule.
"""

from __future__ import annotations

import json
import struct
from collections import Counter
from copy import deepcopy
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any

from bootstrap.genesis import NetworkFile, save_network
from ledger.core.audit import Base, Replay, audit
from ledger.core.block import NO_BLOCK, NO_ROOT, STATE_ROOT_INTERVAL, FinalBlock, Header
from ledger.core.book_snapshot import snapshot, snapshot_root, state_root
from ledger.core.encoding import Kind, WireError
from ledger.core.entries import (
    Approvals,
    Entry,
    EntryType,
    Param,
    Rotate,
    Transfer,
    decode_entry,
    sign_decree,
)
from ledger.core.genesis import Genesis
from ledger.core.handover import Handover
from ledger.core.heads import certify
from ledger.core.keys import SigningKey
from ledger.core.merkle import MerkleLog
from ledger.core.params import Params
from ledger.core.snapshot import CHUNK_BYTES
from ledger.core.state import InvariantError, LedgerState
from ledger.core.violations import AuditRule, BrokenRuleError
from tests.core.ledger.audit_forge import AuditForge
from tests.e2e.foreign import NEEDS_NODE, VECTORS, ask, flipped, framed, given
from tests.property.ledger.traffic import CREATED_MS, GOVERNORS, KEYS, PEOPLE, WITNESSES, Traffic, network

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path


pytestmark = NEEDS_NODE

DRIFTER = SigningKey(bytes([99]) * 32)
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

    def grow(self, entries: int, *, patient: bool = False, first: Sequence[Entry] = ()) -> None:
        """One block, with up to so many random entries behind the `first` ones; `patient`: no time passes."""
        random, last = self.random, self.last
        self.time_ms = self.time_ms if patient else self.traffic.next_time(self.time_ms)
        height = len(self.blocks) + 1
        slot = (last.slot if last else 0) + random.choice((1, 1, 2))
        epoch, peaks = self.books.epoch, self.peaks
        self.books.open_page(height, self.time_ms, epoch, slot)
        chosen: list[Entry] = []
        for entry in first:
            self.books.entry(entry)
            chosen.append(entry)
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


_EDGES = {
    1: (0, 1, 2, 3, 16, 17, 64, 65, 255),
    2: (0, 1, 2, 10_000, 10_001, 65_535),
    4: (0, 1, 2, 600_000, 600_001, 2**32 - 1),
    8: (
        0,
        1,
        30 * 86_400_000,
        30 * 86_400_000 + 1,
        *(2**bits + more for bits in (48, 62, 63) for more in (-1, 0, 1)),
    ),
    32: (0, 1, 2**256 - 1, 2**255 - 19, 2**255 - 20),
}
_NEGATIVE = (2**64 - 1, 2**64 - 2**62, 2**64 - 2**62 - 1)
EDGES = {
    width: [edge.to_bytes(width, "big") for edge in (*edges, *(_NEGATIVE if width == 8 else ()))]
    for width, edges in _EDGES.items()
}
ANY_EDGE = [edge for edges in EDGES.values() for edge in edges]


def changed(record: bytes, random: Random, count: int) -> list[bytes]:
    """Copies with one thing changed: a bit, a byte, a field at its edge, the length."""
    copies = [record[:-1], record + b"\0", b"", record[1:]]
    while len(copies) < count:
        at = random.randrange(len(record))
        put = random.choice((*ANY_EDGE, random.randbytes(1)))
        copies.append(
            flipped(record, at) if random.randrange(3) == 0 else record[:at] + put + record[at + len(put) :]
        )
    return copies


def test_every_entry_type_changed_byte_by_byte(tmp_path: Path) -> None:
    pinned = json.loads((VECTORS / "millrace" / "ledger.json").read_text())
    names = "transfer lock claim expire release dispute verdict delegation param rotate rekey"
    records = [bytes.fromhex(pinned[name]) for name in (*names.split(), "disputable lock", "limit decree")]
    assert {decode_entry(record).action.TYPE for record in records} == set(EntryType)
    random, genesis = Random(1), network()
    file = network_file(tmp_path, genesis)
    copies = [flipped(record, at) for record in records for at in range(len(record))]
    copies += [copy for record in records for copy in changed(record, random, 300)]
    taken = 0
    for copy, answer in zip(
        copies, ask(tmp_path, [["entry", file, given(copy)] for copy in copies]), strict=True
    ):
        try:
            expected = decode_entry(copy).entry_id(genesis.network_id).hex()
        except WireError:
            assert answer.get("error") == "WireError", (copy.hex(), answer)
        else:
            assert answer.get("id") == expected, (copy.hex(), answer)
            taken += 1
    assert 0 < taken < len(copies)


def test_snapshots_and_changed_ones(tmp_path: Path) -> None:
    random = Random(2)
    questions: list[list[str]] = []
    expected: list[str] = []
    for seed in range(100, 108):
        ledger = grown(seed)
        file = network_file(tmp_path, ledger.genesis)
        data = snapshot(ledger.books)
        for copy in (data, *changed(data, random, 100), *edged(data, random, 400)):
            questions.append(["snapshot", file, given(copy)])
            expected.append(judged(ledger.genesis, copy))
    for question, answer, ours in zip(questions, ask(tmp_path, questions), expected, strict=True):
        assert answer.get("state_root", answer.get("error")) == ours, (question[2], answer)
    assert {"WireError", "InvariantError"} < set(expected)


def edged(data: bytes, random: Random, count: int) -> list[bytes]:
    """Copies of a snapshot with one field at its edge, or in the place of another one like it."""
    fields = list(fields_of(data))
    copies = []
    for _ in range(count):
        at, width = random.choice(fields)
        start, _ = random.choice([each for each in fields if each[1] == width])
        put = random.choice((*EDGES[width], data[start : start + width]))
        copies.append(data[:at] + put + data[at + width :])
    return copies


def fields_of(data: bytes) -> Iterator[tuple[int, int]]:
    """Where each field of a snapshot is (SPEC.md R4.16), and how wide."""
    at, params = 0, [2, 8, 8, 4]
    pending = 1 + 8 + sum(params)
    head = [1, 8, *params, 1, *([8, *params] if data[pending] else []), 4, 1]
    head += [32] * data[sum(head) - 1]
    for width in head:
        yield at, width
        at += width
    tables = [32, 8, 8, 8, 32, 8], [32, 32, 32, 8, 32, 8], [32, 32, 8], [32] * 4 + [8, 8, 8, 32, 1, 2, 1, 32]
    for line in tables:
        yield at, 8
        lines = int.from_bytes(data[at : at + 8], "big")
        at += 8
        for width in line * lines:
            yield at, width
            at += width
    assert at == len(data)


def judged(genesis: Genesis, data: bytes) -> str:
    try:
        return LedgerState.from_snapshot(genesis, data).root().hex()
    except (WireError, InvariantError) as error:
        return "WireError" if isinstance(error, WireError) else "InvariantError"


def test_changed_blocks_and_what_is_certified_of_them(tmp_path: Path) -> None:
    random = Random(3)
    questions, expected, closings = [], [], 0
    for seed in range(300, 304):
        ledger = grown(seed)
        probes: list[tuple[int, bytes]] = []
        ours: list[str | None] = []
        replay, committee = Replay(ledger.genesis), WITNESSES
        for height, block in enumerate(ledger.blocks, 1):
            copies = changed(block.encode(), random, 10)[3:]
            copies += [each.encode() for each in recertified(ledger, block, committee, random)]
            if block.entries and block.entries[-1].action.TYPE is EntryType.ROTATE:
                closings += 1
                copies += reclosed(ledger, block, committee)
                rotate = block.entries[-1].action
                assert isinstance(rotate, Rotate)
                committee = [KEYS[account] for account in rotate.witnesses]
            probes += [(height, copy) for copy in copies]
            ours += [fed(deepcopy(replay), copy) for copy in copies]
            assert fed(replay, block.encode()) is None
        asked = {
            "blocks": [block.encode().hex() for block in ledger.blocks],
            "probes": [(height, copy.hex()) for height, copy in probes],
        }
        questions.append(
            ["probes", network_file(tmp_path, ledger.genesis), written(tmp_path, f"c{seed}", asked)]
        )
        expected.append(ours)
    rules: Counter[str | None] = Counter()
    for ours, answer in zip(expected, ask(tmp_path, questions), strict=True):
        assert answer["ok"], answer
        for mine, found in zip(ours, answer["found"], strict=True):
            assert (found and found["rule"]) == mine, (mine, found)
            rules[mine] += 1
    assert closings > 3
    assert rules.keys() > {"encoding", "chain", "time", "certificate", "quorum", "closing", "log", None}


def fed(replay: Replay, block: bytes) -> str | None:
    """The rule that our audit finds broken by one more block."""
    try:
        replay.feed(block)
    except BrokenRuleError as broken:
        return broken.rule.value
    return None


def recertified(
    ledger: RandomLedger, block: FinalBlock, committee: list[SigningKey], random: Random
) -> list[FinalBlock]:
    """The same block with one field of its header changed, and signed all the same; or signed by others."""
    header, zero = block.header, bytes(32)
    changes: list[dict[str, Any]] = [
        {"epoch": header.epoch + 1},
        {"slot": header.slot + 1},
        {"height": header.height + 1},
        {"parent_slot": header.parent_slot - 1},
        {"parent_hash": random.randbytes(32)},
        {"time_ms": header.time_ms - 1},
        {"time_ms": header.time_ms + 1},
        {"tree_size": header.tree_size + 1},
        {"log_root": random.randbytes(32)},
        {"state_root": random.randbytes(32)},
        {"parent_hash": zero},
    ]
    made = []
    for change in changes:
        try:
            odd = replace(header, **change)
            odd = Header.decode(odd.encode())
        except WireError:
            continue
        closing = None if block.closing is None else ledger.closing(odd, committee)
        made.append(
            FinalBlock(odd, block.entries, ledger.certify(odd, block.certificate.kind, committee), closing)
        )
    kind = block.certificate.kind
    few = ledger.certify(header, kind, committee, committee[:-2] or committee)
    made.append(FinalBlock(header, block.entries, few, block.closing))
    stranger = replace(few, signers=few.signers << 9)
    made.append(FinalBlock(header, block.entries, stranger, block.closing))
    bits = few.signers | 1 << 60
    many = replace(few, signers=bits, signatures=(*few.signatures, bytes(64)))
    made.append(FinalBlock(header, block.entries, many, block.closing))
    return made


def reclosed(ledger: RandomLedger, block: FinalBlock, committee: list[SigningKey]) -> list[bytes]:
    """An epoch's last block with other closings, right ones and wrong ones; or without, or with one too many."""
    header, network_id = block.header, ledger.genesis.network_id
    body = header.encode() + b"".join(entry.encode() for entry in block.entries)
    notarised = body + ledger.certify(header, Kind.NOTAR, committee).encode()
    good = ledger.closing(header, committee)
    first, second = good.headers

    def closed(*headers: Header, kind: Kind = Kind.FINAL, signers: list[SigningKey] = committee) -> bytes:
        """The last header may break rules that our own records refuse to be made with."""
        certificate = ledger.certify(headers[-1], kind, committee, signers)
        return (
            struct.pack(">H", len(headers))
            + b"".join(each.encode() for each in headers)
            + certificate.encode()
        )

    def above(**changes: Any) -> bytes:
        """Both void headers, with these changes to the first one."""
        odd = replace(first, **changes)
        return closed(odd, replace(second, parent_hash=odd.hash(network_id), parent_slot=odd.slot))

    closings = [
        closed(first, second),
        closed(first),
        closed(second),
        closed(first, second, kind=Kind.NOTAR),
        closed(first, second, signers=committee[:-2] or committee),
        closed(first, replace(second, time_ms=first.time_ms - 1)),
        closed(first, replace(second, tree_size=second.tree_size + 1)),
        closed(first, replace(second, log_root=b"\7" * 32)),
        closed(first, replace(second, count=1)),
        closed(first, replace(second, epoch=second.epoch + 1)),
        closed(first, replace(second, height=second.height - 1)),
        closed(first, replace(second, slot=second.slot + 500)),
        above(time_ms=first.time_ms - 1),
        above(parent_hash=b"\7" * 32),
        above(parent_slot=first.parent_slot - 1),
        above(epoch=first.epoch + 1),
        above(count=1),
        struct.pack(">H", 0) + good.certificate.encode(),
        good.encode()[:-64] + bytes(64),
        closed(first, second)[: -64 * len(good.certificate.signatures)],
    ]
    final = body + ledger.certify(header, Kind.FINAL, committee).encode()
    return [notarised, final, final + good.encode(), *(notarised + each for each in closings)]


def thousand(seed: int) -> tuple[RandomLedger, Base, list[SigningKey]]:
    """A ledger over its first state root, where somebody is forgotten; what an audit can begin with, and who signed."""
    ledger = RandomLedger(seed)
    for who, whom, amount in ((PEOPLE[0], DRIFTER, 7), (DRIFTER, PEOPLE[0], 6)):
        ledger.grow(0, first=[ledger.sign(who, Transfer(whom.account, amount))])
    for _ in range(40):
        ledger.grow(ledger.random.randrange(6))
    while len(ledger.blocks) < STATE_ROOT_INTERVAL - 1:
        ledger.grow(0, patient=True)
    ledger.time_ms += 32 * 86_400_000
    assert DRIFTER.account in snapshot(ledger.books)
    ledger.grow(0, patient=True)
    assert DRIFTER.account not in snapshot(ledger.books)
    base, committee = Base(ledger.blocks[-1], snapshot(ledger.books), ledger.peaks), ledger.witnesses
    for _ in range(15):
        ledger.grow(ledger.random.randrange(6))
    ledger.blocks.append(finished(ledger))
    return ledger, base, list(committee)


def handovers(ledger: RandomLedger) -> list[Handover]:
    log, made = MerkleLog(), []
    for block in ledger.blocks[:STATE_ROOT_INTERVAL]:
        for entry in block.entries:
            log.append(entry.encode())
        if block.entries and block.entries[-1].action.TYPE is EntryType.ROTATE:
            head = certify([block])
            assert head is not None
            made.append(Handover(block.entries[-1], log.inclusion_proof(log.size - 1, log.size), head))
    return made


def asked(
    base: Base, after: list[FinalBlock], nodes: list[bytes] | None = None, proof: Sequence[Handover] = ()
) -> dict[str, Any]:
    return {
        "block": base.block.encode().hex(),
        "snapshot": base.snapshot.hex(),
        "peaks": [node.hex() for node in (base.peaks.nodes if nodes is None else nodes)],
        "handovers": [handover.encode().hex() for handover in proof],
        "blocks": [block.encode().hex() for block in after],
    }


def test_state_roots_and_audits_that_begin_at_one(tmp_path: Path) -> None:
    random = Random(5)
    ledger, base, committee = thousand(41)
    file, after = network_file(tmp_path, ledger.genesis), ledger.blocks[STATE_ROOT_INTERVAL:]
    block, signers = base.block, [one.account for one in committee]
    few = ledger.certify(block.header, Kind.FINAL, committee, committee[:1])
    notarised = replace(
        base, block=replace(block, certificate=ledger.certify(block.header, Kind.NOTAR, committee))
    )
    bases = {
        "good": (base, after),
        "nothing behind": (base, []),
        "notarised": (notarised, after),
        "notarised, nothing behind": (notarised, []),
        "few signers": (replace(base, block=replace(block, certificate=few)), after),
        "a block left out": (base, after[1:]),
        **{
            f"snapshot {at}": (replace(base, snapshot=copy), after)
            for at, copy in enumerate(changed(base.snapshot, random, 20))
        },
    }
    roots = tmp_path / "thousand"
    roots.write_bytes(framed(each.encode() for each in ledger.blocks))
    questions = [["ledger", file, str(roots)]]
    for name, (each, blocks) in bases.items():
        questions.append(["base", file, written(tmp_path, name.replace(" ", "_"), asked(each, blocks))])
    nodes = list(base.peaks.nodes)
    odd = [nodes[:-1], [*nodes, bytes(32)], nodes[::-1], [bytes(32), *nodes[1:]]]
    questions += [
        ["base", file, written(tmp_path, f"p{at}", asked(base, after, each))] for at, each in enumerate(odd)
    ]
    proof = handovers(ledger)
    assert base.block.header.epoch == len(proof) == 1
    for at, each in enumerate((proof, [proof[0]] * 2)):
        questions.append(["base", file, written(tmp_path, f"h{at}", asked(base, after, proof=each))])
    whole, *answers, proven, handed_too_far = ask(tmp_path, questions)
    assert (proven["proven"], answers[0]["proven"], handed_too_far["error"]) == (True, False, "handover")
    ours = [audit(ledger.genesis, after, base=replace(base, witnesses=names)) for names in (signers, None)]
    assert [report.base_proven for report in ours] == [True, False]
    assert all(report.ok for report in ours)
    assert whole["ok"], whole
    assert whole["state_root"] == state_root(ledger.books).hex()
    for name, answer in zip(bases, answers, strict=False):
        each, blocks = bases[name]
        found = audit(ledger.genesis, blocks, base=each).violation
        assert (answer.get("error"), answer["ok"]) == (found and found.rule.value, found is None), (
            name,
            answer,
            found,
        )
    assert [answer["error"] for answer in answers[-len(odd) :]] == ["base"] * len(odd)
    assert answers[0]["began"] == STATE_ROOT_INTERVAL
    assert answers[0]["state_root"] == whole["state_root"]


def test_parameters_of_a_version_that_nobody_has(tmp_path: Path) -> None:
    ledger = RandomLedger(2)
    bare = Param(1, 3, Params(version=2, fee_min=1), Approvals())
    signed = {one.account: sign_decree(one, ledger.genesis.network_id, bare) for one in GOVERNORS[:2]}
    approvals = Approvals.collect([one.account for one in GOVERNORS], signed)
    ledger.grow(0, first=[ledger.sign(PEOPLE[0], replace(bare, approvals=approvals))])
    ledger.blocks.append(finished(ledger))
    future = ledger.made([], 100, ledger.peaks, 0, NO_ROOT)
    future = FinalBlock(future.header, (), ledger.certify(future.header, Kind.FINAL, WITNESSES))
    file = network_file(tmp_path, ledger.genesis)
    ledgers = [framed(block.encode() for block in (*ledger.blocks, *more)) for more in ((), (future,))]
    known, unknown = ask(tmp_path, [["ledger", file, given(each)] for each in ledgers])
    assert known["ok"], known
    assert (unknown["error"], unknown["height"]) == ("version", 3)
    found = audit(ledger.genesis, [*ledger.blocks, future]).violation
    assert found is not None
    assert found.rule is AuditRule.VERSION


def test_genesis_with_governors_changed_at_its_edges(tmp_path: Path) -> None:
    record = network(fee_min=1, dispute_fee=3).encode()
    copies = [record, *(flipped(record, at) for at in range(len(record))), *changed(record, Random(7), 1_000)]
    for copy, answer in zip(
        copies, ask(tmp_path, [["genesis", given(copy)] for copy in copies]), strict=True
    ):
        try:
            expected = Genesis.decode(copy).network_id.hex()
        except WireError:
            expected = None
        assert answer.get("network_id") == expected, (copy.hex(), answer)


def test_pieces_of_a_snapshot(tmp_path: Path) -> None:
    random, genesis = Random(6), network()
    data = random.randbytes(3 * CHUNK_BYTES + 17)
    chunks = [data[at : at + CHUNK_BYTES] for at in range(0, len(data), CHUNK_BYTES)]
    tree = MerkleLog(chunks)
    root = snapshot_root(genesis.network_id, data)
    good = [
        {
            "root": root.hex(),
            "size": len(data),
            "chunks_root": tree.root().hex(),
            "index": at,
            "data": chunk.hex(),
            "path": [node.hex() for node in tree.inclusion_proof(at, len(chunks))],
        }
        for at, chunk in enumerate(chunks)
    ]
    wrong = [
        good[0] | {"index": 1},
        good[0] | {"index": 4},
        good[0] | {"size": len(data) - 1},
        good[3] | {"data": chunks[3].hex()[:-2]},
        good[3] | {"data": chunks[3].hex() + "00"},
        good[0] | {"data": chunks[1].hex()},
        good[0] | {"path": good[0]["path"][:-1]},  # type: ignore[index]
        good[0] | {"chunks_root": root.hex()},
        good[0] | {"root": tree.root().hex()},
    ]
    file = network_file(tmp_path, genesis)
    questions = [
        ["chunk", file, written(tmp_path, f"c{at}", each)] for at, each in enumerate([*good, *wrong])
    ]
    answers = ask(tmp_path, questions)
    assert [answer["ok"] for answer in answers] == [True] * len(good) + [False] * len(wrong)
