"""About how long a study takes: a few of its simulations are timed."""

from __future__ import annotations

import dataclasses
import time

from ..progress import with_seconds
from .plan import Plan
from .study_file import StudyFile
from .work_list import WorkList
from .worker import Failure, simulate_unit

#: Seconds to seconds_each on each workload, at most about four times as many on all.
_SECONDS_PER_WORKLOAD = 0.5


@dataclasses.dataclass(frozen=True)
class Estimate:
    """What a study is expected to take.

    Attributes
    ----------
    cells, simulations
        How many there are; with a precision, `simulations` are those before the first look at it.
    seconds
        For these, on one worker.
    tried
        Simulations that were timed.
    failures
        What failed among them.
    """

    cells: int
    simulations: int
    seconds: float
    tried: int
    failures: tuple[Failure, ...]


@with_seconds("timing")
def estimate(study: StudyFile, plan: Plan) -> Estimate:
    """Time the first replications of every workload."""
    work_list = WorkList(plan, study.replications, study.precision)
    seconds_each = min(_SECONDS_PER_WORKLOAD, 4 * _SECONDS_PER_WORKLOAD / len(plan.workloads))
    seconds, tried, failed = 0.0, 0, []
    per_workload = [0] * len(plan.workloads)
    for cell, wanted in zip(plan.cells, work_list.wanted.tolist(), strict=True):
        per_workload[cell.workload] += wanted
    for workload, simulations in enumerate(per_workload):
        size, took, done = 1, 0.0, 0
        while took < seconds_each and done < simulations:
            begin = time.perf_counter()
            unit = work_list.hand_out(workload, max(size, sum(c.workload == workload for c in plan.cells)))
            found = simulate_unit(unit, plan.read.get(list(plan.workloads)[workload]))
            assert found is not None
            took += time.perf_counter() - begin
            done, size = done + len(found), 2 * len(found)
            failed += found.failures
        tried += done
        seconds += took * simulations / max(done, 1)
    return Estimate(len(plan.cells), work_list.total, seconds, tried, tuple(failed))
