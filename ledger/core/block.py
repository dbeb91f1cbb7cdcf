"""Blocks: a header that commits to the whole log, the entries it adds, and their proposal (SPEC.md §6).

The header alone is what is signed: its `log_root` over `tree_size` leaves commits to every entry, this
block's included, signatures and all.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.bulk import take_entries
from ledger.core.encoding import Kind, NetworkId, Reader, WireError, digest, signing_bytes
from ledger.core.entries import Entry, Rotate, entry_end, take_entry
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import SIGNATURE_BYTES, SigningKey, verify
from ledger.core.votes import (
    CERTIFICATE_BYTES_MAX,
    EPOCH_MAX,
    NO_BLOCK,
    SLOT_MAX,
    Certificate,
    Vote,
    sign_vote,
    take_certificate,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ledger.core.committee import Committee

__all__ = [
    "BLOCK_BYTES_MAX",
    "BLOCK_ENTRIES_BYTES_MAX",
    "BLOCK_ENTRIES_MAX",
    "CLOSING_HEADERS_MAX",
    "FINAL_BLOCK_BYTES_MAX",
    "HEADER_BYTES",
    "HEADER_VERSION",
    "NO_BLOCK",
    "NO_ROOT",
    "STATE_ROOT_INTERVAL",
    "Block",
    "Certificate",
    "Closing",
    "FinalBlock",
    "Header",
    "Proposal",
    "Vote",
    "ends_epoch",
    "entry_offsets",
    "sign_proposal",
    "sign_vote",
    "take_known",
]

HEADER_VERSION: Final = 1
BLOCK_ENTRIES_MAX: Final = 1000
STATE_ROOT_INTERVAL: Final = 1000
"""A header names the state root when its height is a multiple of this; else NO_ROOT stands there."""
NO_ROOT: Final = bytes(32)
# version, epoch, slot, height, parent_slot, parent_hash, time_ms, tree_size, log_root, state_root, count
_HEADER = struct.Struct(">BIQQQ32sQQ32s32sI")
HEADER_BYTES: Final = _HEADER.size
BLOCK_ENTRIES_BYTES_MAX: Final = 244_000
"""Of all entries of a block together: as much as 1,000 LOCKs. Longer, rarer entries make a block of fewer."""
BLOCK_BYTES_MAX: Final = HEADER_BYTES + BLOCK_ENTRIES_BYTES_MAX
CLOSING_HEADERS_MAX: Final = 512
"""Void blocks of one closing: there cannot be more than slots above the last final one (SPEC.md §6.7)."""
FINAL_BLOCK_BYTES_MAX: Final = (
    BLOCK_BYTES_MAX + CERTIFICATE_BYTES_MAX + 2 + CLOSING_HEADERS_MAX * HEADER_BYTES + CERTIFICATE_BYTES_MAX
)


@dataclass(frozen=True, slots=True)
class Header:
    """What witnesses sign. `tree_size` and `log_root` are the log after this block; the first height is 1."""

    epoch: int
    slot: int
    height: int
    parent_slot: int
    parent_hash: bytes
    time_ms: int
    tree_size: int
    log_root: bytes
    state_root: bytes
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.epoch <= EPOCH_MAX or not 0 <= self.parent_slot < self.slot <= SLOT_MAX:
            raise WireError("header: epoch or slots out of range, or the parent's slot is not below the slot")
        if not 1 <= self.height <= self.slot or not 0 <= self.time_ms <= TIME_MS_MAX:
            raise WireError("header: the height is not in 1 to the slot, or the time is out of range")
        if not 0 <= self.count <= BLOCK_ENTRIES_MAX or not self.count <= self.tree_size <= TIME_MS_MAX:
            raise WireError("header: more entries than a block or its log can hold")
        if not len(self.parent_hash) == len(self.log_root) == len(self.state_root) == 32:
            raise WireError("header: a hash has 32 bytes")
        if (self.height == 1) != (self.parent_slot == 0) or (self.height == 1) != (
            self.parent_hash == NO_BLOCK
        ):
            raise WireError("header: the first block, and only it, has parent slot 0 and no parent hash")
        if self.height % STATE_ROOT_INTERVAL and self.state_root != NO_ROOT:
            raise WireError(f"header: only every {STATE_ROOT_INTERVAL}th block names a state root")

    def encode(self) -> bytes:
        """145 bytes, fixed layout."""
        return _HEADER.pack(
            HEADER_VERSION,
            self.epoch,
            self.slot,
            self.height,
            self.parent_slot,
            self.parent_hash,
            self.time_ms,
            self.tree_size,
            self.log_root,
            self.state_root,
            self.count,
        )

    @staticmethod
    def decode(data: bytes) -> Header:
        """The header in `data`; any other bytes are a `WireError`."""
        if len(data) != HEADER_BYTES:
            raise WireError(f"header: {len(data)} bytes, not {HEADER_BYTES}")
        version, *fields = _HEADER.unpack(data)
        if version != HEADER_VERSION:
            raise WireError(f"header: version {version}, only {HEADER_VERSION} is known")
        return Header(*fields)

    def hash(self, network_id: NetworkId) -> bytes:
        """The block's name: SHA-256 of the bytes its leader signs, so it differs on every network."""
        return digest(signing_bytes(Kind.PROPOSAL, network_id, self.encode()))


