"""Following the ledger from outside: pull final blocks, trust nobody, keep what holds (SPEC.md §15).

A follower checks every certificate, every signature and every rule itself, so any witness, honest or not, will do
as a source: a lying one is found at its first wrong byte, a dead or silent one costs one timeout.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from ledger.archive import Archive
from ledger.asking import ANSWER_S, Request, Unavailable, Untrustworthy, ask, byte_strings
from ledger.core.block import FinalBlock
from ledger.core.chain import BadBlock, Tip, UnknownVersionError
from ledger.core.encoding import WireError
from ledger.core.entries import Rekey, verify_entry
from ledger.core.heads import certify
from ledger.core.keys import AccountId, peer_id
from ledger.core.receipt import Receipt, ReceiptError
from ledger.core.requests import BlocksFrom, ReceiptOf, field
from ledger.join import Joining
from ledger.pruning import Pruner
from ledger.store import Batch, Store
from ledger.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator, Sequence

    from ledger.core.chain import IsVerified
    from ledger.core.committee import Committee
    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Entry
    from ledger.core.genesis import Genesis
    from ledger.core.light import SplitView
    from ledger.core.state import LedgerState, Moment
    from ledger.pruning import Retention

__all__ = ["HEDGE_S", "POLL_WAIT_MS", "Follower", "Request", "Untrustworthy", "pull_blocks"]

POLL_WAIT_MS: Final = 2_000
"""How long a source may hold a request open for a block to come. After an empty answer another source is asked, so a
source that is cut off from the rest hides new blocks no longer than this."""
HEDGE_S: Final = 0.3
"""A source that answered nothing for this long gets company."""
ENTRIES_CHECKED_INLINE_MAX: Final = 32
"""More signatures than this, about 4 ms, are checked in a thread: the node's other tasks go on meanwhile."""
WATCH_S: Final = 10.0
"""How often the head of a source, each time another one's, is compared with ours."""
PAUSE_S_MIN: Final = 0.05
PAUSE_S_MAX: Final = 2.0

_log = logging.getLogger(__name__)


async def pull_blocks(
    request: Request, source: AccountId, from_height: int, wait_ms: int
) -> tuple[FinalBlock, ...]:
    """Final blocks from `from_height` on as `source` has them: only their heights are checked, the rest is
    `Chain.accept`'s.

    `Untrustworthy` if an answer is malformed, or of other heights: whoever repeats what is known, without end, would
    never be left. ConnectionError or TimeoutError as `request` raises them.
    """
    fields = await ask(request, source, BlocksFrom(from_height, wait_ms=wait_ms), wait_ms / 1000 + ANSWER_S)
    try:
        blocks = tuple(FinalBlock.decode(data) for data in byte_strings(fields, "blocks"))
    except WireError as error:
        raise Untrustworthy(str(error)) from error
    if any(block.header.height != height for height, block in enumerate(blocks, from_height)):
        raise Untrustworthy(f"blocks of other heights than those from {from_height} on")
    return blocks


async def check_ahead(blocks: Sequence[FinalBlock], state: LedgerState) -> IsVerified:
    """Check the signatures of `blocks`, many of them in a thread; what it answers is for `Chain.accept`.

    It guesses from `state` and the REKEYs on the way which key must have signed each entry. A wrong guess, like a wrong
    signature, vouches for nothing: `Chain.accept` then checks the entry itself.
    """
    guessed = _guess_keys(blocks, state)
    if len(guessed) > ENTRIES_CHECKED_INLINE_MAX:
        signed = await trio.to_thread.run_sync(_signed_by, guessed, state.genesis.network_id)
    else:
        signed = _signed_by(guessed, state.genesis.network_id)
    # By the identity of the object: the caller holds the blocks, and no other entry can have it meanwhile.
    return lambda entry, key: signed.get(id(entry)) == key


def _guess_keys(blocks: Sequence[FinalBlock], state: LedgerState) -> list[tuple[Entry, AccountId]]:
    rekeyed: dict[AccountId, AccountId] = {}
    guessed = []
    for block in blocks:
        for entry in block.entries:
            key = rekeyed.get(entry.account)
            guessed.append((entry, state.signer(entry) if key is None else key))
            if isinstance(entry.action, Rekey):
                rekeyed[entry.account] = entry.action.new_key
    return guessed


