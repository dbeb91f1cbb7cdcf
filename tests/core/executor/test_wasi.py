"""WASI without a world (SPEC.md §13.3): every function of the interface, with hostile pointers and numbers."""

from __future__ import annotations

import struct

import pytest

from executor.core.wasi import (
    FUNCTIONS,
    HOST_BYTE_FUEL,
    HOST_CALL_FUEL,
    Exit,
    Fault,
    OutOfFuel,
    OutputLimit,
    Wasi,
)

SUCCESS, BADF, FAULT, INVAL, NOSYS, NOTDIR, NOTSUP, SPIPE = 0, 8, 21, 28, 52, 54, 58, 70


class Bytes:
    """A linear memory and a tank of fuel."""

    def __init__(self, size: int = 4096, fuel: int = 10**9) -> None:
        self.data = bytearray(size)
        self.fuel = fuel
        self.left = fuel

    def read(self, address: int, size: int) -> bytes:
        if address + size > len(self.data):
            raise Fault
        return bytes(self.data[address : address + size])

    def write(self, address: int, data: bytes) -> None:
        if address + len(data) > len(self.data):
            raise Fault
        self.data[address : address + len(data)] = data

    def fuel_used(self) -> int:
        return self.fuel - self.left

    def charge(self, fuel: int) -> None:
        if fuel > self.left:
            raise OutOfFuel
        self.left -= fuel


def wasi(stdin: bytes = b"", output_bytes: int = 100) -> Wasi:
    return Wasi(("task", "ü"), stdin, bytes(32), output_bytes, 20)


def iovecs(memory: Bytes, at: int, *pieces: tuple[int, int]) -> None:
    memory.write(at, b"".join(struct.pack("<II", *piece) for piece in pieces))


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
@pytest.mark.parametrize("value", [0, 1, 2, 7, 4095, -1, 2**31, 2**63 - 1])
def test_any_numbers_get_an_errno_and_cost_fuel(name: str, value: int) -> None:
    memory = Bytes()
    try:
        answer = wasi().call(name, memory, [value] * len(FUNCTIONS[name]))
    except (Exit, OutputLimit):
        return
    assert 0 <= answer <= 76
    assert memory.fuel_used() >= HOST_CALL_FUEL


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_a_call_without_fuel_has_no_effect(name: str) -> None:
    memory = Bytes(fuel=HOST_CALL_FUEL - 1)
    with pytest.raises(OutOfFuel):
        wasi().call(name, memory, [1] * len(FUNCTIONS[name]))
    assert not any(memory.data)


def test_there_are_no_files_folders_and_sockets() -> None:
    memory, state = Bytes(), wasi()
    for name in FUNCTIONS:
        zeros = [0] * (len(FUNCTIONS[name]) - 1)
        if name.startswith("path_"):
            assert state.call(name, memory, [0, *zeros]) == NOTDIR
            assert state.call(name, memory, [3, *zeros]) == BADF
        elif name.startswith("sock_"):
            assert state.call(name, memory, [0, *zeros]) == NOTSUP
    assert state.call("fd_prestat_get", memory, [3, 64]) == BADF
    assert state.call("fd_seek", memory, [0, 0, 0, 64]) == SPIPE
    assert state.call("proc_raise", memory, [9]) == NOSYS


def test_writing_stops_exactly_at_the_limit() -> None:
    memory, state = Bytes(), wasi(output_bytes=10)
    memory.write(100, b"abcdefgh")
    iovecs(memory, 0, (100, 4), (104, 4))
    assert state.call("fd_write", memory, [1, 0, 2, 64]) == SUCCESS
    assert memory.fuel_used() == HOST_CALL_FUEL + 8 * HOST_BYTE_FUEL
    assert memory.read(64, 4) == struct.pack("<I", 8)
    with pytest.raises(OutputLimit):
        state.call("fd_write", memory, [1, 0, 2, 64])
    assert state.output == b"abcdefghab"


def test_stderr_is_cut_silently() -> None:
    memory, state = Bytes(), wasi()
    iovecs(memory, 0, (0, 4000))
    assert state.call("fd_write", memory, [2, 0, 1, 64]) == SUCCESS
    assert len(state.stderr) == 20
    assert memory.read(64, 4) == struct.pack("<I", 4000)


