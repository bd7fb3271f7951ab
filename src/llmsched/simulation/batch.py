"""simulate_batch(): many simulations on a pool of threads, outside the GIL, in bounded memory."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import InputError, LlmschedError, nearest, number_of
from ..html_tables import table
from ..policy import Policy, named
from ..progress import with_bar
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.workload import Workload
from ._compiled import FAILURES, OUT_OF_MEMORY, TOTALS, Stop, run_many
from ._compiled import run as run_compiled
from .clock import Clock
from .clock import named as named_clock
from .dataframes import Columns
from .outcome import Outcome
from .problem import Problem, problem_of
from .result import Result
from .run import Progress, not_finished, result_of

if TYPE_CHECKING:
    from concurrent.futures import Future

# A thread takes a chunk at a time: long enough (10 ms or so) to make Python's part small, short enough that all threads
# end together.
_CHUNK_JOBS = 256
_CHUNK_REQUESTS = 20_000
_MOST_THREADS = 1024


class Job(NamedTuple):
    """One simulation of a batch: indices into the given workloads and policies, the memory, the seed."""

    workload: int
    policy: int
    memory: int
    seed: int | None


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Batch(Columns):
    """What `simulate_batch` did: one row per simulation, in the order of the input.

    Attributes
    ----------
    jobs
        What each row is.
    policies
        Names of the policies that the jobs' indices refer to.
    totals
        Metric -> array with one value per row, as in `Result.summary`: total_latency, mean_latency, max_latency,
        makespan, rounds, evictions, evicted_requests, wasted_tokens, peak_memory, and p50_latency and so on for the
        percentiles asked for. Rows that failed hold NaN, or -1 where the metric is a whole number.
    errors
        Row -> why it has no result, the message naming the row. The other rows stand.
    results
        The full results where they were kept, with None in rows that failed; else empty.
    """

    jobs: Sequence[Job]
    policies: Sequence[str]
    totals: Mapping[str, np.ndarray[Any, Any]]
    errors: Mapping[int, Exception]
    results: Sequence[Result | None]

    def __len__(self) -> int:
        return len(self.jobs)

    def __repr__(self) -> str:
        return f"Batch({number_of(len(self), 'simulation')}, {len(self.errors)} failed)"

    def _repr_html_(self) -> str:
        columns = self.columns()
        rows = zip(*columns.values(), strict=True)
        shown = [[value.item() if hasattr(value, "item") else value for value in row] for row in rows]
        note = "; ".join(f"row {row}: {error}" for row, error in list(self.errors.items())[:5])
        return table(f"Batch: {number_of(len(self), 'simulation')}", shown, header=list(columns), note=note)

    def raise_errors(self) -> Batch:
        """The batch itself if every simulation has a result; else the first error is raised."""
        for error in self.errors.values():
            raise error
        return self

    def columns(self) -> dict[str, Any]:
        """One row per simulation: workload (index), policy (name), memory, seed, then the totals."""
        return {
            "workload": [job.workload for job in self.jobs],
            "policy": [self.policies[job.policy] for job in self.jobs],
            "memory": [job.memory for job in self.jobs],
            "seed": [job.seed for job in self.jobs],
            **self.totals,
        }


@with_bar("simulating", "simulations")
def simulate_batch(
    workloads: Workload | Sequence[Workload],
    policies: str | Policy | Sequence[str | Policy] = "amin",
    *,
    memory: int | Sequence[int],
    seeds: int | Sequence[int | None] | None = 0,
    pair: Literal["cross", "zip"] = "cross",
    threads: int | None = None,
    keep: bool = False,
    percentiles: Sequence[float] = (),
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    max_rounds: int | None = None,
    progress: Progress | None = None,
) -> Batch:
    """Simulate many (workload, policy, memory, seed) on a pool of threads, outside the GIL.

    A simulation that cannot be done does not stop the others: see `Batch.errors`. Ctrl-C stops all threads at once.

    Parameters
    ----------
    workloads, policies, memory, seeds
        One of each, or sequences. See `simulate` for their meaning.
    pair
        ``"cross"``: every combination, workloads varying slowest and seeds fastest. ``"zip"``: the k-th of each; all
        sequences have the same length and single values stand for every job.
    threads
        How many, 1 to 1024; None for one per processor. The results are the same, to the bit, for any number.
    keep
        Keep every `Result` in `Batch.results`. Without it only one row of totals per simulation stays in memory.
    percentiles
        Percentiles of latency (0 to 100) to add to the totals, e.g. (50, 99). They cost more than the other totals.
    clock, max_batch, block, prefill_budget, max_rounds
        As in `simulate`, for every simulation.
    progress
        Called from the calling thread with (simulations done, simulations in all).

    Raises
    ------
    InputError
        Sequences of different lengths, or a thread count or a percentile that makes no sense.
    """
    axes = [_sequence(axis) for axis in (workloads, policies, memory, seeds)]
    jobs = _jobs(axes, pair)
    quantiles = _percentiles(percentiles)
    machine = {
        "clock": named_clock(clock),
        "max_batch": max_batch,
        "block": block,
        "prefill_budget": prefill_budget,
    }
    run = _Run(axes[0], axes[1], jobs, keep, quantiles, {"max_rounds": max_rounds, **machine})
    workers = _thread_count(threads)
    for done in run.on_threads(workers):
        if progress is not None:
            progress(done, len(jobs))
    return run.batch()


def simulate_here(
    workloads: Sequence[Workload],
    policies: Sequence[str | Policy],
    jobs: list[Job],
    stop: Stop,
    *,
    percentiles: Sequence[float] = (),
    clock: Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    max_rounds: int | None = None,
) -> Batch | None:
    """`simulate_batch` for workers: in the calling thread, and None if another one called ``stop.set()``.

    Its errors do not name the row.
    """
    options: dict[str, Any] = {"max_rounds": max_rounds, "clock": clock, "max_batch": max_batch, "block": block}
    options["prefill_budget"] = prefill_budget
    run = _Run(workloads, policies, jobs, False, list(percentiles), options, name_rows=False)
    return run.batch() if run.here(stop) else None


class _Run:
    """One call of `simulate_batch` under way."""

    def __init__(
        self,
        workloads: Sequence[Workload],
        policies: Sequence[str | Policy],
        jobs: list[Job],
        keep: bool,
        percentiles: list[float],
        options: Mapping[str, Any],
        name_rows: bool = True,
    ) -> None:
        self.workloads, self.policies, self.jobs = workloads, policies, jobs
        self.name_rows = name_rows
        self.keep, self.percentiles, self.options = keep, percentiles, options
        self.table = np.zeros(len(jobs), TOTALS)
        self.spread = np.full((len(percentiles), len(jobs)), np.nan)
        self.results: list[Result | None] = [None] * len(jobs) if keep else []
        self.errors: dict[int, Exception] = {}

    def on_threads(self, threads: int) -> Iterator[int]:
        """Run everything; yields how many jobs are done, now and then."""
        from concurrent.futures import ThreadPoolExecutor  # a third of the time that `import llmsched` would take

        stop = Stop()
        pool = ThreadPoolExecutor(threads, thread_name_prefix="llmsched")
        under_way: deque[tuple[_Chunk, Future[Any]]] = deque()
        try:
            for chunk in self.chunks(max(1, min(_CHUNK_JOBS, len(self.jobs) // (4 * threads)))):
                under_way.append((chunk, pool.submit(run_many, chunk.problems, chunk.seeds, stop, chunk.kept)))
                if len(under_way) > 2 * threads:  # no more than the threads can be busy with, so that memory is bounded
                    oldest, future = under_way.popleft()
                    yield self.collect(oldest, future.result())
            while under_way:
                oldest, future = under_way.popleft()
                yield self.collect(oldest, future.result())
        finally:
            stop.set()
            pool.shutdown(cancel_futures=True)

    def here(self, stop: Stop) -> bool:
        """Run everything in the calling thread; False if it was stopped."""
        for chunk in self.chunks(_CHUNK_JOBS, _CHUNK_JOBS * _CHUNK_REQUESTS):
            totals = run_many(chunk.problems, chunk.seeds, stop, chunk.kept)
            if totals is None:
                return False
            self.collect(chunk, totals)
        return True

    def chunks(self, most: int, requests: int = _CHUNK_REQUESTS) -> Iterator[_Chunk]:
        """The jobs that can be simulated, `most` at a time, or those with so many requests."""
        chunk = _Chunk(bool(self.keep or self.percentiles))
        for row, problem in self.to_simulate():
            # Python needs the GIL, so that threads would not help; the others have arrays of their own to write to.
            if problem.policy.methods or problem.think is not None or problem.names is not None:
                self.run_alone(row, dataclasses.replace(problem, seed=self.jobs[row].seed))
                continue
            chunk.add(row, problem, self.jobs[row].seed)
            if len(chunk.rows) >= most or chunk.requests >= requests:
                yield chunk
                chunk = _Chunk(bool(self.keep or self.percentiles))
        yield chunk

    def to_simulate(self) -> Iterator[tuple[int, Problem]]:
        """The jobs that can be simulated; neighbours that differ in the seed alone share a problem."""
        before, problem = None, None
        for row, job in enumerate(self.jobs):
            try:
                what = job[:3]
                if what != before:
                    before, problem = None, self.problem(*what)
                    before = what
                if job.seed is not None:
                    whole("seed", job.seed, 0, LARGEST_SEED)
            except LlmschedError as error:
                self.fail(row, error)
                continue
            assert problem is not None
            yield row, problem

    def problem(self, workload: int, policy: int, memory: int) -> Problem:
        given = self.workloads[workload]
        if not isinstance(given, Workload):
            raise InputError(f"expected a llmsched.Workload, not {type(given).__name__}")
        return problem_of(given, named(self.policies[policy]), memory, None, **self.options)

    def run_alone(self, row: int, problem: Problem) -> None:
        """One that is run by itself: its policy decides in Python, prefixes are cached, or the loop is closed."""
        from . import readable

        engine = "reference" if problem.policy.methods else "compiled"
        try:
            outcome = readable.run(problem) if problem.policy.methods else run_compiled(problem)
            if outcome.unfinished:
                raise not_finished(problem, outcome.rounds, outcome.unfinished)
        except LlmschedError as error:
            self.fail(row, error)
            return
        result = result_of(self.workloads[self.jobs[row].workload], problem, outcome, engine)
        totals = result.summary()
        for name in TOTALS.names or ():
            self.table[name][row] = totals.get(name, 0)
        if self.percentiles:
            self.spread[:, row] = np.percentile(result.latency, self.percentiles)
        if self.keep:
            self.results[row] = result

    def fail(self, row: int, error: Exception) -> None:
        """Note the error with the row it belongs to, as the same type of exception."""
        if self.name_rows:
            index, policy, memory, seed = self.jobs[row]
            where = f"simulation {row} (workload {index}, policy {policy}, memory {memory}, seed {seed})"
            error.args = (f"{where}: {error}", *error.args[1:])
        self.errors[row] = error

    def collect(self, chunk: _Chunk, totals: np.ndarray[Any, Any]) -> int:
        """Take in a chunk's totals; returns the jobs done so far."""
        self.table[chunk.rows] = totals
        failed = totals["unfinished"] > 0
        for k in np.flatnonzero(failed).tolist():
            row, record = chunk.rows[k], totals[k]
            if record["status"] == OUT_OF_MEMORY:
                self.fail(row, MemoryError("no memory to simulate it"))
            elif record["status"] in FAILURES:
                try:
                    run_compiled(dataclasses.replace(chunk.problems[k], seed=chunk.seeds[k]))
                except LlmschedError as error:
                    self.fail(row, error)
            else:
                self.fail(row, not_finished(chunk.problems[k], int(record["rounds"]), int(record["unfinished"])))
        if self.keep and chunk.kept is not None:
            for k in np.flatnonzero(~failed).tolist():
                self.keep_result(chunk.rows[k], chunk.problems[k], chunk.kept[k], totals[k])
        if self.percentiles and chunk.kept is not None:
            self.take_percentiles(chunk, chunk.kept, failed)
        return chunk.rows[-1] + 1 if chunk.rows else len(self.jobs)

    def take_percentiles(self, chunk: _Chunk, kept: list[tuple[Any, Any, Any]], failed: npt.NDArray[np.bool_]) -> None:
        """Those of all simulations with equally many requests at once: one by one, NumPy takes longer than the core."""
        sizes = np.where(failed, 0, [len(problem.output) for problem in chunk.problems])
        for size in np.unique(sizes[sizes > 0]).tolist():
            alike = np.flatnonzero(sizes == size).tolist()
            latency = np.stack([kept[k][0] - chunk.problems[k].arrival for k in alike])
            self.spread[:, [chunk.rows[k] for k in alike]] = np.percentile(latency, self.percentiles, axis=1)

    def keep_result(self, row: int, problem: Problem, arrays: tuple[Any, Any, Any], record: Any) -> None:
        job = self.jobs[row]
        rounds, peak, wasted = (int(record[name]) for name in ("rounds", "peak_memory", "wasted_tokens"))
        problem = dataclasses.replace(problem, seed=job.seed)
        idle = float(record["idle"])
        outcome = Outcome(*arrays, rounds, peak, wasted, unfinished=0, timeline=None, tokens=None, work={}, idle=idle)
        self.results[row] = result_of(self.workloads[job.workload], problem, outcome, "compiled")

    def batch(self) -> Batch:
        names = [policy.name if isinstance(policy, Policy) else str(policy) for policy in self.policies]
        errors = dict(sorted(self.errors.items()))
        return Batch(self.jobs, names, self.totals(), errors, self.results)

    def totals(self) -> dict[str, np.ndarray[Any, Any]]:
        names = [name for name in TOTALS.names or () if name not in ("unfinished", "status", "idle")]
        columns = {name: self.table[name].copy() for name in names}
        for column in columns.values():
            column[list(self.errors)] = np.nan if column.dtype.kind == "f" else -1
        sizes = np.array([len(w) if isinstance(w, Workload) else 0 for w in self.workloads], dtype=np.float64)
        requests = sizes[[job.workload for job in self.jobs]]
        mean = np.divide(columns["total_latency"], requests, out=np.full(len(self.jobs), np.nan), where=requests > 0)
        spread = {f"p{q:g}_latency": row for q, row in zip(self.percentiles, self.spread, strict=True)}
        return {"total_latency": columns.pop("total_latency"), "mean_latency": mean, **spread, **columns}


