"""The genesis record: what every member of one network agrees on before the first entry (SPEC.md §8)."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import Final

from ledger.core.amounts import AMOUNT_MAX, LIMIT_SUM_MAX
from ledger.core.committee import WITNESSES_MAX, Committee
from ledger.core.encoding import NetworkId, Reader, WireError, digest
from ledger.core.keys import ACCOUNT_BYTES, AccountId, is_strict_point
from ledger.core.params import SLOT_TIMEOUT_MS_MAX, Params

__all__ = [
    "GENESIS_BYTES_MAX",
    "GOVERNORS_MAX",
    "LIMITS_MAX",
    "NAME_BYTES_MAX",
    "SLOT_TIMEOUT_MS_MAX",
    "TIME_MS_MAX",
    "Genesis",
]

GENESIS_VERSION: Final = 2
NAME_BYTES_MAX: Final = 64
LIMITS_MAX: Final = 4096
GOVERNORS_MAX: Final = 16
"""A decree names its signers in a bitmap of 16 bits."""
TIME_MS_MAX: Final = (1 << 63) - 1
"""Times and sequence numbers fit a signed 64-bit integer: SQLite would turn 2^63 into a float."""

_DOMAIN: Final = b"millrace/1 genesis\0"
_HEAD = struct.Struct(">QIQQ")  # created_ms, slot_timeout_ms, fee_min, dispute_fee
_LIMIT_BYTES: Final = ACCOUNT_BYTES + 8
GENESIS_BYTES_MAX: Final = (
    2
    + NAME_BYTES_MAX
    + _HEAD.size
    + (2 + WITNESSES_MAX * ACCOUNT_BYTES)
    + (2 + LIMITS_MAX * _LIMIT_BYTES)
    + (2 + GOVERNORS_MAX * ACCOUNT_BYTES)
)


@dataclass(frozen=True, slots=True)
class Genesis:
    """One network's fixed facts. Every value is checked when it is built: `WireError` says which rule it breaks.

    `witnesses` is in leader order (slot mod n) and without repeats; `limits` gives founders their credit lines
    in micro-credits and is kept sorted by account, so that one network has one encoding and one id. `governors`,
    sorted too, decide what may change later, `governors_needed` of them together; without any, nothing ever can.
    """

    name: str
    created_ms: int
    witnesses: tuple[AccountId, ...]
    limits: tuple[tuple[AccountId, int], ...]
    slot_timeout_ms: int = 1000
    fee_min: int = 0
    dispute_fee: int = 0
    governors: tuple[AccountId, ...] = ()
    governors_needed: int = 0
    network_id: NetworkId = field(init=False, repr=False, compare=False)
    """SHA-256 of the domain and the encoded record: the name of the network in every signature."""
    committee: Committee = field(init=False, repr=False, compare=False)
    """The witnesses of epoch 0."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "limits", tuple(sorted(self.limits)))
        object.__setattr__(self, "governors", tuple(sorted(self.governors)))
        _check_name(self.name)
        _check_range(self.created_ms, 0, TIME_MS_MAX, "created_ms")
        _check_range(self.slot_timeout_ms, 1, SLOT_TIMEOUT_MS_MAX, "slot_timeout_ms")
        _check_range(self.fee_min, 0, AMOUNT_MAX, "fee_min")
        _check_range(self.dispute_fee, 0, AMOUNT_MAX, "dispute_fee")
        _check_accounts(self.witnesses, 1, WITNESSES_MAX, "witness")
        _check_accounts(tuple(account for account, _ in self.limits), 0, LIMITS_MAX, "limit")
        for _, limit in self.limits:
            _check_range(limit, 1, LIMIT_SUM_MAX, "a limit")
        if sum(limit for _, limit in self.limits) > LIMIT_SUM_MAX:
            raise WireError(f"genesis: the limits sum to more than {LIMIT_SUM_MAX}")
        _check_accounts(self.governors, 0, GOVERNORS_MAX, "governor")
        least = 1 if self.governors else 0
        _check_range(self.governors_needed, least, len(self.governors), "governors_needed")
        object.__setattr__(self, "network_id", NetworkId(digest(_DOMAIN, self.encode())))
        object.__setattr__(self, "committee", Committee(self.network_id, 0, self.witnesses))

    @property
    def params(self) -> Params:
        """What the network starts with; a PARAM entry may change it."""
        return Params(1, self.fee_min, self.dispute_fee, self.slot_timeout_ms)

    def encode(self) -> bytes:
        """The canonical bytes of the record (SPEC.md §8)."""
        name = self.name.encode("ascii")
        parts = [
            bytes((GENESIS_VERSION, len(name))),
            name,
            _HEAD.pack(self.created_ms, self.slot_timeout_ms, self.fee_min, self.dispute_fee),
            len(self.witnesses).to_bytes(2, "big"),
            *self.witnesses,
            len(self.limits).to_bytes(2, "big"),
        ]
        for account, limit in self.limits:
            parts += (account, limit.to_bytes(8, "big"))
        parts += (bytes((self.governors_needed, len(self.governors))), *self.governors)
        return b"".join(parts)

    @staticmethod
    def decode(data: bytes) -> Genesis:
        """The record in `data`; whatever is not the canonical encoding of a valid one is a `WireError`."""
        reader = Reader(data, "genesis")
        version = reader.uint(1)
        if version == 1:
            raise WireError(
                "genesis: version 1, from before networks had governors; the network must be made anew"
            )
        if version != GENESIS_VERSION:
            raise WireError(f"genesis: version {version}, only {GENESIS_VERSION} is known")
        name = reader.text(1, NAME_BYTES_MAX)
        created_ms, slot_timeout_ms, fee_min, dispute_fee = _HEAD.unpack(reader.take(_HEAD.size))
        witnesses = tuple(
            AccountId(reader.take(ACCOUNT_BYTES)) for _ in range(_count(reader, WITNESSES_MAX, "witnesses"))
        )
        limits = tuple(
            (AccountId(reader.take(ACCOUNT_BYTES)), reader.uint(8))
            for _ in range(_count(reader, LIMITS_MAX, "limits"))
        )
        needed, count = reader.uint(1), _count(reader, GOVERNORS_MAX, "governors", width=1)
        governors = tuple(AccountId(reader.take(ACCOUNT_BYTES)) for _ in range(count))
        reader.end()
        if list(governors) != sorted(governors):
            raise WireError("genesis: the governors are not sorted")
        if list(limits) != sorted(limits):
            raise WireError("genesis: the limits are not sorted by account")
        return Genesis(
            name,
            created_ms,
            witnesses,
            limits,
            slot_timeout_ms,
            fee_min,
            dispute_fee,
            governors,
            needed,
        )


def _count(reader: Reader, count_max: int, what: str, width: int = 2) -> int:
    count = reader.uint(width)
    if count > count_max:
        raise WireError(f"genesis: {count} {what}, at most {count_max} allowed")
    return count


def _check_name(name: str) -> None:
    if not 1 <= len(name) <= NAME_BYTES_MAX or name != name.strip(" "):
        raise WireError(f"genesis: a name has 1 to {NAME_BYTES_MAX} characters and no space around it")
    if not all(" " <= character <= "~" for character in name):
        raise WireError("genesis: a name is printable ASCII")


def _check_range(value: int, least: int, most: int, what: str) -> None:
    if not least <= value <= most:
        raise WireError(f"genesis: {what} is {value}, allowed are {least} to {most}")


def _check_accounts(accounts: tuple[AccountId, ...], least: int, most: int, what: str) -> None:
    _check_range(len(accounts), least, most, f"the number of {what} accounts")
    if len(set(accounts)) != len(accounts):
        raise WireError(f"genesis: a {what} account stands twice")
    for account in accounts:
        if len(account) != ACCOUNT_BYTES or not is_strict_point(account):
            raise WireError(f"genesis: a {what} account is not a strict Ed25519 key")
