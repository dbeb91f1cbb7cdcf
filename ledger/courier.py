"""One signed entry on its way: to every witness, again and again, until the ledger has spoken (SPEC.md §15)."""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.encoding import WireError
from ledger.core.entries import Entry, verify_entry
from ledger.core.keys import AccountId, peer_id
from ledger.core.requests import ServiceError, Submit, decode_answer, encode_request, field
from ledger.core.state import Reason, Refusal
from ledger.fates import CutOff, EntryExpired, EntryRefused
from ledger.overdue import certain_refusal

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.committee import Committee
    from ledger.core.receipt import Receipt
    from ledger.sync import Follower, Request

__all__ = ["ANSWER_S", "CUT_OFF_S", "Courier"]

ANSWER_S: Final = 3.0
RESEND_S: Final = 1.0
RESEND_S_MAX: Final = 5.0
BUSY_RETRY_S: Final = 0.05
"""After a first `busy`: a witness that has just begun, or whose epoch is just over, is ready in a moment. Doubles to
RESEND_S, so that a witness without room hears one wallet no more often than once a second."""
EXPIRY_MARGIN_MS: Final = 10_000
"""A leader's clock may lag: an entry is given up only this long after its `not_after`."""
CUT_OFF_S: Final = 10.0
"""With no witness answering for this long, whoever has nothing signed yet is told so instead of waiting on."""

_DEFER: Final = frozenset((Reason.BUSY, Reason.REPEAT, Reason.SEQUENCE_GAP))
"""Refusals that say nothing about the entry: no room, applied already, or the witness is behind us."""

_log = logging.getLogger(__name__)


class _Round:
    """What the witnesses said to one sending of an entry."""

    __slots__ = ("answers", "busy_pause_s", "refusals")

    def __init__(self, busy_pause_s: float) -> None:
        self.busy_pause_s = busy_pause_s
        self.answers: set[AccountId] = set()
        self.refusals: Counter[Reason] = Counter()


