# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace key`: who this node is."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Final

import click

from ledger.core.keys import SEED_BYTES, SigningKey, peer_id
from millrace.cli.frame import Session, refuse, verb

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["key_backup_verb", "key_create_verb", "key_restore_verb", "key_show_verb", "make_key"]

BACKUP_NOTES: Final = (
    "Whoever reads these words can be this node and spend what it holds.",
    "They bring back: the node's identity, its account, its balance and credit line.",
    "They do not bring back: vouchers of work done that were not claimed yet, payments signed and not yet sent, jobs",
    "and their receipts, settings, the network file. Copy the data folder for these, while the node is down.",
)


@verb("create")
def key_create_verb(session: Session) -> int:
    """Make this node's identity before it has a network, and print its peer id. Repeating it is safe.

    A network's founder needs the peer ids that get a credit limit: millrace network create --limit PEERID=100.
    """
    key, made = make_key(session)
    text = peer_id(key.account)
    session.answer(
        {"peer_id": text, "account": key.account.hex(), "file": str(session.paths.key), "created": made}, text
    )
    return 0


@verb("show")
def key_show_verb(session: Session) -> int:
    """The peer id of this node: its account, its address, and (for a witness) its vote."""
    key = _own_key(session)
    text = peer_id(key.account)
    session.answer({"peer_id": text, "account": key.account.hex(), "file": str(session.paths.key)}, text)
    return 0


@verb("backup")
@click.option("--show", is_flag=True, help="Print the words although this is no terminal, or with --json.")
def key_backup_verb(session: Session, show: bool) -> int:
    """This node's key as 24 words, to be written on paper.

    They are shown on a terminal, on a screen that is gone afterwards, and three of them are asked back.
    """
    from millrace.cli.paper import hand_over

    key = _own_key(session)
    hand_over(session, key.seed, f"The key of {peer_id(key.account)}", BACKUP_NOTES, show=show)
    return 0


@verb("restore")
def key_restore_verb(session: Session) -> int:
    """Make this node's key again from its 24 words, typed or on standard input.

    A key that stands here already is never overwritten.
    """
    from millrace.cli.paper import read_seed
    from millrace.paths import private_dir
    from p2p.identity import create_identity, load_identity

    paths = session.paths
    key = SigningKey(read_seed(session, "the 24 words"))
    text = peer_id(key.account)
    private_dir(paths.data)
    standing = paths.key.exists() or paths.key.is_symlink()
    if standing and load_identity(paths.key).account != key.account:
        refuse(
            "another key stands here already",
            f"{paths.key} is the key of {peer_id(load_identity(paths.key).account)}, the words are that of {text}",
            "restore into another data folder: millrace key restore --profile NAME",
        )
    if not standing:
        create_identity(paths.key, key.seed)
    session.answer(
        {"peer_id": text, "account": key.account.hex(), "file": str(paths.key), "created": not standing}, text
    )
    _say_after_restore(session, paths.network)
    return 0


def _say_after_restore(session: Session, network: Path) -> None:
    session.say(
        "the key is back. The node fetches the ledger again, and asks the witnesses which entries of this account they "
        "know, before it signs another.\nWhat stood in the old data folder alone is not back: unclaimed vouchers, "
        "entries signed and not yet sent, jobs, settings"
    )
    session.say(
        "next: millrace up" if network.exists() else "next: millrace network join FILE, then millrace up"
    )


def _own_key(session: Session) -> SigningKey:
    from p2p.identity import load_identity

    path = session.paths.key
    if not path.exists():
        refuse("this node has no key yet", f"{path} does not exist", "millrace key create")
    return load_identity(path)


def make_key(session: Session) -> tuple[SigningKey, bool]:
    """This node's key, and whether it was made just now; refuses one that others could read."""
    from millrace.paths import private_dir
    from p2p.identity import create_identity, load_identity

    paths = session.paths
    private_dir(paths.data)
    if paths.key.exists() or paths.key.is_symlink():
        return load_identity(paths.key), False
    key = create_identity(paths.key, secrets.token_bytes(SEED_BYTES))
    session.say(f"made a key: this node is {peer_id(key.account)} (write it down: millrace key backup)")
    return key, True
