"""Any bytes give a record or a WireError; any record survives its bytes (SPEC.md §13)."""

from __future__ import annotations

import contextlib
import math

from hypothesis import given, settings
from hypothesis import strategies as st

from executor.core.frames import Frames, frame
from executor.core.limits import Limits
from executor.core.module import check_module, exported_functions
from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from executor.core.values import decode_results, encode_results
from executor.core.wire import WireError

text = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="\0"), max_size=40)
limits = st.builds(
    Limits,
    fuel=st.integers(1, 10**14),
    memory_bytes=st.integers(1, 2 << 30),
    wall_s=st.integers(1, 3_600_000).map(lambda ms: ms / 1000),
    output_bytes=st.integers(1, 2 << 20),
)
tasks = st.builds(
    WasmTask,
    module_sha256=st.binary(min_size=32, max_size=32),
    entry=st.just("_start"),
    args=st.lists(text, max_size=5).map(tuple),
    stdin=st.binary(max_size=200),
    limits=limits,
)
outcomes = st.builds(
    Outcome,
    status=st.sampled_from(Status),
    exit_code=st.integers(0, 2**32 - 1),
    output=st.binary(max_size=200),
    fuel=st.integers(0, 10**14),
    stderr=st.binary(max_size=200),
    cpu_s=st.floats(0, 1e6),
    wall_s=st.floats(0, 1e6),
    memory_peak_bytes=st.integers(0, 2**64 - 1),
)
numbers = st.one_of(
    st.tuples(st.just("i32"), st.integers(-(2**31), 2**31 - 1)),
    st.tuples(st.just("i64"), st.integers(-(2**63), 2**63 - 1)),
    st.tuples(st.just("f32"), st.floats(width=32)),
    st.tuples(st.just("f64"), st.floats()),
)


@given(tasks)
def test_tasks_survive(task: WasmTask) -> None:
    assert WasmTask.decode(task.encode()) == task


@given(outcomes)
def test_outcomes_survive(outcome: Outcome) -> None:
    assert Outcome.decode(outcome.encode()) == outcome


@given(st.lists(numbers, max_size=10))
def test_results_survive(results: list[tuple[str, float]]) -> None:
    decoded = decode_results(encode_results(results))
    for (_, value), again in zip(results, decoded, strict=True):
        assert value == again or (math.isnan(value) and math.isnan(again))


@given(
    st.one_of(st.binary(max_size=300), tasks.map(WasmTask.encode), outcomes.map(Outcome.encode)), st.data()
)
@settings(max_examples=300)
def test_any_bytes_are_answered(data: bytes, choice: st.DataObject) -> None:
    """Garbage, and records with one byte changed; whatever decodes must be canonical."""
    if data:
        at = choice.draw(st.integers(0, len(data) - 1))
        data = data[:at] + bytes((choice.draw(st.integers(0, 255)),)) + data[at + 1 :]
    for decode in (WasmTask.decode, Outcome.decode):
        try:
            record = decode(data)
        except WireError:
            continue
        assert record.encode() == data
    for reader in (decode_results, check_module, exported_functions):
        try:
            reader(data)
        except WireError:
            continue
    with contextlib.suppress(WireError):
        Frames(1000).feed(data)


@given(st.lists(st.binary(max_size=50), max_size=8), st.integers(1, 7))
def test_frames_do_not_depend_on_how_they_are_cut(bodies: list[bytes], step: int) -> None:
    stream = b"".join(frame(body) for body in bodies)
    frames = Frames(50)
    found = [body for at in range(0, len(stream), step) for body in frames.feed(stream[at : at + step])]
    assert found == bodies
