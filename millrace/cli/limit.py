"""`millrace limit`: lend a part of this node's credit line to others, and take it back (SPEC.md §4)."""

from __future__ import annotations

import click

from ledger.core.amounts import format_credits
from millrace.cli.frame import Session, table, verb
from millrace.cli.network import read_credits, read_peer
from millrace.errors import UsageError

__all__ = ["limit_grant_verb", "limit_ls_verb", "limit_revoke_verb"]


@verb("ls")
def limit_ls_verb(session: Session) -> int:
    """How far below zero this account may go, and which part of that it has lent, and was lent by whom."""
    answer = session.call("limits")
    granted, held = answer.get("granted", []), answer.get("held", [])
    lines = [f"limit {format_credits(answer.get('limit', 0))} credits, of its own and lent to it"]
    rows = [("to", one["peer"], format_credits(one["amount"])) for one in granted]
    rows += [("from", one["peer"], format_credits(one["amount"])) for one in held]
    lines += [table(("LENT", "PEER", "CREDITS"), rows)] if rows else ["nothing of it is lent"]
    session.answer(answer, "\n".join(lines))
    return 0


@verb("grant")
@click.argument("peer")
@click.argument("amount")
@click.option("--yes", is_flag=True, help="Do not ask.")
def limit_grant_verb(session: Session, peer: str, amount: str, yes: bool) -> int:
    """Let PEER fall AMOUNT credits further below zero, and this node as much less.

    If PEER spends it and never comes back, the line is gone with it: grant what you can do without.
    """
    read_peer(peer, "PEER")
    micro = read_credits(amount, "AMOUNT", least=1)
    if not yes:
        confirmed = session.confirm(
            f"Let {peer} use {format_credits(micro)} credits of this node's credit line? What it spends of them "
            "cannot be taken back."
        )
        if confirmed is False:
            session.say("nothing was granted")
            return 130
        if confirmed is None:
            raise UsageError("nothing was granted", "it needs a yes, and nobody can be asked", "add --yes")
    return _change(session, peer, micro, f"granted {format_credits(micro)} credits of the credit line")


@verb("revoke")
@click.argument("peer")
@click.argument("amount")
def limit_revoke_verb(session: Session, peer: str, amount: str) -> int:
    """Take back AMOUNT credits of the line that PEER was granted, as far as PEER does not use it now."""
    read_peer(peer, "PEER")
    micro = read_credits(amount, "AMOUNT", least=1)
    return _change(session, peer, -micro, f"took back {format_credits(micro)} credits of the credit line")


def _change(session: Session, peer: str, delta: int, said: str) -> int:
    answer = session.order("limit.change", beneficiary=peer, delta=delta)
    session.answer(answer, f"{said}, final in block {answer.get('height')}\nentry {answer.get('entry')}")
    return 0
