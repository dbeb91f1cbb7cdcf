"""Entries and vouchers (SPEC.md §3): layout, bounds, signatures, ids."""

import struct
from collections.abc import Callable
from dataclasses import replace

import pytest

from ledger.core.actions import DISPUTE_MS_MAX
from ledger.core.amounts import AMOUNT_MAX, LIMIT_SUM_MAX
from ledger.core.encoding import Kind, WireError, digest, signing_bytes
from ledger.core.entries import (
    ENTRY_BYTES_MAX,
    NO_APPROVALS,
    NO_KEY,
    SEQUENCE_MAX,
    Action,
    Approvals,
    Claim,
    Dispute,
    Entry,
    EntryType,
    Expire,
    Limit,
    Lock,
    Param,
    Rekey,
    Release,
    Rotate,
    Transfer,
    Verdict,
    Voucher,
    arbiters_hash,
    decode_entry,
    decode_voucher,
    sign_decree,
    sign_entry,
    sign_rekey,
    sign_verdict,
    sign_voucher,
    take_entry,
    verify_entry,
    verify_voucher,
)
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.keys import AccountId
from ledger.core.params import Params
from tests.core.ledger.ledger_forge import ALICE, BOB, FOREVER_MS, genesis

NETWORK = genesis().network_id
OTHER_NETWORK = genesis(name="another").network_id
LOCK_ID = bytes(range(32))
WEAK = AccountId(bytes((1, *bytes(31))))
MANY = tuple(AccountId(n.to_bytes(31, "big") + b"\x01") for n in range(65))
PAIR = tuple(sorted((ALICE.account, BOB.account)))
ACTIONS: dict[EntryType, Action] = {
    EntryType.TRANSFER: Transfer(BOB.account, 5, b"m" * 32),
    EntryType.LOCK: Lock(BOB.account, 6, 7000, b"t" * 32),
    EntryType.CLAIM: Claim(LOCK_ID, 8, b"v" * 64),
    EntryType.EXPIRE: Expire(LOCK_ID),
    EntryType.RELEASE: Release(LOCK_ID),
    EntryType.DISPUTE: Dispute(LOCK_ID, b"e" * 32),
    EntryType.VERDICT: Verdict(LOCK_ID, 9, PAIR, Approvals(0b10, (b"a" * 64,))),
    EntryType.LIMIT: Limit(BOB.account, -5, 3, Approvals(0b101, (b"a" * 64, b"b" * 64))),
    EntryType.REKEY: Rekey(BOB.account, NO_KEY, b"p" * 64),
    EntryType.ROTATE: Rotate(4, PAIR[::-1], Approvals(1, (b"a" * 64,))),
    EntryType.PARAM: Param(5, 77, Params(2, 3, 4, 5), NO_APPROVALS),
}
SIZES = {
    EntryType.TRANSFER: 193,
    EntryType.LOCK: 244,
    EntryType.CLAIM: 225,
    EntryType.EXPIRE: 153,
    EntryType.RELEASE: 153,
    EntryType.DISPUTE: 185,
    EntryType.VERDICT: 121 + 40 + 1 + 64 + 2 + 64,
    EntryType.LIMIT: 121 + 48 + 2 + 128,
    EntryType.REKEY: 249,
    EntryType.ROTATE: 121 + 9 + 64 + 2 + 64,
    EntryType.PARAM: 121 + 38 + 2,
}


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
    assert bodies[EntryType.EXPIRE] == bodies[EntryType.RELEASE] == LOCK_ID
    assert bodies[EntryType.DISPUTE] == LOCK_ID + b"e" * 32
    pair = b"\2" + PAIR[0] + PAIR[1]
    assert bodies[EntryType.VERDICT] == LOCK_ID + struct.pack(">Q", 9) + pair + b"\0\2" + b"a" * 64
    assert bodies[EntryType.LIMIT] == BOB.account + struct.pack(">qQH", -5, 3, 5) + b"a" * 64 + b"b" * 64
    assert bodies[EntryType.REKEY] == BOB.account + bytes(32) + b"p" * 64
    turned = b"\2" + PAIR[1] + PAIR[0]
    assert bodies[EntryType.ROTATE] == struct.pack(">Q", 4) + turned + b"\0\1" + b"a" * 64
    assert bodies[EntryType.PARAM] == struct.pack(">QQHQQIH", 5, 77, 2, 3, 4, 5, 0)


