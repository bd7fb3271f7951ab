"""Ticks whose labels have room: fewer where labels are long or the axis is short, plain numbers on log axes.

matplotlib's own locators guess that a label is three letters wide, so that 20,000 and 40,000 run into each other, and
its logarithmic ones write powers of ten. These measure the labels against the axis as it is drawn.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axis import Axis

#: Widths of letters in ems: those of DejaVu Sans, matplotlib's font.
_EMS = {",": 0.33, ".": 0.33, "-": 0.37, " ": 0.33, "%": 0.96}
_DIGIT = 0.65
_BETWEEN = 0.9  # ems between two labels
_LINE = 1.7  # ems from a line of labels to the next
_SIZE = 10.0  # points: matplotlib's tick labels, unless something else is set
_MOST = 9  # intervals on an axis
_WITHIN_A_DECADE = ((1, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,))


def number(value: float, _: object = None) -> str:
    """A tick's label: 20,000, 0.05, 3."""
    return f"{value:,.10g}"


def readable(axis: Axis) -> None:
    """Give an axis, linear or logarithmic, ticks whose labels are plain numbers and never collide."""
    if axis.get_scale() == "log":
        axis.set_major_locator(_locators()[1]())
        axis.set_minor_locator(_nothing())
    else:
        axis.set_major_locator(_locators()[0](_MOST, steps=[1, 2, 2.5, 5, 10]))
    axis.set_major_formatter(number)


def in_whole_numbers(axis: Axis) -> None:
    """The same for an axis that counts."""
    axis.set_major_locator(_locators()[0](_MOST, steps=[1, 2, 5, 10], integer=True))
    axis.set_major_formatter(number)


def _nothing() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


@functools.cache
def _locators() -> tuple[Any, Any]:
    """Our locators, linear and logarithmic: made late, as matplotlib is imported late."""
    from matplotlib.ticker import Locator, MaxNLocator

    class Linear(MaxNLocator):
        def tick_values(self, vmin: float, vmax: float) -> Any:
            low, high = sorted((float(vmin), float(vmax)))
            for most in range(_MOST, 0, -1):
                self.set_params(nbins=most)
                ticks = super().tick_values(vmin, vmax)
                seen = [tick for tick in ticks if low <= tick <= high]
                if _fit(self.axis, seen, [(tick - low) / ((high - low) or 1.0) for tick in seen]):
                    return ticks
            ends = seen[:: max(len(seen) - 1, 1)]
            return ends if _fit(self.axis, ends, [0.0, 1.0][: len(ends)]) else ends[:1]

    class Logarithmic(Locator):
        def __call__(self) -> Any:
            axis: Any = self.axis
            return self.tick_values(*axis.get_view_interval())

        def tick_values(self, vmin: float, vmax: float) -> Any:
            low, high = sorted((float(vmin), float(vmax)))
            if not 0 < low < high:
                return []
            length = math.log(high / low)
            found = [ticks for ticks in _on_log(low, high) if ticks]
            for ticks in found:
                if _fit(self.axis, ticks, [math.log(tick / low) / length for tick in ticks]):
                    return ticks
            return found[-1][:1] if found else [low]

    return Linear, Logarithmic


def _on_log(low: float, high: float) -> Iterator[list[float]]:
    """Ticks between low and high, ever fewer."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    slack = 1e-9
    for parts in _WITHIN_A_DECADE:
        ticks = [part * 10.0**power for power in range(first, last + 1) for part in parts]
        inside = [tick for tick in ticks if low * (1 - slack) <= tick <= high * (1 + slack)]
        if len(inside) >= 3 or (len(inside) == 2 and high / low > 3):
            yield inside
    if high / low < 10:  # too short for powers of ten
        from matplotlib.ticker import MaxNLocator

        for most in (5, 4, 3, 2, 1):
            near = MaxNLocator(most, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high)
            yield [float(tick) for tick in near if low <= tick <= high]
    for step in range(2, max(last - first, 2) + 1):
        inside = [10.0**power for power in range(first, last + 1, step)]
        yield [tick for tick in inside if low <= tick <= high]


def _fit(axis: Any, ticks: Sequence[float], places: Sequence[float]) -> bool:
    """Whether the labels of ticks, at these shares of the axis, keep apart."""
    box = axis.axes.get_window_extent()
    figure = axis.get_figure()
    dpi = 100.0 if figure is None else figure.dpi
    horizontal = axis.axis_name == "x"
    length = (box.width if horizontal else box.height) * 72 / dpi / _SIZE  # in ems
    if not horizontal:
        return all(length * (b - a) >= _LINE for a, b in itertools.pairwise(places))
    wide = [sum(_EMS.get(letter, _DIGIT) for letter in number(tick)) for tick in ticks]
    return all(
        length * (places[k + 1] - places[k]) >= (wide[k] + wide[k + 1]) / 2 + _BETWEEN for k in range(len(ticks) - 1)
    )
