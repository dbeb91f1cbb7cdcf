"""What runs inside a sandbox: the probe, the compiler, or the parent of single-use unit processes (SPEC.md §13.6).

This process is started by `executor.sandbox`, reads frames on fd 0 and answers on fd 1. In serve mode it loads one
module, then forks a fresh process for every unit: the fork costs milliseconds where a new interpreter with wasmtime
costs a tenth of a second, and each unit still has a process that no other unit ever had. When fd 0 closes, all ends.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import resource
import select
import signal
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final, NoReturn

from executor import child_lockdown, child_probe
from executor.core import seccomp
from executor.core.frames import CANCEL, FRAME_BYTES_MAX, Frames, frame
from executor.core.outcome import OUTCOME_BYTES_MAX, Outcome, Status
from executor.core.seccomp import Stage
from executor.core.task import TASK_BYTES_MAX, WasmTask
from executor.core.wire import WireError

if TYPE_CHECKING:
    from executor.wasm import Program

__all__ = ["main"]

UNITS_MAX: Final = 64
_PRIORITY: Final = 5
"""Lower than the node's, which must keep answering its peers while strangers' units use every core."""
_OPEN_FILES_MAX: Final = 256
_INTERPRETER_DATA_BYTES: Final = 96 << 20
"""Writable memory of an interpreter with wasmtime (about 15 MB), and room for the host side of a unit."""
_READ_BYTES: Final = 1 << 18


def main(settings_text: str) -> NoReturn:
    """Lock this process down, do what the settings (JSON) say, and end without any clean-up of libraries."""
    settings = json.loads(settings_text)
    mode = settings["mode"]
    code = 1
    try:
        if mode == "probe":
            child_probe.run(settings)
        elif mode == "compile":
            _compile(settings)
        else:
            _serve(settings)
        code = 0
    except BaseException as error:  # noqa: BLE001 - outermost frame: whatever it was, this process ends now
        _say(f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)  # interpreter shutdown after wasmtime use prints panics


def _say(text: str) -> None:
    os.write(2, text.encode(errors="replace")[:2000] + b"\n")


def _lock(settings: dict[str, int | None], stage: Stage) -> None:
    """Limits, user, filter, in this order: each later step takes away what the earlier ones need."""
    child_lockdown.limit(resource.RLIMIT_CORE, 0)
    child_lockdown.limit(resource.RLIMIT_FSIZE, 0)
    child_lockdown.limit(resource.RLIMIT_NOFILE, _OPEN_FILES_MAX)
    if (data_bytes := settings.get("data_bytes")) is not None:
        child_lockdown.limit(resource.RLIMIT_DATA, data_bytes)
    if (cpu_s := settings.get("cpu_s")) is not None:
        child_lockdown.limit(resource.RLIMIT_CPU, cpu_s)
    os.setpriority(os.PRIO_PROCESS, 0, _PRIORITY)
    child_lockdown.drop_privileges(settings.get("uid"))
    child_lockdown.install_filter(stage)


def _write(data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(1, view) :]


def _next_frame(frames: Frames) -> bytes | None:
    """One frame from fd 0, blocking; None when it is closed. Only for the first frame, which comes alone."""
    while data := os.read(0, _READ_BYTES):
        complete = frames.feed(data)
        if complete:
            return complete[0]
    return None


def _compile(settings: dict[str, int | None]) -> None:
    """Read one module, answer {"error"} or {"exports"} as JSON, then the compiled form."""
    from executor import wasm  # noqa: PLC0415 - the probe and the tests of this module do without wasmtime

    _lock(settings, Stage.COMPILE)
    module = _next_frame(Frames(FRAME_BYTES_MAX))
    if module is None:
        return
    try:
        compiled, exports = wasm.compile_module(module)
    except wasm.ModuleError as error:
        _write(frame(json.dumps({"error": str(error)}).encode()))
        return
    _write(frame(json.dumps({"exports": exports}).encode()) + frame(compiled))


@dataclass(slots=True)
class _Unit:
    """A running unit, as its parent sees it. Times are on the monotonic clock."""

    number: int
    pid: int
    pipe: int
    started_s: float
    deadline_s: float
    report: bytearray = field(default_factory=bytearray)


class _Zygote:
    """Forks a process per unit, collects its report, and ends it when its time is over."""

    def __init__(self, program: Program, data_bytes: int) -> None:
        """`data_bytes` is what this process may have in writable memory before any unit runs."""
        self._program = program
        self._data_bytes = data_bytes
        self._units: dict[int, _Unit] = {}
        self._poll = select.poll()
        self._poll.register(0, select.POLLIN)
        self._frames = Frames(5 + TASK_BYTES_MAX)

    def loop(self) -> None:
        """Until fd 0 closes; then every unit is killed."""
        while True:
            for fd, _ in self._poll.poll(self._patience_ms()):
                if fd != 0:
                    self._collect(self._units[fd])
                    continue
                data = os.read(0, _READ_BYTES)
                if not data:
                    return self._kill_all()
                for request in self._frames.feed(data):
                    self._answer(request)
            now = time.monotonic()
            for unit in [unit for unit in self._units.values() if unit.deadline_s <= now]:
                self._finish(unit, Outcome(Status.TIMEOUT, stderr=b"the wall limit is over"))

    def _patience_ms(self) -> int | None:
        if not self._units:
            return None
        first = min(unit.deadline_s for unit in self._units.values())
        return max(0, int((first - time.monotonic()) * 1000) + 1)

    def _answer(self, request: bytes) -> None:
        number = int.from_bytes(request[1:5], "big")
        if request[0] == CANCEL:
            for unit in [unit for unit in self._units.values() if unit.number == number]:
                self._end(unit)
            return
        try:
            task = WasmTask.decode(request[5:])
        except WireError as error:
            self._report(number, Outcome(Status.REFUSED, stderr=str(error).encode()))
            return
        if len(self._units) >= UNITS_MAX:
            self._report(number, Outcome(Status.REFUSED, stderr=b"too many units at once"))
            return
        self._fork(number, task)

    def _fork(self, number: int, task: WasmTask) -> None:
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            _unit_process(self._program, task, writer, self._data_bytes)
        os.close(writer)
        now = time.monotonic()
        self._units[reader] = _Unit(number, pid, reader, now, now + task.limits.wall_s)
        self._poll.register(reader, select.POLLIN)

    def _collect(self, unit: _Unit) -> None:
        if unit.pipe not in self._units:
            return  # cancelled by a request in the same round
        data = os.read(unit.pipe, _READ_BYTES)
        unit.report += data
        if len(unit.report) > OUTCOME_BYTES_MAX:
            self._finish(unit, Outcome(Status.CRASHED, stderr=b"a report over its limit"))
        elif not data:
            self._finish(unit, None)

    def _finish(self, unit: _Unit, verdict: Outcome | None) -> None:
        """End the unit's process, and report: `verdict`, or what the unit itself wrote."""
        exit_status, usage = self._end(unit)
        if verdict is None:
            try:
                verdict = Outcome.decode(bytes(unit.report))
            except WireError:
                verdict = Outcome(Status.CRASHED, stderr=_how_it_ended(exit_status))
        measured = replace(
            verdict,
            cpu_s=usage.ru_utime + usage.ru_stime,
            wall_s=time.monotonic() - unit.started_s,
            memory_peak_bytes=usage.ru_maxrss * 1024,
        )
        self._report(unit.number, measured)

    def _end(self, unit: _Unit) -> tuple[int, resource.struct_rusage]:
        del self._units[unit.pipe]
        self._poll.unregister(unit.pipe)
        os.close(unit.pipe)
        os.kill(unit.pid, signal.SIGKILL)
        _, exit_status, usage = os.wait4(unit.pid, 0)
        return exit_status, usage

    def _report(self, number: int, outcome: Outcome) -> None:
        _write(frame(number.to_bytes(4, "big") + outcome.encode()))

    def _kill_all(self) -> None:
        for unit in list(self._units.values()):
            self._end(unit)


