"""Messages of the lease stream: msgpack maps, one per frame (SPEC.md §12).

`encode` writes a message; `decode` answers any bytes with a message or `WireError`. Nothing here is
signed: signatures travel inside as fixed-layout records of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, TypeAlias, TypeVar

from ledger.core.encoding import WireError, pack, unpack
from ledger.core.entries import VOUCHER_BYTES, Voucher, decode_voucher
from ledger.core.receipt import RECEIPT_BYTES_MAX
from millrace.core.terms import WINDOW_UNITS_MAX, Terms, decode_terms

__all__ = [
    "EARLY_FRAME_BYTES_MAX",
    "FRAME_BYTES_MAX",
    "PIECE_BYTES_MAX",
    "Accept",
    "Commit",
    "Committed",
    "End",
    "Locked",
    "Message",
    "ModulePiece",
    "NeedModule",
    "Propose",
    "Ready",
    "Refuse",
    "Result",
    "Results",
    "Reveal",
    "Unit",
    "Units",
    "Verdict",
    "VerdictCode",
    "Verdicts",
    "batches",
    "decode",
    "encode",
]

FRAME_BYTES_MAX: Final = 4 << 20
EARLY_FRAME_BYTES_MAX: Final = RECEIPT_BYTES_MAX + (32 << 10)
"""The longest message that a worker takes before the LOCK is proved: terms and a receipt are shorter."""
PIECE_BYTES_MAX: Final = 256 << 10
BATCH_BYTES_MAX: Final = FRAME_BYTES_MAX - (64 << 10)
"""Items of one message: the frame less its own overhead."""
ITEM_BYTES_MAX: Final = (3 << 20) + (256 << 10)
"""A task, or an outcome: the largest output plus its diagnostics."""
ITEMS_MAX: Final = 8 * WINDOW_UNITS_MAX
"""Fields, rows and columns of one message together: a full window of results has half as many."""
REASON_CHARS_MAX: Final = 200
UNIT_MAX: Final = (1 << 32) - 1
HASH_BYTES: Final = 32
SALT_BYTES: Final = 32
SIGNATURE_BYTES: Final = 64

Item = TypeVar("Item")


class VerdictCode(StrEnum):
    """Why a unit is paid or not. Only LIE says that the worker is at fault."""

    PAID = "paid"
    LIE = "lie"  # re-execution gives another result
    INCONCLUSIVE = "inconclusive"  # a timeout or a crash: nothing that anybody could check
    SUPERSEDED = "superseded"  # enough others were faster; stop working on it


@dataclass(frozen=True, slots=True)
class Propose:
    """Buyer: these terms, signed by me."""

    terms: Terms
    signature: bytes


@dataclass(frozen=True, slots=True)
class Accept:
    """Worker: agreed, signed by me."""

    signature: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Worker: no lease, because."""

    reason: str


@dataclass(frozen=True, slots=True)
class Locked:
    """Buyer: the ledger's receipt of the LOCK."""

    receipt: bytes


@dataclass(frozen=True, slots=True)
class NeedModule:
    """Worker: send me the module."""


@dataclass(frozen=True, slots=True)
class ModulePiece:
    """Buyer: the module's bytes from `offset` on; pieces come in order and without gaps."""

    offset: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Ready:
    """Worker: the module is checked and compiled, units may come."""


@dataclass(frozen=True, slots=True)
class Unit:
    """One unit of work: its number in the job and its encoded task (SPEC.md §13)."""

    unit: int
    task: bytes


@dataclass(frozen=True, slots=True)
class Units:
    """Buyer: run these."""

    units: tuple[Unit, ...]


@dataclass(frozen=True, slots=True)
class Commit:
    """A hash that binds the worker to one outcome of a unit (SPEC.md §14)."""

    unit: int
    commitment: bytes


@dataclass(frozen=True, slots=True)
class Committed:
    """Worker: these are done, and this is what binds me to the results."""

    commits: tuple[Commit, ...]


@dataclass(frozen=True, slots=True)
class Reveal:
    """Buyer: enough others have committed; show these."""

    units: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """What a commitment hid: the encoded outcome and the salt."""

    unit: int
    outcome: bytes
    salt: bytes


