"""Beliefs that move while a request runs (model.md, section 8), rule by rule and by hand; and the table of lengths."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import pickle
import subprocess
import sys
from fractions import Fraction

import numpy as np
import pytest
from helpers import ROOT
from helpers.byhand import ENGINES, splitmix64
from helpers.examples import examples
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched import errors

EXAMPLES = ROOT / "examples"


@pytest.fixture(params=ENGINES)
def run(request):
    def simulate(workload, policy, memory, seed=None, **options):
        return ls.simulate(workload, policy, memory=memory, seed=seed, engine=request.param, **options)

    return simulate


# The table ------------------------------------------------------------------------------------------------------------


def test_a_table_by_hand():
    table = ls.LengthTable.from_outputs([2, 6, 6, 9])
    assert table.quantile(0.5).tolist() == [[6, 6, 6, 6, 6, 6, 9, 9, 9]]  # of four, three, ..., one above g
    assert table.quantile(0.25).tolist() == [[2, 2, 6, 6, 6, 6, 9, 9, 9]]
    assert table.quantile(0).tolist() == [[2, 2, 6, 6, 6, 6, 9, 9, 9]]
    assert table.quantile(1).tolist() == [[9] * 9]


def test_each_class_has_a_row_and_ends_with_its_longest():
    table = ls.LengthTable.from_outputs([2, 6, 3], ["short", "long", "short"])
    assert table.classes == ("long", "short")
    assert table.quantile(0.5).tolist() == [[6] * 6, [2, 2, 3, 3, 3, 3]]
    assert table.rows(["short", "long"], 2).tolist() == [1, 0]


@examples(200)
@given(
    outputs=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    q=st.sampled_from(["0", "0.1", "0.25", "0.5", "0.9", "1"]),
)
def test_a_quantile_is_what_its_name_says_and_never_falls(outputs, q):
    row = ls.LengthTable.from_outputs(outputs).quantile(float(q))[0].tolist()
    assert row == sorted(row)
    assert len(row) == max(outputs)
    for g, length in enumerate(row):
        above = [o for o in outputs if o > g]
        assert length in above
        assert sum(o <= length for o in above) >= Fraction(q) * len(above)
        assert sum(o < length for o in above) < Fraction(q) * len(above) or length == min(above)


@pytest.mark.parametrize(
    ("outputs", "classes", "said"),
    [
        ([], None, "at least one output"),
        ([3, 0], None, "request 1: output is 0"),
        ([3, 2**20 + 1], None, "request 1: output is 1048577, and a table of lengths holds up to 1048576"),
        ([3, 4], [1], "one label per request"),
        ([3, 4], [1.5, 2.5], "whole numbers or text"),
    ],
)
def test_outputs_that_make_no_table(outputs, classes, said):
    with pytest.raises(errors.InputError, match=said):
        ls.LengthTable.from_outputs(outputs, classes)


@pytest.mark.parametrize("q", [-0.1, 1.1, float("nan"), "x"])
def test_a_quantile_lies_between_0_and_1(q):
    with pytest.raises(errors.InputError):
        ls.LengthTable.from_outputs([1]).quantile(q)


def test_a_class_that_was_never_seen_is_named():
    table = ls.LengthTable.from_outputs([2, 6], ["short", "long"])
    with pytest.raises(errors.WorkloadError, match=r"request 1: its class 'lang' .* did you mean 'long'\?") as caught:
        ls.Workload(1, [1, 1]).with_lengths(table, ["short", "lang"])
    assert caught.value.request == 1
    with pytest.raises(errors.WorkloadError, match="say which each request is of"):
        ls.Workload(1, [1, 1]).with_lengths(table)


def test_a_table_travels_with_the_workload():
    table = ls.LengthTable.from_outputs([2, 6, 3], [7, 8, 7])
    w = ls.Workload(1, [1, 2, 3], arrival=[3, 2, 1]).with_lengths(table, [8, 7, 8])
    assert w.classes.tolist() == [1, 0, 1]
    assert not w.classes.flags.writeable
    assert w.take([2, 1]).classes.tolist() == [1, 0]
    assert w.replace(point=4).lengths is table
    assert ls.generate.at_once(w).classes.tolist() == [1, 0, 1]
    assert ls.generate.poisson(w, rate=1, seed=0).classes.tolist() == [1, 0, 1]
    drawn = ls.generate.resample(w, 50, seed=1)
    assert drawn.classes.tolist() == (drawn.output != 2).astype(int).tolist()
    for duplicate in (copy.deepcopy(w), pickle.loads(pickle.dumps(w))):
        assert duplicate == w
    assert w != w.with_lengths(table, [8, 7, 7])
    assert w != ls.Workload(1, [1, 2, 3], arrival=[3, 2, 1])
    assert repr(w).endswith("predictions: lengths)")
    with pytest.raises(errors.WorkloadError, match="3 requests have a class in the table of lengths, not 2"):
        w.replace(prompt=1, output=[1, 2], arrival=0)
    assert repr(table) == "LengthTable(3 outputs, classes: 7, 8)"


@pytest.mark.parametrize(
    ("policy", "column"), [("conditional", "lengths"), ("sglang", "upper"), ("past-future", "upper")]
)
def test_what_is_missing_is_named_with_what_adds_it(policy, column):
    with pytest.raises(errors.MissingPredictionError, match=f"policy {policy} needs .*with_") as caught:
        ls.simulate(ls.Workload(1, [1]), policy, memory=10)
    assert caught.value.column == column


# reserve="conditional" ------------------------------------------------------------------------------------------------

TWO_OR_SIX = ls.LengthTable.from_outputs([2, 6])  # the median is 2 below 2 tokens, then 6
TWO_OR_EIGHT = ls.LengthTable.from_outputs([2, 8])


def test_a_request_that_outlives_the_median_is_believed_to_be_long(run):
    # Round 2: 0 has 2 tokens and is believed to have 4 to come. With 1 it would take 2+2 + 2+2 tokens after two rounds.
    w = ls.Workload([0, 2], [6, 2], point=2, arrival=[0, 2]).with_lengths(TWO_OR_SIX)
    assert run(w, "conditional", 6).start.tolist() == [0, 6]
    # Believed to end with its next token, it would not be in the way.
    policy = dataclasses.replace(ls.policies["conditional"], reserve="point")
    assert run(w, policy, 6).start.tolist() == [0, 2]


def test_beyond_the_longest_of_its_class_one_more_token_is_believed(run):
    # Round 7: 0 has 7 tokens, more than any before it: with the 8th and 1's 10 the round takes 18.
    w = ls.Workload([0, 9], [9, 1], arrival=[0, 7]).with_lengths(TWO_OR_SIX)
    assert run(w, "conditional", 18).start.tolist() == [0, 7]
    assert run(w, "conditional", 17).start.tolist() == [0, 9]


def test_what_an_evicted_request_showed_is_not_forgotten(run):
    # Round 5 would take 6 + 5 of 9 tokens: 1 leaves after 4, and is known to have more than 4, so 8. In round 7 there
    # is room for one of 1 and 2, which is believed to have 2 and so goes first.
    w = ls.Workload(0, [8, 8, 2], arrival=[0, 1, 6]).with_lengths(TWO_OR_EIGHT)
    r = run(w, "conditional", 9)
    assert r.start.tolist() == [0, 1, 7]
    assert r.completion.tolist() == [8, 16, 9]
    assert r.evictions.tolist() == [0, 1, 0]
    assert r.wasted_tokens == 4


def test_every_class_has_its_own_belief(run):
    table = ls.LengthTable.from_outputs([2, 6], ["short", "long"])
    w = ls.Workload(0, [2, 2, 2]).with_lengths(table, ["long", "short", "short"])
    # The short go first. With the long one they would take 6 when they end, and a round later 5.
    assert run(w, "conditional", 5).start.tolist() == [1, 0, 0]
    assert run(w, "conditional", 6).start.tolist() == [0, 0, 0]


def test_a_table_that_knows_the_truth_is_perfect_foresight(run):
    w = ls.generate.lmsys(60, seed=1)
    known = w.with_lengths(ls.LengthTable.from_outputs(w.output, w.output), w.output)
    told, seen = run(known, "conditional", 3000, seed=4), run(w, "hsf", 3000, seed=4)
    assert told.completion.tolist() == seen.completion.tolist()


# reserve="ratio" ------------------------------------------------------------------------------------------------------

HALF = ls.Policy(
    order="queue", reserve="ratio", evict="progress", refine="none", ratio=0.5, ratio_floor=0, ratio_rounds=10
)


def test_a_ratio_counts_what_running_requests_may_still_generate(run):
    # Round 1: 11 held + 0.45 * 49 to come, and 10 + 20 for the newcomer: 63.05. Round 2: 12 + 0.4 * 48 + 30 = 61.2.
    w = ls.Workload(10, [50, 2], upper=[50, 20], arrival=[0, 1])
    assert run(w, HALF, 64).start.tolist() == [0, 1]
    assert run(w, HALF, 63).start.tolist() == [0, 2]
    assert run(w, HALF, 61).start.tolist() == [0, 3]


def test_who_is_admitted_in_the_same_round_counts_in_full(run):
    w = ls.Workload(10, [50, 2], upper=[50, 20])  # 10 + 50 and 10 + 20; in the next round 11 + 22.05 and 30
    assert run(w, HALF, 90).start.tolist() == [0, 0]
    assert run(w, HALF, 89).start.tolist() == [0, 1]


def test_the_estimate_is_clipped(run):
    w = ls.Workload(10, [50, 2], upper=[50, 20])
    clipped = dataclasses.replace(HALF, clip=7)  # 10 + 7 and 10 + 7, and no more than 11 + 11 in the coming round
    assert run(w, clipped, 60, max_batch=2).start.tolist() == [0, 0]
    both = ls.Workload(10, [20, 20], upper=50)
    assert run(both, clipped, 34).start.tolist() == [0, 0]
    assert run(both, clipped, 33).start.tolist() == [0, 1]


def test_a_ratio_never_lets_the_coming_round_overflow(run):
    # Nothing is kept for the running request, but its next token and the newcomer's take 12 + 11.
    w = ls.Workload(10, [5, 1], upper=[5, 1], arrival=[0, 1])
    free = dataclasses.replace(HALF, ratio=1e-9)
    assert run(w, free, 23).start.tolist() == [0, 1]
    assert run(w, free, 22).start.tolist() == [0, 5]


def test_the_ratio_starts_again_after_an_idle_time(run):
    # As in the first of these tests, twice; without a new start r would be 0 the second time.
    w = ls.Workload(10, [50, 2, 50, 2], upper=[50, 20, 50, 20], arrival=[0, 1, 100, 101])
    assert run(w, HALF, 63).start.tolist() == [0, 2, 100, 102]


def test_an_overflow_sets_the_ratio_to_what_is_left(run):
    # Round 10 would take 11 + 40 of 50 tokens: 1 leaves, and r = (10 + 20) / (40 + 1). From then on 2, which needs 21,
    # must wait: t + 30/41 * (40 - t) are kept for 0. It completes at 40, 1 runs its last round, then 2.
    w = ls.Workload([0, 30, 20], [40, 10, 1], upper=[40, 2, 1], arrival=[0, 0, 11])
    policy = dataclasses.replace(HALF, ratio=0.01, ratio_floor=1, headroom=20, fill="skip", resume="recompute")
    r = run(w, policy, 50)
    assert r.start.tolist() == [0, 1, 41]
    assert r.completion.tolist() == [40, 41, 42]
    assert r.evictions.tolist() == [0, 1, 0]


GREEDY = dataclasses.replace(HALF, clip=1, ratio=0.1)  # admits as long as the coming round fits


@pytest.mark.parametrize(("tie", "evicted"), [("drawn", 0), ("prompt", 1)])
def test_among_equals_the_longest_prompt_leaves(run, tie, evicted):
    # Round 3 would take 5 + 6 + 5 of 13.
    w = ls.Workload([1, 2, 1], 10, upper=10)
    policy = dataclasses.replace(GREEDY, tie=tie, headroom=2)
    assert run(w, policy, 13, record="timeline").timeline.expand()["evictions"][:4].tolist() == [0, 0, 0, 1]
    assert run(w, policy, 13, record="tokens").tokens.request[0] == evicted


@pytest.mark.parametrize(("headroom", "leave"), [(1, 1), (2, 1), (3, 2), (1000, 2)])
def test_an_overflow_makes_room_for_so_many_tokens_each(run, headroom, leave):
    # Round 3 would take 15 of 12. Two remain with 2 tokens of room each, one with more; the last always stays.
    w = ls.Workload(1, [10, 10, 10], upper=10)
    r = run(w, dataclasses.replace(GREEDY, headroom=headroom), 12, record="timeline")
    assert r.timeline.expand()["evictions"][:4].tolist() == [0, 0, 0, leave]


# reserve="history" ----------------------------------------------------------------------------------------------------


def test_before_any_completion_the_upper_bound_is_believed(run):
    # 1 waits for 0, believed to reach 10. Then both 1 and 2 are believed to reach 3, as 0 did. In round 6 request 1 is
    # past that, and believed to reach 10 again: 3 has to wait.
    w = ls.Workload([0, 0, 0, 2], [3, 5, 3, 1], upper=10, arrival=[0, 1, 3, 6])
    r = run(w, ls.Policy(order="arrival", reserve="history", evict="newest", refine="none"), 10)
    assert r.start.tolist() == [0, 3, 3, 8]


def _output(state: int, k: int) -> int:
    """The k-th output, from 0, of the stream that starts in `state`."""
    return next(itertools.islice(splitmix64(state), k, None))


PAST = ls.Policy(order=[0, 1, 2, 3, 4, 5], reserve="history", evict="progress", refine="none")


def test_a_length_is_drawn_for_each_request_in_each_round(run):
    # Lengths of 1, 2, 3 and 4 are known at 50, when two requests arrive for a cache of 5. The first runs; the second
    # fits unless both draw more than 2, as then both take 3 or more when the shorter ends.
    w = ls.Workload(0, [1, 2, 3, 4, 1, 1], upper=4, arrival=[0, 0, 0, 0, 50, 50])
    seen = set()
    for seed in [None, *range(24)]:
        r = run(w, PAST, 5, seed=seed, record="timeline")
        rounds = int((r.timeline.expand()["time"] < 50).sum())
        stream = _output(seed or 0, rounds)
        drawn = [1 + (_output(stream, i) >> 32) * 4 // 2**32 for i in (4, 5)]
        assert (r.start[5] == 50) == (min(drawn) <= 2)
        seen.add(bool(r.start[5] == 50))
    assert seen == {True, False}


def test_only_the_last_window_of_lengths_is_remembered(run):
    w = ls.Workload(0, [1, 2, 3, 4, 1, 1], upper=4, arrival=[0, 1, 3, 6, 50, 50])
    for seed in range(8):
        assert run(w, dataclasses.replace(PAST, window=1), 5, seed=seed).start[4:].tolist() == [50, 51]
        reverse = w.replace(output=[4, 3, 2, 1, 1, 1], arrival=[0, 4, 7, 9, 50, 50])
        assert run(reverse, dataclasses.replace(PAST, window=2), 5, seed=seed).start[4:].tolist() == [50, 50]


def test_the_margin_is_kept_free_of_what_is_believed(run):
    w = ls.Workload(0, [4, 2, 2], upper=4, arrival=[0, 9, 9])  # both believed to reach 4 tokens: 8 of 10
    policy = ls.Policy(order="arrival", reserve="history", evict="newest", refine="none")
    assert run(w, policy, 8).start.tolist() == [0, 9, 9]
    assert run(w, dataclasses.replace(policy, margin=0.2), 10).start.tolist() == [0, 9, 9]
    assert run(w, dataclasses.replace(policy, margin=0.21), 10).start.tolist() == [0, 9, 10]


# All of them ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["conditional", "sglang", "past-future"])
def test_a_batch_is_the_same_simulations(name):
    w = ls.generate.poisson(ls.generate.lmsys(200, seed=2), rate=2, seed=3).replace(upper=500)
    w = w.with_lengths(ls.LengthTable.from_outputs(ls.generate.lmsys(500, seed=9).output))
    batch = ls.simulate_batch([w, w.head(100)], name, memory=[2000, 4000], seeds=[0, 1, None], keep=True, threads=2)
    batch.raise_errors()
    for job, result in zip(batch.jobs, batch.results, strict=True):
        alone = ls.simulate([w, w.head(100)][job.workload], name, memory=job.memory, seed=job.seed)
        assert alone.completion.tolist() == result.completion.tolist()


@pytest.mark.parametrize("name", ["conditional", "sglang", "past-future"])
def test_quiet_rounds_are_jumped_over(name):
    """The engine looks at a share of the rounds only, although something waits nearly always."""
    w = ls.generate.lmsys(400, seed=2).replace(upper=800)
    w = w.with_lengths(ls.LengthTable.from_outputs(ls.generate.lmsys(500, seed=9).output))
    r = ls.simulate(w, name, memory=4000)
    assert np.median(r.start) > 100
    assert r.work["rounds_skipped"] > r.rounds / 4


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("quantile", 1.5, "0 <= quantile <= 1"),
        ("ratio", 0, "0 < ratio <= 1"),
        ("ratio_floor", -1, "0 <= ratio_floor <= 1"),
        ("ratio_rounds", 0, "a whole number, 1 <= ratio_rounds <= 1048576"),
        ("clip", 1.5, "a whole number, 1 <= clip"),
        ("window", "many", "a whole number, 1 <= window"),
        ("headroom", float("nan"), "a whole number, 1 <= headroom"),
        ("tie", "longest", "unknown"),
    ],
)
def test_fields_out_of_range(field, value, said):
    with pytest.raises(errors.PolicyError, match=f"policy field {field}=.*{said}"):
        ls.Policy(**{field: value})


def test_a_run_under_a_clock_is_the_same_in_both_engines():
    w = ls.generate.poisson(ls.generate.lmsys(150, seed=2), rate=3, seed=3).replace(upper=600)
    w = w.with_lengths(ls.LengthTable.from_outputs(ls.generate.lmsys(500, seed=9).output))
    for name in ("conditional", "sglang", "past-future"):
        both = [ls.simulate(w, name, memory=3000, clock="llama2-70b-2xa100", block=16, engine=e) for e in ENGINES]
        assert np.array_equal(both[0].completion, both[1].completion)
        assert both[0].evictions.tolist() == both[1].evictions.tolist()


@pytest.mark.parametrize("name", ["conditional", "sglang", "past-future"])
def test_engines_agree_on_batches_of_a_hundred(name):
    w = ls.generate.lmsys(260, seed=2).replace(upper=600)
    w = w.with_lengths(ls.LengthTable.from_outputs(ls.generate.lmsys(500, seed=9).output))
    both = [ls.simulate(w, name, memory=16_000, engine=engine, record="timeline") for engine in ENGINES]
    assert both[0].completion.tolist() == both[1].completion.tolist()
    assert both[0].timeline == both[1].timeline
    assert both[0].timeline.expand()["batch"].max() > (30 if name == "sglang" else 100)


# The example ----------------------------------------------------------------------------------------------------------


def test_the_example_compares_on_any_file_of_classes(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{o},{min(o // 100, 4)},{o // 250}" for o in rng.integers(2, 500, 2400).tolist()]
    path = tmp_path / "classes.csv"
    path.write_text("\n".join(["output_tokens,class_of_5,class_of_2", *lines]) + "\n")
    command = [sys.executable, str(EXAMPLES / "conditional.py"), str(path), "--memory", "4000"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert printed.count("tokens of cache") == 3
    assert printed.count("conditional, quantile 0.1 ") == 3
