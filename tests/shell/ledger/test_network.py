"""Whole ledgers in one process: witnesses, wallets, followers, receipts, with witnesses missing or coming back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
import trio

from ledger.archive import Archive
from ledger.core.audit import audit
from ledger.core.block import FinalBlock
from ledger.core.encoding import unpack
from ledger.core.entries import Claim, Lock, Transfer, sign_entry, sign_voucher
from ledger.core.requests import Head, decode_answer, encode_answer, encode_request
from ledger.core.state import Reason
from ledger.store import StoreFullError, open_store
from ledger.sync import HEDGE_S, Follower
from ledger.wallet import EntryPending
from tests.shell.ledger.memory_network import POOR, RICH, memory_network

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from ledger.core.keys import AccountId


async def test_one_witness_alone_finalises(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as wallet:
        receipt = await wallet.submit(Transfer(POOR.account, 5))
        receipt.verify(network.genesis)
        assert network.nodes[network.keys[0].account].witness.faults_tolerated == 0


@pytest.mark.parametrize("dead", [None, 3])
async def test_two_wallets_settle_a_lock_with_four_witnesses(tmp_path: Path, dead: int | None) -> None:
    async with (
        memory_network(tmp_path, 4, running=3 if dead else 4) as network,
        network.wallet(RICH, "rich") as rich,
        network.wallet(POOR, "poor") as poor,
    ):
        expiry_ms = network.clock_ms() + 60_000
        with trio.fail_after(20):
            locked = await rich.submit(Lock(POOR.account, 1_000, expiry_ms))
            lock_id = locked.entry.entry_id(network.genesis.network_id)
            voucher = sign_voucher(RICH, network.genesis.network_id, lock_id, 700)
            claimed = await poor.submit(Claim(lock_id, 700, voucher.signature))
            for receipt in (locked, claimed):
                receipt.verify(network.genesis)
            for number in range(5):
                await rich.submit(Transfer(POOR.account, number + 1))
        state = rich.follower.state
        assert state.account(POOR.account).balance == 700 + 15
        state.assert_invariants()
        report = audit(network.genesis, rich.follower.blocks())
        assert report.entries == 7


async def test_a_witness_that_was_away_catches_up_and_votes_again(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4) as network, network.wallet(RICH, "rich") as rich:
        with trio.fail_after(30):
            await rich.submit(Transfer(POOR.account, 1))
            await network.stop(2)
            for _ in range(5):
                await rich.submit(Transfer(POOR.account, 1))
            back = await network.start(2)
            await network.stop(1)  # from here on nothing is final without witness 2
            await rich.submit(Transfer(POOR.account, 1))
            await back.archive.wait_beyond(rich.follower.head.height - 1)
        assert back.archive.chain.state.account(POOR.account).balance == 7
        assert back.trouble == ""


async def test_an_entry_that_reached_one_witness_only_gets_final(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4) as network, network.wallet(RICH, "rich") as rich:
        network_id = network.genesis.network_id
        item = sign_entry(
            RICH,
            network_id,
            seq=1,
            not_after_ms=network.clock_ms() + 60_000,
            fee=0,
            action=Transfer(POOR.account, 5),
        )
        only = network.nodes[network.keys[3].account].witness  # not the leader of slot 1
        assert await only.submit(item) is None
        assert await rich.follower.wait_for(item.entry_id(network_id), 20)
        with trio.fail_after(20):
            await only.archive.wait_beyond(0)
        again = await only.submit(item)
        assert again is not None
        assert again.reason is Reason.REPEAT


async def test_a_witness_whose_disk_is_full_stops_voting_says_so_and_comes_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.archive.RETRY_S", 0.05)
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as rich:
        with trio.fail_after(30):
            await rich.submit(Transfer(POOR.account, 1))
            node = network.nodes[network.keys[0].account]
            store = node.witness.archive.store
            write = store.write

            def fail(_batch: object) -> None:
                raise StoreFullError("the disk is full: free some space")

            monkeypatch.setattr(store, "write", fail)
            with pytest.raises(EntryPending):
                await rich.submit(Transfer(POOR.account, 2), timeout_s=0.5)
            assert "disk is full" in node.witness.trouble
            answer = decode_answer(await node.service.answer(POOR.account, encode_request(Head())))
            assert answer["height"] == 1, "reads go on"
            monkeypatch.setattr(store, "write", write)
            await rich.finish()
            assert rich.pending() == ()
            assert rich.follower.state.account(POOR.account).balance == 3
            assert node.witness.trouble == ""


async def test_a_follower_leaves_a_liar_and_a_dead_source(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4) as network, network.wallet(RICH, "rich") as rich:
        liar, dead = network.keys[0].account, network.keys[1].account
        lies = 0

        async def request(witness: AccountId, body: bytes, timeout_s: float) -> bytes:
            nonlocal lies
            if witness == dead:
                raise ConnectionError("gone")
            answer = await network.request(witness, body, timeout_s)
            if witness == liar and len(answer) > 300:
                lies += 1
                return answer.replace(answer[200:204], b"\0\0\0\0")
            return answer

        with trio.fail_after(30):
            for _ in range(3):
                await rich.submit(Transfer(POOR.account, 1))
            with open_store(tmp_path / "follower.db", network.genesis) as store:
                follower = Follower(network.genesis, store, lambda: network.genesis.witnesses, request)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(follower.run)
                    assert await follower.wait_for(lambda: follower.head.height >= 3, 20)
                    nursery.cancel_scope.cancel()
            assert follower.state.account(POOR.account).balance == 3


async def test_a_witness_catches_up_although_another_hangs(tmp_path: Path, autojump_clock: MockClock) -> None:
    """The first that it asks hangs: pulled one after the other, as before, the blocks came 5 s later."""
    async with memory_network(tmp_path, 4, running=3, in_thread=False) as network:
        async with network.wallet(RICH, "rich") as rich:
            for number in range(3):
                await rich.submit(Transfer(POOR.account, number + 1))
        hung, asked_s = network.keys[1].account, []
        honest = network.request

        async def request(witness: AccountId, body: bytes, timeout_s: float) -> bytes:
            if trio.current_time() < begin_s + 1:
                raise ConnectionError("not linked yet")
            if witness == hung:
                asked_s.append(trio.current_time())
                with trio.fail_after(timeout_s):
                    await trio.sleep_forever()
            return await honest(witness, body, timeout_s)

        begin_s = trio.current_time()
        network.request = request  # type: ignore[method-assign]
        late = await network.start(3)
        await trio.sleep(1)
        late._behind = dict.fromkeys((hung, network.keys[0].account))
        late._look.set()
        asked_from_s = trio.current_time()
        await late.archive.wait_beyond(2)
        assert asked_s
        assert trio.current_time() - asked_from_s <= 2 * HEDGE_S


async def test_a_source_that_hangs_hides_nothing(tmp_path: Path, autojump_clock: MockClock) -> None:
    async with (
        memory_network(tmp_path, 1, in_thread=False) as network,
        network.wallet(RICH, "rich") as rich,
    ):
        witness, hung = network.keys[0].account, POOR.account

        async def request(source: AccountId, body: bytes, timeout_s: float) -> bytes:
            if source == hung:
                with trio.fail_after(timeout_s):
                    await trio.sleep_forever()
            return await network.request(source, body, timeout_s)

        with open_store(tmp_path / "follower.db", network.genesis) as store:
            archive = Archive(store, in_thread=False)
            sources = (witness, hung)  # the second one is asked first
            follower = Follower(network.genesis, store, lambda: sources, request, archive=archive)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.run)
                await rich.submit(Transfer(POOR.account, 1))
                assert await follower.wait_for(lambda: follower.head.height >= 1, 3 * HEDGE_S)
                nursery.cancel_scope.cancel()


async def test_a_source_that_repeats_what_is_settled_hides_nothing(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It answered at once, again and again, with a block that was taken long ago, and no other source was asked."""
    async with (
        memory_network(tmp_path, 1, in_thread=False) as network,
        network.wallet(RICH, "rich") as rich,
    ):
        witness, liar = network.keys[0].account, POOR.account
        await rich.submit(Transfer(POOR.account, 1))
        first = rich.follower.archive.store.blocks(1, 1, 1)

        async def request(source: AccountId, body: bytes, timeout_s: float) -> bytes:
            if source == liar:
                await trio.sleep(0.01)
                return encode_answer({"blocks": first})
            return await network.request(source, body, timeout_s)

        with open_store(tmp_path / "follower.db", network.genesis) as store:
            archive = Archive(store, in_thread=False)
            follower = Follower(network.genesis, store, lambda: (witness, liar), request, archive=archive)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(follower.run)
                for _ in range(3):
                    await rich.submit(Transfer(POOR.account, 1))
                    assert await follower.wait_for(
                        lambda: follower.head.height >= rich.follower.head.height, 10
                    )
                nursery.cancel_scope.cancel()


