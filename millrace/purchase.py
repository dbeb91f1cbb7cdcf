"""Jobs that this node buys: from a request on the local API to results, payments and receipts (SPEC.md §16).

The order of a purchase: check the units, fix the cap, rank what the market offers, run the job over leases
(`leases.run_job`), hand out each result as it is accepted, then wait a little for the workers' claims to settle.
"""

from __future__ import annotations

import hashlib
import logging
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import trio

from executor.core.limits import Limits
from executor.core.module import check_module, exported_functions
from executor.core.task import COMMAND_ENTRY, WasmTask
from executor.core.wire import WireError as ExecutorWireError
from ledger.core.amounts import format_credits
from ledger.core.keys import peer_id
from ledger.wallet import EntryPending, EntryRefused, KeyReplaced, WalletBehind
from millrace.core.cost import PRICE_MAX
from millrace.core.market import Needs, choose, offer_from_advert, rank, unfit
from millrace.core.tally import JobTally
from millrace.errors import (
    BudgetExceeded,
    InsufficientCredit,
    JobTimeout,
    MillraceError,
    NoPeers,
    UsageError,
)
from millrace.journal import JournalError
from millrace.leases import JobOrder, OrderRefused, OverBudget, run_job
from millrace.money import explain_entry
from millrace.outbox import Outbox

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.keys import AccountId
    from ledger.sync import Follower
    from millrace.api import Emit
    from millrace.books import Books
    from millrace.config import Spend
    from millrace.core.market import Offer
    from millrace.leases import Buyer, JobReport
    from p2p.core.advertbook import AdvertBook

__all__ = ["Purchases"]

JOBS_MAX: Final = 8
"""Jobs of this node that run at once."""
RESULTS_BYTES_MAX: Final = 512 << 20
"""What all results of one job may come to; a job of many units gets a smaller output limit by default."""
EXPORTS_LISTED_MAX: Final = 32
"""Names of a module's exports in one error."""
DAY_MS: Final = 24 * 3600 * 1000
WORKERS_DEFAULT: Final = 8
JOB_TIMEOUT_S: Final = 3600.0
ENOUGH_WAIT_S: Final = 3.0
ANY_WAIT_S: Final = 10.0
MARKET_LOOK_S: Final = 0.25
LOST_REST_MS: Final = 60_000
"""About as long as an advert lives without its author."""
SETTLE_WAIT_S: Final = 5.0
"""How long a finished job waits for its workers' claims, so that its report can carry their receipts."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Cap:
    """The most a job may cost, and whether it is the account, not an owner's cap, that sets it."""

    amount: int
    by_account: bool


