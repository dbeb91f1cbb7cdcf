"""A disk that does not take what this node must not forget, as an error for people (SPEC.md §18)."""

from __future__ import annotations

import errno
from typing import Final

from ledger.store import StoreError
from millrace.errors import MillraceError
from millrace.journal import JournalError

__all__ = ["explain_storage"]

NO_ROOM: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO))


def explain_storage(error: BaseException) -> MillraceError | None:
    """What to do when the journal, the ledger file or another file cannot be written; None if `error` is not that.

    In an exception group the first such error is the reason: the others are what its cancellation brought about.
    """
    match error:
        case BaseExceptionGroup():
            return next(filter(None, map(explain_storage, error.exceptions)), None)
        case JournalError() | StoreError():
            why = str(error)
        case OSError() if error.errno in NO_ROOM:
            why = error.strerror or str(error)
        case _:
            return None
    return MillraceError(
        "this node's disk did not take what had to be written down first",
        why,
        "free space on it, or mend it (`millrace doctor`), and try again; no money is lost: a payment is written "
        "down before it is sent, and what is locked and not paid comes back",
    )
