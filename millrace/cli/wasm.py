# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace wasm run`: one module, on other people's machines, verified and paid."""

from __future__ import annotations

import base64
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import click

from ledger.core.amounts import format_credits
from millrace.cli.frame import Session, clean, refuse, verb
from millrace.core.api_messages import JOB_OPTIONS, UNIT_FIELDS
from millrace.errors import MillraceError

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["wasm_run_verb"]

STDIN_BYTES_MAX: Final = UNIT_FIELDS["stdin"].high
REPLICAS_MAX: Final = JOB_OPTIONS["replicas"].high
TASK_FAILED: Final = 6


@verb("run")
@click.argument("module", type=click.Path(path_type=Path))
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option(
    "--stdin", "stdin_path", default="", metavar="FILE", help="The module's standard input; - is ours."
)
@click.option(
    "--replicas",
    type=click.IntRange(1, REPLICAS_MAX),
    default=2,
    show_default=True,
    help="Peers that must agree.",
)
@click.option("--max-cost", default=None, metavar="CREDITS", help="Hard cap for all replicas together.")
@click.option("--fuel", type=click.IntRange(min=1), default=None, help="Instructions it may use.")
@click.option(
    "--entry", default=None, metavar="NAME", help="An export to call instead of a command's _start."
)
@click.option("-o", "--output", default="", metavar="FILE", help="Write the module's output to FILE.")
def wasm_run_verb(  # noqa: PLR0917 - one argument per flag
    session: Session,
    module: Path,
    args: tuple[str, ...],
    stdin_path: str,
    replicas: int,
    max_cost: str | None,
    fuel: int | None,
    entry: str | None,
    output: str,
) -> int:
    """Run MODULE with ARGS on peers that must agree, pay them, and print its output.

    Exit code 6 if the module itself failed. Write -- before arguments that begin with a dash.
    """
    from millrace.client import Client, Unit, Verify

    code = _read(module, "MODULE")
    data = _stdin(stdin_path)
    limits: dict[str, Any] = {
        name: value for name, value in (("fuel", fuel), ("entry", entry)) if value is not None
    }
    seen: list[dict[str, Any]] = []
    with _progress(session) as step, Client(endpoint=session.socket) as client:

        def on_event(event: dict[str, Any]) -> None:
            seen.append(event)
            step.show(event)

        results = client.wasm_map(
            code,
            [Unit(args, data)],
            verify=Verify.replicas(replicas),
            max_cost=max_cost,
            return_exceptions=True,
            timeout=session.timeout_s,
            on_event=on_event,
            **limits,
        )
        outcome = next(iter(results))
        report = results.report()
    event = next((event for event in seen if event.get("event") == "result"), None)
    if event is None:
        raise (
            outcome if isinstance(outcome, MillraceError) else MillraceError("the job ended without a result")
        )
    return _print(session, event, report.job_id, report.cost, output)


def _print(session: Session, event: dict[str, Any], job_id: str, cost: int, output: str) -> int:
    data, stderr = bytes(event.get("output", b"")), bytes(event.get("stderr", b""))
    status, exit_code = str(event.get("status", "")), int(event.get("exit_code", 0))
    if output:
        Path(output).expanduser().write_bytes(data)
    good = status == "ok"
    if session.json:
        document: dict[str, Any] = {
            "event": "result",
            "job_id": job_id,
            "status": status,
            "exit_code": exit_code,
            "cost": cost,
            "fuel": event.get("fuel"),
            "how": event.get("how"),
            "workers": event.get("workers"),
            "output_base64": base64.b64encode(data).decode(),
            "stderr": stderr.decode("utf-8", "replace"),
        }
        session.event(document)
        return 0 if good else TASK_FAILED
    if not output:
        if sys.stdout.isatty():  # a stranger computed these bytes: no terminal escapes
            click.echo("\n".join(map(clean, data.decode("utf-8", "replace").split("\n"))), nl=False)
        else:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
    if stderr and not session.quiet:
        click.echo("\n".join(map(clean, stderr.decode("utf-8", "replace").splitlines())), err=True)
    if not good:
        refuse(
            f"the module ended with {status}, exit code {exit_code}",
            "every replica that was believed ended the same way",
            f"millrace jobs show {job_id}",
            code=TASK_FAILED,
        )
    session.say(f"paid {format_credits(cost)} credits for {event.get('fuel')} fuel; {_trust(event)}")
    return 0


def _trust(event: dict[str, Any]) -> str:
    """What made the result believed, for people."""
    workers = event.get("workers")
    count = len(workers) if isinstance(workers, (list, tuple)) else 0
    if event.get("how") == "arbiter":
        return "checked by a run on this machine"
    return f"{count} peers agree" if count > 1 else "the word of one peer (--replicas 1)"


def _read(path: Path, what: str) -> bytes:
    try:
        return path.expanduser().read_bytes()
    except OSError as error:
        raise click.BadParameter(f"cannot read {path}: {error.strerror}", param_hint=what) from error


def _stdin(path: str) -> bytes:
    if not path:
        return b""
    data = sys.stdin.buffer.read(STDIN_BYTES_MAX + 1) if path == "-" else _read(Path(path), "--stdin")
    if len(data) > STDIN_BYTES_MAX:
        raise click.BadParameter(f"more than {STDIN_BYTES_MAX} bytes of input", param_hint="--stdin")
    return data


def _progress(session: Session) -> AbstractContextManager[_Steps]:
    if session.json or not session.lively:
        return nullcontext(_Steps(session))
    return _Spinner(session)


class _Steps:
    """What happens to the job: JSON lines under --json, nothing otherwise."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def show(self, event: dict[str, Any]) -> None:
        """One event of the job; the result itself is printed at the end."""
        if self._session.json and event.get("event") not in {"result", "no_result"}:
            self._session.event(
                {name: value for name, value in event.items() if not isinstance(value, bytes)}
            )


class _Spinner(_Steps):
    """A line that says what the job waits for, on a terminal."""

    def __enter__(self) -> Self:
        from rich.console import Console

        self._status = Console(stderr=True).status("looking for peers …")
        self._status.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._status.stop()

    def show(self, event: dict[str, Any]) -> None:
        """Put the event's name on the line."""
        name = clean(event.get("event", "")).replace("_", " ")
        why = f": {clean(event.get('why'))}" if event.get("event") == "ledger_waits" else ""
        self._status.update(f"{name}{why} …")
