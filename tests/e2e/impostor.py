"""A peer of the network that speaks its protocols well and means harm: what it says, and what it hears."""

from __future__ import annotations

import hashlib
import os
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any

import trio

from ledger.core.encoding import NetworkId, pack, unpack
from ledger.core.entries import Action, Claim, Entry, Expire, Lock, Transfer, sign_entry
from ledger.core.keys import AccountId, SigningKey, account_from_peer_id
from millrace.core import messages
from millrace.core.terms import Terms, sign_terms
from p2p.core.adverts import Advert
from p2p.core.envelope import EnvelopeKind, seal
from p2p.core.errors import P2pError
from p2p.host import Host, HostConfig, open_host
from p2p.requests import Requests
from tests.core.ledger.ledger_forge import Forge, genesis
from tests.e2e.attacker import new_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@asynccontextmanager
async def foreign_host(
    address: str, network_id: NetworkId, key: SigningKey | None = None
) -> AsyncIterator[Host]:
    """A host with a key nobody knows, linked with the victim."""
    async with open_host(HostConfig(), key or new_key(), network_id) as host:
        await host.dial(address)
        yield host


def envelopes(key: SigningKey, network_id: NetworkId, now_ms: int) -> dict[str, bytes]:
    """Sayings that must not be believed, each as `key` would gossip it."""
    body = Advert(kinds=("wasm",), owner=key.account, slots_free=4_000, rates={"wasm": 1 << 60}).encode()
    other = NetworkId(bytes(31) + b"x")

    def said(
        by: SigningKey = key,
        network: NetworkId = network_id,
        sequence: int = now_ms,
        at_ms: int = now_ms,
        what: bytes = body,
    ) -> bytes:
        kind = EnvelopeKind.ADVERT
        return seal(
            by, network, kind=kind, sequence=sequence, now_ms=at_ms, lifetime_ms=60_000, body=what
        ).encode()

    return {
        "empty": b"",
        "garbage": os.urandom(500),
        "truncated": said()[:-1],
        "wrong-signature": said()[:-1] + bytes((said()[-1] ^ 1,)),
        "wrong-network": said(network=other),
        "somebody-else": said(by=new_key()),
        "expired": said(at_ms=now_ms - 3_600_000),
        "future": said(at_ms=now_ms + 3_600_000),
        "no-advert": said(what=b"\xc1" * 100),
        "deep-advert": said(what=b"\x91" * 1_000 + b"\xc0"),
        "lists": said(what=b"\xdd\x00\x01\x00\x00" * 1_000),
        "not-a-map": said(what=pack([1, 2])),
    }


async def gossip_lies(address: str, network_id: NetworkId, now_ms: int) -> None:
    """Each bad envelope in a gossip message that is signed as it should be."""
    key = new_key()
    async with foreign_host(address, network_id, key) as host:
        channel = host.join_topic("adverts", lambda _author, _data: True)
        with trio.move_on_after(2):
            await channel.receive()  # the mesh stands once something of others arrives
        for data in envelopes(key, network_id, now_ms).values():
            await host.publish("adverts", data)
        await trio.sleep(0.2)  # gossip has no answer that could be waited for


def bad_entries(key: SigningKey, victim: AccountId, network_id: NetworkId, now_ms: int) -> dict[str, bytes]:
    """Entries that no ledger may take."""
    other = NetworkId(bytes(31) + b"y")

    def entry(action: Action, seq: int = 1, until_ms: int = now_ms + 60_000, fee: int = 0) -> Entry:
        return sign_entry(key, network_id, seq=seq, not_after_ms=until_ms, fee=fee, action=action)

    pay = entry(Transfer(victim, 1 << 40))
    raw = pay.encode()
    amount_at = raw.index((1 << 40).to_bytes(8, "big"), 33)

    def with_amount(amount: int) -> bytes:
        return raw[:amount_at] + amount.to_bytes(8, "big") + raw[amount_at + 8 :]

    return {
        "unfunded": raw,
        "unsigned": raw[:-64] + bytes(64),
        "theirs": b"\x01" + victim + raw[33:],
        "other-network": sign_entry(
            key, other, seq=1, not_after_ms=now_ms + 60_000, fee=0, action=Transfer(victim, 1)
        ).encode(),
        "expired": entry(Transfer(victim, 1), until_ms=now_ms - 1).encode(),
        "far-seq": entry(Transfer(victim, 1), seq=(1 << 62)).encode(),
        "amount-0": with_amount(0),
        "amount-2^63": with_amount(1 << 63),
        "amount-2^64-1": with_amount((1 << 64) - 1),
        "huge-fee": entry(Transfer(victim, 1), fee=1 << 47).encode(),
        "lock": entry(Lock(victim, 1 << 40, now_ms + 600_000)).encode(),
        "claim-nothing": entry(Claim(bytes(32), 0)).encode(),
        "claim-unsigned": entry(Claim(bytes(range(32)), 5, b"s" * 64)).encode(),
        "expire-nothing": entry(Expire(bytes(32))).encode(),
        "type-0": b"\x00" + raw[1:],
        "type-255": b"\xff" + raw[1:],
        "truncated": raw[:-1],
        "trailing": raw + b"\x00",
        "empty": b"",
    }


async def submit_badly(address: str, network_id: NetworkId, victim: AccountId, now_ms: int) -> dict[str, str]:
    """What the witness says to each bad entry."""
    said = {}
    key = new_key()
    async with foreign_host(address, network_id, key) as host:
        requests = Requests(host)
        witness = account_from_peer_id(address.rpartition("/")[2])
        for name, data in bad_entries(key, victim, network_id, now_ms).items():
            body = pack({"op": "submit", "entry": data})
            answer = unpack(await requests.request(witness, "ledger", body, 10))
            said[name] = str(answer.get("error") or answer["ok"].get("reason") or answer["ok"]["status"])
    return said