def test_a_lock_with_arbiters_has_its_dispute_fields_in_the_layout() -> None:
    lock = Lock(BOB.account, 6, 7000, b"t" * 32, 8, b"a" * 32, 2, 9_999)
    body = entry_of(lock).body()[57:]
    assert body[32:] == struct.pack(">QQQ", 6, 7000, 8) + b"a" * 32 + struct.pack(">BH", 2, 9_999) + b"t" * 32
    assert decode_entry(entry_of(lock).encode()).action == lock


def test_what_the_few_sign() -> None:
    """SPEC.md §3.4, byte by byte; neither the number of approvals nor who carries the entry matters."""
    rotate, param = ACTIONS[EntryType.ROTATE], ACTIONS[EntryType.PARAM]
    limit = ACTIONS[EntryType.LIMIT]
    assert isinstance(rotate, Rotate)
    assert isinstance(param, Param)
    assert isinstance(limit, Limit)
    bodies = {
        limit: struct.pack(">BQ", 8, 3) + BOB.account + struct.pack(">q", -5),
        rotate: struct.pack(">BQ", 10, 4) + b"\2" + PAIR[1] + PAIR[0],
        param: struct.pack(">BQQHQQI", 11, 5, 77, 2, 3, 4, 5),
    }
    for decree, body in bodies.items():
        assert sign_decree(ALICE, NETWORK, decree) == ALICE.sign(Kind.DECREE, NETWORK, body)
        other = replace(decree, approvals=Approvals(1, (b"z" * 64,)))
        assert sign_decree(ALICE, NETWORK, other) == sign_decree(ALICE, NETWORK, decree)
    verdict = ALICE.sign(Kind.VERDICT, NETWORK, LOCK_ID + struct.pack(">Q", 9))
    assert sign_verdict(ALICE, NETWORK, LOCK_ID, 9) == verdict
    proof = BOB.sign(Kind.REKEY, NETWORK, ALICE.account + struct.pack(">Q", 2) + BOB.account + bytes(32))
    assert sign_rekey(BOB, NETWORK, ALICE.account, 2, NO_KEY) == proof
    listed = digest(b"millrace/1 arbiters\0", b"\2", *PAIR)
    assert arbiters_hash(PAIR) == arbiters_hash(PAIR[::-1]) == listed


def test_approvals_name_their_signers_by_place() -> None:
    approvals = Approvals.collect(PAIR, {PAIR[1]: b"s" * 64})
    assert approvals == Approvals(0b10, (b"s" * 64,))
    assert approvals.signed_by(PAIR) == [(PAIR[1], b"s" * 64)]
    assert approvals.signed_by(PAIR[:1]) == []


def test_an_entry_may_be_signed_by_another_key_than_its_accounts_first() -> None:
    entry = sign_entry(
        BOB, NETWORK, seq=1, not_after_ms=0, fee=0, action=Expire(LOCK_ID), account=ALICE.account
    )
    assert entry.account == ALICE.account
    assert not verify_entry(entry, NETWORK)
    assert verify_entry(entry, NETWORK, BOB.account)


def test_rekeys_count_in_a_lane_of_their_own() -> None:
    lanes = {kind: entry_of(action).lane for kind, action in ACTIONS.items()}
    assert lanes.pop(EntryType.REKEY) == b"R" + ALICE.account
    assert set(lanes.values()) == {ALICE.account}


