"""Student's t: confidence intervals of means."""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray


def t_quantile(freedom: int, coverage: float = 0.95) -> float:
    """The t with P(\\|T\\| <= t) = `coverage` for Student's t with a whole number of degrees of freedom.

    Inverts the finite series of Abramowitz and Stegun (1964), 26.7.3 and 26.7.4, by bisection on the angle: exact to
    rounding, without scipy. Raises InputError unless freedom >= 1 and 0 < coverage < 1.
    """
    freedom = whole("degrees of freedom", freedom, 1)
    if not 0 < coverage < 1:
        raise InputError(f"coverage must be between 0 and 1, not {coverage}")
    return _quantile(freedom, coverage)


@functools.lru_cache(maxsize=1024)  # tables have thousands of means of as many values each
def _quantile(freedom: int, coverage: float) -> float:
    low, high = 0.0, math.pi / 2
    for _ in range(64):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, freedom) < coverage else (low, middle)
    return math.sqrt(freedom) * math.tan(low)


def _within(angle: float, freedom: int) -> float:
    """P(|T| <= t) for t = sqrt(freedom) tan(angle)."""
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2 == 1
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(freedom // 2):
        total += term
        term *= square * ((2 * k + 2) / (2 * k + 3) if odd else (2 * k + 1) / (2 * k + 2))
    return 2 / math.pi * (angle + sine * total) if odd else sine * total


def half_width(values: FloatArray, quantile: float) -> float:
    """Half the width of the interval of the mean of at least two values: the quantile times the standard error."""
    return quantile * float(values.std(ddof=1)) / math.sqrt(len(values))


def mean_and_half_width(values: npt.ArrayLike, coverage: float = 0.95) -> tuple[float, float]:
    """The mean of independent values (n,), and half the width of its confidence interval by Student's t.

    The half width is NaN for a single value; of no values both are. Raises InputError unless 0 < coverage < 1.
    """
    array = np.asarray(values, np.float64)
    if not len(array):
        return math.nan, math.nan
    half = half_width(array, t_quantile(len(array) - 1, coverage)) if len(array) > 1 else math.nan
    return float(array.mean()), half
