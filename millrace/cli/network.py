# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace network`: make a network, join one, show the one that was joined."""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from bootstrap.genesis import (
    NetworkFile,
    NetworkFileError,
    check_bootstrap_address,
    fault_line,
    format_network,
    load_network,
    save_network,
)
from ledger.core.amounts import format_credits, parse_credits
from ledger.core.encoding import WireError
from ledger.core.genesis import GOVERNORS_MAX, Genesis
from ledger.core.keys import AccountId, account_from_peer_id, peer_id
from millrace.cli.frame import Session, refuse, table, verb

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "describe",
    "network_create_verb",
    "network_join_verb",
    "network_show_verb",
    "read_credits",
    "read_peer",
    "read_witness",
]

SLOT_TIMEOUT_MS: Final = 1_000


@verb("create")
@click.argument("name")
@click.option(
    "--witness",
    "witnesses",
    multiple=True,
    required=True,
    metavar="PEERID@ADDRESS",
    help="A witness and where it listens: 12D3Koo…@/ip4/192.0.2.1/tcp/4710 (repeat; 4 tolerate one fault).",
)
@click.option(
    "--limit",
    "limits",
    multiple=True,
    metavar="PEERID=AMOUNT",
    help="How far below zero an account may go, in credits (repeat). Without any, nobody can ever pay.",
)
@click.option(
    "--governor",
    "governors",
    multiple=True,
    metavar="PEERID",
    help="Who may change limits, witnesses and fees later, together (repeat). Without any, nobody ever can.",
)
@click.option(
    "--governors-needed",
    type=click.IntRange(1, GOVERNORS_MAX),
    default=None,
    metavar="K",
    help="How many governors a decree needs (default: more than half).",
)
@click.option("--fee-min", default="0", metavar="CREDITS", help="The least fee of an entry.")
@click.option("--dispute-fee", default="0", metavar="CREDITS", help="The least fee of a DISPUTE.")
@click.option(
    "--slot-timeout-ms", type=click.IntRange(50, 60_000), default=SLOT_TIMEOUT_MS, show_default=True
)
@click.option("--created-ms", type=int, default=None, help="The time in the record; now, unless given.")
@click.option("-o", "--output", default="", metavar="FILE", help="Where to write it (default: NAME.toml).")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def network_create_verb(  # noqa: PLR0917 - one argument per flag
    session: Session,
    name: str,
    witnesses: tuple[str, ...],
    limits: tuple[str, ...],
    governors: tuple[str, ...],
    governors_needed: int | None,
    fee_min: str,
    dispute_fee: str,
    slot_timeout_ms: int,
    created_ms: int | None,
    output: str,
    force: bool,
) -> int:
    """Write the network file of a new network NAME.

    Each witness first runs `millrace bootstrap init`, which prints its PEERID@ADDRESS.
    """
    path = Path(output or f"{name}.toml").expanduser()
    if path.exists() and not force:
        refuse(
            f"{path} exists",
            "a network file cannot be made twice: every run has another network id",
            "choose another -o FILE, or --force",
        )
    parsed = [read_witness(text) for text in witnesses]
    if governors_needed is not None and not governors:
        raise click.UsageError("--governors-needed says how many of the --governor there are must agree")
    try:
        genesis = Genesis(
            name=name,
            created_ms=int(time.time() * 1000) if created_ms is None else created_ms,
            witnesses=tuple(account for account, _ in parsed),
            limits=_read_limits(limits),
            slot_timeout_ms=slot_timeout_ms,
            fee_min=read_credits(fee_min, "--fee-min"),
            dispute_fee=read_credits(dispute_fee, "--dispute-fee"),
            governors=tuple(read_peer(text, "--governor") for text in governors),
            governors_needed=governors_needed or (len(governors) // 2 + 1 if governors else 0),
        )
    except WireError as error:
        raise click.UsageError(f"no such network can be made: {error}") from error
    network = NetworkFile(genesis, tuple(address for _, address in parsed))
    save_network(path, network)
    session.answer({**describe(network), "file": str(path)}, f"{path}\n{_text(network)}")
    if not limits:
        session.say(
            "no --limit was given: every balance starts at 0 and none may fall below, so nobody can pay"
        )
    if not governors:
        session.say("no --governor was given: limits, witnesses and fees stay as they are for ever")
    session.say(
        f"next, on each entry point: millrace bootstrap run --network {path}"
        f"\nand on every other machine: millrace network join {path}, then millrace up"
    )
    return 0


@verb("join")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Leave the network that was joined before.")
def network_join_verb(session: Session, file: Path, force: bool) -> int:
    """Make this node a member of the network that FILE describes."""
    from millrace.paths import private_dir

    network = load_network(file.expanduser())
    paths = session.paths
    beside = f"millrace network join --profile {_profile_name(network.name)} {file}"
    if paths.network.exists():
        try:
            before: NetworkFile | None = load_network(paths.network)
        except NetworkFileError:
            before = None  # whatever stands there serves nobody
        other = before is not None and before.network_id != network.network_id
        if before is not None and other and paths.ledger.exists():
            refuse(
                f"this node belongs to {before.name!r} already, and its ledger stands in {paths.data}",
                "records of two networks must not mix",
                f"use a second node: {beside}",
            )
        if before is not None and other and not force:
            refuse(
                f"this node belongs to {before.name!r} already",
                "a node is a member of one network",
                f"use a second node: {beside} (or --force to leave)",
            )
    if session.endpoint.answers():
        session.say("the running node keeps what it has; next: millrace down, then millrace up")
    private_dir(paths.data)
    save_network(paths.network, network)
    session.answer({**describe(network), "file": str(paths.network)}, f"joined\n{_text(network)}")
    session.say("next: millrace up")
    return 0


@verb("show")
@click.argument("file", required=False, type=click.Path(path_type=Path))
@click.option("--toml", "as_toml", is_flag=True, help="The file itself, to give to somebody else.")
def network_show_verb(session: Session, file: Path | None, as_toml: bool) -> int:
    """The network of FILE, or the one that this node joined.

    The file says how it was founded; of the joined one, a running node adds what decrees have made of it.
    """
    path = file or session.paths.network
    network = load_network(path)
    now = None if file or as_toml or not session.endpoint.answers() else session.call("governance")
    text = format_network(network).rstrip("\n") if as_toml else _text(network)
    text += f"\n{_text_now(now)}" if now else ""
    session.answer({**describe(network), "file": str(path), **({"now": now} if now else {})}, text)
    return 0


def read_witness(text: str) -> tuple[AccountId, str]:
    """PEERID@ADDRESS, or an address that ends in /p2p/PEERID: the account and the whole address."""
    name, at, address = text.partition("@")
    whole = text if not at else address if "/p2p/" in address else f"{address.rstrip('/')}/p2p/{name}"
    try:
        checked, account = check_bootstrap_address(whole)
        if at and account != account_from_peer_id(name):
            raise ValueError("the peer id before @ is not the one in the address")
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint="--witness") from error
    return account, checked


