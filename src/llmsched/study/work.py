"""What a worker does: a task in, a table of numbers out. It runs in threads, processes and on other machines."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._runs import Stop
from .._version import version
from ..batch import Job, simulate_here
from ..compare import with_midpoints
from ..errors import LlmschedError, StudyError
from ..policy import Policy
from ..result import Result
from ..service import metrics as service_metrics
from ..simulation import simulate
from ..workload import FloatArray, IntArray, Workload
from .metrics import DERIVED, SERVICE, percentiles
from .plan import Plan, draw, predict, replication_seed

# Requests of which the workloads are in memory at a time: few, so that the caches of the processor hold them.
_MOST_REQUESTS = 30_000


@dataclasses.dataclass(frozen=True)
class Task:
    """Simulations of one workload: cell ``cells[c]`` in replication ``replications[r]`` where ``wanted[r, c]``."""

    plan: Plan
    workload: int
    cells: IntArray
    replications: IntArray
    wanted: npt.NDArray[np.bool_]
    version: str = version

    def __len__(self) -> int:
        return int(self.wanted.sum())

    def halves(self) -> list[Task]:
        """The task in two parts, by replications or else by cells; one simulation has none."""
        rows, columns = self.wanted.shape
        if rows > 1:
            cuts: list[Any] = [np.s_[: rows // 2], np.s_[rows // 2 :]]
            return [dataclasses.replace(self, replications=self.replications[c], wanted=self.wanted[c]) for c in cuts]
        if columns > 1:
            cuts = [np.s_[: columns // 2], np.s_[columns // 2 :]]
            return [dataclasses.replace(self, cells=self.cells[c], wanted=self.wanted[:, c]) for c in cuts]
        return []


class Failure(NamedTuple):
    """A simulation without a result: which, the seed of its replication, and why."""

    cell: int
    replication: int
    seed: int
    error: str
    message: str


@dataclasses.dataclass(frozen=True)
class Done:
    """The results of a task, one row per simulation that has one: `values` is (metrics, rows)."""

    cell: npt.NDArray[np.int32]
    replication: IntArray
    seed: npt.NDArray[np.uint64]
    values: FloatArray
    failures: list[Failure]
    seconds: float = 0.0

    @classmethod
    def of_failures(cls, failures: list[Failure], metrics: int) -> Done:
        """No result at all."""
        nothing = np.empty(0, np.int64)
        return cls(nothing.astype(np.int32), nothing, nothing.astype(np.uint64), np.empty((metrics, 0)), failures)

    def __len__(self) -> int:
        """Simulations, failed ones included."""
        return len(self.cell) + len(self.failures)


def work(task: Task, trace: Workload | None = None, stop: Stop | None = None) -> Done | None:
    """Do a task; `trace` is the workload that its requests are drawn from. None if ``stop.set()`` was called.

    Raises StudyError if this worker has another version of llmsched: its numbers could differ.
    """
    if task.version != version:
        raise StudyError(
            f"a worker has llmsched {version}, the study is run by {task.version}: install the same on all"
        )
    begin = time.perf_counter()
    parts = [_part(task, rows, trace, stop or Stop()) for rows in _blocks(task, trace)]
    if any(part is None for part in parts):
        return None
    done = [part for part in parts if part is not None]
    return Done(
        np.concatenate([part.cell for part in done]),
        np.concatenate([part.replication for part in done]),
        np.concatenate([part.seed for part in done]),
        np.concatenate([part.values for part in done], axis=1),
        [failure for part in done for failure in part.failures],
        time.perf_counter() - begin,
    )


def simulate_one(plan: Plan, replication: int, **labels: Any) -> Result:
    """One simulation alone; see `Study.simulate`."""
    from ..arguments import whole

    replication = whole("replication", replication, 0)
    index = plan.find(**labels)
    cell = plan.cells[index]
    name = list(plan.workloads)[cell.workload]
    seed = replication_seed(plan.seed, replication)
    workload = draw(plan.workloads[name], plan.read.get(name), seed)
    policy = list(plan.policies.values())[cell.policy]
    return simulate(
        _predicted(plan, workload, cell.intervals, policy, seed),
        policy,
        memory=plan.memories[cell.memory],
        seed=seed,
        clock=list(plan.clocks.values())[cell.clock],
        record=_record(plan),
        **plan.options,
    )


def _record(plan: Plan) -> tuple[str, ...]:
    return ("tokens", "timeline") if any(name in SERVICE for name in plan.metrics) else ()


def _blocks(task: Task, trace: Workload | None) -> Iterator[slice]:
    """The rows of a task in slices whose workloads fit into memory."""
    entry = list(task.plan.workloads.values())[task.workload]
    requests = entry.requests or (len(trace) if trace is not None else 1)
    settings = len({task.plan.cells[c].intervals for c in task.cells.tolist()})
    step = max(1, _MOST_REQUESTS // (requests * (settings + 1)))
    for first in range(0, len(task.replications), step):
        yield slice(first, first + step)


class _Drawn:
    """The workloads of a few replications, each drawn once, each with the intervals of each setting made once."""

    def __init__(self, task: Task, trace: Workload | None) -> None:
        self.plan, self.trace = task.plan, trace
        self.entry = list(task.plan.workloads.values())[task.workload]
        self.made: list[Workload] = []
        self.place: dict[tuple[int, int | None, bool], int] = {}

    def get(self, seed: int, setting: int, policy: Policy) -> int:
        """Position in `made` of what `policy` sees. What reads no prediction sees the same under any setting."""
        point = "point" in policy.needs
        key = (seed, setting if policy.needs else None, point)
        if key not in self.place:
            if not policy.needs:
                made = draw(self.entry, self.trace, seed)
            else:
                blind = self.made[self.get(seed, setting, _BLIND)]
                made = _predicted(self.plan, blind, setting, policy, seed)
            self.place[key] = len(self.made)
            self.made.append(made)
        return self.place[key]


#: A policy that reads no prediction.
_BLIND = Policy(order="arrival", reserve="none", evict="newest")


def _predicted(plan: Plan, workload: Workload, setting: int, policy: Policy, seed: int) -> Workload:
    predicted = predict(workload, list(plan.intervals.values())[setting], seed)
    wants_point = "point" in policy.needs and predicted.point is None
    return with_midpoints(predicted) if wants_point and predicted.lower is not None else predicted


def _part(task: Task, rows: slice, trace: Workload | None, stop: Stop) -> Done | None:
    """Some replications of a task."""
    plan, drawn = task.plan, _Drawn(task, trace)
    policies = list(plan.policies.values())
    wanted: list[tuple[int, int, int]] = []
    jobs: dict[tuple[int, Job], int] = {}  # (clock, job) -> its number; equal ones are simulated once
    number: list[int] = []
    failures: list[Failure] = []
    for replication, mask in zip(task.replications[rows].tolist(), task.wanted[rows], strict=True):
        seed = replication_seed(plan.seed, replication)
        for index in task.cells[mask].tolist():
            cell = plan.cells[index]
            try:
                at = drawn.get(seed, cell.intervals, policies[cell.policy])
            except LlmschedError as error:
                failures.append(Failure(index, replication, seed, type(error).__name__, str(error)))
                continue
            job = Job(at, cell.policy, plan.memories[cell.memory], seed)
            number.append(jobs.setdefault((cell.clock, job), len(jobs)))
            wanted.append((index, replication, seed))
    simulated = _simulated(plan, drawn.made, list(jobs), stop)
    if simulated is None:
        return None
    values, errors = simulated
    good = [k not in errors for k in number]
    for (index, replication, seed), k in zip(wanted, number, strict=True):
        if k in errors:
            failures.append(Failure(index, replication, seed, type(errors[k]).__name__, str(errors[k])))
    kept = [row for row, fine in zip(wanted, good, strict=True) if fine]
    cells, replications, seeds = zip(*kept, strict=True) if kept else ((), (), ())
    return Done(
        np.array(cells, np.int32),
        np.array(replications, np.int64),
        np.array(seeds, np.uint64),
        values[:, np.array(number, np.intp)[np.array(good, bool)]],
        failures,
    )


def _simulated(
    plan: Plan, workloads: list[Workload], jobs: list[tuple[int, Job]], stop: Stop
) -> tuple[FloatArray, dict[int, Exception]] | None:
    """The metrics (metrics, jobs) of jobs with their clocks, and why some have none; None if stopped."""
    values = np.full((len(plan.metrics), len(jobs)), np.nan)
    errors: dict[int, Exception] = {}
    for c, clock in enumerate(plan.clocks.values()):
        rows = [k for k, (of, _) in enumerate(jobs) if of == c]
        some = [jobs[k][1] for k in rows]
        if not rows:
            continue
        if _record(plan):
            failed = {}
            for k, job in zip(rows, some, strict=True):
                try:
                    values[:, k] = _served(plan, workloads[job.workload], job, clock)
                except LlmschedError as error:
                    failed[k] = error
            errors |= failed
            continue
        batch = simulate_here(
            workloads,
            list(plan.policies.values()),
            some,
            stop,
            percentiles=[q for _, q in percentiles(plan.metrics)],
            clock=clock,
            **plan.options,
        )
        if batch is None:
            return None
        columns = {**batch.totals, **_derived(plan, workloads, some, batch.totals)}
        columns |= {name: batch.totals[f"p{q:g}_latency"] for name, q in percentiles(plan.metrics)}
        values[:, rows] = [columns[name] for name in plan.metrics]
        errors |= {rows[k]: error for k, error in batch.errors.items()}
    return values, errors


def _derived(plan: Plan, workloads: list[Workload], jobs: list[Job], totals: Any) -> dict[str, FloatArray]:
    if not set(DERIVED) & set(plan.metrics):
        return {}
    block = plan.options["block"]
    tokens = np.array([int(workload.output.sum()) for workload in workloads], np.float64)
    generated = tokens[[job.workload for job in jobs]] + totals["wasted_tokens"]
    memory = np.array([job.memory - job.memory % block for job in jobs], np.float64)
    wasted = np.divide(totals["wasted_tokens"], generated, out=np.zeros(len(jobs)), where=generated > 0)
    return {"wasted_share": wasted, "peak_share": totals["peak_memory"] / memory}


def _served(plan: Plan, workload: Workload, job: Job, clock: Any) -> list[float]:
    policy = list(plan.policies.values())[job.policy]
    result = simulate(
        workload, policy, memory=job.memory, seed=job.seed, clock=clock, record=_record(plan), **plan.options
    )
    found = {**result.summary(), **service_metrics(result, **plan.service).summary()}
    found |= {name: float(result.percentile(q)) for name, q in percentiles(plan.metrics)}
    return [float(found[name]) for name in plan.metrics]
