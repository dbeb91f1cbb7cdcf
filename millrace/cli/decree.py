# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace decree`: what governors decide together: draft it, sign it, submit it.

A draft is a file that goes from governor to governor. Only drafting and submitting need a running node.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.core.keys import peer_id
from millrace.cli.frame import Session, refuse, table, verb
from millrace.cli.network import read_credits, read_peer
from millrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bootstrap.genesis import NetworkFile
    from ledger.core.committee import Committee
    from ledger.core.entries import Decree
    from ledger.core.keys import AccountId
    from millrace.decree import DecreeFile

__all__ = [
    "decree_limit_verb",
    "decree_param_verb",
    "decree_rotate_verb",
    "decree_show_verb",
    "decree_sign_verb",
    "decree_submit_verb",
]

BLOCKS_AHEAD: Final = 100
"""How far ahead a PARAM decree takes effect unless told otherwise: governors need time to sign it."""
_output = click.option("-o", "--output", default="", metavar="FILE", help="Where to write the draft.")
_number = click.option(
    "--number", type=click.IntRange(1), default=None, help="The decree's number (default: the ledger's next)."
)
_force = click.option("--force", is_flag=True, help="Replace FILE if it exists.")
_file = click.argument("file", type=click.Path(path_type=Path))


@verb("limit")
@click.argument("peer")
@click.option("--raise", "up", default="", metavar="CREDITS", help="Raise PEER's credit line by so much.")
@click.option("--lower", "down", default="", metavar="CREDITS", help="Lower it by so much.")
@_number
@_output
@_force
def decree_limit_verb(  # noqa: PLR0917 - one argument per flag
    session: Session, peer: str, up: str, down: str, number: int | None, output: str, force: bool
) -> int:
    """Draft: change how far below zero PEER may fall."""
    from ledger.core.entries import Limit

    beneficiary = read_peer(peer, "PEER")
    if bool(up) == bool(down):
        raise click.UsageError("say --raise CREDITS or --lower CREDITS")
    delta = read_credits(up, "--raise", least=1) if up else -read_credits(down, "--lower", least=1)
    return _draft(session, number, output, force, lambda number, _now: Limit(beneficiary, delta, number))


@verb("rotate")
@click.option(
    "--witness", "witnesses", multiple=True, required=True, metavar="PEERID", help="A witness (repeat)."
)
@_number
@_output
@_force
def decree_rotate_verb(
    session: Session, witnesses: tuple[str, ...], number: int | None, output: str, force: bool
) -> int:
    """Draft: end the epoch. The witnesses named here, all of them and in this leader order, are the next committee.

    Each must run a bootstrap node already (`millrace bootstrap run`): it votes as soon as the decree is final.
    """
    from ledger.core.entries import NO_APPROVALS, Rotate

    accounts = tuple(read_peer(text.partition("@")[0], "--witness") for text in witnesses)
    code = _draft(session, number, output, force, lambda number, _now: Rotate(number, accounts, NO_APPROVALS))
    if absent := _absent(session, accounts):
        session.say(
            f"nobody answers this node at {', '.join(absent)}: start it before the decree is submitted"
        )
    return code


