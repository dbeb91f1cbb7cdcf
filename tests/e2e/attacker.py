"""Attacks from outside on running peers: each takes an address and does its worst; none checks anything."""

from __future__ import annotations

import os
import random
import socket
import struct
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Any, Final

import trio
from libp2p.exceptions import BaseLibp2pError

from ledger.core.encoding import NetworkId, pack
from ledger.core.keys import SigningKey
from p2p.core.protocols import protocol_id
from tests.shell.p2p_host.attacker import delimited, session, speaking

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from p2p.muxer import MuxedSession

ROOMS: Final = ("lease", "ledger", "consensus", "adverts", "peers", "kad")
LIBRARY: Final = ("/ipfs/id/1.0.0", "/ipfs/ping/1.0.0", "/meshsub/1.1.0", "/floodsub/1.0.0", "/no/such/1")
GARBAGE: Final = (
    b"\xff\xfe\xfd\xfc" * 2_000,
    delimited(b"/multistream/1.0.0") + b"\x05\xff\xff\xff\xff\n",
    delimited(b"/multistream/1.0.0") + delimited(b"/plaintext/2.0.0"),
    delimited(b"/multistream/1.0.0") + delimited(b"/noise") + b"\xff\xff" + bytes(65_535),
    b"\xff" * 9 + b"\x7f" + b"x" * 1_000,
    b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
    bytes.fromhex("16030100c8010000c40303") + bytes(200),
    b"",
)
HANDSHAKES_AT_ONCE: Final = 8
"""More would push each other out of the victim's door: that is another attack."""
GONE: Final = (
    BaseLibp2pError,
    OSError,
    trio.BrokenResourceError,
    trio.ClosedResourceError,
    trio.TooSlowError,
    AssertionError,
)
"""What an attacker sees when it is turned away; at which step is not the point."""


def new_key() -> SigningKey:
    return SigningKey(os.urandom(32))


def endpoint(address: str) -> tuple[str, int]:
    _, _, host, _, port, *_ = address.split("/")
    return host, int(port)


