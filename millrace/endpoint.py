"""The blocking client of the local API (SPEC.md §16): plain sockets, no event loop, no libp2p.

The command line and `Client` stand on it. One connection carries one request, so calls from several
threads never share state, and hanging up is how a stream is cancelled.
"""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any, Final, Self

from ledger.core.encoding import WireError
from millrace.core.api_messages import (
    API_FRAME_BYTES_MAX,
    METHODS,
    PART_BYTES,
    Part,
    Reply,
    Request,
    check_params,
    decode_reply,
    encode_part,
    encode_request,
)
from millrace.errors import DaemonUnavailable, IncompatiblePeer, JobTimeout, UsageError, from_wire
from p2p.core.framing import Decoder, encode_frame

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

__all__ = ["CALL_WAIT_S", "Endpoint", "Stream"]

CALL_WAIT_S: Final = 30.0
"""How long a call waits for its answer unless told otherwise."""
CONNECT_WAIT_S: Final = 5.0
KNOCK_AGAIN_S: Final = 0.02
RECEIVE_BYTES: Final = 64 << 10
SOCKET_PATH_BYTES_MAX: Final = 107
"""What `sockaddr_un` of Linux holds, without its closing zero."""
_REQUEST_ID: Final = 1


class Endpoint:
    """The node behind the socket at `path`. It holds no connection: each call opens one and closes it."""

    def __init__(self, path: Path | str) -> None:
        self.path = os.fspath(path)

    def call(self, method: str, /, *, wait_s: float | None = CALL_WAIT_S, **params: Any) -> Any:  # noqa: ANN401 - msgpack
        """The answer to `method(params)`, waiting at most `wait_s` (None: without end).

        Raises what the node answered (`millrace.errors`), `DaemonUnavailable` without a node, `JobTimeout`
        when it stays silent, `UsageError` for parameters that the method does not have.
        """
        with self.stream(method, wait_s=wait_s, **params) as stream:
            for _event in stream:
                pass
            return stream.result

    def stream(self, method: str, /, *, wait_s: float | None = None, **params: Any) -> Stream:  # noqa: ANN401 - msgpack
        """Start `method(params)`; iterate over its events, then read `.result`. Leaving early cancels it.

        `wait_s` bounds the whole stream. Errors as in `call`, raised here or while iterating.
        """
        try:
            check_params(method, params)
        except WireError as error:
            raise UsageError(
                f"`{method}` was asked in a way that it does not understand",
                str(error),
                "see SPEC.md §16 for the parameters of each method",
            ) from error
        deadline = None if wait_s is None else time.monotonic() + wait_s
        connection = self._connect()
        stream = Stream(connection, self.path, deadline)
        try:
            stream.send_request(method, params)
        except BaseException:
            stream.close()
            raise
        return stream

    def answers(self) -> bool:
        """Whether a node listens on the socket."""
        try:
            self._connect().close()
        except DaemonUnavailable:
            return False
        return True

    def _connect(self) -> socket.socket:
        if len(os.fsencode(self.path)) > SOCKET_PATH_BYTES_MAX:
            raise UsageError(
                f"the socket path {self.path} is too long",
                f"the system allows {SOCKET_PATH_BYTES_MAX} bytes",
                "set [api].socket, or MILLRACE_HOME, to a shorter path",
            )
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(CONNECT_WAIT_S)
        try:
            self._knock(connection)
        except PermissionError as error:
            connection.close()
            raise DaemonUnavailable(
                "the node does not let you in",
                f"{self.path} belongs to another user",
                "run the command as the user who started the node",
            ) from error
        except BlockingIOError as error:
            connection.close()
            raise DaemonUnavailable(
                "the node is too busy to let you in",
                f"too many programs wait on {self.path}",
                "end some of them, or try again",
            ) from error
        except OSError as error:
            connection.close()
            raise DaemonUnavailable(
                "no node runs here",
                f"nobody answers on {self.path} ({error.strerror or error})",
                "start one with `millrace up`",
            ) from error
        return connection

    def _knock(self, connection: socket.socket) -> None:
        """Connect; while many others wait to be let in, which a Unix socket says at once, try again."""
        deadline = time.monotonic() + CONNECT_WAIT_S
        while True:
            try:
                return connection.connect(self.path)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(KNOCK_AGAIN_S)


