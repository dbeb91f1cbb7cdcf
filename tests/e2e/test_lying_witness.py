"""One witness of four runs in the test: a real host with a real key, that signs what no honest witness signs."""

from __future__ import annotations

from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from bootstrap.consensus import CONSENSUS
from ledger.core.consensus import MESSAGE_BYTES_MAX, Ask, Recall, Recalled, encode_message
from ledger.core.encoding import Kind
from ledger.core.evidence import vote_pair
from ledger.core.keys import account_from_peer_id, peer_id
from ledger.core.requests import encode_answer
from ledger.core.votes import SLOT_MAX, sign_vote
from p2p.host import HostConfig, open_host
from p2p.identity import load_identity
from p2p.requests import Requests
from tests.e2e.small_network import small_network, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    from ledger.core.evidence import VotePair
    from ledger.core.keys import AccountId
    from tests.e2e.small_network import Network

pytestmark = pytest.mark.e2e
LIAR = "witness-3"
FLOOD_MESSAGES = 300


class Liar:
    """Says what it likes to the other witnesses, each on the one channel that they accept from it."""

    def __init__(self, network: Network) -> None:
        self.key = load_identity(network.root / LIAR / "node.key")
        self.committee = network.genesis.committee

    def two_votes(self, slot: int) -> VotePair:
        """Proof against itself: two blocks in one slot."""
        votes = [
            sign_vote(self.key, self.committee, Kind.NOTAR, slot=slot, block_hash=name * 32)
            for name in (b"a", b"b")
        ]
        found = vote_pair(*votes)
        assert found is not None
        return found

    def framing(self, victim: AccountId, slot: int) -> VotePair:
        """The same votes with another's name on them."""
        pair = self.two_votes(slot)
        return replace(
            pair, first=replace(pair.first, witness=victim), second=replace(pair.second, witness=victim)
        )

    @asynccontextmanager
    async def speaking(self, network: Network) -> AsyncIterator[Callable[[bytes], Awaitable[None]]]:
        """A function that says one message to every running witness."""
        network_id = network.genesis.network_id

        async def answer(_peer: AccountId, _body: bytes) -> bytes:
            return encode_answer(
                {"height": 1 << 61, "blocks": [], "certified": b"", "evidence": [], "next": 0}
            )

        async with AsyncExitStack() as stack:
            host = await stack.enter_async_context(open_host(HostConfig(), self.key, network_id))
            Requests(host).serve("ledger", answer)
            channels = []
            for address in network.addresses:
                await host.dial(address)
                to = account_from_peer_id(address.rpartition("/")[2])
                channels.append(await host.open(to, CONSENSUS, frame_bytes_max=MESSAGE_BYTES_MAX))
                stack.callback(channels[-1].abort)

            async def say(message: bytes) -> None:
                for channel in channels:
                    await channel.send(message)

            yield say


async def test_a_witness_that_contradicts_itself_is_shown_and_harms_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it signs reaches every follower as proof; what it says of others reaches nobody; payments go on."""
    monkeypatch.setattr("ledger.sync.WATCH_S", 0.3)
    async with small_network(tmp_path, witnesses=4, workers=1, away=(LIAR,)) as network:
        liar, victim = Liar(network), network.genesis.witnesses[0]
        async with liar.speaking(network) as say:
            await pay(network)
            slot = network.nodes["buyer"].follower.head.slot + 4
            await say(encode_message(liar.framing(victim, slot)))
            pair = liar.two_votes(slot)
            await say(encode_message(pair.first))
            await say(encode_message(pair.second))
            followers = [network.nodes[name].follower for name in ("buyer", "worker-0")]
            await until(lambda: all(follower.watch.findings() for follower in followers))
            for number in range(FLOOD_MESSAGES):
                odd = (
                    Ask(SLOT_MAX, SLOT_MAX, bytes(32)),
                    Recall((1 << 32) - 1, SLOT_MAX),
                    Recalled(0, SLOT_MAX - 1, SLOT_MAX, ()),
                    liar.framing(victim, slot + number),
                    liar.two_votes(slot + number),
                )
                await say(encode_message(odd[number % len(odd)]))
            await pay(network)
            shown = (await network.api("buyer", "ledger.evidence"))["evidence"]
            assert {who for found in shown for who in found["culprits"]} == {peer_id(liar.key.account)}
            status = await network.api("buyer", "status")
            assert 1 <= status["ledger"]["evidence"] <= FLOOD_MESSAGES
            audited: dict[str, Any] = await network.api("buyer", "ledger.audit")
            assert audited["ok"], audited["violation"]


async def pay(network: Network) -> None:
    await network.api("buyer", "send", to=network.peer("worker-0"), amount=10)
