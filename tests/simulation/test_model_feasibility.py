"""model.md, section 4: who is admitted, and what is believed of those that run. Worked out by hand."""

from __future__ import annotations

import dataclasses

import pytest
from helpers.byhand import ENGINES, GREEDY, POINT

import llmsched as ls
from llmsched.simulation import problem


def test_an_admission_is_tested_at_every_believed_completion(run):
    # Beside 0 (3 tokens) request 1 (prompt 2, 4 tokens) would need 1+3, 2+4, 3+5 = 8 and then 6 alone.
    w = ls.Workload([0, 2], [3, 4])
    policy = ls.Policy(order="arrival", reserve="output", evict="progress", refine="none")
    assert run(w, policy, 8).start.tolist() == [0, 0]
    assert run(w, policy, 7).start.tolist() == [0, 1]  # one token later: 2+3, 3+4 = 7


def test_a_request_past_its_prediction_is_believed_to_need_one_token(run):
    # 0 has made 2 tokens, 1 was predicted. In round 2 it needs 3; request 1 (prompt 1) needs 2: 5 > 4. Were 0 counted
    # as nothing, 1 would be let in and overflow the cache in the same round.
    w = ls.Workload([0, 1], [3, 1], point=1, arrival=[0, 2])
    r = run(w, POINT, 4)
    assert r.start.tolist() == [0, 3]
    assert r.total_evictions == 0


def test_no_request_is_believed_to_outgrow_the_cache(run):
    # Predicted 100 tokens in a cache of 4, request 0 is believed to need the 4 there are; 1 fits beside its first one.
    w = ls.Workload([0, 2], [2, 1], point=[100, 1])
    assert run(w, POINT, 4).start.tolist() == [0, 0]
    assert run(w.replace(point=[100, 2]), POINT, 4).start.tolist() == [0, 2]  # 2+4 > 4 in the second round


def test_with_hold_peak_an_admission_sets_aside_all_that_is_believed(run):
    # The instance above, in 8 tokens: room for 1 beside 0 as both grow (3 + 5 at most), but not for 3 and 6 set aside.
    w = ls.Workload([0, 2], [3, 4])
    policy = ls.Policy(order="arrival", reserve="output", evict="progress", refine="none", hold="peak")
    assert run(w, policy, 9).start.tolist() == [0, 0]
    assert run(w, policy, 8).start.tolist() == [0, 3]


def test_what_was_set_aside_does_not_change_until_the_request_leaves(run):
    # 0 sets 2 aside, as it was predicted, and holds 3 in the round in which 1 arrives, which asks for 2: of 4 there is
    # room for what is set aside, and none for what is held in the coming round. In round 3 request 0 is gone.
    w = ls.Workload([0, 1], [3, 1], point=[2, 1], arrival=[0, 2])
    policy = dataclasses.replace(POINT, hold="peak")
    assert run(w, policy, 4).start.tolist() == [0, 3]
    assert run(w, policy, 5).start.tolist() == [0, 2]
    early = ls.Workload([0, 1], [1, 1], point=[4, 1])  # completes before it was believed to, and gives all of it back
    assert run(early, policy, 5).start.tolist() == [0, 1]


@pytest.mark.parametrize("block", [4, 16])
def test_hold_peak_counts_whole_blocks(run, block):
    w = ls.Workload([1, 1], [2, 2])
    policy = ls.Policy(order="arrival", reserve="output", evict="progress", refine="none", hold="peak")
    for engine in ENGINES:
        assert ls.simulate(w, policy, memory=2 * block, block=block, engine=engine).start.tolist() == [0, 0]
        assert sorted(ls.simulate(w, policy, memory=2 * block - 1, block=block, engine=engine).start) == [0, 2]


@pytest.mark.parametrize(
    ("bound", "attempts"), [("lower", [1, 2, 4, 8]), ("one", [1, 2, 4, 8]), ("point", [3, 6, 12]), ("upper", [5, 10])]
)
def test_a_bound_starts_where_the_policy_says(run, bound, attempts):
    """Alone, a request of 7 tokens is stopped at õ, 2õ, 4õ, ... and begins anew each time."""
    w = ls.Workload([2], [7], lower=1, upper=5, point=3)
    r = run(w, ls.Policy(bound=bound, cap="bound", cap_refine="double"), 20)
    assert r.evictions.tolist() == [len(attempts) - 1]
    assert r.wasted_tokens == sum(attempts[:-1])
    assert r.makespan == sum(attempts[:-1]) + 7


