"""Service metrics and joules of a fleet are those of its replicas, put together."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import fleets
from hypothesis import assume, given

import llmsched as ls

SLO = {"ttft": 3.0, "tpot": 1.5}


def recorded(workload, **options):
    return ls.simulate_fleet(workload, record=("tokens", "timeline"), max_rounds=2000, **options)


@examples(150)
@given(drawn=fleets())
def test_what_a_request_feels_is_what_it_feels_on_its_replica(drawn):
    workload, options = drawn
    try:
        fleet = recorded(workload, **options)
    except ls.errors.LlmschedError:
        assume(False)
    together = ls.service.metrics(fleet, SLO)
    for k, part in enumerate(fleet.replicas):
        at, alone = fleet.requests_of(k), ls.service.metrics(part, SLO)
        for name in ls.service.METRICS:
            assert np.array_equal(together.per_request[name][at], alone.per_request[name], equal_nan=True)
        assert np.array_equal(together.met[at], alone.met)
    if fleet.clock is not None:
        joules = ls.energy.metrics(fleet, "example-2xa100")
        for k, part in enumerate(fleet.replicas):
            alone_joules = ls.energy.metrics(part, "example-2xa100")
            assert np.array_equal(joules.per_request[fleet.requests_of(k)], alone_joules.per_request)


@pytest.fixture(scope="module")
def busy_fleet():
    """Four replicas at a load that they hold."""
    w = ls.generate.poisson(ls.generate.lmsys(1500, seed=1), 16.0, seed=1).with_intervals(ls.intervals.buckets(100))
    machine = ls.machines["llama2-70b-2xa100"].options()
    return recorded_all(w, **machine)


def recorded_all(w, **options):
    return ls.simulate_fleet(w, "fcfs", replicas=4, record=("tokens", "timeline"), **options)


def test_rates_are_those_of_all_replicas_over_one_window(busy_fleet):
    seen = ls.service.metrics(busy_fleet, SLO, warmup=10, drain=5)
    begin, end = seen.window
    assert begin == busy_fleet.workload.arrival.min() + 10
    assert end == busy_fleet.makespan - 5
    inside = (busy_fleet.completion > begin) & (busy_fleet.completion <= end)
    assert seen.requests_rate == pytest.approx(inside.sum() / (end - begin))
    tokens = used = busy = 0.0
    for part in busy_fleet.replicas:
        log, rounds = part.tokens, part.timeline.expand()
        ran = np.minimum(log.round_end, end) - np.maximum(rounds["time"], begin)
        ran = np.maximum(ran, 0)
        busy += ran.sum()
        used += (ran * rounds["memory"]).sum()
        tokens += rounds["batch"][(log.round_end > begin) & (log.round_end <= end)].sum()
    assert seen.busy == pytest.approx(busy / 4 / (end - begin))
    assert seen.cache_use == pytest.approx(used / busy_fleet.memory / (end - begin))
    assert busy_fleet.total_evictions == 0
    assert seen.tokens_rate == pytest.approx(tokens / (end - begin))
    assert seen.goodput == seen.met[seen.counted].mean()


def test_joules_are_those_of_replicas_that_are_on_all_the_time(busy_fleet):
    power = ls.energy.Power(idle=100, busy=500, per_token=1.0)
    joules = ls.energy.metrics(busy_fleet, power)
    parts = [ls.energy.metrics(part, power) for part in busy_fleet.replicas]
    assert joules.per_request.sum() == pytest.approx(sum(part.per_request.sum() for part in parts))
    assert joules.wasted == pytest.approx(sum(part.wasted for part in parts))
    assert joules.peak_watts == max(part.peak_watts for part in parts)
    ran = sum(outcome.busy for outcome in busy_fleet.outcomes)
    first = busy_fleet.workload.arrival.min()
    assert joules.idle == pytest.approx(100 * (4 * (busy_fleet.makespan - first) - ran))


def test_a_load_above_what_the_fleet_serves_is_told_with_the_rate():
    machine = ls.machines["llama2-70b-2xa100"].options()
    requests = ls.generate.lmsys(3000, seed=2)
    held = ls.service.metrics(recorded_all(ls.generate.poisson(requests, 8.0, seed=2), **machine))
    assert held.overload is None
    above = ls.service.metrics(recorded_all(ls.generate.poisson(requests, 100.0, seed=2), **machine)).overload
    assert above.rate == pytest.approx(100, rel=0.05)
    one = ls.simulate(ls.generate.poisson(requests, 100.0, seed=2), "fcfs", record="tokens", **machine)
    alone = ls.service.metrics(one).overload
    assert above.stable_rate == pytest.approx(4 * alone.stable_rate, rel=0.15)
    assert "load above capacity: " in str(above)


def test_a_fleet_without_a_log_of_tokens_is_refused():
    fleet = ls.simulate_fleet(ls.Workload([1, 2], [3, 4]), "fcfs", replicas=2, memory=20)
    with pytest.raises(ls.errors.InputError, match="has no log of tokens"):
        ls.service.metrics(fleet)
    with pytest.raises(ls.errors.InputError, match=r"attempts\(fleet.replicas\[k\]\)"):
        ls.service.attempts(fleet)
