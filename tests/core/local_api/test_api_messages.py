"""The local API's messages: pinned bytes, round trips, and an answer for any bytes (SPEC.md §16)."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledger.core.encoding import WireError, pack
from millrace.core import terms
from millrace.core.api_messages import (
    JOB_OPTIONS,
    METHODS,
    REPLICAS_MAX,
    Part,
    Reply,
    Request,
    check_params,
    decode_from_client,
    decode_reply,
    encode_error,
    encode_event,
    encode_ok,
    encode_part,
    encode_request,
)
from millrace.errors import BY_CODE, MillraceError, NoPeers, from_wire
from p2p.core.framing import encode_frame

PINNED = [
    (
        encode_request(Request(1, "version", {})),
        "0000001c83a2696401a66d6574686f64a776657273696f6ea6706172616d7380",
    ),
    (
        encode_request(Request(2, "send", {"to": "12D3", "amount": 5})),
        "0000002983a2696402a66d6574686f64a473656e64a6706172616d7382a2746fa431324433a6616d6f756e7405",
    ),
    (
        encode_part(Part(3, {"module": b"\0asm"}, last=True)),
        "0000001e83a2696403a47061727481a66d6f64756c65c4040061736da46c617374c3",
    ),
    (
        encode_event(3, {"event": "progress", "done": 1}),
        "0000002182a2696403a56576656e7482a56576656e74a870726f6772657373a4646f6e6501",
    ),
    (encode_ok(1, {"version": "0.1.0"}), "0000001782a2696401a26f6b81a776657273696f6ea5302e312e30"),
    (
        encode_error(1, NoPeers("no peer fits", "none is free", "wait", reasons=("a: busy",)).to_wire()),
        (
            "0000005882a2696401a56572726f7285a4636f6465a86e6f5f7065657273a477686174ac6e6f20706565722066697473"
            "a3776879ac6e6f6e652069732066726565a46e657874a477616974a7726561736f6e7391a7613a2062757379"
        ),
    ),
]


@pytest.mark.parametrize(("message", "framed"), PINNED, ids=range(len(PINNED)))
def test_bytes_are_those_of_the_specification(message: bytes, framed: str) -> None:
    assert encode_frame(message).hex() == framed


def test_round_trips() -> None:
    request = Request(7, "job.run", {"module": b"x", "units": []}, more=True)
    assert decode_from_client(encode_request(request)) == request
    part = decode_from_client(encode_part(Part(7, {"units": [{"args": ["a"]}]}, last=False)))
    assert part == Part(7, {"module": b"", "units": [{"args": ["a"]}]}, last=False)
    assert decode_reply(encode_event(7, {"a": 1})) == Reply(7, "event", {"a": 1})


@given(st.binary(max_size=200))
def test_any_bytes_are_a_message_or_a_wire_error(data: bytes) -> None:
    for decode in (decode_from_client, decode_reply):
        try:
            decode(data)
        except WireError:
            continue


SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary()
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8
)


@given(
    st.dictionaries(st.sampled_from(["id", "method", "params", "more", "part", "last", "ok", "x"]), VALUES)
)
def test_any_map_is_a_message_or_a_wire_error(message: dict[str, Any]) -> None:
    for decode in (decode_from_client, decode_reply):
        try:
            decode(pack(message))
        except WireError:
            continue


NAMES = sorted({name for method in METHODS.values() for name in method.params} | set(JOB_OPTIONS))


@given(st.sampled_from([*METHODS, "nonsense"]), st.dictionaries(st.sampled_from(NAMES), VALUES))
def test_any_parameters_are_checked_or_refused(method: str, params: dict[str, Any]) -> None:
    try:
        checked = check_params(method, params)
    except WireError:
        return
    assert set(checked) == set(METHODS[method].params)


@pytest.mark.parametrize(
    ("method", "params", "said"),
    [
        ("nonsense", {}, "no method is called"),
        ("version", {"x": 1}, "knows no parameter 'x'"),
        ("send", {"to": "a"}, "needs the parameter 'amount'"),
        ("send", {"to": "a", "amount": True}, "a whole number, not true or false"),
        ("send", {"to": "a", "amount": 1.0}, "a whole number, not a number"),
        ("send", {"to": "a", "amount": 0}, "allowed are 1 to"),
        ("send", {"to": "a", "amount": 1, "timeout_s": float("nan")}, "allowed are 0 to"),
        ("ledger.receipt", {"entry": "ab"}, "has the length 2, allowed are 64 to 64"),
        ("job.run", {"module": b"", "units": [1]}, "unit 0 must be a map"),
        ("job.run", {"module": b"", "units": [{"args": [1]}]}, "every argument must be text"),
        (
            "job.run",
            {"module": b"", "units": [{"args": [], "files": {}}]},
            "unit 0 knows no parameter 'files'",
        ),
        ("job.run", {"module": b"", "units": [], "options": {"replicas": 9}}, "allowed are 1 to 3"),
        ("job.run", {"module": b"", "units": [{}] * 10_001}, "has the length 10001"),
    ],
)
def test_each_refusal_says_what_is_wrong(method: str, params: dict[str, Any], said: str) -> None:
    with pytest.raises(WireError) as caught:
        check_params(method, params)
    assert said in str(caught.value)


def test_replicas_are_those_of_the_terms() -> None:
    assert REPLICAS_MAX == terms.REPLICAS_MAX


@pytest.mark.parametrize("kind", BY_CODE.values(), ids=lambda kind: kind.code)
def test_errors_survive_the_wire(kind: type[MillraceError]) -> None:
    error = kind("what", "why", "next", reasons=("a", "b"))
    back = from_wire(error.to_wire())
    assert type(back) is kind
    assert (back.what, back.why, back.next_step, back.reasons) == ("what", "why", "next", ("a", "b"))
    assert str(back) == "what; because why; next: next"


@given(VALUES)
def test_from_wire_never_raises(value: Any) -> None:
    assert isinstance(from_wire(value), MillraceError)
