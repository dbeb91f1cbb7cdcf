"""Random traffic of every entry type, judged by the state and by the audit's books: two readings of SPEC.md §4.

They share no code, and must agree: on who must sign, on every entry taken or refused, on the state root after every
block. `test_mutated_rules` is the control: it says that this traffic notices any one rule misread.
"""

from __future__ import annotations

from collections import Counter
from random import Random
from typing import TYPE_CHECKING

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.book_snapshot import read_snapshot, snapshot, state_root
from ledger.core.books import Books
from ledger.core.entries import EntryType, verify_entry
from ledger.core.state import Effect, LedgerState, Moment
from ledger.core.violations import AuditRule, BrokenRuleError
from tests.property.ledger.traffic import CREATED_MS, KEYS, Traffic, network

if TYPE_CHECKING:
    from ledger.core.entries import Entry

BLOCKS = 40


class Comparison:
    """One run: `step` plays a block and asserts that both readings end in the same state."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)
        self.genesis = network(fee_min=seed % 2, dispute_fee=3 * (seed % 3 == 0), governed=seed % 7 != 0)
        self.books, self.state = Books(self.genesis), LedgerState(self.genesis)
        self.traffic = Traffic(self.random, self.books)
        self.height, self.time_ms = 0, CREATED_MS
        self.applied: Counter[str] = Counter()
        self.refused: Counter[tuple[str, str]] = Counter()

    def step(self) -> None:
        """A block of up to five entries; now and then both go on from a snapshot of what they have."""
        height = self.traffic.next_height(self.height)
        if height > self.height + 1:
            self.block(height - 1, entries=0)  # the blocks between had no entries
        self.time_ms = self.traffic.next_time(self.time_ms)
        self.block(height, self.random.randrange(6))
        if self.random.random() < 0.1:
            self.begin_anew()

    def block(self, height: int, entries: int) -> None:
        """One block, by both."""
        self.height = height
        committee = self.state.committee
        assert (committee.epoch, committee.witnesses) == (self.books.epoch, self.books.witnesses)
        slot = self.height + self.random.randrange(3)
        at = Moment(self.height, self.time_ms, committee.leader(slot), committee.epoch)
        self.books.open_page(self.height, self.time_ms, committee.epoch, slot)
        for _ in range(entries):
            self.judge(self.traffic.entry(), at)
        self.books.close_page()
        self.state.close_block(at)
        self.books.check_conservation()
        self.state.assert_invariants()
        assert snapshot(self.books) == self.state.snapshot()
        assert state_root(self.books) == self.state.root()

    def judge(self, entry: Entry, at: Moment) -> None:
        """One entry, by both."""
        name, network_id = entry.action.TYPE.name, self.genesis.network_id
        assert self.state.signer(entry) == self.books.signer(entry)
        signed = verify_entry(entry, network_id, self.state.signer(entry))
        checked = self.state.check(entry, at)
        outcome = self.state.apply(entry, at) if signed else None
        accepted = isinstance(outcome, Effect)
        assert (checked is None) is accepted or not signed
        broken = self.refusal(entry)
        assert accepted is (broken is None), f"books: {broken}; state: {outcome}; {entry}"
        if broken is not None:
            self.refused[name, broken.rule] += 1
        else:
            self.applied[name] += 1
            self.traffic.note(entry)

    def refusal(self, entry: Entry) -> BrokenRuleError | None:
        """What the books say against it."""
        try:
            self.books.entry(entry)
        except BrokenRuleError as broken:
            return broken
        return None

    def begin_anew(self) -> None:
        """From what a snapshot says alone: a node that joined now must go on as one that was always there."""
        data = snapshot(self.books)
        books = Books(self.genesis)
        read_snapshot(books, data)
        self.books = self.traffic.books = books
        self.state = LedgerState.from_snapshot(self.genesis, data)


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_two_readings_agree(seed: int) -> None:
    comparison = Comparison(seed)
    for _ in range(BLOCKS):
        comparison.step()
    for account in KEYS:
        assert comparison.state.account(account).balance == comparison.books.purses.get(account, 0)
        assert comparison.state.key_of(account) == comparison.books.key_of(account)


def test_the_traffic_has_some_of_everything() -> None:
    applied: Counter[str] = Counter()
    rules: Counter[str] = Counter()
    for seed in range(100):
        comparison = Comparison(seed)
        for _ in range(BLOCKS):
            comparison.step()
        applied += comparison.applied
        for (_, rule), count in comparison.refused.items():
            rules[rule] += count
    assert min(applied[kind.name] for kind in EntryType) >= 5, applied
    of_blocks = (
        "encoding version chain time certificate quorum closing finality log state_root conservation base"
    )
    assert min(rules[rule] for rule in AuditRule if rule not in of_blocks.split()) >= 2, rules
