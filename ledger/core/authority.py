"""The rules of credit lines, keys, committees and parameters: who may change what (SPEC.md §4.3).

Each rule looks and plans; `state` changes. The order of its checks is part of the protocol.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ledger.core.actions import NO_KEY, Decree, Limit, Param, Rekey, Rotate, decree_body
from ledger.core.amounts import LIMIT_SUM_MAX
from ledger.core.approvals import rekey_body
from ledger.core.committee import Committee
from ledger.core.encoding import Kind
from ledger.core.holdings import KeyLine, Pending
from ledger.core.keys import verify
from ledger.core.outcomes import Change, Moment, Plan, Reason, Refusal

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from ledger.core.state import LedgerState

__all__ = [
    "DELEGATIONS_PER_SPONSOR_MAX",
    "EPOCH_MAX",
    "PARAM_HEIGHTS_MAX",
    "REKEY_PAUSE_MS",
    "approvals_hold",
    "plan_limit",
    "plan_param",
    "plan_rekey",
    "plan_rotate",
]

REKEY_PAUSE_MS: Final = 3_600_000
"""Between two REKEYs by a recovery key, in block time: they need no fee, so they must not come often."""
PARAM_HEIGHTS_MAX: Final = 1_000_000
"""How many blocks ahead parameters may be decreed."""
DELEGATIONS_PER_SPONSOR_MAX: Final = 1_024
"""Beneficiaries of one sponsor: each is a line that every node keeps until all of it is taken back."""
EPOCH_MAX: Final = (1 << 32) - 1
"""What headers and votes can number."""


def approvals_hold(
    state: LedgerState, signed: Sequence[tuple[AccountId, bytes]], needed: int, kind: Kind, body: bytes
) -> bool:
    """Whether at least `needed` signed, and every signature is by the current key of its account.

    One wrong signature is enough for a no: whoever sends rubbish costs one check, not sixteen.
    """
    network_id = state.genesis.network_id
    return len(signed) >= needed and all(
        verify(state.key_of(account), signature, kind, network_id, body) for account, signature in signed
    )


def plan_limit(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Limit, _at: Moment
) -> Plan | Refusal:
    """LIMIT: a sponsor delegates or takes back, or governors give or take."""
    if action.decree:
        return _plan_decreed_limit(state, entry, action)
    sponsor, beneficiary, delta = entry.account, action.beneficiary, action.delta
    if sponsor == beneficiary:
        return Refusal(Reason.SELF_PAYMENT, "an account cannot delegate to itself")
    delegated = state.holdings.delegated(sponsor, beneficiary)
    if delta > 0:
        line = state.account(sponsor)
        if delta > line.limit:
            return Refusal(Reason.LIMIT_NEGATIVE, f"{delta} to delegate of a limit of {line.limit}")
        if not delegated and state.holdings.delegations_of(sponsor) >= DELEGATIONS_PER_SPONSOR_MAX:
            return Refusal(
                Reason.TOO_MANY_DELEGATIONS,
                f"{DELEGATIONS_PER_SPONSOR_MAX} accounts have a part of this line already",
            )
    else:
        line = state.account(beneficiary)
        if -delta > delegated:
            return Refusal(Reason.NOT_DELEGATED, f"{-delta} to take back of {delegated} that were delegated")
        if line.limit + delta < max(0, -line.balance):
            return _in_use(line.balance, line.limit)
    change = Change(((sponsor, -delta), (beneficiary, delta)), (sponsor, beneficiary, delegated + delta))
    return Plan(-entry.fee, change=change)


def _plan_decreed_limit(state: LedgerState, entry: Entry, action: Limit) -> Plan | Refusal:
    refusal = _refuse_decree(state, action)
    if refusal is not None:
        return refusal
    line, delta = state.account(action.beneficiary), action.delta
    if line.limit + delta < 0:
        return Refusal(Reason.LIMIT_NEGATIVE, f"the limit is {line.limit}, it cannot change by {delta}")
    if line.balance < -(line.limit + delta):
        return _in_use(line.balance, line.limit)
    limits = state.holdings.limit_sum() + delta
    if limits > LIMIT_SUM_MAX:
        return Refusal(Reason.LIMIT_SUM, f"all limits would sum to {limits}, at most {LIMIT_SUM_MAX} may")
    charter = replace(state.holdings.charter, decrees=action.decree)
    return Plan(-entry.fee, change=Change(((action.beneficiary, delta),), charter=charter))


def _in_use(balance: int, limit: int) -> Refusal:
    return Refusal(
        Reason.LIMIT_IN_USE, f"the balance is {balance}, the limit {limit}: less would not cover it"
    )


def plan_rekey(
    state: LedgerState, entry: Entry, entry_id: bytes, action: Rekey, at: Moment
) -> Plan | Refusal:
    """REKEY: another key signs from now on. Whose signature this entry needs, `LedgerState.signer` tells."""
    line = state.holdings.key_line(entry.account)
    if line is None:
        account = state.account(entry.account)
        if not (account.balance or account.limit or account.seq):
            # Anybody can make keys without end, and lines of keys are never forgotten.
            return Refusal(Reason.ACCOUNT_UNKNOWN, "this account never had credit, a limit or an entry")
        line = KeyLine(entry.account)
    elif line.recovery != NO_KEY and at.time_ms < line.rekeyed_ms + REKEY_PAUSE_MS:
        return Refusal(
            Reason.TOO_SOON,
            f"the last REKEY was at {line.rekeyed_ms}, the recovery key acts {REKEY_PAUSE_MS} ms after it",
        )
    proved = rekey_body(entry.account, entry.seq, action.new_key, action.recovery)
    if not verify(action.new_key, action.proof, Kind.REKEY, state.genesis.network_id, proved):
        return Refusal(Reason.BAD_PROOF, "the new key did not sign that it takes this account over")
    keys = KeyLine(action.new_key, action.recovery, entry.seq, entry_id, at.time_ms)
    return Plan(-entry.fee, change=Change(keys=keys))


def plan_rotate(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Rotate, _at: Moment
) -> Plan | Refusal:
    """ROTATE: the epoch ends with this entry."""
    refusal = _refuse_decree(state, action)
    if refusal is not None:
        return refusal
    old = state.holdings.charter
    if old.committee.epoch >= EPOCH_MAX:
        return Refusal(Reason.LAST_EPOCH, f"epoch {old.committee.epoch} is the last that can be numbered")
    committee = Committee(state.genesis.network_id, old.committee.epoch + 1, action.witnesses)
    charter = replace(old, decrees=action.decree, committee=committee)
    return Plan(-entry.fee, change=Change(charter=charter))


def plan_param(
    state: LedgerState, entry: Entry, _entry_id: bytes, action: Param, at: Moment
) -> Plan | Refusal:
    """PARAM: other parameters from a later block on; they take the place of any that still wait."""
    refusal = _refuse_decree(state, action)
    if refusal is not None:
        return refusal
    old = state.holdings.charter
    if action.from_height <= at.height:
        return Refusal(
            Reason.HEIGHT_PASSED, f"from height {action.from_height}, decreed in block {at.height}"
        )
    if action.from_height > at.height + PARAM_HEIGHTS_MAX:
        return Refusal(Reason.HEIGHT_TOO_FAR, f"at most {PARAM_HEIGHTS_MAX} blocks ahead of {at.height}")
    if action.params.version < old.params.version:
        return Refusal(
            Reason.VERSION_LOWER,
            f"version {action.params.version}, the network is at {old.params.version} already",
        )
    charter = replace(old, decrees=action.decree, pending=Pending(action.from_height, action.params))
    return Plan(-entry.fee, change=Change(charter=charter))


def _refuse_decree(state: LedgerState, decree: Decree) -> Refusal | None:
    """Why this is not the governors' next decree; None if it is."""
    genesis, decrees = state.genesis, state.holdings.charter.decrees
    if not genesis.governors_needed:
        return Refusal(Reason.NO_GOVERNANCE, "this network has no governors: nothing can be decreed")
    if decree.decree <= decrees:
        return Refusal(Reason.DECREE_USED, f"decree {decree.decree}, the next is {decrees + 1}")
    if decree.decree > decrees + 1:
        return Refusal(Reason.DECREE_GAP, f"decree {decree.decree}, the next is {decrees + 1}")
    signed = decree.approvals.signed_by(genesis.governors)
    beyond = decree.approvals.signers >> len(genesis.governors)
    body = decree_body(decree)
    if beyond or not approvals_hold(state, signed, genesis.governors_needed, Kind.DECREE, body):
        return Refusal(
            Reason.NOT_APPROVED, f"{genesis.governors_needed} governors must sign this decree, each correctly"
        )
    return None
