"""The keys of one node: who it is, and which key spends for its account (SPEC.md §2).

`node.key` is for ever: peer identity, name of the account, signature under adverts and terms. `account.key` is there
once the spending key was replaced; `account.key.new` while that is under way. Which of them spends, the ledger says:
so a crash at any step of a replacement leaves nothing undecided.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ledger.core.keys import SEED_BYTES
from p2p.identity import create_identity, load_identity

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.keys import AccountId, SigningKey
    from millrace.paths import Paths

__all__ = ["Keyring", "load_keyring", "make_next", "settle_files"]


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keys in a node's folder. `settled` took over from `identity`, `next` may have: the ledger knows."""

    identity: SigningKey
    settled: SigningKey | None = None
    next: SigningKey | None = None

    @property
    def account(self) -> AccountId:
        """The node's account: the name that its first key gave it."""
        return self.identity.account

    @property
    def keys(self) -> tuple[SigningKey, ...]:
        """Every key that may sign for the account."""
        return tuple(key for key in (self.identity, self.settled, self.next) if key is not None)

    def holds(self, key: AccountId) -> SigningKey | None:
        """The private half of `key`, if it is here."""
        return next((mine for mine in self.keys if mine.account == key), None)


def load_keyring(paths: Paths) -> Keyring:
    """The keys in a node's folder; `IdentityError` for one that is missing, loose or damaged."""
    return Keyring(load_identity(paths.key), _load_if_there(paths.account_key), _load_next(paths))


def make_next(paths: Paths, seed: bytes) -> SigningKey:
    """The key that is to take over: durable before the ledger hears of it. One of an earlier attempt is used again."""
    standing = _load_next(paths)
    if standing is None:
        paths.next_key.unlink(missing_ok=True)
        standing = create_identity(paths.next_key, seed)
    return standing


def settle_files(paths: Paths, current: AccountId) -> None:
    """Once the ledger names the next key, it is the account's: one rename, and its predecessor is gone."""
    standing = _load_next(paths)
    if standing is not None and standing.account == current:
        paths.next_key.replace(paths.account_key)
        folder = os.open(paths.data, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def _load_next(paths: Paths) -> SigningKey | None:
    """The next key; None too for a file cut short: the ledger cannot have heard of a key that was not whole here."""
    path = paths.next_key
    if path.is_file() and not path.is_symlink() and path.stat().st_size < SEED_BYTES:
        return None
    return _load_if_there(path)


def _load_if_there(path: Path) -> SigningKey | None:
    return load_identity(path) if path.exists() or path.is_symlink() else None
