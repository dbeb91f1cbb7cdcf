"""A market in memory: a real ledger state with one witness, memory streams, and runners that obey the test."""

from __future__ import annotations

import hashlib
import sqlite3
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import trio

from executor.core.limits import Limits
from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from ledger.core.entries import Voucher, sign_voucher
from ledger.core.state import Refusal
from ledger.wallet import EntryRefused
from millrace.core.market import Offer
from millrace.core.progress import UnitAccepted, UnitCommitted, UnitFailed
from millrace.journal import Journal, journal_in
from millrace.leases import Buyer, JobOrder, run_job
from millrace.settle import Settler
from millrace.work import LeaseServer, Worker, WorkPolicy
from tests.core.ledger.ledger_forge import CREATED_MS, Forge, genesis, key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from ledger.core.entries import Action
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.receipt import Receipt
    from millrace.core.progress import Progress

MODULE = b"\0asm module of the test " * 20_000
MODULE_SHA256 = hashlib.sha256(MODULE).digest()
LIMITS = Limits(fuel=10**9, memory_bytes=1 << 20, wall_s=10.0, output_bytes=1000)
BUYER = key(201)
CREDIT = 1_000_000
PRICE = 1_000_000
"""Per tera-fuel: 1,000 micro-credits for a unit at its fuel limit."""


def seeded_bytes(seed: int) -> Callable[[int], bytes]:
    """Different bytes each time, the same in each run of a test."""
    state = [seed]

    def draw(count: int) -> bytes:
        state[0] += 1
        return hashlib.shake_256(repr(state).encode()).digest(count)

    return draw


class Town:
    """The ledger that everybody believes, and its clock."""

    def __init__(self, network: Genesis | None = None) -> None:
        self.forge = Forge(network or genesis(1, limits=((BUYER.account, CREDIT),)))
        self._leaves = 0

    def clock_ms(self) -> int:
        return CREATED_MS + 1_000_000 + round(trio.current_time() * 1000)

    def order(self, signer: SigningKey, action: Action) -> Receipt:
        """One entry, one block, one receipt; or EntryRefused."""
        forge, now_ms = self.forge, self.clock_ms()
        entry = forge.sign(signer, action, seq=forge.state.account(signer.account).seq + 1)
        refusal = forge.state.check(entry, forge.moment(now_ms))
        if isinstance(refusal, Refusal):
            raise EntryRefused(refusal.reason, refusal.detail)
        forge.block([entry], time_ms=now_ms)
        self._leaves += 1
        return forge.receipt(self._leaves - 1)

    def balance(self, account: AccountId) -> int:
        return self.forge.state.account(account).balance

    def check_books(self) -> None:
        self.forge.state.assert_invariants()
        totals = self.forge.state.totals()
        assert totals.balance + totals.locked == 0


@dataclass
class TownWallet:
    town: Town
    key: SigningKey
    delay_s: float = 0.2
    submitted: list[Action] = field(default_factory=list)

    async def submit(
        self, action: Action, *, timeout_s: float, on_wait: Callable[[str], None] | None = None
    ) -> Receipt:
        assert timeout_s > 0
        self.submitted.append(action)
        await trio.sleep(self.delay_s)
        return self.town.order(self.key, action)

    def sign_voucher(self, lock_id: bytes, cumulative: int) -> Voucher:
        return sign_voucher(self.key, self.town.forge.genesis.network_id, lock_id, cumulative)


class MemoryChannel:
    """One end of a framed stream; like `p2p.host.Channel`, its errors are `ConnectionError`s."""

    def __init__(self, peer: AccountId, send: trio.MemorySendChannel[bytes], receive: Any) -> None:
        self.peer = peer
        self._send = send
        self._receive = receive

    async def send(self, message: bytes) -> None:
        try:
            await self._send.send(message)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as error:
            raise ConnectionError("the stream is closed") from error

    async def receive(self) -> bytes:
        try:
            return bytes(await self._receive.receive())
        except (trio.EndOfChannel, trio.ClosedResourceError, trio.BrokenResourceError) as error:
            raise ConnectionError("the stream is closed") from error

    async def aclose(self) -> None:
        self.cut()
        await trio.lowlevel.checkpoint()

    def cut(self) -> None:
        self._send.close()
        self._receive.close()


