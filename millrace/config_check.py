"""Reading a configuration strictly: every value with its origin, every problem at once.

A problem says what is wrong, why it matters and what to write instead. Nothing here raises for what a person
may write; `millrace.config` turns problems into one error.
"""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from millrace.paths import HOME_ENV, SOCKET_PATH_BYTES_MAX, SYSTEM_CONFIG, PathError, Paths
from millrace.settings import ENV_PREFIX, SECTIONS, SETTINGS, Setting, env_name

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "CONFIG_BYTES_MAX",
    "Problem",
    "Source",
    "Value",
    "check_config",
    "check_value",
    "no_table",
    "read_text_file",
]

CONFIG_BYTES_MAX: Final = 256 << 10
# Not settings, though their names begin like one: the command line's own flags.
_ENV_NOT_SETTINGS: Final = ("MILLRACE_NETWORK_CREATE_", "MILLRACE_NETWORK_JOIN_", "MILLRACE_NETWORK_SHOW_")
_BY_KEY: Final = {setting.key: setting for setting in SETTINGS}


@dataclass(frozen=True, slots=True)
class Source:
    """Where a value was written: `kind` is default, system, user, env or flag; `name` the file, variable or flag."""

    kind: str
    name: str = ""


@dataclass(frozen=True, slots=True)
class Value:
    """One setting's value in force: as written (`raw`), as read (`value`), and by whom."""

    setting: Setting
    raw: object
    value: Any
    source: Source


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to mend in the configuration."""

    key: str
    what: str
    why: str
    next_step: str

    def __str__(self) -> str:
        return f"{self.what}: {self.why}; {self.next_step}"


def check_config(
    paths: Paths,
    env: Mapping[str, str],
    flags: Mapping[str, str] | None = None,
    *,
    system: Path = SYSTEM_CONFIG,
) -> tuple[tuple[Value, ...], tuple[Problem, ...]]:
    """Every setting with its value and origin, and every problem found on the way. Raises nothing."""
    problems: list[Problem] = []
    raw: dict[str, tuple[object, Source]] = {}
    for path, kind in ((system, "system"), (paths.config, "user")):
        for key, item in _read_file(path, problems):
            raw[key] = (item, Source(kind, str(path)))
    for key, item, name in _read_env(env, problems):
        raw[key] = (item, Source("env", name))
    for key, text in (flags or {}).items():
        if key in _BY_KEY:
            raw[key] = (_typed(text), Source("flag", f"--set {key}"))
        else:
            problems.append(_unknown(key, "--set"))
    values: list[Value] = []
    for setting in SETTINGS:
        item, source = raw.get(setting.key, (_default(setting), Source("default")))
        read = _read_value(setting, item, source, problems)
        values.append(Value(setting, item, read, source))
    if not problems:
        problems.extend(_cross_checks({value.setting.key: value.value for value in values}, paths))
    return tuple(values), tuple(problems)


def check_value(key: str, text: str) -> tuple[object, tuple[Problem, ...]]:
    """One setting's value as TOML would hold it, from text as typed, and what is wrong with it."""
    setting = _BY_KEY.get(key)
    if setting is None:
        return None, (_unknown(key, "as typed"),)
    problems: list[Problem] = []
    item = _typed(text)
    _read_value(setting, item, Source("flag", "as typed"), problems)
    return item, tuple(problems)


def read_text_file(path: Path, problems: list[Problem]) -> str:
    """The file's text; empty when there is none, or when it cannot be read (a problem then says why)."""
    try:
        data = path.read_bytes()
        if len(data) > CONFIG_BYTES_MAX:
            raise ValueError(f"it has {len(data)} bytes, at most {CONFIG_BYTES_MAX} are read")
        return data.decode()
    except FileNotFoundError:
        return ""
    except OSError as error:
        problems.append(
            Problem("", f"cannot read {path}", error.strerror or "the system refused", f"ls -l {path}")
        )
    except ValueError as error:  # too long, or not UTF-8
        problems.append(Problem("", f"{path} is not a TOML file", str(error), "save it as plain UTF-8 text"))
    return ""


def _read_file(path: Path, problems: list[Problem]) -> list[tuple[str, object]]:
    """Every known `section.key` of the file with its TOML value; the rest become problems."""
    try:
        document = tomllib.loads(read_text_file(path, problems), parse_float=Decimal)
    except tomllib.TOMLDecodeError as error:
        problems.append(Problem("", f"{path} is not a TOML file", str(error), "mend that line"))
        return []
    found: list[tuple[str, object]] = []
    for section, table in document.items():
        if section not in SECTIONS:
            problems.append(no_table(section, path))
        elif not isinstance(table, dict):
            problems.append(
                Problem(
                    section,
                    f"{section} in {path} is not a table",
                    "settings stand below it",
                    f"write [{section}]",
                )
            )
        else:
            for name, item in table.items():
                key = f"{section}.{name}"
                if key in _BY_KEY:
                    found.append((key, item))
                else:
                    problems.append(_unknown(key, str(path)))
    return found


