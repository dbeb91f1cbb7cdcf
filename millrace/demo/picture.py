"""The demo's first job: one picture, rendered tile by tile (guests/render.c)."""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Picture", "Tile"]


@dataclass(frozen=True, slots=True)
class Tile:
    """A rectangle of the picture, in pixels from its top left corner."""

    x: int
    y: int
    columns: int
    rows: int


@dataclass(frozen=True, slots=True)
class Picture:
    """What is rendered: the size in pixels, tiles per side and rays per pixel and axis."""

    width: int = 1280
    height: int = 720
    tiles_across: int = 8
    tiles_down: int = 8
    samples: int = 2

    def tiles(self) -> tuple[Tile, ...]:
        """The tiles, row by row; together they cover each pixel once."""
        return tuple(self._tiles())

    def _tiles(self) -> Iterator[Tile]:
        xs = [self.width * i // self.tiles_across for i in range(self.tiles_across + 1)]
        ys = [self.height * i // self.tiles_down for i in range(self.tiles_down + 1)]
        for top, bottom in itertools.pairwise(ys):
            for left, right in itertools.pairwise(xs):
                yield Tile(left, top, right - left, bottom - top)

    def arguments(self, tile: Tile) -> tuple[str, ...]:
        """What the render module is called with for one tile."""
        numbers = (self.width, self.height, tile.x, tile.y, tile.columns, tile.rows, self.samples)
        return tuple(map(str, numbers))

    def png(self, tiles: Sequence[bytes]) -> bytes:
        """The picture as a PNG file (RFC 2083) from the modules' outputs, in the order of `tiles()`."""
        pixels = bytearray(self.width * self.height * 3)
        for tile, output in zip(self.tiles(), tiles, strict=True):
            if len(output) != tile.columns * tile.rows * 3:
                raise ValueError(
                    f"tile at {tile.x},{tile.y} has {len(output)} bytes, {tile.columns * tile.rows * 3} expected"
                )
            for row in range(tile.rows):
                at = ((tile.y + row) * self.width + tile.x) * 3
                size = tile.columns * 3
                pixels[at : at + size] = output[row * size : (row + 1) * size]
        stride = self.width * 3
        # each row starts with its filter type; 0 is "none"
        rows = b"".join(b"\0" + pixels[at : at + stride] for at in range(0, len(pixels), stride))
        header = struct.pack(">IIBBBBB", self.width, self.height, 8, 2, 0, 0, 0)
        chunks = (_chunk(b"IHDR", header), _chunk(b"IDAT", zlib.compress(rows, 9)), _chunk(b"IEND", b""))
        return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
