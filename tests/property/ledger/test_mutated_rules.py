"""Controls: the random traffic, of which `test_two_readings` makes so much, must notice any one rule misread.

Each mutant is the audit's books with one line changed, run beside the right books. Whatever the mutant is, some entry
must be judged otherwise or some state root differ; a mutant that lives is a rule that the traffic does not test.
"""

from __future__ import annotations

import importlib
import sys
import types
from contextlib import contextmanager
from functools import cache
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from ledger.core.book_snapshot import state_root
from ledger.core.books import Books
from ledger.core.keys import verify_bytes
from ledger.core.violations import BrokenRuleError
from tests.property.ledger.traffic import CREATED_MS, Traffic, network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.core.entries import Entry
    from ledger.core.genesis import Genesis

SEEDS_MAX = 400
BLOCKS = 40
MODULES = ("book_pages", "book_locks", "book_charter", "books", "book_snapshot")


class Mutant(NamedTuple):
    """In `module`, the line with `right` says `wrong` instead."""

    module: str
    right: str
    wrong: str


MUTANTS = {
    # Any entry.
    "sequence numbers may skip": Mutant("books", "entry.seq != used + 1", "entry.seq < used + 1"),
    "REKEYs share the account's sequence": Mutant(
        "books", "return 0 if line is None else line.rekeys", "return self.line(who).used"
    ),
    "too late is allowed by a millisecond": Mutant(
        "books", "page.time_ms <= entry.not_after_ms", "page.time_ms <= entry.not_after_ms + 1"
    ),
    "too late is refused a millisecond early": Mutant(
        "books", "page.time_ms <= entry.not_after_ms", "page.time_ms < entry.not_after_ms"
    ),
    "valid for longer than 30 days": Mutant(
        "books", "_VALID_SPAN_MS: Final = 30 * 86_400_000", "_VALID_SPAN_MS: Final = 30 * 86_400_000 + 1"
    ),
    "not valid for 30 days": Mutant(
        "books", "_VALID_SPAN_MS: Final = 30 * 86_400_000", "_VALID_SPAN_MS: Final = 30 * 86_400_000 - 1"
    ),
    "the least fee is not asked for": Mutant("books", "entry.fee < self.terms.fee_min and", "False and"),
    "recovery costs a fee": Mutant("books", "and not self._is_recovery(who, action)", ""),
    "every REKEY is free": Mutant(
        "books",
        "return type(action) is Rekey and line is not None and line.recovery != NO_ID",
        "return type(action) is Rekey",
    ),
    "the limit is exceeded by one": Mutant("books", "if balance < -limit:", "if balance < -limit - 1:"),
    "the limit is not reached": Mutant("books", "if balance < -limit:", "if balance <= -limit:"),
    "the leader pays with its own fee": Mutant(
        "books",
        "moves = [*deed.moves, (who, FEE_PURSE, fee)]",
        "moves = [*deed.moves, (who, FEE_PURSE, 0 if who == self.page.leader else fee)]",
    ),
    "the fee goes to another witness": Mutant(
        "books",
        "self.witnesses[slot % len(self.witnesses)]",
        "self.witnesses[(slot + 1) % len(self.witnesses)]",
    ),
    "entries go on after a rotation": Mutant("books", "if page.epoch != self.epoch:", "if False:"),
    "an account pays itself": Mutant("books", "if action.to == who:", "if False:"),
    "activity is not noted": Mutant(
        "books", "line.active_ms = page.time_ms", "line.active_ms = line.active_ms or page.time_ms"
    ),
    "a REKEY uses up a sequence number": Mutant("books", "if type(action) is not Rekey:", "if True:"),
    # Keys.
    "the first key signs for ever": Mutant("books", "return line.key", "return entry.account"),
    "the key signs in spite of a recovery key": Mutant(
        "books",
        "line.recovery != NO_ID:\n            return AccountId(line.recovery)",
        "False:\n            return AccountId(line.recovery)",
    ),
    "the recovery key signs everything": Mutant(
        "books", "if type(entry.action) is Rekey and line.recovery", "if line.recovery"
    ),
    "a recovery key may act at once": Mutant(
        "book_charter", "_RECOVERY_PAUSE_MS: Final = 3_600_000", "_RECOVERY_PAUSE_MS: Final = 0"
    ),
    "a recovery key waits a millisecond more": Mutant(
        "book_charter", "_RECOVERY_PAUSE_MS: Final = 3_600_000", "_RECOVERY_PAUSE_MS: Final = 3_600_001"
    ),
    "a recovery key waits a millisecond less": Mutant(
        "book_charter", "_RECOVERY_PAUSE_MS: Final = 3_600_000", "_RECOVERY_PAUSE_MS: Final = 3_599_999"
    ),
    "a new key need not agree": Mutant(
        "book_charter", "if not books.signed(action.new_key", "if False and not books.signed(action.new_key"
    ),
    "anybody registers keys": Mutant("book_charter", "if line is None and not (", "if False and not ("),
    "a recovery key is never replaced": Mutant(
        "book_charter",
        "KeyLine(action.new_key, action.recovery,",
        "KeyLine(action.new_key, line.recovery if line else action.recovery,",
    ),
    # Locks.
    "a lock may have expired": Mutant(
        "book_locks", "if not now < action.expiry_ms", "if not now <= action.expiry_ms"
    ),
    "a lock may last a millisecond more": Mutant(
        "book_locks", "_LOCK_SPAN_MS: Final = 31_622_400_000", "_LOCK_SPAN_MS: Final = 31_622_400_001"
    ),
    "a lock lasts a millisecond less": Mutant(
        "book_locks", "_LOCK_SPAN_MS: Final = 31_622_400_000", "_LOCK_SPAN_MS: Final = 31_622_399_999"
    ),
    "an account locks for itself": Mutant("book_locks", "if action.payee == who:", "if False:"),
    "expiry a millisecond early": Mutant(
        "book_locks", "if now < lock.deadline_ms:", "if now < lock.deadline_ms - 1:"
    ),
    "expiry a millisecond late": Mutant(
        "book_locks", "if now < lock.deadline_ms:", "if now <= lock.deadline_ms:"
    ),
    "claims at the deadline": Mutant(
        "book_locks", "if now >= lock.deadline_ms:", "if now > lock.deadline_ms:"
    ),
    "no claims just before it": Mutant(
        "book_locks", "if now >= lock.deadline_ms:", "if now >= lock.deadline_ms - 1:"
    ),
    "disputes do not move the deadline": Mutant(
        "book_pages",
        "return self.expiry_ms + self.dispute_ms if self.disputed else self.expiry_ms",
        "return self.expiry_ms",
    ),
    "the deadline moves without a dispute": Mutant(
        "book_pages",
        "return self.expiry_ms + self.dispute_ms if self.disputed else self.expiry_ms",
        "return self.expiry_ms + self.dispute_ms",
    ),
    "anybody claims": Mutant(
        "book_locks",
        "    if who != lock.payee:\n        raise BrokenRuleError(AuditRule.LOCK",
        "    if False:\n        raise BrokenRuleError(AuditRule.LOCK",
    ),
    "anybody releases": Mutant("book_locks", "if who != lock.payer:", "if False:"),
    "claims above the amount": Mutant(
        "book_locks", "if claim.cumulative > lock.amount:", "if claim.cumulative > lock.amount + 1:"
    ),
    "vouchers by the key of now": Mutant(
        "book_locks", "books.signed(lock.payer_key, claim", "books.signed(books.key_of(lock.payer), claim"
    ),
    "vouchers by the first key": Mutant(
        "book_locks", "books.signed(lock.payer_key, claim", "books.signed(lock.payer, claim"
    ),
    "vouchers by anybody": Mutant(
        "book_locks", "if not books.signed(lock.payer_key", "if False and not books.signed(lock.payer_key"
    ),
    "a release pays nothing": Mutant(
        "book_locks", "            paid = lock.amount\n", "            paid = 0\n"
    ),
    "the default is rounded up": Mutant(
        "book_locks",
        "lock.amount * lock.default_bps // _WHOLE_BPS",
        "-(-lock.amount * lock.default_bps // _WHOLE_BPS)",
    ),
    "the default is paid without a dispute": Mutant(
        "book_locks", "// _WHOLE_BPS if lock.disputed else 0", "// _WHOLE_BPS"
    ),
    "a disputed lock goes back whole": Mutant(
        "book_locks", "// _WHOLE_BPS if lock.disputed else 0", "// _WHOLE_BPS if False else 0"
    ),
    # Disputes and verdicts.
    "anybody disputes": Mutant(
        "book_locks",
        "if who != lock.payee:\n        raise BrokenRuleError(AuditRule.DISPUTE",
        "if False:\n        raise BrokenRuleError(AuditRule.DISPUTE",
    ),
    "disputed twice": Mutant("book_locks", "    if lock.disputed:\n", "    if False:\n"),
    "every lock may be disputed": Mutant("book_locks", "if not lock.dispute_ms:", "if False:"),
    "disputes at the expiry": Mutant("book_locks", "if now >= lock.expiry_ms:", "if now > lock.expiry_ms:"),
    "disputes cost no more": Mutant(
        "book_locks", "due = max(books.terms.fee_min, books.terms.dispute_fee)", "due = books.terms.fee_min"
    ),
    "disputes cost their own fee only": Mutant(
        "book_locks",
        "due = max(books.terms.fee_min, books.terms.dispute_fee)",
        "due = books.terms.fee_min + books.terms.dispute_fee",
    ),
    "verdicts without a dispute": Mutant("book_locks", "    if not lock.disputed:\n", "    if False:\n"),
    "verdicts of other arbiters": Mutant("book_locks", "if named != lock.arbiters_hash:", "if False:"),
    "verdicts above the amount": Mutant("book_locks", "if verdict.payee_amount > lock.amount:", "if False:"),
    "one arbiter is enough": Mutant(
        "book_locks", "verdict.arbiters, lock.arbiters_needed,", "verdict.arbiters, 1,"
    ),
    "all arbiters must agree": Mutant(
        "book_locks", "verdict.arbiters, lock.arbiters_needed,", "verdict.arbiters, len(verdict.arbiters),"
    ),
    "arbiters sign with their first key": Mutant(
        "books",
        "self.signed(self.key_of(who), signature, kind, body)",
        "self.signed(who, signature, kind, body)",
    ),
    "a wrong approval among enough": Mutant(
        "books",
        "zip(chosen, approvals.signatures, strict=True):",
        "list(zip(chosen, approvals.signatures))[:needed]:",
    ),
    # Credit lines.
    "a delegation is not debited": Mutant(
        "book_charter", "Deed(limits={sponsor: own, beneficiary: other}", "Deed(limits={beneficiary: other}"
    ),
    "a delegation is not credited": Mutant(
        "book_charter", "Deed(limits={sponsor: own, beneficiary: other}", "Deed(limits={sponsor: own}"
    ),
    "a line may fall below zero": Mutant("book_charter", "    if own < 0:\n", "    if False:\n"),
    "more is taken back than was given": Mutant("book_charter", "    if lent < 0:\n", "    if lent < -1:\n"),
    "what is in use is taken back": Mutant(
        "book_charter", "(delta < 0 and books.purses.get(beneficiary, 0) < -other)", "False"
    ),
    "an account delegates to itself": Mutant("book_charter", "if action.beneficiary == who:", "if False:"),
    "a delegation given back leaves a line": Mutant(
        "book_charter", "        if lent:\n", "        if True:\n"
    ),
    "governors cut what is in use": Mutant(
        "book_charter", "if books.purses.get(action.beneficiary, 0) < -line:", "if False:"
    ),
    "governors cut below zero": Mutant("book_charter", "    if line < 0:\n", "    if False:\n"),
    "governors create lines without end": Mutant(
        "book_charter", "if books.limits_sum + action.delta > _LIMITS_SUM_MAX:", "if False:"
    ),
    # Decrees.
    "decrees are repeated": Mutant(
        "book_charter", "if number != books.decrees + 1:", "if number > books.decrees + 1:"
    ),
    "decrees may skip": Mutant(
        "book_charter", "if number != books.decrees + 1:", "if number < books.decrees + 1:"
    ),
    "one governor is enough": Mutant(
        "book_charter", "genesis.governors_needed, Kind.DECREE", "1, Kind.DECREE"
    ),
    "all governors are needed": Mutant(
        "book_charter", "genesis.governors_needed, Kind.DECREE", "len(genesis.governors), Kind.DECREE"
    ),
    "nobody needs to decree": Mutant("book_charter", "if not genesis.governors_needed:", "if False:"),
    "a decree is not counted": Mutant(
        "book_charter",
        "        books.witnesses = action.witnesses\n        books.decrees += 1",
        "        books.witnesses = action.witnesses",
    ),
    "parameters at once": Mutant(
        "book_charter", "if not height < action.from_height", "if not height <= action.from_height"
    ),
    "parameters ever so late": Mutant(
        "book_charter", "_FROM_HEIGHT_SPAN: Final = 1_000_000", "_FROM_HEIGHT_SPAN: Final = 1_000_001"
    ),
    "parameters one block late": Mutant(
        "books", "page.height + 1 >= self.pending[0]", "page.height >= self.pending[0]"
    ),
    "the first decree stays": Mutant(
        "book_charter",
        "books.pending = (action.from_height, terms)",
        "books.pending = books.pending or (action.from_height, terms)",
    ),
    # Forgetting.
    "accounts are forgotten a millisecond early": Mutant(
        "books", "line.active_ms + _IDLE_MS < page.time_ms", "line.active_ms + _IDLE_MS <= page.time_ms"
    ),
    "accounts are never forgotten": Mutant("books", "line.active_ms + _IDLE_MS < page.time_ms", "False"),
    "payers of open locks are forgotten": Mutant("books", "            and not line.open_locks\n", ""),
    "keys are forgotten": Mutant("books", "            and who not in self.keys\n", ""),
    "accounts are forgotten at any height": Mutant(
        "books", "if page.height % _PRUNING_INTERVAL:", "if False:"
    ),
}
SURVIVORS: dict[str, str] = {}
"""Mutants that no traffic can tell, with the reason."""


