"""Runs inside a sandbox (or outside, as the control) and tries what a stranger's code would try.

`attempt` is given what to look for, and answers {name: what happened}; True means that the attack worked.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import resource
import signal
import socket
from pathlib import Path
from typing import Any

_LIBC = ctypes.CDLL(None, use_errno=True)
_NUMBERS = {  # x86-64
    "ptrace": 101, "mount": 165, "chroot": 161, "setns": 308, "bpf": 321, "perf_event_open": 298, "mknod": 133,
    "keyctl": 250, "add_key": 248, "io_uring_setup": 425, "userfaultfd": 323, "memfd_secret": 447, "memfd_create": 319,
    "shmget": 29, "process_vm_readv": 310, "pidfd_open": 434, "pidfd_getfd": 438, "init_module": 175, "reboot": 169,
    "swapon": 167, "sethostname": 170, "settimeofday": 164, "kexec_load": 246, "unshare": 272, "fanotify_init": 300,
    "open_by_handle_at": 304, "personality": 135, "modify_ldt": 154, "pivot_root": 155, "quotactl": 179,
    "msgget": 68, "semget": 64, "mq_open": 240, "name_to_handle_at": 303, "kcmp": 312, "landlock_create_ruleset": 444,
}  # fmt: skip
_CLONE_NEWUSER = 0x10000000


def _syscall(number: int, *arguments: int) -> int:
    """0 or more when the kernel obeyed, else minus the errno."""
    result = _LIBC.syscall(ctypes.c_long(number), *(ctypes.c_ulong(argument) for argument in arguments))
    return int(result) if result >= 0 else -ctypes.get_errno()


def _works(action: Any) -> bool:
    try:
        action()
    except (OSError, ValueError):
        return False
    return True


def _readable(path: str) -> bool:
    try:
        with Path(path).open("rb") as file:
            file.read(1)
    except OSError:
        return False
    return True


def _socket(family: int, kind: int = socket.SOCK_STREAM) -> None:
    socket.socket(family, kind).close()


def _connect(port: int) -> None:
    with socket.socket() as own:
        own.settimeout(1)
        own.connect(("127.0.0.1", port))


def _map_code() -> None:
    mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC).close()


def _fork() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def forks(most: int) -> int:
    """How many children can live at once, up to `most`."""
    pids = []
    with contextlib.suppress(OSError):
        while len(pids) < most:
            pid = os.fork()
            if pid == 0:
                signal.pause()
            pids.append(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return len(pids)


def attempt(aims: dict[str, Any]) -> dict[str, Any]:
    """All attacks that leave the process alive."""
    tried: dict[str, Any] = {f"read {path}": _readable(path) for path in aims["paths"]}
    tried["secret in the environment"] = any(aims["secret"] in value for value in os.environ.values())
    tried["inherited descriptors"] = [
        fd for fd in range(3, 256) if fd not in aims["own"] and _works(lambda fd=fd: os.fstat(fd))
    ]
    tried["tcp to the host"] = _works(lambda: _connect(aims["port"]))
    for name, family in (
        ("inet", socket.AF_INET),
        ("unix", socket.AF_UNIX),
        ("netlink", 16),
        ("vsock", 40),
        ("packet", 17),
    ):
        kind = socket.SOCK_RAW if family in (16, 17) else socket.SOCK_STREAM
        tried[f"socket {name}"] = _works(lambda f=family, k=kind: _socket(f, k))
    for name, number in _NUMBERS.items() if aims["syscalls"] else ():
        first = _CLONE_NEWUSER if name == "unshare" else 0
        outcome = _syscall(number, first, 0, 0, 0, 0, 0)
        # EPERM: the filter or the missing right. Anything else means that the kernel looked at the arguments.
        tried[f"syscall {name}"] = outcome != -errno.EPERM
    if aims["syscalls"]:
        tried["clone3"] = _syscall(435, 0, 0) != -errno.ENOSYS
        tried["clone newuser"] = _clone_newuser()
    tried["write to /tmp"] = _works(
        lambda: os.close(os.open(f"/tmp/intruder-{os.getpid()}", os.O_CREAT | os.O_RDWR))
    )
    tried["become root"] = os.getuid() != 0 and _works(lambda: os.setresuid(0, 0, 0))
    tried["is root"] = os.getuid() == 0
    tried["raise a limit"] = _works(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (1 << 20, 1 << 20)))
    tried["pid"] = os.getpid()
    tried["shell"] = _readable("/bin/sh")
    tried["see the node"] = _works(lambda: os.kill(aims["node"], 0))
    return tried


def attempt_as_unit() -> dict[str, Any]:
    """Attacks that only the innermost filter stops, besides all the others."""
    return {
        "fork": _works(_fork),
        "map code": _works(_map_code),
        "kill the parent": _works(lambda: os.kill(os.getppid(), 0)),
        "open": _works(lambda: os.close(os.open("/", os.O_RDONLY))),
        "prctl": _LIBC.prctl(ctypes.c_int(3), 0, 0, 0, 0) >= 0,
    }


def x32_ends_the_process() -> bool:
    """Whether a child that makes a system call of the x32 ABI is killed for it."""
    pid = os.fork()
    if pid == 0:
        _syscall(0x40000000 + 39)
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    return os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGSYS


def _clone_newuser() -> bool:
    """clone(2) with a new user namespace, by hand."""
    result = _syscall(56, _CLONE_NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if result == 0:
        os._exit(0)
    if result > 0:
        os.waitpid(result, 0)
    return result != -errno.EPERM
