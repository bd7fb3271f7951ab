"""Intervals from the truth: exactness, edges, coverage, spellings."""

from __future__ import annotations

import dataclasses
import math
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from llmsched.errors import InputError, WorkloadError
from llmsched.predict import intervals
from llmsched.workloads import argument_checks
from llmsched.workloads.columns import LARGEST
from llmsched.workloads.workload import Workload

OUTPUTS = st.lists(st.integers(1, 2000), max_size=20)
LARGE_OUTPUTS = st.lists(st.integers(1, LARGEST), min_size=1, max_size=10)
RULES = st.one_of(
    st.just(intervals.exact()),
    st.builds(lambda a, b: intervals.constant(min(a, b), max(a, b)), st.integers(1, 999), st.integers(1, 999)),
    st.builds(intervals.buckets, st.integers(1, 5000)),
    st.builds(intervals.relative, st.floats(0, 1)),
    st.builds(intervals.relative, st.fractions(0, 1)),
    st.builds(intervals.noisy, st.floats(0, 1), st.floats(0, 100), st.integers(0, 2**64 - 1)),
    st.builds(intervals.realistic, st.integers(0, 2**64 - 1)),
    st.builds(intervals.noisy, st.floats(0, 1), st.floats(0, 100), st.integers(0, 99), st.floats(-1, 100)),
)


def bounds(rule, *outputs):
    lower, upper = rule(np.array(outputs, dtype=np.int64))
    return list(zip(lower.tolist(), upper.tolist(), strict=True))


def test_exact_is_the_truth_in_arrays_of_its_own():
    outputs = np.array([3, 1, 700])
    lower, upper = intervals.exact()(outputs)
    assert np.array_equal(lower, outputs)
    assert np.array_equal(upper, outputs)
    lower[0] = 9
    assert upper[0] == outputs[0] == 3


def test_constant_is_the_same_for_all_even_where_the_truth_lies_outside():
    assert bounds(intervals.constant(1, 1000), 1, 5, 1000, 2000) == [(1, 1000)] * 4


@pytest.mark.parametrize(
    ("width", "output", "expected"),
    [
        (100, 1, (1, 100)),
        (100, 100, (1, 100)),
        (100, 101, (101, 200)),
        (100, 1000, (901, 1000)),
        (1, 7, (7, 7)),
        (5000, 883, (1, 5000)),
        (LARGEST, LARGEST, (1, LARGEST)),
    ],
)
def test_buckets_at_their_edges(width, output, expected):
    assert bounds(intervals.buckets(width), output) == [expected]


@given(OUTPUTS, st.integers(1, 3000))
def test_buckets_are_the_multiples_of_the_width_around_the_truth(outputs, width):
    for o, (low, high) in zip(outputs, bounds(intervals.buckets(width), *outputs), strict=True):
        assert low <= o <= high
        assert (low - 1) % width == 0
        assert high - low == width - 1


@pytest.mark.parametrize(
    ("x", "output", "expected"),
    [
        (0.1, 10, (9, 11)),
        ("0.1", 10, (9, 11)),
        (Decimal("0.1"), 10, (9, 11)),
        (Fraction(1, 10), 10, (9, 11)),
        (np.float32(0.1), 10, (9, 11)),
        (np.float64(0.1), 10, (9, 11)),
        (0.1, 11, (9, 13)),
        (0.95, 100, (5, 195)),
        (0.99, 100, (1, 199)),
        (0.99, 50, (1, 100)),
        (0.95, 1, (1, 2)),
        (0, 17, (17, 17)),
        (1, 17, (1, 34)),
        (np.int64(1), 17, (1, 34)),
        ("1/3", 9, (6, 12)),
        ("1e-400", 9, (8, 10)),
        (0.1, LARGEST, (8106479329266892, 9907919180215092)),
    ],
)
def test_relative_has_no_floating_point_slips(x, output, expected):
    assert bounds(intervals.relative(x), output) == [expected]


@given(st.one_of(OUTPUTS, LARGE_OUTPUTS), st.one_of(st.floats(0, 1), st.decimals(0, 1, places=3), st.fractions(0, 1)))
def test_relative_is_exact_rational_arithmetic_rounded_outward(outputs, x):
    exact_x = Fraction(repr(x)) if isinstance(x, float) else Fraction(x)
    for o, interval in zip(outputs, bounds(intervals.relative(x), *outputs), strict=True):
        assert interval == (max(1, math.floor((1 - exact_x) * o)), math.ceil((1 + exact_x) * o))


@given(RULES, st.one_of(OUTPUTS, LARGE_OUTPUTS))
def test_every_interval_is_ordered_and_at_least_1(rule, outputs):
    lower, upper = rule(outputs)
    assert lower.dtype == upper.dtype == np.int64
    assert lower.shape == upper.shape == (len(outputs),)
    assert (lower >= 1).all()
    assert (lower <= upper).all()


