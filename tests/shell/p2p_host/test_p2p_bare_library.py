"""The attacks succeed on libp2p as it comes: so the tests that they fail here can fail.

When one of these tests fails, the library has mended that defect and our patch for it can go.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as create_noise_key
from libp2p.network.config import ConnectionConfig
from libp2p.peer.peerinfo import PeerInfo
from libp2p.security.noise.transport import PROTOCOL_ID as NOISE_ID
from libp2p.security.noise.transport import Transport as Noise
from libp2p.stream_muxer.yamux.yamux import PROTOCOL_ID as YAMUX_ID
from libp2p.stream_muxer.yamux.yamux import Yamux
from multiaddr import Multiaddr

from p2p.core import yamux
from p2p.core.yamux import encode_header
from tests.shell.p2p_host.attacker import delimited, session, speaking
from tests.shell.p2p_host.support import eventually, new_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

ECHO = "/echo/1"
NOWHERE = Multiaddr("/ip4/127.0.0.1/tcp/0")


def bare_host(**limits: int) -> Any:
    """A host of the library: noise and yamux, otherwise as it comes."""
    pair = create_new_key_pair(new_key().seed)
    return new_host(
        key_pair=pair,
        sec_opt={NOISE_ID: Noise(pair, noise_privkey=create_noise_key().private_key)},
        muxer_opt={YAMUX_ID: Yamux},
        connection_config=ConnectionConfig(min_connections=0, low_watermark=0, **limits),
    )


@asynccontextmanager
async def running(host: Any) -> AsyncIterator[trio.Event]:
    """The host runs; the event is set when it has ended by itself."""
    ended, started = trio.Event(), trio.Event()

    async def run() -> None:
        try:
            async with host.run([NOWHERE]):
                started.set()
                await trio.sleep_forever()
        except Exception:  # noqa: BLE001 - that it ends is what is looked for
            ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        await started.wait()
        try:
            yield ended
        finally:
            with trio.CancelScope(shield=True), trio.move_on_after(3):
                await host.close()
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("attack", ["not-utf8", "raising-handler"])
async def test_one_stream_ends_the_whole_node(attack: str) -> None:
    host = bare_host()

    async def fail(_stream: Any) -> None:
        raise ValueError("a bug in a handler")

    host.set_stream_handler("/fail/1", fail)
    async with running(host) as ended, session(str(host.get_addrs()[0])) as muxed:
        if attack == "not-utf8":
            stream = await muxed.open_stream()
            await stream.write(delimited(b"/multistream/1.0.0") + b"\x05\xff\xff\xff\xff\n")
        else:
            await speaking(muxed, "/fail/1")
        with trio.fail_after(5):
            await ended.wait()


async def test_nobody_is_let_in_after_so_many_connections_in_a_lifetime() -> None:
    host = bare_host(max_connections=5, high_watermark=5)
    async with running(host):
        address = str(host.get_addrs()[0])
        for _ in range(5):
            async with session(address):
                pass
        await eventually(lambda: not host.get_network().get_connections())
        with pytest.raises(Exception, match=r"."), trio.fail_after(3):
            async with session(address):
                pass


async def test_a_peer_may_ignore_its_window() -> None:
    host = bare_host()

    async def hold(_stream: Any) -> None:
        await trio.sleep_forever()

    host.set_stream_handler(ECHO, hold)
    async with running(host), session(str(host.get_addrs()[0])) as muxed:
        stream = await speaking(muxed, ECHO)
        for _ in range(64):
            stream.send_credit_bytes = 1 << 20
            await stream.write(bytes(60_000))
        (conn,) = host.get_network().get_connections()
        await eventually(
            lambda: sum(map(len, conn.muxed_conn.stream_buffers.values())) > 10 * yamux.WINDOW_BYTES
        )
        assert muxed.is_established


async def test_a_peer_holds_as_many_streams_as_it_likes() -> None:
    host = bare_host()
    async with running(host), session(str(host.get_addrs()[0])) as muxed:
        for stream_id in range(101, 101 + 2 * 300, 2):
            muxed.post(encode_header(yamux.WINDOW_UPDATE, yamux.SYN, stream_id, 0))
        await eventually(lambda: bool(host.get_network().get_connections()))
        (conn,) = host.get_network().get_connections()
        await eventually(lambda: len(conn.muxed_conn.streams) >= 300)


async def test_cancelled_writes_corrupt_the_connection() -> None:
    server, client = bare_host(), bare_host()

    async def hold(stream: Any) -> None:
        while await stream.read(1 << 16):  # noqa: ASYNC110 - a reader slower than the writer
            await trio.sleep(0.01)

    server.set_stream_handler(ECHO, hold)
    broken = 0
    async with running(server), running(client):
        for _ in range(5):
            await client.connect(PeerInfo(server.get_id(), server.get_addrs()))
            stream = await client.new_stream(server.get_id(), [ECHO])
            with trio.move_on_after(0.002):
                while True:
                    await stream.write(bytes(200_000))
            try:
                with trio.fail_after(1):
                    await client.new_stream(server.get_id(), [ECHO])
            except Exception:  # noqa: BLE001 - that it is broken is what is looked for
                broken += 1
                await client.disconnect(server.get_id())
                client.get_network().unblock_peer(server.get_id())
    assert broken
