"""Hostile ends of a lease stream: the other side ends in order and keeps its money (SPEC.md §12)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from executor.core.limits import Limits
from ledger.core.encoding import pack
from ledger.core.entries import Claim, Lock, sign_voucher
from millrace.core import messages, progress
from millrace.core.lease import seal
from millrace.core.messages import Accept, Commit, Committed, Locked, Message, Propose, Ready, Result, Results
from millrace.core.terms import Terms, sign_terms, verify_terms
from millrace.journal import LeaseStanding
from tests.core.ledger.ledger_forge import key
from tests.shell.leases.lease_mill import (
    BUYER,
    LIMITS,
    MODULE,
    MODULE_SHA256,
    PRICE,
    Market,
    MemoryChannel,
    Town,
    channel_pair,
    honest,
    open_market,
    tasks,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from trio.testing import MockClock

SALT = b"s" * 32
GARBAGE = [
    b"",
    b"\xff" * 40,
    pack([1, 2, 3]),
    pack({"t": "nonsense"}),
    pack({"t": "units", "units": [[1, b"x"], [1, b"y"]]}),
    pack({"t": "results", "results": [[0, b"", b""]]}),
    pack({"t": "accept", "sig": b"short"}),
    bytes(messages.FRAME_BYTES_MAX + 1),
]


# -- hostile workers


class Rogue:
    """A worker of the test's own making, one message at a time."""

    def __init__(self, market: Market, play: Callable[[Rogue], Awaitable[None]]) -> None:
        self.market = market
        self.key = key(666)
        self.channel: MemoryChannel
        self.terms: Terms
        self._play = play

    def join(self) -> None:
        market, honest_open = self.market, self.market.open_lease

        async def open_lease(worker: bytes) -> MemoryChannel:
            if worker != self.key.account:
                return await honest_open(worker)  # type: ignore[arg-type]
            ours, self.channel = channel_pair(BUYER.account, self.key.account)
            market.nursery.start_soon(self._run)
            return ours

        object.__setattr__(market.buyer, "open_lease", open_lease)

    async def _run(self) -> None:
        try:
            await self._play(self)
            await trio.sleep_forever()
        except ConnectionError:
            pass

    async def say(self, message: Message) -> None:
        await self.channel.send(messages.encode(message))

    async def hear(self) -> Message:
        return messages.decode(await self.channel.receive())

    async def begin(self) -> tuple[int, ...]:
        """Agree, take the lock, say ready, and return the units that come."""
        proposal = await self.hear()
        assert isinstance(proposal, Propose)
        self.terms = proposal.terms
        network_id = self.market.town.forge.genesis.network_id
        assert verify_terms(self.terms, BUYER.account, proposal.signature, network_id)
        await self.say(Accept(sign_terms(self.terms, self.key, network_id)))
        assert isinstance(await self.hear(), Locked)
        await self.say(Ready())
        units = await self.hear()
        assert isinstance(units, messages.Units)
        return tuple(item.unit for item in units.units)

    def commit(self, unit: int) -> Commit:
        digest = honest(tasks(unit + 1)[unit]).digest()
        return Commit(unit, seal(self.terms.job_id, unit, self.key.account, SALT, digest))

    def result(self, unit: int) -> Result:
        return Result(unit, honest(tasks(unit + 1)[unit]).encode(), SALT)


async def _early_results(rogue: Rogue) -> None:
    (unit, *_) = await rogue.begin()
    await rogue.say(Results((rogue.result(unit),)))


async def _wrong_unit(rogue: Rogue) -> None:
    await rogue.begin()
    await rogue.say(Committed((rogue.commit(55),)))


async def _commit_twice(rogue: Rogue) -> None:
    (unit, *_) = await rogue.begin()
    await rogue.say(Committed((rogue.commit(unit),)))
    await rogue.say(Committed((rogue.commit(unit),)))


async def _other_reveal(rogue: Rogue) -> None:
    units = await rogue.begin()
    await rogue.say(Committed(tuple(Commit(unit, b"c" * 32) for unit in units)))
    while True:
        asked = await rogue.hear()
        if isinstance(asked, messages.Reveal):
            await rogue.say(Results(tuple(rogue.result(unit) for unit in asked.units)))


async def _results_twice(rogue: Rogue) -> None:
    units = await rogue.begin()
    await rogue.say(Committed(tuple(rogue.commit(unit) for unit in units)))
    while True:
        asked = await rogue.hear()
        if isinstance(asked, messages.Reveal):
            shown = Results(tuple(rogue.result(unit) for unit in asked.units))
            await rogue.say(shown)
            await rogue.say(shown)


async def _oversize(rogue: Rogue) -> None:
    units = await rogue.begin()
    huge = honest(tasks(1)[0]).__class__(honest(tasks(1)[0]).status, output=bytes(1001), fuel=1)
    seals = [
        Commit(unit, seal(rogue.terms.job_id, unit, rogue.key.account, SALT, huge.digest())) for unit in units
    ]
    await rogue.say(Committed(tuple(seals)))
    while True:
        asked = await rogue.hear()
        if isinstance(asked, messages.Reveal):
            await rogue.say(Results(tuple(Result(unit, huge.encode(), SALT) for unit in asked.units)))


