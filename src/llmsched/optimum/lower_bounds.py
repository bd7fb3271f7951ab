"""lower_bound(): proven lower bounds on the total latency of any schedule of the given requests.

What is bounded is the sum of latencies (completion − arrival), in the plain model, where a round lasts 1 (model.md), or
in seconds by a clock (`busy_seconds`).
Every bound below is a relaxation, so it holds for each kind of schedule that the relaxation contains:

*Non-preemptive*
    A request, once started, runs to its end. All bounds hold.
*Restart*
    A request may leave and begin again from nothing (every policy with ``resume="restart"``). All bounds hold: strike
    out all attempts but the last of each request. What is left is non-preemptive, no round needs more memory than
    before, and all completions are the same.
*Recompute*
    A request that leaves keeps its tokens (``resume="recompute"``, as `fcfs` does), so its rounds need not follow each
    other. In the round that generates its k-th token it still occupies s + k tokens of cache. Only the bounds named in
    `LowerBound.preemptive` hold; each docstring says why.

Notation: s prompt, o output, a arrival, M memory, v = s·o + o(o+1)/2 the token-rounds that a request occupies.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .._logging import logger
from ..errors import InputError
from ..fleet.replica import Replica, machines_of
from ..html_tables import number, table
from ..policy import Policy, named, policies
from ..progress import with_bar
from ..simulation import clock as clocks
from ..simulation.problem import problem_of
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload
from . import clock_costs
from .fluid_relaxation import fluid_schedule, total_delay, volumes
from .price_relaxation import Pricing, Progress, price_bounds
from .schedule import optimality_gap

if TYPE_CHECKING:
    from .schedule import Schedule

_log = logger(__name__)

#: Requests, machines and iterations, as they were asked for.
_Asked: TypeAlias = tuple[Workload, Sequence[Mapping[str, Any]], int | None]

_ROUNDING = 1e-9  # more than a sum of 10⁶ doubles can be wrong by, relatively


@dataclasses.dataclass(frozen=True)
class LowerBound:
    """What total latency cannot be beaten.

    Attributes
    ----------
    value
        For every non-preemptive schedule, and every policy with ``resume="restart"``. Rounded up to a whole number
        where all arrivals are whole, because total latency is one then.
    preemptive
        The same for every policy, those with ``resume="recompute"`` included. At most `value`.
    each
        Every bound that was computed, by name, not rounded.
    method
        The name of the largest.
    """

    value: float
    preemptive: float
    each: Mapping[str, float]
    method: str
    _asked: _Asked | None = dataclasses.field(default=None, repr=False, compare=False)

    def _repr_html_(self) -> str:
        rows = sorted(self.each.items(), key=lambda bound: -bound[1])
        note = f"of policies that keep what they evict (preemptive): {number(self.preemptive)}"
        caption = f"No total latency is below {number(self.value)} ({self.method})"
        return table(caption, rows, header=["bound", "total latency"], note=note)

    def of(self, policy: str | Policy) -> float:
        """The bound that holds for `policy`: `value` if it restarts what it evicts, else `preemptive`.

        With ``slots="processed"`` the one of requests that hold a token less in every round, which is computed then;
        with ``prefixes="cached"`` that of requests without prompts, as those may all be in the cache; with
        ``prompts="moved"`` no clock charges for prompts.
        """
        policy = named(policy)
        bound = self._of_processed if policy.slots == "processed" else self
        bound = self._of_cached if policy.prefixes == "cached" else bound
        bound = bound._of_moved if policy.prompts == "moved" else bound
        return bound.value if policy.resume == "restart" else bound.preemptive

    @functools.cached_property
    def _of_processed(self) -> LowerBound:
        """That of the same requests where a token takes its slot in the round after the one that generates it."""
        return self._as_processed(lambda prompt: np.maximum(prompt - 1, 0))

    @functools.cached_property
    def _of_cached(self) -> LowerBound:
        """That where nothing of a prompt need be processed, or be in the cache for one request alone."""
        return self._as_processed(np.zeros_like)

    @functools.cached_property
    def _of_moved(self) -> LowerBound:
        """That where nothing is charged for prompts."""
        if self._asked is None:
            return self._trivial()
        workload, machines, iterations = self._asked
        if all(machine["clock"] is None for machine in machines):
            return self
        charged = [{**machine, "clock": _charging_no_prompts(machine["clock"])} for machine in machines]
        return _bound_of(workload, charged, iterations)

    def _trivial(self) -> LowerBound:
        trivial = self.each["trivial"]
        return LowerBound(trivial, trivial, {"trivial": trivial}, "trivial")

    def _as_processed(self, counted: Callable[[IntArray], IntArray]) -> LowerBound:
        """That of requests with so much of their prompts."""
        if self._asked is None:
            return self._trivial()
        workload, machines, iterations = self._asked
        bare = bool((workload.prompt == 0).any())
        charged = [{**machine, "clock": _charging_processed(machine["clock"], bare)} for machine in machines]
        return _bound_of(workload.replace(prompt=counted(workload.prompt)), charged, iterations)

    def improved_by(self, schedule: Schedule) -> LowerBound:
        """With the bound that `optimal` proved, if that is better and arrivals are whole (else it compares fewer)."""
        if schedule.lower_bound <= self.value or not on_grid(schedule.workload):
            return self
        each = {**self.each, schedule.method: schedule.lower_bound}
        return dataclasses.replace(self, value=schedule.lower_bound, each=each, method=schedule.method)

    def gap(self, total_latency: float, policy: str | Policy = "hsf") -> float:
        """`total_latency` under `policy` is at most this share above the optimum: 0.02 is "at most 2 %"."""
        return optimality_gap(total_latency, self.of(policy))


def _charging_processed(clock: clocks.Clock | None, promptless: bool) -> clocks.Clock | None:
    """A clock that charges what `lower_bound` counts no more than `clock` does the tokens of slots="processed".

    `promptless`: some requests have no prompt.
    """
    if clock is None:
        return None
    if clock.context == "all":
        # A prompt is no context in the round that processes it: c for each of its tokens less, at most.
        charged = min(clock.per_context_token, clock.per_prompt_token)
        clock = dataclasses.replace(clock, per_context_token=charged, per_prompt_token=clock.per_prompt_token - charged)
        if not promptless:  # else what it has been recomputed with is a token less than what it was admitted with
            return clock
    # A round charges c·Σ(g − 1)⁺ where `lower_bound` takes c·Σg: c for each request more, at most.
    spared = clock.per_request if clock.base > 0 else clock.per_request / 2  # a clock may not stand still
    charged = min(clock.per_context_token, spared)
    return dataclasses.replace(clock, per_context_token=charged, per_request=max(clock.per_request - charged, 0.0))


def _charging_no_prompts(clock: clocks.Clock | None) -> clocks.Clock | None:
    return None if clock is None else dataclasses.replace(clock, per_prompt_token=0.0)


@with_bar("bounding", "iterations")
def lower_bound(
    workload: Workload,
    *,
    memory: int | None = None,
    iterations: int | None = None,
    clock: str | clocks.Clock | None = None,
    replicas: int | Sequence[Replica] = 1,
    progress: Progress | None = None,
) -> LowerBound:
    """The best of several proven lower bounds on the total latency of any schedule.

    The bounds are `trivial`, `area` (arXiv 2606.22327), `busy` (mean busy times, over time too) and `price` (the linear
    relaxation over start times, approached from below by prices for memory), in order of strength and cost; `price` is
    left out where one valuation alone would take more than half a second. 10⁶ requests take less than a second.

    With think times only `trivial` is left, as the arrivals that the others count from are not known.

    Of a fleet they hold for every router, as all its caches are taken for one: rounds of a replica begin at least 1
    apart, so that at any time, and in any round when times are rounded down, requests occupy no more than the caches
    together. By a clock see `busy_seconds`.

    Parameters
    ----------
    workload
        The requests. Predictions do not matter.
    memory
        M, tokens of cache (of each replica).
    iterations
        How often prices are improved; 0 for not at all. None: as often as a budget of a few seconds allows, at most
        200 times, counted in work and not in time: the result is always the same.
    clock
        Bounds in seconds.
    replicas
        A fleet: how many, or a `Replica` for each, with memory and clock of its own.
    progress
        Called now and then with (iterations done, iterations at most).

    Raises
    ------
    MemoryTooSmallError
        A request can never fit (names it, and the memory that would do).
    InputError
        memory, iterations or replicas is not usable; some replicas have a clock and others none.
    """
    if not isinstance(workload, Workload):
        raise InputError(f"lower_bound needs a llmsched.Workload, not {type(workload).__name__}")
    return _bound_of(workload, machines_of(replicas, policy="hsf", memory=memory, clock=clock), iterations, progress)


def _bound_of(
    workload: Workload,
    machines: Sequence[Mapping[str, Any]],
    iterations: int | None,
    progress: Progress | None = None,
) -> LowerBound:
    memories = [whole("memory", machine["memory"], 1) for machine in machines]
    timed = [machine["clock"] for machine in machines]
    problem_of(workload, policies["hsf"], max(memories), None)  # a request that fits none
    if iterations is not None:
        iterations = whole("iterations", iterations, 0)
    asked = workload, machines, iterations
    if not len(workload):
        return LowerBound(0.0, 0.0, {"trivial": 0.0}, "trivial")
    if workload.think is not None:
        least = trivial_bound(workload) if None in timed else _seconds(workload, memories, timed)[0] * (1 - _ROUNDING)
        return LowerBound(least, least, {"trivial": least}, "trivial", asked)
    if None not in timed:
        each = dict(zip(("trivial", "busy"), _seconds(workload, memories, timed), strict=True))
        method = max(each, key=lambda name: each[name])
        least = each[method] * (1 - _ROUNDING)
        return LowerBound(least, least, each, method, asked)
    if set(timed) != {None}:
        raise InputError("some replicas have a clock and others none: seconds and rounds cannot be bounded together")
    pooled = sum(memories)
    fluid = fluid_schedule(workload, pooled)
    each = {"trivial": trivial_bound(workload), "area": area_bound(workload, pooled), "busy": fluid.bound(workload)}
    for_all_policies = dict(each)
    by_prices = price_bounds(workload, pooled, fluid, iterations, progress)
    if by_prices is not None:
        each["price"], for_all_policies["price"] = by_prices
    method = max(each, key=lambda name: each[name])
    if _log.isEnabledFor(logging.DEBUG):
        _log.debug("bound: %s is the largest of %s", method, ", ".join(f"{k} {v:.7g}" for k, v in each.items()))
    rounded = [_rounded_up(workload, max(bounds.values())) for bounds in (each, for_all_policies)]
    return LowerBound(rounded[0], min(rounded), each, method, asked)


def trivial_bound(workload: Workload) -> float:
    """Σ o: a request takes as many rounds as it has tokens. Holds for every policy."""
    return float(workload.output.sum())


def area_bound(workload: Workload, memory: int) -> float:
    """(1/M) Σ_j Σ_{i≤j} v_(i), volumes ascending, counted from the first arrival (arXiv 2606.22327).

    Proof. When the j-th request completes, j requests have occupied at least the j smallest volumes, and no round
    offers more than M. Subtracting the arrivals turns completions into latencies. Rounds of a request need not follow
    each other for that: it holds for every policy.
    """
    if not len(workload):
        return 0.0
    since = workload.arrival - workload.arrival.min()
    return max(0.0, float(np.cumsum(np.sort(volumes(workload))).sum() / memory - since.sum()))


def busy_bound(workload: Workload, memory: int) -> float:
    """Mean busy times: Σ_j (B_j + o_j − m_j − a_j), the B_j being those of a fluid schedule, smallest volume first.

    Let B_j be the mean, weighted by the memory it occupies, of the times at which request j runs, and m_j the same
    mean counted from its start, were its rounds to follow each other: Σ_k (s+k)(k−½) / v over k = 1..o.

    Proof. (1) Completion C_j ≥ B_j + o_j − m_j: its k-th token is generated at least o−k rounds before the last, and
    the weighted mean of o − k + ½ is o − m; rounds that do not follow each other only make B_j smaller.
    (2) Σ_j B_j is at least that of the fluid schedule. For any set S of requests, memory serves S at a rate of at most
    M and not before they arrive, so Σ_{j∈S} v_j·B_j ≥ M·∫t over the times at which a server of rate M that never
    idles while work of S is there would serve S. Both sides of Σ_j B_j = Σ_i (1/v_(i) − 1/v_(i+1))·Σ_{j≤i} v_(j)·B_(j)
    are then least when for every i the i smallest volumes are served so: by the preemptive server that always works on
    the smallest volume there is (Goemans 1997, "Improved approximation algorithms for scheduling with release dates").
    If all arrive at once that is Σ_j (c_j − v_j/2)/M, with c_j the running sum of volumes in ascending order.

    Holds for every policy: nothing was assumed about the order of a request's rounds but that tokens are generated one
    after the other. For more than 100,000 requests that arrive over time, 1/v is rounded down to one of 32 levels,
    which keeps it valid and costs a few per cent.
    """
    return fluid_schedule(workload, memory).bound(workload) if len(workload) else 0.0


def busy_seconds(workload: Workload, memory: int, clock: clocks.Clock, replicas: int = 1) -> float:
    """`busy_bound` by a clock, in seconds: Σ_j (B_j + offset_j − a_j).

    Proof. That of `busy_bound`, with the seconds that a request takes of a single machine (`request_costs`) for its
    volume over M, and its offset for o − m. Nothing was assumed about the order of rounds or what an eviction loses,
    and caps on the batch, blocks and chunked prefill only rule schedules out: it holds for every policy.

    A fleet of R replicas gives R seconds a second. Whoever serves a request, it takes at least the least that it takes
    of any replica it fits, and completes at least the least offset after the mean time of that work: so Σ_j B_j is at
    least that of a server of rate R, which may even divide a request among replicas.
    """
    return _seconds(workload, [memory] * replicas, [clock] * replicas)[1] if len(workload) else 0.0


def _seconds(workload: Workload, memories: Sequence[int], timed: Sequence[clocks.Clock]) -> tuple[float, float]:
    """The bounds `trivial` and `busy` of a fleet, in seconds."""
    size = workload.prompt + workload.output
    least: list[FloatArray] = [np.full(len(workload), np.inf) for _ in clock_costs.RequestCosts._fields]
    for memory, clock in dict.fromkeys(zip(memories, timed, strict=True)):
        for best, cost in zip(least, clock_costs.request_costs(workload, memory, clock), strict=True):
            np.minimum(best, np.where(size <= memory, cost, np.inf), out=best)
    work, offset, alone = least
    since = workload.arrival - workload.arrival.min()
    return float(alone.sum()), total_delay(work / len(memories), since) + float(offset.sum())


def price_bound(workload: Workload, memory: int, prices: FloatArray) -> float:
    """Σ_j min_t [t + o_j − a_j + Σ_k λ_{t+k−1}·(s_j+k)] − M·Σ_τ λ_τ, for prices λ ≥ 0 of a token of cache in a round.

    Rounds τ = 0, 1, … are counted from the first arrival, k from 1 to o_j, t from the (rounded down) arrival of j. The
    largest value over all prices is that of the linear relaxation of the integer program over start times.

    Proof. Take any non-preemptive schedule. Paying λ_τ for every token occupied in round τ and getting M·λ_τ back costs
    it nothing or earns, since no round needs more than M; and each request pays at least its own cheapest start.
    Rounds may begin at fractional times, and after idle times with other fractions: rounding all of them down to whole
    numbers keeps them apart and the contiguous ones contiguous, which is why arrivals are rounded down as well (while
    the latency is still counted from max(t, a_j), which no start in round t can precede).

    If λ never rises with τ, it holds for every policy, those that recompute included: given its completion C, a request
    that may take breaks pays least for its k-th token in the latest round possible, C − o + k − 1: without a break.

    Prices are rounded to binary fractions such that all sums are exact: no rounding error can weaken the proof.
    """
    return Pricing(workload, memory, len(prices)).exact(np.maximum(np.asarray(prices, np.float64), 0))


def _rounded_up(workload: Workload, bound: float) -> float:
    """The bound less what rounding errors could have added; up to a whole number where total latency is one."""
    safe = bound - _ROUNDING * max(1.0, abs(bound))
    return float(math.ceil(safe)) if on_grid(workload) else max(safe, trivial_bound(workload))


def on_grid(workload: Workload) -> bool:
    """Whether all arrivals are whole rounds, so that every schedule starts requests at whole rounds."""
    return bool((workload.arrival == np.floor(workload.arrival)).all())
