"""The local API on a real Unix socket: permissions, garbage, hang-ups, back-pressure, parts."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import stat
import threading
from typing import TYPE_CHECKING, Any

import pytest
import trio
import trio.testing

from ledger.core.encoding import pack
from ledger.store import StoreFullError
from millrace.api import CONNECTIONS_MAX, AndThen, api_serving
from millrace.core.api_messages import PART_BYTES
from millrace.endpoint import Endpoint
from millrace.errors import DaemonUnavailable, JobTimeout, MillraceError, NoPeers, UsageError
from millrace.journal import JobRecord, journal_in
from p2p.core.framing import Decoder, encode_frame

if TYPE_CHECKING:
    from pathlib import Path

    from millrace.api import Answer, Emit


@pytest.fixture
def path(tmp_path: Path) -> Path:
    tmp_path.chmod(0o700)
    return tmp_path / "api.sock"


def mode(path: Path) -> int | None:
    return stat.S_IMODE(path.stat().st_mode) if path.exists() else None


async def in_thread(function: Any, *args: Any) -> Any:
    return await trio.to_thread.run_sync(function, *args, abandon_on_cancel=True)


async def answer_version(_params: dict[str, Any], _emit: Emit) -> object:
    return {"version": "0"}


async def test_socket_is_private_and_gone_afterwards(path: Path) -> None:
    async with api_serving(path, {"version": answer_version}):
        assert mode(path) == 0o600
        assert await in_thread(Endpoint(path).call, "version") == {"version": "0"}
    assert mode(path) is None
    with pytest.raises(DaemonUnavailable, match="millrace up"):
        Endpoint(path).call("version")


async def test_stale_socket_is_replaced_a_live_one_is_not(path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(os.fspath(path))
    stale.close()
    async with api_serving(path, {"version": answer_version}):
        assert await in_thread(Endpoint(path).answers)
        with pytest.raises(UsageError, match="runs here already"):
            async with api_serving(path, {}):
                pytest.fail("two nodes on one socket")
        assert await in_thread(Endpoint(path).call, "version") == {"version": "0"}


async def test_a_file_in_the_way_is_kept(path: Path) -> None:
    await trio.Path(path).write_text("mine")
    with pytest.raises(UsageError, match="not a socket"):
        async with api_serving(path, {}):
            pytest.fail("served over a file")
    assert await trio.Path(path).read_text() == "mine"


async def test_open_folder_is_refused(path: Path) -> None:
    path.parent.chmod(0o755)
    with pytest.raises(MillraceError, match="chmod 700"):
        async with api_serving(path, {}):
            pytest.fail("served from an open folder")


GARBAGE = [
    b"\x00",
    b"\xff\xff\xff\xff",
    b"\x00\x00\x00\x00",
    encode_frame(b"\xc1"),
    encode_frame(pack([1, 2])),
    encode_frame(pack({"id": -1, "method": "version"})),
    encode_frame(pack({"id": 1, "method": "version", "extra": 1})),
    encode_frame(pack({"id": 1, "part": {}, "last": True})),
    encode_frame(pack({"id": 1, "method": "version", "more": True})),
    encode_frame(pack({"id": 1, "method": "nonsense"})),
    encode_frame(pack({"id": 1, "method": "version", "params": {"x": 1}})),
    os.urandom(3000),
]


@pytest.mark.parametrize("data", GARBAGE, ids=range(len(GARBAGE)))
async def test_garbage_ends_only_its_own_connection(path: Path, data: bytes) -> None:
    async with api_serving(path, {"version": answer_version}):
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(data)
            with trio.move_on_after(0.02):
                await stream.receive_some(1 << 16)
        assert await in_thread(Endpoint(path).call, "version") == {"version": "0"}


async def test_bad_parameters_are_explained_by_the_node_as_well(path: Path) -> None:
    async with api_serving(path, {"version": answer_version}), await trio.open_unix_socket(path) as stream:
        await stream.send_all(encode_frame(pack({"id": 9, "method": "send", "params": {"to": 3}})))
        frames = Decoder().feed(await stream.receive_some(1 << 16))
    assert b"'to' must be text, not a whole number" in frames[0]
    with pytest.raises(UsageError, match="needs the parameter 'to'"):
        Endpoint(path).call("send")


async def test_errors_travel_whole(path: Path) -> None:
    async def refuse(_params: dict[str, Any], _emit: Emit) -> object:
        raise NoPeers("no peer fits", "all are busy", "wait", reasons=("12D3: no slots",))

    async def break_down(_params: dict[str, Any], _emit: Emit) -> object:
        raise RuntimeError("a defect")

    async with api_serving(path, {"peers": refuse, "status": break_down}):
        with pytest.raises(NoPeers) as caught:
            await in_thread(Endpoint(path).call, "peers")
        assert caught.value.reasons == ("12D3: no slots",)
        assert caught.value.exit_code == 5
        with pytest.raises(MillraceError, match="RuntimeError: a defect"):
            await in_thread(Endpoint(path).call, "status")


async def test_a_full_disk_is_no_defect(path: Path) -> None:
    database = sqlite3.connect(":memory:", isolation_level=None)
    journal = journal_in(database)
    database.execute("PRAGMA max_page_count = 1")

    async def buy(_params: dict[str, Any], _emit: Emit) -> object:
        async with trio.open_nursery():
            for number in range(100):
                journal.job_started(
                    JobRecord(bytes([number]) * 32, 0, bytes(3_000), 1, 1, 1, 0, 0, 0, "running")
                )
        return None

    async def move(_params: dict[str, Any], _emit: Emit) -> object:
        raise OSError(errno.ENOSPC, "No space left on device")

    async def pay(_params: dict[str, Any], _emit: Emit) -> object:
        raise StoreFullError("ledger.db cannot be written")

    async with api_serving(path, {"peers": buy, "status": move, "balance": pay}):
        for method, why in (("peers", "disk is full"), ("status", "No space left"), ("balance", "ledger.db")):
            with pytest.raises(MillraceError, match=why) as caught:
                await in_thread(Endpoint(path).call, method)
            assert "disk did not take" in caught.value.what
            assert "free space" in caught.value.next_step
            assert "no money is lost" in caught.value.next_step
    journal.close()


async def test_hang_up_cancels_the_request(path: Path) -> None:
    cancelled = trio.Event()
    begun = trio.Event()

    async def audit(_params: dict[str, Any], emit: Emit) -> object:
        await emit({"type": "progress"})
        begun.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    def watch_and_leave() -> None:
        with Endpoint(path).stream("ledger.audit") as stream:
            assert next(stream) == {"type": "progress"}

    async with api_serving(path, {"ledger.audit": audit}):
        await in_thread(watch_and_leave)
        await begun.wait()
        with trio.fail_after(5):
            await cancelled.wait()


async def test_a_slow_reader_holds_the_sender_back(path: Path) -> None:
    sent = 0

    async def audit(_params: dict[str, Any], emit: Emit) -> object:
        nonlocal sent
        for _ in range(200):
            await emit({"type": "progress", "pad": bytes(100_000)})
            sent += 1
        return sent

    async with api_serving(path, {"ledger.audit": audit}):
        stream = await in_thread(lambda: Endpoint(path).stream("ledger.audit"))
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert sent < 100  # the socket's buffer is full and nothing piles up in the node
        assert await in_thread(lambda: sum(1 for _ in stream)) == 200
        assert stream.result == 200


async def test_long_parameters_arrive_in_parts(path: Path) -> None:
    seen: dict[str, Any] = {}

    async def run(params: dict[str, Any], _emit: Emit) -> object:
        seen.update(params)
        return None

    module = os.urandom(3 * PART_BYTES + 17)
    units = [{"args": [str(n)], "stdin": bytes(300_000)} for n in range(10)]
    async with api_serving(path, {"job.run": run}):
        await in_thread(
            lambda: Endpoint(path).call("job.run", module=module, units=units, options={"replicas": 3})
        )
    assert seen["module"] == module
    assert seen["units"] == units
    assert seen["options"]["replicas"] == 3
    assert seen["options"]["entry"] == "_start"


async def test_stop_is_answered_before_the_node_leaves(path: Path) -> None:
    leaving = trio.Event()

    async def stop(_params: dict[str, Any], _emit: Emit) -> object:
        return AndThen({"stopping": True}, leaving.set)

    answers: dict[str, Answer] = {"stop": stop}
    answered: list[object] = []
    async with trio.open_nursery() as nursery, api_serving(path, answers):

        async def ask() -> None:
            answered.append(await in_thread(Endpoint(path).call, "stop"))

        nursery.start_soon(ask)
        await leaving.wait()
    assert answered == [{"stopping": True}]


async def test_more_clients_than_slots_wait_their_turn(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("millrace.api.CONNECTIONS_MAX", 2)

    async def audit(_params: dict[str, Any], _emit: Emit) -> object:
        await trio.sleep_forever()

    async with api_serving(path, {"version": answer_version, "ledger.audit": audit}):
        holders = [await trio.open_unix_socket(path) for _ in range(2)]
        for holder in holders:  # busy, not silent: silent ones give way
            await holder.send_all(encode_frame(pack({"id": 1, "method": "ledger.audit", "params": {}})))
        done = trio.Event()

        async def ask() -> None:
            await in_thread(Endpoint(path).call, "version")
            done.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await trio.testing.wait_all_tasks_blocked(0.02)
            assert not done.is_set()
            for holder in holders:
                await holder.aclose()
        assert done.is_set()


def test_a_silent_node_is_a_timeout(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()
        with pytest.raises(JobTimeout):
            Endpoint(path).call("version", wait_s=0.05)


def test_a_node_that_dies_in_the_middle_is_unavailable(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(path))
        listener.listen()

        def die() -> None:
            connection, _address = listener.accept()
            connection.recv(1)
            connection.close()

        thread = threading.Thread(target=die)
        thread.start()
        with pytest.raises(DaemonUnavailable, match="went away"):
            Endpoint(path).call("version", wait_s=5)
        thread.join()


def test_a_path_that_no_socket_can_have_says_so(path: Path) -> None:
    with pytest.raises(UsageError, match="too long"):
        Endpoint(path / ("x" * 120)).call("version")


async def test_silent_programs_give_way(path: Path) -> None:
    """Thirty-two programs that connected and said nothing kept everybody out for a minute."""
    async with api_serving(path, {"version": answer_version}):
        silent = [await trio.open_unix_socket(path) for _ in range(CONNECTIONS_MAX + 5)]
        with trio.fail_after(5):
            assert await in_thread(Endpoint(path).call, "version") == {"version": "0"}
            assert await silent[0].receive_some(1) == b""
        for stream in silent:
            await stream.aclose()
