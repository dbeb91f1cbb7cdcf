"""The state as bytes, and the root that headers name (SPEC.md §4)."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ledger.core.encoding import NetworkId
    from ledger.core.holdings import Account, LockState
    from ledger.core.keys import AccountId

__all__ = ["encode_snapshot", "state_root"]

_DOMAIN: Final = b"millrace/1 state\0"
_ACCOUNT = struct.Struct(">32sqQQ32s")  # account, balance (signed), limit, seq, id of the last entry
_LOCK = struct.Struct(">32s32s32sQQ32s")  # lock_id, payer, payee, amount, expiry_ms, terms_hash


def encode_snapshot(accounts: Iterable[tuple[AccountId, Account]], locks: Iterable[LockState]) -> bytes:
    """Accounts, then open locks, each behind a count of 8 bytes and in the order of its first 32 bytes.

    The caller gives both in that order, and no account whose balance, limit and seq are all 0.
    """
    lines = [_ACCOUNT.pack(key, a.balance, a.limit, a.seq, a.last_id) for key, a in accounts]
    opened = [
        _LOCK.pack(lock.lock_id, lock.payer, lock.payee, lock.amount, lock.expiry_ms, lock.terms_hash)
        for lock in locks
    ]
    return b"".join((len(lines).to_bytes(8, "big"), *lines, len(opened).to_bytes(8, "big"), *opened))


def state_root(network_id: NetworkId, snapshot: bytes) -> bytes:
    """SHA-256 of the domain, the network id and the snapshot."""
    return digest(_DOMAIN, network_id, snapshot)
