"""Four real entry points on loopback: a payment becomes final, also after one witness was killed."""

from __future__ import annotations

import json
import secrets
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from bootstrap.genesis import NetworkFile, check_bootstrap_address, load_network
from bootstrap.node import LEDGER, clock_ms
from ledger.core.audit import audit
from ledger.core.entries import Transfer
from ledger.core.keys import AccountId, SigningKey, peer_id
from ledger.core.requests import ANSWER_BYTES_MAX
from ledger.store import open_store
from ledger.sync import Follower
from ledger.wallet import Wallet
from p2p.mesh import MeshConfig, open_mesh

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.e2e
START_S = 60.0
FINAL_S = 30.0


class EntryPoint:
    """One bootstrap process, started as an operator would start it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[str] | None = None

    def start(self, network: Path) -> None:
        command = ["bootstrap", "run", "--data", str(self.folder), "--network", str(network), "--json"]
        self.log = (self.folder / "log").open("a")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "millrace.cli.main", *command],
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )

    def wait_until_ready(self) -> dict[str, object]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, (self.folder / "log").read_text()
        document: dict[str, object] = json.loads(line)
        return document

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        assert self.process is not None
        assert self.process.stdout is not None
        self.process.send_signal(how)
        try:
            return self.process.wait(15)
        finally:
            self.process.kill()
            self.process.wait()
            self.process.stdout.close()
            self.log.close()


def millrace(*command: str) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-m", "millrace.cli.main", *command, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def free_ports(count: int) -> list[int]:
    with ExitStack() as open_sockets:
        sockets = [open_sockets.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


def make_network(folder: Path, count: int, payer: AccountId) -> tuple[list[EntryPoint], Path]:
    points, witnesses = [], []
    for number, port in enumerate(free_ports(count), 1):
        made = millrace(
            "bootstrap",
            "init",
            "--data",
            str(folder / f"w{number}"),
            "--listen",
            f"/ip4/127.0.0.1/tcp/{port}",
        )
        points.append(EntryPoint(Path(str(made["data"]))))
        witnesses += ["--witness", str(made["witness"])]
    path = folder / "network.toml"
    limit = f"{peer_id(payer)}=100"
    made = millrace("network", "create", "e2e", *witnesses, "--limit", limit, "-o", str(path))
    assert made["faults_tolerated"] == (count - 1) // 3
    return points, path


@pytest.fixture
def running(tmp_path: Path) -> Iterator[list[EntryPoint]]:
    points: list[EntryPoint] = []
    yield points
    for point in points:
        if point.process is not None and point.process.poll() is None:
            point.end(signal.SIGKILL)


@asynccontextmanager
async def payer(
    key: SigningKey, network: NetworkFile, folder: Path
) -> AsyncIterator[tuple[Wallet, Follower]]:
    """A wallet on its own host: as much of a node as a payment needs."""
    genesis = network.genesis
    config = MeshConfig(folder, ("/ip4/127.0.0.1/tcp/0",), network.bootstrap, mdns=False)
    with closing(open_store(folder / "ledger.db", genesis)) as store:
        async with open_mesh(config, key, network.network_id, clock_ms=clock_ms) as mesh:
            for address in network.bootstrap:
                mesh.host.add_addresses(check_bootstrap_address(address)[1], [address])

            async def request(account: AccountId, body: bytes, timeout_s: float) -> bytes:
                return await mesh.requests.request(
                    account, LEDGER, body, timeout_s, body_bytes_max=ANSWER_BYTES_MAX
                )

            follower = Follower(genesis, store, lambda: genesis.witnesses, request)
            wallet = Wallet(key, genesis, follower, request, store, clock_ms=clock_ms)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.run)
                yield wallet, follower
                nursery.cancel_scope.cancel()


async def test_payments_survive_the_death_of_a_witness(tmp_path: Path, running: list[EntryPoint]) -> None:
    key, payee = SigningKey(secrets.token_bytes(32)), SigningKey(secrets.token_bytes(32)).account
    points, path = make_network(tmp_path, 4, key.account)
    running += points
    for point in points:
        point.start(path)
    for point in points:
        ready = await trio.to_thread.run_sync(point.wait_until_ready)
        assert ready["witness"] is True
    network = load_network(path)
    (tmp_path / "payer").mkdir()
    async with payer(key, network, tmp_path / "payer") as (wallet, follower):
        first = await wallet.submit(Transfer(payee, 1_000_000, bytes(32)), timeout_s=FINAL_S)
        first.verify(network.genesis)
        points[0].end(signal.SIGKILL)
        second = await wallet.submit(Transfer(payee, 2_000_000, bytes(32)), timeout_s=FINAL_S)
        second.verify(network.genesis)
        points[0].start(path)  # it comes back with the votes that it had made durable, and catches up
        await trio.to_thread.run_sync(points[0].wait_until_ready)
        points[1].end(signal.SIGKILL)
        third = await wallet.submit(Transfer(payee, 3_000_000, bytes(32)), timeout_s=FINAL_S)
        assert follower.state.account(payee).balance == 6_000_000
        assert follower.state.account(key.account).balance == -6_000_000
        audit(network.genesis, follower.blocks())
        (tmp_path / "receipt").write_bytes(third.encode())
    verdict = millrace("ledger", "verify", str(tmp_path / "receipt"), "--network", str(path))
    assert verdict["valid"] is True
    assert verdict["amount"] == 3_000_000
    for point in (points[0], points[2], points[3]):
        assert point.end() == 0


def test_an_entry_point_refuses_what_would_hurt(tmp_path: Path, running: list[EntryPoint]) -> None:
    points, path = make_network(tmp_path, 1, SigningKey(secrets.token_bytes(32)).account)
    running += points
    points[0].start(path)
    assert points[0].wait_until_ready()["witness"] is True
    again = subprocess.run(
        [sys.executable, "-m", "bootstrap.node", "--data", str(points[0].folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert again.returncode == 2
    assert "another entry point uses" in again.stderr
    started = time.monotonic()
    assert points[0].end(signal.SIGINT) == 0
    assert time.monotonic() - started < 10
    (points[0].folder / "node.key").chmod(0o644)
    loose = subprocess.run(
        [sys.executable, "-m", "bootstrap.node", "--data", str(points[0].folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert loose.returncode == 2
    assert "0644" in loose.stderr
