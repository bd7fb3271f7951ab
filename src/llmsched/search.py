"""The exact search behind `optimum.optimal`: rounds in order, all decisions of a round at once, prices as bounds.

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
   Any prices give a valid bound (see `bounds.price_bound`), so the prices found for one state, by solving its linear
   relaxation with HiGHS, are tried on all others, and a few solutions per round prune nearly everything. Prices are
   multiples of 2⁻¹⁶, so that sums of doubles are exact and no tolerance is needed.
4. asks "is there a schedule with Σ starts <= B?" If nothing had to be left out for want of room, a "no" proves B + 1.
"""

from __future__ import annotations

import math
import time
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .errors import MissingExtraError
from .workload import FloatArray, IntArray

BoolArray = npt.NDArray[np.bool_]

MOST_REQUESTS = 50  # a set of requests is a number that a double holds
_UNIT = 2.0**-16
_ACTIVE = 24  # prices that every state of a round is tried with
_FEWEST_PROGRAMS, _MOST_PROGRAMS = 6, 100  # linear programs per round...
_STATES_PER_PROGRAM = 60  # ...one for so many states: about the time that each of them costs otherwise
_CHAIN = 64  # states of the same set that one is compared with
_TOGETHER = 8  # known prices tried at a time
_CROWD = 50_000  # states of a half-decided round before more prices are looked for
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


class Price(NamedTuple):
    """Prices of a token of cache, and what they make of the instance."""

    rate: FloatArray  # λ by round
    tail: FloatArray  # M·Σ_{τ>=t} λ_τ by round
    cost: FloatArray  # (requests, rounds) what starting then costs, waiting included; inf before arrival
    least: FloatArray  # (requests, rounds) the least of `cost` from that round on


class Answer(NamedTuple):
    """What one pass found out about schedules with Σ starts <= limit."""

    start: IntArray | None  # the best schedule found
    bound: int  # Σ starts of any schedule is at least that, or the limit + 1 if that is less
    complete: bool  # whether nothing was left out


def highs(purpose: str) -> Any:
    """The module highspy. Raises MissingExtraError where it cannot be imported."""
    try:
        import highspy
    except ImportError as error:
        if "undefined symbol" in str(error):  # not absent, but ortools was first: google/or-tools issue 5246
            raise ImportError(f"{purpose} needs highspy, which cannot be imported after ortools: {error}") from error
        raise MissingExtraError("highspy", "optimum", purpose) from None
    return highspy


class Relaxation:
    """The linear relaxation over start times, solved again and again with other rounds and requests left."""

    def __init__(self, instance: Instance, horizon: int) -> None:
        self.highspy = highs("the exact optimum")
        self.instance, self.horizon, self.solved = instance, horizon, 0
        o, r, n = instance.output, instance.release, len(instance.output)
        self.request = np.repeat(np.arange(n), np.maximum(0, horizon - o + 1 - r))
        self.at = np.concatenate([np.arange(r[j], horizon - o[j] + 1) for j in range(n)])
        model = time_indexed(self.highspy, instance, self.request, self.at, horizon)
        self.solver = self.highspy.Highs()
        for option, value in (("output_flag", False), ("threads", 1), ("presolve", "off"), ("solver", "simplex")):
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


def priced(instance: Instance, rate: FloatArray) -> Price:
    """The prices, rounded to multiples of the unit, and what they make of every start of every request."""
    s, o, r, _ = instance
    rounds = instance.horizon + 2
    longest = int(o.max())
    fine = np.zeros(rounds + longest)
    fine[: len(rate)] = np.rint(rate / _UNIT)[: len(fine)] * _UNIT
    cost = np.empty((len(o), rounds))
    for j in range(len(o)):
        grows = s[j] + 1.0 + np.arange(o[j])
        cost[j] = np.arange(rounds) + np.correlate(fine, grows, "valid")[:rounds]
        cost[j, : r[j]] = np.inf
    least = np.minimum.accumulate(cost[:, ::-1], axis=1)[:, ::-1].copy()
    tail = instance.memory * np.cumsum(fine[::-1])[::-1]
    return Price(fine, tail, cost, least)


