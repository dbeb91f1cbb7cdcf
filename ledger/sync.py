"""Following the ledger from outside: pull final blocks, trust nobody, keep what holds (SPEC.md §15).

A follower checks every certificate, every signature and every rule itself, so any witness, honest or not, will do
as a source: a lying one is found at its first wrong byte, a dead or silent one costs one timeout.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, TypeAlias

import trio

from ledger.archive import Archive
from ledger.core.block import FinalBlock
from ledger.core.chain import BadBlock, ForkError, Tip
from ledger.core.encoding import WireError
from ledger.core.entries import verify_entry
from ledger.core.keys import AccountId, peer_id
from ledger.core.requests import BlocksFrom, ServiceError, decode_answer, encode_request, field
from ledger.store import Batch, Store

if TYPE_CHECKING:
    from ledger.core.committee import Committee
    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Entry
    from ledger.core.genesis import Genesis
    from ledger.core.receipt import Receipt
    from ledger.core.state import LedgerState, Moment

__all__ = ["HEDGE_S", "POLL_WAIT_MS", "Follower", "Request", "Untrustworthy", "pull_blocks"]

Request: TypeAlias = Callable[[AccountId, bytes, float], Awaitable[bytes]]
"""(witness, body, timeout_s) -> answer; raises ConnectionError or TimeoutError."""

POLL_WAIT_MS: Final = 2_000
"""How long a source may hold a request open for a block to come. After an empty answer another source is asked, so a
source that is cut off from the rest hides new blocks no longer than this."""
HEDGE_S: Final = 0.3
"""A source that answered nothing for this long gets company."""
ANSWER_S: Final = 5.0
ENTRIES_CHECKED_INLINE_MAX: Final = 32
"""More signatures than this, about 4 ms, are checked in a thread: the node's other tasks go on meanwhile."""
PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 2.0

_log = logging.getLogger(__name__)


class Untrustworthy(Exception):
    """A source sent something that no honest node sends."""


async def pull_blocks(
    request: Request, source: AccountId, genesis: Genesis, from_height: int, wait_ms: int
) -> tuple[FinalBlock, ...]:
    """Final blocks from `from_height` on as `source` has them, their entries' signatures checked.

    The certificates and rules are still to be checked, by `Chain.accept`. `Untrustworthy` if an answer is malformed;
    ConnectionError or TimeoutError as `request` raises them.
    """
    body = encode_request(BlocksFrom(from_height, wait_ms=wait_ms))
    answer = await request(source, body, wait_ms / 1000 + ANSWER_S)
    try:
        encoded = field(decode_answer(answer), "blocks", list)
        if not all(isinstance(data, bytes) for data in encoded):
            raise WireError("a block is not bytes")
        blocks = tuple(FinalBlock.decode(data) for data in encoded)
    except WireError as error:
        raise Untrustworthy(str(error)) from error
    except ServiceError as error:
        raise ConnectionError(f"the source cannot answer: {error}") from error
    entries = [entry for block in blocks for entry in block.entries]
    if len(entries) > ENTRIES_CHECKED_INLINE_MAX:
        signed = await trio.to_thread.run_sync(_all_signed, entries, genesis.network_id)
    else:
        signed = _all_signed(entries, genesis.network_id)
    if not signed:
        raise Untrustworthy("an entry has a wrong signature")
    return blocks


def _all_signed(entries: list[Entry], network_id: NetworkId) -> bool:
    return all(verify_entry(entry, network_id) for entry in entries)


