"""Witnesses of one network in one process: real machines, real SQLite files, links and requests in memory."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ledger.archive import Archive
from ledger.core.genesis import Genesis
from ledger.core.keys import AccountId, SigningKey
from ledger.service import LedgerService
from ledger.store import open_store
from ledger.sync import Follower
from ledger.wallet import Wallet
from ledger.witness import Witness

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

CREATED_MS = 1_700_000_000_000
CREDIT = 10_000_000_000


def key(number: int) -> SigningKey:
    return SigningKey(bytes([number]) * 32)


RICH, POOR = key(200), key(201)


class _Node:
    def __init__(self, witness: Witness, service: LedgerService, scope: trio.CancelScope) -> None:
        self.witness = witness
        self.service = service
        self.scope = scope


class MemoryNetwork:
    """Start and stop witnesses by number; `request` reaches the ledger service of those that run."""

    def __init__(self, folder: Path, n: int, *, in_thread: bool = True, slot_timeout_ms: int = 200) -> None:
        self.folder = folder
        self.keys = [key(number + 1) for number in range(n)]
        self.genesis = Genesis(
            name="memory",
            created_ms=CREATED_MS,
            witnesses=tuple(k.account for k in self.keys),
            limits=((RICH.account, CREDIT),),
            slot_timeout_ms=slot_timeout_ms,
        )
        self.nodes: dict[AccountId, _Node] = {}
        self.in_thread = in_thread
        self.stack = AsyncExitStack()
        self.nursery: trio.Nursery

    def clock_ms(self) -> int:
        return CREATED_MS + 1_000 + int(trio.current_time() * 1000) % 10**9

    async def send(self, sender: AccountId, to: AccountId, message: bytes) -> None:
        node = self.nodes.get(to)
        if node is not None and sender in self.nodes:
            node.witness.receive(sender, message)

    async def request(self, witness: AccountId, body: bytes, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        node = self.nodes.get(witness)
        if node is None:
            raise ConnectionError("not running")
        with trio.fail_after(timeout_s):
            return await node.service.answer(RICH.account, body)

    async def start(self, number: int) -> Witness:
        started = trio.Event()
        await self.nursery.start(self._run, number, started)
        return self.nodes[self.keys[number].account].witness

    async def stop(self, number: int) -> None:
        node = self.nodes.pop(self.keys[number].account)
        node.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()

    async def _run(self, number: int, _: trio.Event, *, task_status: trio.TaskStatus[None]) -> None:
        me = self.keys[number]
        network = self

        class Links:
            async def send(self, to: AccountId, message: bytes) -> None:
                await network.send(me.account, to, message)

        with open_store(self.folder / f"witness{number}.db", self.genesis) as store:
            archive = Archive(store, in_thread=self.in_thread)
            witness = Witness(me, archive, Links(), self.request, self.clock_ms)
            with trio.CancelScope() as scope:
                self.nodes[me.account] = _Node(
                    witness, LedgerService(archive, witness.submit_all, witness.waiting), scope
                )
                task_status.started()
                await witness.run()

    @asynccontextmanager
    async def wallet(self, owner: SigningKey, name: str) -> AsyncIterator[Wallet]:
        """A wallet and its running follower."""
        with open_store(self.folder / f"{name}.db", self.genesis) as store:
            archive = Archive(store, in_thread=self.in_thread)
            follower = Follower(
                self.genesis, store, lambda: self.genesis.witnesses, self.request, archive=archive
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.run)
                wallet = Wallet(owner, self.genesis, follower, self.request, store, clock_ms=self.clock_ms)
                yield wallet
                nursery.cancel_scope.cancel()


@asynccontextmanager
async def memory_network(
    folder: Path, n: int, *, running: int | None = None, in_thread: bool = True
) -> AsyncIterator[MemoryNetwork]:
    """A network of `n` witnesses of which the first `running` (all, unless told) run."""
    network = MemoryNetwork(folder, n, in_thread=in_thread)
    async with trio.open_nursery() as nursery:
        network.nursery = nursery
        for number in range(n if running is None else running):
            await network.start(number)
        yield network
        nursery.cancel_scope.cancel()
