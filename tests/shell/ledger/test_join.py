"""A node that begins at a recent state: from any honest source, whatever the others send."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from ledger.archive import Archive
from ledger.core.encoding import Kind, unpack
from ledger.core.heads import CertifiedHeader
from ledger.core.intake import SNAPSHOT_BYTES_MAX
from ledger.core.keys import AccountId
from ledger.core.requests import encode_answer, encode_error
from ledger.core.snapshot import CHUNK_BYTES
from ledger.core.votes import Certificate, sign_vote
from ledger.join import ATTEMPTS_MAX, Joining
from ledger.service import LedgerService
from ledger.store import Batch, open_store
from ledger.sync import Follower
from tests.shell.ledger.long_ledger import (
    BASE,
    FIRST,
    HEIGHT,
    MANY_AT,
    NETWORK,
    PAY_AT,
    ROTATE_AT,
    archive_store,
    late_ledger,
    long_ledger,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

HONEST, OTHER = AccountId(b"h" * 32), AccountId(b"o" * 32)
Lie = "Callable[[dict[str, Any], dict[str, Any]], Any]"


class Sources:
    """Each source answers from an archive, or lies: `lies` maps a source to (question, true answer) → answer."""

    def __init__(self, **archives: Archive) -> None:
        self.services = {name: LedgerService(archive) for name, archive in archives.items()}
        self.lies: dict[str, Any] = {}
        self.asked: list[tuple[str, str]] = []
        self.bytes_of: dict[str, int] = {}

    async def request(self, source: AccountId, body: bytes, _timeout_s: float) -> bytes:
        await trio.lowlevel.checkpoint()
        name = {HONEST: "honest", OTHER: "other"}[source]
        question = unpack(body)
        self.asked.append((name, question["op"]))
        answer = await self.services[name].answer(AccountId(b"x" * 32), body)
        lie = self.lies.get(name)
        if lie is not None:
            told = lie(question, unpack(answer).get("ok", {}))
            if isinstance(told, BaseException):
                raise told
            answer = told if isinstance(told, bytes) else encode_answer(told)
        self.bytes_of[name] = self.bytes_of.get(name, 0) + len(answer)
        return answer


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Archive]:
    store = archive_store(tmp_path_factory.mktemp("full") / "full.db")
    yield Archive(store, in_thread=False)
    store.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Archive]:
    store = open_store(tmp_path / "empty.db", NETWORK)
    yield Archive(store, in_thread=False)
    store.close()


def assert_begun(archive: Archive) -> None:
    assert archive.height == archive.store.first_height == BASE
    state = archive.chain.state
    assert state.snapshot() == long_ledger().snapshot
    assert state.committee.epoch == 1
    assert archive.chain.log.root() == long_ledger().blocks[BASE - 1].header.log_root
    reopened = Archive(archive.store, in_thread=False)
    assert reopened.chain.tip == archive.chain.tip


async def test_it_begins_at_the_newest_state_and_follows_on(full: Archive, empty: Archive) -> None:
    sources = Sources(honest=full)
    follower = Follower(
        NETWORK, empty.store, lambda: [HONEST], sources.request, archive=empty, is_recent=True
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        assert await follower.wait_for(lambda: follower.head.height == HEIGHT, 20)
        nursery.cancel_scope.cancel()
    assert empty.store.first_height == BASE
    assert follower.head == long_ledger().chain.tip
    assert follower.state.snapshot() == long_ledger().chain.state.snapshot()
    assert ("honest", "chunk") in sources.asked
    # New entries have receipts made here, with the handover that came with the snapshot.
    receipt = follower.receipt(long_ledger().entry_id(HEIGHT))
    assert receipt is None, "the account's REKEY is from before: an archive has it"
    fetched = await follower.fetch_receipt(long_ledger().entry_id(HEIGHT))
    assert fetched is not None
    fetched.verify(NETWORK)


async def test_an_archive_has_the_receipts_from_before(full: Archive, empty: Archive) -> None:
    sources = Sources(honest=full, other=empty)
    assert await Joining(empty, sources.request).attempt([HONEST])
    follower = Follower(NETWORK, empty.store, lambda: [OTHER, HONEST], sources.request, archive=empty)
    for height in (1, MANY_AT, ROTATE_AT, PAY_AT):
        entry_id = long_ledger().entry_id(height)
        assert follower.receipt(entry_id) is None
        receipt = await follower.fetch_receipt(entry_id)
        assert receipt is not None
        receipt.verify(NETWORK)
    assert await follower.fetch_receipt(b"?" * 32) is None
    other = await follower.fetch_receipt(long_ledger().entry_id(1))
    assert other is not None
    for lie in (b"\xc1", {"receipt": "x"}, {"receipt": b"x"}, {"receipt": other.encode()}, {"receipt": b""}):
        sources.lies["honest"] = lambda _question, _answer, lie=lie: lie
        assert await follower.fetch_receipt(long_ledger().entry_id(2)) is None


async def test_who_begins_late_says_so(full: Archive, empty: Archive) -> None:
    sources = Sources(honest=full, other=empty)
    assert await Joining(empty, sources.request).attempt([HONEST])
    young = open_store(empty.store.path.with_name("young.db"), NETWORK)
    follower = Follower(
        NETWORK, young, lambda: [OTHER], sources.request, archive=Archive(young, in_thread=False)
    )
    assert not await follower._heed(OTHER, follower._pull_from)  # "pruned": it goes on to the next source
    assert await follower._heed(HONEST, follower._pull_from)
    assert follower.head.height == HEIGHT
    assert young.first_height == 1
    young.close()


async def test_a_young_ledger_is_pulled_whole(empty: Archive, tmp_path: Path) -> None:
    store = archive_store(tmp_path / "short.db", 30)
    sources = Sources(honest=Archive(store, in_thread=False))
    follower = Follower(
        NETWORK, empty.store, lambda: [HONEST], sources.request, archive=empty, is_recent=True
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(follower.run)
        assert await follower.wait_for(lambda: follower.head.height == 30, 20)
        nursery.cancel_scope.cancel()
    assert empty.store.first_height == 1
    store.close()


def changed(op: str, **fields: Any) -> Any:
    """A lie: the answers to `op` say something else."""

    def lie(question: dict[str, Any], answer: dict[str, Any]) -> Any:
        if question["op"] != op:
            return answer
        return answer | {name: make(answer.get(name)) for name, make in fields.items()}

    return lie


def instead(op: str, what: Any) -> Any:
    return lambda question, answer: what if question["op"] == op else answer


def flipped(data: bytes, at: int = 40) -> bytes:
    return data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]


LIES = {
    "no answer": instead("snapshot", ConnectionError("gone")),
    "silence": instead("snapshot", TimeoutError("late")),
    "garbage": instead("snapshot", b"\xc1"),
    "no map": instead("snapshot", {"found": 1}),
    "a head cut short": changed("snapshot", head=lambda head: head[:-1]),
    "another header": changed("snapshot", head=flipped),
    "a head of no quorum": changed("snapshot", head=lambda head: flipped(head, len(head) - 5)),
    "other peaks": changed("snapshot", peaks=lambda peaks: [flipped(peaks[0], 3), *peaks[1:]]),
    "no peaks": changed("snapshot", peaks=lambda _: []),
    "short peaks": changed("snapshot", peaks=lambda _: [b"x"]),
    "another root": changed("snapshot", chunks_root=lambda root: flipped(root, 3)),
    "another size": changed("snapshot", size=lambda size: size + 1),
    "a size without end": changed("snapshot", size=lambda _: SNAPSHOT_BYTES_MAX + 1),
    "a negative size": changed("snapshot", size=lambda _: -1),
    "no handovers": changed("handovers", handovers=lambda _: []),
    "a false handover": changed("handovers", handovers=lambda items: [flipped(items[0])]),
    "garbage handover": changed("handovers", handovers=lambda _: [b"x" * 100]),
    "handovers that are none": changed("handovers", handovers=lambda _: "x"),
    "another block": changed("blocks", blocks=lambda items: [long_ledger().blocks[BASE - 2].encode()]),
    "other entries": changed("blocks", blocks=lambda items: [flipped(items[0], 190)]),
    "no block": changed("blocks", blocks=lambda _: []),
    "a false chunk": changed("chunk", data=flipped),
    "a long chunk": changed("chunk", data=lambda data: data + b"\0"),
    "a false path": changed("chunk", path=lambda path: [bytes(32) for _ in path]),
    "no chunk": instead("chunk", {"found": False}),
    "chunk in words": instead("chunk", {"found": True, "data": "x", "path": []}),
    "busy": instead("chunk", encode_error("busy", "wait")),
}


@pytest.mark.parametrize("name", LIES)
async def test_a_liar_costs_one_answer_and_the_next_source_is_asked(
    full: Archive, empty: Archive, name: str
) -> None:
    sources = Sources(honest=full, other=full)
    sources.lies["other"] = LIES[name]
    joining = Joining(empty, sources.request)
    assert not await joining.attempt([OTHER])
    assert empty.height == 0
    assert empty.store.height() == 0
    assert await joining.attempt([OTHER, HONEST])
    assert_begun(empty)
    # Each source told everything at most once over: nothing that was true is asked again, no lie is repeated long.
    assert sources.bytes_of.get("other", 0) < 3 * CHUNK_BYTES


async def test_what_came_is_kept_when_a_source_goes_away(full: Archive, empty: Archive) -> None:
    sources = Sources(honest=full, other=full)
    sources.lies["other"] = lambda question, answer: (
        ConnectionError("gone") if question.get("index") == 1 else answer
    )
    joining = Joining(empty, sources.request)
    assert not await joining.attempt([OTHER])
    assert await joining.attempt([HONEST])
    assert_begun(empty)
    chunks = [name for name, op in sources.asked if op == "chunk"]
    assert chunks == ["other", "other", "honest"], "the first chunk was not asked for again"


async def test_sources_without_an_answer_decide_nothing(empty: Archive) -> None:
    sources = Sources(honest=empty)
    assert not await Joining(empty, sources.request).attempt([])
    sources.lies["honest"] = instead("snapshot", ConnectionError("gone"))
    assert not await Joining(empty, sources.request).attempt([HONEST])
    sources.lies["honest"] = instead("snapshot", encode_error("bad_request", "unknown operation"))
    assert await Joining(empty, sources.request).attempt([HONEST]), "an older program has none to offer"


async def test_the_committees_that_were_followed_stay_followed(full: Archive, empty: Archive) -> None:
    """A crash between handovers and state: the next start does not go back to the committee of genesis."""
    sources = Sources(honest=full)
    sources.lies["honest"] = instead("chunk", ConnectionError("gone"))
    assert not await Joining(empty, sources.request).attempt([HONEST])
    sources.lies.clear()
    sources.asked.clear()
    assert await Joining(Archive(empty.store, in_thread=False), sources.request).attempt([HONEST])
    assert ("honest", "handovers") not in sources.asked


async def test_whoever_shows_newer_committees_makes_no_liars_of_those_with_older_states(
    empty: Archive, tmp_path: Path
) -> None:
    """A header of epoch 1 that nobody certified, and true handovers to it: then honest states of epoch 0 come."""
    store = open_store(tmp_path / "late.db", NETWORK)
    store.write(Batch(blocks=tuple(late_ledger().blocks)))
    store.save_snapshot(BASE, late_ledger().snapshot, certified=True)
    late = Archive(store, in_thread=False)
    sources = Sources(honest=late, other=late)

    def lie(question: dict[str, Any], answer: dict[str, Any]) -> Any:
        if question["op"] != "snapshot":
            return answer
        head = CertifiedHeader.decode(answer["head"])
        header = replace(head.header, height=2 * BASE, slot=2 * BASE, epoch=1)
        false = CertifiedHeader(header, replace(head.certificate, epoch=1, slot=2 * BASE))
        return answer | {"head": false.encode()}

    sources.lies["other"] = lie
    joining = Joining(empty, sources.request)
    assert await joining.attempt([OTHER, HONEST])
    assert ("other", "handovers") in sources.asked
    assert empty.height == BASE
    assert empty.chain.committee.epoch == 0
    store.close()


async def test_a_committee_that_is_over_makes_no_state_final(full: Archive, empty: Archive) -> None:
    """Its keys may be anybody's by then: once its last block is known, nothing of it above that is taken."""
    sources = Sources(honest=full, other=full)
    sources.lies["honest"] = instead("chunk", ConnectionError("gone"))
    joining = Joining(empty, sources.request)
    assert not await joining.attempt([HONEST])  # the handover to epoch 1 is known now

    def lie(question: dict[str, Any], answer: dict[str, Any]) -> Any:
        if question["op"] != "snapshot":
            return answer
        header = replace(
            CertifiedHeader.decode(answer["head"]).header, height=2 * BASE, slot=2 * BASE, epoch=0
        )
        block_hash = header.hash(NETWORK.network_id)
        vote = sign_vote(FIRST, NETWORK.committee, Kind.FINAL, slot=2 * BASE, block_hash=block_hash)
        head = CertifiedHeader(header, Certificate.from_votes([vote], NETWORK.committee))
        return answer | {"head": head.encode()}

    sources.lies["other"] = lie
    sources.asked.clear()
    assert not await joining.attempt([OTHER])
    assert sources.asked == [("other", "snapshot")]
    assert empty.height == 0


async def test_one_that_never_answers_does_not_keep_a_young_ledger_from_beginning(
    empty: Archive, tmp_path: Path
) -> None:
    store = archive_store(tmp_path / "short.db", 30)
    sources = Sources(honest=Archive(store, in_thread=False), other=empty)
    sources.lies["other"] = instead("snapshot", TimeoutError("late"))
    joining = Joining(empty, sources.request)
    decided = [await joining.attempt([OTHER, HONEST]) for _ in range(ATTEMPTS_MAX)]
    assert decided == [False] * (ATTEMPTS_MAX - 1) + [True], "others may have one, and are asked again first"
    store.close()
