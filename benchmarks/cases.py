"""What is measured: workloads with a policy and a cache, and the yardsticks they are held against."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import llmsched as ls
from llmsched.predict.intervals import with_midpoints
from llmsched.simulation.problem import problem_of

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
MEMORY = 16_492  # tokens of KV cache, as in the paper's experiments
HUGE = 10_000_000
CLOCK = "llama2-70b-2xa100"
CLOCKED = tuple(ls.policies)  # what is run with a clock


@dataclasses.dataclass(frozen=True)
class Case:
    """One simulation to measure."""

    name: str
    workload: ls.Workload
    policy: str | ls.Policy
    memory: int = MEMORY
    clock: str | None = None
    prefill_budget: int | None = None

    def simulate(self, engine: Any = "compiled") -> ls.Result:
        machine: dict[str, Any] = {"clock": self.clock, "prefill_budget": self.prefill_budget}
        return ls.simulate(self.workload, self.policy, memory=self.memory, engine=engine, **machine)

    def __str__(self) -> str:
        return self.name


# Workloads -----------------------------------------------------------------------------------------------------------


def lengths_from() -> str:
    """Where the lengths come from: real ones where the data is, else generated, so that benchmarks run anywhere."""
    return (
        "../shared/data/lmsys_lengths.csv"
        if (DATA / "lmsys_lengths.csv").exists()
        else "llmsched.workloads.generate.lmsys"
    )


@functools.cache
def lmsys(n: int) -> ls.Workload:
    """`n` conversations, all there at 0; above 1,024 resampled with seed 0."""
    path = DATA / "lmsys_lengths.csv"
    if not path.exists():
        return ls.generate.lmsys(n, seed=0)
    real = ls.generate.at_once(ls.traces.load(path))
    return real.head(n) if n <= len(real) else ls.generate.resample(real, n, seed=0)


@functools.cache
def lmsys_buckets(n: int) -> ls.Workload:
    return lmsys(n).with_intervals(ls.intervals.buckets(100))


@functools.cache
def azure(rounds_per_second: float) -> ls.Workload | None:
    """The Azure conversations as they arrived, with all that a policy may ask for; None without the file.

    Predicted in buckets of 100 and their middles, or by all lengths of the trace; every fourth request is urgent.
    """
    path = DATA / "AzureLLMInferenceTrace_conv.csv"
    if not path.exists():
        return None
    trace = ls.generate.speed_up(ls.traces.load(path), 1 / rounds_per_second)
    urgent = np.where(np.arange(len(trace)) % 4 == 0, 0, 1)
    trace = trace.replace(priority=urgent).with_lengths(ls.LengthTable.from_outputs(trace.output))
    return with_midpoints(trace.with_intervals(ls.intervals.buckets(100)))


def churning(n: int) -> Case:
    """Lower bounds of 1 and a cache for a dozen requests: each is evicted some fifty times."""
    workload = ls.generate.linear_geometric(n, 0.98, 400, prompt=1, seed=0)
    return Case(f"churn, amin, n={n:,}", workload, "amin", memory=1000)


def policy_case(policy: str, n: int, memory: int = MEMORY, name: str = "") -> Case:
    """`hsf`, `amax` or `amin` on `n` conversations; the last two predict in buckets of 100."""
    workload = lmsys(n) if policy == "hsf" else lmsys_buckets(n)
    return Case(name or f"{policy}, n={n:,}", workload, policy, memory)


def small_cases() -> list[Case]:
    """The unit of work of a Monte Carlo study, in the paper's settings: 1,024 conversations at most."""
    everybody = lmsys(1024).with_intervals(ls.intervals.constant(1, 1000))
    return [
        policy_case("hsf", 1024),
        policy_case("amax", 1024, name="amax, buckets of 100, n=1,024"),
        policy_case("amin", 1024, name="amin, buckets of 100, n=1,024"),
        Case("amin, every interval [1,1000], n=1,024", everybody, "amin"),
    ]


def events(result: ls.Result) -> int:
    """Admissions, completions and evictions of a run: every admission ends in one of the other two."""
    return 2 * (len(result) + result.total_evictions)


# Yardsticks ----------------------------------------------------------------------------------------------------------


def yardstick_a(case: Case) -> Callable[[], Any]:
    """Sorting the requests once: a floor for any scheduler that serves the shortest first."""
    output = case.workload.output
    return lambda: np.argsort(output, kind="stable")


def yardstick_b(case: Case, sweep: bool = False) -> Callable[[], tuple[Any, ...]]:
    """The plain loop of plain.pyx; its preparations (lowering, ranks) are not part of what the function does.

    Raises
    ------
    build_plain.CannotBuildError
        There is no Cython or no C compiler.
    """
    from build_plain import plain

    policy = ls.policies[case.policy] if isinstance(case.policy, str) else case.policy
    problem = problem_of(case.workload, policy, case.memory, 0)
    rank = np.random.default_rng(0).permutation(len(case.workload))
    run = plain().run
    return lambda: run(problem, rank, sweep)


# Equality ------------------------------------------------------------------------------------------------------------


def numbers(result: ls.Result) -> Mapping[str, Any]:
    """Everything a run says, in one comparable value."""
    return {
        "completion": result.completion.tolist(),
        "start": result.start.tolist(),
        "evictions": result.evictions.tolist(),
        "rounds": result.rounds,
        "peak_memory": result.peak_memory,
        "wasted_tokens": result.wasted_tokens,
    }


def plain_numbers(outcome: tuple[Any, ...]) -> Mapping[str, Any]:
    """The same of what the plain loop returned."""
    completion, start, evictions, rounds, peak, wasted = outcome
    return {
        "completion": completion.astype(float).tolist(),
        "start": start.astype(float).tolist(),
        "evictions": evictions.tolist(),
        "rounds": rounds,
        "peak_memory": peak,
        "wasted_tokens": wasted,
    }
