"""Learned interval predictors (extra `predict`): from what is known of a request to bounds on its output.

    model = predict.IntervalRegressor(coverage=0.9, features=predict.RequestFeatures(text="prompt"))
    workload = workload.with_predictions(model.fit(table, outputs), new_table)

The predictors are scikit-learn estimators: they can be cloned, searched over and cross-validated.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from .._lazy import lazy
from ..errors import MissingExtraError

if TYPE_CHECKING:
    from .classification import IntervalClassifier
    from .feature_tables import read_csv
    from .features import RequestFeatures
    from .model_files import load, save
    from .regression import IntervalRegressor
    from .scores import evaluate, interval_scores

__all__ = [
    "IntervalClassifier",
    "IntervalRegressor",
    "RequestFeatures",
    "evaluate",
    "interval_scores",
    "load",
    "read_csv",
    "save",
]

_find, __dir__ = lazy(
    __name__,
    {
        "IntervalClassifier": "classification",
        "IntervalRegressor": "regression",
        "RequestFeatures": "features",
        "evaluate": "scores",
        "interval_scores": "scores",
        "load": "model_files",
        "read_csv": "feature_tables",
        "save": "model_files",
    },
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        require_sklearn()
    return _find(name)


def require_sklearn() -> None:
    """Raises MissingExtraError unless scikit-learn and skops can be imported."""
    for module, package in (("sklearn", "scikit-learn"), ("skops", "skops")):
        try:
            importlib.import_module(module)
        except ImportError:
            raise MissingExtraError(package, "predict", "learning to predict") from None
