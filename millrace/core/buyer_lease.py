"""The buyer's side of one lease: inputs in, actions out, time as an argument (SPEC.md §12)."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, get_args

from executor.core.outcome import Outcome
from executor.core.wire import WireError as OutcomeError
from millrace.core import lease, messages
from millrace.core.cost import unit_cost
from millrace.core.lease import (
    BUYER_TRANSITIONS,
    Action,
    BuyerState,
    Ended,
    Input,
    LocalProtocolError,
    Phase,
    RemoteProtocolError,
    Send,
    Wake,
    seal,
)
from millrace.core.messages import Message, VerdictCode
from millrace.core.terms import Terms, sign_terms, verify_terms

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Voucher
    from ledger.core.keys import SigningKey

__all__ = ["BuyerLease"]

ANSWER_S: Final = 15.0
"""A worker answers a proposal from its settings alone."""
READY_S: Final = 150.0
"""Fetching and compiling the largest module that a worker accepts."""
UNIT_GRACE_S: Final = 20.0
"""Silence that is allowed on top of twice the units' wall-clock limit."""
PAY_WAIT_S: Final = 0.05
"""How long a verdict may wait for others, so that one voucher pays for all of them."""
PAY_UNITS_MAX: Final = 64
"""As many as this do not wait any longer."""
_MESSAGE_TYPES: Final = get_args(Message)


@dataclass(slots=True)
class _Out:
    """One unit that is out at the worker."""

    phase: Phase = Phase.ASSIGNED
    commitment: bytes = b""
    outcome: Outcome | None = None


