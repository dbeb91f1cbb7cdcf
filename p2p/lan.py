"""Peers on the same local network, by mDNS (SPEC.md §11).

zeroconf directly, not libp2p's wrapper: that advertises 0.0.0.0 for a wildcard, writes into the address store
from another thread, and offers no way to be told. zeroconf calls us in its own thread; what it found crosses
into trio through a bounded channel, and what does not fit is dropped (it will be announced again).
"""

from __future__ import annotations

import ipaddress
import logging
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio
import zeroconf

from ledger.core.encoding import WireError
from ledger.core.keys import AccountId, account_from_peer_id, peer_id

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Found", "LanDiscovery"]

_log = logging.getLogger(__name__)

FOUND_MAX: Final = 64
ADDRESSES_MAX: Final = 4
ADDRESS_CHARS_MAX: Final = 200
RESOLVE_TIMEOUT_MS: Final = 2000


@dataclass(frozen=True, slots=True)
class Found:
    """A peer that announces itself on the local network: a claim, proved only by connecting."""

    account: AccountId
    addresses: tuple[str, ...]


class LanDiscovery:
    """Announces one node and listens for others, while `run` runs."""

    def __init__(self, service: str, account: AccountId, addresses: Sequence[str]) -> None:
        """`service` is a DNS-SD type (`p2p.core.protocols.mdns_service`); `addresses` end in our peer id."""
        self._service = service
        self._account = account
        self._addresses = tuple(addresses)
        self._send, self.found = trio.open_memory_channel[Found](FOUND_MAX)
        self._token: trio.lowlevel.TrioToken | None = None

    async def run(self) -> None:
        """Announce and listen until cancelled; a machine without multicast gets a log line, not an error."""
        self._token = trio.lowlevel.current_trio_token()
        try:
            network = await trio.to_thread.run_sync(zeroconf.Zeroconf)
        except OSError as error:
            _log.warning("no mDNS on this machine: %s", error)
            return
        try:
            try:
                await trio.to_thread.run_sync(partial(self._announce, network))
            except (OSError, zeroconf.Error) as error:
                _log.warning("cannot announce by mDNS: %s", error)
            await trio.sleep_forever()
        finally:
            self._token = None
            with trio.CancelScope(shield=True):
                await trio.to_thread.run_sync(network.close)

    def _announce(self, network: zeroconf.Zeroconf) -> None:
        name = peer_id(self._account)
        parts = [address.split("/") for address in self._addresses]
        hosts = [part[2] for part in parts]
        info = zeroconf.ServiceInfo(
            self._service,
            f"{name}.{self._service}",
            port=int(parts[0][4]) if parts else 0,
            properties={f"dnsaddr{i}": address for i, address in enumerate(self._addresses[:ADDRESSES_MAX])},
            server=f"{name}.local.",
            parsed_addresses=[host for host in hosts if _is_ip(host)],
        )
        zeroconf.ServiceBrowser(network, self._service, handlers=[self._on_change])
        network.register_service(info, allow_name_change=False)

    def _on_change(
        self,
        zeroconf: zeroconf.Zeroconf,  # the library calls with these keyword names
        service_type: str,
        name: str,
        state_change: zeroconf.ServiceStateChange,
    ) -> None:
        """In zeroconf's thread."""
        if state_change.name == "Removed":
            return
        info = zeroconf.get_service_info(service_type, name, timeout=RESOLVE_TIMEOUT_MS)
        found = None if info is None else _read(info.properties)
        token = self._token
        if found is None or found.account == self._account or token is None:
            return
        try:
            token.run_sync_soon(self._hand_over, found)
        except trio.RunFinishedError:
            return

    def _hand_over(self, found: Found) -> None:
        try:
            self._send.send_nowait(found)
        except (trio.WouldBlock, trio.BrokenResourceError):
            _log.debug("mDNS: %s is not wanted now", peer_id(found.account))


def _read(properties: Mapping[bytes, bytes | None]) -> Found | None:
    """What an announcement says, or None when it is not one of ours."""
    account: AccountId | None = None
    addresses: list[str] = []
    for key, value in list(properties.items())[: 2 * ADDRESSES_MAX]:
        if not key.startswith(b"dnsaddr") or value is None or len(value) > ADDRESS_CHARS_MAX:
            continue
        try:
            bare, _, name = value.decode("ascii").rpartition("/p2p/")
            owner = account_from_peer_id(name)
        except (UnicodeDecodeError, WireError):
            continue
        if account is None:
            account = owner
        if owner == account and len(addresses) < ADDRESSES_MAX:
            addresses.append(bare)
    return Found(account, tuple(addresses)) if account is not None else None


def _is_ip(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
