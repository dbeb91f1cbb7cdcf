"""Control groups for sandboxes: version 1, version 2 where it is delegated, or none (SPEC.md §13.6)."""

from __future__ import annotations

import contextlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

__all__ = ["PREFIX", "Group", "Hierarchy", "find_hierarchy", "sweep"]

PREFIX: Final = "millrace"
"""Names of groups are this, the number of the node's process, and a serial number."""
_CGROUP_ROOT: Final = Path("/sys/fs/cgroup")
_V1_CONTROLLERS: Final = ("memory", "pids")


@dataclass(frozen=True, slots=True)
class Group:
    """One group: its folders, one per version 1 controller or a single one for version 2."""

    folders: tuple[Path, ...]

    @property
    def join_files(self) -> tuple[str, ...]:
        """Where a process writes 0 to join."""
        return tuple(str(folder / "cgroup.procs") for folder in self.folders)

    def processes(self) -> set[int]:
        """Processes in the group now."""
        found: set[int] = set()
        for folder in self.folders:
            with contextlib.suppress(OSError, ValueError):
                found |= {int(line) for line in (folder / "cgroup.procs").read_text().split()}
        return found

    def remove(self) -> bool:
        """Delete the folders; False while a process is still in one of them."""
        gone = True
        for folder in self.folders:
            try:
                folder.rmdir()
            except FileNotFoundError:
                continue
            except OSError:
                gone = False
        return gone


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """Where groups can be made: `version` 1 or 2, and the parent folders."""

    version: int
    parents: tuple[Path, ...]

    def create(self, name: str, *, memory_bytes: int, processes: int) -> Group:
        """A new group with limits on memory and on the number of processes; `OSError` when it cannot be made."""
        group = Group(tuple(parent / name for parent in self.parents))
        limits = (
            {"memory.limit_in_bytes": memory_bytes, "pids.max": processes}
            if self.version == 1
            else {"memory.max": memory_bytes, "memory.swap.max": 0, "pids.max": processes}
        )
        try:
            for folder in group.folders:
                folder.mkdir()
                for file, value in limits.items():
                    if (folder / file).exists():
                        (folder / file).write_text(str(value))
        except OSError:
            group.remove()
            raise
        return group


def sweep(hierarchy: Hierarchy) -> None:
    """Remove the groups that nodes left behind which were killed; their processes died with them."""
    for parent in hierarchy.parents:
        for folder in parent.glob(f"{PREFIX}-*-*"):
            owner = folder.name.split("-")[1]
            if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
                Group((folder,)).remove()


def find_hierarchy(root: Path = _CGROUP_ROOT, own: Path = Path("/proc/self/cgroup")) -> Hierarchy | None:
    """The place below which this process may make groups with a memory and a process limit, or None.

    In version 2 the kernel lets no group have both processes of its own and limited children, so sandboxes go beside
    the node's group, below its parent, where both controllers are on for children: a delegated group with the node
    in a child of it, or any session of root. Only the hierarchy's root may hold both (a container's, often).
    """
    try:
        paths = {
            controller: path.lstrip("/")
            for line in own.read_text().splitlines()
            for _, controllers, path in [line.split(":", 2)]
            for controller in controllers.split(",")
        }
    except (OSError, ValueError):
        return None
    if "" in paths:
        group = root / paths[""]
        for parent in (group,) if group == root else (group.parent, group):
            with contextlib.suppress(OSError):
                on = (parent / "cgroup.subtree_control").read_text().split()
                if {"memory", "pids"} <= set(on) and _can_make(parent):
                    return Hierarchy(2, (parent,))
    if not set(_V1_CONTROLLERS) <= paths.keys():
        return None
    parents = tuple(root / name / paths[name] for name in _V1_CONTROLLERS)
    return Hierarchy(1, parents) if all(_can_make(parent) for parent in parents) else None


def _can_make(parent: Path) -> bool:
    probe = parent / f"{PREFIX}-{os.getpid()}-probe"
    try:
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True
