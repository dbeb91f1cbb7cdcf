"""The light client (SPEC.md §7.3): it follows committees from genesis, never goes back, and sees a split view."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from ledger.core.encoding import Kind, WireError
from ledger.core.entries import Transfer
from ledger.core.evidence import Fork
from ledger.core.handover import BadHandover, Handover, follow
from ledger.core.heads import CertifiedHeader
from ledger.core.light import LightClient, LightFault, compare
from tests.core.ledger.epoch_forge import EpochForge
from tests.core.ledger.ledger_forge import BOB, WITNESSES, genesis, key

if TYPE_CHECKING:
    from ledger.core.light import LightRefusal

SECOND = [key(n) for n in range(21, 26)]
THIRD = [key(n) for n in range(31, 35)]


def grown(*, void: int = 0) -> EpochForge:
    """Three epochs of three blocks each."""
    forge = EpochForge()
    for keys in (SECOND, THIRD, None):
        forge.block()
        forge.block(kind=Kind.NOTAR)
        forge.block()
        if keys is not None:
            forge.rotate(keys, void=void)
    return forge


GROWN = grown()


def client_at(forge: EpochForge, at: int, epoch: int = 0) -> LightClient:
    """A client of `forge` that holds its `at`-th head."""
    client = LightClient(forge.genesis)
    for handover in forge.handovers[:epoch]:
        assert client.hand_over(handover, _path(forge, client, handover.head)) is None
    assert client.advance(forge.heads[at], _path(forge, client, forge.heads[at])) is None
    return client


def _path(forge: EpochForge, client: LightClient, head: CertifiedHeader) -> tuple[bytes, ...]:
    return () if client.head is None else forge.consistency(client.head, head)


def refused(
    refusal: LightRefusal | None, fault: LightFault, client: LightClient, before: bytes
) -> LightRefusal:
    assert refusal is not None
    assert refusal.fault is fault, refusal
    assert client.save() == before, "a refusal changes nothing"
    return refusal


@pytest.mark.parametrize("void", [0, 1, 3])
def test_it_follows_the_committees_from_genesis(void: int) -> None:
    forge = grown(void=void)
    client = LightClient(forge.genesis)
    for head in forge.heads:
        if head.header.epoch != client.committee.epoch:
            handover = forge.handovers[client.committee.epoch]
            assert client.hand_over(handover, _path(forge, client, handover.head)) is None
        assert client.advance(head, _path(forge, client, head)) is None
        assert client.head == head
        client = LightClient(forge.genesis, client.save())
        assert client.head == head
    assert client.committee == forge.committee
    assert client.height == len(forge.blocks)


def test_it_may_jump() -> None:
    client = LightClient(GROWN.genesis)
    for handover in GROWN.handovers:
        assert client.hand_over(handover, _path(GROWN, client, handover.head)) is None
    assert client.advance(GROWN.heads[-1], _path(GROWN, client, GROWN.heads[-1])) is None
    assert client.height == len(GROWN.blocks)


def test_it_never_goes_back() -> None:
    client = client_at(GROWN, -1, epoch=2)
    saved = client.save()
    assert client.advance(GROWN.heads[-1]) is None, "the same again is no error"
    refused(client.advance(GROWN.heads[-2]), LightFault.STALE, client, saved)
    refused(client.advance(GROWN.heads[0]), LightFault.EPOCH, client, saved)
    refused(client.hand_over(GROWN.handovers[0]), LightFault.EPOCH, client, saved)
    restarted = LightClient(GROWN.genesis, saved)
    refused(restarted.advance(GROWN.heads[-2]), LightFault.STALE, restarted, saved)


def test_news_of_an_unknown_epoch_waits_for_its_handover() -> None:
    client = client_at(GROWN, 0)
    refused(client.advance(GROWN.heads[-1]), LightFault.EPOCH, client, client.save())
    refused(client.hand_over(GROWN.handovers[1]), LightFault.EPOCH, client, client.save())


def test_a_log_that_does_not_go_on_is_refused() -> None:
    client = client_at(GROWN, 0)
    saved, path = client.save(), GROWN.consistency(GROWN.heads[0], GROWN.heads[2])
    for broken in ((), path[:-1], (*path, bytes(32)), (bytes(32), *path[1:]), (b"short",)):
        if broken != path:
            refused(client.advance(GROWN.heads[2], broken), LightFault.CONSISTENCY, client, saved)
    refused(client.hand_over(GROWN.handovers[0], ()), LightFault.CONSISTENCY, client, saved)
    assert client.advance(GROWN.heads[2], path) is None


def test_a_minority_moves_nothing() -> None:
    client = client_at(GROWN, 0)
    saved, good = client.save(), GROWN.heads[2]
    forge = EpochForge()
    for certificate in (
        forge.certify(good.header, signers=WITNESSES[:2]),
        replace(good.certificate, signatures=good.certificate.signatures[::-1]),
        replace(forge.certify(good.header), block_hash=b"x" * 32),
    ):
        head = replace(good, certificate=certificate)
        refused(
            client.advance(head, GROWN.consistency(GROWN.heads[0], head)),
            LightFault.CERTIFICATE,
            client,
            saved,
        )


def test_another_network_is_refused() -> None:
    other = EpochForge(genesis(name="another"))
    other.block()
    client = LightClient(GROWN.genesis)
    refused(client.advance(other.heads[0]), LightFault.CERTIFICATE, client, client.save())
    saved = client_at(GROWN, 0).save()
    with pytest.raises(WireError, match="network"):
        LightClient(other.genesis, saved)


# Split views.


@pytest.mark.parametrize("signers", [WITNESSES[:3], WITNESSES[1:4]])
def test_a_split_is_seen_and_its_authors_are_named(signers: list[object]) -> None:
    forge = EpochForge()
    forge.block()
    other = forge.copy()
    forge.block()
    other.blocks.append(other.blocks[0])
    header = other.header(other.blocks[0].header, 0, time_ms=forge.heads[-1].header.time_ms + 5)
    lie = CertifiedHeader(header, other.certify(header, signers=signers))  # type: ignore[arg-type]
    client = client_at(forge, 1)
    refusal = refused(client.advance(lie), LightFault.SPLIT, client, client.save())
    assert refusal.split is not None
    fork = refusal.split.fork
    assert isinstance(fork, Fork)
    assert fork.verify(forge.committee)
    both = [w.account for w in WITNESSES[:3] if w in signers]
    assert list(fork.culprits(forge.committee)) == both
    assert len(both) > forge.committee.faults


def test_two_sources_are_compared() -> None:
    forge = grown()
    network_id = forge.genesis.network_id
    for first in forge.heads:
        for second in forge.heads:
            assert compare(first, second, network_id) is None
    lie = forge.copy()
    lie.block(time_ms=forge.heads[-1].header.time_ms + 5000)
    lie.block()
    forge.block()
    for low, high in ((forge.heads[-1], lie.heads[-2]), (lie.heads[-2], forge.heads[-1])):
        split = compare(low, high, network_id)
        assert split is not None
        assert split.fork is not None
    above = compare(forge.heads[-1], lie.heads[-1], network_id)
    assert above is not None, "its parent is not our block"


def test_logs_of_one_size_and_two_roots_are_a_split() -> None:
    """Heights apart, no common block: the two headers prove the lie, though not whose."""
    forge = EpochForge()
    forge.block()
    other = forge.copy()
    forge.block()
    other.block([])
    other.block([])
    other.block([other.sign(Transfer(BOB.account, 2))])
    split = compare(forge.heads[-1], other.heads[-1], forge.genesis.network_id)
    assert split is not None
    assert split.fork is None
    client = client_at(forge, 1)
    refused(client.advance(other.heads[-1]), LightFault.SPLIT, client, client.save())


def test_an_old_committee_that_goes_on_is_not_believed() -> None:
    """Witnesses that were rotated out make one more block final: whoever knows the ROTATE refuses it."""
    forge = EpochForge()
    forge.block()
    old = forge.copy()
    forge.rotate(SECOND)
    for _ in range(3):
        old.block()
        client = LightClient(forge.genesis)
        assert client.hand_over(forge.handovers[0]) is None
        refused(client.advance(old.heads[-1]), LightFault.EPOCH, client, client.save())
        fooled = client_at(old, -1)
        refusal = refused(fooled.hand_over(forge.handovers[0]), LightFault.SPLIT, fooled, fooled.save())
        assert refusal.split is not None


def test_a_void_block_does_not_lead_astray() -> None:
    """A head above an epoch's last block has the same log: the handover below it is still taken."""
    forge = EpochForge()
    forge.block()
    handover = forge.rotate(SECOND, void=2)
    void = CertifiedHeader(handover.head.last, handover.head.certificate)
    client = LightClient(forge.genesis)
    assert client.advance(void) is None
    assert client.hand_over(handover) is None
    assert client.committee == forge.committee
    forge.block()
    assert client.advance(forge.heads[-1], _path(forge, client, forge.heads[-1])) is None


