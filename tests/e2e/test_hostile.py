"""A network of real processes under attack from outside: afterwards everything still holds.

Each test does its worst and then asks one question, `HostileNetwork.check`: all processes live, the local APIs
answer within a second, no process grew by 50 MB or kept ten descriptors more, a real job is done by two workers and
settled, the ledger replays from genesis and its sum is zero.
"""

from __future__ import annotations

import os
import signal
import time
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ledger.core.encoding import pack
from ledger.core.keys import peer_id
from millrace.demo.network import BUYER
from millrace.demo.processes import Crew
from p2p.core.protocols import protocol_id
from tests.e2e import attacker, impostor
from tests.e2e.hostile_network import HostileNetwork, found

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractAsyncContextManager

pytestmark = pytest.mark.e2e
WITNESS, WORKER, OTHER = "witness-0", "worker-0", "worker-1"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileNetwork]:
    """One witness, two workers and a buyer; every test attacks the same processes."""
    with Crew() as crew:
        running = found(tmp_path_factory.mktemp("net"), crew)
        running.start()
        yield running


@pytest.fixture(autouse=True)
def unharmed(network: HostileNetwork) -> Iterator[None]:
    """Whatever a test did, the network is as it was."""
    network.before = network.footprints()
    yield
    network.check()


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def protocol(network: HostileNetwork, name: str) -> str:
    return protocol_id(network.genesis.network_id, name)


async def work_during(attack: AbstractAsyncContextManager[Any], network: HostileNetwork) -> None:
    """The network does a job while the attack goes on."""
    async with attack:
        await trio.to_thread.run_sync(partial(network.run_job, wait_s=20))
        await trio.to_thread.run_sync(network.check_answers)


async def everywhere(network: HostileNetwork, attack: Callable[..., Any], *args: Any) -> None:
    async with trio.open_nursery() as nursery:
        for address in network.addresses().values():
            nursery.start_soon(attack, address, *args)


async def test_garbage_on_every_socket(network: HostileNetwork) -> None:
    await everywhere(network, attacker.throw_garbage)


@pytest.mark.parametrize("name", [WITNESS, WORKER])
async def test_three_hundred_silent_and_half_closed_sockets(network: HostileNetwork, name: str) -> None:
    await work_during(attacker.silent_sockets(network.address(name), 300), network)


async def test_connections_that_speak_a_byte_at_a_time(network: HostileNetwork) -> None:
    await work_during(attacker.slow_senders(network.address(WITNESS), 100), network)


@pytest.mark.parametrize("name", [WITNESS, WORKER])
async def test_garbage_on_every_protocol(network: HostileNetwork, name: str) -> None:
    await attacker.tell_every_protocol(network.address(name), network.genesis.network_id)


async def test_a_frame_that_unpacks_to_millions(network: HostileNetwork) -> None:
    """It froze a worker for four seconds and took 340 MB."""
    for name, bomb in (("lease", attacker.msgpack_bomb()), ("ledger", b"\xdd\x00\x01\x00\x00" * 200)):
        for at in (WORKER, WITNESS):
            async with attacker.knocking(network.address(at)) as muxed:
                await attacker.tell(muxed, protocol(network, name), attacker.request(bomb))
                await trio.to_thread.run_sync(network.check_answers)


async def test_long_polls_of_forty_strangers(network: HostileNetwork) -> None:
    """They took every place of a witness, and a network of one stood still."""
    poll = pack({"op": "blocks", "height": 1 << 40, "count": 64, "wait_ms": 25_000})
    polls = b"".join(attacker.request(poll, number) for number in range(16))
    address, name = network.address(WITNESS), protocol(network, "ledger")
    await work_during(attacker.many_streams([address], name, keys=40, streams=1, data=polls), network)


async def test_askers_that_do_not_read(network: HostileNetwork) -> None:
    """They made a witness hold 220 MB of answers."""
    ask = pack({"op": "blocks", "height": 1, "count": 64, "wait_ms": 0})
    asks = b"".join(attacker.request(ask, number) for number in range(1_000))
    address, name = network.address(WITNESS), protocol(network, "ledger")
    await work_during(attacker.many_streams([address], name, keys=20, streams=2, data=asks), network)


async def test_lease_streams_that_say_nothing(network: HostileNetwork) -> None:
    """They took every place of a worker."""
    workers = [network.address(WORKER), network.address(OTHER)]
    await work_during(attacker.many_streams(workers, protocol(network, "lease"), keys=6, streams=4), network)


async def test_lease_streams_that_begin_long_frames(network: HostileNetwork) -> None:
    half = (4 << 20).to_bytes(4, "big") + bytes((4 << 20) - 1)
    streams = attacker.many_streams(
        [network.address(WORKER)], protocol(network, "lease"), keys=4, streams=4, data=half
    )
    await work_during(streams, network)


async def test_adverts_that_must_not_be_believed(network: HostileNetwork) -> None:
    await everywhere(network, impostor.gossip_lies, network.genesis.network_id, now_ms())
    offers = network.demo.endpoint(BUYER).call("offers")["offers"]
    assert {peer_id(network.account(name)) for name in network.workers} <= {offer["peer"] for offer in offers}


async def test_entries_that_no_ledger_takes(network: HostileNetwork) -> None:
    network_id, victim = network.genesis.network_id, network.account(BUYER)
    before = network.demo.endpoint(BUYER).call("ledger.head")["tree_size"]
    said = await impostor.submit_badly(network.address(WITNESS), network_id, victim, now_ms())
    assert not set(said.values()) & {"waiting", "final"}, said
    assert network.demo.endpoint(BUYER).call("ledger.head")["tree_size"] == before
    await impostor.flood_ledger(network.address(WITNESS), network_id, 500, now_ms())


async def test_leases_that_no_worker_grants(network: HostileNetwork) -> None:
    said = await impostor.propose_badly(network.address(WORKER), network.genesis.network_id, now_ms())
    assert all(answer.startswith(("End", "Refuse", "hung up")) for answer in said.values()), said
    assert "proves nothing" in said["foreign-receipt"]


async def test_garbage_and_a_thousand_clients_on_the_local_api(network: HostileNetwork) -> None:
    for name in network.peers:
        await attacker.throw_at_api(network.demo.endpoint(name).path)
    await work_during(attacker.held_clients(network.demo.endpoint(BUYER).path, 1_000), network)


def test_another_user_does_not_reach_the_local_api(network: HostileNetwork) -> None:
    if os.getuid() != 0:
        pytest.skip("only root can become another user")
    child = os.fork()
    if not child:
        os.setgid(65_534)
        os.setuid(65_534)
        os._exit(0 if network.demo.ask(BUYER, "status") is None else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_a_worker_killed_and_started_again_settles(network: HostileNetwork) -> None:
    """SIGKILL between two jobs' leases: it comes back with its journal and its peers."""
    network.demo.crew.kill(network.members[WORKER])
    network.restart(WORKER)


def test_a_frozen_witness_that_thaws(network: HostileNetwork) -> None:
    witness = network.members[WITNESS].pid
    os.kill(witness, signal.SIGSTOP)
    try:
        network.check_answers()
    finally:
        os.kill(witness, signal.SIGCONT)
