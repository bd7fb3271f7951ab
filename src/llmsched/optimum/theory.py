"""Closed forms: the competitive ratios that are proved of the policies, to compare measurements with.

    theory.amin_ratio([10, 40], [0.8, 0.2])      # 1.375, Lemma 2
    theory.best_guarantee("1/4")                 # Guarantee(policy='aell', ratio=1.1666666666666667, ...)

Numbered statements are those of Chen, Ye and Zhou, arXiv 2508.14544 v2 (*the paper*). CR is the expected total latency
of a policy over that of `hsf`; alpha = lower/upper; x_k is the share of requests with k output tokens; all requests
have the same prompt, the same interval [lower, upper], and arrive at 0. Statements about a CR are limits of a cache M
that holds many requests, and of many such batches: at finite sizes the ratio differs, either way.
`docs/background/theory.md` says by how much.

Everything is dimensionless but where tokens or rounds are named. Bad input raises InputError.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from numbers import Rational
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..simulation import staggered
from ..workloads.argument_checks import decimal_fraction, whole
from ..workloads.columns import FloatArray, IntArray
from .eigenvalue import largest_eigenvalue

__all__ = [
    "ALPHA_STAR",
    "LINEAR_GEOMETRIC_BOUND",
    "Guarantee",
    "Worst",
    "aell_two_point",
    "aell_two_point_bound",
    "amax_bound",
    "amax_instance",
    "amax_instance_worst",
    "amax_printed_lower_bound",
    "amin_geometric",
    "amin_linear_geometric",
    "amin_order",
    "amin_ratio",
    "amin_rho",
    "amin_rho_fit",
    "amin_trace",
    "amin_two_point",
    "amin_two_point_bound",
    "amin_worst",
    "best_guarantee",
    "hsf_total_latency",
    "quadratic_forms",
    "random_order_ratio",
    "staggered_peak",
    "staggered_total_latency",
    "staggered_width",
]

#: A number in any of the ways to write one: 0.25, "0.25", "1/4", Fraction(1, 4).
Number: TypeAlias = float | str | Decimal | Rational

#: Where the two-point guarantees of `amin` and `aell` cross: the root (3 - sqrt 5)/2 of (1 - alpha)^2 = alpha.
ALPHA_STAR = (3 - math.sqrt(5)) / 2

#: The limit of `amin_linear_geometric` as q -> 1 (Theorem 8).
LINEAR_GEOMETRIC_BOUND = 14 / 9

_LARGEST_MATRIX = 5000  # 200 MB each
_LARGEST_SUPPORT = 10**7
_NO_MASS = 1e-18  # what a geometric tail may weigh where it is cut off


class Worst(NamedTuple):
    """The largest of a ratio, and where it is: at `r` = a/b, in `amax_instance_worst`."""

    ratio: float
    r: float


class Guarantee(NamedTuple):
    """The policy whose two-point guarantee is better, its bound on CR, and the other's."""

    policy: Literal["amin", "aell"]
    ratio: float
    other: float


# A_max ---------------------------------------------------------------------------------------------------------------


def amax_bound(alpha: Number) -> float:
    """Theorem 1: CR(`amax`) <= (1/alpha)(1 + 1/alpha)/2 + O(1/M). Domain 0 < alpha <= 1."""
    a = _alpha(alpha)
    return (1 + 1 / a) / (2 * a)


def amax_printed_lower_bound(alpha: Number) -> float:
    """Theorem 2 as printed: some instance has CR(`amax`) >= (1/alpha)(1 + alpha^(-1/2))/2. Domain 0 < alpha <= 1.

    The instance in its proof does not reach this: see `amax_instance`.
    """
    a = _alpha(alpha)
    return (1 + 1 / math.sqrt(a)) / (2 * a)


