"""`millrace jobs`: the work this node has bought."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from ledger.core.amounts import format_credits
from millrace.cli.frame import Session, short, table, verb

__all__ = ["jobs_ls_verb", "jobs_show_verb"]

_TOLD: Final = ("unit", "status", "how", "amount", "paid", "reason", "liar")
"""What the timeline says about an event besides its name and peer; --json has all of it."""


@verb("ls")
@click.option("--count", type=click.IntRange(1, 1000), default=20, show_default=True)
def jobs_ls_verb(session: Session, count: int) -> int:
    """The newest jobs."""
    answer = session.call("jobs.ls", count=count)
    jobs = answer.get("jobs", answer.get("items", []))
    rows = [
        (
            str(job.get("job", ""))[:12],
            job.get("state", ""),
            _shown("created_ms", job.get("created_ms")),
            f"{job.get('units_done', '?')}/{job.get('units', '?')}",
            format_credits(job["cost"]) if isinstance(job.get("cost"), int) else "",
            job.get("name", ""),
        )
        for job in jobs
        if isinstance(job, dict)
    ]
    session.answer(
        answer,
        lambda: table(("JOB", "STATE", "STARTED", "UNITS", "COST", "NAME"), rows) if rows else "no jobs yet",
    )
    return 0


@verb("show")
@click.argument("job")
def jobs_show_verb(session: Session, job: str) -> int:
    """One job with its leases and units."""
    answer = session.call("job.show", job=job)
    session.answer(answer, lambda: _text(answer))
    return 0


def _text(answer: dict[str, Any]) -> str:
    """The job's facts, what happened when, and how many bytes went to whom."""
    facts = answer.get("job")
    rows = [(name, _shown(name, value)) for name, value in facts.items()] if isinstance(facts, dict) else []
    parts = [table(("JOB", ""), rows)]
    timeline = [event for event in answer.get("timeline", []) if isinstance(event, dict)]
    if timeline:
        start = timeline[0].get("at_ms", 0)
        lines = [
            (
                f"+{(event.get('at_ms', start) - start) / 1000:.3f} s",
                str(event.get("event", "")).replace("_", " "),
                short(event.get("worker", event.get("peer", ""))),
                "  ".join(f"{n}={event[n]}" for n in _TOLD if event.get(n) not in (None, "", [])),
            )
            for event in timeline
        ]
        parts.append(table(("WHEN", "WHAT", "PEER", ""), lines))
    traffic = [item for item in answer.get("traffic", []) if isinstance(item, dict)]
    if traffic:
        sent = [(t.get("peer", ""), t.get("sent_bytes", ""), t.get("received_bytes", "")) for t in traffic]
        parts.append(table(("BYTES TO AND FROM", "SENT", "RECEIVED"), sent))
    return "\n\n".join(parts)


def _shown(name: str, value: object) -> object:
    if isinstance(value, int) and name in {"cap", "cost"}:
        return format_credits(value)
    if isinstance(value, int) and name == "created_ms":
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(value / 1000))
    return value
