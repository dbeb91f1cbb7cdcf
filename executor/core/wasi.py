"""WASI preview 1 without a world behind it (SPEC.md §13.3).

A command sees its arguments, its stdin, a capped stdout and stderr, and nothing else. Time is counted, not read: one
virtual nanosecond per unit of fuel, plus what was slept. Random bytes follow from the task. Both are therefore equal
on every machine, and so is the fuel: each call costs HOST_CALL_FUEL and HOST_BYTE_FUEL per byte moved, because
wasmtime meters no host work and a loop of host calls would otherwise be almost free.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING, Final, Protocol

from executor.core.wire import DOMAIN

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = [
    "FUNCTIONS",
    "HOST_BYTE_FUEL",
    "HOST_CALL_FUEL",
    "MODULE",
    "Exit",
    "Fault",
    "Memory",
    "OutOfFuel",
    "OutputLimit",
    "Wasi",
]

MODULE: Final = "wasi_snapshot_preview1"
HOST_CALL_FUEL: Final = 100_000
"""About what a host call takes in time: 20 to 50 microseconds of an interpreter, at some 0.2 ns per unit of fuel."""
HOST_BYTE_FUEL: Final = 4
CLOCK_START_NS: Final = 946_684_800 * 10**9
"""The virtual wall clock starts at 2000-01-01T00:00:00Z: plainly not the time of day."""
RANDOM_BYTES_MAX: Final = 1 << 20
IOVECS_MAX: Final = 1024
SUBSCRIPTIONS_MAX: Final = 64

_SUCCESS, _BADF, _INVAL, _NOSYS, _NOTDIR, _NOTSUP, _SPIPE, _FAULT = 0, 8, 28, 52, 54, 58, 70, 21
_U32: Final = 0xFFFFFFFF
_U64: Final = (1 << 64) - 1
_RIGHT_READ, _RIGHT_WRITE, _RIGHT_STAT, _RIGHT_POLL = 1 << 1, 1 << 6, 1 << 21, 1 << 27

# Parameters of every function of the interface: i is i32, I is i64. All return an errno, save proc_exit.
FUNCTIONS: Final = {
    "args_get": "ii",
    "args_sizes_get": "ii",
    "clock_res_get": "ii",
    "clock_time_get": "iIi",
    "environ_get": "ii",
    "environ_sizes_get": "ii",
    "fd_advise": "iIIi",
    "fd_allocate": "iII",
    "fd_close": "i",
    "fd_datasync": "i",
    "fd_fdstat_get": "ii",
    "fd_fdstat_set_flags": "ii",
    "fd_fdstat_set_rights": "iII",
    "fd_filestat_get": "ii",
    "fd_filestat_set_size": "iI",
    "fd_filestat_set_times": "iIIi",
    "fd_pread": "iiiIi",
    "fd_prestat_dir_name": "iii",
    "fd_prestat_get": "ii",
    "fd_pwrite": "iiiIi",
    "fd_read": "iiii",
    "fd_readdir": "iiiIi",
    "fd_renumber": "ii",
    "fd_seek": "iIii",
    "fd_sync": "i",
    "fd_tell": "ii",
    "fd_write": "iiii",
    "path_create_directory": "iii",
    "path_filestat_get": "iiiii",
    "path_filestat_set_times": "iiiiIIi",
    "path_link": "iiiiiii",
    "path_open": "iiiiiIIii",
    "path_readlink": "iiiiii",
    "path_remove_directory": "iii",
    "path_rename": "iiiiii",
    "path_symlink": "iiiii",
    "path_unlink_file": "iii",
    "poll_oneoff": "iiii",
    "proc_exit": "i",
    "proc_raise": "i",
    "random_get": "ii",
    "sched_yield": "",
    "sock_accept": "iii",
    "sock_recv": "iiiiii",
    "sock_send": "iiiii",
    "sock_shutdown": "ii",
}


class Memory(Protocol):
    """The linear memory and the fuel of the running module."""

    def read(self, address: int, size: int) -> bytes:
        """`size` bytes at `address`; `Fault` when they are not all inside the memory."""

    def write(self, address: int, data: bytes) -> None:
        """Put `data` at `address`; `Fault` when it does not fit."""

    def fuel_used(self) -> int:
        """Fuel used so far."""

    def charge(self, fuel: int) -> None:
        """Take `fuel` from what is left; `OutOfFuel` when there is less."""


class Fault(Exception):
    """A pointer leads outside the linear memory."""


class Exit(Exception):
    """The command called proc_exit."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code & _U32


class OutOfFuel(Exception):
    """A host call costs more fuel than is left."""


class OutputLimit(Exception):
    """The command wrote more to stdout than its limit."""


