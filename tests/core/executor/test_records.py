"""Tasks, limits, outcomes and values as bytes (SPEC.md §13.1, §13.2, §13.4, §13.5); the examples are the SPEC's."""

from __future__ import annotations

import dataclasses
import math

import pytest

from executor.core.limits import CEILINGS, Limits
from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from executor.core.values import decode_results, encode_results, parse_argument
from executor.core.wire import WireError

TASK = WasmTask(bytes(range(32)), "_start", ("7", "ü"), b"in", Limits(1_000_000, 1 << 20, 2.5, 4096))
TASK_HEX = (
    "0101000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f00000000000f4240000000000010"
    "0000000009c40000100000065f73746172740002000000013700000002c3bc00000002696e"
)
TASK_DIGEST = "65f343fd11c122d01615775bdb65eac075ee3abf84f25ecf451d5d2cefba87a7"
OUTCOME = Outcome(Status.EXIT, 7, b"hello\n", 100_049, b"warn", 0.0035, 0.004, 21_000_192)
OUTCOME_HEX = (
    "01010000000700000000000186d10000000000000dac0000000000000fa000000000014070000000000668656c6c6f0a"
    "000000047761726e"
)
OUTCOME_DIGEST = "8c60cf06a946ccd7e480ecf97b1bb01d7c6afe8a93c48bec0c1101b934807bc4"


def test_example_bytes() -> None:
    assert TASK.encode().hex() == TASK_HEX
    assert TASK.digest().hex() == TASK_DIGEST
    assert OUTCOME.encode().hex() == OUTCOME_HEX
    assert OUTCOME.digest().hex() == OUTCOME_DIGEST
    assert WasmTask.decode(bytes.fromhex(TASK_HEX)) == TASK
    assert Outcome.decode(bytes.fromhex(OUTCOME_HEX)) == OUTCOME


@pytest.mark.parametrize("data", [TASK.encode(), OUTCOME.encode()], ids=["task", "outcome"])
def test_cut_and_longer_bytes_are_refused(data: bytes) -> None:
    decode = WasmTask.decode if data == TASK.encode() else Outcome.decode
    for size in range(len(data)):
        with pytest.raises(WireError):
            decode(data[:size])
    with pytest.raises(WireError, match="too many"):
        decode(data + b"\0")


@pytest.mark.parametrize(
    "change",
    [
        {"module_sha256": bytes(31)},
        {"entry": ""},
        {"entry": "x" * 257},
        {"entry": "a\0b"},
        {"entry": "\ud800"},
        {"args": ("",) * 257},
        {"args": ("x" * 70_000,)},
        {"args": ("\0",)},
        {"stdin": bytes((2 << 20) + 1)},
        {"entry": "add", "stdin": b"x"},
    ],
)
def test_task_fields_over_their_limits_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(WireError):
        dataclasses.replace(TASK, **change)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "values",
    [(0, 1, 1, 1), (10**14 + 1, 1, 1, 1), (1, 0, 1, 1), (1, (2 << 30) + 1, 1, 1), (1, 1, 0.0001, 1),
     (1, 1, 3601, 1), (1, 1, 1, 0), (1, 1, 1, (2 << 20) + 1), (1, 1, math.nan, 1)],
)  # fmt: skip
def test_limits_out_of_range_are_refused(values: tuple[int, int, float, int]) -> None:
    with pytest.raises(WireError, match="limit"):
        Limits(*values)


def test_a_limit_above_the_ceilings_is_named() -> None:
    assert CEILINGS.exceeds(CEILINGS) is None
    assert Limits(memory_bytes=2 << 30).exceeds(CEILINGS) == "memory_bytes"


@pytest.mark.parametrize("field", ["status", "exit_code", "output", "fuel"])
def test_digest_covers_what_is_judged(field: str) -> None:
    changed = {"status": Status.OK, "exit_code": 8, "output": b"", "fuel": 1}[field]
    assert dataclasses.replace(OUTCOME, **{field: changed}).digest() != OUTCOME.digest()  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["stderr", "cpu_s", "wall_s", "memory_peak_bytes"])
def test_digest_leaves_out_what_differs_between_workers(field: str) -> None:
    changed = {"stderr": b"", "cpu_s": 1, "wall_s": 1, "memory_peak_bytes": 1}[field]
    assert dataclasses.replace(OUTCOME, **{field: changed}).digest() == OUTCOME.digest()  # type: ignore[arg-type]


@pytest.mark.parametrize("status", Status)
def test_which_ends_are_the_same_everywhere(status: Status) -> None:
    machine_dependent = {Status.TIMEOUT, Status.CRASHED, Status.REFUSED}
    assert Outcome(status).deterministic == (status not in machine_dependent)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        ("i32", "-2147483648", -(2**31)),
        ("i32", "4294967295", -1),
        ("i64", "18446744073709551615", -1),
        ("f64", "1e3", 1000.0),
        ("f32", "0.1", 0.10000000149011612),
        ("f32", "1e300", math.inf),
        ("f64", "-inf", -math.inf),
    ],
)
def test_arguments(kind: str, text: str, value: float) -> None:
    assert parse_argument(kind, text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [("i32", "4294967296"), ("i32", "-2147483649"), ("i32", "1_0"), ("i32", " 1"), ("i32", "٣"), ("i32", "1.0"),
     ("i64", ""), ("f64", "0x1"), ("f64", "infinity"), ("f64", "-nan"), ("f64", "1e99999"), ("funcref", "0")],
)  # fmt: skip
def test_arguments_that_are_no_numbers(kind: str, text: str) -> None:
    with pytest.raises(WireError):
        parse_argument(kind, text)


def test_results_are_canonical() -> None:
    encoded = encode_results([("i32", -1), ("i64", 5), ("f32", 0.5), ("f64", -math.nan)])
    assert encoded.hex() == "7fffffffff7e00000000000000057d3f0000007c7ff8000000000000"
    values = decode_results(encoded)
    assert values[:3] == (-1, 5, 0.5)
    assert math.isnan(values[3])
    for wrong in ("7dffc00000", "7f0000", "00", "7b", "7f00000000" * 65):
        with pytest.raises(WireError):
            decode_results(bytes.fromhex(wrong))
    with pytest.raises(WireError):
        encode_results([("funcref", 0)])
    with pytest.raises(WireError):
        encode_results([("i32", 0)] * 65)
