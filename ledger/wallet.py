"""Spending from one account: sign, keep, send, and send the same bytes again until the ledger has spoken (SPEC.md §15).

Order of writes for one entry: 1 the signed entry is durable; 2 it is sent to every witness; 3 its fate is recorded.
A crash after 1 leaves an entry that the next start sends again, byte for byte: never a second one with its sequence
number while its fate is open.
"""

from __future__ import annotations

import logging
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.encoding import WireError
from ledger.core.entries import Action, Entry, decode_entry, sign_entry, verify_entry
from ledger.core.keys import peer_id
from ledger.core.requests import AccountOf, ServiceError, Submit, decode_answer, encode_request, field
from ledger.core.state import Reason
from ledger.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.receipt import Receipt
    from ledger.store import Store
    from ledger.sync import Follower, Request

__all__ = ["EntryExpired", "EntryPending", "EntryRefused", "Wallet", "WalletBehind"]

VALID_MS: Final = 120_000
"""How long a signed entry may wait for its block."""
EXPIRY_MARGIN_MS: Final = 10_000
"""A leader's clock may lag: an entry is given up only this long after its `not_after`."""
ANSWER_S: Final = 3.0
RESEND_S: Final = 1.0
RESEND_S_MAX: Final = 5.0
CATCH_UP_S: Final = 30.0
CUT_OFF_S: Final = 10.0
"""With no witness answering for this long, whoever has nothing signed yet is told so instead of waiting on."""
LOOK_S: Final = 1.0
"""How often somebody in line looks whether the ledger is cut off."""
DISK_PAUSE_S: Final = 5.0
ADOPTED_MAX: Final = 16
"""Entries waiting at the witnesses that a wallet without memory of them takes up, at one start."""

_DEFER: Final = frozenset((Reason.BUSY, Reason.REPEAT, Reason.SEQUENCE_GAP))
"""Refusals that say nothing about the entry: no room, applied already, or the witness is behind us."""

_log = logging.getLogger(__name__)


class EntryRefused(Exception):
    """The ledger does not take the entry; `reason` is the rule that it breaks, and nothing moved."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(f"{reason.value}: {detail}")
        self.reason = reason
        self.detail = detail


class EntryExpired(EntryRefused):
    """No block took the entry before its `not_after`."""

    def __init__(self, detail: str) -> None:
        super().__init__(Reason.TOO_LATE, detail)


class EntryPending(TimeoutError):
    """The time is over and the entry's fate is open: it is kept, and goes on being sent by `run` and by `submit`."""

    def __init__(self, entry_id: bytes) -> None:
        super().__init__(f"entry {entry_id.hex()} is not final yet; it stays pending")
        self.entry_id = entry_id


class WalletBehind(Exception):
    """What the ledger holds of this account is not known well enough to sign: a signature could contradict it."""


class _Round:
    """What the witnesses said to one sending of an entry."""

    __slots__ = ("answers", "refusals")

    def __init__(self) -> None:
        self.answers = 0
        self.refusals: Counter[Reason] = Counter()


