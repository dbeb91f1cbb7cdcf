"""Light clients, split views and evidence: the verifier in JavaScript answers each as we do."""

from __future__ import annotations

import json
from collections import Counter
from itertools import product
from random import Random
from typing import TYPE_CHECKING, Any

from bootstrap.genesis import NetworkFile, save_network
from ledger.core.encoding import Kind, WireError
from ledger.core.evidence import decode_evidence
from ledger.core.handover import Handover
from ledger.core.heads import CertifiedHeader
from ledger.core.keys import peer_id
from ledger.core.light import LightClient, LightFault, compare
from ledger.core.votes import NO_BLOCK, sign_vote
from tests.core.ledger.epoch_forge import EpochForge
from tests.core.ledger.ledger_forge import WITNESSES, key
from tests.core.ledger.test_evidence import examples
from tests.e2e.foreign import NEEDS_NODE, ask, flipped, given

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from ledger.core.keys import SigningKey

pytestmark = NEEDS_NODE

SECOND = [key(n) for n in range(21, 26)]
THIRD = [key(n) for n in range(31, 35)]
WALKS = 60


def grow(forge: EpochForge, random: Random, epochs: Sequence[Sequence[SigningKey]]) -> EpochForge:
    for keys in (*epochs, None):
        for _ in range(random.randrange(1, 4)):
            changes = {"time_ms": random.choice((forge.genesis.created_ms + 10**6, 2 * 10**6))}
            forge.block(
                kind=random.choice((Kind.FINAL, Kind.NOTAR)), **changes if random.random() < 0.1 else {}
            )
        forge.block()
        if keys is not None:
            forge.rotate(keys, void=random.randrange(3))
    return forge


def forest(random: Random) -> list[EpochForge]:
    """A chain of several epochs, and others that part from it in every one of them."""
    trunk = grow(EpochForge(), random, random.choice(([], [SECOND])))
    others = [grow(trunk.copy(), random, random.choice(([], [THIRD]))) for _ in range(2)]
    return [trunk, *others, grow(EpochForge(), random, [SECOND, THIRD]), grow(trunk, random, [THIRD])]


def shown(
    random: Random, forges: list[EpochForge], client: LightClient
) -> tuple[CertifiedHeader | Handover, Any]:
    """Something that a source might show, and a proof with it that may be right."""
    forge = random.choice((forges[0], *forges))
    what: CertifiedHeader | Handover = random.choice(forge.heads)
    roll = random.random()
    if roll < 0.4 and forge.handovers:
        what = random.choice(forge.handovers)
    elif roll < 0.6:
        closed = [block.closing for block in forge.blocks if block.closing is not None]
        if closed:
            closing = random.choice(closed)
            what = CertifiedHeader(closing.headers[-1], closing.certificate)
    head = what.head if isinstance(what, Handover) else what
    old, new = 0 if client.head is None else client.head.header.tree_size, head.header.tree_size
    if not old or random.random() < 0.1:
        return what, ()
    path = forge.log.consistency_proof(old, new) if old <= new else ()
    return what, path[:-1] if random.random() < 0.05 else path


def network_file(tmp_path: Path, forge: EpochForge) -> str:
    path = tmp_path / "network.toml"
    save_network(path, NetworkFile(forge.genesis, ()))
    return str(path)


def test_light_clients_go_the_same_way(tmp_path: Path) -> None:
    questions, expected = [], []
    for seed in range(WALKS):
        random = Random(seed)
        forges = forest(random)
        client = LightClient(forges[0].genesis)
        steps, said = [], []
        for _ in range(25):
            what, path = shown(random, forges, client)
            act = client.hand_over if isinstance(what, Handover) else client.advance
            refusal = act(what, path)  # type: ignore[operator]
            said.append(refusal and refusal.fault.value)
            name = "handover" if isinstance(what, Handover) else "head"
            steps.append({name: what.encode().hex(), "path": [node.hex() for node in path]})
        file = tmp_path / f"walk{seed}.json"
        file.write_text(json.dumps(steps))
        questions.append(["follow", network_file(tmp_path, forges[0]), str(file)])
        expected.append((said, client.committee.epoch, client.height))
    seen: Counter[str | None] = Counter()
    for ours, answer in zip(expected, ask(tmp_path, questions), strict=True):
        assert answer["ok"], answer
        assert (answer["said"], answer["epoch"], answer["height"]) == ours
        seen.update(ours[0])
    assert seen.keys() == {None, *(fault.value for fault in LightFault)}