class Purchases:
    """The buyer's desk of one node; `run` serves `job.run`."""

    def __init__(
        self,
        buyer: Buyer,
        market: AdvertBook,
        *,
        follower: Follower,
        books: Books,
        spend: Spend,
        is_linked: Callable[[AccountId], bool],
    ) -> None:
        """`is_linked` says whether a peer is connected now."""
        self._buyer = buyer
        self._market = market
        self._follower = follower
        self._books = books
        self._spend = spend
        self._is_linked = is_linked
        self._reserved = 0
        """Micro-credits that running jobs may still cost."""
        self._lost: dict[AccountId, int] = {}
        """Workers that a job could not reach or lost, and until when (Unix ms) they are not asked again."""
        self.running = 0
        """Jobs that run now."""
        self.done = 0
        """Jobs that came to their end, well or not, since the node began."""

    async def run(self, params: dict[str, Any], emit: Emit) -> dict[str, Any]:
        """Run one job; answers its report (SPEC.md §16). Leaving early cancels it: verified units stay paid."""
        if self.running >= JOBS_MAX:
            raise MillraceError(
                "this node runs as many jobs as it may",
                f"{JOBS_MAX} at once",
                "wait for one to end: millrace jobs ls",
            )
        options = params["options"]
        module: bytes = params["module"]
        tasks = _tasks(module, params["units"], options)
        with self._holding(options["max_cost"]) as cap:
            order = JobOrder(
                module=module,
                tasks=tasks,
                offers=await self._offers(_needs(tasks, options), options["replicas"], emit),
                cap=cap.amount,
                replicas=options["replicas"],
                workers_max=options["workers"] or WORKERS_DEFAULT,
                timeout_s=options["timeout_s"] or JOB_TIMEOUT_S,
                name=options["name"],
            )
            tally = JobTally()
            begun_s = trio.current_time()
            try:
                report = await self._run_with_events(order, cap, Outbox(tally), emit)
            except BaseException as error:
                # Cancelled, mostly: the journal must not show it as running for ever.
                self._close_in_journal(order, tally, cancelled=_is_cancelled(error))
                raise
            finally:
                self._note_lost(tally)
            return {"name": options["name"], **await self._settle(report, tally, order.cap, begun_s, emit)}

    def _close_in_journal(self, order: JobOrder, tally: JobTally, *, cancelled: bool) -> None:
        """Units that a cancelled job had left did not fail; those of a job that broke did."""
        if not tally.job_id:
            return
        try:
            left = len(order.tasks) - tally.accepted - tally.failed
            failed = tally.failed if cancelled else tally.failed + left
            self._buyer.journal.job_ended(
                tally.job_id, accepted=tally.accepted, failed=failed, cancelled=cancelled and left > 0
            )
        except JournalError as error:
            # What ended the job goes on being told; the next start of the node marks the job as interrupted.
            _log.error("a job's end is not in the journal: %s", error)

    @contextmanager
    def _holding(self, wanted: int | None) -> Iterator[_Cap]:
        """The job's cap, held against the owner's limits while the job runs."""
        cap = self._cap(wanted)
        self.running += 1
        self._reserved += cap.amount
        try:
            yield cap
        finally:
            self.running -= 1
            self.done += 1
            self._reserved -= cap.amount

    def _cap(self, wanted: int | None) -> _Cap:
        """The least of what the caller, the owner's caps and the account allow; refuses when nothing is left."""
        spent = self._spent_today()
        caps = {
            "max_cost": self._spend.max_per_job if wanted is None else wanted,
            "[spend].max_per_job": self._spend.max_per_job,
            "what [spend].max_per_day leaves": self._spend.max_per_day - spent - self._reserved,
        }
        what, cap = min(caps.items(), key=lambda item: item[1])
        if cap < 1:
            raise BudgetExceeded(
                "nothing may be spent on this job",
                f"{what} is {format_credits(cap)} credits ({format_credits(spent)} were spent today)",
                "raise it with `millrace set spend.max_per_day`, or give a larger max_cost",
            )
        account = self._follower.state.account(self._buyer.key.account)
        available = account.balance + account.limit - self._reserved
        if available < 1:
            raise InsufficientCredit(
                "the account has no credit left",
                f"its balance is {format_credits(account.balance)} credits, its limit {format_credits(account.limit)}",
                "lend time to earn some, or ask a holder of credit for a transfer; see `millrace balance`",
            )
        return _Cap(min(cap, available), by_account=available < cap)

    async def _offers(self, needs: Needs, replicas: int, emit: Emit) -> tuple[Offer, ...]:
        """Whom to ask, best first.

        Adverts arrive by gossip, so a node that has just started, or whose workers were busy a moment ago, waits
        a little: ENOUGH_WAIT_S for as many owners as there are replicas, ANY_WAIT_S for anybody; then `NoPeers`.
        """
        begun_s = trio.current_time()
        while True:
            heard = self._heard()
            ranked = rank([offer for offer, barred in heard if not barred], needs)
            waited_s = trio.current_time() - begun_s
            if len(choose(ranked, replicas)) == replicas or (ranked and waited_s >= ENOUGH_WAIT_S):
                return tuple(ranked)
            if waited_s >= ANY_WAIT_S:
                raise _no_peers(heard, needs)
            if not waited_s:
                await emit({"event": "waiting_for_peers", "heard": len(heard), "fit": len(ranked)})
            await trio.sleep(MARKET_LOOK_S)

    def _heard(self) -> list[tuple[Offer, str]]:
        """Everybody's offer, and why its worker is not asked; empty if it may be."""
        now_ms = self._buyer.clock_ms()
        self._lost = {worker: until for worker, until in self._lost.items() if until > now_ms}
        liars = self._buyer.journal.liars()

        def barred(worker: AccountId) -> str:
            if worker in liars:
                return "was caught lying to this node"
            if worker in self._lost and not self._is_linked(worker):
                return "was lost a moment ago and has not come back"
            return ""

        return [
            (offer_from_advert(offer.author, offer.advert), barred(offer.author))
            for offer in self._market.items(now_ms)
            if offer.author != self._buyer.key.account
        ]

    def _note_lost(self, tally: JobTally) -> None:
        """A peer that just failed is not asked next: its advert outlives it."""
        failed = [worker for worker, _ in tally.unleased] + [
            each.worker for each in tally.leases if each.moved
        ]
        for worker in failed:
            if not self._is_linked(worker):
                self._lost[worker] = self._buyer.clock_ms() + LOST_REST_MS

    def _spent_today(self) -> int:
        since = self._buyer.clock_ms() - DAY_MS
        return sum(job.paid for job in self._buyer.journal.jobs(1_000) if job.created_ms >= since)

    async def _run_with_events(self, order: JobOrder, cap: _Cap, outbox: Outbox, emit: Emit) -> JobReport:
        reports: list[JobReport] = []
        failures: list[Exception] = []

        async def work() -> None:
            try:
                reports.append(await run_job(order, self._buyer, outbox))
            except Exception as error:  # noqa: BLE001 - carried to the caller below, out of this task's group
                failures.append(error)
            finally:
                outbox.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            await outbox.empty(emit)
        if failures:
            raise _named(failures[0], order, cap)
        return reports[0]

    async def _settle(
        self, report: JobReport, tally: JobTally, cap: int, begun_s: float, emit: Emit
    ) -> dict[str, Any]:
        """Wait for the workers' claims, then put the final report together."""
        done_s = trio.current_time()

        def settled() -> bool:
            # A worker that is gone cannot claim now; its lock closes when it is back, or at its expiry.
            return all(
                self._books.settled(lease.lock_id) is not None or not self._is_linked(lease.worker)
                for lease in tally.leases
            )

        await self._follower.wait_for(settled, SETTLE_WAIT_S)
        settle_ms = round((trio.current_time() - done_s) * 1000)
        workers = []
        for lease in tally.leases:
            fields = lease.fields() | await self._settlement(lease.lock_id)
            workers.append(fields)
            await emit({"event": "settled" if fields["settled"] else "unsettled", **fields})
        return {
            "job_id": report.job_id.hex(),
            "units": report.units,
            "accepted": report.accepted,
            "failed": report.failed,
            "cost": report.paid,
            "locked": report.locked,
            "cap": cap,
            "liars": [peer_id(liar) for liar in report.liars],
            "wall_ms": round((done_s - begun_s) * 1000),
            "settle_ms": settle_ms,
            "workers": workers,
        }

    async def _settlement(self, lock_id: bytes) -> dict[str, Any]:
        """What became of a lock, with the receipts that prove it."""
        lock = self._follower.receipt(lock_id)
        closing = await self._books.closing_receipt(lock_id)
        claimed = self._books.settled(lock_id)
        return {
            "settled": claimed is not None,
            "claimed": claimed or 0,
            "lock_receipt": lock.encode() if lock is not None else b"",
            "claim_receipt": closing.encode() if closing is not None else b"",
        }


