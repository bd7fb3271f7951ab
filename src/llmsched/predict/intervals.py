"""Prediction intervals made from the truth: the settings of the paper's Section 6, and noise (arXiv 2508.14544).

    workload.with_intervals(intervals.buckets(100))

Each function returns an `IntervalRule`: called with the true outputs, it returns the two bounds. ``str(rule)`` is the
spelling that `parse` reads back, so a rule can travel through a command line or a file of results.

Where there is a predictor already, its classes become intervals with `from_table` or, calibrated, `from_classes`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Rational
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError
from ..workloads.argument_checks import LARGEST_SEED, decimal_fraction, split_spelling, whole
from ..workloads.columns import IntArray, true_outputs
from ..workloads.midpoints import with_midpoints
from ..workloads.random_streams import uniforms
from .class_intervals import ClassIntervals, from_classes, from_table
from .realistic_noise import bounds_and_point

__all__ = [
    "FORMS",
    "ClassIntervals",
    "IntervalRule",
    "buckets",
    "constant",
    "exact",
    "from_classes",
    "from_table",
    "noisy",
    "parse",
    "realistic",
    "relative",
    "with_midpoints",
]

#: Name of a rule -> how it is written for `parse`; what stands in brackets may be left out.
FORMS: Mapping[str, str] = MappingProxyType(
    {
        "exact": "exact",
        "constant": "constant:LOWER,UPPER",
        "buckets": "buckets:WIDTH",
        "relative": "relative:X",
        "noisy": "noisy:COVERAGE,WIDTH[,SEED[,BIAS]]",
        "realistic": "realistic[:SEED]",
    }
)

# Keeps (width * output), the gap, the bias and the output together below 2**63 for every output up to LARGEST.
_LARGEST_WIDTH = 100
_NO_BIAS = Fraction(0)


@dataclass(frozen=True, slots=True)
class IntervalRule:
    """How to predict intervals from the true outputs. Made by the functions of this module, not by hand.

    Rules are compared by what they do, can be hashed and pickled, and never change; ``repr`` is the call that makes
    the rule, ``str`` the text that `parse` reads back.
    """

    name: str
    arguments: tuple[int | Fraction, ...] = ()

    def __call__(self, outputs: npt.ArrayLike) -> tuple[IntArray, IntArray]:
        """The bounds (lower, upper) for true outputs in tokens: two new int64 arrays of the same length, n.

        Raises
        ------
        WorkloadError
            `outputs` is not a list of whole numbers from 1 to 2**53 (names the request).
        """
        lower, upper = _BOUNDS[self.name](true_outputs(outputs), *self.arguments)
        return lower, upper

    def point(self, outputs: npt.ArrayLike) -> IntArray:
        """The point predictions that belong to the bounds (n,): their middle, rounded up; the median of the predicted
        class under `realistic`. Raises as the call does.
        """
        if self.name == "realistic":
            return bounds_and_point(true_outputs(outputs), self.seed or 0)[2]
        lower, upper = self(outputs)
        return lower + (upper - lower + 1) // 2

    @property
    def seed(self) -> int | None:
        """The seed of a rule that errs at random, else None."""
        if self.name == "noisy":
            return int(self.arguments[2])
        return int(sum(self.arguments)) if self.name == "realistic" else None

    def reseeded(self, seed: int) -> IntervalRule:
        """The same rule, which errs anew; rules without random errors are as they were. `seed`: 0 to 2**64-1."""
        seed = whole("seed", seed, 0, LARGEST_SEED)
        if self.name == "noisy":
            return IntervalRule("noisy", (*self.arguments[:2], seed, *self.arguments[3:]))
        return realistic(seed) if self.name == "realistic" else self

    def describe(self) -> str:
        """In words, what the intervals are made from and what they know: for the header of a table."""
        return _WORDS[self.name](*self.arguments)

    def __repr__(self) -> str:
        return f"{self.name}({', '.join(_literal(value) for value in self.arguments)})"

    def __str__(self) -> str:
        return ":".join([self.name, *([",".join(map(_spelled, self.arguments))] if self.arguments else [])])


def exact() -> IntervalRule:
    """Perfect predictions: both bounds are the truth."""
    return IntervalRule("exact")


def constant(lower: int, upper: int) -> IntervalRule:
    """The same interval [lower, upper] (tokens) for every request, whether the truth lies in it or not.

    The paper's first setting is ``constant(1, 1000)``. Raises InputError unless 1 <= lower <= upper <= 2**53.
    """
    lower, upper = whole("lower", lower, 1), whole("upper", upper, 1)
    if lower > upper:
        raise InputError(f"lower is {lower} and upper is {upper}, expected lower <= upper: exchange them?")
    return IntervalRule("constant", (lower, upper))


def buckets(width: int) -> IntervalRule:
    """The bucket of `width` tokens that the truth falls into: [1, w], [w+1, 2w], and so on.

    The paper's second setting is ``buckets(100)``. Raises InputError unless 1 <= width <= 2**53.
    """
    return IntervalRule("buckets", (whole("width", width, 1),))


def relative(x: float | str | Decimal | Rational) -> IntervalRule:
    """[(1-x)o, (1+x)o] around the truth o, rounded outward to whole tokens, at least 1 (the paper's third setting).

    `x` from 0 to 1 means the decimal that was written (see `decimal_fraction`): x=0.1 and o=10 give [9, 11], although
    the double nearest 0.1 is a little larger. Raises InputError for any other x.
    """
    return IntervalRule("relative", (_fraction_between("x", x, 0, 1),))


def noisy(
    coverage: float | str | Decimal | Rational,
    width: float | str | Decimal | Rational,
    seed: int = 0,
    bias: float | str | Decimal | Rational = 0,
) -> IntervalRule:
    """A predictor that errs: the interval contains the truth o with probability `coverage`, independently per request.

    Every interval is a window with upper - lower = W = width*o, rounded up, cut off below at 1. With probability
    `coverage` the truth is at a uniformly random place of the window before the cut (each of W+1 places). Otherwise the
    whole window lies g tokens above or below the truth, either with probability 1/2, g uniform on 1..max(1, W); below,
    g is at most o-1, and for o=1 the window always lies above. So the probability to contain the truth is exactly
    `coverage` (up to the 2**-53 steps of a uniform double) for every o.

    Raises InputError for any other value.

    Parameters
    ----------
    coverage
        Probability, 0 to 1.
    width
        Length of the interval relative to the truth, 0 to 100; ``noisy(1, 2*x)`` is as wide as ``relative(x)``.
    seed
        Whole number from 0 to 2**64-1. The same seed gives the same intervals; those of the first requests do not
        depend on how many follow.
    bias
        A predictor that is systematically wrong: all of the above, and then every interval is moved by bias*o, rounded
        toward 0, and cut off below at 1. From -1 to 100; with a bias, the truth is covered less often than `coverage`.
    """
    arguments = (
        _fraction_between("coverage", coverage, 0, 1),
        _fraction_between("width", width, 0, _LARGEST_WIDTH),
        whole("seed", seed, 0, LARGEST_SEED),
    )
    moved = _fraction_between("bias", bias, -1, _LARGEST_WIDTH)
    return IntervalRule("noisy", (*arguments, moved) if moved else arguments)


def realistic(seed: int = 0) -> IntervalRule:
    """The errors of a real predictor: a fine-tuned BERT that sorts requests of LMSYS-Chat-1M into five classes.

    A request is put into a class at random, as often as that predictor puts one of its rank there (rank by true length
    among the requests of the workload). Its interval runs from the 5 to the 95 % quantile of the lengths in the class,
    also by rank, so that about 91 % of the intervals contain the truth; `IntervalRule.point` gives the median. Five
    different intervals occur. The numbers, and where they were measured: `llmsched.predict.realistic_noise`.

    Ranks need company: of fewer than about 50 requests the intervals give away the lengths that there are. `seed`, a
    whole number from 0 to 2**64-1, governs the errors. Raises InputError for any other.
    """
    seed = whole("seed", seed, 0, LARGEST_SEED)
    return IntervalRule("realistic", (seed,) if seed else ())


def parse(text: str) -> IntervalRule:
    """The rule written as on the command line, e.g. ``buckets:100`` (all spellings: `FORMS`).

    Raises InputError that says what was wrong, the nearest name and the right form.
    """
    name, arguments = split_spelling(text, FORMS, "interval rule")
    try:
        return _RULES[name](*arguments)
    except InputError as error:
        raise InputError(f"interval rule {text!r}: {error} (write it as {FORMS[name]})") from None


def _fraction_between(name: str, x: Any, least: int, most: int) -> Fraction:
    try:
        fraction = decimal_fraction(x)
    except InputError as error:
        raise InputError(f"{name}: {error}") from None
    if not least <= fraction <= most:
        raise InputError(f"{name} must be from {least} to {most}, not {x}")
    return fraction


def _spelled(value: int | Fraction) -> str:
    """The shortest exact spelling: a plain decimal where there is one of up to 20 places, a ratio elsewhere."""
    if isinstance(value, int):
        return str(value)
    for places in range(21):
        scaled = value * 10**places
        if scaled.denominator == 1:
            digits = f"{int(scaled):0{places + 1}d}"  # never negative here
            return f"{digits[:-places]}.{digits[-places:]}" if places else digits
    return f"{value.numerator}/{value.denominator}"


def _literal(value: int | Fraction) -> str:
    """Python source for an argument that means the same again: quoted where a float literal would not be exact."""
    text = _spelled(value)
    written = isinstance(value, int) or ("/" not in text and decimal_fraction(float(text)) == value)
    return text if written else repr(text)


def _floor_times(counts: IntArray, factor: Fraction) -> IntArray:
    """floor(counts * factor), exact: 64-bit integers where every product fits, Python's elsewhere."""
    over, under = factor.numerator, factor.denominator
    largest = int(np.abs(counts).max(initial=0))
    if max(largest, 1) * abs(over) < 2**63 and under < 2**63:
        return np.asarray(counts * np.int64(over) // np.int64(under), dtype=np.int64)
    distinct, where = np.unique(counts, return_inverse=True)
    return np.array([int(count) * over // under for count in distinct], dtype=np.int64)[where.reshape(-1)]


def _ceil_times(counts: IntArray, factor: Fraction) -> IntArray:
    return -_floor_times(-counts, factor)


def _exact_bounds(outputs: IntArray) -> tuple[IntArray, IntArray]:
    return outputs.copy(), outputs.copy()


def _constant_bounds(outputs: IntArray, lower: int, upper: int) -> tuple[IntArray, IntArray]:
    return np.full(len(outputs), lower, dtype=np.int64), np.full(len(outputs), upper, dtype=np.int64)


def _buckets_bounds(outputs: IntArray, width: int) -> tuple[IntArray, IntArray]:
    below = (outputs - 1) // width * width
    return below + 1, below + width


def _relative_bounds(outputs: IntArray, x: Fraction) -> tuple[IntArray, IntArray]:
    return np.maximum(_floor_times(outputs, 1 - x), 1), _ceil_times(outputs, 1 + x)


def _noisy_bounds(
    outputs: IntArray, coverage: Fraction, width: Fraction, seed: int, bias: Fraction = _NO_BIAS
) -> tuple[IntArray, IntArray]:
    hit, side, place = uniforms(seed, "noisy intervals", 3 * len(outputs)).reshape(-1, 3).T
    span = _ceil_times(outputs, width)
    covered = hit < float(coverage)
    below = ~covered & (side < 0.5) & (outputs > 1)
    # `step` says where the window is: 0 .. places-1, uniform.
    gaps = np.maximum(span, 1)
    places = np.where(covered, span + 1, np.where(below, np.minimum(gaps, outputs - 1), gaps))
    step = np.minimum((place * places).astype(np.int64), places - 1)
    missed = np.where(below, outputs - 1 - step - span, outputs + 1 + step)
    lower = np.where(covered, outputs - step, missed)
    lower += np.sign(bias.numerator) * _floor_times(outputs, abs(bias))
    return np.maximum(lower, 1), np.maximum(lower + span, 1)


def _realistic_bounds(outputs: IntArray, seed: int = 0) -> tuple[IntArray, IntArray]:
    return bounds_and_point(outputs, seed)[:2]


_TRUTH = "made from the true lengths"


def _noisy_in_words(coverage: Fraction, width: Fraction, seed: int, bias: Fraction = _NO_BIAS) -> str:
    moved = f", then moved by {_percent(bias)} of it" if bias else ""
    return f"{_TRUTH}: {_percent(width)} of each wide, {_percent(coverage)} contain it{moved}"


def _percent(share: Fraction) -> str:
    return f"{float(100 * share):.4g} %"


_WORDS: Mapping[str, Callable[..., str]] = MappingProxyType(
    {
        "exact": lambda: f"{_TRUTH}: perfect predictions",
        "constant": lambda lower, upper: f"no knowledge: {lower:,} to {upper:,} for everybody",
        "buckets": lambda width: f"{_TRUTH}: a perfect classifier into buckets of {width:,} tokens",
        "relative": lambda x: f"{_TRUTH}: from {_percent(x)} below to {_percent(x)} above each",
        "noisy": _noisy_in_words,
        "realistic": lambda seed=0: f"{_TRUTH} with the errors of a real predictor (BERT, 5 classes)",
    }
)
_RULES: Mapping[str, Callable[..., IntervalRule]] = MappingProxyType(
    {rule.__name__: rule for rule in (exact, constant, buckets, relative, noisy, realistic)}
)
_BOUNDS: Mapping[str, Callable[..., tuple[IntArray, IntArray]]] = MappingProxyType(
    {
        "exact": _exact_bounds,
        "constant": _constant_bounds,
        "buckets": _buckets_bounds,
        "relative": _relative_bounds,
        "noisy": _noisy_bounds,
        "realistic": _realistic_bounds,
    }
)
