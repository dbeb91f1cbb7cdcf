"""One node per data folder: the lock that says so, and the file that names its process (SPEC.md §16)."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from millrace.errors import UsageError
from millrace.paths import private_dir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from millrace.paths import Paths

__all__ = ["LOCK_NAME", "claimed"]

LOCK_NAME: Final = "node.lock"


@contextmanager
def claimed(paths: Paths) -> Iterator[None]:
    """Own the data folder (created 0700 if absent) while the block runs; `UsageError` if another node does.

    The lock is the kernel's (`flock`), so a node that was killed leaves none behind. The file stays: removing
    it would let a third process lock a new file while a second waits for the old one.
    """
    private_dir(paths.data)
    handle = os.open(paths.data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise UsageError(
                "another node uses this data folder",
                f"{paths.data / LOCK_NAME} is locked by a running process",
                "stop it with `millrace down`, or give this node a folder of its own (MILLRACE_HOME, --profile)",
            ) from error
        _write_pid(paths.pid)
        try:
            yield
        finally:
            _remove_pid(paths.pid)
    finally:
        os.close(handle)


def _write_pid(path: Path) -> None:
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(f"{os.getpid()}\n", encoding="ascii")
    beside.replace(path)


def _remove_pid(path: Path) -> None:
    """Take our process id back, unless the file names another process by now."""
    try:
        if path.read_text(encoding="ascii").strip() == str(os.getpid()):
            path.unlink()
    except FileNotFoundError:
        return
