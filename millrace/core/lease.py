"""A lease's two state machines as tables, and the inputs and actions both sides share (SPEC.md §12).

`buyer_lease.py` and `worker_lease.py` compute what happens on a transition; which transitions exist is said
here and nowhere else. An input from the stream that has no row is the peer's error and ends the lease; a local
input without a row is a defect of ours and raises `LocalProtocolError`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING, Final, TypeAlias, get_args

from executor.core.judge import commitment
from ledger.core.encoding import digest
from millrace.core import messages
from millrace.core.messages import Message, VerdictCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from executor.core.outcome import Outcome
    from ledger.core.entries import Voucher
    from ledger.core.keys import AccountId
    from millrace.core.terms import Terms

__all__ = [
    "BUYER_TRANSITIONS",
    "WORKER_TRANSITIONS",
    "Action",
    "Ask",
    "Assign",
    "BuyerState",
    "Delivered",
    "Done",
    "Ended",
    "Fault",
    "FetchModule",
    "Finish",
    "Input",
    "Judge",
    "Judgement",
    "KeepLock",
    "KeepTerms",
    "KeepVoucher",
    "LocalProtocolError",
    "LockFailed",
    "LockFinal",
    "Lost",
    "MakeLock",
    "ModuleBad",
    "ModuleMissing",
    "ModulePrepared",
    "Open",
    "Opened",
    "Phase",
    "PrepareModule",
    "RemoteProtocolError",
    "Run",
    "Send",
    "StopUnit",
    "StreamModule",
    "Tick",
    "Turn",
    "TurnDue",
    "UnitsCommitted",
    "Wake",
    "WorkerState",
    "seal",
]


def seal(job_id: bytes, unit: int, worker: AccountId, salt: bytes, outcome_digest: bytes) -> bytes:
    """The commitment of `worker` to one outcome of a job's unit: 32 bytes (SPEC.md §14)."""
    number = digest(b"millrace/1 unit\0", job_id, unit.to_bytes(4, "big"))
    return commitment(number, worker, salt, outcome_digest)


class LocalProtocolError(RuntimeError):
    """Our own code fed a machine what it must not: a defect, never the peer's doing."""


class RemoteProtocolError(ValueError):
    """The peer broke the protocol; the text says which rule."""


class BuyerState(Enum):
    """Where the buyer's side of one lease stands."""

    NEW = auto()
    PROPOSED = auto()  # terms sent, waiting for the worker's signature
    LOCKING = auto()  # both signed, the LOCK is on its way to the ledger
    LOCKED = auto()  # receipt sent, the worker prepares the module
    RUNNING = auto()  # units may be sent
    ENDED = auto()  # nothing more is said; what is locked is settled on the ledger


class WorkerState(Enum):
    """Where the worker's side of one lease stands."""

    NEW = auto()  # a stream is open, no terms yet
    AGREED = auto()  # both signed, waiting for the LOCK's receipt
    LOCKED = auto()  # the money is proved, the module is fetched and compiled
    RUNNING = auto()
    ENDED = auto()


class Phase(Enum):
    """Where one unit of a lease stands, on either side."""

    ASSIGNED = auto()  # at the worker, not done
    COMMITTED = auto()  # bound to a result that the buyer has not seen
    ASKED = auto()  # asked to reveal
    DELIVERED = auto()  # revealed, waiting for the verdict


# -- inputs from our own side


@dataclass(frozen=True, slots=True)
class Open:
    """Buyer: begin."""


@dataclass(frozen=True, slots=True)
class LockFinal:
    """Buyer: the LOCK is final; `receipt` proves it to anybody."""

    lock_id: bytes
    receipt: bytes


@dataclass(frozen=True, slots=True)
class LockFailed:
    """Buyer: the ledger refused the LOCK, or gave no answer in time."""

    reason: str


