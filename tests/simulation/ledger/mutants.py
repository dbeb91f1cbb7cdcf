"""Faults that are put into the product, one at a time, to see that a check catches each. Never in use elsewhere."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ledger.core import (
    audit,
    authority,
    block,
    book_charter,
    books,
    chain,
    mempool,
    settlement,
    simplex,
    state,
    timers,
)
from ledger.core.actions import Claim, Expire
from ledger.core.block import FinalBlock
from ledger.core.chain import Chain
from ledger.core.committee import Committee
from ledger.core.encoding import Kind
from ledger.core.events import Broadcast, Send
from ledger.core.holdings import Holdings
from ledger.core.simplex import Simplex
from ledger.core.state import LedgerState, Moment, Reason, Refusal
from ledger.core.votes import Certificate
from tests.simulation.ledger.plan import Plan
from tests.simulation.ledger.wallets import OPEN, Wallet
from tests.simulation.ledger.witnesses import Honest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId

__all__ = ["MUTANTS", "Mutant", "applied"]

FOUR = Plan(n=4, seed=0, liveness_s=40.0)


@dataclass(frozen=True, slots=True)
class Mutant:
    """Where to put what, in which network it shows, which checks may see it, and within how many seeds."""

    changes: tuple[tuple[Any, str, Any], ...]
    checks: tuple[str, ...]
    plan: Plan = FOUR
    seeds_max: int = 20


INTERVAL = 8
BEHIND_MS = 10_000
REKEY_PAUSE_MS = 2_000
SHORTER = (
    (block, "STATE_ROOT_INTERVAL", INTERVAL),
    (chain, "STATE_ROOT_INTERVAL", INTERVAL),
    (audit, "STATE_ROOT_INTERVAL", INTERVAL),
    (books, "_PRUNING_INTERVAL", INTERVAL),
    (state, "PRUNE_INTERVAL", INTERVAL),
    (authority, "REKEY_PAUSE_MS", REKEY_PAUSE_MS),
    (book_charter, "_RECOVERY_PAUSE_MS", REKEY_PAUSE_MS),
    (timers, "CLOCK_BEHIND_MS_MAX", BEHIND_MS),
)
"""What takes 1,000 blocks, an hour or a minute outside: state roots, forgetting idle accounts, the recovery key's
pause, a block that is too old."""


@contextmanager
def applied(name: str) -> Iterator[None]:
    """The product with that fault; without any for the empty name. A run is short, so what is rare comes more often."""
    changes = SHORTER + (MUTANTS[name].changes if name else ())
    kept = [(where, attribute, where.__dict__[attribute]) for where, attribute, _ in changes]
    try:
        for where, attribute, value in changes:
            setattr(where, attribute, value)
        yield
    finally:
        for where, attribute, value in kept:
            setattr(where, attribute, value)


def yes(*_: object, **__: object) -> bool:
    return True


def vote_final_after_skip(machine: Simplex) -> bool:
    for vote in machine._own.of_kind(Kind.NOTAR):
        agreed = machine._ballots.notarised(vote.slot)
        if agreed == vote.block_hash and machine._own.may_cast(Kind.FINAL, vote.slot):
            machine._cast(Kind.FINAL, vote.slot, vote.block_hash)
            return True
    return False


def blind_to(fault: str, original: Callable[..., str | None] = Chain._misplaced) -> Callable[..., str | None]:
    """`Chain._misplaced` that does not see one fault."""

    def misplaced(chain: Chain, header: Any, parent: Any) -> str | None:
        found = original(chain, header, parent)
        return None if found is not None and fault in found else found

    return misplaced


class Reading:
    """An entry of which some fields read otherwise."""

    def __init__(self, entry: Entry, **fields: object) -> None:
        self._entry = entry
        self.__dict__.update(fields)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._entry, name)


def overlook(*reasons: Reason, **fields: Any) -> Callable[..., Any]:
    """`LedgerState._plan` that does not see these reasons, because it reads some fields of the entry otherwise."""
    original = LedgerState._plan

    def plan(ledger: LedgerState, entry: Entry, *rest: Any) -> Any:
        found = original(ledger, entry, *rest)
        if not isinstance(found, Refusal) or found.reason not in reasons:
            return found
        read = {
            name: value(ledger, entry, rest[-1]) if callable(value) else value
            for name, value in fields.items()
        }
        return original(ledger, Reading(entry, **read), *rest)  # type: ignore[arg-type]

    return plan


def time_ahead(ms: int, *kinds: type) -> Callable[..., Any]:
    """`LedgerState._plan` that judges entries of these kinds at another time."""
    original = LedgerState._plan

    def plan(ledger: LedgerState, entry: Entry, entry_id: bytes, account: Any, at: Moment) -> Any:
        found = original(ledger, entry, entry_id, account, at)
        if not isinstance(found, Refusal) or not isinstance(entry.action, kinds):
            return found
        other = original(ledger, entry, entry_id, account, replace(at, time_ms=at.time_ms + ms))
        return found if isinstance(other, Refusal) else other

    return plan


def rule(kind: type, change: Callable[[Any], Any]) -> tuple[Any, str, Any]:
    """A rule of the state, replaced: `change` makes the faulty one out of the true one."""
    return (state, "_RULES", {**state._RULES, kind: change(state._RULES[kind])})


def pays_more(original: Callable[..., Any]) -> Callable[..., Any]:
    """A CLAIM of which one micro-credit more than the refund leaves room for goes to the payer."""

    def plan(*arguments: Any) -> Any:
        found = original(*arguments)
        if isinstance(found, Refusal) or not found.others:
            return found
        (who, amount), *others = found.others
        return found._replace(others=((who, amount + 1), *others))

    return plan


def finalise_void_blocks(self: Chain, block_hash: bytes) -> list[FinalBlock]:
    """`Chain.finalise` that goes on above an epoch's last block."""
    path = self.path_to(block_hash) or []
    blocks = [
        FinalBlock(item.block.header, item.block.entries, item.certificate)
        for item in path
        if item.certificate is not None
    ]
    if len(blocks) < len(path) or not blocks or not blocks[-1].is_final:
        return []
    for item in path:
        self.state.adopt(item.state)
        for entry in item.block.entries:
            self.log.append(entry.encode())
        self.tip = item.tip
    self._prune()
    return blocks


