"""Records made here, judged by a verifier that somebody wrote from SPEC.md alone, in JavaScript.

It stands in `tests/vectors/foreign`, shares no code with the packages, and has its own key, tree, entry and audit
code. Whatever one of the two takes and the other refuses, or refuses by another name, is a defect of one of them or
a hole in SPEC.md.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgpack
import pytest

from bootstrap.genesis import NetworkFile, NetworkFileError, format_network, parse_network, save_network
from executor.core.limits import Limits
from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from executor.core.wire import WireError as ExecutorWireError
from ledger.core.audit import audit
from ledger.core.block import NO_ROOT, STATE_ROOT_INTERVAL, Block, Certificate, FinalBlock, Header, sign_vote
from ledger.core.encoding import Kind, WireError
from ledger.core.entries import (
    Claim,
    Entry,
    Expire,
    Lock,
    Transfer,
    Voucher,
    decode_voucher,
    sign_entry,
    sign_voucher,
)
from ledger.core.genesis import Genesis
from ledger.core.keys import SigningKey, peer_id
from ledger.core.merkle import MerkleLog
from ledger.core.receipt import Receipt, ReceiptError, receipt_for
from ledger.core.state import LedgerState, Moment
from millrace.core.terms import Terms, decode_terms, sign_terms
from p2p.core.advertbook import AdvertBook, Refusal
from p2p.core.adverts import Advert
from p2p.core.envelope import EnvelopeKind, open_envelope, seal
from tests.core.ledger.test_receipts import proved, rekeyed
from tests.e2e.foreign import NEEDS_NODE, REPOSITORY, VECTORS, ask, flipped, framed, given, our_audit

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.entries import Action

pytestmark = NEEDS_NODE

T0_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
CREDIT = 1_000_000
CHANCE_LEDGERS = 100

WITNESSES = [SigningKey(bytes([number]) * 32) for number in (1, 2, 3, 4)]
ALICE, BOB, CAROL = (SigningKey(bytes([number]) * 32) for number in (10, 11, 12))


@dataclass
class Chain:
    """Final blocks certified by whoever holds the witnesses' keys: they sign what they are given, lies too."""

    genesis: Genesis
    keys: list[SigningKey]
    honest: bool = True
    state: LedgerState = field(init=False)
    log: MerkleLog = field(default_factory=MerkleLog)
    blocks: list[FinalBlock] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = LedgerState(self.genesis)

    def add(
        self,
        entries: Iterable[Entry] = (),
        *,
        time_ms: int,
        kind: Kind = Kind.FINAL,
        skip: int = 0,
        **header: Any,
    ) -> FinalBlock:
        entries = tuple(entries)
        parent = self.blocks[-1].header if self.blocks else None
        slot = (parent.slot if parent else 0) + 1 + skip
        height = len(self.blocks) + 1
        for entry in entries:
            self.log.append(entry.encode())
            effect = self.state.apply(entry, Moment(height, time_ms, self.genesis.committee.leader(slot)))
            assert not self.honest or hasattr(effect, "entry_id"), effect
        self.state.close_block(Moment(height, time_ms, self.genesis.committee.leader(slot)))
        fields: dict[str, Any] = {
            "epoch": 0,
            "slot": slot,
            "height": height,
            "parent_slot": parent.slot if parent else 0,
            "parent_hash": parent.hash(self.genesis.network_id) if parent else bytes(32),
            "time_ms": time_ms,
            "tree_size": self.log.size,
            "log_root": self.log.root(),
            "state_root": NO_ROOT if height % STATE_ROOT_INTERVAL else self.state.root(),
            "count": len(entries),
        }
        block = Block(Header(**(fields | header)), entries)
        self.blocks.append(self.certified(block, kind))
        return self.blocks[-1]

    def certified(
        self, block: Block, kind: Kind, *, away: int | None = None, count: int | None = None
    ) -> FinalBlock:
        """Signed by a quorum: all but one witness, another one in each slot."""
        header, n = block.header, self.genesis.committee.n
        away = header.slot % n if away is None else away
        signers = [at for at in range(n) if n == 1 or at != away][: count or n]
        block_hash = header.hash(self.genesis.network_id)
        voters = replace(self.genesis.committee, epoch=header.epoch)
        votes = [
            sign_vote(self.keys[at], voters, kind, slot=header.slot, block_hash=block_hash) for at in signers
        ]
        bits = sum(1 << at for at in signers)
        signatures = tuple(vote.signature for vote in votes)
        certificate = Certificate(kind, header.epoch, header.slot, block_hash, bits, signatures)
        return FinalBlock(header, block.entries, certificate)

    def encode(self) -> bytes:
        return framed(block.encode() for block in self.blocks)


