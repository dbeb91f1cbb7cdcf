"""Money is whole micro-credits (SPEC.md §1): integers with bounds, never floats."""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from fractions import Fraction
from typing import Final

from ledger.core.encoding import WireError

__all__ = ["AMOUNT_MAX", "LIMIT_SUM_MAX", "MICRO", "check_amount", "format_credits", "parse_credits"]

MICRO: Final = 1_000_000
"""Micro-credits in one credit."""
AMOUNT_MAX: Final = 1 << 48
"""The largest single amount, in micro-credits (281 million credits)."""
LIMIT_SUM_MAX: Final = 1 << 62
"""The largest sum of all credit limits: no balance can then leave a signed 64-bit integer."""
_TEXT_MAX: Final = 40
"""The longest text of an amount, and the largest power of ten in it: 1e999999 is not worked out."""


def check_amount(amount: int, what: str) -> int:
    """`amount` unchanged if 1 ≤ amount ≤ AMOUNT_MAX; `WireError` otherwise."""
    if not 1 <= amount <= AMOUNT_MAX:
        raise WireError(f"{what} is {amount}, allowed are 1 to {AMOUNT_MAX} micro-credits")
    return amount


def format_credits(amount: int) -> str:
    """Micro-credits as credits with six decimals: -1500000 is '-1.500000'."""
    sign = "-" if amount < 0 else ""
    whole, micro = divmod(abs(amount), MICRO)
    return f"{sign}{whole}.{micro:06d}"


def parse_credits(text: str) -> int:
    """Micro-credits from text such as '1.5'; `ValueError` on more than six decimals or out of range."""
    micro = _exact_micro(text)
    if micro is None or abs(micro) > AMOUNT_MAX or micro.denominator != 1:
        raise ValueError(
            f"{text[:40]!r} is not an amount; write credits as 1.5: at most six decimals, "
            f"at most {AMOUNT_MAX // MICRO} credits"
        )
    return int(micro)


def _exact_micro(text: str) -> Fraction | None:
    """The number in `text` as micro-credits, without any rounding; None if it is none, or absurdly long."""
    if not text.isascii() or "_" in text or len(text) > _TEXT_MAX:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    if not value.is_finite() or abs(value.adjusted()) > _TEXT_MAX:
        return None
    return Fraction(value) * MICRO
