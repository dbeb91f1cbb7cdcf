"""Peer addresses in multiaddr text, and which of them a node may dial (SPEC.md §11.1).

Strangers choose the addresses in adverts and peer lists. Dialling them blindly would turn the network into
a tool against third parties and against the reader's own private network, so the rule is a function here.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Final

from ledger.core.encoding import WireError
from ledger.core.keys import AccountId, account_from_peer_id

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "ADDRESS_BYTES_MAX",
    "Address",
    "Scope",
    "group",
    "is_own",
    "may_dial",
    "parse_address",
]

ADDRESS_BYTES_MAX: Final = 256
PARSED_MAX: Final = 8192
"""Parsed addresses kept: the peer book looks at the same few thousand again and again."""
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_HOST_NAME: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,251}[A-Za-z0-9])?")
_EMBEDDED_V4: Final = tuple(
    ipaddress.IPv6Network(text) for text in ("2002::/16", "2001::/32", "64:ff9b::/96", "64:ff9b:1::/48")
)
_CARRIER_NAT: Final = ipaddress.IPv4Network("100.64.0.0/10")


class Scope(Enum):
    """Where an address means the same machine for everyone."""

    GLOBAL = "global"
    PRIVATE = "private"
    LINK_LOCAL = "link-local"
    LOOPBACK = "loopback"
    NAME = "name"
    """A DNS name: whoever controls it can aim it anywhere, so only the operator's own are dialled."""
    UNUSABLE = "unusable"
    """Unspecified, multicast, reserved, or an IPv4 address in disguise."""


@dataclass(frozen=True, slots=True)
class Address:
    """`/ip4|ip6|dns|dns4|dns6/<host>/tcp/<port>[/p2p/<relay>/p2p-circuit][/p2p/<account>]`."""

    text: str
    host: str
    port: int
    scope: Scope
    account: AccountId | None
    relay: AccountId | None


@lru_cache(maxsize=PARSED_MAX)
def parse_address(text: str) -> Address:
    """The parts of a multiaddr `text`; any other text, and other transports, are a `WireError`."""
    if len(text) > ADDRESS_BYTES_MAX or not text.isascii():
        raise WireError(f"address of {len(text)} characters, at most {ADDRESS_BYTES_MAX} of ASCII allowed")
    parts = text.split("/")
    if len(parts) < 5 or parts[0] != "" or parts[3] != "tcp":
        raise WireError(f"{text[:80]!r} is not an address such as /ip4/192.0.2.1/tcp/4001/p2p/12D3Koo…")
    host, scope = _host(parts[1], parts[2])
    if not _PORT.fullmatch(parts[4]) or int(parts[4]) > 65535:
        raise WireError(f"{parts[4][:20]!r} is not a TCP port")
    match parts[5:]:
        case []:
            account, relay = None, None
        case ["p2p", name]:
            account, relay = account_from_peer_id(name), None
        case ["p2p", via, "p2p-circuit", "p2p", name]:
            account, relay = account_from_peer_id(name), account_from_peer_id(via)
        case _:
            raise WireError(f"{text[:80]!r} goes on in an unknown way after the port")
    return Address(text, host, int(parts[4]), scope, account, relay)


def may_dial(address: Address, ours: Iterable[Address]) -> bool:
    """Whether an address that strangers told us may be dialled from a node listening on `ours` (R11.3).

    Global addresses always. Private ones only while we have no global address ourselves, and loopback ones
    only while we listen on nothing but loopback: a public node never probes its own private network on a
    stranger's word, and a node that others can reach never dials the services of its own machine.
    Our own address never; names, link-local and unusable addresses never.
    """
    mine = tuple(ours)
    if is_own(address, mine):
        return False
    scopes = {own.scope for own in mine}
    match address.scope:
        case Scope.GLOBAL:
            return True
        case Scope.PRIVATE:
            return Scope.GLOBAL not in scopes
        case Scope.LOOPBACK:
            return bool(scopes) and scopes == {Scope.LOOPBACK}
        case _:
            return False


def is_own(address: Address, ours: Iterable[Address]) -> bool:
    """Whether `address` is one of `ours`, whatever peer id it claims."""
    return any(own.host == address.host and own.port == address.port for own in ours)


def group(address: Address) -> str:
    """The neighbourhood that one owner is likely to hold whole: /16 of IPv4, /32 of IPv6, else the host."""
    if address.scope is not Scope.GLOBAL:
        return address.host
    ip = ipaddress.ip_address(address.host)
    prefix = 16 if ip.version == 4 else 32
    return str(ipaddress.ip_network((ip, prefix), strict=False))


def _host(protocol: str, text: str) -> tuple[str, Scope]:
    """Canonical host text and its scope."""
    if protocol in ("dns", "dns4", "dns6"):
        if not _HOST_NAME.fullmatch(text):
            raise WireError(f"{text[:80]!r} is not a host name")
        return text.lower(), Scope.NAME
    try:
        if protocol == "ip4":
            ip4 = ipaddress.IPv4Address(text)
            return str(ip4), _scope(ip4)
        if protocol == "ip6" and "%" not in text:
            ip6 = ipaddress.IPv6Address(text)
            return str(ip6), _scope6(ip6)
    except ValueError as error:
        raise WireError(f"{text[:80]!r} is not an IP address") from error
    raise WireError(f"{protocol[:20]!r} is not a known address family")


def _scope6(ip: ipaddress.IPv6Address) -> Scope:
    # An IPv4 address in IPv6 clothes would slip past every rule above: none of these forms is dialled.
    if ip.ipv4_mapped is not None or any(ip in network for network in _EMBEDDED_V4):
        return Scope.UNUSABLE
    return _scope(ip)


def _scope(ip: ipaddress.IPv4Address | ipaddress.IPv6Address) -> Scope:
    if ip.is_loopback:
        return Scope.LOOPBACK
    if ip.is_unspecified or ip.is_multicast:
        return Scope.UNUSABLE
    if ip.is_link_local:
        return Scope.LINK_LOCAL
    if ip.is_global:
        return Scope.GLOBAL
    if ip.version == 4 and ip in _CARRIER_NAT:
        return Scope.PRIVATE
    return Scope.PRIVATE if ip.is_private and not ip.is_reserved else Scope.UNUSABLE
