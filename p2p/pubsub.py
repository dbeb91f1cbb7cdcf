"""Raw gossip: signed messages to everybody in a topic, checked before they are passed on (SPEC.md §10).

gossipsub 1.1 of libp2p 0.8.1 with its inbound side replaced. What is mended, each with a test in
`tests/shell/p2p_host/test_p2p_attacks.py`: a garbage RPC, an unparsable key or a raising validator ended the node;
one RPC with 8,000 messages froze it; control messages for unknown topics grew memory without end; message
numbers repeated after a restart, so that 55 of 60 messages were lost; the "adaptive" mode slowed the
heartbeat from 1 s to 60 s; a table of deliveries was never emptied. It goes when the library passes those.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, OrderedDict
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final, cast

import base58
import trio
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, GossipSub
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.pubsub.validators import signature_validator
from libp2p.tools.anyio_service import background_trio_service

from ledger.core.encoding import WireError
from ledger.core.keys import AccountId, account_from_peer_id
from p2p.core.errors import LocalProtocolError, RemoteProtocolError
from p2p.core.protocols import topic_id
from p2p.core.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from libp2p.abc import INetStream
    from libp2p.peer.id import ID

    from ledger.core.encoding import NetworkId
    from p2p.hardening import GuardedHost, GuardedSwarm

__all__ = ["MESSAGE_BYTES_MAX", "Gossip", "TopicChannel", "Validator", "Verdict"]

_log = logging.getLogger(__name__)

MESSAGE_BYTES_MAX: Final = 64 << 10
RPC_BYTES_MAX: Final = 128 << 10
MESSAGES_PER_RPC_MAX: Final = 256
TOPICS_PER_PEER_MAX: Final = 16
CONTROL_ENTRIES_MAX: Final = 16
MESSAGE_IDS_MAX: Final = 512
BACKOFF_MAX_S: Final = 300
INVALID_MAX: Final = 20
"""Invalid messages a peer may pass on before we hang up on it."""
BAN_S: Final = 600.0
SEEN_MAX: Final = 1 << 15
SEEN_S: Final = 300.0
TOPIC_MESSAGES_MAX: Final = 1024
DEGREE: Final = 6
DEGREE_LOW: Final = 4
DEGREE_HIGH: Final = 12
HEARTBEAT_S: Final = 1
_FROM_ID_BYTES: Final = 38
_SEQNO_BYTES: Final = 8
_SIGNATURE_BYTES: Final = 64
_KEY_BYTES_MAX: Final = 36


if TYPE_CHECKING:
    Validator = Callable[[AccountId, bytes], Verdict | bool]
else:
    Validator = object


class TopicChannel:
    """The accepted messages of one topic, as (author, data); our own are not among them.

    A reader that is TOPIC_MESSAGES_MAX behind misses the newest; `dropped` counts them.
    """

    def __init__(self) -> None:
        self.dropped = 0
        self._send, self._receive = trio.open_memory_channel[tuple[AccountId, bytes]](TOPIC_MESSAGES_MAX)

    async def receive(self) -> tuple[AccountId, bytes]:
        """The next message; `trio.EndOfChannel` when the host closes."""
        return await self._receive.receive()

    def __aiter__(self) -> TopicChannel:
        return self

    async def __anext__(self) -> tuple[AccountId, bytes]:
        try:
            return await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None

    def deliver(self, author: AccountId, data: bytes) -> None:
        """Called by the gossip engine."""
        try:
            self._send.send_nowait((author, data))
        except trio.WouldBlock:
            self.dropped += 1

    def close(self) -> None:
        """Called by the gossip engine at its end."""
        self._send.close()


class Gossip:
    """The topics of one host."""

    def __init__(self, host: GuardedHost, network_id: NetworkId) -> None:
        """Starts nothing: `running` does."""
        self._network_id = network_id
        self._router = _Router(
            [PROTOCOL_ID_V11],
            DEGREE,
            DEGREE_LOW,
            DEGREE_HIGH,
            heartbeat_interval=HEARTBEAT_S,
            adaptive_gossip_enabled=False,
            spam_protection_enabled=False,  # it dropped everything over 10 messages a second; ours are in _Engine
            eclipse_protection_enabled=False,
        )
        self._engine = _Engine(host, self._router, topic_id(network_id, "x").rpartition("/x/")[0] + "/")
        self._nursery: trio.Nursery | None = None

    @asynccontextmanager
    async def running(self, nursery: trio.Nursery) -> AsyncIterator[None]:
        """Gossip while the block runs."""
        async with background_trio_service(self._engine), background_trio_service(self._router):
            await self._engine.wait_until_ready()
            self._nursery = nursery
            try:
                yield
            finally:
                self._nursery = None
                for channel in self._engine.channels.values():
                    channel.close()

    def join(self, name: str, validate: Validator) -> TopicChannel:
        """Take part in the topic `name` of this network.

        `validate(author, data)` sees each new message once, before anything is passed on; it must be quick
        and must not wait. True or ACCEPT lets it through. If it raises, the message is ignored.
        """
        topic = topic_id(self._network_id, name)
        if topic in self._engine.channels or self._nursery is None:
            raise LocalProtocolError(f"topic {name} is joined already, or the host is closed")
        channel = self._engine.channels[topic] = TopicChannel()
        self._engine.validate[topic] = validate
        self._nursery.start_soon(self._engine.subscribe, topic)
        return channel

    async def publish(self, name: str, data: bytes) -> None:
        """Sign `data` and send it to the topic; `LocalProtocolError` when it is over MESSAGE_BYTES_MAX.

        Delivery is not promised: neighbours' queues hold 32 messages. Pace, and reconcile by other means.
        """
        if len(data) > MESSAGE_BYTES_MAX:
            raise LocalProtocolError(f"a gossip message of {len(data)} bytes, at most {MESSAGE_BYTES_MAX}")
        await self._engine.publish(topic_id(self._network_id, name), data)


class _Seen:
    """Message ids seen in the last SEEN_S seconds: bounded, unlike the library's (which also leaks a thread)."""

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, float] = OrderedDict()

    def add(self, key: bytes) -> bool:
        """Remember `key`; whether it is new."""
        if self.has(key):
            return False
        now_s = trio.current_time()
        self._ids[key] = now_s
        while len(self._ids) > SEEN_MAX or next(iter(self._ids.values())) < now_s - SEEN_S:
            self._ids.popitem(last=False)
        return True

    def has(self, key: bytes) -> bool:
        """Whether `key` was seen lately."""
        return key in self._ids


