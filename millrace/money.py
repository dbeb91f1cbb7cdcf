"""Asking the wallet for an entry, with the ledger's refusals as errors for people (SPEC.md §18)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.core.keys import peer_id
from ledger.core.state import Reason
from ledger.wallet import EntryExpired, EntryPending, EntryRefused, KeyReplaced, WalletBehind
from millrace.errors import EntryNotAccepted, InsufficientCredit, JobTimeout, MillraceError, NetworkTrouble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ledger.core.encoding import NetworkId
    from ledger.core.entries import Action
    from ledger.core.receipt import Receipt
    from ledger.wallet import Wallet
    from millrace.api import Emit

__all__ = ["ORDER_S", "explain_entry", "order", "receipt_fields", "submit"]

ORDER_S: Final = 30.0
"""How long the ledger may take with an entry unless its sender says otherwise."""


WAITS_QUEUED_MAX: Final = 16
"""Changes of what is waited for that a slow client has not read yet; later ones are not told."""


async def submit(wallet: Wallet, action: Action, timeout_s: float | None, emit: Emit) -> Receipt:
    """The receipt of `action` once it is final; `MillraceError`s for whatever else happens."""
    wait_s = ORDER_S if timeout_s is None else timeout_s
    return await order(lambda on_wait: wallet.submit(action, timeout_s=wait_s, on_wait=on_wait), emit)


async def order(ask: Callable[[Callable[[str], None]], Awaitable[Receipt]], emit: Emit) -> Receipt:
    """What `ask` answers, a wallet's method given its `on_wait`; its refusals as `MillraceError`s.

    `emit` hears what the ledger waits for, as events of the local API (SPEC.md §16).
    """
    changes, told = trio.open_memory_channel[str](WAITS_QUEUED_MAX)

    def on_wait(why: str) -> None:
        with suppress(trio.WouldBlock):
            changes.send_nowait(why)

    outcome: list[Receipt | EntryRefused | EntryPending | WalletBehind | KeyReplaced] = []

    async def wait() -> None:
        with changes:
            try:
                outcome.append(await ask(on_wait))
            except (EntryRefused, EntryPending, WalletBehind, KeyReplaced) as error:
                outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        async for why in told:
            await emit({"event": "waiting", "why": why})
    ended = outcome[0]
    if isinstance(ended, Exception):
        raise explain_entry(ended) from ended
    return ended


def receipt_fields(receipt: Receipt, network_id: NetworkId) -> dict[str, Any]:
    """A receipt as the local API answers it."""
    return {
        "entry": receipt.entry.entry_id(network_id).hex(),
        "height": receipt.header.height,
        "index": receipt.index,
        "receipt": receipt.encode(),
    }


def explain_entry(error: EntryRefused | EntryPending | WalletBehind | KeyReplaced) -> MillraceError:
    """The wallet's error with what to do next."""
    match error:
        case WalletBehind():
            return NetworkTrouble(
                "the ledger cannot be written now", str(error), "look at `millrace status`, try again"
            )
        case KeyReplaced():
            return EntryNotAccepted(
                "this node does not hold the key that spends for its account",
                f"a REKEY made it {peer_id(error.key)}; nothing was signed",
                "if that was you, copy account.key from where it was made; if not, take the account back with the "
                "recovery words: millrace key rotate",
            )
        case EntryPending():
            return JobTimeout(
                "the ledger has not taken the entry in time",
                f"entry {error.entry_id.hex()} stays pending: the node goes on sending it",
                "do not repeat it; look at `millrace ledger receipt` in a while",
            )
        case EntryExpired() if not error.is_certain:
            return NetworkTrouble(
                "no block took the entry in time, and it is not certain yet that none did",
                error.detail,
                "asking for exactly the same again is safe: it is paid once; `millrace balance` shows what was",
            )
        case EntryExpired():
            return NetworkTrouble(
                "no block took the entry in time",
                error.detail,
                "nothing moved: try again; see `millrace status`",
            )
        case _ if error.reason is Reason.INSUFFICIENT:
            return InsufficientCredit(
                "the account does not hold that much",
                error.detail,
                "see `millrace balance`; nothing moved" if error.is_certain else "see `millrace balance`",
            )
        case _:
            return EntryNotAccepted(
                "the ledger refused the entry",
                f"{error.reason.value}: {error.detail}",
                "nothing moved"
                if error.is_certain
                else "nothing has moved so far; look at `millrace balance`",
            )
