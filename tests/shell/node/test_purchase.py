"""The buyer's desk: caps before anything is sent, whom it asks, how long it waits for a market."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from ledger.core.keys import AccountId, SigningKey
from ledger.core.state import Account
from millrace.core.api_messages import check_params
from millrace.core.market import Needs
from millrace.core.progress import JobStarted, LeaseRefused
from millrace.core.tally import JobTally
from millrace.errors import BudgetExceeded, InsufficientCredit, MillraceError, NoPeers, UsageError
from millrace.journal import JournalError
from millrace.purchase import (
    ANY_WAIT_S,
    DAY_MS,
    ENOUGH_WAIT_S,
    JOBS_MAX,
    RESULTS_BYTES_MAX,
    Purchases,
    _tasks,
)
from p2p.core.adverts import Advert

if TYPE_CHECKING:
    from millrace.outbox import Outbox

NOW_MS = 1_800_000_000_000
ME, ONE, TWO = (SigningKey(bytes([n]) * 32).account for n in (1, 2, 3))
EMPTY_MODULE = b"\0asm\1\0\0\0"
MODULE = EMPTY_MODULE + b"\x07\x10\x02\x06_start\0\0\x03add\0\1"
"""Its export section alone: the functions _start and add."""


class Desk:
    """A desk whose account, past jobs and market are plain values."""

    def __init__(self, *, balance: int = 0, limit: int = 10_000, jobs: tuple[Any, ...] = ()) -> None:
        self.offers: list[Any] = []
        self.liars: set[bytes] = set()
        self.linked: set[bytes] = {ONE, TWO}
        self.events: list[dict[str, Any]] = []
        journal = SimpleNamespace(jobs=lambda _count: list(jobs), liars=lambda: self.liars)
        buyer = SimpleNamespace(key=SimpleNamespace(account=ME), journal=journal, clock_ms=lambda: NOW_MS)
        state = SimpleNamespace(account=lambda _account: Account(balance, limit))
        self.desk = Purchases(
            cast("Any", buyer),
            cast("Any", SimpleNamespace(items=lambda _now: tuple(self.offers))),
            follower=cast("Any", SimpleNamespace(state=state)),
            books=cast("Any", None),
            spend=cast("Any", SimpleNamespace(max_per_job=1_000, max_per_day=5_000)),
            is_linked=lambda peer: peer in self.linked,
        )

    def cap(self, wanted: int | None) -> tuple[int, bool]:
        with self.desk._holding(wanted) as cap:
            return cap.amount, cap.by_account

    async def emit(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def hear(self, author: bytes, slots_free: int = 1, price: int = 5) -> None:
        advert = Advert(
            kinds=("wasm",),
            owner=cast("Any", author),
            slots_free=slots_free,
            memory_bytes=1 << 30,
            rates={"wasm": 10**9},
            price_per_tfuel=price,
        )
        self.offers.append(SimpleNamespace(author=author, advert=advert))


def job(paid: int, age_ms: int) -> Any:
    return SimpleNamespace(paid=paid, created_ms=NOW_MS - age_ms)


@pytest.mark.parametrize(
    ("desk", "wanted", "cap"),
    [
        (Desk(), None, (1_000, False)),
        (Desk(), 400, (400, False)),
        (Desk(), 4_000, (1_000, False)),
        (Desk(jobs=(job(4_900, 1_000),)), None, (100, False)),
        (Desk(jobs=(job(4_900, DAY_MS + 1),)), None, (1_000, False)),
        (Desk(balance=-9_800), None, (200, True)),
        (Desk(balance=50, limit=0), 50, (50, False)),
    ],
)
def test_the_cap_is_the_least_of_all_limits(desk: Desk, wanted: int | None, cap: tuple[int, bool]) -> None:
    assert desk.cap(wanted) == cap


@pytest.mark.parametrize(
    ("desk", "wanted", "error"),
    [
        (Desk(), 0, BudgetExceeded),
        (Desk(jobs=(job(5_000, 1),)), None, BudgetExceeded),
        (Desk(balance=-10_000), None, InsufficientCredit),
    ],
)
def test_nothing_left_is_refused(desk: Desk, wanted: int | None, error: type[MillraceError]) -> None:
    with pytest.raises(error):
        desk.cap(wanted)
    assert desk.desk.running == 0


def test_running_jobs_count_against_the_day_and_the_account() -> None:
    desk = Desk(limit=1_500)
    with desk.desk._holding(None) as first:
        assert first.amount == 1_000
        assert desk.cap(None) == (500, True)
    assert desk.cap(None) == (1_000, False)


async def test_the_best_offer_comes_first_and_ours_and_liars_are_left_out() -> None:
    desk = Desk()
    desk.hear(ONE, price=9)
    desk.hear(TWO, price=3)
    desk.hear(ME, price=1)
    ranked = await desk.desk._offers(Needs(), 2, desk.emit)
    assert [offer.worker for offer in ranked] == [TWO, ONE]
    desk.liars = {TWO}
    ranked = await desk.desk._offers(Needs(), 1, desk.emit)
    assert [offer.worker for offer in ranked] == [ONE]
    assert desk.events == []


async def test_a_worker_that_was_just_lost_is_asked_again_only_once_it_is_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desk = Desk()
    desk.hear(ONE)
    desk.hear(TWO)
    desk.linked.discard(ONE)

    async def unreachable(_order: object, _cap: object, outbox: Outbox, _emit: object) -> None:
        outbox.hear(LeaseRefused(AccountId(ONE), "cannot be reached"), None)
        raise MillraceError("the job ended")

    monkeypatch.setattr(desk.desk, "_run_with_events", unreachable)
    with pytest.raises(MillraceError, match="the job ended"):
        await desk.desk.run(check_params("job.run", {"module": MODULE, "units": [{}]}), desk.emit)
    assert [offer.worker for offer in await desk.desk._offers(Needs(), 1, desk.emit)] == [TWO]
    desk.linked.add(ONE)
    assert {offer.worker for offer in await desk.desk._offers(Needs(), 2, desk.emit)} == {ONE, TWO}


async def test_a_worker_that_refused_and_is_still_there_may_be_asked() -> None:
    desk = Desk()
    desk.hear(ONE)
    tally = JobTally()
    tally.feed(LeaseRefused(AccountId(ONE), "all leases are taken"))
    desk.desk._note_lost(tally)
    assert [offer.worker for offer in await desk.desk._offers(Needs(), 1, desk.emit)] == [ONE]


async def test_a_market_that_comes_late_is_waited_for(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    began = trio.current_time()
    async with trio.open_nursery() as nursery:

        async def come() -> None:
            await trio.sleep(1)
            desk.hear(ONE)
            await trio.sleep(1)
            desk.hear(TWO)

        nursery.start_soon(come)
        assert len(await desk.desk._offers(Needs(), 2, desk.emit)) == 2
    assert trio.current_time() - began == pytest.approx(2, abs=0.3)
    assert desk.events == [{"event": "waiting_for_peers", "heard": 0, "fit": 0}]


async def test_one_owner_is_better_than_none_after_a_while(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    desk.hear(ONE)
    began = trio.current_time()
    assert len(await desk.desk._offers(Needs(), 2, desk.emit)) == 1
    assert trio.current_time() - began == pytest.approx(ENOUGH_WAIT_S, abs=0.3)


async def test_nobody_is_an_error_with_each_reason(autojump_clock: trio.testing.MockClock) -> None:
    desk = Desk()
    desk.hear(ONE, slots_free=0)
    desk.hear(TWO)
    desk.liars = {TWO}
    began = trio.current_time()
    with pytest.raises(NoPeers) as caught:
        await desk.desk._offers(Needs(), 2, desk.emit)
    assert trio.current_time() - began == pytest.approx(ANY_WAIT_S, abs=0.3)
    assert [reason.split(": ")[1] for reason in caught.value.reasons] == [
        "no free slot",
        "was caught lying to this node",
    ]


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ({"module": EMPTY_MODULE, "units": []}, "no units"),
        ({"module": b"#!/bin/sh", "units": [{}]}, "WebAssembly"),
        ({"module": EMPTY_MODULE, "units": [{"args": ["a\0b"]}]}, "NUL"),
        ({"module": EMPTY_MODULE, "units": [{"stdin": b"x"}], "options": {"entry": "add"}}, "no stdin"),
        ({"module": EMPTY_MODULE, "units": [{}], "options": {"wall_s": 0}}, "wall_s"),
        ({"module": EMPTY_MODULE, "units": [{}]}, "exports no functions"),
        ({"module": MODULE, "units": [{}], "options": {"entry": "nope"}}, "'nope'.*it exports: _start, add"),
        (
            {"module": EMPTY_MODULE, "units": [{}] * 600, "options": {"output_bytes": 1 << 20}},
            "split the job",
        ),
    ],
)
async def test_what_no_worker_would_run_is_refused_first(params: dict[str, Any], said: str) -> None:
    desk = Desk()
    with pytest.raises(UsageError, match=said):
        await desk.desk.run(check_params("job.run", params), desk.emit)


@pytest.mark.parametrize(("units", "output_bytes"), [(1, 1 << 20), (512, 1 << 20), (10_000, 53_687)])
def test_all_results_of_a_job_fit_by_default(units: int, output_bytes: int) -> None:
    params = check_params("job.run", {"module": MODULE, "units": [{}] * units})
    tasks = _tasks(params["module"], params["units"], params["options"])
    assert tasks[0].limits.output_bytes == output_bytes
    assert units * output_bytes <= RESULTS_BYTES_MAX


def test_a_journal_that_cannot_be_written_hides_nothing(caplog: pytest.LogCaptureFixture) -> None:
    def full(*_: object, **__: object) -> None:
        raise JournalError("database or disk is full")

    desk = Desk()
    desk.desk._buyer.journal.job_ended = full  # type: ignore[method-assign]
    tally = JobTally()
    tally.feed(JobStarted(b"j" * 32, 1, 1, 1))
    desk.desk._close_in_journal(cast("Any", SimpleNamespace(tasks=(1,))), tally, cancelled=True)
    assert "disk is full" in caplog.text


async def test_only_so_many_jobs_at_once() -> None:
    desk = Desk()
    desk.desk.running = JOBS_MAX
    with pytest.raises(MillraceError, match="as many jobs"):
        await desk.desk.run(check_params("job.run", {"module": EMPTY_MODULE, "units": [{}]}), desk.emit)
