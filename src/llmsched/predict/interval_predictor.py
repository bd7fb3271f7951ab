"""What all learned predictors share: fitting on one part of the rows, calibrating on the other, whole-token bounds."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted, column_or_1d, validate_data
from threadpoolctl import threadpool_limits

from .._logging import logger
from ..errors import InputError, number_of
from ..progress import with_seconds
from ..workloads.columns import LARGEST, FloatArray, IntArray
from . import conformal
from .feature_tables import column_of, refuse_leaks, row_count, take_rows
from .scores import interval_scores

_log = logger(__name__)

#: The two bounds before they are calibrated, in tokens; None for one that is not predicted.
RawBounds = tuple[FloatArray | None, FloatArray | None]

# Corrections are factors: exp of them may not be so large that a bound becomes infinite.
_LARGEST_CORRECTION = 30.0
# What rounding may move a bound by, relative to it. A calibration row on the very edge stays inside for all of it.
_SLACK = 1e-9


class IntervalPredictor(RegressorMixin, BaseEstimator, ABC):  # type: ignore[misc]  # scikit-learn has no types
    """Base of the learned predictors. A subclass learns `_fit_model`, and says `_raw_bounds` bounds and `_point`.

    Calibration is conformalized quantile regression (Romano, Patterson, Candès, 2019) on the logarithm of the output:
    the raw bounds are divided and multiplied by one factor, exp(E), the least that makes enough calibration rows lie
    inside *after* the bounds were rounded outward to whole tokens. The score of a row is therefore the E from which on
    floor(lower / exp(E)) <= y <= ceil(upper * exp(E)), and E an order statistic of the scores (`conformal.py`).
    """

    coverage: Any
    side: str
    features: Any
    group_by: str | int | None
    calibration: Any
    random_state: Any

    @with_seconds("fitting")
    def fit(self, X: Any, y: npt.ArrayLike) -> IntervalPredictor:
        """Learn from features `X`, a row per request, and true outputs `y` in tokens (1 or more each).

        `X` is what `features` takes; without `features`, numbers of shape (requests, columns), NaN where missing.

        Raises
        ------
        InputError
            A parameter, a feature or an output cannot be used, a column is named like what is known only after the
            answer, or a group has too few rows to calibrate with (says how many are needed). It is a ValueError.
        """
        conformal.side_of(self.side)
        coverage = None if self.coverage is None else conformal.coverage_of(self.coverage)
        X, y = self._checked(X, y)
        groups = self._groups(X)
        train, held = self._split(groups, coverage)
        name = type(self).__name__
        _log.info("%s: learns from %s, calibrates with %d", name, number_of(len(train), "row"), len(held))
        self.features_ = None if self.features is None else clone(self.features).fit(take_rows(X, train), y[train])
        with _one_thread():
            self._fit_model(self._numbers(take_rows(X, train)), y[train])
        self.correction_: float = 0.0
        self.group_corrections_: dict[Any, float] = {}
        if coverage is not None:
            scores = self._scores(self._bounds(take_rows(X, held)), y[held])
            self.correction_ = _correction(scores, coverage)
            kinds = groups[held]
            for group in [] if self.group_by is None else sorted(set(kinds.tolist()), key=str):
                self.group_corrections_[group] = _correction(scores[kinds == group], coverage, f"group {group!r}: ")
            _log.info(
                "%s: bounds moved apart by a factor of %.4g%s", name, math.exp(self.correction_), self._by_group()
            )
        return self

    def _by_group(self) -> str:
        """The factor of each group, for the log."""
        factors = (f"{group} {math.exp(correction):.4g}" for group, correction in self.group_corrections_.items())
        return f"; by {self.group_by}: {', '.join(factors)}" if self.group_corrections_ else ""

    def predict_interval(self, X: Any) -> tuple[IntArray | None, IntArray | None]:
        """The bounds (lower, upper) of each row's output: int64, whole tokens, at least 1; None for one not predicted.

        A group that was not seen when fitting gets what all rows together were calibrated to.
        """
        check_is_fitted(self)
        X = self._checked_features(X)
        corrections = np.array([self.group_corrections_.get(g, self.correction_) for g in self._groups(X).tolist()])
        factor = np.exp(corrections)
        lower, upper = self._bounds(X)
        if lower is not None and upper is not None:
            lower, upper = np.minimum(lower / factor, upper * factor), np.maximum(lower / factor, upper * factor)
        elif lower is not None:
            lower = lower / factor
        elif upper is not None:
            upper = upper * factor
        return (
            None if lower is None else _whole(np.floor(lower)),
            None if upper is None else _whole(np.ceil(upper)),
        )

    def predict(self, X: Any) -> FloatArray:
        """A point prediction of each row's output, in tokens (not rounded): the median, where that is known."""
        check_is_fitted(self)
        with _one_thread():
            return self._point(self._numbers(self._checked_features(X)))

    def score(self, X: Any, y: npt.ArrayLike) -> float:
        """Minus the mean pinball loss of the bounds, in tokens: larger is better, for searches and cross-validation.

        What there is to know beyond one number says `llmsched.predict.evaluate`.
        """
        lower, upper = self.predict_interval(X)
        outputs = column_or_1d(y)
        return -interval_scores(outputs, lower, upper, coverage=self._target_coverage())["pinball"]

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.target_tags.positive_only = True
        tags.regressor_tags.poor_score = True  # `score` is a loss in tokens, not an R²
        return tags

    @abstractmethod
    def _fit_model(self, X: FloatArray, y: FloatArray) -> None:
        """Learn from rows of numbers (NaN where missing) and outputs in tokens."""

    @abstractmethod
    def _raw_bounds(self, X: FloatArray) -> RawBounds:
        """The bounds of each row in tokens, not yet calibrated."""

    @abstractmethod
    def _point(self, X: FloatArray) -> FloatArray:
        """The point prediction of each row in tokens."""

    def _target_coverage(self) -> float:
        """The coverage that the bounds are meant to have."""
        return float(conformal.coverage_of(self.coverage))

    def _checked(self, X: Any, y: Any) -> tuple[Any, FloatArray]:
        if self.features is None:
            if isinstance(X, Mapping) and not hasattr(X, "shape"):  # a sparse array may be a dict as well
                raise InputError("a dict of columns needs features=RequestFeatures() to become numbers")
            refuse_leaks(getattr(X, "columns", ()))
            X, y = validate_data(self, X, y, ensure_all_finite="allow-nan", ensure_min_samples=2, y_numeric=True)
        else:
            y = np.asarray(column_or_1d(y), dtype=np.float64)
            if row_count(X) != len(y):
                raise InputError(f"there are features of {row_count(X)} requests and {len(y)} outputs")
        with np.errstate(invalid="ignore"):
            bad = ~((y >= 1 - _SLACK) & (y <= LARGEST))
        if bad.any():
            i = int(np.argmax(bad))
            what = "missing" if np.isnan(y[i]) else f"{y[i]:g}"
            raise InputError(
                f"row {i}: the output is {what}, expected tokens, from 1 to {LARGEST} (the first row is 0; leave out "
                "requests without an answer)"
            )
        return X, np.maximum(np.asarray(y, dtype=np.float64), 1)

    def _checked_features(self, X: Any) -> Any:
        return X if self.features is not None else validate_data(self, X, reset=False, ensure_all_finite="allow-nan")

    def _numbers(self, X: Any) -> FloatArray:
        numbers: FloatArray = X if self.features_ is None else self.features_.transform(X)
        return numbers

    def _bounds(self, X: Any) -> RawBounds:
        with _one_thread():
            return self._raw_bounds(self._numbers(X))

    def _groups(self, X: Any) -> npt.NDArray[np.object_]:
        """The group of each row: the values of a column, or the same for all."""
        if self.group_by is None:
            return np.full(row_count(X), None, dtype=object)
        names = getattr(self, "feature_names_in_", None)
        by = self.group_by
        if isinstance(by, str) and names is not None:
            if by not in names:
                raise InputError(f"group_by={by!r}: there is no such column; there are {', '.join(names)}")
            by = list(names).index(by)
        return column_of(X, by)

    def _split(self, groups: npt.NDArray[np.object_], coverage: Fraction | None) -> tuple[IntArray, IntArray]:
        """Rows to learn from and rows to calibrate with: a random share of every group."""
        n = len(groups)
        if coverage is None:
            return np.arange(n), np.arange(0)
        share = self.calibration
        if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 < share < 1:
            raise InputError(f"calibration={share!r} is out of range, expected the share of rows, 0 < share < 1")
        order = check_random_state(self.random_state).permutation(n)
        held = np.zeros(n, dtype=bool)
        for group in set(groups.tolist()):
            of_group = order[groups[order] == group]
            held[of_group[: math.ceil(share * len(of_group))]] = True
        if held.all():
            raise InputError(f"calibration={share}: nothing is left of {n} rows (n_samples={n}) to learn from")
        return np.flatnonzero(~held), np.flatnonzero(held)

    @staticmethod
    def _scores(raw: RawBounds, y: FloatArray) -> FloatArray:
        """For each row, the correction from which on the rounded interval holds its output."""
        lower, upper = raw
        scores = np.full(len(y), -_LARGEST_CORRECTION)
        if lower is not None:
            scores = np.maximum(scores, np.log(lower / (np.floor(y) + 1)))
        if upper is not None:
            with np.errstate(divide="ignore"):
                scores = np.maximum(scores, np.log((np.ceil(y) - 1) / upper))
        return scores


def _one_thread() -> Any:
    """Gradient boosting on one thread: it does so little between barriers that on processors with other work to do, all
    of them were measured to take 20 times as long as one; and the bits must not depend on how many there are."""
    return threadpool_limits(limits=1, user_api="openmp")


def _correction(scores: FloatArray, coverage: Fraction, where: str = "") -> float:
    least = conformal.quantile(scores, coverage, where) + _SLACK
    return float(np.clip(least, -_LARGEST_CORRECTION, _LARGEST_CORRECTION))


def _whole(bounds: FloatArray) -> IntArray:
    return np.asarray(np.clip(bounds, 1, LARGEST), dtype=np.int64)
