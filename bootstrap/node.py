"""An entry point at work: DHT server, and witness if its network names it one (SPEC.md §8, §9).

`run_bootstrap` is its whole life; `python -m bootstrap.node --data DIR` runs it with signals, a log on standard
error and one line on standard output when it is ready. What a peer does never ends it. It runs nobody's tasks
and holds no money.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import logging
import os
import signal
import sys
import time
from contextlib import AsyncExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import trio

from bootstrap.config import (
    LOG_LEVELS,
    BootstrapConfig,
    BootstrapConfigError,
    load_bootstrap_config,
    prepare_data_dir,
)
from bootstrap.consensus import ConsensusLinks
from bootstrap.duty import Duty
from bootstrap.errors import OperatorError
from bootstrap.genesis import NetworkFile, check_bootstrap_address, load_network
from ledger.archive import Archive
from ledger.core.keys import AccountId, SigningKey, peer_id
from ledger.core.requests import ANSWER_BYTES_MAX, REQUEST_BYTES_MAX
from ledger.service import LedgerService
from ledger.store import StoreError, open_store
from p2p.core.errors import IdentityError, ListenError, LocalProtocolError
from p2p.identity import load_identity
from p2p.mesh import Mesh, MeshConfig, open_mesh

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["LEDGER", "STOP_S", "Ready", "clock_ms", "main", "run_bootstrap"]

LEDGER: Final = "ledger"
"""The name under which ledger requests are served: /millrace/<network>/ledger/1."""
LOCK_NAME: Final = "node.lock"
STOP_S: Final = 8
"""How long an orderly shutdown may take before what is left is cut off."""
FAILED: Final = 1
USAGE: Final = 2
NETWORK: Final = 8

KNOWN_ERRORS: Final = (
    OperatorError,
    IdentityError,
    ListenError,
    LocalProtocolError,
    StoreError,
)

_log = logging.getLogger("millrace.bootstrap")


@dataclass(frozen=True, slots=True)
class Ready:
    """What stands once an entry point answers."""

    account: AccountId
    addresses: tuple[str, ...]
    network: NetworkFile
    is_witness: bool

    def document(self) -> dict[str, Any]:
        """The line that `--json` prints."""
        return {
            "schema": 1,
            "event": "ready",
            "peer_id": peer_id(self.account),
            "addresses": list(self.addresses),
            "network": self.network.name,
            "network_id": self.network.network_id.hex(),
            "witness": self.is_witness,
            "pid": os.getpid(),
        }


def clock_ms() -> int:
    """Wall time, for signatures and block times."""
    return time.time_ns() // 1_000_000


async def run_bootstrap(config: BootstrapConfig, *, ready: Callable[[Ready], None] | None = None) -> None:
    """Run one entry point until it is cancelled; `ready` is called once peers can reach it.

    Raises `BootstrapConfigError`, `NetworkFileError`, `IdentityError`, `ListenError`, `StoreError` when it cannot
    start. Whatever happens, no task, socket or lock of it is left.
    """
    prepare_data_dir(config.data)
    key = load_identity(config.key)
    network = load_network(config.network)
    with _claimed(config):
        async with AsyncExitStack() as rooms:
            store = rooms.enter_context(closing(open_store(config.ledger, network.genesis)))
            archive = Archive(store)
            others = tuple(
                text for text in network.bootstrap if check_bootstrap_address(text)[1] != key.account
            )
            mesh_config = MeshConfig(
                data_dir=config.data,
                listen=config.listen,
                bootstrap=others,
                mdns=config.mdns,
                dht_server=True,
            )
            mesh = await rooms.enter_async_context(
                open_mesh(mesh_config, key, network.network_id, clock_ms=clock_ms)
            )
            for text in others:
                mesh.host.add_addresses(check_bootstrap_address(text)[1], [text])
            await _serve(mesh, archive, key, network, ready)


async def _serve(
    mesh: Mesh, archive: Archive, key: SigningKey, network: NetworkFile, ready: Callable[[Ready], None] | None
) -> None:
    """Everything that runs while the entry point stands, in one nursery."""

    async def request(account: AccountId, body: bytes, timeout_s: float) -> bytes:
        return await mesh.requests.request(account, LEDGER, body, timeout_s, body_bytes_max=ANSWER_BYTES_MAX)

    entry_points = tuple(check_bootstrap_address(text)[1] for text in network.bootstrap)
    links = ConsensusLinks(mesh.host, key.account)
    duty = Duty(key, archive, links, request, clock_ms, entry_points=entry_points)
    service = LedgerService(archive, duty.submit_all, duty.waiting, lambda: duty.trouble)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(links.run, duty.receive)
        nursery.start_soon(duty.run)
        nursery.start_soon(archive.scrub)
        mesh.requests.serve(
            LEDGER, service.answer, body_bytes_max=ANSWER_BYTES_MAX, question_bytes_max=REQUEST_BYTES_MAX
        )
        if ready is not None:
            ready(Ready(key.account, mesh.host.addresses, network, duty.is_witness))


@contextmanager
def _claimed(config: BootstrapConfig) -> Iterator[None]:
    """Own the data folder while the block runs: a witness that ran twice would contradict its own votes."""
    handle = os.open(config.data / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BootstrapConfigError(
                f"another entry point uses {config.data}",
                "its lock is held by a running process",
                "stop that one, or give this one its own --data DIR",
            ) from error
        yield
    finally:
        os.close(handle)


class _LogLine(logging.Formatter):
    """One line per record, as `time level part: text`; with `as_json` one JSON object instead."""

    def __init__(self, *, as_json: bool) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
        self._as_json = as_json

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        if not self._as_json:
            return super().format(record)
        line = {
            "time_ms": int(record.created * 1000),
            "level": record.levelname.lower(),
            "part": record.name,
            "text": record.getMessage(),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


async def _run_until_told(config: BootstrapConfig, ready: Callable[[Ready], None]) -> None:
    """`run_bootstrap` until SIGTERM, SIGINT or SIGHUP; what is not gone STOP_S later is ended by SIGALRM."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                async for number in signals:
                    _log.info("%s: stopping", signal.Signals(number).name)
                    signal.alarm(STOP_S)  # the kernel's: it also ends a loop that hangs
                    nursery.cancel_scope.cancel()
                    return

            nursery.start_soon(watch)
            try:
                await run_bootstrap(config, ready=ready)
            finally:
                nursery.cancel_scope.cancel()
    signal.alarm(0)


