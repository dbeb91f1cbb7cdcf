"""The node's local API: a Unix socket that serves this user's programs and nobody else (SPEC.md §16).

Every connection is a task of its own. Whatever a client sends, the worst that happens is the end of its
own connection; a client that hangs up cancels the request that it had running.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
import struct
from collections.abc import Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import trio

from executor.core.module import MODULE_BYTES_MAX
from ledger.core.encoding import WireError
from millrace.core.api_messages import (
    API_FRAME_BYTES_MAX,
    METHODS,
    UNITS_MAX,
    Part,
    Request,
    check_params,
    decode_from_client,
    encode_error,
    encode_event,
    encode_ok,
)
from millrace.errors import MillraceError, UsageError
from millrace.paths import private_dir
from millrace.storage import explain_storage
from p2p.core.framing import Decoder, encode_frame

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

__all__ = ["CONNECTIONS_MAX", "AndThen", "Answer", "Emit", "api_serving", "serve_stream"]

CONNECTIONS_MAX: Final = 32
IDLE_S: Final = 60.0
"""How long a connection may wait between requests, and between the parts of one."""
STALL_S: Final = 300.0
"""How long a client may leave a message unread before the node hangs up."""
PARAMS_BYTES_MAX: Final = 64 << 20
"""All parts of one request together."""
RECEIVE_BYTES: Final = 64 << 10
BACKLOG: Final = 16
PROBE_S: Final = 2.0
"""How long a node that owns the socket already has to accept a connection before it counts as dead."""
_PEER_CREDENTIALS: Final = struct.Struct("3i")

Emit = Callable[[dict[str, Any]], Awaitable[None]]
"""Sends one event to the client and returns when the socket has taken it: that is the back-pressure."""


@dataclass(frozen=True, slots=True)
class AndThen:
    """An answer whose effect waits until the client has it: a node that stops says so first."""

    result: object
    then: Callable[[], None]


Answer = Callable[[dict[str, Any], Emit], Awaitable[object]]
"""What stands behind one method: checked parameters in, a msgpack value out, `MillraceError` to refuse."""

_log = logging.getLogger(__name__)


@asynccontextmanager
async def api_serving(path: Path, answers: Mapping[str, Answer]) -> AsyncIterator[None]:
    """Serve `answers` on a Unix socket at `path` while the block runs; the socket is removed after it.

    `UsageError` when another node answers there already, or when its folder is open to other users.
    """
    if _socket_stands(path):
        if await _somebody_answers(path):
            raise UsageError(
                "a node runs here already", f"it answers on {path}", "use it, or stop it with `millrace down`"
            )
        os.unlink(path)  # noqa: PTH108 - pathlib's methods are reported as blocking, as this is; it is one call
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
        await listener.bind(os.fspath(path))
        # Nobody else gets this far: the folder is 0700. A umask instead would be every task's and thread's.
        os.chmod(path, 0o600)  # noqa: PTH101 - as above
        listener.listen(BACKLOG)
        inode = os.lstat(path).st_ino
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_accept, listener, answers, nursery)
                yield
                nursery.cancel_scope.cancel()
        finally:
            _remove_own(path, inode)


async def _accept(
    listener: trio.socket.SocketType, answers: Mapping[str, Answer], nursery: trio.Nursery
) -> None:
    places = _Places()
    while True:
        try:
            connection, _address = await listener.accept()
        except OSError as error:  # out of descriptors, or a client gone before its turn
            _log.warning("a client could not be accepted: %s", error)
            await trio.sleep(0.1)
            continue
        await places.take()  # all are busy: this client waits, and the next ones in the backlog
        nursery.start_soon(_serve_socket, connection, answers, places)


class _Places:
    """Room for CONNECTIONS_MAX clients: where there is none left, whoever has been silent longest gives way.

    Programs that connect and say nothing kept the command line out for IDLE_S.
    """

    def __init__(self) -> None:
        self._free = trio.Semaphore(CONNECTIONS_MAX)
        self._silent: dict[trio.CancelScope, None] = {}
        self._is_wanted = False

    async def take(self) -> None:
        """Wait for a place; `give_back` it."""
        try:
            self._free.acquire_nowait()
        except trio.WouldBlock:
            self._is_wanted = True
            self._push_out()
            await self._free.acquire()
            self._is_wanted = False

    def give_back(self) -> None:
        """A client is gone."""
        self._free.release()

    @contextmanager
    def silence(self) -> Iterator[trio.CancelScope]:
        """The block waits for a client to say something, for IDLE_S at most, or until its place is needed."""
        with trio.move_on_after(IDLE_S) as scope:
            self._silent[scope] = None
            if self._is_wanted:
                self._push_out()
            try:
                yield scope
            finally:
                del self._silent[scope]

    def _push_out(self) -> None:
        longest = next((scope for scope in self._silent if not scope.cancel_called), None)
        if longest is not None:
            longest.cancel()


async def _serve_socket(
    connection: trio.socket.SocketType, answers: Mapping[str, Answer], places: _Places
) -> None:
    try:
        async with trio.SocketStream(connection) as stream:
            uid = _peer_uid(connection)
            if uid not in (None, 0, os.getuid()):
                _log.warning("refused a client of user %s on the local API", uid)
                return
            await serve_stream(stream, answers, places)
    except (trio.BrokenResourceError, trio.ClosedResourceError, OSError) as error:
        _log.debug("a client's connection broke: %s", error)
    except Exception:  # noqa: BLE001 - the outermost frame of this client's task: it must not end the node
        _log.exception("a client's connection failed inside the node")
    finally:
        places.give_back()


async def serve_stream(
    stream: trio.abc.Stream, answers: Mapping[str, Answer], places: _Places | None = None
) -> None:
    """Serve one client's requests, one after the other, until it hangs up, is idle, or breaks the rules."""
    client = _Client(stream, places or _Places())
    while True:
        try:
            request = await client.next_request()
        except WireError as error:
            await client.send(encode_error(0, _refused("a message", error).to_wire()))
            return
        if request is None:
            return
        await _answer(client, request, answers)
        if client.ended:
            return


