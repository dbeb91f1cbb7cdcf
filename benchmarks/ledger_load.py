"""Clients of a committee, in a process of their own: `python -m benchmarks.ledger_load FILE` (see `ledger_committee`).

Many accounts, each with entries of its own, hand them to the witnesses over the real `ledger` protocol. A follower in
this process pulls, verifies and stores every final block, as a user's node does; an entry counts as final when that
follower has it on disk. FILE says what to do, as JSON; one JSON line per phase tells what was seen.
"""

from __future__ import annotations

import json
import math
import resource
import statistics
import sys
import time
from collections import deque
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from bootstrap.genesis import check_bootstrap_address, load_network
from ledger.core.encoding import WireError
from ledger.core.entries import Transfer, sign_entry
from ledger.core.keys import AccountId, SigningKey
from ledger.core.requests import (
    ANSWER_BYTES_MAX,
    LEDGER,
    SUBMITTED_ENTRIES_MAX,
    Head,
    ServiceError,
    SubmitAll,
    decode_answer,
    encode_request,
)
from ledger.core.requests import (
    field as answer_field,
)
from ledger.store import open_store
from ledger.sync import Follower
from p2p.host import HostConfig, open_host
from p2p.requests import Requests

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bootstrap.genesis import NetworkFile
    from ledger.core.block import FinalBlock
    from ledger.core.entries import Entry

__all__ = ["Phase", "Seen", "client_key", "main"]

ANSWER_S: Final = 10.0
DRAIN_S: Final = 20.0
"""How long entries that were sent may take to become final once a phase is over."""
VALID_MS: Final = 600_000
AMOUNT: Final = 1
BUSY_PAUSE_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Phase:
    """One load. `rate` entries/s at even distances, or `clients` that each wait for one entry before the next."""

    name: str
    seconds: float
    rate: float = 0.0
    clients: int = 0


@dataclass(slots=True)
class Seen:
    """What came of a phase."""

    name: str
    seconds: float = 0.0
    sent: int = 0
    refused: int = 0
    final: int = 0
    lost: int = 0
    """Sent, and neither refused nor final at the end."""
    blocks: int = 0
    latency_ms: list[float] = field(default_factory=list)

    def document(self) -> dict[str, Any]:
        """The figures of this phase."""
        ordered = sorted(self.latency_ms)

        def share(part: float) -> float:
            return ordered[min(len(ordered) - 1, int(len(ordered) * part))] if ordered else math.nan

        rest = {name: value for name, value in asdict(self).items() if name != "latency_ms"}
        return rest | {
            "p50_ms": statistics.median(ordered) if ordered else math.nan,
            "p95_ms": share(0.95),
            "p99_ms": share(0.99),
        }


def client_key(number: int) -> SigningKey:
    """The key of the `number`-th account, the same in both processes."""
    return SigningKey(b"client" + number.to_bytes(26, "big"))


class Load:
    """The accounts, their next sequence numbers, and who waits for which entry."""

    def __init__(
        self, network: NetworkFile, accounts: int, copies: int, doors: list[Door], follower: Follower
    ) -> None:
        self._network_id = network.network_id
        self._keys = [client_key(number) for number in range(accounts)]
        self._seq = [0] * accounts
        self._signed: list[deque[Entry]] = [deque() for _ in range(accounts)]
        self._copies = copies
        self._doors = doors
        self._follower = follower
        self._waiting: dict[tuple[AccountId, int], tuple[float, trio.Event]] = {}
        self.seen = Seen("")

    def sign(self, each: int) -> None:
        """Sign `each` more entries per account before the clock runs: the committee is measured, not this."""
        not_after_ms = time.time_ns() // 1_000_000 + VALID_MS
        for number, key in enumerate(self._keys):
            payee = self._keys[(number + 1) % len(self._keys)].account
            while len(self._signed[number]) < each:
                self._seq[number] += 1
                self._signed[number].append(
                    sign_entry(
                        key,
                        self._network_id,
                        seq=self._seq[number],
                        not_after_ms=not_after_ms,
                        fee=0,
                        action=Transfer(payee, AMOUNT),
                    )
                )

    async def watch(self) -> None:
        """Note what is final as soon as the follower has it on disk."""
        archive = self._follower.archive
        height = archive.height
        while True:
            await archive.wait_beyond(height)
            for block in archive.blocks(height + 1):
                self._take(block)
            height = archive.height

    def _take(self, block: FinalBlock) -> None:
        now_s = trio.current_time()
        self.seen.blocks += 1
        for entry in block.entries:
            self.seen.final += 1
            waiting = self._waiting.pop((entry.account, entry.seq), None)
            if waiting is not None:
                self.seen.latency_ms.append((now_s - waiting[0]) * 1e3)
                waiting[1].set()

    async def run(self, phase: Phase) -> Seen:
        """One phase, and the entries that it leaves behind."""
        self.seen = Seen(phase.name)
        began_s = trio.current_time()
        async with trio.open_nursery() as nursery:
            if phase.clients:
                for number in range(phase.clients):
                    nursery.start_soon(self._client, number, began_s + phase.seconds)
            else:
                nursery.start_soon(self._arrivals, phase)
        seen = self.seen
        seen.seconds = trio.current_time() - began_s
        with trio.move_on_after(DRAIN_S):
            for _, done in list(self._waiting.values()):
                await done.wait()
        seen.lost = len(self._waiting)
        seen.refused = sum(door.refused for door in self._doors)
        self._waiting.clear()
        self.seen = Seen("")
        return seen

    async def _client(self, number: int, until_s: float) -> None:
        while trio.current_time() < until_s and self._signed[number]:
            done = self._submit(number, trio.current_time())
            with trio.move_on_at(until_s):
                await done.wait()

    async def _arrivals(self, phase: Phase) -> None:
        """Open loop: entries come when they come, however long earlier ones wait."""
        began_s = trio.current_time()
        for index in range(int(phase.rate * phase.seconds)):
            due_s = began_s + index / phase.rate
            await trio.sleep_until(due_s)
            self._submit(index % len(self._keys), due_s)

    def _submit(self, number: int, due_s: float) -> trio.Event:
        """Hand the account's next entry to `copies` witnesses; the event says that it is final."""
        entry = self._signed[number].popleft()
        done = trio.Event()
        self._waiting[entry.account, entry.seq] = (due_s, done)
        self.seen.sent += 1
        # An account speaks to the same witnesses through the same peer, so that its entries arrive in their order.
        for copy in range(self._copies):
            self._doors[(number + copy) % len(self._doors)].put(entry)
        return done


