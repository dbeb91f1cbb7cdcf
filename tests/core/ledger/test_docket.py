"""Which evidence is kept: a liar that signs thousands of contradictions does not push out what others did."""

from __future__ import annotations

from ledger.core.docket import FORKS_MAX, RECORDS_PER_WITNESS_MAX, Docket
from ledger.core.encoding import Kind
from ledger.core.evidence import Evidence, find_fork, vote_pair
from ledger.core.heads import certify
from ledger.core.votes import sign_vote
from tests.core.ledger.ledger_forge import WITNESSES, Forge, genesis

NETWORK = genesis()
COMMITTEE = NETWORK.committee


def lie(slot: int, witness: int = 2) -> Evidence:
    votes = [
        sign_vote(WITNESSES[witness], COMMITTEE, Kind.FINAL, slot=slot, block_hash=name * 32)
        for name in (b"a", b"b")
    ]
    found = vote_pair(*votes)
    assert found is not None
    return found


def fork(slot: int) -> Evidence:
    one, other = (
        certify([Forge(NETWORK).block(slot=slot, time_ms=time_ms)]) for time_ms in (2_000_000, 2_000_001)
    )
    assert one is not None
    assert other is not None
    found = find_fork(one, other, NETWORK.network_id)
    assert found is not None
    return found


def test_one_record_of_a_place_is_kept() -> None:
    docket = Docket()
    assert docket.add(lie(7), COMMITTEE)
    assert not docket.add(lie(7), COMMITTEE)
    assert docket.add(lie(8), COMMITTEE)
    assert docket.add(lie(7, witness=1), COMMITTEE)
    assert docket.add(fork(7), COMMITTEE)
    assert len(docket) == 4


def test_one_liar_leaves_room_for_the_others() -> None:
    docket = Docket()
    kept = [docket.add(lie(slot), COMMITTEE) for slot in range(1, RECORDS_PER_WITNESS_MAX + 5)]
    assert sum(kept) == RECORDS_PER_WITNESS_MAX
    assert docket.add(lie(1, witness=3), COMMITTEE)
    assert sum(docket.add(fork(slot), COMMITTEE) for slot in range(1, FORKS_MAX + 5)) == FORKS_MAX
    assert docket.add(lie(2, witness=3), COMMITTEE)