def committee(*keys: SigningKey, fee_min: int = 0) -> Genesis:
    limits = sorted([(ALICE.account, 1_000 * CREDIT), (CAROL.account, 20 * CREDIT)])
    accounts = tuple(key.account for key in keys)
    return Genesis("foreign", T0_MS, accounts, tuple(limits), fee_min=fee_min)


GENESIS = committee(*WITNESSES)
NETWORK_ID = GENESIS.network_id


def entry(key: SigningKey, seq: int, action: Action, *, fee: int = 0, life_ms: int = 10 * HOUR_MS) -> Entry:
    return sign_entry(key, NETWORK_ID, seq=seq, not_after_ms=T0_MS + life_ms, fee=fee, action=action)


def lock_id(lock: Entry) -> bytes:
    return lock.entry_id(NETWORK_ID)


def promise(lock: Entry, cumulative: int, key: SigningKey = ALICE) -> Voucher:
    return sign_voucher(key, NETWORK_ID, lock_id(lock), cumulative)


def claim(voucher: Voucher) -> Claim:
    return Claim(voucher.lock_id, voucher.cumulative, voucher.signature)


PAID = entry(ALICE, 2, Lock(BOB.account, 5 * CREDIT, T0_MS + HOUR_MS, b"t" * 32), fee=10)
CANCELLED = entry(ALICE, 3, Lock(CAROL.account, 7 * CREDIT, T0_MS + HOUR_MS))
EXPIRED = entry(ALICE, 4, Lock(BOB.account, 2 * CREDIT, T0_MS + 60_000))
OPEN = entry(ALICE, 5, Lock(BOB.account, 9 * CREDIT, T0_MS + 5 * HOUR_MS), fee=3)


def settled() -> Chain:
    """A ledger with every kind of entry, skipped slots, a NOTAR block, and one lock still open."""
    chain = Chain(GENESIS, WITNESSES)
    chain.add(
        [entry(ALICE, 1, Transfer(BOB.account, 2_500_000, b"m" * 32), fee=10), PAID], time_ms=T0_MS + 1_000
    )
    chain.add(
        [CANCELLED, EXPIRED, entry(CAROL, 1, Transfer(BOB.account, 20 * CREDIT))],
        time_ms=T0_MS + 1_000,
        skip=2,
    )
    chain.add(
        [
            entry(BOB, 1, claim(promise(PAID, 3 * CREDIT)), fee=25),
            entry(CAROL, 2, Claim(lock_id(CANCELLED), 0)),
        ],
        time_ms=T0_MS + 2_000,
        kind=Kind.NOTAR,
    )
    chain.add(time_ms=T0_MS + 2_500, skip=1)
    chain.add([entry(BOB, 2, Expire(lock_id(EXPIRED)), fee=1), OPEN], time_ms=T0_MS + 60_000)
    return chain


CHAIN = settled()


def receipts(chain: Chain) -> list[Receipt]:
    head = chain.blocks[-1]
    entries = [each for block in chain.blocks for each in block.entries]
    return [receipt_for(each, at, chain.log, head) for at, each in enumerate(entries)]


@pytest.fixture
def network(tmp_path: Path) -> str:
    path = tmp_path / "network.toml"
    address = f"/ip4/192.0.2.1/tcp/4710/p2p/{peer_id(WITNESSES[0].account)}"
    save_network(path, NetworkFile(GENESIS, (address,)))
    return str(path)


def test_every_example_of_the_text_can_be_computed_from_it(tmp_path: Path) -> None:
    answer, edges, wycheproof, probes = ask(
        tmp_path,
        [
            ["examples", str(REPOSITORY / "SPEC.md")],
            ["signatures", str(VECTORS / "ed25519" / "speccheck.json")],
            ["signatures", str(VECTORS / "ed25519" / "wycheproof.json")],
            ["proofs", str(VECTORS / "rfc6962" / "merkle.json")],
        ],
    )
    assert answer["ok"], answer
    assert answer["reproduced"] >= 110
    assert edges["accepted"] == [3]  # R2.6
    tests = json.loads((VECTORS / "ed25519" / "wycheproof.json").read_text())
    assert wycheproof["accepted"] == [test["tcId"] for test in tests if test["result"] == "valid"]
    assert len(probes["disagrees"]) == 1  # §5: the probe whose roots have 12 bytes


