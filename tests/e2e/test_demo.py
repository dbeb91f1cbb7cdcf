"""`millrace demo`, as a person runs it: to its end, and interrupted in the middle."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.e2e

DEMO_WAIT_S = 240
STOP_WAIT_S = 60


def start(tmp_path: Path, *args: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable,
            "-m",
            "millrace.cli.main",
            "demo",
            "--json",
            "--",
            "--output",
            str(tmp_path / "p.png"),
            *args,
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


def processes_naming(needle: str) -> list[int]:
    """Processes whose command line or environment names `needle`."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for part in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                if needle.encode() in (entry / part).read_bytes():
                    found.append(int(entry.name))
    return found


def folders(tmp_path: Path) -> list[Path]:
    return list(tmp_path.glob("millrace-demo-*"))


@pytest.fixture
def demo_dir(tmp_path: Path) -> Iterator[Path]:
    yield tmp_path
    for pid in processes_naming(str(tmp_path)):
        os.kill(pid, signal.SIGKILL)


def test_every_claim_holds(demo_dir: Path) -> None:
    demo = start(demo_dir)
    out, err = demo.communicate(timeout=DEMO_WAIT_S)
    document = json.loads(out)
    broken = [check for check in document["checks"] if not check["held"]]
    assert not broken, (broken, document["problem"], err)
    assert demo.returncode == 0, (document["problem"], err)
    assert document["ok"]
    assert len(document["checks"]) >= 12
    assert (demo_dir / "p.png").read_bytes().startswith(b"\x89PNG")
    assert not folders(demo_dir)
    assert not processes_naming(str(demo_dir))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda how: how.name)
def test_interrupted_it_leaves_nothing(demo_dir: Path, how: signal.Signals) -> None:
    demo = start(demo_dir)
    deadline = time.monotonic() + STOP_WAIT_S
    # nine processes with the demo's folder in their environment: the network is up
    while len(processes_naming(f"{demo_dir}/millrace-demo-")) < 8 and time.monotonic() < deadline:
        assert demo.poll() is None
        time.sleep(0.05)  # waiting for processes: there is nothing else to wait on
    demo.send_signal(how)
    demo.communicate(timeout=STOP_WAIT_S)
    assert demo.returncode == 130
    assert not folders(demo_dir)
    assert not processes_naming(str(demo_dir))


def test_killed_outright_its_processes_end_by_themselves(demo_dir: Path) -> None:
    demo = start(demo_dir)
    deadline = time.monotonic() + STOP_WAIT_S
    while len(processes_naming(f"{demo_dir}/millrace-demo-")) < 8 and time.monotonic() < deadline:
        assert demo.poll() is None
        time.sleep(0.05)  # as above
    demo.kill()
    demo.communicate(timeout=STOP_WAIT_S)
    while processes_naming(str(demo_dir)) and time.monotonic() < deadline:
        time.sleep(0.05)  # as above
    assert not processes_naming(str(demo_dir))
