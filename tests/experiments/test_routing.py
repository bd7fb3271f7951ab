"""Route: every request completes, by turns of 1, 2, 4, ... rounds, whatever its kind."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.examples import examples
from helpers.strategies import problems, seeds
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import errors
from llmsched.experiments.routing import route


def test_turns_of_growing_length_by_hand():
    # M = 40: 0 is prompt-heavy, 1 response-heavy, 2 large. Stage 0, a round each: 0 and 1 get one token, which is all
    # of 1's prompt: it changes sides. `response` cannot finish it in the next round; 2 completes at 3. Stage 1: `rect`
    # restarts 0, which is stopped after a token and begins a second attempt; `response` gives 1 two rounds: at 7
    # nobody is through. Stage 2: `rect` has 0 through after 1 + 2 rounds, at 10; `response` 1 after 1 + 2, at 13.
    w = ls.Workload([4, 1, 20], [2, 2, 1])
    routed = route(w, 40, seed=None)
    assert routed.completion.tolist() == [10, 13, 3]
    assert (routed.stages, routed.rounds) == (3, 13)
    assert routed.total_latency == 26
    assert routed.mean_latency == 26 / 3


@examples(60)
@given(data=st.data())
def test_everybody_completes_the_same_by_both_engines(data):
    workload, memory = data.draw(problems())
    workload, seed = workload.replace(arrival=None), data.draw(seeds)
    routed = route(workload, memory, seed=seed)
    assert (routed.completion >= workload.output).all()
    assert routed.rounds == routed.completion.max()
    assert route(workload, memory, seed=seed, engine="reference").completion.tolist() == routed.completion.tolist()


def test_a_lone_branch_is_its_scheduler_begun_anew_in_every_stage():
    w = ls.Workload(np.full(30, 6), np.arange(1, 31) % 6 + 1)  # o <= s: `rect` alone
    alone = ls.simulate(w, "rect", memory=100)
    routed = route(w, 100)
    assert alone.makespan <= 2 ** (routed.stages - 1)
    assert routed.completion.max() <= alone.makespan + 2 ** (routed.stages - 1) - 1


def test_what_route_refuses():
    with pytest.raises(errors.InputError, match="all there at 0"):
        route(ls.Workload([1], [1], arrival=[2.0]), 10)
    with pytest.raises(errors.MemoryTooSmallError):
        route(ls.Workload([8], [3]), 10)
