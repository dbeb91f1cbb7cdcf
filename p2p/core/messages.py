"""Questions and answers between neighbours: reconciling adverts, exchanging peers (SPEC.md §10.5, §11.4).

Fixed layouts: one byte names the message, integers are big-endian. Each decoder takes the bytes of one
direction and answers with a message or `WireError`.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass
from typing import Final

from ledger.core.encoding import Reader, WireError
from ledger.core.keys import ACCOUNT_BYTES, AccountId
from p2p.core.addresses import ADDRESS_BYTES_MAX, parse_address
from p2p.core.advertbook import BUCKET_DIGEST_BYTES, BUCKETS
from p2p.core.adverts import ADDRESSES_MAX
from p2p.core.envelope import ENVELOPE_BYTES_MAX

__all__ = [
    "ANSWER_BYTES_MAX",
    "ENVELOPES_BYTES_MAX",
    "ENVELOPES_MAX",
    "INDEX_ENTRIES_MAX",
    "PEERS_ANSWER_MAX",
    "QUESTION_BYTES_MAX",
    "Answer",
    "Denied",
    "Envelopes",
    "FetchQuestion",
    "IndexPage",
    "IndexQuestion",
    "PeersAnswer",
    "PeersQuestion",
    "Question",
    "Summary",
    "SummaryQuestion",
    "decode_answer",
    "decode_question",
]

INDEX_ENTRIES_MAX: Final = 1024
ENVELOPES_MAX: Final = 64
ENVELOPES_BYTES_MAX: Final = 192 << 10
"""Envelopes of one answer together; there is always room for one."""
PEERS_ANSWER_MAX: Final = 32
DETAIL_BYTES_MAX: Final = 200
QUESTION_BYTES_MAX: Final = 4096
ANSWER_BYTES_MAX: Final = 256 << 10

_SUMMARY, _INDEX, _FETCH, _PEERS = 1, 2, 3, 4
_ANSWER: Final = 0x80
_DENIED: Final = 0xFF
_U64_MAX: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class SummaryQuestion:
    """What is the digest of each bucket of your advert book?"""

    def encode(self) -> bytes:
        return bytes((_SUMMARY,))


@dataclass(frozen=True, slots=True)
class IndexQuestion:
    """Which (author, sequence) pairs do `buckets` hold, beyond author `after`? (32 zero bytes: from the start)"""

    buckets: frozenset[int]
    after: bytes = bytes(ACCOUNT_BYTES)

    def encode(self) -> bytes:
        bitmap = sum(1 << bucket for bucket in self.buckets)
        return bytes((_INDEX,)) + bitmap.to_bytes(8, "big") + self.after


@dataclass(frozen=True, slots=True)
class FetchQuestion:
    """Send the live envelopes of these authors, at most ENVELOPES_MAX."""

    authors: tuple[AccountId, ...]

    def encode(self) -> bytes:
        if not 1 <= len(self.authors) <= ENVELOPES_MAX:
            raise ValueError(f"{len(self.authors)} authors asked for, allowed are 1 to {ENVELOPES_MAX}")
        return bytes((_FETCH, len(self.authors))) + b"".join(self.authors)


@dataclass(frozen=True, slots=True)
class PeersQuestion:
    """Whom can you recommend, at most `count`? `addresses` are where the asker listens itself."""

    count: int
    addresses: tuple[str, ...]

    def encode(self) -> bytes:
        return bytes((_PEERS, self.count)) + _encode_addresses(self.addresses)


@dataclass(frozen=True, slots=True)
class Summary:
    """One digest of BUCKET_DIGEST_BYTES per bucket."""

    digests: tuple[bytes, ...]

    def encode(self) -> bytes:
        return bytes((_ANSWER | _SUMMARY,)) + b"".join(self.digests)


@dataclass(frozen=True, slots=True)
class IndexPage:
    """(author, sequence) in order of author; `more`: ask again after the last one."""

    entries: tuple[tuple[AccountId, int], ...]
    more: bool

    def encode(self) -> bytes:
        head = struct.pack(">BBH", _ANSWER | _INDEX, self.more, len(self.entries))
        return head + b"".join(author + sequence.to_bytes(8, "big") for author, sequence in self.entries)


@dataclass(frozen=True, slots=True)
class Envelopes:
    """Encoded envelopes, at most ENVELOPES_MAX and ENVELOPES_BYTES_MAX together; not looked into."""

    envelopes: tuple[bytes, ...]

    def encode(self) -> bytes:
        parts = [struct.pack(">BB", _ANSWER | _FETCH, len(self.envelopes))]
        for envelope in self.envelopes:
            parts += (struct.pack(">H", len(envelope)), envelope)
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class PeersAnswer:
    """Peers with their addresses: hearsay, to be proven by dialling."""

    peers: tuple[tuple[AccountId, tuple[str, ...]], ...]

    def encode(self) -> bytes:
        parts = [bytes((_ANSWER | _PEERS, len(self.peers)))]
        for account, addresses in self.peers:
            parts += (account, _encode_addresses(addresses))
        return b"".join(parts)


@dataclass(frozen=True, slots=True)
class Denied:
    """The question is not answered; `detail` says why."""

    detail: str

    def encode(self) -> bytes:
        text = self.detail.encode()[:DETAIL_BYTES_MAX].decode(errors="ignore").encode()
        return struct.pack(">BB", _DENIED, len(text)) + text


Question = SummaryQuestion | IndexQuestion | FetchQuestion | PeersQuestion
Answer = Summary | IndexPage | Envelopes | PeersAnswer | Denied


def decode_question(data: bytes) -> Question:
    """The question that `data` is; `WireError` for any other bytes."""
    if len(data) > QUESTION_BYTES_MAX:
        raise WireError(f"question of {len(data)} bytes, at most {QUESTION_BYTES_MAX} allowed")
    reader = Reader(data, "question")
    question: Question
    match reader.uint(1):
        case 1:
            question = SummaryQuestion()
        case 2:
            bitmap = reader.uint(8)
            buckets = frozenset(index for index in range(BUCKETS) if bitmap >> index & 1)
            question = IndexQuestion(buckets, reader.take(ACCOUNT_BYTES))
        case 3:
            count = reader.uint(1)
            if not 1 <= count <= ENVELOPES_MAX:
                raise WireError(f"{count} authors asked for, allowed are 1 to {ENVELOPES_MAX}")
            question = FetchQuestion(tuple(AccountId(reader.take(ACCOUNT_BYTES)) for _ in range(count)))
        case 4:
            question = PeersQuestion(reader.uint(1), _read_addresses(reader))
        case code:
            raise WireError(f"question {code} is unknown")
    reader.end()
    return question


def decode_answer(data: bytes) -> Answer:
    """The answer that `data` is; `WireError` for any other bytes."""
    if len(data) > ANSWER_BYTES_MAX:
        raise WireError(f"answer of {len(data)} bytes, at most {ANSWER_BYTES_MAX} allowed")
    reader = Reader(data, "answer")
    answer: Answer
    match reader.uint(1):
        case 0x81:
            answer = Summary(tuple(reader.take(BUCKET_DIGEST_BYTES) for _ in range(BUCKETS)))
        case 0x82:
            answer = _read_index(reader)
        case 0x83:
            answer = _read_envelopes(reader)
        case 0x84:
            count = reader.uint(1)
            if count > PEERS_ANSWER_MAX:
                raise WireError(f"answer with {count} peers, at most {PEERS_ANSWER_MAX} allowed")
            answer = PeersAnswer(
                tuple((AccountId(reader.take(ACCOUNT_BYTES)), _read_addresses(reader)) for _ in range(count))
            )
        case 0xFF:
            answer = Denied(reader.text(1, DETAIL_BYTES_MAX))
        case code:
            raise WireError(f"answer {code} is unknown")
    reader.end()
    return answer


def _read_index(reader: Reader) -> IndexPage:
    more = reader.uint(1)
    count = reader.uint(2)
    if more > 1 or count > INDEX_ENTRIES_MAX:
        raise WireError(f"index page of {count} entries, at most {INDEX_ENTRIES_MAX} allowed")
    entries = tuple((AccountId(reader.take(ACCOUNT_BYTES)), reader.uint(8)) for _ in range(count))
    # Strict order makes a page canonical and lets the reader go on without being led in circles.
    if any(left[0] >= right[0] for left, right in itertools.pairwise(entries)):
        raise WireError("index page is not in order of author")
    if more and not entries:
        raise WireError("index page is empty and promises more")
    return IndexPage(entries, bool(more))


def _read_envelopes(reader: Reader) -> Envelopes:
    count = reader.uint(1)
    if count > ENVELOPES_MAX:
        raise WireError(f"answer with {count} envelopes, at most {ENVELOPES_MAX} allowed")
    envelopes = []
    for _ in range(count):
        size = reader.uint(2)
        if size > ENVELOPE_BYTES_MAX:
            raise WireError(f"envelope of {size} bytes, at most {ENVELOPE_BYTES_MAX} allowed")
        envelopes.append(reader.take(size))
    return Envelopes(tuple(envelopes))


def _encode_addresses(addresses: tuple[str, ...]) -> bytes:
    parts = [bytes((len(addresses),))]
    for text in addresses:
        raw = text.encode()
        parts += (struct.pack(">H", len(raw)), raw)
    return b"".join(parts)


def _read_addresses(reader: Reader) -> tuple[str, ...]:
    count = reader.uint(1)
    if count > ADDRESSES_MAX:
        raise WireError(f"{count} addresses, at most {ADDRESSES_MAX} allowed")
    addresses = tuple(reader.text(2, ADDRESS_BYTES_MAX) for _ in range(count))
    for text in addresses:
        parse_address(text)
    return addresses
