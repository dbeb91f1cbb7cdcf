"""A committee of four witness processes on loopback under load, and how fast it makes entries final.

Everything is real: four `bootstrap.node` processes with their disks and libp2p, and `ledger_load` with the clients
and a follower in a fifth. All of them share this machine's cores.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import select
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from benchmarks.ledger_load import Phase, client_key
from benchmarks.measure import Figure, Least, Most, bar, verify_alone
from bootstrap.config import BootstrapConfig, save_bootstrap_config
from bootstrap.genesis import NetworkFile, save_network
from ledger.core.encoding import Kind, NetworkId, signing_bytes
from ledger.core.genesis import Genesis
from ledger.core.keys import peer_id
from millrace.demo.network import free_ports
from p2p.identity import create_identity

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Committee", "PhaseResult", "committee", "finality"]

RATE_TARGET: Final = 1_500
BUSY_MS_TARGET: Final = 150
IDLE_MS_TARGET: Final = 40
IDLE_RATE: Final = 8.0
CLIENTS: Final = 384
"""Accounts that keep one entry each on its way, where the most that goes through is looked for."""
COPIES: Final = 2
"""f + 1: of so many witnesses, one is honest. A wallet's resubmission asks the others."""
WITNESSES: Final = 4
ACCOUNTS: Final = 512
LIMIT: Final = 10**9
SAMPLE_S: Final = 0.25
SAMPLE_SIGNATURES: Final = 20
STOP_S: Final = 15.0
PEERS: Final = 5
"""Peers of the load process: the follower's, and those through which the accounts speak."""


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """What the load process saw, and the CPU seconds of each witness and of the load process meanwhile."""

    seen: dict[str, Any]
    witness_cpu_s: tuple[float, ...]
    verify_us: float
    """CPU microseconds of one bare verification, sampled while the phase ran: how busy the machine was."""


class Committee:
    """The running processes; `run` plays one phase after another."""

    def __init__(
        self, root: Path, witnesses: list[subprocess.Popen[bytes]], load: subprocess.Popen[bytes]
    ) -> None:
        self.root = root
        self._witnesses = witnesses
        self._load = load
        key = client_key(0)
        body = bytes(129)
        signed = key.sign(Kind.ENTRY, NetworkId(bytes(32)), body) + signing_bytes(
            Kind.ENTRY, NetworkId(bytes(32)), body
        )
        self._signed = [(key.account, signed)] * SAMPLE_SIGNATURES

    def next_phase(self) -> PhaseResult:
        """Wait for the next phase to be over."""
        before = [_cpu_s(process.pid) for process in self._witnesses]
        assert self._load.stdout is not None
        assert self._load.stdin is not None
        self._load.stdin.write(b"\n")
        self._load.stdin.flush()
        verified: list[float] = []
        while not select.select([self._load.stdout], [], [], SAMPLE_S)[0]:
            start = time.thread_time()
            verify_alone(self._signed)
            verified.append((time.thread_time() - start) / len(self._signed) * 1e6)
        line = self._load.stdout.readline()
        if not line:
            raise RuntimeError(
                "the load process ended early:\n" + (self.root / "load.log").read_text()[-2000:]
            )
        after = [_cpu_s(process.pid) for process in self._witnesses]
        used = tuple(b - a for a, b in zip(before, after, strict=True))
        return PhaseResult(json.loads(line), used, statistics.median(verified or [math.nan]))


