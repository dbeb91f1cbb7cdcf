"""One run: witnesses, readers and clients, put together from a plan, and what must hold of them."""

from __future__ import annotations

from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING

from ledger.core import keys as keys_module
from ledger.core.genesis import Genesis
from ledger.core.keys import AccountId, SigningKey
from tests.core.ledger_ordering.machines import KEYS, WALL_MS
from tests.simulation.ledger.actors import Buyer, Payer, Seller, Spammer
from tests.simulation.ledger.forgers import make_liar
from tests.simulation.ledger.liars import Liar
from tests.simulation.ledger.parties import (
    GOVERNORS,
    GOVERNORS_NEEDED,
    Arbiter,
    Governor,
    Owner,
    Sponsor,
    Thief,
)
from tests.simulation.ledger.plan import Broken
from tests.simulation.ledger.readers import Reader
from tests.simulation.ledger.referee import Referee
from tests.simulation.ledger.wallets import Wallet
from tests.simulation.ledger.witnesses import Honest
from tests.simulation.ledger.world import Network, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from ledger.core.block import FinalBlock
    from ledger.core.entries import Entry
    from ledger.core.state import Refusal
    from tests.simulation.ledger.plan import Plan

__all__ = ["Simulation"]

QUIET_S = 30.0
"""How long an idle network is watched."""
SETTLED_S = 12.0
"""Of that, the time in which the last certificates and late witnesses come home."""
SLOT_TIMEOUT_MS = 300
PARTIES_FROM = 10
"""With fewer clients than this, the rare parts are not played."""
LEAP_MS = 32 * 24 * 3600 * 1000
EXTRA_KEYS = {
    name: SigningKey(sha256(name.encode()).digest()) for name in ("governor", "sponsor", "arbiter", "owner")
}
READERS = 3
READER_NUMBERS = 100
CLIENT_NUMBERS = 200


