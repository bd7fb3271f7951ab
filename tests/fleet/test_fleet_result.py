"""What a result of a fleet says: over all replicas, of each, and over time."""

from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

import llmsched as ls


@pytest.fixture(scope="module")
def fleet() -> ls.FleetResult:
    rng = np.random.default_rng(2)
    output = rng.integers(1, 30, 300)
    w = ls.Workload(rng.integers(1, 40, 300), output, arrival=np.sort(rng.random(300) * 60))
    w = w.with_intervals(ls.intervals.buckets(8))
    replicas = [ls.Replica(memory=400), ls.Replica(memory=200, policy="fcfs", block=8), ls.Replica(memory=300)]
    clock = ls.Clock(base=0.05, per_request=0.001)
    return ls.simulate_fleet(
        w, "amin", replicas=replicas, router="least-work,work=upper", clock=clock, record=("tokens", "timeline")
    )


def test_totals_are_those_of_the_replicas(fleet):
    parts = fleet.replicas
    for name in ("rounds", "wasted_tokens", "memory"):
        assert getattr(fleet, name) == sum(getattr(part, name) for part in parts)
    assert fleet.peak_memory == max(part.peak_memory for part in parts)
    assert fleet.makespan == max(part.makespan for part in parts)
    assert fleet.total_evictions == sum(part.total_evictions for part in parts)
    assert fleet.total_latency == pytest.approx(sum(part.total_latency for part in parts))
    assert fleet.load.tolist() == [len(part) for part in parts]
    assert fleet.peak_share == max(part.peak_memory / part.memory for part in parts)
    assert [part.policy.name for part in parts] == ["amin", "fcfs", "amin"]
    assert fleet.work == {name: sum(part.work[name] for part in parts) for name in fleet.work}


def test_each_request_is_on_one_replica(fleet):
    for k, part in enumerate(fleet.replicas):
        at = fleet.requests_of(k)
        assert (fleet.replica[at] == k).all()
        assert (np.diff(at) > 0).all()
        assert np.array_equal(part.completion, fleet.completion[at])
    assert sum(len(fleet.requests_of(k)) for k in range(3)) == len(fleet)


def test_busy_is_the_share_of_the_makespan_in_which_rounds_ran(fleet):
    for share, part in zip(fleet.busy, fleet.replicas, strict=True):
        assert share == pytest.approx((part.makespan - part.idle) / fleet.makespan)
    assert ((fleet.busy > 0) & (fleet.busy <= 1)).all()


def test_requests_at_counts_who_arrived_and_has_not_completed(fleet):
    times = np.array([0.0, 1.0, 17.3, 60.0, fleet.makespan])
    w, there = fleet.workload, fleet.requests_at(times)
    for k in range(3):
        for t, count in zip(times, there[k], strict=True):
            on = fleet.replica == k
            assert count == int((on & (w.arrival <= t) & (fleet.completion > t)).sum())
    assert there[:, -1].tolist() == [0, 0, 0]


def test_imbalance_is_the_most_over_the_mean():
    w = ls.Workload(1, [10] * 4, arrival=0.0)
    alone = ls.simulate_fleet(w, "fcfs", replicas=[ls.Replica(), ls.Replica(memory=5)], memory=50)
    times, one_has_all = alone.imbalance(11)
    assert times.tolist() == list(range(11))
    assert one_has_all[:10].tolist() == [2.0] * 10
    assert np.isnan(one_has_all[10])
    even = ls.simulate_fleet(w, "fcfs", replicas=2, router="round-robin", memory=50)
    assert even.imbalance(11)[1][:10].tolist() == [1.0] * 10


def test_summary_and_provenance_are_plain_and_repeat_the_result(fleet):
    summary = json.loads(json.dumps(fleet.summary()))
    assert summary["replicas"] == 3
    assert summary["router"] == "least-work,work=upper"
    assert summary["least_busy"] == fleet.busy.min() <= fleet.busy.max() == summary["most_busy"]
    assert summary["most_requests_share"] == fleet.load.max() / 300
    told = json.loads(json.dumps(fleet.provenance))
    replicas = [
        ls.Replica(**{**machine, "clock": ls.Clock(**machine["clock"])}) for machine in told["replicas"]
    ]  # fmt: skip
    again = ls.simulate_fleet(
        fleet.workload, replicas=replicas, router=ls.Router(**told["router"]), seed=told["seed"]
    )  # fmt: skip
    assert np.array_equal(again.completion, fleet.completion)
    assert np.array_equal(again.replica, fleet.replica)


def test_results_are_pickled_whole(fleet):
    copy = pickle.loads(pickle.dumps(fleet))
    assert copy.summary() == fleet.summary()
    assert copy.router == fleet.router
    assert np.array_equal(copy.replica, fleet.replica)
    assert copy.replicas[1].tokens == fleet.replicas[1].tokens


def test_columns_and_text_name_the_replicas(fleet):
    assert np.array_equal(fleet.columns()["replica"], fleet.replica)
    assert repr(fleet).startswith("FleetResult(3 replicas, least-work,work=upper, amin, 300 requests: mean latency ")


def test_arrays_cannot_be_written(fleet):
    for array in (fleet.replica, fleet.completion, fleet.replicas[0].completion):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0


def test_a_fleet_without_requests_did_nothing():
    nothing = ls.simulate_fleet(ls.Workload([], []), "fcfs", replicas=3, memory=10, record=("tokens", "timeline"))
    assert len(nothing) == 0
    assert nothing.busy.tolist() == [0, 0, 0]
    assert nothing.load.tolist() == [0, 0, 0]
    assert nothing.summary()["replicas"] == 3
