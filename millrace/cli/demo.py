"""`millrace demo`: a whole network on this machine, from the first process to the audited ledger."""

from __future__ import annotations

import importlib

import click

from millrace.cli.frame import Session, refuse, verb

__all__ = ["demo_verb"]


@verb("demo")
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
def demo_verb(session: Session, args: tuple[str, ...]) -> int:
    """A network of real processes: a real job, a cheat caught, a killed worker, an audited ledger.

    Leaves nothing behind. Its own flags: millrace demo -- --help
    """
    try:
        demo = importlib.import_module("millrace.demo.main")
    except ModuleNotFoundError as error:
        if error.name not in {"millrace.demo.main", "millrace.demo"}:
            raise
        refuse(
            "this installation has no demo",
            "the module millrace.demo is not part of it",
            "install the full package",
        )
    extra = ["--json"] if session.json and "--json" not in args else []
    extra += ["--quiet"] if session.quiet and "--quiet" not in args else []
    code: int = demo.run([*extra, *args])
    return code


demo_verb.context_settings["ignore_unknown_options"] = True  # they are the demo's
