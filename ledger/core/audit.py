"""Replay a whole ledger and report the first rule that it breaks (SPEC.md §7.2)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.core.block import HEADER_BYTES, NO_BLOCK, NO_ROOT, STATE_ROOT_INTERVAL, FinalBlock, Header
from ledger.core.book_snapshot import read_snapshot, snapshot_root, state_root
from ledger.core.books import Books, Check
from ledger.core.encoding import Kind, WireError
from ledger.core.keys import verify_bytes
from ledger.core.merkle import Peaks
from ledger.core.violations import AuditRule, BrokenRuleError, Violation

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from ledger.core.block import Closing
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId
    from ledger.core.votes import Certificate

__all__ = ["AuditReport", "AuditRule", "Base", "Replay", "Violation", "audit"]

_SUBJECT: Final = struct.Struct(">IQ32s")  # epoch, slot, block hash: what a witness signs (SPEC.md §6.9)


@dataclass(frozen=True, slots=True)
class Base:
    """Where an audit begins if the blocks before it are gone: a block that names a state root, and what it names."""

    block: FinalBlock
    snapshot: bytes
    peaks: Peaks
    witnesses: Sequence[AccountId] | None = None
    """The committee of the block's epoch, if handovers from genesis have proven it; epoch 0 needs none."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the replay found, as far as it came: with a violation, up to the entry or block that breaks the rule."""

    violation: Violation | None
    base_height: int
    """The height of the snapshot that was begun from; 0: from genesis, nothing is taken on trust."""
    base_proven: bool
    """Whether the base's certificate is by a committee that follows from genesis."""
    height: int
    """Of the last block that was found good."""
    blocks: int
    entries: int
    kinds: dict[str, int]
    """Entries by type name."""
    balances: dict[AccountId, int]
    """Every account that is known, in micro-credits."""
    limits: int
    """The sum of all credit lines."""
    locks_open: int
    locked: int
    """Micro-credits in open locks."""
    paid: int
    refunded: int
    """Micro-credits that closed locks gave to payees, and back to payers, since the base."""
    fees: int
    epoch: int
    decrees: int
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
    blocks: Iterable[FinalBlock | bytes],
    progress: Callable[[int, int], None] | None = None,
    *,
    signatures: bool = True,
    check: Check = verify_bytes,
    base: Base | None = None,
) -> AuditReport:
    """Replay `blocks`, from height 1 or the base's next on, against `genesis`; stop at the first violation.

    `progress` is called after each block with the number of blocks and of entries replayed.

    Checks certificates, the header chain, epochs, times, log and state roots, every signature and voucher, every rule
    of SPEC.md §4, and that all purses sum to zero. `signatures=False` leaves out the entries' own signatures
    (for a ledger whose every entry was verified on arrival): everything else stays. Bytes that do not decode
    (encoded blocks, or a `WireError` out of `blocks`) are a violation, too. `check` verifies the signatures of which
    every one must hold, in the order in which they are met.
    """
    replay = Replay(genesis, signatures=signatures, check=check)
    try:
        if base is not None:
            replay.begin_at(base)
        for block in blocks:
            replay.feed(block)
            if progress is not None:
                progress(replay.blocks, replay.entries)
        replay.end()
    except BrokenRuleError as broken:
        return replay.report(replay.violation(broken.rule, broken.detail))
    except WireError as error:
        return replay.report(replay.violation(AuditRule.ENCODING, str(error)))
    return replay.report()


