"""Whole ledgers in one process: witnesses, wallets, followers, receipts, with witnesses missing or coming back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from ledger.core.audit import audit
from ledger.core.entries import Claim, Lock, Transfer, sign_voucher
from tests.shell.ledger.memory_network import POOR, RICH, memory_network

if TYPE_CHECKING:
    from pathlib import Path


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
            poor.record_voucher(voucher)
            assert poor.best_voucher(lock_id) == voucher
            claimed = await poor.submit(Claim(lock_id, 700, voucher.signature))
            for receipt in (locked, claimed):
                receipt.verify(network.genesis)
            for number in range(5):
                await rich.submit(Transfer(POOR.account, number + 1))
        state = rich._follower.state
        assert state.account(POOR.account).balance == 700 + 15
        state.assert_invariants()
        report = audit(network.genesis, rich._follower.blocks())
        assert report.entries == 7
