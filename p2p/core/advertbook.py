"""The bounded book of live adverts: what of the market this node has heard (SPEC.md §10.3).

Every check that needs no cryptography comes before the signature check, and nothing changes before the
last check has passed. A refusal is a value; `p2p.core.conduct` says how far it speaks against the sender.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import NetworkId, WireError, digest
from p2p.core.addresses import parse_address
from p2p.core.adverts import Advert, decode_advert
from p2p.core.envelope import (
    CLOCK_SKEW_MS,
    LIFETIME_MAX_MS,
    Envelope,
    EnvelopeKind,
    decode_envelope,
    verify_envelope,
)

if TYPE_CHECKING:
    from collections.abc import Collection

    from ledger.core.keys import AccountId

__all__ = [
    "ADVERTS_MAX",
    "AUTHOR_BURST",
    "AUTHOR_INTERVAL_MS",
    "BUCKETS",
    "BUCKET_DIGEST_BYTES",
    "SEQUENCES_MAX",
    "Accepted",
    "AdvertBook",
    "BookLimits",
    "Offer",
    "Reason",
    "Refusal",
    "bucket_of",
]

ADVERTS_MAX: Final = 4096
SEQUENCES_MAX: Final = 4 * ADVERTS_MAX
"""Authors whose highest sequence is remembered, live adverts included."""
AUTHOR_BURST: Final = 10
AUTHOR_INTERVAL_MS: Final = 2_000
"""One author may say AUTHOR_BURST things at once and one more every two seconds."""
BUCKETS: Final = 64
BUCKET_DIGEST_BYTES: Final = 8
SEQUENCE_MEMORY_MS: Final = LIFETIME_MAX_MS + 2 * CLOCK_SKEW_MS
"""After this long every older envelope of the author has expired on any honest clock."""


class Reason(Enum):
    """Why an envelope was refused."""

    MALFORMED = "malformed"
    WRONG_KIND = "wrong-kind"
    EXPIRED = "expired"
    FUTURE = "future"
    REPEAT = "repeat"
    OLD_SEQUENCE = "old-sequence"
    RATE = "rate"
    FULL = "full"
    FORGED = "forged"
    BAD_BODY = "bad-body"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nothing was changed; `detail` is for people."""

    reason: Reason
    detail: str


@dataclass(frozen=True, slots=True)
class Offer:
    """One live advert with what proves it: this node took it in at `heard_ms` and lets go of it at `drop_ms`."""

    envelope: Envelope
    advert: Advert
    drop_ms: int
    heard_ms: int

    @property
    def author(self) -> AccountId:
        """The worker's account: who signs leases for this capacity."""
        return self.envelope.author


@dataclass(frozen=True, slots=True)
class Accepted:
    """The envelope is in the book; `offer` is None for a withdrawal."""

    envelope: Envelope
    offer: Offer | None


@dataclass(frozen=True, slots=True)
class BookLimits:
    """The named bounds, in one place so that tests can shrink them."""

    adverts_max: int = ADVERTS_MAX
    sequences_max: int = SEQUENCES_MAX
    author_burst: int = AUTHOR_BURST
    author_interval_ms: int = AUTHOR_INTERVAL_MS


@dataclass(slots=True)
class _Live:
    envelope: Envelope
    advert: Advert | None
    drop_ms: int
    heard_ms: int


@dataclass(slots=True)
class _Memory:
    """What stays of an author: its highest sequence, its rate, and until when that matters."""

    sequence: int
    rate_at_ms: int
    forget_ms: int


