"""The demo's play: the network gathers, works while two of its processes are killed, settles, and goes home."""

from __future__ import annotations

import queue
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from ledger.core.keys import peer_id
from millrace.client import Client, Unit, Verify
from millrace.core.cost import unit_cost
from millrace.demo.network import BUYER, VICTIM, WITNESSES, WORKERS
from millrace.errors import MillraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from executor.core.limits import Limits
    from millrace.demo.network import DemoNetwork
    from millrace.demo.processes import Member
    from millrace.demo.stage import Stage
    from millrace.results import Completed, Report

__all__ = ["Assignment", "Performance", "Play", "quantiles"]

LOST_WITNESS: Final = WITNESSES[-1]
FINALITY_SAMPLES: Final = 50
JOB_WAIT_S: Final = 90.0
MAX_COST: Final = 40
"""Credits that one job may cost at most, replicas included."""
_POLL_S: Final = 0.05
LOOK_INTERVAL_S: Final = 0.5


@dataclass(frozen=True, slots=True)
class Assignment:
    """One job: what runs on which inputs, within which limits."""

    name: str
    module: bytes
    units: tuple[Unit, ...]
    limits: Limits


@dataclass(slots=True)
class Performance:
    """What came of one job, and everything that was heard of it."""

    assignment: Assignment
    results: list[Completed] = field(default_factory=list)
    report: Report | None = None
    prices: dict[str, int] = field(default_factory=dict)
    """What each worker asks, in micro-credits for 10^12 fuel, by the demo's names."""
    names: dict[str, str] = field(default_factory=dict)
    """The demo's name of each peer id."""
    accepted: Counter[int] = field(default_factory=Counter)
    moved: int = 0
    lies: int = 0
    liars: set[str] = field(default_factory=set)
    submitted_s: float = 0.0
    results_s: float = 0.0
    settled_s: float = 0.0

    @property
    def receipts(self) -> tuple[bytes, ...]:
        """The ledger receipts of the job's locks and claims."""
        return self.report.receipts if self.report is not None else ()

    def earned(self, name: str) -> int:
        """The price of the units in whose verified result `name` had a part, computed anew."""
        return sum(
            unit_cost(result.fuel, self.prices[name])
            for result in self.results
            if name in {self.names.get(worker) for worker in result.workers}
        )