class Stream:
    """A running request: an iterator over its events; `result` is its final answer once they are over."""

    def __init__(self, connection: socket.socket, path: str, deadline: float | None) -> None:
        self._socket = connection
        self._path = path
        self._deadline = deadline
        self._decoder = Decoder(frame_bytes_max=API_FRAME_BYTES_MAX)
        self._waiting: list[bytes] = []
        self._done = False
        self._result: Any = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return self

    def __next__(self) -> dict[str, Any]:
        if self._done:
            raise StopIteration
        reply = self._receive()
        if reply.kind == "event":
            event: dict[str, Any] = reply.body if isinstance(reply.body, dict) else {}
            return event
        self.close()
        self._done = True
        if reply.kind == "error":
            raise from_wire(reply.body)
        self._result = reply.body
        raise StopIteration

    @property
    def result(self) -> Any:  # noqa: ANN401 - whatever the method answers
        """The final answer; reads (and drops) the events that nobody has read."""
        for _event in self:
            pass
        return self._result

    def close(self) -> None:
        """Hang up: the node cancels what is still running."""
        self._done = True
        self._socket.close()

    def shutdown(self) -> None:
        """Hang up from another thread: a blocked `__next__` then raises `DaemonUnavailable`."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:  # it was closed already, which is what we want
            return

    def send_request(self, method: str, params: dict[str, Any]) -> None:
        """Send the request, long parameters in parts. Called once, by `Endpoint.stream`."""
        first, parts = _split(method, params)
        frames = [encode_request(Request(_REQUEST_ID, method, first, more=bool(parts)))]
        frames += [encode_part(Part(_REQUEST_ID, part, part is parts[-1])) for part in parts]
        for frame in frames:
            try:
                self._socket.settimeout(self._time_left())
                self._socket.sendall(encode_frame(frame, frame_bytes_max=API_FRAME_BYTES_MAX))
            except TimeoutError as error:
                raise self._late() from error
            except OSError:
                # The node refused before it had read everything: its answer says why, if it sent one.
                return

    def _receive(self) -> Reply:
        while not self._waiting:
            try:
                self._socket.settimeout(self._time_left())
                data = self._socket.recv(RECEIVE_BYTES)
            except TimeoutError as error:
                raise self._late() from error
            except OSError as error:
                raise self._gone() from error
            if not data:
                raise self._gone()
            try:
                self._waiting += self._decoder.feed(data)
            except WireError as error:
                raise _foreign(error) from error
        try:
            reply = decode_reply(self._waiting.pop(0))
        except WireError as error:
            raise _foreign(error) from error
        if reply.request_id != _REQUEST_ID:
            raise _foreign(WireError(f"answer to request {reply.request_id}, asked was {_REQUEST_ID}"))
        return reply

    def _time_left(self) -> float | None:
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def _late(self) -> JobTimeout:
        return JobTimeout(
            "the node did not answer in time",
            "it is busy, or the time limit is short for what was asked",
            "try again with a larger --timeout, or look at `millrace status`",
        )

    def _gone(self) -> DaemonUnavailable:
        return DaemonUnavailable(
            "the node went away before it had answered",
            f"the connection to {self._path} was closed",
            "look at `millrace status`, start it again with `millrace up`",
        )


def _foreign(error: WireError) -> IncompatiblePeer:
    return IncompatiblePeer(
        "the node's answer cannot be read",
        str(error),
        "client and node may be of different versions: `millrace down`, then `millrace up`",
    )


def _split(method: str, params: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The parameters for the request itself and, when they are long, those for the parts behind it."""
    if not METHODS[method].takes_parts:
        return params, []
    module: bytes = params["module"]
    units: list[dict[str, Any]] = params["units"]
    if len(module) + sum(map(_unit_bytes, units)) <= PART_BYTES:
        return params, []
    parts: list[dict[str, Any]] = [
        {"module": module[at : at + PART_BYTES]} for at in range(0, len(module), PART_BYTES)
    ]
    batch: list[dict[str, Any]] = []
    size = 0
    for unit in units:
        if batch and size + _unit_bytes(unit) > PART_BYTES:
            parts.append({"units": batch})
            batch, size = [], 0
        batch.append(unit)
        size += _unit_bytes(unit)
    if batch:
        parts.append({"units": batch})
    return {**params, "module": b"", "units": []}, parts


def _unit_bytes(unit: dict[str, Any]) -> int:
    return 16 + len(unit.get("stdin") or b"") + sum(len(arg) * 4 for arg in unit.get("args") or ())
