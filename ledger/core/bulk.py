"""Many entries at once: what `take_entry`, `verify_entry` and `LedgerState.apply` do one by one, three times as fast.

Nothing is decided here that is not decided there. Most entries of a block are transfers with nothing wrong, and beside
a signature's 50 µs it is the interpreter that costs: calls, small objects, and values that freeze themselves field by
field. So a block's transfers are read, checked and applied in plain loops, each behind one test of all that must hold.
An entry that fails the test, or is no transfer, goes the long way, which alone knows why it is refused. Tests hold
both ways against each other.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from ledger.core.actions import SEQUENCE_MAX, Action, EntryType, Transfer
from ledger.core.amounts import AMOUNT_MAX
from ledger.core.encoding import Kind, NetworkId, WireError, signing_bytes
from ledger.core.entries import Entry, take_entry
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.holdings import Account
from ledger.core.keys import SIGNATURE_BYTES, SUSPECT_LAST_BYTES, AccountId, count_verified
from ledger.core.outcomes import VALID_SPAN_MS_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.core.holdings import Holdings
    from ledger.core.outcomes import Moment

__all__ = ["apply_transfers", "count_signed", "take_entries"]

# account, seq, not_after_ms, fee, to, amount, memo_hash, signature
_TRANSFER = struct.Struct(">x32sQQQ32sQ32s64s")
_TRANSFER_BYTES: Final = _TRANSFER.size
_TRANSFER_TYPE: Final = int(EntryType.TRANSFER)
_name_entry: Final[Callable[[Entry, tuple[NetworkId, bytes]], None]] = vars(Entry)["named"].__set__
"""Fills the slot in which `Entry.entry_id` keeps what it has hashed."""
_new_tuple: Final = tuple.__new__
"""Makes a named tuple without the function of Python that its class puts before that."""


@dataclass(slots=True)
class _EntryDraft:
    """The slots of an `Entry`. One with well-formed fields becomes an `Entry` by its class: frozen from then on."""

    account: AccountId
    seq: int
    not_after_ms: int
    fee: int
    action: Action
    signature: bytes
    encoded: bytes
    named: tuple[NetworkId, bytes] | None = None


@dataclass(slots=True)
class _TransferDraft:
    """The same for a `Transfer`."""

    to: AccountId
    amount: int
    memo_hash: bytes


def take_entries(data: bytes, start: int, count: int, end_max: int) -> tuple[tuple[Entry, ...], int]:
    """`count` entries from `start` of `data` on, and where the last one ends, which is not behind `end_max`.

    `WireError` for any other bytes. The test is that of `Entry` and `Transfer`; the struct has seen to the lengths.
    """
    entries: list[Entry] = []
    keep, unpack, suspect = entries.append, _TRANSFER.unpack_from, SUSPECT_LAST_BYTES
    at, last_start = start, min(len(data), end_max) - _TRANSFER_BYTES
    draft: Any
    move: Any
    for _ in range(count):
        if at <= last_start and data[at] == _TRANSFER_TYPE:
            account, seq, not_after_ms, fee, to, amount, memo_hash, signature = unpack(data, at)
            if (
                account[31] not in suspect
                and 1 <= seq <= SEQUENCE_MAX
                and not_after_ms <= TIME_MS_MAX
                and fee <= AMOUNT_MAX
                and to[31] not in suspect
                and 1 <= amount <= AMOUNT_MAX
            ):
                end = at + _TRANSFER_BYTES
                move = _TransferDraft(to, amount, memo_hash)
                move.__class__ = Transfer
                draft = _EntryDraft(account, seq, not_after_ms, fee, move, signature, data[at:end])
                draft.__class__ = Entry
                keep(draft)
                at = end
                continue
        entry, at = take_entry(data, at)
        if at > end_max:
            raise WireError(f"entries: they have more than {end_max - start} bytes")
        keep(entry)
    return tuple(entries), at


def count_signed(entries: Sequence[Entry], keys: Sequence[AccountId], network_id: NetworkId) -> int:
    """How many entries, from the first on, are signed by the key at the same place: all, or up to one that is not.

    Every signature is verified, by `verify_entry`'s rule. The bytes that are signed name the entry, too: its id is
    hashed while they are at hand.
    """
    prefix = signing_bytes(Kind.ENTRY, network_id, b"")
    messages = [prefix + entry.encoded[:-SIGNATURE_BYTES] for entry in entries]
    for entry, message in zip(entries, messages, strict=True):
        if entry.named is None:
            _name_entry(entry, (network_id, sha256(message).digest()))
    signed = [entry.signature + message for entry, message in zip(entries, messages, strict=True)]
    return count_verified(keys, signed)


def apply_transfers(
    holdings: Holdings, network_id: NetworkId, entries: Sequence[Entry], first: int, at: Moment
) -> int:
    """Apply transfers from place `first` on; the place of the first entry that is none, or that a rule refuses.

    Those before it moved what `LedgerState.apply` would have moved; it itself, and what follows, moved nothing.
    The invariants are checked after each
    entry: no line below its limit and sequences without gaps before it is written, the sum of all after.
    """
    top, charter = holdings.top, holdings.charter
    if at.epoch != charter.committee.epoch:
        return first
    table, time_ms, fee_min = top.accounts, at.time_ms, charter.params.fee_min
    until_ms = time_ms + VALID_SPAN_MS_MAX
    known, below = table.get, holdings.account
    for place in range(first, len(entries)):
        entry = entries[place]
        action = entry.action
        if type(action) is not Transfer:
            return place
        sender, to, amount, fee, seq = entry.account, action.to, action.amount, entry.fee, entry.seq
        balance, limit, used, _, _ = known(sender) or below(sender)
        left = balance - amount - fee
        if (
            seq != used + 1
            or not time_ms <= entry.not_after_ms <= until_ms
            or fee < fee_min
            or to == sender
            or left < -limit
        ):
            return place
        had, payee_limit, payee_seq, last_id, active_ms = known(to) or below(to)
        has = had + amount
        named = entry.named
        entry_id = entry.entry_id(network_id) if named is None or named[0] != network_id else named[1]
        table[sender] = _new_tuple(Account, (left, limit, seq, entry_id, time_ms))
        table[to] = _new_tuple(Account, (has, payee_limit, payee_seq, last_id, active_ms))
        top.balance += left - balance + has - had
        if fee:
            holdings.credit(at.leader, fee)
        if top.balance + top.locked:
            holdings.check_sums()
    return len(entries)