async def _answer(client: _Client, request: Request, answers: Mapping[str, Answer]) -> None:
    """Run one request to its one final answer, or drop it when its client goes away."""
    running = _Running(client, request)
    try:
        params = check_params(request.method, request.params)
    except WireError as error:
        running.refuse(_refused(f"`{request.method[:40]}`", error))
    else:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.watch, nursery.cancel_scope)
            nursery.start_soon(running.run, answers[request.method], params, nursery.cancel_scope)
    if client.ended:
        return
    try:
        await client.send(running.outcome)
    finally:
        if running.afterwards is not None:
            running.afterwards()


class _Running:
    """One request while its answer is being made: `outcome` is the final message in the end."""

    def __init__(self, client: _Client, request: Request) -> None:
        self._client = client
        self._request = request
        self.outcome = b""
        self.afterwards: Callable[[], None] | None = None

    async def run(self, answer: Answer, params: dict[str, Any], scope: trio.CancelScope) -> None:
        """Set `outcome`; then end `scope`, in which the hang-up is watched."""
        try:
            result = await answer(params, self._emit)
        except Exception as error:  # noqa: BLE001 - a request is a task; its failure is its client's answer
            if _is_hang_up(error):
                self._client.ended = True
            else:
                self.refuse(_explain(self._request.method, error))
        else:
            if isinstance(result, AndThen):
                self.afterwards = result.then
            value = result.result if isinstance(result, AndThen) else result
            self.outcome = encode_ok(self._request.request_id, value)
            if len(self.outcome) > API_FRAME_BYTES_MAX:
                size = len(self.outcome)
                self.refuse(
                    MillraceError("the answer is too long to send", f"it has {size} bytes", "ask for less")
                )
        scope.cancel()

    def refuse(self, error: MillraceError) -> None:
        """Answer with `error`."""
        self.outcome = encode_error(self._request.request_id, error.to_wire())

    async def _emit(self, event: dict[str, Any]) -> None:
        await self._client.send(encode_event(self._request.request_id, event))


