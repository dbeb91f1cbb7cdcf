"""Watching those whom one learns from: are their heads of our chain, and what evidence do they hold (SPEC.md §15.5).

A follower pulls from one source at a time and verifies what it gets; so two sources could still show two followers two
chains, if more than f witnesses lie. Comparing heads finds that, and evidence tells who.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ledger.asking import Untrustworthy, ask, byte_strings
from ledger.core.docket import Docket
from ledger.core.encoding import WireError
from ledger.core.evidence import decode_evidence
from ledger.core.heads import CertifiedHeader
from ledger.core.keys import peer_id
from ledger.core.light import SplitView, compare
from ledger.core.requests import EvidenceAfter, Head, field
from ledger.proofs import certified_header, committee_of
from ledger.store import Batch

if TYPE_CHECKING:
    from ledger.archive import Archive
    from ledger.asking import Request
    from ledger.core.evidence import Evidence
    from ledger.core.keys import AccountId

__all__ = ["Finding", "Standing", "Watch"]

SOURCES_REMEMBERED_MAX: Final = 256
HALTED_CHARS_MAX: Final = 400
"""Of what a source says about itself."""
ANSWERS_PER_VISIT_MAX: Final = 4
"""Answers with evidence that one visit takes; the next goes on from there."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a source's head compares with this node's chain: `agrees`, `ahead`, `behind`, `split` or `unproved`."""

    verdict: str
    height: int
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """A record of evidence with whom it proves guilty, and of whom it only proves that more than f of them lied."""

    evidence: Evidence
    culprits: tuple[AccountId, ...]
    suspects: tuple[AccountId, ...]


class Watch:
    """One archive's view of its sources. `visit` looks at one of them."""

    def __init__(self, archive: Archive, request: Request) -> None:
        self._archive = archive
        self._request = request
        self._docket: Docket | None = None
        self._heard: dict[AccountId, int] = {}
        self._disbelieved: set[AccountId] = set()
        self.split: SplitView | None = None
        """Two final headers that are not of one chain, once they were seen: rely on nothing new."""
        self.halted: dict[AccountId, str] = {}
        """Sources that said why they do not vote, when they were looked at last; their word, and no proof."""

    async def visit(self, source: AccountId) -> None:
        """Compare heads with `source`, and take over the evidence that it holds. Errors as `ask` raises them."""
        await self.compare_heads(source)
        if source not in self._disbelieved:
            await self._pull_evidence(source)

    async def compare_heads(self, source: AccountId) -> Standing:
        """How the head of `source` compares with our chain. `Untrustworthy` if it cannot prove what it says."""
        fields = await ask(self._request, source, Head())
        try:
            height, data = field(fields, "height", int), field(fields, "certified", bytes)
            theirs = CertifiedHeader.decode(data) if data else None
            self._note_halted(source, fields.get("halted"))
        except WireError as error:
            raise Untrustworthy(f"its head: {error}") from error
        if theirs is None:
            return Standing("unproved" if height else "behind", 0, "no certified head")
        committee = committee_of(self._archive, theirs.header.epoch)
        if committee is None:
            return Standing("unproved", theirs.header.height, f"of epoch {theirs.header.epoch}, unknown here")
        if not theirs.verify(committee):
            raise Untrustworthy("its head is certified by no quorum")
        return await self._place(theirs)

    async def note_fork(self, theirs: CertifiedHeader) -> SplitView | None:
        """Hold a final header of others against our chain; a split is kept, with its evidence."""
        mine = certified_header(self._archive, min(theirs.header.height, self._archive.height))
        committee = committee_of(self._archive, theirs.header.epoch)
        if mine is None or committee is None or not theirs.verify(committee):
            return None
        split = compare(mine, theirs, committee.network_id)
        if split is not None:
            self.split = self.split or split
            _log.critical("ledger: witnesses made two chains final, at height %d", theirs.header.height)
            if split.fork is not None:
                await self.keep(split.fork)
        return split

    async def keep(self, evidence: Evidence) -> bool:
        """Verify a record and keep it, if it is new; `Untrustworthy` if it does not hold."""
        committee = committee_of(self._archive, evidence.epoch)
        if committee is None:
            return False
        if not evidence.verify(committee):
            raise Untrustworthy("its evidence proves nothing")
        if not self._known().add(evidence, committee):
            return False
        _log.error(
            "ledger: evidence against %s", ", ".join(map(peer_id, evidence.culprits(committee))) or "some"
        )
        await self._archive.write(Batch(evidence=(evidence.encode(),)))
        return True

    def findings(self) -> list[Finding]:
        """All the evidence on disk, oldest first, verified when it was kept; what a witness here found, too."""
        found = []
        for _, record in self._archive.store.evidence():
            evidence = decode_evidence(record)
            committee = committee_of(self._archive, evidence.epoch)
            if committee is not None:
                suspects = evidence.suspects(committee)
                found.append(Finding(evidence, evidence.culprits(committee), suspects))
        return found

    def _is_to_come(self, evidence: Evidence) -> bool:
        """Whether its epoch has yet to be reached here: whoever begins asks for it again."""
        return evidence.epoch > self._archive.chain.committee.epoch

    async def _place(self, theirs: CertifiedHeader) -> Standing:
        height = theirs.header.height
        if await self.note_fork(theirs) is not None:
            return Standing("split", height, "its chain is not ours: more than f witnesses lied")
        if height == self._archive.height:
            return Standing("agrees", height)
        if height < self._archive.store.first_height:
            return Standing("behind", height, "its head is from before what is held here")
        return Standing("ahead" if height > self._archive.height else "behind", height)

    async def _pull_evidence(self, source: AccountId) -> None:
        after = self._heard.pop(source, 0)
        for _ in range(ANSWERS_PER_VISIT_MAX):
            fields = await ask(self._request, source, EvidenceAfter(after))
            try:
                records = [decode_evidence(data) for data in byte_strings(fields, "evidence")]
                now = field(fields, "next", int)
                for record in records:
                    await self.keep(record)
                if not records or now <= after or any(map(self._is_to_come, records)):
                    break
            except (WireError, Untrustworthy) as error:
                self._disbelieved.add(source)
                raise Untrustworthy(f"false evidence: {error}") from error
            after = now
        self._heard[source] = after
        while len(self._heard) > SOURCES_REMEMBERED_MAX:
            self._heard.pop(next(iter(self._heard)))

    def _note_halted(self, source: AccountId, why: object) -> None:
        self.halted.pop(source, None)
        if isinstance(why, str) and why and len(self.halted) < SOURCES_REMEMBERED_MAX:
            self.halted[source] = why[:HALTED_CHARS_MAX]

    def _known(self) -> Docket:
        """What is kept, read from disk once."""
        if self._docket is None:
            self._docket = Docket()
            for _, record in self._archive.store.evidence():
                evidence = decode_evidence(record)
                committee = committee_of(self._archive, evidence.epoch)
                if committee is not None:
                    self._docket.add(evidence, committee)
        return self._docket
