"""What a setting gives, as the numbers that the page draws: all of them from `llmsched.compare`."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ...fleet.result import FleetResult
from ...metrics.compare import Comparison, compare
from ...optimum.lower_bounds import LowerBound, lower_bound
from ...simulation.result import Result
from ...simulation.timeline import Timeline
from ...workloads import generate
from ...workloads.workload import Workload
from ..options import RequestOptions, Setup, parse_policies
from ..predictions import interval_rule, with_predictions
from .setting import Setting, command_line, python, study

#: Points of a latency curve, moments of a timeline, and groups of requests by length: what a screen can show.
CURVE, MOMENTS, GROUPS = 200, 300, 10
#: Where latency is drawn against load: shares of the largest rate that is asked for.
LOADS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.85, 1.0)

#: Columns of `Row.record` that the page's table shows.
SHOWN = ("policy", "finished", "completed", "mean_latency", "p50_latency", "p99_latency", "ratio", "gap", "makespan",
         "evictions", "wasted_share", "peak_share", "error")  # fmt: skip

_KEPT = 64  # bounds

Array = npt.NDArray[np.float64]
Progress = Callable[[str, int, int], None]


class Requests:
    """The requests that the page is about: a trace, or generated ones, which are others for another seed."""

    def __init__(self, source: RequestOptions) -> None:
        self.source = source
        self._read: dict[int, Workload] = {}

    def __call__(self, seed: int) -> Workload:
        """As they come, without predictions of ours."""
        key = seed if self.source.trace is None else 0
        if key not in self._read:
            if len(self._read) > 8:
                self._read.clear()
            self._read[key] = self.source.read(seed, self.source.limit)
        return self._read[key]

    @property
    def bring_intervals(self) -> bool:
        """Whether they come with predictions."""
        workload = self(0)
        return workload.lower is not None or workload.upper is not None


class Bounds:
    """Lower bounds on the latency of any schedule: they depend on requests and machine, not on policy or predictor.

    One can take longer than the simulations: a picture does not wait for it, and has gaps once `find` has found it.
    """

    def __init__(self, requests: Requests) -> None:
        self.requests = requests
        self._found: dict[tuple[Any, ...], LowerBound] = {}

    def known(self, setting: Setting) -> LowerBound | None:
        """The bound, if it has been found."""
        return self._found.get(self._key(setting))

    def find(self, setting: Setting) -> LowerBound:
        """The bound, as `llmsched.compare` takes it."""
        key = self._key(setting)
        if key not in self._found:
            workload, setup = arriving(setting, self.requests)
            bound = lower_bound(
                workload, memory=setup.memory, iterations=0, clock=setup.clock, replicas=setting.replicas
            )  # fmt: skip
            for policy in parse_policies(setting.policies).values():
                bound.of(policy)  # which it keeps
            while len(self._found) >= _KEPT:
                self._found.pop(next(iter(self._found)))
            self._found[key] = bound
        return self._found[key]

    @staticmethod
    def _key(setting: Setting) -> tuple[Any, ...]:
        processed = any(policy.slots == "processed" for policy in parse_policies(setting.policies).values())
        return setting.machine, setting.memory, setting.rate, setting.replicas, setting.seed, processed


def arriving(setting: Setting, requests: Requests) -> tuple[Workload, Setup]:
    """The requests of a setting, without predictions of ours, and what serves them."""
    workload = requests(setting.seed)
    setup = setting.machine_options().setup(workload)
    return workload if setting.rate is None else generate.poisson(workload, setting.rate, setting.seed), setup


def compared(setting: Setting, requests: Requests, progress: Progress | None = None) -> tuple[Comparison, Setup]:
    """The comparison that a setting asks for: what `llmsched compare` runs for the same options, but for the gap."""
    policies, rule = parse_policies(setting.policies), interval_rule(setting.intervals)
    workload, setup = arriving(setting, requests)
    workload, _, _ = with_predictions(workload, rule, policies.values())
    options: dict[str, Any] = {**setup.arguments(), **setting.fleet_options().arguments(), "seed": setting.seed}
    return compare(workload, policies, **options, record=("timeline",), gap=False, progress=progress), setup


def picture(
    setting: Setting, requests: Requests, bound: LowerBound | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Everything that the page shows of a setting; gaps only if there is a `bound`."""
    comparison, setup = compared(setting, requests, progress)
    if bound is not None:
        comparison = _with_gaps(comparison, bound)
    results = {row.policy: row.result for row in comparison if row.result is not None}
    end = max((float(result.makespan) for result in results.values()), default=0.0)
    policies = parse_policies(setting.policies)
    return {
        "unit": "rounds" if setup.clock is None else "s",
        "bounded": bound is not None,
        "rows": [{name: record[name] for name in SHOWN} for record in comparison.records()],
        "curves": {name: latency_curve(result) for name, result in results.items()},
        "timelines": {name: cache_over_time(result, end) for name, result in results.items()},
        "end": end,
        "waits": {name: waits(result) for name, result in results.items()},
        "bounds": {row.policy: _bound(row.result, row.gap) for row in comparison if row.result is not None},
        "texts": {
            "command": command_line(setting, requests.source),
            "python": python(setting, requests.source, policies),
            "study": study(setting, requests.source, policies),
        },
    }


