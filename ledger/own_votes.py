"""A witness's votes on disk, above its last final block, with what they rest on (SPEC.md §6.2).

R6.9: votes, the blocks they notarise and the certificates learned since go down in one transaction, before any of
them is sent. What was forgotten here would be signed again differently: so a missing row is an error, not a gap.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from ledger.core.block import Proposal, ends_epoch
from ledger.core.encoding import WireError
from ledger.core.events import Saved
from ledger.core.votes import Certificate, Vote
from ledger.drawers import Drawer, Drawers

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock
    from ledger.core.committee import Committee
    from ledger.core.events import PersistVote
    from ledger.database import Connection, Database

__all__ = ["OwnVotes"]

_SLOT = struct.Struct(">IQ")  # epoch, slot
_SLOT_AND_KIND = struct.Struct(">IQB")


class OwnVotes:
    """The drawers VOTES, CERTIFICATES and PROPOSALS."""

    def __init__(self, database: Database, drawers: Drawers) -> None:
        self._database = database
        self._drawers = drawers

    def put(self, connection: Connection, item: PersistVote) -> None:
        """Inside a transaction: write a vote and what it rests on."""
        vote, proposal = item.vote, item.proposal
        key = _SLOT_AND_KIND.pack(vote.epoch, vote.slot, vote.kind)
        self._drawers.put(connection, Drawer.VOTES, key, vote.encode())
        for found in item.certificates:
            key = _SLOT_AND_KIND.pack(found.epoch, found.slot, found.kind)
            self._drawers.put(connection, Drawer.CERTIFICATES, key, found.encode())
        if proposal is not None:
            key = _SLOT.pack(proposal.header.epoch, proposal.header.slot)
            self._drawers.put(connection, Drawer.PROPOSALS, key, proposal.encode())

    def forget(self, connection: Connection, final: FinalBlock) -> None:
        """Inside a transaction: drop what is settled, of which no vote is asked for again.

        That is every slot up to the final block's; and the whole epoch, if the block is its last.
        """
        epoch = final.header.epoch + ends_epoch(final.entries)
        for drawer in (Drawer.VOTES, Drawer.CERTIFICATES, Drawer.PROPOSALS):
            for key in self._drawers.keys(drawer):
                of_epoch, slot = _SLOT.unpack_from(key)
                if of_epoch < epoch or slot <= final.header.slot:
                    self._drawers.delete(connection, drawer, key)

    def load(self, committee: Committee, final_certificate: Certificate | None) -> Saved:
        """What was made durable in the epoch of `committee`; `StoreCorruptError` unless all of it verifies."""
        try:
            saved = Saved(
                tuple(Vote.decode(data) for data in self._of(Drawer.VOTES, committee)),
                tuple(Proposal.decode(data) for data in self._of(Drawer.PROPOSALS, committee)),
                tuple(Certificate.decode(data) for data in self._of(Drawer.CERTIFICATES, committee)),
                final_certificate,
            )
        except WireError as error:
            raise self._database.corrupt(f"a saved vote: {error}") from error
        votes_hold = all(vote.verify(committee) for vote in saved.votes)
        if not votes_hold or not all(found.verify(committee) for found in saved.certificates):
            raise self._database.corrupt("a saved vote or certificate has a wrong signature")
        return saved

    def _of(self, drawer: Drawer, committee: Committee) -> list[bytes]:
        return [
            data for key, data in self._drawers.rows(drawer) if _SLOT.unpack_from(key)[0] == committee.epoch
        ]