def _is_cancelled(error: BaseException) -> bool:
    """Whether a job ended because its client is gone or its node stops, also from inside task groups."""
    if isinstance(error, BaseExceptionGroup):
        return any(map(_is_cancelled, error.exceptions))
    return isinstance(error, trio.Cancelled | trio.BrokenResourceError | trio.ClosedResourceError)


def _needs(tasks: tuple[WasmTask, ...], options: dict[str, Any]) -> Needs:
    """What a worker must have for this job: memory for a unit, and what the caller asked for."""
    price_max = PRICE_MAX if options["price_max"] is None else options["price_max"]
    return Needs(
        memory_bytes=tasks[0].limits.memory_bytes, price_per_tfuel_max=price_max, region=options["region"]
    )


def _no_peers(heard: list[tuple[Offer, str]], needs: Needs) -> NoPeers:
    reasons = tuple(
        f"{peer_id(offer.worker)} {offer.name}: {barred or unfit(offer, needs) or 'fits'}"
        for offer, barred in heard
    )
    why = "no advert has been heard" if not heard else f"none of the {len(heard)} adverts heard fits"
    return NoPeers("no peer fits the job", why, "see `millrace offers` and `millrace peers`", reasons=reasons)


def _named(error: Exception, order: JobOrder, cap: _Cap) -> Exception:
    """The lease shell's refusals as errors for people; everything else as it is."""
    match error:
        case OverBudget() if cap.by_account:
            return InsufficientCredit(
                "the account's credit does not cover the job; nothing was sent",
                f"{error} ({format_credits(cap.amount)} credits are left)",
                "lower the fuel limit of a unit, or earn credit first; see `millrace balance`",
            )
        case OverBudget():
            return BudgetExceeded(
                "the job could cost more than its cap; nothing was sent",
                f"{error} (the cap is {format_credits(order.cap)} credits)",
                "give a larger max_cost, raise [spend].max_per_job, or lower the fuel limit of a unit",
            )
        case OrderRefused():
            return UsageError("the job cannot run as it is", str(error), "see SPEC.md §16 for job.run")
        case EntryRefused() | EntryPending() | WalletBehind() | KeyReplaced():
            return explain_entry(error)
        case TimeoutError():
            return JobTimeout(
                "the job did not finish in time",
                f"{order.timeout_s:g} s have passed; what was verified is paid, the rest is not",
                "give it a longer timeout, or ask more workers",
            )
        case _:
            return error


