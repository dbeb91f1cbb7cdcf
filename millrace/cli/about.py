"""`millrace version` and `millrace completion`."""

from __future__ import annotations

import importlib.metadata
import platform
from typing import Final

import click
from click.shell_completion import get_completion_class

from millrace.cli.frame import Session, table, verb
from millrace.cli.main import root
from millrace.errors import DaemonUnavailable, MillraceError

__all__ = ["completion_verb", "version_verb"]

PARTS: Final = ("millrace", "libp2p", "trio", "wasmtime", "pynacl", "msgpack")
_INSTALL: Final = {
    "bash": 'eval "$(millrace completion bash)"   # in ~/.bashrc',
    "zsh": 'eval "$(millrace completion zsh)"   # in ~/.zshrc',
    "fish": "millrace completion fish > ~/.config/fish/completions/millrace.fish",
}


@verb("version")
def version_verb(session: Session) -> int:
    """The versions of millrace, of its parts, and of the running node."""
    versions = {"python": platform.python_version()}
    for part in PARTS:
        try:
            versions[part] = importlib.metadata.version(part)
        except importlib.metadata.PackageNotFoundError:
            versions[part] = "not installed"
    try:
        node: object = session.call("version")
    except DaemonUnavailable:
        node = None
    except MillraceError as error:
        node = {"error": error.what}
    running = (
        str(node.get("millrace") or node.get("version") or node) if isinstance(node, dict) else "not running"
    )
    mine = versions["millrace"]
    session.answer(
        {"version": mine, "parts": versions, "node": node},
        lambda: table(
            (f"millrace {mine}", ""),
            [*((name, v) for name, v in versions.items() if name != "millrace"), ("node", running)],
        ),
    )
    return 0


@verb("completion")
@click.argument("shell", type=click.Choice(sorted(_INSTALL)))
def completion_verb(session: Session, shell: str) -> int:
    """Print the completion script for your SHELL."""
    kind = get_completion_class(shell)
    assert kind is not None  # noqa: S101 - the choice above holds only shells that click knows
    script = kind(root, {}, "millrace", "_MILLRACE_COMPLETE").source()
    session.answer({"shell": shell, "script": script}, script)
    session.say(f"# install: {_INSTALL[shell]}")
    return 0
