"""The demo's second job: the words of a book, counted piece by piece (guests/wordcount.c)."""

from __future__ import annotations

import lzma
import re
from collections import Counter
from importlib.resources import files
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["book", "count_directly", "merge", "pieces"]

_WORD = re.compile(rb"[a-z]+(?:'[a-z]+)*")


def book() -> bytes:
    """The bundled text (text/README.md): 4.4 MB of ASCII prose, one verse a line."""
    return lzma.decompress((files("millrace.demo") / "text" / "kjv.txt.xz").read_bytes())


def pieces(text: bytes, bytes_max: int) -> tuple[bytes, ...]:
    """`text` cut at line ends into pieces of at most `bytes_max` bytes; a longer line is an error."""
    cut: list[bytes] = []
    at = 0
    while at < len(text):
        end = len(text) if len(text) - at <= bytes_max else text.rfind(b"\n", at, at + bytes_max) + 1
        if end <= at:
            raise ValueError(f"the line at byte {at} is longer than {bytes_max} bytes")
        cut.append(text[at:end])
        at = end
    return tuple(cut)


def merge(outputs: Iterable[bytes]) -> Counter[bytes]:
    """The counts of all pieces together, from the module's lines "count word"."""
    total: Counter[bytes] = Counter()
    for output in outputs:
        for line in output.splitlines():
            count, _, word = line.partition(b" ")
            total[word] += int(count)
    return total


def count_directly(text: bytes) -> Counter[bytes]:
    """The same count by a regular expression: an answer that shares no code with the module."""
    return Counter(_WORD.findall(text.lower()))
