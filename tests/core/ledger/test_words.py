"""24 words for a key: what is typed wrong is named, and nothing but the words of a key is one."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.wordlist import WORDS
from ledger.core.words import WordsError, seed_from_words, words_from_seed
from tests.core.ledger.example_network import ALICE

SEED = bytes(range(32))
PAPER = words_from_seed(SEED)


@given(st.binary(min_size=32, max_size=32))
def test_every_seed_comes_back(seed: bytes) -> None:
    words = words_from_seed(seed)
    assert seed_from_words(" ".join(words)) == seed
    assert seed_from_words(" ".join(word[:4] for word in words)) == seed


def test_as_people_write_it() -> None:
    numbered = "\n".join(f"{place}. {word.upper()}" for place, word in enumerate(PAPER, start=1))
    assert seed_from_words(numbered) == SEED
    assert seed_from_words("  " + "\t\n".join(PAPER) + "\n") == SEED


def test_an_unknown_word_is_named_with_the_nearest() -> None:
    words = list(PAPER)
    words[6] = words[6][:-1] + ("q" if words[6][-1] != "q" else "z")
    with pytest.raises(WordsError, match="word 7, ") as caught:
        seed_from_words(" ".join(words))
    assert caught.value.place == 7
    assert PAPER[6] in caught.value.nearest
    assert PAPER[6] in str(caught.value)


def test_gibberish_has_no_nearest_word() -> None:
    with pytest.raises(WordsError, match=r"word 1, 'x{20}', is not in the list of words$") as caught:
        seed_from_words("x" * 100_000)
    assert caught.value.nearest == ()


@pytest.mark.parametrize("count", [0, 1, 12, 23, 25, 48])
def test_a_wrong_count_is_told(count: int) -> None:
    with pytest.raises(WordsError, match=f"these are {count} words, a key has 24"):
        seed_from_words(" ".join((PAPER * 2)[:count]))


def test_a_wrong_word_of_the_list_is_found_in_all_but_one_of_256() -> None:
    rng = random.Random(1)
    missed = 0
    for _ in range(500):
        words = list(PAPER)
        words[rng.randrange(24)] = rng.choice(WORDS)
        with contextlib.suppress(WordsError):
            missed += seed_from_words(" ".join(words)) != SEED
    assert missed < 12


@given(st.text(max_size=400))
def test_any_text_is_a_seed_or_an_error(text: str) -> None:
    with contextlib.suppress(WordsError):
        assert len(seed_from_words(text)) == 32


def test_exchanged_words_are_told_apart_from_unknown_ones() -> None:
    exchanged = (PAPER[1], PAPER[0], *PAPER[2:])
    with pytest.raises(WordsError, match="two changed places") as caught:
        seed_from_words(" ".join(exchanged))
    assert caught.value.place == 0


def test_the_specification_shows_the_words_of_its_example() -> None:
    specification = (Path(__file__).parents[3] / "SPEC.md").read_text()
    assert "\n" + " ".join(words_from_seed(ALICE.seed)) + "\n" in specification


def test_a_seed_has_32_bytes() -> None:
    with pytest.raises(ValueError, match="32 bytes, not 16"):
        words_from_seed(bytes(16))
