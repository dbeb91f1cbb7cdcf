"""Concrete addresses for a wildcard: nobody can dial 0.0.0.0."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["concrete_addresses"]

# Documentation addresses (RFC 5737, RFC 3849): connecting a UDP socket sends nothing, it only asks for the route.
_PROBES = {"ip4": (socket.AF_INET, "192.0.2.1"), "ip6": (socket.AF_INET6, "2001:db8::1")}
_WILDCARDS = {"ip4": "0.0.0.0", "ip6": "::"}  # noqa: S104 - compared with, not bound to
_LOOPBACK = {"ip4": "127.0.0.1", "ip6": "::1"}


def concrete_addresses(bound: Iterable[str]) -> tuple[str, ...]:
    """`bound` multiaddrs with each wildcard replaced by this machine's outgoing address and loopback."""
    result: list[str] = []
    for address in bound:
        _, family, host, *rest = address.split("/")
        if host != _WILDCARDS.get(family):
            result.append(address)
            continue
        hosts = [outgoing] if (outgoing := _outgoing(family)) else []
        result += ["/".join(("", family, name, *rest)) for name in (*hosts, _LOOPBACK[family])]
    return tuple(dict.fromkeys(result))


def _outgoing(family: str) -> str | None:
    """The address packets to the outside leave from; None without a route."""
    kind, target = _PROBES[family]
    with socket.socket(kind, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((target, 9))
            return str(probe.getsockname()[0])
        except OSError:
            return None