class Simulation:
    """Builds everything; `run` lets it happen."""

    def __init__(self, plan: Plan, *, log: Callable[[str], None] | None = None) -> None:
        memoise_signatures()
        self.plan = plan
        self.world = World(plan, log=log)
        self.network = Network(self.world)
        self.writes = 0
        self.halves: dict[bytes, list[AccountId]] = {}
        """Which witnesses were told of an equivocating leader's block: all liars keep to that."""
        self._random = self.world.chance("chaos")
        witness_keys = KEYS[: plan.n]
        spare_keys = KEYS[plan.n : plan.n + plan.spares]
        client_keys = [SigningKey(bytes((number + 1,)) * 31 + b"c") for number in range(plan.actors + 1)]
        rich = client_keys[: plan.actors * 2 // 3]
        self.genesis = Genesis(
            name="simulation",
            created_ms=WALL_MS - 60_000,
            witnesses=tuple(key.account for key in witness_keys),
            limits=tuple((key.account, 150) for key in [*rich, *EXTRA_KEYS.values()]),
            slot_timeout_ms=SLOT_TIMEOUT_MS,
            fee_min=self.world.chance("fee").choice((0, 0, 2)),
            dispute_fee=self.world.chance("fee").choice((0, 3)),
            governors=tuple(key.account for key in GOVERNORS),
            governors_needed=GOVERNORS_NEEDED,
        )
        self.members: dict[AccountId, Honest | Liar] = {}
        liars_from = plan.n - len(plan.liars)
        for number, key in enumerate(witness_keys):
            member = (
                Honest(self, key, number)
                if number < liars_from
                else make_liar(self, key, number, plan.liars[number - liars_from])
            )
            self.members[key.account] = member
        for number, key in enumerate(spare_keys, plan.n):
            self.members[key.account] = Honest(self, key, number)
        self.honest = [member for member in self.members.values() if isinstance(member, Honest)]
        self.liars = [member for member in self.members.values() if isinstance(member, Liar)]
        self.restored = self.honest[0] if plan.restores else None
        self.referee = Referee(self.genesis)
        self.referee.honest = {member.account for member in self.honest}
        self.referee.is_leaping = plan.leaps
        if self.restored is not None:
            self.referee.watched = self.restored.account
        if self.restored is not None and plan.liars:
            self.referee.unsure = {self.restored.account}
        self.readers = [Reader(self, READER_NUMBERS + number) for number in range(READERS)]
        self.wallets: list[Wallet] = []
        self.spammers: list[Spammer] = []
        self._cast(client_keys)
        self._calm_s = self._random.uniform(0.4, 3.0)
        self._isolates = len(self.honest) > 1 and self._random.random() < 0.4

    def run(self) -> Simulation:
        """Chaos, then calm until all is settled, then silence; `Broken` if a promise is."""
        world = self.world
        world.at(0.1, self._chaos)
        for node in [*self.members.values(), *self.readers, *self.wallets, *self.spammers]:
            world.at(self._random.uniform(0.0, 0.3), node.start)
        if self.restored is not None:
            world.at(self._random.uniform(1.0, self.plan.gst_s * 0.5), self._back_up)
        if self.plan.leaps:
            world.at(self.plan.gst_s + 2.0, self._leap)
        end_s = self.plan.gst_s + self.plan.liveness_s
        if not world.run_until(lambda: not world.is_broken, end_s) or not world.run_until(
            self._is_settled, end_s
        ):
            raise Broken("stall", self._open_ends())
        self._watch_silence()
        self.referee.check_end(self.honest, self.readers)
        return self

    # The network.

    def submit(
        self,
        sender: int,
        to: AccountId,
        entry: Entry,
        tell: Callable[[AccountId, Entry, Refusal | None], None],
    ) -> None:
        """A client hands an entry to a witness; the answer takes the same road back."""
        member = self.members[to]

        def answer(refusal: Refusal | None) -> None:
            reason = b"" if refusal is None else refusal.reason.value.encode()
            self.network.carry(member.number, sender, reason, lambda: tell(to, entry, refusal))

        self.network.carry(sender, member.number, entry.encode(), lambda: member.submit(entry, answer))

    def pull(
        self, asker: int, source: AccountId, height: int, take: Callable[[tuple[FinalBlock, ...]], None]
    ) -> None:
        """Ask a witness for final blocks from a height on."""
        member = self.members[source]

        def answer() -> None:
            blocks = member.blocks(height, asker)
            digest = b"".join(block.certificate.block_hash for block in blocks)
            self.network.carry(member.number, asker, digest, lambda: take(blocks))

        self.network.carry(asker, member.number, height.to_bytes(8, "big"), answer)

    # What happens.

    def _cast(self, keys: list[SigningKey]) -> None:
        """Give each client its part. Two of a kind in a row share what they do."""
        accounts = [key.account for key in keys]
        plan = self.plan
        sellers: list[Seller] = []
        for number, key in enumerate(keys[: plan.actors]):
            wallet = self._wallet(f"c{number}", key)
            if number < plan.actors // 3:
                wallet.part = Payer(wallet, accounts, plan.wishes)
            elif number >= plan.actors * 2 // 3:
                wallet.part = seller = Seller(wallet, is_greedy=number % 4 == 3)
                sellers.append(seller)
        for wallet in self.wallets[plan.actors // 3 : plan.actors * 2 // 3]:
            wallet.part = Buyer(wallet, self._random.choice(sellers), max(1, plan.wishes // 2))
        others = accounts[: plan.actors]
        if plan.actors >= PARTIES_FROM:
            governor = self._wallet("governor", self._extra("governor"))
            governor.part = Governor(governor, others, plan.wishes, self._committees())
            sponsor = self._wallet("sponsor", self._extra("sponsor"))
            sponsor.part = Sponsor(sponsor, others[-4:], plan.wishes)
            arbiter = self._wallet("arbiter", self._extra("arbiter"))
            arbiter.part = Arbiter(arbiter)
            owner = self._wallet("owner", self._extra("owner"))
            owner.part = Owner(owner, others, plan.wishes)
            thief = self._wallet("thief", self._extra("owner"))
            thief.is_thief, thief.part = True, Thief(thief, plan.wishes * 4)
        # A cloned wallet: two with one key, neither knowing of the other.
        clone = self._wallet("clone", keys[0])
        clone.part = Payer(clone, accounts, plan.wishes)
        strangers = [keys[-1], SigningKey(b"s" * 32)]
        self.spammers.append(Spammer(self, CLIENT_NUMBERS + 99, self.readers[0], strangers))

    def _committees(self) -> list[list[AccountId]]:
        """The committees to come: as many liars as each can bear, at most, and the others honest."""
        found: list[list[AccountId]] = []
        liars = [member.account for member in self.liars]
        honest = [member.account for member in self.honest]
        for _ in range(self.plan.rotations):
            size = self._random.choice((self.plan.n, self.plan.n, 1 if not liars else self.plan.n))
            keep = liars if self._random.random() < 0.7 else []
            chosen = [*keep, *self._random.sample(honest, size - len(keep))]
            self._random.shuffle(chosen)
            found.append(chosen)
        return found

    @staticmethod
    def _extra(name: str) -> SigningKey:
        return EXTRA_KEYS[name]

    def _wallet(self, name: str, key: SigningKey) -> Wallet:
        number = len(self.wallets)
        wallet = Wallet(self, name, CLIENT_NUMBERS + number, key=key, reader=self.readers[number % READERS])
        self.wallets.append(wallet)
        return wallet

    def _chaos(self) -> None:
        world, chance = self.world, self._random
        if not world.is_broken:
            self.network.part(set())
            return
        if world.suffers("partition"):
            if self._isolates:
                # Cut off one honest witness and crash another: forgotten votes hurt most when a quorum shifts.
                cut, fell = chance.sample(self.honest, 2)
                self.network.part({cut.number})
                if world.suffers("crash") and chance.random() < 0.4:
                    fell.crash()
            else:
                numbers = [node.number for node in [*self.members.values(), *self.readers, *self.wallets]]
                some = chance.sample(numbers, chance.randrange(len(numbers)))
                self.network.part(set(some) if chance.random() < 0.5 else set())
        if world.suffers("crash") and chance.random() < 0.3:
            chance.choice(self.honest).crash()
        world.at(chance.uniform(0.2, self._calm_s), self._chaos)

    def _back_up(self) -> None:
        witness = self.restored
        if witness is not None:
            witness.backup = witness.disk.copy()
            self.world.at(self._random.uniform(0.5, self.plan.gst_s * 0.5), witness.restore)

    def _leap(self) -> None:
        self.world.leap_ms += LEAP_MS

    # What must hold.

    def _is_settled(self) -> bool:
        return all(wallet.is_done() for wallet in self.wallets)

    def _open_ends(self) -> str:
        waiting = [wallet.name for wallet in self.wallets if not wallet.is_done()]
        heights = [len(member.disk.blocks) for member in self.honest]
        return f"{self.plan.liveness_s:g} s after GST {', '.join(waiting)} still wait; heights {heights}"

    def _watch_silence(self) -> None:
        """Nothing waits: everybody comes to hold the same blocks, and then nobody says or does anything more."""
        world = self.world
        for liar in self.liars:
            liar.is_quiet = True
        world.run_until(lambda: False, world.now_s + SETTLED_S)
        height, slots = len(self.referee.chain), self._slots()
        world.run_until(lambda: False, world.now_s + QUIET_S)
        if len(self.referee.chain) != height:
            raise Broken("idle", f"{len(self.referee.chain) - height} blocks although nothing waits")
        if self._slots() != slots:
            raise Broken("idle", f"slots pass although nothing waits: {slots}, {self._slots()}")

    def _slots(self) -> list[int]:
        """The slot that each honest witness is in."""
        return [member.machine.slot for member in self.honest if member.machine is not None]


def memoise_signatures() -> None:
    """libsodium checks each signature once, and not once per witness: n machines share this process.

    What is remembered is its answer for these very bytes of key, signature and message; the strict rule is not.
    """
    if not hasattr(keys_module._crypto_sign_open, "cache_info"):
        keys_module._crypto_sign_open = lru_cache(maxsize=1 << 15)(keys_module._crypto_sign_open)
