"""The example bytes of SPEC.md §6 and §15, and decoders that answer any bytes with a message or `WireError`."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledger.core.consensus import (
    MESSAGE_BYTES_MAX,
    Ask,
    Message,
    Recall,
    Recalled,
    Relay,
    decode_message,
    encode_message,
)
from ledger.core.encoding import Kind, WireError
from ledger.core.evidence import VotePair
from ledger.core.requests import (
    ANSWER_BYTES_MAX,
    AccountOf,
    BlocksFrom,
    Head,
    LedgerRequest,
    LockOf,
    ReceiptOf,
    ServiceError,
    Submit,
    decode_answer,
    decode_request,
    encode_answer,
    encode_error,
    encode_request,
)
from tests.core.ledger_ordering.machines import KEYS, Machine, entry, genesis, vote

FOUR = genesis(4)


def final_machine() -> Machine:
    machine = Machine(genesis(1), 0)
    machine.submit(entry(machine.network))
    return machine


MESSAGES: list[Message] = [
    vote(FOUR, 1, Kind.SKIP, 3),
    vote(FOUR, 1, Kind.FINAL, 3, b"h" * 32),
    final_machine().final[0].certificate,
    next(item.proposal for item in final_machine().persisted if item.proposal is not None),
    Ask(9, 3, b"h" * 32),
    Relay((entry(FOUR), entry(FOUR, seq=2))),
    Recall(3, 9),
    Recalled(3, 9, 11, (vote(FOUR, 1, Kind.SKIP, 10), vote(FOUR, 1, Kind.NOTAR, 10, b"h" * 32))),
    VotePair(vote(FOUR, 1, Kind.NOTAR, 3, b"g" * 32), vote(FOUR, 1, Kind.NOTAR, 3, b"h" * 32)),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_entries_that_are_known_are_not_made_anew(message: Message) -> None:
    waiting = entry(FOUR)
    proposed = next(item.proposal for item in final_machine().persisted if item.proposal is not None)
    known = {each.encoded: each for each in (waiting, *proposed.entries)}
    found = decode_message(encode_message(message), known)
    assert found == message
    entries = getattr(found, "entries", ())
    assert [each for each in entries if each.encoded in known and each is not known[each.encoded]] == []


def test_an_entry_with_another_signature_is_not_the_known_one() -> None:
    waiting = entry(FOUR)
    forged = waiting.encoded[:-1] + bytes((waiting.encoded[-1] ^ 1,))
    found = decode_message(b"\x05" + forged + waiting.encoded, {waiting.encoded: waiting})
    assert isinstance(found, Relay)
    assert [each is waiting for each in found.entries] == [False, True]
    assert found.entries[0].encoded == forged


def test_the_examples_of_the_specification() -> None:
    assert encode_message(Ask(7, 5)).hex() == "04" + "0" * 15 + "7" + "0" * 15 + "5" + "0" * 64
    assert encode_message(Recall(0, 5)).hex() == "07" + "0" * 8 + "0" * 15 + "5"
    answer = "08" + "0" * 8 + "0" * 15 + "5" + "0" * 15 + "7" + "00"
    assert encode_message(Recalled(0, 5, 7, ())).hex() == answer
    assert decode_message(bytes.fromhex(answer)) == Recalled(0, 5, 7, ())
    poll = "84a26f70a6626c6f636b73a668656967687403a5636f756e7440a7776169745f6d73cd07d0"
    assert encode_request(BlocksFrom(3, wait_ms=2_000)).hex() == poll
    assert encode_answer({"status": "waiting"}).hex() == "81a26f6b81a6737461747573a777616974696e67"
    assert (MESSAGE_BYTES_MAX, ANSWER_BYTES_MAX) == (244_210, 330_781)


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: type(message).__name__)
def test_messages_come_back_and_no_shorter_ones_do(message: Message) -> None:
    data = encode_message(message)
    assert decode_message(data) == message
    for end in range(len(data)):
        with contextlib.suppress(WireError):
            assert decode_message(data[:end]) != message
    with pytest.raises(WireError):
        decode_message(data + b"\0")


@settings(max_examples=300, deadline=None)
@given(st.integers(0, 7), st.binary(max_size=400))
def test_any_bytes_are_a_message_or_a_wire_error(kind: int, body: bytes) -> None:
    with contextlib.suppress(WireError):
        message = decode_message(bytes((kind,)) + body)
        assert encode_message(message) == bytes((kind,)) + body, "one message, one encoding"


REQUESTS: list[LedgerRequest] = [
    Submit(entry(FOUR).encode()),
    Head(),
    BlocksFrom(1, 64, 25_000),
    AccountOf(KEYS[0].account),
    LockOf(b"l" * 32),
    ReceiptOf(b"r" * 32),
]


@pytest.mark.parametrize("request_", REQUESTS, ids=lambda request: type(request).__name__)
def test_requests_come_back(request_: LedgerRequest) -> None:
    assert decode_request(encode_request(request_)) == request_


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_a_wire_error(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode_request(data)
    with contextlib.suppress(WireError, ServiceError):
        decode_answer(data)


def test_errors_travel() -> None:
    with pytest.raises(ServiceError) as caught:
        decode_answer(encode_error("busy", "x" * 900))
    assert (caught.value.code, len(caught.value.detail)) == ("busy", 500)
