"""The peer book on disk: read once, written whole and atomically (SPEC.md §11.5)."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import WireError
from p2p.core.peers import PeerBook

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.encoding import NetworkId
    from ledger.core.keys import AccountId

__all__ = ["PEER_FILE", "load_peers", "save_peers"]

_log = logging.getLogger(__name__)

PEER_FILE: Final = "peers.bin"


def load_peers(data_dir: Path, me: AccountId, network_id: NetworkId) -> PeerBook:
    """The book of `data_dir`, or a new one; a file that is not one is moved aside, with a warning."""
    path = data_dir / PEER_FILE
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return PeerBook(me)
    try:
        return PeerBook.from_bytes(data, me, network_id)
    except WireError as error:
        aside = path.with_suffix(".bad")
        path.replace(aside)
        _log.warning(
            "%s cannot be used (%s); it was moved to %s and a new peer book begun from the bootstrap addresses",
            path, error, aside.name,
        )  # fmt: skip
        return PeerBook(me)


def save_peers(data_dir: Path, data: bytes) -> None:
    """Replace the file by `data`: after a crash at any point there is either the old book or the new one.

    `OSError` when the disk refuses; the old book then stands.
    """
    path = data_dir / PEER_FILE
    fresh = path.with_suffix(".new")
    # 1. the new bytes, on disk before anything points to them (a crash leaves peers.new, overwritten next time)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    # 2. the name, in one step
    fresh.replace(path)
    # 3. the folder, so that the name survives a power cut
    folder = os.open(data_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)