def amax_instance(alpha: Number, r: Number) -> float:
    """CR(`amax`) on the instance in the proof of Theorem 2: (1/alpha)(r + alpha)(1 + r)/(r^2 + 2 alpha r + 1).

    The instance: no prompts, M = lower*upper, a*upper requests of `lower` tokens and b*lower of `upper`; r = a/b > 0.
    This is the quotient of that proof's own two expressions for total latency. Domain 0 < alpha <= 1.
    """
    a, ratio = _alpha(alpha), _positive("r", r)
    return (ratio + a) * (1 + ratio) / (ratio * ratio + 2 * a * ratio + 1) / a


def amax_instance_worst(alpha: Number) -> Worst:
    """The largest of `amax_instance` over r > 0, at r = 1 + sqrt(2 + 2 alpha). Domain 0 < alpha <= 1.

    (The derivative's numerator is (1 - alpha)(1 + 2 alpha + 2r - r^2).) It tends to (1 + sqrt 2)/(2 alpha) as
    alpha -> 0: of the order of 1/alpha, where Theorem 2 as printed says alpha^(-3/2).
    """
    r = 1 + math.sqrt(2 + 2 * _alpha(alpha))
    return Worst(amax_instance(alpha, r), r)


# A_min ---------------------------------------------------------------------------------------------------------------


def amin_order(alpha: Number) -> float:
    """Theorem 5: CR(`amin`) = O(ln(1/alpha)) as M -> infinity; this is ln(1/alpha), without the constant.

    Domain 0 < alpha <= 1. An order, not a bound: at alpha = 1 it is 0, and CR is 1.
    """
    return -math.log(_alpha(alpha))


def amin_ratio(
    lengths: npt.ArrayLike,
    shares: npt.ArrayLike,
    prompt: int = 0,
    lower: int | None = None,
    upper: int | None = None,
) -> float:
    """Lemma 2: the limit of CR(`amin`) for any distribution of outputs and any common prompt.

    With s the prompt, d(lower) = s + lower and d(k) = 1 above, sums over lower <= k <= upper::

        sum_k d(k) (sum_{i>=k} i x_i) (sum_{i>=k} d(k) x_i/(s+i) + 2 sum_{i>k} (i-k) x_i/(s+i))
        ---------------------------------------------------------------------------------------
                        sum_k k (s+k) x_k (x_k + 2 sum_{i>k} x_i)

    Takes time and memory proportional to upper - lower.

    Parameters
    ----------
    lengths, shares
        Output lengths (tokens, whole, >= 1, in any order) and their weights (>= 0); they need not sum to 1.
    prompt
        s, tokens, the same for all.
    lower, upper
        The predicted interval, tokens; by default the shortest and longest length that has weight.

    Raises
    ------
    InputError
        No weight in [lower, upper], weight outside it, or a value that is out of range.
    """
    s = whole("prompt", prompt, 0)
    k, x = _distribution(lengths, shares, lower, upper)
    delta = np.ones(len(k))
    delta[0] = s + k[0]
    each = _from_here(x / (s + k))  # sum_{i>=k} x_i/(s+i)
    ahead = _after(_from_here(each))  # sum_{i>k} (i-k) x_i/(s+i): no differences, so nothing cancels
    above = float(np.sum(delta * _from_here(k * x) * (delta * each + 2 * ahead)))
    return above / _hindsight_form(k, x, s)


def hsf_total_latency(
    n: int,
    memory: int,
    lengths: npt.ArrayLike,
    shares: npt.ArrayLike,
    prompt: int = 0,
) -> float:
    """The leading term of `hsf`'s total latency (rounds) on n requests all arriving at 0: Lemma 2's denominator.

    n^2/(2M) sum_k k (s+k) x_k (x_k + 2 sum_{i>k} x_i): requests go in waves of M/(s+k), each of k rounds. Times
    `amin_ratio` it is the leading term of `amin`'s. Domain: n >= 0, M >= prompt + longest output. Raises InputError.
    """
    n, s = whole("n", n, 0), whole("prompt", prompt, 0)
    k, x = _distribution(lengths, shares, None, None)
    memory = whole("memory", memory, s + int(k[-1]))
    return n * n / (2 * memory) * _hindsight_form(k, x, s)


