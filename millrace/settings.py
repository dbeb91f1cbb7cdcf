"""Every setting of `config.toml`: its name, default, reader, and what is not available yet.

This table is the schema. The template, the check, the environment variables and the documentation are read
from it, so that none of them can name a setting that does not exist. A value that millrace cannot honour yet
is refused with its reason rather than ignored: an owner's cap that nobody keeps would be a lie.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from millrace import measures

__all__ = ["ENV_PREFIX", "SECTIONS", "SETTINGS", "Setting", "env_name"]

ENV_PREFIX: Final = "MILLRACE_"
Missing = Callable[[Any], str]
"""From a value that was read: what is not available yet about it, or empty."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting. `toml` is its default as the file would say it; `field` is its name in the sections of
    `millrace.config`, with the unit last; `missing` names what cannot be honoured yet."""

    key: str
    field: str
    toml: str
    read: Callable[[object], Any]
    note: str
    missing: Missing = lambda _value: ""

    @property
    def section(self) -> str:
        """The table in which the setting stands."""
        return self.key.partition(".")[0]

    @property
    def name(self) -> str:
        """The setting's name inside its table."""
        return self.key.partition(".")[2]


def env_name(key: str) -> str:
    """The environment variable that overrides `key`: share.cpu is MILLRACE_SHARE_CPU."""
    return ENV_PREFIX + key.replace(".", "_").upper()


def _only(*kept: object, instead: str) -> Missing:
    """Every value but those in `kept` is not available yet; `instead` says what to write."""
    return lambda value: "" if value in kept else instead


def _kinds_missing(value: tuple[str, ...]) -> str:
    others = [kind for kind in value if kind != "wasm"]
    if others:
        return f'the kinds {", ".join(others)} do not run yet: kinds = ["wasm"]'
    return "" if value else 'no kind is left: kinds = ["wasm"], or share.when = "never" to lend nothing'


def _kinds(value: object) -> tuple[str, ...]:
    kinds = measures.read_texts(value)
    if unknown := [kind for kind in kinds if kind not in {"wasm", "onnx", "python", "command"}]:
        raise ValueError(f'kinds among "wasm", "onnx", "python", "command" (not {unknown[0]!r})')
    return tuple(dict.fromkeys(kinds))


def _gpus(value: object) -> tuple[str, ...]:
    if isinstance(value, list):
        value = [
            str(item) if isinstance(item, int) and not isinstance(item, bool) else item for item in value
        ]
    return measures.read_texts(value)


def _positive(value: object) -> int:
    percent = measures.read_percent(value)
    if percent == 0:
        raise ValueError('a share from "1%" to "100%"; to lend nothing, set share.when = "never"')
    return percent


def _name(value: object) -> str:
    name = measures.read_text(value)
    if len(name) > 32:
        raise ValueError("a name of at most 32 characters")
    return name


def _endpoint_off(value: str) -> str:
    return "" if not value else 'it is not served yet: ""'


