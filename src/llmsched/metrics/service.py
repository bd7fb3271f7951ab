"""What users of a service feel, and what its operator pays attention to, of a run recorded with ``record="tokens"``.

    result = ls.simulate(workload, "fcfs", memory=60_000, clock="llama2-70b-2xa100", record=("tokens", "timeline"))
    service = ls.service.metrics(result, slo={"ttft": 1.0, "tpot": 0.1})
    service.goodput, service.percentile("ttft", 99), service.summary()

Times are in seconds with a clock, else in rounds. Everything is vectorised over attempts (stays in the batch) and
rounds: a million of each take well under a second.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, nearest, shown
from ..progress import with_seconds
from ..simulation.dataframes import Columns
from ..simulation.result import Result
from ..workloads.columns import FloatArray, IntArray
from .attempts import Attempts, Part, attempts, parts
from .catalogue import PER_REQUEST, STATISTICS, RequestTimes, of_source, values_from

__all__ = ["METRICS", "Attempts", "Overload", "Service", "attempts", "limits", "metrics", "parse_slo"]

#: What is measured of every request, by name (`llmsched.metrics.catalogue`). An SLO sets upper limits to any of them.
METRICS = PER_REQUEST


@dataclasses.dataclass(frozen=True)
class Overload:
    """Evidence that more arrives than can be served: the work in the system grows as long as requests arrive.

    Attributes
    ----------
    rate
        Requests that arrive per second (per round without a clock).
    stable_rate
        Requests per second that could be served for ever, estimated: new output tokens per second while requests
        wait, over the mean output. That is from an eighth of the time of arrivals on, when batches have grown old, to
        the last admission, after which they shrink. Of a fleet, the sum of what its replicas served so.
    before, after
        Output tokens that had been asked for and not been generated, in the middle and at the end of the arrivals.
    unit
        Of time: "s" or "round".
    """

    rate: float
    stable_rate: float
    before: int
    after: int
    unit: str = "s"

    def __str__(self) -> str:
        return (
            f"load above capacity: {self.rate:.3g} requests/{self.unit} arrive, about {self.stable_rate:.3g} can be "
            f"served; tokens still to be generated grew from {self.before:,} in the middle of the arrivals to "
            f"{self.after:,} at their end, and would go on growing"
        )


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Service(Columns):
    """Service metrics of a run. Arrays have one value per request, in the workload's order.

    Each metric of `METRICS` is an attribute too, an array (float64): ``service.ttft``, ``service.tpot``.

    Attributes
    ----------
    times
        What the metrics are computed from.
    per_request
        Metric -> array, for each of `METRICS`: times but for `slowdown`, a ratio (about 1 at the least).
    counted
        Whether the request arrived within the window: others are in no aggregate.
    met
        Whether it kept every target of the SLO (a NaN keeps any).
    slo
        The targets, by metric.
    window
        Begin and end of the time that was measured.
    goodput, goodput_rate
        Share of the counted requests that kept every target, from 0 to 1; such requests per second.
    requests_rate, tokens_rate
        Completions and new tokens per second within the window.
    busy
        Share of the window in which rounds ran; of a fleet the mean over its replicas.
    cache_use
        Mean share of the cache in use over the window, of a fleet of all caches together; NaN unless the run was
        recorded with a timeline as well.
    jain
        Jain's fairness index of the counted requests' speeds (1/slowdown): 1 if all are slowed down alike, 1/n if one
        has it all.
    overload
        What is known if the load is above capacity; None if there is no sign of that.
    unit
        Of times: "s", or "rounds" without a clock.
    """

    times: RequestTimes
    per_request: Mapping[str, FloatArray]
    counted: npt.NDArray[np.bool_]
    met: npt.NDArray[np.bool_]
    slo: Mapping[str, float]
    window: tuple[float, float]
    goodput: float
    goodput_rate: float
    requests_rate: float
    tokens_rate: float
    busy: float
    cache_use: float
    jain: float
    overload: Overload | None
    unit: str

    def __len__(self) -> int:
        return len(self.times.arrival)

    def __getattr__(self, name: str) -> FloatArray:
        if name in METRICS:
            return self.per_request[name]
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __repr__(self) -> str:
        return (
            f"Service({int(self.counted.sum())} requests: p99 ttft {self.percentile('ttft', 99):.4g} {self.unit}, "
            f"p99 tpot {self.percentile('tpot', 99):.4g} {self.unit}, {self.tokens_rate:.4g} tokens/{self.unit[0]}, "
            f"goodput {self.goodput:.1%})"
        )

    def percentile(self, metric: str, q: npt.ArrayLike) -> Any:
        """The q-th percentile(s) of a metric over the counted requests, linearly interpolated, without NaN.

        Raises InputError for an unknown metric, suggesting the nearest, or unless 0 <= q <= 100.
        """
        values = self._known(metric)
        wanted = np.asarray(q, dtype=np.float64)
        if not ((wanted >= 0) & (wanted <= 100)).all():
            raise InputError(f"percentile {q!r} is out of range, expected 0 to 100")
        return np.percentile(values, wanted) if len(values) else np.full(wanted.shape, np.nan)[()]

    def statistic(self, metric: str, which: str) -> float:
        """One of `STATISTICS` of a metric over the counted requests, without NaN; NaN if there is none.

        Raises InputError for an unknown metric or statistic, suggesting the nearest.
        """
        if which not in STATISTICS:
            raise InputError(f"there is no statistic {which!r}; {nearest(str(which), STATISTICS)}")
        values = self._known(metric)
        if which == "mean":
            return float(values.mean()) if len(values) else math.nan
        return float(self.percentile(metric, 100 if which == "max" else float(which.removeprefix("p"))))

    def _known(self, metric: str) -> FloatArray:
        """The values of a metric of the counted requests that are not NaN."""
        if metric not in METRICS:
            raise InputError(f"there is no metric {metric!r}; {nearest(str(metric), METRICS)}")
        values = self.per_request[metric][self.counted]
        return values[~np.isnan(values)]

    @property
    def longest_wait(self) -> float:
        """The longest wait of any counted request for a place in the batch: how far starvation goes."""
        return float(self.percentile("wait", 100))

    @property
    def above_capacity(self) -> bool:
        """Whether there are signs that more arrives than can be served: see `overload`."""
        return self.overload is not None

    @property
    def stable_rate(self) -> float:
        """Requests per unit of time that could be served for ever, about; NaN below capacity: see `Overload`."""
        return self.overload.stable_rate if self.overload else math.nan

    def summary(self) -> dict[str, Any]:
        """All aggregates as a plain dict, ready for JSON or a dataframe row.

        For each of `METRICS` the mean, p50, p90, p99 and max over the counted requests (ttft_mean, ttft_p50, ...).
        """
        values: dict[str, Any] = {"counted": int(self.counted.sum()), "unit": self.unit}
        return values | values_from("service", self)

    @staticmethod
    def summary_names() -> tuple[str, ...]:
        """The names in every `summary`."""
        return ("counted", "unit", *(metric.name for metric in of_source("service")))

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per request: the metrics, whether it is counted, and whether it kept the SLO."""
        return {**self.per_request, "counted": self.counted, "met": self.met}