class BuyerLease:
    """Feed it what happens, perform the actions it returns, in order.

    Nothing else assigns `state`. `cumulative` is what vouchers promise so far, in micro-credits. Orders (Assign,
    Ask, Judge) are checked at once and said together, at the next Turn.
    """

    def __init__(
        self,
        terms: Terms,
        key: SigningKey,
        network_id: NetworkId,
        *,
        sign_voucher: Callable[[bytes, int], Voucher],
    ) -> None:
        """`key` is the buyer's identity and signs the terms; `sign_voucher(lock_id, cumulative)` is its wallet's."""
        if key.account != terms.buyer:
            raise LocalProtocolError("the terms name another buyer")
        self.terms = terms
        self.state = BuyerState.NEW
        self.cumulative = 0
        self.lock_id: bytes | None = None
        self._key = key
        self._network_id = network_id
        self._sign_voucher = sign_voucher
        self._out: dict[int, _Out] = {}
        self._verdicts: list[messages.Verdict] = []
        self._owed = 0
        """Judged as paid, and not yet in a voucher."""
        self._pay_by_s: float | None = None
        self._to_ask: dict[int, None] = {}
        self._to_send: dict[int, messages.Unit] = {}
        self._turn_due = False
        self._superseded: deque[int] = deque(maxlen=4 * terms.window_units)
        self._module_sent = False
        self._deadline_s: float | None = None
        self._reason = ""

    @property
    def in_flight(self) -> int:
        """Units assigned and not judged."""
        return len(self._out) + len(self._to_send)

    def feed(self, event: Input, now_s: float) -> list[Action]:
        """What to do about `event`; whatever the peer did wrong ends the lease with a `fault`."""
        before = self.state
        after = BUYER_TRANSITIONS.get((before, type(event)))
        if after is None:
            if not isinstance(event, _MESSAGE_TYPES):
                raise LocalProtocolError(f"{type(event).__name__} in {before.name}")
            return self.feed(lease.Fault(f"{type(event).__name__} in state {before.name}"), now_s)
        if before is BuyerState.ENDED and not isinstance(event, lease.LockFinal):
            return []
        if isinstance(event, lease.Tick):
            if self._pay_by_s is not None and now_s >= self._pay_by_s:
                return self._pay() + self._rearm()
            if self._deadline_s is None or now_s < self._deadline_s:
                return self._rearm()
            return self.feed(lease.Finish(f"no answer in state {before.name}"), now_s)
        try:
            actions = self._HANDLERS[type(event)](self, event, now_s)
        except RemoteProtocolError as error:
            return self.feed(lease.Fault(str(error)), now_s)
        self.state = after
        if after is BuyerState.ENDED:
            self._out.clear()
            self._to_send.clear()
            self._deadline_s = self._pay_by_s = None
            return actions
        return actions + self._rearm()

    def _rearm(self) -> list[Action]:
        times = [at_s for at_s in (self._deadline_s, self._pay_by_s) if at_s is not None]
        return [Wake(min(times))] if times else []

    def _open(self, _: lease.Open, now_s: float) -> list[Action]:
        self._deadline_s = now_s + ANSWER_S
        signature = sign_terms(self.terms, self._key, self._network_id)
        return [Send(messages.Propose(self.terms, signature))]

    def _accept(self, event: messages.Accept, _now_s: float) -> list[Action]:
        if not verify_terms(self.terms, self.terms.worker, event.signature, self._network_id):
            raise RemoteProtocolError("the worker's signature of the terms is wrong")
        self._deadline_s = None  # the wallet has its own
        # 1. KeepTerms: after a crash here no LOCK exists, and the settler finds that out from the ledger.
        # 2. MakeLock: after a crash here the wallet resubmits the signed entry; the lock then runs to its expiry.
        return [lease.KeepTerms(self.terms), lease.MakeLock(self.terms)]

    def _refuse(self, event: messages.Refuse, _now_s: float) -> list[Action]:
        return [Ended(f"refused: {event.reason}", fault=False)]

    def _lock_final(self, event: lease.LockFinal, now_s: float) -> list[Action]:
        self.lock_id = event.lock_id
        if self.state is BuyerState.ENDED:
            return [lease.KeepLock(event.lock_id, event.receipt)]
        self._deadline_s = now_s + READY_S
        return [lease.KeepLock(event.lock_id, event.receipt), Send(messages.Locked(event.receipt))]

    def _lock_failed(self, event: lease.LockFailed, _now_s: float) -> list[Action]:
        reason = f"no lock: {event.reason}"
        return [Send(messages.End(reason)), Ended(reason, fault=False)]

    def _need_module(self, _: messages.NeedModule, now_s: float) -> list[Action]:
        if self._module_sent:
            raise RemoteProtocolError("the module is asked for twice")
        self._module_sent = True
        self._deadline_s = now_s + READY_S
        return [lease.StreamModule()]

    def _ready(self, _: messages.Ready, _now_s: float) -> list[Action]:
        self._deadline_s = None
        return [lease.Opened()]

    def _assign(self, event: lease.Assign, _now_s: float) -> list[Action]:
        units = [item.unit for item in event.units]
        after = self.in_flight + len(units)
        if after > self.terms.window_units or any(
            unit in self._out or unit in self._to_send for unit in units
        ):
            raise LocalProtocolError("more units than the window, or a unit twice")
        if self.cumulative + self._owed + after * self.terms.unit_cost_max > self.terms.amount:
            raise LocalProtocolError("more units than the lock pays for")
        self._to_send.update({item.unit: item for item in event.units})
        return self._take_turn()

    def _take_turn(self) -> list[Action]:
        if self._turn_due:
            return []
        self._turn_due = True
        return [lease.TurnDue()]

    def _turn(self, _: lease.Turn, now_s: float) -> list[Action]:
        """Verdicts wait for more of them, or go first: the worker may need them to have room for new units."""
        self._turn_due = False
        actions = self._pay() if self._must_pay() else []
        if self._to_ask:
            for unit in self._to_ask:
                self._out[unit].phase = Phase.ASKED
            actions.append(Send(messages.Reveal(tuple(self._to_ask))))
            self._to_ask.clear()
        if self._to_send:
            self._out.update({unit: _Out() for unit in self._to_send})
            groups = messages.batches(tuple(self._to_send.values()), lambda item: len(item.task))
            actions += [Send(messages.Units(group)) for group in groups]
            self._to_send.clear()
        self._heard(now_s)
        return actions

    def _must_pay(self) -> bool:
        """Whether the verdicts cannot wait: many, none to come, or in the way of what is to be sent now.

        Until it hears a verdict, the worker counts a unit as out, at its worst cost (R12.12).
        """
        waiting, terms = len(self._verdicts), self.terms
        if waiting >= PAY_UNITS_MAX or not self.in_flight:
            return True
        if any(item.unit in self._to_send for item in self._verdicts):
            return True  # it comes back to a worker that still has it in hand
        seen = self.in_flight + waiting
        return bool(self._to_send) and (
            seen > terms.window_units or self.cumulative + seen * terms.unit_cost_max > terms.amount
        )

    def _pay(self) -> list[Action]:
        """All verdicts that wait, in one message, and one voucher for all that they pay."""
        self._pay_by_s = None
        if not self._verdicts:
            return []
        verdicts = tuple(self._verdicts)
        self._verdicts.clear()
        if not self._owed:
            return [Send(messages.Verdicts(verdicts, None))]
        if self.lock_id is None:
            raise LocalProtocolError("a voucher without a lock")
        self.cumulative, self._owed = self.cumulative + self._owed, 0
        voucher = self._sign_voucher(self.lock_id, self.cumulative)
        units = sum(item.code is VerdictCode.PAID for item in verdicts)
        # 1. KeepVoucher: after a crash here we know of a promise nobody holds, which costs nothing.
        # 2. Send: after a crash here the worker claims what it holds, and our books already say so.
        return [lease.KeepVoucher(voucher, units), Send(messages.Verdicts(verdicts, voucher))]

    def _committed(self, event: messages.Committed, now_s: float) -> list[Action]:
        fresh = [
            item for item in event.commits if item.unit not in self._superseded or item.unit in self._out
        ]
        for item in fresh:
            self._expect(item.unit, Phase.ASSIGNED, "committed")
        for item in fresh:
            out = self._out[item.unit]
            out.phase, out.commitment = Phase.COMMITTED, item.commitment
        self._heard(now_s)
        return [lease.UnitsCommitted(tuple(item.unit for item in fresh))] if fresh else []

    def _ask(self, event: lease.Ask, _now_s: float) -> list[Action]:
        for unit in event.units:
            out = self._out.get(unit)
            if out is None or out.phase is not Phase.COMMITTED or unit in self._to_ask:
                raise LocalProtocolError(f"unit {unit} has no commitment to reveal")
        self._to_ask.update(dict.fromkeys(event.units))
        return self._take_turn()

    def _results(self, event: messages.Results, now_s: float) -> list[Action]:
        fresh = [
            item for item in event.results if item.unit not in self._superseded or item.unit in self._out
        ]
        checked = [(item.unit, self._revealed(item)) for item in fresh]
        for unit, outcome in checked:
            self._out[unit].phase, self._out[unit].outcome = Phase.DELIVERED, outcome
        self._heard(now_s)
        return [lease.Delivered(unit, outcome) for unit, outcome in checked]

    def _revealed(self, item: messages.Result) -> Outcome:
        self._expect(item.unit, Phase.ASKED, "revealed")
        try:
            outcome = Outcome.decode(item.outcome)
        except OutcomeError as error:
            raise RemoteProtocolError(f"unit {item.unit}: {error}") from error
        if len(outcome.output) > self.terms.output_bytes_max or outcome.fuel > self.terms.fuel_max:
            raise RemoteProtocolError(f"unit {item.unit}: the outcome is over the limits of the terms")
        worker, job_id = self.terms.worker, self.terms.job_id
        commitment = self._out[item.unit].commitment
        if commitment != seal(job_id, item.unit, worker, item.salt, outcome.digest()):
            raise RemoteProtocolError(f"unit {item.unit}: the result is not the one committed to")
        return outcome

    def _judge(self, event: lease.Judge, now_s: float) -> list[Action]:
        # A unit that was not sent yet is simply not sent: the worker need not hear a verdict on it.
        unsent = [item.unit for item in event.judgements if item.unit in self._to_send]
        verdicts = [self._verdict(item) for item in event.judgements if item.unit not in self._to_send]
        if any(item.code is VerdictCode.PAID for item in event.judgements if item.unit in self._to_send):
            raise LocalProtocolError("a unit is paid before it was sent")
        owed = self._owed + sum(item.amount for item in verdicts)
        if self.cumulative + owed > self.terms.amount:
            raise LocalProtocolError("a voucher above the lock")
        for unit in unsent:
            del self._to_send[unit]
        for item in verdicts:
            del self._out[item.unit]
            self._to_ask.pop(item.unit, None)
            if item.code is VerdictCode.SUPERSEDED:
                self._superseded.append(item.unit)
        if verdicts and not self._verdicts:
            self._pay_by_s = now_s + PAY_WAIT_S
        self._verdicts += verdicts
        self._owed = owed
        self._heard(now_s)
        return self._take_turn()

    def _verdict(self, item: lease.Judgement) -> messages.Verdict:
        out = self._out.get(item.unit)
        if out is None:
            raise LocalProtocolError(f"unit {item.unit} is not out at this worker")
        if item.code is not VerdictCode.PAID:
            return messages.Verdict(item.unit, item.code)
        if out.phase is not Phase.DELIVERED:
            raise LocalProtocolError(f"unit {item.unit} is paid before its result is here")
        return messages.Verdict(item.unit, item.code, unit_cost(item.fuel, self.terms.price_per_tfuel))

    def _stop(self, event: lease.Finish | lease.Fault, _now_s: float) -> list[Action]:
        fault = isinstance(event, lease.Fault)
        return [*self._pay(), Send(messages.End(event.reason)), Ended(event.reason, fault=fault)]

    def _lost(self, event: lease.Lost, _now_s: float) -> list[Action]:
        return [Ended(event.reason, fault=False)]

    def _end(self, event: messages.End, _now_s: float) -> list[Action]:
        return [Ended(f"the worker ended it: {event.reason}", fault=False)]

    def _expect(self, unit: int, phase: Phase, verb: str) -> None:
        out = self._out.get(unit)
        if out is None:
            raise RemoteProtocolError(f"unit {unit} is {verb} but not out at this worker")
        if out.phase is not phase:
            raise RemoteProtocolError(f"unit {unit} is {verb} in phase {out.phase.name}")

    def _heard(self, now_s: float) -> None:
        """Silence is counted only while the worker owes us something."""
        owed = any(out.phase in (Phase.ASSIGNED, Phase.ASKED) for out in self._out.values())
        silence_s = UNIT_GRACE_S + 2 * self.terms.wall_ms_max / 1000
        self._deadline_s = now_s + silence_s if owed else None

    _HANDLERS: ClassVar[Mapping[type[Input], Callable[[BuyerLease, Any, float], list[Action]]]] = {
        lease.Open: _open,
        messages.Accept: _accept,
        messages.Refuse: _refuse,
        lease.LockFinal: _lock_final,
        lease.LockFailed: _lock_failed,
        messages.NeedModule: _need_module,
        messages.Ready: _ready,
        lease.Assign: _assign,
        messages.Committed: _committed,
        lease.Ask: _ask,
        messages.Results: _results,
        lease.Judge: _judge,
        lease.Turn: _turn,
        messages.End: _end,
        lease.Finish: _stop,
        lease.Fault: _stop,
        lease.Lost: _lost,
    }