def _read_env(env: Mapping[str, str], problems: list[Problem]) -> list[tuple[str, object, str]]:
    by_name = {env_name(setting.key): setting.key for setting in SETTINGS}
    prefixes = tuple(f"{ENV_PREFIX}{section.upper()}_" for section in SECTIONS)
    found: list[tuple[str, object, str]] = []
    for name in sorted(env):
        if name in by_name:
            found.append((by_name[name], _typed(env[name]), name))
        elif name.startswith(prefixes) and not name.startswith(_ENV_NOT_SETTINGS):
            near = difflib.get_close_matches(name, by_name, 1)
            hint = f"did you mean {near[0]}?" if near else "see: millrace config show"
            problems.append(
                Problem("", f"the environment variable {name} is no setting", "it would change nothing", hint)
            )
    return found


def _typed(text: str) -> object:
    """Text from a flag or a variable as TOML would read it: lists in brackets, numbers; anything else is text."""
    try:
        value = tomllib.loads(f"value = {text}", parse_float=Decimal)
    except tomllib.TOMLDecodeError:
        return text
    return (
        value["value"]
        if len(value) == 1 and isinstance(value["value"], (bool, int, Decimal, str, list))
        else text
    )


def _default(setting: Setting) -> object:
    return tomllib.loads(f"value = {setting.toml}", parse_float=Decimal)["value"]


def _read_value(setting: Setting, item: object, source: Source, problems: list[Problem]) -> Any:  # noqa: ANN401 - by setting
    where = source.name or "the defaults"
    try:
        value = setting.read(item)
    except ValueError as error:
        problems.append(
            Problem(
                setting.key,
                f"{setting.key} cannot be {_shown(item)} ({where})",
                f"it is {setting.note}",
                f"write {error}",
            )
        )
        return None
    if missing := setting.missing(value):
        problems.append(
            Problem(
                setting.key,
                f"{setting.key} = {_shown(item)} is not available yet ({where})",
                missing,
                f"remove the line: its default {setting.toml} is what millrace does today",
            )
        )
    return value


def _cross_checks(values: Mapping[str, Any], paths: Paths) -> list[Problem]:
    """What single settings cannot see: pairs that contradict each other, and the length of the socket path."""
    problems: list[Problem] = []
    if values["price.core_hour"] < values["price.min"]:
        problems.append(
            Problem(
                "price.core_hour",
                "price.core_hour is below price.min",
                "no lease could ever be agreed",
                "raise core_hour or lower min",
            )
        )
    if values["spend.max_per_job"] > values["spend.max_per_day"]:
        problems.append(
            Problem(
                "spend.max_per_job",
                "spend.max_per_job is above spend.max_per_day",
                "such a job could never be sent",
                "raise max_per_day or lower max_per_job",
            )
        )
    if not values["network.listen"] or "auto" in values["network.listen"]:
        problems.append(
            Problem(
                "network.listen",
                "network.listen has no address to listen on",
                "other peers could not answer",
                'write ["/ip4/0.0.0.0/tcp/0"]',
            )
        )
    problems.extend(
        Problem(
            "network.bootstrap",
            f"{address} names no peer",
            "whoever answers there could pose as the entry point",
            f"write {address}/p2p/12D3Koo…",
        )
        for address in values["network.bootstrap"]
        if address != "auto" and "/p2p/" not in address
    )
    problems += _socket_problems(values["api.socket"], paths)
    return problems


def _socket_problems(chosen: str, paths: Paths) -> list[Problem]:
    try:
        path = str(paths.socket()) if chosen == "auto" else str(Path(chosen).expanduser().absolute())
    except PathError as error:
        return [Problem("api.socket", error.what, error.why, error.next_step)]
    if len(path.encode("utf-8", "surrogateescape")) > SOCKET_PATH_BYTES_MAX:
        why = f"a socket path has at most {SOCKET_PATH_BYTES_MAX} bytes"
        return [
            Problem(
                "api.socket", f"api.socket is too long: {path}", why, f'write "auto", or a shorter {HOME_ENV}'
            )
        ]
    return []


def _unknown(key: str, where: str) -> Problem:
    section, _, name = key.partition(".")
    near = (
        difflib.get_close_matches(key, _BY_KEY, 1)
        or [s.key for s in SETTINGS if s.name == (name or section)][:1]
    )
    hint = f"did you mean {near[0]}?" if near else "see all settings: millrace config show"
    return Problem(key, f"there is no setting {key} ({where})", "it would change nothing", hint)


def no_table(section: str, path: Path) -> Problem:
    near = difflib.get_close_matches(section, SECTIONS, 1)
    hint = f"did you mean [{near[0]}]?" if near else f"the tables are {', '.join(SECTIONS)}"
    return Problem(
        section, f"there is no table [{section}] ({path})", "its settings would change nothing", hint
    )


def _shown(item: object) -> str:
    text = (
        f'"{item}"' if isinstance(item, str) else str(item).lower() if isinstance(item, bool) else str(item)
    )
    return text if len(text) <= 60 else f"{text[:57]}…"
