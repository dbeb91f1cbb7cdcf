"""A header that a quorum made final, as few bytes as prove it (SPEC.md §7): for readers without the ledger."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.block import HEADER_BYTES, Header
from ledger.core.encoding import Kind, Reader, WireError
from ledger.core.votes import CERTIFICATE_BYTES_MAX, Certificate, take_certificate

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.block import FinalBlock
    from ledger.core.committee import Committee
    from ledger.core.encoding import NetworkId

__all__ = [
    "CERTIFIED_HEADER_BYTES_MAX",
    "DESCENDANTS_MAX",
    "CertifiedHeader",
    "certify",
    "take_certified_header",
]

DESCENDANTS_MAX: Final = 512
"""As many slots as a witness keeps votes for: between two FINAL certificates no honest chain has more blocks."""
CERTIFIED_HEADER_BYTES_MAX: Final = HEADER_BYTES * (1 + DESCENDANTS_MAX) + 2 + CERTIFICATE_BYTES_MAX


@dataclass(frozen=True, slots=True)
class CertifiedHeader:
    """`header`, the headers of blocks that descend from it one by one, and the FINAL certificate of the last.

    Most blocks have a FINAL certificate of their own, and then there are no descendants.
    """

    header: Header
    certificate: Certificate
    descendants: tuple[Header, ...] = ()

    def __post_init__(self) -> None:
        if len(self.descendants) > DESCENDANTS_MAX:
            raise WireError(
                f"certified header: {len(self.descendants)} descendants, at most {DESCENDANTS_MAX} allowed"
            )
        named = (self.certificate.kind, self.certificate.epoch, self.certificate.slot)
        if named != (Kind.FINAL, self.header.epoch, self.last.slot):
            raise WireError("certified header: the certificate is not FINAL, or for another epoch or slot")
        if any(header.epoch != self.header.epoch for header in self.descendants):
            raise WireError("certified header: the headers are of more than one epoch")

    @property
    def last(self) -> Header:
        """The header that the certificate is for."""
        return self.descendants[-1] if self.descendants else self.header

    def links(self, network_id: NetworkId) -> bool:
        """Whether the descendants descend from the header, and the certificate is for the last of them."""
        below = self.header
        for header in self.descendants:
            named = (header.height, header.parent_slot, header.parent_hash)
            if named != (below.height + 1, below.slot, below.hash(network_id)):
                return False
            below = header
        return self.certificate.block_hash == below.hash(network_id)

    def verify(self, committee: Committee) -> bool:
        """Whether `committee`, that of the header's epoch, made the header final."""
        return self.links(committee.network_id) and self.certificate.verify(committee)

    def names(self, network_id: NetworkId) -> dict[int, bytes]:
        """Height → block hash of all that this proves final: parent, header and descendants."""
        found = {self.header.height - 1: self.header.parent_hash} if self.header.height > 1 else {}
        return found | {header.height: header.hash(network_id) for header in (self.header, *self.descendants)}

    def encode(self) -> bytes:
        """Header, number of descendants (2 bytes), their headers, certificate."""
        headers = b"".join(header.encode() for header in self.descendants)
        count = len(self.descendants).to_bytes(2, "big")
        return b"".join((self.header.encode(), count, headers, self.certificate.encode()))

    @staticmethod
    def decode(data: bytes) -> CertifiedHeader:
        """The certified header in `data`; any other bytes are a `WireError`."""
        reader = Reader(data, "certified header")
        found = take_certified_header(reader)
        reader.end()
        return found


def take_certified_header(reader: Reader) -> CertifiedHeader:
    """The certified header at the reader's place."""
    header, count = Header.decode(reader.take(HEADER_BYTES)), reader.uint(2)
    if count > DESCENDANTS_MAX:
        raise WireError(f"certified header: {count} descendants, at most {DESCENDANTS_MAX} allowed")
    descendants = tuple(Header.decode(reader.take(HEADER_BYTES)) for _ in range(count))
    return CertifiedHeader(header, take_certificate(reader), descendants)


def certify(blocks: Iterable[FinalBlock]) -> CertifiedHeader | None:
    """The first of consecutive final `blocks`, certified by the first FINAL certificate among them.

    None if there is none within DESCENDANTS_MAX blocks.
    """
    headers: list[Header] = []
    for block in blocks:
        headers.append(block.header)
        if block.is_final:
            headers += () if block.closing is None else block.closing.headers
            if len(headers) > DESCENDANTS_MAX + 1:
                return None
            return CertifiedHeader(headers[0], block.finality, tuple(headers[1:]))
        if len(headers) > DESCENDANTS_MAX:
            return None
    return None
