"""What people write for times, shares, sizes and money, as whole numbers with their unit in the name.

Every reader takes one value as TOML or an environment variable gives it and returns a plain integer, text,
bool or tuple; anything else is a `ValueError` whose text says what a good value looks like.
"""

from __future__ import annotations

import re
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ledger.core.amounts import parse_credits

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "LIST_ITEMS_MAX",
    "TEXT_BYTES_MAX",
    "choice",
    "read_addresses",
    "read_bool",
    "read_credits",
    "read_duration_s",
    "read_percent",
    "read_size_bytes",
    "read_text",
    "read_texts",
    "read_whole",
]

TEXT_BYTES_MAX: Final = 1024
LIST_ITEMS_MAX: Final = 64
DURATION_S_MAX: Final = 366 * 86_400
SIZE_BYTES_MAX: Final = 1 << 50
WHOLE_MAX: Final = 1 << 40

_DURATION_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_SIZE_BYTES: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "TB": 10**12,
    "KIB": 1 << 10,
    "MIB": 1 << 20,
    "GIB": 1 << 30,
    "TIB": 1 << 40,
}
_DURATION = re.compile(r"([0-9]{1,9})\s*(s|m|h|d)")
_SIZE = re.compile(r"([0-9]{1,15})\s*([KMGT]?i?B)", re.IGNORECASE)
_PERCENT = re.compile(r"([0-9]{1,3})\s*%")
_ADDRESS = re.compile(r"/(ip4|ip6|dns|dns4|dns6)/[^/\s]+/tcp/[0-9]{1,5}(/p2p/[1-9A-HJ-NP-Za-km-z]+)?")


def read_text(value: object) -> str:
    """Text without control characters, at most TEXT_BYTES_MAX bytes."""
    if not isinstance(value, str):
        raise ValueError('text in quotes, such as "desk"')  # noqa: TRY004 - a wrong type is a wrong value here
    if len(value.encode("utf-8", "surrogateescape")) > TEXT_BYTES_MAX or not value.isprintable():
        raise ValueError(f"printable text of at most {TEXT_BYTES_MAX} bytes")
    return value


def read_texts(value: object) -> tuple[str, ...]:
    """A list of texts: TOML's list, or one text with commas (an environment variable)."""
    if isinstance(value, str):
        value = [part.strip() for part in value.split(",") if part.strip()]
    if not isinstance(value, list) or len(value) > LIST_ITEMS_MAX:
        raise ValueError(f'a list of at most {LIST_ITEMS_MAX} texts, such as ["wasm"]')
    return tuple(read_text(item) for item in value)


def read_addresses(value: object) -> tuple[str, ...]:
    """A list of multiaddresses; "auto" is let through for the settings that know it."""
    addresses = read_texts(value)
    for address in addresses:
        matched = _ADDRESS.fullmatch(address)
        if address != "auto" and (matched is None or int(address.split("/")[4]) > 65_535):
            raise ValueError('a list of addresses such as ["/ip4/0.0.0.0/tcp/0"]')
    return addresses


def read_bool(value: object) -> bool:
    """true or false; as text also yes/no, on/off, 1/0."""
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in {"true", "yes", "on", "1"}:
        return True
    if isinstance(value, str) and value.lower() in {"false", "no", "off", "0"}:
        return False
    raise ValueError("true or false")


def read_whole(value: object) -> int:
    """A whole number from 0 to WHOLE_MAX."""
    if isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 15:
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= WHOLE_MAX:
        raise ValueError("a whole number such as 40")
    return value


def read_percent(value: object) -> int:
    """ "50%" as 50."""
    matched = _PERCENT.fullmatch(value.strip()) if isinstance(value, str) else None
    if matched is None or int(matched[1]) > 100:
        raise ValueError('a share from "0%" to "100%", in quotes')
    return int(matched[1])


def read_duration_s(value: object) -> int:
    """ "3m" as 180 seconds; units s, m, h, d."""
    matched = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    seconds = int(matched[1]) * _DURATION_S[matched[2]] if matched else DURATION_S_MAX + 1
    if seconds > DURATION_S_MAX:
        raise ValueError('a time such as "90s", "3m", "2h" or "1d", at most a year, in quotes')
    return seconds


def read_size_bytes(value: object) -> int:
    """ "50GB" as 50 000 000 000 bytes; KB MB GB TB count in thousands, KiB MiB GiB TiB in 1024s."""
    matched = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    size = int(matched[1]) * _SIZE_BYTES[matched[2].upper()] if matched else SIZE_BYTES_MAX + 1
    if size > SIZE_BYTES_MAX:
        raise ValueError('a size such as "512MB" or "50GB", in quotes')
    return size


def read_credits(value: object) -> int:
    """Credits with at most six decimals, zero or more, as micro-credits (SPEC.md §1)."""
    if isinstance(value, bool) or not isinstance(value, (int, str, Decimal)):
        raise ValueError("an amount of credits such as 1.5")  # noqa: TRY004 - as in read_text
    try:
        amount = parse_credits(str(value))
    except ValueError as error:
        raise ValueError("an amount of credits such as 1.5, with at most six decimals") from error
    if amount < 0:
        raise ValueError("an amount of credits, zero or more")
    return amount


def choice(*options: str) -> Callable[[object], str]:
    """A reader for one of `options`."""
    listed = ", ".join(f'"{option}"' for option in options)

    def read(value: object) -> str:
        if not isinstance(value, str) or value not in options:
            raise ValueError(f"one of {listed}")
        return value

    return read
