"""An entry past its time by the clock, and not by the ledger: nobody is told that it is lost, nothing is paid twice."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
import trio

from ledger.core.entries import Transfer, sign_entry
from ledger.core.receipt import Receipt
from ledger.wallet import EntryExpired, EntryRefused
from tests.shell.ledger.memory_network import POOR, RICH, memory_network
from tests.shell.ledger.test_wallet_crashes import PowerCut, cut

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from ledger.core.entries import Entry
    from ledger.wallet import Wallet
    from tests.shell.ledger.memory_network import MemoryNetwork

OLD, OTHER = Transfer(POOR.account, 70), Transfer(POOR.account, 700)
LONG_MS = 600_000


@pytest.fixture(autouse=True)
def short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.courier.RESEND_S", 0.1)
    monkeypatch.setattr("ledger.courier.EXPIRY_MARGIN_MS", -1)


def balance(wallet: Wallet) -> int:
    return wallet.follower.state.account(POOR.account).balance


def statuses(wallet: Wallet) -> list[str]:
    return [item.status for item in wallet.store.signed(RICH.account)]


@asynccontextmanager
async def partitioned(folder: Path) -> AsyncIterator[tuple[MemoryNetwork, Entry]]:
    """A network whose witness is cut off, with an entry of the wallet "rich" that is overdue. One credit was paid."""
    async with memory_network(folder, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            await wallet.submit(Transfer(POOR.account, 1))
            await network.stop(0)
            with pytest.raises(EntryExpired, match="not certain") as caught:
                await wallet.submit(OLD, valid_ms=1)
            assert not caught.value.is_certain
            assert wallet.pending() == ()
            (old,) = wallet.overdue()
        yield network, old


async def heal(network: MemoryNetwork, old: Entry) -> None:
    """The witness comes back, and had the overdue entry in a block in time: that block gets final now."""
    now_ms = network.clock_ms
    network.clock_ms = lambda: old.not_after_ms  # type: ignore[method-assign]
    witness = await network.start(0)
    network.clock_ms = now_ms  # type: ignore[method-assign]
    assert await witness.submit(old) is None


async def submitted_meanwhile(
    network: MemoryNetwork, old: Entry, wallet: Wallet, action: Transfer
) -> Receipt | Exception:
    """`action` is signed with the number of the overdue entry, which gets final before any witness hears of it."""
    outcome: list[Receipt | Exception] = []
    ask = wallet._courier._request

    async def unheard(*_: object) -> bytes:
        raise ConnectionError("cut off")

    async def submit() -> None:
        try:
            outcome.append(await wallet.submit(action, valid_ms=LONG_MS))
        except (PowerCut, EntryRefused) as error:
            outcome.append(error)

    wallet._is_current = True
    wallet._courier._request = unheard
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(submit)
            while not wallet.pending():
                await trio.testing.wait_all_tasks_blocked()
            assert [entry.seq for entry in wallet.pending()] == [old.seq], (
                "the same number: never two of them"
            )
            await heal(network, old)
            assert await wallet.follower.wait_for(lambda: balance(wallet) >= 71, 20)
            wallet._courier._request = ask
    return outcome[0]


async def test_another_intent_takes_the_number_and_an_idle_network_is_no_deadlock(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as (network, old):
        await network.start(0)
        async with network.wallet(RICH, "rich") as wallet:
            assert wallet.overdue() == (old,)
            with trio.fail_after(20):
                receipt = await wallet.submit(OTHER, valid_ms=LONG_MS)
                assert receipt.entry.seq == old.seq == 2
                await wallet.follower.archive.wait_beyond(wallet.follower.head.height - 1)
                await wallet.finish()
            assert (wallet.overdue(), balance(wallet)) == ((), 701)
            assert "refused" in statuses(wallet), "now it is certain"


async def test_the_overdue_one_gets_final_and_another_intent_is_signed_with_the_next_number(
    tmp_path: Path,
) -> None:
    async with partitioned(tmp_path) as (network, old), network.wallet(RICH, "rich") as wallet:
        receipt = await submitted_meanwhile(network, old, wallet, OTHER)
        assert isinstance(receipt, Receipt)
        assert (receipt.entry.seq, receipt.entry.action) == (3, OTHER)
        assert balance(wallet) == 771
        assert (await wallet.submit(OLD)).entry == old, "the overdue one still answers for its intent"
        assert balance(wallet) == 771


async def test_the_overdue_one_gets_final_and_answers_for_the_same_intent(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as (network, old), network.wallet(RICH, "rich") as wallet:
        receipt = await submitted_meanwhile(network, old, wallet, OLD)
        assert isinstance(receipt, Receipt)
        assert receipt.entry == old
        assert balance(wallet) == 71
        with trio.fail_after(20):
            again = await wallet.submit(OLD)
        assert (again.entry.seq, balance(wallet)) == (3, 141), "it answers once"


async def test_after_a_restart_it_still_answers_for_the_same_intent(tmp_path: Path) -> None:
    async with partitioned(tmp_path) as (network, old):
        await heal(network, old)
        async with network.wallet(RICH, "rich") as wallet:
            with trio.fail_after(20):
                assert await wallet.follower.wait_for(lambda: balance(wallet) == 71, 20)
                await wallet.finish()
                assert statuses(wallet)[-1] == "overdue"
                assert wallet.overdue() == ()
                receipt = await wallet.submit(OLD)
            assert (receipt.entry, balance(wallet)) == (old, 71)
            assert statuses(wallet)[-1] == "final"


async def test_it_does_not_answer_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.overdue.REPEATED_WITHIN_MS", -1_000)
    async with partitioned(tmp_path) as (network, old):
        await heal(network, old)
        async with network.wallet(RICH, "rich") as wallet:
            with trio.fail_after(20):
                assert await wallet.follower.wait_for(lambda: balance(wallet) == 71, 20)
                receipt = await wallet.submit(OLD)
            assert (receipt.entry.seq, balance(wallet)) == (3, 141)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_killed_while_it_signs_anew_it_pays_each_intent_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    async with partitioned(tmp_path) as (network, old):
        async with network.wallet(RICH, "rich") as wallet:
            save = wallet._save

            def cut_the_second(entry: Entry, replaced: Entry | None = None) -> None:
                if replaced is not None:
                    cut(wallet, "save_signed", before=before)
                save(entry, replaced)

            monkeypatch.setattr(wallet, "_save", cut_the_second)
            assert isinstance(await submitted_meanwhile(network, old, wallet, OTHER), PowerCut)
            assert balance(wallet) == 71
        async with network.wallet(RICH, "rich") as wallet:
            with trio.fail_after(20):
                await wallet.finish()
            assert (wallet.pending(), balance(wallet)) == ((), 771)


@pytest.mark.parametrize("before", [True, False], ids=["before", "after"])
async def test_killed_while_it_answers_for_the_same_intent_it_pays_once(tmp_path: Path, before: bool) -> None:
    async with partitioned(tmp_path) as (network, old):
        async with network.wallet(RICH, "rich") as wallet:
            cut(wallet, "mark_signed", before=before)
            assert isinstance(await submitted_meanwhile(network, old, wallet, OLD), PowerCut)
        async with network.wallet(RICH, "rich") as wallet:
            with trio.fail_after(20):
                await wallet.finish()
            assert (wallet.pending(), balance(wallet)) == ((), 71)


async def test_it_is_certain_once_a_later_block_is_final(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as wallet:
        await wallet.submit(Transfer(POOR.account, 1))
        late = sign_entry(
            RICH,
            network.genesis.network_id,
            seq=2,
            not_after_ms=wallet.follower.head.time_ms - 1,
            fee=0,
            action=OLD,
        )
        wallet.store.save_signed(late)
        with trio.fail_after(20):
            await wallet.finish()
        assert statuses(wallet)[-1] == "expired"
        assert (wallet.pending(), wallet.overdue()) == ((), ())


async def test_with_too_many_of_unknown_fate_nothing_more_is_signed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ledger.wallet.OVERDUE_MAX", 1)
    async with partitioned(tmp_path) as (network, old), network.wallet(RICH, "rich") as wallet:
        wallet._is_current = True
        with pytest.raises(Exception, match="nothing was signed: the fate of 1"):
            await wallet.submit(OTHER)
        assert wallet.overdue() == (old,)
