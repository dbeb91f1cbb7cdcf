"""The worker's side of one lease: inputs in, actions out, time as an argument (SPEC.md §12).

The worker's rule for its own money: never more than one window of units unpaid, and nothing runs that the
proved lock could not pay for.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

from executor.core.task import WasmTask
from executor.core.wire import WireError as TaskError
from ledger.core.encoding import NetworkId, WireError
from ledger.core.entries import Entry, Voucher, verify_voucher
from millrace.core import lease, messages
from millrace.core.cost import unit_cost
from millrace.core.lease import (
    WORKER_TRANSITIONS,
    Action,
    Ended,
    Input,
    LocalProtocolError,
    Phase,
    RemoteProtocolError,
    Send,
    Wake,
    WorkerState,
    seal,
)
from millrace.core.messages import Message, VerdictCode
from millrace.core.terms import Terms, lock_problem, sign_terms, verify_terms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from executor.core.limits import Limits
    from executor.core.outcome import Outcome
    from ledger.core.keys import AccountId, SigningKey

__all__ = ["LeasePolicy", "WorkerLease", "terms_problem"]

PROPOSE_S: Final = 10.0
"""From the open stream to the proposal."""
LOCK_S: Final = 60.0
"""From our signature to the LOCK's receipt: several slot timeouts of a slow ledger."""
MODULE_S: Final = 60.0
"""Between two pieces of the module."""
COMPILE_S: Final = 150.0
SILENCE_S: Final = 120.0
"""A buyer that says nothing this long, on top of four times the units' wall-clock limit, is gone."""
HELD_BYTES_MAX: Final = 64 << 20
"""Results that one lease may make a worker keep until they are judged."""
_MESSAGE_TYPES: Final = get_args(Message)


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """On which terms this node works: its price, its ceilings, and how long before a lock's expiry it claims."""

    price_per_tfuel: int
    ceilings: Limits
    module_bytes_max: int
    window_units_max: int
    expiry_margin_ms: int


def terms_problem(terms: Terms, policy: LeasePolicy, now_ms: int) -> str | None:
    """Why a worker with this policy does not sign these terms; None if it does."""
    if terms.price_per_tfuel < policy.price_per_tfuel:
        return f"price {terms.price_per_tfuel} is below {policy.price_per_tfuel} per tera-fuel"
    ceilings = policy.ceilings
    for name, asked, most in (
        ("fuel", terms.fuel_max, ceilings.fuel),
        ("memory_bytes", terms.memory_bytes_max, ceilings.memory_bytes),
        ("wall_ms", terms.wall_ms_max, round(ceilings.wall_s * 1000)),
        ("output_bytes", terms.output_bytes_max, ceilings.output_bytes),
        ("module_bytes", terms.module_bytes, policy.module_bytes_max),
        ("window_units", terms.window_units, policy.window_units_max),
    ):
        if asked > most:
            return f"{name} {asked} is over {most}"
    if terms.window_units * terms.output_bytes_max > HELD_BYTES_MAX:
        return f"a window of results may hold {HELD_BYTES_MAX} bytes at most"
    if terms.expiry_ms - now_ms < 2 * policy.expiry_margin_ms:
        return f"the lock would expire in {terms.expiry_ms - now_ms} ms; {2 * policy.expiry_margin_ms} are needed"
    return None


@dataclass(slots=True)
class _Unit:
    """One unit in hand."""

    phase: Phase = Phase.ASSIGNED
    outcome: Outcome | None = None
    salt: bytes = b""


