"""A witness at work: the ordering machine, its disk, its timers and its links to the other witnesses (SPEC.md §6).

One task feeds the machine and carries out what it answers. Per round of events: 1 votes, blocks and evidence become
durable in one transaction; 2 messages leave; 3 whoever waits is told. A crash before 1 loses only what nobody has
seen; after 1, the restarted machine repeats its votes and never contradicts them.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ledger.core.events import (
    Accuse,
    Action,
    Broadcast,
    CatchUp,
    CaughtUp,
    Event,
    Finalised,
    Judged,
    Now,
    PersistVote,
    Received,
    Send,
    Submitted,
    Tick,
    WakeAt,
)
from ledger.core.keys import peer_id
from ledger.core.simplex import Simplex
from ledger.core.state import Reason, Refusal
from ledger.store import Batch
from ledger.sync import HEDGE_S, Untrustworthy, pull_blocks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from ledger.archive import Archive
    from ledger.core.block import FinalBlock
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.mempool import Mempool
    from ledger.sync import Request

__all__ = ["INBOX_BYTES_MAX", "INBOX_MESSAGES_MAX", "Links", "Witness"]

INBOX_MESSAGES_MAX: Final = 1024
INBOX_BYTES_MAX: Final = 4 << 20
"""Per sender: a flood by one witness pushes out that witness's own messages only."""
SUBMISSIONS_MAX: Final = 4096
EVENTS_PER_ROUND_MAX: Final = 256
"""How many events share one transaction: more would make early ones wait for late ones."""
LOOK_IDLE_S: Final = 5.0
"""How often an idle witness compares its head with another one's."""
LOOK_BUSY_S: Final = 1.0
"""The same where something waits: what keeps it waiting may be settled elsewhere already."""

_log = logging.getLogger(__name__)


class Links(Protocol):
    """How messages reach the other witnesses. They may be lost; the machine repeats what matters."""

    async def send(self, to: AccountId, message: bytes) -> None:
        """Send, or drop; never raise for a witness that cannot be reached, never wait for one."""


class _Submission:
    """An entry whose sender waits for the machine's judgement."""

    __slots__ = ("done", "entry", "refusal")

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.refusal: Refusal | None = None
        self.done = trio.Event()


class _Pull:
    """Blocks being pulled from one source."""

    __slots__ = ("done", "has_answered", "heard_s")

    def __init__(self) -> None:
        self.done = trio.Event()
        self.has_answered = False
        self.heard_s = trio.current_time()


