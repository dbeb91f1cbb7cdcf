"""Runs units of stranger's work, each in a single-use sandboxed process (SPEC.md §13).

`open_runner` tests the real sandbox first and keeps to what stands; `Runner.layers` says what that is. Leaving the
block ends every process, group and file that belongs to a unit, also under cancellation.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Final

import trio

from executor import sandbox, selftest
from executor.benchmark import BENCHMARK_FUEL, BENCHMARK_MODULE
from executor.cache import Cache
from executor.cgroups import PREFIX, Group, Hierarchy, find_hierarchy, sweep
from executor.core.frames import FRAME_BYTES_MAX
from executor.core.limits import CEILINGS, Limits
from executor.core.module import check_module
from executor.core.outcome import Outcome, Status
from executor.core.runtime import RUNTIME, cache_key
from executor.core.task import WasmTask
from executor.core.wire import WireError
from executor.selftest import Layer
from executor.zygote import REPORT_BYTES_MAX, Child, ChildError, Zygote

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["Layer", "ModuleRefused", "Prepared", "Runner", "RunnerConfig", "open_runner"]

COMPILE_WALL_S: Final = 30.0
COMPILE_DATA_BYTES: Final = 512 << 20
ZYGOTE_OVERHEAD_BYTES: Final = 256 << 20
REFUSALS_MAX: Final = 256
VERDICT_BYTES_MAX: Final = 1 << 20
IDLE_CHECK_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class RunnerConfig:
    """`slots` units run at once; `cache_dir` holds compiled modules (made with mode 0700).

    `zygotes_max` modules stay loaded, each until it was idle for `idle_s`; `ceilings` are the largest limits that a
    task may ask for; compiling one module may take `compile_cpu_s`; `secrets` are paths that the self-test tries to
    reach from inside, the node's key for one. `use_bwrap` is for tests of machines without bubblewrap.
    """

    cache_dir: Path
    slots: int = 2
    zygotes_max: int = 4
    idle_s: float = 60.0
    compile_cpu_s: int = 6
    ceilings: Limits = field(default_factory=lambda: CEILINGS)
    secrets: tuple[Path, ...] = ()
    use_bwrap: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.slots <= 64 or self.zygotes_max < self.slots:
            raise ValueError("slots must be 1 to 64, and zygotes_max at least as many")


@dataclass(frozen=True, slots=True)
class Prepared:
    """A module that is ready to run: its SHA-256 and the functions that a task can name."""

    sha256: bytes
    exports: tuple[str, ...]


class ModuleRefused(Exception):
    """A module will not run here; `reason` says which rule it breaks."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@asynccontextmanager
async def open_runner(config: RunnerConfig) -> AsyncIterator[Runner]:
    """A runner whose sandbox has been tested.

    `CacheError` when the cache folder cannot be used, `SandboxError` when this machine cannot start any child.
    """
    site = sandbox.find_site()
    key = cache_key(version("wasmtime"), platform.machine())
    cache = await trio.to_thread.run_sync(Cache, config.cache_dir, key)
    hierarchy = find_hierarchy()
    if hierarchy is not None:
        sweep(hierarchy)
    secrets = tuple(str(path) for path in (config.cache_dir.absolute(), *config.secrets))
    plan, hierarchy, layers = await selftest.choose_plan(site, hierarchy, secrets, use_bwrap=config.use_bwrap)
    async with trio.open_nursery() as nursery:
        runner = Runner(
            config=config,
            site=site,
            plan=plan,
            layers=layers,
            hierarchy=hierarchy,
            cache=cache,
            nursery=nursery,
        )
        nursery.start_soon(runner.stop_idle)
        try:
            yield runner
        finally:
            nursery.cancel_scope.cancel()


