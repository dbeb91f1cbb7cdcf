"""Compiled modules on disk: found again, and never trusted when damaged (SPEC.md §13.2)."""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING

import pytest

from executor.cache import Cache, CacheError
from executor.core.limits import Limits
from executor.core.outcome import Status
from executor.core.task import WasmTask
from executor.runner import RunnerConfig, open_runner
from tests.shell.executor import wat_modules as modules

if TYPE_CHECKING:
    from pathlib import Path

SHA = hashlib.sha256(b"module").digest()


def test_what_was_saved_is_found(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", "key")
    assert cache.load(SHA) is None
    cache.save(SHA, b"\n{compiled}\n", ("_start", "ü\n"))
    assert cache.load(SHA) == (b"\n{compiled}\n", ("_start", "ü\n"))
    assert Cache(tmp_path / "c", "other key").load(SHA) is None
    cache.save_module(SHA, b"module")
    assert cache.load_module(SHA) == b"module"
    assert (tmp_path / "c").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "c").iterdir()} == {0o600}


def test_every_damaged_byte_is_noticed(tmp_path: Path) -> None:
    cache = Cache(tmp_path, "key") if tmp_path.chmod(0o700) is None else None
    assert cache is not None
    cache.save(SHA, b"compiled", ("f",))
    path = next(tmp_path.iterdir())
    whole = path.read_bytes()
    for at in range(len(whole)):
        path.write_bytes(whole[:at] + bytes((whole[at] ^ 1,)) + whole[at + 1 :])
        assert cache.load(SHA) is None
        path.write_bytes(whole[:at])
        assert cache.load(SHA) is None
    assert not path.exists()
    cache.save_module(SHA, b"another module")
    assert cache.load_module(SHA) is None


def test_the_oldest_goes_first(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c", "key", bytes_max=1000)
    hashes = [bytes((number,)) * 32 for number in range(5)]
    for number, sha256 in enumerate(hashes):
        cache.save_module(sha256, bytes(300))
        for path in (tmp_path / "c").glob(f"{sha256.hex()}*"):
            os.utime(path, (number, number))
    kept = {path.name[:2] for path in (tmp_path / "c").iterdir()}
    assert kept == {"02", "03", "04"}


def test_a_folder_that_others_can_reach_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    folder.mkdir(mode=0o755)
    with pytest.raises(CacheError, match="chmod 700"):
        Cache(folder, "key")
    (tmp_path / "link").symlink_to(folder)
    with pytest.raises(CacheError, match="not a folder"):
        Cache(tmp_path / "link", "key")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(CacheError, match="cannot be made"):
        Cache(tmp_path / "file", "key")


async def test_a_damaged_or_useless_compiled_form_is_made_again(tmp_path: Path) -> None:
    folder = tmp_path / "c"
    config = RunnerConfig(cache_dir=folder)
    async with open_runner(config) as runner:
        prepared = await runner.prepare(modules.HELLO)
    path = next(folder.glob("*.cwasm"))
    good = path.read_bytes()
    key = path.stem.split("-")[1]
    task = WasmTask(prepared.sha256, limits=Limits(wall_s=5))
    for damage in ("flipped", "not machine code of this engine"):
        if damage == "flipped":
            path.write_bytes(good[:-1] + bytes((good[-1] ^ 1,)))
        else:
            Cache(folder, key).save(prepared.sha256, b"ELF of another engine", ("_start",))
        async with open_runner(config) as runner:
            assert (await runner.run(task)).status is Status.OK, damage
        assert path.read_bytes()[:20] == good[:20]
        assert len(path.read_bytes()) == len(good), damage
