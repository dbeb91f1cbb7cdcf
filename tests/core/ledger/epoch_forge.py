"""A ledger of several epochs in memory: certificates and proofs are real, the rules of entries are not asked."""

from __future__ import annotations

from copy import copy, deepcopy
from typing import TYPE_CHECKING, Any

from ledger.core.block import NO_BLOCK, NO_ROOT, Certificate, Closing, FinalBlock, Header
from ledger.core.committee import Committee
from ledger.core.encoding import Kind
from ledger.core.entries import NO_APPROVALS, Action, Entry, Rotate, Transfer, sign_entry
from ledger.core.handover import Handover
from ledger.core.heads import CertifiedHeader, certify
from ledger.core.merkle import MerkleLog
from ledger.core.votes import sign_vote
from tests.core.ledger.ledger_forge import ALICE, BOB, FOREVER_MS, WITNESSES, genesis

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.core.genesis import Genesis
    from ledger.core.keys import SigningKey


class EpochForge:
    """`block` after block, and now and then a `rotate`; `copy` it and go on differently to make a fork."""

    def __init__(self, network: Genesis | None = None) -> None:
        self.genesis = network if network is not None else genesis()
        self.committee = self.genesis.committee
        self.keys: Sequence[SigningKey] = WITNESSES[: self.committee.n]
        self.log = MerkleLog()
        self.heads: list[CertifiedHeader] = []
        self.blocks: list[FinalBlock] = []
        self.handovers: list[Handover] = []
        self._seqs: dict[bytes, int] = {}

    def copy(self) -> EpochForge:
        """A ledger that goes on from here without this one."""
        twin = copy(self)
        twin.log = deepcopy(self.log)
        twin.heads, twin.blocks, twin.handovers = [*self.heads], [*self.blocks], [*self.handovers]
        twin._seqs = {**self._seqs}
        return twin

    def sign(
        self,
        action: Action,
        key: SigningKey = ALICE,
        signer: SigningKey | None = None,
        seq: int | None = None,
    ) -> Entry:
        """The next entry of the account of `key`, unless `seq` says otherwise; signed by `signer` if it has rekeyed."""
        if seq is None:
            seq = self._seqs[key.account] = self._seqs.get(key.account, 0) + 1
        return sign_entry(
            signer or key,
            self.genesis.network_id,
            seq=seq,
            not_after_ms=FOREVER_MS,
            fee=0,
            action=action,
            account=key.account,
        )

    def block(
        self,
        entries: Iterable[Entry] | None = None,
        *,
        kind: Kind = Kind.FINAL,
        void: int = 0,
        **changes: Any,
    ) -> FinalBlock:
        """Append a block with one TRANSFER, unless told; `heads` gets it when a FINAL certificate covers it."""
        chosen = (self.sign(Transfer(BOB.account, 1)),) if entries is None else tuple(entries)
        for entry in chosen:
            self.log.append(entry.encode())
        header = self.header(self.blocks[-1].header if self.blocks else None, len(chosen), **changes)
        closing = self._closing(header, void) if void else None
        certificate = self.certify(header, Kind.NOTAR if void else kind)
        block = FinalBlock(header, chosen, certificate, closing)
        self.blocks.append(block)
        self._cover()
        return block

    def header(self, parent: Header | None, count: int, **changes: Any) -> Header:
        height = parent.height + 1 if parent else 1
        fields: dict[str, Any] = {
            "epoch": self.committee.epoch,
            "slot": parent.slot + 1 if parent else 1,
            "height": height,
            "parent_slot": parent.slot if parent else 0,
            "parent_hash": parent.hash(self.genesis.network_id) if parent else NO_BLOCK,
            "time_ms": self.genesis.created_ms + 1000 * height,
            "tree_size": self.log.size,
            "log_root": self.log.root(),
            "state_root": NO_ROOT,
            "count": count,
        }
        return Header(**(fields | changes))

    def rotate(self, keys: Sequence[SigningKey], *, void: int = 0) -> Handover:
        """End the epoch; with `void`, that many blocks of no effect stand above its last one to make it final."""
        action = Rotate(self.committee.epoch + 1, tuple(key.account for key in keys), NO_APPROVALS)
        entry = self.sign(action)
        last = self.block([entry], void=void)
        head = self.heads[-1]
        path = self.log.inclusion_proof(last.header.tree_size - 1, last.header.tree_size)
        handover = Handover(entry, path, head)
        self.handovers.append(handover)
        self.committee = Committee(self.genesis.network_id, self.committee.epoch + 1, action.witnesses)
        self.keys = keys
        return handover

    def certify(
        self, header: Header, kind: Kind = Kind.FINAL, signers: Sequence[SigningKey] | None = None
    ) -> Certificate:
        """A certificate by `signers`; the first quorum of the epoch's witnesses unless told."""
        block_hash = header.hash(self.genesis.network_id)
        accounts = [key.account for key in signers or self.keys[: self.committee.quorum]]
        chosen = [key for key in self.keys if key.account in accounts]
        votes = [sign_vote(k, self.committee, kind, slot=header.slot, block_hash=block_hash) for k in chosen]
        bitmap = sum(1 << self.committee.witnesses.index(key.account) for key in chosen)
        signatures = tuple(vote.signature for vote in votes)
        return Certificate(kind, header.epoch, header.slot, block_hash, bitmap, signatures)

    def consistency(self, old: CertifiedHeader, new: CertifiedHeader) -> tuple[bytes, ...]:
        return self.log.consistency_proof(old.header.tree_size, new.header.tree_size)

    def _closing(self, header: Header, void: int) -> Closing:
        above: list[Header] = []
        for _ in range(void):
            above.append(self.header(above[-1] if above else header, 0))
        return Closing(tuple(above), self.certify(above[-1]))

    def _cover(self) -> None:
        """Every block since the last final one is covered, if the newest is final."""
        if self.blocks[-1].is_final:
            heads = [certify(self.blocks[at:]) for at in range(len(self.heads), len(self.blocks))]
            self.heads += [head for head in heads if head is not None]
