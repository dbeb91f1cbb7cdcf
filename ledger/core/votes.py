"""Votes of witnesses and the certificates that a quorum of them makes (SPEC.md §6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.committee import WITNESSES_MAX, Committee
from ledger.core.encoding import Kind, Reader, WireError
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import ACCOUNT_BYTES, SIGNATURE_BYTES, AccountId, SigningKey, verify

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "CERTIFICATE_BYTES_MAX",
    "EPOCH_MAX",
    "NO_BLOCK",
    "SLOT_MAX",
    "VOTE_BYTES",
    "VOTE_KINDS",
    "Certificate",
    "Vote",
    "sign_vote",
    "take_certificate",
]

VOTE_KINDS: Final = (Kind.NOTAR, Kind.SKIP, Kind.FINAL)
NO_BLOCK: Final = bytes(32)
"""The block hash of a SKIP vote, and the parent hash of the first block."""
SLOT_MAX: Final = TIME_MS_MAX
EPOCH_MAX: Final = (1 << 32) - 1
_SUBJECT = struct.Struct(">IQ32s")  # epoch, slot, block_hash: what a witness signs, under the vote's kind
VOTE_BYTES: Final = 1 + _SUBJECT.size + ACCOUNT_BYTES + SIGNATURE_BYTES
_CERTIFICATE_HEAD_BYTES: Final = 1 + _SUBJECT.size + 8
CERTIFICATE_BYTES_MAX: Final = _CERTIFICATE_HEAD_BYTES + WITNESSES_MAX * SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class Vote:
    """One witness's signed word on a slot: NOTAR or FINAL for a block, or SKIP (block hash zero)."""

    kind: Kind
    epoch: int
    slot: int
    block_hash: bytes
    witness: AccountId
    signature: bytes

    def __post_init__(self) -> None:
        _check_subject("vote", self.kind, self.epoch, self.slot, self.block_hash)
        if len(self.witness) != ACCOUNT_BYTES or len(self.signature) != SIGNATURE_BYTES:
            raise WireError("vote: a witness has 32 bytes and a signature 64")

    def encode(self) -> bytes:
        """141 bytes: kind, epoch, slot, block hash, witness, signature."""
        subject = _SUBJECT.pack(self.epoch, self.slot, self.block_hash)
        return b"".join((bytes((self.kind,)), subject, self.witness, self.signature))

    @staticmethod
    def decode(data: bytes) -> Vote:
        """The vote in `data`; any other bytes are a `WireError`."""
        reader = Reader(data, "vote")
        kind, epoch, slot, block_hash = _take_subject(reader, "vote")
        witness, signature = AccountId(reader.take(ACCOUNT_BYTES)), reader.take(SIGNATURE_BYTES)
        reader.end()
        return Vote(kind, epoch, slot, block_hash, witness, signature)

    def verify(self, committee: Committee) -> bool:
        """Whether a witness of this very epoch signed it."""
        if self.epoch != committee.epoch or self.witness not in committee:
            return False
        subject = _SUBJECT.pack(self.epoch, self.slot, self.block_hash)
        return verify(self.witness, self.signature, self.kind, committee.network_id, subject)


