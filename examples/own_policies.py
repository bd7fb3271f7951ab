"""Orders of your own on a trace: who misses a deadline, and how long the longest wait is.

python examples/own_policies.py AzureLLMInferenceTrace_conv.csv

The arrivals are stretched to 3 requests a second, half of the requests (drawn) should complete within 30 seconds of
their arrival and half within 300, and lengths are predicted in buckets of 100. docs/how-to/your-own-policy.md shows the
table.
"""

from __future__ import annotations

import dataclasses
import sys
import time

import numpy as np

import llmsched as ls

ORDERS = {
    "shortest first": "bound",
    "first come": "arrival",
    "ageing, 0.2 tokens a second": "bound - 0.2 * (now - arrival)",
    "ageing, 1 token a second": "bound - 1 * (now - arrival)",
    "ageing, 5 tokens a second": "bound - 5 * (now - arrival)",
    "earliest deadline": "arrival + deadline",
    "deadline, then shortest": "bound + deadline",
    "least slack": "arrival + deadline - now - 0.05 * bound",
    "highest response ratio": "-(now - joined) / bound",
}


def workload_of(path: str, per_second: float, seed: int = 0) -> ls.Workload:
    """The requests of the trace at this rate, with deadlines and predictions."""
    requests = ls.traces.load(path)
    arrival = requests.arrival * (len(requests) / float(requests.arrival[-1]) / per_second)
    deadline = np.random.default_rng(seed).choice([30.0, 300.0], len(requests))
    return requests.replace(arrival=arrival, deadline=deadline).with_intervals(ls.intervals.buckets(100))


def main(path: str) -> None:
    """Print the table: an order a row."""
    requests = workload_of(path, per_second=3)
    urgent = requests.deadline == 30
    base = ls.policies["amin-recompute"]
    print("order                          mean   longest wait   missed: all   30 s  300 s   seconds to simulate")
    for name, order in ORDERS.items():
        began = time.perf_counter()
        policy = dataclasses.replace(base, order=order)
        result = ls.simulate(requests, policy, memory=60_000, block=16, clock="llama2-70b-8xh100")
        took = time.perf_counter() - began
        missed = result.latency > requests.deadline
        wait = float((result.start - requests.arrival).max())
        shares = f"{missed.mean():11.1%} {missed[urgent].mean():9.1%} {missed[~urgent].mean():6.1%}"
        print(f"{name:28} {result.mean_latency:6.1f} {wait:11.0f} s  {shares} {took:12.1f}")


if __name__ == "__main__":
    main(*sys.argv[1:])
