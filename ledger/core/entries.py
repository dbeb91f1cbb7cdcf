"""Entries, the ledger's only way to change (SPEC.md §3).

An entry has one byte layout: header, payload of its type, signature. Every value is checked when it is
built, whether by our own code or from a stranger's bytes, so an `Entry` in hand is always well formed;
whether it may be applied is the state's question. What it can ask for is in `actions`.
"""

from __future__ import annotations

import struct
from dataclasses import InitVar, dataclass, field
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from ledger.core.actions import (
    NO_KEY,
    NO_SIGNATURE,
    SEQUENCE_MAX,
    Action,
    Claim,
    Decree,
    Dispute,
    EntryType,
    Expire,
    Limit,
    Lock,
    Param,
    Rekey,
    Release,
    Rotate,
    Transfer,
    Verdict,
    check_account,
    check_range,
    decree_payload,
    sign_decree,
)
from ledger.core.amounts import AMOUNT_MAX
from ledger.core.approvals import (
    APPROVALS_BYTES_MAX,
    NO_APPROVALS,
    Approvals,
    arbiters_hash,
    sign_rekey,
    sign_verdict,
    take_approvals,
)
from ledger.core.committee import WITNESSES_MAX
from ledger.core.encoding import Kind, NetworkId, Reader, WireError, signing_bytes
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import ACCOUNT_BYTES, SIGNATURE_BYTES, SUSPECT_LAST_BYTES, AccountId, SigningKey, verify
from ledger.core.params import Params
from ledger.core.vouchers import VOUCHER_BYTES, Voucher, decode_voucher, sign_voucher, verify_voucher

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ENTRY_BYTES_MAX",
    "NO_APPROVALS",
    "NO_KEY",
    "SEQUENCE_MAX",
    "VOUCHER_BYTES",
    "Action",
    "Approvals",
    "Claim",
    "Decree",
    "Dispute",
    "Entry",
    "EntryType",
    "Expire",
    "Limit",
    "Lock",
    "Param",
    "Rekey",
    "Release",
    "Rotate",
    "Transfer",
    "Verdict",
    "Voucher",
    "arbiters_hash",
    "decode_entry",
    "decode_voucher",
    "entry_end",
    "sign_decree",
    "sign_entry",
    "sign_rekey",
    "sign_rekey_entry",
    "sign_verdict",
    "sign_voucher",
    "take_entry",
    "verify_entry",
    "verify_voucher",
]

# type, account, seq, not_after_ms, fee | payload; the 64 bytes of signature follow.
_HEAD = struct.Struct(">B32sQQQ")
_TRANSFER = struct.Struct(">B32sQQQ32sQ32s")
_LOCK = struct.Struct(">B32sQQQ32sQQQ32sBH32s")
_CLAIM = struct.Struct(">B32sQQQ32sQ64s")
_EXPIRE = struct.Struct(">B32sQQQ32s")
_DISPUTE = struct.Struct(">B32sQQQ32s32s")
_REKEY = struct.Struct(">B32sQQQ32s32s64s")
_VERDICT = struct.Struct(">32sQ")  # then the arbiters behind their count, and the approvals
_DECREE_NUMBER = struct.Struct(">Q")
_PARAM = struct.Struct(">QHQQI")
# Plain integers: looking a member up in an enum costs more than unpacking the whole entry.
_TRANSFER_TYPE: Final = int(EntryType.TRANSFER)
_LOCK_TYPE: Final = int(EntryType.LOCK)
_CLAIM_TYPE: Final = int(EntryType.CLAIM)
_LAYOUTS: Final = {
    _TRANSFER_TYPE: _TRANSFER,
    _LOCK_TYPE: _LOCK,
    _CLAIM_TYPE: _CLAIM,
    int(EntryType.EXPIRE): _EXPIRE,
    int(EntryType.RELEASE): _EXPIRE,
    int(EntryType.DISPUTE): _DISPUTE,
    int(EntryType.REKEY): _REKEY,
}
_RARE_FIXED: Final[dict[int, Callable[..., Action]]] = {
    int(EntryType.EXPIRE): Expire,
    int(EntryType.RELEASE): Release,
    int(EntryType.DISPUTE): Dispute,
    int(EntryType.REKEY): Rekey,
}
ENTRY_BYTES_MAX: Final = (
    _HEAD.size + 8 + 1 + WITNESSES_MAX * ACCOUNT_BYTES + APPROVALS_BYTES_MAX + SIGNATURE_BYTES
)
"""A ROTATE with all the witnesses and governors that there can be: 3,204."""


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
    named: tuple[NetworkId, bytes] | None = field(init=False, default=None, repr=False, compare=False)
    """For `entry_id` alone: the last network that asked, and the id there, which pool, state and store all ask for."""

    def __post_init__(self, wire: bytes | None) -> None:
        # One test for all that is well: this runs for every entry of every block.
        account = self.account
        if (
            len(account) != ACCOUNT_BYTES
            or account[31] in SUSPECT_LAST_BYTES
            or not 1 <= self.seq <= SEQUENCE_MAX
            or not 0 <= self.not_after_ms <= TIME_MS_MAX
            or not 0 <= self.fee <= AMOUNT_MAX
        ):
            check_account(account, "entry: account")
            check_range(self.seq, 1, SEQUENCE_MAX, "entry: seq")
            check_range(self.not_after_ms, 0, TIME_MS_MAX, "entry: not_after_ms")
            check_range(self.fee, 0, AMOUNT_MAX, "entry: fee")
        if len(self.signature) != SIGNATURE_BYTES:
            raise WireError(f"entry: a signature has {SIGNATURE_BYTES} bytes, not {len(self.signature)}")
        if wire is None:
            wire = _body(self.account, self.seq, self.not_after_ms, self.fee, self.action) + self.signature
        object.__setattr__(self, "encoded", wire)

    @property
    def lane(self) -> bytes:
        """Which sequence `seq` counts: the account's entries, or (behind b"R") its REKEYs, which have their own."""
        return b"R" + self.account if type(self.action) is Rekey else self.account

    def body(self) -> bytes:
        """Header and payload: the bytes that are signed (SPEC.md §3)."""
        return self.encoded[:-SIGNATURE_BYTES]

    def encode(self) -> bytes:
        """Body and signature: the bytes on the wire, on disk and in the Merkle leaf."""
        return self.encoded

    def entry_id(self, network_id: NetworkId) -> bytes:
        """SHA-256 of the signing bytes: independent of the signature, different on every network."""
        named = self.named
        if named is None or named[0] != network_id:
            named = (network_id, sha256(signing_bytes(Kind.ENTRY, network_id, self.body())).digest())
            object.__setattr__(self, "named", named)
        return named[1]


