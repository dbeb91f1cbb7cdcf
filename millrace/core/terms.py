"""The terms of one lease: one fixed layout, signed by buyer and worker, named in the LOCK (SPEC.md §12).

Terms bind who, for which job, which module, at what price, within which limits, and until when, so that a
lock, a voucher and a receipt cannot be moved to another bargain.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.amounts import AMOUNT_MAX, check_amount
from ledger.core.encoding import Kind, NetworkId, WireError, digest, signing_bytes
from ledger.core.entries import Entry, Lock
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import AccountId, SigningKey, is_strict_point, verify
from millrace.core.cost import PRICE_MAX, unit_cost

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "MODULE_BYTES_MAX",
    "OUTPUT_BYTES_MAX",
    "REPLICAS_MAX",
    "TERMS_BYTES",
    "WINDOW_UNITS_MAX",
    "Terms",
    "decode_terms",
    "job_digest",
    "lock_problem",
    "sign_terms",
    "verify_terms",
]

TERMS_VERSION: Final = 1
NONCE_BYTES: Final = 16
HASH_BYTES: Final = 32
MODULE_BYTES_MAX: Final = 16 << 20
OUTPUT_BYTES_MAX: Final = 3 << 20
"""One result with its frame fits the 4 MiB of a lease message."""
WINDOW_UNITS_MAX: Final = 256
REPLICAS_MAX: Final = 3
FUEL_MAX: Final = 1 << 56
MEMORY_BYTES_MAX: Final = 1 << 40
WALL_MS_MAX: Final = 86_400_000

# version, buyer, worker, job_id, nonce, module_sha256, module_bytes, price, amount, expiry_ms,
# fuel, memory_bytes, wall_ms, output_bytes, window_units, replicas
_LAYOUT = struct.Struct(">B32s32s32s16s32sIQQQQQIIHB")
TERMS_BYTES: Final = _LAYOUT.size


@dataclass(frozen=True, slots=True)
class Terms:
    """One bargain between `buyer` and `worker`. A value in hand is well formed: `WireError` says why not.

    `amount` is what the buyer locks (micro-credits), `expiry_ms` the lock's expiry (wall time), the `*_max`
    fields bound every unit of the lease, and `window_units` bounds how many units may be out unpaid.
    """

    buyer: AccountId
    worker: AccountId
    job_id: bytes
    nonce: bytes
    module_sha256: bytes
    module_bytes: int
    price_per_tfuel: int
    amount: int
    expiry_ms: int
    fuel_max: int
    memory_bytes_max: int
    wall_ms_max: int
    output_bytes_max: int
    window_units: int
    replicas: int

    def __post_init__(self) -> None:
        for account, what in ((self.buyer, "buyer"), (self.worker, "worker")):
            if len(account) != 32 or not is_strict_point(account):
                raise WireError(f"terms: {what} is not a strict Ed25519 key")
        if self.buyer == self.worker:
            raise WireError("terms: buyer and worker are the same account")
        for value, size, what in (
            (self.job_id, HASH_BYTES, "job_id"),
            (self.nonce, NONCE_BYTES, "nonce"),
            (self.module_sha256, HASH_BYTES, "module_sha256"),
        ):
            if len(value) != size:
                raise WireError(f"terms: {what} has {len(value)} bytes, not {size}")
        _check_range(self.module_bytes, 1, MODULE_BYTES_MAX, "module_bytes")
        _check_range(self.price_per_tfuel, 0, PRICE_MAX, "price_per_tfuel")
        check_amount(self.amount, "terms: amount")
        _check_range(self.expiry_ms, 1, TIME_MS_MAX, "expiry_ms")
        _check_range(self.fuel_max, 1, FUEL_MAX, "fuel_max")
        _check_range(self.memory_bytes_max, 1, MEMORY_BYTES_MAX, "memory_bytes_max")
        _check_range(self.wall_ms_max, 1, WALL_MS_MAX, "wall_ms_max")
        _check_range(self.output_bytes_max, 0, OUTPUT_BYTES_MAX, "output_bytes_max")
        _check_range(self.window_units, 1, WINDOW_UNITS_MAX, "window_units")
        _check_range(self.replicas, 1, REPLICAS_MAX, "replicas")
        if not self.unit_cost_max <= min(self.amount, AMOUNT_MAX):
            raise WireError("terms: the amount does not pay for one unit at the fuel limit")

    @property
    def unit_cost_max(self) -> int:
        """The most one unit can cost, in micro-credits: its whole fuel limit at the agreed price."""
        return unit_cost(self.fuel_max, self.price_per_tfuel)

    def encode(self) -> bytes:
        """The TERMS_BYTES bytes that both sides sign."""
        return _LAYOUT.pack(
            TERMS_VERSION,
            self.buyer,
            self.worker,
            self.job_id,
            self.nonce,
            self.module_sha256,
            self.module_bytes,
            self.price_per_tfuel,
            self.amount,
            self.expiry_ms,
            self.fuel_max,
            self.memory_bytes_max,
            self.wall_ms_max,
            self.output_bytes_max,
            self.window_units,
            self.replicas,
        )

    def terms_hash(self, network_id: NetworkId) -> bytes:
        """SHA-256 of the signing bytes: the lease's id, and what the LOCK names."""
        return digest(signing_bytes(Kind.TERMS, network_id, self.encode()))


def job_digest(buyer: AccountId, nonce: bytes, module_sha256: bytes, task_digests: Iterable[bytes]) -> bytes:
    """A job's id: SHA-256 over who, a fresh nonce, the module and every task in order (R12.2)."""
    return digest(b"millrace/1 job\0", buyer, nonce, module_sha256, *task_digests)


def decode_terms(data: bytes) -> Terms:
    """The terms in `data`; any other bytes are a `WireError`."""
    if len(data) != TERMS_BYTES:
        raise WireError(f"terms: {len(data)} bytes, not {TERMS_BYTES}")
    version, *fields = _LAYOUT.unpack(data)
    if version != TERMS_VERSION:
        raise WireError(f"terms: version {version}, only {TERMS_VERSION} is known")
    return Terms(*fields)


def sign_terms(terms: Terms, key: SigningKey, network_id: NetworkId) -> bytes:
    """The 64-byte signature of one of the two sides."""
    return key.sign(Kind.TERMS, network_id, terms.encode())


def verify_terms(terms: Terms, signer: AccountId, signature: bytes, network_id: NetworkId) -> bool:
    """Whether `signer`, one of the two sides, signed these terms on this network."""
    if signer not in (terms.buyer, terms.worker):
        return False
    return verify(signer, signature, Kind.TERMS, network_id, terms.encode())


def lock_problem(entry: Entry, terms: Terms, network_id: NetworkId) -> str | None:
    """Why `entry`, already proved final, is not the LOCK of these terms; None if it is (R12.9)."""
    lock = entry.action
    if not isinstance(lock, Lock):
        return "the receipt is not of a LOCK"
    if entry.account != terms.buyer:
        return "the LOCK is not the buyer's"
    if lock.payee != terms.worker:
        return "the LOCK pays somebody else"
    if lock.terms_hash != terms.terms_hash(network_id):
        return "the LOCK names other terms"
    if lock.amount != terms.amount or lock.expiry_ms != terms.expiry_ms:
        return "the LOCK's amount or expiry differs from the terms"
    return None


def _check_range(value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise WireError(f"terms: {what} is {value}, allowed are {least} to {most}")