@given(RULES)
def test_the_spelling_and_the_repr_give_the_same_rule_back(rule):
    again = eval(repr(rule), {name: getattr(intervals, name) for name in intervals.FORMS})
    assert again == intervals.parse(str(rule)) == pickle.loads(pickle.dumps(rule)) == rule
    assert hash(again) == hash(rule)


@pytest.mark.parametrize(
    ("text", "rule", "literal"),
    [
        ("exact", intervals.exact(), "exact()"),
        ("constant:1,1000", intervals.constant(1, 1000), "constant(1, 1000)"),
        (" buckets: 100 ", intervals.buckets(100), "buckets(100)"),
        ("relative:0.95", intervals.relative(0.95), "relative(0.95)"),
        ("relative:1/3", intervals.relative("1/3"), "relative('1/3')"),
        ("relative:1", intervals.relative(1), "relative(1)"),
        ("noisy:0.9,0.5", intervals.noisy(0.9, 0.5), "noisy(0.9, 0.5, 0)"),
        ("noisy:0.9,0.5,7", intervals.noisy(0.9, 0.5, 7), "noisy(0.9, 0.5, 7)"),
        ("realistic", intervals.realistic(), "realistic()"),
        ("realistic:7", intervals.realistic(7), "realistic(7)"),
    ],
)
def test_parse_reads_the_command_line_spelling(text, rule, literal):
    assert intervals.parse(text) == rule
    assert repr(rule) == literal


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("bucket:100", r"no interval rule 'bucket': did you mean 'buckets'\? known: exact.*buckets:WIDTH"),
        ("", r"no interval rule ''"),
        ("exact:1", r"'exact:1' does not have the form exact$"),
        ("exact:", r"does not have the form exact$"),
        ("constant:1", r"does not have the form constant:LOWER,UPPER"),
        ("constant:1,", r"does not have the form constant:LOWER,UPPER"),
        ("constant:1,2,3", r"does not have the form constant:LOWER,UPPER"),
        ("noisy:0.9", r"does not have the form noisy:COVERAGE,WIDTH\[,SEED\[,BIAS\]\]"),
        ("constant:9,1", r"lower is 9 and upper is 1.*write it as constant:LOWER,UPPER"),
        ("buckets:0", r"width must be a whole number from 1 to 9007199254740992, not 0.*buckets:WIDTH"),
        ("buckets:ten", r"width must be a whole number .* not 'ten'"),
        ("relative:1.5", r"x must be from 0 to 1, not 1.5"),
        ("relative:abc", r"x: expected a number such as 0.25, not 'abc'"),
        ("noisy:0.9,0.5,x", r"seed must be a whole number"),
    ],
)
def test_parse_says_what_was_wrong_and_the_right_form(text, message):
    with pytest.raises(InputError, match=message):
        intervals.parse(text)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: intervals.constant(0, 5), "lower must be a whole number from 1"),
        (lambda: intervals.constant(1, LARGEST + 1), "upper must be"),
        (lambda: intervals.buckets(2.5), "width must be a whole number .* not 2.5"),
        (lambda: intervals.buckets(float("nan")), "not nan"),
        (lambda: intervals.buckets(True), "not True"),
        (lambda: intervals.buckets("100"), "not '100'"),
        (lambda: intervals.relative(-0.1), "x must be from 0 to 1, not -0.1"),
        (lambda: intervals.relative(float("nan")), "x: expected a finite number, not nan"),
        (lambda: intervals.relative("1e999999999"), "exponent"),
        (lambda: intervals.relative("1/0"), "expected a number"),
        (lambda: intervals.relative(None), "expected a number, not None"),
        (lambda: intervals.relative(True), "expected a number, not True"),
        (lambda: intervals.noisy(1.1, 0.5), "coverage must be from 0 to 1"),
        (lambda: intervals.noisy(0.9, -1), "width must be from 0 to 100"),
        (lambda: intervals.noisy(0.9, 101), "width must be from 0 to 100"),
        (lambda: intervals.noisy(0.9, 0.5, 0, -1.1), "bias must be from -1 to 100"),
        (lambda: intervals.noisy(0.9, 0.5, -1), "seed must be a whole number from 0"),
        (lambda: intervals.noisy(0.9, 0.5, None), "seed must be a whole number from 0"),
    ],
)
def test_impossible_arguments_are_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


def test_whole_floats_count_as_whole_numbers():
    assert intervals.buckets(1e2) == intervals.buckets(100)


@pytest.mark.parametrize("outputs", [[3, 0], [3, 2.5], [3, float("nan")], [3, LARGEST * 2]])
def test_impossible_outputs_are_refused_by_request(outputs):
    with pytest.raises(WorkloadError, match="request 1: output is") as error:
        intervals.exact()(outputs)
    assert error.value.request == 1


def test_a_rule_never_changes():
    with pytest.raises(dataclasses.FrozenInstanceError):
        intervals.exact().name = "constant"


