"""Entries, the ledger's only way to change, and vouchers, the promises that settle later (SPEC.md §3).

An entry has one byte layout: header, payload of its type, signature. Every value is checked when it is
built, whether by our own code or from a stranger's bytes, so an `Entry` in hand is always well formed;
whether it may be applied is the state's question.
"""

from __future__ import annotations

import struct
from dataclasses import InitVar, dataclass, field
from enum import IntEnum
from typing import ClassVar, Final, TypeAlias

from ledger.core.amounts import AMOUNT_MAX, check_amount
from ledger.core.encoding import Kind, NetworkId, WireError, digest, signing_bytes
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import SIGNATURE_BYTES, AccountId, SigningKey, is_strict_point, verify

__all__ = [
    "ENTRY_BYTES_MAX",
    "HASH_BYTES",
    "SEQUENCE_MAX",
    "VOUCHER_BYTES",
    "Action",
    "Claim",
    "Entry",
    "EntryType",
    "Expire",
    "Lock",
    "Transfer",
    "Voucher",
    "decode_entry",
    "decode_voucher",
    "sign_entry",
    "sign_voucher",
    "take_entry",
    "verify_entry",
    "verify_voucher",
]

HASH_BYTES: Final = 32
VOUCHER_BYTES: Final = 104
SEQUENCE_MAX: Final = (1 << 63) - 1
_NO_SIGNATURE: Final = bytes(SIGNATURE_BYTES)
_NO_HASH: Final = bytes(HASH_BYTES)


class EntryType(IntEnum):
    """The type byte of an entry. RELEASE and later are reserved: their numbers are taken, their layouts open."""

    TRANSFER = 1
    LOCK = 2
    CLAIM = 3
    EXPIRE = 4
    RELEASE = 5
    DISPUTE = 6
    VERDICT = 7
    LIMIT = 8
    REKEY = 9
    ROTATE = 10
    PARAM = 11


@dataclass(frozen=True, slots=True)
class Transfer:
    """Move `amount` micro-credits to account `to`; `memo_hash` is 32 bytes the ledger does not read."""

    TYPE: ClassVar[EntryType] = EntryType.TRANSFER

    to: AccountId
    amount: int
    memo_hash: bytes = _NO_HASH

    def __post_init__(self) -> None:
        _check_account(self.to, "transfer: to")
        check_amount(self.amount, "transfer: amount")
        _check_hash(self.memo_hash, "transfer: memo_hash")


@dataclass(frozen=True, slots=True)
class Lock:
    """Set `amount` aside for `payee` until `expiry_ms`; the entry's id is the lock's id.

    The four dispute fields are part of the layout and must be zero until DISPUTE and VERDICT exist (SPEC.md §3, R3.7).
    """

    TYPE: ClassVar[EntryType] = EntryType.LOCK

    payee: AccountId
    amount: int
    expiry_ms: int
    terms_hash: bytes = _NO_HASH
    dispute_ms: int = 0
    arbiters_hash: bytes = _NO_HASH
    arbiters_needed: int = 0
    default_bps: int = 0

    def __post_init__(self) -> None:
        _check_account(self.payee, "lock: payee")
        check_amount(self.amount, "lock: amount")
        _check_range(self.expiry_ms, 0, TIME_MS_MAX, "lock: expiry_ms")
        _check_hash(self.terms_hash, "lock: terms_hash")
        if self.dispute_ms or self.arbiters_needed or self.default_bps or self.arbiters_hash != _NO_HASH:
            raise WireError("lock: the dispute fields are reserved and must be zero")


@dataclass(frozen=True, slots=True)
class Claim:
    """The payee closes lock `lock_id` and takes `cumulative` of it; 0, without a voucher, cancels the lock."""

    TYPE: ClassVar[EntryType] = EntryType.CLAIM

    lock_id: bytes
    cumulative: int
    voucher_signature: bytes = _NO_SIGNATURE

    def __post_init__(self) -> None:
        _check_hash(self.lock_id, "claim: lock_id")
        _check_range(self.cumulative, 0, AMOUNT_MAX, "claim: cumulative")
        if len(self.voucher_signature) != SIGNATURE_BYTES:
            raise WireError(f"claim: a voucher signature has {SIGNATURE_BYTES} bytes")
        if not self.cumulative and self.voucher_signature != _NO_SIGNATURE:
            raise WireError("claim: a claim of 0 carries no voucher signature (64 zero bytes)")