class _Router(GossipSub):
    """The library's mesh, with a floor under the tasks whose failure would end the node."""

    async def heartbeat(self) -> None:
        """Tend the mesh every HEARTBEAT_S, also after a round that failed."""
        while True:
            await _survive(super().heartbeat())
            await trio.sleep(HEARTBEAT_S)

    async def on_peer_subscribed(self, peer_id: ID, topic: str) -> None:
        """The library runs this as a task of the node."""
        await _survive(super().on_peer_subscribed(peer_id, topic))

    async def flush_pending_messages(self, peer_id: ID) -> None:
        """The library runs this as a task of the node."""
        await _survive(super().flush_pending_messages(peer_id))

    async def publish(self, msg_forwarder: ID, pubsub_msg: rpc_pb2.Message) -> None:
        """Pass a message on, and empty a table that only the switched-off adaptive mode ever empties."""
        await super().publish(msg_forwarder, pubsub_msg)
        self.recent_message_deliveries.clear()


async def _survive(work: Awaitable[None]) -> None:
    """Run a task of the library whose failure would end the whole service, and say when it fails."""
    try:
        await work
    except Exception:  # noqa: BLE001 - outermost frame of the library's task
        _log.exception("gossip: a round failed")


class _Engine(Pubsub):
    """The library's pubsub with everything a peer can send checked first."""

    def __init__(self, host: GuardedHost, router: GossipSub, topic_prefix: str) -> None:
        super().__init__(host, router, max_inbound_rpc_size=RPC_BYTES_MAX)
        self._network = cast("GuardedSwarm", host.get_network())
        self.channels: dict[str, TopicChannel] = {}
        self.validate: dict[str, Validator] = {}
        self._topic_prefix = topic_prefix
        self._invalid: Counter[ID] = Counter()
        self._reading: dict[ID, INetStream] = {}
        self.seen_messages.stop()
        self.seen_messages = cast("Any", _Seen())
        self.counter = time.time_ns()

    async def stream_handler(self, stream: INetStream) -> None:
        """Read a peer's RPCs until it stops or breaks a rule; a second stream replaces the first."""
        peer = stream.muxed_conn.peer_id
        if (older := self._reading.get(peer)) is not None:
            await older.reset()
        self._reading[peer] = stream
        try:
            await self._read_rpcs(stream, peer)
        except RemoteProtocolError as error:
            _log.debug("hanging up on %s: %s", peer, error)
            self._network.ban(peer, BAN_S)
            await self.host.disconnect(peer)
        finally:
            if self._reading.get(peer) is stream:
                del self._reading[peer]
                self._invalid.pop(peer, None)
                self._forget_all_subscriptions(peer)

    def _forget_all_subscriptions(self, peer_id: ID) -> None:
        """What a peer subscribed to holds as long as the stream lives on which it told us.

        The library forgot it when *our* stream to the peer broke, and the peer had no reason to tell again:
        after two peers had dialled each other, one of them sent nothing to the other for ever.
        """
        if peer_id not in self._reading:
            super()._forget_all_subscriptions(peer_id)

    async def _read_rpcs(self, stream: INetStream, peer: ID) -> None:
        while True:
            data = await stream.read(await _read_length(stream))
            rpc = rpc_pb2.RPC()
            try:
                rpc.ParseFromString(data)
            except Exception as error:  # protobuf's DecodeError depends on its backend
                raise RemoteProtocolError("not a pubsub RPC") from error
            self._restrict(rpc)
            for message in rpc.publish:
                await self.push_msg(peer, message)
            for subscription in rpc.subscriptions:
                self.handle_subscription(peer, subscription)
            if rpc.HasField("control"):
                await self.router.handle_rpc(rpc, peer)

    def _restrict(self, rpc: rpc_pb2.RPC) -> None:
        """Take out of an RPC whatever could grow memory or cost time without bound."""
        if len(rpc.publish) > MESSAGES_PER_RPC_MAX or len(rpc.subscriptions) > TOPICS_PER_PEER_MAX:
            raise RemoteProtocolError("an RPC with too many entries")
        rpc.ClearField("senderRecord")
        wanted = [
            s for s in rpc.subscriptions if s.topicid.startswith(self._topic_prefix) and len(s.topicid) < 100
        ]
        del rpc.subscriptions[:]
        rpc.subscriptions.extend(wanted)
        if not rpc.HasField("control"):
            return
        control = rpc_pb2.ControlMessage()
        for ihave in rpc.control.ihave[:CONTROL_ENTRIES_MAX]:
            if ihave.topicID in self.channels:
                del ihave.messageIDs[MESSAGE_IDS_MAX:]
                control.ihave.append(ihave)
        for iwant in rpc.control.iwant[:1]:
            del iwant.messageIDs[MESSAGE_IDS_MAX:]
            control.iwant.append(iwant)
        control.graft.extend(g for g in rpc.control.graft[:CONTROL_ENTRIES_MAX] if g.topicID in self.channels)
        for prune in rpc.control.prune[:CONTROL_ENTRIES_MAX]:
            if prune.topicID in self.channels:
                prune.ClearField("peers")  # peers come from our own exchange, which checks them
                prune.backoff = min(prune.backoff, BACKOFF_MAX_S)
                control.prune.append(prune)
        rpc.control.CopyFrom(control)

    async def push_msg(self, msg_forwarder: ID, msg: rpc_pb2.Message) -> None:
        """Check a message, cheap checks first, deliver it, pass it on. Our own go out unchecked."""
        if msg_forwarder == self.my_id:
            self._mark_msg_seen(msg)
            await self.router.publish(msg_forwarder, msg)
            return
        if len(msg.topicIDs) != 1 or msg.topicIDs[0] not in self.channels:
            return
        author = _author(msg)
        if author is None:
            self._blame(msg_forwarder)
            return
        if self._is_msg_seen(msg) or msg.from_id == self.my_id.to_bytes():
            return
        if not _is_signed(msg):
            self._blame(msg_forwarder)  # not marked as seen: a forgery must not keep the real one out
            return
        self._mark_msg_seen(msg)
        topic = msg.topicIDs[0]
        verdict = self._ask(topic, author, msg.data)
        if verdict is Verdict.REJECT:
            self._blame(msg_forwarder)
        elif verdict is Verdict.ACCEPT:
            self.channels[topic].deliver(author, msg.data)
            await self.router.publish(msg_forwarder, msg)

    def _ask(self, topic: str, author: AccountId, data: bytes) -> Verdict:
        try:
            answer = self.validate[topic](author, data)
        except Exception:  # noqa: BLE001 - a validator is another room's code; it must not end gossip
            _log.exception("the validator of %s failed", topic)
            return Verdict.IGNORE
        if isinstance(answer, Verdict):
            return answer
        return Verdict.ACCEPT if answer else Verdict.REJECT

    def _blame(self, peer: ID) -> None:
        self._invalid[peer] += 1
        if self._invalid[peer] > INVALID_MAX:
            raise RemoteProtocolError(f"more than {INVALID_MAX} invalid messages")


