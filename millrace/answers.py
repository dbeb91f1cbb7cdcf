"""What the node answers on its local API: status, peers, offers, money, ledger, jobs (SPEC.md §16).

Only reading and shaping happens here; `job.run` is `purchase`'s work.
"""

from __future__ import annotations

import hashlib
import os
import time
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from bootstrap.genesis import fault_line
from ledger.core.encoding import WireError
from ledger.core.entries import Transfer
from ledger.core.keys import AccountId, account_from_peer_id, peer_id
from millrace.api import AndThen
from millrace.core.api_messages import API_VERSION
from millrace.core.statement import action_fields
from millrace.errors import UsageError
from millrace.governance import Governance
from millrace.money import receipt_fields, submit
from millrace.rekeying import Rekeying
from millrace.sightings import check_heads, evidence_found, standing_of_ledger

if TYPE_CHECKING:
    from ledger.core.block import FinalBlock
    from millrace.api import Answer, Emit
    from millrace.journal import JobRecord
    from millrace.rooms import Node
    from p2p.core.advertbook import Offer

__all__ = ["Answers"]

LISTED_MAX: Final = 1_000
"""Peers or offers in one answer: more would not fit a frame, nor anybody's screen."""
TIMELINE_BYTES_MAX: Final = 2 << 20
"""A long job's timeline is cut to its newest events, so that the answer fits a frame."""