@dataclass(frozen=True, slots=True)
class Expire:
    """Anyone closes lock `lock_id` at or after its expiry: all of it returns to the payer."""

    TYPE: ClassVar[EntryType] = EntryType.EXPIRE

    lock_id: bytes

    def __post_init__(self) -> None:
        _check_hash(self.lock_id, "expire: lock_id")


Action: TypeAlias = Transfer | Lock | Claim | Expire

# type, account, seq, not_after_ms, fee | payload; the 64 bytes of signature follow.
_TRANSFER = struct.Struct(">B32sQQQ32sQ32s")
_LOCK = struct.Struct(">B32sQQQ32sQQQ32sBH32s")
_CLAIM = struct.Struct(">B32sQQQ32sQ64s")
_EXPIRE = struct.Struct(">B32sQQQ32s")
# Plain integers: looking a member up in an enum costs more than unpacking the whole entry.
_TRANSFER_TYPE: Final = int(EntryType.TRANSFER)
_LOCK_TYPE: Final = int(EntryType.LOCK)
_CLAIM_TYPE: Final = int(EntryType.CLAIM)
_EXPIRE_TYPE: Final = int(EntryType.EXPIRE)
_LAYOUTS: Final = {
    _TRANSFER_TYPE: _TRANSFER,
    _LOCK_TYPE: _LOCK,
    _CLAIM_TYPE: _CLAIM,
    _EXPIRE_TYPE: _EXPIRE,
}
ENTRY_BYTES_MAX: Final = max(layout.size for layout in _LAYOUTS.values()) + SIGNATURE_BYTES


@dataclass(frozen=True, slots=True)
class Entry:
    """One signed change: `account` asks for `action`, as its `seq`-th entry, and pays `fee` to the leader."""

    account: AccountId
    seq: int
    not_after_ms: int
    fee: int
    action: Action
    signature: bytes
    wire: InitVar[bytes | None] = None
    """For `take_entry` alone, which has the entry's bytes already; everyone else leaves it out."""
    encoded: bytes = field(init=False, repr=False, compare=False)
    """The entry's bytes, packed once: they are signed, hashed twice, stored and sent."""

    def __post_init__(self, wire: bytes | None) -> None:
        _check_account(self.account, "entry: account")
        # One test for all that is well: this runs for every entry of every block.
        if not (
            1 <= self.seq <= SEQUENCE_MAX
            and 0 <= self.not_after_ms <= TIME_MS_MAX
            and 0 <= self.fee <= AMOUNT_MAX
        ):
            _check_range(self.seq, 1, SEQUENCE_MAX, "entry: seq")
            _check_range(self.not_after_ms, 0, TIME_MS_MAX, "entry: not_after_ms")
            _check_range(self.fee, 0, AMOUNT_MAX, "entry: fee")
        if len(self.signature) != SIGNATURE_BYTES:
            raise WireError(f"entry: a signature has {SIGNATURE_BYTES} bytes, not {len(self.signature)}")
        if wire is None:
            wire = _body(self.account, self.seq, self.not_after_ms, self.fee, self.action) + self.signature
        object.__setattr__(self, "encoded", wire)

    def body(self) -> bytes:
        """Header and payload: the bytes that are signed (SPEC.md §3)."""
        return self.encoded[:-SIGNATURE_BYTES]

    def encode(self) -> bytes:
        """Body and signature: the bytes on the wire, on disk and in the Merkle leaf."""
        return self.encoded

    def entry_id(self, network_id: NetworkId) -> bytes:
        """SHA-256 of the signing bytes: independent of the signature, different on every network."""
        return digest(signing_bytes(Kind.ENTRY, network_id, self.body()))


