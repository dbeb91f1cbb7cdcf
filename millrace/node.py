"""The node daemon: one peer's whole life, from the lock on its data folder to the last closed socket.

`run_node` runs it; `python -m millrace.node` adds signals, a log and exit codes. What a peer or a client does
never ends it; a room of its own that fails does, with a message that says which.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, Final

import trio

from bootstrap.genesis import NetworkFileError
from ledger.core.keys import peer_id
from ledger.store import StoreError
from millrace.answers import Answers
from millrace.api import api_serving
from millrace.config import load_config
from millrace.datadir import claimed
from millrace.errors import MillraceError, NetworkTrouble, UsageError
from millrace.journal import JournalError
from millrace.paths import find_paths
from millrace.rooms import Node, open_node
from p2p.core.errors import IdentityError, ListenError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from executor.runner import Runner
    from millrace.config import NodeConfig
    from millrace.rental import Runner as UnitRunner

__all__ = ["FINISH_S", "STOP_S", "Node", "main", "run_node"]

STOP_S: Final = 8.0
"""How long an orderly shutdown may take before what is left is cut off."""
FINISH_S: Final = 600.0
"""How long `stop` with `finish` waits for leases in hand and their claims."""
FINISH_LOOK_S: Final = 0.25
WITHDRAW_S: Final = 1.0
KNOWN_ERRORS: Final = (
    MillraceError,
    NetworkFileError,
    IdentityError,
    ListenError,
    LocalProtocolError,
    StoreError,
    JournalError,
)
"""What ends a node with a message instead of a traceback."""

_log = logging.getLogger("millrace")


async def run_node(
    config: NodeConfig,
    *,
    runner_wrap: Callable[[Runner], UnitRunner] | None = None,
    ready: Callable[[Node], None] | None = None,
) -> None:
    """Run one node until it is stopped: by its local API, by cancelling, or by a room of its own that fails.

    `runner_wrap` may put something around the runner that works for others (the demo's lying worker does);
    `ready` is called once the local API answers. Raises `MillraceError` and the rooms' own errors; whatever
    happens, no socket, lock, task or process of this node is left.
    """
    with claimed(config.paths), trio.CancelScope() as life:
        async with (
            open_node(config, runner_wrap) as node,
            api_serving(config.api.socket, Answers(node).table()),
        ):
            _log.info("node %s answers on %s", peer_id(node.account), config.api.socket)
            if ready is not None:
                ready(node)
            await node.stopping.wait()
            await _finish(node)
            _log.info("stopping")
            life.deadline = trio.current_time() + STOP_S
            await _leave_market(node)


async def _finish(node: Node) -> None:
    """Let leases and jobs in hand end, and the claims settle: for at most FINISH_S, and not once hurried."""
    if node.hurried.is_set():
        return
    _log.info("finishing what is in hand")
    if node.lending is not None:
        node.lending.drain()
    async with trio.open_nursery() as nursery:

        async def wait_for_hurry() -> None:
            await node.hurried.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_for_hurry)
        nursery.cancel_scope.deadline = trio.current_time() + FINISH_S
        # A look now and then: leases and jobs end in many places, and nobody waits for this in a hurry.
        while (  # noqa: ASYNC110
            node.lending is not None and node.lending.server.active
        ) or node.purchases.running:
            await trio.sleep(FINISH_LOOK_S)
        await node.settler.settle_all(FINISH_S)
        nursery.cancel_scope.cancel()


async def _leave_market(node: Node) -> None:
    """Take the advert back, so that nobody asks a node that is gone."""
    if node.lending is not None:
        node.lending.drain()
        with trio.move_on_after(WITHDRAW_S):
            await node.mesh.withdraw_advert()


def main(
    argv: Sequence[str] | None = None, *, runner_wrap: Callable[[Runner], UnitRunner] | None = None
) -> int:
    """Run the node that the arguments and the environment mean, until SIGTERM or SIGINT; its exit code."""
    parser = argparse.ArgumentParser(prog="python -m millrace.node", description="Run one millrace node.")
    parser.add_argument("--profile", default="", help="another node of the same user")
    parser.add_argument("--config", default="", metavar="FILE", help="another configuration file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="one setting")
    arguments = parser.parse_args(argv)
    try:
        config = load_config(
            find_paths(os.environ, arguments.profile, arguments.config), os.environ, _settings(arguments.set)
        )
        _start_log(config.log.level)
        trio.run(_run_until_told, config, runner_wrap)
    except KNOWN_ERRORS as error:
        return _report(error)
    except BaseExceptionGroup as group:
        known = group.subgroup(KNOWN_ERRORS)
        if known is None:
            raise
        return _report(_first(known))
    return 0


async def _run_until_told(config: NodeConfig, runner_wrap: Callable[[Runner], UnitRunner] | None) -> None:
    """`run_node`, ended in order by the first signal and at once by the second."""
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            begun: list[Node] = []

            async def listen() -> None:
                async for number in signals:
                    _log.info("%s: stopping", signal.Signals(number).name)
                    if not begun or begun[0].hurried.is_set():
                        nursery.cancel_scope.cancel()
                    else:
                        begun[0].stop()

            nursery.start_soon(listen)
            await run_node(config, runner_wrap=runner_wrap, ready=begun.append)
            nursery.cancel_scope.cancel()


def _settings(pairs: Sequence[str]) -> dict[str, str]:
    settings = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise UsageError(f"{pair!r} is not a setting", "a setting is KEY=VALUE", "--set share.cpu=25%")
        settings[key.strip()] = value.strip()
    return settings


def _start_log(level: str) -> None:
    logging.basicConfig(
        level=level.upper(),
        stream=sys.stderr,
        format="%(asctime)s.%(msecs)03d %(levelname)-7s %(name)s: %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%S",
    )
    logging.Formatter.converter = time.gmtime
    # The library logs what peers do wrong as its own errors; ours say it once, where it matters.
    for name in ("libp2p", "async_service", "anyio_service", "zeroconf"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first single error of a group, however deep."""
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


def _report(error: BaseException) -> int:
    """Say on standard error why the node could not start or go on; the exit code."""
    named = _named(error)
    lines = [f"millrace: {named.what}", *(f"  - {reason}" for reason in named.reasons)]
    lines += [f"  why:  {named.why}"] if named.why else []
    lines += [f"  next: {named.next_step}"] if named.next_step else []
    print("\n".join(lines), file=sys.stderr, flush=True)
    return named.exit_code


def _named(error: BaseException) -> MillraceError:
    match error:
        case MillraceError():
            return error
        case NetworkFileError():
            return UsageError(error.what, error.why, error.next_step)
        case ListenError():
            return NetworkTrouble(
                "the node cannot listen", str(error), "change network.listen in config.toml"
            )
        case StoreError() | JournalError():
            return MillraceError("a database of the node cannot be used", str(error), "see `millrace doctor`")
        case IdentityError():
            return UsageError("the node's key cannot be used", str(error), "see `millrace key show`")
        case _:
            return MillraceError("the node cannot go on", f"{type(error).__name__}: {error}", "see its log")


if __name__ == "__main__":
    sys.exit(main())
