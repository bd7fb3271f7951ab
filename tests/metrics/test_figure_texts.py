"""In no figure do two texts overlap, and the edge cuts none off (verification and studies: where those are tested)."""

from __future__ import annotations

import math

import numpy as np
import pytest
from helpers.figure_texts import unreadable

import llmsched as ls
from llmsched.experiments import paper, paper_figure, theory_tables
from llmsched.metrics import capacity, figure_style, figures, knowledge, load_figures
from llmsched.metrics.figure_style import figure_of
from llmsched.predict.intervals import with_midpoints

pytest.importorskip("matplotlib", reason="figures need matplotlib (extra plot)")

MACHINE = ls.machines["llama2-70b-2xa100"]
SLO = {"ttft": 1.0, "tpot": 0.1}


def served(n: int, rate: float | None = None) -> ls.Workload:
    requests = ls.generate.lmsys(n, seed=1).with_intervals(ls.intervals.buckets(100))
    requests = with_midpoints(requests).with_lengths(ls.LengthTable.from_outputs(requests.output))
    return requests if rate is None else ls.generate.poisson(requests, rate)


@pytest.mark.parametrize("n", [1, 200])
@pytest.mark.parametrize("memory", [1500, 200_000])
def test_the_comparison_of_all_policies(n: int, memory: int) -> None:
    assert (
        unreadable(figures.comparison(ls.compare(served(n), list(ls.policies), memory=memory, max_rounds=9000))) == []
    )


def test_the_comparison_with_targets() -> None:
    compared = ls.compare(served(200, 3.0), ["hsf", "amin", "vllm"], **MACHINE.options(), record="tokens")
    figure = figure_of(figures.comparison(compared, intervals="buckets:100", slo=SLO))
    assert unreadable(figure) == []
    title = figure.get_suptitle()
    for said in ("200 requests", "lmsys generator", "llama2-70b-2xa100", "16,492", "buckets:100", "seed 0"):
        assert said in title
    bars, _, goodput, first = figure.axes
    assert "goodput" in goodput.get_title(loc="left")
    assert "first token" in first.get_xlabel()
    for row, patch in zip(compared.ranked(), goodput.patches, strict=True):
        assert row.result is not None
        assert patch.get_width() == pytest.approx(100 * ls.service.metrics(row.result, SLO).goodput)
    assert len(bars.patches) == 3


def test_the_comparison_by_what_policies_are_told() -> None:
    requests, chosen = served(200), {name: ls.policies[name] for name in ("amin", "mcsf", "fcfs")}
    compared = ls.compare(requests, chosen, memory=2000)
    told = knowledge.levels(requests, chosen, known=compared, memory=2000)
    figure = figure_of(figures.comparison(compared, levels=told))
    assert unreadable(figure) == []
    for axes, column in zip(figure.axes[-2:], ("mean_latency", "p99_latency"), strict=True):
        assert [label.get_text() for label in axes.get_xticklabels()] == [level.words for level in told]
        drawn = {tuple(line.get_ydata()) for line in axes.get_lines()}
        rows = [{row.policy: row.record()[column] for row in level.rows} for level in told]
        assert drawn == {tuple(values[name] for values in rows) for name in chosen}


def test_what_hardly_differs_looks_like_that() -> None:
    requests, chosen = served(30), {name: ls.policies[name] for name in ("amin", "fcfs")}
    compared = ls.compare(requests, chosen, memory=200_000)
    told = knowledge.levels(requests, chosen, known=compared, memory=200_000)
    figure = figure_of(figures.comparison(compared, levels=told))
    assert unreadable(figure) == []
    for axes in figure.axes[-2:]:
        low, high = axes.get_ylim()
        assert high / low == pytest.approx(1.21)
        assert all(low < value < high for line in axes.get_lines() for value in line.get_ydata())


@pytest.mark.parametrize("scale", [1, 100, 40_000])
def test_distributions_of_any_size(scale: int) -> None:
    """Latencies of tens of thousands gave 20,00040,00060,000."""
    spread = ls.Workload(1, [scale * k for k in range(1, 60)]).with_intervals(ls.intervals.exact())
    assert unreadable(figures.comparison(ls.compare(spread, ["hsf", "amin"], memory=200 * scale))) == []


@pytest.mark.parametrize("n", [1, 30, 900])
def test_the_timeline(n: int) -> None:
    for options in ({"memory": 2000}, MACHINE.options()):
        run = ls.simulate(served(n, 4.0), "amin", **options, record=("tokens", "timeline"))
        assert unreadable(figures.timeline(run, intervals="buckets:100")) == []


def test_the_timeline_of_a_long_run_labels_its_bands() -> None:
    run = ls.simulate(served(1500, 0.2), "fcfs", memory=2000, record="timeline")
    figure = figure_of(figures.timeline(run))
    assert "shaded" in figure.axes[0].get_title(loc="left")
    assert unreadable(figure) == []


