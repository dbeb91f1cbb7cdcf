"""`millrace`: the command line. Verbs load when they are asked for, so that help costs nothing.

Exit codes: 0 ok · 1 failed · 2 usage · 3 no daemon · 4 credit or cap · 5 no peer fits · 6 the task failed ·
7 incompatible · 8 network · 124 timeout · 130 interrupt.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import sys
import traceback
from typing import TYPE_CHECKING, Any, Final

import click

from millrace.cli.frame import SCHEMA, clean, common_flags, wants_json
from millrace.errors import MillraceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["GROUPS", "VERBS", "LazyGroup", "main", "root"]

# verb → (module below millrace.cli, one line of help). `millrace --help` is printed from here alone.
VERBS: Final[dict[str, tuple[str, str]]] = {
    "up": ("lifecycle", "Start this machine's node in the background."),
    "down": ("lifecycle", "Stop it."),
    "status": ("status", "What the node does right now, on one screen."),
    "demo": ("demo", "A whole network on this machine: real processes, a real job, an audited ledger."),
    "wasm": ("wasm", "Run WebAssembly on other people's machines."),
    "jobs": ("jobs", "The jobs this node has bought."),
    "peers": ("market", "The peers this node is linked to."),
    "offers": ("market", "What the market holds."),
    "balance": ("money", "The credit of this account, or another."),
    "send": ("money", "Pay credit to a peer."),
    "ledger": ("ledger", "The ledger: head, entries, audit, receipts."),
    "limit": ("limit", "Credit lines that this node lends of its own."),
    "decree": ("decree", "What a network's governors decide: limits, witnesses, fees."),
    "key": ("key", "This node's identity."),
    "set": ("configuration", "Change a setting."),
    "config": ("configuration", "Show and check the configuration."),
    "network": ("network", "Create, join or show a network."),
    "bootstrap": ("bootstrap", "Run an entry point of a network: DHT server and witness."),
    "doctor": ("doctor", "Check what this machine can do, and what is missing."),
    "completion": ("about", "A completion script for your shell."),
    "version": ("about", "The version of millrace and its parts."),
}
# group → its verbs, for the same reason: a group's help imports nothing else.
GROUPS: Final[dict[str, dict[str, str]]] = {
    "wasm": {"run": "Run a module: millrace wasm run MODULE -- ARGS"},
    "jobs": {"ls": "List jobs.", "show": "One job with its leases and units."},
    "peers": {"ls": "List linked peers."},
    "offers": {"ls": "List the adverts that this node has heard."},
    "ledger": {
        "head": "The newest verified block.",
        "show": "Blocks and their entries.",
        "audit": "Replay the whole ledger from genesis.",
        "evidence": "Proofs that witnesses lied.",
        "receipt": "Receipts of this node's entries.",
        "verify": "Check a receipt offline, with the network file alone.",
    },
    "limit": {
        "ls": "The credit line, and what is lent of it to whom.",
        "grant": "Let PEER use a part of this node's credit line.",
        "revoke": "Take back a part that PEER does not use.",
    },
    "decree": {
        "limit": "Draft: raise or lower a credit line.",
        "rotate": "Draft: replace the committee of witnesses.",
        "param": "Draft: change fees, slot time or version.",
        "show": "What a decree says, and who approved it.",
        "sign": "Approve a decree as a governor.",
        "submit": "Have an approved decree take effect.",
    },
    "key": {
        "create": "Make this node's key; prints its peer id.",
        "show": "The peer id of this node.",
        "backup": "This node's key as 24 words, for paper.",
        "restore": "Make the key again from its 24 words.",
        "recovery": "Make a recovery key: words against loss and theft.",
        "rotate": "Give the account a new spending key, by the recovery key.",
    },
    "config": {
        "show": "Every setting in force.",
        "check": "List every problem of the configuration.",
        "path": "Where the files stand.",
    },
    "network": {
        "create": "Make a network file from its witnesses.",
        "join": "Join the network of a file.",
        "show": "The network that this node belongs to.",
    },
    "bootstrap": {
        "init": "Make the key of an entry point; prints its peer id.",
        "run": "Run the entry point until it is told to stop.",
    },
}
# group → the verb that runs when none is named: `millrace peers` is `millrace peers ls`.
DEFAULT_VERB: Final = {"peers": "ls", "offers": "ls", "jobs": "ls", "limit": "ls"}


class LazyGroup(click.Group):
    """A group that knows its verbs by name and imports one when it is called."""

    def __init__(self, *, table: Mapping[str, tuple[str, str]], **attributes: Any) -> None:  # noqa: ANN401 - click's
        super().__init__(params=common_flags(), **attributes)
        self._table = table

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """The verbs, in the order in which they are explained."""
        return list(self._table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        """The verb or group of this name."""
        if cmd_name not in self._table:
            return None
        if self.name == "millrace" and cmd_name in GROUPS:
            module = VERBS[cmd_name][0]
            return LazyGroup(
                name=cmd_name,
                help=VERBS[cmd_name][1],
                table={name: (module, line) for name, line in GROUPS[cmd_name].items()},
                invoke_without_command=cmd_name in DEFAULT_VERB,
                callback=_run_default if cmd_name in DEFAULT_VERB else None,
            )
        loaded = importlib.import_module(f"millrace.cli.{self._table[cmd_name][0]}")
        name = cmd_name if self.name == "millrace" else f"{self.name}_{cmd_name}"
        command: click.Command = getattr(loaded, f"{name}_verb")
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click's, but the suggestion for a typo knows the verbs that were not loaded."""
        if args[0] not in self._table and not args[0].startswith("-"):
            raise click.NoSuchCommand(args[0], possibilities=self._table, ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        """The list of verbs, from the table: nothing is imported for it."""
        with formatter.section("Verbs"):
            formatter.write_dl([(name, line) for name, (_, line) in self._table.items()])


@click.pass_context
def _run_default(ctx: click.Context, /, **_flags: object) -> object:
    if ctx.invoked_subcommand is not None:
        return None
    group = ctx.command
    assert isinstance(group, LazyGroup)  # noqa: S101 - the only caller
    chosen = group.get_command(ctx, DEFAULT_VERB[str(group.name)])
    assert chosen is not None  # noqa: S101 - both tables stand above
    with chosen.make_context(DEFAULT_VERB[str(group.name)], [], parent=ctx) as inner:
        return chosen.invoke(inner)


root = LazyGroup(
    name="millrace",
    table=VERBS,
    help="Lend this machine's idle time, and run verified work on other people's.",
    epilog="Start here: millrace demo · millrace doctor · millrace network join FILE, then millrace up",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(argv: list[str] | None = None) -> int:
    """Run one command; the exit code."""
    args = sys.argv[1:] if argv is None else argv
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a terminal that cannot show a ✓ gets \u2713, not a traceback
            stream.reconfigure(errors="backslashreplace")
    try:
        result = root.main(
            args=args, prog_name="millrace", standalone_mode=False, auto_envvar_prefix="MILLRACE"
        )
        sys.stdout.flush()
    except BrokenPipeError:  # the reader has seen enough: `millrace ledger show | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, click.Abort):
        return _report(args, MillraceError("interrupted"), "interrupted", 130)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.ClickException as error:
        return _report_usage(args, error)
    except Exception as error:  # noqa: BLE001 - the outermost frame: whatever it is, it is said
        known = _translate(error)
        return _report(args, known, known.code, known.exit_code)
    return result if isinstance(result, int) else 0


def _translate(error: Exception) -> MillraceError:
    """Errors of the other rooms in our words; what nobody expected is called a defect, with its traceback."""
    if isinstance(error, MillraceError):
        return error
    what, why = getattr(error, "what", None), getattr(error, "why", "")
    next_step = getattr(error, "next_step", None) or getattr(error, "next", "")
    if isinstance(what, str):
        return MillraceError(what, str(why), str(next_step))
    if type(error).__module__.startswith("p2p."):  # its texts read "what: why; next"
        head, _, rest = str(error).partition(": ")
        reason, _, action = rest.rpartition("; ")
        return MillraceError(head, reason or rest, action if reason else "")
    if isinstance(error, OSError):
        named = f" {error.filename}" if error.filename else ""
        return MillraceError(
            f"the system refused{named}",
            error.strerror or str(error),
            "millrace doctor shows what is missing",
        )
    traceback.print_exception(error)
    return MillraceError(
        "this is a defect of millrace",
        f"{type(error).__name__}: {error}",
        "report the lines above, with the output of: millrace version",
    )


def _report_usage(args: list[str], error: click.ClickException) -> int:
    ctx = getattr(error, "ctx", None)
    path = ctx.command_path if ctx is not None else "millrace"
    known = UsageError(error.format_message().rstrip("."), "", f"{path} --help")
    return _report(args, known, known.code, error.exit_code)


def _report(args: list[str], error: MillraceError, code: str, exit_code: int) -> int:
    """Say what went wrong, as JSON on standard output or for people on standard error; the exit code."""
    if wants_json(args):
        document = {**error.to_wire(), "code": code, "exit_code": exit_code}
        click.echo(json.dumps({"schema": SCHEMA, "error": document}, ensure_ascii=False))
        return exit_code
    bold = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    head = click.style("millrace:", fg="red", bold=True) if bold else "millrace:"
    lines = [f"{head} {clean(error.what)}"]
    lines += [f"  why:  {clean(error.why)}"] if error.why else []
    lines += [f"  - {clean(reason)}" for reason in error.reasons]
    lines += [f"  next: {clean(error.next_step)}"] if error.next_step else []
    click.echo("\n".join(lines), err=True)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
