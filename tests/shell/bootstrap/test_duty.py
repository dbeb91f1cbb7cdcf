"""An entry point's duty: it orders while the committee names it, and goes on serving when it does not."""

from __future__ import annotations

from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

import trio

from bootstrap.duty import Duty
from ledger.archive import Archive
from ledger.core.entries import Transfer
from ledger.service import LedgerService
from ledger.store import open_store
from ledger.sync import Follower
from ledger.wallet import Wallet
from tests.core.ledger_ordering.clusters import KEYS, governed, rotation
from tests.core.ledger_ordering.machines import PAYEE, PAYER, WALL_MS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from trio.testing import MockClock

    from ledger.core.keys import AccountId

FOUR = governed(4)


class Town:
    """Entry points in one process: real duties, real stores, links and requests in memory."""

    def __init__(self, folder: Path, nursery: trio.Nursery, stack: AsyncExitStack) -> None:
        self.folder = folder
        self.nursery = nursery
        self.stack = stack
        self.duties: dict[AccountId, Duty] = {}
        self.services: dict[AccountId, LedgerService] = {}
        self.links: dict[AccountId, Links] = {}

    def clock_ms(self) -> int:
        return WALL_MS + int(trio.current_time() * 1000) % 10**9

    async def request(self, to: AccountId, body: bytes, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        if to not in self.services:
            raise ConnectionError("not running")
        with trio.fail_after(timeout_s):
            return await self.services[to].answer(PAYER.account, body)

    def start(self, number: int) -> Duty:
        key = KEYS[number]
        store = self.stack.enter_context(open_store(self.folder / f"{number}.db", FOUR))
        archive = Archive(store, in_thread=False)
        links = self.links[key.account] = Links(self, key.account)
        entry_points = tuple(key.account for key in KEYS[:4])
        duty = Duty(key, archive, links, self.request, self.clock_ms, entry_points=entry_points)  # type: ignore[arg-type]
        self.duties[key.account] = duty
        self.services[key.account] = LedgerService(
            archive, duty.submit_all, duty.waiting, lambda: duty.trouble
        )
        self.nursery.start_soon(duty.run)
        return duty


class Links:
    """`ConsensusLinks` without streams: who is not of the present committee is not heard."""

    def __init__(self, town: Town, me: AccountId) -> None:
        self._town = town
        self._me = me
        self.present: Sequence[AccountId] = ()

    def change(self, witnesses: Sequence[AccountId]) -> None:
        self.present = witnesses if self._me in witnesses else ()

    async def send(self, to: AccountId, message: bytes) -> None:
        links = self._town.links.get(to)
        if links is not None and self._me in links.present:
            self._town.duties[to].receive(self._me, message)


async def test_a_committee_changes_while_everybody_runs(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        town = Town(tmp_path, nursery, stack)
        duties = [town.start(number) for number in range(6)]
        assert [duty.is_witness for duty in duties] == [True] * 4 + [False] * 2
        store = stack.enter_context(open_store(tmp_path / "payer.db", FOUR))
        archive = Archive(store, in_thread=False)
        follower = Follower(
            FOUR, store, lambda: archive.chain.committee.witnesses, town.request, archive=archive
        )
        nursery.start_soon(follower.run)
        wallet = Wallet(PAYER, FOUR, follower, town.request, store, clock_ms=town.clock_ms)
        with trio.fail_after(60):
            await wallet.submit(Transfer(PAYEE.account, 1))
            await wallet.submit(rotation(FOUR, [0, 4, 5, 1]).action)
            assert follower.committee.epoch == 1
            await wallet.submit(Transfer(PAYEE.account, 2))
            await trio.sleep(3)
            assert [duty.is_witness for duty in duties] == [True, True, False, False, True, True]
            assert not any(duty.trouble for duty in duties)
            await wallet.submit(rotation(FOUR, [2, 3, 4], decree=2).action)
            await wallet.submit(Transfer(PAYEE.account, 4))
            assert await follower.wait_for(lambda: follower.head.height >= 5, 20)
            await trio.sleep(8)
            assert [duty.is_witness for duty in duties] == [False, False, True, True, True, False]
        assert follower.state.account(PAYEE.account).balance == 7
        heads = {service._archive.chain.tip for service in town.services.values()}
        assert len(heads) == 1, "whoever left has the last block too"
        nursery.cancel_scope.cancel()
