"""Learned interval predictors (extra `predict`): from what is known of a request to bounds on its output.

    model = predict.IntervalRegressor(coverage=0.9, features=predict.RequestFeatures(text="prompt"))
    workload = workload.with_predictions(model.fit(table, outputs), new_table)

The predictors are scikit-learn estimators: they can be cloned, searched over and cross-validated.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtraError

if TYPE_CHECKING:
    from .classification import IntervalClassifier
    from .features import RequestFeatures
    from .files import load, save
    from .regression import IntervalRegressor
    from .scores import evaluate, interval_scores
    from .study import worth
    from .tables import read_csv

__all__ = [
    "IntervalClassifier",
    "IntervalRegressor",
    "RequestFeatures",
    "evaluate",
    "interval_scores",
    "load",
    "read_csv",
    "save",
    "worth",
]

_HOME = {
    "IntervalClassifier": "classification",
    "IntervalRegressor": "regression",
    "RequestFeatures": "features",
    "evaluate": "scores",
    "interval_scores": "scores",
    "load": "files",
    "read_csv": "tables",
    "save": "files",
    "worth": "study",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name != "worth":  # which needs NumPy alone
        require_sklearn()
    value = getattr(importlib.import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def require_sklearn() -> None:
    """Raises MissingExtraError unless scikit-learn and skops can be imported."""
    for module, package in (("sklearn", "scikit-learn"), ("skops", "skops")):
        try:
            importlib.import_module(module)
        except ImportError:
            raise MissingExtraError(package, "predict", "learning to predict") from None