def _announce(ready: Ready, *, as_json: bool) -> None:
    if as_json:
        text = json.dumps(ready.document())
    else:
        kind = "witness" if ready.is_witness else "entry point"
        text = "\n".join((f"{kind} of {ready.network.name} is up", *ready.addresses))
    print(text, flush=True)


def main(argv: list[str] | None = None) -> int:
    """`python -m bootstrap.node`: the exit code."""
    parser = argparse.ArgumentParser(
        prog="bootstrap.node", description="Run an entry point of a millrace network."
    )
    parser.add_argument("--data", type=Path, required=True, help="the folder with its key and network file")
    parser.add_argument("--log", choices=LOG_LEVELS, default=None)
    parser.add_argument("--json", action="store_true", help="one JSON line when ready; the log as JSON lines")
    arguments = parser.parse_args(argv)
    try:
        config = load_bootstrap_config(arguments.data.absolute())
        if arguments.log:
            config = replace(config, log=arguments.log)
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(_LogLine(as_json=arguments.json))
        logging.basicConfig(level=config.log.upper(), handlers=[handler])
        trio.run(_run_until_told, config, lambda ready: _announce(ready, as_json=arguments.json))
    except KNOWN_ERRORS as error:
        return _explain(error, arguments.data, as_json=arguments.json)
    except BaseExceptionGroup as group:
        known = group.subgroup(KNOWN_ERRORS)
        if known is None:
            raise
        return _explain(_first(known), arguments.data, as_json=arguments.json)
    return 0


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single error of a group, however deep."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _explain(error: BaseException, data: Path, *, as_json: bool) -> int:
    """Say why the entry point could not start or go on; the exit code."""
    if isinstance(error, OperatorError):
        return _fail(as_json, USAGE, error.what, error.why, error.next_step)
    if isinstance(error, ListenError):
        what, fix = "the entry point cannot listen", f"change listen in {data / 'bootstrap.toml'}"
        return _fail(as_json, NETWORK, what, str(error), fix)
    if isinstance(error, StoreError):
        what, fix = "the ledger file cannot be used", f"ls -l {data}; a witness never starts from an old copy"
        return _fail(as_json, FAILED, what, str(error), fix)
    return _fail(as_json, USAGE, "the entry point cannot start", str(error), "millrace bootstrap init --help")


def _fail(as_json: bool, code: int, what: str, why: str, next_step: str) -> int:
    if as_json:
        document = {
            "schema": 1,
            "error": {"code": "failed", "exit_code": code, "what": what, "why": why, "next": next_step},
        }
        print(json.dumps(document), flush=True)
    else:
        print(f"millrace: {what}\n  why:  {why}\n  next: {next_step}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
