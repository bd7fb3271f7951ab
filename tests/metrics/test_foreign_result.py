"""Somebody else's results: scored like a policy's own, and refused where they cannot be true."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError, TraceError, WorkloadError
from llmsched.metrics import foreign_result


def write(path: Path, **columns: Any) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(columns)
        rows.writerows(zip(*(np.asarray(column).tolist() for column in columns.values()), strict=True))
    return path


def small(seed: int = 0, n: int = 200, rate: float | None = None) -> ls.Workload:
    w = ls.generate.lmsys(n, seed).with_intervals(ls.intervals.buckets(100))
    return w if rate is None else ls.generate.poisson(w, rate, seed)


@pytest.mark.parametrize("rate", [None, 0.5])
@pytest.mark.parametrize("policy", ["hsf", "amax"])
def test_a_run_without_evictions_scores_as_the_run_itself(tmp_path, policy, rate):
    w = small(rate=rate)
    run = ls.simulate(w, policy, memory=3000)
    assert run.total_evictions == 0
    path = write(tmp_path / "run.csv", start=run.start, completion=run.completion, evictions=run.evictions)
    found = ls.foreign_result.read(path, w, memory=3000)
    own, theirs = run.summary(), found.summary()
    if rate is None:  # else rounds begin at fractions of each other, and a bound is all there is
        assert theirs["peak_memory"] == own["peak_memory"] == found.least_peak
    for key in ("policy", "seed", "rounds", "peak_memory", "peak_share"):
        del own[key], theirs[key]
    assert theirs == own


@given(st.integers(0, 30), st.sampled_from(["amin", "fcfs", "hsf", "vllm", "mc-benchmark"]), st.integers(1500, 3000))
def test_what_is_held_for_certain_is_never_more_than_the_run_held(seed, policy, memory):
    w = ls.intervals.with_midpoints(small(seed, 60, 0.7))
    for clock in (None, "llama2-70b-2xa100"):
        run = ls.simulate(w, policy, memory=memory, seed=seed, clock=clock)
        told = {"memory": memory, "clock": clock, "slots": run.policy.slots}
        found = foreign_result.from_arrays(w, run.start, run.completion, run.evictions, **told)
        assert found.least_peak <= run.peak_memory
        assert found.mean_latency == run.mean_latency


def test_chunked_prefill_and_swapping_are_possible_results():
    w = small(3, 150, 5.0)
    for policy in ("vllm", ls.policies["vllm"]):
        run = ls.simulate(w, policy, memory=1500, prefill_budget=64, clock="llama2-70b-8xh100", block=16)
        found = foreign_result.from_arrays(
            w, run.start, run.completion, run.evictions, memory=1500, clock="llama2-70b-8xh100", slots="processed"
        )
        assert 0 < found.least_peak <= run.peak_memory


def test_too_little_memory_is_found_and_told():
    w = small()
    run = ls.simulate(w, "hsf", memory=3000)
    with pytest.raises(InputError, match=rf"hold at least {run.peak_memory:,} tokens, and the cache has 2,900"):
        foreign_result.from_arrays(w, run.start, run.completion, run.evictions, memory=2900)
    with pytest.raises(InputError, match="more memory"):  # by hand: 3 + 2 and 4 + 2 tokens in the second round
        foreign_result.from_arrays(ls.Workload([3, 4], [2, 2]), [0, 0], [2, 2], [0, 0], memory=10)
    assert foreign_result.from_arrays(ls.Workload([3, 4], [2, 2]), [0, 0], [2, 2], [0, 0], memory=11).least_peak == 11


def test_without_evictions_told_nothing_is_known_of_memory():
    w = ls.Workload([3, 4], [2, 2])
    found = foreign_result.from_arrays(w, [0, 0], [2, 2], memory=5)
    summary = found.summary()
    assert [summary[key] for key in ("evictions", "evicted_requests", "wasted_tokens", "peak_memory")] == [None] * 4
    assert summary["mean_latency"] == 2.0


def test_rows_may_come_in_any_order_with_ids_and_from_any_time(tmp_path):
    w = ls.Workload([3, 4, 5], [2, 3, 1], arrival=[0, 1, 4])
    order, moved = [2, 0, 1], 1_700_000_000.25
    start, completion = np.array([0.0, 2, 5]), np.array([2.0, 5, 6])
    path = write(
        tmp_path / "x.csv",
        id=order,
        start=start[order] + moved,
        completion=completion[order] + moved,
        evictions=[0, 0, 0],
        arrival=w.arrival[order] + moved,
        anything=["a", "b", "c"],
    )
    found = foreign_result.read(path, w, memory=20, label="mine")
    assert np.array_equal(found.start, start)
    assert np.array_equal(found.completion, completion)
    assert repr(found).startswith("ForeignResult(mine, 3 requests")
    assert found.provenance["policy"] == "mine"


BAD = {
    "start,complete\n0,1\n": "line 1: there is no column 'completion'; did you mean 'complete'",
    "": "line 1: there is no column 'start'",
    "start,completion\n0,2\n": "1 row for a workload of 2 requests",
    "start,completion\n0,2\n0,x\n": "line 3: completion is 'x', expected a number",
    "start,completion\n0,2\n0\n": "line 3: completion is '', expected a number",
    "start,completion\n0,2\n0,inf\n": "line 3: completion is 'inf'",
    "start,completion,id\n0,2,0\n0,2,0\n": "id must hold each index from 0 to 1 once; look at 0",
    "start,completion,id\n0,2,0\n0,2,7\n": "look at 7",
    "start,completion\n0,2\n-1,2\n": "request 1 starts at -1 and arrives at 0, later",
    "start,completion\n0,2\n3,3\n": "request 1 starts at 3 and completes at 3, not later",
    "start,completion\n0,2\n0,1.5\n": "request 1 has 2 output tokens and runs 1.5 rounds.*give a clock",
    "start,completion,evictions\n0,2,0\n0,2,0.5\n": "request 1: evictions is 0.5",
    "start,completion,evictions\n0,2,0\n0,2,0\n": "at 1 the 2 requests .* at least 11 tokens, and the cache has 10",
    "start,completion,arrival\n5,7,5\n6,8,6\n": "request 1: arrival is 6, expected 5",
}


@pytest.mark.parametrize("text", BAD)
def test_impossible_files_are_refused_with_file_and_line_or_request(tmp_path, text):
    path = tmp_path / "bad.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=BAD[text]) as caught:
        foreign_result.read(path, ls.Workload([3, 4], [2, 2]), memory=10)
    assert str(path) in str(caught.value)
    assert isinstance(caught.value, (TraceError, WorkloadError)) or "hold at least" in text or "cache" in BAD[text]


def test_it_stands_in_a_comparison_as_a_row():
    w = small()
    compared = ls.compare(w, ["amin", "amax"], memory=3000)
    run = compared["amax"].result
    mine = foreign_result.from_arrays(w, run.start, run.completion, run.evictions, memory=3000, label="mine")
    more = foreign_result.added(compared, mine)
    assert [row.policy for row in more] == ["amin", "amax", "mine"]
    ours, theirs = more["mine"].record(), compared["amax"].record()
    assert list(ours) == list(theirs)
    assert ours["ratio"] == theirs["ratio"]
    assert ours["gap"] >= theirs["gap"]  # the bound for all policies is not above that for those that restart
    assert ls.gates.parse("mine.mean == amax.mean and mine.mean > amin.mean").holds(more)
    with pytest.raises(InputError, match="there is a row 'mine' already"):
        foreign_result.added(more, mine)


def test_what_cannot_be_compared_is_refused():
    w = small()
    compared = ls.compare(w, ["amax"], memory=3000)
    run = compared["amax"].result
    columns = (run.start, run.completion, run.evictions)
    with pytest.raises(InputError, match=r"its cache has 4,000 tokens, that of the policies 3,000"):
        foreign_result.added(compared, foreign_result.from_arrays(w, *columns, memory=4000))
    with pytest.raises(InputError, match="another workload"):
        foreign_result.added(
            ls.compare(small(1), ["amax"], memory=3000), foreign_result.from_arrays(w, *columns, memory=3000)
        )
    clocked = ls.simulate(w, "amax", memory=3000, clock="llama2-70b-2xa100")
    seconds = foreign_result.from_arrays(w, clocked.start, clocked.completion, memory=3000, clock="llama2-70b-2xa100")
    with pytest.raises(InputError, match="seconds and in rounds"):
        foreign_result.added(compared, seconds)
    timed = foreign_result.added(ls.compare(w, ["amin"], memory=3000, clock="llama2-70b-2xa100"), seconds)
    assert timed["own result"].record()["gap"] is None


def test_arrays_of_the_wrong_shape_are_refused():
    w = ls.Workload([3, 4], [2, 2])
    for bad, message in (
        ([1], "array of shape"),
        ("x", "one number per request"),
        ([0, np.nan], "request 1: start is nan"),
    ):
        with pytest.raises(InputError, match=message):
            foreign_result.from_arrays(w, bad, [2, 2], memory=99)


def test_no_requests_are_no_result_to_refuse():
    w = ls.Workload([], [])
    assert foreign_result.from_arrays(w, [], [], [], memory=1).least_peak == 0
