"""The power goes out at every step of an entry's way; wallets are restored, cut off, lied to. One fate each."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ledger.core.entries import Entry, Transfer, sign_entry
from ledger.core.requests import decode_answer, encode_answer
from ledger.wallet import EntryPending, WalletBehind
from tests.shell.ledger.memory_network import POOR, RICH, memory_network

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.keys import SigningKey
    from ledger.wallet import Wallet
    from tests.shell.ledger.memory_network import MemoryNetwork


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.courier.RESEND_S", 0.1)


class PowerCut(Exception):
    """Nothing of the process goes on."""


def cut(wallet: Wallet, step: str, *, before: bool) -> None:
    """End the wallet's process at its next `step`, before or after it is done."""
    owner: Any = wallet if step == "_request" else wallet.store
    done = getattr(owner, step)

    def now(*args: Any, **named: Any) -> None:
        if not before:
            done(*args, **named)
        raise PowerCut

    async def soon(*args: Any) -> bytes:
        if not before:
            await done(*args)
        raise PowerCut

    setattr(owner, step, soon if step == "_request" else now)
    if step == "_request":
        wallet._courier._request = soon  # type: ignore[assignment]


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("step", ["save_signed", "_request"])
async def test_killed_on_the_way_it_pays_once_or_not_at_all(tmp_path: Path, step: str, before: bool) -> None:
    async with memory_network(tmp_path, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            await wallet.submit(Transfer(POOR.account, 1))
            cut(wallet, step, before=before)
            with pytest.raises((PowerCut, ExceptionGroup)):
                await wallet.submit(Transfer(POOR.account, 70))
        paid = 1 if (step, before) == ("save_signed", True) else 71
        async with network.wallet(RICH, "rich") as wallet:
            with trio.fail_after(20):
                await wallet.finish()
                assert wallet.pending() == ()
                assert wallet.follower.state.account(POOR.account).balance == paid
                receipt = await wallet.submit(Transfer(POOR.account, 700))
            assert receipt.entry.seq == (2 if paid == 1 else 3)
            assert wallet.follower.state.account(POOR.account).balance == paid + 700


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_killed_when_it_writes_that_an_entry_expired_it_finds_that_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    monkeypatch.setattr("ledger.courier.EXPIRY_MARGIN_MS", -1)
    async with memory_network(tmp_path, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            await wallet.submit(Transfer(POOR.account, 1))
            await network.stop(0)
            cut(wallet, "mark_signed", before=before)
            with pytest.raises(PowerCut):
                await wallet.submit(Transfer(POOR.account, 70), valid_ms=1)
            assert bool(wallet.pending()) is before
        await network.start(0)
        async with network.wallet(RICH, "rich") as wallet:
            with trio.fail_after(20):
                await wallet.finish()
                receipt = await wallet.submit(Transfer(POOR.account, 700), valid_ms=60_000)
            assert receipt.entry.seq == 2
            assert wallet.follower.state.account(POOR.account).balance == 701


async def test_killed_before_it_writes_that_an_entry_is_final_it_sees_so_again(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            await wallet.submit(Transfer(POOR.account, 1))
            cut(wallet, "save_signed", before=True)  # it would have noted the first one in passing
            with pytest.raises(PowerCut):
                await wallet.submit(Transfer(POOR.account, 70))
        async with network.wallet(RICH, "rich") as wallet:
            assert [item.status for item in wallet.store.signed(RICH.account)] == ["pending"]
            with trio.fail_after(20):
                await network_is_read(wallet, 1)
                await wallet.finish()
            assert [item.status for item in wallet.store.signed(RICH.account)] == ["final"]


async def network_is_read(wallet: Wallet, seq: int) -> None:
    assert await wallet.follower.wait_for(lambda: wallet.follower.state.account(RICH.account).seq >= seq, 20)


async def test_what_a_restored_wallet_signed_and_forgot_is_taken_up_not_contradicted(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4, running=2) as network:
        async with network.wallet(RICH, "rich") as wallet:
            with pytest.raises(EntryPending):
                await wallet.submit(Transfer(POOR.account, 7), timeout_s=0.3)
            (forgotten,) = wallet.pending()
        async with network.wallet(RICH, "restored") as wallet:
            with pytest.raises(WalletBehind, match="nothing was signed"):
                await wallet.submit(Transfer(POOR.account, 5), timeout_s=0.5)
            assert wallet.pending() == (forgotten,)
            await network.start(2)
            with trio.fail_after(30):
                receipt = await wallet.submit(Transfer(POOR.account, 50))
            assert receipt.entry.seq == 2
            assert wallet.follower.state.account(POOR.account).balance == 57


def signed(key: SigningKey, network: MemoryNetwork, seq: int) -> Entry:
    return sign_entry(
        key,
        network.genesis.network_id,
        seq=seq,
        not_after_ms=network.clock_ms() + 60_000,
        fee=0,
        action=Transfer(POOR.account, 1_000 + seq),
    )


async def test_a_liar_cannot_make_a_wallet_take_up_what_it_should_not(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4) as network, network.wallet(RICH, "rich") as wallet:
        forged = sign_entry_as(RICH, POOR, network)
        shown = [
            b"",
            b"\x01" * 193,
            forged.encode(),
            signed(POOR, network, 1).encode(),
            signed(RICH, network, 3).encode(),  # ours, and nothing leads there
            *[forged.encode()] * 100,
        ]
        answer = wallet._request

        async def lying(witness: bytes, body: bytes, timeout_s: float) -> bytes:
            said = await answer(witness, body, timeout_s)  # type: ignore[arg-type]
            fields = decode_answer(said)
            if witness == network.keys[3].account and "waiting" in fields:
                return encode_answer({**fields, "waiting": shown})
            return said

        wallet._request = lying
        with trio.fail_after(20):
            receipt = await wallet.submit(Transfer(POOR.account, 7))
        assert receipt.entry.seq == 1
        assert [item.entry for item in wallet.store.signed(RICH.account)] == [receipt.entry]


def sign_entry_as(owner: SigningKey, forger: SigningKey, network: MemoryNetwork) -> Entry:
    entry = signed(forger, network, 1)
    return Entry(owner.account, entry.seq, entry.not_after_ms, entry.fee, entry.action, entry.signature)


async def test_whoever_waits_hears_for_what(tmp_path: Path) -> None:
    heard: list[str] = []
    async with memory_network(tmp_path, 4, running=3) as network, network.wallet(RICH, "rich") as wallet:
        await wallet.submit(Transfer(POOR.account, 1), on_wait=heard.append)
        assert wallet.waits_for == ""
        await network.stop(2)
        with pytest.raises(EntryPending):
            await wallet.submit(Transfer(POOR.account, 1), timeout_s=0.5, on_wait=heard.append)
        assert heard
        assert "TRANSFER" in heard[-1]
        assert "2 of 4 witnesses answer, 3 must agree" in heard[-1]
        await network.stop(0)
        await network.stop(1)
        with pytest.raises(WalletBehind, match=r"nothing was signed in 0\.5 s: .*no witness answers"):
            await wallet.submit(Transfer(POOR.account, 1), timeout_s=0.5, on_wait=heard.append)
        assert "no witness answers" in heard[-1]


async def test_cut_off_it_does_not_keep_those_waiting_who_have_nothing_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.courier.CUT_OFF_S", 0.3)
    monkeypatch.setattr("ledger.wallet.LOOK_S", 0.05)
    outcomes: list[type[Exception]] = []
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as wallet:
        await wallet.submit(Transfer(POOR.account, 1))
        await network.stop(0)

        async def pay(timeout_s: float) -> None:
            try:
                await wallet.submit(Transfer(POOR.account, 1), timeout_s=timeout_s)
            except (EntryPending, WalletBehind) as error:
                outcomes.append(type(error))

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(pay, 2.0)
                for _ in range(3):
                    await trio.testing.wait_all_tasks_blocked()
                    nursery.start_soon(pay, 60.0)
        assert outcomes == [WalletBehind] * 3 + [EntryPending]
        assert len(wallet.pending()) == 1


async def test_what_a_caller_left_open_is_settled_without_another(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as wallet:
        await wallet.submit(Transfer(POOR.account, 1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wallet.run)
            await network.stop(0)
            with pytest.raises(EntryPending):
                await wallet.submit(Transfer(POOR.account, 7), timeout_s=0.2)
            await network.start(0)
            with trio.fail_after(20):
                await network_is_read(wallet, 2)
                await wallet.finish()
                assert wallet.waits_for == ""
            nursery.cancel_scope.cancel()
        assert wallet.follower.state.account(POOR.account).balance == 8


async def test_a_committee_that_changes_while_it_is_asked_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the witnesses of an epoch that is over say of the account is no longer what f + 1 witnesses say."""
    asked: list[int] = []
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as wallet:
        first = network.genesis.committee
        second = replace(first, epoch=1)
        answer = wallet._request

        async def ask(witness: bytes, body: bytes, timeout_s: float) -> bytes:
            asked.append(seen[0].epoch)
            seen[0] = second  # a ROTATE becomes final meanwhile
            return await answer(witness, body, timeout_s)  # type: ignore[arg-type]

        seen = [first]
        wallet._request = ask
        monkeypatch.setattr("ledger.sync.Follower.committee", property(lambda _: seen[0]))
        with trio.fail_after(20):
            await wallet.submit(Transfer(POOR.account, 7))
        assert asked == [0, 1]