def sign_vote(
    key: SigningKey, committee: Committee, kind: Kind, *, slot: int, block_hash: bytes = NO_BLOCK
) -> Vote:
    """A vote by `key` in the epoch of `committee`. It must be durable before it is sent (SPEC.md §6)."""
    _check_subject("vote", kind, committee.epoch, slot, block_hash)
    subject = _SUBJECT.pack(committee.epoch, slot, block_hash)
    signature = key.sign(kind, committee.network_id, subject)
    return Vote(kind, committee.epoch, slot, block_hash, key.account, signature)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A quorum's votes for one subject. Bit i of `signers` stands for witness i; `signatures` follow that order."""

    kind: Kind
    epoch: int
    slot: int
    block_hash: bytes
    signers: int
    signatures: tuple[bytes, ...]

    def __post_init__(self) -> None:
        _check_subject("certificate", self.kind, self.epoch, self.slot, self.block_hash)
        if not 0 < self.signers < 1 << WITNESSES_MAX:
            raise WireError(f"certificate: the signers do not fit a bitmap of {WITNESSES_MAX} bits")
        if self.signers.bit_count() != len(self.signatures):
            raise WireError(
                f"certificate: {self.signers.bit_count()} signers but {len(self.signatures)} signatures"
            )
        if any(len(signature) != SIGNATURE_BYTES for signature in self.signatures):
            raise WireError(f"certificate: a signature has {SIGNATURE_BYTES} bytes")

    @staticmethod
    def from_votes(votes: Iterable[Vote], committee: Committee) -> Certificate:
        """The certificate of votes that share one subject, one per witness; `ValueError` if they do not.

        The caller has verified each vote, and has a quorum.
        """
        chosen = {vote.witness: vote for vote in votes}
        if len({(v.kind, v.epoch, v.slot, v.block_hash) for v in chosen.values()}) != 1:
            raise ValueError("the votes of a certificate share kind, epoch, slot and block")
        if len(chosen) < committee.quorum or not all(witness in committee for witness in chosen):
            raise ValueError(f"a certificate has votes of {committee.quorum} witnesses, not {len(chosen)}")
        signers, signatures = 0, []
        for index, witness in enumerate(committee.witnesses):
            if witness in chosen:
                signers |= 1 << index
                signatures.append(chosen[witness].signature)
        first = next(iter(chosen.values()))
        return Certificate(first.kind, first.epoch, first.slot, first.block_hash, signers, tuple(signatures))

    def encode(self) -> bytes:
        """Kind, epoch, slot, block hash, bitmap of 8 bytes, one signature per bit set."""
        subject = _SUBJECT.pack(self.epoch, self.slot, self.block_hash)
        return b"".join((bytes((self.kind,)), subject, self.signers.to_bytes(8, "big"), *self.signatures))

    @staticmethod
    def decode(data: bytes) -> Certificate:
        """The certificate in `data`; any other bytes are a `WireError`."""
        reader = Reader(data, "certificate")
        certificate = take_certificate(reader)
        reader.end()
        return certificate

    def votes(self, committee: Committee) -> tuple[Vote, ...]:
        """The votes inside, for evidence and for peers that lack them; `ValueError` for a signer out of range."""
        if self.signers >> committee.n:
            raise ValueError(f"a signer beyond the {committee.n} witnesses")
        witnesses = (w for index, w in enumerate(committee.witnesses) if self.signers >> index & 1)
        return tuple(
            Vote(self.kind, self.epoch, self.slot, self.block_hash, witness, signature)
            for witness, signature in zip(witnesses, self.signatures, strict=True)
        )

    def verify(self, committee: Committee) -> bool:
        """Whether at least a quorum of this very epoch's witnesses signed, and no signature is wrong."""
        if self.epoch != committee.epoch:
            return False
        if self.signers >> committee.n or self.signers.bit_count() < committee.quorum:
            return False
        return all(vote.verify(committee) for vote in self.votes(committee))


def take_certificate(reader: Reader) -> Certificate:
    """The certificate at the reader's place; its bitmap says how many signatures follow."""
    kind, epoch, slot, block_hash = _take_subject(reader, "certificate")
    signers = reader.uint(8)
    signatures = tuple(reader.take(SIGNATURE_BYTES) for _ in range(signers.bit_count()))
    return Certificate(kind, epoch, slot, block_hash, signers, signatures)


def _take_subject(reader: Reader, what: str) -> tuple[Kind, int, int, bytes]:
    number = reader.uint(1)
    if number not in VOTE_KINDS:
        raise WireError(f"{what}: {number} is not the kind of a vote")
    epoch, slot, block_hash = _SUBJECT.unpack(reader.take(_SUBJECT.size))
    return Kind(number), epoch, slot, block_hash


def _check_subject(what: str, kind: Kind, epoch: int, slot: int, block_hash: bytes) -> None:
    if kind not in VOTE_KINDS:
        raise WireError(f"{what}: {kind} is not the kind of a vote")
    if not 0 <= epoch <= EPOCH_MAX or not 1 <= slot <= SLOT_MAX:
        raise WireError(f"{what}: epoch {epoch} or slot {slot} is out of range")
    if len(block_hash) != len(NO_BLOCK) or (kind is Kind.SKIP) != (block_hash == NO_BLOCK):
        raise WireError(f"{what}: a skip names no block (32 zero bytes), every other kind names one")
