"""The account's statement where the ledger did not begin at genesis."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ledger.core.actions import Transfer
from millrace.books import Books
from tests.core.ledger.audit_forge import ALICE, BOB, AuditForge


async def test_a_ledger_that_began_at_a_snapshot_has_a_statement_from_there_on() -> None:
    """The books insisted on block 1: `status` and `ledger receipt` called that a defect of the node."""
    forge = AuditForge()
    for amount in (1, 2, 4, 8):
        forge.block([forge.sign(ALICE, Transfer(BOB.account, amount))])
    store = SimpleNamespace(first_height=1)
    held: list[Any] = []
    follower = SimpleNamespace(
        genesis=forge.genesis,
        archive=SimpleNamespace(store=store),
        blocks=lambda height: [block for block in held if block.header.height >= height],
    )
    books = Books(BOB.account, cast("Any", follower))
    assert (await books.statement()).received == 0  # asked before the snapshot came
    store.first_height, held = 3, forge.blocks[2:3]
    assert (await books.statement()).received == 4
    held = forge.blocks[2:]
    statement = await books.statement()
    assert (statement.height, statement.received) == (4, 12)