async def _silent_after_units(rogue: Rogue) -> None:
    await rogue.begin()


async def _silent_from_the_start(rogue: Rogue) -> None:
    await rogue.hear()


async def _buyers_words(rogue: Rogue) -> None:
    await rogue.begin()
    await rogue.say(messages.Reveal((1,)))


async def _wrong_signature(rogue: Rogue) -> None:
    await rogue.hear()
    await rogue.say(Accept(bytes(64)))


PLAYS = [
    _early_results,
    _wrong_unit,
    _commit_twice,
    _other_reveal,
    _results_twice,
    _oversize,
    _silent_after_units,
    _silent_from_the_start,
    _buyers_words,
    _wrong_signature,
]


@pytest.mark.parametrize("play", PLAYS, ids=lambda play: play.__name__.strip("_"))
async def test_a_hostile_worker_gets_nothing_and_the_job_is_done(
    autojump_clock: MockClock, play: Callable[[Rogue], Awaitable[None]]
) -> None:
    async with open_market() as market:
        mills = [market.add_mill(n) for n in range(2)]
        rogue = Rogue(market, play)
        rogue.join()
        offers = (mills[0].offer(), *(mill.offer() for mill in mills[1:]))
        rogue_offer = type(offers[0])(rogue.key.account, rogue.key.account, PRICE, 10**9, 1 << 30, 2)
        work = tasks(16)
        report = await market.run(work, offers=(rogue_offer, *offers))
        assert report.outcomes == tuple(honest(task) for task in work)
        assert market.town.balance(rogue.key.account) == 0
        ends = [e for e in market.events if isinstance(e, progress.LeaseEnded | progress.LeaseRefused)]
        assert any(event.worker == rogue.key.account for event in ends)
        if play is not _results_twice:
            paid = {event.worker for event in market.seen(progress.Paid)}
            assert rogue.key.account not in paid
        market.town.check_books()


