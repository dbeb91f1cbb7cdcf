"""The envelope's bytes are pinned, and nothing but those bytes passes (SPEC.md §10.1)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.core.encoding import Kind, NetworkId, WireError
from ledger.core.keys import SigningKey, verify
from p2p.core.envelope import (
    BODY_BYTES_MAX,
    CLOCK_SKEW_MS,
    ENVELOPE_BYTES_MAX,
    LIFETIME_MAX_MS,
    Envelope,
    EnvelopeKind,
    decode_envelope,
    open_envelope,
    seal,
    verify_envelope,
)

KEY = SigningKey(bytes(range(32)))
NETWORK = NetworkId(bytes(range(32, 64)))
NOW_MS = 1_700_000_000_000

SPEC_EXAMPLE = (
    "0101"
    "03a107bff3ce10be1d70dd18e74bc09967e4d6309ba50d5f1ddc8664125531b8"
    "0000018bcfe56800"
    "0000018bcfe65260"
    "0000ea60"
    "0003"
    "c0ffee"
)


def sealed(**changes: object) -> Envelope:
    fields: dict[str, object] = {
        "kind": EnvelopeKind.ADVERT,
        "sequence": NOW_MS,
        "now_ms": NOW_MS,
        "lifetime_ms": 60_000,
        "body": bytes.fromhex("c0ffee"),
    }
    return seal(KEY, NETWORK, **(fields | changes))  # type: ignore[arg-type]


def test_example_bytes_of_the_specification() -> None:
    envelope = sealed()
    assert envelope.signed_part().hex() == SPEC_EXAMPLE
    assert envelope.encode() == bytes.fromhex(SPEC_EXAMPLE) + envelope.signature
    assert decode_envelope(envelope.encode()) == envelope
    assert verify(KEY.account, envelope.signature, Kind.ENVELOPE, NETWORK, bytes.fromhex(SPEC_EXAMPLE))


def test_every_changed_byte_is_refused() -> None:
    data = sealed().encode()
    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 1
        with pytest.raises(WireError):
            open_envelope(bytes(changed), NETWORK, NOW_MS)


def test_another_network_does_not_accept_the_signature() -> None:
    assert verify_envelope(sealed(), NETWORK)
    assert not verify_envelope(sealed(), NetworkId(bytes(32)))


def test_every_cut_and_every_addition_is_refused() -> None:
    data = sealed().encode()
    for size in range(len(data)):
        with pytest.raises(WireError):
            decode_envelope(data[:size])
    with pytest.raises(WireError, match="too many"):
        decode_envelope(data + b"\0")


def test_largest_body_fits_and_one_more_byte_does_not() -> None:
    data = sealed(body=bytes(BODY_BYTES_MAX)).encode()
    assert len(data) == ENVELOPE_BYTES_MAX
    decode_envelope(data)
    with pytest.raises(ValueError, match="at most"):
        sealed(body=bytes(BODY_BYTES_MAX + 1))
    with pytest.raises(WireError, match="at most"):
        decode_envelope(data + bytes(1))


def test_expiry_and_future_have_the_skew_as_margin() -> None:
    data = sealed().encode()
    open_envelope(data, NETWORK, NOW_MS + 59_999 + CLOCK_SKEW_MS)
    open_envelope(data, NETWORK, NOW_MS - CLOCK_SKEW_MS)
    with pytest.raises(WireError, match="expired"):
        open_envelope(data, NETWORK, NOW_MS + 60_000 + CLOCK_SKEW_MS)
    with pytest.raises(WireError, match="future"):
        open_envelope(data, NETWORK, NOW_MS - CLOCK_SKEW_MS - 1)


@pytest.mark.parametrize("lifetime_ms", [0, LIFETIME_MAX_MS + 1])
def test_lifetime_is_bounded_on_both_sides(lifetime_ms: int) -> None:
    with pytest.raises(ValueError, match="lifetime"):
        sealed(lifetime_ms=lifetime_ms)
    bad = replace(sealed(), lifetime_ms=lifetime_ms)
    with pytest.raises(WireError, match="lifetime"):
        decode_envelope(bad.encode())


@pytest.mark.parametrize("sequence", [-1, 1 << 64])
def test_sequence_is_an_unsigned_64_bit_integer(sequence: int) -> None:
    with pytest.raises(ValueError, match="sequence"):
        sealed(sequence=sequence)


def test_the_identity_of_an_envelope_ignores_the_signature() -> None:
    envelope = sealed()
    assert replace(envelope, signature=bytes(64)).envelope_id() == envelope.envelope_id()
    assert sealed(sequence=1).envelope_id() != envelope.envelope_id()
