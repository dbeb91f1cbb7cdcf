"""What the verbs make of a node's answers: text for people, JSON for programs, nothing a terminal would obey."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import TYPE_CHECKING, Any, Self

import pytest
import trio

from ledger.core.keys import SigningKey, peer_id
from millrace.api import AndThen, api_serving
from millrace.cli.main import main
from millrace.cli.status import status_text
from millrace.core.api_messages import METHODS
from millrace.errors import InsufficientCredit, NoPeers
from millrace.paths import private_dir

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

PEER = peer_id(SigningKey(bytes(range(32))).account)
EVIL = "\x1b[2Jgotcha\r\n"
ENTRY = "ab" * 32

STATUS = {
    "pid": 1,
    "uptime_s": 3700.0,
    "name": EVIL,
    "peer_id": PEER,
    "network": {"name": "n", "witnesses": 4, "faults": 1, "statement": "4 witnesses tolerate 1"},
    "peers": {"linked": 3, "known": 4, "offers": 2},
    "lending": {"on": True, "slots": 2, "slots_busy": 1, "units_done": 7, "price_per_tfuel": 41_909},
    "jobs": {"running": 1, "done": 2},
    "sandbox": [{"name": "seccomp", "standing": True, "detail": ""}],
    "balance": {
        "balance": -1_500_000,
        "limit": 5_000_000,
        "locked": 10,
        "earned": 5,
        "pending": 0,
        "spent": 6,
    },
    "ledger": {"height": 3, "entries": 9, "age_s": 61, "trouble": ""},
}
ANSWERS: dict[str, Any] = {
    "version": {"version": "9.9", "api": 1},
    "status": STATUS,
    "peers": {"peers": [{"peer": PEER, "inbound": True, "address": "/ip4/1.2.3.4/tcp/1", "name": EVIL}]},
    "offers": {
        "offers": [{"peer": PEER, "name": EVIL, "kinds": ["wasm"], "cores": 4, "core_hour": 1_000_000}]
    },
    "balance": {"account": PEER, "balance": 5, "limit": 7, "available": 12, "locked": 3},
    "send": {"entry": ENTRY, "height": 4, "index": 0, "to": PEER, "amount": 1, "receipt": b"r"},
    "ledger.head": {"height": 4, "time_ms": 1_700_000_000_000, "totals": {"balance": 0, "locked": 0}},
    "ledger.check": {
        "height": 4,
        "heads": [{"peer": PEER, "verdict": "agrees", "height": 4, "detail": EVIL}],
        "split": "",
    },
    "ledger.evidence": {"evidence": [], "left_out": 0, "split": ""},
    "ledger.show": {
        "blocks": [
            {
                "height": 4,
                "time_ms": 1_700_000_000_000,
                "leader": PEER,
                "entries": [
                    {
                        "index": 0,
                        "type": "transfer",
                        "account": PEER,
                        "to": PEER,
                        "amount": 1_000_000,
                        "id": ENTRY,
                    }
                ],
            }
        ]
    },
    "ledger.receipts": {
        "receipts": [{"entry": ENTRY, "type": "lock", "height": 4, "time_ms": 1_700_000_000_000}]
    },
    "ledger.receipt": {"entry": ENTRY, "receipt": b"receipt bytes"},
    "ledger.audit": {"ok": True, "violation": None, "blocks": 4, "paid": 1_000_000, "log_root": "00"},
    "jobs.ls": {
        "jobs": [
            {
                "job": ENTRY,
                "state": "done",
                "created_ms": 1,
                "units": 3,
                "units_done": 3,
                "cost": 5,
                "name": "m",
            }
        ]
    },
    "job.show": {
        "job": {"job": ENTRY, "state": "done", "cost": 5},
        "timeline": [
            {"at_ms": 1, "event": "job_started"},
            {"at_ms": 1500, "event": "paid", "worker": PEER, "amount": 5},
        ],
        "traffic": [{"peer": PEER, "sent_bytes": 1, "received_bytes": 2}],
    },
    "job.run": {"job_id": ENTRY, "cost": 5, "accepted": 1},
}
RESULT = {
    "event": "result",
    "unit": 0,
    "status": "ok",
    "exit_code": 0,
    "output": b"6\n",
    "fuel": 9,
    "how": "agreement",
}


class FakeNode:
    """A real local API with canned answers, in a thread: what the command line talks to."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.answers = dict(ANSWERS)
        self.events: dict[str, list[dict[str, Any]]] = {
            "ledger.audit": [{"done": 1, "total": 4}],
            "send": [{"event": "waiting", "why": "no witness \x1b answers"}],
            "job.run": [{"event": "job_started", "job_id": ENTRY}, RESULT],
        }
        self.asked: list[tuple[str, dict[str, Any]]] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(target=trio.run, args=(self._run,))

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *error: object) -> None:
        with contextlib.suppress(trio.RunFinishedError):  # `down` has stopped it already
            self._token.run_sync_soon(self._stop.set)
        self._thread.join(10)

    async def _run(self) -> None:
        self._stop = trio.Event()
        self._token = trio.lowlevel.current_trio_token()
        async with api_serving(self.socket, {name: self._answer(name) for name in METHODS}):
            self._ready.set()
            await self._stop.wait()

    def _answer(self, name: str) -> Callable[..., Awaitable[object]]:
        async def answer(params: dict[str, Any], emit: Callable[[dict[str, Any]], Awaitable[None]]) -> object:
            self.asked.append((name, params))
            for event in self.events.get(name, []):
                await emit(event)
            if name == "stop":
                return AndThen({"stopping": True}, self._stop.set)
            answer = self.answers[name]
            if isinstance(answer, Exception):
                raise answer
            return answer

        return answer


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeNode]:
    home = private_dir(tmp_path / "home")
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    with FakeNode(home / "api.sock") as running:
        yield running


