"""The peer book: who may add what, who goes first, what survives (SPEC.md §11.2, §11.5)."""

from __future__ import annotations

import random

import pytest

from ledger.core.encoding import NetworkId, WireError
from ledger.core.keys import AccountId, SigningKey, peer_id
from p2p.core.addresses import parse_address
from p2p.core.peers import (
    ADDRESSES_PER_PEER_MAX,
    ANCHORS_MAX,
    FAILURES_RECOMMENDED_MAX,
    FAILURES_UNREACHED_MAX,
    GROUP_UNREACHED_MAX,
    PEERS_MAX,
    RETRY_FIRST_MS,
    RETRY_REACHED_MAX_MS,
    TOLD_UNREACHED_MAX,
    PeerBook,
    Trust,
    retry_delay_ms,
)

NETWORK = NetworkId(bytes(range(32)))
NOW_MS = 1_700_000_000_000
ME = SigningKey(bytes(32)).account
LOOPBACK = (parse_address("/ip4/127.0.0.1/tcp/9"),)


def account(number: int) -> AccountId:
    """Any strict point will do: most small y coordinates are accepted as encodings."""
    return AccountId((number + 2).to_bytes(32, "little"))


def at(number: int, host: str = "127.0.0.1", port: int = 0) -> str:
    return f"/ip4/{host}/tcp/{port or 1000 + number}/p2p/{peer_id(account(number))}"


def below(seed: int = 1) -> object:
    return random.Random(seed).randrange


def texts(book: PeerBook, number: int) -> list[str]:
    peer = book.get(account(number))
    return [address.text for address in peer.addresses] if peer else []


def candidates(book: PeerBook, count: int = 100, now_ms: int = NOW_MS, seed: int = 1) -> list[AccountId]:
    found = book.candidates(now_ms, (), LOOPBACK, count, random.Random(seed).randrange)
    return [peer.account for peer in found]


