"""Entries and vouchers (SPEC.md §3): layout, bounds, signatures, ids."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.core.amounts import AMOUNT_MAX
from ledger.core.encoding import Kind, WireError, digest, signing_bytes
from ledger.core.entries import (
    ENTRY_BYTES_MAX,
    SEQUENCE_MAX,
    Action,
    Claim,
    Entry,
    EntryType,
    Expire,
    Lock,
    Transfer,
    Voucher,
    decode_entry,
    decode_voucher,
    sign_entry,
    sign_voucher,
    take_entry,
    verify_entry,
    verify_voucher,
)
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import AccountId
from tests.core.ledger.ledger_forge import ALICE, BOB, FOREVER_MS, genesis

NETWORK = genesis().network_id
OTHER_NETWORK = genesis(name="another").network_id
LOCK_ID = bytes(range(32))
WEAK = AccountId(bytes((1, *bytes(31))))
ACTIONS: dict[EntryType, Action] = {
    EntryType.TRANSFER: Transfer(BOB.account, 5, b"m" * 32),
    EntryType.LOCK: Lock(BOB.account, 6, 7000, b"t" * 32),
    EntryType.CLAIM: Claim(LOCK_ID, 8, b"v" * 64),
    EntryType.EXPIRE: Expire(LOCK_ID),
}
SIZES = {EntryType.TRANSFER: 193, EntryType.LOCK: 244, EntryType.CLAIM: 225, EntryType.EXPIRE: 153}


def entry_of(action: Action) -> Entry:
    return sign_entry(ALICE, NETWORK, seq=1, not_after_ms=FOREVER_MS, fee=3, action=action)


@pytest.mark.parametrize("kind", ACTIONS)
def test_layout_and_round_trip(kind: EntryType) -> None:
    entry = entry_of(ACTIONS[kind])
    encoded = entry.encode()
    assert len(encoded) == SIZES[kind] <= ENTRY_BYTES_MAX
    assert encoded[:57] == struct.pack(">B32sQQQ", kind, ALICE.account, 1, FOREVER_MS, 3)
    assert encoded == entry.body() + entry.signature
    assert decode_entry(encoded) == entry
    assert take_entry(b"xx" + encoded + b"yy", 2) == (entry, 2 + len(encoded))
    assert entry.entry_id(NETWORK) == digest(signing_bytes(Kind.ENTRY, NETWORK, entry.body()))


def test_payloads_are_where_the_specification_puts_them() -> None:
    bodies = {kind: entry_of(action).body()[57:] for kind, action in ACTIONS.items()}
    assert bodies[EntryType.TRANSFER] == BOB.account + struct.pack(">Q", 5) + b"m" * 32
    lock = BOB.account + struct.pack(">QQQ", 6, 7000, 0) + bytes(32) + struct.pack(">BH", 0, 0) + b"t" * 32
    assert bodies[EntryType.LOCK] == lock
    assert bodies[EntryType.CLAIM] == LOCK_ID + struct.pack(">Q", 8) + b"v" * 64
    assert bodies[EntryType.EXPIRE] == LOCK_ID


@pytest.mark.parametrize("kind", ACTIONS)
def test_signature_binds_every_byte_and_the_network(kind: EntryType) -> None:
    entry = entry_of(ACTIONS[kind])
    assert verify_entry(entry, NETWORK)
    assert not verify_entry(entry, OTHER_NETWORK)
    encoded = entry.encode()
    for place in range(len(encoded)):
        mutated = bytearray(encoded)
        mutated[place] ^= 1
        try:
            other = decode_entry(bytes(mutated))
        except WireError:
            continue
        assert not verify_entry(other, NETWORK), f"byte {place}"


def test_the_id_does_not_depend_on_the_signature_but_on_the_network() -> None:
    entry = entry_of(ACTIONS[EntryType.TRANSFER])
    assert replace(entry, signature=b"s" * 64).entry_id(NETWORK) == entry.entry_id(NETWORK)
    assert entry.entry_id(OTHER_NETWORK) != entry.entry_id(NETWORK)
    assert replace(entry, fee=4).entry_id(NETWORK) != entry.entry_id(NETWORK)


@pytest.mark.parametrize("number", [0, *range(EntryType.RELEASE, 256)])
def test_unknown_and_reserved_types_are_refused(number: int) -> None:
    with pytest.raises(WireError, match="unknown or not in use"):
        decode_entry(bytes((number,)) + entry_of(ACTIONS[EntryType.LOCK]).encode()[1:])


@pytest.mark.parametrize("kind", ACTIONS)
def test_wrong_lengths_are_refused(kind: EntryType) -> None:
    encoded = entry_of(ACTIONS[kind]).encode()
    for broken in (b"", encoded[:1], encoded[:-1], encoded + b"\0"):
        with pytest.raises(WireError):
            decode_entry(broken)
    with pytest.raises(WireError):
        take_entry(encoded, -1)


@pytest.mark.parametrize(
    "build",
    [
        lambda: Transfer(BOB.account, 0),
        lambda: Transfer(BOB.account, AMOUNT_MAX + 1),
        lambda: Transfer(WEAK, 1),
        lambda: Transfer(AccountId(BOB.account + b"x"), 1),
        lambda: Transfer(BOB.account, 1, b"short"),
        lambda: Lock(BOB.account, 0, 1),
        lambda: Lock(BOB.account, -1, 1),
        lambda: Lock(WEAK, 1, 1),
        lambda: Lock(BOB.account, 1, -1),
        lambda: Lock(BOB.account, 1, TIME_MS_MAX + 1),
        lambda: Lock(BOB.account, 1, 1, b"short"),
        lambda: Lock(BOB.account, 1, 1, dispute_ms=1),
        lambda: Lock(BOB.account, 1, 1, arbiters_hash=b"a" * 32),
        lambda: Lock(BOB.account, 1, 1, arbiters_needed=1),
        lambda: Lock(BOB.account, 1, 1, default_bps=1),
        lambda: Claim(b"short", 1, b"v" * 64),
        lambda: Claim(LOCK_ID, -1),
        lambda: Claim(LOCK_ID, AMOUNT_MAX + 1, b"v" * 64),
        lambda: Claim(LOCK_ID, 1, b"short"),
        lambda: Claim(LOCK_ID, 0, b"v" * 64),
        lambda: Expire(b"short"),
        lambda: Entry(WEAK, 1, 0, 0, Expire(LOCK_ID), bytes(64)),
        lambda: Entry(ALICE.account, 0, 0, 0, Expire(LOCK_ID), bytes(64)),
        lambda: Entry(ALICE.account, SEQUENCE_MAX + 1, 0, 0, Expire(LOCK_ID), bytes(64)),
        lambda: Entry(ALICE.account, 1, -1, 0, Expire(LOCK_ID), bytes(64)),
        lambda: Entry(ALICE.account, 1, TIME_MS_MAX + 1, 0, Expire(LOCK_ID), bytes(64)),
        lambda: Entry(ALICE.account, 1, 0, -1, Expire(LOCK_ID), bytes(64)),
        lambda: Entry(ALICE.account, 1, 0, AMOUNT_MAX + 1, Expire(LOCK_ID), bytes(64)),
        lambda: Entry(ALICE.account, 1, 0, 0, Expire(LOCK_ID), bytes(63)),
        lambda: Voucher(b"short", 1, bytes(64)),
        lambda: Voucher(LOCK_ID, 0, bytes(64)),
        lambda: Voucher(LOCK_ID, AMOUNT_MAX + 1, bytes(64)),
        lambda: Voucher(LOCK_ID, 1, bytes(63)),
    ],
)
def test_fields_out_of_bounds_cannot_be_built(build: Callable[[], object]) -> None:
    with pytest.raises(WireError):
        build()


@pytest.mark.parametrize(
    ("kind", "place", "field"),
    [
        (EntryType.TRANSFER, slice(33, 41), b"\xff" * 8),  # seq
        (EntryType.TRANSFER, slice(41, 49), b"\xff" * 8),  # not_after
        (EntryType.TRANSFER, slice(49, 57), b"\xff" * 8),  # fee
        (EntryType.TRANSFER, slice(89, 97), bytes(8)),  # amount
        (EntryType.TRANSFER, slice(1, 33), bytes(32)),  # account
        (EntryType.LOCK, slice(105, 113), b"\0" * 7 + b"\1"),  # dispute_ms
        (EntryType.CLAIM, slice(89, 97), bytes(8)),  # cumulative 0 with a voucher signature
    ],
)
def test_fields_out_of_bounds_do_not_decode(kind: EntryType, place: slice, field: bytes) -> None:
    encoded = bytearray(entry_of(ACTIONS[kind]).encode())
    encoded[place] = field
    with pytest.raises(WireError):
        decode_entry(bytes(encoded))


def test_vouchers() -> None:
    voucher = sign_voucher(ALICE, NETWORK, LOCK_ID, 9)
    assert len(voucher.encode()) == 104
    assert voucher.encode()[:40] == LOCK_ID + struct.pack(">Q", 9)
    assert decode_voucher(voucher.encode()) == voucher
    assert verify_voucher(voucher, ALICE.account, NETWORK)
    assert not verify_voucher(voucher, BOB.account, NETWORK)
    assert not verify_voucher(voucher, ALICE.account, OTHER_NETWORK)
    assert not verify_voucher(replace(voucher, cumulative=10), ALICE.account, NETWORK)
    for broken in (b"", voucher.encode()[:-1], voucher.encode() + b"\0"):
        with pytest.raises(WireError):
            decode_voucher(broken)


def test_a_voucher_signature_is_no_entry_signature() -> None:
    entry = entry_of(ACTIONS[EntryType.EXPIRE])
    forged = replace(entry, signature=ALICE.sign(Kind.VOUCHER, NETWORK, entry.body()))
    assert not verify_entry(forged, NETWORK)
