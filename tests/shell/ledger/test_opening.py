"""Opening: from the newest good snapshot, from an older one, from genesis, and from a base."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

from ledger import archive as archive_module
from ledger.archive import Archive
from ledger.core.chain import Chain
from ledger.core.snapshot import CHUNK_BYTES, snapshot_chunks
from ledger.opening import load_chain
from ledger.store import Batch, StoreCorruptError, open_store
from tests.core.ledger_ordering.machines import PAYEE, Machine, entry
from tests.shell.ledger.test_store import ONE, damage

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.block import FinalBlock
    from ledger.core.merkle import Peaks

BLOCKS = 290


def always(_entry: object, _key: object) -> bool:
    return True


def grown(count: int) -> tuple[tuple[FinalBlock, ...], list[bytes], list[Peaks]]:
    """Blocks of one entry each, and the state's snapshot and the log's peaks after each, genesis first."""
    machine = Machine(ONE, 0)
    for seq in range(1, count + 1):
        machine.submit(entry(ONE, seq=seq))
    chain = Chain(ONE)
    states, peaks = [chain.state.snapshot()], [chain.log.peaks()]
    for block in machine.final:
        chain.accept(block, is_verified=always)
        states.append(chain.state.snapshot())
        peaks.append(chain.log.peaks())
    return tuple(machine.final), states, peaks


GROWN: list[tuple[tuple[FinalBlock, ...], list[bytes], list[Peaks]]] = []


@pytest.fixture
def ledger() -> tuple[tuple[FinalBlock, ...], list[bytes], list[Peaks]]:
    if not GROWN:
        GROWN.append(grown(BLOCKS))
    return GROWN[0]


Ledger = tuple[tuple["FinalBlock", ...], list[bytes], list["Peaks"]]


async def written(path: Path, blocks: tuple[FinalBlock, ...], snapshots: dict[int, bytes]) -> None:
    """A file as a node leaves it: blocks and tiles through the archive, and these snapshots."""
    with open_store(path, ONE) as store:
        archive = Archive(store, in_thread=False)
        for block in blocks:
            archive.chain.accept(block, is_verified=always)
            await archive.write(Batch(blocks=(block,)))
        for height, data in snapshots.items():
            store.save_snapshot(height, data, certified=False)


def assert_good(chain: Chain, blocks: tuple[FinalBlock, ...], state: bytes) -> None:
    assert chain.tip.height == len(blocks)
    assert chain.state.snapshot() == state
    assert chain.log.size == len(blocks)
    assert chain.log.root() == blocks[-1].header.log_root
    assert chain.state.account(PAYEE.account).balance == 5 * len(blocks)


async def test_a_snapshot_and_the_blocks_after_it_make_the_same_chain(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks, states, _ = ledger
    await written(tmp_path / "a.db", blocks, {100: states[100], 280: states[280]})
    judged: list[int] = []
    accept = Chain.accept
    monkeypatch.setattr(
        Chain,
        "accept",
        lambda self, block, **more: judged.append(block.header.height) or accept(self, block, **more),
    )
    with open_store(tmp_path / "a.db", ONE) as store:
        archive = Archive(store, in_thread=False)
        assert judged == list(range(281, 291))
        assert_good(archive.chain, blocks, states[-1])
        for at in (0, 100, 255, 256, 280, 289):
            receipt = archive.receipt(blocks[at].entries[0].entry_id(ONE.network_id))
            assert receipt is not None
            receipt.verify(ONE)


@pytest.mark.parametrize(
    ("statement", "left", "told"),
    [
        ("UPDATE chunks SET data = zeroblob(100) WHERE height = 280", [100], 1),
        ("DELETE FROM chunks WHERE height = 280", [100], 1),
        ("UPDATE chunks SET data = zeroblob(100)", [], 2),
        ("DELETE FROM tiles", [280, 100], 0),
        ("UPDATE tiles SET root = zeroblob(32)", [280, 100], 1),
    ],
)
async def test_what_is_damaged_is_told_and_replaced(
    tmp_path: Path,
    ledger: Ledger,
    *,
    statement: str,
    left: list[int],
    told: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    blocks, states, _ = ledger
    path = tmp_path / "a.db"
    await written(path, blocks, {100: states[100], 280: states[280]})
    damage(path, statement)
    with caplog.at_level(logging.WARNING), open_store(path, ONE) as store:
        assert_good(load_chain(store), blocks, states[-1])
        assert "move the file away" not in caplog.text, "there is nothing to do"
        assert len(caplog.records) == told
        assert [found.height for found in store.snapshots()] == left
    caplog.clear()
    with caplog.at_level(logging.WARNING), open_store(path, ONE) as store:
        archive = Archive(store, in_thread=False)
        assert_good(archive.chain, blocks, states[-1])
        assert not caplog.records, "what was damaged is gone"
        assert archive.chain.log.inclusion_proof(5)


async def test_a_snapshot_of_another_state_is_found_by_the_next_state_root_or_block(
    tmp_path: Path, ledger: Ledger
) -> None:
    blocks, states, _ = ledger
    await written(tmp_path / "a.db", blocks[:20], {10: states[3]})
    with open_store(tmp_path / "a.db", ONE) as store, pytest.raises(StoreCorruptError, match="block 11"):
        load_chain(store)


async def test_the_archive_writes_a_snapshot_when_the_blocks_weigh_as_much(
    tmp_path: Path, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive_module, "SNAPSHOT_WEIGHT_BYTES_MIN", 5 * (archive_module.BLOCK_BYTES + 193))
    blocks, states, _ = ledger
    await written(tmp_path / "a.db", blocks[:23], {})
    with open_store(tmp_path / "a.db", ONE) as store:
        assert [found.height for found in store.snapshots()] == [20, 15]
        assert store.snapshot(store.snapshots()[0]) == states[20]


async def test_a_certified_snapshot_is_kept_beside_newer_ones(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db", ONE) as store:
        big = bytes(CHUNK_BYTES + 1)
        for height, certified in [
            (1_000, True),
            (2_000, True),
            (2_100, False),
            (3_000, True),
            (3_100, False),
        ]:
            store.save_snapshot(height, big, certified=certified)
        store.save_snapshot(3_200, b"small", certified=False)
    with open_store(tmp_path / "a.db", ONE) as store:
        found = [(each.height, each.certified, each.chunks) for each in store.snapshots()]
        assert found == [(3_200, False, 1), (3_100, False, 2), (3_000, True, 2), (2_000, True, 2)]
        assert store.snapshot_chunk(2_000, 1) == b"\0"
        for height, chunk in [(2_000, 2), (2_000, -1), (1_000, 0), (2_100, 0)]:
            with pytest.raises(IndexError):
                store.snapshot_chunk(height, chunk)
        assert store.database.read("SELECT count(*) FROM chunks") == [(7,)]


@pytest.mark.parametrize("base", [1, 255, 256, 270])
async def test_a_store_that_begins_at_a_snapshot(tmp_path: Path, ledger: Ledger, base: int) -> None:
    blocks, states, peaks = ledger
    path = tmp_path / "a.db"
    with open_store(path, ONE) as store:
        with pytest.raises(ValueError, match="another log"):
            store.begin(blocks[base - 1], states[base], peaks[base + 1])
        store.begin(blocks[base - 1], states[base], peaks[base])
        with pytest.raises(ValueError, match="empty"):
            store.begin(blocks[base - 1], states[base], peaks[base])
        archive = Archive(store, in_thread=False)
        assert (store.height(), store.first_height, store.first_leaf) == (base, base, base)
        for block in blocks[base:]:
            archive.chain.accept(block, is_verified=always)
            await archive.write(Batch(blocks=(block,)))
    with open_store(path, ONE) as store:
        archive = Archive(store, in_thread=False)
        assert_good(archive.chain, blocks, states[-1])
        assert store.block(base - 1) is None
        assert store.block(base) == blocks[base - 1]
        assert [block.header.height for block in archive.blocks(1, 2)] == [base, base + 1]
        for at in range(base, BLOCKS, 13):
            receipt = archive.receipt(blocks[at].entries[0].entry_id(ONE.network_id))
            assert receipt is not None
            receipt.verify(ONE)
        assert archive.receipt(blocks[base - 1].entries[0].entry_id(ONE.network_id)) is None
    if base == 1:
        return  # the first block is there, so genesis will do
    damage(path, "UPDATE chunks SET data = zeroblob(100)")
    with open_store(path, ONE) as store, pytest.raises(StoreCorruptError, match="no snapshot of the state"):
        load_chain(store)


def test_chunks_are_those_of_the_state_root() -> None:
    assert [len(chunk) for chunk in snapshot_chunks(bytes(CHUNK_BYTES * 2 + 3))] == [
        CHUNK_BYTES,
        CHUNK_BYTES,
        3,
    ]


@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("SELECT 1", ""),
        ("UPDATE blocks SET data = zeroblob(9) WHERE height = 77", "block 77 does not have the checksum"),
        ("DELETE FROM blocks WHERE height = 78", "block 78 is missing"),
        ("UPDATE tiles SET root = zeroblob(32)", "tile 0 of the log"),
        ("DELETE FROM chunks WHERE height = 100", "chunk 0 of the snapshot of height 100 is missing"),
    ],
)
async def test_the_scrub_finds_what_rots_while_nobody_reads_it(
    tmp_path: Path, ledger: Ledger, statement: str, what: str, autojump_clock: object
) -> None:
    blocks, states, _ = ledger
    await written(tmp_path / "a.db", blocks, {100: states[100], 280: states[280]})
    with open_store(tmp_path / "a.db", ONE) as store:
        archive = Archive(store, in_thread=False)
        damage(tmp_path / "a.db", statement)
        await archive.scrub()
        assert what in archive.damage
        assert bool(archive.damage) is bool(what)
        assert not archive.trouble
        assert_good(archive.chain, blocks, states[-1])
