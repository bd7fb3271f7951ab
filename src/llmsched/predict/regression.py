"""IntervalRegressor: quantile regression with conformal calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
from sklearn.base import clone
from sklearn.ensemble import HistGradientBoostingRegressor

from .._logging import logger
from ..errors import InputError
from ..workloads.columns import FloatArray
from .conformal import coverage_of
from .interval_predictor import IntervalPredictor, RawBounds

_log = logger(__name__)


class IntervalRegressor(IntervalPredictor):
    """Bounds by quantile regression, calibrated so that the coverage that was asked for is the coverage one gets.

    Parameters
    ----------
    coverage
        Probability that the interval contains the output, 0 < coverage < 1.
    side
        ``"both"`` bounds; or ``"lower"`` or ``"upper"`` alone, with this coverage of its own. A_min needs no more than
        the lower bound.
    regressor
        A scikit-learn regressor with a parameter ``quantile``, alone or in a pipeline; it sees the logarithm of the
        output. By default gradient boosting (HistGradientBoostingRegressor).
    features
        A transformer from what `fit` gets to numbers, such as `RequestFeatures`; it is fitted on the rows that are
        learned from. None: numbers are given.
    group_by
        A column (name or place) whose values are groups that each get the coverage, such as the model or the tenant.
    calibration
        Share of the rows that is kept for calibration.
    random_state
        Which rows those are, and what is random in the regressor. The default is always the same.

    Attributes
    ----------
    correction_, group_corrections_
        Logarithm of the factor by which the bounds are moved apart (together, if negative): for all, and by group.
    """

    def __init__(
        self,
        coverage: float = 0.9,
        *,
        side: str = "both",
        regressor: Any = None,
        features: Any = None,
        group_by: str | int | None = None,
        calibration: float = 0.25,
        random_state: Any = 0,
    ) -> None:
        self.coverage = coverage
        self.side = side
        self.regressor = regressor
        self.features = features
        self.group_by = group_by
        self.calibration = calibration
        self.random_state = random_state

    def _fit_model(self, X: FloatArray, y: FloatArray) -> None:
        miss = 1 - self._target_coverage()
        levels = {"both": (miss / 2, 1 - miss / 2), "lower": (miss, None), "upper": (None, 1 - miss)}[self.side]
        _log.info("quantiles %s and the median", " and ".join(f"{q:.4g}" for q in levels if q is not None))
        self.lower_, self.upper_ = (None if q is None else self._quantile(q).fit(X, np.log(y)) for q in levels)
        self.median_ = self._quantile(0.5).fit(X, np.log(y))

    def _raw_bounds(self, X: FloatArray) -> RawBounds:
        lower, upper = (None if m is None else np.exp(m.predict(X)) for m in (self.lower_, self.upper_))
        if lower is None or upper is None:
            return lower, upper
        return np.minimum(lower, upper), np.maximum(lower, upper)  # two regressions may cross

    def _point(self, X: FloatArray) -> FloatArray:
        return np.asarray(np.exp(self.median_.predict(X)))

    def _target_coverage(self) -> float:
        if self.coverage is None:
            raise InputError("coverage is None: give the probability that the interval contains the output")
        return float(coverage_of(self.coverage))

    def _quantile(self, level: float) -> Any:
        """A new regressor for one quantile."""
        model = HistGradientBoostingRegressor(loss="quantile") if self.regressor is None else clone(self.regressor)
        settings: dict[str, Any] = {}
        for name in model.get_params():
            last = name.rpartition("__")[2]
            if last == "quantile":
                settings[name] = level
            elif last == "random_state" and self.random_state is not None:
                settings[name] = self.random_state
        if not any(name.rpartition("__")[2] == "quantile" for name in settings):
            raise InputError(
                f"{model!r} has no parameter 'quantile': give a regressor that predicts quantiles, such as "
                "HistGradientBoostingRegressor(loss='quantile')"
            )
        return model.set_params(**settings)
