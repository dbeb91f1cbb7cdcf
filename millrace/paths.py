"""Where one node keeps its files, and where its socket may stand.

`MILLRACE_HOME` puts everything under one folder (tests, the demo, several nodes on one machine); otherwise
platformdirs decides. A profile is a second node of the same user, beside the first.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from millrace.errors import MillraceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "HOME_ENV",
    "SOCKET_PATH_BYTES_MAX",
    "SYSTEM_CONFIG",
    "PathError",
    "Paths",
    "find_paths",
    "private_dir",
]

HOME_ENV: Final = "MILLRACE_HOME"
SYSTEM_CONFIG: Final = Path("/etc/millrace/config.toml")
SOCKET_PATH_BYTES_MAX: Final = 107
"""`sun_path` has 108 bytes with its closing zero on Linux; a longer path cannot be bound."""
_PROFILE: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")


class PathError(MillraceError):
    """A folder or file cannot serve as it stands."""


@dataclass(frozen=True, slots=True)
class Paths:
    """The files of one node: all below `data`, but the configuration and a socket whose path would be too long."""

    data: Path
    config: Path
    profile: str = ""

    @property
    def key(self) -> Path:
        """The node's private key, 0600."""
        return self.data / "node.key"

    @property
    def account_key(self) -> Path:
        """The key that spends for the account, 0600; there once the first one was replaced."""
        return self.data / "account.key"

    @property
    def next_key(self) -> Path:
        """The spending key of a replacement that the ledger has not confirmed yet."""
        return self.data / "account.key.new"

    @property
    def network(self) -> Path:
        """The network file that was joined."""
        return self.data / "network.toml"

    @property
    def ledger(self) -> Path:
        """Verified blocks and the wallet's signed entries."""
        return self.data / "ledger.db"

    @property
    def journal(self) -> Path:
        """Jobs, leases and vouchers of this node."""
        return self.data / "journal.db"

    @property
    def peers(self) -> Path:
        """The peer book."""
        return self.data / "peers.bin"

    @property
    def cache(self) -> Path:
        """Compiled modules by hash."""
        return self.data / "cache"

    @property
    def log(self) -> Path:
        """What the background daemon wrote to its standard error."""
        return self.data / "node.log"

    @property
    def pid(self) -> Path:
        """The process id of the background daemon."""
        return self.data / "node.pid"

    @property
    def bootstrap(self) -> Path:
        """The folder of a bootstrap node run by the same user."""
        return self.data / "bootstrap"

    def socket(self) -> Path:
        """Where the local API listens: `api.sock` in the data folder, or a short path when that one is too long.

        Raises `PathError` when no short path exists either. The short path depends on the data folder alone,
        so that daemon and command line find the same one.
        """
        beside = self.data / "api.sock"
        if len(os.fsencode(beside)) <= SOCKET_PATH_BYTES_MAX:
            return beside
        name = f"millrace-{hashlib.sha256(os.fsencode(self.data)).hexdigest()[:16]}"
        for root in _runtime_roots():
            short = root / name / "api.sock"
            if root.is_dir() and len(os.fsencode(short)) <= SOCKET_PATH_BYTES_MAX:
                return short
        raise PathError(
            f"no place for the API socket of {self.data}",
            f"a socket path has at most {SOCKET_PATH_BYTES_MAX} bytes, and the runtime folders are too long as well",
            f"choose a shorter {HOME_ENV}, or set api.socket to a short path",
        )


def find_paths(env: Mapping[str, str], profile: str = "", config: str = "") -> Paths:
    """The files of the node that `env` and `profile` mean; `config` names another configuration file.

    Creates nothing. Raises `UsageError` for a profile name that is not a plain word.
    """
    if profile and not _PROFILE.fullmatch(profile):
        raise UsageError(
            f"{profile[:40]!r} is not a profile name",
            "a profile is a folder: small letters, digits, - and _, at most 32 of them",
            "choose a name such as --profile second",
        )
    home = env.get(HOME_ENV, "")
    if home:
        data = config_dir = Path(home).expanduser().absolute()
    else:
        import platformdirs  # noqa: PLC0415 - costs 10 ms of every start; not needed under MILLRACE_HOME

        data = Path(platformdirs.user_data_dir("millrace", appauthor=False))
        config_dir = Path(platformdirs.user_config_dir("millrace", appauthor=False))
    if profile:
        data, config_dir = data / "profiles" / profile, config_dir / "profiles" / profile
    chosen = Path(config).expanduser().absolute() if config else config_dir / "config.toml"
    return Paths(data=data, config=chosen, profile=profile)


def private_dir(path: Path) -> Path:
    """`path` as a folder that only its owner can enter (0700), created when missing.

    Raises `PathError` when it is a link, a file, somebody else's, or open to others: keys stand in it.
    """
    try:
        missing = [folder for folder in (path, *path.parents) if not folder.exists()]
        for folder in reversed(missing):  # mkdir(parents=True) would leave the parents open to others
            folder.mkdir(mode=0o700, exist_ok=True)
        info = path.lstat()
    except OSError as error:
        raise PathError(
            f"cannot use the folder {path}",
            error.strerror or "it cannot be created",
            f"choose a folder you may write, for example: {HOME_ENV}=$HOME/.millrace",
        ) from error
    if not stat.S_ISDIR(info.st_mode):
        raise PathError(f"{path} is not a folder", "a link or a file stands there", f"ls -ld {path}")
    if info.st_uid != os.getuid():
        raise PathError(
            f"the folder {path} belongs to another user",
            "whoever owns it can replace the key",
            f"ls -ld {path}",
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise PathError(
            f"the folder {path} is open to other users (mode {stat.S_IMODE(info.st_mode):04o})",
            "keys and vouchers stand in it",
            f"chmod 700 {path}",
        )
    return path


def _runtime_roots() -> tuple[Path, ...]:
    # Neither XDG_RUNTIME_DIR nor TMPDIR: a daemon under cron, sudo or a service has others than a shell.
    # A folder in /tmp is safe here because private_dir refuses one that another user made.
    return Path(f"/run/user/{os.getuid()}"), Path("/tmp")  # noqa: S108 - as above
