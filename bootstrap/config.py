"""The settings of an entry point: `bootstrap.toml` in its data folder (SPEC.md §8).

Few on purpose: an entry point runs nobody's tasks and holds no money, so there is little to decide.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import stat
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from bootstrap.errors import OperatorError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

__all__ = [
    "LISTEN_DEFAULT",
    "LOG_LEVELS",
    "BootstrapConfig",
    "BootstrapConfigError",
    "load_bootstrap_config",
    "prepare_data_dir",
    "read_listen",
    "save_bootstrap_config",
]

LISTEN_DEFAULT: Final = ("/ip4/0.0.0.0/tcp/4710",)
"""A fixed port: an entry point's address stands in other people's network files."""
LOG_LEVELS: Final = ("debug", "info", "warning", "error")
CONFIG_BYTES_MAX: Final = 64 << 10
_ADDRESS: Final = re.compile(r"/(ip4|ip6)/[0-9A-Fa-f.:]+/tcp/[0-9]{1,5}")


class BootstrapConfigError(OperatorError):
    """The settings or the data folder cannot be used."""


@dataclass(frozen=True, slots=True)
class BootstrapConfig:
    """One entry point: where its files stand, where it listens, and how much it says."""

    data: Path
    network: Path
    listen: tuple[str, ...] = LISTEN_DEFAULT
    mdns: bool = False
    log: str = "info"

    @property
    def key(self) -> Path:
        """The private key, 0600: for a witness also its vote."""
        return self.data / "node.key"

    @property
    def ledger(self) -> Path:
        """Votes and blocks. A witness restored from an old copy of it could vote twice: never copy it."""
        return self.data / "ledger.db"

    @property
    def settings(self) -> Path:
        """`bootstrap.toml`."""
        return self.data / "bootstrap.toml"


def load_bootstrap_config(data: Path) -> BootstrapConfig:
    """The settings in `data`; defaults where there is no file. Unknown keys are refused with a suggestion."""
    config = BootstrapConfig(data=data, network=data / "network.toml")
    try:
        raw = config.settings.read_bytes()
        document = tomllib.loads(raw[: CONFIG_BYTES_MAX + 1].decode())
    except FileNotFoundError:
        return config
    except OSError as error:
        raise _refused(config, error.strerror or "it cannot be read", f"ls -l {config.settings}") from error
    except ValueError as error:
        raise _refused(config, f"it is not TOML ({error})", "mend that line, or remove the file") from error
    if len(raw) > CONFIG_BYTES_MAX:
        raise _refused(
            config, f"it is longer than {CONFIG_BYTES_MAX} bytes", "shorten it, or remove the file"
        )
    problems: list[str] = []
    for key, value in document.items():
        if key not in _READERS:
            near = difflib.get_close_matches(key, _READERS, 1)
            problems.append(f"there is no setting {key!r}" + (f", did you mean {near[0]!r}?" if near else ""))
        elif (checked := _READERS[key](value)) is None:
            problems.append(f"{key} cannot be {value!r}: write {_FORMS[key]}")
        elif key == "network":
            config = replace(config, network=data / str(checked))
        else:
            config = replace(config, **{key: checked})
    if problems:
        raise _refused(config, "; ".join(problems), f"edit {config.settings}")
    return config


def save_bootstrap_config(config: BootstrapConfig) -> None:
    """Write the settings beside the key; a crash leaves the old file or the new one."""
    listed = ", ".join(json.dumps(address) for address in config.listen)
    text = (
        "# An entry point of a millrace network: millrace bootstrap run\n"
        f"listen = [{listed}]\n"
        f"mdns = {str(config.mdns).lower()}  # find peers on the local network\n"
        f"log = {json.dumps(config.log)}  # {' | '.join(LOG_LEVELS)}\n"
    )
    beside = config.settings.with_name("bootstrap.toml.new")
    beside.write_text(text, encoding="utf-8")
    beside.replace(config.settings)


def read_listen(values: Sequence[str]) -> tuple[str, ...]:
    """Listen addresses as somebody typed them; `ValueError` says what to write."""
    checked = _listen(list(values))
    if checked is None:
        raise ValueError(f"write addresses such as {LISTEN_DEFAULT[0]}, at most 8")
    return checked


def prepare_data_dir(data: Path) -> None:
    """`data` as a folder of our own that nobody else can enter (0700); `BootstrapConfigError` otherwise."""
    try:
        missing = [folder for folder in (data, *data.parents) if not folder.exists()]
        for folder in reversed(missing):
            folder.mkdir(mode=0o700, exist_ok=True)
        info = data.lstat()
    except OSError as error:
        raise BootstrapConfigError(
            f"cannot use the folder {data}",
            error.strerror or "the system refused",
            "choose another --data DIR",
        ) from error
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.getuid():
        raise BootstrapConfigError(
            f"{data} is not a folder of yours",
            "the key of a witness stands in it",
            "choose another --data DIR",
        )
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise BootstrapConfigError(
            f"the folder {data} is open to other users (mode {stat.S_IMODE(info.st_mode):04o})",
            "the key of a witness stands in it",
            f"chmod 700 {data}",
        )


def _listen(value: object) -> tuple[str, ...] | None:
    if not isinstance(value, list) or not 1 <= len(value) <= 8:
        return None
    good = all(isinstance(item, str) and _ADDRESS.fullmatch(item) for item in value)
    return tuple(value) if good else None


def _bool(value: object) -> bool | None:
    return value if isinstance(value, bool) else None


def _level(value: object) -> str | None:
    return value if isinstance(value, str) and value in LOG_LEVELS else None


def _path(value: object) -> str | None:
    return value if isinstance(value, str) and value.isprintable() and value else None


_READERS: Final[dict[str, Callable[[object], Any]]] = {
    "listen": _listen,
    "mdns": _bool,
    "log": _level,
    "network": _path,
}
_FORMS: Final = {
    "listen": '["/ip4/0.0.0.0/tcp/4710"]',
    "mdns": "true or false",
    "log": '"info"',
    "network": '"network.toml"',
}


def _refused(config: BootstrapConfig, why: str, next_step: str) -> BootstrapConfigError:
    return BootstrapConfigError(f"{config.settings} cannot be used", why, next_step)