class _Chunk:
    """Jobs that one thread does in one go."""

    def __init__(self, keep: bool) -> None:
        self.rows: list[int] = []
        self.problems: list[Problem] = []
        self.seeds: list[int | None] = []
        self.kept: list[tuple[Any, Any, Any]] | None = [] if keep else None
        self.requests = 0

    def add(self, row: int, problem: Problem, seed: int | None) -> None:
        self.rows.append(row)
        self.problems.append(problem)
        self.seeds.append(seed)
        self.requests += len(problem.output)


def _sequence(axis: Any) -> Sequence[Any]:
    """The axis itself if it holds several, else one of it."""
    if isinstance(axis, np.ndarray):
        return axis.tolist() if axis.ndim else [axis.item()]
    return axis if isinstance(axis, Sequence) and not isinstance(axis, (str, bytes)) else [axis]


def _jobs(axes: list[Sequence[Any]], pair: str) -> list[Job]:
    indexed = [range(len(axes[0])), range(len(axes[1])), axes[2], axes[3]]
    if pair == "cross":
        return list(map(Job._make, itertools.product(*indexed)))
    if pair != "zip":
        raise InputError(f"pair={pair!r} is unknown; {nearest(str(pair), ['cross', 'zip'])}")
    lengths = {len(axis) for axis in axes if len(axis) != 1} or {1}
    if len(lengths) > 1:
        found = ", ".join(
            f"{len(axis)} {name}" for name, axis in zip(("workloads", "policies", "memory", "seeds"), axes, strict=True)
        )
        raise InputError(f'pair="zip" needs sequences of one length (or single values), not {found}')
    n = lengths.pop()
    stretched = [list(axis) * n if len(axis) == 1 else axis for axis in indexed]
    return [Job(*combination) for combination in zip(*stretched, strict=True)]


def _thread_count(threads: int | None) -> int:
    if threads is None:
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return whole("threads", threads, 1, _MOST_THREADS)


def _percentiles(percentiles: npt.ArrayLike) -> list[float]:
    wanted = [float(q) for q in np.atleast_1d(np.asarray(percentiles, dtype=np.float64))]
    for q in wanted:
        if not 0 <= q <= 100:
            raise InputError(f"percentile {q:g} is out of range, expected 0 to 100")
    return wanted
