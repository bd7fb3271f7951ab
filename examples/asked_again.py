"""Real classes, scheduled with intervals made once and with a table that is asked again while a request runs.

    python examples/asked_again.py lmsys_predicted_classes.csv

Mean latency relative to hsf, with 95 % confidence intervals, of the same replications as
``llmsched predictors --classes``: the first half of the file calibrates lower bounds to 90 % and makes the table of
lengths of `conditional`; requests are drawn from the second half.
"""

from __future__ import annotations

import dataclasses
import sys

import numpy as np

import llmsched as ls
from llmsched import predict
from llmsched.experiments import real_predictors
from llmsched.metrics.confidence import mean_and_half_width

MEMORY, REQUESTS, REPLICATIONS = 16492, 1000, 30
POLICIES = {
    "amin": ls.policies["amin"],
    "amin, evict=progress": dataclasses.replace(ls.policies["amin"], evict="progress"),
    "conditional": ls.policies["conditional"],
}


def requests_of(path: str) -> dict[str, ls.Workload]:
    """Column of classes -> requests of the second half, with lower bounds and a table of lengths from the first."""
    table = predict.read_csv(path)
    half = len(table["output_tokens"]) // 2
    bounded = real_predictors.from_classes(path, ls.generate.lmsys(1000, 0), 0.9, seed=0)
    found = {}
    for name in (column for column in table if column.startswith("class")):
        lengths = ls.LengthTable.from_outputs(table["output_tokens"][:half], table[name][:half])
        found[name] = bounded[f"{name}, lower bound"].with_lengths(lengths, table[name][half:])
    return found


def main(path: str) -> None:
    for name, requests in requests_of(path).items():
        ratios = np.empty((REPLICATIONS, len(POLICIES)))
        for k in range(REPLICATIONS):
            seed = int(np.random.SeedSequence(0, spawn_key=(k,)).generate_state(1, np.uint64)[0])
            drawn = ls.generate.resample(requests, REQUESTS, seed)
            batch = ls.simulate_batch(drawn, ["hsf", *POLICIES.values()], memory=MEMORY, seeds=seed).raise_errors()
            latency = batch.totals["mean_latency"]
            ratios[k] = latency[1:] / latency[0]
        for policy, column in zip(POLICIES, ratios.T, strict=True):
            print("{}: {:<21} {:.2f} ± {:.2f}".format(name, policy, *mean_and_half_width(column)))


if __name__ == "__main__":
    main(sys.argv[1])