class Follower:
    """This node's own, verified copy of the ledger. `run` keeps it up to date until it is cancelled."""

    def __init__(
        self,
        genesis: Genesis,
        store: Store,
        sources: Callable[[], Sequence[AccountId]],
        request: Request,
        *,
        archive: Archive | None = None,
    ) -> None:
        """`sources()` names the witnesses that can be reached now. Replays `store`; `StoreError` if that fails."""
        self.genesis = genesis
        self.archive = Archive(store) if archive is None else archive
        self.request = request
        self.sources = sources
        self._turn = 0
        self.fork: ForkError | None = None
        """Proof that more than f witnesses lied, once a source has shown it: tell the owner, rely on nothing new."""
        self._visit = trio.CancelScope()
        self._asking: tuple[AccountId, float] | None = None
        self._turnstile = trio.Lock()

    @property
    def state(self) -> LedgerState:
        """The verified state at the last final block known here."""
        return self.archive.chain.state

    @property
    def committee(self) -> Committee:
        """The witnesses who order the next block, as far as is known here."""
        return self.archive.chain.committee

    @property
    def head(self) -> Tip:
        """The last final block known here."""
        return self.archive.chain.tip

    def next_moment(self, wall_ms: int) -> Moment:
        """Where an entry would stand in the next block, if that were built at `wall_ms`."""
        return self.archive.chain.next_moment(wall_ms)

    def receipt(self, entry_id: bytes) -> Receipt | None:
        """The receipt of an entry that is final here."""
        return self.archive.receipt(entry_id)

    def blocks(self, from_height: int = 1, count: int | None = None) -> Iterator[FinalBlock]:
        """Final blocks from a height on, for display and audit."""
        return self.archive.blocks(from_height, count)

    async def wait_for(self, what: bytes | Callable[[], bool], timeout_s: float) -> bool:
        """Wait until the entry with this id is final here, or the predicate holds; False if the time is over first.

        A predicate is asked again after each batch of blocks.
        """
        holds = False
        with trio.move_on_after(timeout_s):
            while not holds:
                height = self.archive.height
                holds = self._holds(what)
                if not holds:
                    await self.archive.wait_beyond(height)
        return holds

    def switch_source(self) -> None:
        """Ask another witness now: somebody waits for a block that the present one may be hiding."""
        self._visit.cancel()

    async def run(self) -> None:
        """Pull, verify and keep blocks, until cancelled. Whatever a source does, another one is asked next."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pull_when_slow)
            while True:
                await self._pull_from_all()

    async def _pull_from_all(self) -> None:
        """Ask one source after the other, and stay with each while it answers as it should."""
        pause_s = PAUSE_S_MIN
        while True:
            source = self._next_source()
            if source is None:
                await trio.sleep(PAUSE_S_MAX)
                continue
            began_s = trio.current_time()
            with trio.CancelScope() as self._visit:
                self._asking = (source, began_s)
                answers = await self._visit_source(source)
            self._asking = None
            if self._visit.cancelled_caught:
                continue
            if answers:
                pause_s = PAUSE_S_MIN
                if trio.current_time() - began_s >= PAUSE_S_MIN:
                    continue  # it did hold the request open, as asked
            await trio.sleep(pause_s)
            pause_s = min(PAUSE_S_MAX, pause_s * 2)

    async def _pull_when_slow(self) -> None:
        """While one source keeps us waiting, ask a second one too.

        An idle source keeps the request open for POLL_WAIT_MS, and so does one whose process hangs: nobody can tell
        them apart before a time-out, and whoever waits for a block must not wait for that.
        """
        while True:
            await trio.sleep(HEDGE_S)
            if self._asking is None or trio.current_time() - self._asking[1] < HEDGE_S:
                continue
            source = self._next_source()
            if source is not None and source != self._asking[0]:
                await self._visit_source(source)

    async def _visit_source(self, source: AccountId) -> bool:
        """Take what `source` has; False if it failed or lied."""
        try:
            await self._pull_from(source)
        except (ConnectionError, TimeoutError, trio.TooSlowError) as error:
            _log.debug("ledger: %s does not answer: %s", peer_id(source), error)
            return False
        except Untrustworthy as error:
            _log.warning("ledger: %s sent a wrong block: %s", peer_id(source), error)
            return False
        return True

    async def _pull_from(self, source: AccountId) -> None:
        """Take blocks from `source` until it has no new one."""
        chain = self.archive.chain
        height = chain.tip.height + 1
        while True:
            blocks = await pull_blocks(self.request, source, self.genesis, height, POLL_WAIT_MS)
            if not blocks:
                return
            if self._asking is not None and self._asking[0] == source:
                self._asking = (source, trio.current_time())
            with trio.CancelScope(shield=True):  # what was accepted in memory must reach the disk
                async with self._turnstile:  # in order of height
                    await self._accept(blocks)
            height = blocks[-1].header.height + 1

    async def _accept(self, blocks: tuple[FinalBlock, ...]) -> None:
        final: list[FinalBlock] = []
        fault = None
        for block in blocks:
            try:
                final += self.archive.chain.accept(block, is_verified=_was_checked)
            except BadBlock as error:
                fault = error
                if isinstance(error, ForkError):
                    self.fork = error
                    _log.critical("ledger: witnesses made two chains final: %s", error)
                break
        # What held before the wrong block is final, whoever said it.
        if final:
            await self.archive.write(Batch(blocks=tuple(final)))
        if fault is not None:
            raise Untrustworthy(str(fault)) from fault

    def _holds(self, what: bytes | Callable[[], bool]) -> bool:
        return self.archive.store.place(what) is not None if isinstance(what, bytes) else what()

    def _next_source(self) -> AccountId | None:
        sources = self.sources()
        if not sources:
            return None
        self._turn += 1
        return sources[self._turn % len(sources)]


def _was_checked(_entry: Entry) -> bool:
    return True
