"""How witnesses' messages travel: one outbound channel per other witness, between witnesses only (SPEC.md §8.3).

The ordering protocol repeats what matters, so a message may be lost, late or out of order, but never forged: a
channel's peer is known by its key. Each queue is bounded and drops its oldest message first; a witness that was
away hears the newest.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.consensus import MESSAGE_BYTES_MAX
from ledger.core.keys import AccountId, peer_id
from p2p.core.errors import P2pError
from p2p.streams import PIECE_BYTES_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from p2p.streams import Channel, Connector

__all__ = [
    "BACKOFF_S_MAX",
    "BACKOFF_S_MIN",
    "CONSENSUS",
    "QUEUE_BYTES_MAX",
    "QUEUE_MESSAGES_MAX",
    "ConsensusLinks",
]

CONSENSUS: Final = "consensus"
"""The protocol's name: /millrace/<network>/consensus/1."""
QUEUE_MESSAGES_MAX: Final = 1024
QUEUE_BYTES_MAX: Final = 8 << 20
BACKOFF_S_MIN: Final = 0.25
BACKOFF_S_MAX: Final = 8.0
OPEN_TIMEOUT_S: Final = 5.0
SEND_TIMEOUT_S: Final = 10.0
"""A witness that leaves a message unread this long is reconnected: its queue must not hold what is stale."""
STREAMS_PER_WITNESS_MAX: Final = 2

_log = logging.getLogger(__name__)


class ConsensusLinks:
    """The ledger's `Links`: sends to any other witness of the present epoch, and delivers what they send.

    Constructing starts nothing: `run` serves and connects until it is cancelled.
    """

    def __init__(self, host: Connector, me: AccountId, witnesses: Sequence[AccountId] = ()) -> None:
        self._host = host
        self._me = me
        self._out: dict[AccountId, _Outbox] = {}
        self._changed = trio.Event()
        self.change(witnesses)

    def change(self, witnesses: Sequence[AccountId]) -> None:
        """From now on, speak with these, and with nobody else; with nobody, if we are not one of them."""
        wanted = witnesses if self._me in witnesses else ()
        self._out = {
            account: self._out.get(account) or _Outbox(account) for account in wanted if account != self._me
        }
        self._changed.set()

    @property
    def connected(self) -> tuple[AccountId, ...]:
        """The witnesses to whom our messages flow right now."""
        return tuple(account for account, outbox in self._out.items() if outbox.flowing)

    async def send(self, to: AccountId, message: bytes) -> None:
        """Queue `message` for another witness; never waits, never raises for one that is away.

        A message for anybody else, or over MESSAGE_BYTES_MAX, is dropped and logged.
        """
        outbox = self._out.get(to)
        if outbox is None or len(message) > MESSAGE_BYTES_MAX:
            _log.error("consensus: a message of %d bytes cannot go to %s", len(message), peer_id(to))
            return
        outbox.put(message)

    async def run(self, deliver: Callable[[AccountId, bytes], None]) -> None:
        """Serve other witnesses and keep a channel open to each, until cancelled.

        `deliver(sender, message)` is called for each message of another witness; it must not block.
        """

        async def receive_all(channel: Channel) -> None:
            if channel.peer not in self._out:
                # for debugging only: strangers must not be able to fill the log
                _log.debug("consensus: %s is no witness of this network; refused", peer_id(channel.peer))
                return
            async for message in channel:
                if channel.peer not in self._out:
                    return  # a witness of an epoch that is over
                deliver(channel.peer, message)

        self._host.serve(
            CONSENSUS,
            receive_all,
            frame_bytes_max=MESSAGE_BYTES_MAX,
            streams_per_peer_max=STREAMS_PER_WITNESS_MAX,
        )
        kept: dict[_Outbox, trio.CancelScope] = {}
        async with trio.open_nursery() as nursery:
            while True:
                self._changed = trio.Event()
                wanted = set(self._out.values())
                for outbox in kept.keys() - wanted:
                    kept.pop(outbox).cancel()
                for outbox in wanted - kept.keys():
                    kept[outbox] = trio.CancelScope()
                    nursery.start_soon(self._keep_connected, outbox, kept[outbox])
                await self._changed.wait()

    async def _keep_connected(self, outbox: _Outbox, scope: trio.CancelScope) -> None:
        with scope:
            await self._connect_again_and_again(outbox)

    async def _connect_again_and_again(self, outbox: _Outbox) -> None:
        backoff_s = BACKOFF_S_MIN
        while True:
            await outbox.wait()  # a witness with nothing to say needs no channel
            try:
                channel = await self._host.open(
                    outbox.to, CONSENSUS, timeout_s=OPEN_TIMEOUT_S, frame_bytes_max=MESSAGE_BYTES_MAX
                )
            except P2pError as error:
                _log.debug("consensus: no channel to %s: %s", peer_id(outbox.to), error)
                await trio.sleep(backoff_s)
                backoff_s = min(backoff_s * 2, BACKOFF_S_MAX)
                continue
            backoff_s = BACKOFF_S_MIN
            _log.info("consensus: connected to %s", peer_id(outbox.to))
            await _send_all(channel, outbox)
            _log.info("consensus: lost %s", peer_id(outbox.to))
            await trio.sleep(BACKOFF_S_MIN)


class _Outbox:
    """The messages that wait for one witness: bounded in number and bytes, the oldest drops first."""

    def __init__(self, to: AccountId) -> None:
        self.to = to
        self.flowing = False
        self._messages: deque[bytes] = deque()
        self._bytes = 0
        self._filled = trio.Event()

    def put(self, message: bytes) -> None:
        """Queue `message`, dropping the oldest ones while it does not fit."""
        self._messages.append(message)
        self._bytes += len(message)
        while len(self._messages) > QUEUE_MESSAGES_MAX or self._bytes > QUEUE_BYTES_MAX:
            self._bytes -= len(self._messages.popleft())
        self._filled.set()

    async def wait(self) -> None:
        """Return once a message waits."""
        while not self._messages:
            self._filled = trio.Event()
            await self._filled.wait()

    async def take(self) -> list[bytes]:
        """The oldest message, and those behind it that fit into one piece with it."""
        await self.wait()
        taken = [self._messages.popleft()]
        size = len(taken[0])
        while self._messages and size + len(self._messages[0]) <= PIECE_BYTES_MAX:
            taken.append(self._messages.popleft())
            size += len(taken[-1])
        self._bytes -= size
        return taken


async def _send_all(channel: Channel, outbox: _Outbox) -> None:
    """Send what the outbox holds until the channel ends; never raises a peer's error."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_watch, channel, nursery.cancel_scope)
        outbox.flowing = True
        try:
            while True:
                await channel.send_all(await outbox.take(), timeout_s=SEND_TIMEOUT_S)
        except P2pError as error:
            _log.debug("consensus: the channel to %s ended: %s", peer_id(outbox.to), error)
        finally:
            outbox.flowing = False
            channel.abort()
            nursery.cancel_scope.cancel()


async def _watch(channel: Channel, scope: trio.CancelScope) -> None:
    """Notice the end of a channel on which nothing is ever received."""
    try:
        await channel.receive()
        _log.debug("consensus: %s spoke on a channel that is ours to speak on", peer_id(channel.peer))
    except P2pError:
        pass  # the ordinary end: the witness went away
    scope.cancel()
