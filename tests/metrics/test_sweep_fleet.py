"""sweep() of fleets: a line for each router or policy, each point the mean of simulations of that fleet."""

from __future__ import annotations

import numpy as np
import pytest

import llmsched as ls
from llmsched.errors import InputError, WorkloadError
from llmsched.metrics.sweep import sweep
from llmsched.workloads import generate
from llmsched.workloads.random_streams import raw_stream

W = ls.generate.lmsys(150, seed=3).with_intervals(ls.intervals.buckets(100))
ASK = {"rates": [5.0, 60.0], "memory": 16_492, "clock": "llama2-70b-2xa100", "replicas": 3, "replications": 2}


def test_a_point_is_the_mean_over_simulations_of_the_fleet():
    swept = sweep(W, "fcfs", router=["random", "least-requests"], **ASK)
    assert swept.policies == ("random", "least-requests")
    assert (swept.replicas, swept.router) == (3, None)
    for router in swept.policies:
        expected = []
        for seed in map(int, raw_stream(0, "sweep", 2)):
            requests = generate.poisson(generate.resample(W, 150, seed), 5.0, seed)
            fleet = ls.simulate_fleet(
                requests, "fcfs", replicas=3, router=router, memory=16_492, clock="llama2-70b-2xa100", seed=seed
            )
            dropped = ls.steady_state.warm_up(ls.steady_state.latencies(fleet))
            order = np.argsort(requests.arrival, kind="stable")
            expected.append(fleet.latency[order[75 if dropped is None else dropped :]].mean())
        (first, _) = swept.of(router)
        assert first.means["latency_mean"] == pytest.approx(np.mean(expected))


def test_policies_share_a_router():
    swept = sweep(W, ["fcfs", "amin"], router="power-of-two", **ASK)
    assert (swept.policies, swept.router) == (("fcfs", "amin"), "power-of-two")


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"policies": ["fcfs", "amin"], "router": ["random", "session"]}, InputError, "several policies or several"),
        ({"router": ["random", "power-of-two"], "replicas": None}, InputError, "several routers choose among replicas"),
        ({"router": "session"}, WorkloadError, "reads the column 'session'"),
    ],
)
def test_what_cannot_be_swept_is_refused(options, error, said):
    with pytest.raises(error, match=said):
        sweep(W, **{"policies": "fcfs", **ASK, **options})
