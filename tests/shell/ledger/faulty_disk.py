"""A disk that fails when told to: every write, sync and read of a child process passes through our hands.

The child runs under a seccomp filter that hands the calls that touch files to its parent (SECCOMP_RET_USER_NOTIF). The
parent lets each go on, answers it with an error, or kills the child in front of it; and it can write down what
each wrote, from which `images` makes the files as a crash or a power cut at any place would leave them.
Needs Linux 5.9 on x86-64 or arm64; `supported` says whether this machine has it.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import random
import select
import signal
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

__all__ = ["ACKS", "Call", "Fault", "images", "run_watched", "supported", "write_image"]

# pread64, pwrite64, fsync, fdatasync, ftruncate, unlink or unlinkat
_NUMBERS: Final = {
    "x86_64": {
        17: "read",
        18: "write",
        74: "sync",
        75: "sync",
        77: "truncate",
        87: "unlink",
        263: "unlinkat",
    },
    "aarch64": {67: "read", 68: "write", 82: "sync", 83: "sync", 46: "truncate", 35: "unlinkat"},
}
_SECCOMP: Final = {"x86_64": 317, "aarch64": 277}
_ALLOW, _USER_NOTIFY = 0x7FFF0000, 0x7FC00000
_RECEIVE, _SEND = 0xC0502100, 0xC0182101
_NOTICE = struct.Struct("=QIIiIQ6Q")
_ANSWER = struct.Struct("=QqiI")
_CONTINUE: Final = 1
ACKS: Final = "acks"
"""The workload appends to a file of this name what it was told is durable: so it stands in order with the writes."""
SECTOR_BYTES: Final = 512


@dataclass(frozen=True, slots=True)
class Call:
    """One call: `kind` is read, write, sync, truncate or unlink."""

    kind: str
    path: str
    offset: int = 0
    data: bytes = b""


@dataclass(slots=True)
class Fault:
    """What happens at the `at`-th call (from 1 on) of the kinds: an error number, or a SIGKILL for `None`."""

    at: int
    error: int | None
    kinds: tuple[str, ...] = ("write", "sync", "truncate")
    lasting: bool = False
    """Whether every later call fails, too."""
    seen: int = field(default=0)

    def strikes(self, call: Call) -> bool:
        """Count the call, and say whether it is to fail."""
        if call.kind not in self.kinds or call.path.endswith((ACKS, "-shm")):
            return False
        self.seen += 1
        return self.seen == self.at or (self.lasting and self.seen > self.at)


def supported() -> bool:
    """Whether this machine can watch a child so."""
    if platform.system() != "Linux" or platform.machine() not in _NUMBERS:
        return False
    try:
        done = run_watched(lambda: None, None)
    except OSError:
        return False
    return done.status == 0


@dataclass(slots=True)
class Watched:
    """How a watched child ended, and what it did to files."""

    status: int
    calls: list[Call]
    faults: int = 0


def run_watched(work: Callable[[], None], fault: Fault | None, *, record: bool = False) -> Watched:
    """Fork, run `work` in the child with `fault`, and return when it ended: its status and, if recorded, its calls."""
    ours, theirs = socket.socketpair()
    child = os.fork()
    if not child:
        ours.close()
        _be_watched(theirs, work)
    theirs.close()
    done = Watched(0, [])
    with ours:
        _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
        if not descriptors:
            os.waitpid(child, 0)
            raise OSError(errno.ENOSYS, "the child could not be watched")
        try:
            with Path(f"/proc/{child}/mem").open("rb", buffering=0) as memory:
                ours.send(b"g")
                for call in _calls(descriptors[0], child, memory, fault, done):
                    if record or call.path.endswith(ACKS):
                        done.calls.append(call)
        finally:
            os.close(descriptors[0])
            os.kill(child, signal.SIGKILL)  # it has ended, unless something here went wrong
            done.status = os.waitpid(child, 0)[1]
    return done


def _be_watched(channel: socket.socket, work: Callable[[], None]) -> None:
    """In the child: install the filter, give its listener to the parent, work, end."""
    status = 70
    try:
        machine = platform.machine()
        numbers = list(_NUMBERS[machine])
        code = [(0x20, 0, 0, 0)]  # load the number of the call
        code += [(0x15, len(numbers) - at, 0, number) for at, number in enumerate(numbers)]
        code += [(0x06, 0, 0, _ALLOW), (0x06, 0, 0, _USER_NOTIFY)]
        program = b"".join(struct.pack("<HBBI", op, yes, no, value) for op, yes, no, value in code)
        buffer = ctypes.create_string_buffer(program)
        header = struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        libc.prctl(38, 1, 0, 0, 0)  # no new privileges: without it, a filter needs some
        listener = libc.syscall(_SECCOMP[machine], 1, 8, ctypes.c_char_p(header))
        if listener >= 0:
            socket.send_fds(channel, [b"l"], [listener])
            os.close(listener)
            channel.recv(1)
            channel.close()
            work()
            status = 0
    finally:
        os._exit(status)


def _calls(listener: int, child: int, memory: BinaryIO, fault: Fault | None, done: Watched) -> Iterator[Call]:
    """The child's calls until it ends, each answered when the next one is asked for; those that failed are left out."""
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    names = _NUMBERS[platform.machine()]
    while poll.poll()[0][1] & select.POLLIN:  # else nobody lives that has the filter
        notice = bytearray(_NOTICE.size)
        try:
            fcntl.ioctl(listener, _RECEIVE, notice)
        except OSError as error:
            if error.errno in {errno.ENOENT, errno.EINTR}:
                continue
            raise
        number, _, _, call_number, _, _, *arguments = _NOTICE.unpack(notice)
        call = _call(child, memory, names[call_number], arguments)
        answer = _ANSWER.pack(number, 0, 0, _CONTINUE)
        if fault is None or not fault.strikes(call):
            yield call
        elif fault.error is None:
            os.kill(child, signal.SIGKILL)
            return
        else:
            done.faults += 1
            answer = _ANSWER.pack(number, 0, -fault.error, 0)
        fcntl.ioctl(listener, _SEND, answer)


