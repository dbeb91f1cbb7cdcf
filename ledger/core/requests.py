"""What anyone may ask a ledger service, and what it answers (SPEC.md §15).

msgpack maps, because nothing here is signed: entries, blocks and receipts travel inside as their own signed bytes.
A request is `{"op": name, …}`; an answer is `{"ok": {…}}` or `{"error": code, "detail": text}`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ledger.core.block import FINAL_BLOCK_BYTES_MAX
from ledger.core.encoding import WireError, pack, unpack
from ledger.core.entries import ENTRY_BYTES_MAX
from ledger.core.keys import ACCOUNT_BYTES, AccountId
from ledger.core.votes import EPOCH_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ANSWER_BYTES_MAX",
    "BLOCKS_BYTES_MAX",
    "BLOCKS_PER_ANSWER_MAX",
    "EVIDENCE_PER_ANSWER_MAX",
    "HANDOVERS_PER_ANSWER_MAX",
    "LEDGER",
    "REQUEST_BYTES_MAX",
    "SUBMITTED_ENTRIES_MAX",
    "WAITING_TOLD_MAX",
    "WAIT_MS_MAX",
    "AccountOf",
    "BlocksFrom",
    "ChunkOf",
    "ConsistencyOf",
    "EvidenceAfter",
    "HandoversFrom",
    "Head",
    "LedgerRequest",
    "LockOf",
    "ReceiptOf",
    "ServiceError",
    "SnapshotOffer",
    "Submit",
    "SubmitAll",
    "decode_answer",
    "decode_request",
    "encode_answer",
    "encode_error",
    "encode_request",
    "field",
]

LEDGER: Final = "ledger"
"""The protocol's name: /millrace/<network>/ledger/1."""
SUBMITTED_ENTRIES_MAX: Final = 64
SUBMITTED_BYTES_MAX: Final = 15 << 10
"""Entries of one `submit_all` together: as many transfers as a request may name, a few of the longest."""
REQUEST_BYTES_MAX: Final = 16 << 10
BLOCKS_PER_ANSWER_MAX: Final = 64
BLOCKS_BYTES_MAX: Final = 256 << 10
"""Blocks of one answer: about 1,200 entries, a tenth of a second of signature checks. One block may be larger."""
ANSWER_BYTES_MAX: Final = max(BLOCKS_BYTES_MAX, FINAL_BLOCK_BYTES_MAX) + 4096
WAIT_MS_MAX: Final = 25_000
WAITING_TOLD_MAX: Final = 16
"""Entries of one account that an `account` answer shows: a wallet has one at a time."""
HANDOVERS_PER_ANSWER_MAX: Final = 16
EVIDENCE_PER_ANSWER_MAX: Final = 64
ITEMS_MAX: Final = 1024
"""Fields and list items of a message together: what the largest answer has, several times over."""
_HEIGHT_MAX: Final = 1 << 62


class ServiceError(Exception):
    """The service answered with an error: its `code` (SPEC.md §18) and a sentence."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Submit:
    """Order this entry. Answer: status `waiting`, `final`, or `refused` with reason and detail."""

    entry: bytes


@dataclass(frozen=True, slots=True)
class SubmitAll:
    """Order these entries, in this order. Answer: results, for each what `submit` answers."""

    entries: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Head:
    """Where the chain ends. Answer: height, slot, tree_size, time_ms, faults_tolerated, halted (text or empty), base
    (the height below which no blocks are held), certified (a `CertifiedHeader`, empty before the first block)."""


@dataclass(frozen=True, slots=True)
class BlocksFrom:
    """Final blocks from `height` on; if there is none yet, wait up to `wait_ms` for it. Answer: blocks."""

    height: int
    count: int = BLOCKS_PER_ANSWER_MAX
    wait_ms: int = 0


@dataclass(frozen=True, slots=True)
class AccountOf:
    """One account's line, as this node believes it. Answer: balance, limit, seq, height, and `waiting`: entries of
    the account that wait for a block here, the first WAITING_TOLD_MAX of them as bytes, in order of sequence."""

    account: AccountId


@dataclass(frozen=True, slots=True)
class LockOf:
    """One lock. Answer: found, payer, payee, amount, expiry_ms, terms_hash, status, paid."""

    lock_id: bytes


@dataclass(frozen=True, slots=True)
class ReceiptOf:
    """The receipt of an entry. Answer: receipt (empty while the entry is not final)."""

    entry_id: bytes


@dataclass(frozen=True, slots=True)
class HandoversFrom:
    """How the committees follow one another from that of `epoch` on. Answer: handovers."""

    epoch: int
    count: int = HANDOVERS_PER_ANSWER_MAX


@dataclass(frozen=True, slots=True)
class ConsistencyOf:
    """That the log of `size` goes on from that of `old_size`. Answer: held (whether it has so many), path."""

    old_size: int
    size: int


@dataclass(frozen=True, slots=True)
class EvidenceAfter:
    """Proofs of lies that this node holds, past the first `after`. Answer: evidence, next (the `after` to ask next)."""

    after: int


@dataclass(frozen=True, slots=True)
class SnapshotOffer:
    """The newest certified state that is held. Answer: found; if so head, peaks, size, chunks_root."""


@dataclass(frozen=True, slots=True)
class ChunkOf:
    """Chunk `index` of the state after block `height`. Answer: found; if so data, path."""

    height: int
    index: int


LedgerRequest: TypeAlias = (
    Submit
    | SubmitAll
    | Head
    | BlocksFrom
    | AccountOf
    | LockOf
    | ReceiptOf
    | HandoversFrom
    | ConsistencyOf
    | EvidenceAfter
    | SnapshotOffer
    | ChunkOf
)


def encode_request(request: LedgerRequest) -> bytes:
    """The bytes of one request: a request's fields have the names that they have on the wire."""
    named = {name: getattr(request, name) for name in request.__slots__}
    return pack({"op": _OPERATIONS[type(request)], **named})


