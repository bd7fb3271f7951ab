"""The results of a study, cell by cell: tables of means, quantiles, paired comparisons, and the best policy.

    summary.means(results, ["mean_latency"])
    summary.compared(results, against="hsf")

`results` is an Arrow table with a row per simulation, as `llmsched.study.results` reads it: columns of factors, of
metrics (float64) and `replication`. Rows of any order give the same tables. A metric that is null or NaN counts as
missing. All functions raise InputError if a column does not exist, or a replication of a cell is there twice.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, nearest, number_of
from ..html_tables import number, table
from ..progress import with_seconds
from . import statistics
from .statistics import FloatArray, Precision

if TYPE_CHECKING:
    import pyarrow

__all__ = [
    "AXES",
    "FACTORS",
    "Cells",
    "best",
    "compared",
    "largest_difference",
    "means",
    "quantiles",
    "said_of_difference",
]

#: The columns that tell cells apart -> the keys of their levels in a study.
AXES = {
    "workload": "workloads",
    "intervals": "intervals",
    "policy": "policies",
    "memory": "memories",
    "clock": "clocks",
    "machine": "machines",
    "rate": "rates",
    "max_batch": "max_batch",
    "block": "block",
    "prefill_budget": "prefill_budget",
    "replicas": "replicas",
    "router": "routers",
}
#: These columns; a table of results has those that the study has.
FACTORS = tuple(AXES)


@with_seconds("resampling")
def means(
    results: pyarrow.Table | Cells,
    metrics: Sequence[str] | None = None,
    *,
    confidence: float = 0.95,
    precision: Mapping[str, Precision] | None = None,
    resamples: int = 2000,
) -> pyarrow.Table:
    """Mean of each metric in each cell: a row per cell and metric.

    Columns: the factors, ``metric``, ``n`` (values), ``missing``, ``mean``, ``deviation`` (standard deviation),
    ``error`` (standard error), ``low`` and ``high`` (Student's t interval), ``boot_low`` and ``boot_high`` (BCa
    bootstrap; NaN with ``resamples=0``).

    `precision` maps metrics whose replications were added until they were precise to the rule that did it: theirs is
    the interval that is valid under the rule (`statistics.sequential_interval`).
    """
    cells = Cells.of(results, metrics)
    rows: list[tuple[Any, ...]] = []
    samples: dict[int, list[tuple[int, FloatArray]]] = {}  # by their number of values: these share their resamples
    for cell, metric in itertools.product(range(len(cells)), cells.metrics):
        x = cells.values(cell, metric)[1]
        n = len(x)
        interval = statistics.mean_interval(x, confidence)
        rule = (precision or {}).get(metric)
        if rule is not None and n >= rule.first:
            interval = statistics.sequential_interval(x, rule)
        deviation = float(x.std(ddof=1)) if n > 1 else math.nan
        samples.setdefault(n, []).append((len(rows), x))
        missing, error = cells.size(cell) - n, deviation / math.sqrt(max(n, 1))
        rows.append((cell, metric, n, missing, interval.estimate, deviation, error, interval.low, interval.high))
    limits = np.full((2, len(rows)), np.nan)
    for equally_many in samples.values() if resamples else ():
        places, series = zip(*equally_many, strict=True)
        matrix = np.column_stack(series)
        limits[:, places] = statistics.bootstrap_intervals(matrix, confidence, resamples=resamples)
    names = ("metric", "n", "missing", "mean", "deviation", "error", "low", "high", "boot_low", "boot_high")
    return _rows(cells, names, [(*row, *both) for row, both in zip(rows, limits.T.tolist(), strict=True)])


@with_seconds("resampling")
def quantiles(
    results: pyarrow.Table | Cells,
    metrics: Sequence[str] | None = None,
    *,
    q: Sequence[float] = (0.1, 0.5, 0.9),
    confidence: float = 0.95,
) -> pyarrow.Table:
    """Quantiles over the replications: a row per cell, metric and q.

    Columns: the factors, ``metric``, ``q``, ``n``, ``value``, ``low`` and ``high``: order statistics, valid whatever
    the distribution, infinite where there are too few replications for a limit.
    """
    cells = Cells.of(results, metrics)
    rows = []
    for cell, metric in itertools.product(range(len(cells)), cells.metrics):
        x = cells.values(cell, metric)[1]
        rows += [(cell, metric, p, len(x), *statistics.quantile_interval(x, p, confidence)) for p in q]
    return _rows(cells, ("metric", "q", "n", "value", "low", "high"), rows)


@with_seconds("resampling")
def compared(
    results: pyarrow.Table | Cells,
    against: Any = "hsf",
    metrics: Sequence[str] | None = None,
    *,
    along: str = "policy",
    confidence: float = 0.95,
) -> pyarrow.Table:
    """Every cell against the one that differs from it in the policy alone (or in another factor, `along`).

    A row per cell, other than those of `against`, and metric. Columns: the factors, ``metric``, ``against``, ``n``
    (replications that both have), ``difference``, ``difference_low``, ``difference_high`` (paired t), ``ratio``,
    ``ratio_low``, ``ratio_high`` (of means, Fieller; infinite if the divisor's mean is not distinguishable from 0).
    Settings in which `against` was not simulated have no row. Raises InputError if it is nowhere.
    """
    cells = Cells.of(results, metrics)
    known = cells.levels(along)
    if against not in known:
        raise InputError(f"no simulation has {along} {against!r}: {nearest(str(against), map(str, known))}")
    rows = []
    for setting in cells.settings(along):
        other = setting.pop(against, None)
        if other is None:
            continue
        for cell, metric in itertools.product(setting.values(), cells.metrics):
            x, y = cells.paired([cell, other], metric).T
            difference = statistics.paired_difference(x, y, confidence)
            ratio = statistics.ratio_interval(x, y, confidence)
            rows.append((cell, metric, against, len(x), *difference, *ratio))
    names = ("difference", "difference_low", "difference_high", "ratio", "ratio_low", "ratio_high")
    return _rows(cells, ("metric", "against", "n", *names), sorted(rows, key=lambda row: row[0]))


@with_seconds("resampling")
def best(
    results: pyarrow.Table | Cells,
    metric: str = "mean_latency",
    *,
    along: str = "policy",
    largest: bool = False,
    leave_out: Collection[Any] = (),
    confidence: float = 0.95,
) -> pyarrow.Table:
    """Which policies may be the best in each setting of the other factors: a row per cell.

    Columns: the factors, ``metric``, ``n`` (replications that all policies of the setting have), ``mean`` (over these),
    ``regret`` (how much worse than the best), ``regret_low``, ``regret_high`` (simultaneous within the setting) and
    ``verdict``: ``best``, ``among the best`` (more than one may be it), ``worse`` or ``no data``. With probability
    `confidence`, all that is said of one setting is true: see `statistics.best`. A policy without a single value is
    left out of the comparison, as are those of `leave_out`, which have no row: one that knows the truth, say.
    """
    cells = Cells.of(results, [metric])
    rows = []
    for found_there in cells.settings(along):
        setting = {level: cell for level, cell in found_there.items() if level not in leave_out}
        members = [cell for cell in setting.values() if len(cells.values(cell, metric)[1])]
        x = cells.paired(members, metric)
        found = statistics.best(x, confidence, largest=largest)
        for at, cell in enumerate(members):
            alone = found.candidate.sum() == 1
            verdict = "worse" if not found.candidate[at] else "best" if alone else "among the best"
            mean = float(x[:, at].mean()) if len(x) else np.nan
            rows.append((cell, metric, len(x), mean, found.regret[at], found.low[at], found.high[at], verdict))
        silent = set(setting.values()) - set(members)
        rows += [(cell, metric, 0, np.nan, np.nan, np.nan, np.nan, "no data") for cell in silent]
    names = ("metric", "n", "mean", "regret", "regret_low", "regret_high", "verdict")
    return _rows(cells, names, sorted(rows, key=lambda row: row[0]))


def largest_difference(labels: Sequence[Mapping[str, Any]], means: Iterable[float], along: str = "policy") -> float:
    """The largest difference of means between cells that differ in the policy (or `along`) alone, as a share.

    `labels` are the levels of the cells' factors. NaN if no two cells can be compared.
    """
    settings: dict[tuple[Any, ...], list[float]] = {}
    for label, mean in zip(labels, means, strict=True):
        if math.isfinite(mean):
            settings.setdefault(tuple(v for k, v in label.items() if k != along), []).append(mean)
    shares = [
        (max(found) - min(found)) / (max(map(abs, found)) or 1.0) for found in settings.values() if len(found) > 1
    ]
    return max(shares, default=math.nan)


#: Policies whose means differ by less than this share are said to be equal.
_EQUAL = 0.001


def said_of_difference(share: float, metric: str) -> str:
    """What to say if policies are equal, given their `largest_difference`; nothing if they are not."""
    if not share < _EQUAL:
        return ""
    within = "exactly" if share == 0 else f"within {100 * _EQUAL:g} %"
    return (
        f"all policies are equal in {metric} ({within}): the cache is never short enough for them to differ. More "
        "requests, a higher rate or less memory would show more"
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Cells:
    """The results, sorted by cell and replication, ready to be asked for values.

    `keys` are the levels of the factors, a tuple per cell, in ascending order; `begins` is where each cell's rows begin
    among the sorted ones, and the end.
    """

    factors: tuple[str, ...]
    metrics: tuple[str, ...]
    keys: tuple[tuple[Any, ...], ...]
    begins: np.ndarray[Any, Any]
    replication: np.ndarray[Any, Any]
    columns: Mapping[str, FloatArray]

    @classmethod
    def of(
        cls,
        results: pyarrow.Table | Cells,
        metrics: Sequence[str] | None = None,
        factors: Sequence[str] | None = None,
    ) -> Cells:
        """The cells of `results`, with these metrics: by default all float64 columns; factors: those of `FACTORS`."""
        if isinstance(results, Cells):
            for name in metrics or ():
                _check_known(name, results.columns, "metric")
            return results if metrics is None else dataclasses.replace(results, metrics=tuple(metrics))
        import pyarrow.types as types

        table: pyarrow.Table = results
        names = table.column_names
        chosen = tuple(factors) if factors is not None else tuple(name for name in FACTORS if name in names)
        known = [name for name in names if types.is_floating(table[name].type) and name not in chosen]
        for name in (*chosen, "replication"):
            _check_known(name, names, "column")
        wanted = known if metrics is None else list(metrics)
        for name in wanted:
            _check_known(name, known, "metric")
        code, levels = np.zeros(len(table), np.int64), []
        for name in chosen:
            rank, found = _ranked(table[name])
            code = code * max(len(found), 1) + rank
            levels.append(found)
        replication = table["replication"].to_numpy()
        order = np.lexsort((replication, code))
        code, replication = code[order], replication[order]
        if (twice := (np.diff(code) == 0) & (np.diff(replication) == 0)).any():
            at = int(np.argmax(twice))
            where = dict(zip(chosen, _decode(int(code[at]), levels), strict=True))
            raise InputError(f"replication {replication[at]} of {where} is there twice")
        first = np.flatnonzero(np.diff(code, prepend=-1))
        keys = tuple(_decode(int(k), levels) for k in code[first])
        columns = {name: np.asarray(table[name].to_numpy(), np.float64)[order] for name in wanted}
        return cls(chosen, tuple(wanted), keys, np.append(first, len(code)), replication, columns)

    def __len__(self) -> int:
        return len(self.keys)

    def __repr__(self) -> str:
        return f"Cells({number_of(len(self), 'cell')} of {', '.join(self.factors)}; {', '.join(self.metrics)})"

    def _repr_html_(self) -> str:
        rows = []
        for cell, key in enumerate(self.keys):
            means = (statistics.mean_interval(self.values(cell, metric)[1]) for metric in self.metrics)
            texts = (f"{number(m.estimate)} ({number(m.low)} to {number(m.high)})" for m in means)
            rows.append((*map(str, key), self.size(cell), *texts))
        header = [*self.factors, "n", *self.metrics]
        return table(f"Study: {number_of(len(self), 'cell')}, means and 95 % intervals", rows, header=header)

    def size(self, cell: int) -> int:
        """Simulations of a cell."""
        return int(self.begins[cell + 1] - self.begins[cell])

    def values(self, cell: int, metric: str) -> tuple[np.ndarray[Any, Any], FloatArray]:
        """Replications of a cell in which the metric has a value, ascending, and these values."""
        rows = slice(self.begins[cell], self.begins[cell + 1])
        x = self.columns[metric][rows]
        there = np.isfinite(x)
        return self.replication[rows][there], x[there]

    def paired(self, cells: Sequence[int], metric: str) -> FloatArray:
        """Values of several cells in the replications that all have: replications × cells."""
        series = [self.values(cell, metric) for cell in cells]
        if not series:
            return np.empty((0, 0))
        common = series[0][0]
        for replications, _ in series[1:]:
            if not np.array_equal(common, replications):
                common = np.intersect1d(common, replications, assume_unique=True)
        return np.column_stack([x[np.searchsorted(replications, common)] for replications, x in series])

    def levels(self, factor: str) -> list[Any]:
        """What a factor is in the cells, in ascending order."""
        _check_known(factor, self.factors, "factor")
        at = self.factors.index(factor)
        return _ascending({key[at] for key in self.keys})

    def settings(self, along: str) -> Iterator[dict[Any, int]]:
        """Groups of cells that differ in one factor alone: its level -> the cell."""
        _check_known(along, self.factors, "factor")
        yield from (dict(group) for group in self._settings(self.factors.index(along)).values())

    @cached_property
    def _groups(self) -> dict[int, dict[tuple[Any, ...], dict[Any, int]]]:
        return {}

    def _settings(self, at: int) -> dict[tuple[Any, ...], dict[Any, int]]:
        if at not in self._groups:
            groups: dict[tuple[Any, ...], dict[Any, int]] = {}
            for cell, key in enumerate(self.keys):
                groups.setdefault(key[:at] + key[at + 1 :], {})[key[at]] = cell
            self._groups[at] = groups
        return self._groups[at]

    def labels(self, cells: Sequence[int]) -> dict[str, list[Any]]:
        """The columns of the factors for these cells."""
        return {name: [self.keys[cell][at] for cell in cells] for at, name in enumerate(self.factors)}


def _ranked(column: pyarrow.ChunkedArray) -> tuple[np.ndarray[Any, Any], list[Any]]:
    """The levels of a column in ascending order, and every value's place among them."""
    encoded = column.combine_chunks().dictionary_encode(null_encoding="encode")
    found = encoded.dictionary.to_pylist()
    ascending = _ascending(found)
    place = {level: k for k, level in enumerate(ascending)}
    rank = np.array([place[level] for level in found], np.int64)
    return rank[encoded.indices.to_numpy(zero_copy_only=False)], ascending


def _ascending(levels: Iterable[Any]) -> list[Any]:
    some = list(levels)
    return [None] * (None in some) + sorted(level for level in some if level is not None)


def _decode(code: int, levels: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    key: list[Any] = []
    for found in reversed(levels):
        code, at = divmod(code, len(found))
        key.append(found[at])
    return tuple(reversed(key))


def _check_known(name: str, known: Sequence[str] | Mapping[str, Any], what: str) -> None:
    if name not in known:
        raise InputError(f"the results have no {what} {name!r}: {nearest(name, known)}")


def _rows(cells: Cells, names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> pyarrow.Table:
    import pyarrow

    columns = list(zip(*rows, strict=True)) or [()] * (len(names) + 1)
    return pyarrow.table(cells.labels(columns[0]) | dict(zip(names, columns[1:], strict=True)))
