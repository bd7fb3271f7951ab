"""Latency against energy: what a larger batch saves, and what evictions cost, on Llama-2-70B's clock.

    python examples/energy.py lengths.csv --out energy       # or without a file: generated lengths

1. All requests at once, with caps on the batch: joules per token against the time per output token.
2. Poisson arrivals, with caches of several sizes: joules per token against the 99th percentile of latency.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

import llmsched as ls
from llmsched.metrics import figure_style, figures

CLOCK, POWER, MEMORY = "llama2-70b-2xa100", "example-2xa100", 16_492
BATCHES = (4, 8, 16, 32, 64, None)
MEMORIES = (6_000, 8_000, 12_000, 16_000, 24_000)

Runs = Mapping[str, Sequence[ls.Result]]


def by_batch(workload: ls.Workload) -> Runs:
    return {
        policy: [
            ls.simulate(workload, policy, memory=MEMORY, max_batch=most, clock=CLOCK, record="tokens")
            for most in BATCHES
        ]
        for policy in ("hsf", "amin", "vllm")
    }


def by_memory(workload: ls.Workload) -> Runs:
    return {
        policy: [ls.simulate(workload, policy, memory=memory, clock=CLOCK, record="tokens") for memory in MEMORIES]
        for policy in ("hsf", "amax", "amin", "amin-recompute", "vllm")
    }


def report(runs: Runs, metric: str, q: float, file: Path) -> None:
    print(f"{'':16}{'memory':>8}{'batch':>7}{'J/token':>9}{'wasted':>8}{'watts':>7}   p{q:g} {metric} (s)")
    for policy, line in runs.items():
        for result in line:
            spent = ls.energy.metrics(result, POWER)
            latency = ls.service.metrics(result).percentile(metric, q)
            print(
                f"{policy:16}{result.memory:8,}{result.max_batch or 'any':>7}{spent.joules_per_token:9.2f}"
                f"{spent.wasted_share:8.1%}{spent.mean_watts:7.0f}{latency:12.4g}"
            )
    figure_style.save(figures.tradeoff(runs, POWER, metric=metric, q=q, intervals="buckets:100"), file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", help="lengths to draw from; by default the lmsys generator")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--rate", type=float, default=4.5, help="requests per second of the second figure")
    parser.add_argument("--out", type=Path, default=Path("energy"), help="directory of the figures")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    if chosen.trace is None:
        drawn = ls.generate.lmsys(chosen.requests)
    else:
        drawn = ls.generate.resample(ls.generate.at_once(ls.traces.load(chosen.trace)), chosen.requests, 0)
    drawn = drawn.with_intervals(ls.intervals.buckets(100))
    report(by_batch(drawn), "tpot", 50, chosen.out / "batch.png")
    print()
    report(by_memory(ls.generate.poisson(drawn, chosen.rate, 0)), "e2e", 99, chosen.out / "memory.png")


if __name__ == "__main__":
    main()