def decode_request(data: bytes) -> LedgerRequest:
    """The request in `data`; any other bytes are a `WireError`."""
    fields = _fields(data, REQUEST_BYTES_MAX, "request")
    name = field(fields, "op", str)
    read = _READERS.get(name)
    if read is None:
        raise WireError(f"request: unknown operation {name[:40]!r}")
    return read(fields)


def encode_answer(fields: dict[str, Any]) -> bytes:
    """A good answer."""
    return pack({"ok": fields})


def encode_error(code: str, detail: str) -> bytes:
    """An answer that says why there is none."""
    return pack({"error": code, "detail": detail[:500]})


def decode_answer(data: bytes) -> dict[str, Any]:
    """The fields of a good answer; `ServiceError` if it is an error, `WireError` if it is no answer at all."""
    fields = _fields(data, ANSWER_BYTES_MAX, "answer")
    if "error" in fields:
        raise ServiceError(field(fields, "error", str)[:40], field(fields, "detail", str)[:500])
    found: dict[str, Any] = field(fields, "ok", dict)
    return found


def field(fields: dict[str, Any], name: str, kind: type) -> Any:  # noqa: ANN401 - of type `kind`, checked here
    """The value of `name`, of exactly type `kind`; `WireError` if it is missing or of another."""
    value = fields.get(name)
    if type(value) is not kind:
        raise WireError(f"field {name!r} is missing or not {kind.__name__}")
    return value


def _fields(data: bytes, bytes_max: int, what: str) -> dict[str, Any]:
    fields = unpack(data, bytes_max=bytes_max, items_max=ITEMS_MAX)
    if not isinstance(fields, dict):
        raise WireError(f"{what}: not a map")
    return fields


def _number(fields: dict[str, Any], name: str, least: int, most: int) -> int:
    value: int = field(fields, name, int)
    if not least <= value <= most:
        raise WireError(f"field {name!r} is {value}, allowed are {least} to {most}")
    return value


def _bytes(fields: dict[str, Any], name: str, least: int, most: int) -> bytes:
    value: bytes = field(fields, name, bytes)
    if not least <= len(value) <= most:
        raise WireError(f"field {name!r} has {len(value)} bytes, allowed are {least} to {most}")
    return value


def _entries(fields: dict[str, Any]) -> tuple[bytes, ...]:
    listed = field(fields, "entries", list)
    if not 1 <= len(listed) <= SUBMITTED_ENTRIES_MAX or not all(type(item) is bytes for item in listed):
        raise WireError(f"field 'entries' is not 1 to {SUBMITTED_ENTRIES_MAX} entries as bytes")
    if sum(map(len, listed)) > SUBMITTED_BYTES_MAX:
        raise WireError(f"field 'entries' has more than {SUBMITTED_BYTES_MAX} bytes")
    return tuple(listed)


_OPERATIONS: Final[dict[type, str]] = {
    Submit: "submit",
    SubmitAll: "submit_all",
    Head: "head",
    BlocksFrom: "blocks",
    AccountOf: "account",
    LockOf: "lock",
    ReceiptOf: "receipt",
    HandoversFrom: "handovers",
    ConsistencyOf: "consistency",
    EvidenceAfter: "evidence",
    SnapshotOffer: "snapshot",
    ChunkOf: "chunk",
}
_READERS: Final[dict[str, Callable[[dict[str, Any]], LedgerRequest]]] = {
    "submit": lambda fields: Submit(_bytes(fields, "entry", 1, ENTRY_BYTES_MAX)),
    "submit_all": lambda fields: SubmitAll(_entries(fields)),
    "head": lambda _fields: Head(),
    "blocks": lambda fields: BlocksFrom(
        _number(fields, "height", 1, _HEIGHT_MAX),
        _number(fields, "count", 1, BLOCKS_PER_ANSWER_MAX),
        _number(fields, "wait_ms", 0, WAIT_MS_MAX),
    ),
    "account": lambda fields: AccountOf(AccountId(_bytes(fields, "account", ACCOUNT_BYTES, ACCOUNT_BYTES))),
    "lock": lambda fields: LockOf(_bytes(fields, "lock_id", 32, 32)),
    "receipt": lambda fields: ReceiptOf(_bytes(fields, "entry_id", 32, 32)),
    "handovers": lambda fields: HandoversFrom(
        _number(fields, "epoch", 0, EPOCH_MAX), _number(fields, "count", 1, HANDOVERS_PER_ANSWER_MAX)
    ),
    "consistency": lambda fields: ConsistencyOf(
        _number(fields, "old_size", 0, _HEIGHT_MAX), _number(fields, "size", 0, _HEIGHT_MAX)
    ),
    "evidence": lambda fields: EvidenceAfter(_number(fields, "after", 0, _HEIGHT_MAX)),
    "snapshot": lambda _fields: SnapshotOffer(),
    "chunk": lambda fields: ChunkOf(
        _number(fields, "height", 1, _HEIGHT_MAX), _number(fields, "index", 0, _HEIGHT_MAX)
    ),
}
