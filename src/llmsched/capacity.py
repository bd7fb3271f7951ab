"""Capacity: the highest arrival rate, or the smallest cache, at which a service keeps its targets.

    found = ls.capacity.highest_rate(workload, "fcfs", slo={"ttft": 1.0, "tpot": 0.1}, memory=16_492,
                                     clock="llama2-70b-2xa100")
    print(found)            # 5.93 requests/s (95 % CI 5.71 to 6.15): ...

"Keeps" means: at least a share of the requests (`attainment`, 90 % unless told otherwise) meets every target. Each
replication is a random draw of requests and of the gaps between them, and finds its own answer by bisection, with the
same draws at every step; the mean of the answers is the estimate, their spread its confidence interval.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

import numpy as np

from . import generate, service
from .arguments import LARGEST_SEED, whole
from .clock import Clock
from .clock import named as named_clock
from .errors import InputError, NotFinishedError
from .lowering import lower
from .paper import t_quantile
from .policy import Policy
from .policy import named as named_policy
from .simulation import simulate
from .streams import raw_stream
from .workload import FloatArray, Workload

__all__ = ["Capacity", "highest_rate", "smallest_memory"]

#: Called after every simulation with (replications done, replications in all).
Progress = Callable[[int, int], None]

_DOUBLINGS = 40  # a bracket that has grown or shrunk so often is taken for unbounded


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Capacity:
    """What `highest_rate` or `smallest_memory` found.

    Attributes
    ----------
    quantity
        ``"rate"`` (requests per second; per round without a clock) or ``"memory"`` (tokens of cache).
    value
        The estimate: the mean over replications. A rate is infinite if the targets hold even if all requests come at
        once, and 0 if they do not hold even if each is alone; a memory is infinite if no memory is enough.
    low, high
        Its 95 % confidence interval (Student's t over replications; NaN for a single one).
    each
        The answers of the replications.
    attained, attained_ci95
        Share of the requests that meet every target at `value`, the mean over replications (NaN if `value` is 0 or
        infinite), and half the width of its 95 % confidence interval.
    above_capacity
        In how many replications requests pile up at `value` although the targets hold: these runs are too short, or
        the targets too loose, to show it, and a longer one would hold less.
    stable_rate
        Mean of the rates that those replications could serve for ever (see `llmsched.service.Overload`); else NaN.
    slo, attainment, policy, memory, rate, requests, simulations
        What was asked: targets and the share that has to meet them, the policy's name, the cache and the rate (the one
        that was searched for is None), requests per replication; and how many simulations that took.
    unit
        Of time: "s", or "round" without a clock.
    """

    quantity: Literal["rate", "memory"]
    value: float
    low: float
    high: float
    each: FloatArray
    attained: float
    attained_ci95: float
    above_capacity: int
    stable_rate: float
    slo: Mapping[str, float]
    attainment: float
    policy: str
    memory: int | None
    rate: float | None
    requests: int
    simulations: int
    unit: str

    def __repr__(self) -> str:
        return f"Capacity({self})"

    def __str__(self) -> str:
        what = f"requests/{self.unit}" if self.quantity == "rate" else "tokens of cache"
        targets = ", ".join(f"{name} <= {limit:g}" for name, limit in self.slo.items())
        spread = "" if math.isnan(self.low) else f" (95 % CI {self.low:.4g} to {self.high:.4g})"
        return f"{self.value:.4g} {what}{spread}: {self.policy}, {self.attainment:.0%} of requests with {targets}"

    def record(self) -> dict[str, Any]:
        """The answer as plain values; None for what there is not or is infinite."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {"slo": dict(self.slo), "each": self.each.tolist(), "replications": len(self.each)}
        values["each"] = [_finite(value) for value in values["each"]]
        return {name: _finite(value) for name, value in values.items()}


