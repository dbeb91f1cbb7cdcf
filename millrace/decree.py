"""The decree file: what a network's governors decide, on its way from one to the next (SPEC.md §15).

Somebody drafts it, each governor adds an approval, anybody submits it. It is TOML whose fields are the decree: what
governors sign is computed from them, so that nobody signs other bytes than those that were read.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import tomllib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from bootstrap.errors import OperatorError
from ledger.core.actions import decree_body
from ledger.core.amounts import format_credits, parse_credits
from ledger.core.encoding import Kind, NetworkId, WireError
from ledger.core.entries import NO_APPROVALS, Decree, Limit, Param, Rotate, sign_decree
from ledger.core.keys import account_from_peer_id, peer_id, verify
from ledger.core.params import Params

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from ledger.core.keys import AccountId, SigningKey

__all__ = [
    "DECREE_FILE_BYTES_MAX",
    "DecreeError",
    "DecreeFile",
    "decree_fields",
    "format_decree",
    "load_decree",
    "parse_decree",
    "save_decree",
]

DECREE_FILE_BYTES_MAX: Final = 64 << 10
DECREE_FILE_SCHEMA: Final = 1
_HEAD: Final[dict[str, type]] = {
    "schema": int,
    "network": str,
    "network_id": str,
    "decree": int,
    "kind": str,
    "approvals": dict,
}
_FIELDS: Final[dict[str, dict[str, type]]] = {
    "limit": {"account": str, "change": str},
    "rotate": {"witnesses": list},
    "param": {
        "from_height": int,
        "version": int,
        "fee_min": str,
        "dispute_fee": str,
        "slot_timeout_ms": int,
    },
}


class DecreeError(OperatorError):
    """A decree file cannot be used."""


@dataclass(frozen=True, slots=True)
class DecreeFile:
    """A decree of one network, without approvals inside, and the signatures that it has so far by governor."""

    network: str
    network_id: NetworkId
    decree: Decree
    signatures: Mapping[AccountId, bytes]

    def signed_by(self, governor: AccountId, key: SigningKey) -> DecreeFile:
        """The same with `governor`'s approval, made with the key that its account has now."""
        signature = sign_decree(key, self.network_id, self.decree)
        return replace(self, signatures={**self.signatures, governor: signature})

    def joined(self, other: DecreeFile) -> DecreeFile:
        """The approvals of both; `DecreeError` if they are not files of one decree."""
        if (self.network_id, self.decree) != (other.network_id, other.decree):
            raise DecreeError(
                "these files do not hold one decree",
                "governors who sign copies must sign copies of the same file",
                "compare them: millrace decree show FILE",
            )
        return replace(self, signatures={**self.signatures, **other.signatures})

    def is_signed_by(self, governor: AccountId, key: AccountId) -> bool:
        """Whether the file holds `governor`'s approval, by `key`."""
        signature = self.signatures.get(governor, b"")
        return verify(key, signature, Kind.DECREE, self.network_id, decree_body(self.decree))


def parse_decree(text: str, where: str = "the decree") -> DecreeFile:
    """The decree that `text` describes; any other text is a `DecreeError`."""
    try:
        document = tomllib.loads(text)
        kind = str(document.get("kind"))
        if kind not in _FIELDS:
            raise ValueError(f"its kind is {kind[:40]!r}; there are {', '.join(_FIELDS)}")
        _check_fields(document, {**_HEAD, **_FIELDS[kind]})
        if document["schema"] != DECREE_FILE_SCHEMA:
            raise ValueError(f"it has schema {document['schema']}, this millrace reads {DECREE_FILE_SCHEMA}")
        network_id = bytes.fromhex(document["network_id"])
        if len(network_id) != 32:
            raise ValueError("its network_id is not 64 hex digits")
        decree = _decree(kind, document["decree"], document)
        signatures = {
            account_from_peer_id(name): _signature(value) for name, value in document["approvals"].items()
        }
    except (tomllib.TOMLDecodeError, WireError, ValueError, RecursionError) as error:
        raise DecreeError(
            f"{where} cannot be used",
            str(error),
            "ask whoever drafted it for the file again, and copy it whole",
        ) from error
    return DecreeFile(document["network"], NetworkId(network_id), decree, signatures)


