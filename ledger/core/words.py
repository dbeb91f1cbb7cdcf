"""A key as 24 words on paper: BIP-39's words and checksum for the 32 bytes of its seed (SPEC.md §2).

The words are the seed itself, not a passphrase from which one is derived: BIP-39's key stretching and the key trees
that Bitcoin wallets build on it are not used, so such a wallet finds other keys behind the same words.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from hashlib import sha256
from typing import Final

from ledger.core.keys import SEED_BYTES
from ledger.core.wordlist import WORDS

__all__ = ["WORDS_PER_SEED", "WORD_LETTERS_MIN", "WordsError", "seed_from_words", "words_from_seed"]

WORDS_PER_SEED: Final = 24
WORD_LETTERS_MIN: Final = 4
"""As many letters name a word: some write down no more."""
_WORD_BITS: Final = 11
_CHECK_BITS: Final = 8
_TOKEN_CHARS_SHOWN: Final = 20
_NUMBERING: Final = re.compile(r"\d+[.):]?")
_PLACES: Final = {word: place for place, word in enumerate(WORDS)}
_PLACES.update({word[:WORD_LETTERS_MIN]: place for place, word in enumerate(WORDS)})


class WordsError(ValueError):
    """The words are no key. `place` counts from 1 and is 0 where no single word is to blame; `nearest` may be empty."""

    def __init__(self, text: str, place: int = 0, nearest: tuple[str, ...] = ()) -> None:
        super().__init__(text)
        self.place = place
        self.nearest = nearest


def words_from_seed(seed: bytes) -> tuple[str, ...]:
    """The 24 words of a 32-byte seed: 256 bits and the first 8 of their SHA-256, 11 to a word."""
    if len(seed) != SEED_BYTES:
        raise ValueError(f"a key seed has {SEED_BYTES} bytes, not {len(seed)}")
    bits = int.from_bytes(seed + sha256(seed).digest()[:1], "big")
    shifts = range(_WORD_BITS * (WORDS_PER_SEED - 1), -1, -_WORD_BITS)
    return tuple(WORDS[(bits >> shift) % len(WORDS)] for shift in shifts)


def seed_from_words(text: str) -> bytes:
    """The seed behind 24 words; `WordsError` says which word is wrong, as far as that can be known.

    Case, line breaks and numbers before words ("1. abandon") do not matter; a word's first four letters stand for it.
    """
    tokens = [token for token in text.lower().split() if not _NUMBERING.fullmatch(token)]
    for place, token in enumerate(tokens, start=1):
        if token not in _PLACES:
            nearest = tuple(get_close_matches(token[:_TOKEN_CHARS_SHOWN], WORDS, n=3, cutoff=0.6))
            hint = f" (perhaps {' or '.join(nearest)})" if nearest else ""
            raise WordsError(
                f"word {place}, {token[:_TOKEN_CHARS_SHOWN]!r}, is not in the list of words{hint}",
                place,
                nearest,
            )
    if len(tokens) != WORDS_PER_SEED:
        raise WordsError(f"these are {len(tokens)} words, a key has {WORDS_PER_SEED}")
    bits = 0
    for token in tokens:
        bits = bits << _WORD_BITS | _PLACES[token]
    seed = (bits >> _CHECK_BITS).to_bytes(SEED_BYTES, "big")
    if sha256(seed).digest()[0] != bits % (1 << _CHECK_BITS):
        raise WordsError(
            "each of the 24 is in the list of words, but together they are no key: one of them is another word, or two "
            "changed places"
        )
    return seed
