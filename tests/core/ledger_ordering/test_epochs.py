"""ROTATE: one epoch ends in exactly one block, and the next begins on it, whoever knows how much of its finality."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.core.block import FinalBlock
from ledger.core.chain import BadBlock, Chain
from ledger.core.consensus import Message, Recall
from ledger.core.encoding import Kind, WireError
from ledger.core.votes import Certificate, Vote
from tests.core.ledger_ordering.clusters import Cluster, governed, rotation
from tests.core.ledger_ordering.machines import entry

FOUR = governed(4)


def is_vote(message: Message, kind: Kind, slot: int | None = None) -> bool:
    return isinstance(message, Vote) and message.kind is kind and slot in {None, message.slot}


def rotated(cluster: Cluster, numbers: list[int]) -> list[bool]:
    """Whether each peer has the epoch's first block: height 2, of epoch 1."""
    return [len(cluster.peers[n].final) >= 2 and cluster.peers[n].final[1].header.epoch == 1 for n in numbers]


def closed_by_void_blocks(cluster: Cluster) -> None:
    """Lose every FINAL vote for the first slot, so that only void blocks can make the ROTATE final."""
    cluster.gate = lambda _sender, _receiver, message: not is_vote(message, Kind.FINAL, 1)


def test_an_epoch_ends_with_its_rotate_and_the_next_goes_on() -> None:
    cluster = Cluster(FOUR, 5)
    cluster.submit(rotation(FOUR, [0, 1, 2, 4]))
    cluster.run(1)
    last = cluster.peers[0].final[0]
    assert (last.is_final, last.closing) == (True, None)
    assert [peer.epochs_over for peer in cluster.peers[:4]] == [[0]] * 4
    assert cluster.peers[3].simplex is None
    cluster.pull(4, 0)
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(3)
    assert all(rotated(cluster, [0, 1, 2, 4]))
    first = cluster.peers[4].final[1].header
    assert (first.parent_hash, first.parent_slot) == (last.certificate.block_hash, last.header.slot)
    cluster.check()


def test_entries_that_wait_go_over_to_the_next_epoch() -> None:
    cluster = Cluster(FOUR, 4)
    cluster.submit(rotation(FOUR, [3, 2, 1, 0]))
    for seq in (2, 3):
        cluster.submit(entry(FOUR, seq=seq))
    cluster.run(3)
    assert [len(peer.final) for peer in cluster.peers] == [2] * 4
    assert [block.header.count for block in cluster.peers[0].final] == [1, 2]
    cluster.check()


def test_void_blocks_close_an_epoch_whose_last_block_lacks_finality() -> None:
    cluster = Cluster(FOUR, 4)
    closed_by_void_blocks(cluster)
    cluster.submit(rotation(FOUR, [3, 2, 1, 0]))
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(6)
    last = cluster.peers[0].final[0]
    assert last.certificate.kind is Kind.NOTAR
    assert last.closing is not None
    assert last.closing.headers[0].parent_hash == last.certificate.block_hash
    assert all(void.count == 0 for void in last.closing.headers)
    assert last.verify(FOUR.committee)
    assert FinalBlock.decode(last.encode()) == last
    assert all(rotated(cluster, [0, 1, 2, 3]))
    assert cluster.peers[1].final[1].header.height == 2, "void blocks are no part of the chain"
    cluster.check()


def test_own_finality_and_a_closing_lead_to_the_same_next_epoch() -> None:
    """One witness alone sees the FINAL certificate; the others close the epoch by void blocks."""
    cluster = Cluster(FOUR, 4)
    cluster.gate = lambda _s, receiver, message: receiver == 3 or not is_vote(message, Kind.FINAL, 1)
    alone = cluster.peers[3]
    quiet = cluster.gate
    cluster.gate = lambda s, r, m: quiet(s, r, m) and not (s == 3 and isinstance(m, Certificate))
    cluster.serves = lambda source, _asker: source != 3
    cluster.submit(rotation(FOUR, [0, 1, 2, 3]))
    cluster.run(6)
    assert alone.final[0].certificate.kind is Kind.FINAL
    assert alone.final[0].closing is None
    others = [cluster.peers[n].final[0] for n in range(3)]
    assert all(block.closing is not None for block in others)
    assert {block.header for block in others} == {alone.final[0].header}
    cluster.gate = lambda _s, _r, _m: True
    cluster.serves = lambda _source, _asker: True
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(5)
    assert all(rotated(cluster, [0, 1, 2, 3]))
    cluster.check()


def test_a_laggard_of_the_old_epoch_is_brought_along() -> None:
    cluster = Cluster(FOUR, 4)
    cluster.gate = lambda _s, receiver, _m: receiver != 2
    cluster.submit(rotation(FOUR, [0, 1, 2, 3]))
    cluster.submit(entry(FOUR, seq=2), 0, 1, 3)
    cluster.run(4)
    assert rotated(cluster, [0, 1, 3]) == [True] * 3
    assert cluster.peers[2].final == []
    cluster.gate = lambda _s, _r, _m: True
    cluster.run(5)
    assert rotated(cluster, [2]) == [True]
    assert cluster.peers[2].simplex is not None
    assert cluster.peers[2].simplex.committee.epoch == 1
    cluster.check()


def test_a_committee_that_shares_nobody_with_the_last_one() -> None:
    cluster = Cluster(FOUR, 8)
    cluster.submit(rotation(FOUR, [4, 5, 6, 7]))
    cluster.run(1)
    assert [peer.simplex for peer in cluster.peers[:4]] == [None] * 4
    for newcomer in (4, 5, 6):
        cluster.pull(newcomer, 1)
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(5)
    assert rotated(cluster, [4, 5, 6]) == [True] * 3
    cluster.pull(7, 5)
    cluster.pull(0, 6)
    assert rotated(cluster, [0, 7]) == [True] * 2
    cluster.check()


