"""Settling what leases left open: CLAIM for work done, EXPIRE for locks nobody claimed (SPEC.md §12).

The same pass serves the normal end of a lease and the restart after a crash: it reads the journal, looks at
the ledger, and does what is left to do. A step that fails is simply done again by a later pass; the ledger
closes a lock only once, so doing a step twice is harmless.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ledger.core.entries import Claim, Expire
from ledger.core.state import LockStatus
from ledger.wallet import EntryPending, EntryRefused, KeyReplaced, WalletBehind
from millrace.journal import LeaseStanding, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.core.entries import Action
    from ledger.core.state import LockState
    from millrace.journal import Journal, LeaseRecord
    from millrace.rental import Wallet

__all__ = ["Ledger", "Settler"]

POLL_S: Final = 5.0
"""How often the ledger is looked at for locks that somebody else closes."""
SUBMIT_S: Final = 45.0
EXPIRE_SLACK_MS: Final = 2_000
"""Past the expiry: the next block's time must be past it too."""
CLAIM_LAST_MS: Final = 1_000
"""A claim that cannot reach a block before the expiry is not tried."""
VOID_AFTER_MS: Final = 60_000
"""Past a lease's expiry, no LOCK with that expiry can be applied any more."""

_log = logging.getLogger(__name__)


class Ledger(Protocol):
    """What the settler reads of `ledger.core.state.LedgerState`."""

    def lock(self, lock_id: bytes) -> LockState | None: ...
    def open_locks(self) -> Sequence[LockState]: ...


class Settler:
    """`nursery.start_soon(settler.run)`. Leases whose conversation goes on are held, and left alone."""

    def __init__(
        self, journal: Journal, wallet: Wallet, ledger: Callable[[], Ledger], clock_ms: Callable[[], int]
    ) -> None:
        """`ledger()` is this node's own verified state (`lambda: follower.state`)."""
        self._journal = journal
        self._wallet = wallet
        self._ledger = ledger
        self._clock_ms = clock_ms
        self._held: set[bytes] = set()
        self._poked = trio.Event()
        self._turn = trio.Lock()

    def hold(self, lease_id: bytes) -> None:
        """A conversation about this lease begins: do not claim yet."""
        self._held.add(lease_id)

    def release(self, lease_id: bytes) -> None:
        """The conversation is over: claim now."""
        self._held.discard(lease_id)
        self.poke()

    def poke(self) -> None:
        """Something may be due: look now."""
        self._poked.set()

    async def run(self) -> None:
        """Settle what is due, then wait for `poke` or POLL_S, for ever."""
        while True:
            self._poked = trio.Event()
            await self.settle_due()
            with trio.move_on_after(POLL_S):
                await self._poked.wait()

    async def settle_due(self) -> None:
        """One pass over everything that is open."""
        async with self._turn:
            for record in self._journal.unsettled():
                if record.lease_id not in self._held:
                    try:
                        await self._settle(record)
                    except (EntryPending, EntryRefused, KeyReplaced, WalletBehind, OSError) as error:
                        _log.info("lease %s is not settled yet: %s", record.lease_id.hex()[:16], error)

    async def settle_all(self, timeout_s: float) -> int:
        """Before a shutdown: claim what is ours; how many claims are still open when done or out of time."""
        with trio.move_on_after(timeout_s):
            while self._claims_left():
                await self.settle_due()
                if self._claims_left():
                    await trio.sleep(min(1.0, timeout_s / 10))
        return self._claims_left()

    def _claims_left(self) -> int:
        return sum(
            record.role is Role.WORKER and record.standing is LeaseStanding.LOCKED
            for record in self._journal.unsettled()
        )

    async def _settle(self, record: LeaseRecord) -> None:
        if record.standing is LeaseStanding.AGREED:
            self._find_lock(record)
            return
        lock_id = record.lock_id or b""
        lock = self._ledger().lock(lock_id)
        now_ms = self._clock_ms()
        if lock is None:
            # Not applied in our copy yet; or closed so long ago that the ledger forgot it.
            if now_ms > record.terms.expiry_ms + VOID_AFTER_MS:
                paid = record.voucher.cumulative if record.voucher else 0
                self._journal.settled(record.lease_id, paid if record.role is Role.BUYER else 0, None)
        elif lock.status is LockStatus.CLOSED:
            self._journal.settled(record.lease_id, lock.paid, None)
        elif record.role is Role.WORKER:
            if now_ms < lock.expiry_ms - CLAIM_LAST_MS:
                await self._claim(record, lock_id)
        elif now_ms >= lock.expiry_ms + EXPIRE_SLACK_MS:
            await self._submit(record, Expire(lock_id), 0)

    async def _claim(self, record: LeaseRecord, lock_id: bytes) -> None:
        """With the best voucher; without one, 0 gives the buyer its lock back at once instead of at the expiry."""
        voucher = record.voucher
        if voucher is None:
            await self._submit(record, Claim(lock_id, 0), 0)
        else:
            claim = Claim(lock_id, voucher.cumulative, voucher.signature)
            await self._submit(record, claim, voucher.cumulative)

    async def _submit(self, record: LeaseRecord, action: Action, paid: int) -> None:
        # 1. submit: after a crash here the next pass finds the lock closed, or submits again and is refused.
        # 2. settled: after a crash here nothing is left to do.
        receipt = await self._wallet.submit(action, timeout_s=SUBMIT_S)
        self._journal.settled(record.lease_id, paid, receipt.encode())

    def _find_lock(self, record: LeaseRecord) -> None:
        """Terms were signed and then this node forgot, or never learned, what became of the LOCK."""
        if record.role is Role.WORKER:
            self._journal.voided(record.lease_id, "no lock was shown")
            return
        for lock in self._ledger().open_locks():
            if lock.terms_hash == record.lease_id and lock.payer == record.terms.buyer:
                self._journal.locked(record.lease_id, lock.lock_id, None)
                return
        if self._clock_ms() > record.terms.expiry_ms + VOID_AFTER_MS:
            self._journal.voided(record.lease_id, "no lock was made")