class Runner:
    """Made by `open_runner`."""

    def __init__(
        self,
        *,
        config: RunnerConfig,
        site: sandbox.Site,
        plan: sandbox.Plan,
        layers: tuple[Layer, ...],
        hierarchy: Hierarchy | None,
        cache: Cache,
        nursery: trio.Nursery,
    ) -> None:
        self._config = config
        self._site = site
        self._plan = plan
        self._hierarchy = hierarchy
        self._cache = cache
        self._nursery = nursery
        self._slots = trio.CapacityLimiter(config.slots)
        self._compiling = trio.CapacityLimiter(1)
        self._refusals: dict[bytes, str] = {}
        self._zygotes: dict[bytes, Zygote] = {}
        self._groups_made = 0
        self.layers = layers
        self.runtime = RUNTIME

    async def prepare(self, module: bytes) -> Prepared:
        """Compile `module`, or find it compiled, and start loading it.

        `ModuleRefused` when it breaks a rule or needs more than a compiling process may use; `OSError` when this
        machine fails (no room on the disk, no process can be started).
        """
        sha256 = await trio.to_thread.run_sync(_check, module)
        compiled, exports = await self._compiled(sha256, module)
        if sha256 not in self._zygotes and self._make_room():
            self._start(sha256, compiled)  # the first unit will probably come soon, and finds it loaded
        return Prepared(sha256, exports)

    async def run(self, task: WasmTask) -> Outcome:
        """Run one unit to its end, whatever that is; waits for a free slot first. Never raises for the unit's sake."""
        if (name := task.limits.exceeds(self._config.ceilings)) is not None:
            return _refused(f"limit {name} is above what this worker grants")
        async with self._slots:
            zygote = await self._zygote(task.module_sha256)
            if isinstance(zygote, Outcome):
                return zygote
            try:
                return await zygote.run(task)
            finally:
                zygote.leases -= 1

    async def benchmark(self) -> int:
        """Fuel per second of one slot, measured by a sieve in the real sandbox."""
        prepared = await self.prepare(BENCHMARK_MODULE)
        task = WasmTask(
            prepared.sha256, "sieve", ("2000000000",), limits=Limits(fuel=BENCHMARK_FUEL, wall_s=30)
        )
        outcome = await self.run(task)
        if outcome.status is not Status.OUT_OF_FUEL:
            raise ChildError(f"the benchmark ended as {outcome.status.name}: {outcome.stderr!r}")
        return round(outcome.fuel / max(outcome.wall_s, 1e-3))

    async def stop_idle(self) -> None:
        """End sandboxes that nobody used for a while; runs as long as the runner."""
        while True:
            await trio.sleep(min(IDLE_CHECK_S, self._config.idle_s))
            now = trio.current_time()
            for sha256, zygote in list(self._zygotes.items()):
                if zygote.leases == 0 and (not zygote.alive or now - zygote.used_at_s >= self._config.idle_s):
                    self._drop(sha256, zygote)

    async def _zygote(self, sha256: bytes) -> Zygote | Outcome:
        """A loaded module, with a lease taken for the caller; or the outcome of a unit that cannot run."""
        failure = None
        for _ in range(2):  # a compiled form that does not load is made again, once
            try:
                zygote = await self._find_or_start(sha256)
            except (ModuleRefused, OSError) as error:
                return _refused(str(error))
            zygote.leases += 1
            failure = await zygote.wait_ready()
            if failure is None:
                return zygote
            zygote.leases -= 1
            self._drop(sha256, zygote)
            if failure.startswith("refused:"):
                await trio.to_thread.run_sync(self._cache.forget, sha256)
        return _refused(f"the sandbox does not start: {failure}")

    async def _find_or_start(self, sha256: bytes) -> Zygote:
        zygote = self._zygotes.get(sha256)
        if zygote is not None and zygote.alive:
            return zygote
        compiled, _ = await self._compiled(sha256, None)
        zygote = self._zygotes.get(sha256)  # another unit of this module may have been faster
        if zygote is not None and zygote.alive:
            return zygote
        self._make_room()
        return self._start(sha256, compiled)

    async def _compiled(self, sha256: bytes, module: bytes | None) -> tuple[bytes, tuple[str, ...]]:
        """Compiled form and exports, from the cache or made now; without `module` from the copy that prepare kept."""
        found = await trio.to_thread.run_sync(self._cache.load, sha256)
        if found is not None:
            return found
        async with self._compiling:
            found = await trio.to_thread.run_sync(self._cache.load, sha256)
            if found is not None:
                return found
            if module is None:
                module = await trio.to_thread.run_sync(self._cache.load_module, sha256)
                if module is None:
                    raise ModuleRefused("this module was not prepared here")
            if (reason := self._refusals.get(sha256)) is not None:
                raise ModuleRefused(reason)
            try:
                found = await self._compile(module)
            except ModuleRefused as refusal:
                self._remember(sha256, refusal.reason)
                raise
            await trio.to_thread.run_sync(self._cache.save_module, sha256, module)
            await trio.to_thread.run_sync(self._cache.save, sha256, *found)
            return found

    def _remember(self, sha256: bytes, reason: str) -> None:
        """Keep a refusal, so that one compile bomb costs its CPU seconds once; the oldest goes first."""
        while len(self._refusals) >= REFUSALS_MAX:
            del self._refusals[next(iter(self._refusals))]
        self._refusals[sha256] = reason

    def _start(self, sha256: bytes, compiled: bytes) -> Zygote:
        """Without a checkpoint between the look into the table and the new entry, so that no module starts twice."""
        memory = ZYGOTE_OVERHEAD_BYTES + self._config.slots * self._config.ceilings.memory_bytes
        process = self._launch({"mode": "serve"}, memory)
        zygote = Zygote(Child(process, REPORT_BYTES_MAX), trio.CancelScope(), compiled)
        self._zygotes[sha256] = zygote
        self._nursery.start_soon(zygote.serve)
        return zygote

    def _make_room(self) -> bool:
        """Drop the modules that were used longest ago until one more fits; those in use stay. Whether there is room."""
        by_age = sorted(self._zygotes.items(), key=lambda item: item[1].used_at_s)
        for sha256, zygote in by_age:
            if len(self._zygotes) < self._config.zygotes_max:
                break
            if zygote.leases == 0:
                self._drop(sha256, zygote)
        return len(self._zygotes) < self._config.zygotes_max

    def _drop(self, sha256: bytes, zygote: Zygote) -> None:
        """Stop `zygote`, which may have been replaced in the table already."""
        if self._zygotes.get(sha256) is zygote:
            del self._zygotes[sha256]
        zygote.stop()

    def _launch(self, settings: dict[str, object], memory_bytes: int) -> sandbox.Process:
        group: Group | None = None
        if self._hierarchy is not None:
            self._groups_made += 1
            name = f"{PREFIX}-{os.getpid()}-{id(self):x}-{self._groups_made}"
            group = self._hierarchy.create(name, memory_bytes=memory_bytes, processes=self._config.slots + 8)
        try:
            return sandbox.start(self._site, self._plan, group, settings)
        except OSError:
            if group is not None:
                group.remove()
            raise

    async def _compile(self, module: bytes) -> tuple[bytes, tuple[str, ...]]:
        """Compile in a process of its own, under limits of its own."""
        settings = {"mode": "compile", "data_bytes": COMPILE_DATA_BYTES, "cpu_s": self._config.compile_cpu_s}
        process = self._launch(settings, COMPILE_DATA_BYTES + ZYGOTE_OVERHEAD_BYTES)
        child = Child(process, FRAME_BYTES_MAX)
        try:
            with trio.fail_after(COMPILE_WALL_S):
                await child.send(module)
                exports = _read_verdict(await child.receive())
                return await child.receive(), exports
        except (trio.TooSlowError, ChildError) as error:
            raise ModuleRefused(
                f"the module does not compile within {self._config.compile_cpu_s} CPU seconds and "
                f"{COMPILE_DATA_BYTES >> 20} MiB ({child.why_it_ended()})"
            ) from error
        finally:
            await child.end()


def _check(module: bytes) -> bytes:
    """The hash of a module that may be compiled."""
    try:
        check_module(module)
    except WireError as error:
        raise ModuleRefused(str(error)) from error
    return hashlib.sha256(module).digest()


def _read_verdict(verdict: bytes) -> tuple[str, ...]:
    """The exports in a compiling child's first answer; `ModuleRefused` when that is a refusal.

    The child has had a stranger's bytes in its hands, so its words are checked: `ChildError` for any other answer.
    """
    if len(verdict) > VERDICT_BYTES_MAX:
        raise ChildError("the compiling child sent too long an answer")
    try:
        head = json.loads(verdict)
    except (ValueError, RecursionError) as error:
        raise ChildError("the compiling child sent no JSON") from error
    if isinstance(head, dict) and isinstance(head.get("error"), str):
        raise ModuleRefused(head["error"][:1000])
    exports = head.get("exports") if isinstance(head, dict) else None
    if not isinstance(exports, list) or not all(isinstance(name, str) for name in exports):
        raise ChildError("the compiling child sent neither exports nor an error")
    return tuple(exports)


def _refused(reason: str) -> Outcome:
    return Outcome(Status.REFUSED, stderr=reason.encode()[:1000])
