"""An advert is in bounds or it is not an advert (SPEC.md §10.2)."""

from __future__ import annotations

from typing import Any

import pytest

from ledger.core.amounts import AMOUNT_MAX
from ledger.core.encoding import WireError, pack, unpack
from ledger.core.keys import SigningKey, peer_id
from p2p.core.adverts import (
    ADDRESSES_MAX,
    CORES_MAX,
    FIELDS_MAX,
    KINDS_MAX,
    RATE_MAX,
    SLOTS_MAX,
    Advert,
    decode_advert,
)

KEY = SigningKey(bytes(range(32)))
ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id(KEY.account)}"

SPEC_EXAMPLE = (
    "8fa56b696e647391a47761736da56f776e6572c42003a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc86"
    "64125531b8aa736c6f74735f6672656503a872756e74696d657380a5636f72657301ac6d656d6f72795f627974657300"
    "a5726174657380af70726963655f7065725f746675656c00af70726963655f636f72655f686f757200a46e616d65a0a6"
    "726567696f6ea0a5776174747300b0636172626f6e5f675f7065725f6b776800a772656c61796564c2a9616464726573"
    "73657390"
)


def full() -> Advert:
    return Advert(
        kinds=("wasm",),
        owner=KEY.account,
        slots_free=3,
        runtimes={"wasm": "wasmtime 50"},
        cores=4,
        memory_bytes=8 << 30,
        rates={"wasm": 1_200_000_000},
        price_per_tfuel=250_000,
        price_core_hour=1_000_000,
        name="mill-1",
        region="eu-north",
        watts=65,
        carbon_g_per_kwh=40,
        relayed=False,
        addresses=(ADDRESS,),
    )


def test_example_bytes_of_the_specification() -> None:
    advert = Advert(kinds=("wasm",), owner=KEY.account, slots_free=3)
    assert advert.encode().hex() == SPEC_EXAMPLE


def test_round_trip() -> None:
    assert decode_advert(full().encode()) == full()


def test_fields_of_a_later_version_are_passed_over() -> None:
    value = unpack(full().encode())
    assert decode_advert(pack(value | {"gpu": ["h200"]})) == full()
    with pytest.raises(WireError, match="at most"):
        decode_advert(pack(value | {f"x{index}": 0 for index in range(FIELDS_MAX)}))


@pytest.mark.parametrize("name", ["kinds", "owner", "slots_free"])
def test_what_must_be_there(name: str) -> None:
    value = unpack(full().encode())
    del value[name]
    with pytest.raises(WireError, match=name):
        decode_advert(pack(value))


def test_the_rest_has_defaults() -> None:
    bare = decode_advert(pack({"kinds": ["wasm"], "owner": KEY.account, "slots_free": 0}))
    assert bare == Advert(kinds=("wasm",), owner=KEY.account, slots_free=0)


BAD: list[tuple[str, Any]] = [
    ("kinds", "wasm"),
    ("kinds", ["Wasm"]),
    ("kinds", ["wasm", "wasm"]),
    ("kinds", [f"k{index}" for index in range(KINDS_MAX + 1)]),
    ("kinds", [7]),
    ("owner", bytes(31)),
    ("owner", bytes(32)),
    ("owner", "text"),
    ("slots_free", -1),
    ("slots_free", SLOTS_MAX + 1),
    ("slots_free", True),
    ("slots_free", 1.0),
    ("slots_free", None),
    ("runtimes", {"wasm": 50}),
    ("runtimes", {"wasm": "x" * 65}),
    ("runtimes", {"wasm": "esc\x1b[31m"}),
    ("runtimes", [["wasm", "wasmtime"]]),
    ("runtimes", {"Bad Kind": "x"}),
    ("cores", CORES_MAX + 1),
    ("memory_bytes", 1 << 51),
    ("rates", {"wasm": 1.5}),
    ("rates", {"wasm": RATE_MAX + 1}),
    ("rates", {f"k{index}": 1 for index in range(KINDS_MAX + 1)}),
    ("price_per_tfuel", AMOUNT_MAX + 1),
    ("price_core_hour", -1),
    ("name", "n" * 33),
    ("name", "two\nlines"),
    ("name", b"bytes"),
    ("region", "é" * 17),
    ("watts", 100_001),
    ("carbon_g_per_kwh", 5_001),
    ("relayed", 1),
    ("addresses", [ADDRESS] * (ADDRESSES_MAX + 1)),
    ("addresses", ["/ip4/192.0.2.1/tcp/4001"]),
    ("addresses", ["http://example.org"]),
    ("addresses", [4001]),
    ("addresses", ADDRESS),
]


@pytest.mark.parametrize(("name", "bad"), BAD)
def test_every_field_is_bounded(name: str, bad: object) -> None:
    value = unpack(full().encode())
    value[name] = bad
    with pytest.raises(WireError, match=f"advert {name}: "):
        decode_advert(pack(value))


@pytest.mark.parametrize("body", [b"", b"\xc0", pack([]), pack("advert"), b"\x81\xa1a", pack({"a": 1})])
def test_other_bytes_are_not_an_advert(body: bytes) -> None:
    with pytest.raises(WireError):
        decode_advert(body)


def test_an_advert_out_of_bounds_cannot_even_be_made() -> None:
    with pytest.raises(WireError, match="slots_free"):
        Advert(kinds=(), owner=KEY.account, slots_free=SLOTS_MAX + 1)
