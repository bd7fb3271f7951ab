"""The planner: schedules that are possible, no better than the bound, and the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.examples import examples
from helpers.exhaustive import least_total, tiny
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.optimum.planner import Timetable, best_known
from llmsched.optimum.schedule import REPLAY, Schedule, peak_memory, start_rounds


def plan(workload, memory, iterations=100, seed=0):
    return best_known(workload, memory=memory, time_limit=None, iterations=iterations, seed=seed)


def naive_peak(workload, start):
    used: dict[int, int] = {}
    for s, o, t in zip(workload.prompt.tolist(), workload.output.tolist(), np.asarray(start).tolist(), strict=True):
        for g in range(o):
            used[int(t) + g] = used.get(int(t) + g, 0) + s + g + 1
    return max(used.values(), default=0)


@examples(60)
@given(tiny(requests=5))
def test_schedules_are_possible_and_lie_between_the_bound_and_the_policies(instance):
    workload, memory = instance
    found = plan(workload, memory)
    assert naive_peak(workload, found.start) == found.peak_memory <= memory
    assert found.replay().peak_memory == found.peak_memory
    assert found.lower_bound <= found.total_latency
    for name in ("hsf", "svf"):
        assert found.total_latency <= ls.simulate(workload, name, memory=memory, seed=None).total_latency
    assert found.proven == (found.total_latency == found.lower_bound)


@examples(40)
@given(tiny())
def test_no_plan_is_better_than_the_optimum(instance):
    workload, memory = instance
    assert plan(workload, memory).total_latency >= least_total(workload, memory)


@examples(40)
@given(tiny(requests=6), st.floats(0.1, 0.9))
def test_fractional_arrivals_are_respected(instance, grain):
    workload, memory = instance
    workload = workload.replace(arrival=workload.arrival * grain)
    found = plan(workload, memory, iterations=30)
    assert (found.start >= workload.arrival).all()
    assert found.check().replay().peak_memory == found.peak_memory


@examples(80)
@given(tiny(requests=6), st.integers(0, 6), st.integers(0, 3), st.integers(1, 12))
def test_the_first_fit_is_the_first(instance, earliest, s, o):
    workload, memory = instance
    memory = max(memory, s + o)
    timetable = Timetable(workload, memory)
    for i in range(len(workload)):
        timetable.put(i, int(timetable.release[i]))
    at = timetable.first_fit(s, o, earliest)

    def fits(t):
        return all(timetable.free[t + g] >= s + g + 1 for g in range(o))

    assert fits(at)
    assert not any(fits(t) for t in range(earliest, at))


def test_equal_requests_are_staggered():
    """theory.md: 505000 for hsf, 303353 for the pipeline of arXiv 2601.22996."""
    workload = ls.Workload([0] * 1000, 10)
    assert ls.simulate(workload, "hsf", memory=100).total_latency == 505_000
    assert plan(workload, 100, iterations=0).total_latency <= 303_353


def test_a_seed_repeats_the_plan_and_more_iterations_are_no_worse():
    rng = np.random.default_rng(3)
    workload = ls.Workload(rng.integers(0, 50, 80), rng.integers(1, 60, 80))
    first, again, longer = plan(workload, 300), plan(workload, 300), plan(workload, 300, iterations=300)
    assert np.array_equal(first.start, again.start)
    assert first.effort == again.effort
    assert longer.total_latency <= first.total_latency
    assert longer.total_latency < ls.simulate(workload, "hsf", memory=300).total_latency


def test_a_time_limit_of_zero_still_gives_a_schedule():
    workload = ls.Workload([1] * 30, np.arange(1, 31))
    assert best_known(workload, memory=40, time_limit=0).check().effort == {"iterations": 0}


def test_the_lmsys_trace_is_bracketed(data_file):
    workload = ls.traces.load(data_file("lmsys_lengths.csv")).replace(arrival=0)
    found = plan(workload, 16492, iterations=300)
    assert found.total_latency < 446_000  # svf: 452285
    assert found.gap < 0.05


def test_a_schedule_is_a_table():
    found = plan(ls.Workload([1, 2], [3, 4]), 20)
    assert list(found.columns())[-3:] == ["start", "completion", "latency"]
    assert "optimal" in repr(found)
    assert found.makespan == 4
    assert found.mean_latency == 3.5


def test_no_requests_are_scheduled_at_once():
    found = plan(ls.Workload([], []), 5)
    assert found.total_latency == found.makespan == found.peak_memory == 0
    assert found.proven
    assert len(found.replay()) == 0


def test_impossible_schedules_are_found_out():
    workload = ls.Workload([1, 1], [4, 4], arrival=[0, 0.5])

    def schedule(start, memory=10):
        return Schedule(workload, memory, np.array(start), 0.0, False, "mine", 0.0)

    assert schedule([0, 4.0]).check().peak_memory == 5
    with pytest.raises(ls.errors.WorkloadError, match="needs 10 tokens"):
        schedule([1.0, 1.0], 9).check()
    with pytest.raises(ls.errors.WorkloadError, match="request 1 starts at 0, before it arrives"):
        schedule([0.0, 0.0]).check()
    with pytest.raises(ls.errors.WorkloadError, match="between two rounds"):
        schedule([0.0, 1.5]).check()
    with pytest.raises(ls.errors.WorkloadError, match="the engine starts request 1 in round 2, not 1"):
        schedule([0.0, 1.0], 8).replay()
    with pytest.raises(ls.errors.InputError, match="2 requests needs as many starts"):
        schedule([0.0]).check()


def test_idle_rounds_are_not_counted():
    workload = ls.Workload([0, 0, 0], [2, 2, 1])
    assert start_rounds(workload, [0.0, 7.25, 8.25]).tolist() == [0, 2, 3]
    assert peak_memory(workload, [0.0, 7.25, 8.25]) == 3


def test_replaying_never_evicts():
    assert REPLAY.clairvoyant
    assert REPLAY.needs == ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"time_limit": None}, "iterations"),
        ({"time_limit": -1.0}, "time_limit"),
        ({"time_limit": float("nan")}, "time_limit"),
        ({"time_limit": "10"}, "time_limit"),
        ({"iterations": 1.5}, "iterations"),
        ({"seed": -1}, "seed"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(arguments, message):
    with pytest.raises(ls.errors.InputError, match=message):
        best_known(ls.Workload([1], [1]), memory=5, **arguments)


def test_instances_that_can_never_finish_are_refused():
    with pytest.raises(ls.errors.MemoryTooSmallError, match="memory=9"):
        best_known(ls.Workload([1, 4], [1, 5]), memory=8)
    with pytest.raises(ls.errors.InputError, match="Workload"):
        best_known(None, memory=8)


@pytest.mark.parametrize(
    ("workload", "memory"),
    [
        (ls.Workload([1, 1], [5, 5], arrival=[0, 1e9]), 20),
        (ls.Workload([10**9] * 3, [10] * 3), 10**9 + 10),
        (ls.Workload([0] * 3, [10**9] * 3), 10**9),
        (ls.Workload([1, 1, 4], [5, 5, 9]), 10**12),
    ],
)
def test_numbers_too_large_for_a_profile_of_memory_get_a_greedy_schedule(workload, memory):
    found = plan(workload, memory)
    assert found.lower_bound <= found.total_latency <= ls.simulate(workload, "hsf", memory=memory).total_latency
