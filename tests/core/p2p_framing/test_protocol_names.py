"""Protocol ids, topics and the mDNS service of a network."""

from __future__ import annotations

import pytest

from ledger.core.encoding import NetworkId
from p2p.core.protocols import mdns_service, protocol_id, topic_id

NETWORK = NetworkId(bytes.fromhex("1f2e3d4c") + bytes(28))


def test_the_examples_of_the_spec() -> None:
    assert protocol_id(NETWORK, "ledger") == "/millrace/1f2e3d4c/ledger/1"
    assert topic_id(NETWORK, "adverts") == "/millrace/1f2e3d4c/topic/adverts/1"
    assert mdns_service(NETWORK) == "_mr-1f2e3d4c._udp.local."


def test_networks_do_not_meet() -> None:
    assert protocol_id(NETWORK, "ledger") != protocol_id(NetworkId(bytes(32)), "ledger")


@pytest.mark.parametrize("name", ["", "A", "1st", "a/b", "a_b", "a b", "a" * 33, "a\n"])
def test_a_bad_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="protocol name"):
        protocol_id(NETWORK, name)


def test_a_short_network_id_is_refused() -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        protocol_id(NetworkId(b"short"), "ledger")
