"""Questions and answers of neighbours: pinned bytes, bounds, refusals (SPEC.md §10.5, §11.4)."""

from __future__ import annotations

import pytest

from ledger.core.encoding import WireError
from ledger.core.keys import AccountId, SigningKey, peer_id
from p2p.core.advertbook import BUCKETS
from p2p.core.envelope import ENVELOPE_BYTES_MAX
from p2p.core.messages import (
    ANSWER_BYTES_MAX,
    ENVELOPES_BYTES_MAX,
    ENVELOPES_MAX,
    INDEX_ENTRIES_MAX,
    PEERS_ANSWER_MAX,
    QUESTION_BYTES_MAX,
    Answer,
    Denied,
    Envelopes,
    FetchQuestion,
    IndexPage,
    IndexQuestion,
    PeersAnswer,
    PeersQuestion,
    Question,
    Summary,
    SummaryQuestion,
    decode_answer,
    decode_question,
)

ONE, TWO = AccountId(b"\x01" * 32), AccountId(b"\x02" * 32)
ACCOUNT = SigningKey(bytes(range(32))).account
ADDRESS = f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id(ACCOUNT)}"

QUESTIONS: list[tuple[Question, str]] = [
    (SummaryQuestion(), "01"),
    (IndexQuestion(frozenset((0, 9, 63)), bytes(ONE)), "02" + "8000000000000201" + "01" * 32),
    (FetchQuestion((ONE, TWO)), "03" + "02" + "01" * 32 + "02" * 32),
    (PeersQuestion(8, (ADDRESS,)), "04" + "08" + "01" + "0050" + ADDRESS.encode().hex()),
]
ANSWERS: list[tuple[Answer, str]] = [
    (Summary((b"\xab" * 8,) * BUCKETS), "81" + "ab" * 512),
    (
        IndexPage(((ONE, 5), (TWO, 1 << 63)), more=True),
        "82" + "01" + "0002" + "01" * 32 + "0000000000000005" + "02" * 32 + "8000000000000000",
    ),
    (Envelopes((b"\xca\xfe", b"")), "83" + "02" + "0002" + "cafe" + "0000"),
    (
        PeersAnswer(((ACCOUNT, (ADDRESS,)), (ONE, ()))),
        "84" + "02" + ACCOUNT.hex() + "01" + "0050" + ADDRESS.encode().hex() + "01" * 32 + "00",
    ),
    (Denied("später"), "ff" + "07" + "7370c3a4746572"),
]


@pytest.mark.parametrize(("question", "expected"), QUESTIONS)
def test_question_bytes(question: Question, expected: str) -> None:
    assert question.encode().hex() == expected
    assert decode_question(bytes.fromhex(expected)) == question


@pytest.mark.parametrize(("answer", "expected"), ANSWERS)
def test_answer_bytes(answer: Answer, expected: str) -> None:
    assert answer.encode().hex() == expected
    assert decode_answer(bytes.fromhex(expected)) == answer


@pytest.mark.parametrize("data", [q.encode() for q, _ in QUESTIONS])
def test_cut_or_longer_questions_are_refused(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(WireError):
            decode_question(data[:size])
    with pytest.raises(WireError):
        decode_question(data + b"\0")


@pytest.mark.parametrize("data", [a.encode() for a, _ in ANSWERS])
def test_cut_or_longer_answers_are_refused(data: bytes) -> None:
    for size in range(len(data)):
        with pytest.raises(WireError):
            decode_answer(data[:size])
    with pytest.raises(WireError):
        decode_answer(data + b"\0")


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\x81" + bytes(512),
        b"\x03\x00",
        bytes((3, ENVELOPES_MAX + 1)) + bytes(32 * (ENVELOPES_MAX + 1)),
        b"\x04\x08\x09",
        b"\x04\x08\x01\x00\x04/bad",
        b"\x04\x08\x01\x00\x01\xff",
        b"\x01" * (QUESTION_BYTES_MAX + 1),
    ],
)
def test_bad_questions(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_question(data)


def _index(*entries: tuple[bytes, int], more: int = 0) -> bytes:
    rows = b"".join(author + sequence.to_bytes(8, "big") for author, sequence in entries)
    return bytes((0x82, more)) + len(entries).to_bytes(2, "big") + rows


@pytest.mark.parametrize(
    "data",
    [
        b"\x01",
        _index((TWO, 1), (ONE, 1)),
        _index((ONE, 1), (ONE, 2)),
        _index(more=1),
        _index((ONE, 1), more=2),
        _index(*((index.to_bytes(32, "big"), 1) for index in range(INDEX_ENTRIES_MAX + 1))),
        bytes((0x83, ENVELOPES_MAX + 1)) + bytes(2 * (ENVELOPES_MAX + 1)),
        b"\x83\x01" + (ENVELOPE_BYTES_MAX + 1).to_bytes(2, "big") + bytes(ENVELOPE_BYTES_MAX + 1),
        bytes((0x84, PEERS_ANSWER_MAX + 1)) + bytes(33 * (PEERS_ANSWER_MAX + 1)),
        b"\xff\xff" + b"x" * 255,
        bytes(ANSWER_BYTES_MAX + 1),
    ],
)
def test_bad_answers(data: bytes) -> None:
    with pytest.raises(WireError):
        decode_answer(data)


def test_the_fullest_answers_fit() -> None:
    entries = tuple((AccountId(index.to_bytes(32, "big")), 1) for index in range(INDEX_ENTRIES_MAX))
    assert len(IndexPage(entries, more=True).encode()) < ANSWER_BYTES_MAX
    assert ENVELOPES_BYTES_MAX + 2 * ENVELOPES_MAX + 2 < ANSWER_BYTES_MAX
    assert ENVELOPES_BYTES_MAX >= ENVELOPE_BYTES_MAX
    peers = PeersAnswer(((ACCOUNT, (ADDRESS,) * 8),) * PEERS_ANSWER_MAX)
    assert len(peers.encode()) < ANSWER_BYTES_MAX
    fullest = FetchQuestion(tuple(AccountId(bytes(32)) for _ in range(ENVELOPES_MAX)))
    assert len(fullest.encode()) < QUESTION_BYTES_MAX
    with pytest.raises(ValueError, match="authors"):
        FetchQuestion(()).encode()
    assert len(Denied("é" * 500).encode()) == 202
