"""The three experiments of the paper (arXiv 2508.14544, Section 6): average latency of `amax`, `amin` and `hsf`.

    rows = paper.reproduce(subsets=20)
    print("\\n".join(paper.findings(rows)))

Subsets of 200, 400, ..., 2000 requests, all arriving at 0, with (1) the interval [1, 1000] for everybody, (2) buckets
of 100 tokens, (3) the interval [(1-x)o, (1+x)o] for x = 0.1, 0.95, 0.99.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from ..errors import InputError
from ..metrics.compare import MEMORY
from ..metrics.confidence import mean_and_half_width
from ..optimum.lower_bounds import lower_bound
from ..policy import policies
from ..predict import intervals
from ..predict.intervals import IntervalRule
from ..progress import with_bar
from ..simulation.clock import Clock
from ..simulation.problem import problem_of
from ..simulation.run import EngineName, simulate
from ..workloads import generate
from ..workloads.argument_checks import LARGEST_SEED, whole
from ..workloads.columns import FloatArray
from ..workloads.workload import Workload

__all__ = ["EXPERIMENTS", "MEMORY", "POLICIES", "SIZES", "Experiment", "Row", "findings", "reproduce"]

SIZES = tuple(range(200, 2001, 200))
POLICIES = ("hsf", "amax", "amin")

#: Called after every subset with (simulations done, simulations in all).
Progress = Callable[[int, int], None]


@dataclasses.dataclass(frozen=True)
class Experiment:
    """One setting of prediction intervals: the paper's number for it, a title, and the rule."""

    number: int
    title: str
    rule: IntervalRule


EXPERIMENTS = (
    Experiment(1, "every interval [1, 1000]", intervals.constant(1, 1000)),
    Experiment(2, "buckets of 100", intervals.buckets(100)),
    Experiment(3, "truth ± 10 % (x = 0.1)", intervals.relative("0.1")),
    Experiment(3, "truth ± 95 % (x = 0.95)", intervals.relative("0.95")),
    Experiment(3, "truth ± 99 % (x = 0.99)", intervals.relative("0.99")),
)
_BY_SPELLING = MappingProxyType({str(experiment.rule): experiment for experiment in EXPERIMENTS})


@dataclasses.dataclass(frozen=True)
class Row:
    """Average latency of one policy in one setting at one size, over the random subsets.

    Attributes
    ----------
    experiment, intervals
        The paper's number of the experiment, and the interval rule's spelling.
    memory, requests, subsets
        Tokens of cache, requests in a subset, and how many subsets.
    policy
        Its name.
    unit
        Of latencies: ``"rounds"``, or ``"seconds"`` with a clock.
    mean_latency, mean_latency_ci95
        Average latency, the mean over subsets; half the width of its 95 % confidence interval (Student's t,
        NaN for a single subset).
    ratio, ratio_ci95
        Mean over subsets of average latency over that of `hsf` on the same subset; half width as above.
    gap
        Mean over subsets of the share by which average latency is at most above the smallest possible
        (`llmsched.lower_bound`).
    """

    experiment: int
    intervals: str
    memory: int
    requests: int
    subsets: int
    policy: str
    unit: str
    mean_latency: float
    mean_latency_ci95: float
    ratio: float
    ratio_ci95: float
    gap: float

    def record(self) -> dict[str, int | float | str | None]:
        """The row as plain values; None instead of NaN."""
        values = dataclasses.asdict(self)
        return {k: None if isinstance(v, float) and math.isnan(v) else v for k, v in values.items()}


