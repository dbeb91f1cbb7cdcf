"""Real hosts on loopback: the market spreads, heals, and survives its entry points (SPEC.md §10, §11)."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from ledger.core.encoding import NetworkId
from p2p.core.conduct import INVALID_MAX, INVALID_POINTS
from p2p.core.envelope import EnvelopeKind, seal
from p2p.core.errors import LocalProtocolError, RemoteProtocolError
from p2p.core.messages import Denied, decode_answer
from p2p.core.verdict import Verdict
from p2p.gossip import ADVERTS
from p2p.mesh import MeshConfig, open_mesh
from tests.shell.p2p_mesh.mesh_mill import (
    NETWORK,
    QUICK,
    advert_of,
    clock_ms,
    key,
    linked,
    mill,
    offering,
    refusals,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from p2p.core.envelope import Envelope
    from p2p.mesh import Mesh

NO_HEALING = replace(QUICK, reconcile_interval_s=600.0, second_look_s=600.0)


def said_by(number: int, like: Mesh) -> Envelope:
    """The advert of a worker that is not here."""
    return seal(
        key(number),
        NETWORK,
        kind=EnvelopeKind.ADVERT,
        sequence=1,
        now_ms=clock_ms(),
        lifetime_ms=60_000,
        body=replace(advert_of(like), owner=key(number).account).encode(),
    )


async def test_an_advert_reaches_everybody_by_gossip_alone(tmp_path: Path) -> None:
    async with mill(tmp_path, NO_HEALING) as mills:
        first = await mills.open(1)
        nodes = [first, await mills.open(2, first), await mills.open(3, first), await mills.open(4, first)]
        await until(lambda: all(len(node.host.links()) == 3 for node in nodes), "everybody is linked")
        await until(lambda: all(node.status().peers_known == 3 for node in nodes), "everybody is known")
        worker = nodes[3]

        async def heard() -> None:
            await until(
                lambda: all(offering(node) == {worker.account} for node in nodes), "the advert is heard"
            )

        await worker.publish_advert(advert_of(worker))
        await heard()
        pulled = sum(node.status().adverts_pulled for node in nodes)
        offer = nodes[0].adverts.get(worker.account, clock_ms())
        assert offer is not None
        assert offer.advert.addresses == worker.addresses
        await worker.publish_advert(advert_of(worker, slots_free=7))
        await until(
            lambda: all(node.adverts.items(clock_ms())[0].advert.slots_free == 7 for node in nodes),
            "the update",
        )
        assert sum(node.status().adverts_pulled for node in nodes) == pulled, "gossip brought it, not a pull"
        await worker.withdraw_advert()
        await until(lambda: not any(offering(node) for node in nodes), "the withdrawal")


async def test_a_late_joiner_sees_the_market_at_once(tmp_path: Path) -> None:
    async with mill(tmp_path, NO_HEALING) as mills:
        first = await mills.open(1)
        worker = await mills.open(2, first)
        await until(lambda: linked(first) == {worker.account}, "the two are linked")
        await worker.publish_advert(advert_of(worker))
        await until(lambda: offering(first) == {worker.account}, "the advert is heard")
        late = await mills.open(3, first)
        await until(lambda: offering(late) == {worker.account}, "the late joiner sees it")
        assert late.status().adverts_pulled == 1


async def test_what_gossip_lost_is_healed(tmp_path: Path) -> None:
    async with mill(tmp_path) as mills:
        first = await mills.open(1)
        second = await mills.open(2, first)
        await until(lambda: linked(first) == {second.account}, "the two are linked")
        for number in range(100, 400):
            first.adverts.offer(said_by(number, first), clock_ms())
        await until(lambda: len(offering(second)) == 300, "three hundred lost adverts are pulled")
        assert first.adverts.summary() == second.adverts.summary()


async def test_restarted_peers_meet_again_without_any_bootstrap(tmp_path: Path) -> None:
    async with mill(tmp_path) as mills:
        async with AsyncExitStack() as running:
            first = await mills.open(1, stack=running)
            peers = [await mills.open(number, first, stack=running) for number in (2, 3)]
            await until(lambda: all(node.status().links == 2 for node in (first, *peers)), "all are linked")
            await until(lambda: all(len(node.peers) == 2 for node in peers), "all are known")
        # All three are gone; the bootstrap node stays away.
        second = await mills.open(2)
        third = await mills.open(3)
        await until(
            lambda: linked(second) == {third.account} and linked(third) == {second.account}, "they meet again"
        )
        await third.publish_advert(advert_of(third))
        await until(lambda: offering(second) == {third.account}, "and see each other's offers")


async def test_a_restarted_worker_is_heard_again(tmp_path: Path) -> None:
    """Sequences rise across a restart without a file: else the book would refuse the new process."""
    async with mill(tmp_path) as mills:
        first = await mills.open(1)
        async with AsyncExitStack() as running:
            worker = await mills.open(2, first, stack=running)
            await worker.publish_advert(advert_of(worker, slots_free=1))
            await until(lambda: offering(first) == {worker.account}, "the advert is heard")
        worker = await mills.open(2, first)
        await worker.publish_advert(advert_of(worker, slots_free=2))
        await until(lambda: first.adverts.items(clock_ms())[0].advert.slots_free == 2, "the new one is heard")


async def test_replayed_and_forged_gossip_is_refused_and_not_forwarded(tmp_path: Path) -> None:
    async with mill(tmp_path, NO_HEALING) as mills:
        first = await mills.open(1)
        mean = await mills.open(2, first)
        await until(lambda: linked(first) == {mean.account}, "the two are linked")
        old = await mean.publish_advert(advert_of(mean))
        await mean.publish_advert(advert_of(mean, slots_free=2))
        await until(lambda: first.adverts.items(clock_ms())[0].advert.slots_free == 2, "the newer one")
        validate = first._gossip.validate
        before = first.adverts.items(clock_ms())
        assert validate(mean.account, old.encode()) is Verdict.IGNORE
        forged = replace(old, sequence=old.sequence + 10**9)
        assert validate(mean.account, forged.encode()) is Verdict.REJECT
        assert validate(mean.account, b"garbage") is Verdict.REJECT
        # Somebody else's good envelope, gossiped under another name.
        assert validate(first.account, forged.encode()) is Verdict.REJECT
        assert first.adverts.items(clock_ms()) == before
        assert refusals(first) == {"forged": 2, "malformed": 1, "old-sequence": 1}


async def test_a_forged_advert_does_not_travel(tmp_path: Path) -> None:
    async with mill(tmp_path, NO_HEALING) as mills:
        first = await mills.open(1)
        honest = await mills.open(2, first)
        mean = await mills.open(3, first)
        await until(lambda: linked(first) == {honest.account, mean.account}, "the three are linked")
        await until(lambda: linked(honest) == {first.account, mean.account}, "the three are linked")
        await mean.publish_advert(advert_of(mean))
        await until(lambda: offering(honest) == {mean.account}, "its honest advert is heard")
        good = mean.adverts.items(clock_ms())[0].envelope
        await mean.host.publish(ADVERTS, replace(good, sequence=good.sequence + 1).encode())
        await until(lambda: bool(refusals(honest) and refusals(first)), "both got and refused it")
        assert refusals(honest) == refusals(first) == {"forged": 1}
        assert [offer.envelope for offer in honest.adverts.items(clock_ms())] == [good]


async def test_a_peer_that_keeps_asking_garbage_is_cut_and_barred(tmp_path: Path) -> None:
    async with mill(tmp_path, NO_HEALING) as mills:
        first = await mills.open(1)
        mean = await mills.open(2, first)
        honest = await mills.open(3, first)
        await until(lambda: linked(first) == {mean.account, honest.account}, "all are linked")
        for _ in range(INVALID_MAX):
            answer = await mean.requests.request(
                first.account, ADVERTS, b"garbage", 5.0, body_bytes_max=1 << 18
            )
            assert isinstance(decode_answer(answer), Denied)
        await until(lambda: linked(first) == {honest.account}, "the garbage sender is cut")
        assert first.status().peers_cut == 1
        # It dials again, as its bootstrap loop does, and is not let in; the node goes on.
        await until(lambda: mean.status().dials_made >= 3, "it tries again")
        assert linked(first) == {honest.account}
        await honest.publish_advert(advert_of(honest))
        await until(lambda: offering(first) == {honest.account}, "the honest ones go on")


async def test_a_node_of_another_network_is_hung_up_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with mill(tmp_path) as mills:
        foreign = await mills.open(1, network_id=NetworkId(bytes(32)))
        await foreign.publish_advert(advert_of(foreign))
        node = await mills.open(2, foreign)
        await until(lambda: "does not speak this network's protocols" in caplog.text, "it is noticed")
        await until(lambda: linked(node) == set(), "and hung up on")
        assert offering(node) == set()
        assert not any(peer.reached for peer in node.peers.peers())


async def test_hostile_gossip_of_every_kind_is_refused_and_ends_the_link(tmp_path: Path) -> None:
    async with mill(tmp_path, NO_HEALING) as mills:
        first = await mills.open(1)
        honest = await mills.open(2, first)
        mean = await mills.open(3, first)
        await until(lambda: linked(first) == {honest.account, mean.account}, "the three are linked")
        await mean.publish_advert(advert_of(mean))
        await until(lambda: offering(first) == {mean.account}, "its honest advert is heard")
        now_ms = clock_ms()

        def sealed(number: int, now_ms: int = now_ms, network_id: NetworkId = NETWORK) -> bytes:
            return seal(
                key(3),
                network_id,
                kind=EnvelopeKind.ADVERT,
                sequence=now_ms + number,
                now_ms=now_ms,
                lifetime_ms=60_000,
                body=advert_of(mean).encode(),
            ).encode()

        late = [sealed(0, now_ms - 600_000), sealed(0, now_ms + 600_000), sealed(-(10**6))]
        bad = [
            b"garbage",
            bytes(20_000),
            sealed(9, network_id=NetworkId(bytes(32))),
            said_by(9, mean).encode(),
        ]
        for data in (*late, *bad):
            await mean.host.publish(ADVERTS, data)
        expected = {"expired": 1, "future": 1, "old-sequence": 1, "malformed": 2, "forged": 2}
        await until(lambda: refusals(first) == expected, "each is refused for its own reason")
        for number in range(INVALID_MAX):
            await mean.host.publish(ADVERTS, b"garbage %d" % number)
            await trio.lowlevel.checkpoint()
        await until(lambda: linked(first) == {honest.account}, "the sender is cut")
        assert {offer.envelope.sequence for offer in honest.adverts.items(clock_ms())} == {
            offer.envelope.sequence for offer in first.adverts.items(clock_ms())
        }
        await honest.publish_advert(advert_of(honest))
        await until(lambda: honest.account in offering(first), "the honest ones go on")


async def test_answers_that_were_not_asked_for_are_held_against_the_answerer(tmp_path: Path) -> None:
    async with mill(tmp_path, NO_HEALING) as mills:
        first = await mills.open(1)
        mean = await mills.open(2, first)
        await until(lambda: linked(first) == {mean.account}, "the two are linked")
        other = said_by(9, mean)
        mean.adverts.offer(said_by(8, mean), clock_ms())
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(mean.adverts, "envelopes", lambda authors, now_ms: (other.encode(),))
            with pytest.raises(RemoteProtocolError, match="not asked for"):
                await first._gossip.reconcile(mean.account)
        assert first._conduct.points(mean.account, clock_ms()) >= INVALID_POINTS - 1
        assert offering(first) == set()
        assert await first._gossip.reconcile(mean.account) == 1


async def test_the_dht_alone_brings_strangers_together(tmp_path: Path) -> None:
    timing = replace(QUICK, discovery=replace(QUICK.discovery, dht_first_s=0.2, dht_hungry_s=0.5))
    async with mill(tmp_path, timing) as mills:
        first = await mills.open(1)
        # An entry point that recommends nobody: what is found is found by the DHT.
        first.peers.recommend = lambda count, exclude, below: ()  # type: ignore[method-assign]
        second = await mills.open(2, first)
        third = await mills.open(3, first)
        for node in (second, third):
            node.peers.recommend = lambda count, exclude, below: ()  # type: ignore[method-assign]
        await until(lambda: third.account in linked(second), "the two met")


async def test_a_broken_peer_file_is_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with mill(tmp_path) as mills:
        (tmp_path / "1").mkdir()
        (tmp_path / "1" / "peers.bin").write_bytes(b"MRPB\x01 broken")
        with caplog.at_level(logging.WARNING, logger="p2p.peerfile"):
            node = await mills.open(1)
        assert len(node.peers) == 0
        assert "moved to peers.bad" in caplog.text
        assert (tmp_path / "1" / "peers.bad").read_bytes() == b"MRPB\x01 broken"


@pytest.mark.parametrize("address", ["127.0.0.1:4001", "/ip4/127.0.0.1/tcp/4001"])
async def test_an_unusable_bootstrap_address_is_named_at_the_start(tmp_path: Path, address: str) -> None:
    config = MeshConfig(data_dir=tmp_path, bootstrap=(address,))
    with pytest.raises(LocalProtocolError, match="bootstrap address"):
        async with open_mesh(config, key(1), NETWORK, clock_ms=clock_ms):
            pass
