"""Predictions of real predictors: fitted on the first half of a file, made for the requests of its second half."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ..errors import InputError, MissingExtraError, TraceError
from ..predict import intervals
from ..predict.conformal import Number, Side
from ..predict.feature_tables import read_csv
from ..workloads import traces
from ..workloads.generate import resample
from ..workloads.trace_formats.other_names import plain_names
from ..workloads.workload import Workload

# Columns that say what was to be predicted or when; all others are features, or classes.
_OUTPUT = "output_tokens"
_CLASSES = 20  # more different values than these are no classes, if they are not whole numbers
_COLUMNS_OF_TRACES = {"arrival": "arrival_s", "prompt": "prompt_tokens", "output": _OUTPUT, "priority": "priority"}
_NO_FEATURES = (_OUTPUT, "arrival_s", "lower", "upper", "point")


def from_classes(path: str | os.PathLike[str], prompts: Workload, coverage: Number, seed: int) -> dict[str, Workload]:
    """Name -> requests with intervals, for every column of predicted classes in a CSV file.

    Each column is calibrated on the first half with `llmsched.intervals.from_classes`: both bounds, and the lower one
    alone. Prompts are those of the column ``prompt_tokens``, or else drawn from `prompts`.

    Raises TraceError if the file has no column ``output_tokens`` or no other, InputError for too few rows.
    """
    table, early, late, requests = _halves(path, prompts, seed)
    columns = [name for name in table if name not in (*_NO_FEATURES, "prompt_tokens")]
    if not columns:
        raise TraceError("there is no column of classes", os.fspath(path), 1)
    found = {}
    sides: tuple[tuple[Side, str], ...] = (("both", ""), ("lower", ", lower bound"))
    for name in columns:
        classes = table[name]
        for side, words in sides:
            try:
                known = intervals.from_classes(
                    classes[early],
                    table[_OUTPUT][early],
                    coverage,
                    side=side,
                    unseen="pooled",
                )
                found[f"{name}{words}"] = requests.with_predictions(known, classes[late])
            except InputError as error:
                what = _no_class(classes)
                why = f"{what}. Leave it out, or use --features, which learns from it" if what else error
                raise InputError(f"{os.fspath(path)}, column {name!r}: {why}") from None
    return found


def _no_class(values: Sequence[Any]) -> str:
    """What the values of a column seem to be, if they are many and not whole numbers; empty for what may be classes."""
    kinds = {type(value) for value in values} - {type(None)}
    distinct = len(set(values))
    if distinct <= _CLASSES or kinds not in ({float}, {str}):
        return ""
    what = "a number" if kinds == {float} else "text"
    return f"looks like {what} and not a class: {distinct:,} different values in {len(values):,} rows"


def from_features(path: str | os.PathLike[str], prompts: Workload, coverage: Number, seed: int) -> dict[str, Workload]:
    """Name -> requests with predictions, for the predictors of `llmsched.predict` trained on a CSV file's columns.

    All columns are features but outputs, arrivals and predictions; the length of the prompt is one, if it is there.

    Raises TraceError if the file has no column ``output_tokens`` or no other, InputError for what the predictors
    refuse, MissingExtraError without scikit-learn.
    """
    from ..predict import IntervalClassifier, IntervalRegressor, RequestFeatures

    table, early, late, requests = _halves(path, prompts, seed)
    features = {name: column for name, column in table.items() if name not in _NO_FEATURES}
    if not features:
        raise TraceError("there is no column of features", os.fspath(path), 1)
    reader, share = RequestFeatures(random_state=seed % 2**32), float(coverage)
    models: dict[str, Any] = {
        "quantile regression": IntervalRegressor(share, features=reader),
        "lower bound alone": IntervalRegressor(share, side="lower", features=reader),
        "bucket classifier, not calibrated": IntervalClassifier(probability=share, features=reader),
        "calibrated classifier": IntervalClassifier(probability=share, coverage=share, features=reader),
    }
    try:
        for model in models.values():
            model.set_params(random_state=seed % 2**32)
            model.fit({name: column[early] for name, column in features.items()}, table[_OUTPUT][early])
    except InputError as error:
        raise InputError(f"{os.fspath(path)}: {error}") from None
    unseen = {name: column[late] for name, column in features.items()}
    return {name: requests.with_predictions(model, unseen) for name, model in models.items()}


def read_table(path: str | os.PathLike[str]) -> Mapping[str, list[Any]]:
    """Column -> values of a CSV or Parquet file with ``output_tokens``; of another trace, those of its requests.

    What others call it, such as ``completion_tokens``, is renamed as by `llmsched.traces.load`. Raises TraceError if it
    is neither, OSError if it cannot be read, MissingExtraError for Parquet without pyarrow.
    """
    name = os.fspath(path)
    try:
        table = _parquet(name) if name.lower().endswith(".parquet") else read_csv(name)
    except TraceError:
        table = {}
    names = plain_names(list(table), name)
    table = {names.get(column, column): values for column, values in table.items()}
    if _OUTPUT in table:
        return table
    try:
        columns = traces.load(name).columns()
    except InputError:
        if table:
            return table  # what it lacks is said where it is read
        raise
    return {_COLUMNS_OF_TRACES[key]: column.tolist() for key, column in columns.items() if key in _COLUMNS_OF_TRACES}


def _parquet(name: str) -> dict[str, list[Any]]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise MissingExtraError("pyarrow", "parquet", "reading Parquet files") from None
    try:
        return dict(parquet.read_table(name).to_pydict())
    except pyarrow.ArrowInvalid as error:
        raise TraceError(f"not Parquet: {error}", name) from None


def _halves(
    path: str | os.PathLike[str], prompts: Workload, seed: int
) -> tuple[Mapping[str, list[Any]], slice, slice, Workload]:
    """The table, its first and second half, and the requests of the second."""
    table = read_table(path)
    name = os.fspath(path)
    if _OUTPUT not in table:
        raise TraceError(f"there is no column {_OUTPUT!r}; there are {', '.join(table)}", name, 1)
    n = len(table[_OUTPUT])
    if n < 2:
        raise TraceError(f"{n} rows are too few to learn from one half and schedule the other", name)
    half = n // 2
    given = table.get("prompt_tokens")
    prompt = resample(prompts, n - half, seed).prompt if given is None else given[half:]
    try:
        requests = Workload(prompt=prompt, output=table[_OUTPUT][half:], source={"path": name})
        Workload(prompt=np.zeros(half), output=table[_OUTPUT][:half])
    except InputError as error:
        raise TraceError(str(error), name) from None
    return table, slice(0, half), slice(half, n), requests
