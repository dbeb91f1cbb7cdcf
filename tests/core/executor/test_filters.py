"""The system call filters, run by a small interpreter of classic BPF (SPEC.md §13.6)."""

from __future__ import annotations

import struct

import pytest

from executor.core.seccomp import ARCHITECTURES, Stage, program

ALLOW, KILL, EPERM, ENOSYS = 0x7FFF0000, 0x80000000, 0x00050001, 0x00050026
MACHINES = tuple(ARCHITECTURES)
FORBIDDEN_ALWAYS = {"x86_64": {"socket": 41, "connect": 42, "ptrace": 101, "mount": 165, "unshare": 272, "bpf": 321,
                               "io_uring_setup": 425, "keyctl": 250, "userfaultfd": 323, "setns": 308},
                    "aarch64": {"socket": 198, "connect": 203, "ptrace": 117, "mount": 40, "unshare": 97, "bpf": 280,
                                "io_uring_setup": 425, "keyctl": 219, "userfaultfd": 282, "setns": 268}}  # fmt: skip


def verdict(machine: str, stage: Stage, number: int, *args: int, audit: int | None = None) -> int:
    """What the kernel would answer; asserts that every jump stays inside and that the program ends."""
    code = program(machine, stage)
    assert code is not None
    data = struct.pack(
        "<IIQ6Q",
        number,
        ARCHITECTURES[machine].audit if audit is None else audit,
        0,
        *args,
        *[0] * (6 - len(args)),
    )
    steps = list(struct.iter_unpack("<HBBI", code))
    accumulator, at = 0, 0
    while True:
        operation, if_true, if_false, value = steps[at]
        at += 1
        if operation == 0x06:
            return value
        if operation == 0x20:
            accumulator = struct.unpack_from("<I", data, value)[0]
            continue
        holds = {0x15: accumulator == value, 0x35: accumulator >= value, 0x45: bool(accumulator & value)}[
            operation
        ]
        at += if_true if holds else if_false


def number(machine: str, name: str) -> int:
    return ARCHITECTURES[machine].calls[name]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("stage", Stage)
def test_every_number_gets_a_verdict(machine: str, stage: Stage) -> None:
    known = set(ARCHITECTURES[machine].calls.values())
    for call in range(600):
        answer = verdict(machine, stage, call)
        assert answer in (ALLOW, EPERM, ENOSYS)
        assert answer != ALLOW or call in known
    assert len(program(machine, stage) or b"") // 8 < 4096  # the kernel's limit


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("stage", Stage)
def test_other_interfaces_end_the_process(machine: str, stage: Stage) -> None:
    for audit in (0x40000003, 0x40000028, 0):
        assert verdict(machine, stage, number(machine, "read"), audit=audit) == KILL
    if machine == "x86_64":
        assert verdict(machine, stage, 0x40000000 | 1) == KILL
        assert verdict(machine, stage, 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("stage", Stage)
def test_dangerous_calls_are_refused(machine: str, stage: Stage) -> None:
    for name, call in FORBIDDEN_ALWAYS[machine].items():
        assert verdict(machine, stage, call) == EPERM, name
    assert verdict(machine, stage, number(machine, "clone3")) == ENOSYS


@pytest.mark.parametrize("machine", MACHINES)
def test_each_stage_is_within_the_one_before(machine: str) -> None:
    calls = ARCHITECTURES[machine].calls
    allowed = [
        {name for name, call in calls.items() if verdict(machine, stage, call) == ALLOW}
        for stage in (Stage.START, Stage.ZYGOTE, Stage.COMPILE)
    ]
    assert allowed[2] < allowed[1] < allowed[0]
    assert not {"openat", "execve", "execveat"} & allowed[1]
    assert not {"clone", "kill", "prctl", "prlimit64", "wait4", "pipe2", "fcntl"} & allowed[2]
    unit = {name for name, call in calls.items() if verdict(machine, Stage.UNIT, call) == ALLOW}
    assert unit == allowed[2]


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_are_looked_at(machine: str) -> None:
    clone, mmap, mprotect = (number(machine, name) for name in ("clone", "mmap", "mprotect"))
    assert verdict(machine, Stage.ZYGOTE, clone, 17) == ALLOW
    for flag in (0x80, 0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000, 0x10000):
        assert verdict(machine, Stage.ZYGOTE, clone, 17 | flag) == EPERM, hex(flag)
    for call in (mmap, mprotect):
        assert verdict(machine, Stage.UNIT, call, 0, 4096, 3) == ALLOW
        assert verdict(machine, Stage.UNIT, call, 0, 4096, 5) == EPERM
        assert verdict(machine, Stage.COMPILE, call, 0, 4096, 5) == ALLOW


def test_a_machine_without_a_table_has_no_filter() -> None:
    assert program("riscv64", Stage.UNIT) is None
