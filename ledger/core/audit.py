"""Replay a whole ledger from genesis and report the first rule that it breaks (SPEC.md §7)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.core.block import NO_BLOCK, NO_ROOT, STATE_ROOT_INTERVAL, FinalBlock
from ledger.core.books import AuditRule, Books, BrokenRuleError, Line
from ledger.core.encoding import WireError
from ledger.core.entries import verify_entry
from ledger.core.merkle import Peaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId

__all__ = ["AuditReport", "AuditRule", "Violation", "audit"]


@dataclass(frozen=True, slots=True)
class Violation:
    """The first broken rule and its place: block height and slot, and the entry's place in its block and the log."""

    rule: AuditRule
    detail: str
    height: int
    slot: int
    entry: int | None = None
    log_index: int | None = None


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the replay found, as far as it came: with a violation, up to the entry or block that breaks the rule."""

    violation: Violation | None
    blocks: int
    entries: int
    kinds: dict[str, int]
    """Entries by type name."""
    balances: dict[AccountId, int]
    """Every account that was named, in micro-credits."""
    locks_open: int
    locked: int
    """Micro-credits in open locks."""
    paid: int
    refunded: int
    """Micro-credits that closed locks gave to payees, and back to payers."""
    fees: int
    tree_size: int
    log_root: bytes
    head_hash: bytes
    head_time_ms: int

    @property
    def ok(self) -> bool:
        """Whether every rule held in every block."""
        return self.violation is None


def audit(
    genesis: Genesis,
    blocks: Iterable[FinalBlock],
    progress: Callable[[int, int], None] | None = None,
    *,
    signatures: bool = True,
) -> AuditReport:
    """Replay `blocks`, from height 1 on, against `genesis`; stop at the first violation.

    `progress` is called after each block with the number of blocks and of entries replayed.

    Checks certificates, the header chain, times, log and state roots, every signature and voucher, every rule
    of SPEC.md §4, and that all purses sum to zero. `signatures=False` leaves out the entries' own signatures
    (for a ledger whose every entry was verified on arrival): everything else stays. Bytes that do not decode
    (a `WireError` out of `blocks`) are a violation, too.
    """
    replay = _Replay(genesis, signatures)
    violation: Violation | None = None
    try:
        for block in blocks:
            replay.block(block)
            if progress is not None:
                progress(replay.height, replay.peaks.size)
        replay.end()
    except BrokenRuleError as broken:
        violation = replay.violation(broken.rule, broken.detail)
    except WireError as error:
        violation = replay.violation(AuditRule.ENCODING, str(error))
    return replay.report(violation)


class _Replay:
    """The chain around the books: one block after the other."""

    __slots__ = (
        "_final",
        "_hash",
        "_kinds",
        "_place",
        "_signatures",
        "_slot",
        "_time_ms",
        "books",
        "genesis",
        "height",
        "peaks",
    )

    def __init__(self, genesis: Genesis, signatures: bool) -> None:
        self.genesis = genesis
        self.books = Books(genesis)
        for account, limit in genesis.limits:
            self.books.lines[account] = Line(floor=-limit)
        self._signatures = signatures
        self.height = self._slot = self._final = 0
        self._hash, self._time_ms = NO_BLOCK, genesis.created_ms
        self.peaks = Peaks()
        self._kinds: dict[str, int] = {}
        self._place: tuple[int, int, int | None] = (1, 0, None)

    def block(self, block: FinalBlock) -> None:
        """Check the block's chain, certificate, entries and roots, in this order."""
        header = block.header
        self._place = (header.height, header.slot, None)
        block_hash = header.hash(self.genesis.network_id)
        self._check_chain(block)
        self._check_certificate(block, block_hash)
        peaks = self.peaks.extend(entry.encode() for entry in block.entries)
        if (header.tree_size, header.log_root) != (peaks.size, peaks.root()):
            raise BrokenRuleError(
                AuditRule.LOG, "the header's log is not the log before it and the block's entries"
            )
        leader = self.genesis.committee.leader(header.slot)
        for index, entry in enumerate(block.entries):
            self._place = (header.height, header.slot, index)
            if self._signatures and not verify_entry(entry, self.genesis.network_id):
                raise BrokenRuleError(AuditRule.SIGNATURE, "the account did not sign this entry")
            self.books.entry(entry, header.time_ms, leader)
            name = entry.action.TYPE.name
            self._kinds[name] = self._kinds.get(name, 0) + 1
        self._place = (header.height, header.slot, None)
        if header.state_root != (NO_ROOT if header.height % STATE_ROOT_INTERVAL else self.books.root()):
            raise BrokenRuleError(AuditRule.STATE_ROOT, "the header names another state")
        self.height, self._slot = header.height, header.slot
        self._hash, self._time_ms, self.peaks = block_hash, header.time_ms, peaks
        if block.is_final:
            self._final = header.height

    def _check_chain(self, block: FinalBlock) -> None:
        header = block.header
        if header.epoch:
            raise BrokenRuleError(AuditRule.CHAIN, f"epoch {header.epoch}, only 0 exists")
        if header.height != self.height + 1:
            raise BrokenRuleError(AuditRule.CHAIN, f"height {header.height} after {self.height}")
        if (header.parent_slot, header.parent_hash) != (self._slot, self._hash):
            raise BrokenRuleError(AuditRule.CHAIN, "the header names another parent than the block before it")
        if header.time_ms < self._time_ms:
            raise BrokenRuleError(AuditRule.TIME, f"time {header.time_ms} after {self._time_ms}")

    def _check_certificate(self, block: FinalBlock, block_hash: bytes) -> None:
        certificate = block.certificate
        if certificate.block_hash != block_hash:
            raise BrokenRuleError(AuditRule.CERTIFICATE, "the certificate is for another block")
        if certificate.signers.bit_count() < self.genesis.committee.quorum:
            raise BrokenRuleError(
                AuditRule.QUORUM,
                f"{certificate.signers.bit_count()} signers, {self.genesis.committee.quorum} needed",
            )
        if not certificate.verify(self.genesis.committee):
            raise BrokenRuleError(AuditRule.CERTIFICATE, "a signature of the certificate is wrong")

    def end(self) -> None:
        """The last block must be final by itself, and nothing may have appeared or vanished."""
        self._place = (self.height, self._slot, None)
        if self._final != self.height:
            raise BrokenRuleError(
                AuditRule.FINALITY, f"the blocks after height {self._final} have no final certificate"
            )
        self.books.check_conservation()

    def violation(self, rule: AuditRule, detail: str) -> Violation:
        """`detail`, with the place where the replay stands."""
        height, slot, entry = self._place
        log_index = None if entry is None else self.peaks.size + entry
        return Violation(rule, detail, height, slot, entry, log_index)

    def report(self, violation: Violation | None) -> AuditReport:
        """Where the books stand."""
        books = self.books
        return AuditReport(
            violation=violation,
            blocks=self.height,
            entries=sum(self._kinds.values()),
            kinds=dict(self._kinds),
            balances=books.balances(),
            locks_open=len(books.locks),
            locked=sum(lock.amount for lock in books.locks.values()),
            paid=books.paid,
            refunded=books.refunded,
            fees=books.fees,
            tree_size=self.peaks.size,
            log_root=self.peaks.root(),
            head_hash=self._hash,
            head_time_ms=self._time_ms,
        )
