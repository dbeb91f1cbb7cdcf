"""The state as bytes, the state from bytes, and the root that headers name (SPEC.md §4.6)."""

from __future__ import annotations

import struct
from collections import Counter
from typing import TYPE_CHECKING, Final, TypeVar

from ledger.core.actions import NO_HASH, NO_KEY, SEQUENCE_MAX, Lock, check_account, check_range
from ledger.core.amounts import LIMIT_SUM_MAX
from ledger.core.committee import Committee
from ledger.core.encoding import Reader, WireError, digest
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.holdings import Account, Charter, KeyLine, Layer, LockState, LockStatus, Pending
from ledger.core.keys import ACCOUNT_BYTES, AccountId
from ledger.core.merkle import Peaks
from ledger.core.params import Params

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ledger.core.encoding import NetworkId
    from ledger.core.genesis import Genesis
    from ledger.core.holdings import Holdings

__all__ = [
    "CHUNK_BYTES",
    "SNAPSHOT_VERSION",
    "decode_snapshot",
    "encode_snapshot",
    "snapshot_chunks",
    "state_root",
    "state_root_of",
]

SNAPSHOT_VERSION: Final = 2
CHUNK_BYTES: Final = 65_536
"""The root is over pieces of this size, so that each can be fetched from anybody and checked alone."""
_DOMAIN: Final = b"millrace/1 state\0"
_PARAMS = struct.Struct(">HQQI")  # version, fee_min, dispute_fee, slot_timeout_ms
_ACCOUNT = struct.Struct(
    ">32sqQQ32sQ"
)  # account, balance (signed), limit, seq, id of the last entry, active_ms
_KEYS = struct.Struct(">32s32s32sQ32sQ")  # account, key, recovery, rekeys, id of the last REKEY, rekeyed_ms
_DELEGATION = struct.Struct(">32s32sQ")  # sponsor, beneficiary, amount
# lock_id, payer, payee, payer_key | amount, expiry_ms, dispute_ms | arbiters_hash, needed, default_bps, status, terms
_LOCK = struct.Struct(">32s32s32s32sQQQ32sBHB32s")
_STATUS: Final = {LockStatus.OPEN: 1, LockStatus.DISPUTED: 2}
_STATUS_OF: Final = {number: status for status, number in _STATUS.items()}

_T = TypeVar("_T")


def encode_snapshot(holdings: Holdings) -> bytes:
    """Charter, accounts, keys, delegations, open locks: each table behind a count of 8 bytes, and sorted."""
    charter = holdings.charter
    pending = charter.pending
    parts = [
        bytes((SNAPSHOT_VERSION,)),
        charter.decrees.to_bytes(8, "big"),
        _pack_params(charter.params),
        b"\0"
        if pending is None
        else b"\1" + pending.from_height.to_bytes(8, "big") + _pack_params(pending.params),
        charter.committee.epoch.to_bytes(4, "big"),
        bytes((charter.committee.n,)),
        *charter.committee.witnesses,
    ]
    _add(parts, [_ACCOUNT.pack(key, *account) for key, account in holdings.accounts()])
    lines = holdings.key_lines()
    _add(parts, [_KEYS.pack(key, k.key, k.recovery, k.rekeys, k.last_id, k.rekeyed_ms) for key, k in lines])
    _add(parts, [_DELEGATION.pack(*delegation) for delegation in holdings.delegations()])
    _add(parts, [_pack_lock(lock) for lock in holdings.open_locks()])
    return b"".join(parts)


def decode_snapshot(genesis: Genesis, data: bytes) -> Layer:
    """The lowest layer of the state that `data` shows; any other bytes are a `WireError`.

    That the sums are right is not checked here (`Holdings.recount`).
    """
    reader = Reader(data, "snapshot")
    if (version := reader.uint(1)) != SNAPSHOT_VERSION:
        raise WireError(f"snapshot: version {version}, only {SNAPSHOT_VERSION} is known")
    charter = _take_charter(genesis, reader)
    accounts = dict(_table(reader, _ACCOUNT, "accounts", _account_of, 1))
    keys = dict(_table(reader, _KEYS, "keys", _keys_of, 1))
    delegations = dict(_table(reader, _DELEGATION, "delegations", _delegation_of, 2))
    locks = dict(_table(reader, _LOCK, "locks", _lock_of, 1))
    reader.end()
    return Layer(
        charter,
        sum(account.balance for account in accounts.values()),
        sum(lock.amount for lock in locks.values()),
        sum(account.limit for account in accounts.values()),
        accounts,
        keys,
        delegations,
        dict(Counter(sponsor for sponsor, _ in delegations)),
        locks,
        dict(Counter(lock.payer for lock in locks.values())),
    )


def snapshot_chunks(snapshot: bytes) -> list[bytes]:
    """The snapshot in pieces of CHUNK_BYTES, the last one shorter."""
    return [snapshot[at : at + CHUNK_BYTES] for at in range(0, len(snapshot), CHUNK_BYTES)]


def state_root(network_id: NetworkId, snapshot: bytes) -> bytes:
    """SHA-256 of the domain, the network id, the snapshot's size, and the Merkle root over its chunks."""
    chunks_root = Peaks().extend(snapshot_chunks(snapshot)).root()
    return state_root_of(network_id, len(snapshot), chunks_root)


def state_root_of(network_id: NetworkId, size: int, chunks_root: bytes) -> bytes:
    """The same, for whoever has not the snapshot but its size and the root over its chunks."""
    return digest(_DOMAIN, network_id, size.to_bytes(8, "big"), chunks_root)


