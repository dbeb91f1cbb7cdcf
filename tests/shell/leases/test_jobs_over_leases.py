"""Whole jobs over memory streams: real machines, real ledger rules, workers of every character (SPEC.md §12)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from executor.core.outcome import Outcome, Status
from ledger.core.state import Reason
from ledger.wallet import EntryExpired, EntryPending, EntryRefused, WalletBehind
from millrace.core import progress
from millrace.core.cost import unit_cost
from millrace.core.job import NO_WORKER
from millrace.core.tally import JobTally
from millrace.journal import JournalError
from millrace.leases import LEDGER_AWAY, JobOrder, OrderRefused, OverBudget, run_job
from millrace.outbox import RESULT_BYTES, Outbox
from millrace.rental import LOCK_S
from millrace.storage import explain_storage
from tests.shell.leases.lease_mill import BUYER, MODULE, PRICE, TestRunner, honest, open_market, tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from trio.testing import MockClock

    from executor.core.task import WasmTask
    from ledger.core.entries import Voucher
    from ledger.core.receipt import Receipt


def lie(task: WasmTask) -> Outcome:
    return Outcome(Status.OK, output=b"wrong", fuel=honest(task).fuel)


def sometimes_lie(task: WasmTask) -> Outcome:
    return lie(task) if int(task.args[0]) % 5 == 2 else honest(task)


async def test_a_job_is_done_paid_and_settled(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        mills = [market.add_mill(n) for n in range(3)]
        work = tasks(30)
        report = await market.run(work)
        await market.claims_done()
        assert report.outcomes == tuple(honest(task) for task in work)
        assert not report.failures
        assert not report.liars
        price = sum(unit_cost(honest(task).fuel, PRICE) for task in work)
        assert report.paid == 2 * price
        assert sum(market.town.balance(mill.account) for mill in mills) == 2 * price
        assert market.town.balance(BUYER.account) == -2 * price
        assert market.town.forge.state.totals().locks_open == 0
        market.town.check_books()
        assert report.locked <= 500_000
        job = market.journal.job(report.job_id)
        assert job is not None
        assert (job.state, job.paid, job.accepted) == ("done", report.paid, 30)
        accepted = market.seen(progress.UnitAccepted)
        assert sorted(event.unit for event in accepted) == list(range(30))
        assert all(len(set(event.workers)) == 2 for event in accepted)
        sent = {peer: sent for peer, sent, _ in market.journal.traffic(report.job_id)}
        assert all(sent[mill.account] > len(MODULE) for mill in mills)
        assert len(market.journal.timeline(report.job_id)) == len(market.events)


async def test_a_liar_is_caught_cut_and_unpaid_for_the_lie(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        liar = market.add_mill(0, TestRunner(sometimes_lie))
        for n in range(1, 4):
            market.add_mill(n)
        work = tasks(40)
        report = await market.run(work)
        await market.claims_done()
        assert report.outcomes == tuple(honest(task) for task in work)
        assert report.liars == (liar.account,)
        assert market.journal.liars() == {liar.account}
        refused = [e for e in market.seen(progress.UnitRefused) if e.worker == liar.account]
        assert any(event.reason == "lie" for event in refused)
        assert market.arbiter.ran
        market.town.check_books()
        assert market.town.forge.state.totals().locks_open == 0


async def test_a_killed_worker_loses_its_units_and_its_lock_expires(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        victim = market.add_mill(0, TestRunner(unit_s=0.7))
        for n in range(1, 3):
            market.add_mill(n)
        work = tasks(40)
        market.nursery.start_soon(market.kill_when_busy, victim)
        report = await market.run(work)
        await market.claims_done()
        assert report.outcomes == tuple(honest(task) for task in work)
        assert any(event.worker == victim.account for event in market.seen(progress.UnitMoved))
        totals = market.town.forge.state.totals()
        assert totals.locks_open == 1
        market.town.check_books()


async def test_one_worker_left_is_checked_by_the_buyer(autojump_clock: MockClock) -> None:
    """Three workers, one lies, one dies: the last one's results are matched by runs of our own."""
    async with open_market() as market:
        liar = market.add_mill(0, TestRunner(lie))
        victim = market.add_mill(1, TestRunner(unit_s=0.7))
        market.add_mill(2)
        work = tasks(24)
        market.nursery.start_soon(market.kill_when_busy, victim)
        report = await market.run(work)
        assert report.outcomes == tuple(honest(task) for task in work)
        assert report.liars == (liar.account,)
        assert any(event.how == "arbiter" for event in market.seen(progress.UnitAccepted))


