# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace up` and `millrace down`: the node's life, from a first question to its last process."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING, Any, Final

import click

from millrace.cli import daemon
from millrace.cli.configuration import parse_flags, set_flag
from millrace.cli.frame import Session, refuse, verb
from millrace.cli.key import make_key
from millrace.errors import BY_CODE, DaemonUnavailable, JobTimeout, MillraceError

if TYPE_CHECKING:
    import subprocess

    from millrace.config import NodeConfig

__all__ = ["down_verb", "up_verb"]

UP_WAIT_S: Final = 60.0
STOP_WAIT_S: Final = 20.0
"""How long a node may take to stop by itself before it is told harder; the same again after that."""
ANSWER_WAIT_S: Final = 5.0


@verb("up")
@click.option("--yes", is_flag=True, help="Yes, lend this machine's time; do not ask.")
@click.option("--foreground", is_flag=True, help="Stay in this terminal; Ctrl-C stops the node.")
@set_flag
def up_verb(session: Session, yes: bool, foreground: bool, sets: tuple[str, ...]) -> int:
    """Start this machine's node.

    The first time it asks whether to lend this machine's time to others; without a yes the node can buy work
    but runs none.
    """
    deadline = time.monotonic() + (session.timeout_s or UP_WAIT_S)
    config = session.load_config(parse_flags(sets))
    _check_network(config)
    if _already(session):
        return 0
    config = _ask_to_lend(session, config, yes, sets)
    make_key(session)  # a loose key is refused here, where somebody reads it
    command = daemon.node_command(session.profile, session.config, sets)
    with daemon.only_one_starts(config.paths, deadline):
        if _already(session):
            return 0
        pid = daemon.node_pid(config.paths)
        if pid is not None:
            refuse(
                f"a node runs already (process {pid}) but does not answer",
                f"nobody answers on {config.api.socket}",
                "wait a moment and look with: millrace status; or end it: millrace down",
            )
        if foreground:
            daemon.write_pid(config.paths.pid, os.getpid())
            os.execv(command[0], command)  # noqa: S606 - our own interpreter; the node takes this process over
        log_start = daemon.log_size(config.paths.log)
        process = daemon.start_node(command, config.paths)
        try:
            status = _wait_for_answer(session, config, process, log_start, deadline)
        except KeyboardInterrupt:
            session.say("interrupted: stopping the node that was starting")
            daemon.end_process(process.pid, signal.SIGTERM)
            process.wait()
            raise
    _report_up(session, config, process.pid, status, already=False)
    return 0


@verb("down")
@click.option("--finish", is_flag=True, help="Let running work finish first; take no new work.")
def down_verb(session: Session, finish: bool) -> int:
    """Stop the node. A second `down` finds nothing to do, and says so."""
    paths = session.paths
    pid = daemon.node_pid(paths)
    try:
        status = session.endpoint.call("status", wait_s=ANSWER_WAIT_S)
        pid = pid or (status.get("pid") if isinstance(status, dict) else None)
        session.endpoint.call(
            "stop", wait_s=session.timeout_s or (None if finish else STOP_WAIT_S), finish=finish
        )
        asked = True
    except DaemonUnavailable:
        asked = False
    except JobTimeout:
        asked = False
        session.say("the node does not answer; telling its process to stop instead")
    if not asked and pid is None:
        paths.pid.unlink(missing_ok=True)
        session.answer({"running": False, "stopped": False}, "no node was running")
        return 0
    session.say("waiting for the node to finish its work …" if finish else "waiting for the node to stop …")
    how = _wait_for_end(session, pid, asked, finish)
    paths.pid.unlink(missing_ok=True)
    if session.socket.parent != paths.data and session.socket.parent.name.startswith("millrace-"):
        with contextlib.suppress(
            OSError
        ):  # the short folder of a long home's socket; not if anything else is there
            session.socket.parent.rmdir()
    session.answer({"running": False, "stopped": True, "pid": pid, "how": how}, "the node has stopped")
    return 0


def _already(session: Session) -> bool:
    """Whether the node answers already; it is then reported."""
    try:
        status = session.endpoint.call("status", wait_s=ANSWER_WAIT_S)
    except (DaemonUnavailable, JobTimeout):
        return False
    document = status if isinstance(status, dict) else {}
    _report_up(session, None, document.get("pid") or daemon.node_pid(session.paths), document, already=True)
    return True


def _check_network(config: NodeConfig) -> None:
    from bootstrap.genesis import load_network

    if not config.paths.network.exists():
        refuse(
            "this machine has not joined a network",
            f"{config.paths.network} does not exist",
            "millrace network join FILE (to see millrace work first: millrace demo)",
        )
    load_network(config.paths.network)