@contextmanager
def mutated(mutant: Mutant) -> Iterator[types.ModuleType]:
    """The `books` module as it would be with one line wrong."""
    right = {name: importlib.import_module(f"ledger.core.{name}") for name in MODULES}
    try:
        for name in MODULES:
            module = types.ModuleType(f"ledger.core.{name}")
            assert right[name].__file__ is not None
            with open(right[name].__file__) as file:  # noqa: PTH123
                source = file.read()
            if name == mutant.module:
                assert source.count(mutant.right) == 1, (
                    f"{mutant.right!r} stands {source.count(mutant.right)} times"
                )
                source = source.replace(mutant.right, mutant.wrong)
            sys.modules[module.__name__] = module
            exec(compile(source, f"<mutated {name}>", "exec"), module.__dict__)  # noqa: S102
        yield sys.modules["ledger.core.books"]
    finally:
        for name, module in right.items():
            sys.modules[f"ledger.core.{name}"] = module


class Page(NamedTuple):
    """One block of a tape: what the right books made of it."""

    height: int
    time_ms: int
    epoch: int
    slot: int
    entries: tuple[tuple[Entry, bool], ...]
    root: bytes


@cache
def tape(seed: int) -> tuple[Genesis, tuple[Page, ...]]:
    """Traffic as the right books judged it; every mutant hears the same."""
    random = Random(seed)
    genesis = network(fee_min=seed % 2, dispute_fee=3 * (seed % 3 == 0), governed=seed % 7 != 0)
    books = Books(genesis, known)
    traffic = Traffic(random, books)
    height, time_ms, pages = 0, CREATED_MS, []
    for _ in range(BLOCKS):
        height, time_ms = traffic.next_height(height), traffic.next_time(time_ms)
        epoch, slot = books.epoch, height + random.randrange(3)
        books.open_page(height, time_ms, epoch, slot)
        judged = []
        for _ in range(random.randrange(6)):
            entry = traffic.entry()
            accepted = accepts(books, entry)
            judged.append((entry, accepted))
            if accepted:
                traffic.note(entry)
        books.close_page()
        pages.append(Page(height, time_ms, epoch, slot, tuple(judged), state_root(books)))
    return genesis, tuple(pages)


