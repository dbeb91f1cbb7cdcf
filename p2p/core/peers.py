"""The peer book: whom to dial, learnt from many mouths, bounded against each of them (SPEC.md §11.2).

What an address is worth depends on who vouches for it (`Trust`). Peers once reached are never pushed out by
peers that are only talked about, so a flood of names cannot eclipse a restart.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeVar

from ledger.core.encoding import NetworkId, Reader, WireError, digest
from ledger.core.keys import ACCOUNT_BYTES, AccountId
from p2p.core.addresses import ADDRESS_BYTES_MAX, Address, Scope, group, is_own, may_dial, parse_address

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = [
    "ADDRESSES_PER_PEER_MAX",
    "ANCHORS_MAX",
    "FAILURES_RECOMMENDED_MAX",
    "FAILURES_UNREACHED_MAX",
    "GROUP_UNREACHED_MAX",
    "PEERS_MAX",
    "RETRY_FIRST_MS",
    "RETRY_REACHED_MAX_MS",
    "RETRY_UNREACHED_MAX_MS",
    "TOLD_UNREACHED_MAX",
    "KnownAddress",
    "Peer",
    "PeerBook",
    "Trust",
    "retry_delay_ms",
]

PEERS_MAX: Final = 1024
ADDRESSES_PER_PEER_MAX: Final = 8
GROUP_UNREACHED_MAX: Final = 32
"""Peers never reached yet in one /16 (IPv6: /32) of global addresses."""
TOLD_UNREACHED_MAX: Final = 64
"""Peers never reached yet that one and the same peer told us of."""
ANCHORS_MAX: Final = 4
"""Peers with the latest proven links: dialled first after a restart."""
FAILURES_UNREACHED_MAX: Final = 8
"""A peer never reached is forgotten after so many failed dials."""
FAILURES_RECOMMENDED_MAX: Final = 2
RETRY_FIRST_MS: Final = 1_000
RETRY_REACHED_MAX_MS: Final = 30_000
RETRY_UNREACHED_MAX_MS: Final = 600_000

_MAGIC: Final = b"MRPB\x01"
_CHECKSUM_BYTES: Final = 32
_BYTES_MAX: Final = 4 << 20
_T = TypeVar("_T")


class Trust(IntEnum):
    """Who vouches for an address."""

    HEARSAY = 1
    """Somebody else says so."""
    OWN_WORD = 2
    """The peer says so itself: in a signed advert, or over its own link."""
    SEEN = 3
    """The peer says so itself, over a link that comes from this very host: it names no third party."""
    PROVEN = 4
    """We dialled it and the peer's key answered."""


@dataclass(frozen=True, slots=True)
class KnownAddress:
    """One address of a peer in multiaddr text, ending in its peer id."""

    text: str
    trust: Trust


@dataclass(frozen=True, slots=True)
class Peer:
    """What is known of a peer. `told_by` is who brought it up (None: itself, or the operator)."""

    account: AccountId
    addresses: tuple[KnownAddress, ...]
    told_by: AccountId | None = None
    learnt_ms: int = 0
    success_ms: int = 0
    failures: int = 0
    retry_ms: int = 0

    @property
    def reached(self) -> bool:
        """Whether a dial of ours has ever succeeded."""
        return self.success_ms > 0


def retry_delay_ms(failures: int, jitter: float, maximum_ms: int) -> int:
    """The pause after the `failures`-th failure in a row: doubling, half of it jittered (0 ≤ jitter < 1)."""
    full = min(maximum_ms, RETRY_FIRST_MS << min(failures - 1, 20))
    return full // 2 + int(full * jitter / 2)


