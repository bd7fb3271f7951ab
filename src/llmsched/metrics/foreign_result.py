"""Results of somebody else's scheduler: read from a CSV file, checked, and scored beside the policies.

    mine = ls.foreign_result.read("mine.csv", workload, memory=16_492)
    compared = ls.foreign_result.added(ls.compare(workload, memory=16_492), mine)

The file has a row per request with the columns `start` and `completion`, in the workload's units (rounds, or seconds
with a clock, from the first arrival on), and perhaps `evictions`. Rows are in the workload's order, unless a column
`id` has the request's index, from 0. With a column `arrival`, times may count from anywhere: they are moved by what it
differs from the workload's arrivals.

A result is refused if it is impossible: a request that starts before it arrives, completes before it starts, or in
fewer rounds than it has tokens; or more memory than there is. Of requests that were never evicted, starts and
completions say how much they held at least: a request generates a token a round at most, so r rounds before its
completion it holds at least s + o - r + 1 tokens, from o rounds before on. The sum of that over the requests has to fit
the cache (docs/background/model.md, section 2). With a clock, its fastest round is taken for a round.
"""

from __future__ import annotations

import csv
import dataclasses
import math
import os
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, TraceError, WorkloadError, nearest, number_of
from ..input_limits import open_text
from ..optimum.lower_bounds import lower_bound
from ..policy import Policy, Slots
from ..simulation import clock as clocks
from ..simulation.clock import Clock
from ..simulation.result import Result
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload, refuse_think_times
from .compare import Comparison, Row

__all__ = ["ForeignResult", "added", "from_arrays", "read"]

_REQUIRED = ("start", "completion")
_OPTIONAL = ("evictions", "id", "arrival")
_SLACK = 1e-9  # relative: times that were rounded when they were written down


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class ForeignResult(Result):
    """What somebody else's scheduler did: a `Result` in which some things are not known.

    Attributes
    ----------
    label
        What it is called. Its `policy` is a stand-in: what decided is not known.
    unknown
        Names of the numbers in `summary` that the file does not tell; they are None there (and 0 as attributes).
    least_peak
        Tokens of cache that were in use at once for certain.
    """

    label: str = "own result"
    unknown: frozenset[str] = frozenset()
    least_peak: int = 0

    def __repr__(self) -> str:
        unit = "rounds" if self.clock is None else "s"
        return (
            f"ForeignResult({self.label}, {len(self)} requests, memory {self.memory}: "
            f"mean latency {self.mean_latency:.6g} {unit}, makespan {self.makespan:.6g} {unit})"
        )

    @property
    def provenance(self) -> dict[str, Any]:
        """What is known of where it comes from."""
        return super().provenance | {"policy": self.label, "fields": None, "engine": self.engine}

    def summary(self) -> dict[str, Any]:
        """`Result.summary`, with None for what is not known."""
        values = super().summary() | {"policy": self.label}
        return {name: None if name in self.unknown else value for name, value in values.items()}


def read(
    path: str | os.PathLike[str],
    workload: Workload,
    *,
    memory: int,
    clock: str | Clock | None = None,
    slots: Slots = "ahead",
    label: str | None = None,
) -> ForeignResult:
    """The result in a CSV file (see the module's text), checked.

    Parameters
    ----------
    path
        The file.
    workload
        What was scheduled.
    memory
        Tokens of cache that the scheduler had.
    clock
        As for `llmsched.simulate`: with one, times are seconds.
    slots
        ``"processed"`` if a token takes its cache in the round after the one that generates it, as in vLLM.
    label
        What it is called; by default the file's name.

    Raises
    ------
    TraceError
        The file is not such a table; names file and line.
    InputError, WorkloadError
        As `from_arrays` does, with the name of the file.
    OSError
        The file cannot be read.
    """
    name = os.fspath(path)
    columns = _in_order(_columns(name, len(workload)), name)
    try:
        if "arrival" in columns:
            moved = _offset(columns.pop("arrival"), workload)
            columns |= {key: columns[key] - moved for key in _REQUIRED}
        label = os.path.splitext(os.path.basename(name))[0] if label is None else label
        return from_arrays(workload, **columns, memory=memory, clock=clock, slots=slots, label=label)
    except WorkloadError as error:
        raise WorkloadError(f"{name}: {error}", error.request) from None
    except InputError as error:
        raise InputError(f"{name}: {error}") from None