class WorkerLease:
    """Feed it what happens, perform the actions it returns, in order. Nothing else assigns `state`."""

    def __init__(
        self,
        buyer: AccountId,
        key: SigningKey,
        network_id: NetworkId,
        *,
        policy: LeasePolicy,
        prove: Callable[[bytes], tuple[Entry, AccountId]],
        now: tuple[float, int],
    ) -> None:
        """`buyer` is who the stream is with, `prove` gives the entry a receipt proves final (`WireError` if none), and
        the key that its account had then, which signed it and signs the vouchers of a lock.

        `now` is the present on both clocks, (seconds, wall milliseconds): the lease runs on the first and
        reads the second only for the lock's expiry.
        """
        self.buyer = buyer
        self.terms: Terms | None = None
        self.state = WorkerState.NEW
        self.lock_id: bytes | None = None
        self.voucher: Voucher | None = None
        self._payer_key = buyer
        self._key = key
        self._network_id = network_id
        self._policy = policy
        self._prove = prove
        self._wall_ms_at_0 = now[1] - round(now[0] * 1000)
        self._units: dict[int, _Unit] = {}
        self._unpaid = 0
        self._module = bytearray()
        self._fetching = False
        self._deadline_s = now[0] + PROPOSE_S

    @property
    def paid(self) -> int:
        """What the best voucher is worth, in micro-credits."""
        return self.voucher.cumulative if self.voucher else 0

    def feed(self, event: Input, now_s: float) -> list[Action]:
        """What to do about `event`; whatever the peer did wrong ends the lease with a `fault`."""
        before = self.state
        after = WORKER_TRANSITIONS.get((before, type(event)))
        if after is None:
            if not isinstance(event, _MESSAGE_TYPES):
                raise LocalProtocolError(f"{type(event).__name__} in {before.name}")
            return self.feed(lease.Fault(f"{type(event).__name__} in state {before.name}"), now_s)
        if before is WorkerState.ENDED:
            return []
        if isinstance(event, lease.Tick):
            if now_s < self._wake_s():
                return [Wake(self._wake_s())]
            return self.feed(lease.Finish(f"time is up in state {before.name}"), now_s)
        try:
            actions = self._HANDLERS[type(event)](self, event, now_s)
        except RemoteProtocolError as error:
            return self.feed(lease.Fault(str(error)), now_s)
        except _Declined as error:
            self.state = WORKER_TRANSITIONS[before, lease.Finish]
            return [Send(messages.Refuse(str(error))), Ended(f"refused: {error}", fault=False)]
        self.state = after
        if after is WorkerState.ENDED:
            stops: list[Action] = [lease.StopUnit(unit) for unit in self._running()]
            self._units.clear()
            self._module.clear()
            return stops + actions
        if self.terms is not None and self._unpaid > self.terms.window_units:
            # Not raised in `_verdicts`: a voucher that came with the last straw is kept first.
            return actions + self.feed(lease.Fault(f"{self._unpaid} more units unpaid than paid"), now_s)
        return [*actions, Wake(self._wake_s())]

    def _running(self) -> list[int]:
        return [unit for unit, item in self._units.items() if item.phase is Phase.ASSIGNED]

    def _wake_s(self) -> float:
        """The next deadline: the peer's, or the last moment to claim (R12.22), whichever is first."""
        if self.terms is None:
            return self._deadline_s
        claim_by_ms = self.terms.expiry_ms - self._policy.expiry_margin_ms
        return min(self._deadline_s, (claim_by_ms - self._wall_ms_at_0) / 1000)

    def _propose(self, event: messages.Propose, now_s: float) -> list[Action]:
        terms = event.terms
        if terms.buyer != self.buyer or terms.worker != self._key.account:
            raise RemoteProtocolError("the terms are not between the two ends of this stream")
        if not verify_terms(terms, terms.buyer, event.signature, self._network_id):
            raise RemoteProtocolError("the buyer's signature of the terms is wrong")
        if problem := terms_problem(terms, self._policy, self._wall_ms_at_0 + round(now_s * 1000)):
            raise _Declined(problem)
        self.terms = terms
        self._deadline_s = now_s + LOCK_S
        # 1. KeepTerms: after a crash here nothing binds anybody; the record is voided later.
        # 2. Send: after a crash here the buyer may lock; its lock runs to its expiry and returns to it.
        accept = messages.Accept(sign_terms(terms, self._key, self._network_id))
        return [lease.KeepTerms(terms), Send(accept)]

    def _locked(self, event: messages.Locked, now_s: float) -> list[Action]:
        terms = self._agreed()
        try:
            entry, self._payer_key = self._prove(event.receipt)
        except WireError as error:
            raise RemoteProtocolError(f"the LOCK's receipt proves nothing: {error}") from error
        if problem := lock_problem(entry, terms, self._network_id):
            raise RemoteProtocolError(problem)
        self.lock_id = entry.entry_id(self._network_id)
        self._deadline_s = now_s + COMPILE_S
        # KeepLock first: from here on a crash is answered by claiming from the journal.
        return [lease.KeepLock(self.lock_id, event.receipt), lease.FetchModule(terms.module_sha256)]

    def _missing(self, _: lease.ModuleMissing, now_s: float) -> list[Action]:
        self._fetching = True
        self._deadline_s = now_s + MODULE_S
        return [Send(messages.NeedModule())]

    def _piece(self, event: messages.ModulePiece, now_s: float) -> list[Action]:
        terms = self._agreed()
        if not self._fetching or event.offset != len(self._module):
            raise RemoteProtocolError("a piece of the module that was not asked for")
        if event.offset + len(event.data) > terms.module_bytes:
            raise RemoteProtocolError("the module is longer than the terms say")
        self._module += event.data
        self._deadline_s = now_s + MODULE_S
        if len(self._module) < terms.module_bytes:
            return []
        module = bytes(self._module)
        self._module.clear()
        self._fetching = False
        if hashlib.sha256(module).digest() != terms.module_sha256:
            raise RemoteProtocolError("the module's hash is not the one in the terms")
        self._deadline_s = now_s + COMPILE_S
        return [lease.PrepareModule(terms.module_sha256, module)]

    def _prepared(self, _: lease.ModulePrepared, now_s: float) -> list[Action]:
        self._heard(now_s)
        return [Send(messages.Ready())]

    def _module_bad(self, event: lease.ModuleBad, _now_s: float) -> list[Action]:
        reason = f"module: {event.reason}"
        return [Send(messages.Refuse(reason)), Ended(reason, fault=False)]

    def _take(self, event: messages.Units, now_s: float) -> list[Action]:
        terms = self._agreed()
        after = len(self._units) + len(event.units)
        if after > terms.window_units:
            raise RemoteProtocolError(f"{after} units out, the window is {terms.window_units}")
        if self.paid + after * terms.unit_cost_max > terms.amount:
            raise RemoteProtocolError("more units than the lock pays for")
        for item in event.units:
            if item.unit in self._units:
                raise RemoteProtocolError(f"unit {item.unit} is sent twice")
            _check_task(item.task, terms)
        self._units.update({item.unit: _Unit() for item in event.units})
        self._heard(now_s)
        return [lease.Run(item.unit, item.task) for item in event.units]

    def _done(self, event: lease.Done, _now_s: float) -> list[Action]:
        unit = self._units.get(event.unit)
        if unit is None:  # judged (superseded) while it ran
            return []
        if unit.phase is not Phase.ASSIGNED:
            raise LocalProtocolError(f"unit {event.unit} is done twice")
        unit.phase, unit.outcome, unit.salt = Phase.COMMITTED, event.outcome, event.salt
        terms = self._agreed()
        commitment = seal(terms.job_id, event.unit, terms.worker, event.salt, event.outcome.digest())
        return [Send(messages.Committed((messages.Commit(event.unit, commitment),)))]

    def _reveal(self, event: messages.Reveal, now_s: float) -> list[Action]:
        results = tuple(self._result(unit) for unit in event.units)
        for unit in event.units:
            self._units[unit].phase = Phase.DELIVERED
        self._heard(now_s)
        groups = messages.batches(results, lambda item: len(item.outcome))
        return [Send(messages.Results(group)) for group in groups]

    def _result(self, number: int) -> messages.Result:
        unit = self._units.get(number)
        if unit is None or unit.phase is not Phase.COMMITTED or unit.outcome is None:
            raise RemoteProtocolError(f"unit {number} is asked for without a commitment to open")
        return messages.Result(number, unit.outcome.encode(), unit.salt)

    def _verdicts(self, event: messages.Verdicts, now_s: float) -> list[Action]:
        terms = self._agreed()
        total = self.paid + sum(self._due(item) for item in event.verdicts)
        voucher = event.voucher
        if (voucher is not None) != (total > self.paid):
            raise RemoteProtocolError("a voucher comes with payment, and only then")
        if voucher is not None:
            if voucher.cumulative != total or total > terms.amount or voucher.lock_id != self.lock_id:
                raise RemoteProtocolError(f"the voucher is not for {total} of this lock")
            if not verify_voucher(voucher, self._payer_key, self._network_id):
                raise RemoteProtocolError("the voucher's signature is wrong")
        paid = sum(item.code is VerdictCode.PAID for item in event.verdicts)
        actions: list[Action] = [lease.KeepVoucher(voucher, paid)] if voucher else []
        for item in event.verdicts:
            unit = self._units.pop(item.unit)
            if unit.phase is Phase.ASSIGNED:
                actions.append(lease.StopUnit(item.unit))
            self._unpaid = max(0, self._unpaid + _unpaid_change(item.code, unit))
        self.voucher = voucher or self.voucher
        self._heard(now_s)
        return actions

    def _due(self, item: messages.Verdict) -> int:
        """What a verdict must pay; it must name a unit in hand, and pay exactly its price or nothing."""
        unit = self._units.get(item.unit)
        if unit is None:
            raise RemoteProtocolError(f"a verdict on unit {item.unit}, which is not in hand")
        if item.code is not VerdictCode.PAID:
            if item.amount:
                raise RemoteProtocolError(f"unit {item.unit} is refused and paid at once")
            return 0
        if unit.phase is not Phase.DELIVERED or unit.outcome is None:
            raise RemoteProtocolError(f"unit {item.unit} is paid before it was shown")
        due = unit_cost(unit.outcome.fuel, self._agreed().price_per_tfuel)
        if item.amount != due:
            raise RemoteProtocolError(f"unit {item.unit} costs {due}, {item.amount} was paid")
        return due

    def _stop(self, event: lease.Finish | lease.Fault, _now_s: float) -> list[Action]:
        fault = isinstance(event, lease.Fault)
        return [Send(messages.End(event.reason)), Ended(event.reason, fault=fault)]

    def _lost(self, event: lease.Lost, _now_s: float) -> list[Action]:
        return [Ended(event.reason, fault=False)]

    def _end(self, event: messages.End, _now_s: float) -> list[Action]:
        return [Ended(f"the buyer ended it: {event.reason}", fault=False)]

    def _heard(self, now_s: float) -> None:
        self._deadline_s = now_s + SILENCE_S + 4 * self._agreed().wall_ms_max / 1000

    def _agreed(self) -> Terms:
        if self.terms is None:
            raise LocalProtocolError("no terms yet")
        return self.terms

    _HANDLERS: ClassVar[Mapping[type[Input], Callable[[WorkerLease, Any, float], list[Action]]]] = {
        messages.Propose: _propose,
        messages.Locked: _locked,
        messages.ModulePiece: _piece,
        messages.Units: _take,
        messages.Reveal: _reveal,
        messages.Verdicts: _verdicts,
        messages.End: _end,
        lease.ModuleMissing: _missing,
        lease.ModulePrepared: _prepared,
        lease.ModuleBad: _module_bad,
        lease.Done: _done,
        lease.Finish: _stop,
        lease.Fault: _stop,
        lease.Lost: _lost,
    }


class _Declined(Exception):
    """We do not want this lease; nobody did anything wrong."""


def _unpaid_change(code: VerdictCode, unit: _Unit) -> int:
    """A paid unit makes up for an unpaid one; our own timeouts and crashes nobody owes us for.

    A unit taken back while it ran counts as well, or a buyer could have everything begun and nothing paid.
    """
    if code is VerdictCode.PAID:
        return -1
    return 0 if unit.outcome is not None and not unit.outcome.deterministic else 1


def _check_task(data: bytes, terms: Terms) -> None:
    try:
        task = WasmTask.decode(data)
    except TaskError as error:
        raise RemoteProtocolError(f"not a task: {error}") from error
    if task.module_sha256 != terms.module_sha256:
        raise RemoteProtocolError("the task runs another module than the terms say")
    limits = task.limits
    if (
        limits.fuel > terms.fuel_max
        or limits.memory_bytes > terms.memory_bytes_max
        or round(limits.wall_s * 1000) > terms.wall_ms_max
        or limits.output_bytes > terms.output_bytes_max
    ):
        raise RemoteProtocolError("the task's limits are over those of the terms")
