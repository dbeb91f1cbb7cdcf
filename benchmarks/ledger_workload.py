"""What the ledger's benchmarks work on: transfers between many accounts, in full blocks that a quorum made final."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Final

from ledger.core.block import BLOCK_ENTRIES_MAX, FinalBlock
from ledger.core.chain import Chain
from ledger.core.encoding import Kind, signing_bytes
from ledger.core.entries import Entry, Transfer, sign_entry
from ledger.core.genesis import Genesis
from ledger.core.keys import AccountId, SigningKey
from ledger.core.votes import Certificate, sign_vote

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["CREATED_MS", "LIMIT", "Workload", "chunks", "signed_pair", "unsigned_entries"]

CREATED_MS: Final = 1_700_000_000_000
NOT_AFTER_MS: Final = CREATED_MS + 24 * 3600 * 1000
LIMIT: Final = 10**9
_NO_SIGNATURE: Final = bytes(64)


class Workload:
    """A network of its own: keys, genesis, and the chain that grows as blocks are made."""

    def __init__(self, accounts: int, witnesses: int = 1) -> None:
        self.keys = [SigningKey(number.to_bytes(32, "big")) for number in range(1, accounts + 1)]
        self._witnesses = [SigningKey(b"\xff" * 28 + bytes(3) + bytes((n,))) for n in range(witnesses)]
        limits = tuple((key.account, LIMIT) for key in self.keys)
        self.genesis = Genesis("benchmark", CREATED_MS, tuple(k.account for k in self._witnesses), limits)
        self.chain = Chain(self.genesis)
        self._seq = [0] * accounts
        self._turn = 0

    def entries(self, count: int) -> Iterator[Entry]:
        """`count` signed transfers, the accounts in turn."""
        for _ in range(count):
            number = self._turn % len(self.keys)
            self._turn += 1
            self._seq[number] += 1
            payee = self.keys[(number + 1) % len(self.keys)]
            yield sign_entry(
                self.keys[number],
                self.genesis.network_id,
                seq=self._seq[number],
                not_after_ms=NOT_AFTER_MS,
                fee=0,
                action=Transfer(payee.account, 5),
            )

    def blocks(self, entries: Iterable[Entry]) -> Iterator[FinalBlock]:
        """The entries in full blocks, each made final by a quorum; nothing is verified on the way."""
        for part in chunks(entries, BLOCK_ENTRIES_MAX):
            yield self.block(part)

    def block(self, entries: list[Entry]) -> FinalBlock:
        """One final block of these entries, on top of the chain."""
        chain, committee = self.chain, self.chain.committee
        slot = chain.tip.slot + 1
        waiting = ((b"", entry) for entry in entries)
        candidate = chain.build(chain.tip.block_hash, slot, CREATED_MS + slot, waiting)
        assert candidate.block.header.count == len(entries), "an entry of the benchmark's own was refused"
        block_hash = candidate.tip.block_hash
        signers = self._witnesses[: committee.quorum]
        votes = [sign_vote(key, committee, Kind.FINAL, slot=slot, block_hash=block_hash) for key in signers]
        candidate.certificate = Certificate.from_votes(votes, committee)
        chain.add(candidate)
        (final,) = chain.finalise(block_hash)
        return final


def signed_pair(entry: Entry, genesis: Genesis) -> tuple[bytes, bytes]:
    """Key, and signature ‖ signed bytes: what libsodium alone is asked."""
    return entry.account, entry.signature + signing_bytes(Kind.ENTRY, genesis.network_id, entry.body())


def unsigned_entries(genesis: Genesis, accounts: int, count: int) -> Iterator[Entry]:
    """Entries that nobody signed, for what only stores and loads: founders pay everyone, then all pay in turn."""
    names = [_name(number) for number in range(accounts)]
    founders = [account for account, _ in genesis.limits]
    seq = dict.fromkeys([*founders, *names], 0)
    for number in range(count):
        payer = names[number % accounts] if number >= accounts else founders[number % len(founders)]
        payee = names[number % accounts if number < accounts else (number + 1) % accounts]
        seq[payer] += 1
        yield Entry(payer, seq[payer], NOT_AFTER_MS, 0, Transfer(payee, 1), _NO_SIGNATURE)


def chunks(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """The entries in lists of `size`; the last one may be shorter."""
    part: list[Entry] = []
    for entry in entries:
        part.append(entry)
        if len(part) == size:
            yield part
            part = []
    if part:
        yield part


def _name(number: int) -> AccountId:
    """Bytes that pass for a strict key: y is far below the prime, and of no small order."""
    return AccountId(hashlib.sha256(number.to_bytes(8, "big")).digest()[:31] + b"\x01")
