"""A wallet's entry has one fate, whatever crashes, refuses or was restored in between."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from ledger.core.entries import Transfer, sign_entry
from ledger.core.requests import encode_answer
from ledger.core.state import Reason
from ledger.store import open_store
from ledger.wallet import EntryPending, EntryRefused, WalletBehind
from tests.shell.ledger.memory_network import CREDIT, POOR, RICH, memory_network

if TYPE_CHECKING:
    from pathlib import Path

    from trio.testing import MockClock

    from ledger.core.keys import AccountId


async def test_what_the_own_copy_refuses_is_never_signed(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as wallet:
        with pytest.raises(EntryRefused) as caught:
            await wallet.submit(Transfer(POOR.account, CREDIT + 1))
        assert caught.value.reason is Reason.INSUFFICIENT
        assert wallet.pending() == ()
        await wallet.submit(Transfer(POOR.account, CREDIT))


@pytest.mark.parametrize("busy_s", [0.2, 1.5])
async def test_a_witness_that_is_busy_is_asked_again_soon_and_not_often(
    tmp_path: Path, autojump_clock: MockClock, busy_s: float
) -> None:
    async with memory_network(tmp_path, 1, in_thread=False) as network:
        offered: list[float] = []

        async def request(witness: AccountId, body: bytes, timeout_s: float) -> bytes:
            if b"submit" in body:
                offered.append(trio.current_time())
                if trio.current_time() < offered[0] + busy_s:
                    return encode_answer({"status": "refused", "reason": Reason.BUSY, "detail": "not yet"})
            return await honest(witness, body, timeout_s)

        honest, network.request = network.request, request  # type: ignore[method-assign]
        async with network.wallet(RICH, "rich") as wallet:
            await wallet.submit(Transfer(POOR.account, 1))
        assert trio.current_time() - offered[0] <= 2 * busy_s
        assert len(offered) <= 8


async def test_a_crash_before_sending_sends_the_same_bytes_later(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network:
        signed = sign_entry(
            RICH,
            network.genesis.network_id,
            seq=1,
            not_after_ms=network.clock_ms() + 60_000,
            fee=0,
            action=Transfer(POOR.account, 7),
        )
        with open_store(tmp_path / "rich.db", network.genesis) as store:
            store.save_signed(signed)  # and the power goes out
        async with network.wallet(RICH, "rich") as wallet:
            assert wallet.pending() == (signed,)
            with trio.fail_after(20):
                receipt = await wallet.submit(Transfer(POOR.account, 1))
            assert receipt.entry.seq == 2
            assert wallet.pending() == ()
            assert wallet.follower.state.account(POOR.account).balance == 8


async def test_a_crash_after_sending_does_not_pay_twice(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            entry = (await wallet.submit(Transfer(POOR.account, 7))).entry
            wallet.store.mark_signed(entry, "pending")  # as if the outcome had not been written
        async with network.wallet(RICH, "rich") as wallet:
            with trio.fail_after(20):
                await wallet.finish()
            assert wallet.pending() == ()
            assert wallet.follower.state.account(POOR.account).balance == 7


async def test_without_witnesses_it_does_not_sign(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4, running=1) as network, network.wallet(RICH, "rich") as wallet:
        with pytest.raises(WalletBehind, match="only 1 of 4"):
            await wallet.submit(Transfer(POOR.account, 1))
        assert wallet.pending() == ()


async def test_without_a_quorum_the_entry_stays_pending_and_is_final_later(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4, running=2) as network, network.wallet(RICH, "rich") as wallet:
        with pytest.raises(EntryPending):
            await wallet.submit(Transfer(POOR.account, 1), timeout_s=0.3)
        assert len(wallet.pending()) == 1
        with pytest.raises(WalletBehind, match="nothing was signed"):
            await wallet.submit(Transfer(POOR.account, 1), timeout_s=0.3)
        assert len(wallet.pending()) == 1
        await network.start(2)
        with trio.fail_after(30):
            await wallet.finish()
        assert wallet.follower.state.account(POOR.account).balance == 1


async def test_restored_from_an_old_backup_it_catches_up_before_it_signs(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            for _ in range(3):
                await wallet.submit(Transfer(POOR.account, 1))
        # The backup is older than all three: an empty database. The ledger is three entries ahead of it.
        async with network.wallet(RICH, "restored") as wallet:
            with trio.fail_after(20):
                receipt = await wallet.submit(Transfer(POOR.account, 1))
            assert receipt.entry.seq == 4


async def test_restored_and_cut_off_from_blocks_it_refuses_to_sign(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.wallet.CATCH_UP_S", 0.2)
    async with memory_network(tmp_path, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            await wallet.submit(Transfer(POOR.account, 1))
        monkeypatch.setattr("ledger.sync.Follower._pull_from", _never)
        async with network.wallet(RICH, "restored") as wallet:
            with pytest.raises(WalletBehind, match="knows entry 1"):
                await wallet.submit(Transfer(POOR.account, 1))
            assert wallet.pending() == ()


async def _never(*_: object) -> None:
    await trio.sleep_forever()


async def test_a_cloned_wallet_loses_the_race_and_is_told(tmp_path: Path) -> None:
    async with (
        memory_network(tmp_path, 4) as network,
        network.wallet(RICH, "one") as one,
        network.wallet(RICH, "two") as two,
    ):
        outcomes: list[object] = []

        async def pay(wallet: object, amount: int) -> None:
            try:
                outcomes.append(await wallet.submit(Transfer(POOR.account, amount)))  # type: ignore[attr-defined]
            except EntryRefused as refusal:
                outcomes.append(refusal.reason)

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pay, one, 1)
                nursery.start_soon(pay, two, 2)
        lost = [outcome for outcome in outcomes if isinstance(outcome, Reason)]
        state = one.follower.state
        assert state.account(RICH.account).seq == 2 - len(lost)
        assert all(reason in {Reason.CONFLICT, Reason.SEQUENCE_USED} for reason in lost)


async def test_a_clock_that_is_weeks_ahead_is_asked_about(tmp_path: Path, autojump_clock: MockClock) -> None:
    """What it signs is valid for longer than any entry may be: the witnesses refuse it, and its own copy does not."""
    async with memory_network(tmp_path, 4, in_thread=False) as network:
        right = network.clock_ms
        network.clock_ms = lambda: right() + 40 * 86_400_000  # type: ignore[method-assign]
        async with network.wallet(RICH, "rich") as wallet:
            said: list[str] = []
            with pytest.raises(EntryPending):
                await wallet.submit(Transfer(POOR.account, 1), timeout_s=8, on_wait=said.append)
        assert "4 of 4 witnesses refuse it (valid_too_long)" in said[-1]
        assert "clock" in said[-1]
