# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace config` and `millrace set`: what is in force, who said so, and what is wrong with it."""

from __future__ import annotations

import os
from typing import Any

import click

from millrace.cli.frame import Session, table, verb

__all__ = ["config_check_verb", "config_path_verb", "config_show_verb", "parse_flags", "set_flag", "set_verb"]

set_flag = click.option(
    "--set", "sets", multiple=True, metavar="KEY=VALUE", help="Override a setting for this run."
)


def parse_flags(sets: tuple[str, ...]) -> dict[str, str]:
    """KEY=VALUE texts as a table; a text without = is a usage error."""
    flags: dict[str, str] = {}
    for text in sets:
        key, equals, value = text.partition("=")
        if not equals:
            raise click.BadParameter(
                f"{text!r} has no =; write for example --set share.cpu=30%", param_hint="--set"
            )
        flags[key.strip()] = value.strip()
    return flags


@verb("show")
@click.argument("key", required=False)
@click.option("--origin", is_flag=True, help="Also who set each value.")
@set_flag
def config_show_verb(session: Session, key: str | None, origin: bool, sets: tuple[str, ...]) -> int:
    """Every setting in force, or those whose name begins with KEY."""
    from millrace.config_check import check_config

    values, problems = check_config(session.paths, os.environ, parse_flags(sets))
    wanted = [value for value in values if value.setting.key.startswith(key or "")]
    if not wanted:
        raise click.BadParameter(f"no setting begins with {key!r}", param_hint="KEY")
    rows = [(v.setting.key, _toml(v.raw), v.source.kind, v.source.name) for v in wanted]
    document: dict[str, Any] = {
        "config": str(session.paths.config),
        "settings": {
            v.setting.key: {
                "value": str(v.raw) if _is_decimal(v.raw) else v.raw,
                "origin": v.source.kind,
                "where": v.source.name,
            }
            for v in wanted
        },
        "problems": len(problems),
    }
    columns = 4 if origin else 2
    headings = ("SETTING", "VALUE", "ORIGIN", "WHERE")[:columns]
    session.answer(document, lambda: table(headings, [row[:columns] for row in rows]))
    if problems:
        session.say(f"{len(problems)} of these cannot be used; next: millrace config check")
    return 0


@verb("check")
@set_flag
def config_check_verb(session: Session, sets: tuple[str, ...]) -> int:
    """List every problem of the configuration at once; exit code 2 if there is one."""
    from millrace.config_check import check_config

    _values, problems = check_config(session.paths, os.environ, parse_flags(sets))
    listed = [{"key": p.key, "what": p.what, "why": p.why, "next": p.next_step} for p in problems]
    text = "\n".join(f"✗ {p.what}\n    why:  {p.why}\n    next: {p.next_step}" for p in problems)
    where = (
        session.paths.config
        if session.paths.config.exists()
        else f"{session.paths.config} (not there: defaults)"
    )
    session.answer(
        {"ok": not problems, "config": str(session.paths.config), "problems": listed},
        text or f"✓ {where}: nothing to mend",
    )
    return 2 if problems else 0


@verb("path")
def config_path_verb(session: Session) -> int:
    """Where the files of this node stand."""
    paths = session.paths
    files = {
        "config": paths.config,
        "data": paths.data,
        "key": paths.key,
        "network": paths.network,
        "ledger": paths.ledger,
        "journal": paths.journal,
        "socket": session.socket,
        "log": paths.log,
    }
    session.answer(
        {name: str(path) for name, path in files.items()},
        lambda: table(("FILE", "PATH"), list(files.items())),
    )
    return 0


@verb("set")
@click.argument("key")
@click.argument("value")
def set_verb(session: Session, key: str, value: str) -> int:
    """Change one setting in config.toml, keeping its comments. Takes effect with the next `millrace up`."""
    from millrace.config import set_value

    set_value(session.paths.config, key, value)
    session.answer({"config": str(session.paths.config), "key": key, "value": value}, f"{key} = {value}")
    if session.endpoint.answers():
        session.say("the running node keeps its old value; next: millrace down, then millrace up")
    return 0


def _toml(raw: object) -> str:
    if isinstance(raw, bool):
        return str(raw).lower()
    if isinstance(raw, str):
        return f'"{raw}"'
    if isinstance(raw, list):
        return f"[{', '.join(_toml(item) for item in raw)}]"
    return str(raw)


def _is_decimal(raw: object) -> bool:
    return not isinstance(raw, (bool, int, str, list))
