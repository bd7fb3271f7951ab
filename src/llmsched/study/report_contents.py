"""What a report of a study says, as numbers: computed once, for the page, the figures and the table alike."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import InputError, nearest
from ..metrics import catalogue
from ..metrics.catalogue import Metric
from ..policy import Policy, policies
from . import statistics, summary
from .statistics import FloatArray, Precision

if TYPE_CHECKING:
    import pyarrow

__all__ = ["Contents"]

_SCALES = {
    "memory": "memory (tokens)",
    "max_batch": "max_batch (requests)",
    "block": "block (tokens)",
    "prefill_budget": "prefill_budget (tokens)",
    "rate": "arrival rate",
    "cv": "burstiness (cv of the gaps)",
    "speed": "speed of the trace",
}
_CLOCKED = {"clock": "clocks", "machine": "machines"}
_VERDICTS = ("best", "among the best", "worse", "no data")


@dataclasses.dataclass(frozen=True, eq=False)
class Contents:
    """The numbers of a report.

    `described` is what study.json says, `text` the study file. `factors` maps each factor to its levels, in the study's
    order; `cells` has a tuple of levels per cell. `values` has for each metric columns over the cells: ``n``, ``mean``,
    ``low``, ``high``, ``p10``, ``p50``, ``p90``, the paired ``difference`` and ``ratio`` to the policy `against` with
    their limits (NaN for itself), ``regret`` with its limits, and ``verdict`` (an index of `Contents.verdicts`, -1 for
    policies that know the truth: these are no candidates). `clocked` says
    whether times are in seconds, `unfinished` what is missing of the study, if it is.
    """

    described: Mapping[str, Any]
    text: str
    factors: Mapping[str, Sequence[Any]]
    cells: Sequence[tuple[Any, ...]]
    metrics: Sequence[Metric]
    clocked: bool
    metric: str
    against: str
    clairvoyant: frozenset[str]
    confidence: float
    simulations: int
    failures: int
    unfinished: str
    values: Mapping[str, Mapping[str, FloatArray]]

    verdicts = _VERDICTS

    @classmethod
    def of(
        cls,
        results: pyarrow.Table,
        described: Mapping[str, Any],
        text: str = "",
        *,
        metric: str | None = None,
        against: str | None = None,
        failures: int = 0,
        unfinished: str = "",
    ) -> Contents:
        """The contents of a report on `results`, as `llmsched.study.results` reads them.

        `metric` is what is looked at first (by default what the study's precision is about, or the mean latency),
        `against` the policy that others are compared with (by default hsf, or the first).

        Raises InputError if one of them does not exist, or there are no results yet.
        """
        if not len(results):
            raise InputError("the study has no results yet: run it first")
        cells = summary.Cells.of(results)
        cells = dataclasses.replace(cells, metrics=_constant_left_out(cells))
        rule = _precision(described)
        confidence = 0.95 if rule is None else next(iter(rule.values())).confidence
        first = metric or next(iter(rule or {}), "mean_latency" if "mean_latency" in cells.metrics else None)
        first = first or (cells.metrics[0] if cells.metrics else "")
        if first not in cells.metrics:
            raise InputError(f"the results have no metric {first!r}: {nearest(first, cells.metrics)}")
        factors = _factors(cells, described)
        known = factors["policy"]
        baseline = against or ("hsf" if "hsf" in known else known[0])
        if baseline not in known:
            raise InputError(f"the study has no policy {baseline!r}: {nearest(str(baseline), known)}")
        order = sorted(range(len(cells)), key=lambda k: _place(cells.keys[k], factors))
        clairvoyant = frozenset(name for name in known if _knows_the_truth(name, described))
        told = described.get("definitions") or {}
        timed = any(any(told.get(key, {}).values()) or axis in factors for axis, key in _CLOCKED.items())
        metrics = [catalogue.find(name) for name in cells.metrics]
        values = {
            m.name: {k: v[order] for k, v in _columns(cells, m, baseline, clairvoyant, confidence, rule).items()}
            for m in metrics
        }
        return cls(
            described=described,
            text=text,
            factors=factors,
            cells=[cells.keys[k] for k in order],
            metrics=metrics,
            clocked=timed,
            metric=first,
            against=baseline,
            clairvoyant=clairvoyant,
            confidence=confidence,
            simulations=len(results),
            failures=failures,
            unfinished=unfinished,
            values=values,
        )

    @cached_property
    def name(self) -> str:
        """What the study is called."""
        return str(self.described.get("name") or "study")

    @cached_property
    def equal(self) -> str:
        """A sentence if policies do not differ in the metric that is looked at first; else nothing."""
        labels = [dict(zip(self.factors, cell, strict=True)) for cell in self.cells]
        share = summary.largest_difference(labels, self.values[self.metric]["mean"].tolist())
        return summary.said_of_difference(share, self.metric)

    def has(self, metric: str) -> bool:
        """Whether there is a metric of this name."""
        return metric in self.values

    def metric_named(self, metric: str) -> Metric:
        """The metric of this name."""
        return next(m for m in self.metrics if m.name == metric)

    @property
    def memory_use(self) -> str | None:
        """The metric that tells the use of the cache, if there is one."""
        return next(filter(self.has, ("peak_share", "cache_use", "peak_memory")), None)

    @property
    def eviction_rate(self) -> str | None:
        """The metric that tells how often requests are evicted, if there is one."""
        return next(filter(self.has, ("evictions_per_request", "evictions", "evicted_requests")), None)

    def scale(self, factor: str) -> tuple[str, list[float]] | None:
        """What a numeric axis for this factor says, and the place of every level on it; None if these are just names.

        Workloads that differ in one number alone, such as the requests or their rate, lie along that number.
        """
        levels = self.factors[factor]
        if len(levels) < 2:
            return None
        if all(isinstance(level, (int, float)) for level in levels):
            return _SCALES.get(factor, factor), [float(level) for level in levels]
        entries = (self.described.get("definitions") or {}).get("workloads") or {}
        if factor != "workload" or not all(level in entries for level in levels):
            return None
        fields = [{key: value for key, value in entries[level].items() if key != "name"} for level in levels]
        differ = [key for key in fields[0] if any(field[key] != fields[0][key] for field in fields)]
        if len(differ) != 1:
            return None
        numbers = [field[differ[0]] for field in fields]
        if any(isinstance(number, bool) or not isinstance(number, (int, float)) for number in numbers):
            return None
        return _SCALES.get(differ[0], differ[0]), [float(number) for number in numbers]

    @property
    def varied(self) -> list[str]:
        """The factors with more than one level."""
        return [name for name, levels in self.factors.items() if len(levels) > 1]

    @property
    def along(self) -> str:
        """The factor that pictures begin with: numbers before names, policies last."""
        others = [name for name in self.varied if name != "policy"]
        return next((name for name in others if name == "memory"), next(iter(others), "policy"))


def _columns(
    cells: summary.Cells,
    metric: Metric,
    against: str,
    clairvoyant: frozenset[str],
    confidence: float,
    rule: Mapping[str, Precision] | None,
) -> dict[str, FloatArray]:
    name = metric.name
    means = summary.means(cells, [name], confidence=confidence, precision=rule, resamples=0)
    columns = {key: means[key].to_numpy().astype(np.float64) for key in ("n", "mean", "low", "high")}
    tails = np.full((len(cells), 3), np.nan)
    for cell in range(len(cells)):
        x = cells.values(cell, name)[1]
        if len(x):
            tails[cell] = np.quantile(x, (0.1, 0.5, 0.9))
    columns |= dict(zip(("p10", "p50", "p90"), tails.T, strict=True))
    paired = summary.compared(cells, against, [name], confidence=confidence)
    best = summary.best(cells, name, largest=not metric.less_is_better, leave_out=clairvoyant, confidence=confidence)
    for table, wanted in (
        (paired, ("difference", "difference_low", "difference_high", "ratio", "ratio_low", "ratio_high")),
        (best, ("regret", "regret_low", "regret_high")),
    ):
        at = _positions(cells, table)
        for key in wanted:
            columns[key] = np.full(len(cells), np.nan)
            columns[key][at] = table[key].to_numpy()
    columns["verdict"] = np.full(len(cells), -1.0)
    columns["verdict"][_positions(cells, best)] = [_VERDICTS.index(verdict) for verdict in best["verdict"].to_pylist()]
    return columns


def _positions(cells: summary.Cells, table: pyarrow.Table) -> list[int]:
    """Which cell each row of a table of `summary` is about."""
    place = {key: k for k, key in enumerate(cells.keys)}
    return [place[key] for key in zip(*(table[factor].to_pylist() for factor in cells.factors), strict=True)]


def _constant_left_out(cells: summary.Cells) -> tuple[str, ...]:
    """The metrics that have a value anywhere."""
    return tuple(name for name in cells.metrics if np.isfinite(cells.columns[name]).any())


def _precision(described: Mapping[str, Any]) -> dict[str, Precision] | None:
    """The rule by which replications were added, by the metric it looks at."""
    found = described.get("replications")
    if not isinstance(found, Mapping):
        return None
    fields = {field.name for field in dataclasses.fields(statistics.Precision)}
    return {found["metric"]: Precision(**{key: value for key, value in found.items() if key in fields})}


def _factors(cells: summary.Cells, described: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The levels of each factor that are among the results: in the study's order, numbers in ascending order."""
    factors = {}
    for name in cells.factors:
        there = cells.levels(name)
        told = list((described.get("definitions") or {}).get(summary.AXES.get(name, ""), ()))
        if all(isinstance(level, str) for level in there):
            there = [level for level in told if level in there] + [level for level in there if level not in told]
        factors[name] = [level for level in there if level is not None] + [None] * (None in there)  # no limit: last
    if "policy" not in factors:
        raise InputError(f"the results have no column 'policy': {', '.join(cells.factors)}")
    return factors


def _place(key: tuple[Any, ...], factors: Mapping[str, Sequence[Any]]) -> tuple[int, ...]:
    return tuple(levels.index(level) for level, levels in zip(key, factors.values(), strict=True))


def _knows_the_truth(name: str, described: Mapping[str, Any]) -> bool:
    meaning = ((described.get("definitions") or {}).get("policies") or {}).get(name)
    if meaning is None:
        return name in policies and policies[name].clairvoyant
    fields = {f.name: meaning[f.name] for f in dataclasses.fields(Policy) if f.name in meaning}
    return "output" in meaning.get("reads", ()) or Policy(**fields).clairvoyant