def test_learning_and_versions() -> None:
    book = PeerBook(ME)
    assert book.learn(account(1), [at(1)], Trust.HEARSAY, NOW_MS)
    assert texts(book, 1) == [at(1)]
    version = book.version
    assert not book.learn(account(1), [at(1)], Trust.HEARSAY, NOW_MS)
    assert not book.learn(ME, [f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id(ME)}"], Trust.PROVEN, NOW_MS)
    assert not book.learn(account(2), [at(1), "garbage", "/ip4/127.0.0.1/tcp/1"], Trust.OWN_WORD, NOW_MS)
    assert not book.learn(account(2), [at(2, "0.0.0.0")], Trust.OWN_WORD, NOW_MS)  # noqa: S104 - refused
    assert not book.learn(account(2), [], Trust.OWN_WORD, NOW_MS)
    assert book.version == version
    assert len(book) == 1


def test_hearsay_does_not_touch_a_peer_that_spoke_for_itself() -> None:
    book = PeerBook(ME)
    book.learn(account(1), [at(1)], Trust.HEARSAY, NOW_MS)
    book.learn(account(1), [at(1, port=5)], Trust.OWN_WORD, NOW_MS)
    assert texts(book, 1) == [at(1, port=5), at(1)]
    assert not book.learn(account(1), [at(1, port=6)], Trust.HEARSAY, NOW_MS)
    assert texts(book, 1) == [at(1, port=5), at(1)]


def test_better_founded_addresses_stay_and_come_first() -> None:
    book = PeerBook(ME)
    book.succeeded(account(1), at(1, port=1), NOW_MS)
    for port in range(2, 30):
        book.learn(account(1), [at(1, port=port)], Trust.OWN_WORD, NOW_MS)
    assert len(texts(book, 1)) == ADDRESSES_PER_PEER_MAX
    assert texts(book, 1)[:2] == [at(1, port=1), at(1, port=29)]


def test_back_off_doubles_with_jitter_up_to_its_cap() -> None:
    assert retry_delay_ms(1, 0.0, 60_000) == RETRY_FIRST_MS // 2
    assert retry_delay_ms(4, 0.0, 60_000) == 4 * RETRY_FIRST_MS
    assert retry_delay_ms(4, 0.999, 60_000) == 4 * RETRY_FIRST_MS + 3_996
    assert retry_delay_ms(500, 0.0, 60_000) == 30_000


def test_failures_wait_and_then_forget_those_never_reached() -> None:
    book = PeerBook(ME)
    book.learn(account(1), [at(1)], Trust.HEARSAY, NOW_MS)
    book.succeeded(account(2), at(2), NOW_MS)
    assert set(candidates(book)) == {account(1), account(2)}
    for _ in range(FAILURES_UNREACHED_MAX):
        book.failed(account(1), NOW_MS, 0.5)
        book.failed(account(2), NOW_MS, 0.5)
    assert book.get(account(1)) is None
    assert candidates(book) == []
    assert candidates(book, now_ms=NOW_MS + RETRY_REACHED_MAX_MS) == [account(2)]
    book.succeeded(account(2), at(2), NOW_MS)
    assert candidates(book) == [account(2)]
    book.failed(account(9), NOW_MS, 0.5)


def test_anchors_are_dialled_first_and_the_rest_by_turns() -> None:
    book = PeerBook(ME)
    for number in range(1, 21):
        book.learn(account(number), [at(number)], Trust.HEARSAY, NOW_MS)
    for number in range(21, 29):
        book.succeeded(account(number), at(number), NOW_MS + number)
    order = candidates(book, now_ms=NOW_MS + 100)
    assert set(order[:ANCHORS_MAX]) == {account(number) for number in (25, 26, 27, 28)}
    turns = [book.get(name).reached for name in order[ANCHORS_MAX : ANCHORS_MAX + 8]]  # type: ignore[union-attr]
    assert turns == [True, False] * 4
    assert len(order) == 28
    assert candidates(book, 3, NOW_MS + 100, seed=2) == [account(25), account(26), account(27)]


def test_neighbourhoods_are_spread() -> None:
    book = PeerBook(ME)
    for number in range(1, 21):
        book.learn(account(number), [at(number, f"8.8.0.{number}")], Trust.HEARSAY, NOW_MS)
    book.learn(account(21), [at(21, "9.9.9.9")], Trust.HEARSAY, NOW_MS)
    for seed in range(20):
        assert account(21) in candidates(book, 2, seed=seed)


def test_only_addresses_that_may_be_dialled_are_offered() -> None:
    book = PeerBook(ME)
    book.learn(account(1), [at(1, "8.8.8.8"), at(1, "192.168.0.1"), at(1)], Trust.OWN_WORD, NOW_MS)
    book.learn(account(2), [at(2, "192.168.0.1")], Trust.OWN_WORD, NOW_MS)
    public = (parse_address("/ip4/1.1.1.1/tcp/9"),)
    (peer,) = book.candidates(NOW_MS, (), public, 9, random.Random(1).randrange)
    assert [address.text for address in peer.addresses] == [at(1, "8.8.8.8")]
    book.succeeded(account(2), at(2, "192.168.0.1"), NOW_MS)
    found = book.candidates(NOW_MS, (), public, 9, random.Random(1).randrange)
    assert {peer.account for peer in found} == {account(1), account(2)}, "the operator led us there before"
    own = (parse_address("/ip4/192.168.0.1/tcp/1002"),)
    found = book.candidates(NOW_MS, (), own, 9, random.Random(1).randrange)
    assert {peer.account for peer in found} == {account(1)}, "never our own address"


def test_relayed_addresses_are_not_dialled() -> None:
    book = PeerBook(ME)
    text = f"/ip4/127.0.0.1/tcp/1/p2p/{peer_id(account(2))}/p2p-circuit/p2p/{peer_id(account(1))}"
    assert book.learn(account(1), [text], Trust.OWN_WORD, NOW_MS)
    assert candidates(book) == []


def test_one_neighbourhood_and_one_teller_have_their_share() -> None:
    book = PeerBook(ME)
    for number in range(1, 200):
        book.learn(account(number), [at(number, f"8.8.{number}.1")], Trust.HEARSAY, NOW_MS)
    assert len(book) == GROUP_UNREACHED_MAX
    for number in range(200, 400):
        host = f"{number // 200 + 10}.{number - 100}.1.1"
        book.learn(account(number), [at(number, host)], Trust.HEARSAY, NOW_MS, told_by=account(999))
    assert len(book) == GROUP_UNREACHED_MAX + TOLD_UNREACHED_MAX


def test_a_flood_of_names_pushes_out_nobody_who_was_reached() -> None:
    book = PeerBook(ME, peers_max=50)
    for number in range(1, 21):
        book.succeeded(account(number), at(number), NOW_MS)
    for number in range(100, 1_100):
        teller = account(5_000 + number // 50)
        book.learn(account(number), [at(number)], Trust.HEARSAY, NOW_MS, told_by=teller)
    assert len(book) == 50
    assert all(book.get(account(number)) is not None for number in range(1, 21))
    assert set(candidates(book, ANCHORS_MAX)) <= {account(number) for number in range(1, 21)}


def test_a_book_full_of_reached_peers_takes_only_reached_ones() -> None:
    book = PeerBook(ME, peers_max=3)
    for number in (1, 2, 3):
        book.succeeded(account(number), at(number), NOW_MS + number)
    assert not book.learn(account(4), [at(4)], Trust.SEEN, NOW_MS)
    book.succeeded(account(4), at(4), NOW_MS + 4)
    assert {peer.account for peer in book.peers()} == {account(number) for number in (2, 3, 4)}


def test_recommended_are_only_addresses_that_name_no_third_party() -> None:
    book = PeerBook(ME)
    book.learn(account(1), [at(1)], Trust.HEARSAY, NOW_MS)
    book.learn(account(2), [at(2)], Trust.OWN_WORD, NOW_MS)
    book.learn(account(3), [at(3)], Trust.SEEN, NOW_MS)
    book.learn(account(3), [at(3, "8.8.8.8")], Trust.OWN_WORD, NOW_MS)
    book.succeeded(account(4), at(4), NOW_MS)
    draw = random.Random(1).randrange
    assert dict(book.recommend(9, (), draw)) == {account(3): (at(3),), account(4): (at(4),)}
    assert dict(book.recommend(9, (account(3),), draw)) == {account(4): (at(4),)}
    assert len(book.recommend(1, (), draw)) == 1
    for _ in range(FAILURES_RECOMMENDED_MAX):
        book.failed(account(4), NOW_MS, 0.5)
    assert dict(book.recommend(9, (), draw)) == {account(3): (at(3),)}


def a_book() -> PeerBook:
    book = PeerBook(ME)
    book.learn(account(1), [at(1), at(1, port=7)], Trust.HEARSAY, NOW_MS, told_by=account(5))
    book.succeeded(account(2), at(2), NOW_MS)
    book.failed(account(2), NOW_MS, 0.5)
    return book


def test_bytes_round_trip_without_the_waits() -> None:
    book = PeerBook.from_bytes(a_book().to_bytes(NETWORK), ME, NETWORK)
    assert book.get(account(1)) == a_book().get(account(1))
    peer = book.get(account(2))
    assert peer is not None
    assert (peer.success_ms, peer.failures, peer.retry_ms) == (NOW_MS, 1, 0)
    assert book.to_bytes(NETWORK) == a_book().to_bytes(NETWORK)


def test_every_changed_or_missing_byte_is_noticed() -> None:
    data = a_book().to_bytes(NETWORK)
    for index in range(len(data)):
        changed = bytearray(data)
        changed[index] ^= 0x40
        for bad in (bytes(changed), data[:index]):
            with pytest.raises(WireError):
                PeerBook.from_bytes(bad, ME, NETWORK)


def test_another_networks_book_is_refused() -> None:
    with pytest.raises(WireError, match="network"):
        PeerBook.from_bytes(a_book().to_bytes(NETWORK), ME, NetworkId(bytes(32)))


def test_example_bytes_of_the_specification() -> None:
    book = PeerBook(ME)
    book.succeeded(account(1), at(1), NOW_MS)
    assert book.to_bytes(NETWORK).hex() == (
        "4d5250420100000001"
        "0300000000000000000000000000000000000000000000000000000000000000"
        "0000000000000000000000000000000000000000000000000000000000000000"
        "0000018bcfe568000000018bcfe56800000001"
        "040050" + at(1).encode().hex() + CHECKSUM
    )  # fmt: skip


CHECKSUM = "ad2233a3f6e310f13a7115c17edc36c23b8d3e2f58c3d759139179b25695735b"


def test_a_full_book_fits_the_file_limit() -> None:
    book = PeerBook(ME)
    for number in range(PEERS_MAX):
        book.succeeded(account(number), at(number), NOW_MS)
    assert len(PeerBook.from_bytes(book.to_bytes(NETWORK), ME, NETWORK)) == PEERS_MAX