def test_split_views(tmp_path: Path) -> None:
    questions, expected = [], []
    for seed in range(20):
        random = Random(1000 + seed)
        forges = forest(random)
        genesis = forges[0].genesis
        heads = [head for forge in forges for head in forge.heads]
        for _ in range(40):
            one, other = random.choice(heads), random.choice(heads)
            questions.append(
                ["split", network_file(tmp_path, forges[0]), given(one.encode()), given(other.encode())]
            )
            expected.append(compare(one, other, genesis.network_id) is not None)
    for question, answer, ours in zip(questions, ask(tmp_path, questions), expected, strict=True):
        assert answer["split"] == ours, question
    assert 0 < sum(expected) < len(expected)


def test_evidence_and_every_change_of_it(tmp_path: Path) -> None:
    random = Random(4)
    trunk = EpochForge()
    network, handovers = network_file(tmp_path, trunk), []
    records = [each.encode() for each in examples()]
    said = [*product((Kind.NOTAR, Kind.FINAL), (b"\1" * 32, b"\2" * 32)), (Kind.SKIP, NO_BLOCK)]
    votes = [
        sign_vote(WITNESSES[2], trunk.committee, kind, slot=slot, block_hash=block_hash).encode()
        for kind, block_hash in said
        for slot in (7, 8)
    ]
    records += [b"\1" + one + other for one, other in product(votes, votes)]
    trunk.block()
    handovers = [trunk.rotate(SECOND)]
    twins = [grow(trunk.copy(), random, []) for _ in range(6)]
    records += [fork(one.heads[-1], other.heads[-1]) for one, other in product(twins, twins)]
    records += [fork(one.heads[0], other.heads[0]) for one, other in product(forest(random), forest(random))]
    copies = [flipped(record, at) for record in records[:3] for at in range(0, len(record), 2)]
    copies += [flipped(record, random.randrange(len(record))) for record in records for _ in range(3)]
    copies += [record[:-1] for record in records]
    copies += [record[:1] + record[142:] + record[1:142] for record in records[:3]]
    committees = [trunk.genesis.committee, trunk.committee]
    after = [given(handover.encode()) for handover in handovers]
    questions = [["evidence", network, given(each), *after] for each in (*records, *copies)]
    seen: Counter[str] = Counter()
    for question, answer in zip(questions, ask(tmp_path, questions), strict=True):
        try:
            evidence = decode_evidence(bytes.fromhex(question[2].removeprefix("hex:")))
        except WireError:
            assert answer.get("error") == "WireError", (question[2], answer)
            seen["WireError"] += 1
            continue
        if evidence.epoch > 1:
            assert answer["error"] == "handover", answer
            continue
        committee = committees[evidence.epoch]
        assert answer["ok"] == evidence.verify(committee), (evidence, answer)
        if answer["ok"]:
            assert answer["culprits"] == [peer_id(account) for account in evidence.culprits(committee)]
            if not answer["culprits"]:
                assert answer["suspects"] == [peer_id(account) for account in evidence.suspects(committee)]
        seen[f"{type(evidence).__name__} {answer['ok']}"] += 1
    assert len(seen) == 7, seen


def fork(one: CertifiedHeader, other: CertifiedHeader) -> bytes:
    return b"\3" + b"".join(sorted((one.encode(), other.encode())))
