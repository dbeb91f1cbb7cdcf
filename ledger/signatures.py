"""Signatures verified by other processes, because one core verifies only some thousands a second (SPEC.md §7.2).

`SignatureCrew.check` stands where `verify_bytes` stands in an audit, but answers at once: what it is asked is
packed into batches, each verified by a process of the crew, or by the caller itself while they all have enough to do.
`first_wrong` waits for the rest. A process of the crew is this module, run with two pipes: it ends with its input, so
that nothing is left behind however its caller ends.
"""

from __future__ import annotations

import os
import select
import struct
import subprocess
import sys
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Self

from ledger.core.keys import ACCOUNT_BYTES, SIGNATURE_BYTES, verify_bytes

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["BATCH_BYTES", "CREW_MAX", "SignatureCrew", "first_wrong_in"]

BATCH_BYTES: Final = 48 << 10
"""A batch of about 170 entries, 12 ms of work. With one batch being verified and one waiting, the latter fits a pipe
of 64 KiB, so that handing it over never waits."""
BATCHES_AHEAD: Final = 2
"""Given to one process before its answer: one in work, one in the pipe."""
CREW_MAX: Final = 63
_RECORD = struct.Struct(
    f">H{ACCOUNT_BYTES}s{SIGNATURE_BYTES}s"
)  # length of the message, key, signature; message
_LENGTH = struct.Struct(">I")
_ALL_HOLD: Final = (1 << 32) - 1


def first_wrong_in(batch: bytes) -> int | None:
    """The place, counted from 0, of the first signature in `batch` that does not verify; None if all do."""
    at = place = 0
    while at < len(batch):
        size, key, signature = _RECORD.unpack_from(batch, at)
        at += _RECORD.size
        if not verify_bytes(key, signature, batch[at : at + size]):
            return place
        at += size
        place += 1
    return None


@dataclass(slots=True)
class _Member:
    """One process of the crew, and the batches that it has not answered, each with its first signature's number."""

    process: subprocess.Popen[bytes]
    batches: deque[tuple[int, bytes]] = field(default_factory=deque)
    answer: bytes = b""

    @property
    def stdin(self) -> BinaryIO:
        assert self.process.stdin is not None  # noqa: S101 - it was started with pipes
        return self.process.stdin  # type: ignore[return-value] # an IO[bytes] is what Popen calls it

    @property
    def stdout(self) -> int:
        assert self.process.stdout is not None  # noqa: S101 - it was started with pipes
        return self.process.stdout.fileno()


class SignatureCrew:
    """`processes` that verify signatures beside the caller; with 0 the caller does it all. Use it in a `with`."""

    def __init__(self, processes: int) -> None:
        self._members: list[_Member] = []
        self._processes = min(max(processes, 0), CREW_MAX)
        self._batch: list[bytes] = []
        self._batch_bytes = self._asked = self._batch_first = 0
        self._wrong: int | None = None

    def __enter__(self) -> Self:
        try:
            for _ in range(self._processes):
                self._members.append(_Member(_start()))
        except OSError:
            pass  # the system gives no more processes: those that there are, and the caller, will do
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for member in self._members:
            _end(member.process)
        self._members.clear()

    @property
    def cores(self) -> int:
        """How many processes verify, the caller's included."""
        return len(self._members) + 1

    def check(self, key: bytes, signature: bytes, message: bytes) -> bool:
        """Take a signature to verify, in its turn; False once one is known to be wrong: asking on is no use."""
        if self._wrong is not None:
            return False
        self._batch.append(_RECORD.pack(len(message), key, signature))
        self._batch.append(message)
        self._batch_bytes += _RECORD.size + len(message)
        self._asked += 1
        if self._batch_bytes >= BATCH_BYTES:
            self._hand_over()
        return True

    def first_wrong(self) -> int | None:
        """The number, in the order asked and counted from 0, of the first wrong signature; waits for all answers."""
        if self._batch:
            self._hand_over()
        while any(member.batches for member in self._members):
            self._collect(None)
        return self._wrong

    def _hand_over(self) -> None:
        """Give the batch to whoever has the least to do; if nobody has room, verify it here."""
        first, batch = self._batch_first, b"".join(self._batch)
        self._batch.clear()
        self._batch_bytes, self._batch_first = 0, self._asked
        self._collect(0)
        free = [member for member in self._members if len(member.batches) < BATCHES_AHEAD]
        if not free:
            self._verify_here(first, batch)
            return
        member = min(free, key=lambda member: len(member.batches))
        member.batches.append((first, batch))
        try:
            member.stdin.write(_LENGTH.pack(len(batch)) + batch)
            member.stdin.flush()
        except OSError:
            self._lose(member)

    def _collect(self, wait_s: float | None) -> None:
        """Take the answers that are there; with None, wait for one."""
        waiting = {member.stdout: member for member in self._members if member.batches}
        ready, _, _ = select.select(list(waiting), [], [], wait_s) if waiting else ([], [], [])
        for number in ready:
            member = waiting[number]
            data = os.read(number, _LENGTH.size * BATCHES_AHEAD)
            if not data:
                self._lose(member)
                continue
            member.answer += data
            while len(member.answer) >= _LENGTH.size:
                (place,) = _LENGTH.unpack(member.answer[: _LENGTH.size])
                member.answer = member.answer[_LENGTH.size :]
                first, _ = member.batches.popleft()
                if place != _ALL_HOLD:
                    self._note(first + place)

    def _lose(self, member: _Member) -> None:
        """A process of the crew is gone (killed, out of memory): what it had is verified here."""
        self._members.remove(member)
        _end(member.process)
        for first, batch in member.batches:
            self._verify_here(first, batch)

    def _verify_here(self, first: int, batch: bytes) -> None:
        place = first_wrong_in(batch)
        if place is not None:
            self._note(first + place)

    def _note(self, number: int) -> None:
        self._wrong = number if self._wrong is None else min(self._wrong, number)


def _start() -> subprocess.Popen[bytes]:
    """A process of the crew: this very code, whatever the working directory holds; its caller's Ctrl-C passes it by."""
    return subprocess.Popen(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", __name__],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[1],
        start_new_session=True,
    )


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()


def _serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Verify batch after batch until the input ends."""
    while len(head := source.read(_LENGTH.size)) == _LENGTH.size:
        (size,) = _LENGTH.unpack(head)
        batch = source.read(size)
        if len(batch) < size:
            return
        place = first_wrong_in(batch)
        sink.write(_LENGTH.pack(_ALL_HOLD if place is None else place))
        sink.flush()


if __name__ == "__main__":
    _serve(sys.stdin.buffer, sys.stdout.buffer)