def test_a_liar_that_withholds_its_votes_delays_only() -> None:
    """It shows its FINAL vote to one honest witness alone, and that one leaves; the others follow."""
    cluster = Cluster(FOUR, 8)
    cluster.gate = lambda sender, receiver, message: (
        not (
            (sender == 3 and receiver != 0)
            or (is_vote(message, Kind.FINAL) and receiver in {1, 2} and sender in {1, 2})
        )
    )
    cluster.submit(rotation(FOUR, [4, 5, 6, 7]))
    cluster.run(3)
    assert len(cluster.peers[0].final) == 1
    assert [len(cluster.peers[n].final) for n in (1, 2)] == [1, 1], "it left its certificate behind"
    cluster.check()


@pytest.mark.parametrize("crashed", [0, 1, 2, 3])
def test_a_crash_between_the_epochs(crashed: int) -> None:
    cluster = Cluster(FOUR, 4)
    closed_by_void_blocks(cluster)
    cluster.submit(rotation(FOUR, [1, 2, 3, 0]))
    cluster.run(0.3)  # notarised, and not final
    assert not cluster.peers[crashed].final
    cluster.crash(crashed)
    cluster.run(4)
    cluster.gate = lambda _s, _r, _m: True
    cluster.restart(crashed)
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(8)
    assert all(rotated(cluster, [0, 1, 2, 3]))
    cluster.check()


def test_all_crash_right_after_the_last_block_is_durable() -> None:
    cluster = Cluster(FOUR, 4)
    cluster.submit(rotation(FOUR, [0, 1, 2, 3]))
    cluster.run(0.01)
    assert [peer.epochs_over for peer in cluster.peers] == [[0]] * 4
    for number in range(4):
        cluster.crash(number)
    for number in range(4):
        cluster.restart(number)
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(3)
    assert all(rotated(cluster, [0, 1, 2, 3]))
    cluster.check()


def test_whoever_joins_an_epoch_late_is_asked_at_once() -> None:
    cluster = Cluster(FOUR, 4, asks=True)
    cluster.run(1)
    cluster.gate = lambda _s, receiver, _m: receiver != 3
    cluster.serves = lambda _source, _asker: False
    cluster.submit(rotation(FOUR, [3, 2, 1, 0]))
    cluster.run(0.4)
    assert not any(peer.simplex is not None and peer.simplex.may_vote for peer in cluster.peers[:3])
    cluster.gate, cluster.serves = lambda _s, _r, _m: True, lambda _source, _asker: True
    cluster.pull(3, 0)
    cluster.run(0.01)
    witnesses = [peer.simplex for peer in cluster.peers]
    assert all(one is not None and one.may_vote and one.committee.epoch == 1 for one in witnesses)


def test_three_epochs_in_a_row() -> None:
    cluster = Cluster(FOUR, 7, asks=True)
    committees = [[0, 1, 2, 3], [2, 3, 4, 5], [6, 0], [1, 2, 3, 4, 5, 6, 0]]
    for decree, numbers in enumerate(committees[1:], 1):
        cluster.submit(rotation(FOUR, numbers, decree=decree, seq=decree), *committees[decree - 1])
        cluster.run(4)
        for number in range(7):
            cluster.pull(number, committees[decree - 1][0])
        cluster.run(2)
        assert {peer.chain.committee.epoch for peer in cluster.peers} == {decree}
    cluster.submit(entry(FOUR, seq=4))
    cluster.run(4)
    assert [len(peer.final) for peer in cluster.peers] == [4] * 7
    cluster.check()


def test_what_a_reader_refuses_of_a_closing() -> None:
    cluster = Cluster(FOUR, 4)
    closed_by_void_blocks(cluster)
    cluster.submit(rotation(FOUR, [3, 2, 1, 0]))
    cluster.run(6)
    last = cluster.peers[0].final[0]
    closing = last.closing
    assert closing is not None
    void = closing.headers[0]
    with pytest.raises(WireError):
        replace(last, closing=None)
    with pytest.raises(WireError):
        replace(closing, headers=())
    for changed in (
        replace(void, time_ms=0),
        replace(void, parent_hash=bytes(32)[:-1] + b"\1"),
        replace(void, log_root=bytes(32)),
        replace(void, height=void.height + 1) if void.slot > void.height else replace(void, tree_size=9),
    ):
        other = replace(closing, headers=(changed, *closing.headers[1:]))
        assert not replace(last, closing=other).verify(FOUR.committee)
    data = last.encode()
    for cut in range(len(data) - 200, len(data)):
        with pytest.raises(WireError):
            FinalBlock.decode(data[:cut])
    with pytest.raises(BadBlock):
        Chain(FOUR).accept(
            replace(last, closing=replace(closing, certificate=replace(closing.certificate, signers=7 << 1)))
        )


def test_a_message_of_a_later_epoch_costs_one_pull_and_one_of_an_earlier_is_answered() -> None:
    cluster = Cluster(FOUR, 4)
    cluster.submit(rotation(FOUR, [0, 1, 2, 3]), 0, 1, 2, 3)
    cluster.gate = lambda _s, receiver, _m: receiver != 3
    cluster.serves = lambda _source, asker: asker != 3
    cluster.run(2)
    assert cluster.peers[3].final == []
    cluster.serves = lambda _source, _asker: True
    cluster.gate = lambda _s, _r, _m: True
    cluster.inject(3, 0, Recall(0, 0))
    cluster.run(0.2)
    assert len(cluster.peers[3].final) == 1, "it was shown the certificate that closed the epoch"
    cluster.check()