def _tasks(module: bytes, units: list[dict[str, Any]], options: dict[str, Any]) -> tuple[WasmTask, ...]:
    """The job's units as the executor's tasks; `UsageError` for what no worker would run."""
    if not units:
        raise UsageError("the job has no units", "a job runs a module on at least one input", "give inputs")
    chosen = ("fuel", "memory_bytes", "wall_s", "output_bytes")
    room = RESULTS_BYTES_MAX // len(units)
    if (options["output_bytes"] or 0) > room:
        raise UsageError(
            "the job's results could be larger than this node holds",
            f"{len(units)} units of {options['output_bytes']} bytes each, at most {RESULTS_BYTES_MAX} together",
            "lower output_bytes, or split the job",
        )
    try:
        check_module(module)
        limits = Limits(**{name: options[name] for name in chosen if options[name] is not None})
        limits = replace(limits, output_bytes=min(limits.output_bytes, room))
        sha256 = hashlib.sha256(module).digest()
        tasks = tuple(
            WasmTask(sha256, options["entry"], tuple(unit["args"]), unit["stdin"], limits) for unit in units
        )
        _check_entry(options["entry"], exported_functions(module))
        return tasks
    except ExecutorWireError as error:
        raise UsageError(
            "the job cannot run as it is", str(error), "see SPEC.md §13 for what a unit may be"
        ) from error


def _check_entry(entry: str, exports: tuple[str, ...]) -> None:
    """`UsageError` before anything is paid for, if the module has no such function."""
    if entry in exports:
        return
    listed = ", ".join(exports[:EXPORTS_LISTED_MAX]) + (", …" if len(exports) > EXPORTS_LISTED_MAX else "")
    raise UsageError(
        f"the module exports no function {entry!r}",
        f"it exports: {listed}" if exports else "it exports no functions",
        "name one of its exports as the entry (`millrace wasm run --entry NAME`)"
        if exports
        else f"build it as a WASI command, which exports {COMMAND_ENTRY}, or export a function",
    )
