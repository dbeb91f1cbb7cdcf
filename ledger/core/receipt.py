"""A receipt proves, to anyone who holds the genesis record, that an entry is in the final log (SPEC.md §7)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ledger.core.approvals import rekey_body
from ledger.core.encoding import Kind, Reader, WireError
from ledger.core.entries import NO_KEY, Entry, Rekey, take_entry, verify_entry
from ledger.core.handover import BadHandover, Handover, follow, take_handover
from ledger.core.heads import CertifiedHeader, certify, take_certified_header
from ledger.core.keys import AccountId, verify
from ledger.core.merkle import NODE_BYTES, PROOF_NODES_MAX, leaf_hash, verify_inclusion

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.block import FinalBlock, Header
    from ledger.core.committee import Committee
    from ledger.core.encoding import NetworkId
    from ledger.core.genesis import Genesis
    from ledger.core.merkle import MerkleLog

__all__ = [
    "HANDOVERS_MAX",
    "RECEIPT_BYTES_MAX",
    "REKEYS_MAX",
    "Leaf",
    "Receipt",
    "ReceiptError",
    "ReceiptFault",
    "receipt_for",
]

RECEIPT_BYTES_MAX: Final = 256 << 10
"""Room for more than a hundred rotations of small committees; who follows the committees needs none of them."""
HANDOVERS_MAX: Final = (1 << 16) - 1
REKEYS_MAX: Final = 255
_INDEX_MAX: Final = (1 << 63) - 1


class ReceiptFault(StrEnum):
    """Which of a receipt's proofs fails."""

    REKEY = "rekey"
    SIGNATURE = "signature"
    INCLUSION = "inclusion"
    BLOCK = "block"
    HANDOVER = "handover"
    CERTIFICATE = "certificate"


