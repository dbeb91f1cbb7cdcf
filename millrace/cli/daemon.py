"""The node's process as the command line sees it: find it, start it, wait for it, end it.

A process id is believed only when that process still is a millrace node: ids are used again, and a file with
an id outlives its process.
"""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from millrace.errors import JobTimeout, MillraceError

if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Iterator, Sequence

    from millrace.paths import Paths

__all__ = [
    "LOG_BYTES_MAX",
    "NODE_MODULE",
    "POLL_S",
    "end_process",
    "log_size",
    "log_tail",
    "node_command",
    "node_pid",
    "only_one_starts",
    "pid_lives",
    "start_node",
    "wait_until",
    "write_pid",
]

NODE_MODULE: Final = "millrace.node"
POLL_S: Final = 0.1
LOG_BYTES_MAX: Final = 10 << 20
"""A log longer than this is set aside (`node.log.1`) when the next node starts."""
LOG_TAIL_BYTES: Final = 16 << 10


def node_pid(paths: Paths) -> int | None:
    """The id of the node's process, or None when no such process lives any more."""
    try:
        pid = int(paths.pid.read_text(encoding="ascii").strip()[:20])
    except (OSError, ValueError):
        return None
    return pid if pid_lives(pid) else None


def pid_lives(pid: int) -> bool:
    """Whether process `pid` is a millrace node (on systems without /proc: whether it is any process of ours)."""
    if pid <= 1:
        return False
    try:
        # Empty for a process that has ended and waits for its parent.
        return NODE_MODULE.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except FileNotFoundError:
        if Path("/proc/self").is_dir():
            return False
    except OSError:
        return False
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True


@contextmanager
def only_one_starts(paths: Paths, deadline: float) -> Iterator[None]:
    """Hold the right to start this node: a second `up` waits here and then finds it running.

    `JobTimeout` when it is not free by `deadline` (monotonic seconds).
    """
    descriptor = os.open(paths.data / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise JobTimeout(
                        "another `millrace up` has not finished",
                        "it starts this node right now",
                        "millrace status",
                    ) from None
                time.sleep(POLL_S)
        yield
    finally:
        os.close(descriptor)


def start_node(command: Sequence[str], paths: Paths) -> subprocess.Popen[bytes]:
    """Start the node detached from this terminal, its output in the log file; its id in the pid file."""
    if paths.log.exists() and paths.log.stat().st_size > LOG_BYTES_MAX:
        paths.log.replace(paths.log.with_name(f"{paths.log.name}.1"))
    log = os.open(paths.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    try:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd="/",
        )
    finally:
        os.close(log)
    write_pid(paths.pid, process.pid)
    return process


def write_pid(path: Path, pid: int) -> None:
    """Write the pid file; a crash leaves the old one or the new one."""
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(f"{pid}\n", encoding="ascii")
    beside.replace(path)


def node_command(profile: str, config: str, sets: Sequence[str]) -> list[str]:
    """How the node is started: the same interpreter, the same choices."""
    command = [sys.executable, "-m", NODE_MODULE]
    command += ["--profile", profile] if profile else []
    command += ["--config", config] if config else []
    for text in sets:
        command += ["--set", text]
    return command


def wait_until(done: Callable[[], bool], deadline: float) -> bool:
    """Whether `done()` became true before `deadline` (monotonic seconds)."""
    while not done():
        if time.monotonic() >= deadline:
            return False
        time.sleep(POLL_S)
    return True


def end_process(pid: int, how: signal.Signals) -> None:
    """Send a signal to the node; one that has ended already is no error."""
    try:
        os.kill(pid, how)
    except ProcessLookupError:
        return
    except PermissionError as error:
        raise MillraceError(
            f"the node (process {pid}) cannot be stopped", "it belongs to another user", f"sudo kill {pid}"
        ) from error


def log_size(path: Path) -> int:
    """Where the next line of the node's log will stand."""
    try:
        size = path.stat().st_size
    except OSError:
        return 0
    return size if size <= LOG_BYTES_MAX else 0


def log_tail(path: Path, lines: int, *, after: int = 0) -> list[str]:
    """The last lines of the node's log behind byte `after`; empty when there are none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(after, size - LOG_TAIL_BYTES))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines:]
