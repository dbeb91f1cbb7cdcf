"""What witnesses say to each other: five messages, one byte of type in front (SPEC.md §6)."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final, TypeAlias

from ledger.core.block import BLOCK_BYTES_MAX, Proposal
from ledger.core.encoding import Reader, WireError
from ledger.core.entries import ENTRY_BYTES_MAX, Entry, take_entry
from ledger.core.keys import SIGNATURE_BYTES
from ledger.core.votes import NO_BLOCK, SLOT_MAX, Certificate, Vote

__all__ = [
    "MESSAGE_BYTES_MAX",
    "RELAYED_ENTRIES_MAX",
    "Ask",
    "Message",
    "Relay",
    "decode_message",
    "encode_message",
]

MESSAGE_BYTES_MAX: Final = 1 + BLOCK_BYTES_MAX + SIGNATURE_BYTES
RELAYED_ENTRIES_MAX: Final = 100
_ASK_HEAD = struct.Struct(">QQ")
_PROPOSAL, _VOTE, _CERTIFICATE, _ASK, _RELAY = range(1, 6)


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


Message: TypeAlias = Proposal | Vote | Certificate | Ask | Relay


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


def decode_message(data: bytes) -> Message:
    """The message in `data`; any other bytes are a `WireError`."""
    if not 1 <= len(data) <= MESSAGE_BYTES_MAX:
        raise WireError(f"consensus message of {len(data)} bytes, allowed are 1 to {MESSAGE_BYTES_MAX}")
    kind, body = data[0], data[1:]
    if kind == _PROPOSAL:
        return Proposal.decode(body)
    if kind == _VOTE:
        return Vote.decode(body)
    if kind == _CERTIFICATE:
        return Certificate.decode(body)
    if kind == _ASK:
        return _decode_ask(body)
    if kind == _RELAY:
        return _decode_relay(body)
    raise WireError(f"consensus message of unknown type {kind}")


def _decode_ask(body: bytes) -> Ask:
    reader = Reader(body, "ask")
    (slot, final_slot), block_hash = _ASK_HEAD.unpack(reader.take(_ASK_HEAD.size)), reader.take(len(NO_BLOCK))
    reader.end()
    if not final_slot < slot <= SLOT_MAX:
        raise WireError(f"ask: slot {slot} after final slot {final_slot} is out of range")
    return Ask(slot, final_slot, block_hash)


def _decode_relay(body: bytes) -> Relay:
    if not body or len(body) > RELAYED_ENTRIES_MAX * ENTRY_BYTES_MAX:
        raise WireError(f"relay of {len(body)} bytes")
    entries, at = [], 0
    while at < len(body):
        entry, at = take_entry(body, at)
        entries.append(entry)
    if len(entries) > RELAYED_ENTRIES_MAX:
        raise WireError(f"relay of {len(entries)} entries, at most {RELAYED_ENTRIES_MAX} allowed")
    return Relay(tuple(entries))