async def flood_ledger(address: str, network_id: NetworkId, count: int, now_ms: int) -> None:
    """Entries with a wrong signature as fast as they are taken."""
    key = new_key()
    async with foreign_host(address, network_id, key) as host:
        requests = Requests(host)
        witness = account_from_peer_id(address.rpartition("/")[2])
        entry = sign_entry(
            key, network_id, seq=1, not_after_ms=now_ms + 60_000, fee=0, action=Transfer(new_key().account, 5)
        ).encode()
        body = pack({"op": "submit", "entry": entry[:-64] + bytes(64)})
        left = count

        async def ask() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                with suppress(P2pError, OSError, TimeoutError):
                    await requests.request(witness, "ledger", body, 10)

        async with trio.open_nursery() as nursery:
            for _ in range(16):
                nursery.start_soon(ask)


def terms_for(buyer: SigningKey, worker: AccountId, module: bytes, now_ms: int, **changes: Any) -> Terms:
    fields: dict[str, Any] = {
        "buyer": buyer.account,
        "worker": worker,
        "job_id": os.urandom(32),
        "nonce": os.urandom(16),
        "module_sha256": hashlib.sha256(module).digest(),
        "module_bytes": len(module),
        "price_per_tfuel": 10_000_000,
        "amount": 1_000_000,
        "expiry_ms": now_ms + 600_000,
        "fuel_max": 10**8,
        "memory_bytes_max": 64 << 20,
        "wall_ms_max": 2_000,
        "output_bytes_max": 1 << 16,
        "window_units": 8,
        "replicas": 1,
    }
    return Terms(**(fields | changes))


def proposals(key: SigningKey, worker: AccountId, network_id: NetworkId, now_ms: int) -> dict[str, bytes]:
    """First words on a lease stream that no worker may accept."""
    other = NetworkId(bytes(31) + b"z")

    def propose(by: SigningKey = key, network: NetworkId = network_id, **changes: Any) -> bytes:
        terms = terms_for(by, worker, b"m", now_ms, **changes)
        return messages.encode(messages.Propose(terms, sign_terms(terms, key, network)))

    good = propose()
    at = good.index((1_000_000).to_bytes(8, "big"))

    def with_amount(amount: int) -> bytes:
        return good[:at] + amount.to_bytes(8, "big") + good[at + 8 :]

    return {
        "amount-0": with_amount(0),
        "amount-2^63": with_amount(1 << 63),
        "unsigned-change": with_amount(2_000_000),
        "free": propose(price_per_tfuel=0, amount=1),
        "expired": propose(expiry_ms=now_ms - 1),
        "expiring": propose(expiry_ms=now_ms + 1_000),
        "greedy-fuel": propose(fuel_max=1 << 50, price_per_tfuel=1, amount=1 << 40),
        "greedy-memory": propose(memory_bytes_max=1 << 40),
        "endless": propose(wall_ms_max=86_400_000),
        "somebody-else": propose(by=new_key()),
        "other-network": propose(network=other),
        "other-worker": messages.encode(
            messages.Propose(
                t := terms_for(key, new_key().account, b"m", now_ms), sign_terms(t, key, network_id)
            )
        ),
        "accept": messages.encode(messages.Accept(bytes(64))),
        "locked-first": messages.encode(messages.Locked(bytes(100))),
        "module-first": messages.encode(messages.ModulePiece(0, bytes(256 << 10))),
        "units-first": messages.encode(messages.Units((messages.Unit(1, b"x"),))),
        "short-terms": pack({"t": "propose", "terms": b"x", "sig": bytes(64)}),
        "extra": pack({"t": "ready", "more": 1}),
    }


async def propose_badly(address: str, network_id: NetworkId, now_ms: int) -> dict[str, str]:
    """What the worker says to each."""
    said = {}
    key = new_key()
    async with foreign_host(address, network_id, key) as host:
        worker = account_from_peer_id(address.rpartition("/")[2])
        for name, data in proposals(key, worker, network_id, now_ms).items():
            said[name] = await _reply(host, worker, data)
        fair = terms_for(key, worker, b"m", now_ms)
        first = messages.encode(messages.Propose(fair, sign_terms(fair, key, network_id)))
        for name, receipt in {
            "garbage-receipt": os.urandom(900),
            "foreign-receipt": _foreign_receipt(fair, key),
        }.items():
            said[name] = await _reply(host, worker, first, messages.encode(messages.Locked(receipt)))
    return said


async def _reply(host: Host, worker: AccountId, *frames: bytes) -> str:
    """The last thing a worker says to these frames, or that it hung up."""
    said = "hung up"
    with trio.move_on_after(5):
        channel = await host.open(worker, "lease")
        try:
            for data in frames:
                await channel.send(data)
                message = messages.decode(await channel.receive())
                said = f"{type(message).__name__}: {getattr(message, 'reason', '')}"
        except P2pError:
            pass
        finally:
            channel.abort()
    return said


def _foreign_receipt(terms: Terms, key: SigningKey) -> bytes:
    """A receipt of the right LOCK, proved by a network that the attacker made for itself."""
    forge = Forge(genesis(1, limits=((key.account, 1 << 40),)))
    action = Lock(terms.worker, terms.amount, terms.expiry_ms, terms.terms_hash(forge.genesis.network_id))
    forge.block([forge.sign(key, action)])
    return forge.receipt(0).encode()
