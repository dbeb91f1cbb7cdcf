"""Protocol ids: every stream, topic and table of one network carries that network's prefix (SPEC.md §9).

Eight hex digits of the network id keep two networks on one machine, or a private one and a public one, from
ever exchanging a byte after the handshake. They are a label, not a secret; signatures carry the whole id.
"""

from __future__ import annotations

import re
from typing import Final

from ledger.core.encoding import NETWORK_ID_BYTES, NetworkId

__all__ = ["NAME_BYTES_MAX", "PREFIX_HEX_DIGITS", "mdns_service", "protocol_id", "topic_id"]

PREFIX_HEX_DIGITS: Final = 8
NAME_BYTES_MAX: Final = 32
_NAME: Final = re.compile(r"[a-z][a-z0-9-]*\Z")


def protocol_id(network_id: NetworkId, name: str) -> str:
    """The stream protocol id of `name`: `/millrace/1f2e3d4c/ledger/1`; `ValueError` on a bad name."""
    return f"/millrace/{_prefix(network_id)}/{_checked(name)}/1"


def topic_id(network_id: NetworkId, name: str) -> str:
    """The gossip topic of `name`: the same form as a protocol id, in the separate space of topics."""
    return f"/millrace/{_prefix(network_id)}/topic/{_checked(name)}/1"


def mdns_service(network_id: NetworkId) -> str:
    """The DNS-SD service type of one network: `_mr-1f2e3d4c._udp.local.` (RFC 6763: at most 15 letters)."""
    return f"_mr-{_prefix(network_id)}._udp.local."


def _prefix(network_id: NetworkId) -> str:
    if len(network_id) != NETWORK_ID_BYTES:
        raise ValueError(f"a network id has {NETWORK_ID_BYTES} bytes, not {len(network_id)}")
    return network_id.hex()[:PREFIX_HEX_DIGITS]


def _checked(name: str) -> str:
    if len(name) > NAME_BYTES_MAX or not _NAME.match(name):
        raise ValueError(f"{name[:NAME_BYTES_MAX]!r} is not a protocol name: a-z first, then a-z 0-9 -")
    return name
