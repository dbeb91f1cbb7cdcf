"""The key file: what is refused, and that the refusal says what to do (RELIABILITY O10)."""

from __future__ import annotations

import errno
import os
import re
from typing import TYPE_CHECKING

import pytest

from p2p.core.errors import IdentityError
from p2p.identity import create_identity, load_identity

if TYPE_CHECKING:
    from pathlib import Path

SEED = bytes(range(32))


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "deep" / "node.key"
    create_identity(path, SEED)
    return path


def test_a_created_key_is_private_and_loads_again(key_file: Path) -> None:
    assert key_file.stat().st_mode & 0o777 == 0o600
    assert key_file.parent.stat().st_mode & 0o777 == 0o700
    key = load_identity(key_file)
    assert key.seed == SEED
    assert "0001" not in repr(key)


def test_the_umask_does_not_loosen_it(tmp_path: Path) -> None:
    old = os.umask(0)
    try:
        create_identity(tmp_path / "k", SEED)
    finally:
        os.umask(old)
    assert (tmp_path / "k").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o640, 0o604, 0o700, 0o777])
def test_a_looser_mode_is_refused(key_file: Path, mode: int) -> None:
    key_file.chmod(mode)
    with pytest.raises(IdentityError, match=rf"has mode {mode:04o}.*chmod 600 {re.escape(str(key_file))}"):
        load_identity(key_file)


def test_a_symbolic_link_is_refused(key_file: Path) -> None:
    link = key_file.with_name("link")
    link.symlink_to(key_file)
    with pytest.raises(IdentityError, match="is a symbolic link"):
        load_identity(link)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_somebody_else_is_refused(key_file: Path) -> None:
    os.chown(key_file, 12345, -1)
    with pytest.raises(IdentityError, match="belongs to user 12345"):
        load_identity(key_file)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has 0 bytes"),
        (SEED[:31], "has 31 bytes"),
        (SEED + b"\n", "more than 32 bytes"),
        (b"x" * 4096, "more than 32 bytes"),
        (bytes(32), "one byte repeated"),
    ],
)
def test_garbage_is_refused(key_file: Path, content: bytes, reason: str) -> None:
    key_file.write_bytes(content)
    with pytest.raises(IdentityError, match=reason):
        load_identity(key_file)


def test_a_folder_or_a_pipe_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in (tmp_path, tmp_path / "pipe"):
        with pytest.raises(IdentityError, match="is not a regular file"):
            load_identity(path)


def test_a_missing_file_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(IdentityError, match="there is no key file"):
        load_identity(tmp_path / "none")


def test_a_key_is_never_overwritten(key_file: Path) -> None:
    with pytest.raises(IdentityError, match="never overwritten"):
        create_identity(key_file, bytes(reversed(SEED)))
    assert load_identity(key_file).seed == SEED


def test_a_full_disk_leaves_nothing_that_keeps_the_next_attempt_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty key file stood there, and was called damaged ever after."""
    path = tmp_path / "new.key"

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(IdentityError, match="No space left"):
            create_identity(path, SEED)
    assert create_identity(path, SEED).account == load_identity(path).account


def test_nor_through_a_dangling_link(tmp_path: Path) -> None:
    (tmp_path / "k").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(IdentityError):
        create_identity(tmp_path / "k", SEED)
    assert not (tmp_path / "elsewhere").exists()


def test_no_message_holds_a_secret(key_file: Path) -> None:
    key_file.write_bytes(b"SECRETSECRET")
    with pytest.raises(IdentityError) as caught:
        load_identity(key_file)
    assert "SECRET" not in str(caught.value)
