"""The key file of a node: 32 secret bytes that are its identity, its account and its money (SPEC.md §2)."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Final

from ledger.core.keys import SEED_BYTES, SigningKey
from p2p.core.errors import IdentityError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["KEY_FILE_MODE", "create_identity", "load_identity"]

KEY_FILE_MODE: Final = 0o600
_LOOSE_BITS: Final = 0o177


def load_identity(path: Path) -> SigningKey:
    """The key in `path`: a regular file of 32 bytes, mode 0600, owned by us, not a symbolic link.

    `IdentityError` otherwise, saying what is wrong, why it matters and what to do. The checks are made on
    the open file, so that nothing can be swapped between the check and the read.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError as error:
        raise IdentityError(
            f"there is no key file {path}; `millrace up` or `create_identity` makes one"
        ) from error
    except OSError as error:
        if path.is_symlink():
            raise _refusal(
                path, "is a symbolic link", "whoever owns the link chooses the key", "move the file here"
            ) from error
        raise IdentityError(f"cannot open the key file {path}: {error.strerror}") from error
    try:
        _check_owner_and_mode(path, os.fstat(handle))
        seed = os.read(handle, SEED_BYTES + 1)
    finally:
        os.close(handle)
    if len(seed) != SEED_BYTES:
        have = f"{len(seed)} bytes" if len(seed) < SEED_BYTES else f"more than {SEED_BYTES} bytes"
        raise _refusal(
            path,
            f"has {have}, a key has {SEED_BYTES}",
            "it is damaged or not a key",
            "restore it from a backup",
        )
    if len(set(seed)) == 1:
        raise _refusal(path, "holds one byte repeated", "anybody can guess it", "restore it from a backup")
    return SigningKey(seed)


def create_identity(path: Path, seed: bytes) -> SigningKey:
    """Write `seed` (32 random bytes from the caller) to a new file and answer its key.

    `IdentityError` when something is there already: a key is never overwritten. The bytes and the directory
    entry are on disk before this returns; a crash before leaves no file, or a short one that is refused.
    """
    key = SigningKey(seed)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, flags, KEY_FILE_MODE)
    except FileExistsError as error:
        raise IdentityError(
            f"{path} exists already; a key is never overwritten: move it away first"
        ) from error
    except OSError as error:
        raise IdentityError(f"cannot create the key file {path}: {error.strerror}") from error
    try:
        with os.fdopen(handle, "wb") as file:
            os.fchmod(file.fileno(), KEY_FILE_MODE)
            file.write(seed)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:  # a full disk: what stands there is no key, and would keep the next attempt out
        path.unlink()
        raise IdentityError(f"cannot write the key file {path}: {error.strerror}") from error
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return key


def _check_owner_and_mode(path: Path, info: os.stat_result) -> None:
    if not stat.S_ISREG(info.st_mode):
        raise _refusal(
            path, "is not a regular file", "a key is 32 bytes in a file", "give the path of the file"
        )
    if info.st_uid != os.geteuid():
        raise _refusal(
            path,
            f"belongs to user {info.st_uid}, we are {os.geteuid()}",
            "its owner can read and change it",
            f"run as that user, or chown {os.geteuid()} it",
        )
    if info.st_mode & _LOOSE_BITS:
        mode = stat.S_IMODE(info.st_mode)
        raise _refusal(path, f"has mode {mode:04o}", "other users may read the key", f"chmod 600 {path}")


def _refusal(path: Path, what: str, why: str, action: str) -> IdentityError:
    return IdentityError(f"the key file {path} {what}: {why}; {action}")
