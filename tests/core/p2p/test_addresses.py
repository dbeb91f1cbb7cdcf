"""Which texts are addresses, and which addresses a stranger may make us dial (SPEC.md §11.1)."""

from __future__ import annotations

import pytest

from ledger.core.encoding import WireError
from ledger.core.keys import SigningKey, peer_id
from p2p.core.addresses import Scope, group, is_own, may_dial, parse_address

ACCOUNT = SigningKey(bytes(range(32))).account
ID = peer_id(ACCOUNT)


@pytest.mark.parametrize(
    ("text", "scope"),
    [
        ("/ip4/8.8.8.8/tcp/1", Scope.GLOBAL),
        ("/ip4/10.1.2.3/tcp/4001", Scope.PRIVATE),
        ("/ip4/192.168.0.1/tcp/65535", Scope.PRIVATE),
        ("/ip4/100.64.3.4/tcp/4001", Scope.PRIVATE),
        ("/ip4/127.0.0.1/tcp/4001", Scope.LOOPBACK),
        ("/ip4/127.9.9.9/tcp/4001", Scope.LOOPBACK),
        ("/ip4/169.254.169.254/tcp/80", Scope.LINK_LOCAL),
        ("/ip4/0.0.0.0/tcp/4001", Scope.UNUSABLE),
        ("/ip4/224.0.0.1/tcp/4001", Scope.UNUSABLE),
        ("/ip4/255.255.255.255/tcp/4001", Scope.UNUSABLE),
        ("/ip6/2a00::1/tcp/4001", Scope.GLOBAL),
        ("/ip6/::1/tcp/4001", Scope.LOOPBACK),
        ("/ip6/fd00::1/tcp/4001", Scope.PRIVATE),
        ("/ip6/fe80::1/tcp/4001", Scope.LINK_LOCAL),
        ("/ip6/::/tcp/4001", Scope.UNUSABLE),
        ("/ip6/::ffff:127.0.0.1/tcp/4001", Scope.UNUSABLE),
        ("/ip6/2002:7f00:1::/tcp/4001", Scope.UNUSABLE),
        ("/ip6/64:ff9b::7f00:1/tcp/4001", Scope.UNUSABLE),
        ("/dns4/node.example.org/tcp/4001", Scope.NAME),
    ],
)
def test_scopes(text: str, scope: Scope) -> None:
    assert parse_address(text).scope is scope


def test_the_parts() -> None:
    address = parse_address(f"/ip4/192.0.2.1/tcp/4001/p2p/{ID}")
    assert (address.host, address.port, address.account, address.relay) == (
        "192.0.2.1", 4001, ACCOUNT, None,
    )  # fmt: skip
    other = SigningKey(bytes(32)).account
    relayed = parse_address(f"/ip4/192.0.2.1/tcp/4001/p2p/{peer_id(other)}/p2p-circuit/p2p/{ID}")
    assert (relayed.account, relayed.relay) == (ACCOUNT, other)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/",
        "127.0.0.1:4001",
        "/ip4/127.0.0.1/udp/4001",
        "/ip4/127.0.0.1/tcp",
        "/ip4/127.0.0.1/tcp/0",
        "/ip4/127.0.0.1/tcp/65536",
        "/ip4/127.0.0.1/tcp/04001",
        "/ip4/127.0.0.1/tcp/4001/",
        "/ip4/127.0.0.1/tcp/4001/ws",
        "/ip4/127.1/tcp/4001",
        "/ip4/0x7f.0.0.1/tcp/4001",
        "/ip6/fe80::1%eth0/tcp/4001",
        "/dns/-bad-/tcp/4001",
        "/dns/a b/tcp/4001",
        "/unix/tmp/tcp/1",
        "/ip4/127.0.0.1/tcp/4001/p2p/QmNotEd25519",
        "/ip4/127.0.0.1/tcp/4001/p2p/",
        "/ip4/127.0.0.1/tcp/٤٠٠١",
        "/ip4/127.0.0.1/tcp/4001/p2p/" + "1" * 300,
    ],
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(WireError):
        parse_address(text)


PUBLIC = parse_address("/ip4/1.1.1.1/tcp/4001")
HOME = parse_address("/ip4/192.168.1.7/tcp/4001")
LOCAL = parse_address("/ip4/127.0.0.1/tcp/4001")


@pytest.mark.parametrize(
    ("target", "public", "home", "local", "nothing"),
    [
        ("/ip4/8.8.8.8/tcp/4001", True, True, True, True),
        ("/ip4/192.168.1.8/tcp/4001", False, True, True, True),
        ("/ip4/127.0.0.1/tcp/5000", False, False, True, False),
        ("/ip4/169.254.1.1/tcp/4001", False, False, False, False),
        ("/ip4/0.0.0.0/tcp/4001", False, False, False, False),
        ("/ip6/::ffff:8.8.8.8/tcp/4001", False, False, False, False),
        ("/dns/example.org/tcp/4001", False, False, False, False),
    ],
)
def test_what_a_stranger_may_make_us_dial(
    target: str, public: bool, home: bool, local: bool, nothing: bool
) -> None:
    address = parse_address(target)
    assert may_dial(address, (PUBLIC, HOME, LOCAL)) is public
    assert may_dial(address, (HOME, LOCAL)) is home
    assert may_dial(address, (LOCAL,)) is local
    assert may_dial(address, ()) is nothing


def test_never_our_own_address_whatever_its_peer_id() -> None:
    address = parse_address(f"/ip4/127.0.0.1/tcp/4001/p2p/{ID}")
    assert is_own(address, (LOCAL,))
    assert not may_dial(address, (LOCAL,))


def test_neighbourhoods() -> None:
    assert group(parse_address("/ip4/8.8.4.4/tcp/1")) == "8.8.0.0/16"
    assert group(parse_address("/ip6/2a00:1450::1/tcp/1")) == "2a00:1450::/32"
    assert group(LOCAL) == "127.0.0.1"