class ReceiptError(ValueError):
    """A receipt that proves nothing; `reason` says which of its proofs fails."""

    def __init__(self, reason: ReceiptFault, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Leaf:
    """`entry` is leaf `index` of a log, by the way that `path` goes to its root."""

    entry: Entry
    index: int
    path: tuple[bytes, ...]

    def __post_init__(self) -> None:
        if not 0 <= self.index <= _INDEX_MAX or len(self.path) > PROOF_NODES_MAX:
            raise WireError("receipt: the index or the path is longer than any log's")
        if any(len(node) != NODE_BYTES for node in self.path):
            raise WireError(f"receipt: a node of the path has {NODE_BYTES} bytes")

    def is_in(self, header: Header) -> bool:
        """Whether the log under `header` holds it there."""
        leaf = leaf_hash(self.entry.encode())
        return verify_inclusion(self.index, header.tree_size, leaf, self.path, header.log_root)

    def encode(self) -> bytes:
        """Entry, index (8 bytes), length of the path (1 byte), path."""
        head = self.entry.encode() + self.index.to_bytes(8, "big")
        return b"".join((head, bytes((len(self.path),)), *self.path))


@dataclass(frozen=True, slots=True)
class Receipt:
    """`leaf` is in the log under `head`, which the committee of its epoch made final.

    The header need not be that of the block that holds the entry: any later one proves it too. `handovers` lead from
    genesis to the committee, none in epoch 0; `rekeys` are all the REKEYs of the entry's account before it.
    """

    leaf: Leaf
    head: CertifiedHeader
    handovers: tuple[Handover, ...] = ()
    rekeys: tuple[Leaf, ...] = ()

    def __post_init__(self) -> None:
        if len(self.handovers) > HANDOVERS_MAX or len(self.rekeys) > REKEYS_MAX:
            raise WireError("receipt: more handovers or REKEYs than their counts can say")
        if any(not isinstance(rekey.entry.action, Rekey) for rekey in self.rekeys):
            raise WireError("receipt: an entry among the REKEYs is none")

    @property
    def entry(self) -> Entry:
        """What is proved to be in the log."""
        return self.leaf.entry

    @property
    def index(self) -> int:
        """Where in the log."""
        return self.leaf.index

    @property
    def header(self) -> Header:
        """The final header whose log holds it."""
        return self.head.header

    def encode(self) -> bytes:
        """Leaf, certified header, handovers behind their count (2 bytes), REKEYs behind theirs (1 byte)."""
        return b"".join(
            (
                self.leaf.encode(),
                self.head.encode(),
                len(self.handovers).to_bytes(2, "big"),
                *(handover.encode() for handover in self.handovers),
                bytes((len(self.rekeys),)),
                *(rekey.encode() for rekey in self.rekeys),
            )
        )

    @staticmethod
    def decode(data: bytes) -> Receipt:
        """The receipt in `data`; any other bytes are a `WireError`."""
        if len(data) > RECEIPT_BYTES_MAX:
            raise WireError(f"receipt of {len(data)} bytes, at most {RECEIPT_BYTES_MAX} allowed")
        leaf, at = _take_leaf(data, 0)
        reader = Reader(data[at:], "receipt")
        head, count = take_certified_header(reader), reader.uint(2)
        at = len(data) - reader.remaining
        handovers = []
        for _ in range(count):
            handover, at = take_handover(data, at)
            handovers.append(handover)
        if at >= len(data):
            raise WireError("receipt: the number of REKEYs is missing")
        count, at = data[at], at + 1
        rekeys = []
        for _ in range(count):
            rekey, at = _take_leaf(data, at)
            rekeys.append(rekey)
        if at != len(data):
            raise WireError(f"receipt: {len(data) - at} bytes too many")
        return Receipt(leaf, head, tuple(handovers), tuple(rekeys))

    def verify(self, genesis: Genesis, known: Committee | None = None) -> None:
        """Return if all proofs hold on the network of `genesis`; else raise `ReceiptError`.

        Nothing but the genesis record is needed: no peer, no state, no clock. Who follows the committees may name one
        that it has verified, as `known`: handovers up to it are then neither needed nor looked at.
        """
        header, network_id = self.header, genesis.network_id
        if not verify_entry(self.entry, network_id, self.signer(network_id)):
            raise ReceiptError(ReceiptFault.SIGNATURE, "the account did not sign this entry on this network")
        if not self.leaf.is_in(header):
            raise ReceiptError(ReceiptFault.INCLUSION, "the entry is not at this place of the header's log")
        if not self.head.links(network_id):
            raise ReceiptError(ReceiptFault.BLOCK, "the certificate does not make this header final")
        committee = self._committee(genesis, known)
        if not self.head.certificate.verify(committee):
            detail = f"not {committee.quorum} witnesses of epoch {committee.epoch} signed the header"
            raise ReceiptError(ReceiptFault.CERTIFICATE, detail)

    def _committee(self, genesis: Genesis, known: Committee | None) -> Committee:
        """The committee of the header's epoch, by the handovers."""
        start = genesis.committee
        if known is not None and known.network_id == genesis.network_id and known.epoch <= self.header.epoch:
            start = known
        ahead = [handover for handover in self.handovers if handover.epoch >= start.epoch]
        try:
            committee = follow(start, ahead)
        except (BadHandover, WireError) as error:
            raise ReceiptError(ReceiptFault.HANDOVER, f"a handover proves nothing: {error}") from error
        if committee.epoch != self.header.epoch:
            detail = f"the handovers lead to epoch {committee.epoch}, the header is of {self.header.epoch}"
            raise ReceiptError(ReceiptFault.HANDOVER, detail)
        return committee

    def signer(self, network_id: NetworkId) -> AccountId:
        """The key that must have signed the entry, by the REKEYs before it; `ReceiptError` if they prove nothing."""
        account, key, recovery = self.entry.account, self.entry.account, NO_KEY
        last_index = -1
        for seq, rekey in enumerate(self.rekeys, start=1):
            entry, action = rekey.entry, rekey.entry.action
            if not isinstance(action, Rekey) or (entry.account, entry.seq) != (account, seq):
                raise ReceiptError(ReceiptFault.REKEY, f"REKEY {seq} of this account is missing")
            if not last_index < rekey.index < self.index or not rekey.is_in(self.header):
                detail = f"REKEY {seq} is not at its place of the header's log, before the entry"
                raise ReceiptError(ReceiptFault.REKEY, detail)
            signer = key if recovery == NO_KEY else recovery
            body = rekey_body(account, seq, action.new_key, action.recovery)
            signed = verify_entry(entry, network_id, signer)
            if not signed or not verify(action.new_key, action.proof, Kind.REKEY, network_id, body):
                raise ReceiptError(ReceiptFault.REKEY, f"a signature of REKEY {seq} is wrong")
            key, recovery, last_index = action.new_key, action.recovery, rekey.index
        if isinstance(self.entry.action, Rekey):
            if self.entry.seq != len(self.rekeys) + 1:
                raise ReceiptError(ReceiptFault.REKEY, "a REKEY of this account is missing")
            return key if recovery == NO_KEY else recovery
        return key


def receipt_for(
    entry: Entry,
    index: int,
    log: MerkleLog,
    *blocks: FinalBlock,
    handovers: Iterable[Handover] = (),
    rekeys: Iterable[tuple[Entry, int]] = (),
) -> Receipt:
    """The receipt of leaf `index` under the first of `blocks`, which follow one another up to a FINAL certificate.

    `ValueError` if none of them has one. `log` holds at least the leaves under the first block; `IndexError` if it, or
    the block, does not reach `index`. `rekeys` are (entry, index) of the account's REKEYs before the entry.
    """
    head = certify(blocks)
    if head is None:
        raise ValueError("a receipt needs a block with a final certificate of its own, or of a descendant")
    size = head.header.tree_size
    proved = [Leaf(item, at, log.inclusion_proof(at, size)) for item, at in ((entry, index), *rekeys)]
    return Receipt(proved[0], head, tuple(handovers), tuple(proved[1:]))


def _take_leaf(data: bytes, at: int) -> tuple[Leaf, int]:
    entry, at = take_entry(data, at)
    reader = Reader(data[at : at + 9 + PROOF_NODES_MAX * NODE_BYTES], "receipt")
    size = reader.remaining
    index, nodes = reader.uint(8), reader.uint(1)
    if nodes > PROOF_NODES_MAX:
        raise WireError(f"receipt: a path of {nodes} nodes, at most {PROOF_NODES_MAX} allowed")
    path = tuple(reader.take(NODE_BYTES) for _ in range(nodes))
    return Leaf(entry, index, path), at + size - reader.remaining
