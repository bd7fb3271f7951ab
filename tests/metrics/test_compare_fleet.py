"""compare() on a fleet: a row is a fleet, of one policy or of one router."""

from __future__ import annotations

import pytest

import llmsched as ls
from llmsched.errors import InputError
from llmsched.metrics.compare import compare

W = ls.generate.poisson(ls.generate.lmsys(200, seed=3), 0.5, seed=3).with_intervals(ls.intervals.buckets(100))
FLEET = {"memory": 3000, "replicas": 3}


def test_a_row_is_the_fleet_of_its_policy():
    found = compare(W, ["fcfs", "amin"], router="least-work,work=upper", **FLEET)
    for name in ("fcfs", "amin"):
        fleet = ls.simulate_fleet(W, name, router="least-work,work=upper", **FLEET)
        assert found[name].result.summary() == fleet.summary()
    hsf = ls.simulate_fleet(W, "hsf", router="least-work,work=upper", **FLEET)
    assert found["amin"].ratio == found["amin"].result.mean_latency / hsf.mean_latency
    bound = ls.lower_bound(W, iterations=0, **FLEET)
    assert found["amin"].gap == bound.gap(found["amin"].result.total_latency, "amin") > 0
    assert (found.replicas, found.router) == (3, ls.routers["least-work"].replace(work="upper"))
    assert repr(found).startswith("Comparison(200 requests, 3 replicas, memory 3000: mean latency in rounds ")


def test_a_row_is_the_fleet_of_its_router():
    found = compare(W, "fcfs", router=["random", "least-requests"], **FLEET)
    assert [row.policy for row in found] == ["random", "least-requests"]
    for row in found:
        fleet = ls.simulate_fleet(W, "fcfs", router=row.policy, **FLEET)
        assert row.result.summary() == fleet.summary()
    assert found.baseline == "random"
    assert found["random"].ratio == 1
    assert found.router is None
    labelled = compare(W, "fcfs", router={"mine": "random", "other": ls.Router(choices=2)}, **FLEET)
    assert [row.policy for row in labelled] == ["mine", "other"]


def test_replicas_may_differ():
    replicas = [ls.Replica(memory=2000), ls.Replica(memory=5000, max_batch=4)]
    found = compare(W, ["fcfs"], memory=3000, replicas=replicas)
    fleet = ls.simulate_fleet(W, "fcfs", memory=3000, replicas=replicas)
    assert found["fcfs"].result.summary() == fleet.summary()
    assert found.replicas == 2


def test_a_policy_that_needs_a_prediction_says_so_in_its_row():
    bare = ls.Workload(W.prompt, W.output, arrival=W.arrival)
    found = compare(bare, ["fcfs", "amin"], **FLEET)
    assert found["fcfs"].result is not None
    assert found["amin"].error.column == "lower"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"router": ["random", "session"], "replicas": None}, "several routers choose among replicas"),
        ({"router": ["random", "round-robin"], "policies": ["fcfs", "hsf"]}, "several policies or several routers"),
        ({"router": []}, "there is no router"),
        ({"replicas": 0}, "replicas must be a whole number from 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(options, said):
    with pytest.raises(InputError, match=said):
        compare(W, **{"policies": "fcfs", **FLEET, **options})
