"""Who holds what: balances, credit lines, keys and locks, changed by one entry at a time (SPEC.md §4).

`apply` checks everything and then changes everything: a refusal leaves the state as it was, and after
every entry the invariants are checked, in production too. The rules of each type are in `settlement` and
`authority`. Signatures of entries are `verify_entry`'s, under the key that `signer` names; vouchers, approvals and
proofs are checked here, because only the state knows whose they must be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ledger.core.actions import (
    NO_KEY,
    Claim,
    Dispute,
    Expire,
    Limit,
    Lock,
    Param,
    Rekey,
    Release,
    Rotate,
    Transfer,
    Verdict,
)
from ledger.core.authority import (
    PARAM_HEIGHTS_MAX,
    REKEY_PAUSE_MS,
    plan_limit,
    plan_param,
    plan_rekey,
    plan_rotate,
)
from ledger.core.bulk import apply_transfers
from ledger.core.holdings import (
    TRANSITIONS,
    Account,
    Charter,
    Holdings,
    InvariantError,
    KeyLine,
    Layer,
    LockState,
    LockStatus,
    Pending,
    Totals,
)
from ledger.core.outcomes import VALID_SPAN_MS_MAX, Effect, Moment, Plan, Reason, Refusal
from ledger.core.settlement import (
    LOCK_SPAN_MS_MAX,
    plan_claim,
    plan_dispute,
    plan_expire,
    plan_lock,
    plan_release,
    plan_transfer,
    plan_verdict,
)
from ledger.core.snapshot import decode_snapshot, encode_snapshot, state_root

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.core.committee import Committee
    from ledger.core.entries import Entry
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId
    from ledger.core.outcomes import Change
    from ledger.core.params import Params

__all__ = [
    "LOCK_SPAN_MS_MAX",
    "PARAM_HEIGHTS_MAX",
    "PRUNE_INTERVAL",
    "REKEY_PAUSE_MS",
    "TRANSITIONS",
    "VALID_SPAN_MS_MAX",
    "Account",
    "Effect",
    "InvariantError",
    "LedgerState",
    "LockState",
    "LockStatus",
    "Moment",
    "Reason",
    "Refusal",
]

PRUNE_INTERVAL: Final = 1000
"""Idle accounts are forgotten at every height that is a multiple of this, where headers name the state root."""

_RULES: Final[dict[type, Callable[..., Plan | Refusal]]] = {
    Transfer: plan_transfer,
    Lock: plan_lock,
    Claim: plan_claim,
    Expire: plan_expire,
    Release: plan_release,
    Dispute: plan_dispute,
    Verdict: plan_verdict,
    Limit: plan_limit,
    Rekey: plan_rekey,
    Rotate: plan_rotate,
    Param: plan_param,
}


class LedgerState:
    """The state after some entries, from genesis on.

    `branch` gives a state to try blocks on; `adopt` moves a branch's changes into its base. A state with live
    branches changes only by `adopt`, and adopting one branch makes its siblings worthless.
    """

    __slots__ = ("genesis", "holdings")

    def __init__(self, genesis: Genesis, holdings: Holdings | None = None) -> None:
        self.genesis = genesis
        if holdings is None:
            accounts = {account: Account(limit=limit) for account, limit in genesis.limits}
            limits = sum(limit for _, limit in genesis.limits)
            charter = Charter(0, genesis.params, genesis.committee)
            holdings = Holdings((Layer(charter, limits=limits, accounts=accounts),))
        self.holdings: Final = holdings
        """For this package alone: others ask the state."""

    @staticmethod
    def from_snapshot(genesis: Genesis, snapshot: bytes) -> LedgerState:
        """The state that `snapshot` shows; `WireError` or `InvariantError` for any bytes that show none.

        Whether it is the network's is for its root to say. Closed locks are forgotten (SPEC.md §4, R4.15).
        """
        state = LedgerState(genesis, Holdings((decode_snapshot(genesis, snapshot),)))
        state.assert_invariants()
        return state

    def check(self, entry: Entry, at: Moment) -> Refusal | None:
        """Why `entry` cannot be applied in a block of this moment; None if it can. Changes nothing."""
        entry_id = entry.entry_id(self.genesis.network_id)
        plan = self._plan(entry, entry_id, self.holdings.account(entry.account), at)
        return plan if isinstance(plan, Refusal) else None

    def apply(self, entry: Entry, at: Moment) -> Effect | Refusal:
        """Apply `entry` as part of a block of this moment, whose leader earns its fee; or refuse and move nothing.

        The caller has checked that `signer(entry)` signed the entry (`verify_entry`).
        """
        holdings, sender, fee = self.holdings, entry.account, entry.fee
        entry_id = entry.entry_id(self.genesis.network_id)
        old = holdings.account(sender)
        plan = self._plan(entry, entry_id, old, at)
        if isinstance(plan, Refusal):
            return plan
        # From here on nothing may fail: every check is behind us.
        own, others, lock, change = plan
        new = Account(old.balance + own, old.limit, entry.seq, entry_id, at.time_ms)
        if change is None:
            holdings.put_account(sender, old, new)
        else:
            self._change(sender, old, new, change)
        for account_id, amount in others:
            holdings.credit(account_id, amount)
        moves = ((sender, own), *others)
        if fee:
            holdings.credit(at.leader, fee)
            moves = (*moves, (at.leader, fee))
        if lock is not None:
            holdings.put_lock(lock)
        holdings.check_sums()
        return Effect(entry_id, moves, lock)

    def apply_all(self, entries: Sequence[Entry], at: Moment) -> tuple[int, Refusal] | None:
        """Apply entries one after the other, as `apply` does; the place of the first that is refused, and why.

        Those before it are applied then: who wants all or none does this on a branch.
        """
        place = 0
        while True:
            place = apply_transfers(self.holdings, self.genesis.network_id, entries, place, at)
            if place == len(entries):
                return None
            outcome = self.apply(entries[place], at)
            if isinstance(outcome, Refusal):
                return place, outcome
            place += 1

    def close_block(self, at: Moment) -> None:
        """What a block does after its entries: parameters that are due take their place, idle accounts are forgotten.

        Every block does it, whether it has entries or not.
        """
        charter = self.holdings.charter
        if charter.pending is not None and charter.pending.from_height <= at.height + 1:
            due = Charter(charter.decrees, charter.pending.params, charter.committee)
            self.holdings.put_charter(due)
        if at.height % PRUNE_INTERVAL == 0:
            self.holdings.prune(at.time_ms)

    def signers(self, entries: Sequence[Entry]) -> list[AccountId]:
        """The `signer` of each entry, as things stand before the first of them."""
        if self.holdings.has_keys:
            return [self.signer(entry) for entry in entries]
        return [entry.account for entry in entries]

    def signer(self, entry: Entry) -> AccountId:
        """The key that must have signed `entry`, as things stand."""
        line = self.holdings.key_line(entry.account)
        if line is None:
            return entry.account
        if type(entry.action) is Rekey and line.recovery != NO_KEY:
            return line.recovery
        return line.key

    def key_of(self, account_id: AccountId) -> AccountId:
        """The account's current key: its first one, which is its name, until a REKEY."""
        line = self.holdings.key_line(account_id)
        return account_id if line is None else line.key

    def key_line(self, account_id: AccountId) -> KeyLine | None:
        """The account's keys, if it ever did a REKEY."""
        return self.holdings.key_line(account_id)

    @property
    def committee(self) -> Committee:
        """The witnesses of the next block."""
        return self.holdings.charter.committee

    @property
    def params(self) -> Params:
        """The parameters of the next block."""
        return self.holdings.charter.params

    @property
    def pending(self) -> Pending | None:
        """Parameters that are decreed and wait for their height."""
        return self.holdings.charter.pending

    @property
    def decrees(self) -> int:
        """How many decrees there were: the next one has this number plus 1."""
        return self.holdings.charter.decrees

    def account(self, account_id: AccountId) -> Account:
        """The account's line; an account that never appeared has zeros."""
        return self.holdings.account(account_id)

    def delegations_of(self, account_id: AccountId) -> list[tuple[AccountId, AccountId, int]]:
        """Every (sponsor, beneficiary, amount) that the account is part of, sorted: O(all delegations)."""
        return [line for line in self.holdings.delegations() if account_id in line[:2]]

    def delegated(self, sponsor: AccountId, beneficiary: AccountId) -> int:
        """How much of its credit line `sponsor` has delegated to `beneficiary`."""
        return self.holdings.delegated(sponsor, beneficiary)

    def lock(self, lock_id: bytes) -> LockState | None:
        """The lock, open or among the last CLOSED_LOCKS_KEPT closed ones; None otherwise."""
        return self.holdings.lock(lock_id)

    def accounts(self) -> list[tuple[AccountId, Account]]:
        """Every account of which anything but zeros is known, in the order of its bytes."""
        return self.holdings.accounts()

    def open_locks(self) -> list[LockState]:
        """Every lock that is open or disputed, in the order of its id."""
        return self.holdings.open_locks()

    def totals(self) -> Totals:
        """Sums kept entry by entry; the two counts are counted: O(accounts + locks)."""
        return self.holdings.totals()

    def assert_invariants(self) -> None:
        """Recount everything; `InvariantError` if it differs from the running sums or breaks a limit."""
        self.holdings.recount()

    def snapshot(self) -> bytes:
        """The whole state as canonical bytes (SPEC.md §4); their hash is `root`."""
        return encode_snapshot(self.holdings)

    def root(self) -> bytes:
        """The state root that every STATE_ROOT_INTERVALth header names."""
        return state_root(self.genesis.network_id, self.snapshot())

    def branch(self) -> LedgerState:
        """A state that starts as this one and changes without it."""
        return LedgerState(self.genesis, self.holdings.branch())

    def adopt(self, branch: LedgerState) -> None:
        """Take over what `branch`, a branch of this very state, changed; `ValueError` if it is not one."""
        self.holdings.adopt(branch.holdings)

    def _plan(self, entry: Entry, entry_id: bytes, account: Account, at: Moment) -> Plan | Refusal:
        charter, action = self.holdings.charter, entry.action
        if at.epoch != charter.committee.epoch:
            return Refusal(Reason.EPOCH_OVER, f"epoch {at.epoch} is over, {charter.committee.epoch} begins")
        kind = type(action)
        if entry.seq != account.seq + 1 or kind is Rekey:
            refusal = self._refuse_sequence(entry, entry_id, account)
            if refusal is not None:
                return refusal
        time_ms = at.time_ms
        if not time_ms <= entry.not_after_ms <= time_ms + VALID_SPAN_MS_MAX:
            return _refuse_validity(entry, time_ms)
        if entry.fee < charter.params.fee_min or kind is Dispute:
            refusal = self._refuse_fee(entry)
            if refusal is not None:
                return refusal
        plan = _RULES[kind](self, entry, entry_id, action, at)
        if isinstance(plan, Refusal):
            return plan
        limit = account.limit
        if plan.change is not None:
            limit += sum(delta for account_id, delta in plan.change.limits if account_id == entry.account)
        if account.balance + plan.own < -limit:
            return Refusal(
                Reason.INSUFFICIENT,
                f"{-plan.own} needed, {account.balance + limit} available with the credit line",
            )
        return plan

    def _refuse_sequence(self, entry: Entry, entry_id: bytes, account: Account) -> Refusal | None:
        """Why `seq` is not the next of its lane; None if it is."""
        used, last_id = account.seq, account.last_id
        if type(entry.action) is Rekey:
            line = self.holdings.key_line(entry.account)
            used, last_id = (0, b"") if line is None else (line.rekeys, line.last_id)
        if entry.seq == used + 1:
            return None
        if entry.seq > used + 1:
            return Refusal(Reason.SEQUENCE_GAP, f"sequence {entry.seq}, the next is {used + 1}")
        if entry.seq < used:
            return Refusal(Reason.SEQUENCE_USED, f"sequence {entry.seq} is used, the next is {used + 1}")
        if entry_id == last_id:
            return Refusal(Reason.REPEAT, "this entry is applied already")
        return Refusal(Reason.CONFLICT, f"sequence {entry.seq} was used by another entry, {last_id.hex()}")

    def _refuse_fee(self, entry: Entry) -> Refusal | None:
        """Why the fee is too low; None if it is not."""
        params, action = self.params, entry.action
        least = params.fee_min
        if isinstance(action, Dispute):
            least = max(least, params.dispute_fee)
        elif isinstance(action, Rekey):
            line = self.holdings.key_line(entry.account)
            if line is not None and line.recovery != NO_KEY:
                least = 0  # A thief may have left nothing to pay with.
        if entry.fee >= least:
            return None
        return Refusal(Reason.FEE_TOO_LOW, f"the fee is {entry.fee}, the least is {least}")

    def _change(self, sender: AccountId, old: Account, new: Account, change: Change) -> None:
        """Write what a rare entry changes; `new` is its sender's line as any other entry would leave it."""
        holdings, limits = self.holdings, dict(change.limits)
        new = new._replace(limit=old.limit + limits.pop(sender, 0))
        if change.keys is not None:
            new = new._replace(seq=old.seq, last_id=old.last_id)  # REKEYs count in their own lane.
        # Lines that fall come first, so that the sum of all limits never rises above its bound on the way.
        for who, delta in limits.items():
            if delta < 0:
                self._move_limit(who, delta)
        holdings.put_account(sender, old, new)
        for who, delta in limits.items():
            if delta > 0:
                self._move_limit(who, delta)
        if change.delegation is not None:
            holdings.put_delegation(*change.delegation)
        if change.keys is not None:
            holdings.put_keys(sender, change.keys)
        if change.charter is not None:
            holdings.put_charter(change.charter)

    def _move_limit(self, account_id: AccountId, delta: int) -> None:
        old = self.holdings.account(account_id)
        self.holdings.put_account(account_id, old, old._replace(limit=old.limit + delta))


def _refuse_validity(entry: Entry, time_ms: int) -> Refusal:
    if entry.not_after_ms < time_ms:
        return Refusal(Reason.TOO_LATE, f"it was valid until {entry.not_after_ms}, the block is of {time_ms}")
    return Refusal(
        Reason.VALID_TOO_LONG, f"it is valid for more than {VALID_SPAN_MS_MAX} ms after its block's time"
    )
