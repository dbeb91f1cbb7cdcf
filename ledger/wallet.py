"""Spending from one account: sign, keep, send, and send the same bytes again until the ledger has spoken (SPEC.md §15).

Order of writes for one entry: 1 the signed entry is durable; 2 it is sent to every witness; 3 its fate is recorded.
A crash after 1 leaves an entry that the next start sends again, byte for byte: never a second one with its sequence
number while its fate is open.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import trio

from ledger.core.encoding import WireError
from ledger.core.entries import (
    Action,
    Entry,
    Voucher,
    decode_entry,
    sign_entry,
    sign_rekey_entry,
    sign_voucher,
    verify_entry,
)
from ledger.core.keys import peer_id
from ledger.core.requests import AccountOf, ServiceError, decode_answer, encode_request, field
from ledger.core.state import Reason
from ledger.courier import ANSWER_S, Courier
from ledger.fates import CutOff, EntryExpired, EntryPending, EntryRefused, KeyReplaced, WalletBehind
from ledger.overdue import OVERDUE_MAX, Overdue
from ledger.store import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId, SigningKey
    from ledger.core.receipt import Receipt
    from ledger.store import Store
    from ledger.sync import Follower, Request

__all__ = [
    "EntryExpired",
    "EntryPending",
    "EntryRefused",
    "KeyReplaced",
    "Wallet",
    "WalletBehind",
]

VALID_MS: Final = 120_000
"""How long a signed entry may wait for its block."""
CATCH_UP_S: Final = 30.0
LOOK_S: Final = 1.0
"""How often somebody in line looks whether the ledger is cut off."""
DISK_PAUSE_S: Final = 5.0
FEE_BLOCKS_AHEAD: Final = 16
"""A fee that is decreed for a block no further away than this is paid already."""
ADOPTED_MAX: Final = 16
"""Entries waiting at the witnesses that a wallet without memory of them takes up, at one start."""

_log = logging.getLogger(__name__)


class Wallet:
    """One account's way to the ledger. One entry at a time: a sequence number is used when its entry is settled."""

    def __init__(
        self,
        key: SigningKey,
        genesis: Genesis,
        follower: Follower,
        request: Request,
        store: Store,
        *,
        clock_ms: Callable[[], int],
        account: AccountId | None = None,
    ) -> None:
        """`store` may be the follower's; `clock_ms` reads Unix milliseconds. Starts nothing.

        `account` is the key's own unless told: an account keeps its name when its key is replaced.
        """
        self.account = key.account if account is None else account
        self._keys = {key.account: key}
        self._genesis = genesis
        self.follower = follower
        self._request = request
        self._courier = Courier(follower, request, clock_ms)
        self.store = store
        self._clock_ms = clock_ms
        self._overdue = Overdue(self.account, store, follower, clock_ms)
        self._turn = trio.Lock()
        self._is_current = False
        self._left_open = trio.Event()
        # Entries seen final, to be marked so with the next one that is saved: a crash only makes the next start look
        # them up again, so they are not worth a wait for the disk of their own.
        self._settled: list[Entry] = []

    async def submit(
        self,
        action: Action,
        *,
        fee: int | None = None,
        timeout_s: float = 30.0,
        valid_ms: int = VALID_MS,
        on_wait: Callable[[str], None] | None = None,
    ) -> Receipt:
        """Have `action` ordered, and return its receipt once it is final here.

        `EntryRefused` if the ledger refuses it, `EntryExpired` if no block took it in time (perhaps without certainty:
        then it stays on record, and the very same action, submitted again, is never paid twice), `EntryPending` if
        `timeout_s` is over first, `KeyReplaced` if the account's key is not held here, `WalletBehind` if this node
        must catch up before it may sign, or if `timeout_s` is over, or no witness has answered for long, while an
        earlier entry's fate is open: then nothing was signed. `on_wait` hears what is waited for, from about a second
        on and whenever that changes.
        """
        self.key()  # nothing stands in line that could not sign then
        signed: list[bytes] = []
        with self._sheltered(on_wait), trio.move_on_after(timeout_s):
            await self._take_turn()
            try:
                await self._finish_pending(gives_up=True)
                await self._ensure_current()
                known = self._look_back(action)
                if known is not None:
                    return known
                entry = self._sign(action, fee, self._clock_ms() + valid_ms)
                self._save(entry)  # 1: durable before anyone sees it
                return await self._settle(entry, signed=signed)
            finally:
                self._turn.release()
        raise (
            EntryPending(signed[-1])
            if signed
            else WalletBehind(
                f"nothing was signed in {timeout_s:g} s: {self.waits_for or 'the ledger is slow'}"
            )
        )

    # Keys.

    @property
    def waits_for(self) -> str:
        """What the wallet is waiting for, in words; empty while nothing waits."""
        return self._courier.waits_for

    def key(self) -> SigningKey:
        """The key that signs for the account now; `KeyReplaced` if it is not held here."""
        return self._held(self.follower.state.key_of(self.account))

    def hold(self, key: SigningKey) -> None:
        """Sign with `key`, too, once the ledger says that it is the account's."""
        self._keys[key.account] = key

    def sign_voucher(self, lock_id: bytes, cumulative: int) -> Voucher:
        """A voucher for one of the account's locks, by the key that the account had when it opened it.

        `KeyReplaced` if that is not held here. Make the voucher durable before it is sent.
        """
        lock = self.follower.state.lock(lock_id)
        key = self.key() if lock is None else self._held(lock.payer_key)
        return sign_voucher(key, self._genesis.network_id, lock_id, cumulative)

    def sign_rekey(self, new_key: SigningKey, recovery: AccountId, by: SigningKey | None = None) -> Entry:
        """A REKEY for `submit_rekey`: `new_key` is to sign from now on, `recovery` (NO_KEY: none) under the next REKEY.

        `by` is the recovery key where one is registered, and left out where none is.
        """
        line = self.follower.state.key_line(self.account)
        return sign_rekey_entry(
            self.key() if by is None else by,
            self._genesis.network_id,
            self.account,
            seq=1 if line is None else line.rekeys + 1,
            not_after_ms=self._clock_ms() + VALID_MS,
            fee=self._fee_min() if by is None else 0,
            new_key=new_key,
            recovery=recovery,
        )

    async def submit_rekey(
        self, entry: Entry, *, timeout_s: float = 30.0, on_wait: Callable[[str], None] | None = None
    ) -> Receipt:
        """Have a REKEY of this account ordered; `hold` the new key first. Errors as `submit`'s.

        It stands in no line: REKEYs have a sequence of their own, so a thief who fills the other cannot hold it up.
        """
        self._refuse_early(entry)
        if not verify_entry(entry, self._genesis.network_id, self.follower.state.signer(entry)):
            raise EntryRefused(Reason.BAD_SIGNATURE, "the key that must sign this REKEY did not")
        with self._courier.telling(on_wait), trio.move_on_after(timeout_s):
            self.store.save_signed(entry)  # 1
            return await self._settle(entry)
        raise EntryPending(entry.entry_id(self._genesis.network_id))

    def _held(self, key: AccountId) -> SigningKey:
        if key not in self._keys:
            raise KeyReplaced(key)
        return self._keys[key]

    # Running.

    async def run(self) -> None:
        """Settle what was signed and left open, by a crash or by a caller that did not wait; runs until cancelled."""
        while True:
            self._left_open = trio.Event()
            try:
                await self.finish()
            except StoreError as error:
                _log.error("wallet: %s", error)
                await trio.sleep(DISK_PAUSE_S)
                continue
            await self._left_open.wait()

    async def finish(self) -> None:
        """Settle what was signed and left open; returns when nothing is."""
        async with self._turn:
            await self._finish_pending(gives_up=False)
            for item in self.store.signed(self.account, pending_only=True):
                if item.status == "pending" and self.follower.receipt(item.entry_id) is not None:
                    self.store.mark_signed(item.entry, "final")
            self._overdue.review()

    def pending(self) -> tuple[Entry, ...]:
        """Signed entries that are on their way."""
        signed = self.store.signed(self.account, pending_only=True)
        return tuple(
            item.entry
            for item in signed
            if item.status == "pending" and self.follower.receipt(item.entry_id) is None
        )

    def overdue(self) -> tuple[Entry, ...]:
        """Signed entries that were given up, and of which it is not certain yet that they never become final."""
        return self._overdue.entries()

    def _look_back(self, action: Action) -> Receipt | None:
        """The receipt of an entry given up earlier that got final after all, if it is this very action."""
        self._overdue.review()
        receipt = self._overdue.answer(action)
        if receipt is None and len(self._overdue.entries()) >= OVERDUE_MAX:
            raise WalletBehind(
                f"nothing was signed: the fate of {OVERDUE_MAX} expired entries is open until a later block is final"
            )
        return receipt

    def _save(self, entry: Entry, replaced: Entry | None = None) -> None:
        self.store.save_signed(entry, self._settled, replaced)
        self._settled.clear()

    def _sign(self, action: Action, fee: int | None, not_after_ms: int) -> Entry:
        entry = sign_entry(
            self.key(),
            self._genesis.network_id,
            account=self.account,
            seq=self.follower.state.account(self.account).seq + 1,
            not_after_ms=not_after_ms,
            fee=self._fee_min() if fee is None else fee,
            action=action,
        )
        self._refuse_early(entry)
        return entry

    def _fee_min(self) -> int:
        """The least fee, now or soon: an entry may be of the next block, or of one a little later."""
        state, near = self.follower.state, self.follower.head.height + FEE_BLOCKS_AHEAD
        fees = [state.params.fee_min]
        if state.pending is not None and state.pending.from_height <= near:
            fees.append(state.pending.params.fee_min)
        return max(fees)

    # In line.

    @contextmanager
    def _sheltered(self, on_wait: Callable[[str], None] | None) -> Iterator[None]:
        with self._courier.telling(on_wait):
            try:
                yield
            except CutOff as error:
                raise WalletBehind(f"nothing was signed: {error}") from error

    async def _take_turn(self) -> None:
        """One entry at a time; whoever is in line leaves it when the ledger is cut off."""
        while not await self._is_my_turn():
            self._courier.check_connection()

    async def _is_my_turn(self) -> bool:
        with trio.move_on_after(LOOK_S) as patience:
            await self._turn.acquire()
        return not patience.cancelled_caught

    # Fates.

    async def _finish_pending(self, *, gives_up: bool) -> None:
        for entry in self.pending():
            try:
                await self._settle(entry, gives_up=gives_up)
            except EntryRefused as refusal:
                _log.info("wallet: an entry signed earlier was refused: %s", refusal)

    async def _settle(
        self, entry: Entry, *, gives_up: bool = False, signed: list[bytes] | None = None
    ) -> Receipt:
        """Send `entry` (2) until its fate is known, and record it (3). Left before, it is `run`'s.

        If an entry given up earlier took its number, it is signed again with the next one; `signed` hears of each id.
        """
        while True:
            entry_id = entry.entry_id(self._genesis.network_id)
            if signed is not None:
                signed.append(entry_id)
            is_open = True
            try:
                receipt = await self._courier.carry(entry, entry_id, gives_up=gives_up)
                is_open = False
                self._settled.append(entry)
                return receipt
            except EntryRefused as refusal:
                is_open = False
                winner = self._overdue.winner(entry, refusal.reason)
                if winner is None:
                    self.store.mark_signed(entry, refusal.fate, str(refusal))
                    raise
            finally:
                if is_open:
                    self._left_open.set()
                else:
                    self._courier.rest()
            if winner.entry.action == entry.action:
                # In this order: a crash between leaves the winner to answer whoever asks again.
                self.store.mark_signed(entry, "refused", "an earlier entry of the same action is final")
                self.store.mark_signed(winner.entry, "final")
                return winner
            entry = self._sign_again(entry)

    def _sign_again(self, entry: Entry) -> Entry:
        """What `entry`, which can never be final any more, was to do: with the next number, and the same end.

        Both are written at once: no crash leaves the intent lost, or signed twice.
        """
        try:
            again = self._sign(entry.action, entry.fee, entry.not_after_ms)
        except (EntryRefused, KeyReplaced):
            self.store.mark_signed(entry, "refused", "another entry has its number")
            raise
        self._save(again, entry)
        return again

    def _refuse_early(self, entry: Entry) -> None:
        """What our own verified copy refuses need not be signed for, sent or waited for."""
        refusal = self.follower.state.check(entry, self.follower.next_moment(self._clock_ms()))
        if refusal is not None:
            raise EntryRefused(refusal.reason, refusal.detail)

    # Old backups.

    async def _ensure_current(self) -> None:
        """Once per start: know every entry of this account that is final or waits, before one more is signed.

        A wallet restored from an old backup has forgotten entries that it signed; signing their sequence numbers
        again would be equivocation. What is final, f + 1 witnesses of the present committee say and the own copy must
        reach; what waits, one honest one shows, signed by this very key, and the wallet takes it up as its own.
        """
        while not self._is_current:
            committee = self.follower.committee
            found: list[tuple[int, list[Entry]]] = []
            async with trio.open_nursery() as nursery:
                for witness in committee.witnesses:
                    nursery.start_soon(self._ask_account, witness, found)
            if len(found) <= committee.faults:
                raise WalletBehind(
                    f"only {len(found)} of {committee.n} witnesses answer, {committee.faults + 1} are needed "
                    "before the first entry is signed: check the network connection and try again"
                )
            # A liar may name any number: what f + 1 witnesses reach is reached in truth.
            least = sorted((seq for seq, _ in found), reverse=True)[committee.faults]
            await self._catch_up(least)
            if self.follower.committee == committee:  # else those asked are no witnesses any more
                self._adopt([entry for _, waiting in found for entry in waiting])
                await self._finish_pending(gives_up=True)
                self._is_current = True

    async def _catch_up(self, least: int) -> None:
        def has_caught_up() -> bool:
            return self.follower.state.account(self.account).seq >= least

        if not has_caught_up():
            self._courier.say(
                f"this node's copy of the ledger has yet to reach entry {least} of this account"
            )
        is_there = await self.follower.wait_for(has_caught_up, CATCH_UP_S)
        self._courier.say("")
        if not is_there:
            raise WalletBehind(
                f"the ledger knows entry {least} of this account, this node's copy is behind: wait until it caught up"
            )

    def _adopt(self, waiting: list[Entry]) -> None:
        """Keep entries of ours that wait at witnesses and that this wallet does not know, in sequence, without a gap.

        Liars can show nothing that this key has not signed; and a gap would have us wait for what cannot come.
        """
        state, network_id = self.follower.state, self._genesis.network_id
        last = state.account(self.account).seq
        pending = {item.entry_id for item in self.store.signed(self.account, pending_only=True)}
        key = state.key_of(self.account)
        ours = {
            entry.entry_id(network_id): entry
            for entry in waiting
            if entry.lane == self.account and key in self._keys and verify_entry(entry, network_id, key)
        }
        reached = last
        for entry_id, entry in sorted(ours.items(), key=lambda item: item[1].seq)[:ADOPTED_MAX]:
            if not last < entry.seq <= reached + 1:
                continue
            reached = entry.seq
            if entry_id not in pending:
                _log.warning(
                    "wallet: entry %s, signed with this key and unknown here, waits at the witnesses: taken up. "
                    "If this wallet was not restored from a backup, somebody else uses its key",
                    entry_id.hex()[:16],
                )
                self.store.save_signed(entry)

    async def _ask_account(self, witness: AccountId, found: list[tuple[int, list[Entry]]]) -> None:
        try:
            with trio.fail_after(ANSWER_S):
                answer = await self._request(witness, encode_request(AccountOf(self.account)), ANSWER_S)
            fields = decode_answer(answer)
            encoded = field(fields, "waiting", list)[:ADOPTED_MAX]
            waiting = [decode_entry(data) for data in encoded if isinstance(data, bytes)]
            found.append((field(fields, "seq", int), waiting))
        except (ConnectionError, TimeoutError, trio.TooSlowError, WireError, ServiceError) as error:
            _log.debug("wallet: %s did not answer: %s", peer_id(witness), error)