def _add(parts: list[bytes], lines: Sequence[bytes]) -> None:
    parts.append(len(lines).to_bytes(8, "big"))
    parts.extend(lines)


def _pack_params(params: Params) -> bytes:
    return _PARAMS.pack(params.version, params.fee_min, params.dispute_fee, params.slot_timeout_ms)


def _pack_lock(lock: LockState) -> bytes:
    return _LOCK.pack(
        lock.lock_id,
        lock.payer,
        lock.payee,
        lock.payer_key,
        lock.amount,
        lock.expiry_ms,
        lock.dispute_ms,
        lock.arbiters_hash,
        lock.arbiters_needed,
        lock.default_bps,
        _STATUS[lock.status],
        lock.terms_hash,
    )


def _take_charter(genesis: Genesis, reader: Reader) -> Charter:
    decrees = reader.uint(8)
    params = Params(*_PARAMS.unpack(reader.take(_PARAMS.size)))
    pending = None
    flag = reader.uint(1)
    check_range(flag, 0, 1, "snapshot: pending")
    if flag:
        pending = Pending(reader.uint(8), Params(*_PARAMS.unpack(reader.take(_PARAMS.size))))
        check_range(pending.from_height, 1, TIME_MS_MAX, "snapshot: from_height")
    epoch = reader.uint(4)
    witnesses = tuple(AccountId(reader.take(ACCOUNT_BYTES)) for _ in range(reader.uint(1)))
    for account in witnesses:
        check_account(account, "snapshot: a witness")
    check_range(decrees, 0, SEQUENCE_MAX, "snapshot: decrees")
    check_range(epoch, 0, decrees, "snapshot: epoch")
    committee = Committee(genesis.network_id, epoch, witnesses)
    if not epoch and committee != genesis.committee:
        raise WireError("snapshot: the witnesses of epoch 0 are not those of genesis")
    return Charter(decrees, params, committee, pending)


def _table(
    reader: Reader, layout: struct.Struct, what: str, line: Callable[..., _T], key_fields: int
) -> Iterable[_T]:
    """The lines behind a count, in strictly rising order of their first `key_fields` fields."""
    count = reader.uint(8)
    if count * layout.size > reader.remaining:
        raise WireError(f"snapshot: {count} {what} do not fit into {reader.remaining} bytes")
    before: tuple[bytes, ...] = ()
    for fields in layout.iter_unpack(reader.take(count * layout.size)):
        key = fields[:key_fields]
        if key <= before:
            raise WireError(f"snapshot: the {what} are not sorted, or one stands twice")
        before = key
        yield line(*fields)


def _account_of(
    account_id: AccountId, *fields: *tuple[int, int, int, bytes, int]
) -> tuple[AccountId, Account]:
    account = Account(*fields)
    check_account(account_id, "snapshot: an account")
    if not (
        account.limit <= LIMIT_SUM_MAX and account.seq <= SEQUENCE_MAX and account.active_ms <= TIME_MS_MAX
    ):
        raise WireError("snapshot: a limit, a sequence number or a time is out of range")
    if not (account.balance or account.limit or account.seq or account.active_ms):
        raise WireError("snapshot: an account of which nothing is known")
    if not account.seq and account.last_id != NO_HASH:
        raise WireError("snapshot: a last entry of an account that had none")
    return account_id, account


def _keys_of(
    account_id: AccountId, *fields: *tuple[AccountId, AccountId, int, bytes, int]
) -> tuple[AccountId, KeyLine]:
    line = KeyLine(*fields)
    check_account(account_id, "snapshot: an account with keys")
    check_account(line.key, "snapshot: a key")
    if line.recovery != NO_KEY:
        check_account(line.recovery, "snapshot: a recovery key")
    check_range(line.rekeys, 1, SEQUENCE_MAX, "snapshot: rekeys")
    check_range(line.rekeyed_ms, 0, TIME_MS_MAX, "snapshot: rekeyed_ms")
    return account_id, line


def _delegation_of(
    sponsor: AccountId, beneficiary: AccountId, amount: int
) -> tuple[tuple[AccountId, AccountId], int]:
    check_account(sponsor, "snapshot: a sponsor")
    check_account(beneficiary, "snapshot: a beneficiary")
    check_range(amount, 1, LIMIT_SUM_MAX, "snapshot: a delegated amount")
    if sponsor == beneficiary:
        raise WireError("snapshot: a delegation to itself")
    return (sponsor, beneficiary), amount


def _lock_of(
    lock_id: bytes,
    payer: AccountId,
    payee: AccountId,
    payer_key: AccountId,
    *fields: *tuple[int, int, int, bytes, int, int, int, bytes],
) -> tuple[bytes, LockState]:
    amount, expiry_ms, dispute_ms, arbiters, needed, default_bps, status, terms_hash = fields
    # A LOCK's own bounds, and what an applied one adds to them.
    Lock(payee, amount, expiry_ms, terms_hash, dispute_ms, arbiters, needed, default_bps)
    check_account(payer, "snapshot: a payer")
    check_account(payer_key, "snapshot: a payer's key")
    if (
        payer == payee
        or status not in _STATUS_OF
        or (status == _STATUS[LockStatus.DISPUTED] and not dispute_ms)
    ):
        raise WireError("snapshot: a lock that could never have come to be")
    lock = LockState(
        lock_id,
        payer,
        payee,
        amount,
        expiry_ms,
        terms_hash,
        payer_key,
        dispute_ms,
        arbiters,
        needed,
        default_bps,
        _STATUS_OF[status],
    )
    return lock_id, lock