def test_the_auditors_agree_on_a_sound_ledger(tmp_path: Path, network: str) -> None:
    ledger = tmp_path / "ledger"
    ledger.write_bytes(CHAIN.encode())
    told, audited = ask(tmp_path, [["network", network], ["ledger", network, str(ledger)]])
    assert told["network_id"] == NETWORK_ID.hex()
    assert (told["faults"], told["quorum"]) == (1, 3)
    assert audited["ok"], audited
    ours = audit(GENESIS, CHAIN.blocks)
    assert ours.ok
    assert audited["blocks"] == 5
    assert audited["log_root"] == ours.log_root.hex() == CHAIN.log.root().hex()
    assert audited["head_hash"] == ours.head_hash.hex()
    assert audited["state_root"] == CHAIN.state.root().hex()
    named = {account.hex(): str(each.balance) for account, each in CHAIN.state.accounts()}
    assert audited["balances"] == named
    assert audited["locks"] == {
        each.lock_id.hex(): {"amount": str(each.amount), "expiry_ms": str(each.expiry_ms)}
        for each in CHAIN.state.open_locks()
    }
    assert list(audited["locks"]) == [lock_id(OPEN).hex()]


def test_receipts_and_every_change_of_one(tmp_path: Path, network: str) -> None:
    good = receipts(CHAIN)
    answers = ask(tmp_path, [["receipt", network, given(each.encode())] for each in good])
    assert [each.get("entry") for each in answers] == [each.entry.entry_id(NETWORK_ID).hex() for each in good]
    record = good[0].encode()
    changed = [flipped(record, at) for at in range(0, len(record), 3)]
    changed += [record[:-1], record + b"\0", b""]
    for at, answer in enumerate(ask(tmp_path, [["receipt", network, given(each)] for each in changed])):
        try:
            Receipt.decode(changed[at]).verify(GENESIS)
        except WireError:
            expected = "WireError"
        except ReceiptError as error:
            expected = error.reason.value
        else:
            pytest.fail(f"change {at} is taken")
        assert answer.get("error") == expected, (at, answer)


def test_receipts_through_rotations_and_rekeys(tmp_path: Path) -> None:
    """Committees from genesis, keys from the account's first one: both verifiers follow, and refuse the same."""
    forge = rekeyed()
    path = tmp_path / "network.toml"
    save_network(path, NetworkFile(forge.genesis, ()))
    good = [
        proved(forge, index, -1, rekeys) for index, rekeys in ((0, ()), (2, (1,)), (3, (1,)), (4, (1, 3)))
    ]
    cases = [each.encode() for each in good]
    record = cases[-1]
    cases += [flipped(record, at) for at in range(0, len(record), 7)]
    wrong = [proved(forge, 4, -1, (1,)), proved(forge, 4, -1, (3, 1)), replace(good[-1], handovers=())]
    cases += [each.encode() for each in wrong]
    for at, answer in enumerate(ask(tmp_path, [["receipt", str(path), given(each)] for each in cases])):
        expected = None
        try:
            Receipt.decode(cases[at]).verify(forge.genesis)
        except WireError:
            expected = "WireError"
        except ReceiptError as error:
            expected = error.reason.value
        assert answer.get("error") == expected, (at, answer)
        assert (expected is None) == (at < len(good))


def test_changed_copies_of_a_ledger(tmp_path: Path, network: str) -> None:
    blocks = [block.encode() for block in CHAIN.blocks]
    rng = random.Random(6962)
    copies = [[*blocks[:at], *blocks[at + 1 :]] for at in range(len(blocks))]
    copies += [blocks[:3], [], [*blocks, blocks[-1]], [blocks[1], blocks[0], *blocks[2:]]]
    for _ in range(80):
        at = rng.randrange(len(blocks))
        copy = list(blocks)
        copy[at] = flipped(copy[at], rng.randrange(len(copy[at])))
        copies.append(copy)
    answers = ask(tmp_path, [["ledger", network, given(framed(copy))] for copy in copies])
    for copy, answer in zip(copies, answers, strict=True):
        rule, height = our_audit(GENESIS, copy)
        assert (answer.get("error"), answer.get("height", answer.get("blocks"))) == (rule, height), answer
    assert (
        sum(answer["ok"] for answer in answers) <= 2
    )  # no block at all, and the ledger without its last block


