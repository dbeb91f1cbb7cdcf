"""Spending from one account: sign, keep, send, and send the same bytes again until the ledger has spoken (SPEC.md §15).

Order of writes for one entry: 1 the signed entry is durable; 2 it is sent to every witness; 3 its fate is recorded.
A crash after 1 leaves an entry that the next start sends again, byte for byte: never a second one with its sequence
number while its fate is open.
"""

from __future__ import annotations

import logging
from collections import Counter
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.encoding import WireError
from ledger.core.entries import Action, Entry, sign_entry
from ledger.core.keys import peer_id
from ledger.core.requests import AccountOf, ServiceError, Submit, decode_answer, encode_request, field
from ledger.core.state import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

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
        self._key = key
        self._genesis = genesis
        self.follower = follower
        self._request = request
        self.store = store
        self._clock_ms = clock_ms
        self._turn = trio.Lock()
        self._is_current = False
        # Entries seen final, to be marked so with the next one that is saved: a crash only makes the next start look
        # them up again, so they are not worth a wait for the disk of their own.
        self._settled: list[Entry] = []

    async def submit(
        self, action: Action, *, fee: int | None = None, timeout_s: float = 30.0, valid_ms: int = VALID_MS
    ) -> Receipt:
        """Have `action` ordered, and return its receipt once it is final here.

        `EntryRefused` if the ledger refuses it, `EntryExpired` if no block took it in time, `EntryPending` if
        `timeout_s` is over first, `WalletBehind` if this node must catch up before it may sign, or if `timeout_s`
        is over while an earlier entry's fate is open: then nothing was signed.
        """
        signed: list[bytes] = []
        with trio.move_on_after(timeout_s):
            async with self._turn:
                await self._finish_pending()
                await self._ensure_current()
                entry = sign_entry(
                    self._key,
                    self._genesis.network_id,
                    seq=self.follower.state.account(self.account).seq + 1,
                    not_after_ms=self._clock_ms() + valid_ms,
                    fee=self._genesis.fee_min if fee is None else fee,
                    action=action,
                )
                self._refuse_early(entry)
                entry_id = entry.entry_id(self._genesis.network_id)
                signed.append(entry_id)
                self.store.save_signed(entry, self._settled)  # 1: durable before anyone sees it
                self._settled.clear()
                return await self._settle(entry, entry_id)
        raise (
            EntryPending(signed[0])
            if signed
            else WalletBehind(
                "nothing was signed: an earlier entry of this account, or this node's copy of the ledger, still waits "
                f"for the witnesses after {timeout_s:g} s"
            )
        )

    async def run(self) -> None:
        """After a restart, settle what was signed before it; returns when nothing is pending."""
        async with self._turn:
            await self._finish_pending()
            for item in self.store.signed(self.account, pending_only=True):
                if self.follower.receipt(item.entry_id) is not None:
                    self.store.mark_signed(item.entry, "final")

    def pending(self) -> tuple[Entry, ...]:
        """Signed entries whose fate is open."""
        signed = self.store.signed(self.account, pending_only=True)
        return tuple(item.entry for item in signed if self.follower.receipt(item.entry_id) is None)

    # Fates.

    async def _finish_pending(self) -> None:
        for entry in self.pending():
            try:
                await self._settle(entry, entry.entry_id(self._genesis.network_id))
            except EntryRefused as refusal:
                _log.info("wallet: an entry signed earlier was refused: %s", refusal)

    async def _settle(self, entry: Entry, entry_id: bytes) -> Receipt:
        """Send `entry` until its fate is known, and record it."""
        try:
            receipt = await self._send_until_final(entry, entry_id)
        except EntryRefused as refusal:
            status = "expired" if isinstance(refusal, EntryExpired) else "refused"
            self.store.mark_signed(entry, status, str(refusal))
            raise
        self._settled.append(entry)
        return receipt

    async def _send_until_final(self, entry: Entry, entry_id: bytes) -> Receipt:
        resend_s = RESEND_S
        while True:
            refusals: Counter[Reason] = Counter()
            async with trio.open_nursery() as nursery:
                for witness in self.follower.committee.witnesses:  # 2: sent
                    nursery.start_soon(self._send, witness, entry, refusals)
                await self.follower.wait_for(entry_id, resend_s)
                nursery.cancel_scope.cancel()
            receipt = self.follower.receipt(entry_id)
            if receipt is not None:
                return receipt
            self._judge(entry, refusals)
            self.follower.switch_source()
            resend_s = min(RESEND_S_MAX, resend_s * 1.5)

    async def _send(self, witness: AccountId, entry: Entry, refusals: Counter[Reason]) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                answer = await self._request(witness, encode_request(Submit(entry.encode())), ANSWER_S)
            fields = decode_answer(answer)
            if field(fields, "status", str) == "refused":
                refusals[Reason(field(fields, "reason", str))] += 1
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
        own = self.follower.state.check(entry, now_ms)
        if own is not None and own.reason in {Reason.CONFLICT, Reason.SEQUENCE_USED}:
            raise EntryRefused(own.reason, f"another entry used this sequence number: {own.detail}")
        for reason, count in refusals.items():
            if reason not in _DEFER and count > self.follower.committee.faults and own is not None:
                raise EntryRefused(own.reason, own.detail)
        if now_ms > entry.not_after_ms + EXPIRY_MARGIN_MS:
            raise EntryExpired(f"no block took the entry until {entry.not_after_ms}")

    def _refuse_early(self, entry: Entry) -> None:
        """What our own verified copy refuses need not be signed for, sent or waited for."""
        refusal = self.follower.state.check(entry, self._clock_ms())
        if refusal is not None:
            raise EntryRefused(refusal.reason, refusal.detail)

    # Old backups.

    async def _ensure_current(self) -> None:
        """Once per start: this node's ledger copy must have every entry of this account that witnesses know.

        A wallet restored from an old backup has forgotten entries that it signed; signing their sequence numbers
        again would be equivocation. One honest witness among those that answer is enough to notice.
        """
        if self._is_current:
            return
        known: list[int] = []
        committee = self.follower.committee
        async with trio.open_nursery() as nursery:
            for witness in committee.witnesses:
                nursery.start_soon(self._ask_sequence, witness, known)
        if len(known) <= committee.faults:
            raise WalletBehind(
                f"only {len(known)} of {committee.n} witnesses answer, {committee.faults + 1} are needed "
                "before the first entry is signed: check the network connection and try again"
            )
        # A liar may name any number: what f + 1 witnesses reach is reached in truth.
        least = sorted(known, reverse=True)[committee.faults]

        def has_caught_up() -> bool:
            return self.follower.state.account(self.account).seq >= least

        if not await self.follower.wait_for(has_caught_up, CATCH_UP_S):
            raise WalletBehind(
                f"the ledger knows entry {least} of this account, this node's copy is behind: wait until it caught up"
            )
        self._is_current = True

    async def _ask_sequence(self, witness: AccountId, known: list[int]) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                answer = await self._request(witness, encode_request(AccountOf(self.account)), ANSWER_S)
            known.append(field(decode_answer(answer), "seq", int))
        except (ConnectionError, TimeoutError, trio.TooSlowError, WireError, ServiceError) as error:
            _log.debug("wallet: %s did not answer: %s", peer_id(witness), error)