def read_peer(text: str, flag: str) -> AccountId:
    """The account behind a peer id given to `flag`."""
    try:
        return account_from_peer_id(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r}: {error}", param_hint=flag) from error


def read_credits(text: str, flag: str, *, least: int = 0) -> int:
    """An amount given to `flag`, in micro-credits, at least `least`."""
    try:
        micro = parse_credits(text)
        if micro < least:
            raise ValueError("an amount is above zero" if least else "an amount is not below zero")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=flag) from error
    return micro


def describe(network: NetworkFile) -> dict[str, Any]:
    """The network as JSON."""
    genesis = network.genesis
    return {
        "name": network.name,
        "network_id": network.network_id.hex(),
        "created_ms": genesis.created_ms,
        "witnesses": [peer_id(account) for account in genesis.witnesses],
        "quorum": genesis.committee.quorum,
        "faults_tolerated": genesis.committee.faults,
        "limits": {peer_id(account): amount for account, amount in genesis.limits},
        "governors": [peer_id(account) for account in genesis.governors],
        "governors_needed": genesis.governors_needed,
        "params": asdict(genesis.params),
        "slot_timeout_ms": genesis.slot_timeout_ms,
        "bootstrap": list(network.bootstrap),
    }


def _text(network: NetworkFile) -> str:
    genesis = network.genesis
    rows: list[Sequence[object]] = [
        ("network", network.name),
        ("id", network.network_id.hex()),
        ("witnesses", fault_line(genesis.committee)),
        ("governors", _governors(len(genesis.governors), genesis.governors_needed)),
        ("fees", _fees(asdict(genesis.params))),
    ]
    lines = ["  ".join((str(name).ljust(9), str(value))) for name, value in rows]
    lines += [f"           {address}" for address in network.bootstrap]
    if genesis.limits:
        lines.append(
            table(("LIMIT OF", "CREDITS"), [(peer_id(a), format_credits(v)) for a, v in genesis.limits])
        )
    return "\n".join(lines)


def _text_now(now: Mapping[str, Any]) -> str:
    committee, params, pending = now["committee"], now["params"], now["pending"]
    lines = [
        f"now        epoch {committee['epoch']}: {committee['statement']}",
        f"           {now['decrees']} decrees so far · {_fees(params)}",
    ]
    if pending:
        lines.append(f"           from block {pending['from_height']} on: {_fees(pending)}")
    return "\n".join(lines)


def _governors(count: int, needed: int) -> str:
    if not count:
        return "none: limits, witnesses and fees stay as they are for ever"
    return f"{needed} of {count} together change limits, witnesses and fees"


def _fees(params: Mapping[str, Any]) -> str:
    least, dispute = format_credits(params["fee_min"]), format_credits(params["dispute_fee"])
    return f"at least {least} an entry, {dispute} a dispute; slots of {params['slot_timeout_ms']} ms"


def _read_limits(texts: tuple[str, ...]) -> tuple[tuple[AccountId, int], ...]:
    limits: list[tuple[AccountId, int]] = []
    for text in texts:
        name, equals, amount = text.partition("=")
        try:
            if not equals:
                raise ValueError("write PEERID=AMOUNT")
            limits.append((account_from_peer_id(name), parse_credits(amount)))
        except ValueError as error:
            raise click.BadParameter(f"{text!r}: {error}", param_hint="--limit") from error
    return tuple(limits)


def _profile_name(name: str) -> str:
    plain = "".join(c if c.isascii() and c.isalnum() else "-" for c in name.lower()).strip("-")
    return plain[:32] or "second"
