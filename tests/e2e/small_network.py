"""A whole small network in one process, over loopback: witnesses, workers, a buyer, with the real sandbox."""

from __future__ import annotations

import os
import time
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from bootstrap.config import BootstrapConfig
from bootstrap.genesis import NetworkFile, save_network
from bootstrap.node import run_bootstrap
from ledger.core.genesis import Genesis
from millrace.config import load_config
from millrace.endpoint import Endpoint
from millrace.node import run_node
from millrace.paths import find_paths
from p2p.identity import create_identity

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from bootstrap.node import Ready
    from executor.runner import Runner
    from millrace.config import NodeConfig
    from millrace.node import Node
    from millrace.rental import Runner as UnitRunner

LOOPBACK = "/ip4/127.0.0.1/tcp/0"
CREDIT_LIMIT = 10_000_000


@dataclass
class Network:
    """The running network; `api` asks a node's local API as a program would."""

    root: Path
    genesis: Genesis
    nodes: dict[str, Node]
    addresses: tuple[str, ...] = ()
    """Where the running witnesses listen."""

    async def api(self, name: str, method: str, **params: Any) -> Any:
        endpoint = Endpoint(self.nodes[name].config.api.socket)
        return await trio.to_thread.run_sync(lambda: endpoint.call(method, wait_s=60, **params))

    def peer(self, name: str) -> str:
        return self.nodes[name].mesh.host.peer_id

    async def offers(self, count: int) -> None:
        """Wait until the buyer has heard so many."""

        async def heard() -> bool:
            return len((await self.api("buyer", "offers"))["offers"]) >= count

        await until(heard)

    async def job(self, name: str, **params: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Run a job through the API of `name`: its events and its final report."""
        endpoint = Endpoint(self.nodes[name].config.api.socket)

        def run() -> tuple[list[dict[str, Any]], dict[str, Any]]:
            with endpoint.stream("job.run", wait_s=60, **params) as stream:
                return list(stream), stream.result

        return await trio.to_thread.run_sync(run)


async def until(holds: Callable[[], bool | Awaitable[bool]], timeout_s: float = 15.0) -> None:
    """Wait until something real has happened, in a network that has no event for it."""
    with trio.fail_after(timeout_s):
        while not (await found if isinstance(found := holds(), Awaitable) else found):  # noqa: ASYNC110
            await trio.sleep(0.05)


def node_config(home: Path, *, lends: bool) -> NodeConfig:
    flags = {
        "node.name": home.name,
        "share.when": "always" if lends else "never",
        "network.listen": LOOPBACK,
        "network.mdns": "false",
    }
    return load_config(find_paths({"MILLRACE_HOME": str(home)}), {}, flags, system=home / "none")


@asynccontextmanager
async def small_network(
    root: Path,
    *,
    witnesses: int = 1,
    workers: int = 2,
    wraps: dict[str, Callable[[Runner], UnitRunner]] | None = None,
    governors: tuple[str, ...] = (),
    away: tuple[str, ...] = (),
) -> AsyncIterator[Network]:
    """`witnesses` entry points, `workers` lenders (worker-0 …) and one buyer; all gone when the block ends.

    All of the `governors`, named like the nodes, must agree. Witnesses that are `away` have a key and do not run.
    """
    await trio.Path(root).chmod(0o700)
    names = [*(f"witness-{n}" for n in range(witnesses)), *(f"worker-{n}" for n in range(workers)), "buyer"]
    keys = {}
    for name in names:
        (root / name).mkdir(mode=0o700)
        keys[name] = create_identity(root / name / "node.key", os.urandom(32))
    genesis = Genesis(
        "test",
        time.time_ns() // 1_000_000,
        tuple(keys[name].account for name in names[:witnesses]),
        ((keys["buyer"].account, CREDIT_LIMIT),),
        slot_timeout_ms=500,
        governors=tuple(keys[name].account for name in governors),
        governors_needed=len(governors),
    )
    network = Network(root, genesis, {})
    async with trio.open_nursery() as nursery:
        addresses: list[str] = []
        for name in [name for name in names[:witnesses] if name not in away]:
            save_network(root / name / "network.toml", NetworkFile(genesis, tuple(addresses)))
            addresses.append(await nursery.start(_bootstrap, root / name))
        for name in names[witnesses:]:
            save_network(root / name / "network.toml", NetworkFile(genesis, tuple(addresses)))
        async with trio.open_nursery() as starting:
            for name in names[witnesses:]:
                wrap = (wraps or {}).get(name)
                starting.start_soon(_start, nursery, network, name, wrap)
        network.addresses = tuple(addresses)
        yield network
        for node in network.nodes.values():
            node.stop()
        await until(lambda: not any((root / name / "api.sock").exists() for name in network.nodes))
        nursery.cancel_scope.cancel()


async def _bootstrap(home: Path, task_status: trio.TaskStatus[str]) -> None:
    def ready(about: Ready) -> None:
        task_status.started(about.addresses[0])

    config = BootstrapConfig(data=home, network=home / "network.toml", listen=(LOOPBACK,))
    await run_bootstrap(config, ready=ready)


async def _start(
    nursery: trio.Nursery, network: Network, name: str, wrap: Callable[[Runner], UnitRunner] | None
) -> None:
    network.nodes[name] = await nursery.start(_node, network.root / name, wrap)


async def _node(
    home: Path, wrap: Callable[[Runner], UnitRunner] | None, task_status: trio.TaskStatus[Node]
) -> None:
    config = node_config(home, lends=home.name.startswith("worker"))
    await run_node(config, runner_wrap=wrap, ready=task_status.started)
