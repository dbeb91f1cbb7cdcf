"""A lender's standing offer on a mock clock, what it counts, and a finish that can be hurried."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest
import trio
import trio.testing

from executor.core.outcome import Outcome, Status
from ledger.core.keys import SigningKey
from millrace.capacity import Capacity
from millrace.config import load_config
from millrace.lending import ADVERT_EVERY_S, ADVERT_LOOK_S, Lending, Meter
from millrace.node import FINISH_S, _finish
from millrace.paths import find_paths
from p2p.core.errors import LocalProtocolError

if TYPE_CHECKING:
    from pathlib import Path

    from millrace.node import Node


class Mesh:
    """Hears adverts."""

    account = SigningKey(bytes([5]) * 32).account

    def __init__(self) -> None:
        self.addresses: tuple[str, ...] = ()
        self.said: list[tuple[float, int]] = []
        self.refuse = False

    async def publish_advert(self, advert: Any, ttl_s: float) -> None:
        assert ttl_s > ADVERT_EVERY_S
        if self.refuse:
            raise LocalProtocolError("a clock set back")
        self.said.append((trio.current_time(), advert.slots_free))


class Server:
    """A lease server that only says how busy it is."""

    slots_free = 2
    drained = False

    def drain(self) -> None:
        self.drained = True


async def test_adverts_are_said_at_once_on_change_and_again(
    tmp_path: Path, autojump_clock: trio.testing.MockClock
) -> None:
    config = load_config(find_paths({"MILLRACE_HOME": str(tmp_path)}), {}, system=tmp_path / "none")
    mesh, server = Mesh(), Server()
    lending = Lending(
        config,
        Capacity(2, 1 << 30, 10**9),
        cast("Any", server),
        meter=Meter(cast("Any", None)),
        mesh=cast("Any", mesh),
    )
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lending.advertise)
        await trio.sleep(2 * ADVERT_EVERY_S + 1)
        assert [round(at - began) for at, _ in mesh.said] == [0, 20, 40]
        server.slots_free = 0
        await trio.sleep(ADVERT_LOOK_S)
        assert mesh.said[-1][1] == 0
        mesh.refuse = True
        await trio.sleep(ADVERT_EVERY_S + 1)  # refused, and still alive
        mesh.refuse = False
        await trio.sleep(ADVERT_EVERY_S)
        assert len(mesh.said) == 5
        lending.drain()
        await trio.sleep(3 * ADVERT_EVERY_S)
    assert len(mesh.said) == 5
    assert server.drained


async def test_the_meter_counts_what_the_machine_failed_apart() -> None:
    outcomes = [Outcome(Status.OK), Outcome(Status.TRAP), Outcome(Status.TIMEOUT)]

    class Runner:
        async def prepare(self, module: bytes) -> object:
            return module

        async def run(self, _task: Any) -> Outcome:
            return outcomes.pop(0)

    meter = Meter(cast("Any", Runner()))
    assert await meter.prepare(b"m") == b"m"
    for _ in range(3):
        await meter.run(cast("Any", None))
    assert (meter.done, meter.failed) == (2, 1)


@pytest.mark.parametrize(("hurry_at_s", "took_s"), [(None, FINISH_S), (7.0, 7.0)])
async def test_a_finish_ends_at_its_limit_or_when_hurried(
    autojump_clock: trio.testing.MockClock, hurry_at_s: float | None, took_s: float
) -> None:
    node = SimpleNamespace(
        lending=None, purchases=SimpleNamespace(running=1), settler=None, hurried=trio.Event()
    )
    began = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_finish, cast("Node", node))
        if hurry_at_s is not None:
            await trio.sleep(hurry_at_s)
            node.hurried.set()
    assert trio.current_time() - began == pytest.approx(took_s)