class AdvertBook:
    """Adverts by author: one live each, the highest sequence wins, everything bounded."""

    def __init__(
        self, network_id: NetworkId, limits: BookLimits | None = None, me: AccountId | None = None
    ) -> None:
        """A book of one network; `me` always has a place of its own in it, or it could not advertise."""
        self._network_id = network_id
        self._me = me
        self._limits = limits or BookLimits()
        self._live: dict[AccountId, _Live] = {}
        self._memory: dict[AccountId, _Memory] = {}
        self._digests: list[bytes | None] = [None] * BUCKETS
        self._least: tuple[int, int, AccountId] | None = None
        self._least_until_ms = 0

    def __len__(self) -> int:
        return len(self._live)

    def offer(self, data: bytes | Envelope, now_ms: int) -> Accepted | Refusal:
        """Take an envelope into the book, or say why not; a refusal leaves the book as it was."""
        if isinstance(data, Envelope):
            envelope = data
        else:
            try:
                envelope = decode_envelope(data)
            except WireError as error:
                return Refusal(Reason.MALFORMED, str(error))
        refusal = self._check_cheap(envelope, now_ms)
        if refusal is not None:
            return refusal
        if not verify_envelope(envelope, self._network_id):
            return Refusal(Reason.FORGED, "not signed by its author for this network")
        advert: Advert | None = None
        if envelope.kind == EnvelopeKind.ADVERT:
            try:
                advert = decode_advert(envelope.body)
                _check_addresses(advert, envelope.author)
            except WireError as error:
                return Refusal(Reason.BAD_BODY, str(error))
        elif envelope.body:
            return Refusal(Reason.BAD_BODY, "a withdrawal has no body")
        victim = self._victim(envelope, advert, now_ms)
        if isinstance(victim, Refusal):
            return victim
        return self._insert(envelope, advert, victim, now_ms)

    def items(self, now_ms: int) -> tuple[Offer, ...]:
        """The live adverts, withdrawn and expired ones left out, in order of author."""
        return tuple(
            Offer(live.envelope, live.advert, live.drop_ms, live.heard_ms)
            for _, live in sorted(self._live.items())
            if live.advert is not None and live.drop_ms > now_ms
        )

    def get(self, author: AccountId, now_ms: int) -> Offer | None:
        """The live advert of one author."""
        live = self._live.get(author)
        if live is None or live.advert is None or live.drop_ms <= now_ms:
            return None
        return Offer(live.envelope, live.advert, live.drop_ms, live.heard_ms)

    def expire(self, now_ms: int) -> int:
        """Let go of what has expired; the number of adverts dropped. Call it every few seconds."""
        for live in self._live.values():
            # Further ahead only when our clock was set back: a life is never longer than its author gave it.
            live.drop_ms = min(live.drop_ms, now_ms + live.envelope.lifetime_ms)
        gone = [author for author, live in self._live.items() if live.drop_ms <= now_ms]
        for author in gone:
            self._drop(author)
        for author in [a for a, memory in self._memory.items() if memory.forget_ms <= now_ms]:
            if author not in self._live:
                del self._memory[author]
        return len(gone)

    def wait_ms(self, author: AccountId, now_ms: int) -> int:
        """How long until the rate limit lets `author` speak: 0 for at once."""
        memory = self._memory.get(author)
        if memory is None:
            return 0
        interval_ms = self._limits.author_interval_ms
        ahead_ms = memory.rate_at_ms - now_ms
        if ahead_ms > self._limits.author_burst * interval_ms:
            return 0  # no number of sayings leads there: our clock was set back
        return max(0, ahead_ms - (self._limits.author_burst - 1) * interval_ms)

    def highest_sequence(self, author: AccountId) -> int:
        """The highest sequence remembered of `author`; 0 if there is none."""
        memory = self._memory.get(author)
        return 0 if memory is None else memory.sequence

    # --- reconciliation (SPEC.md §10.5): summaries, index pages, envelopes by author ---

    def summary(self) -> tuple[bytes, ...]:
        """One digest per bucket over its (author, sequence) pairs; zeros for an empty bucket."""
        dirty = {index for index, known in enumerate(self._digests) if known is None}
        if dirty:
            parts: dict[int, list[bytes]] = {index: [] for index in dirty}
            for author, live in sorted(self._live.items()):
                if (index := bucket_of(author)) in dirty:
                    parts[index].append(author + live.envelope.sequence.to_bytes(8, "big"))
            for index, items in parts.items():
                self._digests[index] = (
                    digest(*items)[:BUCKET_DIGEST_BYTES] if items else bytes(BUCKET_DIGEST_BYTES)
                )
        return tuple(known for known in self._digests if known is not None)

    def index(
        self, buckets: Collection[int], after: bytes, count_max: int
    ) -> tuple[tuple[tuple[AccountId, int], ...], bool]:
        """Up to `count_max` (author, sequence) pairs of `buckets` beyond author `after`, and whether more follow."""
        found = heapq.nsmallest(
            count_max + 1,
            (author for author in self._live if author > after and bucket_of(author) in buckets),
        )
        page = tuple((author, self._live[author].envelope.sequence) for author in found[:count_max])
        return page, len(found) > count_max

    def missing(self, entries: Collection[tuple[AccountId, int]]) -> tuple[AccountId, ...]:
        """Whose entries another node has in a newer version than this one has ever seen."""
        return tuple(author for author, sequence in entries if self._newer(author, sequence))

    def envelopes(self, authors: Collection[AccountId], now_ms: int) -> tuple[bytes, ...]:
        """The live envelopes of `authors`, encoded, as far as there are any."""
        return tuple(
            live.envelope.encode()
            for author in authors
            if (live := self._live.get(author)) is not None and live.drop_ms > now_ms
        )

    # --- inside ---

    def _newer(self, author: AccountId, sequence: int) -> bool:
        memory = self._memory.get(author)
        return memory is None or sequence > memory.sequence

    def _check_cheap(self, envelope: Envelope, now_ms: int) -> Refusal | None:
        if envelope.kind not in (EnvelopeKind.ADVERT, EnvelopeKind.WITHDRAWAL):
            return Refusal(Reason.WRONG_KIND, f"envelope kind {envelope.kind} is not for this book")
        if envelope.expires_ms + CLOCK_SKEW_MS <= now_ms:
            return Refusal(Reason.EXPIRED, f"expired {now_ms - envelope.expires_ms} ms ago")
        if envelope.expires_ms > now_ms + envelope.lifetime_ms + CLOCK_SKEW_MS:
            return Refusal(Reason.FUTURE, "sealed in the future")
        memory = self._memory.get(envelope.author)
        if memory is None:
            return None
        if envelope.sequence <= memory.sequence:
            live = self._live.get(envelope.author)
            if live is not None and live.envelope == envelope:
                return Refusal(Reason.REPEAT, "this very envelope is in the book")
            return Refusal(Reason.OLD_SEQUENCE, f"sequence {envelope.sequence}, seen was {memory.sequence}")
        # Charged only after the signature check: else a forger could use up an honest author's allowance.
        wait = self.wait_ms(envelope.author, now_ms)
        return Refusal(Reason.RATE, f"the author may speak again in {wait} ms") if wait else None

    def _victim(self, envelope: Envelope, advert: Advert | None, now_ms: int) -> AccountId | Refusal | None:
        """Whose entry makes room for a new author: None when there is room (R10.9).

        Expired entries go first, then withdrawals, then adverts without a free slot, each the earliest to
        end. A book full of real offers refuses the newcomer: a flood of fresh keys pushes out nobody.
        """
        room = len(self._live) < self._limits.adverts_max
        if room or envelope.author in self._live or envelope.author == self._me:
            return None
        if self._least is None or self._least_until_ms <= now_ms:
            # Kept until the book changes or something expires: a flood of fresh keys must not buy a scan each.
            self._least = min(
                (_worth(live.advert, live.drop_ms, now_ms), live.drop_ms, author)
                for author, live in self._live.items()
            )
            self._least_until_ms = min(
                (live.drop_ms for live in self._live.values() if live.drop_ms > now_ms), default=now_ms
            )
        worth, _, victim = self._least
        if worth < _worth(advert, envelope.expires_ms + CLOCK_SKEW_MS, now_ms):
            return victim
        return Refusal(Reason.FULL, f"the book holds {self._limits.adverts_max} adverts")

    def _insert(
        self, envelope: Envelope, advert: Advert | None, victim: AccountId | None, now_ms: int
    ) -> Accepted:
        author = envelope.author
        if victim is not None:
            self._drop(victim)
        # Neither clock alone decides: a life counts from here as well, so that a skewed author cannot outstay.
        drop_ms = min(envelope.expires_ms + CLOCK_SKEW_MS, now_ms + envelope.lifetime_ms)
        memory = self._memory.get(author)
        horizon_ms = now_ms + self._limits.author_burst * self._limits.author_interval_ms
        rate_at_ms = memory.rate_at_ms if memory and memory.rate_at_ms <= horizon_ms else now_ms
        rate_at_ms = max(rate_at_ms, now_ms) + self._limits.author_interval_ms
        self._memory[author] = _Memory(envelope.sequence, rate_at_ms, now_ms + SEQUENCE_MEMORY_MS)
        self._live[author] = _Live(envelope, advert, drop_ms, now_ms)
        self._digests[bucket_of(author)] = None
        self._least = None
        if len(self._memory) > self._limits.sequences_max:
            self._forget_one()
        offer = None if advert is None else Offer(envelope, advert, drop_ms, now_ms)
        return Accepted(envelope, offer)

    def _forget_one(self) -> None:
        """Forget the absent author that is nearest to being forgotten anyway."""
        absent = (
            (memory.forget_ms, author) for author, memory in self._memory.items() if author not in self._live
        )
        oldest = min(absent, default=None)
        if oldest is not None:
            del self._memory[oldest[1]]

    def _drop(self, author: AccountId) -> None:
        del self._live[author]
        self._digests[bucket_of(author)] = None
        self._least = None


def bucket_of(author: AccountId) -> int:
    """The bucket of an author: the top six bits of its key, so that key order is bucket order."""
    return author[0] >> 2


def _worth(advert: Advert | None, drop_ms: int, now_ms: int) -> int:
    """What a place in the book is worth: 0 expired, 1 withdrawn, 2 nothing free, 3 an offer."""
    if drop_ms <= now_ms:
        return 0
    if advert is None:
        return 1
    return 3 if advert.slots_free else 2


def _check_addresses(advert: Advert, author: AccountId) -> None:
    for text in advert.addresses:
        if parse_address(text).account != author:
            raise WireError("an advert names an address of another peer")