def channel_pair(one: AccountId, other: AccountId) -> tuple[MemoryChannel, MemoryChannel]:
    """The ends that `one` and `other` hold."""
    there, from_one = trio.open_memory_channel[bytes](8)
    back, from_other = trio.open_memory_channel[bytes](8)
    return MemoryChannel(other, there, from_other), MemoryChannel(one, back, from_one)


def honest(task: WasmTask) -> Outcome:
    """What every honest machine gets: output and fuel follow from the task alone."""
    proof = task.digest()
    return Outcome(Status.OK, output=proof, fuel=1_000_000 * (1 + proof[0]))


@dataclass
class TestRunner:
    """Obeys `answer`; each unit takes `unit_s`."""

    __test__ = False

    answer: Callable[[WasmTask], Outcome] = honest
    unit_s: float = 0.1
    ran: list[WasmTask] = field(default_factory=list)
    prepared: int = 0

    async def prepare(self, module: bytes) -> object:
        await trio.sleep(0.05)
        assert hashlib.sha256(module).digest() == MODULE_SHA256
        self.prepared += 1
        return None

    async def run(self, task: WasmTask) -> Outcome:
        self.ran.append(task)
        await trio.sleep(self.unit_s)
        return self.answer(task)


@dataclass
class Mill:
    """One worker node."""

    key: SigningKey
    runner: TestRunner
    wallet: TownWallet
    journal: Journal
    settler: Settler
    server: LeaseServer
    streams: list[MemoryChannel] = field(default_factory=list)
    scopes: list[trio.CancelScope] = field(default_factory=list)
    dead: bool = False

    @property
    def account(self) -> AccountId:
        return self.key.account

    def kill(self) -> None:
        """As SIGKILL does: every stream breaks, nothing more is done."""
        self.dead = True
        for scope in self.scopes:
            scope.cancel()
        for stream in self.streams:
            stream.cut()

    def offer(self, slots: int = 2, price: int = PRICE) -> Offer:
        return Offer(self.account, self.account, price, 10**9, 1 << 30, slots)


@dataclass(frozen=True)
class Bought:
    """A job's report, with what was handed on while it ran."""

    job_id: bytes
    outcomes: tuple[Outcome | None, ...]
    failures: dict[int, str]
    paid: int
    locked: int
    liars: tuple[AccountId, ...]


