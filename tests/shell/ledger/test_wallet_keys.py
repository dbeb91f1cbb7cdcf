"""One account, several keys: what is lost or stolen is replaced, and what the old key signed is worth nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from ledger.core.entries import NO_KEY, Claim, Entry, Lock, Transfer, sign_entry, verify_voucher
from ledger.core.keys import peer_id
from ledger.core.requests import Submit, decode_answer, encode_request
from ledger.core.state import Reason
from ledger.wallet import EntryPending, EntryRefused, KeyReplaced, Wallet
from tests.shell.ledger.memory_network import CREDIT, POOR, RICH, key, memory_network

if TYPE_CHECKING:
    from pathlib import Path

    from tests.shell.ledger.memory_network import MemoryNetwork

NEW, RECOVERY, OTHER = key(210), key(211), key(212)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ledger.courier.RESEND_S", 0.1)
    monkeypatch.setattr("ledger.core.authority.REKEY_PAUSE_MS", 0)


async def rotate(wallet: Wallet) -> None:
    """Register a recovery key, and have it name NEW."""
    with trio.fail_after(20):
        await wallet.submit_rekey(wallet.sign_rekey(RICH, RECOVERY.account))
        wallet.hold(NEW)
        await wallet.submit_rekey(wallet.sign_rekey(NEW, RECOVERY.account, by=RECOVERY))


def stolen(network: MemoryNetwork, seq: int, amount: int = 1, signer: object = RICH) -> Entry:
    """What a thief with a copy of the first key signs."""
    return sign_entry(
        signer,  # type: ignore[arg-type]
        network.genesis.network_id,
        account=RICH.account,
        seq=seq,
        not_after_ms=network.clock_ms() + 60_000,
        fee=0,
        action=Transfer(POOR.account, amount),
    )


async def refusal(network: MemoryNetwork, entry: Entry) -> set[str]:
    """What the witnesses say to an entry."""
    said = set()
    for witness in network.keys:
        answer = await network.request(witness.account, encode_request(Submit(entry.encode())), 5)
        fields = decode_answer(answer)
        said.add(str(fields.get("reason", fields["status"])))
    return said


async def test_a_rotated_account_pays_with_its_new_key_under_its_old_name(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4) as network, network.wallet(RICH, "rich") as wallet:
        await wallet.submit(Transfer(POOR.account, 1))
        await rotate(wallet)
        with trio.fail_after(20):
            receipt = await wallet.submit(Transfer(POOR.account, 2))
        receipt.verify(network.genesis)
        assert receipt.entry.account == RICH.account
        assert receipt.signer(network.genesis.network_id) == NEW.account
        assert wallet.follower.state.account(POOR.account).balance == 3
        assert await refusal(network, stolen(network, 3)) == {"bad_signature"}


async def test_a_wallet_without_the_new_key_signs_nothing(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network:
        async with network.wallet(RICH, "rich") as wallet:
            await rotate(wallet)
        async with network.wallet(RICH, "clone") as clone:
            await clone.follower.wait_for(lambda: clone.follower.state.key_line(RICH.account) is not None, 5)
            with trio.fail_after(5), pytest.raises(KeyReplaced, match=peer_id(NEW.account)):
                await clone.submit(Transfer(POOR.account, 1))
            assert clone.pending() == ()
            clone.hold(NEW)
            with trio.fail_after(20):
                await clone.submit(Transfer(POOR.account, 1))


async def test_a_thief_races_and_the_account_is_its_owners_again(tmp_path: Path) -> None:
    """The thief has the spending key and floods; the owner has the recovery key and one entry of its own lane."""
    async with memory_network(tmp_path, 4) as network, network.wallet(RICH, "rich") as wallet:
        await wallet.submit_rekey(wallet.sign_rekey(RICH, RECOVERY.account))
        taken: list[int] = []

        async def rob() -> None:
            seq = 1
            while True:
                said = await refusal(network, stolen(network, seq, 5))
                if said & {"waiting", "final"}:
                    taken.append(seq)
                    seq += 1
                await trio.sleep(0.001)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rob)
            await trio.sleep(0.2)
            wallet.hold(NEW)
            with trio.fail_after(20):
                await wallet.submit_rekey(wallet.sign_rekey(NEW, RECOVERY.account, by=RECOVERY))
            nursery.cancel_scope.cancel()
        assert taken, "the thief did get something"
        with pytest.raises(EntryRefused) as caught:  # nor can the stolen key undo it
            await wallet.submit_rekey(wallet.sign_rekey(OTHER, NO_KEY, by=RICH))
        assert caught.value.reason is Reason.BAD_SIGNATURE
        with trio.fail_after(20):
            receipt = await wallet.submit(Transfer(POOR.account, 1))
        lost = wallet.follower.state.account(POOR.account).balance - 1
        assert lost == 5 * (receipt.entry.seq - 1)
        for signer in (RICH, RECOVERY):
            assert await refusal(network, stolen(network, receipt.entry.seq + 1, signer=signer)) == {
                "bad_signature"
            }


async def test_what_the_old_key_signed_and_nobody_ordered_is_refused_and_not_waited_for(
    tmp_path: Path,
) -> None:
    async with memory_network(tmp_path, 4, running=2) as network, network.wallet(RICH, "rich") as wallet:
        with pytest.raises(EntryPending):
            await wallet.submit(Transfer(POOR.account, 7), timeout_s=0.3)
        for number in (0, 1):
            await network.stop(number)  # what waited there is forgotten: it waits in the wallet alone
        for number in range(4):
            await network.start(number)
        wallet.hold(NEW)
        with trio.fail_after(30):
            await wallet.submit_rekey(wallet.sign_rekey(NEW, RECOVERY.account))
            await wallet.finish()
            assert wallet.pending() == ()
            receipt = await wallet.submit(Transfer(POOR.account, 50))
            assert receipt.entry.seq == 1
            await wallet.follower.archive.wait_beyond(wallet.follower.head.height - 1)
            await wallet.finish()  # another entry has its number now: so it is certain
        statuses = [item.status for item in wallet.store.signed(RICH.account)]
        assert "refused" in statuses
        assert "overdue" not in statuses
        assert wallet.follower.state.account(POOR.account).balance == 50


async def test_a_lock_of_the_old_key_is_paid_by_vouchers_of_the_old_key(tmp_path: Path) -> None:
    """A REKEY cannot rob a payee: its lock goes on being worth what the key says that opened it."""
    async with (
        memory_network(tmp_path, 1) as network,
        network.wallet(RICH, "rich") as rich,
        network.wallet(POOR, "poor") as poor,
    ):
        network_id = network.genesis.network_id
        with trio.fail_after(30):
            expiry_ms = network.clock_ms() + 3_600_000
            before = await rich.submit(Lock(POOR.account, 1_000, expiry_ms))
            await rotate(rich)
            after = await rich.submit(Lock(POOR.account, 1_000, expiry_ms))
            claimed = 0
            for receipt, signer, amount in ((before, RICH, 300), (after, NEW, 200)):
                lock_id = receipt.entry.entry_id(network_id)
                assert receipt.signer(network_id) == signer.account
                voucher = rich.sign_voucher(lock_id, amount)
                assert verify_voucher(voucher, signer.account, network_id)
                await poor.submit(Claim(lock_id, voucher.cumulative, voucher.signature))
                claimed += amount
            assert poor.follower.state.account(POOR.account).balance == claimed
            assert await rich.follower.wait_for(
                lambda: rich.follower.state.account(RICH.account).balance == -claimed, 10
            )


async def test_a_payee_that_rotated_claims_with_its_new_key(tmp_path: Path) -> None:
    async with (
        memory_network(tmp_path, 1) as network,
        network.wallet(RICH, "rich") as rich,
        network.wallet(POOR, "poor") as poor,
    ):
        with trio.fail_after(30):
            receipt = await rich.submit(Lock(POOR.account, 1_000, network.clock_ms() + 3_600_000))
            await rich.submit(Transfer(POOR.account, 5))
            poor.hold(NEW)
            await poor.follower.wait_for(lambda: poor.follower.state.account(POOR.account).balance == 5, 10)
            await poor.submit_rekey(poor.sign_rekey(NEW, NO_KEY))
            lock_id = receipt.entry.entry_id(network.genesis.network_id)
            voucher = rich.sign_voucher(lock_id, 400)
            claim = await poor.submit(Claim(lock_id, 400, voucher.signature))
        assert claim.signer(network.genesis.network_id) == NEW.account
        assert poor.follower.state.account(POOR.account).balance == 405


async def test_a_rekey_cut_short_is_sent_again_after_a_restart(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 4, running=2) as network:
        async with network.wallet(RICH, "rich") as wallet:
            with pytest.raises(EntryPending):
                await wallet.submit_rekey(wallet.sign_rekey(NEW, RECOVERY.account), timeout_s=0.3)
        await network.start(2)
        async with network.wallet(RICH, "rich") as wallet:
            wallet.hold(NEW)
            with trio.fail_after(30):
                await wallet.finish()
                assert wallet.key() is NEW
                await wallet.submit(Transfer(POOR.account, CREDIT))


async def test_a_rekey_that_cannot_be_is_never_sent(tmp_path: Path) -> None:
    async with memory_network(tmp_path, 1) as network, network.wallet(RICH, "rich") as wallet:
        with pytest.raises(EntryRefused) as caught:
            await wallet.submit_rekey(wallet.sign_rekey(NEW, NO_KEY, by=OTHER))
        assert caught.value.reason is Reason.BAD_SIGNATURE
        assert wallet.store.signed(RICH.account) == []
