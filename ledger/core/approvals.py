"""Signatures of the few who must agree: governors under a decree, arbiters under a verdict (SPEC.md §3.4)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import Kind, NetworkId, Reader, WireError, digest
from ledger.core.keys import SIGNATURE_BYTES, AccountId, SigningKey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "APPROVALS_BYTES_MAX",
    "APPROVERS_MAX",
    "NO_APPROVALS",
    "Approvals",
    "arbiters_hash",
    "rekey_body",
    "sign_rekey",
    "sign_verdict",
    "take_approvals",
    "verdict_body",
]

APPROVERS_MAX: Final = 16
"""Governors of a network, and arbiters of a lock: the bits of `Approvals.signers`."""
APPROVALS_BYTES_MAX: Final = 2 + APPROVERS_MAX * SIGNATURE_BYTES
_ARBITERS_DOMAIN: Final = b"millrace/1 arbiters\0"
_REKEY = struct.Struct(">32sQ32s32s")  # account, seq, new_key, recovery


@dataclass(frozen=True, slots=True)
class Approvals:
    """Who of a sorted list signed: bit i of `signers` is number i of the list, `signatures` in that order."""

    signers: int = 0
    signatures: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.signers < 1 << APPROVERS_MAX:
            raise WireError(f"approvals: a signer beyond the {APPROVERS_MAX} that there can be")
        if self.signers.bit_count() != len(self.signatures):
            raise WireError(f"approvals: {len(self.signatures)} signatures, the bitmap names others")
        if any(len(signature) != SIGNATURE_BYTES for signature in self.signatures):
            raise WireError(f"approvals: a signature has {SIGNATURE_BYTES} bytes")

    def encode(self) -> bytes:
        """The bitmap, 2 bytes, then the signatures in the order of its bits."""
        return b"".join((self.signers.to_bytes(2, "big"), *self.signatures))

    @staticmethod
    def collect(listed: Sequence[AccountId], signatures: Mapping[AccountId, bytes]) -> Approvals:
        """The approvals of those of the sorted list `listed` whose signature is in `signatures`."""
        signers = sum(1 << place for place, account in enumerate(listed) if account in signatures)
        return Approvals(signers, tuple(signatures[account] for account in listed if account in signatures))

    def signed_by(self, listed: Sequence[AccountId]) -> list[tuple[AccountId, bytes]]:
        """Account and signature of every signer; bits beyond the list are left out."""
        chosen = [account for place, account in enumerate(listed) if self.signers >> place & 1]
        return list(zip(chosen, self.signatures, strict=False))


NO_APPROVALS: Final = Approvals()


def take_approvals(reader: Reader) -> Approvals:
    """The approvals at `reader`'s place; anything else there is a `WireError`."""
    signers = reader.uint(2)
    return Approvals(signers, tuple(reader.take(SIGNATURE_BYTES) for _ in range(signers.bit_count())))


def arbiters_hash(arbiters: Sequence[AccountId]) -> bytes:
    """What a LOCK names its arbiters by: SHA-256 of the domain, their count and their accounts, sorted."""
    return digest(_ARBITERS_DOMAIN, len(arbiters).to_bytes(1, "big"), *sorted(arbiters))


def verdict_body(lock_id: bytes, payee_amount: int) -> bytes:
    """What an arbiter signs: of this lock, `payee_amount` micro-credits are the payee's."""
    return lock_id + payee_amount.to_bytes(8, "big")


def sign_verdict(key: SigningKey, network_id: NetworkId, lock_id: bytes, payee_amount: int) -> bytes:
    """An arbiter's approval of one split of one disputed lock."""
    return key.sign(Kind.VERDICT, network_id, verdict_body(lock_id, payee_amount))


def rekey_body(account: AccountId, seq: int, new_key: bytes, recovery: bytes) -> bytes:
    """What a new key signs to show that someone holds it."""
    return _REKEY.pack(account, seq, new_key, recovery)


def sign_rekey(
    new_key: SigningKey, network_id: NetworkId, account: AccountId, seq: int, recovery: bytes
) -> bytes:
    """The proof in a REKEY: `new_key` agrees to be the key of `account` from its `seq`-th REKEY on."""
    return new_key.sign(Kind.REKEY, network_id, rekey_body(account, seq, new_key.account, recovery))