class _Client:
    """One connection: reads whole requests, sends whole messages, notices the hang-up."""

    def __init__(self, stream: trio.abc.Stream, places: _Places) -> None:
        self._stream = stream
        self._places = places
        self._decoder = Decoder(frame_bytes_max=API_FRAME_BYTES_MAX)
        self._frames: list[bytes] = []
        self.ended = False

    async def next_request(self) -> Request | None:
        """The next request with all its parts put together; None when the client is gone or idle."""
        first = await self._next_message()
        if first is None:
            return None
        if not isinstance(first, Request):
            raise WireError("a part came without a request before it")
        if not first.more:
            return first
        method = METHODS.get(first.method)
        if method is None or not method.takes_parts:
            raise WireError(f"{first.method[:40]!r} takes no parts")
        return await self._gather(first)

    async def _gather(self, first: Request) -> Request:
        module, units = first.params.get("module", b""), first.params.get("units", [])
        if not isinstance(module, bytes) or not isinstance(units, list):
            raise WireError("`module` must be bytes and `units` a list")
        pieces, units, size = [module], list(units), len(module)
        while True:
            part = await self._next_message()
            if part is None:
                raise WireError("the parts of the request stopped before the last one")
            if not isinstance(part, Part) or part.request_id != first.request_id:
                raise WireError("a part of the request before was expected")
            pieces.append(part.fields["module"])
            units += part.fields["units"]
            size += self.frame_bytes
            if size > PARAMS_BYTES_MAX or len(units) > UNITS_MAX:
                raise WireError(f"a request has at most {PARAMS_BYTES_MAX} bytes and {UNITS_MAX} units")
            if sum(map(len, pieces)) > MODULE_BYTES_MAX:
                raise WireError(f"a module has at most {MODULE_BYTES_MAX} bytes")
            if part.last:
                params = {**first.params, "module": b"".join(pieces), "units": units}
                return Request(first.request_id, first.method, params)

    async def _next_message(self) -> Request | Part | None:
        while not self._frames:
            with self._places.silence() as scope:
                data = await self._stream.receive_some(RECEIVE_BYTES)
            if scope.cancelled_caught or not data:
                return None
            self._frames += self._decoder.feed(data)
        frame = self._frames.pop(0)
        self.frame_bytes = len(frame)
        return decode_from_client(frame)

    async def watch(self, running: trio.CancelScope) -> None:
        """Cancel the running request when the client hangs up, or speaks before its answer has come."""
        try:
            data = await self._stream.receive_some(1)
        except trio.BrokenResourceError:
            data = b""
        self.ended = True
        if data:
            _log.debug("a client sent bytes before its answer had come")
        running.cancel()

    async def send(self, message: bytes) -> None:
        """Send one message; `BrokenResourceError` when the client leaves it unread for STALL_S."""
        with trio.move_on_after(STALL_S) as scope:
            await self._stream.send_all(encode_frame(message, frame_bytes_max=API_FRAME_BYTES_MAX))
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read")


def _refused(what: str, error: WireError) -> UsageError:
    return UsageError(
        f"{what} is not understood", str(error), "see SPEC.md §16 for each method and its parameters"
    )


def _is_hang_up(error: Exception) -> bool:
    """Whether the client went away while it was being answered; an answer that opens a nursery says so in a group."""
    kinds = (trio.BrokenResourceError, trio.ClosedResourceError)
    if isinstance(error, ExceptionGroup):
        return error.subgroup(kinds) is not None
    return isinstance(error, kinds)


def _explain(method: str, error: Exception) -> MillraceError:
    """What the client is told: the refusal itself, that the disk fails, or, for a defect of ours, that there is one."""
    if isinstance(error, MillraceError):
        return error
    if isinstance(error, ExceptionGroup):
        named = error.subgroup(MillraceError)
        if named is not None:
            return _explain(method, named.exceptions[0])
    if (disk := explain_storage(error)) is not None:
        _log.error("`%s`: %s: %s", method, disk.what, disk.why)
        return disk
    _log.error("`%s` failed inside the node", method, exc_info=error)
    return MillraceError(
        f"`{method}` failed inside the node",
        f"{type(error).__name__}: {error}",
        "this is a defect: the node's log has the details",
    )


def _peer_uid(connection: trio.socket.SocketType) -> int | None:
    """The user at the other end, where the system tells (Linux)."""
    option = getattr(socket, "SO_PEERCRED", None)
    if option is None:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, option, _PEER_CREDENTIALS.size)
    uid: int = _PEER_CREDENTIALS.unpack(raw)[1]
    return uid


def _socket_stands(path: Path) -> bool:
    """Whether a socket stands at `path`, dead or alive; `UsageError` for anything else in its place."""
    private_dir(path.parent)
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return False
    if not stat.S_ISSOCK(mode):
        raise UsageError(
            f"{path} is in the way",
            "it is not a socket",
            "move it away, or set [api].socket to another place",
        )
    return True


def _remove_own(path: Path, inode: int) -> None:
    """Remove our socket, unless another node's has taken its place."""
    try:
        if path.lstat().st_ino == inode:
            path.unlink()
    except FileNotFoundError:
        return


async def _somebody_answers(path: Path) -> bool:
    with trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            with trio.move_on_after(PROBE_S) as scope:
                await probe.connect(os.fspath(path))
        except OSError:
            return False
        return not scope.cancelled_caught
