"""What units do in the real sandbox, and that it is the same everywhere (SPEC.md §13.3 to §13.5)."""

from __future__ import annotations

import struct
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
import trio

from executor.core.limits import Limits
from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from executor.core.values import decode_results
from executor.runner import ModuleRefused, RunnerConfig, open_runner
from tests.shell.executor import wat_modules as modules

if TYPE_CHECKING:
    from pathlib import Path

    from executor.runner import Runner

SMALL = Limits(fuel=50_000_000, memory_bytes=32 << 20, wall_s=5, output_bytes=100_000)


async def run(runner: Runner, module: bytes, entry: str = "_start", *args: str, **fields: object) -> Outcome:
    prepared = await runner.prepare(module)
    limits = fields.pop("limits", SMALL)
    assert isinstance(limits, Limits)
    return await runner.run(WasmTask(prepared.sha256, entry, args, limits=limits, **fields))  # type: ignore[arg-type]


ENDINGS: dict[str, tuple[bytes, Status, int, bytes | None]] = {
    "hello": (modules.HELLO, Status.OK, 0, b"hello\n"),
    "exit 0": (modules.EXIT_0, Status.OK, 0, b""),
    "exit 7": (modules.EXIT_7, Status.EXIT, 7, b""),
    "trap": (modules.TRAP, Status.TRAP, 0, bytes(4)),
    "endless loop": (modules.SPIN, Status.OUT_OF_FUEL, 0, b""),
    "endless start function": (modules.START_SPIN, Status.OUT_OF_FUEL, 0, b""),
    "stdout bomb": (modules.STDOUT_BOMB, Status.OUTPUT_LIMIT, 0, None),
    "memory at start": (modules.MEMORY_AT_START, Status.OUT_OF_MEMORY, 0, b""),
    "table at start": (modules.TABLE_AT_START, Status.OUT_OF_MEMORY, 0, b""),
    "endless sleep": (modules.SLEEP_FOREVER, Status.OUT_OF_FUEL, 0, b""),
    "escape": (modules.ESCAPE, Status.OK, 0, bytes(4)),
    "wild pointers": (modules.WILD_POINTERS, Status.OK, 0, bytes(4)),
    "recursion": (modules.RECURSE, Status.CRASHED, 0, b""),
}


async def test_every_ending(cache_dir: Path) -> None:
    """One runner for all: each module costs two sandboxes, so they run side by side."""
    outcomes: dict[str, Outcome] = {}

    async def one(name: str) -> None:
        outcomes[name] = await run(runner, ENDINGS[name][0])

    async with open_runner(RunnerConfig(cache_dir=cache_dir)) as runner, trio.open_nursery() as nursery:
        for name in ENDINGS:
            nursery.start_soon(one, name)
    for name, (_, status, exit_code, output) in ENDINGS.items():
        outcome = outcomes[name]
        assert (outcome.status, outcome.exit_code) == (status, exit_code), (name, outcome)
        assert output is None or outcome.output == output, (name, outcome)
        assert outcome.deterministic == (status is not Status.CRASHED), name
        assert outcome.fuel == SMALL.fuel if status is Status.OUT_OF_FUEL else outcome.fuel < SMALL.fuel, name


async def test_stdout_stops_at_its_limit_and_is_paid_for(runner: Runner) -> None:
    outcome = await run(runner, modules.STDOUT_BOMB)
    assert len(outcome.output) == SMALL.output_bytes
    assert outcome.fuel > SMALL.output_bytes  # host work costs fuel


async def test_stderr_is_cut_and_harms_nothing(runner: Runner) -> None:
    outcome = await run(runner, modules.STDERR_BOMB)
    assert outcome.status is Status.OK
    assert len(outcome.stderr) == 16 << 10


async def test_memory_bomb_gets_what_its_limit_allows(runner: Runner) -> None:
    outcome = await run(runner, modules.MEMORY_BOMB)
    pages = struct.unpack("<I", outcome.output)[0]
    assert SMALL.memory_bytes - (17 << 16) < pages << 16 <= SMALL.memory_bytes
    assert outcome.memory_peak_bytes < SMALL.memory_bytes + (64 << 20)


async def test_table_bomb_is_refused_its_table(runner: Runner) -> None:
    outcome = await run(runner, modules.TABLE_BOMB, "grow")
    assert decode_results(outcome.output) == (-1,)


async def test_a_sleep_takes_no_time(runner: Runner) -> None:
    outcome = await run(runner, modules.SLEEP)
    assert 3600 * 10**9 < struct.unpack("<Q", outcome.output)[0] < 3601 * 10**9
    assert outcome.wall_s < 1


async def test_wall_limit_ends_a_unit_that_has_fuel_left(runner: Runner) -> None:
    limits = Limits(fuel=10**13, memory_bytes=1 << 20, wall_s=0.3, output_bytes=1)
    outcome = await run(runner, modules.SPIN, limits=limits)
    assert outcome.status is Status.TIMEOUT
    assert 0.3 <= outcome.wall_s < 1.3
    assert outcome.fuel == 0  # what a stopped unit had used is not exact, so it is not billed
    assert (await run(runner, modules.SPIN)).status is Status.OUT_OF_FUEL  # and the sandbox still works