async def test_each_result_is_handed_on_as_it_is_accepted(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        for n in range(3):
            market.add_mill(n)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.run, tasks(60))
            await market.results(5)
            assert len(market.outcomes) < 30, "the job is far from its end"
            assert not market.seen(progress.JobEnded)
        (ended,) = market.seen(progress.JobEnded)
        last = max(n for n, event in enumerate(market.events) if isinstance(event, progress.UnitAccepted))
        between = market.events[last + 1 : market.events.index(ended)]
        assert {type(event) for event in between} == {progress.Paid}
        assert ended.paid == sum(event.paid for event in market.seen(progress.LeaseEnded))


async def test_a_held_job_pays_for_what_is_out_and_begins_nothing(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        mills = [market.add_mill(n) for n in range(3)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(market.run, tasks(80))
            await market.results(10)
            market.hold(True)
            begun = {event.unit for event in market.seen(progress.UnitStarted)}
            await trio.sleep(30)
            assert set(market.outcomes) == begun
            assert sum(event.units for event in market.seen(progress.Paid)) == 2 * len(begun)
            assert all(mill.server.active for mill in mills)
            market.hold(False)
        assert len(market.outcomes) == 80
        market.hold(True)  # a job that is over does not mind


@pytest.mark.parametrize("replicas", [1, 2, 3])
async def test_any_number_of_replicas(autojump_clock: MockClock, replicas: int) -> None:
    async with open_market() as market:
        for n in range(4):
            market.add_mill(n)
        work = tasks(9)
        report = await market.run(work, replicas=replicas)
        assert report.outcomes == tuple(honest(task) for task in work)
        for event in market.seen(progress.UnitAccepted):
            assert len(set(event.workers)) == replicas


async def test_crashes_move_a_unit_and_accuse_nobody(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        market.add_mill(0, TestRunner(lambda _: Outcome(Status.CRASHED)))
        market.add_mill(1)
        market.add_mill(2)
        work = tasks(12)
        report = await market.run(work)
        assert report.outcomes == tuple(honest(task) for task in work)
        assert not report.liars


async def test_a_unit_that_always_times_out_fails_alone(autojump_clock: MockClock) -> None:
    def stuck(task: WasmTask) -> Outcome:
        return Outcome(Status.TIMEOUT) if task.args == ("3",) else honest(task)

    async with open_market() as market:
        market.arbiter.answer = stuck
        for n in range(3):
            market.add_mill(n, TestRunner(stuck))
        work = tasks(6)
        report = await market.run(work)
        assert set(report.failures) == {3}
        assert [outcome for n, outcome in enumerate(report.outcomes) if n != 3] == [
            honest(task) for n, task in enumerate(work) if n != 3
        ]


async def test_a_slow_worker_is_hedged_near_the_end(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        market.add_mill(0, TestRunner(unit_s=1000.0))
        market.add_mill(1)
        market.add_mill(2)
        start = trio.current_time()
        report = await market.run(tasks(6))
        assert not report.failures
        assert trio.current_time() - start < 15


async def test_nobody_there_fails_the_job_without_spending(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        mill = market.add_mill(0)
        mill.kill()
        report = await market.run(tasks(3))
        assert set(report.failures) == {0, 1, 2}
        assert report.locked == 0
        assert not market.wallet.submitted


@pytest.mark.parametrize(
    "trouble", [WalletBehind("0 of 1 witnesses answer"), EntryPending(b"e" * 32), EntryExpired("no block")]
)
async def test_a_ledger_that_is_away_is_called_so(autojump_clock: MockClock, trouble: Exception) -> None:
    async with open_market() as market:
        for n in range(5):
            market.add_mill(n)
        asked = 0

        async def away(_action: object, *, timeout_s: float, on_wait: Callable[[str], None]) -> Receipt:
            nonlocal asked
            asked += 1
            await trio.sleep(1)
            on_wait("no witness answers")
            await trio.sleep(timeout_s - 1)
            raise trouble

        market.wallet.submit = away  # type: ignore[method-assign]
        start = trio.current_time()
        report = await market.run(tasks(1))
        assert report.failures == {0: f"{LEDGER_AWAY}: {trouble}"}
        assert market.seen(progress.LedgerWaits) == [progress.LedgerWaits("no witness answers")], (
            "two leases wait, one says so"
        )
        assert asked == 2, "another worker's lock would wait for the same ledger"
        assert trio.current_time() - start < LOCK_S + 5
        assert report.paid == 0


async def test_a_refused_lock_is_not_the_ledgers_absence(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        market.add_mill(0)

        async def refuse(_action: object, *, timeout_s: float, on_wait: object) -> Receipt:
            await trio.sleep(timeout_s)
            raise EntryRefused(Reason.INSUFFICIENT, "no credit")

        market.wallet.submit = refuse  # type: ignore[method-assign]
        report = await market.run(tasks(1))
        assert report.failures == {0: NO_WORKER}


async def test_the_cap_is_checked_before_anything_is_sent(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        market.add_mill(0)
        market.add_mill(1)
        with pytest.raises(OverBudget):
            await market.run(tasks(3), cap=1_999)
        with pytest.raises(OrderRefused):
            await market.run(())
        with pytest.raises(OrderRefused):
            await market.run(tasks(3), offers=())
        assert not market.wallet.submitted
        assert not market.journal.jobs()


@pytest.mark.parametrize("cap", [2_000, 5_000, 20_000])
async def test_locks_never_sum_over_the_cap(autojump_clock: MockClock, cap: int) -> None:
    async with open_market() as market:
        for n in range(4):
            market.add_mill(n)
        report = await market.run(tasks(12), cap=cap)
        locked = sum(getattr(action, "amount", 0) for action in market.wallet.submitted)
        assert locked == report.locked <= cap
        assert report.paid <= cap
        assert all(reason == "the cap is used up" for reason in report.failures.values())
        market.town.check_books()


async def test_a_cancelled_job_keeps_what_was_verified_paid(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        for n in range(2):
            market.add_mill(n)
        with trio.move_on_after(1.5):
            await market.run(tasks(200))
        await market.claims_done()
        assert market.town.balance(BUYER.account) < 0
        assert market.town.forge.state.totals().locks_open == 0
        (job,) = market.journal.jobs()
        assert job.paid == -market.town.balance(BUYER.account)
        paid = sum(event.units for event in market.seen(progress.Paid))
        assert paid == 2 * len(market.outcomes) > 0, "what was verified is paid, to the last unit"
        assert not market.seen(progress.UnitFailed)
        assert len(market.seen(progress.LeaseEnded)) == 2
        assert len(market.journal.traffic(job.job_id)) == 2


async def test_a_job_that_takes_too_long_ends_in_order(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        for n in range(2):
            market.add_mill(n, TestRunner(unit_s=2.0))
        work = tasks(100)
        report = await market.run(work, timeout_s=20.0)
        assert 0 < len(report.failures) < 100
        assert set(report.failures.values()) == {"the job's time is over"}
        for unit, outcome in enumerate(report.outcomes):
            assert outcome == (None if unit in report.failures else honest(work[unit]))
        await market.claims_done()
        assert market.town.balance(BUYER.account) == -report.paid
        assert market.town.forge.state.totals().locks_open == 0


async def test_offers_that_no_terms_could_carry_are_passed_over(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        mills = [market.add_mill(n) for n in range(2)]
        own = replace(mills[0].offer(), worker=BUYER.account, owner=BUYER.account)
        dear = replace(mills[0].offer(), price_per_tfuel=1 << 47)
        report = await market.run(tasks(4), offers=(own, dear, *(mill.offer() for mill in mills)))
        assert not report.failures
        with pytest.raises(OrderRefused):
            await market.run(tasks(4), offers=(own, dear))


@pytest.mark.parametrize("kept", [False, True], ids=["and not kept", "but kept"])
async def test_a_worker_whose_disk_fails_loses_one_voucher_at_most(
    autojump_clock: MockClock, kept: bool
) -> None:
    """The third voucher meets a full disk, before or after it is durable: the lease ends, the node goes on."""
    async with open_market() as market:
        unlucky = market.add_mill(0)
        for n in range(1, 3):
            market.add_mill(n)
        keep, seen = unlucky.journal.keep_voucher, []

        def failing(lease_id: bytes, voucher: Voucher) -> None:
            seen.append(voucher)
            if len(seen) != 3 or kept:
                keep(lease_id, voucher)
            if len(seen) == 3:
                raise JournalError("disk full")

        unlucky.journal.keep_voucher = failing  # type: ignore[method-assign]
        work = tasks(30)
        report = await market.run(work)
        await market.claims_done()
        assert report.outcomes == tuple(honest(task) for task in work)
        assert len(seen) == 3
        assert market.town.balance(unlucky.account) == seen[2 if kept else 1].cumulative
        assert unlucky.server.active == 0
        market.town.check_books()


@pytest.mark.parametrize("kept", [False, True], ids=["and not kept", "but kept"])
async def test_a_buyer_whose_disk_fails_sends_no_voucher_that_it_forgot(
    autojump_clock: MockClock, kept: bool
) -> None:
    """The third voucher meets a full disk, before or after it is durable: it was not sent, so nobody claims it."""
    async with open_market() as market:
        mills = [market.add_mill(n) for n in range(2)]
        keep, seen = market.journal.keep_voucher, []

        def failing(lease_id: bytes, voucher: Voucher) -> None:
            seen.append(voucher)
            if len(seen) != 3 or kept:
                keep(lease_id, voucher)
            if len(seen) == 3:
                raise JournalError("disk full")

        market.journal.keep_voucher = failing  # type: ignore[method-assign]
        with pytest.RaisesGroup(JournalError, flatten_subgroups=True) as caught:
            await market.run(tasks(30))
        said = explain_storage(caught.value)
        assert said is not None
        assert said.why == "disk full"
        await market.claims_done()
        claimed = sum(market.town.balance(mill.account) for mill in mills)
        (job,) = market.journal.jobs()
        sent = seen[:2] + seen[3:]  # the other lease may still be said goodbye to
        assert 0 < claimed <= _best(sent)
        assert job.paid == _best(seen if kept else sent)
        market.town.check_books()


def _best(vouchers: list[Voucher]) -> int:
    """What these vouchers are worth together: the best of each lock."""
    best: dict[bytes, int] = {}
    for voucher in vouchers:
        best[voucher.lock_id] = max(best.get(voucher.lock_id, 0), voucher.cumulative)
    return sum(best.values())


async def test_one_voucher_pays_for_what_is_verified_together(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        for n in range(2):
            market.add_mill(n, slots=8)
        report = await market.run(
            tasks(200), offers=tuple(mill.offer(slots=8) for mill in market.mills.values())
        )
        assert not report.failures
        paid = market.seen(progress.Paid)
        assert sum(event.units for event in paid) == 400
        assert len(paid) < 400 / 4


@pytest.mark.parametrize("cut_at", range(1, 8))
async def test_a_stream_that_breaks_pays_nothing_twice(autojump_clock: MockClock, cut_at: int) -> None:
    """The link fails in the middle of a payment, the worker lives: it claims what it holds, others do the rest."""
    async with open_market() as market:
        mills = [market.add_mill(n) for n in range(3)]
        broken = mills[cut_at % 3]
        keep = (market if cut_at % 2 else broken).journal.keep_voucher
        seen: list[Voucher] = []

        def cutting(lease_id: bytes, voucher: Voucher) -> None:
            keep(lease_id, voucher)
            seen.append(voucher)
            if len(seen) == cut_at:
                for stream in broken.streams:
                    stream.cut()

        (market if cut_at % 2 else broken).journal.keep_voucher = cutting  # type: ignore[method-assign]
        work = tasks(40)
        report = await market.run(work)
        await market.claims_done()
        assert report.outcomes == tuple(honest(task) for task in work)
        claimed = {mill.account: market.town.balance(mill.account) for mill in mills}
        ended = {event.worker: event.paid for event in market.seen(progress.LeaseEnded)}
        assert len(market.seen(progress.LeaseOpened)) == 3, "each worker had one lease"
        assert all(claimed[worker] == ended[worker] for worker in claimed if worker != broken.account)
        assert claimed[broken.account] <= ended[broken.account]
        for event in market.seen(progress.UnitAccepted):
            assert len(set(event.workers)) == len(event.workers)
        due = {mill.account: 0 for mill in mills}
        for event in market.seen(progress.UnitAccepted):
            for worker in event.workers:
                due[worker] += unit_cost(honest(work[event.unit]).fuel, PRICE)
        assert all(claimed[worker] <= ended[worker] <= due[worker] for worker in claimed)
        assert market.town.balance(BUYER.account) == -sum(claimed.values())
        market.town.check_books()


async def test_a_slow_client_gets_every_result_and_never_makes_many_wait(
    autojump_clock: MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.outbox.RESULTS_WAITING_BYTES_MAX", 8 * RESULT_BYTES)
    async with open_market() as market:
        for n in range(3):
            market.add_mill(n)
        box, got, most = Outbox(JobTally()), list[int](), 0
        order = JobOrder(MODULE, tasks(60), tuple(mill.offer() for mill in market.mills.values()), 500_000)

        async def slowly(fields: dict[str, Any]) -> None:
            nonlocal most
            most = max(most, box.results_waiting)
            if fields["event"] == "result":
                await trio.sleep(1.0)
                got.append(fields["unit"])

        async def work() -> None:
            report = await run_job(order, market.buyer, box)
            assert report.accepted == 60
            box.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await box.empty(slowly)
        assert sorted(got) == list(range(60))
        assert most <= 8 + 3 * 8, "what was allowed, and three windows that were out"
        await market.claims_done()
        market.town.check_books()
