"""The rarer parts that clients play: governors, sponsors, arbiters, an owner with a recovery key, and a thief."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import TYPE_CHECKING

from ledger.core.actions import (
    NO_KEY,
    Action,
    Decree,
    Limit,
    Param,
    Rekey,
    Rotate,
    Transfer,
    Verdict,
    sign_decree,
)
from ledger.core.approvals import NO_APPROVALS, Approvals, arbiters_hash, sign_rekey, sign_verdict
from ledger.core.keys import SigningKey
from ledger.core.params import Params
from ledger.core.state import LockStatus
from tests.simulation.ledger.wallets import OPEN

if TYPE_CHECKING:
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from tests.simulation.ledger.wallets import Wallet

__all__ = [
    "ARBITERS",
    "ARBITERS_HASH",
    "ARBITERS_NEEDED",
    "GOVERNORS",
    "Arbiter",
    "Governor",
    "Owner",
    "Sponsor",
    "Thief",
]

GOVERNORS = tuple(
    sorted((SigningKey(bytes((number,)) * 31 + b"g") for number in range(1, 4)), key=lambda key: key.account)
)
GOVERNORS_NEEDED = 2
ARBITERS = tuple(
    sorted((SigningKey(bytes((number,)) * 31 + b"a") for number in range(1, 4)), key=lambda key: key.account)
)
ARBITERS_NEEDED = 2
ARBITERS_HASH = arbiters_hash([key.account for key in ARBITERS])
TRIES_MAX = 12


class Governor:
    """Carries what the governors decree: credit lines, parameters, committees; now and then without enough of them."""

    def __init__(
        self, wallet: Wallet, others: list[AccountId], wishes: int, committees: list[list[AccountId]]
    ) -> None:
        self._wallet = wallet
        self._others = others
        self._open = wishes
        self._committees = committees
        self._tries = 0

    def wish(self, now_ms: int) -> Action | None:
        chance, chain = self._wallet.random, self._wallet.reader.chain
        if (not self._open and not self._committees) or chance.random() < 0.5:
            return None
        decree_number = chain.state.decrees + 1
        decree: Decree
        if self._committees and (not self._open or chance.random() < 0.5):
            decree = Rotate(decree_number, tuple(self._committees[0]), NO_APPROVALS)
        elif chance.random() < 0.5:
            delta = chance.choice((40, 90, -30))
            decree = Limit(chance.choice(self._others), delta, decree_number)
        else:
            params = Params(
                1, chance.choice((0, 1, 2)), chance.choice((0, 4)), chance.choice((250, 300, 400))
            )
            decree = Param(decree_number, chain.tip.height + chance.randint(1, 6), params, NO_APPROVALS)
        return self._approve(decree, GOVERNORS_NEEDED if chance.random() < 0.85 else 1)

    def _approve(self, decree: Decree, count: int) -> Decree:
        network_id = self._wallet.simulation.genesis.network_id
        signers = self._wallet.random.sample(GOVERNORS, count)
        signatures = {key.account: sign_decree(key, network_id, decree) for key in signers}
        listed = [key.account for key in GOVERNORS]
        return replace(decree, approvals=Approvals.collect(listed, signatures))

    def settled(self, entry: Entry, outcome: str) -> None:
        self._tries += 1
        if isinstance(entry.action, Rotate):
            if outcome == "final" or self._tries > TRIES_MAX:
                self._committees.pop(0)
        elif outcome != OPEN:
            self._open = max(0, self._open - 1)

    def is_done(self) -> bool:
        return not self._open and not self._committees


class Sponsor:
    """Delegates part of its credit line, and takes some of it back."""

    def __init__(self, wallet: Wallet, beneficiaries: list[AccountId], wishes: int) -> None:
        self._wallet = wallet
        self._beneficiaries = beneficiaries
        self._open = wishes

    def wish(self, now_ms: int) -> Action | None:
        chance = self._wallet.random
        if not self._open or chance.random() < 0.4:
            return None
        return Limit(chance.choice(self._beneficiaries), chance.choice((30, 60, -20, -40, -500)))

    def settled(self, entry: Entry, outcome: str) -> None:
        if outcome != OPEN:
            self._open -= 1

    def is_done(self) -> bool:
        return not self._open


class Arbiter:
    """Decides disputed locks; now and then alone, or with another list of arbiters."""

    def __init__(self, wallet: Wallet) -> None:
        self._wallet = wallet

    def wish(self, now_ms: int) -> Action | None:
        chance, network_id = self._wallet.random, self._wallet.simulation.genesis.network_id
        for lock in self._wallet.reader.chain.state.open_locks():
            if lock.status is not LockStatus.DISPUTED or chance.random() < 0.7:
                continue
            amount = chance.randint(0, lock.amount)
            signers = chance.sample(ARBITERS, chance.choice((1, 2, 2, 3)))
            listed = [key.account for key in (ARBITERS if chance.random() < 0.9 else ARBITERS[:2])]
            signatures = {
                key.account: sign_verdict(key, network_id, lock.lock_id, amount)
                for key in signers
                if key.account in listed
            }
            return Verdict(lock.lock_id, amount, tuple(listed), Approvals.collect(listed, signatures))
        return None

    def settled(self, entry: Entry, outcome: str) -> None:
        pass

    def is_done(self) -> bool:
        return True


class Owner:
    """Registers a recovery key; once robbed, takes the account back with it, and pays on with a new key."""

    def __init__(self, wallet: Wallet, others: list[AccountId], wishes: int) -> None:
        self._wallet = wallet
        self._others = others
        self._open = wishes
        self._first_key = wallet.key
        self._recovery = SigningKey(sha256(wallet.key.seed + b"recovery").digest())
        self._new_key = SigningKey(sha256(wallet.key.seed + b"new").digest())
        self._tries = 0
        self.is_registered = self.is_recovered = False

    def wish(self, now_ms: int) -> Action | None:
        """One step after the other; the wallet signs each with the key that may."""
        chance, state = self._wallet.random, self._wallet.reader.chain.state
        line = state.key_line(self._wallet.account)
        self.is_registered = line is not None
        self.is_recovered = line is not None and line.key == self._new_key.account
        if not self.is_registered:
            return self._rekey(self._first_key, self._first_key)
        if not self.is_recovered:
            if chance.random() < 0.6:
                return None
            return self._rekey(self._recovery, self._new_key)
        self._wallet.key = self._new_key
        if not self._open:
            return None
        return Transfer(chance.choice(self._others), 1)

    def _rekey(self, signer: SigningKey, new_key: SigningKey) -> Rekey:
        wallet = self._wallet
        wallet.key = signer
        network_id, recovery = wallet.simulation.genesis.network_id, self._recovery.account
        line = wallet.reader.chain.state.key_line(wallet.account)
        seq = 1 + (line.rekeys if line is not None else 0)
        return Rekey(
            new_key.account, recovery, sign_rekey(new_key, network_id, wallet.account, seq, recovery)
        )

    def settled(self, entry: Entry, outcome: str) -> None:
        if isinstance(entry.action, Transfer) and outcome not in {
            OPEN,
            "too_late",
            "conflict",
            "sequence_used",
        }:
            self._open -= 1
        self._tries += 1

    def is_done(self) -> bool:
        return self._tries > TRIES_MAX or (self.is_recovered and not self._open)


class Thief:
    """Signs with a stolen key what pays itself, as long as that key is good for anything."""

    def __init__(self, wallet: Wallet, wishes: int) -> None:
        self._wallet = wallet
        self._open = wishes

    def wish(self, now_ms: int) -> Action | None:
        if not self._open or self._wallet.random.random() < 0.7:
            return None
        # It tries to lock the owner out as well; the registered recovery key forbids that.
        if self._wallet.random.random() < 0.3:
            wallet = self._wallet
            line = wallet.reader.chain.state.key_line(wallet.account)
            seq, mine = 1 + (line.rekeys if line is not None else 0), SigningKey(b"t" * 32)
            if line is not None:
                proof = sign_rekey(mine, wallet.simulation.genesis.network_id, wallet.account, seq, NO_KEY)
                return Rekey(mine.account, NO_KEY, proof)
        return Transfer(SigningKey(b"t" * 32).account, self._wallet.random.randint(1, 9))

    def settled(self, entry: Entry, outcome: str) -> None:
        self._open -= 1

    def is_done(self) -> bool:
        return True