class Witness:
    """One of the witnesses of the present epoch. `run` orders entries until the epoch is over."""

    def __init__(
        self,
        key: SigningKey,
        archive: Archive,
        links: Links,
        request: Request,
        clock_ms: Callable[[], int],
        *,
        pool: Mempool | None = None,
    ) -> None:
        """`request` asks other witnesses' ledger services; `clock_ms` reads Unix milliseconds. Starts nothing.

        `pool` is what waited when the last epoch ended. `ValueError` if the present committee does not name `key`.
        """
        committee = archive.chain.committee
        if key.account not in committee:
            raise ValueError(f"{peer_id(key.account)} is no witness of network {archive.genesis.name!r}")
        self.archive = archive
        self._me = key.account
        self._others = tuple(account for account in committee.witnesses if account != key.account)
        self._links = links
        self._request = request
        self._clock_ms = clock_ms
        saved = archive.store.load_saved(committee)
        now = Now(trio.current_time(), clock_ms())
        self._machine = Simplex(key, archive.chain, now, saved, pool=pool, asks=True)
        self._inbox: dict[AccountId, deque[bytes]] = {account: deque() for account in self._others}
        self._inbox_bytes: dict[AccountId, int] = dict.fromkeys(self._others, 0)
        self._submissions: deque[_Submission] = deque()
        self._waiting: dict[bytes, list[_Submission]] = {}
        self._caught_up: deque[CaughtUp] = deque()
        self._work = trio.Event()
        self._round_over = trio.Event()
        self._behind: dict[AccountId, None] = {}
        self._look = trio.Event()
        self._pulling: dict[AccountId, _Pull] = {}
        self._wake_at_s: float | None = 0.0

    @property
    def faults_tolerated(self) -> int:
        """How many witnesses may lie or fail; 0 with fewer than four."""
        return self._machine.faults_tolerated

    @property
    def trouble(self) -> str:
        """Why this witness does not vote at present, or what is wrong on its disk; empty when all is well."""
        if self.archive.trouble:
            return self.archive.trouble
        if not self._machine.remembers_all_votes:
            return (
                "the database is an older copy: votes that it lacks came back; it abstains from those slots"
            )
        if not self._machine.may_vote:
            return "it has just started, and waits for what the other witnesses remember of its votes"
        return self.archive.damage

    @property
    def pool(self) -> Mempool:
        """The entries that wait here; the next epoch's witness takes them over."""
        return self._machine.pool

    def receive(self, sender: AccountId, message: bytes) -> None:
        """Take a message of another witness. Never waits: over the sender's limits its oldest messages are dropped."""
        inbox = self._inbox.get(sender)
        if inbox is None:
            return
        inbox.append(message)
        self._inbox_bytes[sender] += len(message)
        while len(inbox) > INBOX_MESSAGES_MAX or self._inbox_bytes[sender] > INBOX_BYTES_MAX:
            self._inbox_bytes[sender] -= len(inbox.popleft())
        self._work.set()

    async def submit(self, entry: Entry) -> Refusal | None:
        """Ask for `entry` to be ordered: None if it waits for a block now, else why not."""
        return (await self.submit_all((entry,)))[0]

    async def submit_all(self, entries: Sequence[Entry]) -> list[Refusal | None]:
        """`submit` for each, at once and in this order."""
        asked = [self._ask(entry) for entry in entries]
        for submission in asked:
            if not submission.done.is_set():
                await submission.done.wait()
        return [submission.refusal for submission in asked]

    def _ask(self, entry: Entry) -> _Submission:
        submission = _Submission(entry)
        if self.archive.trouble or len(self._submissions) >= SUBMISSIONS_MAX:
            why = self.archive.trouble or "too many entries are being submitted"
            submission.refusal = Refusal(Reason.BUSY, why)
            submission.done.set()
        else:
            self._submissions.append(submission)
            self._work.set()
        return submission

    def waiting(self, account: AccountId, count_max: int) -> tuple[Entry, ...]:
        """Entries of `account` that wait here for a block, in order of sequence."""
        return self._machine.pool.of(account, count_max)

    async def run(self) -> None:
        """Order entries until the epoch is over: until its last block is durable here."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pull_when_behind)
            for other in self._others:
                self._pulling[other] = _Pull()
                nursery.start_soon(self._pull_from, other, self._pulling[other])
            await self._order()
            nursery.cancel_scope.cancel()
        for submission in (*self._submissions, *(item for items in self._waiting.values() for item in items)):
            submission.refusal = Refusal(Reason.BUSY, "the committee changes: send it again")
            submission.done.set()

    # The machine.

    async def _order(self) -> None:
        while True:
            await self._carry_out(self._feed(self._take_events()))
            self._round_over.set()
            self._round_over = trio.Event()
            if self._machine.is_over:
                return
            with trio.move_on_at(self._wake_at_s if self._wake_at_s is not None else float("inf")):
                await self._work.wait()
            self._work = trio.Event()

    def _take_events(self) -> list[Event]:
        """The next round: a share of each sender's messages, submissions, and the timer if it is due."""
        events: list[Event] = []
        while self._caught_up:
            events.append(self._caught_up.popleft())
        if self._wake_at_s is not None and trio.current_time() >= self._wake_at_s:
            self._wake_at_s = None
            events.append(Tick())
        share = EVENTS_PER_ROUND_MAX // max(1, len(self._others))
        for sender, inbox in self._inbox.items():
            for _ in range(min(share, len(inbox))):
                message = inbox.popleft()
                self._inbox_bytes[sender] -= len(message)
                events.append(Received(sender, message))
        for _ in range(min(EVENTS_PER_ROUND_MAX, len(self._submissions))):
            submission = self._submissions.popleft()
            entry_id = submission.entry.entry_id(self.archive.genesis.network_id)
            self._waiting.setdefault(entry_id, []).append(submission)
            events.append(Submitted(submission.entry))
        if self._submissions or any(self._inbox.values()):
            self._work.set()
        return events

    def _feed(self, events: list[Event]) -> list[Action]:
        return self._machine.feed(*events, now=Now(trio.current_time(), self._clock_ms()))

    async def _carry_out(self, actions: list[Action]) -> None:
        batch = Batch(
            votes=tuple(action for action in actions if isinstance(action, PersistVote)),
            blocks=tuple(action.block for action in actions if isinstance(action, Finalised)),
            evidence=tuple(action.evidence.encode() for action in actions if isinstance(action, Accuse)),
        )
        if batch:
            await self.archive.write(batch)  # 1: durable. It waits for as long as the disk refuses.
        for action in actions:  # 2: sent. 3: told.
            match action:
                case Broadcast(message):
                    for other in self._others:
                        await self._links.send(other, message)
                case Send(to, message):
                    await self._links.send(to, message)
                case Judged(entry_id, refusal):
                    self._judge(entry_id, refusal)
                case CatchUp(source):
                    self._behind[source] = None
                    self._look.set()
                case Accuse(evidence):
                    liars = map(peer_id, evidence.culprits(self._machine.committee))
                    _log.error("evidence: %s signed what no honest witness signs", ", ".join(liars))
                case WakeAt(at_s):
                    self._wake_at_s = at_s
                case _:
                    pass

    def _judge(self, entry_id: bytes, refusal: Refusal | None) -> None:
        for submission in self._waiting.pop(entry_id, ()):
            submission.refusal = refusal
            submission.done.set()

    # Catching up.

    async def _pull_when_behind(self) -> None:
        """Pull from whoever shows a higher final block; now and then look whether somebody has one."""
        turn = 0
        async with trio.open_nursery() as nursery:
            while True:
                with trio.move_on_after(LOOK_BUSY_S if self._machine.is_waiting else LOOK_IDLE_S):
                    await self._look.wait()
                self._look = trio.Event()
                behind, self._behind = self._behind, {}
                if not behind and self._others:
                    turn = (turn + 1) % len(self._others)
                await self._pull_beside(
                    nursery, behind or (*self._others[turn:], *self._others[:turn]), behind
                )

    async def _pull_beside(
        self, nursery: trio.Nursery, sources: Iterable[AccountId], all_of: Collection[AccountId]
    ) -> None:
        """Pull from `all_of` the sources named, or else from the first that answers.

        One that says nothing for HEDGE_S goes on beside the next: a process that hangs would hold up the others until
        its time-out. No source is asked twice at a time.
        """
        for source in sources:
            if source in self._pulling:
                continue
            pull = self._pulling[source] = _Pull()
            nursery.start_soon(self._pull_from, source, pull)
            while not pull.done.is_set() and trio.current_time() < pull.heard_s + HEDGE_S:
                with trio.move_on_at(pull.heard_s + HEDGE_S):
                    await pull.done.wait()
            if not all_of and pull.has_answered:
                return

    def _took(self, block: FinalBlock) -> bool:
        """Whether the machine took `block`: it is settled, or waits for one that makes it final."""
        chain = self.archive.chain
        block_hash = block.header.hash(chain.genesis.network_id)
        return block.header.height <= chain.tip.height or chain.holds(block_hash)

    async def _pull_from(self, source: AccountId, pull: _Pull) -> None:
        """Take blocks from `source` until it has no new one."""
        height = self.archive.chain.tip.height + 1
        try:
            while True:
                blocks = await pull_blocks(self._request, source, height, 0)
                pull.has_answered, pull.heard_s = True, trio.current_time()
                if not blocks:
                    return
                self._caught_up.append(CaughtUp(blocks))
                self._work.set()
                while self._caught_up:
                    await self._round_over.wait()
                if not self._took(blocks[-1]):
                    raise Untrustworthy(f"what it has from height {height} on does not hold")
                height = blocks[-1].header.height + 1
        except (ConnectionError, TimeoutError, trio.TooSlowError) as error:
            _log.debug("witness: %s does not answer: %s", peer_id(source), error)
        except Untrustworthy as error:
            pull.has_answered = False
            _log.warning("witness: %s sent a wrong block: %s", peer_id(source), error)
        finally:
            self._pulling.pop(source, None)
            pull.done.set()