def from_arrays(
    workload: Workload,
    start: npt.ArrayLike,
    completion: npt.ArrayLike,
    evictions: npt.ArrayLike | None = None,
    *,
    memory: int,
    clock: str | Clock | None = None,
    slots: Slots = "ahead",
    label: str = "own result",
) -> ForeignResult:
    """The result with these starts, completions and evictions (n,), in the workload's order; None if not known.

    The other parameters are those of `read`.

    Raises
    ------
    WorkloadError
        A request cannot have done that (names it), or the workload has think times.
    InputError
        Not one number per request, or more memory than there is (says when, and how much).
    """
    refuse_think_times(workload, "a result of one's own")
    n, memory = len(workload), whole("memory", memory, 1)
    began, ended = (_numbers(key, values, n) for key, values in (("start", start), ("completion", completion)))
    left = None if evictions is None else _whole_numbers(_numbers("evictions", evictions, n))
    known_clock = clocks.named(clock)
    _check_times(workload, began, ended, None if known_clock else 1.0)
    certain = np.zeros(n, dtype=bool) if left is None else left == 0
    held = workload.prompt if slots == "ahead" else np.maximum(workload.prompt - 1, 0)  # before the first token
    peak, exact = _least_peak(workload, held, began, ended, certain, known_clock, memory)
    unknown = {"rounds", "seed"}
    unknown |= set() if exact else {"peak_memory", "peak_share"}
    unknown |= {"evictions", "evicted_requests"} if left is None else set()
    unknown |= set() if certain.all() and left is not None else {"wasted_tokens", "wasted_share"}
    counts = np.zeros(n, dtype=np.int64) if left is None else left
    for array in (began, ended, counts):
        array.flags.writeable = False
    return ForeignResult(
        workload=workload,
        completion=ended,
        start=began,
        evictions=counts,
        rounds=0,
        peak_memory=peak if exact else 0,
        wasted_tokens=0,
        # of the bounds on latency, the one that holds whatever decided
        policy=Policy(resume="recompute", reserve="bound" if slots == "ahead" else "none", slots=slots),
        memory=memory,
        seed=None,
        engine="not llmsched",
        clock=known_clock,
        label=label,
        unknown=frozenset(unknown),
        least_peak=peak,
    )


def added(comparison: Comparison, result: ForeignResult) -> Comparison:
    """The comparison with a row more.

    The row's `gap` is that of any schedule; NaN with a clock, whose model need not hold where the result was measured.

    Raises InputError if the result is of another workload, memory or unit of time, or its label is taken.
    """
    if result.workload != comparison.workload:
        raise InputError(f"{result.label}: a result of another workload cannot stand beside these policies")
    if result.memory != comparison.memory:
        raise InputError(
            f"{result.label}: its cache has {result.memory:,} tokens, that of the policies {comparison.memory:,}"
        )
    if any(row.policy == result.label for row in comparison):
        raise InputError(f"there is a row {result.label!r} already: give the result another label")
    if any(row.result is not None and (row.result.clock is None) != (result.clock is None) for row in comparison):
        raise InputError(
            f"{result.label}: times in seconds and in rounds cannot be compared: give all a clock, or none"
        )
    gap = math.nan
    if result.clock is None and len(result):
        gap = lower_bound(result.workload, memory=result.memory, iterations=0).gap(result.total_latency, result.policy)
    ratio = result.mean_latency / comparison.baseline_latency
    row = Row(result.label, len(result), result, None, ratio, gap)
    return dataclasses.replace(comparison, rows=(*comparison.rows, row))


# The file -------------------------------------------------------------------------------------------------------------


