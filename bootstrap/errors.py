"""What can stop an entry point before it runs, in words for whoever operates it (SPEC.md §18)."""

from __future__ import annotations

__all__ = ["OperatorError"]


class OperatorError(ValueError):
    """A file or folder that a person gave cannot be used: `what` happened, `why`, and the `next_step` to take."""

    def __init__(self, what: str, why: str, next_step: str) -> None:
        super().__init__(f"{what}: {why}")
        self.what = what
        self.why = why
        self.next_step = next_step