class PeerBook:
    """Peers by account, bounded as a whole, per neighbourhood and per teller."""

    def __init__(self, me: AccountId, peers_max: int = PEERS_MAX) -> None:
        self._me = me
        self._peers_max = peers_max
        self._peers: dict[AccountId, Peer] = {}
        self.version = 0
        """Counts the changes worth saving."""

    def __len__(self) -> int:
        return len(self._peers)

    def get(self, account: AccountId) -> Peer | None:
        """What is known of `account`."""
        return self._peers.get(account)

    def peers(self) -> tuple[Peer, ...]:
        """Everybody, in the order in which they were first heard of."""
        return tuple(self._peers.values())

    def learn(
        self,
        account: AccountId,
        addresses: Collection[str],
        trust: Trust,
        now_ms: int,
        told_by: AccountId | None = None,
    ) -> bool:
        """Note addresses of `account`; True if that changed anything.

        Addresses that do not parse or do not end in the peer's own id are passed over. Hearsay never adds to
        a peer that has spoken for itself, and never replaces better-founded addresses.
        """
        if account == self._me:
            return False
        parsed = [found for text in addresses if (found := _belonging(text, account)) is not None]
        if not parsed:
            return False
        known = self._peers.get(account)
        if known is None:
            if trust is not Trust.PROVEN and not self._room(parsed, told_by):
                return False
            if len(self._peers) >= self._peers_max and not self._evict(for_reached=trust is Trust.PROVEN):
                return False
            known = Peer(account, (), told_by, learnt_ms=now_ms)
        elif trust is Trust.HEARSAY and any(a.trust is not Trust.HEARSAY for a in known.addresses):
            return False
        merged = _merge(known.addresses, [KnownAddress(a.text, trust) for a in parsed])
        if merged == known.addresses and account in self._peers:
            return False
        self._peers[account] = replace(known, addresses=merged)
        self.version += 1
        return True

    def succeeded(self, account: AccountId, address: str, now_ms: int) -> None:
        """A dial to `address` reached `account` and its key answered."""
        self.learn(account, (address,), Trust.PROVEN, now_ms)
        known = self._peers.get(account)
        if known is not None:
            self._peers[account] = replace(known, success_ms=max(now_ms, 1), failures=0, retry_ms=0)
            self.version += 1

    def failed(self, account: AccountId, now_ms: int, jitter: float) -> None:
        """No address of `account` answered: wait longer each time, and forget it if it never did."""
        known = self._peers.get(account)
        if known is None:
            return
        failures = known.failures + 1
        if not known.reached and failures >= FAILURES_UNREACHED_MAX:
            del self._peers[account]
        else:
            cap = RETRY_REACHED_MAX_MS if known.reached else RETRY_UNREACHED_MAX_MS
            retry_ms = now_ms + retry_delay_ms(failures, jitter, cap)
            self._peers[account] = replace(known, failures=failures, retry_ms=retry_ms)
        self.version += 1

    def anchors(self) -> tuple[Peer, ...]:
        """The peers with the latest proven links, at most ANCHORS_MAX."""
        reached = [peer for peer in self._peers.values() if peer.reached]
        return tuple(sorted(reached, key=lambda peer: -peer.success_ms)[:ANCHORS_MAX])

    def candidates(
        self,
        now_ms: int,
        exclude: Collection[AccountId],
        ours: Collection[Address],
        count: int,
        below: Callable[[int], int],
    ) -> tuple[Peer, ...]:
        """Up to `count` peers to dial now, of which each keeps only addresses that may be dialled.

        Anchors come first, then peers reached before and peers never reached by turns, each drawn at random
        with `below(n)` (a random integer under n), and no two of one neighbourhood while others are left.
        """
        due = [
            usable
            for peer in self._peers.values()
            if peer.account not in exclude
            and not now_ms
            < peer.retry_ms
            <= now_ms + RETRY_UNREACHED_MAX_MS  # further: the clock was set back
            and (usable := _usable(peer, ours)) is not None
        ]
        anchors = {peer.account for peer in self.anchors()}
        chosen = [peer for peer in due if peer.account in anchors][:count]
        rest = [peer for peer in due if peer.account not in anchors]
        pools = (
            _drawn([peer for peer in rest if peer.reached], below),
            _drawn([peer for peer in rest if not peer.reached], below),
        )
        while len(chosen) < count and any(pools):
            for pool in pools:
                if pool and len(chosen) < count:
                    chosen.append(pool.pop(0))
        return tuple(chosen)

    def recommend(
        self, count: int, exclude: Collection[AccountId], below: Callable[[int], int]
    ) -> tuple[tuple[AccountId, tuple[str, ...]], ...]:
        """Up to `count` random peers to tell others about (R11.6).

        Only proven addresses and those on the host that the peer itself came from: nobody can have a crowd
        sent to a third party's door. Peers that did not answer lately are left out.
        """
        known = [
            (peer.account, texts)
            for peer in self._peers.values()
            if peer.account not in exclude
            and peer.failures < FAILURES_RECOMMENDED_MAX
            and (texts := tuple(a.text for a in peer.addresses if a.trust >= Trust.SEEN))
        ]
        return tuple(_shuffled(known, below)[:count])

    # --- bytes: what survives a restart (SPEC.md §11.5) ---

    def to_bytes(self, network_id: NetworkId) -> bytes:
        """The book as a file: magic, peers, SHA-256 over network id and all before."""
        parts = [_MAGIC, len(self._peers).to_bytes(4, "big")]
        for peer in self._peers.values():
            parts.append(peer.account)
            parts.append(peer.told_by or bytes(ACCOUNT_BYTES))
            parts += (value.to_bytes(8, "big") for value in (peer.learnt_ms, peer.success_ms))
            parts.append(min(peer.failures, 0xFFFF).to_bytes(2, "big"))
            parts.append(bytes((len(peer.addresses),)))
            for address in peer.addresses:
                raw = address.text.encode()
                parts.append(bytes((address.trust,)) + len(raw).to_bytes(2, "big") + raw)
        body = b"".join(parts)
        return body + digest(network_id, body)

    @staticmethod
    def from_bytes(data: bytes, me: AccountId, network_id: NetworkId, peers_max: int = PEERS_MAX) -> PeerBook:
        """The book in a file; `WireError` if it is cut, changed, of another network or another version.

        Waits are not kept: a node that was restarted tries everybody again soon.
        """
        if len(data) > _BYTES_MAX or not data.startswith(_MAGIC):
            raise WireError("not a peer book of this version")
        body, checksum = data[:-_CHECKSUM_BYTES], data[-_CHECKSUM_BYTES:]
        if digest(network_id, body) != checksum:
            raise WireError("the peer book's checksum is wrong: cut short, changed, or of another network")
        reader = Reader(body[len(_MAGIC) :], "peer book")
        count = reader.uint(4)
        if count > PEERS_MAX:
            raise WireError(f"peer book of {count} peers, at most {PEERS_MAX} allowed")
        book = PeerBook(me, peers_max)
        for _ in range(count):
            peer = _read_peer(reader)
            if peer.account != me and len(book) < peers_max:
                book._peers[peer.account] = peer
        reader.end()
        return book

    # --- inside ---

    def _room(self, addresses: list[Address], told_by: AccountId | None) -> bool:
        """Whether the neighbourhood and the teller have not used up their share of unreached peers."""
        unreached = [peer for peer in self._peers.values() if not peer.reached]
        if told_by is not None:
            told = sum(1 for peer in unreached if peer.told_by == told_by)
            if told >= TOLD_UNREACHED_MAX:
                return False
        wanted = {group(address) for address in addresses if address.scope is Scope.GLOBAL}
        if not wanted:
            return True
        held: Counter[str] = Counter()
        for peer in unreached:
            held.update(
                {
                    group(a)
                    for known in peer.addresses
                    if (a := parse_address(known.text)).scope is Scope.GLOBAL
                }
            )
        return all(held[name] < GROUP_UNREACHED_MAX for name in wanted)

    def _evict(self, *, for_reached: bool) -> bool:
        """Make room for one: an unreached peer with the most failures, the oldest of those first.

        A peer just reached may also take the place of the one whose last success is the oldest.
        """
        unreached = [peer for peer in self._peers.values() if not peer.reached]
        if unreached:
            victim = min(unreached, key=lambda peer: (-peer.failures, peer.learnt_ms))
        elif for_reached:
            victim = min(self._peers.values(), key=lambda peer: peer.success_ms)
        else:
            return False
        del self._peers[victim.account]
        return True


