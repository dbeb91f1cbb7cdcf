"""What leaves over one connection: the frames of all its streams, many in one encrypted message (SPEC.md §9).

Every message costs a cipher call, a system call and a wake-up of the peer, whatever its length. So a frame waits in
line while another message is being written, and whoever gets the connection next takes along all that waits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import trio
from libp2p.stream_muxer.exceptions import MuxedStreamError, MuxedStreamReset

from p2p.core.yamux import HEADER_BYTES
from p2p.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from libp2p.abc import ISecureConn

__all__ = ["MESSAGE_BYTES_MAX", "POSTED_FRAMES_MAX", "Outgoing"]

MESSAGE_BYTES_MAX: Final = 65_519
"""The plain bytes of one noise message."""
POSTED_FRAMES_MAX: Final = 512
"""Frames that nobody waits for; a peer that lets more of them pile up does not read."""
WRITE_TIMEOUT_S: Final = 30.0


class Outgoing:
    """Frames on their way out, in order. `run` writes those that nobody waits for.

    `end(reason)` is called once the connection can carry no more; after it, sending fails.
    """

    def __init__(self, conn: ISecureConn, end: Callable[[str], None]) -> None:
        self._conn = conn
        self._end = end
        self._turns = Turns()
        self._frames: dict[int, bytes] = {}  # by the number of their turn
        self._last_turn = 0
        self._posted = 0
        self._filled = trio.Event()
        self._is_over = False

    def close(self) -> None:
        """Nothing is written from now on; whoever waits hears of it."""
        self._is_over = True
        self._frames.clear()

    def post(self, header: bytes) -> None:
        """Queue a frame without body, for `run` or the next `send` to write."""
        if self._is_over:
            return
        if self._posted >= POSTED_FRAMES_MAX:
            self._end("its outbox is full")
            return
        self._posted += 1
        self._queue(header)
        self._filled.set()

    async def send(self, frame: bytes) -> None:
        """Write one frame whole. Cancelled, none of it has left, or all of it has and this returns.

        `MuxedStreamReset` when the connection is over, or the peer does not read for WRITE_TIMEOUT_S.
        """
        if self._is_over:
            raise MuxedStreamReset("the connection is closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        turn = self._queue(frame)
        try:
            async with self._turns:
                while turn in self._frames:
                    await self._write()
        except trio.Cancelled:
            if self._frames.pop(turn, None) is not None:
                raise
            with trio.CancelScope(shield=True):  # it is being written: that ends within WRITE_TIMEOUT_S
                async with self._turns:
                    pass
        if self._is_over:
            raise MuxedStreamReset("the connection broke")

    async def run(self) -> None:
        """Write what is posted, until the connection is over."""
        try:
            while True:
                await self._filled.wait()
                self._filled = trio.Event()
                async with self._turns:
                    while self._frames:
                        await self._write()
        except MuxedStreamError:
            return

    def _queue(self, frame: bytes) -> int:
        self._last_turn += 1
        self._frames[self._last_turn] = frame
        return self._last_turn

    async def _write(self) -> None:
        """Write the oldest frames, as many as fit one message; the caller holds the lock.

        Cancellation is not let in: half a noise message on the wire would make all that follows unreadable.
        """
        if self._is_over:
            raise MuxedStreamReset("the connection is closed")
        taken: list[bytes] = []
        size = 0
        for turn, frame in list(self._frames.items()):
            size += len(frame)
            if taken and size > MESSAGE_BYTES_MAX:
                break
            taken.append(self._frames.pop(turn))
            if len(frame) == HEADER_BYTES:
                self._posted = max(0, self._posted - 1)
        with trio.CancelScope(shield=True) as scope:
            scope.deadline = trio.current_time() + WRITE_TIMEOUT_S
            try:
                await self._conn.write(b"".join(taken))
            except Exception as error:  # whatever the socket raised, the connection is over
                self._end(f"write failed: {error!r}")
                raise MuxedStreamReset("the connection broke") from error
        if scope.cancelled_caught:
            self._end("it did not read for WRITE_TIMEOUT_S")
            raise MuxedStreamReset("the peer does not read")