def _how_it_ended(exit_status: int) -> bytes:
    if os.WIFSIGNALED(exit_status) and os.WTERMSIG(exit_status) != signal.SIGKILL:
        return f"the process ended by {signal.Signals(os.WTERMSIG(exit_status)).name}".encode()
    return b"the process ended without a report"


def _unit_process(program: Program, task: WasmTask, writer: int, data_bytes: int) -> NoReturn:
    """The whole life of a unit's process: it can reach its own pipe and its own memory, and nothing else."""
    code = 1
    try:
        child_lockdown.die_with_parent()
        os.closerange(0, writer)
        os.closerange(writer + 1, _OPEN_FILES_MAX)
        child_lockdown.limit(resource.RLIMIT_DATA, data_bytes + task.limits.memory_bytes)
        child_lockdown.limit(resource.RLIMIT_CPU, int(task.limits.wall_s) + 2)
        child_lockdown.install_filter(Stage.UNIT)
        report = memoryview(program.run(task).encode())
        while report:
            report = report[os.write(writer, report) :]
        code = 0
    finally:
        os._exit(code)


def _serve(settings: dict[str, int | None]) -> None:
    """Read one compiled module, answer b"ready", then run units of it until fd 0 closes."""
    from executor import wasm  # noqa: PLC0415 - see _compile

    seccomp.program(platform.machine(), Stage.UNIT)  # assembled once here, not in every unit's process
    _lock(settings, Stage.ZYGOTE)
    compiled = _next_frame(Frames(FRAME_BYTES_MAX))
    if compiled is None:
        return
    try:
        program = wasm.Program(compiled)
    except wasm.ModuleError as error:
        _write(frame(f"refused: {error}".encode()))
        return
    data_bytes = _INTERPRETER_DATA_BYTES + 4 * len(compiled)
    del compiled
    gc.collect()
    gc.freeze()
    gc.disable()
    _write(frame(b"ready"))
    _Zygote(program, data_bytes).loop()
