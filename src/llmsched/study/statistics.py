"""What replications say about a mean, a quantile, a difference, a ratio and the best of several; when there are enough.

    statistics.mean_interval(values)                                      Student's t
    statistics.replications_needed(values, Precision(relative=0.02))      how many in all, the sequential rule

Everything here works on plain arrays, one value per replication; `llmsched.study.summary` applies it to the cells of a
study. The rules, and what was measured of them, are in docs/reference/statistics.md.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError, MissingExtraError
from ..metrics.confidence import half_width

if TYPE_CHECKING:
    from scipy import special

__all__ = [
    "Best",
    "Interval",
    "Precision",
    "best",
    "bootstrap_intervals",
    "mean_interval",
    "paired_difference",
    "quantile_interval",
    "ratio_interval",
    "replications_needed",
    "sequential_interval",
]

FloatArray = npt.NDArray[np.float64]

_ERROR_SHARE = 0.85  # of the error probability is used at a look: see `Precision`
_LEAST_FIRST = 16  # replications at the first look; a variance from fewer says too little
_NUMBERS_AT_ONCE = 4_000_000  # numbers of a bootstrap that are held at once


class Interval(NamedTuple):
    """An estimate and its confidence limits; infinite where the data set no limit, NaN where there is too little."""

    estimate: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class Precision:
    """How narrow the confidence interval of a mean has to be, and the rule by which replications are added.

    The rule is Stein's two-stage procedure (1945), repeated. After `first`, 2·`first`, 4·`first`, … replications the
    standard deviation is estimated anew; in between, replications are added until Student's interval *with that
    standard deviation* is narrow enough. Looking at the data inflates the error of a plain t interval; here, for normal
    values, the mean is independent of what decides when to stop, and 85 % of the error probability is spent so that
    what the choice among looks costs is covered: coverage is between 95.2 and 95.8 % at `confidence` 0.95 and
    `first` 32, whatever the variance (docs/reference/statistics.md).

    Raises InputError if neither `relative` nor `absolute` is given, or a value is outside its range.

    Parameters
    ----------
    relative, absolute
        Half the width of the interval, as a share of the mean's magnitude or in the metric's unit. With both, the wider
        one will do: an absolute one keeps a mean near 0 from asking for ever more.
    confidence
        That of the interval, from 0.5 to 0.999.
    first
        Replications before the first look, at least 16.
    most
        Where to give up: no more than so many are asked for.
    """

    relative: float | None = None
    absolute: float | None = None
    confidence: float = 0.95
    first: int = 32
    most: int = 100_000

    def __post_init__(self) -> None:
        if self.relative is None and self.absolute is None:
            raise InputError("a precision needs relative=… (such as 0.01), absolute=…, or both")
        for name in ("relative", "absolute"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise InputError(f"precision: {name} is {value!r}, expected a number greater than 0")
        _check_confidence(self.confidence)
        if not 0.5 <= self.confidence <= 0.999:
            raise InputError(f"precision: confidence is {self.confidence!r}, expected one from 0.5 to 0.999")
        if self.first < _LEAST_FIRST:
            raise InputError(
                f"precision: first is {self.first}, expected at least {_LEAST_FIRST}: fewer do not tell the variance"
            )
        if self.most < self.first:
            raise InputError(f"precision: most is {self.most}, expected at least first, which is {self.first}")

    def target(self, mean: float) -> float:
        """Half the width asked for, if the mean is `mean`."""
        return max((self.relative or 0.0) * abs(mean), self.absolute or 0.0)


# Sequential ----------------------------------------------------------------------------------------------------------


_FAR = 1e9


def replications_needed(values: npt.ArrayLike, precision: Precision) -> int:
    """How many replications there have to be in all; ``len(values)`` when these are enough, or `most` is reached.

    Call it again when they are there: `values` are those of replications 0, 1, 2, …, in that order, because it is a
    beginning of the list that tells the standard deviation. The answer depends on nothing else, and is at most twice
    ``len(values)``, or `first`. Raises InputError if a value is not finite.
    """
    x = _series(values)
    n = len(x)
    if n < precision.first:
        return precision.first
    half, look = _sequential_half(x, precision)
    target = precision.target(float(x.mean()))
    if half <= target or n >= precision.most:
        return n
    # No more than twice as many in any case, and the square of a ratio to a tiny target is no float.
    wanted = math.ceil(n * min(half / target, _FAR) ** 2) if target > 0 else precision.most
    return min(max(wanted, n + 1), 2 * look, precision.most)


def sequential_interval(values: npt.ArrayLike, precision: Precision) -> Interval:
    """The mean, with the interval that is valid when `replications_needed` said when to stop.

    NaN limits with fewer values than ``precision.first``. Raises InputError if a value is not finite.
    """
    x = _series(values)
    mean = float(x.mean()) if len(x) else math.nan
    if len(x) < precision.first:
        return Interval(mean, math.nan, math.nan)
    half, _ = _sequential_half(x, precision)
    return Interval(mean, mean - half, mean + half)


def _sequential_half(x: FloatArray, precision: Precision) -> tuple[float, int]:
    """Half the width of the interval, and the number of values at the last look."""
    look = precision.first << ((len(x) // precision.first).bit_length() - 1)
    error = _ERROR_SHARE * (1 - precision.confidence)
    quantile = float(student_t(1 - error / 2, look - 1))
    return quantile * float(x[:look].std(ddof=1)) / math.sqrt(len(x)), look


# Means ---------------------------------------------------------------------------------------------------------------


def mean_interval(values: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """The mean with Student's t interval. Raises InputError if a value is not finite."""
    x = _series(values)
    _check_confidence(confidence)
    mean = float(x.mean()) if len(x) else math.nan
    if len(x) < 2:
        return Interval(mean, math.nan, math.nan)
    half = half_width(x, float(student_t(0.5 + confidence / 2, len(x) - 1)))
    return Interval(mean, mean - half, mean + half)


