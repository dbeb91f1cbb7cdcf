"""What the tests of this folder share: keys, an echo, waiting, and the check that a node still serves."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from ledger.core.encoding import NetworkId
from ledger.core.keys import SigningKey
from p2p.host import Host

if TYPE_CHECKING:
    from p2p.streams import Channel

NETWORK = NetworkId(hashlib.sha256(b"tests").digest())
Factory = Callable[..., Awaitable[Host]]
_seeds = itertools.count(1)


def new_key() -> SigningKey:
    """A key no other test has: deterministic, so that a failure repeats."""
    return SigningKey(hashlib.sha256(b"p2p host tests %d" % next(_seeds)).digest())


async def echo(channel: Channel) -> None:
    async for message in channel:
        await channel.send(message)


async def assert_serves(host: Host, friend: Host) -> None:
    """`host` still lets a friend in and answers; it must serve `echo`."""
    with trio.fail_after(5):
        await friend.disconnect(host.account)
        await friend.dial(host.addresses[0])
        channel = await friend.open(host.account, "echo")
        await channel.send(b"still there?")
        assert await channel.receive() == b"still there?"
        await channel.aclose()


async def eventually(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait for something another task brings about; no longer than it takes."""
    with trio.fail_after(seconds):
        while not condition():  # noqa: ASYNC110 - what is waited for has no event
            await trio.sleep(0.005)
