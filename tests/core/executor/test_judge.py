"""The exact judge and commit-reveal (SPEC.md §14)."""

from __future__ import annotations

import pytest

from executor.core.judge import REPLICAS_MAX, Decision, Verdict, check_reveal, commitment, judge, settle
from executor.core.wire import WireError

A, B, C = (bytes((letter,)) * 32 for letter in b"abc")
X, Y = b"x" * 32, b"y" * 32
UNIT, SALT = b"u" * 32, b"s" * 32


def test_example_commitment() -> None:
    unit = bytes.fromhex("65f343fd11c122d01615775bdb65eac075ee3abf84f25ecf451d5d2cefba87a7")
    outcome = bytes.fromhex("8c60cf06a946ccd7e480ecf97b1bb01d7c6afe8a93c48bec0c1101b934807bc4")
    assert (
        commitment(unit, b"\x01" * 32, b"\x02" * 32, outcome).hex()
        == "66c7094d0268e4831d5417c0266fd523b6e6834cbb8ef0bec20f1a05ae559967"
    )


def test_a_commitment_opens_for_its_own_parts_only() -> None:
    committed = commitment(UNIT, A, SALT, X)
    assert check_reveal(committed, UNIT, A, SALT, X)
    for unit, peer, salt, outcome in (
        (X, A, SALT, X),
        (UNIT, B, SALT, X),
        (UNIT, A, X, X),
        (UNIT, A, SALT, Y),
    ):
        assert not check_reveal(committed, unit, peer, salt, outcome)
    for wrong in (b"", committed[:-1], committed + b"\0"):
        assert not check_reveal(wrong, UNIT, A, SALT, X)
    assert not check_reveal(committed, UNIT, A, b"", X)


@pytest.mark.parametrize(
    ("reveals", "ordered", "needed", "expected"),
    [
        ({}, 1, 1, Decision(Verdict.WAIT)),
        ({A: X}, 1, 1, Decision(Verdict.ACCEPT, X, frozenset({A}))),
        ({A: None}, 1, 1, Decision(Verdict.REPLICATE, missing=1)),
        ({A: X}, 2, 2, Decision(Verdict.WAIT)),
        ({A: X, B: X}, 2, 2, Decision(Verdict.ACCEPT, X, frozenset({A, B}))),
        ({A: X, B: None}, 2, 2, Decision(Verdict.REPLICATE, missing=1)),
        ({A: X, B: None, C: X}, 3, 2, Decision(Verdict.ACCEPT, X, frozenset({A, C}))),
        ({A: X, B: Y}, 2, 2, Decision(Verdict.ARBITRATE)),
        ({A: X, B: Y}, 3, 2, Decision(Verdict.ARBITRATE)),
        ({A: X, B: X, C: Y}, 3, 2, Decision(Verdict.ARBITRATE)),
    ],
)
def test_decisions(reveals: dict[bytes, bytes | None], ordered: int, needed: int, expected: Decision) -> None:
    assert judge(reveals, ordered, needed) == expected


@pytest.mark.parametrize(("ordered", "needed"), [(1, 2), (0, 0), (1, 0), (REPLICAS_MAX + 1, 1)])
def test_impossible_units_are_refused(ordered: int, needed: int) -> None:
    with pytest.raises(WireError):
        judge({}, ordered, needed)


def test_the_arbiter_decides_who_is_right() -> None:
    decision = settle({A: X, B: Y, C: None}, Y)
    assert decision == Decision(Verdict.ACCEPT, Y, frozenset({B}), frozenset({A}))
    both_wrong = settle({A: X, B: X}, Y)
    assert both_wrong.wrong == {A, B}
    with pytest.raises(WireError):
        settle({}, b"short")
