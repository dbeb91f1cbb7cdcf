"""The client library: verified work on other people's machines, through the node of this one.

    with millrace.Client(budget=2) as client:
        for done in client.wasm_map(module, [b"first input", b"second input"]):
            print(done.stdout)

Calls block and may come from any thread; a job runs in the background until its results are asked for.
There is no `async` form yet: use `asyncio.to_thread` or `trio.to_thread.run_sync`.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from ledger.core.amounts import format_credits, parse_credits
from millrace.endpoint import Endpoint
from millrace.errors import BudgetExceeded, InsufficientCredit, MillraceError, NoPeers, UsageError
from millrace.paths import find_paths
from millrace.results import Completed, Job, Results

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

__all__ = ["Balance", "Client", "Needs", "Peer", "Unit", "Verify"]

Credits = int | float | str | Decimal
"""Credits as people write them: 1.5, "0.25"; at most six decimals."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One input of a module: command-line arguments (without the program's name) and standard input."""

    args: tuple[str, ...] = ()
    stdin: bytes = b""


@dataclass(frozen=True, slots=True)
class Verify:
    """How sure to be of a result: on how many distinct accounts each unit runs before it is believed.

    Replicas that differ are settled by this machine: its own node runs the unit again and decides.
    """

    count: int

    @classmethod
    def auto(cls) -> Verify:
        """Two replicas."""
        return cls(2)

    @classmethod
    def none(cls) -> Verify:
        """One run, believed as it comes: for work that you check yourself."""
        return cls(1)

    @classmethod
    def replicas(cls, count: int) -> Verify:
        """`count` distinct accounts must return the same bytes and the same fuel."""
        return cls(count)


@dataclass(frozen=True, slots=True)
class Needs:
    """What a worker must have, beyond the memory that a unit's limits ask for.

    `region`: as adverts name it; empty for any. `price`: at most so many credits for 10^12 fuel.
    """

    region: str = ""
    price: Credits | None = None


@dataclass(frozen=True, slots=True)
class Balance:
    """An account's standing in micro-credits; `str` shows credits. It may fall to minus `limit`."""

    balance: int
    limit: int
    locked: int
    account: str

    @property
    def available(self) -> int:
        """What may still be spent."""
        return self.balance + self.limit

    def __str__(self) -> str:
        return f"{format_credits(self.balance)} credits ({format_credits(self.available)} available)"


@dataclass(frozen=True, slots=True)
class Peer:
    """A peer that this node knows: how it is linked, and what it offers if it does."""

    peer_id: str
    linked: bool
    addresses: tuple[str, ...]
    offer: dict[str, Any] | None


