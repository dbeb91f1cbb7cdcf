"""`millrace demo`: raise the curtain, check every claim, leave nothing behind."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from rich.text import Text

from executor.core.limits import Limits
from ledger.core.amounts import format_credits
from millrace.client import Unit
from millrace.demo import words
from millrace.demo.claims import Check, Evidence
from millrace.demo.network import found_network, leftovers, socket_folders
from millrace.demo.picture import Picture
from millrace.demo.play import Assignment, Performance, Play, quantiles
from millrace.demo.processes import STOP_SIGNALS, Crew
from millrace.demo.stage import Stage
from millrace.errors import MillraceError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence


__all__ = ["run"]

SCHEMA: Final = 1
PIECE_BYTES: Final = 128 << 10
RENDER_LIMITS: Final = Limits(fuel=20_000_000_000, memory_bytes=16 << 20, wall_s=60, output_bytes=256 << 10)
COUNT_LIMITS: Final = Limits(fuel=2_000_000_000, memory_bytes=16 << 20, wall_s=60, output_bytes=512 << 10)
SETTLE_WAIT_S: Final = 40.0
EXIT_OK, EXIT_FAILED, EXIT_INTERRUPTED = 0, 1, 130


@dataclass(slots=True)
class Verdict:
    """How the demo ended."""

    checks: list[Check] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    problem: str = ""
    code: int = EXIT_OK


def run(argv: Sequence[str]) -> int:
    """Run the demo; 0 only if every claim held, 130 when interrupted."""
    options = _parse(argv)
    _check_output(options.output)
    stage = Stage(quiet=options.quiet or options.json)
    verdict = Verdict()
    started = time.monotonic()
    previous = {
        each: signal.signal(each, _interrupt)
        for each in STOP_SIGNALS
        if each is not signal.SIGHUP or signal.getsignal(each) is not signal.SIG_IGN  # nohup stays nohup
    }
    root: Path | None = None
    try:
        root = Path(tempfile.mkdtemp(prefix="millrace-demo-"))
        with stage:
            verdict.checks = _perform(root, stage, options, verdict.figures)
    except KeyboardInterrupt:
        verdict.problem, verdict.code = "interrupted", EXIT_INTERRUPTED
    except MillraceError as error:
        verdict.problem, verdict.code = f"{error.what}: {error.why}. {error.next_step}", EXIT_FAILED
    except (RuntimeError, OSError, ValueError) as error:
        verdict.problem, verdict.code = f"{type(error).__name__}: {error}", EXIT_FAILED
    finally:
        for each in previous:  # nothing may interrupt the tidying up
            signal.signal(each, signal.SIG_IGN)
        if root is not None:
            for folder in (root, *socket_folders(root)):
                shutil.rmtree(folder, ignore_errors=True)
        for each, handler in previous.items():
            signal.signal(each, handler)
    left = leftovers(root) if root is not None else []
    verdict.checks.append(
        Check("no process, socket or folder is left", not left, ", ".join(left) or "none found")
    )
    verdict.figures["wall_s"] = round(time.monotonic() - started, 1)
    if verdict.code == EXIT_OK and not all(check.held for check in verdict.checks):
        verdict.code = EXIT_FAILED
    _conclude(stage, verdict, as_json=options.json)
    return verdict.code


def _perform(root: Path, stage: Stage, options: argparse.Namespace, figures: dict[str, Any]) -> list[Check]:
    """The whole demo on the folder `root`; its processes have ended when this returns or raises."""
    picture = Picture(samples=options.samples)
    book = words.book()
    render = _assignment(
        "picture", "render.wasm", [Unit(picture.arguments(tile)) for tile in picture.tiles()], RENDER_LIMITS
    )
    count = _assignment(
        "words",
        "wordcount.wasm",
        [Unit(stdin=piece) for piece in words.pieces(book, PIECE_BYTES)],
        COUNT_LIMITS,
    )
    with Crew() as crew:
        network = found_network(root, crew, os.urandom, time.time_ns() // 1_000_000)
        stage.say(f"a network of its own, id {network.genesis.network_id.hex()[:16]}…, in {root}")
        play = Play(network, stage, figures)
        play.gather()
        finality = play.measure_finality()
        figures["finality_ms"] = quantiles(finality)
        stage.say(
            f"{len(finality)} transfers: final after {statistics.median(finality):.0f} ms (median), four witnesses"
        )
        tiles = len(render.units)
        rendered = play.perform(render, {tiles // 4: play.kill_worker, tiles // 2: play.kill_witness})
        counted = play.perform(count)
        play.bring_back_worker()
        play.settle(SETTLE_WAIT_S)
        balances = play.balances()
        _note_jobs(figures, rendered, counted)
        stage.say("everybody goes home")
    evidence = Evidence(network, stage, figures, picture, book, rendered, counted, balances, options.output)
    stage.say("checking: the same units in this machine's own sandbox, without any network")
    checks = evidence.check_jobs()
    stage.say("checking: the ledger, replayed from genesis off every node's disk")
    checks += evidence.check_ledger()
    figures["balances"] = {name: format_credits(amount) for name, amount in balances.items()}
    return checks


def _note_jobs(figures: dict[str, Any], *performances: Performance) -> None:
    for each in performances:
        report = each.report
        figures[each.assignment.name] = {
            "units": len(each.assignment.units),
            "results_s": round(each.results_s - each.submitted_s, 2),
            "submit_to_settled_s": round(each.settled_s - each.submitted_s, 2),
            "moved": each.moved,
            "lies": each.lies,
            "cost": format_credits(report.cost) if report else None,
        }


def _assignment(name: str, module: str, units: list[Unit], limits: Limits) -> Assignment:
    code = (files("millrace.demo") / "guests" / module).read_bytes()
    return Assignment(name, code, tuple(units), limits)


def _conclude(stage: Stage, verdict: Verdict, *, as_json: bool) -> None:
    """Say how it went: one JSON document for machines, a table for people."""
    checks, figures = verdict.checks, verdict.figures
    if as_json:
        document = {
            "schema": SCHEMA,
            "ok": verdict.code == EXIT_OK,
            "problem": verdict.problem,
            "checks": [{"claim": check.claim, "held": check.held, "seen": check.seen} for check in checks],
            "figures": figures,
        }
        sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
        return
    stage.verdicts((check.held, check.claim, check.seen) for check in checks)
    missing = [name for name, standing in figures.get("sandbox", {}).items() if not standing]
    if missing:
        stage.print(Text(f"fewer walls here: {', '.join(missing)} (see: millrace doctor)", "yellow"))
    if "balances" in figures:
        owed = ", ".join(f"{name} {amount}" for name, amount in figures["balances"].items())
        stage.print(f"balances: {owed}")
    said = "all of it held" if verdict.code == EXIT_OK else verdict.problem or "something did not hold"
    stage.print(
        Text(f"{said} · {figures['wall_s']} s", "bold green" if verdict.code == EXIT_OK else "bold red")
    )


def _check_output(path: Path) -> None:
    """Refuse a place that the picture cannot go to now, not after the whole play."""
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise UsageError(
            f"the picture cannot be written to {path.absolute()}",
            "it is a folder, or this user may not write there",
            "go to a folder of your own, or: millrace demo -- --output FILE",
        )


def _interrupt(_signal: int, _frame: object) -> None:
    # once is enough: an impatient second Ctrl-C must not interrupt the tidying up
    for each in STOP_SIGNALS:
        signal.signal(each, signal.SIG_IGN)
    raise KeyboardInterrupt


def _parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="millrace demo", description="A whole network on this machine, checked."
    )
    parser.add_argument(
        "--json", action="store_true", help="one JSON document on standard output, nothing else"
    )
    parser.add_argument("--quiet", action="store_true", help="only the exit code")
    parser.add_argument(
        "--output", type=Path, default=Path("millrace-demo.png"), help="where the picture goes"
    )
    parser.add_argument("--samples", type=int, default=2, choices=range(1, 9), help="rays per pixel and axis")
    return parser.parse_args(list(argv))
