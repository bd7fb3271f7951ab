"""optimal(): the schedule of least total latency of a small instance, proven, or with a proven gap when time is up.

How (see `search`): decisions round by round; states that can no longer win are pruned by dual prices of linear
relaxations that HiGHS solves. The time-indexed integer program, given to HiGHS or to CP-SAT as it is, proves far fewer
(docs/background/optimum.md has the measurements). CP-SAT is not offered besides: it has no dual prices to give, and
highspy 1.15 and ortools 9.15 cannot be imported into one process (google/or-tools issue 5246).
"""

from __future__ import annotations

import math
import time
from typing import Literal

import numpy as np

from .arguments import LARGEST_SEED, whole
from .bounds import lower_bound
from .errors import InputError, nearest
from .lowering import lower
from .planner import planned, seconds_of
from .policy import policies
from .schedule import Schedule, total_latency
from .search import MOST_REQUESTS, Instance, Search, highs, time_indexed
from .workload import FloatArray, IntArray, Workload

Solver = Literal["search", "highs"]
SOLVERS: tuple[Solver, ...] = ("search", "highs")

_MOST_ENTRIES = 2_000_000  # of the relaxation's matrix: about Σ output × makespan
_MOST_ROUNDS = 100_000
_INSTEAD = (
    "(It proves an optimum for about 16 requests of up to 20 tokens within a minute.) "
    "lower_bound() and best_known() bracket the optimum for any number, as does llmsched bound without --exact"
)
_FIRST_WIDTH = 500
_PLANS = 300  # iterations of the planner for the first schedule


def optimal(
    workload: Workload,
    memory: int,
    *,
    time_limit: float | None = 60.0,
    solver: Solver = "search",
    seed: int = 0,
) -> Schedule:
    """The schedule of least total latency among all that never interrupt a request.

    If time runs out first, the best schedule found with the bound proven until then. Schedules are compared on one grid
    of rounds, which begins at the first arrival: a request may start at the beginning of any round from its arrival on.
    With whole arrivals nothing better exists between the rounds. With fractional ones a policy may do better by less
    than a round per request, since after an idle time its rounds begin with the next arrival.

    Parameters
    ----------
    workload
        At most 50 requests. Predictions do not matter.
    memory
        M, tokens of cache.
    time_limit
        Seconds, or None for as long as it takes. Whether the optimum is proven within a limit depends on the machine;
        the optimum itself does not.
    solver
        ``"search"``, or ``"highs"``: the plain time-indexed integer program, far slower beyond 12 requests. It is there
        to check the search.
    seed
        Of the planner that provides the first schedule.

    Raises
    ------
    InputError
        The instance is too large (the message says what can be done), or an argument is not usable.
    MemoryTooSmallError
        A request can never fit (names it, and the memory that would do).
    MissingExtraError
        highspy is not installed: ``pip install 'llmsched[optimum]'``.
    """
    began = time.perf_counter()
    if not isinstance(workload, Workload):
        raise InputError(f"optimal needs a llmsched.Workload, not {type(workload).__name__}")
    if solver not in SOLVERS:
        raise InputError(f"there is no solver {solver!r}; {nearest(str(solver), SOLVERS)}")
    memory = lower(workload, policies["hsf"], memory, None).memory
    limit, seed = seconds_of(time_limit), whole("seed", seed, 0, LARGEST_SEED)
    _check_size(workload)
    highs("the exact optimum")
    if not len(workload):
        return Schedule(workload, memory, np.empty(0), 0.0, True, solver, time.perf_counter() - began)
    problem = _Problem(workload, memory, seed)
    solve = _searched if solver == "search" else _integer_program
    least, effort = solve(problem, began + limit)
    found = problem.schedule()
    offset = total_latency(workload, problem.origin + np.zeros(len(workload)))
    proven = least >= int(problem.start.sum())
    bound = total_latency(workload, found) if proven else least + offset
    seconds = time.perf_counter() - began
    return Schedule(workload, memory, found, bound, proven, solver, seconds, effort).verified()


def _check_size(workload: Workload) -> None:
    n = len(workload)
    if n > MOST_REQUESTS:
        raise InputError(f"optimal handles at most {MOST_REQUESTS} requests, not {n}. {_INSTEAD}")
    if n and (span := float(workload.arrival.max() - workload.arrival.min())) > _MOST_ROUNDS:
        raise InputError(f"optimal handles arrivals within {_MOST_ROUNDS} rounds, not {span:g}. {_INSTEAD}")