async def test_a_witness_that_serves_endless_false_blocks_holds_up_no_other(
    tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Witness 2 hears no messages, and looks at the others now and then: the liar's blocks had no end."""
    async with (
        memory_network(tmp_path, 4, in_thread=False) as network,
        network.wallet(RICH, "rich") as rich,
    ):
        liar, deaf = network.keys[0].account, network.keys[2].account
        await rich.submit(Transfer(POOR.account, 1))
        model = next(iter(rich.follower.blocks(1, 1)))
        answer, send = network.request, network.send

        async def request(source: AccountId, body: bytes, timeout_s: float) -> bytes:
            question = unpack(body)
            if source != liar or question["op"] != "blocks":
                return await answer(source, body, timeout_s)
            await trio.sleep(0.01)
            height = question["height"]
            header = replace(
                model.header, height=height, slot=height + 1, parent_slot=height, parent_hash=b"p" * 32
            )
            certificate = replace(model.certificate, slot=height + 1)
            return encode_answer({"blocks": [FinalBlock(header, model.entries, certificate).encode()]})

        async def dropped(sender: AccountId, to: AccountId, message: bytes) -> None:
            if deaf not in {sender, to}:
                await send(sender, to, message)

        network.request, network.send = request, dropped  # type: ignore[method-assign]
        await network.stop(2)
        deafened = await network.start(2)
        for _ in range(3):
            await trio.sleep(20)
            await rich.submit(Transfer(POOR.account, 1))
            with trio.fail_after(60):
                await deafened.archive.wait_beyond(rich.follower.head.height - 1)
