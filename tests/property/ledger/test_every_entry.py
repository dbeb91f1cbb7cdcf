"""Random entries of every type: invariants hold, refusals move nothing, a snapshot has the same future, books agree."""

from collections import Counter
from dataclasses import dataclass, field
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.book_snapshot import state_root as books_root
from ledger.core.books import Books, BrokenRuleError
from ledger.core.encoding import WireError
from ledger.core.entries import (
    NO_APPROVALS,
    NO_KEY,
    Action,
    Approvals,
    Claim,
    Dispute,
    Entry,
    Expire,
    Limit,
    Lock,
    Param,
    Rekey,
    Release,
    Rotate,
    Transfer,
    Verdict,
    arbiters_hash,
    sign_decree,
    sign_entry,
    sign_rekey,
    sign_verdict,
    sign_voucher,
)
from ledger.core.holdings import ACTIVE_SPAN_MS
from ledger.core.keys import AccountId, SigningKey
from ledger.core.params import Params
from ledger.core.state import Effect, InvariantError, LedgerState, LockState, LockStatus, Moment
from tests.core.ledger.ledger_forge import ALICE, BOB, CAROL, CREATED_MS, DAVE, WITNESSES, genesis, key

PEOPLE = [ALICE, BOB, CAROL, DAVE, WITNESSES[0]]
SPARE = [key(number) for number in range(501, 507)]
KEYS = {k.account: k for k in (*PEOPLE, *SPARE)}
GENESIS = genesis(
    limits=((ALICE.account, 3000), (BOB.account, 2000)),
    governors=(CAROL.account, DAVE.account),
    governors_needed=1,
    dispute_fee=2,
)
NETWORK = GENESIS.network_id
STEPS = 250


