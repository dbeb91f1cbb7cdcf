"""System call filters as classic BPF programs, assembled here (SPEC.md §13.6).

Nested lists. START is what an interpreter needs until our code runs; bubblewrap installs it. ZYGOTE is what the
waiting parent needs: no file can be opened and no program started any more. UNIT is what compiled WebAssembly and its
host functions need: memory, pipes that are open already, and an end; COMPILE is the same, and may make code executable.
Whatever is not listed fails with EPERM, which
libraries survive and report; a call from another ABI (x32, 32-bit) ends the process, as nothing of ours makes one.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import Enum
from functools import cache
from typing import Final

__all__ = ["ARCHITECTURES", "Architecture", "Stage", "program"]


class Stage(Enum):
    """Who runs under the filter."""

    START = "start"
    ZYGOTE = "zygote"
    COMPILE = "compile"
    UNIT = "unit"


@dataclass(frozen=True, slots=True)
class Architecture:
    """Numbers of one Linux ABI: `audit` is its AUDIT_ARCH, `calls` its system calls that any stage allows."""

    audit: int
    calls: dict[str, int]


# linux/arch/x86/entry/syscalls/syscall_64.tbl
_X86_64: Final = (
    "read:0 write:1 open:2 close:3 stat:4 fstat:5 lstat:6 poll:7 lseek:8 mmap:9 mprotect:10 munmap:11 brk:12 "
    "rt_sigaction:13 rt_sigprocmask:14 rt_sigreturn:15 ioctl:16 pread64:17 readv:19 writev:20 access:21 pipe:22 "
    "select:23 sched_yield:24 mremap:25 madvise:28 dup:32 dup2:33 nanosleep:35 getpid:39 clone:56 fork:57 vfork:58 "
    "execve:59 exit:60 wait4:61 kill:62 uname:63 fcntl:72 getcwd:79 readlink:89 gettimeofday:96 getrlimit:97 "
    "getrusage:98 sysinfo:99 getuid:102 getgid:104 geteuid:107 getegid:108 getppid:110 setgroups:116 setresuid:117 "
    "getresuid:118 setresgid:119 getresgid:120 sigaltstack:131 setpriority:141 prctl:157 arch_prctl:158 "
    "setrlimit:160 gettid:186 "
    "futex:202 sched_getaffinity:204 getdents64:217 set_tid_address:218 clock_gettime:228 clock_getres:229 "
    "clock_nanosleep:230 exit_group:231 openat:257 newfstatat:262 readlinkat:267 pselect6:270 ppoll:271 "
    "set_robust_list:273 pipe2:293 prlimit64:302 seccomp:317 getrandom:318 execveat:322 statx:332 rseq:334 "
    "clone3:435 faccessat2:439"
)
# linux/include/uapi/asm-generic/unistd.h
_AARCH64: Final = (
    "dup:23 dup3:24 fcntl:25 ioctl:29 faccessat:48 openat:56 close:57 pipe2:59 getdents64:61 lseek:62 read:63 "
    "write:64 readv:65 writev:66 pread64:67 pselect6:72 ppoll:73 readlinkat:78 newfstatat:79 fstat:80 exit:93 "
    "exit_group:94 set_tid_address:96 futex:98 set_robust_list:99 nanosleep:101 clock_gettime:113 clock_getres:114 "
    "clock_nanosleep:115 sched_getaffinity:123 sched_yield:124 kill:129 sigaltstack:132 rt_sigaction:134 "
    "rt_sigprocmask:135 rt_sigreturn:139 setresuid:147 getresuid:148 setresgid:149 getresgid:150 setgroups:159 "
    "uname:160 getrlimit:163 setrlimit:164 getrusage:165 prctl:167 gettimeofday:169 getpid:172 getppid:173 "
    "getuid:174 geteuid:175 getgid:176 getegid:177 gettid:178 sysinfo:179 brk:214 munmap:215 mremap:216 clone:220 "
    "execve:221 mmap:222 mprotect:226 madvise:233 wait4:260 prlimit64:261 seccomp:277 getrandom:278 execveat:281 "
    "statx:291 rseq:293 clone3:435 faccessat2:439 getcwd:17 setpriority:140"
)


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_UNIT: Final = _names(
    "read write close fstat lseek mmap mprotect munmap brk rt_sigaction rt_sigprocmask rt_sigreturn readv writev "
    "sched_yield mremap madvise getpid gettid exit exit_group futex clock_gettime clock_getres gettimeofday "
    "getrandom getrusage sigaltstack rseq set_robust_list"
)
_ZYGOTE: Final = _UNIT | _names(
    "clone fork vfork wait4 kill pipe pipe2 poll ppoll select pselect6 fcntl dup dup2 dup3 getppid prlimit64 "
    "setrlimit getrlimit prctl seccomp set_tid_address nanosleep clock_nanosleep"
)
_START: Final = _ZYGOTE | _names(
    "open openat stat lstat newfstatat statx access faccessat faccessat2 readlink readlinkat getdents64 getcwd "
    "pread64 ioctl execve execveat uname sysinfo sched_getaffinity arch_prctl getuid geteuid getgid getegid "
    "getresuid getresgid setgroups setresuid setresgid setpriority"
)
_STAGES: Final = {Stage.START: _START, Stage.ZYGOTE: _ZYGOTE, Stage.COMPILE: _UNIT, Stage.UNIT: _UNIT}

# Flags of clone(2) that make namespaces: NEWTIME, NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
_CLONE_NEW: Final = (
    0x80 | 0x00020000 | 0x02000000 | 0x04000000 | 0x08000000 | 0x10000000 | 0x20000000 | 0x40000000
)
_CLONE_THREAD: Final = 0x00010000
_PROT_EXEC: Final = 0x4
_X32_BIT: Final = 0x40000000
_EPERM: Final = 1
_ENOSYS: Final = 38

_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000
_KILL_PROCESS: Final = 0x80000000
_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP_EQUAL: Final = 0x15
_JUMP_ABOVE_OR_EQUAL: Final = 0x35
_JUMP_SET: Final = 0x45
_RETURN: Final = 0x06
# struct seccomp_data: nr u32, arch u32, instruction_pointer u64, args u64[6]; low halves first (little-endian ABIs).
_AT_NR: Final = 0
_AT_ARCH: Final = 4
_AT_ARG: Final = 16

ARCHITECTURES: Final = {
    machine: Architecture(
        audit, {name: int(number) for name, number in (entry.split(":") for entry in table.split())}
    )
    for machine, audit, table in (
        ("x86_64", 0xC000003E, _X86_64),
        ("aarch64", 0xC00000B7, _AARCH64),
    )
}


@cache
def program(machine: str, stage: Stage) -> bytes | None:
    """The filter of `stage` as an array of struct sock_filter, or None on a machine that we have no table for.

    Layout: refuse other ABIs; then one test per allowed call. clone is allowed without namespace flags, and for a
    unit without PROT_EXEC in mmap and mprotect: its code was mapped before it started.
    """
    architecture = ARCHITECTURES.get(machine)
    if architecture is None:
        return None
    code = [_op(_LOAD, _AT_ARCH), *_unless_equal(architecture.audit, _KILL_PROCESS), _op(_LOAD, _AT_NR)]
    if machine == "x86_64":
        code += [_op(_JUMP_ABOVE_OR_EQUAL, _X32_BIT, 0, 1), _op(_RETURN, _KILL_PROCESS)]
    allowed = _STAGES[stage]
    for name, number in architecture.calls.items():
        if name == "clone3":
            # ENOSYS, because its flags are behind a pointer: the C library falls back to clone, whose flags we see.
            code += _if_equal(number, [_op(_RETURN, _ERRNO | _ENOSYS)])
        elif name not in allowed:
            continue
        elif name == "clone":
            code += _if_equal(number, _unless_flags(0, _CLONE_NEW | _CLONE_THREAD))
        elif stage is Stage.UNIT and name in ("mmap", "mprotect"):
            code += _if_equal(number, _unless_flags(2, _PROT_EXEC))
        else:
            code += _if_equal(number, [_op(_RETURN, _ALLOW)])
    code.append(_op(_RETURN, _ERRNO | _EPERM))
    return b"".join(code)


def _op(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    """One struct sock_filter: code u16, jump offsets u8 u8, k u32."""
    return struct.pack("<HBBI", code, if_true, if_false, value)


def _unless_equal(value: int, verdict: int) -> list[bytes]:
    return [_op(_JUMP_EQUAL, value, 1, 0), _op(_RETURN, verdict)]


def _if_equal(number: int, then: list[bytes]) -> list[bytes]:
    return [_op(_JUMP_EQUAL, number, 0, len(then)), *then]


def _unless_flags(argument: int, flags: int) -> list[bytes]:
    """Allow the call when none of `flags` is set in the low half of `argument`; both ways return."""
    return [
        _op(_LOAD, _AT_ARG + 8 * argument),
        _op(_JUMP_SET, flags, 0, 1),
        _op(_RETURN, _ERRNO | _EPERM),
        _op(_RETURN, _ALLOW),
    ]
