"""The audit's own books: a second, independent reading of SPEC.md §4.

It shares no code with `state`, which witnesses and followers run, so that one misreading cannot hide in
both. Here every credit is a posting between two purses, of accounts and of locks alike: a transfer, a
lock and a refund are all the same step, and conservation is a sum over all purses.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import digest
from ledger.core.entries import Action, Claim, Entry, Expire, Lock, Transfer, Voucher, verify_voucher
from ledger.core.keys import AccountId
from ledger.core.merkle import Peaks

if TYPE_CHECKING:
    from ledger.core.genesis import Genesis

__all__ = ["AuditRule", "Books", "BrokenRuleError", "Line", "OpenLock"]

_LOCK_SPAN_MS: Final = 31_622_400_000  # 366 days, SPEC.md §4
_FEE_PURSE: Final = b"fee"


class AuditRule(StrEnum):
    """What a ledger can break, each with its rules in SPEC.md."""

    ENCODING = "encoding"
    CHAIN = "chain"
    TIME = "time"
    CERTIFICATE = "certificate"
    QUORUM = "quorum"
    FINALITY = "finality"
    LOG = "log"
    STATE_ROOT = "state_root"
    SIGNATURE = "signature"
    SEQUENCE = "sequence"
    NOT_AFTER = "not_after"
    FEE = "fee"
    PAYMENT = "payment"
    LOCK = "lock"
    VOUCHER = "voucher"
    BALANCE = "balance"
    CONSERVATION = "conservation"


class BrokenRuleError(Exception):
    """The ledger breaks `rule`; `audit` turns it into a `Violation` with its place."""

    def __init__(self, rule: AuditRule, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule
        self.detail = detail


@dataclass(slots=True)
class OpenLock:
    payer: AccountId
    payee: AccountId
    amount: int
    expiry_ms: int
    terms_hash: bytes


@dataclass(slots=True)
class Line:
    """What an account may and did do; its credit is in its purse."""

    floor: int = 0
    used: int = 0
    last_id: bytes = bytes(32)
    active_ms: int = 0


@dataclass(slots=True)
class Books:
    """Purses and what guards them. A purse is an account's (32 bytes) or a lock's (its id behind b'L')."""

    genesis: Genesis
    purses: dict[bytes, int] = field(default_factory=dict)
    lines: dict[AccountId, Line] = field(default_factory=dict)
    locks: dict[bytes, OpenLock] = field(default_factory=dict)
    paid: int = 0
    refunded: int = 0
    fees: int = 0

    def entry(self, entry: Entry, time_ms: int, leader: AccountId) -> None:
        """Post one entry, or say which rule forbids it."""
        who = entry.account
        line = self.lines.setdefault(who, Line())
        if entry.seq != line.used + 1:
            raise BrokenRuleError(AuditRule.SEQUENCE, f"sequence {entry.seq} after {line.used}")
        if entry.not_after_ms < time_ms:
            raise BrokenRuleError(
                AuditRule.NOT_AFTER, f"valid until {entry.not_after_ms}, applied at {time_ms}"
            )
        if entry.fee < self.genesis.fee_min:
            raise BrokenRuleError(
                AuditRule.FEE, f"a fee of {entry.fee}, at least {self.genesis.fee_min} is due"
            )
        entry_id = entry.entry_id(self.genesis.network_id)
        self._act(entry_id, who, entry.action, time_ms)
        # The leader's income comes last: it cannot pay for its own entry with the fee it is about to earn.
        self._post(who, _FEE_PURSE, entry.fee)
        if self.purses.get(who, 0) < line.floor:
            raise BrokenRuleError(
                AuditRule.BALANCE, f"the balance falls to {self.purses[who]}, the limit is {-line.floor}"
            )
        self._post(_FEE_PURSE, leader, entry.fee)
        self.fees += entry.fee
        line.used, line.last_id, line.active_ms = entry.seq, entry_id, time_ms

    def _act(self, entry_id: bytes, who: AccountId, action: Action, time_ms: int) -> None:
        if isinstance(action, Transfer):
            if action.to == who:
                raise BrokenRuleError(AuditRule.PAYMENT, "an account pays itself")
            self._post(who, action.to, action.amount)
        elif isinstance(action, Lock):
            if action.payee == who:
                raise BrokenRuleError(AuditRule.PAYMENT, "an account locks credit for itself")
            if not time_ms < action.expiry_ms <= time_ms + _LOCK_SPAN_MS:
                raise BrokenRuleError(AuditRule.LOCK, f"expiry {action.expiry_ms} for a block of {time_ms}")
            self.locks[entry_id] = OpenLock(
                who, action.payee, action.amount, action.expiry_ms, action.terms_hash
            )
            self._post(who, b"L" + entry_id, action.amount)
        elif isinstance(action, Claim | Expire):
            self._close(who, action, time_ms)
        else:
            raise BrokenRuleError(AuditRule.ENCODING, f"{action.TYPE.name} entries are not in use yet")

    def _close(self, who: AccountId, action: Claim | Expire, time_ms: int) -> None:
        lock = self.locks.get(action.lock_id)
        if lock is None:
            raise BrokenRuleError(AuditRule.LOCK, f"no open lock {action.lock_id.hex()}")
        paid = 0
        if isinstance(action, Claim):
            paid = action.cumulative
            self._check_claim(who, action, lock, time_ms)
        elif time_ms < lock.expiry_ms:
            raise BrokenRuleError(AuditRule.LOCK, f"expired at {time_ms}, allowed from {lock.expiry_ms}")
        del self.locks[action.lock_id]
        purse = b"L" + action.lock_id
        self._post(purse, lock.payee, paid)
        self._post(purse, lock.payer, lock.amount - paid)
        if self.purses.pop(purse):
            raise BrokenRuleError(AuditRule.CONSERVATION, f"lock {action.lock_id.hex()} closed with a rest")
        self.paid += paid
        self.refunded += lock.amount - paid

    def _check_claim(self, who: AccountId, claim: Claim, lock: OpenLock, time_ms: int) -> None:
        if who != lock.payee:
            raise BrokenRuleError(AuditRule.LOCK, "claimed by another than the payee")
        if time_ms >= lock.expiry_ms:
            raise BrokenRuleError(AuditRule.LOCK, f"claimed at {time_ms}, expired at {lock.expiry_ms}")
        if claim.cumulative > lock.amount:
            raise BrokenRuleError(AuditRule.LOCK, f"{claim.cumulative} claimed of {lock.amount}")
        if claim.cumulative == 0:
            return
        voucher = Voucher(claim.lock_id, claim.cumulative, claim.voucher_signature)
        if not verify_voucher(voucher, lock.payer, self.genesis.network_id):
            raise BrokenRuleError(AuditRule.VOUCHER, "the payer did not sign the claimed voucher")

    def _post(self, source: bytes, target: bytes, amount: int) -> None:
        if amount:
            self.purses[source] = self.purses.get(source, 0) - amount
            self.purses[target] = self.purses.get(target, 0) + amount

    def check_conservation(self) -> None:
        """Every purse counted anew: all sum to zero, and each lock's purse holds just its amount."""
        if sum(self.purses.values()):
            raise BrokenRuleError(
                AuditRule.CONSERVATION, f"all purses sum to {sum(self.purses.values())}, not 0"
            )
        for lock_id, lock in self.locks.items():
            if self.purses[b"L" + lock_id] != lock.amount:
                raise BrokenRuleError(
                    AuditRule.CONSERVATION, f"lock {lock_id.hex()} does not hold its amount"
                )

    def balances(self) -> dict[AccountId, int]:
        """The purses of accounts alone."""
        return {who: self.purses.get(who, 0) for who in self.accounts()}

    def accounts(self) -> list[AccountId]:
        """Every account that was named, in the order of its bytes."""
        holders = {AccountId(purse) for purse in self.purses if len(purse) == 32}
        return sorted(holders | set(self.lines))

    def root(self) -> bytes:
        """The state root (SPEC.md §4)."""
        genesis, accounts = self.genesis, list[bytes]()
        for who in self.accounts():
            line, balance = self.lines.get(who, Line()), self.purses.get(who, 0)
            if balance or line.floor or line.used:
                accounts.append(who + struct.pack(">qQQ", balance, -line.floor, line.used) + line.last_id)
                accounts[-1] += struct.pack(">Q", line.active_ms)
        locks = [
            lock_id
            + lock.payer
            + lock.payee
            + lock.payer
            + struct.pack(">QQ", lock.amount, lock.expiry_ms)
            + bytes(43)
            + b"\1"
            + lock.terms_hash
            for lock_id, lock in sorted(self.locks.items())
        ]
        head = struct.pack(
            ">BQHQQIBIB",
            2,
            0,
            1,
            genesis.fee_min,
            genesis.dispute_fee,
            genesis.slot_timeout_ms,
            0,
            0,
            len(genesis.witnesses),
        )
        none = struct.pack(">Q", 0)
        shown = b"".join(
            (
                head,
                *genesis.witnesses,
                struct.pack(">Q", len(accounts)),
                *accounts,
                none,
                none,
                struct.pack(">Q", len(locks)),
                *locks,
            )
        )
        chunks = Peaks().extend(shown[at : at + 65_536] for at in range(0, len(shown), 65_536)).root()
        return digest(b"millrace/1 state\0", genesis.network_id, struct.pack(">Q", len(shown)), chunks)
