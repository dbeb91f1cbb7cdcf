"""The self-test's inside view: what a child of the real sandbox can still reach (SPEC.md §13.6).

Each finding is an attempt, not a reading of settings: a layer is claimed only when the attempt failed.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

from executor import child_lockdown
from executor.core.frames import frame
from executor.core.seccomp import Stage

__all__ = ["run"]


def run(settings: dict[str, Any]) -> None:
    """Try things before and after the filter, then answer one JSON frame."""
    found: dict[str, Any] = {
        "pid": os.getpid(),
        "files": [path for path in settings["paths"] if _exists(path)],
        "root": sorted(os.listdir("/")),  # noqa: PTH208 - names, as a list, for the report
        "socket_at_start": _socket_works(),
        "hostname": socket.gethostname(),
    }
    child_lockdown.drop_privileges(settings.get("uid"))
    found["uids"] = os.getresuid()
    found["root_again"] = _becomes_root()
    found["writes"] = _writes(settings["write_path"])
    try:
        installed = child_lockdown.install_filter(Stage.ZYGOTE)
        found["filter"] = "installed" if installed else "no table for this processor"
    except OSError as error:
        found["filter"] = str(error)
    found["opens_after_filter"] = any(_opens(path) for path in ("/", *settings["paths"]))
    found["socket_after_filter"] = _socket_works()
    data = frame(json.dumps(found).encode())
    os.write(1, data)


def _exists(path: str) -> bool:
    try:
        return Path(path).exists()
    except OSError:
        return False


def _opens(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except OSError:
        return False
    return True


def _writes(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.unlink(path)  # noqa: PTH108 - beside os.open, which has the flags
    except OSError:
        return False
    return True


def _socket_works() -> bool:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM).close()
    except OSError:
        return False
    return True


def _becomes_root() -> bool:
    """Whether a process that runs as another user can become root again; False when it never was another user."""
    if os.getuid() == 0:
        return False
    try:
        os.setresuid(0, 0, 0)
    except OSError:
        return False
    return True
