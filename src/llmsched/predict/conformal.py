"""Conformal calibration: the order statistics of a calibration set that give an interval the coverage asked for.

Everything here is exact for any distribution, as long as the calibration rows and the new one are exchangeable (Vovk,
Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005): the coverage is an average over calibration sets.
"""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from typing import Literal, get_args

import numpy as np

from ..errors import InputError, nearest
from ..workloads.argument_checks import decimal_fraction
from ..workloads.columns import FloatArray, IntArray

#: Which bounds an interval has. The coverage is that of the bounds that are there.
Side = Literal["both", "lower", "upper"]

Number = float | str | Decimal | Rational


def coverage_of(coverage: Number) -> Fraction:
    """The coverage as the decimal that was written; raises InputError unless it is between 0 and 1, both excluded."""
    try:
        share = decimal_fraction(coverage)
    except InputError as error:
        raise InputError(f"coverage: {error}") from None
    if not 0 < share < 1:
        raise InputError(f"coverage must be between 0 and 1, both excluded, not {coverage}")
    return share


def side_of(side: str) -> str:
    """The side itself; raises InputError unless it is one of `Side`."""
    if side not in get_args(Side):
        raise InputError(f"side={side!r} is unknown; {nearest(str(side), get_args(Side))}")
    return side


def rows_needed(coverage: Fraction) -> int:
    """The fewest calibration rows with which this coverage can be had: the least n with rank(n) <= n."""
    return math.ceil(coverage / (1 - coverage))


def rank(rows: int, coverage: Fraction, where: str = "") -> int:
    """m = ceil(coverage * (rows + 1)): the m-th smallest of `rows` scores is not exceeded with this probability.

    Raises InputError if there are too few rows, says how many are needed, and names the group (`where`).
    """
    needed = rows_needed(coverage)
    if rows < needed:
        raise InputError(
            f"{where}a coverage of {float(coverage):g} needs calibration rows, at least {needed}, and there "
            f"{'is' if rows == 1 else 'are'} {rows}: give more, or ask for less"
        )
    return math.ceil(coverage * (rows + 1))


def quantile(scores: FloatArray, coverage: Fraction, where: str = "") -> float:
    """The value that the score of a new row does not exceed with probability `coverage` or a little more.

    Raises InputError as `rank` does.
    """
    m = rank(len(scores), coverage, where)
    return float(np.partition(scores, m - 1)[m - 1])


def interval(outputs: IntArray, coverage: Fraction, side: str, where: str = "") -> tuple[int | None, int | None]:
    """Whole-token bounds that contain a new output with probability `coverage` or a little more; None for no bound.

    `outputs` are one-dimensional. With both bounds the tails are equal, but where many outputs are the same length
    (empty answers, a limit on tokens) and the lower bound has to keep all of them, the upper bound makes up for it.

    That choice looks at the data and is exact nevertheless, being full conformal: with N = n + 1 outputs, the new one
    among them, and f = floor((N - m) / 2), let a be the (f+1)-th smallest of the N, e the number below a, and b the
    (e+m)-th smallest. [a, b] holds m of the N or more, so the new one with probability m/N or more. What is returned
    is the smallest interval of all values that the new output could have to lie in its own [a, b].
    """
    n = len(outputs)
    m = rank(n, coverage, where)
    ordered = np.sort(outputs)

    def smallest(k: int) -> int:
        return int(ordered[k - 1]) if k else 1

    if side == "lower":
        return smallest(n + 1 - m), None
    if side == "upper":
        return None, smallest(m)
    f = (n + 1 - m) // 2
    below = int(np.searchsorted(ordered, ordered[f]))
    return smallest(f), smallest(below + m)
