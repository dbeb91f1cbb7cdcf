"""Keys and peer ids (SPEC.md §2); the strict signature rule has its public vectors in tests/vectors."""

import base58
import pytest

from ledger.core.encoding import Kind, NetworkId, WireError
from ledger.core.keys import SigningKey, account_from_peer_id, peer_id, verify, verify_bytes

KEY = SigningKey(bytes(range(32)))
NETWORK = NetworkId(bytes(32))
PREFIX = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))


def test_a_signature_names_kind_network_and_body() -> None:
    signature = KEY.sign(Kind.ENTRY, NETWORK, b"body")
    assert verify(KEY.account, signature, Kind.ENTRY, NETWORK, b"body")
    assert not verify(KEY.account, signature, Kind.VOUCHER, NETWORK, b"body")
    assert not verify(KEY.account, signature, Kind.ENTRY, NetworkId(b"n" * 32), b"body")
    assert not verify(KEY.account, signature, Kind.ENTRY, NETWORK, b"bodY")
    assert not verify(SigningKey(b"o" * 32).account, signature, Kind.ENTRY, NETWORK, b"body")


@pytest.mark.parametrize(("key", "signature"), [(b"", bytes(64)), (bytes(32), b""), (bytes(33), bytes(64))])
def test_any_bytes_verify_as_false(key: bytes, signature: bytes) -> None:
    assert verify_bytes(key, signature, b"") is False


def test_a_malleable_signature_is_refused() -> None:
    """s + group order satisfies the equation, too: accepted, one entry would have two encodings."""
    signature = KEY.sign(Kind.ENTRY, NETWORK, b"body")
    order = 2**252 + 27742317777372353535851937790883648493
    s = int.from_bytes(signature[32:], "little") + order
    forged = signature[:32] + s.to_bytes(32, "little")
    assert not verify(KEY.account, forged, Kind.ENTRY, NETWORK, b"body")


def test_the_seed_stays_inside() -> None:
    assert KEY.seed == bytes(range(32))
    assert repr(KEY) == f"SigningKey({peer_id(KEY.account)})"
    with pytest.raises(ValueError, match="32 bytes, not 31"):
        SigningKey(bytes(31))


def test_peer_id_and_account_are_inverse() -> None:
    assert account_from_peer_id(peer_id(KEY.account)) == KEY.account


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0OIl",
        "12D3KooW",
        "é",
        base58.b58encode(PREFIX + bytes(32)).decode(),
        base58.b58encode(PREFIX + KEY.account[:31]).decode(),
        base58.b58encode(b"\x12\x20" + bytes(32)).decode(),
        peer_id(KEY.account) + "1",
        "1" + peer_id(KEY.account),
        peer_id(KEY.account) + " ",
        peer_id(KEY.account) + "\n",
        " " + peer_id(KEY.account),
        "z" * 1_000_000,
    ],
    ids=lambda text: repr(text[:8] + text[-3:]),
)
def test_what_is_no_peer_id(text: str) -> None:
    with pytest.raises(WireError, match="peer id"):
        account_from_peer_id(text)