class _Problem:
    """The instance as the search sees it, and the best starts (in rounds from the first arrival) so far."""

    def __init__(self, workload: Workload, memory: int, seed: int) -> None:
        self.workload = workload
        self.origin = float(workload.arrival.min())
        release = np.ceil(workload.arrival - self.origin).astype(np.int64)
        volume = workload.prompt * workload.output + workload.output * (workload.output + 1) // 2
        # Of equal requests the first to arrive comes first; the small ones first find good schedules first.
        self.order = np.lexsort((release, workload.output, volume))
        columns = (workload.prompt[self.order], workload.output[self.order], release[self.order])
        self.instance = Instance(*columns, memory)
        on_grid = workload.take(self.order).replace(arrival=columns[2])
        self.bound = int(lower_bound(on_grid, memory).value) - int((columns[1] - columns[2]).sum())
        goal = float(self.bound + (columns[1] - columns[2]).sum())
        plan, _ = planned(on_grid, memory, goal, math.inf, _PLANS, seed)
        self.start: IntArray = np.rint(plan).astype(np.int64)
        entries = int(columns[1].sum()) * self.makespan
        if entries > _MOST_ENTRIES:
            raise InputError(
                f"optimal handles short requests: all output tokens × makespan is about {entries:.3g} here, and may be "
                f"at most {_MOST_ENTRIES:.3g}. {_INSTEAD}"
            )

    @property
    def total(self) -> int:
        """Σ starts of the best schedule so far."""
        return int(self.start.sum())

    @property
    def makespan(self) -> int:
        return int((self.start + self.instance.output).max())

    def offer(self, start: IntArray | None) -> None:
        """Keep the starts if they are better."""
        if start is not None and int(start.sum()) < self.total:
            self.start = start

    def schedule(self) -> FloatArray:
        """The best starts as times, in the workload's order."""
        start = np.empty(len(self.start))
        start[self.order] = self.origin + self.start
        return start


def _searched(problem: _Problem, deadline: float) -> tuple[int, dict[str, int]]:
    """Improve the problem's starts; returns a bound on Σ starts, and the work done.

    First a narrow beam, for a good schedule. Then questions "Σ starts <= B?", about halfway between what is proven and
    what is known, since each takes much longer than one for a smaller B, and its prices serve the next.
    """
    least = problem.bound
    if least >= problem.total:
        return least, {}
    search = Search(problem.instance, problem.makespan + 2, deadline)
    least = max(least, search.root_bound)
    width, passes = _FIRST_WIDTH, 0
    beam, step = True, 1.0
    while least < problem.total and not search.late:
        above = problem.total - 1 - least
        limit = problem.total - 1 if beam else least + math.ceil(step * above)
        answer = search.run(limit, width if beam else search.most // 4, beam=beam)
        passes += 1
        problem.offer(answer.start)
        least = max(least, min(answer.bound, problem.total))
        if beam:
            beam, step = False, 0.5
        elif not answer.complete and step * above <= 1:
            beam, width = True, 8 * width  # not even the next value can be settled: look for better schedules
            if width > search.most:
                break
        elif not answer.complete:
            step /= 2
    return least, {"passes": passes, "states": search.states, "programs": search.relaxation.solved}


def _integer_program(problem: _Problem, deadline: float) -> tuple[int, dict[str, int]]:
    """The time-indexed integer program as it is, given the best schedule and no starts too late to beat it."""
    highspy = highs("the exact optimum")
    instance, least = problem.instance, problem.bound
    if least >= problem.total:
        return least, {}
    n = len(instance.output)
    # In a better schedule nobody starts so late that the others, all at their arrivals, could not make up for it.
    latest = problem.total - 1 - instance.release.sum() + instance.release
    horizon = int(min((latest + instance.output).max(), instance.horizon))
    last = np.minimum(latest, horizon - instance.output)
    request = np.repeat(np.arange(n), np.maximum(0, last + 1 - instance.release))
    first = np.searchsorted(request, np.arange(n))
    at = np.arange(len(request)) - first[request] + instance.release[request]
    model = time_indexed(highspy, instance, request, at, horizon)
    model.integrality_ = [highspy.HighsVarType.kInteger] * len(at)
    solver = highspy.Highs()
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.999)
    remaining = deadline - time.perf_counter()
    if math.isfinite(remaining):
        solver.setOptionValue("time_limit", max(0.0, remaining))
    solver.passModel(model)
    hint = highspy.HighsSolution()
    hint.col_value = (problem.start[request] == at).astype(np.float64)
    solver.setSolution(hint)
    solver.run()
    info = solver.getInfo()
    values = np.array(solver.getSolution().col_value)
    if len(values) == len(at):
        chosen = values > 0.5
        if np.array_equal(request[chosen], np.arange(n)):
            problem.offer(at[chosen])
    proven = math.ceil(info.mip_dual_bound - 1e-6) if math.isfinite(info.mip_dual_bound) else least
    return max(least, min(proven, problem.total)), {"nodes": int(info.mip_node_count)}