@dataclass(slots=True)
class Play:
    """The play on one network; the main thread's, because only it may start processes."""

    network: DemoNetwork
    stage: Stage
    figures: dict[str, Any] = field(default_factory=dict)
    _members: dict[str, Member] = field(default_factory=dict)
    _on_their_way: dict[tuple[str, int], int] = field(default_factory=dict)

    def gather(self) -> None:
        """Start everybody and wait until the buyer sees every worker's offer."""
        started = time.monotonic()
        for member in self.network.start_witnesses():
            self._enter(member)
        for name in (*WORKERS, BUYER):
            self._enter(self.network.start_peer(name))
        peers = (*WORKERS, BUYER)
        awake: dict[str, float] = {}

        def all_awake() -> bool:
            for name in peers:
                if name not in awake and self.network.ask(name, "version") is not None:
                    awake[name] = time.monotonic()
                    self.stage.mark(name, "joined")
            return len(awake) == len(peers)

        self.network.wait("every worker and the buyer on their feet", all_awake)
        heard: set[str] = set()
        self.network.wait("four offers at the buyer", lambda: self._hear(heard))
        for name in WITNESSES:
            self.stage.mark(name, "orders the ledger")
        self.stage.mark(BUYER, "buys and verifies")
        self.note_propagation()
        self.figures["start_s"] = round(time.monotonic() - started, 2)
        self.stage.say(f"{len(WORKERS)} signed offers reached the buyer by gossip", "green")

    def _enter(self, member: Member) -> None:
        self._members[member.name] = member
        self.stage.enter(member.name, member.role, member.pid)

    def _hear(self, heard: set[str]) -> bool:
        """Note whose offers the buyer holds; whether it holds all."""
        answer = self.network.ask(BUYER, "offers") or {"offers": []}
        for offer in answer["offers"]:
            name = self.network.name_of(offer["peer"])
            if name in WORKERS and name not in heard:
                heard.add(name)
                self.stage.mark(name, "offering")
        return len(heard) == len(WORKERS)

    def note_propagation(self) -> None:
        """Note how long the adverts that the buyer holds were on their way, in milliseconds: one clock here."""
        answer = self.network.ask(BUYER, "offers") or {"offers": []}
        for offer in answer["offers"]:
            self._on_their_way[offer["peer"], offer["sealed_ms"]] = offer["heard_ms"] - offer["sealed_ms"]
        self.figures["advert_propagation_ms"] = quantiles(list(self._on_their_way.values()))

    def measure_finality(self, samples: int = FINALITY_SAMPLES) -> list[float]:
        """Send `samples` transfers of one micro-credit, one after the other; milliseconds until each is final."""
        to = peer_id(self.network.accounts[WORKERS[0]])
        times: list[float] = []
        for _ in range(samples):
            started = time.monotonic()
            self.network.endpoint(BUYER).call("send", to=to, amount=1)
            times.append((time.monotonic() - started) * 1000)
        return times

    def perform(
        self, assignment: Assignment, incidents: Mapping[int, Callable[[], None]] | None = None
    ) -> Performance:
        """Run one job to its settlement. `incidents` happen once so many units are accepted."""
        names = {peer_id(account): name for name, account in self.network.accounts.items()}
        done = Performance(assignment, names=names, submitted_s=time.monotonic())
        news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        waiting = dict(sorted((incidents or {}).items()))
        failure: list[MillraceError] = []
        with Client(endpoint=self.network.endpoint(BUYER).path, budget=MAX_COST) as client:
            limits = assignment.limits
            results = client.wasm_map(
                assignment.module,
                assignment.units,
                verify=Verify.replicas(2),
                max_cost=MAX_COST,
                on_event=news.put,
                timeout=JOB_WAIT_S,
                name=assignment.name,
                fuel=limits.fuel,
                memory_bytes=limits.memory_bytes,
                wall_s=limits.wall_s,
                output_bytes=limits.output_bytes,
            )

            def collect() -> None:
                try:
                    done.results = [_completed(each) for each in results]
                    done.report = results.report()
                except MillraceError as error:
                    failure.append(error)

            reader = threading.Thread(target=collect, name="results", daemon=True)
            reader.start()
            looked_s = 0.0
            while reader.is_alive() or not news.empty():
                self._drain(news, done)
                if time.monotonic() - looked_s > LOOK_INTERVAL_S:
                    looked_s = time.monotonic()
                    self.note_propagation()
                if waiting and sum(done.accepted.values()) >= next(iter(waiting)):
                    waiting.pop(next(iter(waiting)))()
                self.network.crew.check()
        if failure:
            raise failure[0]
        done.settled_s = time.monotonic()
        return done

    def _drain(self, news: queue.SimpleQueue[dict[str, Any]], done: Performance) -> None:
        try:
            self._hear_event(news.get(timeout=_POLL_S), done)
            while True:
                self._hear_event(news.get_nowait(), done)
        except queue.Empty:
            pass

    def _hear_event(self, event: dict[str, Any], done: Performance) -> None:
        stage, name = self.stage, done.assignment.name
        worker = self.network.name_of(str(event.get("worker", "")))
        match event["event"]:
            case "lease_opened":
                done.prices[worker] = int(event["price_per_tfuel"])
                stage.mark(worker, f"leased, {event['amount'] / 1e6:.6f} locked")
                stage.say(
                    f"{name}: lease with {worker}, both signed, {event['amount'] / 1e6:.6f} credits locked"
                )
            case "lease_refused":
                stage.say(f"{name}: no lease with {worker}: {event['reason']}", "yellow")
            case "unit_accepted":
                done.accepted[event["unit"]] += 1
                done.results_s = time.monotonic()
                stage.bar(name, len(done.accepted), len(done.assignment.units))
            case "unit_moved":
                done.moved += 1
            case "liar_caught":
                done.lies += 1
                done.liars.add(worker)
                stage.mark(worker, "caught lying, unpaid", "red")
                stage.say(
                    f"{name}: {worker} returned a wrong result for unit {event['unit']}: re-run, cut, unpaid",
                    "red",
                )
            case "paid":
                player = stage.players.get(worker)
                if player is not None:
                    player.paid += event["amount"]
                    player.units += event["units"]
            case "lease_ended":
                if stage.players[worker].state.startswith("leased"):
                    stage.mark(worker, "done, claims its pay")
                stage.say(f"{name}: lease with {worker} ended ({event['reason']})", "dim")

    def kill_worker(self) -> None:
        """SIGKILL a worker in the middle of its units."""
        self._kill(VICTIM, "its units move to the others")

    def kill_witness(self) -> None:
        """SIGKILL a bootstrap node, which is a witness, too."""
        self._kill(LOST_WITNESS, "three of four witnesses go on")

    def _kill(self, name: str, then: str) -> None:
        member = self._members[name]
        self.network.crew.kill(member)
        self.stage.mark(name, "killed", "dim strike")
        self.stage.say(f"SIGKILL to {name} (pid {member.pid}): {then}", "bold magenta")

    def bring_back_worker(self) -> None:
        """Start the killed worker again on its old folder: it claims what its best voucher says."""
        member = self.network.start_peer(VICTIM)
        self._members[VICTIM] = member
        self.stage.players[VICTIM].pid = member.pid
        self.stage.mark(VICTIM, "back")
        self.stage.say(f"{VICTIM} is back (pid {member.pid}) and claims what it had earned before", "magenta")

    def settle(self, wait_s: float) -> None:
        """Wait until no lock is open any more."""
        self.network.wait("every lock settled", lambda: self._open_locks() == 0, wait_s)

    def _open_locks(self) -> int:
        head = self.network.ask(BUYER, "ledger.head")
        return -1 if head is None else int(head["totals"]["locks_open"])

    def balances(self) -> dict[str, int]:
        """Every account's balance, as the buyer's node knows it, in micro-credits."""
        found = {}
        for name, account in self.network.accounts.items():
            answer = self.network.endpoint(BUYER).call("balance", account=peer_id(account))
            found[name] = int(answer["balance"])
        return found


def quantiles(values: Sequence[float]) -> dict[str, float]:
    """Median, 99th percentile and count."""
    ordered = sorted(values) or [0.0]
    at = [ordered[min(len(ordered) - 1, int(len(ordered) * share))] for share in (0.5, 0.99)]
    return {"p50": round(at[0], 1), "p99": round(at[1], 1), "samples": len(values)}


def _completed(result: Completed | MillraceError) -> Completed:
    if isinstance(result, MillraceError):
        raise result
    return result