def sign_entry(
    key: SigningKey, network_id: NetworkId, *, seq: int, not_after_ms: int, fee: int, action: Action
) -> Entry:
    """A signed entry of `key`'s account; `WireError` if a field is out of range."""
    unsigned = Entry(key.account, seq, not_after_ms, fee, action, _NO_SIGNATURE)
    signature = key.sign(Kind.ENTRY, network_id, unsigned.body())
    return Entry(key.account, seq, not_after_ms, fee, action, signature)


def verify_entry(entry: Entry, network_id: NetworkId) -> bool:
    """Whether the entry's signature is its account's, on this network."""
    return verify(entry.account, entry.signature, Kind.ENTRY, network_id, entry.body())


def decode_entry(data: bytes) -> Entry:
    """The entry in `data`; any other bytes are a `WireError`."""
    entry, end = take_entry(data, 0)
    if end != len(data):
        raise WireError(f"entry: {len(data) - end} bytes too many")
    return entry


def take_entry(data: bytes, start: int) -> tuple[Entry, int]:
    """The entry at `start` of `data` and where it ends; the type byte gives its length."""
    if not 0 <= start < len(data):
        raise WireError("entry: no bytes")
    layout = _LAYOUTS.get(data[start])
    if layout is None:
        raise WireError(f"entry: type {data[start]} is unknown or not in use")
    end = start + layout.size
    if end + SIGNATURE_BYTES > len(data):
        raise WireError(f"entry: {layout.size + SIGNATURE_BYTES} bytes expected, {len(data) - start} left")
    kind, account, seq, not_after_ms, fee, *payload = layout.unpack_from(data, start)
    action: Action
    if kind == _TRANSFER_TYPE:
        action = Transfer(*payload)
    elif kind == _CLAIM_TYPE:
        action = Claim(*payload)
    elif kind == _EXPIRE_TYPE:
        action = Expire(*payload)
    else:
        payee, amount, expiry_ms, dispute_ms, arbiters, needed, default_bps, terms = payload
        action = Lock(payee, amount, expiry_ms, terms, dispute_ms, arbiters, needed, default_bps)
    after = end + SIGNATURE_BYTES
    entry = Entry(account, seq, not_after_ms, fee, action, data[end:after], data[start:after])
    return entry, after


def _body(account: AccountId, seq: int, not_after_ms: int, fee: int, action: Action) -> bytes:
    head = (action.TYPE, account, seq, not_after_ms, fee)
    if isinstance(action, Transfer):
        return _TRANSFER.pack(*head, action.to, action.amount, action.memo_hash)
    if isinstance(action, Claim):
        return _CLAIM.pack(*head, action.lock_id, action.cumulative, action.voucher_signature)
    if isinstance(action, Expire):
        return _EXPIRE.pack(*head, action.lock_id)
    return _LOCK.pack(
        *head,
        action.payee,
        action.amount,
        action.expiry_ms,
        action.dispute_ms,
        action.arbiters_hash,
        action.arbiters_needed,
        action.default_bps,
        action.terms_hash,
    )


@dataclass(frozen=True, slots=True)
class Voucher:
    """The payer's promise, kept off the ledger: of lock `lock_id`, `cumulative` in total is the payee's."""

    lock_id: bytes
    cumulative: int
    signature: bytes

    def __post_init__(self) -> None:
        _check_hash(self.lock_id, "voucher: lock_id")
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


def _check_account(account: bytes, what: str) -> None:
    # Credit sent to a key that no signature can ever satisfy would be lost, so weak keys are refused here.
    if len(account) != 32 or not is_strict_point(account):
        raise WireError(f"{what} is not a strict Ed25519 key")


def _check_hash(value: bytes, what: str) -> None:
    if len(value) != HASH_BYTES:
        raise WireError(f"{what} has {len(value)} bytes, not {HASH_BYTES}")


def _check_range(value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise WireError(f"{what} is {value}, allowed are {least} to {most}")