@dataclass(frozen=True, slots=True)
class Block:
    """A header and the entries it adds to the log."""

    header: Header
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        _check_entries(self.header, self.entries, "block")

    def encode(self) -> bytes:
        """Header, then each entry; the entries' type bytes give their lengths."""
        return b"".join((self.header.encode(), *[entry.encoded for entry in self.entries]))

    @staticmethod
    def decode(data: bytes) -> Block:
        """The block in `data`; any other bytes are a `WireError`."""
        block, end = _take_block(data)
        if end != len(data):
            raise WireError(f"block: {len(data) - end} bytes too many")
        return block


@dataclass(frozen=True, slots=True)
class Proposal:
    """A block, signed by the leader of its slot."""

    header: Header
    entries: tuple[Entry, ...]
    signature: bytes

    def __post_init__(self) -> None:
        _check_entries(self.header, self.entries, "proposal")
        if len(self.signature) != SIGNATURE_BYTES:
            raise WireError("proposal: the signature has not 64 bytes")

    @property
    def block(self) -> Block:
        """The block that is proposed."""
        return Block(self.header, self.entries)

    def encode(self) -> bytes:
        """The block, then the signature."""
        return self.block.encode() + self.signature

    @staticmethod
    def decode(data: bytes, known: Mapping[bytes, Entry] | None = None) -> Proposal:
        """The proposal in `data`; any other bytes are a `WireError`. `known` as in `take_known`."""
        block, end = _take_block(data, known)
        if len(data) - end != SIGNATURE_BYTES:
            raise WireError(f"proposal: {len(data) - end} bytes of signature, not {SIGNATURE_BYTES}")
        return Proposal(block.header, block.entries, data[end:])

    def verify(self, committee: Committee) -> bool:
        """Whether the leader of the slot, in this very epoch, signed the header. It says nothing about the entries."""
        if self.header.epoch != committee.epoch:
            return False
        leader, body = committee.leader(self.header.slot), self.header.encode()
        return verify(leader, self.signature, Kind.PROPOSAL, committee.network_id, body)


def sign_proposal(key: SigningKey, committee: Committee, block: Block) -> Proposal:
    """`block` with the signature of `key`, its slot's leader."""
    signature = key.sign(Kind.PROPOSAL, committee.network_id, block.header.encode())
    return Proposal(block.header, block.entries, signature)


@dataclass(frozen=True, slots=True)
class Closing:
    """What makes an epoch's last block final where its own certificate does not (SPEC.md §6, R6.26).

    `headers` are void blocks that stand on it, one on the other: they carry nothing and are no part of the chain.
    `certificate` is the FINAL one of the last of them.
    """

    headers: tuple[Header, ...]
    certificate: Certificate

    def __post_init__(self) -> None:
        if not 1 <= len(self.headers) <= CLOSING_HEADERS_MAX:
            raise WireError(f"closing: {len(self.headers)} headers, allowed are 1 to {CLOSING_HEADERS_MAX}")
        if any(void.count or void.state_root != NO_ROOT for void in self.headers):
            raise WireError("closing: a void block has no entries and names no state")
        last, certificate = self.headers[-1], self.certificate
        if (certificate.kind, certificate.epoch, certificate.slot) != (Kind.FINAL, last.epoch, last.slot):
            raise WireError("closing: the certificate does not make the last void block final")

    def encode(self) -> bytes:
        """Count (2 bytes), headers, certificate."""
        count = len(self.headers).to_bytes(2, "big")
        return b"".join((count, *(void.encode() for void in self.headers), self.certificate.encode()))

    def verify(self, closed: Header, committee: Committee) -> bool:
        """Whether a quorum of `committee` made a void block final that descends from `closed`."""
        below = closed
        for void in self.headers:
            named = (
                void.epoch,
                void.height,
                void.parent_slot,
                void.parent_hash,
                void.tree_size,
                void.log_root,
            )
            above = (below.epoch, below.height + 1, below.slot, below.hash(committee.network_id))
            if named != (*above, closed.tree_size, closed.log_root) or void.time_ms < below.time_ms:
                return False
            below = void
        certificate = self.certificate
        return certificate.block_hash == below.hash(committee.network_id) and certificate.verify(committee)