def highest_rate(
    workload: Workload,
    policy: str | Policy = "fcfs",
    *,
    slo: Mapping[str, float],
    memory: int,
    attainment: float = 0.9,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    requests: int | None = None,
    replications: int = 10,
    seed: int = 0,
    tolerance: float = 0.01,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """The highest rate of Poisson arrivals at which `attainment` of the requests meet every target of `slo`.

    Parameters
    ----------
    workload
        Requests to draw from, with replacement; their own arrivals are not used.
    policy, memory, clock, max_batch, block
        As for `llmsched.simulate`.
    slo
        Targets: metric -> the most it may be (see `llmsched.service.METRICS`), at least one.
    attainment
        Share of the requests that has to meet all of them, in (0, 1].
    requests
        Requests in a replication; as many as in the workload unless told otherwise. Short ones hold higher rates.
    replications
        At least 1; a confidence interval needs 2.
    seed
        Governs draws, gaps and ties.
    tolerance
        How far from its own answer, as a share of it, each replication may stop.
    threads
        Simulations at a time; None for one per processor. The answer does not depend on it.
    progress
        Called with (replications done, replications in all).

    Raises
    ------
    InputError
        A number is out of range, a target unknown or absent, or the workload empty.
    MissingPredictionError, MemoryTooSmallError
        As `llmsched.simulate`.
    """
    search = _Search(workload, policy, slo, attainment, requests, replications, seed, tolerance, threads)
    search.machine(memory=memory, clock=clock, max_batch=max_batch, block=block)
    answers = search.each(lambda k: search.rate_of(k), progress)
    return search.capacity("rate", answers, memory=memory, rate=None)


def smallest_memory(
    workload: Workload,
    policy: str | Policy = "fcfs",
    *,
    slo: Mapping[str, float],
    rate: float | None = None,
    attainment: float = 0.9,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    requests: int | None = None,
    replications: int = 10,
    seed: int = 0,
    tolerance: float = 0.01,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """The smallest cache with which `attainment` of the requests meet every target of `slo`.

    Parameters are those of `highest_rate`, and `rate`, that of the Poisson arrivals. Without a rate, requests arrive as
    the workload says and are not drawn at random: replications differ in how ties are broken alone.

    Raises what `highest_rate` raises.
    """
    search = _Search(workload, policy, slo, attainment, requests, replications, seed, tolerance, threads)
    search.machine(memory=None, clock=clock, max_batch=max_batch, block=block)
    if rate is not None:
        generate.poisson(workload.head(0), rate)  # refuses a rate that is none
    elif requests is not None:
        raise InputError("requests are drawn at random at a given rate only: give a rate, or leave requests out")
    answers = search.each(lambda k: search.memory_of(k, rate), progress)
    return search.capacity("memory", answers, memory=None, rate=rate)


class _Search:
    """One question under way."""

    def __init__(
        self,
        workload: Workload,
        policy: str | Policy,
        slo: Mapping[str, float],
        attainment: float,
        requests: int | None,
        replications: int,
        seed: int,
        tolerance: float,
        threads: int | None,
    ) -> None:
        if not isinstance(workload, Workload):
            raise InputError(f"expected a llmsched.Workload, not {type(workload).__name__}")
        if not len(workload):
            raise InputError("there is nothing to serve: the workload has no requests")
        self.slo = service.limits(slo)
        if not self.slo:
            raise InputError('give at least one target, such as slo={"ttft": 1.0, "tpot": 0.1}')
        for name, value in (("attainment", attainment), ("tolerance", tolerance)):
            if not (isinstance(value, (int, float)) and 0 < value <= 1):
                raise InputError(f"{name}={value!r} must be a number greater than 0, up to 1")
        self.workload, self.policy, self.attainment, self.tolerance = (
            workload,
            named_policy(policy),
            attainment,
            tolerance,
        )
        self.requests = len(workload) if requests is None else whole("requests", requests, 1)
        self.replications = whole("replications", replications, 1)
        seed = whole("seed", seed, 0, LARGEST_SEED)
        self.seeds = [int(s) for s in raw_stream(seed, "capacity", self.replications)]
        self.threads = os.cpu_count() or 1 if threads is None else whole("threads", threads, 1)
        self.simulations = 0

    def machine(self, memory: int | None, clock: str | Clock | None, max_batch: int | None, block: int) -> None:
        self.options: dict[str, Any] = {"clock": named_clock(clock), "max_batch": max_batch, "block": block}
        self.memory = memory
        block = whole("block", block, 1)
        enough = self.workload.extent.request
        self.least = enough + -enough % block  # no request needs more
        lower(self.workload, self.policy, self.least if memory is None else memory, 0, **self.options)

    def each(self, answer: Callable[[int], float], progress: Progress | None) -> FloatArray:
        with ThreadPoolExecutor(self.threads, thread_name_prefix="llmsched") as pool:
            answers = []
            for found in pool.map(answer, range(self.replications)):
                answers.append(found)
                if progress is not None:
                    progress(len(answers), self.replications)
        return np.array(answers)

    # One simulation ------------------------------------------------------------------------------------------------

    def drawn(self, k: int, rate: float | None) -> Workload:
        """The requests of replication k; the gaps between them scale with the rate and are else the same."""
        if rate is None:
            return self.workload
        requests = generate.resample(self.workload, self.requests, self.seeds[k])
        if math.isinf(rate):
            return requests
        return generate.poisson(requests, rate, self.seeds[k])

    def served(self, k: int, rate: float | None, memory: int) -> service.Service | None:
        """What replication k sees; None if the policy does not finish."""
        self.simulations += 1
        workload = self.drawn(k, rate)
        try:
            result = simulate(workload, self.policy, memory=memory, seed=self.seeds[k], record="tokens", **self.options)
        except NotFinishedError:
            return None
        return service.metrics(result, self.slo)

    def holds(self, k: int, rate: float | None, memory: int) -> bool:
        seen = self.served(k, rate, memory)
        return seen is not None and seen.goodput >= self.attainment

    # Bisection -----------------------------------------------------------------------------------------------------

    def rate_of(self, k: int) -> float:
        assert self.memory is not None
        memory = self.memory
        if self.holds(k, math.inf, memory):
            return math.inf
        rate = self.first_guess(k, memory)
        low = high = rate
        if self.holds(k, rate, memory):
            for _ in range(_DOUBLINGS):
                low, high = high, 2 * high
                if not self.holds(k, high, memory):
                    break
            else:
                return math.inf
        else:
            for _ in range(_DOUBLINGS):
                low, high = low / 2, low
                if self.holds(k, low, memory):
                    break
            else:
                return 0.0
        while high > low * (1 + self.tolerance):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if self.holds(k, middle, memory) else (low, middle)
        return low

    def first_guess(self, k: int, memory: int) -> float:
        """What is served per unit of time if all come at once; anything positive would do."""
        try:
            result = simulate(self.drawn(k, math.inf), self.policy, memory=memory, seed=self.seeds[k], **self.options)
        except NotFinishedError:
            return 1.0
        return self.requests / result.makespan

    def memory_of(self, k: int, rate: float | None) -> float:
        workload = self.drawn(k, rate)
        most = self.whole_blocks(
            int(workload.prompt.sum() + workload.output.sum()) + len(workload) * self.options["block"]
        )
        low, high = self.least - 1, self.least
        while not self.holds(k, rate, high):
            if high >= most:
                return math.inf
            low, high = high, min(2 * high, most)
        while high - low > max(1, int(self.tolerance * low)):
            middle = (low + high) // 2
            low, high = (low, middle) if self.holds(k, rate, middle) else (middle, high)
        return float(high)

    def whole_blocks(self, tokens: int) -> int:
        return max(self.least, tokens + -tokens % int(self.options["block"]))

    # The answer ----------------------------------------------------------------------------------------------------

    def capacity(
        self, quantity: Literal["rate", "memory"], each: FloatArray, memory: int | None, rate: float | None
    ) -> Capacity:
        value, half = mean_and_half_width(each)
        if quantity == "memory" and math.isfinite(value):
            value = float(math.ceil(value))
        attained, attained_half, stable = math.nan, math.nan, []
        if math.isfinite(value) and value > 0:
            at = (value, memory) if quantity == "rate" else (rate, int(value))
            seen = [self.served(k, at[0], at[1] or 0) for k in range(self.replications)]
            attained, attained_half = mean_and_half_width(np.array([0.0 if s is None else s.goodput for s in seen]))
            stable = [s.overload.stable_rate for s in seen if s is not None and s.overload is not None]
        return Capacity(
            quantity=quantity,
            value=value,
            low=max(0.0, value - half) if math.isfinite(half) else math.nan,
            high=value + half if math.isfinite(half) else math.nan,
            each=each,
            attained=attained,
            attained_ci95=attained_half,
            above_capacity=len(stable),
            stable_rate=float(np.mean(stable)) if stable else math.nan,
            slo=self.slo,
            attainment=self.attainment,
            policy=self.policy.name,
            memory=memory,
            rate=rate,
            requests=self.requests,
            simulations=self.simulations,
            unit="round" if self.options["clock"] is None else "s",
        )


def mean_and_half_width(values: FloatArray) -> tuple[float, float]:
    """The mean, and half the width of its 95 % confidence interval: NaN for a single value or an infinite one."""
    mean = float(values.mean())
    if len(values) < 2 or not math.isfinite(mean):
        return mean, math.nan
    return mean, t_quantile(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