def random_order_ratio(lengths: npt.ArrayLike, shares: npt.ArrayLike, prompt: int = 0) -> float:
    """What CR tends to when the cache is always full and requests are served in random order without evictions (ours).

    sum_k x_k (s k + k(k+1)/2), the mean area of a request in tokens times rounds, over Lemma 2's denominator. Not a
    theorem about any policy: a plain account (n requests of that area take n area/M rounds, and complete evenly over
    them) of what `amin` was measured to do where completions free memory as fast as the others grow. For geometric
    lengths without prompts it is (1+q)^2/(1+q^2), up to 2. Below 1 where `hsf`'s synchronous waves waste more cache
    than random order loses. Domain and errors as for `amin_ratio`.
    """
    s = whole("prompt", prompt, 0)
    k, x = _distribution(lengths, shares, None, None)
    return float(np.sum(x * k * (s + (k + 1) / 2))) / _hindsight_form(k, x, s)


def quadratic_forms(upper: int, lower: int = 1, prompt: int = 0) -> tuple[FloatArray, FloatArray]:
    """Symmetric matrices A and B with Lemma 2's ratio = x'Ax / x'Bx, for x over the lengths lower..upper.

    With prompt 0 and lower 1 they are Corollary 1's: b_ij = min(i,j)^2 and
    a_ij = min(i,j)^2/(ij) ((i+j)^2/2 - min(i,j)^2). In general, with m = min(i,j), b_ij = m(s+m), and A is the
    symmetric part of i/(s+j) ((s+l)^2 + (m-l)(2j-m-l) + 2(s+l)(j-l)), which is Lemma 2's numerator summed over k.

    Both have shape (upper-lower+1, upper-lower+1). Domain 1 <= lower <= upper, at most 5,000 lengths.
    """
    low, high, s = _interval(lower, upper, prompt)
    k = np.arange(low, high + 1, dtype=np.float64)
    i, j = k[:, None], k[None, :]
    m = np.minimum(i, j)
    one_sided = i / (s + j) * ((s + low) ** 2 + (m - low) * (2 * j - m - low) + 2 * (s + low) * (j - low))
    return (one_sided + one_sided.T) / 2, m * (s + m)


def amin_rho(upper: int, lower: int = 1, prompt: int = 0) -> float:
    """rho(B^-1 A), the largest x'Ax / x'Bx: no distribution on lower..upper has a larger `amin_ratio` (Corollary 1).

    Domain as for `quadratic_forms`. The largest eigenvalue of L^-1 A L^-T, where B = LL' is known without computing:
    L_ij = sqrt(f(j) - f(j-1)) for j <= i, f(k) = k(s+k) and f(lower-1) = 0 (Corollary 1: sqrt(2j-1)), so that L^-1
    takes differences of neighbours and divides by that root. A fraction of a second for 2,000 lengths.
    """
    return largest_eigenvalue(_whitened(upper, lower, prompt)[0])[0]


def amin_worst(upper: int, lower: int = 1, prompt: int = 0) -> tuple[IntArray, FloatArray]:
    """Lengths lower..upper (tokens) and the shares x for which `amin_ratio` is `amin_rho`.

    Domain as for `quadratic_forms`. The eigenvector has one sign for every interval tried; should one have both, the
    supremum over distributions would be smaller than `amin_rho`, and this raises InputError rather than guess.
    """
    matrix, root = _whitened(upper, lower, prompt)
    vector = largest_eigenvalue(matrix)[1] / root
    x = vector - np.append(vector[1:], 0.0)  # L'^-1, up to the roots
    x = x / x.sum()
    if (x < -1e-9).any():
        raise InputError(f"the quadratic form on {lower}..{upper}, prompt {prompt}, is largest off the distributions")
    return np.arange(lower, upper + 1, dtype=np.int64), np.maximum(x, 0.0) / np.maximum(x, 0.0).sum()


