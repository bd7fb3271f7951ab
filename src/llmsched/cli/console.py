"""What every command prints with: a progress bar, lines, tables, JSON and CSV."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import logging
import math
import os
import re
import sys
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from .. import progress
from ..errors import number_of as number_of

_quiet = False  # the answer alone: no bars, no explanations
_said, _gap = False, False  # when quiet: whether something was printed, and a blank line is due before what follows


@contextlib.contextmanager
def one_command(quiet: bool = False, verbose: bool = False) -> Iterator[None]:
    """A command runs inside: every call of the library that takes a second shows a bar.

    `quiet`: the answer on stdout, and no bars. `verbose`: what the library logs on stderr, with times.
    """
    global _quiet, _said, _gap
    log = logging.getLogger("llmsched")
    before = _quiet, progress.set_bars(None if quiet else _bar), log.level
    _quiet, _said, _gap, handler = quiet, False, False, _ToStderr()
    if verbose:
        handler.setFormatter(logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", "%H:%M:%S"))
        log.addHandler(handler)
        log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(before[2])
        progress.set_bars(before[1])
        _quiet = before[0]


def is_quiet() -> bool:
    """Whether the answer alone is wanted."""
    return _quiet


class _ToStderr(logging.Handler):
    """Lines above a bar that may be there: rich takes sys.stderr for that, and puts it back."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print it. What a terminal would obey is written out."""
        complain(self.format(record))


class ProgressBar:
    """A progress bar on stderr, if that is a terminal, once the work has taken a second."""

    def __init__(self, unit: str) -> None:
        console = Console(stderr=True)
        self._shown = console.is_terminal and not _quiet
        self._begin, self._unit, self._alone = time.monotonic(), unit, contextlib.ExitStack()
        count = TextColumn("{task.fields[count]}")
        layout = TextColumn("{task.description}"), BarColumn(), count, TimeRemainingColumn()
        self._progress = Progress(*layout, console=console, transient=True)
        self._task = self._progress.add_task("", visible=False, count="")

    def __enter__(self) -> ProgressBar:
        self._alone.enter_context(progress.no_other())
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._alone.close()
        if self._progress.live.is_started:  # stopping what never began would print an empty line
            self._progress.stop()

    def update(self, label: str, done: float, total: float | None) -> None:
        """Show how far it is; `total` is None where nobody knows."""
        if not self._shown or time.monotonic() - self._begin < progress.PATIENCE:
            return
        count = f"{done:,.0f} {self._unit}" if total is None else f"{done:,.0f} of {total:,.0f} {self._unit}"
        told: dict[str, Any] = {"description": printable(label), "completed": done, "total": total, "count": count}
        self._progress.update(self._task, **told, visible=True)
        self._progress.start()


@contextlib.contextmanager
def _bar(verb: str, unit: str) -> Iterator[progress.Report]:
    """A bar for a call of the library that was given none."""
    with ProgressBar(unit) as bar:

        def report(*told: Any) -> None:
            *label, done, total = told
            bar.update(label[0] if label else verb, done, total)

        yield report


@contextlib.contextmanager
def ticking(label: str, seconds: float) -> Iterator[None]:
    """A progress bar for work that ends after so many seconds, or before: it goes with the time."""
    if not math.isfinite(seconds) or seconds < progress.PATIENCE:
        yield
        return
    with ProgressBar("seconds") as bar, progress.ticking(lambda *told: bar.update(label, *told), math.ceil(seconds)):
        yield


def stdout() -> Console:
    return Console(highlight=False, markup=False, emoji=False)


def room() -> int | None:
    """Columns to print in: those of the terminal or of COLUMNS. None for a file or a pipe, which has no edge."""
    console = stdout()
    return console.width if console.is_terminal or os.environ.get("COLUMNS", "").isdigit() else None


def say(text: str = "", style: str = "", *, keep: bool = False) -> None:
    """Print a text, its lines broken between words where there is no room; not if it is to `keep` (to be copied).

    When quiet, a blank line stands between two things only.
    """
    global _said, _gap
    if _quiet and not text:
        _gap = _said
        return
    text = "\n" * _gap + text
    _said, _gap = True, False
    console, text = stdout(), printable(text)
    if console.options.ascii_only:
        text = text.replace("─", "-").replace("±", "+-")
    width = room()
    if width is not None and not keep:
        text = "\n".join(_broken(line, width) for line in text.split("\n"))
    console.print(Text(text, style), soft_wrap=True)  # never wrapped or cut by rich: a file has the whole line


def aside(text: str = "", style: str = "", *, keep: bool = False) -> None:
    """`say` what explains an answer or comes with it: --quiet leaves it out."""
    if not _quiet:
        say(text, style, keep=keep)


def _broken(line: str, width: int, hang: int | None = None) -> str:
    """A line in several, none wider than `width` unless a single word is; those after the first hang back."""
    if len(line) <= width:
        return line
    hang = len(line) - len(line.lstrip()) if hang is None else hang
    return textwrap.fill(line, width, subsequent_indent=" " * hang, break_long_words=False, break_on_hyphens=False)


def complain(*lines: str) -> None:
    """What went wrong, or that it was interrupted, on stderr."""
    print(*map(printable, lines), sep="\n", file=sys.stderr)


