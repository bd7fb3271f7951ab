"""Capacity: the answer against every rate tried one by one, and questions that have no finite answer."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest

import llmsched as ls
from llmsched import errors
from llmsched.metrics import capacity, service

CLOCK = ls.Clock(base=0.05, per_request=0.002, per_prompt_token=0.0004)
ASKED: dict[str, Any] = {"slo": {"ttft": 1.0, "tpot": 0.15}, "clock": CLOCK, "replications": 4, "requests": 150}


@pytest.fixture(scope="module")
def workload() -> ls.Workload:
    return ls.generate.lmsys(300, 1).with_intervals(ls.intervals.buckets(100))


def shares(found: capacity.Capacity, workload: ls.Workload, rate: float, memory: int, seed: int = 0) -> np.ndarray:
    """What the replications see, from the public parts."""
    from llmsched.workloads.random_streams import raw_stream

    seen = []
    for own in raw_stream(seed, "capacity", found.replications).tolist():
        drawn = ls.generate.poisson(ls.generate.resample(workload, found.requests, own), rate, own)
        result = ls.simulate(drawn, found.policy, memory=memory, seed=own, clock=CLOCK, record="tokens")
        seen.append(service.metrics(result, found.slo).goodput)
    return np.array(seen)


@pytest.mark.parametrize("policy", ["fcfs", "amin"])
def test_the_highest_rate_holds_and_a_little_more_does_not(workload: ls.Workload, policy: str) -> None:
    found = capacity.highest_rate(workload, policy, memory=6000, tolerance=0.005, **ASKED)
    at, above = shares(found, workload, found.value, 6000), shares(found, workload, found.value * 1.05, 6000)
    assert at.mean() >= 0.9
    assert above.mean() < 0.9
    assert found.attained == at.mean()
    assert found.attained_ci95 == pytest.approx(3.182446 * at.std(ddof=1) / 2)  # Student's t, 3 degrees of freedom
    assert found.low <= found.value <= found.high
    low = shares(found, workload, found.low, 6000)
    assert low.mean() - 3.182446 * low.std(ddof=1) / 2 >= 0.9 - 1e-6
    assert found.low < found.high
    assert found.simulations == 4 * len(found.probes)
    assert list(found.probes) == sorted(found.probes)
    assert "requests/s (95 % CI" in str(found)


def test_the_smallest_memory_holds_and_less_does_not(workload: ls.Workload) -> None:
    found = capacity.smallest_memory(workload, "fcfs", rate=3.0, tolerance=0.005, **ASKED)
    memory = int(found.value)
    assert memory == found.value
    assert shares(found, workload, 3.0, memory).mean() >= 0.9
    assert shares(found, workload, 3.0, int(memory * 0.95)).mean() < 0.9
    assert found.low <= found.value <= found.high
    assert (found.memory, found.rate) == (None, 3.0)
    assert "tokens of cache" in str(found)


def test_the_smallest_memory_is_in_whole_blocks(workload: ls.Workload) -> None:
    found = capacity.smallest_memory(workload, "fcfs", rate=3.0, tolerance=0.005, block=48, **ASKED)
    assert {memory % 48 for memory, _, _ in found.probes} == {found.value % 48} == {0}
    assert found.attained >= 0.9
    fewer = [share for memory, share, _ in found.probes if memory < found.value]
    assert max(fewer) < 0.9


def test_the_answer_depends_on_the_seed_and_not_on_threads(workload: ls.Workload) -> None:
    one, two, other = (
        capacity.highest_rate(workload, memory=6000, threads=threads, seed=seed, **ASKED).record()
        for threads, seed in ((1, 3), (3, 3), (1, 4))
    )
    assert one == two
    assert one["value"] != other["value"]
    json.dumps(one)


def test_a_single_replication_has_no_interval(workload: ls.Workload) -> None:
    found = capacity.highest_rate(workload, memory=6000, **{**ASKED, "replications": 1})
    assert math.isnan(found.low)
    assert math.isnan(found.attained_ci95)
    assert "CI" not in str(found)
    assert found.record()["low"] is None


def test_requests_arrive_as_the_workload_says_unless_a_rate_is_given() -> None:
    workload = ls.Workload([10] * 40, [20] * 40, arrival=np.arange(40) * 0.25)
    asked = {"slo": {"queueing": 0.06}, "attainment": 1.0, "clock": ls.Clock(base=0.05), "replications": 2}
    found = capacity.smallest_memory(workload, "fcfs", **asked)
    # 20 tokens take 1 s: four or five run at once, and none may wait for long
    result = ls.simulate(workload, "fcfs", memory=int(found.value), clock=ls.Clock(base=0.05), record="tokens")
    assert service.metrics(result, {"queueing": 0.06}).goodput == 1
    with pytest.raises(errors.InputError, match="give a rate, or leave requests out"):
        capacity.smallest_memory(workload, requests=9, **asked)


def test_targets_that_always_or_never_hold(workload: ls.Workload) -> None:
    lax = {**ASKED, "slo": {"e2e": 1e9}}
    found = capacity.highest_rate(workload, memory=6000, **lax)
    assert found.value == found.low == found.high == math.inf
    assert math.isnan(found.attained)
    assert found.record()["value"] is None
    assert capacity.smallest_memory(workload, rate=5, **lax).value == workload.extent.request
    strict = {**ASKED, "slo": {"ttft": 0.001}}
    assert capacity.highest_rate(workload, memory=6000, **strict).value == 0
    assert capacity.smallest_memory(workload, rate=5, **strict).value == math.inf


def test_loose_targets_on_short_runs_are_told_from_a_stable_rate(workload: ls.Workload) -> None:
    asked = {**ASKED, "slo": {"e2e": 300.0}, "requests": 1500, "replications": 3, "tolerance": 0.05}
    found = capacity.highest_rate(workload, memory=4000, **asked)
    assert found.above_capacity > 0
    assert found.stable_rate < found.value


def test_blocks_and_limits_of_the_batch_are_passed_on(workload: ls.Workload) -> None:
    capped = capacity.highest_rate(workload, memory=6000, max_batch=4, **ASKED)
    assert capped.value < 0.8 * capacity.highest_rate(workload, memory=6000, **ASKED).value
    chunked = capacity.highest_rate(workload, memory=6000, prefill_budget=4, **ASKED)
    assert chunked.value < capped.value  # four requests at once, and their prompts take turns
    found = capacity.smallest_memory(workload, rate=2, block=16, **ASKED)
    assert found.value >= workload.extent.request


def test_a_policy_that_does_not_finish_holds_nothing() -> None:
    stuck = ls.Workload(prompt=0, output=[10] * 4)
    found = capacity.highest_rate(stuck, "protection", memory=20, slo={"ttft": 1}, replications=2)
    assert found.unit == "round"
    assert found.value < math.inf


def test_progress_is_reported(workload: ls.Workload) -> None:
    seen: list[tuple[int, int]] = []
    found = capacity.highest_rate(workload, memory=6000, progress=lambda *at: seen.append(at), **ASKED)
    assert seen[-1][0] == found.simulations
    assert all(done < total for done, total in seen)


def test_bad_input_is_refused(workload: ls.Workload) -> None:
    good: dict[str, Any] = {"memory": 6000, **ASKED}
    for change, said in (
        ({"slo": {}}, "give at least one target"),
        ({"slo": {"tft": 1}}, "did you mean 'ttft'"),
        ({"attainment": 0}, "attainment=0 must be"),
        ({"attainment": 1.5}, "attainment=1.5 must be"),
        ({"tolerance": 0}, "tolerance=0 must be"),
        ({"replications": 0}, "replications must be a whole number from 1"),
        ({"requests": 0}, "requests must be a whole number from 1"),
        ({"threads": 0}, "threads must be a whole number from 1"),
        ({"memory": 10}, "needs prompt"),
        ({"clock": "none"}, "there is no clock 'none'"),
        ({"block": 0}, "block must be a whole number from 1"),
        ({"prefill_budget": 0}, "prefill_budget must be a whole number from 1"),
    ):
        with pytest.raises(errors.InputError, match=said):
            capacity.highest_rate(workload, **{**good, **change})
    with pytest.raises(errors.InputError, match="nothing to serve"):
        capacity.highest_rate(ls.Workload([], []), **good)
    with pytest.raises(errors.InputError, match="not list"):
        capacity.highest_rate([], **good)
    with pytest.raises(errors.InputError, match="rate must be greater than 0"):
        capacity.smallest_memory(workload, rate=0, **ASKED)
    with pytest.raises(errors.MissingPredictionError):
        capacity.highest_rate(ls.generate.lmsys(20), "amin", **good)
