# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace status`: one screen that says what the node does, and whether its network is well."""

from __future__ import annotations

import time
from typing import Any, Final

import click

from ledger.core.amounts import format_credits
from millrace.cli.frame import Session, clean, short, verb
from millrace.errors import DaemonUnavailable, MillraceError

__all__ = ["status_text", "status_verb"]

WATCH_S: Final = 1.0


@verb("status")
@click.option("--watch", is_flag=True, help="Keep it on screen; Ctrl-C ends it.")
def status_verb(session: Session, watch: bool) -> int:
    """Lending, peers, jobs, credit and ledger, on one screen."""
    if not watch:
        answer = session.call("status")
        session.answer(answer, lambda: status_text(answer))
        return 0
    if session.json or not session.lively:
        while True:
            answer = session.call("status")
            session.answer(answer, status_text(answer))
            time.sleep(WATCH_S)
    _watch(session)
    return 0


def _watch(session: Session) -> None:
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    with Live(console=Console(), screen=True, auto_refresh=False) as live:
        while True:
            try:
                text = status_text(session.call("status"))
            except DaemonUnavailable as error:
                text = f"{error.what}: {error.why}\nnext: {error.next_step}"
            except MillraceError as error:
                text = str(error)
            live.update(Text(text), refresh=True)
            time.sleep(WATCH_S)


def status_text(status: dict[str, Any]) -> str:
    """The status for people: a line for each thing that an owner asks; absent facts are left out."""
    facts = _Facts(status)
    lines = [
        ("node", facts.node()),
        ("network", facts.network()),
        ("lending", facts.lending()),
        ("peers", facts.peers()),
        ("jobs", facts.jobs()),
        ("credit", facts.credit()),
        ("key", facts.key()),
        ("ledger", facts.ledger()),
        ("rules", facts.rules()),
        ("sandbox", facts.sandbox()),
    ]
    return "\n".join(f"{name:<9}{text}" for name, text in lines if text)