def finality(seconds: float) -> Iterator[Figure]:
    """Four witnesses idle, at full load, and at half of the rate that is the target."""
    phases = [
        Phase("idle", seconds, rate=IDLE_RATE),
        Phase("warm-up", seconds / 3, clients=CLIENTS),
        Phase("full", seconds, clients=CLIENTS),
        Phase("half", seconds, rate=RATE_TARGET / 2),
    ]
    each = math.ceil(RATE_TARGET * 2 * seconds / ACCOUNTS)
    with committee(phases, copies=COPIES, signed_each=each) as running:
        turns = bar("committee", phases, len(phases))
        results = {phase.name: running.next_phase() for phase in turns}
    idle, full, half = results["idle"], results["full"], results["half"]
    rate = full.seen["final"] / full.seen["seconds"]
    part = "committee of four processes"
    yield Figure(
        part,
        f"entries final per second, {len(os.sched_getaffinity(0))} cores for all",
        rate,
        "/s",
        Least(RATE_TARGET),
    )
    yield Figure(
        part,
        f"finality at {RATE_TARGET // 2} entries/s, p50",
        half.seen["p50_ms"],
        "ms",
        Most(BUSY_MS_TARGET),
    )
    yield Figure(part, f"finality at {RATE_TARGET // 2} entries/s, p99", half.seen["p99_ms"], "ms")
    yield Figure(part, "finality unloaded, p50", idle.seen["p50_ms"], "ms", Most(IDLE_MS_TARGET))
    yield Figure(part, "finality unloaded, p99", idle.seen["p99_ms"], "ms")
    for name, result in (("full load", full), ("half load", half)):
        seen = result.seen
        count = max(1, seen["final"])
        witnesses_us = sum(result.witness_cpu_s) / len(result.witness_cpu_s) / count * 1e6
        all_s = sum(result.witness_cpu_s) + seen["cpu_s"]
        yield Figure(part, f"{name}: cores that all processes together got", all_s / seen["seconds"], "")
        yield Figure(part, f"{name}: entries per CPU second of all processes", count / all_s, "/s")
        yield Figure(part, f"{name}: CPU per entry of one witness", witnesses_us, "µs")
        yield Figure(part, f"{name}: the same, in bare verifications", witnesses_us / result.verify_us, "x")
        yield Figure(
            part, f"{name}: CPU per entry of clients and follower", seen["cpu_s"] / count * 1e6, "µs"
        )
        yield Figure(part, f"{name}: a bare verification meanwhile", result.verify_us, "µs")
        yield Figure(part, f"{name}: entries per block", count / max(1, seen["blocks"]), "")
        yield Figure(part, f"{name}: refused or lost", seen["refused"] + seen["lost"], "")


@contextlib.contextmanager
def committee(phases: list[Phase], *, copies: int, signed_each: int) -> Iterator[Committee]:
    """Four witnesses and the load process; whatever happens, none of them and no file is left."""
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory(prefix=f"millrace-committee-{os.getpid()}-") as folder:
        root = Path(folder)
        try:
            for home in _found(root):
                options = ("--data", str(home), "--json", "--log", "warning")
                processes.append(_start(home / "log", "bootstrap.node", *options))
            for process in processes:
                _await_ready(process)
            plan = {
                "root": str(root),
                "accounts": ACCOUNTS,
                "copies": copies,
                "peers": PEERS,
                "signed_each": signed_each,
                "phases": [asdict(phase) for phase in phases],
            }
            (root / "plan.json").write_text(json.dumps(plan))
            load = _start(root / "load.log", "benchmarks.ledger_load", str(root / "plan.json"))
            processes.append(load)
            yield Committee(root, processes[:-1], load)
        finally:
            _stop(processes)


def _found(root: Path) -> list[Path]:
    homes = [root / f"witness-{number}" for number in range(WITNESSES)]
    keys = []
    for home in homes:
        home.mkdir(mode=0o700)
        keys.append(create_identity(home / "node.key", secrets.token_bytes(32)))
    genesis = Genesis(
        name="benchmark",
        created_ms=time.time_ns() // 1_000_000,
        witnesses=tuple(key.account for key in keys),
        limits=tuple((client_key(number).account, LIMIT) for number in range(ACCOUNTS)),
    )
    listen = [f"/ip4/127.0.0.1/tcp/{port}" for port in free_ports(WITNESSES)]
    addresses = tuple(f"{at}/p2p/{peer_id(key.account)}" for at, key in zip(listen, keys, strict=True))
    for home, at in zip(homes, listen, strict=True):
        save_network(home / "network.toml", NetworkFile(genesis, addresses))
        save_bootstrap_config(
            BootstrapConfig(data=home, network=home / "network.toml", listen=(at,), mdns=False)
        )
    save_network(root / "network.toml", NetworkFile(genesis, addresses))
    return homes


def _start(log: Path, module: str, *args: str) -> subprocess.Popen[bytes]:
    with log.open("ab") as file:
        return subprocess.Popen(
            [sys.executable, "-m", module, *args],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=file,
            start_new_session=True,
        )


def _await_ready(process: subprocess.Popen[bytes]) -> None:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line or json.loads(line).get("event") != "ready":
        raise RuntimeError(f"a witness did not start: {line.decode(errors='replace')}")


def _stop(processes: list[subprocess.Popen[bytes]]) -> None:
    for process in processes:
        if process.poll() is None:
            process.terminate()
    deadline_s = time.monotonic() + STOP_S
    for process in processes:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(max(0.1, deadline_s - time.monotonic()))
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()


def _cpu_s(pid: int) -> float:
    """CPU seconds of one process so far, of all its threads (Linux)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