class Wasi:
    """The state of one command: what it read, wrote, slept and drew."""

    def __init__(
        self, args: Sequence[str], stdin: bytes, seed: bytes, output_bytes_max: int, stderr_bytes_max: int
    ) -> None:
        """`seed` is the digest of the task: the random stream follows from it alone."""
        self._args = [arg.encode() + b"\0" for arg in args]
        self._stdin = stdin
        self._stdin_at = 0
        self._seed = hashlib.sha256(DOMAIN + b"random\0" + seed).digest()
        self._draws = 0
        self._slept_ns = 0
        self._open = {0, 1, 2}
        self._output_bytes_max = output_bytes_max
        self._stderr_bytes_max = stderr_bytes_max
        self.output = bytearray()
        self.stderr = bytearray()

    def call(self, name: str, memory: Memory, arguments: Sequence[int]) -> int:
        """Answer the host call `name` with a WASI errno; raises Exit, OutOfFuel or OutputLimit to end the command.

        The price of the call is taken before it has any effect.
        """
        memory.charge(HOST_CALL_FUEL)
        kinds = FUNCTIONS[name]
        numbers = [
            number & (_U32 if kind == "i" else _U64) for number, kind in zip(arguments, kinds, strict=True)
        ]
        handler = _HANDLERS.get(name)
        try:
            if handler is not None:
                return handler(self, memory, *numbers)
        except Fault:
            return _FAULT
        return self._unsupported(name, numbers)

    def _unsupported(self, name: str, numbers: list[int]) -> int:
        """Files, folders and sockets do not exist: the errno is the one that a closed or wrong descriptor has."""
        if not name.startswith(("fd_", "path_", "sock_")):
            return _NOSYS
        if numbers[0] not in self._open:
            return _BADF
        return _NOTDIR if name.startswith("path_") else _NOTSUP

    # --- arguments and environment

    def _args_sizes_get(self, memory: Memory, count_at: int, size_at: int) -> int:
        memory.write(count_at, _u32(len(self._args)))
        memory.write(size_at, _u32(sum(map(len, self._args))))
        return _SUCCESS

    def _args_get(self, memory: Memory, pointers_at: int, text_at: int) -> int:
        memory.charge(HOST_BYTE_FUEL * sum(4 + len(arg) for arg in self._args))
        for index, arg in enumerate(self._args):
            memory.write(pointers_at + 4 * index, _u32(text_at))
            memory.write(text_at, arg)
            text_at += len(arg)
        return _SUCCESS

    def _environ_sizes_get(self, memory: Memory, count_at: int, size_at: int) -> int:
        memory.write(count_at, _u32(0))
        memory.write(size_at, _u32(0))
        return _SUCCESS

    def _environ_get(self, _memory: Memory, _pointers_at: int, _text_at: int) -> int:
        return _SUCCESS

    # --- streams

    def _fd_write(self, memory: Memory, fd: int, iovecs_at: int, count: int, written_at: int) -> int:
        if fd not in (1, 2) or fd not in self._open:
            return _BADF
        if count > IOVECS_MAX:
            return _INVAL
        written = 0
        for address, size in _iovecs(memory, iovecs_at, count):
            memory.charge(HOST_BYTE_FUEL * size)
            self._append(fd, memory, address, size)
            written += size
        memory.write(written_at, _u32(written))
        return _SUCCESS

    def _append(self, fd: int, memory: Memory, address: int, size: int) -> None:
        """Keep what fits; more on stdout ends the command, more on stderr is dropped."""
        kept, most = (
            (self.output, self._output_bytes_max) if fd == 1 else (self.stderr, self._stderr_bytes_max)
        )
        room = most - len(kept)
        kept += memory.read(address, min(size, room))
        if fd == 1 and size > room:
            raise OutputLimit

    def _fd_read(self, memory: Memory, fd: int, iovecs_at: int, count: int, read_at: int) -> int:
        if fd != 0 or fd not in self._open:
            return _BADF
        if count > IOVECS_MAX:
            return _INVAL
        total = 0
        for address, size in _iovecs(memory, iovecs_at, count):
            piece = self._stdin[self._stdin_at : self._stdin_at + size]
            memory.charge(HOST_BYTE_FUEL * len(piece))
            memory.write(address, piece)
            self._stdin_at += len(piece)
            total += len(piece)
        memory.write(read_at, _u32(total))
        return _SUCCESS

    def _fd_close(self, _memory: Memory, fd: int) -> int:
        if fd not in self._open:
            return _BADF
        self._open.discard(fd)
        return _SUCCESS

    def _fd_fdstat_get(self, memory: Memory, fd: int, stat_at: int) -> int:
        if fd not in self._open:
            return _BADF
        rights = (_RIGHT_READ if fd == 0 else _RIGHT_WRITE) | _RIGHT_STAT | _RIGHT_POLL
        # File type 0 (unknown): a C library then buffers whole blocks instead of lines.
        memory.write(stat_at, struct.pack("<BxHxxxxQQ", 0, 0, rights, 0))
        return _SUCCESS

    def _fd_filestat_get(self, memory: Memory, fd: int, stat_at: int) -> int:
        if fd not in self._open:
            return _BADF
        memory.write(stat_at, bytes(64))
        return _SUCCESS

    def _fd_seek(self, _memory: Memory, fd: int, _offset: int, _whence: int, _at: int) -> int:
        return _SPIPE if fd in self._open else _BADF

    def _fd_tell(self, _memory: Memory, fd: int, _at: int) -> int:
        return _SPIPE if fd in self._open else _BADF

    def _fd_prestat_get(self, _memory: Memory, _fd: int, _at: int) -> int:
        return _BADF  # no folder is open, whatever the descriptor: this is how a C library stops looking

    # --- time, randomness, control

    def _now_ns(self, memory: Memory) -> int:
        return memory.fuel_used() + self._slept_ns

    def _clock(self, memory: Memory, clock: int) -> int | None:
        """Virtual nanoseconds on WASI clock 0 (wall), 1 (monotonic), 2 or 3 (CPU); None for any other."""
        if clock == 0:
            return CLOCK_START_NS + self._now_ns(memory)
        if clock == 1:
            return self._now_ns(memory)
        return memory.fuel_used() if clock in (2, 3) else None

    def _clock_res_get(self, memory: Memory, clock: int, result_at: int) -> int:
        if clock > 3:
            return _INVAL
        memory.write(result_at, struct.pack("<Q", 1))
        return _SUCCESS

    def _clock_time_get(self, memory: Memory, clock: int, _precision: int, result_at: int) -> int:
        now = self._clock(memory, clock)
        if now is None:
            return _INVAL
        memory.write(result_at, struct.pack("<Q", now & _U64))
        return _SUCCESS

    def _random_get(self, memory: Memory, address: int, size: int) -> int:
        if size > RANDOM_BYTES_MAX:
            return _INVAL
        memory.charge(HOST_BYTE_FUEL * size)
        draw = hashlib.shake_256(self._seed + struct.pack(">Q", self._draws)).digest(size)
        memory.write(address, draw)
        self._draws += 1
        return _SUCCESS

    def _poll_oneoff(self, memory: Memory, in_at: int, out_at: int, count: int, count_at: int) -> int:
        """Streams are always ready; with clocks alone the virtual time jumps to the first that is due."""
        if not 1 <= count <= SUBSCRIPTIONS_MAX:
            return _INVAL
        ready: list[bytes] = []
        sleeps: list[tuple[int, bytes]] = []
        for index in range(count):
            raw = memory.read(in_at + 48 * index, 48)
            userdata, tag = struct.unpack_from("<QB", raw)
            if tag == 0:
                clock, timeout, flags = (
                    struct.unpack_from("<I", raw, 16)[0],
                    struct.unpack_from("<Q", raw, 24)[0],
                    struct.unpack_from("<H", raw, 40)[0],
                )
                now = self._clock(memory, clock)
                if now is None:
                    ready.append(_event(userdata, _INVAL, 0))
                else:
                    sleeps.append((max(0, timeout - now) if flags & 1 else timeout, _event(userdata, 0, 0)))
            else:
                fd = struct.unpack_from("<I", raw, 16)[0]
                right = (tag == 1 and fd == 0) or (tag == 2 and fd in (1, 2))
                ready.append(_event(userdata, 0 if right and fd in self._open else _BADF, tag))
        if not ready:
            first = min(wait for wait, _ in sleeps)
            self._slept_ns = min(self._slept_ns + first, _U64)
            ready = [event for wait, event in sleeps if wait == first]
        memory.write(out_at, b"".join(ready))
        memory.write(count_at, _u32(len(ready)))
        return _SUCCESS

    def _sched_yield(self, _memory: Memory) -> int:
        return _SUCCESS

    def _proc_exit(self, _memory: Memory, code: int) -> int:
        raise Exit(code)


_HANDLERS: Final[dict[str, Callable[..., int]]] = {
    name: getattr(Wasi, f"_{name}") for name in FUNCTIONS if hasattr(Wasi, f"_{name}")
}


def _u32(value: int) -> bytes:
    return struct.pack("<I", value & _U32)


def _event(userdata: int, errno: int, tag: int) -> bytes:
    return struct.pack("<QHB21x", userdata, errno, tag)


def _iovecs(memory: Memory, address: int, count: int) -> list[tuple[int, int]]:
    raw = memory.read(address, 8 * count)
    return [struct.unpack_from("<II", raw, 8 * index) for index in range(count)]
