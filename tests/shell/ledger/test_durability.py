"""The ledger file against crashes, power cuts, failing and full disks, cut files, flipped bits (SPEC.md §6.2, §15.3).

Nothing that was acknowledged is lost, nothing wrong is shown, and the message says what to do. Every test takes a
sample here; `make durability` sets DURABILITY=1 and takes all of it.
"""

from __future__ import annotations

import errno
import os
import random
import shutil
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pytest

from ledger import database, places
from ledger.store import StoreCorruptError, StoreError, StoreFullError, open_store
from tests.shell.ledger import durable_ledger
from tests.shell.ledger.durable_ledger import ONE, check, work
from tests.shell.ledger.faulty_disk import ACKS, Call, Fault, images, run_watched, supported, write_image

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WHOLE = bool(os.environ.get("DURABILITY"))
pytestmark = pytest.mark.skipif(not supported(), reason="this machine's seccomp cannot watch a child's calls")


@pytest.fixture(autouse=True, scope="module")
def _small_segments() -> Iterator[None]:
    """Three entries a segment, two a page, so that twelve blocks have every part of the index."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(places, "SEGMENT_ENTRIES", 3)
        patch.setattr(places, "PAGE_RECORDS", 2)
        patch.setattr(places, "SEGMENT_PAGES", 2)
        patch.setattr(places, "_FENCE", places.struct.Struct(">2I"))
        durable_ledger.rounds()
        durable_ledger.snapshots()
        yield


def sample(count: int, of: int, seed: object) -> list[int]:
    """`count` of the numbers from 1 to `of`, or all of them if the whole is asked for."""
    return (
        list(range(1, of + 1)) if WHOLE else sorted(random.Random(str(seed)).sample(range(1, of + 1), count))
    )


def acks_in(calls: Sequence[Call]) -> list[bytes]:
    return [call.data for call in calls if call.path.endswith(ACKS)]


@cache
def recorded() -> tuple[Call, ...]:
    """Every call of one undisturbed run."""
    with TemporaryDirectory() as folder:
        done = run_watched(lambda: work(Path(folder) / "a.db"), None, record=True)
    assert done.status == 0
    return tuple(done.calls)


@cache
def crash_images() -> list[tuple[int, int, dict[str, bytes], list[bytes]]]:
    found = list(images(recorded(), range(5 if WHOLE else 2)))
    return found if WHOLE else random.Random(1).sample(found, 60)


def test_whatever_a_kill_or_a_power_cut_leaves_opens_with_all_that_was_acknowledged(tmp_path: Path) -> None:
    assert len(recorded()) > 500
    for place, seed, files, acks in crash_images():
        write_image(tmp_path, files)
        try:
            check(tmp_path / "a.db", acks)
        except BaseException:
            print(f"crash behind call {place} ({recorded()[place].kind}), power cut {seed}")
            raise


def test_without_syncs_a_power_cut_loses_what_was_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: the test above can fail."""
    connect = database.Database._connect

    def careless(self: database.Database) -> database.Connection:
        connection = connect(self)
        connection.execute("PRAGMA synchronous = OFF")
        return connection

    monkeypatch.setattr(database.Database, "_connect", careless)
    (tmp_path / "run").mkdir()
    (tmp_path / "image").mkdir()
    done = run_watched(lambda: work(tmp_path / "run" / "a.db"), None, record=True)
    found = list(images(done.calls, [1]))
    lost = 0
    for _, _, files, acks in random.Random(1).sample(found, 30):
        write_image(tmp_path / "image", files)
        try:
            check(tmp_path / "image" / "a.db", acks)
        except (AssertionError, StoreError):
            lost += 1
    assert lost


@pytest.mark.parametrize("at", sample(6, 300, "kill"))
def test_killed_at_its_nth_write_or_sync_a_node_goes_on_where_it_was(tmp_path: Path, at: int) -> None:
    path = tmp_path / "a.db"
    done = run_watched(lambda: work(path), Fault(at, None))
    assert os.WIFSIGNALED(done.status)
    check(path, acks_in(done.calls))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("at", sample(6, 300, "once"))
def test_after_one_failed_write_or_sync_the_next_try_succeeds(tmp_path: Path, at: int, error: int) -> None:
    path = tmp_path / "a.db"
    done = run_watched(lambda: work(path), Fault(at, error))
    assert (done.status, done.faults) == (0, 1)
    check(path, acks_in(done.calls))
    assert len(acks_in(done.calls)) == len(acks_in(recorded()))


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC], ids=["EIO", "ENOSPC"])
@pytest.mark.parametrize("at", sample(4, 300, "lasting"))
def test_a_disk_that_goes_on_failing_is_told_and_keeps_what_was_acknowledged(
    tmp_path: Path, at: int, error: int
) -> None:
    path = tmp_path / "a.db"

    def told() -> None:
        try:
            work(path)
        except StoreFullError as trouble:
            path.with_name("trouble").write_text(str(trouble))

    done = run_watched(told, Fault(at, error, lasting=True))
    assert done.status == 0
    trouble = path.with_name("trouble").read_text()
    assert str(path) in trouble
    assert "free some space" in trouble
    check(path, acks_in(done.calls))


