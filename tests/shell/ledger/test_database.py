"""Reads of one connection must not hide from each other what was committed between them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.database import Database

if TYPE_CHECKING:
    from pathlib import Path


def test_a_long_read_does_not_hide_what_is_written_meanwhile(tmp_path: Path) -> None:
    """The scrub's read of a large file, and a payment beside it: its new row was taken for a lost one."""
    database = Database(tmp_path / "some.db")
    with database.transaction() as connection:
        connection.execute("CREATE TABLE some (number INTEGER)")
        connection.executemany("INSERT INTO some VALUES (?)", [(number,) for number in range(3)])
    long_read = database.scan("SELECT number FROM some")
    assert next(long_read) == (0,)
    with database.transaction() as connection:
        connection.execute("INSERT INTO some VALUES (3)")
    assert database.read_one("SELECT number FROM some WHERE number = 3") == (3,)
    assert list(long_read) == [(1,), (2,)]
    database.close()


def test_reads_of_one_transaction_see_one_moment(tmp_path: Path) -> None:
    """An audit reads the head and the drawers of a file that a node goes on writing."""
    writing = Database(tmp_path / "some.db")
    with writing.transaction() as connection:
        connection.execute("CREATE TABLE some (number INTEGER)")
    reading = Database(tmp_path / "some.db", read_only=True)
    reading.read("BEGIN")
    assert reading.read("SELECT number FROM some") == []
    with writing.transaction() as connection:
        connection.execute("INSERT INTO some VALUES (1)")
    assert reading.read("SELECT number FROM some") == []
    reading.read("COMMIT")
    assert reading.read("SELECT number FROM some") == [(1,)]
    reading.close()
    writing.close()
