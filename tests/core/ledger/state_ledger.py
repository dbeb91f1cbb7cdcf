"""A forge whose entries are applied one by one, with every invariant counted anew after each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ledger.core.entries import (
    NO_APPROVALS,
    NO_KEY,
    Approvals,
    Decree,
    Entry,
    Limit,
    Lock,
    Param,
    Rekey,
    Rotate,
    Verdict,
    arbiters_hash,
    sign_decree,
    sign_rekey,
    sign_verdict,
)
from ledger.core.state import Effect, LedgerState, Moment, Reason, Refusal
from tests.core.ledger.ledger_forge import ALICE, CAROL, CREATED_MS, WITNESSES, Forge, key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.params import Params

NOW_MS = CREATED_MS + 10_000
EXPIRY_MS = NOW_MS + 5_000
DISPUTE_MS = 3_000
LEADER = WITNESSES[1].account
ARBITERS = sorted((key(number) for number in (201, 202, 203)), key=lambda k: k.account)
GOVERNORS = sorted((key(number) for number in (301, 302, 303)), key=lambda k: k.account)
GOVERNED: dict[str, Any] = {"governors": tuple(k.account for k in GOVERNORS), "governors_needed": 2}


def at(time_ms: int = NOW_MS, height: int = 1, epoch: int = 0) -> Moment:
    return Moment(height, time_ms, LEADER, epoch)


class Ledger(Forge):
    """`do` what must be applied, see `refused` what must not; both look at the whole state."""

    def do(self, entry: Entry, when: Moment | int = NOW_MS) -> Effect:
        effect = self.state.apply(entry, when if isinstance(when, Moment) else at(when))
        assert isinstance(effect, Effect), effect
        assert not self.state.totals().balance + self.state.totals().locked
        self.state.assert_invariants()
        again = LedgerState.from_snapshot(self.genesis, self.state.snapshot())
        assert again.root() == self.state.root()
        return effect

    def refused(self, entry: Entry, reason: Reason, when: Moment | int = NOW_MS) -> None:
        moment = when if isinstance(when, Moment) else at(when)
        before = self.state.snapshot()
        checked = self.state.check(entry, moment)
        refusal = self.state.apply(entry, moment)
        assert isinstance(refusal, Refusal)
        assert refusal == checked
        assert refusal.reason is reason, refusal
        assert refusal.detail
        assert self.state.snapshot() == before
        self.state.assert_invariants()

    def open_lock(self, amount: int = 500, expiry_ms: int = EXPIRY_MS, **dispute: int) -> bytes:
        """ALICE's lock for CAROL; with `needed` or `bps` it has the ARBITERS."""
        fields: dict[str, Any] = {}
        if dispute:
            fields = {
                "dispute_ms": dispute.get("dispute_ms", DISPUTE_MS),
                "arbiters_hash": arbiters_hash([k.account for k in ARBITERS]),
                "arbiters_needed": dispute.get("needed", 2),
                "default_bps": dispute.get("bps", 0),
            }
        entry = self.sign(ALICE, Lock(CAROL.account, amount, expiry_ms, **fields))
        self.do(entry)
        return self.entry_id(entry)

    def balance(self, who: SigningKey) -> int:
        return self.state.account(who.account).balance

    def limit(self, who: SigningKey) -> int:
        return self.state.account(who.account).limit

    def verdict(
        self,
        lock_id: bytes,
        amount: int,
        signers: Sequence[SigningKey] = ARBITERS[:2],
        listed: Sequence[SigningKey] = ARBITERS,
        **keys: SigningKey,
    ) -> Verdict:
        """By `signers`, of whom the one of that place signs with another key if `keys` says so (`k0`, `k1`, …)."""
        accounts = tuple(k.account for k in listed)
        network_id = self.genesis.network_id
        signed = {
            k.account: sign_verdict(keys.get(f"k{place}", k), network_id, lock_id, amount)
            for place, k in enumerate(signers)
        }
        return Verdict(lock_id, amount, accounts, Approvals.collect(accounts, signed))

    def approved(self, decree: Decree, signers: Sequence[SigningKey] = GOVERNORS[:2]) -> Any:
        """`decree` with the approvals of `signers`."""
        signed = {k.account: sign_decree(k, self.genesis.network_id, decree) for k in signers}
        return replace(decree, approvals=Approvals.collect(self.genesis.governors, signed))

    def decreed_limit(self, who: SigningKey, delta: int, decree: int | None = None) -> Limit:
        number = self.state.decrees + 1 if decree is None else decree
        limit: Limit = self.approved(Limit(who.account, delta, number, NO_APPROVALS))
        return limit

    def rotate(self, keys: Sequence[SigningKey], decree: int | None = None) -> Rotate:
        number = self.state.decrees + 1 if decree is None else decree
        rotate: Rotate = self.approved(Rotate(number, tuple(k.account for k in keys), NO_APPROVALS))
        return rotate

    def param(self, from_height: int, params: Params) -> Param:
        decree = Param(self.state.decrees + 1, from_height, params, NO_APPROVALS)
        param: Param = self.approved(decree)
        return param

    def rekey(
        self,
        who: SigningKey,
        new: SigningKey,
        recovery: AccountId = NO_KEY,
        seq: int = 1,
        proof: SigningKey | None = None,
        **header: int,
    ) -> Entry:
        """A REKEY of `who`; the state asks nobody for the entry's own signature, so it is `who`'s."""
        proved = sign_rekey(proof or new, self.genesis.network_id, who.account, seq, recovery)
        action = Rekey(new.account, recovery, proved)
        return self.sign(who, action, seq=seq, **header)
