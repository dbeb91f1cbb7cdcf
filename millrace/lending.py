"""What this node lends: its sandbox, the leases it serves, and the advert that says so (SPEC.md §10, §12)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

import trio

from millrace.capacity import compose_advert
from p2p.core.errors import LocalProtocolError

if TYPE_CHECKING:
    from executor.core.outcome import Outcome
    from executor.core.task import WasmTask
    from millrace.capacity import Capacity
    from millrace.config import NodeConfig
    from millrace.rental import Runner
    from millrace.work import LeaseServer
    from p2p.mesh import Mesh

__all__ = ["ADVERT_EVERY_S", "ADVERT_TTL_S", "Lending", "Meter"]

ADVERT_EVERY_S: Final = 20.0
"""How often an unchanged advert is said again."""
ADVERT_TTL_S: Final = 90
"""How long an advert is good for: a node that is gone leaves the market after at most this long."""
ADVERT_LOOK_S: Final = 2.0
"""How often free slots are looked at; the network lets one author speak every two seconds."""

_log = logging.getLogger(__name__)


class Meter:
    """A runner that counts what it ran: the units this node has worked on since it began."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self.done = 0
        self.failed = 0

    async def prepare(self, module: bytes) -> object:
        """As the runner's."""
        return await self._runner.prepare(module)

    async def run(self, task: WasmTask) -> Outcome:
        """As the runner's; what a machine, not the unit, brought to an end counts as failed."""
        outcome = await self._runner.run(task)
        if outcome.deterministic:
            self.done += 1
        else:
            self.failed += 1
        return outcome


class Lending:
    """A worker's standing offer. `advertise` runs beside the node."""

    def __init__(
        self,
        config: NodeConfig,
        capacity: Capacity,
        server: LeaseServer,
        *,
        meter: Meter,
        mesh: Mesh,
    ) -> None:
        self.capacity = capacity
        self.server = server
        self.meter = meter
        self._config = config
        self._mesh = mesh
        self.withdrawn = False

    async def advertise(self) -> None:
        """Publish the advert now, whenever the free slots or the addresses change, and every ADVERT_EVERY_S."""
        told: tuple[int, tuple[str, ...]] | None = None
        told_at = -ADVERT_EVERY_S
        while not self.withdrawn:
            now = (self.server.slots_free, self._mesh.addresses)
            if now != told or trio.current_time() - told_at >= ADVERT_EVERY_S:
                advert = compose_advert(
                    self._config, self._mesh.account, self.capacity, slots_free=now[0], addresses=now[1]
                )
                try:
                    await self._mesh.publish_advert(advert, ADVERT_TTL_S)
                except LocalProtocolError as error:  # a clock set far back; the next round may be taken
                    _log.warning("the advert was not published: %s", error)
                told, told_at = now, trio.current_time()
            await trio.sleep(ADVERT_LOOK_S)

    def drain(self) -> None:
        """Take no new leases and stop advertising; those in hand go on."""
        self.withdrawn = True
        self.server.drain()
