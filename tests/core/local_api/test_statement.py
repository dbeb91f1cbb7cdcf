"""An account's statement and a job's tally: what they count, from every kind of entry and event."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from ledger.core.encoding import NetworkId
from ledger.core.entries import (
    NO_APPROVALS,
    NO_KEY,
    Approvals,
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
    sign_entry,
)
from ledger.core.keys import AccountId, SigningKey, peer_id
from ledger.core.params import Params
from millrace.core import progress
from millrace.core.statement import Statement, action_fields
from millrace.core.tally import JobTally

if TYPE_CHECKING:
    from ledger.core.block import Header

NETWORK = NetworkId(bytes(32))
ME, OTHER, THIRD = (SigningKey(bytes([n]) * 32) for n in (1, 2, 3))


class Block:
    """What the statement reads of a final block."""

    def __init__(self, height: int, first: int, *entries: Any) -> None:
        self.header = cast("Header", _Header(height, first + len(entries), len(entries)))
        self.entries = entries


class _Header:
    def __init__(self, height: int, tree_size: int, count: int) -> None:
        self.height, self.tree_size, self.count, self.time_ms = height, tree_size, count, 1_000 * height


def entry(key: SigningKey, seq: int, action: Any, fee: int = 0) -> Any:
    return sign_entry(key, NETWORK, seq=seq, not_after_ms=1, fee=fee, action=action)


def test_every_kind_of_entry_is_counted_once() -> None:
    bought = entry(ME, 1, Lock(OTHER.account, 100, 9), fee=2)
    worked = entry(OTHER, 1, Lock(ME.account, 50, 9))
    lost = entry(ME, 2, Lock(OTHER.account, 30, 9))
    foreign = entry(THIRD, 1, Lock(OTHER.account, 70, 9))
    ids = [item.entry_id(NETWORK) for item in (bought, worked, lost, foreign)]
    statement = Statement(ME.account, NETWORK)
    statement.feed(cast("Any", Block(1, 0, bought, worked, lost, foreign)))
    assert statement.closing(ids[0]) is None
    claims = [
        entry(OTHER, 2, Claim(ids[0], 40, bytes(63) + b"1")),
        entry(ME, 3, Claim(ids[1], 25, bytes(63) + b"1")),
        entry(THIRD, 2, Expire(ids[2])),
        entry(OTHER, 3, Claim(ids[3], 70, bytes(63) + b"1")),
        entry(ME, 4, Transfer(OTHER.account, 5)),
        entry(OTHER, 4, Transfer(ME.account, 6)),
    ]
    statement.feed(cast("Any", Block(2, 4, *claims)))
    assert (statement.spent, statement.earned, statement.sent, statement.received) == (40, 25, 5, 6)
    assert statement.fees == 2
    assert [statement.closing(lock_id) for lock_id in ids] == [
        claims[0].entry_id(NETWORK),
        claims[1].entry_id(NETWORK),
        claims[2].entry_id(NETWORK),
        None,  # not ours: not remembered
    ]
    own = [(item.kind, item.height, item.index) for item in statement.entries]
    assert own == [("lock", 1, 0), ("lock", 1, 2), ("claim", 2, 5), ("transfer", 2, 8)]


@pytest.mark.parametrize(
    ("disputed", "closing", "paid"),
    [
        (False, Release, 101),
        (True, lambda at: Claim(at, 7, bytes(63) + b"1"), 7),
        (True, lambda at: Verdict(at, 40, (THIRD.account,), NO_APPROVALS), 40),
        (True, Expire, 50),  # half of 101, rounded down
        (False, Expire, 0),
    ],
    ids=["release", "claim", "verdict", "disputed expiry", "expiry"],
)
def test_whatever_closes_a_lock_pays_its_part(disputed: bool, closing: Any, paid: int) -> None:
    lock = entry(ME, 1, Lock(OTHER.account, 101, 9, bytes(32), 5, b"a" * 32, 1, 5_000))
    lock_id = lock.entry_id(NETWORK)
    buyer, worker = (Statement(key.account, NETWORK) for key in (ME, OTHER))
    last = entry(THIRD, 9, closing(lock_id))
    between = [entry(OTHER, 1, Dispute(lock_id))] if disputed else []
    for statement in (buyer, worker):
        statement.feed(cast("Any", Block(1, 0, lock, *between, last)))
        assert statement.closing(lock_id) == last.entry_id(NETWORK)
    assert (buyer.spent, buyer.earned) == (paid, 0)
    assert (worker.spent, worker.earned) == (0, paid)


def test_blocks_come_in_order() -> None:
    statement = Statement(ME.account, NETWORK)
    with pytest.raises(ValueError, match="block 2 fed after block 0"):
        statement.feed(cast("Any", Block(2, 0)))


ONE = Approvals(1, (bytes(64),))
PARAMS = {"version", "fee_min", "dispute_fee", "slot_timeout_ms"}
LOCK_NAMES = {"payee", "amount", "expiry_ms", "terms_hash"}
DISPUTABLE = Lock(OTHER.account, 1, 2, bytes(32), 5, b"a" * 32, 1, 5_000)


@pytest.mark.parametrize(
    ("action", "names"),
    [
        (Transfer(OTHER.account, 1), {"to", "amount", "memo_hash"}),
        (Lock(OTHER.account, 1, 2), LOCK_NAMES),
        (Claim(bytes(32), 0), {"lock_id", "cumulative"}),
        (Expire(bytes(32)), {"lock_id"}),
        (Release(bytes(32)), {"lock_id"}),
        (Dispute(bytes(32)), {"lock_id", "evidence_hash"}),
        (DISPUTABLE, {*LOCK_NAMES, "dispute_ms", "arbiters_hash", "arbiters_needed", "default_bps"}),
        (
            Verdict(bytes(32), 1, (OTHER.account,), ONE),
            {"lock_id", "payee_amount", "arbiters", "approved_by"},
        ),
        (Limit(OTHER.account, -5), {"beneficiary", "delta"}),
        (Limit(OTHER.account, 5, 1, ONE), {"beneficiary", "delta", "decree", "approvals"}),
        (Rekey(OTHER.account, NO_KEY, bytes(64)), {"new_key", "recovery"}),
        (Rotate(1, (OTHER.account,), ONE), {"decree", "witnesses", "approvals"}),
        (Param(1, 9, Params(), ONE), {"decree", "from_height", "approvals", *PARAMS}),
    ],
    ids=lambda value: type(value).__name__,
)
def test_payloads_are_shown_as_text_and_numbers(action: Any, names: set[str]) -> None:
    fields = action_fields(entry(ME, 1, action))
    assert set(fields) == names
    flat = [item for value in fields.values() for item in (value if isinstance(value, list) else [value])]
    assert all(isinstance(item, (str, int, type(None))) for item in flat)


def test_a_tally_counts_by_lease() -> None:
    worker, liar = OTHER.account, THIRD.account
    tally = JobTally()
    for event in (
        progress.JobStarted(b"j", 3, 2, 100),
        progress.LeaseRefused(ME.account, "busy"),
        progress.LeaseOpened(worker, b"a", b"la", 50, 7),
        progress.LeaseOpened(liar, b"b", b"lb", 50, 7),
        progress.UnitAccepted(0, "ok", "agreement", (worker,)),
        progress.Paid(worker, 4, 4, 1),
        progress.Paid(worker, 6, 10, 2),
        progress.UnitRefused(1, liar, "wrong"),
        progress.LiarCaught(1, liar),
        progress.UnitMoved(2, liar, "cut"),
        progress.UnitMoved(2, AccountId(bytes(32)), "nobody's"),
        progress.LeaseEnded(worker, b"a", "done", 10, 1_000, 2_000),
        progress.JobEnded(b"j", 3, 0, 10),
    ):
        tally.feed(event)
    good, bad = (lease.fields() for lease in tally.leases)
    assert (good["paid"], good["units_paid"], good["ended"], good["sent_bytes"]) == (10, 3, "done", 1_000)
    assert (bad["paid"], bad["liar"], bad["units_moved"]) == (0, True, 1)
    assert bad["refused"] == [{"unit": 1, "reason": "wrong"}]
    assert bad["peer"] == peer_id(liar)
    assert tally.job_id == b"j"
    assert tally.unleased == [(ME.account, "busy")]
    assert (tally.accepted, tally.failed) == (1, 0)