def test_the_longest_entry_is_a_rotate_by_everybody() -> None:
    rotate = Rotate(SEQUENCE_MAX, MANY[:64], Approvals(0xFFFF, tuple(b"s" * 64 for _ in range(16))))
    assert len(entry_of(rotate).encode()) == ENTRY_BYTES_MAX == 3204


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


@pytest.mark.parametrize("number", [0, *range(EntryType.PARAM + 1, 256)])
def test_unknown_types_are_refused(number: int) -> None:
    with pytest.raises(WireError, match="is unknown"):
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
        lambda: Lock(BOB.account, 1, 1, bytes(32), DISPUTE_MS_MAX + 1, b"a" * 32, 1),
        lambda: Lock(BOB.account, 1, 1, bytes(32), 1, b"a" * 32, 17),
        lambda: Lock(BOB.account, 1, 1, bytes(32), 1, b"a" * 32, 0),
        lambda: Lock(BOB.account, 1, 1, bytes(32), 1, bytes(32), 1),
        lambda: Lock(BOB.account, 1, 1, bytes(32), 0, b"a" * 32, 1),
        lambda: Lock(BOB.account, 1, 1, bytes(32), 1, b"a" * 32, 1, 10_001),
        lambda: Lock(BOB.account, 1, 1, bytes(32), 1, b"short", 1),
        lambda: Release(b"short"),
        lambda: Dispute(b"short"),
        lambda: Dispute(LOCK_ID, b"short"),
        lambda: Verdict(b"short", 1, PAIR, NO_APPROVALS),
        lambda: Verdict(LOCK_ID, -1, PAIR, NO_APPROVALS),
        lambda: Verdict(LOCK_ID, AMOUNT_MAX + 1, PAIR, NO_APPROVALS),
        lambda: Verdict(LOCK_ID, 1, (), NO_APPROVALS),
        lambda: Verdict(LOCK_ID, 1, PAIR[::-1], NO_APPROVALS),
        lambda: Verdict(LOCK_ID, 1, (PAIR[0], PAIR[0]), NO_APPROVALS),
        lambda: Verdict(LOCK_ID, 1, (WEAK,), NO_APPROVALS),
        lambda: Verdict(LOCK_ID, 1, PAIR, Approvals(0b100, (b"a" * 64,))),
        lambda: Limit(BOB.account, 0),
        lambda: Limit(WEAK, 1),
        lambda: Limit(BOB.account, LIMIT_SUM_MAX + 1),
        lambda: Limit(BOB.account, -LIMIT_SUM_MAX - 1),
        lambda: Limit(BOB.account, 1, -1),
        lambda: Limit(BOB.account, 1, 0, Approvals(1, (b"a" * 64,))),
        lambda: Rekey(WEAK, NO_KEY, bytes(64)),
        lambda: Rekey(NO_KEY, NO_KEY, bytes(64)),
        lambda: Rekey(BOB.account, WEAK, bytes(64)),
        lambda: Rekey(BOB.account, NO_KEY, bytes(63)),
        lambda: Rotate(0, PAIR, NO_APPROVALS),
        lambda: Rotate(1, (), NO_APPROVALS),
        lambda: Rotate(1, (PAIR[0], PAIR[0]), NO_APPROVALS),
        lambda: Rotate(1, (WEAK,), NO_APPROVALS),
        lambda: Rotate(1, MANY, NO_APPROVALS),
        lambda: Param(0, 1, Params(), NO_APPROVALS),
        lambda: Param(1, 0, Params(), NO_APPROVALS),
        lambda: Params(version=0),
        lambda: Params(version=1 << 16),
        lambda: Params(fee_min=AMOUNT_MAX + 1),
        lambda: Params(dispute_fee=-1),
        lambda: Params(slot_timeout_ms=0),
        lambda: Params(slot_timeout_ms=600_001),
        lambda: Approvals(1 << 16, (b"a" * 64,)),
        lambda: Approvals(1, ()),
        lambda: Approvals(-1, ()),
        lambda: Approvals(1, (b"a" * 63,)),
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
