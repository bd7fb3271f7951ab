"""optimal(): the schedule of least total latency of a small instance, proven, or with a proven gap when time is up.

How (see `exact_search`): decisions round by round, compiled; states that can no longer win are pruned by dual prices of
linear relaxations that HiGHS solves. The time-indexed integer program, given to HiGHS or to CP-SAT as it is, proves
far fewer (docs/background/optimum.md has the measurements). CP-SAT is not offered besides: it has no dual prices to
give, and highspy 1.15 and ortools 9.15 cannot be imported into one process (google/or-tools issue 5246).
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable
from typing import Literal

import numpy as np

from .._logging import logger
from ..errors import InputError, nearest
from ..policy import policies
from ..progress import with_bar
from ..simulation.problem import problem_of
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload, refuse_think_times
from .exact_search import MOST_MEMORY, MOST_REQUESTS, Instance, Search, highs, silent_solver, time_indexed
from .lower_bounds import lower_bound
from .planner import Progress, plan_starts, seconds_of, seconds_told
from .schedule import Schedule, total_latency

_log = logger(__name__)

Solver = Literal["search", "highs"]
Tell = Callable[[], None]
SOLVERS: tuple[Solver, ...] = ("search", "highs")

_MOST_ENTRIES = 2_000_000  # of the relaxation's matrix: about Σ output × makespan
_MOST_ROUNDS = 100_000
_ALTERNATIVES = (
    "(Within a minute it proves an optimum for about 16 requests of up to 20 tokens, and nearly one for 20.) "
    "lower_bound() and best_known() bracket the optimum for any number, as does llmsched bound without --exact"
)
_WIDTHS = ((500, True), (4_000, False), (32_000, False), (4_000, True), (256_000, False), (32_000, True))
_GROWTH = 1.4  # of the time from one B to the next, at first...
_LEAST_GROWTH, _MOST_GROWTH = 1.15, 3.0  # ...and as it may be measured
_SHARES = (0.25, 0.5, 0.8)  # of the time that is left, for the first such questions; the last also for those after them
_PLANS = 300  # iterations of the planner for the first schedule


@with_bar("searching", "seconds")
def optimal(
    workload: Workload,
    *,
    memory: int,
    time_limit: float | None = 60.0,
    solver: Solver = "search",
    seed: int = 0,
    progress: Progress | None = None,
) -> Schedule:
    """The schedule of least total latency among all that never interrupt a request.

    If time or memory (one or two gigabytes) runs out first, the best schedule found with the bound proven until then.
    Schedules are compared on one grid of rounds, which begins at the first arrival: a request may start at the start
    of any round from its arrival on. With whole arrivals nothing better exists between the rounds. With fractional ones
    a policy may do better by less than a round per request, since after an idle time its rounds begin with the next
    arrival.

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
    progress
        Called now and then with (seconds of the search that are over, seconds at most; None without a limit). The
        solver ``"highs"`` calls nobody.

    Raises
    ------
    WorkloadError
        It has think times.
    InputError
        The instance is too large (the message says what can be done), or an argument is not usable.
    MemoryTooSmallError
        A request can never fit (names it, and the memory that would do).
    MissingExtraError
        highspy is not installed (extra `optimum`).
    """
    began = time.perf_counter()
    if not isinstance(workload, Workload):
        raise InputError(f"optimal needs a llmsched.Workload, not {type(workload).__name__}")
    refuse_think_times(workload, "optimal")
    if solver not in SOLVERS:
        raise InputError(f"there is no solver {solver!r}; {nearest(str(solver), SOLVERS)}")
    memory = problem_of(workload, policies["hsf"], memory, None).memory
    limit, seed = seconds_of(time_limit), whole("seed", seed, 0, LARGEST_SEED)
    _check_size(workload, memory)
    highs("the exact optimum")
    if not len(workload):
        return Schedule(workload, memory, np.empty(0), 0.0, True, solver, time.perf_counter() - began)
    incumbent = _Incumbent(workload, memory, seed)
    solve = _searched if solver == "search" else _integer_program
    least, effort = solve(incumbent, began + limit, seconds_told(progress, limit))
    found = incumbent.schedule()
    offset = total_latency(workload, incumbent.origin + np.zeros(len(workload)))
    proven = least >= int(incumbent.start.sum())
    bound = total_latency(workload, found) if proven else least + offset
    seconds = time.perf_counter() - began
    return Schedule(workload, memory, found, bound, proven, solver, seconds, effort).verified()


def _check_size(workload: Workload, memory: int) -> None:
    n = len(workload)
    if n > MOST_REQUESTS:
        raise InputError(f"optimal handles at most {MOST_REQUESTS} requests, not {n}. {_ALTERNATIVES}")
    if n and (span := float(workload.arrival.max() - workload.arrival.min())) > _MOST_ROUNDS:
        raise InputError(f"optimal handles arrivals within {_MOST_ROUNDS} rounds, not {span:g}. {_ALTERNATIVES}")
    if (most := min(memory, _all_at_once(workload.prompt, workload.output))) > MOST_MEMORY:
        raise InputError(f"optimal handles caches of up to {MOST_MEMORY:,} tokens, not {most:,}. {_ALTERNATIVES}")


def _all_at_once(prompt: IntArray, output: IntArray) -> int:
    """More memory than everybody takes together at the end is of no use."""
    return int(prompt.sum() + output.sum())


class _Incumbent:
    """The best schedule so far of the instance as the search sees it: starts in rounds from the first arrival."""

    def __init__(self, workload: Workload, memory: int, seed: int) -> None:
        self.workload = workload
        self.origin = float(workload.arrival.min())
        release = np.ceil(workload.arrival - self.origin).astype(np.int64)
        volume = workload.prompt * workload.output + workload.output * (workload.output + 1) // 2
        # Of equal requests the first to arrive comes first; the small ones first find good schedules first.
        self.order = np.lexsort((release, workload.output, volume))
        columns = (workload.prompt[self.order], workload.output[self.order], release[self.order])
        self.instance = Instance(*columns, min(memory, _all_at_once(*columns[:2])))
        on_grid = workload.take(self.order).replace(arrival=columns[2])
        self.bound = int(lower_bound(on_grid, memory=memory).value) - int((columns[1] - columns[2]).sum())
        goal = float(self.bound + (columns[1] - columns[2]).sum())
        plan, _ = plan_starts(on_grid, memory, goal, math.inf, _PLANS, seed)
        self.start: IntArray = np.rint(plan).astype(np.int64)
        entries = int(columns[1].sum()) * self.makespan
        if entries > _MOST_ENTRIES:
            raise InputError(
                f"optimal handles short requests: all output tokens × makespan is about {entries:.3g} here, and may be "
                f"at most {_MOST_ENTRIES:.3g}. {_ALTERNATIVES}"
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


class _Passes:
    """The passes of the search over one instance, and what is proven so far: Σ starts >= `least`."""

    def __init__(self, incumbent: _Incumbent, deadline: float, tell: Tell | None) -> None:
        self.incumbent, self.count = incumbent, 0
        self.search = Search(incumbent.instance, incumbent.makespan + 2, deadline, tell=tell)
        self.least = max(incumbent.bound, self.search.root_bound)

    @property
    def over(self) -> bool:
        return self.least >= self.incumbent.total or self.search.late

    @property
    def effort(self) -> dict[str, int]:
        return {"passes": self.count, "states": self.search.states, "programs": self.search.relaxation.solved}

    def run(self, limit: int, width: int | None = None, *, beam: bool) -> float:
        """One more pass; returns the seconds it took."""
        before = self.search.seconds_left
        result = self.search.run(limit, min(width or self.search.widest, self.search.widest), beam=beam)
        self.count += 1
        self.incumbent.offer(result.start)
        self.least = max(self.least, min(result.bound, self.incumbent.total))
        kind, states = "beam" if beam else "proof", self.search.states
        told = "optimal: pass %d (%s, %d states so far): the sum of starts is from %d to %d"
        _log.info(told, self.count, kind, states, self.least, self.incumbent.total)
        return before - self.search.seconds_left if math.isfinite(before) else 0.0


def _searched(incumbent: _Incumbent, deadline: float, tell: Tell | None) -> tuple[int, dict[str, int]]:
    """Improve the incumbent; returns a bound on Σ starts, and the work done.

    First passes of a few sizes: beams find good schedules, those between prove what they can with so many states. Then
    questions "Σ starts <= B?", for as many B above what is proven as there is likely to be time for.
    """
    if incumbent.bound >= incumbent.total:
        return incumbent.bound, {}
    passes = _Passes(incumbent, deadline, tell)
    seconds = 0.0  # of the last pass that is no beam
    for width, beam in _WIDTHS:
        if not passes.over:
            took = passes.run(incumbent.total - 1, width, beam=beam)
            seconds = seconds if beam else took
    growth, gained = _GROWTH, 1
    for share in itertools.chain(_SHARES, itertools.repeat(_SHARES[-1])):
        if passes.over:
            break
        step = 1
        if gained:
            factor = share * passes.search.seconds_left / max(seconds, 0.01) if math.isfinite(deadline) else growth**2
            step = max(1, int(math.log(max(1.0, factor), growth)))
        before, took = passes.least, passes.run(min(incumbent.total, passes.least + step) - 1, beam=False)
        if step == 1 and passes.least == before:
            break  # with all the states there is room for
        gained = passes.least - before
        if gained and math.isfinite(deadline) and share != _SHARES[0]:
            growth = min(_MOST_GROWTH, max(_LEAST_GROWTH, (took / max(seconds, 0.01)) ** (1 / gained)))
        seconds = took
    return passes.least, passes.effort


def _integer_program(incumbent: _Incumbent, deadline: float, tell: Tell | None) -> tuple[int, dict[str, int]]:
    """The time-indexed integer program as it is, given the best schedule and no starts too late to beat it."""
    highspy = highs("the exact optimum")
    instance, least = incumbent.instance, incumbent.bound
    if least >= incumbent.total:
        return least, {}
    n = len(instance.output)
    # In a better schedule nobody starts so late that the others, all at their arrivals, could not make up for it.
    latest = incumbent.total - 1 - instance.release.sum() + instance.release
    horizon = int(min((latest + instance.output).max(), instance.horizon))
    last = np.minimum(latest, horizon - instance.output)
    request = np.repeat(np.arange(n), np.maximum(0, last + 1 - instance.release))
    first = np.searchsorted(request, np.arange(n))
    at = np.arange(len(request)) - first[request] + instance.release[request]
    model = time_indexed(highspy, instance, request, at, horizon)
    model.integrality_ = [highspy.HighsVarType.kInteger] * len(at)
    solver = silent_solver(highspy)
    solver.setOptionValue("mip_rel_gap", 0.0)
    solver.setOptionValue("mip_abs_gap", 0.999)
    remaining = deadline - time.perf_counter()
    if math.isfinite(remaining):
        solver.setOptionValue("time_limit", max(0.0, remaining))
    solver.passModel(model)
    hint = highspy.HighsSolution()
    hint.col_value = (incumbent.start[request] == at).astype(np.float64)
    solver.setSolution(hint)
    solver.run()
    info = solver.getInfo()
    values = np.array(solver.getSolution().col_value)
    if len(values) == len(at):
        chosen = values > 0.5
        if np.array_equal(request[chosen], np.arange(n)):
            incumbent.offer(at[chosen])
    proven = math.ceil(info.mip_dual_bound - 1e-6) if math.isfinite(info.mip_dual_bound) else least
    return max(least, min(proven, incumbent.total)), {"nodes": int(info.mip_node_count)}
