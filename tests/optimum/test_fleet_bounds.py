"""Lower bounds of fleets: no router, no policy, no replica beats them."""

from __future__ import annotations

import pytest
from helpers.examples import examples
from helpers.strategies import fleets
from hypothesis import assume, given

import llmsched as ls
from llmsched.errors import InputError, LlmschedError

W = ls.generate.poisson(ls.generate.lmsys(300, seed=3), 0.5, seed=3)


@examples(300)
@given(drawn=fleets())
def test_no_fleet_beats_its_bound(drawn):
    workload, options = drawn
    try:
        fleet = ls.simulate_fleet(workload, max_rounds=2000, **options)
    except LlmschedError:
        assume(False)
    machine = {name: options.get(name) for name in ("memory", "clock", "replicas")}
    bound = ls.lower_bound(workload, iterations=20, **machine)
    for outcome in fleet.outcomes:
        assert bound.of(outcome.policy) <= fleet.total_latency * (1 + 1e-9) or outcome.policy.slots != "processed"
    assert bound.preemptive <= fleet.total_latency * (1 + 1e-9) or any(
        outcome.policy.slots == "processed" or outcome.policy.prompts == "moved" for outcome in fleet.outcomes
    )


def test_one_replica_has_the_bound_of_a_machine():
    for clock in (None, "llama2-70b-2xa100"):
        one = ls.lower_bound(W, memory=5000, clock=clock, iterations=0)
        same = ls.lower_bound(W, memory=5000, clock=clock, iterations=0, replicas=[ls.Replica()])
        assert (one.value, one.preemptive, one.each) == (same.value, same.preemptive, same.each)


def test_caches_are_pooled_in_rounds():
    together = ls.lower_bound(W, memory=5000, iterations=0)
    apart = ls.lower_bound(W, iterations=0, replicas=[ls.Replica(memory=2000), ls.Replica(memory=3000)])
    assert together.each == apart.each


def test_a_slow_replica_beside_a_fast_one_helps_no_more_than_another_fast_one():
    fast, slow = ls.Clock(base=0.01, per_request=0.001), ls.Clock(base=0.1, per_request=0.01)
    bounds = [
        ls.lower_bound(W, memory=5000, replicas=[ls.Replica(clock=clock) for clock in clocks]).value
        for clocks in ([fast, fast], [fast, slow], [fast], [slow, slow])
    ]
    assert bounds[0] <= bounds[1] <= bounds[2]
    assert bounds[0] < bounds[3]


def test_seconds_and_rounds_are_not_mixed():
    with pytest.raises(InputError, match="some replicas have a clock and others none"):
        ls.lower_bound(W, memory=5000, replicas=[ls.Replica(clock="llama2-70b-2xa100"), ls.Replica()])