LIES: dict[str, tuple[list[Entry], int]] = {
    # what a lying quorum might certify after `settled()`: entries, milliseconds after T0
    "overdraft": ([entry(BOB, 3, Transfer(ALICE.account, 30 * CREDIT))], 61_000),
    "overdraft by the fee": ([entry(CAROL, 3, Transfer(BOB.account, 1), fee=1)], 61_000),
    "double spend": ([entry(ALICE, 5, Transfer(BOB.account, 1))], 61_000),
    "repeat": ([OPEN], 61_000),
    "gap": ([entry(BOB, 4, Transfer(ALICE.account, 1))], 61_000),
    "too late": ([entry(BOB, 3, Transfer(ALICE.account, 1), life_ms=60_999)], 61_000),
    "just in time": ([entry(BOB, 3, Transfer(ALICE.account, 1), life_ms=61_000)], 61_000),
    "to oneself": ([entry(BOB, 3, Transfer(BOB.account, 1))], 61_000),
    "lock for oneself": ([entry(ALICE, 6, Lock(ALICE.account, 1, T0_MS + HOUR_MS))], 61_000),
    "lock that has expired": ([entry(ALICE, 6, Lock(BOB.account, 1, T0_MS + 61_000))], 61_000),
    "lock of 366 days": ([entry(ALICE, 6, Lock(BOB.account, 1, T0_MS + 61_000 + 31_622_400_000))], 61_000),
    "lock of more": ([entry(ALICE, 6, Lock(BOB.account, 1, T0_MS + 61_001 + 31_622_400_000))], 61_000),
    "claim again": ([entry(BOB, 3, claim(promise(PAID, 3 * CREDIT)))], 61_000),
    "claim of nothing known": ([entry(BOB, 3, Claim(b"x" * 32, 0))], 61_000),
    "claim by another": ([entry(CAROL, 3, claim(promise(OPEN, CREDIT)))], 61_000),
    "claim of all": ([entry(BOB, 3, claim(promise(OPEN, 9 * CREDIT)), fee=9)], 61_000),
    "claim of more": ([entry(BOB, 3, claim(promise(OPEN, 9 * CREDIT + 1)))], 61_000),
    "claim with another's voucher": ([entry(BOB, 3, claim(promise(OPEN, CREDIT, BOB)))], 61_000),
    "claim at the expiry": ([entry(BOB, 3, claim(promise(OPEN, CREDIT)))], 5 * HOUR_MS),
    "claim before the expiry": ([entry(BOB, 3, claim(promise(OPEN, CREDIT)))], 5 * HOUR_MS - 1),
    "expire before the expiry": ([entry(CAROL, 3, Expire(lock_id(OPEN)))], 5 * HOUR_MS - 1),
    "expire at the expiry": ([entry(CAROL, 3, Expire(lock_id(OPEN)))], 5 * HOUR_MS),
    "expire a closed one": ([entry(CAROL, 3, Expire(lock_id(PAID)))], 6 * HOUR_MS),
    "expire with a fee that is not there": ([entry(CAROL, 3, Expire(lock_id(OPEN)), fee=1)], 5 * HOUR_MS),
    "expire with the fee out of the refund": (
        [entry(ALICE, 6, Expire(lock_id(OPEN)), fee=CREDIT)],
        5 * HOUR_MS,
    ),
    "an unsigned entry": ([replace(entry(BOB, 3, Transfer(ALICE.account, 1)), signature=b"\1" * 64)], 61_000),
    "time runs back": ([], 59_999),
}


