"""What this machine can do for millrace, what is missing, what that costs, and the command that mends it.

Each check looks and answers a `Finding`; none changes anything. A finding that is `bad` keeps a node from
working; one that is `poor` costs something, and says what.
"""

from __future__ import annotations

import os
import platform
import shutil
import stat
import sys
import tempfile
import time
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Final

from bootstrap.genesis import NetworkFile, NetworkFileError, fault_line, load_network
from executor.cgroups import find_hierarchy
from ledger.core.keys import peer_id
from millrace.config_check import check_config
from millrace.endpoint import Endpoint
from millrace.errors import MillraceError
from p2p.core.errors import IdentityError
from p2p.identity import load_identity

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from millrace.paths import Paths

__all__ = ["Finding", "Standing", "examine", "sandbox_findings"]

DISK_FREE_BYTES_MIN: Final = 1 << 30
CLOCK_AHEAD_S_MAX: Final = 5
DAEMON_WAIT_S: Final = 5.0
EARLIEST_S: Final = 1_735_689_600
"""2025-01-01: a clock before it was never set."""
_CGROUP_SIGNS: Final = {
    "/sys/fs/cgroup/cgroup.controllers": "version 2",
    "/sys/fs/cgroup/memory": "version 1",
}
BWRAP_INSTALL: Final = "sudo apt-get install bubblewrap (or your system's package of that name)"


class Standing(Enum):
    """How a finding stands."""

    GOOD = "good"
    POOR = "poor"
    BAD = "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: what was looked at, what was found, what a lack of it costs, and the command to mend it."""

    name: str
    standing: Standing
    found: str
    cost: str = ""
    mend: str = ""


def examine(paths: Paths, env: Mapping[str, str], socket: Path) -> Iterator[Finding]:
    """Every check but the sandbox's self-test, in the order in which a person would mend them."""
    yield _python()
    yield from _bubblewrap()
    yield _user_namespaces()
    yield _cgroups()
    yield _seccomp()
    yield _disk(paths)
    yield _config(paths, env)
    yield _folder(paths)
    yield _key(paths)
    network, finding = _network(paths)
    yield finding
    yield _clock(network)
    yield _daemon(socket)


def _good(name: str, found: str) -> Finding:
    return Finding(name, Standing.GOOD, found)


def _python() -> Finding:
    version = platform.python_version()
    return _good("python", f"{version} ({sys.executable})")


def _bubblewrap() -> Iterator[Finding]:
    found = shutil.which("bwrap")
    if found:
        yield _good("bubblewrap", found)
    else:
        yield Finding(
            "bubblewrap",
            Standing.POOR,
            f"there is no program bwrap in {os.environ.get('PATH', 'PATH, which is empty')}",
            "the outermost wall around strangers' work is missing; only WebAssembly runs, behind the others",
            BWRAP_INSTALL,
        )


