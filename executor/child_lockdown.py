"""What a child process gives up, by its own hand, before it touches a stranger's bytes (SPEC.md §13.6)."""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
from typing import TYPE_CHECKING, Final

from executor.core import seccomp

if TYPE_CHECKING:
    from executor.core.seccomp import Stage

__all__ = ["drop_privileges", "install_filter", "limit", "seccomp_mode"]

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
_PR_GET_SECCOMP: Final = 21
_PR_SET_SECCOMP: Final = 22
_PR_SET_NO_NEW_PRIVS: Final = 38
_SECCOMP_MODE_FILTER: Final = 2

# Loaded once, before any fork: finding the C library costs half a millisecond, which every unit would pay.
_LIBC: Final = ctypes.CDLL(None, use_errno=True)
_LIBC.prctl.argtypes = (ctypes.c_int, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong, ctypes.c_ulong)
_LIBC.prctl.restype = ctypes.c_int


class _SockFprog(ctypes.Structure):
    _fields_ = (("count", ctypes.c_ushort), ("filter", ctypes.c_void_p))


def _prctl(option: int, *arguments: int) -> int:
    result: int = _LIBC.prctl(option, *(*arguments, 0, 0, 0, 0)[:4])
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl {option}: {os.strerror(number)}")
    return result


def drop_privileges(uid: int | None) -> None:
    """Become `uid` for good (None: stay), gain nothing by any exec, die with the parent, show no memory to others.

    The parent-death signal is set last: the kernel clears it when the user changes.
    """
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    die_with_parent()


def die_with_parent() -> None:
    """SIGKILL for this process when its parent ends; also no core dump and no ptrace by siblings."""
    _prctl(_PR_SET_DUMPABLE, 0)
    _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def install_filter(stage: Stage) -> bool:
    """Install the filter of `stage` on this process and all its children; False when this machine has none.

    `OSError` when the kernel refuses it.
    """
    code = seccomp.program(platform.machine(), stage)
    if code is None:
        return False
    buffer = ctypes.create_string_buffer(code, len(code))
    prog = _SockFprog(len(code) // 8, ctypes.addressof(buffer))
    _prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(prog))
    return True


def seccomp_mode() -> int:
    """0: none, 2: filtered."""
    return _prctl(_PR_GET_SECCOMP)


def limit(kind: int, value: int) -> None:
    """Lower a resource limit, soft and hard, to `value` or to what it already is."""
    _, hard = resource.getrlimit(kind)
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(kind, (value, value))