def test_what_a_lying_quorum_certifies(tmp_path: Path, network: str) -> None:
    ledgers: dict[str, list[bytes]] = {}
    for name, (entries, after_ms) in LIES.items():
        chain = settled()
        chain.honest = False
        chain.add(entries, time_ms=T0_MS + after_ms)
        ledgers[name] = [block.encode() for block in chain.blocks]
    odd_headers: dict[str, dict[str, Any]] = {
        "epoch 1": {"epoch": 1},
        "another parent": {"parent_hash": b"\7" * 32},
        "another parent's slot": {"parent_slot": 7},
        "a height too high": {"height": 7},
        "another log": {"log_root": b"\7" * 32},
        "a longer log": {"tree_size": 11},
    }
    for name, header in odd_headers.items():
        chain = settled()
        chain.add(time_ms=T0_MS + 61_000, **header)
        ledgers[name] = [block.encode() for block in chain.blocks]
    chain = settled()
    last = chain.add(time_ms=T0_MS + 61_000)
    ledgers["too few signers"] = [
        *(block.encode() for block in chain.blocks[:-1]),
        chain.certified(last.block, Kind.FINAL, count=2).encode(),
    ]
    certificate = last.certificate
    stranger = replace(certificate, signers=certificate.signers & ~1 | 1 << 40)
    ledgers["a signer who is nobody"] = [
        *ledgers["too few signers"][:-1],
        replace(last, certificate=stranger).encode(),
    ]
    ledgers["only notarised"] = [
        *ledgers["too few signers"][:-1],
        chain.certified(last.block, Kind.NOTAR).encode(),
    ]
    answers = ask(tmp_path, [["ledger", network, given(framed(blocks))] for blocks in ledgers.values()])
    verdicts = {
        name: (answer.get("error"), answer.get("height", answer.get("blocks")))
        for name, answer in zip(ledgers, answers, strict=True)
    }
    assert verdicts == {name: our_audit(GENESIS, blocks) for name, blocks in ledgers.items()}
    sound = {name for name, (rule, _) in verdicts.items() if rule is None}
    assert sound == {
        "just in time",
        "lock of 366 days",
        "claim of all",
        "claim before the expiry",
        "expire at the expiry",
        "expire with the fee out of the refund",
    }


def test_chance_ledgers(tmp_path: Path, network: str) -> None:
    """Quorums certify what comes; our audit and the foreign one find the same first violation, or the same end."""
    rng = random.Random(1978)
    chains = [chance_chain(rng) for _ in range(CHANCE_LEDGERS)]
    ledgers = [[block.encode() for block in chain.blocks] for chain in chains]
    answers = ask(tmp_path, [["ledger", network, given(framed(blocks))] for blocks in ledgers])
    sound = 0
    for chain, blocks, answer in zip(chains, ledgers, answers, strict=True):
        rule, height = our_audit(GENESIS, blocks)
        assert (answer.get("error"), answer.get("height", answer.get("blocks"))) == (rule, height), answer
        if rule is None:
            sound += 1
            assert answer["state_root"] == chain.state.root().hex()
    assert 0 < sound < CHANCE_LEDGERS  # both ends are reached


def chance_chain(rng: random.Random) -> Chain:
    """A few blocks of entries near the edge of what the rules allow."""
    chain = Chain(GENESIS, WITNESSES, honest=False)
    keys = [ALICE, BOB, CAROL, WITNESSES[0]]
    made: list[Entry] = []
    now = 0
    for _ in range(4):
        now += rng.choice([0, 10, 20])
        entries: list[Entry] = []
        for _ in range(rng.randrange(3)):
            key = rng.choice([ALICE, ALICE, BOB, CAROL])
            seq = (
                chain.state.account(key.account).seq
                + 1
                + sum(each.account == key.account for each in entries)
            )
            seq += rng.random() < 0.02
            entries.append(
                entry(
                    key,
                    seq,
                    chance_action(rng, keys, made, now),
                    fee=rng.choice([0, 0, 0, 1]),
                    life_ms=now + rng.choice([-1, *[0, 5, 50] * 8]),
                )
            )
            if isinstance(entries[-1].action, Lock):
                made.append(entries[-1])
        chain.add(entries, time_ms=T0_MS + now, skip=rng.randrange(2))
    return chain


def chance_action(rng: random.Random, keys: list[SigningKey], made: list[Entry], now: int) -> Action:
    other = rng.choice(keys[1:] if rng.random() < 0.9 else keys).account
    amount = rng.choice([1, 1, 1, CREDIT, 10 * CREDIT])
    if made and rng.random() < 0.6:
        lock = rng.choice(made)
        if rng.random() < 0.4:
            return Expire(lock_id(lock))
        payer = next(key for key in keys if key.account == lock.account)
        return (
            claim(promise(lock, rng.choice([1, CREDIT]), payer))
            if rng.random() < 0.8
            else Claim(lock_id(lock), 0)
        )
    if rng.random() < 0.6:
        return Lock(other, amount, T0_MS + now + rng.choice([1, 10, 20, 40]), b"t" * 32)
    return Transfer(other, amount)


