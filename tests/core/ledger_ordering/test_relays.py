"""Clients' entries on their way from the witness that took them in to all others (SPEC.md §6, R6.13)."""

from __future__ import annotations

from ledger.core.consensus import Relay
from ledger.core.encoding import Kind
from ledger.core.events import Submitted, Tick
from ledger.core.repair import RELAY_GAP_S
from ledger.core.timers import REPEAT_S
from tests.core.ledger_ordering.machines import Machine, entry, genesis

FOUR = genesis(4)
LEADER, OTHER = 1, 2
"""Who leads the first slot, and one who does not."""


def relayed(machine: Machine) -> list[list[int]]:
    """The sequence numbers in each relay so far."""
    return [[each.seq for each in said.entries] for said in machine.sent if isinstance(said, Relay)]


def test_the_first_entry_is_relayed_at_once_and_those_right_behind_it_together() -> None:
    machine = Machine(FOUR, OTHER)
    machine.submit(entry(FOUR, 1), entry(FOUR, 2), entry(FOUR, 3))
    assert relayed(machine) == [[1]]
    machine.wait(RELAY_GAP_S)
    assert relayed(machine) == [[1], [2, 3]]
    machine.wait(RELAY_GAP_S)
    machine.submit(entry(FOUR, 4))
    assert relayed(machine) == [[1], [2, 3], [4]]


def test_the_machine_asks_to_be_woken_for_what_it_holds_back() -> None:
    machine = Machine(FOUR, OTHER)
    machine.submit(entry(FOUR, 1), entry(FOUR, 2))
    assert machine.wake_at_s == RELAY_GAP_S


def test_what_another_witness_relays_meanwhile_needs_no_relay() -> None:
    machine = Machine(FOUR, OTHER)
    machine.submit(entry(FOUR, 1), entry(FOUR, 2), entry(FOUR, 3))
    machine.hear(Relay((entry(FOUR, 2),)), sender=3)
    machine.wait(RELAY_GAP_S)
    assert relayed(machine) == [[1], [3]]


def test_what_the_own_block_takes_along_needs_no_relay() -> None:
    machine = Machine(FOUR, LEADER)
    machine.feed(Submitted(entry(FOUR, 1)))
    assert [item.vote.kind for item in machine.persisted] == [Kind.NOTAR]
    assert relayed(machine) == []


def test_what_a_block_takes_along_that_is_voted_for_meanwhile_needs_no_relay() -> None:
    leader, machine = Machine(FOUR, LEADER), Machine(FOUR, OTHER)
    leader.simplex.feed(Submitted(entry(FOUR, 1)), Submitted(entry(FOUR, 2)), now=leader.now())
    (proposal,) = leader.simplex.proposals.of(1).values()
    machine.submit(entry(FOUR, 1), entry(FOUR, 2), entry(FOUR, 3))
    machine.hear(proposal, sender=LEADER)
    machine.wait(RELAY_GAP_S)
    assert relayed(machine) == [[1], [3]]


def test_relayed_entries_are_not_relayed_on_but_repeated() -> None:
    machine = Machine(FOUR, OTHER)
    machine.hear(Relay((entry(FOUR, 1),)), sender=3)
    machine.wait(RELAY_GAP_S)
    machine.feed(Tick())
    assert relayed(machine) == []
    machine.wait(REPEAT_S)
    assert relayed(machine) == [[1]]
