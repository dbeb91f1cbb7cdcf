"""What a job costs beside its units: `python -m benchmarks.jobs` from the repository root.

A whole network in one process over loopback (real libp2p, real ledger with one witness, real journals on disk): a
buyer and two workers, whose CPUs are therefore shared. Printed are units per second and CPU time per unit of one
large job of tiny units, with the sandbox and without it (then all that is left is the protocol), the latency of one
call on a fresh lease, and the time from submitting a call to its settlement on the ledger.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from executor.core.outcome import Outcome, Status
from millrace.endpoint import Endpoint
from tests.e2e.small_network import small_network

if TYPE_CHECKING:
    from executor.core.task import WasmTask
    from executor.runner import Runner
    from tests.e2e.small_network import Network

UNITS = 2_000
REPLICAS = 2
WORKERS = 2
CALLS = 15
NOTHING = bytes.fromhex("0061736d01000000010401600000030201000503010001070a01065f737461727400000a040102000b")
"""(module (memory 1) (func (export "_start")))"""
OPTIONS = {"replicas": REPLICAS, "fuel": 10**7, "output_bytes": 1_000}


class Pretend:
    """A worker's runner without a sandbox: every unit is done at once."""

    def __init__(self, real: Runner) -> None:
        self._real = real

    async def prepare(self, module: bytes) -> object:
        """As the real one does."""
        return await self._real.prepare(module)

    async def run(self, task: WasmTask) -> Outcome:
        """What every honest machine would get, if this were what the module does."""
        await trio.lowlevel.checkpoint()
        return Outcome(Status.OK, output=task.digest(), fuel=1_000)


def cpu_s() -> float:
    """CPU seconds of this process and of the children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def buy(endpoint: Endpoint, units: int) -> dict[str, Any]:
    """Run one job; seconds from its start to the first and last result and to its settlement."""
    work = [{"args": [str(number)]} for number in range(units)]
    began, began_cpu = time.perf_counter(), cpu_s()
    vouchers = 0
    leased: list[float] = []
    results: list[float] = []
    with endpoint.stream("job.run", wait_s=600, module=NOTHING, units=work, options=OPTIONS) as stream:
        for event in stream:
            if event["event"] == "lease_opened":
                leased.append(time.perf_counter() - began)
            elif event["event"] == "result":
                results.append(time.perf_counter() - began)
            vouchers += event["event"] == "paid"
        report = stream.result
    assert len(results) == units, f"{units - len(results)} units have no result"
    return {
        "leased": leased[0],
        "first": results[0],
        "last": results[-1],
        "settled": time.perf_counter() - began,
        "all settled": all(worker["settled"] for worker in report["workers"]),
        "vouchers": vouchers,
        "cpu": cpu_s() - began_cpu,
    }


async def measure(units: int, calls: int, *, sandbox: bool) -> None:
    """One network, one large job, and some calls; prints its rows."""
    wraps: dict[str, Any] = {} if sandbox else {f"worker-{n}": Pretend for n in range(WORKERS)}
    with tempfile.TemporaryDirectory() as root:
        async with small_network(Path(root), workers=WORKERS, wraps=wraps) as network:
            await network.offers(WORKERS)
            endpoint = Endpoint(network.nodes["buyer"].config.api.socket)
            big = await trio.to_thread.run_sync(buy, endpoint, units)
            name = "sandbox" if sandbox else "protocol"
            busy_s = big["last"] - big["leased"]
            print(f"{name:<9} {units} units x {REPLICAS} replicas on {WORKERS} workers")
            print(f"  units/s                 {units / busy_s:8.0f}")
            print(f"  CPU ms/unit (all nodes) {big['cpu'] / units * 1e3:8.2f}")
            print(f"  first result            {big['first'] - big['leased']:8.3f} s after the first lease")
            print(f"  vouchers                {big['vouchers']:8d}")
            print(f"  submit → settled        {big['settled']:8.3f} s")
            if calls:
                await _measure_calls(network, endpoint, calls)


async def _measure_calls(network: Network, endpoint: Endpoint, calls: int) -> None:
    results, settled = [], []
    for _ in range(calls):
        await network.offers(WORKERS)
        one = await trio.to_thread.run_sync(buy, endpoint, 1)
        results.append(one["last"])
        if one["all settled"]:
            settled.append(one["settled"])
    print(f"one call on fresh leases, {calls} times")
    print(f"  submit → result, p50    {statistics.median(results):8.3f} s")
    print(f"  submit → settled, p50   {statistics.median(settled):8.3f} s ({len(settled)} settled)")


def main() -> None:
    """Print the figures of the protocol alone, then of real sandboxed units and single calls."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--units", type=int, default=UNITS)
    parser.add_argument("--calls", type=int, default=CALLS)
    asked = parser.parse_args()
    trio.run(lambda: measure(asked.units, 0, sandbox=False))
    trio.run(lambda: measure(asked.units, asked.calls, sandbox=True))


if __name__ == "__main__":
    main()
