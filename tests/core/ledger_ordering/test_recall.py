"""A witness that starts asks the others which of its votes they remember: an old copy of its disk must not lie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.core.consensus import Ask, Message, Recall, Recalled, decode_message, encode_message
from ledger.core.encoding import Kind
from ledger.core.own_votes import RECALL_S
from ledger.core.votes import SLOT_MAX, Vote, sign_vote
from tests.core.ledger_ordering.clusters import KEYS, Cluster, governed
from tests.core.ledger_ordering.machines import entry
from tests.core.ledger_ordering.test_voting_rules import proposed

FOUR = governed(4)


def votes(cluster: Cluster, number: int, slot: int) -> set[tuple[Kind, bytes]]:
    found = [item.vote for item in cluster.peers[number].signed]
    return {(vote.kind, vote.block_hash) for vote in found if vote.slot == slot}


def restored(*, asks: bool) -> Cluster:
    """Witness 2 notarised the first block, told only witness 0, and comes back with an empty disk."""
    cluster = Cluster(FOUR, 4, asks=asks)
    cluster.run(1.5 * RECALL_S)
    cluster.gate = lambda sender, receiver, message: (
        not isinstance(message, Vote) or (sender, receiver) == (2, 0)
    )
    cluster.submit(entry(FOUR), 1)
    cluster.run(0.1)
    assert {kind for kind, _ in votes(cluster, 2, 1)} == {Kind.NOTAR}
    cluster.crash(2)
    cluster.peers[2].disk.clear()
    cluster.gate = lambda _s, _r, message: not isinstance(message, Vote)
    cluster.restart(2)
    return cluster


def contradicts(cluster: Cluster) -> bool:
    """Let the leader of slot 1 sign a second block, and see whether witness 2 notarises that one too."""
    cluster.inject(1, 2, proposed(FOUR, 1, amount=6))
    cluster.run(3)
    return len([kind for kind, _ in votes(cluster, 2, 1) if kind is Kind.NOTAR]) > 1


def test_an_old_copy_does_not_contradict_what_was_signed_after_it() -> None:
    cluster = restored(asks=True)
    assert not contradicts(cluster)
    simplex = cluster.peers[2].simplex
    assert simplex is not None
    assert simplex.may_vote
    assert not simplex.remembers_all_votes, "the operator is told"
    assert not [vote for vote in votes(cluster, 2, 1) if vote[0] is not Kind.NOTAR]


def test_without_asking_it_would() -> None:
    assert contradicts(restored(asks=False))


def test_an_old_copy_votes_again_once_the_network_is_past_what_it_forgot() -> None:
    cluster = restored(asks=True)
    cluster.run(1)
    cluster.gate = lambda _s, _r, _m: True
    cluster.submit(entry(FOUR))
    cluster.run(5)
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(5)
    blocks = [peer.final for peer in cluster.peers]
    assert [sum(block.header.count for block in final) for final in blocks] == [2] * 4
    assert votes(cluster, 2, blocks[2][-1].header.slot)
    cluster.check()


def test_nothing_is_signed_while_the_others_are_down() -> None:
    cluster = Cluster(FOUR, 4, asks=True)
    for number in (0, 3):
        cluster.crash(number)
    cluster.submit(entry(FOUR), 1, 2)
    cluster.run(30)
    assert [peer.signed for peer in cluster.peers] == [[]] * 4, "one other is fewer than a quorum needs"
    cluster.restart(0)
    cluster.run(10)
    ordered = [sum(block.header.count for block in peer.final) for peer in cluster.peers]
    assert ordered == [1, 1, 1, 0], "two of them are enough"
    cluster.check()


def test_a_restart_with_an_intact_disk_goes_on_where_it_was() -> None:
    cluster = Cluster(FOUR, 4, asks=True)
    cluster.crash(3)
    cluster.run(2 * RECALL_S)
    cluster.gate = lambda _s, _r, message: not (isinstance(message, Vote) and message.kind is Kind.FINAL)
    cluster.submit(entry(FOUR))
    cluster.run(0.2)
    cluster.crash(2)
    cluster.restart(2)
    cluster.gate = lambda _s, _r, _m: True
    cluster.run(3 * RECALL_S)
    simplex = cluster.peers[2].simplex
    assert simplex is not None
    assert simplex.remembers_all_votes
    ordered = [sum(block.header.count for block in peer.final) for peer in cluster.peers]
    assert ordered == [1, 1, 1, 0], "without it there is no quorum"
    cluster.check()


def test_liars_delay_and_never_make_it_vote() -> None:
    cluster = Cluster(FOUR, 4, asks=True)
    for number in (0, 1, 3):
        cluster.crash(number)
    witness = cluster.peers[2].simplex
    assert witness is not None

    def hear(sender: int, answer: Recalled) -> None:
        cluster.down.discard(sender)
        cluster.inject(sender, 2, answer)
        cluster.run(0.1)
        cluster.down.add(sender)

    cluster.run(2 * RECALL_S)
    forged = sign_vote(KEYS[1], FOUR.committee, Kind.NOTAR, slot=1, block_hash=b"x" * 32)
    hear(1, Recalled(0, 0, 1, (replace(forged, witness=KEYS[2].account),)))
    hear(1, Recalled(0, 0, 1, (forged,)))
    hear(1, Recalled(1, 0, 1, ()))
    hear(1, Recalled(0, 0, 1, ()))
    hear(1, Recalled(0, 0, 1, ()))
    assert not witness.may_vote, "one witness counts once"
    hear(3, Recalled(0, 7, 8, ()))
    assert not witness.may_vote, "what is settled there is not known here"
    hear(0, Recalled(0, 0, 2, (sign_vote(KEYS[2], FOUR.committee, Kind.SKIP, slot=1),)))
    assert witness.may_vote
    cluster.submit(entry(FOUR), 2)
    cluster.run(20)
    assert votes(cluster, 2, 1) == {(Kind.SKIP, bytes(32))}, "its own, taken back"


def test_a_slot_that_only_a_liar_names_is_not_waited_for() -> None:
    cluster = restored(asks=True)
    cluster.inject(3, 2, Recalled(0, 0, SLOT_MAX, ()))
    cluster.run(2)
    cluster.gate = lambda _s, _r, _m: True
    cluster.submit(entry(FOUR))
    cluster.run(10)
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(10)
    slot = cluster.peers[0].final[1].header.slot
    assert (Kind.NOTAR in {kind for kind, _ in votes(cluster, 2, slot)}) or votes(cluster, 2, slot - 1)
    cluster.check()


def test_a_witness_alone_has_nobody_to_ask() -> None:
    cluster = Cluster(governed(1), 1, asks=True)
    cluster.submit(entry(governed(1)))
    cluster.run(1)
    assert len(cluster.peers[0].final) == 1


def test_an_answer_holds_what_is_remembered_above_the_askers_final_slot() -> None:
    cluster = Cluster(FOUR, 4)
    cluster.gate = lambda _s, _r, message: not (isinstance(message, Vote) and message.kind is Kind.FINAL)
    cluster.submit(entry(FOUR))
    cluster.run(0.1)
    said: list[Message] = []
    cluster.gate = lambda sender, receiver, message: (
        not said.append(message) if (sender, receiver) == (0, 2) else True
    )
    cluster.inject(2, 0, Recall(0, 0))
    cluster.run(0.01)
    (answer,) = [message for message in said if isinstance(message, Recalled)]
    assert {(vote.kind, vote.slot) for vote in answer.votes} == {(Kind.NOTAR, 1)}
    assert all(vote.witness == KEYS[2].account for vote in answer.votes)
    assert decode_message(encode_message(answer)) == answer


@pytest.mark.parametrize("question", [Recall(0, 9), Ask(10, 9)])
def test_who_asks_from_further_on_is_caught_up_with(question: Message) -> None:
    cluster = Cluster(FOUR, 4)
    asked: list[int] = []
    cluster.serves = lambda source, _asker: bool(asked.append(source))
    cluster.inject(3, 0, question)
    cluster.run(0.01)
    assert asked == [3]
