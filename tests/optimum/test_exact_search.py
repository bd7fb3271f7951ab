"""The exact search by itself, without the planner and the bounds, which solve most tiny instances before it begins."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.examples import examples
from helpers.exhaustive import least_total, tiny
from hypothesis import given
from hypothesis import strategies as st

from llmsched.optimum import exact_search
from llmsched.optimum._search_states import Rules, States
from llmsched.optimum.schedule import Schedule

pytest.importorskip("highspy", reason="the exact optimum needs highspy (the extra 'optimum')")


def sorted_instance(workload, memory):
    order = np.lexsort((workload.arrival, workload.output, workload.prompt))
    columns = workload.prompt[order], workload.output[order], workload.arrival[order].astype(np.int64)
    return order, exact_search.Instance(*columns, memory)


def least_starts(workload, memory):
    return least_total(workload, memory) - int(workload.output.sum() - workload.arrival.sum())


@examples(60)
@given(tiny(requests=5))
def test_the_search_finds_and_proves_the_optimum(instance):
    workload, memory = instance
    _, instance = sorted_instance(workload, memory)
    passes = exact_search.Search(instance, instance.horizon, float("inf"))
    target = least_starts(workload, memory)
    assert passes.root_bound <= target
    for limit in (target + 3, target):
        answer = passes.run(limit, 10_000, beam=False)
        assert int(answer.start.sum()) == answer.bound == target
    answer = passes.run(target - 1, 10_000, beam=False)
    assert answer.start is None
    assert answer.bound == target


@examples(60)
@given(tiny(requests=6), st.integers(1, 20), st.booleans(), st.integers(0, 5))
def test_what_is_left_out_for_want_of_room_is_not_called_proven(instance, width, beam, above):
    """Few states, and no extra ones before they are looked through, even in the middle of expanding one state."""
    workload, memory = instance
    order, instance = sorted_instance(workload, memory)
    target = least_starts(workload, memory)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exact_search, "_EXTRA_STATES", 0)
        passes = exact_search.Search(instance, instance.horizon, float("inf"))
        answer = passes.run(target + above, width, beam=beam)
        assert answer.bound <= target
        if answer.start is None:
            return
        assert int(answer.start.sum()) >= target
        start = np.empty(len(order))
        start[order] = answer.start
        Schedule(workload, memory, start, 0.0, False, "search", 0.0).check()


def all_sets_of(requests, late):
    """One state from which 2**requests follow, and no price to tell them apart: where `follow` stops."""
    output = np.arange(1, requests + 1)
    none = np.zeros(requests, np.int64)
    rules = Rules(none, output, none, none - 1, int(output.sum()))
    first, after = States(rules), States(rules)
    first.begin()
    free, tail = np.zeros((requests, 1)), np.zeros(1)
    return after.follow(first, 0, 0, 0.0, -1, 2**requests, late, free, free, free, free, free, tail, tail), after.size


def test_a_deadline_stops_it_in_the_middle_of_expanding_one_state():
    at, states = all_sets_of(20, lambda: True)
    assert at == 0  # not all that follows from it was added
    assert states < 2**19
    # Too few to ask; idling is of no use, and all of them at once are no state but a schedule.
    assert all_sets_of(10, lambda: True) == (1, 2**10 - 2)


def test_what_the_question_raises_comes_through():
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        all_sets_of(20, interrupted)
