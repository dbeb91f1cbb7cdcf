"""A sandboxed child is distrusted like a peer: whatever it says, the node's units end and the node lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import trio

from executor import sandbox, zygote
from executor.core.limits import Limits
from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from executor.runner import ModuleRefused, RunnerConfig, _read_verdict, open_runner
from executor.zygote import ChildError
from tests.shell.executor import wat_modules as modules

if TYPE_CHECKING:
    from pathlib import Path


# Says "ready", waits for a unit, then misbehaves.
CHILD = """
import os, sys, time
def say(body): os.write(1, len(body).to_bytes(4, "big") + body)
while len(os.read(0, 1 << 16)) == 1 << 16: pass
say(b"ready")
os.read(0, 1 << 16)
{misdeed}
time.sleep(100)
"""
MISDEEDS = {
    "a frame that is too long": ('os.write(1, b"\\xff\\xff\\xff\\xff")', Status.CRASHED),
    "an outcome that is none": ('say((1).to_bytes(4, "big") + b"garbage")', Status.CRASHED),
    "the end": ("os._exit(3)", Status.CRASHED),
    "half a frame and the end": ('os.write(1, b"\\0\\0\\0\\x50abc"); os._exit(0)', Status.CRASHED),
    "a flood for units that nobody asked for": (
        'while True: say((7).to_bytes(4, "big") + bytes(60000))',
        Status.CRASHED,
    ),
    "nothing": ("", Status.TIMEOUT),
}


async def test_misdeeds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zygote, "GRACE_S", 0.2)
    config = RunnerConfig(cache_dir=tmp_path / "c", idle_s=1000)
    async with open_runner(config) as runner:
        sha256 = (await runner.prepare(modules.HELLO)).sha256
    task = WasmTask(sha256, limits=Limits(wall_s=0.3))
    outcomes: dict[str, Outcome] = {}
    for name, (misdeed, _) in MISDEEDS.items():
        async with open_runner(config) as runner:  # the self-test needs the true child
            with monkeypatch.context() as patch, trio.fail_after(10):
                patch.setattr(sandbox, "_BOOT", CHILD.format(misdeed=misdeed))
                outcomes[name] = await runner.run(task)
    assert {name: outcome.status for name, outcome in outcomes.items()} == {
        name: status for name, (_, status) in MISDEEDS.items()
    }
    assert not any(outcome.output or outcome.fuel for outcome in outcomes.values())
    async with open_runner(config) as runner:
        assert (await runner.run(WasmTask(sha256))).output == b"hello\n"


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"{",
        b"[" * 100_000,
        b"[]",
        b"null",
        b'{"exports": [1]}',
        b'{"exports": "x"}',
        b'{"error": 1}',
        b'{"exports": [' + b'"",' * 400_000 + b'""]}',
    ],
    ids=["empty", "half", "deep", "list", "null", "number", "text", "error", "long"],
)
def test_a_compiling_child_that_says_nonsense(answer: bytes) -> None:
    with pytest.raises(ChildError):
        _read_verdict(answer)


def test_a_compiling_child_that_refuses() -> None:
    with pytest.raises(ModuleRefused, match="no such import"):
        _read_verdict(b'{"error": "no such import"}')
    assert _read_verdict(b'{"exports": ["_start"]}') == ("_start",)
