"""Table 1 of the companion paper (arXiv 2502.07115): a thousand conversations at 50 a second, on Llama-2-70B's clock.

    python examples/table1.py lengths.csv          # or without a file: lengths like the paper's, generated

Prints the mean latency of MC-SF, of first come first served with the same lookahead, and of alpha-protection with and
without beta-clearing beside the published seconds, with 95 % confidence intervals over independent draws of requests
and arrivals; all policies see the same draws, and lengths are known. The companion's code gives the prompt a round of
its own, in which nothing is generated (o + 1 rounds a request): --rounds o+1 does the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import math

import numpy as np

import llmsched as ls
from llmsched.metrics.confidence import mean_and_half_width

MEMORY, RATE, CLOCK = 16_492, 50.0, "llama2-70b-2xa100"


def protection(alpha: float, beta: float | None = None) -> ls.Policy:
    if beta is None:
        return dataclasses.replace(ls.policies["protection"], margin=alpha)
    return dataclasses.replace(ls.policies["clearing"], margin=alpha, beta=beta)


#: Name -> policy, and the published mean latency in seconds.
TABLE = {
    "MC-SF": (ls.policies["mcsf"], 32.1),
    "MC-Benchmark": (ls.policies["mc-benchmark"], 46.5),
    "alpha 0.3": (protection(0.3), 51.9),
    "alpha 0.25": (protection(0.25), 51.0),
    "alpha 0.2, beta 0.2": (protection(0.2, 0.2), 50.4),
    "alpha 0.2, beta 0.1": (protection(0.2, 0.1), 50.4),
    "alpha 0.1, beta 0.2": (protection(0.1, 0.2), 53.4),
    "alpha 0.1, beta 0.1": (protection(0.1, 0.1), 50.9),
}


def draw(trace: ls.Workload | None, requests: int, k: int, prompt_round: bool) -> ls.Workload:
    w = ls.generate.lmsys(requests, k) if trace is None else ls.generate.resample(trace, requests, k)
    if prompt_round:  # s tokens in the first round, s + 1 in the second, s + o in the last
        w = w.replace(prompt=np.maximum(w.prompt - 1, 0), output=w.output + 1)
    return ls.generate.poisson(w.replace(point=w.output), RATE, k)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("trace", nargs="?", help="lengths to draw from; by default the lmsys generator")
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--replications", type=int, default=30)
    parser.add_argument("--rounds", choices=["o", "o+1"], default="o", help="that a request takes")
    chosen = parser.parse_args()
    trace = None if chosen.trace is None else ls.generate.at_once(ls.traces.load(chosen.trace))
    drawn = [draw(trace, chosen.requests, k, chosen.rounds == "o+1") for k in range(chosen.replications)]
    policies = [policy for policy, _ in TABLE.values()]
    seeds = list(range(len(drawn)))
    latency = {
        name: ls.simulate_batch(drawn, policy, memory=MEMORY, clock=CLOCK, seeds=seeds, pair="zip").totals[
            "mean_latency"
        ]
        for name, policy in zip(TABLE, policies, strict=True)
    }
    best, published_best = latency["MC-SF"], TABLE["MC-SF"][1]
    print(f"{chosen.requests:,} requests, {RATE:g} a second, {MEMORY:,} tokens of cache; mean latency in seconds")
    print(f"{'':20}  published       here             over MC-SF: published, here       finished")
    for name, (_, published) in TABLE.items():
        done = ~np.isnan(latency[name])
        here, ratio = (
            "-" if not done.any() else "{:.2f} ± {:.2f}".format(*mean_and_half_width(values[done]))
            for values in (latency[name], latency[name] / best)
        )
        print(
            f"{name:20}  {published:9.1f}       {here:15}  {published / published_best:21.2f}  {ratio:15}"
            f"  {int(done.sum()):3} of {len(done)}"
        )
    ends = np.array([latency[name] for name in TABLE])
    first = np.argmin(np.nan_to_num(ends, nan=math.inf), axis=0)
    print(f"\nMC-SF is the fastest in {int((first == 0).sum())} of {len(drawn)} draws.")


if __name__ == "__main__":
    main()
