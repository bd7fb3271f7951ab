"""FleetResult: what happened on all replicas together, and on each."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np

from ..errors import InputError, number_of
from ..simulation.result import Result
from ..workloads.columns import FloatArray, IntArray
from .router import Router


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class FleetResult(Result):
    """What a fleet did: a `Result` over all of its requests, whose memory is the sum of its replicas'.

    `peak_memory` is the largest of any replica, `rounds` and `wasted_tokens` are sums, `policy` and `clock` are those
    of the first replica; `idle` is the sum over the replicas, each up to its own last completion.

    Attributes
    ----------
    replica
        Which replica took each request (int64, from 0).
    router
        Who chose it.
    outcomes
        What each replica reports of itself.
    """

    replica: IntArray = dataclasses.field(default_factory=lambda: np.empty(0, np.int64))
    router: Router = dataclasses.field(default_factory=Router)
    outcomes: Sequence[Outcome] = ()

    def __repr__(self) -> str:
        unit = "rounds" if self.clock is None else "s"
        return (
            f"FleetResult({number_of(len(self.outcomes), 'replica')}, {self.router.name}, {self.policy.name}, "
            f"{number_of(len(self), 'request')}: mean latency {self.mean_latency:.6g} {unit}, makespan "
            f"{self.makespan:.6g} {unit}, evictions {self.total_evictions})"
        )

    @cached_property
    def replicas(self) -> tuple[Result, ...]:
        """The result of each replica: what `simulate` says of the requests that it took, with the seed that it names.

        Requests are in the workload's order, without think times: they arrive when they did. The seed is None, unless
        there is but one replica: equals are taken in that order, as how many there will be is not known before the last
        has come.
        """
        return tuple(self._part(k) for k in range(len(self.outcomes)))

    def requests_of(self, replica: int) -> IntArray:
        """The indices of the requests that a replica took, ascending. Raises InputError if there is no such replica."""
        if not 0 <= replica < len(self.outcomes):
            raise InputError(f"there is no replica {replica}: they are 0 to {len(self.outcomes) - 1}")
        return self._taken[replica]

    @cached_property
    def _taken(self) -> list[IntArray]:
        order = np.argsort(self.replica, kind="stable")
        ends = np.cumsum(np.bincount(self.replica, minlength=len(self.outcomes)))
        return np.split(order, ends[:-1])

    def _part(self, k: int) -> Result:
        at, outcome = self._taken[k], self.outcomes[k]
        cached = None if self.cached is None or outcome.policy.prefixes == "none" else self.cached[at]
        completion, start, evictions = self.completion[at], self.start[at], self.evictions[at]
        for array in (completion, start, evictions):
            array.flags.writeable = False
        return Result(
            workload=self.workload.take(at).replace(think=None),
            cached=cached,
            completion=completion,
            start=start,
            evictions=evictions,
            engine=self.engine,
            seed=self.seed if len(self.outcomes) == 1 else None,
            **{name: getattr(outcome, name) for name in _OF_A_REPLICA},
        )

    @cached_property
    def load(self) -> IntArray:
        """Requests that each replica took."""
        return np.bincount(self.replica, minlength=len(self.outcomes))

    @cached_property
    def busy(self) -> FloatArray:
        """Share of the fleet's makespan in which each replica ran, from 0 to 1: its utilisation."""
        busy = np.array([outcome.busy for outcome in self.outcomes])
        return busy / self.makespan if self.makespan > 0 else np.zeros(len(busy))

    @property
    def peak_share(self) -> float:
        """Largest memory of any round as a share of its replica's cache, from 0 to 1."""
        return max((outcome.peak_memory / outcome.memory for outcome in self.outcomes), default=0.0)

    def imbalance(self, points: int = 1000) -> tuple[FloatArray, FloatArray]:
        """(times, imbalance): the most requests at a replica over the mean of all, at evenly spaced times.

        1 says that all have as many; as many as there are replicas, that one has all. NaN where there are none.
        """
        times = np.linspace(0.0, self.makespan, points)
        there = self.requests_at(times)
        mean = there.mean(axis=0)
        return times, np.divide(there.max(axis=0), mean, out=np.full(points, np.nan), where=mean > 0)

    def requests_at(self, times: FloatArray) -> IntArray:
        """Requests at each replica (rows) at each of the times (columns): arrived and not complete."""
        rows = []
        for at in self._taken:
            came = np.searchsorted(np.sort(self.workload.arrival[at]), times, side="right")
            rows.append(came - np.searchsorted(np.sort(self.completion[at]), times, side="right"))
        return np.array(rows, dtype=np.int64).reshape(len(self.outcomes), len(times))

    @property
    def provenance(self) -> dict[str, Any]:
        """What repeats this result: that of `Result`, the router's fields, and the replicas."""
        replicas = [
            {"policy": o.policy.name, "memory": o.memory, "block": o.block, "max_batch": o.max_batch,
             "prefill_budget": o.prefill_budget, "clock": None if o.clock is None else o.clock.fields()}
            for o in self.outcomes
        ]  # fmt: skip
        return super().provenance | {"router": self.router.fields(), "replicas": replicas}

    def summary(self) -> dict[str, Any]:
        """That of `Result`, then the router, the number of replicas, and the least and the most busy of them."""
        busy = self.busy
        return super().summary() | {
            "router": self.router.name,
            "replicas": len(self.outcomes),
            "least_busy": float(busy.min(initial=1.0)),
            "most_busy": float(busy.max(initial=0.0)),
            "most_requests_share": float(self.load.max() / len(self)) if len(self) else float("nan"),
        }

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per request: the columns of `Result`, then `replica`."""
        return super().columns() | {"replica": self.replica}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one replica did; attributes as in `Result`, and `busy`, the time in which rounds ran."""

    policy: Any
    memory: int
    clock: Any
    max_batch: int | None
    block: int
    prefill_budget: int | None
    rounds: int
    peak_memory: int
    wasted_tokens: int
    busy: float
    timeline: Any
    tokens: Any
    work: Any
    idle: float


_OF_A_REPLICA = tuple(f.name for f in dataclasses.fields(Outcome) if f.name != "busy")
