"""What a person sees of a study that runs: a bar, what is known of the means so far, and lines in a log."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from types import TracebackType

import numpy as np
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..study.runner import Status
from .console import is_quiet, number_of, printable

#: Seconds between two lines where there is no terminal.
_LINE_EVERY = 60.0


class Display:
    """Shows the status on stderr: alive on a terminal, elsewhere a line a minute."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True, highlight=False)
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._last_line = time.monotonic()

    def __enter__(self) -> Display:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live.is_started:
            self._live.stop()

    def update(self, status: Status) -> None:
        """Show this status."""
        if is_quiet():
            return
        if self._console.is_terminal:
            if not self._live.is_started:
                self._live.start()
            rows = self._console.size.height - 6
            width = self._console.size.width
            self._live.update(Group(_bar(status, width), Text(), _means(status, rows, width)), refresh=True)
        elif time.monotonic() - self._last_line >= _LINE_EVERY:
            self._last_line = time.monotonic()
            self._console.print(_line(status), soft_wrap=True)


def _line(status: Status) -> Text:
    return Text(
        f"{status.done:,} of {number_of(status.total, 'simulation')}, {status.rate:,.0f}/s, "
        f"{duration(status.seconds_left)} left" + (f", {status.failed:,} failed" if status.failed else "")
    )


def _bar(status: Status, width: int) -> RenderableType:
    """Bar, numbers and workers in a line; where there is no room, the bar above the numbers."""
    line = _line(status)
    workers = number_of(status.workers, "worker")
    bar = ProgressBar(max(status.total, 1), status.done, width=24)
    if 24 + 1 + len(line) + 1 + len(workers) > width:
        grid = Table.grid()
        grid.add_row(bar)
        grid.add_row(line)
        return grid
    grid = Table.grid(padding=(0, 1))
    grid.add_row(bar, line, Text(workers, "dim"))
    return grid


def _means(status: Status, most: int, width: int) -> Table:
    """The means so far: all cells, or the `most` that are known the least.

    Where there is no room the replications are left out, and if that is not enough a cell takes two lines, the second
    of which has the numbers.
    """
    factors = [f for f in status.plan.factors if len({status.plan.labels(c)[f] for c in status.plan.cells}) > 1]
    factors = factors or ["policy"]
    with np.errstate(invalid="ignore", divide="ignore"):
        relative = np.nan_to_num(status.half / np.abs(status.mean), nan=np.inf)
    names = [[_level(status, k, factor) for factor in factors] for k in range(len(relative))]
    headings = ["replications", status.metric, "± 95 %"]
    numbers = [_numbers(status, k) for k in range(len(relative))]
    whole = [[*name, *number] for name, number in zip(names, numbers, strict=True)]
    if _needed([[*factors, *headings], *whole]) > width:
        headings, numbers = headings[1:], [number[1:] for number in numbers]
        whole = [[*name, *number] for name, number in zip(names, numbers, strict=True)]
    turned = _needed([[*factors, *headings], *whole]) > width
    most = max(most // 2 if turned else most, 1)
    shown = list(range(len(relative)))
    if len(shown) > most:
        shown = sorted(np.argsort(-relative, kind="stable")[: max(most - 1, 1)].tolist())
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold", show_header=not turned)
    if turned:
        table.add_column("", overflow="fold")
        for k in shown:
            table.add_row(" · ".join(names[k]))
            table.add_row("   " + ", ".join(f"{h} {value}" for h, value in zip(headings, numbers[k], strict=True)))
    else:
        for heading in (*factors, *headings):
            right = heading == "memory" or heading not in factors
            table.add_column(heading, justify="right" if right else "left", no_wrap=True)
        for k in shown:
            table.add_row(*whole[k])
    if len(shown) < len(relative):
        table.caption = f"the {len(shown)} least known of {len(relative):,} cells"
        table.caption_justify = "left"
    return table


def _level(status: Status, cell: int, factor: str) -> str:
    label = status.plan.labels(status.plan.cells[cell])[factor]
    return f"{label:,}" if factor == "memory" else printable(str(label))


def _numbers(status: Status, cell: int) -> list[str]:
    """Replications, mean and half the width of its interval."""
    mean, half = float(status.mean[cell]), float(status.half[cell])
    return [f"{status.count[cell]:,}", _number(mean), _number(half, mean)]


def _needed(rows: Sequence[Sequence[str]]) -> int:
    """How wide a table of these rows is, two columns between its own."""
    return sum(max(map(len, column)) + 2 for column in zip(*rows, strict=True))


def _number(value: float, like: float | None = None) -> str:
    if not math.isfinite(value):
        return "-"
    size = abs(value if like is None else like)
    decimals = 0 if size >= 10_000 else 1 if size >= 100 else 2 if size >= 1 else 4
    return f"{value:,.{decimals}f}"


def duration(seconds: float) -> str:
    """A length of time as people say it."""
    if not math.isfinite(seconds):
        return "unknown time"
    if seconds < 1:
        return "less than a second"
    if seconds < 90:
        return f"about {seconds:.0f} s"
    if seconds < 5400:
        return f"about {seconds / 60:.0f} min"
    if seconds < 172_800:
        return f"about {seconds / 3600:.1f} h"
    return f"about {seconds / 86_400:.1f} days"
