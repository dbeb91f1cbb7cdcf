"""Attacks on the real sandbox, each seen to work outside of it first (SPEC.md §13.6)."""

from __future__ import annotations

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import trio

from executor import sandbox
from executor.cgroups import find_hierarchy
from executor.core.limits import Limits
from executor.core.outcome import Status
from executor.core.task import WasmTask
from executor.runner import ModuleRefused, RunnerConfig, open_runner
from executor.zygote import Child
from tests.shell.executor import intruder
from tests.shell.executor import wat_modules as modules

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from executor.runner import Runner

needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")
INTRUDER = Path(intruder.__file__).read_text()
SECRET = "planted-secret-7f3a"
INSIDE = """
import sys, json, os
sys.path[:0] = sys.argv[2:]
settings = json.loads(sys.argv[1])
exec(settings["source"])
from executor import child_lockdown
from executor.core.frames import frame
from executor.core.seccomp import Stage
aims = settings["aims"]
found = {"start": attempt({**aims, "syscalls": False})}
child_lockdown.drop_privileges(settings["uid"])
child_lockdown.install_filter(Stage.ZYGOTE)
found["x32"] = x32_ends_the_process()
found["forks"] = forks(100)
child_lockdown.install_filter(Stage.UNIT)
found["unit"] = {**attempt(aims), **attempt_as_unit()}
os.write(1, frame(json.dumps(found).encode()))
os._exit(0)
"""


