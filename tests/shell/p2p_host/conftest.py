"""Real hosts on loopback, and the check that every test ends with."""

from __future__ import annotations

import gc
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import trio

from p2p.host import Host, HostConfig, open_host
from tests.shell.p2p_host.support import NETWORK, Factory, new_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ledger.core.keys import SigningKey


@pytest.fixture(autouse=True)
def no_leaked_descriptors() -> Iterator[None]:
    """Every test gives back the sockets it took."""
    before = _descriptors()
    yield
    if _descriptors() > before:
        gc.collect()  # a connection in a reference cycle is closed by then, with a warning that fails the test
    assert _descriptors() <= before


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.fixture
def make_host(nursery: trio.Nursery) -> Factory:
    """A factory of hosts, each in a task of its own, that are cancelled at the end of the test."""

    async def make(key: SigningKey | None = None, **changes: object) -> Host:
        async def run(task_status: trio.TaskStatus[Host]) -> None:
            async with open_host(replace(HostConfig(), **changes), key or new_key(), NETWORK) as host:
                task_status.started(host)
                await trio.sleep_forever()

        host: Host = await nursery.start(run)
        return host

    return make
