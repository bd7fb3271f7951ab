"""What a worker does: a work unit in, a table of numbers out. It runs in threads, processes and on other machines."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._version import version
from ..errors import LlmschedError, StudyError
from ..metrics import catalogue
from ..metrics.catalogue import Bounded, Metric
from ..metrics.energy import Power
from ..metrics.measure import measure
from ..optimum.lower_bounds import LowerBound, lower_bound
from ..simulation._compiled import Stop
from ..simulation.batch import Job, simulate_here
from ..simulation.blocks import down_to_blocks
from ..simulation.clock import Clock
from ..simulation.result import Result
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray, IntArray
from ..workloads.length_table import LengthTable
from ..workloads.midpoints import with_midpoints
from ..workloads.workload import Workload
from .file_entries import WorkloadEntry
from .plan import Cell, Plan, Trace, draw, predict, replication_seed, run_by

# Requests of which the workloads are in memory at a time: few, so that the caches of the processor hold them.
_MOST_REQUESTS = 30_000


@dataclasses.dataclass(frozen=True)
class WorkUnit:
    """Simulations of one workload: cell ``cells[c]`` in replication ``replications[r]`` where ``wanted[r, c]``."""

    plan: Plan
    workload: int
    cells: IntArray
    replications: IntArray
    wanted: npt.NDArray[np.bool_]
    version: str = version

    def __len__(self) -> int:
        return int(self.wanted.sum())

    def halves(self) -> list[WorkUnit]:
        """The work unit in two parts, by replications or else by cells; one simulation has none."""
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
class UnitResults:
    """The results of a work unit, one row per simulation that has one: `values` is (metrics, rows)."""

    cell: npt.NDArray[np.int32]
    replication: IntArray
    seed: npt.NDArray[np.uint64]
    values: FloatArray
    failures: list[Failure]
    seconds: float = 0.0

    @classmethod
    def of_failures(cls, failures: list[Failure], metrics: int) -> UnitResults:
        """No result at all."""
        nothing = np.empty(0, np.int64)
        return cls(nothing.astype(np.int32), nothing, nothing.astype(np.uint64), np.empty((metrics, 0)), failures)

    def __len__(self) -> int:
        """Simulations, failed ones included."""
        return len(self.cell) + len(self.failures)


def simulate_unit(unit: WorkUnit, trace: Trace | None = None, stop: Stop | None = None) -> UnitResults | None:
    """Simulate a work unit; None if ``stop.set()`` was called. Requests are drawn from `trace`, if not by a generator.

    Raises StudyError if this worker has another version of llmsched: its numbers could differ.
    """
    if unit.version != version:
        raise StudyError(
            f"a worker has llmsched {version}, the study is run by {unit.version}: install the same on all"
        )
    begin = time.perf_counter()
    jobs_of_cells: dict[bytes, _CellJobs] = {}
    parts = [_simulate_replications(unit, rows, trace, stop or Stop(), jobs_of_cells) for rows in _slices(unit, trace)]
    if any(part is None for part in parts):
        return None
    done = [part for part in parts if part is not None]
    return UnitResults(
        np.concatenate([part.cell for part in done]),
        np.concatenate([part.replication for part in done]),
        np.concatenate([part.seed for part in done]),
        np.concatenate([part.values for part in done], axis=1),
        [failure for part in done for failure in part.failures],
        time.perf_counter() - begin,
    )


def simulate_one(plan: Plan, replication: int, **labels: Any) -> Result:
    """One simulation alone; see `Study.simulate`."""
    replication = whole("replication", replication, 0)
    index = plan.find(**labels)
    cell = plan.cells[index]
    name = list(plan.workloads)[cell.workload]
    seed = replication_seed(plan.seed, replication)
    policy = list(plan.policies.values())[cell.policy]
    cell_jobs = _CellJobs.of(plan, np.array([index]))
    (seen,) = cell_jobs.draw_workloads(plan, plan.read.get(name), seed)
    if isinstance(seen, LlmschedError):
        raise seen
    record = catalogue.recorded_for(_metrics(plan))
    return run_by(plan.engine_of(cell), seen, policy, memory=plan.memory_of(cell), seed=seed, record=record)


def _metrics(plan: Plan) -> list[Metric]:
    return [catalogue.find(name) for name in plan.metrics]


def _slices(unit: WorkUnit, trace: Trace | None) -> Iterator[slice]:
    """The rows of a unit in slices whose workloads fit into memory."""
    entry = list(unit.plan.workloads.values())[unit.workload]
    requests = entry.requests or (len(trace[""]) if trace else 1)
    cells = [unit.plan.cells[c] for c in unit.cells.tolist()]
    settings = len({(cell.intervals, cell.rate) for cell in cells})
    step = max(1, _MOST_REQUESTS // (requests * (settings + 1)))
    for first in range(0, len(unit.replications), step):
        yield slice(first, first + step)


_PREDICTED = frozenset({"lower", "upper", "point"})


@dataclasses.dataclass(frozen=True)
class _CellJobs:
    """The simulations that a set of cells needs in every replication: found once, as replications are alike.

    `variants` are what policies see of the requests: their rate, an interval setting (None for those that read no
    prediction), and whether they want point predictions and a table of lengths, which is then that of these requests.
    `jobs` are (variant, policy, memory); `cells` has for each a cell that it stands for, and `job_of_cell` says which
    one each cell is. Cells that differ in a setting that the policy does not read share a job.
    """

    variants: list[tuple[int, int | None, bool, bool]]
    entries: dict[int, WorkloadEntry]
    jobs: list[tuple[int, int, int]]
    cells: list[Cell]
    job_of_cell: IntArray

    @classmethod
    def of(cls, plan: Plan, cells: IntArray) -> _CellJobs:
        """That of these cells."""
        needs = [{*policy.needs} for policy in plan.policies.values()]
        routers = [set() if router is None else {*router.needs} for router in plan.routers.values()]
        variants: dict[tuple[int, int | None, bool, bool], int] = {}
        entries: dict[int, WorkloadEntry] = {}
        jobs: dict[tuple[tuple[int, ...], int, int, int], int] = {}
        cell_of_job: list[Cell] = []
        job_of_cell = []
        for cell in (plan.cells[k] for k in cells.tolist()):
            need = needs[cell.policy] | routers[cell.router]
            setting = None if _PREDICTED.isdisjoint(need) else cell.intervals
            if cell.rate not in entries:
                entries[cell.rate] = plan.workload_of(cell)
            seen = (cell.rate, setting, "point" in need, "lengths" in need)
            variant = variants.setdefault(seen, len(variants))
            job = (cell.engine, variant, cell.policy, plan.memory_of(cell))
            if job not in jobs:
                jobs[job] = len(jobs)
                cell_of_job.append(cell)
            job_of_cell.append(jobs[job])
        return cls(list(variants), entries, [job[1:] for job in jobs], cell_of_job, np.array(job_of_cell, np.int64))

    def draw_workloads(self, plan: Plan, trace: Trace | None, seed: int) -> list[Workload | LlmschedError]:
        """What policies see of the requests of a replication, or why it cannot be made, for each variant."""
        made: list[Workload | LlmschedError] = []
        seen: dict[tuple[int, int | None], Workload] = {}  # by rate and interval setting
        rules = list(plan.intervals.items())

        def drawn(rate: int) -> Workload:
            if (rate, None) not in seen:
                seen[rate, None] = draw(self.entries[rate], trace[""] if trace else None, seed)
                _ = seen[rate, None].extent  # found once: it is the same with any predictions
            return seen[rate, None]

        def predicted(rate: int, setting: int) -> Workload:
            if (rate, setting) not in seen:
                name, rule = rules[setting]
                own = trace.get(name) if trace else None  # the same requests are drawn: the seed is the same
                found = predict(drawn(rate), rule, seed) if own is None else draw(self.entries[rate], own, seed)
                seen[rate, setting] = found
            return seen[rate, setting]

        for rate, setting, point, lengths in self.variants:
            try:
                workload = drawn(rate) if setting is None else predicted(rate, setting)
                workload = _with_points(workload) if point and setting is not None else workload
                made.append(_with_lengths(workload) if lengths else workload)
            except LlmschedError as error:
                made.append(error)
        return made


def _with_lengths(workload: Workload) -> Workload:
    """Policies that ask again are told how the outputs of these requests are distributed, but not which is whose."""
    return workload.with_lengths(LengthTable.from_outputs(workload.output))


_NO_REQUESTS = Workload(prompt=[], output=[])


def _with_points(workload: Workload) -> Workload:
    """The middle of each interval is the point prediction, where there are intervals and nothing better."""
    given = workload.point is not None or workload.lower is None or workload.upper is None
    return workload if given else with_midpoints(workload)


def _simulate_replications(
    unit: WorkUnit, rows: slice, trace: Trace | None, stop: Stop, jobs_of_cells: dict[bytes, _CellJobs]
) -> UnitResults | None:
    """The results of some replications of a work unit; None if stopped."""
    plan = unit.plan
    workloads: list[Workload] = []
    jobs: list[Job] = []
    cell_of_job: list[Cell] = []
    errors: dict[int, Exception] = {}
    cells, replications, seeds, job_of_cell = [], [], [], []
    for replication, mask in zip(unit.replications[rows].tolist(), unit.wanted[rows], strict=True):
        if mask.tobytes() not in jobs_of_cells:
            jobs_of_cells[mask.tobytes()] = _CellJobs.of(plan, unit.cells[mask])
        cell_jobs = jobs_of_cells[mask.tobytes()]
        seed = replication_seed(plan.seed, replication)
        made = cell_jobs.draw_workloads(plan, trace, seed)
        for k, (variant, _, _) in enumerate(cell_jobs.jobs):
            if isinstance(broken := made[variant], LlmschedError):
                errors[len(jobs) + k] = broken
        count = len(cell_jobs.job_of_cell)
        cells.append(unit.cells[mask])
        replications.append(np.full(count, replication))
        seeds.append(np.full(count, seed, np.uint64))
        job_of_cell.append(cell_jobs.job_of_cell + len(jobs))
        first = len(workloads)
        workloads += [_NO_REQUESTS if isinstance(w, LlmschedError) else w for w in made]
        jobs += [Job(first + variant, policy, memory, seed) for variant, policy, memory in cell_jobs.jobs]
        cell_of_job += cell_jobs.cells
    simulated = _simulated(plan, workloads, jobs, cell_of_job, stop)
    if simulated is None:
        return None
    values, failed = simulated
    errors = {**failed, **errors}
    columns = [np.concatenate(column) for column in (cells, replications, seeds, job_of_cell)]
    good = ~np.isin(columns[3], list(errors))
    failures = [
        Failure(int(cell), int(replication), int(seed), type(errors[int(k)]).__name__, str(errors[int(k)]))
        for cell, replication, seed, k in zip(*(column[~good] for column in columns), strict=True)
    ]
    cell, replicated, seeded, job = (column[good] for column in columns)
    return UnitResults(cell.astype(np.int32), replicated, seeded, values[:, job], failures)


def _simulated(
    plan: Plan, workloads: list[Workload], jobs: list[Job], cells: list[Cell], stop: Stop
) -> tuple[FloatArray, dict[int, Exception]] | None:
    """The metrics (metrics, jobs) of jobs, each with a cell of it, and why some have none; None if stopped."""
    metrics = _metrics(plan)
    values = np.full((len(metrics), len(jobs)), np.nan)
    errors: dict[int, Exception] = {}
    one_by_one = any(metric.source not in ("totals", "bound") for metric in metrics)
    alike: dict[tuple[int, ...], list[int]] = {}  # jobs by what simulates them
    for k, cell in enumerate(cells):
        alike.setdefault(cell.engine, []).append(k)
    for rows in alike.values():
        some, engine = [jobs[k] for k in rows], plan.engine_of(cells[rows[0]])
        if one_by_one or "replicas" in engine:
            power = plan.power_of(cells[rows[0]])
            for k, job in zip(rows, some, strict=True):
                try:
                    values[:, k] = _measured(plan, metrics, workloads[job.workload], job, engine, power)
                except LlmschedError as error:
                    errors[k] = error
        else:
            totals = _from_totals(plan, metrics, workloads, some, engine, stop)
            if totals is None:
                return None
            values[:, rows] = totals[0]
            errors |= {rows[k]: error for k, error in totals[1].items()}
    return values, errors


def _measured(
    plan: Plan,
    metrics: list[Metric],
    workload: Workload,
    job: Job,
    engine: Mapping[str, Any],
    power: Power | None,
) -> list[float]:
    """The metrics of one job that is simulated alone, with all that they need recorded."""
    policy = list(plan.policies.values())[job.policy]
    record = catalogue.recorded_for(metrics)
    result = run_by(engine, workload, policy, memory=job.memory, seed=job.seed, record=record)
    return list(measure(result, metrics, **plan.service, power=power, steady=plan.steady).values())


def _from_totals(
    plan: Plan,
    metrics: list[Metric],
    workloads: list[Workload],
    jobs: list[Job],
    engine: Mapping[str, Any],
    stop: Stop,
) -> tuple[FloatArray, Mapping[int, Exception]] | None:
    """The same for metrics that cost nothing or need a bound, with one engine: all jobs at once."""
    percentiles = [metric.percentile for metric in metrics if metric.percentile is not None]
    batch = simulate_here(workloads, list(plan.policies.values()), jobs, stop, percentiles=percentiles, **engine)
    if batch is None:
        return None
    block = engine["block"]
    place = [job.workload for job in jobs]
    totals = {
        **batch.totals,
        **{m.name: batch.totals[f"p{m.percentile:g}_latency"] for m in metrics if m.percentile is not None},
        "requests": np.array([len(workload) for workload in workloads])[place],
        "output_tokens": np.array([int(workload.output.sum()) for workload in workloads], np.float64)[place],
        "memory": np.array([down_to_blocks(job.memory, block) for job in jobs], np.float64),
    }
    bounds: list[Bounded | None] = []
    if any(metric.source == "bound" for metric in metrics):
        bounds = _bounds(plan, workloads, jobs, engine["clock"], batch.totals["total_latency"])
    columns = [
        metric.value(totals)
        if metric.source == "totals"
        else [math.nan if found is None else metric.value(found) for found in bounds]
        for metric in metrics
    ]
    return np.array(columns, np.float64), batch.errors


def _bounds(
    plan: Plan, workloads: list[Workload], jobs: list[Job], clock: Clock | None, latency: FloatArray
) -> list[Bounded | None]:
    """What no schedule can beat, beside each job's total latency; None for jobs that did not finish."""
    policies = list(plan.policies.values())
    known: dict[tuple[int, ...], LowerBound] = {}  # of requests (what is predicted does not matter) and memory
    bounds: list[Bounded | None] = []
    for job, total in zip(jobs, latency.tolist(), strict=True):
        if math.isnan(total):
            bounds.append(None)
            continue
        workload = workloads[job.workload]
        columns = (workload.prompt, workload.output, workload.arrival)  # variants of the same requests share them
        key = (*map(id, columns), job.memory)
        if key not in known:
            known[key] = lower_bound(workload, memory=job.memory, iterations=0, clock=clock)
        bounds.append(Bounded(known[key], total, policies[job.policy]))
    return bounds
