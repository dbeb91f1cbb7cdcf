"""Any bytes: a value or `WireError`, never anything else; and what is encoded comes back."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.encoding import NetworkId, WireError, pack
from ledger.core.keys import AccountId, SigningKey, peer_id
from p2p.core.addresses import parse_address
from p2p.core.advertbook import Accepted, AdvertBook, Refusal
from p2p.core.adverts import Advert, decode_advert
from p2p.core.envelope import LIFETIME_MAX_MS, EnvelopeKind, decode_envelope, open_envelope, seal
from p2p.core.messages import (
    Envelopes,
    FetchQuestion,
    IndexPage,
    IndexQuestion,
    PeersAnswer,
    PeersQuestion,
    decode_answer,
    decode_question,
)
from p2p.core.peers import PeerBook, Trust

KEY = SigningKey(bytes(range(32)))
NETWORK = NetworkId(bytes(range(32)))
NOW_MS = 1_700_000_000_000

accounts = st.integers(2, 1 << 250).map(lambda y: AccountId(y.to_bytes(32, "little")))
hosts = st.one_of(
    st.ip_addresses(v=4).map(lambda ip: f"/ip4/{ip}"), st.ip_addresses(v=6).map(lambda ip: f"/ip6/{ip}")
)
kinds = st.from_regex(r"[a-z][a-z0-9_.-]{0,23}", fullmatch=True)
texts = st.text(st.characters(categories=("L", "N", "P", "Zs"), exclude_characters="\u00a0"), max_size=8)


@st.composite
def addresses(draw: st.DrawFn, account: AccountId) -> str:
    return f"{draw(hosts)}/tcp/{draw(st.integers(1, 65535))}/p2p/{peer_id(account)}"


@st.composite
def adverts(draw: st.DrawFn) -> Advert:
    return Advert(
        kinds=tuple(draw(st.lists(kinds, max_size=16, unique=True))),
        owner=KEY.account,
        slots_free=draw(st.integers(0, 4096)),
        runtimes=draw(st.dictionaries(kinds, st.from_regex(r"[ -~]{0,64}", fullmatch=True), max_size=16)),
        cores=draw(st.integers(0, 4096)),
        memory_bytes=draw(st.integers(0, 1 << 50)),
        rates=draw(st.dictionaries(kinds, st.integers(0, 1 << 62), max_size=16)),
        price_per_tfuel=draw(st.integers(0, 1 << 48)),
        price_core_hour=draw(st.integers(0, 1 << 48)),
        name=draw(st.from_regex(r"[ -~]{0,32}", fullmatch=True)),
        region=draw(st.from_regex(r"[ -~]{0,32}", fullmatch=True)),
        watts=draw(st.integers(0, 100_000)),
        carbon_g_per_kwh=draw(st.integers(0, 5_000)),
        relayed=draw(st.booleans()),
        addresses=tuple(draw(st.lists(addresses(KEY.account), max_size=8))),
    )


@given(adverts())
@settings(max_examples=60, deadline=None)
def test_adverts_round_trip_and_enter_the_book(advert: Advert) -> None:
    assert decode_advert(advert.encode()) == advert
    envelope = seal(
        KEY,
        NETWORK,
        kind=EnvelopeKind.ADVERT,
        sequence=1,
        now_ms=NOW_MS,
        lifetime_ms=60_000,
        body=advert.encode(),
    )
    assert isinstance(AdvertBook(NETWORK).offer(envelope.encode(), NOW_MS), Accepted)


@given(
    st.sampled_from(EnvelopeKind),
    st.integers(0, (1 << 64) - 1),
    st.integers(0, 1 << 50),
    st.integers(1, LIFETIME_MAX_MS),
    st.binary(max_size=300),
)
@settings(max_examples=60, deadline=None)
def test_envelopes_round_trip(
    kind: EnvelopeKind, sequence: int, now_ms: int, lifetime_ms: int, body: bytes
) -> None:
    envelope = seal(
        KEY, NETWORK, kind=kind, sequence=sequence, now_ms=now_ms, lifetime_ms=lifetime_ms, body=body
    )
    assert open_envelope(envelope.encode(), NETWORK, now_ms) == envelope


GOOD = seal(
    KEY,
    NETWORK,
    kind=EnvelopeKind.ADVERT,
    sequence=7,
    now_ms=NOW_MS,
    lifetime_ms=60_000,
    body=Advert(kinds=("wasm",), owner=KEY.account, slots_free=1).encode(),
).encode()


@given(st.data())
@settings(max_examples=150, deadline=None)
def test_mutated_envelopes_are_refused_and_the_book_is_untouched(data: st.DataObject) -> None:
    book = AdvertBook(NETWORK)
    assert isinstance(book.offer(GOOD, NOW_MS), Accepted)
    before = (book.items(NOW_MS), book.summary())
    at = data.draw(st.integers(0, len(GOOD)))
    cut = data.draw(st.integers(0, 20))
    mutated = GOOD[:at] + data.draw(st.binary(max_size=20)) + GOOD[at + cut :]
    assert isinstance(book.offer(mutated, NOW_MS), Refusal)
    assert (book.items(NOW_MS), book.summary()) == before


@pytest.mark.parametrize("decode", [decode_envelope, decode_advert, decode_question, decode_answer])
@given(data=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_garbage_is_a_wire_error_or_a_value(decode: Any, data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(data)


@pytest.mark.parametrize("opcode", [1, 2, 3, 4, 0x81, 0x82, 0x83, 0x84, 0xFF])
@given(data=st.binary(max_size=200))
@settings(max_examples=60, deadline=None)
def test_garbage_behind_each_opcode(opcode: int, data: bytes) -> None:
    for decode in (decode_question, decode_answer):
        try:
            value = decode(bytes((opcode,)) + data)
        except WireError:
            continue
        assert value.encode() == bytes((opcode,)) + data, "one encoding of each message"


msgpack_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats()
    | st.text()
    | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from([*Advert.__dataclass_fields__, "later"]), msgpack_values))
@settings(max_examples=200, deadline=None)
def test_any_map_is_an_advert_or_a_wire_error(value: dict[str, Any]) -> None:
    value = {"kinds": ["wasm"], "owner": KEY.account, "slots_free": 1} | value
    with contextlib.suppress(WireError):
        decode_advert(pack(value))


@given(st.text(max_size=120))
@settings(max_examples=200, deadline=None)
def test_any_text_is_an_address_or_a_wire_error(text: str) -> None:
    for candidate in (text, f"/ip4/{text}/tcp/1", f"/ip6/::1/tcp/{text}", f"/dns/{text}/tcp/1/p2p/{text}"):
        with contextlib.suppress(WireError):
            parse_address(candidate)


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_messages_round_trip(data: st.DataObject) -> None:
    some = data.draw(st.lists(accounts, max_size=6, unique=True))
    after = bytes(data.draw(accounts))
    for question in (
        IndexQuestion(frozenset(data.draw(st.sets(st.integers(0, 63)))), after),
        FetchQuestion(tuple(some) or (KEY.account,)),
        PeersQuestion(
            data.draw(st.integers(0, 255)), tuple(data.draw(st.lists(addresses(KEY.account), max_size=8)))
        ),
    ):
        assert decode_question(question.encode()) == question
    entries = tuple((author, data.draw(st.integers(0, (1 << 64) - 1))) for author in sorted(some))
    for answer in (
        IndexPage(entries, bool(entries) and data.draw(st.booleans())),
        Envelopes(tuple(data.draw(st.lists(st.binary(max_size=50), max_size=8)))),
        PeersAnswer(tuple((peer, tuple(data.draw(st.lists(addresses(peer), max_size=3)))) for peer in some)),
    ):
        assert decode_answer(answer.encode()) == answer


@given(st.binary(max_size=300))
@settings(max_examples=100, deadline=None)
def test_a_garbage_peer_book_is_a_wire_error(data: bytes) -> None:
    for candidate in (data, b"MRPB\x01" + data):
        with pytest.raises(WireError):
            PeerBook.from_bytes(candidate, KEY.account, NETWORK)


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_peer_books_round_trip(data: st.DataObject) -> None:
    book = PeerBook(KEY.account)
    for peer in data.draw(st.lists(accounts, max_size=8)):
        told = data.draw(st.lists(addresses(peer), min_size=1, max_size=3))
        book.learn(peer, told, data.draw(st.sampled_from(Trust)), data.draw(st.integers(0, 1 << 50)))
    again = PeerBook.from_bytes(book.to_bytes(NETWORK), KEY.account, NETWORK)
    assert again.peers() == book.peers()
