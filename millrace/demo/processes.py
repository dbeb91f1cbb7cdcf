"""The demo's processes: started, watched, killed on purpose, and gone at the end, whatever happens."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from types import TracebackType

__all__ = ["STOP_SIGNALS", "Crew", "Member", "MemberLost"]

STOP_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends the demo in order: Ctrl-C, a polite kill, and a terminal that is closed."""

STOP_WAIT_S: Final = 15.0
"""How long a process may take to stop in order before it is killed."""
LOG_TAIL_LINES: Final = 12
_POLL_S: Final = 0.05


class MemberLost(RuntimeError):
    """A process ended that should not have; the text ends with what it wrote last."""


@dataclass(slots=True)
class Member:
    """One process with a data folder and a log of its own."""

    name: str
    role: str
    home: Path
    process: subprocess.Popen[bytes]
    killed: bool = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def log(self) -> Path:
        """What it wrote to its standard output and error."""
        return self.home / "demo.log"

    @property
    def alive(self) -> bool:
        """Whether it runs now."""
        return self.process.poll() is None

    def log_tail(self) -> str:
        """The last lines of its log, for a message."""
        with contextlib.suppress(OSError):
            lines = self.log.read_text(errors="replace").splitlines()
            return "\n".join(f"    {line}" for line in lines[-LOG_TAIL_LINES:])
        return ""


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """Hold the stop signals back where one would leave a stray: between a fork and its entry in the list, and
    while the processes are stopped.

    Not by a signal mask: Python runs its handlers in the main thread whichever thread the signal reached.
    """
    held: list[int] = []
    handlers = {each: signal.signal(each, lambda number, _: held.append(number)) for each in STOP_SIGNALS}
    try:
        yield
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
        if held:
            signal.raise_signal(held[0])


@dataclass(slots=True)
class Crew:
    """All processes of one demo. Leaving the `with` block ends every one of them."""

    members: list[Member] = field(default_factory=list)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(
        self, name: str, role: str, home: Path, module: str, *args: str, env: Mapping[str, str] | None = None
    ) -> Member:
        """Start `python -m module args…` with its data under `home`, and `env` beside our own environment.

        Must be called from the main thread: the kernel ends a child with the thread that started it (child.py).
        """
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        kept = {key: value for key, value in os.environ.items() if not key.startswith("MILLRACE_")}
        with (home / "demo.log").open("ab") as log, _signals_wait():
            # a session of its own: Ctrl-C reaches the demo alone, which then stops its processes in order
            process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own modules
                [sys.executable, "-m", "millrace.demo.child", module, *args],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, **(env or {}), "MILLRACE_HOME": str(home), "PYTHONUNBUFFERED": "1"},
                start_new_session=True,
            )
            member = Member(name, role, home, process)
            self.members.append(member)
        return member

    def check(self) -> None:
        """Raise `MemberLost` if a process ended that nobody killed."""
        for member in self.members:
            if not member.alive and not member.killed:
                raise MemberLost(
                    f"{member.name} (pid {member.pid}) ended with code {member.process.returncode}. "
                    f"The end of its log:\n{member.log_tail()}"
                )

    def kill(self, member: Member) -> None:
        """End `member` the hard way: SIGKILL, no time to say goodbye. What it started dies with it."""
        member.killed = True
        member.process.kill()
        member.process.wait()

    def stop(self) -> None:
        """Ask everybody to stop, newest first, and kill whoever does not within STOP_WAIT_S."""
        with _signals_wait():
            for member in reversed(self.members):
                if member.alive:
                    member.killed = True
                    member.process.terminate()
            deadline = time.monotonic() + STOP_WAIT_S
            while time.monotonic() < deadline and any(member.alive for member in self.members):
                time.sleep(_POLL_S)
            for member in self.members:
                # the group too: a killed node's sandboxes end with it, this is for what could not
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.killpg(member.pid, signal.SIGKILL)
                member.process.wait()