def printable(text: str) -> str:
    """The text with what a terminal would obey written out: a name in a file may hold such characters."""
    return _OBEYED.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


#: Control characters, but for tab and line feed, and those that turn the direction of writing.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def print_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    left_aligned: Iterable[int] = (0,),
    drop: Sequence[str] = (),
) -> None:
    """Columns aligned right, but for some. A short row's last cell runs on over the columns it lacks.

    Where there is no room for all columns, those of `drop` are left out, in that order and no more than needed, and a
    line says which. If that is not enough, the table turns: a block per row, a line per column. No row is ever wrapped.
    """
    width = room()
    at_left = {header[k] for k in left_aligned}
    kept = list(range(len(header)))
    left_out: list[str] = []
    if width is not None:
        for name in drop:
            if name in header and _least_width(header, rows, kept) > width:
                kept.remove(header.index(name))
                left_out.append(name)
        if _least_width(header, rows, kept) > width:
            _print_blocks(header, rows, width)
            return
    shown = [row if len(row) < len(header) else [row[k] for k in kept] for row in rows]
    _print_rows([header[k] for k in kept], shown, at_left, width)
    if left_out:
        aside(f"(no room for {', '.join(left_out)}: a wider terminal shows more)", "dim")


def _least_width(header: Sequence[str], rows: Sequence[Sequence[str]], kept: Sequence[int]) -> int:
    """How wide a table of these columns is at least."""
    full = [header, *(row for row in rows if len(row) == len(header))]
    first = max(len(row[0]) for row in [header, *rows])
    return first + sum(1 + max(len(row[k]) for row in full) for k in kept[1:])


def _print_rows(header: Sequence[str], rows: Sequence[Sequence[str]], at_left: set[str], width: int | None) -> None:
    full = [header, *(row for row in rows if len(row) == len(header))]
    widths = [max(len(row[k]) for row in full) for k in range(len(header))]
    widths[0] = max([widths[0], *(len(row[0]) for row in rows)])
    between = "  " if sum(widths) + 2 * len(widths) - 2 <= stdout().width else " "

    def line(cells: Sequence[str]) -> str:
        short = len(cells) < len(header)
        padded = (
            cell.ljust(size) if short or name in at_left else cell.rjust(size)
            for cell, size, name in zip(cells, widths, header, strict=False)
        )
        joined = between.join(padded).rstrip()
        return _broken(joined, width, widths[0] + len(between)) if short and width is not None else joined

    say(line(header), "bold", keep=True)
    say("─" * (sum(widths) + len(between) * (len(widths) - 1)), "dim", keep=True)
    for row in rows:
        say(line(row), "" if len(row) == len(header) else "yellow", keep=True)


def _print_blocks(header: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> None:
    """A block per row, a line per column: heading and cell."""
    names = max(map(len, header)) + 2
    for k, row in enumerate(rows):
        if k:
            say()
        for name, cell in zip(header, row, strict=False):
            if cell:
                style = "" if len(row) == len(header) else "yellow"
                say(_broken(f"{name:<{names}}{cell}", width, names), style, keep=True)


def print_columns(
    columns: Mapping[str, Sequence[str]], left_aligned: Iterable[int] = (0,), drop: Sequence[str] = ()
) -> None:
    """A table of columns of equal length, by heading."""
    print_table(list(columns), list(zip(*columns.values(), strict=True)), left_aligned, drop)


def print_json(value: Any) -> None:
    print(json.dumps(value, indent=2, allow_nan=False, default=str))


def write_csv(file: str, columns: Sequence[str], records: Iterable[Mapping[str, Any]]) -> None:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _no_formula(value) for name, value in record.items()} for record in records)
    if file == "-":
        print(text.getvalue(), end="")
    else:
        Path(file).write_text(text.getvalue(), encoding="utf-8", newline="")


def _no_formula(value: Any) -> Any:
    """A cell; a text that a spreadsheet would run as a formula gets a quote before it."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def aligned(values: Sequence[float | None], suffix: str = "", decimals: int | None = None) -> list[str]:
    """Numbers of one column with thousands separators and equally many decimals: about four digits of the largest."""
    known = [value for value in values if value is not None and math.isfinite(value)]
    if decimals is None:
        largest = max(map(abs, known), default=0)
        whole = all(value == int(value) for value in known)
        decimals = 0 if whole or largest >= 10_000 else 1 if largest >= 100 else 2
    return ["-" if v is None or not math.isfinite(v) else f"{v:,.{decimals}f}{suffix}" for v in values]


def plus_minus(value: float, half_width: float) -> str:
    """A value with half the width of its confidence interval, if that is known."""
    return f"{value:.2f}" + ("" if math.isnan(half_width) else f" ± {half_width:.2f}")


def at_most(shares: Sequence[float | None], decimals: int | None = None) -> list[str]:
    """Shares as percentages, rounded up: what is at most 1.01 % is not at most 1 %."""
    if decimals is None:
        decimals = 1 if max((share for share in shares if share is not None), default=0) < 0.1 else 0
    fine = 10**decimals
    rounded = [None if share is None else math.ceil(share * 100 * fine) / fine for share in shares]
    return aligned(rounded, suffix="%", decimals=decimals)