SETTINGS: Final[tuple[Setting, ...]] = (
    Setting("node.name", "name", '""', _name, "shown to other peers beside the peer id; empty: no name"),
    Setting(
        "share.when",
        "when",
        '"never"',
        measures.choice("idle", "always", "schedule", "never"),
        "always | never; `millrace up` asks once and writes the answer here",
        _only("always", "never", instead='only "always" and "never" are, so far'),
    ),
    Setting(
        "share.idle_after",
        "idle_after_s",
        '"3m"',
        measures.read_duration_s,
        'for when = "idle", not yet available',
    ),
    Setting(
        "share.cpu", "cpu_percent", '"50%"', _positive, "of all cores; decides how many tasks run at once"
    ),
    Setting(
        "share.cpu_in_use",
        "cpu_in_use_percent",
        '"100%"',
        measures.read_percent,
        "a second cap while somebody uses the machine",
        _only(100, instead='millrace cannot see yet whether somebody uses the machine: "100%"'),
    ),
    Setting("share.memory", "memory_percent", '"50%"', _positive, "of all memory, for the tasks together"),
    Setting(
        "share.disk",
        "disk_bytes",
        '"50GB"',
        measures.read_size_bytes,
        "not kept yet: compiled modules take 1 GiB at most, the ledger is not limited",
        _only(50 * 10**9, instead="a cap on the disk is not kept yet; compiled modules take 1 GiB at most"),
    ),
    Setting(
        "share.gpus",
        "gpus",
        "[]",
        _gpus,
        "none yet",
        _only((), instead="graphics cards are not lent yet: []"),
    ),
    Setting(
        "share.on_battery",
        "on_battery",
        "true",
        measures.read_bool,
        "whether to go on while the machine runs on its battery",
        _only(True, instead="millrace cannot see the battery yet: true"),
    ),
    Setting(
        "share.stop_if_others_use",
        "stop_if_others_use_percent",
        '"100%"',
        measures.read_percent,
        "pause when other programs use more CPU than this",
        _only(100, instead='other programs are not watched yet: "100%"'),
    ),
    Setting(
        "share.schedule",
        "schedule",
        "[]",
        measures.read_texts,
        "hours in which to lend",
        _only((), instead="schedules are not kept yet: []"),
    ),
    Setting("share.kinds", "kinds", '["wasm"]', _kinds, "what may run here", _kinds_missing),
    Setting(
        "price.mode",
        "mode",
        '"fixed"',
        measures.choice("market", "fixed"),
        "fixed: core_hour below",
        _only("fixed", instead='there is no market price yet: "fixed"'),
    ),
    Setting("price.core_hour", "core_hour", "1.00", measures.read_credits, "credits for an hour of one core"),
    Setting(
        "price.gpu_hour", "gpu_hour", "20.0", measures.read_credits, "has no effect while share.gpus is empty"
    ),
    Setting("price.min", "minimum", "0.50", measures.read_credits, "never lend a core-hour below this"),
    Setting(
        "price.accept_free_from",
        "accept_free_from",
        "[]",
        measures.read_texts,
        "peer ids that need not pay",
        _only((), instead="every lease is paid so far: []"),
    ),
    Setting(
        "energy.watts_idle",
        "watts_idle",
        "0",
        measures.read_whole,
        "0: not declared",
        _only(0, instead="only watts_full is part of an advert so far: 0"),
    ),
    Setting(
        "energy.watts_full",
        "watts_full",
        "0",
        measures.read_whole,
        "declared in adverts, not measured; 0: not declared",
    ),
    Setting(
        "energy.carbon_g_per_kwh",
        "carbon_g_per_kwh",
        "0",
        measures.read_whole,
        "0: not declared",
        _only(0, instead="carbon does not take part in matching yet: 0"),
    ),
    Setting(
        "energy.carbon_file",
        "carbon_file",
        '""',
        measures.read_text,
        "CSV: hour, g/kWh",
        _only("", instead='carbon does not take part in matching yet: ""'),
    ),
    Setting(
        "energy.electricity_price_file",
        "electricity_price_file",
        '""',
        measures.read_text,
        "CSV: hour, price",
        _only("", instead='electricity prices do not take part in matching yet: ""'),
    ),
    Setting(
        "spend.max_per_job",
        "max_per_job",
        "1.00",
        measures.read_credits,
        "hard: a job above it is never sent",
    ),
    Setting(
        "spend.max_per_day", "max_per_day", "10.0", measures.read_credits, "hard: credits spent in a day"
    ),
    Setting(
        "network.listen",
        "listen",
        '["/ip4/0.0.0.0/tcp/0"]',
        measures.read_addresses,
        "where other peers reach this one; port 0: any free port",
    ),
    Setting(
        "network.bootstrap",
        "bootstrap",
        '["auto"]',
        measures.read_addresses,
        'entry points; "auto": those of the network file',
    ),
    Setting("network.mdns", "mdns", "true", measures.read_bool, "find peers on the local network"),
    Setting(
        "ledger.history",
        "history",
        '"full"',
        measures.choice("full", "recent"),
        "full: all blocks from genesis, checked here; recent: from a state that the witnesses certify on, 61 days",
    ),
    Setting("api.socket", "socket", '"auto"', measures.read_text, '"auto": in the data folder'),
    Setting("api.dashboard", "dashboard", '""', measures.read_text, "web page on loopback", _endpoint_off),
    Setting("api.metrics", "metrics", '""', measures.read_text, "Prometheus on loopback", _endpoint_off),
    Setting(
        "log.level",
        "level",
        '"info"',
        measures.choice("debug", "info", "warning", "error"),
        "of the daemon's log",
    ),
)

SECTIONS: Final = tuple(dict.fromkeys(setting.section for setting in SETTINGS))
