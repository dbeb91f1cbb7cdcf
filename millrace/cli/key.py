# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace key`: who this node is."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from ledger.core.keys import SEED_BYTES, peer_id
from millrace.cli.frame import Session, refuse, verb

if TYPE_CHECKING:
    from ledger.core.keys import SigningKey

__all__ = ["key_create_verb", "key_show_verb", "make_key"]


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
    from p2p.identity import load_identity

    path = session.paths.key
    if not path.exists():
        refuse("this node has no key yet", f"{path} does not exist", "millrace key create")
    key = load_identity(path)
    text = peer_id(key.account)
    session.answer({"peer_id": text, "account": key.account.hex(), "file": str(path)}, text)
    return 0


def make_key(session: Session) -> tuple[SigningKey, bool]:
    """This node's key, and whether it was made just now; refuses one that others could read."""
    from millrace.paths import private_dir
    from p2p.identity import create_identity, load_identity

    paths = session.paths
    private_dir(paths.data)
    if paths.key.exists() or paths.key.is_symlink():
        return load_identity(paths.key), False
    key = create_identity(paths.key, secrets.token_bytes(SEED_BYTES))
    session.say(f"made a key: this node is {peer_id(key.account)} (keep a copy of {paths.key})")
    return key, True
