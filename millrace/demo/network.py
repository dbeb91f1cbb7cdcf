"""The demo's network: keys, genesis, folders and one process for each peer, all on loopback."""

from __future__ import annotations

import os
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from bootstrap.config import BootstrapConfig, save_bootstrap_config
from bootstrap.genesis import NetworkFile, save_network
from ledger.core.amounts import MICRO
from ledger.core.genesis import Genesis
from ledger.core.keys import SEED_BYTES, AccountId, peer_id
from millrace.endpoint import Endpoint
from millrace.errors import MillraceError
from millrace.paths import find_paths
from p2p.identity import create_identity

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from millrace.demo.processes import Crew, Member

__all__ = ["BUYER", "LIAR", "VICTIM", "WITNESSES", "WORKERS", "DemoNetwork", "NotReady", "socket_folders"]

WITNESSES: Final = ("north", "east", "south", "west")
WORKERS: Final = ("ada", "barbara", "grace", "mallory")
BUYER: Final = "buyer"
LIAR: Final = "mallory"
"""Returns wrong results for a share of its units (liar.py)."""
VICTIM: Final = "grace"
"""Is killed in the middle of its work."""
CREDIT_LIMIT: Final = 100 * MICRO
"""What the founder of this network, its buyer, may owe."""
SLOT_TIMEOUT_MS: Final = 400
"""How long witnesses wait for a leader that is gone; on loopback a living one answers in a few milliseconds."""
READY_WAIT_S: Final = 120.0
"""Nine interpreters on one slow or busy core; a process that dies is noticed at once, whatever stands here."""
_POLL_S: Final = 0.05


class NotReady(RuntimeError):
    """The network did not come up in time; the text says what is missing."""


@dataclass(slots=True)
class DemoNetwork:
    """The network as the demo knows it: who is who, and where each one's files are."""

    root: Path
    crew: Crew
    file: NetworkFile
    accounts: dict[str, AccountId]

    @property
    def genesis(self) -> Genesis:
        """All that an offline check needs."""
        return self.file.genesis

    def home(self, name: str) -> Path:
        """The data folder of one process."""
        return self.root / name

    def endpoint(self, name: str) -> Endpoint:
        """The local API of a worker or of the buyer."""
        return Endpoint(find_paths({"MILLRACE_HOME": str(self.home(name))}).socket())

    def name_of(self, peer: str) -> str:
        """The demo's name for a peer id."""
        for name, account in self.accounts.items():
            if peer_id(account) == peer:
                return name
        return peer[:12]

    def start_witnesses(self) -> list[Member]:
        """Start the four entry points, which are the ledger's witnesses, too."""
        return [
            self.crew.start(
                name,
                "witness",
                self.home(name),
                "millrace.cli.main",
                "bootstrap",
                "run",
                "--data",
                str(self.home(name)),
            )
            for name in WITNESSES
        ]

    def start_peer(self, name: str) -> Member:
        """Start a worker or the buyer."""
        role = "buyer" if name == BUYER else "worker"
        module = "millrace.demo.liar" if name == LIAR else "millrace.node"
        return self.crew.start(name, role, self.home(name), module, env=peer_settings(name))

    def wait(self, what: str, ready: Callable[[], bool], wait_s: float = READY_WAIT_S) -> float:
        """Wait until `ready()`; the seconds it took. Raises `NotReady`, or `MemberLost` when a process dies."""
        started = time.monotonic()
        while not ready():
            self.crew.check()
            if time.monotonic() - started > wait_s:
                raise NotReady(f"{what}: not within {wait_s:.0f} s")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def ask(self, name: str, method: str, **params: Any) -> Any:  # noqa: ANN401 - msgpack
        """Call a peer's local API; None while it does not answer yet."""
        try:
            return self.endpoint(name).call(method, **params)
        except MillraceError:
            return None


def peer_settings(name: str) -> dict[str, str]:
    """What differs from the defaults, as environment variables (millrace/settings.py)."""
    return {
        "MILLRACE_NODE_NAME": name,
        "MILLRACE_NETWORK_LISTEN": '["/ip4/127.0.0.1/tcp/0"]',
        "MILLRACE_NETWORK_MDNS": "false",  # the demo stays on loopback, beside any network that is really there
        "MILLRACE_SHARE_WHEN": "never" if name == BUYER else "always",
        "MILLRACE_SHARE_CPU": "50%",
        "MILLRACE_SPEND_MAX_PER_JOB": "50",
        "MILLRACE_SPEND_MAX_PER_DAY": "100",
        "MILLRACE_PRICE_CORE_HOUR": "1.00",
    }


def found_network(root: Path, crew: Crew, random_bytes: Callable[[int], bytes], now_ms: int) -> DemoNetwork:
    """Make keys, genesis record, network file and data folders for everybody."""
    names = (*WITNESSES, *WORKERS, BUYER)
    accounts: dict[str, AccountId] = {}
    for name in names:
        home = root / name
        home.mkdir(mode=0o700)
        accounts[name] = create_identity(home / "node.key", random_bytes(SEED_BYTES)).account
    ports = free_ports(len(WITNESSES))
    genesis = Genesis(
        name="demo",
        created_ms=now_ms,
        witnesses=tuple(accounts[name] for name in WITNESSES),
        limits=((accounts[BUYER], CREDIT_LIMIT),),
        slot_timeout_ms=SLOT_TIMEOUT_MS,
    )
    listen = [f"/ip4/127.0.0.1/tcp/{port}" for port in ports]
    addresses = (f"{at}/p2p/{peer_id(accounts[name])}" for at, name in zip(listen, WITNESSES, strict=True))
    file = NetworkFile(genesis, tuple(addresses))
    for name in names:
        save_network(root / name / "network.toml", file)
    for at, name in zip(listen, WITNESSES, strict=True):
        home = root / name
        save_bootstrap_config(
            BootstrapConfig(data=home, network=home / "network.toml", listen=(at,), mdns=False)
        )
    return DemoNetwork(root, crew, file, accounts)


def free_ports(count: int) -> list[int]:
    """Ports of loopback that nobody listens on right now, all different."""
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def socket_folders(root: Path) -> list[Path]:
    """Folders elsewhere in which peers' sockets stand, when `root` is too deep for the path of a socket."""
    folders = (find_paths({"MILLRACE_HOME": str(root / name)}).socket().parent for name in (*WORKERS, BUYER))
    return [folder for folder in folders if not folder.is_relative_to(root)]


def leftovers(root: Path) -> list[str]:
    """Processes whose command line or environment names the demo's folder (Linux), the folder, and its sockets'."""
    found = [str(folder) for folder in (root, *socket_folders(root)) if folder.exists()]
    needle = os.fsencode(root)
    for entry in os.scandir("/proc") if os.path.isdir("/proc/self") else ():  # noqa: PTH112 - no Path per process
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        for part in ("cmdline", "environ"):
            try:
                with open(f"{entry.path}/{part}", "rb") as file:  # noqa: PTH123 - as above
                    if needle in file.read():
                        found.append(f"process {entry.name}")
                        break
            except OSError:
                continue  # it ended meanwhile, or is somebody else's
    return found
