"""What a person sees of a study that runs: a bar, what is known of the means so far, and lines in a log."""

from __future__ import annotations

import math
import time
from types import TracebackType

import numpy as np
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..study.runner import Status
from .console import number_of

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
        if self._console.is_terminal:
            if not self._live.is_started:
                self._live.start()
            rows = self._console.size.height - 6
            self._live.update(Group(_bar(status), Text(), _means(status, rows)), refresh=True)
        elif time.monotonic() - self._last_line >= _LINE_EVERY:
            self._last_line = time.monotonic()
            self._console.print(_line(status), soft_wrap=True)


def _line(status: Status) -> Text:
    return Text(
        f"{status.done:,} of {number_of(status.total, 'simulation')}, {status.rate:,.0f}/s, "
        f"{duration(status.seconds_left)} left" + (f", {status.failed:,} failed" if status.failed else "")
    )


def _bar(status: Status) -> Table:
    grid = Table.grid(padding=(0, 1))
    workers = number_of(status.workers, "worker")
    grid.add_row(ProgressBar(max(status.total, 1), status.done, width=24), _line(status), Text(workers, "dim"))
    return grid


def _means(status: Status, most: int) -> Table:
    """The means so far: all cells, or the `most` that are known the least."""
    factors = [f for f in status.plan.factors if len({status.plan.labels(c)[f] for c in status.plan.cells}) > 1]
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for factor in factors or ["policy"]:
        table.add_column(factor, justify="right" if factor == "memory" else "left", no_wrap=True)
    for heading in ("replications", status.metric, "± 95 %"):
        table.add_column(heading, justify="right", no_wrap=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        width = np.nan_to_num(status.half / np.abs(status.mean), nan=np.inf)
    shown = range(len(width)) if len(width) <= most else sorted(np.argsort(-width, kind="stable")[: most - 1].tolist())
    for k in shown:
        labels = status.plan.labels(status.plan.cells[k])
        row = [f"{labels[f]:,}" if f == "memory" else str(labels[f]) for f in factors or ["policy"]]
        mean, half = float(status.mean[k]), float(status.half[k])
        table.add_row(*row, f"{status.count[k]:,}", _number(mean), _number(half, mean))
    if len(shown) < len(width):
        table.caption = f"the {len(shown)} least known of {len(width):,} cells"
        table.caption_justify = "left"
    return table


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
