"""What an entry point does for the ledger: it orders while the committee names it, else it keeps a verified copy.

A ROTATE changes that while the process runs. Whoever leaves goes on serving blocks: the others may need the last
ones of its epoch from it.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import trio

from bootstrap.genesis import fault_line
from ledger.core.keys import peer_id
from ledger.core.state import Reason, Refusal
from ledger.sync import Follower
from ledger.witness import Witness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bootstrap.consensus import ConsensusLinks
    from ledger.archive import Archive
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.mempool import Mempool
    from ledger.sync import Request

__all__ = ["Duty"]

_log = logging.getLogger("millrace.bootstrap")


class Duty:
    """Witness or follower, whichever the present epoch asks of `key`. `run` does it until it is cancelled."""

    def __init__(
        self,
        key: SigningKey,
        archive: Archive,
        links: ConsensusLinks,
        request: Request,
        clock_ms: Callable[[], int],
        *,
        entry_points: Sequence[AccountId] = (),
    ) -> None:
        """`entry_points` also have blocks, whoever the witnesses are. Starts nothing."""
        self._key = key
        self._archive = archive
        self._links = links
        self._request = request
        self._clock_ms = clock_ms
        self._entry_points = tuple(account for account in entry_points if account != key.account)
        self._witness: Witness | None = None

    @property
    def is_witness(self) -> bool:
        """Whether the present committee names this key."""
        return self._key.account in self._archive.chain.committee

    @property
    def trouble(self) -> str:
        """Why a witness does not vote at present, or what is wrong on this node's disk; empty when all is well."""
        if self._witness is None:
            return self._archive.trouble or self._archive.damage
        return self._witness.trouble

    def receive(self, sender: AccountId, message: bytes) -> None:
        """A message of another witness."""
        if self._witness is not None:
            self._witness.receive(sender, message)

    async def submit_all(self, entries: Sequence[Entry]) -> list[Refusal | None]:
        """Ask for entries to be ordered: for each None if it waits for a block now, else why not."""
        if self._witness is None:
            return [Refusal(Reason.BUSY, "this node is no witness")] * len(entries)
        return await self._witness.submit_all(entries)

    def waiting(self, account: AccountId, count_max: int) -> Sequence[Entry]:
        """Entries of `account` that wait here for a block, in order of sequence."""
        return () if self._witness is None else self._witness.waiting(account, count_max)

    async def run(self) -> None:
        """Order or follow, epoch after epoch."""
        pool: Mempool | None = None
        while True:
            committee = self._archive.chain.committee
            self._links.change(committee.witnesses)
            if self._key.account in committee:
                pool = await self._order(pool)
            else:
                pool = None
                await self._follow()

    async def _order(self, pool: Mempool | None) -> Mempool:
        """Be a witness of this epoch until it is over; the entries that wait then."""
        committee = self._archive.chain.committee
        _log.info("witness of epoch %d: %s", committee.epoch, fault_line(committee))
        witness = Witness(self._key, self._archive, self._links, self._request, self._clock_ms, pool=pool)
        self._witness = witness
        try:
            await witness.run()
        finally:
            self._witness = None
        return witness.pool

    async def _follow(self) -> None:
        """Keep a verified copy until a committee names this key."""
        name = peer_id(self._key.account)
        _log.warning("%s is no witness of %r: it serves a verified copy", name, self._archive.genesis.name)
        follower = Follower(
            self._archive.genesis, self._archive.store, self._sources, self._request, archive=self._archive
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            while not self.is_witness:
                await self._archive.wait_beyond(self._archive.height)
            nursery.cancel_scope.cancel()

    def _sources(self) -> tuple[AccountId, ...]:
        witnesses = self._archive.chain.committee.witnesses
        return (*witnesses, *(account for account in self._entry_points if account not in witnesses))
