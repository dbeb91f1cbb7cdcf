"""This node's own reading of the ledger: its statement kept up to date, receipts, and the full audit."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

import ledger
from ledger.core.keys import peer_id
from ledger.core.state import LockStatus
from millrace.core.statement import Statement
from millrace.errors import NetworkTrouble

if TYPE_CHECKING:
    from ledger.core.keys import AccountId
    from ledger.core.receipt import Receipt
    from ledger.sync import Follower
    from millrace.api import Emit

__all__ = ["Books"]

_CODE: Final = Path(ledger.__file__).resolve().parents[1]
"""An audit runs this very code, whatever the working directory holds."""


class Books:
    """One account's view of the ledger. Reading brings it up to the follower's last final block first."""

    def __init__(self, account: AccountId, follower: Follower) -> None:
        self._account = account
        self._follower = follower
        self._statement = Statement(account, follower.genesis.network_id)
        self._turn = trio.Lock()
        self._audit_turn = trio.Lock()

    async def statement(self) -> Statement:
        """The account's statement now."""
        async with self._turn:
            first_height = self._follower.archive.store.first_height
            if self._statement.height < first_height - 1:  # the ledger began at a snapshot, after this did
                self._statement = Statement(self._account, self._follower.genesis.network_id, first_height)
            for block in self._follower.blocks(self._statement.height + 1):
                self._statement.feed(block)
                await trio.lowlevel.checkpoint()  # the first reading may be long: others go on meanwhile
            return self._statement

    async def closing_receipt(self, lock_id: bytes) -> Receipt | None:
        """The receipt of the entry that closed a lock of this account."""
        entry_id = (await self.statement()).closing(lock_id)
        return None if entry_id is None else self._follower.receipt(entry_id)

    def balance(self, account: AccountId) -> dict[str, Any]:
        """An account's standing, as the local API says it (SPEC.md §16)."""
        state = self._follower.state
        line = state.account(account)
        locks = state.open_locks()
        return {
            "account": peer_id(account),
            "balance": line.balance,
            "limit": line.limit,
            "available": line.balance + line.limit,
            "locked": sum(lock.amount for lock in locks if lock.payer == account),
            "pending": sum(lock.amount for lock in locks if lock.payee == account),
            "seq": line.seq,
        }

    def settled(self, lock_id: bytes) -> int | None:
        """What a lock's payee got when it closed; None while it is open."""
        lock = self._follower.state.lock(lock_id)
        return lock.paid if lock is not None and lock.status is LockStatus.CLOSED else None

    async def audit(self, emit: Emit) -> dict[str, Any]:
        """Replay the whole ledger from its beginning, sharing nothing with this node's own state (SPEC.md §7.2).

        In a process of its own, on all cores, one at a time: the node goes on meanwhile, and whoever asks and hangs
        up ends it. Emits progress; the answer is `report_fields`. `NetworkTrouble` if there is no report.
        """
        command = [sys.executable, "-m", "ledger.auditing", str(self._follower.archive.store.path.absolute())]
        begin = functools.partial(
            trio.run_process,
            command,
            stdin=self._follower.genesis.encode(),
            stdout=subprocess.PIPE,
            check=False,
            cwd=_CODE,
            start_new_session=True,
        )
        why, report, rest = "its process ended early; the node's log says more", None, b""
        async with self._audit_turn, trio.open_nursery() as nursery:
            process = await nursery.start(begin)
            async for data in process.stdout:
                *lines, rest = (rest + data).split(b"\n")
                for event in map(json.loads, lines):
                    if event["event"] == "report":
                        report = {name: value for name, value in event.items() if name != "event"}
                    elif event["event"] == "error":
                        why = event["why"]
                    else:
                        await emit(event)
        if report is None:
            raise NetworkTrouble(
                "the ledger was not audited", why, "see `millrace ledger head`, then ask again"
            )
        return report
