"""What an entry can ask for: eleven actions, each a checked value (SPEC.md §3).

A value that exists is well formed; whether it may be applied is the state's question.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

from ledger.core.amounts import AMOUNT_MAX, LIMIT_SUM_MAX, check_amount
from ledger.core.approvals import APPROVERS_MAX, NO_APPROVALS, Approvals
from ledger.core.committee import WITNESSES_MAX
from ledger.core.encoding import Kind, NetworkId, WireError
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import (
    ACCOUNT_BYTES,
    SIGNATURE_BYTES,
    SUSPECT_LAST_BYTES,
    AccountId,
    SigningKey,
    is_strict_point,
)

if TYPE_CHECKING:
    from ledger.core.params import Params

__all__ = [
    "BASIS_POINTS",
    "DISPUTE_MS_MAX",
    "HASH_BYTES",
    "NO_HASH",
    "NO_KEY",
    "NO_SIGNATURE",
    "SEQUENCE_MAX",
    "Action",
    "Claim",
    "Decree",
    "Dispute",
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
    "check_account",
    "check_hash",
    "check_range",
    "decree_body",
    "decree_payload",
    "sign_decree",
]

HASH_BYTES: Final = 32
SEQUENCE_MAX: Final = (1 << 63) - 1
DISPUTE_MS_MAX: Final = 30 * 24 * 3600 * 1000
"""How long after its expiry a disputed lock may wait for its arbiters."""
BASIS_POINTS: Final = 10_000
NO_SIGNATURE: Final = bytes(SIGNATURE_BYTES)
NO_HASH: Final = bytes(HASH_BYTES)
NO_KEY: Final = AccountId(bytes(ACCOUNT_BYTES))
"""Stands where a REKEY registers no recovery key."""


class EntryType(IntEnum):
    """The type byte of an entry."""

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
    memo_hash: bytes = NO_HASH

    def __post_init__(self) -> None:
        # One test for all that is well: most entries are transfers.
        to = self.to
        if (
            len(to) != ACCOUNT_BYTES
            or to[31] in SUSPECT_LAST_BYTES
            or not 1 <= self.amount <= AMOUNT_MAX
            or len(self.memo_hash) != HASH_BYTES
        ):
            check_account(to, "transfer: to")
            check_amount(self.amount, "transfer: amount")
            check_hash(self.memo_hash, "transfer: memo_hash")


@dataclass(frozen=True, slots=True)
class Lock:
    """Set `amount` aside for `payee` until `expiry_ms`; the entry's id is the lock's id.

    With `dispute_ms` > 0 the payee may dispute it before it expires: then `arbiters_needed` of the arbiters whose
    list hashes to `arbiters_hash` may split it until `dispute_ms` after its expiry, and if they are silent the payee
    gets `default_bps` / 10,000 of it. All four are zero for a lock without disputes.
    """

    TYPE: ClassVar[EntryType] = EntryType.LOCK

    payee: AccountId
    amount: int
    expiry_ms: int
    terms_hash: bytes = NO_HASH
    dispute_ms: int = 0
    arbiters_hash: bytes = NO_HASH
    arbiters_needed: int = 0
    default_bps: int = 0

    def __post_init__(self) -> None:
        check_account(self.payee, "lock: payee")
        check_amount(self.amount, "lock: amount")
        check_range(self.expiry_ms, 0, TIME_MS_MAX, "lock: expiry_ms")
        check_hash(self.terms_hash, "lock: terms_hash")
        check_hash(self.arbiters_hash, "lock: arbiters_hash")
        if self.dispute_ms or self.arbiters_needed or self.default_bps or self.arbiters_hash != NO_HASH:
            check_range(self.dispute_ms, 1, DISPUTE_MS_MAX, "lock: dispute_ms of a lock with arbiters")
            check_range(self.arbiters_needed, 1, APPROVERS_MAX, "lock: arbiters_needed of one with disputes")
            check_range(self.default_bps, 0, BASIS_POINTS, "lock: default_bps")
            if self.arbiters_hash == NO_HASH:
                raise WireError("lock: one with disputes names its arbiters by their hash")


@dataclass(frozen=True, slots=True)
class Claim:
    """The payee closes lock `lock_id` and takes `cumulative` of it; 0, without a voucher, cancels the lock."""

    TYPE: ClassVar[EntryType] = EntryType.CLAIM

    lock_id: bytes
    cumulative: int
    voucher_signature: bytes = NO_SIGNATURE

    def __post_init__(self) -> None:
        check_hash(self.lock_id, "claim: lock_id")
        check_range(self.cumulative, 0, AMOUNT_MAX, "claim: cumulative")
        if len(self.voucher_signature) != SIGNATURE_BYTES:
            raise WireError(f"claim: a voucher signature has {SIGNATURE_BYTES} bytes")
        if not self.cumulative and self.voucher_signature != NO_SIGNATURE:
            raise WireError("claim: a claim of 0 carries no voucher signature (64 zero bytes)")


@dataclass(frozen=True, slots=True)
class Expire:
    """Anyone closes lock `lock_id` at or after its deadline: it returns to the payer, but for a disputed default."""

    TYPE: ClassVar[EntryType] = EntryType.EXPIRE

    lock_id: bytes

    def __post_init__(self) -> None:
        check_hash(self.lock_id, "expire: lock_id")


@dataclass(frozen=True, slots=True)
class Release:
    """The payer closes lock `lock_id`: all of it is the payee's."""

    TYPE: ClassVar[EntryType] = EntryType.RELEASE

    lock_id: bytes

    def __post_init__(self) -> None:
        check_hash(self.lock_id, "release: lock_id")