def test_reading_moves_on_and_ends() -> None:
    memory, state = Bytes(), wasi(stdin=b"abcde")
    iovecs(memory, 0, (100, 2), (110, 1))
    for expected, count in ((b"ab", 3), (b"de", 2), (b"", 0)):
        memory.write(100, bytes(16))
        assert state.call("fd_read", memory, [0, 0, 2, 64]) == SUCCESS
        assert memory.read(64, 4) == struct.pack("<I", count)
        assert memory.read(100, len(expected)) == expected
    assert state.call("fd_read", memory, [1, 0, 2, 64]) == BADF
    assert state.call("fd_close", memory, [0]) == SUCCESS
    assert state.call("fd_read", memory, [0, 0, 2, 64]) == BADF
    assert state.call("fd_close", memory, [0]) == BADF


def test_arguments() -> None:
    memory, state = Bytes(), wasi()
    assert state.call("args_sizes_get", memory, [0, 4]) == SUCCESS
    assert memory.read(0, 8) == struct.pack("<II", 2, 8)
    assert state.call("args_get", memory, [16, 100]) == SUCCESS
    assert memory.read(16, 8) == struct.pack("<II", 100, 105)
    assert memory.read(100, 8) == "task\0ü\0".encode()
    assert state.call("args_get", memory, [16, 4090]) == FAULT


def test_time_is_fuel_and_sleep() -> None:
    memory, state = Bytes(), wasi()
    state.call("clock_time_get", memory, [1, 0, 0])
    assert struct.unpack("<Q", memory.read(0, 8))[0] == HOST_CALL_FUEL
    memory.left -= 1234
    sleep = struct.pack("<QBxxxxxxxIxxxxQQHxxxxxx", 77, 0, 1, 10**9, 0, 0)
    wakes_first = struct.pack("<QBxxxxxxxIxxxxQQHxxxxxx", 78, 0, 1, 10**6, 0, 0)
    memory.write(100, sleep + wakes_first)
    assert state.call("poll_oneoff", memory, [100, 300, 2, 64]) == SUCCESS
    assert memory.read(64, 4) == struct.pack("<I", 1)
    assert memory.read(300, 11) == struct.pack("<QHB", 78, 0, 0)
    state.call("clock_time_get", memory, [1, 0, 0])
    assert struct.unpack("<Q", memory.read(0, 8))[0] == 3 * HOST_CALL_FUEL + 1234 + 10**6
    state.call("clock_time_get", memory, [2, 0, 0])
    assert struct.unpack("<Q", memory.read(0, 8))[0] == 4 * HOST_CALL_FUEL + 1234
    assert state.call("clock_time_get", memory, [4, 0, 0]) == INVAL


def test_polling_streams_and_wrong_clocks() -> None:
    memory, state = Bytes(), wasi()
    memory.write(100, struct.pack("<QBxxxxxxxI28x", 5, 1, 0))  # reading stdin
    memory.write(148, struct.pack("<QBxxxxxxxI28x", 6, 2, 9))  # writing to a descriptor that is not open
    memory.write(196, struct.pack("<QBxxxxxxxI28x", 7, 0, 99))  # a clock that does not exist
    assert state.call("poll_oneoff", memory, [100, 400, 3, 64]) == SUCCESS
    assert memory.read(64, 4) == struct.pack("<I", 3)
    events = [struct.unpack_from("<QHB", memory.read(400 + 32 * index, 32)) for index in range(3)]
    assert events == [(5, 0, 1), (6, BADF, 2), (7, INVAL, 0)]
    assert state.call("poll_oneoff", memory, [100, 400, 0, 64]) == INVAL
    assert state.call("poll_oneoff", memory, [100, 400, 65, 64]) == INVAL


def test_random_bytes_are_a_stream_of_the_seed() -> None:
    memory, state = Bytes(), wasi()
    assert state.call("random_get", memory, [0, 16]) == SUCCESS
    first = memory.read(0, 16)
    assert first.hex() == "4021c84430493429acb7cb93728ce1f3"
    assert state.call("random_get", memory, [0, 16]) == SUCCESS
    assert memory.read(0, 16) != first
    assert state.call("random_get", memory, [0, (1 << 20) + 1]) == INVAL
    assert state.call("random_get", memory, [4090, 16]) == FAULT


def test_exit_codes_are_unsigned() -> None:
    with pytest.raises(Exit) as ending:
        wasi().call("proc_exit", Bytes(), [-1])
    assert ending.value.code == 0xFFFFFFFF
