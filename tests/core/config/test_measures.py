"""What people write for times, shares, sizes and money: good values, and every kind of bad one."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import pytest

from millrace import measures


@pytest.mark.parametrize(
    ("read", "text", "value"),
    [
        (measures.read_duration_s, "90s", 90),
        (measures.read_duration_s, "3m", 180),
        (measures.read_duration_s, "1d", 86_400),
        (measures.read_percent, "0%", 0),
        (measures.read_percent, "100 %", 100),
        (measures.read_size_bytes, "50GB", 50 * 10**9),
        (measures.read_size_bytes, "512MiB", 512 << 20),
        (measures.read_size_bytes, "0B", 0),
        (measures.read_credits, Decimal("1.00"), 1_000_000),
        (measures.read_credits, "0.000001", 1),
        (measures.read_credits, 20, 20_000_000),
        (measures.read_whole, 40, 40),
        (measures.read_whole, "40", 40),
        (measures.read_bool, True, True),
        (measures.read_bool, "off", False),
        (measures.read_texts, "a, b", ("a", "b")),
        (measures.read_texts, [], ()),
        (measures.read_addresses, ["/ip4/0.0.0.0/tcp/0"], ("/ip4/0.0.0.0/tcp/0",)),
        (measures.read_addresses, "auto", ("auto",)),
    ],
)
def test_good_values(read: Any, text: object, value: object) -> None:
    assert read(text) == value


@pytest.mark.parametrize(
    ("read", "bad"),
    [
        (measures.read_duration_s, ["3", "m", "3 weeks", "-3m", "1.5h", 180, "367d", None, True]),
        (measures.read_percent, ["50", "101%", "-1%", 50, 0.5, "\u0665\u0660%", None]),
        (measures.read_size_bytes, ["50", "GB", "1.5GB", "-1GB", 50, "99999999TB"]),
        (
            measures.read_credits,
            [True, "x", "NaN", "Infinity", Decimal("NaN"), "0.0000001", -1, "1e99", None, []],
        ),
        (measures.read_whole, [True, -1, 1.5, "x", "9" * 20, 1 << 60, "²"]),
        (measures.read_bool, [1, "maybe", None]),
        (measures.read_text, [1, "a\x1b[2J", "x" * 1025, None]),
        (measures.read_texts, [1, [1], ["x"] * 65, {"a": 1}]),
        (
            measures.read_addresses,
            [["0.0.0.0:80"], ["/ip4/1.2.3.4/tcp/99999"], ["/ip4/1.2.3.4/tcp/1/p2p/"], [" "]],
        ),
        (measures.choice("a", "b"), ["c", 1, None, ["a"]]),
    ],
)
def test_bad_values_are_refused_with_a_word_on_good_ones(read: Any, bad: list[object]) -> None:
    for value in bad:
        with pytest.raises(ValueError, match=r".{5}"):
            read(value)
