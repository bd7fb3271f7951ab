"""Study: a study file that can be run. What it does is in `plan`, `runner`, `store` and `worker`."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic.dataclasses import dataclass

from ..progress import with_bar
from ..simulation.result import Result
from . import plan as plans
from . import runner, store, worker
from .file_entries import CONFIG
from .study_file import StudyFile, stating_mistakes

if TYPE_CHECKING:
    import pyarrow


@dataclass(frozen=True, kw_only=True, config=CONFIG, repr=False)
class Study(StudyFile):
    """A Monte Carlo study. The fields are the keys of the study file.

    Every combination of a workload, an interval setting, a policy, a memory and the other factors (clocks, machines,
    rates, limits of the engine) is a *cell*. Replication k of every cell sees the same requests, intervals and ranks
    (common random numbers), so that differences are paired.

    Raises StudyError, which names every mistake, when the values do not make a study.
    """

    def plan(self, traces: str | os.PathLike[str] = ".") -> plans.Plan:
        """The study with everything read that it names; files are relative to the directory `traces`.

        Raises TraceError, InputError or OSError for what cannot be read.
        """
        return plans.make(self, Path(traces))

    def quick(self, traces: str | os.PathLike[str] = ".") -> Self:
        """A small study to try whether it works: 5 replications (16 before the first look), and fewer requests.

        A workload has a tenth of its requests, but as many as fill the largest cache 4 times, or policies would not
        differ; of these 5,000 at most, and never more than it had. Files are relative to `traces`, errors those of
        `plan`.
        """
        plan = self.plan(traces)
        small = [
            dataclasses.replace(entry, requests=_quick_requests(plan, w)) for w, entry in enumerate(self.workloads)
        ]
        if self.precision is None:
            return self.replace(workloads=tuple(small), replications=min(self.replications or 5, 5))
        precision = dataclasses.replace(self.precision, first=16, most=min(self.precision.most, 64))
        return self.replace(workloads=tuple(small), precision=precision)

    @with_bar("simulating", "simulations", lambda status: (status.done, status.total))
    def run(
        self,
        out: str | os.PathLike[str],
        *,
        executor: Executor | None = None,
        cluster: str | None = None,
        workers: int | None = None,
        traces: str | os.PathLike[str] = ".",
        extend: bool = False,
        repair: bool = False,
        retry: bool = False,
        other_versions: bool = False,
        progress: Callable[[runner.Status], None] | None = None,
    ) -> runner.Status:
        """Simulate what is not yet in the directory `out`, and return how it went. Call it again after anything.

        Parameters
        ----------
        out
            The directory of the results; made if there is none.
        executor
            Where the work is done: any `concurrent.futures.Executor`. None: threads of this process.
        cluster
            Instead of that, the address of a Dask scheduler, such as ``"tcp://10.0.0.1:8786"`` (extra `cluster`).
        workers
            Threads of this process; None for one per processor.
        traces
            The directory to which the names of traces and clock files are relative.
        extend
            Let this study add to the results of a smaller one.
        repair
            Put damaged files aside and simulate what was in them again.
        retry
            Simulate again what failed.
        other_versions
            Add to results of another version of llmsched or NumPy: ``manifest.json`` says which part is whose.
        progress
            Called about twice a second from the calling thread.

        Raises
        ------
        StudyError
            The directory holds another study or damaged files, is in use or on a full disk; the cluster cannot be used.
            What was reported done is kept, and the next call goes on.
        """
        return runner.run(
            self,
            Path(out),
            executor=executor,
            cluster=cluster,
            workers=workers,
            traces=Path(traces),
            extend=extend,
            repair=repair,
            retry=retry,
            other_versions=other_versions,
            progress=progress,
        )

    def results(self, out: str | os.PathLike[str]) -> pyarrow.Table:
        """The rows of this study in the directory `out`; see `llmsched.study.results`."""
        return store.results(out)

    def simulate(self, replication: int, *, traces: str | os.PathLike[str] = ".", **cell: Any) -> Result:
        """One simulation of the study alone: ``study.simulate(17, policy="amin", memory=16492)``.

        `cell` names the workload, intervals, policy, memory and so on; what there is only one of can be left out.
        Raises InputError for names that are not in the study, and what `llmsched.simulate` raises.
        """
        return worker.simulate_one(self.plan(traces), replication, **cell)


#: Of a quick study: how often the requests fill the cache, the most requests for that, and those of a trace that are
#: taken for all if the study does not say how many it wants.
_FILLS, _MOST, _OF_TRACE = 4, 5000, 2000


def _quick_requests(plan: plans.Plan, workload: int) -> int:
    """How many requests of a workload a quick study takes."""
    cells = [cell for cell in plan.cells if cell.workload == workload]
    name, entry = list(plan.workloads.items())[workload]
    tenth = -(-(entry.requests or _OF_TRACE) // 10)
    if not cells:
        return tenth
    drawn = plans.draw(
        plan.workload_of(cells[0]), plan.read.get(name, {}).get(""), plans.replication_seed(plan.seed, 0)
    )
    filled = _FILLS * max(plan.memory_of(cell) for cell in cells)
    needed = 1 + int(np.searchsorted(np.cumsum(drawn.prompt + drawn.output), filled))
    return max(1, min(max(tenth, min(needed, _MOST)), len(drawn)))


Study.__init__ = stating_mistakes(Study.__init__)  # type: ignore[method-assign]  # the one that pydantic made