known = cache(verify_bytes)
"""A signature holds or not whoever asks: each of a tape is verified once."""


def differs(module: Any, seed: int) -> bool:
    """Whether the mutated `books` module ever disagrees with the tape."""
    genesis, pages = tape(seed)
    books = module.Books(genesis, known)
    for page in pages:
        books.open_page(page.height, page.time_ms, page.epoch, page.slot)
        if any(accepts(books, entry) is not accepted for entry, accepted in page.entries):
            return True
        books.close_page()
        if module_root(books) != page.root:
            return True
    return False


def module_root(books: Any) -> bytes:
    root: bytes = sys.modules["ledger.core.book_snapshot"].state_root(books)
    return root


def accepts(books: Any, entry: Entry) -> bool:
    try:
        books.entry(entry)
    except BrokenRuleError:
        return False
    return True


@pytest.mark.parametrize("name", MUTANTS)
def test_a_misread_rule_is_noticed(name: str) -> None:
    with mutated(MUTANTS[name]) as books:
        found = any(differs(books, seed) for seed in range(SEEDS_MAX))
    assert found is (name not in SURVIVORS)


def test_the_right_books_agree_with_themselves() -> None:
    with mutated(Mutant("books", "# Sums.", "# Sums!")) as books:
        assert not any(differs(books, seed) for seed in range(5))