class _States:
    """The states of one round, one per row of each column; the columns grow together."""

    def __init__(self, requests: int, span: int) -> None:
        self.requests = requests
        first = np.zeros((1, requests + span))
        first[:, :requests] = 1
        self.columns: list[npt.NDArray[Any]] = [first, np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros((1, 0))]
        self.size = 1

    @property
    def seen(self) -> FloatArray:
        """What the future sees: for each request 1 if it has yet to start, then the memory taken by those that run."""
        return self.columns[0][: self.size]

    @property
    def waiting(self) -> FloatArray:
        """(states, requests) 1 where it has yet to start."""
        return self.columns[0][: self.size, : self.requests]

    @property
    def taken(self) -> FloatArray:
        """(states, rounds) memory that those that run occupy in this round and the next ones."""
        return self.columns[0][: self.size, self.requests :]

    @property
    def total(self) -> IntArray:
        """Σ of the starts so far."""
        return self.columns[1][: self.size]

    @property
    def parent(self) -> IntArray:
        """The state at the beginning of the round that it comes from."""
        return self.columns[2][: self.size]

    @property
    def bounds(self) -> FloatArray:
        """(states, active prices) what each price says that Σ starts cannot get below."""
        return self.columns[3][: self.size]

    def begin_round(self, bounds: FloatArray) -> None:
        """From here on the parents are the states that there are now."""
        self.columns = [column[: self.size] for column in self.columns[:2]] + [np.arange(self.size), bounds]

    def append(self, *rows: npt.NDArray[Any]) -> None:
        size = self.size + len(rows[0])
        if size > len(self.columns[0]):
            for k, column in enumerate(self.columns):
                grown = np.empty((max(size, 2 * len(column)), *column.shape[1:]), column.dtype)
                grown[: self.size] = column[: self.size]
                self.columns[k] = grown
        for column, row in zip(self.columns, rows, strict=True):
            column[self.size : size] = row
        self.size = size

    def keep(self, which: npt.NDArray[Any]) -> None:
        self.columns = [column[: self.size][which] for column in self.columns]
        self.size = len(self.columns[0])


