"""Capacity: the highest arrival rate, the smallest cache, or the fewest replicas, at which a service keeps its targets.

    found = ls.capacity.highest_rate(workload, "fcfs", slo={"ttft": 1.0, "tpot": 0.1}, memory=16_492,
                                     clock="llama2-70b-2xa100")
    print(found)            # 5.65 requests/s (95 % CI 5.15 to 6.01): ...

"Keeps" means: at least a share of the requests (`attainment`, 90 % unless told otherwise) meets every target. What is
tried is simulated in several replications, each a random draw of requests and of the gaps between them, the same ones
every time. The answer is found by bisection on the mean share over the replications, and the ends of its confidence
interval by bisection on the ends of the confidence interval of that mean.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Literal

import numpy as np

from .._logging import logger
from ..errors import InputError, NotFinishedError
from ..fleet.replica import MOST_REPLICAS
from ..fleet.router import Router
from ..fleet.router import named as named_router
from ..fleet.simulate_fleet import check_columns, simulate_fleet
from ..html_tables import share, table
from ..policy import Policy
from ..policy import named as named_policy
from ..progress import with_bar
from ..simulation.blocks import down_to_blocks, whole_blocks
from ..simulation.clock import Clock
from ..simulation.clock import named as named_clock
from ..simulation.problem import problem_of
from ..simulation.result import Result
from ..simulation.run import simulate
from ..workloads import generate
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.columns import FloatArray
from ..workloads.random_streams import raw_stream
from ..workloads.workload import Workload
from . import service
from .confidence import mean_and_half_width

_log = logger(__name__)

__all__ = ["Capacity", "fewest_replicas", "highest_rate", "smallest_memory"]

#: Called now and then with (simulations done, simulations in all: a guess).
Progress = Callable[[int, int], None]

Quantity = Literal["rate", "memory", "replicas"]

_DOUBLINGS = 24  # a bracket that has grown or shrunk so often is taken for unbounded: one by one, or all at once
_USUALLY_TRIED = 25  # rates or memories that are tried


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Capacity:
    """What `highest_rate`, `smallest_memory` or `fewest_replicas` found.

    Attributes
    ----------
    quantity
        ``"rate"`` (requests per second; per round without a clock), ``"memory"`` (tokens of cache) or ``"replicas"``.
    value
        The answer. A rate is infinite if the targets hold even if all requests come at once, and 0 if they do not even
        if they come one by one; a memory is infinite if no memory is enough, a number of replicas if the most that
        were allowed are not.
    low, high
        95 % confidence interval: where the lower and the upper end of the interval of the mean share of requests that
        meet the targets (Student's t over replications) cross `attainment`. NaN for a single replication.
    attained, attained_ci95
        Share of the requests that meet every target at `value`, the mean over replications (NaN if `value` is 0 or
        infinite), and half the width of its 95 % confidence interval.
    probes
        All that was tried: (rate, memory or replicas, mean share, half the width of its interval), in order.
    above_capacity
        In how many replications requests pile up at `value` although the targets hold: these runs are too short, or
        the targets too loose, to show it, and a longer one would hold less.
    stable_rate
        Mean of the rates that those replications could serve for ever (see `llmsched.service.Overload`); else NaN.
    slo, attainment, policy, memory, rate, router, requests, replications
        What was asked: targets and the share that has to meet them, the policy's name, the cache and the rate (the one
        that was searched for is None), the router (None without replicas), requests in a replication, and replications.
    simulations
        How many it took.
    unit
        Of time: "s", or "round" without a clock.
    """

    quantity: Quantity
    value: float
    low: float
    high: float
    attained: float
    attained_ci95: float
    probes: tuple[tuple[float, float, float], ...]
    above_capacity: int
    stable_rate: float
    slo: Mapping[str, float]
    attainment: float
    policy: str
    memory: int | None
    rate: float | None
    requests: int
    replications: int
    simulations: int
    unit: str
    router: str | None = None

    def __repr__(self) -> str:
        return f"Capacity({self})"

    def _repr_html_(self) -> str:
        what = {"rate": f"requests/{self.unit}", "memory": "tokens of cache", "replicas": "replicas"}[self.quantity]
        rows = [(at, share(met), "–" if math.isnan(half) else f"± {half:.1%}") for at, met, half in sorted(self.probes)]
        note = f"all {what} that were tried" + ("; inf: all requests at once" if self.quantity == "rate" else "")
        if self.above_capacity:
            note += (
                f". This does not hold for ever: requests pile up in {self.above_capacity} of {self.replications} "
                "replications, which end before the targets break: ask again with longer ones (requests=)"
            )
        return table(str(self), rows, header=[what, "meet the targets", "95 % CI"], note=note)

    def __str__(self) -> str:
        what = {"rate": f"requests/{self.unit}", "memory": "tokens of cache", "replicas": "replicas"}[self.quantity]
        targets = ", ".join(f"{name} <= {limit:g}" for name, limit in self.slo.items())
        form = ".4g" if self.quantity == "rate" else ",.0f"
        spread = "" if math.isnan(self.low) else f" (95 % CI {self.low:{form}} to {self.high:{form}})"
        who = self.policy if self.router is None else f"{self.policy} behind {self.router}"
        return f"{self.value:{form}} {what}{spread}: {who}, {self.attainment:.0%} of requests with {targets}"

    def record(self) -> dict[str, Any]:
        """The answer as plain values; None for what there is not or is infinite."""
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        values |= {"slo": dict(self.slo), "probes": [[_finite(value) for value in probe] for probe in self.probes]}
        return {name: _finite(value) for name, value in values.items()}


@with_bar("searching", "simulations")
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
    prefill_budget: int | None = None,
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
        Requests to draw from, with replacement and each on its own: neither their arrivals nor their order count. A
        trace whose lengths drift over the day holds less than such draws.
    policy, memory, clock, max_batch, block, prefill_budget
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
        How near, as a share of it, an answer is closed in on.
    threads
        Simulations at a time; None for one per processor. The answer does not depend on it.
    progress
        Called now and then with (simulations done, simulations in all: a guess).

    Raises
    ------
    InputError
        A number is out of range, a target unknown or absent, or the workload empty.
    MissingPredictionError, MemoryTooSmallError
        As `llmsched.simulate`.
    """
    search = _Search(workload, policy, slo, attainment, requests, replications, seed, tolerance, threads)
    search.set_machine(memory, clock, max_batch, block, prefill_budget)
    return search.find("rate", memory, None, progress)


