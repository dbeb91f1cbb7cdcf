"""`millrace jobs`: the work this node has bought."""

from __future__ import annotations

import json

import click

from ledger.core.amounts import format_credits
from millrace.cli.frame import Session, table, verb

__all__ = ["jobs_ls_verb", "jobs_show_verb"]


@verb("ls")
@click.option("--count", type=click.IntRange(1, 1000), default=20, show_default=True)
def jobs_ls_verb(session: Session, count: int) -> int:
    """The newest jobs."""
    answer = session.call("jobs.ls", count=count)
    jobs = answer.get("jobs", answer.get("items", []))
    rows = [
        (
            job.get("job", job.get("id", "")),
            job.get("state", ""),
            job.get("name", ""),
            f"{job.get('units_done', job.get('done', '?'))}/{job.get('units', '?')}",
            format_credits(job["cost"]) if isinstance(job.get("cost"), int) else "",
        )
        for job in jobs
        if isinstance(job, dict)
    ]
    session.answer(
        answer, lambda: table(("JOB", "STATE", "NAME", "UNITS", "COST"), rows) if rows else "no jobs yet"
    )
    return 0


@verb("show")
@click.argument("job")
def jobs_show_verb(session: Session, job: str) -> int:
    """One job with its leases and units."""
    answer = session.call("job.show", job=job)
    session.answer(answer, lambda: json.dumps(answer, indent=2, default=lambda value: value.hex()))
    return 0
