"""Where the work of a study is done: threads of this process, or any executor. The Dask cluster is in `cluster`."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor, ThreadPoolExecutor
from typing import Any, Protocol

from ..errors import StudyError
from ..simulation._compiled import Stop
from ..workloads.argument_checks import whole
from .plan import Plan, Trace
from .worker import Task, work


class Future(Protocol):
    """What the futures of all engines have."""

    def add_done_callback(self, fn: Callable[[Any], Any], /) -> Any:
        """Call `fn` with the future once it is done."""

    def result(self) -> Any:
        """What the task returned; raises what it raised."""


class Engine(Protocol):
    """Takes tasks, returns futures."""

    @property
    def workers(self) -> int:
        """How many tasks are done at a time; it may change."""

    def submit(self, task: Task) -> Future:
        """Have a task done."""

    def fatal(self, task: Task, error: BaseException) -> bool:
        """Whether it was the task that killed its worker, so that only others can go on."""

    def check(self) -> None:
        """Raise StudyError if the engine is no more."""

    def close(self) -> None:
        """Give up what is under way."""


def trace_of(plan: Plan, task: Task) -> Trace | None:
    """The trace from which a task's requests are drawn, if there is one."""
    return plan.read.get(list(plan.workloads)[task.workload])


class Threads:
    """Threads of this process: the core holds no GIL."""

    def __init__(self, plan: Plan, workers: int | None) -> None:
        self.plan = plan
        self.workers = processors() if workers is None else whole("workers", workers, 1, 1024)
        self._stop = Stop()
        self._pool = ThreadPoolExecutor(self.workers, thread_name_prefix="llmsched-study")

    def submit(self, task: Task) -> Future:
        """Have a task done."""
        return self._pool.submit(work, task, trace_of(self.plan, task), self._stop)

    def fatal(self, task: Task, error: BaseException) -> bool:
        """Never: a thread does not die alone."""
        return False

    def check(self) -> None:
        """Nothing can be wrong."""

    def close(self) -> None:
        """Stop all threads at once."""
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)


class Given:
    """An executor that somebody else made and will shut down."""

    def __init__(self, plan: Plan, executor: Executor, workers: int | None) -> None:
        self.plan, self._executor = plan, executor
        own = getattr(executor, "_max_workers", None)
        self.workers = workers or (own if isinstance(own, int) else processors())
        self._futures: set[Any] = set()

    def submit(self, task: Task) -> Future:
        """Have a task done. Its trace is sent along: an executor promises no more."""
        try:
            future = self._executor.submit(work, task, trace_of(self.plan, task))
        except BrokenExecutor as error:  # it broke after the last result was collected
            raise died(error) from None
        self._futures.add(future)
        future.add_done_callback(self._futures.discard)
        return future

    def fatal(self, task: Task, error: BaseException) -> bool:
        """Never: an executor whose worker died is broken as a whole."""
        return False

    def check(self) -> None:
        """Nothing is known."""

    def close(self) -> None:
        """Take back what has not begun."""
        for future in list(self._futures):
            future.cancel()


def died(error: BrokenExecutor) -> StudyError:
    """What to say of an executor that is broken."""
    return StudyError(f"a worker process died ({error}): start the study again, and it goes on")


def processors() -> int:
    """Processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