@dataclass
class World:
    random: Random
    state: LedgerState = field(default_factory=lambda: LedgerState(GENESIS))
    height: int = 1
    time_ms: int = CREATED_MS
    seen: Counter[str] = field(default_factory=Counter)

    def moment(self) -> Moment:
        committee = self.state.committee
        return Moment(self.height, self.time_ms, committee.leader(self.height), committee.epoch)

    def next_block(self) -> None:
        self.state.close_block(self.moment())
        self.height = self.random.choice((self.height + 1,) * 9 + (self.height // 1000 * 1000 + 1000,))
        span = self.random.choice((1, 40, 900) * 4 + (4_000_000, ACTIVE_SPAN_MS + 1))
        self.time_ms += span

    def entry(self) -> Entry:
        random, who = self.random, self.random.choice(PEOPLE)
        action, seq = self.action(who), self.state.account(who.account).seq + 1
        if isinstance(action, Rekey):
            line = self.state.key_line(who.account)
            seq = (line.rekeys if line else 0) + 1
        seq = max(1, seq + random.choice((0,) * 20 + (1, -1)))
        fee = random.choice((0, 2, 2, 3))
        return sign_entry(who, NETWORK, seq=seq, not_after_ms=self.time_ms + 10_000, fee=fee, action=action)

    def action(self, who: SigningKey) -> Action:
        random = self.random
        kind = random.randrange(14)
        other = random.choice(PEOPLE).account
        if kind < 3:
            return Transfer(other, random.choice((1, 7, 60, 250)))
        if kind < 5:
            return self.lock(other)
        if kind < 9:
            return self.step()
        if kind < 11:
            return Limit(other, random.choice((1, 50, 200, -1, -50, -200)))
        if kind == 11:
            return self.rekey(who)
        return self.decree(other)

    def lock(self, payee: AccountId) -> Lock:
        random = self.random
        expiry_ms, amount = self.time_ms + random.choice((0, 50, 5_000_000)), random.choice((1, 30, 150))
        if random.randrange(3) == 0:
            return Lock(payee, amount, expiry_ms)
        named, bps = arbiters_hash([k.account for k in PEOPLE[:3]]), random.choice((0, 3_333, 10_000))
        return Lock(payee, amount, expiry_ms, bytes(32), random.choice((1, 5_000_000)), named, 2, bps)

    def step(self) -> Action:
        random, locks = self.random, self.state.open_locks()
        if not locks:
            return Expire(bytes(32))
        lock: LockState = random.choice(locks)
        share = random.randrange(lock.amount + 1)
        kind = random.randrange(6)
        if kind == 0 and share:
            voucher = sign_voucher(KEYS[lock.payer_key], NETWORK, lock.lock_id, share)
            return Claim(lock.lock_id, share, voucher.signature)
        if kind == 1 or (kind < 4 and lock.status is LockStatus.DISPUTED):
            return Verdict(lock.lock_id, share, *self.arbiters(lock.lock_id, share))
        if kind < 4:
            return Dispute(lock.lock_id)
        return random.choice((Expire(lock.lock_id), Release(lock.lock_id), Claim(lock.lock_id, 0)))

    def arbiters(self, lock_id: bytes, share: int) -> tuple[tuple[AccountId, ...], Approvals]:
        listed = tuple(sorted(k.account for k in PEOPLE[:3]))
        chosen = self.random.sample(listed, 2)
        signed = {a: sign_verdict(self.key_of(a), NETWORK, lock_id, share) for a in chosen}
        return listed, Approvals.collect(listed, signed)

    def rekey(self, who: SigningKey) -> Rekey:
        new = self.random.choice([who, *SPARE])
        recovery = self.random.choice((NO_KEY, SPARE[0].account))
        line = self.state.key_line(who.account)
        proof = sign_rekey(new, NETWORK, who.account, (line.rekeys if line else 0) + 1, recovery)
        return Rekey(new.account, recovery, proof)

    def decree(self, other: AccountId) -> Limit | Param | Rotate:
        random, number = self.random, self.state.decrees + 1
        bare: Limit | Param | Rotate = Limit(other, random.choice((-100, -1, 1, 100)), number)
        if random.randrange(4) == 0:
            bare = Rotate(number, (WITNESSES[random.randrange(4)].account,), NO_APPROVALS)
        elif random.randrange(3) == 0:
            bare = Param(
                number,
                self.height + random.randrange(4),
                Params(fee_min=random.choice((0, 0, 0, 2))),
                NO_APPROVALS,
            )
        governor = random.choice(GENESIS.governors)
        signed = {governor: sign_decree(self.key_of(governor), NETWORK, bare)}
        approvals = Approvals.collect(GENESIS.governors, signed)
        if isinstance(bare, Limit):
            return Limit(bare.beneficiary, bare.delta, number, approvals)
        if isinstance(bare, Rotate):
            return Rotate(number, bare.witnesses, approvals)
        return Param(number, bare.from_height, bare.params, approvals)

    def key_of(self, account: AccountId) -> SigningKey:
        return KEYS[self.state.key_of(account)]


def check(world: World, limits: int) -> None:
    """What SPEC.md R4.4 says, counted from the outside."""
    state = world.state
    lines = state.accounts()
    locked = sum(lock.amount for lock in state.open_locks())
    assert sum(line.balance for _, line in lines) + locked == 0
    assert all(line.limit >= 0 and line.balance >= -line.limit for _, line in lines)
    assert sum(line.limit for _, line in lines) == limits
    state.assert_invariants()


def is_posted(books: Books, entry: Entry) -> bool:
    """What the audit's own reading of the rules says."""
    try:
        books.entry(entry)
    except BrokenRuleError:
        return False
    return True


def run(seed: int) -> World:
    world = World(Random(seed))
    twin = LedgerState.from_snapshot(GENESIS, world.state.snapshot())
    books = Books(GENESIS, signatures=False)
    limits = 5000
    for step in range(STEPS):
        if world.random.randrange(4) == 0:
            at = world.moment()
            world.next_block()
            twin.close_block(at)
            books.close_page()
        entry, at = world.entry(), world.moment()
        before = world.state.snapshot()
        outcome = world.state.apply(entry, at)
        assert twin.apply(entry, at) == outcome
        books.open_page(at.height, at.time_ms, at.epoch, at.height)
        assert is_posted(books, entry) is isinstance(outcome, Effect), (entry, outcome)
        name = entry.action.TYPE.name
        if isinstance(outcome, Effect):
            world.seen[name] += 1
            if isinstance(entry.action, Limit) and entry.action.decree:
                limits += entry.action.delta
        else:
            world.seen[outcome.reason] += 1
            assert world.state.snapshot() == before
        check(world, limits)
        if step % 10 == 0:
            assert twin.root() == world.state.root() == books_root(books)
            twin = LedgerState.from_snapshot(GENESIS, world.state.snapshot())
            branch = world.state.branch()
            world.state.adopt(branch)
    return world


@given(st.integers(0, 2**32))
@settings(max_examples=12, deadline=None)
def test_random_entries_keep_every_invariant(seed: int) -> None:
    run(seed)


def test_the_random_entries_reach_every_type_and_many_refusals() -> None:
    seen: Counter[str] = Counter()
    for seed in range(10):
        seen += run(seed).seen
    types = {"TRANSFER", "LOCK", "CLAIM", "EXPIRE", "RELEASE", "DISPUTE", "VERDICT", "LIMIT", "REKEY"}
    assert types | {"ROTATE", "PARAM"} <= seen.keys()
    assert len(seen) >= 27, seen


@given(st.integers(0, 2**32), st.data())
@settings(max_examples=40, deadline=None)
def test_any_bytes_are_a_state_or_refused(seed: int, data: st.DataObject) -> None:
    random, world = Random(seed), World(Random(7))
    for _ in range(20):
        world.state.apply(world.entry(), world.moment())
    snapshot = bytearray(world.state.snapshot())
    for _ in range(random.randrange(1, 4)):
        snapshot[random.randrange(len(snapshot))] = random.randrange(256)
    made = bytes(snapshot) if random.randrange(3) else data.draw(st.binary(max_size=400))
    try:
        state = LedgerState.from_snapshot(GENESIS, made)
    except (WireError, InvariantError):
        return
    assert state.snapshot() == made
