"""best_known(): a clairvoyant planner, which knows all lengths and arrivals and improves schedules by local search.

Greedy policies admit whatever fits. The planner chooses starts: it may stagger equal requests, so that they do not all
reach their full size at once, hold memory back, and repair a schedule anywhere. Together with `lower_bound` it brackets
the optimum.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import numpy as np

from .._logging import logger
from ..errors import InputError, WorkloadError
from ..policy import Policy, policies
from ..progress import with_bar
from ..simulation.problem import problem_of
from ..simulation.run import simulate
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.columns import FloatArray, IntArray
from ..workloads.workload import Workload, refuse_think_times
from .fluid_relaxation import volumes
from .lower_bounds import lower_bound
from .schedule import Schedule, peak_memory, total_latency

_log = logger(__name__)

#: Called with (seconds that are over, seconds at most; None without a limit).
Progress = Callable[[float, float | None], None]

# Order by o·(s + (o+1)/2)^x: shortest first at x = 0, smallest volume first at 1. Which is best depends on the prompts.
_EXPONENTS = (0.0, 0.5, 0.75, 1.0, 1.25, 1.5)
# Staggered starts: the fluid schedule stretched so much. Equal requests fill memory only in part, hence above 1.
_STRETCHES = (1.0, 1.04, 1.08, 1.12, 1.16, 1.2)
_FINER_STRETCHES = (0.02, 0.01, 0.005, 0.0025)  # then on both sides of the best
_MOST_PLACED = 5000  # requests; laying out a whole schedule request by request takes too long for more
_MOST_ROUNDS = 10_000_000  # of a memory profile in one array
_MOST_REMOVED = 15  # requests taken out and put back at once; measured: fewer find less, more succeed too rarely
_NOISE = (0.1, 0.3, 0.8)
_COMPACT_EVERY = 500


@with_bar("planning", "seconds")
def best_known(
    workload: Workload,
    *,
    memory: int,
    time_limit: float | None = 10.0,
    iterations: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Schedule:
    """The best schedule that could be found in the given time, with a proven bound on what any could reach.

    It starts from the best of several schedules: greedy ones by the engine in different orders, the fluid schedule of
    `lower_bounds.busy_bound` staggered and made feasible, each request at the earliest time that leaves those before it
    alone. Then it takes a few requests that run at about the same time out and puts them back in another order, keeps
    what is no worse, and now and then moves every request to the earliest time at which it fits.

    Parameters
    ----------
    workload
        The requests, with their true lengths. Predictions do not matter.
    memory
        M, tokens of cache.
    time_limit
        Seconds to search, or None for no limit (then `iterations` is needed). The first schedules and the bound come on
        top of it.
    iterations
        How often requests are taken out and put back. With `time_limit=None` the result depends on the input and the
        seed alone.
    seed
        0 <= seed < 2**64.
    progress
        Called now and then with (seconds of the search that are over, seconds at most; None without a limit).

    Raises
    ------
    MemoryTooSmallError
        A request can never fit (names it, and the memory that would do).
    WorkloadError
        It has think times.
    InputError
        Another argument is not usable.
    """
    began = time.perf_counter()
    if not isinstance(workload, Workload):
        raise InputError(f"best_known needs a llmsched.Workload, not {type(workload).__name__}")
    refuse_think_times(workload, "best_known")
    memory = problem_of(workload, policies["hsf"], memory, None).memory
    limit, rounds = budget(time_limit, iterations)
    seed = whole("seed", seed, 0, LARGEST_SEED)
    most = limit if math.isfinite(limit) else None
    not_yet = None if progress is None else lambda *_: progress(0.0, most)
    bound = lower_bound(workload, memory=memory, progress=not_yet).value
    plan, done = plan_starts(workload, memory, bound, limit, rounds, seed, progress)
    total = total_latency(workload, plan)
    proven = total <= bound
    _log.info("plan: a total latency of %.10g after %d iterations; the bound is %.10g", total, done, bound)
    seconds = time.perf_counter() - began
    return Schedule(workload, memory, plan, bound, proven, "best_known", seconds, {"iterations": done}).verified()


def budget(time_limit: float | None, iterations: int | None) -> tuple[float, int]:
    """Seconds and iterations, infinite where there is no limit. Raises InputError."""
    if time_limit is None and iterations is None:
        raise InputError("time_limit=None needs a number of iterations, or the search would never end")
    if iterations is not None:
        iterations = whole("iterations", iterations, 0)
    return seconds_of(time_limit), 2**62 if iterations is None else iterations


def seconds_of(time_limit: float | None, name: str = "time_limit") -> float:
    """The limit in seconds, infinite for None. Raises an InputError that calls it `name`."""
    if time_limit is None:
        return math.inf
    number = isinstance(time_limit, (int, float, np.integer, np.floating)) and not isinstance(time_limit, bool)
    if not number or not time_limit >= 0:
        raise InputError(f"{name} must be a number of seconds of at least 0, not {time_limit!r}")
    return float(time_limit)


def seconds_told(progress: Progress | None, limit: float) -> Callable[[], None] | None:
    """What tells `progress` how many seconds are over since now."""
    if progress is None:
        return None
    began = time.perf_counter()
    return lambda: progress(min(time.perf_counter() - began, limit), limit if math.isfinite(limit) else None)


def plan_starts(
    workload: Workload,
    memory: int,
    bound: float,
    time_limit: float,
    iterations: int,
    seed: int,
    progress: Progress | None = None,
) -> tuple[FloatArray, int]:
    """Starts of the best schedule found, and how many iterations that took; stops early at the bound."""
    best: FloatArray = np.empty(0)
    least = math.inf
    for start in _first_schedules(workload, memory):
        if progress is not None:
            progress(0.0, time_limit if math.isfinite(time_limit) else None)
        total = total_latency(workload, start)
        if total < least:
            least, best = total, start
    _log.debug("plan: the best first schedule has a total latency of %.10g, the bound is %.10g", least, bound)
    if not len(workload) or least <= bound or not iterations:
        return best, 0
    origin = float(workload.arrival.min())
    on_grid = _to_grid(workload, memory, best, origin)
    if on_grid is None:
        return best, 0
    timetable = Timetable(workload, memory, on_grid)
    goal = bound - float(workload.output.sum()) + float((workload.arrival - origin).sum())
    rng, deadline = np.random.default_rng(seed), time.perf_counter() + time_limit
    done = local_search(timetable, deadline, iterations, rng, goal, seconds_told(progress, time_limit))
    found: FloatArray = origin + timetable.start.astype(np.float64)
    _log.debug("plan: %d iterations later %.10g", done, total_latency(workload, found))
    # Arrivals at fractions of a round: a greedy schedule may start some requests between the rounds of the grid.
    return (found if total_latency(workload, found) < least else best), done


# Schedules to start from ----------------------------------------------------------------------------------------------


def _first_schedules(workload: Workload, memory: int) -> Iterator[FloatArray]:
    size = workload.prompt + (workload.output + 1) / 2
    orders = [np.log(workload.output) + x * np.log(size) for x in _EXPONENTS]
    for order in orders:
        for fill in ("skip", "break"):
            policy = Policy(order=order, reserve="output", evict="progress", refine="none", fill=fill)
            yield simulate(workload, policy, memory=memory, seed=None).start
    if not 0 < len(workload) <= _MOST_PLACED or _too_long(workload, workload.arrival, workload.extent.tokens):
        return
    origin = float(workload.arrival.min())
    release = _releases(workload, origin)
    for order in orders[2:5]:
        yield origin + _in_order(workload, memory, np.argsort(order, kind="stable"), release).astype(np.float64)
    if not release.any():
        yield origin + _best_staggered(workload, memory).astype(np.float64)


def _releases(workload: Workload, origin: float) -> IntArray:
    """First round, counted from `origin`, in which each request can start."""
    return np.ceil(workload.arrival - origin).astype(np.int64)


def _in_order(workload: Workload, memory: int, order: IntArray, release: IntArray) -> IntArray:
    """Each request in turn at its earliest start that leaves all before it where they are."""
    timetable = Timetable(workload, memory)
    for i in order.tolist():
        timetable.put(i, int(release[i]))
    return timetable.start


def _best_staggered(workload: Workload, memory: int) -> IntArray:
    """The staggered schedule whose pace is best, by trying coarse steps and then finer ones around the best."""
    tried = {stretch: _staggered(workload, memory, stretch) for stretch in _STRETCHES}
    for step in _FINER_STRETCHES:
        best = min(tried, key=lambda stretch: int(tried[stretch].sum()))
        for stretch in (best - step, best + step):
            tried[stretch] = _staggered(workload, memory, stretch)
    return min(tried.values(), key=lambda start: int(start.sum()))


def _staggered(workload: Workload, memory: int, stretch: float) -> IntArray:
    """Starts at the pace of the fluid schedule (`lower_bounds.busy_bound`), `stretch` times as slow, made feasible.

    For equal requests that is the pipeline of arXiv 2601.22996: one starts every so many rounds, and never do all that
    run reach their full size together.
    """
    volume = volumes(workload)
    order = np.argsort(volume, kind="stable")
    release = np.empty(len(volume), np.int64)
    release[order] = np.floor((np.cumsum(volume[order]) - volume[order]) * (stretch / memory))
    return _in_order(workload, memory, order, release)


def _too_long(workload: Workload, begin: FloatArray, rounds: float) -> bool:
    """Whether a timetable on which requests begin then, and take so many rounds after the last, would be too large."""
    return max(float(np.ptp(begin)) + rounds, workload.extent.request) > _MOST_ROUNDS


def _to_grid(workload: Workload, memory: int, start: FloatArray, origin: float) -> IntArray | None:
    """The schedule with all starts moved up to whole rounds after `origin`, or None where that does not do.

    Contiguous rounds stay contiguous and disjoint ones disjoint. (Doubles near a whole number count as it.)
    """
    if _too_long(workload, start, workload.extent.output):
        return None
    moved = np.maximum(np.ceil(start - origin - 1e-6).astype(np.int64), _releases(workload, origin))
    try:
        fits = peak_memory(workload, moved + origin) <= memory
    except WorkloadError:
        return None
    return moved if fits else None


# The timetable: who starts when, and the memory that is free ---------------------------------------------------------


class Timetable:
    """Starts in whole rounds, and the free memory of every round; requests are put down and taken up.

    Attributes
    ----------
    start
        Start of each request, in rounds from the first arrival; -1 for one that is not on the timetable.
    free
        M less what the requests on the timetable occupy, by round. Never negative.
    """

    def __init__(self, workload: Workload, memory: int, start: IntArray | None = None) -> None:
        n = len(workload)
        self.workload, self.memory = workload, memory
        self.release = _releases(workload, float(workload.arrival.min()) if n else 0.0)
        self.prompt, self.output = workload.prompt.tolist(), workload.output.tolist()
        # Scratch: the growth of any request is a slice of it.
        self.count = np.arange(max(1024, workload.extent.request, 4 * workload.extent.output) + 2)
        self.free = np.full(1024, memory, np.int64)
        self.start = np.full(n, -1, np.int64)
        if start is not None:
            self._reserve(int((start + workload.output).max()))
            for i, at in enumerate(start.tolist()):
                self.put_at(i, at)

    def put_at(self, i: int, at: int) -> None:
        """Put request `i` down at a start where it fits."""
        s, o = self.prompt[i], self.output[i]
        self.free[at : at + o] -= self.count[s + 1 : s + 1 + o]
        self.start[i] = at

    def take(self, i: int) -> int:
        """Take request `i` off the timetable; returns where it was."""
        s, o, at = self.prompt[i], self.output[i], int(self.start[i])
        self.free[at : at + o] += self.count[s + 1 : s + 1 + o]
        self.start[i] = -1
        return at

    def put(self, i: int, earliest: int) -> int:
        """Put request `i` down at the first start >= `earliest` where it fits; returns that."""
        at = self.first_fit(self.prompt[i], self.output[i], earliest)
        self.put_at(i, at)
        return at

    def first_fit(self, s: int, o: int, at: int) -> int:
        """The first start >= `at` at which prompt s and output o fit.

        Starting at t needs s + (τ − t) + 1 <= free[τ] for t <= τ < t + o: the least of free[τ] − τ in a window of o
        rounds must be at least s + 1 − t. Windows of length o are joined from two whose length is a power of two.
        """
        width = 2 * o + 64
        while True:
            self._reserve(at + width)
            span = len(self.count)
            window = self.free[at : at + min(width, span)]
            least = window - self.count[: len(window)]
            length = 1
            while 2 * length <= o:
                least = np.minimum(least[:-length], least[length:])
                length *= 2
            if o > length:
                least = np.minimum(least[: length - o], least[o - length :])
            fits = least + self.count[: len(least)] > s
            k = int(fits.argmax())
            if fits[k]:
                return at + k
            at += len(least)

    def _reserve(self, rounds: int) -> None:
        """Make the timetable that long; beyond it memory is free."""
        if rounds > len(self.free):
            more = np.full(max(rounds, 2 * len(self.free)) - len(self.free), self.memory, np.int64)
            self.free = np.concatenate([self.free, more])


# Local search ---------------------------------------------------------------------------------------------------------


def local_search(
    timetable: Timetable,
    deadline: float,
    iterations: int,
    rng: np.random.Generator,
    goal: float = 0.0,
    tell: Callable[[], None] | None = None,
) -> int:
    """Lower the sum of starts by taking requests out and putting them back; stops early at `goal`. Returns iterations.

    Every decision depends on `rng` alone; the clock only ends it. `tell` is called now and then.
    """
    weight = np.log(volumes(timetable.workload))
    n = len(weight)
    total, order = int(timetable.start.sum()), np.argsort(timetable.start, kind="stable")
    for k in range(iterations):
        if total <= goal or time.perf_counter() >= deadline:
            return k
        if k % _COMPACT_EVERY == 0:
            if tell is not None:
                tell()
            _compact(timetable, order)
            total, order = int(timetable.start.sum()), np.argsort(timetable.start, kind="stable")
        size = min(n, int(rng.integers(2, _MOST_REMOVED + 1)))
        chosen = _neighbours(order, size, rng)
        key = weight[chosen] + rng.normal(0.0, _NOISE[k % len(_NOISE)], size)
        total += _replaced(timetable, chosen[np.argsort(key, kind="stable")].tolist())
    return iterations


def _neighbours(order: IntArray, size: int, rng: np.random.Generator) -> IntArray:
    """`size` requests that start at about the same time: any of those next to each other in order of start."""
    reach = min(len(order), 2 * size + int(rng.integers(0, 2 * size)))
    at = int(rng.integers(0, len(order) - reach + 1))
    return order[at + rng.permutation(reach)[:size]]


def _replaced(timetable: Timetable, requests: list[int]) -> int:
    """Take the requests out, put them back in this order, undo that if it is worse; returns the change of Σ starts."""
    before = [timetable.take(i) for i in requests]
    earliest = min(before)
    change = sum(timetable.put(i, max(earliest, int(timetable.release[i]))) for i in requests) - sum(before)
    if change > 0:
        for i in requests:
            timetable.take(i)
        for i, at in zip(requests, before, strict=True):
            timetable.put_at(i, at)
        return 0
    return change


def _compact(timetable: Timetable, order: IntArray) -> None:
    """Every request, in order of start, to the earliest start at which it fits, not far ahead of where it is."""
    for i in order.tolist():
        at = timetable.take(i)
        timetable.put(i, max(int(timetable.release[i]), at - timetable.output[i] - 64))
