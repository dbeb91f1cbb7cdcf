"""Jobs from submit to settlement in a small network: real libp2p on loopback, real sandbox, real ledger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ledger.core.receipt import Receipt
from millrace import Client, Needs, Unit
from millrace.endpoint import Endpoint
from millrace.errors import BudgetExceeded, InsufficientCredit, JobTimeout, NoPeers, UsageError
from tests.e2e.small_network import CREDIT_LIMIT, small_network, until

if TYPE_CHECKING:
    from executor.core.outcome import Outcome
    from executor.core.task import WasmTask
    from executor.runner import Runner
    from tests.e2e.small_network import Network

pytestmark = pytest.mark.e2e

WORDCOUNT = (
    Path(__file__).resolve().parents[2] / "millrace" / "demo" / "guests" / "wordcount.wasm"
).read_bytes()
SPIN = bytes.fromhex(
    "0061736d01000000010401600000030201000503010001070a01065f737461727400000a0901070003400c000b0b"
)
"""(module (memory 1) (func (export "_start") (loop (br 0))))"""


class Liar:
    """A worker's runner that changes every result it is asked for."""

    def __init__(self, honest: Runner) -> None:
        self._honest = honest

    async def prepare(self, module: bytes) -> object:
        return await self._honest.prepare(module)

    async def run(self, task: WasmTask) -> Outcome:
        outcome = await self._honest.run(task)
        return replace(outcome, output=outcome.output + b"!")


async def check_money(network: Network, report: dict[str, Any]) -> None:
    """Σ balances + open locks = 0 by the audit, and every receipt verifies offline."""
    audit = await network.api("buyer", "ledger.audit")
    assert audit["ok"], audit["violation"]
    assert audit["balances_sum"] + audit["locked"] == 0
    for worker in report["workers"]:
        for name in ("lock_receipt", "claim_receipt"):
            Receipt.decode(worker[name]).verify(network.genesis)


async def test_ten_units_on_two_workers_are_agreed_paid_and_settled(tmp_path: Path) -> None:
    units = [{"stdin": b"the mill race " * (n + 1)} for n in range(10)]
    async with small_network(tmp_path, workers=2) as network:
        options = {"replicas": 2, "name": "mill"}
        events, report = await network.job("buyer", module=WORDCOUNT, units=units, options=options)
        results = {event["unit"]: event for event in events if event["event"] == "result"}
        assert sorted(results) == list(range(10))
        for n, result in results.items():
            assert result["output"] == b"".join(b"%d %s\n" % (n + 1, w) for w in (b"mill", b"race", b"the"))
            assert len(set(result["workers"])) == 2
        assert (report["accepted"], report["failed"], report["liars"]) == (10, 0, [])
        assert all(
            worker["settled"] and worker["claimed"] == worker["paid"] > 0 for worker in report["workers"]
        )
        assert report["cost"] == sum(worker["claimed"] for worker in report["workers"])
        await check_money(network, report)
        balances = [(await network.api(name, "balance"))["balance"] for name in sorted(network.nodes)]
        assert balances[0] == -report["cost"] == -sum(balances[1:])
        status = await network.api("worker-0", "status")
        mine = next(worker for worker in report["workers"] if worker["peer"] == network.peer("worker-0"))
        assert status["balance"]["earned"] == mine["claimed"]
        assert status["lending"]["units_done"] == 10
        shown = await network.api("buyer", "job.show", job=report["job_id"][:12])
        assert (shown["job"]["state"], shown["job"]["name"]) == ("done", "mill")
        assert {"job_started", "lease_opened", "paid", "job_ended"} <= {e["event"] for e in shown["timeline"]}
        assert len(shown["traffic"]) == 2
        await the_rest_of_the_api(network, report)


async def the_rest_of_the_api(network: Network, report: dict[str, Any]) -> None:
    """A payment, the ledger's pages, and every refusal that needs a real network."""
    worker = report["workers"][0]
    sent = await network.api("buyer", "send", to=worker["peer"], amount=5, memo="thanks")
    Receipt.decode(sent["receipt"]).verify(network.genesis)
    receipts = (await network.api("buyer", "ledger.receipts"))["receipts"]
    assert [own["type"] for own in receipts] == ["transfer", "lock", "lock"]
    again = await network.api("buyer", "ledger.receipt", entry=receipts[0]["entry"])
    assert Receipt.decode(again["receipt"]).entry == Receipt.decode(sent["receipt"]).entry
    head = await network.api("buyer", "ledger.head")
    assert (head["witnesses"], head["faults"], head["tree_size"]) == (1, 0, 5)
    blocks = (await network.api("buyer", "ledger.show", count=100))["blocks"]
    assert sum(len(block["entries"]) for block in blocks) == 5
    peers = (await network.api("buyer", "peers"))["peers"]
    assert sum(peer["offer"] is not None for peer in peers) == 2
    assert (await network.api("worker-0", "offers", kind="onnx"))["offers"] == []
    with pytest.raises(InsufficientCredit):
        await network.api("worker-0", "send", to=network.peer("buyer"), amount=CREDIT_LIMIT)
    with pytest.raises(UsageError, match="no account"):
        await network.api("buyer", "send", to="nobody", amount=1)
    with pytest.raises(UsageError, match="begins with"):
        await network.api("buyer", "job.show", job="ffff")
    with pytest.raises(BudgetExceeded):
        await network.job("buyer", module=WORDCOUNT, units=[{}], options={"max_cost": 1})
    with pytest.raises(InsufficientCredit):
        await network.job("worker-0", module=WORDCOUNT, units=[{}], options={"max_cost": 10**6})
    with pytest.raises(UsageError, match="WebAssembly"):
        await network.job("buyer", module=b"not wasm", units=[{}])


