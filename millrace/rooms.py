"""The rooms of one node: ledger copy, wallet, mesh, sandbox, leases, opened in order and closed in order.

`open_node` starts everything but the local API; `node.run_node` adds that, and the node's life around it.
"""

from __future__ import annotations

import logging
import os
import time
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

import trio

from bootstrap.genesis import NetworkFile, check_bootstrap_address, fault_line, load_network
from executor.cache import CacheError
from executor.core.limits import CEILINGS
from executor.core.outcome import Outcome, Status
from executor.runner import ModuleRefused, RunnerConfig, open_runner
from executor.selftest import SandboxError
from executor.zygote import ChildError
from ledger.archive import Archive
from ledger.core.requests import ANSWER_BYTES_MAX
from ledger.store import Store, open_store
from ledger.sync import Follower
from ledger.wallet import Wallet
from millrace.books import Books
from millrace.capacity import fuel_price, measure_machine, offered
from millrace.core.messages import EARLY_FRAME_BYTES_MAX, FRAME_BYTES_MAX
from millrace.journal import Journal, open_journal
from millrace.keyring import load_keyring, settle_files
from millrace.leases import Buyer
from millrace.lending import Lending, Meter
from millrace.purchase import Purchases
from millrace.settle import Settler
from millrace.work import LEASE_PROTOCOL, LeaseServer, Worker, WorkPolicy
from p2p.mesh import Mesh, MeshConfig, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from executor.core.task import WasmTask
    from executor.runner import Runner
    from ledger.core.keys import AccountId, SigningKey
    from millrace.capacity import Capacity
    from millrace.config import NodeConfig
    from millrace.rental import Runner as UnitRunner
    from p2p.streams import Channel

__all__ = ["Node", "clock_ms", "open_node"]

LEDGER: Final = "ledger"
"""The name under which witnesses serve the ledger: /millrace/<network>/ledger/1."""
LEASES_PER_PEER_MAX: Final = 4
MEASURE_AGAIN_S: Final = 30.0

_log = logging.getLogger("millrace")


@dataclass(slots=True)
class Node:
    """What stands while a node runs; the local API reads it, `stop` ends it."""

    config: NodeConfig
    key: SigningKey
    network: NetworkFile
    mesh: Mesh
    follower: Follower
    wallet: Wallet
    books: Books
    journal: Journal
    settler: Settler
    purchases: Purchases
    runner: Runner | None
    lending: Lending | None = None
    lending_off: str = ""
    """Why nothing is lent, in words; empty while something is."""
    started_s: float = field(default_factory=time.monotonic)
    stopping: trio.Event = field(default_factory=trio.Event)
    hurried: trio.Event = field(default_factory=trio.Event)
    """Set when the stop is not to wait for anything in hand."""

    @property
    def account(self) -> AccountId:
        """Who this node is."""
        return self.key.account

    def clock_ms(self) -> int:
        """Wall time."""
        return clock_ms()

    def stop(self, *, finish: bool = False) -> None:
        """Begin an orderly shutdown; with `finish`, leases in hand end first, unless a later call hurries it."""
        if not finish:
            self.hurried.set()
        self.stopping.set()


def clock_ms() -> int:
    """Wall time in milliseconds since the Unix epoch: for signatures, adverts and expiries."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def open_node(
    config: NodeConfig, runner_wrap: Callable[[Runner], UnitRunner] | None
) -> AsyncIterator[Node]:
    """Open the rooms in the order in which they need each other; close them in the opposite one."""
    keyring = load_keyring(config.paths)
    key = keyring.identity
    network = load_network(config.paths.network)
    async with AsyncExitStack() as rooms:
        journal = rooms.enter_context(open_journal(config.paths.journal))
        journal.interrupt_jobs()
        store = rooms.enter_context(closing(open_store(config.paths.ledger, network.genesis)))
        archive = await trio.to_thread.run_sync(Archive, store)
        runner, sandbox_off = await _open_runner(config, rooms)
        mesh = await rooms.enter_async_context(_open_mesh(config, key, network))
        node = _assemble(
            config, key, network, mesh=mesh, archive=archive, store=store, journal=journal, runner=runner
        )
        for spending in keyring.keys:
            node.wallet.hold(spending)
        settle_files(config.paths, node.follower.state.key_of(key.account))
        node.lending_off = "" if config.share.lends else 'share.when is "never"'
        node.lending_off = sandbox_off or node.lending_off
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.follower.run)
            nursery.start_soon(archive.scrub)
            nursery.start_soon(node.wallet.run)
            nursery.start_soon(node.settler.run)
            if runner is not None and config.share.lends:
                node.lending_off = "measuring this machine"
                nursery.start_soon(_lend, node, runner, runner_wrap)
            yield node
            nursery.cancel_scope.cancel()


def _assemble(
    config: NodeConfig,
    key: SigningKey,
    network: NetworkFile,
    *,
    mesh: Mesh,
    archive: Archive,
    store: Store,
    journal: Journal,
    runner: Runner | None,
) -> Node:
    """The node's parts, joined; starts nothing."""
    genesis = network.genesis

    async def request(account: AccountId, body: bytes, timeout_s: float) -> bytes:
        return await mesh.requests.request(account, LEDGER, body, timeout_s, body_bytes_max=ANSWER_BYTES_MAX)

    entry_points = tuple(
        account
        for account in (check_bootstrap_address(text)[1] for text in network.bootstrap)
        if account != key.account
    )

    def sources() -> tuple[AccountId, ...]:
        witnesses = archive.chain.committee.witnesses
        linked = tuple(witness for witness in witnesses if mesh.host.is_linked(witness))
        return (*(linked or witnesses), *(account for account in entry_points if account not in witnesses))

    async def open_lease(worker: AccountId) -> Channel:
        return await mesh.host.open(worker, LEASE_PROTOCOL, frame_bytes_max=FRAME_BYTES_MAX)

    is_recent = config.ledger.history == "recent"
    follower = Follower(genesis, store, sources, request, archive=archive, is_recent=is_recent)
    wallet = Wallet(key, genesis, follower, request, store, clock_ms=clock_ms)
    books = Books(key.account, follower)
    settler = Settler(journal, wallet, lambda: follower.state, clock_ms)
    buyer = Buyer(
        key=key,
        genesis=genesis,
        open_lease=open_lease,
        wallet=wallet,
        arbiter=runner if runner is not None else _NoRunner(),
        journal=journal,
        clock_ms=clock_ms,
        random_bytes=os.urandom,
    )
    purchases = Purchases(
        buyer,
        mesh.adverts,
        follower=follower,
        books=books,
        spend=config.spend,
        is_linked=mesh.host.is_linked,
    )
    return Node(config, key, network, mesh, follower, wallet, books, journal, settler, purchases, runner)


