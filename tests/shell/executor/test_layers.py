"""What the self-test claims, and on what evidence (SPEC.md §13.6)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from executor import sandbox, selftest
from executor.cgroups import Group, Hierarchy, find_hierarchy, sweep
from executor.runner import RunnerConfig, open_runner

if TYPE_CHECKING:
    from executor.selftest import Layer

needs_bwrap = pytest.mark.skipif(shutil.which("bwrap") is None, reason="bubblewrap is not installed")


def standing(layers: tuple[Layer, ...]) -> dict[str, bool]:
    return {layer.name: layer.standing for layer in layers}


@needs_bwrap
async def test_the_layers_of_this_machine(tmp_path: Path) -> None:
    key = tmp_path / "node.key"
    key.write_text("secret")
    async with open_runner(RunnerConfig(cache_dir=tmp_path / "c", secrets=(key,))) as runner:
        found = standing(runner.layers)
    assert found["namespaces"]
    assert found["seccomp"]
    assert found["user"]
    assert found["cgroup"] == (find_hierarchy() is not None)


async def test_without_bubblewrap_the_loss_is_said(tmp_path: Path) -> None:
    async with open_runner(RunnerConfig(cache_dir=tmp_path / "c", use_bwrap=False)) as runner:
        found = standing(runner.layers)
        (spaces,) = (layer for layer in runner.layers if layer.name == "namespaces")
    assert not found["namespaces"]
    assert "only the wasm kind runs" in spaces.detail
    assert found["seccomp"]
    assert found["user"] == (os.geteuid() == 0)


async def test_a_bubblewrap_that_fails_is_not_used(tmp_path: Path) -> None:
    """Forbidden user namespaces look like this: the program is there, and ends with a message."""
    broken = tmp_path / "bwrap"
    broken.write_text("#!/bin/sh\necho 'No permissions to create new namespace' >&2\nexit 1\n")
    broken.chmod(0o755)
    site = sandbox.find_site()
    site = sandbox.Site(site.python, site.libraries, site.executor, site.wasmtime, broken)
    plan, _, layers = await selftest.choose_plan(site, None, (), use_bwrap=True)
    assert not plan.bwrap
    assert "No permissions to create new namespace" in layers[0].detail


@needs_bwrap
async def test_a_layer_that_does_not_stand_is_not_claimed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A sandbox with a hole (the folder of a secret bound into it, no filter) is found out by the probe."""
    key = tmp_path / "node.key"
    key.write_text("secret")
    whole = sandbox._bwrap_command

    def with_hole(site: sandbox.Site, plan: sandbox.Plan, filter_fd: int | None) -> list[str]:
        command = whole(site, plan, filter_fd)
        at = command.index("--remount-ro")
        return [*command[:at], "--ro-bind", str(tmp_path), str(tmp_path), *command[at:]]

    monkeypatch.setattr(sandbox, "_bwrap_command", with_hole)
    _, _, layers = await selftest.choose_plan(sandbox.find_site(), None, (str(key),), use_bwrap=True)
    assert not standing(layers)["namespaces"]
    assert str(key) in layers[0].detail


async def test_groups_that_cannot_be_joined_are_not_claimed(tmp_path: Path) -> None:
    """Folders that look like a hierarchy, but whose cgroup.procs is not the kernel's."""

    class Unjoinable(Hierarchy):
        def create(self, name: str, *, memory_bytes: int, processes: int) -> Group:
            group = super().create(name, memory_bytes=memory_bytes, processes=processes)
            (group.folders[0] / "cgroup.procs").mkdir()
            return group

    hierarchy = Unjoinable(2, (tmp_path,))
    _, groups, layers = await selftest.choose_plan(sandbox.find_site(), hierarchy, (), use_bwrap=False)
    assert groups is None
    assert not standing(layers)["cgroup"]


