# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace key`: who this node is."""

from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Any, Final

import click

from ledger.core.keys import SEED_BYTES, SigningKey, account_from_peer_id, peer_id
from millrace.cli.frame import Session, refuse, verb
from millrace.errors import JobTimeout, MillraceError, UsageError

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.keys import AccountId

__all__ = [
    "key_backup_verb",
    "key_create_verb",
    "key_recovery_verb",
    "key_restore_verb",
    "key_rotate_verb",
    "key_show_verb",
    "make_key",
    "spending_key",
]

RECOVERY_NOTES: Final = (
    "These words make a new key for this account when its present one is lost or stolen: millrace key rotate.",
    "They are kept nowhere but on your paper. They cannot pay; whoever reads them can take the account over.",
    "Keep them apart from the words of `millrace key backup`.",
)
ENTRY_LIFE_MS: Final = 120_000
BACKUP_NOTES: Final = (
    "Whoever reads these words can be this node and spend what it holds.",
    "They bring back: the node's identity, its account, its balance and credit line.",
    "They do not bring back: vouchers of work done that were not claimed yet, payments signed and not yet sent, jobs",
    "and their receipts, settings, the network file. Copy the data folder for these, while the node is down.",
)

REPLACED_NOTES: Final = (
    "Whoever reads these words can be this node. They spend nothing any more: this account has another key now, which",
    "is in the file account.key.",
    "They bring back: the node's identity. Its account and balance come back with the words of `millrace key recovery`",
    "as well: millrace key restore, then millrace key rotate. Without a recovery key, only a copy of account.key does.",
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
    info = session.call("key") if session.endpoint.answers() else {}
    told: dict[str, Any] = {
        name: info[name] for name in ("key", "held", "recovery", "rekeys") if name in info
    }
    session.answer(
        {"peer_id": text, "account": key.account.hex(), "file": str(session.paths.key), **told}, text
    )
    if told and told["key"] != text:
        session.say(f"its account is signed for by {told['key']}" + ("" if told["held"] else ", not here"))
    if told and told["recovery"] is None:
        session.say("it has no recovery key: millrace key recovery makes one")
    return 0


@verb("backup")
@click.option("--show", is_flag=True, help="Print the words although this is no terminal, or with --json.")
def key_backup_verb(session: Session, show: bool) -> int:
    """This node's key as 24 words, to be written on paper. After `millrace key rotate` they bring back the node, not
    its money: that needs the words of `millrace key recovery` too.

    They are shown on a terminal, on a screen that is gone afterwards, and three of them are asked back.
    """
    from millrace.cli.paper import hand_over

    key = _own_key(session)
    replaced = session.paths.account_key.exists() or session.paths.next_key.exists()
    notes = REPLACED_NOTES if replaced else BACKUP_NOTES
    hand_over(session, key.seed, f"The key of {peer_id(key.account)}", notes, show=show)
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


@verb("recovery")
@click.option("--replace", is_flag=True, help="Replace the recovery key; its words are asked for.")
@click.option("--show", is_flag=True, help="Print the words although this is no terminal, or with --json.")
def key_recovery_verb(session: Session, replace: bool, show: bool) -> int:
    """Make a recovery key: 24 words that can give this account another key when its own is lost or stolen.

    The ledger learns the key behind the words; the words are shown once and kept nowhere. Without a recovery key,
    whoever steals this node's key can lock its owner out.
    """
    from millrace.cli.paper import hand_over

    info = session.call("key")
    if info["recovery"] is not None and not replace:
        refuse(
            "this account has a recovery key already",
            f"it is {info['recovery']}; its words were shown when it was made",
            "if they are lost to others but not to you: millrace key recovery --replace",
        )
    by = _recovery_key(session, info) if info["recovery"] is not None else None
    _, key = spending_key(session)
    seed = secrets.token_bytes(SEED_BYTES)
    recovery = SigningKey(seed)
    hand_over(session, seed, f"The recovery key of {info['account']}", RECOVERY_NOTES, show=show)
    try:
        answer = _rekey(session, info, by or key, key, recovery.account)
    except JobTimeout:
        session.say("keep the words: `millrace key show` says whether the ledger has taken them")
        raise
    except MillraceError:
        session.say("the words shown stand for nothing: the ledger has not taken the recovery key")
        raise
    session.answer(
        {"event": "registered", **answer},
        f"recovery key {peer_id(recovery.account)}\nentry {answer['entry']}",
    )
    return 0


@verb("rotate")
def key_rotate_verb(session: Session) -> int:
    """Give this account a new spending key, by the words of its recovery key, typed or on standard input.

    From then on nobody can spend with the old one, and what was signed with it and not ordered yet is void. The
    node stays who it is: its peer id names its account and is not a secret that could be stolen again.
    """
    from ledger.core.entries import NO_KEY
    from millrace.keyring import make_next, settle_files

    info = session.call("key")
    registered = None if info["recovery"] is None else account_from_peer_id(info["recovery"])
    by = spending_key(session)[1] if registered is None else _recovery_key(session, info)
    settle_files(session.paths, account_from_peer_id(info["key"]))
    new_key = make_next(session.paths, secrets.token_bytes(SEED_BYTES))
    try:
        answer = _rekey(session, info, by, new_key, registered or NO_KEY)
    except MillraceError:
        if session.call("key").get("key") != peer_id(new_key.account):  # an earlier attempt may have arrived
            raise
        answer = {"key": peer_id(new_key.account)}
    session.answer(
        {**answer, "file": str(session.paths.account_key)},
        f"this account is signed for by {peer_id(new_key.account)} now ({session.paths.account_key})",
    )
    session.say(f"the old key spends nothing any more; the node is still {info['account']}")
    if registered is None:
        session.say(
            "no recovery key is registered: make one now, before this key is lost: millrace key recovery"
        )
    return 0


def _recovery_key(session: Session, info: dict[str, Any]) -> SigningKey:
    """The registered recovery key, from its words; refused where they are others, or the hour is not over."""
    from ledger.core.authority import REKEY_PAUSE_MS
    from millrace.cli.paper import read_seed

    free_ms = info["rekeyed_ms"] + REKEY_PAUSE_MS
    if time.time() * 1000 < free_ms:
        refuse(
            "the recovery key cannot act yet",
            "it acts once an hour, so that nobody can fill the ledger with it for nothing",
            f"try again after {time.strftime('%H:%M:%S UTC', time.gmtime(free_ms // 1000 + 1))}",
        )
    key = SigningKey(read_seed(session, "the 24 words of the recovery key"))
    if peer_id(key.account) != info["recovery"]:
        raise UsageError(
            "these are not the words of this account's recovery key",
            f"they are those of {peer_id(key.account)}, registered is {info['recovery']}",
            "look for the paper of `millrace key recovery`; that of `millrace key backup` is another",
        )
    return key


def _rekey(
    session: Session, info: dict[str, Any], signer: SigningKey, new_key: SigningKey, recovery: AccountId
) -> dict[str, Any]:
    """Sign the REKEY here, so that no recovery key ever reaches the node, and have the node order it."""
    from bootstrap.genesis import load_network
    from ledger.core.entries import sign_rekey_entry

    entry = sign_rekey_entry(
        signer,
        load_network(session.paths.network).network_id,
        account_from_peer_id(info["account"]),
        seq=info["rekeys"] + 1,
        not_after_ms=time.time_ns() // 1_000_000 + ENTRY_LIFE_MS,
        fee=0 if info["recovery"] is not None else info["fee_min"],
        new_key=new_key,
        recovery=recovery,
    )
    return session.order("key.rekey", entry=entry.encode())


def _say_after_restore(session: Session, network: Path) -> None:
    session.say(
        "the key is back. The node fetches the ledger again, and asks the witnesses which entries of this account they "
        "know, before it signs another.\nWhat stood in the old data folder alone is not back: unclaimed vouchers, "
        "entries signed and not yet sent, jobs, settings"
    )
    session.say(
        "next: millrace up" if network.exists() else "next: millrace network join FILE, then millrace up"
    )


def spending_key(session: Session) -> tuple[AccountId, SigningKey]:
    """This node's account, and the key that signs for it: as the ledger says if the node runs, else as the files do."""
    from millrace.keyring import load_keyring

    _own_key(session)
    keyring = load_keyring(session.paths)
    if not session.endpoint.answers():
        return keyring.account, keyring.settled or keyring.identity
    info = session.call("key")
    current = str(info.get("key"))
    key = keyring.holds(account_from_peer_id(current))
    if key is None:
        mend = (
            ", or replace the key again: millrace key rotate"
            if info.get("recovery")
            else " from where it was made"
        )
        refuse(
            "the key that spends for this account is not here",
            f"since a REKEY it is {current}; none of the key files in {session.paths.data} is that key",
            f"copy its account.key here{mend}",
        )
    return keyring.account, key


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