@with_seconds("measuring")
def metrics(
    result: Result, slo: Mapping[str, float] | None = None, *, warmup: float = 0.0, drain: float = 0.0
) -> Service:
    """Service metrics of a run recorded with ``record="tokens"`` (add ``"timeline"`` for the use of the cache).

    Parameters
    ----------
    result
        The run; or a fleet (`llmsched.FleetResult`), of whose replicas all metrics are put together.
    slo
        Targets: metric -> the most it may be, e.g. ``{"ttft": 1.0, "tpot": 0.1}``; see `METRICS`. A request that
        generates one token has no tpot and no max_itl, and keeps any target on them.
    warmup, drain
        Time cut off at the begin (from the first arrival) and before the end (the last completion). Requests are
        counted if they arrive in between, wherever they complete; rates and shares are of that window alone.

    Raises
    ------
    InputError
        The run has no log of tokens; an SLO has an unknown name (the nearest is suggested) or no positive limit; the
        window is empty.
    """
    replicas = parts(result)
    targets = limits(slo)
    window = _window(result, warmup, drain)
    arrival = result.workload.arrival
    times = _times(result, replicas)
    per_request = {name: metric.value(times) for name, metric in METRICS.items()}
    met = np.ones(len(result), bool)
    for name, limit in targets.items():
        met &= ~(per_request[name] > limit)
    counted = (arrival >= window[0]) & (arrival <= window[1])
    share, good = _goodput(met, counted), int((met & counted).sum())
    rates: dict[str, Any] = _rates(result, replicas, window)
    return Service(
        times=times,
        per_request=per_request,
        counted=counted,
        met=met,
        slo=targets,
        window=window,
        goodput=share,
        goodput_rate=_per(good, window),
        jain=_jain(per_request["slowdown"][counted]),
        overload=_overload(result, replicas),
        unit="rounds" if result.clock is None else "s",
        **rates,
    )


def parse_slo(text: str) -> dict[str, float]:
    """The targets written as on the command line: ``ttft=1,tpot=0.1``. Raises InputError for anything else."""
    targets: dict[str, float] = {}
    for part in text.split(","):
        name, equals, value = part.partition("=")
        name = name.strip()
        try:
            limit = float(value)
        except ValueError:
            limit = math.nan
        if not equals or name in targets or math.isnan(limit):
            raise InputError(
                f"SLO {text!r} does not have the form ttft=1,tpot=0.1 (at {part.strip()!r}): limits are "
                "numbers, seconds where there is a clock"
            )
        targets[name] = limit
    return limits(targets)


