"""How the benchmarks measure: figures with their targets, a reference beside the work, a bar while it runs."""

from __future__ import annotations

import statistics
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

from nacl._sodium import ffi, lib

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["Figure", "Least", "Most", "Paired", "bar", "paired", "table", "verify_alone"]

T = TypeVar("T")
BAR_CELLS: Final = 24
BAR_EVERY_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class Least:
    """A target that a figure should reach."""

    value: float


@dataclass(frozen=True, slots=True)
class Most:
    """A target that a figure should stay under."""

    value: float


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured number. Without a target it is there to compare with."""

    part: str
    name: str
    value: float
    unit: str
    target: Least | Most | None = None

    @property
    def ok(self) -> bool | None:
        """Whether the target is reached; None without one."""
        match self.target:
            case Least(value):
                return self.value >= value
            case Most(value):
                return self.value <= value
        return None

    @property
    def ratio(self) -> float | None:
        """How much better than the target, at 1.0 and above, or worse, below."""
        match self.target:
            case Least(value):
                return self.value / value
            case Most(value):
                return value / self.value if self.value else None
        return None

    def document(self) -> dict[str, Any]:
        """The figure as `--json` prints it."""
        target = None if self.target is None else self.target.value
        bound = {Least: "least", Most: "most"}.get(type(self.target))
        return {
            "part": self.part,
            "name": self.name,
            "value": self.value,
            "unit": self.unit,
            "target": target,
            "bound": bound,
            "ratio": self.ratio,
            "ok": self.ok,
        }


def table(figures: Iterable[Figure]) -> Iterator[str]:
    """The figures as lines: part, name, value, target, ratio, verdict."""
    last = ""
    for figure in figures:
        if figure.part != last:
            last = figure.part
            yield f"\n{figure.part}"
        line = f"  {figure.name:<52}{figure.value:>11,.{_places(figure.value)}f} {figure.unit:<10}"
        if figure.target is not None and figure.ratio is not None:
            sign = "≥" if isinstance(figure.target, Least) else "≤"
            wanted = f"{sign} {figure.target.value:,g}"
            line += f"{wanted:>10} {figure.ratio:6.2f} x {'ok' if figure.ok else 'MISSED'}"
        yield line.rstrip()


def verify_alone(signed: Sequence[tuple[bytes, bytes]]) -> None:
    """Nothing but libsodium's Ed25519: check (key, signature ‖ message) pairs that all hold."""
    check, null = lib.crypto_sign_open, ffi.NULL
    for key, data in signed:
        if check(null, null, data, len(data), key):
            raise ValueError("a signature of the benchmark's own does not hold")


@dataclass(frozen=True, slots=True)
class Paired:
    """CPU microseconds of one unit of work and of the reference, medians over rounds that took turns."""

    work_us: float
    reference_us: float
    ratio: float
    """Median over the rounds of reference ÷ work: how much of the work's time the reference would take."""
    wall_us: float


def paired(
    rounds: Iterable[T], work: Callable[[T], object], reference: Callable[[T], object], per_round: int
) -> Paired:
    """Time `work` and `reference` in turns: what else this machine does meets both alike."""
    worked, referred, walls = [], [], []
    for each in rounds:
        start = time.process_time()
        reference(each)
        middle, wall = time.process_time(), time.perf_counter()
        work(each)
        walls.append((time.perf_counter() - wall) / per_round * 1e6)
        worked.append((time.process_time() - middle) / per_round * 1e6)
        referred.append((middle - start) / per_round * 1e6)
    ratios = [r / w for r, w in zip(referred, worked, strict=True)]
    return Paired(
        statistics.median(worked),
        statistics.median(referred),
        statistics.median(ratios),
        statistics.median(walls),
    )


class _Bar:
    """A line on standard error that is written over; nothing at all where nobody looks."""

    def __init__(self, title: str, total: int) -> None:
        self._title, self._total, self._done = title, max(1, total), 0
        self._shown_s = 0.0
        self._visible = sys.stderr.isatty()

    def step(self, count: int = 1) -> None:
        """So much more is done."""
        self._done += count
        if self._visible and time.monotonic() - self._shown_s > BAR_EVERY_S:
            self._shown_s = time.monotonic()
            filled = min(BAR_CELLS, self._done * BAR_CELLS // self._total)
            share = min(100, self._done * 100 // self._total)
            cells = "█" * filled + "░" * (BAR_CELLS - filled)
            sys.stderr.write(f"\r{self._title:<32}{cells} {share:3d} %")
            sys.stderr.flush()

    def clear(self) -> None:
        """Take the line away."""
        if self._visible:
            sys.stderr.write("\r" + " " * (32 + BAR_CELLS + 8) + "\r")
            sys.stderr.flush()


def bar(title: str, items: Iterable[T], total: int, weigh: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """`items`, with a bar on standard error that moves by `weigh(item)` of `total` after each."""
    line = _Bar(title, total)
    try:
        for item in items:
            yield item
            line.step(weigh(item))
    finally:
        line.clear()


def _places(value: float) -> int:
    return 0 if value >= 1000 else 1 if value >= 100 else 2
