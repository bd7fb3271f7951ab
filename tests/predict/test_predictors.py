"""Learned predictors: coverage that is what was asked, scikit-learn's checks, features, files, bad input."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import zipfile
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats
from sklearn.base import clone
from sklearn.dummy import DummyClassifier
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.linear_model import LinearRegression, QuantileRegressor
from sklearn.model_selection import cross_validate
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier
from sklearn.utils import estimator_checks

import llmsched as ls
from llmsched import predict
from llmsched.errors import InputError, MissingExtraError, TraceError
from llmsched.predict import conformal
from llmsched.predict.feature_tables import refuse_leaks

TASKS = {"chat": (4.0, 0.8), "code": (5.0, 0.4), "sum": (3.0, 0.3)}
TEXTS = {"chat": "tell me about", "code": "write a program that counts", "sum": "summarise this text for me please"}


def boosting() -> HistGradientBoostingRegressor:
    return HistGradientBoostingRegressor(loss="quantile", max_iter=25)


def requests(n: int, seed: int) -> tuple[dict[str, list], np.ndarray]:
    """Features of n requests, and outputs whose spread depends on the task."""
    g = np.random.default_rng(seed)
    task = g.choice(list(TASKS), n)
    size = g.integers(1, 60, n)
    mean, spread = np.array([TASKS[t] for t in task]).T
    outputs = np.ceil(np.exp(g.normal(mean + size / 40, spread))).astype(int)
    words = ["cats", "dogs", "stars", "rivers", "tea"]
    prompt = [f"{TEXTS[t]} {' '.join(g.choice(words, 1 + k // 20))}" for t, k in zip(task, size, strict=True)]
    return {"size": size.tolist(), "task": task.tolist(), "prompt": prompt}, outputs


@pytest.fixture(scope="module")
def data():
    return *requests(3000, 1), *requests(2000, 2)


def numbers(table):
    return np.column_stack([table["size"], [list(TASKS).index(t) for t in table["task"]]]).astype(float)


def p_value(hits: int, new: int, calibrated: int, coverage: Fraction) -> float:
    """Of the number of `new` rows covered after split conformal calibration, which is beta-binomial exactly."""
    m = math.ceil(coverage * (calibrated + 1))
    law = stats.betabinom(new, m, calibrated + 1 - m)
    return 2 * min(law.cdf(hits), law.sf(hits - 1))


def inside(bounds, outputs):
    lower, upper = bounds
    return (outputs >= (1 if lower is None else lower)) & (outputs <= (np.inf if upper is None else upper))


# Coverage -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side", ["both", "lower", "upper"])
@pytest.mark.parametrize("coverage", ["0.5", "0.8", "0.9", "0.95"])
def test_the_coverage_asked_for_is_the_coverage_got(data, coverage, side):
    X, y, new_X, new_y = data
    model = predict.IntervalRegressor(float(coverage), side=side, regressor=boosting()).fit(numbers(X), y)
    hits = int(inside(model.predict_interval(numbers(new_X)), new_y).sum())
    assert p_value(hits, len(new_y), 750, Fraction(coverage)) > 1e-3  # 12 cases, and always the same


@pytest.mark.parametrize("coverage", ["0.5", "0.9"])
def test_every_group_gets_the_coverage(data, coverage):
    X, y, new_X, new_y = data
    features = predict.RequestFeatures(numeric=["size"])  # which do not say what the group is
    model = predict.IntervalRegressor(float(coverage), features=features, regressor=boosting(), group_by="task")
    covered = inside(model.fit(X, y).predict_interval(new_X), new_y)
    marginal = inside(clone(model).set_params(group_by=None).fit(X, y).predict_interval(new_X), new_y)
    gaps = []
    for task in TASKS:
        group, seen = np.array(new_X["task"]) == task, X["task"].count(task)
        assert p_value(int(covered[group].sum()), int(group.sum()), math.ceil(seen / 4), Fraction(coverage)) > 1e-3
        gaps.append(abs(marginal[group].mean() - float(coverage)))
    assert max(gaps) > 0.03  # without groups it does not come by itself


def test_a_group_may_be_a_column_of_an_array_or_of_a_data_frame(data):
    pandas = pytest.importorskip("pandas")
    X, y, *_ = data
    array = numbers(X)
    frame = pandas.DataFrame(array, columns=["size", "task"])
    by_place = predict.IntervalRegressor(0.9, regressor=QUICK, group_by=1).fit(array, y)
    by_name = predict.IntervalRegressor(0.9, regressor=QUICK, group_by="task").fit(frame, y)
    assert by_place.group_corrections_ == by_name.group_corrections_
    assert list(by_place.group_corrections_) == [0.0, 1.0, 2.0]
    assert np.array_equal(by_place.predict_interval(array), by_name.predict_interval(frame))
    with pytest.raises(InputError, match="no column 2 in an array of 2 columns"):
        by_place.set_params(group_by=2).fit(array, y)


def test_a_calibrated_classifier_covers_and_a_plain_one_keeps_buckets(data):
    X, y, new_X, new_y = data
    tree = DecisionTreeClassifier(max_depth=4)
    model = predict.IntervalClassifier(6, probability=0.7, coverage=0.8, classifier=tree).fit(numbers(X), y)
    hits = int(inside(model.predict_interval(numbers(new_X)), new_y).sum())
    assert p_value(hits, len(new_y), 750, Fraction("0.8")) > 1e-3
    plain = predict.IntervalClassifier(width=100, classifier=tree).fit(numbers(X), y)
    lower, upper = plain.predict_interval(numbers(new_X))
    assert ((upper - lower + 1) % 100 == 0).all()
    assert (upper % 100 == 0).all()


@given(st.data())
def test_enough_calibration_rows_lie_inside_after_rounding(data):
    n = data.draw(st.integers(9, 40))
    integers = st.lists(st.integers(1, 30), min_size=n, max_size=n)
    lower, upper, y = (np.array(data.draw(integers), dtype=float) for _ in range(3))
    lower, upper = np.minimum(lower, upper), np.maximum(lower, upper)

    class Fixed(predict.IntervalRegressor):
        def _raw_bounds(self, X):
            rows = X[:, 0].astype(int)
            return lower[rows], upper[rows]

        def _fit_model(self, X, y):
            pass

        def _split(self, groups, coverage):
            return np.arange(n), np.arange(n)

    coverage = data.draw(st.fractions("1/10", "9/10", max_denominator=20))
    rows = np.arange(n, dtype=float)[:, None]
    bounds = Fixed(coverage).fit(rows, y).predict_interval(rows)
    assert inside(bounds, y).sum() >= math.ceil(coverage * (n + 1))
    assert all(bound.dtype == np.int64 and (bound >= 1).all() for bound in bounds)
    assert (bounds[0] <= bounds[1]).all()


def test_the_quantile_is_that_of_crepes_and_mapie():
    crepes = pytest.importorskip("crepes", reason="crepes is only compared with")
    mapie = pytest.importorskip("mapie.regression", reason="MAPIE is only compared with")
    g = np.random.default_rng(3)
    X, y = g.normal(size=(200, 1)), g.normal(size=200)
    line = LinearRegression().fit(X[:100], y[:100])
    residuals, groups = (y - line.predict(X))[100:], np.repeat([0, 1], 50)
    theirs = mapie.SplitConformalRegressor(line, confidence_level=0.75, prefit=True).conformalize(X[100:], y[100:])
    _, bounds = theirs.predict_interval(X[:1])
    half = conformal.quantile(np.abs(residuals), Fraction(3, 4))
    assert (bounds[0, 1, 0] - bounds[0, 0, 0]) / 2 == pytest.approx(half)
    by_group = crepes.ConformalRegressor().fit(residuals, bins=groups)
    bounds = by_group.predict_int(np.zeros(2), bins=np.array([0, 1]), confidence=0.75)
    halves = [conformal.quantile(np.abs(residuals[groups == k]), Fraction(3, 4)) for k in (0, 1)]
    assert bounds[:, 1] == pytest.approx(halves)


# Estimators -----------------------------------------------------------------------------------------------------------

#: Their checks use as few as 10 rows: no coverage above 5/6 can be calibrated on half of them.
SMALL = {"coverage": 0.5, "calibration": 0.5}
LINEAR = QuantileRegressor(alpha=0, solver="highs")
QUICK = HistGradientBoostingRegressor(loss="quantile", max_iter=2)
#: The one check that is not ours to pass: array API dispatch is off unless SCIPY_ARRAY_API is set.
SKIPPED = {"check_array_api_input"}


@pytest.mark.parametrize(
    "estimator",
    [
        predict.IntervalRegressor(**SMALL, regressor=QUICK),
        predict.IntervalRegressor(**SMALL, side="lower", regressor=QUICK),
        predict.IntervalClassifier(3, classifier=DecisionTreeClassifier(max_depth=2)),
        predict.IntervalClassifier(3, probability=0.5, **SMALL, classifier=DecisionTreeClassifier(max_depth=2)),
    ],
    ids=["both", "lower", "bucket", "calibrated"],
)
def test_scikit_learns_own_checks_pass(estimator):
    results = estimator_checks.check_estimator(estimator, on_skip=None, on_fail=None)
    assert {r["check_name"]: r["exception"] for r in results if r["status"] == "failed"} == {}
    assert {r["check_name"] for r in results if r["status"] == "skipped"} <= SKIPPED
    assert len(results) > 40


@pytest.mark.parametrize(
    "check",
    [
        "check_estimator_cloneable",
        "check_estimator_repr",
        "check_get_params_invariance",
        "check_no_attributes_set_in_init",
        "check_parameters_default_constructible",
        "check_set_params",
    ],
)
def test_features_pass_the_checks_that_need_no_array(check):
    """`check_estimator` feeds arrays of numbers; RequestFeatures takes tables with named columns only."""
    getattr(estimator_checks, check)("RequestFeatures", predict.RequestFeatures())


def test_they_fit_into_pipelines_and_cross_validation(data):
    pandas = pytest.importorskip("pandas")
    X, y, *_ = data
    table = pandas.DataFrame(X).head(400)
    features = predict.RequestFeatures(numeric=["size"], categories=["task"])
    model = predict.IntervalRegressor(0.8, features=features, regressor=boosting())
    scores = cross_validate(model, table, y[:400], cv=3, scoring=predict.evaluate)
    assert scores["test_coverage"].mean() == pytest.approx(0.8, abs=0.1)
    piped = make_pipeline(features, predict.IntervalRegressor(0.8, regressor=boosting())).fit(table, y[:400])
    assert np.array_equal(piped.predict(table), model.fit(table, y[:400]).predict(table))
    inner = make_pipeline(features, predict.IntervalRegressor(0.8, regressor=make_pipeline(boosting())))
    assert np.array_equal(inner.fit(table, y[:400]).predict(table), piped.predict(table))


def test_the_same_seed_gives_the_same_bounds_and_another_seed_others(data):
    X, y, new_X, _ = data
    features = predict.RequestFeatures(text="prompt")
    fits = [predict.IntervalRegressor(0.9, features=features, random_state=s, regressor=QUICK) for s in (5, 5, 6)]
    one, two, other = (model.fit(X, y).predict_interval(new_X)[0] for model in fits)
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


def test_a_lower_bound_alone_has_no_upper_one_and_schedules(data):
    X, y, new_X, new_y = data
    model = predict.IntervalRegressor(0.9, side="lower", regressor=boosting()).fit(numbers(X), y)
    assert model.predict_interval(numbers(new_X))[1] is None
    w = ls.Workload(prompt=5, output=new_y[:300]).with_predictions(model, numbers(new_X)[:300])
    assert w.upper is None
    assert w.point is not None
    assert (w.lower > new_y[:300]).any()  # which is no error
    for policy in ("amin", "mcsf"):
        assert ls.simulate(w, policy, memory=5000).completion.min() > 0


def test_the_shortest_run_of_buckets_is_the_shortest():
    g = np.random.default_rng(0)
    model = predict.IntervalClassifier(probability=0.6)
    model.edges_ = np.array([[1, 5], [6, 7], [8, 30], [31, 32], [33, 90]])
    shares = g.dirichlet(np.ones(5), 300)
    first, last = model._run(shares)
    for row, a, b in zip(shares, first, last, strict=True):
        runs = [(i, j) for i in range(5) for j in range(i, 5) if row[i : j + 1].sum() >= 0.6]
        assert model.edges_[b, 1] - model.edges_[a, 0] == min(model.edges_[j, 1] - model.edges_[i, 0] for i, j in runs)
        assert row[a : b + 1].sum() >= 0.6 - 1e-9


def test_one_output_for_all_is_one_bucket():
    model = predict.IntervalClassifier().fit(np.zeros((9, 1)), [7] * 9)
    assert isinstance(model.model_, DummyClassifier)
    assert [bound.tolist() for bound in model.predict_interval([[0.0]])] == [[1], [7]]


# Scores ---------------------------------------------------------------------------------------------------------------


def test_scores_by_hand():
    scores = predict.interval_scores([10, 20, 30, 40], [5, 25, 20, 10], [15, 30, 29, 50], coverage=0.8)
    assert scores["coverage"] == 0.5
    assert scores["below_lower"] == scores["above_upper"] == 0.25
    assert scores["mean_width"] == (10 + 5 + 9 + 40) / 4
    low = (0.1 * 5 + 0.9 * 5 + 0.1 * 10 + 0.1 * 30) / 4
    high = (0.1 * 5 + 0.1 * 10 + 0.9 * 1 + 0.1 * 10) / 4
    assert scores["pinball"] == pytest.approx((low + high) / 2)
    assert scores["kendall_tau"] == pytest.approx(stats.kendalltau([10, 20, 30, 40], [10, 27.5, 24.5, 30]).statistic)
    alone = predict.interval_scores([10, 20], [12, 1], None, coverage=0.9)
    assert alone["coverage"] == 0.5
    assert math.isnan(alone["mean_width"])
    assert math.isnan(alone["above_upper"])
    assert alone["pinball"] == pytest.approx((0.9 * 2 + 0.1 * 19) / 2)
    table = ls.intervals.from_table({"a": (5, 15)})
    assert predict.evaluate(table, ["a", "a"], [10, 20])["coverage"] == 0.5
    with pytest.raises(InputError, match="no prediction"):
        predict.interval_scores([1], None, None)
    with pytest.raises(InputError, match="2 outputs, and upper has 1"):
        predict.interval_scores([1, 2], None, [1])


# Features -------------------------------------------------------------------------------------------------------------


def test_columns_are_sorted_by_what_they_hold_and_any_table_will_do(data):
    X, y, *_ = data
    features = predict.RequestFeatures(text_size=4)
    expected = features.fit(X, y).transform(X)
    assert (features.numeric_, features.categories_, features.text_) == (["size"], ["task"], ["prompt"])
    assert expected.shape == (3000, len(features.get_feature_names_out())) == (3000, 1 + 3 + 2 + 4)
    for library, make in (("pandas", "DataFrame"), ("polars", "DataFrame"), ("pyarrow", "table")):
        table = getattr(pytest.importorskip(library), make)(X)
        assert np.array_equal(clone(features).fit(table, y).transform(table), expected)


def test_what_is_missing_empty_or_was_never_seen_is_no_error(data):
    X, y, *_ = data
    features = predict.RequestFeatures(numeric=["size"], categories=["task"], text=["prompt"])
    model = predict.IntervalRegressor(0.9, features=features, regressor=boosting()).fit(X, y)
    odd = {"size": [None, float("nan"), 3], "task": ["poem", None, "chat"], "prompt": ["", None, "ζ 漢字"]}
    lower, upper = model.predict_interval(odd)
    assert (lower <= upper).all()
    assert predict.RequestFeatures(text="p").fit_transform({"p": ["", "", None]}).tolist() == [[0, 0]] * 3
    grouped = predict.IntervalRegressor(0.9, features=features, regressor=boosting(), group_by="task").fit(X, y)
    unseen = {**odd, "task": ["poem"] * 3}
    found = grouped.predict_interval(unseen)
    grouped.group_corrections_.clear()
    assert np.array_equal(found, grouped.predict_interval(unseen))  # as calibrated on all rows


@pytest.mark.parametrize(
    "name",
    ["output_tokens", "GeneratedTokens", "completionTokens", "response_length", "Answer", "e2e_latency", "total_tokens",
     "ttft", "n_output"],
)  # fmt: skip
def test_a_feature_that_knows_the_answer_is_refused_by_its_name(name):
    with pytest.raises(InputError, match="seems to be known only after the answer"):
        predict.RequestFeatures().fit({"size": [1, 2], name: [3, 4]})
    predict.RequestFeatures(numeric=["size"]).fit({"size": [1, 2], name: [3, 4]})  # not used
    predict.RequestFeatures(allow=[name]).fit({"size": [1, 2], name: [3, 4]})
    pandas = pytest.importorskip("pandas")
    with pytest.raises(InputError, match="seems to be known only after the answer"):
        predict.IntervalRegressor().fit(pandas.DataFrame({"size": [1, 2], name: [3, 4]}), [3, 4])


def test_names_of_what_is_known_beforehand_pass():
    names = [
        "max_output_tokens",
        "previous_answer_tokens",
        "prompt_tokens",
        "model",
        "outputless",
        "total",
        "temperature",
    ]
    refuse_leaks(names)


def test_a_feature_that_equals_the_output_is_refused_whatever_it_is_called():
    with pytest.raises(InputError, match="'n' equals the output in every row"):
        predict.RequestFeatures().fit({"n": [3, 4, 5]}, [3, 4, 5])


def test_a_csv_file_becomes_columns(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b,c\n1,,"x, y"\n2,0.5,\n\n')
    assert predict.read_csv(path) == {"a": [1, 2], "b": [None, 0.5], "c": ["x, y", None]}
    path.write_text('a;b\n1;"x;y"\nNaN;z\n')
    assert predict.read_csv(path) == {"a": [1, None], "b": ["x;y", "z"]}
    for text, message in (("a,a\n", "line 1: expected a header"), ("a,b\n1\n", "line 2: 1 values for 2 columns"),
                          ('a\n"x\n', "not CSV"), ("", "line 1: expected a header")):  # fmt: skip
        path.write_text(text)
        with pytest.raises(TraceError, match=message):
            predict.read_csv(path)


# Bad input ------------------------------------------------------------------------------------------------------------

NAMED = predict.RequestFeatures()
TABLE = {"size": [1, 2, 3, 4], "task": ["a", "b", "a", "b"]}


@pytest.mark.parametrize(
    ("fit", "message"),
    [
        (lambda: predict.IntervalRegressor(0).fit([[1]] * 9, [1] * 9), "coverage must be between 0 and 1"),
        (lambda: predict.IntervalRegressor(1.0).fit([[1]] * 9, [1] * 9), "coverage must be between 0 and 1"),
        (lambda: predict.IntervalRegressor(None).fit([[1]] * 9, [1] * 9), "coverage is None"),
        (lambda: predict.IntervalRegressor(side="top").fit([[1]] * 9, [1] * 9), "side='top' is unknown"),
        (lambda: predict.IntervalRegressor(0.9, regressor=LINEAR).fit([[1]] * 20, [5] * 20), "least 9, and .* are 5"),
        (lambda: predict.IntervalRegressor(calibration=1).fit([[1]] * 9, [1] * 9), "calibration=1 is out of range"),
        (lambda: predict.IntervalRegressor(calibration=0.99).fit([[1]] * 9, [1] * 9), "nothing is left of 9 rows"),
        (lambda: predict.IntervalRegressor().fit([[1]] * 3, [1, 0.5, 2]), "row 1: the output is 0.5"),
        (lambda: predict.IntervalRegressor(features=NAMED).fit(TABLE, [1, None, 2, 3]), "row 1: the output is missing"),
        (lambda: predict.IntervalRegressor().fit([[1]] * 3, [1, math.nan, 2]), "NaN"),
        (lambda: predict.IntervalRegressor(regressor=LinearRegression()).fit([[1]] * 40, [5] * 40), "no parameter 'q"),
        (lambda: predict.IntervalRegressor(features=NAMED).fit(TABLE, [1]), "4 requests and 1 outputs"),
        (lambda: predict.IntervalRegressor(features=NAMED).fit([[1]] * 40, [5] * 40), "expected a table"),
        (lambda: predict.IntervalRegressor().fit(TABLE, [1] * 4), "a dict of columns needs features=RequestFeatures"),
        (lambda: predict.IntervalClassifier(0).fit([[1]] * 3, [1] * 3), "buckets must be a whole number from 1"),
        (lambda: predict.IntervalClassifier(width=0).fit([[1]] * 3, [1] * 3), "width must be a whole number from 1"),
        (lambda: predict.IntervalClassifier(probability=2).fit([[1]] * 3, [1] * 3), "probability=2 is out of range"),
        (lambda: predict.RequestFeatures(numeric=["siez"]).fit(TABLE), "no column 'siez' among the features"),
        (lambda: predict.RequestFeatures(numeric=["task"]).fit(TABLE), "row 0: task is 'a', expected a number"),
        (lambda: predict.RequestFeatures(numeric=["x"]).fit({"x": [1, math.inf]}), "row 1: x is inf"),
        (lambda: predict.RequestFeatures(text=["size"]).fit(TABLE), "row 0: size is 1, expected text"),
        (lambda: predict.RequestFeatures().fit({"a": [1], "b": [1, 2]}), "column 'b' has 2 rows, 'a' has 1"),
        (lambda: predict.RequestFeatures().fit({}), "has no columns"),
        (lambda: predict.RequestFeatures().fit({"a": []}), "has no rows"),
        (lambda: predict.RequestFeatures([], [], []).fit(TABLE), "there are no features"),
        (lambda: predict.RequestFeatures().fit(TABLE).transform({"size": [1]}), "no column 'task'"),
    ],
)  # fmt: skip
def test_what_cannot_be_used_is_refused(fit, message):
    with pytest.raises(ValueError, match=message):
        fit()


def test_too_few_rows_of_a_group_are_named_with_how_many_are_needed():
    X = {"size": list(range(60)), "model": ["large"] * 52 + ["small"] * 8}
    features = predict.RequestFeatures(numeric=["size"])
    model = predict.IntervalRegressor(0.9, features=features, regressor=LINEAR, group_by="model", calibration=0.5)
    with pytest.raises(InputError, match=r"group 'small': a coverage of 0.9 needs .* at least 9, and there are 4"):
        model.fit(X, range(1, 61))
    with pytest.raises(InputError, match="no column 'modle'"):
        model.set_params(group_by="modle").fit(X, range(1, 61))


def test_without_scikit_learn_the_error_names_the_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.delitem(vars(predict), "IntervalRegressor", raising=False)
    with pytest.raises(MissingExtraError, match=r"pip install 'llmsched\[predict\]'"):
        _ = predict.IntervalRegressor


# Files ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fitted(data):
    X, y, *_ = data
    features = predict.RequestFeatures(text_size=4)
    return predict.IntervalRegressor(0.9, features=features, regressor=boosting(), group_by="task").fit(X, y)


@pytest.fixture
def saved(fitted, tmp_path):
    path = tmp_path / "model.llmsched"
    predict.save(fitted, path)
    return fitted, path


def test_a_saved_predictor_says_the_same_again(data, saved):
    model, path = saved
    again = predict.load(path)
    for mine, theirs in zip(model.predict_interval(data[2]), again.predict_interval(data[2]), strict=True):
        assert np.array_equal(mine, theirs)
    assert np.array_equal(model.predict(data[2]), again.predict(data[2]))
    assert str(again.get_params()) == str(model.get_params())


def test_a_saved_classifier_says_the_same_again(data, tmp_path):
    model = predict.IntervalClassifier(3, probability=0.8).fit(numbers(data[0])[:200], data[1][:200])
    predict.save(model, tmp_path / "m")
    new = numbers(data[2])
    assert np.array_equal(predict.load(tmp_path / "m").predict_interval(new), model.predict_interval(new))


def rewritten(path, **changes):
    """The same file with another note."""
    with zipfile.ZipFile(path) as old:
        content = {name: old.read(name) for name in old.namelist()}
    content["llmsched.json"] = json.dumps({**json.loads(content["llmsched.json"]), **changes}).encode()
    with zipfile.ZipFile(path, "w") as new:
        for name, value in content.items():
            new.writestr(name, value)


def test_a_file_of_another_version_is_refused(saved):
    _, path = saved
    rewritten(path, **{"scikit-learn": "0.24"})
    with pytest.raises(InputError, match=r"written with scikit-learn 0.24, .*install 'scikit-learn~=0.24.0'"):
        predict.load(path)
    rewritten(path, **{"llmsched predictor": 99})
    with pytest.raises(InputError, match=r"format 99 of llmsched .* reads format 1"):
        predict.load(path)


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04broken", b"\x80\x04\x95pickle"])
def test_a_file_that_is_no_predictor_is_refused(tmp_path, content):
    (tmp_path / "f").write_bytes(content)
    with pytest.raises(InputError, match=r"f: not a predictor that llmsched\.predict\.save wrote"):
        predict.load(tmp_path / "f")


def test_a_damaged_file_is_refused(saved):
    _, path = saved
    with zipfile.ZipFile(path) as old:
        note = old.read("llmsched.json")
    with zipfile.ZipFile(path, "w") as new:
        new.writestr("llmsched.json", note)
        new.writestr("schema.json", "{}")
    with pytest.raises(InputError, match="damaged"):
        predict.load(path)


class Strange(QuantileRegressor):
    """A regressor that nobody has vouched for."""


def test_strange_types_are_named_and_made_only_if_trusted(data, tmp_path):
    model = predict.IntervalRegressor(0.9, regressor=Strange(alpha=0)).fit(numbers(data[0])[:200], data[1][:200])
    predict.save(model, tmp_path / "m")
    name = f"{Strange.__module__}.Strange"
    with pytest.raises(InputError, match=rf"not trusted: {name}"):
        predict.load(tmp_path / "m")
    assert isinstance(predict.load(tmp_path / "m", trusted=[name]).median_, Strange)


def test_only_fitted_predictors_can_be_saved(tmp_path):
    with pytest.raises(InputError, match=r"expected a predictor of llmsched\.predict, not LinearRegression"):
        predict.save(LinearRegression(), tmp_path / "m")
    with pytest.raises(ValueError, match="not fitted"):
        predict.save(predict.IntervalRegressor(), tmp_path / "m")


LAZY = """
import sys, types
asked = []


class Lazy(types.ModuleType):
    def __getattr__(self, name):
        asked.append(name)
        raise AttributeError(name)


sys.modules["transformers"] = lazy = Lazy("transformers")
from llmsched import predict
predict.load
print([name for name in asked if not name.startswith("__")], sys.modules["transformers"] is lazy)
"""


def test_where_transformers_is_loaded_it_is_not_asked_for_every_name():
    """It would import all of itself, inside vLLM for half a minute."""
    done = subprocess.run([sys.executable, "-c", LAZY], capture_output=True, text=True, check=True)
    assert done.stdout == "[] True\n"
