"""The exact search behind `exact.optimal`: branch and bound over rounds in order, with dual prices as bounds.

Time-indexed integer programs of this problem are hard because their linear relaxation splits requests over start times,
and branching on one start changes nothing: another fraction takes its place. Deciding whole rounds in order of time
changes much: with the first rounds fixed, the relaxation of what remains is far closer. So the search

1. goes through the rounds in order. A state is what the future can see of the past: the set of requests that have
   started, and the memory that those that still run will occupy in each coming round. From each state follow all sets
   of waiting requests that can start in this round and fit for ever.
2. keeps, of two states with the same set, only the one that is no worse in the sum of starts and in every round's
   memory (*dominance*), and starts equal requests in one order (*symmetry*).
3. bounds the sum of starts that a state can still reach by prices λ_τ >= 0 for a token of cache in round τ:
   Σ starts so far + Σ_{j waiting} min_{t>=now} [t + Σ_k λ_{t+k-1}·(s_j+k)] − Σ_{τ>=now} λ_τ·(M − memory taken in τ).
   Any prices give a valid bound (see `lower_bounds.price_bound`), so the prices found for one state, by solving its
   linear relaxation with HiGHS, are tried on all others, and a few solutions per round prune nearly everything. Prices
   are multiples of 2⁻¹⁶, so that sums of doubles are exact and no tolerance is needed.
4. asks "is there a schedule with Σ starts <= B?" and takes a "no" for B + 1. Where there are more states than it has
   memory for, B falls below the bounds of those it leaves out.

The states themselves are compiled (`_search_states.pyx`); here are the rounds, the prices and what is left out.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from ..errors import MissingExtraError
from ..workloads.columns import FloatArray, IntArray
from ._search_states import Rules, States

BoolArray = npt.NDArray[np.bool_]
Trail = tuple[npt.NDArray[np.uint64], npt.NDArray[np.int32]]  # of a round: the states' waiting sets and parents

MOST_REQUESTS = 50  # a state holds the waiting ones as bits of one word...
MOST_MEMORY = 2**30  # ...and tokens of cache as numbers of 32 bits
_PRICE_UNIT = 2.0**-16
_ACTIVE_PRICES = 24  # prices that every state of a round is tried with
_FEWEST_PROGRAMS, _MOST_PROGRAMS = 6, 100  # linear programs per round...
_STATES_PER_PROGRAM = 1000  # ...one for so many states: about the time that each of them costs otherwise
_PRICES_AT_ONCE = 8  # known prices tried at a time
_EXTRA_STATES = 50_000  # so many states more than can stay, and more prices are looked for in the middle of a round
_KEPT_PRICES = 48  # of a round, from one pass to the next


class Instance(NamedTuple):
    """The requests in rounds: sorted so that of equal prompts and outputs the first to arrive comes first."""

    prompt: IntArray
    output: IntArray
    release: IntArray  # first round in which it can start
    memory: int

    @property
    def horizon(self) -> int:
        """After so many rounds everything has completed, unless the server idled for nothing."""
        return int(self.release.max() + self.output.sum())


class PricedStarts(NamedTuple):
    """Prices of a token of cache in each round, and what each start of each request costs under them."""

    rate: FloatArray  # λ by round
    tail: FloatArray  # M·Σ_{τ>=t} λ_τ by round
    cost: FloatArray  # (requests, rounds) what starting then costs, waiting included; inf before arrival
    least: FloatArray  # (requests, rounds) the least of `cost` from that round on


class PassResult(NamedTuple):
    """What one pass found out about schedules with Σ starts <= limit."""

    start: IntArray | None  # the best schedule found
    bound: int  # Σ starts of any schedule is at least that, as far as it is at most limit + 1


def highs(purpose: str) -> Any:
    """The module highspy. Raises MissingExtraError where it cannot be imported."""
    try:
        import highspy
    except ImportError as error:
        if "undefined symbol" in str(error):  # not absent, but ortools was first: google/or-tools issue 5246
            raise ImportError(f"{purpose} needs highspy, which cannot be imported after ortools: {error}") from error
        raise MissingExtraError("highspy", "optimum", purpose) from None
    return highspy


def silent_solver(highspy: Any) -> Any:
    """A solver that prints nothing. HiGHS 1.16 greets on stdout when it gets its callbacks, as it is made."""

    class Silent(highspy.Highs):  # type: ignore[misc]  # highspy is Any: it is imported when it is needed
        def enableCallbacks(self) -> None:
            self.setOptionValue("output_flag", False)
            super().enableCallbacks()

    solver = Silent()
    solver.setOptionValue("output_flag", False)
    return solver


class Relaxation:
    """The linear relaxation over start times, solved again and again with other rounds and requests left."""

    def __init__(self, instance: Instance, horizon: int) -> None:
        self.highspy = highs("the exact optimum")
        self.instance, self.horizon, self.solved = instance, horizon, 0
        o, r, n = instance.output, instance.release, len(instance.output)
        self.request = np.repeat(np.arange(n), np.maximum(0, horizon - o + 1 - r))
        self.at = np.concatenate([np.arange(r[j], horizon - o[j] + 1) for j in range(n)])
        model = time_indexed(self.highspy, instance, self.request, self.at, horizon)
        self.solver = silent_solver(self.highspy)
        for option, value in (("threads", 1), ("presolve", "off"), ("solver", "simplex")):
            self.solver.setOptionValue(option, value)
        self.solver.passModel(model)
        self.columns = np.arange(len(self.at), dtype=np.int32)

    def prices(self, waiting: BoolArray, taken: FloatArray, now: int, seconds: float = math.inf) -> FloatArray | None:
        """Optimal prices when the `waiting` start from round `now` on and `taken` memory is not theirs.

        None where the solver has none, its `seconds` being over or its horizon too short: nothing is bounded then.
        """
        solver, n = self.solver, len(waiting)
        upper = np.where(waiting[self.request] & (self.at >= now), 1.0, 0.0)
        solver.changeColsBounds(len(upper), self.columns, np.zeros(len(upper)), upper)
        free = np.full(self.horizon, float(self.instance.memory))
        span = min(len(taken), self.horizon - now)
        free[now : now + span] -= taken[:span]
        for j in range(n):
            solver.changeRowBounds(j, float(waiting[j]), float(waiting[j]))
        for t in range(self.horizon):
            solver.changeRowBounds(n + t, -self.highspy.kHighsInf, float(free[t]))
        if math.isfinite(seconds):  # the limit counts from the solver's first run
            solver.setOptionValue("time_limit", solver.getRunTime() + max(0.0, seconds))
        solver.run()
        self.solved += 1
        if solver.getModelStatus() != self.highspy.HighsModelStatus.kOptimal:
            return None
        rate: FloatArray = np.maximum(0.0, -np.array(solver.getSolution().row_dual)[n:])
        return rate


def time_indexed(highspy: Any, instance: Instance, request: IntArray, at: IntArray, horizon: int) -> Any:
    """min Σ t·x_jt: each request starts once, no round needs more than M. Columns are (request, at), x continuous."""
    s, o, n = instance.prompt, instance.output, len(instance.output)
    model = highspy.HighsLp()
    model.num_col_, model.num_row_ = len(at), n + horizon
    model.col_cost_ = at.astype(np.float64)
    model.col_lower_, model.col_upper_ = np.zeros(len(at)), np.ones(len(at))
    model.row_lower_ = np.concatenate([np.ones(n), np.full(horizon, -highspy.kHighsInf)])
    model.row_upper_ = np.concatenate([np.ones(n), np.full(horizon, float(instance.memory))])
    length = 1 + o[request]
    begins = np.concatenate([[0], np.cumsum(length)])
    k = np.arange(begins[-1]) - np.repeat(begins[:-1], length)  # 0 for the request's own row, then its rounds
    j, t = np.repeat(request, length), np.repeat(at, length)
    matrix = model.a_matrix_
    matrix.format_ = highspy.MatrixFormat.kColwise
    matrix.start_ = begins.astype(np.int32)
    matrix.index_ = np.where(k == 0, j, n + t + k - 1).astype(np.int32)
    matrix.value_ = np.where(k == 0, 1.0, s[j] + k)
    return model


def priced_starts(instance: Instance, rate: FloatArray) -> PricedStarts:
    """The prices, rounded to multiples of the unit, and what they make of every start of every request."""
    s, o, r, _ = instance
    rounds = instance.horizon + 2
    longest = int(o.max())
    fine = np.zeros(rounds + longest)
    fine[: len(rate)] = np.rint(rate / _PRICE_UNIT)[: len(fine)] * _PRICE_UNIT
    cost = np.empty((len(o), rounds))
    for j in range(len(o)):
        grows = s[j] + 1.0 + np.arange(o[j])
        cost[j] = np.arange(rounds) + np.correlate(fine, grows, "valid")[:rounds]
        cost[j, : r[j]] = np.inf
    least = np.minimum.accumulate(cost[:, ::-1], axis=1)[:, ::-1].copy()
    tail = instance.memory * np.cumsum(fine[::-1])[::-1]
    return PricedStarts(fine, tail, cost, least)


class Search:
    """Passes over the rounds of one instance. Prices found in one pass help the next."""

    def __init__(
        self,
        instance: Instance,
        horizon: int,
        deadline: float,
        most_bytes: int = 2**28,
        tell: Callable[[], None] | None = None,
    ) -> None:
        self.instance, self.deadline, self.tell = instance, deadline, tell
        self.relaxation = Relaxation(instance, horizon)
        n, self.span = len(instance.output), int(instance.output.max())
        self.widest = max(1000, most_bytes // (64 + 4 * self.span))
        self.rules = Rules(instance.prompt, instance.output, instance.release, _twins(instance), instance.memory)
        self.bit = np.uint64(1) << np.arange(n, dtype=np.uint64)
        self.known_prices: dict[int, list[PricedStarts]] = {}
        self.states = 0
        rate = self.relaxation.prices(np.ones(n, bool), np.zeros(self.span), 0, self.seconds_left)
        self.root = priced_starts(instance, np.zeros(1) if rate is None else rate)
        first = States(self.rules)
        first.begin()
        first.raise_bounds(*self._price_columns([self.root], 0), 0)
        self.root_bound = math.ceil(first.bounds()[0])

    @property
    def seconds_left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.perf_counter()

    @property
    def late(self) -> bool:
        return self.seconds_left <= 0

    def run(self, limit: int, width: int, *, beam: bool) -> PassResult:
        """Look for schedules with Σ starts <= limit, with at most `width` states in a round.

        Of more, those with the largest bounds go. A beam goes on looking for schedules up to the limit all the same;
        otherwise the limit falls below what was left out, so that no more is looked at than the answer needs.
        """
        states, active = States(self.rules), [self.root]
        states.begin()
        states.raise_bounds(*self._price_columns(active, 0), 0)
        best: IntArray | None = None
        least_dropped = limit + 1  # least bound of what was left out
        history: list[Trail] = []
        most_states = 2 * width + _EXTRA_STATES
        for now in range(self.instance.horizon + 1):
            if self.tell is not None:
                self.tell()
            history.append(states.trail())
            self.states += states.size
            before, states, at = states, States(self.rules), 0
            highest = float(limit)  # bound of the states of this round that can stay
            while at < before.size:
                columns = self._follow_columns(active, now)
                at = states.follow(
                    before, at, now, min(limit, highest), limit, most_states, lambda: self.late, *columns
                )
                if states.best is not None:
                    limit, best = states.best[0] - 1, self._starts(history, states.best[1])
                if self.late:
                    return PassResult(best, min(least_dropped, math.ceil(before.bounds().min()), limit + 1))
                if states.size > most_states or at == before.size:
                    active = self._prune_by_prices(states, active, now + 1, min(limit, highest))
                    most = width if at == before.size else most_states // 2
                    if states.size > most:
                        highest = self._keep_lowest(states, most, whole=not beam)
                        least_dropped = min(least_dropped, math.floor(highest) + 1)
                        limit = limit if beam else min(limit, least_dropped - 1)
            if not states.size:
                break
        return PassResult(best, min(least_dropped, limit + 1))

    def _keep_lowest(self, states: States, most: int, *, whole: bool) -> float:
        """Keep the `most` states of least bound. Returns the highest bound of states that may be added now.

        `whole`: bounds count as whole numbers, and of equal ones none stays unless all can.
        """
        bounds = np.ceil(states.bounds()) if whole else states.bounds()
        highest = float(np.partition(bounds, most)[most])
        if whole:
            states.prune(highest - 1)
            return highest - 1
        states.prune(highest, most - int((bounds < highest).sum()))
        return float(np.nextafter(highest, -math.inf))

    def _price_columns(self, prices: list[PricedStarts], now: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """What a waiting request, a token taken in a coming round and all memory are worth: columns of `States`."""
        least = np.stack([price.least[:, now] for price in prices], axis=1)
        rate = np.stack([price.rate[now : now + self.span] for price in prices], axis=1)
        return least, rate, np.array([price.tail[now] for price in prices])

    def _follow_columns(self, prices: list[PricedStarts], now: int) -> tuple[FloatArray, ...]:
        """What `States.follow` needs of the prices."""
        least, rate, tail = self._price_columns(prices, now)
        later, _, tail_next = self._price_columns(prices, now + 1)
        cost = np.stack([price.cost[:, now] for price in prices], axis=1)
        delta = cost - (self.instance.prompt[:, None] + 1) * rate[0] - later
        return least, cost - least, later, delta, rate, tail, tail_next

    def _prune_by_prices(
        self, states: States, active: list[PricedStarts], now: int, limit: float
    ) -> list[PricedStarts]:
        """Prune by more prices: those known of this round, and new ones from the relaxations of the lowest states.

        Returns the prices that matter most in this round.
        """
        states.prune(limit)
        prices = list(active)
        untried = self.known_prices.get(now, [])
        programs = 0
        while states.size and not self.late:
            if untried:
                fresh, untried = untried[:_PRICES_AT_ONCE], untried[_PRICES_AT_ONCE:]
            elif programs >= min(_MOST_PROGRAMS, max(_FEWEST_PROGRAMS, states.size // _STATES_PER_PROGRAM)):
                break
            else:
                lowest = states.lowest()
                if lowest is None:
                    break
                programs += 1
                if self.tell is not None:
                    self.tell()
                waiting, taken = (self.bit & np.uint64(lowest[0])) > 0, lowest[1].astype(np.float64)
                rate = self.relaxation.prices(waiting, taken, now, self.seconds_left)
                if rate is None:
                    continue
                fresh = [priced_starts(self.instance, rate)]
            states.raise_bounds(*self._price_columns(fresh, now), len(prices))
            prices += fresh
            states.prune(limit)
        uses = states.price_counts(len(prices))
        # Prices that only served to prune matter in the next pass.
        order = np.lexsort((-np.arange(len(prices)), -uses))
        number = np.zeros(len(prices), np.int32)
        number[order[:_ACTIVE_PRICES]] = np.arange(min(_ACTIVE_PRICES, len(prices)))
        states.renumber_prices(number)
        self.known_prices[now] = [prices[k] for k in order[:_KEPT_PRICES]]
        return [prices[k] for k in order[:_ACTIVE_PRICES]]

    def _starts(self, history: list[Trail], row: int) -> IntArray:
        """Starts of the schedule whose last requests start in the last round of `history`, from its state `row`."""
        start = np.full(len(self.bit), -1, np.int64)
        after = np.zeros(len(start), bool)
        for now in range(len(history) - 1, -1, -1):
            waiting, parent = history[now]
            then = (self.bit & waiting[row]) > 0
            start[then & ~after] = now
            after = then
            row = int(parent[row])
        return start


def _twins(instance: Instance) -> IntArray:
    """For each request the one before it with the same prompt and output, or -1: that one starts first."""
    before: dict[tuple[int, int], int] = {}
    twin = []
    for j, kind in enumerate(zip(instance.prompt.tolist(), instance.output.tolist(), strict=True)):
        twin.append(before.get(kind, -1))
        before[kind] = j
    return np.array(twin)
