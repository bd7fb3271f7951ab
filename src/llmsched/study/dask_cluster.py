"""A Dask cluster does the work of a study (extra `cluster`): work units go to any number of machines, traces once."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import pickle
import time
from concurrent.futures import CancelledError
from typing import Any

from .._logging import logger
from .._version import version
from ..errors import MissingExtraError, StudyError, number_of
from .executors import Future
from .plan import Plan, Trace, fingerprint
from .worker import UnitResults, WorkUnit, simulate_unit

_log = logger(__name__)

#: Seconds to wait for the scheduler, and then for its first worker.
PATIENCE = 15.0
#: Seconds for which the number of workers is believed.
_NEWS = 2.0


class DaskWorkers:
    """The workers of a Dask scheduler.

    Raises StudyError if it does not answer or has no worker within `PATIENCE` seconds, or if a worker has another
    version of llmsched. A worker that dies is Dask's affair: another one does its work units.
    """

    def __init__(self, plan: Plan, address: str, patience: float | None = None) -> None:
        self.plan, self.address = plan, address
        patience = PATIENCE if patience is None else patience
        self._client = _connected(address, patience)
        self._asked = -_NEWS
        self._threads: int | None = None  # not known yet
        try:
            self._wait_for_workers(patience)
            self._check_versions()
            self._traces = {name: self._ship(name) for name in plan.read}
        except BaseException:
            self.close()
            raise

    def _wait_for_workers(self, patience: float) -> None:
        from distributed import TimeoutError as DaskTimeout

        try:
            self._client.wait_for_workers(1, timeout=patience)
        except (DaskTimeout, TimeoutError):
            raise StudyError(
                f"the scheduler at {self.address} has had no worker for {patience:g} s: start some with "
                f"'dask worker {self.address}'"
            ) from None

    def _check_versions(self) -> None:
        # By a builtin, as a worker without llmsched cannot even read a function of it.
        answers = self._client.run(eval, "__import__('llmsched').__version__", on_error="return")
        for worker, answer in answers.items():
            if isinstance(answer, BaseException):
                raise StudyError(f"worker {worker} cannot import llmsched ({answer}): install llmsched {version} there")
            if answer != version:
                raise StudyError(_other_version(worker, answer))

    def _ship(self, name: str) -> Any:
        """The trace, as the result of a task: Dask gives it to every worker that needs it, and makes it again where
        the workers that had it are gone."""
        key = f"llmsched-trace-{fingerprint(self.plan.traces[name])}"
        return self._client.submit(_unpacked, pickle.dumps(self.plan.read[name]), key=key)

    @property
    def count(self) -> int:
        """Threads of all workers, as of a moment ago."""
        now = time.monotonic()
        if now - self._asked > _NEWS:
            self._asked = now
            with contextlib.suppress(OSError, ValueError):
                before, self._threads = self._threads, sum(self._client.nthreads().values())
                if before not in (None, self._threads):
                    _tell_of_workers(self.address, before, self._threads)
        return max(self._threads or 0, 1)

    def __str__(self) -> str:
        return f"Dask scheduler {self.address}, {number_of(self.count, 'thread')}"

    def submit(self, unit: WorkUnit) -> Future:
        """Have a work unit done. Unit and trace travel to the worker; the trace does so once."""
        trace = self._traces.get(list(self.plan.workloads)[unit.workload])
        future: Future = self._client.submit(_on_worker, unit, trace, pure=False)
        return future

    def died_of(self, unit: WorkUnit, error: BaseException) -> bool:
        """Whether several workers died of this unit (Dask then gives up). Raises StudyError if it was the scheduler."""
        from distributed.scheduler import KilledWorker

        if isinstance(error, (CancelledError, asyncio.CancelledError)):
            raise self._gone() from None
        return isinstance(error, KilledWorker)

    def check_alive(self) -> None:
        """Raise StudyError if the scheduler is gone."""
        if self._client.status not in ("running", "newly-created"):
            raise self._gone()

    def _gone(self) -> StudyError:
        return StudyError(
            f"the scheduler at {self.address} does not answer any more. What was reported done is on disk; run the "
            "same command again once it is back"
        )

    def close(self) -> None:
        """Give up what is under way, and leave the scheduler alone."""
        with contextlib.suppress(Exception):  # it may be gone
            self._client.close(timeout=2)


def _tell_of_workers(address: str, before: int, now: int) -> None:
    """Log that workers came, or went."""
    what, level = ("lost", logging.WARNING) if now < before else ("more", logging.INFO)
    _log.log(level, "workers %s: the scheduler %s has %s, and had %d", what, address, number_of(now, "thread"), before)


def _connected(address: str, patience: float) -> Any:
    try:
        from distributed import Client
    except ImportError:
        raise MissingExtraError("distributed", "cluster", "a cluster") from None
    try:
        connect: Any = Client  # it has no types
        return connect(address, timeout=patience, set_as_default=False, name="llmsched-study")
    except (OSError, ValueError, TimeoutError) as error:
        if isinstance(error, ValueError):
            raise StudyError(f"{address!r} is no address of a Dask scheduler, such as tcp://10.0.0.1:8786") from None
        raise StudyError(
            f"no Dask scheduler answers at {address} within {patience:g} s: is it running ('dask scheduler'), and can "
            "this machine reach it?"
        ) from None


def _other_version(worker: str, found: str) -> str:
    return f"worker {worker} has llmsched {found}, and this is {version}: install the same version on all"


# On the workers -------------------------------------------------------------------------------------------------------


def _unpacked(trace: bytes) -> Trace:
    read: Trace = pickle.loads(trace)
    return read


def _on_worker(unit: WorkUnit, trace: Trace | None) -> UnitResults | None:
    if unit.version != version:  # a worker that came later
        from distributed import get_worker

        raise StudyError(f"worker {get_worker().address} has llmsched {version}, the study is run by {unit.version}")
    return simulate_unit(unit, trace)
