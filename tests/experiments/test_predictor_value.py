"""What a predictor is worth: the study, its break-even points, and the command."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import math
import runpy

import numpy as np
import pytest
from helpers import ROOT
from helpers.figure_texts import unreadable

import llmsched as ls
from llmsched.errors import InputError, MemoryTooSmallError, TraceError
from llmsched.experiments import real_predictors
from llmsched.experiments.predictor_value import BIAS_AT, BIASES, COVERAGES, WIDTHS, PredictorValue, Row
from llmsched.metrics.figure_style import figure_of
from llmsched.predict import intervals
from llmsched.predict.intervals import with_midpoints

SMALL = {"requests": 60, "replications": 3, "memory": 2000, "coverages": (0.5, 1), "widths": ("0.2", 2)}


@pytest.fixture(scope="module")
def study():
    return ls.predictor_value(**SMALL, biases=(-0.5, 0, 2))


def row(policy, coverage, width, vs_none):
    nan = math.nan
    return Row("noisy", coverage, width, 0.0, nan, nan, policy, 5, 1.0, nan, 1.0, nan, vs_none, 0.1, nan, nan, nan)


def made_up(ratios):
    """A study of one policy, one coverage and widths 1, 2, ... with these ratios to no predictor."""
    grid = [row("amin", 0.9, float(k), ratio) for k, ratio in enumerate(ratios, 1)]
    return PredictorValue(grid, [], [], [], ["amin"], 10, 5, 100, 0)


def test_a_row_is_what_a_simulation_of_its_own_gives(study):
    """Everything again with `simulate`, one at a time."""
    seeds = [int(np.random.SeedSequence(0, spawn_key=(k,)).generate_state(1, np.uint64)[0]) for k in range(3)]
    ratios = {"vs_perfect": [], "vs_none": [], "vs_fcfs": [], "covered": [], "gap": []}
    for seed in seeds:
        w = ls.generate.lmsys(60, seed)
        predicted = with_midpoints(w.with_intervals(intervals.noisy("0.5", 2, seed)))
        blind = with_midpoints(w.with_intervals(intervals.constant(1, int(w.output.max()))))
        own = ls.simulate(predicted, "mcsf", memory=2000, seed=seed).mean_latency
        for name, version, policy in (("perfect", w, "hsf"), ("none", blind, "mcsf"), ("fcfs", w, "fcfs")):
            ratios[f"vs_{name}"].append(own / ls.simulate(version, policy, memory=2000, seed=seed).mean_latency)
        bound = ls.lower_bound(w, memory=2000, iterations=0)
        assert bound.gap(own * 60) > bound.gap(bound.value) == 0
        ratios["gap"].append(bound.gap(own * 60))
        ratios["covered"].append(((predicted.lower <= w.output) & (w.output <= predicted.upper)).mean())
    (found,) = (r for r in study.grid if (r.policy, r.coverage, r.width) == ("mcsf", 0.5, 2))
    for name, values in ratios.items():
        assert getattr(found, name) == pytest.approx(np.mean(values))
    half = 4.302652729911275 * np.std(ratios["vs_none"], ddof=1) / math.sqrt(3)  # Student's t, 2 degrees of freedom
    assert found.vs_none_ci95 == pytest.approx(half)


def test_the_rows_are_all_that_was_asked_for(study):
    assert len(study.grid) == 2 * 2 * 3
    assert len(study.biased) == 3 * 3
    assert {(r.coverage, r.width) for r in study.biased} == {tuple(map(float, BIAS_AT))}
    assert {(r.predictor, r.policy) for r in study.references} == {
        ("perfect", "hsf"), ("none", "amin"), ("none", "amax"), ("none", "mcsf"), ("none", "fcfs"),
    }  # fmt: skip
    assert study.table("amin", "vs_perfect").shape == (2, 2)
    assert [axis.tolist() for axis in study.axes()] == [[0.5, 1.0], [0.2, 2.0]]
    assert len(study.rows()) == 12 + 9 + 5
    json.dumps([r.record() for r in study.rows()], allow_nan=False)
    assert (len(COVERAGES), len(WIDTHS), len(BIASES)) == (20, 20, 20)


def test_it_depends_on_the_seed_and_not_on_threads(study):
    again = ls.predictor_value(**SMALL, biases=(-0.5, 0, 2), threads=1)
    assert [r.record() for r in again.rows()] == [r.record() for r in study.rows()]
    other = ls.predictor_value(**SMALL, biases=(), seed=1)
    assert other.grid[0].mean_latency != study.grid[0].mean_latency


def test_perfect_intervals_are_worth_as_much_as_perfect_knowledge():
    exact = ls.predictor_value(**{**SMALL, "coverages": [1], "widths": [0]}, policies=["amax", "mcsf"], biases=())
    assert [r.vs_perfect for r in exact.grid] == [pytest.approx(1)] * 2
    assert [r.mean_width for r in exact.grid] == [0, 0]


@pytest.mark.parametrize(
    ("ratios", "width", "sure"),
    [
        ([0.5, 0.7, 0.8], math.inf, math.inf),
        ([0.5, 0.7, 0.95], math.inf, 2 + 0.2 / 0.25),
        ([0.5, 0.75, 1.25], 2.5, 2.3),
        ([0.8, 1.2, 0.8], 1.5, 1.25),  # up to the first width that does not pay
        ([1.1, 0.5, 0.5], 0.0, 0.0),
        ([0.8, math.nan, 0.8], 1.0, 1.0),
    ],
)
def test_break_even_is_interpolated_between_the_widths(ratios, width, sure):
    (point,) = made_up(ratios).break_even("amin")
    assert point.coverage == 0.9
    assert point.width == pytest.approx(width)
    assert point.sure == pytest.approx(sure)


def test_the_range_of_biases_that_pay():
    biased = [Row("noisy", 0.9, 0.5, b, *[math.nan] * 2, "amin", 5, *[math.nan] * 4, v, 0.0, *[math.nan] * 3)
              for b, v in ((-1, 1.5), (0, 0.5), (1, 0.75), (3, 1.25))]  # fmt: skip
    study = PredictorValue([], biased, [], [], ["amin"], 10, 5, 100, 0)
    assert study.bias_range("amin") == (pytest.approx(-0.5), pytest.approx(2))
    assert all(map(math.isnan, study.bias_range("amin", "fcfs")))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"replications": 1}, "replications must be a whole number from 2"),
        ({"requests": 0}, "requests must be a whole number from 1"),
        ({"policies": []}, "at least one policy"),
        ({"coverages": [2]}, "coverage must be from 0 to 1"),
        ({"biases": [-2]}, "bias must be from -1"),
        ({"policies": ["amn"]}, "did you mean 'amin'"),
        ({"policies": ["amin", "fcfs"]}, "policy fcfs reads no interval"),
        ({"policies": ["hsf"]}, "policy hsf reads no interval"),
        ({"policies": ["conditional"]}, "policy conditional reads no interval"),
        ({"workload": ls.Workload([], [])}, "nothing to draw from: no requests"),
        ({"predicted": {"none": None}}, "cannot be called 'none'"),
    ],
)
def test_impossible_studies_are_refused(arguments, message):
    with pytest.raises(InputError, match=message):
        ls.predictor_value(**arguments)
    study = made_up([0.5])
    with pytest.raises(InputError, match="no policy 'amax'"):
        study.break_even("amax")
    with pytest.raises(InputError, match="against='hsf' is unknown"):
        study.break_even("amin", "hsf")


def test_a_policy_that_does_not_finish_has_rows_without_numbers():
    pytest.importorskip("matplotlib")
    from llmsched.experiments import predictor_figures

    endless = ls.Policy(reserve="none", evict="all", refine="none")
    study = ls.predictor_value(**{**SMALL, "memory": 900}, policies=["amin", endless], biases=(0, 1))
    never = [r for r in study.grid if r.policy == endless.name]
    assert [r.replications for r in never] == [0] * 4
    assert np.isnan(study.table(endless.name, "vs_none")).all()
    assert [(p.width, p.sure) for p in study.break_even(endless.name)] == [(0, 0)] * 2
    assert np.isfinite(study.table("amin", "vs_none")).all()
    json.dumps([r.record() for r in study.rows()], allow_nan=False)
    figure_of(predictor_figures.heatmap(study)).draw_without_rendering()
    figure_of(predictor_figures.latency_curves(study)).draw_without_rendering()


def test_a_request_that_never_fits_is_named_before_the_first_simulation():
    with pytest.raises(MemoryTooSmallError, match="request 1"):
        ls.predictor_value(ls.Workload(1, [5, 500]), memory=100)


# Real predictors ------------------------------------------------------------------------------------------------------


@pytest.fixture
def classes_file(tmp_path):
    path = tmp_path / "classes.csv"
    outputs = np.random.default_rng(0).integers(1, 300, 400)
    lines = [f"{o},{o // 100},{7 if k == 399 else 0}" for k, o in enumerate(outputs)]
    path.write_text("\n".join(["output_tokens,good,useless", *lines]) + "\n")
    return path


def test_classes_are_calibrated_on_the_first_half_and_schedule_the_second(classes_file):
    found = real_predictors.from_classes(classes_file, ls.Workload([5, 9], [1, 1]), 0.9, seed=0)
    assert list(found) == ["good", "good, lower bound", "useless", "useless, lower bound"]
    assert {len(w) for w in found.values()} == {200}
    good = found["good"]
    assert set(good.prompt.tolist()) == {5, 9}
    assert np.mean((good.lower <= good.output) & (good.output <= good.upper)) > 0.85
    assert (good.upper - good.lower).max() < 100
    assert found["good, lower bound"].upper is None


def test_without_upper_bounds_policies_that_need_them_are_left_out(classes_file):
    predicted = real_predictors.from_classes(classes_file, ls.Workload(5, [1, 1]), 0.9, seed=0)
    study = ls.predictor_value(**SMALL, biases=(), predicted=predicted)
    by = {(r.predictor, r.policy): r for r in study.real}
    assert set(by) == {
        (name, p) for name in predicted for p in ("amin", "amax", "mcsf") if p == "amin" or "lower" not in name
    }
    assert by["good", "amax"].vs_none < by["useless", "amax"].vs_none
    assert by["good", "amin"].none_vs_perfect == by["useless", "amin"].none_vs_perfect  # the same draws


def test_features_train_predictors(tmp_path):
    path = tmp_path / "features.csv"
    g = np.random.default_rng(1)
    sizes = g.integers(1, 200, 300)
    outputs = sizes + g.integers(1, 20, 300)
    tasks = ["summarise this text please", "write a poem about tea"]
    lines = [f"{s},{o},{tasks[s % 2]},{k}" for k, (s, o) in enumerate(zip(sizes, outputs, strict=True))]
    path.write_text("\n".join(["prompt_tokens,output_tokens,prompt,arrival_s", *lines]))
    found = real_predictors.from_features(path, ls.Workload(1, [1]), 0.8, seed=3)
    assert list(found) == [
        "quantile regression", "lower bound alone", "bucket classifier, not calibrated", "calibrated classifier",
    ]  # fmt: skip
    w = found["quantile regression"]
    assert w.prompt.tolist() == sizes[150:].tolist()
    assert np.corrcoef(w.point, w.output)[0, 1] > 0.8
    assert found["lower bound alone"].upper is None


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("a,b\n1,2\n", TraceError, "line 1: there is no column 'output_tokens'; there are a, b"),
        ("output_tokens\n1\n2\n", TraceError, "no column of classes"),
        ("output_tokens,c\n1,0\n", TraceError, "1 rows are too few"),
        ("output_tokens,c\n1,0\n0,0\n", TraceError, "request 0: output is 0"),
        ("output_tokens,c\n1,0\n1,0\n", InputError, "column 'c': class 0: .* at least 9, and there is 1"),
    ],
)
def test_files_that_cannot_be_used_are_refused(tmp_path, text, error, message):
    (tmp_path / "f.csv").write_text(text)
    with pytest.raises(error, match=message):
        real_predictors.from_classes(tmp_path / "f.csv", ls.Workload(1, [1]), 0.9, 0)


@pytest.mark.parametrize(
    ("value", "what"),
    [(lambda k: f"{k / 64}", "looks like a number and not a class: 40 different"),
     (lambda k: f"story {k}", "looks like text and not a class: 40 different"),
     (lambda k: f"{k}", "class 1: .* at least 9, and there is 1"),  # whole numbers may be classes
     (lambda k: f"{k % 4 / 4}", "class 0.0: .* at least 9, and there are 5")],
)  # fmt: skip
def test_a_column_that_is_no_class_is_told_as_that(tmp_path, value, what):
    rows = "".join(f"{k % 7 + 1},{value(k % 40)}\n" for k in range(1, 41))
    (tmp_path / "f.csv").write_text(f"output_tokens,temperature\n{rows}")
    with pytest.raises(InputError, match=f"column 'temperature'.{{,6}}{what}"):
        real_predictors.from_classes(tmp_path / "f.csv", ls.Workload(1, [1]), 0.9, 0)


def test_wide_intervals_stay_inside_the_figure_and_ticks_apart():
    pytest.importorskip("matplotlib")
    from llmsched.experiments import predictor_figures

    nan = math.nan
    found = [Row(name, nan, nan, nan, nan, nan, "amin", 2, 1.0, nan, ratio, half, 1.0, nan, 1.2, nan, nan)
             for name, ratio, half in (("good", 1.5, 1.34), ("bad", 10.2, 22.1))]  # fmt: skip
    found = [dataclasses.replace(r, none_vs_perfect=1.2) for r in found]
    axes = predictor_figures.real_predictors(PredictorValue([], [], found, [], ["amin"], 10, 2, 100, 0))
    figure_of(axes).draw_without_rendering()
    low, high = axes.get_xlim()
    assert 0.8 < low < 1
    assert high > 10.2 + 22.1
    (bars,) = (c for c in axes.containers)
    assert min(point[0] for segment in bars[2][0].get_segments() for point in segment) == pytest.approx(low)
    boxes = [tick.label1.get_window_extent() for tick in axes.xaxis.get_major_ticks()]
    assert len(boxes) > 3
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


def test_the_example_that_asks_again_runs(data_file, monkeypatch, capsys):
    example = runpy.run_path(str(ROOT / "examples" / "asked_again.py"))
    monkeypatch.setitem(example["main"].__globals__, "REPLICATIONS", 2)
    monkeypatch.setitem(example["main"].__globals__, "REQUESTS", 50)
    example["main"](str(data_file("lmsys_predicted_classes.csv")))
    assert [line.split(": ")[0] for line in capsys.readouterr().out.splitlines()] == ["class_of_5"] * 3 + [
        "class_of_2"
    ] * 3


# The command ----------------------------------------------------------------------------------------------------------


def run(*arguments):
    testing = pytest.importorskip("typer.testing")
    pytest.importorskip("matplotlib")
    from llmsched.cli.main import app

    return testing.CliRunner().invoke(app, ["predictors", *map(str, arguments)], catch_exceptions=True)


QUICK = ("--requests", 40, "--replications", 2, "--policy", "amin", "--policy", "amax")


def test_the_command_prints_tables_and_writes_figures_and_numbers(tmp_path, classes_file):
    result = run(*QUICK, "--out", tmp_path / "o", "--classes", classes_file)
    assert result.exit_code == 0, result.output
    for words in ("2 replications of 40 requests", "useless, lower bound", "fcfs reads no prediction", "A bias of"):
        assert words in result.stdout
    assert max(map(len, result.stdout.splitlines()[:-1])) <= 120
    written = sorted(path.name for path in (tmp_path / "o").iterdir())
    assert written == sorted(
        [f"{n}.{e}" for n in ("curves", "heatmap", "real") for e in ("png", "svg")] + ["worth.csv"]
    )
    with open(tmp_path / "o" / "worth.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == (20 * 20 + 20) * 2 + 2 + 2 + 6
    assert list(rows[0]) == [f.name for f in Row.__dataclass_fields__.values()]


def test_the_command_speaks_json(tmp_path):
    result = run(*QUICK, "--json", "--out", tmp_path / "o", "--generate", "uniform:5,50")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert len(told["break_even"]) == 2 * 2 * 20
    assert told["source"]["generator"] == "uniform"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--coverage", 1.5], "coverage must be between 0 and 1"),
        (["--policy", "amn"], "did you mean 'amin'"),
        (["--classes", "absent.csv"], "absent.csv"),
        (["--memory", 10], "needs prompt"),
    ],
)
def test_the_command_refuses_what_cannot_be(tmp_path, arguments, message, capsys):
    pytest.importorskip("typer")
    from llmsched.cli.main import main

    assert (
        main(["predictors", "--out", str(tmp_path / "o"), "--generate", "two_point:5,50,0.5", *map(str, arguments)])
        == 2
    )
    told = capsys.readouterr()
    assert message in told.err
    assert "Traceback" not in told.err


@pytest.fixture
def features_file(tmp_path):
    path = tmp_path / "features.csv"
    g = np.random.default_rng(1)
    path.write_text("prompt_tokens,output_tokens\n" + "".join(f"{s},{s + 5}\n" for s in g.integers(1, 200, 300)))
    return path


def test_the_grid_is_of_the_lengths_in_the_file_of_features(tmp_path, features_file):
    def source(*arguments):
        result = run(*QUICK, "--json", "--out", tmp_path / "o", "--features", features_file, *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)["source"]

    assert source()["path"] == str(features_file)
    assert source("--generate", "lmsys") == {"generator": "lmsys"}
    features_file.write_text(features_file.read_text().replace("prompt_tokens", "size"))
    assert source() == {"generator": "lmsys"}


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path):
    taken = tmp_path / "ex4.csv"
    taken.write_text("")
    result = run(*QUICK, "--out", taken)
    assert isinstance(result.exception, InputError)
    assert "ex4.csv': there is a file of that name" in str(result.exception)
    deeper = run(*QUICK, "--out", taken / "o")
    assert "Not a directory" in str(deeper.exception)


def test_the_worth_in_seconds_and_requests_is_what_simulations_say():
    w = ls.generate.lmsys(200, 5)
    told = w.with_intervals(intervals.noisy("0.9", "0.3", 1))
    how = {"memory": 3000, "clock": "llama2-70b-2xa100"}
    few = {"requests": 60, "replications": 2, "coverages": (1,), "widths": (1,), "biases": (), "policies": ["amin"]}
    found = ls.predictor_value(w, rate=3, predicted={"real": told}, **few, **how)
    (row,) = found.real
    seeds = [int(np.random.SeedSequence(0, spawn_key=(k,)).generate_state(1, np.uint64)[0]) for k in range(2)]

    def mean(rate, blind):
        latencies = []
        for seed in seeds:
            drawn = ls.generate.poisson(ls.generate.resample(told, 60, seed), rate, seed)
            known = drawn.with_intervals(intervals.constant(1, int(drawn.output.max()))) if blind else drawn
            latencies.append(ls.simulate(known, "amin", seed=seed, **how).mean_latency)
        return np.mean(latencies)

    assert row.saved == pytest.approx(mean(3, blind=True) - mean(3, blind=False))
    assert row.mean_latency == pytest.approx(mean(3, blind=False))
    assert math.isfinite(row.rate)
    assert mean(row.rate, blind=False) <= mean(3, blind=True) < mean(row.rate * 1.02, blind=False)
    assert all(math.isnan(other.rate) for other in (*found.grid, *found.references))


def test_the_command_says_the_worth_on_a_machine(tmp_path):
    args = [*QUICK, "--machine", "llama2-70b-2xa100", "--rate", 2, "--out", tmp_path / "o"]
    result = run(*args)
    assert result.exit_code == 0, result.output
    assert "machine llama2-70b-2xa100" in result.stdout
    assert "KV cache 16,492 tokens" in result.stdout
    assert "Poisson arrivals, 2 per second" in result.stdout
    for words in ("realistic errors", "Mean latency that they save, in seconds", "requests/s"):
        assert words in result.stdout


def test_features_come_from_any_trace(tmp_path):
    azure = tmp_path / "azure.csv"
    rows = "".join(f"2023-11-16 18:15:{k:02d}.0000000,{k + 3},{k + 1}\n" for k in range(40))
    azure.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + rows)
    table = real_predictors.read_table(azure)
    assert table["prompt_tokens"] == [k + 3 for k in range(40)]
    assert table["output_tokens"] == [k + 1 for k in range(40)]
    pytest.importorskip("pyarrow")
    from pyarrow import parquet
    from pyarrow import table as arrow

    parquet.write_table(arrow({"output_tokens": [1, 2], "topic": ["a", "b"]}), tmp_path / "t.parquet")
    assert real_predictors.read_table(tmp_path / "t.parquet") == {"output_tokens": [1, 2], "topic": ["a", "b"]}


def test_features_may_have_the_names_of_others_and_keep_the_rest(tmp_path):
    file = tmp_path / "t.csv"
    file.write_text("timestamp;input_len;completion_tokens;task\n" + "2026-11-03T09:00:00;3;4;a\n" * 2)
    table = real_predictors.read_table(file)
    assert (table["prompt_tokens"], table["output_tokens"], table["task"]) == ([3, 3], [4, 4], ["a", "a"])
    file.write_text("time,timestamp,completion_tokens\n1,1,1\n")
    with pytest.raises(TraceError, match="'time' and 'timestamp' could both be arrival_s"):
        real_predictors.read_table(file)


def test_what_is_off_the_scale_of_the_curves_is_told_in_the_legend(study):
    pytest.importorskip("matplotlib")
    from llmsched.experiments import predictor_figures

    far = [dataclasses.replace(r, vs_perfect=99.0) if r.predictor == "none" else r for r in study.references]
    figure = figure_of(predictor_figures.latency_curves(dataclasses.replace(study, references=far)))
    assert unreadable(figure) == []
    (legend,) = figure.legends
    assert "amin, no predictor: 99, off the scale" in [text.get_text() for text in legend.get_texts()]
