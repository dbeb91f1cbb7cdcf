"""What people see of the demo: who is there, what runs, what just happened; plain lines where nobody watches."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final, Self

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from rich.console import RenderableType
    from rich.progress import TaskID

__all__ = ["Player", "Stage"]

NEWS_LINES_MAX: Final = 9
FRAME_LINES: Final = 5
"""Rows around the players, the bars and the news: the border, the headings, an empty row, the shell's cursor."""
REFRESH_PER_S: Final = 8


@dataclass(slots=True)
class Player:
    """One process as the table shows it."""

    name: str
    role: str
    pid: int
    state: str = "starting"
    units: int = 0
    paid: int = 0
    style: str = ""


@dataclass(slots=True)
class Stage:
    """The live display. `quiet` shows nothing; without a terminal, news are printed line by line."""

    quiet: bool = False
    console: Console = field(default_factory=lambda: Console(stderr=True))
    players: dict[str, Player] = field(default_factory=dict)
    _news: deque[Text] = field(default_factory=lambda: deque(maxlen=NEWS_LINES_MAX))
    _started: float = field(default_factory=time.monotonic)
    _live: Live | None = None
    _bars: Progress | None = None
    _bar: dict[str, TaskID] = field(default_factory=dict)

    def __enter__(self) -> Self:
        if not self.quiet and self.console.is_terminal:
            self._bars = Progress(
                TextColumn("{task.description:<28}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self.console,
            )
            self._live = Live(
                get_renderable=self._draw,
                console=self.console,
                refresh_per_second=REFRESH_PER_S,
                transient=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None

    def enter(self, name: str, role: str, pid: int) -> None:
        """A process appears."""
        self.players[name] = Player(name, role, pid)

    def mark(self, name: str, state: str, style: str = "") -> None:
        """A process changes its state."""
        player = self.players[name]
        player.state, player.style = state, style

    def say(self, text: str, style: str = "") -> None:
        """Something happened."""
        line = Text.assemble((f"{time.monotonic() - self._started:6.1f}s  ", "dim"), (text, style))
        self._news.append(line)
        if self._live is None and not self.quiet:
            self.console.print(line, soft_wrap=True)

    def bar(self, name: str, done: int, total: int) -> None:
        """How far a job is."""
        if self._bars is None:
            return
        if name not in self._bar:
            self._bar[name] = self._bars.add_task(name, total=total)
        self._bars.update(self._bar[name], completed=done)

    def verdicts(self, checks: Iterable[tuple[bool, str, str]]) -> None:
        """What was claimed, whether it held and what was seen: a table, or a line each where nobody watches."""
        table = Table(box=None, show_header=False, pad_edge=False)
        for held, claim, seen in checks:
            mark = Text("✓", "green") if held else Text("✗", "red")
            if self.console.is_terminal:
                table.add_row(mark, claim, Text(seen, "dim"))
            else:
                self.print(Text.assemble(mark, f" {claim}: {seen}"))
        if table.row_count:
            self.print(table)

    def print(self, *what: RenderableType) -> None:
        """Print below, for good."""
        if not self.quiet:
            self.console.print(*what, soft_wrap=not self.console.is_terminal)

    def _draw(self) -> RenderableType:
        table = Table(box=None, pad_edge=False, header_style="dim")
        for title in ("process", "role", "pid", "units paid", "credits", "state"):
            table.add_column(title, justify="right" if title in {"pid", "units paid", "credits"} else "left")
        for player in self.players.values():
            worker = player.role == "worker"
            table.add_row(
                player.name,
                player.role,
                str(player.pid),
                str(player.units) if worker else "",
                f"{player.paid / 1e6:.6f}" if worker else "",
                player.state,
                style=player.style,
            )
        parts: list[RenderableType] = [table]
        if self._bars is not None and self._bar:
            parts += [Text(), self._bars]
        parts += [Text(), *self._newest()]
        title = f"millrace demo · {time.monotonic() - self._started:.0f} s"
        return Panel(Group(*parts), title=title, title_align="left", border_style="blue")

    def _newest(self) -> list[Text]:
        """The newest lines that the window has room for, one row each: what overflows would be the last ones."""
        bars = len(self._bar) + 1 if self._bar else 0
        rows = self.console.height - len(self.players) - bars - FRAME_LINES
        lines = [line.copy() for line in list(self._news)[-max(rows, 1) :]]
        for line in lines:
            line.no_wrap, line.overflow = True, "ellipsis"
        return lines
