"""Streams that cost their peers nothing do not keep a worker from those who pay."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from millrace.core.messages import Accept, Propose
from millrace.core.terms import sign_terms
from millrace.work import UNPROVED_MAX
from tests.shell.leases.lease_mill import BUYER, open_market
from tests.shell.leases.test_hostile_peers import Customer, due

if TYPE_CHECKING:
    from trio.testing import MockClock


async def test_a_paying_customer_gets_past_a_silent_crowd(autojump_clock: MockClock) -> None:
    """Sixteen silent streams, of four free keys, took every place of a worker."""
    async with open_market() as market:
        customer = Customer(market)
        crowd = [await market.open_lease(customer.mill.account) for _ in range(3 * UNPROVED_MAX)]
        await trio.sleep(1)
        with trio.fail_after(5):
            await customer.begin()
        # nor is it in their way once its LOCK is proved
        crowd += [await market.open_lease(customer.mill.account) for _ in range(2 * UNPROVED_MAX)]
        await trio.sleep(1)
        await customer.pay(0, due(0))
        customer.channel.cut()
        for stream in crowd:
            stream.cut()
        await market.claims_done()
        assert market.town.balance(customer.mill.account) == due(0)


async def test_whoever_has_no_terms_gives_way_first(autojump_clock: MockClock) -> None:
    async with open_market() as market:
        customer = Customer(market)
        await customer.agree()
        for _ in range(UNPROVED_MAX - 1):
            await market.open_lease(customer.mill.account)
        await trio.sleep(1)
        other = Customer.__new__(Customer)
        other.market, other.mill, other.network_id = market, customer.mill, customer.network_id
        other.terms = replace(customer.terms, nonce=b"o" * 16)
        await other.dial()
        await other.say(Propose(other.terms, sign_terms(other.terms, BUYER, other.network_id)))
        assert isinstance(await other.hear(), Accept)
        assert customer.mill.server.active == 2
