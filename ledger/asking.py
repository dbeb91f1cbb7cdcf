"""Asking one source, and reading what it answers: its faults become three errors (SPEC.md §15)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from ledger.core.encoding import WireError
from ledger.core.keys import AccountId
from ledger.core.requests import ServiceError, decode_answer, encode_request, field

if TYPE_CHECKING:
    from ledger.core.requests import LedgerRequest

__all__ = ["ANSWER_S", "Request", "Unavailable", "Untrustworthy", "ask", "byte_strings"]

Request: TypeAlias = Callable[[AccountId, bytes, float], Awaitable[bytes]]
"""(source, body, timeout_s) -> answer; raises ConnectionError or TimeoutError."""
ANSWER_S: Final = 5.0


class Untrustworthy(Exception):
    """A source sent something that no honest node sends."""


class Unavailable(ConnectionError):
    """A source answers that it cannot help; `code` is the error's (SPEC.md §15)."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(f"the source cannot answer: {code}: {detail}")
        self.code = code


async def ask(
    request: Request, source: AccountId, question: LedgerRequest, timeout_s: float = ANSWER_S
) -> dict[str, Any]:
    """The fields of the answer. `Untrustworthy`: it is none. `Unavailable`: it is an error.

    ConnectionError or TimeoutError as `request` raises them.
    """
    answer = await request(source, encode_request(question), timeout_s)
    try:
        return decode_answer(answer)
    except WireError as error:
        raise Untrustworthy(str(error)) from error
    except ServiceError as error:
        raise Unavailable(error.code, error.detail) from error


def byte_strings(fields: dict[str, Any], name: str) -> list[bytes]:
    """A field that is a list of byte strings; `WireError` if it is another."""
    values: list[Any] = field(fields, name, list)
    if not all(isinstance(value, bytes) for value in values):
        raise WireError(f"field {name!r} holds something else than bytes")
    return values