def _user_namespaces() -> Finding:
    name = "namespaces"
    if os.geteuid() == 0:
        return _good(name, "not needed: this user is root, and the sandbox drops to a user that owns nothing")
    switches = {
        "/proc/sys/kernel/unprivileged_userns_clone": ("0", "sudo sysctl kernel.unprivileged_userns_clone=1"),
        "/proc/sys/user/max_user_namespaces": ("0", "sudo sysctl user.max_user_namespaces=15000"),
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns": (
            "1",
            "sudo sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    }
    for path, (off, mend) in switches.items():
        if _read(Path(path)) == off:
            cost = "the sandbox cannot be built by a user, so this machine may not lend"
            return Finding(name, Standing.POOR, f"{path} is {off}", cost, mend)
    return _good(name, "users may make them")


def _cgroups() -> Finding:
    name = "cgroups"
    hierarchy = find_hierarchy()
    if hierarchy is not None:
        return _good(name, f"version {hierarchy.version}, groups with limits can be made")
    mounted = next((text for path, text in _CGROUP_SIGNS.items() if Path(path).exists()), "none mounted")
    return Finding(
        name,
        Standing.POOR,
        f"{mounted}; this process may not make groups with a memory and a process limit",
        "memory of a task is limited by its own process only, and its CPU time by fuel",
        "run the node as a user, or in a group, that may (version 2: memory and pids in cgroup.subtree_control)",
    )


def _seccomp() -> Finding:
    actions = _read(Path("/proc/sys/kernel/seccomp/actions_avail"))
    if actions:
        return _good("seccomp", "the kernel filters system calls")
    return Finding(
        "seccomp",
        Standing.POOR,
        "the kernel does not say that it filters system calls",
        "one layer of the sandbox may be missing; the self-test below decides",
        "use a kernel with CONFIG_SECCOMP_FILTER",
    )


def _disk(paths: Paths) -> Finding:
    place = next(folder for folder in (paths.data, *paths.data.parents) if folder.exists())
    free = shutil.disk_usage(place).free
    found = f"{free / 10**9:.1f} GB free at {place}"
    if free < DISK_FREE_BYTES_MIN:
        return Finding(
            "disk",
            Standing.POOR,
            found,
            "the ledger and compiled modules may not fit",
            "free some space, or set MILLRACE_HOME",
        )
    return _good("disk", found)


def _config(paths: Paths, env: Mapping[str, str]) -> Finding:
    _values, problems = check_config(paths, env)
    if problems:
        count = f"{len(problems)} problem{'s' if len(problems) > 1 else ''} in the configuration"
        return Finding(
            "config", Standing.BAD, count, "millrace up refuses to start on it", "millrace config check"
        )
    return _good("config", str(paths.config) if paths.config.exists() else "defaults (no file yet)")


def _folder(paths: Paths) -> Finding:
    try:
        info = paths.data.lstat()
    except FileNotFoundError:
        return _good("data", f"{paths.data} (made at the first start)")
    mode = stat.S_IMODE(info.st_mode)
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        return Finding(
            "data",
            Standing.BAD,
            f"{paths.data} is not a folder of yours",
            "no node starts in it",
            f"ls -ld {paths.data}",
        )
    if mode & 0o077:
        cost = "others could read keys and vouchers; no node starts in it"
        return Finding(
            "data", Standing.BAD, f"{paths.data} has mode {mode:04o}", cost, f"chmod 700 {paths.data}"
        )
    return _good("data", str(paths.data))


def _key(paths: Paths) -> Finding:
    if not paths.key.exists() and not paths.key.is_symlink():
        return _good("key", "none yet: millrace up makes one")
    try:
        return _good("key", peer_id(load_identity(paths.key).account))
    except IdentityError as error:
        return Finding("key", Standing.BAD, str(error), "no node starts with it", f"chmod 600 {paths.key}")


def _network(paths: Paths) -> tuple[NetworkFile | None, Finding]:
    if not paths.network.exists():
        cost = "there is nobody to work with"
        return None, Finding("network", Standing.POOR, "none joined yet", cost, "millrace network join FILE")
    try:
        network = load_network(paths.network)
    except NetworkFileError as error:
        return None, Finding("network", Standing.BAD, str(error), "no node starts with it", error.next_step)
    return network, _good("network", f"{network.name}: {fault_line(network.genesis.committee)}")


def _clock(network: NetworkFile | None) -> Finding:
    now_s = time.time()
    behind = network is not None and network.genesis.created_ms / 1000 > now_s + CLOCK_AHEAD_S_MAX
    if behind or now_s < EARLIEST_S:
        found = (
            f"it is {time.strftime('%Y-%m-%d %H:%M', time.gmtime(now_s))} UTC here, before the network began"
        )
        cost = "leases and adverts would be out of date at once"
        return Finding("clock", Standing.BAD, found, cost, "sudo timedatectl set-ntp true")
    synchronised = any(
        Path(path).exists()
        for path in (
            "/run/systemd/timesync/synchronized",
            "/run/chrony/chronyd.sock",
            "/var/lib/ntp/drift",
            "/run/ntpd.pid",
        )
    )
    now = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now_s))
    if synchronised:
        return _good("clock", f"{now}, kept in step")
    return Finding(
        "clock",
        Standing.POOR,
        f"{now}; nothing here seems to keep it in step",
        "with a clock that drifts by seconds, leases end early and witnesses refuse blocks",
        "sudo timedatectl set-ntp true",
    )


def _daemon(socket: Path) -> Finding:
    if not socket.exists():
        return Finding(
            "node", Standing.POOR, f"not running (no {socket})", "nothing is lent or bought", "millrace up"
        )
    try:
        status = Endpoint(socket).call("status", wait_s=DAEMON_WAIT_S)
    except MillraceError as error:
        found = f"{error.what}: {error.why}"
        return Finding("node", Standing.BAD, found, "nothing is lent or bought", "millrace up")
    peers = status.get("peers") if isinstance(status, dict) else None
    if isinstance(peers, dict) and not peers.get("linked"):
        return Finding(
            "node",
            Standing.POOR,
            f"answers on {socket}, but is linked with nobody",
            "nobody sees what it offers, and it sees no offers",
            "millrace network show (are its entry points up, and reachable from here?)",
        )
    linked = peers.get("linked") if isinstance(peers, dict) else "?"
    return _good("node", f"answers on {socket}, linked with {linked} peer{'' if linked == 1 else 's'}")


def sandbox_findings() -> list[Finding]:
    """The executor's own self-test: every layer of the sandbox, tried from inside. Takes a second or two."""
    import trio  # noqa: PLC0415 - only this check needs an event loop

    from executor.runner import RunnerConfig, open_runner  # noqa: PLC0415 - loads wasmtime

    async def layers() -> list[Finding]:
        with tempfile.TemporaryDirectory(prefix="millrace-doctor-") as folder:
            async with open_runner(RunnerConfig(cache_dir=Path(folder), slots=1)) as runner:
                return [_layer(layer.name, layer.standing, layer.detail) for layer in runner.layers]

    run: Callable[..., list[Finding]] = trio.run
    return run(layers)


def _layer(name: str, standing: bool, detail: str) -> Finding:
    if standing:
        return _good(f"sandbox: {name}", detail)
    return Finding(
        f"sandbox: {name}",
        Standing.POOR,
        detail or "missing",
        "one wall fewer around strangers' work",
        "see above",
    )


def _read(path: Path) -> str:
    """A small file's text; empty when it is not there or not ours to read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
