"""Keys on paper: 24 words from this terminal to a person's paper, and back.

Words are a key. They are shown on a real terminal, on a screen of its own that is gone afterwards, and never reach a
log, a file or a pipe unless somebody asks for that by name.
"""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING, Final

import click

from ledger.core.words import WORDS_PER_SEED, WordsError, seed_from_words, words_from_seed
from millrace.cli.frame import clean, refuse
from millrace.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from millrace.cli.frame import Session

__all__ = ["SHOW_FLAG", "hand_over", "numbered", "read_seed"]

SHOW_FLAG: Final = "--show"
TEXT_CHARS_MAX: Final = 4_096
"""What is read of standard input: 24 words with numbers and line breaks, many times over."""
ASKED_BACK: Final = 3
ATTEMPTS_MAX: Final = 3
COLUMNS: Final = 4
_OWN_SCREEN: Final = "\x1b[?1049h\x1b[H\x1b[2J"
_SCREEN_BEFORE: Final = "\x1b[2J\x1b[?1049l"


def hand_over(session: Session, seed: bytes, heading: str, notes: Sequence[str], *, show: bool) -> None:
    """Give the words of `seed` to the person at this terminal, and ask some back.

    With `show`, they go to standard output as they are. Without it, whoever is no person at a terminal is refused
    before a word is said.
    """
    words = words_from_seed(seed)
    if show:
        session.answer(
            {"event": "words", "words": list(words), "notes": list(notes)}, "\n".join((*notes, "", *words))
        )
        return
    if session.json or session.no_input or not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise UsageError(
            "the words are shown on a terminal only",
            "whoever reads them holds the key: in a pipe, a file or a log they lie about",
            f"type this at a terminal, or add {SHOW_FLAG} where you know who reads along",
        )
    chooser = random.SystemRandom()
    for _ in range(ATTEMPTS_MAX):
        _show(words, heading, notes)
        places = sorted(chooser.sample(range(WORDS_PER_SEED), ASKED_BACK))
        if all(_is_known(words, place) for place in places):
            session.say(
                "that is right: keep the paper where nobody else reads it, and not beside this machine"
            )
            return
        session.say("that is another word than the one shown; here they are again")
    refuse(
        "the words were not written down",
        f"{ATTEMPTS_MAX} times a word was typed that was not the one shown",
        "do it again with time: nothing has changed",
    )


def read_seed(session: Session, what: str) -> bytes:
    """The seed behind the words that a person types or standard input holds; `UsageError` if they are no key."""
    try:
        seed = seed_from_words(_read_text(session, what))
    except WordsError as error:
        raise UsageError(f"these words are no key: {clean(error)}", "", _advice(error)) from error
    if len(set(seed)) == 1:  # no key file may hold it either
        raise UsageError("these words are no key: anybody can guess them", "they stand in examples", "")
    return seed


def numbered(words: Sequence[str]) -> str:
    """The words in columns, each with its number, to be read downwards."""
    rows = -(-len(words) // COLUMNS)
    width = max(map(len, words)) + 2
    return "\n".join(
        "  "
        + "".join(
            f"{place + 1:>2} {words[place]:<{width}}" for place in range(row, len(words), rows)
        ).rstrip()
        for row in range(rows)
    )


def _show(words: Sequence[str], heading: str, notes: Sequence[str]) -> None:
    """On the terminal's second screen, which keeps no history, until Enter is pressed."""
    click.echo(_OWN_SCREEN, nl=False)
    try:
        click.echo("\n".join((heading, "", numbered(words), "", *notes, "")))
        click.prompt("Press Enter when they are on paper", default="", show_default=False, err=True)
    finally:
        click.echo(_SCREEN_BEFORE, nl=False)


def _is_known(words: Sequence[str], place: int) -> bool:
    typed: str = click.prompt(f"word {place + 1}", err=True)
    return typed.strip().lower() == words[place]


def _read_text(session: Session, what: str) -> str:
    if not sys.stdin.isatty():
        return sys.stdin.read(TEXT_CHARS_MAX)
    if session.no_input:
        raise UsageError(
            f"{what} are needed", "they come from standard input, and nobody may be asked", "drop --no-input"
        )
    session.say(f"Type {what}; an empty line ends them.")
    lines: list[str] = []
    while sum(len(line.split()) for line in lines) < WORDS_PER_SEED:
        line = sys.stdin.readline(TEXT_CHARS_MAX)
        if not line.strip():
            break
        lines.append(line)
    return " ".join(lines)


def _advice(error: WordsError) -> str:
    if error.nearest:
        return f"is word {error.place} perhaps {' or '.join(error.nearest)}? type all of them again"
    return "compare them with the paper, one by one, and type all of them again"
