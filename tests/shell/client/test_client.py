"""The client library against a node that is only an API: results, order, budget, failures, cancelling."""

from __future__ import annotations

import subprocess
import sys
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio

import millrace
from millrace.api import api_serving
from millrace.client import Client, Unit, Verify
from millrace.errors import (
    BudgetExceeded,
    DaemonUnavailable,
    JobCancelled,
    JobTimeout,
    NetworkTrouble,
    NoPeers,
    TaskError,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from millrace.api import Answer, Emit


@contextmanager
def serving(path: Path, **answers: Answer) -> Iterator[None]:
    """The API in a trio loop of its own thread, as the daemon would be in another process."""
    ready = threading.Event()
    done: list[trio.Event] = []
    token: list[trio.lowlevel.TrioToken] = []

    async def main() -> None:
        done.append(trio.Event())
        token.append(trio.lowlevel.current_trio_token())
        async with api_serving(path, {name.replace("_", ".", 1): answer for name, answer in answers.items()}):
            ready.set()
            await done[0].wait()

    thread = threading.Thread(target=trio.run, args=(main,))
    thread.start()
    assert ready.wait(5)
    try:
        yield
    finally:
        token[0].run_sync_soon(done[0].set)
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "api.sock"


def result_event(unit: int, output: bytes, status: str = "ok", exit_code: int = 0) -> dict[str, Any]:
    return {
        "event": "result",
        "unit": unit,
        "status": status,
        "exit_code": exit_code,
        "output": output,
        "stderr": b"oops" if exit_code else b"",
        "fuel": 7,
        "how": "agreed",
        "workers": ["12D3a", "12D3b"],
    }


async def echo(params: dict[str, Any], emit: Emit) -> object:
    """A node that runs nothing: each unit's output is its input, backwards in time."""
    await emit({"event": "job_started", "job_id": "ab" * 16})
    for unit in reversed(range(len(params["units"]))):
        await emit(result_event(unit, params["units"][unit]["stdin"]))
    count = len(params["units"])
    receipts = {"lock_receipt": b"L", "claim_receipt": b"C"}
    return {"job_id": "ab" * 16, "cost": 10 * count, "accepted": count, "workers": [receipts]}


def test_map_yields_in_order_or_as_completed(path: Path) -> None:
    inputs = [b"a", b"b", b"c"]
    with serving(path, job_run=echo), Client(endpoint=path) as client:
        results = client.wasm_map(b"module", inputs)
        assert len(results) == 3
        assert [done.stdout for done in results] == inputs
        assert [done.stdout for done in results] == inputs  # a second reading is the same
        assert results.cost == 30
        assert results.report().receipts == (b"L", b"C")
        assert results.id == "ab" * 16
        unordered = client.wasm_map(b"module", inputs, ordered=False)
        assert [done.stdout for done in unordered] == inputs[::-1]


def test_a_result_is_yielded_as_soon_as_it_is_there(path: Path) -> None:
    """The node waits until the reader has a result before it sends the next."""
    taken = [threading.Event() for _ in range(3)]

    async def run(_params: dict[str, Any], emit: Emit) -> object:
        for position, unit in enumerate((2, 0, 1)):
            await emit(result_event(unit, b"%d" % unit))
            if position < 2:
                assert await trio.to_thread.run_sync(taken[position].wait, 5)
        await emit({"event": "job_ended", "job_id": "00", "accepted": 3, "failed": 0, "paid": 10})
        assert await trio.to_thread.run_sync(taken[2].wait, 5)
        return {"job_id": "00", "cost": 10}

    with serving(path, job_run=run), Client(endpoint=path) as client:
        seen = []
        for done, event in zip(client.wasm_map(b"m", [b""] * 3, ordered=False), taken, strict=True):
            seen.append(done.unit)
            event.set()
        assert seen == [2, 0, 1]
        for event in taken:
            event.clear()
        ordered = iter(client.wasm_map(b"m", [b""] * 3))
        taken[0].set()
        assert next(ordered).unit == 0
        taken[1].set()
        assert [next(ordered).unit, next(ordered).unit] == [1, 2]
        taken[2].set()


def test_wasm_is_a_future(path: Path) -> None:
    with serving(path, job_run=echo), Client(endpoint=path) as client:
        job = client.wasm(b"module", stdin=b"x")
        assert job.result(5).stdout == b"x"
        assert (job.cost, job.receipts, job.id) == (10, (b"L", b"C"), "ab" * 16)
        assert not job.cancel()


def test_a_failed_unit_is_raised_or_returned(path: Path) -> None:
    async def fail(params: dict[str, Any], emit: Emit) -> object:
        await emit(result_event(0, b"fine"))
        await emit(result_event(1, b"", "exit", 3))
        await emit({"event": "no_result", "unit": 2, "reason": "no worker left"})
        return {"job_id": "00", "cost": 1}

    with serving(path, job_run=fail), Client(endpoint=path) as client:
        returned = list(client.wasm_map(b"m", [b""] * 3, return_exceptions=True))
        assert isinstance(returned[1], TaskError)
        assert "exit code 3" in str(returned[1])
        assert "oops" in str(returned[1])
        assert "no worker left" in str(returned[2])
        reader = iter(client.wasm_map(b"m", [b""] * 3))
        assert next(reader).stdout == b"fine"
        with pytest.raises(TaskError, match="exit code 3"):
            next(reader)


def test_a_unit_without_a_ledger_is_trouble_with_the_network(path: Path) -> None:
    async def away(_params: dict[str, Any], emit: Emit) -> object:
        reason = "the ledger could not be reached: 0 of 1 witnesses answer"
        await emit({"event": "no_result", "unit": 0, "code": "network", "reason": reason})
        return {"job_id": "00", "cost": 0}

    with serving(path, job_run=away), Client(endpoint=path) as client:
        with pytest.raises(NetworkTrouble, match="0 of 1 witnesses") as caught:
            list(client.wasm_map(b"m", [b""]))
        assert caught.value.exit_code == 8
        assert "millrace status" in caught.value.next_step


def test_what_ends_a_job_is_raised_while_iterating(path: Path) -> None:
    async def refuse(_params: dict[str, Any], _emit: Emit) -> object:
        raise NoPeers("no peer fits", reasons=("12D3a: too dear",))

    with serving(path, job_run=refuse), Client(endpoint=path) as client:
        with pytest.raises(NoPeers) as caught:
            list(client.wasm_map(b"m", [b""]))
        assert caught.value.reasons == ("12D3a: too dear",)
        with pytest.raises(NoPeers):
            client.wasm(b"m").result(5)


def test_budget_is_reserved_before_and_given_back_after(path: Path) -> None:
    seen: list[object] = []

    async def run(params: dict[str, Any], emit: Emit) -> object:
        seen.append(params["options"]["max_cost"])
        return await echo(params, emit)

    with serving(path, job_run=run), Client(endpoint=path, budget="0.000100") as client:
        with pytest.raises(BudgetExceeded, match=r"0\.000100 credits are left"):
            client.wasm_map(b"m", [b""], max_cost=1)
        assert seen == []
        list(results := client.wasm_map(b"m", [b""], max_cost="0.00006"))
        results.report(5)
        list(results := client.wasm_map(b"m", [b""]))
        results.report(5)
        assert seen == [60, 90]  # 100 - 10 spent by the first


def test_the_next_job_can_be_paid_as_soon_as_the_last_result_is_there(path: Path) -> None:
    release = threading.Event()

    async def run(params: dict[str, Any], emit: Emit) -> object:
        await emit(result_event(0, b"done"))
        await emit({"event": "job_ended", "job_id": "00", "accepted": 1, "failed": 0, "paid": 10})
        await trio.to_thread.run_sync(release.wait)  # the claims settle later
        return {"job_id": "00", "cost": 10}

    with serving(path, job_run=run), Client(endpoint=path, budget="0.000025") as client:
        for _ in range(2):
            assert [done.stdout for done in client.wasm_map(b"m", [b""])] == [b"done"]
        with pytest.raises(BudgetExceeded, match=r"0\.000005"):
            client.wasm_map(b"m", [b""], max_cost="0.00001")
        single = client.wasm(b"m", max_cost="0.000005")
        assert single.result(5).stdout == b"done"
        assert not single.cancel()
        release.set()
        assert single.cost == 10


def test_cancel_reaches_the_node(path: Path) -> None:
    gone = threading.Event()

    async def endless(_params: dict[str, Any], emit: Emit) -> object:
        await emit({"event": "job_started", "job_id": "cc"})
        try:
            await trio.sleep_forever()
        finally:
            gone.set()

    with serving(path, job_run=endless):
        client = Client(endpoint=path)
        job = client.wasm(b"m")
        started = client.wasm_map(b"m", [b""])
        with pytest.raises(JobTimeout):
            started.report(timeout=0.01)
        assert job.cancel()
        with pytest.raises(JobCancelled):
            job.result(5)
        assert gone.wait(5)
        client.close()
        with pytest.raises(JobCancelled):
            list(started)
        with pytest.raises(UsageError, match="closed"):
            client.wasm(b"m")


def test_events_reach_the_callback(path: Path) -> None:
    events: list[str] = []
    with serving(path, job_run=echo), Client(endpoint=path) as client:
        list(client.wasm_map(b"m", [b"", b""], on_event=lambda event: events.append(event["event"])))
    assert events == ["job_started", "result", "result"]


def test_inputs_and_options_are_checked_before_the_node_hears_of_them(path: Path) -> None:
    client = Client(endpoint=path)
    with pytest.raises(UsageError, match=r"text\.encode"):
        client.wasm_map(b"m", ["text"])
    with pytest.raises(UsageError, match="speed"):
        client.wasm_map(b"m", [b""], speed=3)
    with pytest.raises(UsageError, match="replicas"):
        client.wasm_map(b"m", [Unit(("a",), b"b"), ["x"]], verify=Verify.replicas(99))
    with pytest.raises(UsageError, match="max_cost"):
        client.wasm_map(b"m", [b""], max_cost=-1)
    with pytest.raises(UsageError, match="cannot be read"):
        client.wasm("/nonexistent.wasm")
    with pytest.raises(DaemonUnavailable, match="millrace up"):
        client.wasm(b"m")


def test_balance_and_peers(path: Path) -> None:
    async def balance(_params: dict[str, Any], _emit: Emit) -> object:
        return {"balance": -5, "limit": 2_000_005, "locked": 3, "account": "12D3"}

    async def peers(_params: dict[str, Any], _emit: Emit) -> object:
        return {"peers": [{"peer": "12D3", "linked": True, "addresses": ["/ip4/…"], "offer": None}]}

    with serving(path, balance=balance, peers=peers), Client(endpoint=path) as client:
        assert str(client.balance()) == "-0.000005 credits (2.000000 available)"
        assert client.peers()[0].linked


def test_the_public_names_are_ten_and_cost_no_event_loop() -> None:
    assert len(millrace.__all__) <= 10
    for name in millrace.__all__:
        assert getattr(millrace, name) is not None
    with pytest.raises(AttributeError):
        _ = millrace.nothing
    probe = (
        "import sys, millrace; millrace.Client; millrace.Results; "
        "bad = {'trio', 'libp2p', 'multiaddr', 'wasmtime', 'sqlite3'} & set(sys.modules); "
        "sys.exit(str(bad) if bad else 0)"
    )
    subprocess.run([sys.executable, "-c", probe], check=True)
