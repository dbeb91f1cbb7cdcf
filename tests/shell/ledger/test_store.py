"""The ledger file: what survives, what is refused, and what each kind of damage says."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ledger.core.encoding import Kind
from ledger.core.entries import Transfer, sign_entry
from ledger.core.events import PersistVote
from ledger.database import checksum
from ledger.opening import load_chain
from ledger.store import (
    Batch,
    StoreCorruptError,
    StoreError,
    StoreFullError,
    WrongNetworkError,
    open_store,
)
from tests.core.ledger_ordering.machines import PAYEE, PAYER, WALL_MS, Machine, entry, genesis, vote

if TYPE_CHECKING:
    from ledger.blocks import Head
    from ledger.core.block import FinalBlock

ONE = genesis(1)


def final_blocks(count: int) -> tuple[FinalBlock, ...]:
    machine = Machine(ONE, 0)
    for seq in range(1, count + 1):
        machine.submit(entry(ONE, seq=seq))
    return tuple(machine.final)


def damage(path: Path, statement: str, *values: object) -> None:
    connection = sqlite3.connect(path)
    with connection:
        connection.execute(statement, values)
    connection.close()


def test_blocks_come_back_as_the_same_chain(tmp_path: Path) -> None:
    blocks = final_blocks(5)
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(blocks=blocks[:3]))
        store.write(Batch(blocks=blocks[3:]))
    with open_store(tmp_path / "a.db", ONE) as store:
        chain = load_chain(store)
        assert (chain.tip.height, chain.log.size) == (5, 5)
        assert chain.state.account(PAYEE.account).balance == 25
        assert store.block(3) == blocks[2]
        assert store.block(6) is None
        place = store.place(blocks[3].entries[0].entry_id(ONE.network_id))
        assert place is not None
        assert (place.height, place.leaf) == (4, 3)
        assert store.blocks(2, 64, 0) == [blocks[1].encode()], "at least one, whatever its size"


def test_votes_are_kept_until_their_slot_is_final(tmp_path: Path) -> None:
    machine = Machine(ONE, 0)
    machine.submit(entry(ONE))
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(votes=tuple(machine.persisted)))
        saved = store.load_saved(ONE.committee)
        assert set(saved.votes) == {item.vote for item in machine.persisted}
        assert saved.proposals == tuple(machine.proposals() or [machine.persisted[0].proposal])
        store.write(Batch(blocks=tuple(machine.final)))
        saved = store.load_saved(ONE.committee)
        assert (saved.votes, saved.proposals) == ((), ())
        assert saved.final_certificate == machine.final[0].certificate


def test_a_lone_witness_that_crashed_after_its_votes_finalises_the_same_block(tmp_path: Path) -> None:
    before = Machine(ONE, 0)
    before.submit(entry(ONE))
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(votes=tuple(before.persisted)))  # and dies before the block is written
    with open_store(tmp_path / "a.db", ONE) as store:
        after = Machine(ONE, 0, store.load_saved(ONE.committee))
        after.submit(entry(ONE, amount=9))
        assert after.final[0].header == before.final[0].header


@pytest.mark.parametrize("fails", ["before", "after"])
def test_a_batch_is_there_as_a_whole_or_not_at_all(
    tmp_path: Path, fails: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks = final_blocks(2)
    first_vote = vote(genesis(4), 0, Kind.SKIP, 9)
    store = open_store(tmp_path / "a.db", ONE)
    write_head = store._write_head

    def explode(connection: sqlite3.Connection, head: Head) -> None:
        if fails == "after":
            write_head(connection, head)
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(store, "_write_head", explode)
    with pytest.raises(StoreError):
        store.write(Batch(votes=(PersistVote(first_vote, None),), blocks=blocks))
    monkeypatch.undo()
    assert store.height() == 0
    assert store.place(blocks[0].entries[0].entry_id(ONE.network_id)) is None
    assert store.load_saved(ONE.committee).votes == ()
    store.write(Batch(blocks=blocks))
    assert store.height() == 2
    store.close()


def test_a_full_disk_is_told_apart_and_the_store_goes_on(tmp_path: Path) -> None:
    blocks = final_blocks(40)
    with open_store(tmp_path / "a.db", ONE) as store:
        pages = store.database.writer.execute("PRAGMA page_count").fetchone()[0]
        store.database.writer.execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StoreFullError, match="free some space"):
            store.write(Batch(blocks=blocks))
        assert store.height() == 0
        store.database.writer.execute("PRAGMA max_page_count = 1000000")
        store.write(Batch(blocks=blocks))
        assert load_chain(store).tip.height == 40


def test_another_network_is_refused(tmp_path: Path) -> None:
    open_store(tmp_path / "a.db", ONE).close()
    with pytest.raises(WrongNetworkError, match="belongs to network"):
        open_store(tmp_path / "a.db", genesis(4))


def test_a_stranger_s_database_is_refused_and_left_alone(tmp_path: Path) -> None:
    damage(tmp_path / "a.db", "CREATE TABLE theirs (x)")
    with pytest.raises(StoreCorruptError, match="not a ledger database"):
        open_store(tmp_path / "a.db", ONE)


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.db").write_bytes(b"not a database at all, but long enough" * 200)
    with pytest.raises(StoreCorruptError, match="move the file away"):
        open_store(tmp_path / "a.db", ONE)


def test_every_flipped_byte_of_a_block_is_found(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    blocks = final_blocks(2)
    with open_store(path, ONE) as store:
        store.write(Batch(blocks=blocks))
    data = blocks[0].encode()
    for at in range(0, len(data), 29):
        bad = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
        damage(path, "UPDATE blocks SET data = ? WHERE height = 1", bad)
        with open_store(path, ONE) as store, pytest.raises(StoreCorruptError, match="block 1"):
            load_chain(store)


def test_a_missing_block_is_found(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(blocks=final_blocks(3)))
    damage(tmp_path / "a.db", "DELETE FROM blocks WHERE height = 2")
    with (
        open_store(tmp_path / "a.db", ONE) as store,
        pytest.raises(StoreCorruptError, match="block 2 is missing"),
    ):
        load_chain(store)


def test_signed_entries_survive(tmp_path: Path) -> None:
    signed = sign_entry(
        PAYER, ONE.network_id, seq=1, not_after_ms=WALL_MS, fee=0, action=Transfer(PAYEE.account, 1)
    )
    with open_store(tmp_path / "a.db", ONE) as store:
        store.save_signed(signed)
    with open_store(tmp_path / "a.db", ONE) as store:
        assert [(item.entry, item.status) for item in store.signed(PAYER.account)] == [(signed, "pending")]
        store.mark_signed(signed, "final")
        assert [item.status for item in store.signed(PAYER.account)] == ["final"]


def test_it_runs_with_full_synchronous_writes(tmp_path: Path) -> None:
    with open_store(tmp_path / "a.db", ONE) as store:
        assert store.database.writer.execute("PRAGMA synchronous").fetchone() == (2,)
        assert store.database.writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_the_specification_s_row_has_its_checksum() -> None:
    row = bytes.fromhex("626c6f636b 0000000000000007 000000000000000c 2a")
    assert checksum(b"block", row[5:21], row[21:]).hex() == "911cd2fbbccd0d76"
    specification = Path(__file__).parents[3] / "SPEC.md"
    assert not specification.exists() or "911cd2fbbccd0d76" in specification.read_text()