def sign_entry(
    key: SigningKey,
    network_id: NetworkId,
    *,
    seq: int,
    not_after_ms: int,
    fee: int,
    action: Action,
    account: AccountId | None = None,
) -> Entry:
    """An entry of `account` (the key's own unless told), signed by `key`; `WireError` if a field is out of range."""
    who = key.account if account is None else account
    unsigned = Entry(who, seq, not_after_ms, fee, action, NO_SIGNATURE)
    signature = key.sign(Kind.ENTRY, network_id, unsigned.body())
    return Entry(who, seq, not_after_ms, fee, action, signature)


def sign_rekey_entry(
    key: SigningKey,
    network_id: NetworkId,
    account: AccountId,
    *,
    seq: int,
    not_after_ms: int,
    fee: int,
    new_key: SigningKey,
    recovery: AccountId,
) -> Entry:
    """A REKEY of `account`, its `seq`-th: signed by `key`, its present or recovery key, and proved by the new one."""
    proof = sign_rekey(new_key, network_id, account, seq, recovery)
    action = Rekey(new_key.account, recovery, proof)
    return sign_entry(
        key, network_id, account=account, seq=seq, not_after_ms=not_after_ms, fee=fee, action=action
    )


def verify_entry(entry: Entry, network_id: NetworkId, key: AccountId | None = None) -> bool:
    """Whether `key` signed the entry on this network: the state knows which key must (`LedgerState.signer`).

    Without a key, the account's first one, which is its name, is asked.
    """
    signer = entry.account if key is None else key
    return verify(signer, entry.signature, Kind.ENTRY, network_id, entry.encoded[:-SIGNATURE_BYTES])


def decode_entry(data: bytes) -> Entry:
    """The entry in `data`; any other bytes are a `WireError`."""
    entry, end = take_entry(data, 0)
    if end != len(data):
        raise WireError(f"entry: {len(data) - end} bytes too many")
    return entry


def take_entry(data: bytes, start: int) -> tuple[Entry, int]:
    """The entry at `start` of `data` and where it ends; the type byte, and counts behind it, give its length."""
    if not 0 <= start < len(data):
        raise WireError("entry: no bytes")
    layout = _LAYOUTS.get(data[start])
    if layout is None:
        return _take_long(data, start)
    end = start + layout.size
    after = end + SIGNATURE_BYTES
    if after > len(data):
        raise WireError(f"entry: {layout.size + SIGNATURE_BYTES} bytes expected, {len(data) - start} left")
    if layout is _TRANSFER:  # most entries are transfers
        _, account, seq, not_after_ms, fee, to, amount, memo_hash = _TRANSFER.unpack_from(data, start)
        move = Transfer(to, amount, memo_hash)
        return Entry(account, seq, not_after_ms, fee, move, data[end:after], data[start:after]), after
    kind, account, seq, not_after_ms, fee, *payload = layout.unpack_from(data, start)
    action: Action
    if kind == _CLAIM_TYPE:
        action = Claim(*payload)
    elif kind == _LOCK_TYPE:
        payee, amount, expiry_ms, dispute_ms, arbiters, needed, default_bps, terms = payload
        action = Lock(payee, amount, expiry_ms, terms, dispute_ms, arbiters, needed, default_bps)
    else:
        action = _RARE_FIXED[kind](*payload)
    entry = Entry(account, seq, not_after_ms, fee, action, data[end:after], data[start:after])
    return entry, after