def format_decree(file: DecreeFile) -> str:
    """The decree file's text: `parse_decree` reads it back to an equal value."""
    kind, fields = decree_fields(file.decree)
    # JSON text is valid TOML text: both quote the same way, and neither leaves a control character bare.
    lines = [f"{name} = {json.dumps(value)}" for name, value in fields.items()]
    approvals = [
        f'"{peer_id(account)}" = "{base64.b64encode(signature).decode()}"'
        for account, signature in sorted(file.signatures.items())
    ]
    return "\n".join(
        (
            "# A decree. Governors who agree: millrace decree sign FILE. Then anybody: millrace decree submit FILE",
            f"schema = {DECREE_FILE_SCHEMA}",
            f"network = {json.dumps(file.network)}",
            f'network_id = "{file.network_id.hex()}"',
            f"decree = {file.decree.decree}",
            f'kind = "{kind}"',
            *lines,
            "",
            "[approvals]",
            *approvals,
            "",
        )
    )


def load_decree(path: Path) -> DecreeFile:
    """The decree file at `path`; `DecreeError` when it is missing, unreadable or not strictly valid."""
    try:
        with path.open("rb") as file:
            data = file.read(DECREE_FILE_BYTES_MAX + 1)
    except OSError as error:
        raise DecreeError(
            f"cannot read the decree {path}", error.strerror or "the system refused", f"ls -l {path}"
        ) from error
    try:
        text = data[:DECREE_FILE_BYTES_MAX].decode()
    except UnicodeDecodeError as error:
        raise DecreeError(
            f"{path} cannot be used", "it is not UTF-8 text", "ask for the file again"
        ) from error
    if len(data) > DECREE_FILE_BYTES_MAX:
        raise DecreeError(f"{path} cannot be used", f"it is longer than {DECREE_FILE_BYTES_MAX} bytes", "")
    return parse_decree(text, str(path))


def save_decree(path: Path, file: DecreeFile) -> None:
    """Write the decree file; a crash leaves the old file or the new one. Raises `DecreeError`."""
    beside = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        with beside.open("w", encoding="utf-8") as out:
            out.write(format_decree(file))
            out.flush()
            os.fsync(out.fileno())
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise DecreeError(
            f"cannot write the decree {path}", error.strerror or "the system refused", f"ls -ld {path.parent}"
        ) from error


def _check_fields(document: Mapping[str, Any], fields: Mapping[str, type]) -> None:
    for name, kind in fields.items():
        if name not in document:
            raise ValueError(f"it has no {name!r}")
        if type(document[name]) is not kind:
            raise ValueError(f"its {name!r} is not {kind.__name__}")
    if unknown := sorted(set(document) - set(fields)):
        raise ValueError(f"it has {unknown[0]!r}, which no such decree has")


def _decree(kind: str, number: int, fields: Mapping[str, Any]) -> Decree:
    if number < 1:
        raise ValueError("decrees are numbered from 1 on")
    if kind == "limit":
        return Limit(account_from_peer_id(fields["account"]), parse_credits(fields["change"]), number)
    if kind == "rotate":
        witnesses = tuple(account_from_peer_id(str(name)) for name in fields["witnesses"])
        return Rotate(number, witnesses, NO_APPROVALS)
    params = Params(
        fields["version"],
        parse_credits(fields["fee_min"]),
        parse_credits(fields["dispute_fee"]),
        fields["slot_timeout_ms"],
    )
    return Param(number, fields["from_height"], params, NO_APPROVALS)


def decree_fields(decree: Decree) -> tuple[str, dict[str, Any]]:
    """What a decree says, by kind, as its file says it: peer ids, credits as text."""
    if isinstance(decree, Limit):
        change = format_credits(decree.delta)
        return "limit", {"account": peer_id(decree.beneficiary), "change": change}
    if isinstance(decree, Rotate):
        return "rotate", {"witnesses": [peer_id(account) for account in decree.witnesses]}
    params = decree.params
    return "param", {
        "from_height": decree.from_height,
        "version": params.version,
        "fee_min": format_credits(params.fee_min),
        "dispute_fee": format_credits(params.dispute_fee),
        "slot_timeout_ms": params.slot_timeout_ms,
    }


def _signature(text: object) -> bytes:
    try:
        signature = base64.b64decode(str(text), validate=True)
    except binascii.Error as error:
        raise ValueError(f"an approval is not base64 ({error})") from error
    if len(signature) != 64:
        raise ValueError(f"an approval has {len(signature)} bytes, a signature has 64")
    return signature
