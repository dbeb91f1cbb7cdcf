"""The strict Ed25519 rule (SPEC.md §2) against public vectors: whole set, expected answer by answer."""

import json
from pathlib import Path

import pytest

from ledger.core.keys import SigningKey, account_from_peer_id, is_strict_point, peer_id, verify_bytes

VECTORS = Path(__file__).parent / "ed25519"
WYCHEPROOF = json.loads((VECTORS / "wycheproof.json").read_text())
SPECCHECK = json.loads((VECTORS / "speccheck.json").read_text())
SIGN_INPUT = (VECTORS / "sign.input").read_text().split()
# Only case 3 has canonical points of large order and a signature that the cofactorless equation accepts.
SPECCHECK_ACCEPTED = {3}


@pytest.mark.parametrize("case", WYCHEPROOF, ids=lambda case: f"tc{case['tcId']}")
def test_wycheproof(case: dict[str, str]) -> None:
    key, signature, message = (bytes.fromhex(case[name]) for name in ("pk", "sig", "msg"))
    assert verify_bytes(key, signature, message) is (case["result"] == "valid")


@pytest.mark.parametrize("number", range(len(SPECCHECK)))
def test_speccheck(number: int) -> None:
    case = SPECCHECK[number]
    key, signature, message = (bytes.fromhex(case[name]) for name in ("pub_key", "signature", "message"))
    assert verify_bytes(key, signature, message) is (number in SPECCHECK_ACCEPTED)


def test_sign_input() -> None:
    assert len(SIGN_INPUT) == 64
    for line in SIGN_INPUT:
        secret, public, message, signed, _ = line.split(":")
        key = SigningKey(bytes.fromhex(secret)[:32])
        assert key.account == bytes.fromhex(public)
        signature = bytes.fromhex(signed)[:64]
        assert verify_bytes(key.account, signature, bytes.fromhex(message))
        assert not verify_bytes(key.account, signature, bytes.fromhex(message) + b"\0")
        assert account_from_peer_id(peer_id(key.account)) == key.account


def test_the_quick_way_out_agrees_with_the_rule_for_every_top_byte() -> None:
    prime = 2**255 - 19
    small = {0, 1, prime - 1}
    for top in range(256):
        for rest in (
            bytes(31),
            b"\1" + bytes(30),
            b"\xff" * 31,
            b"\xec" + b"\xff" * 30,
            b"\xed" + b"\xff" * 30,
        ):
            encoded = rest + bytes((top,))
            y = int.from_bytes(encoded, "little") & (2**255 - 1)
            assert is_strict_point(encoded) is (y < prime and y not in small), encoded.hex()
