"""How adverts spread: gossip that validates before it forwards, and reconciliation that heals it (SPEC.md §10).

Gossip loses messages (bursts, late joiners, partitions). So every node also compares its advert book with a
random neighbour's every few seconds, by digests, and pulls what it lacks. Nobody can push through that path:
the answers are checked like anything else, and only to questions that we asked.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.encoding import WireError
from ledger.core.keys import peer_id
from p2p.core.advertbook import ADVERTS_MAX, Accepted, Reason
from p2p.core.conduct import INVALID_POINTS, REASON_POINTS, STALE_POINTS, RateLimit
from p2p.core.envelope import decode_envelope
from p2p.core.errors import RemoteProtocolError
from p2p.core.messages import (
    ANSWER_BYTES_MAX,
    ENVELOPES_BYTES_MAX,
    ENVELOPES_MAX,
    INDEX_ENTRIES_MAX,
    QUESTION_BYTES_MAX,
    Denied,
    Envelopes,
    FetchQuestion,
    IndexPage,
    IndexQuestion,
    Summary,
    SummaryQuestion,
    decode_answer,
    decode_question,
)
from p2p.core.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.core.keys import AccountId
    from p2p.core.advertbook import AdvertBook, Offer
    from p2p.core.conduct import Conduct
    from p2p.core.envelope import Envelope
    from p2p.core.messages import Answer, Question
    from p2p.host import Host
    from p2p.requests import Requests

__all__ = ["ADVERTS", "AdvertGossip"]

_log = logging.getLogger(__name__)

ADVERTS: Final = "adverts"
"""Name of the gossip topic, and of the request that reconciles it."""
REQUEST_TIMEOUT_S: Final = 10.0
INDEX_PAGES_MAX: Final = 16
"""Pages read in one reconciliation: four times the entries an honest book can hold."""
QUESTION_BURST: Final = 200
QUESTION_INTERVAL_MS: Final = 50
IN_FLIGHT_MAX: Final = 4
PASSED_ON_MAX: Final = 2 * ADVERTS_MAX


class AdvertGossip:
    """The advert book's way to and from the neighbours. Starts nothing: `mesh` runs its loops."""

    def __init__(
        self,
        host: Host,
        requests: Requests,
        book: AdvertBook,
        conduct: Conduct,
        *,
        clock_ms: Callable[[], int],
        on_cut: Callable[[AccountId], None],
        on_offer: Callable[[Offer], None],
    ) -> None:
        """`on_cut(peer)` is told whom to disconnect, `on_offer(offer)` of each advert taken into the book.

        Both are called in the middle of validation: they must not block and must not raise.
        """
        self._host = host
        self._requests = requests
        self._book = book
        self._conduct = conduct
        self._clock_ms = clock_ms
        self._on_cut = on_cut
        self._on_offer = on_offer
        self._questions = RateLimit(burst=QUESTION_BURST, interval_ms=QUESTION_INTERVAL_MS)
        self._passed_on: dict[AccountId, int] = {}
        self.refused: Counter[Reason] = Counter()
        self.accepted = 0
        self.pulled = 0

    def join(self) -> None:
        """Serve neighbours' questions and take part in the topic."""
        self._requests.serve(
            ADVERTS,
            self._answer,
            body_bytes_max=ANSWER_BYTES_MAX,
            question_bytes_max=QUESTION_BYTES_MAX,
            in_flight_max=IN_FLIGHT_MAX,
        )

    async def run_topic(self) -> None:
        """Take part in the topic until cancelled. What arrives was taken into the book while being validated."""
        async for _ in self._host.join_topic(ADVERTS, self.validate):
            pass

    async def publish(self, envelope: Envelope) -> None:
        """Send our own envelope, which must be in the book already."""
        await self._host.publish(ADVERTS, envelope.encode())

    def validate(self, author: AccountId, data: bytes) -> Verdict:
        """What becomes of a gossip message that `author` signed: REJECT blames whoever passed it on (R10.11).

        An accepted one is in the book when this returns. Only the author itself may gossip its envelope: others
        hand it on by reconciliation, so that a captured envelope cannot be blown into the topic again. What is
        merely late is dropped without blame: anybody can keep an honest author's message and send it later.
        """
        if self._conduct.barred(author, self._clock_ms()):
            return Verdict.IGNORE
        try:
            envelope = decode_envelope(data)
        except WireError as error:
            return self._invalid(author, Reason.MALFORMED, str(error))
        if envelope.author != author:
            self.refused[Reason.FORGED] += 1  # not charged to the author: it may be the victim
            return Verdict.REJECT
        outcome = self._book.offer(envelope, self._clock_ms())
        if isinstance(outcome, Accepted):
            self._accepted(outcome)
        elif REASON_POINTS[outcome.reason] == INVALID_POINTS:
            return self._invalid(author, outcome.reason, outcome.detail)
        else:
            self.refused[outcome.reason] += 1
            # What was pulled a moment before its gossip arrived still has to travel on, once.
            if outcome.reason is not Reason.REPEAT or self._passed_on.get(author) == envelope.sequence:
                return Verdict.IGNORE
        self._remember_passed_on(envelope)
        return Verdict.ACCEPT

    def charge(self, peer: AccountId, points: int, why: str) -> None:
        """Hold something against `peer`, and cut it off when that is enough."""
        if self._conduct.charge(peer, points, self._clock_ms()):
            _log.warning("%s is cut off, lastly because: %s", peer_id(peer), why)
            self._on_cut(peer)

    def _invalid(self, author: AccountId, reason: Reason, detail: str) -> Verdict:
        self.refused[reason] += 1
        self.charge(author, INVALID_POINTS, detail)
        return Verdict.REJECT

    def _accepted(self, outcome: Accepted) -> None:
        self.accepted += 1
        if outcome.offer is not None:
            self._on_offer(outcome.offer)

    def _remember_passed_on(self, envelope: Envelope) -> None:
        self._passed_on.pop(envelope.author, None)
        self._passed_on[envelope.author] = envelope.sequence
        if len(self._passed_on) > PASSED_ON_MAX:
            del self._passed_on[next(iter(self._passed_on))]

    async def reconcile(self, peer: AccountId) -> int:
        """Pull from `peer` what it has and we lack; how many adverts that were.

        `ConnectionError` and `TimeoutError` when it does not answer; `RemoteProtocolError` is charged as well.
        """
        try:
            return await self._reconcile(peer)
        except WireError as error:
            self.charge(peer, INVALID_POINTS, str(error))
            raise RemoteProtocolError(str(error)) from error

    async def _reconcile(self, peer: AccountId) -> int:
        answer = await self._ask(peer, SummaryQuestion())
        if not isinstance(answer, Summary):
            raise WireError("a question for a summary was answered with something else")
        ours = self._book.summary()
        buckets = frozenset(
            index for index, theirs in enumerate(answer.digests) if theirs not in (ours[index], bytes(8))
        )
        if not buckets:
            return 0
        pulled = 0
        after = IndexQuestion(buckets).after
        for _ in range(INDEX_PAGES_MAX):
            page = await self._ask(peer, IndexQuestion(buckets, after))
            if not isinstance(page, IndexPage) or (page.entries and page.entries[0][0] <= after):
                raise WireError("a question for an index page was answered with something else")
            pulled += await self._fetch(peer, self._book.missing(page.entries))
            if not page.more:
                break
            after = page.entries[-1][0]
        self.pulled += pulled
        return pulled

    async def _fetch(self, peer: AccountId, wanted: Sequence[AccountId]) -> int:
        """Fetch envelopes by author until all are here or the peer has no more to give; how many were taken."""
        taken = 0
        left = list(wanted)
        while left:
            batch, rest = left[:ENVELOPES_MAX], left[ENVELOPES_MAX:]
            answer = await self._ask(peer, FetchQuestion(tuple(batch)))
            if not isinstance(answer, Envelopes):
                raise WireError("a question for envelopes was answered with something else")
            envelopes = [decode_envelope(data) for data in answer.envelopes]
            given = {envelope.author for envelope in envelopes}
            if len(given) < len(envelopes) or not given <= set(batch):
                raise WireError("an answer holds envelopes that were not asked for")
            taken += sum(self._take(peer, envelope) for envelope in envelopes)
            # A full answer leaves some of the batch for the next question; an empty one means they are gone.
            left = [author for author in batch if given and author not in given] + rest
        return taken

    def _take(self, peer: AccountId, envelope: Envelope) -> bool:
        """Offer a pulled envelope to the book; `peer` vouched for it by answering with it."""
        outcome = self._book.offer(envelope, self._clock_ms())
        if isinstance(outcome, Accepted):
            self._accepted(outcome)
            return True
        self.refused[outcome.reason] += 1
        self.charge(peer, REASON_POINTS[outcome.reason], outcome.detail)
        return False

    async def _ask(self, peer: AccountId, question: Question) -> Answer:
        body = await self._requests.request(
            peer, ADVERTS, question.encode(), REQUEST_TIMEOUT_S, body_bytes_max=ANSWER_BYTES_MAX
        )
        return decode_answer(body)

    async def _answer(self, peer: AccountId, body: bytes) -> bytes:
        now_ms = self._clock_ms()
        if not self._questions.take(peer, now_ms):
            self.charge(peer, STALE_POINTS, "too many questions")
            return Denied("too many questions; wait a second").encode()
        try:
            question = decode_question(body)
        except WireError as error:
            self.charge(peer, INVALID_POINTS, str(error))
            return Denied(str(error)).encode()
        await trio.lowlevel.checkpoint()
        match question:
            case SummaryQuestion():
                return Summary(self._book.summary()).encode()
            case IndexQuestion(buckets, after):
                return IndexPage(*self._book.index(buckets, after, INDEX_ENTRIES_MAX)).encode()
            case FetchQuestion(authors):
                return Envelopes(_fitting(self._book.envelopes(authors, now_ms))).encode()
            case _:
                return Denied("this question belongs to another request").encode()


def _fitting(envelopes: Sequence[bytes]) -> tuple[bytes, ...]:
    """As many from the front as one answer may carry."""
    size = 0
    for count, envelope in enumerate(envelopes):
        size += len(envelope)
        if size > ENVELOPES_BYTES_MAX:
            return tuple(envelopes[:count])
    return tuple(envelopes)
