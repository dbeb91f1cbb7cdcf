"""The Merkle log (SPEC.md §5) against the recursive definition of RFC 6962, and every proof of small logs."""

from functools import cache
from itertools import pairwise

import pytest

from ledger.core.encoding import digest
from ledger.core.merkle import (
    EMPTY_ROOT,
    TILE_LEAVES,
    MerkleLog,
    Peaks,
    leaf_hash,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [bytes((n,)) * n for n in range(67)]


def tree_hash(leaves: list[bytes]) -> bytes:
    """RFC 6962 §2.1, word for word."""
    if not leaves:
        return digest(b"")
    if len(leaves) == 1:
        return digest(b"\0", leaves[0])
    cut = 1
    while cut * 2 < len(leaves):
        cut *= 2
    return digest(b"\1", tree_hash(leaves[:cut]), tree_hash(leaves[cut:]))


LOG = MerkleLog(LEAVES)
ROOTS = [tree_hash(LEAVES[:size]) for size in range(len(LEAVES) + 1)]


def test_roots_are_those_of_the_definition() -> None:
    assert [LOG.root(size) for size in range(len(LEAVES) + 1)] == ROOTS
    assert ROOTS[0] == EMPTY_ROOT == MerkleLog().root() == Peaks().root()
    assert LOG.size == len(LEAVES)


def test_peaks_agree_with_the_log_however_they_are_extended() -> None:
    for size in range(len(LEAVES) + 1):
        peaks = MerkleLog(LEAVES[:size]).peaks()
        assert (peaks.size, peaks.root()) == (size, ROOTS[size])
        assert peaks.extend(LEAVES[size:]) == LOG.peaks()
        assert peaks == Peaks().extend(LEAVES[:size])


def test_append_hash_is_append_of_the_leaf() -> None:
    log = MerkleLog()
    assert [log.append_hash(leaf_hash(leaf)) for leaf in LEAVES] == list(range(len(LEAVES)))
    assert log.root() == LOG.root()


def test_every_inclusion_proof_holds_for_its_place_only() -> None:
    for size in range(1, len(LEAVES) + 1):
        for index in range(size):
            path, leaf = LOG.inclusion_proof(index, size), leaf_hash(LEAVES[index])
            assert verify_inclusion(index, size, leaf, path, ROOTS[size])
            assert not verify_inclusion(index + 1, size, leaf, path, ROOTS[size])
            assert not verify_inclusion(index, size, leaf_hash(b"other"), path, ROOTS[size])
            assert not verify_inclusion(index, size, leaf, (*path, bytes(32)), ROOTS[size])
            assert not verify_inclusion(index, size, leaf, path, ROOTS[size - 1])
            if path:
                assert not verify_inclusion(index, size, leaf, path[:-1], ROOTS[size])
                assert not verify_inclusion(index, size, leaf, (path[0][:31], *path[1:]), ROOTS[size])


def test_every_consistency_proof_holds_for_its_sizes_only() -> None:
    for size in range(len(LEAVES) + 1):
        for old in range(size + 1):
            path = LOG.consistency_proof(old, size)
            assert verify_consistency(old, size, path, ROOTS[old], ROOTS[size])
            assert not verify_consistency(old, size, path, bytes(32), ROOTS[size])
            if old:  # the empty log begins every log, so there the new root proves nothing
                assert not verify_consistency(old, size, path, ROOTS[old], bytes(32))
            assert not verify_consistency(old, size, (*path, bytes(32)), ROOTS[old], ROOTS[size])
            if path:
                assert not verify_consistency(old, size, path[:-1], ROOTS[old], ROOTS[size])


def test_another_history_is_not_consistent() -> None:
    forked = MerkleLog([*LEAVES[:9], b"fork", *LEAVES[10:]])
    for old in range(10, len(LEAVES)):
        path = forked.consistency_proof(old)
        assert not verify_consistency(old, len(LEAVES), path, ROOTS[old], forked.root())


def test_a_node_cannot_pass_for_a_leaf() -> None:
    """Second preimage: the bytes of an inner node, taken as a leaf, hash to something else."""
    left, right = leaf_hash(LEAVES[0]), leaf_hash(LEAVES[1])
    assert leaf_hash(left + right) != ROOTS[2]
    assert not verify_inclusion(0, 1, leaf_hash(left + right), (), ROOTS[2])


def test_places_beyond_the_log_are_errors() -> None:
    for call in (
        lambda: LOG.root(len(LEAVES) + 1),
        lambda: LOG.root(-1),
        lambda: LOG.inclusion_proof(5, 5),
        lambda: LOG.inclusion_proof(-1),
        lambda: LOG.consistency_proof(6, 5),
        lambda: LOG.consistency_proof(-1, 5),
    ):
        with pytest.raises(IndexError):
            call()
    assert not verify_inclusion(-1, 5, bytes(32), (), bytes(32))
    assert not verify_consistency(-1, 5, (), bytes(32), bytes(32))
    assert not verify_consistency(3, 5, (), bytes(32), bytes(32))


def test_roots_differ_from_size_to_size() -> None:
    assert all(one != other for one, other in pairwise(ROOTS))


MANY = [number.to_bytes(4, "big") for number in range(1_400)]
HASHES = [leaf_hash(leaf) for leaf in MANY]
WHOLE = MerkleLog(MANY)
SIZES = [1, 2, 255, 256, 257, 511, 512, 513, 767, 1_023, 1_024, 1_025, 1_337, 1_400]


@cache
def naive(low: int, high: int) -> bytes:
    """The definition again, over leaves `low` to `high` - 1 of MANY."""
    if high - low == 1:
        return HASHES[low]
    cut = low + (1 << (high - low - 1).bit_length() - 1)
    return digest(b"\1", naive(low, cut), naive(cut, high))


def ask(low: int, high: int) -> list[bytes]:
    assert low < high
    return HASHES[low:high]


@pytest.mark.parametrize("size", SIZES)
def test_a_log_of_many_tiles_has_the_roots_of_the_rfc(size: int) -> None:
    assert (
        WHOLE.root(size)
        == naive(0, size)
        == MerkleLog(MANY[:size]).root()
        == Peaks().extend(MANY[:size]).root()
    )


@pytest.mark.parametrize("size", SIZES)
def test_a_log_that_forgot_its_leaves_proves_as_before(size: int) -> None:
    log = MerkleLog(MANY[:size])
    log.forget_leaves(size, ask)
    for leaf in {0, size // 3, size // 2, size - 2, size - 1} - {-1}:
        path = log.inclusion_proof(leaf)
        assert path == WHOLE.inclusion_proof(leaf, size)
        assert verify_inclusion(leaf, size, HASHES[leaf], path, naive(0, size))
    for old in {1, size // 3 or 1, size // 2 or 1, size - 1 or 1}:
        path = log.consistency_proof(old)
        assert verify_consistency(old, size, path, naive(0, old), naive(0, size))
    for leaf in MANY[size:]:
        log.append(leaf)
    assert log.root() == WHOLE.root()


@pytest.mark.parametrize("base", [0, 1, 255, 256, 300, 512, 1_000, 1_023, 1_300])
def test_a_log_that_began_at_a_base_proves_what_came_after(base: int) -> None:
    log = MerkleLog(base=peaks_of(base))
    for leaf in MANY[base:]:
        log.append(leaf)
    again = MerkleLog.restore(
        peaks_of(base), [WHOLE.tile_root(tile) for tile in range(base // TILE_LEAVES, log.tiles)], ask
    )
    assert again.size == max(base, len(MANY) // TILE_LEAVES * TILE_LEAVES)
    for leaf in MANY[again.size :]:
        again.append(leaf)
    for found in (log, again):
        assert found.peaks() == WHOLE.peaks()
        assert found.tile_root(log.tiles - 1) == WHOLE.tile_root(log.tiles - 1) or base > 1_024
        for leaf in range(base, len(MANY), 37):
            for size in range(max(leaf + 1, base), len(MANY) + 1, 211):
                assert found.inclusion_proof(leaf, size) == WHOLE.inclusion_proof(leaf, size)
        for old in range(base, len(MANY), 61):
            assert found.consistency_proof(old) == WHOLE.consistency_proof(old)
        if base:
            with pytest.raises(IndexError):
                found.inclusion_proof(base - 1)
            with pytest.raises(IndexError):
                found.root(base - 1)
        found.forget_leaves(found.size, ask)
        assert found.inclusion_proof(base) == WHOLE.inclusion_proof(base)


def peaks_of(size: int) -> Peaks:
    return Peaks().extend(MANY[:size])


def test_a_log_takes_what_its_peaks_grew() -> None:
    hashed = [b"%d" % number for number in range(3 * TILE_LEAVES + 77)]
    whole = MerkleLog(hashed)
    for cut in (0, 1, 2, 3, 255, 256, 257, 511, 512, 700, len(hashed)):
        for first in {0, min(1, cut), cut // 2, max(0, cut - 1)}:
            log = MerkleLog(hashed[:first])
            log.take(log.peaks().grow(hashed[first:cut]))
            growth = log.peaks().grow(hashed[cut:])
            assert growth.peaks == whole.peaks()
            log.take(growth)
            assert log.peaks() == whole.peaks()
            assert [log.tile_root(n) for n in range(log.tiles)] == [
                whole.tile_root(n) for n in range(whole.tiles)
            ]
            for index in range(0, len(hashed), 97):
                assert log.inclusion_proof(index) == whole.inclusion_proof(index)


def test_a_log_takes_nothing_that_grew_elsewhere() -> None:
    log = MerkleLog([b"a", b"b"])
    with pytest.raises(ValueError, match="do not fit"):
        log.take(Peaks().grow([b"a"]))
    assert log.size == 2
