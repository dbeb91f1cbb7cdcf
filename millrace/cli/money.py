"""`millrace balance` and `millrace send`."""

from __future__ import annotations

from typing import Final

import click

from ledger.core.amounts import format_credits, parse_credits
from ledger.core.keys import account_from_peer_id
from millrace.cli.frame import Session, Verb, verb
from millrace.errors import UsageError

__all__ = ["balance_verb", "send_verb"]

NOT_POSITIVE: Final = "an amount is above zero"


@verb("balance")
@click.argument("peer", required=False)
def balance_verb(session: Session, peer: str | None) -> int:
    """The balance of this node's account, or of PEER's, from the verified ledger."""
    if peer:
        _check_peer(peer)
    answer = session.call("balance", **({"account": peer} if peer else {}))
    balance, limit, locked = (_whole(answer.get(name)) for name in ("balance", "limit", "locked"))
    lines = [
        f"balance   {format_credits(balance):>16}",
        f"limit     {format_credits(limit):>16}   (how far below zero it may go)",
        f"available {format_credits(_whole(answer.get('available', balance + limit))):>16}",
    ]
    if locked:
        lines.append(f"locked    {format_credits(locked):>16}   (for running jobs)")
    session.answer(answer, "\n".join(lines))
    return 0


class _SendVerb(Verb):
    """No flag begins with a digit, so `-3` is an amount, and one that cannot be sent."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click's, but a number below zero is not called an unknown option."""
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            if error.option_name[1:2].isdigit():
                raise click.BadParameter(NOT_POSITIVE, ctx=ctx, param_hint="AMOUNT") from error
            raise


@verb("send", _SendVerb)
@click.argument("peer")
@click.argument("amount")
@click.option("--memo", default="", help="A note; the ledger keeps only its hash.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def send_verb(session: Session, peer: str, amount: str, memo: str, yes: bool) -> int:
    """Pay AMOUNT credits to PEER. It is final when this returns."""
    _check_peer(peer)
    try:
        micro = parse_credits(amount)
        if micro <= 0:
            raise ValueError(NOT_POSITIVE)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="AMOUNT") from error
    if not yes:
        confirmed = session.confirm(
            f"Pay {format_credits(micro)} credits to {peer}? It cannot be taken back."
        )
        if confirmed is False:
            session.say("nothing was sent")
            return 130
        if confirmed is None:
            raise UsageError(
                "nothing was sent", "a payment needs a yes, and nobody can be asked", "add --yes"
            )
    answer = session.order("send", to=peer, amount=micro, memo=memo)
    entry = answer.get("entry", "")
    entry = entry.hex() if isinstance(entry, bytes) else entry
    session.answer(
        answer,
        f"paid {format_credits(micro)} credits, final in block {answer.get('height', '?')}\nentry {entry}",
    )
    session.say(f"its receipt: millrace ledger receipt {entry}")
    return 0


def _check_peer(peer: str) -> None:
    try:
        account_from_peer_id(peer)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="PEER") from error


def _whole(value: object) -> int:
    return value if isinstance(value, int) else 0
