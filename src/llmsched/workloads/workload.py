"""Workload: the requests to schedule, as read-only columns of equal length (model.md, section 1)."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import WorkloadError, number_of
from ..html_tables import table
from .columns import COLUMNS, LARGEST, FloatArray, IntArray, as_numbers, checked_column, common_length

if TYPE_CHECKING:
    from .length_table import LengthTable
    from .prefixes import Prefixes

#: What makes intervals: called with the true outputs, returns the two bounds (see `llmsched.intervals`).
MakesIntervals = Callable[[IntArray], tuple[IntArray, IntArray]]


class Extent(NamedTuple):
    """The largest numbers of a workload, in tokens; 0 for an empty one."""

    tokens: float  # all prompts and outputs together, as a double, which cannot overflow
    request: int  # the largest prompt + output of a request: the least memory that serves all
    output: int  # the longest output


class Workload:
    """A list of `n` requests.

    Every column is an array-like of length `n`; a single number stands for all requests. The arrays kept here are
    read-only: int64, times float64; an absent prediction, priority, deadline or session is None. `with_lengths` adds
    `lengths`, a table that policies may ask while a request runs, and `classes`, the row of it that each request has;
    before, both are None.

    Parameters
    ----------
    prompt, output
        Prompt tokens (whole, >= 0) and the tokens each request will really generate (whole, >= 1).
    lower, upper
        Predicted interval of the output, 1 <= lower <= upper. The truth may lie outside it.
    point
        Point prediction of the output (whole, >= 1).
    arrival
        Time at which the request becomes visible (>= 0, in rounds, or in seconds with a clock); 0 for all by default.
    priority
        How urgent the request is (whole, of either sign): the smaller the number, the more, as in vLLM.
    deadline
        How long after its arrival the request should complete (>= 0, in the unit of `arrival`); with a larger latency
        it is late.
    session
        Which requests belong together, turns of a conversation say (whole, >= 0), in the order of the workload.
    think
        Makes the loop closed: the time from the completion of a session's turn to the arrival of the next, for that one
        (>= 0, in the unit of `arrival`). `arrival` is then that of first turns, and must not fall within a session.
    source
        Where the workload comes from (free-form, travels with results); not part of equality.

    Every column is an array-like of length `n`; a single number stands for all requests. The arrays kept here are
    read-only: int64, times float64; an absent prediction, priority, deadline, session or think time is None.
    `with_lengths` adds `lengths`, a table that policies may ask while a request runs, and `classes`, the row of it that
    each request has; `with_prefixes` adds `prefixes`, which say who begins alike. Before, they are None.

    Raises
    ------
    WorkloadError
        A value is negative, not whole, NaN, too small, or lower > upper (names the request); lengths differ; think
        times without sessions, or a turn that arrives before the one ahead of it.
    """

    __slots__ = (
        "_extent", "arrival", "classes", "deadline", "lengths", "lower", "output", "point", "prefixes", "priority",
        "prompt", "session", "source", "think", "upper",
    )  # fmt: skip

    prompt: IntArray
    output: IntArray
    lower: IntArray | None
    upper: IntArray | None
    point: IntArray | None
    arrival: FloatArray
    priority: IntArray | None
    deadline: FloatArray | None
    session: IntArray | None
    think: FloatArray | None
    prefixes: Prefixes | None
    lengths: LengthTable | None
    classes: IntArray | None
    source: Mapping[str, Any]
    _extent: Extent | None

    def __init__(
        self,
        prompt: npt.ArrayLike,
        output: npt.ArrayLike,
        lower: npt.ArrayLike | None = None,
        upper: npt.ArrayLike | None = None,
        point: npt.ArrayLike | None = None,
        arrival: npt.ArrayLike | None = None,
        priority: npt.ArrayLike | None = None,
        deadline: npt.ArrayLike | None = None,
        session: npt.ArrayLike | None = None,
        think: npt.ArrayLike | None = None,
        *,
        source: Mapping[str, Any] | None = None,
    ) -> None:
        for name, required in (("prompt", prompt), ("output", output)):
            if required is None:
                raise WorkloadError(f"a workload needs the column {name!r}; it cannot be None")
        given = {"prompt": prompt, "output": output, "lower": lower, "upper": upper, "point": point}
        given |= {"arrival": 0.0 if arrival is None else arrival, "priority": priority, "deadline": deadline}
        given |= {"session": session, "think": think}
        columns = {name: as_numbers(name, values) for name, values in given.items() if values is not None}
        n = common_length(columns)
        self._fill({name: checked_column(name, column, n) for name, column in columns.items()}, source or {})
        _check_interval(self.lower, self.upper)
        _check_turns(self)

    def _fill(self, columns: Mapping[str, np.ndarray[Any, Any]], source: Mapping[str, Any]) -> None:
        """Take columns that have been checked."""
        for name in COLUMNS:
            object.__setattr__(self, name, columns.get(name))
        object.__setattr__(self, "_extent", None)
        object.__setattr__(self, "lengths", None)
        object.__setattr__(self, "classes", None)
        object.__setattr__(self, "prefixes", None)
        object.__setattr__(self, "source", MappingProxyType(dict(source)))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"a Workload never changes: use workload.replace({name}=...) for a new one")

    def __delattr__(self, name: str) -> None:
        self.__setattr__(name, None)

    def __len__(self) -> int:
        return len(self.output)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Workload):
            return NotImplemented
        mine, theirs = self.columns(), other.columns()
        same = mine.keys() == theirs.keys() and all(np.array_equal(mine[k], theirs[k]) for k in mine)
        same = same and self.lengths == other.lengths and _same_rows(self.classes, other.classes)
        return same and self.prefixes == other.prefixes

    def __repr__(self) -> str:
        if not len(self):
            return "Workload(0 requests)"
        predicted = [name for name in ("lower", "upper", "point", "lengths") if getattr(self, name) is not None]
        return (
            f"Workload({len(self)} requests, prompt {self.prompt.min()}-{self.prompt.max()}, "
            f"output {self.output.min()}-{self.output.max()}, arrival {self.arrival.min():g}-{self.arrival.max():g}, "
            f"predictions: {', '.join(predicted) or 'none'})"
        )

    def _repr_html_(self) -> str:
        if not len(self):
            return table("Workload: 0 requests", [])
        rows = []
        for name, column in self.columns().items():
            p50, p99 = (float(value) for value in np.percentile(column, [50, 99]))
            rows.append((name, float(column.min()), p50, float(column.mean()), p99, float(column.max())))
        told = {name: value for name, value in self.source.items() if not isinstance(value, Mapping)}
        quiet = {"dropped": 0, "skipped": 0, "first_skipped": None}  # of a trace without bad rows
        origin = ", ".join(f"{name}: {value}" for name, value in told.items() if quiet.get(name, self) != value)
        header = ["", "min", "p50", "mean", "p99", "max"]
        return table(f"Workload: {number_of(len(self), 'request')}", rows, header=header, note=origin)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.columns(), dict(self.source), self.lengths, self.classes, self.prefixes)

    @property
    def extent(self) -> Extent:
        """The largest numbers of tokens in it, computed once."""
        extent = self._extent
        if extent is None:
            extent = _extent(self.prompt, self.output)
            object.__setattr__(self, "_extent", extent)
        return extent

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """The columns that are there, by name, in a fixed order."""
        return {name: column for name in COLUMNS if (column := getattr(self, name)) is not None}

    def replace(self, **columns: npt.ArrayLike | None) -> Workload:
        """The same workload with some columns replaced (None removes one that need not be there)."""
        unknown = columns.keys() - COLUMNS.keys()
        if unknown:
            raise TypeError(f"a workload has no column {sorted(unknown)[0]!r}; it has {', '.join(COLUMNS)}")
        if not {"prompt", "output"}.isdisjoint(columns):
            all_columns: dict[str, Any] = {**self.columns(), **columns}
            changed = Workload(**all_columns, source=self.source)
            return self._attach_to(changed)
        if columns.get("arrival", 0.0) is None:
            columns["arrival"] = 0.0
        given = {name: as_numbers(name, values) for name, values in columns.items() if values is not None}
        n = common_length({"output": self.output, **given})
        new = object.__new__(Workload)
        checked = {name: checked_column(name, column, n) for name, column in given.items()}
        kept = {name: column for name, column in self.columns().items() if name not in columns}
        new._fill({**kept, **checked}, self.source)
        object.__setattr__(new, "_extent", self._extent)  # it is about prompts and outputs
        _check_interval(new.lower, new.upper)
        _check_turns(new)
        return self._attach_to(new)

    def with_intervals(self, rule: MakesIntervals) -> Workload:
        """The same workload with prediction intervals made by `rule`, e.g. ``intervals.buckets(100)``."""
        if not callable(rule):
            raise WorkloadError(
                f"{rule!r} is no rule for intervals; a spelling becomes one with intervals.parse({rule!r})"
            )
        lower, upper = rule(self.output)
        return self.replace(lower=lower, upper=upper)

    def with_predictions(self, predictor: Any, features: Any) -> Workload:
        """The same workload with what `predictor` says about `features`, which hold a row for each request, in order.

        A predictor has ``predict_interval(features)``, which returns the bounds (lower, upper), None for one that it
        does not predict; or ``predict(features)``, which returns points, rounded up to whole tokens, at least 1; or
        both. Those of `llmsched.predict` and of `llmsched.intervals.from_classes` are such, and any scikit-learn
        regressor. Predictions that the truth contradicts are what policies have to live with, never an error.

        The columns that are predicted replace those that were there: the bounds together, so that an old upper bound
        never stands beside a new lower one.

        Raises
        ------
        WorkloadError
            It is no predictor, a prediction is impossible (names the request), or there is not one per request.
        """
        methods = [callable(getattr(predictor, name, None)) for name in ("predict_interval", "predict")]
        if not any(methods):
            raise WorkloadError(f"{predictor!r} is no predictor: it has neither predict_interval nor predict")
        columns: dict[str, npt.ArrayLike | None] = {}
        if methods[0]:
            columns["lower"], columns["upper"] = predictor.predict_interval(features)
        if methods[1]:
            columns["point"] = _whole_points(predictor.predict(features))
        return self.replace(**columns)

    def with_lengths(self, table: LengthTable, classes: npt.ArrayLike | None = None) -> Workload:
        """The same workload with a table of lengths, for policies that ask it again while a request runs.

        Parameters
        ----------
        table
            What calibration outputs say (`LengthTable.from_outputs`).
        classes
            The predicted class of each request, one of the table's; None where the table has but one.

        Raises
        ------
        WorkloadError
            A request is of a class that the table does not know (names the request), or has none.
        """
        rows = table.rows(classes, len(self))
        fresh = attach_lengths(Workload(**self.columns(), source=self.source), table, rows)
        return attach_prefixes(fresh, self.prefixes)

    def with_prefixes(self, prefixes: Prefixes | None) -> Workload:
        """The same workload with hashes that say which requests begin alike, for policies with prefixes="cached".

        None: without. Raises WorkloadError if there are not as many as requests.
        """
        fresh = attach_lengths(Workload(**self.columns(), source=self.source), self.lengths, self.classes)
        return attach_prefixes(fresh, prefixes)

    def _attach_to(self, fresh: Workload) -> Workload:
        return attach_prefixes(attach_lengths(fresh, self.lengths, self.classes), self.prefixes)

    def take(self, index: npt.ArrayLike | slice) -> Workload:
        """The requests at `index` (integers, booleans or a slice), in that order."""
        at = index if isinstance(index, slice) else np.atleast_1d(np.asarray(index))
        if not isinstance(at, slice) and at.size == 0:
            at = at.astype(np.intp)
        taken = Workload(**{name: column[at] for name, column in self.columns().items()}, source=self.source)
        attach_lengths(taken, self.lengths, None if self.classes is None else self.classes[at])
        return attach_prefixes(taken, None if self.prefixes is None else self.prefixes.take(at))

    def head(self, n: int) -> Workload:
        """The first `n` requests (all of them if there are fewer)."""
        n = operator.index(n)
        if n < 0:
            raise WorkloadError(f"the number of requests to keep must be at least 0, not {n}")
        return self.take(slice(n))


def _extent(prompt: IntArray, output: IntArray) -> Extent:
    tokens = float(prompt.sum(dtype=np.float64) + output.sum(dtype=np.float64))
    return Extent(tokens, int((prompt + output).max(initial=0)), int(output.max(initial=0)))


def _whole_points(points: npt.ArrayLike) -> IntArray:
    """Point predictions as whole tokens: rounded up, from 1 to LARGEST."""
    given = np.asarray(as_numbers("the point prediction", points), dtype=np.float64)
    if np.isnan(given).any():
        i = int(np.argmax(np.isnan(given)))
        raise WorkloadError(f"request {i}: the point prediction is nan, expected a number", i)
    return np.asarray(np.clip(np.ceil(given), 1, LARGEST), dtype=np.int64)


def attach_lengths(fresh: Workload, table: LengthTable | None, rows: IntArray | None) -> Workload:
    """Give a workload just made its table of lengths, and each request its row; returns the workload."""
    if rows is not None:
        if len(rows) != len(fresh):
            raise WorkloadError(
                f"{len(rows)} requests have a class in the table of lengths, not {len(fresh)}: with_lengths"
            )
        rows = rows.copy()
        rows.flags.writeable = False
    object.__setattr__(fresh, "lengths", table)
    object.__setattr__(fresh, "classes", rows)
    return fresh


def attach_prefixes(fresh: Workload, prefixes: Prefixes | None) -> Workload:
    """Give a workload just made its hashes; returns it."""
    if prefixes is not None and len(prefixes) != len(fresh):
        raise WorkloadError(f"{len(prefixes)} requests have block hashes, not {len(fresh)}: with_prefixes")
    object.__setattr__(fresh, "prefixes", prefixes)
    return fresh


def _same_rows(mine: IntArray | None, theirs: IntArray | None) -> bool:
    return mine is theirs if mine is None or theirs is None else np.array_equal(mine, theirs)


def _rebuild(
    columns: dict[str, Any], source: dict[str, Any], table: LengthTable | None = None, rows: IntArray | None = None,
    prefixes: Prefixes | None = None,
) -> Workload:  # fmt: skip
    return attach_prefixes(attach_lengths(Workload(**columns, source=source), table, rows), prefixes)


def _check_interval(lower: IntArray | None, upper: IntArray | None) -> None:
    if lower is None or upper is None:
        return
    if (lower > upper).any():
        i = int(np.argmax(lower > upper))
        raise WorkloadError(f"request {i}: lower is {lower[i]} and upper is {upper[i]}, expected lower <= upper", i)


def _check_turns(workload: Workload) -> None:
    """With think times: that there are sessions, and that their turns are in order."""
    if workload.think is None:
        return
    if workload.session is None:
        raise WorkloadError("think times are those between the turns of a session: give the column 'session' too")
    order = np.argsort(workload.session, kind="stable")
    session, arrival = workload.session[order], workload.arrival[order]
    early = (session[1:] == session[:-1]) & (arrival[1:] < arrival[:-1])
    if early.any():
        k = int(np.argmax(early))
        i, before = int(order[k + 1]), int(order[k])
        raise WorkloadError(
            f"request {i}: it arrives at {arrival[k + 1]:g}, before request {before} of the same session "
            f"({session[k]}), which does at {arrival[k]:g}: turns are in the workload's order",
            i,
        )


def refuse_think_times(workload: Workload, who: str) -> None:
    """Raises WorkloadError where requests arrive as the schedule lets them, for whom that must be known beforehand."""
    if workload.think is not None:
        raise WorkloadError(
            f"{who} takes arrivals as they are, and with think times they depend on the schedule: simulate it first, "
            "and give result.workload.replace(think=None)"
        )


def turns_before(workload: Workload) -> IntArray:
    """The request that is the turn before each, of its session; -1 for first turns, and all without think times."""
    before = np.full(len(workload), -1, np.int64)
    if workload.think is not None and workload.session is not None:
        order = np.argsort(workload.session, kind="stable")
        same = workload.session[order][1:] == workload.session[order][:-1]
        before[order[1:][same]] = order[:-1][same]
    return before
