"""Values for lease tests: two keys, terms, a lock that is proved by fiat, and lease machines in every state."""

from __future__ import annotations

import hashlib
from functools import partial
from typing import Any

from executor.core.limits import Limits
from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from ledger.core.encoding import NetworkId, WireError
from ledger.core.entries import Entry, Lock, Voucher, sign_entry, sign_voucher
from ledger.core.keys import AccountId, SigningKey
from millrace.core import lease, messages
from millrace.core.buyer_lease import BuyerLease
from millrace.core.lease import Action, BuyerState, WorkerState, seal
from millrace.core.terms import Terms, sign_terms
from millrace.core.worker_lease import LeasePolicy, WorkerLease

NETWORK = NetworkId(hashlib.sha256(b"test network").digest())
BUYER, WORKER, STRANGER = (SigningKey(bytes((number,)) * 32) for number in (0x0A, 0x0B, 0x0C))
MODULE = b"\0asm" + bytes(range(256)) * 4
NOW_MS = 1_700_000_000_000
WALL = (0.0, NOW_MS)
"""The worker machines' clocks: second 0 is NOW_MS."""
LIMITS = Limits(fuel=10**9, memory_bytes=1 << 20, wall_s=10.0, output_bytes=1000)
POLICY = LeasePolicy(
    price_per_tfuel=1_000_000,
    ceilings=Limits(fuel=10**10, memory_bytes=1 << 21, wall_s=20.0, output_bytes=2000),
    module_bytes_max=1 << 20,
    window_units_max=8,
    expiry_margin_ms=60_000,
)
SALT = b"s" * 32


def terms(**changes: Any) -> Terms:
    fields: dict[str, Any] = {
        "buyer": BUYER.account,
        "worker": WORKER.account,
        "job_id": b"j" * 32,
        "nonce": b"n" * 16,
        "module_sha256": hashlib.sha256(MODULE).digest(),
        "module_bytes": len(MODULE),
        "price_per_tfuel": 1_000_000,
        "amount": 20_000,
        "expiry_ms": NOW_MS + 600_000,
        "fuel_max": LIMITS.fuel,
        "memory_bytes_max": LIMITS.memory_bytes,
        "wall_ms_max": 10_000,
        "output_bytes_max": LIMITS.output_bytes,
        "window_units": 4,
        "replicas": 2,
    }
    return Terms(**(fields | changes))


TERMS = terms()


def lock_entry(network: NetworkId = NETWORK, of: Terms = TERMS, signer: SigningKey = BUYER) -> Entry:
    action = Lock(of.worker, of.amount, of.expiry_ms, of.terms_hash(network))
    return sign_entry(signer, network, seq=1, not_after_ms=NOW_MS + 1000, fee=0, action=action)


LOCK_ID = lock_entry().entry_id(NETWORK)


def prove(receipt: bytes) -> tuple[Entry, AccountId]:
    """Stands for the receipt's own checks, which have their own tests."""
    if receipt == b"good":
        return lock_entry(), BUYER.account
    raise WireError("no receipt")


def buyer_lease(terms: Terms, spending: SigningKey = BUYER) -> BuyerLease:
    """A buyer whose vouchers `spending` signs."""
    return BuyerLease(terms, BUYER, NETWORK, sign_voucher=partial(sign_voucher, spending, NETWORK))


def outcome(fuel: int = 5_000_000, output: bytes = b"result") -> Outcome:
    return Outcome(Status.OK, output=output, fuel=fuel)


def task(**changes: Any) -> bytes:
    return WasmTask(**({"module_sha256": TERMS.module_sha256, "limits": LIMITS} | changes)).encode()


def commit(unit: int, result: Outcome | None = None) -> messages.Commit:
    digest = (result or outcome()).digest()
    return messages.Commit(unit, seal(TERMS.job_id, unit, WORKER.account, SALT, digest))


def result(unit: int, shown: Outcome | None = None) -> messages.Result:
    return messages.Result(unit, (shown or outcome()).encode(), SALT)