def _take_long(data: bytes, start: int) -> tuple[Entry, int]:
    """An entry whose length hangs on counts inside: rare types, read field by field."""
    take = _LONG.get(data[start])
    if take is None:
        raise WireError(f"entry: type {data[start]} is unknown")
    window = data[start : start + ENTRY_BYTES_MAX]
    reader = Reader(window, "entry")
    _, account, seq, not_after_ms, fee = _HEAD.unpack(reader.take(_HEAD.size))
    action = take(reader)
    signature = reader.take(SIGNATURE_BYTES)
    wire = window[: len(window) - reader.remaining]
    return Entry(account, seq, not_after_ms, fee, action, signature, wire), start + len(wire)


def _take_verdict(reader: Reader) -> Verdict:
    lock_id, payee_amount = _VERDICT.unpack(reader.take(_VERDICT.size))
    arbiters = tuple(AccountId(reader.take(ACCOUNT_BYTES)) for _ in range(reader.uint(1)))
    return Verdict(lock_id, payee_amount, arbiters, take_approvals(reader))


def _take_limit(reader: Reader) -> Limit:
    beneficiary = AccountId(reader.take(ACCOUNT_BYTES))
    delta = int.from_bytes(reader.take(8), "big", signed=True)
    return Limit(beneficiary, delta, reader.uint(8), take_approvals(reader))


def _take_rotate(reader: Reader) -> Rotate:
    decree = reader.uint(8)
    witnesses = tuple(AccountId(reader.take(ACCOUNT_BYTES)) for _ in range(reader.uint(1)))
    return Rotate(decree, witnesses, take_approvals(reader))


def _take_param(reader: Reader) -> Param:
    decree = reader.uint(8)
    from_height, *params = _PARAM.unpack(reader.take(_PARAM.size))
    return Param(decree, from_height, Params(*params), take_approvals(reader))


_LONG: Final[dict[int, Callable[[Reader], Action]]] = {
    int(EntryType.VERDICT): _take_verdict,
    int(EntryType.LIMIT): _take_limit,
    int(EntryType.ROTATE): _take_rotate,
    int(EntryType.PARAM): _take_param,
}


def entry_end(data: bytes, start: int) -> int:
    """Where the entry at `start` of `data` ends; the fields are read only where the type alone does not tell."""
    layout = _LAYOUTS.get(data[start]) if 0 <= start < len(data) else None
    if layout is None:
        return take_entry(data, start)[1]
    end = start + layout.size + SIGNATURE_BYTES
    if end > len(data):
        raise WireError("entry: it is cut short")
    return end


def _body(account: AccountId, seq: int, not_after_ms: int, fee: int, action: Action) -> bytes:
    head = (action.TYPE, account, seq, not_after_ms, fee)
    if isinstance(action, Transfer):
        return _TRANSFER.pack(*head, action.to, action.amount, action.memo_hash)
    if isinstance(action, Claim):
        return _CLAIM.pack(*head, action.lock_id, action.cumulative, action.voucher_signature)
    if isinstance(action, Lock):
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
    if isinstance(action, Expire | Release):
        return _EXPIRE.pack(*head, action.lock_id)
    if isinstance(action, Dispute):
        return _DISPUTE.pack(*head, action.lock_id, action.evidence_hash)
    if isinstance(action, Rekey):
        return _REKEY.pack(*head, action.new_key, action.recovery, action.proof)
    return _HEAD.pack(*head) + _long_payload(action)


def _long_payload(action: Verdict | Decree) -> bytes:
    if isinstance(action, Verdict):
        listed = (bytes((len(action.arbiters),)), *action.arbiters)
        return b"".join(
            (_VERDICT.pack(action.lock_id, action.payee_amount), *listed, action.approvals.encode())
        )
    number, decreed = _DECREE_NUMBER.pack(action.decree), decree_payload(action)
    parts = (decreed, number) if isinstance(action, Limit) else (number, decreed)
    return b"".join((*parts, action.approvals.encode()))
