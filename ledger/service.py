"""Answering anyone's questions about the ledger (SPEC.md §15): any bytes in, an answer out, never an exception."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.core.encoding import WireError
from ledger.core.entries import decode_entry
from ledger.core.requests import (
    BLOCKS_BYTES_MAX,
    EVIDENCE_PER_ANSWER_MAX,
    WAITING_TOLD_MAX,
    AccountOf,
    BlocksFrom,
    ChunkOf,
    ConsistencyOf,
    EvidenceAfter,
    HandoversFrom,
    Head,
    LedgerRequest,
    LockOf,
    ReceiptOf,
    SnapshotOffer,
    Submit,
    SubmitAll,
    decode_request,
    encode_answer,
    encode_error,
)
from ledger.core.state import Reason
from ledger.proofs import certified_header, consistency_path, handover_of
from ledger.shelf import Shelf
from ledger.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from ledger.archive import Archive
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from ledger.core.state import Refusal

__all__ = ["IN_FLIGHT_MAX", "IN_FLIGHT_PER_PEER_MAX", "POLLS_MAX", "POLLS_PER_PEER_MAX", "LedgerService"]

IN_FLIGHT_PER_PEER_MAX: Final = 16
IN_FLIGHT_MAX: Final = 1024
POLLS_PER_PEER_MAX: Final = 4
POLLS_MAX: Final = 512
"""Requests that wait for a block; over either limit one is answered at once, so that waiting never keeps out asking."""


DURABLE_WAIT_S: Final = 2.0
"""How long an answer waits for the disk to hold what it speaks of."""


class _NotDurable(Exception):
    """What would be answered is only in memory, and the disk does not take it."""


class _Pruned(Exception):
    """What is asked for is from before the height at which this node's ledger began."""

    def __init__(self, first_height: int) -> None:
        super().__init__(f"this node's ledger began at height {first_height}: ask an archive")


