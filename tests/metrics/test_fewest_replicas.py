"""fewest_replicas(): what it finds is enough, one less is not, and it is the same whatever runs it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError, WorkloadError
from llmsched.metrics.capacity import fewest_replicas
from llmsched.workloads import generate
from llmsched.workloads.random_streams import raw_stream

W = ls.generate.lmsys(300, seed=4).with_intervals(ls.intervals.buckets(100))
ASK: dict[str, Any] = {
    "slo": {"ttft": 1.0, "tpot": 0.1}, "memory": 16_492, "clock": "llama2-70b-2xa100", "rate": 30.0,
    "requests": 600, "replications": 4,
}  # fmt: skip


def share_with(replicas: int, router: str = "least-requests") -> float:
    """The mean share that keeps the targets, computed from the replications themselves."""
    shares = []
    for seed in map(int, raw_stream(0, "capacity", 4)):
        requests = generate.poisson(generate.resample(W, 600, seed), 30.0, seed)
        fleet = ls.simulate_fleet(
            requests, "fcfs", replicas=replicas, router=router, memory=16_492, clock="llama2-70b-2xa100",
            seed=seed, record="tokens",
        )  # fmt: skip
        shares.append(ls.service.metrics(fleet, ASK["slo"]).goodput)
    return float(np.mean(shares))


def test_the_answer_is_enough_and_one_less_is_not():
    found = fewest_replicas(W, **ASK)
    n = int(found.value)
    assert found.quantity == "replicas"
    assert 1 < n < 64
    assert found.attained == pytest.approx(share_with(n))
    assert share_with(n) >= 0.9 > share_with(n - 1)
    assert found.low <= n <= found.high
    assert str(found).startswith(
        f"{n} replicas (95 % CI {found.low:.0f} to {found.high:.0f}): fcfs behind least-requests"
    )
    assert found.record()["router"] == "least-requests"


def test_the_answer_does_not_depend_on_threads():
    assert fewest_replicas(W, **ASK, threads=1).record() == fewest_replicas(W, **ASK, threads=3).record()


def test_no_number_is_enough_or_none_less_was_allowed():
    assert math.isinf(fewest_replicas(W, **ASK, most=2).value)
    assert fewest_replicas(W, **ASK, least=30).value == 30


def test_without_a_rate_requests_come_as_the_workload_says():
    w = ls.generate.poisson(W, 30.0, 1)
    asked = {**ASK, "rate": None, "requests": None}
    found = fewest_replicas(w, router="least-work,work=upper", **asked)
    fleet = ls.simulate_fleet(
        w, "fcfs", replicas=int(found.value), router="least-work,work=upper", memory=16_492,
        clock="llama2-70b-2xa100", record="tokens",
    )  # fmt: skip
    assert ls.service.metrics(fleet, ASK["slo"]).goodput > 0.85


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"least": 0}, InputError, "least must be a whole number from 1"),
        ({"least": 5, "most": 4}, InputError, "most must be a whole number from 5"),
        ({"router": "randm"}, InputError, "did you mean 'random'?"),
        ({"router": "session"}, WorkloadError, "router session reads the column 'session'"),
        ({"router": "length-classes,classes=4"}, InputError, "has 4 classes of requests: give least=4 or more"),
        ({"rate": None}, InputError, "requests are drawn at random at a given rate only"),
        ({"memory": 10}, InputError, "tokens of cache"),
    ],
)
def test_what_cannot_be_asked_is_refused(options, error, said):
    with pytest.raises(error, match=said):
        fewest_replicas(W, **{**ASK, **options})
