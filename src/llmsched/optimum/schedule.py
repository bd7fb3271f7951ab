"""Schedule: when every request starts, once and for good, and how far from the best possible that can be."""

from __future__ import annotations

import dataclasses
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import InputError, WorkloadError, number_of
from ..html_tables import facts, share
from ..policy import Policy
from ..simulation.latency import Latencies
from ..simulation.result import Result
from ..simulation.run import simulate
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload

# Starts of one busy period lie whole rounds apart; doubles hold that to far better than this.
_PHASE = 1e-6

#: Runs a schedule whose starts are given as arrivals: all fit, so nothing is ever put off or evicted.
REPLAY = Policy(order="arrival", reserve="output", evict="progress", refine="none", fill="skip")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Schedule(Latencies):
    """A non-preemptive schedule: request i runs from ``start[i]`` to ``start[i] + output[i]`` without a break.

    Attributes
    ----------
    workload, memory
        What is scheduled, with how many tokens of cache.
    start
        Start of each request (float64, rounds), in the workload's order.
    lower_bound
        No non-preemptive schedule has a smaller total latency (see `lower_bounds.LowerBound` for what else it covers).
    proven
        Whether the total latency is that of an optimum.
    method
        What found it.
    seconds
        How long that took. Not part of what repeats.
    effort
        Deterministic counts of the work: iterations, states, linear programs.
    """

    workload: Workload
    memory: int
    start: FloatArray
    lower_bound: float
    proven: bool
    method: str
    seconds: float
    effort: dict[str, int] = dataclasses.field(default_factory=dict)

    def __repr__(self) -> str:
        how = "optimal" if self.proven else f"at most {100 * self.gap:.3g} % above optimal"
        return (
            f"Schedule({self.method}, {len(self)} requests, memory {self.memory}: "
            f"total latency {self.total_latency:.10g}, {how})"
        )

    def _repr_html_(self) -> str:
        values = {
            "mean latency": self.mean_latency,
            "total latency": self.total_latency,
            "lower bound": self.lower_bound,
            "gap": "none: optimal" if self.proven else f"at most {share(self.gap)}",
            "peak of the cache": share(self.peak_memory / self.memory),
            "found in seconds": self.seconds,
        }
        caption = f"Schedule by {self.method}: {number_of(len(self), 'request')}, {self.memory:,} tokens of KV cache"
        return facts(f"{caption}; times in rounds", values)

    @cached_property
    def completion(self) -> FloatArray:
        """Completion of each request: start + output."""
        return self.start + self.workload.output

    @property
    def total_latency(self) -> float:
        """Sum of all latencies."""
        return total_latency(self.workload, self.start)

    @property
    def gap(self) -> float:
        """How far the total latency is above the lower bound, as a share of the bound: 0.02 is "at most 2 % above"."""
        return optimality_gap(self.total_latency, self.lower_bound)

    @cached_property
    def peak_memory(self) -> int:
        """Largest memory of any round, in tokens, recomputed from the starts alone."""
        return peak_memory(self.workload, self.start)

    def check(self) -> Schedule:
        """The schedule itself, if it is possible: recomputed from starts and lengths, without any engine.

        Raises
        ------
        WorkloadError
            A request starts before it arrives, runs out of step with the others, or a round needs too much memory.
        """
        if self.peak_memory > self.memory:
            raise WorkloadError(
                f"the schedule needs {self.peak_memory} tokens in one round, but memory is {self.memory}"
            )
        return self

    def verified(self) -> Schedule:
        """The schedule itself, after `check` and `replay`: both say that it is possible."""
        self.replay()
        return self.check()

    def replay(self) -> Result:
        """The schedule run by the engine, which tests every round's memory itself (model.md, section 4).

        Idle times are cut to nothing and rounds counted from 0, so times are not those of the schedule; who runs with
        whom, and the memory of every round, are. Raises WorkloadError if the engine does anything else.
        """
        at = start_rounds(self.workload, self.start).astype(np.float64)
        result = simulate(self.workload.replace(arrival=at), REPLAY, memory=self.memory, seed=None)
        if len(self) and not np.array_equal(result.start, at):
            i = int(np.argmax(result.start != at))
            raise WorkloadError(f"the engine starts request {i} in round {result.start[i]:g}, not {at[i]:g}", i)
        return result

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per request: the workload's columns, then start, completion and latency."""
        happened = {name: getattr(self, name) for name in ("start", "completion", "latency")}
        return {**self.workload.columns(), **happened}


