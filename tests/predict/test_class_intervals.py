"""Classes into intervals: exact conformal coverage, real classes, labels that cannot be used."""

from __future__ import annotations

import csv
import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import llmsched as ls
from llmsched.errors import InputError, WorkloadError
from llmsched.predict import conformal, intervals

COVERAGES = st.fractions("1/100", "99/100", max_denominator=100)
OUTPUTS = st.lists(st.integers(1, 12), min_size=1, max_size=40)  # few lengths: many are the same
TARGETS = ("0.5", "0.8", "0.9", "0.95")


def own_interval(bag: list[int], m: int) -> tuple[int, int]:
    """[a, b] of the docstring of `conformal.interval`, from all N outputs."""
    ordered = sorted(bag)
    a = ordered[(len(bag) - m) // 2]
    below = sum(value < a for value in bag)
    return a, ordered[below + m - 1]


@given(OUTPUTS, COVERAGES)
def test_the_interval_is_all_that_full_conformal_prediction_keeps(outputs, coverage):
    if len(outputs) < conformal.rows_needed(coverage):
        with pytest.raises(InputError, match=f"at least {conformal.rows_needed(coverage)}, and there"):
            conformal.interval(np.array(outputs), coverage, "both")
        return
    m = math.ceil(coverage * (len(outputs) + 1))
    kept = []
    for new in range(1, 20):
        low, high = own_interval([*outputs, new], m)
        assert sum(low <= value <= high for value in [*outputs, new]) >= m
        if low <= new <= high:
            kept.append(new)
    assert conformal.interval(np.array(outputs), coverage, "both") == (min(kept), max(kept))


@given(OUTPUTS, COVERAGES)
def test_one_bound_alone_leaves_out_as_many_as_it_may(outputs, coverage):
    if len(outputs) < conformal.rows_needed(coverage):
        return
    n, m = len(outputs), math.ceil(coverage * (len(outputs) + 1))
    lower, none = conformal.interval(np.array(outputs), coverage, "lower")
    assert none is None
    assert sum(value < lower for value in outputs) <= n + 1 - m
    none, upper = conformal.interval(np.array(outputs), coverage, "upper")
    assert none is None
    assert sum(value > upper for value in outputs) <= n - m


@given(st.fractions("1/1000", "999/1000", max_denominator=1000))
def test_the_rows_needed_are_the_fewest_that_can_do(coverage):
    n = conformal.rows_needed(coverage)
    assert conformal.rank(n, coverage) <= n
    assert math.ceil(coverage * n) > n - 1  # n - 1 rows would need an n-th


def test_a_coverage_is_the_decimal_that_was_written():
    assert conformal.rank(9, conformal.coverage_of(0.9)) == 9  # (9 + 1) * 0.9 in doubles is more than 9
    assert conformal.coverage_of(0.1 + 0.2) > Fraction(3, 10)


@pytest.mark.parametrize("side", ["both", "lower", "upper"])
def test_coverage_is_what_was_asked_on_average_over_small_calibration_sets(side):
    generator = np.random.default_rng(5)
    hits, runs = 0, 4000
    for outputs in generator.geometric(0.0005, (runs, 20)):  # hardly two the same
        lower, upper = conformal.interval(outputs[:19], Fraction(8, 10), side)
        hits += (lower or 1) <= outputs[19] <= (upper or math.inf)
    assert stats.binomtest(hits, runs, 0.8).pvalue > 1e-4  # exact for 19 rows: 16 of 20


@pytest.fixture
def bert(data_file):
    with open(data_file("lmsys_predicted_classes.csv"), newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([int(row[name]) for row in rows]) for name in rows[0]}


@pytest.mark.parametrize("column", ["class_of_5", "class_of_2"])
@pytest.mark.parametrize("target", TARGETS)
def test_classes_of_a_real_bert_become_calibrated_intervals(bert, column, target):
    outputs, classes, half = bert["output_tokens"], bert[column], len(bert["output_tokens"]) // 2
    table = intervals.from_classes(classes[:half], outputs[:half], target)
    lower, upper = table.predict_interval(classes[half:])
    inside = (lower <= outputs[half:]) & (outputs[half:] <= upper)
    assert abs(inside.mean() - float(target)) <= 0.015


@pytest.mark.parametrize("column", ["class_of_5", "class_of_2"])
@pytest.mark.parametrize("target", TARGETS)
def test_each_bound_alone_is_calibrated_on_real_classes(bert, column, target):
    """Outputs of the very length of the bound have to be kept: here a tenth of class 0 has 2 tokens."""
    outputs, classes, half = bert["output_tokens"], bert[column], len(bert["output_tokens"]) // 2
    truth = outputs[half:]
    for side in ("lower", "upper"):
        table = intervals.from_classes(classes[:half], outputs[:half], target, side=side)
        lower, upper = table.predict_interval(classes[half:])
        margin = truth - lower if upper is None else upper - truth
        assert (margin > 0).mean() - 0.015 <= float(target) <= (margin >= 0).mean() + 0.015


def test_a_real_bert_is_worth_something(bert):
    outputs, classes = bert["output_tokens"], bert["class_of_5"]
    table = intervals.from_classes(classes[:10_000], outputs[:10_000], 0.9)
    w = ls.Workload(prompt=20, output=outputs[10_000:11_000])
    predicted = w.with_predictions(table, classes[10_000:11_000])
    blind = w.with_intervals(intervals.constant(1, 511))
    for policy in ("amin", "amax"):
        known, unknown = (ls.simulate(v, policy, memory=16492) for v in (predicted, blind))
        assert known.mean_latency < 0.95 * unknown.mean_latency


def test_a_table_is_a_predictor():
    table = intervals.from_table({"short": (1, 50), 2: (51, 400)})
    w = ls.Workload(prompt=1, output=[30, 100, 500]).with_predictions(table, ["short", 2, 2])
    assert w.lower.tolist() == [1, 51, 51]
    assert w.upper.tolist() == [50, 400, 400]
    assert w.point is None
    assert ls.simulate(w, "amin", memory=600).completion.max() > 0  # the third lies outside its interval
    assert table == pickle.loads(pickle.dumps(table))
    assert hash(table) == hash(intervals.from_table({"short": (1, 50), 2: (51, 400)}))


def test_labels_may_be_of_any_kind_and_come_in_any_container():
    table = intervals.from_table({1: (1, 2), "b": (3, 4)})
    assert table.predict_interval(np.array([1, 1]))[0].tolist() == [1, 1]
    assert table.predict_interval(np.array([1.0]))[0].tolist() == [1]
    assert table.predict_interval(["b", 1])[0].tolist() == [3, 1]
    assert table.predict_interval(np.array([], dtype=int))[0].tolist() == []


def test_a_lower_bound_alone_leaves_the_upper_absent():
    table = intervals.from_classes([0] * 30, range(1, 31), 0.9, side="lower")
    w = ls.Workload(prompt=1, output=[5, 9]).with_predictions(table, [0, 0])
    assert w.lower.tolist() == [3, 3]
    assert w.upper is None
    assert ls.simulate(w, "amin", memory=100).mean_latency > 0


def test_an_unseen_class_is_an_error_or_pooled():
    classes, outputs = [0] * 10 + [1] * 10, [*range(1, 11), *range(101, 111)]
    with pytest.raises(InputError, match=r"request 1 has the class 7, which has no interval; there are: 0, 1"):
        intervals.from_classes(classes, outputs, 0.8).predict_interval([0, 7])
    table = intervals.from_classes(classes, outputs, 0.8, unseen="pooled")
    assert [bound.tolist() for bound in table.predict_interval([0, 7])] == [[1, 2], [10, 109]]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: intervals.from_classes([0] * 8, range(1, 9), 0.9), "class 0: .* 0.9 needs .* at least 9, .* are 8"),
        (lambda: intervals.from_classes(["a"], [5], "0.95"), "class 'a': .* at least 19, and there is 1"),
        (lambda: intervals.from_classes([0], [5], 1), "coverage must be between 0 and 1, both excluded, not 1"),
        (lambda: intervals.from_classes([0], [5], 0), "coverage must be between 0 and 1"),
        (lambda: intervals.from_classes([0], [5], float("nan")), "coverage: expected a finite number"),
        (lambda: intervals.from_classes([0], [5], 0.5, side="lwoer"), "did you mean 'lower'"),
        (lambda: intervals.from_classes([0], [5], 0.5, unseen="pool"), "did you mean 'pooled'"),
        (lambda: intervals.from_classes([0, None], [5, 5], 0.5), "row 1 has no class"),
        (lambda: intervals.from_classes([0.0, float("nan")], [5, 5], 0.5), "row 1 has no class"),
        (lambda: intervals.from_classes(["", "a"], [5, 5], 0.5), "row 0 has no class"),
        (lambda: intervals.from_classes([[0], [1]], [5, 5], 0.5), "row 0: a class is a number or a string"),
        (lambda: intervals.from_classes(np.zeros((2, 2)), [5, 5], 0.5), r"not an array of shape \(2, 2\)"),
        (lambda: intervals.from_classes([0, 1], [5], 0.5), "2 classes for 1 outputs"),
        (lambda: intervals.from_classes([], [], 0.5), "no calibration rows"),
        (lambda: intervals.from_table({}), "empty"),
        (lambda: intervals.from_table({"a": 5}), r"class 'a': expected \(lower, upper\), not 5"),
        (lambda: intervals.from_table({"a": (9, 5)}), "class 'a': lower is 9 and upper is 5"),
        (lambda: intervals.from_table({"a": (0, 5)}), "class 'a': lower must be a whole number from 1"),
    ],
)
def test_what_cannot_be_used_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_an_impossible_output_names_its_row():
    with pytest.raises(WorkloadError, match="request 1: output is 0"):
        intervals.from_classes([0, 0], [5, 0], 0.5)


def test_a_predictor_of_points_alone_gives_points():
    class Middle:
        def predict(self, features):
            return [0.2, 3.2, 1e300]

    w = ls.Workload(prompt=1, output=[1, 4, 9], lower=2, upper=9).with_predictions(Middle(), None)
    assert w.point.tolist() == [1, 4, 2**53]
    assert w.lower.tolist() == [2, 2, 2]


def test_what_is_no_predictor_is_refused():
    with pytest.raises(WorkloadError, match="predict_interval"):
        ls.Workload(prompt=1, output=[1]).with_predictions(object(), [0])
    with pytest.raises(WorkloadError, match="request 0: the point prediction is nan"):
        ls.Workload(prompt=1, output=[1]).with_predictions(type("P", (), {"predict": lambda self, x: [math.nan]})(), 0)