def amin_trace(upper: int) -> float:
    """trace(B^-1 A) = H_u = 1 + 1/2 + ... + 1/u, a bound on `amin_rho(upper)` (Corollary 1: no prompt, lower = 1)."""
    u = whole("upper", upper, 1, _LARGEST_SUPPORT)
    return math.fsum(1 / k for k in range(1, u + 1))


def amin_rho_fit(upper: int) -> float:
    """The paper's fit to `amin_rho(upper)` (Figure 1): 0.2555 ln(u + 0.2793) + 1.1587. Domain upper >= 1 tokens."""
    return 0.2555 * math.log(whole("upper", upper, 1) + 0.2793) + 1.1587


# Two lengths, geometric lengths --------------------------------------------------------------------------------------


def amin_two_point(alpha: Number, t: Number) -> float:
    """Theorem 6: CR(`amin`) = 1 + alpha(1-alpha^2)t / (alpha^2 t^2 + 2 alpha^2 t + 1) without prompts.

    Outputs are `lower` or `upper`, t = x_lower/x_upper >= 0. Domain 0 < alpha <= 1.
    """
    a, odds = _alpha(alpha), _not_negative("t", t)
    return 1 + a * (1 - a * a) * odds / (a * a * odds * (odds + 2) + 1)


def amin_two_point_bound(alpha: Number) -> float:
    """The largest of `amin_two_point` over t: (3 - alpha)/2, at t = 1/alpha (Theorem 6). Domain 0 < alpha <= 1."""
    return (3 - _alpha(alpha)) / 2


def aell_two_point(alpha: Number, t: Number) -> float:
    """Theorem 7: CR(`aell`) = 1 + (alpha^2 t + 2 alpha^2) / (alpha^2 t^2 + 2 alpha^2 t + 1) without prompts.

    Outputs are `lower` or `upper`, t = x_lower/x_upper >= 0. Domain 0 < alpha <= 1.
    """
    a, odds = _alpha(alpha), _not_negative("t", t)
    return 1 + a * a * (odds + 2) / (a * a * odds * (odds + 2) + 1)


def aell_two_point_bound(alpha: Number) -> float:
    """The largest of `aell_two_point` over t (Theorem 7): 1 + alpha/(2(1-alpha)) at t = 1/alpha - 2, for alpha <= 1/2;

    above, 1 + 2 alpha^2 at t = 0. Domain 0 < alpha <= 1; at 1 itself nothing is unknown and CR is 1, not 3.
    """
    a = _alpha(alpha)
    return 1 + a / (2 * (1 - a)) if a <= 0.5 else 1 + 2 * a * a


def best_guarantee(alpha: Number) -> Guarantee:
    """Which of `amin` and `aell` has the better bound when outputs are either `lower` or `upper` (Theorems 6 and 7).

    `aell` below `ALPHA_STAR`, `amin` from there on. Domain 0 < alpha <= 1. It says nothing about lengths in between:
    there `aell` reserves `upper` for whatever outlives `lower`, and can be far worse than `amin`.
    """
    a = _alpha(alpha)
    amin, aell = amin_two_point_bound(a), aell_two_point_bound(a)
    return Guarantee("aell", aell, amin) if a < ALPHA_STAR else Guarantee("amin", amin, aell)


def amin_geometric(q: Number, prompt: int = 0) -> float:
    """Lemma 2 for the geometric distribution P(k) = (1-q) q^(k-1), k >= 1, lower = 1: CR(`amin`).

    Without prompts it rises with q, to about 1.68 (the paper: at most about 1.7). Domain 0 < q < 1, up to about
    1 - 4e-6: the tail is cut off where it no longer moves a double.
    """
    return _amin_on_tail(q, prompt, lambda k, ratio: ratio ** (k - 1.0))


