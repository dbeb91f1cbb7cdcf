"""Lease messages and terms answer any bytes with a value or `WireError` (SPEC.md §12)."""

from __future__ import annotations

import contextlib

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.encoding import WireError, pack
from millrace.core import messages
from millrace.core.cost import FUEL_PER_PRICE, PRICE_MAX, unit_cost
from millrace.core.terms import decode_terms
from tests.core.millrace import lease_examples as ex

JSONISH = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=70)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
NAMES = [
    "propose",
    "accept",
    "locked",
    "module",
    "units",
    "committed",
    "reveal",
    "results",
    "verdicts",
    "end",
]
FIELDS = [
    "terms",
    "sig",
    "receipt",
    "offset",
    "data",
    "units",
    "commits",
    "results",
    "verdicts",
    "voucher",
    "reason",
]


@settings(max_examples=120, deadline=None)
@given(st.binary(max_size=300))
def test_any_bytes(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert messages.encode(messages.decode(data))


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(NAMES), st.dictionaries(st.sampled_from(FIELDS), JSONISH, max_size=3))
def test_any_map(name: str, fields: dict[str, object]) -> None:
    with contextlib.suppress(WireError):
        message = messages.decode(pack({"t": name, **fields}))
        assert messages.decode(messages.encode(message)) == message


@settings(max_examples=120, deadline=None)
@given(st.sampled_from(ex.MESSAGES), st.data())
def test_any_damage(message: messages.Message, data: st.DataObject) -> None:
    frame = bytearray(messages.encode(message))
    at = data.draw(st.integers(0, len(frame) - 1))
    frame[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(WireError):
        messages.decode(bytes(frame))
    with contextlib.suppress(WireError):
        messages.decode(bytes(frame[:at]))


@settings(max_examples=120, deadline=None)
@given(st.binary(min_size=200, max_size=200))
def test_any_terms(data: bytes) -> None:
    with contextlib.suppress(WireError):
        assert decode_terms(data).encode() == data


@given(st.integers(0, 10**14), st.integers(0, PRICE_MAX))
def test_cost_is_the_least_whole_amount_that_covers(fuel: int, price: int) -> None:
    cost = unit_cost(fuel, price)
    assert cost >= 1
    assert cost * FUEL_PER_PRICE >= fuel * price
    assert cost == 1 or (cost - 1) * FUEL_PER_PRICE < fuel * price
