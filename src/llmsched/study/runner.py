"""run(): hands out work units, writes results to disk, and asks for more replications until a precision is reached."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import platform
import queue
import shlex
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import BrokenExecutor, Executor
from pathlib import Path
from typing import Any

import numpy as np

from .._logging import logger
from .._version import version
from ..errors import DamagedResultsError, InputError, StudyError, number_of
from ..html_tables import table
from ..workloads.argument_checks import whole
from ..workloads.columns import FloatArray, IntArray
from .executors import ExecutorWorkers, ThreadWorkers, Workers, executor_broke
from .plan import Plan, make
from .store import Directory
from .study_file import StudyFile
from .work_list import WorkList
from .worker import Failure, UnitResults, WorkUnit

_log = logger(__name__)

#: What a work unit should take, in seconds: long against what it costs to hand out, short against a person's patience.
_UNIT_SECONDS = 1.0
#: Simulations of a work unit while nothing is known of what they take.
_FIRST_UNIT = 32
#: Rows that are written at once, and how long they may wait for that, in seconds.
_ROWS_AT_ONCE, _LONGEST_UNWRITTEN = 100_000, 2.0
#: Seconds between two reports of progress.
_TOLD_EVERY = 0.5


@dataclasses.dataclass(frozen=True)
class Status:
    """How a study goes.

    Attributes
    ----------
    directory
        Where the results are.
    plan
        What is simulated.
    done, failed, total
        Simulations on disk, those of them that failed, and all that are wanted as far as is known.
    before
        Simulations that were on disk when the run began.
    seconds, rate
        Since the run began; simulations per second, of late.
    workers
        How many work.
    metric, count, mean, half
        Per cell: the number of values of this metric, their mean and half its 95 % interval (Student's t).
    damaged
        Files that were put aside.
    """

    directory: Path
    plan: Plan = dataclasses.field(repr=False)
    done: int
    failed: int
    total: int
    before: int
    seconds: float
    rate: float
    workers: int
    metric: str
    count: IntArray = dataclasses.field(repr=False)
    mean: FloatArray = dataclasses.field(repr=False)
    half: FloatArray = dataclasses.field(repr=False)
    damaged: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        rows = [
            (*map(str, self.plan.labels(cell).values()), int(count), float(mean), float(half))
            for cell, count, mean, half in zip(self.plan.cells, self.count, self.mean, self.half, strict=True)
        ]
        state = f"{self.done:,} of {self.total:,} simulations, {self.failed:,} failed, in {self.directory}"
        return table(f"Study: {state}", rows, header=[*self.plan.factors, "n", f"mean of {self.metric}", "± 95 %"])

    @property
    def seconds_left(self) -> float:
        """Seconds until it is done, if it goes on like this."""
        return (self.total - self.done) / self.rate if self.rate > 0 else float("inf")


def run(
    study: StudyFile,
    out: Path,
    *,
    executor: Executor | None,
    cluster: str | None,
    workers: int | None,
    traces: Path,
    extend: bool,
    repair: bool,
    retry: bool,
    other_versions: bool,
    progress: Callable[[Status], None] | None,
) -> Status:
    """See `Study.run`."""
    if executor is not None and cluster is not None:
        raise InputError("executor and cluster both say where the work is done: give one of them")
    if workers is not None:
        whole("workers", workers, 1, 1024)  # also if there turns out to be nothing to do
    plan = make(study, traces)
    more: dict[str, bool] = {"extend": extend, "repair": repair, "other_versions": other_versions}
    directory = Directory(out, plan, study.to_toml(), about(study), **more)
    with contextlib.closing(directory):
        running = _StudyRun(study, plan, directory, repair, retry)
        wanted, cells = running.work_list.remaining, number_of(len(plan.cells), "cell")
        _log.info("study %s in %s: %s, %s to do", study.name, out, cells, number_of(wanted, "simulation"))
        if running.work_list.waiting_workloads():
            pool = _workers(plan, executor, cluster, workers)
            _log.info("executor: %s", pool)
            with contextlib.closing(pool):
                running.work(pool, progress)
        running.finish()
        status = running.status(0)
        done = number_of(status.done, "simulation")
        _log.info("study %s: %s on disk, %s failed, %.1f s", study.name, done, f"{status.failed:,}", status.seconds)
        return status


def _workers(plan: Plan, executor: Executor | None, cluster: str | None, workers: int | None) -> Workers:
    if cluster is not None:
        from .dask_cluster import DaskWorkers

        return DaskWorkers(plan, cluster)
    return ThreadWorkers(plan, workers) if executor is None else ExecutorWorkers(plan, executor, workers)


def about(study: StudyFile) -> dict[str, Any]:
    """What is written into study.json of the run that begins: versions, machine, command."""
    import pyarrow

    precision = study.precision
    return {
        "name": study.name,
        "description": study.description,
        "replications": study.replications if precision is None else dataclasses.asdict(precision),
        "llmsched": version,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "pyarrow": pyarrow.__version__,
        "system": platform.platform(),
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


class _StudyRun:
    """A study under way in a directory."""

    def __init__(self, study: StudyFile, plan: Plan, directory: Directory, repair: bool, retry: bool) -> None:
        self.plan, self.directory = plan, directory
        self.work_list = WorkList(plan, study.replications, study.precision)
        self.damaged = list(directory.damaged)
        self.unwritten: list[UnitResults] = []  # not yet on disk
        self.unwritten_since = 0.0
        self.to_retry: deque[WorkUnit] = deque()
        self.seconds_per_simulation: dict[int, float] = {}  # workload -> seconds per simulation
        self.began = time.monotonic()
        self.recent: deque[tuple[float, int]] = deque([(self.began, 0)], maxlen=60)
        self._read_stored(repair, retry)
        self.before = self.done

    # What is there already --------------------------------------------------------------------------------------------

    def _read_stored(self, repair: bool, retry: bool) -> None:
        def damaged(damage: DamagedResultsError) -> None:
            if not repair:
                raise damage
            self.damaged.append(damage.path)
            _log.warning("repaired: %s put aside, what was in it is simulated again", damage.path)

        metric = self.plan.metrics[self.work_list.metric_index]
        for cells, columns in self.directory.stored("results", ["replication", metric], damaged):
            self.work_list.record(cells, columns["replication"], columns[metric])
        if retry:
            failed = sum(part.rows for part in self.directory.failures.parts)
            _log.info("retried: %s", number_of(failed, "failure"))
            self.directory.failures.clear()
        for cells, columns in self.directory.stored("failures", ["replication"], damaged):
            self.work_list.record(cells, columns["replication"], None)
        if there := int(self.work_list.recorded.sum()):
            failed = int(self.work_list.failed.sum())
            _log.info("resumed: %s on disk, %s of them failed", number_of(there, "simulation"), f"{failed:,}")
        self.work_list.ask_for_more()

    @property
    def done(self) -> int:
        return int(self.work_list.recorded.sum()) - sum(map(len, self.unwritten))

    # Work -------------------------------------------------------------------------------------------------------------

    def work(self, workers: Workers, progress: Callable[[Status], None] | None) -> None:
        """Hand out units and take in what comes back until nothing is wanted."""
        finished: queue.SimpleQueue[Any] = queue.SimpleQueue()
        under_way: dict[int, WorkUnit] = {}
        told = 0.0
        try:
            while True:
                while len(under_way) < 2 * workers.count and (unit := self._next(workers)) is not None:
                    future = workers.submit(unit)
                    under_way[id(future)] = unit
                    self._tell_when_done(future, finished)
                if not under_way:
                    break
                with contextlib.suppress(queue.Empty):
                    future = finished.get(timeout=0.25)
                    self._collect(workers, under_way.pop(id(future)), future)
                workers.check_alive()
                now = time.monotonic()
                if self.unwritten and (
                    sum(map(len, self.unwritten)) >= _ROWS_AT_ONCE or now - self.unwritten_since > _LONGEST_UNWRITTEN
                ):
                    self._write()
                if progress is not None and now - told > _TOLD_EVERY:
                    told = now
                    progress(self.status(workers.count))
        finally:
            with _error_hides_no_other():
                self._write()
        if progress is not None:
            progress(self.status(workers.count))

    @staticmethod
    def _tell_when_done(future: Any, finished: queue.SimpleQueue[Any]) -> None:
        future.add_done_callback(lambda _: finished.put(future))  # the same object, which its id stands for

    def _next(self, workers: Workers) -> WorkUnit | None:
        if self.to_retry:
            return self.to_retry.popleft()
        for workload in self.work_list.waiting_workloads():
            return self.work_list.hand_out(workload, self._size(workload, workers.count))
        return None

    def _size(self, workload: int, workers: int) -> int:
        """Simulations of a unit: about a second's, less towards the end, so that all workers end together.

        But all cells of a replication, which share its requests and bounds, unless they take longer than half that.
        """
        if workload not in self.seconds_per_simulation:
            return _FIRST_UNIT
        most = _UNIT_SECONDS / self.seconds_per_simulation[workload]
        together = min(self.work_list.cells_of(workload), most / 2)
        return max(1, int(min(most, max(self.work_list.remaining / (3 * workers), most / 20, together))))

    def _collect(self, workers: Workers, unit: WorkUnit, future: Any) -> None:
        try:
            done: UnitResults | None = future.result()
        except BrokenExecutor as error:
            raise executor_broke(error) from None
        except BaseException as error:
            if not workers.died_of(unit, error):
                raise
            self._halve(unit, error)
            return
        if done is None:
            return
        if len(done):
            taken = done.seconds / len(done)
            before = self.seconds_per_simulation.get(unit.workload, taken)
            self.seconds_per_simulation[unit.workload] = (before + taken) / 2
        self._take_in(done)

    def _halve(self, unit: WorkUnit, error: BaseException) -> None:
        """A unit that kills its workers is halved, until the one simulation is found that does."""
        halves = unit.halves()
        then = "halved, and handed out again" if halves else "given up"
        _log.warning("workers lost (%s): their %s %s", error, number_of(len(unit), "simulation"), then)
        self.to_retry.extend(halves)
        if not halves and len(unit):
            from .plan import replication_seed

            cell, replication = int(unit.cells[0]), int(unit.replications[0])
            seed = replication_seed(self.plan.seed, replication)
            failure = Failure(cell, replication, seed, type(error).__name__, f"it killed its workers: {error}")
            self._take_in(UnitResults.of_failures([failure], len(self.plan.metrics)))

    def _take_in(self, done: UnitResults) -> None:
        if not self.unwritten:
            self.unwritten_since = time.monotonic()
        self.unwritten.append(done)
        column = done.values[self.work_list.metric_index]
        self.work_list.record(done.cell.astype(np.int64), done.replication, column)
        failed = done.failures
        self.work_list.record(
            np.array([f.cell for f in failed], np.int64), np.array([f.replication for f in failed], np.int64), None
        )
        self.work_list.ask_for_more()
        self.recent.append((time.monotonic(), self.recent[-1][1] + len(done)))

    # Disk -------------------------------------------------------------------------------------------------------------

    def _write(self) -> None:
        """Put what is waiting on disk. If that fails it is lost, and not reported done: the next run does it again."""
        done, self.unwritten = self.unwritten, []
        try:
            results = [part for part in done if len(part.cell)]
            if results:
                self.directory.results.append(self._results(results))
            failed = [failure for part in done for failure in part.failures]
            if failed:
                self.directory.failures.append(self._failures(failed))
        except OSError as error:
            raise self._cannot_write(error) from None

    def _results(self, done: list[UnitResults]) -> Any:
        columns = {
            "replication": np.concatenate([part.replication for part in done]),
            "seed": np.concatenate([part.seed for part in done]),
        }
        values = np.concatenate([part.values for part in done], axis=1)
        columns |= dict(zip(self.plan.metrics, values, strict=True))
        return self.directory.rows("results", columns, np.concatenate([part.cell for part in done]))

    def _failures(self, failed: list[Failure]) -> Any:
        names = ("replication", "seed", "error", "message")
        columns: Mapping[str, Any] = {name: [getattr(failure, name) for failure in failed] for name in names}
        return self.directory.rows("failures", columns, [failure.cell for failure in failed])

    def _cannot_write(self, error: OSError) -> StudyError:
        return StudyError(
            f"cannot write to {self.directory.path}: {error.strerror or error}. What was reported done is on disk; "
            "make room and run the same command again: it goes on from there",
            str(self.directory.path),
        )

    def finish(self) -> None:
        """Few large parts instead of many small ones."""
        try:
            self.directory.results.compact()
            self.directory.failures.compact()
        except OSError as error:
            raise self._cannot_write(error) from None

    def status(self, workers: int) -> Status:
        """How it goes."""
        count, mean, half = self.work_list.means()
        (first, none), (last, some) = self.recent[0], self.recent[-1]
        return Status(
            directory=self.directory.path,
            plan=self.plan,
            done=self.done,
            failed=int(self.work_list.failed.sum()),
            total=max(self.work_list.total, self.done),
            before=self.before,
            seconds=time.monotonic() - self.began,
            rate=(some - none) / (last - first) if last > first else 0.0,
            workers=workers,
            metric=self.plan.metrics[self.work_list.metric_index],
            count=count,
            mean=mean,
            half=half,
            damaged=tuple(self.damaged),
        )


@contextlib.contextmanager
def _error_hides_no_other() -> Any:
    """An error within does not hide the one that is on its way; alone, it is raised."""
    coming = sys.exc_info()[1]
    try:
        yield
    except StudyError:
        if coming is None or isinstance(coming, KeyboardInterrupt):
            raise
