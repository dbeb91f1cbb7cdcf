"""The key files of a node, cut off at any step of a replacement."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ledger.core.keys import SEED_BYTES, SigningKey
from millrace.keyring import load_keyring, make_next, settle_files
from millrace.paths import find_paths, private_dir
from p2p.core.errors import IdentityError
from p2p.identity import create_identity

if TYPE_CHECKING:
    from pathlib import Path

    from millrace.paths import Paths

FIRST, SECOND, THIRD = (bytes(range(number, number + SEED_BYTES)) for number in (1, 2, 3))


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    found = find_paths({"MILLRACE_HOME": str(private_dir(tmp_path / "home"))})
    create_identity(found.key, FIRST)
    return found


@pytest.mark.parametrize("written", [0, 1, SEED_BYTES - 1])
def test_a_next_key_that_was_cut_short_is_made_again(paths: Paths, written: int) -> None:
    """The process was killed while it wrote it, before the ledger heard of it: the node starts, and it is made anew."""
    paths.next_key.write_bytes(SECOND[:written])
    paths.next_key.chmod(0o600)
    keyring = load_keyring(paths)
    assert keyring.keys == (keyring.identity,)
    settle_files(paths, SigningKey(SECOND).account)
    assert make_next(paths, THIRD).account == SigningKey(THIRD).account
    assert load_keyring(paths).next is not None
    assert make_next(paths, SECOND).account == SigningKey(THIRD).account, "a whole one is used again"


def test_a_next_key_that_is_anything_else_is_refused(paths: Paths) -> None:
    paths.next_key.write_bytes(SECOND + b"x")
    paths.next_key.chmod(0o600)
    with pytest.raises(IdentityError):
        load_keyring(paths)
    paths.next_key.write_bytes(SECOND)
    paths.next_key.chmod(0o644)
    with pytest.raises(IdentityError):
        make_next(paths, THIRD)