def test_cgroup_version_2_puts_sandboxes_beside_the_node(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("0::/user/node\n")
    delegated = tmp_path / "user"
    (delegated / "node").mkdir(parents=True)
    (delegated / "cgroup.subtree_control").write_text("memory pids\n")
    assert find_hierarchy(tmp_path, own) == Hierarchy(2, (delegated,))
    own.write_text("0::/\n")
    (tmp_path / "cgroup.subtree_control").write_text("memory pids\n")
    assert find_hierarchy(tmp_path, own) == Hierarchy(2, (tmp_path,))


def test_cgroup_version_2_counts_only_when_delegated(tmp_path: Path) -> None:
    own = tmp_path / "self"
    own.write_text("0::/user/node\n")
    group = tmp_path / "user" / "node"
    group.mkdir(parents=True)
    assert find_hierarchy(tmp_path, own) is None
    (group / "cgroup.subtree_control").write_text("cpu memory pids\n")
    assert find_hierarchy(tmp_path, own) == Hierarchy(2, (group,))
    (group / "cgroup.subtree_control").write_text("cpu\n")
    assert find_hierarchy(tmp_path, own) is None
    own.write_text("garbage")
    assert find_hierarchy(tmp_path, own) is None
    assert find_hierarchy(tmp_path, tmp_path / "missing") is None


def test_groups_of_dead_nodes_are_swept(tmp_path: Path) -> None:
    for name in (f"millrace-{os.getpid()}-1", "millrace-4194305-1", "millrace-x-1", "other-4194305-1"):
        (tmp_path / name).mkdir()
    sweep(Hierarchy(2, (tmp_path,)))
    assert {path.name for path in tmp_path.iterdir()} == {
        f"millrace-{os.getpid()}-1",
        "millrace-x-1",
        "other-4194305-1",
    }


UNPRIVILEGED = """
import os, sys, trio
from pathlib import Path
from executor.benchmark import BENCHMARK_MODULE
from executor.core.task import WasmTask
from executor.runner import RunnerConfig, open_runner
async def main():
    config = RunnerConfig(cache_dir=Path(sys.argv[1]) / str(os.getpid()), use_bwrap=sys.argv[2] == "True")
    async with open_runner(config) as runner:
        print(" ".join(layer.name for layer in runner.layers if layer.standing))
        module = await runner.prepare(BENCHMARK_MODULE)
        outcome = await runner.run(WasmTask(module.sha256, "sieve", ("1",)))
        print(outcome.status.name, outcome.fuel, outcome.output.hex())
trio.run(main)
"""
NOBODY = 61_999


@pytest.fixture
def foreign_python() -> list[str]:
    """A command that starts an interpreter as another user, who has no rights at all."""
    packages = sysconfig.get_path("purelib")
    root = str(Path(__file__).resolve().parents[3])
    for python in (sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"):
        command = [
            "/usr/bin/env",
            "-i",
            f"PATH={os.environ['PATH']}",
            f"PYTHONPATH={root}:{packages}",
            python,
        ]
        try:
            subprocess.run(
                [*command, "-c", "import trio, wasmtime"],
                check=True,
                capture_output=True,
                user=NOBODY,
                group=NOBODY,
            )
        except (OSError, subprocess.SubprocessError):
            continue
        return command
    pytest.skip("no interpreter here can be started by another user")


@needs_bwrap
@pytest.mark.skipif(
    os.geteuid() != 0, reason="only root can become another user; the other tests ran without root"
)
def test_a_node_without_root_has_a_sandbox_too(
    foreign_python: list[str],
) -> None:
    """The same module, fuel and result behind a user namespace, and behind the filter alone."""
    with tempfile.TemporaryDirectory() as folder:
        os.chown(folder, NOBODY, NOBODY)
        said = {}
        for use_bwrap in (True, False):
            command = [*foreign_python, "-c", UNPRIVILEGED, folder, str(use_bwrap)]
            done = subprocess.run(
                command,
                capture_output=True,
                text=True,
                user=NOBODY,
                group=NOBODY,
                extra_groups=[],
                check=False,
            )
            assert done.returncode == 0, done.stderr
            said[use_bwrap] = done.stdout.splitlines()
    assert said[True][0].split() == ["namespaces", "seccomp", "user", "rlimits", "wasm", "watchdog"]
    assert said[False][0].split() == ["seccomp", "rlimits", "wasm", "watchdog"]
    assert said[True][1] == said[False][1] == "OK 48535424 7f00014069"
