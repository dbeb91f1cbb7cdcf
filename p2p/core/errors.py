"""What can go wrong between two peers, with the blame in the type (SPEC.md §9, §18).

The peer-caused ones are `ConnectionError`s, and a missed deadline is a `TimeoutError`: rooms that know
nothing of p2p (the ledger's follower and wallet) can catch those two and try another peer.
"""

from __future__ import annotations

__all__ = [
    "ChannelClosed",
    "DialError",
    "IdentityError",
    "ListenError",
    "LocalProtocolError",
    "P2pError",
    "RemoteProtocolError",
    "RequestRefused",
    "RequestTimeout",
]


class P2pError(Exception):
    """The root of every error of this package."""


class DialError(P2pError, ConnectionError):
    """No connection to that peer: nobody answers, somebody else answers, or the address is not one."""


class ListenError(P2pError, OSError):
    """The host cannot listen where it was told to."""


class ChannelClosed(P2pError, ConnectionError):
    """The stream or the connection below it has ended; everything received before was handed out."""


class RemoteProtocolError(P2pError, ConnectionError):
    """The peer broke a rule of the SPEC: a frame over the limit, an answer to no question."""


class RequestRefused(RemoteProtocolError):
    """The peer serves this name but did not answer this request (it failed inside the peer)."""


class LocalProtocolError(P2pError):
    """Our own code broke a rule: a message over the limit, a name served twice, a send after close."""


class RequestTimeout(P2pError, TimeoutError):
    """The peer did not answer within the time given; the request may or may not have been carried out."""


class IdentityError(P2pError):
    """The key file cannot be used: what is wrong, why that matters, and what to do."""
