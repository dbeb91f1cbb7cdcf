"""From disk to a chain in memory: the newest good snapshot, and the blocks after it judged again (SPEC.md §15.3)."""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Final

from ledger.core.chain import BadBlock, Chain, Tip, UnknownVersionError
from ledger.core.encoding import WireError
from ledger.core.holdings import InvariantError
from ledger.core.merkle import TILE_LEAVES, MerkleLog
from ledger.core.state import LedgerState
from ledger.database import StoreCorruptError, StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.block import Header
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from ledger.store import Store

__all__ = ["load_chain", "load_log"]

LEAVES_PER_READ: Final = 16_384

_log = logging.getLogger(__name__)


def load_chain(store: Store) -> Chain:
    """The chain at the last block on disk.

    Blocks behind the snapshot are judged again by every rule but their entries' signatures. Those are covered: a
    header names the log root, the log covers signatures, and the header's certificate is checked. A snapshot that is
    damaged is dropped with a warning, and the one before it, or genesis, takes its place. `StoreCorruptError` names the
    file and what in it is wrong.
    """
    chain = _newest(store)
    for block in store.all_blocks(chain.tip.height + 1):
        try:
            chain.accept(block, is_verified=_always)
        except UnknownVersionError as error:
            raise StoreError(f"{store.path} cannot be used: {error}") from error
        except BadBlock as error:
            raise store.database.corrupt(f"block {block.header.height}: {error}") from error
        chain.log.forget_leaves(chain.log.size, store.leaf_hashes)
    if chain.tip.height != store.height():
        raise store.database.corrupt(f"the blocks after {chain.tip.height} have no final certificate")
    return chain


def _newest(store: Store) -> Chain:
    """The chain as it was at the newest good snapshot, or at genesis."""
    for found in store.snapshots():
        try:
            state = LedgerState.from_snapshot(store.genesis, store.snapshot(found))
        except (StoreCorruptError, WireError, InvariantError) as error:
            why = error.what if isinstance(error, StoreCorruptError) else error
            _log.warning(
                "ledger: the snapshot of height %d is dropped, it cannot be used: %s", found.height, why
            )
            _mend(partial(store.drop_snapshot, found))
            continue
        block = store.block(found.height)
        if block is None:
            raise store.database.corrupt(f"block {found.height}, which a snapshot belongs to, is missing")
        header = block.header
        tip = Tip(header.slot, header.height, header.hash(store.genesis.network_id), header.time_ms)
        return Chain.resume(store.genesis, state, load_log(store, header), tip)
    if store.first_height > 1:
        raise store.database.corrupt("no snapshot of the state that it began with is left")
    return Chain(store.genesis)


def load_log(store: Store, header: Header) -> MerkleLog:
    """The log that `header` names: from its stored tiles, or, if these are damaged, from its entries."""
    base = store.base_peaks()
    try:
        tiles = store.tile_roots(header.tree_size // TILE_LEAVES)
        log = _fill(store, MerkleLog.restore(base, tiles, store.leaf_hashes), header)
        if log.root() == header.log_root:
            return log
        why = "it has another root than its header says"
    except StoreCorruptError as error:
        why = error.what
    _log.warning("ledger: the stored tree of the log is made again from its entries: %s", why)
    _mend(store.drop_tiles)
    log = _fill(store, MerkleLog(base=base), header)
    if log.root() != header.log_root:
        raise store.database.corrupt(f"the entries up to block {header.height} are not those of its header")
    return log


def _fill(store: Store, log: MerkleLog, header: Header) -> MerkleLog:
    while log.size < header.tree_size:
        for node in store.leaf_hashes(log.size, min(log.size + LEAVES_PER_READ, header.tree_size)):
            log.append_hash(node)
        log.forget_leaves(log.size, store.leaf_hashes)
    return log


def _mend(step: Callable[[], None]) -> None:
    """Take away what is damaged, if the disk lets us: else it is found again at the next start."""
    try:
        step()
    except StoreError as trouble:
        _log.warning("ledger: it stays where it is: %s", trouble)


def _always(_entry: Entry, _key: AccountId) -> bool:
    return True
