"""Means of one long run: where its warm-up ends, and a confidence interval although its values depend on each other.

    found = ls.steady_state.estimate(ls.steady_state.latencies(result))
    print(found)            # mean 12.31 (95 % CI 11.9 to 12.7): 20 batches of 480 values, 400 dropped as warm-up

The latencies of a run are neither independent (who waits behind somebody is late with him) nor all from the steady
state (the queue starts empty). The warm-up is cut off by MSER-5 (White 1997; Spratt 1998; White, Cobb and Spratt 2000);
the rest is cut into batches that are long enough to be nearly independent, and Student's t does the rest (batch means:
Law and Kelton, Simulation Modeling and Analysis, 9.5.3; Schmeiser 1982 for how many batches). How often the intervals
are right is measured by `python -m verification.steady_state` (docs/reference/statistics.md).

A run whose load is above capacity has no steady state. `Estimate.warmed_up` is False where the warm-up does not end in
the first half of the run, as happens then: no interval of such a run means anything.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..errors import InputError, nearest
from ..simulation.result import Result
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray
from ..workloads.workload import turns_before
from .confidence import t_quantile

__all__ = ["METHODS", "Estimate", "Method", "batch_means", "estimate", "latencies", "warm_up"]

Method = Literal["batches", "overlapping"]
METHODS: tuple[Method, ...] = get_args(Method)

#: Batches of `batch_means` unless told otherwise: within Schmeiser's 10 to 30, beyond which more freedom narrows an
#: interval by little, and shorter batches depend on each other.
BATCHES = 20


#: Half the width of an interval over the mean, from which on `Estimate.doubts` has it.
PRECISE = 0.1


@dataclasses.dataclass(frozen=True)
class Estimate:
    """The mean of a steady state.

    Attributes
    ----------
    mean, low, high
        The mean after the warm-up, and its confidence interval.
    confidence
        Of the interval.
    dropped
        Values at the beginning that are left out as warm-up.
    warmed_up
        Whether the warm-up ended in the first half of the values.
    batches, batch_size
        How many batches, and how many values in each.
    correlation
        Correlation of neighbouring batch means (lag 1): near 0 if the batches are long enough.
    independent
        Whether von Neumann's ratio finds the batch means independent (5 %, one-sided). If not, the interval is too
        narrow: simulate longer.
    """

    mean: float
    low: float
    high: float
    confidence: float
    dropped: int
    warmed_up: bool
    batches: int
    batch_size: int
    correlation: float
    independent: bool

    @property
    def relative(self) -> float:
        """Half the width of the interval, as a share of the mean."""
        half = (self.high - self.low) / 2
        return half / abs(self.mean) if self.mean else math.inf

    @property
    def doubts(self) -> tuple[str, ...]:
        """What speaks against the interval; nothing if empty, which is no proof that it is right.

        An interval wider than ±10 % is doubted because it comes, with queues, from runs that are too short for the
        other two tests to see anything.
        """
        found = [] if self.warmed_up else ["the warm-up does not end in the first half: no steady state"]
        found += [] if self.independent else ["batches depend on each other: the interval is too narrow"]
        found += [] if self.relative <= PRECISE else [f"wider than ±{PRECISE:.0%}"]
        return tuple(found)

    def __str__(self) -> str:
        text = (
            f"mean {self.mean:.4g} ({100 * self.confidence:.4g} % CI {self.low:.4g} to {self.high:.4g}): "
            f"{self.batches} batches of {self.batch_size:,} values, {self.dropped:,} dropped as warm-up"
        )
        return "; ".join([text, *self.doubts, *(["simulate longer"] if self.doubts else [])])


def warm_up(values: npt.ArrayLike, batch: int = 5) -> int | None:
    """How many of the first values (n,) are warm-up, by MSER-m with batches of m = `batch` (5: MSER-5).

    The values are averaged over batches of m. Dropping d of the k batch means leaves a mean with the squared standard
    error MSER(d) = Σ (Y_i − mean)² / (k − d)² over the others; the d that makes it least, up to k / 2, is taken (White
    1997; White, Cobb and Spratt 2000). None if that is at the end of the range: the warm-up may not be over.

    Raises InputError for values that are not finite numbers in one dimension, or fewer than 4 batches of them.
    """
    batch = whole("batch", batch, 1)
    means = _means(_series(values, 4 * batch), batch)
    k = len(means)
    left = np.arange(k, 0, -1, dtype=np.float64)  # k - d
    centred = means - means.mean()  # sums of squares lose no digits to a large mean
    total, squares = (np.cumsum(x[::-1])[::-1] for x in (centred, centred**2))
    errors = np.maximum(squares - total**2 / left, 0.0) / left**2
    most = k // 2
    best = int(np.argmin(errors[: most + 1]))
    return None if best == most and errors[best] < errors[0] else best * batch


def batch_means(
    values: npt.ArrayLike,
    *,
    batches: int = BATCHES,
    confidence: float = 0.95,
    method: Method = "batches",
    dropped: int = 0,
    warmed_up: bool = True,
) -> Estimate:
    """The mean of a stationary series (n,) with a confidence interval from batch means.

    Parameters
    ----------
    values
        In the order of time. The first few that do not fill a batch are left out.
    batches
        How many, at least 2; 20 unless told otherwise.
    method
        ``"batches"``: means of n / `batches` values each, next to each other, and Student's t with `batches` − 1
        degrees of freedom. ``"overlapping"``: one such batch begins at every value, which makes the variance a third
        less uncertain: 1.5 (`batches` − 1) degrees of freedom (Meketon and Schmeiser 1984).
    dropped, warmed_up
        For the record.

    Raises
    ------
    InputError
        Values that are no finite numbers, fewer than two per batch, or arguments out of range.
    """
    batches = whole("batches", batches, 2)
    if not (isinstance(confidence, float) and 0 < confidence < 1):
        raise InputError(f"confidence={confidence!r} must be a number between 0 and 1, such as 0.95")
    if method not in METHODS:
        raise InputError(f"method={method!r} is unknown; {nearest(str(method), METHODS)}")
    series = _series(values, 2 * batches)
    size = len(series) // batches
    series = series[len(series) - size * batches :]
    means = _means(series, size)
    mean, n = float(series.mean()), len(series)
    if method == "batches":
        variance, freedom = float(means.var(ddof=1)) / batches, batches - 1
    else:
        sums = np.concatenate([[0.0], np.cumsum(series - mean)])
        moving = (sums[size:] - sums[:-size]) / size
        variance = size / ((n - size + 1) * (n - size)) * float(moving @ moving)
        freedom = int(1.5 * (batches - 1))
    half = t_quantile(freedom, confidence) * math.sqrt(variance)
    correlation, independent = _independence(means)
    return Estimate(
        mean, mean - half, mean + half, confidence, dropped, warmed_up, batches, size, correlation, independent
    )


def estimate(
    values: npt.ArrayLike,
    *,
    batches: int = BATCHES,
    confidence: float = 0.95,
    method: Method = "batches",
) -> Estimate:
    """The mean of the steady state that a series (n,) settles in: `warm_up`, then `batch_means` of the rest.

    Where the warm-up does not end in the first half, the first half is dropped and `Estimate.warmed_up` is False.
    Parameters and errors are those of `batch_means`; there must be 4 values per batch at least.
    """
    series = _series(values, max(4 * whole("batches", batches, 2), 20))
    dropped = warm_up(series)
    warmed_up = dropped is not None
    dropped = len(series) // 2 if dropped is None else dropped
    return batch_means(
        series[dropped:], batches=batches, confidence=confidence, method=method, dropped=dropped, warmed_up=warmed_up
    )


def latencies(result: Result) -> FloatArray:
    """The latencies of a run in the order of arrival (n,): a series for `estimate`.

    The last requests see no arrivals after them, and leave a queue that empties: nothing in a series tells, so let a
    run be long against that, or leave the last ones out. In a closed loop (think times) it is known when that begins:
    no session comes any more, and one has had its last turn. Turns that arrive later are left out (fewer than n).
    """
    workload, arrival = result.workload, result.workload.arrival
    order = np.argsort(arrival, kind="stable")
    if workload.think is not None and len(workload):
        before = turns_before(workload)
        is_last = np.ones(len(workload), bool)
        is_last[before[before >= 0]] = False
        until = max(arrival[before < 0].max(), result.completion[is_last].min())
        order = order[arrival[order] <= until]
    return result.latency[order]


def _series(values: npt.ArrayLike, least: int) -> FloatArray:
    try:
        series = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("a series is a list of numbers") from None
    if series.ndim != 1 or not np.isfinite(series).all():
        raise InputError("a series is a list of finite numbers in one dimension")
    if len(series) < least:
        raise InputError(f"{len(series)} values are too few: {least} are the least, and thousands are better")
    return series


def _means(series: FloatArray, size: int) -> FloatArray:
    """Means of batches next to each other; what is left over is at the end."""
    k = len(series) // size
    return np.asarray(series[: k * size].reshape(k, size).mean(axis=1))


def _independence(means: FloatArray) -> tuple[float, bool]:
    """Lag-1 correlation of batch means, and von Neumann's test of it at 5 % (Steiger and Wilson 2002)."""
    centred = means - means.mean()
    squares = float(centred @ centred)
    k = len(means)
    if squares == 0 or k < 3:
        return 0.0, True
    correlation = float(centred[1:] @ centred[:-1]) / squares
    ends = (centred[0] ** 2 + centred[-1] ** 2) / (2 * squares)
    statistic = (correlation + float(ends)) * math.sqrt((k**2 - 1) / (k - 2))
    return correlation, statistic <= 1.6449
