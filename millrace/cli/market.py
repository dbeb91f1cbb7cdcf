"""`millrace peers` and `millrace offers`: who is there, and what they lend."""

from __future__ import annotations

from typing import Any

import click

from ledger.core.amounts import format_credits
from millrace.cli.frame import Session, short, table, verb

__all__ = ["offers_ls_verb", "peers_ls_verb"]


@verb("ls")
def peers_ls_verb(session: Session) -> int:
    """The peers this node is linked to."""
    answer = session.call("peers")
    items = _items(answer, "peers")
    rows = [
        (
            item.get("peer", ""),
            "in" if item.get("inbound") else "out",
            item.get("address", ""),
            item.get("name", ""),
        )
        for item in items
    ]
    session.answer(
        {"peers": items}, lambda: table(("PEER", "LINK", "ADDRESS", "NAME"), rows) if rows else "no peers yet"
    )
    if not rows:
        session.say("next: millrace status, millrace network show (are its entry points up?)")
    return 0


@verb("ls")
@click.option("--kind", default=None, help="Only peers that run this kind of task, such as wasm.")
def offers_ls_verb(session: Session, kind: str | None) -> int:
    """The capacity adverts that this node has heard, as it would rank them by name."""
    answer = session.call("offers", **({"kind": kind} if kind else {}))
    items = _items(answer, "offers")
    rows = [
        (
            short(item.get("peer", "")),
            item.get("name", ""),
            ",".join(map(str, item.get("kinds", ()))),
            item.get("cores", ""),
            item.get("slots_free", ""),
            _credits(item.get("price_per_tfuel")),
            _credits(item.get("core_hour")),
        )
        for item in items
    ]
    headings = ("PEER", "NAME", "KINDS", "CORES", "FREE", "CREDITS/TFUEL", "CREDITS/CORE-HOUR")
    session.answer({"offers": items}, lambda: table(headings, rows) if rows else "no offers heard yet")
    if not rows:
        session.say("offers arrive by gossip within seconds of a link; next: millrace peers")
    return 0


def _items(answer: dict[str, Any], name: str) -> list[dict[str, Any]]:
    items = answer.get(name, answer.get("items", []))
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list) else []


def _credits(value: object) -> str:
    return format_credits(value) if isinstance(value, int) else ""
