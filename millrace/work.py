"""The worker's shell: serve leases, run their units, and see to it that the work is paid (SPEC.md §12).

`core/worker_lease.py` decides; this module runs modules, persists, and hands what is left to the settler.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import trio

from executor.core.outcome import Outcome, Status
from executor.core.task import WasmTask
from executor.runner import ModuleRefused
from executor.zygote import ChildError
from ledger.core.encoding import WireError
from ledger.core.receipt import Receipt, ReceiptError
from millrace.conversation import LEASE_PROTOCOL, Conversation
from millrace.core import lease, messages
from millrace.core.terms import MODULE_BYTES_MAX
from millrace.core.worker_lease import LeasePolicy, WorkerLease
from millrace.journal import Role

if TYPE_CHECKING:
    from collections.abc import Callable

    from executor.core.limits import Limits
    from ledger.core.entries import Entry, Voucher
    from ledger.core.genesis import Genesis
    from ledger.core.keys import AccountId, SigningKey
    from millrace.conversation import Channel
    from millrace.journal import Journal
    from millrace.rental import Runner
    from millrace.settle import Settler

__all__ = ["LEASE_PROTOCOL", "LeaseServer", "WorkPolicy", "Worker"]

MODULE_CACHE_BYTES_MAX: Final = 64 << 20
"""Modules kept in memory, so that a returning buyer need not send its code again."""
UNPROVED_MAX: Final = 8
"""Leases without a proved LOCK. Over it the oldest gives way, one without terms first: a stream costs its peer nothing,
and four free keys that said nothing kept a worker from all work."""
SALT_BYTES: Final = 32
REFUSE_S: Final = 5.0

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WorkPolicy:
    """On which terms this node works, and how much at once."""

    price_per_tfuel: int
    ceilings: Limits
    slots: int
    leases_max: int = 16
    window_units_max: int = 64
    module_bytes_max: int = MODULE_BYTES_MAX
    expiry_margin_ms: int = 60_000
    """A lease ends, and is claimed, this long before its lock expires; terms must leave twice as much."""

    @property
    def lease(self) -> LeasePolicy:
        """What one lease needs to know of it."""
        return LeasePolicy(
            price_per_tfuel=self.price_per_tfuel,
            ceilings=self.ceilings,
            module_bytes_max=self.module_bytes_max,
            window_units_max=self.window_units_max,
            expiry_margin_ms=self.expiry_margin_ms,
        )


@dataclass(frozen=True, slots=True)
class Worker:
    """This node, as far as working needs it."""

    key: SigningKey
    genesis: Genesis
    runner: Runner
    journal: Journal
    settler: Settler
    clock_ms: Callable[[], int]
    random_bytes: Callable[[int], bytes]


class LeaseServer:
    """Serves the `lease` protocol: `host.serve(LEASE_PROTOCOL, server.handle, frame_bytes_max=FRAME_BYTES_MAX)`."""

    def __init__(self, worker: Worker, policy: WorkPolicy) -> None:
        """Starts nothing. `policy` may be replaced at any time; leases in hand keep the one they began with."""
        self.policy = policy
        self.units_running = 0
        self._worker = worker
        self._active = 0  # leases with a proved LOCK
        self._unproved: dict[_Served, None] = {}
        self._draining = False
        self._modules: OrderedDict[bytes, bytes] = OrderedDict()

    @property
    def active(self) -> int:
        """Leases being served now: those whose terms both sides have signed."""
        return self._active + sum(served.has_terms for served in self._unproved)

    @property
    def slots_free(self) -> int:
        """Units that could start at once; 0 while draining."""
        return 0 if self._draining else max(0, self.policy.slots - self.units_running)

    def drain(self) -> None:
        """Take no new lease from now on; leases in hand go on."""
        self._draining = True

    async def handle(self, channel: Channel, on_proved: Callable[[], None] = lambda: None) -> None:
        """Serve one stream until its lease has ended. Nothing the peer sends, and no failure here, ends the node.

        `on_proved` is called once the buyer has committed money: until then no message of its is long.
        """
        if self._draining or self._active >= self.policy.leases_max:
            await _turn_away(channel, "no new leases now" if self._draining else "all leases are taken")
            return
        served = _Served(self, self._worker, self.policy.lease, channel, on_proved)
        if len(self._unproved) >= UNPROVED_MAX:
            oldest = min(self._unproved, key=lambda each: each.has_terms)  # the first of equals is the oldest
            self._unproved.pop(oldest)
            oldest.give_way()
        self._unproved[served] = None
        try:
            await served.run()
        except Exception:  # noqa: BLE001 - see the comment below
            # The outermost frame of this lease's task: what went wrong here must not take other leases along.
            _log.exception("a lease failed; its money is settled from the journal")
        finally:
            self._unproved.pop(served, None)
            self._active -= served.is_proved

    def prove(self, served: _Served) -> None:
        """A lease's LOCK is proved: it counts, and no longer gives way to others."""
        self._unproved.pop(served, None)
        self._active += 1

    def module(self, sha256: bytes) -> bytes | None:
        """A module seen before."""
        found = self._modules.get(sha256)
        if found is not None:
            self._modules.move_to_end(sha256)
        return found

    def keep_module(self, sha256: bytes, module: bytes) -> None:
        """Remember a module; the ones used longest ago make room."""
        self._modules[sha256] = module
        while sum(map(len, self._modules.values())) > MODULE_CACHE_BYTES_MAX:
            self._modules.popitem(last=False)


