"""The node as a real process: started as `up` starts it, stopped in order, killed, and what is left of it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from bootstrap.genesis import NetworkFile, save_network
from ledger.core.genesis import Genesis
from ledger.core.keys import SigningKey
from millrace.endpoint import Endpoint
from millrace.errors import DaemonUnavailable
from millrace.node import STOP_S, main
from p2p.identity import create_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.e2e
START_S = 60.0
EXIT_S = STOP_S + 5.0


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data folder of a network whose only witness is not there, for us and what we start."""
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path))
    tmp_path.chmod(0o700)
    key = create_identity(tmp_path / "node.key", os.urandom(32))
    witness = SigningKey(os.urandom(32)).account
    genesis = Genesis("lonely", 1_700_000_000_000, (witness,), ((key.account, 1_000_000),))
    save_network(tmp_path / "network.toml", NetworkFile(genesis, ()))
    return tmp_path


def start(when: str) -> subprocess.Popen[str]:
    settings = [f"share.when={when}", "network.mdns=false", "network.listen=/ip4/127.0.0.1/tcp/0"]
    return subprocess.Popen(
        [sys.executable, "-m", "millrace.node", *(part for text in settings for part in ("--set", text))],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@contextmanager
def running(home: Path, when: str = "never") -> Iterator[subprocess.Popen[str]]:
    """A node that answers; killed at the end if the test has not ended it."""
    process = start(when)
    try:
        deadline = time.monotonic() + START_S
        while not Endpoint(home / "api.sock").answers():
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline, "the node does not answer"
            time.sleep(0.05)
        yield process
    finally:
        process.kill()
        process.communicate()


def descendants(pid: int) -> set[int]:
    """Every process below `pid`, by /proc."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents[int(entry.name)] = int(fields[1])
    below: set[int] = set()
    while fresh := {child for child, parent in parents.items() if parent in below | {pid}} - below:
        below |= fresh
    return below


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_one_folder_has_one_node_and_sigterm_leaves_nothing(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with running(home) as first:
        status = Endpoint(home / "api.sock").call("status")
        assert status["pid"] == first.pid == int((home / "node.pid").read_text())
        assert "no fault" in status["network"]["statement"]
        assert main([]) == 2  # the second node, in this process: three seconds of imports less
        said = capsys.readouterr().err
        assert "another node uses this data folder" in said
        assert "millrace down" in said
        assert Endpoint(home / "api.sock").call("version")["api"] == 1
        first.send_signal(signal.SIGTERM)
        assert first.wait(EXIT_S) == 0
    assert not (home / "api.sock").exists()
    assert not (home / "node.pid").exists()
    with pytest.raises(DaemonUnavailable):
        Endpoint(home / "api.sock").call("version")


def test_a_lending_node_leaves_no_sandbox_when_stopped_or_killed(home: Path) -> None:
    if not Path("/proc/self/stat").exists():
        pytest.skip("needs /proc")
    for how in ("kill", "stop"):  # what the killed one left must not hinder the next
        with running(home, "always") as process:
            deadline = time.monotonic() + START_S
            while not Endpoint(home / "api.sock").call("status")["lending"]["on"]:
                assert time.monotonic() < deadline, "the node does not lend"
                time.sleep(0.1)
            below = descendants(process.pid)
            assert below, "the benchmark's sandbox should still be warm"
            if how == "kill":
                process.kill()
            else:
                assert Endpoint(home / "api.sock").call("stop")["stopping"]
            code = process.wait(EXIT_S)
            assert code == (-signal.SIGKILL if how == "kill" else 0)
            deadline = time.monotonic() + 5
            while any(map(alive, below)) and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not [pid for pid in below if alive(pid)]
    assert not (home / "api.sock").exists()


@pytest.mark.parametrize(
    ("spoil", "code", "said"),
    [
        (lambda home: (home / "node.key").unlink(), 2, "millrace up"),
        (lambda home: (home / "node.key").chmod(0o644), 2, "chmod 600"),
        (lambda home: (home / "network.toml").unlink(), 2, "network join"),
        (lambda home: (home / "ledger.db").write_bytes(b"x" * 5000), 1, "ledger.db"),
        (lambda home: home.chmod(0o755), 1, "chmod 700"),
    ],
    ids=["no-key", "loose-key", "no-network", "damaged-ledger", "open-folder"],
)
def test_what_cannot_start_says_why_and_what_next(
    home: Path,
    spoil: Callable[[Path], object],
    code: int,
    said: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spoil(home)
    assert main(["--set", "network.listen=/ip4/127.0.0.1/tcp/0"]) == code
    assert said in capsys.readouterr().err
    assert not (home / "api.sock").exists()


def test_an_address_that_is_not_ours_is_said_plainly(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--set", "network.listen=/ip4/192.0.2.1/tcp/4999", "--set", "network.mdns=false"]) == 8
    said = capsys.readouterr().err
    assert "cannot listen" in said
    assert "network.listen" in said


def test_wrong_settings_are_all_listed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--set", "share.cpu=lots", "--set", "no.such=1"]) == 2
    said = capsys.readouterr().err
    assert "share.cpu" in said
    assert "no.such" in said
    assert main(["--set", "nothing"]) == 2