def _with_gaps(comparison: Comparison, bound: LowerBound) -> Comparison:
    rows = [
        row
        if row.result is None
        else dataclasses.replace(row, gap=bound.gap(row.result.total_latency, row.result.policy))
        for row in comparison
    ]
    return dataclasses.replace(comparison, rows=tuple(rows))


def latency_curve(result: Result) -> dict[str, list[float]]:
    """Points of the distribution of latency: the share `y` of the requests has a latency of at most `x`."""
    latency = np.sort(result.latency)
    n = len(latency)
    at = np.unique(np.ceil(np.linspace(1, n, min(n, CURVE))).astype(np.int64))
    return {"x": latency[at - 1].tolist(), "y": (at / n).tolist()}


def waits(result: Result) -> dict[str, list[Any]]:
    """Mean time from arrival to first admission of tenths of the requests, from the shortest answers to the longest."""
    output, wait = result.workload.output, result.start - result.workload.arrival
    groups = [part for part in np.array_split(np.argsort(output, kind="stable"), GROUPS) if len(part)]
    return {
        "output": [int(output[part[len(part) // 2]]) for part in groups],
        "shortest": [int(output[part[0]]) for part in groups],
        "longest": [int(output[part[-1]]) for part in groups],
        "wait": [float(wait[part].mean()) for part in groups],
    }


def cache_over_time(result: Result, end: float) -> dict[str, list[float]]:
    """The cache in use, as a share, at its fullest in each of `MOMENTS` parts of the time to `end`; and evictions."""
    if isinstance(result, FleetResult):
        parts = [(outcome.timeline, outcome.memory) for outcome in result.outcomes]
    else:
        parts = [(result.timeline, result.memory)]
    used, evictions = np.zeros(MOMENTS), np.zeros(MOMENTS)
    for timeline, _ in parts:
        if timeline is not None and len(timeline) and end > 0:
            tokens, evicted = _in_moments(timeline, end)
            used += tokens
            evictions += evicted
    capacity = sum(memory for _, memory in parts)
    return {"used": (used / capacity).tolist(), "evictions": evictions.tolist()}


def _in_moments(timeline: Timeline, end: float) -> tuple[Array, Array]:
    """The most tokens in each moment, and evictions."""
    time, (stop, last_round) = timeline.time, _ends(timeline)
    first, last = (np.minimum((t / end * MOMENTS).astype(np.int64), MOMENTS - 1) for t in (time, stop))
    full = (timeline.memory + (timeline.rounds - 1) * timeline.batch).astype(np.float64)
    tokens = np.zeros(MOMENTS)
    np.maximum.at(tokens, first, timeline.memory.astype(np.float64))
    np.maximum.at(tokens, last, full)
    count = last - first  # moments at whose end a segment still grows
    segment = np.repeat(np.arange(len(count)), count)
    moment = first[segment] + np.arange(len(segment)) - np.repeat(np.cumsum(count) - count, count)
    since = (moment + 1) * end / MOMENTS - time[segment]
    share = np.minimum(since / np.maximum(last_round - time, 1e-300)[segment], 1)
    np.maximum.at(tokens, moment, timeline.memory[segment] + share * (full - timeline.memory)[segment])
    return tokens, np.bincount(first, weights=timeline.evictions, minlength=MOMENTS).astype(np.float64)


def _ends(timeline: Timeline) -> tuple[Array, Array]:
    """When each segment ends, and when its last round begins: with a clock to what a screen shows."""
    rounds, batch, context = timeline.rounds, timeline.batch, timeline.context
    if timeline.clock is None:
        return timeline.time + rounds, timeline.time + rounds - 1
    none = np.zeros_like(rounds)
    begins = timeline.clock.duration(batch, context, timeline.prefilled, timeline.swapped)
    second, last = (timeline.clock.duration(batch, context + k * batch, none, none) for k in (1, rounds - 1))
    ends = timeline.time + begins + (rounds - 1) * (second + last) / 2
    ends = np.minimum(ends, np.append(timeline.time[1:], np.inf))
    return ends, np.where(rounds > 1, ends - last, timeline.time)


def _bound(result: Result, gap: float) -> float | None:
    """The mean latency that no schedule goes below, as far as that is proven."""
    return None if math.isnan(gap) else float(result.mean_latency / (1 + gap))


def load_curve(
    setting: Setting, requests: Requests, rates: Sequence[float], progress: Progress | None = None
) -> dict[str, dict[str, list[float | None]]]:
    """Mean and p99 latency of each policy at each of the rates."""
    found: dict[str, dict[str, list[float | None]]] = {}
    for rate in rates:
        comparison, _ = compared(dataclasses.replace(setting, rate=rate), requests, progress)
        for row in comparison:
            curve = found.setdefault(row.policy, {"rate": [], "mean": [], "p99": []})
            record = row.record()
            for key, value in (("rate", rate), ("mean", record["mean_latency"]), ("p99", record["p99_latency"])):
                curve[key].append(value)
    return found
