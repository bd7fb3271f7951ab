"""Bounds and worst cases of the paper, measured: A_max's instance, A_min's worst distributions, staggered starts."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.metrics.confidence import mean_and_half_width
from llmsched.optimum import theory
from llmsched.workloads import generate

from . import figures
from .checks import Check, Report

TITLE = "Theorems 1 and 2 on their instance, Corollary 1's distribution, Theorem 6, and the staggered pipeline"

_COVERAGE = 0.99


def run(quick: bool) -> Report:
    """Quick: some 2,000 to 10,000 requests per measurement; else up to 400,000."""
    checks = [*_staggered(), *_instances(quick), *_worst(quick), *_two_lengths(quick)]
    return Report(checks, _remarks(checks), {"worst": partial(figures.worst, checks)})


def _staggered() -> list[Check]:
    """theory.md's example: 1,000 equal requests of 10 tokens, M = 100. All of it is exact."""
    n, output, memory = 1000, 10, 100
    equal = ls.Workload(0, np.full(n, output))
    hindsight = ls.simulate(equal, "hsf", memory=memory).total_latency
    width = theory.staggered_width(memory, 0, output)
    starts = np.arange(n) * output // width
    rounds = np.arange(starts[-1] + output)[:, None]
    progress = rounds - starts + 1
    used = np.where((progress >= 1) & (progress <= output), progress, 0).sum(axis=1)
    size: dict[str, Any] = {"n": n, "memory": memory}
    latency = theory.staggered_total_latency(n, memory, 0, output)
    return [
        Check("equal lengths: hsf, total latency", "synchronous waves", 505000, hindsight, 0, **size),
        Check(
            "equal lengths: staggered, peak",
            "2601.22996",
            theory.staggered_peak(width, 0, output),
            used.max(),
            0,
            **size,
        ),
        Check("equal lengths: staggered, total latency", "2601.22996", latency, (starts + output).sum(), 0, **size),
    ]


def _instances(quick: bool) -> list[Check]:
    """Theorem 2's instance: M = lower*upper, a*upper requests of `lower` tokens, b*lower of `upper`, r = a/b."""
    checks = []
    low = 10
    for high in (40, 90, 160):
        memory, alpha = low * high, low / high
        for r in (0.5, 1.0, 2.5):
            b = 2 if quick else 40
            short, long = round(r * b) * high, b * low
            workload = ls.Workload(0, np.repeat([low, high], [short, long]), low, high)
            ratios = _ratios(workload, "amax", memory, 10)
            name = f"amax / hsf, interval [{low}, {high}], r={r}"
            size: dict[str, Any] = {"n": len(workload), "memory": memory, "limit": True}
            checks.append(Check(name, "the proof's expressions", theory.amax_instance(alpha, r), *ratios, **size))
            checks.append(Check(name, "Theorem 1", theory.amax_bound(alpha), *ratios, **size, one_sided=True))
    return checks


def _worst(quick: bool) -> list[Check]:
    """A_min on the distribution that maximises Lemma 2 on 1..u."""
    checks = []
    for high in (10, 50) if quick else (5, 10, 20, 50, 100, 200):
        lengths, shares = theory.amin_worst(high)
        memory = 20 * high if quick else 100 * high
        n = 20 * memory if quick else 100 * memory
        drawn = [_drawn(lengths, shares, n, seed) for seed in range(5)]
        size: dict[str, Any] = {"n": n, "memory": memory, "limit": True}
        full = theory.random_order_ratio(lengths, shares)
        for policy in ("amin", "amin-lottery"):
            ratios = [_ratios(workload, policy, memory, 1, seed)[0] for seed, workload in enumerate(drawn)]
            measured = mean_and_half_width(ratios, _COVERAGE)
            name = f"{policy} / hsf, worst of Lemma 2 on 1..{high}"
            checks.append(Check(name, "Corollary 1", theory.amin_rho(high), *measured, **size))
            if policy == "amin":
                checks.append(Check(name, "full cache, random order", full, *measured, **size))
    return checks


def _two_lengths(quick: bool) -> list[Check]:
    """Theorem 6 on its own ground: one token, or u with share 1/u, at most (3 - alpha)/2."""
    checks = []
    for high in (10,) if quick else (10, 30, 100, 300):
        memory = 100 * high
        n = (20 if quick else 200) * memory
        lengths, shares = np.array([1, high]), np.array([1 - 1 / high, 1 / high])
        drawn = [_drawn(lengths, shares, n, seed) for seed in range(2 if quick else 5)]
        size: dict[str, Any] = {"n": n, "memory": memory, "limit": True, "one_sided": True}
        for policy in ("amin", "amin-lottery"):
            ratios = [_ratios(workload, policy, memory, 1, seed)[0] for seed, workload in enumerate(drawn)]
            bound = theory.amin_two_point_bound(1 / high)
            name = f"{policy} / hsf, 1 or {high} tokens, one in {high} long"
            checks.append(Check(name, "Theorem 6", bound, *mean_and_half_width(ratios, _COVERAGE), **size))
    return checks


def _drawn(lengths: np.ndarray[Any, Any], shares: np.ndarray[Any, Any], n: int, seed: int) -> ls.Workload:
    """`n` requests with these lengths in these shares, drawn through `generate.resample`."""
    counts = np.rint(shares * 10**6).astype(np.int64)
    table = ls.Workload(0, np.repeat(lengths, counts), int(lengths[0]), int(lengths[-1]))
    return generate.resample(table, n, seed)


def _ratios(workload: ls.Workload, policy: str, memory: int, replications: int, seed: int = 0) -> tuple[float, float]:
    """Mean ratio of total latencies over tie seeds, and half its interval (0 for one seed)."""
    best = ls.simulate(workload, "hsf", memory=memory, seed=seed).total_latency
    ratios = [
        ls.simulate(workload, policy, memory=memory, seed=seed + k).total_latency / best for k in range(replications)
    ]
    return mean_and_half_width(ratios, _COVERAGE) if replications > 1 else (ratios[0], 0.0)


def _remarks(checks: list[Check]) -> list[str]:
    own = [check for check in checks if check.source == "the proof's expressions"]
    share = [check.measured / check.theory for check in own]
    return [
        f"On Theorem 2's instance amax reaches {min(share):.0%} to {max(share):.0%} of what the proof's own "
        "expressions give."
    ]
