"""How often the confidence intervals of `llmsched.study.statistics` contain what they should: a table, in a minute.

    python -m verification.coverage

Populations whose mean is known: normal and exponential values, and the mean latencies of 6,000 small simulations of
LMSYS-like requests, under load (60 requests, 2,000 tokens of cache) and where `amin` seldom evicts (50 and 3,000).
Samples of them are drawn with replacement. docs/reference/statistics.md has the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

import llmsched as ls
from llmsched.study import statistics
from llmsched.study.statistics import Interval, Precision

RUNS = 10_000  # of each line; the standard error of 95 % is 0.2 %
SIMULATIONS = 6000
Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, tuple[int, ...]], Array]


def simulated(requests: int, memory: int, policies: Iterable[str], seed: int = 7) -> Array:
    """Mean latencies of 6,000 simulations: replications × policies."""
    seeds = np.random.default_rng(seed).integers(2**31, size=SIMULATIONS)
    rule = ls.intervals.buckets(100)
    workloads = [ls.generate.lmsys(requests, seed=int(s)).with_intervals(rule) for s in seeds]
    names = list(policies)
    return np.array([[ls.simulate(w, name, memory=memory, seed=0).mean_latency for name in names] for w in workloads])


def covered(intervals: Iterable[Interval], truth: float) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def sampled(population: Array) -> Draw:
    return lambda rng, size: rng.choice(population, size=size)


def stopped(x: Array, precision: Precision) -> Array:
    """The beginning of `x` at which the rule stops."""
    n = 0
    while (wanted := statistics.replications_needed(x[:n], precision)) > n:
        n = wanted
    return x[:n]


def means(draw: Draw, truth: float) -> Iterable[tuple[str, float]]:
    """Intervals of a mean."""
    for n in (20, 100, 400):
        samples = draw(np.random.default_rng(n), (RUNS, n))
        yield f"t, {n} values", covered(map(statistics.mean_interval, samples), truth)
        low, high = statistics.bootstrap_intervals(samples[: RUNS // 4].T, resamples=1000)
        yield f"BCa bootstrap, {n} values", float(np.mean((low <= truth) & (truth <= high)))
    for relative in (0.05, 0.02):
        rule = Precision(relative=relative)
        rng = np.random.default_rng(1)
        ends = [stopped(draw(rng, (40_000,)), rule) for _ in range(RUNS // 4)]
        share = covered((statistics.sequential_interval(x, rule) for x in ends), truth)
        yield f"sequential, ±{relative:.0%}, {np.mean([len(x) for x in ends]):,.0f} values on average", share


def ratios(population: Array) -> Iterable[tuple[str, float]]:
    """Fieller's intervals of the ratio of two columns."""
    truth = float(np.divide(*population.mean(axis=0)))
    for n in (40, 100, 400):
        rows = np.random.default_rng(n).integers(len(population), size=(RUNS // 2, n))
        pairs = (population[row].T for row in rows)
        yield f"ratio, {n} pairs", covered((statistics.ratio_interval(x, y) for x, y in pairs), truth)


def main() -> int:
    loaded, light = simulated(60, 2000, ("amin", "amax")), simulated(50, 3000, ("amin", "hsf"))
    parts: dict[str, Iterable[tuple[str, Any]]] = {
        "normal, deviation 20 % of the mean": means(lambda rng, size: rng.normal(5, 1, size), 5.0),
        "exponential": means(lambda rng, size: rng.exponential(1.0, size), 1.0),
        "mean latency of amin, under load": means(sampled(loaded[:, 0]), loaded[:, 0].mean()),
        "amax over amin, under load": ratios(loaded[:, ::-1]),
        "amin over hsf, seldom different": ratios(light),
    }
    print("| values | interval | covered |\n| --- | --- | ---: |")
    for name, lines in parts.items():
        for method, share in lines:
            print(f"| {name} | {method} | {100 * share:.1f} % |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
