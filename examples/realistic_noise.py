"""The errors of a real length predictor as a few numbers: the tables of llmsched/predict/realistic_noise.py.

    python examples/realistic_noise.py ../shared/data/lmsys_predicted_classes.csv

The file has a row per request: the true `output_tokens`, and `class_of_5`, the class that a fine-tuned BERT predicted
for it from the prompt (github.com/James-QiuHaoran/LLM-serving-with-proxy-models, Apache-2.0). Lengths are replaced by
their ranks, so that the numbers say something about traces with other lengths. Printed are the tables, how well
intervals that are drawn from them agree with those of the predictions themselves, and what policies make of either:
mean latency over that of `hsf`, of 10 times 1,000 of the requests with generated prompts.
"""

from __future__ import annotations

import argparse
import csv
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.predict import realistic_noise
from llmsched.predict.realistic_noise import GROUPS, mid_ranks

Array = np.ndarray[Any, Any]
POLICIES = ("amin", "amin-doubling", "amax", "mcsf", "aell")
MEMORY = 16_492
T_95 = 2.262  # Student's t, 9 degrees of freedom
Tables = tuple[tuple[tuple[int, ...], ...], tuple[tuple[int, int, int], ...]]


def read(path: str) -> tuple[Array, Array]:
    """True lengths and predicted classes."""
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    return np.array([int(row["output_tokens"]) for row in rows]), np.array([int(row["class_of_5"]) for row in rows])


def measured(outputs: Array, classes: Array) -> Tables:
    """Of every group of ranks, how many of 1,000 requests are predicted to be in each class; and of every class, at
    which ranks (of 1,000) its 5, 50 and 95 % quantiles lie."""
    ranks = mid_ranks(outputs)
    groups = np.minimum((ranks * GROUPS).astype(int), GROUPS - 1)
    shares = []
    for group in range(GROUPS):
        counts = np.bincount(classes[groups == group], minlength=classes.max() + 1)
        shares.append(tuple(int(n) for n in np.round(1000 * counts / counts.sum())))
    levels = []
    for k in range(classes.max() + 1):
        low, middle, high = (round(1000 * float(q)) for q in np.quantile(ranks[classes == k], (0.05, 0.5, 0.95)))
        levels.append((low, middle, high))
    return tuple(shares), tuple(levels)


def quantiles(outputs: Array, classes: Array) -> Array:
    """The 5, 95 and 50 % quantiles of the true lengths in each class: classes × 3."""
    levels = (0.05, 0.95, 0.5)
    each = [np.quantile(outputs[classes == k], levels, method="inverted_cdf") for k in range(classes.max() + 1)]
    return np.array(each).astype(np.int64)


def quality(outputs: Array, lower: Array, upper: Array, point: Array) -> dict[str, float]:
    """What intervals and points are worth."""
    return {
        "covered": float(np.mean((lower <= outputs) & (outputs <= upper))),
        "mean width": float(np.mean(upper - lower)),
        "mean error of the point": float(np.mean(np.abs(point - outputs))),
        "rank correlation": float(np.corrcoef(mid_ranks(point), mid_ranks(outputs))[0, 1]),
    }


def scheduled(outputs: Array, classes: Array, table: Array, replications: int = 10) -> dict[str, Array]:
    """Of each policy, its mean latency over that of `hsf` under real and under drawn predictions: replications × 2."""
    ratios: dict[str, list[list[float]]] = {name: [] for name in POLICIES}
    for k in range(replications):
        chosen = np.random.default_rng(k).choice(len(outputs), 1000, replace=False)
        w = ls.Workload(ls.generate.lmsys(1000, k).prompt, outputs[chosen])
        lower, upper, point = table[classes[chosen]].T
        rule = ls.intervals.realistic(k)
        both = (
            w.replace(lower=lower, upper=upper, point=point),
            w.with_intervals(rule).replace(point=rule.point(w.output)),
        )
        best = ls.simulate(w, "hsf", memory=MEMORY, seed=k).mean_latency
        for name, several in ratios.items():
            several.append([ls.simulate(v, name, memory=MEMORY, seed=k).mean_latency / best for v in both])
    return {name: np.array(several) for name, several in ratios.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", help="a CSV file with the columns output_tokens and class_of_5")
    outputs, classes = read(parser.parse_args().file)
    shares, levels = measured(outputs, classes)
    print("SHARES:", *shares, "LEVELS:", *levels, sep="\n  ")
    same = shares == realistic_noise.SHARES and levels == realistic_noise.LEVELS
    print(f"these are {'' if same else 'NOT '}the tables of llmsched.predict.realistic_noise\n")
    table = quantiles(outputs, classes)
    real = quality(outputs, *table[classes].T)
    rule = ls.intervals.realistic()
    drawn = quality(outputs, *rule(outputs), rule.point(outputs))
    print(f"{'':<26}{'BERT':>8}{'drawn':>8}")
    for name, value in real.items():
        print(f"{name:<26}{value:>8.3g}{drawn[name]:>8.3g}")
    for name, ratios in scheduled(outputs, classes, table).items():
        means = ratios.mean(axis=0)
        halves = T_95 * ratios.std(axis=0, ddof=1) / np.sqrt(len(ratios))
        print(f"{name:<26}{means[0]:>8.2f}{means[1]:>8.2f}   ± {halves[0]:.2f}, {halves[1]:.2f}")


if __name__ == "__main__":
    main()