class Client:
    """A program's way into the network, through the node that runs on this machine.

    `budget`: credits that all jobs of this client together may cost; None leaves the node's own caps.
    Closing waits for nothing: jobs that still run are cancelled.
    """

    def __init__(
        self,
        *,
        endpoint: Path | str | None = None,
        budget: Credits | None = None,
        profile: str = "",
    ) -> None:
        """`endpoint`: the node's socket; by default that of this user's node (of `profile`)."""
        chosen = endpoint or os.environ.get("MILLRACE_ENDPOINT") or find_paths(os.environ, profile).socket()
        self._endpoint = Endpoint(chosen)
        self._budget = _Budget(None if budget is None else _micro(budget, "budget"))
        self._running: set[Results[Any]] = set()
        self._lock = threading.Lock()
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what still runs; further calls are refused."""
        with self._lock:
            self._closed = True
            running = list(self._running)
        for results in running:
            results.cancel()

    def wasm(
        self,
        module: bytes | Path | str,
        args: Sequence[str] = (),
        *,
        stdin: bytes = b"",
        verify: Verify | None = None,
        needs: Needs | None = None,
        max_cost: Credits | None = None,
        timeout: float | None = None,
        **limits: Any,  # noqa: ANN401 - checked against JOB_OPTIONS
    ) -> Job:
        """Run `module` once with `args` and `stdin`; `Job.result()` is a `Completed`.

        Raises as `wasm_map`; the job's own failure is raised by `Job.result()`.
        """
        results: Results[Completed | MillraceError] = Results(
            1, ordered=True, return_exceptions=True, on_event=None
        )
        job = Job(results)
        results.on_event = job.hear
        units = [Unit(tuple(args), stdin)]
        options = _options(verify, needs, timeout, limits)
        self._start(module, units, results, max_cost=max_cost, options=options, then=job.finish)
        return job

    @overload
    def wasm_map(
        self,
        module: bytes | Path | str,
        inputs: Iterable[Unit | bytes | Sequence[str]],
        *,
        return_exceptions: Literal[False] = False,
        **options: Any,  # noqa: ANN401 - those below
    ) -> Results[Completed]: ...

    @overload
    def wasm_map(
        self,
        module: bytes | Path | str,
        inputs: Iterable[Unit | bytes | Sequence[str]],
        *,
        return_exceptions: bool,
        **options: Any,  # noqa: ANN401 - those below
    ) -> Results[Completed | MillraceError]: ...

    def wasm_map(
        self,
        module: bytes | Path | str,
        inputs: Iterable[Unit | bytes | Sequence[str]],
        *,
        verify: Verify | None = None,
        needs: Needs | None = None,
        max_cost: Credits | None = None,
        ordered: bool = True,
        return_exceptions: bool = False,
        timeout: float | None = None,
        on_event: Callable[[dict[str, Any]], None] | None = None,
        **limits: Any,
    ) -> Results[Any]:
        """Run `module` on every input: bytes are its standard input, a sequence of texts its arguments.

        `max_cost`: credits that the job may cost at most, replicas included. `timeout`: seconds for the whole
        job. `limits`: `fuel`, `memory_bytes`, `wall_s`, `output_bytes` per unit, `workers` at most, `entry`,
        `name`. `on_event` is called in the reader thread for every event of the job (SPEC.md §16).

        Raises `BudgetExceeded` before anything is sent, `UsageError`, `DaemonUnavailable`; what goes wrong
        later is raised while iterating.
        """
        units = [_unit(item) for item in inputs]
        results: Results[Any] = Results(
            len(units), ordered=ordered, return_exceptions=return_exceptions, on_event=on_event
        )
        options = _options(verify, needs, timeout, limits)
        self._start(module, units, results, max_cost=max_cost, options=options)
        return results

    def balance(self) -> Balance:
        """What this node's account holds, as its verified copy of the ledger says."""
        answer = self._endpoint.call("balance")
        return Balance(answer["balance"], answer["limit"], answer["locked"], answer["account"])

    def peers(self) -> list[Peer]:
        """The peers that the node knows."""
        return [
            Peer(item["peer"], item["linked"], tuple(item["addresses"]), item["offer"])
            for item in self._endpoint.call("peers")["peers"]
        ]

    def status(self) -> dict[str, Any]:
        """The node's status (SPEC.md §16)."""
        answer: dict[str, Any] = self._endpoint.call("status")
        return answer

    def _start(
        self,
        module: bytes | Path | str,
        units: list[Unit],
        results: Results[Any],
        *,
        max_cost: Credits | None,
        options: dict[str, Any],
        then: Callable[[], None] | None = None,
    ) -> None:
        """Reserve the cap, hand the job to the node, and read its stream in a thread of its own."""
        code = _module(module)
        reservation = self._budget.reserve(None if max_cost is None else _micro(max_cost, "max_cost"))
        results.on_paid = reservation.settle
        try:
            with self._lock:
                if self._closed:
                    raise UsageError("this client is closed", "close() was called", "make a new Client")
                stream = self._endpoint.stream(
                    "job.run",
                    module=code,
                    units=[{"args": list(unit.args), "stdin": unit.stdin} for unit in units],
                    options={**options, "max_cost": reservation.amount},
                )
                self._running.add(results)
        except BaseException:
            reservation.settle(0)
            raise

        def read() -> None:
            try:
                results.run(stream)
            finally:
                self._finish(results, reservation)
                if then is not None:
                    then()

        threading.Thread(target=read, name="millrace-job", daemon=True).start()

    def _finish(self, results: Results[Any], reservation: _Reservation) -> None:
        with self._lock:
            self._running.discard(results)
        try:
            reservation.settle(results.cost)
        except (BudgetExceeded, InsufficientCredit, NoPeers, UsageError):
            reservation.settle(0)  # each of these comes before anything is sent
        except MillraceError:
            reservation.settle(None)


