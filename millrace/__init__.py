"""The peer itself: client library, node daemon, market and leases, command line.

`millrace.Client` is where programs begin (millrace/client.py); its errors are in millrace/errors.py, which
`millrace.errors` names whole. Names are resolved on first use, so that importing this package costs nothing
and reaches neither the event loop nor libp2p.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from millrace import errors
    from millrace.client import Client, Needs, Peer, Unit, Verify
    from millrace.errors import MillraceError
    from millrace.results import Completed, Job, Results

__all__ = [
    "Client",
    "Completed",
    "Job",
    "MillraceError",
    "Needs",
    "Peer",
    "Results",
    "Unit",
    "Verify",
    "errors",
]

_HOMES: Final = {
    "Client": "millrace.client",
    "Completed": "millrace.results",
    "Job": "millrace.results",
    "MillraceError": "millrace.errors",
    "Needs": "millrace.client",
    "Peer": "millrace.client",
    "Results": "millrace.results",
    "Unit": "millrace.client",
    "Verify": "millrace.client",
}


def __getattr__(name: str) -> Any:  # noqa: ANN401 - a module's attributes have any type
    if name == "errors":
        return import_module("millrace.errors")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'millrace' has no attribute {name!r}")
