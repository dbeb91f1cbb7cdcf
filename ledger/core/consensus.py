"""What witnesses say to each other: eight messages, one byte of type in front (SPEC.md §6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeAlias

from ledger.core.block import BLOCK_BYTES_MAX, Proposal, take_known
from ledger.core.encoding import Reader, WireError
from ledger.core.entries import ENTRY_BYTES_MAX, Entry
from ledger.core.evidence import Fork, ProposalPair, VotePair, decode_evidence
from ledger.core.keys import SIGNATURE_BYTES
from ledger.core.votes import NO_BLOCK, SLOT_MAX, VOTE_BYTES, Certificate, Vote

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "MESSAGE_BYTES_MAX",
    "RECALLED_VOTES_MAX",
    "RELAYED_ENTRIES_MAX",
    "Ask",
    "Message",
    "Recall",
    "Recalled",
    "Relay",
    "decode_message",
    "encode_message",
    "epoch_of",
]

MESSAGE_BYTES_MAX: Final = 1 + BLOCK_BYTES_MAX + SIGNATURE_BYTES
RELAYED_ENTRIES_MAX: Final = 100
RECALLED_VOTES_MAX: Final = 96
"""An old database lacks the newest votes first: those of 32 slots show it, if any do."""
_ASK_HEAD = struct.Struct(">QQ")
_RECALL = struct.Struct(">IQ")
_RECALLED_HEAD = struct.Struct(">IQQB")
_PROPOSAL, _VOTE, _CERTIFICATE, _ASK, _RELAY, _EVIDENCE, _RECALL_TYPE, _RECALLED_TYPE = range(1, 9)


@dataclass(frozen=True, slots=True)
class Ask:
    """I need certificates from `slot` on, my last final block is of `final_slot`, and I lack proposal `block_hash`."""

    slot: int
    final_slot: int
    block_hash: bytes = NO_BLOCK


@dataclass(frozen=True, slots=True)
class Relay:
    """Entries that wait here and should wait at every witness."""

    entries: tuple[Entry, ...]


@dataclass(frozen=True, slots=True)
class Recall:
    """I have just started: which votes of mine above `final_slot` of this epoch do you remember?"""

    epoch: int
    final_slot: int


@dataclass(frozen=True, slots=True)
class Recalled:
    """Every vote of yours that I remember. My last final block is of `final_slot`, and I am in `slot`."""

    epoch: int
    final_slot: int
    slot: int
    votes: tuple[Vote, ...]


Message: TypeAlias = (
    Proposal | Vote | Certificate | Ask | Relay | VotePair | ProposalPair | Fork | Recall | Recalled
)


def encode_message(message: Message) -> bytes:
    """The bytes of one consensus message."""
    match message:
        case Proposal():
            return bytes((_PROPOSAL,)) + message.encode()
        case Vote():
            return bytes((_VOTE,)) + message.encode()
        case Certificate():
            return bytes((_CERTIFICATE,)) + message.encode()
        case Ask(slot, final_slot, block_hash):
            return bytes((_ASK,)) + _ASK_HEAD.pack(slot, final_slot) + block_hash
        case Relay(entries):
            return bytes((_RELAY,)) + b"".join(entry.encode() for entry in entries)
        case Recall(epoch, final_slot):
            return bytes((_RECALL_TYPE,)) + _RECALL.pack(epoch, final_slot)
        case Recalled(epoch, final_slot, slot, votes):
            head = _RECALLED_HEAD.pack(epoch, final_slot, slot, len(votes))
            return b"".join((bytes((_RECALLED_TYPE,)), head, *(vote.encode() for vote in votes)))
        case _:
            return bytes((_EVIDENCE,)) + message.encode()


def epoch_of(message: Message) -> int | None:
    """The epoch that `message` speaks of; None if it is of none."""
    if isinstance(message, Ask | Relay):
        return None
    return message.header.epoch if isinstance(message, Proposal) else message.epoch


def decode_message(data: bytes, known: Mapping[bytes, Entry] | None = None) -> Message:
    """The message in `data`; any other bytes are a `WireError`. `known` as in `take_known`."""
    if not 1 <= len(data) <= MESSAGE_BYTES_MAX:
        raise WireError(f"consensus message of {len(data)} bytes, allowed are 1 to {MESSAGE_BYTES_MAX}")
    kind, body = data[0], data[1:]
    if kind == _PROPOSAL:
        return Proposal.decode(body, known)
    if kind == _VOTE:
        return Vote.decode(body)
    if kind == _CERTIFICATE:
        return Certificate.decode(body)
    if kind == _ASK:
        return _decode_ask(body)
    if kind == _RELAY:
        return _decode_relay(body, known)
    if kind == _EVIDENCE:
        return decode_evidence(body)
    if kind == _RECALL_TYPE:
        return _decode_recall(body)
    if kind == _RECALLED_TYPE:
        return _decode_recalled(body)
    raise WireError(f"consensus message of unknown type {kind}")


def _decode_ask(body: bytes) -> Ask:
    reader = Reader(body, "ask")
    (slot, final_slot), block_hash = _ASK_HEAD.unpack(reader.take(_ASK_HEAD.size)), reader.take(len(NO_BLOCK))
    reader.end()
    if not final_slot < slot <= SLOT_MAX:
        raise WireError(f"ask: slot {slot} after final slot {final_slot} is out of range")
    return Ask(slot, final_slot, block_hash)


def _decode_relay(body: bytes, known: Mapping[bytes, Entry] | None) -> Relay:
    if not body or len(body) > RELAYED_ENTRIES_MAX * ENTRY_BYTES_MAX:
        raise WireError(f"relay of {len(body)} bytes")
    entries, at = [], 0
    while at < len(body):
        entry, at = take_known(body, at, known)
        entries.append(entry)
    if len(entries) > RELAYED_ENTRIES_MAX:
        raise WireError(f"relay of {len(entries)} entries, at most {RELAYED_ENTRIES_MAX} allowed")
    return Relay(tuple(entries))


def _decode_recall(body: bytes) -> Recall:
    reader = Reader(body, "recall")
    epoch, final_slot = _RECALL.unpack(reader.take(_RECALL.size))
    reader.end()
    if final_slot > SLOT_MAX:
        raise WireError(f"recall: slot {final_slot} is out of range")
    return Recall(epoch, final_slot)


def _decode_recalled(body: bytes) -> Recalled:
    reader = Reader(body, "recalled")
    epoch, final_slot, slot, count = _RECALLED_HEAD.unpack(reader.take(_RECALLED_HEAD.size))
    if not final_slot < slot <= SLOT_MAX or count > RECALLED_VOTES_MAX:
        raise WireError(f"recalled: slot {slot} after final slot {final_slot}, or {count} votes")
    votes = tuple(Vote.decode(reader.take(VOTE_BYTES)) for _ in range(count))
    reader.end()
    return Recalled(epoch, final_slot, slot, votes)