def _belonging(text: str, account: AccountId) -> Address | None:
    try:
        address = parse_address(text)
    except WireError:
        return None
    return address if address.account == account and address.scope is not Scope.UNUSABLE else None


def _merge(known: tuple[KnownAddress, ...], told: list[KnownAddress]) -> tuple[KnownAddress, ...]:
    """Both lists, each address once with its best standing, the best-founded and then the newest first."""
    table = {address.text: address for address in known}
    for address in told:
        before = table.get(address.text)
        if before is None or before.trust < address.trust:
            table[address.text] = address
    newest = [a for a in told if a.text not in {k.text for k in known}]
    order = {a.text: index for index, a in enumerate((*newest, *known))}
    merged = sorted(table.values(), key=lambda a: (-a.trust, order[a.text]))
    return tuple(merged[:ADDRESSES_PER_PEER_MAX])


def _usable(peer: Peer, ours: Collection[Address]) -> Peer | None:
    """`peer` with the addresses that may be dialled from `ours`, relayed ones left out; None without any."""
    kept = tuple(
        known
        for known in peer.addresses
        if (address := parse_address(known.text)).relay is None
        and (may_dial(address, ours) or (known.trust is Trust.PROVEN and not is_own(address, ours)))
    )
    return replace(peer, addresses=kept) if kept else None


def _drawn(peers: list[Peer], below: Callable[[int], int]) -> list[Peer]:
    """`peers` in random order, the second and later ones of a neighbourhood behind all the first ones."""
    first: list[Peer] = []
    later: list[Peer] = []
    seen: set[str] = set()
    for peer in _shuffled(peers, below):
        name = group(parse_address(peer.addresses[0].text))
        (later if name in seen else first).append(peer)
        seen.add(name)
    return first + later


def _shuffled(items: list[_T], below: Callable[[int], int]) -> list[_T]:
    order = list(items)
    for index in range(len(order) - 1, 0, -1):
        other = below(index + 1)
        order[index], order[other] = order[other], order[index]
    return order


def _read_peer(reader: Reader) -> Peer:
    account = AccountId(reader.take(ACCOUNT_BYTES))
    told_by = AccountId(reader.take(ACCOUNT_BYTES))
    learnt_ms, success_ms, failures = reader.uint(8), reader.uint(8), reader.uint(2)
    count = reader.uint(1)
    if not 1 <= count <= ADDRESSES_PER_PEER_MAX:
        raise WireError(f"peer with {count} addresses, allowed are 1 to {ADDRESSES_PER_PEER_MAX}")
    addresses = []
    for _ in range(count):
        trust = reader.uint(1)
        if not Trust.HEARSAY <= trust <= Trust.PROVEN:
            raise WireError(f"address trust {trust} is unknown")
        address = _belonging(reader.text(2, ADDRESS_BYTES_MAX), account)
        if address is None:
            raise WireError("an address in the peer book does not belong to its peer")
        addresses.append(KnownAddress(address.text, Trust(trust)))
    teller = None if told_by == bytes(ACCOUNT_BYTES) else told_by
    return Peer(account, tuple(addresses), teller, learnt_ms, success_ms, failures)
