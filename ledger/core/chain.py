"""The finalised ledger and the candidate blocks that build on it (SPEC.md §6).

Every reader of blocks goes through here: a witness that judges proposals, a follower that verifies what it pulled,
a store that replays its own disk. A block is executed once, on a branch of its parent's state; when it becomes
final, the finalised state adopts the branch and the Merkle log takes its entries.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ledger.core.block import (
    BLOCK_ENTRIES_BYTES_MAX,
    BLOCK_ENTRIES_MAX,
    NO_BLOCK,
    NO_ROOT,
    STATE_ROOT_INTERVAL,
    Block,
    Closing,
    FinalBlock,
    Header,
    ends_epoch,
)
from ledger.core.bulk import count_signed
from ledger.core.encoding import Kind
from ledger.core.entries import Rekey, verify_entry
from ledger.core.merkle import MerkleLog
from ledger.core.params import PROTOCOL_VERSION
from ledger.core.state import LedgerState, Moment, Refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ledger.core.committee import Committee
    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Entry
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId
    from ledger.core.merkle import Growth, Peaks
    from ledger.core.votes import Certificate

__all__ = [
    "CANDIDATES_MAX",
    "BadBlock",
    "Candidate",
    "Chain",
    "ForkError",
    "IsVerified",
    "Tip",
    "UnknownVersionError",
]

CANDIDATES_MAX: Final = 1024
"""Executed blocks above the final one: two per slot of the vote window."""
IsVerified: TypeAlias = "Callable[[Entry, AccountId], bool]"
"""Whether the entry, to the byte, was found to be signed by the key before."""


class BadBlock(ValueError):
    """A block that is said to be final breaks a rule; the text says which. Its source is lying or broken."""


class ForkError(BadBlock):
    """A quorum made a block final that does not descend from ours: more than f witnesses lied.

    `other` and our own last final block are the proof: whoever signed for both is a liar (SPEC.md §6, R6.18).
    """

    def __init__(self, other: FinalBlock) -> None:
        super().__init__(f"block {other.header.height} is certified, and on another chain than ours")
        self.other = other


class UnknownVersionError(BadBlock):
    """A block that falls under rules which this program does not know cannot be judged. Its source is not to blame."""


@dataclass(frozen=True, slots=True)
class Tip:
    """Where a chain ends: the block that the next one names as its parent."""

    slot: int
    height: int
    block_hash: bytes
    time_ms: int


@dataclass(slots=True)
class Candidate:
    """A valid block above the final one, with the ledger as it would be after it."""

    block: Block
    tip: Tip
    state: LedgerState
    growth: Growth
    """What its entries add to the log."""
    certificate: Certificate | None = None
    closing: Closing | None = None


class Chain:
    """One network's ledger in memory, from genesis to the last final block, and what may come next."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.state = LedgerState(genesis)
        self.log = MerkleLog()
        self.tip = Tip(slot=0, height=0, block_hash=NO_BLOCK, time_ms=genesis.created_ms)
        self._candidates: dict[bytes, Candidate] = {}
        self.keeps_snapshots = False
        """Whether `certified` is kept up to date: for a node that serves it."""
        self.certified: tuple[int, bytes] | None = None
        """The newest final height whose header names a state root, and the state's snapshot."""

    @staticmethod
    def resume(genesis: Genesis, state: LedgerState, log: MerkleLog, tip: Tip) -> Chain:
        """The chain that ended with `tip`, which is final, and had that state and log."""
        chain = Chain(genesis)
        chain.state, chain.log, chain.tip = state, log, tip
        return chain

    @property
    def committee(self) -> Committee:
        """Who orders the next block: the witnesses of its epoch."""
        return self.state.committee

    @property
    def outdated(self) -> str:
        """Why no further block can be judged here; empty while the rules of the next one are known (R6.30)."""
        return _unknown_version(self.state, self.tip.height + 1)

    def ends_epoch(self, block_hash: bytes) -> bool:
        """Whether a block held here is its epoch's last, or stands on it: what stands on it in turn is void."""
        return self._parent(block_hash)[0].committee.epoch != self.committee.epoch

    def holds(self, block_hash: bytes) -> bool:
        """Whether a block may name `block_hash` as its parent here."""
        return block_hash == self.tip.block_hash or block_hash in self._candidates

    def candidate(self, block_hash: bytes) -> Candidate | None:
        """The executed block of that hash, if it is above the final one."""
        return self._candidates.get(block_hash)

    def next_moment(self, wall_ms: int) -> Moment:
        """Where an entry would stand if the next slot's block were built on the final one at `wall_ms`."""
        return self._moment(self.tip, self.tip.slot + 1, wall_ms)

    def execute(self, block: Block, *, is_verified: IsVerified | None = None) -> str | None:
        """Judge `block` by every rule; None makes it a candidate, a text says which rule it breaks.

        The parent must be one that `holds`. `is_verified(entry, key)` tells of entries whose signature by `key` was
        checked before, to the byte: an id does not cover the signature. Whether enough witnesses want the block, and
        whether its time is too far ahead, is not asked here.
        """
        parent_state, parent_peaks, parent = self._parent(block.header.parent_hash)
        header = block.header
        fault = _unknown_version(parent_state, header.height) or self._misplaced(header, parent)
        if fault is not None:
            return fault
        if len(self._candidates) >= CANDIDATES_MAX:
            return "too many blocks wait for finality"
        if self.ends_epoch(header.parent_hash):
            return self._execute_void(block, parent_state, parent_peaks)
        state = parent_state.branch()
        at = Moment(header.height, header.time_ms, self.committee.leader(header.slot), header.epoch)
        first = 0
        for entries in _stretches(block.entries):
            signed = _count_signed(entries, state.signers(entries), self.genesis.network_id, is_verified)
            refused = state.apply_all(entries[:signed], at)
            if refused is not None:
                place, why = refused
                return f"entry {first + place} is refused: {why.reason}: {why.detail}"
            if signed < len(entries):
                return f"entry {first + signed} has a wrong signature"
            first += signed
        state.close_block(at)
        growth = parent_peaks.grow([entry.encoded for entry in block.entries])
        if (header.tree_size, header.log_root) != (growth.peaks.size, growth.peaks.root()):
            return "the header's log root is not that of its entries"
        if header.state_root != _state_root(state, header.height):
            return "the header's state root is not that of its entries"
        self.add(Candidate(block, self._tip_of(header), state, growth))
        return None

    def _execute_void(self, block: Block, state: LedgerState, peaks: Peaks) -> str | None:
        """Judge a block above its epoch's last one: it may only help that one to become final (R6.26)."""
        header = block.header
        if block.entries or (header.tree_size, header.log_root) != (peaks.size, peaks.root()):
            return "the epoch is over: a block above its last one has no entries, and the same log"
        if header.state_root != NO_ROOT:
            return "the epoch is over: a block above its last one names no state"
        self.add(Candidate(block, self._tip_of(header), state, peaks.grow(())))
        return None

    def add(self, candidate: Candidate) -> None:
        """Keep a candidate that `build` made."""
        self._candidates[candidate.tip.block_hash] = candidate

    def build(
        self,
        parent_hash: bytes,
        slot: int,
        wall_ms: int,
        waiting: Iterable[tuple[bytes, Entry]],
        *,
        is_verified: IsVerified | None = None,
    ) -> Candidate:
        """The block of those `waiting` entries that apply after `parent_hash`, in their order; it is not kept yet.

        With `is_verified`, only of those whose signature by their account's key of then was checked: an entry that
        waits may have been overtaken by a REKEY.
        """
        state, peaks, parent = self._parent(parent_hash)
        is_void = self.ends_epoch(parent_hash)
        state, waiting = (state, ()) if is_void else (state.branch(), waiting)
        at = self._moment(parent, slot, wall_ms)
        chosen: list[Entry] = []
        bytes_left = BLOCK_ENTRIES_BYTES_MAX
        for _, entry in waiting:
            if len(chosen) >= BLOCK_ENTRIES_MAX or len(entry.encoded) > bytes_left:
                break
            if is_verified is not None and not is_verified(entry, state.signer(entry)):
                continue
            if not isinstance(state.apply(entry, at), Refusal):
                chosen.append(entry)
                bytes_left -= len(entry.encoded)
        if not is_void:
            state.close_block(at)
        growth = peaks.grow(entry.encoded for entry in chosen)
        header = Header(
            epoch=self.committee.epoch,
            slot=slot,
            height=parent.height + 1,
            parent_slot=parent.slot,
            parent_hash=parent_hash,
            time_ms=at.time_ms,
            tree_size=growth.peaks.size,
            log_root=growth.peaks.root(),
            state_root=NO_ROOT if is_void else _state_root(state, parent.height + 1),
            count=len(chosen),
        )
        return Candidate(Block(header, tuple(chosen)), self._tip_of(header), state, growth)

    def path_to(self, block_hash: bytes) -> list[Candidate] | None:
        """The candidates from right above the final block up to `block_hash`; None if a link is missing."""
        path: list[Candidate] = []
        at = block_hash
        while at != self.tip.block_hash:
            candidate = self._candidates.get(at)
            if candidate is None:
                return None
            path.append(candidate)
            at = candidate.block.header.parent_hash
        return path[::-1]

    def finalise(self, block_hash: bytes) -> list[FinalBlock]:
        """Make `block_hash` and its ancestors final, oldest first; nothing happens while a link or certificate lacks.

        The caller has set each candidate's certificate, and the last one's is FINAL, or it has a closing. The chain is
        cut at its epoch's last block: the void ones above it close it, and are forgotten.
        """
        epoch = self.committee.epoch
        path = self.path_to(block_hash) or []
        ends = (i for i, candidate in enumerate(path, 1) if candidate.state.committee.epoch != epoch)
        end = next(ends, len(path))
        path, void = path[:end], path[end:]
        if void:
            _close(path[-1], void)
        blocks = [block for block in map(_final_block, path) if block is not None]
        if len(blocks) < len(path) or not blocks or not blocks[-1].is_final:
            return []
        for candidate in path:
            self.state.adopt(candidate.state)
            self.log.take(candidate.growth)
            self.tip = candidate.tip
            if self.keeps_snapshots and not self.tip.height % STATE_ROOT_INTERVAL:
                self.certified = self.tip.height, self.state.snapshot()
        self._prune()
        return blocks

    def accept(self, block: FinalBlock, *, is_verified: IsVerified | None = None) -> list[FinalBlock]:
        """Take in a block that others finalised, in order of height, trusting nothing: what became final by it.

        A block with a NOTAR certificate waits for a descendant with a FINAL one. `BadBlock` says what is wrong.
        """
        header = block.header
        if header.height <= self.tip.height:
            return []
        if not self.holds(header.parent_hash):
            if header.height == self.tip.height + 1 and block.is_final and block.verify(self.committee):
                raise ForkError(block)
            raise BadBlock(f"block {header.height} does not follow from height {self.tip.height}")
        if text := _unknown_version(self._parent(header.parent_hash)[0], header.height):
            raise UnknownVersionError(text)
        if not block.verify(self.committee):
            raise BadBlock(f"block {header.height} lacks a quorum's certificate")
        block_hash = block.certificate.block_hash
        if block_hash not in self._candidates:
            fault = self.execute(block.block, is_verified=is_verified)
            if fault is not None:
                raise BadBlock(f"block {header.height} breaks a rule: {fault}")
        candidate = self._candidates[block_hash]
        candidate.certificate, candidate.closing = block.certificate, block.closing
        return self.finalise(block_hash)

    def _prune(self) -> None:
        """Keep only descendants of the final block that are of its epoch: others were void."""
        keep: dict[bytes, Candidate] = {}
        for block_hash, candidate in sorted(self._candidates.items(), key=lambda item: item[1].tip.slot):
            parent_hash = candidate.block.header.parent_hash
            if candidate.block.header.epoch != self.committee.epoch:
                continue
            if parent_hash == self.tip.block_hash or parent_hash in keep:
                keep[block_hash] = candidate
        self._candidates = keep

    def _tip_of(self, header: Header) -> Tip:
        return Tip(header.slot, header.height, header.hash(self.genesis.network_id), header.time_ms)

    def _moment(self, parent: Tip, slot: int, wall_ms: int) -> Moment:
        leader, epoch = self.committee.leader(slot), self.committee.epoch
        return Moment(parent.height + 1, max(parent.time_ms, wall_ms), leader, epoch)

    def _parent(self, parent_hash: bytes) -> tuple[LedgerState, Peaks, Tip]:
        if parent_hash == self.tip.block_hash:
            return self.state, self.log.peaks(), self.tip
        candidate = self._candidates[parent_hash]
        return candidate.state, candidate.growth.peaks, candidate.tip

    def _misplaced(self, header: Header, parent: Tip) -> str | None:
        if header.epoch != self.committee.epoch:
            return f"epoch {header.epoch} is not {self.committee.epoch}"
        if (header.height, header.parent_slot) != (
            parent.height + 1,
            parent.slot,
        ) or header.slot <= parent.slot:
            return "height or slots do not follow the parent's"
        if header.time_ms < parent.time_ms:
            return "the time is before the parent's"
        return None


