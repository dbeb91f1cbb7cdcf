"""Asking the wallet for an entry, with the ledger's refusals as errors for people (SPEC.md §18)."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import trio

from ledger.core.state import Reason
from ledger.wallet import EntryExpired, EntryPending, EntryRefused, WalletBehind
from millrace.errors import EntryNotAccepted, InsufficientCredit, JobTimeout, MillraceError, NetworkTrouble

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ledger.core.entries import Action
    from ledger.core.receipt import Receipt
    from ledger.wallet import Wallet

__all__ = ["explain_entry", "submit"]


WAITS_QUEUED_MAX: Final = 16
"""Changes of what is waited for that a slow client has not read yet; later ones are not told."""


async def submit(
    wallet: Wallet, action: Action, timeout_s: float, emit: Callable[[dict[str, Any]], Awaitable[None]]
) -> Receipt:
    """The receipt of `action` once it is final; `MillraceError`s for whatever else happens.

    `emit` hears what the ledger waits for, as events of the local API (SPEC.md §16).
    """
    changes, told = trio.open_memory_channel[str](WAITS_QUEUED_MAX)

    def on_wait(why: str) -> None:
        with suppress(trio.WouldBlock):
            changes.send_nowait(why)

    outcome: list[Receipt | EntryRefused | EntryPending | WalletBehind] = []

    async def order() -> None:
        with changes:
            try:
                outcome.append(await wallet.submit(action, timeout_s=timeout_s, on_wait=on_wait))
            except (EntryRefused, EntryPending, WalletBehind) as error:
                outcome.append(error)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(order)
        async for why in told:
            await emit({"event": "waiting", "why": why})
    ended = outcome[0]
    if isinstance(ended, Exception):
        raise explain_entry(ended) from ended
    return ended


def explain_entry(error: EntryRefused | EntryPending | WalletBehind) -> MillraceError:
    """The wallet's error with what to do next."""
    match error:
        case WalletBehind():
            return NetworkTrouble(
                "the ledger cannot be written now", str(error), "look at `millrace status`, try again"
            )
        case EntryPending():
            return JobTimeout(
                "the ledger has not taken the entry in time",
                f"entry {error.entry_id.hex()} stays pending: the node goes on sending it",
                "do not repeat it; look at `millrace ledger receipt` in a while",
            )
        case EntryExpired():
            return NetworkTrouble(
                "no block took the entry in time",
                error.detail,
                "nothing moved: try again; see `millrace status`",
            )
        case _ if error.reason is Reason.INSUFFICIENT:
            return InsufficientCredit(
                "the account does not hold that much", error.detail, "see `millrace balance`; nothing moved"
            )
        case _:
            return EntryNotAccepted(
                "the ledger refused the entry", f"{error.reason.value}: {error.detail}", "nothing moved"
            )
