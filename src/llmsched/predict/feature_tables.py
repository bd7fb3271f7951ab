"""Tables of features: columns of dicts and data frames by name, and refusal of those known only after the answer."""

from __future__ import annotations

import csv
import itertools
import os
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, TraceError
from ..input_limits import open_text
from ..progress import with_seconds
from ..workloads.trace_formats.other_names import delimiter_of

# Words in the name of a column that is known only when the answer is, and words that say that it is not so.
_AFTERWARDS = re.compile(
    "outputs?|completions?|generated|responses?|answer(s|ed)?|repl(y|ies)|finish(ed)?|latency|duration|e2e|ttft|tpot|itl|"
    "decoded?|evictions"
)
_BEFOREHAND = re.compile("max|maximum|limit|requested|previous|prev|past|history")

ObjectArray = npt.NDArray[np.object_]


def is_table(X: Any) -> bool:
    """Whether X has columns with names: a mapping, or a pandas, polars or pyarrow table."""
    return isinstance(X, Mapping) or hasattr(X, "columns") or hasattr(X, "column_names")


def names_of(X: Any) -> list[Any]:
    """The names of a table's columns."""
    return list(X) if isinstance(X, Mapping) else list(getattr(X, "column_names", None) or X.columns)


def row_count(X: Any) -> int:
    """How many rows there are. Raises InputError if a dict's columns have different lengths, or it has none."""
    if not isinstance(X, Mapping):
        return int(X.shape[0]) if hasattr(X, "shape") else len(X)
    lengths = {name: len(column) for name, column in X.items()}
    if not lengths:
        raise InputError("the table of features has no columns")
    first = next(iter(lengths))
    for name, length in lengths.items():
        if length != lengths[first]:
            raise InputError(f"the table is ragged: column {name!r} has {length} rows, {first!r} has {lengths[first]}")
    return lengths[first]


def column_of(X: Any, name: str | int) -> ObjectArray:
    """A column as plain Python values, None where missing: of a table by name, of an array by its place."""
    if is_table(X):
        if name not in names_of(X):
            raise InputError(
                f"there is no column {name!r} among the features; there are {', '.join(map(str, names_of(X)))}"
            )
        given = X[name]
    else:
        array = np.asarray(X)
        if not isinstance(name, int) or not -array.shape[1] <= name < array.shape[1]:
            raise InputError(f"there is no column {name!r} in an array of {array.shape[1]} columns")
        given = array[:, name]
    values = given.tolist() if hasattr(given, "tolist") else given.to_pylist() if hasattr(given, "to_pylist") else given
    column = np.empty(len(values), dtype=object)
    column[:] = [None if value is None or value != value else value for value in map(_plain, values)]
    return column


def take_rows(X: Any, index: npt.NDArray[np.int64]) -> Any:
    """The rows at `index`, of a dict as a dict of columns, of anything else as what it is."""
    if isinstance(X, Mapping):
        return {name: column_of(X, name)[index] for name in X}
    from sklearn.utils import _safe_indexing

    return _safe_indexing(X, index)


def refuse_leaks(names: Iterable[Any], allow: Iterable[str] = ()) -> None:
    """Raises InputError if a column is named like what is known only after the answer: output_tokens, latency, ..."""
    allowed = set(allow)
    for name in names:
        words = {word.lower() for word in re.findall(r"[A-Z]?[a-z]+\d?[a-z]*|[A-Z]+(?![a-z])|\d+", str(name))}
        told = {word for word in words if _AFTERWARDS.fullmatch(word)}
        told |= words & {"total"} if "tokens" in words else set()
        if told and name not in allowed and not any(map(_BEFOREHAND.fullmatch, words)):
            raise InputError(
                f"the feature {name!r} seems to be known only after the answer (by the word {min(told)!r}), and is "
                "what a predictor has to predict. Leave the column out; if it is known when the request arrives, "
                f"rename it, or say RequestFeatures(allow=[{name!r}])"
            )


@with_seconds("reading")
def read_csv(path: str | os.PathLike[str]) -> dict[str, list[Any]]:
    """A CSV file with a header as column -> values: numbers where all of a column are, None where empty, else text.

    Where the header has no comma, semicolons or tabs stand between the fields. Raises TraceError if the file is not
    such a table (names the line), OSError if it cannot be read.
    """
    name = os.fspath(path)
    with open_text(name, newline="", encoding="utf-8-sig") as file:
        try:
            first = file.readline()
            reader = csv.reader(itertools.chain([first], file), strict=True, delimiter=delimiter_of(first.encode()))
            header = next(reader, [])
            if not header or len(set(header)) < len(header):
                raise TraceError("expected a header with a different name for every column", name, 1)
            rows = []
            for row in reader:
                if row and len(row) != len(header):
                    raise TraceError(f"{len(row)} values for {len(header)} columns", name, reader.line_num)
                rows += [row] if row else []
        except csv.Error as error:
            raise TraceError(f"not CSV: {error}", name, reader.line_num) from None
        except UnicodeDecodeError:
            raise TraceError("not text in UTF-8", name) from None
    return {column: _typed([row[k] for row in rows]) for k, column in enumerate(header)}


def _typed(values: list[str]) -> list[Any]:
    try:
        numbers: list[Any] = [float(value) if value.strip() else None for value in values]
    except ValueError:
        return [value or None for value in values]
    numbers = [None if number != number else number for number in numbers]  # NaN is how pandas writes what is missing
    whole = all(number is None or number.is_integer() for number in numbers)
    return [None if number is None else int(number) if whole else number for number in numbers]


def _plain(value: Any) -> Any:
    if type(value).__name__ in ("NAType", "NaTType"):  # pandas', which cannot be compared
        return None
    return value.item() if isinstance(value, np.generic) else value
