"""Steady-state statistics: formulas against slow ones, coverage where theory gives the mean, and what is flagged."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import llmsched as ls
from llmsched.errors import InputError
from llmsched.metrics import steady_state

SERIES = st.lists(st.floats(-100, 100), min_size=40, max_size=200)


@given(SERIES, st.integers(1, 8))
def test_the_warm_up_is_where_mser_is_least(values, batch):
    k = len(values) // batch
    means = np.array(values[: k * batch]).reshape(k, batch).mean(axis=1)
    errors = [((means[d:] - means[d:].mean()) ** 2).sum() / (k - d) ** 2 for d in range(k // 2 + 1)]
    found = steady_state.warm_up(values, batch)
    d = k // 2 if found is None else found // batch
    assert errors[d] <= min(errors) + 1e-9 * max(1.0, float(means @ means))
    assert found is None or found % batch == 0


def test_a_warm_up_that_can_be_seen_is_cut_off_and_none_where_there_is_none():
    rng = np.random.default_rng(1)
    steady = rng.normal(5, 1, 4000)
    climb = np.concatenate([np.linspace(-20, 5, 300), steady])
    assert 250 <= steady_state.warm_up(climb) <= 350
    assert steady_state.warm_up(steady) < 400
    assert steady_state.warm_up(np.full(100, 3.0)) == 0
    assert steady_state.warm_up(1e9 + climb) == steady_state.warm_up(climb)


def test_a_run_that_never_settles_is_told():
    found = steady_state.estimate(np.arange(5000.0))
    assert steady_state.warm_up(np.arange(5000.0)) is None
    assert not found.warmed_up
    assert found.doubts
    assert found.dropped == 2500
    assert "no steady state" in str(found)


@given(SERIES, st.integers(2, 10))
def test_batch_means_are_a_t_interval_of_the_means(values, batches):
    found = steady_state.batch_means(values, batches=batches, confidence=0.9)
    size = len(values) // batches
    means = np.array(values[len(values) - size * batches :]).reshape(batches, size).mean(axis=1)
    half = stats.t.ppf(0.95, batches - 1) * means.std(ddof=1) / math.sqrt(batches)
    assert found.mean == pytest.approx(means.mean(), abs=1e-9)
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-6, abs=1e-9)
    assert (found.batches, found.batch_size) == (batches, size)


@given(SERIES, st.integers(2, 10))
def test_overlapping_batches_have_meketon_and_schmeiser_s_variance(values, batches):
    found = steady_state.batch_means(values, batches=batches, method="overlapping")
    m = len(values) // batches
    x = np.array(values[len(values) - m * batches :])
    n = len(x)
    squares = sum((x[j : j + m].mean() - x.mean()) ** 2 for j in range(n - m + 1))
    half = stats.t.ppf(0.975, int(1.5 * (batches - 1))) * math.sqrt(m * squares / ((n - m + 1) * (n - m)))
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("method", steady_state.METHODS)
def test_independent_values_are_covered_as_often_as_promised(method):
    rng = np.random.default_rng(3)
    hits = 0
    for _ in range(2000):
        found = steady_state.batch_means(rng.normal(3, 1, 200), method=method, confidence=0.9)
        hits += found.low <= 3 <= found.high
    assert stats.binomtest(hits, 2000, 0.9).pvalue > 1e-4


def test_the_verification_covers_m_m_1_and_warns_of_short_runs():
    """A small part of the table in docs/reference/statistics.md."""
    verification = pytest.importorskip("verification.steady_state", reason="verification/ is not beside the tests")
    draw = verification.waiting_times(0.5)
    long, short = (verification.shares(verification.estimates(draw, n, 200)["batches"], 1.0) for n in (20_000, 500))
    assert long["covered"] > 0.88
    assert long["undoubted"] > 0.8
    assert short["covered"] < 0.9
    assert short["undoubted"] < 0.05
    waits = np.mean(
        [verification.waiting_times(0.8)(np.random.default_rng(k), 50_000)[5000:].mean() for k in range(40)]
    )
    assert waits == pytest.approx(4.0, rel=0.1)  # Pollaczek-Khinchine
    series = verification.autoregression(0.9, 20)(np.random.default_rng(0), 100_000)
    assert series[0] > 15
    assert series[1000:].mean() == pytest.approx(10, abs=0.1)
    assert series[1000:].std() == pytest.approx(1, abs=0.05)


def test_batches_that_depend_on_each_other_are_told():
    rng = np.random.default_rng(0)
    walk = 100 + np.cumsum(rng.normal(size=2000)) / 10
    found = steady_state.batch_means(walk)
    assert not found.independent
    assert found.correlation > 0.3
    assert "depend on each other" in str(found)


def test_a_wide_interval_is_doubted():
    found = steady_state.batch_means(np.random.default_rng(0).normal(1, 5, 100))
    assert found.relative > steady_state.PRECISE
    assert found.doubts
    assert "simulate longer" in str(found)


def test_latencies_of_a_stable_and_of_an_overloaded_run():
    w = ls.generate.resample(ls.generate.lmsys(2000, 0), 20_000, 0)
    clock = "llama2-70b-8xh100"
    stable, overloaded = (
        steady_state.estimate(
            steady_state.latencies(ls.simulate(ls.generate.poisson(w, rate, 0), "vllm", memory=20_000, clock=clock))
        )
        for rate in (4, 60)
    )
    assert not stable.doubts, stable
    assert overloaded.doubts, overloaded


def test_latencies_are_in_the_order_of_arrival():
    w = ls.Workload([1, 1, 1], [5, 2, 3], arrival=[7, 0, 3])
    result = ls.simulate(w, "fcfs", memory=100)
    assert np.array_equal(steady_state.latencies(result), result.latency[[1, 2, 0]])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: steady_state.estimate([1.0] * 10), "10 values are too few: 80"),
        (lambda: steady_state.warm_up([1.0, math.nan] * 50), "finite numbers"),
        (lambda: steady_state.warm_up([[1.0]]), "one dimension"),
        (lambda: steady_state.batch_means(["x"]), "list of numbers"),
        (lambda: steady_state.batch_means([1.0] * 100, batches=1), "batches must be"),
        (lambda: steady_state.batch_means([1.0] * 100, confidence=95), "confidence=95"),
        (lambda: steady_state.batch_means([1.0] * 100, method="overlap"), "did you mean 'overlapping'"),
    ],
)
def test_what_is_no_series_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_closed_loop_obeys_the_response_time_law(replicas):
    """N users who think Z on average: R = N/X - Z (Denning and Buzen 1978), as long as all of them are there."""
    users, think, rng = 40, 30.0, np.random.default_rng(2)
    turns = rng.integers(100, 300, users)  # so that they end at different times
    session = rng.permutation(np.repeat(np.arange(users), turns))
    n = len(session)
    w = ls.Workload(20, rng.integers(1, 60, n), session=session, think=rng.exponential(think, n))
    clock = ls.Clock(base=0.2, per_request=0.1)
    r = ls.simulate_fleet(w, "fcfs", replicas=replicas, memory=900, clock=clock, max_batch=8 // replicas)
    series = steady_state.latencies(r)
    over = np.sort(r.completion)[len(series) - 1]
    assert 0.4 * n < len(series) < 0.9 * n
    early, late = 0.2 * over, 0.8 * over
    throughput = np.count_nonzero((r.completion > early) & (r.completion <= late)) / (late - early)
    found = steady_state.estimate(series)
    law = users / throughput - think
    assert found.mean == pytest.approx(law, rel=0.05)
    everything = r.latency[np.argsort(r.workload.arrival)]
    assert abs(everything[len(series) :].mean() / law - 1) > 0.1  # the loop empties, and those are faster


def test_of_sessions_of_one_turn_all_are_counted():
    w = ls.Workload([3, 4, 5], [2, 3, 4], arrival=[2, 0, 1], session=[0, 1, 2], think=1.0)
    r = ls.simulate(w, "fcfs", memory=100)
    assert steady_state.latencies(r).tolist() == r.latency[[1, 2, 0]].tolist()