async def _read_length(stream: INetStream) -> int:
    """The varint before an RPC, at most RPC_BYTES_MAX."""
    size = shift = 0
    while shift < 28:
        byte = (await stream.read(1))[0]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            if not 1 <= size <= RPC_BYTES_MAX:
                raise RemoteProtocolError(f"an RPC of {size} bytes, at most {RPC_BYTES_MAX}")
            return size
    raise RemoteProtocolError("the length of an RPC is not a varint")


def _author(msg: rpc_pb2.Message) -> AccountId | None:
    """Who the message claims to be from; None when its fields are not of the one form we send."""
    if len(msg.from_id) != _FROM_ID_BYTES or len(msg.seqno) != _SEQNO_BYTES:
        return None
    if (
        len(msg.data) > MESSAGE_BYTES_MAX
        or len(msg.signature) != _SIGNATURE_BYTES
        or len(msg.key) > _KEY_BYTES_MAX
    ):
        return None
    try:
        return account_from_peer_id(base58.b58encode(msg.from_id).decode())
    except WireError:
        return None


def _is_signed(msg: rpc_pb2.Message) -> bool:
    """The library's check, which raises on keys it cannot parse."""
    try:
        return bool(signature_validator(msg))
    except Exception:  # noqa: BLE001 - whatever the key parser raises, it is not a signature
        return False
