"""The genesis record (SPEC.md §8): one encoding, one network id, every bound refused."""

from typing import Any

import pytest

from ledger.core.amounts import AMOUNT_MAX, LIMIT_SUM_MAX
from ledger.core.committee import WITNESSES_MAX
from ledger.core.encoding import WireError, digest
from ledger.core.genesis import (
    GENESIS_BYTES_MAX,
    GOVERNORS_MAX,
    LIMITS_MAX,
    NAME_BYTES_MAX,
    SLOT_TIMEOUT_MS_MAX,
    TIME_MS_MAX,
    Genesis,
)
from ledger.core.keys import AccountId
from ledger.core.params import Params
from tests.core.ledger.ledger_forge import ALICE, BOB, WITNESSES, genesis


def strict_accounts(count: int) -> tuple[AccountId, ...]:
    # Nothing says that an account is a point of the curve, only that its encoding is canonical and not weak.
    return tuple(AccountId(n.to_bytes(31, "big") + b"\x01") for n in range(count))


def test_round_trip_and_network_id() -> None:
    record = genesis(4, fee_min=7, slot_timeout_ms=250, dispute_fee=9)
    assert record.params == Params(1, 7, 9, 250)
    assert Genesis.decode(record.encode()) == record
    assert record.network_id == digest(b"millrace/1 genesis\0", record.encode())


def test_limits_are_sorted_so_that_one_network_has_one_id() -> None:
    pairs = ((ALICE.account, 5), (BOB.account, 6))
    assert genesis(limits=pairs) == genesis(limits=pairs[::-1])
    assert genesis(limits=pairs).network_id == genesis(limits=pairs[::-1]).network_id


@pytest.mark.parametrize(
    "change",
    [
        {"name": "other"},
        {"created_ms": 1},
        {"slot_timeout_ms": 2},
        {"fee_min": 1},
        {"dispute_fee": 1},
        {"governors": (ALICE.account,), "governors_needed": 1},
        {"limits": ()},
        {"witnesses": tuple(w.account for w in WITNESSES[3::-1])},
    ],
    ids=lambda change: next(iter(change)),
)
def test_every_field_is_part_of_the_network_id(change: dict[str, Any]) -> None:
    assert genesis(4).network_id != genesis(4, **change).network_id


@pytest.mark.parametrize(
    ("n", "faults", "quorum"), [(1, 0, 1), (2, 0, 2), (3, 0, 3), (4, 1, 3), (5, 1, 4), (6, 1, 5), (7, 2, 5)]
)
def test_quorum(n: int, faults: int, quorum: int) -> None:
    record = genesis(n)
    committee = record.committee
    assert (committee.n, committee.faults, committee.quorum) == (n, faults, quorum)
    assert [committee.leader(slot) for slot in range(n)] == list(record.witnesses)
    assert committee.leader(n) == record.witnesses[0]
    # Two quorums share more than f witnesses: at least one of them is honest.
    assert 2 * quorum - n > faults


WEAK = AccountId(bytes((1, *bytes(31))))


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""},
        {"name": "x" * (NAME_BYTES_MAX + 1)},
        {"name": " x"},
        {"name": "x\n"},
        {"name": "mühle"},
        {"created_ms": -1},
        {"created_ms": TIME_MS_MAX + 1},
        {"slot_timeout_ms": 0},
        {"slot_timeout_ms": SLOT_TIMEOUT_MS_MAX + 1},
        {"fee_min": -1},
        {"fee_min": AMOUNT_MAX + 1},
        {"dispute_fee": -1},
        {"dispute_fee": AMOUNT_MAX + 1},
        {"governors": (ALICE.account,), "governors_needed": 0},
        {"governors": (ALICE.account,), "governors_needed": 2},
        {"governors": (), "governors_needed": 1},
        {"governors": (ALICE.account, ALICE.account), "governors_needed": 1},
        {"governors": (WEAK,), "governors_needed": 1},
        {"governors": strict_accounts(GOVERNORS_MAX + 1), "governors_needed": 1},
        {"witnesses": ()},
        {"witnesses": strict_accounts(WITNESSES_MAX + 1)},
        {"witnesses": (ALICE.account, ALICE.account)},
        {"witnesses": (WEAK,)},
        {"witnesses": (ALICE.account[:31],)},
        {"limits": ((ALICE.account, 0),)},
        {"limits": ((ALICE.account, 1), (ALICE.account, 2))},
        {"limits": ((WEAK, 1),)},
        {"limits": ((ALICE.account, LIMIT_SUM_MAX), (BOB.account, 1))},
        {"limits": tuple((account, 1) for account in strict_accounts(LIMITS_MAX + 1))},
    ],
    ids=lambda change: f"{next(iter(change))}",
)
def test_out_of_bounds_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(WireError):
        genesis(4, **change)


def test_the_largest_record_is_as_large_as_the_limit_says() -> None:
    accounts = strict_accounts(LIMITS_MAX)
    record = genesis(
        name="x" * NAME_BYTES_MAX,
        witnesses=accounts[:WITNESSES_MAX],
        limits=tuple((account, 1) for account in accounts),
        governors=accounts[:GOVERNORS_MAX],
        governors_needed=GOVERNORS_MAX,
    )
    assert len(record.encode()) == GENESIS_BYTES_MAX
    assert Genesis.decode(record.encode()) == record


def test_only_the_canonical_bytes_decode() -> None:
    encoded = genesis().encode()
    for broken in (b"", encoded[:-1], encoded + b"\0", b"\3" + encoded[1:]):
        with pytest.raises(WireError):
            Genesis.decode(broken)
    swapped = encoded[:-82] + encoded[-42:-2] + encoded[-82:-42] + encoded[-2:]
    with pytest.raises(WireError, match="sorted"):
        Genesis.decode(swapped)
    with pytest.raises(WireError, match="witnesses"):
        Genesis.decode(encoded.replace(b"\0\4", b"\1\0", 1))
    with pytest.raises(WireError, match="before networks had governors"):
        Genesis.decode(b"\1" + encoded[1:])


def test_governors_are_sorted_and_counted() -> None:
    governors = tuple(sorted((ALICE.account, BOB.account)))
    record = genesis(governors=governors[::-1], governors_needed=2)
    assert record.governors == governors
    encoded = record.encode()
    assert encoded.endswith(bytes((2, 2)) + b"".join(governors))
    assert Genesis.decode(encoded) == record
    with pytest.raises(WireError, match="governors are not sorted"):
        Genesis.decode(encoded[:-64] + governors[1] + governors[0])
    with pytest.raises(WireError, match="17"):
        Genesis.decode(encoded[:-65] + bytes((17,)) + bytes(17 * 32))
