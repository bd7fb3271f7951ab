"""Simulated competitive ratios against Lemma 2 and Theorems 6 to 8, as the cache and the workload grow together."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.metrics.confidence import mean_and_half_width
from llmsched.optimum import theory
from llmsched.workloads import generate

from . import figures
from .checks import Check, Report

TITLE = "ratios to hsf under two-point, geometric and linear-geometric lengths, against Lemma 2 and Theorems 6-8"

_COVERAGE = 0.99
#: Algorithm 2 as printed, and the rule that its proofs are about: the statements are held against both.
_BOTH = dict.fromkeys(("amin", "amin-lottery"), "Theorem 6")
_TAIL = 149  # the geometric distributions are cut off here: beyond lies less than 2e-14 of them


@dataclasses.dataclass(frozen=True)
class Distribution:
    """Lengths, what theory says of each policy on them, and how many requests per token of cache to simulate."""

    label: str
    make: Callable[[int, int], ls.Workload]
    lengths: Sequence[int]
    shares: Sequence[float]
    prompt: int
    claims: Mapping[str, tuple[str, float]]
    per_token: int

    @property
    def first_attempts(self) -> tuple[int, float]:
        """A length, and the share of its requests that Lemma 2 takes to finish at the first attempt."""
        length = self.lengths[-1] if len(self.lengths) == 2 else 4
        return length, (self.prompt + self.lengths[0]) / (self.prompt + length)


@dataclasses.dataclass(frozen=True)
class Point:
    """One distribution at one size, a value per replication: ratios by policy, `hsf` over its leading term, and the
    share of requests of one length that were never evicted by `amin`.
    """

    n: int
    memory: int
    ratios: Mapping[str, np.ndarray[tuple[int], np.dtype[np.float64]]]
    hindsight: np.ndarray[tuple[int], np.dtype[np.float64]]
    first_attempts: np.ndarray[tuple[int], np.dtype[np.float64]]


def run(quick: bool) -> Report:
    """Quick: M up to 6,400 and 5 replications; else M up to 102,400, some 4 million requests, and 8.

    n is a multiple of M, and a share of about M/n of every ratio is the end of the workload, when the cache empties.
    One more point, but in the quick run, has 16 times as many requests per token and shows how much that is.
    """
    sizes, replications = ((400, 1600, 6400), 5) if quick else ((400, 1600, 6400, 25600, 102400), 8)
    checks: list[Check] = []
    series: list[tuple[Distribution, list[Point]]] = []
    for distribution in distributions():
        points = [_point(distribution, memory, distribution.per_token, replications) for memory in sizes]
        series.append((distribution, points))
        longer = [] if quick else [_point(distribution, 6400, 16 * distribution.per_token, replications)]
        for point in longer + points:
            checks += _checks(distribution, point)
    remarks = [remark for distribution, points in series for remark in _trend(distribution, points)]
    return Report(checks, remarks, {"competitive": partial(figures.competitive, checks)})


def distributions() -> list[Distribution]:
    """The distributions of theory.md, with the theorem for each."""
    two_point = [
        _two_point(1, 10, "10/11", 0, {**_BOTH, "aell": "Theorem 7"}, 20),
        _two_point(10, 40, "4/5", 0, {**_BOTH, "aell": "Theorem 7"}, 20),
        _two_point(10, 20, "2/3", 0, {**_BOTH, "aell": "Theorem 7"}, 20),
        _two_point(10, 40, "4/5", 20, dict.fromkeys(_BOTH, "Lemma 2"), 8),
    ]
    return two_point + [_geometric(q, linear) for linear in (False, True) for q in ("0.5", "0.8")]


def _two_point(low: int, high: int, share: str, prompt: int, sources: Mapping[str, str], per: int) -> Distribution:
    above, below = map(int, share.split("/"))
    x = above / below
    shares = [x, 1 - x]
    t, alpha = above / (below - above), low / high
    proved = theory.amin_ratio([low, high], shares, prompt)
    value = {"amin": proved, "amin-lottery": proved, "aell": theory.aell_two_point(alpha, t)}
    return Distribution(
        label=f"two-point {low}/{high}, {share} short" + (f", prompt {prompt}" if prompt else ""),
        make=lambda n, seed: generate.two_point(n, low, high, share, prompt, seed),
        lengths=[low, high],
        shares=shares,
        prompt=prompt,
        claims={policy: (source, value[policy]) for policy, source in sources.items()},
        per_token=per,
    )


def _geometric(q: str, linear: bool) -> Distribution:
    k = np.arange(1, _TAIL + 1)
    weights = np.power(float(q), k - 1.0) * (k if linear else 1)
    maker = generate.linear_geometric if linear else generate.geometric
    claim = ("Theorem 8", theory.amin_linear_geometric(q)) if linear else ("Lemma 2", theory.amin_geometric(q))
    return Distribution(
        label=f"{'linear-geometric' if linear else 'geometric'} q={q}",
        make=lambda n, seed: maker(n, q, _TAIL, seed=seed),
        lengths=k.tolist(),
        shares=(weights / weights.sum()).tolist(),
        prompt=0,
        claims=dict.fromkeys(_BOTH, claim),
        per_token=40,
    )


def _point(distribution: Distribution, memory: int, per_token: int, replications: int) -> Point:
    n, prompt = per_token * memory, distribution.prompt
    leading = theory.hsf_total_latency(n, memory, distribution.lengths, distribution.shares, prompt)
    length = distribution.first_attempts[0]
    ratios: dict[str, list[float]] = {policy: [] for policy in distribution.claims}
    hindsight, first = [], []
    for seed in range(replications):
        workload = distribution.make(n, seed)
        best = ls.simulate(workload, "hsf", memory=memory, seed=seed).total_latency
        hindsight.append(best / leading)
        for policy in ratios:
            result = ls.simulate(workload, policy, memory=memory, seed=seed)
            ratios[policy].append(result.total_latency / best)
            if policy == "amin":
                first.append(float(np.mean(result.evictions[workload.output == length] == 0)))
    arrays = {policy: np.array(values) for policy, values in ratios.items()}
    return Point(n, memory, arrays, np.array(hindsight), np.array(first))


def _checks(distribution: Distribution, point: Point) -> list[Check]:
    size: dict[str, Any] = {"n": point.n, "memory": point.memory, "limit": True}
    length, share = distribution.first_attempts
    label = distribution.label
    rows = [
        Check(f"{label}: {policy} / hsf", source, value, *mean_and_half_width(point.ratios[policy], _COVERAGE), **size)
        for policy, (source, value) in distribution.claims.items()
    ]
    if "geometric" in label:
        full = theory.random_order_ratio(distribution.lengths, distribution.shares, distribution.prompt)
        ratio = mean_and_half_width(point.ratios["amin"], _COVERAGE)
        rows.append(Check(f"{label}: amin / hsf", "full cache, random order", full, *ratio, **size))
    name = f"{label}: hsf / its leading term"
    rows.append(Check(name, "Lemma 2's denominator", 1.0, *mean_and_half_width(point.hindsight, _COVERAGE), **size))
    name = f"{label}: share of o={length} never evicted"
    rows.append(
        Check(name, "Lemma 2's (s+l)/(s+i)", share, *mean_and_half_width(point.first_attempts, _COVERAGE), **size)
    )
    return rows


def _trend(distribution: Distribution, points: Sequence[Point]) -> list[str]:
    """What becomes of the difference as M grows, in words."""
    said = []
    for policy, (source, value) in distribution.claims.items():
        before, last = (mean_and_half_width(point.ratios[policy], _COVERAGE) for point in points[-2:])
        gaps = [mean / value - 1 for mean, _ in (before, last)]
        ends = float(points[-1].hindsight.mean()) - 1
        if abs(last[0] - value) <= last[1]:
            outcome = "agrees within the interval"
        elif abs(gaps[1]) <= abs(ends):
            outcome = (
                f"{gaps[1]:+.1%}, no more than n/M={points[-1].n // points[-1].memory} moves hsf itself ({ends:+.1%})"
            )
        else:
            shrinking = gaps[0] * gaps[1] > 0 and abs(gaps[1]) < 0.75 * abs(gaps[0])
            trend = "shrinking" if shrinking else "not shrinking"
            outcome = f"{gaps[1]:+.1%}, and {trend} ({gaps[0]:+.1%} at M={points[-2].memory:,})"
        said.append(
            f"{distribution.label}, {policy}: {source} {value:.4f}, measured {last[0]:.4f} ± {last[1]:.4f} at "
            f"n={points[-1].n:,}, M={points[-1].memory:,}: {outcome}."
        )
    return said
