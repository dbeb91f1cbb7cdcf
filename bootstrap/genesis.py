"""The network file: everything a peer must know to join a network, and to check its receipts (SPEC.md §8).

It is TOML with five keys. The genesis record inside is the truth; `name` and `network_id` repeat it for human
eyes and are refused when they disagree. Loading is strict, saving is atomic.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bootstrap.errors import OperatorError
from ledger.core.encoding import NetworkId, WireError
from ledger.core.genesis import Genesis
from p2p.core.addresses import parse_address

if TYPE_CHECKING:
    from pathlib import Path

    from ledger.core.committee import Committee
    from ledger.core.keys import AccountId

__all__ = [
    "BOOTSTRAP_MAX",
    "NETWORK_FILE_BYTES_MAX",
    "NETWORK_FILE_SCHEMA",
    "NetworkFile",
    "NetworkFileError",
    "check_bootstrap_address",
    "fault_line",
    "format_network",
    "load_network",
    "parse_network",
    "save_network",
]

NETWORK_FILE_SCHEMA: Final = 1
NETWORK_FILE_BYTES_MAX: Final = 256 << 10
BOOTSTRAP_MAX: Final = 32
"""As many as a node dials (p2p.discovery)."""
_KEYS: Final = {"schema": int, "name": str, "network_id": str, "genesis": str, "bootstrap": list}


class NetworkFileError(OperatorError):
    """A network file cannot be used."""


@dataclass(frozen=True, slots=True)
class NetworkFile:
    """A network: its genesis record, and addresses (`/ip4/…/tcp/…/p2p/12D3Koo…`) where a new peer may knock."""

    genesis: Genesis
    bootstrap: tuple[str, ...]

    @property
    def name(self) -> str:
        """The network's name, as in its genesis record."""
        return self.genesis.name

    @property
    def network_id(self) -> NetworkId:
        """SHA-256 of the genesis record: part of every signature made on this network."""
        return self.genesis.network_id


def parse_network(text: str, where: str = "the network file") -> NetworkFile:
    """The network that `text` describes (SPEC.md §8); any other text is a `NetworkFileError`."""
    try:
        document = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _refused(where, f"it is not TOML ({error})") from error
    for key, kind in _KEYS.items():
        if key not in document:
            raise _refused(where, f"it has no {key!r}")
        if type(document[key]) is not kind:
            raise _refused(where, f"its {key!r} is not {'a list' if kind is list else kind.__name__}")
    if unknown := sorted(set(document) - set(_KEYS)):
        raise _refused(where, f"it has {unknown[0]!r}, which no network file has")
    if document["schema"] != NETWORK_FILE_SCHEMA:
        raise NetworkFileError(
            f"{where} cannot be used",
            f"it has schema {document['schema']}, this millrace reads {NETWORK_FILE_SCHEMA}",
            "install a newer millrace: pip install --upgrade millrace",
        )
    try:
        genesis = Genesis.decode(base64.b64decode(document["genesis"], validate=True))
    except (binascii.Error, WireError, ValueError) as error:
        raise _refused(where, f"its genesis record cannot be read ({error})") from error
    if document["network_id"] != genesis.network_id.hex():
        raise _refused(where, "its network_id is not the hash of its genesis record: it was altered")
    if document["name"] != genesis.name:
        raise _refused(where, f"it is named {document['name']!r}, its genesis record {genesis.name!r}")
    return NetworkFile(genesis, _bootstrap_list(document["bootstrap"], where))


def format_network(network: NetworkFile) -> str:
    """The network file's text: `parse_network` reads it back to an equal value."""
    genesis = network.genesis
    # JSON text is valid TOML text: both quote the same way, and neither leaves a control character bare.
    addresses = "".join(f"  {json.dumps(address)},\n" for address in network.bootstrap)
    return (
        "# A millrace network. Give this file to whoever should join: millrace network join FILE\n"
        f"# {fault_line(genesis.committee)}\n"
        f"schema = {NETWORK_FILE_SCHEMA}\n"
        f"name = {json.dumps(genesis.name)}\n"
        f'network_id = "{genesis.network_id.hex()}"\n'
        f'genesis = "{base64.b64encode(genesis.encode()).decode()}"\n'
        f"bootstrap = [\n{addresses}]\n"
    )


def load_network(path: Path) -> NetworkFile:
    """The network file at `path`; `NetworkFileError` when it is missing, unreadable or not strictly valid."""
    try:
        with path.open("rb") as file:
            data = file.read(NETWORK_FILE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise NetworkFileError(
            f"there is no network file at {path}",
            "a peer needs it to know which network it belongs to",
            "join one: millrace network join FILE (or make one: millrace network create --help)",
        ) from error
    except OSError as error:
        raise NetworkFileError(
            f"cannot read the network file {path}", error.strerror or "the system refused", f"ls -l {path}"
        ) from error
    if len(data) > NETWORK_FILE_BYTES_MAX:
        raise _refused(str(path), f"it is longer than {NETWORK_FILE_BYTES_MAX} bytes")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        raise _refused(str(path), "it is not UTF-8 text") from error
    return parse_network(text, str(path))


def save_network(path: Path, network: NetworkFile) -> None:
    """Write the network file; a crash leaves the old file or the new one. Raises `NetworkFileError`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        # 1. all bytes in a file beside, on disk; 2. one rename; 3. the folder on disk.
        with beside.open("w", encoding="utf-8") as file:
            file.write(format_network(network))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise NetworkFileError(
            f"cannot write the network file {path}",
            error.strerror or "the system refused",
            f"ls -ld {path.parent}",
        ) from error


def check_bootstrap_address(text: object) -> tuple[str, AccountId]:
    """An entry point's address and the account it names (R8.10); `ValueError` for anything else."""
    address = parse_address(text) if isinstance(text, str) else None
    if address is None or address.account is None or address.relay is not None:
        raise ValueError(f"{str(text)[:80]!r} is not an address such as /ip4/192.0.2.1/tcp/4710/p2p/12D3Koo…")
    return address.text, address.account


def fault_line(committee: Committee) -> str:
    """One sentence on what a committee of witnesses tolerates, and what it does not."""
    count = committee.n
    noun = "1 witness" if count == 1 else f"{count} witnesses"
    if committee.faults == 0:
        needed = "it is" if count == 1 else f"{committee.quorum} of them are"
        return (
            f"{noun}, no fault tolerated: nothing settles unless {needed} there;"
            " a lie is noticed, not outvoted (4 tolerate one)"
        )
    return f"{noun} tolerate {committee.faults} that are away or lie; {committee.quorum} must agree"


def _bootstrap_list(items: list[object], where: str) -> tuple[str, ...]:
    if len(items) > BOOTSTRAP_MAX:
        raise _refused(where, f"it lists {len(items)} entry points, at most {BOOTSTRAP_MAX} are read")
    try:
        checked = [check_bootstrap_address(item)[0] for item in items]
    except ValueError as error:
        raise _refused(where, f"its entry point {error}") from error
    if len(set(checked)) != len(checked):
        raise _refused(where, "it lists an entry point twice")
    return tuple(checked)


def _refused(where: str, why: str) -> NetworkFileError:
    return NetworkFileError(
        f"{where} cannot be used", why, "ask whoever runs the network for the file again, and copy it whole"
    )
