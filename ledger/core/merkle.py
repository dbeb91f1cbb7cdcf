"""The log's Merkle tree, exactly RFC 6962 §2.1 (SPEC.md §5).

`MerkleLog` keeps the nodes and proves; `Peaks` keeps the O(log n) roots of the complete subtrees
and only extends, which is all that proposing or checking a block needs. Both give the same root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

__all__ = [
    "EMPTY_ROOT",
    "NODE_BYTES",
    "PROOF_NODES_MAX",
    "TILE_LEAVES",
    "Fetch",
    "Growth",
    "MerkleLog",
    "Peaks",
    "leaf_hash",
    "verify_consistency",
    "verify_inclusion",
]

NODE_BYTES: Final = 32
PROOF_NODES_MAX: Final = 64
"""No proof in a tree of fewer than 2^63 leaves is longer."""
TILE_LEVEL: Final = 8
TILE_LEAVES: Final = 1 << TILE_LEVEL
"""Memory per leaf against work per proof: a proof reads this many entries at most."""
Fetch: TypeAlias = Callable[[int, int], Sequence[bytes]]
"""(low, high) -> the leaf hashes of leaves low to high - 1."""
EMPTY_ROOT: Final = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """SHA-256(00 ‖ leaf): the prefix keeps a leaf from passing for a node (second preimage)."""
    return hashlib.sha256(b"\0" + leaf).digest()


def _node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def _fold(peaks: Sequence[bytes]) -> bytes:
    """The root over complete subtrees, largest first."""
    if not peaks:
        return EMPTY_ROOT
    root = peaks[-1]
    for peak in reversed(peaks[:-1]):
        root = _node(peak, root)
    return root


@dataclass(frozen=True, slots=True)
class Peaks:
    """A log's size and the roots of its complete subtrees, largest first: one per bit set in `size`."""

    size: int = 0
    nodes: tuple[bytes, ...] = ()

    def extend(self, leaves: Iterable[bytes]) -> Peaks:
        """The peaks after `leaves` (whole entries, not hashes) are appended; `self` stays as it is."""
        return self.grow(leaves).peaks

    def grow(self, leaves: Iterable[bytes]) -> Growth:
        """What appending `leaves` (whole entries) makes: the peaks after them, and all that a `MerkleLog` keeps."""
        sha256 = hashlib.sha256
        row = [sha256(b"\0" + leaf).digest() for leaf in leaves]
        hashes, count = b"".join(row), len(row)
        peaks = list(self.nodes)  # as `pop` needs them: the smallest is the last
        grown: list[bytes] = []  # the peaks after, smallest first
        rows: list[bytes] = []
        size, level = self.size, 0
        while row or size:
            # `row` are the new complete subtrees of this level; an old one that stood alone begins the first pair.
            if level >= TILE_LEVEL and row:
                rows.append(b"".join(row))
            if size & 1:
                row.insert(0, peaks.pop())
            if len(row) & 1:
                grown.append(row.pop())
            row = [
                sha256(b"\1" + left + right).digest() for left, right in zip(row[::2], row[1::2], strict=True)
            ]
            size >>= 1
            level += 1
        return Growth(self.size, hashes, tuple(rows), Peaks(self.size + count, tuple(reversed(grown))))

    def root(self) -> bytes:
        """The Merkle tree hash of the log."""
        return _fold(self.nodes)


@dataclass(frozen=True, slots=True)
class Growth:
    """What appending some leaves to a log of `before` leaves makes; `MerkleLog.take` needs to hash nothing again."""

    before: int
    leaves: bytes
    """The leaf hashes, back to back."""
    rows: tuple[bytes, ...]
    """From the tiles' level up, the roots of the subtrees that these leaves complete, back to back."""
    peaks: Peaks


