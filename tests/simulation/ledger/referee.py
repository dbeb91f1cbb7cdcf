"""What every run is held to, after every block and at the end. It shares no state code with the product.

The books of `ledger/core/books.py` replay what the first witness makes final; every other view must be a prefix of
that one chain, and every honest machine's own state must have the books' root.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ledger.core import keys
from ledger.core.actions import NO_KEY, Rekey
from ledger.core.audit import Replay
from ledger.core.book_snapshot import state_root
from ledger.core.consensus import decode_message, encode_message
from ledger.core.encoding import Kind
from ledger.core.entries import Claim, Lock, Transfer
from ledger.core.violations import BrokenRuleError
from ledger.core.votes import Vote
from tests.simulation.ledger.plan import Broken

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock
    from ledger.core.chain import Chain
    from ledger.core.entries import Entry
    from ledger.core.evidence import Evidence
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId
    from tests.simulation.ledger.readers import Reader
    from tests.simulation.ledger.witnesses import Honest

__all__ = ["Referee"]

BEHIND_MS_MAX = 21_000
"""No honest witness notarises a block that is older: the 10 s of a run, two clocks 8 s apart that jump, a slow disk."""
_RIVALS = {Kind.NOTAR: (Kind.NOTAR,), Kind.SKIP: (Kind.FINAL,), Kind.FINAL: (Kind.FINAL, Kind.SKIP)}


class Referee:
    """Raises `Broken` at the first step that breaks a promise."""

    def __init__(self, genesis: Genesis) -> None:
        self.genesis = genesis
        self.chain: list[FinalBlock] = []
        self.committees = [genesis.committee]
        self.honest: set[AccountId] = set()
        self.unsure: set[AccountId] = set()
        """Restored from an old backup while a liar denies what it remembers: it may contradict itself, as one of f."""
        self.watched: AccountId | None = None
        """Will be restored from an old backup: whom its votes reached decides what it can be reminded of (R6.11)."""
        self._holders: dict[bytes, set[AccountId]] = {}
        self._is_restored = False
        self.promised: dict[bytes, int] = {}
        """Heights that clients were shown with their entries' receipts."""
        self.heights: dict[bytes, int] = {}
        """The height at which each entry is final."""
        self._roots: list[bytes] = []
        self._replay = Replay(genesis, check=keys.verify_bytes)
        self._votes: dict[tuple[AccountId, Kind, int, int], Vote] = {}
        self._paid_for: dict[bytes, bytes] = {}
        self._signed: dict[bytes, int] = {}
        self._refused: dict[bytes, str] = {}
        self.is_leaping = False
        """Whether everybody sleeps for a month: a vote of before may be sent after."""
        self.thefts: set[bytes] = set()
        """Entries that a thief signed."""
        self._taken_back: set[AccountId] = set()

    # After every step.

    def finalised(self, who: str, blocks: list[FinalBlock], chain: Chain) -> None:
        """A witness or reader holds these blocks final, and `chain` is its view."""
        for block in blocks:
            height = block.header.height
            if height <= len(self.chain):
                self._compare(who, block, self.chain[height - 1])
            else:
                self._audit(who, block)
        if chain.committee.epoch == len(self.committees):
            self.committees.append(chain.committee)
        height = chain.tip.height
        if chain.state.root() != self._roots[height - 1]:
            raise Broken("state", f"{who}'s state at height {height} is not what the books hold")

    def _compare(self, who: str, block: FinalBlock, known: FinalBlock) -> None:
        if block.header != known.header:
            raise Broken(
                "fork",
                f"{who} holds slot {block.header.slot} final at height {block.header.height}, others slot "
                f"{known.header.slot}",
            )
        if block.entries != known.entries:
            raise Broken("fork", f"{who} holds other entries at height {block.header.height}")
        if not block.verify(self.committees[block.header.epoch]):
            raise Broken(
                "certificate", f"{who} holds height {block.header.height} without a quorum's certificate"
            )

    def _audit(self, who: str, block: FinalBlock) -> None:
        try:
            self._replay.feed(block)
            self._replay.books.check_conservation()
        except BrokenRuleError as broken:
            raise Broken(
                f"audit: {broken.rule}", f"height {block.header.height} of {who}: {broken.detail}"
            ) from broken
        self.chain.append(block)
        self._roots.append(state_root(self._replay.books))
        for entry in block.entries:
            entry_id = entry.entry_id(self.genesis.network_id)
            if entry_id in self._refused:
                raise Broken("promise", f"final although its sender was told: {self._refused[entry_id]}")
            self.heights[entry_id] = block.header.height
            self._check_intent(entry.action, entry_id)
            self._check_theft(entry, entry_id)

    def _check_intent(self, action: object, entry_id: bytes) -> None:
        """Honest clients name each intent in the entry: no intent is ever paid for twice."""
        if isinstance(action, Claim):
            if action.cumulative > self._signed.get(action.lock_id, 0):
                raise Broken("voucher", f"lock {action.lock_id.hex()[:8]} paid more than its payer promised")
            return
        if not isinstance(action, Transfer | Lock):
            return
        intent = action.memo_hash if isinstance(action, Transfer) else action.terms_hash
        if intent != bytes(32) and self._paid_for.setdefault(intent, entry_id) != entry_id:
            raise Broken("paid twice", f"intent {intent.hex()[:8]} is final in two entries")

    def _check_theft(self, entry: Entry, entry_id: bytes) -> None:
        """Once its owner has taken an account back, a stolen key moves nothing; and it never becomes its owner."""
        if isinstance(entry.action, Rekey) and entry.action.recovery == NO_KEY:
            raise Broken("theft", "a stolen key took the account over")
        if isinstance(entry.action, Rekey) and entry.action.new_key != entry.account:
            self._taken_back.add(entry.account)
        if entry_id in self.thefts and entry.account in self._taken_back:
            raise Broken("theft", "a stolen key pays after the owner's REKEY")

    def promised_payee(self, lock_id: bytes, cumulative: int) -> None:
        """A payer signs a voucher; nobody may ever get more out of the lock without another signature."""
        self._signed[lock_id] = max(cumulative, self._signed.get(lock_id, 0))

    def sent(self, witness: Honest, message: bytes) -> None:
        """An honest witness's message leaves: its own votes must never contradict each other, whatever it forgot."""
        if message[0] != 2:  # a vote
            return
        vote = decode_message(message)
        if not isinstance(vote, Vote) or vote.witness != witness.account:
            return
        for kind in () if vote.witness in self.unsure else _RIVALS[vote.kind]:
            other = self._votes.get((vote.witness, kind, vote.epoch, vote.slot))
            if other is None or (kind is vote.kind and other.block_hash == vote.block_hash):
                continue
            if self._could_be_reminded(other):
                raise Broken(
                    "vote",
                    f"{witness.name} contradicts itself in slot {vote.slot}: {kind.name}, {vote.kind.name}",
                )
        key = vote.witness, vote.kind, vote.epoch, vote.slot
        if key not in self._votes and vote.kind is Kind.NOTAR:
            self._check_age(witness, vote)
        self._votes[key] = vote

    def heard(self, who: AccountId, sender: AccountId, message: bytes) -> None:
        """A message arrived at an honest witness, which remembers it until it dies."""
        if sender == self.watched and not self._is_restored:
            self._holders.setdefault(message, set()).add(who)

    def died(self, who: AccountId) -> None:
        """A witness lost its memory: what others voted is in no file of its."""
        for holders in self._holders.values():
            holders.discard(who)

    def restored(self) -> None:
        """The watched witness starts with an old file, and asks the others now."""
        self._is_restored = True

    def _could_be_reminded(self, vote: Vote) -> bool:
        """Whether whoever signed `vote` must know of it: from its own file, or from one of those who have to answer.

        A restored witness waits for q - 1 others, so n - q that hold the vote may be just those who did not answer.
        """
        if vote.witness != self.watched or not self._is_restored:
            return True
        committee = self.committees[vote.epoch]
        holders = self._holders.get(encode_message(vote), set())
        if len(holders) > committee.n - committee.quorum:
            return True
        self.unsure.add(vote.witness)  # evidence may name it: it is one of the f
        return False

    def _check_age(self, witness: Honest, vote: Vote) -> None:
        """A block of long ago gets no first vote: it would order entries after their end, as if in time."""
        machine = witness.machine
        candidate = None if machine is None else machine.chain.candidate(vote.block_hash)
        if machine is None or candidate is None or self.is_leaping:
            return
        age_ms = witness.clock.now().wall_ms - candidate.tip.time_ms
        is_own = machine.committee.leader(vote.slot) == vote.witness
        if age_ms > BEHIND_MS_MAX and not is_own and machine._ballots.notarised(vote.slot) is None:
            raise Broken("backdated", f"{witness.name} notarises a block that is {age_ms} ms old")

    def accused(self, evidence: Evidence) -> None:
        """An honest witness charges another: never an honest one."""
        committee = self.committees[evidence.epoch]
        if not evidence.verify(committee):
            raise Broken("accusation", "evidence that does not hold")
        innocent = (set(evidence.culprits(committee)) & self.honest) - self.unsure
        if innocent:
            raise Broken("accusation", f"honest witnesses are accused in epoch {evidence.epoch}")

    def refused_for_good(self, entry_id: bytes, reason: str) -> None:
        """A client was told that its entry can never be applied any more."""
        if entry_id in self.heights:
            raise Broken("promise", f"final, and its sender was told: {reason}")
        self._refused[entry_id] = reason

    # At the end.

    def check_end(self, honest: list[Honest], readers: list[Reader]) -> None:
        """Everybody holds the same, everything acknowledged is there, and an auditor signs the whole."""
        try:
            self._replay.end()
        except BrokenRuleError as broken:
            raise Broken(f"audit: {broken.rule}", broken.detail) from broken
        views = [(member.name, member.disk.blocks) for member in honest]
        views += [(reader.name, reader.blocks) for reader in readers]
        for name, blocks in views:
            if len(blocks) != len(self.chain):
                raise Broken("behind", f"{name} stays at height {len(blocks)} of {len(self.chain)}")
            for height, (block, known) in enumerate(zip(blocks, self.chain, strict=True), 1):
                if block.header != known.header or block.entries != known.entries:
                    raise Broken("fork", f"the disk of {name} differs at height {height}")
        for entry_id, height in self.promised.items():
            if self.heights.get(entry_id) != height:
                raise Broken(
                    "promise", f"entry {entry_id.hex()[:8]} was final at height {height}, and is not"
                )
