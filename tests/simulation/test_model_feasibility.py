"""model.md, section 4: who is admitted, and what is believed of those that run. Worked out by hand."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from helpers.byhand import ENGINES, GREEDY, POINT

import llmsched as ls
from llmsched.simulation import problem
from llmsched.simulation.staggered import slice_width, staggered_peak, staggered_width


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


def test_rect_doubles_its_attempts_in_rectangles_of_twice_the_prompt(run):
    # Widths 4, 12 and 18, together 34 of 36, as no prompt exceeds 9: all start, and again with õ = 2. Then 2 is
    # complete, and the others begin attempts of 4 tokens.
    w = ls.Workload([2, 6, 9], [3, 4, 2])
    r = run(w, "rect", 36)
    assert r.start.tolist() == [0, 0, 0]
    assert r.evictions.tolist() == [2, 2, 1]
    assert r.completion.tolist() == [6, 7, 3]
    # In 35 tokens 9 is large: its rectangle is all of the cache, and its area 35 comes after 4·4, before 12·4.
    assert run(w, "rect", 35).start.tolist() == [0, 0, 6]


def test_rect_stops_at_the_first_that_does_not_fit(run):
    # From 15 to 24 request 0 runs its attempt of 16 tokens (width 24), from 15 to 31 request 1 (width 2). 3 (width 24,
    # area 24) arrives at 16 and does not fit into 48; 2, with õ = 16 and an area of 32, would, and waits behind it.
    w = ls.Workload([12, 1, 1, 12], [9, 16, 16, 1], arrival=[0, 0, 1, 16])
    assert run(w, "rect", 48).completion.tolist() == [24, 31, 40, 25]
    policy = dataclasses.replace(ls.policies["rect"], fill="skip")
    assert run(w, policy, 48).completion.tolist() == [24, 31, 32, 25]


def test_rect_gives_a_large_prompt_the_cache_alone(run):
    # 11 > 40/4. Its attempts of 1 token, area 40, come before those of 2 tokens of the other (width 20): it completes.
    r = run(ls.Workload([11, 10], [1, 2]), "rect", 40)
    assert r.start.tolist() == [1, 0]
    assert r.completion.tolist() == [2, 4]


@pytest.mark.parametrize(
    ("length", "prompt", "width"),
    [(1, 1, 50), (2, 2, 28), (4, 4, 15), (8, 8, 8), (16, 16, 3), (32, 32, 1), (64, 36, 1), (100, 0, 1)],
)
def test_a_slice_is_as_wide_as_always_fits(length, prompt, width):
    assert min(length, 100 - length) == prompt
    assert slice_width(100, length) == width
    assert staggered_peak(width, prompt, length) <= 100 < staggered_peak(width + 1, prompt, length)


def test_response_spreads_the_starts_of_a_slice(run):
    """τ = 8, so eight at a time in M = 100: one starts in every round. The slice of 16 starts when it has run out."""
    w = ls.Workload(8, np.full(12, 8))
    r = run(w, "response", 100)
    assert sorted(r.start) == [*range(12)]
    assert r.peak_memory == staggered_peak(8, 8, 8) == 100
    long = run(ls.Workload(8, [9] * 4), "response", 100)  # stopped after 8 tokens; three in 16 rounds: at 0, 5, 10, 16
    assert sorted(long.completion) == [11 + 9, 11 + 5 + 9, 11 + 10 + 9, 11 + 16 + 9]
    assert long.evictions.tolist() == [1] * 4


def test_a_slice_is_left_before_the_next_begins(run):
    """A short request that arrives waits until all who may take eight tokens have left, and no other of them starts."""
    w = ls.Workload([8, 8, 1], [8, 8, 1], arrival=[0, 0, 2])
    assert run(w, "response", 100).start.tolist() == [0, 1, 9]
    assert run(w.replace(arrival=[0, 0, 1]), "response", 100).start.tolist() == [0, 9, 8]


def test_volumes_of_one_bit_know_short_from_long_only(run):
    # T = 81: up to 9 tokens count as 3, more as 27. Of equal prompts all short ones come before all long ones, in order
    # of index. Only one of them fits.
    w = ls.Workload(80, [9, 80, 1, 10], upper=81, lower=1)
    assert run(w, "svf-1bit", 160).start.tolist() == [0, 10, 9, 90]


def test_smallest_volume_first_is_unbounded_where_requests_fill_the_cache(run):
    """Proposition 1 of arXiv 2607.09248 with L = 16: the long request has the smaller volume and blocks four others."""
    w = ls.Workload([0, 299, 299, 299, 299], [16, 1, 1, 1, 1])
    assert run(w, "svf", 300).total_latency == 90
    assert run(w, "hsf", 300).total_latency == 30


def test_a_rate_limit_spreads_admissions(run):
    # 1.5 a round are 2, 1, 2, 1, ...; 0.3 a round are one in rounds 0, 3, 6, 10 (the first with ⌈0.3 (t+1)⌉ > ⌈0.3 t⌉).
    w = ls.Workload(0, [20] * 4)
    assert sorted(run(w, dataclasses.replace(GREEDY, rate_limit=1.5), 99).start) == [0, 0, 1, 2]
    assert sorted(run(w, dataclasses.replace(GREEDY, rate_limit=0.3), 99).start) == [0, 3, 6, 10]


def test_a_rate_limit_begins_anew_when_the_batch_was_empty(run):
    w = ls.Workload(0, [2, 2, 9], arrival=[0, 1, 6])
    policy = dataclasses.replace(GREEDY, rate_limit=0.1)
    assert run(w, policy, 99).start.tolist() == [0, 2, 6]


@pytest.mark.parametrize(("rate", "width"), [(1.6, 32), (1.55, 31)])
def test_limited_admission_evicts_nobody_where_greedy_admission_cycles(rate, width):
    """Figures of arXiv 2606.15555: s = o = 20, M = 1,000 and an endless backlog, 4,000 rounds."""
    w = ls.Workload([20] * 8000, [20] * 8000)
    restart = dataclasses.replace(ls.policies["fcfs"], margin=0, resume="restart")
    limited = ls.simulate(w, dataclasses.replace(restart, rate_limit=rate), memory=1000)
    assert limited.total_evictions == 0
    assert (limited.completion <= 4000).sum() / 4000 == pytest.approx(rate, rel=0.01)
    assert rate * 20 == width <= staggered_width(1000, 20, 20)
    greedy = ls.simulate(w, restart, memory=1000)
    assert (greedy.completion <= 4000).sum() / 4000 < 1.3


def test_greedy_admission_fills_the_cache_and_evicts(run):
    """s=2, o=3, M=24: by age the batch is (1, 1, 2), five are admitted to (5, 1, 1), one of them leaves, (1, 4, 1)."""
    w = ls.Workload(2, [3] * 30, arrival=[0, 0, 1, 2, *[3] * 26])
    policy = dataclasses.replace(ls.policies["fcfs"], margin=0, resume="restart")
    for engine in ENGINES:
        r = ls.simulate(w, policy, memory=24, seed=None, engine=engine, record=("timeline", "tokens"))
        rows = r.timeline.expand()
        assert rows["memory"][2:5].tolist() == [17, 24, 24]
        assert rows["batch"][2:5].tolist() == [4, 7, 6]
        assert rows["evictions"][2:5].tolist() == [0, 0, 1]


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
