"""The network file: pinned bytes, strict reading, atomic writing."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bootstrap.genesis import (
    NetworkFile,
    NetworkFileError,
    check_bootstrap_address,
    fault_line,
    format_network,
    load_network,
    parse_network,
    save_network,
)
from ledger.core.genesis import Genesis
from ledger.core.keys import SigningKey, peer_id

if TYPE_CHECKING:
    from pathlib import Path

KEYS = [SigningKey(bytes((number,)) * 31 + b"\0") for number in range(1, 6)]


def network(witnesses: int = 4) -> NetworkFile:
    accounts = tuple(key.account for key in KEYS[:witnesses])
    genesis = Genesis("example", 1_700_000_000_000, accounts, ((KEYS[4].account, 5_000_000),))
    return NetworkFile(
        genesis, tuple(f"/ip4/192.0.2.{n}/tcp/4710/p2p/{peer_id(a)}" for n, a in enumerate(accounts, 1))
    )


EXAMPLE = bytes.fromhex(
    "02076578616d706c650000018bcfe56800000003e8000000000000000000000000000000000001"
    "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
    "0001"
    "43a72e714401762df66b68c26dfbdf2682aaec9f2474eca4613e424a0fbafd3c"
    "000000003b9aca00"
    "0000"
)
"""The genesis record of SPEC.md §8's example network."""
PINNED = """\
# A millrace network. Give this file to whoever should join: millrace network join FILE
# 1 witness, no fault tolerated: nothing settles unless it is there; a lie is noticed, not outvoted (4 tolerate one)
schema = 1
name = "example"
network_id = "f8dcbaec62b87a2daba6b860addde1a16f0181161d3689bf8c14315a70aa205c"
genesis = "AgdleGFtcGxlAAABi8/laAAAAAPoAAAAAAAAAAAAAAAAAAAAAAABiojj3XQJ8ZX9UtstPLpdcspnCb8dlBIb83SIA\
bQPb1wAAUOnLnFEAXYt9mtowm373yaCquyfJHTspGE+QkoPuv08AAAAADuaygAAAA=="
bootstrap = [
  "/ip4/192.0.2.1/tcp/4710/p2p/12D3KooWK99VoVxNE7XzyBwXEzW7xhK7Gpv85r9F3V3fyKSUKPH5",
]
"""


def test_the_file_of_the_specification() -> None:
    """SPEC.md §8's example, byte for byte."""
    genesis = Genesis.decode(EXAMPLE)
    address = f"/ip4/192.0.2.1/tcp/4710/p2p/{peer_id(genesis.witnesses[0])}"
    made = NetworkFile(genesis, (address,))
    assert format_network(made) == PINNED
    assert parse_network(PINNED) == made


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_what_is_written_is_read_back(count: int, tmp_path: Path) -> None:
    made = network(count)
    assert parse_network(format_network(made)) == made
    save_network(tmp_path / "network.toml", made)
    assert load_network(tmp_path / "network.toml") == made
    assert [file.name for file in tmp_path.iterdir()] == ["network.toml"]


def test_what_a_committee_tolerates_is_said() -> None:
    assert "no fault tolerated" in fault_line(network(1).genesis.committee)
    assert "unless 3 of them are there" in fault_line(network(3).genesis.committee)
    assert (
        fault_line(network(4).genesis.committee)
        == "4 witnesses tolerate 1 that are away or lie; 3 must agree"
    )


def altered(old: str, new: str) -> str:
    text = format_network(network())
    assert old in text
    return text.replace(old, new)


OTHER_ID = NetworkFile(Genesis("example", 1, network().genesis.witnesses, ()), ()).network_id.hex()


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "it has no 'schema'"),
        ("x", "it is not TOML"),
        (altered("schema = 1", "schema = 2"), "schema 2"),
        (altered("schema = 1", "schema = true"), "'schema' is not int"),
        (altered("schema = 1", "schema = 1\nextra = 1"), "'extra', which no network file has"),
        (altered('name = "example"', 'name = "exampel"'), "named 'exampel'"),
        (altered('name = "example"', "name = 3"), "'name' is not str"),
        (altered(network().network_id.hex(), OTHER_ID), "it was altered"),
        (altered('genesis = "', 'genesis = "AA'), "cannot be read"),
        (altered('genesis = "', 'genesis = "!'), "cannot be read"),
        (altered("/ip4/192.0.2.1/tcp/4710", "/ip4/192.0.2.1/udp/4710"), "entry point"),
        (altered("/ip4/192.0.2.1/tcp/4710", "/ip4/192.0.2.1/tcp/99999"), "entry point"),
        (altered(f"/p2p/{peer_id(KEYS[0].account)}", ""), "entry point"),
        (altered("/ip4/192.0.2.1/tcp/4710/p2p/" + peer_id(KEYS[0].account), "1"), "entry point"),
    ],
)
def test_an_altered_file_is_refused_with_its_reason(text: str, why: str) -> None:
    with pytest.raises(NetworkFileError, match="cannot be used") as caught:
        parse_network(text)
    assert why in caught.value.why
    assert caught.value.next_step


def test_an_entry_point_stands_once() -> None:
    made = network()
    with pytest.raises(NetworkFileError, match="twice"):
        parse_network(format_network(NetworkFile(made.genesis, made.bootstrap[:1] * 2)))
    with pytest.raises(NetworkFileError, match="at most"):
        parse_network(format_network(NetworkFile(made.genesis, made.bootstrap[:1] * 65)))


@given(st.binary(max_size=200) | st.text(max_size=100).map(str.encode))
def test_any_file_is_a_network_or_a_refusal(data: bytes) -> None:
    try:
        parse_network(data.decode("latin-1"))
    except NetworkFileError:
        return
    raise AssertionError("random bytes are no network")


@given(st.integers(0, 600), st.binary(min_size=1, max_size=3))
def test_a_damaged_file_is_refused_or_means_the_same(at: int, junk: bytes) -> None:
    """Damage in a comment or in white space may pass; then the network is the same."""
    good = format_network(network()).encode()
    damaged = good[: at % len(good)] + junk + good[at % len(good) + len(junk) :]
    try:
        read = parse_network(damaged.decode("latin-1"))
    except NetworkFileError:
        return
    assert read.genesis == network().genesis


def test_files_that_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(NetworkFileError, match="no network file"):
        load_network(tmp_path / "absent")
    with pytest.raises(NetworkFileError, match="cannot read"):
        load_network(tmp_path)
    (tmp_path / "long").write_bytes(b"#" * (256 * 1024 + 1))
    with pytest.raises(NetworkFileError, match="longer than"):
        load_network(tmp_path / "long")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe")
    with pytest.raises(NetworkFileError, match="UTF-8"):
        load_network(tmp_path / "bytes")
    with pytest.raises(NetworkFileError, match="cannot write"):
        save_network(tmp_path / "no" / "folder.toml", network())


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "network.toml"
    save_network(path, network(1))
    before = path.read_bytes()

    def fail(_descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(NetworkFileError, match="No space left"):
        save_network(path, network(4))
    assert path.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["network.toml"]


def test_addresses() -> None:
    address, account = check_bootstrap_address(network().bootstrap[0])
    assert (address, account) == (network().bootstrap[0], KEYS[0].account)
    for bad in (None, 3, "", "/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/1/p2p/1111", "x" * 300):
        with pytest.raises(ValueError, match=r".{10}"):
            check_bootstrap_address(bad)
