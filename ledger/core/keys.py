"""Ed25519 identities: one key is a peer, an account and, for witnesses, a vote (SPEC.md §2).

Libraries disagree on Ed25519's edge cases (small-order points, non-canonical encodings), which would let
an attacker split honest nodes. `verify` therefore refuses those encodings first and asks libsodium after.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NewType

import base58
import nacl.bindings
from nacl._sodium import ffi, lib

from ledger.core.encoding import Kind, NetworkId, WireError, signing_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ACCOUNT_BYTES",
    "SEED_BYTES",
    "SIGNATURE_BYTES",
    "SUSPECT_LAST_BYTES",
    "AccountId",
    "SigningKey",
    "account_from_peer_id",
    "count_verified",
    "is_strict_point",
    "peer_id",
    "verify",
    "verify_bytes",
    "verify_signed",
]

AccountId = NewType("AccountId", bytes)
"""An Ed25519 public key, 32 bytes: the identity of a peer and the name of its account."""

ACCOUNT_BYTES: Final = 32
SEED_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

_PRIME: Final = 2**255 - 19
_SIGN_MASK: Final = (1 << 255) - 1
# libp2p writes an Ed25519 public key as protobuf {Type: 1, Data: 32 bytes} inside an identity multihash.
_PEER_ID_PREFIX: Final = bytes((0x00, 0x24, 0x08, 0x01, 0x12, 0x20))
_PEER_ID_TEXT_MAX: Final = 64
# y coordinates of the eight points of small order, canonical and not; the sign bit is masked off.
_SMALL_ORDER_Y: Final = frozenset(
    (
        0,
        1,
        _PRIME - 1,
        _PRIME,
        _PRIME + 1,
        int.from_bytes(
            bytes.fromhex("26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05"), "little"
        ),
        int.from_bytes(
            bytes.fromhex("c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a"), "little"
        ),
    )
)
SUSPECT_LAST_BYTES: Final = frozenset(
    top | sign for top in (0x7F, *(y >> 248 for y in _SMALL_ORDER_Y)) for sign in (0, 0x80)
)
"""Only a point whose last byte is one of these can be refused: the quick way out."""
_crypto_sign_open: Final = lib.crypto_sign_open
_NULL: Final = ffi.NULL


class SigningKey:
    """A private Ed25519 key. Its seed never shows in `repr`, errors or logs."""

    __slots__ = ("_secret", "account")

    def __init__(self, seed: bytes) -> None:
        """Derive the key pair from a `seed` of 32 bytes (RFC 8032 §5.1.5); the seed comes from the caller."""
        if len(seed) != SEED_BYTES:
            raise ValueError(f"a key seed has {SEED_BYTES} bytes, not {len(seed)}")
        public, self._secret = nacl.bindings.crypto_sign_seed_keypair(seed)
        self.account = AccountId(public)

    def __repr__(self) -> str:
        return f"SigningKey({peer_id(self.account)})"

    @property
    def seed(self) -> bytes:
        """The 32 secret bytes, for the key file and the transport handshake only."""
        return bytes(self._secret[:SEED_BYTES])

    def sign(self, kind: Kind, network_id: NetworkId, body: bytes) -> bytes:
        """The 64-byte signature of `body` as a record of `kind` on one network."""
        signed: bytes = nacl.bindings.crypto_sign(signing_bytes(kind, network_id, body), self._secret)
        return signed[:SIGNATURE_BYTES]


def verify(account: bytes, signature: bytes, kind: Kind, network_id: NetworkId, body: bytes) -> bool:
    """Whether `signature` is `account`'s strict Ed25519 signature of `body` as a record of `kind`."""
    # libsodium wants the signature in front of what is signed: both are joined in one step.
    return len(signature) == SIGNATURE_BYTES and verify_signed(
        account, signing_bytes(kind, network_id, body, behind=signature)
    )


def verify_bytes(public_key: bytes, signature: bytes, message: bytes) -> bool:
    """Strict Ed25519 over raw bytes (SPEC.md §2): never raises, whatever the bytes are."""
    return len(signature) == SIGNATURE_BYTES and verify_signed(public_key, signature + message)


def verify_signed(public_key: bytes, signed: bytes) -> bool:
    """The same over `signed`, a signature and the message behind it in one piece, as libsodium wants them."""
    if not _is_strict(public_key, signed):
        return False
    # libsodium's own function, with the lock of the interpreter released: PyNaCl's wrapper copies the message out
    # again, which nobody reads. NULL says that it need not.
    result: int = _crypto_sign_open(_NULL, _NULL, signed, len(signed), public_key)
    return result == 0


def count_verified(public_keys: Sequence[bytes], signed: Sequence[bytes]) -> int:
    """How many, from the first on, `verify_signed` would find good: all, or those before the first that is not.

    Each is verified for itself. libsodium's turn comes when all else is done, and nothing but the call stands in its
    loop: whatever runs in between has lost its place in the processor's caches after each 50 µs of arithmetic.
    """
    count = 0
    for public_key, data in zip(public_keys, signed, strict=True):
        if not _is_strict(public_key, data):
            break
        count += 1
    check, null = _crypto_sign_open, _NULL
    for place in range(count):
        data = signed[place]
        if check(null, null, data, len(data), public_keys[place]):
            return place
    return count


def _is_strict(public_key: bytes, signed: bytes) -> bool:
    """Whether libsodium may be asked: lengths and both points are what SPEC.md §2 allows."""
    if len(public_key) != ACCOUNT_BYTES or len(signed) < SIGNATURE_BYTES:
        return False
    # Almost every key and signature is past the strict rule with its last byte: no call, no copy.
    if public_key[31] in SUSPECT_LAST_BYTES and not is_strict_point(public_key):
        return False
    return signed[31] not in SUSPECT_LAST_BYTES or is_strict_point(signed[:32])


def is_strict_point(encoded: bytes) -> bool:
    """Whether 32 bytes are a canonical encoding (y < 2^255 - 19) and not one of small order."""
    if encoded[31] not in SUSPECT_LAST_BYTES:
        return True
    y = int.from_bytes(encoded, "little") & _SIGN_MASK
    return y < _PRIME and y not in _SMALL_ORDER_Y


def peer_id(account: bytes) -> str:
    """The text form of an account: its libp2p peer id (`12D3Koo…`)."""
    return base58.b58encode(_PEER_ID_PREFIX + account).decode()


def account_from_peer_id(text: str) -> AccountId:
    """The account behind a peer id; anything but the one text of a strict Ed25519 peer id is a `WireError`."""
    # Base 58 takes quadratic time, and its decoder ignores white space at the end: bound it, and compare after.
    try:
        raw = base58.b58decode(text[:_PEER_ID_TEXT_MAX].encode("ascii"))
    except ValueError as error:
        raise WireError(f"{text[:80]!r} is not a peer id: it is not base58 text") from error
    account = raw[len(_PEER_ID_PREFIX) :]
    if len(account) != ACCOUNT_BYTES or peer_id(account) != text:
        raise WireError(f"{text[:80]!r} is not the peer id of an Ed25519 key (these start with 12D3Koo)")
    if not is_strict_point(account):
        raise WireError(f"{text[:80]!r} is the peer id of a weak key (small order or not canonical)")
    return AccountId(account)
