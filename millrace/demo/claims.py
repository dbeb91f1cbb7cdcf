"""What the demo claims, checked one by one, once every process is gone and only their files are left."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import trio

from ledger.core.amounts import format_credits
from millrace.demo import proof, words
from millrace.demo.network import BUYER, LIAR, VICTIM, WITNESSES, WORKERS
from millrace.demo.play import LOST_WITNESS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from millrace.demo.network import DemoNetwork
    from millrace.demo.picture import Picture
    from millrace.demo.play import Performance
    from millrace.demo.stage import Stage

__all__ = ["Check", "Evidence"]


@dataclass(frozen=True, slots=True)
class Check:
    """One claim, whether it held, and what was seen."""

    claim: str
    held: bool
    seen: str


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that was seen of one demo: `rendered` and `counted` are its jobs, `balances` micro-credits by name.

    `figures` takes what the checks measure on their way.
    """

    network: DemoNetwork
    stage: Stage
    figures: dict[str, Any]
    picture: Picture
    book: bytes
    rendered: Performance
    counted: Performance
    balances: dict[str, int]
    output: Path

    @property
    def jobs(self) -> tuple[Performance, Performance]:
        """Both jobs."""
        return self.rendered, self.counted

    def check_jobs(self) -> list[Check]:
        """The results, against a direct run here and now; writes the picture."""
        tiles, pieces = (self._run_directly(job) for job in self.jobs)
        outputs = [result.stdout for result in self.rendered.results]
        self.output.write_bytes(self.picture.png(outputs))
        counts = words.merge(result.stdout for result in self.counted.results)
        top = ", ".join(f"{word.decode()} {count:,}" for word, count in counts.most_common(3))
        once = all(
            sorted(job.accepted) == list(range(len(job.assignment.units)))
            and set(job.accepted.values()) == {1}
            for job in self.jobs
        )
        liars = self.rendered.liars | self.counted.liars
        lies = self.rendered.lies + self.counted.lies
        return [
            Check("the picture is what a direct run gives", tuple(outputs) == tiles, str(self.output)),
            Check(
                "the counts are what a direct run and another program give",
                counts == words.merge(pieces) == words.count_directly(self.book),
                f"{counts.total():,} words: {top}",
            ),
            Check("each unit was accepted exactly once", once, f"{len(tiles)} tiles, {len(pieces)} pieces"),
            Check(
                "the liar was caught, and nobody else accused",
                liars == {LIAR},
                f"{lies} wrong result{'s' if lies != 1 else ''} of {', '.join(sorted(liars)) or 'nobody'}",
            ),
            Check(
                "the killed worker's units moved",
                self.rendered.moved > 0,
                f"{self.rendered.moved} went to others",
            ),
        ]

    def check_ledger(self) -> list[Check]:
        """The money: every copy audited from genesis, every receipt verified, every payment explained."""
        genesis = self.network.genesis
        disks = {name: self.network.home(name) / "ledger.db" for name in (*WITNESSES, *WORKERS, BUYER)}
        title = f"ledger audit, {len(disks)} copies"
        ledgers = proof.audit_disks(genesis, disks, lambda done, total: self.stage.bar(title, done, total))
        audit = ledgers.longest
        longest = next(name for name, report in ledgers.reports.items() if report is audit)
        broken = {name: report.violation for name, report in ledgers.reports.items() if not report.ok}
        replayed = {name: audit.balances.get(account, 0) for name, account in self.network.accounts.items()}
        receipts = [receipt for job in self.jobs for receipt in job.receipts]
        locks, claims = proof.check_receipts(genesis, receipts)
        self.figures["ledger"] = {"blocks": audit.blocks, "entries": audit.entries, "kinds": audit.kinds}
        return [
            Check(
                "every copy of the ledger passes the audit from genesis",
                not broken,
                str(broken)
                if broken
                else f"{len(disks)} copies of {audit.entries} entries in {audit.blocks} blocks",
            ),
            Check(
                "no copy contradicts another",
                proof.agree(genesis, disks, longest),
                f"{LOST_WITNESS}'s stops where it was killed",
            ),
            Check(
                "balances and open locks sum to zero",
                ledgers.sums_to_zero() and audit.locks_open == 0,
                f"Σ balances {sum(audit.balances.values())}, open locks {audit.locks_open}",
            ),
            Check(
                "the balances shown are the ones replayed",
                self.balances == replayed,
                "in micro-credits, to the last",
            ),
            Check(
                "every receipt verifies offline", locks > 0 and claims > 0, f"{locks} locks, {claims} claims"
            ),
            self._check_pay(replayed),
        ]

    def _check_pay(self, replayed: dict[str, int]) -> Check:
        """Each worker got the price of its verified units; the killed one may have lost its last voucher."""
        earned = {name: sum(job.earned(name) for job in self.jobs) for name in WORKERS}
        gifts = {WORKERS[0]: self.figures["finality_ms"]["samples"]}
        got = {name: replayed[name] - gifts.get(name, 0) for name in WORKERS}
        fair = all(
            got[name] <= earned[name] if name in {VICTIM, LIAR} else got[name] == earned[name]
            for name in WORKERS
        )
        seen = ", ".join(f"{name} {format_credits(amount)}" for name, amount in got.items())
        return Check("pay is the price of verified units, and no lie was paid", fair, seen)

    def _run_directly(self, job: Performance) -> tuple[bytes, ...]:
        work = job.assignment
        ran = trio.run(
            proof.run_locally,
            work.module,
            work.units,
            work.limits,
            self.network.root / "direct",
            self._bar(f"{work.name}, directly", len(work.units)),
        )
        self.figures["sandbox"] = {layer.name: layer.standing for layer in ran.layers}
        return ran.outputs

    def _bar(self, name: str, total: int) -> Callable[[int], None]:
        return lambda done: self.stage.bar(name, done, total)