async def test_a_liar_is_caught_cut_and_unpaid_and_later_not_asked(tmp_path: Path) -> None:
    units = [{"stdin": b"word " * (n + 1)} for n in range(6)]
    async with small_network(tmp_path, workers=3, wraps={"worker-1": Liar}) as network:
        await network.offers(3)
        events, report = await network.job("buyer", module=WORDCOUNT, units=units, options={"replicas": 3})
        assert report["accepted"] == 6
        outputs = {event["unit"]: event["output"] for event in events if event["event"] == "result"}
        assert outputs == {n: b"%d word\n" % (n + 1) for n in range(6)}
        liar = network.peer("worker-1")
        assert report["liars"] == [liar]
        assert next(worker for worker in report["workers"] if worker["peer"] == liar)["claimed"] == 0
        events, _ = await network.job("buyer", module=WORDCOUNT, units=units)
        assert liar not in {event["worker"] for event in events if event["event"] == "lease_opened"}
        await check_money(network, report)


async def test_a_client_that_leaves_cancels_its_job(tmp_path: Path) -> None:
    async with small_network(tmp_path, workers=2) as network:
        endpoint = Endpoint(network.nodes["buyer"].config.api.socket)

        def leave_in_the_middle() -> None:
            units = [{} for _ in range(4)]
            with endpoint.stream("job.run", module=SPIN, units=units, options={"fuel": 10**12}) as stream:
                assert any(event["event"] == "unit_started" for event in stream)

        await trio.to_thread.run_sync(leave_in_the_middle)
        await until(lambda: not network.nodes["buyer"].purchases.running)
        # The workers cancel their locks: nothing was verified.
        await until(lambda: not network.nodes["buyer"].follower.state.open_locks())
        assert (await network.api("buyer", "balance"))["balance"] == 0
        (left,) = (await network.api("buyer", "jobs.ls"))["jobs"]
        assert (left["state"], left["units_done"], left["cost"]) == ("cancelled", 0, 0)

        def wait_too_short() -> None:
            with Client(endpoint=endpoint.path) as client:
                client.wasm(SPIN, timeout=0.5, fuel=10**12).result(30)

        with pytest.raises(JobTimeout, match="time is over"):
            await trio.to_thread.run_sync(wait_too_short)


async def test_a_stop_that_finishes_lets_leases_end(tmp_path: Path) -> None:
    units = [{"stdin": b"word " * 100_000} for _ in range(12)]
    async with small_network(tmp_path, workers=2) as network:
        await network.offers(2)
        reports: list[dict[str, Any]] = []

        async def buy() -> None:
            reports.append((await network.job("buyer", module=WORDCOUNT, units=units))[1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(buy)
            lending = network.nodes["worker-0"].lending
            assert lending is not None
            await until(lambda: lending.server.active > 0)
            assert await network.api("worker-0", "stop", finish=True) == {"stopping": True, "finish": True}
            assert not (await network.api("worker-0", "status"))["lending"]["on"]
        assert (reports[0]["accepted"], [worker["settled"] for worker in reports[0]["workers"]]) == (
            12,
            [True, True],
        )
        socket = network.nodes["worker-0"].config.api.socket
        await until(lambda: not socket.exists())
        await network.api("buyer", "stop", finish=True)
        await until(lambda: not network.nodes["buyer"].config.api.socket.exists())


async def test_nobody_fits_and_the_client_library_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("millrace.purchase.ANY_WAIT_S", 0.1)
    async with small_network(tmp_path, workers=1) as network:
        await network.offers(1)
        socket = network.nodes["buyer"].config.api.socket

        def ask(**limits: Any) -> list[Any]:
            with Client(endpoint=socket, budget=0.5) as client:
                inputs = [Unit(stdin=b"one two"), b"three"]
                return list(client.wasm_map(WORDCOUNT, inputs, **limits))

        for needs, said in ((Needs(region="mars"), "not mars"), (Needs(price="0.000001"), "is over 1")):
            with pytest.raises(NoPeers) as caught:
                await trio.to_thread.run_sync(lambda needs=needs: ask(needs=needs))
            assert "worker-0: " in caught.value.reasons[0]
            assert said in caught.value.reasons[0]
        monkeypatch.setattr("millrace.purchase.ENOUGH_WAIT_S", 0.1)
        done = await trio.to_thread.run_sync(ask)
        # One worker for two replicas: this machine re-runs each unit in its own sandbox.
        assert [completed.stdout for completed in done] == [b"1 one\n1 two\n", b"1 three\n"]
