"""Credit as text and as whole micro-credits (SPEC.md §1): nothing is ever rounded."""

import pytest

from ledger.core.amounts import AMOUNT_MAX, MICRO, check_amount, format_credits, parse_credits
from ledger.core.encoding import WireError


@pytest.mark.parametrize(
    ("text", "micro"),
    [
        ("1", MICRO),
        ("1.5", 1_500_000),
        ("0.000001", 1),
        ("-2.25", -2_250_000),
        ("1e-05", 10),
        ("281474976.710656", AMOUNT_MAX),
        ("1.5000000000", 1_500_000),
        ("0", 0),
    ],
)
def test_parse(text: str, micro: int) -> None:
    assert parse_credits(text) == micro


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1,5",
        "0.0000001",
        "1.00000000000000000000000000001",
        "1.0000000000000000000000000000000000000000000000000001",
        "281474976.710657",
        "1e999999",
        "1e-999999",
        "0e999999",
        "nan",
        "inf",
        "-Infinity",
        "1_0",
        "\uff11",
    ],
)
def test_parse_refuses(text: str) -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        parse_credits(text)


@pytest.mark.parametrize("micro", [0, 1, -1, 999_999, -1_500_000, AMOUNT_MAX, -AMOUNT_MAX])
def test_format_and_parse_are_inverse(micro: int) -> None:
    assert parse_credits(format_credits(micro)) == micro


def test_format() -> None:
    assert format_credits(-1_500_000) == "-1.500000"
    assert format_credits(7) == "0.000007"


def test_check_amount() -> None:
    assert check_amount(1, "x") == 1
    assert check_amount(AMOUNT_MAX, "x") == AMOUNT_MAX
    for amount in (0, -1, AMOUNT_MAX + 1):
        with pytest.raises(WireError, match="x is"):
            check_amount(amount, "x")
