"""A node's writes, step by step, and what must be true of its file whatever happened to it."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, TypeVar

from ledger.archive import Archive
from ledger.core.chain import Chain
from ledger.core.entries import Entry, Transfer, sign_entry
from ledger.store import Batch, Store, StoreFullError, open_store
from tests.core.ledger_ordering.machines import PAYEE, PAYER, WALL_MS, Machine, entry, genesis
from tests.shell.ledger.faulty_disk import ACKS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from ledger.core.block import FinalBlock
    from ledger.core.events import PersistVote

ONE = genesis(1)
T = TypeVar("T")
ROUNDS = 12
TRIES = 3
_ACK = struct.Struct(">BI")
VOTES, SIGNED, BLOCK, NOTE, SNAPSHOT = range(5)


@dataclass(frozen=True, slots=True)
class Round:
    """What one block makes a lone witness and its wallet write."""

    votes: tuple[PersistVote, ...]
    block: FinalBlock
    signed: Entry


@cache
def rounds() -> tuple[Round, ...]:
    """The whole workload: the same in every process."""
    machine = Machine(ONE, 0)
    made = []
    for seq in range(1, ROUNDS + 1):
        before = len(machine.persisted)
        machine.submit(entry(ONE, seq=seq))
        signed = sign_entry(
            PAYER, ONE.network_id, seq=seq, not_after_ms=WALL_MS, fee=0, action=Transfer(PAYEE.account, seq)
        )
        made.append(Round(tuple(machine.persisted[before:]), machine.final[-1], signed))
    return tuple(made)


@cache
def snapshots() -> tuple[bytes, ...]:
    """The state after each block."""
    chain, found = Chain(ONE), []
    for each in rounds():
        chain.accept(each.block)
        found.append(chain.state.snapshot())
    return tuple(found)


def work(path: Path) -> None:
    """Every write of the workload, each tried TRIES times; what was acknowledged is appended to the file ACKS."""
    acks = os.open(path.with_name(ACKS), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for number, each in enumerate(rounds(), 1):
        if number % 4 == 1:
            store = _tried(partial(open_store, path, ONE))
        steps = {
            SIGNED: partial(store.save_signed, each.signed),
            VOTES: partial(store.write, Batch(votes=each.votes)),
            BLOCK: partial(store.write, Batch(blocks=(each.block,))),
            NOTE: partial(store.save_note, b"light", b"%d" % number),
        }
        if not number % 4:
            steps[SNAPSHOT] = partial(store.save_snapshot, number, snapshots()[number - 1], certified=False)
        for kind, step in steps.items():
            _tried(step)
            os.pwrite(acks, _ACK.pack(kind, number), 0)
        if not number % 4:
            store.close()


def _tried(step: Callable[[], T]) -> T:
    for _ in range(TRIES - 1):
        try:
            return step()
        except StoreFullError:
            continue
    return step()


def check(path: Path, acks: Sequence[bytes]) -> None:
    """The file opens, holds all that was acknowledged, and nothing that was never written."""
    told = dict.fromkeys(range(5), 0)
    for ack in acks:
        kind, number = _ACK.unpack(ack)
        told[kind] = number
    with open_store(path, ONE) as store:
        read_all(store, told)


def read_all(store: Store, told: dict[int, int]) -> None:
    """Read everything there is, as a node does, and compare it with what was written."""
    height = store.height()
    assert told[BLOCK] <= height <= told[BLOCK] + 1
    known = rounds()
    archive = Archive(store, in_thread=False)
    assert archive.chain.tip.height == height
    paid = sum(each.amount for each in _actions(height))
    assert archive.chain.state.account(PAYEE.account).balance == paid
    assert archive.chain.state.account(PAYER.account).balance == -paid
    for number in range(1, height + 1):
        block = known[number - 1].block
        assert store.block(number) == block
        entry_id = block.entries[0].entry_id(ONE.network_id)
        place = store.place(entry_id)
        assert place is not None
        assert (place.height, place.leaf) == (number, number - 1)
        receipt = archive.receipt(entry_id)
        assert receipt is not None
        receipt.verify(ONE)
    assert store.place(known[-1].signed.entry_id(ONE.network_id)) is None
    saved = store.load_saved(archive.chain.committee)
    if told[VOTES] > height:
        assert set(saved.votes) >= {item.vote for item in known[told[VOTES] - 1].votes}
        assert {p.header for p in saved.proposals} >= {
            item.proposal.header for item in known[told[VOTES] - 1].votes if item.proposal is not None
        }
    written = {item.vote for each in known for item in each.votes}
    assert set(saved.votes) <= written
    signed = [item.entry for item in store.signed(PAYER.account, pending_only=True)]
    assert signed == [each.signed for each in known[: len(signed)]]
    assert told[SIGNED] <= len(signed) <= told[SIGNED] + 1
    note = int(store.note(b"light") or 0)
    assert told[NOTE] <= note <= told[NOTE] + 1


def _actions(height: int) -> list[Transfer]:
    found = [each.block.entries[0].action for each in rounds()[:height]]
    return [action for action in found if isinstance(action, Transfer)]