def limits(slo: Mapping[str, float] | None) -> dict[str, float]:
    """The targets of an SLO, checked: metric -> the most it may be. Raises InputError as `metrics` does."""
    checked: dict[str, float] = {}
    for name, limit in (slo or {}).items():
        if name not in METRICS:
            of_some = "; limits are for each request: for a percentile, say which share keeps them (attainment 0.99)"
            hint = of_some if re.search(r"p\d|mean|avg", str(name)) else ""
            raise InputError(f"there is no SLO {name!r}; {nearest(str(name), METRICS)}{hint}")
        try:
            good = not isinstance(limit, (bool, str)) and hasattr(limit, "__float__") and float(limit) > 0
        except OverflowError:
            good = False
        if not good:
            raise InputError(f"the SLO {name} is {shown(limit)}, expected a number greater than 0")
        checked[name] = float(limit)
    return checked


def _window(result: Result, warmup: float, drain: float) -> tuple[float, float]:
    for name, value in (("warmup", warmup), ("drain", drain)):
        if not (isinstance(value, (int, float, np.number)) and 0 <= value < math.inf):
            raise InputError(f"{name}={value!r} is not a time of at least 0")
    if not len(result):
        return (0.0, 0.0)
    begin, end = float(result.workload.arrival.min()), result.makespan
    window = (begin + float(warmup), end - float(drain))
    if not window[0] < window[1]:
        raise InputError(
            f"warmup={warmup:g} and drain={drain:g} leave nothing of a run from {begin:g} to {end:g}: cut off less"
        )
    return window


def _times(result: Result, replicas: Sequence[Part]) -> RequestTimes:
    """What is known of every request, from the replica that took it."""
    found = {name: np.empty(len(result)) for name in ("first_token", "longest_itl", "longest_wait", "alone")}
    for at, part, log in replicas:
        found["first_token"][at], found["longest_itl"][at] = _token_times(log, len(part))
        found["longest_wait"][at] = _longest_waits(log, part.start - part.workload.arrival)
        found["alone"][at] = _alone(part)
    arrival, output = result.workload.arrival, result.workload.output
    return RequestTimes(arrival=arrival, start=result.start, completion=result.completion, output=output, **found)


def _token_times(log: Attempts, n: int) -> tuple[FloatArray, FloatArray]:
    """When each request's first token was there, and the longest time between two new ones (NaN for one token)."""
    first_token, longest_itl = np.full(n, np.nan), np.full(n, np.nan)
    new = log.first_new <= log.last_round  # attempts that showed the user something
    request, first, last = log.request[new], log.first_new[new], log.last_round[new]
    longest = np.full(len(request), -np.inf)
    inside = last > first
    took = np.zeros(len(log.round_end))
    took[1:] = np.diff(log.round_end)
    longest[inside] = _range_max(took, first[inside] + 1, last[inside] + 1)
    again = np.zeros(len(request), bool)
    again[1:] = request[1:] == request[:-1]
    later = np.flatnonzero(again)
    longest[later] = np.maximum(longest[later], log.round_end[first[later]] - log.round_end[last[later - 1]])
    if len(request):
        heads = np.flatnonzero(~again)
        first_token[request[heads]] = log.round_end[first[heads]]
        most = np.maximum.reduceat(longest, heads)
        longest_itl[request[heads]] = np.where(np.isinf(most), np.nan, most)
    return first_token, longest_itl


def _range_max(values: FloatArray, low: IntArray, high: IntArray) -> FloatArray:
    """The largest of values[low:high] for each pair low < high.

    A sparse table of which only one level is in memory at a time: two windows of 2**k values cover any range of 2**k
    to 2**(k+1) of them.
    """
    found = np.empty(len(low))
    level = np.frexp((high - low).astype(np.float64))[1] - 1
    order = np.argsort(level, kind="stable")
    bounds = np.searchsorted(level[order], np.arange(level.max(initial=-1) + 2))
    table = values
    for k in range(len(bounds) - 1):
        rows, span = order[bounds[k] : bounds[k + 1]], 1 << k
        found[rows] = np.maximum(table[low[rows]], table[high[rows] - span])
        if k + 2 < len(bounds):
            table = np.maximum(table[:-span], table[span:])
    return found


def _longest_waits(log: Attempts, queueing: FloatArray) -> FloatArray:
    """The longest of the wait for the first admission and the waits between attempts."""
    waits = queueing.copy()
    later = np.flatnonzero(~log.is_first)
    np.maximum.at(waits, log.request[later], log.begin[later] - log.end[later - 1])
    return waits