async def _turn_away(channel: Channel, reason: str) -> None:
    with trio.move_on_after(REFUSE_S):
        try:
            await channel.send(messages.encode(messages.Refuse(reason)))
        except OSError:
            _log.debug("a peer left before it heard: %s", reason)
        finally:
            await channel.aclose()


class _Served:
    """One lease in hand."""

    def __init__(
        self,
        server: LeaseServer,
        worker: Worker,
        policy: LeasePolicy,
        channel: Channel,
        on_proved: Callable[[], None],
    ) -> None:
        self._server = server
        self._worker = worker
        self._lease_id = b""
        self._running: dict[int, trio.CancelScope] = {}
        self._unkept: Voucher | None = None
        self.is_proved = False
        self._on_proved = on_proved
        self._nursery: trio.Nursery
        self._machine = WorkerLease(
            channel.peer,
            worker.key,
            worker.genesis.network_id,
            policy=policy,
            prove=self._prove,
            now=(trio.current_time(), worker.clock_ms()),
        )
        self._talk = Conversation(
            self._machine,
            channel,
            notice=self._notice,
            perform=self._perform,
            after_message=self._keep_voucher,
        )

    @property
    def has_terms(self) -> bool:
        """Whether terms are signed by both sides."""
        return self._machine.terms is not None

    def give_way(self) -> None:
        """End this lease, to which nobody has committed money, in favour of a newer one."""
        self._talk.feed(lease.Finish("others are waiting"))

    async def run(self) -> None:
        reason = "this node stopped"
        self._talk.feed(lease.Tick())  # arms the first deadline
        try:
            async with trio.open_nursery() as self._nursery:
                reason = (await self._talk.run()).reason
                self._nursery.cancel_scope.cancel()
        finally:
            self._close_books(reason)

    def _close_books(self, reason: str) -> None:
        """Also after a failure: what is claimed is what the journal holds."""
        if self._machine.terms is None:
            return
        talk = self._talk
        try:
            self._worker.journal.ended(
                self._lease_id, reason, sent_bytes=talk.sent_bytes, received_bytes=talk.received_bytes
            )
        finally:
            self._worker.settler.release(self._lease_id)

    def _prove(self, data: bytes) -> tuple[Entry, AccountId]:
        receipt = Receipt.decode(data)
        try:
            receipt.verify(self._worker.genesis)
        except ReceiptError as error:
            raise WireError(str(error)) from error
        return receipt.entry, receipt.signer(self._worker.genesis.network_id)

    def _notice(self, action: lease.Action) -> None:
        """What must be durable or stopped before anything else happens."""
        journal, worker = self._worker.journal, self._worker
        match action:
            case lease.KeepTerms(terms):
                self._lease_id = terms.terms_hash(worker.genesis.network_id)
                worker.settler.hold(self._lease_id)
                journal.agreed(self._lease_id, Role.WORKER, terms, worker.clock_ms())
            case lease.KeepLock(lock_id, receipt):
                journal.locked(self._lease_id, lock_id, receipt)
                self.is_proved = True
                self._server.prove(self)
                self._on_proved()
            case lease.KeepVoucher(voucher):
                self._unkept = voucher
            case lease.Run(unit, task):
                scope = self._running[unit] = trio.CancelScope()
                self._nursery.start_soon(self._run_unit, unit, WasmTask.decode(task), scope)
            case lease.StopUnit(unit):
                if unit in self._running:
                    self._running[unit].cancel()
            case _:
                pass

    async def _keep_voucher(self) -> None:
        """Before the next message is taken (R12.20). Shielded inside: an end of the lease does not lose a voucher."""
        if self._unkept is not None:
            voucher, self._unkept = self._unkept, None
            journal = self._worker.journal
            await journal.wait_for(partial(journal.keep_voucher, self._lease_id, voucher))

    async def _perform(self, action: lease.Action) -> None:
        match action:
            case lease.FetchModule(sha256):
                module = self._server.module(sha256)
                if module is None:
                    self._talk.feed(lease.ModuleMissing())
                else:
                    self._nursery.start_soon(self._prepare, sha256, module)
            case lease.PrepareModule(sha256, module):
                self._nursery.start_soon(self._prepare, sha256, module)
            case _:
                pass

    async def _prepare(self, sha256: bytes, module: bytes) -> None:
        try:
            await self._worker.runner.prepare(module)
        except (ModuleRefused, ChildError, OSError) as error:
            self._talk.feed(lease.ModuleBad(str(error)))
        else:
            self._server.keep_module(sha256, module)
            self._talk.feed(lease.ModulePrepared())

    async def _run_unit(self, unit: int, task: WasmTask, scope: trio.CancelScope) -> None:
        outcome: Outcome | None = None
        self._server.units_running += 1
        try:
            with scope:
                outcome = await self._worker.runner.run(task)
        except (ChildError, OSError) as error:
            outcome = Outcome(Status.CRASHED, stderr=str(error).encode()[:1000])
        finally:
            self._server.units_running -= 1
            if self._running.get(unit) is scope:
                del self._running[unit]
        if outcome is not None:
            self._talk.feed(lease.Done(unit, outcome, self._worker.random_bytes(SALT_BYTES)))
