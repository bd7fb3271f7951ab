"""Policies with a proven ratio to the optimum, on real lengths: mean latency over the proven lower bound.

python examples/guarantees.py LENGTHS.csv ...      # any trace; all its requests arrive at 0

M is a multiple of what the largest request needs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace

import llmsched as ls
from llmsched.experiments.routing import route
from llmsched.optimum import theory

POLICIES = ("svf", "svf-1bit", "hsf", "rect", "response", "vllm")


def main(args: Sequence[str] | None = None) -> None:
    """A row per policy, a column per trace and cache."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("traces", nargs="*", help="traces in any format that llmsched reads; none: lengths are drawn")
    parser.add_argument("--requests", type=int, default=1000, help="the first so many of each")
    parser.add_argument("--factors", type=float, nargs="+", default=[2, 8], help="M over the largest prompt + output")
    given = parser.parse_args(args)
    loaded = [(path.rpartition("/")[2], ls.traces.load(path)) for path in given.traces]
    columns = [
        (name, ls.generate.at_once(workload.head(given.requests)), factor)
        for name, workload in loaded or [("drawn", ls.generate.lmsys(given.requests))]
        for factor in given.factors
    ]
    measured = [measure(workload, round(factor * largest(workload))) for _, workload, factor in columns]
    for (name, workload, factor), row in zip(columns, measured, strict=True):
        heavy = (workload.output > workload.prompt).mean()
        memory = round(factor * largest(workload))
        print(f"{name}, {len(workload):,} requests, {heavy:.0%} with o > s, M = {memory:,}")
        print("  " + "  ".join(f"{policy} {ratio:.2f}" for policy, ratio in row.items()))
        print("  " + "  ".join(f"{kind} {ratio:.2f}" for kind, ratio in where_it_holds(workload, memory).items()))


def largest(workload: ls.Workload) -> int:
    """Tokens of cache that the largest request needs."""
    return int((workload.prompt + workload.output).max())


def measure(workload: ls.Workload, memory: int) -> dict[str, float]:
    """Policy -> total latency over a lower bound on it."""
    bounds = ls.lower_bound(workload, memory=memory)
    workload = workload.replace(upper=int(workload.output.max()), lower=1)
    ratios = {}
    for name in POLICIES:
        ratios[name] = ls.simulate(workload, name, memory=memory).total_latency / bounds.of(name)
    rate = theory.staggered_width(memory, round(workload.prompt.mean()), round(workload.output.mean()))
    limited = replace(ls.policies["vllm"], margin=0, rate_limit=rate / round(workload.output.mean()))
    ratios["vllm limited"] = ls.simulate(workload, limited, memory=memory).total_latency / bounds.preemptive
    return ratios | {"route": route(workload, memory).total_latency / bounds.value}


def where_it_holds(workload: ls.Workload, memory: int) -> dict[str, float]:
    """The same of `rect` and `response` on those requests alone that their guarantees are about."""
    small = 4 * workload.prompt <= memory
    kinds = {
        "rect, large": ("rect", ~small),
        "rect, s >= o": ("rect", small & (workload.output <= workload.prompt)),
        "response, s < o": ("response", small & (workload.output > workload.prompt)),
    }
    ratios = {}
    for kind, (policy, chosen) in kinds.items():
        if chosen.any():
            part = workload.take(chosen.nonzero()[0])
            bound = ls.lower_bound(part, memory=memory).value
            ratios[kind] = ls.simulate(part, policy, memory=memory).total_latency / bound
    return ratios


if __name__ == "__main__":
    main()
