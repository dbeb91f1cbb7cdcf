"""What the local API says and does about the account's keys: which one spends, and its replacement (SPEC.md §16).

The recovery key never comes here: whoever holds it signs the REKEY, and the node only has it ordered.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ledger.core.encoding import WireError
from ledger.core.entries import NO_KEY, Rekey, decode_entry
from ledger.core.keys import peer_id
from millrace.errors import UsageError
from millrace.keyring import load_keyring, settle_files
from millrace.money import ORDER_S, order, receipt_fields
from p2p.core.errors import IdentityError

if TYPE_CHECKING:
    from ledger.core.entries import Entry
    from ledger.core.keys import AccountId
    from millrace.api import Answer, Emit
    from millrace.keyring import Keyring
    from millrace.rooms import Node

__all__ = ["Rekeying"]


class Rekeying:
    """The methods of one node; `table` is part of what `api_serving` wants."""

    def __init__(self, node: Node) -> None:
        self._node = node

    def table(self) -> dict[str, Answer]:
        """Method → what answers it."""
        return {"key": self._key, "key.rekey": self._rekey}

    def standing(self) -> dict[str, Any]:
        """Which key spends for this node's account, whether it is here, and which may replace it."""
        state, account = self._node.follower.state, self._node.account
        line, current = state.key_line(account), state.key_of(account)
        recovery = NO_KEY if line is None else line.recovery
        held, trouble = self._look_for(current)
        return {
            "account": peer_id(account),
            "key": peer_id(current),
            "held": held,
            "trouble": trouble,
            "recovery": None if recovery == NO_KEY else peer_id(recovery),
            "rekeys": 0 if line is None else line.rekeys,
            "rekeyed_ms": 0 if line is None else line.rekeyed_ms,
            "fee_min": state.params.fee_min,
        }

    def _look_for(self, key: AccountId) -> tuple[bool, str]:
        """Whether `key` is in this node's folder, and what is wrong with the files there."""
        try:
            return self._keyring().holds(key) is not None, ""
        except UsageError as error:
            return False, error.why

    def _keyring(self) -> Keyring:
        try:
            return load_keyring(self._node.config.paths)
        except IdentityError as error:
            raise UsageError(
                "a key file of this node cannot be used", str(error), "mend the file, then try again"
            ) from error

    async def _key(self, _params: dict[str, Any], _emit: Emit) -> object:
        return self.standing()

    async def _rekey(self, params: dict[str, Any], emit: Emit) -> object:
        node = self._node
        entry, action = self._read(params["entry"])
        new_key = self._keyring().holds(action.new_key)
        if new_key is None:
            raise UsageError(
                "the new key is not here",
                "a key takes over only once it stands in this node's folder, or nobody could spend any more",
                "replace it with `millrace key rotate`",
            )
        node.wallet.hold(new_key)
        receipt = await order(
            lambda on_wait: node.wallet.submit_rekey(
                entry, timeout_s=params["timeout_s"] or ORDER_S, on_wait=on_wait
            ),
            emit,
        )
        settle_files(node.config.paths, node.follower.state.key_of(node.account))
        return {**self.standing(), **receipt_fields(receipt, node.network.network_id)}

    def _read(self, data: bytes) -> tuple[Entry, Rekey]:
        try:
            entry = decode_entry(data)
        except WireError as error:
            raise UsageError("that is no entry", str(error), "") from error
        if not isinstance(entry.action, Rekey) or entry.account != self._node.account:
            raise UsageError("that is no REKEY of this account", f"it is a {entry.action.TYPE.name}", "")
        return entry, entry.action
