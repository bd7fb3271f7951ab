"""Who does the work of a study: threads of this process, or any executor; `dask_cluster` has a Dask cluster."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from typing import Any, Protocol

from ..errors import StudyError, number_of
from ..simulation._compiled import Stop
from ..workloads.argument_checks import whole
from .plan import Plan, Trace
from .worker import WorkUnit, simulate_unit


class Future(Protocol):
    """What the futures of all kinds of workers give."""

    def add_done_callback(self, fn: Callable[[Any], Any], /) -> Any:
        """Call `fn` with the future once it is done."""

    def result(self) -> Any:
        """What the unit returned; raises what it raised."""


class Workers(Protocol):
    """Those who do the work: they take work units and return futures."""

    @property
    def count(self) -> int:
        """How many units are done at a time; it may change."""

    def submit(self, unit: WorkUnit) -> Future:
        """Have a work unit done."""

    def died_of(self, unit: WorkUnit, error: BaseException) -> bool:
        """Whether it was the unit that killed its worker, so that only others can go on."""

    def check_alive(self) -> None:
        """Raise StudyError if the workers are no more."""

    def close(self) -> None:
        """Give up what is under way."""


def trace_of(plan: Plan, unit: WorkUnit) -> Trace | None:
    """The trace from which a unit's requests are drawn, if there is one."""
    return plan.read.get(list(plan.workloads)[unit.workload])


class ThreadWorkers:
    """Threads of this process: the core holds no GIL."""

    def __init__(self, plan: Plan, workers: int | None) -> None:
        self.plan = plan
        self.count = processors() if workers is None else whole("workers", workers, 1, 1024)
        self._stop = Stop()
        self._pool = ThreadPoolExecutor(self.count, thread_name_prefix="llmsched-study")

    def __str__(self) -> str:
        return number_of(self.count, "thread")

    def submit(self, unit: WorkUnit) -> Future:
        """Have a work unit done."""
        return self._pool.submit(simulate_unit, unit, trace_of(self.plan, unit), self._stop)

    def died_of(self, unit: WorkUnit, error: BaseException) -> bool:
        """Never: a thread does not die alone."""
        return False

    def check_alive(self) -> None:
        """Nothing can be wrong."""

    def close(self) -> None:
        """Stop all threads at once."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


class ExecutorWorkers:
    """An executor that somebody else made and will shut down."""

    def __init__(self, plan: Plan, executor: Executor, workers: int | None) -> None:
        self.plan, self._executor = plan, executor
        own = getattr(executor, "_max_workers", None)
        self.count = workers or (own if isinstance(own, int) else processors())
        self._futures: set[Any] = set()

    def __str__(self) -> str:
        return f"{type(self._executor).__name__}, {number_of(self.count, 'worker')}"

    def submit(self, unit: WorkUnit) -> Future:
        """Have a work unit done. Its trace is sent along: an executor promises no more."""
        try:
            future = self._executor.submit(simulate_unit, unit, trace_of(self.plan, unit))
        except BrokenExecutor as error:  # it broke after the last result was collected
            raise executor_broke(error) from None
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def died_of(self, unit: WorkUnit, error: BaseException) -> bool:
        """Never: an executor whose worker died is broken as a whole."""
        return False

    def check_alive(self) -> None:
        """Nothing is known."""

    def close(self) -> None:
        """Take back what has not begun."""
        for future in list(self._futures):
            future.cancel()


def executor_broke(error: BrokenExecutor) -> StudyError:
    """What to say of an executor that is broken."""
    return StudyError(f"a worker process died ({error}): start the study again, and it goes on")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