def voucher(cumulative: int, lock_id: bytes = LOCK_ID, signer: SigningKey = BUYER) -> Voucher:
    return sign_voucher(signer, NETWORK, lock_id, cumulative)


ACCEPT = messages.Accept(sign_terms(TERMS, WORKER, NETWORK))
PROPOSE = messages.Propose(TERMS, sign_terms(TERMS, BUYER, NETWORK))
UNITS = messages.Units((messages.Unit(1, task()), messages.Unit(2, task())))

MESSAGES: tuple[messages.Message, ...] = (
    PROPOSE,
    ACCEPT,
    messages.Refuse("no"),
    messages.Locked(b"good"),
    messages.NeedModule(),
    messages.ModulePiece(0, MODULE),
    messages.Ready(),
    UNITS,
    messages.Committed((commit(1),)),
    messages.Reveal((1,)),
    messages.Results((result(1),)),
    messages.Verdicts((messages.Verdict(1, messages.VerdictCode.INCONCLUSIVE),), None),
    messages.End("bye"),
)
LOCAL: tuple[lease.Input, ...] = (
    lease.Open(),
    lease.LockFinal(LOCK_ID, b"good"),
    lease.LockFailed("no credit"),
    lease.Assign((messages.Unit(3, task()),)),
    lease.Ask((1,)),
    lease.Judge((lease.Judgement(1, messages.VerdictCode.INCONCLUSIVE),)),
    lease.Turn(),
    lease.ModuleMissing(),
    lease.ModulePrepared(),
    lease.ModuleBad("not wasm"),
    lease.Done(2, outcome(), SALT),
    lease.Finish("done"),
    lease.Lost("cable"),
    lease.Fault("rude"),
    lease.Tick(),
)


def buyer_in(state: BuyerState) -> BuyerLease:
    """A buyer's machine in `state`; RUNNING has units 1 (committed) and 2 (assigned) out."""
    machine = buyer_lease(TERMS)
    path: dict[BuyerState, tuple[lease.Input, ...]] = {
        BuyerState.PROPOSED: (lease.Open(),),
        BuyerState.LOCKING: (ACCEPT,),
        BuyerState.LOCKED: (lease.LockFinal(LOCK_ID, b"good"),),
        BuyerState.RUNNING: (
            messages.Ready(),
            lease.Assign(UNITS.units),
            lease.Turn(),
            messages.Committed((commit(1),)),
        ),
    }
    if state is BuyerState.ENDED:
        machine.feed(lease.Finish("over"), 0.0)
    for step, events in path.items():
        if machine.state is state:
            break
        for event in events:
            machine.feed(event, 0.0)
        assert machine.state is step
    assert machine.state is state
    return machine


def worker_in(state: WorkerState, payer_key: AccountId = BUYER.account) -> WorkerLease:
    """A worker's machine in `state`; RUNNING has units 1 (committed) and 2 (assigned) in hand."""

    def proved(receipt: bytes) -> tuple[Entry, AccountId]:
        return prove(receipt)[0], payer_key

    machine = WorkerLease(BUYER.account, WORKER, NETWORK, policy=POLICY, prove=proved, now=WALL)
    path: dict[WorkerState, tuple[lease.Input, ...]] = {
        WorkerState.AGREED: (PROPOSE,),
        WorkerState.LOCKED: (messages.Locked(b"good"),),
        WorkerState.RUNNING: (lease.ModulePrepared(), UNITS, lease.Done(1, outcome(), SALT)),
    }
    if state is WorkerState.ENDED:
        machine.feed(lease.Finish("over"), 0.0)
    for step, events in path.items():
        if machine.state is state:
            break
        for event in events:
            machine.feed(event, 0.0)
        assert machine.state is step
    assert machine.state is state
    return machine


def sent(actions: list[Action]) -> list[messages.Message]:
    return [action.message for action in actions if isinstance(action, lease.Send)]


def ended(actions: list[Action]) -> lease.Ended | None:
    return next((action for action in actions if isinstance(action, lease.Ended)), None)