@dataclass(frozen=True, slots=True)
class Results:
    """Worker: as asked."""

    results: tuple[Result, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """One unit's end: `amount` micro-credits if the code is PAID, 0 otherwise."""

    unit: int
    code: VerdictCode
    amount: int = 0


@dataclass(frozen=True, slots=True)
class Verdicts:
    """Buyer: these units are judged; `voucher` carries the new total if anything was paid."""

    verdicts: tuple[Verdict, ...]
    voucher: Voucher | None


@dataclass(frozen=True, slots=True)
class End:
    """Either side: the lease is over, because."""

    reason: str


Message: TypeAlias = (
    Propose
    | Accept
    | Refuse
    | Locked
    | NeedModule
    | ModulePiece
    | Ready
    | Units
    | Committed
    | Reveal
    | Results
    | Verdicts
    | End
)


def encode(message: Message) -> bytes:
    """The frame of a message: `{"t": name, …}`."""
    name, fields = _WRITERS[type(message)]
    return pack({"t": name, **fields(message)})


def decode(data: bytes) -> Message:
    """The message in `data`; any other bytes are a `WireError`."""
    value = unpack(data, bytes_max=FRAME_BYTES_MAX, items_max=ITEMS_MAX)
    if not isinstance(value, dict):
        raise WireError("lease message: not a map")
    name = value.pop("t", None)
    reader = _READERS.get(name) if isinstance(name, str) else None
    if reader is None:
        raise WireError(f"lease message: type {str(name)[:40]!r} is unknown")
    keys, read = reader
    if value.keys() != keys:
        raise WireError(f"lease message {name}: fields {sorted(value)}, expected {sorted(keys)}"[:300])
    return read(value)


def batches(items: Iterable[Item], size: Callable[[Item], int]) -> Iterator[tuple[Item, ...]]:
    """`items` in order, in groups that fit one frame each; `size` gives an item's bytes."""
    group: list[Item] = []
    used = 0
    for item in items:
        cost = size(item) + 64
        if group and (used + cost > BATCH_BYTES_MAX or len(group) == WINDOW_UNITS_MAX):
            yield tuple(group)
            group, used = [], 0
        group.append(item)
        used += cost
    if group:
        yield tuple(group)


def _bytes(value: object, what: str, least: int, most: int) -> bytes:
    if not isinstance(value, bytes) or not least <= len(value) <= most:
        raise WireError(f"lease message: {what} is not {least} to {most} bytes")
    return value


def _uint(value: object, what: str, most: int) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise WireError(f"lease message: {what} is not a whole number from 0 to {most}")
    return value


def _reason(value: object) -> str:
    if not isinstance(value, str) or len(value) > REASON_CHARS_MAX:
        raise WireError(f"lease message: a reason is text of at most {REASON_CHARS_MAX} characters")
    return "".join(letter if letter.isprintable() else "?" for letter in value)


def _items(value: object, width: int) -> list[list[Any]]:
    """A list of 1 to WINDOW_UNITS_MAX rows of `width` columns, the first a unit number, none twice."""
    if not isinstance(value, list) or not 1 <= len(value) <= WINDOW_UNITS_MAX:
        raise WireError(f"lease message: a list of 1 to {WINDOW_UNITS_MAX} units expected")
    for row in value:
        if not isinstance(row, list) or len(row) != width:
            raise WireError(f"lease message: a row of {width} columns expected")
    if len({_uint(row[0], "a unit", UNIT_MAX) for row in value}) != len(value):
        raise WireError("lease message: a unit stands twice")
    return value


def _code(value: object) -> VerdictCode:
    for code in VerdictCode:
        if value == code.value:
            return code
    raise WireError("lease message: a verdict of an unknown code")


def _read_propose(value: dict[str, Any]) -> Propose:
    terms = decode_terms(_bytes(value["terms"], "terms", 1, 1024))
    return Propose(terms, _bytes(value["sig"], "sig", SIGNATURE_BYTES, SIGNATURE_BYTES))


def _read_units(value: dict[str, Any]) -> Units:
    rows = _items(value["units"], 2)
    return Units(tuple(Unit(row[0], _bytes(row[1], "a task", 1, ITEM_BYTES_MAX)) for row in rows))


def _read_committed(value: dict[str, Any]) -> Committed:
    rows = _items(value["commits"], 2)
    return Committed(
        tuple(Commit(row[0], _bytes(row[1], "a commitment", HASH_BYTES, HASH_BYTES)) for row in rows)
    )


def _read_reveal(value: dict[str, Any]) -> Reveal:
    units = value["units"]
    rows = [[unit] for unit in units] if isinstance(units, list) else units
    return Reveal(tuple(row[0] for row in _items(rows, 1)))


def _read_results(value: dict[str, Any]) -> Results:
    return Results(
        tuple(
            Result(
                row[0],
                _bytes(row[1], "an outcome", 1, ITEM_BYTES_MAX),
                _bytes(row[2], "a salt", SALT_BYTES, SALT_BYTES),
            )
            for row in _items(value["results"], 3)
        )
    )


def _read_verdicts(value: dict[str, Any]) -> Verdicts:
    verdicts = tuple(
        Verdict(row[0], _code(row[1]), _uint(row[2], "an amount", 1 << 48))
        for row in _items(value["verdicts"], 3)
    )
    voucher = value["voucher"]
    if voucher is not None:
        voucher = decode_voucher(_bytes(voucher, "voucher", VOUCHER_BYTES, VOUCHER_BYTES))
    return Verdicts(verdicts, voucher)


def _read_module(value: dict[str, Any]) -> ModulePiece:
    return ModulePiece(
        _uint(value["offset"], "offset", 1 << 32), _bytes(value["data"], "data", 1, PIECE_BYTES_MAX)
    )


def _signature(value: dict[str, Any]) -> bytes:
    return _bytes(value["sig"], "sig", SIGNATURE_BYTES, SIGNATURE_BYTES)


_Reader: TypeAlias = tuple[frozenset[str], Callable[[dict[str, Any]], Message]]
_READERS: Final[dict[str, _Reader]] = {
    "propose": (frozenset({"terms", "sig"}), _read_propose),
    "accept": (frozenset({"sig"}), lambda value: Accept(_signature(value))),
    "refuse": (frozenset({"reason"}), lambda value: Refuse(_reason(value["reason"]))),
    "locked": (
        frozenset({"receipt"}),
        lambda value: Locked(_bytes(value["receipt"], "receipt", 1, RECEIPT_BYTES_MAX)),
    ),
    "need_module": (frozenset(), lambda _: NeedModule()),
    "module": (frozenset({"offset", "data"}), _read_module),
    "ready": (frozenset(), lambda _: Ready()),
    "units": (frozenset({"units"}), _read_units),
    "committed": (frozenset({"commits"}), _read_committed),
    "reveal": (frozenset({"units"}), _read_reveal),
    "results": (frozenset({"results"}), _read_results),
    "verdicts": (frozenset({"verdicts", "voucher"}), _read_verdicts),
    "end": (frozenset({"reason"}), lambda value: End(_reason(value["reason"]))),
}

_Writer: TypeAlias = tuple[str, Callable[[Any], dict[str, object]]]
_WRITERS: Final[dict[type[Message], _Writer]] = {
    Propose: ("propose", lambda m: {"terms": m.terms.encode(), "sig": m.signature}),
    Accept: ("accept", lambda m: {"sig": m.signature}),
    Refuse: ("refuse", lambda m: {"reason": m.reason[:REASON_CHARS_MAX]}),
    Locked: ("locked", lambda m: {"receipt": m.receipt}),
    NeedModule: ("need_module", lambda _: {}),
    ModulePiece: ("module", lambda m: {"offset": m.offset, "data": m.data}),
    Ready: ("ready", lambda _: {}),
    Units: ("units", lambda m: {"units": [[item.unit, item.task] for item in m.units]}),
    Committed: ("committed", lambda m: {"commits": [[item.unit, item.commitment] for item in m.commits]}),
    Reveal: ("reveal", lambda m: {"units": list(m.units)}),
    Results: ("results", lambda m: {"results": [[item.unit, item.outcome, item.salt] for item in m.results]}),
    Verdicts: (
        "verdicts",
        lambda m: {
            "verdicts": [[item.unit, item.code.value, item.amount] for item in m.verdicts],
            "voucher": m.voucher.encode() if m.voucher else None,
        },
    ),
    End: ("end", lambda m: {"reason": m.reason[:REASON_CHARS_MAX]}),
}
