"""A peer that proves a key and then does as it likes with the connection."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.peer.id import ID
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2p.hardening import GuardedUpgrader
from p2p.muxer import MuxedSession, MuxedStream
from p2p.transport import AdmissionLimits, GuardedTcp
from tests.shell.p2p_host.support import new_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from ledger.core.keys import SigningKey


async def secured(address: str, key: SigningKey | None = None) -> tuple[Any, GuardedUpgrader]:
    """A connection after the noise handshake, before the muxer."""
    pair = create_new_key_pair((key or new_key()).seed)
    noise = Noise(pair, noise_privkey=create_noise_key().private_key)
    upgrader = GuardedUpgrader({NOISE_ID: noise}, {YAMUX_ID: Yamux})  # type: ignore[dict-item]
    bare, _, name = address.rpartition("/p2p/")
    raw = await GuardedTcp(AdmissionLimits(), lambda _address: 0).dial(Multiaddr(bare))
    try:
        return await upgrader.upgrade_security(raw, True, ID.from_string(name)), upgrader
    except BaseException:
        await raw.close()
        raise


@asynccontextmanager
async def session(address: str, key: SigningKey | None = None) -> AsyncIterator[MuxedSession]:
    """A muxed connection on which anything can be sent."""
    conn, upgrader = await secured(address, key)
    try:
        muxed = await upgrader.upgrade_connection(conn, conn.get_remote_peer())
    except BaseException:
        await conn.close()
        raise
    assert isinstance(muxed, MuxedSession)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(muxed.start)
        await muxed.event_started.wait()
        try:
            yield muxed
        finally:
            await muxed.close()
            nursery.cancel_scope.cancel()


def delimited(text: bytes) -> bytes:
    """A multistream message: its varint length, itself, a newline."""
    assert len(text) < 127
    return bytes((len(text) + 1,)) + text + b"\n"


async def speaking(muxed: MuxedSession, protocol: str) -> MuxedStream:
    """A stream on which `protocol` has been agreed."""
    stream = await muxed.open_stream()
    hello, wish = delimited(b"/multistream/1.0.0"), delimited(protocol.encode())
    await stream.write(hello + wish)
    with trio.fail_after(5):
        assert await stream.read(len(hello)) == hello
        assert await stream.read(len(wish)) == wish
    return stream
