"""Entries that wait for a block: bounded, in order of arrival, in sequence per account (SPEC.md §6).

An entry gets in only if the finalised state would accept it now, or if the entry right before it (same account, one
sequence number lower) waits already. So an account without credit cannot fill the pool, and nothing waits behind a gap.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.entries import verify_entry
from ledger.core.state import Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from ledger.core.state import LedgerState, Moment

__all__ = ["ENTRIES_MAX", "ENTRIES_PER_ACCOUNT_MAX", "Dropped", "Mempool"]

ENTRIES_MAX: Final = 20_000
ENTRIES_PER_ACCOUNT_MAX: Final = 256


@dataclass(frozen=True, slots=True)
class Dropped:
    """An entry that left the pool without a block, and why."""

    entry_id: bytes
    refusal: Refusal


class Mempool:
    """The waiting entries of one witness, their signatures checked."""

    __slots__ = ("_entries_max", "_ids", "_keys", "_lanes", "_network_id", "_wires")

    def __init__(self, network_id: NetworkId, entries_max: int = ENTRIES_MAX) -> None:
        self._network_id = network_id
        self._entries_max = entries_max
        self._ids: dict[bytes, Entry] = {}
        self._keys: dict[bytes, AccountId] = {}  # under which key an entry's signature was checked
        self._lanes: dict[bytes, dict[int, bytes]] = {}
        self._wires: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, entry_id: bytes) -> bool:
        return entry_id in self._ids

    @property
    def wires(self) -> Mapping[bytes, Entry]:
        """Every waiting entry by its bytes: most that comes in is here already."""
        return self._wires

    def offer(self, entry: Entry, state: LedgerState, at: Moment) -> tuple[bytes, Refusal | None]:
        """Take `entry` in, or say why not; its id either way. An entry that waits already is taken as it is."""
        entry_id = entry.entry_id(self._network_id)
        if entry_id in self._ids:
            return entry_id, None
        refusal = self._refuse(entry, state, at)
        if refusal is None:
            self._ids[entry_id] = self._wires[entry.encoded] = entry
            self._keys[entry_id] = state.signer(entry)
            self._lanes.setdefault(entry.lane, {})[entry.seq] = entry_id
        return entry_id, refusal

    def vouches(self, entry: Entry, key: AccountId) -> bool:
        """Whether this very entry, signature included, waits here, and was found to be signed by `key`."""
        entry_id = self._lanes.get(entry.lane, {}).get(entry.seq, b"")
        waiting = self._ids.get(entry_id)
        return (waiting is entry or waiting == entry) and self._keys.get(entry_id) == key

    def of(self, account: AccountId, count_max: int) -> tuple[Entry, ...]:
        """What waits of one account, in order of sequence, at most `count_max` entries."""
        waiting = self._lanes.get(account, {})
        return tuple(self._ids[waiting[seq]] for seq in sorted(waiting)[:count_max])

    def in_order(self) -> Iterator[tuple[bytes, Entry]]:
        """Every waiting entry as (id, entry), oldest first."""
        yield from self._ids.items()

    def settle(self, entries: tuple[Entry, ...]) -> None:
        """A block with `entries` is final: whatever used one of their sequence numbers waits no longer."""
        for entry in entries:
            entry_id = self._lanes.get(entry.lane, {}).get(entry.seq)
            if entry_id is not None:
                self._remove(entry_id)

    def sweep(self, state: LedgerState, at: Moment) -> list[Dropped]:
        """Drop what the finalised `state` refuses now, and what waited behind it."""
        dropped: list[Dropped] = []
        for waiting in list(self._lanes.values()):
            for seq in sorted(waiting):
                entry_id = waiting[seq]
                refusal = state.check(self._ids[entry_id], at)
                if refusal is None and self._keys[entry_id] != state.signer(self._ids[entry_id]):
                    refusal = Refusal(Reason.BAD_SIGNATURE, "the account has changed its key since")
                if refusal is None:
                    break
                self._remove(entry_id)
                dropped.append(Dropped(entry_id, refusal))
        return dropped

    def _refuse(self, entry: Entry, state: LedgerState, at: Moment) -> Refusal | None:
        waiting = self._lanes.get(entry.lane, {})
        rival = waiting.get(entry.seq)
        if rival is not None:
            return Refusal(
                Reason.CONFLICT, f"sequence {entry.seq} is taken by a waiting entry, {rival.hex()}"
            )
        if len(waiting) >= ENTRIES_PER_ACCOUNT_MAX:
            return Refusal(Reason.BUSY, f"{len(waiting)} entries of this account wait already")
        if len(self._ids) >= self._entries_max:
            return Refusal(Reason.BUSY, f"{len(self._ids)} entries wait already")
        # The state is asked first: it is cheaper than a signature, and refuses whoever has no credit.
        refusal = None if entry.seq - 1 in waiting else state.check(entry, at)
        if refusal is None and not verify_entry(entry, self._network_id, state.signer(entry)):
            refusal = Refusal(Reason.BAD_SIGNATURE, "the account did not sign this entry on this network")
        return refusal

    def _remove(self, entry_id: bytes) -> None:
        entry = self._ids.pop(entry_id)
        del self._wires[entry.encoded]
        del self._keys[entry_id]
        waiting = self._lanes[entry.lane]
        del waiting[entry.seq]
        if not waiting:
            del self._lanes[entry.lane]
