"""Starts and ends sandboxed child processes: the one owner of process creation in this package (SPEC.md §13.6).

Layers, from the outside: control group, bubblewrap (own mount, process, network, IPC and host name spaces with
read-only libraries as the only files), the START filter, then what the child gives up itself (limits, user, filter).

As root no user namespace is made: the mounts are root's, and the child drops to a host user that owns nothing. The
other way round (a user namespace around host uid 0) files of root would stay writable from inside, /proc/sys first.
Without root a user namespace does the mounts, and its further use is disabled.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import pwd
import shutil
import signal
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from executor.core import seccomp

if TYPE_CHECKING:
    from executor.cgroups import Group

__all__ = ["Plan", "Process", "Site", "find_site", "start", "unused_uid"]

_BOOT: Final = "import sys; sys.path[:0] = sys.argv[2:]; from executor.child import main; main(sys.argv[1])"
# Joins the groups, lowers the core limit, then becomes the program. Its arguments are data: nothing is parsed as code.
_JOIN: Final = (
    'while [ "$1" != -- ]; do echo 0 > "$1" || exit 125; shift; done; shift; ulimit -c 0; exec "$@"'
)
_LIBRARY_FOLDERS: Final = (
    "/lib",
    "/lib64",
    "/usr/lib",
    "/usr/lib64",
    "/usr/local/lib",
    "/nix/store",
    "/gnu/store",
)
_UID_CANDIDATES: Final = (1_999_000_017, 64_917)
_STDERR_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Site:
    """Files that a child needs: the interpreter, its library, this package, wasmtime; bubblewrap if there is one."""

    python: Path
    libraries: tuple[Path, ...]
    executor: Path
    wasmtime: Path
    bwrap: Path | None


@dataclass(frozen=True, slots=True)
class Plan:
    """Which layers to build. `uid` is the host user to become (None: stay who we are)."""

    bwrap: bool
    uid: int | None


def find_site() -> Site:
    """Look for the files of this very interpreter, wherever it is installed; `FileNotFoundError` without wasmtime."""
    wasmtime = find_spec("wasmtime")
    if wasmtime is None or wasmtime.origin is None:
        raise FileNotFoundError("the wasmtime package is not installed")
    # In a virtual environment the second one would be its own library, with every installed package in it.
    libraries = {
        sysconfig.get_path("stdlib"),
        sysconfig.get_path("platstdlib", vars={"platbase": sys.base_exec_prefix}),
    }
    shared = sysconfig.get_config_var("LIBDIR")
    if sysconfig.get_config_var("Py_ENABLE_SHARED") and shared:
        libraries.add(str(shared))
    found = shutil.which("bwrap")
    return Site(
        python=Path(sys.executable).resolve(),
        libraries=tuple(Path(item).resolve() for item in sorted(libraries) if item and Path(item).is_dir()),
        executor=Path(__file__).resolve().parent,
        wasmtime=Path(wasmtime.origin).resolve().parent,
        bwrap=Path(found) if found else None,
    )


def unused_uid() -> int | None:
    """A user number that no account has, for children of root; None when we are not root or none is free."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(OSError, ValueError):
        ranges = [
            tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()
        ]
        for uid in _UID_CANDIDATES:
            if any(first <= uid < first + count for first, _, count in ranges) and not _has_account(uid):
                return uid
    return None


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _bwrap_command(site: Site, plan: Plan, filter_fd: int | None) -> list[str]:
    """bubblewrap and its options. Nothing of the host is inside but libraries, the interpreter and our own code."""
    command = [str(site.bwrap), "--unshare-ipc", "--unshare-pid", "--unshare-net", "--unshare-uts"]
    command += ["--unshare-cgroup-try", "--hostname", "millrace", "--as-pid-1", "--die-with-parent"]
    command += ["--new-session", "--clearenv", "--cap-drop", "ALL"]
    if os.geteuid() != 0:
        command += ["--unshare-user", "--disable-userns", "--uid", "65534", "--gid", "65534"]
    elif plan.uid is not None:
        command += ["--cap-add", "CAP_SETUID", "--cap-add", "CAP_SETGID"]
    for folder in _LIBRARY_FOLDERS:
        path = Path(folder)
        if path.is_symlink():
            command += ["--symlink", str(path.readlink()), folder]
        elif path.is_dir():
            command += ["--ro-bind", folder, folder]
    command += ["--ro-bind-try", "/etc/ld.so.cache", "/etc/ld.so.cache"]
    for path in (*site.libraries, site.python):
        if not any(path.is_relative_to(folder) for folder in _LIBRARY_FOLDERS):
            command += ["--ro-bind", str(path), str(path)]
            if (path / "site-packages").is_dir():
                command += ["--tmpfs", str(path / "site-packages")]
    command += [
        "--ro-bind",
        str(site.executor),
        "/app/executor",
        "--ro-bind",
        str(site.wasmtime),
        "/app/wasmtime",
    ]
    command += ["--remount-ro", "/", "--chdir", "/"]
    if filter_fd is not None:
        command += ["--seccomp", str(filter_fd)]
    return [*command, "--"]


