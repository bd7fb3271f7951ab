"""Scores of predicted intervals: coverage, width, pinball loss, rank correlation."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import numpy.typing as npt

from .._logging import logger
from ..errors import InputError
from ..progress import with_seconds
from ..workloads.columns import FloatArray
from .conformal import Number, coverage_of

_log = logger(__name__)


def interval_scores(
    outputs: npt.ArrayLike,
    lower: npt.ArrayLike | None,
    upper: npt.ArrayLike | None,
    point: npt.ArrayLike | None = None,
    *,
    coverage: Number = 0.9,
) -> dict[str, float]:
    """Scores of predictions of `outputs`; all are arrays over requests, in tokens.

    Raises InputError if there is no prediction, or lengths differ.

    Returns
    -------
    dict
        ``coverage``: share of outputs within the bounds that are there; ``below_lower``, ``above_upper``: shares
        outside, by side; ``mean_width``: upper - lower; ``pinball``: mean loss of the bounds as quantiles, where both
        have equal tails outside `coverage`, and one alone all of it (Koenker and Bassett, 1978); ``kendall_tau``: rank
        correlation (τ-b) of the output with the point, or else the middle of the interval, or else its one bound,
        which is what an admission order needs. NaN for what cannot be said.
    """
    truth = np.asarray(outputs, dtype=np.float64)
    low, high, middle = (None if a is None else np.asarray(a, dtype=np.float64) for a in (lower, upper, point))
    given = {"lower": low, "upper": high, "point": middle}
    for name, column in given.items():
        if column is not None and column.shape != truth.shape:
            raise InputError(f"there are {truth.size} outputs, and {name} has {column.size} values")
    if all(column is None for column in given.values()):
        raise InputError("there is no prediction to score: give lower, upper or point")
    miss = float(1 - coverage_of(coverage))
    tail = miss / 2 if low is not None and high is not None else miss
    below = np.zeros(truth.shape, bool) if low is None else truth < low
    above = np.zeros(truth.shape, bool) if high is None else truth > high
    bounded = low is not None or high is not None
    losses = [_pinball(truth, low, tail), _pinball(truth, high, 1 - tail)]
    if middle is None:
        middle = (low + high) / 2 if low is not None and high is not None else low if high is None else high
    assert middle is not None
    return {
        "coverage": _mean(~(below | above)) if bounded else math.nan,
        "below_lower": _mean(below) if low is not None else math.nan,
        "above_upper": _mean(above) if high is not None else math.nan,
        "mean_width": _mean(high - low) if low is not None and high is not None else math.nan,
        "pinball": float(np.mean([loss for loss in losses if loss is not None])) if bounded else math.nan,
        "kendall_tau": _tau(truth, middle),
    }


@with_seconds("evaluating")
def evaluate(predictor: Any, X: Any, y: npt.ArrayLike, *, coverage: Number | None = None) -> dict[str, float]:
    """`interval_scores` of a predictor on rows that it has not seen.

    `coverage` is what its bounds are meant to have; None for what a predictor of `llmsched.predict` was asked for, and
    0.9 for any other. It is a scorer of scikit-learn's as well:
    ``cross_validate(predictor, X, y, scoring=predict.evaluate)``.
    """
    lower, upper = predictor.predict_interval(X)
    point = predictor.predict(X) if hasattr(predictor, "predict") else None
    if coverage is None:
        coverage = predictor._target_coverage() if hasattr(predictor, "_target_coverage") else 0.9
    scores = interval_scores(y, lower, upper, point, coverage=coverage)
    _log.info("%s: %s", type(predictor).__name__, ", ".join(f"{name} {value:.4g}" for name, value in scores.items()))
    return scores


def _pinball(truth: FloatArray, bound: FloatArray | None, level: float) -> float | None:
    if bound is None:
        return None
    over = truth - bound
    return _mean(np.maximum(level * over, (level - 1) * over))


def _tau(truth: FloatArray, predicted: FloatArray) -> float:
    from scipy.stats import kendalltau

    return float(kendalltau(truth, predicted).statistic) if len(truth) > 1 else math.nan


def _mean(values: npt.NDArray[Any]) -> float:
    return float(values.mean()) if values.size else math.nan
