"""Ledgers that break any rule: blocks with real certificates of a real quorum, and nothing else checked.

What more than f lying witnesses could make final. The forge keeps books of its own, for sequence numbers and state
roots only: an entry that they refuse is put in the block all the same.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from ledger.core.actions import Limit, Lock, Param, Rekey, Rotate, Verdict, sign_decree
from ledger.core.approvals import NO_APPROVALS, Approvals, arbiters_hash, sign_rekey, sign_verdict
from ledger.core.block import NO_BLOCK, NO_ROOT, STATE_ROOT_INTERVAL, Closing, FinalBlock, Header
from ledger.core.book_snapshot import state_root
from ledger.core.books import Books
from ledger.core.committee import Committee
from ledger.core.encoding import Kind
from ledger.core.entries import Entry, sign_entry
from ledger.core.genesis import Genesis
from ledger.core.keys import AccountId, SigningKey
from ledger.core.merkle import Peaks
from ledger.core.violations import BrokenRuleError
from ledger.core.votes import Certificate, sign_vote

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ledger.core.actions import Action
    from ledger.core.params import Params

CREATED_MS: Final = 1_700_000_000_000
HOUR_MS: Final = 3_600_000
LIMIT: Final = 1_000_000
NO_KEY: Final = AccountId(bytes(32))


def key(number: int) -> SigningKey:
    return SigningKey(number.to_bytes(32, "big"))


WITNESSES: Final = [key(n) for n in range(1, 5)]
SECOND: Final = [key(n) for n in range(11, 18)]
"""The committee of the next epoch: seven others."""
ALICE, BOB, CAROL, DAVE, EVE = (key(n) for n in range(101, 106))
NEW, RECOVERY, OTHER = (key(n) for n in range(201, 204))
GOVERNORS: Final = sorted((key(n) for n in range(301, 304)), key=lambda one: one.account)
ARBITERS: Final = sorted((key(n) for n in range(401, 404)), key=lambda one: one.account)


def genesis(**changes: Any) -> Genesis:
    fields: dict[str, Any] = {
        "name": "forged",
        "created_ms": CREATED_MS,
        "witnesses": tuple(one.account for one in WITNESSES),
        "limits": ((ALICE.account, LIMIT), (BOB.account, LIMIT), (DAVE.account, LIMIT)),
        "fee_min": 1,
        "dispute_fee": 5,
        "governors": tuple(one.account for one in GOVERNORS),
        "governors_needed": 2,
    }
    return Genesis(**(fields | changes))


class AuditForge:
    def __init__(self, network: Genesis | None = None) -> None:
        self.genesis = genesis() if network is None else network
        self.books = Books(self.genesis)
        self.blocks: list[FinalBlock] = []
        self.peaks = Peaks()
        self.time_ms = CREATED_MS
        self.witnesses: Sequence[SigningKey] = WITNESSES

    @property
    def last(self) -> Header | None:
        return self.blocks[-1].header if self.blocks else None

    # Entries.

    def sign(
        self,
        who: SigningKey,
        action: Action,
        *,
        signer: SigningKey | None = None,
        seq: int | None = None,
        fee: int = 1,
        not_after_ms: int | None = None,
    ) -> Entry:
        """The account's next entry, unless told otherwise; `signer` is its own first key."""
        if seq is None:
            line = self.books.keys.get(who.account)
            rekeys = 0 if line is None else line.rekeys
            seq = (rekeys if isinstance(action, Rekey) else self.books.line(who.account).used) + 1
        return sign_entry(
            who if signer is None else signer,
            self.genesis.network_id,
            seq=seq,
            not_after_ms=self.time_ms + HOUR_MS if not_after_ms is None else not_after_ms,
            fee=fee,
            action=action,
            account=who.account,
        )

    def entry_id(self, entry: Entry) -> bytes:
        return entry.entry_id(self.genesis.network_id)

    def lock(self, payee: SigningKey, amount: int, *, span_ms: int = HOUR_MS, disputes: bool = False) -> Lock:
        expiry_ms = self.time_ms + span_ms
        if not disputes:
            return Lock(payee.account, amount, expiry_ms)
        named = arbiters_hash([one.account for one in ARBITERS])
        return Lock(payee.account, amount, expiry_ms, bytes(32), HOUR_MS, named, 2, 3_333)

    def verdict(
        self,
        lock_id: bytes,
        amount: int,
        by: Iterable[int] = (0, 2),
        *,
        listed: Sequence[SigningKey] = ARBITERS,
        signed_amount: int | None = None,
    ) -> Verdict:
        """Arbiters number `by` of `listed` award `amount`."""
        accounts = [one.account for one in listed]
        said = amount if signed_amount is None else signed_amount
        signatures = {
            listed[at].account: sign_verdict(listed[at], self.genesis.network_id, lock_id, said) for at in by
        }
        return Verdict(lock_id, amount, tuple(accounts), Approvals.collect(accounts, signatures))

    def limit(
        self, who: SigningKey, delta: int, *, by: Iterable[int] = (0, 1), decree: int | None = None
    ) -> Limit:
        number = self.books.decrees + 1 if decree is None else decree
        return Limit(who.account, delta, number, self.approvals(Limit(who.account, delta, number), by))

    def rotate(self, witnesses: Sequence[SigningKey], *, by: Iterable[int] = (0, 1)) -> Rotate:
        chosen = tuple(one.account for one in witnesses)
        bare = Rotate(self.books.decrees + 1, chosen, NO_APPROVALS)
        return Rotate(bare.decree, chosen, self.approvals(bare, by))

    def param(self, from_height: int, params: Params, *, by: Iterable[int] = (0, 1)) -> Param:
        bare = Param(self.books.decrees + 1, from_height, params, NO_APPROVALS)
        return Param(bare.decree, from_height, params, self.approvals(bare, by))

    def approvals(self, decree: Limit | Rotate | Param, by: Iterable[int]) -> Approvals:
        network_id = self.genesis.network_id
        signed = {GOVERNORS[at].account: sign_decree(GOVERNORS[at], network_id, decree) for at in by}
        return Approvals.collect(self.genesis.governors, signed)

    def rekey(
        self,
        who: SigningKey,
        new: SigningKey,
        recovery: bytes = NO_KEY,
        *,
        seq: int = 1,
        prover: SigningKey | None = None,
    ) -> Rekey:
        proof = sign_rekey(new, self.genesis.network_id, who.account, seq, recovery)
        if prover is not None:
            proof = prover.sign(Kind.REKEY, self.genesis.network_id, b"something else")
        return Rekey(new.account, AccountId(recovery), proof)

    # Blocks.

    def block(
        self,
        entries: Iterable[Entry] = (),
        *,
        kind: Kind = Kind.FINAL,
        signers: Sequence[SigningKey] | None = None,
        skipped: int = 0,
        wait_ms: int = 1000,
        **changes: Any,
    ) -> FinalBlock:
        """Append a block; `changes` replace header fields."""
        chosen, last = tuple(entries), self.last
        self.time_ms = changes.get("time_ms", self.time_ms + wait_ms)
        slot = changes.get("slot", (last.slot if last else 0) + 1 + skipped)
        height = changes.get("height", last.height + 1 if last else 1)
        epoch, committee = changes.get("epoch", self.books.epoch), self.witnesses
        with contextlib.suppress(BrokenRuleError):
            self.books.open_page(height, self.time_ms, epoch, slot)
        for entry in chosen:
            with contextlib.suppress(BrokenRuleError):
                self.books.entry(entry)
        self.books.close_page()
        self.peaks = self.peaks.extend(entry.encode() for entry in chosen)
        fields: dict[str, Any] = {
            "epoch": epoch,
            "slot": slot,
            "height": height,
            "parent_slot": last.slot if last else 0,
            "parent_hash": last.hash(self.genesis.network_id) if last else NO_BLOCK,
            "time_ms": self.time_ms,
            "tree_size": self.peaks.size,
            "log_root": self.peaks.root(),
            "state_root": NO_ROOT if height % STATE_ROOT_INTERVAL else state_root(self.books),
            "count": len(chosen),
        }
        header = Header(**(fields | changes))
        closing = (
            self.closing(header, committee) if self.books.epoch != epoch and kind is Kind.NOTAR else None
        )
        block = FinalBlock(header, chosen, self.certify(header, kind, committee, signers), closing)
        self.blocks.append(block)
        if self.books.epoch != epoch:
            known = {one.account: one for one in (*WITNESSES, *SECOND)}
            self.witnesses = [known[account] for account in self.books.witnesses]
        return block

    def closing(self, closed: Header, committee: Sequence[SigningKey], **changes: Any) -> Closing:
        """Two void blocks that make `closed` final, the first a skipped slot later; `changes` are to the first."""
        headers: list[Header] = []
        below = closed
        for number in range(2):
            fields: dict[str, Any] = {
                "slot": below.slot + 2 - number,
                "height": below.height + 1,
                "parent_slot": below.slot,
                "parent_hash": below.hash(self.genesis.network_id),
                "count": 0,
                "state_root": NO_ROOT,
            }
            below = replace(below, **(fields | ({} if number else changes)))
            headers.append(below)
        return Closing(tuple(headers), self.certify(below, Kind.FINAL, committee))

    def certify(
        self,
        header: Header,
        kind: Kind,
        committee: Sequence[SigningKey],
        signers: Sequence[SigningKey] | None = None,
    ) -> Certificate:
        """A certificate by `signers`; a quorum of the committee unless told."""
        block_hash = header.hash(self.genesis.network_id)
        accounts = tuple(one.account for one in committee)
        voters = Committee(self.genesis.network_id, header.epoch, accounts)
        chosen = committee[: voters.quorum] if signers is None else signers
        votes = {
            one.account: sign_vote(one, voters, kind, slot=header.slot, block_hash=block_hash).signature
            for one in chosen
        }
        bits = sum(1 << place for place, account in enumerate(accounts) if account in votes)
        signatures = tuple(votes[account] for account in accounts if account in votes)
        return Certificate(kind, header.epoch, header.slot, block_hash, bits, signatures)
