"""Workloads drawn from named distributions, and arrival times for any workload.

    generate.poisson(generate.lmsys(1000, seed=1), rate=50, seed=1)

One seed gives one workload on any machine. Lengths are drawn by inverting a table of cumulative probabilities, held as
whole multiples of 2**-40, with raw numbers of PCG64: a different last bit of exp or log in another mathematics library
moves an entry of that table by one step rarely, and a draw then with probability 2**-40. Prompts, outputs and arrivals
have independent streams, and the first requests of a longer workload are those of a shorter one.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from numbers import Rational
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np

from ..errors import InputError
from ..progress import with_seconds
from .argument_checks import LARGEST_SEED, decimal_fraction, split_spelling, whole
from .columns import FloatArray, IntArray
from .random_streams import Uniforms, raw_stream, uniforms
from .workload import Workload, attach_lengths, attach_prefixes

__all__ = [
    "FORMS",
    "GENERATORS",
    "at_once",
    "chunks",
    "gamma",
    "geometric",
    "linear_geometric",
    "lmsys",
    "lognormal",
    "parse",
    "poisson",
    "resample",
    "speed_up",
    "two_point",
    "uniform",
]

#: A number in any of the ways to write one.
Number: TypeAlias = float | str | Decimal | Rational

#: Name of a generator -> how it is written for `parse`; what stands in brackets may be left out.
FORMS: Mapping[str, str] = MappingProxyType(
    {
        "lmsys": "lmsys",
        "two_point": "two_point:LOWER,UPPER[,SHARE,PROMPT]",
        "geometric": "geometric:Q,UPPER[,PROMPT]",
        "linear_geometric": "linear_geometric:Q,UPPER[,PROMPT]",
        "uniform": "uniform:LOW,HIGH[,PROMPT]",
        "lognormal": "lognormal:MU,SIGMA,LOW,HIGH[,PROMPT]",
    }
)

# (mu, sigma, low, high) of the lognormals of `lmsys`; derived in its docstring.
_LMSYS_PROMPT = (2.2341, 2.2086, 1, 468)
_LMSYS_OUTPUT = (3.7751, 1.2669, 1, 883)
# (median, a, b, decay, high) of the distributions of `lmsys` with the published variances: see `_halves_table`.
_LMSYS_PROMPT_HALVES = (11, 0.57278951, 1, 0.00415901, 468)
_LMSYS_OUTPUT_HALVES = (43, 0.04912989, 0, 0.00936744, 883)

_TABLE_BITS = 40
_TABLE_SIZE = 10**6  # different lengths at most: each still has some 2**20 steps of probability
_GAP_STEPS = 2**20  # arrival gaps are whole multiples of 2**-20 of the mean gap


@with_seconds("generating")
def lmsys(n: int = 2000, seed: int = 0, *, second_moments: bool = False) -> Workload:
    """`n` conversations like the 2,000 of LMSYS-Chat-1M in the paper (arXiv 2508.14544, Section 6), arriving at 0.

    Published there: prompts 1-468 tokens, mean 41, median 11; outputs 1-883, mean 85, median 43. Each is drawn here
    from a lognormal density taken at the whole numbers of its range (see `lognormal`), prompt and output independently.
    Mean and median leave one (mu, sigma): the one whose mean is the published one and whose cumulative probability
    is 1/2 in the middle of the published median's step. To four decimals (2.2341, 2.2086) and (3.7751, 1.2669), which
    give means 40.9996 and 85.0004 and medians 11 and 43. No predictions: add them with ``.with_intervals(...)``.

    That leaves no choice of the variances: 5,438 and 13,540 against the published 4,961 and 9,702. With
    ``second_moments=True`` they are those, with the same means and medians, by densities of two pieces: k^-a up to the
    median, k^-b exp(-c k) beyond it. So little variance leaves little to the tail, and beside mean 85 and median 43 the
    short half then is nearly uniform (a = 0.05, mean 21.5): no single bell gives these numbers.
    """
    n, seed = _request_count(n), _seed(seed)
    tables = [_lognormal_table(*_LMSYS_PROMPT), _lognormal_table(*_LMSYS_OUTPUT)]
    if second_moments:
        tables = [_halves_table(*_LMSYS_PROMPT_HALVES), _halves_table(*_LMSYS_OUTPUT_HALVES)]
    prompt, output = _draw(seed, "prompt", n, *tables[0]), _draw(seed, "output", n, *tables[1])
    said = {"second_moments": True} if second_moments else {}
    return Workload(prompt, output, source={"generator": "lmsys", "n": n, "seed": seed, **said})


def two_point(
    n: int, lower: int, upper: int, share: Number = 0.8, prompt: int = 0, seed: int = 0, *, interval: bool = True
) -> Workload:
    """Outputs of `lower` tokens with probability `share`, else `upper` (the paper's Theorems 6 and 7).

    Every request has `prompt` prompt tokens, arrives at 0, and unless ``interval=False`` carries the interval
    [lower, upper]. Raises InputError unless 1 <= lower <= upper and 0 <= share <= 1.
    """
    lower, upper = _length_range("lower", lower, "upper", upper)
    probability = _finite("share", share)
    if not 0 <= probability <= 1:
        raise InputError(f"share must be a probability from 0 to 1, not {share}")
    given, shares = {"lower": lower, "upper": upper, "share": probability}, np.array([probability, 1 - probability])
    return _with_one_prompt(n, prompt, seed, interval, "two_point", given, np.array([lower, upper]), shares)


def geometric(n: int, q: Number, upper: int, prompt: int = 0, seed: int = 0, *, interval: bool = True) -> Workload:
    """Outputs k = 1..upper with P(k) proportional to p q^(k-1), p = 1-q: the paper's geometric case, cut off.

    Every request has `prompt` prompt tokens, arrives at 0, and unless ``interval=False`` carries the interval
    [1, upper]. Raises InputError unless 0 < q < 1 and 1 <= upper <= 10**6.
    """
    ratio, (_, upper) = _geometric_ratio(q), _length_range("the least output", 1, "upper", upper)
    k = _lengths(1, upper)
    given = {"q": ratio, "upper": upper}
    return _with_one_prompt(n, prompt, seed, interval, "geometric", given, k, np.power(ratio, k - 1.0))


def linear_geometric(
    n: int, q: Number, upper: int, prompt: int = 0, seed: int = 0, *, interval: bool = True
) -> Workload:
    """Outputs k = 1..upper with P(k) proportional to k p^2 q^(k-1), p = 1-q (the paper's Theorem 8, cut off).

    All else is as for `geometric`.
    """
    ratio, (_, upper) = _geometric_ratio(q), _length_range("the least output", 1, "upper", upper)
    k = _lengths(1, upper)
    given = {"q": ratio, "upper": upper}
    return _with_one_prompt(n, prompt, seed, interval, "linear_geometric", given, k, k * np.power(ratio, k - 1.0))


def uniform(n: int, low: int, high: int, prompt: int = 0, seed: int = 0, *, interval: bool = True) -> Workload:
    """Outputs uniform on the whole numbers low..high (up to 10**6 of them).

    Every request has `prompt` prompt tokens, arrives at 0, and unless ``interval=False`` carries the interval
    [low, high]. Raises InputError unless 1 <= low <= high.
    """
    low, high = _length_range("low", low, "high", high)
    k = _lengths(low, high)
    given = {"low": low, "high": high}
    return _with_one_prompt(n, prompt, seed, interval, "uniform", given, k, np.ones(len(k)))


def lognormal(
    n: int,
    mu: Number | None = None,
    sigma: Number | None = None,
    low: int = 1,
    high: int = 1000,
    prompt: int = 0,
    seed: int = 0,
    *,
    mean: Number | None = None,
    median: Number | None = None,
    interval: bool = False,
) -> Workload:
    """Outputs low..high (up to 10**6 values) with P(k) proportional to exp(-(ln k - mu)^2 / (2 sigma^2)) / k.

    Give `mu` and `sigma`, or `mean` and `median` in tokens of the lognormal before it is cut off and made whole:
    mu = ln median, sigma = sqrt(2 ln(mean/median)). Cutting off the tail lowers the mean that results.

    Every request has `prompt` prompt tokens and arrives at 0; with ``interval=True`` it carries the interval
    [low, high]. Raises InputError unless -1000 <= mu <= 1000, 1e-6 <= sigma <= 1e6 (so mean > median > 0) and
    1 <= low <= high.
    """
    given = _mu_sigma(mu, sigma, mean, median)
    low, high = _length_range("low", low, "high", high)
    k, weights = _lognormal_table(given["mu"], given["sigma"], low, high)
    return _with_one_prompt(n, prompt, seed, interval, "lognormal", {**given, "low": low, "high": high}, k, weights)


def resample(workload: Workload, n: int, seed: int = 0, *, keep_arrivals: bool = False) -> Workload:
    """`n` requests of `workload`, each drawn uniformly with replacement: its whole row, predictions included.

    All arrive at 0 unless ``keep_arrivals=True``, by which each keeps its own time. Block hashes are left out: a
    request that is drawn twice would find all of itself in the cache. Raises InputError if there is no
    request to draw from, or think times make turns of them.
    """
    n, seed = _request_count(n), _seed(seed)
    _check_drawn(workload, n)
    # Below len(workload) even for the largest double below 1, as the product is rounded to nearest.
    rows = (uniforms(seed, "rows", n) * len(workload)).astype(np.int64)
    source = {"generator": "resample", "n": n, "keep_arrivals": keep_arrivals, "seed": seed}
    taken = workload.take(rows)
    drawn = taken.columns() | ({} if keep_arrivals else {"arrival": np.zeros(n)})
    fresh = Workload(**drawn, source={**source, "of": dict(workload.source)})
    return attach_lengths(fresh, taken.lengths, taken.classes)


def at_once(workload: Workload) -> Workload:
    """The same requests, all arriving at 0."""
    return _with_arrivals(workload, np.zeros(len(workload)), {"process": "at_once"})


def poisson(workload: Workload, rate: float, seed: int = 0) -> Workload:
    """The same requests, arriving in their order in a Poisson process of `rate` requests per round (or per second).

    Gaps are exponential, rounded to multiples of 2**-20 of the mean gap, so that the times are the same on any machine.
    The first request arrives after the first gap. Raises InputError unless rate > 0.
    """
    rate, seed = _positive("rate", rate), _seed(seed)
    gaps = -np.log1p(-uniforms(seed, "arrival", len(workload)))
    return _with_arrivals(workload, _arrival_times(gaps, rate), {"process": "poisson", "rate": rate, "seed": seed})


def chunks(workload: Workload, n: int, rate: float, seed: int = 0, *, size: int = 65_536) -> Iterator[Workload]:
    """``poisson(resample(workload, n, seed), rate, seed)`` in chunks of `size` requests, made as they are asked for.

    For `llmsched.stream`: however large `n` is, there is memory for a chunk. Raises InputError as these do.
    """
    n, rate, seed = _request_count(n), _positive("rate", rate), _seed(seed)
    size = whole("size", size, 1)
    _check_drawn(workload, n)
    return _chunks(workload, n, rate, seed, size)


def _chunks(workload: Workload, n: int, rate: float, seed: int, size: int) -> Iterator[Workload]:
    rows, gaps = Uniforms(seed, "rows"), Uniforms(seed, "arrival")
    steps = 0  # to the last arrival of the chunk before
    for first in range(0, n, size):
        count = min(size, n - first)
        at = (rows.next(count) * len(workload)).astype(np.int64)
        since = steps + np.cumsum(np.rint(-np.log1p(-gaps.next(count)) * _GAP_STEPS).astype(np.int64))
        steps = int(since[-1])
        source = {"generator": "chunks", "n": n, "rate": rate, "seed": seed, "of": dict(workload.source)}
        taken = workload.take(at)
        times = since.astype(np.float64) / _GAP_STEPS / rate
        fresh = Workload(**(taken.columns() | {"arrival": times}), source=source)
        yield attach_lengths(fresh, taken.lengths, taken.classes)


def gamma(workload: Workload, rate: float, cv: float, seed: int = 0) -> Workload:
    """The same requests, arriving in their order with independent gamma gaps of mean 1/rate and std cv/rate.

    `cv`, the coefficient of variation, says how bursty: 0 is clockwork, 1 a Poisson process, more comes in bursts.
    Gaps are rounded to multiples of 2**-20 of the mean gap; they come from NumPy's ``standard_gamma``, whose stream a
    future NumPy may change. Raises InputError unless rate > 0 and 0 <= cv <= 1000.
    """
    rate, spread, seed = _positive("rate", rate), _finite("cv", cv), _seed(seed)
    if not 0 <= spread <= 1000:
        raise InputError(f"cv, the gaps' standard deviation over their mean, must be from 0 to 1000, not {cv}")
    gaps = np.ones(len(workload))
    if spread > 0:
        # No libm-free inverse of the gamma distribution without scipy: hence the one exception to the module's rule.
        shape = max(spread, 1e-9) ** -2.0  # a smaller spread than 1e-9 is rounded away below
        rng = np.random.Generator(np.random.PCG64(np.random.SeedSequence(seed, spawn_key=tuple(b"arrival"))))
        gaps = rng.standard_gamma(shape, size=len(workload)) / shape
    return _with_arrivals(
        workload, _arrival_times(gaps, rate), {"process": "gamma", "rate": rate, "cv": spread, "seed": seed}
    )


def speed_up(workload: Workload, factor: float) -> Workload:
    """The same requests, arriving `factor` times as fast: its own arrival times, divided.

    Raises InputError unless factor > 0.
    """
    factor = _positive("factor", factor)
    with np.errstate(over="ignore"):  # the Workload refuses what overflows, naming the request
        times = workload.arrival / factor
    before = workload.source.get("arrivals")
    return _with_arrivals(
        workload, times, {"process": "speed_up", "factor": factor} | ({"of": before} if before else {})
    )


def parse(text: str, n: int = 2000, seed: int = 0) -> Workload:
    """The workload written as on the command line, e.g. ``two_point:10,40,0.8`` (all spellings: `FORMS`).

    Raises InputError that says what was wrong, the nearest name and the right form.
    """
    name, arguments = split_spelling(text, FORMS, "generator")
    n, seed = _request_count(n), _seed(seed)
    try:
        return GENERATORS[name](n, *arguments, seed=seed)
    except InputError as error:
        raise InputError(f"generator {text!r}: {error} (write it as {FORMS[name]})") from None


#: Every generator that needs nothing but numbers, by name: called as ``GENERATORS[name](n, ..., seed=seed)``.
GENERATORS: Mapping[str, Callable[..., Workload]] = MappingProxyType(
    {maker.__name__: maker for maker in (lmsys, two_point, geometric, linear_geometric, uniform, lognormal)}
)


def _check_drawn(workload: Workload, n: int) -> None:
    """Raises InputError where requests cannot be drawn one by one."""
    if n and not len(workload):
        raise InputError("there is nothing to draw from: the workload has no requests")
    if workload.think is not None:
        raise InputError(
            "requests are drawn one by one, and with think times they are turns of sessions, in order: "
            "workload.replace(think=None) takes them as they are"
        )


def _request_count(n: int) -> int:
    return whole("n, the number of requests,", n, 0)


def _seed(seed: int) -> int:
    return whole("seed", seed, 0, LARGEST_SEED)


def _finite(name: str, x: Any) -> float:
    """`x` as a finite double, or an InputError that calls it `name`."""
    try:
        return float(decimal_fraction(x))
    except (InputError, OverflowError):
        raise InputError(f"{name} must be a finite number, not {x!r}") from None


def _positive(name: str, x: Any) -> float:
    number = _finite(name, x)
    if number <= 0:
        raise InputError(f"{name} must be greater than 0, not {x}")
    return number


def _geometric_ratio(q: Any) -> float:
    ratio = _finite("q", q)
    if not 0 < ratio < 1:
        raise InputError(f"q, the ratio of one length's probability to the last, must be between 0 and 1, not {q}")
    return ratio


def _length_range(low_name: str, low: Any, high_name: str, high: Any) -> tuple[int, int]:
    least, most = whole(low_name, low, 1), whole(high_name, high, 1)
    if least > most:
        raise InputError(f"{low_name} is {least} and {high_name} is {most}, expected {low_name} <= {high_name}")
    return least, most


def _mu_sigma(mu: Any, sigma: Any, mean: Any, median: Any) -> dict[str, float]:
    by_moments = mean is not None and median is not None and mu is None and sigma is None
    if not by_moments and (mu is None or sigma is None or mean is not None or median is not None):
        raise InputError("a lognormal needs either mu and sigma or mean and median, both of the pair")
    if by_moments:
        mu, sigma = _from_moments(mean, median)
    centre, spread = _finite("mu", mu), _finite("sigma", sigma)
    if not (abs(centre) <= 1000 and 1e-6 <= spread <= 1e6):  # beyond, squares of (ln k - mu) / sigma may overflow
        raise InputError(f"a lognormal needs -1000 <= mu <= 1000 and 1e-6 <= sigma <= 1e6, not mu={mu}, sigma={sigma}")
    return {"mu": centre, "sigma": spread}


def _from_moments(mean: Any, median: Any) -> tuple[float, float]:
    average, middle = _positive("mean", mean), _positive("median", median)
    if average <= middle:
        raise InputError(f"the mean of a lognormal is greater than its median: mean is {mean}, median is {median}")
    return math.log(middle), math.sqrt(2 * (math.log(average) - math.log(middle)))


def _lengths(low: int, high: int) -> IntArray:
    if high - low >= _TABLE_SIZE:
        raise InputError(f"lengths {low} to {high} are too many: narrow the range to {_TABLE_SIZE} of them")
    return np.arange(low, high + 1, dtype=np.int64)


@functools.lru_cache(maxsize=4)  # whoever draws one workload often draws many, each for less than the table
def _lognormal_table(mu: float, sigma: float, low: int, high: int) -> tuple[IntArray, FloatArray]:
    """Values (m,) and their weights (m,), the largest 1, so that no choice of mu makes all of them underflow."""
    k = _lengths(low, high)
    z = (np.log(k) - mu) / sigma
    with np.errstate(under="ignore"):
        log_weights = -0.5 * z * z - np.log(k)
        weights = np.exp(log_weights - log_weights.max())
    k.flags.writeable = weights.flags.writeable = False
    return k, weights


def _halves_table(median: int, a: float, b: float, decay: float, high: int) -> tuple[IntArray, FloatArray]:
    """Values 1..high and their probabilities: in proportion k^-a up to the median, k^-b exp(-decay k) beyond.

    The pieces are such that the cumulative probability is 1/2 in the middle of the median's step.
    """
    k = _lengths(1, high)
    short, long = k[:median].astype(np.float64), k[median:].astype(np.float64)
    low, rest = np.power(short, -a), np.power(long, -b) * np.exp(-decay * long)
    share = 0.5 / (1 - 0.5 * low[-1] / low.sum())
    return k, np.concatenate([share * low / low.sum(), (1 - share) * rest / rest.sum()])


def _cumulative(weights: FloatArray) -> IntArray:
    """Cumulative probabilities (m,) in steps of 2**-40, the last exactly 1; a weight below half a step may vanish."""
    sums = np.cumsum(weights)
    steps: FloatArray = np.rint(sums / sums[-1] * 2.0**_TABLE_BITS)
    return steps.astype(np.int64)


def _draw(seed: int, purpose: str, n: int, values: IntArray, weights: FloatArray) -> IntArray:
    """`n` of `values` (m,), drawn with probabilities proportional to `weights` (m,)."""
    draws = (raw_stream(seed, purpose, n) >> np.uint64(64 - _TABLE_BITS)).astype(np.int64)
    order = np.argsort(draws)  # looked up in order, neighbours are found where the last one was: half the time
    drawn = np.empty(n, np.int64)
    drawn[order] = values[np.searchsorted(_cumulative(weights), draws[order], side="right")]
    return drawn


def _with_one_prompt(
    n: int,
    prompt: int,
    seed: int,
    interval: bool,
    name: str,
    given: Mapping[str, float],
    values: IntArray,
    weights: FloatArray,
) -> Workload:
    """A workload with one prompt length and, if wanted, the support's ends as everybody's interval."""
    n, seed, prompt = _request_count(n), _seed(seed), whole("prompt", prompt, 0)
    source = {"generator": name, "n": n, **given, "prompt": prompt, "interval": interval, "seed": seed}
    output = _draw(seed, "output", n, values, weights)
    bounds = {"lower": values[0], "upper": values[-1]} if interval else {}
    return Workload(prompt, output, **bounds, source=source)


def _arrival_times(gaps: FloatArray, rate: float) -> FloatArray:
    """Arrival times (n,) from gaps (n,) with mean 1: summed as whole steps, so no rounding depends on the machine."""
    steps = np.cumsum(np.rint(gaps * _GAP_STEPS).astype(np.int64))
    with np.errstate(over="ignore"):  # the Workload refuses what overflows, naming the request
        return np.asarray(steps.astype(np.float64) / _GAP_STEPS / rate, dtype=np.float64)


def _with_arrivals(workload: Workload, times: FloatArray, how: Mapping[str, Any]) -> Workload:
    columns = workload.columns() | {"arrival": times}
    fresh = Workload(**columns, source={**workload.source, "arrivals": dict(how)})
    return attach_prefixes(attach_lengths(fresh, workload.lengths, workload.classes), workload.prefixes)