async def test_stdin_args_and_output_pass_unchanged(runner: Runner) -> None:
    text = bytes(range(256)) * 300
    assert (await run(runner, modules.CAT, stdin=text)).output == text
    outcome = await run(runner, modules.ARGS, "_start", "a", "", "--bind", "ümlaut\n$(x)")
    assert outcome.output == "task\0a\0\0--bind\0ümlaut\n$(x)\0".encode()


async def test_exports_return_canonical_bytes(runner: Runner) -> None:
    for entry, args, expected in (
        ("add", ("2", "3"), "7f00000005"),
        ("add", ("4294967295", "-1"), "7ffffffffe"),
        ("both", ("-1", "0.5"), "7effffffffffffffff7c3fe0000000000000"),
        ("nan", ("0",), "7d7fc00000"),
        ("nan_bits", ("1",), "7e7ff8000000000000"),
        ("none", (), ""),
    ):
        outcome = await run(runner, modules.MATHS, entry, *args)
        assert (outcome.status, outcome.output.hex()) == (Status.OK, expected), entry


async def test_calls_that_do_not_fit_are_refused_and_cost_nothing(runner: Runner) -> None:
    calls = (("add", "2"), ("add", "2", "x"), ("add", "2", "1e3"), ("missing",), ("reference",))
    for entry, *args in calls:
        outcome = await run(runner, modules.MATHS, entry, *args)
        assert (outcome.status, outcome.fuel) == (Status.REFUSED, 0), (entry, args)
        assert outcome.stderr


async def test_division_by_zero_is_a_trap(runner: Runner) -> None:
    outcome = await run(runner, modules.MATHS, "div", "1", "0")
    assert outcome.status is Status.TRAP
    assert b"INTEGER_DIVISION_BY_ZERO" in outcome.stderr


async def test_modules_that_break_a_rule_are_refused(runner: Runner) -> None:
    for module, says in (
        (b"not wasm", "not a WebAssembly"),
        (modules.UNKNOWN_IMPORT, "env.system"),
        (modules.WRONG_TYPE, "another type"),
        (modules.HELLO[:-3], "cut off"),
        (b"\0asm\1\0\0\0\x01\x05\x01\x60\x00\x01\x01", "not valid"),
    ):
        with pytest.raises(ModuleRefused) as refusal:
            await runner.prepare(module)
        assert says in refusal.value.reason


async def test_tasks_that_cannot_run_here_are_refused(runner: Runner) -> None:
    outcome = await runner.run(WasmTask(bytes(32)))
    assert (outcome.status, outcome.stderr) == (Status.REFUSED, b"this module was not prepared here")
    greedy = Limits(memory_bytes=2 << 30)
    outcome = await run(runner, modules.HELLO, limits=greedy)
    assert outcome.status is Status.REFUSED
    assert b"memory_bytes" in outcome.stderr


async def test_same_digest_on_every_runner_slot_and_layer(runner: Runner, tmp_path: Path) -> None:
    """Bytes and fuel are equal between slots, between runners, and between machines with and without bubblewrap."""
    programs = [modules.ORACLE, modules.TRAP, modules.SLEEP, modules.STDOUT_BOMB, modules.SPIN, modules.CAT]
    bare = RunnerConfig(cache_dir=tmp_path / "cache", use_bwrap=False, zygotes_max=len(programs))
    async with open_runner(bare) as other:
        for module in programs:
            prepared = await runner.prepare(module)
            await other.prepare(module)
            stdin = b"x" * 5000 if module is modules.CAT else b""
            task = WasmTask(prepared.sha256, stdin=stdin, limits=SMALL)
            outcomes: list[Outcome] = []

            async def once(where: Runner, task: WasmTask, into: list[Outcome]) -> None:
                into.append(await where.run(task))

            async with trio.open_nursery() as nursery:
                for where in (runner, runner, runner, other, other):
                    nursery.start_soon(once, where, task, outcomes)
            assert len({outcome.digest() for outcome in outcomes}) == 1
            assert all(outcome.deterministic for outcome in outcomes)


async def test_random_bytes_follow_from_the_task(runner: Runner) -> None:
    first = await run(runner, modules.ORACLE)
    second = await run(runner, modules.ORACLE, "_start", "another")
    assert first.output[:8] == second.output[:8]  # the same virtual time
    assert first.output[16:] != second.output[16:]


async def test_fuel_is_a_known_number(runner: Runner) -> None:
    """Pinned: fuel is what is paid, so a change of engine, settings or host prices must show here."""
    assert (await run(runner, modules.HELLO)).fuel == 100_049
    assert (await run(runner, modules.WORK, "work", "1000")).fuel == 12_002


async def test_benchmark_measures_this_machine(runner: Runner) -> None:
    assert 10**7 < await runner.benchmark() < 10**12


def test_wasmtime_stays_out_of_the_node() -> None:
    code = "import sys, executor.runner; print('wasmtime' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
