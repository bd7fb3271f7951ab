"""Nobody makes the core slower unnoticed: what it counts does not grow beyond benchmarks/baseline.json."""

from __future__ import annotations

import counters
import pytest

OLD = counters.baseline()


@pytest.mark.parametrize("name", counters.CASES)
def test_the_core_works_no_harder_than_the_baseline(name):
    assert name in OLD, f"case {name!r} is not in {counters.BASELINE.name}: add it with {counters.REWRITE}"
    worse = counters.grown(name, OLD[name], counters.measured(name))
    remedy = f"If the change is worth it, say so in the commit and rewrite the baseline: {counters.REWRITE}"
    assert not worse, "\n".join([*worse, remedy])


def test_the_baseline_holds_no_case_that_is_gone():
    gone = sorted(OLD.keys() - counters.CASES.keys())
    assert not gone, f"{counters.BASELINE.name} has cases that are no more: {gone}. Rewrite it: {counters.REWRITE}"


def test_work_is_counted_the_same_every_time():
    once, again = (counters.measured("amin constant 1000") for _ in range(2))
    assert once == again
    assert all(type(count) is int and count >= 0 for count in once.values())


def test_rounds_are_either_stepped_or_skipped():
    result = counters.CASES["amin buckets 1000"]().simulate()
    assert result.work["rounds_stepped"] + result.work["rounds_skipped"] == result.rounds
    assert result.work["admissions"] == len(result) + result.total_evictions


def test_a_counter_that_grows_is_named_with_old_new_and_case():
    old = {"admissions": 1000, "points_scanned": 100, "heap_operations": 0}
    assert counters.grown("c", old, {"admissions": 1020, "points_scanned": 50, "heap_operations": 0}) == []
    worse = counters.grown("c", old, {"admissions": 1021, "points_scanned": 100, "heap_operations": 1})
    assert worse == [
        "c: admissions grew from 1,000 to 1,021 (+2.1 %)",
        "c: heap_operations grew from 0 to 1 (from nothing)",
    ]
    assert "admissions" in counters.grown("c", old, {"admissions": 1000})[0]


def test_a_counter_that_shrinks_much_is_worth_a_word():
    old = {"admissions": 1000, "points_scanned": 100}
    assert counters.shrunk("c", old, {"admissions": 899, "points_scanned": 90}) == [
        "c: admissions shrank from 1,000 to 899 (-10.1 %)"
    ]
