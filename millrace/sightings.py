"""What a node has found out about those who keep the ledger: evidence of lies, and heads that are not of its chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.asking import Untrustworthy
from ledger.core.encoding import WireError
from ledger.core.evidence import Fork, ProposalPair
from ledger.core.keys import account_from_peer_id, peer_id
from millrace.core.api_messages import PEERS_CHECKED_MAX
from millrace.errors import UsageError

if TYPE_CHECKING:
    from ledger.core.evidence import Evidence
    from ledger.core.keys import AccountId
    from ledger.sync import Follower
    from ledger.watch import Finding

__all__ = ["check_heads", "evidence_found", "standing_of_ledger"]

FINDINGS_TOLD_MAX: Final = 1_000


def evidence_found(follower: Follower) -> dict[str, Any]:
    """All the evidence that this node holds, oldest first: who, what, when, and the proof itself."""
    found = follower.watch.findings()
    return {
        "evidence": [_finding(finding) for finding in found[:FINDINGS_TOLD_MAX]],
        "left_out": max(0, len(found) - FINDINGS_TOLD_MAX),
        "split": standing_of_ledger(follower)["split"],
    }


def standing_of_ledger(follower: Follower) -> dict[str, Any]:
    """For `status`: where the ledger here begins, how much evidence there is, and what is wrong with the whole."""
    split = follower.fork
    text = ""
    if split is not None:
        heights = sorted({split.first.header.height, split.second.header.height})
        text = (
            f"witnesses made two chains final, seen at height {' and '.join(map(str, heights))}: more than f of them "
            "lied; rely on nothing new, and ask the operators"
        )
    return {
        "evidence": follower.archive.store.evidence_count,
        "split": text,
        "base": follower.archive.store.first_height,
        "halted": [
            {"peer": peer_id(source), "why": why}
            for source, why in sorted(follower.watch.halted.items())
            if source in follower.committee
        ],
    }


async def check_heads(follower: Follower, peers: list[Any]) -> dict[str, Any]:
    """Hold the heads of `peers` (peer ids), or of all sources, against this node's chain."""
    accounts = [_account(text) for text in peers] or list(follower.sources())[:PEERS_CHECKED_MAX]
    standings: dict[AccountId, dict[str, Any]] = {}

    async def look(account: AccountId) -> None:
        try:
            found = await follower.watch.compare_heads(account)
            standings[account] = {"verdict": found.verdict, "height": found.height, "detail": found.detail}
        except Untrustworthy as error:
            standings[account] = {"verdict": "false", "height": 0, "detail": str(error)}
        except (ConnectionError, TimeoutError, trio.TooSlowError) as error:
            detail = str(error) or "no answer in time"
            standings[account] = {"verdict": "no_answer", "height": 0, "detail": detail}

    async with trio.open_nursery() as nursery:
        for account in dict.fromkeys(accounts):
            nursery.start_soon(look, account)
    heads = [{"peer": peer_id(account), **standings[account]} for account in dict.fromkeys(accounts)]
    return {"height": follower.head.height, "heads": heads, "split": standing_of_ledger(follower)["split"]}


def _finding(finding: Finding) -> dict[str, Any]:
    evidence = finding.evidence
    return {
        "what": _what(evidence),
        "epoch": evidence.epoch,
        "slot": evidence.place.slot,
        "time_ms": _time_ms(evidence),
        "culprits": [peer_id(account) for account in finding.culprits],
        "suspects": [peer_id(account) for account in finding.suspects],
        "record": evidence.encode().hex(),
    }


def _what(evidence: Evidence) -> str:
    if isinstance(evidence, Fork):
        return "fork"
    if isinstance(evidence, ProposalPair):
        return "two_blocks"
    return f"{evidence.first.kind.name}_{evidence.second.kind.name}".lower()


def _time_ms(evidence: Evidence) -> int | None:
    """The block time that goes with it; votes name none."""
    if isinstance(evidence, Fork | ProposalPair):
        return evidence.first.header.time_ms
    return None


def _account(text: object) -> AccountId:
    try:
        return account_from_peer_id(text if isinstance(text, str) else "")
    except WireError as error:
        raise UsageError("that is no peer", str(error), "copy a peer id: it starts with 12D3Koo") from error
