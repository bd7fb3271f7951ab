"""compare(): several policies on one workload."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

import llmsched as ls
from llmsched import errors
from llmsched.metrics.compare import COLUMNS, DEFAULT_POLICIES, compare
from llmsched.predict.intervals import with_midpoints

MEMORY = 3000


@pytest.fixture(scope="module")
def workload() -> ls.Workload:
    return with_midpoints(ls.generate.lmsys(150, seed=3).with_intervals(ls.intervals.buckets(100)))


def endless() -> ls.Workload:
    """`protection` admits too many, restarts them all, and does so for ever (model.md, section 6)."""
    return with_midpoints(ls.Workload(prompt=0, output=[10] * 4).with_intervals(ls.intervals.buckets(100)))


def test_default_policies_cannot_see_the_truth_but_for_hsf() -> None:
    assert DEFAULT_POLICIES[0] == "hsf"
    assert set(DEFAULT_POLICIES) < set(ls.policies)
    assert [name for name in DEFAULT_POLICIES if ls.policies[name].clairvoyant] == ["hsf"]


def test_every_row_is_what_simulate_gives(workload: ls.Workload) -> None:
    compared = compare(workload, memory=MEMORY, seed=5)
    hindsight = ls.simulate(workload, "hsf", memory=MEMORY, seed=5).mean_latency
    assert [row.policy for row in compared] == list(DEFAULT_POLICIES)
    for row in compared:
        alone = ls.simulate(workload, row.policy, memory=MEMORY, seed=5)
        assert row.result is not None
        assert np.array_equal(row.result.completion, alone.completion)
        assert row.ratio == alone.mean_latency / hindsight
        assert row.record() | alone.summary() == {**row.record(), **alone.summary()}
    assert compared.baseline == "hsf"
    assert compared.baseline_latency == hindsight


def test_no_policy_is_further_from_optimal_than_its_gap_says(workload: ls.Workload) -> None:
    best = ls.best_known(workload, memory=MEMORY, time_limit=None, iterations=200).total_latency
    bound = ls.lower_bound(workload, memory=MEMORY, iterations=0)
    for row in compare(workload, memory=MEMORY):
        assert row.result is not None
        assert row.gap >= row.result.total_latency / best - 1 - 1e-12
        assert row.gap == pytest.approx(row.result.total_latency / bound.of(row.policy) - 1)
        assert row.record()["gap"] == row.gap


def test_gaps_hold_with_a_batch_cap_with_blocks_and_with_a_clock(workload: ls.Workload) -> None:
    plain = compare(workload, ["hsf"], memory=MEMORY)["hsf"]
    capped = compare(workload, ["hsf"], memory=MEMORY, max_batch=5, block=16)["hsf"]
    assert capped.gap > plain.gap  # the same bound, and less room
    timed = compare(workload, ["hsf"], memory=MEMORY, clock="llama2-70b-2xa100")["hsf"]
    assert timed.result is not None
    bound = ls.lower_bound(workload, memory=MEMORY, clock="llama2-70b-2xa100")
    assert timed.gap == bound.gap(timed.result.total_latency) > 0
    nobody = compare(ls.Workload([], []), ["hsf"], memory=MEMORY)["hsf"]
    assert nobody.record()["gap"] is None


def test_both_engines_give_the_same_records(workload: ls.Workload) -> None:
    fast, readable = (compare(workload, memory=MEMORY, engine=engine) for engine in ("compiled", "reference"))
    assert fast.records() == readable.records()


def test_the_seed_governs_the_outcome(workload: ls.Workload) -> None:
    one, again, other = (compare(workload, ["amin"], memory=MEMORY, seed=seed).records() for seed in (1, 1, 2))
    assert one == again
    assert one != other


def test_a_baseline_that_was_not_asked_for_has_no_row(workload: ls.Workload) -> None:
    compared = compare(workload, ["amin"], memory=MEMORY)
    assert [row.policy for row in compared] == ["amin"]
    assert compared["amin"].ratio == compare(workload, ["hsf", "amin"], memory=MEMORY)["amin"].ratio


def test_ratios_may_refer_to_any_policy_or_to_none(workload: ls.Workload) -> None:
    assert compare(workload, ["amin"], memory=MEMORY, baseline="amin")["amin"].ratio == 1
    alone = compare(workload, ["amin"], memory=MEMORY, baseline=None)
    assert math.isnan(alone["amin"].ratio)
    assert alone.baseline is None


def test_ranked_is_by_mean_latency_and_rows_are_as_given(workload: ls.Workload) -> None:
    compared = compare(workload, ["aell", "hsf", "amax"], memory=MEMORY)
    latencies = [row.result.mean_latency for row in compared.ranked() if row.result is not None]
    assert latencies == sorted(latencies)
    assert [row.policy for row in compared] == ["aell", "hsf", "amax"]
    assert len(compared) == 3
    with pytest.raises(KeyError):
        compared["amin"]


def test_a_policy_that_does_not_finish_says_so_and_the_others_stand() -> None:
    compared = compare(endless(), ["protection", "hsf", "clearing"], memory=20)
    lost = compared["protection"]
    assert lost.result is None
    assert isinstance(lost.error, errors.NotFinishedError)
    assert compared["hsf"].result is not None
    assert compared["clearing"].ratio > 1
    assert compared.ranked()[-1] is lost
    record = lost.record()
    assert record["finished"] is False
    assert (record["requests"], record["completed"]) == (4, 0)
    assert "protection" in record["error"]
    assert record["mean_latency"] is record["ratio"] is None


def test_completed_counts_what_was_done_before_max_rounds(workload: ls.Workload) -> None:
    whole = compare(workload, ["hsf"], memory=MEMORY)["hsf"]
    assert whole.result is not None
    cut = int(np.median(whole.result.completion))
    part = compare(workload, ["hsf"], memory=MEMORY, max_rounds=cut)["hsf"]
    assert part.completed == np.count_nonzero(whole.result.completion <= cut)
    assert part.record()["rounds"] == cut
    assert math.isnan(part.ratio)


def test_a_missing_prediction_concerns_its_row_only() -> None:
    plain = ls.Workload(prompt=1, output=[2, 3])
    compared = compare(plain, ["hsf", "amin", "mcsf", "fcfs"], memory=10)
    assert [row.result is None for row in compared] == [False, True, True, False]
    assert isinstance(compared["mcsf"].error, errors.MissingPredictionError)
    assert compared["mcsf"].completed == 0
    assert "nan" not in repr(compared)
    assert repr(compared).endswith(f"; {compared['amin'].error}; {compared['mcsf'].error})")


def test_what_no_policy_can_simulate_is_an_error(workload: ls.Workload) -> None:
    with pytest.raises(errors.MemoryTooSmallError, match="request 0") as caught:
        compare(ls.Workload(prompt=5, output=[6, 1]), ["hsf"], memory=10)
    assert caught.value.needed == 11
    with pytest.raises(errors.PolicyError, match="amin"):
        compare(workload, ["amni"], memory=MEMORY)
    with pytest.raises(errors.InputError, match="memory"):
        compare(workload, memory=0)


def test_records_have_all_columns_and_never_nan(workload: ls.Workload) -> None:
    for some in (workload, workload.head(0), endless()):
        for record in compare(some, memory=MEMORY).records():
            assert tuple(record) == COLUMNS
            assert not any(isinstance(value, float) and math.isnan(value) for value in record.values())


def test_policies_of_ones_own_are_labelled(workload: ls.Workload) -> None:
    skipping = dataclasses.replace(ls.policies["amin"], fill="skip")
    compared = compare(workload, {"mine": skipping, "theirs": "amin"}, memory=MEMORY)
    assert [row.policy for row in compared] == ["mine", "theirs"]
    assert compare(workload, [skipping], memory=MEMORY).rows[0].policy == "Policy(fill='skip')"
    assert len(compare(workload, "amin", memory=MEMORY)) == 1


def test_a_policy_given_twice_is_run_once(workload: ls.Workload) -> None:
    assert len(compare(workload, ["amin", ls.policies["amin"], "amin"], memory=MEMORY)) == 1


def test_progress_rises_to_the_total(workload: ls.Workload) -> None:
    seen: list[tuple[str, int, int]] = []
    compare(workload, ["amin", "fcfs"], memory=MEMORY, progress=lambda *what: seen.append(what))
    done = [completed for _, completed, _ in seen]
    assert done == sorted(done)
    assert done[-1] == 3 * len(workload)
    assert {total for *_, total in seen} == {3 * len(workload)}
    assert {label for label, *_ in seen} == {"amin", "fcfs", "hsf"}


def test_midpoints_are_rounded_up() -> None:
    workload = ls.Workload(prompt=0, output=[1, 1, 1], lower=[1, 1, 7], upper=[4, 5, 7])
    assert with_midpoints(workload).point is not None
    assert list(with_midpoints(workload).columns()["point"]) == [3, 3, 7]
    with pytest.raises(errors.InputError, match="intervals"):
        with_midpoints(ls.Workload(prompt=0, output=[1]))