def total_latency(workload: Workload, start: npt.ArrayLike) -> float:
    """Sum of start + output − arrival; exact where starts and arrivals are whole."""
    waited = np.asarray(start, np.float64) - workload.arrival
    return float(waited.sum() + workload.output.sum())


def start_rounds(workload: Workload, start: npt.ArrayLike) -> IntArray:
    """The number of the round in which each request starts; rounds are counted from 0, idle ones left out.

    Rounds last 1 and follow each other without a break while anything runs (model.md, section 2), so the starts of one
    busy period lie whole rounds apart. Raises WorkloadError if they do not, or if a request starts before it arrives.
    """
    at = np.asarray(start, np.float64)
    if at.shape != workload.output.shape:
        raise InputError(f"a schedule of {len(workload)} requests needs as many starts, not an array of {at.shape}")
    if not len(at):
        return np.empty(0, np.int64)
    early = ~(at >= workload.arrival)
    if early.any():
        i = int(np.argmax(early))
        raise WorkloadError(f"request {i} starts at {at[i]:.10g}, before it arrives at {workload.arrival[i]:.10g}", i)
    order = np.argsort(at, kind="stable")
    begin = at[order]
    until = np.maximum.accumulate(begin + workload.output[order])
    opens = np.ones(len(at), bool)
    opens[1:] = begin[1:] > until[:-1] - _PHASE
    period = np.cumsum(opens) - 1
    first = np.flatnonzero(opens)
    offset = begin - begin[first][period]
    step = np.rint(offset)
    astray = np.abs(offset - step) > _PHASE
    if astray.any():
        i = int(order[np.argmax(astray)])
        raise WorkloadError(f"request {i} starts at {at[i]:.10g}, between two rounds of those that run", i)
    last = np.append(first[1:], len(at)) - 1
    length = np.rint(until[last] - begin[first]).astype(np.int64)
    origin = np.cumsum(length) - length
    round_number = np.empty(len(at), np.int64)
    round_number[order] = origin[period] + step.astype(np.int64)
    return round_number


def peak_memory(workload: Workload, start: npt.ArrayLike) -> int:
    """Largest memory of any round of the schedule, in tokens: the invariant of model.md, section 2, by itself.

    A request that starts in round t occupies s + (τ − t) + 1 tokens in round τ. Between two events (a start or a
    completion) the sum over those that run grows linearly, so the last round before each event is its largest.
    """
    if not len(workload):
        return 0
    begin = start_rounds(workload, start)
    end = begin + workload.output
    base = workload.prompt + 1 - begin  # memory in round τ is τ + base
    events = np.unique(np.concatenate([begin, end]))
    running = np.zeros(len(events), np.int64)
    offset = np.zeros(len(events), np.int64)
    for when, sign in ((begin, 1), (end, -1)):
        at = np.searchsorted(events, when)
        np.add.at(running, at, sign)
        np.add.at(offset, at, sign * base)
    running, offset = np.cumsum(running), np.cumsum(offset)
    return int((running[:-1] * (events[1:] - 1) + offset[:-1]).max())


def optimality_gap(total_latency: float, bound: float) -> float:
    """How far `total_latency` is above `bound`, as a share of it; 0 where both are 0."""
    return max(0.0, total_latency - bound) / bound if bound > 0 else 0.0
