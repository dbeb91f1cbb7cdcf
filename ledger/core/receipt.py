"""A receipt proves, to anyone who holds the genesis record, that an entry is in the final log (SPEC.md §7)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ledger.core.block import HEADER_BYTES, FinalBlock, Header
from ledger.core.encoding import Kind, Reader, WireError
from ledger.core.entries import ENTRY_BYTES_MAX, Entry, take_entry, verify_entry
from ledger.core.merkle import NODE_BYTES, PROOF_NODES_MAX, leaf_hash, verify_inclusion
from ledger.core.votes import CERTIFICATE_BYTES_MAX, Certificate, take_certificate

if TYPE_CHECKING:
    from ledger.core.genesis import Genesis
    from ledger.core.merkle import MerkleLog

__all__ = ["RECEIPT_BYTES_MAX", "Receipt", "ReceiptError", "ReceiptFault", "receipt_for"]

RECEIPT_BYTES_MAX: Final = (
    ENTRY_BYTES_MAX + 9 + PROOF_NODES_MAX * NODE_BYTES + HEADER_BYTES + CERTIFICATE_BYTES_MAX
)


class ReceiptFault(StrEnum):
    """Which of a receipt's proofs fails."""

    SIGNATURE = "signature"
    INCLUSION = "inclusion"
    BLOCK = "block"
    CERTIFICATE = "certificate"


class ReceiptError(ValueError):
    """A receipt that proves nothing; `reason` says which of its proofs fails."""

    def __init__(self, reason: ReceiptFault, detail: str) -> None:
        super().__init__(detail)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Receipt:
    """`entry` is leaf `index` of the log under `header`, which a quorum made final.

    The header need not be the block that holds the entry: any later final one proves it too.
    """

    entry: Entry
    index: int
    path: tuple[bytes, ...]
    header: Header
    certificate: Certificate

    def __post_init__(self) -> None:
        if not 0 <= self.index < 1 << 63 or len(self.path) > PROOF_NODES_MAX:
            raise WireError("receipt: the index or the path is longer than any log's")
        if any(len(node) != NODE_BYTES for node in self.path):
            raise WireError(f"receipt: a node of the path has {NODE_BYTES} bytes")

    def encode(self) -> bytes:
        """Entry, index (8 bytes), length of the path (1 byte), path, header, certificate."""
        return b"".join(
            (
                self.entry.encode(),
                self.index.to_bytes(8, "big"),
                bytes((len(self.path),)),
                *self.path,
                self.header.encode(),
                self.certificate.encode(),
            )
        )

    @staticmethod
    def decode(data: bytes) -> Receipt:
        """The receipt in `data`; any other bytes are a `WireError`."""
        entry, end = take_entry(data, 0)
        reader = Reader(data[end:], "receipt")
        index, nodes = reader.uint(8), reader.uint(1)
        path = tuple(reader.take(NODE_BYTES) for _ in range(nodes))
        header = Header.decode(reader.take(HEADER_BYTES))
        certificate = take_certificate(reader)
        reader.end()
        return Receipt(entry, index, path, header, certificate)

    def verify(self, genesis: Genesis) -> None:
        """Return if all four proofs hold on the network of `genesis`; else raise `ReceiptError`.

        Nothing but the genesis record is needed: no peer, no state, no clock.
        """
        if not verify_entry(self.entry, genesis.network_id):
            raise ReceiptError(ReceiptFault.SIGNATURE, "the account did not sign this entry on this network")
        leaf = leaf_hash(self.entry.encode())
        if not verify_inclusion(self.index, self.header.tree_size, leaf, self.path, self.header.log_root):
            raise ReceiptError(ReceiptFault.INCLUSION, "the entry is not at this place of the header's log")
        certificate = self.certificate
        named = (certificate.kind, certificate.epoch, certificate.slot, certificate.block_hash)
        block_hash = self.header.hash(genesis.network_id)
        if named != (Kind.FINAL, self.header.epoch, self.header.slot, block_hash):
            raise ReceiptError(ReceiptFault.BLOCK, "the certificate does not make this header final")
        if not certificate.verify(genesis.committee):
            raise ReceiptError(
                ReceiptFault.CERTIFICATE,
                f"not {genesis.committee.quorum} witnesses of this network signed the header",
            )


def receipt_for(entry: Entry, index: int, log: MerkleLog, block: FinalBlock) -> Receipt:
    """The receipt of leaf `index` under `block`, which has a FINAL certificate; `ValueError` if it has not.

    `log` holds at least the leaves under `block`; `IndexError` if it, or the block, does not reach `index`.
    """
    if not block.is_final:
        raise ValueError("a receipt needs a block with a final certificate of its own")
    path = log.inclusion_proof(index, block.header.tree_size)
    return Receipt(entry, index, path, block.header, block.certificate)
