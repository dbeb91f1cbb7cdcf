"""The node's process as the command line sees it, with small real processes in its place."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from millrace.cli import daemon
from millrace.errors import JobTimeout
from millrace.paths import HOME_ENV, Paths, find_paths, private_dir

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

STUBBORN = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = find_paths({HOME_ENV: str(tmp_path / "home")})
    private_dir(found.data)
    return found


@pytest.fixture
def stubborn(paths: Paths) -> Iterator[subprocess.Popen[bytes]]:
    """A process that looks like a node and does not listen to SIGTERM."""
    process = daemon.start_node([sys.executable, "-c", STUBBORN, daemon.NODE_MODULE], paths)
    assert daemon.wait_until(lambda: bool(daemon.log_tail(paths.log, 1)), time.monotonic() + 20)
    yield process
    process.kill()
    process.wait()


def test_a_node_is_known_by_its_process_not_by_its_file(
    paths: Paths, stubborn: subprocess.Popen[bytes]
) -> None:
    assert daemon.node_pid(paths) == stubborn.pid
    assert daemon.log_tail(paths.log, 5) == ["up"]
    assert paths.log.stat().st_mode & 0o777 == 0o600
    daemon.end_process(stubborn.pid, signal.SIGTERM)
    assert daemon.pid_lives(stubborn.pid)
    daemon.end_process(stubborn.pid, signal.SIGKILL)
    # not reaped yet: a zombie is no node
    assert daemon.wait_until(lambda: not daemon.pid_lives(stubborn.pid), time.monotonic() + 10)
    stubborn.wait()
    daemon.end_process(stubborn.pid, signal.SIGTERM)  # gone already: no error
    assert daemon.node_pid(paths) is None


@pytest.mark.parametrize("stale", ["", "x", "0", "1", "-5", "9" * 30, str(os.getpid())])
def test_a_stale_file_names_nobody(paths: Paths, stale: str) -> None:
    paths.pid.write_text(stale)
    assert daemon.node_pid(paths) is None


def test_a_node_outlives_the_terminal(paths: Paths, stubborn: subprocess.Popen[bytes]) -> None:
    assert os.getsid(stubborn.pid) == stubborn.pid


def test_one_start_at_a_time(paths: Paths) -> None:
    with (
        daemon.only_one_starts(paths, time.monotonic() + 5),
        pytest.raises(JobTimeout, match="another `millrace up`"),
        daemon.only_one_starts(paths, time.monotonic()),
    ):
        pass
    with daemon.only_one_starts(paths, time.monotonic()):
        pass


def test_a_long_log_is_set_aside_and_a_tail_begins_where_told(paths: Paths) -> None:
    assert daemon.log_tail(paths.log, 3) == []
    paths.log.write_text("old\n" * 10)
    start = daemon.log_size(paths.log)
    with paths.log.open("a") as file:
        file.write("new\n")
    assert daemon.log_tail(paths.log, 5, after=start) == ["new"]
    os.truncate(paths.log, daemon.LOG_BYTES_MAX + 1)
    assert daemon.log_size(paths.log) == 0
    daemon.start_node([sys.executable, "-c", "pass"], paths).wait()
    assert paths.log.stat().st_size == 0
    assert paths.log.with_name("node.log.1").exists()


def test_the_node_is_started_with_the_same_choices() -> None:
    assert daemon.node_command("p", "c", ["a=b"])[1:] == [
        "-m",
        daemon.NODE_MODULE,
        "--profile",
        "p",
        "--config",
        "c",
        "--set",
        "a=b",
    ]
