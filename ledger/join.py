"""Beginning at a recent state instead of genesis: a snapshot from any source, believed in no part (SPEC.md §15.4).

The handovers lead from genesis to the committee that certified the header; the header fixes state and log. What a
source sends is checked as it comes, so a lying one costs at most one answer beyond what was true, and the next goes on
where it stopped. Durable order: 1 the handovers, for this node's own proofs; 2 snapshot, block and peaks in one
transaction. A crash before 2 begins anew.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import trio

from ledger.asking import Unavailable, Untrustworthy, ask, byte_strings
from ledger.core.block import FinalBlock
from ledger.core.committee import Committee
from ledger.core.encoding import WireError
from ledger.core.handover import Handover
from ledger.core.heads import CertifiedHeader
from ledger.core.holdings import InvariantError
from ledger.core.intake import Intake, Manifest
from ledger.core.keys import peer_id
from ledger.core.light import LightClient
from ledger.core.merkle import Peaks
from ledger.core.requests import BlocksFrom, ChunkOf, HandoversFrom, SnapshotOffer, field
from ledger.core.state import LedgerState
from ledger.proofs import handover_note

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.archive import Archive
    from ledger.asking import Request
    from ledger.core.keys import AccountId

__all__ = ["ATTEMPTS_MAX", "EPOCHS_AHEAD_MAX", "SOURCES_ASKED_MAX", "Joining"]

SOURCES_ASKED_MAX: Final = 8
ATTEMPTS_MAX: Final = 3
"""How often all are asked before a ledger counts as young although some say nothing."""
EPOCHS_AHEAD_MAX: Final = 4_096
"""More rotations than that are followed from genesis, block by block."""
LIGHT_NOTE: Final = b"light"

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Offer:
    source: AccountId
    manifest: Manifest


class Joining:
    """One empty archive's way to its first state. `attempt` until the archive has a height, or nobody offers one."""

    def __init__(self, archive: Archive, request: Request) -> None:
        self._archive = archive
        self._request = request
        self._light = LightClient(archive.genesis, archive.store.note(LIGHT_NOTE) or b"")
        self._intake: Intake | None = None
        self._liars: set[AccountId] = set()
        self._fruitless = 0

    async def attempt(self, sources: Sequence[AccountId]) -> bool:
        """Ask `sources`; True if it is decided: the archive has begun, or there is no snapshot to begin with.

        That is so when all of them say so, and after ATTEMPTS_MAX times when one does and nobody has a good one:
        pulling every block is slow at worst, and a source that says nothing must not keep a node from beginning.
        What came before a failure is kept for the next attempt.
        """
        asked = [source for source in sources if source not in self._liars][:SOURCES_ASKED_MAX]
        offers: list[_Offer] = []
        empty: list[AccountId] = []
        async with trio.open_nursery() as nursery:
            for source in asked:
                nursery.start_soon(self._collect, source, offers, empty)
        # The newest first; of one height those that the chunks already here fit.
        held = None if self._intake is None else self._intake.manifest
        offers.sort(
            key=lambda offer: (offer.manifest.head.header.height, offer.manifest == held), reverse=True
        )
        for offer in offers:
            try:
                await self._take(offer)
            except (ConnectionError, TimeoutError, trio.TooSlowError) as error:
                _log.debug("ledger: %s does not answer: %s", peer_id(offer.source), error)
            except Untrustworthy as error:
                self._blame(offer.source, error)
            else:
                return True
        self._fruitless += bool(empty)
        return bool(empty) and (len(empty) == len(asked) or self._fruitless >= ATTEMPTS_MAX)

    async def _collect(self, source: AccountId, offers: list[_Offer], empty: list[AccountId]) -> None:
        try:
            manifest = await self._manifest(source)
        except (ConnectionError, TimeoutError, trio.TooSlowError) as error:
            if isinstance(error, Unavailable) and error.code == "bad_request":
                empty.append(source)  # it does not know the question
            _log.debug("ledger: %s does not answer: %s", peer_id(source), error)
        except Untrustworthy as error:
            self._blame(source, error)
        else:
            if manifest is None:
                empty.append(source)
            else:
                offers.append(_Offer(source, manifest))

    async def _manifest(self, source: AccountId) -> Manifest | None:
        fields = await ask(self._request, source, SnapshotOffer())
        try:
            if not field(fields, "found", bool):
                return None
            manifest = Manifest(
                CertifiedHeader.decode(field(fields, "head", bytes)),
                tuple(byte_strings(fields, "peaks")),
                field(fields, "size", int),
                field(fields, "chunks_root", bytes),
            )
        except WireError as error:
            raise Untrustworthy(f"its snapshot: {error}") from error
        if fault := manifest.fault(self._archive.genesis.network_id):
            raise Untrustworthy(f"its snapshot: {fault}")
        return manifest

    async def _take(self, offer: _Offer) -> None:
        """All that `offer` promises, checked; at the end the archive begins with it."""
        manifest = offer.manifest
        committee = await self._follow(offer.source, manifest.head)
        if not manifest.head.verify(committee):
            raise Untrustworthy("its snapshot's header is certified by no quorum")
        if self._intake is None or self._intake.manifest != manifest:
            self._intake = Intake(manifest)
        intake = self._intake
        block = await self._block(offer.source, manifest.head, committee)
        if manifest.log_after(block.entries) is None:
            raise Untrustworthy("the peaks and the block's entries do not make the header's log")
        while not intake.is_whole:
            await self._chunk(offer.source, intake)
        snapshot = intake.snapshot()
        try:
            await trio.to_thread.run_sync(LedgerState.from_snapshot, self._archive.genesis, snapshot)
        except (WireError, InvariantError) as error:
            raise Untrustworthy(f"a certified state that is none: {error}") from error
        size = block.header.tree_size - block.header.count
        self._archive.begin(block, snapshot, Peaks(size, manifest.peaks))
        _log.info("ledger: began at height %d, from %s", block.header.height, peer_id(offer.source))

    async def _follow(self, source: AccountId, head: CertifiedHeader) -> Committee:
        """The committee that `head` is of, by handovers from `source`, which may be false but not believed.

        Another source may have led further already: an honest state may be of an epoch before the newest one known.
        """
        light, epoch = self._light, head.header.epoch
        if epoch < light.committee.epoch:
            return self._committee_before(head)
        if epoch > light.committee.epoch + EPOCHS_AHEAD_MAX:
            raise Untrustworthy(f"its snapshot is of epoch {epoch}, known is {light.committee.epoch}")
        while light.committee.epoch < epoch:
            fields = await ask(self._request, source, HandoversFrom(light.committee.epoch))
            try:
                handovers = [Handover.decode(data) for data in byte_strings(fields, "handovers")]
            except WireError as error:
                raise Untrustworthy(f"a handover: {error}") from error
            if not handovers:
                raise Untrustworthy(f"it shows no way from epoch {light.committee.epoch} to {epoch}")
            for handover in handovers:
                refusal = light.hand_over(handover)
                if refusal is not None:
                    raise Untrustworthy(f"a handover: {refusal.detail}")
                self._archive.store.save_note(handover_note(handover.epoch), handover.encode())
                if light.committee.epoch == epoch:
                    break
            self._archive.store.save_note(LIGHT_NOTE, light.save())
        return light.committee

    def _committee_before(self, head: CertifiedHeader) -> Committee:
        """The committee of an epoch that is known to be over: it made nothing final above the block that ended it."""
        genesis, epoch = self._archive.genesis, head.header.epoch
        last = self._handover(epoch).head.header
        if head.header.height > last.height:
            raise Untrustworthy(
                f"its snapshot is of height {head.header.height}, its epoch ended at {last.height}"
            )
        if epoch == 0:
            return genesis.committee
        return Committee(genesis.network_id, epoch, self._handover(epoch - 1).rotate.witnesses)

    def _handover(self, epoch: int) -> Handover:
        kept = self._archive.store.note(handover_note(epoch))
        if kept is None:
            raise Unavailable("unknown_epoch", f"how epoch {epoch} ended is not here any more")
        return Handover.decode(kept)

    async def _chunk(self, source: AccountId, intake: Intake) -> None:
        height = intake.manifest.head.header.height
        fields = await ask(self._request, source, ChunkOf(height, intake.next_index))
        try:
            if not field(fields, "found", bool):
                raise Unavailable("gone", f"it no longer has the snapshot of height {height}")
            good = intake.take(field(fields, "data", bytes), byte_strings(fields, "path"))
        except WireError as error:
            raise Untrustworthy(f"a chunk: {error}") from error
        if not good:
            raise Untrustworthy(f"chunk {intake.next_index} is not the one that the header fixes")

    async def _block(self, source: AccountId, head: CertifiedHeader, committee: Committee) -> FinalBlock:
        """The block of the snapshot: it is the first of those that this node holds."""
        fields = await ask(self._request, source, BlocksFrom(head.header.height, 1))
        try:
            found = [FinalBlock.decode(data) for data in byte_strings(fields, "blocks")]
        except WireError as error:
            raise Untrustworthy(f"the snapshot's block: {error}") from error
        if len(found) != 1 or found[0].header != head.header or not found[0].verify(committee):
            raise Untrustworthy("it has another block than its snapshot's, or none")
        return found[0]

    def _blame(self, source: AccountId, error: Untrustworthy) -> None:
        _log.warning("ledger: %s is not believed: %s", peer_id(source), error)
        self._liars.add(source)