@dataclass(frozen=True, slots=True)
class FinalBlock:
    """A block of the agreed chain, with a quorum's certificate over its header.

    A FINAL certificate makes the block and all its ancestors final. A block that only collected a NOTAR
    certificate of its own is final because a later block, with a FINAL one, descends from it (SPEC.md §6). The last
    block of an epoch has no child in its epoch: if its certificate is NOTAR, it carries a `closing`, else never.
    """

    header: Header
    entries: tuple[Entry, ...]
    certificate: Certificate
    closing: Closing | None = None

    def __post_init__(self) -> None:
        _check_entries(self.header, self.entries, "final block")
        if self.certificate.kind not in {Kind.NOTAR, Kind.FINAL}:
            raise WireError("final block: its certificate is neither notarised nor final")
        if (self.certificate.epoch, self.certificate.slot) != (self.header.epoch, self.header.slot):
            raise WireError("final block: the certificate is for another epoch or slot")
        needed = self.certificate.kind is Kind.NOTAR and ends_epoch(self.entries)
        if needed != (self.closing is not None):
            raise WireError(
                "final block: a closing belongs to an epoch's last block without a FINAL certificate"
            )

    @property
    def block(self) -> Block:
        """Header and entries, without the certificate."""
        return Block(self.header, self.entries)

    @property
    def is_final(self) -> bool:
        """Whether what it carries makes it final, rather than a later block of the chain."""
        return self.certificate.kind is Kind.FINAL or self.closing is not None

    @property
    def finality(self) -> Certificate:
        """The FINAL certificate that makes it final; its NOTAR one, if a later block does."""
        return self.certificate if self.closing is None else self.closing.certificate

    def encode(self) -> bytes:
        """The block, the certificate, and the closing if there is one."""
        closing = b"" if self.closing is None else self.closing.encode()
        entries = [entry.encoded for entry in self.entries]
        return b"".join((self.header.encode(), *entries, self.certificate.encode(), closing))

    @staticmethod
    def decode(data: bytes) -> FinalBlock:
        """The final block in `data`; any other bytes are a `WireError`."""
        block, end = _take_block(data)
        reader = Reader(data[end:], "final block")
        certificate = take_certificate(reader)
        needs_closing = certificate.kind is Kind.NOTAR and ends_epoch(block.entries)
        closing = _take_closing(reader) if needs_closing else None
        reader.end()
        return FinalBlock(block.header, block.entries, certificate, closing)

    def verify(self, committee: Committee) -> bool:
        """Whether a quorum of its epoch certified this very header. Entries and chain are the reader's to check."""
        block_hash = self.header.hash(committee.network_id)
        if self.certificate.block_hash != block_hash or not self.certificate.verify(committee):
            return False
        return self.closing is None or self.closing.verify(self.header, committee)


def ends_epoch(entries: Sequence[Entry]) -> bool:
    """Whether a block of these entries is its epoch's last: a ROTATE is refused everywhere but at the end (§4)."""
    return bool(entries) and isinstance(entries[-1].action, Rotate)


def _take_closing(reader: Reader) -> Closing:
    count = reader.uint(2)
    if not 1 <= count <= CLOSING_HEADERS_MAX:
        raise WireError(f"closing: {count} headers, allowed are 1 to {CLOSING_HEADERS_MAX}")
    headers = tuple(Header.decode(reader.take(HEADER_BYTES)) for _ in range(count))
    return Closing(headers, take_certificate(reader))


def take_known(data: bytes, start: int, known: Mapping[bytes, Entry] | None) -> tuple[Entry, int]:
    """`take_entry`; of entries that are in `known`, by their bytes, that very object.

    So it is not decoded, nor its id hashed, again.
    """
    if known is None:
        return take_entry(data, start)
    end = entry_end(data, start)
    found = known.get(data[start:end])
    return take_entry(data, start) if found is None else (found, end)


def _take_block(data: bytes, known: Mapping[bytes, Entry] | None = None) -> tuple[Block, int]:
    header = Header.decode(data[:HEADER_BYTES])
    if known is None:
        taken, end = take_entries(data, HEADER_BYTES, header.count, BLOCK_BYTES_MAX)
        return Block(header, taken), end
    entries, at = [], HEADER_BYTES
    for _ in range(header.count):
        entry, at = take_known(data, at, known)
        if at > BLOCK_BYTES_MAX:
            raise WireError(f"block: its entries have more than {BLOCK_ENTRIES_BYTES_MAX} bytes")
        entries.append(entry)
    return Block(header, tuple(entries)), at


def _check_entries(header: Header, entries: tuple[Entry, ...], what: str) -> None:
    if len(entries) != header.count:
        raise WireError(f"{what}: {len(entries)} entries, the header counts {header.count}")
    if sum([len(entry.encoded) for entry in entries]) > BLOCK_ENTRIES_BYTES_MAX:
        raise WireError(f"{what}: its entries have more than {BLOCK_ENTRIES_BYTES_MAX} bytes")


def entry_offsets(data: bytes) -> list[int]:
    """Where in an encoded block each entry begins, and where the last one ends; `WireError` as `Block.decode`."""
    header = Header.decode(data[:HEADER_BYTES])
    offsets = [HEADER_BYTES]
    for _ in range(header.count):
        offsets.append(entry_end(data, offsets[-1]))
    return offsets
