"""Looking entries up by id and leaf, evidence by number, and what a lost row or a cut write-ahead file says."""

from __future__ import annotations

import shutil
import sqlite3
from typing import TYPE_CHECKING

import pytest

from ledger import places
from ledger.core.merkle import leaf_hash
from ledger.store import Batch, Place, StoreCorruptError, StoreError, open_store
from tests.shell.ledger.test_store import ONE, damage, final_blocks

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def small_segments(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven entries a segment, three a page: every border in forty blocks."""
    monkeypatch.setattr(places, "SEGMENT_ENTRIES", 7)
    monkeypatch.setattr(places, "PAGE_RECORDS", 3)
    monkeypatch.setattr(places, "SEGMENT_PAGES", 3)
    monkeypatch.setattr(places, "_FENCE", places.struct.Struct(">3I"))


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("blocks_per_batch", [1, 5, 40])
def test_every_entry_is_found_in_every_segment(tmp_path: Path, blocks_per_batch: int) -> None:
    blocks = final_blocks(40)
    with open_store(tmp_path / "a.db", ONE) as store:
        for at in range(0, 40, blocks_per_batch):
            store.write(Batch(blocks=blocks[at : at + blocks_per_batch]))
            for leaf, block in enumerate(blocks[: at + blocks_per_batch]):
                assert store.place(block.entries[0].entry_id(ONE.network_id)) == Place(leaf + 1, leaf)
    with open_store(tmp_path / "a.db", ONE) as store:
        for leaf, block in enumerate(blocks):
            entry = block.entries[0]
            assert store.place(entry.entry_id(ONE.network_id)) == Place(leaf + 1, leaf)
            assert store.entry(leaf) == (Place(leaf + 1, leaf), entry)
            assert store.leaf_hashes(leaf, leaf + 1) == [leaf_hash(entry.encode())]
        assert len(store.leaf_hashes(3, 37)) == 34
        assert store.place(bytes(32)) is None
        with pytest.raises(IndexError):
            store.entry(40)


@pytest.mark.usefixtures("small_segments")
def test_prefixes_that_many_entries_share_only_cost_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(places.Places, "_prefix", lambda _self, entry_id: bytes((0, 0, 0, entry_id[0] & 1)))
    blocks = final_blocks(24)
    for opening in range(2):
        with open_store(tmp_path / "a.db", ONE) as store:
            store.write(Batch(blocks=blocks[: 12 * (opening + 1)]))
            for leaf, block in enumerate(blocks[: 12 * (opening + 1)]):
                assert store.place(block.entries[0].entry_id(ONE.network_id)) == Place(leaf + 1, leaf)
            assert store.place(bytes(32)) is None


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM fresh",
        "DELETE FROM segments WHERE segment = 1",
        "UPDATE segments SET fences = zeroblob(12) WHERE segment = 0",
        "UPDATE fresh SET prefixes = zeroblob(4)",
        "DELETE FROM head",
        "UPDATE head SET data = zeroblob(200)",
        "UPDATE head SET checksum = zeroblob(8)",
    ],
)
def test_a_damaged_index_is_found_when_the_store_opens(tmp_path: Path, statement: str) -> None:
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(blocks=final_blocks(20)))
    damage(tmp_path / "a.db", statement)
    with pytest.raises(StoreCorruptError, match="move the file away"):
        open_store(tmp_path / "a.db", ONE)


@pytest.mark.usefixtures("small_segments")
@pytest.mark.parametrize("statement", ["DELETE FROM places", "UPDATE places SET records = zeroblob(18)"])
def test_a_damaged_page_is_found_when_it_is_read(tmp_path: Path, statement: str) -> None:
    blocks = final_blocks(20)
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(blocks=blocks))
    damage(tmp_path / "a.db", statement)
    with (
        open_store(tmp_path / "a.db", ONE) as store,
        pytest.raises(StoreCorruptError, match="index of entries"),
    ):
        store.place(blocks[0].entries[0].entry_id(ONE.network_id))


def test_evidence_is_kept_once_in_order_and_to_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.rows.EVIDENCE_MAX", 4)
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(evidence=(b"b", b"a")))
        store.write(Batch(evidence=(b"a", b"c")))
        store.write(Batch(evidence=(b"d", b"e")))
    with open_store(tmp_path / "a.db", ONE) as store:
        assert store.evidence() == [(1, b"b"), (2, b"a"), (3, b"c"), (4, b"d")]
        assert store.evidence(after=2, count_max=1) == [(3, b"c")]


def test_notes_are_kept(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db", ONE) as store:
        assert store.note(b"light") is None
        store.save_note(b"light", b"one")
        store.save_note(b"light", b"two")
    with open_store(tmp_path / "a.db", ONE) as store:
        assert store.note(b"light") == b"two"


def test_a_lost_write_ahead_file_is_noticed(tmp_path: Path) -> None:
    path, copy = tmp_path / "a.db", tmp_path / "copy" / "a.db"
    copy.parent.mkdir()
    with open_store(path, ONE) as store:
        store.write(Batch(blocks=final_blocks(1)))
    with open_store(path, ONE) as store:
        store.write(Batch(blocks=final_blocks(2)))
        shutil.copy(path, copy)  # the second write is in the write-ahead file only
        shutil.copy(f"{path}-mark", f"{copy}-mark")
    with pytest.raises(StoreCorruptError, match="its last 1 transactions are gone"):
        open_store(copy, ONE)
    (copy.parent / "a.db-mark").unlink()
    with open_store(copy, ONE) as store:
        assert store.height() == 1, "without the mark, it is a database of an earlier time"


def test_the_mark_of_another_store_or_a_torn_one_says_nothing(tmp_path: Path) -> None:
    path, mark = tmp_path / "a.db", tmp_path / "a.db-mark"
    for number in range(2):
        with open_store(path, ONE) as store:
            for _ in range(3 - number):
                store.save_note(b"n", b"")
        path.unlink()
    open_store(path, ONE).close()
    data = mark.read_bytes()
    for size in range(len(data)):
        mark.write_bytes(data[:size])
        open_store(path, ONE).close()


def test_a_vanished_vote_is_found(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db", ONE) as store:
        store.save_note(b"light", b"one")
        store.save_note(b"other", b"two")
    damage(tmp_path / "a.db", "DELETE FROM drawers WHERE key = ?", b"light")
    with pytest.raises(StoreCorruptError, match="rows of NOTES are missing"):
        open_store(tmp_path / "a.db", ONE)


def test_a_format_1_file_says_what_to_do(tmp_path: Path) -> None:
    open_store(tmp_path / "a.db", ONE).close()
    connection = sqlite3.connect(tmp_path / "a.db")
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(StoreError, match=r"has format 1, .* reads format 2: .* move the file away"):
        open_store(tmp_path / "a.db", ONE)
