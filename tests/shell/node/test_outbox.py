"""Between a job and its client: order, nothing lost of the results, and a job that pauses when nobody reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from executor.core.outcome import Outcome, Status
from ledger.core.keys import SigningKey, peer_id
from millrace.core.progress import UnitAccepted, UnitFailed, UnitStarted
from millrace.core.tally import JobTally
from millrace.leases import CAP_USED_UP, LEDGER_AWAY, TIME_OVER
from millrace.outbox import EVENTS_MAX, RESULTS_WAITING_BYTES_MAX, Outbox

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

WORKER = SigningKey(bytes(32)).account
MIB = 1 << 20


def accept(box: Outbox, unit: int, size: int = 0) -> None:
    box.hear(UnitAccepted(unit, "ok", "agreement", (WORKER,)), Outcome(Status.OK, output=bytes(size)))


def collector(sent: list[dict[str, Any]]) -> Callable[[dict[str, Any]], Awaitable[None]]:
    async def emit(fields: dict[str, Any]) -> None:
        await trio.lowlevel.checkpoint()
        sent.append(fields)

    return emit


async def test_a_result_stands_directly_behind_its_event() -> None:
    tally, sent = JobTally(), list[dict[str, Any]]()
    box = Outbox(tally)
    box.hear(UnitStarted(0, WORKER), None)
    accept(box, 0, 3)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.empty, collector(sent))
        await trio.testing.wait_all_tasks_blocked()
        assert [event["event"] for event in sent] == ["unit_started", "unit_accepted", "result"]
        for unit, reason in enumerate((TIME_OVER, CAP_USED_UP, f"{LEDGER_AWAY}: why", "it crashed"), start=1):
            box.hear(UnitFailed(unit, reason), None)
        await trio.testing.wait_all_tasks_blocked()
        box.close()
    assert sent[2] == {
        "event": "result",
        "unit": 0,
        "status": "ok",
        "exit_code": 0,
        "output": bytes(3),
        "stderr": b"",
        "fuel": 0,
        "how": "agreement",
        "workers": [peer_id(WORKER)],
    }
    assert [event["event"] for event in sent[3:]] == ["unit_failed", "no_result"] * 4
    codes = [event["code"] for event in sent[4::2]]
    assert codes == ["timeout", "budget_exceeded", "network", "task_failed"]
    assert tally.accepted == 1


async def test_events_may_be_missed_but_results_never() -> None:
    sent: list[dict[str, Any]] = []
    box = Outbox(JobTally())
    for unit in range(EVENTS_MAX):
        accept(box, unit)
    box.close()
    await box.empty(collector(sent))
    assert [event["unit"] for event in sent if event["event"] == "result"] == list(range(EVENTS_MAX))
    told = sum(event["event"] == "unit_accepted" for event in sent)
    assert sent[-1] == {"event": "events_missed", "count": EVENTS_MAX - told}


async def test_a_client_that_does_not_read_pauses_the_job_and_then_lets_it_go_on() -> None:
    valve: list[bool] = []
    took = trio.Semaphore(0)

    async def emit(_fields: dict[str, Any]) -> None:
        await took.acquire()

    box = Outbox(JobTally())
    box.when_behind(valve.append)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(box.empty, emit)
        units = RESULTS_WAITING_BYTES_MAX // MIB + 4
        for unit in range(units):
            accept(box, unit, MIB)
        assert valve == [True], "once, however far behind"
        for _ in range(2 * (units // 2) - 4):
            took.release()
        await trio.testing.wait_all_tasks_blocked()
        assert valve == [True]
        for _ in range(2 * units):
            took.release()
        await trio.testing.wait_all_tasks_blocked()
        assert valve == [True, False]
        box.close()


async def test_a_client_that_hangs_up_ends_the_emptying() -> None:
    async def broken(_fields: dict[str, Any]) -> None:
        raise trio.BrokenResourceError

    box = Outbox(JobTally())
    accept(box, 0)
    with pytest.raises(trio.BrokenResourceError):
        await box.empty(broken)
