"""A service speaks of what is on its disk, and of nothing that a power cut could still undo."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ledger.archive import Archive
from ledger.core.heads import CertifiedHeader
from ledger.core.requests import (
    AccountOf,
    BlocksFrom,
    ConsistencyOf,
    EvidenceAfter,
    Head,
    LockOf,
    ReceiptOf,
    ServiceError,
    decode_answer,
    encode_request,
)
from ledger.service import LedgerService
from ledger.store import Batch, Store, open_store
from tests.core.ledger_ordering.machines import KEYS, PAYER, Machine, entry, genesis

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ledger.core.block import FinalBlock
    from ledger.core.requests import LedgerRequest

ONE = genesis(1)
PEER = KEYS[5].account


class _Stalled:
    """A disk that takes nothing until it is let go."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.go = threading.Event()
        write = store.write

        def slowly(batch: Batch) -> None:
            self.go.wait(20)
            write(batch)

        monkeypatch.setattr(store, "write", slowly)


@pytest.fixture
def blocks() -> list[FinalBlock]:
    machine = Machine(ONE, 0)
    machine.submit(entry(ONE), entry(ONE, seq=2))
    assert len(machine.final) == 2
    return machine.final


@pytest.fixture
def archive(tmp_path: Path, blocks: list[FinalBlock]) -> Iterator[Archive]:
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(blocks=(blocks[0],)))
        yield Archive(store)


async def _ask(service: LedgerService, question: LedgerRequest) -> dict[str, Any]:
    return decode_answer(await service.answer(PEER, encode_request(question)))


async def test_what_a_stalled_disk_does_not_hold_yet_is_not_told(
    archive: Archive, blocks: list[FinalBlock], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.service.DURABLE_WAIT_S", 0.05)
    disk, service = _Stalled(archive.store, monkeypatch), LedgerService(archive)
    second = blocks[1].entries[0].entry_id(ONE.network_id)
    before = await _ask(service, Head())
    async with trio.open_nursery() as nursery:
        assert archive.chain.accept(blocks[1])
        nursery.start_soon(archive.write, Batch(blocks=(blocks[1],)))
        await trio.testing.wait_all_tasks_blocked()
        assert archive.chain.tip.height == 2
        assert await _ask(service, Head()) == before
        assert before["height"] == before["slot"] == before["tree_size"] == 1
        assert CertifiedHeader.decode(before["certified"]).header == blocks[0].header
        assert len((await _ask(service, BlocksFrom(1)))["blocks"]) == 1
        assert not (await _ask(service, ReceiptOf(second)))["receipt"]
        assert not (await _ask(service, ConsistencyOf(1, 2)))["held"]
        assert (await _ask(service, EvidenceAfter(0)))["evidence"] == []
        for question in (AccountOf(PAYER.account), LockOf(second)):
            with pytest.raises(ServiceError, match="disk"):
                await _ask(service, question)
        disk.go.set()
    assert (await _ask(service, Head()))["height"] == 2
    assert (await _ask(service, AccountOf(PAYER.account)))["seq"] == 2
    assert (await _ask(service, ReceiptOf(second)))["receipt"]
    assert (await _ask(service, ConsistencyOf(1, 2)))["held"]


async def test_an_answer_waits_for_the_disk_and_not_for_what_comes_after_it(
    archive: Archive, blocks: list[FinalBlock], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, service = _Stalled(archive.store, monkeypatch), LedgerService(archive)
    answers: list[dict[str, Any]] = []

    async def ask() -> None:
        answers.append(await _ask(service, AccountOf(PAYER.account)))

    async with trio.open_nursery() as nursery:
        assert archive.chain.accept(blocks[1])
        nursery.start_soon(archive.write, Batch(blocks=(blocks[1],)))
        nursery.start_soon(ask)
        await trio.testing.wait_all_tasks_blocked()
        assert not answers
        disk.go.set()
    assert [answer["seq"] for answer in answers] == [2]