@verb("param")
@click.option("--from-height", type=click.IntRange(1), default=None, help="The first block it is true for.")
@click.option("--version", type=click.IntRange(1), default=None, help="The version of the rules.")
@click.option("--fee-min", default="", metavar="CREDITS", help="The least fee of an entry.")
@click.option("--dispute-fee", default="", metavar="CREDITS", help="The least fee of a DISPUTE.")
@click.option("--slot-timeout-ms", type=click.IntRange(1), default=None, help="How long a slot may take.")
@_number
@_output
@_force
def decree_param_verb(  # noqa: PLR0917 - one argument per flag
    session: Session,
    from_height: int | None,
    version: int | None,
    fee_min: str,
    dispute_fee: str,
    slot_timeout_ms: int | None,
    number: int | None,
    output: str,
    force: bool,
) -> int:
    """Draft: change the network's parameters from a block on. What is not named here stays as it is."""
    from ledger.core.entries import NO_APPROVALS, Param
    from ledger.core.params import PROTOCOL_VERSION, Params

    chosen: dict[str, int | None] = {
        "version": version,
        "fee_min": read_credits(fee_min, "--fee-min") if fee_min else None,
        "dispute_fee": read_credits(dispute_fee, "--dispute-fee") if dispute_fee else None,
        "slot_timeout_ms": slot_timeout_ms,
    }
    given = {name: value for name, value in chosen.items() if value is not None}
    if not given:
        raise click.UsageError("nothing would change: name at least one parameter")

    def make(number: int, now: dict[str, Any]) -> Decree:
        pending = now["pending"] or now["params"]
        before = Params(**{name: pending[name] for name in asdict(Params())})
        first = from_height or now["height"] + BLOCKS_AHEAD
        return Param(number, first, replace(before, **given), NO_APPROVALS)

    if version is not None and version > PROTOCOL_VERSION:
        session.say(
            f"this millrace knows the rules up to version {PROTOCOL_VERSION}: from that block on, "
            "whoever has not updated takes no blocks"
        )
    return _draft(session, number, output, force, make)


@verb("show")
@_file
def decree_show_verb(session: Session, file: Path) -> int:
    """What the decree in FILE says, and who has approved it."""
    from millrace.decree import load_decree

    decree = load_decree(file.expanduser())
    network = _network(session, decree)
    session.answer(_describe(decree, network), lambda: _text(decree, network))
    return 0


@verb("sign")
@_file
def decree_sign_verb(session: Session, file: Path) -> int:
    """Add this node's approval to the decree in FILE. Its account must be one of the network's governors."""
    from millrace.cli.key import spending_key
    from millrace.decree import load_decree, save_decree

    path = file.expanduser()
    decree = load_decree(path)
    network = _network(session, decree)
    account, key = spending_key(session)
    if account not in network.genesis.governors:
        refuse(
            "this node is no governor of the network",
            f"its account, {peer_id(account)}, is not among the {len(network.genesis.governors)} governors",
            "run this where a governor's key stands (--profile NAME, or MILLRACE_HOME=DIR)",
        )
    signed = decree.signed_by(account, key)
    save_decree(path, signed)
    needed = network.genesis.governors_needed
    session.answer(_describe(signed, network), lambda: _text(signed, network))
    session.say(
        f"signed; next: millrace decree submit {path}"
        if len(signed.signatures) >= needed
        else f"signed; {needed - len(signed.signatures)} more of the governors have to: millrace decree sign {path}"
    )
    return 0


@verb("submit")
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="FILE…")
@click.option("--force", is_flag=True, help="Also a committee of which too few answer this node.")
def decree_submit_verb(session: Session, files: tuple[Path, ...], force: bool) -> int:
    """Have the decree in FILE take effect. Several files are copies of one decree, signed by different governors.

    Any member may submit it; this node pays the entry's fee.
    """
    from ledger.core.committee import Committee
    from ledger.core.entries import Rotate
    from millrace.decree import format_decree, load_decree

    decree, *others = [load_decree(file.expanduser()) for file in files]
    for other in others:
        decree = decree.joined(other)
    _network(session, decree)
    if isinstance(decree.decree, Rotate) and not force:
        _refuse_dead(session, Committee(decree.network_id, 0, decree.decree.witnesses))
    answer = session.order("decree.submit", decree=format_decree(decree))
    session.answer(answer, f"decree {answer.get('decree')} is final in block {answer.get('height')}")
    session.say("what stands now: millrace network show")
    return 0


def _absent(session: Session, witnesses: Sequence[AccountId]) -> list[str]:
    """Those of `witnesses` whose ledger does not answer this node."""
    names = [peer_id(account) for account in witnesses]
    heads = session.call("ledger.check", peers=names).get("heads", [])
    silent = {head.get("peer") for head in heads if head.get("verdict") == "no_answer"}
    return [name for name in names if name in silent]