def signer_is_the_account(ledger: LedgerState, entry: Entry) -> AccountId:
    return entry.account


def next_seq(ledger: LedgerState, entry: Entry, _: Moment) -> int:
    return ledger.account(entry.account).seq + 1


def this_moment(_: LedgerState, __: Entry, at: Moment) -> int:
    return at.time_ms


def mint(holdings: Holdings, account: AccountId, amount: int, original: Any = Holdings.credit) -> None:
    original(holdings, account, amount + 1)


def send_first(witness: Honest, life: int, actions: list[Any], original: Any = Honest._commit) -> None:
    """The messages leave before the votes are durable."""
    if life == witness._life:
        told = [action for action in actions if isinstance(action, Broadcast | Send)]
        witness._carry_out(told)
        original(witness, life, [action for action in actions if action not in told])


def trust_own_clock(wallet: Wallet, entry: Entry, original: Any = Wallet._judge) -> None:
    """What the wallet's own clock says of `not_after` is taken for the ledger's last word."""
    late = wallet.now_ms() > entry.not_after_ms
    entry_id = entry.entry_id(wallet.simulation.genesis.network_id)
    if late and entry_id not in wallet.reader.final:
        wallet._give_up(entry, entry_id, Reason.TOO_LATE)
    else:
        original(wallet, entry)


def sign_the_next(wallet: Wallet, entry: Entry, original: Any = Wallet._judge) -> None:
    """An entry whose fate is open is taken for lost, and its wish is signed anew under the next number."""
    original(wallet, entry)
    if wallet.pending is not None and wallet.random.random() < 0.2:
        wallet.extra_seq += 1
        wallet._settle(entry, OPEN)


