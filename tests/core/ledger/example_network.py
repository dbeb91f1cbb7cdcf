"""The small network of SPEC.md's examples: one witness, Alice with a limit, Bob without; every byte computed."""

from __future__ import annotations

from ledger.core.block import NO_BLOCK, NO_ROOT, Certificate, Closing, FinalBlock, Header
from ledger.core.consensus import Ask, Recall, Recalled, encode_message
from ledger.core.encoding import Kind, digest, signing_bytes
from ledger.core.entries import Claim, Expire, Lock, Transfer, decode_entry, sign_entry, sign_voucher
from ledger.core.evidence import vote_pair
from ledger.core.genesis import Genesis
from ledger.core.handover import Handover
from ledger.core.heads import CertifiedHeader
from ledger.core.keys import peer_id
from ledger.core.merkle import MerkleLog, leaf_hash
from ledger.core.receipt import receipt_for
from ledger.core.state import LedgerState, Moment
from ledger.core.votes import sign_vote
from tests.core.ledger.example_entries import ALICE, BOB, CREATED_MS, WITNESS, rare_examples

NOT_AFTER_MS = CREATED_MS + 120_000
EXPIRY_MS = CREATED_MS + 3_600_000


def examples() -> dict[str, str]:
    """Name → hex (or text, for a peer id) of everything that SPEC.md §2 to §8 shows."""
    genesis = Genesis("example", CREATED_MS, (WITNESS.account,), ((ALICE.account, 1_000_000_000),))
    network_id = genesis.network_id
    transfer = sign_entry(
        ALICE,
        network_id,
        seq=1,
        not_after_ms=NOT_AFTER_MS,
        fee=10,
        action=Transfer(BOB.account, 2_500_000, digest(b"thanks")),
    )
    lock = sign_entry(
        ALICE,
        network_id,
        seq=2,
        not_after_ms=NOT_AFTER_MS,
        fee=10,
        action=Lock(BOB.account, 5_000_000, EXPIRY_MS, digest(b"terms")),
    )
    lock_id = lock.entry_id(network_id)
    voucher = sign_voucher(ALICE, network_id, lock_id, 3_000_000)
    claim_action = Claim(lock_id, voucher.cumulative, voucher.signature)
    claim = sign_entry(BOB, network_id, seq=1, not_after_ms=NOT_AFTER_MS, fee=10, action=claim_action)
    expire = sign_entry(
        BOB, network_id, seq=1, not_after_ms=EXPIRY_MS + 60_000, fee=0, action=Expire(lock_id)
    )
    rare = rare_examples(network_id)
    entries = (transfer, lock)
    log = MerkleLog(entry.encode() for entry in entries)
    state = LedgerState(genesis)
    for entry in entries:
        state.apply(entry, Moment(1, CREATED_MS + 1000, WITNESS.account))
    header = Header(0, 1, 1, 0, NO_BLOCK, CREATED_MS + 1000, log.size, log.root(), NO_ROOT, len(entries))
    block_hash = header.hash(network_id)
    final = sign_vote(WITNESS, genesis.committee, Kind.FINAL, slot=1, block_hash=block_hash)
    block = FinalBlock(header, entries, Certificate.from_votes([final], genesis.committee))
    handover = _handover(genesis, block, rare["rotate"])
    skip = sign_vote(WITNESS, genesis.committee, Kind.SKIP, slot=1)
    evidence = vote_pair(skip, final)
    assert evidence is not None
    three = MerkleLog([*(entry.encode() for entry in entries), claim.encode()])
    return {
        "witness": WITNESS.account.hex(),
        "alice": ALICE.account.hex(),
        "alice peer id": peer_id(ALICE.account),
        "bob": BOB.account.hex(),
        "genesis": genesis.encode().hex(),
        "network id": network_id.hex(),
        "voucher signing bytes": signing_bytes(Kind.VOUCHER, network_id, voucher.encode()[:40]).hex(),
        "transfer": transfer.encode().hex(),
        "transfer id": transfer.entry_id(network_id).hex(),
        "lock": lock.encode().hex(),
        "lock id": lock_id.hex(),
        "voucher": voucher.encode().hex(),
        "claim": claim.encode().hex(),
        "expire": expire.encode().hex(),
        **rare,
        "leaf 0": leaf_hash(transfer.encode()).hex(),
        "leaf 1": leaf_hash(lock.encode()).hex(),
        "leaf 2": leaf_hash(claim.encode()).hex(),
        "root of 2": three.root(2).hex(),
        "root of 3": three.root(3).hex(),
        "snapshot": state.snapshot().hex(),
        "state root": state.root().hex(),
        "header": header.encode().hex(),
        "block hash": block_hash.hex(),
        "final vote": final.encode().hex(),
        "certificate": block.certificate.encode().hex(),
        "receipt": receipt_for(transfer, 0, log, block).encode().hex(),
        "handover": handover.encode().hex(),
        "evidence": evidence.encode().hex(),
        "closing": _closing(genesis, handover.head.header).encode().hex(),
        "ask": encode_message(Ask(7, 5, NO_BLOCK)).hex(),
        "recall": encode_message(Recall(0, 5)).hex(),
        "recalled": encode_message(Recalled(0, 5, 7, ())).hex(),
    }


def _closing(genesis: Genesis, last: Header) -> Closing:
    """What would close the epoch above the second block, had that got no FINAL certificate of its own."""
    network_id = genesis.network_id
    parent = last.hash(network_id)
    void = Header(0, 3, 3, 2, parent, CREATED_MS + 3000, last.tree_size, last.log_root, NO_ROOT, 0)
    vote = sign_vote(WITNESS, genesis.committee, Kind.FINAL, slot=3, block_hash=void.hash(network_id))
    closing = Closing((void,), Certificate.from_votes([vote], genesis.committee))
    if not closing.verify(last, genesis.committee):
        raise ValueError("the example's closing does not close")
    return closing


def _handover(genesis: Genesis, below: FinalBlock, rotate: str) -> Handover:
    """The example's ROTATE as the only entry of a second block."""
    entry = decode_entry(bytes.fromhex(rotate))
    log = MerkleLog(item.encode() for item in (*below.entries, entry))
    parent = below.header.hash(genesis.network_id)
    header = Header(0, 2, 2, 1, parent, CREATED_MS + 2000, log.size, log.root(), NO_ROOT, 1)
    vote = sign_vote(
        WITNESS, genesis.committee, Kind.FINAL, slot=2, block_hash=header.hash(genesis.network_id)
    )
    certificate = Certificate.from_votes([vote], genesis.committee)
    return Handover(entry, log.inclusion_proof(2), CertifiedHeader(header, certificate))
