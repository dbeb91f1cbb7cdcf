"""The WebAssembly engine: one configuration, compiling, and running one unit (SPEC.md §13.3, §13.4).

Imported only inside sandboxed child processes: the node itself never loads wasmtime. There are no epoch interrupts:
every unit has a process of its own, which its parent kills when the wall time is over. That stops host code as well,
costs no check in every loop, and leaves no half-counted fuel to be billed.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import wasmtime

from executor.core import wasi
from executor.core.module import EXPORTS_CHARACTERS_MAX, EXPORTS_MAX
from executor.core.outcome import STDERR_BYTES_MAX, Outcome, Status
from executor.core.task import COMMAND_ENTRY, WasmTask
from executor.core.values import RESULTS_MAX, encode_results, parse_argument
from executor.core.wire import WireError

if TYPE_CHECKING:
    from collections.abc import Callable


__all__ = ["ModuleError", "Program", "compile_module", "engine", "exports_of"]

WASM_STACK_BYTES_MAX: Final = 1 << 20
TABLE_ELEMENTS_MAX: Final = 1 << 20
TABLES_MAX: Final = 16
PROGRAM_NAME: Final = "task"
_NUMBER_KINDS: Final = ("i32", "i64", "f32", "f64")


class ModuleError(ValueError):
    """A module cannot be compiled or run here; the text says why."""


def engine() -> wasmtime.Engine:
    """The engine that every worker of this version has: the same bytes and the same fuel everywhere.

    A change here changes CONFIGURATION in `executor.core.runtime`, which names the cache and the runtime.
    """
    config = wasmtime.Config()
    config.consume_fuel = True
    config.cranelift_nan_canonicalization = True
    config.wasm_relaxed_simd_deterministic = True
    config.wasm_threads = False
    config.shared_memory = False
    config.wasm_memory64 = False
    config.wasm_multi_memory = False
    config.wasm_gc = False
    config.wasm_function_references = False
    config.wasm_exceptions = False
    config.wasm_stack_switching = False
    config.wasm_custom_page_sizes = False
    config.wasm_wide_arithmetic = False
    config.wasm_component_model = False
    config.parallel_compilation = False  # the compiling process may not start threads
    config.memory_init_cow = False  # needs memfd_create in the process that runs the unit
    config.max_wasm_stack = WASM_STACK_BYTES_MAX
    return wasmtime.Engine(config)


def compile_module(module: bytes) -> tuple[bytes, tuple[str, ...]]:
    """The compiled form of `module` and the names of its exported functions; `ModuleError` when it is refused."""
    own_engine = engine()
    try:
        compiled = wasmtime.Module(own_engine, module)
    except wasmtime.WasmtimeError as error:
        raise ModuleError(f"the module is not valid: {_first_line(error)}") from error
    for item in compiled.imports:
        if item.module != wasi.MODULE or item.name not in wasi.FUNCTIONS:
            raise ModuleError(f"the module imports {item.module}.{item.name}, which does not exist here")
    try:
        _linker(own_engine, lambda: None).instantiate_pre(compiled)
    except wasmtime.WasmtimeError as error:
        raise ModuleError(f"an import has another type: {_first_line(error)}") from error
    return bytes(compiled.serialize()), exports_of(compiled)


def exports_of(module: wasmtime.Module) -> tuple[str, ...]:
    """Names of the functions that a task can name as its entry."""
    names = tuple(item.name for item in module.exports if isinstance(item.type, wasmtime.FuncType))
    if len(names) > EXPORTS_MAX or sum(map(len, names)) > EXPORTS_CHARACTERS_MAX:
        raise ModuleError(
            f"the module exports {len(names)} functions; allowed are {EXPORTS_MAX}, "
            f"with {EXPORTS_CHARACTERS_MAX} characters in their names"
        )
    return names


class Program:
    """A compiled module, ready to run units; loaded once, before the processes that run them are forked."""

    def __init__(self, compiled: bytes) -> None:
        """`compiled` comes from `compile_module` on this machine; `ModuleError` when this engine cannot load it."""
        self._engine = engine()
        self._running: _Running | None = None
        try:
            module = wasmtime.Module.deserialize(self._engine, compiled)
        except wasmtime.WasmtimeError as error:
            raise ModuleError(f"the compiled form does not load: {_first_line(error)}") from error
        self._ready = _linker(self._engine, lambda: self._running).instantiate_pre(module)

    def run(self, task: WasmTask) -> Outcome:
        """Run one unit to its end, in this process. The caller bounds real time and memory of the process."""
        limits = task.limits
        state = wasi.Wasi(
            (PROGRAM_NAME, *task.args), task.stdin, task.digest(), limits.output_bytes, STDERR_BYTES_MAX
        )
        self._running = _Running(state, limits.fuel)
        store = wasmtime.Store(self._engine)
        store.set_limits(limits.memory_bytes, TABLE_ELEMENTS_MAX, 1, TABLES_MAX, 1)
        store.set_fuel(limits.fuel)
        status, exit_code, note, results = self._execute(store, task)
        fuel = limits.fuel if status is Status.OUT_OF_FUEL else limits.fuel - store.get_fuel()
        output = results if task.entry != COMMAND_ENTRY else bytes(state.output)
        if status in (Status.CRASHED, Status.REFUSED):
            output, fuel = b"", 0
        stderr = (bytes(state.stderr) + note.encode())[:STDERR_BYTES_MAX]
        return Outcome(status, exit_code, output, fuel, stderr)

    def _execute(self, store: wasmtime.Store, task: WasmTask) -> tuple[Status, int, str, bytes]:
        """Status, exit code, a note for stderr, and the results of an exported function."""
        try:
            instance = self._ready.instantiate(store)
            function = instance.exports(store).get(task.entry)
            if not isinstance(function, wasmtime.Func):
                return Status.REFUSED, 0, f"the module exports no function {task.entry!r}", b""
            return Status.OK, 0, "", _call(store, function, task)
        except wasi.Exit as ending:
            return (Status.EXIT if ending.code else Status.OK), ending.code, "", b""
        except wasi.OutOfFuel:
            return Status.OUT_OF_FUEL, 0, "", b""
        except wasi.OutputLimit:
            return Status.OUTPUT_LIMIT, 0, "", b""
        except WireError as error:
            return Status.REFUSED, 0, str(error), b""
        except wasmtime.Trap as trap:
            return _trap_status(trap), 0, f"{_first_line(trap)}: {_trap_name(trap)}\n", b""
        except wasmtime.WasmtimeError as error:
            return _refusal_status(str(error)), 0, _first_line(error), b""


def _call(store: wasmtime.Store, function: wasmtime.Func, task: WasmTask) -> bytes:
    kind = function.type(store)
    parameters = [str(item) for item in kind.params]
    results = [str(item) for item in kind.results]
    if task.entry == COMMAND_ENTRY:
        if parameters or results:
            raise WireError("_start takes no parameters and returns nothing in a WASI command")
        function(store)
        return b""
    if len(parameters) != len(task.args):
        raise WireError(f"{task.entry} takes {len(parameters)} arguments, {len(task.args)} were given")
    if len(results) > RESULTS_MAX or not set(results) <= set(_NUMBER_KINDS):
        raise WireError(f"{task.entry} returns {results}: only up to {RESULTS_MAX} numbers can be returned")
    arguments = [parse_argument(name, text) for name, text in zip(parameters, task.args, strict=True)]
    returned = function(store, *arguments)
    values = [] if not results else returned if len(results) > 1 else [returned]
    return encode_results(list(zip(results, values, strict=True)))


def _trap_status(trap: wasmtime.Trap) -> Status:
    code = trap.trap_code
    if code is wasmtime.TrapCode.OUT_OF_FUEL:
        return Status.OUT_OF_FUEL
    if code is wasmtime.TrapCode.STACK_OVERFLOW:
        return Status.CRASHED  # how deep the machine stack goes differs between processors: not comparable
    return Status.TRAP


def _refusal_status(text: str) -> Status:
    """Whether the store's limits refused to instantiate (the same everywhere), or this machine could not."""
    return Status.OUT_OF_MEMORY if "exceeds" in text and "limit" in text else Status.CRASHED


