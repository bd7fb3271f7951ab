"""Intervals with a real predictor's errors: the tables against the data they come from, and what carries over."""

from __future__ import annotations

import importlib.util
from types import ModuleType

import numpy as np
import pytest
from helpers import ROOT
from hypothesis import given
from hypothesis import strategies as st

import llmsched as ls
from llmsched.errors import InputError
from llmsched.predict import intervals, realistic_noise


@pytest.fixture(scope="module")
def script() -> ModuleType:
    path = ROOT / "examples" / "realistic_noise.py"
    if not path.exists():
        pytest.skip("examples/ is not beside the tests")
    spec = importlib.util.spec_from_file_location("realistic_noise_example", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def lengths() -> np.ndarray:
    return ls.generate.lmsys(20_000, 5).output


def test_the_tables_are_what_the_script_measures(script, data_file):
    outputs, classes = script.read(data_file("lmsys_predicted_classes.csv"))
    assert script.measured(outputs, classes) == (realistic_noise.SHARES, realistic_noise.LEVELS)


def test_drawn_intervals_are_as_good_as_those_of_the_real_predictions(script, data_file):
    """Coverage to 1 point of a hundred; width, error of the point and rank correlation to 2 %; for several seeds."""
    outputs, classes = script.read(data_file("lmsys_predicted_classes.csv"))
    real = script.quality(outputs, *script.quantiles(outputs, classes)[classes].T)
    for seed in range(3):
        rule = intervals.realistic(seed)
        drawn = script.quality(outputs, *rule(outputs), rule.point(outputs))
        assert drawn.pop("covered") == pytest.approx(real["covered"], abs=0.01)
        for name, value in drawn.items():
            assert value == pytest.approx(real[name], rel=0.02), name
        confused = [
            np.bincount(c, minlength=5) / 20_000 for c in (classes, realistic_noise.predicted_classes(outputs, seed))
        ]
        assert confused[1] == pytest.approx(confused[0], abs=0.01)


def test_policies_do_as_well_under_drawn_errors_as_under_the_real_ones(script, data_file):
    """Mean latency over that of hsf, to 6 % on 4 times 1,000 requests."""
    outputs, classes = script.read(data_file("lmsys_predicted_classes.csv"))
    for name, ratios in script.scheduled(outputs, classes, script.quantiles(outputs, classes), 4).items():
        real, drawn = ratios.mean(axis=0)
        assert drawn == pytest.approx(real, rel=0.06), name


def test_errors_carry_over_to_lengths_on_any_scale(lengths):
    rule = intervals.realistic(3)
    lower, upper = rule(lengths)
    assert 0.90 <= np.mean((lower <= lengths) & (lengths <= upper)) <= 0.93
    for stretched in (lengths * 7, lengths**2):  # whatever keeps the order keeps the classes
        low, high = rule(stretched)
        assert np.array_equal(low <= stretched, lower <= lengths)
        assert np.array_equal(stretched <= high, lengths <= upper)
    assert np.array_equal(rule(lengths * 7)[0], lower * 7)


def test_there_are_five_intervals_and_the_point_is_inside(lengths):
    rule = intervals.realistic()
    lower, upper = rule(lengths)
    point = rule.point(lengths)
    assert len(set(zip(lower.tolist(), upper.tolist(), point.tolist(), strict=True))) == 5
    assert ((lower <= point) & (point <= upper)).all()
    assert np.corrcoef(realistic_noise.mid_ranks(point), realistic_noise.mid_ranks(lengths))[0, 1] > 0.7


def test_it_errs_by_its_seed_alone(lengths):
    same, other = (intervals.realistic(seed)(lengths)[0] for seed in (0, 1))
    assert np.array_equal(same, intervals.realistic()(lengths)[0])
    assert not np.array_equal(same, other)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
def test_ranks_are_between_0_and_1_and_equal_values_share_one(values):
    ranks = realistic_noise.mid_ranks(np.array(values))
    assert ((ranks > 0) & (ranks < 1)).all()
    assert ranks.mean() == pytest.approx(0.5)
    assert len(set(ranks)) == len(set(values))


def test_equal_lengths_leave_nothing_to_predict_and_none_no_interval():
    lower, upper = intervals.realistic()(np.full(100, 7))
    assert set(lower) == set(upper) == {7}
    assert [len(column) for column in intervals.realistic()([])] == [0, 0]


def test_rules_that_err_are_reseeded_and_others_stay():
    assert intervals.noisy(0.9, 0.5, 3, 0.1).reseeded(8) == intervals.noisy(0.9, 0.5, 8, 0.1)
    assert (intervals.noisy(0.9, 0.5, 3).seed, intervals.realistic(4).seed, intervals.realistic().seed) == (3, 4, 0)
    assert intervals.realistic(4).reseeded(0) == intervals.realistic()
    assert intervals.buckets(5).reseeded(9) is not None
    assert intervals.buckets(5).seed is None
    with pytest.raises(InputError, match="seed must be"):
        intervals.buckets(5).reseeded(-1)


def test_the_point_of_other_rules_is_the_middle_that_with_midpoints_takes():
    w = ls.generate.lmsys(200, 0)
    for rule in (intervals.buckets(100), intervals.noisy(0.9, 0.5), intervals.constant(1, 10)):
        assert np.array_equal(rule.point(w.output), intervals.with_midpoints(w.with_intervals(rule)).point)


@pytest.mark.parametrize(
    ("spelling", "words"),
    [
        ("exact", "made from the true lengths: perfect predictions"),
        ("constant:1,1000", "no knowledge: 1 to 1,000 for everybody"),
        ("buckets:100", "made from the true lengths: a perfect classifier into buckets of 100 tokens"),
        ("relative:0.95", "made from the true lengths: from 95 % below to 95 % above each"),
        ("noisy:0.9,0.5", "made from the true lengths: 50 % of each wide, 90 % contain it"),
        (
            "noisy:0.9,0.5,3,-0.2",
            "made from the true lengths: 50 % of each wide, 90 % contain it, then moved by -20 % of it",
        ),
        ("realistic:5", "made from the true lengths with the errors of a real predictor (BERT, 5 classes)"),
    ],
)
def test_every_rule_says_in_words_what_it_knows(spelling, words):
    assert intervals.parse(spelling).describe() == words


def test_no_rule_is_without_words():
    for name, form in intervals.FORMS.items():
        least = form.partition("[")[0].partition(":")[2]
        spelling = f"{name}:{','.join('1' for _ in least.split(','))}" if least else name
        assert intervals.parse(spelling).describe()
