"""SPEC.md's example bytes are pinned here: another implementation may check itself against the same file."""

import json
import re
from pathlib import Path

import pytest

from ledger.core.entries import decode_entry, decode_voucher, verify_entry, verify_voucher
from ledger.core.genesis import Genesis
from ledger.core.receipt import Receipt
from tests.core.ledger.example_network import ALICE, examples

ROOT = Path(__file__).parents[3]
PINNED: dict[str, str] = json.loads((ROOT / "tests" / "vectors" / "millrace" / "ledger.json").read_text())
COMPUTED = examples()


@pytest.mark.parametrize("name", PINNED)
def test_bytes_are_as_pinned(name: str) -> None:
    assert COMPUTED[name] == PINNED[name]


def test_nothing_is_left_out() -> None:
    assert COMPUTED.keys() == PINNED.keys()


def test_the_specification_shows_the_same_bytes() -> None:
    specification = ROOT / "SPEC.md"
    if not specification.exists():
        pytest.skip("SPEC.md is not here")
    remarks_gone = re.sub(r";.*", "", specification.read_text())
    shown = "".join(remarks_gone.split())
    missing = [name for name, value in PINNED.items() if value not in shown]
    assert not missing


def test_the_pinned_bytes_verify() -> None:
    genesis = Genesis.decode(bytes.fromhex(PINNED["genesis"]))
    for name in ("transfer", "lock", "claim", "expire"):
        assert verify_entry(decode_entry(bytes.fromhex(PINNED[name])), genesis.network_id)
    voucher = decode_voucher(bytes.fromhex(PINNED["voucher"]))
    assert verify_voucher(voucher, ALICE.account, genesis.network_id)
    Receipt.decode(bytes.fromhex(PINNED["receipt"])).verify(genesis)
