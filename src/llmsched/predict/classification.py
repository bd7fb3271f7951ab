"""IntervalClassifier: a classifier predicts the bucket of the output's length (the paper's formulation)."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingClassifier

from .._logging import logger
from ..errors import InputError
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray
from .conformal import coverage_of
from .interval_predictor import IntervalPredictor, RawBounds

_log = logger(__name__)

# Sums of probabilities are compared with what was asked up to this.
_ROUNDING = 1e-9


class IntervalClassifier(IntervalPredictor):
    """Outputs are sorted into buckets, a classifier predicts the bucket, and the bucket is the interval.

    Parameters
    ----------
    buckets
        How many, each with about as many of the outputs (quantiles).
    width
        Buckets of so many tokens each instead, [1, w], [w+1, 2w] and so on, as in the paper.
    probability
        The interval is the shortest run of neighbouring buckets that the classifier gives this probability, 0 to 1.
        None: the most probable bucket.
    coverage
        Calibrate the intervals, so that they contain the output with this probability, as in `IntervalRegressor`; they
        are buckets no longer then. None: take them as they are.
    classifier
        Any scikit-learn classifier with ``predict_proba``, alone or in a pipeline. By default gradient boosting
        (HistGradientBoostingClassifier).
    side, features, group_by, calibration, random_state
        As in `IntervalRegressor`.

    Attributes
    ----------
    edges_
        Lower and upper end of every bucket in tokens, shape (buckets, 2).
    """

    def __init__(
        self,
        buckets: int = 5,
        *,
        width: int | None = None,
        probability: float | None = None,
        coverage: float | None = None,
        side: str = "both",
        classifier: Any = None,
        features: Any = None,
        group_by: str | int | None = None,
        calibration: float = 0.25,
        random_state: Any = 0,
    ) -> None:
        self.buckets = buckets
        self.width = width
        self.probability = probability
        self.coverage = coverage
        self.side = side
        self.classifier = classifier
        self.features = features
        self.group_by = group_by
        self.calibration = calibration
        self.random_state = random_state

    def _fit_model(self, X: FloatArray, y: FloatArray) -> None:
        p = self.probability
        if p is not None and not (isinstance(p, (int, float)) and 0 < p <= 1):
            raise InputError(f"probability={p!r} is out of range, expected 0 < probability <= 1")
        ends = self._ends(y)
        self.edges_ = np.column_stack([np.append(0, ends[:-1]) + 1, ends])
        bucket = np.searchsorted(ends, np.ceil(y))
        self.medians_ = np.array([np.median(y[bucket == k]) for k in range(len(ends))])
        if len(ends) == 1:  # most classifiers refuse a single class
            self.model_ = DummyClassifier()
        elif self.classifier is None:
            self.model_ = HistGradientBoostingClassifier()
        else:
            self.model_ = clone(self.classifier)
        if self.random_state is not None:
            names = [name for name in self.model_.get_params() if name.rpartition("__")[2] == "random_state"]
            self.model_.set_params(**dict.fromkeys(names, self.random_state))
        _log.info("buckets of up to %s tokens, by %s", ", ".join(map(str, ends.tolist())), type(self.model_).__name__)
        self.model_.fit(X, bucket)

    def _ends(self, y: FloatArray) -> npt.NDArray[np.int64]:
        """The upper end of every bucket that has rows."""
        if self.width is not None:
            width = whole("width", self.width, 1)
            used = np.unique(np.ceil(np.ceil(y) / width).astype(np.int64))
            return used * width  # a bucket without rows belongs to the next one: no classifier could predict it
        levels = np.linspace(0, 1, whole("buckets", self.buckets, 1) + 1)[1:]
        return np.unique(np.quantile(np.ceil(y), levels, method="inverted_cdf").astype(np.int64))

    def _raw_bounds(self, X: FloatArray) -> RawBounds:
        first, last = self._run(self.model_.predict_proba(X))
        lower, upper = self.edges_[first, 0].astype(np.float64), self.edges_[last, 1].astype(np.float64)
        return (None if self.side == "upper" else lower), (None if self.side == "lower" else upper)

    def _point(self, X: FloatArray) -> FloatArray:
        shares = self.model_.predict_proba(X).cumsum(axis=1)
        return np.asarray(self.medians_[np.argmax(shares >= 0.5 - _ROUNDING, axis=1)])

    def _run(self, shares: FloatArray) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """First and last bucket of each row's interval, from probabilities of shape (rows, buckets)."""
        if self.probability is None:
            best = np.argmax(shares, axis=1)
            return best, best
        rows, buckets = shares.shape
        sums = np.column_stack([np.zeros(rows), shares.cumsum(axis=1)])
        enough = min(self.probability, 1) - _ROUNDING
        first, last = np.zeros(rows, np.intp), np.full(rows, buckets - 1, np.intp)
        shortest = np.full(rows, self.edges_[-1, 1] - self.edges_[0, 0] + 1)
        for k in range(buckets):
            reached = sums[:, k + 1 :] - sums[:, [k]] >= enough
            end = k + np.argmax(reached, axis=1)
            length = self.edges_[end, 1] - self.edges_[k, 0]
            better = reached.any(axis=1) & (length < shortest)
            first[better], last[better], shortest[better] = k, end[better], length[better]
        return first, last

    def _target_coverage(self) -> float:
        """The coverage, or what would make it the probability, or for the most probable bucket one half."""
        if self.coverage is not None:
            return float(coverage_of(self.coverage))
        return 0.5 if self.probability is None else min(float(self.probability), 1 - _ROUNDING)
