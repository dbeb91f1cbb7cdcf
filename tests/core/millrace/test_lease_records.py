"""Terms, prices, messages and offers: bounds, pinned bytes, and ranking (SPEC.md §12)."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ledger.core.amounts import AMOUNT_MAX
from ledger.core.encoding import WireError, pack
from ledger.core.keys import AccountId
from millrace.core import messages
from millrace.core.cost import PRICE_MAX, Budget, lock_amount, unit_cost, worst_case
from millrace.core.market import Needs, Offer, Weights, choose, offer_from_advert, rank, unfit
from millrace.core.progress import LeaseOpened, UnitAccepted, progress_fields
from millrace.core.terms import TERMS_BYTES, decode_terms, sign_terms, verify_terms
from p2p.core.adverts import Advert
from tests.core.millrace import lease_examples as ex
from tests.core.millrace.lease_spec_examples import example_terms, examples

ROOT = Path(__file__).resolve().parents[3]


def test_the_specification_shows_these_bytes() -> None:
    specification = ROOT / "SPEC.md"
    if not specification.exists():
        pytest.skip("no SPEC.md beside the tests")
    text = re.sub(r"\s+", "", re.sub(r";.*", "", specification.read_text()))
    for name, value in examples().items():
        assert value in text, name


def test_pinned_bytes() -> None:
    shown = examples()
    assert shown["terms hash"] == "e1cb999a7ca5c22bd8381efd8d6a7d647cf20b252d5be05162294dae0002bc9d"
    assert shown["job id"] == "42d9f2071f22b15aedc2beca87f5f4fbdf673342717c5cd7baf9cf2d3b4619bb"
    assert shown["commitment"] == "b9c871caccdcafae1ea9afcc5c9887c9364e2b345a7eb090bd3becf22d5763c2"
    assert shown["message reveal"] == "82a174a672657665616ca5756e6974739101"
    assert TERMS_BYTES == 200


def test_terms_round_trip_and_both_signatures() -> None:
    terms, network_id = example_terms()
    assert decode_terms(terms.encode()) == terms
    signature = sign_terms(terms, ex.BUYER, network_id)
    assert verify_terms(terms, ex.BUYER.account, signature, network_id)
    assert not verify_terms(terms, ex.WORKER.account, signature, network_id)
    assert not verify_terms(
        terms, ex.STRANGER.account, sign_terms(terms, ex.STRANGER, network_id), network_id
    )
    assert not verify_terms(terms, ex.BUYER.account, signature, ex.NETWORK)
    assert not verify_terms(replace(terms, amount=4_999_999), ex.BUYER.account, signature, network_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"worker": ex.BUYER.account},
        {"buyer": AccountId(bytes(32))},
        {"job_id": b"short"},
        {"nonce": bytes(17)},
        {"module_bytes": 0},
        {"module_bytes": (16 << 20) + 1},
        {"price_per_tfuel": PRICE_MAX + 1},
        {"amount": 0},
        {"amount": AMOUNT_MAX + 1},
        {"amount": 999},
        {"expiry_ms": 0},
        {"fuel_max": 0},
        {"memory_bytes_max": 0},
        {"wall_ms_max": 0},
        {"output_bytes_max": (3 << 20) + 1},
        {"window_units": 0},
        {"window_units": 257},
        {"replicas": 0},
        {"replicas": 4},
    ],
)
def test_terms_out_of_bounds(changes: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        ex.terms(**changes)


def test_terms_bytes_that_are_none() -> None:
    good = ex.TERMS.encode()
    for bad in (b"", good[:-1], good + b"\0", b"\x02" + good[1:]):
        with pytest.raises(WireError):
            decode_terms(bad)


@pytest.mark.parametrize(
    ("fuel", "price", "cost"),
    [
        (0, 0, 1),
        (1, 1, 1),
        (10**12, 1, 1),
        (10**12, 7, 7),
        (10**12 + 1, 7, 8),
        (1_234_567, 50_000, 1),
        (10**14, PRICE_MAX, 100 * PRICE_MAX),
    ],
)
def test_price_rule(fuel: int, price: int, cost: int) -> None:
    assert unit_cost(fuel, price) == cost


def test_prices_out_of_range() -> None:
    for fuel, price in ((-1, 1), (1, -1), (1, PRICE_MAX + 1)):
        with pytest.raises(ValueError, match="out of range"):
            unit_cost(fuel, price)


def test_budget_never_passes_its_cap() -> None:
    budget = Budget(100)
    assert budget.reserve(60)
    assert not budget.reserve(41)
    assert not budget.reserve(0)
    assert budget.left == 40
    budget.cancel(60)
    assert budget.left == 100
    with pytest.raises(ValueError, match="not reserved"):
        budget.cancel(1)


def test_lock_amounts() -> None:
    assert worst_case(10, 2, 10**12, 5) == 100
    rich = lock_amount(10**9, leases_left=4, executions=20, workers=4, unit_max=5)
    assert rich == 5 * 5 * 2
    assert lock_amount(100, leases_left=4, executions=200, workers=4, unit_max=5) == 25
    assert lock_amount(7, leases_left=4, executions=200, workers=4, unit_max=5) == 5
    assert lock_amount(4, leases_left=4, executions=200, workers=4, unit_max=5) == 0


@pytest.mark.parametrize("message", ex.MESSAGES, ids=lambda item: type(item).__name__)
def test_messages_round_trip(message: messages.Message) -> None:
    assert messages.decode(messages.encode(message)) == message


@pytest.mark.parametrize(
    "value",
    [
        1,
        {},
        {"t": 5},
        {"t": ["ready"]},
        {"t": "ready", "more": 1},
        {"t": "accept"},
        {"t": "accept", "sig": b"short"},
        {"t": "refuse", "reason": b"bytes"},
        {"t": "refuse", "reason": "x" * 201},
        {"t": "locked", "receipt": b""},
        {"t": "module", "offset": -1, "data": b"x"},
        {"t": "module", "offset": 0, "data": b""},
        {"t": "module", "offset": 0, "data": bytes((256 << 10) + 1)},
        {"t": "module", "offset": True, "data": b"x"},
        {"t": "units", "units": []},
        {"t": "units", "units": [[1, b"x"], [1, b"y"]]},
        {"t": "units", "units": [[1, b"x", 2]]},
        {"t": "units", "units": [[n, b"x"] for n in range(257)]},
        {"t": "units", "units": {"1": b"x"}},
        {"t": "reveal", "units": [1.0]},
        {"t": "reveal", "units": "all"},
        {"t": "reveal", "units": [1 << 32]},
        {"t": "committed", "commits": [[1, b"x" * 31]]},
        {"t": "results", "results": [[1, b"", bytes(32)]]},
        {"t": "results", "results": [[1, b"x", bytes(31)]]},
        {"t": "verdicts", "verdicts": [[1, "good", 1]], "voucher": None},
        {"t": "verdicts", "verdicts": [[1, ["paid"], 1]], "voucher": None},
        {"t": "verdicts", "verdicts": [[1, "paid", -1]], "voucher": None},
        {"t": "verdicts", "verdicts": [[1, "paid", 1]], "voucher": b"short"},
        {"t": "propose", "terms": bytes(200), "sig": bytes(64)},
    ],
)
def test_what_is_no_message(value: object) -> None:
    with pytest.raises(WireError):
        messages.decode(pack(value))


def test_reasons_of_strangers_are_shown_harmless() -> None:
    shown = messages.decode(pack({"t": "end", "reason": "a\x1b[31mb\nc"}))
    assert shown == messages.End("a?[31mb?c")


def test_batches_fit_a_frame() -> None:
    units = [messages.Unit(n, bytes(1 << 20)) for n in range(10)]
    groups = list(messages.batches(units, lambda item: len(item.task)))
    assert [item for group in groups for item in group] == units
    assert all(len(messages.encode(messages.Units(g))) <= messages.FRAME_BYTES_MAX for g in groups)
    many = [messages.Unit(n, b"x") for n in range(300)]
    assert [len(group) for group in messages.batches(many, lambda item: len(item.task))] == [256, 44]


def offer(number: int, **changes: Any) -> Offer:
    fields: dict[str, Any] = {
        "worker": AccountId(bytes([number]) * 32),
        "owner": AccountId(bytes([number]) * 32),
        "price_per_tfuel": 1000,
        "fuel_per_s": 10**9,
        "memory_bytes": 1 << 30,
        "slots": 2,
    }
    return Offer(**(fields | changes))


def test_ranking_prefers_cheap_then_fast_then_near() -> None:
    cheap, fast, near, plain = (
        offer(4, price_per_tfuel=500),
        offer(3, fuel_per_s=2 * 10**9),
        offer(2, rtt_ms=5.0),
        offer(1),
    )
    assert rank([plain, near, fast, cheap], Needs()) == [cheap, fast, near, plain]
    assert rank([plain, cheap, fast], Needs(), Weights(cost=0.1, time=1.0))[0] == fast
    assert rank([offer(9), offer(8)], Needs()) == [offer(8), offer(9)]
    assert rank([], Needs()) == []


@pytest.mark.parametrize(
    ("changes", "needs"),
    [
        ({"kinds": ("onnx",)}, Needs()),
        ({"slots": 0}, Needs()),
        ({"memory_bytes": 10}, Needs(memory_bytes=11)),
        ({"price_per_tfuel": 11}, Needs(price_per_tfuel_max=10)),
        ({"region": "eu"}, Needs(region="us")),
        ({}, Needs(region="us")),
        ({"rtt_ms": 10.0}, Needs(rtt_ms_max=9.0)),
        ({}, Needs(rtt_ms_max=9.0)),
    ],
)
def test_hard_needs(changes: dict[str, Any], needs: Needs) -> None:
    assert unfit(offer(1, **changes), needs) is not None
    assert rank([offer(1, **changes)], needs) == []
    assert unfit(offer(1, rtt_ms=1.0, region="us"), Needs(region="us", rtt_ms_max=9.0)) is None


def test_chosen_workers_have_distinct_owners() -> None:
    one, two, three = offer(1), offer(2, owner=AccountId(b"\1" * 32)), offer(3)
    assert choose([one, two, three], 2) == [one, three]
    assert choose([one, two], 5) == [one]


def test_an_advert_becomes_an_offer() -> None:
    advert = Advert(
        kinds=("wasm",),
        owner=ex.BUYER.account,
        slots_free=3,
        rates={"wasm": 7},
        price_per_tfuel=9,
        name="desk",
    )
    found = offer_from_advert(ex.WORKER.account, advert, 4.0)
    assert (found.owner, found.fuel_per_s, found.price_per_tfuel, found.slots) == (ex.BUYER.account, 7, 9, 3)


def test_progress_as_json() -> None:
    account = ex.WORKER.account
    event = progress_fields(UnitAccepted(3, "ok", "agreement", (account,)))
    assert event["event"] == "unit_accepted"
    assert [str(name)[:8] for name in event["workers"]] == ["12D3KooW"]  # type: ignore[attr-defined]
    opened = progress_fields(LeaseOpened(account, b"\1" * 32, b"\2" * 32, 5, 6))
    assert opened["lease_id"] == "01" * 32
    assert str(opened["worker"]).startswith("12D3KooW")
