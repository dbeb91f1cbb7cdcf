"""Many entries at once and one by one: both ways end in the same values, refusals and state, whatever comes."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import FrozenInstanceError, fields

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.actions import SEQUENCE_MAX, Expire, Transfer
from ledger.core.amounts import AMOUNT_MAX
from ledger.core.bulk import apply_transfers, count_signed, take_entries
from ledger.core.encoding import WireError
from ledger.core.entries import Entry, sign_entry, take_entry, verify_entry
from ledger.core.genesis import TIME_MS_MAX
from ledger.core.state import LedgerState, Moment, Refusal
from tests.property.ledger.test_two_readings import Comparison
from tests.property.ledger.traffic import PEOPLE, network

NETWORK = network().network_id
MANY = settings(max_examples=200, deadline=None)
TRANSFER_BYTES = 193


def pay(seq: int) -> Entry:
    return sign_entry(
        PEOPLE[0], NETWORK, seq=seq, not_after_ms=2_000_000, fee=1, action=Transfer(PEOPLE[1].account, 5)
    )


def expire(seq: int) -> Entry:
    return sign_entry(PEOPLE[1], NETWORK, seq=seq, not_after_ms=2_000_000, fee=0, action=Expire(bytes(32)))


SIGNED = [pay(1), pay(2), expire(1), pay(3)]
# Where a transfer's fields are that have bounds, their width, and values about those bounds.
FIELDS = {
    33: (8, (0, 1, SEQUENCE_MAX, SEQUENCE_MAX + 1)),
    41: (8, (0, TIME_MS_MAX, TIME_MS_MAX + 1, (1 << 64) - 1)),
    49: (8, (0, AMOUNT_MAX, AMOUNT_MAX + 1)),
    89: (8, (0, 1, AMOUNT_MAX, AMOUNT_MAX + 1)),
    # The last byte of an account and of a payee; and their whole keys, weak ones.
    32: (1, range(256)),
    88: (1, range(256)),
    1: (32, (0, 1, 1 << 248)),
    57: (32, (0, 1, 1 << 248)),
    0: (1, range(14)),
}


def one_by_one(data: bytes, count: int, end_max: int) -> list[Entry] | str:
    entries, at = [], 0
    try:
        for _ in range(count):
            entry, at = take_entry(data, at)
            if at > end_max:
                return f"entries: they have more than {end_max} bytes"
            entries.append(entry)
    except WireError as error:
        return str(error)
    return entries


def at_once(data: bytes, count: int, end_max: int) -> list[Entry] | str:
    try:
        entries, end = take_entries(data, 0, count, end_max)
    except WireError as error:
        return str(error)
    assert end == sum(len(entry.encoded) for entry in entries)
    return list(entries)


@st.composite
def spoiled(draw: st.DrawFn) -> bytes:
    """Entries of which some fields are at or over their bounds, or cut short."""
    data = bytearray(b"".join(entry.encoded for entry in draw(st.lists(st.sampled_from(SIGNED), max_size=4))))
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.sampled_from(sorted(FIELDS)))
        width, values = FIELDS[place]
        at = draw(st.integers(0, 3)) * TRANSFER_BYTES + place
        if at + width <= len(data):
            data[at : at + width] = draw(st.sampled_from(values)).to_bytes(width, "big")
    return bytes(data[: draw(st.sampled_from((len(data), len(data) - 1, draw(st.integers(0, 800)))))])


@given(spoiled(), st.integers(0, 5), st.sampled_from((192, 193, 194, 386, 1000)))
@MANY
def test_entries_are_read_alike(data: bytes, count: int, end_max: int) -> None:
    assert at_once(data, count, end_max) == one_by_one(data, count, end_max)


@pytest.mark.parametrize("place", FIELDS)
def test_every_bound_of_a_transfer_is_the_same(place: int) -> None:
    width, values = FIELDS[place]
    for value in values:
        data = bytearray(SIGNED[0].encoded)
        data[place : place + width] = value.to_bytes(width, "big")
        assert at_once(bytes(data), 1, len(data)) == one_by_one(bytes(data), 1, len(data)), value


def test_what_is_read_at_once_is_no_lesser_value() -> None:
    ((read,), _) = take_entries(SIGNED[0].encoded, 0, 1, TRANSFER_BYTES)
    assert type(read) is Entry
    assert type(read.action) is Transfer
    assert (read, hash(read), repr(read)) == (SIGNED[0], hash(SIGNED[0]), repr(SIGNED[0]))
    assert [getattr(read, one.name) for one in fields(Entry) if one.name != "named"] == [
        getattr(SIGNED[0], one.name) for one in fields(Entry) if one.name != "named"
    ]
    assert read.entry_id(NETWORK) == SIGNED[0].entry_id(NETWORK)
    for value, name in ((read, "seq"), (read.action, "amount")):
        with pytest.raises(FrozenInstanceError):
            setattr(value, name, 7)


@given(st.lists(st.tuples(st.sampled_from(SIGNED), st.integers(0, 63), st.sampled_from((0,) * 7 + (1, 128)))))
@MANY
def test_signatures_are_counted_up_to_the_first_that_does_not_hold(
    spoils: list[tuple[Entry, int, int]],
) -> None:
    entries = []
    for entry, place, flip in spoils:
        spoilt = bytearray(entry.signature)
        spoilt[place] ^= flip
        entries.append(
            Entry(entry.account, entry.seq, entry.not_after_ms, entry.fee, entry.action, bytes(spoilt))
        )
    keys = [entry.account for entry in entries]
    expected = next(
        (at for at, entry in enumerate(entries) if not verify_entry(entry, NETWORK)), len(entries)
    )
    assert count_signed(entries, keys, NETWORK) == expected
    fresh = [take_entry(entry.encoded, 0)[0] for entry in entries]
    assert [e.entry_id(NETWORK) for e in entries] == [e.entry_id(NETWORK) for e in fresh]


class Together(Comparison):
    """The traffic of `test_two_readings`, each block's entries once more at once, on a copy of the state."""

    def block(self, height: int, entries: int) -> None:
        many = LedgerState(self.genesis, deepcopy(self.state.holdings))
        self.signed: list[Entry] = []
        self.reasons: list[Refusal] = []
        self.at: Moment | None = None
        super().block(height, 3 * entries)
        if self.at is None:
            return
        found, rest = [], self.signed
        while (refused := many.apply_all(rest, self.at)) is not None:
            place, why = refused
            found.append(why)
            rest = rest[place + 1 :]
        many.close_block(self.at)
        many.assert_invariants()
        assert found == self.reasons
        assert many.snapshot() == self.state.snapshot()
        assert [vars_of(layer) for layer in many.holdings.layers] == [
            vars_of(layer) for layer in self.state.holdings.layers
        ]

    def judge(self, entry: Entry, at: Moment) -> None:
        if verify_entry(entry, self.genesis.network_id, self.state.signer(entry)):
            self.at = at
            self.signed.append(entry)
            refusal = self.state.check(entry, at)
            self.reasons += [] if refusal is None else [refusal]
        super().judge(entry, at)


def vars_of(layer: object) -> list[object]:
    return [getattr(layer, one.name) for one in fields(layer)]  # type: ignore[arg-type]


@given(st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_entries_are_applied_alike(seed: int) -> None:
    together = Together(seed)
    for _ in range(25):
        together.step()


def test_the_short_way_is_taken_by_what_it_is_for() -> None:
    """Without this, the tests above would hold for a short way that nothing takes."""
    genesis = network()
    state = LedgerState(genesis)
    at = Moment(1, 1_999_000, PEOPLE[2].account, 0)
    assert apply_transfers(state.holdings, NETWORK, SIGNED, 0, at) == 2
    assert state.account(PEOPLE[0].account).seq == 2
    assert state.account(PEOPLE[2].account).balance == 2
