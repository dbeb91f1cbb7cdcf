"""Vouchers, the promises that settle later: kept off the ledger, they become a CLAIM in the end (SPEC.md §3.3)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from ledger.core.actions import check_hash
from ledger.core.amounts import check_amount
from ledger.core.encoding import Kind, NetworkId, WireError
from ledger.core.keys import SIGNATURE_BYTES, AccountId, SigningKey, verify

__all__ = ["VOUCHER_BYTES", "Voucher", "decode_voucher", "sign_voucher", "verify_voucher"]

VOUCHER_BYTES: Final = 104


@dataclass(frozen=True, slots=True)
class Voucher:
    """The payer's promise, kept off the ledger: of lock `lock_id`, `cumulative` in total is the payee's."""

    lock_id: bytes
    cumulative: int
    signature: bytes

    def __post_init__(self) -> None:
        check_hash(self.lock_id, "voucher: lock_id")
        check_amount(self.cumulative, "voucher: cumulative")
        if len(self.signature) != SIGNATURE_BYTES:
            raise WireError(f"voucher: a signature has {SIGNATURE_BYTES} bytes")

    def encode(self) -> bytes:
        """104 bytes: lock_id, cumulative, signature; the same layout as a CLAIM's payload."""
        return _voucher_body(self.lock_id, self.cumulative) + self.signature


def sign_voucher(key: SigningKey, network_id: NetworkId, lock_id: bytes, cumulative: int) -> Voucher:
    """A voucher by `key`, the lock's payer. Persist it before it is sent: cumulative only ever rises."""
    return Voucher(
        lock_id, cumulative, key.sign(Kind.VOUCHER, network_id, _voucher_body(lock_id, cumulative))
    )


def verify_voucher(voucher: Voucher, payer: AccountId, network_id: NetworkId) -> bool:
    """Whether `payer` signed this voucher on this network."""
    body = _voucher_body(voucher.lock_id, voucher.cumulative)
    return verify(payer, voucher.signature, Kind.VOUCHER, network_id, body)


def decode_voucher(data: bytes) -> Voucher:
    """The voucher in `data`; any other bytes are a `WireError`."""
    if len(data) != VOUCHER_BYTES:
        raise WireError(f"voucher: {len(data)} bytes, not {VOUCHER_BYTES}")
    return Voucher(data[:32], int.from_bytes(data[32:40], "big"), data[40:])


def _voucher_body(lock_id: bytes, cumulative: int) -> bytes:
    return lock_id + cumulative.to_bytes(8, "big")
