"""The fluid relaxation behind `lower_bounds.busy_bound`: one machine of rate M, preemptive, smallest volume first."""

from __future__ import annotations

import heapq
import math
from typing import NamedTuple

import numpy as np

from ..workloads.columns import FloatArray
from ..workloads.workload import Workload

_EXACT_FLUID = 100_000  # requests; beyond it, volumes are grouped into so many levels
_LEVELS = 32


def volumes(workload: Workload) -> FloatArray:
    """v = s·o + o(o+1)/2 of each request: the token-rounds it occupies."""
    prompt, output = workload.prompt.astype(np.float64), workload.output.astype(np.float64)
    return prompt * output + output * (output + 1) / 2


def busy_offsets(workload: Workload) -> FloatArray:
    """m = Σ_k (s+k)(k−½) / v: how long after its start the memory-weighted middle of each request lies, in rounds."""
    s, o = workload.prompt.astype(np.float64), workload.output.astype(np.float64)
    first = o * (o + 1) / 2
    second = o * (o + 1) * (2 * o + 1) / 6
    return (s * o * o / 2 + second - first / 2) / (s * o + first)


class FluidSchedule(NamedTuple):
    """Σ_j (B_j − a_j) of the fluid schedule, and how many requests' worth of work remains in the busy period, by time.

    `times` (from the first arrival) and `remaining` are the corners of a piecewise linear function; empty if not known.
    """

    total_delay: float
    times: FloatArray
    remaining: FloatArray

    def bound(self, workload: Workload) -> float:
        return float(self.total_delay + (workload.output - busy_offsets(workload)).sum())

    def prices(self, memory: int, horizon: int) -> FloatArray:
        """Prices under which every request is indifferent between the times at which the fluid schedule serves it."""
        middle = np.arange(horizon) + 0.5
        prices: FloatArray = np.interp(middle, self.times, self.remaining, right=0.0) / memory
        return prices


def fluid_schedule(workload: Workload, memory: int) -> FluidSchedule:
    """The fluid schedule, in rounds; where very many requests arrive over time its `total_delay` alone, from below."""
    volume, since = volumes(workload), workload.arrival - workload.arrival.min()
    if not since.any():
        volume.sort()
        done = np.cumsum(volume) / memory
        remaining = np.arange(len(volume), -1.0, -1.0)
        return FluidSchedule(float((done - volume / (2 * memory)).sum()), np.concatenate([[0.0], done]), remaining)
    if len(workload) > _EXACT_FLUID:
        return FluidSchedule(total_delay_by_levels(volume / memory, since), np.empty(0), np.empty(0))
    return fluid_schedule_over_time(volume / memory, since)


def total_delay(work: FloatArray, since: FloatArray) -> float:
    """Σ_j (B_j − a_j) over requests that take `work` (rounds or seconds) of the whole memory, from below if many.

    `since`: when each arrives, counted from the first arrival.
    """
    if not since.any():
        work = np.sort(work)
        return float((np.cumsum(work) - work / 2).sum())
    if len(work) > _EXACT_FLUID:
        return total_delay_by_levels(work, since)
    return fluid_schedule_over_time(work, since).total_delay


def fluid_schedule_over_time(work: FloatArray, arrival: FloatArray) -> FluidSchedule:
    """The fluid schedule of requests that take `work` rounds of the whole memory, arriving over time."""
    order = np.argsort(arrival, kind="stable")
    sizes, arrival_times = work[order].tolist(), arrival[order].tolist()
    arrived: list[tuple[float, float]] = []  # (whole work, work that remains) of what has arrived: smallest work first
    begins: list[float] = []
    ends: list[float] = []
    whole_work: list[float] = []
    now, k, n = 0.0, 0, len(sizes)
    while arrived or k < n:
        if not arrived:
            now = max(now, arrival_times[k])
        while k < n and arrival_times[k] <= now:
            heapq.heappush(arrived, (sizes[k], sizes[k]))
            k += 1
        size, remaining = arrived[0]
        until = min(now + remaining, arrival_times[k] if k < n else math.inf)
        begins.append(now)
        ends.append(until)
        whole_work.append(size)
        if until >= now + remaining:
            heapq.heappop(arrived)
        else:
            heapq.heapreplace(arrived, (size, remaining - (until - now)))
        now = until
    begin, end, size_of = np.array(begins), np.array(ends), np.array(whole_work)
    share = (end - begin) / size_of
    total_delay = float((share * (begin + end) / 2).sum() - arrival.sum())
    return FluidSchedule(total_delay, *_remaining_in_busy_period(begin, end, share))


def _remaining_in_busy_period(begin: FloatArray, end: FloatArray, share: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Corners of the function t -> shares served from t to the end of its busy period."""
    closes = np.ones(len(begin), bool)
    closes[:-1] = begin[1:] > end[:-1]
    done = np.cumsum(share)
    last = np.flatnonzero(closes)
    at_end = done[last[np.cumsum(closes) - closes]]
    corners = np.column_stack([begin, end]).ravel()
    remaining = np.column_stack([at_end - done + share, at_end - done]).ravel()
    return corners, remaining


def total_delay_by_levels(work: FloatArray, arrival: FloatArray) -> float:
    """Σ_j (B_j − a_j) from below, with 1/v rounded down to one of a few levels (see `busy_bound`)."""
    order = np.argsort(arrival, kind="stable")
    size, come = work[order], arrival[order]
    levels = np.unique(np.quantile(size, np.linspace(0, 1, _LEVELS), method="higher"))
    weight = 1 / levels - np.append(1 / levels[1:], 0.0)
    total = 0.0
    for level, drop in zip(levels, weight, strict=True):
        of_level = size <= level
        p, a = size[of_level], come[of_level]
        served = np.cumsum(p)
        done = served + np.maximum.accumulate(a - served + p)  # first come first served: never idle, and easy
        total += drop * float((p * (done - p / 2 - a)).sum())
    return total