@with_bar("simulating", "settings")
def reproduce(
    workload: Workload | None = None,
    *,
    memory: int = MEMORY,
    clock: str | Clock | None = None,
    seed: int = 0,
    subsets: int = 20,
    sizes: Iterable[int] = SIZES,
    engine: EngineName = "compiled",
    progress: Progress | None = None,
) -> list[Row]:
    """Run the experiments: for every setting and size, a row per policy in `POLICIES`.

    Subset k is an independent random draw: of the `lmsys` generator, or with replacement of the rows of `workload`.
    (Without replacement, all subsets as large as the workload would be the same requests, and the confidence intervals
    would say nothing.) Smaller subsets are the first requests of larger ones, and all policies and settings see the
    same subsets, so their differences are known better than the latencies themselves.

    Parameters
    ----------
    workload
        Requests to draw from; only prompts and outputs are used. None: the `lmsys` generator, like the paper's data.
    memory
        Tokens of cache.
    clock
        How long a round lasts, as for `llmsched.simulate`: latencies are then in seconds, as in the paper, where a
        batch takes what a linear regression says. In seconds `hsf` is no lower bound: others may beat it.
    seed
        Governs the subsets and all ties.
    subsets
        Random subsets of each size, at least 1; confidence intervals need 2.
    sizes
        Requests in a subset, each at least 1.
    engine
        As for `llmsched.simulate`.
    progress
        Called after every simulated subset with (simulations done, simulations in all).

    Raises
    ------
    InputError
        A number is out of range, or the workload is empty.
    MemoryTooSmallError
        A request can never fit (names it, and the memory that would do).
    """
    seed, subsets = whole("seed", seed, 0, LARGEST_SEED), whole("subsets", subsets, 1)
    counts = sorted({whole("a subset's size", size, 1) for size in sizes})
    if workload is not None:
        if not len(workload):
            raise InputError("the experiments need requests to draw from, and the workload has none")
        problem_of(workload, policies["hsf"], memory, seed)  # names the request as the user counts it, before any draw
    unit = "rounds" if clock is None else "seconds"
    latency = np.empty((len(EXPERIMENTS), len(counts), len(POLICIES), subsets))
    least = np.empty((len(counts), subsets))
    total = subsets * len(counts)
    for k in range(subsets):
        own_seed = _child_seed(seed, k)
        drawn = _draw(workload, max(counts, default=0), own_seed)
        for j, count in enumerate(counts):
            subset = drawn.head(count)
            latency[:, j, :, k] = _one_subset(subset, memory, own_seed, engine, clock)
            least[j, k] = lower_bound(subset, memory=memory, iterations=0, clock=clock).value / count
            if progress is not None:
                progress(k * len(counts) + j + 1, total)
    return [
        _row(experiment, memory, count, policy, unit, latency[e, j, p], latency[e, j, 0], least[j])
        for e, experiment in enumerate(EXPERIMENTS)
        for j, count in enumerate(counts)
        for p, policy in enumerate(POLICIES)
    ]


def findings(rows: Sequence[Row]) -> list[str]:
    """The paper's three findings, each beside what `rows` say about it at the largest size."""
    most = max(row.requests for row in rows)
    at = {(row.intervals, row.policy): row for row in rows if row.requests == most}
    one, two, *three = (str(experiment.rule) for experiment in EXPERIMENTS)
    xs = [spelling.partition(":")[2] for spelling in three]
    halved = at[two, "amax"].mean_latency / at[one, "amax"].mean_latency
    amax, amin = ([at[spelling, policy].ratio for spelling in three] for policy in ("amax", "amin"))
    listed = ", ".join(f"{ratio:.2f} at x = {x}" for x, ratio in zip(xs, amax, strict=True))
    return [
        f"1. Every interval [1, 1000]: amin takes {at[one, 'amin'].ratio:.2f} times as long as hsf, amax "
        f"{at[one, 'amax'].ratio:.2f} times. (The paper: amin is nearly hsf, amax far above.)",
        f"2. Buckets of 100: amax takes {halved:.2f} times what it took in 1, amin {at[two, 'amin'].ratio:.2f} times "
        f"as long as hsf. (The paper: amax about halves, amin comes closer still.)",
        f"3. [(1-x)o, (1+x)o]: amax takes {listed} times as long as hsf, amin {min(amin):.2f} to {max(amin):.2f}. "
        f"(The paper: amax is good only at x = 0.1, amin close to hsf at all three.)",
    ]


def title(spelling: str) -> str:
    """The title of the experiment whose interval rule is spelled so."""
    return _BY_SPELLING[spelling].title


def _child_seed(seed: int, k: int) -> int:
    return int(np.random.SeedSequence(seed, spawn_key=(k,)).generate_state(1, np.uint64)[0])


def _draw(workload: Workload | None, n: int, seed: int) -> Workload:
    return generate.lmsys(n, seed) if workload is None else generate.resample(workload, n, seed)


def _one_subset(subset: Workload, memory: int, seed: int, engine: EngineName, clock: str | Clock | None) -> FloatArray:
    """Average latencies (settings, policies) on one subset. `hsf` reads no interval: once is enough."""
    options: dict[str, Any] = {"memory": memory, "seed": seed, "engine": engine, "clock": clock}
    hindsight = simulate(subset, POLICIES[0], **options).mean_latency
    latency = np.full((len(EXPERIMENTS), len(POLICIES)), hindsight)
    for e, experiment in enumerate(EXPERIMENTS):
        predicted = subset.with_intervals(experiment.rule)
        for p, policy in enumerate(POLICIES[1:], start=1):
            latency[e, p] = simulate(predicted, policy, **options).mean_latency
    return latency


def _row(
    experiment: Experiment,
    memory: int,
    count: int,
    policy: str,
    unit: str,
    latency: FloatArray,
    hindsight: FloatArray,
    least: FloatArray,
) -> Row:
    mean, half = mean_and_half_width(latency)
    ratio, ratio_half = mean_and_half_width(latency / hindsight)
    spelling, subsets, gap = str(experiment.rule), len(latency), float((latency / least).mean()) - 1
    return Row(experiment.number, spelling, memory, count, subsets, policy, unit, mean, half, ratio, ratio_half, gap)
