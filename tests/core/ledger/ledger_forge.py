"""A small network in memory whose blocks may break any rule: certificates are real, checks are not made."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ledger.core.block import NO_BLOCK, NO_ROOT, STATE_ROOT_INTERVAL, Certificate, FinalBlock, Header
from ledger.core.encoding import Kind
from ledger.core.entries import Action, Claim, Entry, Lock, sign_entry, sign_voucher
from ledger.core.genesis import Genesis
from ledger.core.keys import SigningKey
from ledger.core.merkle import MerkleLog
from ledger.core.receipt import Receipt, receipt_for
from ledger.core.state import LedgerState, Moment
from ledger.core.votes import sign_vote

if TYPE_CHECKING:
    from collections.abc import Iterable

CREATED_MS = 1_000_000
FOREVER_MS = CREATED_MS + 29 * 24 * 3_600_000
"""As long as any entry may be valid, and some time to spare."""


def key(number: int) -> SigningKey:
    return SigningKey(number.to_bytes(32, "big"))


WITNESSES = [key(n) for n in range(1, 8)]
ALICE, BOB, CAROL, DAVE = (key(n) for n in range(101, 105))
LIMIT = 1_000_000


def genesis(n: int = 4, **changes: Any) -> Genesis:
    fields: dict[str, Any] = {
        "name": "test",
        "created_ms": CREATED_MS,
        "witnesses": tuple(w.account for w in WITNESSES[:n]),
        "limits": ((ALICE.account, LIMIT), (BOB.account, LIMIT)),
    }
    return Genesis(**(fields | changes))


class Forge:
    """`sign` entries, put them in a `block`; `blocks` is the chain so far, `state` what the rules make of it."""

    def __init__(self, network: Genesis | None = None) -> None:
        self.genesis = network if network is not None else genesis()
        self.state = LedgerState(self.genesis)
        self.log = MerkleLog()
        self.blocks: list[FinalBlock] = []
        self.time_ms = CREATED_MS
        self._seqs: dict[bytes, int] = {}

    def sign(
        self,
        signer: SigningKey,
        action: Action,
        *,
        seq: int | None = None,
        fee: int = 0,
        not_after_ms: int = FOREVER_MS,
    ) -> Entry:
        """The next entry of `signer`, unless `seq` says otherwise."""
        if seq is None:
            seq = self._seqs[signer.account] = self._seqs.get(signer.account, 0) + 1
        return sign_entry(
            signer, self.genesis.network_id, seq=seq, not_after_ms=not_after_ms, fee=fee, action=action
        )

    def moment(self, time_ms: int, slot: int = 1, **changes: Any) -> Moment:
        """The next block of this forge, in `slot`, at `time_ms`."""
        fields = {
            "height": len(self.blocks) + 1,
            "time_ms": time_ms,
            "leader": self.genesis.committee.leader(slot),
            "epoch": 0,
        }
        return Moment(**(fields | changes))

    def claim(self, payer: SigningKey, lock_id: bytes, cumulative: int) -> Claim:
        voucher = sign_voucher(payer, self.genesis.network_id, lock_id, cumulative)
        return Claim(lock_id, cumulative, voucher.signature)

    def lock(self, payee: SigningKey, amount: int, expiry_ms: int | None = None) -> Lock:
        return Lock(payee.account, amount, self.time_ms + 60_000 if expiry_ms is None else expiry_ms)

    def entry_id(self, entry: Entry) -> bytes:
        return entry.entry_id(self.genesis.network_id)

    def block(
        self,
        entries: Iterable[Entry] = (),
        *,
        kind: Kind = Kind.FINAL,
        signers: Iterable[SigningKey] | None = None,
        **changes: Any,
    ) -> FinalBlock:
        """Append a block; `changes` replace header fields. Entries that the state refuses are put in all the same."""
        chosen = tuple(entries)
        last = self.blocks[-1].header if self.blocks else None
        self.time_ms = changes.get("time_ms", self.time_ms + 1000)
        slot = changes.get("slot", last.slot + 1 if last else 1)
        for entry in chosen:
            self.log.append(entry.encode())
            self.state.apply(entry, self.moment(self.time_ms, slot))
        self.state.close_block(self.moment(self.time_ms, slot))
        height = last.height + 1 if last else 1
        fields: dict[str, Any] = {
            "epoch": 0,
            "slot": slot,
            "height": height,
            "parent_slot": last.slot if last else 0,
            "parent_hash": last.hash(self.genesis.network_id) if last else NO_BLOCK,
            "time_ms": self.time_ms,
            "tree_size": self.log.size,
            "log_root": self.log.root(),
            "state_root": NO_ROOT if height % STATE_ROOT_INTERVAL else self.state.root(),
            "count": len(chosen),
        }
        header = Header(**(fields | changes))
        block = FinalBlock(header, chosen, self.certify(header, kind, signers))
        self.blocks.append(block)
        return block

    def certify(
        self, header: Header, kind: Kind = Kind.FINAL, signers: Iterable[SigningKey] | None = None
    ) -> Certificate:
        """A certificate by `signers`, in witness order; a quorum of them unless told."""
        committee = replace(self.genesis.committee, epoch=header.epoch)
        chosen = list(WITNESSES[: committee.quorum] if signers is None else signers)
        block_hash = header.hash(committee.network_id)
        votes = [sign_vote(s, committee, kind, slot=header.slot, block_hash=block_hash) for s in chosen]
        bitmap = sum(1 << WITNESSES.index(s) for s in chosen)
        return Certificate(
            kind, header.epoch, header.slot, block_hash, bitmap, tuple(v.signature for v in votes)
        )

    def receipt(self, index: int) -> Receipt:
        entries = [entry for block in self.blocks for entry in block.entries]
        return receipt_for(entries[index], index, self.log, self.blocks[-1])
