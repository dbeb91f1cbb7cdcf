"""What the local API says and does about a network's rules: decrees, and credit lines that are lent (SPEC.md §16)."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from bootstrap.genesis import fault_line
from ledger.core.entries import Approvals, Limit
from ledger.core.keys import account_from_peer_id, peer_id
from millrace.decree import DecreeError, parse_decree
from millrace.errors import EntryNotAccepted, UsageError
from millrace.money import receipt_fields, submit

if TYPE_CHECKING:
    from ledger.core.keys import AccountId
    from millrace.api import Answer, Emit
    from millrace.decree import DecreeFile
    from millrace.rooms import Node

__all__ = ["Governance"]


class Governance:
    """The methods of one node; `table` is part of what `api_serving` wants."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> dict[str, Answer]:
        """Method → what answers it."""
        return {
            "governance": self._governance,
            "decree.submit": self._decree,
            "limits": self._limits,
            "limit.change": self._change_limit,
        }

    def standing(self) -> dict[str, Any]:
        """What decrees have made of the network, as this node's copy of the ledger has it."""
        state, genesis = self._node.follower.state, self._node.network.genesis
        committee, pending = self._node.follower.committee, state.pending
        return {
            "height": self._node.follower.head.height,
            "decrees": state.decrees,
            "next": state.decrees + 1,
            "governors": [peer_id(account) for account in genesis.governors],
            "needed": genesis.governors_needed,
            "committee": {
                "epoch": committee.epoch,
                "witnesses": [peer_id(account) for account in committee.witnesses],
                "faults": committee.faults,
                "quorum": committee.quorum,
                "statement": fault_line(committee),
            },
            "params": asdict(state.params),
            "pending": None
            if pending is None
            else {"from_height": pending.from_height, **asdict(pending.params)},
        }

    async def _governance(self, _params: dict[str, Any], _emit: Emit) -> object:
        return self.standing()

    async def _decree(self, params: dict[str, Any], emit: Emit) -> object:
        """Submit it if it can take effect; else say what is missing, before anything is signed."""
        try:
            file = parse_decree(params["decree"])
        except DecreeError as error:
            raise UsageError(error.what, error.why, error.next_step) from error
        self._check_decree(file)
        genesis, state = self._node.network.genesis, self._node.follower.state
        valid = {
            governor: signature
            for governor, signature in file.signatures.items()
            if governor in genesis.governors and file.is_signed_by(governor, state.key_of(governor))
        }
        if len(valid) < genesis.governors_needed:
            others = sorted(file.signatures.keys() - valid.keys())
            raise UsageError(
                "the decree is not approved",
                f"{len(valid)} of its {len(genesis.governors)} governors signed it, "
                f"{genesis.governors_needed} are needed",
                "each who agrees: millrace decree sign FILE",
                reasons=tuple(f"{peer_id(account)}: {self._why_void(account)}" for account in others),
            )
        action = replace(file.decree, approvals=Approvals.collect(genesis.governors, valid))
        receipt = await submit(self._node.wallet, action, params["timeout_s"], emit)
        return {"decree": action.decree, **receipt_fields(receipt, genesis.network_id)}

    def _check_decree(self, file: DecreeFile) -> None:
        network, following = self._node.network, self._node.follower.state.decrees + 1
        if file.network_id != network.network_id:
            raise UsageError(
                f"the decree is for another network, {file.network!r}",
                f"this node belongs to {network.name!r}",
                "submit it at a member of that network",
            )
        if not network.genesis.governors:
            raise UsageError("nothing can be decreed on this network", "it has no governors", "")
        if file.decree.decree != following:
            raise EntryNotAccepted(
                f"it is decree {file.decree.decree}, the ledger's next is {following}",
                "decrees take effect one after the other, each number once",
                "submit the ones before it first"
                if file.decree.decree > following
                else "if it is still wanted, draft it again with the next number, and have it signed again",
            )

    def _why_void(self, account: AccountId) -> str:
        if account not in self._node.network.genesis.governors:
            return "no governor of this network"
        return "the signature is not by the key that its account has now"

    async def _limits(self, _params: dict[str, Any], _emit: Emit) -> object:
        own, state = self._node.account, self._node.follower.state
        lent = state.delegations_of(own)
        return {
            "limit": state.account(own).limit,
            "balance": state.account(own).balance,
            "granted": [{"peer": peer_id(to), "amount": amount} for by, to, amount in lent if by == own],
            "held": [{"peer": peer_id(by), "amount": amount} for by, to, amount in lent if to == own],
        }

    async def _change_limit(self, params: dict[str, Any], emit: Emit) -> object:
        try:
            beneficiary = account_from_peer_id(params["beneficiary"])
            action = Limit(beneficiary, params["delta"])
        except ValueError as error:
            raise UsageError(
                "no such credit line can be lent", str(error), "copy the peer id: it starts with 12D3Koo"
            ) from error
        receipt = await submit(self._node.wallet, action, params["timeout_s"], emit)
        fields = receipt_fields(receipt, self._node.network.network_id)
        return {"beneficiary": params["beneficiary"], "delta": params["delta"], **fields}