def _ask_to_lend(session: Session, config: NodeConfig, yes: bool, sets: tuple[str, ...]) -> NodeConfig:
    """Lending begins with an explicit yes, which is written into config.toml."""
    from millrace.config import set_value

    if config.share.lends or (_was_asked(session, sets) and not yes):
        return config
    if not yes:
        session.say(
            f"This node can lend up to {config.share.cpu_percent}% of this machine's cores and"
            f" {config.share.memory_percent}% of its memory.\n"
            "Strangers' WebAssembly runs in a sandbox without network or files, and you are paid in credit.\n"
            "Change it at any time: millrace set share.cpu 25% (or share.when never)."
        )
        answer = session.confirm("Lend this machine's time?")
        if answer is None:
            session.say(
                "nobody to ask: the node will not lend (it can buy work); next, to lend: millrace up --yes"
            )
            return config
        yes = answer
    set_value(config.paths.config, "share.when", "always" if yes else "never")
    return session.load_config(parse_flags(sets))


def _was_asked(session: Session, sets: tuple[str, ...]) -> bool:
    """Whether somebody has decided about lending; other settings alone are no answer."""
    from millrace.config_check import check_config

    values, _problems = check_config(session.paths, os.environ, parse_flags(sets))
    return any(each.setting.key == "share.when" and each.source.kind != "default" for each in values)


def _wait_for_answer(
    session: Session, config: NodeConfig, process: subprocess.Popen[bytes], log_start: int, deadline: float
) -> dict[str, Any]:
    """The node's first status; an error with the end of its log when it died or stays silent."""
    answer: dict[str, Any] = {}

    def answered() -> bool:
        if process.poll() is not None:
            return True
        with contextlib.suppress(DaemonUnavailable, JobTimeout):
            answer.update(session.endpoint.call("status", wait_s=ANSWER_WAIT_S))
        return bool(answer)

    with _spinner(session, "starting the node"):
        in_time = daemon.wait_until(answered, deadline)
    if answer:
        return answer
    reasons = tuple(daemon.log_tail(config.paths.log, 6, after=log_start))
    if in_time:
        config.paths.pid.unlink(missing_ok=True)
        # The node's exit code means what ours does: 8 is the network, 2 its settings.
        kinds = {kind.exit_code: kind for kind in reversed(BY_CODE.values())}
        raise kinds.get(process.returncode, MillraceError)(
            "the node ended while it started",
            f"exit code {process.returncode}; this is what it said last",
            f"less {config.paths.log}",
            reasons=reasons,
        )
    raise JobTimeout(
        "the node does not answer yet",
        f"it runs (process {process.pid}); the end of its log follows",
        "millrace status in a moment, or millrace down",
        reasons=reasons,
    )


def _report_up(
    session: Session, config: NodeConfig | None, pid: int | None, status: dict[str, Any], *, already: bool
) -> None:
    text = f"the node runs already (process {pid})" if already else f"the node runs (process {pid})"
    document: dict[str, Any] = {
        "running": True,
        "already": already,
        "pid": pid,
        "socket": str(session.socket),
    }
    document["status"] = status
    if config is not None:
        document["log"] = str(config.paths.log)
        document["lending"] = config.share.lends
        text += f"\nlending: {'yes' if config.share.lends else 'no (millrace up --yes lends)'}\nlog: {config.paths.log}"
    session.answer(document, text)
    session.say("next: millrace status")


def _wait_for_end(session: Session, pid: int | None, asked: bool, finish: bool) -> str:
    """Wait until the node is gone; tell it harder, each time with a message, when it stays."""

    def gone() -> bool:
        return not daemon.pid_lives(pid) if pid is not None else not session.endpoint.answers()

    wait_s = session.timeout_s or (None if finish else STOP_WAIT_S)
    if asked and daemon.wait_until(gone, time.monotonic() + wait_s if wait_s else float("inf")):
        return "stopped"
    for how in (signal.SIGTERM, signal.SIGKILL):
        if pid is None:
            break
        if asked or how is signal.SIGKILL:
            session.say(
                f"it is still there after {wait_s or STOP_WAIT_S:.0f} s: sending {how.name} to process {pid}"
            )
        daemon.end_process(pid, how)
        if daemon.wait_until(gone, time.monotonic() + (wait_s or STOP_WAIT_S)):
            return how.name
    raise JobTimeout(
        "the node did not stop", f"process {pid} is still there", f"ps -o pid,stat,cmd -p {pid or 0}"
    )


def _spinner(session: Session, text: str) -> contextlib.AbstractContextManager[object]:
    if not session.lively:
        return contextlib.nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(f"{text} …")
