"""A decree on its way between governors: what is signed is what is read, and any other text is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.encoding import NetworkId
from ledger.core.entries import NO_APPROVALS, Decree, Limit, Param, Rotate
from ledger.core.genesis import Genesis
from ledger.core.keys import SigningKey, peer_id
from ledger.core.params import Params
from millrace.decree import (
    DECREE_FILE_BYTES_MAX,
    DecreeError,
    DecreeFile,
    format_decree,
    load_decree,
    parse_decree,
    save_decree,
)
from tests.core.ledger.example_network import ALICE, BOB, examples

NETWORK = NetworkId(b"n" * 32)
ONE, TWO, THREE = (SigningKey(bytes([number]) * 32) for number in (1, 2, 3))
LIMIT = Limit(THREE.account, -2_500_000, 7)
DECREES: list[Decree] = [
    LIMIT,
    Limit(THREE.account, 1, 1),
    Rotate(2, (ONE.account, THREE.account, TWO.account), NO_APPROVALS),
    Param(3, 1_000, Params(2, 10, 1_000_000, 500), NO_APPROVALS),
]


def draft(decree: Decree = LIMIT) -> DecreeFile:
    return DecreeFile('home "net"', NETWORK, decree, {})


@pytest.mark.parametrize("decree", DECREES, ids=lambda decree: type(decree).__name__)
def test_what_is_written_is_read(tmp_path: Path, decree: Decree) -> None:
    file = draft(decree).signed_by(ONE.account, ONE).signed_by(TWO.account, TWO)
    assert parse_decree(format_decree(file)) == file
    save_decree(tmp_path / "decree.toml", file)
    assert load_decree(tmp_path / "decree.toml") == file
    assert file.is_signed_by(ONE.account, ONE.account)
    assert not file.is_signed_by(ONE.account, TWO.account)
    assert not file.is_signed_by(THREE.account, THREE.account)


def test_the_specification_shows_a_draft_as_it_is_written() -> None:
    genesis = Genesis.decode(bytes.fromhex(examples()["genesis"]))
    limit = Limit(BOB.account, 50_000_000, 1)
    file = DecreeFile(genesis.name, genesis.network_id, limit, {}).signed_by(ALICE.account, ALICE)
    assert format_decree(file) in (Path(__file__).parents[3] / "SPEC.md").read_text()


def test_every_word_of_a_decree_is_under_its_signatures() -> None:
    text = format_decree(draft().signed_by(ONE.account, ONE))
    for before, after in (
        ("decree = 7", "decree = 8"),
        ("-2.500000", "-2.500001"),
        (peer_id(THREE.account), peer_id(TWO.account)),
        (NETWORK.hex(), NetworkId(b"m" * 32).hex()),
    ):
        assert before in text
        assert not parse_decree(text.replace(before, after)).is_signed_by(ONE.account, ONE.account)


def test_copies_of_one_decree_are_joined_and_others_not() -> None:
    one, two = draft().signed_by(ONE.account, ONE), draft().signed_by(TWO.account, TWO)
    assert set(one.joined(two).signatures) == {ONE.account, TWO.account}
    with pytest.raises(DecreeError, match="not hold one decree"):
        one.joined(draft(DECREES[1]))


GOOD = format_decree(draft().signed_by(ONE.account, ONE))


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ("schema = 1", "schema = 2", "schema 2"),
        ("schema = 1", "schema = true", "'schema' is not int"),
        ('kind = "limit"', 'kind = "coup"', "kind is 'coup'"),
        ('kind = "limit"', 'kind = "rotate"', "no 'witnesses'"),
        ("decree = 7", "decree = 0", "from 1 on"),
        ("decree = 7", "", "no 'decree'"),
        ("-2.500000", "-2.5000001", "not an amount"),
        ("-2.500000", "0", "changes nothing"),
        ("-2.500000", "1e99", "not an amount"),
        ("[approvals]", "more = 1\n[approvals]", "'more'"),
        ('= "', "= ", "Invalid value|Expected|Unescaped"),
        (peer_id(THREE.account), "12D3Koo", "not the peer id"),
        (NETWORK.hex(), "00", "64 hex"),
        (NETWORK.hex(), "zz" * 32, "hexadecimal"),
    ],
)
def test_any_other_text_is_refused(before: str, after: str, why: str) -> None:
    assert before in GOOD
    with pytest.raises(DecreeError, match=why):
        parse_decree(GOOD.replace(before, after, 1))


@pytest.mark.parametrize("approval", ["", "AAAA", "!", "A" * 85])
def test_an_approval_is_a_signature_in_base64(approval: str) -> None:
    text = format_decree(draft()) + f'"{peer_id(ONE.account)}" = "{approval}"\n'
    with pytest.raises(DecreeError, match="approval"):
        parse_decree(text)


@given(st.text(max_size=300))
def test_no_text_breaks_the_reader(text: str) -> None:
    with pytest.raises(DecreeError):
        parse_decree(text)


def test_no_file_breaks_the_reader(tmp_path: Path) -> None:
    path = tmp_path / "decree.toml"
    for data in (b"\xff", b"a = " + b"[" * 60_000, b"#" * (DECREE_FILE_BYTES_MAX + 1), b""):
        path.write_bytes(data)
        with pytest.raises(DecreeError):
            load_decree(path)
    for missing in (tmp_path / "none", tmp_path):
        with pytest.raises(DecreeError, match="cannot read"):
            load_decree(missing)
    with pytest.raises(DecreeError, match="cannot write"):
        save_decree(tmp_path / "none" / "decree.toml", draft())