def test_a_thousand_blocks_and_the_root_of_the_state(tmp_path: Path) -> None:
    genesis = committee(WITNESSES[0], fee_min=5)
    chain = Chain(genesis, WITNESSES[:1])
    signed = sign_entry(
        ALICE, genesis.network_id, seq=1, not_after_ms=T0_MS + 1_000, fee=5, action=Transfer(BOB.account, 1)
    )
    chain.add([signed], time_ms=T0_MS)
    for _ in range(STATE_ROOT_INTERVAL - 1):
        chain.add(time_ms=T0_MS)
    file = tmp_path / "network.toml"
    save_network(file, NetworkFile(genesis, ()))
    last = chain.blocks[-1]
    lie = Block(replace(last.header, state_root=b"\7" * 32), ())
    blocks = [block.encode() for block in chain.blocks]
    lying = [*blocks[:-1], chain.certified(lie, Kind.FINAL).encode()]
    sound, wrong = ask(tmp_path, [["ledger", str(file), given(framed(each))] for each in (blocks, lying)])
    assert sound["ok"], sound
    assert sound["state_root"] == last.header.state_root.hex()
    assert (wrong.get("error"), wrong.get("height")) == ("state_root", 1_000)


def test_network_files(tmp_path: Path, network: str) -> None:
    text = Path(network).read_text()
    peer = peer_id(BOB.account)
    entry_point = f"/ip4/192.0.2.1/tcp/4710/p2p/{peer_id(WITNESSES[0].account)}"
    assert entry_point in text
    changed = {
        "as written": text,
        "without entry points": format_network(NetworkFile(GENESIS, ())),
        "another name": text.replace('name = "foreign"', 'name = "mine"'),
        "another id": text.replace(NETWORK_ID.hex(), "00" * 32),
        "id in capitals": text.replace(NETWORK_ID.hex(), NETWORK_ID.hex().upper()),
        "a key more": text.replace("schema = 1", "schema = 1\nmore = 1"),
        "a key less": text.replace("schema = 1\n", ""),
        "another schema": text.replace("schema = 1", "schema = 2"),
        "schema as text": text.replace("schema = 1", 'schema = "1"'),
        "a key twice": text.replace("schema = 1", "schema = 1\nschema = 1"),
        "base64 in two lines": text.replace('genesis = "Ag', 'genesis = "Ag\\n'),
        "base64 without its end": text.replace('=="', '"') if '=="' in text else text.replace('="', '"'),
        "an address without a peer": text.replace(entry_point, "/ip4/192.0.2.1/tcp/4710"),
        "an address twice": text.replace(f'"{entry_point}",', f'"{entry_point}",\n"{entry_point}",'),
        "over UDP": text.replace(entry_point, f"/ip4/192.0.2.1/udp/4710/quic-v1/p2p/{peer}"),
        "by name": text.replace("ip4/192.0.2.1", "dns/example.org"),
        "by IPv6": text.replace("ip4/192.0.2.1", "ip6/2001:db8::1"),
        "through a relay": text.replace(entry_point, f"{entry_point}/p2p-circuit/p2p/{peer}"),
        "a weak peer": text.replace(entry_point, entry_point[:27] + peer_id(bytes([1]) + bytes(31))),
    }
    assert taken(tmp_path, changed) == ({"as written", "without entry points", "by name", "by IPv6"},) * 2


def test_entry_points_that_are_no_addresses(tmp_path: Path, network: str) -> None:
    text = Path(network).read_text()
    changed = {
        "port 0": text.replace("tcp/4710", "tcp/0"),
        "port 65536": text.replace("tcp/4710", "tcp/65536"),
        "port 04710": text.replace("tcp/4710", "tcp/04710"),
        "a host of five": text.replace("192.0.2.1", "192.0.2.1.1"),
        "a host of 256": text.replace("192.0.2.1", "192.0.2.256"),
    }
    assert taken(tmp_path, changed) == (set(), set())


def taken(tmp_path: Path, files: dict[str, str]) -> tuple[set[str], set[str]]:
    """The names of the network files that they take, and that we take."""
    answers = ask(tmp_path, [["network", given(each.encode())] for each in files.values()])
    ours = set()
    for name, each in files.items():
        try:
            parse_network(each)
        except NetworkFileError:
            continue
        ours.add(name)
    return {name for name, answer in zip(files, answers, strict=True) if answer["ok"]}, ours