def _signed_by(guessed: list[tuple[Entry, AccountId]], network_id: NetworkId) -> dict[int, AccountId]:
    return {id(entry): key for entry, key in guessed if verify_entry(entry, network_id, key)}


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
        is_recent: bool = False,
        retention: Retention | None = None,
    ) -> None:
        """`sources()` names the witnesses that can be reached now. Replays `store`; `StoreError` if that fails.

        With `is_recent`, an empty ledger begins at the newest snapshot that a source has, not at genesis, and what is
        older than `retention` (the default: HISTORY_KEPT_MS, STATE_ROOTS_KEPT) is pruned while it runs.
        """
        self.genesis = genesis
        self.archive = Archive(store) if archive is None else archive
        self.request = request
        self.sources = sources
        self._turn = 0
        self.watch = Watch(self.archive, request)
        self._is_recent = is_recent
        self._pruner = Pruner(self.archive, self.fetch_receipt, retention) if is_recent else None
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
    def fork(self) -> SplitView | None:
        """Proof that more than f witnesses lied, once a source has shown it: tell the owner, rely on nothing new."""
        return self.watch.split

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

    async def fetch_receipt(self, entry_id: bytes) -> Receipt | None:
        """The receipt of an entry, from here or, where this ledger began after it, from any source that has it.

        None if nobody who answers has one that holds. It is verified, whoever sent it.
        """
        receipt = self.receipt(entry_id)
        if receipt is not None or self.archive.store.first_height <= 1:
            return receipt
        for source in self.sources():
            try:
                return await self._receipt_from(source, entry_id)
            except (ConnectionError, TimeoutError, trio.TooSlowError) as error:
                _log.debug("ledger: %s has no receipt: %s", peer_id(source), error)
            except Untrustworthy as error:
                _log.warning("ledger: %s is not believed: %s", peer_id(source), error)
        return None

    async def _receipt_from(self, source: AccountId, entry_id: bytes) -> Receipt:
        fields = await ask(self.request, source, ReceiptOf(entry_id))
        try:
            data = field(fields, "receipt", bytes)
            if not data:
                raise Unavailable("not_final", "the entry is not final there")
            receipt = Receipt.decode(data)
            receipt.verify(self.genesis, self.committee)
        except (WireError, ReceiptError) as error:
            raise Untrustworthy(f"a receipt: {error}") from error
        if receipt.entry.entry_id(self.genesis.network_id) != entry_id:
            raise Untrustworthy("a receipt of another entry")
        return receipt

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
        if self._is_recent and not self.archive.height:
            await self._begin()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pull_when_slow)
            nursery.start_soon(self._watch_sources)
            if self._pruner is not None:
                nursery.start_soon(self._pruner.run, self._turnstile)
            while True:
                await self._pull_from_all()

    async def _begin(self) -> None:
        """Take in the newest snapshot of any source; if all of them have none, the ledger is young: pull it whole."""
        joining = Joining(self.archive, self.request)
        while True:
            if await joining.attempt(self.sources()):
                return
            await trio.sleep(PAUSE_S_MAX)

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
                answers = await self._heed(source, self._pull_from)
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
                await self._heed(source, self._pull_from)

    async def _watch_sources(self) -> None:
        """Now and then, look whether a source is of our chain, and what evidence it holds."""
        while True:
            source = self._next_source()
            if source is not None:
                await self._heed(source, self.watch.visit)
            await trio.sleep(WATCH_S)

    async def _heed(self, source: AccountId, question: Callable[[AccountId], Awaitable[None]]) -> bool:
        """Ask a source; False if it failed or lied."""
        try:
            await question(source)
        except (ConnectionError, TimeoutError, trio.TooSlowError) as error:
            _log.debug("ledger: %s does not answer: %s", peer_id(source), error)
            return False
        except Untrustworthy as error:
            _log.warning("ledger: %s is not believed: %s", peer_id(source), error)
            return False
        return True

    async def _pull_from(self, source: AccountId) -> None:
        """Take blocks from `source` until it has no new one."""
        chain = self.archive.chain
        height = chain.tip.height + 1
        while True:
            blocks = await pull_blocks(self.request, source, height, POLL_WAIT_MS)
            if not blocks:
                return
            if self._asking is not None and self._asking[0] == source:
                self._asking = (source, trio.current_time())
            is_verified = await check_ahead(blocks, chain.state)
            try:
                with trio.CancelScope(shield=True):  # what was accepted in memory must reach the disk
                    async with self._turnstile:  # in order of height
                        await self._accept(blocks, is_verified)
            except Untrustworthy:
                if self.fork is not None:
                    await self._ask_for_rival(source)
                raise
            height = blocks[-1].header.height + 1

    async def _accept(self, blocks: tuple[FinalBlock, ...], is_verified: IsVerified) -> None:
        final: list[FinalBlock] = []
        fault: BadBlock | None = None
        unknown, at = False, 0
        for at, block in enumerate(blocks):  # noqa: B007 - where the wrong block is, is asked below
            try:
                final += self.archive.chain.accept(block, is_verified=is_verified)
            except UnknownVersionError as error:
                _log.error("ledger: %s", error)
                unknown = True
                break
            except BadBlock as error:
                fault = error
                break
        # What held before the wrong block is final, whoever said it.
        if final:
            await self.archive.write(Batch(blocks=tuple(final)))
        if fault is not None:
            theirs = certify(blocks[at:])
            if theirs is not None:
                await self.watch.note_fork(theirs)
            raise Untrustworthy(str(fault)) from fault
        if unknown:
            raise TimeoutError("nothing more can be taken before an update")

    async def _ask_for_rival(self, source: AccountId) -> None:
        """Ask for the block that `source` has at the height of our last one: two of one slot name their signers."""
        rivals = await pull_blocks(self.request, source, self.archive.height, 0)
        theirs = certify(rivals)
        if theirs is not None:
            await self.watch.note_fork(theirs)

    def _holds(self, what: bytes | Callable[[], bool]) -> bool:
        return self.archive.store.is_final(what) if isinstance(what, bytes) else what()

    def _next_source(self) -> AccountId | None:
        sources = self.sources()
        if not sources:
            return None
        self._turn += 1
        return sources[self._turn % len(sources)]