READS = [
    (["status"], "1 of 2 slots busy · 7 units done"),
    (["status"], "-1.500000 credits · may fall to -5.000000"),
    (["peers"], "/ip4/1.2.3.4/tcp/1"),
    (["offers", "ls", "--kind", "wasm"], "1.000000"),
    (["balance"], "0.000012"),
    (["balance", PEER], "locked"),
    (["ledger", "head"], "2023-11-14 22:13:20 UTC"),
    (["ledger", "head", "--check"], "agrees"),
    (["ledger", "evidence"], "none"),
    (["ledger", "show"], "1.000000"),
    (["ledger", "show", "4", "--count", "1"], ENTRY),
    (["ledger", "audit"], "good"),
    (["ledger", "receipt"], ENTRY),
    (["jobs"], "3/3"),
    (["jobs", "show", ENTRY], "+1.499 s"),
    (["version"], "9.9"),
]


@pytest.mark.parametrize(("args", "part"), READS)
def test_answers_are_shown(
    node: FakeNode, args: list[str], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == 0
    out = capsys.readouterr().out
    assert part in out
    assert "\x1b" not in out
    assert "\r" not in out
    assert main([*args, "--json", "--quiet"]) == 0
    caught = capsys.readouterr()
    assert all(json.loads(line)["schema"] == 1 for line in caught.out.splitlines())
    assert not caught.err


def test_a_status_of_another_version_does_not_crash_the_screen() -> None:
    assert status_text({}) == "node     ?"
    odd: dict[str, Any] = {name: value for name in STATUS for value in [[1]]}
    status_text(odd)
    status_text(dict.fromkeys(STATUS, "text"))
    status_text({name: {"on": EVIL, "balance": EVIL, "slots": EVIL} for name in STATUS})
    assert len(status_text(STATUS).splitlines()) <= 24


def test_a_payment_is_sent_once_confirmed(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", PEER, "0.000001", "--yes", "--timeout", "5"]) == 0
    caught = capsys.readouterr()
    assert ENTRY in caught.out
    assert "waiting: no witness \\x1b answers\n" in caught.err
    name, params = node.asked[-1]
    assert (name, params["to"], params["amount"], params["timeout_s"]) == ("send", PEER, 1, 5.0)
    node.answers["send"] = InsufficientCredit("not enough", "it would fall below its limit", "earn some")
    assert main(["send", PEER, "1", "--yes"]) == 4
    assert "earn some" in capsys.readouterr().err


FACTS = [
    (
        {"type": "lock", "payee": PEER, "amount": 2_000_000, "expiry_ms": 0, "arbiters_needed": 2},
        "2 arbiters",
    ),
    ({"type": "release", "lock_id": "ab" * 32}, "lock abababababababab"),
    ({"type": "verdict", "lock_id": "ab" * 32, "payee_amount": 1, "arbiters": [PEER] * 3}, "by 0 of 3"),
    ({"type": "limit", "beneficiary": PEER, "delta": 1_500_000}, "line +1.500000"),
    ({"type": "limit", "beneficiary": PEER, "delta": -1, "decree": 7, "approvals": 2}, "decree 7 by 2"),
    ({"type": "rekey", "new_key": PEER, "recovery": PEER}, "recovered by"),
    ({"type": "rotate", "witnesses": [PEER] * 4, "decree": 1, "approvals": 2}, "4 witnesses"),
    ({"type": "param", "version": 2, "fee_min": 10, "dispute_fee": 0, "from_height": 9}, "from block 9"),
]


@pytest.mark.parametrize(("fields", "part"), FACTS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_kind_of_entry_shows_its_facts(
    node: FakeNode, fields: dict[str, Any], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = {"index": 0, "account": PEER, "id": ENTRY, **fields}
    node.answers["ledger.show"] = {"blocks": [{"height": 4, "entries": [entry]}]}
    assert main(["ledger", "show"]) == 0
    out = capsys.readouterr().out
    assert part in out
    assert ENTRY in out


def test_a_split_and_evidence_are_told_and_are_an_exit_code(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    split = "witnesses made two chains final"
    node.answers["ledger.check"] = {
        "heads": [{"peer": PEER, "verdict": "split", "height": 9, "detail": ""}],
        "split": split,
    }
    assert main(["ledger", "head", "--check", PEER]) == 1
    assert node.asked[-1] == ("ledger.check", {"peers": [PEER]})
    assert main(["ledger", "head", PEER]) == 2, "a peer without --check is a mistake"
    lie = {"what": "skip_final", "epoch": 1, "slot": 7, "time_ms": None, "culprits": [PEER], "suspects": []}
    fork = lie | {"what": "fork", "culprits": [], "suspects": [PEER, PEER], "time_ms": 1_700_000_000_000}
    node.answers["ledger.evidence"] = {"evidence": [lie, fork, lie | {"what": EVIL}], "split": split}
    assert main(["ledger", "evidence"]) == 1
    told = capsys.readouterr()
    assert "skipped a slot and made its block final" in told.out
    assert "more than f of" in told.out
    assert "2023-11-14" in told.out
    assert split in told.err
    assert "\x1b" not in told.out + told.err
    node.answers["status"] = STATUS | {"ledger": {"height": 3, "evidence": 2, "split": split}}
    assert main(["status"]) == 0
    assert "2 proofs that a witness lied" in capsys.readouterr().out


def test_a_failed_audit_is_a_failure(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["ledger.audit"] = {"ok": False, "violation": {"rule": "R4.1", "detail": "sum", "height": 3}}
    assert main(["ledger", "audit"]) == 1
    caught = capsys.readouterr()
    assert "FAILED" in caught.out
    assert "block 3 breaks R4.1" in caught.err


def test_a_receipt_is_written_and_a_wrong_one_proves_nothing(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "receipt"
    assert main(["ledger", "receipt", ENTRY, "-o", str(file)]) == 0
    assert file.read_bytes() == b"receipt bytes"
    witness = f"{PEER}@/ip4/127.0.0.1/tcp/4710"
    network = str(tmp_path / "net.toml")
    assert main(["network", "create", "n", "--witness", witness, "-o", network]) == 0
    for data in (b"", b"receipt bytes", b"cmVjZWlwdA==", bytes(2000)):
        file.write_bytes(data)
        assert main(["ledger", "verify", str(file), "--network", network]) == 1
        assert "proves nothing on 'n'" in capsys.readouterr().err
    assert main(["ledger", "verify", str(tmp_path / "absent"), "--network", network]) == 1
    assert "cannot read" in capsys.readouterr().err


def test_a_module_runs_and_its_output_is_ours(node: FakeNode, tmp_path: Path) -> None:
    module, output = tmp_path / "m.wasm", tmp_path / "out"
    module.write_bytes(b"\0asm")
    assert main(["wasm", "run", str(module), "-o", str(output), "--max-cost", "0.5", "--", "a", "-b"]) == 0
    assert output.read_bytes() == b"6\n"
    name, params = node.asked[-1]
    assert name == "job.run"
    assert params["units"] == [{"args": ["a", "-b"], "stdin": b""}]
    assert params["options"]["max_cost"] == 500_000


def test_a_module_that_failed_is_exit_code_6(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "m.wasm"
    module.write_bytes(b"\0asm")
    node.events["job.run"][1] = {**RESULT, "status": "trap", "exit_code": 0}
    assert main(["wasm", "run", str(module), "-o", str(tmp_path / "out")]) == 6
    assert "ended with trap" in capsys.readouterr().err
    assert main(["wasm", "run", str(module), "--json"]) == 6
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["job_started", "result"]
    node.events["job.run"] = []
    node.answers["job.run"] = NoPeers("no peer fits", "3 offers, all too dear", "raise --max-cost")
    assert main(["wasm", "run", str(module)]) == 5
    assert "raise --max-cost" in capsys.readouterr().err


def test_doctor_asks_whether_anybody_sees_the_node(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["doctor", "--quick"])
    assert "linked with 3 peers" in capsys.readouterr().out
    node.answers["status"] = {**STATUS, "peers": {"linked": 0}}
    main(["doctor", "--quick"])
    assert "linked with nobody" in capsys.readouterr().out


def test_down_asks_the_node_to_stop(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["down"]) == 0
    assert ("stop", {"finish": False}) in node.asked
    assert "the node has stopped" in capsys.readouterr().out
    assert main(["down"]) == 0
    assert "no node was running" in capsys.readouterr().out