def frame(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


def request(body: bytes, number: int = 1) -> bytes:
    """A request as p2p.requests frames it."""
    return frame(number.to_bytes(4, "big") + body)


# --- sockets ---


async def throw_garbage(address: str) -> None:
    """Each kind of garbage on a socket of its own; some close, some reset."""
    for n, data in enumerate(GARBAGE):
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_tcp_stream(*endpoint(address)) as stream:
                await stream.send_all(data)
                if n % 2:
                    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@asynccontextmanager
async def silent_sockets(address: str, count: int) -> AsyncIterator[None]:
    """`count` connections that say nothing, half of them half-closed, while the block runs."""
    held = []
    try:
        for n in range(count):
            with suppress(OSError):
                held.append(await trio.open_tcp_stream(*endpoint(address)))
                if n % 2:
                    with suppress(trio.BrokenResourceError):
                        await held[-1].send_eof()
        yield
    finally:
        for stream in held:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def slow_senders(address: str, count: int, pause_s: float = 0.2) -> AsyncIterator[None]:
    """`count` connections that negotiate one byte at a time, reconnecting when cut, while the block runs."""

    async def drip() -> None:
        while True:
            with suppress(OSError, trio.BrokenResourceError):
                async with await trio.open_tcp_stream(*endpoint(address)) as stream:
                    for byte in delimited(b"/multistream/1.0.0") + delimited(b"/noise"):
                        await stream.send_all(bytes((byte,)))
                        await trio.sleep(pause_s)
            await trio.sleep(pause_s)

    async with trio.open_nursery() as nursery:
        for _ in range(count):
            nursery.start_soon(drip)
        yield
        nursery.cancel_scope.cancel()


# --- streams ---


def payloads(rng: random.Random) -> dict[str, bytes]:
    """What every protocol is told."""
    good = pack({"op": "blocks", "height": 1, "count": 64, "wait_ms": 0})
    not_maps: tuple[object, ...] = (1, [], "x", {"t": 1}, {"t": "nothing"}, None)
    deep = b"\x91" * 3_000 + b"\xc0"
    return {
        "empty": bytes(400),
        "oversize": b"\xff\xff\xff\xff" + bytes(1_000),
        "random": rng.randbytes(20_000),
        "random-frames": b"".join(frame(rng.randbytes(rng.randrange(1, 300))) for _ in range(50)),
        "truncated": b"".join(request(good[:cut], cut) for cut in range(len(good))),
        "deep": request(deep) + frame(deep),
        "half-a-frame": (1 << 20).to_bytes(4, "big") + bytes(1_000),
        "not-a-map": b"".join(map(frame, map(pack, not_maps))),
        "preallocation": b"".join(request(b"\xdd\x00\x01\x00\x00" * 200, n) for n in range(8)),
    }


def protocols(network_id: NetworkId) -> tuple[str, ...]:
    return (*(protocol_id(network_id, name) for name in ROOMS), *LIBRARY)


@asynccontextmanager
async def knocking(address: str, key: SigningKey | None = None) -> AsyncIterator[MuxedSession]:
    """A proved connection; whatever the victim does to it is no error here."""
    yielded = False
    try:
        async with session(address, key or new_key()) as muxed:
            yielded = True
            yield muxed
    except* GONE:
        if not yielded:
            raise TurnedAway(address) from None


class TurnedAway(OSError):
    """The victim did not let the attacker in at all."""


async def tell(muxed: MuxedSession, protocol: str, data: bytes, listen_s: float = 0.05) -> bytes:
    """Say `data` on a stream of `protocol`; what came back meanwhile."""
    heard = b""
    with suppress(*GONE), trio.move_on_after(5):
        stream = await muxed.open_stream()
        await stream.write(delimited(b"/multistream/1.0.0") + delimited(protocol.encode()) + data)
        with trio.move_on_after(listen_s):
            while True:
                heard += await stream.read()
    return heard


async def tell_every_protocol(address: str, network_id: NetworkId, seed: int = 7) -> None:
    """Every payload on every protocol, and each again as the last words of its connection."""
    rng = random.Random(seed)

    async def one(protocol: str) -> None:
        for data in payloads(rng).values():
            async with knocking(address) as muxed:
                await tell(muxed, protocol, data)

    async with trio.open_nursery() as nursery:
        for protocol in protocols(network_id):
            nursery.start_soon(one, protocol)


@asynccontextmanager
async def many_streams(
    addresses: Sequence[str],
    protocol: str,
    *,
    keys: int,
    streams: int,
    data: bytes = b"",
) -> AsyncIterator[int]:
    """`keys` strangers per address, each holding `streams` streams of `protocol` on which `data` was said.

    Yields how many streams were granted in the end; nothing is read from any of them.
    """
    granted = 0

    async def hold(address: str, task_status: trio.TaskStatus[None]) -> None:
        nonlocal granted
        started = False
        with suppress(TurnedAway):
            async with knocking(address) as muxed:
                for _ in range(streams):
                    if await said(muxed):
                        granted += 1
                started = True
                task_status.started()
                await trio.sleep_forever()
        if not started:
            task_status.started()

    async def said(muxed: MuxedSession) -> bool:
        with suppress(*GONE), trio.move_on_after(3):
            stream = await speaking(muxed, protocol)
            await stream.write(data)
            return True
        return False

    async with trio.open_nursery() as nursery:
        at_once = trio.CapacityLimiter(HANDSHAKES_AT_ONCE)

        async def begin(address: str) -> None:
            async with at_once:
                await nursery.start(hold, address)

        async with trio.open_nursery() as starting:
            for address in addresses:
                for _ in range(keys):
                    starting.start_soon(begin, address)
        yield granted
        nursery.cancel_scope.cancel()


# --- bombs ---


def msgpack_bomb(size: int = 4 << 20) -> bytes:
    """A frame's worth of nothing: millions of empty maps in lists that are each within the limits."""
    row = b"\xdd" + struct.pack(">I", 65_536) + b"\x80" * 65_536
    rows = min(15, (size - 8) // len(row)) if size < len(row) * 16 else (size - 8) // len(row)
    return b"\x81\xa1t\xdd" + struct.pack(">I", rows) + row * rows


# --- the local API ---


@asynccontextmanager
async def held_clients(path: str, count: int) -> AsyncIterator[int]:
    """`count` programs of the same user that connect and say nothing; yields how many got in."""
    held = []
    try:
        for _ in range(count):
            client = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            held.append(client)
            with trio.move_on_after(0.05) as scope:
                await client.connect(path)
            if scope.cancelled_caught:
                break
        yield len(held)
    finally:
        for client in held:
            client.close()


def api_garbage() -> dict[str, bytes]:
    rng = random.Random(11)

    def asked(**message: Any) -> bytes:
        return frame(pack(message))

    return {
        "random": rng.randbytes(5_000),
        "oversize": b"\xff\xff\xff\xff",
        "empty": bytes(4),
        "http": b"GET / HTTP/1.1\r\n\r\n",
        "not-msgpack": frame(b"\xc1" * 100),
        "not-a-map": frame(pack([1, 2, 3])),
        "no-id": asked(method="status", params={}),
        "huge-id": asked(id=1 << 63, method="status", params={}),
        "unknown": asked(id=1, method="format_disk", params={}),
        "dunder": asked(id=1, method="__class__", params={}),
        "params-list": asked(id=1, method="status", params=[1]),
        "wrong-type": asked(id=1, method="send", params={"to": 7, "amount": "much"}),
        "negative": asked(id=1, method="send", params={"to": "x", "amount": -5}),
        "huge": asked(id=1, method="send", params={"to": "x", "amount": 1 << 63}),
        "bool": asked(id=1, method="ledger.show", params={"count": True}),
        "nan": asked(id=1, method="send", params={"to": "x", "amount": float("nan")}),
        "bad-entry": asked(id=1, method="ledger.receipt", params={"entry": "z" * 64}),
        "part-first": asked(id=1, part={"module": b""}, last=True),
        "endless": asked(id=1, method="job.run", params={"module": b"", "units": []}, more=True),
        "deep": frame(b"\x91" * 5_000 + b"\xc0"),
        "bad-units": asked(id=1, method="job.run", params={"module": b"x", "units": [1, 2], "options": {}}),
        "bad-module": asked(
            id=1, method="job.run", params={"module": b"\0asm" * 9, "units": [{}], "options": {}}
        ),
    }


async def throw_at_api(path: str) -> None:
    for data in api_garbage().values():
        with suppress(OSError, trio.BrokenResourceError):
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(data)
                with trio.move_on_after(0.1):
                    await stream.receive_some(4_096)
