"""The errors of a real length predictor as a few numbers: the tables of llmsched/predict/realistic_noise.py.

    python examples/realistic_noise.py ../shared/data/lmsys_predicted_classes.csv

The file has a row per request: the true `output_tokens`, and `class_of_5`, the class that a fine-tuned BERT predicted
for it from the prompt (github.com/James-QiuHaoran/LLM-serving-with-proxy-models, Apache-2.0). Lengths are replaced by
their ranks, so that the numbers say something about traces with other lengths. Printed are the tables, and how well
intervals that are drawn from them agree with those of the predictions themselves.
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


def quality(outputs: Array, lower: Array, upper: Array, point: Array) -> dict[str, float]:
    """What intervals and points are worth."""
    return {
        "covered": float(np.mean((lower <= outputs) & (outputs <= upper))),
        "mean width": float(np.mean(upper - lower)),
        "mean error of the point": float(np.mean(np.abs(point - outputs))),
        "rank correlation": float(np.corrcoef(mid_ranks(point), mid_ranks(outputs))[0, 1]),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("file", help="a CSV file with the columns output_tokens and class_of_5")
    outputs, classes = read(parser.parse_args().file)
    shares, levels = measured(outputs, classes)
    print("SHARES:", *shares, "LEVELS:", *levels, sep="\n  ")
    same = shares == realistic_noise.SHARES and levels == realistic_noise.LEVELS
    print(f"these are {'' if same else 'NOT '}the tables of llmsched.predict.realistic_noise\n")
    table = [np.quantile(outputs[classes == k], (0.05, 0.5, 0.95), method="inverted_cdf") for k in range(5)]
    real = quality(outputs, *np.array(table)[classes].T[[0, 2, 1]])
    rule = ls.intervals.realistic()
    drawn = quality(outputs, *rule(outputs), rule.point(outputs))
    print(f"{'':<26}{'BERT':>8}{'drawn':>8}")
    for name, value in real.items():
        print(f"{name:<26}{value:>8.3g}{drawn[name]:>8.3g}")


if __name__ == "__main__":
    main()