class _Budget:
    """Credits that may still be reserved by this client's jobs."""

    def __init__(self, total: int | None) -> None:
        self._left = total
        self._lock = threading.Lock()

    def reserve(self, wanted: int | None) -> _Reservation:
        """Set `wanted` aside, or all that is left when a job names no cap."""
        with self._lock:
            if self._left is None:
                return _Reservation(self, wanted)
            amount = self._left if wanted is None else wanted
            if amount > self._left or amount == 0:
                raise BudgetExceeded(
                    "the job does not fit the client's budget",
                    f"{format_credits(self._left)} credits are left, the job may cost "
                    f"{'more' if wanted is None else format_credits(wanted)}",
                    "lower max_cost, or make a Client with a larger budget",
                )
            self._left -= amount
            return _Reservation(self, amount)

    def give_back(self, amount: int) -> None:
        """What was set aside and not spent."""
        with self._lock:
            if self._left is not None:
                self._left += amount


class _Reservation:
    """What one job may cost. It is settled once, as soon as its cost is known."""

    def __init__(self, budget: _Budget, amount: int | None) -> None:
        self.amount = amount
        self._budget = budget
        self._lock = threading.Lock()
        self._settled = False

    def settle(self, cost: int | None) -> None:
        """The job cost `cost`; None when nobody knows: then all of it counts as spent, never too little."""
        with self._lock:
            if self._settled:
                return
            self._settled = True
        if self.amount is not None and cost is not None:
            self._budget.give_back(max(0, self.amount - cost))


def _micro(credits_: Credits, what: str) -> int:
    try:
        amount = parse_credits(str(credits_))
    except ValueError as error:
        raise UsageError(f"{what} is not an amount of credits", str(error), f"write {what}=1.5") from error
    if amount < 0:
        raise UsageError(f"{what} is negative", "a cap is zero or more credits", f"write {what}=1.5")
    return amount


def _options(
    verify: Verify | None, needs: Needs | None, timeout: float | None, limits: dict[str, Any]
) -> dict[str, Any]:
    asked: dict[str, Any] = {"replicas": (verify or Verify.auto()).count, "timeout_s": timeout}
    if needs is not None:
        asked["region"] = needs.region
        asked["price_max"] = None if needs.price is None else _micro(needs.price, "needs.price")
    return {**asked, **limits}


def _unit(item: Unit | bytes | Sequence[str]) -> Unit:
    if isinstance(item, Unit):
        return item
    if isinstance(item, (bytes, bytearray, memoryview)):
        return Unit(stdin=bytes(item))
    if isinstance(item, str) or not all(isinstance(part, str) for part in item):
        raise UsageError(
            f"{type(item).__name__} is no input for a module",
            "an input is bytes (standard input), a list of texts (arguments), or a Unit with both",
            "encode texts: text.encode()",
        )
    return Unit(args=tuple(item))


def _module(module: bytes | Path | str) -> bytes:
    if isinstance(module, bytes):
        return module
    try:
        return Path(module).read_bytes()
    except OSError as error:
        raise UsageError(
            f"the module {module} cannot be read", error.strerror or "the system refused", "give a .wasm file"
        ) from error
