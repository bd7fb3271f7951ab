"""Progress bars on every call that takes over a second, for whoever asks: `show_progress` (extra `notebook`).

Functions that know how far they are have a parameter `progress`, a callback; a bar is one that is given to them. Of the
others the bar tells the time. There is never more than one: what runs inside a call with a bar has none of its own.
"""

from __future__ import annotations

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, ParamSpec, TypeVar

from .errors import MissingExtraError

P = ParamSpec("P")
R = TypeVar("R")

#: Reports how far it is: (done, in all), perhaps with a label before them; in all is None where nobody knows.
Report = Callable[..., None]
#: Makes a bar, from what is done (a verb) and what is counted.
Bars = Callable[[str, str], AbstractContextManager[Report]]

#: Seconds that a call may take without a bar, and between two pictures of it.
PATIENCE, _BETWEEN = 1.0, 0.1

_bars: Bars | None = None
_one_at_a_time = threading.Lock()


class show_progress:  # used as a function, as torch.set_grad_enabled is
    """From now on show a progress bar on every call that takes over a second; inside, if it is used with ``with``.

    ::

        ls.show_progress()                      # in the first cell of a notebook
        with ls.show_progress(): ...            # for some calls alone

    Bars are tqdm's: widgets in a notebook, text on a terminal's stderr; elsewhere there are none, so that a log file
    stays clean. A call that is given a `progress` of its own has no bar.

    Parameters
    ----------
    on
        False: no bars from now on, as it is at first.

    Raises
    ------
    MissingExtraError
        tqdm is not installed (extra `notebook`).
    """

    def __init__(self, on: bool = True) -> None:
        self._on = on
        self._before = set_bars(_tqdm_bars() if on else None)

    def __repr__(self) -> str:  # what a notebook shows where it is the last line of a cell
        return f"progress bars are {'on' if self._on else 'off'}"

    def __enter__(self) -> show_progress:
        return self

    def __exit__(self, *error: object) -> None:
        set_bars(self._before)


def set_bars(bars: Bars | None) -> Bars | None:
    """Who makes bars from now on; returns who did."""
    global _bars
    before, _bars = _bars, bars
    return before


@contextlib.contextmanager
def no_other() -> Iterator[None]:
    """No bar begins inside: there is one, or something else that it would disturb."""
    alone = _one_at_a_time.acquire(blocking=False)
    try:
        yield
    finally:
        if alone:
            _one_at_a_time.release()


def with_bar(
    verb: str, unit: str, read: Callable[..., tuple[Any, ...]] | None = None
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function with a keyword `progress`: where the caller gives none and bars are shown, it gets one.

    `read` makes (done, in all) of what the function reports, if that is something else.
    """

    def run(bars: Bars, function: Callable[..., R], args: tuple[Any, ...], options: dict[str, Any]) -> R:
        if options.get("progress") is not None:
            return function(*args, **options)
        with bars(verb, unit) as report:
            tell = report if read is None else lambda *told: report(*read(*told))
            return function(*args, **options | {"progress": tell})

    return _where_bars_are_shown(run)


def with_seconds(verb: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """For a function that cannot say how far it is: the bar tells the seconds."""

    def run(bars: Bars, function: Callable[..., R], args: tuple[Any, ...], options: dict[str, Any]) -> R:
        with bars(verb, "seconds") as report, ticking(report):
            return function(*args, **options)

    return _where_bars_are_shown(run)


def _where_bars_are_shown(
    run: Callable[[Bars, Callable[..., R], tuple[Any, ...], dict[str, Any]], R],
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """A decorator: a call goes through `run` if bars are shown and none is yet, else straight to the function."""

    def decorate(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def call(*args: P.args, **options: P.kwargs) -> R:
            bars = _bars
            if bars is None or not _one_at_a_time.acquire(blocking=False):
                return function(*args, **options)
            try:
                return run(bars, function, args, options)
            finally:
                _one_at_a_time.release()

        return call

    return decorate


@contextlib.contextmanager
def ticking(report: Report, total: float | None = None) -> Iterator[None]:
    """Reports the seconds that have passed, four times in each, `total` of them at most."""
    over, began = threading.Event(), time.monotonic()
    most = float("inf") if total is None else total

    def tick() -> None:
        while not over.wait(0.25):
            report(min(round(time.monotonic() - began), most), total)

    ticker = threading.Thread(target=tick, daemon=True)
    ticker.start()
    try:
        yield
    finally:
        over.set()
        ticker.join()


# The bars of tqdm -----------------------------------------------------------------------------------------------------


def _tqdm_bars() -> Bars:
    """Those of tqdm where they can be seen, else none."""
    try:
        from tqdm.auto import tqdm
    except ImportError:
        raise MissingExtraError("tqdm", "notebook", "a progress bar") from None

    def bars(verb: str, unit: str) -> AbstractContextManager[Report]:
        return _Bar(tqdm, verb, unit) if _in_notebook() or sys.stderr.isatty() else contextlib.nullcontext(_nothing)

    return bars


def _in_notebook() -> bool:
    """Whether this is a kernel of Jupyter's."""
    found = sys.modules.get("IPython")
    shell = None if found is None else found.get_ipython()
    return shell is not None and "IPKernelApp" in shell.config


def _nothing(*told: Any) -> None:
    """A report that nobody sees."""


class _Bar:
    """A bar of tqdm's, made once the call has taken a second."""

    def __init__(self, tqdm: Any, verb: str, unit: str) -> None:
        self.tqdm, self.verb, self.unit = tqdm, verb, unit
        self.bar: Any = None
        self.began, self.drawn = time.time(), 0.0

    def __enter__(self) -> Report:
        return self.report

    def report(self, *told: Any) -> None:
        *label, done, total = told
        words, now = str(label[0]) if label else self.verb, time.time()
        if now - self.began < PATIENCE or now - self.drawn < _BETWEEN:
            return
        if self.bar is None:
            look: dict[str, Any] = {"unit": f" {self.unit}", "unit_scale": True}
            if self.unit == "seconds":  # so many a second, which tqdm would say, are no news
                form = "{desc}{elapsed}" if total is None else "{l_bar}{bar}| {n:.0f} of {total:.0f} seconds"
                look = {"bar_format": form}
            self.bar = self.tqdm(desc=f"{words}: ", total=total, dynamic_ncols=True, **look)
        elif total != self.bar.total:
            self.bar.reset(total)
        self.bar.start_t, self.bar.n = self.began, done
        self.bar.set_description(words, refresh=False)
        self.bar.refresh()
        self.drawn = now

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        if self.bar is None:
            return
        if kind is None and self.bar.total is not None:  # the last report may be long ago, and the total was a guess
            self.bar.n = self.bar.total
            self.bar.refresh()
        self.bar.close()
