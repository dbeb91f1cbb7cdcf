"""The log's Merkle tree, exactly RFC 6962 §2.1 (SPEC.md §5).

`MerkleLog` keeps every complete node and proves; `Peaks` keeps the O(log n) roots of the complete subtrees
and only extends, which is all that proposing or checking a block needs. Both give the same root.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "EMPTY_ROOT",
    "NODE_BYTES",
    "PROOF_NODES_MAX",
    "MerkleLog",
    "Peaks",
    "leaf_hash",
    "verify_consistency",
    "verify_inclusion",
]

NODE_BYTES: Final = 32
PROOF_NODES_MAX: Final = 64
"""No proof in a tree of fewer than 2^63 leaves is longer."""
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
        size, nodes = self.size, list(self.nodes)
        for leaf in leaves:
            node = leaf_hash(leaf)
            carry = size
            while carry & 1:
                node = _node(nodes.pop(), node)
                carry >>= 1
            nodes.append(node)
            size += 1
        return Peaks(size, tuple(nodes))

    def root(self) -> bytes:
        """The Merkle tree hash of the log."""
        return _fold(self.nodes)


class MerkleLog:
    """An append-only log's tree, about 64 bytes of memory per leaf."""

    __slots__ = ("_levels",)

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # _levels[k] holds the roots of all complete subtrees of 2^k leaves, back to back.
        self._levels: list[bytearray] = [bytearray()]
        for leaf in leaves:
            self.append(leaf)

    @property
    def size(self) -> int:
        """How many leaves the log has."""
        return len(self._levels[0]) // NODE_BYTES

    def append(self, leaf: bytes) -> int:
        """Add `leaf` (a whole entry, not its hash); its index."""
        return self.append_hash(leaf_hash(leaf))

    def append_hash(self, node: bytes) -> int:
        """Add a leaf of which only `leaf_hash(leaf)` is at hand; its index."""
        index = position = self.size
        for level in self._levels:
            level.extend(node)
            if not position & 1:
                return index
            node = _node(bytes(level[-2 * NODE_BYTES : -NODE_BYTES]), node)
            position >>= 1
        self._levels.append(bytearray(node))
        return index

    def peaks(self) -> Peaks:
        """The peaks of the whole log, to extend without touching it."""
        return Peaks(self.size, tuple(self._subtrees(0, self.size)))

    def root(self, size: int | None = None) -> bytes:
        """The Merkle tree hash of the first `size` leaves (all, unless told); `IndexError` beyond the log."""
        return self._range(0, self._checked(size))

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """The path from leaf `index` to the root at `size` (RFC 6962 §2.1.1), the leaf's sibling first."""
        size = self._checked(size)
        if not 0 <= index < size:
            raise IndexError(f"leaf {index} is not in a log of {size}")
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
            return self.size
        if not 0 <= size <= self.size:
            raise IndexError(f"the log has {self.size} leaves, not {size}")
        return size

    def _range(self, low: int, high: int) -> bytes:
        """The hash over leaves low..high-1, where low is a multiple of the largest power of two in the range."""
        return _fold(self._subtrees(low, high))

    def _subtrees(self, low: int, high: int) -> list[bytes]:
        nodes = []
        while low < high:
            level = (high - low).bit_length() - 1
            at = (low >> level) * NODE_BYTES
            nodes.append(bytes(self._levels[level][at : at + NODE_BYTES]))
            low += 1 << level
        return nodes


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