@dataclass(frozen=True, slots=True)
class Dispute:
    """The payee of lock `lock_id` calls its arbiters; `evidence_hash` is 32 bytes the ledger does not read."""

    TYPE: ClassVar[EntryType] = EntryType.DISPUTE

    lock_id: bytes
    evidence_hash: bytes = NO_HASH

    def __post_init__(self) -> None:
        check_hash(self.lock_id, "dispute: lock_id")
        check_hash(self.evidence_hash, "dispute: evidence_hash")


@dataclass(frozen=True, slots=True)
class Verdict:
    """Anyone closes the disputed lock `lock_id` as its arbiters decided: `payee_amount` to the payee, the rest back."""

    TYPE: ClassVar[EntryType] = EntryType.VERDICT

    lock_id: bytes
    payee_amount: int
    arbiters: tuple[AccountId, ...]
    approvals: Approvals

    def __post_init__(self) -> None:
        check_hash(self.lock_id, "verdict: lock_id")
        check_range(self.payee_amount, 0, AMOUNT_MAX, "verdict: payee_amount")
        check_range(len(self.arbiters), 1, APPROVERS_MAX, "verdict: the number of arbiters")
        for account in self.arbiters:
            check_account(account, "verdict: an arbiter")
        if list(self.arbiters) != sorted(set(self.arbiters)):
            raise WireError("verdict: the arbiters are not sorted, or one stands twice")
        if self.approvals.signers >> len(self.arbiters):
            raise WireError(f"verdict: a signer beyond the {len(self.arbiters)} arbiters")


@dataclass(frozen=True, slots=True)
class Limit:
    """Change credit lines by `delta` micro-credits, never 0.

    With `decree` 0, the sender delegates `delta` of its own line to `beneficiary`, or takes back as much if it is
    negative. With a decree's number, the governors change the beneficiary's line, and the sender only carries it.
    """

    TYPE: ClassVar[EntryType] = EntryType.LIMIT

    beneficiary: AccountId
    delta: int
    decree: int = 0
    approvals: Approvals = NO_APPROVALS

    def __post_init__(self) -> None:
        check_account(self.beneficiary, "limit: beneficiary")
        check_range(self.delta, -LIMIT_SUM_MAX, LIMIT_SUM_MAX, "limit: delta")
        check_range(self.decree, 0, SEQUENCE_MAX, "limit: decree")
        if not self.delta:
            raise WireError("limit: a delta of 0 changes nothing")
        if not self.decree and self.approvals.signers:
            raise WireError("limit: a delegation (decree 0) carries no approvals")