class Market:
    """A buyer and its workers, and the audience of its jobs."""

    def __init__(self, town: Town, journal: Journal, nursery: trio.Nursery) -> None:
        self.town = town
        self.journal = journal
        self.nursery = nursery
        self.mills: dict[AccountId, Mill] = {}
        self.events: list[Progress] = []
        self.outcomes: dict[int, Outcome] = {}
        self.hold: Callable[[bool], None] = lambda _: None
        self.news = trio.Event()
        self.wallet = TownWallet(town, BUYER)
        self.arbiter = TestRunner()
        self.victim: Mill | None = None
        self.victim_busy = trio.Event()
        self.buyer = Buyer(
            key=BUYER,
            genesis=town.forge.genesis,
            open_lease=self.open_lease,
            wallet=self.wallet,
            arbiter=self.arbiter,
            journal=journal,
            clock_ms=town.clock_ms,
            random_bytes=seeded_bytes(1),
        )

    def add_mill(self, number: int, runner: TestRunner | None = None, **policy: Any) -> Mill:
        town, mill_key = self.town, key(300 + number)
        journal = memory_journal()
        wallet = TownWallet(town, mill_key)
        settler = Settler(journal, wallet, lambda: town.forge.state, town.clock_ms)
        runner = runner or TestRunner()
        fields: dict[str, Any] = {"price_per_tfuel": PRICE, "ceilings": Limits(), "slots": 2}
        worker = Worker(
            mill_key, town.forge.genesis, runner, journal, settler, town.clock_ms, seeded_bytes(number + 50)
        )
        mill = Mill(
            mill_key, runner, wallet, journal, settler, LeaseServer(worker, WorkPolicy(**(fields | policy)))
        )
        self.mills[mill.account] = mill
        self.nursery.start_soon(self._settle, mill)
        return mill

    async def _settle(self, mill: Mill) -> None:
        with trio.CancelScope() as scope:
            mill.scopes.append(scope)
            await mill.settler.run()

    async def _serve(self, mill: Mill, channel: MemoryChannel) -> None:
        with trio.CancelScope() as scope:
            mill.scopes.append(scope)
            await mill.server.handle(channel)

    async def open_lease(self, worker: AccountId) -> MemoryChannel:
        await trio.sleep(0.01)
        mill = self.mills.get(worker)
        if mill is None or mill.dead:
            raise ConnectionError("nobody listens there")
        ours, theirs = channel_pair(BUYER.account, worker)
        mill.streams += [ours, theirs]
        self.nursery.start_soon(self._serve, mill, theirs)
        return ours

    async def run(self, tasks: tuple[WasmTask, ...], **changes: Any) -> Bought:
        fields: dict[str, Any] = {
            "module": MODULE,
            "tasks": tasks,
            "offers": tuple(mill.offer() for mill in self.mills.values()),
            "cap": CREDIT // 2,
            "lock_span_s": 600.0,
        }
        self.outcomes, before = {}, len(self.events)
        report = await run_job(JobOrder(**(fields | changes)), self.buyer, self)
        failed = [event for event in self.events[before:] if isinstance(event, UnitFailed)]
        failures = {event.unit: event.reason for event in failed}
        assert len(failed) == len(failures) == report.failed
        assert sorted([*self.outcomes, *failures]) == list(range(len(tasks)))
        assert report.accepted == len(self.outcomes)
        outcomes = tuple(self.outcomes.get(unit) for unit in range(len(tasks)))
        return Bought(report.job_id, outcomes, failures, report.paid, report.locked, report.liars)

    async def kill_when_busy(self, victim: Mill) -> None:
        """Kill it with some units committed and some in its hands."""
        self.victim = victim
        await self.victim_busy.wait()
        victim.kill()

    def when_behind(self, hold: Callable[[bool], None]) -> None:
        self.hold = hold

    def hear(self, event: Progress, outcome: Outcome | None) -> None:
        self.events.append(event)
        assert (outcome is not None) == isinstance(event, UnitAccepted)
        if isinstance(event, UnitAccepted) and outcome is not None:
            assert event.unit not in self.outcomes
            self.outcomes[event.unit] = outcome
            self.news.set()
        if isinstance(event, UnitCommitted) and self.victim and event.worker == self.victim.account:
            self.victim_busy.set()

    async def results(self, count: int) -> None:
        """Until so many results were handed on."""
        while len(self.outcomes) < count:
            self.news = trio.Event()
            await self.news.wait()

    async def claims_done(self) -> None:
        """Until every living worker has claimed."""
        for mill in self.mills.values():
            if not mill.dead:
                assert await mill.settler.settle_all(60) == 0

    def seen(self, kind: type[Progress]) -> list[Any]:
        return [event for event in self.events if isinstance(event, kind)]


def tasks(count: int) -> tuple[WasmTask, ...]:
    return tuple(WasmTask(MODULE_SHA256, args=(str(n),), limits=LIMITS) for n in range(count))


def memory_journal() -> Journal:
    """A journal without a file: what files are for has tests of its own."""
    return journal_in(sqlite3.connect(":memory:", isolation_level=None))


@asynccontextmanager
async def open_market() -> AsyncIterator[Market]:
    async with trio.open_nursery() as nursery:
        market = Market(Town(), memory_journal(), nursery)
        yield market
        nursery.cancel_scope.cancel()
    for journal in (market.journal, *(mill.journal for mill in market.mills.values())):
        journal.close()