class LedgerService:
    """Serves one archive. With `submit`, a witness's door, entries are taken too; without it, reads only.

    `waiting(account, count_max)` names the account's entries that wait behind that door, and `trouble()` says why a
    witness does not vote at present; without it, what is wrong with the archive is told.
    """

    def __init__(
        self,
        archive: Archive,
        submit: Callable[[Sequence[Entry]], Awaitable[Sequence[Refusal | None]]] | None = None,
        waiting: Callable[[AccountId, int], Sequence[Entry]] | None = None,
        trouble: Callable[[], str] | None = None,
    ) -> None:
        self._archive = archive
        self._submit = submit
        self._waiting = waiting
        self._trouble = trouble
        self._in_flight: Counter[AccountId] = Counter()
        self._shelf = Shelf(archive)
        self._newest = 0, b""
        self._polls: Counter[AccountId] = Counter()

    async def answer(self, peer: AccountId, request: bytes) -> bytes:
        """The answer to `request`, whatever its bytes are: an error answer says what is wrong with it."""
        if self._in_flight[peer] >= IN_FLIGHT_PER_PEER_MAX or self._in_flight.total() >= IN_FLIGHT_MAX:
            return encode_error(
                "busy", f"{self._in_flight[peer]} requests of yours are open; wait for answers"
            )
        self._in_flight[peer] += 1
        try:
            return encode_answer(await self._answer(peer, decode_request(request)))
        except WireError as error:
            return encode_error("bad_request", str(error))
        except StoreError:
            return encode_error("unavailable", "this node cannot read its ledger file")
        except _NotDurable:
            return encode_error("unavailable", "this node's disk does not take what it has learned")
        except _Pruned as error:
            return encode_error("pruned", str(error))
        finally:
            self._in_flight[peer] -= 1
            if not self._in_flight[peer]:
                del self._in_flight[peer]

    async def _answer(self, peer: AccountId, request: LedgerRequest) -> dict[str, Any]:
        match request:
            case Submit(data):
                return (await self._take([decode_entry(data)]))[0]
            case SubmitAll(listed):
                return {"results": await self._take([decode_entry(data) for data in listed])}
            case Head():
                return self._head()
            case BlocksFrom():
                return await self._blocks(peer, request)
            case AccountOf(account):
                return await self._once_durable(self._account(account))
            case LockOf(lock_id):
                return await self._once_durable(self._lock(lock_id))
            case ReceiptOf(entry_id):
                return self._receipt(entry_id)
            case SnapshotOffer():
                return await self._shelf.offer()
            case ChunkOf(height, index):
                return await self._shelf.chunk(height, index)
            case _:
                return self._prove(request)

    def _prove(self, request: HandoversFrom | ConsistencyOf | EvidenceAfter) -> dict[str, Any]:
        """What readers without the ledger ask for."""
        match request:
            case HandoversFrom(epoch, count):
                return {"handovers": self._handovers(epoch, count)}
            case ConsistencyOf(old_size, size):
                path = consistency_path(self._archive, old_size, size)
                return {"held": path is not None, "path": list(path or ())}
            case EvidenceAfter(after):
                return self._evidence(after)

    async def _take(self, entries: list[Entry]) -> list[dict[str, Any]]:
        if self._submit is None:
            return [{"status": "refused", "reason": Reason.BUSY, "detail": "this node is no witness"}] * len(
                entries
            )
        return [_judgement(refusal) for refusal in await self._submit(entries)]

    def _head(self) -> dict[str, Any]:
        tip = self._archive.tip
        return {
            "height": tip.height,
            "slot": tip.slot,
            "tree_size": self._archive.store.tree_size,
            "time_ms": tip.time_ms,
            "faults_tolerated": self._archive.committee.faults,
            "halted": self._archive.trouble if self._trouble is None else self._trouble(),
            "base": self._archive.store.first_height,
            "certified": self._certified(),
        }

    def _certified(self) -> bytes:
        """The newest certified header; made once for each, since its whole block is read for it."""
        height = self._archive.height
        if self._newest[0] != height:
            head = certified_header(self._archive, height)
            self._newest = height, b"" if head is None else head.encode()
        return self._newest[1]

    def _handovers(self, epoch: int, count: int) -> list[bytes]:
        taken: list[bytes] = []
        size = 0
        while len(taken) < count and (found := handover_of(self._archive, epoch + len(taken))) is not None:
            data = found.encode()
            size += len(data)
            if taken and size > BLOCKS_BYTES_MAX:
                break
            taken.append(data)
        return taken

    def _evidence(self, after: int) -> dict[str, Any]:
        taken: list[bytes] = []
        size = 0
        for number, record in self._archive.store.evidence(after, EVIDENCE_PER_ANSWER_MAX):
            size += len(record)
            if taken and size > BLOCKS_BYTES_MAX:
                break
            taken.append(record)
            after = number
        return {"evidence": taken, "next": after}

    async def _blocks(self, peer: AccountId, request: BlocksFrom) -> dict[str, Any]:
        if request.height < self._archive.store.first_height:
            raise _Pruned(self._archive.store.first_height)
        if request.wait_ms and self._archive.height < request.height and self._may_wait(peer):
            self._polls[peer] += 1
            try:
                with trio.move_on_after(request.wait_ms / 1000):
                    await self._archive.wait_beyond(request.height - 1)
            finally:
                self._polls[peer] -= 1
                if not self._polls[peer]:
                    del self._polls[peer]
        return {"blocks": self._archive.store.blocks(request.height, request.count, BLOCKS_BYTES_MAX)}

    def _receipt(self, entry_id: bytes) -> dict[str, Any]:
        receipt, store = self._archive.receipt(entry_id), self._archive.store
        if receipt is None and store.first_height > 1:
            raise _Pruned(store.first_height)  # not final, or from before: another node can tell
        return {"receipt": b"" if receipt is None else receipt.encode()}

    def _may_wait(self, peer: AccountId) -> bool:
        return self._polls[peer] < POLLS_PER_PEER_MAX and self._polls.total() < POLLS_MAX

    async def _once_durable(self, fields: dict[str, Any]) -> dict[str, Any]:
        """`fields`, made just now of the state in memory, once the disk has reached it: a crash undoes the rest.

        Made first and awaited then: under load, memory is ahead of the disk whenever one looks.
        """
        height = self._archive.chain.tip.height
        with trio.move_on_after(DURABLE_WAIT_S):
            await self._archive.wait_beyond(height - 1)
        if self._archive.height < height:
            raise _NotDurable
        return fields

    def _account(self, account: AccountId) -> dict[str, Any]:
        found = self._archive.chain.state.account(account)
        waiting = () if self._waiting is None else self._waiting(account, WAITING_TOLD_MAX)
        return {
            "balance": found.balance,
            "limit": found.limit,
            "seq": found.seq,
            "height": self._archive.chain.tip.height,
            "waiting": [entry.encode() for entry in waiting],
        }

    def _lock(self, lock_id: bytes) -> dict[str, Any]:
        lock = self._archive.chain.state.lock(lock_id)
        if lock is None:
            return {"found": False}
        return {
            "found": True,
            "payer": lock.payer,
            "payee": lock.payee,
            "amount": lock.amount,
            "expiry_ms": lock.expiry_ms,
            "terms_hash": lock.terms_hash,
            "status": lock.status.value,
            "paid": lock.paid,
        }


def _judgement(refusal: Refusal | None) -> dict[str, Any]:
    if refusal is None:
        return {"status": "waiting"}
    if refusal.reason is Reason.REPEAT:
        return {"status": "final"}
    return {"status": "refused", "reason": refusal.reason, "detail": refusal.detail}