def _filter_pipe() -> int | None:
    """A pipe that holds the START filter, for bubblewrap to read; None on a machine without a table."""
    code = seccomp.program(platform.machine(), seccomp.Stage.START)
    if code is None:
        return None
    reader, writer = os.pipe()
    os.write(writer, code)  # a few kilobytes: less than any pipe holds
    os.close(writer)
    return reader


class Process:
    """A running sandbox: what to write to, what to read from, and how to end it. All descriptors are non-blocking."""

    def __init__(self, popen: subprocess.Popen[bytes], group: Group | None, *, nested: bool) -> None:
        self._popen = popen
        self._nested = nested
        self.group = group
        self.stdin = _take(popen.stdin)
        self.stdout = _take(popen.stdout)
        self.stderr = _take(popen.stderr)
        self.exit_fd = os.pidfd_open(popen.pid)
        """Readable once the process has ended."""

    @property
    def pid(self) -> int:
        """The outermost process."""
        return self._popen.pid

    def poll(self) -> int | None:
        """The exit status once it has ended (which reaps it), None before."""
        return self._popen.poll()

    def kill(self) -> None:
        """End everything inside at once.

        Inside bubblewrap the first process of the space is killed, not bubblewrap: the kernel then ends the whole
        space, and bubblewrap reaps it. Killing bubblewrap would leave the reaping to the host's init.
        """
        if self._popen.poll() is not None:
            return
        inner = self._inner() if self._nested else []
        for pid in inner:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not inner:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)

    def kill_hard(self) -> None:
        """End the outermost process as well, whatever state it is in."""
        with contextlib.suppress(ProcessLookupError):
            self._popen.kill()
        if self.group is not None:
            for pid in self.group.processes():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def _inner(self) -> list[int]:
        """Children of bubblewrap. They cannot be reaped, nor their numbers reused, before it has ended itself."""
        try:
            text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        except OSError:
            return []
        return [int(pid) for pid in text.split()]

    def close_stdin(self) -> None:
        """Ask the child to end."""
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def diagnostics(self) -> str:
        """What it wrote to stderr so far, up to a limit."""
        with contextlib.suppress(OSError):
            return os.read(self.stderr, _STDERR_BYTES_MAX).decode(errors="replace").strip()
        return ""

    def release(self) -> None:
        """Close the descriptors; only after it has ended."""
        self.close_stdin()
        for fd in (self.stdout, self.stderr, self.exit_fd):
            os.close(fd)


def _take(pipe: Any) -> int:  # noqa: ANN401 - typeshed gives IO[bytes] | None
    """The descriptor of one of Popen's pipes, ours from now on, non-blocking."""
    fd = os.dup(pipe.fileno())
    pipe.close()
    os.set_blocking(fd, False)
    return fd


def start(site: Site, plan: Plan, group: Group | None, settings: dict[str, Any]) -> Process:
    """Start a child with `settings`; `OSError` when the machine cannot.

    Call it from the thread that lives as long as the node: the kernel sends --die-with-parent's signal when the
    *thread* that started the child ends, and worker threads end when idle. No preexec_fn, so this is a vfork of
    about a millisecond.
    """
    settings = {**settings, "uid": plan.uid}
    if plan.bwrap:
        paths = ["/app"]
        filter_fd = _filter_pipe()
        prefix = _bwrap_command(site, plan, filter_fd)
    else:
        paths = [str(site.executor.parent), str(site.wasmtime.parent)]
        filter_fd = None
        prefix = []
    command = [*prefix, str(site.python), "-I", "-S", "-B", "-c", _BOOT, json.dumps(settings), *paths]
    joins = group.join_files if group is not None else ()
    try:
        popen = subprocess.Popen(  # noqa: S603 - a list, no shell parsing of ours; see _JOIN
            ["/bin/sh", "-c", _JOIN, "millrace", *joins, "--", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            pass_fds=() if filter_fd is None else (filter_fd,),
            start_new_session=True,
            env={},
            cwd="/",
        )
    finally:
        if filter_fd is not None:
            os.close(filter_fd)
    return Process(popen, group, nested=plan.bwrap)