def test_genesis_vouchers_and_terms(tmp_path: Path, network: str) -> None:
    genesis = GENESIS.encode()
    voucher = promise(PAID, 3 * CREDIT).encode()
    terms = Terms(
        buyer=ALICE.account,
        worker=BOB.account,
        job_id=b"j" * 32,
        nonce=b"n" * 16,
        module_sha256=b"m" * 32,
        module_bytes=1_024,
        price_per_tfuel=50_000,
        amount=5 * CREDIT,
        expiry_ms=T0_MS + HOUR_MS,
        fuel_max=10**12,
        memory_bytes_max=2**28,
        wall_ms_max=60_000,
        output_bytes_max=2**20,
        window_units=8,
        replicas=2,
    )
    data = terms.encode()
    signatures = [sign_terms(terms, key, NETWORK_ID).hex() for key in (ALICE, BOB)]
    payer = peer_id(ALICE.account)
    good = ask(
        tmp_path,
        [
            ["genesis", given(genesis)],
            ["voucher", network, given(voucher), payer],
            ["terms", network, given(data), *signatures],
            ["block", network, given(CHAIN.blocks[0].encode())],
        ],
    )
    assert [answer["ok"] for answer in good] == [True] * 4, good
    assert good[0]["network_id"] == NETWORK_ID.hex()
    assert good[2]["terms_hash"] == terms.terms_hash(NETWORK_ID).hex()

    questions: list[list[str]] = []
    refused_here: list[bool] = []
    for at in range(len(genesis)):
        questions.append(["genesis", given(flipped(genesis, at))])
        refused_here.append(refuses(Genesis.decode, flipped(genesis, at)))
    for at in range(len(data)):
        questions.append(["terms", network, given(flipped(data, at)), *signatures])
        refused_here.append(True)
    for at in range(len(voucher)):
        questions.append(["voucher", network, given(flipped(voucher, at)), payer])
        refused_here.append(True)
    answers = ask(tmp_path, questions)
    assert [not answer["ok"] for answer in answers] == refused_here
    for question, answer in zip(questions, answers, strict=True):
        record = bytes.fromhex(question[1 if question[0] == "genesis" else 2].removeprefix("hex:"))
        decode = {"genesis": Genesis.decode, "terms": decode_terms, "voucher": decode_voucher}[question[0]]
        assert (answer.get("error") == "WireError") == refuses(decode, record), (question[0], answer)


def refuses(decode: Any, record: bytes) -> bool:
    try:
        decode(record)
    except WireError:
        return True
    return False


def test_adverts(tmp_path: Path, network: str) -> None:
    advert = Advert(
        kinds=("wasm",),
        owner=ALICE.account,
        slots_free=3,
        runtimes={"wasm": "wasmtime 50"},
        rates={"wasm": 10**9},
        price_per_tfuel=50_000,
        name="mill",
        addresses=(f"/ip4/192.0.2.1/tcp/4101/p2p/{peer_id(BOB.account)}",),
    )

    def sealed(kind: EnvelopeKind, body: bytes) -> bytes:
        return seal(
            BOB, NETWORK_ID, kind=kind, sequence=T0_MS, now_ms=T0_MS, lifetime_ms=60_000, body=body
        ).encode()

    said = sealed(EnvelopeKind.ADVERT, advert.encode())
    withdrawn = sealed(EnvelopeKind.WITHDRAWAL, b"")
    now = str(T0_MS)
    good = ask(tmp_path, [["envelope", network, given(each), now] for each in (said, withdrawn)])
    assert [answer["ok"] for answer in good] == [True, True], good
    assert good[0]["id"] == open_envelope(said, NETWORK_ID, T0_MS).envelope_id().hex()
    assert good[0]["addresses"] == list(advert.addresses)
    assert good[1]["withdrawn"]
    times = {
        T0_MS + 359_999: None,
        T0_MS + 360_000: "expired",
        T0_MS - 300_000: None,
        T0_MS - 300_001: "future",
    }
    answers = ask(tmp_path, [["envelope", network, given(said), str(at)] for at in times])
    assert [answer.get("error") for answer in answers] == list(times.values())
    questions = [["envelope", network, given(flipped(said, at)), now] for at in range(0, len(said), 3)]
    questions += [["envelope", network, given(sealed(EnvelopeKind.WITHDRAWAL, b"x")), now]]
    body = advert.encode()
    changed = [sealed(EnvelopeKind.ADVERT, flipped(body, at)) for at in range(len(body))]
    changed += [sealed(EnvelopeKind.ADVERT, msgpack.packb(each)) for each in odd_bodies()]
    questions += [["envelope", network, given(each), now] for each in changed]
    for question, answer in zip(questions, ask(tmp_path, questions), strict=True):
        judged = AdvertBook(NETWORK_ID).offer(bytes.fromhex(question[2].removeprefix("hex:")), T0_MS)
        reason = judged.reason.value if isinstance(judged, Refusal) else None
        assert answer.get("error") == reason, (question[2], answer, judged)


