"""A ledger of a thousand blocks and two epochs, made once: long enough for a state root, with a state of two chunks."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from ledger.core.block import Certificate, FinalBlock, sign_vote
from ledger.core.chain import Chain
from ledger.core.encoding import Kind
from ledger.core.entries import (
    NO_APPROVALS,
    NO_KEY,
    Approvals,
    Entry,
    Rekey,
    Rotate,
    Transfer,
    sign_decree,
    sign_entry,
    sign_rekey,
)
from ledger.core.genesis import Genesis
from ledger.core.keys import SigningKey
from ledger.store import Batch, Store, open_store

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.entries import Action

CREATED_MS = 1_700_000_000_000
FIRST, SECOND, RICH, NEW_KEY, GOVERNOR = (SigningKey(bytes((number,)) * 32) for number in range(1, 6))
NETWORK = Genesis(
    name="long",
    created_ms=CREATED_MS,
    witnesses=(FIRST.account,),
    limits=((RICH.account, 1 << 40),),
    governors=(GOVERNOR.account,),
    governors_needed=1,
)
MANY_AT, REKEY_AT, ROTATE_AT, PAY_AT = 5, 8, 10, 998
BASE = 1_000
HEIGHT = 1_003
MANY = 700


class LongLedger:
    """The chain as its lone witnesses made it."""

    def __init__(self, height: int, rotate_at: int = ROTATE_AT) -> None:
        self._rotate_at = rotate_at
        self.chain = Chain(NETWORK)
        self.blocks: list[FinalBlock] = []
        self.snapshot = b""
        self._seq = 0
        for at in range(1, height + 1):
            self._add(at)
            if at == BASE:
                self.snapshot = self.chain.state.snapshot()

    def entry_id(self, height: int) -> bytes:
        """The id of the first entry in the block of `height`."""
        return self.blocks[height - 1].entries[0].entry_id(NETWORK.network_id)

    def _add(self, height: int) -> None:
        chain = self.chain
        key = FIRST if chain.committee.epoch == 0 else SECOND
        waiting = [(b"", entry) for entry in self._entries(height)]
        made = chain.build(chain.tip.block_hash, chain.tip.slot + 1, CREATED_MS + 1000 * height, waiting)
        chain.add(made)
        tip = made.tip
        vote = sign_vote(key, chain.committee, Kind.FINAL, slot=tip.slot, block_hash=tip.block_hash)
        made.certificate = Certificate.from_votes([vote], chain.committee)
        self.blocks += chain.finalise(tip.block_hash)

    def _entries(self, height: int) -> list[Entry]:
        network_id = NETWORK.network_id
        if height == MANY_AT:
            payees = [SigningKey(number.to_bytes(32, "little")).account for number in range(1, MANY + 1)]
            return [self._sign(Transfer(account, 5)) for account in payees]
        if height == REKEY_AT:
            proof = sign_rekey(NEW_KEY, network_id, RICH.account, 1, NO_KEY)
            return [self._sign(Rekey(NEW_KEY.account, NO_KEY, proof), seq=1)]
        if height == self._rotate_at:
            wanted = Rotate(1, (SECOND.account,), NO_APPROVALS)
            approved = Approvals(1, (sign_decree(GOVERNOR, network_id, wanted),))
            return [self._sign(Rotate(1, wanted.witnesses, approved), by=NEW_KEY)]
        if height < 20 or height >= PAY_AT:
            return [self._sign(Transfer(FIRST.account, height), by=RICH if height < REKEY_AT else NEW_KEY)]
        return []

    def _sign(self, action: Action, *, by: SigningKey = RICH, seq: int | None = None) -> Entry:
        if seq is None:
            seq = self._seq = self._seq + 1
        return sign_entry(
            by,
            NETWORK.network_id,
            seq=seq,
            not_after_ms=CREATED_MS + 3_600_000,
            fee=0,
            action=action,
            account=RICH.account,
        )


@cache
def long_ledger() -> LongLedger:
    """The whole of it."""
    return LongLedger(HEIGHT)


@cache
def late_ledger() -> LongLedger:
    """The same network, had its committee changed after the state root only."""
    return LongLedger(HEIGHT, rotate_at=BASE + 2)


def archive_store(path: Path, height: int = HEIGHT) -> Store:
    """A store with every block up to `height`, and the snapshot if it has come so far."""
    store = open_store(path, NETWORK)
    store.write(Batch(blocks=tuple(long_ledger().blocks[:height])))
    if height >= BASE:
        store.save_snapshot(BASE, long_ledger().snapshot, certified=True)
    return store
