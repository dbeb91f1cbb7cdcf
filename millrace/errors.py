"""What can go wrong, said so that a person can act on it (SPEC.md §18).

Every error says what happened, why, and the next thing to do. It has one `code` (its name on the local API)
and one `exit_code` (the command line's). `to_wire` and `from_wire` carry it over the local API unchanged.
"""

from __future__ import annotations

from typing import Any, ClassVar, Final

__all__ = [
    "BudgetExceeded",
    "DaemonUnavailable",
    "EntryNotAccepted",
    "IncompatiblePeer",
    "InsufficientCredit",
    "JobCancelled",
    "JobTimeout",
    "MillraceError",
    "NetworkTrouble",
    "NoPeers",
    "PeerLost",
    "ResultDisputed",
    "SandboxUnavailable",
    "TaskError",
    "UsageError",
    "from_wire",
]

TEXT_CHARS_MAX: Final = 4_000
"""The longest `what`, `why` or `next` that travels; longer text is cut."""
REASONS_MAX: Final = 100
"""The most reasons that one error carries."""


class MillraceError(Exception):
    """The root of all errors that millrace raises to its callers.

    `what` happened, `why`, and `next_step`: what to type or change. `reasons` are details, one line each.
    """

    code: ClassVar[str] = "failed"
    exit_code: ClassVar[int] = 1

    def __init__(
        self, what: str, why: str = "", next_step: str = "", *, reasons: tuple[str, ...] = ()
    ) -> None:
        super().__init__(what)
        self.what = what
        self.why = why
        self.next_step = next_step
        self.reasons = reasons[:REASONS_MAX]

    def __str__(self) -> str:
        parts = [self.what]
        if self.why:
            parts.append(f"because {self.why}")
        if self.next_step:
            parts.append(f"next: {self.next_step}")
        return "; ".join(parts)

    def to_wire(self) -> dict[str, Any]:
        """The error as the local API sends it: code, what, why, next, reasons (SPEC.md §18)."""
        return {
            "code": self.code,
            "what": self.what[:TEXT_CHARS_MAX],
            "why": self.why[:TEXT_CHARS_MAX],
            "next": self.next_step[:TEXT_CHARS_MAX],
            "reasons": [reason[:TEXT_CHARS_MAX] for reason in self.reasons],
        }


class UsageError(MillraceError):
    """The caller asked for something that does not exist or gave a value that is not allowed."""

    code = "usage"
    exit_code = 2


class DaemonUnavailable(MillraceError, ConnectionError):
    """No node answers on the local socket."""

    code = "daemon_unavailable"
    exit_code = 3


class BudgetExceeded(MillraceError):
    """The job could cost more than the cap; nothing was sent."""

    code = "budget_exceeded"
    exit_code = 4


class InsufficientCredit(MillraceError):
    """The account's balance and credit limit do not cover what was asked."""

    code = "insufficient_credit"
    exit_code = 4


class NoPeers(MillraceError):
    """No peer fits the job; `reasons` says why each advert was refused."""

    code = "no_peers"
    exit_code = 5


class TaskError(MillraceError):
    """The task itself failed: it trapped, ran out of a limit, or left with a code other than 0."""

    code = "task_failed"
    exit_code = 6


class ResultDisputed(MillraceError):
    """The workers' results differ and the arbiter could not settle which one is right."""

    code = "result_disputed"
    exit_code = 6


class IncompatiblePeer(MillraceError):
    """The other side speaks another version of the protocol."""

    code = "incompatible_peer"
    exit_code = 7


class SandboxUnavailable(MillraceError):
    """This machine cannot run strangers' work safely, so it does not run it."""

    code = "sandbox_unavailable"
    exit_code = 1


class NetworkTrouble(MillraceError):
    """The network cannot be reached: no listening address, no link, no witness that answers."""

    code = "network"
    exit_code = 8


class PeerLost(NetworkTrouble):
    """The peers that did the work went away and no other took over."""

    code = "peer_lost"
    exit_code = 8


class EntryNotAccepted(MillraceError):
    """The ledger refused an entry; `why` is the rule that it breaks."""

    code = "entry_refused"
    exit_code = 1


class JobTimeout(MillraceError, TimeoutError):
    """The job did not finish in the time that its caller gave it; what was verified is paid, the rest is not."""

    code = "timeout"
    exit_code = 124


class JobCancelled(MillraceError):
    """The job was cancelled by its caller."""

    code = "cancelled"
    exit_code = 130


_KINDS: Final[tuple[type[MillraceError], ...]] = (
    MillraceError,
    UsageError,
    DaemonUnavailable,
    BudgetExceeded,
    InsufficientCredit,
    NoPeers,
    TaskError,
    ResultDisputed,
    IncompatiblePeer,
    SandboxUnavailable,
    NetworkTrouble,
    PeerLost,
    EntryNotAccepted,
    JobTimeout,
    JobCancelled,
)
BY_CODE: Final[dict[str, type[MillraceError]]] = {kind.code: kind for kind in _KINDS}
"""Every code of SPEC.md §18 with its class."""


def from_wire(error: object) -> MillraceError:
    """The error that `to_wire` described. Never raises: an unknown code or shape becomes a plain MillraceError."""
    if not isinstance(error, dict):
        return MillraceError(
            "the node answered with an error that has no text",
            "client and node may be of different versions",
            "compare `millrace version` with `millrace status`",
        )
    kind = BY_CODE.get(str(error.get("code")), MillraceError)
    reasons = error.get("reasons")
    return kind(
        _text(error.get("what")) or "the node reported a failure",
        _text(error.get("why")),
        _text(error.get("next")),
        reasons=tuple(_text(reason) for reason in reasons) if isinstance(reasons, list) else (),
    )


def _text(value: object) -> str:
    return value[:TEXT_CHARS_MAX] if isinstance(value, str) else ""
