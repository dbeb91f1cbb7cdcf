"""The ledger service answers any bytes, and keeps one peer from taking it all."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
import trio

from ledger.archive import Archive
from ledger.core.encoding import pack
from ledger.core.heads import CertifiedHeader
from ledger.core.keys import SigningKey
from ledger.core.light import LightClient
from ledger.core.receipt import Receipt
from ledger.core.requests import (
    BLOCKS_BYTES_MAX,
    EVIDENCE_PER_ANSWER_MAX,
    AccountOf,
    BlocksFrom,
    ConsistencyOf,
    EvidenceAfter,
    HandoversFrom,
    Head,
    LockOf,
    ReceiptOf,
    ServiceError,
    Submit,
    SubmitAll,
    decode_answer,
    encode_request,
)
from ledger.core.state import Reason, Refusal
from ledger.proofs import certified_header
from ledger.service import IN_FLIGHT_PER_PEER_MAX, POLLS_MAX, POLLS_PER_PEER_MAX, LedgerService
from ledger.store import Batch, open_store
from tests.core.ledger_ordering.machines import KEYS, PAYEE, PAYER, Machine, entry, genesis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId

ONE = genesis(1)
PEER, OTHER = KEYS[5].account, KEYS[6].account


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    machine = Machine(ONE, 0)
    machine.submit(entry(ONE), entry(ONE, seq=2))
    with open_store(tmp_path / "a.db", ONE) as store:
        store.write(Batch(blocks=tuple(machine.final)))
        yield Archive(store, in_thread=False)


HOSTILE = [
    b"",
    b"\xc1",
    pack(None),
    pack([]),
    pack({}),
    pack({"op": 1}),
    pack({"op": "nothing"}),
    pack({"op": "submit"}),
    pack({"op": "submit", "entry": b""}),
    pack({"op": "submit", "entry": b"\1" * 200}),
    pack({"op": "submit_all"}),
    pack({"op": "submit_all", "entries": []}),
    pack({"op": "submit_all", "entries": ["text"]}),
    pack({"op": "submit_all", "entries": [b"\1" * 200]}),
    pack({"op": "submit_all", "entries": [b"\1"] * 65}),
    pack({"op": "submit_all", "entries": [b"\1" * 3204] * 5}),
    pack({"op": "blocks", "height": 0, "count": 1, "wait_ms": 0}),
    pack({"op": "blocks", "height": 1 << 63, "count": 1, "wait_ms": 0}),
    pack({"op": "blocks", "height": True, "count": 1, "wait_ms": 0}),
    pack({"op": "blocks", "height": 1, "count": 65, "wait_ms": 0}),
    pack({"op": "blocks", "height": 1, "count": 1, "wait_ms": 25_001}),
    pack({"op": "account", "account": b"x" * 31}),
    pack({"op": "lock", "lock_id": "text"}),
    pack({"op": "receipt", "entry_id": b"x" * 33}),
    pack({"op": "head", "pad": b"x" * 17_000}),
    pack({"op": "handovers", "epoch": 0, "count": 17}),
    pack({"op": "handovers", "epoch": 1 << 32, "count": 1}),
    pack({"op": "consistency", "old_size": 1}),
    pack({"op": "consistency", "old_size": -1, "size": 2}),
    pack({"op": "evidence", "after": "0"}),
]


@pytest.mark.parametrize("request_bytes", HOSTILE)
async def test_hostile_bytes_get_an_error_answer(archive: Archive, request_bytes: bytes) -> None:
    with pytest.raises(ServiceError, match="bad_request"):
        decode_answer(await LedgerService(archive).answer(PEER, request_bytes))


async def test_random_bytes_never_raise(archive: Archive) -> None:
    service, dice = LedgerService(archive), random.Random(1)
    good = encode_request(BlocksFrom(1))
    for _ in range(500):
        data = bytearray(good)
        for _ in range(dice.randrange(1, 4)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        with trio.move_on_after(0):  # a mutated wait_ms may ask for a long poll
            await service.answer(PEER, bytes(data[: dice.randrange(1, len(data) + 1)]))


async def test_it_tells_what_it_knows(archive: Archive) -> None:
    service = LedgerService(archive)

    async def ask(request: object) -> dict[str, object]:
        return decode_answer(await service.answer(PEER, encode_request(request)))  # type: ignore[arg-type]

    head = await ask(Head())
    assert (head["height"], head["tree_size"], head["faults_tolerated"], head["halted"]) == (2, 2, 0, "")
    account = await ask(AccountOf(PAYER.account))
    assert (account["balance"], account["seq"], account["limit"]) == (-10, 2, 10**9)
    assert (await ask(AccountOf(PAYEE.account)))["balance"] == 10
    assert await ask(LockOf(b"x" * 32)) == {"found": False}
    assert await ask(ReceiptOf(b"x" * 32)) == {"receipt": b""}
    found = (await ask(ReceiptOf(entry(ONE).entry_id(ONE.network_id))))["receipt"]
    assert isinstance(found, bytes)
    Receipt.decode(found).verify(ONE)
    assert len((await ask(BlocksFrom(1)))["blocks"]) == 2  # type: ignore[arg-type]
    assert (await ask(BlocksFrom(3)))["blocks"] == []
    refused = await ask(Submit(entry(ONE, seq=3).encode()))
    assert (refused["status"], refused["reason"]) == ("refused", Reason.BUSY)


async def test_it_proves_its_head_and_that_its_log_only_grows(archive: Archive) -> None:
    service = LedgerService(archive)

    async def ask(request: object) -> dict[str, object]:
        return decode_answer(await service.answer(PEER, encode_request(request)))  # type: ignore[arg-type]

    light = LightClient(ONE)
    first = certified_header(archive, 1)
    assert first is not None
    assert light.advance(first) is None
    head = await ask(Head())
    assert head["base"] == 1
    newest = CertifiedHeader.decode(head["certified"])  # type: ignore[arg-type]
    proof = await ask(ConsistencyOf(first.header.tree_size, newest.header.tree_size))
    assert proof["held"] is True
    assert light.advance(newest, proof["path"]) is None  # type: ignore[arg-type]
    assert light.height == 2
    for old_size, size in ((0, 3), (2, 1), (1 << 40, 1 << 41)):
        assert await ask(ConsistencyOf(old_size, size)) == {"held": False, "path": []}
    assert await ask(HandoversFrom(0)) == {"handovers": []}
    assert await ask(HandoversFrom(9)) == {"handovers": []}


async def test_evidence_is_told_in_the_order_it_came(archive: Archive) -> None:
    records = [bytes([number]) * 300 for number in range(EVIDENCE_PER_ANSWER_MAX + 5)]
    await archive.write(Batch(evidence=tuple(records)))
    service, after, heard = LedgerService(archive), 0, list[bytes]()
    for _ in range(3):
        answer = decode_answer(await service.answer(PEER, encode_request(EvidenceAfter(after))))
        heard += answer["evidence"]
        after = answer["next"]
    assert heard == records
    assert after == len(records)


async def test_a_long_poll_ends_with_the_block_or_the_time(archive: Archive, autojump_clock: object) -> None:
    service = LedgerService(archive)
    began_s = trio.current_time()
    answer = decode_answer(await service.answer(PEER, encode_request(BlocksFrom(3, wait_ms=4_000))))
    assert answer["blocks"] == []
    assert trio.current_time() - began_s == pytest.approx(4.0)

    answers: list[dict[str, object]] = []

    async def poll() -> None:
        request = encode_request(BlocksFrom(3, wait_ms=25_000))
        answers.append(decode_answer(await service.answer(PEER, request)))

    machine = Machine(ONE, 0)
    machine.submit(*(entry(ONE, seq=seq) for seq in (1, 2, 3)))
    archive.chain.accept(machine.final[2])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(poll)
        await trio.sleep(1)
        await archive.write(Batch(blocks=(machine.final[2],)))
    assert answers[0]["blocks"] == [machine.final[2].encode()]


async def test_many_entries_are_judged_one_by_one(archive: Archive) -> None:
    asked: list[list[Entry]] = []

    async def judge(entries: Sequence[Entry]) -> list[Refusal | None]:
        asked.append(list(entries))
        return [None, Refusal(Reason.REPEAT, "there"), Refusal(Reason.BUSY, "no room")]

    entries = [entry(ONE, seq=seq) for seq in (1, 2, 3)]
    request = encode_request(SubmitAll(tuple(each.encode() for each in entries)))
    answer = decode_answer(await LedgerService(archive, judge).answer(PEER, request))
    assert asked == [entries]
    assert answer["results"] == [
        {"status": "waiting"},
        {"status": "final"},
        {"status": "refused", "reason": "busy", "detail": "no room"},
    ]
    with_garbage = encode_request(SubmitAll((entries[0].encode(), b"\1" * 200)))
    with pytest.raises(ServiceError, match="bad_request"):
        decode_answer(await LedgerService(archive, judge).answer(PEER, with_garbage))
    assert len(asked) == 1
    refused = decode_answer(await LedgerService(archive).answer(PEER, request))["results"]
    assert [each["reason"] for each in refused] == ["busy"] * 3


async def test_one_peer_cannot_hold_all_requests(archive: Archive, autojump_clock: object) -> None:
    async def never(entries: Sequence[Entry]) -> list[None]:
        await trio.sleep(20)
        return [None] * len(entries)

    service = LedgerService(archive, never)
    request = encode_request(Submit(entry(ONE, seq=1).encode()))
    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT_PER_PEER_MAX):
            nursery.start_soon(service.answer, PEER, request)
        await trio.sleep(1)
        with pytest.raises(ServiceError, match="busy"):
            decode_answer(await service.answer(PEER, encode_request(Head())))
        assert decode_answer(await service.answer(OTHER, encode_request(Head())))["height"] == 2
    assert decode_answer(await service.answer(PEER, encode_request(Head())))["height"] == 2
    assert BLOCKS_BYTES_MAX < 1 << 20


async def test_waiting_for_blocks_keeps_nobody_out(archive: Archive, autojump_clock: object) -> None:
    """Forty free keys with sixteen polls each took every place of a witness, and the network stood still."""
    service = LedgerService(archive)
    request = encode_request(BlocksFrom(9, wait_ms=20_000))
    waiting = 0

    async def poll(peer: AccountId) -> None:
        nonlocal waiting
        waiting += 1
        assert decode_answer(await service.answer(peer, request)) == {"blocks": []}
        waiting -= 1

    async with trio.open_nursery() as nursery:
        for _ in range(IN_FLIGHT_PER_PEER_MAX):
            nursery.start_soon(poll, PEER)
        await trio.sleep(1)
        assert waiting == POLLS_PER_PEER_MAX
        for number in range(200):
            for _ in range(POLLS_PER_PEER_MAX):
                nursery.start_soon(poll, SigningKey(number.to_bytes(32, "big")).account)
        await trio.sleep(1)
        assert waiting == POLLS_MAX
        assert decode_answer(await service.answer(PEER, encode_request(Head())))["height"] == 2
    assert not waiting
