"""Both sides of a lease: every state with every input, and every rule that a peer can break (SPEC.md §12)."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, get_args

import pytest

from executor.core.limits import CEILINGS, Limits
from executor.core.outcome import Status
from ledger.core.encoding import NetworkId
from ledger.core.entries import Expire, sign_entry
from millrace.core import lease, messages
from millrace.core.buyer_lease import ANSWER_S, PAY_UNITS_MAX, PAY_WAIT_S, UNIT_GRACE_S, BuyerLease
from millrace.core.lease import (
    BUYER_TRANSITIONS,
    WORKER_TRANSITIONS,
    BuyerState,
    Input,
    LocalProtocolError,
    WorkerState,
)
from millrace.core.messages import Message, VerdictCode
from millrace.core.terms import lock_problem, sign_terms
from millrace.core.worker_lease import SILENCE_S, WorkerLease, terms_problem
from tests.core.millrace import lease_examples as ex

if TYPE_CHECKING:
    from ledger.core.keys import SigningKey

INPUTS = (*ex.MESSAGES, *ex.LOCAL)


def name(value: object) -> str:
    return getattr(value, "name", type(value).__name__)


def test_the_examples_are_complete() -> None:
    assert {type(item) for item in INPUTS} == set(get_args(Input))


@pytest.mark.parametrize("state", BuyerState, ids=name)
@pytest.mark.parametrize("event", INPUTS, ids=name)
def test_buyer_table(state: BuyerState, event: Input) -> None:
    _check(ex.buyer_in(state), state, event, BUYER_TRANSITIONS.get((state, type(event))))


@pytest.mark.parametrize("state", WorkerState, ids=name)
@pytest.mark.parametrize("event", INPUTS, ids=name)
def test_worker_table(state: WorkerState, event: Input) -> None:
    _check(ex.worker_in(state), state, event, WORKER_TRANSITIONS.get((state, type(event))))


def _check(machine: BuyerLease | WorkerLease, state: object, event: Input, after: object) -> None:
    if after is not None:
        actions = machine.feed(event, 1.0)
        end = ex.ended(actions)
        # A row may still meet a message that breaks a rule of its contents (a piece that nobody asked for).
        assert machine.state is after or (end is not None and end.fault)
    elif isinstance(event, get_args(Message)):
        end = ex.ended(machine.feed(event, 1.0))
        assert end is not None
        assert end.fault
        assert machine.state.name == "ENDED"
    else:
        with pytest.raises(LocalProtocolError):
            machine.feed(event, 1.0)
        assert machine.state is state


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (messages.Accept(bytes(64)), "signature"),
        (messages.Accept(sign_terms(ex.TERMS, ex.BUYER, ex.NETWORK)), "signature"),
        (messages.Accept(sign_terms(ex.terms(amount=1000), ex.WORKER, ex.NETWORK)), "signature"),
    ],
)
def test_buyer_refuses_a_wrong_acceptance(event: messages.Accept, why: str) -> None:
    machine = ex.buyer_in(BuyerState.PROPOSED)
    _is_fault(machine.feed(event, 1.0), why)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (messages.Committed((ex.commit(1),)), "phase COMMITTED"),
        (messages.Committed((ex.commit(9),)), "not out"),
        (messages.Results((ex.result(1),)), "phase COMMITTED"),
        (messages.Results((ex.result(2),)), "phase ASSIGNED"),
        (messages.Results((ex.result(7),)), "not out"),
    ],
    ids=name,
)
def test_buyer_refuses_wrong_units_and_early_results(event: Message, why: str) -> None:
    machine = ex.buyer_in(BuyerState.RUNNING)
    _is_fault(machine.feed(event, 1.0), why)
    assert machine.cumulative == 0


@pytest.mark.parametrize(
    ("result", "why"),
    [
        (ex.result(1, ex.outcome(fuel=5_000_001)), "not the one committed to"),
        (messages.Result(1, ex.outcome().encode(), b"t" * 32), "not the one committed to"),
        (messages.Result(1, b"no outcome", ex.SALT), "outcome"),
        (ex.result(1, ex.outcome(output=bytes(1001))), "over the limits"),
        (ex.result(1, ex.outcome(fuel=10**9 + 1)), "over the limits"),
    ],
    ids=["other result", "other salt", "garbage", "oversize output", "fuel over the limit"],
)
def test_buyer_refuses_a_reveal_that_does_not_open_the_commitment(result: messages.Result, why: str) -> None:
    machine = ex.buyer_in(BuyerState.RUNNING)
    machine.feed(lease.Ask((1,)), 1.0)
    machine.feed(lease.Turn(), 1.0)
    _is_fault(machine.feed(messages.Results((result,)), 1.0), why)


def test_buyer_refuses_results_twice_and_the_module_twice() -> None:
    machine = ex.buyer_in(BuyerState.RUNNING)
    machine.feed(lease.Ask((1,)), 1.0)
    machine.feed(lease.Turn(), 1.0)
    assert lease.Delivered(1, ex.outcome()) in machine.feed(messages.Results((ex.result(1),)), 1.0)
    _is_fault(machine.feed(messages.Results((ex.result(1),)), 1.0), "DELIVERED")
    machine = ex.buyer_in(BuyerState.LOCKED)
    assert lease.StreamModule() in machine.feed(messages.NeedModule(), 1.0)
    _is_fault(machine.feed(messages.NeedModule(), 1.0), "twice")


def test_a_voucher_is_kept_before_it_is_sent_and_only_rises() -> None:
    machine = ex.buyer_in(BuyerState.RUNNING)
    machine.feed(lease.Ask((1,)), 1.0)
    machine.feed(lease.Turn(), 1.0)
    machine.feed(messages.Results((ex.result(1),)), 1.0)
    machine.feed(lease.Judge((lease.Judgement(1, VerdictCode.PAID, 5_000_000),)), 2.0)
    assert machine.cumulative == 0
    assert machine.feed(lease.Turn(), 2.0) == [lease.Wake(2.0 + PAY_WAIT_S)]
    keep, send = machine.feed(lease.Tick(), 2.0 + PAY_WAIT_S)[:2]
    assert keep == lease.KeepVoucher(ex.voucher(5), 1)
    verdict = messages.Verdict(1, VerdictCode.PAID, 5)
    assert send == lease.Send(messages.Verdicts((verdict,), ex.voucher(5)))
    assert machine.cumulative == 5
    assert machine.in_flight == 1


def _delivered(window: int, spending: SigningKey = ex.BUYER, **changes: int) -> BuyerLease:
    """RUNNING, with a window of units whose results are all here."""
    machine = ex.buyer_lease(ex.terms(window_units=window, **changes), spending)
    machine.feed(lease.Open(), 0.0)
    machine.feed(messages.Accept(sign_terms(machine.terms, ex.WORKER, ex.NETWORK)), 0.0)
    machine.feed(lease.LockFinal(ex.LOCK_ID, b"receipt"), 0.0)
    machine.feed(messages.Ready(), 0.0)
    machine.feed(lease.Assign(tuple(messages.Unit(n, ex.task()) for n in range(window))), 0.0)
    machine.feed(lease.Turn(), 0.0)
    machine.feed(messages.Committed(tuple(ex.commit(n) for n in range(window))), 0.0)
    machine.feed(lease.Ask(tuple(range(window))), 0.0)
    machine.feed(lease.Turn(), 0.0)
    machine.feed(messages.Results(tuple(ex.result(n) for n in range(window))), 0.0)
    return machine


def _judge(machine: BuyerLease, *units: int, code: VerdictCode = VerdictCode.PAID) -> list[lease.Action]:
    judgements = tuple(lease.Judgement(n, code, 5_000_000) for n in units)
    return machine.feed(lease.Judge(judgements), 1.0)


def _paid_in(actions: list[lease.Action]) -> list[tuple[int, int]]:
    """(units, cumulative) of each voucher, which stands before the verdicts that carry it."""
    found = []
    for first, second in pairwise(actions):
        if isinstance(first, lease.KeepVoucher):
            assert isinstance(second, lease.Send)
            assert isinstance(second.message, messages.Verdicts)
            assert second.message.voucher == first.voucher
            found.append((first.units, first.voucher.cumulative))
    return found


def test_verdicts_wait_for_each_other_and_share_a_voucher() -> None:
    machine = _delivered(8)
    assert lease.TurnDue() in _judge(machine, 0)
    assert lease.TurnDue() not in _judge(machine, 1, 2)
    assert not ex.sent(machine.feed(lease.Turn(), 1.0))
    assert _paid_in(machine.feed(lease.Tick(), 1.0 + PAY_WAIT_S)) == [(3, 15)]
    assert not _paid_in(machine.feed(lease.Tick(), 9.0))
    _judge(machine, 3)
    _judge(machine, 4, code=VerdictCode.INCONCLUSIVE)
    _judge(machine, 5, 6, 7)
    assert _paid_in(machine.feed(lease.Turn(), 1.0)) == [(4, 35)], "nothing is out that could join them"


def test_verdicts_go_first_when_the_worker_needs_them() -> None:
    more = lease.Assign((messages.Unit(20, ex.task()),))
    machine = _delivered(8)
    _judge(machine, 0, 1)
    machine.feed(more, 1.0)
    verdicts, units = ex.sent(machine.feed(lease.Turn(), 1.0))
    assert isinstance(verdicts, messages.Verdicts)
    assert len(verdicts.verdicts) == 2
    assert units == messages.Units(more.units)
    _judge(machine, 2, 3)
    machine.feed(lease.Assign((messages.Unit(21, ex.task()),)), 1.0)
    assert [type(m) for m in ex.sent(machine.feed(lease.Turn(), 1.0))] == [messages.Units], "there is room"
    machine = _delivered(8)
    _judge(machine, *range(7))
    _paid_in(machine.feed(lease.Tick(), 1.0 + PAY_WAIT_S))
    _judge(machine, 7, code=VerdictCode.INCONCLUSIVE)
    machine.feed(lease.Assign((messages.Unit(7, ex.task()),)), 1.0)  # the same unit comes back
    assert [type(m) for m in ex.sent(machine.feed(lease.Turn(), 1.0))] == [messages.Verdicts, messages.Units]


def test_many_verdicts_do_not_wait() -> None:
    machine = _delivered(PAY_UNITS_MAX + 1, amount=100_000)
    _judge(machine, *range(PAY_UNITS_MAX - 1))
    assert not _paid_in(machine.feed(lease.Turn(), 1.0))
    _judge(machine, PAY_UNITS_MAX - 1)
    assert _paid_in(machine.feed(lease.Turn(), 1.0)) == [(PAY_UNITS_MAX, 5 * PAY_UNITS_MAX)]


@pytest.mark.parametrize("end", [lease.Finish("done"), lease.Fault("odd")])
def test_an_end_pays_first(end: lease.Input) -> None:
    machine = _delivered(8)
    _judge(machine, 0, 1)
    actions = machine.feed(end, 1.0)
    assert _paid_in(actions) == [(2, 10)]
    assert isinstance(ex.sent(actions)[-1], messages.End)
    assert machine.feed(lease.Turn(), 1.0) == []


def test_what_was_not_sent_is_taken_back_without_a_word() -> None:
    machine = _delivered(8)
    _judge(machine, 0, 1)
    machine.feed(lease.Assign((messages.Unit(20, ex.task()), messages.Unit(21, ex.task()))), 1.0)
    _judge(machine, 20, code=VerdictCode.SUPERSEDED)
    with pytest.raises(LocalProtocolError):
        _judge(machine, 21)
    verdicts, units = ex.sent(machine.feed(lease.Turn(), 1.0))
    assert isinstance(verdicts, messages.Verdicts)
    assert {item.unit for item in verdicts.verdicts} == {0, 1}
    assert units == messages.Units((messages.Unit(21, ex.task()),))
    machine.feed(messages.Committed((ex.commit(21),)), 1.0)
    machine.feed(lease.Ask((21,)), 1.0)
    _judge(machine, 21, code=VerdictCode.SUPERSEDED)
    assert not any(isinstance(m, messages.Reveal) for m in ex.sent(machine.feed(lease.Turn(), 1.0)))


def test_our_own_mistakes_are_ours() -> None:
    machine = ex.buyer_in(BuyerState.RUNNING)
    unit = messages.Unit(1, ex.task())
    for wrong in (
        lease.Assign((unit,)),
        lease.Assign(tuple(messages.Unit(n, ex.task()) for n in range(10, 13))),
        lease.Ask((2,)),
        lease.Judge((lease.Judgement(1, VerdictCode.PAID, 1),)),
        lease.Judge((lease.Judgement(9, VerdictCode.LIE),)),
    ):
        with pytest.raises(LocalProtocolError):
            machine.feed(wrong, 1.0)
        assert machine.state is BuyerState.RUNNING
        assert machine.in_flight == 2


def test_a_superseded_unit_may_still_answer() -> None:
    machine = ex.buyer_in(BuyerState.RUNNING)
    machine.feed(lease.Judge((lease.Judgement(2, VerdictCode.SUPERSEDED),)), 1.0)
    actions = machine.feed(messages.Committed((ex.commit(2),)), 1.0)
    assert not any(isinstance(action, lease.UnitsCommitted) for action in actions)
    assert machine.state is BuyerState.RUNNING


def test_buyer_gives_up_on_silence_only_while_something_is_owed() -> None:
    machine = ex.buyer_lease(ex.TERMS)
    assert lease.Wake(ANSWER_S) in machine.feed(lease.Open(), 0.0)
    assert machine.feed(lease.Tick(), ANSWER_S - 1) == [lease.Wake(ANSWER_S)]
    assert ex.ended(machine.feed(lease.Tick(), ANSWER_S)) is not None
    machine = ex.buyer_in(BuyerState.RUNNING)
    silence_s = UNIT_GRACE_S + 2 * 10
    assert machine.feed(lease.Tick(), silence_s - 0.1) == [lease.Wake(silence_s)]
    assert ex.ended(machine.feed(lease.Tick(), silence_s)) is not None
    machine = ex.buyer_in(BuyerState.RUNNING)
    machine.feed(messages.Committed((ex.commit(2),)), 1.0)
    assert machine.feed(lease.Tick(), 1e6) == []


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"price_per_tfuel": 999_999}, "price"),
        ({"fuel_max": 10**10 + 1, "amount": 1_000_000}, "fuel"),
        ({"memory_bytes_max": (1 << 21) + 1}, "memory"),
        ({"wall_ms_max": 20_001}, "wall_ms"),
        ({"output_bytes_max": 2001}, "output"),
        ({"module_bytes": (1 << 20) + 1}, "module"),
        ({"window_units": 9}, "window"),
        ({"expiry_ms": ex.NOW_MS + 119_999}, "expire"),
    ],
)
def test_worker_declines_terms_beyond_its_policy(changes: dict[str, int], why: str) -> None:
    terms = ex.terms(**changes)
    assert why in (terms_problem(terms, ex.POLICY, ex.NOW_MS) or "")
    machine = ex.worker_in(WorkerState.NEW)
    actions = machine.feed(messages.Propose(terms, sign_terms(terms, ex.BUYER, ex.NETWORK)), 0.0)
    (refusal,) = ex.sent(actions)
    assert isinstance(refusal, messages.Refuse)
    end = ex.ended(actions)
    assert end is not None
    assert not end.fault
    assert terms_problem(ex.TERMS, ex.POLICY, ex.NOW_MS) is None


def test_worker_declines_to_hold_more_results_than_its_memory_should() -> None:
    generous = replace(ex.POLICY, ceilings=CEILINGS, window_units_max=256)
    terms = ex.terms(window_units=33, output_bytes_max=2 << 20)
    assert "results" in (terms_problem(terms, generous, ex.NOW_MS) or "")
    terms = ex.terms(window_units=32, output_bytes_max=2 << 20)
    assert terms_problem(terms, generous, ex.NOW_MS) is None


def test_worker_refuses_terms_that_are_not_this_buyers() -> None:
    machine = ex.worker_in(WorkerState.NEW)
    _is_fault(machine.feed(messages.Propose(ex.TERMS, bytes(64)), 0.0), "signature")
    machine = ex.worker_in(WorkerState.NEW)
    other = ex.terms(buyer=ex.STRANGER.account)
    forged = messages.Propose(other, sign_terms(other, ex.STRANGER, ex.NETWORK))
    _is_fault(machine.feed(forged, 0.0), "two ends")


def test_worker_refuses_a_receipt_that_proves_nothing() -> None:
    machine = ex.worker_in(WorkerState.AGREED)
    _is_fault(machine.feed(messages.Locked(b"bad"), 0.0), "proves nothing")


def test_a_lock_must_be_the_one_of_the_terms() -> None:
    elsewhere = NetworkId(b"e" * 32)
    expire = sign_entry(ex.BUYER, ex.NETWORK, seq=1, not_after_ms=1, fee=0, action=Expire(b"l" * 32))
    assert lock_problem(ex.lock_entry(), ex.TERMS, ex.NETWORK) is None
    for entry in (
        expire,
        ex.lock_entry(network=elsewhere),
        ex.lock_entry(of=ex.terms(amount=19_999)),
        ex.lock_entry(of=ex.terms(expiry_ms=ex.NOW_MS + 1)),
        ex.lock_entry(of=ex.terms(nonce=b"m" * 16)),
        ex.lock_entry(signer=ex.STRANGER),
    ):
        assert lock_problem(entry, ex.TERMS, ex.NETWORK) is not None


@pytest.mark.parametrize(
    ("piece", "why"),
    [
        (messages.ModulePiece(1, ex.MODULE), "not asked for"),
        (messages.ModulePiece(0, ex.MODULE + b"x"), "longer"),
        (messages.ModulePiece(0, bytes(len(ex.MODULE))), "hash"),
    ],
)
def test_worker_refuses_a_wrong_module(piece: messages.ModulePiece, why: str) -> None:
    machine = ex.worker_in(WorkerState.LOCKED)
    _is_fault(machine.feed(piece, 0.0), "not asked for")
    machine = ex.worker_in(WorkerState.LOCKED)
    machine.feed(lease.ModuleMissing(), 0.0)
    _is_fault(machine.feed(piece, 0.0), why)


def test_worker_takes_the_module_in_pieces() -> None:
    machine = ex.worker_in(WorkerState.LOCKED)
    assert ex.sent(machine.feed(lease.ModuleMissing(), 0.0)) == [messages.NeedModule()]
    machine.feed(messages.ModulePiece(0, ex.MODULE[:100]), 0.0)
    actions = machine.feed(messages.ModulePiece(100, ex.MODULE[100:]), 0.0)
    assert lease.PrepareModule(ex.TERMS.module_sha256, ex.MODULE) in actions


@pytest.mark.parametrize(
    ("units", "why"),
    [
        ([messages.Unit(1, ex.task())], "twice"),
        ([messages.Unit(n, ex.task()) for n in (3, 4, 5)], "window"),
        ([messages.Unit(3, b"junk")], "not a task"),
        ([messages.Unit(3, ex.task(module_sha256=b"o" * 32))], "another module"),
        ([messages.Unit(3, ex.task(limits=Limits(fuel=10**9 + 1, wall_s=1.0)))], "limits"),
    ],
)
def test_worker_refuses_wrong_units(units: list[messages.Unit], why: str) -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    _is_fault(machine.feed(messages.Units(tuple(units)), 0.0), why)


def test_worker_runs_nothing_that_the_lock_cannot_pay() -> None:
    terms = ex.terms(amount=1_500)
    entry = ex.lock_entry(of=terms)
    machine = WorkerLease(
        ex.BUYER.account,
        ex.WORKER,
        ex.NETWORK,
        policy=ex.POLICY,
        prove=lambda _: (entry, entry.account),
        now=ex.WALL,
    )
    machine.feed(messages.Propose(terms, sign_terms(terms, ex.BUYER, ex.NETWORK)), 0.0)
    machine.feed(messages.Locked(b"good"), 0.0)
    machine.feed(lease.ModulePrepared(), 0.0)
    _is_fault(machine.feed(ex.UNITS, 0.0), "pays for")


def test_worker_commits_hides_and_reveals_once() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    assert ex.sent(machine.feed(lease.Done(2, ex.outcome(), ex.SALT), 0.0)) == [
        messages.Committed((ex.commit(2),))
    ]
    assert ex.sent(machine.feed(messages.Reveal((1, 2)), 0.0)) == [
        messages.Results((ex.result(1), ex.result(2)))
    ]
    _is_fault(machine.feed(messages.Reveal((1,)), 0.0), "without a commitment")
    machine = ex.worker_in(WorkerState.RUNNING)
    _is_fault(machine.feed(messages.Reveal((2,)), 0.0), "without a commitment")


def _paid(unit: int, amount: int) -> tuple[messages.Verdict, ...]:
    return (messages.Verdict(unit, VerdictCode.PAID, amount),)


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (messages.Verdicts(_paid(1, 5), None), "voucher comes with payment"),
        (messages.Verdicts(_paid(1, 4), ex.voucher(4)), "costs 5"),
        (messages.Verdicts(_paid(1, 6), ex.voucher(6)), "costs 5"),
        (messages.Verdicts(_paid(2, 5), ex.voucher(5)), "before it was shown"),
        (messages.Verdicts(_paid(7, 5), ex.voucher(5)), "not in hand"),
        (messages.Verdicts(_paid(1, 5), ex.voucher(4)), "not for 5"),
        (messages.Verdicts(_paid(1, 5), ex.voucher(50_000)), "not for 5"),
        (messages.Verdicts(_paid(1, 5), ex.voucher(5, lock_id=b"x" * 32)), "not for 5"),
        (messages.Verdicts(_paid(1, 5), ex.voucher(5, signer=ex.WORKER)), "signature"),
        (messages.Verdicts((messages.Verdict(1, VerdictCode.LIE, 5),), None), "refused and paid"),
        (messages.Verdicts((messages.Verdict(1, VerdictCode.LIE),), ex.voucher(5)), "voucher comes"),
    ],
)
def test_worker_refuses_wrong_verdicts_and_vouchers(event: messages.Verdicts, why: str) -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    machine.feed(messages.Reveal((1,)), 0.0)
    _is_fault(machine.feed(event, 0.0), why)
    assert machine.voucher is None


def test_a_voucher_never_goes_down() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    machine.feed(messages.Reveal((1,)), 0.0)
    actions = machine.feed(messages.Verdicts(_paid(1, 5), ex.voucher(5)), 0.0)
    assert actions[0] == lease.KeepVoucher(ex.voucher(5), 1)
    machine.feed(lease.Done(2, ex.outcome(), ex.SALT), 0.0)
    machine.feed(messages.Reveal((2,)), 0.0)
    _is_fault(machine.feed(messages.Verdicts(_paid(2, 5), ex.voucher(5)), 0.0), "not for 10")
    assert machine.voucher == ex.voucher(5)


def test_worker_works_unpaid_for_one_window_at_most() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    refused = messages.Verdict(1, VerdictCode.INCONCLUSIVE)
    for _ in range(ex.TERMS.window_units):
        actions = machine.feed(messages.Verdicts((refused,), None), 0.0)
        assert ex.ended(actions) is None
        machine.feed(messages.Units((messages.Unit(1, ex.task()),)), 0.0)
        machine.feed(lease.Done(1, ex.outcome(), ex.SALT), 0.0)
    _is_fault(machine.feed(messages.Verdicts((refused,), None), 0.0), "unpaid")


def test_a_superseded_unit_is_stopped_and_its_answer_dropped() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    stop = messages.Verdicts((messages.Verdict(2, VerdictCode.SUPERSEDED),), None)
    assert lease.StopUnit(2) in machine.feed(stop, 0.0)
    assert ex.sent(machine.feed(lease.Done(2, ex.outcome(), ex.SALT), 0.0)) == []


def test_a_buyer_cannot_have_everything_begun_and_taken_back() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    taken_back = (messages.Verdict(2, VerdictCode.SUPERSEDED),)
    for _ in range(ex.TERMS.window_units):
        assert ex.ended(machine.feed(messages.Verdicts(taken_back, None), 0.0)) is None
        machine.feed(messages.Units((messages.Unit(2, ex.task()),)), 0.0)
    machine.feed(messages.Reveal((1,)), 0.0)
    machine.feed(messages.Verdicts(_paid(1, 5), ex.voucher(5)), 0.0)  # makes up for one
    assert ex.ended(machine.feed(messages.Verdicts(taken_back, None), 0.0)) is None
    machine.feed(messages.Units((messages.Unit(2, ex.task()),)), 0.0)
    _is_fault(machine.feed(messages.Verdicts(taken_back, None), 0.0), "unpaid")


def test_the_voucher_beside_the_last_straw_is_kept() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    taken_back = messages.Verdict(2, VerdictCode.SUPERSEDED)
    for _ in range(ex.TERMS.window_units):
        machine.feed(messages.Verdicts((taken_back,), None), 0.0)
        machine.feed(messages.Units((messages.Unit(2, ex.task()),)), 0.0)
    more = tuple(messages.Unit(n, ex.task()) for n in (3, 4))
    machine.feed(messages.Units(more), 0.0)
    machine.feed(messages.Reveal((1,)), 0.0)
    rest = tuple(messages.Verdict(n, VerdictCode.SUPERSEDED) for n in (2, 3))
    actions = machine.feed(messages.Verdicts((*_paid(1, 5), *rest), ex.voucher(5)), 0.0)
    assert actions[0] == lease.KeepVoucher(ex.voucher(5), 1)
    _is_fault(actions, "unpaid")


def test_timeouts_are_not_counted_as_unpaid_work() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    crashed = ex.outcome().__class__(Status.CRASHED)
    for unit in range(10, 30):
        machine.feed(messages.Units((messages.Unit(unit, ex.task()),)), 0.0)
        machine.feed(lease.Done(unit, crashed, ex.SALT), 0.0)
        verdict = messages.Verdict(unit, VerdictCode.INCONCLUSIVE)
        assert ex.ended(machine.feed(messages.Verdicts((verdict,), None), 0.0)) is None


def test_worker_ends_before_the_lock_expires_or_when_the_buyer_is_silent() -> None:
    machine = ex.worker_in(WorkerState.RUNNING)
    silence_s = SILENCE_S + 40
    assert machine.feed(lease.Tick(), silence_s - 1) == [lease.Wake(silence_s)]
    assert ex.ended(machine.feed(lease.Tick(), silence_s)) is not None
    machine = ex.worker_in(WorkerState.RUNNING)
    claim_by_s = 600 - 60
    machine.feed(messages.Reveal((1,)), claim_by_s - 1)
    assert machine.feed(lease.Tick(), claim_by_s - 0.5) == [lease.Wake(claim_by_s)]
    actions = machine.feed(lease.Tick(), claim_by_s)
    assert lease.StopUnit(2) in actions
    assert ex.ended(actions) is not None


def _is_fault(actions: list[lease.Action], why: str) -> None:
    end = ex.ended(actions)
    assert end is not None
    assert end.fault, end.reason
    assert why in end.reason


def test_a_buyer_pays_with_its_wallets_key_not_with_its_identity() -> None:
    machine = _delivered(1, spending=ex.STRANGER)
    machine.feed(lease.Judge((lease.Judgement(0, VerdictCode.PAID, 5_000_000),)), 1.0)
    keep = next(a for a in machine.feed(lease.Turn(), 1.0) if isinstance(a, lease.KeepVoucher))
    assert keep.voucher == ex.voucher(5, signer=ex.STRANGER)


@pytest.mark.parametrize(
    ("payer_key", "signer", "is_taken"),
    [
        (ex.BUYER, ex.BUYER, True),
        (ex.STRANGER, ex.STRANGER, True),  # the buyer's account was given another key
        (ex.STRANGER, ex.BUYER, False),  # and whoever stole the first one cannot pay with it
        (ex.BUYER, ex.STRANGER, False),
    ],
)
def test_a_worker_takes_vouchers_of_the_key_that_signed_the_lock(
    payer_key: SigningKey, signer: SigningKey, is_taken: bool
) -> None:
    worker = ex.worker_in(WorkerState.RUNNING, payer_key.account)
    worker.feed(messages.Reveal((1,)), 0.0)
    paid = messages.Verdicts((messages.Verdict(1, VerdictCode.PAID, 5),), ex.voucher(5, signer=signer))
    actions = worker.feed(paid, 0.0)
    assert any(isinstance(action, lease.KeepVoucher) for action in actions) is is_taken
    assert (worker.state is WorkerState.RUNNING) is is_taken
