"""Random entries of every type, mostly plausible: some overdraw, repeat, come late, or ask for what is not theirs.

What is plausible is read off the audit's books; nothing here says which entries are valid. Time, height and slot jump:
the bounds of hours, days and heights are crossed many times in one run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
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
    sign_decree,
)
from ledger.core.approvals import Approvals, arbiters_hash, sign_rekey, sign_verdict
from ledger.core.entries import Entry, sign_entry
from ledger.core.genesis import Genesis
from ledger.core.keys import AccountId, SigningKey
from ledger.core.params import Params
from ledger.core.vouchers import sign_voucher

if TYPE_CHECKING:
    from random import Random

    from ledger.core.actions import Action
    from ledger.core.books import Books

HOUR_MS: Final = 3_600_000
DAY_MS: Final = 24 * HOUR_MS
CREATED_MS: Final = 1_000_000
LIMIT: Final = 20_000


def key(number: int) -> SigningKey:
    return SigningKey(number.to_bytes(32, "big"))


WITNESSES: Final = [key(n) for n in range(1, 5)]
GOVERNORS: Final = sorted((key(n) for n in range(201, 204)), key=lambda one: one.account)
ARBITERS: Final = sorted((key(n) for n in range(301, 304)), key=lambda one: one.account)
PEOPLE: Final = [*(key(n) for n in range(101, 105)), WITNESSES[0], GOVERNORS[0], ARBITERS[0]]
SPARE: Final = [key(n) for n in range(401, 409)]
"""Keys to change to, and to recover with."""
KEYS: Final = {one.account: one for one in (*WITNESSES, *PEOPLE, *GOVERNORS, *ARBITERS, *SPARE)}


def network(*, fee_min: int = 0, dispute_fee: int = 0, governed: bool = True, limit: int = LIMIT) -> Genesis:
    return Genesis(
        "traffic",
        CREATED_MS,
        tuple(one.account for one in WITNESSES),
        tuple((person.account, limit) for person in PEOPLE[:3]),
        fee_min=fee_min,
        dispute_fee=dispute_fee,
        governors=tuple(one.account for one in GOVERNORS) if governed else (),
        governors_needed=2 if governed else 0,
    )


@dataclass
class Traffic:
    """Entries for the page that `books` has open."""

    random: Random
    books: Books
    applied: list[Entry] = field(default_factory=list)
    locks: list[bytes] = field(default_factory=list)

    @property
    def genesis(self) -> Genesis:
        return self.books.genesis

    def next_height(self, height: int) -> int:
        """Mostly the next one; often one about a state root."""
        roll = self.random.random()
        if roll < 0.7:
            return height + 1
        rooted = -(-(height + 1) // 1000) * 1000
        return max(height + 1, rooted + self.random.choice((-1, 0, 0, 1)))

    def next_time(self, time_ms: int) -> int:
        """Mostly a moment later; sometimes an hour, a day or a month, or when something runs out, to a millisecond."""
        roll = self.random.random()
        if roll < 0.75:
            return time_ms + self.random.choice((0, 0, 0, 1, 1, 5, 30))
        if roll < 0.85:
            return time_ms + self.random.choice((HOUR_MS, DAY_MS, 30 * DAY_MS, 31 * DAY_MS))
        ends = [end for end in self._ends() if end > time_ms]
        return max(
            time_ms, (self.random.choice(ends) if ends else time_ms) + self.random.choice((-1, 0, 0, 1))
        )

    def _ends(self) -> list[int]:
        """When a lock expires, a recovery key may act again, an idle account may be forgotten."""
        books = self.books
        ends = [at for lock in books.locks.values() for at in (lock.expiry_ms, lock.deadline_ms)]
        ends += [line.changed_ms + HOUR_MS for line in books.keys.values() if line.recovery != NO_KEY] * 2
        return (
            ends
            + [line.active_ms + 31 * DAY_MS for who, line in books.lines.items() if self._is_empty(who)] * 2
        )

    def _is_empty(self, who: AccountId) -> bool:
        return not self.books.purses.get(who) and not self.books.line(who).limit

    def entry(self) -> Entry:
        """The next entry."""
        if self.applied and self.random.random() < 0.04:
            return self.random.choice(self.applied)
        signer = self.random.choice(PEOPLE)
        who, action = self._action(signer.account)
        seq = self._used(who, action) + self.random.choice((1,) * 24 + (0, 2))
        return self._signed(who, action, max(1, seq))

    def note(self, entry: Entry) -> None:
        """`entry` was applied."""
        self.applied.append(entry)
        if isinstance(entry.action, Lock):
            self.locks.append(entry.entry_id(self.genesis.network_id))

    def _used(self, who: AccountId, action: Action) -> int:
        line = self.books.keys.get(who)
        if not isinstance(action, Rekey):
            return self.books.line(who).used
        return 0 if line is None else line.rekeys

    def _signed(self, who: AccountId, action: Action, seq: int) -> Entry:
        now = self.books.page.time_ms
        span = 30 * DAY_MS
        not_after_ms = now + self.random.choice((1000,) * 20 + (0, -1, span, span + 1))
        fee = self.random.choice(
            (2, 3, 3, 3) if isinstance(action, Dispute) else (0, 1, 1, 1, 1, 1, 2, 3, 50)
        )
        bare = Entry(who, seq, max(0, not_after_ms), fee, action, bytes(64))
        # By whoever must sign it; now and then by the account's first key, or by the key instead of the recovery key.
        right = self.books.signer(bare)
        signer = self.random.choice((right,) * 16 + (who, self.books.key_of(who)))
        return sign_entry(
            KEYS[signer],
            self.genesis.network_id,
            seq=seq,
            not_after_ms=bare.not_after_ms,
            fee=fee,
            action=action,
            account=who,
        )

    def _action(self, who: AccountId) -> tuple[AccountId, Action]:
        kinds = ("transfer",) * 3 + ("sweep",) + ("lock",) * 4 + ("close",) * 8
        kinds += ("dispute",) * 4 + ("delegate",) * 3 + ("grant",) * 2 + ("rekey",) * 3
        kind = self.random.choice((*kinds, "param", "rotate"))
        if kind == "transfer":
            return who, Transfer(self._other(who), self._amount())
        if kind == "sweep":
            rich = [one for one, held in self.books.purses.items() if one in KEYS and held > 1]
            if rich:
                who = AccountId(self.random.choice(rich))
                return who, Transfer(self._other(who), self.books.purses[who] - self.random.choice((1, 1, 0)))
            return who, Transfer(self._other(who), 1)
        if kind == "lock":
            return who, self._lock(who)
        if kind in {"close", "dispute"}:
            return self._about_a_lock(who, disputes=kind == "dispute")
        if kind == "delegate":
            return who, self._delegation(who)
        if kind == "grant":
            delta = self.random.choice((1, 100, 4000, -1, -100, -4000, 1 << 62, (1 << 62) - 15_000))
            return who, self._approved(Limit(self._other(who), delta, self._decree()))
        if kind == "rekey":
            return who, self._rekey(who)
        if kind == "param":
            return who, self._approved(self._param())
        size = self.random.choice((1, 3, 4))
        chosen = tuple(one.account for one in self.random.sample([*WITNESSES, *SPARE], size))
        return who, self._approved(Rotate(self._decree(), chosen, Approvals()))

    def _amount(self) -> int:
        return self.random.choice((1, 7, 10, 100, 100, 400, 400, 5_000, LIMIT, LIMIT + 1))

    def _other(self, who: AccountId) -> AccountId:
        return self.random.choice([one.account for one in PEOPLE if one.account != who] * 4 + [who])

    def _lock(self, who: AccountId) -> Lock:
        now = self.books.page.time_ms
        span = 366 * DAY_MS
        expiry_ms = now + self.random.choice(
            (0, 1, 2, 30, 60, 200, HOUR_MS, HOUR_MS, DAY_MS, DAY_MS, span, span + 1)
        )
        plain = Lock(self._other(who), self._amount(), expiry_ms)
        if self.random.random() < 0.3:
            return plain
        return replace(
            plain,
            dispute_ms=self.random.choice((1, 30, HOUR_MS, 30 * DAY_MS)),
            arbiters_hash=arbiters_hash([one.account for one in ARBITERS]),
            arbiters_needed=self.random.choice((1, 2, 3)),
            default_bps=self.random.choice((0, 1, 3333, 5000, 9999, 10_000)),
        )

    def _about_a_lock(self, who: AccountId, *, disputes: bool) -> tuple[AccountId, Action]:
        alive = list(self.books.locks)
        if not self.locks or (not alive and self.random.random() < 0.9):
            return who, self._lock(who)
        disputed = [at for at in alive if self.books.locks[at].disputed]
        lock_id = self.random.choice(alive * 8 + disputed * 24 + self.locks[-4:])
        if disputes:
            able = [at for at in alive if self.books.locks[at].dispute_ms]
            lock_id = self.random.choice(able * 8 + [lock_id])
        lock = self.books.locks.get(lock_id)
        if lock is None:
            return who, self.random.choice((Claim(lock_id, 0), Expire(lock_id), Release(lock_id)))
        if disputes:
            return self.random.choice((lock.payee,) * 5 + (who,)), Dispute(lock_id)
        if self.random.random() < (0.6 if lock.disputed else 0.05):
            return who, self._verdict(lock_id, lock.amount)
        kind = self.random.choice(("claim", "claim", "cancel", "release", "expire"))
        if kind == "claim":
            cumulative = self.random.choice((1, lock.amount // 2 or 1, lock.amount, lock.amount + 1))
            by = self.random.choice((lock.payer_key,) * 4 + (self.books.key_of(lock.payer), who))
            voucher = sign_voucher(KEYS[by], self.genesis.network_id, lock_id, cumulative)
            claim = Claim(lock_id, cumulative, voucher.signature)
            return self.random.choice((lock.payee,) * 5 + (who,)), claim
        if kind == "cancel":
            return self.random.choice((lock.payee, who)), Claim(lock_id, 0)
        if kind == "release":
            return self.random.choice((lock.payer, lock.payer, who)), Release(lock_id)
        return who, Expire(lock_id)

    def _verdict(self, lock_id: bytes, amount: int) -> Verdict:
        listed = [one.account for one in ARBITERS]
        if self.random.random() < 0.1:
            listed = listed[:2]
        awarded = self.random.choice((0, 1, amount // 2, amount, amount + 1))
        signed_for = self.random.choice((awarded,) * 8 + (0,))
        signatures = {
            account: sign_verdict(
                KEYS[self.books.key_of(account)], self.genesis.network_id, lock_id, signed_for
            )
            for account in self.random.sample(listed, self.random.choice((0, 1, 2, *(len(listed),) * 5)))
        }
        return Verdict(lock_id, awarded, tuple(listed), Approvals.collect(listed, self._spoilt(signatures)))

    def _spoilt(self, signatures: dict[AccountId, bytes]) -> dict[AccountId, bytes]:
        """Now and then with one wrong signature among them."""
        if signatures and self.random.random() < 0.1:
            return signatures | {self.random.choice(list(signatures)): bytes(64)}
        return signatures

    def _delegation(self, who: AccountId) -> Limit:
        given = [pair for pair in self.books.delegations if pair[0] == who]
        if given and self.random.random() < 0.6:
            _, beneficiary = self.random.choice(given)
            lent = self.books.delegations[who, beneficiary]
            return Limit(beneficiary, -self.random.choice((1, lent, lent, lent + 1)))
        line = self.books.line(who).limit
        room = line + self.books.purses.get(who, 0)
        return Limit(self._other(who), self.random.choice((1, 50, max(1, room), max(1, line), line + 1)))

    def _decree(self) -> int:
        return max(1, self.books.decrees + self.random.choice((1,) * 12 + (0, 2)))

    def _approved(self, decree: Limit | Rotate | Param) -> Limit | Rotate | Param:
        listed = [one.account for one in GOVERNORS]
        signatures = {
            account: sign_decree(KEYS[self.books.key_of(account)], self.genesis.network_id, decree)
            for account in self.random.sample(listed, self.random.choice((0, 1, 2, 2, 2, 3, 3)))
        }
        approvals = Approvals.collect(listed, self._spoilt(signatures))
        if self.random.random() < 0.03:
            approvals = Approvals(approvals.signers | 1 << 9, (*approvals.signatures, bytes(64)))
        return replace(decree, approvals=approvals)

    def _param(self) -> Param:
        height = self.books.page.height
        from_height = height + self.random.choice((0, 1, 1, 2, 5, 900, 1_000_000, 1_000_001))
        fees = self.random.choice((0, 1, 2)), self.random.choice((0, 3))
        return Param(self._decree(), max(1, from_height), Params(1, *fees), Approvals())

    def _rekey(self, who: AccountId) -> Rekey:
        line = self.books.keys.get(who)
        new = KEYS[who] if self.random.random() < 0.3 and line is None else self.random.choice(SPARE)
        recovery = self.random.choice((NO_KEY, SPARE[0].account, SPARE[1].account, SPARE[2].account))
        seq = (0 if line is None else line.rekeys) + 1
        prover = self.random.choice((new,) * 12 + (SPARE[3],))
        proof = sign_rekey(prover, self.genesis.network_id, who, seq, recovery)
        if prover is not new:
            proof = bytes(64)
        return Rekey(new.account, recovery, proof)
