"""The table of metrics: for each its name, unit, direction, meaning, what it is computed from, and how.

Services, studies, reports, figures and the pages of the documentation read it. To add a metric, add a row here.

    catalogue.find("ttft_p99").unit_in(clocked=True)  # "seconds"
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import numpy as np

from ..errors import InputError, nearest
from ..optimum.lower_bounds import LowerBound
from ..policy import Policy
from ..simulation.result import wasted_share
from ..workloads.columns import FloatArray, IntArray

__all__ = [
    "DEFAULT",
    "METRICS",
    "PER_REQUEST",
    "STATISTICS",
    "Bounded",
    "Metric",
    "RequestMetric",
    "RequestTimes",
    "find",
    "of_source",
    "recorded_for",
    "values_from",
]

#: What a metric is computed from:
#:
#: - ``totals``: a mapping with what `llmsched.simulate_batch` returns (numbers, or arrays over simulations), and the
#:   numbers of ``requests``, ``output_tokens`` and tokens of ``memory``. These cost next to nothing.
#: - ``bound``: a `Bounded`.
#: - ``result``: a `llmsched.Result`.
#: - ``steady``: a `llmsched.steady_state.Estimate` of the latencies.
#: - ``service``: a `llmsched.service.Service`; ``energy``: a `llmsched.energy.Energy`. They need a log of all tokens.
Source = Literal["totals", "bound", "result", "steady", "service", "energy"]

_RECORDED: Mapping[Source, tuple[str, ...]] = MappingProxyType({"service": ("tokens",), "energy": ("tokens",)})


@dataclasses.dataclass(frozen=True)
class Metric:
    """A number that describes a whole simulation.

    Attributes
    ----------
    name
        That of its column in results.
    text
        What it is, in a line.
    unit
        As people write it; ``{time}`` stands for second or round. A ``share`` is from 0 to 1, and shown in per cent.
    source
        What it is computed from.
    value
        The function that computes it from that.
    less_is_better
        Whether a policy with less of it is the better one, all else being equal.
    also_record
        What `llmsched.simulate` has to record beyond what the source needs.
    percentile
        Of a percentile of latency, which.
    """

    name: str
    text: str
    unit: str
    source: Source
    value: Callable[[Any], Any]
    less_is_better: bool = True
    also_record: tuple[str, ...] = ()
    percentile: float | None = None

    @property
    def label(self) -> str:
        """Its name for people, such as "TTFT p99"."""
        text = re.sub(r"\b(ttft|tpot|itl|e2e)\b", lambda found: found[0].upper(), self.name.replace("_", " "))
        return re.sub(r"^(p\d[\d.]*) (.*)$", r"\2 \1", text)  # "latency p99"

    @property
    def is_share(self) -> bool:
        """Whether it is from 0 to 1, and shown in per cent."""
        return self.unit == "share"

    def unit_in(self, clocked: bool) -> str:
        """Its unit in a simulation with a clock, or without one."""
        return _unit_in(self.unit, clocked)

    def title(self, clocked: bool) -> str:
        """Label and unit, as an axis or a column says it; per cent are seen in its numbers."""
        return self.label if self.is_share else f"{self.label} ({self.unit_in(clocked)})"


def _unit_in(unit: str, clocked: bool) -> str:
    return unit.format(time="second" if clocked else "round")


class Bounded(NamedTuple):
    """A total latency, the policy that had it, and what no schedule can beat."""

    bound: LowerBound
    total_latency: float
    policy: Policy


# Metrics of every request ---------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class RequestTimes:
    """What is known of every request that was served: arrays of one value per request, in the workload's order.

    Attributes
    ----------
    arrival, start, completion
        When it arrived, was first admitted, and completed.
    first_token
        End of the round that generated its first token.
    longest_itl
        The longest time between two successive new tokens; NaN for outputs of one token.
    longest_wait
        The longest uninterrupted wait for a place in the batch, before the first admission or after an eviction.
    alone
        Its latency if it were the only request.
    output
        Its output tokens.
    """

    arrival: FloatArray
    start: FloatArray
    completion: FloatArray
    first_token: FloatArray
    longest_itl: FloatArray
    longest_wait: FloatArray
    alone: FloatArray
    output: IntArray


@dataclasses.dataclass(frozen=True)
class RequestMetric:
    """A number that describes a request: fields are those of `Metric`, `value` gives one per request."""

    name: str
    text: str
    unit: str
    value: Callable[[RequestTimes], FloatArray]
    less_is_better: bool = True

    @property
    def label(self) -> str:
        """Its name in words, such as "time to first token"."""
        return self.text.partition(":")[0] if ":" in self.text else self.name

    def unit_in(self, clocked: bool) -> str:
        """Its unit in a simulation with a clock, or without one."""
        return _unit_in(self.unit, clocked)


_TIME = "{time}s"


def _tpot(times: RequestTimes) -> FloatArray:
    mean = np.full(len(times.output), np.nan)
    np.divide(times.completion - times.first_token, times.output - 1, out=mean, where=times.output > 1)
    return mean


_OF_REQUESTS = (
    RequestMetric(
        "ttft",
        "time to first token: from arrival to the end of the round that generated it",
        _TIME,
        lambda times: times.first_token - times.arrival,
    ),
    RequestMetric(
        "tpot",
        "time per output token: mean time between new tokens; NaN for outputs of one token",
        _TIME,
        _tpot,
    ),
    RequestMetric(
        "max_itl",
        "the longest inter-token latency: time between two new tokens, which preemption stretches; NaN for outputs "
        "of one token",
        _TIME,
        lambda times: times.longest_itl,
    ),
    RequestMetric(
        "e2e",
        "end-to-end latency: from arrival to completion",
        _TIME,
        lambda times: times.completion - times.arrival,
    ),
    RequestMetric(
        "queueing",
        "time from arrival to the first admission",
        _TIME,
        lambda times: times.start - times.arrival,
    ),
    RequestMetric(
        "wait",
        "the longest uninterrupted wait for a place in the batch: before the first admission, or after an eviction",
        _TIME,
        lambda times: times.longest_wait,
    ),
    RequestMetric(
        "slowdown",
        "end-to-end latency over what it would be if the request were alone",
        "ratio",
        lambda times: (times.completion - times.arrival) / times.alone,
    ),
)

#: Metrics of every request, by name. An SLO sets upper limits to any of them.
PER_REQUEST: Mapping[str, RequestMetric] = MappingProxyType({metric.name: metric for metric in _OF_REQUESTS})

#: What is taken of them over the requests of a simulation: ``ttft_mean``, ``ttft_p50`` and so on.
STATISTICS = ("mean", "p50", "p90", "p99", "max")


def _statistic(metric: RequestMetric, which: str) -> Metric:
    def value(service: Any) -> Any:
        return service.statistic(metric.name, which)

    name, text = f"{metric.name}_{which}", f"{which} of {metric.text}"
    return Metric(name, text, metric.unit, "service", value, metric.less_is_better)


# Metrics of a simulation ----------------------------------------------------------------------------------------------


def _total(name: str, text: str, unit: str, value: Callable[[Any], Any] | None = None) -> Metric:
    return Metric(name, text, unit, "totals", value or (lambda totals: totals[name]))


def _attribute(source: Source, prefix: str = "") -> Callable[..., Metric]:
    """Makes rows for attributes of what `source` says."""

    def row(name: str, text: str, unit: str, **more: Any) -> Metric:
        return Metric(prefix + name, text, unit, source, lambda found: getattr(found, name), **more)

    return row


_service, _energy = _attribute("service"), _attribute("energy", "energy_")

_ROWS = (
    _total("mean_latency", "mean of completion minus arrival", _TIME),
    _total("total_latency", "sum of all latencies (TEL in the paper)", _TIME),
    _total("max_latency", "the largest latency", _TIME),
    _total("makespan", "when the last request completes", _TIME),
    _total("rounds", "rounds that ran", "count"),
    _total("evictions", "how often requests left before completing", "count"),
    _total(
        "evictions_per_request",
        "the same, per request",
        "evictions/request",
        lambda totals: np.divide(totals["evictions"], np.maximum(totals["requests"], 1)),
    ),
    _total("evicted_requests", "requests that left before completing at least once", "count"),
    _total("wasted_tokens", "tokens generated and lost", "tokens"),
    _total(
        "wasted_share",
        "the same as a share of all generated tokens",
        "share",
        lambda totals: wasted_share(totals["wasted_tokens"], totals["output_tokens"]),
    ),
    _total("peak_memory", "largest memory of any round, in tokens", "tokens"),
    _total(
        "peak_share",
        "the same as a share of the cache",
        "share",
        lambda totals: (
            totals["peak_share"] if "peak_share" in totals else totals["peak_memory"] / totals["memory"]
        ),  # a result knows that of its replicas
    ),
    Metric(
        "hit_share",
        "share of the prompt tokens that were in the cache at the first admission; 0 where no prefixes are kept",
        "share",
        "result",
        lambda result: result.hit_share,
        less_is_better=False,
    ),
    Metric(
        "gap",
        "total latency is at most this share above that of any schedule (`llmsched.lower_bound`)",
        "share of the bound",
        "bound",
        lambda found: found.bound.gap(found.total_latency, found.policy),
    ),
    Metric(
        "steady_latency",
        "mean latency in the steady state: of the requests after the warm-up that MSER-5 finds",
        _TIME,
        "steady",
        lambda found: found.mean,
    ),
    Metric(
        "steady_half",
        "half the width of the confidence interval that batch means give it from this simulation alone",
        _TIME,
        "steady",
        lambda found: (found.high - found.low) / 2,
    ),
    Metric("steady_dropped", "requests cut off as warm-up", "requests", "steady", lambda found: found.dropped),
    Metric(
        "steady_doubts",
        "what speaks against that interval, 0 to 3: no end of the warm-up, batches that depend on each other, wider "
        "than ±10 %",
        "count",
        "steady",
        lambda found: len(found.doubts),
    ),
    *(_statistic(metric, which) for metric in _OF_REQUESTS for which in STATISTICS),
    _service("goodput", "share of requests that keep every target of the SLO", "share", less_is_better=False),
    _service("goodput_rate", "such requests per second (or round)", "requests/{time}", less_is_better=False),
    _service("requests_rate", "completions per second (or round)", "requests/{time}", less_is_better=False),
    _service("tokens_rate", "new tokens per second (or round)", "tokens/{time}", less_is_better=False),
    _service("busy", "share of the time in which rounds ran", "share", less_is_better=False),
    _service(
        "cache_use",
        "mean share of the cache in use",
        "share",
        less_is_better=False,
        also_record=("timeline",),
    ),
    _service(
        "jain",
        "Jain's fairness index of the requests' speeds (1/slowdown): 1 if all are slowed down alike",
        "index",
        less_is_better=False,
    ),
    _service("longest_wait", "the longest wait of a request for a place in the batch", _TIME),
    _service("above_capacity", "1 if the load is above capacity, else 0", "share"),
    _service(
        "stable_rate",
        "about how many requests per second (or round) could be served for ever; NaN below capacity",
        "requests/{time}",
        less_is_better=False,
    ),
    _energy("total", "joules of the whole run, idle time included", "joules"),
    _energy("idle", "joules drawn between rounds", "joules"),
    _energy("wasted", "joules that evictions wasted", "joules"),
    _energy("wasted_share", "the same as a share of all joules", "share"),
    _energy("joules_per_token", "all joules over all output tokens", "joules/token"),
    _energy("joules_per_request", "all joules over the number of requests", "joules/request"),
    _energy("mean_watts", "all joules over the seconds from the first arrival to the last completion", "watts"),
    _energy("peak_watts", "the most that any round drew", "watts"),
)

#: All metrics of a simulation, by name, but for percentiles of latency, of which there are any number: see `find`.
METRICS: Mapping[str, Metric] = MappingProxyType({metric.name: metric for metric in _ROWS})

#: What a study measures when its file says nothing: what costs nothing.
DEFAULT = tuple(name for name, metric in METRICS.items() if metric.source == "totals")

_PERCENTILE = re.compile(r"p(\d+(?:\.\d+)?)_latency")


def find(name: str) -> Metric:
    """The metric of this name: one of `METRICS`, or a percentile of latency such as ``p99_latency``, ``p99.9_latency``.

    Raises InputError, which suggests the nearest name, if there is none.
    """
    if name in METRICS:
        return METRICS[name]
    match = _PERCENTILE.fullmatch(name)
    if match and float(match[1]) <= 100:
        q = float(match[1])
        text = f"{q:g}th percentile of latency"
        return Metric(name, text, _TIME, "totals", lambda totals: totals[name], percentile=q)
    close = nearest(name, [*METRICS, "p50_latency", "p90_latency", "p99_latency"])
    raise InputError(f"there is no metric {name!r}; {close.split('known:')[0]}see docs/reference/study-file.md")


def of_source(source: Source) -> list[Metric]:
    """All of `METRICS` that are computed from `source`."""
    return [metric for metric in METRICS.values() if metric.source == source]


def values_from(source: Source, found: Any) -> dict[str, Any]:
    """All of `METRICS` that are computed from `source`, name -> plain value; `found` is what the source stands for."""
    values = {metric.name: metric.value(found) for metric in of_source(source)}
    return {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}


def recorded_for(metrics: Iterable[Metric]) -> tuple[str, ...]:
    """What `llmsched.simulate` has to record, so that all these metrics can be computed."""
    return tuple(sorted({what for m in metrics for what in (*_RECORDED.get(m.source, ()), *m.also_record)}))