def test_the_tradeoff() -> None:
    runs = {
        name: [ls.simulate(served(80, 3.0), name, **MACHINE.replace(max_batch=cap).options(), record="tokens")
               for cap in (2, 8, 32)]
        for name in ("amin", "vllm")
    }  # fmt: skip
    figure = figure_of(figures.tradeoff(runs, "example-2xa100", intervals="buckets:100"))
    assert unreadable(figure) == []
    for said in ("80 requests", "lmsys generator", MACHINE.name, "16,492", "buckets:100", "example-2xa100", "one run"):
        assert said in figure.get_suptitle()


def test_the_paper_and_the_theory() -> None:
    figure = figure_of(paper_figure.paper(paper.reproduce(subsets=2, sizes=[200, 2000], memory=20_000)))
    assert unreadable(figure) == []
    for said in ("2 random subsets", "200 to 2,000 requests", "lmsys generator", "20,000 tokens of KV cache", "seed 0"):
        assert said in figure.get_suptitle()
    legend = next(axes.get_legend() for axes in figure.axes if axes.get_legend())
    assert any("95 %" in text.get_text() for text in legend.get_texts())
    theory = figure_of(theory_tables.figure())
    assert unreadable(theory) == []
    assert "closed forms" in theory.get_suptitle()


def test_the_paper_on_a_trace_and_a_machine() -> None:
    rows = paper.reproduce(served(300), subsets=2, sizes=[20, 100], memory=20_000, clock=MACHINE.clock, seed=3)
    figure = figure_of(paper_figure.paper(rows, workload=served(300), clock=MACHINE.clock, seed=3))
    assert unreadable(figure) == []
    for said in ("300 requests of", MACHINE.name, "seed 3"):
        assert said in figure.get_suptitle()


def test_the_figures_of_predictors() -> None:
    from llmsched.experiments import predictor_figures
    from llmsched.experiments.predictor_value import predictor_value

    pool = served(300)
    real = {"a real one": pool}
    options = {**MACHINE.options(), "max_batch": 64, "rate": 3.0}
    for ran_on in ({"memory": 2000}, options):
        study = predictor_value(pool, requests=60, replications=2, predicted=real, **ran_on)
        for draw in (predictor_figures.heatmap, predictor_figures.latency_curves, predictor_figures.real_predictors):
            figure = figure_of(draw(study))
            assert unreadable(figure) == []
            said = figure.get_suptitle().replace("\n", " ").replace("\u00a0", " ")
            assert "2 replications of 60 requests from the lmsys generator" in said
            assert ("Poisson arrivals, 3 per second" in said) == ("rate" in ran_on)
            assert ("at most 64 at once" in said) == (MACHINE.name in said) == ("rate" in ran_on)
            assert "intervals from the truth with noise" in said or draw is predictor_figures.real_predictors
            assert ("95 %" in said) == (draw is not predictor_figures.heatmap)


@pytest.fixture(scope="module")
def swept() -> ls.Sweep:
    return ls.sweep(
        served(300), ["fcfs", "amin", "hsf"], rates=[0.5, 2, 4, 40], slo=SLO, requests=200, replications=3,
        **MACHINE.options(),
    )  # fmt: skip


def test_the_sweep(swept: ls.Sweep) -> None:
    figure = figure_of(load_figures.sweep(swept, intervals="buckets:100", capacities={"amin": 3.0}, attainment=0.9))
    assert unreadable(figure) == []
    assert len(figure.axes) == 3
    assert "Poisson" in figure.get_suptitle()
    (legend,) = figure.legends
    assert any("95 %" in text.get_text() for text in legend.get_texts())
    for policy in swept.policies:
        knee, colour = swept.knee(policy), figure_style.STYLES[policy][0]
        marked = [line for line in figure.axes[0].get_lines() if list(line.get_xdata()) == [knee, knee]]
        assert 0.5 <= knee <= 40
        assert colour in [line.get_color() for line in marked]


def test_the_capacity() -> None:
    options = {"slo": SLO, "clock": MACHINE.clock, "requests": 100, "replications": 2}
    for found in (
        {name: capacity.highest_rate(served(200), name, memory=16_492, **options) for name in ("fcfs", "amin")},
        {"amin": capacity.smallest_memory(served(200), "amin", rate=2.0, **options)},
    ):
        assert unreadable(load_figures.capacity(found, served(200), clock=MACHINE.clock, intervals="buckets:100")) == []


@pytest.mark.parametrize(("low", "high"), [(0.001, 2), (1, 1.3), (3, 9), (20, 3e4), (1, 1e9), (99, 101), (5e5, 7e5)])
@pytest.mark.parametrize("scale", ["linear", "log"])
@pytest.mark.parametrize("wide", [2, 4, 9])
def test_ticks_of_any_range_have_room_and_are_plain_numbers(low: float, high: float, scale: str, wide: float) -> None:
    figure = figure_style.new_figure(wide, 2.4)
    axes = figure.subplots()
    axes.plot([low, high], [low, high])
    axes.set(xscale=scale, yscale=scale, xlabel="x", ylabel="y")
    figure_style.light_grid(axes)
    assert unreadable(figure) == []
    for axis in (axes.xaxis, axes.yaxis):
        labels = [tick.label1.get_text() for tick in axis._update_ticks()]
        shown = [float(label.replace(",", "")) for label in labels if label]
        assert shown
        assert all(math.isfinite(value) for value in shown)
        assert np.all(np.diff(shown) > 0)
