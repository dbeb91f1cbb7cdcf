"""The demo's two jobs, apart from any network."""

from __future__ import annotations

import hashlib
import struct
import zlib
from collections import Counter
from importlib.resources import files

import pytest

from millrace.demo import words
from millrace.demo.picture import Picture


def test_tiles_cover_each_pixel_once() -> None:
    picture = Picture(width=101, height=53, tiles_across=8, tiles_down=7)
    seen = Counter(
        (x, y)
        for tile in picture.tiles()
        for x in range(tile.x, tile.x + tile.columns)
        for y in range(tile.y, tile.y + tile.rows)
    )
    assert len(seen) == 101 * 53
    assert set(seen.values()) == {1}


def test_png_holds_the_pixels() -> None:
    picture = Picture(width=4, height=2, tiles_across=2, tiles_down=1)
    png = picture.png([bytes(range(12)), bytes(range(100, 112))])
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (4, 2)
    size = int.from_bytes(png[33:37], "big")
    rows = zlib.decompress(png[41 : 41 + size])
    first = b"\0" + bytes(range(6)) + bytes(range(100, 106))
    second = b"\0" + bytes(range(6, 12)) + bytes(range(106, 112))
    assert rows == first + second


def test_png_refuses_a_short_tile() -> None:
    with pytest.raises(ValueError, match="12 expected"):
        Picture(width=4, height=2, tiles_across=2, tiles_down=1).png([b"123", bytes(12)])


def test_pieces_are_whole_lines_of_the_whole_text() -> None:
    text = words.book()
    pieces = words.pieces(text, 128 << 10)
    assert b"".join(pieces) == text
    assert len(text) > 1 << 20
    assert all(piece.endswith(b"\n") and len(piece) <= 128 << 10 for piece in pieces)


def test_a_line_that_fits_no_piece_is_an_error() -> None:
    with pytest.raises(ValueError, match="longer than 4"):
        words.pieces(b"ab\nabcdef\n", 4)


def test_merge_adds_up() -> None:
    assert words.merge([b"2 a\n1 b\n", b"3 a\n"]) == {b"a": 5, b"b": 1}


def test_committed_modules_are_the_ones_listed() -> None:
    """`make guests` checks that the sources give these bytes; this checks that the bytes are still there."""
    guests = files("millrace.demo") / "guests"
    listed = dict(line.split()[::-1] for line in (guests / "SHA256SUMS").read_text().splitlines())
    assert set(listed) == {"render.wasm", "wordcount.wasm"}
    for name, sha256 in listed.items():
        assert hashlib.sha256((guests / name).read_bytes()).hexdigest() == sha256