def _call(child: int, memory: BinaryIO, kind: str, arguments: Sequence[int]) -> Call:
    if kind in {"unlink", "unlinkat"}:
        memory.seek(arguments[0 if kind == "unlink" else 1])
        return Call("unlink", b"".join(iter(lambda: memory.read(1), b"\0")).decode())
    path = str(Path(f"/proc/{child}/fd/{arguments[0]}").readlink())
    if kind == "write":
        memory.seek(arguments[1])
        return Call(kind, path, arguments[3], memory.read(arguments[2]))
    return Call(kind, path, arguments[1] if kind == "truncate" else 0)


# What a crash leaves.


@dataclass(slots=True)
class _File:
    """A file's bytes: `durable` after its last sync, and the calls since."""

    durable: bytearray = field(default_factory=bytearray)
    pending: list[Call] = field(default_factory=list)
    is_gone: bool = False


def images(
    calls: Sequence[Call], seeds: Sequence[int]
) -> Iterator[tuple[int, int, dict[str, bytes], list[bytes]]]:
    """(place, seed, files, acks) for a crash behind each call that changes a file.

    Seed 0 is a killed process: all it wrote is there. Any other is a power cut: of what was not synced, each write is
    there, or not, or torn at a sector. `acks` is what was acknowledged up to there.
    """
    files: dict[str, _File] = {}
    acks: list[bytes] = []
    for place, call in enumerate(calls):
        if call.path.endswith(ACKS):
            acks.append(call.data)
            continue
        if call.kind == "read" or call.path.endswith("-shm"):
            continue
        file = files.setdefault(call.path, _File())
        if call.kind == "sync":
            for pending in file.pending:
                _apply(file.durable, pending)
            file.pending = []
        elif call.kind == "unlink":
            files[call.path] = _File(is_gone=True)
        else:
            file.is_gone = False
            file.pending.append(call)
        for seed in seeds:
            chance = random.Random(f"{place} {seed}")
            found = {
                path: bytes(_crashed(each, chance if seed else None))
                for path, each in files.items()
                if not each.is_gone
            }
            yield place, seed, found, list(acks)


def _crashed(file: _File, chance: random.Random | None) -> bytearray:
    data = bytearray(file.durable)
    for call in file.pending:
        fate = chance.randrange(3) if chance is not None else 1
        if fate == 1 or (fate == 2 and call.kind == "truncate"):
            _apply(data, call)
        elif fate == 2 and chance is not None:
            sectors = len(call.data) // SECTOR_BYTES
            torn = call.data[: SECTOR_BYTES * chance.randint(0, sectors)]
            _apply(data, Call("write", call.path, call.offset, torn))
    return data


def _apply(data: bytearray, call: Call) -> None:
    if call.kind == "truncate":
        data += bytes(max(0, call.offset - len(data)))
        del data[call.offset :]
    elif call.data:
        data += bytes(max(0, call.offset - len(data)))
        data[call.offset : call.offset + len(call.data)] = call.data


def write_image(folder: Path, files: dict[str, bytes]) -> None:
    """Put an image's files into `folder`, by their last names."""
    for old in folder.iterdir():
        old.unlink()
    for path, data in files.items():
        (folder / Path(path).name).write_bytes(data)
