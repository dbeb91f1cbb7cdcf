"""A network of one witness and one peer, run as two people would: from the command line alone."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from millrace.cli.daemon import pid_lives

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.e2e
MILLRACE = [sys.executable, "-m", "millrace.cli.main"]


class Terminal:
    """Somebody at a keyboard with a data folder."""

    def __init__(self, home: Path) -> None:
        self.environment = {
            name: text for name, text in os.environ.items() if not name.startswith("MILLRACE_")
        }
        self.environment["MILLRACE_HOME"] = str(home)

    def type(self, *command: str, code: int = 0) -> dict[str, Any]:
        """Run a command with --json; its last document."""
        done = subprocess.run(
            [*MILLRACE, *command, "--json"],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        documents: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
        assert all(document["schema"] == 1 for document in documents)
        return documents[-1]


@pytest.fixture
def witness(tmp_path: Path) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """The operator's machine: a network file, and its only entry point running."""
    operator, member = Terminal(tmp_path / "operator"), Terminal(tmp_path / "member")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"/ip4/127.0.0.1/tcp/{probe.getsockname()[1]}"
    made = operator.type("bootstrap", "init", "--listen", listen)
    peer = member.type("key", "create")["peer_id"]  # the key that gets a limit
    file = str(tmp_path / "home.toml")
    created = operator.type(
        "network", "create", "home", "--witness", made["witness"], "--limit", f"{peer}=10", "-o", file
    )
    assert created["faults_tolerated"] == 0
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(
            [*MILLRACE, "bootstrap", "run", "--network", file, "--json"],
            env=operator.environment,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
    assert process.stdout is not None
    try:
        assert json.loads(process.stdout.readline())["witness"] is True, (tmp_path / "log").read_text()
        yield file, process
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def test_join_lend_pay_audit_and_leave(tmp_path: Path, witness: tuple[str, subprocess.Popen[str]]) -> None:
    file, _process = witness
    me = Terminal(tmp_path / "member")
    assert me.type("up", code=1)["error"]["next"].startswith("millrace network join")
    me.type("network", "join", file)
    up = me.type("up", "--yes", "--set", "network.listen=/ip4/127.0.0.1/tcp/0")
    try:
        assert up["already"] is False
        assert up["lending"] is True
        assert me.type("up")["already"] is True
        status = me.type("status")
        assert status["network"]["witnesses"] == 1
        payee = me.type("network", "show")["witnesses"][0]
        paid = me.type("send", payee, "0.5", "--yes", "--timeout", "60")
        assert me.type("balance")["balance"] == -500_000
        assert me.type("balance", payee)["balance"] == 500_000
        me.type("send", payee, "100", "--yes", code=4)
        audit = me.type("ledger", "audit")
        assert (audit["ok"], audit["entries"], audit["balances_sum"]) == (True, 1, 0)
        receipt = str(tmp_path / "receipt")
        me.type("ledger", "receipt", paid["entry"], "-o", receipt)
    finally:
        down = me.type("down")
    assert down["stopped"] is True
    assert not pid_lives(up["pid"])
    assert me.type("status", code=3)["error"]["code"] == "daemon_unavailable"
    verdict = me.type("ledger", "verify", receipt)  # offline: the node is down
    assert (verdict["valid"], verdict["amount"]) == (True, 500_000)
    assert not (tmp_path / "member" / "api.sock").exists()
