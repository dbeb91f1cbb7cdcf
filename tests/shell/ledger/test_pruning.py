"""A node that keeps the recent past alone: old blocks go while it runs, its own receipts and what others need stay."""

from __future__ import annotations

import shutil
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ledger.archive import Archive
from ledger.auditing import audit_file
from ledger.core.handover import Handover
from ledger.core.keys import AccountId
from ledger.core.receipt import Receipt
from ledger.core.requests import BlocksFrom, ReceiptOf, SnapshotOffer, decode_answer, encode_request
from ledger.join import Joining
from ledger.proofs import handover_of
from ledger.pruning import HISTORY_KEPT_MS, Pruner, Retention
from ledger.service import LedgerService
from ledger.store import Batch, Store, StoreFullError, open_store
from ledger.sync import Follower
from tests.shell.ledger.long_ledger import (
    HEIGHT,
    MANY_AT,
    NETWORK,
    PAY_AT,
    REKEY_AT,
    ROTATE_AT,
    LongLedger,
    long_ledger,
)

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

LENGTH, BASE = 3_003, 2_000
SHORT = Retention(history_ms=500_000, state_roots=1)
"""Five hundred blocks of a second each."""
OWN = (1, MANY_AT, REKEY_AT, ROTATE_AT, 12, PAY_AT, LENGTH)
SOURCE = AccountId(b"s" * 32)


@cache
def ledger() -> LongLedger:
    return LongLedger(LENGTH)


@pytest.fixture(scope="module")
def full_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with all blocks, whose node signed some of the entries."""
    path = tmp_path_factory.mktemp("full") / "full.db"

    async def write() -> None:
        with open_store(path, NETWORK) as store:
            archive = Archive(store, in_thread=False)
            for height in OWN:
                store.save_signed(ledger().blocks[height - 1].entries[0])
            for start in range(0, LENGTH, 500):
                blocks = ledger().blocks[start : start + 500]
                for block in blocks:
                    archive.chain.accept(block, is_verified=lambda _entry, _key: True)
                    if not block.header.height % 1_000 or block is blocks[-1]:
                        await archive.write(
                            Batch(blocks=tuple(ledger().blocks[archive.height : block.header.height]))
                        )

    trio.run(write)
    return path


@pytest.fixture
def path(tmp_path: Path, full_path: Path) -> Path:
    for part in full_path.parent.iterdir():
        shutil.copy(part, tmp_path)
    return tmp_path / full_path.name


async def nobody(_entry_id: bytes) -> None:
    return None


def asked_of(archive: Archive) -> Any:
    """Requests that this archive's service answers."""
    service = LedgerService(archive)

    async def request(_source: AccountId, body: bytes, _timeout_s: float) -> bytes:
        return await service.answer(SOURCE, body)

    return request


async def prune(archive: Archive) -> None:
    pruner = Pruner(archive, nobody, SHORT)
    height = pruner.due()
    assert height == BASE
    assert await pruner.save_receipts(height)
    pruner.move(height)
    await pruner.discard()


def assert_pruned(archive: Archive) -> None:
    store, blocks = archive.store, ledger().blocks
    assert (store.first_height, store.height(), archive.chain.tip) == (BASE, LENGTH, ledger().chain.tip)
    assert store.block(BASE - 1) is None
    assert store.block(BASE) == blocks[BASE - 1]
    assert archive.chain.log.root() == blocks[-1].header.log_root
    assert archive.chain.state.snapshot() == ledger().chain.state.snapshot()
    for height in OWN[:-1]:
        receipt = archive.receipt(ledger().entry_id(height))
        assert receipt is not None
        assert store.is_final(ledger().entry_id(height))
        Receipt.decode(receipt.encode()).verify(NETWORK)  # offline: with genesis alone
    assert archive.receipt(ledger().entry_id(2)) is None, "nobody here signed it"
    assert not store.is_final(ledger().entry_id(2))
    handover = handover_of(archive, 0)
    assert isinstance(handover, Handover)


def rows(store: Store, table: str) -> int:
    return int(store.database.read(f"SELECT count(*) FROM {table}")[0][0])  # noqa: S608 - a name, from here


async def test_old_blocks_go_and_own_receipts_stay(path: Path, autojump_clock: MockClock) -> None:
    with open_store(path, NETWORK) as store:
        archive = Archive(store, in_thread=False)
        await prune(archive)
        assert_pruned(archive)
        assert rows(store, "blocks") == LENGTH - BASE + 1
        assert Pruner(archive, nobody, SHORT).due() is None
        free, pages = (
            store.database.read(f"PRAGMA {name}")[0][0] for name in ("freelist_count", "page_count")
        )
        assert free > pages * 0.3, "and what they took is used again"
        await archive.scrub()
        assert not archive.damage
        # On with it: the index and the log go on from where they were.
        archive.chain.log.consistency_proof(archive.chain.log.size - 1)
    with open_store(path, NETWORK) as store:
        assert_pruned(Archive(store, in_thread=False))
    report = audit_file(path, NETWORK, cores=1)
    assert report.ok, report.violation
    assert (report.base_height, report.base_proven) == (BASE, True)


