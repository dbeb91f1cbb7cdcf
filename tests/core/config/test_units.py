"""What people write for times, shares, sizes and money: good values, and every kind of bad one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from millrace import units


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (units.read_duration_s, "90s", 90),
        (units.read_duration_s, "3m", 180),
        (units.read_duration_s, "1d", 86_400),
        (units.read_percent, "0%", 0),
        (units.read_percent, "100 %", 100),
        (units.read_size_bytes, "50GB", 50 * 10**9),
        (units.read_size_bytes, "512MiB", 512 << 20),
        (units.read_size_bytes, "0B", 0),
        (units.read_credits, Decimal("1.00"), 1_000_000),
        (units.read_credits, "0.000001", 1),
        (units.read_credits, 20, 20_000_000),
        (units.read_whole, 40, 40),
        (units.read_whole, "40", 40),
        (units.read_bool, True, True),
        (units.read_bool, "off", False),
        (units.read_texts, "a, b", ("a", "b")),
        (units.read_texts, [], ()),
        (units.read_addresses, ["/ip4/0.0.0.0/tcp/0"], ("/ip4/0.0.0.0/tcp/0",)),
        (units.read_addresses, "auto", ("auto",)),
    ],
)
def test_good_values(read: Any, text: object, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        (units.read_duration_s, ["3", "m", "3 weeks", "-3m", "1.5h", 180, "367d", None, True]),
        (units.read_percent, ["50", "101%", "-1%", 50, 0.5, "\u0665\u0660%", None]),
        (units.read_size_bytes, ["50", "GB", "1.5GB", "-1GB", 50, "99999999TB"]),
        (
            units.read_credits,
            [True, "x", "NaN", "Infinity", Decimal("NaN"), "0.0000001", -1, "1e99", None, []],
        ),
        (units.read_whole, [True, -1, 1.5, "x", "9" * 20, 1 << 60, "²"]),
        (units.read_bool, [1, "maybe", None]),
        (units.read_text, [1, "a\x1b[2J", "x" * 1025, None]),
        (units.read_texts, [1, [1], ["x"] * 65, {"a": 1}]),
        (
            units.read_addresses,
            [["0.0.0.0:80"], ["/ip4/1.2.3.4/tcp/99999"], ["/ip4/1.2.3.4/tcp/1/p2p/"], [" "]],
        ),
        (units.choice("a", "b"), ["c", 1, None, ["a"]]),
    ],
)
def test_bad_values_are_refused_with_a_word_on_good_ones(read: Any, bad: list[object]) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=r".{5}"):
            read(value)