def _trap_name(trap: wasmtime.Trap) -> str:
    code = trap.trap_code
    return code.name if code is not None else "trap"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [""]
    return "; ".join(line.strip() for line in (lines[0], lines[-1]) if line)[:300]


@dataclass(slots=True)
class _Running:
    """The unit that runs now, the fuel that it was given, and its memory once a host call has looked it up."""

    wasi: wasi.Wasi
    fuel: int
    memory: wasmtime.Memory | None = None


class _CallerMemory:
    """The memory and the fuel of the module that is calling the host right now."""

    __slots__ = ("_caller", "_fuel", "_memory", "_store")

    def __init__(self, caller: wasmtime.Caller, running: _Running) -> None:
        self._caller = caller
        # The two fuel methods need only the context that a caller has too; their annotation asks for a Store.
        self._store = cast("wasmtime.Store", caller)
        self._fuel = running.fuel
        if running.memory is None:
            memory = caller.get("memory")
            running.memory = memory if isinstance(memory, wasmtime.Memory) else None
        self._memory = running.memory

    def _at(self, address: int, size: int) -> int:
        if self._memory is None or address + size > self._memory.data_len(self._caller):
            raise wasi.Fault
        return ctypes.addressof(self._memory.data_ptr(self._caller).contents) + address

    def read(self, address: int, size: int) -> bytes:
        return ctypes.string_at(self._at(address, size), size) if size else b""

    def write(self, address: int, data: bytes) -> None:
        if data:
            ctypes.memmove(self._at(address, len(data)), data, len(data))

    def fuel_used(self) -> int:
        left: int = wasmtime.Store.get_fuel(self._store)
        return self._fuel - left

    def charge(self, fuel: int) -> None:
        left = wasmtime.Store.get_fuel(self._store)
        if fuel > left:
            raise wasi.OutOfFuel
        wasmtime.Store.set_fuel(self._store, left - fuel)


def _linker(own_engine: wasmtime.Engine, current: Callable[[], _Running | None]) -> wasmtime.Linker:
    """All WASI functions, answered for the unit that `current` gives at the time of the call."""
    linker = wasmtime.Linker(own_engine)
    for name, parameters in wasi.FUNCTIONS.items():
        kinds = [wasmtime.ValType.i32() if kind == "i" else wasmtime.ValType.i64() for kind in parameters]
        results = [] if name == "proc_exit" else [wasmtime.ValType.i32()]
        linker.define_func(
            wasi.MODULE,
            name,
            wasmtime.FuncType(kinds, results),
            _host_function(name, current),
            access_caller=True,
        )
    return linker


def _host_function(name: str, current: Callable[[], _Running | None]) -> Callable[..., Any]:
    def answer(caller: wasmtime.Caller, *arguments: int) -> int | None:
        running = current()
        if running is None:
            raise ModuleError("no unit is running")
        errno = running.wasi.call(name, _CallerMemory(caller, running), arguments)
        return None if name == "proc_exit" else errno

    return answer
