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
    read_listen,
    save_bootstrap_config,
)
from bootstrap.genesis import check_bootstrap_address, load_network, save_network
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
    if listen:
        try:
            config = replace(config, listen=read_listen(listen))
        except ValueError as error:
            raise click.BadParameter(f"{listen[0]!r}: {error}", param_hint="--listen") from error
    prepare_data_dir(config.data)
    key, made = _key(config)
    name = peer_id(key.account)
    address = announce or config.listen[0]
    witness = f"{name}@{address}"
    try:
        check_bootstrap_address(f"{address}/p2p/{name}")
    except ValueError as error:
        raise click.BadParameter(
            f"{address!r} is not an address such as /ip4/192.0.2.1/tcp/4710", param_hint="--announce"
        ) from error
    if made or listen or not config.settings.exists():
        save_bootstrap_config(config)
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
    session.say(
        f"next, once for the network: millrace network create NAME --witness {witness} --limit PEERID=CREDITS"
        "\nthen, here: millrace bootstrap run --network NAME.toml"
    )
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
    if not config.network.exists():
        refuse(
            "this entry point has no network yet",
            f"{config.network} does not exist",
            "millrace bootstrap run --network FILE (made once for all: millrace network create --help)",
        )
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