# Handovers.


def test_a_handover_follows_only_from_its_own_committee() -> None:
    assert follow(GROWN.genesis.committee, GROWN.handovers) == GROWN.committee
    assert follow(GROWN.genesis.committee, []) == GROWN.genesis.committee
    for wrong in (GROWN.handovers[1:], GROWN.handovers[::-1], GROWN.handovers[:1] * 2):
        with pytest.raises(BadHandover):
            follow(GROWN.genesis.committee, wrong)


def test_a_rotate_is_not_proved_twice() -> None:
    """The block after it, if it has no entries, ends with the same leaf: it must not hand over once more."""
    forge = EpochForge()
    first = forge.rotate(SECOND)
    forge.block([])
    with pytest.raises(WireError, match="no entries"):
        Handover(first.entry, first.path, forge.heads[-1])


def test_each_part_of_a_handover_is_checked() -> None:
    committee, good = GROWN.genesis.committee, GROWN.handovers[0]
    forge = EpochForge()
    other = forge.copy().rotate(THIRD)
    for wrong in (
        replace(good, entry=other.entry),
        replace(good, path=good.path[:-1]),
        replace(good, path=(bytes(32), *good.path[1:])),
        replace(
            good, head=replace(good.head, certificate=forge.certify(good.head.header, signers=WITNESSES[:2]))
        ),
        replace(good, head=GROWN.heads[0]),
    ):
        with pytest.raises(BadHandover):
            wrong.successor(committee)
    with pytest.raises(WireError, match="ROTATE"):
        replace(good, entry=GROWN.blocks[0].entries[0])


def test_a_handover_has_one_encoding() -> None:
    for handover in (*GROWN.handovers, *grown(void=3).handovers):
        encoded = handover.encode()
        assert Handover.decode(encoded) == handover
        for broken in (*(encoded[:size] for size in range(len(encoded))), encoded + b"\0"):
            with pytest.raises(WireError):
                Handover.decode(broken)


def test_no_changed_byte_of_a_handover_passes() -> None:
    encoded, committee = GROWN.handovers[0].encode(), GROWN.genesis.committee
    for place in range(len(encoded)):
        mutated = bytearray(encoded)
        mutated[place] ^= 1 << place % 8
        with pytest.raises((WireError, BadHandover)):
            Handover.decode(bytes(mutated)).successor(committee)


def test_saved_bytes_decode_or_are_refused() -> None:
    saved, dice = client_at(GROWN, 0).save(), random.Random(5)
    for size in range(1, len(saved)):
        mutated = bytearray(saved[:size])
        mutated[dice.randrange(size)] ^= 1
        try:
            LightClient(GROWN.genesis, bytes(mutated))
        except WireError:
            continue