def _refuse_dead(session: Session, committee: Committee) -> None:
    """Refuse a committee that could not order one entry: no later decree could mend that."""
    absent = _absent(session, committee.witnesses)
    if committee.n - len(absent) < committee.quorum:
        refuse(
            f"{committee.n - len(absent)} of the {committee.n} witnesses answer, {committee.quorum} must agree",
            f"nobody answers at {', '.join(absent)}. A committee that cannot agree orders nothing, not even the decree "
            "that would replace it: the ledger would stand still until they run",
            "start them (millrace bootstrap run), then submit again; if they run where this node cannot reach them: "
            "--force",
        )


def _draft(
    session: Session,
    number: int | None,
    output: str,
    force: bool,
    make: Callable[[int, dict[str, Any]], Decree],
) -> int:
    from bootstrap.genesis import load_network
    from ledger.core.encoding import WireError
    from millrace.decree import DecreeFile, save_decree

    network = load_network(session.paths.network)
    if not network.genesis.governors:
        refuse(
            "nothing can be decreed on this network",
            "it was made without governors, and that cannot change",
            "a new network can have some: millrace network create --governor PEERID",
        )
    now = session.call("governance")
    try:
        decree = make(number or now["next"], now)
    except WireError as error:
        raise UsageError("no such decree can be made", str(error), "") from error
    file = DecreeFile(network.name, network.network_id, decree, {})
    path = Path(output or f"decree-{decree.decree}.toml").expanduser()
    if path.exists() and not force:
        refuse(f"{path} exists", "it may hold approvals", "choose another -o FILE, or --force")
    save_decree(path, file)
    session.answer({**_describe(file, network), "file": str(path)}, f"{path}\n{_text(file, network)}")
    session.say(f"next, by {network.genesis.governors_needed} of the governors: millrace decree sign {path}")
    return 0


def _network(session: Session, decree: DecreeFile) -> NetworkFile:
    """This node's network, which must be the decree's."""
    from bootstrap.genesis import load_network

    network = load_network(session.paths.network)
    if network.network_id != decree.network_id:
        raise UsageError(
            f"the decree is for another network, {decree.network!r}",
            f"this node belongs to {network.name!r}, {network.network_id.hex()[:16]}…",
            "use the node that joined that network (--profile NAME)",
        )
    return network


def _describe(decree: DecreeFile, network: NetworkFile) -> dict[str, Any]:
    from millrace.decree import decree_fields

    kind, fields = decree_fields(decree.decree)
    return {
        "network": decree.network,
        "network_id": decree.network_id.hex(),
        "decree": decree.decree.decree,
        "kind": kind,
        **fields,
        "approvals": [
            {
                "governor": peer_id(account),
                "is_governor": account in network.genesis.governors,
                "by_first_key": decree.is_signed_by(account, account),
            }
            for account in sorted(decree.signatures)
        ],
        "needed": network.genesis.governors_needed,
    }


def _text(decree: DecreeFile, network: NetworkFile) -> str:
    told = _describe(decree, network)
    rows: list[tuple[str, object]] = [("decree", told["decree"]), ("network", told["network"])]
    if told["kind"] == "limit":
        change = told["change"]
        sign = "" if change.startswith("-") else "+"
        rows += [("credit line", told["account"]), ("change", f"{sign}{change} credits")]
    elif told["kind"] == "rotate":
        rows += [("witnesses", f"{len(told['witnesses'])}, from the next epoch on")]
        rows += [("", name) for name in told["witnesses"]]
    else:
        rows += [("parameters", f"from block {told['from_height']} on, version {told['version']}")]
        rows += [("", f"fees: at least {told['fee_min']} an entry, {told['dispute_fee']} a dispute")]
        rows += [("", f"slots of {told['slot_timeout_ms']} ms")]
    rows += [("approved by", f"{len(told['approvals'])}, {told['needed']} are needed")]
    for one in told["approvals"]:
        remark = "" if one["by_first_key"] else "  (void, unless its account has another key now)"
        remark = remark if one["is_governor"] else "  (no governor of this network)"
        rows.append(("", one["governor"] + remark))
    return table(("DECREE", ""), rows)
