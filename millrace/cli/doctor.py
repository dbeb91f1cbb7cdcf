# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace doctor`: what stands, what is missing, what that costs, and how to mend it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import click

from millrace.cli.frame import Session, clean, verb

if TYPE_CHECKING:
    from millrace.doctor import Finding

__all__ = ["doctor_verb"]

_MARKS = {"good": ("✓", "green"), "poor": ("!", "yellow"), "bad": ("✗", "red")}


@verb("doctor")
@click.option("--quick", is_flag=True, help="Leave out the sandbox's self-test.")
def doctor_verb(session: Session, quick: bool) -> int:
    """Check this machine. Exit code 1 if something keeps a node from working."""
    from millrace.doctor import Standing, examine, sandbox_findings

    findings: list[Finding] = []
    for finding in examine(session.paths, os.environ, session.socket):
        findings.append(finding)
        _print(session, finding)
    if not quick:
        for finding in _self_test(session, sandbox_findings):
            findings.append(finding)
            _print(session, finding)
    bad = sum(finding.standing is Standing.BAD for finding in findings)
    poor = sum(finding.standing is Standing.POOR for finding in findings)
    if session.json:
        session.event({"ok": not bad, "bad": bad, "poor": poor, "findings": [_document(f) for f in findings]})
    else:
        session.say("all is well" if not bad + poor else f"{bad} to mend, {poor} to know about")
    return 1 if bad else 0


def _self_test(session: Session, test: Any) -> list[Finding]:  # noqa: ANN401 - a function of millrace.doctor
    from millrace.doctor import Finding, Standing

    session.say("trying the sandbox …")
    try:
        found: list[Finding] = test()
    except (ImportError, OSError) as error:
        return [
            Finding(
                "sandbox",
                Standing.BAD,
                str(error),
                "this machine lends nothing",
                "millrace doctor after mending",
            )
        ]
    except Exception as error:  # noqa: BLE001 - a failed self-test is a finding, whatever broke in it
        text = f"{type(error).__name__}: {error}"
        return [
            Finding("sandbox", Standing.BAD, text, "this machine lends nothing", "mend what stands above")
        ]
    return found


def _print(session: Session, finding: Finding) -> None:
    if session.json:
        return
    mark, colour = _MARKS[finding.standing.value]
    if sys.stdout.isatty() and not os.environ.get("NO_COLOR"):
        mark = click.style(mark, fg=colour)
    click.echo(f"{mark} {finding.name:<20} {clean(finding.found)}")
    if finding.cost:
        click.echo(f"  {'':<20} costs: {clean(finding.cost)}")
    if finding.mend:
        click.echo(f"  {'':<20} mend:  {clean(finding.mend)}")


def _document(finding: Finding) -> dict[str, str]:
    return {
        "name": finding.name,
        "standing": finding.standing.value,
        "found": finding.found,
        "cost": finding.cost,
        "mend": finding.mend,
    }
