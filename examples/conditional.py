"""Does a length that is asked again while a request runs beat a lower bound? `conditional` against `amin`.

    python examples/conditional.py ../shared/data/lmsys_predicted_classes.csv

One half of the requests calibrates: it gives the table of lengths, and the lower bound of each predicted class as a
quantile. 1,000 requests of the other half are scheduled, all there at 0. Policies are paired on each of the splits; a
ratio of mean latencies is the geometric mean over them with its 95 % interval (Student's t). The baselines are the best
lower bounds in hindsight, which favours them.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

import llmsched as ls

REQUESTS = 1000
CLASSES = {"no classes": None, "2 classes": "class_of_2", "5 classes": "class_of_5"}
SHARES = (0.05, 0.1, 0.25, 0.5)
QUANTILES = (0.0, 0.05, 0.1, 0.25, 0.5, 0.9)
BASELINES = ("amin", "evicts progress")
T_95 = {20: 2.093, 30: 2.045, 40: 2.023}  # by the number of splits

Columns = Mapping[str, np.ndarray[Any, Any]]


def read(path: str) -> Columns:
    """The columns of the file, as whole numbers."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([int(row[name]) for row in rows]) for name in rows[0]}


def policies() -> Iterator[tuple[str, ls.Policy, float]]:
    """Label, policy, and the share of calibration outputs that its lower bounds leave below."""
    amin = ls.policies["amin"]
    for share in SHARES:
        yield f"amin, lower bound at {share:g}", amin, share
        yield f"evicts progress, lower bound at {share:g}", dataclasses.replace(amin, evict="progress"), share
    for q in QUANTILES:
        yield f"conditional, quantile {q:g}", dataclasses.replace(ls.policies["conditional"], quantile=q), 0.5
    yield "hsf, which sees the truth", ls.policies["hsf"], 0.5


def split(columns: Columns, label: str | None, seed: int) -> tuple[ls.Workload, dict[float, ls.Workload]]:
    """The workload of one split, by the share that its lower bounds leave below."""
    output = columns["output_tokens"]
    classes = np.zeros(len(output), int) if label is None else columns[label]
    order = np.random.default_rng(seed).permutation(len(output))
    known, new = np.split(order, [len(output) // 2])
    new = new[:REQUESTS]
    prompt = ls.generate.lmsys(REQUESTS, seed=seed).prompt  # the file has none
    table = ls.LengthTable.from_outputs(output[known], classes[known])
    workload = ls.Workload(prompt, output[new]).with_lengths(table, classes[new])
    rows = {share: table.quantile(share)[workload.classes, 0] for share in SHARES}
    return workload, {share: workload.replace(lower=lower) for share, lower in rows.items()}


def ratio(latencies: np.ndarray[Any, Any], baseline: np.ndarray[Any, Any]) -> str:
    logs = np.log(latencies / baseline)
    half = T_95[len(logs)] * logs.std(ddof=1) / math.sqrt(len(logs))
    return " ".join(f"{math.exp(logs.mean() + side * half):6.3f}" for side in (0, -1, 1))


def main() -> None:
    """Print a table for each cache and each predictor."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", help="a CSV with output_tokens and columns of predicted classes")
    parser.add_argument("--memory", type=int, nargs="+", default=[4000, 16492, 50000])
    parser.add_argument("--resume", choices=("restart", "recompute"), default="restart", help="are tokens lost or kept")
    parser.add_argument("--splits", type=int, choices=sorted(T_95), default=20)
    chosen = parser.parse_args()
    columns = read(chosen.path)
    for name, label in CLASSES.items():
        splits = [split(columns, label, seed) for seed in range(chosen.splits)]
        for memory in chosen.memory:
            latencies: dict[str, np.ndarray[Any, Any]] = {}
            for title, policy, share in policies():
                batch = ls.simulate_batch(
                    [bounded[share] for _, bounded in splits],
                    dataclasses.replace(policy, resume=chosen.resume),
                    memory=memory,
                    seeds=list(range(len(splits))),
                    pair="zip",
                )
                latencies[title] = batch.raise_errors().totals["mean_latency"]
            print(f"{name}, {memory:,} tokens of cache: ratios to the best of 'amin' and of those that evict progress")
            best = [
                min((t for t in latencies if t.startswith(w)), key=lambda t: latencies[t].mean()) for w in BASELINES
            ]
            for title, measured in sorted(latencies.items(), key=lambda item: item[1].mean()):
                ratios = "  |".join(ratio(measured, latencies[baseline]) for baseline in best)
                print(f"  {title:38} {measured.mean():8.1f} |{ratios}")
            print()


if __name__ == "__main__":
    main()
