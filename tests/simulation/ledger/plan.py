"""What one simulated run consists of: its size, its liars, its faults. The seed decides everything else."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FAULTS", "Broken", "Plan"]

FAULTS = ("loss", "copies", "delay", "partition", "crash", "clock", "disk")
"""Until GST: messages are lost, copied, late and out of order, links cut, nodes killed, clocks wrong, disks slow."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Two runs of one plan are the same run, event by event."""

    n: int
    seed: int
    liars: tuple[str, ...] = ()
    """The kinds of the last witnesses; `any` lets the seed choose one (`forgers.py`)."""
    faults: tuple[str, ...] = FAULTS
    gst_s: float = 8.0
    """The global stabilisation time: until then everything in `faults` happens, after it messages arrive."""
    liveness_s: float = 200.0
    """How long after GST all that was submitted may take to be final or refused."""
    wishes: int = 3
    """How many entries each client has on its mind."""
    actors: int = 20
    """How many clients there are, besides those who play one part each."""
    keeps_votes: bool = True
    """False for a control: a crash forgets the votes."""
    restores: bool = False
    """One witness goes on, once, from an old copy of its disk."""
    rotations: int = 0
    """How many times the governors name another committee."""
    spares: int = 0
    """Honest nodes that are no witnesses at first."""
    leaps: bool = False
    """After GST, everybody sleeps for 32 days: idle accounts are forgotten, and old entries come again."""
    write: int | None = None
    """Kill a witness at one of the network's writes: 2k is just before write k is durable, 2k + 1 just after."""
    mutant: str = ""
    """The fault that is put into the product for a control (`mutants.py`)."""


class Broken(AssertionError):
    """The run broke a promise; `check` is the short name of the check that saw it."""

    def __init__(self, check: str, detail: str) -> None:
        super().__init__(f"{check}: {detail}")
        self.check = check
