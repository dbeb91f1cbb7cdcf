"""This node's own reading of the ledger: its statement kept up to date, receipts, and the full audit."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.core.audit import audit
from ledger.core.keys import peer_id
from ledger.core.state import LockStatus
from millrace.core.statement import Statement

if TYPE_CHECKING:
    from ledger.core.audit import AuditReport
    from ledger.core.keys import AccountId
    from ledger.core.receipt import Receipt
    from ledger.sync import Follower
    from millrace.api import Emit

__all__ = ["Books"]

AUDIT_EVERY_BLOCKS: Final = 200
"""How many blocks an audit replays between two of its progress events."""
AUDIT_EVENTS_MAX: Final = 64


class Books:
    """One account's view of the ledger. Reading brings it up to the follower's last final block first."""

    def __init__(self, account: AccountId, follower: Follower) -> None:
        self._account = account
        self._follower = follower
        self._statement = Statement(account, follower.genesis.network_id)
        self._turn = trio.Lock()

    async def statement(self) -> Statement:
        """The account's statement now."""
        async with self._turn:
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

    async def audit(self, emit: Emit) -> AuditReport:
        """Replay the whole ledger from genesis, in a thread, sharing nothing with this node's own state."""
        total = self._follower.head.height
        send, receive = trio.open_memory_channel[dict[str, Any]](AUDIT_EVENTS_MAX)
        reports: list[AuditReport] = []

        def progress(blocks: int, entries: int) -> None:
            if blocks % AUDIT_EVERY_BLOCKS == 0 or blocks == total:
                event = {"event": "progress", "done": blocks, "total": total, "entries": entries}
                # Blocks the auditing thread while the client reads slowly; ends it when the client has gone.
                trio.from_thread.run(send.send, event)

        def replay() -> None:
            reports.append(audit(self._follower.genesis, self._follower.blocks(1, total), progress))

        async def work() -> None:
            with send:
                await trio.to_thread.run_sync(replay)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(work)
            async for event in receive:
                await emit(event)
        return reports[0]
