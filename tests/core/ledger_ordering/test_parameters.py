"""PARAM changes the slot timer on the way, and rules that this program does not know stop it without a lie."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ledger.core.actions import Param
from ledger.core.approvals import Approvals
from ledger.core.chain import Chain, UnknownVersionError
from ledger.core.encoding import Kind
from ledger.core.entries import Entry, sign_decree, sign_entry
from ledger.core.events import CaughtUp
from ledger.core.params import PROTOCOL_VERSION, Params
from tests.core.ledger_ordering.clusters import GOVERNOR, Cluster, governed
from tests.core.ledger_ordering.machines import PAYER, WALL_MS, entry

FOUR = governed(4)


def changed(params: Params, *, from_height: int) -> Entry:
    wanted = Param(1, from_height, params, Approvals())
    approvals = Approvals(1, (sign_decree(GOVERNOR, FOUR.network_id, wanted),))
    action = replace(wanted, approvals=approvals)
    return sign_entry(PAYER, FOUR.network_id, seq=1, not_after_ms=WALL_MS + 10**8, fee=0, action=action)


def skipped_after_s(cluster: Cluster, number: int, seq: int) -> float:
    began_s = cluster.s
    cluster.gate = lambda _s, _r, _m: False
    cluster.submit(entry(FOUR, seq=seq), number)
    while not any(item.vote.kind is Kind.SKIP for item in cluster.peers[number].signed):
        assert cluster.s < 60
        cluster.run(0.05)
    return cluster.s - began_s


def test_the_slot_timer_follows_the_parameters() -> None:
    assert 1.0 <= skipped_after_s(Cluster(FOUR, 4), 0, 1) < 1.2
    cluster = Cluster(FOUR, 4)
    cluster.submit(changed(Params(slot_timeout_ms=300), from_height=2))
    cluster.run(0.2)
    assert cluster.peers[0].chain.state.params.slot_timeout_ms == 300
    assert 0.3 <= skipped_after_s(cluster, 0, 2) < 0.5


def test_rules_of_a_later_version_stop_the_witness_and_blame_nobody() -> None:
    cluster = Cluster(FOUR, 4)
    cluster.submit(changed(Params(version=PROTOCOL_VERSION + 1), from_height=3))
    cluster.run(0.2)
    assert not cluster.peers[0].chain.outdated
    cluster.submit(entry(FOUR, seq=2))
    cluster.run(1)
    peer = cluster.peers[0]
    assert peer.chain.tip.height == 2
    assert "update millrace" in peer.chain.outdated
    signed = len(peer.signed)
    cluster.submit(entry(FOUR, seq=3))
    cluster.run(30)
    assert len(peer.signed) == signed, "it votes for nothing that it cannot judge, and skips nothing"
    reader = Chain(FOUR)
    for block in peer.final:
        reader.accept(block)
    beyond = replace(peer.final[-1].header, height=3, slot=9, parent_slot=peer.final[-1].header.slot)
    beyond = replace(beyond, parent_hash=reader.tip.block_hash)
    certificate = replace(peer.final[-1].certificate, slot=9, block_hash=beyond.hash(FOUR.network_id))
    block = replace(peer.final[-1], header=beyond, certificate=certificate)
    assert peer.simplex is not None
    assert not cluster.feed(0, CaughtUp((block,)))
    with pytest.raises(UnknownVersionError, match="update"):
        reader.accept(block)