class Courier:
    """Carries entries for one wallet, and says what they wait for."""

    def __init__(self, follower: Follower, request: Request, clock_ms: Callable[[], int]) -> None:
        """`clock_ms` reads Unix milliseconds. Starts nothing."""
        self.waits_for = ""
        """What is waited for, in words; empty while nothing waits."""
        self._follower = follower
        self._request = request
        self._clock_ms = clock_ms
        self._cut_off_s: float | None = None  # since when no witness answers
        self._listeners: list[Callable[[str], None]] = []

    async def carry(self, entry: Entry, entry_id: bytes, *, gives_up: bool = False) -> Receipt:
        """Send `entry` until it is final here, and return its receipt; `EntryRefused` when it is given up.

        With `gives_up`, `CutOff` when no witness answers for long.
        """
        resend_s, busy_pause_s = RESEND_S, BUSY_RETRY_S
        while True:
            said = _Round(busy_pause_s)
            async with trio.open_nursery() as nursery:
                committee = self._follower.committee
                for witness in committee.witnesses:
                    nursery.start_soon(self._send, witness, entry, said)
                await self._follower.wait_for(partial(self._is_settled, entry_id, committee), resend_s)
                nursery.cancel_scope.cancel()
            receipt = await self._receipt(entry_id)
            if receipt is not None:
                self.rest()
                return receipt
            self._judge(entry, said.refusals)
            if self._follower.committee != committee:
                resend_s, busy_pause_s = RESEND_S, BUSY_RETRY_S
                continue  # those asked are no witnesses any more
            self.say(self._explain(entry, entry_id, said))
            if said.answers:
                self._cut_off_s = None
            elif self._cut_off_s is None:
                self._cut_off_s = trio.current_time()
            if gives_up:
                self.check_connection()
            self._follower.switch_source()
            resend_s, busy_pause_s = min(RESEND_S_MAX, resend_s * 1.5), RESEND_S

    async def _receipt(self, entry_id: bytes) -> Receipt | None:
        """The receipt of an entry that is final here; from others, and kept, if what proves it was pruned."""
        follower = self._follower
        receipt = follower.receipt(entry_id)
        if receipt is None and follower.archive.store.is_final(entry_id):
            receipt = await follower.fetch_receipt(entry_id)
            if receipt is not None:
                follower.archive.store.save_receipt(entry_id, receipt.encode())
        return receipt

    def _is_settled(self, entry_id: bytes, committee: Committee) -> bool:
        """Whether the entry is final here, or others than `committee` order it from here on."""
        follower = self._follower
        return follower.archive.store.is_final(entry_id) or follower.committee != committee

    def rest(self) -> None:
        """Nothing is on its way."""
        self._cut_off_s = None
        self.say("")

    def check_connection(self) -> None:
        """`CutOff` if no witness has answered for CUT_OFF_S."""
        if self._cut_off_s is not None and trio.current_time() - self._cut_off_s >= CUT_OFF_S:
            raise CutOff(self.waits_for)

    @contextmanager
    def telling(self, on_wait: Callable[[str], None] | None) -> Iterator[None]:
        """While the block runs, `on_wait` hears what is waited for, now and whenever that changes."""
        if on_wait is None:
            yield
            return
        self._listeners.append(on_wait)
        try:
            if self.waits_for:
                on_wait(self.waits_for)
            yield
        finally:
            self._listeners.remove(on_wait)

    def say(self, text: str) -> None:
        """What is waited for is `text` now."""
        if text != self.waits_for:
            self.waits_for = text
            for listener in self._listeners if text else ():
                listener(text)

    def _explain(self, entry: Entry, entry_id: bytes, said: _Round) -> str:
        committee, answers = self._follower.committee, len(said.answers)
        what = f"{entry.action.TYPE.name} {entry_id.hex()[:16]}, signed and kept, is not final yet"
        if not answers:
            return f"{what}: no witness answers"
        if answers < committee.quorum:
            return f"{what}: {answers} of {committee.n} witnesses answer, {committee.quorum} must agree"
        for reason, count in said.refusals.most_common(1):
            return (
                f"{what}: {count} of {committee.n} witnesses refuse it ({reason.value}), and this node finds nothing "
                "wrong with it: is its clock right?"
            )
        return f"{what}: {answers} of {committee.n} witnesses have it, and no block has come with it"

    async def _send(self, witness: AccountId, entry: Entry, said: _Round) -> None:
        """Hand the entry to a witness, again and again while it is busy; whoever waits for the round ends that."""
        pause_s = said.busy_pause_s
        while await self._offer(witness, entry, said) is Reason.BUSY:
            await trio.sleep(pause_s)
            pause_s = min(RESEND_S, pause_s * 2)

    async def _offer(self, witness: AccountId, entry: Entry, said: _Round) -> Reason | None:
        """What a witness that answers has against the entry."""
        try:
            with trio.fail_after(ANSWER_S):
                answer = await self._request(witness, encode_request(Submit(entry.encode())), ANSWER_S)
            fields = decode_answer(answer)
            said.answers.add(witness)
            if field(fields, "status", str) != "refused":
                return None
            reason = Reason(field(fields, "reason", str))
            if reason not in _DEFER:
                said.refusals[reason] += 1
            return reason
        except (
            ConnectionError,
            TimeoutError,
            trio.TooSlowError,
            WireError,
            ServiceError,
            ValueError,
        ) as error:
            _log.debug("wallet: %s did not take the entry: %s", peer_id(witness), error)
            return None

    def _judge(self, entry: Entry, refusals: Counter[Reason]) -> None:
        """Give up if the ledger has spoken; without certainty, if more witnesses refuse than may lie or time is up.

        Nothing is concluded from what memory alone holds of the ledger.
        """
        if self._follower.archive.height < self._follower.head.height:
            return
        sure = certain_refusal(entry, self._follower)
        if sure is not None and sure.reason is Reason.TOO_LATE:
            raise EntryExpired(f"no block took the entry until {entry.not_after_ms}")
        if sure is not None and sure.reason in {Reason.CONFLICT, Reason.SEQUENCE_USED}:
            raise EntryRefused(sure.reason, f"another entry used this sequence number: {sure.detail}")
        if sure is not None:
            raise EntryRefused(sure.reason, sure.detail)
        now_ms, state = self._clock_ms(), self._follower.state
        own = state.check(entry, self._follower.next_moment(now_ms))
        if own is None and not verify_entry(entry, state.genesis.network_id, state.signer(entry)):
            own = Refusal(
                Reason.BAD_SIGNATURE, "the account has another key now than the one that signed this"
            )
        for reason, count in refusals.items():
            is_refused = reason not in _DEFER and count > self._follower.committee.faults
            if is_refused and own is not None and own.reason is not Reason.TOO_LATE:
                raise EntryRefused(own.reason, own.detail, is_certain=False)
        if now_ms > entry.not_after_ms + EXPIRY_MARGIN_MS:
            raise EntryExpired(
                f"no block with the entry has come here, and its time, {entry.not_after_ms}, is over. That is not "
                "certain yet: a block of before may still become final. The entry stays on record; the next one has "
                "the same sequence number, so at most one of them ever counts",
                is_certain=False,
            )
