"""Every refusal leaves the book as it was; every bound holds (SPEC.md §10.3)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.core.encoding import NetworkId
from ledger.core.keys import AccountId, SigningKey, peer_id
from p2p.core.advertbook import (
    AUTHOR_BURST,
    AUTHOR_INTERVAL_MS,
    BUCKETS,
    SEQUENCE_MEMORY_MS,
    Accepted,
    AdvertBook,
    BookLimits,
    Reason,
    Refusal,
    bucket_of,
)
from p2p.core.adverts import Advert
from p2p.core.envelope import CLOCK_SKEW_MS, Envelope, EnvelopeKind, seal

NETWORK = NetworkId(bytes(range(32, 64)))
NOW_MS = 1_700_000_000_000


def key(number: int) -> SigningKey:
    return SigningKey(number.to_bytes(32, "big"))


def advert_of(signer: SigningKey, slots_free: int = 1, port: int = 4001) -> Advert:
    address = f"/ip4/192.0.2.1/tcp/{port}/p2p/{peer_id(signer.account)}"
    return Advert(kinds=("wasm",), owner=signer.account, slots_free=slots_free, addresses=(address,))


def said(
    signer: SigningKey,
    sequence: int,
    *,
    now_ms: int = NOW_MS,
    lifetime_ms: int = 60_000,
    slots_free: int = 1,
    network_id: NetworkId = NETWORK,
    body: bytes | None = None,
    kind: EnvelopeKind = EnvelopeKind.ADVERT,
) -> Envelope:
    if body is None:
        body = advert_of(signer, slots_free).encode() if kind is EnvelopeKind.ADVERT else b""
    return seal(
        signer,
        network_id,
        kind=kind,
        sequence=sequence,
        now_ms=now_ms,
        lifetime_ms=lifetime_ms,
        body=body,
    )


def whole(book: AdvertBook) -> object:
    """Everything a refusal must not move."""
    return (
        {author: (live.envelope, live.advert, live.drop_ms) for author, live in book._live.items()},
        {author: replace(memory) for author, memory in book._memory.items()},
        book.summary(),
    )


def refused(book: AdvertBook, data: bytes | Envelope, now_ms: int = NOW_MS) -> Reason:
    before = whole(book)
    answer = book.offer(data, now_ms)
    assert isinstance(answer, Refusal)
    assert answer.detail
    assert whole(book) == before
    return answer.reason


def accepted(book: AdvertBook, data: bytes | Envelope, now_ms: int = NOW_MS) -> Accepted:
    answer = book.offer(data, now_ms)
    assert isinstance(answer, Accepted), answer
    return answer


def authors(book: AdvertBook, now_ms: int = NOW_MS) -> set[AccountId]:
    return {offer.author for offer in book.items(now_ms)}


@pytest.fixture
def book() -> AdvertBook:
    """A book in which one author stands, so that refusals have something to spoil."""
    made = AdvertBook(NETWORK)
    accepted(made, said(key(1), 10))
    return made


def test_what_was_said_is_listed(book: AdvertBook) -> None:
    (offer,) = book.items(NOW_MS)
    assert offer.author == key(1).account
    assert offer.advert == advert_of(key(1))
    assert book.get(key(1).account, NOW_MS) == offer
    assert book.get(key(2).account, NOW_MS) is None


def test_garbage(book: AdvertBook) -> None:
    for data in (b"", b"\0" * 200, said(key(1), 11).encode()[:-1], b"\xff" * 20_000):
        assert refused(book, data) is Reason.MALFORMED


def test_forged_and_foreign(book: AdvertBook) -> None:
    good = said(key(2), 1)
    assert refused(book, replace(good, signature=bytes(64))) is Reason.FORGED
    assert refused(book, replace(good, author=key(3).account)) is Reason.FORGED
    assert refused(book, said(key(2), 1, network_id=NetworkId(bytes(32)))) is Reason.FORGED


def test_a_forger_does_not_use_up_the_authors_allowance(book: AdvertBook) -> None:
    for sequence in range(11, 11 + 3 * AUTHOR_BURST):
        forged = replace(said(key(1), sequence), signature=bytes(64))
        assert refused(book, forged.encode()) is Reason.FORGED
    accepted(book, said(key(1), 11))


def test_unknown_kind(book: AdvertBook) -> None:
    assert refused(book, replace(said(key(1), 11), kind=9)) is Reason.WRONG_KIND


def test_bad_bodies(book: AdvertBook) -> None:
    assert refused(book, said(key(2), 1, body=b"\xc0")) is Reason.BAD_BODY
    foreign = advert_of(key(3)).encode()
    assert refused(book, said(key(2), 1, body=foreign)) is Reason.BAD_BODY
    withdrawal = said(key(2), 1, kind=EnvelopeKind.WITHDRAWAL, body=b"why")
    assert refused(book, withdrawal) is Reason.BAD_BODY


def test_expired_and_future(book: AdvertBook) -> None:
    late = NOW_MS + 60_000 + CLOCK_SKEW_MS
    assert refused(book, said(key(2), 1), late) is Reason.EXPIRED
    assert refused(book, said(key(2), 1), NOW_MS - CLOCK_SKEW_MS - 1) is Reason.FUTURE


def test_skewed_clocks_within_the_margin_are_honest(book: AdvertBook) -> None:
    accepted(book, said(key(2), 1, now_ms=NOW_MS - 60_000 - CLOCK_SKEW_MS + 1))
    accepted(book, said(key(3), 1, now_ms=NOW_MS + CLOCK_SKEW_MS))
    assert authors(book) == {key(number).account for number in (1, 2, 3)}


def test_a_fast_clock_does_not_lengthen_a_life(book: AdvertBook) -> None:
    accepted(book, said(key(2), 1, now_ms=NOW_MS + CLOCK_SKEW_MS))
    assert key(2).account in authors(book, NOW_MS + 59_999)
    assert key(2).account not in authors(book, NOW_MS + 60_000)


def test_the_higher_sequence_wins(book: AdvertBook) -> None:
    accepted(book, said(key(1), 11, slots_free=5))
    (offer,) = book.items(NOW_MS)
    assert offer.advert.slots_free == 5
    assert refused(book, said(key(1), 10)) is Reason.OLD_SEQUENCE
    assert refused(book, said(key(1), 11, slots_free=6)) is Reason.OLD_SEQUENCE


def test_the_same_envelope_again_is_a_repeat(book: AdvertBook) -> None:
    assert refused(book, said(key(1), 10)) is Reason.REPEAT


def test_a_replay_is_refused_also_after_the_advert_has_gone(book: AdvertBook) -> None:
    old = said(key(1), 9, lifetime_ms=600_000)
    gone = NOW_MS + 60_000
    assert book.expire(gone) == 1
    assert len(book) == 0
    assert refused(book, old, gone) is Reason.OLD_SEQUENCE
    assert refused(book, said(key(1), 10), gone) is Reason.OLD_SEQUENCE
    # When the memory ends, the clock refuses what the memory would have.
    end = NOW_MS + SEQUENCE_MEMORY_MS
    book.expire(end)
    assert refused(book, old, end) is Reason.EXPIRED


def test_a_withdrawal_removes_and_stays(book: AdvertBook) -> None:
    answer = accepted(book, said(key(1), 11, kind=EnvelopeKind.WITHDRAWAL))
    assert answer.offer is None
    assert book.items(NOW_MS) == ()
    assert refused(book, said(key(1), 10)) is Reason.OLD_SEQUENCE
    assert book.envelopes([key(1).account], NOW_MS), "a neighbour that missed it can fetch it"
    accepted(book, said(key(1), 12))
    assert len(book.items(NOW_MS)) == 1


def test_rate_limit_per_author(book: AdvertBook) -> None:
    author = key(2).account
    for sequence in range(1, AUTHOR_BURST + 1):
        accepted(book, said(key(2), sequence))
    assert book.wait_ms(author, NOW_MS) == AUTHOR_INTERVAL_MS
    assert refused(book, said(key(2), 100)) is Reason.RATE
    accepted(book, said(key(3), 1))
    later = NOW_MS + AUTHOR_INTERVAL_MS
    assert book.wait_ms(author, later) == 0
    accepted(book, said(key(2), 100), later)
    assert refused(book, said(key(2), 101), later) is Reason.RATE


def test_ten_thousand_sayings_of_one_key_hold_one_place(book: AdvertBook) -> None:
    now_ms = NOW_MS
    taken = 0
    for sequence in range(2, 2_000):
        now_ms += 10
        envelope = replace(said(key(2), 1, now_ms=now_ms), sequence=sequence)
        taken += isinstance(book.offer(envelope, now_ms), Accepted)
    assert taken == 0, "not even signed"
    assert len(book) == 1


def full_book(*slots: int) -> AdvertBook:
    made = AdvertBook(NETWORK, BookLimits(adverts_max=len(slots)))
    for number, slots_free in enumerate(slots, start=1):
        accepted(made, said(key(number), 1, slots_free=slots_free))
    return made


def test_a_full_book_of_offers_refuses_newcomers_and_keeps_serving_the_known() -> None:
    book = full_book(1, 1, 1)
    for number in range(10, 20):
        assert refused(book, said(key(number), 1)) is Reason.FULL
    accepted(book, said(key(2), 2, slots_free=7))
    assert authors(book) == {key(number).account for number in (1, 2, 3)}


def test_we_always_have_a_place_in_our_own_book() -> None:
    book = AdvertBook(NETWORK, BookLimits(adverts_max=1), me=key(5).account)
    accepted(book, said(key(1), 1))
    assert refused(book, said(key(2), 1)) is Reason.FULL
    accepted(book, said(key(5), 1))
    assert authors(book) == {key(1).account, key(5).account}


def test_who_makes_room_in_a_full_book() -> None:
    book = full_book(1, 0, 1)
    assert refused(book, said(key(9), 1, slots_free=0)) is Reason.FULL
    accepted(book, said(key(9), 1))
    assert authors(book) == {key(number).account for number in (1, 3, 9)}
    accepted(book, said(key(3), 2, kind=EnvelopeKind.WITHDRAWAL))
    accepted(book, said(key(8), 1))
    assert authors(book) == {key(number).account for number in (1, 8, 9)}
    assert refused(book, said(key(7), 1)) is Reason.FULL
    later = NOW_MS + 60_000
    accepted(book, said(key(7), 1, now_ms=later), later)
    assert len(book) == 3
    assert authors(book, later) == {key(7).account}


def test_an_evicted_author_may_not_replay() -> None:
    book = full_book(0)
    accepted(book, said(key(9), 1))
    assert refused(book, said(key(1), 1)) is Reason.OLD_SEQUENCE


def test_remembered_sequences_are_bounded() -> None:
    book = AdvertBook(NETWORK, BookLimits(adverts_max=2, sequences_max=3))
    for number in range(1, 30):
        accepted(book, said(key(number), 1, slots_free=0, lifetime_ms=1_000), NOW_MS + number)
        accepted(book, said(key(number), 2, kind=EnvelopeKind.WITHDRAWAL), NOW_MS + number)
        assert len(book._memory) <= 3
        assert len(book) <= 2


def test_reconciliation_finds_exactly_what_is_missing() -> None:
    here, there = AdvertBook(NETWORK), AdvertBook(NETWORK)
    for number in range(1, 41):
        envelope = said(key(number), 1)
        accepted(there, envelope)
        if number % 4:
            accepted(here, envelope)
    accepted(there, said(key(1), 2))
    assert len(here.summary()) == BUCKETS
    differ = {
        i for i, pair in enumerate(zip(here.summary(), there.summary(), strict=True)) if len(set(pair)) > 1
    }
    entries: list[tuple[AccountId, int]] = []
    after, more = bytes(32), True
    while more:
        page, more = there.index(differ, after, 3)
        entries += page
        after = page[-1][0]
    assert (
        len(entries) == len(set(entries)) == sum(bucket_of(a.author) in differ for a in there.items(NOW_MS))
    )
    missing = here.missing(entries)
    assert set(missing) == {key(number).account for number in (1, *range(4, 41, 4))}
    for data in there.envelopes(missing, NOW_MS):
        accepted(here, data)
    assert here.summary() == there.summary()
    assert here.missing(entries) == ()


def test_summary_follows_every_change(book: AdvertBook) -> None:
    seen = {book.summary()}
    accepted(book, said(key(1), 11))
    seen.add(book.summary())
    accepted(book, said(key(2), 1))
    seen.add(book.summary())
    book.expire(NOW_MS + 60_000)
    assert set(book.summary()) == {bytes(8)}
    assert len(seen) == 3


def test_what_has_expired_is_not_handed_on(book: AdvertBook) -> None:
    assert book.envelopes([key(1).account, key(2).account], NOW_MS) == (said(key(1), 10).encode(),)
    assert book.envelopes([key(1).account], NOW_MS + 60_000) == ()


def test_a_clock_that_was_set_back_neither_mutes_nor_keeps_for_ever(book: AdvertBook) -> None:
    for sequence in range(11, 10 + AUTHOR_BURST):
        accepted(book, said(key(1), sequence))
    back = NOW_MS - 24 * 3_600_000
    assert book.wait_ms(key(1).account, back) == 0
    accepted(book, said(key(1), 1_000, now_ms=back), back)
    assert book.wait_ms(key(1).account, back) == 0
    accepted(book, said(key(2), 1, now_ms=back), back)
    stale = AdvertBook(NETWORK)
    accepted(stale, said(key(1), 1))
    assert stale.expire(back) == 0
    assert stale.expire(back + 60_000) == 1


def test_the_highest_sequence_is_known_also_of_the_gone(book: AdvertBook) -> None:
    assert book.highest_sequence(key(1).account) == 10
    book.expire(NOW_MS + 60_000)
    assert book.highest_sequence(key(1).account) == 10
    assert book.highest_sequence(key(2).account) == 0