@dataclass(frozen=True, slots=True)
class Assign:
    """Buyer: send these units."""

    units: tuple[messages.Unit, ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """Buyer: ask to reveal these units."""

    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Judgement:
    """One unit's verdict; `fuel` is what was agreed on and is paid for if the code is PAID."""

    unit: int
    code: VerdictCode
    fuel: int = 0


@dataclass(frozen=True, slots=True)
class Judge:
    """Buyer: these units are judged: pay, and say so."""

    judgements: tuple[Judgement, ...]


@dataclass(frozen=True, slots=True)
class Turn:
    """Buyer: say what was ordered since the last turn: verdicts and their voucher, then what to reveal and run."""


@dataclass(frozen=True, slots=True)
class ModuleMissing:
    """Worker: the module is not in our cache."""


@dataclass(frozen=True, slots=True)
class ModulePrepared:
    """Worker: the module is checked and compiled."""


@dataclass(frozen=True, slots=True)
class ModuleBad:
    """Worker: the module was refused."""

    reason: str


@dataclass(frozen=True, slots=True)
class Done:
    """Worker: a unit has run; `salt` hides the result in its commitment."""

    unit: int
    outcome: Outcome
    salt: bytes


@dataclass(frozen=True, slots=True)
class Finish:
    """Either side ends the lease in good order."""

    reason: str


@dataclass(frozen=True, slots=True)
class Lost:
    """The stream is gone."""

    reason: str


@dataclass(frozen=True, slots=True)
class Fault:
    """The peer broke the protocol (also made by the machines themselves)."""

    reason: str


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed."""


Local: TypeAlias = (
    Open
    | LockFinal
    | LockFailed
    | Assign
    | Ask
    | Judge
    | Turn
    | ModuleMissing
    | ModulePrepared
    | ModuleBad
    | Done
    | Finish
    | Lost
    | Fault
    | Tick
)
Input: TypeAlias = Local | Message


# -- actions: what the shell must do, in this order


@dataclass(frozen=True, slots=True)
class Send:
    """Send this message."""

    message: Message


@dataclass(frozen=True, slots=True)
class KeepTerms:
    """Persist the agreed terms (both signatures are checked) before the next action."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class MakeLock:
    """Buyer: submit the LOCK, then feed LockFinal or LockFailed."""

    terms: Terms


@dataclass(frozen=True, slots=True)
class KeepLock:
    """Persist that the lease's lock is final, with its proof, before the next action."""

    lock_id: bytes
    receipt: bytes


@dataclass(frozen=True, slots=True)
class KeepVoucher:
    """Persist the voucher, which newly pays for `units`, before the next action: what is sent or relied on must
    survive a crash."""

    voucher: Voucher
    units: int


@dataclass(frozen=True, slots=True)
class TurnDue:
    """Buyer: feed Turn when the actions before this one are done. What is ordered until then goes with it."""


@dataclass(frozen=True, slots=True)
class StreamModule:
    """Buyer: send the module in pieces."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Buyer: the worker is ready for units."""


@dataclass(frozen=True, slots=True)
class UnitsCommitted:
    """Buyer: the worker is bound to results of these units."""

    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Delivered:
    """Buyer: a revealed outcome that matches its commitment."""

    unit: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class FetchModule:
    """Worker: look for the module in the cache; feed ModuleMissing, or prepare it."""

    sha256: bytes


@dataclass(frozen=True, slots=True)
class PrepareModule:
    """Worker: check and compile these bytes (their hash is right); feed ModulePrepared or ModuleBad."""

    sha256: bytes
    module: bytes


@dataclass(frozen=True, slots=True)
class Run:
    """Worker: run this unit and feed Done."""

    unit: int
    task: bytes


@dataclass(frozen=True, slots=True)
class StopUnit:
    """Worker: nobody wants this unit any more."""

    unit: int


@dataclass(frozen=True, slots=True)
class Wake:
    """Feed Tick at this time, or earlier; a later Wake replaces this one."""

    at_s: float


@dataclass(frozen=True, slots=True)
class Ended:
    """Close the stream. `fault` says that the peer broke the protocol."""

    reason: str
    fault: bool


Action: TypeAlias = (
    Send
    | KeepTerms
    | MakeLock
    | KeepLock
    | KeepVoucher
    | TurnDue
    | StreamModule
    | Opened
    | UnitsCommitted
    | Delivered
    | FetchModule
    | PrepareModule
    | Run
    | StopUnit
    | Wake
    | Ended
)


# -- the tables

_PEER_MESSAGES: Final = get_args(Message)
_B, _W = BuyerState, WorkerState
_STOPS: Final = (Finish, Lost, Fault)

BUYER_TRANSITIONS: Final[Mapping[tuple[BuyerState, type[Input]], BuyerState]] = {
    (_B.NEW, Open): _B.PROPOSED,
    (_B.PROPOSED, messages.Accept): _B.LOCKING,
    (_B.PROPOSED, messages.Refuse): _B.ENDED,
    (_B.LOCKING, LockFinal): _B.LOCKED,
    (_B.LOCKING, LockFailed): _B.ENDED,
    (_B.LOCKED, messages.NeedModule): _B.LOCKED,
    (_B.LOCKED, messages.Ready): _B.RUNNING,
    (_B.LOCKED, messages.Refuse): _B.ENDED,
    (_B.RUNNING, Assign): _B.RUNNING,
    (_B.RUNNING, messages.Committed): _B.RUNNING,
    (_B.RUNNING, Ask): _B.RUNNING,
    (_B.RUNNING, messages.Results): _B.RUNNING,
    (_B.RUNNING, Judge): _B.RUNNING,
    (_B.RUNNING, Turn): _B.RUNNING,
    (_B.ENDED, Turn): _B.ENDED,
    # The lock may become final after the conversation is over: it is journaled and left to expire.
    (_B.ENDED, LockFinal): _B.ENDED,
    (_B.ENDED, LockFailed): _B.ENDED,
    **{(state, messages.End): _B.ENDED for state in (_B.PROPOSED, _B.LOCKING, _B.LOCKED, _B.RUNNING)},
    **{(state, stop): _B.ENDED for state in _B for stop in _STOPS},
    **{(state, Tick): state for state in _B},
    # What the peer said before it heard of the end is no error.
    **{(_B.ENDED, message): _B.ENDED for message in _PEER_MESSAGES},
}

WORKER_TRANSITIONS: Final[Mapping[tuple[WorkerState, type[Input]], WorkerState]] = {
    (_W.NEW, messages.Propose): _W.AGREED,
    (_W.AGREED, messages.Locked): _W.LOCKED,
    (_W.LOCKED, ModuleMissing): _W.LOCKED,
    (_W.LOCKED, messages.ModulePiece): _W.LOCKED,
    (_W.LOCKED, ModulePrepared): _W.RUNNING,
    (_W.LOCKED, ModuleBad): _W.ENDED,
    (_W.RUNNING, messages.Units): _W.RUNNING,
    (_W.RUNNING, Done): _W.RUNNING,
    (_W.RUNNING, messages.Reveal): _W.RUNNING,
    (_W.RUNNING, messages.Verdicts): _W.RUNNING,
    # The shell's own tasks may finish after the lease has ended.
    (_W.ENDED, Done): _W.ENDED,
    (_W.ENDED, ModuleMissing): _W.ENDED,
    (_W.ENDED, ModulePrepared): _W.ENDED,
    (_W.ENDED, ModuleBad): _W.ENDED,
    **{(state, messages.End): _W.ENDED for state in (_W.AGREED, _W.LOCKED, _W.RUNNING)},
    **{(state, stop): _W.ENDED for state in _W for stop in _STOPS},
    **{(state, Tick): state for state in _W},
    **{(_W.ENDED, message): _W.ENDED for message in _PEER_MESSAGES},
}