@pytest.fixture
def aims(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A planted key, a secret in the environment, an open descriptor, a listening port."""
    key = tmp_path / "node.key"
    key.write_text(SECRET)
    tmp_path.chmod(0o755)
    key.chmod(0o644)  # readable by all: the sandbox alone must keep it away
    monkeypatch.setenv("MILLRACE_TEST_SECRET", SECRET)
    with socket.create_server(("127.0.0.1", 0)) as server, key.open() as leak:
        os.set_inheritable(leak.fileno(), True)
        yield {
            "paths": [
                str(key),
                "/etc/shadow",
                "/etc/passwd",
                "/proc/1/environ",
                "/proc/sys/kernel/core_pattern",
            ],
            "secret": SECRET,
            "port": server.getsockname()[1],
            "node": os.getpid(),
            "own": [],
            "syscalls": True,
        }


def test_control_the_attacks_work_without_a_sandbox(aims: dict[str, Any]) -> None:
    """Otherwise the test below would prove nothing."""
    code = "import sys, json; exec(sys.argv[1]); print(json.dumps(attempt(json.loads(sys.argv[2]))))"
    command = [sys.executable, "-I", "-c", code, INTRUDER, json.dumps({**aims, "syscalls": False})]
    done = subprocess.run(command, capture_output=True, text=True, check=True, close_fds=False)
    tried = json.loads(done.stdout)
    Path(f"/tmp/intruder-{tried.pop('pid')}").unlink()
    assert tried["secret in the environment"]
    assert tried["inherited descriptors"]
    worked = {name for name, result in tried.items() if result}
    assert {f"read {path}" for path in (aims["paths"][0], "/etc/passwd")} <= worked
    assert {
        "tcp to the host",
        "socket inet",
        "socket unix",
        "shell",
        "see the node",
        "write to /tmp",
    } <= worked


@needs_bwrap
async def test_nothing_is_reached_from_inside(aims: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "_BOOT", INSIDE)
    plan = sandbox.Plan(bwrap=True, uid=sandbox.unused_uid())
    hierarchy = find_hierarchy()
    group = None
    if hierarchy is not None:
        group = hierarchy.create(f"millrace-{os.getpid()}-attack", memory_bytes=1 << 28, processes=10)
    settings = {"source": INTRUDER, "aims": aims}
    child = Child(sandbox.start(sandbox.find_site(), plan, group, settings), 1 << 20)
    try:
        found = json.loads(await child.receive())
    finally:
        await child.end()
    at_start = {name for name, worked in found["start"].items() if worked}
    assert at_start <= {
        "is root",
        "become root",
        "pid",
    }  # a root node's child is root until it drops to its own user
    as_unit = {name for name, worked in found["unit"].items() if worked}
    assert as_unit == {"pid"}
    if platform.machine() == "x86_64":
        assert found["x32"]
    if group is not None:
        assert found["forks"] <= 10
        assert not any(folder.exists() for folder in group.folders)


async def test_compile_bomb_is_stopped_by_its_own_limit(tmp_path: Path) -> None:
    config = RunnerConfig(cache_dir=tmp_path / "cache", compile_cpu_s=1)
    bomb = modules.compile_bomb()
    async with open_runner(config) as runner:
        started = time.monotonic()
        with pytest.raises(ModuleRefused, match="1 CPU seconds"):
            await runner.prepare(bomb)
        assert time.monotonic() - started < 10
        started = time.process_time()
        with pytest.raises(ModuleRefused, match="1 CPU seconds"):
            await runner.prepare(bomb)  # remembered: it costs its second once
        assert time.process_time() - started < 0.2
        assert not list((tmp_path / "cache").iterdir())
        await runner.prepare(modules.HELLO)


def descendants(pid: int) -> set[int]:
    """All processes below `pid`."""
    parents = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdecimal():
            try:
                parents[int(folder.name)] = int((folder / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
    found = {pid}
    while new := {child for child, parent in parents.items() if parent in found} - found:
        found |= new
    return found - {pid}


def open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def until(condition: Callable[[], bool], timeout_s: float = 10) -> None:
    """Wait for something that only the kernel can tell."""
    with trio.fail_after(timeout_s):
        while not condition():  # noqa: ASYNC110 - no event of ours comes with it
            await trio.sleep(0.01)


def groups() -> set[Path]:
    hierarchy = find_hierarchy()
    if hierarchy is None:
        return set()
    return {folder for parent in hierarchy.parents for folder in parent.glob(f"millrace-{os.getpid()}-*")}


@pytest.mark.parametrize("use_bwrap", [pytest.param(True, marks=needs_bwrap), False], ids=["bwrap", "bare"])
async def test_nothing_is_left_after_a_hundred_units(tmp_path: Path, use_bwrap: bool) -> None:
    cache = tmp_path / "cache"
    before = (descendants(os.getpid()), groups(), open_files())
    async with open_runner(RunnerConfig(cache_dir=cache, use_bwrap=use_bwrap)) as runner:
        hello = await runner.prepare(modules.HELLO)
        spin = await runner.prepare(modules.SPIN)
        tasks = [WasmTask(hello.sha256)] * 98
        tasks += [WasmTask(spin.sha256, limits=Limits(fuel=10**13, wall_s=wall_s)) for wall_s in (0.1, 30)]

        async with trio.open_nursery() as nursery:
            for task in tasks:
                nursery.start_soon(runner.run, task)
            await until(lambda: len(nursery.child_tasks) == 1)
            nursery.cancel_scope.cancel()  # the unit that spins for 30 s
        # The cancelled unit's process ends; the two zygotes stay.
        await until(lambda: len(descendants(os.getpid()) - before[0]) <= 2 * (1 + use_bwrap))
        assert (
            await runner.run(WasmTask(spin.sha256, limits=Limits(fuel=10**5)))
        ).status is Status.OUT_OF_FUEL
    assert (descendants(os.getpid()), groups(), open_files()) == before
    assert not [path for path in cache.iterdir() if path.name.startswith(".")]


async def test_leaving_while_cancelled_leaves_nothing(tmp_path: Path) -> None:
    before = (descendants(os.getpid()), groups(), open_files())
    started = trio.Event()

    async def node(task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with open_runner(RunnerConfig(cache_dir=tmp_path / "cache")) as runner:
            spin = await runner.prepare(modules.SPIN)
            task = WasmTask(spin.sha256, limits=Limits(fuel=10**13, wall_s=30))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(runner.run, task)
                nursery.start_soon(runner.prepare, modules.compile_bomb())
                started.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(node)
        await started.wait()
        await until(lambda: len(descendants(os.getpid()) - before[0]) >= 4)
        nursery.cancel_scope.cancel()
    assert (descendants(os.getpid()), groups(), open_files()) == before


async def test_few_modules_stay_loaded_and_none_for_long(tmp_path: Path) -> None:
    before = descendants(os.getpid())
    config = RunnerConfig(cache_dir=tmp_path / "cache", slots=1, zygotes_max=2, idle_s=0.5)
    per_zygote = 2 if shutil.which("bwrap") else 1
    async with open_runner(config) as runner:
        for module in (modules.HELLO, modules.EXIT_0, modules.CAT, modules.ARGS, modules.HELLO):
            prepared = await runner.prepare(module)
            assert (await runner.run(WasmTask(prepared.sha256))).status is Status.OK
            await until(lambda: len(descendants(os.getpid()) - before) <= 2 * per_zygote)
        await until(lambda: descendants(os.getpid()) == before)


async def test_a_dead_sandbox_is_replaced(runner: Runner) -> None:
    """Everything inside is killed while a unit runs: the unit crashed, the next one works."""
    spin = await runner.prepare(modules.SPIN)
    short = WasmTask(spin.sha256, limits=Limits(fuel=10**5))
    long = WasmTask(spin.sha256, limits=Limits(fuel=10**13, wall_s=30))
    assert (await runner.run(short)).status is Status.OUT_OF_FUEL
    sandbox_processes = descendants(os.getpid())
    outcomes = []

    async def one() -> None:
        outcomes.append(await runner.run(long))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(one)
        await until(lambda: descendants(os.getpid()) > sandbox_processes)
        for pid in sandbox_processes:
            os.kill(pid, 9)
    assert outcomes[0].status is Status.CRASHED
    assert (await runner.run(short)).status is Status.OUT_OF_FUEL


NODE = """
import sys, trio
from pathlib import Path
from executor.core.limits import Limits
from executor.core.task import WasmTask
from executor.runner import RunnerConfig, open_runner
async def main():
    async with open_runner(RunnerConfig(cache_dir=Path(sys.argv[1]), use_bwrap=sys.argv[2] == "True")) as runner:
        module = await runner.prepare(Path(sys.argv[3]).read_bytes())
        print("ready", flush=True)
        await runner.run(WasmTask(module.sha256, limits=Limits(fuel=10**13, wall_s=300)))
trio.run(main)
"""


@pytest.mark.parametrize("use_bwrap", [pytest.param(True, marks=needs_bwrap), False], ids=["bwrap", "bare"])
def test_a_killed_node_takes_its_units_with_it(tmp_path: Path, use_bwrap: bool) -> None:
    module = tmp_path / "spin.wasm"
    module.write_bytes(modules.SPIN)
    command = [sys.executable, "-c", NODE, str(tmp_path / "cache"), str(use_bwrap), str(module)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as node:
        assert node.stdout is not None
        assert node.stdout.readline() == b"ready\n"
        wait_for(lambda: len(descendants(node.pid)) >= 2 + use_bwrap)
        below = descendants(node.pid)
        node.kill()
        node.wait()
    wait_for(lambda: not any(_runs(pid) for pid in below))


def _runs(pid: int) -> bool:
    """Whether `pid` is a live process; one that waits for the host's init to reap it is not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class LongestStep(trio.abc.Instrument):
    """The longest time for which one task kept the event loop to itself."""

    def __init__(self) -> None:
        self.longest_s = 0.0
        self._began_s = time.monotonic()

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._began_s = time.monotonic()

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self.longest_s = max(self.longest_s, time.monotonic() - self._began_s)


async def test_the_event_loop_is_never_kept_long(tmp_path: Path) -> None:
    """Compiling, starting, running and ending sandboxes leaves the node's other work alone."""
    for _ in range(3):  # on a machine that is busy with other things, one quiet attempt is enough
        watch = LongestStep()
        trio.lowlevel.add_instrument(watch)
        async with open_runner(RunnerConfig(cache_dir=tmp_path / "cache")) as runner:
            cat = await runner.prepare(modules.CAT)
            task = WasmTask(cat.sha256, stdin=bytes(200_000))
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(runner.run, task)
        trio.lowlevel.remove_instrument(watch)
        if watch.longest_s < 0.1:
            return
        shutil.rmtree(tmp_path / "cache")
    pytest.fail("one step took more than 0.1 s, three times")
