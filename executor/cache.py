"""Modules and their compiled forms on disk (SPEC.md §13.2).

`<sha256>.wasm` holds what was received, `<sha256>-<key>.cwasm` what this machine compiled from it. Every file is
checked against its hash when it is read: a damaged one is as good as none, and is made again. Compiled forms are
machine code that will run, so the folder belongs to the node alone (0700) and nothing in it ever comes from a peer.
All methods block on files: call them from a worker thread.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["CACHE_BYTES_MAX", "Cache", "CacheError"]

CACHE_BYTES_MAX: Final = 1 << 30
_MAGIC: Final = b"millrace compiled 1\n"
_HASH_BYTES: Final = 32


class CacheError(OSError):
    """The cache folder cannot be used; the text says why and what to do."""


class Cache:
    """One folder, bounded in bytes; what was not used for longest goes first."""

    def __init__(self, folder: Path, key: str, bytes_max: int = CACHE_BYTES_MAX) -> None:
        """Make `folder` when it is missing; `CacheError` when others could write to it. `key` names the compiler."""
        self._folder = folder
        self._key = key
        self._bytes_max = bytes_max
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            status = folder.lstat()
        except OSError as error:
            raise CacheError(f"the cache folder {folder} cannot be made: {error.strerror}") from error
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid():
            raise CacheError(f"the cache {folder} is not a folder of this user; remove it or choose another")
        if stat.S_IMODE(status.st_mode) & 0o077:
            raise CacheError(f"others can reach the cache folder {folder}; run: chmod 700 {folder}")

    def load(self, sha256: bytes) -> tuple[bytes, tuple[str, ...]] | None:
        """Compiled form and exports of a module, or None when there is no undamaged one."""
        path = self._compiled_path(sha256)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        start = len(_MAGIC) + _HASH_BYTES
        body = data[start:]
        if not data.startswith(_MAGIC) or hashlib.sha256(body).digest() != data[len(_MAGIC) : start]:
            _unlink(path)
            return None
        head, _, compiled = body.partition(b"\n")
        _touch(path)
        return compiled, tuple(json.loads(head))

    def save(self, sha256: bytes, compiled: bytes, exports: tuple[str, ...]) -> None:
        """Keep a compiled form."""
        body = json.dumps(list(exports)).encode() + b"\n" + compiled
        self._write(self._compiled_path(sha256), _MAGIC + hashlib.sha256(body).digest() + body)

    def forget(self, sha256: bytes) -> None:
        """Delete a compiled form that turned out not to load."""
        _unlink(self._compiled_path(sha256))

    def load_module(self, sha256: bytes) -> bytes | None:
        """The module with this hash, or None when there is no undamaged copy."""
        path = self._module_path(sha256)
        try:
            data = path.read_bytes()
        except OSError:
            return None
        if hashlib.sha256(data).digest() != sha256:
            _unlink(path)
            return None
        _touch(path)
        return data

    def save_module(self, sha256: bytes, module: bytes) -> None:
        """Keep a module as it was received."""
        self._write(self._module_path(sha256), module)

    def _module_path(self, sha256: bytes) -> Path:
        return self._folder / f"{sha256.hex()}.wasm"

    def _compiled_path(self, sha256: bytes) -> Path:
        return self._folder / f"{sha256.hex()}-{self._key}.cwasm"

    def _write(self, path: Path, data: bytes) -> None:
        """Write beside, then rename: a crash leaves the old file or the new one.

        No fsync: a file torn by a power cut fails its hash and is made again.
        """
        self._make_room(len(data))
        temporary = path.with_name(f".{path.name}.{os.getpid()}.{os.urandom(4).hex()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
            temporary.replace(path)
        except OSError as error:
            _unlink(temporary)
            raise CacheError(f"the cache cannot keep {path.name}: {error.strerror}") from error

    def _make_room(self, size: int) -> None:
        with contextlib.suppress(OSError):
            entries = sorted(
                (
                    (status.st_mtime, status.st_size, path)
                    for path in self._folder.iterdir()
                    for status in [path.lstat()]
                ),
                key=lambda entry: entry[0],
            )
            total = size + sum(entry[1] for entry in entries)
            for _, freed, path in entries:
                if total <= self._bytes_max:
                    break
                _unlink(path)
                total -= freed


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()


def _touch(path: Path) -> None:
    with contextlib.suppress(OSError):
        os.utime(path)