async def test_the_default_keeps_what_a_dispute_may_need(path: Path) -> None:
    with open_store(path, NETWORK) as store:
        archive = Archive(store, in_thread=False)
        assert Pruner(archive, nobody).due() is None
        assert Pruner(archive, nobody, Retention(history_ms=0, state_roots=9)).due() is None
        # Never beyond the oldest certified state: there is always one to open from, and one to offer.
        assert Pruner(archive, nobody, Retention(history_ms=0, state_roots=0)).due() == BASE
        assert HISTORY_KEPT_MS >= 60 * 86_400_000


@pytest.mark.parametrize("step", ["receipts", "base", "discard"])
async def test_a_crash_in_between_loses_nothing(path: Path, step: str, autojump_clock: MockClock) -> None:
    with open_store(path, NETWORK) as store:
        archive = Archive(store, in_thread=False)
        pruner = Pruner(archive, nobody, SHORT)
        assert await pruner.save_receipts(BASE)
        if step != "receipts":
            pruner.move(BASE)
            assert_pruned(archive)
        if step == "discard":
            assert store.discard()
            assert 0 < rows(store, "blocks") < LENGTH
    with open_store(path, NETWORK) as store:
        archive = Archive(store, in_thread=False)
        if step == "receipts":
            assert store.first_height == 1
            await prune(archive)
        else:
            assert_pruned(archive)
            await archive.scrub()
            assert not archive.damage
            await Pruner(archive, nobody, SHORT).discard()
        assert_pruned(archive)
        assert rows(store, "blocks") == LENGTH - BASE + 1
        assert not store.discard()


async def test_a_disk_that_refuses_leaves_the_base(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path, NETWORK) as store:
        archive = Archive(store, in_thread=False)

        def fail(*_: object) -> None:
            raise StoreFullError("the disk is full")

        monkeypatch.setattr(store, "_write_head", fail)
        with pytest.raises(StoreFullError):
            Pruner(archive, nobody, SHORT).move(BASE)
        monkeypatch.undo()
        assert store.first_height == 1
        receipt = archive.receipt(ledger().entry_id(2))
        assert receipt is not None
        receipt.verify(NETWORK)
        await prune(archive)
        assert_pruned(archive)


async def test_without_a_receipt_nothing_is_pruned(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_store(path, NETWORK) as store:
        archive = Archive(store, in_thread=False)
        pruner = Pruner(archive, nobody, SHORT)
        monkeypatch.setattr(archive, "receipt", lambda _entry_id: None)
        assert not await pruner.save_receipts(BASE)


async def test_a_pruned_node_serves_its_snapshot_and_says_what_it_lacks(
    path: Path, tmp_path: Path, autojump_clock: MockClock
) -> None:
    with open_store(path, NETWORK) as store, open_store(tmp_path / "joined.db", NETWORK) as empty:
        archive = Archive(store, in_thread=False)
        await prune(archive)
        for found in store.snapshots():  # as if no later state had been worth a snapshot yet
            if found.height > BASE:
                store.drop_snapshot(found)
        request = asked_of(archive)
        joined = Archive(empty, in_thread=False)
        assert await Joining(joined, request).attempt([SOURCE])
        assert joined.height == BASE
        # And who began there can offer that very snapshot to the next.
        with open_store(tmp_path / "third.db", NETWORK) as another:
            third = Archive(another, in_thread=False)
            assert await Joining(third, asked_of(joined)).attempt([SOURCE])
            assert (third.height, third.chain.tip) == (BASE, joined.chain.tip)
            assert third.chain.state.snapshot() == joined.chain.state.snapshot()
        for question in (BlocksFrom(BASE - 1), ReceiptOf(ledger().entry_id(2))):
            assert b"pruned" in await request(SOURCE, encode_request(question), 1)
        assert decode_answer(await request(SOURCE, encode_request(SnapshotOffer()), 1))["found"]


async def test_a_follower_prunes_while_it_runs(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It begins at genesis, as the network is young, and pulls block after block."""
    monkeypatch.setattr("ledger.pruning.LOOK_S", 0.02)
    monkeypatch.setattr("ledger.pruning.DISCARD_PAUSE_S", 0.0)
    with open_store(path, NETWORK) as store, open_store(tmp_path / "own.db", NETWORK) as own:
        archive = Archive(own)
        request = asked_of(Archive(store, in_thread=False))
        for block in long_ledger().blocks:
            archive.chain.accept(block, is_verified=lambda _entry, _key: True)
        await archive.write(Batch(blocks=tuple(long_ledger().blocks)))
        for height in OWN[:-2]:
            own.save_signed(long_ledger().blocks[height - 1].entries[0])
        assert archive.height == HEIGHT
        follower = Follower(
            NETWORK, own, lambda: [SOURCE], request, archive=archive, is_recent=True, retention=SHORT
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(follower.run)
            assert await follower.wait_for(lambda: follower.head.height == LENGTH, 60)
            with trio.fail_after(20):
                while rows(own, "blocks") != LENGTH - BASE + 1:  # noqa: ASYNC110 - nobody tells when it is through
                    await trio.sleep(0.02)
            nursery.cancel_scope.cancel()
        for height in OWN[:-2]:
            receipt = follower.receipt(ledger().entry_id(height))
            assert receipt is not None
            receipt.verify(NETWORK)
