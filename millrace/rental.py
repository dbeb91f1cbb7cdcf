"""One lease as its buyer lives it: the stream, the lock, the module, the vouchers (SPEC.md §12).

`leases.py` decides which leases there are and what they work on; this module carries one of them from the
stream's opening to its end.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final, Protocol

import trio

from ledger.core.entries import Lock
from ledger.wallet import EntryExpired, EntryPending, EntryRefused, KeyReplaced, WalletBehind
from millrace.conversation import Conversation
from millrace.core import lease
from millrace.core.buyer_lease import BuyerLease
from millrace.core.lease import Action, BuyerState
from millrace.core.messages import PIECE_BYTES_MAX, ModulePiece
from millrace.core.progress import LeaseEnded, LeaseRefused, ModuleSent, Paid
from millrace.journal import Role

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from executor.core.outcome import Outcome
    from executor.core.task import WasmTask
    from ledger.core.entries import Action as EntryAction
    from ledger.core.entries import Voucher
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.receipt import Receipt
    from millrace.conversation import Channel
    from millrace.core.market import Offer
    from millrace.core.progress import Progress
    from millrace.core.terms import Terms
    from millrace.journal import Journal

__all__ = ["LOCK_S", "OPEN_S", "Buyer", "Desk", "Rental", "Runner", "Wallet"]

OPEN_S: Final = 15.0
"""How long reaching a worker may take."""
LOCK_S: Final = 45.0
"""How long the ledger may take to make a LOCK final."""


class Wallet(Protocol):
    """What the shells need of `ledger.wallet.Wallet`: an action in, a final receipt or an error out; vouchers."""

    async def submit(
        self, action: EntryAction, *, timeout_s: float, on_wait: Callable[[str], None] | None = None
    ) -> Receipt: ...
    def sign_voucher(self, lock_id: bytes, cumulative: int) -> Voucher: ...


class Runner(Protocol):
    """What the shells need of `executor.runner.Runner`."""

    async def prepare(self, module: bytes) -> object: ...
    async def run(self, task: WasmTask) -> Outcome: ...


@dataclass(frozen=True, slots=True)
class Buyer:
    """This node, as far as buying needs it."""

    key: SigningKey
    genesis: Genesis
    open_lease: Callable[[AccountId], Awaitable[Channel]]
    """Opens the `lease` stream to a worker; an `OSError` (`TimeoutError` is one) if it cannot be reached."""
    wallet: Wallet
    arbiter: Runner
    """Re-executes a unit whose replicas disagree."""
    journal: Journal
    clock_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]


class Desk(Protocol):
    """The job that a rental works for: what it hears, at once and in order."""

    job_id: bytes
    module: bytes

    def tell(self, event: Progress) -> None: ...
    def ledger_waits(self, why: str) -> None: ...
    def opened(self, rental: Rental) -> None: ...
    def committed(self, rental: Rental, units: tuple[int, ...]) -> None: ...
    def delivered(self, rental: Rental, unit: int, outcome: Outcome) -> None: ...
    def paid(self, rental: Rental, amount: int) -> None: ...
    def departed(self, rental: Rental, reason: str) -> None: ...


class Rental:
    """`serve` is its life. `cut` says that the worker lied, `joined` that units may be sent."""

    def __init__(self, offer: Offer, terms: Terms, buyer: Buyer, desk: Desk) -> None:
        network_id = buyer.genesis.network_id
        self.offer = offer
        self.terms = terms
        self.lease_id = terms.terms_hash(network_id)
        self.cumulative = 0
        """What its vouchers promise, in micro-credits."""
        self.joined = False
        self.cut = False
        self.may_be_locked = False
        """A LOCK of these terms is, or may yet become, final."""
        self.ledger_trouble = ""
        """Why the ledger gave no answer to the LOCK; empty if it gave one, or was not asked."""
        self._buyer = buyer
        self._desk = desk
        self._machine = BuyerLease(terms, buyer.key, network_id, sign_voucher=buyer.wallet.sign_voucher)
        self._scope = trio.CancelScope()
        self._talk: Conversation | None = None

    @property
    def worker(self) -> AccountId:
        """Who works."""
        return self.offer.worker

    @property
    def lock_id(self) -> bytes:
        """The lock's id, empty before it is final."""
        return self._machine.lock_id or b""

    @property
    def is_used_up(self) -> bool:
        """Whether the lock does not cover one more unit at its worst cost."""
        return self.cumulative + self.terms.unit_cost_max > self.terms.amount

    def feed(self, event: lease.Input) -> None:
        """Give the lease an order, unless it ended a moment ago: then the job is about to hear so."""
        if self._talk is not None and self._machine.state is BuyerState.RUNNING:
            self._talk.feed(event)

    def stop(self, reason: str) -> None:
        """End it, whatever it is doing: politely if there is a stream."""
        if self._talk is None:
            self._scope.cancel()
        else:
            self._talk.feed(lease.Finish(reason))

    async def serve(self) -> None:
        """From the stream's opening to its end, and the books."""
        reason = "the job ended first"
        try:
            with self._scope:
                reason = await self._converse()
            if self._talk is None:
                self._desk.departed(self, reason)
        finally:
            self._close_books(reason)  # also when the job is cancelled

    async def _converse(self) -> str:
        try:
            with trio.fail_after(OPEN_S):
                channel = await self._buyer.open_lease(self.worker)
        except (OSError, trio.TooSlowError) as error:
            return f"cannot be reached: {str(error) or type(error).__name__}"
        self._talk = Conversation(self._machine, channel, notice=self._notice, perform=self._perform)
        self._talk.feed(lease.Open())
        return (await self._talk.run()).reason

    def _close_books(self, reason: str) -> None:
        talk, journal = self._talk, self._buyer.journal
        sent, received = (talk.sent_bytes, talk.received_bytes) if talk else (0, 0)
        if talk is not None:
            journal.ended(self.lease_id, reason, cut=self.cut, sent_bytes=sent, received_bytes=received)
        if self.joined:
            self._desk.tell(LeaseEnded(self.worker, self.lease_id, reason, self.cumulative, sent, received))
        else:
            self._desk.tell(LeaseRefused(self.worker, reason))

    def _notice(self, action: Action) -> None:
        """What must be durable or known before anything else happens."""
        journal, desk = self._buyer.journal, self._desk
        match action:
            case lease.KeepTerms(terms):
                journal.agreed(self.lease_id, Role.BUYER, terms, self._buyer.clock_ms())
            case lease.KeepLock(lock_id, receipt):
                journal.locked(self.lease_id, lock_id, receipt)
            case lease.KeepVoucher(voucher, units):  # `_perform` has it on disk before it is sent
                amount, self.cumulative = voucher.cumulative - self.cumulative, voucher.cumulative
                desk.paid(self, amount)
                desk.tell(Paid(self.worker, amount, self.cumulative, units))
            case lease.UnitsCommitted(units):
                desk.committed(self, units)
            case lease.Delivered(unit, outcome):
                desk.delivered(self, unit, outcome)
            case lease.Opened():
                self.joined = True
                desk.opened(self)
            case lease.Ended(reason):
                desk.departed(self, reason)
            case _:
                pass

    async def _perform(self, action: Action) -> None:
        if self._talk is None:
            return
        match action:
            case lease.MakeLock():
                await self._lock(self._talk)
            case lease.StreamModule():
                await self._stream_module(self._talk)
            case lease.KeepVoucher(voucher):
                # Meanwhile other orders gather: the next turn pays for all of them with one voucher.
                journal = self._buyer.journal
                await journal.wait_for(partial(journal.keep_voucher, self.lease_id, voucher))
            case lease.TurnDue():
                self._talk.feed(lease.Turn())
            case _:
                pass

    async def _lock(self, talk: Conversation) -> None:
        """Have the LOCK ordered. What the wallet has signed it sends again after a crash (KeepTerms came first)."""
        terms, journal = self.terms, self._buyer.journal
        if talk.ended is not None:
            journal.voided(self.lease_id, talk.ended.reason)
            return
        self.may_be_locked = True
        action = Lock(terms.worker, terms.amount, terms.expiry_ms, self.lease_id)
        try:
            receipt = await self._buyer.wallet.submit(
                action, timeout_s=LOCK_S, on_wait=self._desk.ledger_waits
            )
        except (EntryPending, EntryRefused, WalletBehind, KeyReplaced) as error:
            is_trouble = isinstance(error, WalletBehind | EntryExpired | EntryPending)
            self.ledger_trouble = str(error) if is_trouble else ""
            if not isinstance(error, EntryPending) and (
                not isinstance(error, EntryRefused) or error.is_certain
            ):
                self.may_be_locked = False
                journal.voided(self.lease_id, str(error))
            # Else its fate is open and the amount stays counted; the settler finds the lock by its terms' hash.
            talk.feed(lease.LockFailed(str(error)))
        else:
            lock_id = receipt.entry.entry_id(self._buyer.genesis.network_id)
            talk.feed(lease.LockFinal(lock_id, receipt.encode()))

    async def _stream_module(self, talk: Conversation) -> None:
        module = self._desk.module
        for offset in range(0, len(module), PIECE_BYTES_MAX):
            if not await talk.send(ModulePiece(offset, module[offset : offset + PIECE_BYTES_MAX])):
                return
        self._desk.tell(ModuleSent(self.worker, len(module)))