class MerkleLog:
    """An append-only log's tree: the roots of its tiles and every node above them, and the leaf hashes.

    A tile is the complete subtree over TILE_LEAVES leaves. Leaf hashes, half of all nodes, are what costs memory;
    whoever has the entries on disk has them forgotten (`forget_leaves`), and 32 bytes per leaf become a fourth of
    one. Nodes below the tile's root are made from its leaves when a proof needs them.
    """

    __slots__ = (
        "_base",
        "_base_nodes",
        "_fetch",
        "_fetched",
        "_kept",
        "_leaves",
        "_levels",
        "_peaks",
        "_size",
    )

    def __init__(self, leaves: Iterable[bytes] = (), *, base: Peaks | None = None) -> None:
        """A log of `leaves` (whole entries); with `base`, one whose beginning is known by its peaks alone."""
        base = base or Peaks()
        self._base = base.size
        self._base_nodes = dict(zip(_peak_places(base.size), base.nodes, strict=True))
        self._size = self._kept = base.size
        self._peaks = list(base.nodes)
        # _levels[k] holds the roots of complete subtrees of TILE_LEAVES * 2^k leaves that end behind the base.
        self._levels: list[bytearray] = []
        # The leaf hashes from leaf _kept on; those before are asked for.
        self._leaves = bytearray()
        self._fetch: Fetch | None = None
        self._fetched: tuple[int, bytes] = (-1, b"")
        for leaf in leaves:
            self.append(leaf)

    @staticmethod
    def restore(base: Peaks, tiles: Iterable[bytes], fetch: Fetch) -> MerkleLog:
        """The log whose tiles behind `base`, the one that holds the base's end included, have these roots."""
        log = MerkleLog(base=base)
        log._fetch = fetch
        for root in tiles:
            if log._size % TILE_LEAVES:
                # The base ends in this tile: its peaks below the tile's root are part of that root now.
                log._size -= log._size % TILE_LEAVES
                log._peaks = log._peaks[: log._size.bit_count()]
            log._add(root, TILE_LEVEL)
        log._kept = log._size
        return log

    @property
    def size(self) -> int:
        """How many leaves the log has."""
        return self._size

    @property
    def tiles(self) -> int:
        """How many complete tiles the log has, those before its base included."""
        return self._size // TILE_LEAVES

    def tile_root(self, number: int) -> bytes:
        """The root of a complete tile; `IndexError` if it ended before the base."""
        return self._subtree(TILE_LEVEL, number)

    def append(self, leaf: bytes) -> int:
        """Add `leaf` (a whole entry, not its hash); its index."""
        return self.append_hash(leaf_hash(leaf))

    def append_hash(self, node: bytes) -> int:
        """Add a leaf of which only `leaf_hash(leaf)` is at hand; its index."""
        index = self._size
        self._leaves += node
        self._add(node, 0)
        return index

    def take(self, growth: Growth) -> None:
        """Append what `peaks().grow(…)`, or `grow` of peaks that it led to, has hashed; `ValueError` anywhere else."""
        if growth.before != self._size:
            raise ValueError(f"leaves for a log of {growth.before} do not fit one of {self._size}")
        self._leaves += growth.leaves
        for level, row in enumerate(growth.rows):
            if level == len(self._levels):
                self._levels.append(bytearray())
            self._levels[level] += row
        self._size, self._peaks = growth.peaks.size, list(growth.peaks.nodes)

    def forget_leaves(self, below: int, fetch: Fetch) -> None:
        """Drop the leaf hashes of complete tiles below leaf `below`; `fetch(low, high)` gives them from now on."""
        self._fetch = fetch
        keep_from = min(below, self._size) // TILE_LEAVES * TILE_LEAVES
        if keep_from > self._kept:
            del self._leaves[: (keep_from - self._kept) * NODE_BYTES]
            self._kept = keep_from

    def peaks(self, size: int | None = None) -> Peaks:
        """The peaks of the whole log, or of its first `size` leaves, to extend without touching it."""
        if size in {None, self._size}:
            return Peaks(self._size, tuple(self._peaks))
        size = self._checked(size)
        return Peaks(size, tuple(self._nodes(0, size)))

    def root(self, size: int | None = None) -> bytes:
        """The Merkle tree hash of the first `size` leaves (all, unless told); `IndexError` beyond the log."""
        return _fold(self._peaks) if size in {None, self._size} else self._range(0, self._checked(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The path from leaf `index` to the root at `size` (RFC 6962 §2.1.1), the leaf's sibling first.

        `IndexError` for a leaf that is not in the log, or is before its base.
        """
        size = self._checked(size)
        if not self._base <= index < size:
            raise IndexError(f"leaf {index} is not in a log of {size} that is known from {self._base} on")
        path: list[bytes] = []
        low, high = 0, size
        while high - low > 1:
            middle = low + _split(high - low)
            if index < middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low = middle
        return tuple(reversed(path))

    def consistency_proof(self, old_size: int, size: int | None = None) -> tuple[bytes, ...]:
        """The nodes that show the log at `size` extends itself at `old_size` (RFC 6962 §2.1.2)."""
        size = self._checked(size)
        if not 0 <= old_size <= size:
            raise IndexError(f"a log of {size} leaves has no earlier size {old_size}")
        if old_size in {0, size}:
            return ()
        path: list[bytes] = []
        low, high = 0, size
        whole = True  # the old tree is [0, old_size): is [low, high) still on its left edge?
        while old_size != high:
            middle = low + _split(high - low)
            if old_size <= middle:
                path.append(self._range(middle, high))
                high = middle
            else:
                path.append(self._range(low, middle))
                low, whole = middle, False
        if not whole:
            path.append(self._range(low, high))
        return tuple(reversed(path))

    def _checked(self, size: int | None) -> int:
        if size is None:
            return self._size
        if not self._base <= size <= self._size:
            raise IndexError(
                f"the log has {self._size} leaves, not {size}, and is known from {self._base} on"
            )
        return size

    def _add(self, node: bytes, level: int) -> None:
        """Add the root of 2^level new leaves behind a log whose size is a multiple of that."""
        carry = self._size >> level
        self._size += 1 << level
        while True:
            if level >= TILE_LEVEL:
                if level - TILE_LEVEL == len(self._levels):
                    self._levels.append(bytearray())
                self._levels[level - TILE_LEVEL] += node
            if not carry & 1:
                self._peaks.append(node)
                return
            node = _node(self._peaks.pop(), node)
            carry >>= 1
            level += 1

    def _range(self, low: int, high: int) -> bytes:
        """The hash over leaves low..high-1, where low is a multiple of the largest power of two in the range."""
        return _fold(self._nodes(low, high))

    def _nodes(self, low: int, high: int) -> list[bytes]:
        """The roots of the complete subtrees of that range, the largest first."""
        nodes = []
        while low < high:
            level = (high - low).bit_length() - 1
            nodes.append(self._subtree(level, low >> level))
            low += 1 << level
        return nodes

    def _subtree(self, level: int, index: int) -> bytes:
        """The root of the complete subtree over leaves index * 2^level on."""
        known = self._base_nodes.get((level, index))
        if known is not None:
            return known
        low, high = index << level, index + 1 << level
        if high <= self._base:
            raise IndexError(f"leaves {low} to {high} are before the log's base")
        if level >= TILE_LEVEL:
            nodes = self._levels[level - TILE_LEVEL]
            at = (index - (self._base >> level)) * NODE_BYTES
            return bytes(nodes[at : at + NODE_BYTES])
        if low < self._base:
            return _node(self._subtree(level - 1, 2 * index), self._subtree(level - 1, 2 * index + 1))
        return _complete(self._leaf_hashes(low, high))

    def _leaf_hashes(self, low: int, high: int) -> bytes:
        """The hashes of leaves of one tile, none before the base, back to back."""
        if low >= self._kept:
            return bytes(self._leaves[(low - self._kept) * NODE_BYTES : (high - self._kept) * NODE_BYTES])
        tile = low // TILE_LEAVES
        first = max(self._base, tile * TILE_LEAVES)
        if self._fetched[0] != tile:
            if self._fetch is None:
                raise IndexError(f"nobody has the leaves {low} to {high}")
            self._fetched = tile, b"".join(self._fetch(first, min((tile + 1) * TILE_LEAVES, self._kept)))
        return self._fetched[1][(low - first) * NODE_BYTES : (high - first) * NODE_BYTES]


def _complete(nodes: bytes) -> bytes:
    """The root over a power of two of nodes, back to back."""
    while len(nodes) > NODE_BYTES:
        nodes = b"".join(
            [
                hashlib.sha256(b"\1" + nodes[at : at + 2 * NODE_BYTES]).digest()
                for at in range(0, len(nodes), 2 * NODE_BYTES)
            ]
        )
    return nodes


def _peak_places(size: int) -> list[tuple[int, int]]:
    """(level, index) of the complete subtrees of a log of `size` leaves, largest first."""
    return [
        (level, (size >> level) - 1) for level in range(size.bit_length() - 1, -1, -1) if size >> level & 1
    ]


def _split(count: int) -> int:
    """The largest power of two below `count` (≥ 2): where RFC 6962 cuts a tree in two."""
    return 1 << (count - 1).bit_length() - 1


def verify_inclusion(index: int, size: int, leaf: bytes, path: Sequence[bytes], root: bytes) -> bool:
    """Whether `path` proves that `leaf` (a leaf HASH) is leaf `index` of the `size` leaves under `root`."""
    if not 0 <= index < size or not _are_nodes((leaf, root, *path)):
        return False
    node, position, last = leaf, index, size - 1
    for sibling in path:
        if not last:
            return False
        if position & 1 or position == last:
            node = _node(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = _node(node, sibling)
        position >>= 1
        last >>= 1
    return not last and node == root


def verify_consistency(old_size: int, size: int, path: Sequence[bytes], old_root: bytes, root: bytes) -> bool:
    """Whether `path` proves that the log under `root` begins with the `old_size` leaves under `old_root`."""
    if not 0 <= old_size <= size or not _are_nodes((old_root, root, *path)):
        return False
    if old_size == size:
        return not path and old_root == root
    if not old_size:
        return not path and old_root == EMPTY_ROOT
    # A complete old tree (a power of two) is itself the first node; it is not repeated in the path.
    nodes = [old_root, *path] if not old_size & (old_size - 1) else list(path)
    if not nodes:
        return False
    position, last = old_size - 1, size - 1
    while position & 1:
        position >>= 1
        last >>= 1
    old_node = node = nodes[0]
    for sibling in nodes[1:]:
        if not last:
            return False
        if position & 1 or position == last:
            old_node, node = _node(sibling, old_node), _node(sibling, node)
            while not position & 1 and position:
                position >>= 1
                last >>= 1
        else:
            node = _node(node, sibling)
        position >>= 1
        last >>= 1
    return not last and old_node == old_root and node == root


def _are_nodes(nodes: Iterable[bytes]) -> bool:
    return all(len(node) == NODE_BYTES for node in nodes)