def test_tasks_and_outcomes(tmp_path: Path) -> None:
    limits = Limits(fuel=10**6, memory_bytes=2**20, wall_s=2.5, output_bytes=4_096)
    tasks = [
        WasmTask(b"m" * 32, "_start", ("7", "ü", ""), b"in", limits),
        WasmTask(b"m" * 32, "sum", ("1",), b"", limits),
    ]
    outcomes = [
        Outcome(Status.EXIT, 7, b"hello", 100_049, b"\xff", 0.0035, 0.004, 2**24),
        Outcome(Status.TIMEOUT, wall_s=2.5),
    ]
    questions: list[list[str]] = []
    expected: list[str | None] = []
    for name, decode, records in (("task", WasmTask.decode, tasks), ("outcome", Outcome.decode, outcomes)):
        for record in (each.encode() for each in records):
            changed = [
                record[:at] + bytes([byte]) + record[at + 1 :]
                for at in range(len(record))
                for byte in (0, 1, 255)
            ]
            for each in (record, record[:-1], record + b"\0", *changed):
                questions.append([name, given(each)])
                try:
                    expected.append(decode(each).digest().hex())
                except ExecutorWireError:
                    expected.append(None)
    answers = ask(tmp_path, questions)
    for question, answer, digest in zip(questions, answers, expected, strict=True):
        assert answer.get("digest") == digest, (question, answer)
    assert None in expected


def odd_bodies() -> list[dict[str, Any]]:
    """Adverts at the edges of R10.6, some good and some not."""
    body: dict[str, Any] = {"kinds": ["wasm"], "owner": BOB.account, "slots_free": 1}
    bob, other = peer_id(BOB.account), peer_id(ALICE.account)
    at = "/ip4/192.0.2.1/tcp/1"
    texts = [
        "ü",
        "日本",
        "\U0001f600" * 8,
        "\U0001f600" * 9,
        "a\x7f",
        "\u200b",
        "\u00a0",
        " x ",
        "x" * 32,
        "x" * 33,
        "",
    ]
    addresses = [
        [f"{at}/p2p/{bob}"] * 2,
        [f"{at}/p2p/{other}/p2p-circuit/p2p/{bob}"],
        [f"{at}/p2p/{bob}/p2p-circuit/p2p/{other}"],
        [f"{at}/p2p/{other}"],
        [at],
        [f"{at}/p2p/{bob}"] * 9,
        [f"/ip6/2001:db8::1/tcp/1/p2p/{bob}"],
        [f"/ip6/::ffff:192.0.2.1/tcp/1/p2p/{bob}"],
        [f"/ip6/2001:db8::/tcp/1/p2p/{bob}"],
        [f"/ip6/2001:db8:::1/tcp/1/p2p/{bob}"],
        [f"/ip6/fe80::1%eth0/tcp/1/p2p/{bob}"],
        [f"/ip4/192.0.2.01/tcp/1/p2p/{bob}"],
        [f"/dns/example.org/tcp/1/p2p/{bob}"],
        [f"/dns/example.org./tcp/1/p2p/{bob}"],
        [f"/dns/exa_mple.org/tcp/1/p2p/{bob}"],
        [f"/dns/-a/tcp/1/p2p/{bob}"],
        [f"/ip4/192.0.2.1/tcp/01/p2p/{bob}"],
        [f"/ip4/192.0.2.1/udp/1/p2p/{bob}"],
    ]
    return [
        *(body | {"name": each} for each in texts),
        *(body | {"addresses": each} for each in addresses),
        *(
            body | {"kinds": each}
            for each in ([], ["a"] * 2, ["A"], ["a" * 24], ["a" * 25], [f"k{i}" for i in range(17)])
        ),
        *(body | {"runtimes": {key: "1"}} for key in ("other", "Wasm", "")),
        *(body | {"rates": {"other": each}} for each in (0, 2**62, 2**62 + 1, -1, 1.0, True)),
        *(body | {"cores": each} for each in (0, 4_096, 4_097, True, None)),
        body | {"relayed": 1},
        body | {"later": {"any": [1.5, None]}},
        body | {f"f{i}": 1 for i in range(61)},
        body | {f"f{i}": 1 for i in range(62)},
        body | {"later": [0] * 1_025},
        {key: value for key, value in body.items() if key != "owner"},
        body | {"owner": bytes([1]) + bytes(31)},
        body | {"owner": bytes([2]) + bytes(31)},
    ]