def amin_linear_geometric(q: Number) -> float:
    """Theorem 8: CR(`amin`) for P(k) = k (1-q)^2 q^(k-1), k >= 1, lower = 1, no prompts. Domain 0 < q < 1.

    (1+q)^2 (1+3q+6q^2+3q^3+q^4) / (1+2q+11q^2+8q^3+11q^4+2q^5+q^6), at most 14/9 (`LINEAR_GEOMETRIC_BOUND`).
    """
    z = _share("q", q)
    above = (1 + z) ** 2 * np.polyval([1, 3, 6, 3, 1], z)
    return float(above / np.polyval([1, 2, 11, 8, 11, 2, 1], z))


# Staggered starts ----------------------------------------------------------------------------------------------------


def staggered_peak(width: int, prompt: int, output: int) -> int:
    """Largest memory (tokens) of the staggered pipeline: s k + (o k + o + k - gcd(o, k))/2 (arXiv 2601.22996).

    Equal requests of s prompt and o output tokens; request j = 0, 1, ... starts at floor(j o/k), so that k = `width`
    run at any time. Domain width >= 1, prompt >= 0, output >= 1.
    """
    return staggered.staggered_peak(whole("width", width, 1), whole("prompt", prompt, 0), whole("output", output, 1))


def staggered_width(memory: int, prompt: int, output: int) -> int:
    """The largest `width` whose `staggered_peak` fits into `memory` tokens. Domain memory >= prompt + output."""
    s, o = whole("prompt", prompt, 0), whole("output", output, 1)
    return staggered.staggered_width(whole("memory", memory, s + o), s, o)