@pytest.mark.parametrize("frame", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_from_a_worker(autojump_clock: MockClock, frame: bytes) -> None:
    async def play(rogue: Rogue) -> None:
        await rogue.begin()
        await rogue.channel.send(frame)

    await test_a_hostile_worker_gets_nothing_and_the_job_is_done(autojump_clock, play)


# -- hostile buyers


class Customer:
    """A buyer of the test's own making, against one honest worker."""

    def __init__(self, market: Market) -> None:
        self.market = market
        self.mill = market.add_mill(0)
        self.network_id = market.town.forge.genesis.network_id
        self.terms = Terms(
            buyer=BUYER.account,
            worker=self.mill.account,
            job_id=b"j" * 32,
            nonce=b"n" * 16,
            module_sha256=MODULE_SHA256,
            module_bytes=len(MODULE),
            price_per_tfuel=PRICE,
            amount=20_000,
            expiry_ms=market.town.clock_ms() + 600_000,
            fuel_max=LIMITS.fuel,
            memory_bytes_max=LIMITS.memory_bytes,
            wall_ms_max=10_000,
            output_bytes_max=LIMITS.output_bytes,
            window_units=4,
            replicas=2,
        )
        self.channel: MemoryChannel
        self.lock_id = b""

    async def dial(self) -> None:
        self.channel = await self.market.open_lease(self.mill.account)

    async def say(self, message: Message) -> None:
        await self.channel.send(messages.encode(message))

    async def hear(self) -> Message:
        return messages.decode(await self.channel.receive())

    async def agree(self) -> None:
        await self.dial()
        await self.say(Propose(self.terms, sign_terms(self.terms, BUYER, self.network_id)))
        answer = await self.hear()
        assert isinstance(answer, Accept)
        assert verify_terms(self.terms, self.mill.account, answer.signature, self.network_id)

    async def begin(self) -> None:
        """To RUNNING, with four units taken and committed."""
        await self.agree()
        terms_hash = self.terms.terms_hash(self.network_id)
        action = Lock(self.terms.worker, self.terms.amount, self.terms.expiry_ms, terms_hash)
        receipt = self.market.town.order(BUYER, action)
        self.lock_id = receipt.entry.entry_id(self.network_id)
        await self.say(Locked(receipt.encode()))
        assert isinstance(await self.hear(), messages.NeedModule)
        for offset in range(0, len(MODULE), messages.PIECE_BYTES_MAX):
            await self.say(messages.ModulePiece(offset, MODULE[offset : offset + messages.PIECE_BYTES_MAX]))
        assert isinstance(await self.hear(), Ready)
        work = enumerate(tasks(4))
        await self.say(messages.Units(tuple(messages.Unit(n, task.encode()) for n, task in work)))
        for _ in range(4):
            assert isinstance(await self.hear(), Committed)

    async def pay(self, unit: int, cumulative: int) -> None:
        await self.say(messages.Reveal((unit,)))
        shown = await self.hear()
        assert isinstance(shown, Results)
        due = -(-honest(tasks(4)[unit]).fuel * PRICE // 10**12)
        verdict = messages.Verdict(unit, messages.VerdictCode.PAID, due)
        voucher = sign_voucher(BUYER, self.network_id, self.lock_id, cumulative)
        await self.say(messages.Verdicts((verdict,), voucher))

    async def is_hung_up_on(self) -> str:
        """The worker ends the lease and closes; its reason."""
        reason = ""
        while True:
            try:
                message = await self.hear()
            except ConnectionError:
                return reason
            if isinstance(message, messages.End | messages.Refuse):
                reason = message.reason


def due(unit: int) -> int:
    return -(-honest(tasks(4)[unit]).fuel * PRICE // 10**12)


async def test_a_silent_buyer_is_left_and_the_best_voucher_claimed(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        customer = Customer(market)
        await customer.begin()
        await customer.pay(0, due(0))
        await customer.pay(1, due(0) + due(1))
        assert "time is up" in await customer.is_hung_up_on()
        await market.claims_done()
        assert market.town.balance(customer.mill.account) == due(0) + due(1)
        assert market.town.forge.state.totals().locks_open == 0


async def test_a_buyer_that_vanishes_is_claimed_from(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        customer = Customer(market)
        await customer.begin()
        await customer.pay(2, due(2))
        await trio.sleep(0.1)
        customer.channel.cut()
        await trio.sleep(0.1)
        await market.claims_done()
        assert market.town.balance(customer.mill.account) == due(2)


async def test_without_a_voucher_the_lock_is_given_back(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        customer = Customer(market)
        await customer.begin()
        await customer.say(messages.End("changed my mind"))
        await customer.is_hung_up_on()
        await market.claims_done()
        assert customer.mill.wallet.submitted == [Claim(customer.lock_id, 0)]
        assert market.town.balance(BUYER.account) == 0
        assert market.town.forge.state.totals().locks_open == 0


@pytest.mark.parametrize("cumulative", [1, 19_999, 1 << 47])
async def test_a_wrong_voucher_ends_the_lease_and_the_right_one_is_claimed(
    autojump_clock: MockClock, cumulative: int
) -> None:
    async with open_market() as market:
        customer = Customer(market)
        await customer.begin()
        await customer.pay(0, due(0))
        await customer.pay(1, cumulative)
        assert "voucher" in await customer.is_hung_up_on()
        await market.claims_done()
        assert market.town.balance(customer.mill.account) == due(0)


async def test_locks_that_prove_nothing_are_refused(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        customer = Customer(market)
        network = market.town.forge.genesis
        elsewhere = Town(type(network)("another", network.created_ms, network.witnesses, network.limits))
        right = Lock(
            customer.terms.worker,
            customer.terms.amount,
            customer.terms.expiry_ms,
            customer.terms.terms_hash(customer.network_id),
        )
        other_terms = Lock(right.payee, right.amount, right.expiry_ms, b"t" * 32)
        less = Lock(right.payee, right.amount - 1, right.expiry_ms, right.terms_hash)
        for receipt in (
            elsewhere.order(BUYER, right),
            market.town.order(BUYER, other_terms),
            market.town.order(BUYER, less),
        ):
            await customer.agree()
            await customer.say(Locked(receipt.encode()))
            assert await customer.is_hung_up_on()
        await customer.agree()
        await customer.say(Locked(b"\0" * 100))
        assert await customer.is_hung_up_on()
        assert customer.mill.runner.prepared == 0


@pytest.mark.parametrize("frame", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_from_a_buyer_costs_it_the_lease(autojump_clock: MockClock, frame: bytes) -> None:
    async with open_market() as market:
        customer = Customer(market)
        await customer.begin()
        await customer.pay(0, due(0))
        await customer.channel.send(frame)
        await customer.is_hung_up_on()
        await market.claims_done()
        assert customer.mill.server.active == 0
        assert market.town.balance(customer.mill.account) == due(0)


async def test_a_full_or_draining_worker_says_so(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        customer = Customer(market)
        await customer.agree()
        assert customer.mill.server.active == 1
        assert "time is up" in await customer.is_hung_up_on()
        record = customer.mill.journal.lease(customer.terms.terms_hash(customer.network_id))
        assert record is not None
        await trio.sleep(10)
        record = customer.mill.journal.lease(record.lease_id)
        assert record is not None
        assert record.standing is LeaseStanding.VOID
        customer.mill.server.drain()
        await customer.dial()
        assert "no new leases" in await customer.is_hung_up_on()


async def test_a_price_below_ours_is_refused(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        market.add_mill(0, price_per_tfuel=PRICE + 1)
        market.add_mill(1, ceilings=Limits(fuel=10))
        report = await market.run(tasks(2))
        assert len(report.failures) == 2
        reasons = sorted(event.reason for event in market.seen(progress.LeaseRefused))
        assert "fuel" in reasons[0]
        assert "price" in reasons[1]
        assert report.locked == 0
