"""The node's audit: a process of its own, whose words pass to whoever asked, and which ends with its asker."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio

from ledger.core.actions import Transfer
from ledger.store import Batch, open_store
from millrace.books import Books
from millrace.errors import NetworkTrouble
from tests.core.ledger.audit_forge import ALICE, BOB, AuditForge

if TYPE_CHECKING:
    from pathlib import Path


@dataclass
class Follower:
    """What the books read of one: the network and the file."""

    genesis: Any
    archive: Any


@pytest.fixture
def forge() -> AuditForge:
    forge = AuditForge()
    for amount in (1, 2, 3):
        forge.block([forge.sign(ALICE, Transfer(BOB.account, amount))])
    return forge


def books(forge: AuditForge, path: Path) -> Books:
    archive = SimpleNamespace(store=SimpleNamespace(path=path))
    return Books(ALICE.account, cast("Any", Follower(forge.genesis, archive)))


async def test_progress_and_report_arrive(forge: AuditForge, tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    seen: list[dict[str, Any]] = []

    async def emit(event: dict[str, Any]) -> None:
        seen.append(event)

    with open_store(path, forge.genesis) as store:  # as the node has it open
        store.write(Batch(blocks=tuple(forge.blocks)))
        report = await books(forge, path).audit(emit)
    assert (report["ok"], report["blocks"], report["entries"]) == (True, 3, 3)
    assert "event" not in report
    assert (seen[-1]["event"], seen[-1]["done"], seen[-1]["total"]) == ("progress", 3, 3)


async def test_why_there_is_no_report(forge: AuditForge, tmp_path: Path) -> None:
    async def emit(_event: dict[str, Any]) -> None:
        raise AssertionError("nothing to say")

    with pytest.raises(NetworkTrouble) as trouble:
        await books(forge, tmp_path / "none.db").audit(emit)
    assert "there is no ledger file" in trouble.value.why


async def test_who_hangs_up_ends_it(
    forge: AuditForge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "ledger.db"
    started: list[Any] = []
    run_process = trio.run_process

    async def noted(*args: Any, task_status: Any, **options: Any) -> Any:
        return await run_process(*args, task_status=_Noted(task_status, started), **options)

    monkeypatch.setattr(trio, "run_process", noted)

    async def emit(_event: dict[str, Any]) -> None:
        await trio.sleep_forever()

    with open_store(path, forge.genesis) as store:
        store.write(Batch(blocks=tuple(forge.blocks)))
    with trio.move_on_after(20) as patience:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(books(forge, path).audit, emit)
            while not started:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert not patience.cancelled_caught
    assert started[0].returncode is not None


class _Noted:
    def __init__(self, status: Any, started: list[Any]) -> None:
        self._status, self._started = status, started

    def started(self, process: Any) -> None:
        self._started.append(process)
        self._status.started(process)