class Answers:
    """The methods of one node; `table` is what `api_serving` wants."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._governance = Governance(node)
        self._rekeying = Rekeying(node)

    def table(self) -> dict[str, Answer]:
        """Method → what answers it."""
        return {
            "version": self._version,
            "status": self._status,
            "peers": self._peers,
            "offers": self._offers,
            "balance": self._balance,
            "send": self._send,
            "ledger.head": self._head,
            "ledger.check": self._check,
            "ledger.evidence": self._evidence,
            "ledger.show": self._show,
            "ledger.receipts": self._receipts,
            "ledger.receipt": self._receipt,
            "ledger.audit": self._audit,
            "job.run": self._node.purchases.run,
            "jobs.ls": self._jobs,
            "job.show": self._job,
            "stop": self._stop,
            **self._governance.table(),
            **self._rekeying.table(),
        }

    async def _version(self, _params: dict[str, Any], _emit: Emit) -> object:
        return {"version": metadata.version("millrace"), "api": API_VERSION}

    async def _status(self, _params: dict[str, Any], _emit: Emit) -> object:
        node = self._node
        genesis, committee = node.network.genesis, node.follower.committee
        mesh = node.mesh.status()
        statement = await node.books.statement()
        head = node.follower.head
        return {
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - node.started_s, 1),
            "version": metadata.version("millrace"),
            "name": node.config.node.name,
            "peer_id": peer_id(node.account),
            "network": {
                "name": genesis.name,
                "network_id": genesis.network_id.hex(),
                "witnesses": committee.n,
                "faults": committee.faults,
                "quorum": committee.quorum,
                "statement": fault_line(committee),
            },
            "addresses": list(node.mesh.addresses or node.mesh.host.addresses),
            "links": [
                {"peer": peer_id(link.account), "address": link.address, "inbound": link.inbound}
                for link in node.mesh.host.links()
            ],
            "peers": {"linked": mesh.links, "known": mesh.peers_known, "offers": mesh.adverts},
            "lending": self._lending(),
            "jobs": {"running": node.purchases.running, "done": node.purchases.done},
            "sandbox": [
                {"name": layer.name, "standing": layer.standing, "detail": layer.detail}
                for layer in (node.runner.layers if node.runner is not None else ())
            ],
            "balance": {
                **node.books.balance(node.account),
                "earned": statement.earned,
                "spent": statement.spent,
                "sent": statement.sent,
                "received": statement.received,
            },
            "ledger": {
                "height": head.height,
                "entries": node.follower.archive.chain.log.size,
                "time_ms": head.time_ms,
                "age_s": max(0, node.clock_ms() - head.time_ms) // 1000,
                "trouble": node.follower.archive.trouble or node.follower.archive.damage,
                "waiting": node.wallet.waits_for,
                **standing_of_ledger(node.follower),
            },
            "rules": self._governance.standing(),
            "key": self._rekeying.standing(),
        }

    def _lending(self) -> dict[str, Any]:
        lending = self._node.lending
        if lending is None:
            return {"on": False, "why": self._node.lending_off}
        slots = lending.capacity.slots
        return {
            "on": not lending.withdrawn,
            "why": "draining: no new leases are taken" if lending.withdrawn else "",
            "kinds": list(self._node.config.share.kinds),
            "slots": slots,
            "slots_busy": slots - lending.server.slots_free,
            "leases": lending.server.active,
            "units_done": lending.meter.done,
            "units_failed": lending.meter.failed,
            "fuel_per_s": lending.capacity.fuel_per_s,
            "price_per_tfuel": lending.server.policy.price_per_tfuel,
        }

    async def _peers(self, _params: dict[str, Any], _emit: Emit) -> object:
        mesh = self._node.mesh
        links = {link.account: link for link in mesh.host.links()}
        offers = {offer.author: offer for offer in mesh.adverts.items(self._node.clock_ms())}
        offers.pop(self._node.account, None)
        listed = []
        for account in sorted({*links, *offers}):
            link, offer = links.get(account), offers.get(account)
            listed.append(
                {
                    "peer": peer_id(account),
                    "name": offer.advert.name if offer else "",
                    "linked": link is not None,
                    "inbound": link.inbound if link else False,
                    "address": link.address if link else "",
                    "addresses": list(offer.advert.addresses) if offer else [],
                    "witness": account in self._node.follower.committee,
                    "offer": self._offer(offer) if offer else None,
                }
            )
        return {"peers": listed[:LISTED_MAX], "left_out": max(0, len(listed) - LISTED_MAX)}

    async def _offers(self, params: dict[str, Any], _emit: Emit) -> object:
        kind = params["kind"]
        heard = self._node.mesh.adverts.items(self._node.clock_ms())
        offers = [offer for offer in heard if kind is None or kind in offer.advert.kinds]
        listed = [self._offer(offer) for offer in offers[:LISTED_MAX]]
        return {"offers": listed, "left_out": len(offers) - len(listed)}

    def _offer(self, offer: Offer) -> dict[str, Any]:
        advert = offer.advert
        return {
            "peer": peer_id(offer.author),
            "name": advert.name,
            "kinds": list(advert.kinds),
            "runtimes": dict(advert.runtimes),
            "cores": advert.cores,
            "memory_bytes": advert.memory_bytes,
            "slots_free": advert.slots_free,
            "rates": dict(advert.rates),
            "price_per_tfuel": advert.price_per_tfuel,
            "core_hour": advert.price_core_hour,
            "region": advert.region,
            "watts": advert.watts,
            "addresses": list(advert.addresses),
            "sealed_ms": offer.envelope.expires_ms - offer.envelope.lifetime_ms,
            "heard_ms": offer.heard_ms,
            "expires_ms": offer.envelope.expires_ms,
            "mine": offer.author == self._node.account,
        }

    async def _balance(self, params: dict[str, Any], _emit: Emit) -> object:
        text = params["account"]
        return self._node.books.balance(self._node.account if text is None else _account(text))

    async def _send(self, params: dict[str, Any], emit: Emit) -> object:
        memo = params["memo"].encode()
        transfer = Transfer(
            _account(params["to"]), params["amount"], hashlib.sha256(memo).digest() if memo else bytes(32)
        )
        receipt = await submit(self._node.wallet, transfer, params["timeout_s"], emit)
        fields = receipt_fields(receipt, self._node.network.network_id)
        return {"to": params["to"], "amount": params["amount"], **fields}

    async def _head(self, _params: dict[str, Any], _emit: Emit) -> object:
        follower = self._node.follower
        committee, totals = follower.committee, follower.state.totals()
        return {
            "height": follower.head.height,
            "base": follower.archive.store.first_height,
            "slot": follower.head.slot,
            "time_ms": follower.head.time_ms,
            "hash": follower.head.block_hash.hex(),
            "tree_size": follower.archive.chain.log.size,
            "log_root": follower.archive.chain.log.root().hex(),
            "totals": {
                "balance": totals.balance,
                "locked": totals.locked,
                "accounts": totals.accounts,
                "locks_open": totals.locks_open,
            },
            "witnesses": committee.n,
            "faults": committee.faults,
            "quorum": committee.quorum,
        }

    async def _check(self, params: dict[str, Any], _emit: Emit) -> object:
        return await check_heads(self._node.follower, params["peers"])

    async def _evidence(self, _params: dict[str, Any], _emit: Emit) -> object:
        return evidence_found(self._node.follower)

    async def _show(self, params: dict[str, Any], _emit: Emit) -> object:
        count = params["count"]
        newest = self._node.follower.head.height - count + 1
        first = max(1, newest if params["from"] is None else params["from"])
        return {"blocks": [self._block(block) for block in self._node.follower.blocks(first, count)]}

    def _block(self, block: FinalBlock) -> dict[str, Any]:
        genesis, header = self._node.network.genesis, block.header
        first = header.tree_size - header.count
        return {
            "height": header.height,
            "slot": header.slot,
            "time_ms": header.time_ms,
            "leader": peer_id(self._node.follower.committee.leader(header.slot)),
            "hash": header.hash(genesis.network_id).hex(),
            "tree_size": header.tree_size,
            "entries": [
                {
                    "index": first + position,
                    "id": entry.entry_id(genesis.network_id).hex(),
                    "type": entry.action.TYPE.name.lower(),
                    "account": peer_id(entry.account),
                    "seq": entry.seq,
                    "fee": entry.fee,
                    **action_fields(entry),
                }
                for position, entry in enumerate(block.entries)
            ],
        }

    async def _receipts(self, params: dict[str, Any], _emit: Emit) -> object:
        entries = list((await self._node.books.statement()).entries)[-params["count"] :]
        return {
            "receipts": [
                {
                    "entry": own.entry_id.hex(),
                    "type": own.kind,
                    "height": own.height,
                    "index": own.index,
                    "time_ms": own.time_ms,
                }
                for own in reversed(entries)
            ]
        }

    async def _receipt(self, params: dict[str, Any], _emit: Emit) -> object:
        receipt = await self._node.follower.fetch_receipt(_hex(params["entry"], "entry"))
        if receipt is None:
            raise UsageError(
                "there is no receipt for this entry",
                "no final block that this node has verified holds it",
                "look at `millrace ledger receipt` for the ids of this account's entries",
            )
        return {"entry": params["entry"], "receipt": receipt.encode()}

    async def _audit(self, _params: dict[str, Any], emit: Emit) -> object:
        return await self._node.books.audit(emit)

    async def _jobs(self, params: dict[str, Any], _emit: Emit) -> object:
        return {"jobs": [_job_fields(job) for job in self._node.journal.jobs(params["count"])]}

    async def _job(self, params: dict[str, Any], _emit: Emit) -> object:
        wanted = params["job"].lower()
        found = [job for job in self._node.journal.jobs(1_000) if job.job_id.hex().startswith(wanted)]
        if len(found) != 1:
            raise UsageError(
                f"{'no job' if not found else f'{len(found)} jobs'} of this node begins with {wanted!r}",
                "a job is named by the beginning of its id, long enough to mean one job",
                "see `millrace jobs ls`",
            )
        job_id = found[0].job_id
        timeline = self._node.journal.timeline(job_id)
        cut = len(timeline)
        while timeline and len(repr(timeline)) > TIMELINE_BYTES_MAX:
            timeline = timeline[len(timeline) // 2 :]
        return {
            "job": _job_fields(found[0]),
            "timeline": timeline,
            "timeline_left_out": cut - len(timeline),
            "traffic": [
                {"peer": peer_id(peer), "sent_bytes": sent, "received_bytes": received}
                for peer, sent, received in self._node.journal.traffic(job_id)
            ],
        }

    async def _stop(self, params: dict[str, Any], _emit: Emit) -> object:
        finish = params["finish"]
        return AndThen({"stopping": True, "finish": finish}, lambda: self._node.stop(finish=finish))


def _job_fields(job: JobRecord) -> dict[str, Any]:
    return {
        "job": job.job_id.hex(),
        "state": job.state,
        "created_ms": job.created_ms,
        "module_sha256": job.module_sha256.hex(),
        "units": job.units,
        "units_done": job.accepted,
        "units_failed": job.failed,
        "replicas": job.replicas,
        "cap": job.cap,
        "cost": job.paid,
        "name": job.name,
    }


def _account(text: str) -> AccountId:
    try:
        return account_from_peer_id(text)
    except WireError as error:
        raise UsageError(
            "that is no account", str(error), "copy the peer id: it starts with 12D3Koo"
        ) from error


def _hex(text: str, what: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError as error:
        raise UsageError(f"{what} is not hex", str(error), "copy its 64 hex digits") from error
