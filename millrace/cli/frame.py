# ruff: noqa: PLC0415 - what only some verbs need is imported by them: `millrace --help` stays quick
"""What every verb has in common: its flags, its session, and how it answers.

A verb is a function of a `Session` and its own flags. Results go to standard output, as text for people or
as JSON documents for programs; everything else that is said goes to standard error.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from millrace.errors import BY_CODE, MillraceError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from millrace.config import NodeConfig
    from millrace.endpoint import Endpoint
    from millrace.paths import Paths

__all__ = [
    "SCHEMA",
    "Session",
    "Verb",
    "clean",
    "common_flags",
    "refuse",
    "short",
    "table",
    "verb",
    "wants_json",
]

SCHEMA: Final = 1
"""The `schema` field of every JSON document; it rises when a field changes its meaning or goes away."""
COLUMN_CHARS_MAX: Final = 512
ORDER_S: Final = 30.0
"""How long the ledger may take with an entry, unless --timeout says otherwise."""
ORDER_MARGIN_S: Final = 5.0
"""The node knows best why it took too long: it is given time to say so."""
_TRUE: Final = ("1", "true", "yes", "on")


@dataclass(frozen=True)
class Session:
    """One run of the command line: the common flags, and what they lead to."""

    json: bool = False
    quiet: bool = False
    no_input: bool = False
    timeout_s: float | None = None
    profile: str = ""
    config: str = ""
    endpoint_path: str = ""

    @cached_property
    def paths(self) -> Paths:
        """Where this node's files stand."""
        from millrace.paths import find_paths

        return find_paths(os.environ, self.profile, self.config)

    def load_config(self, flags: Mapping[str, str] | None = None) -> NodeConfig:
        """The configuration in force; raises `ConfigError` with every problem."""
        from millrace.config import load_config

        return load_config(self.paths, os.environ, flags)

    @cached_property
    def socket(self) -> Path:
        """The daemon's socket, also when other parts of the configuration are broken."""
        from millrace.config_check import check_config

        if self.endpoint_path:
            return Path(self.endpoint_path).expanduser().absolute()
        values, _problems = check_config(self.paths, os.environ)
        chosen = next(value.value for value in values if value.setting.key == "api.socket")
        return self.paths.socket() if chosen in (None, "auto") else Path(chosen).expanduser().absolute()

    @property
    def endpoint(self) -> Endpoint:
        """The local API of the daemon."""
        from millrace.endpoint import Endpoint

        return Endpoint(self.socket)

    def call(self, method: str, **params: Any) -> dict[str, Any]:  # noqa: ANN401 - msgpack
        """Ask the daemon; its answer as a table."""
        from millrace.endpoint import CALL_WAIT_S

        wait_s = CALL_WAIT_S if self.timeout_s is None else self.timeout_s
        answer = self.endpoint.call(method, wait_s=wait_s, **params)
        return answer if isinstance(answer, dict) else {"items": answer}

    def order(self, method: str, **params: Any) -> dict[str, Any]:  # noqa: ANN401 - msgpack
        """Ask the daemon for something that the ledger has to take; what it waits for is said meanwhile."""
        timeout_s = ORDER_S if self.timeout_s is None else self.timeout_s
        wait_s = timeout_s + ORDER_MARGIN_S
        with self.endpoint.stream(method, wait_s=wait_s, timeout_s=timeout_s, **params) as stream:
            for event in stream:
                if event.get("event") == "waiting":
                    self.say(f"waiting: {clean(event.get('why'))}")
            answer = stream.result
        return answer if isinstance(answer, dict) else {"items": answer}

    def answer(self, document: Mapping[str, object], text: str | Callable[[], str]) -> None:
        """The verb's result: `document` as JSON, or `text` for people."""
        if self.json:
            self.event(document)
        else:
            click.echo(text if isinstance(text, str) else text())

    def event(self, document: Mapping[str, object]) -> None:
        """One JSON document on a line of its own."""
        click.echo(json.dumps({"schema": SCHEMA, **document}, default=_plain, ensure_ascii=False))

    def say(self, text: str) -> None:
        """A message for people, on standard error; nothing under --quiet."""
        if not self.quiet:
            click.echo(text, err=True)

    @property
    def lively(self) -> bool:
        """Whether somebody watches: progress bars and questions make sense."""
        return not (self.quiet or self.json) and sys.stderr.isatty()

    def confirm(self, question: str) -> bool | None:
        """The person's answer, or None when nobody can be asked."""
        if self.no_input or self.json or not sys.stdin.isatty():
            return None
        return click.confirm(question, default=False, err=True)


