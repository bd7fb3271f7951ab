"""stream(): a simulation of any length in the memory of those requests that are there at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._logging import logger
from ..errors import InputError, WorkloadError, nearest
from ..policy import Policy
from ..progress import with_bar
from ..simulation.clock import Clock
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload
from .failures import lives_of
from .replica import Replica, machines_of, replicas_of
from .result import Outcome
from .router import Router
from .router import named as named_router
from .simulate_fleet import Run, check_columns

_log = logger(__name__)

#: Quantiles are within this of the true ones, as a share.
RELATIVE_ERROR = 0.001
_BASE = math.log1p(2 * RELATIVE_ERROR)
_SMALLEST = 1e-9  # seconds or rounds; what is less counts as 0
_BINS = 25_000

#: Called now and then with (requests sent, requests completed).
StreamProgress = Callable[[int, int], None]


class Quantiles:
    """A histogram of positive numbers whose bins grow by 0.2 %: any quantile to 0.1 % of itself."""

    def __init__(self) -> None:
        self.counts = np.zeros(_BINS, np.int64)

    def add(self, values: FloatArray) -> None:
        """Count these."""
        with np.errstate(divide="ignore"):
            bins = np.log(values / _SMALLEST) / _BASE
        bins = np.clip(np.where(values < _SMALLEST, 0, np.floor(np.maximum(bins, 0)) + 1), 0, _BINS - 1)
        self.counts += np.bincount(bins.astype(np.int64), minlength=_BINS)

    def value(self, q: float) -> float:
        """The smallest value that a share q (0 to 1) of all does not exceed; NaN if there are none."""
        total = int(self.counts.sum())
        if not total:
            return math.nan
        bin = int(np.searchsorted(np.cumsum(self.counts), max(1, math.ceil(q * total))))
        return 0.0 if bin == 0 else _SMALLEST * math.exp(_BASE * (bin - 0.5))


@dataclasses.dataclass(eq=False, repr=False)
class StreamResult:
    """What is left of a stream: exact counts, sums and extremes, and quantiles to `RELATIVE_ERROR`.

    Times are in seconds, or in rounds without a clock.

    Attributes
    ----------
    requests
        Requests that came; all of them completed.
    total_latency, max_latency, total_wait
        Sum and maximum of completion minus arrival; sum of first admission minus arrival.
    makespan
        When the last one completed.
    evictions, evicted_requests, output_tokens, wasted_tokens, rounds
        As in `Result`, over all replicas.
    load
        Requests that each replica took.
    outcomes
        What each replica did.
    most_at_once
        Requests for which there was ever memory at once: what the memory of the simulation grows with.
    """

    requests: int = 0
    total_latency: float = 0.0
    max_latency: float = 0.0
    total_wait: float = 0.0
    makespan: float = 0.0
    evictions: int = 0
    evicted_requests: int = 0
    output_tokens: int = 0
    wasted_tokens: int = 0
    rounds: int = 0
    load: IntArray = dataclasses.field(default_factory=lambda: np.zeros(0, np.int64))
    outcomes: Sequence[Outcome] = ()
    most_at_once: int = 0
    unit: str = "rounds"
    _latency: Quantiles = dataclasses.field(default_factory=Quantiles)
    _wait: Quantiles = dataclasses.field(default_factory=Quantiles)

    def __repr__(self) -> str:
        return (
            f"StreamResult({self.requests:,} requests: mean latency {self.mean_latency:.6g} {self.unit}, p99 "
            f"{self.percentile(99):.4g} {self.unit}, makespan {self.makespan:.6g} {self.unit}, evictions "
            f"{self.evictions})"
        )

    @property
    def mean_latency(self) -> float:
        """Mean latency of a request; NaN when there is none."""
        return self.total_latency / self.requests if self.requests else math.nan

    @property
    def mean_wait(self) -> float:
        """Mean time from arrival to the first admission; NaN when there is none."""
        return self.total_wait / self.requests if self.requests else math.nan

    def percentile(self, q: float, metric: str = "latency") -> float:
        """The q-th percentile (0 to 100) of ``"latency"`` or ``"wait"``, to `RELATIVE_ERROR`.

        Raises InputError for another metric, or unless 0 <= q <= 100.
        """
        known = {"latency": self._latency, "wait": self._wait}
        if metric not in known:
            raise InputError(f"a stream keeps no {metric!r}; {nearest(str(metric), known)}")
        if not 0 <= q <= 100:
            raise InputError(f"percentile {q!r} is out of range, expected 0 to 100")
        return known[metric].value(q / 100)

    def summary(self) -> dict[str, Any]:
        """The totals as a plain dict of numbers, ready for JSON or a dataframe row."""
        numbers = {
            f.name: getattr(self, f.name)
            for f in dataclasses.fields(self)
            if f.name not in ("load", "outcomes", "unit") and not f.name.startswith("_")
        }
        quantiles = {f"p{q}_latency": self.percentile(q) for q in (50, 90, 99)}
        busy = [outcome.busy / self.makespan for outcome in self.outcomes] if self.makespan else []
        return numbers | quantiles | {
            "mean_latency": self.mean_latency,
            "mean_wait": self.mean_wait,
            "quantile_error": RELATIVE_ERROR,
            "replicas": len(self.outcomes),
            "least_busy": min(busy, default=0.0),
            "most_busy": max(busy, default=0.0),
        }  # fmt: skip

    def take(self, done: npt.NDArray[Any]) -> None:
        """Count requests that completed, records of `_fleet.COMPLETED`."""
        if not len(done):
            return
        latency, wait = done["completion"] - done["arrival"], done["start"] - done["arrival"]
        self.total_latency += math.fsum(latency.tolist())
        self.total_wait += math.fsum(wait.tolist())
        self.max_latency = max(self.max_latency, float(latency.max()))
        self.makespan = max(self.makespan, float(done["completion"].max()))
        self.evictions += int(done["evictions"].sum())
        self.evicted_requests += int(np.count_nonzero(done["evictions"]))
        self.output_tokens += int(done["output"].sum())
        self.load += np.bincount(done["replica"], minlength=len(self.load))
        self._latency.add(latency)
        self._wait.add(wait)


@with_bar("simulating", "requests", lambda sent, completed: (completed, None))
def stream(
    requests: Iterable[Workload],
    policy: str | Policy = "amin",
    *,
    replicas: int | Sequence[Replica] = 1,
    router: str | Router = "least-requests",
    memory: int | None = None,
    seed: int | None = 0,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    max_rounds: int | None = None,
    completed: Callable[[npt.NDArray[Any]], None] | None = None,
    progress: StreamProgress | None = None,
) -> StreamResult:
    """Schedule requests that come in chunks, in order of arrival, and keep no more than those that are there.

    The same rounds as `simulate_fleet` of all of them together, with one replica as `simulate` with ``seed=None``.

    Parameters
    ----------
    requests
        Chunks of requests, workloads that are made as they are asked for: `llmsched.generate.chunks`, or a generator of
        your own. Arrivals never go back, neither within a chunk nor from one to the next.
    policy, replicas, router, memory, seed, clock, max_batch, block, prefill_budget, max_rounds
        As for `simulate_fleet`. A router with classes of requests fits their bounds to the first chunk.
    completed
        Called with those who completed, chunk by chunk: an array of records with the fields id (from 0, in order of
        arrival), arrival, start, completion, evictions, output, replica.
    progress
        Called now and then with (requests sent, requests completed).

    Raises
    ------
    PolicyError, WorkloadError, InputError, NotFinishedError
        As `simulate_fleet`; requests are named by their place in the whole stream.
    """
    chosen = named_router(router)
    machines = machines_of(
        replicas, policy=policy, memory=memory, clock=clock, max_batch=max_batch, block=block,
        prefill_budget=prefill_budget,
    )  # fmt: skip
    if len(machines) == 1 and chosen.rule == "central":
        chosen = Router()  # the queue of one replica is its own
    if seed is not None:
        seed = whole("seed", seed, 0, LARGEST_SEED)
    if any(life.until < math.inf for life in lives_of(replicas_of(replicas))):
        raise InputError("a stream cannot send requests again: replicas that fail are for simulate_fleet")
    result = StreamResult(unit="rounds" if machines[0]["clock"] is None else "s")
    result.load = np.zeros(len(machines), np.int64)
    run: Run | None = None
    for chunk in _checked(requests):
        check_columns(chunk, chosen)
        _refuse_what_looks_back(chunk, machines)
        if run is None:
            run = Run(machines, chosen, seed, (), max_rounds, chunk, endless=True)
        replica = np.zeros(len(chunk), np.int32)
        run.take(chunk, replica)
        run.send(result.requests + len(chunk))
        result.requests += len(chunk)
        _log.debug("chunk of %d requests: %d so far", len(chunk), result.requests)
        _hand_on(run, result, completed)
        if progress is not None:
            progress(result.requests, run.fleet.completed_requests)
    if run is not None:
        run.finish(None, result.requests)
        _hand_on(run, result, completed)
        result.outcomes = tuple(run.outcomes(np.zeros(0, np.int64), None))
        result.rounds = sum(outcome.rounds for outcome in result.outcomes)
        result.wasted_tokens = sum(outcome.wasted_tokens for outcome in result.outcomes)
        result.most_at_once = run.fleet.slots
    return result


def _hand_on(run: Run, result: StreamResult, completed: Callable[[npt.NDArray[Any]], None] | None) -> None:
    done = run.fleet.completions()
    result.take(done)
    if completed is not None and len(done):
        completed(done)


def _refuse_what_looks_back(chunk: Workload, machines: Sequence[Mapping[str, Any]]) -> None:
    """Raises InputError for what needs the whole workload."""
    if chunk.think is not None:
        raise InputError("think times: a stream is in order of arrival, which they decide; simulate_fleet takes them")
    for machine in machines:
        if machine["policy"].prefixes == "cached":
            raise InputError(
                f"policy {machine['policy'].name} keeps prefixes in the cache: their names are those of one workload, "
                "not of chunks; simulate_fleet takes it"
            )


def _checked(requests: Iterable[Workload]) -> Iterator[Workload]:
    """The chunks that are not empty. Raises WorkloadError where arrivals go back."""
    latest, came = 0.0, 0
    for chunk in requests:
        if not isinstance(chunk, Workload):
            raise InputError(f"stream needs workloads, chunks of requests, not {type(chunk).__name__}")
        if not len(chunk):
            continue
        before = np.concatenate([[latest], chunk.arrival[:-1]])
        back = chunk.arrival < before
        if back.any():
            i = int(np.argmax(back))
            raise WorkloadError(
                f"request {came + i} of the stream arrives at {chunk.arrival[i]:g}, before the one at {before[i]:g} "
                "that came earlier: a stream has to be in order of arrival",
                came + i,
            )
        latest, came = float(chunk.arrival[-1]), came + len(chunk)
        yield chunk
