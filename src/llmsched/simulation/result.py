"""Result: what happened, and the metrics of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from .._core import total_difference
from .._version import version
from ..errors import number_of
from ..html_tables import curve, facts, share
from ..policy import Policy
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload
from .clock import Clock
from .latency import Latencies
from .timeline import Timeline
from .token_log import Tokens


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Result(Latencies):
    """What one simulation did. Arrays are over requests, in the workload's order.

    Times are in rounds, or in seconds with a clock.

    Attributes
    ----------
    workload
        What was scheduled.
    completion
        Time at which each request completed (float64).
    start
        Time of its first admission (float64).
    evictions
        How often it left before completing, by overflow or cap (int64).
    rounds
        Rounds that ran; idle jumps do not count.
    peak_memory
        Largest memory of any round, in tokens.
    wasted_tokens
        Tokens that were generated and lost (under ``resume="restart"``).
    policy, memory, seed, engine
        What decided, with how many tokens of cache, on which seed, simulated by which engine.
    clock, max_batch, block, prefill_budget
        As given to `simulate`.
    timeline
        Round by round, if asked for with ``record="timeline"``.
    tokens
        When every token was generated, if asked for with ``record="tokens"``.
    work
        Deterministic counters of what the compiled engine did (empty for the reference engine).
    idle
        Time in which no round ran, as nobody was there, before the last request completed.
    cached
        Tokens of each request that were in the cache at its first admission (int64), where prefixes are cached.
    """

    workload: Workload
    completion: FloatArray
    start: FloatArray
    evictions: IntArray
    rounds: int
    peak_memory: int
    wasted_tokens: int
    policy: Policy
    memory: int
    seed: int | None
    engine: str
    clock: Clock | None = None
    max_batch: int | None = None
    block: int = 1
    prefill_budget: int | None = None
    timeline: Timeline | None = None
    tokens: Tokens | None = None
    work: Mapping[str, int] = dataclasses.field(default_factory=dict)
    idle: float = 0.0
    cached: IntArray | None = None

    def __repr__(self) -> str:
        unit = "rounds" if self.clock is None else "s"
        return (
            f"Result({self.policy.name}, {number_of(len(self), 'request')}, memory {self.memory}: "
            f"mean latency {self.mean_latency:.6g} {unit}, makespan {self.makespan:.6g} {unit}, "
            f"evictions {self.total_evictions})"
        )

    def _repr_html_(self) -> str:
        return facts(self._caption, self._facts()) + self._cache_over_time()

    @property
    def _caption(self) -> str:
        requests, unit = number_of(len(self), "request"), "rounds" if self.clock is None else "seconds"
        return f"{self.policy.name}: {requests}, {self.memory:,} tokens of KV cache; times in {unit}"

    def _facts(self) -> dict[str, Any]:
        """What a notebook shows: names and values."""
        p50, p99 = (float(value) for value in self.percentile([50, 99]))
        return {
            "mean latency": self.mean_latency,
            "p50": p50,
            "p99": p99,
            "makespan": self.makespan,
            "rounds": self.rounds,
            "evictions": self.total_evictions,
            "wasted tokens": share(self.wasted_share),
            "peak of the cache": share(self.peak_share),
            "at most at once": self.max_batch,
            "tokens of a block": self.block if self.block > 1 else None,
            "tokens a round": self.prefill_budget,
            "seed": "none" if self.seed is None else str(self.seed),
        }

    def _cache_over_time(self) -> str:
        if self.timeline is None or not len(self.timeline):
            return ""
        unit = "rounds" if self.clock is None else "s"
        label = f"cache over {self.makespan:.6g} {unit}; dotted: {self.memory:,} tokens"
        return curve(self.timeline.memory_over_time(), self.memory, label)

    @property
    def provenance(self) -> dict[str, Any]:
        """What repeats this result: version, policy and its fields, memory, seed, engine, and the workload's source."""
        return {
            "llmsched": version,
            "numpy": np.__version__,
            "policy": self.policy.name,
            "fields": self.policy.fields(),
            "memory": self.memory,
            "seed": self.seed,
            "engine": self.engine,
            "clock": None if self.clock is None else self.clock.fields(),
            "max_batch": self.max_batch,
            "block": self.block,
            "prefill_budget": self.prefill_budget,
            "point": self._point,
            "source": dict(self.workload.source),
        }

    @property
    def _point(self) -> str | None:
        """Where the point predictions came from that the policy read, if it reads any."""
        if "point" not in self.policy.needs:
            return None
        return "middle of the interval" if self.workload.point is None else "given"

    @property
    def total_latency(self) -> float:
        """Sum of all latencies: TEL in the paper."""
        return total_difference(self.completion, self.workload.arrival)

    @property
    def total_evictions(self) -> int:
        """How often requests left before completing, all requests together."""
        return int(self.evictions.sum())

    @property
    def wasted_share(self) -> float:
        """Share of all generated tokens that was lost, from 0 to 1."""
        return float(wasted_share(self.wasted_tokens, int(self.workload.output.sum())))

    @property
    def hit_share(self) -> float:
        """Share of all prompt tokens that were in the cache at the first admission, 0 to 1; 0 where none may be."""
        prompts = int(self.workload.prompt.sum())
        return 0.0 if self.cached is None or not prompts else int(self.cached.sum()) / prompts

    @property
    def peak_share(self) -> float:
        """Largest memory of any round as a share of the cache, from 0 to 1."""
        return self.peak_memory / self.memory

    def percentile(self, q: npt.ArrayLike) -> Any:
        """The q-th percentile(s) of latency, 0 <= q <= 100, linearly interpolated; NaN when there is no request."""
        if not len(self):
            return np.full(np.shape(q), np.nan)[()]
        return np.percentile(self.latency, np.asarray(q))

    def summary(self) -> dict[str, Any]:
        """The totals as a plain dict of numbers (and the policy's name), ready for JSON or a dataframe row."""
        p50, p90, p99 = (float(value) for value in self.percentile([50, 90, 99]))
        return {
            "policy": self.policy.name,
            "memory": self.memory,
            "seed": self.seed,
            "requests": len(self),
            "completed": len(self),
            "total_latency": self.total_latency,
            "mean_latency": self.mean_latency,
            "p50_latency": p50,
            "p90_latency": p90,
            "p99_latency": p99,
            "max_latency": float(self.latency.max()) if len(self) else float("nan"),
            "makespan": self.makespan,
            "rounds": self.rounds,
            "evictions": self.total_evictions,
            "evicted_requests": int(np.count_nonzero(self.evictions)),
            "wasted_tokens": self.wasted_tokens,
            "wasted_share": self.wasted_share,
            "peak_memory": self.peak_memory,
            "peak_share": self.peak_share,
            **({} if self.cached is None else {"hit_share": self.hit_share}),
        }

    def columns(self) -> dict[str, np.ndarray[Any, Any]]:
        """One row per request: the workload's columns, then start, completion, latency and evictions."""
        happened = {name: getattr(self, name) for name in ("start", "completion", "latency", "evictions")}
        happened |= {} if self.cached is None else {"cached": self.cached}
        return {**self.workload.columns(), **happened}


def wasted_share(wasted_tokens: npt.ArrayLike, output_tokens: npt.ArrayLike) -> FloatArray:
    """Share of all generated tokens that was lost, from 0 to 1; 0 where none was generated. Numbers or arrays."""
    wasted = np.asarray(wasted_tokens, np.float64)
    generated = wasted + np.asarray(output_tokens)
    share: FloatArray = np.divide(wasted, generated, out=np.zeros_like(generated), where=generated > 0)
    return share


def of_fields(**fields: Any) -> Result:
    """``Result(**fields)``, in a ninth of the time: a frozen dataclass sets its fields one by one."""
    made = object.__new__(Result)
    made.__dict__.update(fields)
    return made
