# ruff: noqa: PLC0415 - what only one verb needs is imported by it: the others stay quick
"""`millrace bootstrap`: the entry points that operators run."""

from __future__ import annotations

import os
import secrets
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from bootstrap.config import (
    LISTEN_DEFAULT,
    BootstrapConfig,
    load_bootstrap_config,
    prepare_data_dir,
    save_bootstrap_config,
)
from bootstrap.genesis import load_network, save_network
from ledger.core.keys import peer_id
from millrace.cli.frame import Session, refuse, verb

if TYPE_CHECKING:
    from ledger.core.keys import SigningKey

__all__ = ["bootstrap_init_verb", "bootstrap_run_verb"]

NODE_MODULE: Final = "bootstrap.node"
_data = click.option(
    "--data", default="", metavar="DIR", help="The entry point's own folder (key, ledger, settings)."
)


@verb("init")
@_data
@click.option(
    "--listen",
    multiple=True,
    metavar="ADDRESS",
    help=f"Where to listen (default {LISTEN_DEFAULT[0]}); a fixed port, because others write it down.",
)
@click.option("--announce", default="", metavar="ADDRESS", help="The address others reach, if it is another.")
def bootstrap_init_verb(session: Session, data: str, listen: tuple[str, ...], announce: str) -> int:
    """Make the key of an entry point, and print what `network create --witness` wants. Repeating it is safe."""
    config = _config(session, data)
    prepare_data_dir(config.data)
    config = replace(config, listen=listen) if listen else config
    key, made = _key(config)
    if made or listen or not config.settings.exists():
        save_bootstrap_config(config)
    name = peer_id(key.account)
    address = announce or config.listen[0]
    witness = f"{name}@{address}"
    document = {
        "peer_id": name,
        "witness": witness,
        "address": f"{address}/p2p/{name}",
        "listen": list(config.listen),
        "data": str(config.data),
        "created": made,
    }
    session.answer(document, f"peer id  {name}\nwitness  {witness}\ndata     {config.data}")
    if address.startswith(("/ip4/0.0.0.0/", "/ip6/::/")):
        session.say(
            "in the witness line, put this machine's public address in place of 0.0.0.0 (or use --announce)"
        )
    if "/tcp/0" in address:
        session.say("port 0 means any free port: nobody can know it; give one with --listen")
    session.say(f"next: millrace network create NAME --witness {witness} … then: millrace bootstrap run")
    return 0


@verb("run")
@_data
@click.option(
    "--network", "network_path", default="", metavar="FILE", help="The network file; kept for later runs."
)
@click.option("--log", "log_level", type=click.Choice(["debug", "info", "warning", "error"]), default=None)
def bootstrap_run_verb(session: Session, data: str, network_path: str, log_level: str | None) -> int:
    """Run the entry point here until SIGTERM or Ctrl-C: DHT server, and witness if the network names it one.

    With --json, one line says that it is ready and where it listens. Logs go to standard error.
    """
    config = _config(session, data)
    if not config.key.exists():
        refuse("this entry point has no key yet", f"{config.key} does not exist", "millrace bootstrap init")
    prepare_data_dir(config.data)
    if network_path:
        network = load_network(Path(network_path).expanduser())
        if config.network.exists() and load_network(config.network).network_id != network.network_id:
            refuse(
                f"{config.data} belongs to another network",
                "a witness's votes and ledger are of one network",
                "use another --data DIR",
            )
        save_network(config.network, network)
    load_network(config.network)
    command = [sys.executable, "-m", NODE_MODULE, "--data", str(config.data)]
    command += ["--json"] if session.json else []
    command += ["--log", log_level] if log_level else []
    sys.stdout.flush()
    os.execv(command[0], command)  # noqa: S606 - our own interpreter; the node takes this process over


def _config(session: Session, data: str) -> BootstrapConfig:
    return load_bootstrap_config(Path(data).expanduser().absolute() if data else session.paths.bootstrap)


def _key(config: BootstrapConfig) -> tuple[SigningKey, bool]:
    from p2p.identity import create_identity, load_identity

    if config.key.exists() or config.key.is_symlink():
        return load_identity(config.key), False
    return create_identity(config.key, secrets.token_bytes(32)), True
