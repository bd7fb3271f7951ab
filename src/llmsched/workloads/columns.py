"""The columns of a workload: names, types and limits, and how array-likes become checked columns."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import WorkloadError, shown

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

# Counts up to here are exact as 64-bit integers and as doubles; sums of them are checked against the same limit.
LARGEST = 2**53

# Arrivals go up to here: much later, a round would no longer move the clock.
LATEST = 2**52

#: Columns of seconds or rounds.
TIMES = ("arrival", "deadline", "think")

#: Column -> the least value it may have. `arrival`, `deadline` and `think` are times (float64), `priority` any whole
#: number, `session` says which requests belong together, all others count tokens (int64).
COLUMNS: Mapping[str, int] = MappingProxyType(
    {
        "prompt": 0,
        "output": 1,
        "lower": 1,
        "upper": 1,
        "point": 1,
        "arrival": 0,
        "priority": -LARGEST,
        "deadline": 0,
        "session": 0,
        "think": 0,
    }
)


def true_outputs(outputs: npt.ArrayLike) -> IntArray:
    """`outputs` as the column of that name (n,), checked. Raises WorkloadError (names the request)."""
    given = {"output": as_numbers("output", outputs)}
    column: IntArray = checked_column("output", given["output"], common_length(given))
    return column


def as_numbers(name: str, values: npt.ArrayLike) -> np.ndarray[Any, Any]:
    """The values of the column `name` as an array of numbers, of one dimension or none. Raises WorkloadError."""
    if np.ma.is_masked(values):
        i = int(np.argmax(np.ma.getmaskarray(np.ma.asarray(values)).reshape(-1)))
        raise WorkloadError(f"request {i}: {name} is masked, expected a number", i)
    try:
        column = np.asarray(values)
    except ValueError:
        raise WorkloadError(f"{name} must be one number per request, not a nested or ragged list") from None
    if column.dtype == object or column.dtype.kind in "SU":
        each = values if isinstance(values, (list, tuple)) else column.ravel()  # numpy makes text of mixed lists
        column = np.array([as_number(name, i, v) for i, v in enumerate(each)]).reshape(column.shape)
    if column.ndim > 1:
        raise WorkloadError(f"{name} must be one number per request, not an array of shape {column.shape}")
    if column.size == 0:
        column = column.astype(np.float64)
    if column.dtype.kind not in "iuf":
        seconds = ", such as the seconds (t - t.min()) / numpy.timedelta64(1, 's')" if column.dtype.kind == "M" else ""
        raise WorkloadError(f"{name} must be numbers{seconds if name == 'arrival' else ''}, not {column.dtype}")
    return column


def as_number(name: str, i: int, value: object) -> float:
    """The value of request i in the column `name` as a double, NaN for None. Raises WorkloadError."""
    try:
        if isinstance(value, (str, bytes)):
            raise TypeError
        return float("nan") if value is None else float(value)  # type: ignore[arg-type]  # or a TypeError
    except (TypeError, ValueError, OverflowError):
        raise WorkloadError(f"request {i}: {name} is {shown(value)}, expected a number", i) from None


def common_length(columns: Mapping[str, np.ndarray[Any, Any]]) -> int:
    """The length of all columns that are no single numbers. Raises WorkloadError if they differ, or there is none."""
    lengths = {name: len(column) for name, column in columns.items() if column.ndim == 1}
    if not lengths:
        raise WorkloadError("give at least one column as a list: every column is a single number")
    n = lengths.get("output", next(iter(lengths.values())))
    for name, length in lengths.items():
        if length != n:
            raise WorkloadError(f"all columns need one value per request: {name} has {length}, others have {n}")
    return n


def checked_column(name: str, column: np.ndarray[Any, Any], n: int) -> np.ndarray[Any, Any]:
    """The column as a read-only array of its own, or an error that names the first bad request."""
    least, whole = COLUMNS[name], name not in TIMES
    most = LARGEST if whole else LATEST
    with np.errstate(invalid="ignore"):
        bad = ~((column >= least) & (column <= most))  # NaN and infinities are bad too
        if whole and column.dtype.kind == "f":
            bad |= column != np.floor(column)
    if bad.any() and n:
        i = int(np.argmax(bad))
        value = column.reshape(-1)[i]
        kind = "a time" if not whole else "a whole number" if name == "priority" else "a whole number of tokens"
        raise WorkloadError(f"request {i}: {name} is {value}, expected {kind} from {least} to {most}", i)
    checked = np.empty(n, np.int64 if whole else np.float64)
    checked[:] = column
    checked.flags.writeable = False
    return checked