def bootstrap_intervals(
    values: npt.ArrayLike, confidence: float = 0.95, *, resamples: int = 2000, seed: int = 0
) -> tuple[FloatArray, FloatArray]:
    """Lower and upper BCa bootstrap limits of the mean of every column of `values` (replications × columns).

    BCa (Efron 1987) corrects bias and skewness. The acceleration of a mean has a closed form, and all columns share
    their resamples, so that a whole study costs a few matrix products; ``scipy.stats.bootstrap`` gives the same limits
    up to the noise of resampling. NaN with fewer than 2 values. Raises InputError if a value is not finite.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 2:
        raise InputError(f"bootstrap_intervals: values have {x.ndim} axes, expected 2: replications × columns")
    if not np.isfinite(x).all():
        raise InputError("bootstrap_intervals: values have to be finite")
    _check_confidence(confidence)
    n, columns = x.shape
    if n < 2:
        return np.full(columns, np.nan), np.full(columns, np.nan)
    centre = x.mean(axis=0)
    residual = x - centre
    low, high = np.empty(columns), np.empty(columns)
    width = max(1, _NUMBERS_AT_ONCE // resamples)
    for begin in range(0, columns, width):
        part = slice(begin, begin + width)
        means = _resampled_means(residual[:, part], resamples, seed)
        low[part], high[part] = _bca(means, residual[:, part], confidence)
    return centre + low, centre + high


def _resampled_means(x: FloatArray, resamples: int, seed: int) -> FloatArray:
    """Means of every column in `resamples` resamples of the rows; equal seeds give equal resamples."""
    n = len(x)
    rng = np.random.default_rng(seed)
    rows = max(1, _NUMBERS_AT_ONCE // n)
    parts = []
    for begin in range(0, resamples, rows):
        counts = rng.multinomial(n, np.full(n, 1 / n), size=min(rows, resamples - begin))
        parts.append(counts.astype(np.float64) @ x / n)
    return np.concatenate(parts)


def _bca(means: FloatArray, residual: FloatArray, confidence: float) -> tuple[FloatArray, FloatArray]:
    """Limits from resampled means of residuals, whose own mean is 0."""
    special = _special()
    means.sort(axis=0)
    scale = (residual**2).sum(axis=0)
    constant = scale == 0
    below = ((means < 0).mean(axis=0) + (means <= 0).mean(axis=0)) / 2
    bias = special.ndtri(np.clip(below, 1 / (2 * len(means)), 1 - 1 / (2 * len(means))))
    acceleration = (residual**3).sum(axis=0) / (6 * np.where(constant, 1, scale) ** 1.5)
    limits = []
    for z in (special.ndtri((1 - confidence) / 2), special.ndtri((1 + confidence) / 2)):
        level = special.ndtr(bias + (bias + z) / (1 - acceleration * (bias + z)))
        at = level * (len(means) - 1)
        index = np.minimum(at.astype(np.int64), len(means) - 2)
        column = np.arange(means.shape[1])
        limit = means[index, column] + (at - index) * (means[index + 1, column] - means[index, column])
        limits.append(np.where(constant, 0.0, limit))
    return limits[0], limits[1]


# Quantiles -----------------------------------------------------------------------------------------------------------


def quantile_interval(values: npt.ArrayLike, q: float, confidence: float = 0.95) -> Interval:
    """The q-quantile (linearly interpolated) between two order statistics: valid for any distribution.

    The number of values below the quantile is binomial, so the order statistics that it stays between with probability
    `confidence` enclose the quantile at least so often, a little more because ranks are whole numbers (David and
    Nagaraja, Order Statistics, 7.1). Where there are too few values for a limit it is infinite: the 0.99-quantile has
    an upper one from 368 values on (at 95 %). Raises InputError if a value is not finite or q is not within (0, 1).
    """
    x = np.sort(_series(values))
    _check_confidence(confidence)
    if not 0 < q < 1:
        raise InputError(f"q is {q!r}, expected a number between 0 and 1")
    n = len(x)
    if n == 0:
        return Interval(math.nan, math.nan, math.nan)
    tail = (1 - confidence) / 2
    cumulative = _special().bdtr(np.arange(n + 1), n, q)  # P(at most k values lie below)
    low_rank = (
        int(np.searchsorted(cumulative, tail, side="right")) - 1
    )  # X[low_rank] is above with at most that probability
    high_rank = int(np.searchsorted(cumulative, 1 - tail, side="left"))  # and X[high_rank] below
    low = float(x[low_rank]) if low_rank >= 0 else -math.inf
    high = float(x[high_rank]) if high_rank < n else math.inf
    return Interval(float(np.quantile(x, q)), low, high)


# Two policies --------------------------------------------------------------------------------------------------------


def paired_difference(x: npt.ArrayLike, y: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """Mean of x − y over replications that both have, with Student's t interval on the differences.

    Raises InputError if the lengths differ or a value is not finite.
    """
    a, b = _pair(x, y)
    return mean_interval(a - b, confidence)


def ratio_interval(x: npt.ArrayLike, y: npt.ArrayLike, confidence: float = 0.95) -> Interval:
    """mean(x) / mean(y) over replications that both have, with Fieller's interval (1954).

    It inverts the paired t test of ``mean(x) − r·mean(y) = 0``: exact for normal values where the delta method is only
    asymptotic, and it uses the correlation that common random numbers bring. If mean(y) is not distinguishable from 0,
    no interval is possible, and the limits are infinite; the estimate is NaN if it is 0. A ratio of means, not a mean
    of ratios: it is what the totals of a long service would have.

    Raises InputError if the lengths differ or a value is not finite.
    """
    a, b = _pair(x, y)
    _check_confidence(confidence)
    n = len(a)
    bottom = float(b.mean()) if n else math.nan
    if n == 0 or bottom == 0:
        return Interval(math.nan, -math.inf, math.inf) if n else Interval(math.nan, math.nan, math.nan)
    ratio = float(a.mean()) / bottom
    if n < 2:
        return Interval(ratio, math.nan, math.nan)
    t = float(student_t(0.5 + confidence / 2, n - 1)) / bottom
    covariance = np.cov(a, b) / n
    g = t * t * float(covariance[1, 1])
    if g >= 1:
        return Interval(ratio, -math.inf, math.inf)
    determinant = float(covariance[0, 0] * covariance[1, 1] - covariance[0, 1] ** 2)
    residual = float((a - ratio * b).var(ddof=1)) / n
    half = abs(t) * math.sqrt(max(residual - t * t * determinant, 0.0))
    middle = ratio - t * t * float(covariance[0, 1])
    return Interval(ratio, (middle - half) / (1 - g), (middle + half) / (1 - g))


# Several policies ----------------------------------------------------------------------------------------------------


class Best(NamedTuple):
    """What is known of the best column: arrays, one element per column.

    `regret` is how much its mean is worse than the best of all, `low` and `high` are its simultaneous limits, and
    `candidate` says whether it may be the best.
    """

    regret: FloatArray
    low: FloatArray
    high: FloatArray
    candidate: npt.NDArray[np.bool_]


def best(values: npt.ArrayLike, confidence: float = 0.95, *, largest: bool = False) -> Best:
    """Which column of `values` (replications × columns, paired by row) has the smallest mean, or the largest.

    Multiple comparisons with the best (Hsu 1984) in the form of Edwards and Hsu (1983): with probability `confidence`
    the best column is a candidate *and* all regrets are between their limits. The t tests are paired and Bonferroni's
    inequality holds whatever the correlation: Hsu's own constants assume equal variances and correlations, which
    common random numbers do not give. Only comparisons with the true best have to be right, hence a Bonferroni factor
    of columns − 1, not of all pairs.

    Raises InputError if `values` are not two-dimensional or not finite.
    """
    x = np.asarray(values, np.float64)
    if x.ndim != 2 or not np.isfinite(x).all():
        raise InputError("best: values have to be finite and of 2 axes, replications × columns")
    _check_confidence(confidence)
    x = -x if largest else x
    n, columns = x.shape
    mean = x.mean(axis=0) if n else np.full(columns, np.nan)
    regret = mean - (mean.min() if columns else 0.0)
    if columns < 2:
        return Best(regret, np.zeros(columns), np.zeros(columns), np.ones(columns, bool))
    if n < 2:
        return Best(regret, np.zeros(columns), np.full(columns, np.inf), np.ones(columns, bool))
    t = float(student_t(1 - (1 - confidence) / (2 * (columns - 1)), n - 1))
    low, high = np.empty((columns, columns)), np.empty((columns, columns))
    for other in range(columns):  # against every column as if it were the best
        difference = x - x[:, other : other + 1]
        half = t * difference.std(axis=0, ddof=1) / math.sqrt(n)
        low[other], high[other] = difference.mean(axis=0) - half, difference.mean(axis=0) + half
    candidate: npt.NDArray[np.bool_] = np.all(high >= 0, axis=1)
    candidate[np.argmin(mean)] = True  # it is: rounding must not say otherwise
    limits = low[candidate].min(axis=0), high[candidate].max(axis=0)
    return Best(regret, np.maximum(limits[0], 0.0), np.maximum(limits[1], 0.0), candidate)


# What all need -------------------------------------------------------------------------------------------------------


def _series(values: npt.ArrayLike) -> FloatArray:
    x = np.asarray(values, np.float64)
    if x.ndim != 1:
        raise InputError(f"values have {x.ndim} axes, expected 1: one value per replication")
    bad = np.flatnonzero(~np.isfinite(x))
    if len(bad):
        raise InputError(f"replication {bad[0]} has the value {x[bad[0]]}: leave out what did not finish")
    return x


def _pair(x: npt.ArrayLike, y: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    a, b = _series(x), _series(y)
    if len(a) != len(b):
        raise InputError(f"{len(a)} and {len(b)} values cannot be paired: give the replications that both have")
    return a, b


def _check_confidence(confidence: float) -> None:
    if not 0 < confidence < 1:
        raise InputError(f"confidence is {confidence!r}, expected a number between 0 and 1, such as 0.95")


def student_t(probability: float, degrees: npt.ArrayLike) -> Any:
    """Quantile of Student's t distribution for each number of degrees of freedom; NaN unless it is at least 1."""
    return _special().stdtrit(degrees, probability)


def _special() -> special:
    try:
        from scipy import special
    except ImportError:
        raise MissingExtraError("scipy", "study", "confidence intervals") from None
    return special