@pytest.mark.parametrize("at", sample(8, 80, "read"))
def test_a_sector_that_cannot_be_read_is_told_and_never_guessed(aged: Path, at: int) -> None:
    acks = acks_in(recorded())

    def reading() -> None:
        try:
            check(aged, acks)
        except StoreError as trouble:
            aged.with_name("trouble").write_text(str(trouble))

    done = run_watched(reading, Fault(at, errno.EIO, ("read",)))
    assert done.status == 0, "shown wrong, or another error"
    trouble = aged.with_name("trouble")
    # SQLite calls some failed reads damage; either way nothing is shown.
    assert not trouble.exists() or any(
        text in trouble.read_text() for text in ("the disk fails", "is damaged")
    )


@pytest.fixture
def aged(tmp_path: Path) -> Path:
    """The file of a node that was stopped in order."""
    work(tmp_path / "a.db")
    return tmp_path / "a.db"


@pytest.fixture
def crashed(tmp_path: Path) -> Path:
    """The files of a node that was killed: much is in the write-ahead file only."""
    calls = recorded()
    last = max(at for at, call in enumerate(calls) if call.kind == "sync" and call.path.endswith("-wal"))
    *_, (_, _, files, _) = images(calls[: last + 1], [0])
    write_image(tmp_path, files)
    return tmp_path / "a.db"


def told_or_whole(path: Path, acks: list[bytes]) -> bool:
    """Whether the file still shows everything; if not, a `StoreError` names it and says what to do."""
    try:
        check(path, acks)
    except StoreError as error:
        text = str(error)
        assert str(path) in text, text
        assert "move the file away" in text or "name another file" in text or "free some space" in text, text
        return False
    return True


def damaged(path: Path, change: bytes | None, at: int, name: str) -> Path:
    """A copy of the files at `path`, the one of that name cut at `at`, or changed there."""
    folder = path.parent / "damaged"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for each in path.parent.glob("a.db*"):
        shutil.copy(each, folder)
    file = folder / name
    data = bytearray(file.read_bytes())
    if change is None:
        del data[at:]
    else:
        data[at : at + len(change)] = change
    file.write_bytes(data)
    return folder / "a.db"


@pytest.mark.parametrize("state", ["aged", "crashed"])
def test_a_file_cut_short_is_noticed_or_misses_nothing(state: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(state)
    acks = acks_in(recorded()) if state == "aged" else acks_of_crashed()
    for file in sorted(path.parent.glob("a.db*")):
        size = file.stat().st_size
        step = 41 if WHOLE else size // 15 or 1
        cuts = {at + off for at in range(0, size, 4096) for off in (0, 1)} if WHOLE else set()
        for at in sorted({*range(0, size, step), *cuts}):
            try:
                whole = told_or_whole(damaged(path, None, at, file.name), acks)
            except BaseException:
                print(f"{file.name} cut at {at} of {size}")
                raise
            if file.name.endswith("-mark"):
                assert whole
            elif state == "aged":  # a killed node's pages may all be in the write-ahead file
                assert not whole, f"{file.name} cut at {at} of {size}"


def acks_of_crashed() -> list[bytes]:
    calls = recorded()
    last = max(at for at, call in enumerate(calls) if call.kind == "sync" and call.path.endswith("-wal"))
    return acks_in(calls[: last + 1])


@pytest.mark.parametrize("state", ["aged", "crashed"])
def test_flipped_bits_are_noticed_or_change_nothing(state: str, request: pytest.FixtureRequest) -> None:
    path: Path = request.getfixturevalue(state)
    acks = acks_in(recorded()) if state == "aged" else acks_of_crashed()
    files = {file.name: file.read_bytes() for file in sorted(path.parent.glob("a.db*"))}
    noticed = 0
    runs = 4_000 if WHOLE else 70
    for seed in range(runs):
        chance = random.Random(f"{state} {seed}")
        name = chance.choice(sorted(files))
        at = chance.randrange(len(files[name]))
        change = bytes((files[name][at] ^ 1 << chance.randrange(8),))
        if not seed % 7:
            at -= at % 512
            change = bytes(512)  # a sector that came back empty
        try:
            noticed += not told_or_whole(damaged(path, change, at, name), acks)
        except BaseException:
            print(f"{state} {seed}: {name} at {at}")
            raise
    assert noticed, "most of a small file is free space, but not all of it"


def test_a_write_ahead_file_that_lost_its_end_is_told_as_such(crashed: Path) -> None:
    wal = crashed.with_name("a.db-wal")
    cut = damaged(crashed, None, wal.stat().st_size - 1, "a.db-wal")
    with pytest.raises(StoreCorruptError, match="transactions are gone, although they were acknowledged"):
        open_store(cut, ONE)
