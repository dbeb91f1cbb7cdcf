"""A reader of the ledger as `ledger/sync.py` is one: it pulls final blocks from any witness and trusts none."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.core.chain import BadBlock, Chain, ForkError
from tests.simulation.ledger.plan import Broken

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from tests.simulation.ledger.simulation import Simulation

__all__ = ["Reader", "accept_all"]

POLL_S = 0.3


class Reader:
    """One verified copy of the ledger, shared by the clients that look through it."""

    def __init__(self, simulation: Simulation, number: int) -> None:
        self.simulation = simulation
        self.number = number
        self.name = f"r{number}"
        self.chain = Chain(simulation.genesis)
        self.blocks: list[FinalBlock] = []
        self.final: dict[bytes, int] = {}
        """The height at which each entry is final here."""
        self.entries: dict[bytes, Entry] = {}
        self._random = simulation.world.chance(self.name)
        self._turn = self._random.randrange(100)

    def start(self) -> None:
        """Pull from one witness after the other."""
        accounts = self.chain.committee.witnesses
        self._turn += 1
        self._pull(accounts[self._turn % len(accounts)])
        self.simulation.world.at(self._random.uniform(0.5, 1.5) * POLL_S, self.start)

    def _pull(self, source: AccountId) -> None:
        self.simulation.pull(self.number, source, self.chain.tip.height + 1, self._take)

    def _take(self, blocks: tuple[FinalBlock, ...]) -> None:
        final = accept_all(self.chain, blocks)
        if not final:
            return
        network_id = self.simulation.genesis.network_id
        for block in final:
            self.blocks.append(block)
            for entry in block.entries:
                entry_id = entry.entry_id(network_id)
                self.final[entry_id] = block.header.height
                self.entries[entry_id] = entry
        self.simulation.referee.finalised(self.name, final, self.chain)


def accept_all(chain: Chain, blocks: tuple[FinalBlock, ...]) -> list[FinalBlock]:
    """What became final of blocks that anybody may have sent; `Broken` if they prove a fork."""
    final: list[FinalBlock] = []
    for block in blocks:
        try:
            final += chain.accept(block)
        except ForkError as error:
            raise Broken("fork", f"two certified chains: {error}") from error
        except BadBlock:
            break
    return final
