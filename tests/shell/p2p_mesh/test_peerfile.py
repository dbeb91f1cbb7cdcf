"""The peer file: after a fault at any write there is the old book or the new one (SPEC.md §11.5)."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from ledger.core.encoding import NetworkId
from ledger.core.keys import SigningKey, peer_id
from p2p.core.peers import PeerBook, Trust
from p2p.peerfile import PEER_FILE, load_peers, save_peers

if TYPE_CHECKING:
    from pathlib import Path

NETWORK = NetworkId(bytes(range(32)))
ME = SigningKey(bytes(32)).account
OTHER = SigningKey(bytes(31) + b"\x01").account


def book(*ports: int) -> bytes:
    made = PeerBook(ME)
    made.learn(
        OTHER, [f"/ip4/127.0.0.1/tcp/{port}/p2p/{peer_id(OTHER)}" for port in ports], Trust.OWN_WORD, 1
    )
    return made.to_bytes(NETWORK)


def loaded(folder: Path) -> bytes:
    return load_peers(folder, ME, NETWORK).to_bytes(NETWORK)


def test_saved_and_loaded(tmp_path: Path) -> None:
    assert len(load_peers(tmp_path, ME, NETWORK)) == 0
    save_peers(tmp_path, book(1))
    save_peers(tmp_path, book(2))
    assert loaded(tmp_path) == book(2)
    assert [path.name for path in tmp_path.iterdir()] == [PEER_FILE]
    assert (tmp_path / PEER_FILE).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(("call", "after"), [("open", 1), ("fsync", 1), ("fsync", 2), ("replace", 1)])
@pytest.mark.parametrize("done", [False, True], ids=["and-not-done", "but-done"])
def test_a_fault_at_each_write_leaves_a_whole_book(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int, done: bool
) -> None:
    save_peers(tmp_path, book(1))
    real = getattr(os, call)
    left = after

    def failing(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not done:
            raise OSError(28, "no space")
        result = real(*args, **kwargs)
        if left == 0:
            if call == "open":
                os.close(result)
            raise OSError(5, "input/output error")
        return result

    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing)
        with pytest.raises(OSError, match=r"no space|input/output"):
            save_peers(tmp_path, book(2))
    assert loaded(tmp_path) in (book(1), book(2))
    save_peers(tmp_path, book(3))
    assert loaded(tmp_path) == book(3)


def test_a_file_of_another_network_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save_peers(tmp_path, book(1))
    assert len(load_peers(tmp_path, ME, NetworkId(bytes(32)))) == 0
    assert "of another network" in caplog.text
    assert not (tmp_path / PEER_FILE).exists()


def test_no_link_is_followed_when_writing(tmp_path: Path) -> None:
    target = tmp_path / "precious"
    target.write_text("mine")
    (tmp_path / "peers.new").symlink_to(target)
    with pytest.raises(OSError, match=r"symbolic|loop|level"):
        save_peers(tmp_path, book(1))
    assert target.read_text() == "mine"