@dataclass(frozen=True, slots=True)
class Rekey:
    """From here on `new_key` signs for the account, and `recovery` (NO_KEY: none) for its next REKEY.

    `proof` is the new key's own signature (`sign_rekey`). A REKEY has its own sequence: `seq` counts REKEYs.
    """

    TYPE: ClassVar[EntryType] = EntryType.REKEY

    new_key: AccountId
    recovery: AccountId
    proof: bytes

    def __post_init__(self) -> None:
        check_account(self.new_key, "rekey: new_key")
        if self.recovery != NO_KEY:
            check_account(self.recovery, "rekey: recovery")
        if len(self.proof) != SIGNATURE_BYTES:
            raise WireError(f"rekey: a proof has {SIGNATURE_BYTES} bytes")


@dataclass(frozen=True, slots=True)
class Rotate:
    """The governors end the epoch: from the next block on, `witnesses` decide, in this leader order."""

    TYPE: ClassVar[EntryType] = EntryType.ROTATE

    decree: int
    witnesses: tuple[AccountId, ...]
    approvals: Approvals

    def __post_init__(self) -> None:
        check_range(self.decree, 1, SEQUENCE_MAX, "rotate: decree")
        check_range(len(self.witnesses), 1, WITNESSES_MAX, "rotate: the number of witnesses")
        for account in self.witnesses:
            check_account(account, "rotate: a witness")
        if len(set(self.witnesses)) != len(self.witnesses):
            raise WireError("rotate: a witness stands twice")


@dataclass(frozen=True, slots=True)
class Param:
    """The governors set the network's parameters, from block `from_height` on."""

    TYPE: ClassVar[EntryType] = EntryType.PARAM

    decree: int
    from_height: int
    params: Params
    approvals: Approvals

    def __post_init__(self) -> None:
        check_range(self.decree, 1, SEQUENCE_MAX, "param: decree")
        check_range(self.from_height, 1, TIME_MS_MAX, "param: from_height")


Decree: TypeAlias = Limit | Rotate | Param
"""What governors decide. A `Limit` is one of them only if it names a decree's number."""
Action: TypeAlias = (
    Transfer | Lock | Claim | Expire | Release | Dispute | Verdict | Limit | Rekey | Rotate | Param
)

_DECREE = struct.Struct(">BQ")  # type, decree
_LIMIT_DECREE = struct.Struct(">32sq")  # beneficiary, delta
_PARAM_DECREE = struct.Struct(">QHQQI")  # from_height, version, fee_min, dispute_fee, slot_timeout_ms


def decree_body(decree: Decree) -> bytes:
    """What a governor signs: type, number, and the payload without number and approvals (SPEC.md §3.4)."""
    return _DECREE.pack(decree.TYPE, decree.decree) + decree_payload(decree)


def decree_payload(decree: Decree) -> bytes:
    """What is decreed, as bytes."""
    if isinstance(decree, Limit):
        return _LIMIT_DECREE.pack(decree.beneficiary, decree.delta)
    if isinstance(decree, Rotate):
        return b"".join((bytes((len(decree.witnesses),)), *decree.witnesses))
    params = decree.params
    return _PARAM_DECREE.pack(
        decree.from_height, params.version, params.fee_min, params.dispute_fee, params.slot_timeout_ms
    )


def sign_decree(key: SigningKey, network_id: NetworkId, decree: Decree) -> bytes:
    """One governor's approval of `decree`; the approvals that it carries do not matter."""
    return key.sign(Kind.DECREE, network_id, decree_body(decree))


def check_account(account: bytes, what: str) -> None:
    """Refuse (`WireError`) what is not a strict key: credit sent to it would be lost, no signature could satisfy it."""
    if len(account) != ACCOUNT_BYTES or not is_strict_point(account):
        raise WireError(f"{what} is not a strict Ed25519 key")


def check_hash(value: bytes, what: str) -> None:
    """Refuse (`WireError`) what has not 32 bytes."""
    if len(value) != HASH_BYTES:
        raise WireError(f"{what} has {len(value)} bytes, not {HASH_BYTES}")


def check_range(value: int, least: int, most: int, what: str) -> None:
    """Refuse (`WireError`) a number outside `least` to `most`."""
    if not least <= value <= most:
        raise WireError(f"{what} is {value}, allowed are {least} to {most}")
