"""What a ledger can break: the audit's rules by name, and the place of the first one broken (SPEC.md §7.2)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["AuditRule", "BrokenRuleError", "Violation"]


class AuditRule(StrEnum):
    """What a ledger can break, each with its rules in SPEC.md (R7.8)."""

    ENCODING = "encoding"
    VERSION = "version"
    EPOCH = "epoch"
    CHAIN = "chain"
    TIME = "time"
    CERTIFICATE = "certificate"
    QUORUM = "quorum"
    CLOSING = "closing"
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
    DISPUTE = "dispute"
    VERDICT = "verdict"
    LIMIT = "limit"
    DELEGATION = "delegation"
    DECREE = "decree"
    APPROVAL = "approval"
    REKEY = "rekey"
    PARAM = "param"
    BALANCE = "balance"
    CONSERVATION = "conservation"
    BASE = "base"


class BrokenRuleError(Exception):
    """The ledger breaks `rule`; `audit` turns it into a `Violation` with its place."""

    def __init__(self, rule: AuditRule, detail: str) -> None:
        super().__init__(detail)
        self.rule = rule
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Violation:
    """The first broken rule and its place: block height and slot, and the entry's place in its block and the log."""

    rule: AuditRule
    detail: str
    height: int
    slot: int
    entry: int | None = None
    log_index: int | None = None