class Door:
    """One peer's way to one witness: what comes while a request is open goes together with the next one."""

    def __init__(self, requests: Requests, witness: AccountId) -> None:
        self._requests = requests
        self._witness = witness
        self._entries: deque[Entry] = deque()
        self._filled = trio.Event()
        self.refused = 0

    async def open(self) -> None:
        """Have the channel stand before anything is measured: a user's node has it, too."""
        await self._requests.request(
            self._witness, LEDGER, encode_request(Head()), ANSWER_S, body_bytes_max=ANSWER_BYTES_MAX
        )

    def put(self, entry: Entry) -> None:
        """Send this entry as soon as may be."""
        self._entries.append(entry)
        self._filled.set()

    async def run(self) -> None:
        """Send what is put, until cancelled; entries that meet a full witness are sent again."""
        while True:
            await self._filled.wait()
            self._filled = trio.Event()
            while self._entries:
                count = min(len(self._entries), SUBMITTED_ENTRIES_MAX)
                await self._send([self._entries.popleft() for _ in range(count)])

    async def _send(self, entries: list[Entry]) -> None:
        body = encode_request(SubmitAll(tuple(entry.encode() for entry in entries)))
        try:
            answer = await self._requests.request(
                self._witness, LEDGER, body, ANSWER_S, body_bytes_max=ANSWER_BYTES_MAX
            )
            results = answer_field(decode_answer(answer), "results", list)
        except (ConnectionError, TimeoutError, WireError, ServiceError):
            self._entries.extendleft(reversed(entries))
            await trio.sleep(BUSY_PAUSE_S)
            return
        again = []
        for entry, result in zip(entries, results, strict=True):
            if result["status"] == "refused" and result["reason"] in {"busy", "sequence_gap"}:
                again.append(entry)
            else:
                self.refused += result["status"] == "refused"
        if again:
            self._entries.extendleft(reversed(again))
            await trio.sleep(BUSY_PAUSE_S)


def _phases(document: dict[str, Any]) -> Iterator[Phase]:
    for fields in document["phases"]:
        yield Phase(**fields)


async def _run(document: dict[str, Any]) -> None:
    root = Path(document["root"])
    network = load_network(root / "network.toml")
    peers: int = document["peers"]
    # Several peers, as in life; a service also bounds what it does for one.
    async with trio.open_nursery() as rooms:
        requests: list[Requests] = []
        for number in range(peers):
            host = await rooms.start(_host, network, number)
            requests.append(Requests(host))

        async def request(account: AccountId, body: bytes, timeout_s: float) -> bytes:
            return await requests[0].request(
                account, LEDGER, body, timeout_s, body_bytes_max=ANSWER_BYTES_MAX
            )

        with open_store(root / "follower.db", network.genesis) as store:
            follower = Follower(network.genesis, store, lambda: network.genesis.witnesses, request)
            witnesses = network.genesis.witnesses
            doors = [Door(each, witness) for each in requests[1:] for witness in witnesses]
            for door in doors:
                await door.open()
            load = Load(network, document["accounts"], document["copies"], doors, follower)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.run)
                for door in doors:
                    nursery.start_soon(door.run)
                nursery.start_soon(load.watch)
                for phase in _phases(document):
                    load.sign(document["signed_each"])
                    await trio.to_thread.run_sync(sys.stdin.readline)  # until we are told to begin
                    before = resource.getrusage(resource.RUSAGE_SELF)
                    seen = await load.run(phase)
                    after = resource.getrusage(resource.RUSAGE_SELF)
                    cpu_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
                    print(json.dumps(seen.document() | {"cpu_s": cpu_s}), flush=True)
                nursery.cancel_scope.cancel()
        rooms.cancel_scope.cancel()


async def _host(network: NetworkFile, number: int, task_status: trio.TaskStatus[Any]) -> None:
    key = SigningKey(b"peer" + number.to_bytes(28, "big"))
    async with open_host(HostConfig(listen=(), dht_server=False), key, network.network_id) as host:
        for text in network.bootstrap:
            host.add_addresses(check_bootstrap_address(text)[1], [text])
        task_status.started(host)
        await trio.sleep_forever()


def main() -> None:
    """Carry out the phases of the file that is named on the command line."""
    trio.run(_run, json.loads(Path(sys.argv[1]).read_text()))


if __name__ == "__main__":
    main()