class Replay:
    """The chain around the books: `feed` one block after the other, `end` when there are no more.

    A broken rule is a `BrokenRuleError`, and the end of the replay; `violation` then knows the place.
    """

    def __init__(self, genesis: Genesis, *, signatures: bool = True, check: Check = verify_bytes) -> None:
        """See `audit` for `signatures` and `check`."""
        self.genesis = genesis
        self.books = Books(genesis, check, signatures=signatures)
        self.peaks = Peaks()
        self.height = self.blocks = self.entries = 0
        self._slot = self._final = self._base_height = 0
        self._base_proven = True
        self._hash, self._time_ms = NO_BLOCK, genesis.created_ms
        self._kinds: dict[str, int] = {}
        self._place: tuple[int, int, int | None] = (1, 0, None)

    def begin_at(self, base: Base) -> None:
        """Start from a certified snapshot: the base's block, and what the header says of log and state."""
        header = base.block.header
        network_id = self.genesis.network_id
        self._place = (header.height, header.slot, None)
        if (
            header.height % STATE_ROOT_INTERVAL
            or snapshot_root(network_id, base.snapshot) != header.state_root
        ):
            raise BrokenRuleError(
                AuditRule.BASE, "the snapshot is not the state that the base's header names"
            )
        if (header.tree_size, header.log_root) != (base.peaks.size, base.peaks.root()):
            raise BrokenRuleError(AuditRule.BASE, "the log's peaks are not those of the base's header")
        try:
            read_snapshot(self.books, base.snapshot)
            self.books.check_conservation()
        except (WireError, BrokenRuleError) as error:
            raise BrokenRuleError(AuditRule.BASE, f"the snapshot is certified, and wrong: {error}") from error
        witnesses = self.genesis.witnesses if not header.epoch else base.witnesses
        self._base_proven = witnesses is not None
        if witnesses is None:
            # Without handovers the snapshot's committee is all there is, and the report says that it is not proven.
            if header.epoch != self.books.epoch:
                raise BrokenRuleError(AuditRule.BASE, "the committee that certified the base is not known")
            witnesses = self.books.witnesses
        block_hash = header.hash(network_id)
        self._check_certificates(base.block, block_hash, witnesses)
        self.height = self._base_height = header.height
        self._final = header.height if base.block.is_final else 0
        self._slot, self._hash, self._time_ms = header.slot, block_hash, header.time_ms
        self.peaks = base.peaks

    def feed(self, block: FinalBlock | bytes) -> None:
        """The next block, encoded or not. `BrokenRuleError` names what it breaks; `violation` knows where."""
        self._block(self._decoded(block) if isinstance(block, bytes) else block)

    def _block(self, block: FinalBlock) -> None:
        """Check the block's chain, certificate, entries and roots, in this order."""
        header, books = block.header, self.books
        self._place = (header.height, header.slot, None)
        block_hash = header.hash(self.genesis.network_id)
        self._check_chain(header)
        books.open_page(header.height, header.time_ms, header.epoch, header.slot)
        self._check_certificates(block, block_hash, books.witnesses)
        peaks = self.peaks.extend(entry.encode() for entry in block.entries)
        if (header.tree_size, header.log_root) != (peaks.size, peaks.root()):
            raise BrokenRuleError(
                AuditRule.LOG, "the header's log is not the log before it and the block's entries"
            )
        for index, entry in enumerate(block.entries):
            self._place = (header.height, header.slot, index)
            books.entry(entry)
            self.entries += 1
            name = entry.action.TYPE.name
            self._kinds[name] = self._kinds.get(name, 0) + 1
        self._place = (header.height, header.slot, None)
        books.close_page()
        if header.state_root != (NO_ROOT if header.height % STATE_ROOT_INTERVAL else state_root(books)):
            raise BrokenRuleError(AuditRule.STATE_ROOT, "the header names another state")
        self.height, self._slot = header.height, header.slot
        self._hash, self._time_ms, self.peaks = block_hash, header.time_ms, peaks
        self.blocks += 1
        if block.is_final:
            self._final = header.height

    def _check_chain(self, header: Header) -> None:
        if header.epoch != self.books.epoch:
            raise BrokenRuleError(
                AuditRule.CHAIN, f"a block of epoch {header.epoch} in epoch {self.books.epoch}"
            )
        if header.height != self.height + 1:
            raise BrokenRuleError(AuditRule.CHAIN, f"height {header.height} after {self.height}")
        if (header.parent_slot, header.parent_hash) != (self._slot, self._hash):
            raise BrokenRuleError(AuditRule.CHAIN, "the header names another parent than the block before it")
        if header.time_ms < self._time_ms:
            raise BrokenRuleError(AuditRule.TIME, f"time {header.time_ms} after {self._time_ms}")

    def _check_certificates(
        self, block: FinalBlock, block_hash: bytes, witnesses: Sequence[AccountId]
    ) -> None:
        """The block's own certificate, and the closing that makes it final, if it needs one."""
        self._check_certificate(block.certificate, block.header, block_hash, witnesses)
        if block.closing is not None:
            void, void_hash = self._check_closing(block.header, block_hash, block.closing)
            self._check_certificate(block.closing.certificate, void, void_hash, witnesses)

    def _check_certificate(
        self, certificate: Certificate, header: Header, block_hash: bytes, witnesses: Sequence[AccountId]
    ) -> None:
        """A quorum's signatures, every one of them right, for this very header."""
        if certificate.block_hash != block_hash or certificate.epoch != header.epoch:
            raise BrokenRuleError(AuditRule.CERTIFICATE, "the certificate is for another block")
        quorum = 2 * len(witnesses) // 3 + 1
        if certificate.signers.bit_count() < quorum:
            raise BrokenRuleError(
                AuditRule.QUORUM, f"{certificate.signers.bit_count()} signers, {quorum} needed"
            )
        if certificate.signers >> len(witnesses):
            raise BrokenRuleError(AuditRule.CERTIFICATE, "a signer of the certificate is no witness")
        subject = _SUBJECT.pack(certificate.epoch, certificate.slot, certificate.block_hash)
        chosen = [who for place, who in enumerate(witnesses) if certificate.signers >> place & 1]
        for who, signature in zip(chosen, certificate.signatures, strict=True):
            if not self.books.signed(who, signature, Kind(certificate.kind), subject):
                raise BrokenRuleError(AuditRule.CERTIFICATE, "a signature of the certificate is wrong")

    def _check_closing(self, closed: Header, block_hash: bytes, closing: Closing) -> tuple[Header, bytes]:
        """Void blocks that stand on `closed` and add nothing: the last one, said to be final, and its hash."""
        height, slot, time_ms = closed.height, closed.slot, closed.time_ms
        for void in closing.headers:
            if (void.epoch, void.height) != (closed.epoch, height + 1) or void.time_ms < time_ms:
                raise BrokenRuleError(AuditRule.CLOSING, "a void block has another epoch, height or time")
            if (void.parent_slot, void.parent_hash) != (slot, block_hash):
                raise BrokenRuleError(AuditRule.CLOSING, "a void block stands on another block")
            if (void.count, void.tree_size, void.log_root) != (0, closed.tree_size, closed.log_root):
                raise BrokenRuleError(AuditRule.CLOSING, "a void block changes the log")
            height, slot, time_ms = void.height, void.slot, void.time_ms
            block_hash = void.hash(self.genesis.network_id)
        return closing.headers[-1], block_hash

    def end(self) -> None:
        """The last block must be final by itself, and nothing may have appeared or vanished."""
        self._place = (self.height, self._slot, None)
        if self._final != self.height:
            raise BrokenRuleError(
                AuditRule.FINALITY, f"the blocks after height {self._final} have no final certificate"
            )
        self.books.check_conservation()

    def check_conservation(self) -> None:
        """Every purse, lock and line counted anew, wherever the replay stands: for whoever watches a ledger grow."""
        self.books.check_conservation()

    def violation(self, rule: AuditRule, detail: str) -> Violation:
        """`detail`, with the place where the replay stands."""
        height, slot, entry = self._place
        log_index = None if entry is None else self.peaks.size + entry
        return Violation(rule, detail, height, slot, entry, log_index)

    def _decoded(self, data: bytes) -> FinalBlock:
        try:
            return FinalBlock.decode(data)
        except WireError as error:
            self._place = self._place_of(data)
            raise BrokenRuleError(AuditRule.ENCODING, str(error)) from error

    def _place_of(self, data: bytes) -> tuple[int, int, None]:
        """Where a block that does not decode says it stands; else the next place in the chain."""
        try:
            header = Header.decode(data[:HEADER_BYTES])
        except WireError:
            return (self.height + 1, 0, None)
        return (header.height, header.slot, None)

    def report(self, violation: Violation | None = None) -> AuditReport:
        """Where the books stand."""
        books = self.books
        return AuditReport(
            violation=violation,
            base_height=self._base_height,
            base_proven=self._base_proven,
            height=self.height,
            blocks=self.blocks,
            entries=self.entries,
            kinds=dict(self._kinds),
            balances=books.balances(),
            limits=books.limits_sum,
            locks_open=len(books.locks),
            locked=books.locked,
            paid=books.paid,
            refunded=books.refunded,
            fees=books.fees,
            epoch=books.epoch,
            decrees=books.decrees,
            tree_size=self.peaks.size,
            log_root=self.peaks.root(),
            head_hash=self._hash,
            head_time_ms=self._time_ms,
        )
