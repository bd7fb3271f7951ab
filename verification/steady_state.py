"""How often the intervals of `llmsched.steady_state` contain the mean of the steady state: a table, in minutes.

    python -m verification.steady_state

Series whose steady-state mean is known: a first-order autoregression that starts 10 standard deviations away, and the
waiting times of M/M/1 that starts empty (Pollaczek-Khinchine). docs/reference/statistics.md has the table.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from scipy.signal import lfilter

from llmsched.metrics import steady_state
from llmsched.metrics.steady_state import Estimate, Method

RUNS = 2000  # of each line; the standard error of 95 % is 0.5 %
Array = npt.NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Array]


def autoregression(phi: float, start: float) -> Draw:
    """X_t = 10 + phi (X_{t-1} - 10) + noise, with variance 1 in the steady state, from `start`."""

    def draw(rng: np.random.Generator, n: int) -> Array:
        noise = rng.normal(0, np.sqrt(1 - phi**2), n)
        series: Array = lfilter([1], [1, -phi], noise, zi=[phi * (start - 10)])[0]
        return 10 + series

    return draw


def waiting_times(load: float) -> Draw:
    """Waits of M/M/1 with service at rate 1 that starts empty (Lindley): W = S - min of S so far, S a random walk."""

    def draw(rng: np.random.Generator, n: int) -> Array:
        steps = rng.exponential(1.0, n) - rng.exponential(1 / load, n)
        walk = np.concatenate([[0.0], np.cumsum(steps[:-1])])
        waits: Array = walk - np.minimum.accumulate(walk)
        return waits

    return draw


SERIES: tuple[tuple[str, Draw, float], ...] = (
    ("AR(1), 0.5, from 20", autoregression(0.5, 20), 10.0),
    ("AR(1), 0.9, from 20", autoregression(0.9, 20), 10.0),
    ("AR(1), 0.99, from 20", autoregression(0.99, 20), 10.0),
    ("M/M/1, load 0.5", waiting_times(0.5), 1.0),
    ("M/M/1, load 0.8", waiting_times(0.8), 4.0),
    ("M/M/1, load 0.9", waiting_times(0.9), 9.0),
)
LENGTHS = (1000, 10_000, 100_000)


def estimates(draw: Draw, n: int, runs: int) -> dict[Method, list[Estimate]]:
    """Both kinds of intervals of the same series."""
    rng = np.random.default_rng(n)
    found: dict[Method, list[Estimate]] = {method: [] for method in steady_state.METHODS}
    for _ in range(runs):
        series = draw(rng, n)
        for method, several in found.items():
            several.append(steady_state.estimate(series, method=method))
    return found


def shares(found: list[Estimate], truth: float) -> dict[str, float]:
    """Of the runs: how many intervals contain the truth, are not doubted, and contain it if not; means of the rest."""
    right = np.array([e.low <= truth <= e.high for e in found])
    undoubted = np.array([not e.doubts for e in found])
    return {
        "covered": float(right.mean()),
        "undoubted": float(undoubted.mean()),
        "covered if undoubted": float(right[undoubted].mean()) if undoubted.any() else float("nan"),
        "dropped": float(np.mean([e.dropped for e in found])),
        "half width": float(np.mean([(e.high - e.low) / 2 for e in found])),
    }


def main() -> int:
    print("| series | values | intervals | covered | undoubted | covered if undoubted | dropped | half width |")
    print("| --- | ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for name, draw, truth in SERIES:
        for n in LENGTHS:
            for method, found in estimates(draw, n, RUNS if n < 100_000 else RUNS // 4).items():
                row = shares(found, truth)
                cells = [f"{100 * row[key]:.1f} %" for key in ("covered", "undoubted", "covered if undoubted")]
                cells += [f"{row['dropped']:.0f}", f"{row['half width']:.3g}"]
                print(f"| {name} | {n:,} | {method} | {' | '.join(cells)} |", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