class _Facts:
    """Reads a status answer without trusting its shape: a node of another version must not crash the screen."""

    def __init__(self, status: dict[str, Any]) -> None:
        self._status = status

    def _part(self, name: str) -> dict[str, Any]:
        part = self._status.get(name)
        return part if isinstance(part, dict) else {}

    def node(self) -> str:
        """Who, for how long, as which process."""
        name, peer = self._status.get("name"), self._status.get("peer_id") or self._status.get("peer") or "?"
        uptime = self._status.get("uptime_s")
        since = f", up {_span(uptime)}" if isinstance(uptime, (int, float)) else ""
        return f"{clean(name)} · {clean(peer)}{since}" if name else f"{clean(peer)}{since}"

    def network(self) -> str:
        """The network's name and how many faults its witnesses tolerate."""
        part = self._part("network")
        name = part.get("name") or self._status.get("network")
        witnesses = part.get("witnesses") or self._part("ledger").get("witnesses")
        count = len(witnesses) if isinstance(witnesses, (list, tuple)) else witnesses
        if not isinstance(count, int):
            return clean(name) if isinstance(name, str) else ""
        faults = (count - 1) // 3
        said = part.get("statement")
        tolerates = f"tolerate {faults} faulty" if faults else "tolerate no fault"
        return f"{clean(name)} · {clean(said) if said else f'{count} witnesses, {tolerates}'}"

    def lending(self) -> str:
        """Whether this machine lends, and why not."""
        part = self._part("lending") or self._part("share")
        if not part:
            return ""
        on = part.get("on", part.get("lends", part.get("lending")))
        why = clean(part.get("why") or "")
        slots, price = part.get("slots"), part.get("price_per_tfuel")
        text = "yes" if on else "no"
        text += f" · {part.get('slots_busy', 0)} of {slots} slots busy" if on and slots is not None else ""
        text += f" · {part.get('units_done', 0)} units done" if on else ""
        text += f" · {format_credits(price)} credits per 10^12 fuel" if on and isinstance(price, int) else ""
        return f"{text} · {why}" if why else text

    def peers(self) -> str:
        """Links and adverts."""
        part = self._status.get("peers")
        if isinstance(part, dict):
            return " · ".join(f"{clean(value)} {clean(name)}" for name, value in part.items())
        return f"{part} linked" if isinstance(part, int) else ""

    def jobs(self) -> str:
        """What runs now."""
        part = self._status.get("jobs")
        if isinstance(part, dict):
            return " · ".join(f"{clean(value)} {clean(name)}" for name, value in part.items()) or "none"
        return clean(part) if part is not None else ""

    def credit(self) -> str:
        """Balance and what is left to spend."""
        part = self._part("balance") or self._part("credit")
        balance = part.get("balance", self._status.get("balance"))
        if not isinstance(balance, int):
            return ""
        limit = part.get("limit")
        may = f" · may fall to {format_credits(-limit)}" if isinstance(limit, int) and limit else ""
        locked = part.get("locked")
        held = f" · {format_credits(locked)} locked for jobs" if isinstance(locked, int) and locked else ""
        told = "".join(
            f" · {name} {format_credits(part[name])}"
            for name in ("earned", "pending", "spent")
            if isinstance(part.get(name), int) and part[name]
        )
        return f"{format_credits(balance)} credits{may}{held}{told}"

    def ledger(self) -> str:
        """The newest verified block."""
        part = self._part("ledger")
        if not part:
            return ""
        text, age = f"block {part.get('height', 0)}", part.get("age_s")
        text += f", {_span(age)} old" if isinstance(age, (int, float)) and part.get("height") else ""
        text += f" · {part.get('entries', 0)} entries verified here"
        if part.get("evidence"):
            text += f" · {part['evidence']} proofs that a witness lied: millrace ledger evidence"
        if isinstance(part.get("base"), int) and part["base"] > 1:
            text += f" · kept from block {part['base']} on"
        halted = part.get("halted")
        for each in halted if isinstance(halted, list) else ():
            text += f" · witness {short(each.get('peer'))} does not vote: {clean(each.get('why'))}"
        for fault in (part.get("split"), part.get("trouble"), part.get("waiting")):
            text += f" · {clean(fault)}" if fault else ""
        return text

    def rules(self) -> str:
        """What decrees have made of the network: epoch, governors, fees, slots."""
        part = self._part("rules")
        committee, params = part.get("committee"), part.get("params")
        if not isinstance(committee, dict) or not isinstance(params, dict):
            return ""
        governors = part.get("governors")
        count = len(governors) if isinstance(governors, list) else 0
        who = f"{part.get('needed')} of {count} governors decide" if count else "no governors"
        fees = [params.get("fee_min"), params.get("dispute_fee")]
        least, dispute = (format_credits(fee) if isinstance(fee, int) else "?" for fee in fees)
        return (
            f"epoch {committee.get('epoch')}, decree {part.get('decrees')} · {who} · fees from {least}, "
            f"{dispute} a dispute · slots of {params.get('slot_timeout_ms')} ms"
        )

    def key(self) -> str:
        """Which key spends, where that is not plain, and whether it can be replaced."""
        part = self._part("key")
        if not part:
            return ""
        told = []
        if part.get("key") != part.get("account"):
            told.append(f"{clean(part.get('key'))} signs for this account")
        if part.get("trouble"):
            told.append(clean(part.get("trouble")))
        elif part.get("held") is False:
            mend = "millrace key rotate" if part.get("recovery") else "copy its account.key here"
            told.append(f"it is not here, so nothing can be paid: {mend}")
        if part.get("recovery") is None:
            told.append("no recovery key: millrace key recovery")
        return " · ".join(told) or "as made · a recovery key is registered"

    def sandbox(self) -> str:
        """Which layers of the sandbox stand."""
        layers = self._status.get("sandbox") or self._status.get("layers")
        if not isinstance(layers, list):
            return ""
        return " · ".join(
            f"{'✓' if layer.get('standing') else '✗'} {clean(layer.get('name'))}"
            for layer in layers
            if isinstance(layer, dict)
        )


def _span(seconds: float) -> str:
    whole = int(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
