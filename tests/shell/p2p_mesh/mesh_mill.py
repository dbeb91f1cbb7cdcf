"""Meshes on loopback for these tests: short intervals, conditions instead of sleeps."""

from __future__ import annotations

import random
import time
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

import trio

from ledger.core.encoding import NetworkId
from ledger.core.keys import AccountId, SigningKey
from p2p.core.adverts import Advert
from p2p.discovery import DiscoveryTiming
from p2p.mesh import Mesh, MeshConfig, MeshTiming, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

NETWORK = NetworkId(bytes(range(32)))
QUICK = MeshTiming(
    reconcile_interval_s=0.3,
    reconcile_again_s=0.05,
    expire_interval_s=0.1,
    save_interval_s=0.2,
    discovery=DiscoveryTiming(
        dial_interval_s=0.1,
        dial_calm_s=0.1,
        yield_s=0.5,
        exchange_interval_s=0.5,
        exchange_hungry_s=0.3,
        bootstrap_check_s=0.1,
        dht_first_s=600.0,
    ),
)
PATIENCE_S = 15.0


def clock_ms() -> int:
    """The wall clock."""
    return time.time_ns() // 1_000_000


def key(number: int) -> SigningKey:
    """A key that is nobody else's in these tests."""
    return SigningKey(number.to_bytes(2, "big") * 16)


def advert_of(mesh: Mesh, slots_free: int = 1) -> Advert:
    """A plain offer; the mesh fills in its addresses."""
    return Advert(kinds=("wasm",), owner=mesh.account, slots_free=slots_free, name="mill")


async def until(condition: Callable[[], bool], what: str) -> None:
    """Return as soon as `condition` holds; a failure that says `what` did not, otherwise."""
    with trio.move_on_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - any condition, none of which has an event
            await trio.sleep(0.01)
        return
    raise AssertionError(f"not within {PATIENCE_S:g} s: {what}")


def offering(mesh: Mesh) -> set[AccountId]:
    """Whose adverts `mesh` sees."""
    return {offer.author for offer in mesh.adverts.items(clock_ms())}


def linked(mesh: Mesh) -> set[AccountId]:
    """Whom `mesh` is connected with."""
    return {link.account for link in mesh.host.links()}


def refusals(mesh: Mesh) -> dict[str, int]:
    """Refused envelopes by reason, without repeats: gossip and reconciliation may both bring the same one."""
    return {reason: count for reason, count in mesh.status().refused.items() if reason != "repeat"}


class Mill:
    """Opens numbered nodes, each with its own folder that survives closing."""

    def __init__(self, folder: Path, stack: AsyncExitStack, timing: MeshTiming) -> None:
        self._folder = folder
        self._stack = stack
        self._timing = timing

    async def open(
        self,
        number: int,
        *bootstrap: Mesh,
        stack: AsyncExitStack | None = None,
        network_id: NetworkId = NETWORK,
    ) -> Mesh:
        """Node `number`, started from the addresses of `bootstrap`."""
        data_dir = self._folder / str(number)
        data_dir.mkdir(exist_ok=True)
        listen_file = data_dir / "listen"
        listen = listen_file.read_text() if listen_file.exists() else "/ip4/127.0.0.1/tcp/0"
        config = MeshConfig(
            data_dir=data_dir,
            listen=(listen,),
            bootstrap=tuple(node.host.addresses[0] for node in bootstrap),
            mdns=False,
            dht_server=True,
            timing=self._timing,
        )
        context = open_mesh(config, key(number), network_id, clock_ms=clock_ms, rng=random.Random(number))
        mesh = await (stack or self._stack).enter_async_context(context)
        # A node keeps its port over restarts, as a configured one does.
        listen_file.write_text(mesh.host.addresses[0].partition("/p2p/")[0])
        return mesh


@asynccontextmanager
async def mill(folder: Path, timing: MeshTiming = QUICK) -> AsyncIterator[Mill]:
    """A place to open nodes in; all are closed at the end."""
    async with AsyncExitStack() as stack:
        yield Mill(folder, stack, timing)
