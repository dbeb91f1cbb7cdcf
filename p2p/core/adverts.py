"""What a worker offers: the advert, one msgpack body inside a signed envelope (SPEC.md §10.2)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Final

from ledger.core.amounts import AMOUNT_MAX
from ledger.core.encoding import WireError, pack, unpack
from ledger.core.keys import ACCOUNT_BYTES, AccountId, is_strict_point
from p2p.core.addresses import parse_address
from p2p.core.envelope import BODY_BYTES_MAX

__all__ = [
    "ADDRESSES_MAX",
    "CARBON_G_PER_KWH_MAX",
    "CORES_MAX",
    "KINDS_MAX",
    "MEMORY_BYTES_MAX",
    "NAME_BYTES_MAX",
    "RATE_MAX",
    "REGION_BYTES_MAX",
    "RUNTIME_BYTES_MAX",
    "SLOTS_MAX",
    "WATTS_MAX",
    "Advert",
    "decode_advert",
]

KINDS_MAX: Final = 16
RUNTIME_BYTES_MAX: Final = 64
CORES_MAX: Final = 4096
MEMORY_BYTES_MAX: Final = 1 << 50
SLOTS_MAX: Final = 4096
RATE_MAX: Final = 1 << 62
WATTS_MAX: Final = 100_000
CARBON_G_PER_KWH_MAX: Final = 5_000
NAME_BYTES_MAX: Final = 32
REGION_BYTES_MAX: Final = 32
ADDRESSES_MAX: Final = 8
FIELDS_MAX: Final = 64
"""Known and unknown fields together: later versions may add some, nobody may add thousands."""
ITEMS_MAX: Final = 1024
"""Items of all lists and maps of an advert together."""

_KIND: Final = re.compile(r"[a-z][a-z0-9_.-]{0,23}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Advert:
    """Capacity on offer. Every value is in bounds by construction: `WireError` otherwise.

    `kinds`: task kinds that run here ("wasm"); `runtimes`: kind → engine and version ("wasmtime 50");
    `rates`: kind → measured units of work per second ("wasm" → fuel/s); prices in micro-credits, 0 is free;
    `slots_free`: units that could start now; `watts` and `carbon_g_per_kwh`: declared, 0 when not;
    `owner`: the account that answers for this worker (its own, or the one that runs several);
    `relayed`: reachable only through a relay; `addresses`: multiaddrs ending in the author's peer id.
    """

    kinds: tuple[str, ...]
    owner: AccountId
    slots_free: int
    runtimes: Mapping[str, str] = field(default_factory=dict)
    cores: int = 1
    memory_bytes: int = 0
    rates: Mapping[str, int] = field(default_factory=dict)
    price_per_tfuel: int = 0
    price_core_hour: int = 0
    name: str = ""
    region: str = ""
    watts: int = 0
    carbon_g_per_kwh: int = 0
    relayed: bool = False
    addresses: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name, check in _CHECKS.items():
            check(getattr(self, name), name)

    def encode(self) -> bytes:
        """The envelope body; `WireError` if all the texts together exceed BODY_BYTES_MAX."""
        value: dict[str, object] = {}
        for name in _CHECKS:
            item = getattr(self, name)
            if isinstance(item, Mapping):
                item = dict(sorted(item.items()))
            value[name] = list(item) if isinstance(item, tuple) else item
        body = pack(value)
        if len(body) > BODY_BYTES_MAX:
            raise WireError(f"advert of {len(body)} bytes, at most {BODY_BYTES_MAX} allowed")
        return body


def decode_advert(body: bytes) -> Advert:
    """The advert in an envelope body; `WireError` for any other bytes.

    Fields this version does not know are ignored (up to FIELDS_MAX), missing ones take their default;
    `kinds`, `owner` and `slots_free` must be there.
    """
    value = unpack(body, bytes_max=BODY_BYTES_MAX, items_max=ITEMS_MAX)
    if not isinstance(value, dict) or len(value) > FIELDS_MAX:
        raise WireError(f"an advert is a map of at most {FIELDS_MAX} fields")
    known: dict[str, Any] = {name: value[name] for name in _CHECKS if name in value}
    for name in ("kinds", "addresses"):
        if isinstance(known.get(name), list):
            known[name] = tuple(known[name])
    missing = [name for name in ("kinds", "owner", "slots_free") if name not in known]
    if missing:
        raise WireError(f"advert without {' and '.join(missing)}")
    return Advert(**known)


def _kind(value: object, what: str) -> None:
    if not isinstance(value, str) or not _KIND.fullmatch(value):
        raise WireError(f"advert {what}: {str(value)[:40]!r} is not the name of a task kind")


def _kinds(value: object, what: str) -> None:
    if not isinstance(value, tuple) or len(value) > KINDS_MAX:
        raise WireError(f"advert {what}: a list of at most {KINDS_MAX} task kinds expected")
    for item in value:
        _kind(item, what)
    if len(set(value)) != len(value):
        raise WireError(f"advert {what}: a task kind is named twice")


def _text(bytes_max: int) -> Callable[[object, str], None]:
    """Printable text only: adverts of strangers are shown in terminals."""

    def check(value: object, what: str) -> None:
        if not isinstance(value, str) or not value.isprintable():
            raise WireError(f"advert {what}: printable text expected")
        if len(value.encode()) > bytes_max:
            raise WireError(f"advert {what}: at most {bytes_max} bytes of text allowed")

    return check


def _integer(maximum: int) -> Callable[[object, str], None]:
    def check(value: object, what: str) -> None:
        # bool is an int to Python; on the wire `true` is not a number.
        if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= maximum:
            raise WireError(f"advert {what}: an integer from 0 to {maximum} expected")

    return check


def _table(check_value: Callable[[object, str], None]) -> Callable[[object, str], None]:
    def check(value: object, what: str) -> None:
        if not isinstance(value, Mapping) or len(value) > KINDS_MAX:
            raise WireError(f"advert {what}: a map of at most {KINDS_MAX} task kinds expected")
        for key, item in value.items():
            _kind(key, what)
            check_value(item, what)

    return check


def _account(value: object, what: str) -> None:
    if not isinstance(value, bytes) or len(value) != ACCOUNT_BYTES or not is_strict_point(value):
        raise WireError(f"advert {what}: an account of {ACCOUNT_BYTES} bytes expected")


def _flag(value: object, what: str) -> None:
    if not isinstance(value, bool):
        raise WireError(f"advert {what}: true or false expected")


def _addresses(value: object, what: str) -> None:
    if not isinstance(value, tuple) or len(value) > ADDRESSES_MAX:
        raise WireError(f"advert {what}: a list of at most {ADDRESSES_MAX} addresses expected")
    for item in value:
        if not isinstance(item, str):
            raise WireError(f"advert {what}: an address is text")
        try:
            address = parse_address(item)
        except WireError as error:
            raise WireError(f"advert {what}: {error}") from error
        if address.account is None:
            raise WireError(f"advert {what}: an address ends in /p2p/ and the peer id")


_CHECKS: Final[dict[str, Callable[[object, str], None]]] = {
    "kinds": _kinds,
    "owner": _account,
    "slots_free": _integer(SLOTS_MAX),
    "runtimes": _table(_text(RUNTIME_BYTES_MAX)),
    "cores": _integer(CORES_MAX),
    "memory_bytes": _integer(MEMORY_BYTES_MAX),
    "rates": _table(_integer(RATE_MAX)),
    "price_per_tfuel": _integer(AMOUNT_MAX),
    "price_core_hour": _integer(AMOUNT_MAX),
    "name": _text(NAME_BYTES_MAX),
    "region": _text(REGION_BYTES_MAX),
    "watts": _integer(WATTS_MAX),
    "carbon_g_per_kwh": _integer(CARBON_G_PER_KWH_MAX),
    "relayed": _flag,
    "addresses": _addresses,
}
assert set(_CHECKS) == {item.name for item in fields(Advert)}  # noqa: S101 - a field without a check is a bug
