"""What a predictor is worth: mean latency over coverage, width and bias of the intervals, and with real predictors.

    study = ls.predictor_value(requests=1000, replications=30)
    study.break_even("amin")

Every policy is measured against perfect knowledge (`hsf`, which knows every output), against none (the same policy,
told of every request that it generates between 1 and as many tokens as the longest), and against `fcfs`, which reads
no prediction.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np

from .._logging import logger
from ..errors import InputError, nearest
from ..html_tables import number, table
from ..metrics.compare import MEMORY
from ..metrics.confidence import mean_and_half_width
from ..optimum.lower_bounds import LowerBound, lower_bound
from ..policy import Policy, named, policies
from ..predict import intervals
from ..predict.conformal import Number
from ..predict.intervals import IntervalRule, with_midpoints
from ..progress import with_bar
from ..simulation.batch import simulate_batch
from ..simulation.clock import Clock
from ..simulation.clock import named as named_clock
from ..simulation.problem import problem_of
from ..workloads import generate
from ..workloads.argument_checks import LARGEST_SEED, decimal_fraction, whole
from ..workloads.columns import FloatArray
from ..workloads.workload import Workload

_log = logger(__name__)

__all__ = [
    "BIASES",
    "BIAS_AT",
    "COVERAGES",
    "POLICIES",
    "WIDTHS",
    "BreakEven",
    "PredictorValue",
    "Row",
    "predictor_value",
]

#: The policy that needs the upper bound, the one that needs the lower bound, and the one that needs a point.
POLICIES = ("amin", "amax", "mcsf")
#: Settings of the grid, 20 each: coverage, and width of the interval relative to the truth.
COVERAGES = tuple(f"{k / 20:.2f}" for k in range(1, 21))
WIDTHS = tuple("0.1 0.15 0.2 0.3 0.4 0.5 0.6 0.8 1 1.2 1.5 2 2.5 3 4 5 6 7 8 10".split())  # noqa: SIM905
#: The bias is varied at one coverage and width.
BIASES = tuple("-0.9 -0.8 -0.7 -0.6 -0.5 -0.4 -0.3 -0.2 -0.1 0 0.1 0.2 0.3 0.5 0.75 1 1.5 2 3 4".split())  # noqa: SIM905
BIAS_AT = ("0.9", "0.5")

#: `Row.rate` is looked for up to so many times the rate that is asked about, and down to that part of it.
MOST_RATES = 8.0
_HALVINGS = 7  # of the ratio of two rates: what is found is right within 2 %

_REFERENCES = ("none", "perfect", "fcfs")

#: Called after every replication with (simulations done, simulations in all).
Progress = Callable[[int, int], None]

#: What break-even is against: the same policy with no predictor, or a policy that reads no prediction.
Against = Literal["none", "fcfs"]


@dataclasses.dataclass(frozen=True)
class Row:
    """One policy with one predictor, over the replications. Half widths are of 95 % confidence intervals (Student's t).

    Attributes
    ----------
    predictor
        ``noisy``, or the name of a real predictor.
    coverage, width, bias
        What `llmsched.intervals.noisy` was asked for; NaN for a real predictor.
    covered, mean_width
        What was measured: share of outputs inside the interval, and its mean width in tokens. NaN without an interval.
    policy
        Its name.
    replications
        Those in which the policy finished; the rest of the row is about them, NaN if there are none.
    mean_latency, mean_latency_ci95
        In rounds.
    vs_perfect, vs_perfect_ci95
        Mean latency over that of perfect knowledge on the same requests.
    vs_none, vs_none_ci95
        Mean latency over that of the same policy with no predictor on the same requests.
    vs_fcfs, vs_fcfs_ci95
        Mean latency over that of `fcfs` on the same requests.
    none_vs_perfect
        Mean latency of the same policy with no predictor over that of perfect knowledge, on the same requests.
    gap
        The share by which mean latency is at most above the best possible (`llmsched.lower_bound`), a mean as well.
    saved, saved_ci95
        Mean latency of the same policy with no predictor, less that with this one: rounds, or seconds with a clock.
    rate
        Requests per round, or per second with a clock, at which mean latency is what it is with no predictor at the
        study's rate: as many can be served as well. Infinite beyond `MOST_RATES` times that rate; NaN without a rate,
        and for the grid.
    """

    predictor: str
    coverage: float
    width: float
    bias: float
    covered: float
    mean_width: float
    policy: str
    replications: int
    mean_latency: float
    mean_latency_ci95: float
    vs_perfect: float
    vs_perfect_ci95: float
    vs_none: float
    vs_none_ci95: float
    vs_fcfs: float
    vs_fcfs_ci95: float
    none_vs_perfect: float
    gap: float = math.nan
    saved: float = math.nan
    saved_ci95: float = math.nan
    rate: float = math.nan

    def record(self) -> dict[str, Any]:
        """The row as plain values; None instead of NaN and infinity."""
        values = dataclasses.asdict(self)
        return {k: None if isinstance(v, float) and not math.isfinite(v) else v for k, v in values.items()}


class BreakEven(NamedTuple):
    """The widest intervals, at one coverage, with which a policy is better off than without the predictor.

    ``width`` is relative to the truth and interpolated between the settings: infinite if the predictor pays at every
    width of the grid, 0 if not even at the narrowest. ``sure`` is that up to which the whole 95 % confidence interval
    says so.
    """

    coverage: float
    width: float
    sure: float


@dataclasses.dataclass(frozen=True, eq=False)
class PredictorValue:
    """What `predictor_value` found.

    Attributes
    ----------
    grid
        Rows of every (coverage, width) without bias, by policy.
    biased
        Rows of every bias at the coverage and width of `BIAS_AT`, by policy.
    real
        Rows of every real predictor, by policy.
    references
        Rows of perfect knowledge (``hsf``), of no predictor (predictor ``none``), and of ``fcfs``, which needs none.
    policies, requests, replications, memory, seed, clock, rate, workload, max_batch, block, prefill_budget
        As asked.
    """

    grid: Sequence[Row]
    biased: Sequence[Row]
    real: Sequence[Row]
    references: Sequence[Row]
    policies: Sequence[str]
    requests: int
    replications: int
    memory: int
    seed: int
    clock: Clock | None = None
    rate: float | None = None
    workload: Workload | None = None
    max_batch: int | None = None
    block: int = 1
    prefill_budget: int | None = None

    def __repr__(self) -> str:
        said = f"{self.requests} requests, {self.replications} replications, memory {self.memory}"
        return f"PredictorValue({', '.join(self.policies)}: {said})"

    def _repr_html_(self) -> str:
        rows = [
            (row.policy, row.predictor, f"{number(row.mean_latency)} ± {number(row.mean_latency_ci95)}", row.vs_perfect,
             row.vs_none, row.vs_fcfs)
            for row in [*self.references, *self.real]
        ]  # fmt: skip
        unit = "rounds" if self.clock is None else "seconds"
        header = ["policy", "predictor", f"mean latency ({unit})", "vs hsf", "vs no predictor", "vs fcfs"]
        return table(
            repr(self), rows, header=header, note="the grid of predictors: table(policy, column), break_even(policy)"
        )

    def rows(self) -> list[Row]:
        """All rows: references, grid, biased, real."""
        return [*self.references, *self.grid, *self.biased, *self.real]

    def table(self, policy: str, column: str) -> FloatArray:
        """A column of the grid for one policy, of shape (coverages, widths), both ascending."""
        rows = sorted((row for row in self.grid if row.policy == policy), key=lambda row: (row.coverage, row.width))
        widths = len({row.width for row in rows})
        return np.array([getattr(row, column) for row in rows], dtype=np.float64).reshape(-1, max(widths, 1))

    def axes(self) -> tuple[FloatArray, FloatArray]:
        """The coverages and the widths of the grid, ascending."""
        return np.unique([row.coverage for row in self.grid]), np.unique([row.width for row in self.grid])

    def break_even(self, policy: str, against: Against = "none") -> list[BreakEven]:
        """For each coverage, ascending, the width above which the policy is better off with no predictor.

        `against` is the same policy with no predictor, or ``"fcfs"``, which needs none. Raises InputError for anything
        else, and for a policy that the study lacks.
        """
        ratio, half = (self.table(policy, column) for column in self._ratio(policy, against))
        coverages, widths = self.axes()
        return [
            BreakEven(coverage, _crossing(widths, ratio[k]), _crossing(widths, ratio[k] + np.nan_to_num(half[k])))
            for k, coverage in enumerate(coverages.tolist())
        ]

    def bias_range(self, policy: str, against: Against = "none") -> tuple[float, float]:
        """The biases, relative to the truth, between which the policy is better off with the predictor.

        Interpolated; infinite at an end to which the study did not find one, NaN if none pays. Raises as `break_even`.
        """
        column, _ = self._ratio(policy, against)
        found = sorted((row.bias, getattr(row, column)) for row in self.biased if row.policy == policy)
        bias, ratio = np.array([pair for pair in found if not math.isnan(pair[1])]).reshape(-1, 2).T
        if not (ratio < 1).any():
            return math.nan, math.nan
        best = int(np.argmin(ratio))
        return -_crossing(-bias[best::-1], ratio[best::-1]), _crossing(bias[best:], ratio[best:])

    def _ratio(self, policy: str, against: str) -> tuple[str, str]:
        if policy not in self.policies:
            raise InputError(f"the study has no policy {policy!r}; {nearest(policy, self.policies)}")
        if against not in get_args(Against):
            raise InputError(f"against={against!r} is unknown; {nearest(against, get_args(Against))}")
        return f"vs_{against}", f"vs_{against}_ci95"


@with_bar("simulating", "simulations")
def predictor_value(
    workload: Workload | None = None,
    *,
    policies: Sequence[str | Policy] = POLICIES,
    memory: int = MEMORY,
    seed: int = 0,
    requests: int = 1000,
    replications: int = 30,
    coverages: Sequence[Number] = COVERAGES,
    widths: Sequence[Number] = WIDTHS,
    biases: Sequence[Number] = BIASES,
    predicted: Mapping[str, Workload] | None = None,
    clock: str | Clock | None = None,
    max_batch: int | None = None,
    block: int = 1,
    prefill_budget: int | None = None,
    rate: float | None = None,
    threads: int | None = None,
    progress: Progress | None = None,
) -> PredictorValue:
    """Simulate every policy with every predictor, and with perfect knowledge and none.

    In each replication, `requests` requests are drawn, which all arrive at 0 unless there is a `rate`: by the `lmsys`
    generator, or with replacement from `workload`. All settings and policies see the same requests, and the noise of
    all settings is made of the same random numbers, so that their differences are known better than the latencies
    themselves.

    A policy that does not finish in a replication is left out of it: see `Row.replications`.

    Parameters
    ----------
    workload
        Requests to draw from; only prompts and outputs are used. None: the `lmsys` generator.
    policies
        Names or policies. A policy that reads a point gets the middle of the interval, where there is no point.
    memory
        Tokens of cache.
    seed
        Governs everything that is random.
    requests, replications
        Requests in a replication (at least 1), and replications (at least 2, as one has no confidence interval).
    coverages, widths, biases
        The settings of `llmsched.intervals.noisy`: every coverage with every width, and every bias at `BIAS_AT`.
    predicted
        Real predictors: name -> requests that it has not learned from, with its predictions. They are drawn from with
        replacement. Policies that need a column which a predictor does not fill are left out for it.
    clock, max_batch, block, prefill_budget
        As for `llmsched.simulate`; ``**machine.options(memory=False)`` gives those of a machine.
    rate
        Requests arrive in a Poisson process of so many per round, or per second with a clock; and it is found at which
        rate real predictors have the latency that no predictor has at this one (`Row.rate`).
    threads
        As for `llmsched.simulate_batch`.
    progress
        Called after every replication with (simulations done, simulations in all).

    Raises
    ------
    InputError
        A number is out of range, or there is nothing to draw from.
    MemoryTooSmallError
        A request can never fit (names it, and the memory that would do).
    """
    seed, requests = whole("seed", seed, 0, LARGEST_SEED), whole("requests", requests, 1)
    replications = whole("replications", replications, 2)
    chosen = [named(policy) for policy in policies]
    if not chosen or not coverages or not widths:
        raise InputError("give at least one policy, one coverage and one width")
    for policy in chosen:
        if not {"lower", "upper", "point"} & set(policy.needs):
            raise InputError(f"policy {policy.name} reads no interval and no point: noise in them is nothing to it")
    sources: dict[str, Workload | None] = {"": workload, **(predicted or {})}
    for name, source in sources.items():
        _check_source(name, source, memory, seed)
    grid = [(c, w, 0) for c in _distinct(coverages) for w in _distinct(widths)]
    settings = [*grid, *((*BIAS_AT, bias) for bias in _distinct(biases))]
    intervals.noisy(*BIAS_AT)  # a bad setting is told before the first simulation
    for c, w, bias in settings:
        intervals.noisy(c, w, 0, bias)
    options = {"clock": named_clock(clock), "max_batch": max_batch, "block": block, "prefill_budget": prefill_budget}
    study = _Replications(chosen, memory, requests, threads, options, rate)
    done, total = 0, replications * study.simulations(len(settings), predicted or {})
    for k in range(replications):
        own_seed = int(np.random.SeedSequence(seed, spawn_key=(k,)).generate_state(1, np.uint64)[0])
        for name, source in sources.items():
            rules = {setting: intervals.noisy(*setting[:2], own_seed, setting[2]) for setting in settings}
            drawn = _draw(source, requests, own_seed, rate)
            done += study.replicate(name, drawn, rules if not name else {}, own_seed)
            _log.info("replication %d of %d: %s simulated", k + 1, replications, name or "the grid")
            if progress is not None:
                progress(done, total)
    if rate is not None:
        study.find_rates(rate, lambda n: None if progress is None else progress(done + n, total))
    return study.result(grid, settings[len(grid) :], replications, seed, workload)


class _Measured(NamedTuple):
    """One predictor in one replication: latencies by policy, and what its intervals were like."""

    latency: FloatArray
    perfect: float
    none: FloatArray
    fcfs: float
    covered: float
    mean_width: float
    bound: LowerBound


class _Replications:
    """A call of `predictor_value` under way: what was measured, by predictor."""

    def __init__(
        self,
        chosen: Sequence[Policy],
        memory: int,
        requests: int,
        threads: int | None,
        options: Mapping[str, Any],
        rate: float | None,
    ) -> None:
        self.policies, self.memory, self.requests, self.threads = chosen, memory, requests, threads
        self.options, self.rate = options, rate
        self.measured: dict[Any, list[_Measured]] = {}
        self.drawn: dict[str, list[tuple[Workload, int]]] = {}  # by source: requests with predictions, and the seed
        self.rates: dict[tuple[str, str], float] = {}  # by predictor and policy

    def simulations(self, settings: int, predicted: Mapping[str, Workload]) -> int:
        each = (settings + 1 + 2 * len(predicted)) * len(self.policies) + 2 * (1 + len(predicted))
        searched = 0 if self.rate is None else len(predicted) * len(self.policies) * (_HALVINGS + 2)
        return each + searched

    def find_rates(self, rate: float, progress: Callable[[int], None]) -> None:
        """Note at which rates each policy is as slow with each real predictor as with none at `rate`."""
        done = 0
        for name, drawn in self.drawn.items():
            for p, policy in enumerate(self.policies):
                blind = float(np.mean([measured.none[p] for measured in self.measured[name]]))
                self.rates[name, policy.name] = self._rate(drawn, policy, blind, rate)
                _log.info("%s with %s: as slow at rate %g", policy.name, name, self.rates[name, policy.name])
                done += (_HALVINGS + 2) * len(drawn)
                progress(done)

    def _rate(self, drawn: Sequence[tuple[Workload, int]], policy: Policy, goal: float, rate: float) -> float:
        """The rate at which mean latency reaches `goal`, by bisection; NaN if something does not finish."""

        def latency(at: float) -> float:
            versions = [generate.poisson(version, at, seed) for version, seed in drawn]
            seeds = [seed for _, seed in drawn]
            how = {"memory": self.memory, "threads": self.threads, **self.options}
            batch = simulate_batch(versions, policy, seeds=seeds, pair="zip", **how)
            return float(batch.totals["mean_latency"].mean())

        low, high = rate / MOST_RATES, rate * MOST_RATES
        if math.isnan(goal) or math.isnan(at_rate := latency(rate)):
            return math.nan
        if at_rate <= goal:
            low = rate
            if latency(high) <= goal:
                return math.inf
        else:
            high = rate
        for _ in range(_HALVINGS):
            middle = math.sqrt(low * high)
            low, high = (middle, high) if latency(middle) <= goal else (low, middle)
        return low

    def replicate(self, name: str, drawn: Workload, rules: Mapping[Any, IntervalRule], seed: int) -> int:
        """Simulate one draw with all its predictors; returns how many simulations that were."""
        blind = drawn.with_intervals(intervals.constant(1, int(drawn.output.max())))
        versions: dict[Any, Workload] = {"none": with_midpoints(blind)}
        if name:
            versions[name] = drawn
        if name and self.rate is not None:
            self.drawn.setdefault(name, []).append((_with_point(drawn), seed))
        versions |= {setting: drawn.with_intervals(rule) for setting, rule in rules.items()}
        ready = {key: _with_point(version) for key, version in versions.items()}
        latency = self.run(list(ready.values()), self.policies, seed)
        bound = lower_bound(drawn, memory=self.memory, iterations=0, clock=self.options["clock"])
        (perfect, fcfs), none = self.run([drawn], [policies["hsf"], policies["fcfs"]], seed)[0], latency[0]
        for key, row in zip(ready, latency, strict=True):
            if key != "none" or not name:
                self.add(key, _Measured(row, perfect, none, fcfs, *_coverage_and_width(ready[key]), bound))
        if not name:
            for key, alone in (("perfect", perfect), ("fcfs", fcfs)):
                nothing = np.full(1, np.nan)
                self.add(key, _Measured(np.array([alone]), perfect, nothing, fcfs, math.nan, math.nan, bound))
        return latency.size + 2

    def run(self, versions: Sequence[Workload], chosen: Sequence[Policy], seed: int) -> FloatArray:
        """Mean latencies, shape (workloads, policies); NaN where a policy does not finish, or lacks a column."""
        how = {"memory": self.memory, "threads": self.threads, **self.options}
        batch = simulate_batch(versions, chosen, seeds=seed, **how)
        latency: FloatArray = batch.totals["mean_latency"].reshape(len(versions), len(chosen))
        return latency

    def add(self, key: Any, measured: _Measured) -> None:
        self.measured.setdefault(key, []).append(measured)

    def result(
        self, grid: Sequence[Any], biased: Sequence[Any], replications: int, seed: int, workload: Workload | None
    ) -> PredictorValue:
        names = [policy.name for policy in self.policies]
        real = [key for key in self.measured if isinstance(key, str) and key not in _REFERENCES]
        references = [*self.rows("perfect", "perfect", ["hsf"]), *self.rows("none", "none", names)]
        references += self.rows("fcfs", "none", ["fcfs"])
        return PredictorValue(
            grid=[row for setting in grid for row in self.rows(setting, "noisy", names)],
            biased=[row for setting in biased for row in self.rows(setting, "noisy", names)],
            real=[row for name in real for row in self.rows(name, name, names)],
            references=references,
            policies=names,
            requests=self.requests,
            replications=replications,
            memory=self.memory,
            seed=seed,
            rate=self.rate,
            workload=workload,
            **self.options,
        )

    def rows(self, key: Any, predictor: str, names: Sequence[str]) -> Iterator[Row]:
        """A row per policy, NaN where it never finished; none for policies that need what a real predictor lacks."""
        seen = self.measured[key]
        c, w, bias = map(decimal_fraction, key) if isinstance(key, tuple) else (math.nan,) * 3
        covered, width = (float(np.mean([getattr(m, name) for m in seen])) for name in ("covered", "mean_width"))
        setting = (float(c), float(w), float(bias), covered, width)
        chosen = {**policies, **{policy.name: policy for policy in self.policies}}
        for p, name in enumerate(names):
            finished = [m for m in seen if not math.isnan(m.latency[p])]
            if not finished and not isinstance(key, tuple):
                continue
            latency, none = (np.array([getattr(m, column)[p] for m in finished]) for column in ("latency", "none"))
            perfect, fcfs = (np.array([getattr(m, column) for m in finished]) for column in ("perfect", "fcfs"))
            mean, vs_perfect, vs_none, vs_fcfs = (
                mean_and_half_width(latency / base) for base in (1.0, perfect, none, fcfs)
            )
            blind, _ = mean_and_half_width(none / perfect)
            gap, _ = mean_and_half_width(
                np.array([m.bound.gap(m.latency[p] * self.requests, chosen[name]) for m in finished])
            )
            saved = mean_and_half_width(none - latency)
            rate = math.nan if isinstance(key, tuple) else self.rates.get((key, name), math.nan)
            ratios = (*mean, *vs_perfect, *vs_none, *vs_fcfs, blind, gap)
            yield Row(predictor, *setting, name, len(finished), *ratios, *saved, rate)


def _coverage_and_width(version: Workload) -> tuple[float, float]:
    """The share of outputs inside their intervals, and the mean width; NaN for what cannot be said."""
    low, high = version.lower, version.upper
    if low is None and high is None:
        return math.nan, math.nan
    inside = (version.output >= (0 if low is None else low)) & (version.output <= (math.inf if high is None else high))
    return float(inside.mean()), math.nan if low is None or high is None else float((high - low).mean())


def _check_source(name: str, source: Workload | None, memory: int, seed: int) -> None:
    if name in _REFERENCES:
        raise InputError(f"a predictor cannot be called {name!r}: that is a reference")
    if source is None:
        return
    if not len(source):
        raise InputError(f"there is nothing to draw from{f' for {name!r}' if name else ''}: no requests")
    problem_of(source, policies["hsf"], memory, seed)


def _draw(source: Workload | None, n: int, seed: int, rate: float | None) -> Workload:
    drawn = generate.lmsys(n, seed) if source is None else generate.resample(source, n, seed)
    return drawn if rate is None else generate.poisson(drawn, rate, seed)


def _with_point(version: Workload) -> Workload:
    lacks = version.point is None and version.lower is not None and version.upper is not None
    return with_midpoints(version) if lacks else version


def _distinct(values: Sequence[Number]) -> list[Number]:
    """Each value once, as the decimal that was written."""
    return list({decimal_fraction(value): value for value in values}.values())


def _crossing(values: FloatArray, ratio: FloatArray) -> float:
    """The value, of some in ascending order, up to which the ratio stays below 1; linear between two."""
    pays = ratio < 1
    if pays.all():
        return math.inf
    k = int(np.argmin(pays))
    if k == 0:
        return 0.0
    if math.isnan(ratio[k]):
        return float(values[k - 1])
    share = (1 - ratio[k - 1]) / (ratio[k] - ratio[k - 1])
    return float(values[k - 1] + share * (values[k] - values[k - 1]))
