"""The words of a key are BIP-39's: its list, its order, its checksum."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from ledger.core.wordlist import WORDS
from ledger.core.words import WORD_LETTERS_MIN, seed_from_words, words_from_seed

VECTORS = json.loads((Path(__file__).parent / "bip39" / "english.json").read_text())
LIST_SHA256 = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"
"""Of `english.txt` as published with BIP-39."""


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector["entropy"][:8])
def test_published_vector(vector: dict[str, str]) -> None:
    seed = bytes.fromhex(vector["entropy"])
    assert " ".join(words_from_seed(seed)) == vector["words"]
    assert seed_from_words(vector["words"]) == seed


def test_the_list_is_the_published_one() -> None:
    assert sha256("".join(f"{word}\n" for word in WORDS).encode()).hexdigest() == LIST_SHA256
    assert len({word[:WORD_LETTERS_MIN] for word in WORDS}) == len(WORDS)