@with_bar("searching", "simulations")
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
    prefill_budget: int | None = None,
    requests: int | None = None,
    replications: int = 10,
    seed: int = 0,
    tolerance: float = 0.01,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """The smallest cache, in whole blocks, with which `attainment` of the requests meet every target of `slo`.

    More memory is taken to be no worse: what is found is the least that is enough on the way of a bisection.

    Parameters are those of `highest_rate`, and `rate`, that of the Poisson arrivals. Without a rate, requests arrive as
    the workload says and are not drawn at random: replications differ in how ties are broken alone.

    Raises what `highest_rate` raises.
    """
    search = _Search(workload, policy, slo, attainment, requests, replications, seed, tolerance, threads)
    search.set_machine(None, clock, max_batch, block, prefill_budget)
    search.set_rate(rate, requests)
    return search.find("memory", None, rate, progress)


@with_bar("searching", "simulations")
def fewest_replicas(
    workload: Workload,
    policy: str | Policy = "fcfs",
    *,
    slo: Mapping[str, float],
    memory: int,
    router: str | Router = "least-requests",
    rate: float | None = None,
    least: int = 1,
    most: int = 64,
    attainment: float = 0.9,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    requests: int | None = None,
    replications: int = 10,
    seed: int = 0,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Capacity:
    """The fewest replicas behind a router with which `attainment` of the requests meet every target of `slo`.

    More replicas are taken to be no worse: what is found is the fewest that are enough on the way of a bisection.
    One less was always tried, and is not; `Capacity.probes` shows whether it holds of the others that were.

    Parameters are those of `highest_rate`, `memory` and the other limits those of each replica, and what follows.
    Raises what `highest_rate` and `llmsched.simulate_fleet` raise.

    Parameters
    ----------
    router
        As for `llmsched.simulate_fleet`.
    rate
        That of the Poisson arrivals. Without one, requests arrive as the workload says and are not drawn at random:
        replications differ in what the router draws alone.
    least, most
        Between which numbers the answer is looked for.
    requests
        Requests in a replication, all replicas together; as many as in the workload unless told otherwise.
    """
    search = _Search(workload, policy, slo, attainment, requests, replications, seed, 1e-9, threads)
    search.set_machine(memory, clock, max_batch, block, prefill_budget)
    search.set_fleet(router, least, most)
    search.set_rate(rate, requests)
    return search.find("replicas", memory, rate, progress)


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
        self.router: Router | None = None
        self.tried: dict[float, tuple[FloatArray, FloatArray]] = {}  # shares and stable rates of the replications

    def set_machine(
        self,
        memory: int | None,
        clock: str | Clock | None,
        max_batch: int | None,
        block: int,
        prefill_budget: int | None,
    ) -> None:
        self.options: dict[str, Any] = {"clock": named_clock(clock), "max_batch": max_batch, "block": block}
        self.options |= {"prefill_budget": prefill_budget}
        block = whole("block", block, 1)
        enough = self.workload.extent.request
        self.least = whole_blocks(enough, block)  # every request fits
        problem_of(self.workload, self.policy, self.least if memory is None else memory, 0, **self.options)

    def set_fleet(self, router: str | Router, least: int, most: int) -> None:
        self.router = named_router(router)
        check_columns(self.workload, self.router)
        self.fewest = whole("least", least, 1, MOST_REPLICAS)
        self.most = whole("most", most, self.fewest, MOST_REPLICAS)
        classes = self.router.classes
        if classes > max(2, self.fewest):
            raise InputError(
                f"router {self.router.name} has {classes} classes of requests: give least={classes} or more"
            )

    def set_rate(self, rate: float | None, requests: int | None) -> None:
        if rate is not None:
            generate.poisson(self.workload.head(0), rate)  # refuses a rate that is none
        elif requests is not None:
            raise InputError("requests are drawn at random at a given rate only: give a rate, or leave requests out")

    def find(self, quantity: Quantity, memory: int | None, rate: float | None, progress: Progress | None) -> Capacity:
        with ThreadPoolExecutor(self.threads, thread_name_prefix="llmsched") as pool:

            def shares(tried: float) -> FloatArray:
                """Of each replication, the share of its requests that meet the targets."""
                if tried not in self.tried:
                    at: dict[str, Any] = {"rate": rate, "memory": memory, "replicas": None} | {quantity: tried}
                    seen = list(pool.map(lambda k: self.share_and_stable_rate(k, **at), range(self.replications)))
                    self.tried[tried] = (np.array([s for s, _ in seen]), np.array([r for _, r in seen]))
                    _log.info("%s %g: %s", quantity, tried, _met(self.tried[tried][0], self.attainment))
                    if progress is not None:
                        done = len(self.tried)
                        progress(done * self.replications, max(done + 1, _USUALLY_TRIED) * self.replications)
                return self.tried[tried][0]

            def holds(side: int) -> Callable[[float], bool]:
                """Whether the mean share (side 0), or an end of its interval (-1, 1), is enough."""

                def enough(tried: float) -> bool:
                    mean, half = mean_and_half_width(shares(tried))
                    return mean + (side * half if side else 0.0) >= self.attainment

                return enough

            find: Callable[[Callable[[float], bool]], float]
            if quantity == "replicas":
                least, most = self.fewest, self.most
                find = partial(_smallest, least=least, most=most, step=1, tolerance=self.tolerance)
            elif memory is not None:
                guess = self.first_guess(memory)
                find = partial(_largest, guess=guess, tolerance=self.tolerance)
            else:
                most = self.memory_for_all(rate)
                block = int(self.options["block"])
                find = partial(_smallest, least=self.least, most=most, step=block, tolerance=self.tolerance)
            value = find(holds(0))
            ends = [math.nan, math.nan]
            if self.replications > 1:
                ends = sorted([find(holds(-1)), find(holds(1))])
                ends = [min(ends[0], value), max(ends[1], value)]
            attained = (math.nan, math.nan)
            stable = np.array([])
            if 0 < value < math.inf:
                attained = mean_and_half_width(shares(value))
                stable = self.tried[value][1][~np.isnan(self.tried[value][1])]
        interval = "" if math.isnan(ends[0]) else f" (95 % CI {ends[0]:g} to {ends[1]:g})"
        _log.info("%s for %s: %g%s", quantity, self.policy.name, value, interval)
        probes = tuple((at, *mean_and_half_width(self.tried[at][0])) for at in sorted(self.tried))
        return Capacity(
            quantity=quantity,
            value=value,
            low=ends[0],
            high=ends[1],
            attained=attained[0],
            attained_ci95=attained[1],
            probes=probes,
            above_capacity=len(stable),
            stable_rate=float(stable.mean()) if len(stable) else math.nan,
            slo=self.slo,
            attainment=self.attainment,
            policy=self.policy.name,
            memory=memory,
            rate=rate,
            requests=self.requests,
            replications=self.replications,
            simulations=len(self.tried) * self.replications,
            unit="round" if self.options["clock"] is None else "s",
            router=None if self.router is None else self.router.name,
        )

    def requests_of(self, k: int, rate: float | None) -> Workload:
        """The requests of replication k; the gaps between them scale with the rate and are else the same."""
        if rate is None:
            return self.workload
        requests = generate.resample(self.workload, self.requests, self.seeds[k])
        return requests if math.isinf(rate) else generate.poisson(requests, rate, self.seeds[k])

    def share_and_stable_rate(
        self, k: int, rate: float | None, memory: float, replicas: float | None
    ) -> tuple[float, float]:
        """What replication k sees: the share that meets the targets (0 if it does not finish), and the stable rate if
        requests pile up, else NaN."""
        asked = self.options | {"memory": int(memory), "seed": self.seeds[k], "record": "tokens"}
        requests = self.requests_of(k, rate)
        result: Result
        try:
            if replicas is None:
                result = simulate(requests, self.policy, **asked)
            else:
                assert self.router is not None
                result = simulate_fleet(requests, self.policy, replicas=int(replicas), router=self.router, **asked)
        except NotFinishedError:
            return 0.0, math.nan
        seen = service.metrics(result, self.slo)
        return seen.goodput, seen.overload.stable_rate if seen.overload else math.nan

    def first_guess(self, memory: int) -> float:
        """Requests that are served per unit of time if all come at once; anything positive would do."""
        try:
            result = simulate(
                self.requests_of(0, math.inf), self.policy, memory=memory, seed=self.seeds[0], **self.options
            )
        except NotFinishedError:
            return 1.0
        return self.requests / result.makespan

    def memory_for_all(self, rate: float | None) -> int:
        """A memory that holds all requests of any replication at once."""
        block = int(self.options["block"])
        drawn = [self.requests_of(k, rate) for k in range(self.replications)]
        tokens = max(int(w.prompt.sum() + w.output.sum()) + block * len(w) for w in drawn)
        return max(self.least, down_to_blocks(tokens, block))


def share_text(mean: float, half: float) -> str:
    """A share with half the width of its interval, if that is known."""
    return f"{mean:.1%}" if math.isnan(half) else f"{mean:.1%} ± {half:.1%}"


def _met(shares: FloatArray, attainment: float) -> str:
    """What a probe found, for the log."""
    return (
        f"{share_text(*mean_and_half_width(shares))} of the requests meet the targets, {attainment:.1%} are asked for"
    )


def _largest(enough: Callable[[float], bool], guess: float, tolerance: float) -> float:
    """The largest rate that is enough, to `tolerance`; 0 or infinity if none or any is."""
    if enough(math.inf):
        return math.inf
    low = high = guess
    if enough(guess):
        for _ in range(_DOUBLINGS):
            low, high = high, 2 * high
            if not enough(high):
                break
        else:
            return math.inf
    else:
        for _ in range(_DOUBLINGS):
            low, high = low / 2, low
            if enough(low):
                break
        else:
            return 0.0
    while high > low * (1 + tolerance):
        middle = math.sqrt(low * high)
        low, high = (middle, high) if enough(middle) else (low, middle)
    return low


def _smallest(enough: Callable[[float], bool], least: int, most: int, step: int, tolerance: float) -> float:
    """The smallest number from `least` to `most`, multiples of `step`, that is enough, to `tolerance`; else infinity.

    Tokens beyond whole blocks are of no use, so that nothing between multiples is tried.
    """
    first, last = least // step, most // step
    low, high = first - 1, first
    while not enough(high * step):
        if high >= last:
            return math.inf
        low, high = high, min(2 * high, last)
    while high - low > max(1, int(tolerance * low)):
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle * step) else (middle, high)
    return float(high * step)


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value
