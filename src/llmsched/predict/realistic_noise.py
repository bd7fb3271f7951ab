"""The errors of a real length predictor as two small tables, and intervals with such errors for any lengths.

Measured of 20,000 requests of LMSYS-Chat-1M whose lengths a fine-tuned BERT predicted as one of five classes
(github.com/James-QiuHaoran/LLM-serving-with-proxy-models, Qiu et al. 2024) by examples/realistic_noise.py. Lengths
count by their rank among those of the workload only, so that the errors carry over to other lengths.
"""

from __future__ import annotations

import numpy as np

from ..workloads.columns import FloatArray, IntArray
from ..workloads.random_streams import uniforms

GROUPS = 20

#: Of each twentieth of the requests, shortest first: how many of 1,000 are predicted to be in each class.
SHARES = (
    (910, 54, 20, 13, 3), (938, 42, 10, 8, 1), (795, 162, 25, 17, 2), (697, 228, 45, 26, 4),
    (667, 241, 55, 29, 8), (313, 550, 80, 49, 7), (160, 644, 129, 62, 5), (124, 633, 171, 64, 7),
    (88, 538, 258, 102, 14), (74, 465, 332, 115, 15), (48, 346, 442, 140, 24), (29, 245, 493, 209, 24),
    (22, 196, 483, 276, 23), (16, 146, 461, 361, 16), (13, 116, 428, 424, 19), (21, 102, 328, 511, 38),
    (18, 75, 301, 560, 46), (8, 67, 231, 614, 80), (12, 50, 244, 619, 75), (13, 54, 169, 604, 161),
)  # fmt: skip

#: Of each class: at which ranks (of 1,000) the 5, 50 and 95 % quantiles of its true lengths lie.
LEVELS = (
    (13, 140, 472), (150, 393, 799), (300, 630, 939), (378, 800, 979), (342, 867, 995),
)  # fmt: skip


def mid_ranks(values: np.ndarray[tuple[int], np.dtype[np.generic]]) -> FloatArray:
    """The rank of each value among all, between 0 and 1; equal values share the middle of their ranks."""
    ordered = np.sort(values)
    below, up_to = (np.searchsorted(ordered, values, side) for side in ("left", "right"))
    return np.asarray((below + up_to) / (2 * max(len(values), 1)), dtype=np.float64)


def predicted_classes(outputs: IntArray, seed: int) -> IntArray:
    """A class for each request, drawn as the predictor errs; the shortest are most often in class 0."""
    groups = np.minimum((mid_ranks(outputs) * GROUPS).astype(np.int64), GROUPS - 1)
    reached = np.cumsum(SHARES, axis=1)
    drawn = uniforms(seed, "realistic intervals", len(outputs)) * reached[:, -1][groups]
    return np.asarray((drawn[:, None] >= reached[groups]).sum(axis=1), dtype=np.int64)


def bounds_and_point(outputs: IntArray, seed: int) -> tuple[IntArray, IntArray, IntArray]:
    """Of each request, the 5, 95 and 50 % quantiles of the lengths (tokens) in the class that is predicted for it."""
    if not len(outputs):
        return outputs.copy(), outputs.copy(), outputs.copy()
    ranks = np.ceil(np.array(LEVELS) / 1000 * len(outputs)).astype(np.int64)
    lengths = np.sort(outputs)[np.clip(ranks, 1, len(outputs)) - 1]
    low, middle, high = lengths[predicted_classes(outputs, seed)].T
    return low.copy(), high.copy(), middle.copy()