def common_flags() -> list[click.Parameter]:
    """The flags that every verb has."""
    return [
        click.Option(
            ["--json", "json_"], is_flag=True, envvar="MILLRACE_JSON", help="JSON on standard output."
        ),
        click.Option(
            ["--quiet", "-q"], is_flag=True, envvar="MILLRACE_QUIET", help="No messages, only the result."
        ),
        click.Option(["--no-input"], is_flag=True, envvar="MILLRACE_NO_INPUT", help="Never ask a question."),
        click.Option(
            ["--timeout"],
            type=Seconds(),
            envvar="MILLRACE_TIMEOUT",
            help="Give up after this long (30, 90s, 5m).",
        ),
        click.Option(
            ["--profile"], default="", envvar="MILLRACE_PROFILE", help="Another node of the same user."
        ),
        click.Option(
            ["--config"],
            default="",
            metavar="FILE",
            envvar="MILLRACE_CONFIG",
            help="Another configuration file.",
        ),
        click.Option(
            ["--endpoint"],
            default="",
            metavar="SOCKET",
            envvar="MILLRACE_ENDPOINT",
            help="Another daemon's socket.",
        ),
    ]


class Seconds(click.ParamType[float]):
    """A time on the command line: 30, 1.5, 90s, 5m."""

    name = "time"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The time in seconds."""
        from millrace.measures import read_duration_s

        if isinstance(value, (int, float)):
            return float(value)
        text = str(value)
        try:
            seconds = float(text) if text.replace(".", "", 1).isdigit() else float(read_duration_s(text))
        except ValueError:
            self.fail(f"{text!r} is not a time; write seconds (30) or 90s, 5m, 1h", param, ctx)
        return seconds


class Verb(click.Command):
    """A command whose function gets a `Session` first. Its common flags win over the same flags before it."""

    def __init__(self, *args: Any, **keywords: Any) -> None:  # noqa: ANN401 - click's own
        super().__init__(*args, **keywords)
        self.params = [*self.params, *common_flags()]

    def invoke(self, ctx: click.Context) -> object:
        """Run the verb with its session."""
        given = dict(ctx.params)
        merged = {str(flag.name): given.pop(str(flag.name)) for flag in common_flags()}
        for name in merged:
            outer: click.Context | None = ctx
            while (
                outer is not None
            ):  # the flag nearest to the verb wins; the environment comes after all flags
                if outer.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
                    merged[name] = outer.params[name]
                    break
                outer = outer.parent
        session = Session(
            json=merged["json_"],
            quiet=merged["quiet"],
            no_input=merged["no_input"],
            timeout_s=merged["timeout"],
            profile=merged["profile"],
            config=merged["config"],
            endpoint_path=merged["endpoint"],
        )
        assert self.callback is not None  # noqa: S101 - `verb` always gives one
        return ctx.invoke(self.callback, session, **given)


def verb(name: str, kind: type[Verb] = Verb) -> Callable[[Callable[..., object]], Verb]:
    """Make a function of (Session, own flags) the command `name`."""

    def decorate(function: Callable[..., object]) -> Verb:
        made = click.command(name, cls=kind)(function)
        assert isinstance(made, Verb)  # noqa: S101 - by cls above
        return made

    return decorate


def refuse(what: str, why: str, next_step: str, *, code: int = 1) -> NoReturn:
    """End the verb with an error of this exit code."""
    kinds = {kind.exit_code: kind for kind in reversed(BY_CODE.values())}
    raise (kinds.get(code, MillraceError) if code != 1 else MillraceError)(what, why, next_step)


def clean(text: object) -> str:
    """Text from elsewhere, safe for a terminal: control characters stand as \\x1b and the like."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in str(text)
    )


def short(peer: object) -> str:
    """A peer id cut for a narrow column: its first letters are the same for everybody, its last are not."""
    text = clean(peer)
    return text if len(text) <= 16 else f"{text[:8]}…{text[-6:]}"


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Left-aligned columns with headings; cells are cleaned and cut at COLUMN_CHARS_MAX."""
    cells = [list(headings), *([clean(cell)[:COLUMN_CHARS_MAX] for cell in row] for row in rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    )


def wants_json(argv: Sequence[str]) -> bool:
    """Whether --json stands among the flags, before anything was parsed: errors in the flags are JSON then, too."""
    flags = argv[: argv.index("--")] if "--" in argv else argv
    return "--json" in flags or os.environ.get("MILLRACE_JSON", "").lower() in _TRUE


def _plain(value: object) -> object:
    if isinstance(value, (bytes, bytearray)):
        return value.hex()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")
