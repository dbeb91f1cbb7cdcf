"""Random entries against the state, and the state against the audit: two readings of SPEC.md §4 must agree.

Nothing here says which entries are valid. Whatever the state applies is put in blocks, and the audit, which
shares no code with it, must find nothing to object to and hold the same credit; whatever the state refuses,
put in a block all the same, the audit must find.
"""

from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.audit import audit
from ledger.core.entries import Action, Claim, Entry, Expire, Lock, Transfer
from ledger.core.keys import SigningKey
from ledger.core.state import Effect, LedgerState, Moment, Reason, Refusal
from tests.core.ledger.ledger_forge import ALICE, BOB, CAROL, DAVE, FOREVER_MS, WITNESSES, Forge, genesis

PEOPLE = [ALICE, BOB, CAROL, DAVE, WITNESSES[0]]
STEPS = 40


@dataclass
class Traffic:
    """Entries that are mostly plausible: some overdraw, repeat, come late, or claim what is not theirs."""

    random: Random
    forge: Forge
    state: LedgerState = field(init=False)
    locks: list[tuple[bytes, SigningKey, SigningKey]] = field(default_factory=list)
    applied: list[Entry] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.state = LedgerState(self.forge.genesis)

    def next_entry(self, time_ms: int) -> Entry:
        roll = self.random.random()
        if self.applied and roll < 0.05:
            return self.random.choice(self.applied)
        signer = self.random.choice(PEOPLE)
        action: Action
        if roll < 0.35 or not self.locks or (roll < 0.95 and not self.state.open_locks()):
            action = self._opening(signer, time_ms)
        else:
            signer, action = self._closing(signer)
        seq = self.state.account(signer.account).seq + self.random.choice((1,) * 18 + (0, 2))
        not_after_ms = self.random.choice((FOREVER_MS,) * 18 + (time_ms, time_ms - 1))
        fee = self.random.choice((0, 1, 1, 1, 1, 2, 50))
        return self.forge.sign(signer, action, seq=max(seq, 1), fee=fee, not_after_ms=not_after_ms)

    def _amount(self) -> int:
        return self.random.choice((1, 10, 100, 400, 5000, 5001))

    def _opening(self, signer: SigningKey, time_ms: int) -> Action:
        other = self.random.choice([p for p in PEOPLE if p is not signer] * 4 + [signer])
        if self.random.random() < 0.5:
            return Transfer(other.account, self._amount())
        return Lock(other.account, self._amount(), time_ms + self.random.choice((0, 1, 2, 30, 30, 30, 200)))

    def _closing(self, signer: SigningKey) -> tuple[SigningKey, Action]:
        still_open = {lock.lock_id for lock in self.state.open_locks()}
        live = [lock for lock in self.locks if lock[0] in still_open]
        lock_id, payer, payee = self.random.choice(live * 10 + self.locks)
        if self.random.random() < 0.3:
            return signer, Expire(lock_id)
        voucher_by = self.random.choice((payer, payer, payer, payee))
        cumulative = self.random.choice((0, 1, 10, 100, 5001))
        action = self.forge.claim(voucher_by, lock_id, cumulative) if cumulative else Claim(lock_id, 0)
        return self.random.choice((payee, payee, payee, signer)), action

    def note(self, entry: Entry) -> None:
        self.applied.append(entry)
        if isinstance(entry.action, Lock):
            payer = next(k for k in PEOPLE if k.account == entry.account)
            payee = next(k for k in PEOPLE if k.account == entry.action.payee)
            self.locks.append((self.forge.entry_id(entry), payer, payee))


def new_traffic(seed: int) -> Traffic:
    network = genesis(4, limits=tuple((person.account, 5000) for person in PEOPLE[:3]), fee_min=seed % 2)
    return Traffic(Random(seed), Forge(network))


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_state_and_audit_agree_on_every_entry(seed: int) -> None:
    traffic = new_traffic(seed)
    forge, state, random = traffic.forge, traffic.state, traffic.random
    refused: list[tuple[Entry, int]] = []
    height = 0
    while height < STEPS:
        height += 1
        time_ms = forge.time_ms + random.choice((0, 1, 5))
        at = forge.moment(time_ms, height)
        accepted: list[Entry] = []
        for _ in range(random.randrange(6)):
            entry = traffic.next_entry(time_ms)
            before = state.snapshot()
            result = state.apply(entry, at)
            if isinstance(result, Effect):
                assert sum(move for _, move in result.moves) == lock_change(entry, result)
                accepted.append(entry)
                traffic.note(entry)
            else:
                assert state.snapshot() == before
                refused.append((entry, height))
                assert (result.reason is Reason.REPEAT) <= (entry in traffic.applied)
            state.assert_invariants()
        forge.block(accepted, time_ms=time_ms)
    report = audit(forge.genesis, forge.blocks)
    assert report.ok, report.violation
    held = {who: account.balance for who, account in state.accounts() if account.balance}
    assert {who: balance for who, balance in report.balances.items() if balance} == held
    assert report.locked == state.totals().locked == sum(lock.amount for lock in state.open_locks())
    assert forge.state.root() == state.root()
    assert_audit_finds(forge, refused)


def lock_change(entry: Entry, effect: Effect) -> int:
    """What accounts gain together is what locks lose."""
    if effect.lock is None:
        return 0
    return -effect.lock.amount if isinstance(entry.action, Lock) else effect.lock.amount


def assert_audit_finds(forge: Forge, refused: list[tuple[Entry, int]]) -> None:
    """Refused entries, at the end of the chain and in its time: refused again, by both."""
    state, time_ms = forge.state.branch(), forge.time_ms
    slot = len(forge.blocks) + 1
    for entry, _ in refused[:3]:
        branch = state.branch()
        verdict = branch.apply(entry, forge.moment(time_ms, slot))
        trial = Forge(forge.genesis)
        for block in forge.blocks:
            trial.block(block.entries, time_ms=block.header.time_ms)
        trial.block([entry], time_ms=time_ms)
        report = audit(forge.genesis, trial.blocks)
        assert report.ok is not isinstance(verdict, Refusal), (verdict, report.violation)


@given(st.integers(0, 2**32))
@settings(max_examples=25, deadline=None)
def test_branches_end_where_a_straight_run_ends(seed: int) -> None:
    """Blocks tried on branches, some thrown away, adopted in order: the same state as without branches."""
    traffic = new_traffic(seed)
    forge, straight, random = traffic.forge, traffic.state, traffic.random
    base = LedgerState(forge.genesis)
    pending: list[LedgerState] = []
    for height in range(1, STEPS):
        time_ms = forge.time_ms + height
        tip = pending[-1] if pending else base
        branch, dropped = tip.branch(), tip.branch()
        for _ in range(random.randrange(3)):
            entry = traffic.next_entry(time_ms)
            dropped.apply(entry, Moment(height, time_ms, CAROL.account))
            at = Moment(height, time_ms, BOB.account)
            result = branch.apply(entry, at)
            assert result == straight.apply(entry, at)
            if isinstance(result, Effect):
                traffic.note(entry)
        pending.append(branch)
        for _ in range(random.randrange(3)):
            if pending:
                base.adopt(pending.pop(0))
        assert (pending[-1] if pending else base).snapshot() == straight.snapshot()
    for branch in pending:
        base.adopt(branch)
    assert base.snapshot() == straight.snapshot()
    base.assert_invariants()
