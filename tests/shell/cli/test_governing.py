"""Decrees, credit lines and keys on the command line, against a local API with canned answers."""

from __future__ import annotations

import io
import json
import os
import sys
import tomllib
from typing import TYPE_CHECKING, Any

import pytest

from ledger.core.entries import Rekey, decode_entry, verify_entry
from ledger.core.keys import SigningKey, peer_id
from ledger.core.words import words_from_seed
from millrace.cli.main import main
from millrace.decree import load_decree
from millrace.errors import EntryNotAccepted, JobTimeout
from millrace.paths import private_dir
from tests.shell.cli.test_answers import ENTRY, PEER, FakeNode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NODE, OTHER, RECOVERY = (SigningKey(bytes(range(number, number + 32))) for number in (1, 2, 3))
MADE = {"entry": ENTRY, "height": 9, "index": 3, "receipt": b"r"}
PARAMS = {"version": 1, "fee_min": 0, "dispute_fee": 5, "slot_timeout_ms": 1000}
NOW: dict[str, Any] = {
    "height": 40,
    "decrees": 2,
    "next": 3,
    "governors": [peer_id(NODE.account), peer_id(OTHER.account)],
    "needed": 2,
    "committee": {"epoch": 1, "witnesses": [PEER], "faults": 0, "quorum": 1, "statement": "1 witness"},
    "params": PARAMS,
    "pending": None,
}
KEYS = {
    "account": peer_id(NODE.account),
    "key": peer_id(NODE.account),
    "held": True,
    "recovery": None,
    "rekeys": 0,
    "rekeyed_ms": 0,
    "fee_min": 7,
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
        monkeypatch.delenv(name)
    home = private_dir(tmp_path / "home")
    monkeypatch.setenv("MILLRACE_HOME", str(home))
    monkeypatch.chdir(tmp_path)
    put_key(home / "node.key", NODE)
    return home


def put_key(path: Path, key: SigningKey) -> None:
    path.write_bytes(key.seed)
    path.chmod(0o600)


@pytest.fixture
def node(home: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[FakeNode]:
    found(home, capsys, "--governor", peer_id(NODE.account), "--governor", peer_id(OTHER.account))
    with FakeNode(home / "api.sock") as running:
        running.answers |= {"governance": NOW, "key": KEYS, "key.rekey": {**KEYS, **MADE}}
        running.answers |= {"decree.submit": {"decree": 3, **MADE}, "limit.change": MADE}
        running.answers["ledger.check"] = {"heads": [{"peer": PEER, "verdict": "agrees"}]}
        running.answers["limits"] = {"limit": 5_000_000, "granted": [{"peer": PEER, "amount": 1}], "held": []}
        yield running


def found(home: Path, capsys: pytest.CaptureFixture[str], *flags: str) -> dict[str, Any]:
    """Make a network and join it."""
    witness = f"{PEER}@/ip4/192.0.2.1/tcp/4710"
    assert main(["network", "create", "home", "--witness", witness, "-o", "n.toml", *flags, "--json"]) == 0
    made: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert main(["network", "join", "n.toml"]) == 0
    capsys.readouterr()
    return made


def type_in(monkeypatch: pytest.MonkeyPatch, key: SigningKey) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(" ".join(words_from_seed(key.seed))))


def test_a_network_has_governors_and_fees(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = found(
        home, capsys, "--governor", peer_id(NODE.account), "--governor", PEER, "--fee-min", "0.00001",
        "--dispute-fee", "1", "--governors-needed", "1",
    )  # fmt: skip
    assert sorted(made["governors"]) == sorted((PEER, peer_id(NODE.account)))
    assert made["governors_needed"] == 1
    assert (made["params"]["fee_min"], made["params"]["dispute_fee"]) == (10, 1_000_000)
    assert main(["network", "show"]) == 0
    assert "1 of 2 together change" in capsys.readouterr().out


@pytest.mark.parametrize(
    "bad",
    [
        ["--governor", "nobody"],
        ["--governors-needed", "1"],
        ["--governor", PEER, "--governors-needed", "2"],
        ["--governor", PEER, "--governor", PEER],
        ["--fee-min", "-1"],
        ["--fee-min", "0.0000001"],
        ["--dispute-fee", "much"],
    ],
)
def test_governors_that_cannot_be(bad: list[str], home: Path) -> None:
    witness = f"{PEER}@/ip4/192.0.2.1/tcp/4710"
    assert main(["network", "create", "home", "--witness", witness, "-o", "n.toml", *bad]) == 2


def test_most_governors_are_needed_unless_told(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = [flag for key in (NODE, OTHER, RECOVERY) for flag in ("--governor", peer_id(key.account))]
    assert found(home, capsys, *flags)["governors_needed"] == 2


def test_the_joined_network_is_shown_as_it_stands(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["network", "show"]) == 0
    out = capsys.readouterr().out
    assert "epoch 1: 1 witness" in out
    assert "2 decrees so far" in out
    node.answers["governance"] = {**NOW, "pending": {**PARAMS, "from_height": 77, "fee_min": 1}}
    assert main(["network", "show"]) == 0
    assert "from block 77 on: at least 0.000001" in capsys.readouterr().out


def test_a_decree_from_draft_to_effect(
    node: FakeNode, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decree", "limit", PEER, "--raise", "12.5"]) == 0
    caught = capsys.readouterr()
    assert "+12.500000 credits" in caught.out
    assert "0, 2 are needed" in caught.out
    path = tmp_path / "decree-3.toml"
    assert main(["decree", "limit", PEER, "--raise", "1"]) == 1, "what may hold approvals is not replaced"
    assert main(["decree", "sign", str(path)]) == 0
    assert "1 more of the governors" in capsys.readouterr().err
    put_key(home / "node.key", OTHER)
    node.answers["key"] = {**KEYS, "account": peer_id(OTHER.account), "key": peer_id(OTHER.account)}
    assert main(["decree", "sign", str(path), "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["approvals"]) == 2
    assert main(["decree", "show", str(path)]) == 0
    assert "2, 2 are needed" in capsys.readouterr().out
    assert main(["decree", "submit", str(path)]) == 0
    assert "decree 3 is final in block 9" in capsys.readouterr().out
    name, params = node.asked[-1]
    assert name == "decree.submit"
    assert tomllib.loads(params["decree"])["change"] == "12.500000"
    assert len(tomllib.loads(params["decree"])["approvals"]) == 2


def test_copies_signed_apart_are_submitted_together(
    node: FakeNode, home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, key in (("one.toml", NODE), ("two.toml", OTHER)):
        put_key(home / "node.key", key)
        node.answers["key"] = {**KEYS, "account": peer_id(key.account), "key": peer_id(key.account)}
        assert main(["decree", "rotate", "--witness", PEER, "-o", name]) == 0
        assert main(["decree", "sign", name]) == 0
    assert main(["decree", "submit", "one.toml", "two.toml"]) == 0
    assert len(tomllib.loads(node.asked[-1][1]["decree"])["approvals"]) == 2
    assert main(["decree", "limit", PEER, "--lower", "1", "-o", "three.toml"]) == 0
    capsys.readouterr()
    assert main(["decree", "submit", "one.toml", "three.toml"]) == 1
    assert "not hold one decree" in capsys.readouterr().err


def test_a_committee_that_nobody_can_reach_is_not_submitted_by_mistake(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Four witnesses with a typing error in two of them: no later decree could have mended that."""
    gone = [peer_id(SigningKey(bytes(range(number, number + 32))).account) for number in (7, 8, 9)]
    heads = [{"peer": PEER, "verdict": "behind"}, {"peer": gone[0], "verdict": "false"}]
    heads += [{"peer": name, "verdict": "no_answer"} for name in gone[1:]]
    node.answers["ledger.check"] = {"heads": heads}
    flags = [flag for name in (PEER, *gone) for flag in ("--witness", name)]
    assert main(["decree", "rotate", *flags, "-o", "r.toml"]) == 0
    assert f"nobody answers this node at {gone[1]}, {gone[2]}" in capsys.readouterr().err
    assert main(["decree", "submit", "r.toml"]) == 1
    assert "2 of the 4 witnesses answer, 3 must agree" in capsys.readouterr().err
    assert "decree.submit" not in [name for name, _ in node.asked]
    assert main(["decree", "submit", "r.toml", "--force"]) == 0
    node.answers["ledger.check"] = {"heads": heads[:3]}  # one that is away is tolerated
    assert main(["decree", "submit", "r.toml"]) == 0


def test_a_changed_decree_shows_its_approvals_as_void(
    node: FakeNode, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decree", "limit", PEER, "--raise", "5", "-o", "a.toml"]) == 0
    assert main(["decree", "sign", "a.toml"]) == 0
    assert "void" not in capsys.readouterr().out
    text = (tmp_path / "a.toml").read_text()
    (tmp_path / "a.toml").write_text(text.replace('"5.000000"', '"6.000000"'))
    assert main(["decree", "show", "a.toml"]) == 0
    assert "void, unless its account has another key now" in capsys.readouterr().out


def test_rules_that_this_program_does_not_know_are_said_to_be(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decree", "param", "--version", "2", "-o", "v.toml"]) == 0
    assert "takes no blocks" in capsys.readouterr().err


def test_parameters_not_named_stay_as_they_are(node: FakeNode) -> None:
    assert main(["decree", "param", "--fee-min", "0.5", "-o", "p.toml"]) == 0
    drafted = load_decree(home_of(node) / "p.toml").decree
    assert drafted.params.fee_min == 500_000  # type: ignore[union-attr]
    assert drafted.params.dispute_fee == 5  # type: ignore[union-attr]
    assert drafted.from_height == 140  # type: ignore[union-attr]
    node.answers["governance"] = {**NOW, "pending": {**PARAMS, "from_height": 77, "dispute_fee": 6}}
    assert main(["decree", "param", "--slot-timeout-ms", "5", "--number", "9", "-o", "q.toml"]) == 0
    drafted = load_decree(home_of(node) / "q.toml").decree
    assert (drafted.decree, drafted.params.dispute_fee) == (9, 6)  # type: ignore[union-attr]


def home_of(node: FakeNode) -> Path:
    return node.socket.parent.parent


@pytest.mark.parametrize(
    ("args", "code"),
    [
        (["decree", "limit", PEER], 2),
        (["decree", "limit", PEER, "--raise", "1", "--lower", "1"], 2),
        (["decree", "limit", PEER, "--raise", "-1"], 2),
        (["decree", "limit", "nobody", "--raise", "1"], 2),
        (["decree", "rotate"], 2),
        (["decree", "rotate", "--witness", PEER, "--witness", PEER], 2),
        (["decree", "param"], 2),
        (["decree", "param", "--slot-timeout-ms", "600001"], 2),
        (["decree", "param", "--version", "65536"], 2),
        (["decree", "show", "none.toml"], 1),
        (["decree", "submit"], 2),
        (["limit", "grant", PEER, "0", "--yes"], 2),
        (["limit", "grant", PEER, "1"], 2),
        (["limit", "revoke", "nobody", "1"], 2),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_asked(
    node: FakeNode, args: list[str], code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(args) == code
    assert not [name for name, _ in node.asked if name in {"decree.submit", "limit.change"}]
    assert "defect" not in capsys.readouterr().err


def test_who_is_no_governor_cannot_sign(
    node: FakeNode, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["decree", "limit", PEER, "--raise", "1", "-o", "d.toml"]) == 0
    put_key(home / "node.key", RECOVERY)
    node.answers["key"] = {**KEYS, "account": peer_id(RECOVERY.account), "key": peer_id(RECOVERY.account)}
    assert main(["decree", "sign", "d.toml"]) == 1
    assert "no governor" in capsys.readouterr().err


def test_without_governors_nothing_is_drafted(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found(home, capsys)
    assert main(["decree", "limit", PEER, "--raise", "1"]) == 1
    assert "without governors" in capsys.readouterr().err


def test_credit_lines_are_lent_and_taken_back(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limit", "grant", PEER, "2.5", "--yes"]) == 0
    assert node.asked[-1][1]["delta"] == 2_500_000
    assert main(["limit", "revoke", PEER, "1", "--json"]) == 0
    assert node.asked[-1][1]["delta"] == -1_000_000
    capsys.readouterr()
    assert main(["limit"]) == 0
    out = capsys.readouterr().out
    assert "limit 5.000000" in out
    assert "0.000001" in out


def test_a_recovery_key_is_registered_and_its_words_are_kept_nowhere(
    node: FakeNode, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "recovery"]) == 2
    assert "--show" in capsys.readouterr().err
    assert main(["key", "recovery", "--show", "--json"]) == 0
    words, registered = map(json.loads, capsys.readouterr().out.splitlines())
    assert (words["event"], registered["event"]) == ("words", "registered")
    entry = decode_entry(node.asked[-1][1]["entry"])
    assert isinstance(entry.action, Rekey)
    assert entry.action.new_key == NODE.account, "the spending key stays"
    assert words_from_seed(NODE.seed) != tuple(words["words"])
    assert (entry.seq, entry.fee) == (1, 7)
    assert not [path for path in home.rglob("*") if path.is_file() and b" ".join(
        word.encode() for word in words["words"]
    ) in path.read_bytes()]  # fmt: skip


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (EntryNotAccepted("refused", "why", ""), "stand for nothing"),
        (JobTimeout("late", "why", ""), "keep the words"),
    ],
)
def test_words_that_were_shown_for_nothing_are_called_so(
    node: FakeNode, error: Exception, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["key.rekey"] = error
    assert main(["key", "recovery", "--show"]) != 0
    assert told in capsys.readouterr().err


def test_rotation_needs_the_words_of_the_recovery_key(
    node: FakeNode, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["key"] = {**KEYS, "recovery": peer_id(RECOVERY.account), "rekeys": 1}
    type_in(monkeypatch, OTHER)
    assert main(["key", "rotate"]) == 2
    assert "not the words of this account's recovery key" in capsys.readouterr().err
    assert not (home / "account.key.new").exists()
    type_in(monkeypatch, RECOVERY)
    assert main(["key", "rotate"]) == 0
    entry = decode_entry(node.asked[-1][1]["entry"])
    assert isinstance(entry.action, Rekey)
    made = SigningKey((home / "account.key.new").read_bytes())  # the node renames it once the ledger has it
    assert (entry.action.new_key, entry.action.recovery) == (made.account, RECOVERY.account)
    assert (entry.seq, entry.fee, entry.account) == (2, 0, NODE.account)
    assert f"the node is still {peer_id(NODE.account)}" in capsys.readouterr().err
    # A second attempt names the same new key: the first may have arrived after all.
    type_in(monkeypatch, RECOVERY)
    assert main(["key", "rotate"]) == 0
    assert decode_entry(node.asked[-1][1]["entry"]).action.new_key == made.account  # type: ignore[union-attr]


def test_the_recovery_key_rests_an_hour(
    node: FakeNode, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    node.answers["key"] = {**KEYS, "recovery": peer_id(RECOVERY.account), "rekeyed_ms": 1 << 45}
    type_in(monkeypatch, RECOVERY)
    assert main(["key", "rotate"]) == 1
    assert "once an hour" in capsys.readouterr().err
    assert main(["key", "recovery", "--show"]) == 1
    assert "has a recovery key already" in capsys.readouterr().err


def test_without_a_recovery_key_the_present_one_names_its_successor(
    node: FakeNode, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["key", "rotate"]) == 0
    assert "millrace key recovery" in capsys.readouterr().err
    entry = decode_entry(node.asked[-1][1]["entry"])
    network_id = bytes.fromhex(tomllib.loads((home / "network.toml").read_text())["network_id"])
    assert verify_entry(entry, network_id, NODE.account)  # type: ignore[arg-type]


def test_the_status_says_what_was_decreed_and_which_key_spends(
    node: FakeNode, capsys: pytest.CaptureFixture[str]
) -> None:
    ledger = {"height": 3, "waiting": "LOCK ab, signed and kept, is not final yet: no witness answers"}
    node.answers["status"] = {**node.answers["status"], "rules": NOW, "key": KEYS, "ledger": ledger}
    assert main(["status"]) == 0
    out = capsys.readouterr().out
    assert "epoch 1, decree 2 · 2 of 2 governors decide · fees from 0.000000, 0.000005 a dispute" in out
    assert "no recovery key: millrace key recovery" in out
    assert "no witness answers" in out
    replaced = {**KEYS, "key": PEER, "held": False, "recovery": PEER}
    node.answers["status"] = {**node.answers["status"], "key": replaced}
    assert main(["status"]) == 0
    assert f"{PEER} signs for this account · it is not here" in capsys.readouterr().out
    replaced |= {"recovery": None}
    node.answers["status"] = {**node.answers["status"], "key": replaced}
    assert main(["status"]) == 0
    assert "millrace key rotate" not in capsys.readouterr().out, "nothing could take it back"
    replaced |= {"trouble": "account.key has mode 0644"}
    node.answers["status"] = {**node.answers["status"], "key": replaced}
    assert main(["status"]) == 0
    assert "account.key has mode 0644" in capsys.readouterr().out


def test_a_key_that_is_elsewhere_is_said_to_be(node: FakeNode, capsys: pytest.CaptureFixture[str]) -> None:
    node.answers["key"] = {**KEYS, "key": peer_id(OTHER.account), "held": False}
    assert main(["key", "show"]) == 0
    caught = capsys.readouterr()
    assert caught.out.strip() == peer_id(NODE.account)
    assert f"signed for by {peer_id(OTHER.account)}, not here" in caught.err
    assert main(["key", "recovery", "--show"]) == 1
    assert "is not here" in capsys.readouterr().err