def test_rect_starts_the_smallest_rectangle_that_fits(run):
    # Round 0 sets 3, 7 and 10 tokens aside, all there are. Each is stopped after a token; with õ = 2 the rectangles are
    # 4·2, 8·2 and 11·2: 4 and 8 tokens are set aside in round 1, 11 more are not there. In round 3 both have õ = 4 and
    # 6·4 and 10·4 to ask for: 2 comes first with its 22, 0 fits beside it, 1 has to wait until 2 completes at 5.
    w = ls.Workload([2, 6, 9], [3, 4, 2])
    r = run(w, "rect", 20)
    assert r.start.tolist() == [0, 0, 0]
    assert r.evictions.tolist() == [2, 2, 1]
    assert r.completion.tolist() == [6, 9, 5]
    assert r.peak_memory == 20


def test_s3_stops_at_the_bucket_and_allocates_twice_as_much(run):
    # 0 is stopped at its 4 tokens and asks for 2 + 8; 1 and 2 (2 + 4 each) take the room, as first fit lets them, and
    # it goes on with the token it is at.
    w = ls.Workload(2, [6, 3, 3], upper=4, lower=1)
    r = run(w, "s3", 12)
    assert r.start.tolist() == [0, 0, 3]
    assert r.completion.tolist() == [8, 3, 6]
    assert r.evictions.tolist() == [1, 0, 0]
    assert r.wasted_tokens == 0


def test_trtllm_never_evicts_whom_the_bound_covers(run):
    w = ls.Workload([2, 1, 3, 1, 2], [3, 6, 2, 5, 4], upper=[5, 8, 4, 8, 6], lower=1)
    r = run(w, "trtllm", 18)  # 7 + 9 are set aside; 7 more are not there until 0 completes, and so on
    assert r.start.tolist() == [0, 0, 3, 5, 6]
    assert r.total_evictions == 0


def test_reserve_none_looks_at_the_coming_round_only(run):
    # 1+1, 2+2, then 3+3 > 5: 1 leaves. In round 3 it is let in again for one round (4+1), and leaves again.
    r = run(ls.Workload(0, [5, 5]), GREEDY, 5)
    assert r.start.tolist() == [0, 0]
    assert r.evictions.tolist() == [0, 2]
    assert r.completion.tolist() == [5, 10]
    assert r.wasted_tokens == 3


@pytest.mark.parametrize("reserve", ["output", "none"])
def test_a_lone_request_may_use_the_whole_cache_despite_the_margin(run, reserve):
    w = ls.Workload(4, [6, 6])
    r = run(w, dataclasses.replace(GREEDY, reserve=reserve, margin=0.5), 10)
    assert r.completion.tolist() == [6, 12]
    assert r.peak_memory == 10


def test_the_margin_counts_once_something_runs_or_was_just_admitted(run):
    # C=8 of 10: the first takes 4+1, the second would make it 10 > 8, although 10 would fit the cache
    w = ls.Workload(4, [1, 1])
    assert run(w, dataclasses.replace(GREEDY, margin=0.2), 10).start.tolist() == [0, 1]
    assert run(w, GREEDY, 10).start.tolist() == [0, 0]


def test_running_requests_may_grow_into_the_margin(run):
    # C=4 of 8: both start (2 tokens) and grow to 8 without anyone being evicted
    r = run(ls.Workload(0, [4, 4]), dataclasses.replace(GREEDY, margin=0.5), 8)
    assert r.completion.tolist() == [4, 4]
    assert r.peak_memory == 8


@pytest.mark.parametrize(
    ("memory", "margin", "capacity"),
    [
        (10, 0.9, 1),
        (10, 0.8, 2),
        (20, 0.9, 2),
        (10, 0.1, 9),
        (16492, 0.01, 16327),
        (3, 0.999, 0),
        (10**15, 0.7, 3 * 10**14),
    ],
)
def test_the_margin_is_the_decimal_that_was_written(memory, margin, capacity):
    """In doubles (1 - 0.9) * 10 is 0.9999999999999998, whose floor is 0."""
    policy = dataclasses.replace(GREEDY, margin=margin)
    assert problem.problem_of(ls.Workload(0, [1]), policy, memory, 0).capacity == capacity


def test_the_margin_leaves_room_for_exactly_its_floor(run):
    # (1 - 0.8) of 10 tokens are 2: two requests of one token at a time
    r = run(ls.Workload(0, [1] * 5), dataclasses.replace(GREEDY, margin=0.8), 10)
    assert r.completion.tolist() == [1, 1, 2, 2, 3]