def _alone(result: Result) -> FloatArray:
    """Latency of each request if it were alone: its rounds in a batch of one."""
    prompt, output = (column.astype(np.float64) for column in (result.workload.prompt, result.workload.output))
    clock, budget = result.clock, result.prefill_budget
    processed = prompt if result.policy.prompts == "processed" else np.zeros_like(prompt)
    chunks = np.ceil(processed / budget) if budget is not None else 1.0
    rounds = output + np.maximum(chunks - 1, 0)  # the last chunk's round generates
    if clock is None:
        return rounds
    context = output * (output - 1) / 2 + (prompt * rounds if clock.context == "all" else 0)
    seconds = rounds * (clock.base + clock.per_request)
    return seconds + clock.per_context_token * context + clock.per_prompt_token * processed


def _goodput(met: npt.NDArray[np.bool_], counted: npt.NDArray[np.bool_]) -> float:
    return float(met[counted].mean()) if counted.any() else math.nan


def _jain(slowdown: FloatArray) -> float:
    if not len(slowdown):
        return math.nan
    speed = 1 / slowdown
    return float(speed.sum() ** 2 / (len(speed) * (speed**2).sum()))


def _per(count: float, window: tuple[float, float]) -> float:
    return count / (window[1] - window[0]) if window[1] > window[0] else math.nan


def _rates(result: Result, replicas: Sequence[Part], window: tuple[float, float]) -> dict[str, float]:
    completed = int(((result.completion > window[0]) & (result.completion <= window[1])).sum())
    busy, tokens, held, memory = 0.0, 0, 0.0, 0
    for _, part, log in replicas:
        inside = np.minimum(log.round_end, window[1]) - np.maximum(log.round_begin, window[0])
        weights = np.maximum(inside, 0.0)
        busy += float(weights.sum())
        tokens += _new_tokens(log, *window)
        held += math.nan if part.timeline is None else float(_occupied(part) @ weights)
        memory += part.memory
    return {
        "requests_rate": _per(completed, window),
        "tokens_rate": _per(tokens, window),
        "busy": _per(busy / len(replicas), window),
        "cache_use": _per(held / memory, window),
    }


def _occupied(result: Result) -> FloatArray:
    """Tokens of cache in every round."""
    segments = result.timeline
    assert segments is not None
    first = np.cumsum(segments.rounds) - segments.rounds
    later = np.arange(int(segments.rounds.sum())) - np.repeat(first, segments.rounds)
    tokens = np.repeat(segments.memory, segments.rounds) + later * np.repeat(segments.batch, segments.rounds)
    return tokens.astype(np.float64)


def _new_tokens(log: Attempts, begin: float, end: float) -> int:
    """Tokens that users saw for the first time after `begin` and up to `end`."""
    new = log.first_new <= log.last_round
    per_round = log.per_round(log.first_new[new], log.last_round[new])
    return int(per_round[(log.round_end > begin) & (log.round_end <= end)].sum())


# Too much load --------------------------------------------------------------------------------------------------------


def _overload(result: Result, replicas: Sequence[Part]) -> Overload | None:
    """Whether the work in the system grows as long as requests arrive, beyond chance.

    Work is output tokens still to be generated: under any policy that keeps the cache busy it grows linearly, while the
    number of requests need not (shortest first lets few, long ones pile up). It has to grow in both halves of the time
    of arrivals, and after the first eighth by more than three standard deviations of what arrives then.
    """
    arrival, output = result.workload.arrival, result.workload.output
    n = len(arrival)
    if n < 16 or not arrival.max() > arrival.min():
        return None
    times = np.sort(arrival)
    begin, length = float(times[0]), float(times[-1] - times[0])
    early, middle, late = (
        int(output[arrival <= t].sum()) - sum(_new_tokens(log, -math.inf, t) for _, _, log in replicas)
        for t in (begin + length / 8, begin + length / 2, float(times[-1]))
    )
    gaps = np.diff(times)
    irregular = max(1.0, float(gaps.std() / gaps.mean()))
    chance = irregular * math.sqrt(7 / 8 * n * float((output.astype(np.float64) ** 2).mean()))
    if not (early < middle < late and late - early > 3 * chance):
        return None
    unit = "round" if result.clock is None else "s"
    tokens = sum(_served(log, begin + length / 8) for _, _, log in replicas)
    return Overload((n - 1) / length, tokens / float(output.mean()), middle, late, unit)


def _served(log: Attempts, begin: float) -> float:
    """New tokens per unit of time from `begin` to the last admission; 0 where there is none as late."""
    last = float(log.begin.max(initial=-math.inf))
    return _new_tokens(log, begin, last) / (last - begin) if last > begin else 0.0