class Search:
    """Passes over the rounds of one instance. Prices found in one pass help the next."""

    def __init__(self, instance: Instance, horizon: int, deadline: float, most_bytes: int = 2**29) -> None:
        self.instance, self.deadline = instance, deadline
        self.relaxation = Relaxation(instance, horizon)
        n, self.span = len(instance.output), int(instance.output.max())
        self.most = max(1000, most_bytes // (24 * (n + self.span + _ACTIVE + 2)))
        self.twin = _twins(instance)
        self.grows = [instance.prompt[j] + 1.0 + np.arange(instance.output[j]) for j in range(n)]
        self.known: dict[tuple[int, int], list[Price]] = {}
        self.states = 0
        everyone = np.ones(n, bool)
        rate = self.relaxation.prices(everyone, np.zeros(self.span), 0, self.left)
        self.root = priced(instance, np.zeros(1) if rate is None else rate)
        self.root_bound = math.ceil(self._bounds([self.root], _States(n, self.span), 0)[0, 0])

    @property
    def left(self) -> float:
        """Seconds until the deadline; negative after it."""
        return self.deadline - time.perf_counter()

    @property
    def late(self) -> bool:
        return self.left <= 0

    def run(self, limit: int, width: int, *, beam: bool) -> Answer:
        """Look for schedules with Σ starts <= limit, with at most `width` states in a round.

        When there are more, a beam drops those with the largest bounds and goes on; otherwise the pass ends there.
        """
        n = len(self.instance.output)
        states = _States(n, self.span)
        active = [self.root]
        best: IntArray | None = None
        lost = limit + 1  # least bound of what was left out
        history: list[tuple[BoolArray, IntArray]] = []
        for now in range(self.instance.horizon + 1):
            self.states += states.size
            history.append((states.waiting > 0, states.parent))
            states.begin_round(self._bounds(active, states, now))
            here = math.ceil(states.bounds.max(axis=1).min())
            if not self._expand(states, active, now, limit):
                return Answer(best, min(lost, here, limit + 1), False)
            done = np.flatnonzero(~states.waiting.any(axis=1))
            if len(done):
                k = done[states.total[done].argmin()]
                if states.total[k] <= limit:
                    limit = int(states.total[k]) - 1
                    best = _starts(history, int(states.parent[k]))
            if states.size:
                self._advance(states, active, now, limit)
            active, bound = self._improve(states, active, now + 1, limit, (now + 1, -1))
            if states.size > width:
                order = np.argsort(bound, kind="stable")
                if not beam:
                    return Answer(best, min(lost, math.ceil(bound[order[0]]), limit + 1), False)
                lost = min(lost, math.ceil(bound[order[width]]))
                states.keep(order[:width])
            if not states.size:
                break
        return Answer(best, min(lost, limit + 1), lost > limit)

    def _bounds(self, prices: list[Price], states: _States, now: int) -> FloatArray:
        """(states, prices) what each price says that Σ starts cannot get below."""
        n = len(self.grows)
        worth = np.zeros((n + self.span, len(prices)))
        for k, price in enumerate(prices):
            worth[:n, k] = price.least[:, now]
            rate = price.rate[now : now + self.span]
            worth[n : n + len(rate), k] = rate
        # One column is a common case, and numpy's product of a matrix and a vector is several times as fast.
        bounds: FloatArray = (states.seen @ worth[:, 0])[:, None] if len(prices) == 1 else states.seen @ worth
        bounds += states.total[:, None] - np.array([price.tail[now] for price in prices])
        return bounds

    def _expand(self, states: _States, active: list[Price], now: int, limit: int) -> bool:
        """Add all states that follow by starting requests in this round. False if there are too many, or no time."""
        memory, n = self.instance.memory, len(self.grows)
        room = max(_CROWD, 2 * states.size)
        for j in range(n):
            if now < self.instance.release[j]:
                continue
            can = states.waiting[:, j] > 0
            if self.twin[j] >= 0:
                can &= states.waiting[:, self.twin[j]] == 0
            dearer = np.array([price.cost[j, now] - price.least[j, now] for price in active])
            rows = np.flatnonzero(can)
            rows = rows[(states.bounds[rows] + dearer).max(axis=1) <= limit]
            o = len(self.grows[j])
            rows = rows[(states.taken[rows, :o] + self.grows[j]).max(axis=1) <= memory] if len(rows) else rows
            if not len(rows):
                continue
            if states.size + len(rows) > self.most or self.late:
                return False
            seen = states.seen[rows]
            seen[:, j] = 0
            seen[:, n : n + o] += self.grows[j]
            states.append(seen, states.total[rows] + now, states.parent[rows], states.bounds[rows] + dearer)
            if states.size > room:
                # Half-decided rounds multiply. What they are bounded by may still start anything left in this round.
                states.keep(_undominated(states))
                active[:], _ = self._improve(states, active, now, limit, (now, j))
                if not states.size:
                    return True
                states.columns[3] = self._bounds(active, states, now)
                room = max(_CROWD, 2 * states.size)
        return True

    def _advance(self, states: _States, active: list[Price], now: int, limit: int) -> None:
        """To the next round. Finished, too dear and dominated states go, and those that idle for nothing.

        Idling can be right when more requests are still to come, never when all are there: then everything could
        happen a round earlier.
        """
        rate = np.array([price.rate[now] for price in active])
        later = np.stack([price.least[:, now + 1] - price.least[:, now] for price in active], axis=1)
        idle_memory = self.instance.memory - states.taken[:, 0]
        bounds = states.bounds
        bounds += idle_memory[:, None] * rate + states.waiting @ later
        to_come = states.waiting[:, self.instance.release > now].any(axis=1)
        useful = (states.taken[:, 0] > 0) | to_come
        states.keep(useful & states.waiting.any(axis=1) & (bounds.max(axis=1) <= limit))
        states.taken[:, :-1] = states.taken[:, 1:]
        states.taken[:, -1] = 0
        if states.size > 1:
            states.keep(_undominated(states))

    def _improve(
        self, states: _States, active: list[Price], now: int, limit: int, stage: tuple[int, int]
    ) -> tuple[list[Price], FloatArray]:
        """Prune by more prices: those known of this stage, and new ones from the relaxations of the lowest states.

        Returns the prices that matter most in this round, and the bound of each state left.
        """
        prices = list(active)
        bound, who = states.bounds.max(axis=1), states.bounds.argmax(axis=1)
        solved = np.zeros(states.size, bool)
        untried = self.known.get(stage, [])
        programs = 0
        while states.size and not self.late:
            if untried:
                fresh, untried = untried[:_TOGETHER], untried[_TOGETHER:]
            elif programs >= min(_MOST_PROGRAMS, max(_FEWEST_PROGRAMS, states.size // _STATES_PER_PROGRAM)):
                break
            else:
                k = int(np.where(solved, np.inf, bound).argmin())
                if solved[k]:
                    break
                solved[k], programs = True, programs + 1
                rate = self.relaxation.prices(states.waiting[k] > 0, states.taken[k], now, self.left)
                if rate is None:
                    continue
                fresh = [priced(self.instance, rate)]
            raised = self._bounds(fresh, states, now)
            highest = raised.max(axis=1)
            who = np.where(highest > bound, len(prices) + raised.argmax(axis=1), who)
            bound = np.maximum(bound, highest)
            prices += fresh
            left = bound <= limit
            if not left.all():
                states.keep(left)
                bound, who, solved = bound[left], who[left], solved[left]
        uses = np.bincount(who, minlength=len(prices))
        # Prices that only served to prune matter in the next pass.
        order = np.lexsort((-np.arange(len(prices)), -uses)).tolist()
        self.known[stage] = [prices[k] for k in order[:_KEPT_PRICES]]
        return [prices[k] for k in order[:_ACTIVE]], bound


def _twins(instance: Instance) -> list[int]:
    """For each request the one before it with the same prompt and output, or -1: that one starts first."""
    before: dict[tuple[int, int], int] = {}
    twin = []
    for j, kind in enumerate(zip(instance.prompt.tolist(), instance.output.tolist(), strict=True)):
        twin.append(before.get(kind, -1))
        before[kind] = j
    return twin


def _undominated(states: _States) -> IntArray:
    """Rows to keep: of one set of requests, those not at least as bad as another in Σ starts and in every round.

    Only the best few of a set are compared with each state, so some that could go may stay.
    """
    key = states.waiting @ 2.0 ** np.arange(states.requests)
    order = np.lexsort((states.taken.sum(axis=1), states.total, key))
    key, taken = key[order], states.taken[order]
    dominated = np.zeros(len(order), bool)
    for distance in range(1, min(_CHAIN, len(order) - 1) + 1):
        pairs = np.flatnonzero(key[distance:] == key[:-distance])
        if not len(pairs):
            break
        pairs = pairs[~dominated[pairs + distance]]
        worse = (taken[pairs] <= taken[pairs + distance]).all(axis=1)
        dominated[pairs[worse] + distance] = True
    return order[~dominated]


def _starts(history: list[tuple[BoolArray, IntArray]], row: int) -> IntArray:
    """Starts of the schedule in which the last request starts in the last round of `history`, from its state `row`."""
    start = np.full(history[0][0].shape[1], -1, np.int64)
    after = np.zeros(len(start), bool)
    for now in range(len(history) - 1, -1, -1):
        waiting, parent = history[now]
        start[waiting[row] & ~after] = now
        after = waiting[row]
        row = int(parent[row])
    return start
