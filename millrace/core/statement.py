"""One account's statement, drawn from the ledger's blocks: what it earned, spent, sent, and its own entries.

The state (SPEC.md §4) knows balances and open locks only; this knows how they came about. Feed it every final
block, in order.
"""

from __future__ import annotations

from collections import deque
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from ledger.core.actions import BASIS_POINTS
from ledger.core.entries import (
    NO_KEY,
    Claim,
    Dispute,
    Expire,
    Limit,
    Lock,
    Param,
    Rekey,
    Release,
    Rotate,
    Transfer,
    Verdict,
)
from ledger.core.keys import AccountId, peer_id

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock
    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Entry

__all__ = ["OwnEntry", "Statement", "action_fields"]

OWN_ENTRIES_MAX: Final = 10_000
"""How many of the account's newest entries are remembered by id."""
LOCKS_MAX: Final = 65_536
"""How many of the account's newest locks are remembered."""


@dataclass(frozen=True, slots=True)
class OwnEntry:
    """One entry of the account, and where it stands."""

    entry_id: bytes
    kind: str
    height: int
    index: int
    time_ms: int


@dataclass(slots=True)
class _Lock:
    payer: AccountId
    payee: AccountId
    amount: int
    default_bps: int
    disputed: bool = False
    closed_by: bytes = b""


class Statement:
    """See the module's first lines. Amounts are micro-credits."""

    def __init__(self, account: AccountId, network_id: NetworkId, first_height: int = 1) -> None:
        self.height = first_height - 1
        """Of the last block fed. What happened before `first_height` is not counted, nor how locks from then close."""
        self.earned = self.spent = self.sent = self.received = self.fees = 0
        self.entries: deque[OwnEntry] = deque(maxlen=OWN_ENTRIES_MAX)
        self._account = account
        self._network_id = network_id
        self._locks: dict[bytes, _Lock] = {}

    def closing(self, lock_id: bytes) -> bytes | None:
        """The id of the entry that closed a lock of this account; None while it is open or was never seen."""
        lock = self._locks.get(lock_id)
        return lock.closed_by if lock is not None and lock.closed_by else None

    def feed(self, block: FinalBlock) -> None:
        """Take the next block into account; `ValueError` if it is not the next one."""
        header = block.header
        if header.height != self.height + 1:
            raise ValueError(f"block {header.height} fed after block {self.height}")
        self.height = header.height
        first = header.tree_size - header.count
        for position, entry in enumerate(block.entries):
            mine = entry.account == self._account
            if mine:
                self.fees += entry.fee
                kind = entry.action.TYPE.name.lower()
                self.entries.append(
                    OwnEntry(
                        entry.entry_id(self._network_id),
                        kind,
                        header.height,
                        first + position,
                        header.time_ms,
                    )
                )
            self._count(entry)

    def _count(self, entry: Entry) -> None:
        match entry.action:
            case Transfer(to, amount):
                self.sent += amount if entry.account == self._account else 0
                self.received += amount if to == self._account else 0
            case Lock(payee, amount, default_bps=default_bps):
                if self._account in (entry.account, payee):
                    lock = _Lock(entry.account, payee, amount, default_bps)
                    self._locks[entry.entry_id(self._network_id)] = lock
                    if len(self._locks) > LOCKS_MAX:
                        del self._locks[next(iter(self._locks))]
            case Dispute(lock_id):
                if (disputed := self._locks.get(lock_id)) is not None:
                    disputed.disputed = True
            case Claim(lock_id) | Release(lock_id) | Verdict(lock_id) | Expire(lock_id):
                if (closing := self._locks.get(lock_id)) is not None:
                    self._close(entry, entry.action, closing)
            case _:
                pass

    def _close(self, entry: Entry, action: Claim | Release | Verdict | Expire, lock: _Lock) -> None:
        """What a lock of this account paid: the rest went back to its payer (SPEC.md §4)."""
        match action:
            case Claim(_, cumulative):
                paid = cumulative
            case Release():
                paid = lock.amount
            case Verdict(_, payee_amount):
                paid = payee_amount
            case _:  # EXPIRE
                paid = lock.amount * lock.default_bps // BASIS_POINTS if lock.disputed else 0
        lock.closed_by = entry.entry_id(self._network_id)
        self.earned += paid if lock.payee == self._account else 0
        self.spent += paid if lock.payer == self._account else 0


def action_fields(entry: Entry) -> dict[str, Any]:
    """An entry's payload as the local API shows it: peer ids, hex, micro-credits, no signatures (SPEC.md §16)."""
    match entry.action:
        case Transfer(to, amount, memo_hash):
            return {"to": peer_id(to), "amount": amount, "memo_hash": memo_hash.hex()}
        case Lock():
            return _lock_fields(entry.action)
        case Claim(lock_id, cumulative):
            return {"lock_id": lock_id.hex(), "cumulative": cumulative}
        case Expire(lock_id) | Release(lock_id):
            return {"lock_id": lock_id.hex()}
        case Dispute(lock_id, evidence_hash):
            return {"lock_id": lock_id.hex(), "evidence_hash": evidence_hash.hex()}
        case _:
            return _rare_fields(entry.action)


def _lock_fields(lock: Lock) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "payee": peer_id(lock.payee),
        "amount": lock.amount,
        "expiry_ms": lock.expiry_ms,
        "terms_hash": lock.terms_hash.hex(),
    }
    if lock.dispute_ms:
        fields |= {
            "dispute_ms": lock.dispute_ms,
            "arbiters_hash": lock.arbiters_hash.hex(),
            "arbiters_needed": lock.arbiters_needed,
            "default_bps": lock.default_bps,
        }
    return fields


def _rare_fields(action: Verdict | Limit | Rekey | Rotate | Param) -> dict[str, Any]:
    match action:
        case Verdict(lock_id, payee_amount, arbiters, approvals):
            return {
                "lock_id": lock_id.hex(),
                "payee_amount": payee_amount,
                "arbiters": [peer_id(account) for account in arbiters],
                "approved_by": [peer_id(account) for account, _ in approvals.signed_by(arbiters)],
            }
        case Limit(beneficiary, delta, decree, approvals):
            fields = {"beneficiary": peer_id(beneficiary), "delta": delta}
            return fields | ({"decree": decree, "approvals": len(approvals.signatures)} if decree else {})
        case Rekey(new_key, recovery):
            backup = None if recovery == NO_KEY else peer_id(recovery)
            return {"new_key": peer_id(new_key), "recovery": backup}
        case Rotate(decree, witnesses, approvals):
            named = [peer_id(account) for account in witnesses]
            return {"decree": decree, "witnesses": named, "approvals": len(approvals.signatures)}
        case Param(decree, from_height, params, approvals):
            head = {"decree": decree, "from_height": from_height, "approvals": len(approvals.signatures)}
            return head | asdict(params)
