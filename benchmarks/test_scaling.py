"""How the time grows: with the number of requests, with the cache, with threads, with evictions, with arrivals."""

from __future__ import annotations

import time

import numpy as np
import pytest
from cases import (
    CLOCK,
    CLOCKED,
    HUGE,
    MEMORY,
    Case,
    azure,
    churning,
    events,
    lmsys_buckets,
    numbers,
    plain_numbers,
    policy_case,
    yardstick_b,
)
from timing import alternating

import llmsched as ls


def per(benchmark, unit: str, count: int) -> None:
    """Notes nanoseconds per request or event, where timing is on."""
    if benchmark.enabled:
        benchmark.extra_info[f"ns per {unit}"] = benchmark.stats.stats.min * 1e9 / count


def check(case: Case, result: ls.Result) -> None:
    assert result.peak_memory <= case.memory
    # the same up to the last bit: times that are not whole are rounded
    assert (result.completion >= (result.start + case.workload.output) * (1 - 1e-15)).all()
    assert (result.start >= case.workload.arrival).all()


@pytest.mark.benchmark(group="in the number of requests")
@pytest.mark.parametrize("n", [10_000, 100_000, 1_000_000])
@pytest.mark.parametrize("policy", ["hsf", "amin"])
def test_in_requests(policy, n, benchmark):
    case = policy_case(policy, n)
    check(case, benchmark(case.simulate))
    per(benchmark, "request", n)


@pytest.mark.benchmark(group="in the size of the cache")
@pytest.mark.parametrize("memory", [MEMORY, 100_000, 1_000_000, HUGE])
@pytest.mark.parametrize("policy", ["hsf", "amax", "amin"])
def test_in_memory(policy, memory, benchmark):
    case = policy_case(policy, 100_000, memory)
    check(case, benchmark(case.simulate))
    per(benchmark, "request", 100_000)


@pytest.mark.parametrize("policy", ["hsf", "amax", "amin"])
def test_a_large_cache_changes_no_answer(policy, plain):
    case = policy_case(policy, 5_000, 300_000)
    assert numbers(case.simulate()) == plain_numbers(yardstick_b(case, sweep=True)())


@pytest.mark.benchmark(group="evictions")
def test_in_churn(benchmark):
    case = churning(10_000)
    result = benchmark(case.simulate)
    assert result.total_evictions > 10 * len(result)
    assert result.work["admissions"] + len(result) + result.total_evictions == events(result)
    assert result.peak_memory <= case.memory
    per(benchmark, "event", events(result))


@pytest.mark.benchmark(group="arrivals over time")
@pytest.mark.parametrize("policy", ["fcfs", "amin"])
@pytest.mark.parametrize("rounds_per_second", [1, 20])
def test_azure_trace(policy, rounds_per_second, benchmark):
    workload = azure(rounds_per_second)
    if workload is None:
        pytest.skip("the Azure trace is not in ../shared/data: real traces are not part of the project")
    case = Case("azure", workload, policy)
    check(case, benchmark(case.simulate))
    per(benchmark, "request", len(workload))


@pytest.mark.benchmark(group="with a clock")
@pytest.mark.parametrize("policy", CLOCKED)
def test_azure_trace_with_a_clock(policy, benchmark):
    workload = azure(1)
    if workload is None:
        pytest.skip("the Azure trace is not in ../shared/data: real traces are not part of the project")
    case = Case("azure", workload, policy, clock=CLOCK)
    result = benchmark(case.simulate)
    assert result.peak_memory <= case.memory
    least = ls.clocks[CLOCK].duration(1, 0) * workload.output
    assert (result.completion >= (result.start + least) * (1 - 1e-12)).all()
    per(benchmark, "request", len(workload))


@pytest.mark.benchmark(group="threads")
def test_two_threads_and_one_give_the_same_bits(benchmark):
    workload = lmsys_buckets(2_000)

    def batch(threads: int) -> ls.Batch:
        return ls.simulate_batch(workload, "amin", memory=MEMORY, seeds=range(100), threads=threads)

    two = benchmark(batch, 2)
    one = batch(1)
    for name, column in one.totals.items():
        assert np.array_equal(column, two.totals[name]), name
    single = ls.simulate(workload, "amin", memory=MEMORY, seed=99)
    assert two.totals["total_latency"][99] == single.total_latency
    if benchmark.enabled:
        times = alternating({1: lambda: batch(1), 2: lambda: batch(2)}, clock=time.perf_counter)
        benchmark.extra_info["times faster than one thread"] = times[1] / times[2]


@pytest.mark.benchmark(group="threads")
def test_batch_overhead(benchmark):
    """A simulation of one request: what is measured is what a batch adds to each."""
    workload = ls.Workload(1, [1])
    batch = benchmark(ls.simulate_batch, workload, "hsf", memory=10, seeds=range(1000), threads=1)
    assert (batch.totals["total_latency"] == 1).all()
    per(benchmark, "simulation", 1000)