def _columns(path: str, n: int) -> dict[str, FloatArray]:
    """The columns that are known, as numbers, in the order of the file."""
    with open_text(path, newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        try:
            header = [name.strip().lower() for name in next(rows, [])]
            for name in _REQUIRED:
                if name not in header:
                    raise TraceError(f"there is no column {name!r}; {nearest(name, header or ['nothing'])}", path, 1)
            places = {name: header.index(name) for name in (*_REQUIRED, *_OPTIONAL) if name in header}
            values: dict[str, list[float]] = {name: [] for name in places}
            for row in rows:
                if row:
                    for name, place in places.items():
                        values[name].append(_value(row, place, name, path, rows.line_num))
        except (csv.Error, UnicodeDecodeError) as error:
            raise TraceError(f"not a CSV file: {error}", path, rows.line_num) from None
    found = len(values["start"])
    if found != n:
        raise TraceError(
            f"{number_of(found, 'row')} for a workload of {number_of(n, 'request')}: one row per request", path
        )
    return {name: np.array(column, dtype=np.float64) for name, column in values.items()}


def _value(row: list[str], place: int, name: str, path: str, line: int) -> float:
    text = row[place].strip() if place < len(row) else ""
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise TraceError(f"{name} is {text!r}, expected a number", path, line)
    return number


def _in_order(columns: dict[str, FloatArray], path: str) -> dict[str, FloatArray]:
    """The columns in the workload's order, without the ids."""
    if "id" not in columns:
        return columns
    ids = columns.pop("id")
    n = len(ids)
    if not np.array_equal(np.sort(ids), np.arange(n)):
        known, counts = np.unique(ids, return_counts=True)
        bad = next((i for i, c in zip(known, counts, strict=True) if c > 1 or i not in range(n)), None)
        raise TraceError(f"the column id must hold each index from 0 to {n - 1} once; look at {bad:g}", path)
    order = np.argsort(ids)
    return {name: column[order] for name, column in columns.items()}


def _offset(arrival: FloatArray, workload: Workload) -> float:
    if not len(arrival):
        return 0.0
    differences = arrival - workload.arrival
    offset = float(np.sort(differences)[(len(differences) - 1) // 2])
    wrong = np.abs(differences - offset) > 1e-6 * max(1.0, float(np.abs(arrival).max()) * 1e-3)
    if wrong.any():
        i = int(np.argmax(wrong))
        raise WorkloadError(
            f"request {i}: arrival is {arrival[i]:.12g}, expected {workload.arrival[i] + offset:.12g} as in the "
            f"workload (moved by {offset:.12g}): are the rows in its order?",
            i,
        )
    return offset


# The checks -----------------------------------------------------------------------------------------------------------


def _numbers(name: str, values: npt.ArrayLike, n: int) -> FloatArray:
    try:
        column = np.array(values, dtype=np.float64)
    except (TypeError, ValueError):
        raise InputError(f"{name} must be one number per request") from None
    if column.shape != (n,):
        raise InputError(f"{name} must be one number per request ({n:,}), not an array of shape {column.shape}")
    if not np.isfinite(column).all():
        i = int(np.argmin(np.isfinite(column)))
        raise WorkloadError(f"request {i}: {name} is {column[i]}, expected a number", i)
    return column


def _whole_numbers(column: FloatArray) -> IntArray:
    bad = (column < 0) | (column != np.floor(column))
    if bad.any():
        i = int(np.argmax(bad))
        raise WorkloadError(f"request {i}: evictions is {column[i]:g}, expected a whole number, at least 0", i)
    return column.astype(np.int64)


def _check_times(workload: Workload, start: FloatArray, completion: FloatArray, least_round: float | None) -> None:
    slack = _SLACK * np.maximum(1.0, np.abs(completion))
    early = start < workload.arrival - slack
    if early.any():
        i = int(np.argmax(early))
        raise WorkloadError(f"request {i} starts at {start[i]:.9g} and arrives at {workload.arrival[i]:.9g}, later", i)
    never = completion <= start
    if never.any():
        i = int(np.argmax(never))
        raise WorkloadError(f"request {i} starts at {start[i]:.9g} and completes at {completion[i]:.9g}, not later", i)
    if least_round is not None:
        fast = completion - start < workload.output * least_round - slack
        if fast.any():
            i = int(np.argmax(fast))
            raise WorkloadError(
                f"request {i} has {workload.output[i]:,} output tokens and runs {completion[i] - start[i]:.9g} rounds, "
                f"from {start[i]:.9g} to {completion[i]:.9g}: a round generates one token (are the times in seconds? "
                "give a clock)",
                i,
            )


def _least_peak(
    workload: Workload,
    prompt: IntArray,
    start: FloatArray,
    completion: FloatArray,
    certain: npt.NDArray[np.bool_],
    clock: Clock | None,
    memory: int,
) -> tuple[int, bool]:
    """The most tokens that were in use at once for certain, and whether that is all there was (see the module)."""
    s, o = prompt[certain], workload.output[certain]
    began, ended = start[certain], completion[certain]
    if not len(s):
        return 0, False
    shortest = 1.0 if clock is None else clock.duration(1, 0)
    zero = float(ended[0])
    ended, began = (ended - zero) / shortest, (began - zero) / shortest  # in rounds, from a completion on
    aligned = clock is None and bool(np.all(ended == np.floor(ended)))
    holding = np.maximum(began, ended - o)  # from here on it holds what we know
    at = np.sort(ended) - (1.0 if aligned else 0.0)  # the last rounds of the requests, or the ends of them
    fixed = s + o - ended + (1.0 if aligned else 0.0)

    def total(times: FloatArray, inclusive: bool) -> tuple[FloatArray, FloatArray]:
        """How many requests have a time before `at`, and the sum of their fixed parts."""
        order = np.argsort(times, kind="stable")
        count = np.searchsorted(times[order], at, "right" if inclusive else "left")
        return count.astype(np.float64), np.concatenate([[0.0], np.cumsum(fixed[order])])[count]

    opened, opened_sum = total(holding, inclusive=aligned)
    closed, closed_sum = total(ended, inclusive=aligned)
    held = opened_sum - closed_sum + at * (opened - closed)
    worst = int(np.argmax(held))
    peak = math.floor(held[worst] + 1e-6)
    if peak > memory:
        when = at[worst] * shortest + zero
        running = int(opened[worst] - closed[worst])
        raise InputError(
            f"at {when:.9g} the {running:,} requests that run and are never evicted hold at least {peak:,} tokens, and "
            f"the cache has {memory:,}: this needs more memory (or its evictions are missing)"
        )
    exact = aligned and bool(certain.all()) and bool(np.array_equal(ended - began, o))
    return peak, exact
