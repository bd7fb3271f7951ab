"""A router that counts requests lets replicas run only when one may complete, and sees what it would see otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import llmsched as ls

LENGTHS = ls.generate.lmsys(300, seed=1).with_intervals(ls.intervals.buckets(100))

#: The same number, but the fleet does not know that it changes with completions alone: replicas run for every look.
ADDED = "running + waiting"


def arriving(n: int, rate: float, seed: int = 2) -> ls.Workload:
    return ls.generate.poisson(ls.generate.resample(LENGTHS, n, seed), rate, seed)


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 400),
    rate=st.sampled_from([0.05, 0.5, 2.0, 10.0, 100.0]),
    seed=st.integers(0, 1000),
    replicas=st.integers(2, 5),
    policy=st.sampled_from(["fcfs", "hsf", "amin", "amax", "vllm", "mcsf", "s3"]),
    clock=st.sampled_from([None, "llama2-70b-2xa100"]),
    memory=st.sampled_from([2500, 4000, 16_492]),
    block=st.sampled_from([1, 16]),
    choices=st.sampled_from([None, 2]),
    delay=st.sampled_from([0.0, 1.5]),
    max_batch=st.sampled_from([None, 4]),
)
def test_counting_is_the_same_as_adding_those_that_run_and_wait(
    n, rate, seed, replicas, policy, clock, memory, block, choices, delay, max_batch
):
    workload = arriving(n, rate, seed)
    machine = {"replicas": replicas, "memory": memory, "clock": clock, "block": block, "max_batch": max_batch}
    counted, added = (
        ls.simulate_fleet(
            workload, policy, router=ls.Router(score=score, choices=choices, delay=delay), seed=seed, **machine
        )
        for score in ("requests", ADDED)
    )
    for name in ("completion", "start", "evictions", "replica"):
        assert getattr(counted, name).tolist() == getattr(added, name).tolist()
    for one, other in zip(counted.outcomes, added.outcomes, strict=True):
        assert (one.rounds, one.peak_memory, one.wasted_tokens, one.idle, one.busy) == (
            other.rounds, other.peak_memory, other.wasted_tokens, other.idle, other.busy,
        )  # fmt: skip


@pytest.mark.parametrize("router", ["least-requests", "join-idle-queue", "power-of-two"])
def test_a_stream_of_many_requests_is_counted_alike(router):
    workload = arriving(20_000, 4.5 * 8)
    chosen = ls.routers[router]
    added = chosen.replace(rule="least", score="min(requests + 0 * running, 1)" if chosen.rule == "idle" else ADDED)
    handed: dict[ls.Router, list[np.ndarray]] = {chosen: [], added: []}
    for one, records in handed.items():
        ls.stream(
            [workload], "fcfs", replicas=8, router=one, memory=16_492, clock="llama2-70b-2xa100",
            completed=records.append,
        )  # fmt: skip
    assert np.concatenate(handed[chosen]).tolist() == np.concatenate(handed[added]).tolist()


def test_replicas_run_less_often_where_requests_are_counted():
    workload = arriving(5000, 2.0 * 8)
    counted, added = (
        ls.simulate_fleet(
            workload, "fcfs", replicas=8, memory=16_492, clock="llama2-70b-2xa100", router=ls.Router(score=score)
        )
        for score in ("requests", ADDED)
    )
    assert counted.completion.tolist() == added.completion.tolist()
    assert counted.work["rounds_stepped"] < 0.6 * added.work["rounds_stepped"]


def test_a_router_counts_requests_where_it_reads_nothing_that_moves():
    counting = {name: router.counts_requests for name, router in ls.routers.items() if router.looks}
    assert {name for name, counts in counting.items() if not counts} == {"least-waiting", "least-tokens", "least-work"}
    assert ls.Router(score="requests / speed").counts_requests
    assert not ls.Router(score="requests + waiting").counts_requests