def staggered_total_latency(n: int, memory: int, prompt: int, output: int) -> int:
    """Total latency (rounds) of n equal requests all arriving at 0 in the widest staggered pipeline that fits.

    sum_{j<n} floor(j o/k) + o with k = `staggered_width`. Domain n >= 0, memory >= prompt + output (tokens).
    """
    n, o = whole("n", n, 0), whole("output", output, 1)
    k = staggered_width(memory, prompt, o)
    cycles, rest = divmod(n, k)  # after k requests the starts repeat, o rounds later
    starts = [i * o // k for i in range(k)]
    full = cycles * sum(starts) + k * o * (cycles * (cycles - 1) // 2)
    return full + sum(starts[:rest]) + rest * cycles * o + n * o


# What is given -------------------------------------------------------------------------------------------------------


def _real(name: str, x: Any, fits: Callable[[float], bool], expected: str) -> float:
    try:
        number = float(decimal_fraction(x))
    except (InputError, OverflowError):
        raise InputError(f"{name} must be {expected}, not {x!r}") from None
    if not fits(number):
        raise InputError(f"{name} must be {expected}, not {x}")
    return number


def _alpha(alpha: Any) -> float:
    return _real("alpha", alpha, lambda a: 0 < a <= 1, "lower/upper, a number above 0 and at most 1")


def _share(name: str, x: Any) -> float:
    return _real(name, x, lambda value: 0 < value < 1, "a number between 0 and 1")


def _positive(name: str, x: Any) -> float:
    return _real(name, x, lambda value: value > 0, "a number above 0")


def _not_negative(name: str, x: Any) -> float:
    return _real(name, x, lambda value: value >= 0, "a number of at least 0")


def _interval(lower: Any, upper: Any, prompt: Any) -> tuple[int, int, int]:
    low, high = whole("lower", lower, 1), whole("upper", upper, 1)
    if low > high:
        raise InputError(f"lower is {low} and upper is {high}, expected lower <= upper")
    if high - low >= _LARGEST_MATRIX:
        raise InputError(f"lengths {low} to {high} are too many for a matrix: narrow them to {_LARGEST_MATRIX}")
    return low, high, whole("prompt", prompt, 0)


def _distribution(lengths: Any, shares: Any, lower: Any, upper: Any) -> tuple[FloatArray, FloatArray]:
    """All lengths lower..upper as doubles, and the share of each, summing to 1."""
    k, x = _lengths(lengths), _weights(shares)
    if k.shape != x.shape:
        raise InputError(f"lengths and shares must be lists of one size, not {k.shape} and {x.shape}")
    used = k[x > 0]
    low = whole("lower", lower, 1) if lower is not None else int(used.min(initial=np.iinfo(np.int64).max))
    high = whole("upper", upper, 1) if upper is not None else int(used.max(initial=0))
    if not ((used >= low) & (used <= high)).any():
        where = f" in [{low}, {high}]" if len(used) else ""
        raise InputError(f"the distribution has no mass{where}: give a length with a positive share")
    outside = used[(used < low) | (used > high)]
    if len(outside):
        raise InputError(f"length {outside[0]} has mass but lies outside [{low}, {high}]: widen the interval")
    if high - low >= _LARGEST_SUPPORT:
        raise InputError(f"lengths {low} to {high} are too many: narrow them to {_LARGEST_SUPPORT}")
    inside = (k >= low) & (k <= high)
    dense = np.bincount(k[inside] - low, weights=x[inside] / x.max(), minlength=high - low + 1)
    return np.arange(low, high + 1, dtype=np.float64), dense / dense.sum()


def _lengths(lengths: Any) -> IntArray:
    return np.array([whole(f"length {i}", k, 1) for i, k in enumerate(_listed("lengths", lengths))], dtype=np.int64)


def _weights(shares: Any) -> FloatArray:
    try:
        x = np.asarray(_listed("shares", shares), dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError("shares must be a list of numbers") from None
    if not ((x >= 0) & (x < math.inf)).all():
        i = int(np.argmin((x >= 0) & (x < math.inf)))
        raise InputError(f"share {i} is {x[i]}, expected a finite number of at least 0")
    return x


def _listed(name: str, values: Any) -> list[Any]:
    try:
        array = np.asarray(values)
    except ValueError:
        raise InputError(f"{name} must be a list of numbers, not a nested or ragged one") from None
    if array.ndim != 1:
        raise InputError(f"{name} must be a list of numbers, not an array of shape {array.shape}")
    return list(array.tolist())


# Sums ----------------------------------------------------------------------------------------------------------------


def _from_here(values: FloatArray) -> FloatArray:
    """sum_{i>=k} of the values, for every k."""
    return np.asarray(np.cumsum(values[::-1])[::-1], dtype=np.float64)


def _after(sums: FloatArray) -> FloatArray:
    """sum_{i>k} from sum_{i>=k}."""
    return np.append(sums[1:], 0.0)


def _hindsight_form(k: FloatArray, x: FloatArray, s: int) -> float:
    return float(np.sum(k * (s + k) * x * (x + 2 * _after(_from_here(x)))))


def _whitened(upper: Any, lower: Any, prompt: Any) -> tuple[FloatArray, FloatArray]:
    """L^-1 A L^-T, and the roots sqrt(f(j) - f(j-1)) that make up L (see `amin_rho`)."""
    low, high, s = _interval(lower, upper, prompt)
    a, _ = quadratic_forms(high, low, s)
    k = np.arange(low, high + 1, dtype=np.float64)
    root = np.sqrt(2 * k - 1 + s)
    root[0] = math.sqrt(low * (s + low))
    for axis in (0, 1):
        a = np.diff(a, axis=axis, prepend=0.0)
    return a / root[:, None] / root[None, :], root


def _amin_on_tail(q: Any, prompt: int, weight: Callable[[FloatArray, float], FloatArray]) -> float:
    ratio = _share("q", q)
    longest = math.ceil(math.log(_NO_MASS) / math.log(ratio)) + 1
    if longest > _LARGEST_SUPPORT:
        raise InputError(f"q={q} is too near 1: lengths up to {longest} would count, more than {_LARGEST_SUPPORT}")
    k = np.arange(1, longest + 1)
    with np.errstate(under="ignore"):
        return amin_ratio(k, weight(k.astype(np.float64), ratio), prompt)