def _unknown_version(state: LedgerState, height: int) -> str:
    version = state.params.version
    if version <= PROTOCOL_VERSION:
        return ""
    return (
        f"from block {height} on this network follows version {version} of the rules, and this program knows only "
        f"{PROTOCOL_VERSION}: update millrace"
    )


def _close(last: Candidate, void: list[Candidate]) -> None:
    """Let the `void` blocks above an epoch's `last` one make it final, if they do."""
    certificate = void[-1].certificate
    if certificate is not None and certificate.kind is Kind.FINAL:
        last.closing = Closing(tuple(candidate.block.header for candidate in void), certificate)


def _final_block(candidate: Candidate) -> FinalBlock | None:
    """The candidate as a block of the agreed chain; None while something that it must carry lacks."""
    certificate, entries = candidate.certificate, candidate.block.entries
    if certificate is None:
        return None
    if certificate.kind is Kind.FINAL or not ends_epoch(entries):
        return FinalBlock(candidate.block.header, entries, certificate)
    if candidate.closing is None:
        return None
    return FinalBlock(candidate.block.header, entries, certificate, candidate.closing)


def _stretches(entries: tuple[Entry, ...]) -> Iterator[tuple[Entry, ...]]:
    """The entries, cut behind each REKEY: within a piece no entry changes whose signature another needs.

    A piece's signatures are verified together, before any of its entries is applied: libsodium's tables and the state
    push each other out of the processor's cache.
    """
    first = 0
    for end in [place for place, entry in enumerate(entries, 1) if type(entry.action) is Rekey]:
        yield entries[first:end]
        first = end
    if first < len(entries):
        yield entries[first:]


def _count_signed(
    entries: tuple[Entry, ...], keys: list[AccountId], network_id: NetworkId, is_verified: IsVerified | None
) -> int:
    """How many entries from the first on are signed by their keys; those that are verified already are not again."""
    if is_verified is None:
        return count_signed(entries, keys, network_id)
    for place, (entry, key) in enumerate(zip(entries, keys, strict=True)):
        if not is_verified(entry, key) and not verify_entry(entry, network_id, key):
            return place
    return len(entries)


def _state_root(state: LedgerState, height: int) -> bytes:
    return NO_ROOT if height % STATE_ROOT_INTERVAL else state.root()
