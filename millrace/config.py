"""What the owner decided: config.toml, environment and flags as one strict, typed value.

Order: flag > environment > user file > /etc file > default. Every problem is reported at once, each with what,
why and what to write instead; nothing starts on a configuration that was only partly understood.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any

from millrace.config_check import Problem, Value, check_config, check_value, no_table, read_text_file
from millrace.errors import UsageError
from millrace.paths import SYSTEM_CONFIG, Paths
from millrace.settings import SECTIONS, SETTINGS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = [
    "Api",
    "ConfigError",
    "Energy",
    "Ledger",
    "Log",
    "Network",
    "Node",
    "NodeConfig",
    "Price",
    "Share",
    "Spend",
    "load_config",
    "set_value",
    "template",
]


@dataclass(frozen=True, slots=True)
class Node:
    """[node]"""

    name: str


@dataclass(frozen=True, slots=True)
class Share:
    """[share]: what is lent, and when. Percentages are of the whole machine."""

    when: str
    idle_after_s: int
    cpu_percent: int
    cpu_in_use_percent: int
    memory_percent: int
    disk_bytes: int
    gpus: tuple[str, ...]
    on_battery: bool
    stop_if_others_use_percent: int
    schedule: tuple[str, ...]
    kinds: tuple[str, ...]

    @property
    def lends(self) -> bool:
        """Whether this peer offers capacity at all."""
        return self.when != "never"


@dataclass(frozen=True, slots=True)
class Price:
    """[price], in micro-credits."""

    mode: str
    core_hour: int
    gpu_hour: int
    minimum: int
    accept_free_from: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Energy:
    """[energy]: declared by the owner, never measured; 0 and empty mean not declared."""

    watts_idle: int
    watts_full: int
    carbon_g_per_kwh: int
    carbon_file: str
    electricity_price_file: str


@dataclass(frozen=True, slots=True)
class Spend:
    """[spend], in micro-credits."""

    max_per_job: int
    max_per_day: int


@dataclass(frozen=True, slots=True)
class Network:
    """[network]; `bootstrap` of ("auto",) means the addresses in the network file."""

    listen: tuple[str, ...]
    bootstrap: tuple[str, ...]
    mdns: bool

    def entry_points(self, of_network_file: Iterable[str]) -> tuple[str, ...]:
        """The addresses to dial first: "auto" stands for those of the network file."""
        known = tuple(of_network_file)
        found = (known if address == "auto" else (address,) for address in self.bootstrap)
        return tuple(dict.fromkeys(address for group in found for address in group))


@dataclass(frozen=True, slots=True)
class Ledger:
    """[ledger]; `history` is "full" or "recent"."""

    history: str


@dataclass(frozen=True, slots=True)
class Api:
    """[api]; `socket` is resolved, never "auto"."""

    socket: Path
    dashboard: str
    metrics: str


@dataclass(frozen=True, slots=True)
class Log:
    """[log]"""

    level: str


@dataclass(frozen=True, slots=True)
class NodeConfig:
    """All settings of one node, checked, and where its files stand."""

    paths: Paths
    node: Node
    share: Share
    price: Price
    energy: Energy
    spend: Spend
    network: Network
    ledger: Ledger
    api: Api
    log: Log


class ConfigError(UsageError):
    """The configuration has problems: a single one speaks for itself, of several `reasons` has a line for each."""

    def __init__(self, problems: tuple[Problem, ...], config: Path) -> None:
        if len(problems) == 1:
            super().__init__(problems[0].what, problems[0].why, problems[0].next_step)
        else:
            super().__init__(
                f"the configuration has {len(problems)} problems",
                "millrace starts only on settings that it understands and can keep",
                f"edit {config}, then: millrace config check",
                reasons=tuple(str(problem) for problem in problems),
            )
        self.problems = problems


def load_config(
    paths: Paths,
    env: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    *,
    system: Path = SYSTEM_CONFIG,
) -> NodeConfig:
    """The configuration in force; `flags` maps keys ("share.cpu") to text as typed.

    Raises `ConfigError` with every problem, `PathError` when no socket path is short enough.
    """
    values, problems = check_config(paths, env, flags, system=system)
    if problems:
        raise ConfigError(problems, paths.config)
    return _build(paths, values)


def template() -> str:
    """A config.toml with every setting at its default, commented out, and what each is for."""
    lines = [
        "# millrace: what this machine lends and spends.",
        "# A line that begins with # is the default. Check after editing: millrace config check",
    ]
    for section in SECTIONS:
        lines += ["", f"[{section}]"]
        lines += [f"# {s.name} = {s.toml}  # {s.note}" for s in SETTINGS if s.section == section]
    return "\n".join(lines) + "\n"


def set_value(path: Path, key: str, text: str) -> None:
    """Write one setting into the file at `path`, keeping comments and order; creates the file when missing.

    Raises `ConfigError` when the key or the value is not allowed, or the file is not TOML; the file is then
    untouched. A crash leaves the old file or the new one.
    """
    import tomlkit  # noqa: PLC0415 - 40 ms that only an edit has to pay

    item, problems = check_value(key, text)
    file_problems: list[Problem] = []
    before = read_text_file(path, file_problems)
    if problems := (*problems, *file_problems):
        raise ConfigError(problems, path)
    section, _, name = key.partition(".")
    try:
        document = tomlkit.parse(before or template())
    except tomlkit.exceptions.ParseError as error:
        problem = Problem("", f"{path} is not a TOML file", str(error), "mend that line")
        raise ConfigError((problem,), path) from error
    table = document.setdefault(section, tomlkit.table())
    if not isinstance(table, dict):
        raise ConfigError((no_table(section, path),), path)
    table[name] = float(item) if isinstance(item, Decimal) else item
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # 1. the whole new text in a file beside; 2. one rename. A crash between leaves a stray .new, nothing else.
    beside = path.with_name(f"{path.name}.new")
    beside.write_text(tomlkit.dumps(document), encoding="utf-8")
    beside.replace(path)


def _build(paths: Paths, values: tuple[Value, ...]) -> NodeConfig:
    fields: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for value in values:
        fields[value.setting.section][value.setting.field] = value.value
    chosen = fields["api"]["socket"]
    fields["api"]["socket"] = paths.socket() if chosen == "auto" else Path(chosen).expanduser().absolute()
    return NodeConfig(
        paths=paths,
        node=Node(**fields["node"]),
        share=Share(**fields["share"]),
        price=Price(**fields["price"]),
        energy=Energy(**fields["energy"]),
        spend=Spend(**fields["spend"]),
        network=Network(**fields["network"]),
        ledger=Ledger(**fields["ledger"]),
        api=Api(**fields["api"]),
        log=Log(**fields["log"]),
    )
