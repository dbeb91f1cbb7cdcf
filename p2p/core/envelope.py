"""Signed envelopes: how a peer says something that strangers pass on (SPEC.md §10.1).

A fixed-layout header and an opaque body are signed together as one byte string, under the domain of
`Kind.ENVELOPE` and the network id, so that an envelope proves its author on one network and nothing else.
Nodes keep and forward the received bytes, never a re-encoding: fields that a node does not know survive it.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ledger.core.encoding import Kind, NetworkId, Reader, WireError, digest
from ledger.core.keys import ACCOUNT_BYTES, SIGNATURE_BYTES, AccountId, SigningKey, verify

__all__ = [
    "BODY_BYTES_MAX",
    "CLOCK_SKEW_MS",
    "ENVELOPE_BYTES_MAX",
    "LIFETIME_MAX_MS",
    "Envelope",
    "EnvelopeKind",
    "decode_envelope",
    "open_envelope",
    "seal",
    "verify_envelope",
]

ENVELOPE_VERSION: Final = 1
BODY_BYTES_MAX: Final = 16 << 10
LIFETIME_MAX_MS: Final = 600_000
"""The longest life an author may give an envelope: ten minutes bound what a replay can do."""
CLOCK_SKEW_MS: Final = 300_000
"""How far two honest clocks may disagree: five minutes, both ways."""

_HEADER: Final = struct.Struct(">BB32sQQIH")
ENVELOPE_BYTES_MAX: Final = _HEADER.size + BODY_BYTES_MAX + SIGNATURE_BYTES
_U64_MAX: Final = (1 << 64) - 1


class EnvelopeKind(IntEnum):
    """What the body of an envelope is."""

    ADVERT = 1
    WITHDRAWAL = 2


@dataclass(frozen=True, slots=True)
class Envelope:
    """One signed saying of `author`; not verified by being decoded, ask `verify_envelope`.

    `kind` is a u8 (EnvelopeKind, or one of a later version), `sequence` orders an author's envelopes,
    `expires_ms` is Unix time by the author's clock, `lifetime_ms` the time from sealing to expiry.
    """

    kind: int
    author: AccountId
    sequence: int
    expires_ms: int
    lifetime_ms: int
    body: bytes
    signature: bytes

    def signed_part(self) -> bytes:
        """Header and body: everything but the signature."""
        return _signed_part(
            self.kind, self.author, self.sequence, self.expires_ms, self.lifetime_ms, self.body
        )

    def encode(self) -> bytes:
        """The wire form (SPEC.md §10.1): header, body, signature."""
        return self.signed_part() + self.signature

    def envelope_id(self) -> bytes:
        """SHA-256 of header and body, 32 bytes: names this saying in leases and receipts."""
        return digest(self.signed_part())


def seal(
    key: SigningKey,
    network_id: NetworkId,
    *,
    kind: EnvelopeKind,
    sequence: int,
    now_ms: int,
    lifetime_ms: int,
    body: bytes,
) -> Envelope:
    """Sign `body` as an envelope that lives from `now_ms` for `lifetime_ms`.

    The caller owes a `sequence` above every one it sealed before, also across restarts (the wall clock in
    milliseconds, never less than the last one plus 1, does it). `ValueError` when a field is out of bounds.
    """
    if not 0 <= sequence <= _U64_MAX:
        raise ValueError(f"sequence {sequence} is not an unsigned 64-bit integer")
    if not 1 <= lifetime_ms <= LIFETIME_MAX_MS:
        raise ValueError(f"lifetime of {lifetime_ms} ms, allowed are 1 to {LIFETIME_MAX_MS}")
    if len(body) > BODY_BYTES_MAX:
        raise ValueError(f"body of {len(body)} bytes, at most {BODY_BYTES_MAX} allowed")
    expires_ms = now_ms + lifetime_ms
    signed = _signed_part(kind, key.account, sequence, expires_ms, lifetime_ms, body)
    signature = key.sign(Kind.ENVELOPE, network_id, signed)
    return Envelope(kind, key.account, sequence, expires_ms, lifetime_ms, body, signature)


def decode_envelope(data: bytes) -> Envelope:
    """The envelope that `data` is, unverified; `WireError` for any other bytes."""
    if len(data) > ENVELOPE_BYTES_MAX:
        raise WireError(f"envelope of {len(data)} bytes, at most {ENVELOPE_BYTES_MAX} allowed")
    reader = Reader(data, "envelope")
    version = reader.uint(1)
    if version != ENVELOPE_VERSION:
        raise WireError(f"envelope version {version}, only {ENVELOPE_VERSION} is known")
    kind = reader.uint(1)
    author = AccountId(reader.take(ACCOUNT_BYTES))
    sequence = reader.uint(8)
    expires_ms = reader.uint(8)
    lifetime_ms = reader.uint(4)
    if not 1 <= lifetime_ms <= LIFETIME_MAX_MS:
        raise WireError(f"envelope lifetime of {lifetime_ms} ms, allowed are 1 to {LIFETIME_MAX_MS}")
    size = reader.uint(2)
    if size > BODY_BYTES_MAX:
        raise WireError(f"envelope body of {size} bytes, at most {BODY_BYTES_MAX} allowed")
    body = reader.take(size)
    signature = reader.take(SIGNATURE_BYTES)
    reader.end()
    return Envelope(kind, author, sequence, expires_ms, lifetime_ms, body, signature)


def verify_envelope(envelope: Envelope, network_id: NetworkId) -> bool:
    """Whether its author signed this envelope for this network."""
    return verify(envelope.author, envelope.signature, Kind.ENVELOPE, network_id, envelope.signed_part())


def open_envelope(data: bytes, network_id: NetworkId, now_ms: int) -> Envelope:
    """A decoded envelope that is signed for this network and alive at `now_ms`; `WireError` otherwise."""
    envelope = decode_envelope(data)
    if envelope.expires_ms + CLOCK_SKEW_MS <= now_ms:
        raise WireError(f"envelope expired {now_ms - envelope.expires_ms} ms ago")
    if envelope.expires_ms > now_ms + envelope.lifetime_ms + CLOCK_SKEW_MS:
        raise WireError("envelope was sealed in the future")
    if not verify_envelope(envelope, network_id):
        raise WireError("envelope is not signed by its author for this network")
    return envelope


def _signed_part(  # noqa: PLR0917 - the six fields of the header, in their order on the wire
    kind: int, author: bytes, sequence: int, expires_ms: int, lifetime_ms: int, body: bytes
) -> bytes:
    header = _HEADER.pack(ENVELOPE_VERSION, kind, author, sequence, expires_ms, lifetime_ms, len(body))
    return header + body