class Wallet:
    """One account's way to the ledger. One entry at a time: a sequence number is used when its entry is settled."""

    def __init__(
        self,
        key: SigningKey,
        genesis: Genesis,
        follower: Follower,
        request: Request,
        store: Store,
        *,
        clock_ms: Callable[[], int],
    ) -> None:
        """`store` may be the follower's; `clock_ms` reads Unix milliseconds. Starts nothing."""
        self.account: AccountId = key.account
        self.waits_for = ""
        """What the wallet is waiting for, in words; empty while nothing waits."""
        self._key = key
        self._genesis = genesis
        self.follower = follower
        self._request = request
        self.store = store
        self._clock_ms = clock_ms
        self._turn = trio.Lock()
        self._is_current = False
        self._cut_off_s: float | None = None  # since when no witness answers
        self._left_open = trio.Event()
        self._listeners: list[Callable[[str], None]] = []
        # Entries seen final, to be marked so with the next one that is saved: a crash only makes the next start look
        # them up again, so they are not worth a wait for the disk of their own.
        self._settled: list[Entry] = []

    async def submit(
        self,
        action: Action,
        *,
        fee: int | None = None,
        timeout_s: float = 30.0,
        valid_ms: int = VALID_MS,
        on_wait: Callable[[str], None] | None = None,
    ) -> Receipt:
        """Have `action` ordered, and return its receipt once it is final here.

        `EntryRefused` if the ledger refuses it, `EntryExpired` if no block took it in time, `EntryPending` if
        `timeout_s` is over first, `WalletBehind` if this node must catch up before it may sign, or if `timeout_s`
        is over, or no witness has answered for CUT_OFF_S, while an earlier entry's fate is open: then nothing was
        signed. `on_wait` hears what is waited for, from about a second on and whenever that changes.
        """
        signed: list[bytes] = []
        with self._telling(on_wait), trio.move_on_after(timeout_s):
            await self._take_turn()
            try:
                await self._finish_pending(gives_up=True)
                await self._ensure_current()
                entry = self._sign(action, fee, valid_ms)
                entry_id = entry.entry_id(self._genesis.network_id)
                signed.append(entry_id)
                self.store.save_signed(entry, self._settled)  # 1: durable before anyone sees it
                self._settled.clear()
                return await self._settle(entry, entry_id)
            finally:
                self._turn.release()
        raise (
            EntryPending(signed[0])
            if signed
            else WalletBehind(
                f"nothing was signed in {timeout_s:g} s: {self.waits_for or 'the ledger is slow'}"
            )
        )

    async def run(self) -> None:
        """Settle what was signed and left open, by a crash or by a caller that did not wait; runs until cancelled."""
        while True:
            self._left_open = trio.Event()
            try:
                await self.finish()
            except StoreError as error:
                _log.error("wallet: %s", error)
                await trio.sleep(DISK_PAUSE_S)
                continue
            await self._left_open.wait()

    async def finish(self) -> None:
        """Settle what was signed and left open; returns when nothing is."""
        async with self._turn:
            await self._finish_pending(gives_up=False)
            for item in self.store.signed(self.account, pending_only=True):
                if self.follower.receipt(item.entry_id) is not None:
                    self.store.mark_signed(item.entry, "final")

    def pending(self) -> tuple[Entry, ...]:
        """Signed entries whose fate is open."""
        signed = self.store.signed(self.account, pending_only=True)
        return tuple(item.entry for item in signed if self.follower.receipt(item.entry_id) is None)

    def _sign(self, action: Action, fee: int | None, valid_ms: int) -> Entry:
        entry = sign_entry(
            self._key,
            self._genesis.network_id,
            seq=self.follower.state.account(self.account).seq + 1,
            not_after_ms=self._clock_ms() + valid_ms,
            fee=self._genesis.fee_min if fee is None else fee,
            action=action,
        )
        self._refuse_early(entry)
        return entry

    # Waiting, and saying for what.

    async def _take_turn(self) -> None:
        """One entry at a time; whoever is in line leaves it when the ledger is cut off."""
        while not await self._is_my_turn():
            self._give_up_if_cut_off()

    async def _is_my_turn(self) -> bool:
        with trio.move_on_after(LOOK_S) as patience:
            await self._turn.acquire()
        return not patience.cancelled_caught

    def _give_up_if_cut_off(self) -> None:
        if self._cut_off_s is not None and trio.current_time() - self._cut_off_s >= CUT_OFF_S:
            raise WalletBehind(f"nothing was signed: {self.waits_for}")

    @contextmanager
    def _telling(self, on_wait: Callable[[str], None] | None) -> Iterator[None]:
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

    def _say(self, text: str) -> None:
        if text != self.waits_for:
            self.waits_for = text
            for listener in self._listeners if text else ():
                listener(text)

    def _explain_wait(self, entry: Entry, entry_id: bytes, answers: int) -> str:
        committee = self.follower.committee
        what = f"{entry.action.TYPE.name} {entry_id.hex()[:16]}, signed and kept, is not final yet"
        if not answers:
            return f"{what}: no witness answers"
        if answers < committee.quorum:
            return f"{what}: {answers} of {committee.n} witnesses answer, {committee.quorum} must agree"
        return f"{what}: {answers} of {committee.n} witnesses have it, and no block has come with it"

    # Fates.

    async def _finish_pending(self, *, gives_up: bool) -> None:
        for entry in self.pending():
            try:
                await self._settle(entry, entry.entry_id(self._genesis.network_id), gives_up=gives_up)
            except EntryRefused as refusal:
                _log.info("wallet: an entry signed earlier was refused: %s", refusal)

    async def _settle(self, entry: Entry, entry_id: bytes, *, gives_up: bool = False) -> Receipt:
        """Send `entry` until its fate is known, and record it (3). Left before, it is `run`'s."""
        fate = "open"
        try:
            receipt = await self._send_until_final(entry, entry_id, gives_up=gives_up)
            fate = "final"
        except EntryRefused as refusal:
            fate = "expired" if isinstance(refusal, EntryExpired) else "refused"
            self.store.mark_signed(entry, fate, str(refusal))
            raise
        finally:
            if fate == "open":
                self._left_open.set()
            else:
                self._cut_off_s = None
                self._say("")
        self._settled.append(entry)
        return receipt

    async def _send_until_final(self, entry: Entry, entry_id: bytes, *, gives_up: bool) -> Receipt:
        resend_s = RESEND_S
        while True:
            said = _Round()
            async with trio.open_nursery() as nursery:
                for witness in self.follower.committee.witnesses:  # 2: sent
                    nursery.start_soon(self._send, witness, entry, said)
                await self.follower.wait_for(entry_id, resend_s)
                nursery.cancel_scope.cancel()
            receipt = self.follower.receipt(entry_id)
            if receipt is not None:
                return receipt
            self._judge(entry, said.refusals)
            self._say(self._explain_wait(entry, entry_id, said.answers))
            if said.answers:
                self._cut_off_s = None
            elif self._cut_off_s is None:
                self._cut_off_s = trio.current_time()
            if gives_up:
                self._give_up_if_cut_off()
            self.follower.switch_source()
            resend_s = min(RESEND_S_MAX, resend_s * 1.5)

    async def _send(self, witness: AccountId, entry: Entry, said: _Round) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                answer = await self._request(witness, encode_request(Submit(entry.encode())), ANSWER_S)
            fields = decode_answer(answer)
            said.answers += 1
            if field(fields, "status", str) == "refused":
                said.refusals[Reason(field(fields, "reason", str))] += 1
        except (
            ConnectionError,
            TimeoutError,
            trio.TooSlowError,
            WireError,
            ServiceError,
            ValueError,
        ) as error:
            _log.debug("wallet: %s did not take the entry: %s", peer_id(witness), error)

    def _judge(self, entry: Entry, refusals: Counter[Reason]) -> None:
        """Give up only if it is certain, or if more witnesses refuse than may lie and our own copy agrees."""
        now_ms = self._clock_ms()
        own = self.follower.state.check(entry, self.follower.next_moment(now_ms))
        if own is not None and own.reason in {Reason.CONFLICT, Reason.SEQUENCE_USED}:
            raise EntryRefused(own.reason, f"another entry used this sequence number: {own.detail}")
        for reason, count in refusals.items():
            if reason not in _DEFER and count > self.follower.committee.faults and own is not None:
                raise EntryRefused(own.reason, own.detail)
        if now_ms > entry.not_after_ms + EXPIRY_MARGIN_MS:
            raise EntryExpired(f"no block took the entry until {entry.not_after_ms}")

    def _refuse_early(self, entry: Entry) -> None:
        """What our own verified copy refuses need not be signed for, sent or waited for."""
        refusal = self.follower.state.check(entry, self.follower.next_moment(self._clock_ms()))
        if refusal is not None:
            raise EntryRefused(refusal.reason, refusal.detail)

    # Old backups.

    async def _ensure_current(self) -> None:
        """Once per start: know every entry of this account that is final or waits, before one more is signed.

        A wallet restored from an old backup has forgotten entries that it signed; signing their sequence numbers
        again would be equivocation. What is final, f + 1 witnesses of the present committee say and the own copy must
        reach; what waits, one honest one shows, signed by this very key, and the wallet takes it up as its own.
        """
        while not self._is_current:
            committee = self.follower.committee
            found: list[tuple[int, list[Entry]]] = []
            async with trio.open_nursery() as nursery:
                for witness in committee.witnesses:
                    nursery.start_soon(self._ask_account, witness, found)
            if len(found) <= committee.faults:
                raise WalletBehind(
                    f"only {len(found)} of {committee.n} witnesses answer, {committee.faults + 1} are needed "
                    "before the first entry is signed: check the network connection and try again"
                )
            # A liar may name any number: what f + 1 witnesses reach is reached in truth.
            least = sorted((seq for seq, _ in found), reverse=True)[committee.faults]
            await self._catch_up(least)
            if self.follower.committee == committee:  # else those asked are no witnesses any more
                self._adopt([entry for _, waiting in found for entry in waiting])
                await self._finish_pending(gives_up=True)
                self._is_current = True

    async def _catch_up(self, least: int) -> None:
        def has_caught_up() -> bool:
            return self.follower.state.account(self.account).seq >= least

        if not has_caught_up():
            self._say(f"this node's copy of the ledger has yet to reach entry {least} of this account")
        is_there = await self.follower.wait_for(has_caught_up, CATCH_UP_S)
        self._say("")
        if not is_there:
            raise WalletBehind(
                f"the ledger knows entry {least} of this account, this node's copy is behind: wait until it caught up"
            )

    def _adopt(self, waiting: list[Entry]) -> None:
        """Keep entries of ours that wait at witnesses and that this wallet does not know, in sequence, without a gap.

        Liars can show nothing that this key has not signed; and a gap would have us wait for what cannot come.
        """
        network_id, last = self._genesis.network_id, self.follower.state.account(self.account).seq
        pending = {item.entry_id for item in self.store.signed(self.account, pending_only=True)}
        ours = {entry.entry_id(network_id): entry for entry in waiting if verify_entry(entry, network_id)}
        reached = last
        for entry_id, entry in sorted(ours.items(), key=lambda item: item[1].seq)[:ADOPTED_MAX]:
            if not last < entry.seq <= reached + 1:
                continue
            reached = entry.seq
            if entry_id not in pending:
                _log.warning(
                    "wallet: entry %s, signed with this key and unknown here, waits at the witnesses: taken up. "
                    "If this wallet was not restored from a backup, somebody else uses its key",
                    entry_id.hex()[:16],
                )
                self.store.save_signed(entry)

    async def _ask_account(self, witness: AccountId, found: list[tuple[int, list[Entry]]]) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                answer = await self._request(witness, encode_request(AccountOf(self.account)), ANSWER_S)
            fields = decode_answer(answer)
            encoded = field(fields, "waiting", list)[:ADOPTED_MAX]
            waiting = [decode_entry(data) for data in encoded if isinstance(data, bytes)]
            ours = [entry for entry in waiting if entry.account == self.account]
            found.append((field(fields, "seq", int), ours))
        except (ConnectionError, TimeoutError, trio.TooSlowError, WireError, ServiceError) as error:
            _log.debug("wallet: %s did not answer: %s", peer_id(witness), error)
