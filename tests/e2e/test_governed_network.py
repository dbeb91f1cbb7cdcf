"""What members change of a running network, typed as they would: keys, credit lines, rules, the committee."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import trio

from ledger.core.audit import audit
from ledger.core.keys import SigningKey, peer_id
from ledger.core.receipt import Receipt
from millrace.cli.main import main
from tests.e2e.small_network import small_network, until
from tests.e2e.test_small_network import WORDCOUNT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.small_network import Network

pytestmark = pytest.mark.e2e


class Shell:
    """A person at one node's command line; `run` answers its JSON."""

    def __init__(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self._root = root
        self._monkeypatch = monkeypatch
        self._capsys = capsys
        for name in [name for name in os.environ if name.startswith("MILLRACE_")]:
            monkeypatch.delenv(name)

    async def run(self, name: str, *args: str, stdin: str = "", code: int = 0) -> list[dict[str, Any]]:
        self._monkeypatch.setenv("MILLRACE_HOME", str(self._root / name))
        self._monkeypatch.setattr(sys, "stdin", io.StringIO(stdin))
        self._capsys.readouterr()
        ended = await trio.to_thread.run_sync(main, [*args, "--json"])
        out, err = self._capsys.readouterr()
        assert ended == code, (args, out, err)
        return [json.loads(line) for line in out.splitlines()]


@pytest.fixture
def shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shell:
    monkeypatch.setattr("ledger.core.authority.REKEY_PAUSE_MS", 0)  # or the recovery key would rest an hour
    monkeypatch.setattr("ledger.core.book_charter._RECOVERY_PAUSE_MS", 0)
    return Shell(tmp_path, monkeypatch, capsys)


def key_in(path: Path) -> SigningKey:
    return SigningKey(path.read_bytes())


def check_money_here(network: Network, report: dict[str, Any]) -> None:
    """As `check_money`, but in this process, where the recovery key need not rest."""
    found = audit(network.genesis, network.nodes["buyer"].follower.blocks())
    assert found.ok, found.violation
    for worker in report["workers"]:
        for name in ("lock_receipt", "claim_receipt"):
            Receipt.decode(worker[name]).verify(network.genesis)


async def job(network: Network) -> dict[str, Any]:
    units = [{"stdin": b"the mill race " * (n + 1)} for n in range(4)]
    _, report = await network.job("buyer", module=WORDCOUNT, units=units, options={"replicas": 2})
    assert (report["accepted"], report["failed"]) == (4, 0)
    assert all(worker["settled"] for worker in report["workers"])
    return report


async def test_accounts_whose_keys_were_replaced_buy_and_sell(tmp_path: Path, shell: Shell) -> None:
    """Buyer and one worker rotate while they run; leases, vouchers, claims and receipts go on under their old names."""
    async with small_network(tmp_path, workers=2) as network:
        words = {}
        for name in ("buyer", "worker-0"):
            if name == "worker-0":  # an account that never had credit has no keys to replace
                await shell.run("buyer", "send", network.peer(name), "1", "--yes")
                await until(lambda: network.nodes["worker-0"].books.balance(
                    network.nodes["worker-0"].account)["balance"] == 1_000_000)  # fmt: skip
            shown, registered = await shell.run(name, "key", "recovery", "--show")
            words[name] = " ".join(shown["words"])
            assert registered["recovery"] != registered["key"] == network.peer(name)
            (rotated,) = await shell.run(name, "key", "rotate", stdin=words[name])
            home = tmp_path / name
            assert rotated["key"] == peer_id(key_in(home / "account.key").account)
            assert not (home / "account.key.new").exists()
            assert network.peer(name) == peer_id(key_in(home / "node.key").account)
        loose = tmp_path / "buyer" / "account.key"
        loose.chmod(0o644)  # a key that others may read is not read here, and no defect of the node
        (shown,) = await shell.run("buyer", "status")
        assert "0644" in shown["key"]["trouble"]
        await shell.run("buyer", "key", "rotate", stdin=words["buyer"], code=2)
        loose.chmod(0o600)
        await network.offers(2)
        report = await job(network)
        check_money_here(network, report)
        network_id = network.genesis.network_id
        signers = {
            peer_id(receipt.signer(network_id))
            for worker in report["workers"]
            for receipt in (Receipt.decode(worker["lock_receipt"]), Receipt.decode(worker["claim_receipt"]))
        }
        assert signers == {
            peer_id(key_in(tmp_path / "buyer" / "account.key").account),
            peer_id(key_in(tmp_path / "worker-0" / "account.key").account),
            network.peer("worker-1"),
        }
        (again,) = await shell.run("buyer", "key", "rotate", stdin=words["buyer"])
        assert again["key"] not in signers
        await shell.run("buyer", "key", "rotate", stdin=words["worker-0"], code=2)
        await shell.run("buyer", "send", network.peer("worker-1"), "0.5", "--yes")


async def test_governors_change_a_running_network(tmp_path: Path, shell: Shell) -> None:
    async with small_network(tmp_path, workers=2, governors=("buyer", "worker-0")) as network:
        peer = network.peer("worker-1")
        draft = str(tmp_path / "d.toml")

        async def decree(*args: str) -> dict[str, Any]:
            await shell.run("buyer", "decree", *args, "-o", draft, "--force")
            await shell.run("buyer", "decree", "sign", draft)
            await shell.run("buyer", "decree", "submit", draft, code=2)  # one of two is not enough
            await shell.run("worker-0", "decree", "sign", draft)
            (done,) = await shell.run("buyer", "decree", "submit", draft)
            await shell.run("buyer", "decree", "submit", draft, code=1)  # each number once
            return done

        await decree("limit", peer, "--raise", "3")
        await until(lambda: network.nodes["worker-1"].follower.state.account(
            network.nodes["worker-1"].account).limit == 3_000_000)  # fmt: skip
        await shell.run("worker-1", "limit", "grant", network.peer("worker-0"), "1", "--yes")
        await shell.run("worker-1", "limit", "revoke", network.peer("worker-0"), "2", code=1)
        (lines,) = await shell.run("worker-1", "limit", "ls")
        assert (lines["limit"], [line["amount"] for line in lines["granted"]]) == (2_000_000, [1_000_000])
        await decree("param", "--fee-min", "0.000010", "--from-height", str(await height(network) + 4))
        await decree("rotate", "--witness", peer_of_witness(network))
        (shown,) = await shell.run("buyer", "network", "show")
        assert (shown["now"]["decrees"], shown["now"]["committee"]["epoch"]) == (3, 1)
        for _ in range(3):  # across the height from which the fee is due
            await shell.run("buyer", "send", peer, "0.01", "--yes")
        (status,) = await shell.run("buyer", "status")
        assert status["rules"]["params"]["fee_min"] == 10
        audited = await network.api("buyer", "ledger.audit")
        assert audited["ok"], audited["violation"]


async def height(network: Network) -> int:
    return int((await network.api("buyer", "ledger.head"))["height"])


def peer_of_witness(network: Network) -> str:
    return peer_id(network.genesis.witnesses[0])
