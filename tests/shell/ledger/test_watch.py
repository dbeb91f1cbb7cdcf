"""A follower holds its sources' heads against its chain, and takes over evidence that holds, from whoever has it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from ledger.archive import Archive
from ledger.asking import Unavailable, Untrustworthy
from ledger.core.encoding import Kind, pack
from ledger.core.evidence import Fork, vote_pair
from ledger.core.heads import CertifiedHeader, certify
from ledger.core.keys import AccountId
from ledger.core.requests import encode_answer, encode_error
from ledger.core.votes import sign_vote
from ledger.service import LedgerService
from ledger.store import Batch, open_store
from ledger.sync import Follower
from ledger.watch import Watch
from tests.core.ledger.ledger_forge import BOB, WITNESSES, Forge, genesis
from tests.core.ledger.ledger_forge import key as new_key
from tests.shell.ledger.long_ledger import NETWORK as LONG
from tests.shell.ledger.long_ledger import SECOND, archive_store, long_ledger

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from ledger.core.block import FinalBlock
    from ledger.core.evidence import Evidence

NETWORK = genesis()
COMMITTEE = NETWORK.committee
SOURCE, LIAR = AccountId(b"s" * 32), AccountId(b"l" * 32)


def grown(*times_ms: int) -> list[FinalBlock]:
    forge = Forge(NETWORK)
    return [forge.block(time_ms=time_ms) for time_ms in times_ms]


BLOCKS = grown(2_000_000, 2_001_000, 2_002_000)
OTHER = grown(2_000_000, 2_001_001, 2_002_001, 2_003_000)


def opened(folder: Path, name: str, blocks: Iterable[FinalBlock]) -> Archive:
    store = open_store(folder / f"{name}.db", NETWORK)
    store.write(Batch(blocks=tuple(blocks)))
    return Archive(store, in_thread=False)


@pytest.fixture
def archive(tmp_path: Path) -> Iterator[Archive]:
    mine = opened(tmp_path, "mine", BLOCKS)
    yield mine
    mine.store.close()


def lie(slot: int) -> Evidence:
    votes = [
        sign_vote(WITNESSES[2], COMMITTEE, Kind.FINAL, slot=slot, block_hash=name * 32)
        for name in (b"a", b"b")
    ]
    found = vote_pair(*votes)
    assert found is not None
    return found


def answering(*archives: Archive) -> Any:
    """Requests to SOURCE go to the first archive's service, to LIAR to the second's."""
    services = dict(zip((SOURCE, LIAR), map(LedgerService, archives), strict=False))

    async def request(source: AccountId, body: bytes, timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        return await services[source].answer(BOB.account, body)

    return request


def said(**answers: Any) -> Any:
    """A source that answers what it wants, by operation."""

    async def request(_source: AccountId, body: bytes, _timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        for name, answer in answers.items():
            if name.encode() in body:
                return encode_answer(answer) if isinstance(answer, dict) else answer
        return encode_error("unavailable", "")

    return request


@pytest.mark.parametrize(("held", "verdict"), [(3, "agrees"), (2, "behind"), (0, "behind")])
async def test_heads_of_one_chain_agree(tmp_path: Path, archive: Archive, held: int, verdict: str) -> None:
    theirs = opened(tmp_path, "theirs", BLOCKS[:held])
    watch = Watch(archive, answering(theirs))
    assert (await watch.compare_heads(SOURCE)).verdict == verdict
    assert watch.split is None
    if held:
        back = Watch(theirs, answering(archive))
        assert (await back.compare_heads(SOURCE)).verdict == ("agrees" if held == 3 else "ahead")
    theirs.store.close()


@pytest.mark.parametrize("held", [2, 3])
async def test_a_split_view_is_seen_kept_and_its_authors_are_named(
    tmp_path: Path, archive: Archive, held: int
) -> None:
    theirs = opened(tmp_path, "theirs", OTHER[:held])
    watch = Watch(archive, answering(theirs))
    assert (await watch.compare_heads(SOURCE)).verdict == "split"
    assert watch.split is not None
    (finding,) = watch.findings()
    assert isinstance(finding.evidence, Fork)
    assert finding.culprits == tuple(w.account for w in WITNESSES[:3])
    assert await watch.compare_heads(SOURCE)
    assert len(watch.findings()) == 1
    assert len(Watch(archive, answering()).findings()) == 1, "it is on disk"
    theirs.store.close()


async def test_a_follower_that_is_shown_another_chain_reports_it(tmp_path: Path, archive: Archive) -> None:
    theirs = opened(tmp_path, "theirs", OTHER)
    request = answering(theirs)
    follower = Follower(NETWORK, archive.store, lambda: [SOURCE], request, archive=archive)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    assert follower.fork is not None
    assert follower.head.height == 3
    two_slots, one_slot = follower.watch.findings()
    assert two_slots.culprits == ()
    assert two_slots.suspects == one_slot.culprits == tuple(w.account for w in WITNESSES[:3])
    theirs.store.close()


NO_HEAD = {"height": 9, "certified": b""}
MINORITY = CertifiedHeader(BLOCKS[2].header, Forge(NETWORK).certify(BLOCKS[2].header, signers=WITNESSES[:2]))


@pytest.mark.parametrize(
    "head",
    [
        {"height": 3},
        {"height": "3", "certified": b""},
        {"height": 3, "certified": "text"},
        {"height": 3, "certified": b"\1" * 400},
        {"height": 3, "certified": MINORITY.encode()},
        b"\xc1",
        pack([]),
    ],
)
async def test_a_false_head_is_not_believed(archive: Archive, head: Any) -> None:
    watch = Watch(archive, said(head=head))
    with pytest.raises(Untrustworthy):
        await watch.compare_heads(SOURCE)
    assert watch.split is None
    assert watch.findings() == []


async def test_a_head_that_proves_nothing_decides_nothing(archive: Archive) -> None:
    assert (await Watch(archive, said(head=NO_HEAD)).compare_heads(SOURCE)).verdict == "unproved"
    later = certify([Forge(NETWORK).block(epoch=1)])
    assert later is not None
    unknown = Watch(archive, said(head={"height": 1, "certified": later.encode()}))
    assert (await unknown.compare_heads(SOURCE)).verdict == "unproved"
    with pytest.raises(Unavailable):
        await Watch(archive, said()).compare_heads(SOURCE)


async def test_evidence_is_taken_over_once(tmp_path: Path, archive: Archive) -> None:
    theirs = opened(tmp_path, "theirs", BLOCKS)
    await theirs.write(Batch(evidence=tuple(lie(slot).encode() for slot in range(1, 4))))
    watch = Watch(archive, answering(theirs))
    for _ in range(2):
        await watch.visit(SOURCE)
        assert [finding.evidence for finding in watch.findings()] == [lie(slot) for slot in range(1, 4)]
    await theirs.write(Batch(evidence=(lie(9).encode(),)))
    await watch.visit(SOURCE)
    assert len(watch.findings()) == 4
    assert {finding.culprits for finding in watch.findings()} == {(WITNESSES[2].account,)}
    again = Watch(archive, answering(theirs))
    await again.visit(SOURCE)
    assert len(again.findings()) == 4
    theirs.store.close()


async def test_evidence_of_an_epoch_still_to_come_is_taken_over_once_it_is_known(tmp_path: Path) -> None:
    """Who begins hears of it on its first visit, before its first block: it asks again."""
    full, store = archive_store(tmp_path / "full.db"), open_store(tmp_path / "young.db", LONG)
    theirs, young = Archive(full, in_thread=False), Archive(store, in_thread=False)
    votes = [
        sign_vote(SECOND, theirs.chain.committee, Kind.FINAL, slot=2_000, block_hash=name * 32)
        for name in (b"a", b"b")
    ]
    found = vote_pair(*votes)
    assert found is not None
    await theirs.write(Batch(evidence=(found.encode(),)))
    watch = Watch(young, answering(theirs))
    await watch.visit(SOURCE)
    assert watch.findings() == []
    for block in long_ledger().blocks:
        young.chain.accept(block)
    await young.write(Batch(blocks=tuple(long_ledger().blocks)))
    await watch.visit(SOURCE)
    assert [finding.culprits for finding in watch.findings()] == [(SECOND.account,)]
    full.close()
    store.close()


FRAMED = [
    sign_vote(new_key(77), COMMITTEE, Kind.FINAL, slot=3, block_hash=name * 32) for name in (b"a", b"b")
]
FALSE = vote_pair(*FRAMED)
assert FALSE is not None


@pytest.mark.parametrize(
    "answer",
    [
        {"evidence": [FALSE.encode()], "next": 1},
        {"evidence": [lie(1).encode() + b"\0"], "next": 1},
        {"evidence": ["text"], "next": 1},
        {"evidence": "text", "next": 1},
        {"evidence": [lie(1).encode()]},
        {"evidence": [lie(1).encode(), b""], "next": 2},
    ],
)
async def test_false_evidence_accuses_nobody_and_its_sender_is_not_asked_again(
    archive: Archive, answer: dict[str, Any]
) -> None:
    head = {"height": 3, "certified": b"" if (found := certify(BLOCKS[2:])) is None else found.encode()}
    asked = 0
    inner = said(evidence=answer, head=head)

    async def request(source: AccountId, body: bytes, timeout_s: float) -> bytes:
        nonlocal asked
        asked += b"evidence" in body
        return await inner(source, body, timeout_s)  # type: ignore[no-any-return]

    watch = Watch(archive, request)
    with pytest.raises(Untrustworthy, match="false evidence"):
        await watch.visit(LIAR)
    assert all(finding.culprits == (WITNESSES[2].account,) for finding in watch.findings())
    await watch.visit(LIAR)
    assert asked == 1


async def test_an_endless_list_of_evidence_costs_a_few_answers(archive: Archive) -> None:
    asked = 0

    async def request(_source: AccountId, body: bytes, _timeout_s: float) -> bytes:
        nonlocal asked
        await trio.lowlevel.checkpoint()
        if b"evidence" not in body:
            return encode_answer({"height": 0, "certified": b""})
        asked += 1
        return encode_answer({"evidence": [lie(1).encode()], "next": asked})

    watch = Watch(archive, request)
    await watch.visit(SOURCE)
    assert asked == 4
    assert len(watch.findings()) == 1