def forget(*_: object) -> None:
    """Nothing is kept, or nothing found."""


NO_SUMS = (Holdings, "check_sums", lambda _: None)

MUTANTS: dict[str, Mutant] = {
    "FINAL after SKIP": Mutant(((Simplex, "_vote_final", vote_final_after_skip),), ("vote",)),
    "a fee mints credit": Mutant(((Holdings, "credit", mint),), ("invariant",)),
    "a fee mints credit, and the state does not add up": Mutant(
        ((Holdings, "credit", mint), NO_SUMS), ("state",)
    ),
    "a repeat is applied again": Mutant(
        ((LedgerState, "_plan", overlook(Reason.REPEAT, Reason.CONFLICT, seq=next_seq)),),
        ("audit: sequence", "invariant"),
    ),
    "an entry has no end": Mutant(
        ((LedgerState, "_plan", overlook(Reason.TOO_LATE, not_after_ms=this_moment)),), ("audit: not_after",)
    ),
    "a claim is good in the millisecond of its expiry": Mutant(
        ((LedgerState, "_plan", time_ahead(-1, Claim)),), ("audit: lock",), FOUR, 200
    ),
    "a lock expires early": Mutant(
        ((LedgerState, "_plan", time_ahead(500, Expire)),), ("audit: lock",), FOUR, 60
    ),
    "a claim refunds too much": Mutant((rule(Claim, pays_more),), ("invariant",)),
    "anybody's voucher is taken": Mutant(((settlement, "verify_voucher", yes),), ("audit: voucher",)),
    "an account's first key signs for ever": Mutant(
        ((LedgerState, "signer", signer_is_the_account),), ("audit: signature",)
    ),
    "void blocks are counted": Mutant(
        ((Chain, "finalise", finalise_void_blocks),),
        ("audit: chain", "fork", "crash"),
        replace(FOUR, rotations=3, spares=3, wishes=1),
        60,
    ),
    "signatures of entries are not checked": Mutant(((mempool, "verify_entry", yes),), ("audit: signature",)),
    "a wallet trusts its own clock": Mutant(((Wallet, "_judge", trust_own_clock),), ("promise",)),
    "a wallet signs the next instead of the same": Mutant(
        ((Wallet, "_judge", sign_the_next),), ("paid twice",)
    ),
    "a wallet forgets what is overdue": Mutant(((Wallet, "_keep_overdue", forget),), ("paid twice",)),
    "an overdue entry answers for nothing": Mutant(
        ((Wallet, "_final_twin", forget), (Wallet, "_winner", forget)), ("paid twice",)
    ),
    "slots pass in an idle network": Mutant(((Simplex, "is_waiting", True),), ("idle",)),
    "a block may be older than its parent": Mutant(
        ((Chain, "_misplaced", blind_to("time")),), ("audit: time",), replace(FOUR, liars=("forger",)), 60
    ),
    "a block may be as old as its parent": Mutant(
        ((timers, "CLOCK_BEHIND_MS_MAX", 10**9),), ("backdated",), replace(FOUR, liars=("backdater",)), 60
    ),
    "a quorum lacks one vote": Mutant(
        ((Committee, "quorum", property(lambda self: max(1, 2 * self.n // 3))),),
        ("audit: quorum", "fork"),
    ),
    "certificates are not checked": Mutant(
        ((Certificate, "verify", yes),),
        ("fork", "audit: certificate", "audit: quorum"),
        replace(FOUR, liars=("deceiver",)),
        200,
    ),
    "a parent is not checked": Mutant(
        ((simplex, "stands_on_agreed", yes),), ("fork", "stall"), replace(FOUR, liars=("forger",)), 200
    ),
    "votes leave before they are durable": Mutant(((Honest, "_commit", send_first),), ("vote",), FOUR, 60),
    "nobody is asked about an old backup": Mutant((), ("vote",), replace(FOUR, restores=True), 120),
}
