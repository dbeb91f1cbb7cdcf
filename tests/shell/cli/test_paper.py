"""A key's way to paper and back: words reach a person at a terminal, and nobody else unasked."""

from __future__ import annotations

import io
import json
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ledger.core.keys import SigningKey, peer_id
from ledger.core.words import words_from_seed
from millrace.cli.main import main

SEED = bytes(range(32))
WORDS = words_from_seed(SEED)
NAME = peer_id(SigningKey(SEED).account)
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("MILLRACE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def type_in(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))


def put_key(home: Path, seed: bytes = SEED) -> None:
    home.mkdir(mode=0o700, exist_ok=True)
    (home / "node.key").write_bytes(seed)
    (home / "node.key").chmod(0o600)


def test_words_from_standard_input_make_the_key_again(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, "\n".join(f"{place}. {word}" for place, word in enumerate(WORDS, start=1)))
    assert main(["key", "restore"]) == 0
    out, err = capsys.readouterr()
    assert out.strip() == NAME
    assert "unclaimed vouchers" in err
    assert (home / "node.key").read_bytes() == SEED
    assert (home / "node.key").stat().st_mode & 0o777 == 0o600
    type_in(monkeypatch, " ".join(WORDS))
    assert main(["key", "restore", "--json"]) == 0  # again: nothing to do, and no error
    assert json.loads(capsys.readouterr().out)["created"] is False


def test_another_key_is_never_overwritten(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = bytes(range(1, 33))
    put_key(home, other)
    type_in(monkeypatch, " ".join(WORDS))
    assert main(["key", "restore"]) == 1
    assert "another key stands here" in capsys.readouterr().err
    assert (home / "node.key").read_bytes() == other


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "these are 0 words"),
        (" ".join(WORDS[:-1]), "these are 23 words, a key has 24"),
        (
            " ".join(("abandan", *WORDS[1:])),
            "word 1, 'abandan', is not in the list of words (perhaps abandon",
        ),
        (" ".join((WORDS[1], WORDS[0], *WORDS[2:])), "changed places"),
        ("abandon " * 23 + "art", "anybody can guess"),
        ("\x1b[31m" * 100, "is not in the list"),
    ],
)
def test_words_that_are_no_key_are_told_apart(
    text: str, told: str, home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    type_in(monkeypatch, text)
    assert main(["key", "restore"]) == 2
    err = capsys.readouterr().err
    assert told in err
    assert "\x1b" not in err
    assert not (home / "node.key").exists()


@pytest.mark.parametrize("flags", [[], ["--json"], ["--no-input"]])
def test_no_terminal_no_words(flags: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_key(home)
    assert main(["key", "backup", *flags]) == 2
    out, err = capsys.readouterr()
    assert "--show" in out + err
    assert not any(word in (out + err).split() for word in WORDS if len(word) > 5)


def test_whoever_asks_by_name_gets_them(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    put_key(home)
    assert main(["key", "backup", "--show", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["words"] == list(WORDS)
    assert main(["key", "backup", "--show"]) == 0
    out = capsys.readouterr().out
    assert tuple(out.split("\n\n")[1].split()) == WORDS
    assert "not claimed yet" in out
    path = home / "account.key"
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)
    assert main(["key", "backup", "--show"]) == 0
    out = capsys.readouterr().out
    assert "They spend nothing any more" in out, (
        "the account has another key: whoever keeps these words must know"
    )


def test_without_a_key_there_is_nothing_to_back_up(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["key", "backup", "--show"]) == 1
    assert "millrace key create" in capsys.readouterr().err


class Terminal:
    """A command at a terminal of its own; `read_until` and `type` are the person in front of it."""

    def __init__(self, *args: str) -> None:
        self._end, inner = pty.openpty()
        command = [sys.executable, "-m", "millrace.cli.main", *args]
        self.process = subprocess.Popen(command, stdin=inner, stdout=inner, stderr=inner, cwd=ROOT)
        os.close(inner)
        self.seen = ""
        self._at = 0

    def read_until(self, pattern: str) -> re.Match[str]:
        while not (found := re.search(pattern, self.seen[self._at :])):
            self.seen += os.read(self._end, 65_536).decode()  # an OSError when the command ended without it
        self._at += found.end()
        return found

    def type(self, text: str) -> None:
        os.write(self._end, f"{text}\n".encode())

    def close(self) -> int:
        code = self.process.wait(timeout=20)
        os.close(self._end)
        return code


@pytest.mark.parametrize("knows", [True, False])
def test_at_a_terminal_words_are_shown_and_asked_back(home: Path, knows: bool) -> None:
    put_key(home)
    terminal = Terminal("key", "backup")
    for _ in range(1 if knows else 3):
        shown = terminal.read_until(r"(?s)\x1b\[\?1049h.*Press Enter").group()
        found = dict(re.findall(r"(\d+) ([a-z]+)", shown))
        assert [found[str(place)] for place in range(1, 25)] == list(WORDS)
        terminal.type("")
        for asked in range(3 if knows else 1):
            place = int(terminal.read_until(r"word (\d+): ").group(1))
            assert terminal.seen.rindex("\x1b[?1049l") > terminal.seen.rindex("Press Enter"), asked
            terminal.type(WORDS[place - 1] if knows else "wrong")
    terminal.read_until("that is right" if knows else "the words were not written down")
    assert terminal.close() == (0 if knows else 1)


def test_at_a_terminal_words_are_typed_line_by_line(home: Path) -> None:
    terminal = Terminal("key", "restore")
    terminal.read_until("Type the 24 words")
    for start in range(0, 24, 6):
        terminal.type(" ".join(WORDS[start : start + 6]))
    terminal.read_until(NAME)
    assert terminal.close() == 0
    assert (home / "node.key").read_bytes() == SEED
