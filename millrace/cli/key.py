# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace key`: who this node is."""

from __future__ import annotations

from ledger.core.keys import peer_id
from millrace.cli.frame import Session, refuse, verb

__all__ = ["key_show_verb"]


@verb("show")
def key_show_verb(session: Session) -> int:
    """The peer id of this node: its account, its address, and (for a witness) its vote."""
    from p2p.identity import load_identity

    path = session.paths.key
    if not path.exists():
        refuse(
            "this node has no key yet",
            f"{path} does not exist",
            "millrace up makes one (or: millrace bootstrap init)",
        )
    key = load_identity(path)
    text = peer_id(key.account)
    session.answer({"peer_id": text, "account": key.account.hex(), "file": str(path)}, text)
    return 0