@asynccontextmanager
async def _open_mesh(config: NodeConfig, key: SigningKey, network: NetworkFile) -> AsyncIterator[Mesh]:
    entry_points = config.network.entry_points(network.bootstrap)
    mesh_config = MeshConfig(
        data_dir=config.paths.data,
        listen=config.network.listen,
        bootstrap=tuple(text for text in entry_points if check_bootstrap_address(text)[1] != key.account),
        mdns=config.network.mdns,
    )
    async with open_mesh(mesh_config, key, network.network_id, clock_ms=clock_ms) as mesh:
        for text in mesh_config.bootstrap:
            mesh.host.add_addresses(check_bootstrap_address(text)[1], [text])
        _log.info("network %r: %s", network.name, fault_line(network.genesis.committee))
        yield mesh


async def _open_runner(config: NodeConfig, rooms: AsyncExitStack) -> tuple[Runner | None, str]:
    """The sandbox, or None and why there is none: such a node neither lends nor re-executes, but it can buy."""
    capacity = _capacity(config)
    runner_config = RunnerConfig(
        cache_dir=config.paths.cache,
        slots=max(1, capacity.slots),
        zygotes_max=max(4, capacity.slots),
        ceilings=replace(CEILINGS, memory_bytes=_unit_memory(capacity)),
        secrets=(
            config.paths.key,
            config.paths.account_key,
            config.paths.next_key,
            config.paths.ledger,
            config.paths.journal,
        ),
    )
    try:
        return await rooms.enter_async_context(open_runner(runner_config)), ""
    except (SandboxError, CacheError) as error:
        _log.warning("no sandbox, so nothing is lent: %s", error)
        return None, f"no sandbox: {error}"


async def _lend(node: Node, runner: Runner, runner_wrap: Callable[[Runner], UnitRunner] | None) -> None:
    """Measure the machine, serve leases, advertise; runs as long as the node."""
    config = node.config
    capacity = replace(_capacity(config), fuel_per_s=await _measure(node, runner))
    meter = Meter(runner if runner_wrap is None else runner_wrap(runner))
    worker = Worker(
        key=node.key,
        genesis=node.network.genesis,
        runner=meter,
        journal=node.journal,
        settler=node.settler,
        clock_ms=clock_ms,
        random_bytes=os.urandom,
    )
    policy = WorkPolicy(
        price_per_tfuel=fuel_price(config.price.core_hour, config.price.minimum, capacity.fuel_per_s),
        ceilings=replace(CEILINGS, memory_bytes=_unit_memory(capacity)),
        slots=capacity.slots,
    )
    server = LeaseServer(worker, policy)

    node.mesh.host.serve(
        LEASE_PROTOCOL,
        lambda channel: server.handle(channel, lambda: channel.allow(FRAME_BYTES_MAX)),
        frame_bytes_max=FRAME_BYTES_MAX,
        receive_bytes_max=EARLY_FRAME_BYTES_MAX,
        streams_per_peer_max=LEASES_PER_PEER_MAX,
    )
    node.lending = Lending(config, capacity, server, meter=meter, mesh=node.mesh)
    node.lending_off = ""
    _log.info("lending %d slots at %d fuel/s each", capacity.slots, capacity.fuel_per_s)
    await node.lending.advertise()


async def _measure(node: Node, runner: Runner) -> int:
    """Fuel per second of one slot; tried again until it works, and meanwhile nothing is lent."""
    while True:
        try:
            return await runner.benchmark()
        except (ChildError, ModuleRefused) as error:
            node.lending_off = f"the benchmark failed: {error}"
            _log.warning("%s; trying again in %g s", node.lending_off, MEASURE_AGAIN_S)
        await trio.sleep(MEASURE_AGAIN_S)


def _capacity(config: NodeConfig) -> Capacity:
    share = config.share
    return offered(measure_machine(), share.cpu_percent if share.lends else 0, share.memory_percent)


def _unit_memory(capacity: Capacity) -> int:
    """What one unit may ask for: an equal part of the memory that is lent."""
    return min(CEILINGS.memory_bytes, max(64 << 20, capacity.memory_bytes // max(1, capacity.slots)))


class _NoRunner:
    """Stands where a sandbox should: it says so, for every unit."""

    async def prepare(self, _module: bytes) -> object:
        return None

    async def run(self, _task: WasmTask) -> Outcome:
        return Outcome(Status.REFUSED, stderr=b"this machine has no sandbox")
