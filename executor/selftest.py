"""Which layers of the sandbox stand on this machine, found by trying the real one (SPEC.md §13.6)."""

from __future__ import annotations

import itertools
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from executor import sandbox
from executor.cgroups import PREFIX
from executor.zygote import Child, ChildError

if TYPE_CHECKING:
    from executor.cgroups import Hierarchy
    from executor.sandbox import Plan, Site

__all__ = ["Layer", "SandboxError", "choose_plan"]

PROBE_S: Final = 20.0
_PROBE_BYTES_MAX: Final = 64 << 10
_PROBE_MEMORY_BYTES: Final = 256 << 20
_PROBE_PROCESSES: Final = 8
_SERIAL: Final = itertools.count(1)
_HOST_PATHS: Final = (
    "/etc/passwd",
    "/etc/shadow",
    "/root",
    "/home",
    "/proc/sys",
    "/sys",
    "/dev/null",
    "/tmp",  # noqa: S108 - looked for, not used
    "/var",
)


class SandboxError(Exception):
    """Not even a process without privileges can be started; no unit may run on this machine."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: whether it stands, and what was seen, or what its absence costs and how to get it."""

    name: str
    standing: bool
    detail: str


async def choose_plan(
    site: Site, hierarchy: Hierarchy | None, secrets: tuple[str, ...], *, use_bwrap: bool
) -> tuple[Plan, Hierarchy | None, tuple[Layer, ...]]:
    """The strongest plan that works here and the control groups that can be joined, with evidence.

    `SandboxError` when not even a child without privileges can be started.
    """
    uid = sandbox.unused_uid()
    plans = [sandbox.Plan(bwrap=True, uid=uid)] if use_bwrap and site.bwrap else []
    plans.append(sandbox.Plan(bwrap=False, uid=uid))
    missing = "bubblewrap (bwrap) is not installed; install the package bubblewrap"
    if not use_bwrap:
        missing = "bubblewrap is switched off by configuration"
    for plan in plans:
        for groups in dict.fromkeys((hierarchy, None)):
            try:
                found = await _probe(site, plan, groups, secrets)
            except (ChildError, OSError) as error:
                if groups is None:
                    missing = f"{'bubblewrap' if plan.bwrap else 'a child process'} fails here: {error}"
                continue
            return plan, groups, _layers(plan, found, groups, missing)
    raise SandboxError(missing)


async def _probe(
    site: Site, plan: Plan, hierarchy: Hierarchy | None, secrets: tuple[str, ...]
) -> dict[str, Any]:
    """What a child of this plan, in a group of its own, could do."""
    write_path = f"/tmp/millrace-probe-{os.getpid()}"  # noqa: S108 - the probe tries to make it and must fail
    bound = (*site.libraries, site.python)
    # A folder above the interpreter exists inside as well, and holds nothing else.
    paths = [path for path in _HOST_PATHS if not any(item.is_relative_to(path) for item in bound)]
    settings = {"mode": "probe", "paths": [*paths, *secrets], "write_path": write_path}
    group = None
    if hierarchy is not None:
        name = f"{PREFIX}-{os.getpid()}-test-{next(_SERIAL)}"
        group = hierarchy.create(name, memory_bytes=_PROBE_MEMORY_BYTES, processes=_PROBE_PROCESSES)
    try:
        child = Child(sandbox.start(site, plan, group, settings), _PROBE_BYTES_MAX)
    except OSError:
        if group is not None:
            group.remove()
        raise
    try:
        with trio.move_on_after(PROBE_S):
            found: dict[str, Any] = json.loads(await child.receive())
            return found
        raise ChildError(f"the self-test did not answer within {PROBE_S:g} s")
    except ValueError as error:
        raise ChildError("the self-test gave no answer") from error
    finally:
        await child.end()


def _layers(
    plan: Plan, found: dict[str, Any], hierarchy: Hierarchy | None, missing: str
) -> tuple[Layer, ...]:
    filtered = (
        found["filter"] == "installed"
        and not found["opens_after_filter"]
        and not found["socket_after_filter"]
    )
    hidden = plan.bwrap and not found["files"] and not found["writes"] and found["pid"] == 1
    return (
        Layer(
            "namespaces",
            hidden,
            f"no host file, process or network inside; only {', '.join(found['root'])}"
            if hidden
            else f"{missing}. Without it only the wasm kind runs, behind the layers below"
            if not plan.bwrap
            else f"host paths are visible inside: {', '.join(found['files'])}",
        ),
        Layer(
            "seccomp",
            filtered,
            "files, programs, sockets and namespaces are refused by the kernel"
            if filtered
            else f"no system call filter ({found['filter']}): a flaw in wasmtime could reach the kernel's interfaces",
        ),
        _user_layer(plan, found),
        Layer(
            "cgroup",
            hierarchy is not None,
            f"version {hierarchy.version}: memory and process limits around each sandbox"
            if hierarchy is not None
            else "no group may be made here: memory is limited per process instead",
        ),
        Layer("rlimits", True, "data memory, CPU seconds, open files, file size and core size of each unit"),
        Layer("wasm", True, "fuel, memory, table and output limits; no host function reaches outside"),
        Layer("watchdog", True, "each unit has a process of its own, killed at its wall limit"),
    )


def _user_layer(plan: Plan, found: dict[str, Any]) -> Layer:
    uid = found["uids"][0]
    if plan.uid is not None:
        dropped = set(found["uids"]) == {plan.uid} and not found["root_again"]
        return Layer("user", dropped, f"runs as host user {uid}, which owns nothing")
    if os.geteuid() == 0:
        return Layer("user", False, "runs as root: no unused user number is mapped here")
    if plan.bwrap:
        return Layer("user", True, "runs as your user in a namespace without privileges, without your files")
    return Layer("user", False, f"runs as your own user ({uid}); only the filter keeps it from your files")
