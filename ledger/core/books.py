"""The audit's own books: a second, independent reading of SPEC.md §4.

It shares no code with `state`, which witnesses and followers run, so that one misreading cannot hide in
both. Here every credit is a posting between two purses, of accounts and of locks alike: a transfer, a
lock and a refund are all the same step, and conservation is a sum over all purses.

For each block: `open_page`, `entry` for each of its entries, `close_page`. A refused entry leaves no trace.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, TypeAlias

from ledger.core.actions import (
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
from ledger.core.book_charter import limited, parametrised, rekeyed, rotated
from ledger.core.book_locks import closed, disputed, opened
from ledger.core.book_pages import FEE_PURSE, NO_ID, Deed, KeyLine, Line, OpenLock, Page, Terms, lock_purse
from ledger.core.encoding import Kind, digest, signing_bytes
from ledger.core.keys import AccountId, verify_bytes
from ledger.core.violations import AuditRule, BrokenRuleError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ledger.core.approvals import Approvals
    from ledger.core.entries import Entry
    from ledger.core.genesis import Genesis

__all__ = ["Books", "Check"]

_VALID_SPAN_MS: Final = 30 * 86_400_000
_IDLE_MS: Final = 31 * 86_400_000
_PRUNING_INTERVAL: Final = 1_000
_VERSION_KNOWN: Final = 1

Check: TypeAlias = "Callable[[bytes, bytes, bytes], bool]"
"""(public key, signature, message) -> whether it verifies."""


class Books:
    """Purses and what guards them. A purse is an account's (32 bytes) or a lock's (its id behind b'L')."""

    def __init__(self, genesis: Genesis, check: Check = verify_bytes, *, signatures: bool = True) -> None:
        """`check` verifies signatures; `signatures` False takes those of entries for granted, and no others."""
        self.genesis = genesis
        self.purses: dict[bytes, int] = {}
        self.lines: dict[AccountId, Line] = {who: Line(limit) for who, limit in genesis.limits}
        self.keys: dict[AccountId, KeyLine] = {}
        self.locks: dict[bytes, OpenLock] = {}
        self.delegations: dict[tuple[AccountId, AccountId], int] = {}
        self.sponsored: dict[AccountId, set[AccountId]] = {}
        """The beneficiaries of each sponsor: the same pairs once more."""
        self.limits_sum = sum(limit for _, limit in genesis.limits)
        self.decrees = 0
        self.epoch, self.witnesses = 0, genesis.witnesses
        self.terms = Terms(1, genesis.fee_min, genesis.dispute_fee, genesis.slot_timeout_ms)
        self.pending: tuple[int, Terms] | None = None
        """Terms that are decreed, and the height from which they hold."""
        self.page = Page(0, genesis.created_ms, genesis.witnesses[0], 0)
        self.opened = self.paid = self.refunded = self.fees = 0
        """Micro-credits that went into locks, and out of them, and to leaders."""
        self._check = check
        self._signatures = signatures

    # Pages.

    def open_page(self, height: int, time_ms: int, epoch: int, slot: int) -> None:
        """Begin the block of that header; the entries that follow are its own."""
        leader = self.witnesses[slot % len(self.witnesses)]
        self.page = Page(height, time_ms, leader, epoch)
        if self.terms.version > _VERSION_KNOWN:
            raise BrokenRuleError(
                AuditRule.VERSION,
                f"from here on the ledger follows version {self.terms.version} of the rules, and this program knows "
                f"{_VERSION_KNOWN}: update it",
            )

    def close_page(self) -> None:
        """End the block: the next one's terms hold, and where this one names a state root, the idle are forgotten."""
        page = self.page
        if self.pending is not None and page.height + 1 >= self.pending[0]:
            self.terms, self.pending = self.pending[1], None
        if page.height % _PRUNING_INTERVAL:
            return
        bound = {who for pair in self.delegations for who in pair}
        idle = [
            who
            for who, line in self.lines.items()
            if not self.purses.get(who)
            and not line.limit
            and who not in self.keys
            and not line.open_locks
            and who not in bound
            and line.active_ms + _IDLE_MS < page.time_ms
        ]
        for who in idle:
            del self.lines[who]
            self.purses.pop(who, None)

    # Entries.

    def entry(self, entry: Entry) -> None:
        """Post one entry, or say which rule forbids it; then nothing is changed."""
        who, action, page = entry.account, entry.action, self.page
        if self._signatures and not self.signed(
            self.signer(entry), entry.signature, Kind.ENTRY, entry.body()
        ):
            raise BrokenRuleError(AuditRule.SIGNATURE, "the account did not sign this entry")
        if page.epoch != self.epoch:
            raise BrokenRuleError(AuditRule.EPOCH, f"an entry in epoch {page.epoch}, which is over")
        used = self._used(who, action)
        if entry.seq != used + 1:
            raise BrokenRuleError(AuditRule.SEQUENCE, f"sequence {entry.seq} after {used}")
        if not page.time_ms <= entry.not_after_ms <= page.time_ms + _VALID_SPAN_MS:
            raise BrokenRuleError(
                AuditRule.NOT_AFTER, f"valid until {entry.not_after_ms}, applied at {page.time_ms}"
            )
        if entry.fee < self.terms.fee_min and not self._is_recovery(who, action):
            raise BrokenRuleError(
                AuditRule.FEE, f"a fee of {entry.fee}, at least {self.terms.fee_min} is due"
            )
        entry_id = digest(signing_bytes(Kind.ENTRY, self.genesis.network_id, entry.body()))
        deed = self._deed(entry, entry_id)
        self._pay(who, entry.fee, deed)
        line = self.own_line(who)
        line.active_ms = page.time_ms
        if type(action) is not Rekey:
            line.used, line.last_id = entry.seq, entry_id

    def signer(self, entry: Entry) -> AccountId:
        """Whose signature the entry must bear: the account's key, or for a REKEY the recovery key if there is one."""
        line = self.keys.get(entry.account)
        if line is None:
            return entry.account
        if type(entry.action) is Rekey and line.recovery != NO_ID:
            return AccountId(line.recovery)
        return line.key

    def key_of(self, who: AccountId) -> AccountId:
        """The key that signs for an account now; its name is its first one."""
        line = self.keys.get(who)
        return who if line is None else line.key

    def line(self, who: AccountId) -> Line:
        """What is known of an account, to read: an unknown one has zeros."""
        return self.lines.get(who) or _UNKNOWN

    def own_line(self, who: AccountId) -> Line:
        """The line of an account, to change."""
        line = self.lines.get(who)
        if line is None:
            line = self.lines[who] = Line()
        return line

    def signed(self, key: bytes, signature: bytes, kind: Kind, body: bytes) -> bool:
        """Whether `key` signed `body` as a record of `kind` on this network."""
        return self._check(key, signature, signing_bytes(kind, self.genesis.network_id, body))

    def check_approved(
        self, approvals: Approvals, listed: Sequence[AccountId], needed: int, kind: Kind, body: bytes
    ) -> None:
        """Enough of those `listed` agreed to `body`, each by the key of its account now, and none wrongly."""
        if approvals.signers >> len(listed):
            raise BrokenRuleError(
                AuditRule.APPROVAL, f"an approval beyond the {len(listed)} who may give one"
            )
        if approvals.signers.bit_count() < needed:
            raise BrokenRuleError(
                AuditRule.APPROVAL, f"{approvals.signers.bit_count()} approvals, {needed} are needed"
            )
        chosen = [who for bit, who in enumerate(listed) if approvals.signers >> bit & 1]
        for who, signature in zip(chosen, approvals.signatures, strict=True):
            if not self.signed(self.key_of(who), signature, kind, body):
                raise BrokenRuleError(AuditRule.APPROVAL, f"{who.hex()} did not sign this approval")

    def _used(self, who: AccountId, action: object) -> int:
        """The last sequence number of the entry's lane: REKEYs are counted apart."""
        if type(action) is Rekey:
            line = self.keys.get(who)
            return 0 if line is None else line.rekeys
        return self.line(who).used

    def _is_recovery(self, who: AccountId, action: object) -> bool:
        """Whether a recovery key acts: free of charge, since a thief may have emptied the account."""
        line = self.keys.get(who)
        return type(action) is Rekey and line is not None and line.recovery != NO_ID

    def _deed(self, entry: Entry, entry_id: bytes) -> Deed:
        """What the entry's type asks for."""
        who, action = entry.account, entry.action
        if isinstance(action, Transfer):
            if action.to == who:
                raise BrokenRuleError(AuditRule.PAYMENT, "an account pays itself")
            return Deed([(who, action.to, action.amount)])
        if isinstance(action, Lock):
            return opened(self, who, entry_id, action)
        if isinstance(action, Claim | Expire | Release | Verdict):
            return closed(self, who, action)
        if isinstance(action, Dispute):
            return disputed(self, who, entry.fee, action)
        if isinstance(action, Limit):
            return limited(self, who, action)
        if isinstance(action, Rekey):
            return rekeyed(self, who, entry.seq, entry_id, action)
        if isinstance(action, Rotate):
            return rotated(self, action)
        assert isinstance(action, Param)  # noqa: S101 - the last of eleven types
        return parametrised(self, action)

    def _pay(self, who: AccountId, fee: int, deed: Deed) -> None:
        """Post the deed's moves and the fee, unless they overdraw the account; then the deed is done."""
        moves = [*deed.moves, (who, FEE_PURSE, fee)]
        for source, target, amount in moves:
            self._post(source, target, amount)
        limit = deed.limits.get(who, self.line(who).limit)
        balance = self.purses.get(who, 0)
        if balance < -limit:
            for source, target, amount in reversed(moves):
                self._post(target, source, amount)
            raise BrokenRuleError(AuditRule.BALANCE, f"the balance falls to {balance}, the limit is {limit}")
        # The leader's income comes last: it cannot pay for its own entry with the fee it is about to earn.
        self._post(FEE_PURSE, self.page.leader, fee)
        self.fees += fee
        for account, changed in deed.limits.items():
            self.own_line(account).limit = changed
        if deed.then is not None:
            deed.then()

    def _post(self, source: bytes, target: bytes, amount: int) -> None:
        if amount:
            self.purses[source] = self.purses.get(source, 0) - amount
            self.purses[target] = self.purses.get(target, 0) + amount

    def delegate(self, pair: tuple[AccountId, AccountId], amount: int) -> None:
        """So much is what the first of the pair lends the second from now on."""
        self.delegations[pair] = amount
        self.sponsored.setdefault(pair[0], set()).add(pair[1])

    def end_delegation(self, pair: tuple[AccountId, AccountId]) -> None:
        """Nothing is lent any more."""
        del self.delegations[pair]
        self.sponsored[pair[0]].discard(pair[1])

    # Sums.

    def check_conservation(self) -> None:
        """Count everything anew. To be asked after any entry: `BrokenRuleError` if credit came or went."""
        for said, counted, what in (
            (0, sum(self.purses.values()), "all purses sum to"),
            (
                self.opened,
                self.paid + self.refunded + self.locked,
                "of what was locked, is paid, back or held:",
            ),
            (self.limits_sum, sum(line.limit for line in self.lines.values()), "the credit lines sum to"),
        ):
            if said != counted:
                raise BrokenRuleError(AuditRule.CONSERVATION, f"{what} {counted}, not {said}")
        held: dict[AccountId, int] = {}
        for lock_id, lock in self.locks.items():
            held[lock.payer] = held.get(lock.payer, 0) + 1
            if self.purses.get(lock_purse(lock_id), 0) != lock.amount:
                raise BrokenRuleError(
                    AuditRule.CONSERVATION, f"lock {lock_id.hex()} does not hold its amount"
                )
        for who, line in self.lines.items():
            if line.open_locks != held.get(who, 0) or self.purses.get(who, 0) < -line.limit:
                raise BrokenRuleError(
                    AuditRule.CONSERVATION, f"account {who.hex()} is overdrawn, or its locks are miscounted"
                )

    @property
    def locked(self) -> int:
        """Micro-credits in open locks."""
        return sum(lock.amount for lock in self.locks.values())

    def balances(self) -> dict[AccountId, int]:
        """The purses of accounts alone."""
        return {who: self.purses.get(who, 0) for who in self.accounts()}

    def accounts(self) -> list[AccountId]:
        """Every account that is known, in the order of its bytes."""
        holders = {AccountId(purse) for purse in self.purses if len(purse) == 32}
        return sorted(holders | set(self.lines))


_UNKNOWN: Final = Line()