def test_a_workload_takes_a_rule():
    w = Workload(prompt=1, output=[50, 150]).with_intervals(intervals.buckets(100))
    assert w.lower.tolist() == [1, 101]
    assert w.upper.tolist() == [100, 200]


@pytest.mark.parametrize("output", [1, 2, 3, 10, 1000])
@pytest.mark.parametrize("width", [0, 0.1, 0.5, 3])
@pytest.mark.parametrize("coverage", [0, 0.3, 0.9, 1])
def test_noisy_covers_the_truth_with_the_chosen_probability(output, width, coverage):
    n = 20_000
    outputs = np.full(n, output)
    lower, upper = intervals.noisy(coverage, width, seed=output)(outputs)
    covered = int(((lower <= output) & (output <= upper)).sum())
    # 48 cases: at 1e-5 each a false alarm is as unlikely as it is reproducible.
    assert stats.binomtest(covered, n, coverage).pvalue > 1e-5
    missed = (lower > output) | (upper < output)
    below = int((upper < output).sum())
    assert stats.binomtest(below, max(int(missed.sum()), 1), 0.5 if output > 1 else 0).pvalue > 1e-5 or not missed.any()


def test_noisy_puts_the_truth_uniformly_in_the_window():
    lower, upper = intervals.noisy(1, 0.4, seed=1)(np.full(20_000, 10))
    assert set(upper - lower) == {4}
    assert stats.chisquare(np.bincount(10 - lower, minlength=5)).pvalue > 1e-4


def test_noisy_misses_by_one_to_its_own_width():
    lower, upper = intervals.noisy(0, 0.4, seed=1)(np.full(20_000, 10))
    gaps = np.where(lower > 10, lower - 10, 10 - upper)
    assert set(gaps) == {1, 2, 3, 4}
    assert stats.chisquare(np.bincount(gaps)[1:]).pvalue > 1e-4


@given(st.integers(1, 10**6), st.fractions(0, 100, max_denominator=1000), st.fractions(0, 1), st.integers(0, 99))
def test_noisy_windows_have_the_chosen_width_unless_cut_off_at_1(output, width, coverage, seed):
    ((lower, upper),) = bounds(intervals.noisy(coverage, width, seed), output)
    assert upper - lower == math.ceil(width * output) or (lower == 1 and upper - lower < width * output)


def test_noisy_depends_on_its_seed_not_on_how_many_requests_follow():
    outputs = np.arange(1, 501)
    rule = intervals.noisy(0.8, 0.5, 3)
    lower, upper = rule(outputs)
    assert np.array_equal(lower, rule(outputs)[0])
    assert np.array_equal(upper[:100], rule(outputs[:100])[1])
    assert not np.array_equal(lower, intervals.noisy(0.8, 0.5, 4)(outputs)[0])


@given(OUTPUTS, st.fractions(-1, 100, max_denominator=1000), st.fractions(0, 5, max_denominator=100))
def test_a_bias_moves_every_window_by_its_share_of_the_truth(outputs, bias, width):
    plain, moved = (intervals.noisy(0.8, width, 5, b)(outputs) for b in (0, bias))
    for o, before, after in zip(outputs, zip(*plain, strict=True), zip(*moved, strict=True), strict=True):
        shift = math.trunc(bias * o)
        assert after[1] == max(before[1] + shift, 1)
        assert after[0] == max(before[0] + shift, 1) or before[0] == 1  # cut off before it was moved


def test_noisy_keeps_its_stream():
    assert bounds(intervals.noisy(0.7, 0.5, 42), 1, 5, 10, 100, 100, 100, 100, 100) == [
        (1, 1),
        (3, 6),
        (7, 12),
        (53, 103),
        (8, 58),
        (89, 139),
        (96, 146),
        (28, 78),
    ]


@pytest.mark.parametrize(
    ("x", "fraction"),
    [
        (0.1, Fraction(1, 10)),
        (0.9, Fraction(9, 10)),
        ("0.25", Fraction(1, 4)),
        ("2.5e-3", Fraction(1, 400)),
        (Decimal("1.10"), Fraction(11, 10)),
        (3, Fraction(3)),
        (np.int32(3), Fraction(3)),
        (np.float32(0.1), Fraction(1, 10)),
        (5e-324, Fraction("5e-324")),
        (-0.0, Fraction(0)),
        ("-7/2", Fraction(-7, 2)),
    ],
)
def test_decimal_fraction_is_what_was_written(x, fraction):
    assert argument_checks.decimal_fraction(x) == fraction


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_fraction_of_a_float_is_its_shortest_spelling(x):
    assert argument_checks.decimal_fraction(x) == argument_checks.decimal_fraction(repr(x)) == Fraction(repr(x))


@pytest.mark.parametrize(
    "x", [float("inf"), "nan", "sNaN", "", "1/2/3", "0x1", b"1", 1j, [1], np.True_, Decimal("Inf")]
)
def test_decimal_fraction_refuses_what_is_not_a_finite_number(x):
    with pytest.raises(InputError, match="expected a"):
        argument_checks.decimal_fraction(x)
