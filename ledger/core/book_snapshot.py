"""The audit's books as a snapshot, and back: SPEC.md §4.6 read a second time."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from ledger.core.book_pages import KeyLine, Line, OpenLock, Terms, lock_purse
from ledger.core.encoding import Reader, WireError, digest
from ledger.core.keys import AccountId
from ledger.core.merkle import Peaks

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.core.books import Books

__all__ = ["read_snapshot", "snapshot", "snapshot_root", "state_root"]

_CHUNK_BYTES: Final = 65_536
_VERSION: Final = 2
_TERMS = struct.Struct(">HQQI")


def state_root(books: Books) -> bytes:
    """What the header of every 1,000th height must name."""
    return snapshot_root(books.genesis.network_id, snapshot(books))


def snapshot_root(network_id: bytes, data: bytes) -> bytes:
    """The root of a snapshot's bytes: over its length and the Merkle tree of its chunks."""
    chunks = (data[at : at + _CHUNK_BYTES] for at in range(0, len(data), _CHUNK_BYTES))
    tree = Peaks().extend(chunks).root()
    return digest(b"millrace/1 state\0", network_id, struct.pack(">Q", len(data)), tree)


def snapshot(books: Books) -> bytes:
    """The books in bytes; equal books have equal bytes."""
    return b"".join(_parts(books))


def _parts(books: Books) -> Iterator[bytes]:
    yield struct.pack(">BQ", _VERSION, books.decrees)
    yield _TERMS.pack(*books.terms)
    if books.pending is None:
        yield b"\0"
    else:
        yield struct.pack(">BQ", 1, books.pending[0]) + _TERMS.pack(*books.pending[1])
    yield struct.pack(">IB", books.epoch, len(books.witnesses))
    yield from books.witnesses
    accounts = list(_accounts(books))
    yield from (struct.pack(">Q", len(accounts)), *accounts)
    yield struct.pack(">Q", len(books.keys))
    for who, key in sorted(books.keys.items()):
        yield who + key.key + key.recovery + struct.pack(">Q", key.rekeys)
        yield key.last_id + struct.pack(">Q", key.changed_ms)
    yield struct.pack(">Q", len(books.delegations))
    for (sponsor, beneficiary), amount in sorted(books.delegations.items()):
        yield sponsor + beneficiary + struct.pack(">Q", amount)
    yield struct.pack(">Q", len(books.locks))
    for lock_id, lock in sorted(books.locks.items()):
        yield lock_id + lock.payer + lock.payee + lock.payer_key
        yield struct.pack(">QQQ", lock.amount, lock.expiry_ms, lock.dispute_ms) + lock.arbiters_hash
        status = 2 if lock.disputed else 1
        yield struct.pack(">BHB", lock.arbiters_needed, lock.default_bps, status) + lock.terms_hash


def _accounts(books: Books) -> Iterator[bytes]:
    """Every account of which there is anything to say."""
    for who in books.accounts():
        line, balance = books.line(who), books.purses.get(who, 0)
        if balance or line.limit or line.used or line.active_ms:
            head = struct.pack(">qQQ", balance, line.limit, line.used)
            yield b"".join((who, head, line.last_id, struct.pack(">Q", line.active_ms)))


def read_snapshot(books: Books, data: bytes) -> None:
    """Fill new `books` from a snapshot; `WireError` for bytes that no books have."""
    reader = Reader(data, "snapshot")
    if (version := reader.uint(1)) != _VERSION:
        raise WireError(f"snapshot: version {version}, only {_VERSION} is known")
    books.decrees = reader.uint(8)
    books.terms = _take_terms(reader)
    books.pending = (reader.uint(8), _take_terms(reader)) if _take_flag(reader) else None
    books.epoch = reader.uint(4)
    books.witnesses = tuple(AccountId(reader.take(32)) for _ in range(reader.uint(1)))
    books.lines.clear()
    for _ in range(reader.uint(8)):
        who = AccountId(reader.take(32))
        books.purses[who], limit, used = struct.unpack(">qQQ", reader.take(24))
        books.lines[who] = Line(limit, used, reader.take(32), reader.uint(8))
    for _ in range(reader.uint(8)):
        who = AccountId(reader.take(32))
        key, recovery, rekeys = AccountId(reader.take(32)), reader.take(32), reader.uint(8)
        books.keys[who] = KeyLine(key, recovery, rekeys, reader.take(32), reader.uint(8))
    for _ in range(reader.uint(8)):
        pair = (AccountId(reader.take(32)), AccountId(reader.take(32)))
        books.delegate(pair, reader.uint(8))
    for _ in range(reader.uint(8)):
        lock_id = reader.take(32)
        lock = books.locks[lock_id] = _take_lock(reader)
        books.purses[lock_purse(lock_id)] = lock.amount
        books.own_line(lock.payer).open_locks += 1
    reader.end()
    books.limits_sum = sum(line.limit for line in books.lines.values())
    books.opened = books.locked
    if snapshot(books) != data:
        raise WireError("snapshot: not the one encoding of these books")


def _take_terms(reader: Reader) -> Terms:
    return Terms(*_TERMS.unpack(reader.take(_TERMS.size)))


def _take_flag(reader: Reader) -> bool:
    flag = reader.uint(1)
    if flag > 1:
        raise WireError(f"snapshot: {flag} where 0 or 1 stands")
    return bool(flag)


def _take_lock(reader: Reader) -> OpenLock:
    payer, payee, payer_key = (AccountId(reader.take(32)) for _ in range(3))
    amount, expiry_ms, dispute_ms = struct.unpack(">QQQ", reader.take(24))
    arbiters_hash = reader.take(32)
    needed, bps, status = struct.unpack(">BHB", reader.take(4))
    terms_hash = reader.take(32)
    if status not in {1, 2}:
        raise WireError(f"snapshot: {status} is not the status of an open lock")
    return OpenLock(
        payer,
        payee,
        payer_key,
        amount,
        expiry_ms,
        dispute_ms,
        arbiters_hash,
        needed,
        bps,
        terms_hash,
        status == 2,
    )
